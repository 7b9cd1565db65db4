"""Tiles of TESSERA's 0.1 degree grid: their names, their boxes, and their pixels' lattice."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Self

from lczcube.sources.footprints import BBox

N_BANDS = 128
BAND_NAMES = tuple(f"T{band:03d}" for band in range(N_BANDS))
PIXEL_M = 10

SNAP_TOLERANCE_PX = 1e-6
"""An origin this near a multiple of 10 m is one: else 500000.0000001 would move a pixel."""

_NAME = re.compile(r"grid_(-?\d+\.\d{2})_(-?\d+\.\d{2})")


@dataclass(frozen=True, order=True)
class GridTile:
    """A tile, by its centre in hundredths of a degree: odd multiples of 5.

    Integers, so that neighbours share their edge to the bit.

    Attributes
    ----------
    lon_i, lat_i : int
        The publisher's keys: longitude and latitude of the centre times 100.
    """

    lon_i: int
    lat_i: int

    @classmethod
    def of_name(cls, name: str) -> Self | None:
        """The tile of a name such as ``grid_-0.05_51.45``; None for any other text.

        Examples
        --------
        >>> GridTile.of_name("grid_-0.05_51.45")
        GridTile(lon_i=-5, lat_i=5145)
        >>> GridTile.of_name("grid_0.10_51.45")
        """
        found = _NAME.fullmatch(name)
        if found is None:
            return None
        tile = cls(*(round(float(text) * 100) for text in found.groups()))
        return tile if tile._is_on_grid else None

    @classmethod
    def at(cls, lon: float, lat: float) -> Self:
        """The tile that holds a point, EPSG:4326; its west and south edge belong to it."""
        return cls(math.floor(lon * 10) * 10 + 5, math.floor(lat * 10) * 10 + 5)

    @property
    def name(self) -> str:
        """The publisher's name, ``grid_{lon:.2f}_{lat:.2f}``."""
        return f"grid_{self.lon_i / 100:.2f}_{self.lat_i / 100:.2f}"

    @property
    def bbox(self) -> BBox:
        """``(west, south, east, north)``, EPSG:4326."""
        return (
            (self.lon_i - 5) / 100,
            (self.lat_i - 5) / 100,
            (self.lon_i + 5) / 100,
            (self.lat_i + 5) / 100,
        )

    @property
    def crs(self) -> str:
        """The UTM zone of the centre, by longitude alone; 327zz south of the equator."""
        zone = min((self.lon_i + 18_000) // 600 + 1, 60)
        return f"EPSG:{(32600 if self.lat_i >= 0 else 32700) + zone}"

    def projected_bbox(self) -> BBox:
        """``(minx, miny, maxx, maxy)`` of the projected corners, in :attr:`crs`, not snapped.

        The publisher's formula: upper-left is the origin of the land mask.
        """
        from pyproj import Transformer

        west, south, east, north = self.bbox
        to_utm = Transformer.from_crs("EPSG:4326", self.crs, always_xy=True)
        (ul, ur, ll, lr) = (
            to_utm.transform(lon, lat)
            for lon, lat in ((west, north), (east, north), (west, south), (east, south))
        )
        return min(ul[0], ll[0]), min(ll[1], lr[1]), max(ur[0], lr[0]), max(ul[1], ur[1])

    def mask_shape(self) -> tuple[int, int]:
        """``(rows, columns)`` of the land mask: the extent in whole pixels, rounded."""
        minx, miny, maxx, maxy = self.projected_bbox()
        return round((maxy - miny) / PIXEL_M), round((maxx - minx) / PIXEL_M)

    @property
    def _is_on_grid(self) -> bool:
        return (
            self.lon_i % 10 == 5
            and self.lat_i % 10 == 5
            and abs(self.lon_i) < 18_000
            and abs(self.lat_i) < 9_000
        )


def snap_outward(x: float, y: float) -> tuple[float, float]:
    """The pixel corner at or left above a point: where TESSERA's pixels begin.

    The publisher lays pixels out from ``floor(x / 10)``, ``ceil(y / 10)`` but writes the point
    itself into the land mask (geotessera issue 429).

    Examples
    --------
    >>> snap_outward(493043.547, 5705433.907)
    (493040.0, 5705440.0)
    >>> snap_outward(500000.0000001, 5000000.0000001)
    (500000.0, 5000000.0)
    """
    column = math.floor(x / PIXEL_M + SNAP_TOLERANCE_PX)
    row = math.ceil(y / PIXEL_M - SNAP_TOLERANCE_PX)
    return float(column * PIXEL_M), float(row * PIXEL_M)
