"""Metrics on confusion matrices: scikit-learn's where it has them, worked by hand where not."""

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from lczcube import metrics
from lczcube.errors import LabelError
from lczcube.lcz import similarity
from lczcube.metrics import METRICS, calibration_error

Codes = npt.NDArray[np.int64]


def confusion_of(true: npt.ArrayLike, predicted: npt.ArrayLike) -> npt.NDArray[np.float64]:
    confusion = np.zeros((17, 18))
    np.add.at(confusion, (np.asarray(true) - 1, np.asarray(predicted)), 1)
    return confusion


pairs = st.lists(
    st.tuples(st.sampled_from([1, 2, 6, 10, 11, 17]), st.sampled_from([0, 1, 2, 6, 9, 11, 17])),
    min_size=1,
    max_size=60,
).map(lambda rows: tuple(np.array(rows).T))


def by_sklearn(name: str, true: Codes, predicted: Codes) -> float:
    present = {"labels": np.unique(true), "average": "macro", "zero_division": 0.0}
    built = true <= 10
    built_as_said = np.where(predicted, predicted <= 10, 2)
    ways: dict[str, Any] = {
        "oa": lambda: sklearn_metrics.accuracy_score(true, predicted),
        "oa_u": lambda: sklearn_metrics.accuracy_score(true[built], predicted[built]),
        "oa_bu": lambda: sklearn_metrics.accuracy_score(built, built_as_said),
        "kappa": lambda: sklearn_metrics.cohen_kappa_score(true, predicted),
        "macro_f1": lambda: sklearn_metrics.f1_score(true, predicted, **present),
        "mean_iou": lambda: sklearn_metrics.jaccard_score(true, predicted, **present),
        "balanced_accuracy": lambda: sklearn_metrics.recall_score(true, predicted, **present),
    }
    return float(ways[name]())


@pytest.mark.parametrize(
    "name", ["oa", "oa_u", "oa_bu", "kappa", "macro_f1", "mean_iou", "balanced_accuracy"]
)
@given(pairs)
def test_metrics_are_those_of_scikit_learn(name: str, drawn: tuple[Codes, Codes]) -> None:
    true, predicted = drawn
    found = float(METRICS[name](confusion_of(true, predicted)))
    if (name == "oa_u" and not (true <= 10).any()) or (
        name == "kappa" and len({*true, *predicted}) == 1
    ):
        assert np.isnan(found)
    else:
        assert found == pytest.approx(by_sklearn(name, true, predicted), abs=1e-12)


@given(pairs)
def test_balanced_accuracy_is_scikit_learns_where_that_is_silent(
    drawn: tuple[Codes, Codes],
) -> None:
    true, predicted = drawn
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # classes that are predicted only
        expected = sklearn_metrics.balanced_accuracy_score(true, predicted)
    assert float(metrics.balanced_accuracy(confusion_of(true, predicted))) == pytest.approx(
        expected
    )


@given(pairs)
def test_accuracy_weighted_by_the_identity_is_overall_accuracy(drawn: tuple[Codes, Codes]) -> None:
    confusion = confusion_of(*drawn)
    assert metrics.weighted_accuracy(confusion, np.eye(17)) == metrics.overall_accuracy(confusion)


@given(pairs.map(lambda rows: (rows[0], np.maximum(rows[1], 1))))
def test_weighted_kappa_with_linear_weights_is_scikit_learns(drawn: tuple[Codes, Codes]) -> None:
    true, predicted = drawn
    if len({*true, *predicted}) == 1:
        return
    codes = np.arange(1, 18)
    linear = 1 - np.abs(codes[:, None] - codes) / 16
    found = metrics.weighted_kappa(confusion_of(true, predicted), linear)
    expected = sklearn_metrics.cohen_kappa_score(true, predicted, labels=codes, weights="linear")
    assert float(found) == pytest.approx(expected, abs=1e-12)


def test_weighted_accuracy_worked_by_hand() -> None:
    # 1 as 2 is 11/12 alike, A as 1 is 4/12, G as G is right, 6 without a prediction is nothing.
    confusion = confusion_of([1, 11, 17, 6], [2, 1, 17, 0])
    assert float(metrics.weighted_accuracy(confusion)) == pytest.approx((11 + 4 + 12) / 12 / 4)
    # By chance: each pair of a reference with one of the predictions 2, 1, 17.
    similar = similarity()
    expected = sum(similar[i - 1, j - 1] for i in (1, 11, 17, 6) for j in (2, 1, 17)) / 16
    found = float(metrics.weighted_kappa(confusion))
    assert found == pytest.approx((27 / 48 - expected) / (1 - expected))


def test_built_and_natural_sides_worked_by_hand() -> None:
    # Built: 3 as 3, 5 as 6, 8 as 16. Natural: A as B, G as 10, D without a prediction.
    confusion = confusion_of([3, 5, 8, 11, 17, 14], [3, 6, 16, 12, 10, 0])
    assert float(metrics.built_accuracy(confusion)) == pytest.approx(1 / 3)
    assert float(metrics.built_natural_accuracy(confusion)) == pytest.approx(3 / 6)
    assert float(metrics.coverage(confusion)) == pytest.approx(5 / 6)


def test_many_matrices_at_once_are_each_alone() -> None:
    rng = np.random.default_rng(0)
    confusion = rng.integers(0, 4, (5, 2, 17, 18)).astype(float)
    for metric in METRICS.values():
        together = metric(confusion)
        alone = [[float(metric(one)) for one in pair] for pair in confusion]
        np.testing.assert_allclose(together, alone)


def test_calibration_error_worked_by_hand() -> None:
    # Ten bins. (0.3, 0.4]: 0.35 and 0.4, one right: |0.5 - 0.375|. (0.9, 1]: 1.0, wrong: 1.
    found = calibration_error([0.35, 0.4, 1.0], [True, False, False], n_bins=10)
    assert found == pytest.approx(2 / 3 * 0.125 + 1 / 3)


def test_confidence_that_is_right_as_often_as_it_says_has_no_error_but_noise() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.random(200_000)
    assert calibration_error(confidence, rng.random(200_000) < confidence) < 0.01
    assert calibration_error(confidence, rng.random(200_000) < confidence**2) > 0.1


@pytest.mark.parametrize(
    ("confidence", "is_right", "message"),
    [
        ([], [], "at least one unit"),
        ([0.5], [True, False], "give one a unit"),
        ([1.5], [True], "confidence 1.5 is no probability"),
        ([np.nan], [True], "confidence nan is no probability"),
    ],
)
def test_confidence_that_does_not_fit_is_refused(
    confidence: list[float], is_right: list[bool], message: str
) -> None:
    with pytest.raises(LabelError, match=message):
        calibration_error(confidence, is_right)
