"""Class weights: how much a rare class counts in training."""

import numpy as np
import numpy.typing as npt

from lczcube.lcz import N_CLASSES


def balanced_weights(
    lcz: npt.NDArray[np.uint8], weight: npt.NDArray[np.float32], *, balance: float
) -> npt.NDArray[np.float32]:
    """Sample weights times class weights, with mean 1.

    Parameters
    ----------
    lcz : numpy.ndarray
        uint8, shape (n,), codes 1-17.
    weight : numpy.ndarray
        float32, shape (n,), above 0.
    balance : float
        0 leaves classes as frequent as they are; 1 gives each the same total weight; 0.5, the
        square root, lies between.

    Returns
    -------
    numpy.ndarray
        float32, shape (n,), mean 1: what a learner's settings mean does not depend on the scale.
    """
    totals = class_totals(lcz, weight)
    return np.asarray(weight * class_factors(totals, len(lcz), balance=balance)[lcz], np.float32)


def class_totals(
    lcz: npt.NDArray[np.uint8], weight: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """Total weight of each code 0-17, float64, shape (18,)."""
    return np.bincount(lcz, weights=weight, minlength=N_CLASSES + 1).astype(np.float64)


def class_factors(
    totals: npt.NDArray[np.float64], n: int, *, balance: float
) -> npt.NDArray[np.float64]:
    """What the weight of a sample is multiplied with, by its class.

    Parameters
    ----------
    totals : numpy.ndarray
        float64, shape (18,): total weight of the samples of each code.
    n : int
        Number of samples.
    balance : float
        As for :func:`balanced_weights`.

    Returns
    -------
    numpy.ndarray
        float64, shape (18,); 0 for codes without samples. The weights have mean 1 over the samples.
    """
    factors = np.zeros_like(totals)
    factors[totals > 0] = totals[totals > 0] ** -balance
    return np.asarray(factors * (n / (factors @ totals)))
