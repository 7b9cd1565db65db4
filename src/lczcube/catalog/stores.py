"""Stores of STAC items: a static catalog, a folder of stac-geoparquet, a STAC API."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from lczcube.catalog.geoparquet import read_collections, read_items
from lczcube.config import BBox
from lczcube.errors import CatalogError, MissingInputError
from lczcube.sources.files import first_line, redact

if TYPE_CHECKING:
    import pystac
    import pystac_client

CATALOG_FILE = "catalog.json"

_T = TypeVar("_T")


class Store(Protocol):
    """Where items are kept; ``when`` is an instant or interval spelt out."""

    @property
    def collections(self) -> dict[str, pystac.Collection]:
        """Collections by id."""
        ...

    def items(self, name: str, bbox: BBox | None, when: str | None) -> Iterable[pystac.Item]:
        """Items of a collection that meet a bbox (EPSG:4326) and a time, in any order."""
        ...


def open_store(href: str) -> Store:
    """The store of a path or URL; see :func:`lczcube.catalog.open_catalog`.

    Raises
    ------
    MissingInputError, CatalogError
        If nothing is there, or what is there is no STAC catalog.
    """
    if "://" in href:
        return _static(href) if href.endswith(".json") else _api(href)
    path = Path(os.path.abspath(href))
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise MissingInputError(
            f"catalog {href} is not there; write one with lczcube build-catalog CATALOG.toml OUT."
        )
    return _static(str(path))


def _static(href: str) -> Store:
    import pystac

    try:
        root = pystac.Catalog.from_file(href)
    except (pystac.STACError, pystac.STACTypeError, ValueError, KeyError, OSError) as error:
        raise CatalogError(
            f"{redact(href)} is no STAC catalog ({first_line(error)}); "
            "name a catalog.json, a folder of stac-geoparquet, or the URL of a STAC API."
        ) from error
    return _StaticStore(root)


def _folder(path: Path) -> Store:
    tables = sorted(path.glob("*.parquet"))
    if tables:
        return _ParquetStore(tables)
    if (path / CATALOG_FILE).is_file():
        return _static(str(path / CATALOG_FILE))
    raise CatalogError(
        f"{path} holds neither stac-geoparquet nor {CATALOG_FILE}; "
        "write a catalog with lczcube build-catalog CATALOG.toml OUT."
    )


def _api(url: str) -> Store:
    import pystac_client
    from pystac_client.exceptions import APIError
    from requests import RequestException

    try:
        return _ApiStore(pystac_client.Client.open(url))
    except (APIError, RequestException, ValueError, KeyError) as error:
        raise CatalogError(
            f"{redact(url)} answers as no STAC API ({first_line(error)}); check the URL."
        ) from error


class _StaticStore:
    """A catalog.json and what it links to."""

    def __init__(self, root: pystac.Catalog) -> None:
        self._root = root

    @cached_property
    def collections(self) -> dict[str, pystac.Collection]:
        return {child.id: child for child in self._root.get_all_collections()}

    def items(self, name: str, bbox: BBox | None, when: str | None) -> Iterable[pystac.Item]:
        for item in self.collections[name].get_items(recursive=True):
            if _matches(item, bbox, when):
                copy = item.clone()
                copy.make_asset_hrefs_absolute()
                yield copy


class _ParquetStore:
    """A folder of stac-geoparquet files, of one or more collections each."""

    def __init__(self, tables: Sequence[Path]) -> None:
        self._tables = tables

    @cached_property
    def collections(self) -> dict[str, pystac.Collection]:
        return {collection.id: collection for _, collection in self._described}

    def items(self, name: str, bbox: BBox | None, when: str | None) -> Iterable[pystac.Item]:
        for path, collection in self._described:
            if collection.id == name:
                yield from (item for item in read_items(path, name) if _matches(item, bbox, when))

    @cached_property
    def _described(self) -> list[tuple[Path, pystac.Collection]]:
        return [(path, made) for path in self._tables for made in read_collections(path)]


class _ApiStore:
    """A STAC API: it filters, we sort."""

    def __init__(self, client: pystac_client.Client) -> None:
        self._client = client

    @cached_property
    def collections(self) -> dict[str, pystac.Collection]:
        return _asked(lambda: {c.id: c for c in self._client.get_collections()})

    def items(self, name: str, bbox: BBox | None, when: str | None) -> Iterable[pystac.Item]:
        def search() -> list[pystac.Item]:
            asked = self._client.search(
                method=self._method, collections=[name], bbox=bbox, datetime=when
            )
            return list(asked.items())

        return _asked(search)

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
            f"the STAC API failed ({first_line(error)}); try again, or bring the data home."
        ) from error


def _matches(item: pystac.Item, bbox: BBox | None, when: str | None) -> bool:
    return _meets_bbox(item, bbox) and _meets_time(item, when)


def _meets_bbox(item: pystac.Item, bbox: BBox | None) -> bool:
    import shapely
    from shapely.geometry import shape

    if bbox is None:
        return True
    if item.geometry is None:
        return False
    west, south, east, north = bbox
    spans = [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]
    geometry = shape(item.geometry)
    return any(geometry.intersects(shapely.box(w, south, e, north)) for w, e in spans)


def _meets_time(item: pystac.Item, when: str | None) -> bool:
    if when is None:
        return True
    start, _, end = when.partition("/")
    first, last = _interval(item)
    asked_first = None if start in ("", "..") else start
    asked_last = None if end == ".." else (end or asked_first)
    return (asked_last is None or first <= _instant(asked_last)) and (
        asked_first is None or last >= _instant(asked_first)
    )


def _interval(item: pystac.Item) -> tuple[Any, Any]:
    """Start and end of an item; as in pgstac, an interval counts before ``datetime``."""
    common = item.common_metadata
    if common.start_datetime is not None and common.end_datetime is not None:
        return common.start_datetime, common.end_datetime
    return item.datetime, item.datetime


def _instant(text: str) -> Any:
    from pystac.utils import str_to_datetime

    return str_to_datetime(text)
