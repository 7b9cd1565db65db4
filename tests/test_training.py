"""Models of a run: trained by name, held out, scored from what training already predicted."""

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
import xarray as xr

from lczcube.cli import main
from lczcube.confidence import Confidence
from lczcube.grid import Grid
from lczcube.labels.splits import split_labels
from lczcube.learners import LEARNERS
from lczcube.models import XgbModel, load_model, predict_features
from lczcube.pipeline import run_stages, stage_state
from lczcube.probability import winners
from lczcube.runfolder import open_run
from lczcube.stages import stages_of
from lczcube.synth import write_world
from lczcube.training import HELD_OUT, model_digest
from lczcube.trainingdata import pseudo_samples, training_area
from lczcube.windows import aggregate

KINDS = ("forest", "knn")
EVERY_KIND = ("xgb", "xgb_pixels", "linear", "knn", "patch", "unet")
QUICK = """
[xgb]
rounds = 5
max_depth = 2

[unet]
epochs = 1
width = 4

[patch]
epochs = 1
width = 4
"""
PROBABILITIES = [f"p{code}" for code in range(1, 18)]


def lczcube(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    return int(exit_.value.code or 0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    write_world(folder / "world", cities=2, km=2.0, seed=7)
    text = (folder / "world" / "world.toml").read_text()
    config = folder / "world" / "small.toml"
    config.write_text(
        text.replace('["xgb", "unet"]', '["xgb"]\nbaselines = ["forest"]\nrepeats = 2')
        + "\n[xgb]\nrounds = 8\nmax_depth = 3\n"
    )
    assert lczcube("run", config, folder / "run") == 0
    return folder / "run"


def test_held_out_predictions_are_of_the_runs_own_folds(trained: Path) -> None:
    run = open_run(trained)
    frame = run.training_data().frame
    table = pd.read_parquet(trained / "models" / "xgb" / HELD_OUT)
    split = split_labels(frame, method="polygon", folds=run.table.folds, seed=run.table.seed)
    np.testing.assert_array_equal(table["fold"], split.folds)
    assert table["patch_id"].tolist() == frame["patch_id"].tolist()
    assert table.groupby("group")["fold"].nunique().max() == 1
    np.testing.assert_allclose(table[PROBABILITIES].sum(axis=1), 1, atol=1e-5)


def test_scores_take_what_training_predicted_and_are_the_same_without_it(
    trained: Path, tmp_path: Path
) -> None:
    run = open_run(trained)
    table = pd.read_parquet(trained / "models" / "xgb" / HELD_OUT)
    scored = pd.read_parquet(trained / "predictions.parquet")
    mine = scored[(scored["model"] == "xgb") & (scored["seed"] == run.table.seed)]
    said = table.set_index("patch_id").loc[mine["patch_id"], PROBABILITIES].to_numpy(np.float32)
    np.testing.assert_array_equal(mine["lcz_predicted"], winners(said))
    copy = tmp_path / "run"
    shutil.copytree(trained, copy)
    (copy / "models" / "xgb" / HELD_OUT).unlink()
    told: list[str] = []
    again = open_run(copy, progress=told.append)
    run_stages(again, ["evaluate"], overwrite=True)
    assert "evaluate: xgb, seed 7" in told
    assert (copy / "scores.json").read_bytes() == (trained / "scores.json").read_bytes()
    assert (copy / "predictions.parquet").read_bytes() == (
        trained / "predictions.parquet"
    ).read_bytes()


def test_scores_fit_nothing_that_training_fitted(trained: Path) -> None:
    told: list[str] = []
    run_stages(open_run(trained, progress=told.append), ["evaluate"], overwrite=True)
    fitted = [line for line in told if line.startswith("evaluate: ")]
    assert fitted == [
        "evaluate: xgb, seed 8",
        "evaluate: forest, seed 7",
        "evaluate: forest, seed 8",
    ]


def test_a_kind_is_trained_by_its_name_and_nothing_else_is_done_again(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (trained / "models" / "xgb" / "model.json").stat().st_mtime_ns
    assert lczcube("train", trained, *KINDS) == 0
    out = capsys.readouterr().out
    for kind in KINDS:
        assert f"train {kind}: done" in out
        assert json.loads((trained / "models" / kind / "model.json").read_text())["kind"] == kind
    assert (trained / "models" / "xgb" / "model.json").stat().st_mtime_ns == before
    assert lczcube("train", trained, "forest") == 0
    assert "train forest: up to date" in capsys.readouterr().out
    assert lczcube("predict", trained) == 0
    assert "predict: up to date" in capsys.readouterr().out


def test_an_unknown_kind_is_refused_with_the_known_ones(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (("train", trained, "tree"), ("ablate", trained, "--models", "tree")):
        assert lczcube(*command) == 2
        assert "model 'tree' is unknown; there are xgb" in capsys.readouterr().err


def test_an_ablation_without_heights_is_refused(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lczcube("ablate", trained) == 2
    assert "an ablation wants an embedding, and canopy" in capsys.readouterr().err


@pytest.fixture(scope="module")
def two_years(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the same world that maps 2022 too: half of the year's tiles are of elsewhere."""
    folder = tmp_path_factory.mktemp("years")
    world = folder / "world"
    shutil.copytree(trained.parent / "world", world)
    for annual in world.glob("alphaearth/*/annual"):
        shutil.copytree(annual / "2021", annual / "2022")
        for path in sorted((annual / "2022").rglob("*.tiff"))[::2]:
            with rasterio.open(path, "r+") as file:
                file.write(np.roll(file.read(), 64, axis=2))
    text = (world / "small.toml").read_text().replace("years = [2021]", "years = [2021, 2022]")
    text = text.replace("[run]\n", "[run]\nmap_years = [2022, 2021]\n")
    (world / "years.toml").write_text(text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rio-cogeo's layout is broken by the update
        assert lczcube("run", world / "years.toml", folder / "run") == 0
    return folder / "run"


def test_one_model_maps_several_years_into_one_store(trained: Path, two_years: Path) -> None:
    for city in open_run(trained).cities:
        maps = xr.open_zarr(two_years / city / "lcz.zarr", group="cells", mask_and_scale=False)
        assert maps["time"].dt.year.values.tolist() == [2021, 2022]
        alone = xr.open_zarr(trained / city / "lcz.zarr", group="cells", mask_and_scale=False)
        for name in ("lcz", "confidence", "probability", "label_set", "applicable"):
            np.testing.assert_array_equal(maps[name].isel(time=0), alone[name], err_msg=name)
        run = open_run(two_years)
        model, folder = load_model(two_years / "models" / "xgb"), two_years / "models" / "xgb"
        cells = aggregate(run.cube(city, year=2022), stats=run.table.stats)
        later = predict_features(model, cells, confidence=Confidence.load(folder))
        np.testing.assert_array_equal(maps["lcz"].isel(time=1), later["lcz"])
    assert (maps["lcz"].isel(time=0) != maps["lcz"].isel(time=1)).any()
    assert (two_years / city / "lcz.png").is_file()


def test_change_is_read_from_the_one_store(
    two_years: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    city = open_run(two_years).cities[0]
    out = tmp_path / "change.zarr"
    assert lczcube("change", two_years, "--city", city, "--out", out) == 0
    assert "2021 to 2022" in capsys.readouterr().out
    changes = xr.open_zarr(out, group="change")
    maps = xr.open_zarr(two_years / city / "lcz.zarr", group="cells")["lcz"]
    differs = (maps.isel(time=0) != maps.isel(time=1)).values
    assert not (changes["changed"].isel(time=0).values.astype(bool) & ~differs).any()


def test_maps_carry_what_held_out_labels_say_of_them(trained: Path) -> None:
    city = open_run(trained).cities[0]
    maps = xr.open_zarr(trained / city / "lcz.zarr", group="cells", mask_and_scale=False)
    known = maps["lcz"].values > 0
    bit = np.uint32(1) << (maps["lcz"].values[known].astype(np.uint32) - 1)
    assert (maps["label_set"].values[known] & bit).all()  # the winner is in the set
    assert (maps["label_set"].values[~known] == 0).all()
    assert np.isfinite(maps["dissimilarity"].values[known]).all()
    assert "Confidence" in (trained / "models" / "xgb" / "card.md").read_text()


def test_samples_that_are_large_are_read_in_batches_and_give_the_same_model(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(trained, copy)
    monkeypatch.setattr("lczcube.runfolder.MOST_SAMPLE_BYTES", 0)
    run = open_run(copy)
    assert run.training_data().samples["features"].chunks
    run_stages(run, ["train"], overwrite=True)
    for name in ("model.ubj", "confidence.json"):
        of_copy, of_run = ((f / "models" / "xgb" / name).read_bytes() for f in (copy, trained))
        assert of_copy == of_run, name
    pd.testing.assert_frame_equal(
        pd.read_parquet(copy / "models" / "xgb" / HELD_OUT),
        pd.read_parquet(trained / "models" / "xgb" / HELD_OUT),
    )


def test_every_kind_trains_maps_and_is_scored(trained: Path, tmp_path: Path) -> None:
    run, config = tmp_path / "run", trained.parent / "world" / "every.toml"
    text = (trained.parent / "world" / "small.toml").read_text()
    text = text.replace('["xgb"]', json.dumps(EVERY_KIND)).replace("repeats = 2", "repeats = 1")
    text = text.replace("folds = 5", "folds = 2")
    config.write_text(text[: text.index("[unet]")] + QUICK)
    assert lczcube("run", config, run) == 0
    scores = json.loads((run / "scores.json").read_text())["scores"]
    assert set(scores) == {*EVERY_KIND, "forest"}
    for kind in EVERY_KIND:
        assert scores[kind]["coverage"] == 1, kind
        city = open_run(run).data("synthetic_north")
        folder = run / "models" / kind
        maps = LEARNERS[kind].map(load_model(folder), city, Confidence.load(folder))
        assert "label_set" in maps, kind
        assert (maps["lcz"].values > 0).any(), kind
        card = (folder / "card.md").read_text()
        assert "not evaluated" not in card.lower(), kind


def squares_px(frame: pd.DataFrame, grid: Grid) -> list[tuple[slice, slice]]:
    """Pixels of the squares of samples, by their corners."""
    minx, _, _, maxy = grid.bbox
    found = []
    for x, y, side in frame[["x", "y", "size_m"]].itertuples(index=False):
        left, top = round((x - minx - side / 2) / 10), round((maxy - y - side / 2) / 10)
        n = round(side / 10)
        found.append((slice(max(top, 0), top + n), slice(max(left, 0), left + n)))
    return found


@pytest.mark.parametrize("method", ["block", "random", "polygon"])
def test_models_of_pixels_learn_nothing_of_what_a_fold_evaluates_or_keeps_away(
    trained: Path, method: Any
) -> None:
    data = open_run(trained).training_data()
    split = split_labels(data.frame, method=method, folds=4, seed=1, block_m=640)
    for fold in range(split.n_folds):
        train, test = split.train_test(fold)
        n_trained = 0
        for city in data.cities.values():
            area = training_area(city, data, halo_px=0, rows=train)
            is_other = (data.frame["city"] == city.city).to_numpy(copy=True)
            is_other[train] = False
            assert set(test) & set(np.flatnonzero(data.frame["city"] == city.city)) <= set(
                np.flatnonzero(is_other)
            )
            for square in squares_px(data.frame[is_other], city.grid):
                assert (area.lcz[square] == 0).all()
                assert (area.weight[square] == 0).all()
            n_trained += int((area.lcz > 0).sum())
        assert n_trained or method == "random"


def test_pseudo_labels_of_a_city_without_labels_train(trained: Path) -> None:
    run = open_run(trained)
    with_labels = run.cities[0]
    config = run.config.model_copy(
        update={"run": run.table.model_copy(update={"pseudo_weight": 0.5})}
    )
    whole = run.training_data()
    data = replace(whole, config=config, parts={with_labels: whole.parts[with_labels]})
    rows = data.rows_that_train()
    n_pseudo = {city: len(of.open_pseudo_labels()) for city, of in data.every_city.items()}
    assert n_pseudo[run.cities[1]] > 0
    plain = LEARNERS["xgb"].fit(data, rows, seed=0, final=False)
    final = LEARNERS["xgb"].fit(data, rows, seed=0, final=True)
    only_here = {name: data.every_city[name] for name in [with_labels]}
    assert final.meta.n_train > plain.meta.n_train
    here = pseudo_samples(only_here[with_labels], config.run)
    n_here = 0 if here is None else here.sizes["sample"]
    assert final.meta.n_train > plain.meta.n_train + n_here


def test_a_stage_before_that_is_out_of_date_is_told_even_where_the_last_one_stands(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = trained.parent / "world" / "rounds.toml"
    text = (trained.parent / "world" / "small.toml").read_text()
    config.write_text(text.replace("rounds = 8", "rounds = 9"))
    assert lczcube("predict", trained, "--config", config) == 1
    assert "needs 'train xgb', which is out of date" in capsys.readouterr().err


def test_another_model_of_the_same_settings_makes_another_map(
    trained: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(trained, copy)
    run = open_run(copy)
    stages = {stage.name: stage for stage in stages_of(run)}
    assert stage_state(run, stages["predict"]) == "up to date"
    model = XgbModel.load(copy / "models" / "xgb")
    made = LEARNERS["xgb"].fit(run.training_data(), np.arange(40), seed=3, final=False)
    made.save(copy / "models" / "xgb")
    assert made.fingerprint != model.fingerprint
    records = json.loads((copy / "run.json").read_text())
    records["stages"]["train xgb"]["result"] = model_digest(copy / "models" / "xgb")
    (copy / "run.json").write_text(json.dumps(records))
    assert stage_state(open_run(copy), stages["predict"]) == "out of date"


@pytest.mark.parametrize("kind", ["xgb", "unet", "patch"])
def test_early_stopping_holds_out_whole_groups(trained: Path, kind: str) -> None:
    run = open_run(trained)
    small = {"early_stopping": True, "epochs": 2, "width": 4}
    tables = {
        "xgb": run.config.xgb.model_copy(update={"early_stopping": 3, "rounds": 20}),
        "unet": run.config.unet.model_copy(update=small),
        "patch": run.config.patch.model_copy(update=small),
    }
    data = replace(run.training_data(), config=run.config.model_copy(update=tables))
    rows = data.rows_that_train()
    train, held = data.held_for_stopping(rows, seed=0, wanted=True)
    assert held is not None
    assert not data.groups(train) & data.groups(held)
    assert sorted([*train, *held]) == rows.tolist()
    model = LEARNERS[kind].fit(data, rows, seed=0, final=True)
    assert np.isfinite(LEARNERS[kind].probability(model, data, held)).any()
