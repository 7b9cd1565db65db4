"""Small files of OpenStreetMap, drawn in metres of EPSG:32632 from the corner of a square."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import osmium
from osmium.osm import mutable
from pyproj import Transformer

from lczcube.catalog import Catalog
from lczcube.grid import Grid, project_bbox
from tests.scenes import catalog_of

CRS = "EPSG:32632"
X0, Y0 = 640_000.0, 5_120_000.0
"""Lower left corner of the scenes, a multiple of 320 m, off the zone's central meridian."""

SIDE_M = 1280.0
STAMP = "2020-03-01T00:00:00Z"
BBOX = project_bbox((X0 - 50, Y0 - 50, X0 + SIDE_M + 50, Y0 + SIDE_M + 50), CRS, "EPSG:4326")

_TO_LONLAT = Transformer.from_crs(CRS, "EPSG:4326", always_xy=True)


@dataclass(frozen=True)
class Drawn:
    """A node (one point), a way, or with ``holes`` a multipolygon; points in metres."""

    tags: dict[str, str]
    points: Sequence[tuple[float, float]]
    is_closed: bool = True
    holes: Sequence[Sequence[tuple[float, float]]] = ()
    ring_tags: dict[str, str] = field(default_factory=dict)


def square(
    x: float, y: float, side: float, height: float | None = None
) -> list[tuple[float, float]]:
    top = y + (side if height is None else height)
    return [(x, y), (x + side, y), (x + side, top), (x, top)]


def area(
    tags: dict[str, str], x: float, y: float, side: float, height: float | None = None
) -> Drawn:
    return Drawn(tags, square(x, y, side, height))


def line(tags: dict[str, str], *points: tuple[float, float]) -> Drawn:
    return Drawn(tags, points, is_closed=False)


def lonlat(x: float, y: float) -> tuple[float, float]:
    lon, lat = _TO_LONLAT.transform(X0 + x, Y0 + y)
    return float(lon), float(lat)


def grid(chunk_cells: int = 20) -> Grid:
    """The square's 4 x 4 cells, 128 x 128 pixels."""
    return Grid.from_bbox(
        (X0, Y0, X0 + SIDE_M, Y0 + SIDE_M), crs=CRS, bbox_crs=CRS, chunk_cells=chunk_cells
    )


def write_osm_file(
    path: Path,
    *things: Drawn,
    bbox: tuple[float, ...] | None = BBOX,
    stamp: str | None = STAMP,
    without_nodes: Sequence[int] = (),
    time: datetime | None = datetime(2019, 1, 1, tzinfo=UTC),
) -> Path:
    """A file whose nodes are numbered from 1 in the order of the things; ways from 1 too."""
    header = osmium.io.Header()
    if bbox is not None:
        header.add_box(osmium.osm.Box(*bbox))
    if stamp is not None:
        header.set("osmosis_replication_timestamp", stamp)
    path.parent.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = {"version": 1} | ({} if time is None else {"timestamp": time})
    nodes, ways, relations = _objects(things)
    with osmium.SimpleWriter(str(path), header=header, overwrite=True) as writer:
        for number, (place, tags) in enumerate(nodes, 1):
            if number not in without_nodes:
                writer.add_node(mutable.Node(id=number, location=place, tags=tags, **facts))
        for number, (refs, tags) in enumerate(ways, 1):
            writer.add_way(mutable.Way(id=number, nodes=refs, tags=tags, **facts))
        for number, (members, tags) in enumerate(relations, 1):
            writer.add_relation(mutable.Relation(id=number, members=members, tags=tags, **facts))
    return path


def osm_catalog(folder: Path, path: Path, **keys: Any) -> Catalog:
    lines = {"name": "osm", "source": "osm", "href": path.as_posix(), **keys}
    return catalog_of(folder, "\n".join(f"{key} = {_toml(value)}" for key, value in lines.items()))


def _objects(things: Sequence[Drawn]) -> tuple[list[Any], list[Any], list[Any]]:
    nodes: list[Any] = []
    ways: list[Any] = []
    relations: list[Any] = []

    def add_way(points: Sequence[tuple[float, float]], tags: dict[str, str], closed: bool) -> int:
        first = len(nodes) + 1
        nodes.extend((lonlat(*point), {}) for point in points)
        refs = list(range(first, len(nodes) + 1))
        ways.append((refs + ([first] if closed else []), tags))
        return len(ways)

    for thing in things:
        if len(thing.points) == 1:
            nodes.append((lonlat(*thing.points[0]), thing.tags))
        elif thing.holes:
            outer = add_way(thing.points, thing.ring_tags, closed=True)
            inner = [add_way(hole, {}, closed=True) for hole in thing.holes]
            members = [("w", outer, "outer"), *(("w", way, "inner") for way in inner)]
            relations.append((members, {"type": "multipolygon", **thing.tags}))
        else:
            add_way(thing.points, thing.tags, thing.is_closed)
    return nodes, ways, relations


def _toml(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
