"""Maps of zones of synthetic cities as others publish them: the truth at about 100 m, with errors.

A pixel has the true zone of its centre, or, in a stated share of pixels, another zone of the city.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from pyproj import Transformer
from rasterio.windows import Window as RasterWindow

from lczcube import lcz
from lczcube.sources.lcz_editions import GLOBAL_ORIGIN, GLOBAL_PIXEL
from lczcube.sources.lcz_map import GENERATOR_BANDS
from lczcube.synth.city import City
from lczcube.synth.files import tags
from lczcube.synth.zones import PIXEL_M, Window

ERROR_SHARE = 0.2
"""Default share of pixels with another zone than the true one: published maps reach 0.7 to 0.85."""

LEGACY_PIXEL_M = 100
LEGACY_NODATA = -999

_N_MODELS = 25
_PART_PX = 64
_STREAM = 30

_UInt8 = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class _Frame:
    """Pixels of a map."""

    crs: str
    transform: Affine
    shape: tuple[int, int]


@dataclass(frozen=True)
class _Part:
    """A square of a map.

    Attributes
    ----------
    window : rasterio.windows.Window
        Where it lies.
    raw, filtered : numpy.ndarray
        uint8, 1-17, 0 past the city and where nothing was seen; of the errors of ``raw`` half are
        put right in ``filtered``.
    agreement : numpy.ndarray
        uint8, per cent of 25 models: lower where ``raw`` is wrong.
    """

    window: RasterWindow
    raw: _UInt8
    filtered: _UInt8
    agreement: _UInt8


def write_generator_map(
    out: str | Path, city: City, *, seed: int, error_share: float = ERROR_SHARE
) -> Path:
    """Write a city's map as the LCZ Generator does: three bands by description, EPSG:4326.

    Parameters
    ----------
    out : str or Path
        Folder to write into.
    city : City
        From :func:`lczcube.synth.draw_city`.
    seed : int
        Of the errors.
    error_share : float
        Share of wrong pixels in ``lcz``, 0-1; ``lczFilter`` has half of them.

    Returns
    -------
    Path
        ``{id}.tif``; the id is 40 hex digits, made of the city's name and the seed.
    """
    frame = _lonlat_frame(city, (0.0, 0.0))
    name = hashlib.sha1(f"{city.name} {seed}".encode(), usedforsecurity=False).hexdigest()
    path = Path(out) / f"{name}.tif"
    with _created(path, frame, seed, count=3, dtype="uint8", error_share=error_share) as file:
        file.descriptions = GENERATOR_BANDS
        for part in _parts(city, frame, seed, error_share):
            file.write(np.stack([part.raw, part.filtered, part.agreement]), window=part.window)
    return path


def write_legacy_map(
    out: str | Path, city: City, *, seed: int, error_share: float = ERROR_SHARE
) -> Path:
    """Write a city's map as the old WUDAPT portal did: one float32 band, UTM, A-G as 101-107.

    Nodata is -999. ``error_share`` is that of the map; the rest as in :func:`write_generator_map`.
    """
    frame = _utm_frame(city)
    path = Path(out) / f"{city.name}_lcz.tif"
    stored = np.array([LEGACY_NODATA, *(z.legacy_code for z in lcz.ZONES)], dtype=np.float32)
    with _created(
        path, frame, seed, count=1, dtype="float32", nodata=LEGACY_NODATA, error_share=error_share
    ) as file:
        for part in _parts(city, frame, seed, error_share):
            file.write(stored[part.raw], 1, window=part.window)
    return path


def write_global_map(
    out: str | Path, city: City, *, seed: int, error_share: float = ERROR_SHARE
) -> Path:
    """Write a crop of a map on the global map's lattice, with its colour table, over a city.

    ``error_share`` is that of the unfiltered map, of which half remains; the rest as in
    :func:`write_generator_map`.
    """
    frame = _lonlat_frame(city, GLOBAL_ORIGIN)
    path = Path(out) / city.name / "lcz_filter_v3.tif"
    with _created(
        path, frame, seed, count=1, dtype="uint8", nodata=lcz.NODATA, error_share=error_share / 2
    ) as file:
        colors = {code: (*rgb, 255) for code, rgb in enumerate(lcz.colors().tolist())}
        file.write_colormap(1, colors | {lcz.NODATA: (255, 255, 255, 0)})
        for part in _parts(city, frame, seed, error_share):
            file.write(part.filtered, 1, window=part.window)
    return path


def _lonlat_frame(city: City, origin: tuple[float, float]) -> _Frame:
    """The city's bbox grown to whole pixels of a lattice in degrees."""
    west, south, east, north = city.bbox
    left = math.floor((west - origin[0]) / GLOBAL_PIXEL)
    right = math.ceil((east - origin[0]) / GLOBAL_PIXEL)
    top = math.floor((origin[1] - north) / GLOBAL_PIXEL)
    bottom = math.ceil((origin[1] - south) / GLOBAL_PIXEL)
    corner = (origin[0] + left * GLOBAL_PIXEL, origin[1] - top * GLOBAL_PIXEL)
    transform = Affine(GLOBAL_PIXEL, 0, corner[0], 0, -GLOBAL_PIXEL, corner[1])
    return _Frame("EPSG:4326", transform, (bottom - top, right - left))


def _utm_frame(city: City) -> _Frame:
    west, south, east, north = (v / LEGACY_PIXEL_M for v in city.grid.bbox)
    left, top = math.floor(west), math.ceil(north)
    shape = (top - math.floor(south), math.ceil(east) - left)
    side = LEGACY_PIXEL_M
    return _Frame(city.grid.crs, Affine(side, 0, left * side, 0, -side, top * side), shape)


def _created(
    path: Path, frame: _Frame, seed: int, *, error_share: float, **profile: Any
) -> rasterio.io.DatasetWriter:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows, columns = frame.shape
    place = {"crs": frame.crs, "transform": frame.transform, "height": rows, "width": columns}
    stored = {"tiled": True, "blockxsize": _PART_PX, "blockysize": _PART_PX, "compress": "lzw"}
    file = rasterio.open(path, "w", driver="GTiff", **place, **stored, **profile)
    file.update_tags(**tags(seed), error_share=f"{error_share:g}")
    return file


def _parts(city: City, frame: _Frame, seed: int, error_share: float) -> Iterator[_Part]:
    """The map square by square; a square does not depend on the others."""
    present = np.unique(city.zone_map.lcz)
    to_city = Transformer.from_crs(frame.crs, city.grid.crs, always_xy=True)
    rows, columns = frame.shape
    for top in range(0, rows, _PART_PX):
        for left in range(0, columns, _PART_PX):
            shape = (min(_PART_PX, rows - top), min(_PART_PX, columns - left))
            truth = _truth(city, to_city, frame.transform * Affine.translation(left, top), shape)
            rng = np.random.default_rng([seed, city.number, _STREAM, top, left])
            window = RasterWindow(left, top, shape[1], shape[0])
            yield _with_errors(truth, present, window, rng, error_share)


def _truth(city: City, to_city: Transformer, transform: Affine, shape: tuple[int, int]) -> _UInt8:
    """True zone at the centres of a square of the map, north-up; 0 past the city."""
    grid_y, grid_x = np.mgrid[: shape[0], : shape[1]] + 0.5
    x, y = to_city.transform(*(transform * (grid_x, grid_y)))
    columns, rows = (np.floor(v / PIXEL_M).astype(np.int64) for v in (x, y))
    whole = city.zone_map.window
    inside = (columns >= whole.x0) & (columns < whole.x1) & (rows >= whole.y0) & (rows < whole.y1)
    truth = np.zeros(shape, dtype=np.uint8)
    if inside.any():
        columns, rows = columns[inside], rows[inside]
        west, south = int(columns.min()), int(rows.min())
        near = Window(west, south, int(columns.max()) + 1, int(rows.max()) + 1)
        truth[inside] = city.zone_map.truth(near)[rows - near.y0, columns - near.x0]
    return truth


def _with_errors(
    truth: _UInt8,
    present: _UInt8,
    window: RasterWindow,
    rng: np.random.Generator,
    error_share: float,
) -> _Part:
    drawn = rng.random(truth.shape)
    steps = rng.integers(1, max(2, len(present)), size=truth.shape)
    others = present[(np.searchsorted(present, truth) + steps) % len(present)]
    is_zone = truth != lcz.NODATA
    raw, filtered = (
        np.where(is_zone & (drawn < share), others, truth)
        for share in (error_share, error_share / 2)
    )
    sure = np.where(raw == truth, 0.9, 0.6)
    agreement = np.where(is_zone, rng.binomial(_N_MODELS, sure) * 100 // _N_MODELS, 0)
    return _Part(window, raw, filtered, agreement.astype(np.uint8))
