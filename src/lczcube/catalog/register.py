"""Registering the files of an input: those that changed are opened, the others remembered."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, is_dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from lczcube import __version__
from lczcube.catalog.hrefs import Hrefs
from lczcube.catalog.record import Record, Row
from lczcube.catalog.stamps import Stamp, Stamps, newest_ns, stamps_below
from lczcube.config import CityFile
from lczcube.errors import LczcubeError, SourceError
from lczcube.sources import Input, SourceItem, build_items, find_files
from lczcube.sources.files import SourceFile, file_facts, is_remote, redact
from lczcube.sources.items import PARQUET_TYPE

FORMAT = 1
"""Of records and of what is published: raised when either changes within a version."""

DEFAULT_WORKERS = 4
"""Threads that open files: they hide the latency of disks and networks, and do no harm without."""

_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

FileProgress = Callable[[str, int, int], None]
"""Called with an input's name, its files done, and all its files."""


@dataclass(frozen=True)
class Failure:
    """A file that could not be registered: ``path`` (or URL), and ``reason`` in one line."""

    path: str
    reason: str

    def __str__(self) -> str:
        """The reason, with the path before it where it does not name it."""
        return self.reason if self.path in self.reason else f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class Registration:
    """What became of the files of an input.

    Attributes
    ----------
    entry : Input
        The input.
    rows : tuple of Row
        Files that were registered, in order, without those of an input that cannot be used.
    failures : tuple of Failure
        Files that were left out.
    n_read : int
        Files that were opened; the others stand as the last build found them.
    record : Record
        The last build's, which holds the items of files that were not opened.
    """

    entry: Input
    rows: tuple[Row, ...]
    failures: tuple[Failure, ...]
    n_read: int
    record: Record

    @property
    def n_items(self) -> int:
        """Items of the files that were registered."""
        return sum(len(row.ids) for row in self.rows)

    @property
    def is_intact(self) -> bool:
        """True where all items stand as the last build published them: no row has its text."""
        return all(row.text is None for row in self.rows)

    def filled(self) -> Registration:
        """The same with the text of all rows, that of remembered ones from the record.

        Raises
        ------
        UnreadableRecordError
            If the record is damaged.
        """
        rows = [
            row
            if row.text is not None
            else replace(row, text=self.record.text(row.key), is_remembered=True)
            for row in self.rows
        ]
        return replace(self, rows=tuple(rows))


@dataclass(frozen=True)
class Room:
    """Where a build reads and writes.

    Attributes
    ----------
    staging, target : pathlib.Path
        Folders of the catalog: while it is built, and when it is done.
    workers : int
        Threads.
    strict : bool
        Raise the first fault.
    progress : callable
        See :data:`FileProgress`.
    """

    staging: Path
    target: Path
    workers: int = DEFAULT_WORKERS
    strict: bool = False
    progress: FileProgress = lambda *_: None
    hrefs: Hrefs = field(init=False)
    stamps: Stamps = field(init=False, default_factory=Stamps)
    outputs: Stamps = field(init=False, default_factory=Stamps)
    started_ns: int = field(init=False, default_factory=time.time_ns)

    def __post_init__(self) -> None:
        object.__setattr__(self, "hrefs", Hrefs(self.target))

    def published(self, names: Iterable[str]) -> dict[str, Stamp]:
        """Stamps that published files had before this build; without those that were not there."""
        return stamps_below(self.target, names, self.outputs)


def register_input(entry: Input, settings: CityFile, record: Record, room: Room) -> Registration:
    """Register the files of an input, in order, whatever the number of workers.

    Raises
    ------
    LczcubeError
        With ``room.strict``: the first fault.
    ConfigError
        If an href cannot be used as it is written.
    """
    cities = {name: city.bbox for name, city in settings.cities.items()}
    files = find_files(entry, folder=settings.source_path.parent, cities=cities)
    outcomes = list(_outcomes(entry, files, record, room))
    made = _without_repeated(outcomes, room)
    rows = tuple(row for row in made if isinstance(row, Row))
    failures = tuple(row for row in made if isinstance(row, Failure))
    n_read = sum(row.text is not None for row in rows) + len(failures)
    fault = _fault_of_input(entry, rows, is_silent=not any(r.ids for r in rows) and not failures)
    if fault is None:
        return Registration(entry, rows, failures, n_read, record)
    if room.strict:
        raise fault
    whole = Failure(redact(_place_of(entry)), redact(str(fault)))
    return Registration(entry, (), (*failures, whole), n_read, record)


def is_intact(registration: Registration, root: str, room: Room) -> bool:
    """True where all that a collection consists of is published as it should be.

    ``root`` is the title of the catalog.
    """
    record = registration.record
    keys = {row.key for row in registration.rows if row.text is None}
    if not record.rows or keys != record.rows.keys() or len(keys) != len(registration.rows):
        return False
    return record.root == root and room.published(record.outputs) == record.outputs


def intact_items(registration: Registration, room: Room) -> set[str]:
    """Ids of remembered items whose JSON is published as it should be."""
    record = registration.record
    names = {
        f"{registration.entry.name}/items/{item_id}.json": item_id
        for row in registration.rows
        if row.is_remembered
        for item_id in row.ids
    }
    found = room.published(names)
    return {names[name] for name, stamp in found.items() if stamp == record.outputs.get(name)}


def staged_table(key: str, name: str, room: Room) -> Path:
    """Where a table of the row of a key waits while the catalog is built."""
    return room.staging / f"{key}_{Path(name).name}"


def _outcomes(
    entry: Input, files: Sequence[SourceFile], record: Record, room: Room
) -> Iterator[Row | Failure]:
    settings = _digest([FORMAT, __version__, entry.model_dump(mode="json")])

    def work(file: SourceFile) -> Row | Failure:
        key = _digest([settings, file])
        remembered = None if file.fault is not None else record.rows.get(key)
        if remembered is not None and _stands(remembered, record, room):
            return remembered
        return _read(entry, file, key, room)

    done = count(1)
    for outcome in _mapped(work, files, room.workers):
        room.progress(entry.name, next(done), len(files))
        yield outcome


def _mapped(
    work: Callable[[SourceFile], Row | Failure], files: Sequence[SourceFile], workers: int
) -> Iterator[Row | Failure]:
    if workers < 2 or len(files) < 2:
        yield from map(work, files)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="register") as pool:
        yield from pool.map(work, files)


def _stands(row: Row, record: Record, room: Room) -> bool:
    tables = {name: record.outputs.get(name) for name in row.tables}
    return room.stamps.of(row.paths) == row.stamps and room.published(tables) == tables


def _read(entry: Input, file: SourceFile, key: str, room: Room) -> Row | Failure:
    paths = _paths(file)
    stamps = room.stamps.of(paths)
    try:
        sources = build_items(entry, file)
        text = _as_text([_as_dict(entry, file, source, key, room) for source in sources], file)
    except LczcubeError as error:
        if room.strict:
            raise
        return Failure(redact(file.href), redact(str(error)))
    more = _paths(file, sources)
    stamps |= room.stamps.of(path for path in more if path not in paths)
    return Row(
        key=key,
        href=redact(file.href),
        paths=more,
        stamps=stamps,
        ids=tuple(source.item.id for source in sources),
        codings=tuple(dict(source.coding) for source in sources),
        tables=tuple(_table_name(entry, s) for s in sources if s.table is not None),
        is_hashed=set(more) <= _hashed(sources),
        text=text,
        is_kept=bool(paths) and newest_ns(stamps.values()) < room.started_ns,
    )


def _paths(file: SourceFile, sources: Sequence[SourceItem] = ()) -> tuple[str, ...]:
    """Local files that items were made of, the file itself first."""
    hrefs = {file.href: None}
    for source in sources:
        hrefs |= dict.fromkeys(asset.href for asset in source.item.assets.values())
        hrefs |= dict.fromkeys(source.made_of)
    return tuple(href for href in hrefs if not is_remote(href))


def _hashed(sources: Sequence[SourceItem]) -> set[str]:
    """Hrefs whose checksum the items hold."""
    assets = [asset for source in sources for asset in source.item.assets.values()]
    return {asset.href for asset in assets if "file:checksum" in asset.extra_fields}


def _as_dict(
    entry: Input, file: SourceFile, source: SourceItem, key: str, room: Room
) -> dict[str, Any]:
    """An item without links in the catalog, hrefs relative to it; its table is written."""
    item = source.item
    if _SAFE_ID.fullmatch(item.id) is None:
        raise SourceError(
            f"{file.href} gives an item the id {item.id!r}, which cannot be a file name; ids hold "
            "A-Z a-z 0-9 _ . - and begin with a letter or digit. Rename the file."
        )
    values: dict[str, Any] = item.to_dict(include_self_link=False, transform_hrefs=False)
    for asset in values["assets"].values():
        asset["href"] = room.hrefs.relative(asset["href"])
    if source.table is not None:
        name = _table_name(entry, source)
        values["assets"][source.table.asset] = {
            "href": f"./{name}",
            "type": PARQUET_TYPE,
            **source.table.fields,
            **_write_table(source, staged_table(key, name, room)),
            "roles": ["data", source.table.asset],
        }
    return values | {"collection": entry.name}


def _write_table(source: SourceItem, path: Path) -> dict[str, int | str]:
    table = source.table
    if table is None:
        return {}
    table.frame.to_parquet(path, index=False, compression="zstd", **table.parquet)
    return file_facts(str(path))


def _table_name(entry: Input, source: SourceItem) -> str:
    return f"{entry.name}/{source.item.id}.parquet"


def _as_text(items: Sequence[Mapping[str, Any]], file: SourceFile) -> str:
    try:
        return json.dumps(items, allow_nan=False, separators=(",", ":"))
    except ValueError as error:
        raise SourceError(
            f"{file.href} has a number that is not finite where its metadata want one ({error}); "
            "correct its header."
        ) from error


def _without_repeated(outcomes: Iterable[Row | Failure], room: Room) -> list[Row | Failure]:
    """Outcomes, a row whose item has the id of an earlier one's as a failure."""
    taken: dict[str, str] = {}
    kept: list[Row | Failure] = []
    for outcome in outcomes:
        fault = _fault_of_ids(outcome, taken) if isinstance(outcome, Row) else None
        if fault is not None and room.strict:
            raise SourceError(fault.reason)
        kept.append(outcome if fault is None else fault)
    return kept


def _fault_of_ids(row: Row, taken: dict[str, str]) -> Failure | None:
    """A failure where an id is taken; else its ids are, case aside, by its file."""
    for item_id in row.ids:
        if item_id.lower() in taken:
            return Failure(
                row.href,
                f"{row.href} gives an item the id {item_id!r}, as {taken[item_id.lower()]} does; "
                "an id names one item. Rename one of the files, or give each an input of its own.",
            )
    taken |= dict.fromkeys((item_id.lower() for item_id in row.ids), row.href)
    return None


def _fault_of_input(entry: Input, rows: Sequence[Row], *, is_silent: bool) -> SourceError | None:
    """Why an input as a whole cannot be used: it is empty, or its files are no one layer."""
    if is_silent:
        years = ", ".join(map(str, entry.all_years)) or "any year"
        return SourceError(
            f"input {entry.name!r} has no tile of {years} near a city in {_place_of(entry)}; check "
            "bbox and year, or fetch the tiles."
        )
    by_coding = {
        tuple(sorted(coding.items())): item_id
        for row in rows
        for item_id, coding in zip(row.ids, row.codings, strict=True)
    }
    if len(by_coding) < 2:
        return None
    listed = "; ".join(
        f"{item_id} is {', '.join(value for _, value in coding)}"
        for coding, item_id in sorted(by_coding.items())
    )
    return SourceError(
        f"input {entry.name!r} mixes layers that share no feature space ({listed}); give each an "
        "input of its own."
    )


def _place_of(entry: Input) -> str:
    return ", ".join(entry.places)


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    """A value that JSON has no word for, the same in every process."""
    if is_dataclass(value) and not isinstance(value, type):
        return [type(value).__name__, vars(value)]
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    return str(value)
