"""Peak memory, measured in a process of its own on an area and on one 16 times larger."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from tests.scenes import CRS, catalog_of, raster_input

TILE_PX, TILE_CELLS, N_BANDS = 1024, 32, 64
LEFT, BOTTOM = 100, 1000
"""Cells from the zone's zero to the lower left of all tiles."""

AREAS = {"area": (2, 1), "16 times the area": (8, 4)}
"""Tiles side by side, and one above the other; a tile is 64 MiB of codes, as much as is read in one
go. One thread works: with more, whether their peaks meet is a matter of chance on a small area."""

AGGREGATE = """
import sys
import lczcube
from lczcube.runtime import open_scheduler

if __name__ == "__main__":
    catalog, left, bottom, columns, rows, out = sys.argv[1:]
    cells = (int(left), int(bottom), int(left) + int(columns), int(bottom) + int(rows))
    grid = lczcube.Grid("EPSG:32632", cells)
    cube = lczcube.open_cube(lczcube.open_catalog(catalog), grid, inputs=["a"], year=2024)
    with open_scheduler("threads", n_workers=1):
        lczcube.write_product({"cells": lczcube.aggregate(cube)}, out)
    # VmHWM and not ru_maxrss, which starts at the peak of the process that started this one.
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    print(int(status["VmHWM"].split()[0]) * 1024)
"""

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").is_file(), reason="peaks are read from Linux's /proc"
)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiles of int8 codes in the layout of AlphaEarth's: 64 planar bands, zstd, blocks of 1,024."""
    folder = tmp_path_factory.mktemp("tiles")
    codes = np.random.default_rng(0).integers(-127, 128, (N_BANDS, 64, 64), dtype=np.int8)
    profile = {"driver": "GTiff", "count": N_BANDS, "dtype": "int8", "compress": "zstd"}
    blocks = {"tiled": True, "blockxsize": 1024, "blockysize": 1024, "interleave": "band"}
    first = folder / "tile_0_0.tif"
    size = {"width": TILE_PX, "height": TILE_PX}
    with rasterio.open(first, "w", crs=CRS, nodata=-128, **size, **profile, **blocks) as file:
        file.write(np.tile(codes, (1, TILE_PX // 64, TILE_PX // 64)))
    columns, rows = AREAS["16 times the area"]
    for column in range(columns):
        for row in range(rows):
            tile = folder / f"tile_{column}_{row}.tif"
            if tile != first:
                shutil.copy(first, tile)
            x, y = LEFT * 320 + column * TILE_PX * 10, BOTTOM * 320 + (row + 1) * TILE_PX * 10
            with rasterio.open(tile, "r+") as file:
                file.transform = Affine(10, 0, x, 0, -10, y)
    keys = {"decoder": "signed_square", "valid": "all_bands_nodata", "layer": "embedding"}
    catalog_of(folder, raster_input("a", "tile_*.tif", product="made/1", **keys))
    return folder / "catalog" / "catalog.json"


def peak_bytes(catalog: Path, out: Path, columns: int, rows: int) -> int:
    """Peak resident memory of a process that aggregates an area and writes its features."""
    cells = [str(n) for n in (LEFT, BOTTOM, columns * TILE_CELLS, rows * TILE_CELLS)]
    command = [sys.executable, "-W", "error", "-c", AGGREGATE, str(catalog), *cells, str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_the_peak_of_aggregation_does_not_grow_with_the_area(catalog: Path, tmp_path: Path) -> None:
    small, large = (
        peak_bytes(catalog, tmp_path / f"{columns}.zarr", columns, rows)
        for columns, rows in AREAS.values()
    )
    print(f"peaks {small / 2**20:.0f} and {large / 2**20:.0f} MiB")
    assert large <= 1.2 * small, f"{large / 2**20:.0f} MiB against {small / 2**20:.0f} MiB"
