"""Geolocation of So2Sat's patches: upper-left corners in UTM, of both layouts, and a check on them.

The first release has ``tfw`` as ``[x0, dx, 0, y0, 0, dy]``, the second as a world file, ``[A, D, B,
E, C, F]``; the first number tells them apart, as no easting is below 1,000 m. E is taken as
negative whatever its sign, as the publisher's script does: the first release has +10.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from lczcube.errors import SourceError
from lczcube.sources.hdf5 import find_dataset, open_hdf5, require_dataset
from lczcube.sources.so2sat_cities import CITIES, MARGIN_KM, nearest_city

if TYPE_CHECKING:
    import h5py

Origin = Literal["corner", "centre"]

PATCH_PX = 32
PIXEL_M = 10.0
PATCH_M = PATCH_PX * PIXEL_M
MOST_ROWS = 10_000_000
"""So2Sat has 400,673 patches; a file of more rows than this is not one of it."""

MOST_CITIES = 1_000
"""A file that names more cities than this is damaged."""

_LONGEST_NAME = 64
_PIXEL_TOLERANCE_M = 1e-3
_CENTRE_TOLERANCE_M = 0.01
_WORLD_FILE_BELOW = 1000.0

_Float64 = npt.NDArray[np.float64]
_Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Geolocation:
    """Where the patches of a file lie, in the order of its rows.

    Attributes
    ----------
    epsg : numpy.ndarray
        int32: CRS of each patch.
    x0, y0 : numpy.ndarray
        float64, m: its upper-left corner.
    code : numpy.ndarray
        Text: the city the file names, ``""`` in the first layout.
    is_proven : bool
        True where the file gives centres too, and they agree.
    """

    epsg: _Int32
    x0: _Float64
    y0: _Float64
    code: npt.NDArray[np.str_]
    is_proven: bool = False

    def __len__(self) -> int:
        return len(self.epsg)

    def rows(self, chosen: npt.NDArray[Any]) -> Geolocation:
        """Some of the rows, by index or mask."""
        return Geolocation(
            self.epsg[chosen], self.x0[chosen], self.y0[chosen], self.code[chosen], self.is_proven
        )


@dataclass(frozen=True, eq=False)
class Place:
    """Where patches lie on the globe, and in which city.

    Attributes
    ----------
    lon, lat : numpy.ndarray
        float64, degrees: the centre; not finite where the CRS gives it no place.
    city : numpy.ndarray
        Text: the city the file names, else the nearest of So2Sat's within 60 km, else ``""``.
    is_home : numpy.ndarray
        True where the patch lies in that city. A city that So2Sat does not have is believed.
    is_named : numpy.ndarray
        True where the file names the city.
    """

    lon: _Float64
    lat: _Float64
    city: npt.NDArray[np.str_]
    is_home: npt.NDArray[np.bool_]
    is_named: npt.NDArray[np.bool_]


def read_geolocation(path: Path, *, origin: Origin = "corner") -> Geolocation:
    """The squares of a ``*_geo.h5``, of either layout.

    Parameters
    ----------
    path : pathlib.Path
        Holds ``epsg`` and ``tfw``, and ``coord`` (first layout) or ``city`` (second).
    origin : {"corner", "centre"}
        What the last two numbers of a world file are: the upper-left corner of the upper-left
        pixel, as in the publisher's script, or its centre, as in other world files.

    Raises
    ------
    SourceError
        If it is no HDF5, lacks a dataset, mixes layouts, has rotated patches or pixels other than
        10 m, or if its ``coord`` are not the centres of the squares.
    """
    with open_hdf5(path) as file:
        epsg = _epsg(file)
        tfw = _numbers(file, "tfw", len(epsg))
        has_centres = find_dataset(file, "coord") is not None
        centres = _numbers(file, "coord", len(epsg))[:, :2] if has_centres else None
        code = _codes(file, len(epsg))
    x0, y0 = _corners(tfw, path)
    if origin == "centre":
        x0, y0 = x0 - PIXEL_M / 2, y0 + PIXEL_M / 2
    if centres is not None:
        _require_centres(x0, y0, centres, path, origin)
    return Geolocation(epsg, x0, y0, code, is_proven=centres is not None)


def place(patches: Geolocation) -> Place:
    """Where patches lie by the CRS they state."""
    lon, lat = lonlat(patches.epsg, patches.x0 + PATCH_M / 2, patches.y0 - PATCH_M / 2)
    names, apart = nearest_city(lon, lat)
    names[apart > MARGIN_KM] = ""
    is_home = names != ""
    is_named = patches.code != ""
    for code in np.unique(patches.code[is_named]):
        rows = patches.code == code
        known = CITIES.get(str(code))
        is_home[rows] = (
            np.isfinite(lon[rows])
            if known is None
            else known.distance_km(lon[rows], lat[rows]) <= MARGIN_KM
        )
    return Place(lon, lat, np.where(is_named, patches.code, names), is_home, is_named)


def in_zones(
    patches: Geolocation, zones: _Int32 | int, rows: npt.NDArray[np.intp] | slice = slice(None)
) -> Geolocation:
    """The same numbers, some or all rows of which are read in other zones."""
    epsg = patches.epsg.copy()
    epsg[rows] = zones
    return replace(patches, epsg=epsg)


def lonlat(epsg: _Int32, x: _Float64, y: _Float64) -> tuple[_Float64, _Float64]:
    """Points of several UTM zones in EPSG:4326; not finite where the code is no zone of WGS 84."""
    from pyproj import Transformer

    lon, lat = np.full(len(x), np.nan), np.full(len(x), np.nan)
    for code in np.unique(epsg):
        if not is_utm(int(code)):
            continue
        rows = epsg == code
        to_lonlat = Transformer.from_crs(int(code), 4326, always_xy=True)
        lon[rows], lat[rows] = to_lonlat.transform(x[rows], y[rows])
    return lon, lat


def is_utm(epsg: int) -> bool:
    """True for a UTM zone of WGS 84."""
    return 1 <= epsg % 100 <= 60 and epsg // 100 in (326, 327)


def _epsg(file: h5py.File) -> _Int32:
    held = require_dataset(file, "epsg")
    if held.shape not in {held.shape[:1], (*held.shape[:1], 1)} or held.ndim == 0:
        raise SourceError(f"{file.filename}: epsg has shape {held.shape}; it must be (N, 1).")
    if not 0 < held.shape[0] <= MOST_ROWS:
        raise SourceError(
            f"{file.filename} has {held.shape[0]:,} rows; So2Sat's have up to 352,366."
        )
    if held.dtype.kind not in "iuf":
        raise SourceError(f"{file.filename}: epsg is of type {held.dtype}; it must be numbers.")
    values = np.asarray(held[:]).reshape(-1)
    whole = np.where((values > 0) & (values < 1 << 31), values, 0)
    return np.asarray(whole, dtype=np.int32)


def _numbers(file: h5py.File, name: str, n_rows: int) -> _Float64:
    held = require_dataset(file, name)
    if held.shape != (n_rows, 6) or held.dtype.kind not in "iuf":
        raise SourceError(
            f"{file.filename}: {name} is {held.dtype} of shape {held.shape}; it must be numbers of "
            f"shape ({n_rows}, 6), as epsg has {n_rows} rows."
        )
    values = np.asarray(held[:], dtype=np.float64)
    n_bad = int((~np.isfinite(values).all(axis=1)).sum())
    if n_bad:
        raise SourceError(
            f"{file.filename}: {n_bad} rows of {name} are not finite; fetch the file again."
        )
    return values


def _codes(file: h5py.File, n_rows: int) -> npt.NDArray[np.str_]:
    for name in ("city", "cityList"):
        held = find_dataset(file, name)
        if held is not None:
            break
    else:
        return np.full(n_rows, "", dtype="<U1")
    if held.shape not in {(n_rows,), (n_rows, 1)} or held.dtype.kind not in "SO":
        raise SourceError(
            f"{file.filename}: {name} is {held.dtype} of shape {held.shape}; it must be names of "
            f"shape ({n_rows},), as epsg has {n_rows} rows."
        )
    names = [_name(value) for value in np.asarray(held[:]).reshape(-1).tolist()]
    n_cities = len(set(names))
    if n_cities > MOST_CITIES:
        raise SourceError(
            f"{file.filename}: {name} names {n_cities:,} cities; So2Sat has {len(CITIES)}. Fetch "
            "the file again."
        )
    return np.array(names, dtype=str)


def _name(value: str | bytes) -> str:
    text = value if isinstance(value, str) else value.decode("utf-8", "replace")
    return text.strip().lower()[:_LONGEST_NAME]


def _corners(tfw: _Float64, path: Path) -> tuple[_Float64, _Float64]:
    is_world_file = np.abs(tfw[:, 0]) < _WORLD_FILE_BELOW
    if is_world_file.any() and not is_world_file.all():
        raise SourceError(
            f"{path}: {int(is_world_file.sum())} of {len(tfw)} rows of tfw begin with a pixel "
            "size, the others with an easting; one file has one layout. Fetch it again."
        )
    # Columns of A, E (pixel), B, D (rotation), C, F (upper left).
    a, e, b, d, c, f = (0, 3, 2, 1, 4, 5) if is_world_file.all() else (1, 5, 2, 4, 0, 3)
    sizes = np.abs(tfw[:, [a, e]])
    off = (np.abs(sizes - PIXEL_M) > _PIXEL_TOLERANCE_M).any(axis=1)
    off |= (np.abs(tfw[:, [b, d]]) > _PIXEL_TOLERANCE_M).any(axis=1)
    if off.any():
        raise SourceError(
            f"{path}: {int(off.sum())} rows of tfw are no north-up squares of {PIXEL_M:g} m pixels "
            f"(row {int(np.argmax(off))}: {tfw[np.argmax(off)].tolist()}); fetch the geolocation "
            "of version 4."
        )
    return tfw[:, c], tfw[:, f]


def _require_centres(
    x0: _Float64, y0: _Float64, centres: _Float64, path: Path, origin: Origin
) -> None:
    middle = np.column_stack([x0 + PATCH_M / 2, y0 - PATCH_M / 2])
    shift = np.abs(centres - middle).max(axis=1)
    n_off = int((shift > _CENTRE_TOLERANCE_M).sum())
    if n_off:
        other = "corner" if origin == "centre" else "centre"
        raise SourceError(
            f"{path}: {n_off} centres in coord lie up to {shift.max():g} m from those of the "
            f'squares that tfw gives with origin = "{origin}"; try "{other}", or fetch the file '
            "again."
        )
