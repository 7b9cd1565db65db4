"""Cover: how much of each cell lies under features of OpenStreetMap, by area and exactly.

Areas are cut with the cells and joined, so that what is mapped twice counts once.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import shapely

from lczcube.errors import LabelError, MissingInputError
from lczcube.grid import Grid, project_bbox
from lczcube.labels.shapes import polygonal, valid_polygons
from lczcube.masks import MAX_EDGE_DEGREES, shapes_on_ground
from lczcube.sources.osm_scheme import MAX_WIDTH_M
from lczcube.tiles import FEATURES_ASSET

if TYPE_CHECKING:
    import pystac

    from lczcube.catalog import Catalog

COLUMNS = ("feature", "osm_type", "osm_id", "width_m", "began", "geometry")
"""Columns of a table of features that are read."""

BLOCK_CELLS = 8
MANY_CORNERS = 500
"""Areas of more corners are cut into blocks of cells first: a forest of 50,000 corners is otherwise
walked round once for each of its cells."""

Geometries = npt.NDArray[Any]
Positions = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class FeatureState:
    """The features of OpenStreetMap at a date.

    Attributes
    ----------
    date : str
        ``2020-01-01``, or ``undated``.
    table : geopandas.GeoDataFrame
        :data:`COLUMNS`, EPSG:4326.
    extent : shapely.Geometry
        Where the table says what is there, EPSG:4326.
    """

    date: str
    table: gpd.GeoDataFrame
    extent: shapely.Geometry


def read_feature_states(
    catalog: Catalog, name: str, grid: Grid, *, dates: Collection[str] = ()
) -> list[FeatureState]:
    """The features of an ``osm`` input on a grid, a state a date; reads that part of the tables.

    Parameters
    ----------
    catalog : Catalog
        Holds the input.
    name : str
        Name of the input.
    grid : Grid
        Where they are wanted.
    dates : collection of str
        Dates wanted. Default: all that there are.

    Returns
    -------
    list of FeatureState
        In order of date. Extracts side by side of one date are one state.

    Raises
    ------
    LabelError
        If an item has no table of features, a table lacks a column, or there is none of a date.
    MissingInputError
        If a table is not there.
    """
    items: dict[str, list[pystac.Item]] = {}
    for item in catalog.items(name):
        date = "undated" if item.datetime is None else f"{item.datetime:%Y-%m-%d}"
        items.setdefault(date, []).append(item)
    missing = sorted(set(dates) - set(items))
    if missing or not items:
        raise LabelError(
            f"input {name!r} has no features of {', '.join(missing) or 'any date'}; it has "
            f"{', '.join(sorted(items)) or 'no item'}. Name these, or more dates in the input."
        )
    return [_state(date, items[date], grid) for date in sorted(dates or items)]


def join_states(states: Sequence[FeatureState]) -> list[FeatureState]:
    """The states of several inputs as one a date, in order of date."""
    by_date: dict[str, list[FeatureState]] = {}
    for state in states:
        by_date.setdefault(state.date, []).append(state)
    return [_joined(date, by_date[date]) for date in sorted(by_date)]


def cell_squares(grid: Grid) -> Geometries:
    """The cells of a grid as squares, row by row from the north."""
    return _squares(grid, 1)


def is_within(
    states: Sequence[FeatureState], grid: Grid, squares: Geometries
) -> npt.NDArray[np.bool_]:
    """Which cells have the centres of all their pixels in the extent of a state.

    Elsewhere nobody knows what is there, and the masks of the cube have no data.
    """
    extents = gpd.GeoSeries([state.extent for state in states], crs="EPSG:4326")
    moved = extents.segmentize(MAX_EDGE_DEGREES).to_crs(grid.crs).to_numpy()
    shapely.prepare(moved)
    centres = shapely.buffer(squares, -grid.pixel_m / 2, join_style="mitre")
    return np.asarray(shapely.covers(moved[:, None], centres[None, :]).any(axis=0))


def areas_on_cells(table: gpd.GeoDataFrame, grid: Grid, squares: Geometries) -> Geometries:
    """What features cover of each square, as one area each; empty where they cover nothing.

    Parameters
    ----------
    table : geopandas.GeoDataFrame
        ``width_m`` and ``geometry``, EPSG:4326. Points cover nothing.
    grid : Grid
        The squares are cells of it.
    squares : numpy.ndarray
        Cells, in its CRS.
    """
    owners, pieces = _pieces(_areas_of(table, grid), squares)
    joined = np.full(len(squares), shapely.Polygon(), dtype=object)
    order = np.argsort(owners, kind="stable")
    starts = np.flatnonzero(np.diff(owners[order], prepend=-1))
    for start, group in zip(starts, np.split(order, starts)[1:], strict=True):
        joined[owners[order[start]]] = shapely.union_all(pieces[group])
    return joined


def _state(date: str, items: Sequence[pystac.Item], grid: Grid) -> FeatureState:
    extents = [shapely.geometry.shape(item.geometry) for item in items]
    tables = [_read_table(item, grid) for item in items]
    parts = [FeatureState(date, *part) for part in zip(tables, extents, strict=True)]
    return _joined(date, parts)


def _joined(date: str, parts: Sequence[FeatureState]) -> FeatureState:
    table = gpd.GeoDataFrame(
        pd.concat([part.table for part in parts], ignore_index=True), crs="EPSG:4326"
    )
    return FeatureState(date, table, shapely.union_all([part.extent for part in parts]))


def _read_table(item: pystac.Item, grid: Grid) -> gpd.GeoDataFrame:
    import pyarrow

    asset = item.assets.get(FEATURES_ASSET)
    if asset is None:
        raise LabelError(
            f'item {item.id} has no table of features; rules want an input with source = "osm".'
        )
    href = asset.get_absolute_href() or asset.href
    minx, miny, maxx, maxy = grid.bbox
    m = MAX_WIDTH_M
    bbox = project_bbox((minx - m, miny - m, maxx + m, maxy + m), grid.crs, "EPSG:4326")
    try:
        return gpd.read_parquet(href, columns=list(COLUMNS), bbox=bbox)
    except FileNotFoundError as error:
        raise MissingInputError(
            f"table of features {href} is not there; build the catalog again."
        ) from error
    except (OSError, ValueError, KeyError, pyarrow.ArrowException) as error:
        raise LabelError(
            f"{href} cannot be read as a table of features ({error}). Delete .lczcube in the "
            "catalog's folder, and build the catalog again."
        ) from error


def _squares(grid: Grid, n_cells: int) -> Geometries:
    """Squares of so many cells a side, the last ones cut to the grid; row by row from the north."""
    minx, miny, maxx, maxy = grid.bbox
    side_m = grid.cell_m * n_cells
    left = np.arange(minx, maxx - side_m * 1e-6, side_m)
    top = np.arange(maxy, miny + side_m * 1e-6, -side_m)
    x, y = np.meshgrid(left, top)
    right, bottom = np.minimum(x + side_m, maxx), np.maximum(y - side_m, miny)
    return np.asarray(shapely.box(x, bottom, right, y).ravel())


def _areas_of(table: gpd.GeoDataFrame, grid: Grid) -> Geometries:
    shapes = shapes_on_ground(table, grid.crs)
    areas = valid_polygons(shapes[shapely.area(shapes) > 0])
    is_large = shapely.get_num_coordinates(areas) > MANY_CORNERS
    _, pieces = _pieces(areas[is_large], _squares(grid, BLOCK_CELLS))
    return np.concatenate([areas[~is_large], pieces])


def _pieces(areas: Geometries, squares: Geometries) -> tuple[Positions, Geometries]:
    """What lies of areas in squares: the position of the square, and the piece."""
    owners, found = shapely.STRtree(areas).query(squares, predicate="intersects")
    pieces = shapely.intersection(areas[found], squares[owners])
    is_mixed = shapely.get_type_id(pieces) == shapely.GeometryType.GEOMETRYCOLLECTION
    pieces[is_mixed] = [polygonal(piece) for piece in pieces[is_mixed]]
    has_area = shapely.area(pieces) > 0
    return owners[has_area], pieces[has_area]
