"""A map, read by people who have xarray and zarr and nothing of ours."""

import json
import os
import subprocess
import venv
from pathlib import Path
from typing import Any

import pytest

from lczcube.grid import Grid
from lczcube.lcz import ZONES
from lczcube.products import write_product
from lczcube.schema import KINDS
from lczcube.synth import write_world
from tests.conftest import PROJECT
from tests.test_pipeline import city_file, lczcube
from tests.test_product_schema import complete_maps
from tests.test_products import maps_on

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

CITY = "synthetic_north"

READ = """
import importlib.metadata
import json
import sys

import xarray as xr

def facts(dataset):
    lcz = dataset["lcz"]
    return {
        "dims": dict(dataset.sizes),
        "coords": sorted(dataset.coords),
        "corner": [float(dataset["x"][0]), float(dataset["y"][0])],
        "grid_mapping": lcz.attrs.get("grid_mapping", lcz.encoding.get("grid_mapping")),
        "crs": dataset["spatial_ref"].attrs["crs_wkt"].split('"')[1],
        "names": lcz.attrs["flag_meanings"].split(),
        "codes": [int(code) for code in lcz.attrs["flag_values"]],
        "found": sorted({int(code) for code in lcz.values.ravel()}),
        "confidence": float(dataset["confidence"].max()),
    }

store = sys.argv[1]
tree = xr.open_datatree(store, engine="zarr")
print(json.dumps({
    "installed": sorted(d.metadata["Name"].lower() for d in importlib.metadata.distributions()),
    "groups": sorted(tree.children),
    "zarr": {name: facts(xr.open_zarr(store, group=name)) for name in tree.children},
    "tree": {name: facts(tree[name].to_dataset()) for name in tree.children},
}))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of both models on one small city."""
    folder = tmp_path_factory.mktemp("run")
    write_world(folder / "world", cities=1, km=2.0, seed=7)
    config = city_file(folder / "world", '["xgb", "unet"]')
    config.write_text(config.read_text().replace("folds = 5", "folds = 2\nbaselines = []"))
    assert lczcube("run", config, folder / "run") == 0
    return folder / "run"


@pytest.fixture(scope="module")
def seen(run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a new environment with xarray and zarr alone finds; a warning there is an error."""
    python = new_environment(tmp_path_factory.mktemp("bare"), "xarray", "zarr")
    return said_by(python, READ, run / CITY / "lcz.zarr")


def new_environment(folder: Path, *packages: str) -> Path:
    """The Python of a fresh virtual environment with some packages."""
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    quiet = ["--quiet", "--disable-pip-version-check", "--no-input"]
    pins = ["--constraint", str(PROJECT / "constraints.txt")]
    subprocess.run([python, "-m", "pip", "install", *quiet, *pins, *packages], check=True)
    return python


def said_by(python: Path, script: str, *arguments: object) -> dict[str, Any]:
    """What a script prints as JSON; a warning there is an error."""
    command = [str(python), "-I", "-W", "error", "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return dict(json.loads(done.stdout))


def test_the_environment_holds_nothing_of_ours(seen: dict[str, Any]) -> None:
    assert {"xarray", "zarr"} <= set(seen["installed"])
    assert not {"lczcube", "rioxarray", "rasterio", "dask", "odc-geo"} & set(seen["installed"])


def test_both_maps_are_there_by_either_door(seen: dict[str, Any]) -> None:
    assert seen["groups"] == ["cells", "pixels"]
    assert seen["zarr"] == seen["tree"]


def test_dims_and_coordinates_are_those_of_the_grid(seen: dict[str, Any], run: Path) -> None:
    grid = Grid.from_dict(json.loads((run / CITY / "cube.json").read_text())["grid"])
    boxes = {"cells": grid.output_geobox, "pixels": grid.geobox}
    for name, geobox in boxes.items():
        found = seen["zarr"][name]
        height, width = geobox.shape
        assert found["dims"] == {"y": height, "x": width, "lcz_class": 17}
        assert found["coords"] == ["lcz_class", "spatial_ref", "x", "y"]
        assert found["corner"] == [
            float(geobox.coordinates["x"].values[0]),
            float(geobox.coordinates["y"].values[0]),
        ]


def test_the_crs_is_named_where_cf_readers_look_for_it(seen: dict[str, Any]) -> None:
    for found in seen["zarr"].values():
        assert found["grid_mapping"] == "spatial_ref"
        assert found["crs"] == "WGS 84 / UTM zone 32N"


def test_class_names_come_with_their_codes(seen: dict[str, Any]) -> None:
    for found in seen["zarr"].values():
        assert found["codes"] == [zone.code for zone in ZONES]
        assert len(found["names"]) == len(ZONES)
        assert found["names"][-1] == "lcz_g_water"
        assert set(found["found"]) <= {0, *found["codes"]}
        assert 0 < found["confidence"] <= 1


READ_WITH_RIOXARRAY = """
import json
import sys

import rioxarray
import xarray as xr

def facts(array):
    return {
        "epsg": array.rio.crs.to_epsg(),
        "transform": [float(v) for v in array.rio.transform()[:6]],
        "nodata": None if array.rio.nodata is None else float(array.rio.nodata),
        "encoded_nodata": array.rio.encoded_nodata and float(array.rio.encoded_nodata),
        "bounds": list(array.rio.bounds()),
    }

tree = xr.open_datatree(sys.argv[1], engine="zarr")
print(json.dumps({
    group: {str(name): facts(v) for name, v in tree[group].to_dataset().data_vars.items()}
    for group in tree.children
}))
"""

READ_WITH_GDAL = """
import json
import sys

import rasterio

said = {}
for array in sys.argv[2:]:
    try:
        with rasterio.open(f'ZARR:"{sys.argv[1]}":/{array}') as file:
            said[array] = [file.crs.to_epsg(), list(file.transform[:6]), file.nodata]
    except rasterio.errors.RasterioIOError as error:
        said[array] = str(error)
print(json.dumps(said))
"""

GRID = Grid("EPSG:32632", (1500, 16000, 1533, 16020), chunk_cells=10)
"""640 x 1,056 pixels: two levels."""


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with every variable of a map, a pyramid and cells."""
    groups = {"pixels": complete_maps(GRID), "cells": maps_on(GRID, on_cells=True)}
    return write_product(groups, tmp_path_factory.mktemp("complete") / "lcz.zarr")


@pytest.fixture(scope="module")
def rio_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return new_environment(tmp_path_factory.mktemp("rio"), "xarray", "zarr", "rioxarray")


def test_rioxarray_finds_crs_transform_and_nodata_of_every_array(
    complete: Path, rio_python: Path
) -> None:
    seen = said_by(rio_python, READ_WITH_RIOXARRAY, complete)
    sides_m = {"pixels": 10, "pixels_2": 20, "pixels_4": 40, "cells": 320}
    minx, miny, maxx, maxy = GRID.bbox
    assert set(seen) == set(sides_m)
    for group, side_m in sides_m.items():
        for name, found in seen[group].items():
            assert found["epsg"] == 32632
            assert found["transform"] == [side_m, 0, minx, 0, -side_m, maxy]
            assert found["bounds"] == [minx, miny, maxx, maxy]
            nodata = found["nodata"]
            if KINDS[name].attrs.get("nodata") is not None:
                assert nodata == KINDS[name].nodata
            elif name in ("confidence", "probability"):
                assert (str(nodata), found["encoded_nodata"]) == ("nan", 255)
            else:
                assert str(nodata) == "nan"


def test_gdal_finds_the_place_or_says_which_codec_it_lacks(
    complete: Path, rio_python: Path
) -> None:
    arrays = ("pixels/lcz", "pixels_2/confidence", "cells/lcz")
    seen = said_by(rio_python, READ_WITH_GDAL, complete, *arrays)
    minx, _, _, maxy = GRID.bbox
    for array, side_m, nodata in zip(arrays, (10, 20, 320), (0, 255, 0), strict=True):
        placed = [32632, [side_m, 0, minx, 0, -side_m, maxy], nodata]
        assert seen[array] in ("Unsupported codec: sharding_indexed", placed)
