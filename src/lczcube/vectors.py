"""Vectors on a grid: which pixels lie in any of some polygons, lazily, chunk by chunk."""

import threading

import dask
import dask.array as da
import geopandas as gpd
import numpy as np
import numpy.typing as npt
import shapely
import xarray as xr
from affine import Affine
from odc.geo.xr import xr_coords

from lczcube.cube import GRID_ATTR, HALO_ATTR
from lczcube.errors import GridMismatchError
from lczcube.grid import Grid
from lczcube.layers import chunks_of
from lczcube.tiles import N_SEGMENTS, Rect

_BURNING = threading.Lock()


def burn_polygons(polygons: gpd.GeoSeries, grid: Grid, *, halo_px: int = 0) -> xr.DataArray:
    """Which pixels of a grid have their centre in a polygon; lazy.

    Parameters
    ----------
    polygons : geopandas.GeoSeries
        Polygons in any CRS; edges longer than a 64th of a polygon are cut before they are
        transformed, so that they bend with the CRS.
    grid : Grid
        Where they are burnt.
    halo_px : int
        Pixels past the grid on each side.

    Returns
    -------
    xarray.DataArray
        uint8, 1 or 0, dims ``(y, x)``, chunks of whole cells.

    Raises
    ------
    GridMismatchError
        If the polygons have no CRS.

    Notes
    -----
    A pixel does not depend on its chunk: a task burns the polygons that meet its chunk, whole.
    """
    if polygons.crs is None:
        raise GridMismatchError(
            "the polygons have no CRS; set the one they are drawn in (set_crs)."
        )
    frame = grid.read_geobox(halo_px)
    outlines = _in_pixels(polygons, grid, frame.affine)
    tree = shapely.STRtree(outlines)
    edges_y, edges_x = (np.cumsum([0, *sizes]) for sizes in chunks_of(grid, halo_px))
    rows = [
        [_burnt(outlines, tree, Rect(y0, x0, y1, x1)) for x0, x1 in _pairs(edges_x)]
        for y0, y1 in _pairs(edges_y)
    ]
    return xr.DataArray(
        da.block(rows),
        dims=("y", "x"),
        coords=xr_coords(frame),
        attrs={GRID_ATTR: grid.to_json(), HALO_ATTR: halo_px},
    )


def _in_pixels(polygons: gpd.GeoSeries, grid: Grid, affine: Affine) -> npt.NDArray[np.object_]:
    geometries = polygons[~(polygons.is_empty | polygons.isna())]
    bounds = geometries.bounds.to_numpy()
    longest = np.maximum(bounds[:, 2] - bounds[:, 0], bounds[:, 3] - bounds[:, 1])
    dense = geometries.segmentize(longest / N_SEGMENTS) if len(geometries) else geometries
    moved = dense.to_crs(grid.crs).to_numpy()
    to_px = ~affine
    outlines: npt.NDArray[np.object_] = shapely.transform(
        moved, lambda xy: xy * (to_px.a, to_px.e) + (to_px.c, to_px.f)
    )
    return outlines


def _pairs(edges: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))


def _burnt(outlines: npt.NDArray[np.object_], tree: shapely.STRtree, rect: Rect) -> da.Array:
    met = outlines[np.sort(tree.query(shapely.box(rect.left, rect.top, rect.right, rect.bottom)))]
    if not len(met):
        return da.zeros(rect.shape, dtype=np.uint8, chunks=rect.shape)
    mask = dask.delayed(_burn, pure=True)(met.tolist(), rect)
    return da.from_delayed(mask, shape=rect.shape, dtype=np.uint8)


def _burn(outlines: list[shapely.Geometry], rect: Rect) -> npt.NDArray[np.uint8]:
    from rasterio.features import rasterize

    # Twice as large, as rasterio warns of an identity transform; and one at a time, as it changes
    # the process's warning filters while it burns.
    with _BURNING:
        burnt: npt.NDArray[np.uint8] = rasterize(
            [shapely.transform(outline, lambda xy: 2 * xy) for outline in outlines],
            out_shape=rect.shape,
            transform=Affine(2, 0, 2 * rect.left, 0, 2, 2 * rect.top),
            fill=0,
            default_value=1,
            dtype="uint8",
        )
    return burnt
