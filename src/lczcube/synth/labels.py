"""The labelled patches of a synthetic city: sites of overlapping 320 m squares, as So2Sat's."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lczcube.grid import BBox
from lczcube.synth.zones import PIXEL_M, Window, ZoneMap

PATCH_PX = 32
PATCH_M = PATCH_PX * PIXEL_M
STEP_M = 100
MIN_SHARE = 0.8


@dataclass(frozen=True)
class Patch:
    """A labelled square: upper-left corner in metres, class 1-17, number of its site."""

    x0: float
    y0: float
    lcz: int
    site: int


def draw_patches(
    zone_map: ZoneMap, rng: np.random.Generator, *, zone_share: float = 0.5, max_per_site: int = 25
) -> list[Patch]:
    """Patches of a city, site after site.

    Each class labels about ``zone_share`` of its zones. A site is one zone's positions on a 100 m
    grid of its own, which lies off the pixels' lattice. Sites do not touch each other.

    Parameters
    ----------
    zone_map : ZoneMap
        The truth.
    rng : numpy.random.Generator
        Chooses the zones and the offset of each site.
    zone_share : float
        Share of each class's zones, 0-1; one zone at least.
    max_per_site : int
        Patches a site has at most, those nearest to its zone's point.
    """
    patches: list[Patch] = []
    boxes: list[BBox] = []
    for codes in _zones_by_class(zone_map, rng):
        wanted = max(1, round(zone_share * len(codes)))
        for zone in codes:
            if wanted == 0:
                break
            site = _site(zone_map, zone, len(boxes), boxes, rng)[:max_per_site]
            if len(site) < _MIN_PER_SITE:
                continue
            patches.extend(site)
            boxes.append(_box(site))
            wanted -= 1
    return patches


_MIN_PER_SITE = 4


def splits(patches: list[Patch]) -> list[str]:
    """Split of each patch, by site: of each class the second and third site validate and test.

    Odd classes test first, even ones validate first, so that both have half of the classes where
    a class has two sites. All other sites train.
    """
    order: dict[int, list[int]] = {}
    for patch in patches:
        sites = order.setdefault(patch.lcz, [])
        if patch.site not in sites:
            sites.append(patch.site)
    return [_split(p.lcz, order[p.lcz].index(p.site)) for p in patches]


def _split(code: int, place: int) -> str:
    if place not in (1, 2):
        return "training"
    return "testing" if (code + place) % 2 == 0 else "validation"


def _zones_by_class(zone_map: ZoneMap, rng: np.random.Generator) -> Iterator[list[int]]:
    flat = zone_map.lcz.reshape(-1)
    points = zone_map.points.reshape(-1, 2)
    height, width = (n / zone_map.side_px for n in zone_map.window.shape)
    inside = ((points > 0) & (points < [width, height])).all(axis=1)
    for code in np.unique(flat[inside]):
        yield rng.permutation(np.flatnonzero(inside & (flat == code))).tolist()


def _site(
    zone_map: ZoneMap,
    zone: int,
    number: int,
    boxes: list[BBox],
    rng: np.random.Generator,
) -> list[Patch]:
    """All legal patches of a zone, nearest to its point first."""
    side_m = zone_map.side_px * PIXEL_M
    corner_m = np.array([zone_map.window.x0, zone_map.window.y0]) * PIXEL_M
    centre = corner_m + zone_map.points.reshape(-1, 2)[zone] * side_m
    steps = STEP_M * np.arange(-(side_m // STEP_M), side_m // STEP_M + 1)
    first = (centre - PATCH_M / 2) // STEP_M * STEP_M + rng.integers(1, STEP_M * 1000, 2) / 1000
    legal = _Legal.around(zone_map, zone, first + steps[0], first + steps[-1])
    code = int(zone_map.lcz.reshape(-1)[zone])
    found = []
    for south in first[1] + steps:
        for west in first[0] + steps:
            box = (west, south, west + PATCH_M, south + PATCH_M)
            if legal.at(west, south) and not _touches(box, boxes):
                far = math.hypot(*(np.array([west, south]) + PATCH_M / 2 - centre))
                patch = Patch(round(west, 3), round(south + PATCH_M, 3), code, number)
                found.append((far, patch))
    return [patch for _, patch in sorted(found, key=lambda pair: pair[0])]


@dataclass(frozen=True, eq=False)
class _Legal:
    """Which 32 x 32 pixel squares of a window may be patches, by their south-west pixel."""

    window: Window
    is_legal: npt.NDArray[np.bool_]

    @classmethod
    def around(
        cls,
        zone_map: ZoneMap,
        zone: int,
        low: npt.NDArray[np.float64],
        high: npt.NDArray[np.float64],
    ) -> "_Legal":
        """For squares whose south-west corners lie between two points."""
        (x0, y0), (x1, y1) = (_first_px(corner) for corner in (low, high))
        window = Window(x0, y0, x1 + PATCH_PX, y1 + PATCH_PX)
        zones = zone_map.zones(window)
        code = zone_map.lcz.reshape(-1)[zone]
        share = _square_mean(zone_map.lcz.reshape(-1)[zones] == code)
        seen = _square_mean(zone_map.seen(window) & _inside(zone_map.window, window))
        half = PATCH_PX // 2
        own = zones[half : half + share.shape[0], half : half + share.shape[1]] == zone
        return cls(window, (share >= MIN_SHARE) & (seen == 1) & own)

    def at(self, west: float, south: float) -> bool:
        """True when the square with this south-west corner, m, may be a patch."""
        x, y = _first_px(np.array([west, south]))
        return bool(self.is_legal[y - self.window.y0, x - self.window.x0])


def _first_px(corner_m: npt.NDArray[np.float64]) -> tuple[int, int]:
    """The first pixel whose centre lies past a corner, from the south-west."""
    x, y = np.ceil(corner_m / PIXEL_M - 0.5).astype(int)
    return int(x), int(y)


def _inside(city: Window, window: Window) -> npt.NDArray[np.bool_]:
    x = np.arange(window.x0, window.x1)
    y = np.arange(window.y0, window.y1)
    inside_x = (x >= city.x0) & (x < city.x1)
    inside_y = (y >= city.y0) & (y < city.y1)
    return inside_y[:, None] & inside_x[None, :]


def _square_mean(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Share of true pixels in each 32 x 32 square, by its first pixel."""
    total = np.pad(mask.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    n = PATCH_PX
    count = total[n:, n:] - total[:-n, n:] - total[n:, :-n] + total[:-n, :-n]
    return np.asarray(count / n**2)


def _touches(box: BBox, boxes: list[BBox]) -> bool:
    west, south, east, north = box
    return any(west < b[2] and b[0] < east and south < b[3] and b[1] < north for b in boxes)


def _box(site: list[Patch]) -> BBox:
    """Bounds of a site's patches."""
    west = min(p.x0 for p in site)
    east = max(p.x0 for p in site) + PATCH_M
    south = min(p.y0 for p in site) - PATCH_M
    north = max(p.y0 for p in site)
    return west, south, east, north
