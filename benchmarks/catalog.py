"""Registering and searching many tiles: first build, second build, JSON against geoparquet.

    python benchmarks/catalog.py
    python benchmarks/catalog.py --tiles 1000 --bands 2

Tiny GeoTIFFs are made in a temporary folder, a square grid of tiles of 64 bands of int8, each band
named: what is written of a tile is as long as of an AlphaEarth tile. All steps are timed in one
run: a first build, a second one with nothing changed, one with a single tile changed, then searches
for a city (a hundredth of the tiles) and for one id, in the tree of JSON and in stac-geoparquet.
Times move with the machine; ratios and the number of opened files do not. A figure of the disk: the
same number of files of the same size written plainly.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine

from lczcube.catalog import Catalog, build_catalog, open_catalog

SIDE_PX = 4
PIXEL_M = 10

TOML = """id = "benchmark"
[[input]]
name = "tiles"
source = "raster"
href = "tiles"
year = 2024
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiles", type=int, default=10_000)
    parser.add_argument("--bands", type=int, default=64)
    parser.add_argument("--workers", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tiles(folder / "tiles", options.tiles, options.bands)
        (folder / "tiles.toml").write_text(TOML)
        print(f"{options.tiles} tiles of {options.bands} bands, {options.workers} workers")
        time_builds(folder, options.tiles, options.workers)
        time_searches(folder / "catalog", options.tiles)


def write_tiles(folder: Path, n: int, n_bands: int) -> None:
    """A square of tiles side by side; each is written once and moved, which is quick."""
    folder.mkdir()
    columns = round(n**0.5)
    side_m = SIDE_PX * PIXEL_M
    for number in range(n):
        path = folder / f"tile_{number:06d}.tif"
        west = 500_000 + side_m * (number % columns)
        north = 5_000_000 - side_m * (number // columns)
        transform = Affine(PIXEL_M, 0, west, 0, -PIXEL_M, north)
        if number == 0:
            write_tile(path, n_bands, transform)
            continue
        shutil.copy(folder / "tile_000000.tif", path)
        with rasterio.open(path, "r+") as raster:
            raster.transform = transform


def write_tile(path: Path, n_bands: int, transform: Affine) -> None:
    with rasterio.open(
        path, "w", driver="GTiff", width=SIDE_PX, height=SIDE_PX, count=n_bands, dtype="int8",
        crs="EPSG:32632", transform=transform, nodata=-128,
    ) as raster:  # fmt: skip
        raster.write(np.zeros((n_bands, SIDE_PX, SIDE_PX), "int8"))
        raster.descriptions = tuple(f"A{band:02d}" for band in range(n_bands))


def time_builds(folder: Path, n: int, workers: int) -> None:
    toml, out = folder / "tiles.toml", folder / "catalog"

    def build(what: str) -> float:
        with timed() as seconds:
            report = build_catalog(toml, out, workers=workers)
        print_row(what, seconds(), n, f"{report.n_read} files opened")
        return seconds()

    first = build("first build")
    with timed() as seconds:
        copy_plainly(out / "tiles" / "items", folder / "plain")
    print_row("the JSON alone, written plainly", seconds(), n, "")
    second = build("second build")
    print(f"{'':34}{second / first:10.1%} of the first")
    write_tile(folder / "tiles" / "tile_000000.tif", 3, Affine(10, 0, 500_000, 0, -10, 5_000_000))
    build("one tile changed")


def copy_plainly(source: Path, folder: Path) -> None:
    folder.mkdir()
    size = next(source.iterdir()).stat().st_size
    for path in source.iterdir():
        (folder / path.name).write_bytes(bytes(size))


def time_searches(out: Path, n: int) -> None:
    collection = json.loads((out / "tiles" / "collection.json").read_text())
    ((west, south, east, north),) = collection["extent"]["spatial"]["bbox"]
    city = (west, north - (north - south) / 10, west + (east - west) / 10, north)
    asks: dict[str, Callable[[Catalog], int]] = {
        "a hundredth of the tiles": lambda c: len(c.search(bbox=city)),
        "one id": lambda c: len(c.search(ids=[f"tiles_2024_tile_{n // 2:06d}"])),
        "all": lambda c: len(c.search()),
    }
    for what, ask in asks.items():
        for kind, href in (("JSON", out / "catalog.json"), ("geoparquet", out)):
            with timed() as seconds:
                found = ask(open_catalog(href))
            print_row(f"search {kind}: {what}", seconds(), max(found, 1), f"{found} items")


@contextmanager
def timed() -> Iterator[Callable[[], float]]:
    start = time.perf_counter()
    ended: list[float] = []
    yield lambda: (ended or [time.perf_counter()])[0] - start
    ended.append(time.perf_counter())


def print_row(what: str, seconds: float, n: int, more: str) -> None:
    print(f"{what:42}{seconds:8.2f} s {1000 * seconds / n:10.3f} ms each  {more}", flush=True)


if __name__ == "__main__":
    main()
