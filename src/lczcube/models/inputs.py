"""Inputs of a network: layers of bands, each normalised, and a mask a layer that says where."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import xarray as xr

from lczcube.errors import ModelError

Float32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]

MEAN, STD, LAYER = "input.mean", "input.std", "input.layer"
"""Names of the normalisation among the weights of a model."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """How the bands of an image become the channels of a network.

    Attributes
    ----------
    mean, std : numpy.ndarray
        float32, shape (band,): of the training pixels.
    layer : numpy.ndarray
        int64, shape (band,): number of the band's layer; 0 is the first, which decides where a
        pixel is valid at all.
    """

    mean: Float32
    std: Float32
    layer: npt.NDArray[np.int64]

    @property
    def n_channels(self) -> int:
        """Bands and masks."""
        return len(self.layer) + self.n_layers

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return int(self.layer.max()) + 1

    def bands_of(self, number: int) -> slice:
        """The bands of a layer; they lie together."""
        first = int(np.argmax(self.layer == number))
        return slice(first, first + int((self.layer == number).sum()))

    def to_state(self) -> dict[str, npt.NDArray[Any]]:
        """As arrays to store with the weights."""
        return {MEAN: self.mean, STD: self.std, LAYER: self.layer}

    @classmethod
    def from_state(cls, state: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Of the arrays of :meth:`to_state`.

        Raises
        ------
        ModelError
            If one is missing.
        """
        missing = [name for name in (MEAN, STD, LAYER) if name not in state]
        if missing:
            raise ModelError(f"the model has no {', '.join(missing)}; train it again.")
        return cls(state[MEAN], state[STD], state[LAYER])

    def channels(self, image: Float32) -> Float32:
        """Channels of images: normalised bands, then a mask a layer, 1 where valid.

        Parameters
        ----------
        image : numpy.ndarray
            float32, shape (n, band, y, x). A pixel of a layer is valid where all its bands are
            finite: an infinite value is none, as NaN is.

        Returns
        -------
        numpy.ndarray
            float32, shape (n, ``n_channels``, y, x); 0 in every band of a layer where it is
            invalid.
        """
        n, n_bands, *shape = image.shape
        made = np.empty((n, self.n_channels, *shape), np.float32)
        valid = layers_valid(image, self.layer)
        with np.errstate(invalid="ignore", over="ignore"):
            np.subtract(image, self.mean[:, None, None], out=made[:, :n_bands])
            made[:, :n_bands] /= self.std[:, None, None]
        for band, layer in enumerate(self.layer):
            np.copyto(made[:, band], 0, where=~valid[:, layer])
        made[:, n_bands:] = valid
        return made


def layers_valid(image: Float32, layer: npt.NDArray[np.int64]) -> Bool:
    """Where all bands of a layer are finite: bool (n, layer, y, x) of float32 (n, band, y, x)."""
    valid = np.ones((len(image), int(layer.max()) + 1, *image.shape[2:]), bool)
    for band, number in enumerate(layer):
        valid[:, number] &= np.isfinite(image[:, band])
    return valid


def layer_numbers(image: xr.DataArray) -> npt.NDArray[np.int64]:
    """Number of the layer of each band, by the coordinate ``layer``; without one all are of one.

    Raises
    ------
    ModelError
        If the bands of a layer do not lie together.
    """
    if "layer" not in image.coords:
        return np.zeros(image.sizes["band"], np.int64)
    names = image["layer"].to_numpy().tolist()
    order = list(dict.fromkeys(names))
    numbers = np.array([order.index(name) for name in names], np.int64)
    if (np.diff(numbers) < 0).any():
        after = names[int(np.argmax(np.diff(numbers) < 0)) + 1]
        raise ModelError(
            f"bands of layer {after} lie on both sides of another layer's; order the bands of the "
            "image by layer, as lczcube.cube.image does."
        )
    return numbers


def layer_names(image: xr.DataArray) -> tuple[str, ...]:
    """Names of the layers of an image, in their order."""
    if "layer" not in image.coords:
        return ("image",)
    return tuple(dict.fromkeys(str(name) for name in image["layer"].to_numpy()))


def require_layers(
    city: str, image: xr.DataArray, bands: Sequence[str], layers: Sequence[str]
) -> None:
    """Raise unless an image has the bands and layers, in that order.

    Raises
    ------
    ModelError
        Naming the first that differs.
    """
    found = [str(v) for v in image["band"].to_numpy()] if "band" in image.coords else list(bands)
    for what, given, wanted in (
        ("band", found, bands),
        ("layer", list(layer_names(image)), layers),
    ):
        if list(given) != list(wanted):
            pairs = zip([*given, f"no {what}"], [*wanted, f"no {what}"], strict=False)
            one, other = next(pair for pair in pairs if pair[0] != pair[1])
            raise ModelError(
                f"image of {city} has {what} {one!r} where {other!r} is trained on; give every "
                'city the same in the same order (missing = "indicator" keeps what it lacks).'
            )
