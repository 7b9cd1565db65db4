"""The zones of a synthetic city: which class every pixel truly has, and where nothing was seen.

A zone is a cell of a Voronoi diagram of jittered points, bent by smooth waves. Any window can be
drawn alone, so a city of any size is never held in memory.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from lczcube.grid import Grid

PIXEL_M = 10
WATER = 17

# Ten classes that every city has (a small city has the head of the list, which holds the twins of
# `embedding.TWINS`), and those of which each city has two.
_COMMON = (17, 2, 3, 11, 6, 14, 8, 5, 12, 16)
_SOME = (1, 4, 7, 9, 10, 13, 15)
_N_SOME = 2

# So2Sat LCZ42 training counts (Zhu et al. 2020) of classes 1-17.
_SO2SAT = (
    *(5068, 24431, 31693, 8651, 16493, 35290, 3269, 39326, 13584),
    *(11954, 42902, 9514, 9165, 41377, 2392, 7898, 49359),
)

# From the core of a city outwards.
_OUTWARDS = (1, 2, 10, 3, 8, 4, 5, 15, 7, 6, 9, 12, 16, 17, 13, 14, 11)


@dataclass(frozen=True)
class Window:
    """Pixels ``[x0, x1)`` by ``[y0, y1)``, counted from the zone's zero; y northwards."""

    x0: int
    y0: int
    x1: int
    y1: int

    @classmethod
    def of_grid(cls, grid: Grid) -> Self:
        """All pixels of a grid."""
        minx, miny, maxx, maxy = (round(v / PIXEL_M) for v in grid.bbox)
        return cls(minx, miny, maxx, maxy)

    @property
    def shape(self) -> tuple[int, int]:
        """``(rows, columns)``."""
        return self.y1 - self.y0, self.x1 - self.x0

    def grown(self, margin_px: int) -> "Window":
        """The window with a margin on all four sides."""
        m = margin_px
        return Window(self.x0 - m, self.y0 - m, self.x1 + m, self.y1 + m)

    def parts(self, side_px: int) -> Iterator["Window"]:
        """Windows of at most ``side_px`` that cover this one, from its south-west corner."""
        for y in range(self.y0, self.y1, side_px):
            for x in range(self.x0, self.x1, side_px):
                yield Window(x, y, min(x + side_px, self.x1), min(y + side_px, self.y1))


@dataclass(frozen=True, eq=False)
class ZoneMap:
    """The true classes of a city, for any window of its UTM zone.

    Attributes
    ----------
    window : Window
        The pixels of the city.
    side_px : float
        Distance of the points before they are jittered: about the width of a zone.
    points : numpy.ndarray
        float64 ``(rows, columns, 2)``: x, y of each zone's point in sides, from the city's corner.
    lcz : numpy.ndarray
        uint8 ``(rows, columns)``: class of each zone.
    waves : numpy.ndarray
        float64 ``(2, n, 4)``: for x and y, the waves' amplitude (sides), two wave numbers (radians
        per side) and phase.
    """

    window: Window
    side_px: float
    points: npt.NDArray[np.float64]
    lcz: npt.NDArray[np.uint8]
    waves: npt.NDArray[np.float64]

    def zones(self, window: Window) -> npt.NDArray[np.int32]:
        """Number of the zone each pixel lies in, int32, rows from south to north."""
        x, y = _bent(self._sides(window), self.waves)
        rows, columns = self.lcz.shape
        row = np.clip(np.floor(y).astype(np.int32) + _RING, 1, rows - 2)
        column = np.clip(np.floor(x).astype(np.int32) + _RING, 1, columns - 2)
        flat = self.points.reshape(-1, 2).astype(np.float32)
        nearest = np.full(window.shape, np.inf, dtype=np.float32)
        zone = np.zeros(window.shape, dtype=np.int32)
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                candidate = (row + dy) * columns + column + dx
                distance = (flat[candidate, 0] - x) ** 2 + (flat[candidate, 1] - y) ** 2
                closer = distance < nearest
                nearest = np.where(closer, distance, nearest)
                zone = np.where(closer, candidate, zone)
        return zone

    def classes(self, window: Window) -> npt.NDArray[np.uint8]:
        """Class 1-17 of each pixel, also where nothing was seen; rows from south to north."""
        return self.lcz.reshape(-1)[self.zones(window)]

    def seen(self, window: Window) -> npt.NDArray[np.bool_]:
        """False in the cut south-east corner and in the hole; rows from south to north."""
        x, y = self._sides(window)
        height, width = (n / self.side_px for n in self.window.shape)
        corner = (width - x) / width + y / height < _CORNER
        hole = (abs(x / width - _HOLE_X) < _HOLE_WIDTH) & (abs(y / height - _HOLE_Y) < _HOLE_HEIGHT)
        return ~(corner | hole)

    def truth(self, window: Window) -> npt.NDArray[np.uint8]:
        """Class of each pixel, 0 where nothing was seen; rows from south to north."""
        return np.where(self.seen(window), self.classes(window), 0).astype(np.uint8)

    def sea(self, window: Window) -> npt.NDArray[np.bool_]:
        """True on water that a land mask leaves out; rows from south to north.

        Of the water zones of the city every second one is a lake, which a land mask counts as land.
        """
        is_water = self.lcz == WATER
        is_inside = np.zeros_like(is_water)
        is_inside[_RING:-_RING, _RING:-_RING] = True
        is_sea = is_water.reshape(-1)
        is_sea[np.flatnonzero(is_water & is_inside)[1::2]] = False
        return np.asarray(is_sea[self.zones(window)])

    def _sides(self, window: Window) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        x = (np.arange(window.x0, window.x1) + 0.5 - self.window.x0) / self.side_px
        y = (np.arange(window.y0, window.y1) + 0.5 - self.window.y0) / self.side_px
        return x.astype(np.float32)[None, :], y.astype(np.float32)[:, None]


_RING = 2
_JITTER = 0.30
_CORNER = 0.22
_HOLE_X, _HOLE_Y, _HOLE_WIDTH, _HOLE_HEIGHT = 0.30, 0.72, 0.035, 0.025
_N_WAVES = 4
_PER_CLASS = 3


def zone_map(grid: Grid, rng: np.random.Generator) -> ZoneMap:
    """A random zone map over a grid: 12 classes where the city is large enough.

    Parameters
    ----------
    grid : Grid
        The city, 10 m pixels on whole multiples of 10 m.
    rng : numpy.random.Generator
        Source of the zones' places and classes.
    """
    window = Window.of_grid(grid)
    side_px = _side_px(window)
    n_rows, n_columns = (math.ceil(n / side_px) for n in window.shape)
    shape = (n_rows + 2 * _RING, n_columns + 2 * _RING)
    points = _points(shape, rng)
    lcz = _classes(points, n_rows, n_columns, rng)
    return ZoneMap(window, side_px, points, lcz, _waves(rng))


def _side_px(window: Window) -> float:
    """Zones of 500-1,000 m: six to a side of the city where that lies between."""
    side = min(window.shape)
    return side / max(1, round(side / min(max(side / 6, 50.0), 100.0)))


def _points(shape: tuple[int, int], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    rows, columns = np.indices(shape)
    jitter = rng.uniform(-_JITTER, _JITTER, size=(*shape, 2))
    return np.stack([columns, rows], axis=-1) + 0.5 - _RING + jitter


def _waves(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    angle = rng.uniform(0, 2 * np.pi, size=(2, _N_WAVES))
    number = 2 * np.pi / rng.uniform(0.8, 2.5, size=(2, _N_WAVES))
    amplitude = rng.uniform(0.02, 0.05, size=(2, _N_WAVES))
    phase = rng.uniform(0, 2 * np.pi, size=(2, _N_WAVES))
    return np.stack([amplitude, number * np.cos(angle), number * np.sin(angle), phase], axis=-1)


def _bent(
    sides: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]],
    waves: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    x, y = sides
    small = waves.astype(np.float32)
    bent_x = x + sum(a * np.sin(kx * x + ky * y + phase) for a, kx, ky, phase in small[0])
    bent_y = y + sum(a * np.sin(kx * x + ky * y + phase) for a, kx, ky, phase in small[1])
    return bent_x, bent_y


def _classes(
    points: npt.NDArray[np.float64], n_rows: int, n_columns: int, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Deal classes to zones: by prior, each class at least once, built ones nearer the core."""
    inside = (slice(_RING, _RING + n_rows), slice(_RING, _RING + n_columns))
    lcz = np.zeros(points.shape[:2], dtype=np.uint8)
    chosen = _chosen(n_rows * n_columns, rng)
    weights = _weights(chosen, rng)
    lcz[inside] = _dealt(points[inside], chosen, weights, rng)
    ring = lcz == 0
    lcz[ring] = rng.choice(chosen, size=int(ring.sum()), p=weights)
    return lcz


def _chosen(n_zones: int, rng: np.random.Generator) -> list[int]:
    some = sorted(rng.choice(_SOME, size=_N_SOME, replace=False).tolist())
    room = max(2, n_zones // _PER_CLASS) if n_zones < _PER_CLASS * 12 else 12
    return [*_COMMON, *some][:room]


def _weights(chosen: list[int], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Square roots of So2Sat's counts, varied by city: rare classes stay rare but present."""
    counts = np.array([_SO2SAT[code - 1] for code in chosen], dtype=np.float64)
    weights = np.sqrt(counts) * rng.lognormal(0.0, 0.3, size=counts.size)
    return np.asarray(weights / weights.sum())


def _dealt(
    points: npt.NDArray[np.float64],
    chosen: list[int],
    weights: npt.NDArray[np.float64],
    rng: np.random.Generator,
) -> npt.NDArray[np.uint8]:
    n_zones = points.shape[0] * points.shape[1]
    deck = np.repeat(chosen, _shares(weights, n_zones))
    rank = np.array([_OUTWARDS.index(code) for code in deck]) + rng.normal(0, 4.0, n_zones)
    half = np.array([points.shape[1], points.shape[0]]) / 2
    far = np.abs(points / half - 1).max(axis=-1).reshape(-1) + rng.normal(0, 0.2, n_zones)
    dealt = np.zeros(n_zones, dtype=np.uint8)
    dealt[np.argsort(far, kind="stable")] = deck[np.argsort(rank, kind="stable")]
    return dealt.reshape(points.shape[:2])


def _shares(weights: npt.NDArray[np.float64], n_zones: int) -> npt.NDArray[np.int64]:
    """Zones per class by largest remainder, two at least where there are enough zones."""
    least = 2 if n_zones >= 2 * weights.size else 1
    wanted = weights * (n_zones - least * weights.size)
    counts = np.floor(wanted).astype(np.int64) + least
    short = n_zones - int(counts.sum())
    counts[np.argsort(counts - least - wanted, kind="stable")[:short]] += 1
    return counts
