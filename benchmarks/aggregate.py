"""Aggregation against the naive path, in one run: time, tasks and peak memory.

    python benchmarks/aggregate.py

The naive path decodes the cube to float32 and reduces it with ``xarray`` ``coarsen``. Both read
the same 640 x 640 pixels of 64 bands of int8 codes (AlphaEarth's rule), on the same chunks. Each
is timed on one thread in turn, the best of three; peaks are of arrays, by tracemalloc, in a run of
their own. Times move with the machine; their ratio and the counts of tasks do not.
"""

import argparse
import time
import tracemalloc
from collections.abc import Callable

import dask
import dask.array as da
import numpy as np
import xarray as xr

from lczcube.cube import GRID_ATTR, HALO_ATTR, decode
from lczcube.decoders import Coding
from lczcube.grid import Grid
from lczcube.windows import STATS, aggregate

SIDE_PX = 640
REPEATS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bands", type=int, default=64)
    parser.add_argument("--chunk-cells", type=int, default=10)
    options = parser.parse_args()
    cube = int8_cube(options.bands, options.chunk_cells)
    paths = {"lczcube.aggregate": fused, "naive: decode, coarsen": naive}
    with dask.config.set(scheduler="synchronous"):
        seconds = best_seconds(paths, cube)
        peaks = {name: peak_bytes(path, cube) for name, path in paths.items()}
        difference = largest_difference(cube)
    base, reference = paths
    print(f"{SIDE_PX} x {SIDE_PX} x {options.bands} int8, one thread, best of {REPEATS}\n")
    print("| path | seconds | tasks | peak MiB |")
    print("|---|---|---|---|")
    for name, path in paths.items():
        n_tasks = len(dict(path(cube).__dask_graph__()))
        print(f"| {name} | {seconds[name]:.2f} | {n_tasks} | {peaks[name] / 2**20:.0f} |")
    print(f"\nnaive / lczcube: {seconds[reference] / seconds[base]:.1f} x the time, ", end="")
    print(f"{peaks[reference] / peaks[base]:.1f} x the memory; ", end="")
    print(f"largest difference of a feature {difference:.1e}")


def int8_cube(n_bands: int, chunk_cells: int) -> xr.Dataset:
    """A cube as ``open_cube`` gives it, codes in memory; one pixel in ten is invalid."""
    rng = np.random.default_rng(0)
    codes = rng.integers(-127, 128, (1, n_bands, SIDE_PX, SIDE_PX), dtype=np.int8)
    codes[:, :, rng.random((SIDE_PX, SIDE_PX)) < 0.1] = -128
    n_cells = SIDE_PX // 32
    grid = Grid("EPSG:32632", (0, 0, n_cells, n_cells), chunk_cells=chunk_cells)
    coding = Coding("signed_square", "all_bands_nodata", -128, (1,) * n_bands, (0,) * n_bands)
    blocks = da.from_array(codes, chunks=(1, n_bands, grid.chunk_px, grid.chunk_px))
    layer = {"layer": "embedding", "product": "benchmark/1", "synthetic": 1}
    return xr.Dataset(
        {"aef": (("time", "aef_band", "y", "x"), blocks, coding.to_attrs() | layer)},
        coords={"aef_band": [f"A{i:02d}" for i in range(n_bands)]},
        attrs={GRID_ATTR: grid.to_json(), HALO_ATTR: 0},
    )


def fused(cube: xr.Dataset) -> xr.DataArray:
    return aggregate(cube)["features"]


def naive(cube: xr.Dataset) -> xr.DataArray:
    windows = decode(cube)["aef"].isel(time=0).coarsen(y=32, x=32)
    return xr.concat([getattr(windows, stat)() for stat in STATS], dim="aef_band")


def best_seconds(
    paths: dict[str, Callable[[xr.Dataset], xr.DataArray]], cube: xr.Dataset
) -> dict[str, float]:
    best = dict.fromkeys(paths, float("inf"))
    for _ in range(REPEATS):
        for name, path in paths.items():
            started = time.perf_counter()
            path(cube).compute()
            best[name] = min(best[name], time.perf_counter() - started)
    return best


def peak_bytes(path: Callable[[xr.Dataset], xr.DataArray], cube: xr.Dataset) -> int:
    tracemalloc.start()
    path(cube).compute()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def largest_difference(cube: xr.Dataset) -> float:
    reference = naive(cube).transpose("y", "x", "aef_band").values
    return float(np.nanmax(np.abs(fused(cube).values - reference)))


if __name__ == "__main__":
    main()
