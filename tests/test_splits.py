import time
import warnings

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from lczcube.errors import ConfigError, LabelError
from lczcube.labels import Roles, leakage_report, split_labels

UTM = "EPSG:32632"
METHODS = ("given", "block", "polygon", "city", "holdout", "random")


def samples(n_groups=40, per_group=5, *, seed=0, n_cities=2, side_m=20000.0):
    """Groups of samples near a random point, one class a group, with unique patch ids."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(n_groups), per_group)
    n = group.size
    centres = rng.uniform(0, side_m, (n_groups, 2))
    spread = rng.uniform(-200, 200, (n, 2))
    x, y = (centres[group] + spread).T
    return pd.DataFrame(
        {
            "lcz": (1 + rng.integers(0, 4, n_groups)[group]).astype(np.uint8),
            "group": [f"in/{g:03d}" for g in group],
            "patch_id": [f"in/{i:04d}" for i in range(n)],
            "city": [f"city{g % n_cities}" for g in group],
            "split": np.where(group % 3 == 0, "testing", "training"),
            "x": x,
            "y": y,
            "size_m": 320.0,
        }
    )


def squares_of(frame):
    half = frame["size_m"].to_numpy() / 2
    x, y = frame["x"].to_numpy(), frame["y"].to_numpy()
    shapes = shapely.box(x - half, y - half, x + half, y + half)
    return gpd.GeoDataFrame(frame.drop(columns=["x", "y", "size_m"]), geometry=shapes, crs=UTM)


def folds_per_group(frame, split):
    return pd.Series(split.folds).groupby(frame["group"].to_numpy()).nunique()


frames = st.builds(
    samples,
    st.integers(17, 40),  # of four classes one then has five rows, for five folds
    st.integers(1, 6),
    seed=st.integers(0, 10_000),
)


class TestPolygon:
    @settings(max_examples=25, deadline=None)
    @given(frames, st.integers(2, 5), st.integers(0, 99))
    def test_a_group_is_never_split_and_every_row_is_evaluated_once(self, frame, folds, seed):
        split = split_labels(frame, method="polygon", folds=folds, seed=seed)
        assert folds_per_group(frame, split).max() == 1
        assert set(split.folds) == set(range(folds))
        for fold in range(folds):
            train, test = split.train_test(fold)
            assert len(train) + len(test) == len(frame)
            groups = frame["group"].to_numpy()
            assert not set(groups[train]) & set(groups[test])

    def test_folds_hold_each_class_in_the_same_share_as_far_as_groups_allow(self):
        frame = samples(100, 3).assign(lcz=np.repeat([1, 1, 1, 2], 75).astype(np.uint8))
        split = split_labels(frame, method="polygon", folds=5)
        table = pd.crosstab(split.folds, frame["lcz"])
        assert table[1].tolist() == [45] * 5
        assert table[2].tolist() == [15] * 5
        assert split.warnings == ()

    def test_a_class_with_fewer_groups_than_folds_is_named(self):
        frame = samples(20, 2).assign(lcz=np.repeat([1, 2, 7], [30, 8, 2]).astype(np.uint8))
        split = split_labels(frame, method="polygon", folds=5)
        rare_two, rare_seven, untrained = split.warnings
        assert rare_two.startswith("LCZ 2 has 4 groups, fewer than 5 folds")
        assert rare_seven.startswith("LCZ 7 has 1 groups, fewer than 5 folds")
        assert "evaluates LCZ 7 without any training row" in untrained

    def test_fewer_groups_than_folds_are_refused(self):
        with pytest.raises(LabelError, match="3 groups \\(polygons\\), fewer than folds = 5"):
            split_labels(samples(3), method="polygon", folds=5)

    def test_classes_all_smaller_than_the_folds_are_refused(self):
        frame = samples(6, 1).assign(lcz=np.arange(1, 7, dtype=np.uint8))
        with pytest.raises(LabelError, match="every class has fewer rows than folds = 3"):
            split_labels(frame, method="polygon", folds=3)


class TestEveryMethod:
    @pytest.mark.parametrize("method", METHODS)
    @settings(max_examples=8, deadline=None)
    @given(frame=frames, seed=st.integers(0, 99))
    def test_the_order_of_the_rows_does_not_move_the_folds(self, method, frame, seed):
        shuffled = frame.sample(frac=1, random_state=seed)
        options = {"folds": 2, "seed": seed, "block_m": 2000.0, "buffer_m": 100.0}
        here = split_labels(frame, method=method, **options)
        there = split_labels(shuffled, method=method, **options)
        np.testing.assert_array_equal(here.folds[shuffled.index], there.folds)
        np.testing.assert_array_equal(here.excluded[:, shuffled.index], there.excluded)
        assert here.warnings == there.warnings

    @pytest.mark.parametrize("method", ["polygon", "block", "random"])
    def test_the_seed_decides(self, method):
        frame = samples()
        first = split_labels(frame, method=method, seed=1).folds
        np.testing.assert_array_equal(first, split_labels(frame, method=method, seed=1).folds)
        assert not np.array_equal(first, split_labels(frame, method=method, seed=2).folds)

    @pytest.mark.parametrize("method", METHODS)
    def test_the_frame_is_left_as_it_was(self, method):
        frame = samples()
        before = frame.copy()
        split_labels(frame, method=method)
        pd.testing.assert_frame_equal(frame, before)

    def test_the_name_says_method_folds_and_seed(self):
        frame = samples()
        assert split_labels(frame, method="polygon", seed=3).name == "polygon, 5 folds, seed 3"
        assert split_labels(frame, method="city").name == "city, 2 folds"
        assert split_labels(frame, method="given").name == "given"

    def test_a_fold_that_is_not_there_is_refused(self):
        with pytest.raises(LabelError, match="folds 0 to 4"):
            split_labels(samples(), method="polygon").train_test(5)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"method": "leave"}, "split = 'leave' is unknown; use given, block"),
            ({"method": "polygon", "folds": 1}, "folds = 1"),
            ({"method": "polygon", "seed": -1}, "seed = -1"),
            ({"method": "block", "block_m": 0}, "block_m = 0"),
            ({"method": "block", "buffer_m": -1}, "buffer_m = -1"),
        ],
    )
    def test_an_illegal_option_is_refused(self, options, message):
        with pytest.raises(ConfigError, match=message):
            split_labels(samples(), **options)

    def test_rows_that_cannot_be_split_are_refused(self):
        frame = samples()
        with pytest.raises(LabelError, match="no column city"):
            split_labels(frame.drop(columns="city"), method="city")
        with pytest.raises(LabelError, match="no rows"):
            split_labels(frame[:0], method="polygon")
        with pytest.raises(LabelError, match="LCZ code 0"):
            split_labels(frame.assign(lcz=0), method="polygon")
        with pytest.raises(LabelError, match="200 rows have no group"):
            split_labels(frame.assign(group=""), method="polygon")


class TestBlock:
    @settings(max_examples=15, deadline=None)
    @given(frames, st.sampled_from([0.0, 100.0, 320.0]), st.integers(0, 99))
    def test_no_training_square_lies_within_the_buffer_of_an_evaluation_square(
        self, frame, buffer_m, seed
    ):
        squares = squares_of(frame.assign(city=""))
        split = split_labels(squares, method="block", folds=2, seed=seed, buffer_m=buffer_m)
        assert folds_per_group(frame, split).max() == 1
        shapes = squares.geometry.to_numpy()
        for fold in range(split.n_folds):
            train, test = split.train_test(fold)
            distance = shapely.distance(shapes[train][:, None], shapes[test])
            assert distance.min() > buffer_m
            others = np.setdiff1d(np.arange(len(frame)), np.concatenate([train, test]))
            if others.size:
                near = shapely.distance(shapes[others][:, None], shapes[test]).min(axis=1)
                assert near.max() <= buffer_m

    def test_a_block_split_with_a_buffer_does_not_touch(self):
        frame = squares_of(samples(60, 5))
        split = split_labels(frame, method="block", folds=4)
        for fold in range(4):
            train, test = split.train_test(fold)
            report = leakage_report(frame.iloc[train], frame.iloc[test])
            assert report.share_touching == 0
            assert report.nearest_m > 320

    def test_rows_of_one_block_share_a_fold(self):
        x = np.array([100.0, 900, 1100, 1900, 2100, 2900, 3100, 3900])
        frame = pd.DataFrame({"lcz": 1, "group": list("abcdefgh"), "x": x, "y": 500.0})
        split = split_labels(frame, method="block", folds=4, block_m=1000, buffer_m=0)
        first, second = split.folds[::2], split.folds[1::2]
        np.testing.assert_array_equal(first, second)
        assert set(split.folds) == {0, 1, 2, 3}

    def test_x_and_y_are_compared_within_a_city_only(self):
        frame = pd.DataFrame(
            {"lcz": 1, "group": list("abcd"), "city": list("mnmn"), "x": [5.0] * 2 + [9000.0] * 2}
        ).assign(y=5.0, size_m=320.0)
        split = split_labels(frame, method="block", folds=4, block_m=1000, buffer_m=320)
        assert not split.excluded.any()

    def test_fewer_blocks_than_folds_are_refused(self):
        with pytest.raises(LabelError, match="1 blocks of 90000 m, fewer than folds = 5"):
            split_labels(samples(n_cities=1), method="block", block_m=90000)

    def test_a_buffer_that_leaves_no_training_row_is_refused(self):
        with pytest.raises(LabelError, match="keeps no training row farther than buffer_m = 90000"):
            split_labels(samples(n_cities=1), method="block", buffer_m=90000)

    def test_degrees_are_refused(self):
        with pytest.raises(LabelError, match="not in a projected CRS"):
            split_labels(squares_of(samples()).to_crs("EPSG:4326"), method="block")

    def test_twenty_thousand_overlapping_patches_take_seconds(self):
        frame = samples(20_000, 1, side_m=17_000.0, n_cities=1)
        start = time.perf_counter()
        split_labels(frame, method="block", folds=5)
        assert time.perf_counter() - start < 20


class TestCity:
    def test_each_city_is_left_out_once(self):
        frame = samples(n_cities=3)
        split = split_labels(frame, method="city")
        assert split.names == ("city0", "city1", "city2")
        _, test = split.train_test(1)
        assert set(frame["city"].to_numpy()[test]) == {"city1"}
        assert len(test) == (frame["city"] == "city1").sum()

    def test_a_class_of_one_city_only_is_named(self):
        frame = samples()
        frame.loc[frame["city"] == "city1", "lcz"] = 9
        warned = split_labels(frame, method="city").warnings
        assert any("fold city1 evaluates LCZ 9 without any training row" in w for w in warned)

    def test_one_city_and_rows_without_a_city_are_refused(self):
        with pytest.raises(LabelError, match="labels lie in city0 only"):
            split_labels(samples(n_cities=1), method="city")
        frame = samples()
        frame.loc[0, "city"] = ""
        with pytest.raises(LabelError, match="1 rows have no city"):
            split_labels(frame, method="city")

    def test_a_group_in_two_cities_is_refused(self):
        frame = samples()
        frame.loc[0, "city"] = "city1"
        with pytest.raises(LabelError, match="such as 'in/000', lie in several cities"):
            split_labels(frame, method="city")


class TestGiven:
    def test_validation_and_testing_are_evaluated_by_a_model_of_training(self):
        frame = samples(4, 1).assign(split=["training", "validation", "testing", "training"])
        split = split_labels(frame, method="given")
        assert split.folds.tolist() == [-1, 0, 0, -1]
        train, test = split.train_test(0)
        assert (train.tolist(), test.tolist()) == ([0, 3], [1, 2])

    def test_rows_of_another_split_are_not_used_and_counted(self):
        frame = samples(4, 1).assign(split=["training", "testing", "", "extra"])
        split = split_labels(frame, method="given")
        train, test = split.train_test(0)
        assert (train.tolist(), test.tolist()) == ([0], [1])
        assert "given split leaves out no split (1 rows), extra (1 rows)." in split.warnings

    def test_a_group_on_both_sides_is_named_as_a_leak(self):
        frame = samples(2, 2).assign(split=["training", "testing", "training", "training"])
        assert "given split leaks: 1 groups" in split_labels(frame, method="given").warnings[0]

    def test_labels_without_training_rows_are_refused_with_the_splits_they_have(self):
        frame = samples(3, 1).assign(split=["validation", "testing", "testing"])
        message = r"trained on; rows have testing \(2 rows\), validation \(1 rows\)"
        with pytest.raises(LabelError, match=message):
            split_labels(frame, method="given")


class TestRandom:
    def test_the_leak_is_named_with_the_groups_it_splits(self):
        frame = samples(10, 20)
        split = split_labels(frame, method="random")
        n_split = (folds_per_group(frame, split) > 1).sum()
        assert f"random split leaks: {n_split} of 10 groups" in split.warnings[0]
        assert n_split == 10

    def test_a_rare_class_is_an_entry_and_no_python_warning(self):
        frame = samples(10, 20)
        frame.loc[0, "lcz"] = 17
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            split = split_labels(frame, method="random")
        assert any(w.startswith("LCZ 17 has 1 rows") for w in split.warnings)


class TestRoles:
    def frame(self):
        return samples(12, 2).assign(
            city=np.repeat(["nairobi", "paris"], 12),
            split=np.tile(["validation", "testing"] * 3 + ["training"] * 6, 2),
        )

    def test_a_city_names_the_splits_it_trains_on_and_is_scored_on(self):
        frame = self.frame()
        roles = {"nairobi": Roles(donors=("validation",), evaluate_on=("testing",))}
        split = split_labels(frame, method="given", roles=roles)
        train, test = split.train_test(0)
        used = frame.assign(role="").reset_index(drop=True)
        used.loc[train, "role"], used.loc[test, "role"] = "trained", "scored"
        found = used.groupby(["city", "split"])["role"].unique().map(list).to_dict()
        assert found == {
            ("nairobi", "validation"): ["trained"],
            ("nairobi", "testing"): ["scored"],
            ("nairobi", "training"): [""],
            ("paris", "training"): ["trained"],
            ("paris", "validation"): ["scored"],
            ("paris", "testing"): ["scored"],
        }
        assert "given split leaves out training (6 rows)." in split.warnings

    def test_a_split_with_two_roles_is_refused(self):
        roles = {"paris": Roles(donors=("testing",))}
        with pytest.raises(ConfigError, match="'paris' has split 'testing' among its donors"):
            split_labels(self.frame(), method="given", roles=roles)


class TestHoldout:
    @settings(max_examples=25, deadline=None)
    @given(frames, st.integers(0, 99), st.sampled_from([0.2, 0.3, 0.5]))
    def test_whole_groups_of_every_class_are_held_out_in_its_share(self, frame, seed, share):
        split = split_labels(frame, method="holdout", seed=seed, test_share=share)
        assert folds_per_group(frame, split).max() == 1
        assert set(split.folds) <= {-1, 0}
        held = frame.assign(held=split.folds == 0).groupby(["lcz", "group"])["held"].first()
        for _, of_class in held.groupby("lcz"):
            n = len(of_class)
            assert of_class.sum() == min(max(1, round(share * n)), n - 1)

    def test_another_seed_holds_out_others_and_the_order_of_rows_changes_nothing(self):
        frame = samples(40, 3)
        first, second = (split_labels(frame, method="holdout", seed=s).folds for s in (0, 1))
        assert (first != second).any()
        order = np.random.default_rng(0).permutation(len(frame))
        shuffled = split_labels(frame.iloc[order], method="holdout", seed=0)
        np.testing.assert_array_equal(shuffled.folds, first[order])

    def test_a_class_of_one_group_is_trained_on_and_said(self):
        frame = samples(5, 2).assign(lcz=np.repeat([1, 1, 1, 1, 9], 2).astype(np.uint8))
        split = split_labels(frame, method="holdout")
        assert (split.folds[frame["lcz"] == 9] == -1).all()
        assert "LCZ 9 has one group, which is trained on: it is never evaluated." in split.warnings

    def test_classes_of_one_group_each_cannot_be_held_out(self):
        frame = samples(3, 2).assign(lcz=np.repeat([1, 2, 3], 2).astype(np.uint8))
        with pytest.raises(LabelError, match="every class has one group"):
            split_labels(frame, method="holdout")

    @pytest.mark.parametrize("share", [0, 1, -0.5])
    def test_a_share_that_is_none_is_refused(self, share):
        with pytest.raises(ConfigError, match=f"test_share = {share}"):
            split_labels(samples(), method="holdout", test_share=share)
