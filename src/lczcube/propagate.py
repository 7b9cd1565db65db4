"""Propagation: labels travel from donors to unlabelled cells that look like them.

Exact nearest neighbours in the standardised feature space vote, weighted by similarity; a cell is
kept as a pseudo-label when its confidence reaches the cut.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import geopandas as gpd
import numpy as np
import numpy.typing as npt
import xarray as xr

from lczcube.cube import grid_of
from lczcube.errors import LabelError, ModelError
from lczcube.grid import Grid
from lczcube.lcz import N_CLASSES, NODATA
from lczcube.neighbours import nearest_donors
from lczcube.probability import PERCENT_NODATA, quantise

CUT_SLACK = 1e-6
"""A confidence this little under the cut still reaches it: float noise does not decide."""

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Donors:
    """Labelled feature vectors, standardised, in one fixed order.

    Attributes
    ----------
    features : numpy.ndarray
        float64, (donor, feature), z-scores.
    mean, std : numpy.ndarray
        float64, (feature,), of the donors' own features; a constant feature has std 1.
    lcz : numpy.ndarray
        uint8, (donor,), 1-17.
    donor_id : numpy.ndarray
        str, (donor,), the ``patch_id`` of each; donors are sorted by it.
    feature_names, products : tuple of str
        What the features are; queries must have the same.
    """

    features: Float64
    mean: Float64
    std: Float64
    lcz: npt.NDArray[np.uint8]
    donor_id: npt.NDArray[Any]
    feature_names: tuple[str, ...]
    products: tuple[str, ...]


def build_donors(samples: xr.Dataset) -> Donors:
    """Standardised donors from labelled samples.

    Parameters
    ----------
    samples : xarray.Dataset
        Dims ``(sample, feature)``: ``features``, ``lcz``, ``patch_id``. Samples with a NaN feature
        are left out.

    Raises
    ------
    LabelError
        If no sample has features.
    """
    features = samples["features"].values.astype(np.float64)
    complete = np.isfinite(features).all(axis=1) & (samples["lcz"].values != NODATA)
    if not complete.any():
        raise LabelError(
            f"none of the {samples.sizes['sample']} labelled samples has all features, so there is "
            "no donor; do labels and inputs overlap?"
        )
    ids = samples["patch_id"].values.astype(str)
    order = np.flatnonzero(complete)[np.argsort(ids[complete], kind="stable")]
    mean, std = features[order].mean(axis=0), features[order].std(axis=0)
    std = np.where(std > 0, std, 1.0)
    return Donors(
        features=(features[order] - mean) / std,
        mean=mean,
        std=std,
        lcz=samples["lcz"].values[order].astype(np.uint8),
        donor_id=ids[order],
        feature_names=tuple(samples["feature"].values.tolist()),
        products=tuple(json.loads(samples.attrs["products"])),
    )


def propagate_labels(
    donors: Donors, queries: xr.Dataset, *, k: int = 10, min_confidence: float = 0.8
) -> xr.Dataset:
    """Labels of unlabelled cells by the weighted vote of their nearest donors; lazy.

    Parameters
    ----------
    donors : Donors
        From :func:`build_donors`.
    queries : xarray.Dataset
        From :func:`lczcube.aggregate`: ``features`` and ``covered``.
    k : int
        Neighbours that vote; default 10. At most the number of donors vote.
    min_confidence : float
        Cut in [0, 1]; default 0.8. A cell whose winning class has less is not kept.

    Returns
    -------
    xarray.Dataset
        On the cells, dims ``(cell_y, cell_x)``:

        - ``lcz``: uint8, the winning class, 0 where the cell is not covered.
        - ``confidence``: uint8 per cent, 255 no data.
        - ``probability``: uint8 per cent, dims ``(lcz_class, cell_y, cell_x)``.
        - ``distance``: float32, to the nearest donor, in standard deviations over all features.
        - ``donor``: int32, position of the nearest donor in ``donors.donor_id``, -1 no data.
        - ``kept``: bool, confidence reaches the cut.

    Raises
    ------
    ModelError
        If the queries' features or products are not the donors'.

    Notes
    -----
    The weight of a neighbour is one over its distance, as in scikit-learn's
    ``weights="distance"``; donors at distance 0 outvote all others. Neighbours at equal distance
    are taken in order of id.
    """
    _require_same_features(donors, queries)
    if k < 1 or not 0 <= min_confidence <= 1:
        raise ModelError(
            f"k = {k}, min_confidence = {min_confidence}: k is at least 1, the cut in [0, 1]."
        )
    features = da.asarray(queries["features"].data)
    features = features.rechunk({-1: -1})
    packed = features.map_blocks(
        _vote_block,
        donors=donors,
        k=min(k, len(donors.lcz)),
        chunks=(*features.chunks[:-1], (N_CLASSES + 2,)),
        dtype=np.float64,
        meta=np.empty((0, 0, 0), np.float64),
    )
    return _votes_dataset(packed, queries, k, min_confidence)


def exclude_pseudo_labels(
    propagated: xr.Dataset,
    *,
    labels: gpd.GeoDataFrame,
    evaluation: gpd.GeoDataFrame,
    exclude_eval_m: float = 320,
) -> tuple[xr.Dataset, dict[str, int]]:
    """Drop pseudo-labels that contradict a label or lie near the evaluation.

    Reads ``lcz`` and ``kept`` of the cells into memory.

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
        As given, with ``kept`` narrowed.
    dict
        Counts: ``candidates``, ``contradict_a_label``, ``near_evaluation``, ``kept``.
    """
    kept = propagated["kept"].values.copy()
    lcz = propagated["lcz"].values
    rows, columns = np.nonzero(kept)
    windows = _windows(grid_of(propagated), rows, columns)
    contradicts = _touches_other_class(windows, lcz[rows, columns], labels)
    near = _within(windows, evaluation, exclude_eval_m)
    drop = contradicts | near
    kept[rows[drop], columns[drop]] = False
    counts = {
        "candidates": len(rows),
        "contradict_a_label": int(contradicts.sum()),
        "near_evaluation": int((near & ~contradicts).sum()),
        "kept": int(kept.sum()),
    }
    return propagated.assign(kept=(propagated["kept"].dims, kept)), counts


def pseudo_label_table(
    propagated: xr.Dataset, *, city: str, donor_id: Sequence[str]
) -> gpd.GeoDataFrame:
    """The kept cells as a table; reads the cells' arrays.

    Parameters
    ----------
    propagated : xarray.Dataset
        With ``lcz``, ``kept``, ``confidence``, ``distance`` and ``donor`` on the cells.
    city : str
        Its city.
    donor_id : sequence of str
        Of :class:`Donors`.

    Returns
    -------
    geopandas.GeoDataFrame
        In the grid's CRS, row by row: ``patch_id``, ``city``, ``lcz``, ``confidence`` (0-1),
        ``distance``, ``donor`` (its id), ``row``, ``column`` of the output pixel; the geometry is
        the window that was looked at.
    """
    grid = grid_of(propagated)
    rows, columns = np.nonzero(propagated["kept"].values)
    at = {name: propagated[name].values[rows, columns] for name in ("lcz", "donor", "distance")}
    confidence = propagated["confidence"].values[rows, columns].astype(np.float32)
    return gpd.GeoDataFrame(
        {
            "patch_id": [f"pseudo/{city}/{r}-{c}" for r, c in zip(rows, columns, strict=True)],
            "city": city,
            "lcz": at["lcz"].astype(np.uint8),
            "confidence": np.where(confidence > 1, confidence / 100, confidence),
            "distance": at["distance"].astype(np.float32),
            "donor": np.asarray(donor_id, dtype=object)[at["donor"].astype(np.int64)],
            "row": rows.astype(np.int32),
            "column": columns.astype(np.int32),
        },
        geometry=_windows(grid, rows, columns),
        crs=grid.crs,
    )


def keep_rates(lcz: npt.ArrayLike, kept: npt.ArrayLike) -> dict[int, tuple[int, int]]:
    """Kept and all propagated cells per class: ``{code: (kept, all)}``, classes present only."""
    codes = np.asarray(lcz).ravel()
    keep = np.asarray(kept).ravel()
    present = np.unique(codes[codes != NODATA]).tolist()
    return {code: (int(keep[codes == code].sum()), int((codes == code).sum())) for code in present}


def _require_same_features(donors: Donors, queries: xr.Dataset) -> None:
    names = tuple(queries["feature"].values.tolist())
    products = tuple(json.loads(queries.attrs["products"]))
    if products != donors.products:
        raise ModelError(
            f"queries are of product {', '.join(products)} and donors of "
            f"{', '.join(donors.products)}; two products never share a feature space. "
            "Aggregate both from the same inputs."
        )
    if names != donors.feature_names:
        raise ModelError(
            f"queries have {len(names)} features ({names[0]} …) and donors "
            f"{len(donors.feature_names)} ({donors.feature_names[0]} …), or in another order. "
            "Aggregate both with the same inputs and stats."
        )


def _vote_block(features: npt.NDArray[np.float32], *, donors: Donors, k: int) -> Float64:
    """Columns: 17 votes, distance, position of the nearest donor (-1 where a feature is NaN)."""
    shape = features.shape[:-1]
    flat = features.reshape(-1, features.shape[-1]).astype(np.float64)
    packed = np.full((len(flat), N_CLASSES + 2), np.nan)
    packed[:, -1] = -1
    complete = np.isfinite(flat).all(axis=1)
    if complete.any():
        queries = (flat[complete] - donors.mean) / donors.std
        distance, index = nearest_donors(donors.features, queries, k)
        votes = _votes(distance, donors.lcz[index])
        packed[complete] = np.column_stack([votes, distance[:, 0], index[:, 0]])
    return packed.reshape(*shape, N_CLASSES + 2)


def _votes(distance: Float64, lcz: npt.NDArray[np.uint8]) -> Float64:
    exact = distance == 0
    with np.errstate(divide="ignore"):
        weight = np.where(exact.any(axis=1, keepdims=True), exact, 1 / distance)
    votes = np.zeros((len(lcz), N_CLASSES))
    for neighbour in range(lcz.shape[1]):
        votes[np.arange(len(lcz)), lcz[:, neighbour].astype(np.int64) - 1] += weight[:, neighbour]
    shares: Float64 = votes / votes.sum(axis=1, keepdims=True)
    return shares


def _votes_dataset(
    packed: da.Array, queries: xr.Dataset, k: int, min_confidence: float
) -> xr.Dataset:
    donor = packed[..., -1].astype(np.int32)
    covered = da.asarray(queries["covered"].data) & (donor >= 0)
    columns = packed.map_blocks(
        _quantised_block,
        chunks=(*packed.chunks[:-1], (N_CLASSES + 2,)),
        dtype=np.uint8,
        meta=np.empty((0, 0, 0), np.uint8),
    )
    columns = da.where(covered[..., None], columns, _nodata_columns())
    winning = packed[..., :N_CLASSES].max(axis=-1)
    distance = packed[..., N_CLASSES].astype(np.float32)
    dims = ("cell_y", "cell_x")
    return xr.Dataset(
        {
            "lcz": (dims, columns[..., 0]),
            "confidence": (dims, columns[..., 1]),
            "probability": (("lcz_class", *dims), da.moveaxis(columns[..., 2:], -1, 0)),
            "distance": (dims, da.where(covered, distance, np.float32(np.nan))),
            "donor": (dims, da.where(covered, donor, np.int32(-1))),
            "kept": (dims, covered & (winning >= min_confidence - CUT_SLACK)),
        },
        coords={
            "cell_y": queries["cell_y"],
            "cell_x": queries["cell_x"],
            "lcz_class": np.arange(1, N_CLASSES + 1, dtype=np.uint8),
        },
        attrs=queries.attrs | {"k": k, "min_confidence": min_confidence},
    )


def _quantised_block(packed: Float64) -> npt.NDArray[np.uint8]:
    lcz, confidence, percent = quantise(packed[..., :N_CLASSES].astype(np.float32))
    return np.concatenate([lcz[..., None], confidence[..., None], percent], axis=-1)


def _nodata_columns() -> npt.NDArray[np.uint8]:
    columns = np.full(N_CLASSES + 2, PERCENT_NODATA, dtype=np.uint8)
    columns[0] = NODATA
    return columns


def _windows(
    grid: Grid, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]
) -> npt.NDArray[Any]:
    import shapely

    minx, _, _, maxy = grid.bbox
    x = minx + (columns + 0.5) * grid.stride_m
    y = maxy - (rows + 0.5) * grid.stride_m
    half = grid.cell_m / 2
    return shapely.box(x - half, y - half, x + half, y + half)  # type: ignore[no-any-return]


def _touches_other_class(
    windows: npt.NDArray[Any], lcz: npt.NDArray[np.uint8], labels: gpd.GeoDataFrame
) -> npt.NDArray[np.bool_]:
    touches = np.zeros(len(windows), dtype=bool)
    if len(labels):
        window, label = labels.sindex.query(windows, predicate="intersects")
        other = lcz[window] != labels["lcz"].to_numpy()[label]
        touches[window[other]] = True
    return touches


def _within(
    windows: npt.NDArray[Any], evaluation: gpd.GeoDataFrame, distance_m: float
) -> npt.NDArray[np.bool_]:
    near = np.zeros(len(windows), dtype=bool)
    if len(evaluation):
        window, _ = evaluation.sindex.query(windows, predicate="dwithin", distance=distance_m)
        near[window] = True
    return near
