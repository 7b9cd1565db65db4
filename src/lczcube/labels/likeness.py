"""Likeness: whether labels of a class look like each other, by features that know no rule."""

from __future__ import annotations

from copy import deepcopy

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import xarray as xr

from lczcube.errors import LabelError
from lczcube.labels.outliers import DEVIATIONS, usual_distance
from lczcube.labels.rules import COUNTS

MIN_CELLS = 8
"""A class of fewer cells is not judged: half of them could be the odd ones."""

_MAD_OF_NORMAL = 1.4826

_Float64 = npt.NDArray[np.float64]


def drop_far(
    labels: gpd.GeoDataFrame,
    features: xr.Dataset,
    *,
    min_cells: int = MIN_CELLS,
    deviations: float = DEVIATIONS,
) -> gpd.GeoDataFrame:
    """The rule labels without those that look unlike the others of their class.

    Parameters
    ----------
    labels : geopandas.GeoDataFrame
        From :func:`lczcube.labels.rules.label_by_rules`.
    features : xarray.Dataset
        Of these labels, from :func:`lczcube.aggregate_patches` of an embedding: ``features``, dims
        ``(patch, feature)``, and ``patch_id``, in any order. Computed.
    min_cells : int
        Cells with features that a class must have to be judged. Default 8.
    deviations : float
        Scaled median absolute deviations past the median distance, or half of that distance where
        this is more. Default 3.

    Returns
    -------
    geopandas.GeoDataFrame
        Labels that are near enough and those that could not be judged; their groups stay. The
        counts in ``attrs`` have ``far``, ``not_judged`` and ``why``.

    Raises
    ------
    LabelError
        If a label has no row of features, if none has a value, or if the labels come from no rule.

    Notes
    -----
    The distance is the mean over features of the deviation from the median of the class, in robust
    standard deviations of the class (plain ones of a feature that half of the cells share). Of
    cells drawn from one normal distribution, 8 to 16 of them, it drops 4 % by 4 features, 0.6 % by
    24 and 0.1 % by 64. It finds a few odd cells, not which half of a class is wrong.
    """
    if COUNTS not in labels.attrs:
        raise LabelError("labels without counts of rules; give what label_by_rules gave.")
    values = _values_of(labels, features)
    counts = deepcopy(labels.attrs[COUNTS])
    codes = labels["lcz"].to_numpy()
    is_far = np.zeros(len(labels), bool)
    for of in counts["rules"].values():
        rows = np.flatnonzero(codes == of["lcz"])
        judged = rows[np.isfinite(values[rows]).all(axis=1)]
        of["not_judged"], of["why"] = len(rows) - len(judged), "no features there"
        if len(judged) < min_cells:
            of["not_judged"] = len(rows)
            of["why"] = f"{len(judged)} cells with features, under {min_cells}"
        else:
            distances = _distances(values[judged])
            is_far[judged] = distances > usual_distance(distances, deviations)
        of["far"] = int(is_far[rows].sum())
        of["kept"] = len(rows) - of["far"]
    near = labels[~is_far].reset_index(drop=True)
    near.attrs = labels.attrs | {COUNTS: counts}
    return near


def _values_of(labels: gpd.GeoDataFrame, features: xr.Dataset) -> _Float64:
    """Features of the labels, in their order, without those that none has."""
    rows = {str(patch_id): row for row, patch_id in enumerate(features["patch_id"].values.tolist())}
    missing = [patch_id for patch_id in labels["patch_id"] if patch_id not in rows]
    if missing:
        raise LabelError(
            f"{len(missing)} labels have no row of features, such as {missing[0]!r}; give "
            "aggregate_patches of these labels."
        )
    order = [rows[patch_id] for patch_id in labels["patch_id"]]
    values = features["features"].values[order].astype(np.float64)
    known = np.isfinite(values).any(axis=0)
    if len(values) and not known.any():
        raise LabelError("none of the labels has a feature; do they lie on the embedding?")
    return np.asarray(values[:, known])


def _distances(values: _Float64) -> _Float64:
    apart = values - np.median(values, axis=0)
    scale = _MAD_OF_NORMAL * np.median(np.abs(apart), axis=0)
    scale = np.where(scale > 0, scale, values.std(axis=0))
    varies = scale > 0
    if not varies.any():
        return np.zeros(len(values))
    return np.asarray(np.mean(np.abs(apart[:, varies]) / scale[varies], axis=1))
