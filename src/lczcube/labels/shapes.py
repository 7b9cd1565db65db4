"""Shapes of labels: area, perimeter, compactness and width, on ground measured in metres."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import shapely
from pyproj import CRS, Geod

from lczcube.errors import LabelError

LONLAT = "EPSG:4326"

TRUE_AREA = 0.002
"""A projected CRS is kept where its areas are true to this share: UTM's are over the whole width of
a zone, Web Mercator's are nowhere."""

MAX_SPAN_DEG = 12.0
"""Widest table that one UTM zone measures: past it areas are off by more than 1 %."""

WIDTH_TOLERANCE_M = 1.0


def measure_shapes(labels: gpd.GeoDataFrame) -> pd.DataFrame:
    """Area, perimeter, compactness and width of every label.

    Parameters
    ----------
    labels : geopandas.GeoDataFrame
        Polygons in any CRS; see :func:`to_metres`.

    Returns
    -------
    pandas.DataFrame
        One row per label, in order: ``area_km2``; ``perimeter_km``, holes included;
        ``compactness``, 4 pi area / perimeter², 1 for a circle, 0.785 for a square, of several
        parts their area over that of circles as long as each; ``width_m``, diameter of the widest
        circle that fits in; ``n_parts``; ``problem``, why the outline is invalid, or
        ``""``. An invalid outline is measured as made valid.

    Raises
    ------
    LabelError
        If there is no CRS, or one zone cannot measure a table so wide.

    References
    ----------
    Polsby, D. D. & Popper, R. D. (1991). The third criterion: compactness as a procedural
    safeguard against partisan gerrymandering. Yale Law & Policy Review 9, 301-353.
    """
    given = labels.geometry.to_numpy()
    valid = shapely.is_valid(given)
    shapes = valid_polygons(to_metres(labels).geometry.to_numpy())
    area, perimeter = shapely.area(shapes), shapely.length(shapes)
    columns = {
        "area_km2": area / 1e6,
        "perimeter_km": perimeter / 1e3,
        "compactness": _compactness(shapes),
        "width_m": _widths(shapes),
        "n_parts": shapely.get_num_geometries(shapes).astype(np.int32),
        "problem": np.where(valid, "", shapely.is_valid_reason(given)).astype(object),
    }
    return pd.DataFrame(columns, index=labels.index)


def to_metres(labels: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """The labels in a CRS of metres with true areas: their own, or the UTM zone of their middle.

    Raises
    ------
    LabelError
        If they have no CRS, or span more degrees than a UTM zone can measure.
    """
    if labels.crs is None:
        raise LabelError("labels have no CRS; set the CRS the coordinates are in (set_crs).")
    if labels.empty or _is_true(labels):
        return labels
    west, _, east, _ = labels.to_crs(LONLAT).total_bounds
    if east - west > MAX_SPAN_DEG:
        raise LabelError(
            f"labels span {east - west:.0f} degrees of longitude, and one UTM zone measures "
            f"{MAX_SPAN_DEG:.0f}; check the labels of one city at a time."
        )
    return labels.to_crs(labels.estimate_utm_crs())


def valid_polygons(shapes: npt.NDArray[np.object_]) -> npt.NDArray[np.object_]:
    """The shapes, invalid ones made valid and without the lines and points that this leaves."""
    repaired = shapes.copy()
    invalid = ~shapely.is_valid(shapes)
    repaired[invalid] = [polygonal(shapely.make_valid(shape)) for shape in shapes[invalid]]
    return repaired


def polygonal(shape: shapely.Geometry) -> shapely.Geometry:
    """The areas of a geometry, without its lines and points."""
    parts = [part for part in shapely.get_parts(shape) if part.area > 0]
    return shapely.union_all(parts) if parts else shapely.Polygon()


def _is_true(labels: gpd.GeoDataFrame) -> bool:
    """Whether a kilometre square amid the labels has, in their CRS, its area on the ellipsoid."""
    crs = CRS.from_user_input(labels.crs)
    if not crs.is_projected or any(axis.unit_name != "metre" for axis in crs.axis_info):
        return False
    minx, miny, maxx, maxy = labels.total_bounds
    x, y = (minx + maxx) / 2, (miny + maxy) / 2
    square = gpd.GeoSeries([shapely.box(x - 500, y - 500, x + 500, y + 500)], crs=crs)
    on_ground = abs(Geod(ellps="WGS84").geometry_area_perimeter(square.to_crs(LONLAT).iloc[0])[0])
    return bool(np.isfinite(on_ground) and abs(1e6 / on_ground - 1) < TRUE_AREA)


def _compactness(shapes: npt.NDArray[np.object_]) -> npt.NDArray[np.float64]:
    parts, rows = shapely.get_parts(shapes, return_index=True)
    circles = np.bincount(rows, shapely.length(parts) ** 2 / (4 * np.pi), minlength=len(shapes))
    area = shapely.area(shapes)
    compactness: npt.NDArray[np.float64] = area / np.where(circles > 0, circles, 1.0)
    return compactness


def _widths(shapes: npt.NDArray[np.object_]) -> npt.NDArray[np.float64]:
    """Diameter of the largest circle inside each shape, m, to a metre."""
    widths = np.zeros(len(shapes))
    for row, shape in enumerate(shapes):
        parts = [part for part in shapely.get_parts(shape) if part.area > 0]
        radii = [
            shapely.maximum_inscribed_circle(part, tolerance=WIDTH_TOLERANCE_M).length
            for part in parts
        ]
        widths[row] = 2 * max(radii, default=0.0)
    return widths
