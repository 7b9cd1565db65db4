"""Coverage as tables of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lczcube.lcz import ZONES

if TYPE_CHECKING:
    from lczcube.coverage.values import Coverage, LabelCoverage, YearCoverage


def coverage_text(coverage: Coverage) -> str:
    """A table of layers by city and year, and one of labels by class."""
    made_up = " (synthetic data)" if coverage.synthetic else ""
    labels = "no labels in these cities"
    if coverage.labels:
        labels = _table(_label_rows(coverage.labels))
    parts = [f"coverage of {coverage.id}{made_up}", _table(_layer_rows(coverage.years)), labels]
    if coverage.n_elsewhere:
        parts.append(f"{coverage.n_elsewhere} labels lie in none of these cities")
    return "\n\n".join(parts) + "\n"


def _layer_rows(years: Sequence[YearCoverage]) -> list[list[str]]:
    names = [layer.layer for layer in years[0].layers]
    head = ["city", "year", *names, "all layers", "lost", "for want of", "without it"]
    rows = [
        [
            row.city,
            "" if row.year is None else str(row.year),
            *(percent(layer.best) if layer.n_tiles else "-" for layer in row.layers),
            percent(row.common_share),
            percent(row.lost_share),
            row.limiting if row.lost_share > 0 else "",
            percent(row.share_without) if row.lost_share > 0 else "",
        ]
        for row in years
    ]
    return [head, *rows]


def _label_rows(labels: Sequence[LabelCoverage]) -> list[list[str]]:
    head = ["labels", "source", "split", *(zone.letter for zone in ZONES), "all"]
    rows = [
        [row.city, row.source, row.split or "-", *map(_count, row.counts), str(row.total)]
        for row in labels
    ]
    return [head, *rows]


def percent(share: float) -> str:
    """Whole per cents, but never 100 % of what is not whole, nor 0 % of what is there."""
    if 0 < share < 0.005:
        return "<1%"
    return ">99%" if 0.995 <= share < 1 else f"{share:.0%}"


def _count(n: int) -> str:
    return str(n) if n else "."


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Columns side by side, text on the left and numbers on the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    is_text = [any(map(str.isalpha, "".join(column[1:]))) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if text else cell.rjust(width)
            for cell, width, text in zip(row, widths, is_text, strict=True)
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)
