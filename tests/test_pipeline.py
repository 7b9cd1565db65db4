"""The whole path on a small synthetic world: once per session, then looked at from all sides."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import xarray as xr

from lczcube.cli import main
from lczcube.grid import Grid
from lczcube.labels.samples import read_samples, write_samples
from lczcube.predictions import COLUMNS, read_predictions, write_predictions
from lczcube.products import open_features
from lczcube.synth import write_world

SMALL = """
[xgb]
rounds = 15
max_depth = 3
"""


def city_file(world: Path, models: str = '["xgb"]') -> Path:
    """The world's own city file with small models, which train on pseudo-labels too."""
    text = (world / "world.toml").read_text().replace('["xgb", "unet"]', models)
    text = text.replace("epochs = 4", "epochs = 1").replace("width = 8", "width = 4")
    text = text.replace("[run]\n", "[run]\npseudo_weight = 0.5\n")
    path = world / f"small_{models.count(',')}.toml"
    path.write_text(text + SMALL)
    return path


def lczcube(*arguments: str | Path) -> int:
    """Exit status of a command run in this process."""
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    return int(exit_.value.code or 0)


def digests(folder: Path, pattern: str = "**/*") -> dict[str, str]:
    files = [path for path in sorted(folder.glob(pattern)) if path.is_file()]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synth") / "world"
    write_world(folder, cities=2, km=2.0, seed=7)
    return folder


@pytest.fixture(scope="module")
def done(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert lczcube("run", city_file(world, '["xgb", "unet"]'), folder) == 0
    return folder


def test_a_run_leaves_maps_scores_and_tables(done: Path) -> None:
    for city in ("synthetic_north", "synthetic_south"):
        for name in ("features.zarr", "pseudo_labels.parquet", "lcz.zarr", "lcz.png"):
            assert (done / city / name).exists(), name
    names = ("scores.json", "scores.md", "predictions.parquet", "run.json", "models/xgb/model.json")
    for name in names:
        assert (done / name).exists(), name


def test_a_second_run_changes_no_byte(
    done: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = digests(done)
    assert lczcube("run", city_file(world, '["xgb", "unet"]'), done) == 0
    assert digests(done) == before
    assert capsys.readouterr().out.count("up to date") == 8


def test_a_map_covers_every_valid_pixel_and_no_other(done: Path, world: Path) -> None:
    for city in ("synthetic_north", "synthetic_south"):
        pixels = xr.open_zarr(done / city / "lcz.zarr", group="pixels")
        tiles = sorted((world / "alphaearth" / city).rglob("*.tiff"))
        valid = np.zeros(pixels["lcz"].shape, bool)
        for tile in tiles:
            with rasterio.open(tile) as file:
                codes = file.read(1)
                rows, columns = np.nonzero(codes != -128)
                a, _, c, _, e, f = file.transform[:6]
                x, y = c + a * (columns + 0.5), f + e * (rows + 0.5)
            column = np.round((x - pixels.x.values[0]) / 10).astype(int)
            row = np.round((pixels.y.values[0] - y) / 10).astype(int)
            inside = (row >= 0) & (row < valid.shape[0]) & (column >= 0) & (column < valid.shape[1])
            valid[row[inside], column[inside]] = True
        np.testing.assert_array_equal(pixels["lcz"].values > 0, valid)


def test_a_map_opens_with_xarray_alone_and_says_it_is_synthetic(done: Path) -> None:
    store = done / "synthetic_north" / "lcz.zarr"
    tree = xr.open_datatree(store, engine="zarr")
    assert sorted(tree.children) == ["cells", "pixels"]
    assert tree.attrs["synthetic"] == 1
    lcz = tree["pixels"]["lcz"]
    assert lcz.dims == ("y", "x")
    assert lcz.dtype == np.uint8
    assert "lcz_g_water" in lcz.attrs["flag_meanings"]
    assert "EPSG" in tree["pixels"]["spatial_ref"].attrs["crs_wkt"]


def test_a_map_lies_on_the_grid_of_its_run(done: Path) -> None:
    cube = json.loads((done / "synthetic_south" / "cube.json").read_text())
    grid = Grid.from_dict(cube["grid"])
    pixels = xr.open_zarr(done / "synthetic_south" / "lcz.zarr", group="pixels")
    np.testing.assert_allclose(
        pixels.attrs["spatial:transform"], grid.geobox.affine[:6], rtol=0, atol=1e-6
    )
    assert pixels.attrs["proj:code"] == grid.crs
    assert pixels["x"].values[0] == grid.bbox[0] + 5


BANDS = {"A00": 1, "A01": 2, "A63": 64}
"""Some bands of the embedding, and their numbers in its files."""

Floats = npt.NDArray[np.float64]


def grid_of_run(run: Path, city: str) -> Grid:
    return Grid.from_dict(json.loads((run / city / "cube.json").read_text())["grid"])


def values_from_files(world: Path, run: Path, city: str) -> Floats:
    """Bands of the tiles on the run's pixels, read with rasterio and decoded; NaN where invalid."""
    grid = grid_of_run(run, city)
    values = np.full((len(BANDS), *grid.shape), np.nan)
    for tile in sorted((world / "alphaearth" / city).rglob("*.tiff")):
        with rasterio.open(tile) as file:
            codes = file.read(list(BANDS.values())).astype(float)
            a, _, c, _, e, f = file.transform[:6]
        rows, columns = np.nonzero((codes != -128).any(axis=0))
        column = np.round((c + a * (columns + 0.5) - grid.bbox[0]) / 10 - 0.5).astype(int)
        row = np.round((grid.bbox[3] - (f + e * (rows + 0.5))) / 10 - 0.5).astype(int)
        inside = (row >= 0) & (row < grid.shape[0]) & (column >= 0) & (column < grid.shape[1])
        found = codes[:, rows[inside], columns[inside]]
        values[:, row[inside], column[inside]] = np.sign(found) * (found / 127.5) ** 2
    return values


def require_cells_of(values: Floats, run: Path, city: str) -> None:
    """The means of a run's cells are those of their own 32 x 32 pixels."""
    features = open_features(run / city / "features.zarr")["features"]
    n_bands, height, width = values.shape
    cells = values.reshape(n_bands, height // 32, 32, width // 32, 32)
    for band, name in enumerate(BANDS):
        found = features.sel(feature=f"alphaearth_{name}_mean").values
        at = np.isfinite(found)
        assert at.any()
        with np.errstate(invalid="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # cells without a valid pixel
            means = np.nanmean(cells[band], axis=(1, 3))
        np.testing.assert_allclose(found[at], means[at], rtol=0, atol=1e-5)


def require_samples_of(values: Floats, run: Path, city: str, labels: gpd.GeoDataFrame) -> None:
    """The means of a run's samples are those of the 32 x 32 pixels under their labels."""
    grid = grid_of_run(run, city)
    samples = read_samples(run / city / "samples.parquet")
    corners = labels.set_index("labels/" + city + "/" + labels["id"])[["x0", "y0"]]
    names = samples["feature"].values.tolist()
    assert samples.sizes["sample"] > 50
    for sample, patch_id in enumerate(samples["patch_id"].values):
        x0, y0 = corners.loc[patch_id]
        column = round((x0 - grid.bbox[0]) / 10)
        row = round((grid.bbox[3] - y0) / 10)
        if min(row, column) < 0 or row + 32 > grid.shape[0] or column + 32 > grid.shape[1]:
            continue
        for band, name in enumerate(BANDS):
            found = samples["features"].values[sample, names.index(f"alphaearth_{name}_mean")]
            mean = np.nanmean(values[band, row : row + 32, column : column + 32])
            np.testing.assert_allclose(found, mean, rtol=0, atol=1e-5)


@pytest.mark.parametrize("city", ["synthetic_north", "synthetic_south"])
def test_features_are_of_the_pixels_that_the_files_hold_there(
    done: Path, world: Path, city: str
) -> None:
    require_cells_of(values_from_files(world, done, city), done, city)


@pytest.mark.parametrize("city", ["synthetic_north", "synthetic_south"])
def test_samples_are_of_the_pixels_under_their_labels(done: Path, world: Path, city: str) -> None:
    labels = gpd.read_parquet(world / "labels" / f"{city}.parquet")
    require_samples_of(values_from_files(world, done, city), done, city, labels)


@pytest.mark.parametrize("axis", [1, 2])
def test_features_shifted_by_one_pixel_are_seen(done: Path, world: Path, axis: int) -> None:
    values = values_from_files(world, done, "synthetic_north")
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        require_cells_of(np.roll(values, 1, axis=axis), done, "synthetic_north")


@pytest.mark.parametrize("column", ["x0", "y0"])
def test_labels_shifted_by_one_pixel_are_seen(done: Path, world: Path, column: str) -> None:
    labels = gpd.read_parquet(world / "labels" / "synthetic_north.parquet")
    labels[column] += 10
    values = values_from_files(world, done, "synthetic_north")
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        require_samples_of(values, done, "synthetic_north", labels)


def test_pseudo_labels_contradict_no_label(done: Path) -> None:
    for city in ("synthetic_north", "synthetic_south"):
        pseudo = gpd.read_parquet(done / city / "pseudo_labels.parquet")
        assert (pseudo["confidence"] >= 0.795).all()
        assert pseudo["lcz"].between(1, 17).all()


def test_scores_name_unit_split_and_leak(done: Path) -> None:
    scores = json.loads((done / "scores.json").read_text())
    assert scores["synthetic"] == 1
    for name in ("xgb", "forest", "forest_pixels", "unet"):
        row = scores["scores"][name]
        assert row["unit"] == "patch"
        assert row["split"] == "polygon, 5 folds"
        assert row["leakage"]["n_test"] == row["n"]
    assert set(scores["per_city"]) == {"synthetic_north", "synthetic_south"}


def test_a_protocol_scores_a_run_and_leaves_its_own_scores_alone(
    done: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (done / "scores.json").read_bytes()
    scores = json.loads((done / "scores.json").read_text())
    assert lczcube("evaluate", done, "--protocol", "culture-10") == 0
    text = (done / "scores_culture-10.md").read_text()
    assert text in capsys.readouterr().out
    assert text.startswith("Protocol culture-10: So2Sat's official split")
    found = json.loads((done / "scores_culture-10.json").read_text())
    assert set(found["scores"]) == set(scores["scores"])
    assert {row["split"] for row in found["scores"].values()} == {"given"}
    assert (done / "scores.json").read_bytes() == before
    pair = (done, done, "--models", "xgb", "forest", "--protocol", "culture-10")
    (expected,) = (row for row in found["comparisons"] if row["names"] == ["xgb", "forest"])
    assert compared(capsys, *pair)["comparison"] == expected
    assert lczcube("compare", *pair) == 0
    assert capsys.readouterr().out.startswith("Protocol culture-10: So2Sat's official split")
    record = (done / "run.json").read_bytes()
    set_other_rounds(done, world)
    status, error = refused(capsys, "compare", *pair)
    (done / "run.json").write_bytes(record)
    assert (status, "of protocol 'culture-10', which are out of date" in error) == (1, True)


def set_other_rounds(run: Path, world: Path) -> None:
    """Have a run's city file say that XGBoost has other rounds."""
    record = json.loads((run / "run.json").read_text())
    path = world / "rounds.toml"
    path.write_text(Path(record["config"]).read_text().replace("rounds = 15", "rounds = 9"))
    (run / "run.json").write_text(json.dumps(record | {"config": str(path)}))


def compared(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    """What `lczcube compare --json` prints."""
    capsys.readouterr()
    assert lczcube("compare", *arguments, "--json") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.fixture
def other(done: Path, tmp_path: Path) -> Path:
    """Another folder of the same run, with its records and scores alone."""
    folder = tmp_path / "other"
    shutil.copytree(done, folder, ignore=shutil.ignore_patterns("*.zarr", "models"))
    for path in [*done.glob("*/*.zarr"), done / "models"]:
        (folder / path.relative_to(done)).symlink_to(path)
    return folder


def test_two_models_of_a_run_compare_as_in_its_scores(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = json.loads((done / "scores.json").read_text())
    listed = {tuple(row["names"]): row for row in scores["comparisons"]}
    for name in ("forest", "unet"):
        found = compared(capsys, done, done, "--models", "xgb", name)
        assert found["comparison"] == listed["xgb", name]
        assert found["n"] == [scores["scores"]["xgb"]["n"]] * 2
        assert found["warnings"] == []
    assert lczcube("compare", done, done, "--models", "xgb", "forest") == 0
    out = capsys.readouterr().out
    assert out.startswith("| difference   | seeds |")
    assert f"{listed['xgb', 'forest']['statement']} Both scored the same " in out


def test_the_guide_compares_two_models_by_command_and_in_python(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[1] / "docs" / "guide" / "scores.md").read_text(encoding="utf-8")
    section = page.split("### Models of a run, or of two")[1].split("\n## ")[0]
    code, command = (
        section.split(f"```{kind}\n")[1].split("```")[0] for kind in ("python", "console")
    )
    (tmp_path / "RUN").symlink_to(done)
    monkeypatch.chdir(tmp_path)
    assert lczcube(*command.removeprefix("$ lczcube ").split()) == 0
    by_command = capsys.readouterr().out
    exec(compile(code, "scores.md", "exec"), {})
    assert capsys.readouterr().out == by_command
    listed = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", section, re.MULTILINE)
    assert tuple(re.findall(r"\w+", " ".join(listed))) == COLUMNS


def test_models_of_two_runs_are_compared_on_shared_units(
    done: Path, other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = read_predictions(other / "predictions.parquet")
    kept = table[table["city"] == "synthetic_north"]
    write_predictions(kept.assign(trained_on="fewer"), other / "predictions.parquet")
    found = compared(capsys, done, other)
    assert found["comparison"]["names"] == ["run xgb", "other xgb"]
    n = kept["patch_id"].nunique()
    assert found["n"] == [table["patch_id"].nunique(), n]
    assert (found["n_shared"], found["n_trained_apart"]) == (n, n)
    assert found["comparison"]["differences"]["oa"] == 0
    assert "did not learn from the same labels" in found["warnings"][0]


def test_a_comparison_without_predictions_is_refused_with_the_command_that_makes_them(
    done: Path, other: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, error = refused(capsys, "compare", done, done)
    assert (status, "with itself; name two models: --models xgb OTHER" in error) == (2, True)
    status, error = refused(capsys, "compare", done, done, "--models", "xgb", "none")
    assert (status, "model 'none' was not scored; there are xgb, unet, forest" in error) == (
        2,
        True,
    )
    status, error = refused(capsys, "compare", done, done, "--models", "xgb", "unet", "forest")
    assert (status, "--models xgb, unet, forest: give one value for both" in error) == (2, True)
    status, error = refused(capsys, "compare", done, other, "--protocol", "wudapt")
    assert status == 1
    assert "the predictions of protocol 'wudapt', which are missing in" in error
    assert error.endswith(f"run `lczcube evaluate {done} --protocol wudapt` first.")
    (other / "predictions.parquet").unlink()
    status, error = refused(capsys, "compare", done, other)
    assert (status, f"'evaluate', which is missing in {other}" in error) == (1, True)
    set_other_rounds(other, world)
    status, error = refused(capsys, "compare", done, other)
    assert (status, f"'train xgb', which is out of date in {other}" in error) == (1, True)


def test_a_template_lies_on_the_grid_of_its_run(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "areas.gpkg"
    assert lczcube("template", path, "--run", done, "--city", "synthetic_south") == 0
    grid = grid_of_run(done, "synthetic_south")
    cells = gpd.read_file(path, layer="cells")
    assert cells.crs == grid.crs
    assert tuple(cells.total_bounds) == grid.bbox
    status, error = refused(capsys, "template", tmp_path / "b.gpkg", "--run", done)
    assert status == 2
    assert "has synthetic_north, synthetic_south; name one with --city" in error
    status, error = refused(
        capsys, "template", path, "--run", done, "--city", "synthetic_south", "--crs", "EPSG:4326"
    )
    assert (status, "with a run it is the CRS of the city's grid" in error) == (2, True)
    status, error = refused(capsys, "template", tmp_path / "b.gpkg", "--city", "synthetic_south")
    assert (status, "is of a run; name its folder with --run" in error) == (2, True)


def test_labels_of_a_run_are_checked_and_none_is_dropped(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lczcube("check-labels", done) == 0
    out = capsys.readouterr().out
    for city in ("synthetic_north", "synthetic_south"):
        assert f"{city}: " in out
        assert (done / city / "suspects.gpkg").exists()
        assert (done / city / "suspects.png").stat().st_size > 10_000
    assert out.count("none was dropped") == 2


def test_a_protocol_needs_features(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = city_file(world)
    status, error = refused(
        capsys, "evaluate", tmp_path / "r", "--config", config, "--protocol", "wudapt"
    )
    assert status == 1
    assert "protocol 'wudapt' needs 'build-catalog', which is missing" in error


def test_two_worker_processes_give_the_same_bytes_as_threads(done: Path) -> None:
    copy = done.with_name("on_workers")  # beside it: the catalog names the data from there
    shutil.copytree(done, copy)
    command = [sys.executable, "-m", "lczcube.cli"]
    options = ["--overwrite", "--cluster", "local", "--workers", "2"]
    for city in ("synthetic_north", "synthetic_south"):
        for name in ("features.zarr", "propagated.zarr", "lcz.zarr"):
            shutil.rmtree(copy / city / name)
    for stage in ("aggregate", "propagate", "predict"):
        subprocess.run([*command, stage, copy, *options], check=True, timeout=120)
    for pattern in ("*/features.zarr/**/*", "*/lcz.zarr/**/*", "*/pseudo_labels.parquet"):
        assert digests(copy, pattern) == digests(done, pattern)


def test_a_stage_alone_needs_the_stage_before(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = lczcube("propagate", tmp_path / "run", "--config", city_file(world))
    assert status == 1
    assert "stage 'propagate' needs 'build-catalog', which is missing" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_stage_that_is_lost_is_done_again_and_gives_the_same_bytes(
    done: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(done, copy)
    before = digests(copy, "*/lcz.zarr/**/*")
    shutil.rmtree(copy / "synthetic_north" / "lcz.zarr")
    assert lczcube("predict", copy) == 0
    assert digests(copy, "*/lcz.zarr/**/*") == before


def test_a_dry_run_writes_nothing(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lczcube("run", city_file(world), tmp_path / "run", "--dry-run") == 0
    assert "build-catalog  missing" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    """Status and error of a refused command; the error is one line."""
    status = lczcube(*arguments)
    lines = capsys.readouterr().err.strip().splitlines()
    message = lines[-1]
    assert message.startswith("lczcube: ")
    assert not any("Traceback" in line for line in lines)
    return status, message


def changed(world: Path, old: str, new: str) -> Path:
    text = (world / "world.toml").read_text()
    assert old in text
    path = world / "changed.toml"
    path.write_text(text.replace(old, new))
    return path


@pytest.mark.parametrize(
    ("old", "new", "status", "said"),
    [
        ("labels/{city}.parquet", "labels/none.parquet", 1, "none.parquet"),
        ("folds = 5", "fold = 5", 2, "unknown key 'fold'"),
        ("cell_m = 320", "cell_m = 320\nstride_m = 30", 2, "stride_m = 30 is illegal"),
        (
            "cell_m = 320",
            'cell_m = 320\nanchor = "alphaearth"',
            2,
            "conflicts with the anchor's EPSG:32632",
        ),
    ],
    ids=["missing file", "unknown key", "illegal stride", "conflicting crs"],
)
def test_bad_input_is_one_line_with_its_remedy(
    world: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    old: str,
    new: str,
    status: int,
    said: str,
) -> None:
    config = changed(world, old, new)
    if "anchor" in new:
        north = "[city.synthetic_north]"
        config.write_text(config.read_text().replace(north, f'{north}\ncrs = "EPSG:32633"'))
    found, message = refused(capsys, "run", config, tmp_path / "run")
    assert found == status
    assert said in message
    assert not list(tmp_path.glob("**/*.partial"))


def test_labels_with_code_18_are_refused_by_file_and_count(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = gpd.read_parquet(world / "labels" / "synthetic_north.parquet")
    labels.loc[labels.index[:3], "lcz"] = 18
    labels.to_parquet(world / "labels" / "bad.parquet")
    config = changed(world, "labels/{city}.parquet", "labels/bad.parquet")
    status, message = refused(capsys, "run", config, tmp_path / "run")
    assert status == 1
    assert "bad.parquet" in message
    assert "18 (3 times)" in message


def test_labels_that_miss_the_grid_are_refused(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = gpd.read_parquet(world / "labels" / "synthetic_north.parquet")
    labels["x0"] += 50_000
    labels = labels.set_geometry(labels.translate(50_000))
    labels.to_parquet(world / "labels" / "far.parquet")
    config = changed(world, "labels/{city}.parquet", "labels/far.parquet")
    status, message = refused(capsys, "run", config, tmp_path / "run")
    assert status == 1
    assert "no label" in message


def test_a_raster_without_crs_is_refused(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with rasterio.open(
        world / "bare.tif", "w", driver="GTiff", width=8, height=8, count=1, dtype="uint8"
    ) as file:
        file.write(np.ones((1, 8, 8), np.uint8))
    config = changed(world, "alphaearth/{city}/annual/{year}/*/*.tiff", "bare.tif")
    status, message = refused(capsys, "run", config, tmp_path / "run")
    assert status == 1
    assert "bare.tif" in message
    assert "CRS" in message


def test_the_example_of_the_guide_of_propagation_runs(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[1] / "docs" / "guide" / "propagate.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "run").symlink_to(done)
    monkeypatch.chdir(tmp_path)
    exec(block, {})
    out = capsys.readouterr().out.splitlines()
    assert re.match(r"calibration error 0\.\d{3} raw, 0\.\d{3} calibrated", out[0])
    assert re.match(r"\d+ of \d+ cells kept", out[1])


def test_an_audit_leaves_tables_and_a_picture(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(done, run, symlinks=True)
    assert lczcube("audit", run) == 0
    out = capsys.readouterr().out
    assert out == (run / "audit.md").read_text()
    assert out.startswith("Propagation, synthetic-7 (synthetic data)\n")
    audit = json.loads((run / "audit.json").read_text())
    ways = {(row["policy"], row["method"]) for row in audit["summary"]}
    assert {("pooled", "city"), ("by city, z by city", "city")} <= ways
    assert (run / "audit.png").stat().st_size > 10_000


def test_an_audit_before_there_are_features_says_what_is_missing(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lczcube("audit", tmp_path / "run", "--config", city_file(world)) == 1
    assert "audit needs 'build-catalog', which is missing" in capsys.readouterr().err


def test_labels_of_a_city_that_is_no_donor_change_no_byte(
    done: Path, world: Path, tmp_path: Path
) -> None:
    """Held-out cities never donate: whatever their labels say, the votes are the same."""
    run = tmp_path / "run"
    shutil.copytree(done, run, symlinks=True)
    config = city_file(world, '["xgb", "unet"]')
    held = config.with_name("held.toml")
    text = config.read_text()
    assert 'donors = "all"' in text
    held.write_text(text.replace('donors = "all"', 'donors = ["synthetic_north"]'))
    assert lczcube("propagate", run, "--config", held) == 0
    before = propagated(run)
    south = json.loads((run / "synthetic_south" / "propagate.json").read_text())
    assert south["counts"]["contradicts_a_label"] == 0  # its labels take no part at all
    samples = read_samples(run / "synthetic_south" / "samples.parquet")
    poisoned = samples.assign(lcz=("sample", (18 - samples["lcz"].values).astype(np.uint8)))
    write_samples(poisoned, run / "synthetic_south" / "samples.parquet")
    assert lczcube("propagate", run, "--config", held, "--overwrite") == 0
    assert propagated(run) == before
    assert lczcube("propagate", run, "--config", config, "--overwrite") == 0
    assert propagated(run) != before


def test_the_donors_are_stored_once_and_swept_when_they_are_others(
    done: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(done, run, symlinks=True)
    before = digests(run, ".donors/**/*")
    assert len({Path(name).parent for name in before}) == 1  # both cities pool their labels
    facts = json.loads((run / "synthetic_north" / "propagate.json").read_text())["search"]
    assert [(one["method"], one["n_donors"]) for one in facts] == [("exact", 202)]
    monkeypatch.setattr("lczcube.rundonors.build_index", None)  # nothing is built again
    assert lczcube("propagate", run, "--overwrite") == 0
    assert digests(run, ".donors/**/*") == before
    monkeypatch.undo()
    (damaged,) = run.glob(".donors/*/vectors.npy")
    damaged.write_bytes(damaged.read_bytes()[:-8] + b"damaged!")
    (run / ".donors" / ".DS_Store").touch()
    assert lczcube("propagate", run, "--overwrite") == 0
    (run / ".donors" / ".DS_Store").unlink()
    assert digests(run, ".donors/**/*") == before
    damaged.with_name("index.json").unlink()
    assert lczcube("propagate", run, "--overwrite") == 0
    assert digests(run, ".donors/**/*") == before
    config = city_file(world, '["xgb", "unet"]').with_name("by_city.toml")
    text = (world / "small_1.toml").read_text()
    config.write_text(text.replace('donors = "all"', 'donors = "all"\nmerge = "by_city"'))
    assert lczcube("propagate", run, "--config", config) == 0
    after = {Path(name).parent for name in digests(run, ".donors/**/*")}
    assert len(after) == 2
    assert not after & {Path(name).parent for name in before}


def test_a_plan_says_what_the_search_for_donors_will_cost(
    done: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lczcube("run", city_file(world, '["xgb", "unet"]'), done, "--dry-run") == 0
    assert "propagate: 202 donors, 56 cells; exact search" in capsys.readouterr().out


def propagated(run: Path) -> dict[str, str]:
    return (
        digests(run, "*/propagat*/**/*") | digests(run, "*/p*.parquet") | digests(run, "*/p*.json")
    )


def test_every_way_to_propagate_works_in_a_run(done: Path, world: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(done, run, symlinks=True)
    config = city_file(world, '["xgb", "unet"]')
    plain = config.read_text()
    told = {}
    for name, settings in {
        "by class": 'min_confidence = { "11" = 0.2, other = 0.99 }',
        "precision": 'cut = "precision"\ntarget_precision = 0.9\nmerge = "by_city"',
        "quantile": 'cut = "quantile"\nkeep_share = 0.5\ncalibrate = "none"\nnovelty = 1',
        "z by city": 'standardise = "city"\npca = 0.9\nweights = { alphaearth = 2 }',
    }.items():
        table = "[propagate]\n" + settings
        other = config.with_name("other.toml")
        other.write_text(re.sub(r"\[propagate\]\n(.+\n)*", f"{table}\n", plain))
        assert lczcube("propagate", run, "--config", other) == 0, name
        told[name] = json.loads((run / "synthetic_north" / "propagate.json").read_text())
    assert set(told["by class"]["cut"].values()) == {0.2, 0.99}
    kept = {code: counts["kept"] for code, counts in told["by class"]["of_class"].items()}
    assert sum(kept.values()) == kept.get("11", 0)
    assert told["precision"]["voting"]["merge"] == "by_city"
    for counts in told["quantile"]["of_class"].values():
        assert counts["calibrated"] >= round(0.5 * counts["cells"])
    assert told["quantile"]["calibration"] is told["quantile"]["novelty_limit"] is None
    assert told["quantile"]["reliability"]["error_calibrated"] is None
    assert told["z by city"]["n_dimensions"] < told["by class"]["n_dimensions"]
