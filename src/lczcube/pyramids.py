"""Pyramids: a group of a product, halved until it is small, each level from the one below it."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

from lczcube.places import Place
from lczcube.schema import Kind, kind_of

LARGEST_PX = 512
"""Pixels along the longer side of a map that is not halved any more."""

Array = npt.NDArray[Any]


def level_names(group: str, geobox: GeoBox) -> list[str]:
    """Names of the levels above a group: ``pixels_2``, ``pixels_4`` and so on."""
    longest, names, factor = max(geobox.shape), [], 2
    while longest > LARGEST_PX:
        names.append(f"{group}_{factor}")
        longest, factor = -(-longest // 2), 2 * factor
    return names


def halved_geobox(geobox: GeoBox) -> GeoBox:
    """Pixels twice as wide from the same corner; an odd last one reaches past the map."""
    rows, columns = geobox.shape
    return GeoBox((-(-rows // 2), -(-columns // 2)), geobox.affine * Affine.scale(2), geobox.crs)


def halved_dataset(dataset: xr.Dataset, place: Place, group: str, side_px: int) -> xr.Dataset:
    """The level above a group, lazy; reads the group from its store when it is computed.

    Parameters
    ----------
    dataset : xarray.Dataset
        The group, dims ``(…, y, x)``.
    place : Place
        The store that will hold it by then.
    group : str
        Its name there.
    side_px : int
        Side of the chunks of the level, pixels.

    Returns
    -------
    xarray.Dataset
        Same variables and dtypes, each with the attribute ``resampling_method``; without ``y`` and
        ``x``.
    """
    variables = {}
    for name, variable in dataset.data_vars.items():
        kind = kind_of(str(name), variable.dtype)
        attrs = variable.attrs | {"resampling_method": kind.halved}
        data = _halved_array(variable, place, f"{group}/{name}", kind, side_px)
        variables[name] = xr.Variable(variable.dims, data, attrs)
    return dataset.drop_dims(["y", "x"]).assign(variables)


def halve(values: Array, kind: Kind, axes: tuple[int, int]) -> Array:
    """Values at half the resolution, each of four; a side that is odd repeats its edge.

    Parameters
    ----------
    values : numpy.ndarray
        Any dtype.
    kind : Kind
        How: ``mode`` (the most frequent code but nodata, the lowest of several), ``average`` (of
        what is not nodata; whole numbers are rounded half to even), or ``union`` (of bits).
    axes : tuple of int
        The two that are halved.

    Returns
    -------
    numpy.ndarray
        Same dtype.

    Examples
    --------
    >>> halve(np.array([[6, 2, 0], [2, 6, 0]], np.uint8), kind_of("lcz", np.dtype("u1")), (0, 1))
    array([[2, 0]], dtype=uint8)
    """
    pad = [(0, values.shape[axis] % 2 if axis in axes else 0) for axis in range(values.ndim)]
    padded = np.pad(values, pad, mode="edge") if any(n for _, n in pad) else values
    four = [padded[index] for index in _quarters(values.ndim, axes)]
    return _HALVINGS[kind.halved](four, kind.nodata)


def _quarters(ndim: int, axes: tuple[int, int]) -> Iterator[tuple[slice, ...]]:
    for first in (0, 1):
        for second in (0, 1):
            index = [slice(None)] * ndim
            index[axes[0]], index[axes[1]] = slice(first, None, 2), slice(second, None, 2)
            yield tuple(index)


def _mode(four: Sequence[Array], nodata: float | None) -> Array:
    """Ascending candidates, a later one only where it is more frequent: ties go to the lowest."""
    ordered = np.sort(np.stack(four), axis=0)
    best: Array = ordered[0].copy()
    most = np.zeros(ordered.shape[1:], np.uint8)
    if nodata is not None:
        best[...] = nodata
    for candidate in ordered:
        n = (ordered == candidate).sum(axis=0, dtype=np.uint8)
        better = (n > most) if nodata is None else (n > most) & (candidate != nodata)
        best[better], most[better] = candidate[better], n[better]
    return best


def _average(four: Sequence[Array], nodata: float | None) -> Array:
    """Sums of four small whole numbers are exact in float32, and so are their halves."""
    dtype = four[0].dtype
    total = np.zeros(four[0].shape, np.float32 if dtype.itemsize <= 2 else np.float64)
    n = np.zeros(total.shape, np.uint8)
    for values in four:
        valid = ~np.isnan(values) if dtype.kind == "f" else values != nodata
        n += valid
        np.add(total, values, out=total, where=valid)
    np.divide(total, n, out=total, where=n > 0)
    if dtype.kind != "f":
        np.rint(total, out=total)
    total[n == 0] = nodata
    return total.astype(dtype)


def _union(four: Sequence[Array], nodata: float | None) -> Array:  # noqa: ARG001 (as _mode)
    """Of sets, no data being the empty one."""
    union: Array = np.bitwise_or.reduce(np.stack(four))
    return union


_HALVINGS = {"mode": _mode, "average": _average, "union": _union}


def _halved_array(
    variable: xr.DataArray, place: Place, key: str, kind: Kind, side_px: int
) -> da.Array:
    axes = (variable.dims.index("y"), variable.dims.index("x"))
    shape = [-(-n // 2) if i in axes else n for i, n in enumerate(variable.shape)]
    sides = tuple(side_px if i in axes else -1 for i in range(variable.ndim))
    chunks = da.core.normalize_chunks(sides, shape=shape)
    read = partial(_read_halved, place=place, key=key, kind=kind, axes=axes)
    return da.map_blocks(
        read, chunks=chunks, dtype=variable.dtype, meta=np.empty((0,) * len(shape), variable.dtype)
    )


def _read_halved(
    *, place: Place, key: str, kind: Kind, axes: tuple[int, int], block_info: Any = None
) -> Array:
    import zarr

    source = zarr.open_array(place.to_zarr(), path=key, mode="r", zarr_format=3)
    at = list(block_info[None]["array-location"])
    for axis in axes:
        start, stop = at[axis]
        at[axis] = (2 * start, min(2 * stop, source.shape[axis]))
    values = np.asarray(source[tuple(slice(*bounds) for bounds in at)])
    return halve(values, kind, axes)
