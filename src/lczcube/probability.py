"""Class probabilities as they are stored: a zone, its confidence, and 17 whole per cents."""

import numpy as np
import numpy.typing as npt

from lczcube.errors import ModelError
from lczcube.lcz import N_CLASSES, NODATA

PERCENT_NODATA = 255
"""No data in arrays of per cents, whose values are 0-100."""

TIE = 1e-6
"""Probabilities closer than this are equal: float noise of a library must not move a map."""


def quantise(
    probability: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """The zone, its confidence and the per cents of class probabilities.

    Parameters
    ----------
    probability : numpy.ndarray
        float32 in [0, 1], shape (..., 17): codes 1-17 along the last axis. A row that holds NaN
        is no data.

    Returns
    -------
    lcz : numpy.ndarray
        uint8, shape (...): the most probable code before rounding; among probabilities within
        1e-6 of the best, the lowest code; 0 for no data.
    confidence : numpy.ndarray
        uint8, shape (...): per cent of that code, 0-100; 255 for no data.
    percent : numpy.ndarray
        uint8, shape (..., 17): each probability in per cent, 0-100, rounded on its own (a row may
        sum to 98 or 102); 255 for no data.

    Raises
    ------
    ModelError
        If the last axis does not hold 17 classes.

    Examples
    --------
    >>> row = np.zeros(17, np.float32)
    >>> row[[1, 5]] = 0.4, 0.6
    >>> lcz, confidence, percent = quantise(row)
    >>> int(lcz), int(confidence), int(percent[1])
    (6, 60, 40)
    """
    lcz = winners(probability)
    known = lcz != NODATA
    rounded = np.rint(np.where(known[..., None], probability, np.float32(0)) * 100).astype(np.uint8)
    index = np.maximum(lcz, 1)[..., None] - np.uint8(1)
    winner = np.take_along_axis(rounded, index, axis=-1)[..., 0]
    confidence = np.where(known, winner, np.uint8(PERCENT_NODATA))
    percent = np.where(known[..., None], rounded, np.uint8(PERCENT_NODATA))
    return lcz, confidence, percent


def winners(probability: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """The most probable code, uint8, shape (...), of probabilities as :func:`quantise` takes them.

    Raises
    ------
    ModelError
        If the last axis does not hold 17 classes.
    """
    _require_classes(probability.shape)
    known = np.asarray(~np.isnan(probability).any(axis=-1))
    clean = np.where(known[..., None], probability, np.float32(0))
    best = clean.max(axis=-1, keepdims=True)
    index = np.argmax(clean >= best - np.float32(TIE), axis=-1)
    return np.where(known, index + 1, NODATA).astype(np.uint8)


def _require_classes(shape: tuple[int, ...]) -> None:
    if not shape or shape[-1] != N_CLASSES:
        raise ModelError(
            f"probabilities of shape {shape} do not end in {N_CLASSES} classes; "
            "put codes 1-17 on the last axis, 0 for classes that cannot be."
        )
