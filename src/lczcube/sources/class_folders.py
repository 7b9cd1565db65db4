"""Folders named after a class, as WUDAPT training areas have them, in all their spellings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lczcube.errors import SourceError
from lczcube.sources.kml import KmlFolder

N_WITH_EXTRA = 19
"""Classes of the template: the 17 zones, and 18 (``W``) and 19 (``H``), which are no LCZ."""

_SEPARATORS = r"[\s_.,:;/()\[\]-]+"
_CLASS = re.compile(
    rf"\s*(?:LCZ[\s_-]*)?(10[1-9]|1[0-9]|[1-9]|[A-HW])(?:{_SEPARATORS}(.*))?\s*",
    re.IGNORECASE | re.DOTALL,
)
_LINK = re.compile(rf"(?:(?:or|and|to|&|\+){_SEPARATORS})?", re.IGNORECASE)
_LETTERS = {letter: code for code, letter in enumerate("ABCDEFGWH", start=11)}
_LEGACY_OFFSET = 90


@dataclass(frozen=True)
class FolderClass:
    """What the name of a folder says.

    Attributes
    ----------
    code : int
        1-17, or 18 and 19, which are no LCZ.
    suffix : str
        What follows the class, such as ``summer``; ``""`` if nothing does.
    """

    code: int
    suffix: str = ""


def class_of_name(name: str) -> FolderClass | None:
    """The class that the name of a folder or layer means; None if it names none, or two.

    Examples
    --------
    >>> class_of_name("LCZ_A"), class_of_name("14 winter")
    (FolderClass(code=11, suffix=''), FolderClass(code=14, suffix='winter'))
    >>> class_of_name("region of interest"), class_of_name("1 - 3")
    (None, None)
    """
    found = _CLASS.fullmatch(name)
    if found is None:
        return None
    suffix = re.sub(rf"{_SEPARATORS}$", "", found[2] or "")
    if suffix and _CLASS.fullmatch(_LINK.sub("", suffix, count=1)):
        return None
    key = found[1].upper()
    number = _LETTERS[key] if key in _LETTERS else int(key)
    return FolderClass(number - _LEGACY_OFFSET if number > N_WITH_EXTRA else number, suffix)


def classes_of(folders: Sequence[KmlFolder]) -> dict[KmlFolder, FolderClass]:
    """The class of each folder that has one: its own, or that of the folder around it.

    A folder in a class folder belongs to that class, and its name is the suffix. A name such as
    ``G Mills`` around folders of other classes is a heading, not water.
    """
    named = {folder: class_of_name(folder.name) for folder in folders}
    headings = {
        around
        for folder, own in named.items()
        for around in folder.path[1:]
        if own is not None
        and (other := named.get(around)) is not None
        and other.suffix
        and other.code != own.code
    }
    classes: dict[KmlFolder, FolderClass] = {}
    for folder in folders:  # outer folders come first
        own = None if folder in headings else named[folder]
        around = classes.get(folder.parent) if folder.parent else None
        if own is not None:
            classes[folder] = own
        elif around is not None:
            classes[folder] = FolderClass(around.code, folder.name)
    return classes


def require_classes(
    folders: Sequence[KmlFolder], classes: dict[KmlFolder, FolderClass], where: str
) -> None:
    """Raise unless some folder names a class.

    Raises
    ------
    SourceError
        Listing the folders there are.
    """
    if classes:
        return
    names = ", ".join(repr(folder.name) for folder in folders[:5]) or "none"
    raise SourceError(
        f"{where} has no folder named after a class (its folders: {names}); training areas have "
        "one folder a class: 1 to 10 and A to G, LCZ 1, or 101 to 107."
    )
