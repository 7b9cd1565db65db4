"""Squares rebuilt from their images in longitude and latitude.

A square of a UTM zone is a turned quadrilateral in longitude and latitude, and the box around that
is larger than the square. What both keep is the middle: a square is laid where its own box has the
middle of the given one, and how well the boxes agree then tells whether the zone was right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lczcube.sources.so2sat_cities import CITIES, nearest_city, utm_epsg

if TYPE_CHECKING:
    from pyproj import Transformer

_N_STEPS = 3
_M_PER_DEGREE = 111_200.0

_Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RebuiltSquares:
    """Squares of one CRS.

    Attributes
    ----------
    crs : str
        ``EPSG:n``.
    rows : numpy.ndarray
        Which of the boxes they are made of.
    x0, y0 : numpy.ndarray
        float64, m: upper-left corners.
    deviation_m : numpy.ndarray
        float64: how far an edge of the box around each square lies from that of the given box.
    """

    crs: str
    rows: npt.NDArray[np.intp]
    x0: _Float64
    y0: _Float64
    deviation_m: _Float64


def rebuilt_squares(
    boxes: _Float64, *, size_m: float, crs: str | None = None
) -> list[RebuiltSquares]:
    """Squares of UTM zones whose images have these bounds, zone by zone.

    Parameters
    ----------
    boxes : numpy.ndarray
        float64 ``(n, 4)``: west, south, east, north, EPSG:4326.
    size_m : float
        Side of a square, m.
    crs : str, optional
        Projected CRS of the squares. Default, box by box: the zone that So2Sat's authors used where
        its middle lies in a city of theirs, else the UTM zone that its middle lies in.
    """
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    zones = _zones(middle) if crs is None else np.full(len(boxes), crs, dtype=object)
    made = []
    for zone in sorted(set(zones)):
        rows = np.flatnonzero(zones == zone)
        made.append(_rebuilt(boxes[rows], rows, str(zone), size_m))
    return made


def _zones(middle: _Float64) -> npt.NDArray[np.object_]:
    lon, lat = middle.T
    names, distance = nearest_city(lon, lat)
    zones = np.array([f"EPSG:{utm_epsg(*point)}" for point in middle], dtype=object)
    for name in np.unique(names[distance == 0]):
        zones[(names == name) & (distance == 0)] = f"EPSG:{CITIES[str(name)].epsg}"
    return zones


def _rebuilt(
    boxes: _Float64, rows: npt.NDArray[np.intp], crs: str, size_m: float
) -> RebuiltSquares:
    from pyproj import Transformer

    to_zone = Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    to_lonlat = Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    wanted = (boxes[:, :2] + boxes[:, 2:]) / 2
    aim = wanted.copy()
    for _ in range(_N_STEPS):
        x, y = to_zone.transform(aim[:, 0], aim[:, 1])
        around = _box_around(x, y, size_m, to_lonlat)
        aim += wanted - (around[:, :2] + around[:, 2:]) / 2
    apart = np.abs(around - boxes) * _M_PER_DEGREE
    apart[:, [0, 2]] *= np.cos(np.radians(wanted[:, 1:]))
    return RebuiltSquares(crs, rows, x - size_m / 2, y + size_m / 2, apart.max(axis=1))


def _box_around(x: _Float64, y: _Float64, size_m: float, to_lonlat: Transformer) -> _Float64:
    """West, south, east, north of squares around middles."""
    half = size_m / 2
    corners = [
        to_lonlat.transform(x + east * half, y + north * half)
        for east in (-1, 1)
        for north in (-1, 1)
    ]
    lon, lat = (np.stack([corner[axis] for corner in corners]) for axis in (0, 1))
    return np.column_stack([lon.min(0), lat.min(0), lon.max(0), lat.max(0)])
