"""Meta's and WRI's canopy heights of synthetic cities, in the layouts of both versions.

Trees stand on a jittered lattice, more and taller ones where the true zone has them, and are domes
in whole metres. Where nothing was imaged a tile holds 0: version 1 says so in a mask, version 2 by
footprints.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import rasterio
import shapely
from affine import Affine
from pyproj import Transformer
from rasterio.shutil import copy as copy_raster
from rasterio.windows import Window as RasterWindow

from lczcube.grid import project_bbox
from lczcube.sources.canopy_tiles import VERSIONS, Version
from lczcube.sources.quadkeys import CRS, QuadTile, tiles_meeting
from lczcube.synth.city import City
from lczcube.synth.files import HALO_PX, tags
from lczcube.synth.zones import PIXEL_M, Window

SPACING_M = 8
"""Distance of the points that a tree may stand at, before they are moved."""

_SHIFT = 0.3
_RADII_M = (2.0, 4.5)
_BLOCK_PX = 256
_MASK_VALID = 255
_PER_DATASET = "2"
"""By this tag GDAL knows the mask of all bands (GMF_PER_DATASET)."""

_IMAGES = (((0.0, 0.0, 0.6, 1.0), "2018-07-14"), ((0.5, 0.4, 1.0, 1.0), "2020-06-02"))
"""Parts of a city (west, south, east, north) that were imaged, and when: the south-east was not."""


class Stand(NamedTuple):
    """Trees of a zone: share of the points that have one, and their heights in metres."""

    density: float
    lowest_m: float
    highest_m: float


_BUILT, _OPEN, _SPARSE = Stand(0.03, 4, 9), Stand(0.2, 5, 12), Stand(0.25, 5, 14)
_NONE = Stand(0, 0, 0)
STANDS: Mapping[int, Stand] = {
    **dict.fromkeys((1, 2, 3, 7, 8, 10), _BUILT),
    **dict.fromkeys((4, 5, 6), _OPEN),
    9: _SPARSE,
    11: Stand(0.95, 10, 26),
    12: Stand(0.35, 7, 18),
    13: Stand(0.5, 1, 2.4),
    14: Stand(0.02, 4, 10),
    **dict.fromkeys((15, 16, 17), _NONE),
}
"""By zone: dense trees (11), scattered (12), bushes under 2.5 m (13), few where it is built."""


def write_canopy(
    out: str | Path, cities: Sequence[City], *, seed: int, version: int = 2, side_px: int = 8192
) -> list[Path]:
    """Write synthetic tiles of canopy height of cities, in the publisher's layout.

    Parameters
    ----------
    out : str or Path
        Folder to write into: ``chm/{quadkey}.tif``, ``metadata/{quadkey}.geojson``,
        ``tiles.geojson`` and, of version 1, ``msk/{quadkey}.tif.msk``.
    cities : sequence of City
        Of a world, from :func:`lczcube.synth.draw_city`.
    seed : int
        Of the trees.
    version : int
        1: strips of one row, with masks. 2: COGs with overviews of averages (default).
    side_px : int
        Pixels along a side of a tile. Default: 4.8 m at the equator in version 2; the publisher's
        tiles have 65,536 and 32,768.

    Returns
    -------
    list of Path
        The tiles of heights, by quadkey.

    Notes
    -----
    Only rows of a city are drawn and stored, but a COG is made from all rows of a tile.
    """
    out = Path(out)
    layout = next(v for v in VERSIONS.values() if v.number == version)
    tiles = _tiles_of(cities, layout)
    for folder in ("chm", "metadata", *(["msk"] if layout.has_mask else [])):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for tile, city in tiles.items():
        _write_tile(_Sheet(tile, city, seed, side_px), out, layout)
    _write_json(out / "tiles.geojson", [_index_row(tile) for tile in tiles])
    return [out / "chm" / f"{tile.quadkey}.tif" for tile in tiles]


def canopy_heights(city: City, x: Any, y: Any, *, seed: int) -> npt.NDArray[np.uint8]:
    """Height of the trees over points of a city's zone, in whole metres; 0 between them.

    Parameters
    ----------
    city : City
        Whose zones the trees stand in.
    x, y : numpy.ndarray
        float64, points in the CRS of the city's grid.
    seed : int
        Of the trees.
    """
    column, row = (np.floor(v / SPACING_M).astype(np.int64) for v in (x, y))
    tallest = np.zeros(np.shape(x))
    trees = _Trees.around(city, column, row, seed)
    for d_row in (-1, 0, 1):
        for d_column in (-1, 0, 1):
            at = trees.place(column + d_column, row + d_row)
            radius, top = trees.radius[at], trees.height[at]
            apart = ((x - trees.x[at]) ** 2 + (y - trees.y[at]) ** 2) / radius**2
            np.maximum(tallest, np.where(apart < 1, top * (1 - apart / 2), 0), out=tallest)
    return np.rint(tallest).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class _Trees:
    """The points of the lattice around some pixels, ``(rows, columns)``, northwards."""

    first: tuple[int, int]
    x: npt.NDArray[np.float64]
    y: npt.NDArray[np.float64]
    radius: npt.NDArray[np.float64]
    height: npt.NDArray[np.float64]

    @classmethod
    def around(cls, city: City, column: Any, row: Any, seed: int) -> "_Trees":
        rows = np.arange(row.min() - 1, row.max() + 2)[:, None]
        columns = np.arange(column.min() - 1, column.max() + 2)[None]
        drawn = [_random(rows, columns, seed, stream) for stream in range(5)]
        x = (columns + 0.5 + _SHIFT * (2 * drawn[0] - 1)) * SPACING_M
        y = (rows + 0.5 + _SHIFT * (2 * drawn[1] - 1)) * SPACING_M
        density, lowest, highest = np.moveaxis(_stands(city, x, y), -1, 0)
        height = np.where(drawn[2] < density, lowest + drawn[3] * (highest - lowest), 0)
        radius = _RADII_M[0] + drawn[4] * (_RADII_M[1] - _RADII_M[0])
        return cls((int(rows[0, 0]), int(columns[0, 0])), x, y, radius, height)

    def place(self, column: Any, row: Any) -> tuple[Any, Any]:
        """Where points of the lattice are in the arrays."""
        return row - self.first[0], column - self.first[1]


def _stands(city: City, x: Any, y: Any) -> npt.NDArray[np.float64]:
    """Density and heights of the zone at each point."""
    column, row = (np.floor(v / PIXEL_M).astype(np.int64) for v in (x, y))
    window = Window(*(int(v) for v in (column.min(), row.min(), column.max() + 1, row.max() + 1)))
    zones = city.zone_map.classes(window)[row - window.y0, column - window.x0]
    table = np.array([_NONE, *(STANDS[zone] for zone in range(1, 18))], dtype=np.float64)
    stands: npt.NDArray[np.float64] = table[zones]
    return stands


def _random(rows: Any, columns: Any, seed: int, stream: int) -> npt.NDArray[np.float64]:
    """Uniform numbers in [0, 1) of points, whatever is drawn beside them (splitmix64)."""
    mixed = np.asarray(rows * 0x9E3779B1 + columns * 0x85EBCA77, dtype=np.int64).astype(np.uint64)
    mixed = mixed + np.uint64((seed * 8 + stream + 1) * 0x9E3779B97F4A7C15 % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return (mixed ^ (mixed >> np.uint64(31))) / 2.0**64


@dataclass(frozen=True, eq=False)
class _Sheet:
    """A tile to write, and the city on it."""

    tile: QuadTile
    city: City
    seed: int
    side_px: int

    @property
    def transform(self) -> Affine:
        return Affine(*self.tile.transform(self.side_px))

    def parts(self) -> Iterator[RasterWindow]:
        """Windows of whole blocks that hold the city."""
        bbox = project_bbox(_covered(self.city), self.city.grid.crs, CRS)
        left, top = ~self.transform * (bbox[0], bbox[3])
        right, bottom = ~self.transform * (bbox[2], bbox[1])
        first_row, last_row = (min(max(int(v), 0), self.side_px - 1) for v in (top, bottom))
        first, last = (min(max(int(v), 0), self.side_px - 1) for v in (left, right))
        for row in range(first_row - first_row % _BLOCK_PX, last_row + 1, _BLOCK_PX):
            for column in range(first - first % _BLOCK_PX, last + 1, _BLOCK_PX):
                side = min(_BLOCK_PX, self.side_px)
                yield RasterWindow(column, row, side, side)

    def draw(self, part: RasterWindow) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """Heights of a window, 0 where nothing was imaged, and where something was."""
        columns, rows = np.meshgrid(
            np.arange(part.width) + part.col_off + 0.5, np.arange(part.height) + part.row_off + 0.5
        )
        to_city = Transformer.from_crs(CRS, self.city.grid.crs, always_xy=True)
        to_lonlat = Transformer.from_crs(CRS, "EPSG:4326", always_xy=True)
        mercator = self.transform * (columns, rows)
        x, y = to_city.transform(*mercator)
        imaged = shapely.union_all([image for image, _ in _images(self.city)])
        shapely.prepare(imaged)
        is_imaged = shapely.intersects_xy(imaged, *to_lonlat.transform(*mercator))
        heights = canopy_heights(self.city, x, y, seed=self.seed)
        return np.where(is_imaged, heights, 0).astype(np.uint8), is_imaged


def _tiles_of(cities: Sequence[City], layout: Version) -> dict[QuadTile, City]:
    """The tiles of the cities; none holds two, as cities are far apart."""
    found: dict[QuadTile, City] = {}
    for city in cities:
        bbox = project_bbox(_covered(city), city.grid.crs, "EPSG:4326")
        found |= dict.fromkeys(tiles_meeting([bbox], layout.zoom), city)
    return dict(sorted(found.items()))


def _covered(city: City) -> tuple[float, float, float, float]:
    """The city and its surroundings, in its CRS."""
    window = city.zone_map.window.grown(HALO_PX)
    x0, y0, x1, y1 = (float(v * PIXEL_M) for v in (window.x0, window.y0, window.x1, window.y1))
    return x0, y0, x1, y1


def _images(city: City) -> list[tuple[shapely.Polygon, str]]:
    """What was imaged, EPSG:4326, and when."""
    west, south, east, north = project_bbox(_covered(city), city.grid.crs, "EPSG:4326")
    return [
        (
            shapely.box(
                west + x0 * (east - west),
                south + y0 * (north - south),
                west + x1 * (east - west),
                south + y1 * (north - south),
            ),
            day,
        )
        for (x0, y0, x1, y1), day in _IMAGES
    ]


def _write_tile(sheet: _Sheet, out: Path, layout: Version) -> None:
    name = sheet.tile.quadkey
    path = out / "chm" / f"{name}.tif"
    if layout.has_mask:
        with (
            rasterio.open(path, "w", **_strips(sheet)) as heights,
            rasterio.open(out / "msk" / f"{name}.tif.msk", "w", **_strips(sheet)) as mask,
        ):
            heights.update_tags(**tags(sheet.seed), UNITS="METERS")
            mask.update_tags(**tags(sheet.seed), INTERNAL_MASK_FLAGS_1=_PER_DATASET)
            _fill_rows(sheet, heights, mask)
    else:
        _write_cog(sheet, path)
    _write_json(out / "metadata" / f"{name}.geojson", [_image_row(*i) for i in _images(sheet.city)])


def _profile(sheet: _Sheet) -> dict[str, Any]:
    return {
        "driver": "GTiff",
        "dtype": "uint8",
        "count": 1,
        "height": sheet.side_px,
        "width": sheet.side_px,
        "crs": CRS,
        "transform": sheet.transform,
        "compress": "deflate",
        "sparse_ok": True,
        "bigtiff": "if_safer",
    }


def _strips(sheet: _Sheet) -> dict[str, Any]:
    """Layout of version 1; rows that are not written are 0 and take no room."""
    return _profile(sheet) | {"tiled": False, "blockysize": 1, "predictor": 2}


def _fill_rows(sheet: _Sheet, heights: Any, mask: Any) -> None:
    """Write whole rows, as one that is written twice is stored twice."""
    by_row: dict[int, list[RasterWindow]] = {}
    for part in sheet.parts():
        by_row.setdefault(part.row_off, []).append(part)
    for row, parts in by_row.items():
        whole = RasterWindow(0, row, sheet.side_px, parts[0].height)
        rows = np.zeros((2, int(whole.height), sheet.side_px), dtype=np.uint8)
        for part in parts:
            columns = slice(part.col_off, part.col_off + part.width)
            rows[0, :, columns], is_imaged = sheet.draw(part)
            rows[1, :, columns] = np.where(is_imaged, _MASK_VALID, 0)
        heights.write(rows[0], 1, window=whole)
        mask.write(rows[1], 1, window=whole)


def _write_cog(sheet: _Sheet, path: Path) -> None:
    draft = path.with_suffix(".draft.tif")
    tiling = {"tiled": True, "blockxsize": _BLOCK_PX, "blockysize": _BLOCK_PX}
    with rasterio.open(draft, "w", **_profile(sheet), **tiling) as heights:
        heights.update_tags(**tags(sheet.seed), UNITS="METERS")
        for part in sheet.parts():
            heights.write(sheet.draw(part)[0], 1, window=part)
    copy_raster(
        draft,
        path,
        driver="COG",
        compress="deflate",
        predictor="standard",
        blocksize=_BLOCK_PX,
        overview_resampling="average",
        bigtiff="if_safer",
    )
    draft.unlink()


def _index_row(tile: QuadTile) -> dict[str, Any]:
    return _feature(shapely.box(*tile.bbox), {"tile": tile.quadkey, "synthetic": True})


def _image_row(image: shapely.Polygon, day: str) -> dict[str, Any]:
    return _feature(image, {"acq_date": day, "synthetic": True})


def _feature(geometry: shapely.Geometry, properties: dict[str, Any]) -> dict[str, Any]:
    outline = shapely.geometry.mapping(geometry)
    return {"type": "Feature", "properties": properties, "geometry": outline}


def _write_json(path: Path, features: list[dict[str, Any]]) -> None:
    collection = {"type": "FeatureCollection", "features": features}
    path.write_text(json.dumps(collection, indent=1) + "\n", encoding="utf-8")
