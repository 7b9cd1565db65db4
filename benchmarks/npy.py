"""Loading npy tiles, whose bands lie side by side, and aggregating them as they lie, in one run.

    python benchmarks/npy.py

A tile of 1024 x 1024 pixels and 128 bands of int8 codes, with a float32 scale a pixel, as
TESSERA's are, is made in a temporary folder. It is loaded band first in chunks of 640. "copy +
transpose" copies the file into memory and turns it band first in blocks, the fastest that NumPy
alone has: what there is to gain. ``aggregate`` takes the codes as they lie: no transpose is in its
time, which is compared with that of a plain copy of the file. Each path in turn, on one thread,
the best of the repeats; the codes must be equal. Times move with the machine; their ratio less so.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import numpy as np
import numpy.typing as npt
import xarray as xr
from affine import Affine

from lczcube.cube import GRID_ATTR, HALO_ATTR
from lczcube.decoders import Coding
from lczcube.grid import Grid
from lczcube.mosaic import Mosaic, mosaic_array
from lczcube.reader import Storage
from lczcube.tiles import Tile, place_tiles
from lczcube.windows import aggregate

CRS = "EPSG:32632"
X0, Y0 = 500_160, 5_400_000
SIDE_PX = 1024
N_BANDS = 128
BLOCK_PX = 32
BASE = "copy + transpose"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, dask.config.set(scheduler="synchronous"):
        paths = write_tile(Path(folder))
        cube = cube_of(*paths)
        ways: dict[str, Callable[[], Any]] = {
            "copy": lambda: np.array(np.load(paths[0], mmap_mode="r")),
            BASE: lambda: copy_transposed(paths[0]),
            "lczcube graph": cube["tessera"].data.compute,
            "lczcube.aggregate": lambda: aggregate(cube)["features"].values,
        }
        seconds = best_seconds(ways, options.repeats)
        np.testing.assert_array_equal(ways["lczcube graph"]()[0], copy_transposed(paths[0]))
    print(f"npy, {SIDE_PX} x {SIDE_PX} x {N_BANDS}, one thread, best of {options.repeats}\n")
    print("| path | CPU s | to copy + transpose |\n|---|---|---|")
    for name, taken in seconds.items():
        print(f"| {name} | {taken:.3f} | {taken / seconds[BASE]:.2f} |")


def write_tile(folder: Path) -> tuple[Path, Path]:
    rng = np.random.default_rng(0)
    codes = rng.integers(-127, 128, (SIDE_PX, SIDE_PX, N_BANDS), dtype=np.int8)
    paths = folder / "codes.npy", folder / "scales.npy"
    np.save(paths[0], codes)
    np.save(paths[1], rng.uniform(0.01, 0.2, (SIDE_PX, SIDE_PX)).astype(np.float32))
    return paths


def cube_of(codes: Path, scales: Path) -> xr.Dataset:
    n_cells = SIDE_PX // 32
    x, top = X0 // 320, Y0 // 320
    grid = Grid(CRS, (x, top - n_cells, x + n_cells, top))
    placed = [
        place_tiles([tile_of(path, axes)], grid.geobox)
        for path, axes in ((codes, "y,x,band"), (scales, "y,x"))
    ]
    coding = Coding("int8_times_scale", "finite_scale", None, (1.0,) * N_BANDS, (0.0,) * N_BANDS)
    side = grid.chunk_px
    chunks = tuple(min(side, SIDE_PX - start) for start in range(0, SIDE_PX, side))
    mosaic = Mosaic(
        name="tessera",
        tiles=tuple(placed[0]),
        scale_tiles=tuple(placed[1]),
        frame=grid.geobox,
        storage=Storage("int8", N_BANDS, None),
        coding=coding,
        chunks=(chunks, chunks),
    )
    layer = {"layer": "embedding", "product": "benchmark/1", "synthetic": 1}
    return xr.Dataset(
        {
            "tessera": (
                ("time", "tessera_band", "y", "x"),
                mosaic_array([mosaic]),
                coding.to_attrs() | layer,
            ),
            "tessera_scale": (
                ("time", "y", "x"),
                mosaic_array([mosaic.of_scales()], ("time", "y", "x")),
            ),
        },
        coords={"tessera_band": [f"T{i:03d}" for i in range(N_BANDS)]},
        attrs={GRID_ATTR: grid.to_json(), HALO_ATTR: 0},
    )


def tile_of(path: Path, axes: str) -> Tile:
    affine = Affine(10, 0, X0, 0, -10, Y0)
    shape = (SIDE_PX, SIDE_PX)
    return Tile(path.stem, str(path), "npy", CRS, affine, shape, shape, axes, "", None, None)


def copy_transposed(path: Path) -> npt.NDArray[np.int8]:
    stored = np.array(np.load(path, mmap_mode="r"))
    turned = np.empty((N_BANDS, SIDE_PX, SIDE_PX), np.int8)
    for top in range(0, SIDE_PX, BLOCK_PX):
        for left in range(0, SIDE_PX, BLOCK_PX):
            block = (slice(top, top + BLOCK_PX), slice(left, left + BLOCK_PX))
            turned[:, *block] = stored[block].transpose(2, 0, 1)
    return turned


def best_seconds(ways: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(repeats):
        for name, way in ways.items():
            started = time.process_time()
            way()
            best[name] = min(best[name], time.process_time() - started)
    return best


if __name__ == "__main__":
    main()
