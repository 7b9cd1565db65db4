"""Bands of a Zarr array: names, nodata, scale and offset, by the attributes in use."""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lczcube.errors import SourceError
from lczcube.sources.bands import Band, as_code, band_fields, fits, name_bands, require_code
from lczcube.sources.zarr_arrays import GridArray

NOTE_ON_ZERO = "The fill value 0 is taken for a value; set nodata = 0 if it means none."


def array_bands(
    grid: GridArray, *, given: Sequence[str], default: Sequence[str], nodata: float | None
) -> list[dict[str, Any]]:
    """``bands`` of an asset; reads the coordinate of the bands at most.

    Parameters
    ----------
    grid : GridArray
        The array.
    given : sequence of str
        Names in place of the store's.
    default : sequence of str
        Names where the store has none and there are as many bands.
    nodata : float or None
        As :func:`array_nodata` gives it.

    Raises
    ------
    SourceError
        If ``given`` are not as many as there are bands, or scale or offset are no numbers.
    """
    attrs = grid.array.attrs
    scale = _number(attrs, "scale_factor", 1.0, grid.where)
    offset = _number(attrs, "add_offset", 0.0, grid.where)
    unit = str(attrs["units"]) if attrs.get("units") else None
    own = _own_names(grid, default)
    names = name_bands(given, own, grid.where)
    bands = [Band(name, scale, offset, unit, name) for name in own]
    return band_fields(bands, names, grid.array.dtype.name, nodata)


def array_nodata(grid: GridArray, given: float | None) -> tuple[float | None, str | None]:
    """The code of "no value here", and a note where that was taken on trust.

    By ``given``, else ``_FillValue``, ``missing_value``, or a fill value other than 0: what is not
    written reads as 0 in most stores, where 0 is a value.

    Raises
    ------
    SourceError
        If the dtype has no such code, or an attribute is no number.
    """
    dtype = np.dtype(grid.array.dtype.name)
    if given is not None:
        return require_code(given, dtype, grid.where), None
    for key in ("_FillValue", "missing_value"):
        value = grid.array.attrs.get(key)
        if value is not None:
            return _code(_decoded(value, f"{grid.where} has {key}"), dtype), None
    fill = grid.array.fill_value
    if fill is not None and float(fill) == 0:
        return None, NOTE_ON_ZERO
    return (None if fill is None else _code(float(fill), dtype)), None


def _code(value: float, dtype: np.dtype[Any]) -> float | None:
    """None for NaN, which is never valid, and for what cannot occur."""
    return as_code(value, dtype) if fits(value, dtype) else None


def _own_names(grid: GridArray, default: Sequence[str]) -> Sequence[str | None]:
    """Names by the coordinate of the bands, or by a list of names in the attributes."""
    dim, n_bands = grid.dim("band"), grid.size("band")
    if dim is None:
        return [grid.name]
    coordinate, attrs = grid.coordinate("band"), grid.array.attrs
    lists: list[Any] = [attrs.get(k) for k in (f"{dim}_dimensions", "band_names", "long_name")]
    if coordinate is not None:
        lists.insert(0, coordinate.attrs.get("names"))
        if np.dtype(coordinate.dtype).kind in "OUT":
            lists.insert(0, np.asarray(coordinate[:]).tolist())
    for names in (*lists, default):
        if isinstance(names, list | tuple) and len(names) == n_bands:
            return [str(name) for name in names]
    return [None] * n_bands


def _number(attrs: Mapping[str, Any], key: str, default: float, where: str) -> float:
    value = attrs.get(key, default)
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise SourceError(
            f"{where} has {key} {str(value)[:40]!r}, which is no number; correct the attribute."
        ) from error


def _decoded(value: Any, what: str) -> float:
    """A fill value as xarray writes it: a number, or for floats in Zarr 3 eight bytes in base64."""
    alone = value[0] if isinstance(value, list) and len(value) == 1 else value
    try:
        return float(alone)
    except (TypeError, ValueError):
        pass
    try:
        (number,) = struct.unpack("<d", base64.standard_b64decode(alone))
    except (TypeError, ValueError, struct.error, binascii.Error) as error:
        raise SourceError(
            f"{what} {str(value)[:40]!r}, which is no number; correct the attribute, or set nodata "
            "in the input."
        ) from error
    return float(number)
