"""Groups of squares that overlap: what a split must not cut."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

TOUCH_M = 1e-3
"""Squares nearer than this touch."""


def overlap_groups(squares: npt.NDArray[np.object_]) -> npt.NDArray[np.int64]:
    """Row of the first square of the chain of touching squares that each one belongs to.

    Parameters
    ----------
    squares : numpy.ndarray
        Shapely polygons, in metres.

    Returns
    -------
    numpy.ndarray
        int64, shape of ``squares``: two squares of different values do not touch.
    """
    import shapely

    tree = shapely.STRtree(squares)
    first, second = tree.query(squares, predicate="dwithin", distance=TOUCH_M)
    ahead = first < second
    return connected(len(squares), first[ahead], second[ahead])


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
