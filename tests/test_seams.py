"""Seams: faults planted in tiles are found, scenes without any are silent."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

from lczcube.decoders import Coding
from lczcube.mosaic import Mosaic, mosaic_array
from lczcube.reader import Storage
from lczcube.seams import SeamReport, find_seams
from lczcube.tiles import Tile, place_tiles
from tests.scenes import CRS

X0, Y0 = 500_000, 5_400_000
MARGIN = 4  # pixels of the scene past the frame, into which a tile may be shifted

Values = npt.NDArray[Any]


def field(rng: np.random.Generator, side: int, correlation_px: float) -> Values:
    """A smooth random field of unit variance, periodic."""
    noise = rng.standard_normal((side, side))
    if correlation_px == 0:
        return noise
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None])
    smooth = np.exp(-2 * (np.pi * correlation_px * frequency) ** 2)
    smoothed = np.fft.ifft2(np.fft.fft2(noise) * smooth).real
    return smoothed / smoothed.std()


def scene_of(
    seed: int, side: int, *, correlation_px: float, noise: float, n_bands: int = 3
) -> Values:
    """``(band, y, x)`` codes of int16, with a margin."""
    rng = np.random.default_rng(seed)
    side += 2 * MARGIN
    bands = [field(rng, side, correlation_px) for _ in range(n_bands)]
    values = np.stack(bands) + noise * rng.standard_normal((n_bands, side, side))
    return np.round(5000 + 500 * values).astype(np.int16)


def cut(
    folder: Path,
    scene: Values,
    cuts: tuple[Sequence[int], Sequence[int]],
    *,
    overlap_px: int = 0,
    shifted: Mapping[int, tuple[int, int]] | None = None,
    scaled: Mapping[int, tuple[float, float]] | None = None,
    nodata: float | None = -1,
) -> xr.Dataset:
    """The cube of a scene cut into tiles, row by row, some shifted by (x, y) or scaled (gain, step)."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, columns = (n - 2 * MARGIN for n in scene.shape[1:])
    tiles = []
    for y0, y1 in pairwise([0, *cuts[0], rows]):
        for x0, x1 in pairwise([0, *cuts[1], columns]):
            number = len(tiles)
            y1, x1 = min(y1 + overlap_px, rows), min(x1 + overlap_px, columns)
            dx, dy = (shifted or {}).get(number, (0, 0))
            part = scene[
                :, MARGIN + y0 + dy : MARGIN + y1 + dy, MARGIN + x0 + dx : MARGIN + x1 + dx
            ]
            if scaled and number in scaled:
                gain, step = scaled[number]
                changed = part * gain + step
                if part.dtype.kind != "f":
                    changed = np.round(changed)
                part = np.where(part == nodata, part, changed).astype(part.dtype)
            path = folder / f"t{number}.npy"
            np.save(path, part.transpose(1, 2, 0))
            affine = Affine(10, 0, X0 + 10 * x0, 0, -10, Y0 - 10 * y0)
            shape = (y1 - y0, x1 - x0)
            tiles.append(
                Tile(f"t{number}", str(path), "npy", CRS, affine, shape, shape, "y,x,band", "", None, None)
            )
    n_bands = len(scene)
    frame = GeoBox((rows, columns), Affine(10, 0, X0, 0, -10, Y0), CRS)
    coding = Coding("linear", "nodata", nodata, (1.0,) * n_bands, (0.0,) * n_bands)
    mosaic = Mosaic(
        name="scene",
        tiles=tuple(place_tiles(tiles, frame)),
        scale_tiles=(),
        frame=frame,
        storage=Storage(scene.dtype.name, n_bands, nodata),
        coding=coding,
        chunks=((rows,), (columns,)),
    )
    data = mosaic_array([mosaic], ("band", "y", "x"))
    bands = [f"b{i}" for i in range(n_bands)]
    variable = xr.Variable(("scene_band", "y", "x"), data, coding.to_attrs())
    return xr.Dataset({"scene": variable}, coords={"scene_band": bands})
