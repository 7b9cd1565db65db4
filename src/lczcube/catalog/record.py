"""The record of the last build of a collection: which file gave which items.

It lies beside the published files, in ``.lczcube/``, and may be deleted: the next build then reads
everything again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lczcube.catalog.stamps import Stamp

RECORD_FOLDER = ".lczcube"

_METADATA = b"lczcube"
_LIGHT = ("key", "paths", "stamps", "ids", "codings", "tables", "is_hashed")


@dataclass(frozen=True)
class Row:
    """A file that was registered.

    Attributes
    ----------
    key : str
        Digest of what its items follow from but for the bytes of files: version, settings, id.
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
    is_kept : bool
        False for a file that may have changed while it was read.
    """

    key: str
    paths: tuple[str, ...]
    stamps: dict[str, Stamp]
    ids: tuple[str, ...]
    codings: tuple[dict[str, str], ...]
    tables: tuple[str, ...] = ()
    is_hashed: bool = False
    text: str | None = None
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
        return self._texts[key]

    @cached_property
    def _texts(self) -> dict[str, str]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(
                self.path, columns=["key", "items"], page_checksum_verification=True
            )
        except (OSError, pa.ArrowException) as error:
            raise UnreadableRecordError from error
        return dict(zip(table["key"].to_pylist(), table["items"].to_pylist(), strict=True))


def record_name(name: str) -> str:
    """Where the record of a collection lies, relative to the catalog."""
    return f"{RECORD_FOLDER}/{name}.parquet"


def read_record(target: Path, name: str) -> Record:
    """The record of a collection; an empty one where there is none that can be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = target / record_name(name)
    try:
        table = pq.read_table(path, columns=list(_LIGHT), page_checksum_verification=True)
        head = json.loads(table.schema.metadata[_METADATA])
        rows = [_row(values) for values in table.to_pylist()]
        return Record({row.key: row for row in rows}, dict(head["outputs"]), head["root"], path)
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return Record()


def write_record(
    target: Path, name: str, rows: Sequence[Row], *, outputs: Mapping[str, Stamp], root: str
) -> None:
    """Write the record of a collection, whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kept = [row for row in rows if row.is_kept]
    columns = {
        "key": [row.key for row in kept],
        **{
            name: [json.dumps(getattr(row, name)) for row in kept]
            for name in _LIGHT
            if name != "key"
        },
        "items": [row.text for row in kept],
    }
    schema = pa.schema(
        [(name, pa.string()) for name in columns],
        metadata={_METADATA: json.dumps({"outputs": dict(outputs), "root": root})},
    )
    path = target / record_name(name)
    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix(".partial")
    pq.write_table(
        pa.table(columns, schema=schema), partial, compression="zstd", write_page_checksum=True
    )
    partial.replace(path)


def _row(values: Mapping[str, Any]) -> Row:
    held = {name: json.loads(values[name]) for name in _LIGHT if name != "key"}
    return Row(
        key=values["key"],
        paths=tuple(held["paths"]),
        stamps=dict(held["stamps"]),
        ids=tuple(held["ids"]),
        codings=tuple(held["codings"]),
        tables=tuple(held["tables"]),
        is_hashed=held["is_hashed"],
    )
