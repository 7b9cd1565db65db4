"""Masks: the features of a table drawn on the pixels of a frame, a band of 0 and 1 each.

A pixel is 1 where its centre lies in an area, or in a line of its width in metres of the frame's
CRS, and where it holds a point. What is drawn does not depend on the rectangle it is drawn in.
"""

from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import shapely
from odc.geo.geobox import GeoBox

from lczcube.burning import burn
from lczcube.errors import SourceError
from lczcube.grid import BBox, project_bbox
from lczcube.sources.osm_scheme import MAPPED, MAX_WIDTH_M
from lczcube.tiles import PlacedTile, Rect, Tile

MAX_EDGE_DEGREES = 0.005
"""Longer edges are cut before they are projected: half a kilometre then bends by under 1 cm."""

QUANTUM_PX = 2.0**-14
"""Coordinates are whole multiples of it, 0.6 mm of 10 m. Where an edge crosses the middle of a row
is then worked out alike in every rectangle, as differences of coordinates are exact."""

_POINTS = (0, 4)
_LINES = (1, 5)


def read_masks(placed: PlacedTile, rect: Rect, frame: GeoBox, fill: float) -> npt.NDArray[np.uint8]:
    """The bands of a table of features on a rectangle of a frame; reads that part of the table.

    Parameters
    ----------
    placed : PlacedTile
        The table on the frame.
    rect : Rect
        Pixels of the frame that are wanted.
    frame : odc.geo.geobox.GeoBox
        The frame.
    fill : float
        Code of pixels past the table's extent.

    Returns
    -------
    numpy.ndarray
        uint8 ``(band, y, x)``: 1 or 0, by ``placed.tile.bands``; the band ``mapped`` is 1 where any
        feature of the table is.

    Raises
    ------
    SourceError
        If the table cannot be read.
    """
    bands = placed.tile.bands
    codes = np.zeros((len(bands), *rect.shape), dtype=np.uint8)
    shapes = _read_shapes(placed.tile, rect, frame)
    for feature, of_feature in shapes.groupby("feature", sort=True):
        mask = _draw(of_feature, rect, frame)
        for band in {str(feature), MAPPED}.intersection(bands):
            codes[bands.index(band)] |= mask
    covered = _covered(placed, rect)
    if covered is not None:
        codes[:, ~covered] = fill
    return codes


def shapes_on_ground(features: gpd.GeoDataFrame, crs: str) -> npt.NDArray[Any]:
    """Features of a table in a CRS of metres, lines as areas of their width; points stay points.

    Parameters
    ----------
    features : geopandas.GeoDataFrame
        Columns ``width_m`` and ``geometry``, EPSG:4326.
    crs : str
        CRS of what is given back.
    """
    moved: npt.NDArray[Any]
    moved = features.geometry.segmentize(MAX_EDGE_DEGREES).to_crs(crs).to_numpy()
    is_line = np.isin(shapely.get_type_id(moved), _LINES)
    moved[is_line] = shapely.buffer(moved[is_line], features["width_m"].to_numpy()[is_line] / 2)
    return moved


def _read_shapes(tile: Tile, rect: Rect, frame: GeoBox) -> gpd.GeoDataFrame:
    """Shapes that may reach into the rectangle: wide lines do from outside."""
    import pyarrow

    try:
        return gpd.read_parquet(
            tile.href,
            columns=["feature", "width_m", "geometry"],
            bbox=_bbox_of(rect, frame, tile.crs),
        )
    except (OSError, ValueError, KeyError, pyarrow.ArrowException) as error:
        raise SourceError(
            f"{tile.href} cannot be read as a table of features ({error}); it belongs to item "
            f"{tile.item_id!r}. Run lczcube build-catalog again."
        ) from error


def _bbox_of(rect: Rect, frame: GeoBox, crs: str) -> BBox:
    margin_m = MAX_WIDTH_M / 2 + abs(frame.affine.a)
    left, top = frame.affine * (rect.left, rect.top)
    right, bottom = frame.affine * (rect.right, rect.bottom)
    bbox = (left - margin_m, bottom - margin_m, right + margin_m, top + margin_m)
    return project_bbox(bbox, str(frame.crs), crs)


def _draw(shapes: gpd.GeoDataFrame, rect: Rect, frame: GeoBox) -> npt.NDArray[np.uint8]:
    moved = shapes_on_ground(shapes, str(frame.crs))
    is_point = np.isin(shapely.get_type_id(moved), _POINTS)
    in_px = _in_pixels(moved, frame)
    mask = burn(in_px[~is_point], rect)
    columns, rows = np.floor(shapely.get_coordinates(in_px[is_point])).astype(np.int64).T
    inside = (rows >= rect.top) & (rows < rect.bottom)
    inside &= (columns >= rect.left) & (columns < rect.right)
    mask[rows[inside] - rect.top, columns[inside] - rect.left] = 1
    return mask


def _in_pixels(shapes: npt.NDArray[Any], frame: GeoBox) -> npt.NDArray[Any]:
    to_px = ~frame.affine

    def move(xy: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        moved = xy * (to_px.a, to_px.e) + (to_px.c, to_px.f)
        return np.asarray(np.round(moved / QUANTUM_PX) * QUANTUM_PX)

    moved: npt.NDArray[Any] = shapely.transform(shapes, move)
    return moved


def _covered(placed: PlacedTile, rect: Rect) -> npt.NDArray[np.bool_] | None:
    """Pixels whose centre lies in the table's extent; None when all do."""
    if shapely.covers(placed.outline, shapely.box(rect.left, rect.top, rect.right, rect.bottom)):
        return None
    return placed.covers(rect, footprint=False)
