"""Products of a run as STAC: valid, relocatable, the same bytes twice, and inputs again."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pystac
import pytest
import rasterio
import xarray as xr
from rasterio.shutil import copy as rio_copy
from rasterio.transform import Affine

from lczcube.catalog import Catalog, build_catalog, open_catalog
from lczcube.cube import open_cube
from lczcube.errors import CatalogError, MissingInputError, StoreError
from lczcube.grid import Grid
from lczcube.lcz import ZONES
from lczcube.outputs import OutputsReport, write_outputs
from lczcube.products import as_percent, manifest, open_product, write_product
from tests.small_runs import map_cities, write_small_world
from tests.stac_schemas import require_valid
from tests.test_catalog import with_schemas
from tests.test_pipeline import digests
from tests.test_products import maps_on
from tests.test_validity import keys_of

CITY = "synthetic_north"
NAME = "synthetic-7"
ITEM = f"{NAME}_{CITY}_2021"


def write_export(store: Path, path: Path) -> None:
    """The cells of a store as a COG with the zones' colours."""
    cells = xr.open_zarr(store, group="cells")
    path.parent.mkdir(exist_ok=True)
    plain = path.with_suffix(".plain")
    rows, columns = cells["lcz"].shape
    with rasterio.open(
        plain, "w", driver="GTiff", height=rows, width=columns, count=1, dtype="uint8", nodata=0,
        crs=cells.attrs["proj:code"], transform=Affine(*cells.attrs["spatial:transform"]),
    ) as file:  # fmt: skip
        file.write(cells["lcz"].values, 1)
        file.write_colormap(1, {z.code: tuple(bytes.fromhex(z.wudapt)) for z in ZONES})
    rio_copy(plain, path, driver="COG")
    plain.unlink()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one city, with an exported map and an exported raster that is none."""
    folder = tmp_path_factory.mktemp("outputs")
    map_cities(write_small_world(folder / "world"), folder / "run")
    exports = folder / "run" / CITY / "exports"
    write_export(folder / "run" / CITY / "lcz.zarr", exports / "lcz_320m.tif")
    with rasterio.open(
        exports / "height.tif", "w", driver="GTiff", height=2, width=2, count=1, dtype="float32",
        crs="EPSG:32632", transform=Affine(10, 0, 5e5, 0, -10, 5e6),
    ) as file:  # fmt: skip
        file.write(np.array([[[4.5, 21.25], [7.0, 30.0]]], "float32"))
    return folder / "run"


@pytest.fixture(scope="module")
def written(run: Path) -> OutputsReport:
    return write_outputs(run)


def documents(written: OutputsReport) -> dict[str, dict[str, Any]]:
    paths = sorted(written.path.rglob("*.json"))
    return {p.relative_to(written.path).as_posix(): json.loads(p.read_text()) for p in paths}


def item_of(written: OutputsReport) -> dict[str, Any]:
    return documents(written)[f"{NAME}/items/{ITEM}.json"]


@with_schemas
def test_every_object_is_valid_by_stac_and_by_every_extension_it_declares(
    written: OutputsReport,
) -> None:
    n_declared = {name: require_valid(values) for name, values in documents(written).items()}
    assert n_declared == {
        "catalog.json": 0,
        f"{NAME}/collection.json": 8,
        f"{NAME}/items/{ITEM}.json": 8,
    }


def test_an_item_declares_what_it_uses_and_nothing_else(written: OutputsReport) -> None:
    item = item_of(written)
    declared = {uri.split("/")[-3] for uri in item["stac_extensions"]}
    prefixes = {"projection": "proj", "datacube": "cube", "schemas": "lczcube"}
    used = {key.split(":")[0] for key in keys_of(item) if ":" in key}
    expected = {prefixes.get(name, name) for name in declared - {"lczcube.github.io"}}
    assert used == expected


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_stac_check_complains_of_what_we_chose_and_of_nothing_else(
    written: OutputsReport,
) -> None:
    from stac_check.lint import Linter

    told = set()
    for values in documents(written).values():
        linter = Linter(values, fast=True)
        assert linter.valid_stac
        told |= set(linter.create_best_practices_dict())
    assert told == {"check_links_self"}  # relocatable


def test_every_link_and_asset_leads_to_something(written: OutputsReport) -> None:
    for name, values in documents(written).items():
        hrefs = [link["href"] for link in values["links"]]
        hrefs += [asset["href"] for asset in values.get("assets", {}).values()]
        for href in hrefs:
            assert href.startswith("."), (name, href)
            assert ((written.path / name).parent / href).exists(), (name, href)


def test_an_item_leads_to_every_input_and_to_its_model(run: Path, written: OutputsReport) -> None:
    linked = {
        (written.path / NAME / "items" / link["href"]).resolve()
        for link in item_of(written)["links"]
        if link["rel"] == "derived_from"
    }
    inputs = set((run / "catalog").resolve().rglob("items/*.json"))
    assert linked == inputs | {(run / "models" / "xgb" / "item.json").resolve()}


def test_the_cube_of_an_asset_is_what_xarray_opens(run: Path, written: OutputsReport) -> None:
    cells = item_of(written)["assets"]["cells"]
    opened = xr.open_zarr(run / CITY / "lcz.zarr", group="cells", mask_and_scale=False)
    assert set(cells["cube:variables"]) == set(opened.data_vars)
    for name, told in cells["cube:variables"].items():
        variable = opened[name]
        assert told["dimensions"] == list(variable.dims)
        assert told["data_type"] == variable.dtype
        fill = variable.attrs.get("_FillValue", variable.attrs.get("nodata"))
        assert told.get("nodata") == (None if fill is not None and np.isnan(fill) else fill)
    for name in ("x", "y"):
        told, values = cells["cube:dimensions"][name], opened[name].values
        assert told["extent"] == [values.min(), values.max()]
        assert told["step"] == values[1] - values[0]
        assert f"EPSG:{told['reference_system']}" == opened.attrs["proj:code"]
    assert cells["cube:dimensions"]["lcz_class"]["values"] == list(range(1, 18))
    rows, columns = cells["proj:shape"]
    a, _, c, _, e, f = cells["proj:transform"]
    assert (rows, columns) == opened["lcz"].shape
    assert (c + a / 2, f + e / 2) == (opened["x"][0], opened["y"][0])


def test_a_file_that_is_no_map_is_left_out_and_said(written: OutputsReport) -> None:
    assert set(item_of(written)["assets"]) == {"cells", "lcz_320m", "picture"}
    (why,) = written.left_out
    assert "height.tif" in why
    assert "4.5" in why


def test_the_same_run_gives_the_same_bytes_and_moves_along(
    run: Path, written: OutputsReport, tmp_path: Path
) -> None:
    before = digests(written.path)
    assert write_outputs(run).n_items == 1
    assert digests(written.path) == before
    moved = shutil.copytree(run, tmp_path / "elsewhere")
    shutil.rmtree(moved / "products")
    assert digests(write_outputs(moved).path) == before
    for store in (moved / "products", moved / "products" / "catalog.json"):
        (item,) = open_catalog(store).items(NAME)
        assert Path(item.assets["cells"].href) == moved / CITY / "lcz.zarr" / "cells"


def test_catalog_and_table_hold_the_same_items(written: OutputsReport) -> None:
    as_table = open_catalog(written.path).items(NAME)
    as_files = open_catalog(written.path / "catalog.json").items(NAME)
    tables, files = ([item.to_dict()["assets"] for item in of] for of in (as_table, as_files))
    assert tables == files
    layer = open_catalog(written.path).layer(NAME)
    assert (layer.layer, layer.ai_derived, layer.synthetic) == ("lcz_map", True, True)
    assert layer.license_note == "alphaearth: CC0-1.0. labels: CC0-1.0."


def test_pystac_walks_it_and_odc_stac_loads_the_exported_map(
    run: Path, written: OutputsReport
) -> None:
    import odc.stac

    root = pystac.Catalog.from_file(str(written.path / "catalog.json"))
    (item,) = root.get_items(recursive=True)
    loaded = odc.stac.load([item], bands=["lcz_320m"], chunks={})
    cells = xr.open_zarr(run / CITY / "lcz.zarr", group="cells")["lcz"]
    np.testing.assert_array_equal(loaded["lcz_320m"].isel(time=0).values, cells.values)
    np.testing.assert_allclose(loaded["x"].values, cells["x"].values)


OF_STAC = """
id = "next"

[[input]]
name = "of_stac"
source = "stac"
href = "{run}/products/catalog.json"
asset = "cells"
layer = "lcz_map"
ai_derived = true
synthetic = true
"""
OF_FILES = """
[[input]]
name = "of_zarr"
source = "zarr"
href = "{run}/{city}/lcz.zarr/cells"
array = "lcz"
year = 2021
layer = "lcz_map"
ai_derived = true
synthetic = true

[[input]]
name = "of_file"
source = "lcz_map"
href = "{run}/{city}/exports/lcz_320m.tif"
year = 2021
synthetic = true
"""


def next_catalog(folder: Path, text: str) -> Catalog:
    (folder / "next.toml").write_text(text)
    return open_catalog(build_catalog(folder / "next.toml", folder / "c", strict=True).path)


def test_the_next_run_takes_products_as_inputs(
    run: Path, written: OutputsReport, tmp_path: Path
) -> None:
    catalog = next_catalog(tmp_path, (OF_STAC + OF_FILES).format(run=run, city=CITY))
    cells = xr.open_zarr(run / CITY / "lcz.zarr", group="cells")
    grid = Grid.from_json(cells.attrs["lczcube_grid"])
    cube = open_cube(catalog, grid, inputs=["of_stac", "of_zarr", "of_file"], year=2021, halo_px=0)
    expected = np.kron(cells["lcz"].values, np.ones((32, 32), np.uint8))
    for name in ("of_stac", "of_zarr", "of_file"):
        np.testing.assert_array_equal(np.squeeze(cube[name].values), expected, err_msg=name)


def with_years(run: Path, moved: Path, years: tuple[int, ...]) -> list[xr.Dataset]:
    """A copy of the run whose store has a map a year: of LCZ 6 alone but for the last one."""
    shutil.copytree(run, moved, ignore=shutil.ignore_patterns("products"))
    store = moved / CITY / "lcz.zarr"
    told, cells = manifest(store), open_product(store, "cells").load().drop_encoding()
    cells = cells[["lcz", "confidence"]].assign(confidence=as_percent(cells["confidence"]))
    told["inputs"]["alphaearth"]["role"] = "features and rules"
    others = [cells.assign(lcz=cells["lcz"] * np.uint8(0) + np.uint8(6)) for _ in years[1:]]
    times = pd.DatetimeIndex([f"{year}-01-01" for year in years], name="time").as_unit("ns")
    both = xr.concat([*others, cells], times).assign_attrs(cells.attrs)
    write_product({"cells": both}, store, attrs=told, overwrite=True)
    return [*others, cells]


def test_an_item_of_a_year_leads_to_the_layers_of_that_year(run: Path, tmp_path: Path) -> None:
    moved, world = tmp_path / "run", tmp_path / "world"
    with_years(run, moved, (2021, 2022))
    shutil.copytree(run.parent / "world", world)
    for annual in world.glob("alphaearth/*/annual"):
        shutil.copytree(annual / "2021", annual / "2022")
    text = (world / "small.toml").read_text()
    (world / "small.toml").write_text(text.replace("[2021]", "[2021, 2022]"))
    build_catalog(world / "small.toml", moved / "catalog", overwrite=True)
    write_outputs(moved)
    for year in (2021, 2022):
        item = json.loads((moved / f"products/{NAME}/items/{NAME}_{CITY}_{year}.json").read_text())
        hrefs = [link["href"] for link in item["links"] if "alphaearth/items" in link["href"]]
        assert hrefs
        for href in hrefs:
            path = moved / "products" / NAME / "items" / href
            layer = json.loads(path.read_text())["properties"]
            assert layer["start_datetime"].startswith(str(year)), href


def test_a_store_of_several_years_has_an_item_a_year(run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "run"
    other, cells = with_years(run, moved, (2019, 2021))
    assert write_outputs(moved).n_items == 2
    catalog = open_catalog(moved / "products")
    assert [item.id[-4:] for item in catalog.items(NAME)] == ["2019", "2021"]
    inputs = next_catalog(tmp_path, OF_STAC.format(run=moved))
    grid = Grid.from_json(cells.attrs["lczcube_grid"])
    for year, expected in ((2019, other), (2021, cells)):
        cube = open_cube(inputs, grid, inputs=["of_stac"], year=year, halo_px=0)
        got = np.squeeze(cube["of_stac"].values)[::32, ::32]
        np.testing.assert_array_equal(got, expected["lcz"].values)


def test_a_folder_without_maps_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"catalog\.json"):
        write_outputs(tmp_path)
    shutil.copytree(run / "catalog", tmp_path / "catalog")
    with pytest.raises(StoreError, match=r"has no map .* run `lczcube predict"):
        write_outputs(tmp_path)


def test_files_of_somebody_else_are_not_replaced(run: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("products"))
    (moved / "products").mkdir()
    (moved / "products" / "notes.txt").write_text("mine")
    with pytest.raises(CatalogError, match="holds files but no catalog"):
        write_outputs(moved)
    assert (moved / "products" / "notes.txt").read_text() == "mine"


def test_levels_of_a_pyramid_are_no_assets(run: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("products"))
    store = moved / CITY / "lcz.zarr"
    grid = Grid("EPSG:32632", (1600, 15650, 1617, 15651))
    assert max(grid.shape) > 512
    write_product({"pixels": maps_on(grid)}, store, attrs=manifest(store), overwrite=True)
    assert (store / "pixels_2" / "lcz").is_dir()
    (item,) = open_catalog(write_outputs(moved).path).items(NAME)
    assert "pixels" in item.assets
    assert not [name for name in item.assets if name.startswith("pixels_")]
