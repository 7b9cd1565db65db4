"""Models of a run: trained by name, held out, scored from what training already predicted."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lczcube.cli import main
from lczcube.labels.splits import split_labels
from lczcube.pipeline import run_stages
from lczcube.probability import winners
from lczcube.runfolder import open_run
from lczcube.synth import write_world
from lczcube.training import HELD_OUT

KINDS = ("forest", "knn")
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
