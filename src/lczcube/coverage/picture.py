"""Coverage as a picture: a matrix of shares, and labels by class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lczcube.coverage.text import percent
from lczcube.lcz import N_CLASSES, ZONES

if TYPE_CHECKING:
    from lczcube.coverage.values import Coverage, LabelCoverage, YearCoverage

ROW_IN, COLUMN_IN = 0.38, 1.0
"""A square of the matrix, inches."""

BARS_IN = (6.2, 1.3)
"""The bars of a city, inches."""

HATCHES = {"validation": "////", "testing": "...."}
"""What is not for training, and so no donor."""

GAP = 0.25
"""Between the layers and their common ground, in columns."""

INK, FAINT = "#222222", "#8a8a8a"


def plot_coverage(coverage: Coverage, path: str | Path) -> Path:
    """Draw cities and years by layers as a matrix of shares, and labels by class beside it.

    Parameters
    ----------
    coverage : Coverage
        From :func:`lczcube.coverage.coverage_of`.
    path : str or pathlib.Path
        PNG to write.

    Notes
    -----
    A square of the matrix is the share of the city's cells that the layer covers; a dash is a layer
    without a tile there. Bars have the official colours of the zones (Demuzere et al. 2022,
    doi:10.5194/essd-14-3835-2022); hatched are the publisher's validation (lines) and testing
    (dots), which are no donors.
    """
    from matplotlib.figure import Figure

    n_columns = len(coverage.years[0].layers) + 1
    matrix_in = (COLUMN_IN * n_columns + 2.2, ROW_IN * len(coverage.years) + 1.0)
    height_in = max(matrix_in[1], BARS_IN[1] * len(coverage.cities)) + 1.1
    width_in = matrix_in[0] + BARS_IN[0]
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    panels: Any = figure.subfigures(1, 2, width_ratios=(matrix_in[0], BARS_IN[0]))
    _draw_matrix(panels[0], coverage.years)
    _draw_labels(panels[1], coverage)
    made_up = " (synthetic data)" if coverage.synthetic else ""
    figure.suptitle(f"Coverage of {coverage.id}{made_up}", fontsize=13, color=INK)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    figure.savefig(partial, dpi=150, format="png", metadata={"Software": None})
    partial.replace(target)
    return target


def _draw_matrix(panel: Any, years: Sequence[YearCoverage]) -> None:
    from matplotlib import colormaps

    axis = panel.subplots()
    blues, greens = colormaps["Blues"], colormaps["Greens"]
    layers = [layer.layer for layer in years[0].layers]
    for i, row in enumerate(years):
        for j, layer in enumerate(row.layers):
            _draw_square(axis, i, j, layer.best if layer.n_tiles else None, blues)
        _draw_square(axis, i, len(layers) + GAP, row.common_share, greens)
    columns = [*range(len(layers)), len(layers) + GAP]
    axis.set_xticks([x + 0.5 for x in columns], [*layers, "all layers"], rotation=30, ha="left")
    axis.xaxis.tick_top()
    axis.set_yticks([i + 0.5 for i in range(len(years))], _row_names(years))
    axis.set_xlim(0, columns[-1] + 1)
    axis.set_ylim(len(years), 0)
    axis.set_aspect(ROW_IN / COLUMN_IN, anchor="N")
    axis.tick_params(length=0, labelsize=9, colors=INK)
    for spine in axis.spines.values():
        spine.set_visible(False)
    for i in range(1, len(years)):
        if years[i].city != years[i - 1].city:
            axis.axhline(i, color="white", linewidth=4)
    what = "with a valid pixel" if years[0].is_exact else "in a tile"
    axis.set_xlabel(f"Share of the cells of the city {what}", fontsize=9, color=FAINT)


def _row_names(years: Sequence[YearCoverage]) -> list[str]:
    return [row.city if row.year is None else f"{row.city}  {row.year}" for row in years]


def _draw_square(axis: Any, row: float, column: float, share: float | None, colors: Any) -> None:
    from matplotlib.patches import Rectangle

    is_there = share is not None
    face = colors(0.08 + 0.72 * (share or 0.0)) if is_there else "#f2f2f2"
    square = Rectangle((column, row), 1, 1, facecolor=face, edgecolor="white", linewidth=1.5)
    axis.add_patch(square)
    text = "-" if share is None else percent(share).replace("%", " %")
    color = "white" if is_there and (share or 0) > 0.6 else (INK if is_there else FAINT)
    axis.text(column + 0.5, row + 0.52, text, ha="center", va="center", fontsize=9, color=color)


def _draw_labels(panel: Any, coverage: Coverage) -> None:
    axes = panel.subplots(len(coverage.cities), 1, squeeze=False, sharex=True)[:, 0]
    for axis, city in zip(axes, coverage.cities, strict=True):
        _draw_bars(axis, city, [row for row in coverage.labels if row.city == city])
    axes[-1].set_xticks(range(N_CLASSES), [zone.letter for zone in ZONES], fontsize=9)
    axes[-1].set_xlabel("Local Climate Zone", fontsize=9, color=FAINT)
    _draw_legend(axes[0], coverage.labels)


def _draw_bars(axis: Any, city: str, labels: Sequence[LabelCoverage]) -> None:
    base = np.zeros(N_CLASSES)
    colors = [f"#{zone.color()}" for zone in ZONES]
    for row in labels:
        counts = np.array(row.counts, float)
        axis.bar(
            range(N_CLASSES),
            counts,
            0.82,
            bottom=base,
            color=colors,
            edgecolor="white" if row.split in HATCHES else INK,
            hatch=HATCHES.get(row.split),
            linewidth=0 if row.split in HATCHES else 0.4,
        )
        base += counts
    axis.bar(range(N_CLASSES), base, 0.82, color="none", edgecolor=INK, linewidth=0.6)
    for x, total in enumerate(base):
        if total:
            axis.text(x, total, f"{total:.0f}", ha="center", va="bottom", fontsize=7, color=INK)
    axis.set_title(f"{city}: {base.sum():.0f} labels", loc="left", fontsize=9, color=INK)
    axis.set_xlim(-0.6, N_CLASSES - 0.4)
    axis.set_ylim(0, max(base.max() * 1.18, 1))
    axis.set_yticks([])
    axis.tick_params(length=0, colors=INK)
    for side in ("left", "right", "top"):
        axis.spines[side].set_visible(False)


def _draw_legend(axis: Any, labels: Sequence[LabelCoverage]) -> None:
    """Of the splits, where there are any."""
    from matplotlib.patches import Patch

    splits = {row.split for row in labels}
    if not splits & {*HATCHES}:
        return
    shown = [name for name in ("training", *HATCHES) if name in splits]
    patches = [
        Patch(facecolor="#9a9a9a", edgecolor="white", hatch=HATCHES.get(name), label=name)
        for name in shown
    ]
    axis.legend(
        handles=patches,
        fontsize=8,
        frameon=False,
        ncols=len(patches),
        loc="lower right",
        bbox_to_anchor=(1.0, 0.97),
        borderaxespad=0,
    )
