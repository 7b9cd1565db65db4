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

SPLIT_CODES = {"training": 1, "validation": 2, "testing": 3}
"""Codes of the publisher's splits in a raster; 0 for none, or any other."""


def rasterize_labels(labels: gpd.GeoDataFrame, grid: Grid, *, erosion_m: float = 0.0) -> xr.Dataset:
    """Labels as rasters on the pixels of a grid; computes at once.

    Parameters
    ----------
    labels : geopandas.GeoDataFrame
        Label table in any CRS; geometries are transformed corner by corner to ``grid.crs``.
    grid : Grid
        Labels outside it are left out.
    erosion_m : float
        Ground left out inside the border of every label, m: hand-drawn borders lie off by a pixel
        or two, and mixed pixels lie along them. Default 0.

    Returns
    -------
    xarray.Dataset
        Dims ``(y, x)``, north-up, on ``grid.geobox``: ``lcz`` uint8 (0 no label), ``patch`` int32
        (position of the row in ``labels`` plus 1; 0 none) and ``split`` uint8 (1 training, 2
        validation, 3 testing; 0 none). Attributes: ``n_conflicts``,
        pixels that labels of different classes claim, which are 0; ``n_without_pixel``, labels
        that got no pixel (outside the grid, smaller than a pixel, eroded, or covered by others).

    Raises
    ------
    LabelError
        If the labels are not polygons with codes 1-17, if none of them meets the grid, or if the
        erosion is not 0 m or more.

    Notes
    -----
    A pixel belongs to a label when its centre lies in it, by the rule of
    :func:`rasterio.features.rasterize`. Where labels of one class overlap, the first row has the
    pixel. Memory is three arrays of the grid's size; a table without rows gives zeros.
    """
    if not 0 <= erosion_m < np.inf:
        raise LabelError(f"erosion_m = {erosion_m}: erosion is 0 m or more.")
    burnt = _burn(labels, grid, grid.geobox, erosion_m)
    dims = ("y", "x")
    lcz_attrs = cf_attrs() | {"nodata": NODATA, "grid_mapping": "spatial_ref"}
    patch_attrs = {"long_name": "row of the label table plus 1, 0 no label", "nodata": 0}
    split_attrs = {
        "long_name": "the publisher's split",
        "flag_values": np.array([0, *SPLIT_CODES.values()], np.uint8),
        "flag_meanings": " ".join(["none", *SPLIT_CODES]),
        "nodata": 0,
    }
    return xr.Dataset(
        {
            "lcz": (dims, burnt.lcz, lcz_attrs),
            "patch": (dims, burnt.patch, patch_attrs),
            "split": (dims, _split_codes(labels)[burnt.patch], split_attrs),
        },
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
    burnt = _burn(labels, grid, grid.output_geobox, 0.0)
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


def _split_codes(labels: gpd.GeoDataFrame) -> npt.NDArray[np.uint8]:
    """By row plus 1, as in ``patch``; 0 comes first."""
    codes = np.zeros(len(labels) + 1, np.uint8)
    if "split" in labels:
        codes[1:] = labels["split"].map(SPLIT_CODES).fillna(0).to_numpy()
    return codes


def _burn(labels: gpd.GeoDataFrame, grid: Grid, geobox: GeoBox, erosion_m: float) -> _Burnt:
    lcz = np.zeros(geobox.shape, np.uint8)
    patch = np.zeros(geobox.shape, np.int32)
    conflict = np.zeros(geobox.shape, bool)
    for code, shapes in _shapes_by_class(labels, grid, erosion_m).items():
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
    labels: gpd.GeoDataFrame, grid: Grid, erosion_m: float
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
    if erosion_m > 0:
        geometries = shapely.buffer(geometries, -erosion_m, join_style="mitre")
    rows = np.flatnonzero(meets & ~shapely.is_empty(geometries))[::-1]
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
