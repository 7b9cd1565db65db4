"""The command `lczcube export` on a run: which files it writes, whole or not at all."""

import shutil
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import xarray as xr
from matplotlib.image import imread
from rio_cogeo import cog_validate

from lczcube.catalog import open_catalog
from lczcube.errors import StoreError
from lczcube.exports import FORMATS, ExportOptions, export_run, open_map
from lczcube.exports.of_run import map_tags
from lczcube.places import Folder
from lczcube.products import as_percent, manifest, open_product, write_product
from lczcube.runfolder import open_run
from lczcube.synth import write_world
from tests.conftest import PROJECT
from tests.test_examples import python_blocks
from tests.test_pipeline import city_file, digests, lczcube, refused

CITY = "synthetic_north"
FILES = {
    "lcz.tif",
    "lcz.tif.aux.xml",
    "lcz.qml",
    "lcz.clr",
    "lcz.png",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one small city, up to its map of cells."""
    folder = tmp_path_factory.mktemp("run")
    write_world(folder / "world", cities=1, km=2.0, seed=7)
    config = city_file(folder / "world")
    for stage in ("build-catalog", "cube", "aggregate", "propagate", "train", "predict"):
        assert lczcube(stage, folder / "run", "--config", config) == 0
    return folder / "run"


def test_a_run_is_exported_for_qgis_and_says_what_was_written(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert lczcube("export", run, "--out", tmp_path) == 0
    folder = tmp_path / CITY
    assert {p.name for p in folder.iterdir()} == FILES
    assert set(capsys.readouterr().out.split()) == {str(folder / name) for name in FILES}
    lcz = xr.open_zarr(run / CITY / "lcz.zarr", group="cells")["lcz"]
    with rasterio.open(folder / "lcz.tif") as file:
        np.testing.assert_array_equal(file.read(1), lcz)
    assert imread(folder / "lcz.png").shape[0] > 500


def test_files_of_every_format_are_those_announced(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = [name for name in FORMATS if name not in ("100m", "ucp")]
    command = ("export", run, "--what", ",".join(chosen), "--out", tmp_path)
    capsys.readouterr()
    assert lczcube(*command, "--dry-run") == 0
    announced = {line.split(": ")[0] for line in capsys.readouterr().out.splitlines()}
    assert not list(tmp_path.iterdir())
    assert lczcube(*command) == 0
    assert {str(p) for p in (tmp_path / CITY).iterdir()} == announced
    for path in (tmp_path / CITY).glob("*.tif"):
        assert cog_validate(path, strict=True) == (True, [], [])
    table = gpd.read_parquet(tmp_path / CITY / "lcz_cells.parquet")
    lcz = xr.open_zarr(run / CITY / "lcz.zarr", group="cells")["lcz"]
    assert len(table) == int((lcz > 0).sum())
    drawn = gpd.read_file(tmp_path / CITY / "training_areas.kml", layer="A")
    labels = open_run(run).labels(CITY)
    assert len(drawn) == int((labels["lcz"] == 11).sum())


def test_the_same_export_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert lczcube("export", run, "--what", "cog", "geoparquet", "--out", tmp_path / name) == 0
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_files_that_are_there_are_replaced_only_when_asked(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / CITY / "lcz.clr"
    kept.parent.mkdir()
    kept.write_text("mine")
    command = ("export", run, "--what", "qgis", "--out", tmp_path)
    status, said = refused(capsys, *command)
    assert status == 1
    assert f"{kept} exists" in said
    assert "--overwrite" in said
    assert [p.name for p in kept.parent.iterdir()] == ["lcz.clr"]
    assert kept.read_text() == "mine"
    assert lczcube(*command, "--overwrite") == 0
    assert kept.read_text().startswith("1 140 0 0\n")


def test_when_one_format_fails_no_file_is_left(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cells of 320 m make no map of 100 m; the COG before it was written and is taken back."""
    status, said = refused(capsys, "export", run, "--what", "cog", "100m", "--out", tmp_path)
    assert (status, "pixels of 320 m" in said) == (2, True)
    assert list((tmp_path / CITY).iterdir()) == []


def test_a_format_that_is_named_twice_is_written_once(run: Path, tmp_path: Path) -> None:
    written = export_run(open_run(run), ["qgis", "qgis"], out=tmp_path, cities=[CITY, CITY])
    assert written == [tmp_path / CITY / name for name in ("lcz.qml", "lcz.clr")]


def test_a_second_process_does_not_export_to_the_same_folder(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("export", run, "--what", "qgis", "--out", tmp_path)
    with Folder(tmp_path / CITY).locked():
        status, said = refused(capsys, *command)
    assert (status, "is being written by another process" in said) == (1, True)
    assert not (tmp_path / CITY).exists()
    assert lczcube(*command) == 0


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("--what", "shapefile"), 2, "format 'shapefile': choose of cog, generator, 100m"),
        (("--city", "paris"), 2, "city 'paris': choose of synthetic_north"),
        (("--what", "ucp"), 2, "--heights"),
        (("--group", "pixels"), 1, "holds cells and no group 'pixels'"),
        (("--what", "wrf", "--fill", "none.tif"), 1, "none.tif: no such file"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    status: int,
    words: str,
) -> None:
    found, said = refused(capsys, "export", run, *arguments, "--out", tmp_path)
    assert (found, words in said) == (status, True), said


def test_a_run_without_a_map_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = city_file(run.parent / "world")
    assert lczcube("build-catalog", tmp_path / "new", "--config", config) == 0
    status, said = refused(capsys, "export", tmp_path / "new")
    assert status == 1
    assert "holds no map; `lczcube predict RUN`" in said


def test_tags_name_year_labels_licences_and_version(run: Path) -> None:
    tags = map_tags(run / CITY / "lcz.zarr", open_run(run).catalog)
    assert tags["TIFFTAG_SOFTWARE"].startswith("lczcube ")
    assert tags["REPRESENTATIVE_YEAR"] == "2021"
    assert tags["SYNTHETIC"] == "yes"
    assert set(tags["LABELS"].split(", ")) == {
        part.split(": ")[0] for part in tags["LABEL_LICENSES"].split("; ")
    }


@pytest.fixture
def other_map(run: Path, tmp_path: Path) -> Path:
    """The run with a map that says another version, year and licence; labels were for rules too."""
    moved = shutil.copytree(run, tmp_path / "run")
    store = moved / CITY / "lcz.zarr"
    told, cells = manifest(store), open_product(store, "cells").load().drop_encoding()
    told["lczcube_version"], told["settings"]["run"]["year"] = "0.0.1", 1999
    told["inputs"]["labels"] |= {"role": "labels and rules", "license": "ODbL-1.0"}
    write_product({"cells": cells[["lcz"]]}, store, attrs=told, overwrite=True)
    return moved


def test_tags_are_of_the_map_and_not_of_todays_city_file(other_map: Path, tmp_path: Path) -> None:
    assert lczcube("export", other_map, "--what", "cog", "--out", tmp_path) == 0
    with rasterio.open(tmp_path / CITY / "lcz.tif") as file:
        tags = file.tags()
    assert tags["TIFFTAG_SOFTWARE"] == "lczcube 0.0.1"
    assert tags["REPRESENTATIVE_YEAR"] == "1999"
    assert tags["RULES"] == tags["LABELS"] == "labels"
    assert tags["LABEL_LICENSES"] == "labels: ODbL-1.0"


def test_an_export_of_a_map_that_was_replaced_is_no_asset_of_the_new_one(
    other_map: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lczcube("export", other_map, "--what", "cog") == 0
    assert "lcz" in assets_of(other_map)
    capsys.readouterr()
    assert lczcube("predict", other_map, "--overwrite") == 0
    told = capsys.readouterr()
    assert f"left out: {other_map / CITY / 'exports' / 'lcz.tif'} was exported from" in told.err
    assert "1 exports left out" in told.out
    assert "lcz" not in assets_of(other_map)
    assert lczcube("export", other_map, "--what", "cog", "--overwrite") == 0
    assert "lcz" in assets_of(other_map)


def assets_of(run: Path) -> set[str]:
    """Assets of the only item of the products of a run."""
    catalog = open_catalog(run / "products")
    (item,) = catalog.items(catalog.collection_ids[0])
    return set(item.assets)


def test_the_default_place_is_the_citys_folder(run: Path) -> None:
    written = export_run(open_run(run), ["qgis"], options=ExportOptions())
    assert written == [run / CITY / "exports" / name for name in ("lcz.qml", "lcz.clr")]


def test_the_guide_smooths_a_map(run: Path) -> None:
    text = (PROJECT / "docs" / "guide" / "exports.md").read_text(encoding="utf-8")
    (code,) = python_blocks(text)
    seen: dict[str, xr.DataArray] = {}
    exec(code.replace("RUN/CITY", str(run / CITY)), seen)
    assert seen["smooth"].chunks is not None
    assert seen["smooth"].shape == xr.open_zarr(run / CITY / "lcz.zarr", group="cells")["lcz"].shape


@pytest.fixture(scope="module")
def two_years(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run with a store of 2019 and 2021; in 2019 all that has a class is LCZ 6."""
    moved = shutil.copytree(run, tmp_path_factory.mktemp("years") / "run")
    store = moved / CITY / "lcz.zarr"
    told, cells = manifest(store), open_product(store, "cells").load().drop_encoding()
    other = cells.assign(lcz=xr.where(cells["lcz"] > 0, 6, 0).astype(np.uint8))
    times = pd.DatetimeIndex(["2019-01-01", "2021-01-01"], name="time").as_unit("ns")
    both = xr.concat([other, cells], times).assign_attrs(cells.attrs)
    for name in ("confidence", "probability"):
        both[name] = as_percent(both[name])
    write_product({"cells": both}, store, attrs=told, overwrite=True, identity="both")
    return moved


def test_a_map_of_several_years_is_exported_by_year(two_years: Path, tmp_path: Path) -> None:
    command = ("export", two_years, "--what", "cog", "geoparquet", "png", "--year")
    for year in (2019, 2021):
        assert lczcube(*command, str(year), "--out", tmp_path / str(year)) == 0
    maps = xr.open_zarr(two_years / CITY / "lcz.zarr", group="cells")
    for index, year in enumerate((2019, 2021)):
        with rasterio.open(tmp_path / str(year) / CITY / "lcz.tif") as file:
            np.testing.assert_array_equal(file.read(1), maps["lcz"].isel(time=index))
            assert file.tags()["REPRESENTATIVE_YEAR"] == str(year)
        table = gpd.read_parquet(tmp_path / str(year) / CITY / "lcz_cells.parquet")
        assert set(table["lcz"]) == set(np.unique(maps["lcz"].isel(time=index))) - {0}


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ((), "holds maps of 2019, 2021; name one of them: --year"),
        (("--year", "2020"), "holds maps of 2019, 2021 and none of 2020"),
    ],
)
def test_a_year_that_is_not_named_or_not_there_is_refused_before_anything_is_written(
    two_years: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    named: tuple[str, ...],
    words: str,
) -> None:
    status, said = refused(capsys, "export", two_years, *named, "--out", tmp_path)
    assert (status, words in said) == (1, True), said
    assert not list(tmp_path.iterdir())


def test_a_map_of_one_year_says_which_it_is(run: Path) -> None:
    store = run / CITY / "lcz.zarr"
    assert open_map(store, year=2021).data.equals(open_map(store).data)
    with pytest.raises(StoreError, match="holds maps of 2021 and none of 2020"):
        open_map(store, year=2020)
