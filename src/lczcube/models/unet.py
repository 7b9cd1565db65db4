"""A small U-Net on pixels, trained on sparse labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from lczcube.errors import GridMismatchError, ModelError
from lczcube.lcz import require_codes
from lczcube.models.fitting import fit_network
from lczcube.models.netmodel import NetworkModel
from lczcube.models.network import context_of, unet_network
from lczcube.models.parameters import TrainingParameters, require_training
from lczcube.models.sampler import LabelledWindows
from lczcube.models.trainingrun import Fit

KIND = "unet"

Float32 = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class UnetParameters(TrainingParameters):
    """Settings of :func:`fit_unet`, beside those of :class:`TrainingParameters`.

    Attributes
    ----------
    width : int
        Channels at full resolution; each level down doubles them. 64 are 1.9 million weights with
        64 bands, 32 half a million.
    depth : int
        Levels down; 2 sees 23 pixels in each direction.
    window_px : int
        Side of a training window, a multiple of ``2**depth`` and at least ``2 * 2**depth``: batch
        normalisation wants more than one pixel at the bottom.

    Notes
    -----
    Labels are few polygons, and a network that sees their surroundings learns the places by heart.
    Noise and dropout are against that. In Hong Kong, over polygons it has not seen, a width of 8,
    16, 32 and 64 has overall accuracy 0.55, 0.54, 0.60 and 0.61, and macro F1 0.24, 0.25, 0.31 and
    0.38: means of two seeds, which differ by up to 0.14. A fold takes 4, 5, 9 and 22 seconds of
    one core.
    """

    width: int = 64
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
    side, step = parameters.window_px, 2**parameters.depth
    if side % step or side < 2 * step:
        raise ModelError(
            f"unet window_px = {side}: with depth {parameters.depth} it is a multiple of {step} "
            f"and at least {2 * step}; use {max(-(-side // step), 2) * step}."
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
