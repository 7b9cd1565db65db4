"""Codes of LCZ classes, as publishers and people write them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt

from lczcube.errors import LabelError
from lczcube.lcz import MOST_LISTED, N_CLASSES, NODATA, code_of, listed_codes

if TYPE_CHECKING:
    import pandas as pd

_LEGACY = range(101, 110)
_EXTRA = {"W": 18, "H": 19}
_WHOLE = re.compile(r"[+-]?\d+(\.0*)?")


def codes_of(
    values: pd.Series,
    *,
    drop_classes: Sequence[int] = (),
    counts: npt.NDArray[np.intp] | None = None,
    where: str,
) -> npt.NDArray[np.int64]:
    """LCZ codes of a class column of any type; 0 where there is none or it is dropped.

    Parameters
    ----------
    values : pandas.Series
        Integers, floats or text: ``6``, ``6.0``, ``"LCZ 6"``, ``"A"``, ``104``. Null is no label.
    drop_classes : sequence of int
        Codes that become 0, before and after 101-109 are read as 11-19.
    counts : numpy.ndarray, optional
        How often each value occurs, for the message. Default: once.
    where : str
        The file, for the message.

    Returns
    -------
    numpy.ndarray
        int64, shape of ``values``, 0-17.

    Raises
    ------
    LabelError
        Naming the file, each bad code, how often it occurs, and the remedy.
    """
    kinds = {value: class_code(value) for value in values.dropna().unique()}
    given = values.map(kinds)
    unread = given.isna() & values.notna()
    if unread.any():
        _raise_unread(values[unread], where)
    codes = given.fillna(NODATA).to_numpy(dtype=np.int64)
    dropped = np.isin(codes, list(drop_classes))
    codes = np.where(dropped, NODATA, without_legacy(codes))
    codes[np.isin(codes, list(drop_classes))] = NODATA
    bad = (codes < 0) | (codes > N_CLASSES)
    if bad.any():
        raise_bad(codes[bad], np.ones(bad.sum(), int) if counts is None else counts[bad], where)
    return codes


def class_code(value: Any) -> int | None:
    """The code one value of a class column means, 101-109 as they are; None if it names none."""
    if isinstance(value, str):
        return _code_of_text(value.strip())
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return int(number) if number == np.floor(number) else None


def without_legacy(codes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """101-109 as 11-19, other codes as they are."""
    return np.where(np.isin(codes, _LEGACY), codes - 90, codes)


def raise_bad(bad: npt.NDArray[np.int64], counts: npt.NDArray[np.intp], where: str) -> NoReturn:
    """Raise for codes that are no LCZ, each with how often it occurs, and the remedy.

    Raises
    ------
    LabelError
        Always.
    """
    values = np.unique(bad)
    listed = listed_codes(values, [counts[bad == v].sum() for v in values])
    remedy = ", ".join(str(v) for v in values)
    advice = "Set nodata, or recode them"
    if len(values) > MOST_LISTED:
        advice = "These are likely no zones; name the column, band or file that holds some"
    elif all(1 <= v <= 255 for v in values):
        advice = f"Set drop_classes = [{remedy}]"
    raise LabelError(
        f"{where} holds LCZ code {listed}; codes are 1-{N_CLASSES}, 0 for no data. {advice}."
    )


def _code_of_text(text: str) -> int | None:
    if text == "":
        return NODATA
    if _WHOLE.fullmatch(text):
        return int(float(text))
    key = text.upper().removeprefix("LCZ").strip(" _-")
    if key in _EXTRA:
        return _EXTRA[key]
    if key.isdigit():
        return int(key)
    try:
        return code_of(text)
    except LabelError:
        return None


def _raise_unread(values: pd.Series, where: str) -> None:
    counts = values.astype(str).value_counts()
    listed = ", ".join(f"{text!r} ({n} times)" for text, n in counts.head(3).items())
    raise LabelError(
        f"{where} holds classes that name no LCZ: {listed}; use 1-10 and A-G, 1-17, or 101-107 "
        "for A-G. Name another class_column, or recode them."
    )
