"""The real scene of Hong Kong from its files to its maps and scores, as `lczcube run` does it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import xarray as xr
from affine import Affine

from lczcube.grid import Grid
from lczcube.lcz import NODATA
from tests.conftest import PROJECT

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]

MAPS = ("cells", "pixels")


@pytest.fixture(scope="module")
def stack(realdata: Path) -> Path:
    path = realdata / "hongkong" / "landsat8_36band_100m.tif"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return path


@pytest.fixture(scope="module")
def run(stack: Path, realdata: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`lczcube run catalogs/hongkong.toml`, XGBoost by five seeds, the U-Net by one."""
    folder = tmp_path_factory.mktemp("hongkong") / "run"
    command = [sys.executable, "-W", "error", "-m", "lczcube.cli", "run"]
    environment = os.environ | {"LCZCUBE_REALDATA": str(realdata)}
    config = PROJECT / "catalogs" / "hongkong.toml"
    done = subprocess.run(
        [*command, config, folder], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    return folder


@pytest.fixture(scope="module")
def scores(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "scores.json").read_text()))


def grid_of_run(run: Path) -> Grid:
    return Grid.from_dict(json.loads((run / "hongkong" / "cube.json").read_text())["grid"])


def opened(run: Path, name: str) -> xr.Dataset:
    return xr.open_zarr(run / "hongkong" / "lcz.zarr", group=name)


def pixels_of_stack(stack: Path, dataset: xr.Dataset) -> tuple[npt.NDArray[Any], ...]:
    """Rows and columns of the stack under a map's rows and columns, by their coordinates."""
    with rasterio.open(stack) as file:
        inverse = ~file.transform
    columns, _ = inverse * (dataset["x"].values, np.zeros(dataset.sizes["x"]))
    _, rows = inverse * (np.zeros(dataset.sizes["y"]), dataset["y"].values)
    return np.floor(rows).astype(int), np.floor(columns).astype(int)


@pytest.mark.parametrize("name", MAPS)
def test_the_map_covers_every_valid_pixel_and_no_other(run: Path, stack: Path, name: str) -> None:
    with rasterio.open(stack) as file:
        valid = (file.read() != file.nodata).all(axis=0)
    dataset = opened(run, name)
    rows, columns = pixels_of_stack(stack, dataset)
    row_in = (rows >= 0) & (rows < valid.shape[0])
    column_in = (columns >= 0) & (columns < valid.shape[1])
    mapped = dataset["lcz"].values != NODATA
    assert (row_in.sum(), column_in.sum()) == valid.shape  # the map holds all of the stack
    np.testing.assert_array_equal(mapped[np.ix_(row_in, column_in)], valid)
    assert int(mapped.sum()) == int(valid.sum())  # and nothing past its edges


@pytest.mark.parametrize("name", MAPS)
def test_crs_and_nodata_are_those_of_the_grid(run: Path, stack: Path, name: str) -> None:
    dataset, grid = opened(run, name), grid_of_run(run)
    assert dataset.attrs["proj:code"] == grid.crs == "EPSG:32649"
    assert dataset["lcz"].attrs["nodata"] == NODATA
    written = rasterio.crs.CRS.from_wkt(dataset["spatial_ref"].attrs["crs_wkt"])
    with rasterio.open(stack) as file:
        assert written == file.crs


@pytest.mark.parametrize("name", MAPS)
def test_the_transform_is_the_inputs_own_to_a_micrometre(run: Path, stack: Path, name: str) -> None:
    dataset = opened(run, name)
    transform = Affine(*dataset.attrs["spatial:transform"])
    with rasterio.open(stack) as file:
        wanted = file.transform
    assert transform[:6:4] == wanted[:6:4] == (100.0, -100.0)
    rows, columns = pixels_of_stack(stack, dataset)
    x, y = wanted * (columns[0], rows[0])
    np.testing.assert_allclose((transform.c, transform.f), (x, y), rtol=0, atol=1e-6)


def test_the_scores_hold_the_paired_comparison_with_its_bootstrap(
    run: Path, scores: dict[str, Any]
) -> None:
    text = (run / "scores.md").read_text()
    print(text)
    for row in ("xgb - forest ", "xgb - forest_pixels ", "xgb - unet "):
        (line,) = (line for line in text.splitlines() if line.startswith(f"| {row}"))
        assert line.count("[") == 3, line
    assert len(scores["scores"]["xgb"]["repeats"]) == 5
    assert scores["scores"]["xgb"]["leakage"]["n_test"] == scores["scores"]["xgb"]["n"]


def compared(scores: dict[str, Any], other: str) -> dict[str, Any]:
    (found,) = (row for row in scores["comparisons"] if row["names"] == ["xgb", other])
    assert found["repeats"] == [5, 5]
    return dict(found)


@pytest.mark.parametrize("metric", ["oa", "macro_f1"])
def test_xgboost_is_not_below_the_windows_forest_by_more_than_noise(
    scores: dict[str, Any], metric: str
) -> None:
    low, high = compared(scores, "forest")["intervals"][metric]
    assert high >= 0, f"xgb - forest: 95 % interval {low:+.3f} to {high:+.3f}"


@pytest.mark.parametrize("metric", ["oa", "macro_f1"])
def test_xgboost_is_above_the_forest_on_bare_pixels(scores: dict[str, Any], metric: str) -> None:
    assert compared(scores, "forest_pixels")["differences"][metric] > 0
