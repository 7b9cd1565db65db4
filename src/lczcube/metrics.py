"""Metrics of Local Climate Zone maps, on confusion matrices: one matrix, or thousands of draws.

Scikit-learn's metrics take labels, one set at a time; a bootstrap wants them of a thousand draws,
and knows only counts. These take counts and broadcast. Each is held to scikit-learn, or to a case
worked by hand, by ``tests/test_metrics.py``.

References
----------
Bechtel, B., Demuzere, M., Stewart, I. D. (2020): A weighted accuracy measure for land cover
mapping. Remote Sensing 12, 1769, doi:10.3390/rs12111769 (OA_w). Demuzere, M., Kittner, J., Bechtel,
B. (2021): LCZ Generator. Frontiers in Environmental Science 9, 637455,
doi:10.3389/fenvs.2021.637455 (OA_u, OA_bu). Cohen, J. (1968): Weighted kappa. Psychological
Bulletin 70, 213-220 (kappa_w). Guo, C. et al. (2017): On calibration of modern neural networks.
ICML, arXiv:1706.04599 (calibration error).
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lczcube.errors import LabelError
from lczcube.lcz import N_CLASSES, similarity

N_BUILT = 10
"""Codes 1-10 are built, 11-17 natural."""

N_BINS = 15
"""Bins of confidence of the calibration error; as Guo et al. (2017)."""

Confusion = npt.NDArray[np.float64]
"""Counts ``(..., 17, 18)``: reference codes 1-17, predicted codes 0-17; 0 is no prediction."""

Values = npt.NDArray[np.float64]
"""One value a matrix, shape ``(...)``; NaN where the metric is not defined."""


def overall_accuracy(confusion: Confusion) -> Values:
    """OA: share of the units that are right."""
    return _share(_right(confusion).sum(axis=-1), _n(confusion))


def built_accuracy(confusion: Confusion) -> Values:
    """OA_u: share of the units of built reference, 1-10, that are right."""
    return overall_accuracy(confusion[..., :N_BUILT, :])


def built_natural_accuracy(confusion: Confusion) -> Values:
    """OA_bu: share of the units whose side, built or natural, is right. Water is natural."""
    built = confusion[..., :N_BUILT, 1 : N_BUILT + 1].sum(axis=(-2, -1))
    natural = confusion[..., N_BUILT:, N_BUILT + 1 :].sum(axis=(-2, -1))
    return _share(built + natural, _n(confusion))


def weighted_accuracy(confusion: Confusion, weights: Values | None = None) -> Values:
    """OA_w: mean similarity of prediction and reference; 0 without a prediction.

    Parameters
    ----------
    confusion : numpy.ndarray
        See :data:`Confusion`.
    weights : numpy.ndarray, optional
        Shape (17, 17), 1 on the diagonal. Default: :func:`lczcube.lcz.similarity`. The identity
        gives OA.
    """
    similar = similarity() if weights is None else weights
    agreed = (confusion[..., 1:] * similar).sum(axis=(-2, -1))
    return _share(agreed, _n(confusion))


def kappa(confusion: Confusion) -> Values:
    """Cohen's kappa: agreement beyond chance; no prediction is a class of its own."""
    return weighted_kappa(confusion, np.eye(N_CLASSES))


def weighted_kappa(confusion: Confusion, weights: Values | None = None) -> Values:
    """kappa_w: mean similarity beyond that of the same counts by chance.

    Not defined where chance alone is right throughout: one class, in reference and prediction.
    """
    similar = similarity() if weights is None else weights
    n = _n(confusion)
    by_chance = np.einsum(
        "...i,ij,...j->...", confusion.sum(axis=-1), similar, confusion[..., 1:].sum(axis=-2)
    )
    expected = _share(by_chance, n * n)
    is_lone = by_chance == n * n
    beyond = weighted_accuracy(confusion, similar) - expected
    return np.where(is_lone, np.nan, beyond / np.where(is_lone, 1.0, 1 - expected))


def macro_f1(confusion: Confusion) -> Values:
    """F1, mean over the classes of the reference."""
    return _over_present(class_f1(confusion), confusion)


def mean_iou(confusion: Confusion) -> Values:
    """Intersection over union, mean over the classes of the reference."""
    return _over_present(class_iou(confusion), confusion)


def balanced_accuracy(confusion: Confusion) -> Values:
    """Recall, mean over the classes of the reference."""
    return _over_present(class_recall(confusion), confusion)


def coverage(confusion: Confusion) -> Values:
    """Share of the units that have a prediction."""
    return _share(confusion[..., 1:].sum(axis=(-2, -1)), _n(confusion))


def class_precision(confusion: Confusion) -> Values:
    """Share of the predictions of a class that are right, ``(..., 17)``; NaN if it has none."""
    return _share(_right(confusion), confusion[..., 1:].sum(axis=-2))


def class_recall(confusion: Confusion) -> Values:
    """Share of the reference of a class that is found, ``(..., 17)``; NaN if it has none."""
    return _share(_right(confusion), confusion.sum(axis=-1))


def class_f1(confusion: Confusion) -> Values:
    """F1 of each class, ``(..., 17)``; NaN where it is neither in reference nor prediction."""
    both = confusion.sum(axis=-1) + confusion[..., 1:].sum(axis=-2)
    return _share(2 * _right(confusion), both)


def class_iou(confusion: Confusion) -> Values:
    """Intersection over union of each class, ``(..., 17)``; NaN as :func:`class_f1`."""
    right = _right(confusion)
    either = confusion.sum(axis=-1) + confusion[..., 1:].sum(axis=-2) - right
    return _share(right, either)


METRICS: Mapping[str, Callable[[Confusion], Values]] = {
    "oa": overall_accuracy,
    "oa_u": built_accuracy,
    "oa_bu": built_natural_accuracy,
    "oa_w": weighted_accuracy,
    "kappa": kappa,
    "kappa_w": weighted_kappa,
    "macro_f1": macro_f1,
    "mean_iou": mean_iou,
    "balanced_accuracy": balanced_accuracy,
}
"""By name, in the order of tables."""


def calibration_error(
    confidence: npt.ArrayLike, is_right: npt.ArrayLike, *, n_bins: int = N_BINS
) -> float:
    """Expected calibration error: how far confidence is from the share that is right.

    Parameters
    ----------
    confidence : array_like of float
        Probability of the predicted class, 0-1, shape (n,).
    is_right : array_like of bool
        Whether the prediction is right, shape (n,).
    n_bins : int
        Bins of equal width. Default 15.

    Returns
    -------
    float
        Mean over bins of ``|share right - mean confidence|``, weighted by their units, 0-1.

    Raises
    ------
    LabelError
        If there is no unit, the shapes differ, or a confidence is outside 0-1.
    """
    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(is_right, dtype=bool)
    if sure.shape != right.shape or sure.ndim != 1 or not sure.size:
        raise LabelError(
            f"confidence of shape {sure.shape} for {right.shape} units; give one a unit, and at "
            "least one unit."
        )
    if not ((sure >= 0) & (sure <= 1)).all():
        worst = sure[~((sure >= 0) & (sure <= 1))][0]
        raise LabelError(f"confidence {worst:g} is no probability; probabilities are 0-1.")
    excess = np.bincount(confidence_bins(sure, n_bins), weights=right - sure, minlength=n_bins)
    return float(np.abs(excess).sum() / sure.size)


def confidence_bins(
    confidence: npt.NDArray[np.float64], n_bins: int = N_BINS
) -> npt.NDArray[np.int64]:
    """Bin of each confidence: (a, b] as Guo et al. have it; 0 falls into the first."""
    return np.clip(np.ceil(confidence * n_bins).astype(np.int64) - 1, 0, n_bins - 1)


def _right(confusion: Confusion) -> Values:
    diagonal: Values = np.diagonal(confusion[..., 1:], axis1=-2, axis2=-1)
    return diagonal


def _n(confusion: Confusion) -> Values:
    total: Values = confusion.sum(axis=(-2, -1))
    return total


def _share(part: Values, whole: Values) -> Values:
    share: Values = np.where(whole > 0, part / np.where(whole > 0, whole, 1.0), np.nan)
    return share


def _over_present(values: Values, confusion: Confusion) -> Values:
    """Mean over the classes that the reference has; NaN where it has none."""
    is_present = confusion.sum(axis=-1) > 0
    total: Any = np.where(is_present, np.nan_to_num(values), 0.0).sum(axis=-1)
    return _share(total, is_present.sum(axis=-1).astype(np.float64))
