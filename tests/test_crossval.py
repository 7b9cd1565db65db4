"""Cross-validation on made-up samples: folds, hold-outs, cities, and what is not used."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr

from lczcube.crossval import Candidate, CrossValidation, cross_validate
from lczcube.errors import ConfigError
from lczcube.evaluate import compare_predictions, score
from lczcube.grid import Grid
from lczcube.labels import Roles
from lczcube.predictions import COLUMNS, predictions_of
from lczcube.protocols import PROTOCOLS, protocol_of, spread_table

N_GROUPS, PER_GROUP = 60, 4
GRIDS = {name: Grid("EPSG:32632", (0, 0, 100, 100)) for name in ("north", "south")}


def made_samples() -> xr.Dataset:
    """Groups of four samples, 1 km apart, of three classes, in two cities."""
    group = np.repeat(np.arange(N_GROUPS), PER_GROUP)
    n = group.size
    columns: dict[str, Any] = {
        "patch_id": [f"in/{i:04d}" for i in range(n)],
        "city": np.where(group % 2, "south", "north"),
        "group": [f"in/{g:03d}" for g in group],
        "lcz": (1 + group % 3).astype(np.uint8),
        "split": np.array(["training", "validation", "testing"])[group // 2 % 3],
        "weight": np.ones(n, np.float32),
        "x": 500.0 + 1000.0 * (group % 8) + 50 * (np.arange(n) % PER_GROUP),
        "y": 500.0 + 1000.0 * (group // 8),
        "size_m": np.full(n, 320.0),
        "valid_fraction": np.ones(n, np.float32),
    }
    data = {name: ("sample", np.asarray(values)) for name, values in columns.items()}
    return xr.Dataset(data, attrs={"unit": "patch"})


SAMPLES = made_samples()
Probabilities = npt.NDArray[np.float32]
Predict = Callable[[npt.NDArray[np.intp], npt.NDArray[np.intp], int], Probabilities]


def one_hot(lcz: npt.NDArray[Any]) -> Probabilities:
    return np.eye(17, dtype=np.float32)[lcz - 1]


def right_for(share: float) -> Predict:
    """Right for that share of the samples, the same ones whatever the fold."""

    def predict(
        train: npt.NDArray[np.intp], test: npt.NDArray[np.intp], seed: int
    ) -> Probabilities:
        assert not {*train} & {*test}
        lcz = SAMPLES["lcz"].values[test]
        lucky = np.random.default_rng(0).random(SAMPLES.sizes["sample"])[test] < share
        return np.float32(0.75) * one_hot(np.where(lucky, lcz, 17))

    return predict


def run(
    method: Any, seeds: Sequence[int], roles: dict[str, Roles] | None = None
) -> CrossValidation:
    candidates = [Candidate("good", right_for(0.9)), Candidate("bad", right_for(0.4), 1)]
    told: list[str] = []
    return cross_validate(
        SAMPLES,
        candidates,
        GRIDS,
        method=method,
        folds=5,
        seeds=seeds,
        progress=told.append,
        roles=roles,
    )


def lucky_share(share: float, rows: npt.NDArray[np.bool_] | slice = slice(None)) -> float:
    return float((np.random.default_rng(0).random(SAMPLES.sizes["sample"])[rows] < share).mean())


def test_folds_evaluate_every_sample_with_every_seed() -> None:
    result = run("polygon", range(3))
    assert result.scores["good"].oa == pytest.approx(lucky_share(0.9))
    assert (result.scores["good"].n, result.scores["good"].n_repeats) == (240, 3)
    assert result.scores["bad"].n_repeats == 1
    assert result.scores["good"].split == "polygon, 5 folds"
    assert [len(seeds) for seeds in result.per_seed.values()] == [3, 1]
    error = abs(lucky_share(0.9) - 0.75)
    assert result.scores["good"].calibration_error == pytest.approx(error)
    (comparison,) = result.comparisons
    assert comparison.repeats == (1, 1)
    assert comparison.differences["oa"] == pytest.approx(lucky_share(0.9) - lucky_share(0.4))


def test_each_city_is_scored_on_its_own_samples() -> None:
    result = run("city", [0])
    is_south = SAMPLES["city"].values == "south"
    assert set(result.per_city) == {"north", "south"}
    assert result.per_city["south"]["good"].oa == pytest.approx(lucky_share(0.9, is_south))
    assert result.per_city["north"]["good"].oa == pytest.approx(lucky_share(0.9, ~is_south))


def test_a_hold_out_counts_every_sample_as_often_as_it_was_held_out() -> None:
    result = run("holdout", range(25))
    good = result.scores["good"]
    # 6 of 20 groups of each of three classes, four samples each, 25 times.
    assert (good.n, good.n_repeats, good.n_groups) == (6 * 3 * 4 * 25, 1, 60)
    assert good.split == "holdout, 25 draws"
    draws = result.per_seed["good"]
    assert len(draws) == 25
    assert good.oa == pytest.approx(np.mean([draw["oa"] for draw in draws]))
    assert len({draw["oa"] for draw in draws}) > 5
    assert result.scores["bad"].split == "holdout, 1 draws"
    assert good.leakage.n_test == good.n
    assert result.comparisons[0].repeats == (1, 1)  # the other was drawn once


def test_what_is_not_used_says_how_near_it_lies() -> None:
    roles = dict.fromkeys(GRIDS, Roles(evaluate_on=("testing",)))
    result = run("given", [0], roles)
    is_testing = SAMPLES["split"].values == "testing"
    assert result.scores["good"].n == is_testing.sum()
    assert result.scores["good"].oa == pytest.approx(lucky_share(0.9, is_testing))
    (said,) = (text for text in result.warnings if "not used; were they" in text)
    assert said.startswith("80 samples are not used; were they trained on: 0.0% of 80 evaluation")


@pytest.mark.parametrize("method", ["polygon", "holdout"])
def test_predictions_hold_what_the_scores_and_comparisons_are_of(method: str) -> None:
    result = run(method, range(3))
    assert tuple(result.predictions) == COLUMNS
    good, bad = (predictions_of(result.predictions, name) for name in ("good", "bad"))
    scores = result.scores["good"]
    again = score(
        good["lcz_true"],
        good["lcz_predicted"],
        unit=scores.unit,
        split=scores.split,
        leakage=scores.leakage,
        groups=good["group"],
        confidence=good["confidence"],
        n_boot=0,
    )
    assert len(good) == scores.n * scores.n_repeats
    assert again.oa == pytest.approx(scores.oa)
    assert again.calibration_error == pytest.approx(scores.calibration_error)
    found = compare_predictions(good, bad, names=("good", "bad"))
    assert found.comparison.to_dict() == result.comparisons[0].to_dict()
    assert found.warnings == ()


def test_predictions_tell_apart_what_was_trained_on() -> None:
    table = predictions_of(run("polygon", range(2)).predictions, "good")
    assert table.groupby("seed")["trained_on"].nunique().tolist() == [5, 5]
    assert table["trained_on"].nunique() == 10
    again = predictions_of(run("polygon", [1]).predictions, "good")
    assert set(again["trained_on"]) == set(table.loc[table["seed"] == 1, "trained_on"])


def test_a_city_that_evaluates_nothing_has_no_scores_of_its_own() -> None:
    roles = {"north": Roles(evaluate_on=("none",))}
    assert list(run("given", [0], roles).per_city) == ["south"]


def test_the_spread_over_draws_is_a_table_and_one_draw_has_none() -> None:
    result = run("holdout", range(5))
    lines = spread_table(result.per_seed).splitlines()
    header, _, first = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines[:3])
    assert header == ["scored", "metric", "least", "25 %", "median", "75 %", "most", "draws"]
    oa = [draw["oa"] for draw in result.per_seed["good"]]
    assert first[:3] == ["good", "OA", f"{min(oa):.3f}"]
    assert first[-2:] == [f"{max(oa):.3f}", "5"]
    assert not any("bad" in line for line in lines)
    assert spread_table(run("polygon", [0]).per_seed) == ""


def test_a_protocol_is_found_by_name_and_an_unknown_one_lists_them() -> None:
    assert protocol_of("wudapt").n_seeds == 25
    with pytest.raises(ConfigError, match="protocol 'wrong' is unknown; known: wudapt, culture-10"):
        protocol_of("wrong")
    assert "LEAKS" in PROTOCOLS["random"].note
