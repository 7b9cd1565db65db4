"""A small network on windows: one class a square of ``cell_m``, where the labels are patches."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from lczcube.confidence import Confidence
from lczcube.errors import GridMismatchError, LabelError
from lczcube.grid import Grid
from lczcube.lcz import N_CLASSES, require_codes
from lczcube.models.fitting import fit_network
from lczcube.models.inputs import layers_valid
from lczcube.models.maps import map_dataset, shared
from lczcube.models.margins import block_sizes, require_image, to_margin, with_margins
from lczcube.models.meta import require_features
from lczcube.models.netmodel import NetworkModel
from lczcube.models.network import patch_network
from lczcube.models.parameters import TrainingParameters, require_training
from lczcube.models.sampler import LabelledWindows, windows_on_disk
from lczcube.models.tabular import products_of
from lczcube.models.trainingrun import Fit
from lczcube.windows import COVERED_SHARE, snap_to_pixels

KIND = "patch"

BATCH_BYTES = 32 << 20
"""Windows that are predicted together."""

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
UInt8 = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PatchParameters(TrainingParameters):
    """Settings of :func:`fit_patch`, beside those of :class:`TrainingParameters`.

    Attributes
    ----------
    width : int
        Channels at full resolution; each level down doubles them.
    depth : int
        Levels down; fewer where the window has under 4 pixels left.
    window_px : int
        Side of a window. A fit sets it to the pixels along a cell.
    """

    width: int = 16
    depth: int = 2
    window_px: int = 32


@dataclass(frozen=True, eq=False)
class PatchArea:
    """The image and the labelled squares of one city, to train on.

    Attributes
    ----------
    city : str
        Name, for messages.
    image : xarray.DataArray
        As in :class:`lczcube.models.Area`, on ``grid.read_geobox(halo_px)``.
    grid : Grid
        Its cell is the side of the windows.
    x, y : numpy.ndarray
        float64, shape (n,): centres of the squares in the grid's CRS, as samples have them.
    lcz : numpy.ndarray
        uint8, shape (n,): 1-17; 0 is no label.
    weight : numpy.ndarray, optional
        float32, shape (n,). Default: 1.
    halo_px : int
        Pixels the image reaches past the grid; what a square has beyond is invalid.
    """

    city: str
    image: xr.DataArray
    grid: Grid
    x: Float64
    y: Float64
    lcz: UInt8
    weight: Float32 | None = None
    halo_px: int = 0


@dataclass(frozen=True, eq=False)
class PatchModel(NetworkModel):
    """A trained patch network and what it was trained on."""

    kind = KIND

    @property
    def parameters(self) -> PatchParameters:
        """Settings of the fit."""
        return PatchParameters(**self.meta.parameters)

    def build(self, n_inputs: int, n_classes: int) -> Any:
        """The torch module, with weights of chance."""
        return _build(n_inputs, n_classes, self.parameters)

    def probability(self, images: Float32) -> Float32:
        """Probabilities of windows.

        Parameters
        ----------
        images : numpy.ndarray
            float32, shape (n, band, ``window_px``, ``window_px``), NaN where invalid.

        Returns
        -------
        numpy.ndarray
            float32, shape (n, 17); NaN for a window without a valid pixel of the first layer.
        """
        import torch

        torch.set_num_threads(1)
        step = max(BATCH_BYTES // max(images[:1].nbytes, 1), 1)
        said = np.full((len(images), N_CLASSES), np.nan, np.float32)
        for start in range(0, len(images), step):
            part = images[start : start + step]
            known = layers_valid(part, self.inputs.layer)[:, 0].any(axis=(1, 2))
            channels = torch.from_numpy(self.inputs.channels(part[known])).to(self.device)
            with torch.inference_mode():
                logits = self.network(channels.contiguous(memory_format=torch.channels_last))
                spread = self.spread_probability(logits[:, :, 0, 0].T).T
            said[start : start + step][known] = spread
        return said


def fit_patch(
    areas: Sequence[PatchArea],
    *,
    seed: int,
    bands: tuple[str, ...],
    products: tuple[str, ...],
    parameters: PatchParameters | None = None,
    n_threads: int = 1,
    synthetic: bool = False,
    valid: Sequence[PatchArea] | None = None,
    checkpoint: str | Path | None = None,
    scratch: str | Path | None = None,
) -> PatchModel:
    """Train a network on labelled squares; reads the pixels of the squares.

    Parameters
    ----------
    areas : sequence of PatchArea
        Cities, with the bands ``bands`` and as many pixels along a cell.
    seed, bands, products, parameters, n_threads, synthetic, valid, checkpoint, scratch
        As in :func:`lczcube.models.fit_unet`.

    Raises
    ------
    LabelError
        If a code is not 0-17, or columns of squares differ in length.
    GridMismatchError
        If an image is not on its grid, or cells of the cities differ in pixels.
    ModelError
        As in :func:`lczcube.models.fit_unet`.
    StoreError
        If the folder has no room for the windows.
    MissingExtraError
        If torch is not installed.

    Notes
    -----
    A square off the lattice snaps to the nearest pixel edge, ties up-left, as in
    :func:`lczcube.aggregate_patches`. One without a valid pixel of the first layer teaches nothing.
    """
    unseen = list(valid or ())
    side = _common_side([*areas, *unseen])
    chosen = replace(parameters or PatchParameters(), window_px=side)
    require_training(KIND, chosen, counts=("width", "depth"))
    for area in (*areas, *unseen):
        _require_area(area)
    fit = Fit(
        kind=KIND,
        parameters=chosen,
        build=partial(_build, parameters=chosen),
        side=side,
        label_side=1,
        bands=bands,
        products=products,
        seed=seed,
        n_threads=n_threads,
        synthetic=synthetic,
        checkpoint=checkpoint,
        scratch=scratch,
    )
    fitted = fit_network(fit, list(map(_squares, areas)), list(map(_squares, unseen)))
    return PatchModel(fitted.meta, fitted.state, fitted.history)


def patch_probability(
    model: PatchModel, area: PatchArea, *, scratch: str | Path | None = None
) -> Float32:
    """Probabilities of squares anywhere in a city; reads their pixels.

    Parameters
    ----------
    model : PatchModel
        Trained or loaded.
    area : PatchArea
        The squares; their labels are not looked at.
    scratch : str or Path, optional
        As in :func:`lczcube.models.fit_unet`.

    Returns
    -------
    numpy.ndarray
        float32, shape (n, 17), in the order of the squares; NaN for a square without a valid pixel
        of the first layer.

    Raises
    ------
    ModelError
        If bands or products are not those of training.
    GridMismatchError
        If the image is not on the grid, or a cell has other pixels than in training.
    """
    _require_model(model, area.image, area.grid, products_of(area.image.attrs))
    _require_area(area)
    said = np.zeros((len(area.x), N_CLASSES), np.float32)
    if not len(said):
        return said
    side = model.parameters.window_px
    with windows_on_disk([_squares(area)], side=side, label_side=1, scratch=scratch) as windows:
        for ids in windows.parts():
            said[ids] = model.probability(windows.read(ids)["image"])
    return said


def predict_patch(
    model: PatchModel,
    image: xr.DataArray,
    *,
    grid: Grid,
    halo_px: int,
    products: tuple[str, ...] | None = None,
    confidence: Confidence | None = None,
    features: xr.DataArray | None = None,
) -> xr.Dataset:
    """Map of zones, confidence and probabilities of the grid's output pixels; lazy.

    Parameters
    ----------
    model : PatchModel
        Trained or loaded.
    image : xarray.DataArray
        float32, dims ``(band, y, x)``, NaN where invalid, on ``grid.read_geobox(halo_px)``.
    grid : Grid
        Of the map. Its stride may be any that is legal; its cell has the pixels of training.
    halo_px : int
        Pixels the image reaches past the grid, at least ``grid.halo_px``.
    products : tuple of str, optional
        Embedding products of the image. Default: its attribute ``products``.
    confidence : Confidence, optional
        Of the model. Default: probabilities as they are, and nothing else.
    features : xarray.DataArray, optional
        Features of :func:`lczcube.aggregate`, which an area of applicability is of.

    Returns
    -------
    xarray.Dataset
        ``lcz``, ``confidence`` and ``probability`` with dims ``(cell_y, cell_x)``, as
        :func:`lczcube.models.predict_features` gives them: of the window of ``cell_m`` around each
        output pixel. No data where less than half of the output pixel's own square is valid in the
        first layer.

    Raises
    ------
    GridMismatchError
        If the image is not on the grid with that halo, the halo is too small, or a cell has other
        pixels than in training.
    ModelError
        If bands or products are not those of training.

    Notes
    -----
    Windows that overlap are each predicted whole: a stride of a third of the cell costs nine times
    as much as one of the cell.
    """
    named = products if products is not None else products_of(image.attrs)
    _require_model(model, image, grid, named)
    require_image(image, grid, halo_px=halo_px, least_px=grid.halo_px)
    y, x = (grid.output_geobox.coordinates[dim].values for dim in ("y", "x"))
    like = xr.DataArray(
        np.empty((len(y), len(x)), bool),
        dims=("cell_y", "cell_x"),
        coords={"cell_y": y, "cell_x": x},
    )
    probability = _predicted(model, image, grid, halo_px)
    return map_dataset(
        probability,
        like,
        model.meta,
        grid_json=grid.to_json(),
        confidence=confidence,
        features=features,
    )


def _build(n_inputs: int, n_classes: int, parameters: PatchParameters) -> Any:
    return patch_network(
        n_inputs,
        n_classes,
        width=parameters.width,
        depth=parameters.depth,
        window_px=parameters.window_px,
        band_dropout=parameters.band_dropout,
        dropout=parameters.dropout,
    )


def _common_side(areas: Sequence[PatchArea]) -> int:
    sides = {area.grid.cell_px: area.city for area in areas}
    if len(sides) > 1:
        told = ", ".join(f"{n} in {city}" for n, city in sides.items())
        raise GridMismatchError(
            f"pixels along a cell differ ({told}); give every city the same pixel_m and cell_m."
        )
    return next(iter(sides))


def _require_area(area: PatchArea) -> None:
    require_image(area.image, area.grid, halo_px=area.halo_px, least_px=0)
    require_codes(area.lcz, where=f"labels of {area.city}")
    lengths = [len(area.x), len(area.y), len(area.lcz)]
    if area.weight is not None:
        lengths.append(len(area.weight))
    if len(set(lengths)) > 1:
        raise LabelError(
            f"squares of {area.city} have columns of lengths {', '.join(map(str, lengths))}; give "
            "each square x, y, lcz and weight."
        )


def _require_model(
    model: PatchModel, image: xr.DataArray, grid: Grid, products: Sequence[str]
) -> None:
    require_features(model.meta, [str(band) for band in image["band"].to_numpy()], products)
    side = model.parameters.window_px
    if grid.cell_px != side:
        raise GridMismatchError(
            f"a cell of this grid is {grid.cell_px} pixels and the model was trained on {side}; "
            f"use cell_m = {side * grid.pixel_m:g} with pixel_m = {grid.pixel_m:g}."
        )


def _squares(area: PatchArea) -> LabelledWindows:
    """The labelled squares as windows, snapped to pixels."""
    half = area.grid.cell_m / 2
    columns, rows = snap_to_pixels(area.grid, area.x - half, area.y + half)
    weights = np.ones(len(area.x), np.float32) if area.weight is None else area.weight

    def labels(ids: Indices) -> tuple[UInt8, Float32]:
        lcz, weight = area.lcz[ids].astype(np.uint8), weights[ids].astype(np.float32)
        return lcz[:, None, None], weight[:, None, None]

    return LabelledWindows(
        area.city, area.image, rows + area.halo_px, columns + area.halo_px, labels
    )


def _predicted(model: PatchModel, image: xr.DataArray, grid: Grid, halo_px: int) -> Any:
    """Probabilities, float32 (17, cell_y, cell_x), NaN where there is no data."""
    import dask.array as da

    margin, stride = grid.halo_px, grid.stride_px
    cut = partial(block_sizes, chunk_px=grid.chunk_px, margin_px=margin)
    sizes = cut(grid.shape[0]), cut(grid.shape[1])
    values = to_margin(image, halo_px=halo_px, margin_px=margin)
    return da.map_blocks(
        _predict_block,
        with_margins(values, margin_px=margin, sizes=sizes),
        model=shared(model, model.fingerprint),
        stride=stride,
        margin=margin,
        dtype=np.float32,
        chunks=((N_CLASSES,), *(tuple(n // stride for n in part) for part in sizes)),
        meta=np.empty((0, 0, 0), np.float32),
    )


def _predict_block(image: Float32, model: PatchModel, stride: int, margin: int) -> Float32:
    side = model.parameters.window_px
    covered = _covered(image, model, stride, margin)
    windows = np.lib.stride_tricks.sliding_window_view(image, (side, side), axis=(1, 2))
    windows = windows[:, ::stride, ::stride]
    raster = np.full((N_CLASSES, *covered.shape), np.nan, np.float32)
    for row, of_row in enumerate(covered):
        chosen = np.ascontiguousarray(np.moveaxis(windows[:, row, of_row], 0, 1))
        raster[:, row, of_row] = model.probability(chosen).T
    return raster


def _covered(image: Float32, model: PatchModel, stride: int, margin: int) -> npt.NDArray[np.bool_]:
    """Output pixels at least half of whose own square is valid in the first layer."""
    own = slice(margin, -margin or None)
    valid = layers_valid(image[None, :, own, own], model.inputs.layer)[0, 0]
    rows, columns = (n // stride for n in valid.shape)
    share = valid.reshape(rows, stride, columns, stride).mean(axis=(1, 3))
    return np.asarray(share >= COVERED_SHARE)
