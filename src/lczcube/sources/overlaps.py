"""Groups of squares that overlap: what a split must not cut."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

TOUCH_M = 1e-3
"""Squares nearer than this touch."""


def overlap_groups(
    x0: npt.NDArray[np.float64], y0: npt.NDArray[np.float64], side_m: float
) -> npt.NDArray[np.int64]:
    """Row of the first square of the chain of touching squares that each one belongs to.

    Parameters
    ----------
    x0, y0 : numpy.ndarray
        float64, m: upper-left corners in one projected CRS.
    side_m : float
        Side of the squares, m.

    Returns
    -------
    numpy.ndarray
        int64, shape of ``x0``: two squares of different values do not touch.

    Notes
    -----
    Squares along the axes touch where their envelopes do, which the tree knows by itself: exact
    distances took twenty times as long.
    """
    import shapely

    tree = shapely.STRtree(shapely.box(x0, y0 - side_m, x0 + side_m, y0))
    grown = shapely.box(x0 - TOUCH_M, y0 - side_m - TOUCH_M, x0 + side_m + TOUCH_M, y0 + TOUCH_M)
    first, second = tree.query(grown)
    ahead = first < second
    return connected(len(x0), first[ahead], second[ahead])


def connected(
    n: int, first: npt.NDArray[np.intp], second: npt.NDArray[np.intp]
) -> npt.NDArray[np.int64]:
    """Smallest node of the connected component of each of ``n`` nodes, given its edges."""
    root = np.arange(n, dtype=np.int64)
    while True:
        low = np.minimum(root[first], root[second])
        joined = root.copy()
        np.minimum.at(joined, root[first], low)
        np.minimum.at(joined, root[second], low)
        joined = _shortened(joined)
        if np.array_equal(joined, root):
            return root
        root = joined


def _shortened(root: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Every node pointing straight to its root."""
    while True:
        shorter = root[root]
        if np.array_equal(shorter, root):
            return root
        root = shorter
