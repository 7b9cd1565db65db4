"""Pseudo-labels as a table, and how many of each class were kept."""

from collections.abc import Mapping
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from lczcube.cube import grid_of
from lczcube.labels.origins import ORIGIN, PSEUDO
from lczcube.lcz import NODATA
from lczcube.propagate.cells import FATES, KEPT
from lczcube.propagate.cuts import HALF_PERCENT
from lczcube.propagate.safety import square_windows


def pseudo_label_table(
    propagated: xr.Dataset, *, city: str, donors: pd.DataFrame
) -> gpd.GeoDataFrame:
    """The kept cells as a table; reads the cells' arrays.

    Parameters
    ----------
    propagated : xarray.Dataset
        Cells of a city as they are stored, from :func:`lczcube.products.open_product`: confidence
        in [0, 1].
    city : str
        Its city.
    donors : pandas.DataFrame
        ``table`` of :class:`Donors`.

    Returns
    -------
    geopandas.GeoDataFrame
        In the grid's CRS, row by row: ``patch_id``, ``city``, ``lcz``, ``confidence`` (0-1),
        ``weight`` (its confidence: how much it counts beside a label), ``vote`` (0-1),
        ``distance``, ``donor`` and ``donor_city`` (id and city of the nearest donor), ``origin``
        (``pseudo``), ``row``, ``column`` of the output pixel; the geometry is the window that was
        looked at.
    """
    grid = grid_of(propagated)
    rows, columns = np.nonzero(propagated["fate"].values == KEPT)
    names = ("lcz", "confidence", "vote", "distance", "donor")
    at = {name: propagated[name].values[rows, columns] for name in names}
    nearest = donors.iloc[at["donor"].astype(np.int64)]
    minx, _, _, maxy = grid.bbox
    x = np.asarray(minx + (columns + 0.5) * grid.stride_m, np.float64)
    y = np.asarray(maxy - (rows + 0.5) * grid.stride_m, np.float64)
    windows = square_windows(x, y, grid.cell_m / 2)
    return gpd.GeoDataFrame(
        {
            "patch_id": [f"pseudo/{city}/{r}-{c}" for r, c in zip(rows, columns, strict=True)],
            "city": city,
            "lcz": at["lcz"].astype(np.uint8),
            "confidence": at["confidence"].astype(np.float32),
            "weight": at["confidence"].astype(np.float32),
            "vote": at["vote"].astype(np.float32),
            "distance": at["distance"].astype(np.float32),
            "donor": nearest["patch_id"].to_numpy(object),
            "donor_city": nearest["city"].to_numpy(object),
            ORIGIN: PSEUDO,
            "row": rows.astype(np.int32),
            "column": columns.astype(np.int32),
        },
        geometry=windows,
        crs=grid.crs,
    )


def fate_counts(propagated: xr.Dataset) -> dict[str, int]:
    """Cells by what became of them; reads ``fate``."""
    counts = np.bincount(propagated["fate"].values.ravel(), minlength=len(FATES))
    return dict(zip(FATES, counts.tolist(), strict=True))


def keep_rates(propagated: xr.Dataset, cut: npt.NDArray[np.float64]) -> dict[int, dict[str, int]]:
    """Cells per class, how many are kept, and how many raw votes would keep; classes present only.

    Parameters
    ----------
    propagated : xarray.Dataset
        Cells as they are stored.
    cut : numpy.ndarray
        float64, (17,): the least confidence of each class.

    Returns
    -------
    dict
        By code: ``cells`` that the class won, ``raw`` whose share of the vote, as stored, reaches
        the cut, ``calibrated`` whose confidence does, and ``kept`` of those after safety.
    """
    lcz, vote, fate = (propagated[name].values for name in ("lcz", "vote", "fate"))
    reached = (fate != FATES.index("below_cut")) & (lcz != NODATA)
    counts = {}
    for code in np.unique(lcz[lcz != NODATA]).tolist():
        mine = lcz == code
        counts[int(code)] = {
            "cells": int(mine.sum()),
            "raw": int((vote[mine] >= cut[int(code) - 1] - HALF_PERCENT).sum()),
            "calibrated": int((reached & mine).sum()),
            "kept": int(((fate == KEPT) & mine).sum()),
        }
    return counts


def silent_classes(
    rates: Mapping[int, Mapping[str, int]], is_class: npt.NDArray[np.bool_]
) -> list[int]:
    """Classes that have a donor and keep nothing."""
    present = (np.flatnonzero(is_class) + 1).tolist()
    nothing: dict[str, Any] = {"kept": 0}
    return [code for code in present if not rates.get(code, nothing)["kept"]]
