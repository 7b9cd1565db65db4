"""Building a catalog: from a TOML file to STAC, stac-geoparquet and label tables on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lczcube.catalog.documents import (
    CATALOG_FILE,
    as_text,
    catalog_document,
    collection_document,
    linked_collection,
    linked_item,
    title_of,
)
from lczcube.catalog.folder import (
    Outputs,
    collections_in,
    publish,
    require_no_way_out,
    require_ours,
    staging_folder,
)
from lczcube.catalog.geoparquet import write_geoparquet
from lczcube.catalog.record import (
    Record,
    Row,
    UnreadableRecordError,
    read_record,
    record_name,
    write_record,
)
from lczcube.catalog.register import (
    DEFAULT_WORKERS,
    Failure,
    FileProgress,
    Registration,
    Room,
    intact_items,
    is_intact,
    register_input,
    staged_table,
)
from lczcube.catalog.stamps import Stamps, stamps_below
from lczcube.config import CityFile, read_config
from lczcube.errors import CatalogError
from lczcube.sources import Input


@dataclass(frozen=True)
class CatalogReport:
    """What :func:`build_catalog` wrote.

    Attributes
    ----------
    path : pathlib.Path
        The catalog's folder.
    n_collections, n_items : int
        Collections and items in the catalog.
    failures : tuple of Failure
        Files that were left out, in the order of the TOML file.
    n_read : int
        Files that were opened; the others are known unchanged since the last build.
    """

    path: Path
    n_collections: int
    n_items: int
    failures: tuple[Failure, ...]
    n_read: int

    def __str__(self) -> str:
        """A line of counts, and one for each file that was left out."""
        rows = [f"left out: {failure}" for failure in self.failures]
        counts = f"{self.n_items} items in {self.n_collections} collections: {self.path}"
        return "\n".join([counts, *rows])


def build_catalog(
    config: str | Path,
    out: str | Path,
    *,
    overwrite: bool = False,
    strict: bool = False,
    workers: int = DEFAULT_WORKERS,
    progress: FileProgress = lambda *_: None,
) -> CatalogReport:
    """Write a static STAC catalog, and stac-geoparquet beside it, of the inputs of a TOML file.

    Reads headers of rasters and embeddings, and all labels; no pixel of a feature layer but the
    codes of maps of zones, unless an input has ``checksums = true``. A file of the same path, size
    and modification time as in the last build is not opened again.

    Parameters
    ----------
    config : str or pathlib.Path
        A city or catalog file.
    out : str or pathlib.Path
        Folder to write. A catalog of the same id there is brought up to date: files whose bytes
        stay the same are not touched, collections no longer named are removed.
    overwrite : bool
        Read every file anew, and also replace a catalog of another id. Default: trust the last
        build, and refuse, as it may be another project's.
    strict : bool
        Raise at the first file that cannot be registered. Default: leave it out and report it.
    workers : int
        Threads that open files. The default of 4 hides the latency of disks; raise it for files at
        URLs. The bytes written do not depend on it.
    progress : callable
        Called after every file, in this thread, with the input's name, its files done, and all its
        files.

    Returns
    -------
    CatalogReport
        Counts, and a row for each file that was left out.

    Raises
    ------
    ConfigError, MissingInputError
        If the TOML file cannot be used or is not there.
    CatalogError
        If ``out`` holds something else, or links to elsewhere, or no file at all could be
        registered.
    SourceError, LabelError
        With ``strict``: the first file's fault.

    Notes
    -----
    Everything is written beside ``out`` first and then moved, file by file, ``catalog.json`` last.
    """
    settings = read_config(config)
    target = Path(os.path.abspath(out))
    require_ours(target, settings.id, overwrite=overwrite)
    names = [entry.name for entry in settings.inputs]
    require_no_way_out(target, {*names, *collections_in(target)})
    with staging_folder(target) as folder:
        room = Room(folder, target, workers=workers, strict=strict, progress=progress)
        made = [_registered(entry, settings, room, is_fresh=overwrite) for entry in settings.inputs]
        failures = tuple(failure for registration in made for failure in registration.failures)
        kept = [registration for registration in made if registration.n_items]
        if not kept:
            _raise_nothing(settings, failures)
        _publish(settings, kept, room)
    return CatalogReport(
        path=target,
        n_collections=len(kept),
        n_items=sum(registration.n_items for registration in kept),
        failures=failures,
        n_read=sum(registration.n_read for registration in made),
    )


def _registered(entry: Input, settings: CityFile, room: Room, *, is_fresh: bool) -> Registration:
    record = Record() if is_fresh else read_record(room.target, entry.name)
    registration = register_input(entry, settings, record, room)
    if is_intact(registration, _title(settings), room):
        return registration
    try:
        return registration.filled()
    except UnreadableRecordError:
        return register_input(entry, settings, Record(), room)


def _title(settings: CityFile) -> str:
    return settings.title or settings.id


def _raise_nothing(settings: CityFile, failures: Sequence[Failure]) -> None:
    more = f" ({len(failures) - 1} more)" if len(failures) > 1 else ""
    raise CatalogError(
        f"{settings.source_path.name}: no file of its {len(settings.inputs)} inputs could be "
        f"registered. {failures[0].reason}{more}"
    )


def _publish(settings: CityFile, kept: Sequence[Registration], room: Room) -> None:
    title = _title(settings)
    outputs = Outputs(room.staging / "catalog", room.target)
    written: dict[str, list[str]] = {}
    for registration in kept:
        if registration.is_intact:
            outputs.keep(registration.record.outputs)
        else:
            written[registration.entry.name] = _write_collection(registration, title, outputs, room)
    children = {r.entry.name: title_of(r.entry) for r in kept}
    outputs.write_text(CATALOG_FILE, as_text(catalog_document(settings.id, title, children)))
    intact = {r.entry.name for r in kept if r.is_intact}
    publish(outputs, {*collections_in(room.target), *written} - intact)
    for registration in kept:
        name = registration.entry.name
        if name in written:
            found = stamps_below(room.target, written[name], Stamps())
            write_record(room.target, name, registration.rows, outputs=found, root=title)


def _write_collection(
    registration: Registration, title: str, outputs: Outputs, room: Room
) -> list[str]:
    """Write what a collection consists of, and give its names."""
    entry, rows = registration.entry, registration.rows
    items = sorted(
        (item for row in rows for item in json.loads(row.text or "[]")), key=lambda i: str(i["id"])
    )
    coding = next(coding for row in rows for coding in row.codings)
    collection = collection_document(entry, items, coding)
    names = [f"{entry.name}.parquet", f"{entry.name}/collection.json"]
    outputs.write_text(names[1], as_text(linked_collection(collection, items, title)))
    intact = intact_items(registration, room)
    for item in items:
        names.append(f"{entry.name}/items/{item['id']}.json")
        if item["id"] in intact:
            outputs.keep([names[-1]])
        else:
            outputs.write_text(names[-1], as_text(linked_item(item)))
    write_geoparquet(collection, items, outputs.new(names[0]))
    for row in rows:
        for name in row.tables:
            _publish_table(row, name, outputs, room)
            names.append(name)
    outputs.keep([record_name(entry.name)])
    return names


def _publish_table(row: Row, name: str, outputs: Outputs, room: Room) -> None:
    staged = staged_table(row.key, name, room)
    if staged.exists():
        staged.replace(outputs.new(name))
    else:
        outputs.keep([name])
