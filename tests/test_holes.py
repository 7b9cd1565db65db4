"""A layer that one city lacks, and a cube that was brought home, through the whole pipeline."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine

from lczcube.cube import open_cube
from lczcube.products import open_features
from lczcube.runfolder import open_run
from lczcube.synth import write_world
from tests.test_pipeline import city_file, digests, lczcube


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cities, of which only the northern one has heights."""
    folder = tmp_path_factory.mktemp("holes") / "world"
    write_world(folder, cities=2, km=2.0, seed=7)
    tile = sorted((folder / "alphaearth" / "synthetic_north").rglob("*.tiff"))[0]
    with rasterio.open(tile) as file:
        crs, x0, y1 = file.crs, file.transform.c - 5000, file.transform.f + 10_000
    heights = np.random.default_rng(0).random((1, 1500, 1500)).astype(np.float32)
    profile = {"driver": "GTiff", "count": 1, "dtype": "float32", "crs": crs}
    transform = Affine(10, 0, x0, 0, -10, y1)
    with rasterio.open(
        folder / "heights.tif", "w", height=1500, width=1500, transform=transform, **profile
    ) as file:
        file.write(heights)
    return folder


def with_heights(world: Path, missing: str) -> Path:
    text = city_file(world).read_text()
    text = text.replace('features = ["alphaearth"]', 'features = ["alphaearth", "heights"]')
    text = text.replace("[run]", f'[run]\nmissing = "{missing}"')
    table = '[[input]]\nname = "heights"\nsource = "raster"\nhref = "heights.tif"\nyear = 2021\n'
    path = world / f"{missing}.toml"
    path.write_text(text + "synthetic = true\n".join(["\n" + table, ""]))
    return path


def test_a_layer_that_a_city_lacks_is_refused_by_name(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lczcube("run", with_heights(world, "refuse"), tmp_path / "run") == 1
    said = capsys.readouterr().err
    assert "city 'synthetic_south': layer 'heights' has no item on this grid" in said
    assert 'missing = "drop_layer"' in said


def test_a_city_without_a_layer_is_shown_all_the_same(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, config = tmp_path / "run", with_heights(world, "refuse")
    assert lczcube("build-catalog", run, "--config", config) == 0
    capsys.readouterr()
    assert lczcube("describe", run, "--config", config, "--picture", run / "new" / "it.png") == 1
    said = capsys.readouterr().out
    assert said.count("no cube: ") == 1
    assert "no cube: city 'synthetic_south': layer 'heights' has no item on this grid" in said
    row = next(line.split() for line in said.splitlines() if line.startswith("synthetic_south  "))
    assert row[:3] == ["synthetic_south", "2021", "100%"]
    assert "-" in row
    assert (run / "new" / "it.png").is_file()


def test_a_run_can_be_made_stage_by_stage(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, config = tmp_path / "run", city_file(world)
    assert lczcube("build-catalog", run, "--config", config, "--dry-run") == 0
    assert not (run / "catalog").exists()
    assert lczcube("build-catalog", run, "--config", config) == 0
    assert lczcube("cube", run) == 0
    assert (run / "synthetic_south" / "cube.json").is_file()
    capsys.readouterr()
    assert lczcube("build-catalog", run) == 0
    assert "up to date" in capsys.readouterr().out
    assert lczcube("build-catalog", config) == 2
    assert "is a file; name the folder of the catalog too" in capsys.readouterr().err
    assert lczcube("build-catalog", config, tmp_path / "c", "--config", config) == 2
    assert lczcube("build-catalog", config, tmp_path / "c", "--workers", "0") == 2
    assert "workers = 0: " in capsys.readouterr().err


def test_a_budget_that_is_no_size_is_refused_before_anything_is_done(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lczcube("run", city_file(world), tmp_path / "run", "--memory", "lots") != 0
    assert "lots" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_dropped_layer_is_in_no_table(world: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert lczcube("run", with_heights(world, "drop_layer"), run) == 0
    for city in ("synthetic_north", "synthetic_south"):
        names = open_features(run / city / "features.zarr")["feature"].values.tolist()
        assert not [name for name in names if name.startswith("heights")]


def test_an_indicator_carries_a_hole_to_the_map(world: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert lczcube("run", with_heights(world, "indicator"), run) == 0
    north, south = (
        open_features(run / f"synthetic_{city}" / "features.zarr") for city in ("north", "south")
    )
    assert north["feature"].values.tolist() == south["feature"].values.tolist()
    present = [ds.sel(feature="heights_present")["features"].values for ds in (north, south)]
    assert (present[0] == 1).all()
    assert (present[1] == 0).all()
    assert np.isnan(south.sel(feature="heights_b01_mean")["features"].values).all()
    for city in ("synthetic_north", "synthetic_south"):
        lcz = xr.open_zarr(run / city / "lcz.zarr", group="cells")["lcz"].values
        assert (lcz > 0).mean() > 0.5
        assert (xr.open_zarr(run / city / "propagated.zarr", group="cells")["lcz"].values > 0).any()
    layers = json.loads((run / "synthetic_south" / "cube.json").read_text())["layers"]
    assert layers["heights"]["present"] == 0
    assert layers["alphaearth"]["covered_share"] > 0.5


def test_a_cube_brought_home_serves_the_run_in_place_of_its_files(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    config = city_file(world)
    assert lczcube("run", config, run) == 0
    before = digests(run, "*/features.zarr/**/*")
    assert lczcube("cube", run, "--write") == 0
    assert "shards written" in capsys.readouterr().out
    assert lczcube("cube", run, "--write") == 0
    assert " 0 of " in capsys.readouterr().out
    opened = open_run(run)
    for city in opened.cities:
        stored = opened.cube(city)
        assert all("cube.zarr" not in str(v.attrs) for v in stored.data_vars.values())
        files = open_cube(
            opened.catalog, opened.grids[city], inputs=["alphaearth"], year=opened.table.year
        )
        xr.testing.assert_identical(stored.compute(), files.compute())
    away = world.parent / "away"
    (world / "alphaearth").rename(away)
    try:
        assert lczcube("aggregate", run, "--overwrite") == 1
        assert "needs 'build-catalog', which is out of date" in capsys.readouterr().err
    finally:
        away.rename(world / "alphaearth")
    assert lczcube("aggregate", run, "--overwrite") == 0
    assert digests(run, "*/features.zarr/**/*") == before


def test_a_plan_names_items_reads_and_bytes(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert lczcube("build-catalog", with_heights(world, "indicator"), run / "catalog") == 0
    assert lczcube("run", with_heights(world, "indicator"), run) == 0
    capsys.readouterr()
    assert lczcube("run", with_heights(world, "indicator"), run, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "alphaearth: 4 items, 4 reads, about" in said
    assert "heights: absent" in said
    assert "projected peak" in said
