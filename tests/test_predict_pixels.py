"""Maps of every pixel by models on one feature vector."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import lczcube
from lczcube.cube import image
from lczcube.errors import GridMismatchError, ModelError
from lczcube.grid import Grid
from lczcube.labels.samples import join_samples, write_samples
from lczcube.models import (
    Area,
    SklearnModel,
    XgbModel,
    XgbParameters,
    fit_linear,
    fit_xgb,
    predict_pixels,
)
from lczcube.models.batches import pixel_batches, read_batches
from tests.conftest import PROJECT
from tests.scenes import CRS, catalog_of, raster_input, write_raster
from tests.test_examples import python_blocks
from tests.test_models_tabular import made_features
from tests.test_xgb_external import full_samples

GRID = Grid(CRS, (100, 1000, 104, 1004), chunk_cells=2)
HALF_PX = 64


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> lczcube.catalog.Catalog:
    """Two bands, low west of the middle of the grid and high east of it; a hole without data."""
    folder = tmp_path_factory.mktemp("scene")
    codes = np.full((2, 256, 256), 10, np.int16)
    codes[:, :, 128:] = 90
    codes += np.random.default_rng(0).integers(0, 5, codes.shape, dtype=np.int16)
    codes[:, 100:110, 90:95] = -1
    x0, y0 = 100 * 320 - 640, 1004 * 320 + 640
    write_raster(folder / "a.tif", codes, x0=x0, y0=y0, nodata=-1)
    return catalog_of(folder, raster_input("made", "a.tif", layer="embedding", product="made/1"))


def opened(catalog: lczcube.catalog.Catalog, halo_px: int = 0, grid: Grid = GRID) -> xr.Dataset:
    return lczcube.open_cube(catalog, grid, inputs=["made"], year=2024, halo_px=halo_px)


@pytest.fixture(scope="module")
def trees(catalog: lczcube.catalog.Catalog) -> XgbModel:
    lcz = np.zeros(GRID.shape, np.uint8)
    lcz[::9, :HALF_PX], lcz[::9, HALF_PX:] = 2, 6
    area = Area("made", image(opened(catalog, 8)), lcz, halo_px=8)
    return fit_xgb(
        pixel_batches(area), seed=0, parameters=XgbParameters(rounds=5, max_depth=2, colsample=1)
    )


def test_the_map_gives_each_pixel_its_zone_whatever_the_halo(
    trees: XgbModel, catalog: lczcube.catalog.Catalog
) -> None:
    wanted = np.full(GRID.shape, 2, np.uint8)
    wanted[:, HALF_PX:] = 6
    wanted[36:46, 26:31] = 0
    for halo_px in (0, 8):
        mapped = lczcube.predict(trees, opened(catalog, halo_px))
        assert mapped["lcz"].chunks == ((64, 64), (64, 64))
        np.testing.assert_array_equal(mapped["lcz"], wanted)
        np.testing.assert_array_equal(mapped["confidence"] == 255, wanted == 0)
        assert mapped["probability"].dims == ("lcz_class", "y", "x")


def test_any_chunks_and_numpy_give_the_same_map(
    trees: XgbModel, catalog: lczcube.catalog.Catalog
) -> None:
    pixels = image(opened(catalog, 3))
    wanted = predict_pixels(trees, pixels, grid=GRID, halo_px=3).compute()
    for given in (pixels.chunk(y=50, x=47, band=1), pixels.compute()):
        found = predict_pixels(trees, given, grid=GRID, halo_px=3)
        xr.testing.assert_identical(found.compute(), wanted)


def test_the_map_is_written_as_it_is(
    trees: XgbModel, catalog: lczcube.catalog.Catalog, tmp_path: Path
) -> None:
    mapped = lczcube.predict(trees, opened(catalog))
    store = lczcube.write_product({"pixels": mapped}, tmp_path / "lcz.zarr")
    stored = xr.open_zarr(store, group="pixels")
    np.testing.assert_array_equal(stored["lcz"], mapped["lcz"])


def test_trees_on_pixels_train_on_what_the_files_hold(
    trees: XgbModel, catalog: lczcube.catalog.Catalog
) -> None:
    assert trees.meta.products == ("made/1",)
    assert (trees.meta.classes, len(trees.meta.features)) == ((2, 6), 2)
    # Rows 36 and 45 of every ninth cross the hole, which has five columns.
    assert trees.meta.n_train == len(range(0, 128, 9)) * 128 - 2 * 5


def test_a_baseline_maps_pixels_too(catalog: lczcube.catalog.Catalog) -> None:
    lcz = np.zeros(GRID.shape, np.uint8)
    lcz[::9, :HALF_PX], lcz[::9, HALF_PX:] = 2, 6
    rows = read_batches(pixel_batches(Area("made", image(opened(catalog)), lcz)))
    model = fit_linear(rows)
    assert isinstance(model, SklearnModel)
    mapped = lczcube.predict(model, opened(catalog))["lcz"].values
    assert mapped[0].tolist() == [2] * HALF_PX + [6] * HALF_PX


def test_an_image_of_another_grid_is_refused(
    trees: XgbModel, catalog: lczcube.catalog.Catalog
) -> None:
    with pytest.raises(GridMismatchError, match=r"image of the map has .* y: 134 and x: 134"):
        predict_pixels(trees, image(opened(catalog)), grid=GRID, halo_px=3)


def test_another_product_or_other_bands_are_refused(
    trees: XgbModel, catalog: lczcube.catalog.Catalog
) -> None:
    pixels = image(opened(catalog))
    with pytest.raises(ModelError, match="trained on made/1"):
        predict_pixels(trees, pixels, grid=GRID, products=("made/2",))
    with pytest.raises(ModelError, match="number 0 is"):
        predict_pixels(trees, pixels.isel(band=[1, 0]), grid=GRID)


def test_the_examples_of_the_guide_on_trees_and_baselines_run(
    catalog: lczcube.catalog.Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (PROJECT / "docs" / "guide" / "models.md").read_text(encoding="utf-8")
    cities = [full_samples(city=city, seed=seed) for seed, city in enumerate(("here", "there"))]
    lcz = np.zeros(GRID.shape, np.uint8)
    lcz[::9, :HALF_PX], lcz[::9, HALF_PX:] = 2, 6
    given = {
        "samples": join_samples(cities),
        "features": made_features(),
        "area": Area("made", image(opened(catalog)), lcz),
        "cube": opened(catalog),
    }
    monkeypatch.chdir(tmp_path)
    for samples in cities:
        write_samples(samples, f"{samples['city'].values[0]}.parquet")
    sections = page.split("\n## ")
    for name in ("Trees on features", "Baselines"):
        (section,) = (text for text in sections if text.startswith(name))
        for block in python_blocks(section):
            exec(compile(block, "models.md", "exec"), given)
    assert 0 < given["n_rounds"] < 500
    assert given["mapped"]["lcz"].shape == GRID.shape
    assert given["probability"].shape == (180, 17)
    assert list((tmp_path / "scratch").iterdir()) == []
