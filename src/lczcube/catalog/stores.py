"""Stores of STAC items on disk: a static catalog, a folder of stac-geoparquet."""

from __future__ import annotations

import heapq
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lczcube.catalog.api import open_api
from lczcube.catalog.documents import CATALOG_FILE
from lczcube.catalog.geoparquet import read_collections, read_items
from lczcube.catalog.query import Query
from lczcube.catalog.reading import item_of
from lczcube.errors import CatalogError, MissingInputError
from lczcube.sources.files import first_line, redact

if TYPE_CHECKING:
    import pystac


class Store(Protocol):
    """Where items are kept."""

    @property
    def collections(self) -> dict[str, pystac.Collection]:
        """Collections by id."""
        ...

    def items(self, query: Query) -> Iterable[pystac.Item]:
        """Items that answer a query, sorted by collection and id, hrefs absolute."""
        ...


def open_store(href: str) -> Store:
    """The store of a path or URL; see :func:`lczcube.catalog.open_catalog`.

    Raises
    ------
    MissingInputError, CatalogError
        If nothing is there, or what is there is no STAC catalog.
    """
    if "://" in href:
        return _static(href) if href.endswith(".json") else open_api(href)
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


class _StaticStore:
    """A catalog.json and what it links to."""

    def __init__(self, root: pystac.Catalog) -> None:
        self._root = root

    @cached_property
    def collections(self) -> dict[str, pystac.Collection]:
        return {child.id: child for child in self._root.get_all_collections()}

    def items(self, query: Query) -> Iterator[pystac.Item]:
        for name in query.collections:
            found = _items_below(self.collections[name], query)
            yield from sorted(found, key=lambda item: item.id)


def _items_below(catalog: pystac.Catalog, query: Query) -> Iterator[pystac.Item]:
    """Items of a catalog and of those below it that answer a query.

    Every item is read, as pystac would, but only those that may match become its objects.
    """
    import pystac

    for link in catalog.get_item_links():
        href = link.get_absolute_href() or ""
        try:
            values = json.loads(pystac.StacIO.default().read_text(href))
            if not query.may_match(values):
                continue
            item = item_of(values, href)
        except (pystac.STACError, pystac.STACTypeError, ValueError, KeyError, OSError) as error:
            raise CatalogError(
                f"{redact(href)} is no STAC item ({first_line(error)}); build the catalog again, "
                "or fetch it again."
            ) from error
        if query.matches(item):
            yield item
    yield from chain.from_iterable(_items_below(child, query) for child in catalog.get_children())


class _ParquetStore:
    """A folder of stac-geoparquet files, of one or more collections each."""

    def __init__(self, tables: Sequence[Path]) -> None:
        self._tables = tables

    @cached_property
    def collections(self) -> dict[str, pystac.Collection]:
        return {collection.id: collection for _, collection in self._described}

    def items(self, query: Query) -> Iterator[pystac.Item]:
        for name in query.collections:
            found = [
                read_items(path, name, query)
                for path, collection in self._described
                if collection.id == name
            ]
            yield from heapq.merge(*found, key=lambda item: item.id)

    @cached_property
    def _described(self) -> list[tuple[Path, pystac.Collection]]:
        return [(path, made) for path in self._tables for made in read_collections(path)]
