"""Small rasters whose pixels say where they are, and catalogs of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine

from lczcube.catalog import Catalog, build_catalog, open_catalog

CRS = "EPSG:32632"


def position_codes(
    rows: int, columns: int, *, x0: float, y0: float, pixel_m: float = 10
) -> npt.NDArray[np.int32]:
    """Two bands: easting and northing of each pixel centre in whole pixels from the CRS's zero."""
    x = np.round((x0 + (np.arange(columns) + 0.5) * pixel_m) / pixel_m - 0.5)
    y = np.round((y0 - (np.arange(rows) + 0.5) * pixel_m) / pixel_m - 0.5)
    grid_y, grid_x = np.meshgrid(y, x, indexing="ij")
    return np.stack([grid_x, grid_y]).astype(np.int32)


def write_raster(
    path: Path,
    codes: npt.NDArray[Any],
    *,
    x0: float,
    y0: float,
    pixel_m: float = 10,
    nodata: float | None = None,
    crs: str | None = CRS,
    south_up: bool = False,
    names: Sequence[str] = (),
) -> Path:
    """A GeoTIFF of ``(band, y, x)`` codes, given north-up; ``x0``, ``y0`` is the upper-left."""
    transform = Affine(pixel_m, 0, x0, 0, -pixel_m, y0)
    if south_up:
        codes = codes[:, ::-1]
        transform = Affine(pixel_m, 0, x0, 0, pixel_m, y0 - codes.shape[1] * pixel_m)
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {"driver": "GTiff", "count": codes.shape[0], "dtype": codes.dtype.name}
    size = {"height": codes.shape[1], "width": codes.shape[2]}
    tiling = {"tiled": True, "blockxsize": 64, "blockysize": 64, "interleave": "band"}
    with rasterio.open(
        path, "w", crs=crs, transform=transform, nodata=nodata, **profile, **size, **tiling
    ) as file:
        file.write(codes)
        for band, name in enumerate(names, 1):
            file.set_band_description(band, name)
    return path


def catalog_of(folder: Path, *inputs: str) -> Catalog:
    """A catalog of ``[[input]]`` tables given as TOML text; hrefs are relative to ``folder``."""
    toml = folder / "catalog.toml"
    toml.write_text('id = "scenes"\n' + "".join(f"[[input]]\n{text}\n" for text in inputs))
    report = build_catalog(toml, folder / "catalog")
    assert not report.failures
    return open_catalog(folder / "catalog" / "catalog.json")


def raster_input(name: str, href: str, **keys: Any) -> str:
    """One ``[[input]]`` of a raster of 2024."""
    lines = {"name": name, "source": "raster", "href": href, "year": 2024, **keys}
    return "\n".join(f"{key} = {_toml(value)}" for key, value in lines.items())


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
