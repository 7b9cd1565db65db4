"""Sets of LCZ classes that one label may be, as people write them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lczcube.errors import LabelError
from lczcube.lcz import N_CLASSES, NODATA
from lczcube.sources.class_codes import class_code, raise_bad, without_legacy

if TYPE_CHECKING:
    import pandas as pd

GROUPS = {
    "COMPACT": range(1, 4),
    "OPEN": range(4, 7),
    "BUILT": range(1, 11),
    "NATURAL": range(11, N_CLASSES + 1),
}
"""Words that stand for several classes."""

_PREFIX = re.compile(r"\bLCZ[\s_-]*")
_DASH = re.compile(r"\s*[-\u2013]\s*")
_BETWEEN = re.compile(r"[\s,;/|+&()\[\]{}]+|\bOR\b")


def sets_of(
    values: pd.Series, *, drop_classes: Sequence[int] = (), where: str
) -> list[frozenset[int]]:
    """The classes each row may be, 1-17; empty where there is none, or one of them is dropped.

    A set that holds a dropped class is dropped whole: without that class it would claim more than
    was said.

    Parameters
    ----------
    values : pandas.Series
        ``"1,2,3"``, ``"1-3"``, ``"LCZ 1 / LCZ 2"``, ``"A or B"``, ``"compact"``, ``"101 102"``, a
        list of codes, or one code. Null is no label.
    drop_classes : sequence of int
        Codes whose rows are left out, before or after 101-109 are read as 11-19.
    where : str
        The file, for the message.

    Raises
    ------
    LabelError
        If a value names no set, or a code is no LCZ.
    """
    texts = [_as_text(value) for value in values]
    given = {text: _codes(text) for text in sorted(set(texts))}
    unread = [text for text in texts if given[text] is None]
    if unread:
        raise LabelError(
            f"{where} holds {len(unread)} sets of classes that cannot be read, such as "
            f"{unread[0]!r}; write 1,2,3 or 1-3 or A/B, or compact, open, built, natural."
        )
    sets = {text: _admissible(codes or set(), drop_classes) for text, codes in given.items()}
    bad = [code for text in texts for code in sets[text] if not 1 <= code <= N_CLASSES]
    if bad:
        raise_bad(np.array(bad), np.ones(len(bad), dtype=int), where)
    return [sets[text] for text in texts]


def _as_text(value: Any) -> str:
    if isinstance(value, list | tuple | np.ndarray):
        return ",".join(str(part) for part in value)
    return "" if value is None or value != value else str(value)


def _codes(text: str) -> set[int] | None:
    """Codes a text names, legacy ones as they are; None if a word of it names nothing."""
    plain = _DASH.sub("-", _PREFIX.sub("", text.upper()))
    found: set[int] = set()
    for word in filter(None, _BETWEEN.split(plain)):
        codes = _codes_of_word(word)
        if codes is None:
            return None
        found.update(codes)
    return found - {NODATA}


def _codes_of_word(word: str) -> Iterable[int] | None:
    if word in GROUPS:
        return GROUPS[word]
    first, dash, last = word.partition("-")
    ends = [class_code(first), class_code(last)] if dash else [class_code(word)]
    codes = [code for code in ends if code is not None]
    if len(codes) < len(ends) or (dash and not NODATA < codes[0] < codes[1]):
        return None
    return range(codes[0], codes[1] + 1) if dash else codes


def _admissible(codes: set[int], drop_classes: Sequence[int]) -> frozenset[int]:
    modern = set(without_legacy(np.array(sorted(codes), dtype=np.int64)).tolist())
    return frozenset() if (codes | modern) & set(drop_classes) else frozenset(modern)
