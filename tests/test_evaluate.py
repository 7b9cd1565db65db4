import dataclasses
import json

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, f1_score

from lczcube.errors import ConfigError, LabelError
from lczcube.evaluate import ClassScore, compare, comparisons_table, score, scores_table
from lczcube.labels import LeakageReport
from lczcube.metrics import METRICS

SPLIT = "polygon, 5 folds, seed 0"
APART = LeakageReport(share_touching=0.0, shared_area_m2=0.0, nearest_m=500.0, n_test=1)


def random_labels(n=400, n_groups=20, *, seed=0, right=0.6):
    """Reference, predictions right for a share of the units, and group names."""
    rng = np.random.default_rng(seed)
    true = rng.integers(1, 6, n)
    guess = rng.integers(1, 18, n)
    groups = np.array([f"g{i}" for i in rng.integers(0, n_groups, n)])
    return true, np.where(rng.random(n) < right, true, guess), groups


def scored(true, predicted, **options):
    defaults = {"unit": "pixel", "split": SPLIT, "leakage": APART, "n_boot": 0}
    return score(true, predicted, **(defaults | options))


class TestScore:
    def test_a_confusion_matrix_worked_by_hand(self):
        # Reference 1: 3 as 1, 1 as 2. Reference 2: 2 as 2, 1 as 17. Reference 17: 3 as 17.
        true = [1, 1, 1, 1, 2, 2, 2, 17, 17, 17]
        predicted = [1, 1, 1, 2, 2, 2, 17, 17, 17, 17]
        scores = scored(true, predicted)
        assert scores.oa == pytest.approx(8 / 10)
        # F1: 6/7, 4/6, 6/7. Chance agreement (4*3 + 3*3 + 3*4) / 100 = 0.33.
        assert scores.macro_f1 == pytest.approx((6 / 7 + 4 / 6 + 6 / 7) / 3)
        assert scores.kappa == pytest.approx((0.8 - 0.33) / (1 - 0.33))
        expected = np.zeros((17, 17), int)
        expected[[0, 0, 1, 1, 16], [0, 1, 1, 16, 16]] = [3, 1, 2, 1, 3]
        np.testing.assert_array_equal(scores.confusion, expected)
        assert scores.per_class[1] == ClassScore(1.0, 0.75, pytest.approx(6 / 7), 0.75, 4)
        assert scores.per_class[2].precision == pytest.approx(2 / 3)
        assert scores.per_class[17].recall == 1.0
        assert list(scores.per_class) == [1, 2, 17]

    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_random_labels_agree_with_sklearn(self, seed):
        true, predicted, _ = random_labels(seed=seed)
        scores = scored(true, predicted)
        assert scores.oa == pytest.approx((true == predicted).mean())
        assert scores.kappa == pytest.approx(cohen_kappa_score(true, predicted))
        f1 = f1_score(true, predicted, labels=np.unique(true), average="macro")
        assert scores.macro_f1 == pytest.approx(f1)

    def test_macro_f1_is_over_the_classes_of_the_reference(self):
        # Class 5 is predicted and has no reference: it lowers the others, and is no term.
        scores = scored([1, 1, 2, 2], [1, 5, 2, 2])
        assert scores.macro_f1 == pytest.approx((2 / 3 + 1) / 2)
        assert scores.per_class[5] == ClassScore(0.0, None, 0.0, 0.0, 0)

    def test_a_class_that_is_never_predicted_has_no_precision(self):
        assert scored([1, 2], [1, 1]).per_class[2] == ClassScore(None, 0.0, 0.0, 0.0, 1)

    def test_no_prediction_is_wrong_and_lowers_the_coverage(self):
        scores = scored([1, 1, 2, 2], [1, 0, 2, 0])
        assert (scores.oa, scores.coverage) == (0.5, 0.5)
        # Kappa 0.5 - chance (2*1 + 2*1)/16 = 0.25; F1 of each class 2/3.
        assert scores.kappa == pytest.approx((0.5 - 0.25) / 0.75)
        assert scores.macro_f1 == pytest.approx(2 / 3)
        assert scores.confusion.sum() == 2
        assert 0 not in scores.per_class

    def test_kappa_of_one_class_is_not_defined(self):
        scores = scored([6, 6, 6], [6, 6, 6], n_boot=50)
        assert scores.kappa is None
        assert scores.intervals["kappa"] is None
        assert scores.intervals["oa"] == (1.0, 1.0)

    def test_kappa_of_one_reference_class_and_two_predicted_is_zero(self):
        assert scored([6, 6, 6], [6, 6, 5]).kappa == 0.0

    @pytest.mark.parametrize(
        ("true", "predicted", "message"),
        [
            ([1, 2], [1], r"reference of shape \(2,\), predictions of shape \(1,\)"),
            ([], [], "nothing to score"),
            ([1, 0], [1, 1], "holds code 0 in 1 units"),
            ([1, 18], [1, 1], "reference labels hold LCZ code 18"),
            ([1, 1], [1, 255], "predictions hold LCZ code 255"),
        ],
    )
    def test_codes_and_shapes_that_do_not_fit_are_refused(self, true, predicted, message):
        with pytest.raises(LabelError, match=message):
            scored(true, predicted)

    def test_groups_of_another_length_are_refused(self):
        with pytest.raises(LabelError, match=r"groups of shape \(1,\) for 2 units"):
            scored([1, 2], [1, 2], groups=["a"])

    def test_a_score_without_unit_split_or_leakage_is_refused(self):
        with pytest.raises(ConfigError, match="unit = 'tile'"):
            scored([1], [1], unit="tile")
        with pytest.raises(ConfigError, match="split is empty"):
            scored([1], [1], split=" ")
        with pytest.raises(ConfigError, match="leakage = None is no LeakageReport"):
            scored([1], [1], leakage=None)

    def test_no_score_can_be_made_without_them_by_hand_either(self):
        made = scored([1, 2], [1, 2])
        for fault in ({"leakage": None}, {"unit": ""}, {"split": ""}):
            with pytest.raises(ConfigError):
                dataclasses.replace(made, **fault)

    def test_calibration_is_of_the_units_with_a_prediction(self):
        scores = scored([1, 1, 2, 2], [1, 2, 2, 0], confidence=[0.9, 0.9, 0.5, 0.0])
        # (0.9, 0.9): half right; (0.5): right. Weighted by 2 and 1 of 3.
        assert scores.calibration_error == pytest.approx((2 * 0.4 + 0.5) / 3)
        assert scored([1], [1]).calibration_error is None
        with pytest.raises(LabelError, match=r"confidence of shape \(1, 1\)"):
            scored([1, 2], [1, 2], confidence=[0.5])


class TestIntervals:
    def test_the_bootstrap_is_that_of_drawing_the_rows_of_whole_groups(self):
        true, predicted, groups = random_labels(200, 12)
        names = np.unique(groups)
        rng = np.random.default_rng(7)
        drawn = []
        for _ in range(60):
            picks = names[rng.integers(names.size, size=names.size)]
            rows = np.concatenate([np.flatnonzero(groups == name) for name in picks])
            t, p = true[rows], predicted[rows]
            f1 = f1_score(t, p, labels=np.unique(t), average="macro")
            drawn.append([(t == p).mean(), f1, cohen_kappa_score(t, p)])
        expected = np.percentile(drawn, [2.5, 97.5], axis=0)
        scores = scored(true, predicted, groups=groups, n_boot=60, seed=7)
        found = [scores.intervals[name] for name in ("oa", "macro_f1", "kappa")]
        np.testing.assert_allclose(np.transpose(found), expected)
        assert scores.n_groups == 12

    def test_groups_that_agree_within_widen_the_interval(self):
        true = np.ones(1000, int)
        predicted = np.repeat([1, 2, 1, 1, 2, 1, 1, 1, 2, 1], 100)
        by_group = scored(true, predicted, groups=np.repeat(np.arange(10), 100), n_boot=500)
        by_unit = scored(true, predicted, n_boot=500)
        width = {
            s.n_groups: s.intervals["oa"][1] - s.intervals["oa"][0] for s in (by_group, by_unit)
        }
        assert width[10] > 5 * width[1000]

    @pytest.mark.parametrize("n_groups", [30, 80])
    def test_intervals_hold_the_truth_as_often_as_they_say(self, n_groups):
        """Polygons that a map gets right by shares of their own, 0.7 on average."""
        rng = np.random.default_rng(0)
        held = []
        for seed in range(300):
            share = np.repeat(rng.beta(2.1, 0.9, n_groups), 20)
            predicted = np.where(rng.random(share.size) < share, 1, 2)
            groups = np.repeat(np.arange(n_groups), 20)
            scores = scored(
                np.ones(share.size, int), predicted, groups=groups, n_boot=200, seed=seed
            )
            low, high = scores.intervals["oa"]
            held.append(low <= 0.7 <= high)
        # 95 % of 300 is 285 +- 4; percentile intervals of few groups are a little short.
        assert 0.91 <= np.mean(held) <= 0.985

    def test_one_group_gives_no_interval(self):
        scores = scored([1, 2, 2], [1, 2, 1], groups=["a"] * 3, n_boot=100)
        assert scores.intervals == dict.fromkeys(METRICS)

    @pytest.mark.parametrize("with_groups", [True, False])
    def test_the_order_of_the_units_changes_nothing(self, with_groups):
        true, predicted, groups = random_labels()
        order = np.random.default_rng(1).permutation(true.size)
        here, there = (
            scored(
                true[rows], predicted[rows], groups=groups[rows] if with_groups else None, n_boot=50
            )
            for rows in (np.arange(true.size), order)
        )
        assert here.to_dict() == there.to_dict()


class TestRepeats:
    def test_scores_are_means_over_the_repeats_and_each_is_kept(self):
        true, first, groups = random_labels(seed=0)
        second = np.where(np.arange(true.size) % 2, true, first)
        both = scored(true, np.stack([first, second]), groups=groups)
        one, two = scored(true, first), scored(true, second)
        assert both.oa == pytest.approx((one.oa + two.oa) / 2)
        assert both.kappa == pytest.approx((one.kappa + two.kappa) / 2)
        assert both.macro_f1 == pytest.approx((one.macro_f1 + two.macro_f1) / 2)
        assert [r["oa"] for r in both.repeats] == [one.oa, two.oa]
        assert (both.n, both.n_repeats) == (400, 2)
        np.testing.assert_array_equal(both.confusion, one.confusion + two.confusion)
        f1 = (one.per_class[3].f1 + two.per_class[3].f1) / 2
        assert both.per_class[3].f1 == pytest.approx(f1)

    def test_repeating_one_run_is_as_sure_as_the_run(self):
        true, predicted, groups = random_labels()
        once = scored(true, predicted, groups=groups, n_boot=100)
        thrice = scored(true, np.stack([predicted] * 3), groups=groups, n_boot=100)
        for name, interval in once.intervals.items():
            assert thrice.intervals[name] == pytest.approx(interval)


class TestToDict:
    def test_scores_name_unit_split_and_leakage_in_sorted_json(self):
        leakage = LeakageReport(1 / 3, 1234.5678901, 12.0, 3)
        values = scored([1, 2, 2], [1, 2, 1], leakage=leakage).to_dict()
        text = json.dumps(values)
        assert text == json.dumps(values, sort_keys=True)
        assert json.loads(text)["unit"] == "pixel"
        assert json.loads(text)["split"] == SPLIT
        assert json.loads(text)["leakage"]["share_touching"] == 0.333333
        assert json.loads(text)["oa"] == 0.666667
        assert json.loads(text)["kappa"] == 0.4

    def test_two_runs_write_the_same_bytes(self):
        true, predicted, groups = random_labels()
        first, second = (
            json.dumps(scored(true, predicted, groups=groups, n_boot=100).to_dict())
            for _ in range(2)
        )
        assert first == second


class TestCompare:
    def test_a_clear_difference_is_resolved_and_stated(self):
        true, worse, groups = random_labels(2000, 82, right=0.5)
        better = np.where(np.arange(2000) % 3 == 0, true, worse)
        found = compare(true, better, worse, groups=groups, n_boot=200, names=("xgb", "forest"))
        difference = (better == true).mean() - (worse == true).mean()
        low, high = found.intervals["oa"]
        assert found.differences["oa"] == pytest.approx(difference)
        assert found.resolved
        assert found.statement == (
            f"xgb is above forest by {difference:.3f} OA "
            f"(95 % interval {low:.3f} to {high:.3f} over 82 polygons)."
        )
        reverse = compare(true, worse, better, groups=groups, n_boot=200)
        assert reverse.statement == found.statement.replace("xgb is above forest", "A is below B")

    def test_a_small_difference_is_stated_as_not_resolved(self):
        true, predicted, groups = random_labels(400, 8)
        other = predicted.copy()
        other[:3], other[3:5] = 17, true[3:5]
        found = compare(true, predicted, other, groups=groups, n_boot=200)
        assert not found.resolved
        assert found.statement.startswith("8 polygons cannot resolve a difference of ")

    def test_equal_predictions_differ_by_nothing_whatever_the_repeats(self):
        true, predicted, groups = random_labels()
        found = compare(true, np.stack([predicted] * 3), predicted, groups=groups, n_boot=100)
        assert found.to_dict()["differences"] == dict.fromkeys(sorted(METRICS), 0.0)
        assert not found.resolved

    def test_pairing_is_surer_than_two_separate_intervals(self):
        true, worse, groups = random_labels(2000, 30)
        better = np.where(np.arange(2000) % 10 == 0, true, worse)
        paired = compare(true, better, worse, groups=groups, n_boot=200).intervals["oa"]
        alone = scored(true, better, groups=groups, n_boot=200).intervals["oa"]
        assert paired[1] - paired[0] < alone[1] - alone[0]

    def test_one_group_cannot_resolve_a_difference(self):
        found = compare([1, 2], [1, 2], [1, 1], groups=["a", "a"], n_boot=10)
        assert found.statement == (
            "1 polygons cannot resolve a difference of 0.500 OA between A and B (no interval)."
        )


class TestComparisonsTable:
    def test_a_row_names_the_pair_its_seeds_and_the_signed_differences(self):
        other = compare(
            [1, 2, 2, 1], [1, 2, 1, 2], [[1, 2, 2, 1]] * 3, groups=None, n_boot=0, names=("a", "b")
        )
        header, rule, row = comparisons_table([other]).splitlines()
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        # a has one of two right in each class: OA, OA_u and F1 are 0.5, all on the built side;
        # 1 and 2 are 11/12 alike; kappa is 0. b has all right.
        differences = ["-0.500", "-0.500", "+0.000", "-0.042", "-0.500", "-1.000"]
        assert cells == ["a - b", "1", "4", "4", *differences]
        assert len(header) == len(rule) == len(row)

    def test_brackets_hold_the_interval_of_the_difference(self):
        true, worse, groups = random_labels(400, 20)
        found = compare(true, true, worse, groups=groups, n_boot=50)
        low, high = found.intervals["oa"]
        assert f"[{low:+.3f}, {high:+.3f}]" in comparisons_table([found])


class TestScoresTable:
    def test_the_table_names_unit_split_and_leak(self):
        leakage = LeakageReport(0.25, 10.0, 0.0, 4)
        scores = scored([1, 2, 2, 1], [1, 2, 1, 0], leakage=leakage)
        # Kappa: 0.5 - chance (2*2 + 2*1)/16 = 0.125, over 1 - 0.375.
        header, rule, row = scores_table([("forest", scores)]).splitlines()
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[:5] == ["forest", "pixel", SPLIT, "4", "4"]
        # OA_w: (1 + 1 + 11/12 + 0) / 4.
        assert cells[5:9] == ["0.500", "0.500", "0.750", "0.729"]
        assert cells[9:] == ["0.583", "0.200", "0.750", "25.0%"]
        assert len(header) == len(rule) == len(row)
