"""Products of maps to export: made-up ones that encode their position, and real ones."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
import xarray as xr
from rasterio.warp import Resampling, reproject

from lczcube.cube import GRID_ATTR
from lczcube.exports import ProductMap, open_map
from lczcube.grid import Grid
from lczcube.lcz import N_CLASSES
from lczcube.products import write_product

TAGS = {"TIFFTAG_SOFTWARE": "lczcube test", "REPRESENTATIVE_YEAR": "2024"}


def map_of_codes(
    codes: npt.NDArray[np.uint8], grid: Grid, store: Path, *, percent: int = 60
) -> ProductMap:
    """A product whose zones are ``codes``, each of a probability, the rest shared by no class."""
    shares = np.zeros((N_CLASSES, *codes.shape), dtype=np.uint8)
    known = codes > 0
    row, column = np.nonzero(known)
    shares[codes[known] - 1, row, column] = percent
    shares[:, ~known] = 255
    geobox = grid.geobox
    data = xr.Dataset(
        {
            "lcz": (("y", "x"), codes),
            "confidence": (("y", "x"), np.where(known, percent, 255).astype(np.uint8)),
            "probability": (("lcz_class", "y", "x"), shares),
        },
        coords={
            "y": geobox.coordinates["y"].values,
            "x": geobox.coordinates["x"].values,
            "lcz_class": np.arange(1, N_CLASSES + 1, dtype=np.uint8),
        },
        attrs={GRID_ATTR: grid.to_json()},
    ).chunk({"y": grid.chunk_px, "x": grid.chunk_px})
    write_product({"pixels": data}, store)
    return open_map(store, "pixels", tags=TAGS)


def position_map(grid: Grid, store: Path) -> ProductMap:
    """A product whose zones encode their position, with a hole in the upper-left corner."""
    rows, columns = grid.shape
    codes = np.add.outer(np.arange(rows) // 7, 3 * (np.arange(columns) // 5)) % N_CLASSES + 1
    codes[:3, :2] = 0
    return map_of_codes(codes.astype(np.uint8), grid, store)


def map_of_raster(path: Path, grid: Grid, store: Path, *, band: int = 1) -> ProductMap:
    """A product of a real map, sampled by nearest on a grid; its codes are 1-17."""
    codes = np.zeros(grid.shape, dtype=np.int16)
    with rasterio.open(path) as file:
        reproject(
            file.read(band).astype(np.int16),
            codes,
            src_transform=file.transform,
            src_crs=file.crs,
            src_nodata=0 if file.nodata is None else file.nodata,
            dst_transform=grid.geobox.affine,
            dst_crs=grid.crs,
            dst_nodata=0,
            resampling=Resampling.nearest,
        )
    return map_of_codes(codes.astype(np.uint8), grid, store)
