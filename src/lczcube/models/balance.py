"""Class weights: how much a rare class counts in training."""

import numpy as np
import numpy.typing as npt


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
    totals = np.bincount(lcz, weight, minlength=18).astype(np.float64)
    factor = class_factors(totals, len(lcz), balance=balance)
    return np.asarray(weight * factor[lcz], np.float32)


def class_factors(
    total_weight: npt.NDArray[np.float64], n_labels: int, *, balance: float
) -> npt.NDArray[np.float64]:
    """What the weight of a sample of each class is multiplied with, so that their mean is 1.

    Parameters
    ----------
    total_weight : numpy.ndarray
        float64, shape (18,): of the samples of each code; 0 where there is none.
    n_labels : int
        Number of samples.
    balance : float
        As in :func:`balanced_weights`.

    Returns
    -------
    numpy.ndarray
        float64, shape (18,); 0 for codes without a sample.
    """
    factor = np.zeros_like(total_weight)
    seen = total_weight > 0
    factor[seen] = total_weight[seen] ** -balance
    return np.asarray(factor * n_labels / (total_weight * factor).sum())
