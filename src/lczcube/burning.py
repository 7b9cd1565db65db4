"""Polygons burnt on the pixels of a rectangle, by how often their rings run round each centre."""

from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from lczcube.tiles import Rect

_Float64 = npt.NDArray[np.float64]


def burn(polygons: npt.NDArray[Any], rect: Rect) -> npt.NDArray[np.uint8]:
    """Which pixels of a rectangle have their centre in any of some polygons.

    Parameters
    ----------
    polygons : numpy.ndarray
        Polygons and multipolygons, in pixel coordinates of the frame that the rectangle is of.
    rect : Rect
        The rectangle.

    Returns
    -------
    numpy.ndarray
        uint8 ``(rows, columns)``, 1 or 0. A centre on an edge belongs to one of the two sides, for
        all polygons alike: squares that meet leave no gap and share no pixel.

    Notes
    -----
    A crossing is worked out in the frame's coordinates, so that it is the same number in whatever
    rectangle. ``rasterio.features.rasterize`` gives the same but for centres on edges; it took 13
    times as long for 20,000 polygons of 8 corners on 640 x 640 pixels (1.27 s against 0.09 s), one
    thread at a time, as it changes the process's warning filters.
    """
    n_rows, n_columns = rect.shape
    turns = np.zeros((n_rows, n_columns + 1), dtype=np.int32)
    rows, columns, signs = _crossings(polygons, rect)
    np.add.at(turns, (rows - rect.top, columns - rect.left), signs)
    inside: npt.NDArray[np.bool_] = np.cumsum(turns[:, :-1], axis=1) != 0
    return inside.astype(np.uint8)


def _crossings(
    polygons: npt.NDArray[Any], rect: Rect
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Where edges cross the middles of rows: row, first column to the right, and direction."""
    start, end, turn = _edges(polygons)
    is_down = start[:, 1] < end[:, 1]
    # From the upper end, so that an edge that two polygons share is one line.
    upper, lower = (np.where(is_down[:, None], *pair) for pair in ((start, end), (end, start)))
    first = _rows_from(upper[:, 1], rect)
    n_rows = _rows_from(lower[:, 1], rect) - first
    edge = np.repeat(np.arange(len(n_rows)), n_rows)
    rows = np.arange(len(edge)) - np.repeat(np.cumsum(n_rows) - n_rows, n_rows) + first[edge]
    (x0, y0), (x1, y1) = upper[edge].T, lower[edge].T
    x = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
    columns = np.clip(np.floor(x + 0.5), rect.left, rect.right).astype(np.int64)
    return rows, columns, np.where(is_down, turn, -turn)[edge].astype(np.int32)


def _edges(polygons: npt.NDArray[Any]) -> tuple[_Float64, _Float64, npt.NDArray[np.int64]]:
    """Edges of all rings, and the sign that makes outer rings run one way and holes the other."""
    rings, owner = shapely.get_rings(shapely.get_parts(polygons), return_index=True)
    is_outer = np.diff(owner, prepend=-1) != 0
    turn = np.where(shapely.is_ccw(rings) == is_outer, 1, -1)
    points, ring = shapely.get_coordinates(rings, return_index=True)
    is_edge = ring[1:] == ring[:-1]
    return points[:-1][is_edge], points[1:][is_edge], turn[ring[1:][is_edge]]


def _rows_from(y: _Float64, rect: Rect) -> npt.NDArray[np.int64]:
    """The first row of a rectangle whose middle lies at or below ``y``."""
    return np.clip(np.ceil(y - 0.5), rect.top, rect.bottom).astype(np.int64)
