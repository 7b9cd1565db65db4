"""Heights and counts on the grid in the right quantity, against block averages made by hand."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from affine import Affine

from lczcube.cube import decode, open_cube
from lczcube.grid import Grid
from lczcube.windows import aggregate
from tests.scenes import CRS, catalog_of, raster_input
from tests.test_cube import X0, Y0

SIDE_M = 1280


def grid() -> Grid:
    """Four by four cells whose upper-left corner is that of the scene."""
    x, y = X0 // 320 + 1, Y0 // 320
    return Grid(CRS, (x, y - 4, x + 4, y), chunk_cells=3)


def write_fine(
    path: Path, bands: npt.NDArray[np.generic], *, pixel_m: float, nodata: float | None = None
) -> None:
    """Bands whose upper-left corner is that of :func:`grid`, in two tiles that split a pixel."""
    x0, y0 = grid().bbox[0], grid().bbox[3]
    cut = bands.shape[2] // 2 + 1
    profile = {"driver": "GTiff", "count": len(bands), "dtype": bands.dtype.name, "crs": CRS}
    for name, left, part in (("a", 0, bands[:, :, :cut]), ("b", cut, bands[:, :, cut:])):
        transform = Affine(pixel_m, 0, x0 + left * pixel_m, 0, -pixel_m, y0)
        with rasterio.open(
            path.with_name(f"{path.stem}_{name}.tif"),
            "w",
            height=part.shape[1],
            width=part.shape[2],
            transform=transform,
            nodata=nodata,
            **profile,
        ) as file:
            file.write(part)


def blocks(values: npt.NDArray[np.generic], n: int) -> npt.NDArray[np.float64]:
    """Pixels of 10 m by the fine pixels in each: ``(y, x, fine)``."""
    side = values.shape[0] // n
    cut = values.astype(float).reshape(side, n, side, n).transpose(0, 2, 1, 3)
    return cut.reshape(side, side, n * n)


def test_canopy_is_the_mean_over_trees_and_their_share(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    n = 4  # pixels of 2.5 m
    fine = rng.integers(0, 20, (SIDE_M * n // 10, SIDE_M * n // 10)).astype(np.uint8)
    fine[rng.random(fine.shape) < 0.5] = 0
    fine[:200] = 1  # grass: no canopy in the northern fields
    write_fine(tmp_path / "chm.tif", fine[None], pixel_m=2.5)
    catalog = catalog_of(
        tmp_path,
        raster_input("canopy", "chm_*.tif", layer="canopy", static=True).replace(
            "year = 2024\n", ""
        ),
    )
    cube = decode(open_cube(catalog, grid(), inputs=["canopy"])).compute()
    assert cube["canopy_height"].dims == ("y", "x")
    pixels = blocks(fine, n)
    tall = pixels >= 2
    with np.errstate(invalid="ignore"):
        height = np.where(tall, pixels, 0).sum(axis=2) / tall.sum(axis=2)
    np.testing.assert_allclose(cube["canopy_height"].values, height, rtol=1e-6)
    np.testing.assert_allclose(cube["canopy_fraction"].values, tall.mean(axis=2), rtol=1e-6)
    cells = aggregate(open_cube(catalog, grid(), inputs=["canopy"]), stats=("mean",)).compute()
    assert cells["feature"].values.tolist() == ["canopy_height_mean", "canopy_fraction_mean"]
    assert (cells["valid_fraction"].values == 1).all()  # ground without trees is data
    assert (cells["features"].values[0, :, 0] == 0).all()
    southern = height[96:].reshape(32, 4, 32).mean(axis=(0, 2))
    np.testing.assert_allclose(cells["features"].values[3, :, 0], southern, rtol=1e-5)


def test_buildings_are_height_by_presence_share_and_count(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    n = 2  # pixels of 5 m
    side = SIDE_M * n // 10
    presence = rng.random((side, side)).astype(np.float32)
    presence[: side // 2, :30] = 0
    height = np.where(presence > 0, rng.uniform(3, 40, (side, side)), 0).astype(np.float32)
    count = rng.uniform(0, 0.02, (side, side)).astype(np.float32)
    count[-4:, -4:] = height[-4:, -4:] = presence[-4:, -4:] = -99
    write_fine(tmp_path / "ob.tif", np.stack([count, height, presence]), pixel_m=5, nodata=-99)
    names = '["building_fractional_count", "building_height", "building_presence"]'
    table = raster_input("building", "ob_*.tif", layer="buildings") + f"\nbands = {names}"
    cube = open_cube(catalog_of(tmp_path, table), grid(), inputs=["building"], year=2024)
    values = {name: decode(cube)[name].isel(time=0).values for name in cube.data_vars}
    assert sorted(values) == ["building_count", "building_fraction", "building_height"]
    valid = blocks(presence, n) >= 0
    p, h, c = (np.where(valid, blocks(v, n), 0) for v in (presence, height, count))
    with np.errstate(invalid="ignore"):
        weighted = (p * h).sum(axis=2) / p.sum(axis=2)
        share = ((p >= 0.34) & valid).sum(axis=2) / valid.sum(axis=2)
    np.testing.assert_allclose(values["building_height"], weighted, rtol=1e-5)
    np.testing.assert_allclose(values["building_fraction"], share, rtol=1e-5)
    total = np.where(valid.any(axis=2), c.sum(axis=2), np.nan)
    np.testing.assert_allclose(values["building_count"], total, rtol=1e-5)
    assert np.nansum(values["building_count"]) == pytest.approx(c.sum(), rel=1e-5)
    assert np.isnan(values["building_height"][-2:, -2:]).all()


def test_a_city_without_heights_lacks_all_their_quantities(tmp_path: Path) -> None:
    fine = np.full((1, 512, 512), 5, np.uint8)
    write_fine(tmp_path / "chm.tif", fine, pixel_m=2.5)
    base = np.ones((1, 200, 3000), np.float32)
    with rasterio.open(
        tmp_path / "base.tif",
        "w",
        driver="GTiff",
        count=1,
        dtype="float32",
        crs=CRS,
        height=200,
        width=3000,
        transform=Affine(10, 0, grid().bbox[0], 0, -10, grid().bbox[3]),
    ) as file:
        file.write(base)
    catalog = catalog_of(
        tmp_path,
        raster_input("canopy", "chm_*.tif", layer="canopy"),
        raster_input("base", "base.tif"),
    )
    x0, y0, x1, y1 = grid().cells
    far = Grid(CRS, (x0 + 40, y0, x1 + 40, y1))
    cube = open_cube(catalog, far, inputs=["canopy", "base"], year=2024, missing="indicator")
    cells = aggregate(cube, stats=("mean",)).compute()
    assert cells["feature"].values.tolist() == [
        "canopy_height_mean",
        "canopy_fraction_mean",
        "base_b01_mean",
        "canopy_present",
        "base_present",
    ]
    assert np.isnan(cells["features"].values[..., :2]).all()
    assert (cells["features"].values[..., 2:] == [1, 0, 1]).all()
    assert (cells["valid_fraction"].values == 1).all()
