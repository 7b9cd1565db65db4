"""Scores of LCZ predictions against a reference, with the noise of the polygons beside them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from lczcube.errors import ConfigError, LabelError
from lczcube.labels import LeakageReport
from lczcube.lcz import N_CLASSES, require_codes
from lczcube.metrics import (
    METRICS,
    calibration_error,
    class_f1,
    class_iou,
    class_precision,
    class_recall,
)
from lczcube.metrics import coverage as coverage_of
from lczcube.predictions import Pair, pair_predictions
from lczcube.tables import (
    ROUND_DIGITS,
    Interval,
    markdown_table,
    percentile_interval,
    plain,
    with_interval,
)

Unit = Literal["patch", "pixel", "polygon", "cell"]

UNITS: tuple[str, ...] = get_args(Unit)

TABLE_METRICS = {
    "oa": "OA",
    "oa_u": "OA_u",
    "oa_bu": "OA_bu",
    "oa_w": "OA_w",
    "macro_f1": "macro F1",
    "kappa": "kappa",
}
"""Metrics of the tables, and their headings."""

FloatArray = npt.NDArray[np.float64]

_N_PREDICTED = N_CLASSES + 1
_ZERO = 0.5 * 10**-ROUND_DIGITS


@dataclass(frozen=True)
class ClassScore:
    """Scores of one class.

    Attributes
    ----------
    precision : float or None
        Share of the predictions of the class that are right; None if it is never predicted.
    recall : float or None
        Share of the reference of the class that is found; None if the reference has none.
    f1, iou : float
        Harmonic mean of the two; intersection over union. 0 where nothing is right.
    support : int
        Units of the class in the reference.
    """

    precision: float | None
    recall: float | None
    f1: float
    iou: float
    support: int


@dataclass(frozen=True, eq=False)
class Scores:
    """What a set of predictions is worth, on which units, split how, and how sure that is.

    Attributes
    ----------
    unit : str
        What one prediction stands for: ``patch``, ``pixel``, ``polygon`` or ``cell``.
    split : str
        How training and evaluation were kept apart, in words (:attr:`Split.name`).
    leakage : LeakageReport
        How near evaluation lay to training.
    n : int
        Units in the reference.
    n_groups : int
        Groups the bootstrap draws from: polygons, or units where no groups were given.
    n_repeats : int
        Predictions per unit, one a seed; every score is the mean over them.
    coverage : float
        Share of the units with a prediction. A unit without one (code 0) counts as wrong.
    metrics : mapping of str to float or None
        By name of :data:`lczcube.metrics.METRICS`: ``oa``, ``oa_u``, ``oa_bu``, ``oa_w``,
        ``kappa``, ``kappa_w``, ``macro_f1``, ``mean_iou``, ``balanced_accuracy``; None where not
        defined.
    calibration_error : float or None
        Expected calibration error of the units with a prediction; None without confidences.
    per_class : mapping of int to ClassScore
        By code, for classes of the reference or of the prediction.
    confusion : numpy.ndarray
        int64, shape (17, 17): rows reference, columns prediction, codes 1-17, summed over repeats.
        Units without a prediction are in no column.
    intervals : mapping of str to tuple or None
        By metric: 95 % interval of the bootstrap over groups. None with fewer than two groups.
    n_boot, seed : int
        Draws of the bootstrap, and their seed.
    repeats : tuple of mapping
        Per repeat: the metrics, and ``coverage``.
    """

    unit: str
    split: str
    leakage: LeakageReport
    n: int
    n_groups: int
    n_repeats: int
    coverage: float
    metrics: Mapping[str, float | None]
    calibration_error: float | None
    per_class: Mapping[int, ClassScore]
    confusion: npt.NDArray[np.int64]
    intervals: Mapping[str, Interval | None]
    n_boot: int
    seed: int
    repeats: tuple[Mapping[str, float | None], ...]

    def __post_init__(self) -> None:
        _require_named(self.unit, self.split, self.leakage)

    @property
    def oa(self) -> float:
        """Overall accuracy."""
        return self.metrics["oa"] or 0.0

    @property
    def macro_f1(self) -> float:
        """F1, mean over the classes of the reference."""
        return self.metrics["macro_f1"] or 0.0

    @property
    def kappa(self) -> float | None:
        """Cohen's kappa."""
        return self.metrics["kappa"]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: keys sorted, floats rounded to 6 digits."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        values["per_class"] = {str(code): vars(row) for code, row in self.per_class.items()}
        values["confusion"] = self.confusion.tolist()
        values["leakage"] = self.leakage.to_dict()
        values |= values.pop("metrics")
        made: dict[str, Any] = plain(values)
        return made


@dataclass(frozen=True)
class Comparison:
    """Two sets of predictions of the same units, drawn together.

    Attributes
    ----------
    names : tuple of str
        What the two are called, A then B.
    n, n_groups : int
        Units in the reference; groups the bootstrap draws from.
    repeats : tuple of int
        Seeds that each of the two was run with.
    differences : mapping of str to float or None
        By metric: A minus B, means over repeats.
    intervals : mapping of str to tuple or None
        By metric: 95 % interval of the difference, both scored on the same draws of groups.
    resolved : bool
        The interval of overall accuracy leaves 0 out: the groups can tell the two apart.
    statement : str
        The difference of overall accuracy, in a sentence.
    n_boot, seed : int
        Draws of the bootstrap, and their seed.
    """

    names: tuple[str, str]
    n: int
    n_groups: int
    repeats: tuple[int, int]
    differences: Mapping[str, float | None]
    intervals: Mapping[str, Interval | None]
    resolved: bool
    statement: str
    n_boot: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: keys sorted, floats rounded to 6 digits."""
        made: dict[str, Any] = plain(vars(self))
        return made


@dataclass(frozen=True)
class PairedComparison:
    """Two models on the units that both scored.

    Attributes
    ----------
    comparison : Comparison
        On the shared units.
    unit : str
        What one prediction stands for.
    n : tuple of int
        Units that each of the two scored; of hold-outs, each as often as it was drawn.
    n_shared : int
        Units that both scored, counted alike.
    n_trained_apart : int
        Shared units that the two predicted after learning from different labels.
    splits : tuple of str
        How training and evaluation were kept apart, of each.
    warnings : tuple of str
        What a reader of the difference must know.
    """

    comparison: Comparison
    unit: str
    n: tuple[int, int]
    n_shared: int
    n_trained_apart: int
    splits: tuple[str, str]
    warnings: tuple[str, ...]

    @property
    def statement(self) -> str:
        """The difference of overall accuracy, and on which units, in two sentences."""
        units = _plural(self.unit)
        a, b = self.comparison.names
        counts = f"Both scored the same {self.n_shared} {units}."
        if self.n != (self.n_shared, self.n_shared):
            counts = (
                f"{a} scored {self.n[0]} {units} and {b} {self.n[1]}; this is of the "
                f"{self.n_shared} that both scored."
            )
        return f"{self.comparison.statement} {counts}"

    def to_text(self) -> str:
        """The table, the statement and the warnings, without a trailing line break."""
        table = comparisons_table([self.comparison])
        return "\n".join([table, "", self.statement, *self.warnings])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: keys sorted, floats rounded to 6 digits."""
        made: dict[str, Any] = plain(
            vars(self) | {"comparison": vars(self.comparison), "statement": self.statement}
        )
        return made


def score(
    lcz_true: npt.ArrayLike,
    lcz_predicted: npt.ArrayLike,
    *,
    unit: Unit,
    split: str,
    leakage: LeakageReport,
    groups: npt.ArrayLike | None = None,
    confidence: npt.ArrayLike | None = None,
    n_boot: int = 1000,
    seed: int = 0,
) -> Scores:
    """Accuracies, kappas, F1, IoU and scores per class, with a bootstrap over groups.

    Parameters
    ----------
    lcz_true : array_like of int
        Reference codes 1-17, shape (n,).
    lcz_predicted : array_like of int
        Predicted codes 0-17, shape (n,), or (n_seeds, n) for repeated runs, which are averaged.
        0 (no data) is no prediction: it counts as wrong and lowers ``coverage``.
    unit : str
        What one prediction stands for.
    split : str
        How training and evaluation were kept apart, in words.
    leakage : LeakageReport
        Of the training and evaluation rows behind the predictions.
    groups : array_like of str, optional
        The polygon (or block, or city) of each unit, shape (n,). Units of one group are alike, so
        groups are drawn, not units. Default: every unit its own group, which is too sure where
        units overlap or touch.
    confidence : array_like of float, optional
        Probability of the predicted class, 0-1, in the shape of ``lcz_predicted``.
    n_boot : int
        Draws. Default 1000; 0 for no intervals.
    seed : int
        Seed of the draws.

    Returns
    -------
    Scores
        The same whatever the order of the units.

    Raises
    ------
    ConfigError
        If unit or split is not named.
    LabelError
        If codes or shapes do not fit.

    Notes
    -----
    Means over classes are over those of the reference, in each draw those of the draw. Draws in
    which a metric is not defined are left out of its interval.

    Examples
    --------
    >>> from lczcube.labels import LeakageReport
    >>> apart = LeakageReport(share_touching=0.0, shared_area_m2=0.0, nearest_m=5e5, n_test=3)
    >>> scores = score([1, 1, 2], [1, 2, 2], unit="patch", split="city, 2 folds", leakage=apart)
    >>> round(scores.oa, 3), scores.n_groups
    (0.667, 3)
    """
    true, predicted = _codes(lcz_true, lcz_predicted)
    tally = _tally(true, predicted, groups)
    confusion = tally.confusion()
    repeats = _repeats(confusion)
    means = {name: _mean([repeat[name] for repeat in repeats]) for name in repeats[0]}
    return Scores(
        unit=unit,
        split=split,
        leakage=leakage,
        n=true.size,
        n_groups=tally.n_groups,
        n_repeats=len(predicted),
        coverage=means.pop("coverage") or 0.0,
        metrics=means,
        calibration_error=_calibration(true, predicted, confidence),
        per_class=_per_class(confusion),
        confusion=confusion.sum(axis=0)[:, 1:].astype(np.int64),
        intervals=_intervals(_mean_defined(_draw(tally, n_boot=n_boot, seed=seed))),
        n_boot=n_boot,
        seed=seed,
        repeats=repeats,
    )


def compare(
    lcz_true: npt.ArrayLike,
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    *,
    groups: npt.ArrayLike | None,
    n_boot: int = 1000,
    seed: int = 0,
    names: tuple[str, str] = ("A", "B"),
    group_noun: str = "polygons",
) -> Comparison:
    """Difference of two sets of predictions, A minus B, on the same draws of groups.

    Parameters
    ----------
    lcz_true : array_like of int
        Reference codes 1-17, shape (n,).
    a, b : array_like of int
        Predicted codes 0-17 of the same units, shape (n,) or (n_seeds, n); repeats are averaged,
        and the two may have different numbers of them.
    groups : array_like of str or None
        As in :func:`score`; None draws units.
    n_boot, seed : int
        As in :func:`score`.
    names : tuple of str
        What the statement calls the two.
    group_noun : str
        What the statement calls the groups, in the plural.

    Returns
    -------
    Comparison

    Raises
    ------
    LabelError
        If codes or shapes do not fit.
    """
    true, predicted_a = _codes(lcz_true, a)
    _, predicted_b = _codes(lcz_true, b)
    tally = _tally(true, np.concatenate([predicted_a, predicted_b]), groups)
    draws = _draw(tally, n_boot=n_boot, seed=seed)
    n_a = len(predicted_a)
    intervals = _intervals(_mean_defined(draws[:, :n_a]) - _mean_defined(draws[:, n_a:]))
    differences = _differences(true, predicted_a, predicted_b)
    return Comparison(
        names=names,
        n=true.size,
        n_groups=tally.n_groups,
        repeats=(n_a, len(predicted_b)),
        differences=differences,
        intervals=intervals,
        resolved=_leaves_zero_out(intervals["oa"]),
        statement=_statement(
            differences["oa"] or 0.0,
            intervals["oa"],
            names=names,
            noun=f"{tally.n_groups} {group_noun}",
        ),
        n_boot=n_boot,
        seed=seed,
    )


def compare_predictions(
    a: pd.DataFrame,
    b: pd.DataFrame,
    *,
    n_boot: int = 1000,
    seed: int = 0,
    names: tuple[str, str] = ("A", "B"),
    group_noun: str = "label groups",
) -> PairedComparison:
    """Difference of two models, A minus B, on the units that both scored.

    Parameters
    ----------
    a, b : pandas.DataFrame
        Predictions of one model each, in any order of rows: of
        :func:`lczcube.predictions.read_predictions` and ``predictions_of``. A unit is known by
        city and ``patch_id``. Repeats are averaged over the seeds that both have, or over each
        model's own where they have none in common. Hold-outs draw other units with every seed:
        then a unit is paired with itself seed by seed, as often as both drew it.
    n_boot, seed, names, group_noun
        As in :func:`compare`.

    Returns
    -------
    PairedComparison

    Raises
    ------
    LabelError
        If a table is not of one model and unit, or holds a unit twice; if units are of two kinds;
        if the two share none; if they differ in class, group or place of a shared unit.
    """
    pair = pair_predictions(a, b, names=names)
    found = compare(
        pair.reference["lcz_true"],
        *(pair.wide(number, "lcz_predicted") for number in (0, 1)),
        groups=pair.reference["group"],
        n_boot=n_boot,
        seed=seed,
        names=names,
        group_noun=group_noun,
    )
    return PairedComparison(
        comparison=replace(found, repeats=pair.n_seeds),
        unit=pair.unit,
        n=pair.n_units,
        n_shared=len(pair.reference),
        n_trained_apart=pair.n_trained_apart,
        splits=pair.splits,
        warnings=tuple(_pair_warnings(pair, names)),
    )


def scores_table(rows: Sequence[tuple[str, Scores]]) -> str:
    """Scores as a Markdown table that also reads as plain text, one row a name.

    Parameters
    ----------
    rows : sequence of (str, Scores)
        What was scored, and its scores, in the order to print.

    Returns
    -------
    str
        Lines without a trailing line break. Brackets hold the 95 % interval over groups;
        ``touching`` is the share of evaluation patches that touch training.
    """
    header = (
        "scored",
        "unit",
        "split",
        "n",
        "groups",
        *TABLE_METRICS.values(),
        "coverage",
        "touching",
    )
    return markdown_table(header, [_table_row(name, scores) for name, scores in rows])


def comparisons_table(comparisons: Sequence[Comparison]) -> str:
    """Paired differences as a Markdown table that also reads as plain text, one row a pair.

    Parameters
    ----------
    comparisons : sequence of Comparison
        In the order to print.

    Returns
    -------
    str
        Lines without a trailing line break. Brackets hold the 95 % interval of the difference over
        draws of groups, both scored on the same draws.
    """
    header = ("difference", "seeds", "n", "groups", *TABLE_METRICS.values())
    rows = [
        (
            " - ".join(found.names),
            str(min(found.repeats)),
            str(found.n),
            str(found.n_groups),
            *(
                with_interval(found.differences[metric], found.intervals[metric], signed=True)
                for metric in TABLE_METRICS
            ),
        )
        for found in comparisons
    ]
    return markdown_table(header, rows)


def _require_named(unit: str, split: str, leakage: LeakageReport) -> None:
    if unit not in UNITS:
        raise ConfigError(f"unit = {unit!r} is unknown; a score is per {', '.join(UNITS)}.")
    if not split.strip():
        raise ConfigError("split is empty; a score names how training and evaluation were split.")
    if not isinstance(leakage, LeakageReport):
        raise ConfigError(
            f"leakage = {leakage!r} is no LeakageReport; a score says how near evaluation lay to "
            "training. Measure it: leakage_report(train, test)."
        )


def _codes(
    lcz_true: npt.ArrayLike, lcz_predicted: npt.ArrayLike
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    true, predicted = np.asarray(lcz_true), np.atleast_2d(np.asarray(lcz_predicted))
    if true.ndim != 1 or predicted.ndim != 2 or predicted.shape[1] != true.size:
        raise LabelError(
            f"reference of shape {true.shape}, predictions of shape {np.shape(lcz_predicted)}; "
            "they are (n,) and (n,) or (n_seeds, n)."
        )
    if true.size == 0 or len(predicted) == 0:
        raise LabelError("nothing to score; a score needs at least one unit with a label.")
    require_codes(true, where="reference labels")
    require_codes(predicted, where="predictions")
    n_zero = int((true == 0).sum())
    if n_zero:
        raise LabelError(
            f"the reference holds code 0 in {n_zero} units; score labelled units only."
        )
    return true.astype(np.int64), predicted.astype(np.int64)


@dataclass(frozen=True, eq=False)
class _Tally:
    """Sparse confusion matrices per group: ``count`` units of ``group`` fall in ``entry``.

    An entry numbers (repeat, true code - 1, predicted code 0-17).
    """

    group: npt.NDArray[np.int64]
    entry: npt.NDArray[np.int64]
    count: npt.NDArray[np.int64]
    n_groups: int
    n_repeats: int

    def confusion(self, weight: npt.NDArray[np.int64] | None = None) -> FloatArray:
        """Matrices of shape (repeat, 17, 18), each group counted ``weight`` times or once."""
        counts = self.count if weight is None else self.count * weight[self.group]
        shape = (self.n_repeats, N_CLASSES, _N_PREDICTED)
        filled = np.bincount(self.entry, weights=counts, minlength=int(np.prod(shape)))
        return filled.reshape(shape).astype(np.float64)


def _tally(
    true: npt.NDArray[np.int64],
    predicted: npt.NDArray[np.int64],
    groups: npt.ArrayLike | None,
) -> _Tally:
    numbers, n_groups = _group_numbers(true, predicted, groups)
    n_repeats = len(predicted)
    size = n_repeats * N_CLASSES * _N_PREDICTED
    row = np.arange(n_repeats)[:, None] * N_CLASSES + (true - 1)
    keys = numbers * size + row * _N_PREDICTED + predicted
    unique, count = np.unique(keys, return_counts=True)
    return _Tally(unique // size, unique % size, count, n_groups, n_repeats)


def _group_numbers(
    true: npt.NDArray[np.int64],
    predicted: npt.NDArray[np.int64],
    groups: npt.ArrayLike | None,
) -> tuple[npt.NDArray[np.int64], int]:
    if groups is None:
        # Numbered by what they hold, so that the order of the units does not move the draws.
        numbers = np.empty(true.size, np.int64)
        numbers[np.lexsort((*predicted, true))] = np.arange(true.size)
        return numbers, true.size
    names = np.asarray(groups).astype(str)
    if names.shape != true.shape:
        raise LabelError(f"groups of shape {names.shape} for {true.size} units; give one a unit.")
    unique, numbers = np.unique(names, return_inverse=True)
    return numbers.astype(np.int64), unique.size


def _repeats(confusion: FloatArray) -> tuple[dict[str, float | None], ...]:
    """Metrics and coverage of each repeat, of matrices (repeat, 17, 18)."""
    values = {name: metric(confusion) for name, metric in METRICS.items()}
    values["coverage"] = coverage_of(confusion)
    return tuple(
        {name: _defined(value[i]) for name, value in values.items()} for i in range(len(confusion))
    )


def _calibration(
    true: npt.NDArray[np.int64],
    predicted: npt.NDArray[np.int64],
    confidence: npt.ArrayLike | None,
) -> float | None:
    if confidence is None:
        return None
    sure = np.atleast_2d(np.asarray(confidence, dtype=np.float64))
    if sure.shape != predicted.shape:
        raise LabelError(
            f"confidence of shape {sure.shape} for predictions of shape {predicted.shape}; give "
            "one a prediction."
        )
    is_known = predicted > 0
    if not is_known.any():
        return None
    return calibration_error(sure[is_known], (predicted == true)[is_known])


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None


def _per_class(confusion: FloatArray) -> dict[int, ClassScore]:
    """Scores of the classes of reference or prediction, means over repeats (repeat, 17, 18)."""
    precision, recall = (
        _mean_defined(of(confusion), axis=0) for of in (class_precision, class_recall)
    )
    f1, iou = (np.nan_to_num(of(confusion)).mean(axis=0) for of in (class_f1, class_iou))
    support = confusion[0].sum(axis=-1).astype(int)
    is_there = (support > 0) | (confusion[..., 1:].sum(axis=(0, 1)) > 0)
    return {
        int(i) + 1: ClassScore(
            precision=_defined(precision[i]),
            recall=_defined(recall[i]),
            f1=float(f1[i]),
            iou=float(iou[i]),
            support=int(support[i]),
        )
        for i in np.flatnonzero(is_there)
    }


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _mean_defined(values: FloatArray, axis: int = 1) -> FloatArray:
    """Mean over the repeats that are not NaN; NaN where none is."""
    known = ~np.isnan(values)
    n = known.sum(axis=axis)
    total = np.where(known, values, 0.0).sum(axis=axis)
    mean: FloatArray = np.where(n > 0, total / np.maximum(n, 1), np.nan)
    return mean


def _draw(tally: _Tally, *, n_boot: int, seed: int) -> FloatArray:
    """Metrics of each draw of groups, shape (draw, repeat, metric); no draw of a lone group."""
    n_draws = n_boot if tally.n_groups > 1 else 0
    rng = np.random.default_rng(seed)
    confusion = np.empty((n_draws, tally.n_repeats, N_CLASSES, _N_PREDICTED))
    for draw in range(n_draws):
        drawn = rng.integers(tally.n_groups, size=tally.n_groups)
        confusion[draw] = tally.confusion(np.bincount(drawn, minlength=tally.n_groups))
    return np.stack([metric(confusion) for metric in METRICS.values()], axis=-1)


def _intervals(draws: FloatArray) -> dict[str, Interval | None]:
    return {name: percentile_interval(draws[:, i]) for i, name in enumerate(METRICS)}


def _differences(
    true: npt.NDArray[np.int64], a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]
) -> dict[str, float | None]:
    of_a, of_b = (_repeats(_tally(true, rows, None).confusion()) for rows in (a, b))
    differences: dict[str, float | None] = {}
    for name in METRICS:
        mean_a, mean_b = (_mean([repeat[name] for repeat in rows]) for rows in (of_a, of_b))
        differences[name] = None if mean_a is None or mean_b is None else mean_a - mean_b
    return differences


def _leaves_zero_out(interval: Interval | None) -> bool:
    return interval is not None and (interval[0] > _ZERO or interval[1] < -_ZERO)


def _statement(
    difference: float, interval: Interval | None, *, names: tuple[str, str], noun: str
) -> str:
    a, b = names
    if interval is None:
        return (
            f"{noun} cannot resolve a difference of {difference:.3f} OA between {a} and {b} "
            "(no interval)."
        )
    low, high = interval
    if not _leaves_zero_out(interval):
        return (
            f"{noun} cannot resolve a difference of {difference:.3f} OA between {a} and {b} "
            f"(95 % interval {low:.3f} to {high:.3f})."
        )
    if low < 0:
        difference, low, high = -difference, -high, -low
        word = "below"
    else:
        word = "above"
    return (
        f"{a} is {word} {b} by {difference:.3f} OA "
        f"(95 % interval {low:.3f} to {high:.3f} over {noun})."
    )


def _plural(unit: str) -> str:
    return f"{unit}es" if unit.endswith("ch") else f"{unit}s"


def _pair_warnings(pair: Pair, names: tuple[str, str]) -> Iterator[str]:
    a, b = names
    n_apart = pair.n_trained_apart
    if n_apart:
        yield (
            f"{a} and {b} did not learn from the same labels for {n_apart} of the "
            f"{len(pair.reference)} {_plural(pair.unit)} (splits: {'; '.join(pair.splits)}): the "
            "difference is one of training labels too, not of the models alone."
        )
    if not pair.has_common_seeds:
        yield f"{a} and {b} have no seed in common; each is the mean over its own."


def _table_row(name: str, scores: Scores) -> tuple[str, ...]:
    repeats = f" x {scores.n_repeats}" if scores.n_repeats > 1 else ""
    return (
        name,
        scores.unit,
        scores.split,
        f"{scores.n}{repeats}",
        str(scores.n_groups),
        *(with_interval(scores.metrics[name], scores.intervals[name]) for name in TABLE_METRICS),
        f"{scores.coverage:.3f}",
        f"{scores.leakage.share_touching:.1%}",
    )
