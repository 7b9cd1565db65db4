import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyproj
import pytest
import rasterio
import xarray as xr
import zarr
from shapely import box

import lczcube
from lczcube.config import read_config
from lczcube.products import open_features, write_product
from lczcube.synth import write_world
from tests.small_runs import map_cities, write_small_world

PROJECT = Path(__file__).parents[1]
EXAMPLES = PROJECT / "examples"
CITY = "synthetic_north"
DOCUMENTS = sorted(PROJECT.glob("*.md")) + sorted((PROJECT / "docs").rglob("*.md"))
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
PROJECT_PATH = re.compile(
    r"`((?:src|tests|docs|examples|catalogs|dask_config|benchmarks)/[\w./-]*\w)[`:]"
)


def run_example(name: str, *arguments: str, cwd: Path) -> str:
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def python_blocks(text: str) -> list[str]:
    return [block.strip() for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which examples/city_map.py has run on a small synthetic world."""
    folder = tmp_path_factory.mktemp("example")
    write_world(folder / "demo" / "world", cities=1, km=2.0, seed=7)
    run_example("city_map.py", cwd=folder)
    return folder


def test_the_example_of_a_city_map_writes_a_map(mapped: Path) -> None:
    assert (mapped / "demo" / "lcz.zarr" / "cells" / "lcz").is_dir()


def test_the_areas_of_the_zones_are_those_of_their_cells(mapped: Path) -> None:
    out = run_example("read_map.py", "demo/lcz.zarr", cwd=mapped)
    areas_km2 = [float(line.split()[0]) for line in out.splitlines()]
    lcz = xr.open_zarr(mapped / "demo" / "lcz.zarr", group="cells")["lcz"].values
    assert len(areas_km2) == len(set(lcz[lcz > 0].tolist()))
    # A cell of 320 m is 0.1024 km2; each printed area is rounded to a hundredth.
    assert sum(areas_km2) == pytest.approx(
        0.1024 * int((lcz > 0).sum()), abs=0.005 * len(areas_km2)
    )


def test_the_readme_shows_the_lines_of_the_example() -> None:
    code = (EXAMPLES / "city_map.py").read_text(encoding="utf-8").split('"""', 2)[2].strip()
    assert python_blocks((PROJECT / "README.md").read_text(encoding="utf-8")) == [code]


def test_the_city_file_of_the_readme_is_legal(tmp_path: Path) -> None:
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "mycity.toml").write_text(block, encoding="utf-8")
    assert read_config(tmp_path / "mycity.toml").id == "mycity"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_every_file_that_a_document_names_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    linked = [target for target in LINK.findall(text) if "://" not in target]
    missing = [target for target in linked if not (document.parent / target).exists()]
    missing += [path for path in PROJECT_PATH.findall(text) if not (PROJECT / path).exists()]
    assert missing == []


def test_every_page_is_in_the_navigation_and_no_other() -> None:
    import yaml

    settings = yaml.safe_load((PROJECT / "mkdocs.yml").read_text(encoding="utf-8"))
    pages = {str(path.relative_to(PROJECT / "docs")) for path in (PROJECT / "docs").rglob("*.md")}
    assert set(_leaves(settings["nav"])) == pages


def test_the_reference_lists_every_public_name_and_no_other() -> None:
    text = (PROJECT / "docs" / "reference.md").read_text(encoding="utf-8")
    listed = re.findall(r"^::: lczcube\.([\w.]+)$", text, re.MULTILINE)
    homes = [f"{home}.{name}" for name, home in lczcube._HOMES.items()]
    assert sorted(listed) == sorted(homes)


@pytest.mark.parametrize("name", ["laptop", "slurm", "pbs"])
def test_a_cluster_file_names_a_known_type_and_its_options(name: str) -> None:
    from lczcube.runtime import _cluster_options

    kind, options = _cluster_options(str(PROJECT / "dask_config" / f"{name}.yaml"), None)
    assert kind == {"laptop": "local"}.get(name, name)
    assert options["n_workers"] >= 1


def _leaves(nav: object) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    children = nav.values() if isinstance(nav, dict) else nav
    return [page for child in children for page in _leaves(child)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one city whose features are an embedding, canopy and buildings."""
    folder = tmp_path_factory.mktemp("examples")
    config = write_small_world(folder / "world", ("alphaearth", "canopy", "open_buildings"))
    lines = config.read_text().splitlines()
    listed = next(line for line in lines if line.startswith("features = "))
    layers = 'features = ["alphaearth", "canopy", "building"]'
    config.write_text("\n".join(lines).replace(listed, layers))
    return map_cities(config, folder / "run")


@pytest.fixture
def run_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs an example in this process, in ``tmp_path``, and gives what it prints."""
    monkeypatch.chdir(tmp_path)

    def run_here(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        capsys.readouterr()
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run_here


def cells_of(run: Path) -> xr.Dataset:
    return xr.open_zarr(run / CITY / "lcz.zarr", group="cells").load()


def test_heights_by_zone_are_means_over_its_cells(run_here: Callable[..., str], run: Path) -> None:
    out = run_here("heights_by_lcz.py", str(run / CITY))
    header, *rows = out.splitlines()
    assert header.split("  ")[-1].strip() == "canopy, %"
    lcz = cells_of(run)["lcz"]
    features = open_features(run / CITY / "features.zarr")["features"].load()
    height = features.sel(feature="building_height_mean").values
    names = lcz.attrs["flag_meanings"].split()
    assert [row.split()[0] for row in rows] == [names[c - 1] for c in zones_in(lcz)]
    for row, code in zip(rows, zones_in(lcz), strict=True):
        mean = np.nanmean(height[lcz.values == code])
        assert float(row.split()[1]) == pytest.approx(mean, abs=0.051)


def test_areas_of_districts_add_up_to_those_of_the_map(
    run_here: Callable[..., str], run: Path
) -> None:
    out = run_here("areas_by_district.py", str(run / CITY / "lcz.zarr"))
    told, header, *rows = out.splitlines()
    assert "made-up" in told
    lcz = cells_of(run)["lcz"]
    assert [int(code) for code in header.split()[1:]] == zones_in(lcz)
    areas = np.array([[float(v) for v in row.split()[1:]] for row in rows])
    counts = [int((lcz == code).sum()) for code in zones_in(lcz)]
    np.testing.assert_allclose(areas.sum(axis=0), np.array(counts) * 0.1024, atol=0.021)


def test_areas_of_districts_of_a_file_are_of_the_centres_in_them(
    run_here: Callable[..., str], run: Path, tmp_path: Path
) -> None:
    cells = cells_of(run)
    x, y = float(cells["x"][2]), float(cells["y"][1])
    square = gpd.GeoDataFrame(
        {"name": ["one cell"]}, geometry=[box(x - 10, y - 10, x + 10, y + 10)],
        crs=cells.attrs["proj:code"],
    )  # fmt: skip
    square.to_crs(4326).to_file(tmp_path / "districts.gpkg")
    store = str(run / CITY / "lcz.zarr")
    out = run_here("areas_by_district.py", store, "districts.gpkg", "name")
    header, row = out.splitlines()
    assert header.split() == ["lcz", str(int(cells["lcz"][1, 2]))]
    assert row.split() == ["one", "cell", "0.1"]


def test_canopy_parameters_are_the_middles_of_the_published_ranges(
    run_here: Callable[..., str], run: Path, tmp_path: Path
) -> None:
    store = str(run / CITY / "lcz.zarr")
    out = run_here("urban_canopy_parameters.py", store, str(tmp_path))
    assert len(out.splitlines()) == 4
    cells = cells_of(run)
    middles = {2: 17.5, 3: 6.5, 6: 6.5, 11: 16.5, 14: 0.5, 17: np.nan, 0: np.nan}
    with rasterio.open(tmp_path / "roughness_height_m.tif") as file:
        assert file.crs == cells.attrs["proj:code"]
        np.testing.assert_allclose(tuple(file.transform)[:6], cells.attrs["spatial:transform"])
        values = file.read(1)
    for code in np.unique(cells["lcz"]):
        np.testing.assert_allclose(values[cells["lcz"].values == code], middles[int(code)])


def test_temperatures_are_of_the_zones_below_the_stations(
    run_here: Callable[..., str], run: Path, tmp_path: Path
) -> None:
    cells = cells_of(run)
    to_degrees = pyproj.Transformer.from_crs(cells.attrs["proj:code"], 4326, always_xy=True)
    x, y = np.meshgrid(cells["x"], cells["y"])
    lon, lat = to_degrees.transform(x.ravel() + 100, y.ravel() - 100)  # off the centres
    codes = cells["lcz"].values.ravel()
    table = pd.DataFrame({"lon": lon, "lat": lat, "temperature": codes.astype(float)})
    table.loc[len(table)] = [0.0, 0.0, 99.0]  # past the map
    table.to_csv(tmp_path / "stations.csv", index=False)
    store = str(run / CITY / "lcz.zarr")
    out = run_here("temperature_by_lcz.py", store, "stations.csv")
    rows = [line.split() for line in out.splitlines()[2:]]
    assert [(int(r[0]), float(r[2])) for r in rows] == [(c, c) for c in zones_in(cells["lcz"])]
    assert [int(r[1]) for r in rows] == [int((codes == int(r[0])).sum()) for r in rows]
    assert "SYNTHETIC" in run_here("temperature_by_lcz.py", store)


def test_change_between_two_years_of_a_city(
    run_here: Callable[..., str], run: Path, tmp_path: Path
) -> None:
    earlier = run / CITY / "lcz.zarr"
    cells = xr.open_zarr(earlier, group="cells").load()
    cells["confidence"][:] = 0.9
    manifest = dict(zarr.open_group(earlier, mode="r").attrs)
    before, after = (cells.copy(deep=True) for _ in range(2))
    before["lcz"][:3, :3], after["lcz"][:3, :3] = 14, 6
    for name, dataset in (("a.zarr", before), ("b.zarr", after)):
        percent = (dataset["confidence"] * 100).fillna(255).astype(np.uint8).drop_encoding()
        ready = dataset[["lcz"]].assign(confidence=percent).drop_vars("spatial_ref")
        write_product({"cells": ready}, tmp_path / name, attrs=manifest)
    out = run_here("change_between_years.py", "a.zarr", "b.zarr", "2019", "2021")
    assert "| D Low plants | 6 Open low-rise | 92.2 " in out  # nine cells of 10.24 ha
    assert out.splitlines()[-1] == "Newly built: 92.2 ha"


def test_a_cluster_computes_what_this_process_does(run: Path) -> None:
    out = run_example("on_a_cluster.py", str(run / CITY / "lcz.zarr"), cwd=run)
    workers, *rows = out.splitlines()
    assert workers == "2 workers"
    cells = cells_of(run)
    for row, code in zip(rows, zones_in(cells["lcz"]), strict=True):
        is_here = cells["lcz"] == code
        assert float(row.split()[0]) == pytest.approx(int(is_here.sum()) * 0.1024, abs=0.0051)
        mean = float(cells["confidence"].where(is_here).mean())
        assert float(row.split()[3]) == pytest.approx(mean, abs=0.0051)


def test_a_map_in_an_object_store_is_read_where_it_is(
    run_here: Callable[..., str], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3
    from moto.server import ThreadedMotoServer

    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(key, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        endpoint = "http://{}:{}".format(*server.get_host_and_port())
        client = boto3.client("s3", endpoint_url=endpoint)
        client.create_bucket(Bucket="maps")
        store = run / CITY / "lcz.zarr"
        for path in (p for p in store.rglob("*") if p.is_file()):
            client.upload_file(str(path), "maps", f"town/{path.relative_to(store).as_posix()}")
        out = run_here("open_from_s3.py", "s3://maps/town", endpoint)
    finally:
        server.stop()
    head, *rows = out.splitlines()
    lcz = cells_of(run)["lcz"]
    assert head.endswith(f"LCZ {int(lcz[lcz.shape[0] // 2, lcz.shape[1] // 2])} in the middle")
    assert [int(row.split()[0]) for row in rows] == [int((lcz == c).sum()) for c in zones_in(lcz)]


def test_the_page_on_gdal_writes_a_raster_that_gdal_reads(run: Path, tmp_path: Path) -> None:
    text = (EXAMPLES / "gdal_and_qgis.md").read_text(encoding="utf-8")
    (code,) = python_blocks(text)
    script = tmp_path / "page.py"
    script.write_text(code.replace("RUN/CITY", str(run / CITY)))
    command = [sys.executable, "-W", "error", str(script)]
    subprocess.run(command, cwd=tmp_path, check=True)
    cells = cells_of(run)
    with rasterio.open(tmp_path / "lcz.tif") as file:
        np.testing.assert_array_equal(file.read(1), cells["lcz"])
        assert (file.nodata, file.crs) == (0, cells.attrs["proj:code"])


def zones_in(lcz: xr.DataArray) -> list[int]:
    return sorted({int(code) for code in np.unique(lcz.values)} - {0})
