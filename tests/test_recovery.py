"""What a run makes of a world whose truth is known, on ground that no label touches."""

import json
import shutil
from pathlib import Path

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import shapely
import xarray as xr

from lczcube.cli import main
from lczcube.labels.samples import read_samples, write_samples
from lczcube.synth import write_world

CELL_PX, CELL_M = 32, 320
CITIES = ("synthetic_north", "synthetic_south")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default world of two cities."""
    folder = tmp_path_factory.mktemp("synth") / "world"
    write_world(folder, seed=7)
    return folder


@pytest.fixture(scope="module")
def run(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole path by XGBoost; of the scores, which are not looked at here, as few as can be."""
    text = (world / "world.toml").read_text().replace('["xgb", "unet"]', '["xgb"]')
    config = world / "xgb.toml"
    config.write_text(text.replace("folds = 5", "folds = 2\nbaselines = []"))
    folder = tmp_path_factory.mktemp("runs") / "run"
    with pytest.raises(SystemExit) as exit_:
        main(["run", str(config), str(folder)])
    assert not exit_.value.code
    return folder


def truth_of_cells(world: Path, city: str) -> npt.NDArray[np.uint8]:
    """The class that fills each cell of the true map, 0 where several share it."""
    with rasterio.open(world / "truth" / f"{city}_lcz.tif") as file:
        truth = file.read(1)
    height, width = (n // CELL_PX for n in truth.shape)
    cells = truth.reshape(height, CELL_PX, width, CELL_PX)
    least, most = cells.min(axis=(1, 3)), cells.max(axis=(1, 3))
    return np.where(least == most, most, np.uint8(0))


def untouched(cells: xr.Dataset, labels: gpd.GeoDataFrame) -> npt.NDArray[np.bool_]:
    """Cells whose ground no label shares."""
    x, y = np.meshgrid(cells["x"].values, cells["y"].values)
    squares = shapely.box(x - CELL_M / 2, y - CELL_M / 2, x + CELL_M / 2, y + CELL_M / 2)
    labelled = shapely.union_all(labels.geometry.to_numpy())
    overlap = shapely.area(shapely.intersection(squares, labelled))
    return np.asarray(overlap == 0)


def test_the_truth_of_unlabelled_cells_is_recovered_to_nine_tenths_of_the_optimum(
    world: Path, run: Path
) -> None:
    right = n_cells = 0
    for city in CITIES:
        cells = xr.open_zarr(run / city / "lcz.zarr", group="cells")
        labels = gpd.read_parquet(world / "labels" / f"{city}.parquet")
        truth = truth_of_cells(world, city)
        judged = (truth > 0) & untouched(cells, labels)
        right += int((cells["lcz"].values == truth)[judged].sum())
        n_cells += int(judged.sum())
    optimum = json.loads((world / "world.json").read_text())["bayes"]["accuracy"]
    assert n_cells >= 100  # 0.025 is then the standard error of an accuracy of 0.93
    assert right / n_cells >= 0.9 * optimum, f"{right} of {n_cells} cells, optimum {optimum}"


def test_a_class_that_a_city_has_no_label_of_is_found_by_the_labels_of_another(
    world: Path, run: Path, tmp_path: Path
) -> None:
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    here, there = (read_samples(copied / city / "samples.parquet")["lcz"].values for city in CITIES)
    path = copied / CITIES[1] / "samples.parquet"
    cells = xr.open_zarr(run / CITIES[1] / "lcz.zarr", group="cells")
    labels = gpd.read_parquet(world / "labels" / f"{CITIES[1]}.parquet")
    judged = truth_of_cells(world, CITIES[1]) * untouched(cells, labels)
    common = [code for code in np.unique(there).tolist() if code in here]
    code = max(common, key=lambda one: int((judged == one).sum()))
    samples = read_samples(path)
    write_samples(samples.isel(sample=np.flatnonzero(there != code)), path)
    with pytest.raises(SystemExit) as exit_:
        main(["propagate", str(copied), "--overwrite"])
    assert not exit_.value.code
    voted = xr.open_zarr(copied / CITIES[1] / "propagated.zarr", group="cells")["lcz"].values
    mine = judged == code
    assert mine.sum() >= 10
    assert (voted[mine] == code).mean() > 0.5
    assert (judged[(voted == code) & (judged > 0)] == code).mean() > 0.5
