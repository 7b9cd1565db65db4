"""Origins: which rows of labels or samples somebody labelled, and which a rule did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import shapely

if TYPE_CHECKING:
    import geopandas as gpd
    import xarray as xr

ORIGIN = "origin"
"""The column. Labels and samples without it are labels, all of them."""

LABEL, RULE, PSEUDO = "label", "rule", "pseudo"

Mask = npt.NDArray[np.bool_]


def is_by_rule(rows: pd.DataFrame | xr.Dataset) -> Mask:
    """Which rows of a table, or which samples, have their class from a rule."""
    if ORIGIN in rows:
        return np.asarray(rows[ORIGIN].to_numpy() == RULE, dtype=bool)
    n = len(rows) if isinstance(rows, pd.DataFrame) else rows.sizes["sample"]
    return np.zeros(n, bool)


def groups_near(
    squares: npt.NDArray[Any],
    groups: npt.NDArray[Any],
    others: npt.NDArray[Any],
    distance_m: float | npt.NDArray[np.float64],
) -> Mask:
    """Which squares are of a group that comes near others: a lake is near as a whole.

    Parameters
    ----------
    squares : numpy.ndarray
        Geometries in metres, shape (n,).
    groups : numpy.ndarray
        Group of each, shape (n,).
    others : numpy.ndarray
        Geometries in the same CRS, shape (m,).
    distance_m : float or numpy.ndarray
        How near is near, of all others or of each, m. 0 is touching.
    """
    near = np.zeros(len(squares), bool)
    if len(squares) and len(others):
        far = np.broadcast_to(distance_m, len(others))
        _, found = shapely.STRtree(squares).query(others, predicate="dwithin", distance=far)
        near[found] = True
    return np.isin(groups, groups[near])


def touches_other_class(
    shapes: npt.NDArray[Any], lcz: npt.NDArray[np.uint8], labels: gpd.GeoDataFrame
) -> Mask:
    """Which shapes of a made label touch a label of another class.

    Parameters
    ----------
    shapes : numpy.ndarray
        Geometries, shape (n,).
    lcz : numpy.ndarray
        uint8, (n,): what they were labelled as.
    labels : geopandas.GeoDataFrame
        With ``lcz``, in the same CRS; may be empty.
    """
    touches = np.zeros(len(shapes), bool)
    if len(shapes) and len(labels):
        shape, label = labels.sindex.query(shapes, predicate="intersects")
        touches[shape[lcz[shape] != labels["lcz"].to_numpy()[label]]] = True
    return touches
