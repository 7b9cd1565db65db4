"""Quadkeys: names of the tiles of the web map, and where their pixels lie in EPSG:3857."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from lczcube.sources.footprints import BBox

CRS = "EPSG:3857"

WORLD_M = 40_075_016.685578488
"""Side of the square that the world is in EPSG:3857."""

MAX_LAT = math.degrees(math.atan(math.sinh(math.pi)))
"""Where that square ends, 85.05 degrees."""

_QUADKEY = re.compile(r"[0-3]+")


@dataclass(frozen=True, order=True)
class QuadTile:
    """A tile of the web map.

    Attributes
    ----------
    zoom : int
        The world is ``2**zoom`` tiles wide.
    x, y : int
        Column from the west and row from the north, from 0.
    """

    zoom: int
    x: int
    y: int

    @classmethod
    def of_quadkey(cls, quadkey: str) -> Self:
        """The tile of a quadkey; its digits are the halves that it lies in, largest first.

        Raises
        ------
        ValueError
            If there is another character than 0, 1, 2 and 3, or none.

        Examples
        --------
        >>> QuadTile.of_quadkey("120210233")
        QuadTile(zoom=9, x=275, y=167)
        """
        if not _QUADKEY.fullmatch(quadkey):
            raise ValueError(f"{quadkey!r} is no quadkey; its digits are 0 to 3.")
        x = int("".join("1" if digit in "13" else "0" for digit in quadkey), 2)
        y = int("".join("1" if digit in "23" else "0" for digit in quadkey), 2)
        return cls(len(quadkey), x, y)

    @classmethod
    def at(cls, lon: float, lat: float, zoom: int) -> Self:
        """The tile that holds a point, EPSG:4326; its west and north edge belong to it."""
        n = 2**zoom
        lat = min(max(lat, -MAX_LAT), MAX_LAT)
        x = math.floor((lon + 180) / 360 * n)
        y = math.floor((1 - math.asinh(math.tan(math.radians(lat))) / math.pi) / 2 * n)
        return cls(zoom, min(max(x, 0), n - 1), min(max(y, 0), n - 1))

    @property
    def quadkey(self) -> str:
        """Its name."""
        digits = ((self.x >> bit & 1) + 2 * (self.y >> bit & 1) for bit in range(self.zoom))
        return "".join(map(str, digits))[::-1]

    @property
    def bbox(self) -> BBox:
        """``(west, south, east, north)``, EPSG:4326."""
        n = 2**self.zoom
        west, east = (x / n * 360 - 180 for x in (self.x, self.x + 1))
        north, south = (
            math.degrees(math.atan(math.sinh(math.pi * (1 - 2 * y / n))))
            for y in (self.y, self.y + 1)
        )
        return west, south, east, north

    def transform(self, n_px: int) -> tuple[float, float, float, float, float, float]:
        """``a, b, c, d, e, f`` in EPSG:3857 of the tile as ``n_px`` by ``n_px`` pixels."""
        side_m = WORLD_M / 2**self.zoom
        west, north = self.x * side_m - WORLD_M / 2, WORLD_M / 2 - self.y * side_m
        return side_m / n_px, 0.0, west, 0.0, -side_m / n_px, north


def tiles_meeting(boxes: Iterable[BBox], zoom: int) -> list[QuadTile]:
    """The tiles that share ground with boxes in EPSG:4326, sorted, each once."""
    found: set[QuadTile] = set()
    for west, south, east, north in boxes:
        first, last = QuadTile.at(west, north, zoom), QuadTile.at(east, south, zoom)
        found |= {
            QuadTile(zoom, x, y)
            for x in range(first.x, last.x + 1)
            for y in range(first.y, last.y + 1)
        }
    return sorted(found)
