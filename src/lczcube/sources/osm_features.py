"""Features of an OpenStreetMap file: areas, lines and points that the scheme has a name for."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lczcube.errors import SourceError
from lczcube.sources.footprints import BBox
from lczcube.sources.osm_scheme import (
    KEYS,
    NODE_KEYS,
    Element,
    Match,
    began_of,
    classify,
    height_of,
    levels_of,
)
from lczcube.sources.osm_snapshot import osm_errors, write_sorted

if TYPE_CHECKING:
    import geopandas as gpd
    import osmium
    import shapely

LARGEST_IN_MEMORY_BYTES = 512 << 20
"""Of a file whose places of nodes are held in memory (about twice its size); of larger ones they
lie in a temporary file (``TMPDIR``)."""

COLUMNS = {
    "feature": ("string", "Name of the feature"),
    "osm_type": ("string", "node, way or relation"),
    "osm_id": ("int64", "Id in OpenStreetMap, one number space a type"),
    "levels": ("float", "Storeys, where tagged"),
    "height_m": ("float", "Height in metres, where tagged"),
    "width_m": ("float", "Width of a line in metres; null for areas and points"),
    "began": ("int16", "Year before which the object says it was not there; 0 unknown"),
    "geometry": ("binary", "Area, line or point, EPSG:4326"),
}
"""Columns of the table of features: STAC type and description."""

_DTYPES = {"string": str, "int64": np.int64, "int16": np.int16, "float": np.float32}
_BATCH = 50_000
_UNSORTED = "out of order"
_RING_ROLES = ("outer", "")


@dataclass(frozen=True)
class OsmFeatures:
    """What a file holds of the scheme.

    Attributes
    ----------
    table : geopandas.GeoDataFrame
        :data:`COLUMNS`, EPSG:4326: a row for each object and feature.
    hull : shapely.Geometry or None
        Convex hull of all features of the file, also those past the boxes; None if there are none.
    n_broken_areas : int
        Multipolygons that lack members, and rings that cross themselves: left out.
    n_broken_lines : int
        Lines that lack nodes: drawn where they have some.
    """

    table: gpd.GeoDataFrame
    hull: shapely.Geometry | None
    n_broken_areas: int
    n_broken_lines: int


def read_features(path: Path, boxes: Sequence[BBox], *, roofs: bool = False) -> OsmFeatures:
    """The features of a file without history; reads it twice, or three times.

    Parameters
    ----------
    path : pathlib.Path
        PBF or XML, in any order if it is small.
    boxes : sequence of tuple
        Only what meets one of them, EPSG:4326; empty for everything.
    roofs : bool
        As in :func:`lczcube.sources.osm_scheme.classify`.

    Raises
    ------
    SourceError
        If the file cannot be read.

    Notes
    -----
    Streams, but for the rows of the table, the places of all nodes, and the ids of the ways that
    multipolygons are made of.
    """
    with tempfile.TemporaryDirectory(prefix="lczcube-osm-") as scratch:
        try:
            return _read(path, boxes, roofs, Path(scratch))
        except SourceError as error:
            if _UNSORTED not in str(error):
                raise
        in_order = Path(scratch) / "sorted.osm.pbf"
        write_sorted(path, in_order)
        return _read(in_order, boxes, roofs, Path(scratch))


def _read(path: Path, boxes: Sequence[BBox], roofs: bool, scratch: Path) -> OsmFeatures:
    import osmium

    with osm_errors(path):
        relations = _read_relations(path, roofs)
        rows = _Rows(boxes)
        reading = _Reading(rows, relations, roofs, osmium.geom.WKBFactory())
        for obj in _filtered(path, scratch):
            reading.take(obj)
        return reading.result()


def _filtered(path: Path, scratch: Path) -> osmium.FileProcessor:
    """Objects that may be features: areas with and without tags, for old multipolygons have none.

    A multipolygon comes after all its ways.
    """
    import osmium

    is_large = path.stat().st_size > LARGEST_IN_MEMORY_BYTES
    places = f"sparse_file_array,{scratch / 'places'}" if is_large else "flex_mem"
    ways, nodes = osmium.filter.KeyFilter(*KEYS), osmium.filter.KeyFilter(*NODE_KEYS)
    ways.enable_for(osmium.osm.WAY | osmium.osm.RELATION)
    nodes.enable_for(osmium.osm.NODE)
    objects = osmium.FileProcessor(path).with_locations(places).with_areas()
    return objects.with_filter(ways).with_filter(nodes)


@dataclass
class _Relations:
    """Multipolygons, before their ways are read.

    Attributes
    ----------
    rings : dict
        Ids of the ways of the outer rings, by multipolygon.
    untagged : dict
        Those without any key of the scheme, by way: before 2013 the tags were on the outer way.
    awaited : set
        Multipolygons that are features, and have not been met as areas.
    """

    rings: dict[int, tuple[int, ...]] = field(default_factory=dict)
    untagged: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    awaited: set[int] = field(default_factory=set)


def _read_relations(path: Path, roofs: bool) -> _Relations:
    import osmium

    found = _Relations()
    relations: Iterator[Any] = iter(osmium.FileProcessor(path, osmium.osm.RELATION))
    for relation in relations:
        tags = dict(relation.tags)
        if tags.get("type") not in ("multipolygon", "boundary"):
            continue
        outer = tuple(m.ref for m in relation.members if m.type == "w" and m.role in _RING_ROLES)
        matches = classify(tags, "multipolygon", roofs=roofs)
        is_bare = tags["type"] == "multipolygon" and tags.keys().isdisjoint(KEYS)
        if matches or is_bare:
            found.rings[relation.id] = outer
        if matches:
            found.awaited.add(relation.id)
        for way in outer if is_bare else ():
            found.untagged[way].append(relation.id)
    return found


class _Reading:
    """What has been made of the objects of a file so far."""

    def __init__(
        self, rows: _Rows, relations: _Relations, roofs: bool, factory: osmium.geom.WKBFactory
    ) -> None:
        self._rows = rows
        self._relations = relations
        self._roofs = roofs
        self._factory = factory
        self._ring_tags: dict[int, dict[str, str]] = {}
        self._awaited_ways: set[int] = set()
        self._covered: set[tuple[int, str]] = set()
        self._n_broken_lines = 0

    def take(self, obj: Any) -> None:
        """Add what an object is to the rows."""
        if obj.is_area():
            self._take_area(obj)
        elif obj.is_way():
            self._take_way(obj)
        elif obj.is_node():
            tags = dict(obj.tags)
            for match in self._classify(tags, "node"):
                self._rows.add(obj.id, "node", match, tags, self._factory.create_point(obj))

    def result(self) -> OsmFeatures:
        """All that was taken."""
        table, hull = self._rows.finished(self._covered)
        n_broken = len(self._relations.awaited) + len(self._awaited_ways)
        return OsmFeatures(table, hull, n_broken, self._n_broken_lines)

    def _classify(self, tags: dict[str, str], element: Element) -> list[Match]:
        return classify(tags, element, roofs=self._roofs)

    def _take_way(self, way: Any) -> None:
        tags, is_closed = dict(way.tags), way.is_closed()
        matches = self._classify(tags, "closed_way" if is_closed else "open_way")
        if way.id in self._relations.untagged:
            self._take_ring(way.id, tags)
        if any(match.shape == "area" for match in matches):
            self._awaited_ways.add(way.id)
        lines = [match for match in matches if match.shape == "line"]
        if not lines:
            return
        geometry, is_whole = _line(self._factory, way)
        self._n_broken_lines += not is_whole
        for match in lines if geometry else ():
            self._rows.add(way.id, "way", match, tags, geometry)

    def _take_ring(self, way: int, tags: dict[str, str]) -> None:
        if self._areas(tags, "closed_way"):
            self._ring_tags[way] = tags
            self._relations.awaited.update(self._relations.untagged[way])

    def _take_area(self, area: Any) -> None:
        n_outer, _ = area.num_rings()
        if n_outer == 0:  # its rings could not be put together
            return
        number, tags = area.orig_id(), dict(area.tags)
        if area.from_way():
            self._awaited_ways.discard(number)
            self._add_area(area, "way", tags, self._areas(tags, "closed_way"))
            return
        rings = self._relations.rings.get(number)
        if rings is None:
            return
        self._relations.awaited.discard(number)
        matches = self._areas(tags, "multipolygon")
        if not matches:
            tags = self._tags_of_rings(rings)
            matches = self._areas(tags, "closed_way")
        self._add_area(area, "relation", tags, matches)
        for match in matches:
            self._covered.update((way, match.feature) for way in rings)

    def _tags_of_rings(self, rings: Sequence[int]) -> dict[str, str]:
        """Tags of the outer ring of an old multipolygon; none where rings are different things."""
        known = [self._ring_tags[way] for way in rings if way in self._ring_tags]
        kinds = {tuple(m.feature for m in self._areas(tags, "closed_way")) for tags in known}
        return known[0] if len(kinds) == 1 else {}

    def _areas(self, tags: dict[str, str], element: Element) -> list[Match]:
        return [match for match in self._classify(tags, element) if match.shape == "area"]

    def _add_area(
        self, area: Any, kind: str, tags: dict[str, str], matches: Sequence[Match]
    ) -> None:
        geometry = self._factory.create_multipolygon(area) if matches else ""
        for match in matches:
            self._rows.add(area.orig_id(), kind, match, tags, geometry)


def _line(factory: osmium.geom.WKBFactory, way: Any) -> tuple[str, bool]:
    """The line of a way, or its parts where nodes are not in the file, and whether it is whole."""
    import osmium
    import shapely

    try:
        return str(factory.create_linestring(way)), True
    except (osmium.InvalidLocationError, RuntimeError):
        pass
    places = [(n.lon, n.lat) if n.location.valid() else None for n in way.nodes]
    runs = (list(run) for is_there, run in groupby(places, key=bool) if is_there)
    parts = [run for run in runs if len(set(run)) > 1]
    return shapely.to_wkb(shapely.MultiLineString(parts), hex=True) if parts else "", False


class _Rows:
    """Rows of the table, those past the boxes left out a batch at a time."""

    def __init__(self, boxes: Sequence[BBox]) -> None:
        self._boxes = boxes
        self._batch: list[tuple[Any, ...]] = []
        self._parts: list[gpd.GeoDataFrame] = []
        self._hull: shapely.Geometry | None = None

    def add(
        self, number: int, kind: str, match: Match, tags: dict[str, str], geometry: str
    ) -> None:
        """Add one row; ``geometry`` is WKB in hexadecimal digits."""
        width_m = np.nan if match.width_m is None else match.width_m
        levels, height_m = levels_of(tags), height_of(tags)
        facts = (levels, height_m, width_m, began_of(tags))
        self._batch.append((match.feature, kind, number, *facts, geometry))
        if len(self._batch) >= _BATCH:
            self._settle()

    def finished(
        self, covered: set[tuple[int, str]]
    ) -> tuple[gpd.GeoDataFrame, shapely.Geometry | None]:
        """All rows, but for ways that a multipolygon of the same feature covers, and their hull."""
        import pandas as pd

        self._settle()
        table = pd.concat(self._parts, ignore_index=True)
        pairs = zip(table["osm_id"], table["feature"], strict=True)
        is_ring = np.fromiter((pair in covered for pair in pairs), bool, len(table))
        is_area = table["width_m"].isna() & (table["osm_type"] == "way")
        return table[~(is_ring & is_area)].reset_index(drop=True), self._hull

    def _settle(self) -> None:
        import geopandas as gpd
        import pandas as pd
        import shapely

        values = pd.DataFrame(self._batch, columns=list(COLUMNS))
        geometry = shapely.from_wkb(values.pop("geometry").to_numpy(object))
        self._batch = []
        if len(geometry):
            corners = shapely.box(*shapely.bounds(geometry).T)
            known = [] if self._hull is None else [self._hull]
            self._hull = shapely.convex_hull(shapely.geometrycollections([*corners, *known]))
        dtypes = {name: _DTYPES[COLUMNS[name][0]] for name in values}
        frame = gpd.GeoDataFrame(values.astype(dtypes), geometry=geometry, crs="EPSG:4326")
        self._parts.append(frame[self._is_wanted(frame)])

    def _is_wanted(self, frame: gpd.GeoDataFrame) -> Any:
        if not self._boxes:
            return np.ones(len(frame), bool)
        bounds = frame.bounds.to_numpy()
        west, south, east, north = bounds.T
        meets = [
            (west <= box[2]) & (east >= box[0]) & (south <= box[3]) & (north >= box[1])
            for box in self._boxes
        ]
        return np.logical_or.reduce(meets)
