"""Maps of a U-Net: without seams, whatever the chunks.

What the network sees of each pixel alone is worked out chunk by chunk, where no pixel is computed
twice; only its few channels are then cut into windows with a margin, for what it sees around.
"""

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from lczcube.confidence import Confidence
from lczcube.grid import Grid
from lczcube.lcz import N_CLASSES
from lczcube.models.maps import map_dataset, shared
from lczcube.models.margins import (
    block_sizes,
    require_image,
    starts_of,
    to_margin,
    with_margins,
)
from lczcube.models.meta import require_features
from lczcube.models.tabular import products_of
from lczcube.models.unet import UnetModel

if TYPE_CHECKING:
    import torch

WINDOW_PX = 640
"""Pixels along what one task maps. Larger windows compute less for their context, and take longer
all the same, as their features leave the cache."""

_STRIP_PX = 8192
"""Pixels that the stem takes at a time: their bands stay in the cache."""

Float32 = npt.NDArray[np.float32]


def predict_unet(
    model: UnetModel,
    image: xr.DataArray,
    *,
    grid: Grid,
    halo_px: int,
    products: tuple[str, ...] | None = None,
    confidence: Confidence | None = None,
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
    confidence : Confidence, optional
        Of the model, without an area of applicability. Default: probabilities as they are.
    window_px : int, optional
        Pixels along what a task maps, rounded down to whole chunks, one at least. Default: 640,
        the fastest of the default network. The map is the same.

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
    probability = unet_probability(
        model, image, grid=grid, halo_px=halo_px, products=products, window_px=window_px
    )
    like = probability.isel(lcz_class=0, drop=True)
    return map_dataset(
        probability.data, like, model.meta, grid_json=grid.to_json(), confidence=confidence
    )


def unet_probability(
    model: UnetModel,
    image: xr.DataArray,
    *,
    grid: Grid,
    halo_px: int,
    products: tuple[str, ...] | None = None,
    window_px: int | None = None,
) -> xr.DataArray:
    """Probabilities of every pixel, float32 ``(lcz_class, y, x)``, NaN for no data; lazy.

    Parameters and errors are those of :func:`predict_unet`.
    """
    named = products if products is not None else products_of(image.attrs)
    require_features(model.meta, [str(band) for band in image["band"].to_numpy()], named)
    require_image(image, grid, halo_px=halo_px, least_px=model.context_px)
    values = _predicted(model, image, grid, halo_px, window_px or WINDOW_PX)
    inner = slice(halo_px, halo_px + grid.shape[0]), slice(halo_px, halo_px + grid.shape[1])
    coords = dict(image.isel(band=0, drop=True)[inner].coords)
    return xr.DataArray(values, coords, dims=("lcz_class", "y", "x"))


def _predicted(
    model: UnetModel, image: xr.DataArray, grid: Grid, halo_px: int, window_px: int
) -> Any:
    """Probabilities, float32 (17, y, x), NaN where there is no data.

    One task a window, which sees its surroundings: the context and, where windows do not begin at
    whole pooling blocks, the ``2**depth - 1`` pixels more that hold the beginning of one.
    """
    import dask.array as da

    step = 2**model.parameters.depth
    is_aligned = grid.cell_px % step == 0
    margin = model.context_px + (0 if is_aligned else step - 1)
    cut = partial(block_sizes, chunk_px=grid.chunk_px, margin_px=margin)
    sizes = cut(grid.shape[0], block_px=window_px), cut(grid.shape[1], block_px=window_px)
    of_model = shared(model, model.fingerprint)
    values = to_margin(image, halo_px=halo_px, margin_px=margin)
    pixels = da.map_blocks(
        _pixel_block,
        values,
        model=of_model,
        dtype=np.float32,
        chunks=((model.parameters.width + 1,), *values.chunks[1:]),
        meta=np.empty((0, 0, 0), np.float32),
    )
    probability = da.map_blocks(
        _predict_block,
        with_margins(pixels, margin_px=margin, sizes=sizes),
        model=of_model,
        starts=starts_of(grid, sizes),
        margin=margin,
        dtype=np.float32,
        chunks=((N_CLASSES,), *sizes),
        meta=np.empty((0, 0, 0), np.float32),
    )
    return probability.rechunk((N_CLASSES, grid.chunk_px, grid.chunk_px))


def _pixel_block(image: Float32, model: UnetModel) -> Float32:
    """What the network's stem says of each pixel, and a last channel: 1 where it is valid.

    The stem is a product of matrices, here of weights that hold the normalisation, taken layer by
    layer: to make and to lay out the channels of :meth:`Inputs.channels` costs half as much as the
    rest of the network. A value that is not finite makes the product so, which tells where a layer
    is invalid.
    """
    import torch

    torch.set_num_threads(1)
    inputs = model.inputs
    of_bands, of_masks, bias = _stem(model)
    flat = torch.from_numpy(np.ascontiguousarray(image).reshape(len(image), -1))
    said = torch.empty((model.parameters.width + 1, flat.shape[1]))
    for start in range(0, flat.shape[1], _STRIP_PX):
        pixels = slice(start, start + _STRIP_PX)
        strip, summed = flat[:, pixels].to(model.device), bias
        for number in reversed(range(inputs.n_layers)):
            bands = inputs.bands_of(number)
            product = of_bands[:, bands] @ strip[bands]
            valid = torch.isfinite(product[0])
            summed = summed + torch.where(valid, product + of_masks[:, number, None], 0)
        said[:-1, pixels] = torch.relu(summed)
        said[-1, pixels] = valid.float()
    return said.numpy().reshape(-1, *image.shape[1:])


def _stem(model: UnetModel) -> tuple["torch.Tensor", "torch.Tensor", "torch.Tensor"]:
    """Weights of the bands as they are, and of the masks, each (width, n); what is added."""
    import torch

    inputs, convolution = model.inputs, model.network.stem[1][0]
    weight, bias = convolution.weight[:, :, 0, 0].detach(), convolution.bias.detach()
    n_bands = len(inputs.layer)
    std = torch.from_numpy(inputs.std).to(model.device)
    mean = torch.from_numpy(inputs.mean).to(model.device)
    of_bands = weight[:, :n_bands] / std
    apart = (of_bands.double() * mean).float()
    of_masks = torch.stack(
        [
            weight[:, n_bands + number] - apart[:, inputs.bands_of(number)].sum(dim=1)
            for number in range(inputs.n_layers)
        ],
        dim=1,
    )
    return of_bands, of_masks, bias[:, None]


def _predict_block(
    pixels: Float32,
    model: UnetModel,
    starts: tuple[tuple[int, ...], ...],
    margin: int,
    block_id: tuple[int, ...],
) -> Float32:
    step = 2**model.parameters.depth
    shape = pixels.shape[1:]
    dropped = [-(starts[axis][block_id[axis + 1]] - margin) % step for axis in (0, 1)]
    ends = [drop + (n - drop) // step * step for drop, n in zip(dropped, shape, strict=True)]
    inner = tuple(
        slice(margin - drop, margin - drop + n - 2 * margin)
        for drop, n in zip(dropped, shape, strict=True)
    )
    aligned = pixels[:, dropped[0] : ends[0], dropped[1] : ends[1]]
    known = np.asarray(aligned[-1][inner] > 0)
    if not known.any():
        return np.full((N_CLASSES, *known.shape), np.nan, np.float32)
    probability = _probability(model, aligned[:-1], inner)
    probability[:, ~known] = np.nan
    return probability


def _probability(model: UnetModel, pixels: Float32, inner: tuple[slice, ...]) -> Float32:
    """Probabilities of the inside of a window, float32 (17, y, x)."""
    import torch

    torch.set_num_threads(1)
    seen = torch.from_numpy(pixels[None]).to(model.device)
    with torch.inference_mode():
        seen = seen.contiguous(memory_format=torch.channels_last)
        spare = model.context_px
        logits = model.network.surroundings(seen, spare)[0]
        rows, columns = (slice(part.start - spare, part.stop - spare) for part in inner)
        return model.spread_probability(logits[:, rows, columns])
