"""Propagation: labels travel from donors to the cells of a city, lazily."""

import json

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr

from lczcube.errors import ModelError
from lczcube.lcz import N_CLASSES, NODATA
from lczcube.probability import PERCENT_NODATA, quantise
from lczcube.propagate.cuts import fixed_cut
from lczcube.propagate.donors import Donors
from lczcube.propagate.electors import Electors

CUT_SLACK = 1e-6
"""A confidence this little under the cut still reaches it: float noise does not decide."""

FATES = (
    "kept",
    "below_cut",
    "novel",
    "contradicts_a_label",
    "near_evaluation",
    "no_data",
)
"""What becomes of a cell, in the order of its codes 0 to 5."""

KEPT, BELOW_CUT, NOVEL, CONTRADICTS, NEAR_EVALUATION, NO_DATA = range(len(FATES))

N_COLUMNS = N_CLASSES + 3
"""Of a packed cell: 17 probabilities, the raw share of the winner, distance, nearest donor."""

Float64 = npt.NDArray[np.float64]


def propagate_labels(
    electors: Electors | Donors,
    queries: xr.Dataset,
    *,
    city: str = "",
    cut: npt.NDArray[np.float64] | float = 0.8,
) -> xr.Dataset:
    """Labels of the cells of a city by the vote of the donors most like them; lazy.

    Parameters
    ----------
    electors : Electors or Donors
        Who votes and how; donors alone vote by :class:`Voting`'s defaults, uncalibrated.
    queries : xarray.Dataset
        From :func:`lczcube.aggregate`: ``features`` and ``covered``.
    city : str
        Whose cells they are; only told apart where the space standardises city by city.
    cut : numpy.ndarray or float
        Least confidence that is kept, of all classes or, float64 (17,), of each. Default 0.8.

    Returns
    -------
    xarray.Dataset
        On the cells, dims ``(cell_y, cell_x)``:

        - ``lcz``: uint8, the winning class; 0 where the cell is not covered or novel.
        - ``confidence``: uint8 per cent, 255 no data.
        - ``probability``: uint8 per cent, dims ``(lcz_class, cell_y, cell_x)``.
        - ``vote``: uint8 per cent, the winner's share of the vote before calibration.
        - ``distance``: float32, to the nearest donor, in the unit of the donors' space.
        - ``donor``: int32, position of the nearest donor among the donors, -1 no data.
        - ``fate``: uint8, position in :data:`FATES`: what becomes of the cell.
        - ``kept``: bool, whether that is ``kept``: the confidence reaches the cut.

    Raises
    ------
    ModelError
        If the queries' features or products are not the donors', or a cut is not in [0, 1].
    """
    if isinstance(electors, Donors):
        electors = Electors(electors)
    names, products = queries["feature"].values.tolist(), json.loads(queries.attrs["products"])
    electors.donors.space.require(names, products)
    cuts = fixed_cut(float(cut)) if np.ndim(cut) == 0 else np.asarray(cut, np.float64)
    if cuts.shape != (N_CLASSES,) or not (cuts >= -CUT_SLACK).all():
        raise ModelError(
            f"a cut of shape {cuts.shape}, from {cuts.min():g}; give one number, or one a class, "
            "(17,), 0 or more."
        )
    features = da.asarray(queries["features"].data)
    features = features.rechunk({-1: -1})
    packed = features.map_blocks(
        _vote_block,
        electors=electors.to_ship(),
        city=city,
        chunks=(*features.chunks[:-1], (N_COLUMNS,)),
        dtype=np.float64,
        meta=np.empty((0, 0, 0), np.float64),
    )
    return _cells(packed, queries, electors, cuts)


def _vote_block(features: npt.NDArray[np.float32], *, electors: Electors, city: str) -> Float64:
    """Packed cells of a block; NaN, and donor -1, where a feature is NaN."""
    shape = features.shape[:-1]
    flat = features.reshape(-1, features.shape[-1])
    packed = np.full((len(flat), N_COLUMNS), np.nan)
    packed[:, -1] = -1
    complete = np.isfinite(flat).all(axis=1)
    if complete.any():
        votes, probability = electors.vote(flat[complete], city)
        packed[complete] = np.column_stack([probability, votes.top, votes.distance, votes.donor])
    return packed.reshape(*shape, N_COLUMNS)


def _cells(packed: da.Array, queries: xr.Dataset, electors: Electors, cuts: Float64) -> xr.Dataset:
    donor = packed[..., -1].astype(np.int32)
    here = da.asarray(queries["covered"].data) & (donor >= 0)
    distance = packed[..., -2]
    known = here & (distance <= electors.limit)
    columns = packed.map_blocks(
        _quantised_block,
        cuts=cuts,
        chunks=(*packed.chunks[:-1], (N_CLASSES + 4,)),
        dtype=np.uint8,
        meta=np.empty((0, 0, 0), np.uint8),
    )
    fate = da.where(known, columns[..., 0], da.where(here, np.uint8(NOVEL), np.uint8(NO_DATA)))
    columns = da.where(known[..., None], columns[..., 1:], _nodata_columns())
    dims = ("cell_y", "cell_x")
    cells = xr.Dataset(
        {
            "lcz": (dims, columns[..., 0]),
            "confidence": (dims, columns[..., 1]),
            "probability": (("lcz_class", *dims), da.moveaxis(columns[..., 3:], -1, 0)),
            "vote": (dims, columns[..., 2]),
            "distance": (dims, da.where(here, distance, np.nan).astype(np.float32)),
            "donor": (dims, da.where(here, donor, np.int32(-1))),
        },
        coords={
            "cell_y": queries["cell_y"],
            "cell_x": queries["cell_x"],
            "lcz_class": np.arange(1, N_CLASSES + 1, dtype=np.uint8),
        },
        attrs=dict(queries.attrs),
    )
    return with_fates(cells, fate)


def with_fates(cells: xr.Dataset, fate: da.Array) -> xr.Dataset:
    """Cells with ``fate``, and ``kept`` that follows from it."""
    dims = ("cell_y", "cell_x")
    flags = {
        "flag_values": np.arange(len(FATES), dtype=np.uint8),
        "flag_meanings": " ".join(FATES),
    }
    return cells.assign(fate=(dims, fate, flags), kept=(dims, fate == KEPT))


def _quantised_block(packed: Float64, *, cuts: Float64) -> npt.NDArray[np.uint8]:
    """Columns: kept or below the cut; zone, confidence, vote, and 17 probabilities in per cent."""
    probability = packed[..., :N_CLASSES]
    lcz, confidence, percent = quantise(probability.astype(np.float32))
    needed = np.concatenate([[np.inf], cuts])[lcz.astype(np.int64)]
    fate = np.where(probability.max(axis=-1) >= needed - CUT_SLACK, KEPT, BELOW_CUT)
    vote = np.where(lcz == NODATA, np.float64(PERCENT_NODATA), np.rint(packed[..., -3] * 100))
    columns = [fate, lcz, confidence, vote]
    return np.concatenate(
        [*(column[..., None].astype(np.uint8) for column in columns), percent], axis=-1
    )


def _nodata_columns() -> npt.NDArray[np.uint8]:
    columns = np.full(N_CLASSES + 3, PERCENT_NODATA, dtype=np.uint8)
    columns[0] = NODATA
    return columns
