"""An audit as a picture: what confidence is worth, what a cut keeps, and of which class."""

from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from lczcube import lcz as zones
from lczcube.errors import LabelError
from lczcube.propagate.audit import THRESHOLDS, Audit, only

LINES = ("#0B6E4F", "#B8860B", "#7B2CBF", "#00A5CF", "#E6007E", "#4A4A4A")
"""Colours of policies, in their order."""

RAW = "#9A9A9A"


def plot_audit(audit: Audit, path: str | Path, *, title: str = "") -> Path:
    """Write a PNG of an audit: a row a hold-out, three panels each.

    Parameters
    ----------
    audit : Audit
        From :func:`~lczcube.propagate.audit_propagation`.
    path : str or pathlib.Path
        PNG to write.
    title : str
        Above the panels.

    Returns
    -------
    pathlib.Path
        Of the PNG: reliability of the first policy before and after calibration; precision and
        share kept of every policy at each cut; precision and number kept of each class of the first
        policy.

    Raises
    ------
    LabelError
        If the folder of ``path`` is not there.
    """
    from matplotlib.figure import Figure

    path = Path(path)
    if not path.parent.is_dir():
        raise LabelError(f"folder {path.parent} is not there; make it, or name another file.")
    methods = audit.methods
    figure = Figure(figsize=(14.5, 0.5 + 4.6 * len(methods)), layout="constrained")
    axes = figure.subplots(len(methods), 3, squeeze=False, width_ratios=(1, 1.15, 1.5))
    for row, method in zip(axes, methods, strict=True):
        _draw_reliability(row[0], audit, method)
        _draw_cuts(row[1], audit, method)
        _draw_classes(row[2], audit, method)
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
    return path


def _draw_reliability(axis: Any, audit: Audit, method: str) -> None:
    at = {"policy": audit.policies(method)[0], "method": method}
    axis.plot([0, 1], [0, 1], color="#CCCCCC", linewidth=1)
    (facts,) = only(audit.summary, at)
    for stage, colour, words in (("raw", RAW, "raw votes"), ("calibrated", LINES[0], "calibrated")):
        bins = only(audit.reliability, at | {"stage": stage})
        sizes = np.array([b["n"] for b in bins])
        x, y = [b["confidence"] for b in bins], [b["right"] for b in bins]
        axis.plot(x, y, color=colour, linewidth=1.2)
        axis.scatter(
            x,
            y,
            s=12 + 180 * sizes / sizes.sum(),
            color=colour,
            label=f"{words}: error {facts[f'error_{stage}']:.3f}",
            zorder=3,
        )
    axis.set(
        xlim=(0, 1.02),
        ylim=(0, 1.02),
        xlabel="confidence",
        ylabel="share right",
        title=f"{method} left out: {at['policy']}",
    )
    axis.legend(frameon=False, loc="upper left", fontsize=9)


def _draw_cuts(axis: Any, audit: Audit, method: str) -> None:
    for colour, policy in zip(cycle(LINES), audit.policies(method), strict=False):
        rows = only(audit.by_cut, {"policy": policy, "method": method})
        precision = [_or_nan(row["precision"]) for row in rows]
        kept = [row["kept"] / row["n"] for row in rows]
        axis.plot(THRESHOLDS, precision, color=colour, marker="o", markersize=4, label=policy)
        axis.plot(THRESHOLDS, kept, color=colour, linestyle=":")
    axis.plot(THRESHOLDS, THRESHOLDS, color="#CCCCCC", linewidth=1)
    axis.set(
        ylim=(0, 1.02),
        xlabel="cut",
        title="right of what is kept (line), share kept (dots)",
    )
    axis.legend(frameon=False, loc="lower left", fontsize=9)


def _draw_classes(axis: Any, audit: Audit, method: str) -> None:
    at = {"policy": audit.policies(method)[0], "method": method}
    rows = only(audit.by_class, at)
    codes = sorted({row["lcz"] for row in rows})
    table = {(row["lcz"], row["cut"]): row for row in rows}
    values = np.array(
        [[_or_nan(table[code, cut]["precision"]) for cut in THRESHOLDS] for code in codes]
    )
    axis.imshow(np.ma.masked_invalid(values), cmap="RdYlGn", vmin=0, vmax=1, aspect="auto")
    for i, code in enumerate(codes):
        for j, cut in enumerate(THRESHOLDS):
            one = table[code, cut]
            text = f"{one['precision']:.2f}\n{one['kept']}" if one["kept"] else "none"
            is_dark = one["kept"] and abs(one["precision"] - 0.5) > 0.4
            colour = "white" if is_dark else "black"
            axis.text(j, i, text, ha="center", va="center", fontsize=7, color=colour)
    names = {zone.code: f"{zone.letter} {zone.name}" for zone in zones.ZONES}
    axis.set_xticks(range(len(THRESHOLDS)), [f"{cut:g}" for cut in THRESHOLDS])
    axis.set_yticks(range(len(codes)), [names[code] for code in codes], fontsize=8)
    axis.set(xlabel="cut", title="by class voted for: share right, and number kept")


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value
