from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import lczcube
from lczcube.cube import image
from lczcube.errors import GridMismatchError, ModelError
from lczcube.grid import Grid
from lczcube.models import Area, UnetModel, UnetParameters, XgbModel, XgbParameters, fit_unet
from tests.scenes import CRS, catalog_of, raster_input, write_raster

HALF_PX = 64
GRID = Grid(CRS, (100, 1000, 104, 1004), chunk_cells=2)
TINY = UnetParameters(epochs=1, width=4, depth=1, window_px=16)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> lczcube.catalog.Catalog:
    """Two bands, one code west of the middle of the grid and another east of it."""
    folder = tmp_path_factory.mktemp("scene")
    codes = np.full((2, 256, 256), 10, np.int16)
    codes[:, :, 128:] = 90
    codes += np.random.default_rng(0).integers(0, 5, codes.shape, dtype=np.int16)
    x0, y0 = 100 * 320 - 640, 1004 * 320 + 640
    write_raster(folder / "a.tif", codes, x0=x0, y0=y0, nodata=-1)
    return catalog_of(folder, raster_input("made", "a.tif", layer="embedding", product="made/1"))


def opened(catalog: lczcube.catalog.Catalog, halo_px: int = 0) -> xr.Dataset:
    return lczcube.open_cube(catalog, GRID, inputs=["made"], year=2024, halo_px=halo_px)


@pytest.fixture(scope="module")
def cells(catalog: lczcube.catalog.Catalog) -> xr.Dataset:
    return lczcube.aggregate(opened(catalog))


@pytest.fixture(scope="module")
def trees(cells: xr.Dataset) -> XgbModel:
    """Trained on the cells themselves: zone 2 in the west, 6 in the east."""
    flat = cells[["features"]].compute().stack(sample=("cell_y", "cell_x"))
    lcz = np.tile(np.array([2, 2, 6, 6], np.uint8), 4)
    samples = flat.reset_index("sample").assign(lcz=("sample", lcz))
    return lczcube.fit_xgb(samples, seed=0, parameters=XgbParameters(rounds=5, max_depth=2))


@pytest.fixture(scope="module")
def network(catalog: lczcube.catalog.Catalog) -> UnetModel:
    lcz = np.zeros(GRID.shape, np.uint8)
    lcz[::9, :HALF_PX], lcz[::9, HALF_PX:] = 2, 6
    pixels = image(opened(catalog))
    bands = tuple(pixels["band"].values.tolist())
    area = Area("made", pixels, lcz)
    return fit_unet([area], seed=0, bands=bands, products=("made/1",), parameters=TINY)


def test_a_map_by_trees_is_written_as_it_is(
    trees: XgbModel, cells: xr.Dataset, tmp_path: Path
) -> None:
    store = lczcube.write_product({"cells": lczcube.predict(trees, cells)}, tmp_path / "lcz.zarr")
    stored = xr.open_zarr(store, group="cells")
    assert stored["lcz"].values.tolist() == [[2, 2, 6, 6]] * 4
    assert stored.attrs["spatial:transform"] == [320, 0, GRID.bbox[0], 0, -320, GRID.bbox[3]]


def test_a_map_by_a_network_is_written_as_it_is(
    network: UnetModel, catalog: lczcube.catalog.Catalog, tmp_path: Path
) -> None:
    mapped = lczcube.predict(network, opened(catalog, network.context_px))
    stored = xr.open_zarr(
        lczcube.write_product({"pixels": mapped}, tmp_path / "lcz.zarr"), "pixels"
    )
    assert stored["lcz"].shape == GRID.shape
    assert stored.attrs["spatial:transform"] == [10, 0, GRID.bbox[0], 0, -10, GRID.bbox[3]]


def test_predicting_reads_no_pixel(
    trees: XgbModel, network: UnetModel, cells: xr.Dataset, catalog: lczcube.catalog.Catalog
) -> None:
    for mapped in (
        lczcube.predict(trees, cells),
        lczcube.predict(network, opened(catalog, network.context_px)),
    ):
        assert all(variable.chunks is not None for variable in mapped.data_vars.values())


def test_trees_refuse_a_cube_and_say_what_they_want(
    trees: XgbModel, catalog: lczcube.catalog.Catalog
) -> None:
    with pytest.raises(ModelError, match=r"maps features: give it aggregate\(cube\), not .* made"):
        lczcube.predict(trees, opened(catalog))


def test_a_network_refuses_features_and_says_what_it_wants(
    network: UnetModel, cells: xr.Dataset
) -> None:
    with pytest.raises(ModelError, match=r"maps pixels: give it the cube, not .* features"):
        lczcube.predict(network, cells)


def test_a_network_refuses_a_cube_without_its_context(
    network: UnetModel, catalog: lczcube.catalog.Catalog
) -> None:
    with pytest.raises(GridMismatchError, match=f"halo_px={network.context_px}"):
        lczcube.predict(network, opened(catalog))


def test_a_map_that_lost_its_grid_is_refused_with_the_remedy(
    trees: XgbModel, cells: xr.Dataset, tmp_path: Path
) -> None:
    mapped = lczcube.predict(trees, cells)
    mapped.attrs.clear()
    with pytest.raises(GridMismatchError, match="keep its attributes"):
        lczcube.write_product({"cells": mapped}, tmp_path / "lcz.zarr")
    assert list(tmp_path.iterdir()) == []
