"""Reading pixels of one tile: all bands of a window at once, north-up, on the pixels of a frame.

A tile on the frame's lattice is read as it lies; of another, each pixel of the frame takes the
stored pixel that holds its centre. A table of features is drawn (:mod:`lczcube.masks`). Averages
are made in :mod:`lczcube.averaging`.

A file is opened, read and closed in one call: nothing stays in GDAL's block cache, so memory does
not grow with the area.
"""

import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from lczcube.errors import SourceError
from lczcube.masks import read_masks
from lczcube.tiles import Mask, PlacedTile, Rect, Tile

logger = logging.getLogger(__name__)

Codes = npt.NDArray[Any]


@dataclass(frozen=True)
class Storage:
    """How the codes of a layer are stored, the same in all its tiles.

    Attributes
    ----------
    dtype : str
        Of the codes.
    n_bands : int
        Bands of every tile.
    nodata : float or None
        Code of "no value here".
    resampling : str
        Rule for a tile on another lattice: ``nearest``, ``average``, ``sum`` or ``mode``.
    """

    dtype: str
    n_bands: int
    nodata: float | None
    resampling: str = "nearest"

    @property
    def fill(self) -> float:
        """Code of pixels past all tiles: nodata, else NaN, else (whole numbers) 0."""
        if self.nodata is not None:
            return self.nodata
        return float("nan") if np.dtype(self.dtype).kind == "f" else 0


def read_tile(placed: PlacedTile, rect: Rect, frame: GeoBox, storage: Storage) -> Codes:
    """Codes of a tile on a rectangle of its frame; reads the file.

    Parameters
    ----------
    placed : PlacedTile
        The tile on the frame.
    rect : Rect
        Pixels of the frame that are wanted.
    frame : odc.geo.geobox.GeoBox
        The frame.
    storage : Storage
        Of the layer.

    Returns
    -------
    numpy.ndarray
        ``(band, y, x)``, stored dtype, ``storage.fill`` past the tile. A view of the file
        where it can be memory-mapped and the rectangle lies in it. Of a map of zones uint8 1-17,
        0 where it has none.

    Raises
    ------
    SourceError
        If the file cannot be read, or is not what the catalog says.
    LabelError
        If a map of zones holds a code that its table does not name.
    """
    if placed.tile.kind == "features":
        codes = read_masks(placed, rect, frame, storage.fill)
    elif placed.on_lattice:
        codes = _read_on_lattice(placed, rect, storage.fill)
    else:
        codes = _read_nearest(placed.tile, rect, frame, storage.fill)
    _require_as_declared(placed.tile, codes, storage)
    return codes


def _read_on_lattice(placed: PlacedTile, rect: Rect, fill: float) -> Codes:
    part = rect.meet(placed.bounds)
    tile = placed.tile
    rows, columns = part.within(placed.bounds)
    south_up, east_left = tile.affine.e > 0, tile.affine.a < 0
    stored = _read_stored(
        tile,
        _mirrored(rows, tile.shape[0]) if south_up else rows,
        _mirrored(columns, tile.shape[1]) if east_left else columns,
        fill,
    )
    turned = stored[:, :: -1 if south_up else 1, :: -1 if east_left else 1]
    if part == rect:
        return turned
    codes = np.full((stored.shape[0], *rect.shape), fill, dtype=stored.dtype)
    codes[:, *part.within(rect)] = turned
    return codes


def _mirrored(part: slice, length: int) -> slice:
    return slice(length - part.stop, length - part.start)


def _read_nearest(tile: Tile, rect: Rect, frame: GeoBox, fill: float) -> Codes:
    """Each pixel of the frame takes the stored pixel that holds its centre, transformed exactly."""
    rows, columns = _stored_positions(tile, rect, frame)
    inside = (rows >= 0) & (rows < tile.shape[0]) & (columns >= 0) & (columns < tile.shape[1])
    if not inside.any():
        stored = _read_stored(tile, slice(0, 1), slice(0, 1), fill)
        return np.full((stored.shape[0], *rect.shape), fill, dtype=stored.dtype)
    top, bottom = int(rows[inside].min()), int(rows[inside].max()) + 1
    left, right = int(columns[inside].min()), int(columns[inside].max()) + 1
    stored = _read_stored(tile, slice(top, bottom), slice(left, right), fill)
    codes = np.full((stored.shape[0], *rect.shape), fill, dtype=stored.dtype)
    codes[:, inside] = stored[:, rows[inside] - top, columns[inside] - left]
    return codes


def _stored_positions(
    tile: Tile, rect: Rect, frame: GeoBox
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    grid_y, grid_x = np.mgrid[rect.top : rect.bottom, rect.left : rect.right] + 0.5
    x, y = frame.affine * (grid_x.ravel(), grid_y.ravel())
    if tile.geobox.crs != frame.crs:
        x, y = Transformer.from_crs(str(frame.crs), tile.crs, always_xy=True).transform(x, y)
    columns, rows = ~tile.affine * (x, y)
    far = np.iinfo(np.int64).max
    at = [np.where(np.isfinite(v), v, -1.0) for v in (rows, columns)]
    rows, columns = (np.floor(np.clip(v, -1, far // 2)).astype(np.int64) for v in at)
    return rows.reshape(rect.shape), columns.reshape(rect.shape)


def _read_stored(tile: Tile, rows: slice, columns: slice, fill: float) -> Codes:
    """A window as it is stored, ``(band, y, x)``, with ``fill`` where the tile holds no data."""
    logger.debug(
        "read %s rows %d-%d columns %d-%d",
        tile.href,
        rows.start,
        rows.stop,
        columns.start,
        columns.stop,
    )
    readers = {"gdal": _read_gdal, "npy": _read_npy, "zarr": _read_zarr}
    codes = readers[tile.kind](tile, rows, columns)
    if tile.zones is not None:
        codes = tile.zones.translate(codes, where=tile.href)
    return without_hidden(tile, codes, rows, columns, fill)


def without_hidden(tile: Tile, codes: Codes, rows: slice, columns: slice, fill: float) -> Codes:
    """Codes of a window, as stored, with ``fill`` where mask or footprint say that none is there.

    Reads the mask. The tile may be an overview of one without a mask.
    """
    if not tile.hides_codes:
        return codes
    hidden = np.zeros(codes.shape[1:], dtype=bool)
    if tile.is_bounded:
        hidden |= ~tile.in_footprint(rows, columns)
    if tile.mask is not None:
        is_zero = _read_mask(tile, tile.mask, rows, columns) == 0
        hidden |= is_zero != tile.mask.zero_is_valid
    return np.where(hidden, codes.dtype.type(fill), codes) if hidden.any() else codes


def _read_mask(tile: Tile, mask: Mask, rows: slice, columns: slice) -> Codes:
    codes: Codes = _read_gdal(replace(tile, href=mask.href), rows, columns)[0]
    return codes


def _read_gdal(tile: Tile, rows: slice, columns: slice) -> Codes:
    from rasterio.errors import RasterioIOError
    from rasterio.windows import Window

    with _opened(tile) as file:
        try:
            bands = None if tile.band is None else [tile.band + 1]
            codes: Codes = file.read(bands, window=Window.from_slices(rows, columns))
        except RasterioIOError as error:
            raise SourceError(
                f"{tile.href} broke off while it was read ({error}); fetch it again, then run "
                "lczcube build-catalog."
            ) from error
    return codes


def _opened(tile: Tile) -> Any:
    import rasterio
    from rasterio.errors import RasterioIOError

    try:
        file = rasterio.open(tile.href)
    except RasterioIOError as error:
        raise SourceError(
            f"{tile.href} cannot be opened ({error}); it is item {tile.item_id!r} of the catalog. "
            "Bring the file back, or run lczcube build-catalog again."
        ) from error
    if tuple(file.shape) != tile.shape:
        file.close()
        raise SourceError(
            f"{tile.href} has {file.shape[0]} x {file.shape[1]} pixels and the catalog says "
            f"{tile.shape[0]} x {tile.shape[1]}; run lczcube build-catalog again."
        )
    return file


def _read_npy(tile: Tile, rows: slice, columns: slice) -> Codes:
    try:
        stored = np.load(tile.href, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise SourceError(
            f"{tile.href} cannot be read ({error}); bring the file back, or run "
            "lczcube build-catalog again."
        ) from error
    window: Codes = stored[rows, columns]
    return window[None] if window.ndim == 2 else window.transpose(2, 0, 1)


def _read_zarr(tile: Tile, rows: slice, columns: slice) -> Codes:
    import zarr

    try:
        array = zarr.open_group(tile.href, mode="r")[tile.array]
    except (FileNotFoundError, KeyError, ValueError) as error:
        raise SourceError(
            f"{tile.href} has no array {tile.array!r} ({error}); run lczcube build-catalog again."
        ) from error
    leading = () if tile.time_index is None else (tile.time_index,)
    at = {
        "band,y,x": (slice(None), rows, columns),
        "y,x,band": (rows, columns),
        "y,x": (rows, columns),
    }
    window = np.asarray(array[(*leading, *at[tile.axes])])  # type: ignore[index]
    if tile.axes == "y,x":
        return window[None]
    return window.transpose(2, 0, 1) if tile.is_band_last else window


def _require_as_declared(tile: Tile, codes: Codes, storage: Storage) -> None:
    if codes.dtype != np.dtype(storage.dtype) or codes.shape[0] != storage.n_bands:
        raise SourceError(
            f"{tile.href} holds {codes.shape[0]} bands of {codes.dtype} and the catalog says "
            f"{storage.n_bands} of {storage.dtype}; run lczcube build-catalog again."
        )
