"""Labels burnt on a grid: which pixel, and which output pixel, belongs to which label."""

from dataclasses import dataclass
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import rasterio.features
import shapely
import xarray as xr
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords

from lczcube.errors import LabelError
from lczcube.grid import Grid
from lczcube.labels.table import require_labels
from lczcube.lcz import NODATA, cf_attrs


def rasterize_labels(labels: gpd.GeoDataFrame, grid: Grid) -> xr.Dataset:
    """Labels as rasters on the pixels of a grid; computes at once.

    Parameters
    ----------
    labels : geopandas.GeoDataFrame
        Label table in any CRS; geometries are transformed corner by corner to ``grid.crs``.
    grid : Grid
        Labels outside it are left out.

    Returns
    -------
    xarray.Dataset
        Dims ``(y, x)``, north-up, on ``grid.geobox``: ``lcz`` uint8 (0 no label) and ``patch``
        int32 (position of the row in ``labels`` plus 1; 0 none). Attributes: ``n_conflicts``,
        pixels that labels of different classes claim, which are 0; ``n_without_pixel``, labels
        that got no pixel (outside the grid, smaller than a pixel, or covered by others).

    Raises
    ------
    LabelError
        If the labels are not polygons with codes 1-17, or if none of them meets the grid.

    Notes
    -----
    A pixel belongs to a label when its centre lies in it, by the rule of
    :func:`rasterio.features.rasterize`. Where labels of one class overlap, the first row has the
    pixel. Memory is three arrays of the grid's size; a table without rows gives zeros.
    """
    burnt = _burn(labels, grid, grid.geobox)
    dims = ("y", "x")
    lcz_attrs = cf_attrs() | {"nodata": NODATA, "grid_mapping": "spatial_ref"}
    patch_attrs = {"long_name": "row of the label table plus 1, 0 no label", "nodata": 0}
    return xr.Dataset(
        {"lcz": (dims, burnt.lcz, lcz_attrs), "patch": (dims, burnt.patch, patch_attrs)},
        coords=xr_coords(grid.geobox),
        attrs=burnt.counts(len(labels)),
    )


def label_cells(labels: gpd.GeoDataFrame, grid: Grid) -> pd.DataFrame:
    """Output pixels of a grid that lie in a label; computes at once.

    Parameters
    ----------
    labels : geopandas.GeoDataFrame
        Label table in any CRS.
    grid : Grid
        Its output pixels are its cells, unless a stride is set.

    Returns
    -------
    pandas.DataFrame
        One row per pixel of ``grid.output_geobox`` whose centre lies in a label, in row-major
        order: ``row``, ``column`` and ``label`` (position of the row in ``labels``), int32. Pixels
        that labels of different classes claim are left out and counted in ``attrs["n_conflicts"]``;
        labels that got none are counted in ``attrs["n_without_pixel"]``.

    Raises
    ------
    LabelError
        As :func:`rasterize_labels`.
    """
    burnt = _burn(labels, grid, grid.output_geobox)
    rows, columns = np.nonzero(burnt.patch)
    values = {
        "row": rows.astype(np.int32),
        "column": columns.astype(np.int32),
        "label": burnt.patch[rows, columns] - np.int32(1),
    }
    cells = pd.DataFrame(values)
    cells.attrs.update(burnt.counts(len(labels)))
    return cells


@dataclass(frozen=True, eq=False)
class _Burnt:
    lcz: npt.NDArray[np.uint8]
    patch: npt.NDArray[np.int32]
    n_conflicts: int

    def counts(self, n_labels: int) -> dict[str, Any]:
        n_burnt = np.unique(self.patch[self.patch > 0]).size
        return {"n_conflicts": self.n_conflicts, "n_without_pixel": n_labels - n_burnt}


def _burn(labels: gpd.GeoDataFrame, grid: Grid, geobox: GeoBox) -> _Burnt:
    lcz = np.zeros(geobox.shape, np.uint8)
    patch = np.zeros(geobox.shape, np.int32)
    conflict = np.zeros(geobox.shape, bool)
    for code, shapes in _shapes_by_class(labels, grid).items():
        claimed = rasterio.features.rasterize(
            shapes, out_shape=geobox.shape, transform=geobox.affine, fill=0, dtype="int32"
        )
        mine = claimed > 0
        conflict |= mine & (lcz > 0)
        lcz[mine] = code
        patch[mine] = claimed[mine]
    lcz[conflict] = NODATA
    patch[conflict] = 0
    return _Burnt(lcz, patch, int(conflict.sum()))


def _shapes_by_class(
    labels: gpd.GeoDataFrame, grid: Grid
) -> dict[int, list[tuple[shapely.Geometry, int]]]:
    """Geometries and row numbers of each class, last row first: the first row is burnt last."""
    if labels.empty:
        return {}
    require_labels(labels)
    moved = labels.geometry if labels.crs == grid.crs else labels.geometry.to_crs(grid.crs)
    geometries = moved.to_numpy()
    codes = labels["lcz"].to_numpy()
    meets = shapely.intersects(geometries, shapely.box(*grid.bbox))
    if not meets.any():
        raise LabelError(_no_overlap(moved, grid))
    rows = np.flatnonzero(meets)[::-1]
    return {
        int(code): [(geometries[row], int(row) + 1) for row in rows[codes[rows] == code]]
        for code in np.unique(codes[rows])
    }


def _no_overlap(moved: gpd.GeoSeries, grid: Grid) -> str:
    def listed(bbox: Any) -> str:
        return "(" + ", ".join(f"{edge:.0f}" for edge in bbox) + ")"

    return (
        f"none of {len(moved)} labels meets the grid: labels lie in {listed(moved.total_bounds)}, "
        f"the grid in {listed(grid.bbox)} ({grid.crs}). Check the CRS of the labels and the bbox."
    )
