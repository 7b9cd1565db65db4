"""Files of OpenStreetMap: what their header says, and the state of a full history at a date."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from lczcube.errors import SourceError
from lczcube.sources.files import first_line
from lczcube.sources.footprints import BBox

EVE = timedelta(days=2)
"""A dated extract is cut in the night before the date in its name; its header may lag so much."""

LAST = datetime(9999, 1, 1, tzinfo=UTC)
"""In place of a date: after everything."""

LARGEST_UNSORTED_BYTES = 256 << 20
"""Of a file that is sorted in memory: XML of Overpass is not sorted by id."""

_MOST_STATES = 8
_DAY = re.compile(r"(?<!\d)(20\d{2})-?(\d{2})-?(\d{2})(?!\d)")
_SHORT_DAY = re.compile(r"(?<!\d)(\d{2})(\d{2})(\d{2})(?=\.(?:osm|osh|pbf))")
_NO_TIME = datetime(1970, 1, 1, tzinfo=UTC)
_ORDER = {"n": 0, "w": 1, "r": 2}


@dataclass(frozen=True)
class OsmHeader:
    """What a file says of itself.

    Attributes
    ----------
    bbox : tuple of float or None
        Its box, EPSG:4326; None where it tells none.
    stamp : datetime or None
        When its data were current; None where it does not tell.
    has_history : bool
        True when it says that it holds all versions of its objects.
    """

    bbox: BBox | None
    stamp: datetime | None
    has_history: bool


@contextmanager
def osm_errors(path: Path) -> Iterator[None]:
    """Errors of osmium as ours: what is broken, in one line.

    Raises
    ------
    SourceError
        If osmium cannot read the file. Its XML parser takes no entities, so that none can be
        expanded or fetched.
    """
    try:
        yield
    except SourceError:
        raise
    except (RuntimeError, OSError, ValueError) as error:
        raise SourceError(
            f"{path} cannot be read as OpenStreetMap data ({first_line(error)}); check the file "
            "with osmium fileinfo, or fetch it again."
        ) from error


def read_header(path: Path) -> OsmHeader:
    """The header of a file.

    Raises
    ------
    SourceError
        If the file cannot be read.
    """
    import osmium

    with osm_errors(path), osmium.io.Reader(str(path)) as reader:
        header = reader.header()
        box = header.box()
        bbox = None
        if box.valid() and box.size() > 0:
            low, high = box.bottom_left, box.top_right
            bbox = (low.lon, low.lat, high.lon, high.lat)
        stamps = (header.get(f"{key}timestamp") for key in ("osmosis_replication_", ""))
        stamp = next((time for text in stamps if (time := _as_time(text)) is not None), None)
        return OsmHeader(bbox, stamp, header.has_multiple_object_versions)


def is_named_history(path: Path) -> bool:
    """True for ``.osh``, ``.osh.pbf`` and the like: XML has no other way to say it."""
    return ".osh" in path.name.lower()


def dated(path: Path, header: OsmHeader) -> datetime | None:
    """When a file without history was current: by its header, its name or its newest object.

    Reads the whole file where neither of the first two says. The date in a name (``-200101.osm``,
    ``2020-01-01``) wins over a header up to two days older, and where there is no header's. None
    where nothing tells.

    Raises
    ------
    SourceError
        If the file cannot be read.
    """
    named = date_in_name(path.name)
    if header.stamp is None:
        return named or newest_object(path)
    if named is not None and timedelta() < named - header.stamp <= EVE:
        return named
    return header.stamp


def date_in_name(name: str) -> datetime | None:
    """The date in a file name; None where it holds none.

    Examples
    --------
    >>> str(date_in_name("berlin-200101.osm.pbf")), date_in_name("berlin-latest.osm.pbf")
    ('2020-01-01 00:00:00+00:00', None)
    """
    long, short = _DAY.search(name), _SHORT_DAY.search(name)
    match = long or short
    if match is None:
        return None
    year, month, day = (int(number) for number in match.groups())
    try:
        return datetime(year if long else 2000 + year, month, day, tzinfo=UTC)
    except ValueError:
        return None


def newest_object(path: Path) -> datetime | None:
    """The time of the youngest object of a file; None where objects carry no times. Reads it.

    Raises
    ------
    SourceError
        If the file cannot be read.
    """
    with osm_errors(path):
        newest = max((obj.timestamp for obj in _versions(path)), default=_NO_TIME)
    return None if newest <= _NO_TIME else newest


def write_snapshots(history: Path, states: Sequence[tuple[datetime, Path]]) -> datetime:
    """Write the state of a full history at some dates, a file each; reads the history twice.

    Parameters
    ----------
    history : pathlib.Path
        All versions of all objects, sorted by type, id and version.
    states : sequence of tuple
        A date, and the file to write, by whose suffix its format goes: of each object the last
        version that is not younger, unless that is a deletion. Places of nodes are those of that
        date too. :data:`LAST` gives the last state.

    Returns
    -------
    datetime
        The time of the youngest version.

    Raises
    ------
    SourceError
        If the history cannot be read, is not sorted, or its objects carry no times.

    Notes
    -----
    Memory: a byte for each version. Of more than eight dates eight are made at a time.
    """
    newest = _NO_TIME
    for start in range(0, len(states), _MOST_STATES):
        some = states[start : start + _MOST_STATES]
        with osm_errors(history):
            chosen, newest = _choose_versions(history, [date for date, _ in some])
            _write_chosen(history, [path for _, path in some], chosen)
    return newest


def write_sorted(path: Path, out: Path) -> None:
    """Write a file with its objects sorted by type and id, as areas are put together from.

    Raises
    ------
    SourceError
        If it cannot be read, or is too large to be sorted in memory.
    """
    import osmium

    if path.stat().st_size > LARGEST_UNSORTED_BYTES:
        raise SourceError(
            f"{path} is not sorted by type and id, and with {path.stat().st_size >> 20} MiB too "
            f"large to be sorted here; run osmium sort {path.name} -o SORTED.osm.pbf."
        )
    with osm_errors(path), osmium.SimpleWriter(out, overwrite=True) as writer:
        merged = osmium.MergeInputReader()
        merged.add_file(str(path))
        merged.apply(writer)


def _choose_versions(history: Path, dates: Sequence[datetime]) -> tuple[bytearray, datetime]:
    """For each version, in the order of the file, a bit for each date whose state it belongs to.

    And the time of the youngest.
    """
    chosen = bytearray()
    current: list[int | None] = [None] * len(dates)
    last, last_version = (0, False, 0), 0
    newest = _NO_TIME
    for position, obj in enumerate(_versions(history)):
        # Negative ids, of objects that were never uploaded, come first, by size.
        here, version = (_ORDER[obj.type_str()], obj.id > 0, abs(obj.id)), obj.version
        if here != last:
            _mark(chosen, current)
            current = [None] * len(dates)
        if here < last or (here == last and version < last_version):
            raise _unsorted(history, obj.id)
        last, last_version = here, version
        chosen.append(0)
        time, is_there = obj.timestamp, obj.visible
        newest = max(newest, time)
        for i, date in enumerate(dates):
            if time <= date:
                current[i] = position if is_there else None
    _mark(chosen, current)
    if newest <= _NO_TIME:
        raise SourceError(
            f"{history} holds a history without times, so it has no state at a date; fetch it with "
            "its metadata (version and timestamp of every object)."
        )
    return chosen, newest


def _mark(chosen: bytearray, current: Sequence[int | None]) -> None:
    for i, position in enumerate(current):
        if position is not None:
            chosen[position] |= 1 << i


def _unsorted(history: Path, number: int) -> SourceError:
    return SourceError(
        f"{history} is not sorted by type, id and version (object {number} comes too late); run "
        f"osmium sort {history.name} -o SORTED.osh.pbf."
    )


def _write_chosen(history: Path, outs: Sequence[Path], chosen: bytearray) -> None:
    import osmium

    with ExitStack() as stack:
        writers = [stack.enter_context(osmium.SimpleWriter(out, overwrite=True)) for out in outs]
        for states, obj in zip(chosen, _versions(history), strict=True):
            for i, writer in enumerate(writers if states else ()):
                if states >> i & 1:
                    writer.add(obj)


def _versions(path: Path) -> Iterator[Any]:
    """Nodes, ways and relations; each is gone when the next one comes."""
    import osmium

    kinds = osmium.osm.NODE | osmium.osm.WAY | osmium.osm.RELATION
    return iter(osmium.FileProcessor(path, kinds))


def _as_time(text: str) -> datetime | None:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
