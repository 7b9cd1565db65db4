from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from lczcube.confidence import Applicability
from lczcube.errors import ModelError
from lczcube.synth.embedding import Difficulty, EmbeddingModel, embedding_model

Float32 = npt.NDArray[np.float32]


def table(n: int = 60, n_features: int = 4, seed: int = 0) -> Float32:
    rng = np.random.default_rng(seed)
    spread = np.array([1, 10, 0.1, 3])[:n_features]
    values: Float32 = (5 + rng.normal(size=(n, n_features)) * spread).astype(np.float32)
    return values


def quantile7(values: list[float], share: float) -> float:
    """R's default, ``quantile(type = 7)``."""
    ordered, at = sorted(values), (len(values) - 1) * share
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def published(
    train: Float32, folds: list[int], weights: list[float], new: Float32
) -> tuple[float, float, list[float]]:
    """Mean distance, threshold and dissimilarity as in CAST, point by point."""
    mean, std = train.astype(float).mean(axis=0), train.astype(float).std(axis=0, ddof=1)
    points, asked = ((x.astype(float) - mean) / std * weights for x in (train, new))
    n = len(points)
    away = [[float(np.sqrt(((a - b) ** 2).sum())) for b in points] for a in points]
    mean_distance = float(
        np.mean([np.mean([away[i][j] for j in range(n) if j != i]) for i in range(n)])
    )
    of_train = [
        min(away[i][j] for j in range(n) if folds[j] != folds[i]) / mean_distance for i in range(n)
    ]
    lower, upper = quantile7(of_train, 0.25), quantile7(of_train, 0.75)
    threshold = min(upper + 1.5 * (upper - lower), max(of_train))
    nearest = [min(float(np.sqrt(((a - b) ** 2).sum())) for b in points) for a in asked]
    return mean_distance, threshold, [value / mean_distance for value in nearest]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("weights", [[1, 1, 1, 1], [0.5, 3, 0, 20]])
def test_the_index_and_the_threshold_are_those_of_the_paper(
    seed: int, weights: list[float]
) -> None:
    train, new = table(seed=seed), table(25, seed=100 + seed) * np.float32(1.2)
    folds = (np.arange(60) // 7 % 4).tolist()
    area = Applicability.fit(train, folds, weights)
    mean_distance, threshold, index = published(train, folds, weights, new)
    assert area.mean_distance == pytest.approx(mean_distance, rel=1e-9)
    assert area.threshold == pytest.approx(threshold, rel=1e-9)
    np.testing.assert_allclose(area.dissimilarity(new), index, rtol=1e-6)


def test_the_index_worked_by_hand() -> None:
    # Standard deviation 1; distances 1, 1 and 2, mean 4/3; to other folds 1, 1, 1.
    area = Applicability.fit(np.array([[0], [1], [2]], np.float32), [0, 1, 2])
    assert area.mean_distance == pytest.approx(4 / 3)
    assert area.threshold == pytest.approx(0.75)
    new = np.array([[1], [1.5], [5]], np.float32)
    assert area.dissimilarity(new).tolist() == pytest.approx([0, 0.375, 2.25])
    assert area.inside(area.dissimilarity(new)).tolist() == [True, True, False]


def test_the_unit_of_a_feature_and_the_scale_of_all_weights_do_not_matter() -> None:
    train, new, folds = table(), table(20, seed=5), np.arange(60) % 3
    scale = np.array([1000, 0.001, 1, 7], np.float32)
    one = Applicability.fit(train, folds, [1, 2, 3, 4])
    other = Applicability.fit(train * scale + 3, folds, [10, 20, 30, 40])
    assert other.threshold == pytest.approx(one.threshold, rel=1e-4)
    np.testing.assert_allclose(
        other.dissimilarity(new * scale + 3), one.dissimilarity(new), rtol=2e-3
    )


def test_a_sample_of_training_has_the_index_0() -> None:
    train = table()
    area = Applicability.fit(train, np.arange(60) % 3)
    assert area.dissimilarity(train).max() == 0


def test_unknown_features_count_as_the_mean_and_infinite_ones_as_far() -> None:
    train = table()
    train[3, 1] = train[7, 2] = np.nan
    area = Applicability.fit(train, np.arange(60) % 3)
    mean = np.nanmean(train.astype(np.float64), axis=0)
    np.testing.assert_allclose(area.center, mean)
    row = table(1, seed=9)[0]
    filled = row.copy()
    filled[1] = mean[1]
    holed, nothing, endless = row.copy(), row.copy(), row.copy()
    holed[1], nothing[:], endless[0] = np.nan, np.nan, np.inf
    found = area.dissimilarity(np.array([holed, filled, nothing, endless]))
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert np.isnan(found[2])
    assert np.isinf(found[3])
    assert area.inside(found).tolist()[2:] == [False, False]


def test_a_feature_that_does_not_vary_or_weighs_nothing_is_left_out() -> None:
    train, folds = table(), np.arange(60) % 3
    train[:, 2] = 0.1
    new = table(20, seed=5)
    area = Applicability.fit(train, folds, [1, 0, 1, 1])
    alone = Applicability.fit(train[:, [0, 3]], folds)
    assert area.weight.tolist() == [1, 0, 0, 1]
    assert area.threshold == pytest.approx(alone.threshold)
    np.testing.assert_allclose(area.dissimilarity(new), alone.dissimilarity(new[:, [0, 3]]))


def test_samples_that_only_trained_are_near_but_set_no_threshold() -> None:
    train = np.array([[0], [1], [2], [50], [51]], np.float32)
    area = Applicability.fit(train, [0, 1, 0, -1, -1])
    # 0, 1 and 2 lie 1 from another fold; 50 and 51 are not asked.
    assert area.threshold * area.mean_distance * train.std(ddof=1) == pytest.approx(1)
    assert area.dissimilarity(np.array([[50]], np.float32)).tolist() == [0]


def given_split() -> tuple[Float32, npt.NDArray[np.int64]]:
    """100 samples that train and 50 that are scored, alike; 50 of neither, far away."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 2)).astype(np.float32)
    features[150:] += 30
    return features, np.repeat([-1, 0, -2], [100, 50, 50])


@pytest.mark.parametrize("max_samples", [60, 5000])
@pytest.mark.parametrize("says_who_trains", [False, True])
def test_what_is_not_used_is_not_in_the_area(max_samples: int, says_who_trains: bool) -> None:
    features, folds = given_split()
    trained = folds == -1 if says_who_trains else None
    area = Applicability.fit(features, folds, trained=trained, max_samples=max_samples)
    new = np.random.default_rng(1).normal(size=(100, 2)).astype(np.float32)
    assert not area.inside(area.dissimilarity(new + np.float32(30))).any()
    assert area.inside(area.dissimilarity(new)).mean() > 0.9
    assert area.n_train == (100 if says_who_trains else 150)
    assert len(area.samples) == min(area.n_train, max_samples)


def test_what_was_only_scored_sets_the_threshold_and_is_not_compared_with() -> None:
    features = np.array([[0], [1], [2], [4], [9]], np.float32)
    area = Applicability.fit(features, [-1, -1, -1, 0, -2], trained=[True] * 3 + [False] * 2)
    # Of 0, 1 and 2: deviation 1, mean distance 4/3. The scored sample 4 lies 2 from them.
    assert area.samples.tolist() == [[0], [1], [2]]
    assert (area.center.tolist(), area.scale.tolist()) == ([1], [1])
    assert area.threshold == pytest.approx(2 / (4 / 3))
    assert area.dissimilarity(np.array([[4]], np.float32)).tolist() == [1.5]


def test_thinned_samples_are_the_same_in_any_order_and_of_every_fold() -> None:
    train, folds = table(600), np.arange(600) % 3
    area = Applicability.fit(train, folds, max_samples=90)
    order = np.random.default_rng(3).permutation(600)
    again = Applicability.fit(train[order], folds[order], max_samples=90)
    assert (len(area.samples), area.n_train) == (90, 600)
    assert sorted(area.samples.tolist()) == sorted(again.samples.tolist())
    assert again.threshold == pytest.approx(area.threshold)
    fold_of = {tuple(row): int(fold) for row, fold in zip(train.tolist(), folds, strict=True)}
    kept = np.bincount([fold_of[tuple(row)] for row in area.samples.tolist()])
    assert (np.abs(kept - 30) <= 1).all()
    # Evenly over their values too: nothing of a thinned table is far from the whole.
    assert np.abs((area.center - train.mean(axis=0)) / train.std(axis=0)).max() < 0.4


def test_pixels_are_looked_up_in_parts_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    area = Applicability.fit(table(), np.arange(60) % 3)
    new = table(101, seed=4)
    new[50] = np.nan
    at_once = area.dissimilarity(new)
    monkeypatch.setattr("lczcube.confidence.applicability._ROWS", 7)
    np.testing.assert_array_equal(area.dissimilarity(new), at_once)


def cells(model: EmbeddingModel, city: int, n: int, seed: int) -> tuple[Float32, Any]:
    """Latent vectors of the 17 classes as a city has them, and the block of each."""
    rng = np.random.default_rng([seed, city])
    lcz = rng.integers(0, 17, n)
    values = model.means[city, lcz] + rng.normal(size=(n, 24)) * model.variation
    return values.astype(np.float32), np.arange(n) // 10


def test_a_planted_foreign_city_is_flagged_and_the_home_one_is_not() -> None:
    world = embedding_model(Difficulty(), n_cities=1, seed=3)
    foreign = embedding_model(Difficulty(), n_cities=1, seed=4)
    train, block = cells(world, 0, 1500, seed=1)
    area = Applicability.fit(train, block % 5)
    at_home, _ = cells(world, 0, 1000, seed=2)
    abroad, _ = cells(foreign, 0, 1000, seed=2)
    assert area.inside(area.dissimilarity(at_home)).mean() > 0.9
    assert area.inside(area.dissimilarity(abroad)).mean() < 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"folds": [0] * 60}, "folds of the cross-validation"),
        ({"folds": [-1] * 60}, "0 folds held samples out"),
        ({"folds": [0, 1]}, r"folds of \(2,\)"),
        ({"folds": [-2] * 59 + [0]}, "1 folds held samples out, and 1 samples train"),
        ({"trained": [False] * 60}, "3 folds held samples out, and 0 samples train"),
        ({"trained": [True]}, r"trained of shape \(1,\)"),
        ({"trained": [1] * 60}, "one bool a sample"),
        ({"weights": [1, 2]}, "finite and not negative"),
        ({"weights": [1, 2, -1, 0]}, "finite and not negative"),
        ({"weights": [0, 0, 0, 0]}, "nothing to be like"),
        ({"features": np.full((60, 4), 3, np.float32)}, "nothing to be like"),
        ({"features": np.full((60, 4), np.inf, np.float32)}, "infinite"),
        ({"max_samples": 1}, "max_samples = 1"),
    ],
)
def test_what_gives_no_area_is_refused(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"features": table(), "folds": np.arange(60) % 3} | change
    with pytest.raises(ModelError, match=message):
        Applicability.fit(**arguments)


def test_features_of_another_number_are_refused() -> None:
    area = Applicability.fit(table(), np.arange(60) % 3)
    with pytest.raises(ModelError, match=r"\(n, 4\)"):
        area.dissimilarity(table(3, 2))
