"""The seam diagnostic from files to its verdict: planted faults found, clean mosaics silent."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from scipy.ndimage import gaussian_filter

from lczcube.cube import open_cube
from lczcube.grid import Grid
from lczcube.seams import SeamReport, find_seams
from tests.scenes import CRS, catalog_of, raster_input, write_raster
from tests.test_cube import X0, Y0

SIDE_PX = 320
MARGIN_PX = 3
"""Pixels past a tile that a shifted copy of it needs."""


def scene(seed: int) -> npt.NDArray[np.float32]:
    """Three bands of a smooth field with texture, larger than the tiles by a margin."""
    rng = np.random.default_rng(seed)
    side = SIDE_PX + 2 * MARGIN_PX
    fields = [gaussian_filter(rng.normal(size=(side, side)), 3) * 20 for _ in range(3)]
    noise = rng.normal(scale=0.05, size=(3, side, side))
    return (np.stack(fields) + noise).astype(np.float32)


def report(
    folder: Path,
    *,
    seed: int = 0,
    overlap_px: int = 0,
    shift: tuple[int, int] = (0, 0),
    step: float = 0.0,
) -> SeamReport:
    """Two by two tiles; that of the lower right is shifted by ``(x, y)`` pixels and lifted."""
    codes = scene(seed)
    half = SIDE_PX // 2
    for row in (0, 1):
        for column in (0, 1):
            top, left = row * half, column * half
            bottom = top + half + overlap_px * (row == 0)
            right = left + half + overlap_px * (column == 0)
            is_faulty = row == column == 1
            dx, dy = shift if is_faulty else (0, 0)
            part = codes[
                :,
                top + MARGIN_PX - dy : bottom + MARGIN_PX - dy,
                left + MARGIN_PX - dx : right + MARGIN_PX - dx,
            ]
            write_raster(
                folder / f"tile_{row}{column}.tif",
                part + np.float32(step * is_faulty),
                x0=X0 + 10 * left,
                y0=Y0 - 10 * top,
            )
    catalog = catalog_of(folder, raster_input("a", "tile_*.tif"))
    x, y = X0 // 320 + 1, Y0 // 320
    grid = Grid(CRS, (x, y - 9, x + 9, y))
    return find_seams(open_cube(catalog, grid, inputs=["a"], year=2024))


@pytest.mark.parametrize("overlap_px", [0, 12])
@pytest.mark.parametrize("seed", range(4))
def test_tiles_of_one_scene_show_no_seam(tmp_path: Path, seed: int, overlap_px: int) -> None:
    found = report(tmp_path, seed=seed, overlap_px=overlap_px)
    assert len(found.seams) >= 4
    assert found.found == ()


@pytest.mark.parametrize("overlap_px", [0, 12])
@pytest.mark.parametrize("shift", [(1, 0), (0, 1), (-1, 1)])
def test_a_tile_one_pixel_out_of_place_is_found(
    tmp_path: Path, shift: tuple[int, int], overlap_px: int
) -> None:
    found = report(tmp_path, overlap_px=overlap_px, shift=shift).found
    assert found
    assert all("tile_11" in seam.tile_a + seam.tile_b for seam in found)
    assert {seam.verdict for seam in found} == {"shift"}


@pytest.mark.parametrize("overlap_px", [0, 12])
def test_a_tile_that_is_brighter_is_found(tmp_path: Path, overlap_px: int) -> None:
    found = report(tmp_path, overlap_px=overlap_px, step=1.0).found
    assert found
    assert all("tile_11" in seam.tile_a + seam.tile_b for seam in found)
    assert {seam.verdict for seam in found} == {"step"}
