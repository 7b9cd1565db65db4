"""Area of applicability: where features are as the model's training samples were.

References
----------
Meyer, H., Pebesma, E. (2021): Predicting into unknown space? Estimating the area of applicability
of spatial prediction models. Methods in Ecology and Evolution 12, 1620-1633,
doi:10.1111/2041-210X.13650. Their R package CAST (``trainDI``, ``aoa``) is what this follows.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from lczcube.confidence.outoffold import Float32
from lczcube.errors import ModelError
from lczcube.neighbours import nearest_donors

MAX_SAMPLES = 5000
"""Training samples that are compared with; each pixel is compared with every one."""

NEVER = -1
"""Fold of a sample that was never held out."""

UNUSED = -2
"""Fold of a sample that no model of the validation trained on, nor was asked of."""

_ROWS = 8192
"""Pixels that are standardised at a time."""

_DISTANCES = 1 << 22
"""Distances between training samples in memory at a time."""

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Applicability:
    """Training samples, what is far from them, and how far is too far.

    Attributes
    ----------
    samples : numpy.ndarray
        float32, (n, n_features): training samples; may hold NaN.
    center, scale : numpy.ndarray
        float64, (n_features,): mean and standard deviation (n - 1) of the samples, NaN left out.
    weight : numpy.ndarray
        float64, (n_features,): importance of each feature; 0 for those that do not vary.
    mean_distance : float
        Mean distance between two samples, of standardised and weighted features.
    threshold : float
        Dissimilarity up to which a pixel is in the area of applicability.
    n_train : int
        Samples of training, before they were thinned.
    """

    samples: Float32
    center: Float64
    scale: Float64
    weight: Float64
    mean_distance: float
    threshold: float
    n_train: int

    @classmethod
    def fit(
        cls,
        features: Float32,
        folds: npt.ArrayLike,
        weights: npt.ArrayLike | None = None,
        *,
        trained: npt.ArrayLike | None = None,
        max_samples: int = MAX_SAMPLES,
    ) -> Self:
        """The area of applicability of a model.

        Parameters
        ----------
        features : numpy.ndarray
            float32, (n, n_features): all samples; NaN where unknown.
        folds : array_like of int
            (n,): the fold that held the sample out when the model was validated; -1 for samples
            that only trained, -2 for unused ones, which are left out. The threshold is as strict
            as that split: folds of polygons allow what another polygon may bring, folds of cities
            what another city may.
        weights : array_like of float, optional
            (n_features,): importance of each feature to the model, such as a booster's total gain;
            0 leaves it out. Default: 1.
        trained : array_like of bool, optional
            (n,): samples that the model itself trains on. Others are not what a pixel is compared
            with; those that were held out take part in the threshold. Default: all that are used.
        max_samples : int
            Samples to keep. Default 5,000: time grows with them. Of more the same are kept each
            time, of every fold its share, in whatever order they come.

        Raises
        ------
        ModelError
            If shapes do not fit, a feature is infinite, no feature that has a weight varies, a
            weight is negative, no sample was held out, or a fold that was has no training sample of
            another fold to be compared with.

        Notes
        -----
        Dissimilarity of a sample is the distance to the nearest training sample by the mean
        distance between training samples, both of features that are standardised, then weighted.
        The threshold is that of samples that were held out, to training samples of other folds:
        their 75th percentile and 1.5 interquartile ranges more, at most their maximum.

        An unknown feature counts as the mean of training; CAST gives no answer there. A feature
        that does not vary in training is left out, as the model cannot have learnt from it; CAST
        refuses it.
        """
        fold = np.asarray(folds)
        is_used = np.ones(len(features), bool) if trained is None else np.asarray(trained)
        weight = np.ones(features.shape[-1]) if weights is None else np.asarray(weights, np.float64)
        _require_table(features, fold, weight, is_used, max_samples)
        learnt = np.flatnonzero(is_used & (fold != UNUSED))
        only_asked = np.flatnonzero(~is_used & _was_held_out(fold))
        rows = learnt[_thinned(features[learnt], fold[learnt], max_samples)]
        more = only_asked[_thinned(features[only_asked], fold[only_asked], max_samples)]
        asked = np.concatenate([rows[_was_held_out(fold[rows])], more])
        _require_folds(fold[rows], fold[asked])
        samples = np.ascontiguousarray(features[rows], np.float32)
        center, scale, varies = _moments(samples)
        weight = np.where(varies, weight, 0)
        _require_weight(weight)
        points = _standardised(samples, center, scale, weight)
        mean_distance = _mean_distance(points)
        held_out = _standardised(features[asked], center, scale, weight)
        away = _to_other_folds(points, fold[rows], held_out, fold[asked])
        return cls(
            samples=samples,
            center=center,
            scale=scale,
            weight=weight,
            mean_distance=mean_distance,
            threshold=_threshold(away / mean_distance),
            n_train=len(learnt),
        )

    def dissimilarity(self, features: Float32) -> Float32:
        """Dissimilarity index: distance to the nearest training sample, by their mean distance.

        Parameters
        ----------
        features : numpy.ndarray
            float32, (n, n_features), in the order of training; NaN where unknown.

        Returns
        -------
        numpy.ndarray
            float32, (n,): 0 or more; NaN where all features are, inf where one is infinite.

        Raises
        ------
        ModelError
            If there are more or fewer features than in training.
        """
        if features.ndim != 2 or features.shape[1] != self.n_features:
            raise ModelError(
                f"features of shape {features.shape}; the area of applicability was made for "
                f"(n, {self.n_features}), in the order of training."
            )
        index = np.full(len(features), np.nan, np.float32)
        for start in range(0, len(features), _ROWS):
            part = features[start : start + _ROWS]
            is_far = np.isinf(part).any(axis=1)
            index[start + np.flatnonzero(is_far)] = np.inf
            near = np.flatnonzero(~(is_far | np.isnan(part).all(axis=1)))
            points = _standardised(part[near], self.center, self.scale, self.weight)
            distance, _ = nearest_donors(self._points, points, 1)
            index[start + near] = distance[:, 0] / self.mean_distance
        return index

    def inside(self, dissimilarity: Float32) -> npt.NDArray[np.bool_]:
        """Whether each dissimilarity is in the area of applicability, bool; NaN is not."""
        within: npt.NDArray[np.bool_] = dissimilarity <= self.threshold
        return within

    @property
    def n_features(self) -> int:
        """Features of training, those left out among them."""
        return len(self.center)

    @cached_property
    def _points(self) -> Float64:
        return _standardised(self.samples, self.center, self.scale, self.weight)

    def __getstate__(self) -> dict[str, Any]:
        """What is stored: a worker standardises the samples itself."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def _standardised(features: Float32, center: Float64, scale: Float64, weight: Float64) -> Float64:
    """Features that have a weight, centred, scaled and weighted; 0 where unknown."""
    used = np.flatnonzero(weight)
    points = (features[:, used] - center[used]) / scale[used] * weight[used]
    return np.ascontiguousarray(np.nan_to_num(points, copy=False, nan=0.0))


def _moments(samples: Float32) -> tuple[Float64, Float64, npt.NDArray[np.bool_]]:
    """Mean, standard deviation (1 where there is none) and whether the feature varies."""
    known = ~np.isnan(samples)
    n = known.sum(axis=0)
    values = np.where(known, samples, 0).astype(np.float64)
    center = values.sum(axis=0) / np.maximum(n, 1)
    spread = np.where(known, values - center, 0)
    scale = np.sqrt(np.einsum("nf,nf->f", spread, spread) / np.maximum(n - 1, 1))
    # The mean of equal numbers may be off by their last digit.
    varies = scale > 1e-7 * np.abs(center)
    return center, np.where(varies, scale, 1.0), varies


def _thinned(features: Float32, folds: npt.NDArray[Any], most: int) -> npt.NDArray[np.intp]:
    """Rows, ascending: evenly spaced by fold, then by bits, which says nothing of what they are."""
    n = len(features)
    if n <= most:
        return np.arange(n)
    bits = np.ascontiguousarray(features, np.float32).view(f"V{4 * features.shape[1]}")[:, 0]
    order = np.argsort(bits, kind="stable")
    order = order[np.argsort(folds[order], kind="stable")]
    return np.sort(order[np.linspace(0, n - 1, most).round().astype(np.intp)])


def _mean_distance(points: Float64) -> float:
    """Mean distance of two different samples."""
    from sklearn.metrics.pairwise import euclidean_distances

    n = len(points)
    step = max(1, _DISTANCES // n)
    total = sum(
        float(euclidean_distances(points[start : start + step], points).sum())
        for start in range(0, n, step)
    )
    return total / (n * (n - 1))


def _was_held_out(fold: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    return np.asarray((fold != NEVER) & (fold != UNUSED))


def _to_other_folds(
    points: Float64, folds: npt.NDArray[Any], held_out: Float64, held_folds: npt.NDArray[Any]
) -> Float64:
    """Distance of each sample that was held out to the nearest training sample of another fold."""
    parts = [
        nearest_donors(points[folds != one], held_out[held_folds == one], 1)[0]
        for one in np.unique(held_folds)
    ]
    return np.concatenate(parts)[:, 0]


def _threshold(dissimilarity: Float64) -> float:
    lower, upper = np.quantile(dissimilarity, (0.25, 0.75))
    return float(min(upper + 1.5 * (upper - lower), dissimilarity.max()))


def _require_table(
    features: Float32,
    folds: npt.NDArray[Any],
    weight: Float64,
    trained: npt.NDArray[Any],
    max_samples: int,
) -> None:
    if features.ndim != 2 or folds.shape != (len(features),):
        raise ModelError(
            f"features of shape {features.shape}, folds of {folds.shape}; they are "
            "(n, n_features) and (n,)."
        )
    if trained.shape != folds.shape or trained.dtype != bool:
        raise ModelError(
            f"trained of shape {trained.shape} and dtype {trained.dtype} for {len(features)} "
            "samples; give one bool a sample: whether the model trains on it."
        )
    if np.isinf(features).any():
        raise ModelError("a feature of training is infinite; use NaN where it is unknown.")
    if weight.shape != (features.shape[1],) or not (np.isfinite(weight) & (weight >= 0)).all():
        raise ModelError(
            f"weights of shape {weight.shape} for {features.shape[1]} features; give one a "
            "feature, finite and not negative."
        )
    if max_samples < 2:
        raise ModelError(f"max_samples = {max_samples}: distances want 2 or more.")


def _require_folds(trained: npt.NDArray[Any], held_out: npt.NDArray[Any]) -> None:
    held = np.unique(held_out)
    if held.size == 0 or not all((trained != fold).any() for fold in held):
        raise ModelError(
            f"{held.size} folds held samples out, and {len(trained)} samples train; the threshold "
            "compares samples with training samples of other folds. Give the folds of the "
            "cross-validation, two or more, or samples that only trained (-1)."
        )


def _require_weight(weight: Float64) -> None:
    if not weight.any():
        raise ModelError(
            "no feature that has a weight varies in training; there is nothing to be like. Check "
            "features and weights."
        )
