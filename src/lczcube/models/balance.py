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
    totals = np.bincount(lcz, weights=weight, minlength=18)
    factor = np.zeros_like(totals)
    factor[totals > 0] = totals[totals > 0] ** -balance
    weighted = weight * factor[lcz]
    return np.asarray(weighted / weighted.mean(), np.float32)
