"""Cubes as Zarr: the same bits, however often the writer was killed."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from lczcube.catalog import Catalog, open_catalog
from lczcube.cube import grid_of, halo_of, open_cube
from lczcube.cubestore import open_stored_cube, write_cube
from lczcube.errors import GridMismatchError, StoreError
from lczcube.grid import Grid
from lczcube.regions import StoreCheck, verify_store
from lczcube.windows import aggregate
from tests.scenes import CRS, catalog_of, position_codes, raster_input, write_raster
from tests.test_cube import X0, Y0, small_grid


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """Positions in two tiles with a gap between them, and a static float layer of one band."""
    folder = tmp_path_factory.mktemp("scene")
    codes = position_codes(256, 256, x0=X0, y0=Y0)
    write_raster(folder / "a0.tif", codes[:, :, :110], x0=X0, y0=Y0, nodata=-1)
    write_raster(folder / "a1.tif", codes[:, :, 130:], x0=X0 + 1300, y0=Y0, nodata=-1)
    height = np.random.default_rng(0).random((1, 256, 256)).astype(np.float32)
    write_raster(folder / "b.tif", height, x0=X0, y0=Y0)
    b = raster_input("b", "b.tif", static=True).replace("year = 2024\n", "")
    return catalog_of(folder, raster_input("a", "a*.tif"), b)


def cube_of(catalog: Catalog, **keys: float) -> xr.Dataset:
    grid = Grid(CRS, small_grid().cells, chunk_cells=1, **keys)
    return open_cube(catalog, grid, inputs=["a", "b"], year=2024)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.mark.parametrize("stride_m", [320, 160])
def test_a_stored_cube_opens_with_the_same_bits(
    catalog: Catalog, tmp_path: Path, stride_m: float
) -> None:
    cube = cube_of(catalog, stride_m=stride_m)
    report = write_cube(cube, tmp_path / "cube.zarr")
    assert report.n_written == report.n_regions
    stored = open_stored_cube(tmp_path / "cube.zarr")
    xr.testing.assert_identical(stored.compute(), cube.compute())
    assert (grid_of(stored), halo_of(stored)) == (grid_of(cube), halo_of(cube))
    xr.testing.assert_identical(aggregate(stored).compute(), aggregate(cube).compute())


def test_a_smaller_halo_is_cut_from_a_stored_cube(catalog: Catalog, tmp_path: Path) -> None:
    write_cube(cube_of(catalog, stride_m=160), tmp_path / "cube.zarr")
    grid = Grid(CRS, small_grid().cells, chunk_cells=1)
    stored = open_stored_cube(tmp_path / "cube.zarr", grid=grid, halo_px=0)
    xr.testing.assert_equal(stored.compute(), cube_of(catalog).compute())


def test_a_larger_halo_or_another_grid_is_refused(catalog: Catalog, tmp_path: Path) -> None:
    write_cube(cube_of(catalog), tmp_path / "cube.zarr")
    with pytest.raises(GridMismatchError, match="reaches 0 px past its grid and 8 are wanted"):
        open_stored_cube(tmp_path / "cube.zarr", halo_px=8)
    x0, y0, x1, y1 = small_grid().cells
    with pytest.raises(GridMismatchError, match=r"--write --overwrite"):
        open_stored_cube(tmp_path / "cube.zarr", grid=Grid(CRS, (x0, y0, x1, y1 + 1)))


def test_writing_again_writes_nothing(catalog: Catalog, tmp_path: Path) -> None:
    write_cube(cube_of(catalog), tmp_path / "cube.zarr")
    before = digests(tmp_path)
    report = write_cube(cube_of(catalog), tmp_path / "cube.zarr")
    assert (report.n_written, digests(tmp_path)) == (0, before)


def test_a_store_of_another_cube_is_not_overwritten_unasked(
    catalog: Catalog, tmp_path: Path
) -> None:
    write_cube(cube_of(catalog), tmp_path / "cube.zarr")
    other = cube_of(catalog, stride_m=160)
    with pytest.raises(StoreError, match="from other inputs or settings"):
        write_cube(other, tmp_path / "cube.zarr")
    write_cube(other, tmp_path / "cube.zarr", overwrite=True)
    assert halo_of(open_stored_cube(tmp_path / "cube.zarr")) == 8


def test_an_unfinished_store_is_not_opened(catalog: Catalog, tmp_path: Path) -> None:
    write_cube(cube_of(catalog), tmp_path / "cube.zarr")
    root = tmp_path / "cube.zarr" / "zarr.json"
    root.write_text(json.dumps({"zarr_format": 3, "node_type": "group"}))
    with pytest.raises(StoreError, match="no whole cube"):
        open_stored_cube(tmp_path / "cube.zarr")


def test_a_damaged_shard_is_found_and_written_again(catalog: Catalog, tmp_path: Path) -> None:
    store = tmp_path / "cube.zarr"
    write_cube(cube_of(catalog), store)
    before = digests(store)
    assert verify_store(store).is_sound
    shards = sorted(path for path in (store / "cube" / "a" / "c").rglob("*") if path.is_file())
    content = bytearray(shards[3].read_bytes())
    content[len(content) // 2] ^= 1
    shards[3].write_bytes(content)
    shards[5].write_bytes(shards[5].read_bytes()[:-7])
    shards[6].unlink()
    names = [str(path.relative_to(store)) for path in shards]
    found = verify_store(store)
    assert (found.damaged, found.missing) == ((names[3], names[5]), (names[6],))
    assert write_cube(cube_of(catalog), store).n_written == 2  # those of another length
    assert verify_store(store) == StoreCheck(found.n_files, (names[3],), (), ())
    shards[3].unlink()
    assert write_cube(cube_of(catalog), store).n_written == 1
    assert digests(store) == before


def test_a_second_writer_is_refused(catalog: Catalog, tmp_path: Path) -> None:
    from filelock import FileLock

    with (
        FileLock(tmp_path / ".cube.zarr.lock"),
        pytest.raises(StoreError, match="being written by another process"),
    ):
        write_cube(cube_of(catalog), tmp_path / "cube.zarr")


WRITER = """
import sys, time
from lczcube.places import Folder
from lczcube.catalog import open_catalog
from lczcube.cubestore import write_cube
from lczcube.cube import open_cube
from lczcube.grid import Grid

whole = Folder.write
def slowly(place, key, content):
    time.sleep(0.02)
    whole(place, key, content)
Folder.write = slowly
catalog, store, grid = sys.argv[1:]
cube = open_cube(open_catalog(catalog), Grid.from_json(grid), inputs=["a", "b"], year=2024)
print("ready", flush=True)
write_cube(cube, store)
"""


def test_a_killed_writer_is_gone_on_with_and_ends_with_the_same_bytes(
    catalog: Catalog, tmp_path: Path
) -> None:
    cube = cube_of(catalog)
    write_cube(cube, tmp_path / "whole.zarr")
    expected = digests(tmp_path / "whole.zarr")
    store = tmp_path / "killed.zarr"
    folder = str(catalog).removeprefix("Catalog('").removesuffix("')")
    arguments = [folder, str(store), grid_of(cube).to_json()]
    for delay_s in (0.05, 0.15, 0.3):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, *arguments], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(delay_s)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
    n_before = len(list((tmp_path / "killed.zarr.regions").glob("cube.*.json")))
    report = write_cube(cube, store)
    assert report.n_written == report.n_regions - n_before
    assert digests(store) == expected
    assert not list(tmp_path.rglob("*.partial"))
    assert open_catalog(folder)
