"""A pixel map, patch by patch: what it says of the squares that labels stand for."""

from collections.abc import Iterator
from typing import NamedTuple

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import shapely
import xarray as xr

from lczcube.errors import GridMismatchError, LabelError
from lczcube.grid import LATTICE_TOLERANCE_PX
from lczcube.lcz import N_CLASSES, NODATA
from lczcube.probability import PERCENT_NODATA, TIE

STRIP_BYTES = 64 << 20
"""Most per cents that are held at once, unless one patch has more."""

Indices = npt.NDArray[np.int64]


def lcz_of_patches(maps: xr.Dataset, patches: gpd.GeoDataFrame) -> pd.DataFrame:
    """The zone that a pixel map gives each square: that of the highest mean probability.

    Parameters
    ----------
    maps : xarray.Dataset
        Of a pixel model, or of :func:`lczcube.products.open_product`: ``probability`` with dims
        ``y``, ``x`` and one of 17 classes, uint8 per cents with 255 for no data, or float in 0-1
        with NaN. Coordinates ``x``, ``y`` of pixel centres, north-up.
    patches : geopandas.GeoDataFrame
        Upright squares in the map's CRS.

    Returns
    -------
    pandas.DataFrame
        With the index of ``patches``: ``lcz`` uint8, 0 where no pixel of the square is mapped;
        ``confidence`` float32, the mean probability of that class, 0-1, NaN where ``lcz`` is 0;
        ``mapped_fraction`` float32, share of the square's pixels that are mapped.

    Raises
    ------
    GridMismatchError
        If the map's pixels are not on a regular north-up lattice.
    LabelError
        If a patch is no upright box.

    Notes
    -----
    A square is that of the nearest pixel edges, as in :func:`lczcube.aggregate_patches`: 320 m at
    10 m are 32 x 32 pixels wherever it lies. Means are over mapped pixels; of classes within 1e-6
    of the best the lowest code is taken. Reads the rows that hold patches, a strip at a time.
    """
    means, mapped_fraction = _means(maps, patches)
    is_mapped = mapped_fraction > 0
    best = np.max(means, axis=1, initial=0, where=is_mapped[:, None])
    lcz = np.argmax(means >= best[:, None] - TIE, axis=1) + 1
    chance = np.take_along_axis(means, lcz[:, None] - 1, axis=1)[:, 0]
    columns = {
        "lcz": np.where(is_mapped, lcz, NODATA).astype(np.uint8),
        "confidence": chance.astype(np.float32),
        "mapped_fraction": mapped_fraction,
    }
    return pd.DataFrame(columns, index=patches.index)


def patch_probabilities(maps: xr.Dataset, patches: gpd.GeoDataFrame) -> npt.NDArray[np.float32]:
    """Mean probability of each class over the mapped pixels of each square.

    Parameters
    ----------
    maps, patches
        As in :func:`lcz_of_patches`.

    Returns
    -------
    numpy.ndarray
        float32, (n, 17), in the order of ``patches``; rows sum to 1, as those of a model, though
        stored per cents are rounded. NaN where no pixel of the square is mapped.

    Raises
    ------
    GridMismatchError, LabelError
        As in :func:`lcz_of_patches`.
    """
    means, _ = _means(maps, patches)
    shares: npt.NDArray[np.float64] = means / means.sum(axis=1, keepdims=True)
    return shares.astype(np.float32)


def _means(
    maps: xr.Dataset, patches: gpd.GeoDataFrame
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]:
    """Mean probabilities of each square, (n, 17), NaN where it has none; its share mapped, (n,)."""
    boxes = _boxes(patches, _lattice(maps))
    probability = _class_first(maps["probability"])
    means = np.full((len(patches), N_CLASSES), np.nan)
    mapped_fraction = np.zeros(len(patches), np.float32)
    for members, top, bottom in _strips(boxes, probability):
        strip = _shares(probability[:, top:bottom].to_numpy())
        for i in members.tolist():
            square = strip[:, *boxes.within(i, top)]
            mapped = np.isfinite(square[0])
            mapped_fraction[i] = mapped.sum() / boxes.n_px(i)
            if mapped.any():
                means[i] = square[:, mapped].mean(axis=1, dtype=np.float64)
    return means, mapped_fraction


class _Lattice(NamedTuple):
    left: float
    top: float
    pixel_m: float


class _Boxes(NamedTuple):
    """Pixels of squares in the map, past whose edges they may reach."""

    top: Indices
    left: Indices
    bottom: Indices
    right: Indices

    def n_px(self, i: int) -> int:
        return int((self.bottom[i] - self.top[i]) * (self.right[i] - self.left[i]))

    def within(self, i: int, first_row: int) -> tuple[slice, slice]:
        """Rows and columns of a square in a strip that begins at a row."""
        rows = slice(max(self.top[i] - first_row, 0), max(self.bottom[i] - first_row, 0))
        return rows, slice(max(self.left[i], 0), max(self.right[i], 0))


def _lattice(maps: xr.Dataset) -> _Lattice:
    x, y = maps["x"].to_numpy().astype(np.float64), maps["y"].to_numpy().astype(np.float64)
    pixel_m = (x[-1] - x[0]) / (len(x) - 1) if len(x) > 1 else 0.0
    off = [
        np.abs(x - (x[0] + pixel_m * np.arange(len(x)))).max(),
        np.abs(y - (y[0] - pixel_m * np.arange(len(y)))).max(),
    ]
    if pixel_m <= 0 or max(off) > LATTICE_TOLERANCE_PX * pixel_m:
        raise GridMismatchError(
            "the map's x and y are no regular lattice with x rising and y falling; give a map as "
            "lczcube writes it."
        )
    return _Lattice(float(x[0] - pixel_m / 2), float(y[0] + pixel_m / 2), float(pixel_m))


def _boxes(patches: gpd.GeoDataFrame, lattice: _Lattice) -> _Boxes:
    shapes = patches.geometry.to_numpy()
    minx, miny, maxx, maxy = shapely.bounds(shapes).T
    area = (maxx - minx) * (maxy - miny)
    is_box = np.isclose(shapely.area(shapes), area, rtol=1e-6) & (area > 0)
    if not is_box.all():
        raise LabelError(
            f"{int((~is_box).sum())} patches are no upright boxes in the map's CRS; give squares, "
            "or score polygons pixel by pixel."
        )

    def nearest(edges: npt.NDArray[np.float64]) -> Indices:
        # Ties go up and left, as patches are snapped everywhere else.
        return np.ceil(edges / lattice.pixel_m - 0.5 - 1e-9).astype(np.int64)

    top, left = nearest(lattice.top - maxy), nearest(minx - lattice.left)
    heights, widths = (
        np.maximum(np.rint(length / lattice.pixel_m), 1).astype(np.int64)
        for length in (maxy - miny, maxx - minx)
    )
    return _Boxes(top, left, top + heights, left + widths)


def _class_first(probability: xr.DataArray) -> xr.DataArray:
    (dim,) = (dim for dim in probability.dims if dim not in ("y", "x"))
    if probability.sizes[dim] != N_CLASSES:
        raise GridMismatchError(
            f"probability has {probability.sizes[dim]} classes; a map of Local Climate Zones has "
            f"{N_CLASSES}."
        )
    return probability.transpose(dim, "y", "x")


def _strips(boxes: _Boxes, probability: xr.DataArray) -> Iterator[tuple[Indices, int, int]]:
    """Patches that are read together, and the rows they need."""
    n_rows = probability.sizes["y"]
    row_bytes = 4 * N_CLASSES * probability.sizes["x"]
    order = np.argsort(boxes.top, kind="stable")
    order = order[(boxes.bottom[order] > 0) & (boxes.top[order] < n_rows)]
    start = 0
    while start < len(order):
        top = max(int(boxes.top[order[start]]), 0)
        most = top + max(STRIP_BYTES // row_bytes, 1)
        bottoms = np.maximum.accumulate(boxes.bottom[order[start:]])
        n = max(int((bottoms <= most).sum()), 1)
        yield order[start : start + n], top, min(int(bottoms[n - 1]), n_rows)
        start += n


def _shares(stored: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """Probabilities 0-1, NaN for no data."""
    if stored.dtype.kind == "f":
        return stored.astype(np.float32)
    percent = stored.astype(np.float32)
    return np.where(stored == PERCENT_NODATA, np.float32(np.nan), percent / np.float32(100))
