"""A small U-Net on pixels: trained on sparse labels, mapped without seams."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from lczcube.errors import GridMismatchError, ModelError
from lczcube.grid import Grid
from lczcube.lcz import N_CLASSES, require_codes
from lczcube.models.fitting import Fit, fit_network
from lczcube.models.maps import map_dataset, shared
from lczcube.models.margins import block_sizes, require_image, starts_of, with_margins
from lczcube.models.meta import require_features
from lczcube.models.netmodel import NetworkModel
from lczcube.models.network import context_of, unet_network
from lczcube.models.parameters import TrainingParameters, require_training
from lczcube.models.sampler import LabelledWindows
from lczcube.models.tabular import products_of

KIND = "unet"

WINDOW_PX = 1280
"""Pixels along what one task maps: the context is then under a tenth of the work."""

TASK_BYTES = 3 << 29
"""Bytes that a task may hold; windows are smaller where bands and width ask for more."""

_STRIP_PX = 32
"""Rows of which the channels are made at a time: they stay in the cache."""

Float32 = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class UnetParameters(TrainingParameters):
    """Settings of :func:`fit_unet`, beside those of :class:`TrainingParameters`.

    Attributes
    ----------
    width : int
        Channels at full resolution; each level down doubles them.
    depth : int
        Levels down; 2 sees 23 pixels in each direction.
    window_px : int
        Side of a training window, a multiple of ``2**depth``.

    Notes
    -----
    Labels are few polygons, and a network that sees their surroundings learns the places by heart.
    Noise and dropout are against that. In Hong Kong, over polygons it has not seen, overall
    accuracy is 0.51 without them and 0.55 with them, macro F1 0.33 and 0.26: means of three seeds,
    which differ by as much.
    """

    width: int = 16
    depth: int = 2
    window_px: int = 16


@dataclass(frozen=True)
class Area:
    """The image and the labels of one city, to train on.

    Attributes
    ----------
    city : str
        Name, for messages.
    image : xarray.DataArray
        float32, dims ``(band, y, x)``, NaN where invalid, on ``grid.read_geobox(halo_px)``.
        Lazy: only chunks that hold labels are read. A coordinate ``layer`` along ``band`` names
        the layer of each band; without it all bands are of one.
    lcz : numpy.ndarray
        uint8, shape (y, x), on ``grid.geobox``: 1-17, 0 where there is no label.
    weight : numpy.ndarray, optional
        float32, shape (y, x): weight of each label. Default: 1.
    halo_px : int
        Pixels the image reaches past the labels, on each side.
    """

    city: str
    image: xr.DataArray
    lcz: UInt8
    weight: Float32 | None = None
    halo_px: int = 0


@dataclass(frozen=True, eq=False)
class UnetModel(NetworkModel):
    """A trained U-Net and what it was trained on."""

    kind = KIND

    @property
    def context_px(self) -> int:
        """Halo that a prediction needs, pixels; see :func:`context_px`."""
        return context_px(self.parameters)

    @property
    def parameters(self) -> UnetParameters:
        """Settings of the fit."""
        return UnetParameters(**self.meta.parameters)

    def build(self, n_inputs: int, n_classes: int) -> Any:
        """The torch module, with weights of chance."""
        return _build(n_inputs, n_classes, self.parameters)


def context_px(parameters: UnetParameters) -> int:
    """Pixels around a pixel that its prediction may depend on, a multiple of ``2**depth``.

    Parameters
    ----------
    parameters : UnetParameters
        Only the depth matters.
    """
    return context_of(parameters.depth)


def fit_unet(
    areas: Sequence[Area],
    *,
    seed: int,
    bands: tuple[str, ...],
    products: tuple[str, ...],
    parameters: UnetParameters | None = None,
    n_threads: int = 1,
    synthetic: bool = False,
    valid: Sequence[Area] | None = None,
    checkpoint: str | Path | None = None,
    scratch: str | Path | None = None,
) -> UnetModel:
    """Train a U-Net on labelled pixels; reads the windows of the images that hold labels.

    Parameters
    ----------
    areas : sequence of Area
        Cities. Their images have the bands ``bands``.
    seed : int
        Of the first weights, the order of the windows, and what is turned and hidden.
    bands : tuple of str
        Names along ``band``.
    products : tuple of str
        Embedding products of the image.
    parameters : UnetParameters, optional
        Default: those of the class.
    n_threads : int
        Threads of torch during the fit. With another number the weights may differ.
    synthetic : bool
        True when the images or labels are made up.
    valid : sequence of Area, optional
        Blocks or cities that are not trained on: the fit ends when their loss has not fallen for
        ``patience`` epochs, and keeps the weights with which it was lowest.
    checkpoint : str or Path, optional
        Folder of a checkpoint, at most 30 seconds of work old. The same call again goes on from
        it, to the same bits as if it had never stopped; one of other data or parameters is
        replaced. It stays at the end: delete it when the model is saved.
    scratch : str or Path, optional
        Folder for the windows. Default: that of the system for temporary files.

    Raises
    ------
    LabelError
        If a code is not 0-17.
    GridMismatchError
        If labels do not lie on their image.
    ModelError
        If fewer than two classes have a valid pixel, bands or layers of the images differ, a
        layer has no valid labelled pixel, a parameter is out of its range, or the loss is not a
        number.
    StoreError
        If the folder has no room for the windows.
    MissingExtraError
        If torch is not installed.

    Notes
    -----
    Each chunk is read once. The windows go to a file without a name that ends with the process:
    window² x bands x 4 bytes each; what is in memory does not grow with them. A labelled pixel
    teaches where its first layer is valid. Bands are normalised by those pixels; where a layer is
    invalid its bands are 0, and its mask channel says so. Infinite values count as invalid.
    """
    chosen = parameters or UnetParameters()
    _require_parameters(chosen)
    unseen = list(valid or ())
    for area in (*areas, *unseen):
        _require_area(area, len(bands))
    fit = Fit(
        kind=KIND,
        parameters=chosen,
        build=partial(_build, parameters=chosen),
        side=chosen.window_px,
        label_side=chosen.window_px,
        bands=bands,
        products=products,
        seed=seed,
        n_threads=n_threads,
        synthetic=synthetic,
        checkpoint=checkpoint,
        scratch=scratch,
    )
    cut = partial(_labelled_windows, side=chosen.window_px)
    fitted = fit_network(fit, list(map(cut, areas)), list(map(cut, unseen)))
    return UnetModel(fitted.meta, fitted.state, fitted.history)


def predict_unet(
    model: UnetModel,
    image: xr.DataArray,
    *,
    grid: Grid,
    halo_px: int,
    products: tuple[str, ...] | None = None,
    window_px: int | None = None,
) -> xr.Dataset:
    """Map of zones, confidence and probabilities of every pixel; lazy.

    Parameters
    ----------
    model : UnetModel
        Trained or loaded.
    image : xarray.DataArray
        float32, dims ``(band, y, x)``, names in the coordinate ``band``, NaN where invalid, on
        ``grid.read_geobox(halo_px)``. Any chunks.
    grid : Grid
        Of the map.
    halo_px : int
        Pixels the image reaches past the grid, at least ``model.context_px``: a map then does not
        depend on the bbox.
    products : tuple of str, optional
        Embedding products of the image. Default: its attribute ``products``.
    window_px : int, optional
        Pixels along what a task maps, rounded down to whole chunks, one at least. Default: 1,280,
        or what fits into 1.5 GiB. The map is the same.

    Returns
    -------
    xarray.Dataset
        On ``grid.geobox``, in chunks of ``grid.chunk_px``: ``lcz`` uint8 ``(y, x)``, 0 no data;
        ``confidence`` uint8 ``(y, x)``, per cent, 255 no data; ``probability`` uint8
        ``(lcz_class, y, x)``, per cent, 255 no data. No data where the first layer of the pixel
        itself is invalid; other layers may be invalid, or missing altogether.

    Raises
    ------
    GridMismatchError
        If the image is not on the grid with that halo, or the halo is too small.
    ModelError
        If bands or products are not those of training.

    Notes
    -----
    Windows are not blended. Each is predicted from itself and all pixels its result can depend on,
    pooled in the same blocks of ``2**depth`` pixels counted from the grid's anchor, and only the
    inside is kept: what any larger window would give, up to float noise. Blending would hide seams
    that are not there, and make a map depend on where the windows lie. A task computes
    ``(1 + 2 context / window)²`` times its pixels, on one thread; the weights are one object of the
    graph.
    """
    named = products if products is not None else products_of(image.attrs)
    require_features(model.meta, [str(band) for band in image["band"].to_numpy()], named)
    require_image(image, grid, halo_px=halo_px, least_px=model.context_px)
    probability = _predicted(model, image, grid, halo_px, window_px or _window_px(model))
    inner = slice(halo_px, halo_px + grid.shape[0]), slice(halo_px, halo_px + grid.shape[1])
    like = image.isel(band=0, drop=True)[inner]
    return map_dataset(probability, like, model.meta, grid_json=grid.to_json())


def _build(n_inputs: int, n_classes: int, parameters: UnetParameters) -> Any:
    return unet_network(
        n_inputs,
        n_classes,
        width=parameters.width,
        depth=parameters.depth,
        band_dropout=parameters.band_dropout,
        dropout=parameters.dropout,
    )


def _require_parameters(parameters: UnetParameters) -> None:
    require_training(KIND, parameters, counts=("width", "depth", "window_px"))
    step = 2**parameters.depth
    if parameters.window_px % step:
        grown = -(-parameters.window_px // step) * step
        raise ModelError(
            f"unet window_px = {parameters.window_px} is not a multiple of {step}, which depth "
            f"{parameters.depth} halves away; use {grown}."
        )


def _require_area(area: Area, n_bands: int) -> None:
    require_codes(area.lcz, where=f"labels of {area.city}")
    rows, columns = area.lcz.shape
    wanted = (n_bands, rows + 2 * area.halo_px, columns + 2 * area.halo_px)
    if area.image.dims != ("band", "y", "x") or area.image.shape != wanted:
        raise GridMismatchError(
            f"image of {area.city} has dims {area.image.dims} and shape {area.image.shape}; with "
            f"these labels and a halo of {area.halo_px} px it is ('band', 'y', 'x'), {wanted}."
        )
    if area.weight is not None and area.weight.shape != area.lcz.shape:
        raise GridMismatchError(
            f"weights of {area.city} have shape {area.weight.shape}, its labels {area.lcz.shape}; "
            "both lie on the grid."
        )


def _labelled_windows(area: Area, side: int) -> LabelledWindows:
    """The squares of a lattice of ``side`` pixels that hold a label."""
    corners = [np.arange(0, n, side) for n in area.lcz.shape]
    of_rows = np.logical_or.reduceat(area.lcz > 0, corners[0], axis=0)
    rows, columns = (at * side for at in np.nonzero(np.logical_or.reduceat(of_rows, corners[1], 1)))

    def labels(ids: Indices) -> tuple[UInt8, Float32]:
        lcz = np.zeros((len(ids), side, side), np.uint8)
        weight = np.ones((len(ids), side, side), np.float32)
        for window, (row, column) in enumerate(zip(rows[ids], columns[ids], strict=True)):
            square = (slice(row, row + side), slice(column, column + side))
            part = area.lcz[square]
            inside = (window, slice(part.shape[0]), slice(part.shape[1]))
            lcz[inside] = part
            if area.weight is not None:
                weight[inside] = area.weight[square]
        return lcz, weight

    halo = area.halo_px
    return LabelledWindows(area.city, area.image, rows + halo, columns + halo, labels)


def _window_px(model: UnetModel) -> int:
    """Pixels along a window that a task can hold: the bands twice, and eight layers of features."""
    pixel_bytes = 4 * (2 * model.inputs.n_channels + 8 * model.parameters.width)
    held = int((TASK_BYTES / pixel_bytes) ** 0.5) - 2 * model.context_px
    return max(min(WINDOW_PX, held), 1)


def _predicted(
    model: UnetModel, image: xr.DataArray, grid: Grid, halo_px: int, window_px: int
) -> Any:
    """Probabilities, float32 (17, y, x), NaN where there is no data.

    One task a window, which sees its surroundings: the context and up to ``2**depth - 1`` pixels
    more, from which the task starts at a whole pooling block.
    """
    import dask.array as da

    margin = model.context_px + 2**model.parameters.depth - 1
    cut = partial(block_sizes, chunk_px=grid.chunk_px, margin_px=margin)
    sizes = cut(grid.shape[0], block_px=window_px), cut(grid.shape[1], block_px=window_px)
    blocks = with_margins(image, halo_px=halo_px, margin_px=margin, sizes=sizes)
    probability = da.map_blocks(
        _predict_block,
        blocks,
        model=shared(model, model.fingerprint),
        starts=starts_of(grid, sizes),
        margin=margin,
        dtype=np.float32,
        chunks=((N_CLASSES,), *sizes),
        meta=np.empty((0, 0, 0), np.float32),
    )
    return probability.rechunk((N_CLASSES, grid.chunk_px, grid.chunk_px))


def _predict_block(
    image: Float32,
    model: UnetModel,
    starts: tuple[tuple[int, ...], ...],
    margin: int,
    block_id: tuple[int, ...],
) -> Float32:
    step = 2**model.parameters.depth
    dropped = [-(starts[axis][block_id[axis + 1]] - margin) % step for axis in (0, 1)]
    ends = [
        drop + (n - drop) // step * step for drop, n in zip(dropped, image.shape[1:], strict=True)
    ]
    inner = tuple(
        slice(margin - drop, margin - drop + n - 2 * margin)
        for drop, n in zip(dropped, image.shape[1:], strict=True)
    )
    aligned = image[:, dropped[0] : ends[0], dropped[1] : ends[1]]
    first = model.inputs.layer == 0
    known = np.asarray(np.isfinite(aligned[:, *inner][first]).all(axis=0))
    if not known.any():
        return np.full((N_CLASSES, *known.shape), np.nan, np.float32)
    probability = _probability(model, aligned, inner)
    probability[:, ~known] = np.nan
    return probability


def _probability(model: UnetModel, image: Float32, inner: tuple[slice, ...]) -> Float32:
    """Probabilities of the inside of an image, float32 (17, y, x)."""
    import torch

    torch.set_num_threads(1)
    network = model.network
    with torch.inference_mode():
        pixels = torch.empty(
            (1, model.parameters.width, *image.shape[1:]),
            device=model.device,
            memory_format=torch.channels_last,
        )
        for top in range(0, image.shape[1], _STRIP_PX):
            rows = slice(top, top + _STRIP_PX)
            channels = torch.from_numpy(model.inputs.channels(image[None, :, rows]))
            channels = channels.to(model.device).contiguous(memory_format=torch.channels_last)
            pixels[:, :, rows] = network.stem(channels)
        logits = network.surroundings(pixels)[0]
        return model.spread_probability(logits[:, *inner])
