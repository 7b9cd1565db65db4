"""Large scenes: blocks counted on a full-size file, and a whole region end to end."""

import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import dask
import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.windows import Window

from lczcube.catalog import open_catalog
from lczcube.cube import open_cube
from lczcube.grid import Grid
from lczcube.windows import aggregate, projected_peak_bytes
from tests.scenes import CRS, catalog_of, raster_input

pytestmark = pytest.mark.long

X0, Y0 = 500_070, 5_400_110
EMBEDDING = {
    "layer": "embedding",
    "product": "made/1",
    "decoder": "signed_square",
    "valid": "all_bands_nodata",
}


def write_large(
    path: Path, side_px: int, n_bands: int, *, x0: float, y0: float, block_px: int
) -> None:
    """A planar, south-up GeoTIFF of int8 codes, written block by block."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(-60, 60, (n_bands, 64, 64)).astype(np.int8)
    block = np.repeat(np.repeat(coarse, 16, 1), 16, 2)
    block += rng.integers(-3, 4, block.shape, dtype=np.int8)
    profile = {"driver": "GTiff", "count": n_bands, "dtype": "int8", "crs": CRS, "nodata": -128}
    layout = {"tiled": True, "blockxsize": block_px, "blockysize": block_px, "compress": "zstd"}
    transform = Affine(10, 0, x0, 0, 10, y0 - side_px * 10)
    with rasterio.open(
        path,
        "w",
        height=side_px,
        width=side_px,
        transform=transform,
        interleave="band",
        BIGTIFF="YES",
        num_threads=2,
        **profile,
        **layout,
    ) as file:
        for top in range(0, side_px, 1024):
            for left in range(0, side_px, 1024):
                rows, columns = min(1024, side_px - top), min(1024, side_px - left)
                window = Window(left, top, columns, rows)
                file.write(block[:, :rows, :columns], window=window)


def test_a_full_size_planar_file_is_decoded_once_on_chunks_that_cut_its_blocks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """8,192 x 8,192 pixels of 64 bands in blocks of 1,024, on chunks of 640."""
    write_large(tmp_path / "tile.tif", 8192, 64, x0=X0, y0=Y0, block_px=1024)
    catalog = catalog_of(tmp_path, raster_input("aef", "tile.tif", **EMBEDDING))
    x, y = X0 // 320 + 1, (Y0 - 81_920) // 320 + 1
    grid = Grid(CRS, (x, y, x + 255, y + 255))
    cells = aggregate(open_cube(catalog, grid, inputs=["aef"], year=2024), stats=("mean",))
    with (
        caplog.at_level(logging.DEBUG, logger="lczcube.reader"),
        dask.config.set(scheduler="threads", num_workers=2),
    ):
        values = cells["features"].values
    assert np.isfinite(values).all()
    windows = [
        [int(n) for n in re.findall(r"\d+", record.message.split(" rows ")[1])]
        for record in caplog.records
    ]
    decoded = [
        (row, column)
        for top, bottom, left, right in windows
        for row in range(top // 1024, -(-bottom // 1024))
        for column in range(left // 1024, -(-right // 1024))
    ]
    assert len(decoded) <= 1.3 * len(set(decoded))
    assert len(set(decoded)) == 64


AGGREGATE = """
import json, sys, time
import lczcube
from lczcube.runtime import open_scheduler

if __name__ == "__main__":
    catalog, out, *grids = sys.argv[1:]
    seconds = []
    with open_scheduler("threads", n_workers=1):
        for number, grid in enumerate(grids):
            started = time.perf_counter()
            grid = lczcube.Grid.from_json(grid)
            opened = lczcube.open_catalog(catalog)
            cube = lczcube.open_cube(opened, grid, inputs=["aef"], year=2024)
            lczcube.write_product({"cells": lczcube.aggregate(cube)}, f"{out}{number}.zarr")
            seconds.append(time.perf_counter() - started)
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    print(json.dumps([seconds, int(status["VmHWM"].split()[0]) * 1024]))
"""


def test_a_region_of_100_km_and_128_bands_takes_the_memory_of_a_town(tmp_path: Path) -> None:
    """100 tiles of 10 x 10 km: within 2 GiB, at the rate per km2 of one of them."""
    folder = tmp_path / "tiles"
    folder.mkdir()
    for i in range(10):
        for j in range(10):
            at = {"x0": X0 + 10_000 * j, "y0": Y0 - 10_000 * i}
            write_large(folder / f"{i}{j}.tif", 1000, 128, block_px=512, **at)
    catalog_of(tmp_path, raster_input("aef", "tiles/*.tif", **EMBEDDING))
    catalog = tmp_path / "catalog" / "catalog.json"
    x, top = X0 // 320 + 1, Y0 // 320
    small, large = (Grid(CRS, (x, top - n, x + n, top)) for n in (31, 312))
    # The first compiles and fills caches, which has nothing to do with the area.
    grids = [grid.to_json() for grid in (small, small, small, large)]
    done = subprocess.run(
        [sys.executable, "-c", AGGREGATE, str(catalog), str(tmp_path / "out"), *grids],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seconds, peak = json.loads(done.stdout)
    rates = [s / (n * 0.32) ** 2 for s, n in zip(seconds, (31, 31, 31, 312), strict=True)]
    print(f"seconds per km2 {rates}, peak {peak >> 20} MiB")
    assert peak <= projected_peak_bytes(
        open_cube(open_catalog(catalog), large, inputs=["aef"], year=2024)
    )
    assert peak < 2 << 30
    assert rates[-1] <= 1.1 * min(rates[1:-1])
