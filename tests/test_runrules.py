"""Labels by rule in a run: which cells join the samples, what trains on them, what never does."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import rasterio
import shapely
import xarray as xr

from lczcube.cli import main
from lczcube.config import read_config
from lczcube.crossval import Candidate, cross_validate
from lczcube.errors import ConfigError, LabelError
from lczcube.grid import Grid
from lczcube.labels import RULES, split_labels
from lczcube.labels.origins import groups_near, is_by_rule
from lczcube.labels.rule_samples import keep_alike, keep_beside
from lczcube.labels.rules import COUNTS
from lczcube.labels.samples import sample_frame
from lczcube.pipeline import run_stages, stage_state
from lczcube.runfolder import Run, open_run
from lczcube.runrules import label_city_by_rules
from lczcube.stages import TO_PROPAGATE
from lczcube.synth import World, write_world
from lczcube.trainingdata import CityData, training_area
from tests.conftest import PROJECT

CITY = "synthetic_north"
CELL = 160.0
GUIDE = (PROJECT / "docs" / "guide" / "labels.md").read_text(encoding="utf-8")
RULES_TABLE = "\n" + GUIDE.split("### Rules in a run")[1].split("```toml\n")[1].split("```")[0]
"""The table that the guide shows."""


def city_file(world: World, name: str = "rules", rules: str = RULES_TABLE, **changes: str) -> Path:
    """The world's own city file, small, on cells that are small beside its lakes."""
    text = world.config.read_text()
    for old, new in {
        "cell_m = 320": f"cell_m = {CELL:g}",
        'dates = ["2021-01-01"]': 'dates = ["2016-01-01", "2021-01-01"]',
        'models = ["xgb", "unet"]': 'models = ["xgb"]\nbaselines = []',
        "folds = 5": "folds = 3\npseudo_weight = 0.5",
        **changes,
    }.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path = world.path / f"{name}.toml"
    path.write_text(f"{text}\n[xgb]\nrounds = 3\nmax_depth = 2\n{rules}")
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("rules") / "world"
    return write_world(folder, cities=1, km=2.0, seed=7, layers=("alphaearth", "osm"))


@pytest.fixture(scope="module")
def done(world: World, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = open_run(tmp_path_factory.mktemp("runs") / "run", city_file(world))
    run_stages(run)
    return run


# A run


def test_cells_that_a_rule_labels_are_samples_beside_the_labels(done: Run, world: World) -> None:
    samples = done.samples()[CITY]
    by_rule = is_by_rule(samples)
    rules = done.rule_labels(CITY)
    assert rules is not None
    assert sorted(samples["patch_id"].values[by_rule]) == sorted(rules["patch_id"])
    assert set(samples["origin"].values) == {"label", "rule"}
    assert (samples["origin"].values[~by_rule] == "label").all()
    assert set(samples["lcz"].values[by_rule]) == {11, 17}
    assert set(samples["size_m"].values[by_rule]) == {CELL}
    # What the true map has under them.
    with rasterio.open(world.cities[0].truth) as file:
        truth, (a, _, left, _, e, top) = file.read(1), file.transform[:6]
    for x0, y0, lcz in zip(rules["x0"], rules["y0"], rules["lcz"], strict=True):
        row, column = round((y0 - top) / e), round((x0 - left) / a)
        assert (truth[row : row + 16, column : column + 16] == lcz).mean() > 0.95


def test_counts_say_per_class_what_was_dropped_and_why(done: Run) -> None:
    samples, rules = done.samples()[CITY], done.rule_labels(CITY)
    assert rules is not None
    counts = rules.attrs[COUNTS]["rules"]
    for of in counts.values():
        reasons = ("contradicted", "claimed_twice", "contradict_a_label", "near_evaluation")
        dropped = sum(of[reason] for reason in (*reasons, "no_pixels", "far"))
        assert of["covered"] - dropped == of["kept"] == (rules["lcz"] == of["lcz"]).sum()
    assert counts["water"]["kept"] >= 8
    assert counts["dense_trees"]["contradict_a_label"] > 0
    assert samples.attrs[COUNTS] == rules.attrs[COUNTS]
    summary = json.loads((done.folder / "run.json").read_text())["stages"]["aggregate"]["summary"]
    assert f"{len(rules)} samples by rule in {CITY} (water {counts['water']['kept']}," in summary


def test_no_cell_by_rule_touches_a_label_of_another_class(done: Run) -> None:
    labels, rules = done.labels(CITY), done.rule_labels(CITY)
    for cell, lcz in zip(rules.geometry, rules["lcz"], strict=True):  # type: ignore[union-attr]
        assert set(labels["lcz"][labels.intersects(cell)]) <= {lcz}


def test_a_cell_that_looks_unlike_its_class_is_no_sample(done: Run) -> None:
    samples, rules = done.samples()[CITY], done.rule_labels(CITY)
    assert rules is not None
    planted = rules["patch_id"][rules["lcz"] == 17].iloc[0]
    shifted = samples.copy(deep=True)
    shifted["features"][samples["patch_id"].values == planted] += 10
    names = samples["feature"].values.tolist()
    kept, left = keep_alike(rules, shifted, features=names, deviations=3)
    assert set(rules["patch_id"]) - set(kept["patch_id"]) >= {planted}
    assert set(samples["patch_id"].values) - set(left["patch_id"].values) >= {planted}
    assert kept.attrs[COUNTS]["rules"]["water"]["far"] > 0
    every, whole = keep_alike(rules, shifted, features=None, deviations=3)
    assert (len(every), whole.sizes["sample"]) == (len(rules), samples.sizes["sample"])
    gone = samples.isel(sample=samples["patch_id"].values != planted)
    fewer, _ = keep_alike(rules, gone, features=None, deviations=3)
    assert fewer.attrs[COUNTS]["rules"]["water"]["no_pixels"] == 1
    assert planted not in set(fewer["patch_id"])


def test_a_map_says_which_rules_it_was_trained_on(done: Run) -> None:
    attrs = xr.open_datatree(done.path(CITY, "lcz.zarr"), engine="zarr").attrs
    assert {name: of["role"] for name, of in attrs["inputs"].items()} == {
        "alphaearth": "features",
        "labels": "labels",
        "osm": "rules",
    }
    assert attrs["settings"]["rules"]["classes"] == ["water", "dense_trees"]
    assert attrs[COUNTS][CITY]["rules"]["water"]["kept"] >= 8


def test_cells_by_rule_give_pseudo_labels_and_train(done: Run) -> None:
    rules = done.rule_labels(CITY)
    donors = gpd.read_parquet(done.path(CITY, "pseudo_labels.parquet"))["donor"]
    assert donors.isin(rules["patch_id"]).any()  # type: ignore[index]
    n_train = json.loads((done.folder / "models/xgb/model.json").read_text())["n_train"]
    pseudo = gpd.read_parquet(done.path(CITY, "pseudo_labels.parquet"))
    assert n_train == done.samples()[CITY].sizes["sample"] + len(pseudo)


def test_cells_by_rule_are_never_scored(done: Run) -> None:
    by_rule = is_by_rule(done.samples()[CITY])
    told = json.loads((done.folder / "scores.json").read_text())
    assert told["scores"]["xgb"]["n"] == (~by_rule).sum() < by_rule.size
    assert any(f"{by_rule.sum()} rows by rule are never evaluated" in w for w in told["warnings"])
    assert told["scores"]["xgb"]["leakage"]["share_touching"] == 0


def test_a_protocol_leaves_cells_by_rule_out(done: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["evaluate", str(done.folder), "--protocol", "polygon-cv"])
    assert not exit_.value.code
    assert "by rule" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "rules", [RULES_TABLE + "min_cover = 0.8\n", RULES_TABLE + "exclude_eval_m = 100.0\n", ""]
)
def test_another_table_makes_samples_anew_and_leaves_the_catalog(
    done: Run, world: World, rules: str
) -> None:
    changed = open_run(done.folder, city_file(world, "changed", rules))
    states = [stage_state(changed, stage) for stage in TO_PROPAGATE[:3]]
    assert states == ["up to date", "up to date", "out of date"]


@pytest.fixture(scope="module")
def plain(world: World, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Samples of the same labels, said to be of 2017, without rules."""
    year = {'source = "patches"': 'source = "patches"\nyear = 2017'}
    run = open_run(tmp_path_factory.mktemp("runs") / "plain", city_file(world, "plain", "", **year))
    run_stages(run, ["build-catalog", "cube", "aggregate"])
    return run


def test_without_the_table_nothing_has_an_origin(done: Run, plain: Run) -> None:
    assert plain.rule_labels(CITY) is None
    table = pd.read_parquet(plain.path(CITY, "samples.parquet"))
    ruled = pd.read_parquet(done.path(CITY, "samples.parquet"))
    labelled = ruled[ruled["origin"] == "label"].drop(columns="origin").reset_index(drop=True)
    pd.testing.assert_frame_equal(table, labelled, check_exact=True)
    names = (path.name for path in plain.path(CITY, "").iterdir())
    assert sorted(name for name in names if "features" not in name) == [
        "cube.json",
        "samples.parquet",
    ]


def test_labels_of_another_year_are_used_and_told(done: Run, plain: Run) -> None:
    summaries = [
        json.loads((run.folder / "run.json").read_text())["stages"]["aggregate"]["summary"]
        for run in (plain, done)
    ]
    n = done.labels(CITY).shape[0]
    assert f"{n} labels of 2017 used with layers of 2021 in {CITY}" in summaries[0]
    assert "used with" not in summaries[1]


# Splits


def square_rows(centres: list[tuple[float, float]], **columns: Any) -> pd.DataFrame:
    x, y = (np.array(values, float) for values in zip(*centres, strict=True))
    ids = [f"{columns.get('origin', 'label')}/{i}" for i in range(len(x))]
    filled = {"city": "a", "lcz": 17, "split": "", "size_m": 320.0, "origin": "label"} | columns
    frame = pd.DataFrame({"patch_id": ids, "group": ids, "x": x, "y": y} | filled)
    return frame.astype({"lcz": "uint8"})


def shore(size_m: float = 320.0) -> pd.DataFrame:
    """Labels 2 km apart in two cities and two classes, and a lake of cells by rule across them."""
    places = [(2000.0 * i, 0.0) for i in range(12)]
    labels = pd.concat(
        [
            square_rows(places, city=city, lcz=[17, 6] * 6, split=split, size_m=size_m)
            for city, split in (("a", ["training", "testing"] * 6), ("b", "training"))
        ],
        ignore_index=True,
    )
    labels["group"] = labels["city"] + labels["group"]
    # A lake of three cells in a row by the label at 4,000, another by that at 10,000, one far off.
    lakes = [[(3040, 0), (3360, 0), (3680, 0)], [(10640, 0), (10960, 0)], [(7000, 5000)]]
    cells = [square_rows([p for lake in lakes for p in lake], origin="rule")]
    cells[0]["group"] = [f"lake {i}" for i, lake in enumerate(lakes) for _ in lake]
    return pd.concat([labels, *cells], ignore_index=True).sample(frac=1, random_state=3)


def gap_m(a: pd.DataFrame, b: pd.DataFrame, side_m: float = 320.0) -> float:
    """Least distance of two sets of squares, pair by pair."""
    squares = [
        [
            shapely.box(x - side_m / 2, y - side_m / 2, x + side_m / 2, y + side_m / 2)
            for x, y in zip(rows["x"], rows["y"], strict=True)
        ]
        for rows in (a, b)
    ]
    return min((p.distance(q) for p in squares[0] for q in squares[1]), default=np.inf)


METHODS = ["polygon", "block", "city", "given", "holdout", "random"]


@pytest.mark.parametrize("far_m", [0.0, 320.0, 700.0])
@pytest.mark.parametrize("method", METHODS)
def test_no_fold_evaluates_a_cell_by_rule_or_trains_on_one_nearby(
    method: Any, far_m: float
) -> None:
    frame = shore()
    split = split_labels(frame, method=method, folds=3, seed=1, buffer_m=0, exclude_eval_m=far_m)
    by_rule = is_by_rule(frame)
    used = np.zeros(len(frame), bool)
    for fold in range(split.n_folds):
        train, test = (frame.iloc[rows] for rows in split.train_test(fold))
        assert not is_by_rule(test).any()
        cells = train[is_by_rule(train)]
        here = test[test["city"] == "a"]
        assert gap_m(cells, here) > far_m
        # A lake trains whole or not at all.
        whole = frame[by_rule].groupby("group").size()
        assert (cells.groupby("group").size() == whole[sorted(set(cells["group"]))]).all()
        if method == "city" and split.names[fold] == "a":
            assert cells.empty
        used[split.train_test(fold)[0]] = True
    assert used[by_rule].any()


@pytest.mark.parametrize("method", ["polygon", "block", "holdout", "given"])
def test_labels_are_split_as_if_no_cell_had_been_labelled_by_rule(method: Any) -> None:
    frame = shore()
    by_rule = is_by_rule(frame)
    both = split_labels(frame, method=method, folds=3, seed=1)
    alone = split_labels(frame[~by_rule], method=method, folds=3, seed=1)
    np.testing.assert_array_equal(both.folds[~by_rule], alone.folds)
    np.testing.assert_array_equal(both.excluded[:, ~by_rule], alone.excluded)


def test_pixels_are_kept_apart_by_the_windows_that_are_seen_of_them() -> None:
    """Labels of 10 m pixels, of which a model sees 320 m."""
    frame = shore(size_m=10.0)
    split = split_labels(frame, method="polygon", folds=3, seed=1, exclude_eval_m=0)
    for fold in range(3):
        train, test = (frame.iloc[rows] for rows in split.train_test(fold))
        assert gap_m(train[is_by_rule(train)], test[test["city"] == "a"]) > 0


def test_how_many_cells_by_rule_train_is_told() -> None:
    told = split_labels(shore(), method="polygon", folds=3, seed=1).warnings
    (line,) = (line for line in told if "by rule" in line)
    # One lake is far from all; each of the others is near one label, of some fold.
    assert line.startswith("6 rows by rule are never evaluated; ")
    assert "within 320 m" in line


def test_rows_by_rule_without_a_place_are_refused() -> None:
    with pytest.raises(LabelError, match="rows by rule, need geometries in metres"):
        split_labels(shore().drop(columns=["x", "y"]), method="polygon", folds=3)
    with pytest.raises(ConfigError, match="exclude_eval_m = -1"):
        split_labels(shore(), method="polygon", folds=3, exclude_eval_m=-1)


def test_cross_validation_measures_the_leak_of_cells_by_rule() -> None:
    frame = shore()
    data = {name: ("sample", frame[name].to_numpy()) for name in frame}
    n = len(frame)
    data |= {name: ("sample", np.ones(n, np.float32)) for name in ("weight", "valid_fraction")}
    samples = xr.Dataset(data, attrs={"unit": "patch"})
    seen: list[npt.NDArray[np.intp]] = []

    def predict(
        train: npt.NDArray[np.intp], test: npt.NDArray[np.intp], _: int
    ) -> npt.NDArray[np.float32]:
        seen.append(train)
        return np.eye(17, dtype=np.float32)[frame["lcz"].to_numpy()[test] - 1]

    result = cross_validate(
        samples,
        [Candidate("right", predict)],
        {name: Grid("EPSG:32632", (0, 0, 100, 100)) for name in ("a", "b")},
        method="polygon",
        folds=3,
        seeds=[1],
        progress=lambda _: None,
        exclude_eval_m=0,
    )
    by_rule = is_by_rule(samples)
    assert result.scores["right"].n == (~by_rule).sum()
    assert any(by_rule[train].any() for train in seen)
    # The lake at 3,040 ends 0 m from the label at 4,000, and does not train what it scores.
    assert result.scores["right"].leakage.share_touching == 0
    near = result.scores["right"].leakage.nearest_m
    assert near is not None
    assert near > 0


def test_a_group_is_near_as_a_whole() -> None:
    boxes = np.array([shapely.box(x, 0, x + 10, 10) for x in (0, 10, 20, 100)])
    groups = np.array(["lake", "lake", "lake", "pond"], dtype=object)
    other = np.array([shapely.box(35, 0, 40, 10)])
    assert groups_near(boxes, groups, other, 5.0).tolist() == [True, True, True, False]
    assert groups_near(boxes, groups, other, 4.9).tolist() == [False] * 4
    assert groups_near(boxes, groups, other[:0], 5.0).tolist() == [False] * 4


# Beside labels


def cells_by_rule(*lefts: float, group: str = "lake") -> gpd.GeoDataFrame:
    boxes = [shapely.box(x, 0, x + 320, 320) for x in lefts]
    columns = {"patch_id": [f"r/{x:g}" for x in lefts], "group": group, "lcz": 17, "size_m": 320.0}
    cells = gpd.GeoDataFrame(columns, geometry=boxes, crs="EPSG:32632")
    counts = {"lcz": 17, "kept": len(lefts)}
    cells.attrs[COUNTS] = {"rules": {"water": counts}}
    return cells


def label_rows(*rows: tuple[float, int, float]) -> gpd.GeoDataFrame:
    """Squares of 320 m: left, class, and ``size_m``, NaN for a polygon."""
    boxes = [shapely.box(x, 0, x + 320, 320) for x, *_ in rows]
    columns = {"lcz": [lcz for _, lcz, _ in rows], "size_m": [size for *_, size in rows]}
    return gpd.GeoDataFrame(columns, geometry=boxes, crs="EPSG:32632")


def test_a_cell_that_touches_a_label_of_another_class_is_dropped() -> None:
    labels = label_rows((320, 6, 320.0), (1280, 17, 320.0))
    kept = keep_beside(cells_by_rule(0, 1280, 2560), labels)
    assert kept["patch_id"].tolist() == ["r/1280", "r/2560"]
    assert kept.attrs[COUNTS]["rules"]["water"] == {
        "lcz": 17,
        "kept": 2,
        "contradict_a_label": 1,
        "near_evaluation": 0,
    }


@pytest.mark.parametrize(
    ("left", "size_m", "is_kept"),
    [(639, 320.0, False), (641, 320.0, True), (799, np.nan, False), (801, np.nan, True)],
)
def test_a_lake_near_a_label_that_is_only_scored_is_dropped_whole(
    left: float, size_m: float, is_kept: bool
) -> None:
    """By 320 m from a patch, and from the windows around the pixels of a polygon."""
    labels = label_rows((left, 17, size_m), (-2000, 17, 320.0))
    cells = cells_by_rule(0, -320, -640)
    kept = keep_beside(cells, labels, evaluation=np.array([True, False]), exclude_eval_m=320)
    assert len(kept) == (3 if is_kept else 0)
    assert kept.attrs[COUNTS]["rules"]["water"]["near_evaluation"] == 3 - len(kept)
    assert len(keep_beside(cells, labels)) == 3


# Pixels


def test_a_unet_trains_on_cells_by_rule_of_the_groups_of_a_fold(done: Run) -> None:
    rules = done.rule_labels(CITY)
    assert rules is not None
    data = CityData(
        city=CITY,
        grid=done.grids[CITY],
        open_cube=lambda halo_px: done.cube(CITY, halo_px),
        features=xr.Dataset(),
        labels=done.labels(CITY),
        open_pseudo_labels=gpd.GeoDataFrame,
        rule_labels=rules.assign(weight=np.float32(0.25)),
    )
    (lake, *_) = rules["group"].value_counts().index
    n_lake = int((rules["group"] == lake).sum())
    training = done.training_data()
    rows = np.arange(len(training.frame))
    of_lake = np.flatnonzero(training.frame["group"] == lake)
    area = training_area(data, training, halo_px=0, rows=of_lake)
    assert 0 < (area.lcz > 0).sum() <= n_lake * 16**2
    assert set(np.unique(area.weight)) == {0, 0.25}
    every = training_area(data, training, halo_px=0, rows=rows)
    assert set(np.unique(every.weight)) == {0, 0.25, 1}
    # So do labels, by their own weight.
    halved = replace(data, labels=data.labels.assign(weight=np.float32(0.5)), rule_labels=None)
    assert set(np.unique(training_area(halved, training, halo_px=0, rows=rows).weight)) == {0, 0.5}
    assert (training_area(data, training, halo_px=0, rows=rows[:0]).lcz == 0).all()


# The table


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('osm = "alphaearth"', r"osm names 'alphaearth'.*source = \"osm\": osm"),
        ('osm = "osm"\nclasses = ["sea"]', r"'sea' in \[rules\].*'water', 'dense_trees'"),
        ('osm = "osm"\nclasses = ["water", "water"]', "name each once"),
        ('osm = "osm"\nmin_cover = 0.5', r"min_cover = 0.5 in \[rules\].*greater than 0.5"),
        ('osm = "osm"\nmax_other = 0.5', r"max_other = 0.5 in \[rules\].*less than 0.5"),
        ('osm = "osm"\nmincover = 0.9', "did you mean 'min_cover'"),
        ("classes = ['water']", r"'osm' is missing in \[rules\]"),
        ('osm = "osm"\nclasses = []', "has no rule"),
        (
            'osm = "osm"\n[rules.own.town]\nlcz = 6\nfeatures = ["paved"]',
            r"lcz = 6 in \[rules.own.town\].*11",
        ),
        (
            'osm = "osm"\n[rules.own.sand]\nlcz = 16\nfeatures = ["sand"]',
            r"\[rules.own.sand\] names sand; name each once, of low_plants",
        ),
        (
            'osm = "osm"\n[rules.own.water]\nlcz = 17\nfeatures = ["water"]',
            "'water' in classes and in own",
        ),
    ],
)
def test_a_table_of_rules_that_cannot_be_meant_is_refused(
    world: World, lines: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config(city_file(world, "bad", f"[rules]\n{lines}\n"))


def test_features_of_openstreetmap_alone_cannot_say_what_is_far(world: World) -> None:
    changes = {'features = ["alphaearth"]': 'features = ["osm"]'}
    with pytest.raises(ConfigError, match=r"Add another, or set drop_far = false"):
        read_config(city_file(world, "bad", RULES_TABLE, **changes))


def test_rules_without_a_run_are_refused(world: World) -> None:
    text = city_file(world, "bad").read_text()
    path = world.path / "no_run.toml"
    path.write_text(text[: text.index("[run]")] + RULES_TABLE)
    with pytest.raises(ConfigError, match=r"this file has no \[run\]"):
        read_config(path)


def test_a_rule_of_ones_own_labels_its_class(done: Run, world: World) -> None:
    own = '[rules]\nosm = "osm"\nclasses = []\n[rules.own.woods]\nlcz = 12\n'
    keys = 'features = ["dense_trees"]\nunder = ["low_plants", "scattered_trees"]\n'
    run = open_run(done.folder, city_file(world, "own", own + keys))
    labels = done.labels(CITY)
    rules = label_city_by_rules(run, CITY, done.cube(CITY), labels[labels["lcz"] == 0])
    assert rules is not None
    woods = done.rule_labels(CITY).attrs[COUNTS]["rules"]["dense_trees"]  # type: ignore[union-attr]
    assert len(rules) == woods["covered"] - woods["contradicted"] > 0
    assert set(rules["lcz"]) == {12}


def test_the_classes_of_the_table_are_the_rules_that_there_are(world: World) -> None:
    names = ", ".join(f'"{name}"' for name in RULES)
    table = f'[rules]\nosm = ["osm"]\nclasses = [{names}]\n'
    rules = read_config(city_file(world, "all", table)).rules
    assert rules is not None
    assert rules.classes == tuple(RULES)
    defaults = read_config(city_file(world, "all", '[rules]\nosm = "osm"\n')).rules
    assert defaults is not None
    assert (defaults.osm, defaults.classes) == (("osm",), ("water",))
    rule = RULES["water"]
    assert (defaults.min_cover, defaults.max_other) == (rule.min_cover, rule.max_other)


# Real files


def test_the_rhine_joins_labels_drawn_beside_it(realdata: Path, tmp_path: Path) -> None:
    """Liechtenstein in 2013, its masks as features; the labels are drawn here and mean nothing."""
    boxes = [
        shapely.box(x, y, x + 0.004, y + 0.003)
        for x in (9.495, 9.508, 9.516)
        for y in (47.123, 47.129, 47.136)
    ]
    drawn = gpd.GeoDataFrame({"lcz": [6, 14, 11] * 3}, geometry=boxes, crs="EPSG:4326")
    drawn.to_file(tmp_path / "drawn.gpkg")
    path = tmp_path / "vaduz.toml"
    path.write_text(f"""
id = "vaduz"
[city.vaduz]
bbox = [9.49, 47.12, 9.52, 47.14]
[grid]
cell_m = 60
[[input]]
name = "osm"
source = "osm"
href = "{(realdata / "osm" / "liechtenstein-2013-08-03.osm.pbf").as_posix()}"
static = true
[[input]]
name = "drawn"
source = "polygons"
href = "drawn.gpkg"
class_column = "lcz"
[run]
features = ["osm"]
labels = ["drawn"]
folds = 3
baselines = []
stats = ["mean"]
[rules]
osm = "osm"
drop_far = false
""")
    run = open_run(tmp_path / "run", path)
    with pytest.raises(ConfigError, match="the features of vaduz have no year"):
        run_stages(run, ["build-catalog", "cube", "aggregate"])
    path.write_text(path.read_text() + "year = 2014\n")
    run = open_run(tmp_path / "run", path)
    run_stages(run, ["build-catalog", "cube", "aggregate"])
    samples, rules = run.samples()["vaduz"], run.rule_labels("vaduz")
    assert rules is not None
    counts = rules.attrs[COUNTS]["rules"]["water"]
    assert (counts["covered"], counts["contradicted"], counts["contradict_a_label"]) == (36, 1, 9)
    by_rule = is_by_rule(samples)
    assert by_rule.sum() == counts["kept"] == len(rules) == 26
    assert samples.attrs["unit"] == "cell"
    # Water is what the masks of the cube have under the cells too.
    water = samples["features"].sel(feature="osm_water_mean").values
    assert water[by_rule].min() >= 0.95
    frame = sample_frame(samples)
    split = split_labels(frame, method="polygon", folds=3)
    for fold in range(3):
        train, test = (frame.iloc[rows] for rows in split.train_test(fold))
        assert not is_by_rule(test).any()
        assert gap_m(train[is_by_rule(train)], test, side_m=60) > 320
