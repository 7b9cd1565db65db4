"""Calibration of class probabilities: learnt from out-of-fold predictions, applied to maps.

References
----------
Guo, C. et al. (2017): On calibration of modern neural networks. ICML, arXiv:1706.04599
(temperature scaling). Zadrozny, B., Elkan, C. (2002): Transforming classifier scores into accurate
multiclass probability estimates. KDD, doi:10.1145/775047.775151 (isotonic, one against the rest).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from lczcube.confidence.outoffold import (
    Float32,
    OutOfFold,
    each_held_out,
    group_folds,
    require_as_many,
)
from lczcube.errors import ModelError
from lczcube.propagate.calibration import FLOOR, Reliability, reliability_of, sharpened

Method = Literal["temperature", "isotonic", "none"]

LOG_TEMPERATURES = (-3.0, 3.0)
"""Logarithms of the temperatures that are searched, as for votes: 0.05 to 20."""

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ClassCalibration:
    """Turns the probabilities of a model into ones that come true as often as they say.

    Attributes
    ----------
    method : str
        ``temperature``: ``softmax(log(p) / T)``, which leaves the order of the classes;
        ``isotonic``: each class by a rising curve of its own, then scaled to a sum of 1, which may
        change the winner; ``none``.
    temperature : float
        T, above 0; 1 for the other methods.
    curves : mapping of int to numpy.ndarray
        By code, float64 (2, n): probabilities, ascending, and what becomes of them; linear between.
        A class without one, as it has no label, keeps its probability until the scaling.
    quality : Reliability or None
        Calibration error before and after, each fold of whole groups calibrated by the others.
    """

    method: Method
    temperature: float = 1.0
    curves: Mapping[int, Float64] = field(default_factory=dict)
    quality: Reliability | None = None

    def apply(self, probability: Float32) -> Float32:
        """Calibrated probabilities.

        Parameters
        ----------
        probability : numpy.ndarray
            float32 in [0, 1], (n, 17).

        Returns
        -------
        numpy.ndarray
            float32, (n, 17); rows sum to 1. A probability of 0, of a class that was not in
            training, stays 0; a row with NaN stays without data.
        """
        if self.method == "temperature":
            return sharpened(probability, self.temperature).astype(np.float32, copy=False)
        return _bent(probability, self.curves) if self.method == "isotonic" else probability


def fit_calibration(
    probability: Float32,
    lcz: npt.ArrayLike,
    groups: npt.ArrayLike,
    *,
    method: Method = "temperature",
    seed: int = 0,
) -> ClassCalibration:
    """The calibration under which out-of-fold predictions come true as often as they say.

    Parameters
    ----------
    probability : numpy.ndarray
        float32 in [0, 1], (n, 17): predictions by models that saw nothing of the sample's group.
        Rows with NaN were not predicted, and are left out.
    lcz : array_like of int
        (n,): true classes, 1-17.
    groups : array_like
        (n,): polygon, block or patch of each sample; names are not shared between cities.
    method : str
        ``temperature`` (default): one number, which few labels can teach and which leaves the
        map's classes as they are; ``isotonic``: curves, which want hundreds of groups; ``none``:
        the probabilities as they are, with their quality.
    seed : int
        Of the bootstrap over groups. Default 0.

    Returns
    -------
    ClassCalibration
        With its quality.

    Raises
    ------
    LabelError
        If a code is not 1-17, or fewer than two groups were predicted.
    ModelError
        If the method is unknown, shapes do not fit, or a probability is outside 0-1.
    """
    if method not in get_args(Method):
        raise ModelError(
            f"calibration {method!r} is unknown; it is one of {', '.join(get_args(Method))}."
        )
    held = OutOfFold.of(probability, lcz, groups)
    after = _cross_calibrated(held, group_folds(held.group), method)
    return replace(_fit(held, method), quality=_quality(held, after, seed))


def cross_calibrated(
    probability: Float32,
    lcz: npt.ArrayLike,
    groups: npt.ArrayLike,
    *,
    method: Method = "temperature",
    held_out: npt.ArrayLike | None = None,
) -> Float32:
    """Probabilities calibrated by the other samples only.

    Parameters
    ----------
    probability, lcz, groups, method
        As in :func:`fit_calibration`; every row is predicted.
    held_out : array_like, optional
        (n,): the unit, such as a city, whose rows the others calibrate. Default: five folds of
        whole groups.

    Returns
    -------
    numpy.ndarray
        float32, (n, 17).
    """
    held = OutOfFold.of(probability, lcz, groups)
    units = group_folds(held.group) if held_out is None else np.asarray(held_out)
    require_as_many(len(held.lcz), units, "units to hold out")
    return _cross_calibrated(held, units, method)


def _cross_calibrated(held: OutOfFold, held_out: npt.NDArray[Any], method: Method) -> Float32:
    calibrated = np.empty_like(held.probability)
    for others, rows in each_held_out(held_out):
        calibrated[rows] = _fit(held.take(others), method).apply(held.probability[rows])
    return calibrated


def _fit(held: OutOfFold, method: Method) -> ClassCalibration:
    if method == "temperature":
        return ClassCalibration(method, temperature=_temperature(held))
    return ClassCalibration(method, curves=_curves(held) if method == "isotonic" else {})


def _temperature(held: OutOfFold) -> float:
    """The temperature under which the true classes are most likely."""
    from scipy.optimize import minimize_scalar

    shares, rows = held.probability.astype(np.float64), np.arange(len(held.lcz))

    def loss(log_temperature: float) -> float:
        chance = sharpened(shares, float(np.exp(log_temperature)))[rows, held.lcz - 1]
        return float(-np.log(np.maximum(chance, FLOOR)).mean())

    found = minimize_scalar(loss, bounds=LOG_TEMPERATURES, method="bounded")
    return float(np.exp(found.x))


def _curves(held: OutOfFold) -> dict[int, Float64]:
    from sklearn.isotonic import IsotonicRegression

    curves = {}
    for code in np.unique(held.lcz).tolist():
        rising = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
        rising.fit(held.probability[:, code - 1], held.lcz == code)
        curves[code] = np.array([rising.X_thresholds_, rising.y_thresholds_], np.float64)
    return curves


def _bent(probability: Float32, curves: Mapping[int, Float64]) -> Float32:
    """Probabilities by their curves; where all become 0, as they were."""
    bent = probability.astype(np.float64)
    for code, (raw, calibrated) in curves.items():
        bent[:, code - 1] = np.interp(probability[:, code - 1], raw, calibrated)
    bent[probability == 0] = 0
    total = bent.sum(axis=1, keepdims=True)
    scaled = np.where(total == 0, probability, bent / np.where(total == 0, 1, total))
    return scaled.astype(np.float32)


def _quality(held: OutOfFold, after: Float32, seed: int) -> Reliability:
    """Each stage by its own winner: a curve may change it."""
    stages = [np.minimum(each.astype(np.float64), 1) for each in (held.probability, after)]
    raw, calibrated = (each.max(axis=1) for each in stages)
    right, right_after = (each.argmax(axis=1) + 1 == held.lcz for each in stages)
    return reliability_of(
        raw, calibrated, right, held.group, method="groups", right_after=right_after, seed=seed
    )
