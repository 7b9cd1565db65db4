"""Open Buildings 2.5D of synthetic cities: tiles of 0.5 m, and manifests of them.

Buildings are rectangles in lots of 48 m, as many, as large and as high as the true zone at the
middle of the lot has them. Every pixel of a building holds its share of one building, so that
counts add up to the number of buildings.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from rasterio.shutil import copy as copy_raster
from rasterio.windows import Window as RasterWindow

from lczcube.errors import ConfigError
from lczcube.sources.open_buildings_pixels import BLOCK_PX, BUILDING_BANDS, NODATA
from lczcube.sources.open_buildings_pixels import PIXEL_M as FINE_M
from lczcube.synth.city import City
from lczcube.synth.files import HALO_PX, tags
from lczcube.synth.zones import PIXEL_M, Window

PREFIX = "gs://lczcube-synthetic.invalid/open-buildings/v1/geotiffs"
"""Where the manifests say their tiles are: a bucket that cannot exist."""

TILE_PX = 25_000
"""Side of the publisher's tiles, pixels."""

LOT_PX = 96
"""Side of a lot, pixels of 0.5 m; divided by the buildings along it."""

_FINE = round(PIXEL_M / FINE_M)
_ORIGIN_PX = (8, 4)
_PART_PX = 960
_STREAM = 3


class _Built(NamedTuple):
    """Buildings of a zone: along a lot's side, their share of it, heights (m), how often."""

    n_along: int
    share: float
    lowest_m: float
    highest_m: float
    occupied: float = 0.9


# Within the ranges of Stewart & Oke (2012) for building surface fraction and height of roughness.
_ZONES = {
    1: _Built(1, 0.55, 26, 80),
    2: _Built(2, 0.6, 10, 25),
    3: _Built(4, 0.6, 3, 10),
    4: _Built(1, 0.33, 26, 60),
    5: _Built(1, 0.33, 10, 25),
    6: _Built(3, 0.33, 3, 10),
    7: _Built(6, 0.8, 2, 4),
    8: _Built(1, 0.45, 3, 10),
    9: _Built(2, 0.17, 3, 10),
    10: _Built(1, 0.28, 5, 15),
    **{code: _Built(2, 0.01, 3, 6, 0.05) for code in range(11, 17)},
}


class Building(NamedTuple):
    """A building: pixels of 0.5 m ``[x0, x1)`` by ``[y0, y1)`` from the zone's zero, y northwards.

    ``height_m`` in metres, ``presence`` 0-1.
    """

    x0: int
    y0: int
    x1: int
    y1: int
    height_m: float
    presence: float

    @property
    def area_px(self) -> int:
        """Pixels of 0.5 m."""
        return (self.x1 - self.x0) * (self.y1 - self.y0)


def buildings(city: City, window: Window, *, seed: int) -> Iterator[Building]:
    """Buildings of the lots that a window of pixels of 0.5 m touches, lot by lot."""
    lots = Window(
        window.x0 // LOT_PX,
        window.y0 // LOT_PX,
        -(-window.x1 // LOT_PX),
        -(-window.y1 // LOT_PX),
    )
    classes = _classes_of(city, lots)
    for y in range(lots.y0, lots.y1):
        for x in range(lots.x0, lots.x1):
            built = _ZONES.get(int(classes[y - lots.y0, x - lots.x0]))
            if built is not None:
                rng = np.random.default_rng([seed, city.number, _STREAM, x, y])
                yield from _of_lot(built, x * LOT_PX, y * LOT_PX, rng)


def _classes_of(city: City, lots: Window) -> npt.NDArray[np.uint8]:
    """Class at the middle of each lot, rows from south to north."""
    x = ((np.arange(lots.x0, lots.x1) + 0.5) * LOT_PX / _FINE).astype(np.int64)
    y = ((np.arange(lots.y0, lots.y1) + 0.5) * LOT_PX / _FINE).astype(np.int64)
    around = Window(int(x[0]), int(y[0]), int(x[-1]) + 1, int(y[-1]) + 1)
    return city.zone_map.classes(around)[np.ix_(y - around.y0, x - around.x0)]


def _of_lot(built: _Built, left: int, bottom: int, rng: np.random.Generator) -> Iterator[Building]:
    side = LOT_PX // built.n_along
    for row in range(built.n_along):
        for column in range(built.n_along):
            is_there, stretch, height, presence, at_x, at_y = rng.random(6)
            if is_there >= built.occupied:
                continue
            area = built.share / built.occupied * side**2
            width = min(max(round(np.sqrt(area) * (0.85 + 0.3 * stretch)), 2), side - 1)
            depth = min(max(round(area / width), 2), side - 1)
            x = left + column * side + int(at_x * (side - width))
            y = bottom + row * side + int(at_y * (side - depth))
            yield Building(
                x,
                y,
                x + width,
                y + depth,
                built.lowest_m + height * (built.highest_m - built.lowest_m),
                0.6 + 0.35 * presence,
            )


@dataclass(frozen=True, eq=False)
class _Tile:
    """One tile to write: its pixels of 0.5 m, and its file below ``geotiffs/``."""

    city: City
    window: Window
    folder: str
    name: str


def write_open_buildings(
    out: str | Path,
    cities: Sequence[City],
    *,
    seed: int,
    year: int,
    tile_px: int = TILE_PX,
    block_px: int = BLOCK_PX,
) -> list[Path]:
    """Write synthetic Open Buildings of cities, in the layout of the publisher's bucket.

    Parameters
    ----------
    out : str or Path
        Folder to write into: ``v1/geotiffs/{token}_{year}_06_30/tile_….tif`` and
        ``v1/manifests/{token}_EPSG_{epsg}_{year}_06_30.json``. Tokens are made up.
    cities : sequence of City
        From :func:`lczcube.synth.draw_city`.
    seed, year : int
        Those of the world.
    tile_px : int
        Side of a tile, pixels of 0.5 m. Default: the publisher's 25,000. Pixels more than 480 m
        from the city have no data, and take no room.
    block_px : int
        Side of a block, a multiple of 16. Default: the publisher's 512.

    Returns
    -------
    list of Path
        The manifests, one a city.

    Raises
    ------
    ConfigError
        If a side is none that a tile can have.

    Notes
    -----
    Streams: memory does not grow with a tile, but for GDAL's block cache. A draft stands beside a
    tile while it is turned into a COG, which takes a minute for a tile of the publisher's side.
    """
    if tile_px < 16 or block_px < 16 or block_px % 16:
        raise ConfigError(
            f"tile_px = {tile_px}, block_px = {block_px}: a tile has a side of 16 pixels or more, "
            "a block a multiple of 16."
        )
    out = Path(out)
    manifests = []
    for city in cities:
        tiles = _tiles_of(city, seed=seed, year=year, tile_px=tile_px)
        for tile in tiles:
            _write_tile(out / "v1" / "geotiffs" / tile.folder / tile.name, tile, seed, block_px)
        manifests.append(_write_manifest(out / "v1" / "manifests", city, tiles, year))
    return manifests


def _tiles_of(city: City, *, seed: int, year: int, tile_px: int) -> list[_Tile]:
    """Tiles that cover a city, from an origin that is a multiple of 0.5 m but not of 10 m."""
    covered = _covered(city)
    left, top = covered.x0 - _FINE + _ORIGIN_PX[0], covered.y1 + _ORIGIN_PX[1]
    tiles = []
    for y1 in range(top, covered.y0, -tile_px):
        for x0 in range(left, covered.x1, tile_px):
            window = Window(x0, y1 - tile_px, x0 + tile_px, y1)
            name = hashlib.sha256(f"{seed} {city.number} {year} {x0} {y1}".encode()).hexdigest()
            folder = f"{_token(city)}{name[:3]}_{year}_06_30"
            tiles.append(_Tile(city, window, folder, f"tile_{name[3:14]}.tif"))
    return tiles


def _covered(city: City) -> Window:
    """Pixels of 0.5 m that have data: the city's and those around it."""
    w = city.zone_map.window.grown(HALO_PX)
    return Window(w.x0 * _FINE, w.y0 * _FINE, w.x1 * _FINE, w.y1 * _FINE)


def _token(city: City) -> str:
    return f"{0x30 + city.number % 0x40:02x}"


def _write_tile(path: Path, tile: _Tile, seed: int, block_px: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft.tif")
    window = tile.window
    common: dict[str, Any] = {"compress": "deflate", "predictor": 3, "bigtiff": "if_safer"}
    profile = {
        "driver": "GTiff",
        "dtype": "float32",
        "count": len(BUILDING_BANDS),
        "height": window.shape[0],
        "width": window.shape[1],
        "crs": tile.city.grid.crs,
        "transform": Affine(FINE_M, 0, window.x0 * FINE_M, 0, -FINE_M, window.y1 * FINE_M),
        "nodata": NODATA,
        "tiled": True,
        "blockxsize": block_px,
        "blockysize": block_px,
        "sparse_ok": True,
        **common,
    }
    with rasterio.open(draft, "w", **profile) as raster:
        raster.update_tags(**tags(seed))
        for part in _overlap(window, _covered(tile.city)).parts(_PART_PX):
            place = RasterWindow(
                part.x0 - window.x0, window.y1 - part.y1, part.shape[1], part.shape[0]
            )
            raster.write(bands_of(tile.city, part, seed=seed)[:, ::-1], window=place)
    options = {"blocksize": block_px, "overview_resampling": "average", "sparse_ok": True}
    copy_raster(draft, path, driver="COG", **options, **common)
    draft.unlink()


def _overlap(a: Window, b: Window) -> Window:
    return Window(max(a.x0, b.x0), max(a.y0, b.y0), min(a.x1, b.x1), min(a.y1, b.y1))


def bands_of(city: City, window: Window, *, seed: int) -> npt.NDArray[np.float32]:
    """The three bands of a window of pixels of 0.5 m, float32 ``(3, y, x)``, south to north.

    Nodata where the world was not seen.
    """
    bands = np.zeros((len(BUILDING_BANDS), *window.shape), dtype=np.float32)
    for building in buildings(city, window, seed=seed):
        part = _overlap(Window(*building[:4]), window)
        rows = slice(part.y0 - window.y0, max(part.y1 - window.y0, 0))
        columns = slice(part.x0 - window.x0, max(part.x1 - window.x0, 0))
        bands[0, rows, columns] = 1 / building.area_px
        bands[1, rows, columns] = building.height_m
        bands[2, rows, columns] = building.presence
    coarse = Window(
        window.x0 // _FINE, window.y0 // _FINE, -(-window.x1 // _FINE), -(-window.y1 // _FINE)
    )
    seen = city.zone_map.seen(coarse).repeat(_FINE, axis=0).repeat(_FINE, axis=1)
    rows = slice(window.y0 - coarse.y0 * _FINE, window.y1 - coarse.y0 * _FINE)
    columns = slice(window.x0 - coarse.x0 * _FINE, window.x1 - coarse.x0 * _FINE)
    bands[:, ~seen[rows, columns]] = NODATA
    return bands


def _write_manifest(folder: Path, city: City, tiles: Sequence[_Tile], year: int) -> Path:
    """A manifest as the publisher's: its prefix ends inside a token, zeros are left out."""
    folder.mkdir(parents=True, exist_ok=True)
    token, epsg = _token(city), city.grid.crs.removeprefix("EPSG:")
    path = folder / f"{token}_EPSG_{epsg}_{year}_06_30.json"
    missing = {"missingData": {"values": [NODATA]}}
    said = {
        "name": f"projects/lczcube-synthetic/assets/{path.stem}",
        "uriPrefix": f"{PREFIX}/{token}",
        "tilesets": [{"sources": [_source(tile, token) for tile in tiles]}],
        "bands": [
            {"id": name, **({"tilesetBandIndex": i} if i else {}), **missing}
            for i, name in enumerate(BUILDING_BANDS)
        ],
        "startTime": f"{year}-06-30T00:00:00Z",
        "properties": {"synthetic": "true"},
    }
    path.write_text(json.dumps(said, indent=1) + "\n")
    return path


def _source(tile: _Tile, token: str) -> dict[str, Any]:
    window = tile.window
    affine = {
        "scaleX": FINE_M,
        "translateX": window.x0 * FINE_M,
        "scaleY": -FINE_M,
        "translateY": window.y1 * FINE_M,
    }
    return {
        "uris": [f"{tile.folder.removeprefix(token)}/{tile.name}"],
        "affineTransform": affine,
        "dimensions": {"width": window.shape[1], "height": window.shape[0]},
    }
