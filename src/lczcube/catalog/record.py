"""The record of the last build of a collection: which file gave which items.

It lies beside the published files, in ``.lczcube/``, and may be deleted: the next build then reads
everything again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from lczcube.catalog.stamps import Stamp

RECORD_FOLDER = ".lczcube"

_METADATA = b"lczcube"
_HEAD = ("key", "href", "paths", "stamps", "ids", "codings", "tables", "is_hashed")


@dataclass(frozen=True)
class Row:
    """A file that was registered.

    Attributes
    ----------
    key : str
        Digest of what its items follow from but for the bytes of files: version, settings, id.
    href : str
        The file, for messages.
    paths : tuple of str
        Local files that were read.
    stamps : dict of str to list
        Stamps of these and of what belongs to them.
    ids, codings : tuple
        Id of each item, and ``product``, ``decoder`` and ``valid`` where the file decides them.
    tables : tuple of str
        Tables that were written, by name relative to the catalog.
    is_hashed : bool
        True where the items hold the checksum of every one of ``paths``.
    text : str or None
        The items as JSON, hrefs relative to the catalog; None: as the record has them.
    is_remembered : bool
        True where the text is the record's, and so that of the published items.
    is_kept : bool
        False for a file that may have changed while it was read.
    """

    key: str
    href: str
    paths: tuple[str, ...]
    stamps: dict[str, Stamp]
    ids: tuple[str, ...]
    codings: tuple[dict[str, str], ...]
    tables: tuple[str, ...] = ()
    is_hashed: bool = False
    text: str | None = None
    is_remembered: bool = False
    is_kept: bool = True


class UnreadableRecordError(Exception):
    """A record whose rows cannot be read, though its head could."""


@dataclass(frozen=True)
class Record:
    """What the last build left of a collection.

    Attributes
    ----------
    rows : dict of str to Row
        By key, without the text.
    outputs : dict of str to list
        Stamps of the published files, by name relative to the catalog.
    root : str
        Title of the catalog, which the collection names.
    path : pathlib.Path or None
        Where the texts are.
    """

    rows: dict[str, Row] = field(default_factory=dict)
    outputs: dict[str, Stamp] = field(default_factory=dict)
    root: str = ""
    path: Path | None = None

    def text(self, key: str) -> str:
        """The items of a row, as JSON.

        Raises
        ------
        UnreadableRecordError
            If the record is damaged.
        """
        try:
            return self._texts[key]
        except KeyError as error:
            raise UnreadableRecordError from error

    @cached_property
    def _texts(self) -> dict[str, str]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(self.path, columns=["key", "items", "items_sha256"])
            rows = table.to_pylist()
        except (OSError, pa.ArrowException, ValueError) as error:
            raise UnreadableRecordError from error
        if any(_sha256(row["items"]) != row["items_sha256"] for row in rows):
            raise UnreadableRecordError
        return {row["key"]: row["items"] for row in rows}


def record_name(name: str) -> str:
    """Where the record of a collection lies, relative to the catalog."""
    return f"{RECORD_FOLDER}/{name}.parquet"


def read_record(target: Path, name: str) -> Record:
    """The record of a collection; an empty one where there is none that can be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = target / record_name(name)
    try:
        table = pq.read_table(path, columns=["head", "head_sha256"])
        said = json.loads(table.schema.metadata[_METADATA])
        rows = [_row(values) for values in table.to_pylist()]
        return Record({row.key: row for row in rows}, dict(said["outputs"]), said["root"], path)
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return Record()


def write_record(
    target: Path, name: str, rows: Sequence[Row], *, outputs: Mapping[str, Stamp], root: str
) -> None:
    """Write the record of a collection, whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kept = [row for row in rows if row.is_kept]
    heads = [json.dumps({name: getattr(row, name) for name in _HEAD}) for row in kept]
    columns = {
        "head": heads,
        "head_sha256": [_sha256(head) for head in heads],
        "key": [row.key for row in kept],
        "items": [row.text for row in kept],
        "items_sha256": [_sha256(row.text or "") for row in kept],
    }
    schema = pa.schema(
        [(name, pa.string()) for name in columns],
        metadata={_METADATA: json.dumps({"outputs": dict(outputs), "root": root})},
    )
    path = target / record_name(name)
    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix(".partial")
    pq.write_table(pa.table(columns, schema=schema), partial, compression="zstd")
    partial.replace(path)


def _row(values: Mapping[str, str]) -> Row:
    if _sha256(values["head"]) != values["head_sha256"]:
        raise ValueError("damaged")
    held = json.loads(values["head"])
    return Row(
        key=held["key"],
        href=held["href"],
        paths=tuple(held["paths"]),
        stamps=held["stamps"],
        ids=tuple(held["ids"]),
        codings=tuple(held["codings"]),
        tables=tuple(held["tables"]),
        is_hashed=held["is_hashed"],
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
