"""An open catalog: which items of an input lie in a bbox and a time, and what a layer is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lczcube.catalog.query import Query, require_bbox, spelt_out
from lczcube.catalog.stores import Store, open_store
from lczcube.config import BBox
from lczcube.errors import CatalogError
from lczcube.sources.files import redact

if TYPE_CHECKING:
    import pystac

_HIERARCHY = ("root", "parent", "collection", "self")


@dataclass(frozen=True)
class Layer:
    """What a collection says of its values.

    Attributes
    ----------
    name, title : str
        Name of the input, and its title (the name where it has none).
    layer : str
        ``embedding``, ``canopy``, ``buildings``, ``osm``, ``labels``, ``lcz_map`` or ``raster``.
    product : str or None
        Identity of an embedding.
    decoder, valid, resampling : str
        How codes become values, which are valid, how they may be resampled.
    ai_derived, synthetic, static : bool
        Product of a model; made-up; without a date.
    license, license_note : str
        SPDX licence (``other`` if not stated), and what it asks of a map (``""`` if nothing).
    presence_threshold : float or None
        Presence that is a building, 0-1, where the input says one.
    overviews : bool
        True where overviews may be read in place of stored pixels.
    """

    name: str
    title: str
    layer: str
    product: str | None
    decoder: str
    valid: str
    ai_derived: bool
    resampling: str
    license: str
    license_note: str
    synthetic: bool
    static: bool
    presence_threshold: float | None = None
    overviews: bool = False


def open_catalog(href: str | Path) -> Catalog:
    """A catalog to ask for items; reads no item until it is asked.

    Parameters
    ----------
    href : str or pathlib.Path
        A ``catalog.json`` (path or URL), a folder of stac-geoparquet files such as
        :func:`build_catalog` writes, or the URL of a STAC API.

    Raises
    ------
    MissingInputError
        If nothing is there.
    CatalogError
        If what is there is no STAC catalog.
    """
    return Catalog(str(href), open_store(str(href)))


class Catalog:
    """Items of named inputs, whatever they are stored in; from :func:`open_catalog`.

    Examples
    --------
    >>> catalog = open_catalog("city/catalog")  # doctest: +SKIP
    >>> catalog.items("landsat", bbox=(114.1, 22.2, 114.3, 22.4), datetime="2014")  # doctest: +SKIP
    [<Item id=landsat_2014_landsat8_36band_100m>]
    """

    def __init__(self, href: str, store: Store) -> None:
        self._href = redact(href)
        self._store = store

    def __repr__(self) -> str:
        return f"Catalog({self._href!r})"

    @property
    def collection_ids(self) -> tuple[str, ...]:
        """Names of the collections, sorted."""
        return tuple(sorted(self._store.collections))

    def layer(self, name: str) -> Layer:
        """What a collection says of its values; STAC without our fields is a plain raster.

        Raises
        ------
        CatalogError
            If there is no such collection; the message names those there are.
        """
        return _layer(self._collection(name))

    def items(
        self, name: str, *, bbox: BBox | None = None, datetime: str | None = None
    ) -> list[pystac.Item]:
        """Items of a collection, sorted by id, with absolute hrefs and no links to the store.

        Parameters
        ----------
        name : str
            A collection.
        bbox : tuple of float, optional
            ``(minx, miny, maxx, maxy)``, EPSG:4326. Items whose geometry meets it; west above
            east crosses the antimeridian.
        datetime : str, optional
            As in pystac-client: ``2024``, ``2024-06-30``, ``2023-06/2024-06``, ``2020/..``. Items
            whose interval meets it, or whose ``datetime`` where they have no interval.

        Raises
        ------
        CatalogError
            If there is no such collection, or ``bbox`` or ``datetime`` cannot be read.
        """
        return self.search(collections=[name], bbox=bbox, datetime=datetime)

    def search(
        self,
        *,
        collections: Iterable[str] | None = None,
        bbox: BBox | None = None,
        datetime: str | None = None,
        ids: Iterable[str] | None = None,
        limit: int | None = None,
    ) -> list[pystac.Item]:
        """Items of any collections, sorted by collection and id; else as :meth:`items`.

        Parameters
        ----------
        collections : iterable of str, optional
            Default: all.
        bbox, datetime : optional
            As in :meth:`items`.
        ids : iterable of str, optional
            Ids of items; those that are not there are not missed.
        limit : int, optional
            At most so many items: the first ones, but of a STAC API those that it gives first.

        Raises
        ------
        CatalogError
            If there is no such collection, or ``bbox``, ``datetime`` or ``limit`` cannot be used.

        Notes
        -----
        Of stac-geoparquet only rows whose bbox and time may match become items; a ``catalog.json``
        has every item file read.
        """
        names = self.collection_ids if collections is None else sorted(set(collections))
        for name in names:
            self._collection(name)
        if limit is not None and limit < 1:
            raise CatalogError(f"limit = {limit}; at least one item, or no limit at all.")
        query = Query(
            collections=tuple(names),
            bbox=None if bbox is None else require_bbox(bbox),
            when=None if datetime is None else spelt_out(datetime),
            ids=None if ids is None else frozenset(ids),
            limit=limit,
        )
        if not names or query.ids == frozenset():
            return []
        return [_unlinked(item) for item in islice(self._store.items(query), limit)]

    def _collection(self, name: str) -> pystac.Collection:
        collections = self._store.collections
        if name not in collections:
            raise CatalogError(
                f"catalog {self._href} has no collection {name!r}; "
                f"it has {', '.join(self.collection_ids) or 'none'}."
            )
        return collections[name]


def _layer(collection: pystac.Collection) -> Layer:
    fields = collection.extra_fields

    def of(name: str, default: Any) -> Any:
        return fields.get(f"lczcube:{name}", default)

    return Layer(
        name=collection.id,
        title=collection.title or collection.id,
        layer=of("layer", "raster"),
        product=of("product", None),
        decoder=of("decoder", "linear"),
        valid=of("valid", "nodata"),
        ai_derived=of("ai_derived", False),
        resampling=of("resampling", "nearest"),
        license=collection.license,
        license_note=of("license_note", ""),
        synthetic=of("synthetic", False),
        static=of("static", False),
        presence_threshold=of("presence_threshold", None),
        overviews=of("overviews", False),
    )


def _unlinked(item: pystac.Item) -> pystac.Item:
    item.links = [link for link in item.links if link.rel not in _HIERARCHY]
    return item
