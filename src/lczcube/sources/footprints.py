"""Footprints: where a file lies, as a polygon and a bbox in EPSG:4326."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lczcube.errors import SourceError

if TYPE_CHECKING:
    import shapely
    from pyproj import Transformer

N_SEGMENTS = 21
"""Pieces an edge is cut into: a UTM tile of 100 km then bends by under a metre."""

DECIMALS = 9
"""Decimals of a degree kept: 0.1 mm."""

SEARCH_MARGIN_M = 5_000.0
"""How far past a city's bbox tiles are looked for: its grid grows to whole cells and has a halo."""

_M_PER_DEGREE = 111_200.0

_UTM = re.compile(r"EPSG:32[67](?P<zone>\d\d)")

BBox = tuple[float, float, float, float]


@dataclass(frozen=True)
class Footprint:
    """Where something lies.

    Attributes
    ----------
    geometry : dict
        GeoJSON Polygon or MultiPolygon, longitude first, cut at the antimeridian.
    bbox : tuple of float
        ``(minx, miny, maxx, maxy)``, EPSG:4326; the full width of the globe where it is cut.
    """

    geometry: dict[str, Any]
    bbox: tuple[float, float, float, float]


def footprint(outline: shapely.Polygon, crs: str, *, where: str) -> Footprint:
    """The footprint of an outline in any CRS, its edges densified so that they bend with the CRS.

    Parameters
    ----------
    outline : shapely.Polygon
        In ``crs``.
    crs : str
        ``EPSG:n`` or WKT.
    where : str
        What lies there, for the message.

    Raises
    ------
    SourceError
        If the outline has no image in EPSG:4326: transform and CRS do not belong together.
    """
    import shapely

    is_geographic, to_lonlat = _to_lonlat(crs)
    longest = max(np.ptp(shapely.get_coordinates(outline), axis=0))
    dense = shapely.segmentize(outline, longest / N_SEGMENTS)
    coordinates = shapely.get_coordinates(dense)
    lon, lat = to_lonlat.transform(coordinates[:, 0], coordinates[:, 1])
    if not (np.isfinite(lon).all() and np.isfinite(lat).all() and np.abs(lat).max() <= 90.001):
        minx, miny, maxx, maxy = outline.bounds
        raise SourceError(
            f"{where} spans ({minx:g}, {miny:g}, {maxx:g}, {maxy:g}), which has no place on Earth "
            f"in {_short(crs)}; its transform and CRS do not belong together. Correct its CRS."
        )
    unwrapped = lon if is_geographic else _unwrapped(lon)
    moved = shapely.set_coordinates(dense, np.column_stack([unwrapped, np.clip(lat, -90, 90)]))
    return _as_footprint(_cut_at_antimeridian(moved))


def box_footprint(bbox: BBox) -> Footprint:
    """The footprint of a box in EPSG:4326 that does not cross the antimeridian, as it is."""
    import shapely

    return Footprint(_as_geojson(shapely.box(*bbox)), bbox)


def geometry_footprint(geometry: shapely.Geometry) -> Footprint:
    """The footprint of a geometry in EPSG:4326."""
    return _as_footprint(geometry)


def clipped(whole: Footprint, *, west: float, east: float, where: str) -> Footprint:
    """The part of a footprint between two meridians.

    Raises
    ------
    SourceError
        If it has no such part.
    """
    import shapely

    between = shapely.intersection(
        shapely.geometry.shape(whole.geometry), shapely.box(west, -90, east, 90)
    )
    if shapely.area(between) == 0:
        raise SourceError(
            f"{where} lies wholly outside {west:g} to {east:g} degrees east, the UTM zone of its "
            "CRS; correct its CRS."
        )
    return _as_footprint(between)


def utm_meridians(crs: str) -> tuple[float, float] | None:
    """Meridians between which a UTM zone of WGS 84 lies; None for a CRS of another kind.

    Examples
    --------
    >>> utm_meridians("EPSG:32643")
    (72.0, 78.0)
    """
    found = _UTM.fullmatch(crs)
    if found is None or not 1 <= int(found["zone"]) <= 60:
        return None
    west = 6.0 * int(found["zone"]) - 186
    return west, west + 6


def search_boxes(bboxes: Iterable[BBox]) -> list[BBox]:
    """Where to look for the tiles of cities: their bboxes, EPSG:4326, grown by 5 km."""
    return [_grown(bbox, SEARCH_MARGIN_M) for bbox in bboxes]


def meets_any(bbox: BBox, boxes: Sequence[BBox]) -> bool:
    """True when a bbox shares a point with one of the boxes, or there are no boxes at all."""
    west, south, east, north = bbox
    return not boxes or any(
        west <= b[2] and b[0] <= east and south <= b[3] and b[1] <= north for b in boxes
    )


@lru_cache(maxsize=256)
def _to_lonlat(crs: str) -> tuple[bool, Transformer]:
    """Whether a CRS is geographic, and the way to EPSG:4326; tiles by the thousand share one."""
    from pyproj import CRS, Transformer

    src = CRS.from_user_input(crs)
    return src.is_geographic, Transformer.from_crs(src, "EPSG:4326", always_xy=True)


def _grown(bbox: BBox, margin_m: float) -> BBox:
    west, south, east, north = bbox
    dlat = margin_m / _M_PER_DEGREE
    dlon = dlat / max(math.cos(math.radians(max(abs(south), abs(north)))), 0.01)
    return (
        max(west - dlon, -180.0),
        max(south - dlat, -90.0),
        min(east + dlon, 180.0),
        min(north + dlat, 90.0),
    )


def _unwrapped(lon: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.where(lon < 0, lon + 360, lon) if np.ptp(lon) > 180 else lon


def _cut_at_antimeridian(polygon: shapely.Polygon) -> shapely.Geometry:
    import shapely
    from shapely.affinity import translate

    minx, _, maxx, _ = polygon.bounds
    if minx >= -180 and maxx <= 180:
        return polygon
    worlds = [
        translate(
            shapely.intersection(polygon, shapely.box(shift - 180, -90, shift + 180, 90)), -shift
        )
        for shift in (-360, 0, 360)
    ]
    return shapely.union_all([part for part in worlds if part.area > 0])


def _as_footprint(geometry: shapely.Geometry) -> Footprint:
    import shapely

    rounded = shapely.transform(geometry, lambda xy: np.round(xy, DECIMALS))
    minx, miny, maxx, maxy = rounded.bounds
    return Footprint(geometry=_as_geojson(rounded), bbox=(minx, miny, maxx, maxy))


def _as_geojson(geometry: shapely.Geometry) -> dict[str, Any]:
    """As ``shapely.geometry.mapping``, with lists for tuples, for polygons a good deal faster."""
    import shapely

    if geometry.geom_type == "Polygon":
        return {"type": "Polygon", "coordinates": _rings(geometry)}
    if geometry.geom_type == "MultiPolygon":
        parts = [_rings(part) for part in geometry.geoms]
        return {"type": "MultiPolygon", "coordinates": parts}
    mapped: dict[str, Any] = _as_lists(shapely.geometry.mapping(geometry))
    return mapped


def _rings(polygon: shapely.Polygon) -> list[Any]:
    import shapely

    return [shapely.get_coordinates(r).tolist() for r in (polygon.exterior, *polygon.interiors)]


def _as_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_lists(v) for key, v in value.items()}
    return [_as_lists(v) for v in value] if isinstance(value, tuple | list) else value


def _short(crs: str) -> str:
    return crs if len(crs) < 20 else crs[:40] + "…"
