"""A STAC API as a store of items: it filters, we check and sort."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from lczcube.catalog.query import Query
from lczcube.errors import CatalogError
from lczcube.sources.files import first_line, redact

if TYPE_CHECKING:
    import pystac
    import pystac_client

N_RETRIES = 5
BACKOFF_S = 0.5
"""Waits between retries are 0, 1, 2, 4, 8 s, unless the server says ``Retry-After``."""

TRY_AGAIN = (429, 502, 503, 504)
"""Answers of a server that is busy, or behind one that is."""

_QUERY = re.compile(r"\?[^\s'\"()]+")

_T = TypeVar("_T")


def open_api(url: str) -> ApiStore:
    """The store of the URL of a STAC API.

    Raises
    ------
    CatalogError
        If it does not answer as one.
    """
    import pystac_client
    from pystac_client.exceptions import APIError
    from pystac_client.stac_api_io import StacApiIO
    from requests import RequestException
    from urllib3.util import Retry

    retries = Retry(
        total=N_RETRIES,
        backoff_factor=BACKOFF_S,
        status_forcelist=TRY_AGAIN,
        allowed_methods=None,  # a search changes nothing, by POST neither
    )
    try:
        client = pystac_client.Client.open(url, stac_io=StacApiIO(max_retries=retries))
        return ApiStore(client)
    except (APIError, RequestException, ValueError, KeyError) as error:
        raise CatalogError(
            f"{redact(url)} answers as no STAC API ({_told(error)}); check the URL."
        ) from error


class ApiStore:
    """Items of a STAC API; from :func:`open_api`."""

    def __init__(self, client: pystac_client.Client) -> None:
        self._client = client

    @cached_property
    def collections(self) -> dict[str, pystac.Collection]:
        """Collections by id."""
        return _asked(lambda: {c.id: c for c in self._client.get_collections()})

    def items(self, query: Query) -> list[pystac.Item]:
        """Items that answer a query, sorted; with a limit, the first the API gives."""
        found = _asked(lambda: list(self._found(query)))
        return sorted(found, key=lambda item: (item.collection_id or "", item.id))

    def _found(self, query: Query) -> Iterator[pystac.Item]:
        seen: set[tuple[str | None, str]] = set()
        for box in query.boxes or (None,):
            asked = self._client.search(
                method=self._method,
                collections=list(query.collections),
                bbox=box,
                datetime=query.when,
                ids=None if query.ids is None else sorted(query.ids),
            )
            for item in asked.items():
                key = (item.collection_id, item.id)
                # A server may filter by bboxes, where we go by geometries.
                if key not in seen and query.matches(item):
                    seen.add(key)
                    yield item
                if len(seen) == query.limit:
                    return

    @property
    def _method(self) -> str:
        """POST, unless the API only offers GET; pystac-client does not look, and warns."""
        links = self._client.get_links("search")
        offered = {link.extra_fields.get("method", "GET") for link in links}
        return "GET" if offered == {"GET"} else "POST"


def _asked(question: Callable[[], _T]) -> _T:
    from pystac_client.exceptions import APIError
    from requests import RequestException

    try:
        return question()
    except (APIError, NotImplementedError, RequestException) as error:
        raise CatalogError(
            f"the STAC API failed ({_told(error)}); try again, or bring the data home."
        ) from error


def _told(error: Exception) -> str:
    """What an error says, without users, passwords and queries, of paths neither."""
    return _QUERY.sub("?***", first_line(error))
