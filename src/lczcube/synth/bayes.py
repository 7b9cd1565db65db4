"""The best accuracy that a map of a synthetic city can have, and how it is computed.

The ideal observer knows, for each city, the class means, the covariance and the class shares. Of
each pure cell (one class over all its 32 x 32 pixels) it sees the mean latent vector before noise,
normalisation and quantisation, and takes the class of the highest posterior. As the covariance
``C`` is the same for all classes, that is the class with the largest
``log(share) - (m - mean)' C^-1 (m - mean) / 2``. ``C`` is the covariance of a block times the sum
of the squared shares that the blocks have in a cell.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lczcube import lcz
from lczcube.grid import Grid
from lczcube.synth.embedding import (
    BLOCK_OFFSET_PX,
    BLOCK_PX,
    N_LATENT,
    EmbeddingModel,
    blocks_of,
)
from lczcube.synth.zones import Window, ZoneMap

_Float = npt.NDArray[np.float64]
_CELLS_PER_PART = 16


@dataclass(frozen=True, eq=False)
class PureCells:
    """The pure cells of a city.

    Attributes
    ----------
    lcz : numpy.ndarray
        uint8 ``(n,)``, 1-17.
    row, column : numpy.ndarray
        int32 ``(n,)``: place in the grid, row 0 in the north.
    latent : numpy.ndarray
        float64 ``(n, 24)``: mean latent vector.
    """

    lcz: npt.NDArray[np.uint8]
    row: npt.NDArray[np.int32]
    column: npt.NDArray[np.int32]
    latent: _Float


def pure_cells(model: EmbeddingModel, zone_map: ZoneMap, city: int, grid: Grid) -> PureCells:
    """The cells of ``grid`` that one class fills and that were wholly seen."""
    parts = [
        _pure_in(model, zone_map, city, grid, part)
        for part in zone_map.window.parts(_CELLS_PER_PART * grid.cell_px)
    ]
    return PureCells(
        lcz=np.concatenate([p.lcz for p in parts]),
        row=np.concatenate([p.row for p in parts]),
        column=np.concatenate([p.column for p in parts]),
        latent=np.concatenate([p.latent for p in parts]),
    )


def observe(
    latent: _Float, means: _Float, share: _Float, variance: _Float
) -> npt.NDArray[np.uint8]:
    """Class, 1-17, that the ideal observer gives each latent vector.

    Parameters
    ----------
    latent : numpy.ndarray
        float64 ``(n, 24)``.
    means : numpy.ndarray
        float64 ``(17, 24)``: class means of the city.
    share : numpy.ndarray
        float64 ``(17,)``: class shares of the city; a class without a share is never given.
    variance : numpy.ndarray
        float64 ``(24,)``: diagonal of the covariance.
    """
    present = np.flatnonzero(share)
    scaled, centres = latent / np.sqrt(variance), means[present] / np.sqrt(variance)
    posterior = scaled @ centres.T - (centres**2).sum(axis=1) / 2 + np.log(share[present])
    return np.asarray(present[posterior.argmax(axis=1)] + 1, dtype=np.uint8)


def expected_accuracy(
    means: _Float, share: _Float, variance: _Float, *, n_draws: int, rng: np.random.Generator
) -> float:
    """Share of ``n_draws`` cells drawn from the model that the ideal observer gets right."""
    index = rng.choice(lcz.N_CLASSES, size=n_draws, p=share)
    latent = means[index] + rng.standard_normal((n_draws, N_LATENT)) * np.sqrt(variance)
    return float((observe(latent, means, share, variance) == index + 1).mean())


def class_share(codes: npt.NDArray[np.uint8]) -> _Float:
    """Share of each class, float64 ``(17,)``; equal shares where there is nothing to count."""
    counts = np.bincount(codes, minlength=lcz.N_CLASSES + 1)[1:].astype(np.float64)
    return counts / counts.sum() if counts.sum() else np.full(lcz.N_CLASSES, 1 / lcz.N_CLASSES)


def cell_variance(model: EmbeddingModel, *, weigh_blocks: bool = False) -> _Float:
    """Within-class variance of the mean latent vector of a cell, float64 ``(24,)``.

    ``weigh_blocks`` is for an observer who sees the blocks one by one, and weighs them equally
    though a cell's border cuts some.
    """
    side = cell_block_shares()
    if weigh_blocks:
        side = np.full_like(side, 1 / side.size)
    return np.asarray(model.variation**2 * np.sum(np.outer(side, side) ** 2))


def cell_block_shares(cell_px: int = 32) -> _Float:
    """Share of a cell's side that each block takes: 1/4, 1/2, 1/4 for cells at the zone's zero."""
    blocks = (np.arange(cell_px) - BLOCK_OFFSET_PX) // BLOCK_PX
    return np.asarray(np.bincount(blocks - blocks.min()) / cell_px)


def _pure_in(
    model: EmbeddingModel, zone_map: ZoneMap, city: int, grid: Grid, part: Window
) -> PureCells:
    n = grid.cell_px
    rows, columns = (side // n for side in part.shape)
    truth = zone_map.truth(part).reshape(rows, n, columns, n)
    first = truth[:, 0, :, 0]
    is_pure = (truth == first[:, None, :, None]).all(axis=(1, 3)) & (first > 0)
    at_y, at_x = np.nonzero(is_pure)
    codes = first[is_pure]
    variation = _cell_means(model.variations(city, blocks_of(part)), rows, columns)[is_pure]
    return PureCells(
        lcz=codes,
        row=((zone_map.window.y1 - part.y0) // n - 1 - at_y).astype(np.int32),
        column=((part.x0 - zone_map.window.x0) // n + at_x).astype(np.int32),
        latent=model.means[city][codes.astype(np.intp) - 1] + variation,
    )


def _cell_means(blocks: _Float, rows: int, columns: int) -> _Float:
    """Mean variation of each cell from the blocks it overlaps, three to a side, two apart."""
    side = cell_block_shares()
    step = 32 // BLOCK_PX
    total = np.zeros((rows, columns, N_LATENT))
    for i, share_y in enumerate(side):
        for j, share_x in enumerate(side):
            total += share_y * share_x * blocks[i::step, j::step][:rows, :columns]
    return total
