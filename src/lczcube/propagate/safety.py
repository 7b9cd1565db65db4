"""Safety: no pseudo-label contradicts a label, and none lies near what scores are made on."""

from dataclasses import dataclass
from typing import Any

import dask.array as da
import geopandas as gpd
import numpy as np
import numpy.typing as npt
import shapely
import xarray as xr

from lczcube.cube import grid_of
from lczcube.labels.origins import touches_other_class
from lczcube.propagate.cells import CONTRADICTS, KEPT, NEAR_EVALUATION, with_fates


@dataclass(frozen=True, eq=False)
class _Guard:
    """What is compared with the window of a cell."""

    half_m: float
    labels: gpd.GeoDataFrame
    evaluation: gpd.GeoDataFrame
    distance_m: float

    def __call__(
        self,
        fate: npt.NDArray[np.uint8],
        lcz: npt.NDArray[np.uint8],
        y: npt.NDArray[np.float64],
        x: npt.NDArray[np.float64],
    ) -> npt.NDArray[np.uint8]:
        rows, columns = np.nonzero(fate == KEPT)
        centre_y, centre_x = y[rows, 0], x[0, columns]
        windows = square_windows(centre_x, centre_y, self.half_m)
        judged = fate.copy()
        near = _within(windows, self.evaluation, self.distance_m)
        judged[rows[near], columns[near]] = NEAR_EVALUATION
        contradicts = touches_other_class(windows, lcz[rows, columns], self.labels)
        judged[rows[contradicts], columns[contradicts]] = CONTRADICTS
        return judged


def exclude_pseudo_labels(
    propagated: xr.Dataset,
    *,
    labels: gpd.GeoDataFrame,
    evaluation: gpd.GeoDataFrame,
    exclude_eval_m: float = 320,
) -> xr.Dataset:
    """Drop pseudo-labels that contradict a label or lie near the evaluation; lazy.

    Parameters
    ----------
    propagated : xarray.Dataset
        From :func:`propagate_labels`.
    labels : geopandas.GeoDataFrame
        All labels, in the grid's CRS, with ``lcz``. A pseudo-label whose window touches a label of
        another class is dropped.
    evaluation : geopandas.GeoDataFrame
        Labels that scores are made on; may be empty. A pseudo-label whose window lies within
        ``exclude_eval_m`` of one is dropped.
    exclude_eval_m : float
        Distance in m. Default 320: one cell.

    Returns
    -------
    xarray.Dataset
        As given; ``kept`` is narrowed. Of cells that were kept ``fate`` then says
        ``contradicts_a_label``, also where both hold, or ``near_evaluation``.
    """
    grid = grid_of(propagated)
    fate, lcz = (da.asarray(propagated[name].data) for name in ("fate", "lcz"))
    rows, columns = fate.chunks
    judged = da.map_blocks(
        _Guard(grid.cell_m / 2, labels, evaluation, exclude_eval_m),
        fate,
        lcz.rechunk(fate.chunks),
        da.from_array(propagated["cell_y"].values[:, None], chunks=(rows, 1)),
        da.from_array(propagated["cell_x"].values[None, :], chunks=(1, columns)),
        dtype=np.uint8,
        meta=np.empty((0, 0), np.uint8),
    )
    return with_fates(propagated, judged)


def square_windows(
    x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], half_m: float
) -> npt.NDArray[Any]:
    """Squares around centres, in m."""
    windows: npt.NDArray[Any] = shapely.box(x - half_m, y - half_m, x + half_m, y + half_m)
    return windows


def _within(
    windows: npt.NDArray[Any], evaluation: gpd.GeoDataFrame, distance_m: float
) -> npt.NDArray[np.bool_]:
    near = np.zeros(len(windows), dtype=bool)
    if len(evaluation):
        window, _ = evaluation.sindex.query(windows, predicate="dwithin", distance=distance_m)
        near[window] = True
    return near
