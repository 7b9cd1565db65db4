"""Rasters of a map: as it is, at 100 m, and in the layout of the LCZ Generator."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.windows import Window

from lczcube.errors import GridError
from lczcube.exports.geotiff import blocks_of, staged, warped, write_cog, write_windows
from lczcube.exports.product_map import ProductMap
from lczcube.exports.smoothing import (
    GENERATOR_WIDTHS,
    PUBLISHED_WIDTHS,
    Widths,
    gaussian_filter,
)
from lczcube.grid import bbox_of, project_bbox
from lczcube.lcz import NODATA
from lczcube.probability import PERCENT_NODATA
from lczcube.products import as_percent

PIXEL_100_M = 100
GENERATOR_DEGREES = 0.000898315284119518
"""Side of a pixel of the LCZ Generator and of the global LCZ map; both count from 0, 0."""

GENERATOR_BANDS = ("lcz", "lczFilter", "classProbability")

_FILTER_CHUNK_PX = 1024

Filter = Literal["gaussian", "mode"]


def write_map_cog(lcz_map: ProductMap, path: str | Path) -> Path:
    """Write a map as it is, as a COG of one band.

    Parameters
    ----------
    lcz_map : ProductMap
        The map.
    path : str or pathlib.Path
        File to write, ``….tif``; its folder is there.

    Returns
    -------
    pathlib.Path
        The file. Beside it lies ``….tif.aux.xml`` with the names of the classes.
    """
    target = Path(path)
    write_cog(
        target,
        blocks_of([lcz_map.data["lcz"]], lcz_map.geobox),
        lcz_map.geobox,
        names=["lcz"],
        tags=lcz_map.tags,
    )
    return target


def write_100m(lcz_map: ProductMap, path: str | Path, *, smoothing: Filter = "gaussian") -> Path:
    """Write a map at 100 m, on multiples of 100 m in its own CRS, as a COG of one band.

    Parameters
    ----------
    lcz_map : ProductMap
        Pixels of at most 100 m.
    path : str or pathlib.Path
        File to write.
    smoothing : str
        ``gaussian`` (default, as WUDAPT publishes): the class-wise filter on the map's own
        pixels, then the most frequent class in each 100 m. ``mode``: the most frequent class alone.

    Raises
    ------
    GridError
        If the pixels are over 100 m.

    Notes
    -----
    A pixel of 100 m that the map touches has a class: it reaches up to 100 m past the map's edge.
    """
    if lcz_map.pixel_m > PIXEL_100_M:
        raise GridError(
            f"the map has pixels of {lcz_map.pixel_m:g} m, and a 100 m product is made of smaller "
            "ones; export the group pixels, or set [grid] stride_m = 100 and predict again."
        )
    target, geobox = Path(path), grid_of_100m(lcz_map.geobox)
    codes = lcz_map.data["lcz"]
    if smoothing == "gaussian":
        codes = _smoothed(lcz_map, PUBLISHED_WIDTHS)
    said = {"LCZCUBE_FILTER": smoothing, **lcz_map.tags}
    with (
        staged(target.parent, [codes], lcz_map.geobox, nodata=NODATA) as plain,
        warped(plain, geobox, resampling_to(lcz_map.pixel_m, PIXEL_100_M)) as view,
    ):
        blocks = ((window, view.read(window=window)) for window in write_windows(geobox))
        write_cog(target, blocks, geobox, names=["lcz"], tags=said)
    return target


def write_generator(lcz_map: ProductMap, path: str | Path) -> Path:
    """Write a map as the LCZ Generator does: EPSG:4326, about 100 m, three bands.

    Parameters
    ----------
    lcz_map : ProductMap
        The map, with its probabilities.
    path : str or pathlib.Path
        File to write.

    Notes
    -----
    ``lcz`` is the most frequent class in each pixel, ``lczFilter`` that of the map smoothed by the
    Generator's class-wise Gaussian filter, and ``classProbability`` the mean probability, in per
    cent, of the class in ``lcz``; 0 is no data in all. Pixels count from 0, 0 as the Generator's
    and the global LCZ map's do, and have a class where the map touches them. A map of pixels of
    100 m or more is sampled by nearest.
    """
    target, geobox = Path(path), generator_grid(lcz_map.geobox)
    resampling = resampling_to(lcz_map.pixel_m, PIXEL_100_M)
    smooth = _smoothed(lcz_map, GENERATOR_WIDTHS)
    mean = Resampling.average if resampling is Resampling.mode else resampling
    with (
        staged(
            target.parent, [lcz_map.data["lcz"], smooth], lcz_map.geobox, nodata=NODATA
        ) as plain,
        staged(
            target.parent,
            [as_percent(lcz_map.data["probability"])],
            lcz_map.geobox,
            nodata=PERCENT_NODATA,
        ) as plain_shares,
        warped(plain, geobox, resampling) as classes,
        warped(plain_shares, geobox, mean) as percents,
    ):

        def blocks() -> Iterator[tuple[Window, npt.NDArray[np.uint8]]]:
            for window in write_windows(geobox):
                both = classes.read(window=window)
                percent = percent_of_class(both[0], percents.read(window=window))
                yield window, np.stack([*both, percent])

        write_cog(
            target,
            blocks(),
            geobox,
            names=GENERATOR_BANDS,
            tags=lcz_map.tags,
            lcz_bands=(1, 2),
        )
    return target


def _smoothed(lcz_map: ProductMap, widths: Widths) -> xr.DataArray:
    """The map's zones by the class-wise filter, lazy, in chunks that its halo does not dwarf."""
    codes = lcz_map.data["lcz"].chunk({"y": _FILTER_CHUNK_PX, "x": _FILTER_CHUNK_PX})
    return gaussian_filter(codes, pixel_m=lcz_map.pixel_m, widths=widths)


def percent_of_class(
    lcz: npt.NDArray[np.uint8], percents: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    """Per cent of the class in each pixel, of per cents of all, ``(17, y, x)``; 0 without one."""
    index = np.maximum(lcz, 1).astype(np.intp) - 1
    own = np.take_along_axis(percents, index[None], axis=0)[0]
    return np.where((lcz == NODATA) | (own == PERCENT_NODATA), 0, own).astype(np.uint8)


def resampling_to(src_m: float, dst_m: float) -> Resampling:
    """How classes are resampled: by mode to coarser pixels, else nearest; never by a mean."""
    return Resampling.mode if src_m < dst_m else Resampling.nearest


def grid_of_100m(geobox: GeoBox) -> GeoBox:
    """The pixels of 100 m, on multiples of 100 m, that cover a geobox in metres."""
    return _lattice(bbox_of(geobox), PIXEL_100_M, str(geobox.crs))


def generator_grid(geobox: GeoBox) -> GeoBox:
    """The pixels of the LCZ Generator that cover a geobox."""
    bbox = project_bbox(bbox_of(geobox), str(geobox.crs), "EPSG:4326")
    return _lattice(bbox, GENERATOR_DEGREES, "EPSG:4326")


def _lattice(bbox: tuple[float, float, float, float], side: float, crs: str) -> GeoBox:
    """Pixels on multiples of ``side`` that cover a bbox; edges within 1e-6 pixels are on it."""
    west, south = (math.floor(edge / side + 1e-6) for edge in bbox[:2])
    east, north = (math.ceil(edge / side - 1e-6) for edge in bbox[2:])
    affine = Affine(side, 0, west * side, 0, -side, north * side)
    return GeoBox((north - south, east - west), affine, crs)
