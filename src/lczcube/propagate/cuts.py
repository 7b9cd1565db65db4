"""Cuts: the confidence from which on a cell of a class is kept, and how far is too far."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from lczcube.errors import ModelError
from lczcube.lcz import N_CLASSES

MIN_ROWS = 30
"""Held-out donors that a class's own cut by precision wants; with fewer, all classes' cut holds."""

HALF_PERCENT = 0.005
"""A share that is stored in whole per cents may have been this much less."""

NEVER = 2.0
"""A cut that no confidence reaches."""

Float64 = npt.NDArray[np.float64]
Codes = npt.NDArray[np.uint8]


def fixed_cut(confidence: float = 0.8, of_class: Mapping[int, float] | None = None) -> Float64:
    """The same confidence for all classes, or for some another.

    Parameters
    ----------
    confidence : float
        In [0, 1]. Default 0.8.
    of_class : mapping of int to float, optional
        By code, where it is another.

    Returns
    -------
    numpy.ndarray
        float64, (17,): by class, the least confidence that is kept.

    Raises
    ------
    ModelError
        If a confidence is not in [0, 1] or a code not 1-17.
    """
    cut = np.full(N_CLASSES, float(confidence))
    for code, value in (of_class or {}).items():
        if not 1 <= code <= N_CLASSES:
            raise ModelError(f"a cut of class {code}; codes of zones are 1-{N_CLASSES}.")
        cut[code - 1] = value
    if not ((cut >= 0) & (cut <= 1)).all():
        raise ModelError(f"min_confidence = {cut[~((cut >= 0) & (cut <= 1))][0]:g}: give 0-1.")
    return cut


def precision_cut(
    confidence: Float64, lcz: Codes, right: npt.NDArray[np.bool_], target: float
) -> Float64:
    """The least confidence from which on held-out votes were right often enough.

    Parameters
    ----------
    confidence : numpy.ndarray
        float64, (row,): of held-out donors, calibrated as queries are.
    lcz : numpy.ndarray
        uint8, (row,): the class that was voted for.
    right : numpy.ndarray
        bool, (row,).
    target : float
        Share right that is wanted of all that is kept, in (0, 1].

    Returns
    -------
    numpy.ndarray
        float64, (17,). A class that was voted for under 30 times has the cut of all classes
        together. 2, which nothing reaches, where the target is out of reach.
    """
    if not 0 < target <= 1:
        raise ModelError(f"target_precision = {target:g}: give a share above 0 and up to 1.")
    cut = np.full(N_CLASSES, _least_confidence(confidence, right, target))
    for code in range(1, N_CLASSES + 1):
        mine = lcz == code
        if mine.sum() >= MIN_ROWS:
            cut[code - 1] = _least_confidence(confidence[mine], right[mine], target)
    return cut


def quantile_cut(confidence: npt.NDArray[np.floating], lcz: Codes, share: float) -> Float64:
    """The confidence that the surest cells of each class reach, whatever it is.

    Parameters
    ----------
    confidence : numpy.ndarray
        float, any shape: of all cells of a city; NaN where there is none.
    lcz : numpy.ndarray
        uint8, the same shape: 0 where there is none.
    share : float
        Of the cells of each class that are kept, in (0, 1]; cells as sure as the last one too.

    Returns
    -------
    numpy.ndarray
        float64, (17,); 2, which nothing reaches, for classes without a cell.
    """
    if not 0 < share <= 1:
        raise ModelError(f"keep_share = {share:g}: give a share above 0 and up to 1.")
    cut = np.full(N_CLASSES, NEVER)
    for code in range(1, N_CLASSES + 1):
        mine = np.sort(confidence[lcz == code])[::-1]
        if mine.size:
            cut[code - 1] = mine[max(1, round(share * mine.size)) - 1]
    return cut


def novelty_limit(distance: Float64, quantile: float) -> float:
    """The distance beyond which a cell is like no donor.

    Parameters
    ----------
    distance : numpy.ndarray
        float64, (row,): of held-out donors to the nearest of the others.
    quantile : float
        Share of them that lie within the limit, in (0, 1]; 1 is no limit.

    Returns
    -------
    float
        In the unit of the donors' space; infinite without a limit.
    """
    if not 0 < quantile <= 1:
        raise ModelError(f"novelty = {quantile:g}: give a share above 0 and up to 1.")
    return float("inf") if quantile == 1 else float(np.quantile(distance, quantile))


def _least_confidence(confidence: Float64, right: npt.NDArray[np.bool_], target: float) -> float:
    order = np.argsort(-confidence, kind="stable")
    sure = confidence[order]
    precision = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    is_last = np.append(sure[1:] < sure[:-1], True)
    enough = np.flatnonzero(is_last & (precision >= target))
    return float(sure[enough[-1]]) if enough.size else NEVER
