"""A map for WRF, as w2w reads it: EPSG:4326, codes 1-17, filled beyond the city from another map.

w2w wants a map that is larger than its domain (Demuzere, M. et al. (2022). W2W: a Python package
that injects WUDAPT's Local Climate Zone information in WRF. JOSS 7(76), 4432,
doi:10.21105/joss.04432).
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.io import DatasetReader
from rasterio.windows import Window

from lczcube.errors import GridError, SourceError
from lczcube.exports.geotiff import staged, warped, write_cog, write_windows
from lczcube.exports.opened import open_raster
from lczcube.exports.product_map import ProductMap
from lczcube.exports.rasters import generator_grid
from lczcube.grid import BBox, bbox_of
from lczcube.lcz import NODATA, from_legacy

OURS, FILL = 1, 2
"""Values of the band ``source``; 0 where there is no class."""

DEFAULT_MARGIN_KM = 50.0

_KM_PER_DEGREE = 111.32
_SLACK_PX = 1e-6
_FILTERED = "lczFilter"


def write_wrf_map(
    lcz_map: ProductMap,
    path: str | Path,
    *,
    fill: str | Path | None = None,
    margin_km: float = DEFAULT_MARGIN_KM,
) -> Path:
    """Write a map for w2w: EPSG:4326, band ``lcz`` (1-17, nodata 0) and band ``source``.

    Parameters
    ----------
    lcz_map : ProductMap
        The map. It is sampled by nearest: w2w averages what it reads over WRF's cells, and
        samples keep the shares of the classes, which a mode would not.
    path : str or pathlib.Path
        File to write, ``….tif``.
    fill : str or pathlib.Path, optional
        A map of LCZ in EPSG:4326 for what lies outside ours: the global map, or a part of it. Its
        own pixels are kept, to the bit. Of several bands ``lczFilter`` is read, else the first.
    margin_km : float
        How far the fill reaches past our map on each side, km; at most to its own edge.
        Default 50.

    Returns
    -------
    pathlib.Path
        The file. ``source`` is 1 where the class is ours, 2 where it is the fill's, 0 where there
        is none. Without a fill the pixels are those of the LCZ Generator.

    Raises
    ------
    MissingInputError
        If the fill is not there.
    SourceError
        If it cannot be read, is not in EPSG:4326, or holds a code that is no LCZ.
    GridError
        If it does not touch our map.
    """
    target = Path(path)
    with ExitStack() as stack:
        background = None if fill is None else stack.enter_context(_open_fill(fill))
        geobox = _pixels(lcz_map, background, margin_km)
        plain = stack.enter_context(
            staged(target.parent, [lcz_map.data["lcz"]], lcz_map.geobox, nodata=NODATA)
        )
        ours = stack.enter_context(warped(plain, geobox, Resampling.nearest))

        def blocks() -> Iterator[tuple[Window, npt.NDArray[np.uint8]]]:
            for window in write_windows(geobox):
                codes = ours.read(1, window=window)
                other = np.zeros_like(codes)
                if background is not None:
                    other = _fill_codes(background, geobox, window)
                yield window, _merged(codes, other)

        said = {"LCZCUBE_SOURCE": f"0 none, {OURS} this map, {FILL} fill"}
        write_cog(target, blocks(), geobox, names=["lcz", "source"], tags={**said, **lcz_map.tags})
    return target


def _merged(ours: npt.NDArray[np.uint8], fill: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    lcz = np.where(ours == NODATA, fill, ours)
    source = np.where(ours == NODATA, np.where(fill == NODATA, 0, FILL), OURS)
    return np.stack([lcz, source]).astype(np.uint8)


def _open_fill(fill: str | Path) -> DatasetReader:
    file = open_raster(fill, "--fill names a map of LCZ in EPSG:4326")
    if file.crs is None or file.crs.to_epsg() != 4326 or file.transform.e >= 0:
        raise SourceError(
            f"{fill} is in {file.crs}; a fill is north-up in EPSG:4326, as the global LCZ map is. "
            "Warp it by nearest first (gdalwarp -t_srs EPSG:4326 -r near)."
        )
    return file


def _pixels(lcz_map: ProductMap, fill: DatasetReader | None, margin_km: float) -> GeoBox:
    """The pixels to write: the fill's own, or those of the LCZ Generator."""
    own = generator_grid(lcz_map.geobox)
    if fill is None:
        return own
    west, north, east, south = _lattice_box(fill, bbox_of(own))
    far = _lattice_box(fill, _grown(bbox_of(own), margin_km))
    left, top, right, bottom = (
        max(0, far[0]),
        max(0, far[1]),
        min(fill.width, far[2]),
        min(fill.height, far[3]),
    )
    if left >= right or top >= bottom:
        raise GridError(
            f"the fill {fill.name} covers {tuple(fill.bounds)} degrees, and our map {bbox_of(own)}:"
            f" they lie more than {margin_km:g} km apart. Name a fill of this city."
        )
    column, row = min(west, left), min(north, top)
    affine = fill.transform * Affine.translation(column, row)
    shape = (max(south, bottom) - row, max(east, right) - column)
    return GeoBox(shape, affine, "EPSG:4326")


def _lattice_box(fill: DatasetReader, bbox: BBox) -> tuple[int, int, int, int]:
    """West, north, east and south edge of a bbox in whole pixels of the fill, outward."""
    west, north = ~fill.transform * (bbox[0], bbox[3])
    east, south = ~fill.transform * (bbox[2], bbox[1])
    return (
        math.floor(west + _SLACK_PX),
        math.floor(north + _SLACK_PX),
        math.ceil(east - _SLACK_PX),
        math.ceil(south - _SLACK_PX),
    )


def _grown(bbox: BBox, margin_km: float) -> BBox:
    west, south, east, north = bbox
    up = margin_km / _KM_PER_DEGREE
    aside = up / math.cos(math.radians(max(abs(south), abs(north))))
    return west - aside, south - up, east + aside, north + up


def _fill_codes(fill: DatasetReader, geobox: GeoBox, window: Window) -> npt.NDArray[np.uint8]:
    """Codes of the fill on a window of ``geobox``, which is on its lattice; 0 past its edge."""
    column, row = ~fill.transform * (geobox.affine * (window.col_off, window.row_off))
    whole = Window(round(column), round(row), window.width, window.height)
    codes = np.zeros((whole.height, whole.width), dtype=np.uint8)
    left, top = max(0, whole.col_off), max(0, whole.row_off)
    right = min(fill.width, whole.col_off + whole.width)
    bottom = min(fill.height, whole.row_off + whole.height)
    if left < right and top < bottom:
        inside = (
            slice(top - whole.row_off, bottom - whole.row_off),
            slice(left - whole.col_off, right - whole.col_off),
        )
        codes[inside] = _read_codes(fill, Window(left, top, right - left, bottom - top))
    return codes


def _read_codes(fill: DatasetReader, window: Window) -> npt.NDArray[np.uint8]:
    names = [name or "" for name in fill.descriptions]
    band = names.index(_FILTERED) + 1 if _FILTERED in names else 1
    stored = fill.read(band, window=window)
    nodata = np.zeros(stored.shape, dtype=bool) if fill.nodata is None else stored == fill.nodata
    return from_legacy(np.where(nodata | (stored != stored), NODATA, stored))
