"""OpenStreetMap of a synthetic city: an extract at a date, or its full history.

Blocks of 160 m that lie in one zone carry what the zone is made of: buildings with storeys,
streets, woods, fields, water. Blocks across an edge are not mapped, as much of the real world is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pyproj import Transformer

from lczcube.errors import ConfigError
from lczcube.grid import project_bbox
from lczcube.synth.city import City
from lczcube.synth.zones import PIXEL_M, Window

BLOCK_PX = 16
"""Side of a block: a divisor of ``_PART_PX``."""

FIRST_DAY = datetime(2012, 1, 1, tzinfo=UTC)
LAST_DAY = datetime(2022, 1, 1, tzinfo=UTC)
"""Objects are made and changed between these days."""

REBUILT, TORN_DOWN = datetime(2017, 6, 1, tzinfo=UTC), datetime(2018, 6, 1, tzinfo=UTC)
"""When the first building becomes a tower on a larger plot, and when the second goes."""

_PART_PX = 256
_IDS_PER_BLOCK = 1024
_STREAM = 30
_SOURCE = {"source": "synthetic"}

_Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Kind:
    """Buildings of a zone: their tags, how many stand along a side of a block, and their size."""

    tags: dict[str, str]
    per_side: int
    side_m: float


_BUILT = {
    1: _Kind({"building": "yes", "building:levels": "15"}, 3, 38),
    2: _Kind({"building": "apartments", "building:levels": "6"}, 4, 28),
    3: _Kind({"building": "house", "building:levels": "2"}, 8, 14),
    4: _Kind({"building": "yes", "height": "45 m"}, 2, 42),
    5: _Kind({"building": "apartments", "building:levels": "5"}, 3, 28),
    6: _Kind({"building": "detached", "building:levels": "1"}, 5, 17),
    7: _Kind({"building": "hut"}, 10, 12),
    8: _Kind({"building": "warehouse"}, 2, 55),
    9: _Kind({"building": "farm"}, 2, 20),
    10: _Kind({"building": "industrial"}, 2, 40),
}

_COVER = {
    10: {"landuse": "industrial"},
    11: {"natural": "wood"},
    12: {"landuse": "orchard"},
    13: {"natural": "scrub"},
    14: {"landuse": "farmland"},
    15: {"natural": "bare_rock"},
    16: {"natural": "sand"},
    17: {"natural": "water"},
}


@dataclass(frozen=True)
class _State:
    """An object from a day on: its tags and points, metres from the block's corner."""

    since: datetime
    tags: dict[str, str]
    points: _Points


@dataclass(frozen=True)
class _Object:
    """A node or a way: its states, and the day it goes, if it does."""

    states: tuple[_State, ...]
    is_closed: bool = True
    gone: datetime | None = None


@dataclass(frozen=True)
class _Block:
    """What is mapped of a block, and its corner in metres.

    The last two ways of a lake are the outer and the inner ring of a multipolygon.
    """

    number: int
    corner: tuple[float, float]
    objects: tuple[_Object, ...]
    is_lake: bool


def write_osm(path: str | Path, city: City, *, seed: int, date: datetime | None = None) -> Path:
    """Write OpenStreetMap of a synthetic city.

    Parameters
    ----------
    path : str or pathlib.Path
        File to write, by whose suffix its format goes: ``.osm`` (XML), ``.osm.pbf``; ``.osh`` and
        ``.osh.pbf`` hold all versions of all objects.
    city : City
        From :func:`lczcube.synth.city.draw_city`.
    seed : int
        That of the world: the same seed gives the same bytes.
    date : datetime, optional
        Of the state; not for a history. Default: the last.

    Raises
    ------
    ConfigError
        If a date is given for a history.

    Notes
    -----
    Streams, in three passes: nodes, ways, relations. In the history the first building becomes a
    tower on a larger plot, and the second is deleted.
    """
    import osmium

    path = Path(path)
    has_history = ".osh" in path.name
    if has_history and date is not None:
        raise ConfigError(f"{path.name} is a full history, which has no date; leave date out.")
    end = date or LAST_DAY
    header = osmium.io.Header()
    header.has_multiple_object_versions = has_history
    header.set("generator", "lczcube synth (made-up data)")
    header.set("osmosis_replication_timestamp", f"{end:%Y-%m-%dT%H:%M:%SZ}")
    header.add_box(osmium.osm.Box(*project_bbox(city.grid.bbox, city.grid.crs, "EPSG:4326")))
    path.parent.mkdir(parents=True, exist_ok=True)
    with osmium.SimpleWriter(str(path), header=header, overwrite=True) as writer:
        _Writing(writer, city, seed, end, has_history).write()
    return path


class _Writing:
    """A file being written."""

    def __init__(
        self, writer: Any, city: City, seed: int, end: datetime, has_history: bool
    ) -> None:
        self._writer = writer
        self._city = city
        self._seed = seed
        self._end = end
        self._has_history = has_history
        self._to_lonlat = Transformer.from_crs(city.grid.crs, "EPSG:4326", always_xy=True)

    def write(self) -> None:
        """Write nodes, then ways, then relations."""
        for block in _blocks(self._city, self._seed):
            self._write_nodes(block)
        for block in _blocks(self._city, self._seed):
            self._write_ways(block)
        for block in _blocks(self._city, self._seed):
            self._write_relation(block)

    def _write_nodes(self, block: _Block) -> None:
        from osmium.osm import mutable

        for first, thing in _numbered(block):
            corners = [self._lonlat(block, state.points) for state in thing.states]
            for i in range(len(thing.states[0].points)):
                tags = [state.tags if len(state.points) == 1 else {} for state in thing.states]
                for version, facts in self._versions(thing):
                    if facts["visible"]:
                        facts |= {"location": corners[version][i], "tags": tags[version]}
                    self._writer.add_node(mutable.Node(id=first + i, **facts))

    def _write_ways(self, block: _Block) -> None:
        from osmium.osm import mutable

        for first, thing in _numbered(block):
            nodes = list(range(first, first + len(thing.states[0].points)))
            nodes += nodes[:1] if thing.is_closed else []
            for version, facts in self._versions(thing) if len(nodes) > 1 else ():
                if facts["visible"]:
                    facts |= {"nodes": nodes, "tags": thing.states[version].tags}
                self._writer.add_way(mutable.Way(id=first, **facts))

    def _write_relation(self, block: _Block) -> None:
        from osmium.osm import mutable

        if not block.is_lake:
            return
        (outer, lake), (inner, _) = list(_numbered(block))[-2:]
        for _, facts in self._versions(lake):
            members = [("w", outer, "outer"), ("w", inner, "inner")]
            tags = {"type": "multipolygon", **_COVER[17], **_SOURCE}
            relation = mutable.Relation(id=outer, members=members, tags=tags, **facts)
            self._writer.add_relation(relation)

    def _versions(self, thing: _Object) -> Iterator[tuple[int, dict[str, Any]]]:
        """Positions and facts of the versions to write of an object."""
        times = [state.since for state in thing.states]
        times += [] if thing.gone is None else [thing.gone]
        made = [i for i, time in enumerate(times) if time <= self._end]
        for i in made if self._has_history else made[-1:]:
            visible = i < len(thing.states)
            if visible or self._has_history:
                facts = {"version": i + 1, "timestamp": times[i], "visible": visible}
                yield i, facts | {"changeset": 1, "uid": 1, "user": "synthetic"}

    def _lonlat(self, block: _Block, points: _Points) -> list[tuple[float, float]]:
        x, y = points.T + np.array(block.corner)[:, None]
        lon, lat = self._to_lonlat.transform(x, y)
        return list(zip(lon.tolist(), lat.tolist(), strict=True))


def _numbered(block: _Block) -> Iterator[tuple[int, _Object]]:
    """Objects, each with the id of its first node, which is that of its way too."""
    number = block.number * _IDS_PER_BLOCK + 1
    for thing in block.objects:
        yield number, thing
        number += len(thing.states[0].points)


def _blocks(city: City, seed: int) -> Iterator[_Block]:
    """Blocks of one zone, in order of number; the same each time."""
    n_buildings, has_lake = 0, False
    for number, window in enumerate(_windows(city.zone_map.window)):
        lcz = city.zone_map.truth(window)
        code = int(lcz.flat[0])
        if code == 0 or (lcz != code).any():
            continue
        rng = np.random.default_rng([seed, city.number, _STREAM, number])
        is_lake = code == 17 and not has_lake
        has_lake |= is_lake
        objects = _objects(code, rng, is_lake)
        if code in _BUILT and n_buildings < 1:
            objects = _with_changes(objects)
            n_buildings += 1
        corner = (float(window.x0 * PIXEL_M), float(window.y0 * PIXEL_M))
        yield _Block(number, corner, tuple(objects), is_lake)


def _windows(window: Window) -> Iterator[Window]:
    for part in window.parts(_PART_PX):
        for block in part.parts(BLOCK_PX):
            if block.shape == (BLOCK_PX, BLOCK_PX):
                yield block


def _objects(code: int, rng: np.random.Generator, is_lake: bool) -> list[_Object]:
    side = float(BLOCK_PX * PIXEL_M)
    made = [] if is_lake or code not in _COVER else [_drawn(_COVER[code], _square(0, 0, side), rng)]
    kind = _BUILT.get(code)
    if kind is not None:
        pitch = side / kind.per_side
        offset = (pitch - kind.side_m) / 2 + 1
        plots = [(i * pitch, j * pitch) for j in range(kind.per_side) for i in range(kind.per_side)]
        buildings = [
            _drawn(kind.tags, _square(x + offset, y + offset, kind.side_m), rng) for x, y in plots
        ]
        street = _drawn({"highway": "residential"}, np.array([[0.0, 0], [side, 0]]), rng)
        made = [*buildings, *made, replace(street, is_closed=False)]
    if code == 10:
        chimney = _drawn({"man_made": "chimney"}, np.array([[side / 2 - 5, 5.0]]), rng)
        made.append(replace(chimney, is_closed=False))
    if is_lake:
        rings = (_square(0, 0, side), _square(side / 4, side / 4, side / 2))
        born = _birthday(rng)
        made += [_Object((_State(born, {}, ring),)) for ring in rings]
    return made


def _with_changes(objects: Sequence[_Object]) -> list[_Object]:
    """The first building is rebuilt as a tower, half as large again, and the second torn down."""
    first, second, *rest = objects
    (state,) = first.states
    centre = state.points.mean(axis=0)
    tower = {"building": "yes", "building:levels": "20", **_SOURCE}
    rebuilt = _State(REBUILT, tower, centre + 1.25 * (state.points - centre))
    early = replace(state, since=FIRST_DAY)
    (other,) = second.states
    goes = _Object((replace(other, since=FIRST_DAY),), gone=TORN_DOWN)
    return [_Object((early, rebuilt)), goes, *rest]


def _drawn(tags: dict[str, str], points: _Points, rng: np.random.Generator) -> _Object:
    return _Object((_State(_birthday(rng), tags | _SOURCE, points),))


def _birthday(rng: np.random.Generator) -> datetime:
    return FIRST_DAY + timedelta(days=int(rng.integers(0, (LAST_DAY - FIRST_DAY).days - 365)))


def _square(x: float, y: float, side: float) -> _Points:
    return np.array([[x, y], [x + side, y], [x + side, y + side], [x, y + side]], dtype=np.float64)
