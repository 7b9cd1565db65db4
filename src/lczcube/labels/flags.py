"""Flags of suspicious labels: their rules, and the reason for each in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from lczcube.labels.outliers import DEVIATIONS
from lczcube.labels.overlaps import SAME_IOU
from lczcube.lcz import zone

FLAGS = {
    "invalid": "outline crosses itself, or is broken otherwise",
    "small": "too small",
    "complex": "outline too long for its area",
    "narrow": "too narrow anywhere",
    "contradicts": "overlaps a label of another class",
    "duplicate": "repeats the outline and class of another label",
    "unlike_class": "features unlike those of its class",
    "mixed": "its pixels fall into groups",
}
"""Flags of a label, in the order in which reasons are given."""


@dataclass(frozen=True)
class QualityRules:
    """Limits past which a label is flagged.

    Attributes
    ----------
    min_area_km2 : float
        Default 0.04: a square of 200 m, two by two pixels of an LCZ map.
    min_compactness : float
        4 pi area / perimeter². Default 0.25: an outline twice as long as the circle's of that
        area, such as a rectangle of 1 to 10. Labels made of pixels have longer outlines than the
        ground's: a disc of pixels has 0.62.
    min_width_m : float
        Diameter of the largest circle inside. Default 100: a pixel of an LCZ map.
    min_overlap_share : float
        Share of the smaller of two labels of different classes. Default 0.01: less is a border
        drawn twice.
    max_apart_share : float
        Share of a label's pixels outside its largest group. Default 0.25.
    min_polygons, min_pixels : int
        Of a class and of a label, below which features are no judge. Default 6 and 20.
    deviations : float
        Of distances between features, past the median: farther is unusual. Default 3.
    """

    min_area_km2: float = 0.04
    min_compactness: float = 0.25
    min_width_m: float = 100.0
    min_overlap_share: float = 0.01
    max_apart_share: float = 0.25
    min_polygons: int = 6
    min_pixels: int = 20
    deviations: float = DEVIATIONS


class Reasons:
    """Flags and reasons of each label, in order, as they are found."""

    def __init__(self, n_labels: int) -> None:
        self.flags: list[list[str]] = [[] for _ in range(n_labels)]
        self.reasons: list[list[str]] = [[] for _ in range(n_labels)]

    def add(self, row: int, flag: str, reason: str) -> None:
        """Note a flag of the label in a row, and why it has it."""
        self.flags[row].append(flag)
        self.reasons[row].append(reason)


def flag_shapes(found: Reasons, shapes: pd.DataFrame, rules: QualityRules) -> None:
    """Flags ``invalid``, ``small``, ``complex`` and ``narrow``, of measured shapes."""
    for row, shape in enumerate(shapes.itertuples()):
        if shape.problem:
            found.add(row, "invalid", f"outline is invalid: {shape.problem}")
        if shape.area_km2 < rules.min_area_km2:
            found.add(row, "small", f"{shape.area_km2:.3f} km2, under {rules.min_area_km2:g}")
        if shape.compactness < rules.min_compactness:
            ratio = f"{shape.compactness:.2f}, under {rules.min_compactness:g}"
            found.add(row, "complex", f"compactness {ratio}")
        if shape.width_m < rules.min_width_m:
            width = f"{shape.width_m:.0f} m wide at most, under {rules.min_width_m:g}"
            found.add(row, "narrow", width)


def flag_overlaps(
    found: Reasons, table: pd.DataFrame, overlaps: pd.DataFrame, rules: QualityRules
) -> npt.NDArray[np.float64]:
    """Flags ``contradicts`` and ``duplicate``; gives the largest contradicted share of each."""
    rows = {patch_id: row for row, patch_id in enumerate(table["patch_id"])}
    differ = overlaps["lcz_first"] != overlaps["lcz_second"]
    same = overlaps[~differ & (overlaps["iou"] >= SAME_IOU)].drop_duplicates("second")
    worst = _flag_contradictions(found, table, overlaps[differ], rules, rows)
    for pair in same.itertuples():
        found.add(rows[pair.second], "duplicate", f"repeats {pair.first}")
    return worst


def _flag_contradictions(
    found: Reasons,
    table: pd.DataFrame,
    pairs: pd.DataFrame,
    rules: QualityRules,
    rows: Mapping[str, int],
) -> npt.NDArray[np.float64]:
    areas, worst = table["area_km2"].to_numpy(float), np.zeros(len(table))
    others: dict[int, list[tuple[float, str]]] = {}
    for pair in pairs.itertuples():
        for own, other, lcz in (
            (pair.first, pair.second, pair.lcz_second),
            (pair.second, pair.first, pair.lcz_first),
        ):
            row = rows[own]
            worst[row] = max(worst[row], pair.area_km2 / areas[row])
            if pair.share >= rules.min_overlap_share:
                words = f"LCZ {_letter(lcz)} of {other} on {pair.area_km2:.3f} km2"
                others.setdefault(row, []).append((-pair.area_km2, words))
    for row, told in others.items():
        more = f" and {len(told) - 1} more" if len(told) > 1 else ""
        found.add(row, "contradicts", f"contradicts {min(told)[1]}{more}")
    return worst


def flag_outliers(
    found: Reasons, table: pd.DataFrame, polygons: pd.DataFrame, rules: QualityRules
) -> None:
    """Flags ``unlike_class`` and ``mixed``, of what features say."""
    for row, told in enumerate(polygons.itertuples()):
        if told.is_outlier:
            code = _letter(table["lcz"].iloc[row])
            like = f"; most alike: {told.like}, LCZ {_letter(told.like_lcz)}" if told.like else ""
            far = f"{told.score:.2f} times as far from others of LCZ {code} as is usual"
            found.add(row, "unlike_class", far + like)
        if told.apart_share > rules.max_apart_share:
            apart = f"{told.apart_share:.0%} of its pixels stand apart from its largest group"
            found.add(row, "mixed", apart)


def _letter(code: int) -> str:
    return zone(int(code)).letter
