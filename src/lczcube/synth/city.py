"""A city of a synthetic world, as it is drawn before anything is written."""

import math
from dataclasses import dataclass

import numpy as np

from lczcube.grid import BBox, Grid
from lczcube.synth.labels import Patch, draw_patches
from lczcube.synth.zones import ZoneMap, zone_map

CHUNK_CELLS = 5
_KM_PER_DEGREE = 111.2


@dataclass(frozen=True, eq=False)
class City:
    """A drawn city.

    Attributes
    ----------
    number : int
        0, 1, 2 ...: even ones are northern.
    name : str
        ``synthetic_north``, ``synthetic_south``, ``synthetic_north_2`` ...
    bbox : tuple of float
        ``(minx, miny, maxx, maxy)``, EPSG:4326.
    grid : Grid
        The bbox grown to whole cells.
    zone_map : ZoneMap
        The truth.
    patches : list of Patch
        The labels.
    """

    number: int
    name: str
    bbox: BBox
    grid: Grid
    zone_map: ZoneMap
    patches: list[Patch]


def draw_city(number: int, *, km: float, seed: int) -> City:
    """Draw city ``number`` of a world, ``km`` a side: same number and seed, same city."""
    is_north = number % 2 == 0
    turn = number // 2 + 1
    name = "synthetic_" + ("north" if is_north else "south") + (f"_{turn}" if turn > 1 else "")
    bbox = _bbox(number, km)
    grid = Grid.from_bbox(bbox, chunk_cells=CHUNK_CELLS)
    truth = zone_map(grid, np.random.default_rng([seed, number, 10]))
    patches = draw_patches(truth, np.random.default_rng([seed, number, 11]))
    return City(number, name, bbox, grid, truth, patches)


def _bbox(number: int, km: float) -> BBox:
    """A place in zone 32N, 39S, 46N, 53S ... away from the zone's edge and its middle."""
    zone = (31 + 7 * number) % 60 + 1
    lon = zone * 6 - 183 + 1.3
    lat = 48.1 - number % 15 if number % 2 == 0 else -26.2 - number % 15
    half_lat = km / 2 / _KM_PER_DEGREE
    half_lon = half_lat / math.cos(math.radians(lat))
    west, east, south, north = lon - half_lon, lon + half_lon, lat - half_lat, lat + half_lat
    return round(west, 5), round(south, 5), round(east, 5), round(north, 5)
