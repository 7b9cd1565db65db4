from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lczcube.confidence import LabelSets, coverage_report, coverage_table, held_out_sets
from lczcube.confidence.labelsets import as_bits, class_scores, grouped_quantile, holds
from lczcube.errors import ModelError
from lczcube.probability import quantise
from tests.confidence_worlds import Blocks, draw_blocks

SCORES = ("aps", "raps", "lac")


def fitted(blocks: Blocks, **settings_: Any) -> LabelSets:
    return LabelSets.fit(blocks.probability, blocks.lcz, blocks.group, **settings_)


def group_coverage(sets: npt.NDArray[np.uint32], blocks: Blocks) -> float:
    right = holds(sets, blocks.lcz)
    return float(np.mean([right[blocks.group == one].mean() for one in np.unique(blocks.group)]))


def slow_scores(row: npt.NDArray[np.float32], score: str) -> list[float]:
    """As the papers have it, class by class; the winner's is 0."""
    found = []
    for own in row.tolist():
        above = [other for other in row.tolist() if other > own]
        value = 1 - own if score == "lac" else sum(above)
        if score == "raps":
            value += 0.05 * max(0, len(above) + 1 - 3)
        found.append(0.0 if own == row.max() else value)
    return found


# the promise


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("promise", [0.8, 0.9])
def test_sets_of_new_blocks_hold_the_class_as_promised(score: str, promise: float) -> None:
    held = []
    for seed in range(10):
        sets = fitted(draw_blocks(seed, 200), score=score, promise=promise)
        fresh = draw_blocks(1000 + seed, 200)
        held.append(group_coverage(sets.sets(fresh.probability), fresh))
    assert np.mean(held) == pytest.approx(promise, abs=0.02)


def test_a_quantile_of_samples_would_break_the_promise_where_large_blocks_are_easy() -> None:
    by_sample, by_group = [], []
    for seed in range(8):
        known, fresh = draw_blocks(seed, 200), draw_blocks(1000 + seed, 200)
        alone = Blocks(known.probability, known.lcz, np.arange(len(known.lcz)))
        by_sample.append(group_coverage(fitted(alone).sets(fresh.probability), fresh))
        by_group.append(group_coverage(fitted(known).sets(fresh.probability), fresh))
    assert np.mean(by_sample) < 0.87
    assert np.mean(by_group) == pytest.approx(0.9, abs=0.02)


def test_classwise_sets_keep_the_promise_for_a_hard_class() -> None:
    def hard(seed: int) -> Blocks:
        """Class 2 is taken for class 1 half of the time."""
        blocks = draw_blocks(seed, 400, codes=4, large_is_easy=False)
        probability = blocks.probability.copy()
        swap = (blocks.lcz == 2) & (blocks.group % 2 == 0)
        probability[swap, :2] = probability[swap, 1::-1]
        return Blocks(probability, blocks.lcz, blocks.group)

    marginal, classwise = [], []
    for seed in range(5):
        known, fresh = hard(seed), hard(1000 + seed)
        of_two = fresh.lcz == 2
        asked = Blocks(fresh.probability[of_two], fresh.lcz[of_two], fresh.group[of_two])
        for kept, flag in ((marginal, False), (classwise, True)):
            sets = fitted(known, classwise=flag)
            kept.append(group_coverage(sets.sets(asked.probability), asked))
    assert np.mean(marginal) < 0.87
    assert np.mean(classwise) == pytest.approx(0.9, abs=0.03)


def test_a_class_of_too_few_blocks_shares_the_limit_of_all() -> None:
    blocks = draw_blocks(3, 200, codes=4)
    rare = (blocks.lcz == 4) & (blocks.group > np.unique(blocks.group[blocks.lcz == 4])[8 - 1])
    kept = Blocks(blocks.probability[~rare], blocks.lcz[~rare], blocks.group[~rare])
    classwise, marginal = fitted(kept, classwise=True), fitted(kept)
    assert np.unique(kept.group[kept.lcz == 4]).size == 8
    assert classwise.own_limit == (1, 2, 3)
    assert classwise.limit[3] == marginal.limit[0]


# scores and sets


@given(st.integers(0, 10_000), st.sampled_from(SCORES))
@settings(max_examples=60, deadline=None)
def test_scores_are_those_of_the_papers(seed: int, score: Any) -> None:
    rows = draw_blocks(seed, 3, codes=6, most=4).probability[:, :]
    found = class_scores(rows, score)
    wanted = np.array([slow_scores(row, score) for row in rows])
    seen = rows > 0
    np.testing.assert_allclose(found[seen], wanted[seen], atol=2e-6)


@given(st.integers(0, 10_000), st.sampled_from(SCORES), st.booleans())
@settings(max_examples=40, deadline=None)
def test_no_set_is_empty_and_each_holds_the_class_of_the_map(
    seed: int, score: Any, classwise: bool
) -> None:
    sets = fitted(draw_blocks(seed, 30, codes=5), score=score, classwise=classwise)
    rows = draw_blocks(seed + 1, 30, codes=9).probability
    rows[0, :9] = 1 / 9
    rows[1] = np.nan
    found = sets.sets(rows)
    lcz, _, _ = quantise(rows)
    assert found.dtype == np.uint32
    assert found[1] == 0
    known = np.arange(len(rows)) != 1
    assert holds(found[known], lcz[known]).all()
    # Of classes that the model never predicts only a winner can be in a set.
    assert (np.bitwise_count(found >> np.uint32(5)) <= 9 - 5).all()


def test_a_higher_promise_gives_larger_sets() -> None:
    blocks = draw_blocks(4, 200)
    low, high = (fitted(blocks, promise=one).sets(blocks.probability) for one in (0.8, 0.95))
    assert (low & ~high == 0).all()
    assert np.bitwise_count(high).mean() > np.bitwise_count(low).mean()


def test_few_groups_promise_nothing_so_that_sets_hold_every_class_of_the_model() -> None:
    blocks = draw_blocks(5, 8, codes=4)
    sets = fitted(blocks)
    assert np.isinf(sets.limit).all()
    assert set(sets.sets(blocks.probability).tolist()) == {0b1111}


def test_bits_are_codes_less_one() -> None:
    member = np.zeros((2, 17), bool)
    member[0, [0, 16]] = member[1, 5] = True
    assert as_bits(member).tolist() == [(1 << 16) + 1, 1 << 5]
    assert holds(as_bits(member), [17, 6]).tolist() == [True, True]
    assert holds(as_bits(member), [16, 5]).tolist() == [False, False]


def test_the_quantile_of_groups_worked_by_hand() -> None:
    # Three groups weigh 1/4 each: 0.1 and 0.9 an eighth, 0.2 a quarter, 0.3 a quarter.
    scores, groups = np.array([0.1, 0.9, 0.2, 0.3]), np.array([0, 0, 1, 2])
    levels = [0.1, 0.125, 0.13, 0.375, 0.6, 0.7, 0.75, 0.76]
    found = [grouped_quantile(scores, groups, level) for level in levels]
    assert found == [0.1, 0.1, 0.2, 0.2, 0.3, 0.9, 0.9, np.inf]


def test_groups_of_one_sample_are_split_conformal_prediction() -> None:
    scores = np.random.default_rng(0).random(99)
    found = grouped_quantile(scores, np.arange(99), 0.9)
    assert found == np.sort(scores)[int(np.ceil(100 * 0.9)) - 1]


@pytest.mark.parametrize(
    ("settings_", "message"),
    [({"promise": 90}, "promise of 90"), ({"score": "thr"}, "aps, raps, lac")],
)
def test_settings_that_cannot_be_are_refused(settings_: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        fitted(draw_blocks(0, 20), **settings_)


# reports


def test_sets_of_a_city_are_made_by_the_others() -> None:
    blocks = draw_blocks(6, 90)
    city = blocks.group % 3
    found = held_out_sets(blocks.probability, blocks.lcz, blocks.group, held_out=city)
    for one in range(3):
        others = city != one
        sets = LabelSets.fit(blocks.probability[others], blocks.lcz[others], blocks.group[others])
        np.testing.assert_array_equal(
            found[~others], sets.sets(blocks.probability[~others]), err_msg=str(one)
        )


def test_a_report_worked_by_hand() -> None:
    sets = np.array([0b01, 0b11, 0b10, 0b10], np.uint32)
    lcz, group, city = [1, 2, 2, 1], [0, 1, 1, 2], ["a", "a", "a", "b"]
    report = coverage_report(sets, lcz, group, cities=city, promise=0.8)
    assert report["by"].tolist() == ["all", "city", "city", "class", "class"]
    assert report["coverage"].tolist() == [0.75, 1, 0, 0.5, 1]
    assert report["coverage_of_groups"].tolist() == pytest.approx([2 / 3, 1, 0, 0.5, 1])
    assert report["gap"].tolist() == pytest.approx([2 / 3 - 0.8, 0.2, -0.8, -0.3, 0.2])
    assert report["mean_size"].tolist() == pytest.approx([1.25, 4 / 3, 1, 1, 1.5])
    assert report["single"].tolist() == pytest.approx([0.75, 2 / 3, 1, 1, 0.5])
    assert np.isnan(report["low"][2])
    assert "| city b  | 1 | 1      | 0.000 " in coverage_table(report)


def test_a_city_unlike_the_others_shows_in_the_gap() -> None:
    blocks = draw_blocks(7, 300, large_is_easy=False)
    city = blocks.group % 3
    shifted = blocks.probability.copy()
    shifted[city == 2, :8] = np.roll(shifted[city == 2, :8], 1, axis=1)
    sets = held_out_sets(shifted, blocks.lcz, blocks.group, held_out=city)
    report = coverage_report(sets, blocks.lcz, blocks.group, cities=city)
    gap = report[report["by"] == "city"].set_index("name")["gap"]
    assert gap["2"] < -0.4
    assert gap["0"] > -0.05


def test_a_report_of_other_lengths_is_refused() -> None:
    with pytest.raises(ModelError, match="for 2 samples"):
        coverage_report(np.zeros(2, np.uint32), [1, 2, 3], [0, 1])
