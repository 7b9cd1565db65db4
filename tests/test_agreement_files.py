"""The command ``lczcube agreement``: two maps, or two files of labels, and nothing else."""

import json
import shlex
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import shapely
import xarray as xr
from odc.geo.xr import xr_coords

from lczcube.agreement import (
    Pair,
    Reading,
    agreement_table,
    file_agreement,
    files,
    label_agreement,
)
from lczcube.cli import main
from lczcube.cube import GRID_ATTR
from lczcube.errors import (
    ConfigError,
    GridMismatchError,
    LabelError,
    MissingInputError,
    SourceError,
    StoreError,
)
from lczcube.grid import Grid
from lczcube.products import write_product
from tests.conftest import PROJECT
from tests.scenes import write_raster

X0, Y0 = 500_000.0, 5_300_000.0
UTM = "EPSG:32632"
KINDS = ("python", "console", "text")


def lczcube(*arguments: str | Path) -> int:
    """Exit status of a command run in this process."""
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    return int(exit_.value.code or 0)


def write_map(path: Path, codes: Any, **keys: Any) -> Path:
    stored = np.asarray(codes, keys.pop("dtype", np.uint8))
    return write_raster(path, np.atleast_3d(stored).reshape(-1, *stored.shape[-2:]), **keys)


@pytest.fixture
def maps(tmp_path: Path) -> tuple[Path, Path]:
    """Two maps of 4 x 6 pixels: the second has no data in a column, and another class in one."""
    first = np.repeat([[2, 2, 6, 6, 17, 17]], 4, axis=0)
    second = np.repeat([[2, 2, 5, 6, 17, 0]], 4, axis=0)
    place = {"x0": X0, "y0": Y0}
    second = np.where(second == 0, 255, second)
    return (
        write_map(tmp_path / "first.tif", first, **place),
        write_map(tmp_path / "second.tif", second, nodata=255, **place),
    )


def write_labels(path: Path, *rows: tuple[object, float, float], **columns: Any) -> Path:
    """Labels 100 m high: class, left and right edge, m."""
    boxes = [shapely.box(X0 + left, Y0, X0 + right, Y0 + 100) for _, left, right in rows]
    content = {"lcz": [lcz for lcz, *_ in rows], **columns}
    labels = gpd.GeoDataFrame(content, geometry=boxes, crs=UTM)
    labels.to_parquet(path) if path.suffix == ".parquet" else labels.to_file(path)
    return path


def test_two_rasters_agree_where_both_have_a_class(
    maps: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = file_agreement(*maps)
    assert (found.unit, found.n, found.shared) == ("pixel", 20, 20 / 24)
    assert found.oa == 16 / 20
    assert found.confusion[5, 4] == 4
    monkeypatch.setattr(files, "CHUNK_PX", 3)
    assert file_agreement(*maps).to_dict() == found.to_dict()


def test_south_up_and_north_up_are_the_same_map(maps: tuple[Path, Path], tmp_path: Path) -> None:
    rows = np.arange(1, 13).reshape(4, 3)
    place = {"x0": X0, "y0": Y0}
    up = write_map(tmp_path / "up.tif", rows, **place)
    down = write_map(tmp_path / "down.tif", rows, south_up=True, **place)
    assert file_agreement(up, down).oa == 1
    with pytest.raises(GridMismatchError, match="rows and columns"):
        file_agreement(up, maps[0])


def test_a_band_is_named_where_there_are_several(maps: tuple[Path, Path], tmp_path: Path) -> None:
    both = np.stack([np.full((4, 6), 9), np.repeat([[2, 2, 6, 6, 17, 17]], 4, axis=0)])
    several = write_map(tmp_path / "several.tif", both, x0=X0, y0=Y0)
    with pytest.raises(ConfigError, match=r"several.tif has 2 bands, and none is named.*--band"):
        file_agreement(several, maps[0])
    with pytest.raises(ConfigError, match="band 3 is named"):
        file_agreement(several, maps[0], readings=(Reading(band=3), Reading()))
    assert file_agreement(several, maps[0], readings=(Reading(band=2), Reading())).oa == 1


def test_labels_of_any_format_agree_on_ground_that_both_claim(tmp_path: Path) -> None:
    first = write_labels(tmp_path / "a.gpkg", (6, 0, 200), (17, 200, 400))
    second = write_labels(tmp_path / "b.parquet", (6, 100, 300), (0, 300, 400))
    found = file_agreement(first, second)
    assert (found.unit, round(found.n)) == ("m2", 200 * 100)
    assert found.oa == pytest.approx(0.5)
    text = write_labels(tmp_path / "c.geojson", ("LCZ 6", 100, 300), ("LCZ E", 900, 999))
    assert file_agreement(first, text).oa == pytest.approx(0.5)


def test_each_side_has_its_class_column_and_groups(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(6, 0.0, 100.0), (6, 200.0, 300.0)]
    first = write_labels(tmp_path / "a.gpkg", *rows, group=["x", "x"])
    second = write_labels(tmp_path / "c.gpkg", *rows, zone=["6", "106"])
    arguments = ("agreement", first, second, "--class-column", "lcz", "zone", "--json")
    assert lczcube(*arguments) == 0
    told = json.loads(capsys.readouterr().out)
    # Two labels that are one group are one cluster.
    assert (told["n_groups"], told["metrics"]["oa"]) == (1, 0.5)


def test_a_map_and_labels_are_refused(maps: tuple[Path, Path], tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "a.gpkg", (6, 0, 200))
    for pair in ((maps[0], labels), (labels, maps[0])):
        with pytest.raises(ConfigError, match=r"give two maps, or two files of labels\. For a map"):
            file_agreement(*pair)


def test_what_cannot_be_compared_is_refused(maps: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = maps
    with pytest.raises(MissingInputError, match=r"none.tif is not there"):
        file_agreement(first, tmp_path / "none.tif")
    (tmp_path / "a.txt").write_text("6")
    with pytest.raises(ConfigError, match=r"neither as a map \(.zarr, .tif.*nor as labels"):
        file_agreement(first, tmp_path / "a.txt")
    with pytest.raises(ConfigError, match="names its two sides apart"):
        file_agreement(first, first)
    with pytest.raises(ConfigError, match="so two names"):
        file_agreement(first, second, names=["one"])
    (tmp_path / "broken.tif").write_bytes(b"II*\0nothing")
    with pytest.raises(SourceError, match=r"broken.tif cannot be read as a raster"):
        file_agreement(first, tmp_path / "broken.tif")
    degrees = write_map(tmp_path / "d.tif", np.ones((4, 6)), x0=9, y0=48, crs="EPSG:4326")
    with pytest.raises(GridMismatchError, match=r"EPSG:4326, which is not projected in metres"):
        file_agreement(degrees, first)
    eighteen = write_map(tmp_path / "e.tif", np.full((4, 6), 18), x0=X0, y0=Y0)
    with pytest.raises(LabelError, match="18"):
        file_agreement(first, eighteen)
    shares = write_map(tmp_path / "f.tif", np.ones((4, 6)), x0=X0, y0=Y0, dtype=np.float32)
    with pytest.raises(LabelError, match="float32"):
        file_agreement(first, shares)
    labels = write_labels(tmp_path / "a.gpkg", (6, 0, 200))
    other = write_labels(tmp_path / "b.gpkg", (6, 0, 300))
    with pytest.raises(SourceError, match=r"no column 'zone' \(--class-column\); its columns: lcz"):
        file_agreement(labels, other, readings=(Reading(), Reading("zone")))


def test_the_command_says_what_is_wrong_in_one_line(
    maps: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert lczcube("agreement", *maps, "--band", "1", "2", "3") == 2
    assert "one value for both sides, or one for each" in capsys.readouterr().err
    assert lczcube("agreement", maps[0], "nothing.tif") == 1
    assert capsys.readouterr().err.count("\n") == 1


# Products


def write_maps(store: Path, **codes: Any) -> Path:
    grid = Grid(UTM, (100, 1000, 102, 1001))
    groups = {
        name: xr.Dataset(
            {"lcz": (("y", "x"), np.asarray(values, np.uint8))},
            coords=xr_coords(grid.geobox),
            attrs={GRID_ATTR: grid.to_json()},
        )
        for name, values in codes.items()
    }
    return write_product(groups, store)


def test_maps_of_products_are_named_by_their_group(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(1, 18, (32, 64))
    several = write_maps(tmp_path / "a" / "lcz.zarr", cells=codes, pixels=codes % 17 + 1)
    one = write_maps(tmp_path / "b" / "lcz.zarr", cells=codes)
    with pytest.raises(StoreError, match="holds cells and pixels; name the group of one map"):
        file_agreement(several, one)
    assert file_agreement(several / "cells", one).oa == 1
    assert file_agreement(several / "pixels", one).oa == 0
    with pytest.raises(MissingInputError, match=r"lcz.zarr/maps is not there"):
        file_agreement(one / "maps", several / "cells")


# The guide


def test_the_example_of_the_guide_prints_what_it_promises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (PROJECT / "docs" / "guide" / "scores.md").read_text(encoding="utf-8")
    section = page.split("### On the command line")[1].split("\n### ")[0]
    blocks = {kind: section.split(f"```{kind}\n")[1].split("```")[0] for kind in KINDS}
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks["python"], "scores.md", "exec"), {})
    (line,) = blocks["console"].splitlines()
    assert lczcube(*shlex.split(line.removeprefix("$ lczcube "))) == 0
    assert capsys.readouterr().out == blocks["text"]


# Real files

SETS = [f"lcz_{name}_train_polygons.gpkg" for name in ("dfc2017", "second")]


def test_the_two_label_sets_of_hong_kong(
    realdata: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [realdata / "hongkong" / name for name in SETS]
    pair = Pair("DFC 2017", "second set", "Drawn by two hands.")
    told = ("--names", pair.first, pair.second, "--dependence", pair.dependence)
    assert lczcube("agreement", *paths, *told) == 0
    printed = capsys.readouterr().out
    expected = label_agreement(*(gpd.read_file(path) for path in paths), pair)
    assert printed == agreement_table([expected]) + "\n"
    assert "58.7 ha" in printed
    assert "0.826 [0.483, 0.987]" in printed
    assert lczcube("agreement", *paths, *told, "--json") == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(expected.to_dict()))


def test_the_real_global_map_is_refused_in_its_degrees(
    realdata: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = realdata / "hongkong"
    maps = (folder / "lcz_dfc2017_train.tif", folder / "lcz_global_v3.tif")
    assert lczcube("agreement", *maps) == 1
    assert "is in EPSG:4326, which is not projected in metres" in capsys.readouterr().err
