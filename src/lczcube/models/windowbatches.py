"""Batches of windows as a network takes them: channels, class numbers, weights; turned, noisy."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lczcube.models.inputs import Inputs, layers_valid
from lczcube.models.parameters import TrainingParameters
from lczcube.models.sampler import Windows, taught_labels

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

BATCH_BYTES = 64 << 20
"""Most windows in a step that was made larger."""

_N_TURNS = 8
_MAX_STEPS_PER_EPOCH = 64


@dataclass(frozen=True, eq=False)
class WindowBatch:
    """Some windows.

    Attributes
    ----------
    channels : numpy.ndarray
        float32, shape (n, channel, y, x).
    target : numpy.ndarray
        int64, shape of the labels: position of the class; anything where ``weight`` is 0.
    weight : numpy.ndarray
        float32, shape of the labels: 0 where there is none.
    """

    channels: Float32
    target: Int64
    weight: Float32


@dataclass(frozen=True, eq=False)
class WindowBatches:
    """Windows that teach, and how to read them.

    Attributes
    ----------
    windows : Windows
        On disk.
    taught : numpy.ndarray
        int64: numbers of those with a label that counts.
    inputs : Inputs
        Of the training.
    classes : numpy.ndarray
        uint8, ascending: codes of the training; labels of others do not count.
    factors : numpy.ndarray
        float64, shape (18,): class weights of the training.
    parameters : TrainingParameters
        Of the training.
    """

    windows: Windows
    taught: Int64
    inputs: Inputs
    classes: npt.NDArray[np.uint8]
    factors: npt.NDArray[np.float64]
    parameters: TrainingParameters

    @property
    def size(self) -> int:
        """Windows a step."""
        wanted = -(-len(self.taught) // _MAX_STEPS_PER_EPOCH)
        held = BATCH_BYTES // self.windows.record.itemsize
        return max(self.parameters.batch, min(wanted, held))

    @property
    def n_steps(self) -> int:
        """Steps an epoch."""
        return -(-len(self.taught) // self.size)

    def in_order(self) -> Iterator[WindowBatch]:
        """All windows, as they are."""
        for step in range(self.n_steps):
            yield self._read(self.taught[step * self.size : (step + 1) * self.size])

    def of_step(self, step: int, order: Int64, random: np.random.Generator) -> WindowBatch:
        """The windows of a training step, turned and flipped, with noise, some layers hidden.

        Parameters
        ----------
        step : int
            In the epoch.
        order : numpy.ndarray
            int64: a permutation of the windows that teach.
        random : numpy.random.Generator
            Of this step.
        """
        ids = self.taught[order[step * self.size : (step + 1) * self.size]]
        batch = self._read(ids)
        channels = self._noisy(self._with_hidden_layers(batch.channels, random), random)
        turn = int(random.integers(_N_TURNS))
        arrays = (channels, batch.target, batch.weight)
        return WindowBatch(*(turned(array, turn) for array in arrays))

    def _read(self, ids: Int64) -> WindowBatch:
        records = self.windows.read(ids)
        valid = layers_valid(records["image"], self.inputs.layer)
        counts = taught_labels(records, valid) & np.isin(records["lcz"], self.classes)
        lcz = np.where(counts, records["lcz"], self.classes[0])
        weight = np.where(counts, records["weight"] * self.factors[lcz], 0).astype(np.float32)
        target = np.searchsorted(self.classes, lcz).astype(np.int64)
        return WindowBatch(self.inputs.channels(records["image"]), target, weight)

    def _with_hidden_layers(self, channels: Float32, random: np.random.Generator) -> Float32:
        """Layers but the first hidden at random: bands and mask 0, as where a city lacks them."""
        n_layers, layer = self.inputs.n_layers, self.inputs.layer
        if n_layers == 1:
            return channels
        hidden = random.random((len(channels), n_layers)) < self.parameters.layer_dropout
        hidden[:, 0] = False
        of_channels = np.concatenate([hidden[:, layer], hidden], axis=1)
        channels[of_channels] = 0
        return channels

    def _noisy(self, channels: Float32, random: np.random.Generator) -> Float32:
        """Noise on the bands where they are valid; NumPy draws it four times as fast as torch."""
        bands, masks = np.split(channels, [len(self.inputs.layer)], axis=1)
        drawn = random.standard_normal(bands.shape, dtype=np.float32)
        drawn *= np.float32(self.parameters.noise)
        for band, layer in enumerate(self.inputs.layer):
            drawn[:, band] *= masks[:, layer]
        bands += drawn
        return channels


def turned(values: npt.NDArray[Any], turn: int) -> npt.NDArray[Any]:
    """One of the eight flips and turns of the last two axes."""
    rotated = np.rot90(values, turn % 4, axes=(-2, -1))
    # Not ascontiguousarray: of axes of length 1 it keeps negative strides, which torch refuses.
    return (rotated[..., ::-1] if turn >= 4 else rotated).copy()
