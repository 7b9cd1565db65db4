"""The digest of a catalog: another where what it publishes, or the pixels behind it, changed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from lczcube.catalog.record import RECORD_FOLDER, read_record


def catalog_digest(folder: str | Path) -> str:
    """SHA-256 of a catalog's files, and of what the files that it registers are known by.

    A local file whose checksum the catalog holds is known by it, and may be touched; another is
    known by its size and modification time in the last build; a remote one by its URL.
    """
    place = Path(folder)
    names = sorted(
        path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()
    )
    lines = []
    for name in names:
        if name.startswith(f"{RECORD_FOLDER}/"):
            lines += _stamps(place, Path(name).stem)
        else:
            lines.append(f"{name} {hashlib.sha256((place / name).read_bytes()).hexdigest()}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _stamps(place: Path, name: str) -> list[str]:
    rows = read_record(place, name).rows.values()
    return sorted(json.dumps(row.stamps, sort_keys=True) for row in rows if not row.is_hashed)
