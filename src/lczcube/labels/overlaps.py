"""Overlaps of labels: those that contradict each other, and those that say the same twice."""

from __future__ import annotations

from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import shapely

from lczcube.errors import LabelError
from lczcube.labels.shapes import to_metres, valid_polygons

SAME_IOU = 0.999
"""Intersection over union from which two outlines are one: a change of CRS keeps more."""

MIN_SHARED_M2 = 1.0
"""Less shared ground than this is the rounding of corners on a common edge."""

COLUMNS = ("first", "second", "lcz_first", "lcz_second", "area_km2", "share", "iou")


def find_overlaps(labels: gpd.GeoDataFrame) -> pd.DataFrame:
    """Pairs of labels that share ground.

    Parameters
    ----------
    labels : geopandas.GeoDataFrame
        With ``patch_id`` and ``lcz``.

    Returns
    -------
    pandas.DataFrame
        One row per pair, sorted: ``first`` < ``second``, their patch ids; ``lcz_first``,
        ``lcz_second``; ``area_km2`` of the ground they share; ``share``, of the smaller one, 0-1;
        ``iou``, of the ground of either, 0-1. Labels that
        only touch are no pair.

    Notes
    -----
    Candidates come from an STRtree: cost grows with the pairs that meet, not with n².
    """
    ordered = to_metres(labels).sort_values("patch_id", kind="stable", ignore_index=True)
    shapes = valid_polygons(ordered.geometry.to_numpy())
    first, second = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    once = first < second
    return _pairs(ordered, shapes, first[once], ordered, shapes, second[once])


@dataclass(frozen=True, eq=False)
class LabelComparison:
    """Two sets of labels beside each other.

    Attributes
    ----------
    n_first, n_second : int
        Labels of each set.
    n_identical : int
        Outlines of the first set that the second has too.
    n_identical_same_class : int
        Those that have the same class there.
    n_contradicting : int
        Pairs of different classes that share ground.
    contradicting_km2, agreeing_km2 : float
        Ground shared by pairs of different classes, and of the same class.
    pairs : pandas.DataFrame
        Every pair that shares ground, as :func:`find_overlaps` gives them; ``first`` is of the
        first set and ``second`` of the second.
    """

    n_first: int
    n_second: int
    n_identical: int
    n_identical_same_class: int
    n_contradicting: int
    contradicting_km2: float
    agreeing_km2: float
    pairs: pd.DataFrame

    @property
    def share_identical(self) -> float:
        """Share of the first set's outlines that the second has too, 0-1."""
        return self.n_identical / self.n_first

    def to_text(self) -> str:
        """A line each on outlines, classes and ground."""
        shared = self.contradicting_km2 + self.agreeing_km2
        agree = f", {self.agreeing_km2 / shared:.0%} of it in agreement" if shared else ""
        return "\n".join(
            (
                f"{self.n_first} and {self.n_second} labels",
                f"identical outlines: {self.n_identical} ({self.share_identical:.0%} of the "
                f"first set), {self.n_identical_same_class} of them with the same class",
                f"shared ground: {shared:.3f} km2 in {len(self.pairs)} pairs{agree}",
                f"contradictions: {self.n_contradicting} pairs, {self.contradicting_km2:.3f} km2",
            )
        )


def compare_labels(first: gpd.GeoDataFrame, second: gpd.GeoDataFrame) -> LabelComparison:
    """How far two sources of labels are the same, agree, or contradict each other.

    Parameters
    ----------
    first, second : geopandas.GeoDataFrame
        With ``patch_id`` and ``lcz``, each in any CRS.

    Returns
    -------
    LabelComparison

    Raises
    ------
    LabelError
        If one of them is empty.
    """
    if first.empty or second.empty:
        raise LabelError(
            f"{len(first)} and {len(second)} labels; a comparison wants some of each source."
        )
    ours = to_metres(first).sort_values("patch_id", kind="stable", ignore_index=True)
    theirs = second.to_crs(ours.crs).sort_values("patch_id", kind="stable", ignore_index=True)
    our_shapes = valid_polygons(ours.geometry.to_numpy())
    their_shapes = valid_polygons(theirs.geometry.to_numpy())
    rows, others = shapely.STRtree(their_shapes).query(our_shapes, predicate="intersects")
    pairs = _pairs(ours, our_shapes, rows, theirs, their_shapes, others)
    differ = pairs["lcz_first"] != pairs["lcz_second"]
    identical = pairs["iou"] >= SAME_IOU
    return LabelComparison(
        n_first=len(ours),
        n_second=len(theirs),
        n_identical=int(pairs.loc[identical, "first"].nunique()),
        n_identical_same_class=int(pairs.loc[identical & ~differ, "first"].nunique()),
        n_contradicting=int(differ.sum()),
        contradicting_km2=float(pairs.loc[differ, "area_km2"].sum()),
        agreeing_km2=float(pairs.loc[~differ, "area_km2"].sum()),
        pairs=pairs,
    )


def _pairs(
    labels: gpd.GeoDataFrame,
    shapes: npt.NDArray[np.object_],
    rows: npt.NDArray[np.intp],
    others: gpd.GeoDataFrame,
    other_shapes: npt.NDArray[np.object_],
    other_rows: npt.NDArray[np.intp],
) -> pd.DataFrame:
    shared = shapely.area(shapely.intersection(shapes[rows], other_shapes[other_rows]))
    own, other = shapely.area(shapes)[rows], shapely.area(other_shapes)[other_rows]
    with np.errstate(invalid="ignore", divide="ignore"):
        share, iou = shared / np.minimum(own, other), shared / (own + other - shared)
    pairs = pd.DataFrame(
        {
            "first": labels["patch_id"].to_numpy(object)[rows],
            "second": others["patch_id"].to_numpy(object)[other_rows],
            "lcz_first": labels["lcz"].to_numpy()[rows],
            "lcz_second": others["lcz"].to_numpy()[other_rows],
            "area_km2": shared / 1e6,
            "share": share,
            "iou": iou,
        },
        columns=list(COLUMNS),
    )
    return pairs[shared >= MIN_SHARED_M2].sort_values(["first", "second"], ignore_index=True)
