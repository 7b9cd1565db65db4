"""Our exports in the tools of other people, each in an environment of its own."""

import json
import math
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import rasterio
from affine import Affine
from matplotlib.image import imread
from pyproj import Geod, Transformer
from shapely import box

from lczcube.exports import (
    CanopyParameters,
    published_parameters,
    write_100m,
    write_generator,
    write_map_cog,
    write_wrf_map,
)
from lczcube.grid import Grid
from lczcube.lcz import colors
from tests.product_scenes import map_of_codes, map_of_raster

ZARAGOZA = Grid.from_bbox((-1.0, 41.55, -0.75, 41.75), crs="EPSG:32630")
"""The city and what is around it: 23 x 21 km of 10 m."""


def environment(folder: Path, *packages: str) -> Path:
    """A new environment's folder of programs; its packages are found by pip."""
    venv.create(folder, with_pip=True)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    quiet = ["--quiet", "--disable-pip-version-check", "--no-input"]
    command = [programs / "python", "-m", "pip", "install", *quiet, *packages]
    subprocess.run(command, check=True)
    return programs


# w2w


@pytest.fixture(scope="module")
def w2w(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment(tmp_path_factory.mktemp("w2w") / "env", "w2w") / "w2w"


def run_w2w(w2w: Path, folder: Path, lcz: Path, realdata: Path, *options: str | Path) -> Path:
    """The file of the domain with the parameters of a map."""
    folder.mkdir()
    shutil.copyfile(lcz, folder / "lcz.tif")
    shutil.copyfile(realdata / "lcz_maps" / "w2w_geo_em.d04.nc", folder / "geo_em.d04.nc")
    command = [w2w, folder, "lcz.tif", "geo_em.d04.nc", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "LCZ domain is covering WRF domain" in done.stdout
    return folder / "geo_em.d04_LCZ_params.nc"


def stored(path: Path, name: str) -> npt.NDArray[Any]:
    with h5py.File(path) as file:
        values: npt.NDArray[Any] = file[name][:]
        return values


@pytest.mark.long
@pytest.mark.timeout(900)
def test_w2w_finds_the_same_city_in_our_map_as_in_its_source(
    w2w: Path, realdata: Path, tmp_path: Path
) -> None:
    """Pixels of 10 m cut from the map that goes with the domain, exported with it as the fill."""
    theirs = realdata / "lcz_maps" / "lcz_zaragoza.tif"
    lcz_map = map_of_raster(theirs, ZARAGOZA, tmp_path / "lcz.zarr")
    ours = write_wrf_map(lcz_map, tmp_path / "lcz_wrf.tif", fill=theirs, margin_km=200)
    with rasterio.open(ours) as file:
        assert (file.read(2) == 1).sum() > 20_000
    expected = run_w2w(w2w, tmp_path / "theirs", theirs, realdata)
    found = run_w2w(w2w, tmp_path / "ours", ours, realdata)
    assert stored(expected, "FRC_URB2D").max() > 0.8
    for name in ("FRC_URB2D", "LU_INDEX"):
        np.testing.assert_array_equal(stored(found, name), stored(expected, name))


@pytest.mark.long
@pytest.mark.timeout(900)
def test_w2w_takes_our_canopy_parameters(w2w: Path, realdata: Path, tmp_path: Path) -> None:
    """Buildings of LCZ 2 twice as high as published: mean height there is twice as high too."""
    table = published_parameters()
    table.loc[2, ["MH_URB2D_MIN", "MH_URB2D", "MH_URB2D_MAX"]] *= 2
    own, _ = CanopyParameters(table, pd.DataFrame(index=table.index)).write(tmp_path / "ucp.csv")
    lcz = realdata / "lcz_maps" / "lcz_zaragoza.tif"
    published = stored(run_w2w(w2w, tmp_path / "a", lcz, realdata), "URB_PARAM")
    found = stored(run_w2w(w2w, tmp_path / "b", lcz, realdata, "--lcz-ucp", own), "URB_PARAM")
    height = 91  # MH_URB2D, the 92nd parameter of NUDAPT
    assert found[0, height].max() == pytest.approx(2 * published[0, height].max(), rel=0.05)


# lcz4py

AREAS = """
import json, sys, warnings
warnings.simplefilter("ignore")
from LCZ4py import lcz_cal_area
tables = [lcz_cal_area(path, iplot=False).to_dicts() for path in sys.argv[1:]]
print(json.dumps([{r["lcz"]: (r["count"], r["area_km2"]) for r in table} for table in tables]))
"""


@pytest.mark.long
@pytest.mark.timeout(900)
def test_lcz4py_finds_our_areas(realdata: Path, tmp_path: Path) -> None:
    """Pixels are counted exactly; areas are single precision sums of it, rounded to 0.01 km2.

    In degrees it takes one radius of the Earth for both directions, which is 0.4 % too much here.
    """
    source = realdata / "lcz_maps" / "lcz_zaragoza.tif"
    lcz_map = map_of_raster(source, ZARAGOZA, tmp_path / "lcz.zarr")
    python = environment(tmp_path / "env", "lcz4py") / "python"
    paths = [
        write_map_cog(lcz_map, tmp_path / "lcz.tif"),
        write_100m(lcz_map, tmp_path / "m.tif"),
        write_generator(lcz_map, tmp_path / "g.tif"),
    ]
    command = [python, "-c", AREAS, *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    tables = json.loads(done.stdout.splitlines()[-1])
    for path, table in zip(paths, tables, strict=True):
        with rasterio.open(path) as file:
            counts = np.bincount(file.read(1).ravel(), minlength=18)
        assert {code: n for code, (n, _) in table.items()} == {
            str(code): n for code, n in enumerate(counts) if n and code
        }
    for table, pixel_km2 in ((tables[0], 1e-4), (tables[1], 1e-2)):
        for n, area_km2 in table.values():
            assert area_km2 == pytest.approx(n * pixel_km2, rel=0.003, abs=0.0051)
    with rasterio.open(paths[2]) as file:
        known, side = (file.read(1) > 0).sum(axis=1), file.transform.a
        tops = file.transform.f - side * np.arange(file.height)
    earth = Geod(ellps="WGS84")
    squares = [abs(earth.geometry_area_perimeter(box(0, top - side, side, top))[0]) for top in tops]
    total_km2 = sum(area_km2 for _, area_km2 in tables[2].values())
    assert total_km2 == pytest.approx(float(known @ np.array(squares)) / 1e6, rel=0.005)


# titiler

BLOCKS = Grid("EPSG:32632", (1600, 15650, 1608, 15658), chunk_cells=2)
ZOOM = 15


@pytest.fixture(scope="module")
def titiler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of titiler, started for these tests."""
    folder = tmp_path_factory.mktemp("titiler")
    packages = ("titiler.application", "uvicorn")
    python = environment(folder / "env", *packages) / "python"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    application = ["-m", "uvicorn", "titiler.application.main:app", "--port", str(port)]
    with (folder / "log.txt").open("w") as log:
        server = subprocess.Popen([python, *application], stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{address}/healthz", server)
        yield address
    finally:
        server.terminate()
        server.wait()


def _wait_for(url: str, server: "subprocess.Popen[bytes]") -> None:
    for _ in range(240):
        assert server.poll() is None, "titiler ended"
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.25)
        else:
            return
    raise TimeoutError(url)


def tile_place(lon: float, lat: float) -> tuple[int, int, int, int]:
    """Tile ``(x, y)`` at ZOOM that holds a place, and row and column of its pixel of 256."""
    n = 2**ZOOM
    x = (lon + 180) / 360 * n
    y = (1 - math.asinh(math.tan(math.radians(lat))) / math.pi) / 2 * n
    return int(x), int(y), int(y % 1 * 256), int(x % 1 * 256)


@pytest.mark.services
@pytest.mark.timeout(600)
def test_titiler_serves_a_cog_in_the_colours_of_its_classes(titiler: str, tmp_path: Path) -> None:
    """A square of 640 m for each of 16 classes; its centre on the tile has the class's colour."""
    classes = np.arange(16, dtype=np.uint8).reshape(4, 4) + 1
    codes = np.kron(classes, np.ones((64, 64), np.uint8))
    lcz_map = map_of_codes(codes, BLOCKS, tmp_path / "lcz.zarr")
    cog = write_map_cog(lcz_map, tmp_path / "lcz.tif")
    to_degrees = Transformer.from_crs(BLOCKS.crs, "EPSG:4326", always_xy=True)
    centres: Affine = BLOCKS.geobox.affine * Affine.scale(64) * Affine.translation(0.5, 0.5)
    seen = set()
    for row, column in np.ndindex(4, 4):
        x, y, line, sample = tile_place(*to_degrees.transform(*(centres * (column, row))))
        url = f"{titiler}/cog/tiles/WebMercatorQuad/{ZOOM}/{x}/{y}.png?url={cog}"
        with urllib.request.urlopen(url, timeout=60) as answer:
            tile = np.round(imread(BytesIO(answer.read())) * 255).astype(int)
        assert tile[line, sample].tolist() == [*colors()[classes[row, column]].tolist(), 255]
        seen |= {tuple(rgb) for rgb in tile[tile[..., 3] == 255][:, :3].tolist()}
        outside = tile[tile[..., 3] == 0]
        assert outside.size + tile[tile[..., 3] == 255].size == tile.size
    assert seen == {tuple(map(int, colors()[code])) for code in range(1, 17)}
