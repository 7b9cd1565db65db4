"""Labels by rule beside those that somebody gave: which stay, why not, and their samples."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from lczcube.labels.likeness import drop_far
from lczcube.labels.origins import (
    LABEL,
    ORIGIN,
    RULE,
    groups_near,
    is_by_rule,
    touches_other_class,
)
from lczcube.labels.rules import COUNTS

Mask = npt.NDArray[np.bool_]


def keep_beside(
    rules: gpd.GeoDataFrame,
    labels: gpd.GeoDataFrame,
    *,
    evaluation: Mask | None = None,
    exclude_eval_m: float = 320,
) -> gpd.GeoDataFrame:
    """The labels by rule that contradict no label, and are not near one that is only scored.

    Parameters
    ----------
    rules : geopandas.GeoDataFrame
        From :func:`lczcube.labels.label_by_rules`.
    labels : geopandas.GeoDataFrame
        Label table of the same city, in the same CRS.
    evaluation : numpy.ndarray, optional
        bool, shape (n,): labels that are only scored. Default: none, as where each is scored in a
        fold of its own; see :func:`lczcube.labels.split_labels`.
    exclude_eval_m : float
        A group of cells within this distance of such a label is dropped, m. Default 320.

    Returns
    -------
    geopandas.GeoDataFrame
        The counts in ``attrs`` have ``contradict_a_label`` (a cell that touches a label of another
        class) and ``near_evaluation``.

    Notes
    -----
    A model sees a window of the width of a cell around each pixel of a polygon: the distance to a
    polygon is taken from half a cell around it.
    """
    contradicts = touches_other_class(rules.geometry.to_numpy(), rules["lcz"].to_numpy(), labels)
    near = np.zeros(len(rules), bool)
    if evaluation is not None and len(rules):
        scored = labels[evaluation]
        seen_m = np.where(np.isfinite(scored["size_m"]), 0, rules["size_m"].max() / 2)
        shapes, groups = rules.geometry.to_numpy(), rules["group"].to_numpy()
        near = groups_near(shapes, groups, scored.geometry.to_numpy(), exclude_eval_m + seen_m)
    reasons = {"contradict_a_label": contradicts, "near_evaluation": near & ~contradicts}
    return _without(rules, reasons)


def join_rules(labels: gpd.GeoDataFrame, rules: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Labels and labels by rule as one table, with the column ``origin``: ``label``, ``rule``."""
    parts = [labels.assign(**{ORIGIN: LABEL}), rules.assign(**{ORIGIN: RULE})]
    filled = [part for part in parts if len(part)] or parts[:1]
    return gpd.GeoDataFrame(pd.concat(filled, ignore_index=True), crs=labels.crs)


def keep_alike(
    rules: gpd.GeoDataFrame,
    samples: xr.Dataset,
    *,
    features: Sequence[str] | None,
    deviations: float,
) -> tuple[gpd.GeoDataFrame, xr.Dataset]:
    """Labels by rule that are samples and look like the others of their class, and all samples.

    Parameters
    ----------
    rules : geopandas.GeoDataFrame
        Labels by rule.
    samples : xarray.Dataset
        Of them and of other labels, with ``origin``.
    features : sequence of str or None
        Features that they are compared by; None to compare nothing.
    deviations : float
        See :func:`lczcube.labels.drop_far`.

    Returns
    -------
    tuple
        The labels by rule that are left, whose counts have ``no_pixels`` (too few valid pixels) and
        those of :func:`lczcube.labels.drop_far`; the samples of them and of the other labels.
    """
    by_rule = is_by_rule(samples)
    there = rules["patch_id"].isin(samples["patch_id"].values[by_rule]).to_numpy(bool)
    left = _without(rules, {"no_pixels": ~there})
    if features is not None:
        of_rules = samples["features"].isel(sample=by_rule).sel(feature=list(features))
        left = drop_far(
            left,
            xr.Dataset(
                {"features": (("patch", "feature"), of_rules.values)},
                coords={"patch_id": ("patch", samples["patch_id"].values[by_rule])},
            ),
            deviations=deviations,
        )
    stays = ~by_rule | np.isin(samples["patch_id"].values, left["patch_id"].to_numpy())
    return left, samples.isel(sample=np.flatnonzero(stays))


def _without(rules: gpd.GeoDataFrame, reasons: dict[str, Mask]) -> gpd.GeoDataFrame:
    """The labels for whose dropping there is no reason; the counts say how many there are."""
    dropped = np.any(list(reasons.values()), axis=0)
    counts = deepcopy(rules.attrs[COUNTS])
    codes = rules["lcz"].to_numpy()
    for of in counts["rules"].values():
        own = codes == of["lcz"]
        of |= {reason: int((rows & own).sum()) for reason, rows in reasons.items()}
        of["kept"] = int((own & ~dropped).sum())
    left = rules[~dropped].reset_index(drop=True)
    left.attrs = rules.attrs | {COUNTS: counts}
    return left
