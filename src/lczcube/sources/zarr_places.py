"""Where the pixels of a Zarr array lie: CRS and transform by any of the conventions in use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lczcube.errors import SourceError
from lczcube.sources.files import first_line
from lczcube.sources.items import named_crs
from lczcube.sources.zarr_arrays import GridArray

SPACING_TOLERANCE_PX = 0.01
"""Coordinates may be this far from even spacing: 0.1 m of 10 m."""

MAX_LONGITUDE = 190.0
"""Longitudes past this count from 0 to 360, and half of them would not be found."""

_CF_NAMES = ("spatial_ref", "crs")
"""Variables that hold a grid mapping where no array names one: of rioxarray and of GDAL."""

_ASSUMED = "The store states no CRS: longitude and latitude are taken to be EPSG:4326."

Coordinates = Literal["centres", "edges"]
Transform = tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class Place:
    """Where the pixels of an array lie.

    Attributes
    ----------
    crs : str
        ``EPSG:n`` or WKT2.
    transform : tuple of float
        ``a, b, c, d, e, f`` with ``b = d = 0``; ``e`` is positive where y ascends.
    shape : tuple of int
        ``(rows, columns)``.
    note : str or None
        What was taken on trust.
    """

    crs: str
    transform: Transform
    shape: tuple[int, int]
    note: str | None = None


def place_of(grid: GridArray, *, crs: str | None, coordinates: Coordinates) -> Place:
    """CRS and transform of an array; reads its coordinates and no pixel.

    Taken from the first that is there: ``proj:`` attributes, the CF grid mapping (``crs_wkt``,
    ``spatial_ref``, parameters), coordinates in degrees; ``spatial:transform``, ``GeoTransform``,
    the coordinates.

    Parameters
    ----------
    grid : GridArray
        The array.
    crs : str or None
        CRS where the store does not state it.
    coordinates : str
        What the coordinates are of pixels: ``centres`` or upper-left ``edges``.

    Raises
    ------
    SourceError
        If the CRS or the transform is not said, if two places contradict each other, or the
        coordinates are not evenly spaced.
    """
    mapping = _grid_mapping(grid)
    stated = _convention_crs(grid) or _mapping_crs(mapping, grid)
    agreed = _agreed_crs(stated, crs, grid)
    told = _convention_transform(grid) or _gdal_transform(mapping, grid)
    by_coordinates = _coordinate_transform(grid, coordinates)
    if told is not None and by_coordinates is not None:
        _require_same_place(told, by_coordinates, grid, coordinates)
    transform = told or by_coordinates
    if transform is None:
        raise _no_place(grid)
    _require_upright(transform, agreed, grid)
    note = _ASSUMED if stated is None and crs is None else None
    return Place(agreed, transform, grid.shape, note)


def _grid_mapping(grid: GridArray) -> Mapping[str, Any]:
    """Attributes of the grid mapping variable, empty where there is none."""
    named = str(grid.array.attrs.get("grid_mapping", "")).partition(":")[0].split()
    for name in named or _CF_NAMES:
        variable = grid.variable(name)
        if variable is not None:
            return dict(variable.attrs)
    return {}


def _convention_crs(grid: GridArray) -> str | None:
    for key in ("proj:code", "proj:wkt2", "proj:projjson"):
        if grid.attrs.get(key):
            return named_crs(grid.attrs[key], where=f"{key} of {grid.where}")
    return None


def _mapping_crs(mapping: Mapping[str, Any], grid: GridArray) -> str | None:
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    for key in ("crs_wkt", "spatial_ref"):
        if mapping.get(key):
            return named_crs(mapping[key], where=f"{key} of {grid.where}")
    if "grid_mapping_name" not in mapping:
        return None
    try:
        wkt = CRS.from_cf(dict(mapping)).to_wkt()
    except (CRSError, KeyError, TypeError, ValueError) as error:
        raise SourceError(
            f"{grid.where} has a grid mapping that is no CRS ({first_line(error)}); correct it."
        ) from error
    return named_crs(wkt, where=grid.where)


def _is_in_degrees(grid: GridArray) -> bool:
    """True where coordinates say that they are longitude and latitude."""
    x, y = grid.coordinate("x"), grid.coordinate("y")
    if x is None or y is None:
        return False
    names = (str(grid.dim("x")).lower(), str(grid.dim("y")).lower())
    units = (x.attrs.get("units"), y.attrs.get("units"))
    return names in (("lon", "lat"), ("longitude", "latitude")) or units == (
        "degrees_east",
        "degrees_north",
    )


def _agreed_crs(stated: str | None, asked: str | None, grid: GridArray) -> str:
    given = None if asked is None else named_crs(asked, where=f"crs of {grid.where}")
    if given is not None and stated is not None and given != stated:
        raise SourceError(
            f"{grid.where} is in {_short(stated)} by its own attributes, but crs = "
            f"{asked!r}; leave crs out, or correct the store."
        )
    crs = given or stated or ("EPSG:4326" if _is_in_degrees(grid) else None)
    if crs is None:
        raise SourceError(
            f"{grid.where} states no CRS (no proj:code, no grid mapping, no lon and lat); set "
            'crs = "EPSG:n" in the input.'
        )
    return crs


def _convention_transform(grid: GridArray) -> Transform | None:
    """``spatial:transform``, which counts from corners, or from centres where it is of nodes."""
    attrs = grid.attrs
    if attrs.get("spatial:transform") is None:
        return None
    if attrs.get("spatial:transform_type", "affine") != "affine":
        raise SourceError(
            f"{grid.where} has spatial:transform_type {attrs['spatial:transform_type']!r}; pixels "
            "lie on an affine grid. Resample it to one."
        )
    shape = attrs.get("spatial:shape")
    if shape is not None and list(shape) != list(grid.shape):
        raise SourceError(
            f"{grid.where} has {grid.shape[0]} x {grid.shape[1]} pixels and a spatial:shape of "
            f"{list(shape)}; the transform is another array's. Correct the store."
        )
    a, b, c, d, e, f = _six(attrs["spatial:transform"], "spatial:transform", grid)
    if attrs.get("spatial:registration", "pixel") == "node":
        c, f = c - a / 2, f - e / 2
    return a, b, c, d, e, f


def _gdal_transform(mapping: Mapping[str, Any], grid: GridArray) -> Transform | None:
    """``GeoTransform`` of a grid mapping, in GDAL's order."""
    text = mapping.get("GeoTransform")
    if text is None:
        return None
    values = text.split() if isinstance(text, str) else text
    c, a, b, f, d, e = _six(values, "GeoTransform", grid)
    return a, b, c, d, e, f


def _six(values: Any, name: str, grid: GridArray) -> Transform:
    try:
        a, b, c, d, e, f = (float(v) for v in list(values)[:6])
    except (TypeError, ValueError) as error:
        raise SourceError(
            f"{grid.where} has a {name} of {str(values)[:60]!r}; it is six numbers. "
            "Correct the attribute."
        ) from error
    return a, b, c, d, e, f


def _coordinate_transform(grid: GridArray, coordinates: Coordinates) -> Transform | None:
    """From the coordinates; None where an axis has none, or a single one."""
    x, y = grid.coordinate("x"), grid.coordinate("y")
    if x is None or y is None or min(grid.shape) < 2:
        return None
    what = f"{grid.where}: coordinate"
    a, c = _axis(np.asarray(x[:]), f"{what} {grid.dim('x')!r}", coordinates)
    e, f = _axis(np.asarray(y[:]), f"{what} {grid.dim('y')!r}", coordinates)
    return a, 0.0, c, 0.0, e, f


def _no_place(grid: GridArray) -> SourceError:
    rows, columns = grid.shape
    return SourceError(
        f"{grid.where} has neither spatial:transform nor GeoTransform, nor coordinates "
        f"{grid.dim('y')!r} of {rows} and {grid.dim('x')!r} of {columns} values, two or more, so "
        "its pixels have no place; write one of them."
    )


def _axis(values: npt.NDArray[Any], what: str, coordinates: Coordinates) -> tuple[float, float]:
    """Side of a pixel and the outer edge of the first, from evenly spaced coordinates."""
    n = len(values)
    if values.dtype.kind not in "iuf":
        raise SourceError(f"{what} holds {values.dtype}, no numbers; write spatial:transform.")
    exact = values.astype(np.float64)
    first, last = float(exact[0]), float(exact[-1])
    side = (last - first) / (n - 1)
    off_px = np.abs(exact - (first + side * np.arange(n))).max() / abs(side) if side else np.inf
    if not off_px <= SPACING_TOLERANCE_PX:
        raise SourceError(
            f"{what} is not evenly spaced, it is off by up to "
            f"{off_px:.3g} of a pixel; resample it to a regular grid, or write spatial:transform."
        )
    return side, first if coordinates == "edges" else first - side / 2


def _require_same_place(
    told: Transform, by_coordinates: Transform, grid: GridArray, coordinates: Coordinates
) -> None:
    rows, columns = grid.shape
    ends = [
        (told[i] + told[j] * n - by_coordinates[i] - by_coordinates[j] * n) / abs(told[j] or 1.0)
        for i, j, length in ((2, 0, columns), (5, 4, rows))
        for n in (0, length)
    ]
    worst = max(ends, key=abs)
    if abs(worst) > SPACING_TOLERANCE_PX:
        other = "centres" if coordinates == "edges" else "edges"
        raise SourceError(
            f"{grid.where}: its transform and its coordinates are {abs(worst):.3g} pixels apart; "
            f'if the coordinates are the {other} of pixels, set coordinates = "{other}", else '
            "correct the store."
        )


def _require_upright(transform: Transform, crs: str, grid: GridArray) -> None:
    from pyproj import CRS

    a, b, c, d, e, _ = transform
    if b or d or not (a and e):
        raise SourceError(
            f"{grid.where} is rotated (transform {transform}); pixels lie along x and y. "
            "Resample it to such a grid."
        )
    ends = sorted((c, c + a * grid.shape[1]))
    if CRS.from_user_input(crs).is_geographic and max(map(abs, ends)) > MAX_LONGITUDE:
        raise SourceError(
            f"{grid.where} has longitudes from {ends[0]:g} to {ends[1]:g}; they count from -180 "
            "to 180. Shift and sort them."
        )


def _short(crs: str) -> str:
    return crs if len(crs) < 20 else crs[:40] + "…"
