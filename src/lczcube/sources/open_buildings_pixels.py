"""Pixels of Open Buildings 2.5D Temporal: a tile's, or an export's, by the header of its file."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lczcube.errors import SourceError
from lczcube.sources.files import SourceFile
from lczcube.sources.footprints import utm_meridians
from lczcube.sources.items import crs_name
from lczcube.sources.raster import open_raster

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

BUILDING_BANDS = ("building_fractional_count", "building_height", "building_presence")
"""Bands of Open Buildings 2.5D, in the publisher's order."""

COUNT_BAND = BUILDING_BANDS[0]

NODATA = -99.0

PIXEL_M = 0.5
"""Side of a pixel of the publisher's tiles, metres."""

MAX_PIXEL_M = 100.0
"""Side of an export's pixel above which its means say nothing of buildings."""

BLOCK_PX = 512
"""Side of a block of the publisher's COGs, pixels."""

TILE_PATH = re.compile(
    r"(?:^|/)(?P<folder>[0-9a-f]{1,16}_(?P<year>\d{4})_\d\d_\d\d)/"
    r"(?P<name>tile_[A-Za-z0-9_-]{1,64}\.tiff?)$"
)
"""Where the publisher keeps a tile."""


@dataclass(frozen=True)
class Pixels:
    """The pixels of a file.

    Attributes
    ----------
    crs : str
        ``EPSG:n``, a UTM zone of WGS 84.
    shape : tuple of int
        ``(rows, columns)``.
    transform : tuple of float
        ``a, b, c, d, e, f``, as stored.
    bands : tuple of str
        :data:`BUILDING_BANDS`, in the order of the file.
    dtype : str
        Of all bands, and
    nodata : float
        the number of a pixel without data; NaN is one, too.
    block_shape : tuple of int
        ``(rows, columns)`` of what is compressed together.
    is_cog : bool
        True for a cloud-optimised file.
    """

    crs: str
    shape: tuple[int, int]
    transform: tuple[float, ...]
    bands: tuple[str, ...]
    dtype: str
    nodata: float
    block_shape: tuple[int, int]
    is_cog: bool

    @property
    def n_merged(self) -> float:
        """The publisher's pixels in one pixel, 1 or more."""
        n_merged = abs(self.transform[0] * self.transform[4]) / PIXEL_M**2
        return 1.0 if self.is_tile else float(f"{n_merged:.12g}")

    @property
    def is_tile(self) -> bool:
        """True for the publisher's own pixels, False for an export of coarser ones."""
        a, e = abs(self.transform[0]), abs(self.transform[4])
        return max(abs(a - PIXEL_M), abs(e - PIXEL_M)) * max(self.shape) < _TOLERANCE_PX * PIXEL_M

    @property
    def side_m(self) -> float:
        """Side of a square as large as a pixel, metres."""
        return float(f"{math.sqrt(abs(self.transform[0] * self.transform[4])):.6g}")


_TOLERANCE_PX = 1e-3
"""Drift over a whole file below which a pixel is of 0.5 m."""


def year_in(href: str) -> int | None:
    """Year of a path ``…/{token}_{year}_06_30/tile_….tif``, None where it has none.

    Examples
    --------
    >>> year_in("v1/geotiffs/3be7c_2023_06_30/tile_OScHfh-5ubs.tif")
    2023
    """
    found = TILE_PATH.search(href)
    return None if found is None else int(found["year"])


def read_pixels(file: SourceFile) -> Pixels:
    """The pixels of a tile or an export, by its header.

    Raises
    ------
    SourceError
        If it cannot be read, or holds no Open Buildings in a UTM zone of WGS 84.
    """
    with open_raster(file) as raster:
        return Pixels(
            crs=_crs(raster, file),
            shape=raster.shape,
            transform=_transform(raster, file),
            bands=_names(raster, file),
            dtype=_dtype(raster, file),
            nodata=_nodata(raster, file),
            block_shape=raster.block_shapes[0],
            is_cog=raster.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") == "COG",
        )


def _crs(raster: DatasetReader, file: SourceFile) -> str:
    crs = crs_name(raster.crs)
    if utm_meridians(crs) is None:
        raise SourceError(
            f"{file.href} is in {crs if len(crs) < 20 else 'a CRS without a code'}; counts per "
            "pixel need a UTM zone of WGS 84. Export it with crs and scale (EPSG:326zz, 10), or "
            "warp it by averages (gdalwarp -t_srs EPSG:326zz -r average)."
        )
    return crs


def _transform(raster: DatasetReader, file: SourceFile) -> tuple[float, ...]:
    affine = raster.transform
    sides = abs(affine.a), abs(affine.e)
    if min(sides) < PIXEL_M * (1 - 1e-6) or max(sides) > MAX_PIXEL_M:
        raise SourceError(
            f"{file.href} has pixels of {sides[0]:g} x {sides[1]:g} m; Open Buildings has "
            f"{PIXEL_M:g} m, and an export of it up to {MAX_PIXEL_M:g} m. Register other rasters "
            'with source = "raster".'
        )
    return tuple(map(float, affine[:6]))


def _names(raster: DatasetReader, file: SourceFile) -> tuple[str, ...]:
    """Names of the bands; the publisher's tiles have his order where they tell none."""
    described = tuple(text or "" for text in raster.descriptions)
    if not any(described) and raster.count == len(BUILDING_BANDS) and year_in(file.href):
        return BUILDING_BANDS
    if sorted(described) != sorted(BUILDING_BANDS):
        listed = ", ".join(described) if any(described) else f"{raster.count} without names"
        raise SourceError(
            f"{file.href} has bands {listed[:200]}; Open Buildings has "
            f"{', '.join(BUILDING_BANDS)}. Export these three, or name them by their descriptions."
        )
    return described


def _dtype(raster: DatasetReader, file: SourceFile) -> str:
    dtypes = sorted(set(raster.dtypes))
    if len(dtypes) > 1 or np.dtype(dtypes[0]).kind != "f":
        raise SourceError(
            f"{file.href} holds {', '.join(dtypes)}; Open Buildings has decimals of one dtype. "
            "Export it as float32."
        )
    if set(raster.scales) != {1.0} or set(raster.offsets) != {0.0}:
        raise SourceError(
            f"{file.href} declares a scale or an offset; Open Buildings has neither. Unscale it "
            "(gdal_translate -unscale)."
        )
    return str(dtypes[0])


def _nodata(raster: DatasetReader, file: SourceFile) -> float:
    declared = {NODATA if v is None or math.isnan(v) else float(v) for v in raster.nodatavals}
    if len(declared) > 1 or not -math.inf < min(declared) < 0:
        listed = ", ".join(f"{value:g}" for value in sorted(declared))
        raise SourceError(
            f"{file.href} declares nodata {listed}; 0 and above are heights, counts and presences. "
            "Correct it (gdal_edit.py -a_nodata -99)."
        )
    return declared.pop()
