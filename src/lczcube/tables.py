"""Figures for people and for files: Markdown tables, values with their intervals, plain JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

ROUND_DIGITS = 6
"""Digits of the floats in JSON: two runs then write the same bytes."""

Interval = tuple[float, float]

_LEVELS = (2.5, 97.5)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that also reads as plain text, without a trailing line break."""
    table = [header, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |"
        for row in table
    ]
    rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def with_interval(value: float | None, interval: Interval | None, *, signed: bool = False) -> str:
    """A value to three digits with its interval in brackets; ``-`` for none.

    Examples
    --------
    >>> with_interval(0.5, (0.41, 0.6))
    '0.500 [0.410, 0.600]'
    """
    text = "-" if value is None else _digits(value, signed=signed)
    if interval is None:
        return text
    low, high = (_digits(edge, signed=signed) for edge in interval)
    return f"{text} [{low}, {high}]"


def _digits(value: float, *, signed: bool) -> str:
    rounded = round(value, 3) + 0.0  # + 0.0: no "-0.000"
    return f"{rounded:+.3f}" if signed else f"{rounded:.3f}"


def percentile_interval(draws: npt.NDArray[np.float64]) -> Interval | None:
    """95 % interval of the draws that are not NaN, by percentiles; None without any."""
    defined = draws[~np.isnan(draws)]
    if defined.size == 0:
        return None
    low, high = np.percentile(defined, _LEVELS)
    return float(low), float(high)


def plain(value: Any) -> Any:
    """Values for JSON: keys sorted, floats rounded to 6 digits."""
    if isinstance(value, Mapping):
        return {key: plain(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return round(value, ROUND_DIGITS) if isinstance(value, float) else value
