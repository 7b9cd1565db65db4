"""Writing a product against zarr-python writing the same arrays with the same codecs, and its size.

``python benchmarks/products.py [KM] [FOLDER]``: a made-up map of KM x KM km (default 32) at 10 m.
Both write from memory on the same threads. The product also hashes, syncs every file to disk and
leaves markers; a second figure leaves out the syncs, a third adds the pyramid.
"""

import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import xarray as xr
import zarr
from scipy.ndimage import zoom

from lczcube import products
from lczcube.cube import GRID_ATTR
from lczcube.grid import Grid
from lczcube.probability import quantise
from lczcube.regions import compressors

REPEATS = 3


def made_up(grid: Grid) -> xr.Dataset:
    """A map in memory: smooth fields of 17 classes with noise, as a model's probabilities are."""
    rng, side = np.random.default_rng(0), grid.shape[0]
    field = np.stack(
        [zoom(rng.normal(size=(side // 64 + 1,) * 2), 64, order=1)[:side, :side] for _ in range(17)]
    ).astype(np.float32)
    field += rng.normal(size=field.shape, scale=0.1).astype(np.float32)
    odds = np.exp(3 * field)
    lcz, confidence, percent = quantise(np.moveaxis(odds / odds.sum(axis=0), 0, -1))
    layers = {
        "lcz": (("y", "x"), lcz),
        "confidence": (("y", "x"), confidence),
        "probability": (("lcz_class", "y", "x"), np.ascontiguousarray(np.moveaxis(percent, -1, 0))),
    }
    maps = xr.Dataset(layers, attrs={GRID_ATTR: grid.to_json()})
    maps = maps.assign_coords(lcz_class=np.arange(1, 18, dtype=np.uint8))
    return maps.chunk({"y": grid.chunk_px, "x": grid.chunk_px, "lcz_class": -1})


def write_bare(maps: xr.Dataset, path: Path, side_px: int) -> None:
    """The same arrays, shards and codecs, and nothing else."""
    root = zarr.create_group(path, zarr_format=3)
    sources, targets = [], []
    for name, variable in maps.data_vars.items():
        sides = [side_px if dim in ("y", "x") else variable.sizes[dim] for dim in variable.dims]
        half = [
            n // 2 if dim in ("y", "x") else n for n, dim in zip(sides, variable.dims, strict=True)
        ]
        sources.append(variable.data)
        targets.append(
            root.create_array(
                str(name),
                shape=variable.shape,
                dtype=variable.dtype,
                chunks=tuple(half),
                shards=tuple(sides),
                compressors=compressors(),
            )
        )
    da.store(sources, targets, lock=False)


def seconds(write: Callable[[Path], object], folder: Path) -> tuple[float, float]:
    """Wall and processor seconds of one write."""
    path = folder / "store.zarr"
    began, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    write(path)
    wall, now = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    shutil.rmtree(path)
    shutil.rmtree(f"{path}.regions", ignore_errors=True)
    return wall, now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime


def main(km: float, folder: Path) -> None:
    n_cells = round(km / 0.32)
    grid = Grid("EPSG:32632", (0, 0, n_cells, n_cells))
    maps = made_up(grid)
    n_bytes = sum(v.nbytes for v in maps.data_vars.values())
    print(f"{n_bytes / 1e6:.0f} MB of {grid.shape[0]} x {grid.shape[1]} pixels, {folder}")
    sync, largest = os.fsync, products.level_names

    def product(path: Path) -> None:
        products.write_product({"pixels": maps}, path, identity="bench")

    def without_pyramid(path: Path) -> None:
        products.level_names = lambda *_: []
        product(path)
        products.level_names = largest

    def without_syncs(path: Path) -> None:
        os.fsync = lambda _: None
        without_pyramid(path)
        os.fsync = sync

    ways = {
        "zarr-python": lambda path: write_bare(maps, path, grid.chunk_px),
        "product, no pyramid, no syncs": without_syncs,
        "product, no pyramid": without_pyramid,
        "product with pyramid": product,
    }
    times = {name: [] for name in ways}
    with dask.config.set(scheduler="threads", num_workers=2):
        for _ in range(REPEATS):
            for name, way in ways.items():
                times[name].append(seconds(way, folder))
        product(folder / "store.zarr")
    bare = np.min(times["zarr-python"], axis=0)
    for name, measured in times.items():
        wall, processor = np.min(measured, axis=0)
        print(
            f"{name:30} {wall:6.2f} s ({wall / bare[0]:.2f})   "
            f"{processor:6.2f} s of processor ({processor / bare[1]:.2f})"
        )
    area_km2 = (n_cells * 0.32) ** 2
    store = folder / "store.zarr"
    for group in sorted(path.name for path in store.iterdir() if path.is_dir()):
        size = sum(file.stat().st_size for file in (store / group).rglob("*") if file.is_file())
        print(f"{group:10} {size / area_km2 / 1e3:6.1f} kB per km2")


if __name__ == "__main__":
    side_km = float(sys.argv[1]) if len(sys.argv) > 1 else 32.0
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as scratch:
        main(side_km, Path(scratch))
