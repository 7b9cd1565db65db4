"""Stamps: sizes and modification times, by which a file is known to be unchanged unopened."""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_left
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

Stamp = list[int | str]
"""Bytes and modification time (ns); of a folder also a digest of those of its files."""


class Stamps:
    """Stamps as the file system has them; each folder is listed once.

    Files beside one that share its stem belong to it: ``.aux.xml``, ``.msk``, ``.dbf``.
    """

    def __init__(self) -> None:
        self._listed: dict[str, tuple[list[str], dict[str, os.DirEntry[str]]]] = {}

    def of(self, paths: Iterable[str]) -> dict[str, Stamp]:
        """Stamps of files with what belongs to them, and of folders with all they hold."""
        return {
            name: stamp
            for path in paths
            for name in self._with_siblings(path)
            if (stamp := self.of_file(name)) is not None
        }

    def of_file(self, path: str) -> Stamp | None:
        """Stamp of a file without what belongs to it, or of a folder; None if it is not there."""
        place = PurePosixPath(path)
        entry = self._listing(str(place.parent))[1].get(place.name)
        if entry is None:
            return None
        try:
            if entry.is_dir():
                return _stamp_of_folder(path)
            found = entry.stat()
        except OSError:
            return None
        return [found.st_size, found.st_mtime_ns]

    def _with_siblings(self, path: str) -> list[str]:
        place = PurePosixPath(path)
        names, _ = self._listing(str(place.parent))
        prefix = f"{place.stem}."
        first = bisect_left(names, prefix)
        found = [path]
        for name in names[first:]:
            if not name.startswith(prefix):
                break
            if name != place.name:
                found.append(str(place.with_name(name)))
        return found

    def _listing(self, folder: str) -> tuple[list[str], dict[str, os.DirEntry[str]]]:
        if folder not in self._listed:
            self._listed[folder] = _list(folder)
        return self._listed[folder]


def stamps_below(folder: Path, names: Iterable[str], stamps: Stamps) -> dict[str, Stamp]:
    """Stamps of files by name relative to a folder; without those that are not there."""
    start = f"{folder.as_posix()}/"
    found = {name: stamps.of_file(f"{start}{name}") for name in names}
    return {name: stamp for name, stamp in found.items() if stamp is not None}


def newest_ns(stamps: Iterable[Stamp]) -> int:
    """The latest modification time, ns; 0 where there is none."""
    return max((int(stamp[1]) for stamp in stamps), default=0)


def _list(folder: str) -> tuple[list[str], dict[str, os.DirEntry[str]]]:
    try:
        with os.scandir(folder) as found:
            entries = {entry.name: entry for entry in found}
    except OSError:
        entries = {}
    return sorted(entries), entries


def _stamp_of_folder(folder: str) -> Stamp:
    lines, total, newest = [], 0, 0
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(place, name)
            found = os.stat(path)
            total += found.st_size
            newest = max(newest, found.st_mtime_ns)
            lines.append(f"{os.path.relpath(path, folder)} {found.st_size} {found.st_mtime_ns}")
    return [total, newest, hashlib.sha256("\n".join(lines).encode()).hexdigest()]
