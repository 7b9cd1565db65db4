"""Hrefs of local files as a catalog keeps them: relative, so that both can move together."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from lczcube.sources.files import is_remote


class Hrefs:
    """Hrefs seen from the folder of a catalog.

    A file on another file system keeps its absolute path, as it does not move along; so does one
    that a relative path would miss because of symbolic links.
    """

    def __init__(self, target: Path) -> None:
        self._target = target.as_posix()
        self._real = os.path.realpath(target)
        self._device = _device(target)
        self._folders: dict[str, str | None] = {}

    def relative(self, href: str) -> str:
        """An href relative to the catalog's folder, ``./`` or ``../`` first; else as it is."""
        if is_remote(href) or not href.startswith("/"):
            return href
        place = PurePosixPath(href)
        folder = str(place.parent)
        if folder not in self._folders:
            self._folders[folder] = self._relative_folder(folder)
        start = self._folders[folder]
        return href if start is None else f"{start}/{place.name}"

    def _relative_folder(self, folder: str) -> str | None:
        if _device(Path(folder)) != self._device:
            return None
        relative = os.path.relpath(folder, self._target)
        if os.path.realpath(os.path.join(self._real, relative)) != os.path.realpath(folder):
            return None
        return relative if relative.startswith("..") else f"./{relative}".removesuffix("/.")


def from_items(href: str, name: str) -> str:
    """A path relative to a catalog, as an item of a collection has it, two folders down."""
    own = f"./{name}/"
    if href.startswith(own):
        return f"../{href.removeprefix(own)}"
    return f"../../{href.removeprefix('./')}" if href.startswith(("./", "../")) else href


def _device(path: Path) -> int:
    """The file system that a path lies on, or will."""
    place = path
    while not place.exists():
        place = place.parent
    return place.stat().st_dev
