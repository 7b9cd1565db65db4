"""Loading a full-size AlphaEarth-like file: every block once, against plain rasterio, in one run.

    python benchmarks/large.py        (some minutes, 5 GB of disk)

A planar, south-up GeoTIFF of 8192 x 8192 pixels and 64 bands of int8 codes, zstd, blocks of 1024,
is made in a temporary folder and loaded on a grid whose chunks of 640 line up with no block. No
path keeps what it loads: of each part the sum of its codes is taken, and all must agree.
"rasterio" reads each touched block once, all bands of a block in one read, cut to the grid, on as
many threads: what there is to gain. ``aggregate`` reads, decodes and reduces. In turn, the best of
the repeats; blocks decoded are counted from the log of reads.
"""

import argparse
import logging
import re
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import dask
import numpy as np
import rasterio
import xarray as xr
from affine import Affine
from rasterio.windows import Window

from lczcube.catalog import build_catalog, open_catalog
from lczcube.cube import open_cube
from lczcube.grid import Grid
from lczcube.windows import aggregate

CRS = "EPSG:32632"
X0, Y0 = 500_070, 5_400_110
BLOCK_PX = 1024
BASE = "rasterio, each block once"

INPUT = """id = "benchmark"
[[input]]
name = "aef"
source = "raster"
href = "tile.tif"
year = 2024
layer = "embedding"
product = "benchmark/1"
decoder = "signed_square"
valid = "all_bands_nodata"
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side-px", type=int, default=8192, help="a multiple of 1024")
    parser.add_argument("--bands", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        dask.config.set(scheduler="threads", num_workers=options.threads),
    ):
        path = Path(folder) / "tile.tif"
        write_tile(path, options.side_px, options.bands)
        cube = open_scene(Path(folder), options.side_px)
        counter = count_blocks()
        ways: dict[str, Callable[[], Any]] = {
            BASE: lambda: sum_by_rasterio(path, cube, options.threads),
            "lczcube graph": lambda: sum_of_chunks(cube),
            "lczcube.aggregate": lambda: float(aggregate(cube)["features"].sum()),
        }
        expected = ways[BASE]()
        if sum_of_chunks(cube) != expected:
            raise SystemExit("the sums differ: one path reads other codes")
        decoded = counter.n_blocks / (options.side_px // BLOCK_PX) ** 2
        results = best_seconds(ways, options.repeats)
    print(f"{options.side_px}^2 x {options.bands} planar, south-up, {options.threads} threads\n")
    print("| path | s | to rasterio | CPU s | to rasterio |\n|---|---|---|---|---|")
    wall, cpu = results[BASE]
    for name, (seconds, cpu_seconds) in results.items():
        print(
            f"| {name} | {seconds:.1f} | {seconds / wall:.2f} | {cpu_seconds:.1f} "
            f"| {cpu_seconds / cpu:.2f} |"
        )
    print(f"\nblocks decoded / touched by the graph: {decoded:.2f}")


def write_tile(path: Path, side_px: int, n_bands: int) -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(-60, 60, (n_bands, 64, 64)).astype(np.int8)
    block = np.repeat(np.repeat(coarse, 16, 1), 16, 2)
    block += rng.integers(-3, 4, block.shape, dtype=np.int8)
    profile = {"driver": "GTiff", "count": n_bands, "dtype": "int8", "crs": CRS, "nodata": -128}
    size = {"height": side_px, "width": side_px, "interleave": "band", "BIGTIFF": "YES"}
    layout = {"tiled": True, "blockxsize": BLOCK_PX, "blockysize": BLOCK_PX, "compress": "zstd"}
    transform = Affine(10, 0, X0, 0, 10, Y0 - side_px * 10)
    with rasterio.open(
        path, "w", transform=transform, num_threads=2, **profile, **size, **layout
    ) as file:
        for row, column in product(range(0, side_px, BLOCK_PX), repeat=2):
            file.write(block, window=Window(column, row, BLOCK_PX, BLOCK_PX))


def open_scene(folder: Path, side_px: int) -> xr.Dataset:
    (folder / "catalog.toml").write_text(INPUT)
    build_catalog(folder / "catalog.toml", folder / "catalog")
    x, y, n = X0 // 320 + 1, (Y0 - side_px * 10) // 320 + 1, side_px // 32 - 1
    grid = Grid(CRS, (x, y, x + n, y + n))
    return open_cube(open_catalog(folder / "catalog"), grid, inputs=["aef"], year=2024)


def sum_of_chunks(cube: xr.Dataset) -> int:
    """Every chunk loaded, summed and let go."""
    sums = cube["aef"].data.map_blocks(
        lambda codes: codes.sum(dtype=np.int64).reshape((1,) * codes.ndim),
        dtype=np.int64,
        chunks=(1, 1, 1, 1),
    )
    return int(sums.compute().sum())


def sum_by_rasterio(path: Path, cube: xr.Dataset, n_threads: int) -> int:
    """Every block of the grid read once, summed and let go."""
    with rasterio.open(path) as file:
        inverse = ~file.transform
    x, y = cube["x"].values, cube["y"].values
    first_column, last_row = (round(v) for v in inverse * (x[0] - 5, y[0] + 5))
    last_column, first_row = (round(v) for v in inverse * (x[-1] + 5, y[-1] - 5))

    def sum_of(corner: tuple[int, int]) -> int:
        row, column = (at * BLOCK_PX for at in corner)
        top, bottom = max(row, first_row), min(row + BLOCK_PX, last_row)
        left, right = max(column, first_column), min(column + BLOCK_PX, last_column)
        with rasterio.open(path, sharing=False) as file:
            codes = file.read(window=Window(left, top, right - left, bottom - top))
        return int(codes.sum(dtype=np.int64))

    corners = product(
        range(first_row // BLOCK_PX, -(-last_row // BLOCK_PX)),
        range(first_column // BLOCK_PX, -(-last_column // BLOCK_PX)),
    )
    with ThreadPoolExecutor(n_threads) as pool:
        return sum(pool.map(sum_of, corners))


class BlockCounter(logging.Handler):
    """Blocks that the reads of the log decode."""

    n_blocks = 0

    def emit(self, record: logging.LogRecord) -> None:
        found = re.findall(r"\d+", record.getMessage().split(" rows ")[1])
        top, bottom, left, right = (int(text) for text in found)
        rows = -(-bottom // BLOCK_PX) - top // BLOCK_PX
        self.n_blocks += rows * (-(-right // BLOCK_PX) - left // BLOCK_PX)


def count_blocks() -> BlockCounter:
    counter = BlockCounter()
    reads = logging.getLogger("lczcube.reader")
    reads.setLevel(logging.DEBUG)
    reads.addHandler(counter)
    return counter


def best_seconds(
    ways: dict[str, Callable[[], Any]], repeats: int
) -> dict[str, tuple[float, float]]:
    best = {name: (float("inf"), float("inf")) for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            way()
            taken = time.perf_counter() - wall, time.process_time() - cpu
            best[name] = min(best[name][0], taken[0]), min(best[name][1], taken[1])
    return best


if __name__ == "__main__":
    main()
