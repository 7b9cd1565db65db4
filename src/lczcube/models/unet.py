"""A small U-Net on pixels: trained on sparse labels, mapped without seams."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import xarray as xr

from lczcube.errors import GridMismatchError, ModelError
from lczcube.grid import Grid
from lczcube.lcz import N_CLASSES, NODATA, require_codes
from lczcube.models.balance import balanced_weights
from lczcube.models.extras import import_extra
from lczcube.models.maps import map_dataset, on_raster, shared
from lczcube.models.meta import (
    ModelMeta,
    read_meta,
    require_classes,
    require_features,
    scatter_classes,
    written_folder,
)
from lczcube.models.tabular import file_fingerprint, products_of

if TYPE_CHECKING:
    import torch

KIND = "unet"
_WEIGHTS_NAME = "weights.safetensors"
_MEAN, _STD = "input.mean", "input.std"
_N_TURNS = 8
_MAX_STEPS_PER_EPOCH = 64

Float32 = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]
State = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class UnetParameters:
    """Settings of :func:`fit_unet`.

    Attributes
    ----------
    epochs : int
        Times every window is seen.
    width : int
        Channels at full resolution; each level down doubles them.
    depth : int
        Levels down; 2 sees 23 pixels in each direction.
    learning_rate : float
        Peak of the cosine schedule.
    window_px : int
        Side of a training window, a multiple of ``2**depth``.
    batch : int
        Windows a step; more where there are over 64 times as many, which keeps a step worth its
        overhead.
    balance : float
        Class weights, 0 (none) to 1 (every class the same total weight).
    dice : float
        Weight of the Dice loss beside the cross-entropy.
    noise : float
        Standard deviation of the noise added to the normalised bands in training.
    band_dropout : float
        Share of the bands hidden from each window in training, [0, 1).
    dropout : float
        Share of the last features hidden from each window in training, [0, 1).

    Notes
    -----
    Labels are few polygons, and a network that sees their surroundings learns the places by heart.
    Noise and dropout are against that. In Hong Kong, over polygons it has not seen, overall
    accuracy is 0.51 without them and 0.55 with them, macro F1 0.33 and 0.26: means of three seeds,
    which differ by as much.
    """

    epochs: int = 20
    width: int = 16
    depth: int = 2
    learning_rate: float = 3e-3
    window_px: int = 16
    batch: int = 8
    balance: float = 0.5
    dice: float = 0.5
    noise: float = 0.5
    band_dropout: float = 0.2
    dropout: float = 0.5


@dataclass(frozen=True)
class Area:
    """The image and the labels of one city, to train on.

    Attributes
    ----------
    city : str
        Name, for messages.
    image : xarray.DataArray
        float32, dims ``(band, y, x)``, NaN where invalid, on ``grid.read_geobox(halo_px)``.
        Lazy: only chunks that hold labels are read.
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


@dataclass(frozen=True)
class UnetModel:
    """A trained U-Net and what it was trained on.

    Attributes
    ----------
    meta : ModelMeta
        Bands, products and classes of training.
    state : dict
        Weights by name, NumPy; ``input.mean`` and ``input.std`` normalise the bands.
    """

    meta: ModelMeta
    state: State

    @property
    def context_px(self) -> int:
        """Halo that a prediction needs, pixels; see :func:`context_px`."""
        return context_px(self.parameters)

    @property
    def parameters(self) -> UnetParameters:
        """Settings of the fit."""
        return UnetParameters(**self.meta.parameters)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of weights and meta, hex."""
        ordered = [self.state[name] for name in sorted(self.state)]
        return file_fingerprint(self.meta.to_json().encode(), *(v.tobytes() for v in ordered))

    @cached_property
    def network(self) -> Any:
        """The torch module, ready to predict; built once a process, never pickled.

        Raises
        ------
        MissingExtraError
            If torch is not installed.
        """
        torch = import_extra("torch", extra="unet")
        weights = {k: torch.from_numpy(v) for k, v in self.state.items() if k not in (_MEAN, _STD)}
        network = _network(len(self.meta.features) + 1, len(self.meta.classes), self.parameters)
        network.load_state_dict(weights)
        return network.to(memory_format=torch.channels_last).eval()

    def __getstate__(self) -> dict[str, Any]:
        """Meta and weights: a worker builds its own network."""
        return {"meta": self.meta, "state": self.state}

    def save(self, folder: str | Path) -> None:
        """Write ``weights.safetensors`` and ``model.json``; an older model there is replaced.

        Raises
        ------
        StoreError
            If ``folder`` exists and is not a model.
        MissingExtraError
            If safetensors is not installed.
        """
        safetensors = import_extra("safetensors.numpy", extra="unet")
        with written_folder(folder, self.meta) as partial:
            safetensors.save_file(self.state, partial / _WEIGHTS_NAME)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """The model of :meth:`save`; it predicts the same bytes.

        Raises
        ------
        MissingInputError
            If there is no model in ``folder``.
        ModelError
            If it is a model of another kind.
        MissingExtraError
            If safetensors is not installed.
        """
        meta = read_meta(folder, kind=KIND)
        safetensors = import_extra("safetensors.numpy", extra="unet")
        return cls(meta, safetensors.load_file(Path(folder) / _WEIGHTS_NAME))


def context_px(parameters: UnetParameters) -> int:
    """Pixels around a pixel that its prediction may depend on, a multiple of ``2**depth``.

    Parameters
    ----------
    parameters : UnetParameters
        Only the depth matters.

    Notes
    -----
    Two 3 x 3 convolutions at each level reach 2 pixels of that level: down and up again
    ``4 (2**depth - 1)`` pixels, ``2 * 2**depth`` at the bottom, and ``2**depth - 1`` for where in
    its pooled block the pixel lies.
    """
    step: int = 2**parameters.depth
    radius = 4 * (step - 1) + 2 * step + step - 1
    return -(-radius // step) * step


def fit_unet(
    areas: Sequence[Area],
    *,
    seed: int,
    bands: tuple[str, ...],
    products: tuple[str, ...],
    parameters: UnetParameters | None = None,
    n_threads: int = 1,
    synthetic: bool = False,
) -> UnetModel:
    """Train a U-Net on labelled pixels; reads the windows of the images that hold labels.

    Parameters
    ----------
    areas : sequence of Area
        Cities. Their images have the bands ``bands``.
    seed : int
        Of the first weights, the order of the windows and their turns.
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

    Raises
    ------
    LabelError
        If a code is not 0-17.
    GridMismatchError
        If labels do not lie on their image.
    ModelError
        If fewer than two classes have a valid pixel, a parameter is out of its range, or the loss
        is not a number.
    MissingExtraError
        If torch is not installed.

    Notes
    -----
    Each chunk is read once, a row of chunks at a time. The windows stay in memory: window² x bands
    x 4 bytes each. An invalid pixel is 0 after normalising, and a mask channel says so.
    """
    chosen = parameters or UnetParameters()
    _require_parameters(chosen)
    for area in areas:
        _require_area(area, len(bands))
    import_extra("torch", extra="unet")
    windows = _read_windows(areas, len(bands), chosen)
    classes = tuple(int(code) for code in np.unique(windows.lcz[windows.lcz > 0]))
    meta = ModelMeta(
        kind=KIND,
        features=bands,
        products=products,
        classes=classes,
        seed=seed,
        n_train=int((windows.lcz > 0).sum()),
        synthetic=synthetic,
        parameters=asdict(chosen),
    )
    mean, std = _band_statistics(windows)
    _normalise(windows, mean, std)
    with _deterministic_torch(seed, n_threads):
        trained = _train(windows, classes, chosen, seed)
    return UnetModel(meta, trained | {_MEAN: mean, _STD: std})


def predict_unet(
    model: UnetModel,
    image: xr.DataArray,
    *,
    grid: Grid,
    halo_px: int,
    products: tuple[str, ...] | None = None,
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

    Returns
    -------
    xarray.Dataset
        On ``grid.geobox``, in chunks of ``grid.chunk_px``: ``lcz`` uint8 ``(y, x)``, 0 no data;
        ``confidence`` uint8 ``(y, x)``, per cent, 255 no data; ``probability`` uint8
        ``(lcz_class, y, x)``, per cent, 255 no data. No data where the pixel itself is invalid.

    Raises
    ------
    GridMismatchError
        If the image is not on the grid with that halo, or the halo is too small.
    ModelError
        If bands or products are not those of training.

    Notes
    -----
    Windows are not blended. Each chunk is predicted from itself and all pixels its result can
    depend on, pooled in the same blocks of ``2**depth`` pixels counted from the grid's anchor, and
    only the inside is kept: what any larger window would give, up to float noise. Blending would
    hide seams that are not there, and make a map depend on where the windows lie. A task computes
    ``(1 + 2 context / chunk)²`` times its pixels, on one thread; the weights are one object of the
    graph.
    """
    named = products if products is not None else products_of(image.attrs)
    require_features(model.meta, [str(band) for band in image["band"].to_numpy()], named)
    _require_image(image, grid, halo_px)
    _require_halo(model, halo_px)
    probability = _predicted(model, image, grid, halo_px)
    inner = slice(halo_px, halo_px + grid.shape[0]), slice(halo_px, halo_px + grid.shape[1])
    like = image.isel(band=0, drop=True)[inner]
    return map_dataset(probability, like, model.meta, grid_json=grid.to_json())


def _require_parameters(parameters: UnetParameters) -> None:
    for name in ("epochs", "width", "depth", "batch", "window_px"):
        value = getattr(parameters, name)
        if value < 1:
            raise ModelError(f"unet {name} = {value}: it is at least 1.")
    if not parameters.learning_rate > 0:
        raise ModelError(f"unet learning_rate = {parameters.learning_rate}: it is above 0.")
    for name in ("balance", "dice", "noise"):
        if getattr(parameters, name) < 0:
            raise ModelError(f"unet {name} = {getattr(parameters, name)}: it is at least 0.")
    for name in ("band_dropout", "dropout"):
        if not 0 <= getattr(parameters, name) < 1:
            raise ModelError(f"unet {name} = {getattr(parameters, name)}: it is in [0, 1).")
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


def _require_image(image: xr.DataArray, grid: Grid, halo_px: int) -> None:
    wanted = tuple(n + 2 * halo_px for n in grid.shape)
    if image.dims != ("band", "y", "x") or image.shape[1:] != wanted:
        raise GridMismatchError(
            f"image has dims {image.dims} and shape {image.shape}; on this grid with a halo of "
            f"{halo_px} px it is ('band', 'y', 'x'), (bands, {wanted[0]}, {wanted[1]})."
        )


def _require_halo(model: UnetModel, halo_px: int) -> None:
    if halo_px < model.context_px:
        raise GridMismatchError(
            f"image reaches {halo_px} px past the grid and the model sees {model.context_px}; "
            f"open the cube with halo_px={model.context_px}."
        )


@dataclass(frozen=True)
class _Windows:
    image: Float32
    lcz: UInt8
    weight: Float32


def _read_windows(areas: Sequence[Area], n_bands: int, parameters: UnetParameters) -> _Windows:
    """The windows that hold labels, NaN past the image; labels of invalid pixels are dropped.

    The image has one channel more than bands, for the mask of :func:`_normalise`.
    """
    side = parameters.window_px
    corners = [_labelled_corners(area.lcz, side) for area in areas]
    image = np.full((sum(map(len, corners)), n_bands + 1, side, side), np.nan, np.float32)
    start = 0
    for area, at in zip(areas, corners, strict=True):
        _fill_windows(image[start : start + len(at)], area, at)
        start += len(at)
    lcz = _cut_labels(corners, [area.lcz for area in areas], side)
    weight = _cut_labels(corners, [_weights(area) for area in areas], side)
    taught = np.isfinite(image[:, :-1]).all(axis=1) & (weight > 0) & (lcz > 0)
    lcz = np.where(taught, lcz, np.uint8(NODATA))
    require_classes(np.unique(lcz[lcz > 0]))
    weight[taught] = balanced_weights(lcz[taught], weight[taught], balance=parameters.balance)
    keep = taught.any(axis=(1, 2))
    return _Windows(image[keep], lcz[keep], np.where(taught, weight, np.float32(0))[keep])


def _labelled_corners(lcz: UInt8, side: int) -> npt.NDArray[np.int64]:
    rows, columns = np.nonzero(lcz)
    pairs = np.stack([rows // side, columns // side], axis=1) * side
    return np.unique(pairs, axis=0)


def _weights(area: Area) -> Float32:
    if area.weight is None:
        return np.ones(area.lcz.shape, np.float32)
    return area.weight.astype(np.float32)


def _cut_labels(
    corners: Sequence[npt.NDArray[np.int64]], rasters: Sequence[npt.NDArray[Any]], side: int
) -> npt.NDArray[Any]:
    cut = np.zeros((sum(map(len, corners)), side, side), rasters[0].dtype)
    places = ((raster, at) for raster, ats in zip(rasters, corners, strict=True) for at in ats)
    for window, (raster, (row, column)) in zip(cut, places, strict=True):
        part = raster[row : row + side, column : column + side]
        window[: part.shape[0], : part.shape[1]] = part
    return cut


def _fill_windows(windows: Float32, area: Area, corners: npt.NDArray[np.int64]) -> None:
    """Copy each chunk of the image that meets a window into all windows it meets."""
    from dask.base import compute

    starts = corners + area.halo_px
    for row in _rows_of_chunks(area.image, starts, windows.shape[-1]):
        for (place, _), values in zip(row, compute(*(c for _, c in row)), strict=True):
            _paste(windows, np.asarray(values), place, starts)


_Place = tuple[int, int, int]


def _rows_of_chunks(
    image: xr.DataArray, starts: npt.NDArray[np.int64], side: int
) -> Iterator[list[tuple[_Place, Any]]]:
    """Chunks that meet a window, with the index of their first value, one row of chunks a time."""
    import dask.array as da

    if not isinstance(image.data, da.Array):
        yield [((0, 0, 0), image.data)]
        return
    chunks = image.data.chunks
    band_at, y_at, x_at = (np.concatenate([[0], np.cumsum(sizes)]) for sizes in chunks)
    for i in range(len(chunks[1])):
        row = [
            ((int(band_at[b]), int(y_at[i]), int(x_at[j])), image.data.blocks[b, i, j])
            for j in range(len(chunks[2]))
            if _meets(starts, side, (y_at[i], y_at[i + 1]), (x_at[j], x_at[j + 1]))
            for b in range(len(chunks[0]))
        ]
        if row:
            yield row


def _meets(
    starts: npt.NDArray[np.int64], side: int, y: tuple[int, int], x: tuple[int, int]
) -> bool:
    rows, columns = starts.T
    inside_y = (rows < y[1]) & (rows + side > y[0])
    return bool((inside_y & (columns < x[1]) & (columns + side > x[0])).any())


def _paste(windows: Float32, values: Float32, place: _Place, starts: npt.NDArray[np.int64]) -> None:
    band, y, x = place
    side = windows.shape[-1]
    n_bands, height, width = values.shape
    for window, (row, column) in zip(windows, starts, strict=True):
        y0, y1 = max(row, y), min(row + side, y + height)
        x0, x1 = max(column, x), min(column + side, x + width)
        if y0 < y1 and x0 < x1:
            part = values[:, y0 - y : y1 - y, x0 - x : x1 - x]
            window[band : band + n_bands, y0 - row : y1 - row, x0 - column : x1 - column] = part


def _band_statistics(windows: _Windows) -> tuple[Float32, Float32]:
    """Mean and standard deviation of each band over the labelled pixels, float32."""
    labelled = windows.lcz > 0
    values = [windows.image[:, band][labelled] for band in range(windows.image.shape[1] - 1)]
    mean = np.array([v.mean(dtype=np.float64) for v in values], np.float32)
    std = np.array([v.std(dtype=np.float64) for v in values], np.float32)
    return mean, np.where(std > 0, std, np.float32(1))


def _normalise(windows: _Windows, mean: Float32, std: Float32) -> None:
    """Turn the images into inputs of the network, in place."""
    for window in windows.image:
        window[:] = _inputs(window[None, :-1], mean, std)[0]


def _network(n_inputs: int, n_classes: int, parameters: UnetParameters) -> Any:
    """The U-Net, with a 1 x 1 stem whose output also goes straight to the head.

    A pixel of an embedding says much by itself: the straight way keeps that through the pooling.
    """
    from torch import nn

    def layer(n_in: int, n_out: int, side: int) -> nn.Sequential:
        convolution = nn.Conv2d(n_in, n_out, side, padding=side // 2, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(n_out), nn.ReLU(inplace=True))

    def block(n_in: int, n_out: int) -> nn.Sequential:
        return nn.Sequential(layer(n_in, n_out, 3), layer(n_out, n_out, 3))

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            widths = [parameters.width * 2**level for level in range(parameters.depth + 1)]
            hidden = nn.Dropout2d(parameters.band_dropout)
            self.stem = nn.Sequential(hidden, layer(n_inputs, widths[0], 1))
            sources = [widths[0], *widths[:-1]]
            self.down = nn.ModuleList(
                block(source, width) for source, width in zip(sources, widths, strict=True)
            )
            self.up = nn.ModuleList(
                nn.ConvTranspose2d(wide, narrow, 2, stride=2) for narrow, wide in pairwise(widths)
            )
            self.join = nn.ModuleList(block(2 * narrow, narrow) for narrow in widths[:-1])
            self.pool = nn.MaxPool2d(2)
            hidden = nn.Dropout2d(parameters.dropout)
            self.head = nn.Sequential(hidden, nn.Conv2d(2 * widths[0], n_classes, 1))

        def forward(self, image: "torch.Tensor") -> "torch.Tensor":
            import torch

            pixels = values = self.stem(image)
            skipped = []
            for level, down in enumerate(self.down):
                values = down(self.pool(values) if level else values)
                skipped.append(values)
            skipped.pop()
            for level in reversed(range(len(self.up))):
                both = torch.cat([self.up[level](values), skipped[level]], dim=1)
                values = self.join[level](both)
            logits: torch.Tensor = self.head(torch.cat([pixels, values], dim=1))
            return logits

    return _initialised(Network())


def _initialised(network: Any) -> Any:
    """He's initial weights: torch's own need three times the steps on sparse labels."""
    from torch import nn

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight)
    return network


def _inputs(image: Float32, mean: Float32, std: Float32) -> Float32:
    """Normalised bands and a last channel that is 1 where valid, of (n, band, y, x)."""
    valid = np.isfinite(image).all(axis=1, keepdims=True)
    scaled = (image - mean[:, None, None]) / std[:, None, None]
    return np.concatenate([np.where(valid, scaled, 0), valid], axis=1, dtype=np.float32)


@contextmanager
def _deterministic_torch(seed: int, n_threads: int) -> Iterator[None]:
    import torch

    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True)
        torch.set_num_threads(n_threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(deterministic)


def _train(
    windows: _Windows, classes: tuple[int, ...], parameters: UnetParameters, seed: int
) -> State:
    import torch

    network = _network(windows.image.shape[1], len(classes), parameters)
    network = network.to(memory_format=torch.channels_last).train()
    batch = max(parameters.batch, -(-len(windows.lcz) // _MAX_STEPS_PER_EPOCH))
    n_steps = parameters.epochs * -(-len(windows.lcz) // batch)
    optimizer = torch.optim.AdamW(network.parameters(), lr=parameters.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    random = np.random.default_rng(seed)
    for chosen, turn in _batches(len(windows.lcz), batch, parameters.epochs, random):
        image = _noisy(windows.image[chosen], parameters.noise, random)
        inputs, target, weight = _batch(
            image, windows.lcz[chosen], windows.weight[chosen], turn, classes
        )
        optimizer.zero_grad()
        loss = _loss(network(inputs), target, weight, dice=parameters.dice)
        _require_finite(float(loss.detach()), parameters)
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
    state = network.state_dict()
    return {name: tensor.contiguous().numpy().copy() for name, tensor in state.items()}


def _batches(
    n_windows: int, batch: int, epochs: int, random: np.random.Generator
) -> Iterator[tuple[npt.NDArray[np.int64], int]]:
    """Window numbers of each step and how they are turned; every window once an epoch."""
    for _ in range(epochs):
        order = random.permutation(n_windows)
        for start in range(0, n_windows, batch):
            yield order[start : start + batch], int(random.integers(_N_TURNS))


def _noisy(image: Float32, noise: float, random: np.random.Generator) -> Float32:
    """The inputs with noise on the bands of valid pixels; NumPy draws it four times as fast."""
    drawn = random.standard_normal(image[:, :-1].shape, dtype=np.float32)
    bands = image[:, :-1] + np.float32(noise) * drawn * image[:, -1:]
    return np.concatenate([bands, image[:, -1:]], axis=1)


def _batch(
    image: Float32, lcz: UInt8, weight: Float32, turn: int, classes: tuple[int, ...]
) -> tuple["torch.Tensor", "torch.Tensor", "torch.Tensor"]:
    import torch

    inputs = torch.from_numpy(_turned(image, turn))
    target = torch.from_numpy(np.searchsorted(classes, _turned(lcz, turn)))
    weights = torch.from_numpy(_turned(weight, turn))
    return inputs.contiguous(memory_format=torch.channels_last), target, weights


def _turned(values: npt.NDArray[Any], turn: int) -> npt.NDArray[Any]:
    """One of the eight flips and turns of the last two axes."""
    turned = np.rot90(values, turn % 4, axes=(-2, -1))
    return np.ascontiguousarray(turned[..., ::-1] if turn >= 4 else turned)


def _loss(
    logits: "torch.Tensor", target: "torch.Tensor", weight: "torch.Tensor", *, dice: float
) -> "torch.Tensor":
    """Weighted cross-entropy plus Dice over the labelled pixels; unlabelled ones have weight 0."""
    import torch
    import torch.nn.functional as nnf

    labelled = weight > 0
    rows = logits.permute(0, 2, 3, 1)[labelled]
    truth, share = target[labelled], weight[labelled]
    entropy = (nnf.cross_entropy(rows, truth, reduction="none") * share).sum() / share.sum()
    one_hot = nnf.one_hot(truth, rows.shape[1]) * share[:, None]
    probability = torch.softmax(rows, dim=1) * share[:, None]
    overlap = (probability * one_hot / share[:, None]).sum(dim=0)
    size = probability.sum(dim=0) + one_hot.sum(dim=0)
    present = one_hot.sum(dim=0) > 0
    missed = 1 - (2 * overlap[present] / size[present]).mean()
    return entropy + dice * missed


def _require_finite(loss: float, parameters: UnetParameters) -> None:
    if not np.isfinite(loss):
        raise ModelError(
            f"unet loss is {loss}: training diverged. Lower learning_rate "
            f"(now {parameters.learning_rate:g}), and look for extreme values in the image."
        )


def _predicted(model: UnetModel, image: xr.DataArray, grid: Grid, halo_px: int) -> Any:
    """Probabilities, float32 (17, y, x), NaN where there is no data.

    One task a chunk, which sees its surroundings: the context and up to ``2**depth - 1`` pixels
    more, from which the task starts at a whole pooling block.
    """
    import dask.array as da

    step = 2**model.parameters.depth
    margin = model.context_px + step - 1
    values = _with_margin(da.asarray(image.data), halo_px, margin)
    sizes = [_chunk_sizes(n, grid.chunk_px, margin) for n in grid.shape]
    read = tuple(
        (part[0] + 2 * margin,)
        if len(part) == 1
        else (part[0] + margin, *part[1:-1], part[-1] + margin)
        for part in sizes
    )
    depth = {0: 0, 1: margin, 2: margin}
    blocks = da.overlap.overlap(values.rechunk({0: -1, 1: read[0], 2: read[1]}), depth, "none")
    return da.map_blocks(
        _predict_block,
        blocks,
        model=shared(model, model.fingerprint),
        starts=_starts(grid, sizes),
        margin=margin,
        dtype=np.float32,
        chunks=((N_CLASSES,), *sizes),
        meta=np.empty((0, 0, 0), np.float32),
    )


def _with_margin(values: Any, halo_px: int, margin: int) -> Any:
    """The image cropped, or padded with NaN, from its halo to the margin."""
    import dask.array as da

    if halo_px >= margin:
        spare = halo_px - margin
        inner = slice(spare, -spare or None)
        return values[:, inner, inner]
    missing = margin - halo_px
    pad = ((0, 0), (missing, missing), (missing, missing))
    return da.pad(values, pad, mode="constant", constant_values=np.nan)


def _chunk_sizes(n_px: int, chunk_px: int, margin: int) -> tuple[int, ...]:
    """Whole chunks, as many together as an overlap by the margin asks for."""
    size = chunk_px * -(-margin // chunk_px)
    n_whole, rest = divmod(n_px, size)
    return (size,) * n_whole + ((rest,) if rest else ())


def _starts(grid: Grid, sizes: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """First row and column of each chunk, in pixels from the grid's anchor, southwards and east."""
    x0, _, _, y1 = grid.cells
    first = (-y1 * grid.cell_px, x0 * grid.cell_px)
    return tuple(
        tuple(int(v) for v in at + np.concatenate([[0], np.cumsum(part)[:-1]]))
        for at, part in zip(first, sizes, strict=True)
    )


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
    inner = [
        slice(margin - drop, margin - drop + n - 2 * margin)
        for drop, n in zip(dropped, image.shape[1:], strict=True)
    ]
    aligned = image[:, dropped[0] : ends[0], dropped[1] : ends[1]]
    known = np.asarray(np.isfinite(aligned[:, *inner]).all(axis=0))
    if not known.any():
        return on_raster(np.empty((0, N_CLASSES), np.float32), known)
    seen = _probability(model, aligned)[*inner][known]
    return on_raster(scatter_classes(seen, model.meta.classes), known)


def _probability(model: UnetModel, image: Float32) -> Float32:
    """Probabilities of the classes seen in training, float32 (y, x, class)."""
    import torch

    torch.set_num_threads(1)
    inputs = torch.from_numpy(_inputs(image[None], model.state[_MEAN], model.state[_STD]))
    with torch.inference_mode():
        logits = model.network(inputs.contiguous(memory_format=torch.channels_last))
        probability = torch.softmax(logits[0].permute(1, 2, 0), dim=-1)
    return np.asarray(probability.numpy(), np.float32)
