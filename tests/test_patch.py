from dataclasses import replace
from pathlib import Path

import dask.array as da
import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr

import lczcube
from lczcube.cube import image
from lczcube.errors import GridMismatchError, LabelError, ModelError
from lczcube.grid import Grid
from lczcube.models import (
    PatchArea,
    PatchModel,
    PatchParameters,
    fit_patch,
    load_model,
    patch_probability,
    predict_patch,
)
from lczcube.probability import quantise
from tests.scenes import CRS, catalog_of, raster_input, write_raster

Float32 = npt.NDArray[np.float32]
BANDS = ("red", "green")
PRODUCTS = ("made/1",)
QUICK = PatchParameters(epochs=30, width=6, batch=8, noise=0.1, band_dropout=0, dropout=0,
                        learning_rate=1e-2)  # fmt: skip
SIDE = 8


def made_grid(stride_m: float = 80, *, chunk_cells: int = 2, cells: int = 12) -> Grid:
    """Cells of 8 x 8 pixels."""
    return Grid(CRS, (0, 0, cells, 10), cell_m=80, stride_m=stride_m, chunk_cells=chunk_cells)


def made_image(grid: Grid, halo_px: int, chunks: int | None = None) -> xr.DataArray:
    """Stripes two cells wide: of zone 2 where red is coarse, of 6 where it is fine; green says no
    more than where the pixel lies."""
    rows, columns = (n + 2 * halo_px for n in grid.shape)
    y, x = np.meshgrid(np.arange(rows) - halo_px, np.arange(columns) - halo_px, indexing="ij")
    fine = (x // (2 * SIDE)) % 2 == 1
    red = np.where(fine, np.sin(np.pi * (x + y) + 1), np.sin(np.pi * (x + y) / 8)) * 5
    values = np.stack([red, np.cos(12.9898 * x + 78.233 * y)]).astype(np.float32)
    values[:, (y % 20 == 7) & (x % 9 == 4)] = np.nan
    values[:, (y >= 0) & (y < 5)] = np.nan
    data = values if chunks is None else da.from_array(values, chunks=(1, chunks, chunks + 3))
    attrs = {"products": list(PRODUCTS)}
    return xr.DataArray(data, dims=("band", "y", "x"), coords={"band": list(BANDS)}, attrs=attrs)


def made_area(halo_px: int = 0, chunks: int | None = None) -> PatchArea:
    """Every cell, but for those across two stripes: none, as stripes are two cells wide."""
    grid = made_grid()
    at_x, at_y = np.meshgrid(np.arange(12) + 0.5, np.arange(10) + 0.5)
    lcz = np.where((at_x // 2).astype(int) % 2 == 1, 6, 2).astype(np.uint8)
    picture = made_image(grid, halo_px, chunks)
    x, y = at_x.ravel() * 80, at_y.ravel() * 80
    return PatchArea("made", picture, grid, x, y, lcz.ravel(), halo_px=halo_px)


def fit(areas: list[PatchArea], parameters: PatchParameters = QUICK, seed: int = 0) -> PatchModel:
    return fit_patch(areas, seed=seed, bands=BANDS, products=PRODUCTS, parameters=parameters)


@pytest.fixture(scope="module")
def model() -> PatchModel:
    return fit([made_area()])


def by_hand(model: PatchModel, picture: Float32, row: int, column: int) -> Float32:
    """Probabilities of the window whose upper-left pixel is given; NaN past the picture."""
    padded = np.pad(picture, ((0, 0), (SIDE, SIDE), (SIDE, SIDE)), constant_values=np.nan)
    window = padded[None, :, row + SIDE : row + 2 * SIDE, column + SIDE : column + 2 * SIDE]
    return model.probability(np.ascontiguousarray(window))[0]


# what it learns


def test_texture_that_no_single_pixel_shows_is_learned(model: PatchModel) -> None:
    area = made_area()
    said = patch_probability(model, area).argmax(axis=1) + 1
    assert (said == area.lcz).mean() > 0.95
    assert (model.meta.kind, model.meta.classes, model.parameters.window_px) == ("patch", (2, 6), 8)


def test_two_fits_have_equal_weights_whatever_the_chunks() -> None:
    quick = replace(QUICK, epochs=2)
    one, again = fit([made_area()], quick), fit([made_area(halo_px=4, chunks=13)], quick)
    assert one.fingerprint == again.fingerprint
    assert one.fingerprint != fit([made_area()], quick, seed=1).fingerprint


def test_a_square_without_a_valid_pixel_teaches_nothing_and_has_no_probability() -> None:
    area = made_area()
    blank = area.image.values.copy()
    blank[:, :16] = np.nan
    holed = replace(area, image=area.image.copy(data=blank))
    model = fit([holed], replace(QUICK, epochs=1))
    assert model.meta.n_train == 8 * 12
    said = patch_probability(model, holed)
    assert np.isnan(said).any(axis=1).tolist() == [False] * 96 + [True] * 24


def test_a_weight_of_0_is_no_label() -> None:
    area = made_area()
    third = np.where(np.arange(120) % 3 == 0, 9, area.lcz).astype(np.uint8)
    weight = (third != 9).astype(np.float32)
    model = fit([replace(area, lcz=third, weight=weight)], replace(QUICK, epochs=1))
    assert (model.meta.classes, model.meta.n_train) == ((2, 6), 80)


def test_unseen_squares_end_the_fit() -> None:
    area = made_area()
    swapped = replace(area, lcz=(8 - area.lcz).astype(np.uint8))
    model = fit_patch([area], seed=0, bands=BANDS, products=PRODUCTS, parameters=QUICK,
                      valid=[swapped])  # fmt: skip
    losses = [told["valid_loss"] for told in model.history]
    assert int(np.argmin(losses)) == len(losses) - 1 - QUICK.patience
    assert len(losses) < QUICK.epochs


# where its windows lie


@pytest.mark.parametrize("stride_m", [80, 40, 20])
def test_a_map_is_of_the_windows_around_the_output_pixels(
    model: PatchModel, stride_m: float
) -> None:
    grid = made_grid(stride_m)
    picture = made_image(grid, grid.halo_px)
    found = predict_patch(model, picture, grid=grid, halo_px=grid.halo_px)
    assert found["lcz"].dims == ("cell_y", "cell_x")
    assert found["lcz"].shape == grid.output_geobox.shape
    coordinates = grid.output_geobox.coordinates
    np.testing.assert_array_equal(found["cell_x"], coordinates["x"].values)
    percent = found["probability"].values
    step = grid.stride_px
    for row, column in ((3, 0), (5, 7), (percent.shape[1] - 1, percent.shape[2] - 1)):
        wanted = by_hand(model, picture.values, row * step, column * step)
        difference = percent[:, row, column] - quantise(wanted[None])[2][0].astype(int)
        assert np.abs(difference).max() <= 1


def test_the_map_does_not_depend_on_chunks_or_on_a_larger_halo(model: PatchModel) -> None:
    grid = made_grid(40, chunk_cells=30)
    whole = predict_patch(model, made_image(grid, grid.halo_px), grid=grid, halo_px=grid.halo_px)
    cut = made_grid(40, chunk_cells=2)
    for halo_px, chunks in ((cut.halo_px, 11), (16, 20)):
        found = predict_patch(model, made_image(cut, halo_px, chunks), grid=cut, halo_px=halo_px)
        np.testing.assert_array_equal(found["lcz"], whole["lcz"])
        steps = found["probability"].astype(int) - whole["probability"].astype(int)
        assert np.abs(steps).max() <= 1


def test_squares_on_the_lattice_have_the_probabilities_of_the_map(model: PatchModel) -> None:
    area = made_area()
    found = predict_patch(model, area.image, grid=area.grid, halo_px=0)
    rows, columns = np.divmod(np.arange(120), 12)
    of_map = found["probability"].values[:, 9 - rows, columns].T
    percent = quantise(patch_probability(model, area))[2]
    known = of_map[:, 0] != 255
    assert known.sum() == 108  # the five upper rows of the image are invalid, more than half a cell
    assert np.abs(of_map[known].astype(int) - percent[known]).max() <= 1


def test_a_square_off_the_lattice_snaps_up_left_and_may_reach_past_the_image(
    model: PatchModel,
) -> None:
    area = made_area()
    # Centres of windows whose upper-left pixel is (24, 15), by ties; (24, 15), below them; and a
    # window half past the left edge.
    x = np.array([15 * 10 + 40 + 5.0, 15 * 10 + 40 + 4.0, 0.0])
    y = np.array([800 - 24 * 10 - 40 - 5.0, 800 - 24 * 10 - 40 - 4.0, 800 - 24 * 10 - 40.0])
    squares = replace(area, x=x, y=y, lcz=np.zeros(3, np.uint8))
    said = patch_probability(model, squares)
    for got, (row, column) in zip(said, ((24, 15), (24, 15), (24, -4)), strict=True):
        np.testing.assert_allclose(got, by_hand(model, area.image.values, row, column), atol=1e-5)
    assert patch_probability(model, replace(area, x=x[:0], y=y[:0], lcz=area.lcz[:0])).shape == (
        0,
        17,
    )


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[lczcube.catalog.Catalog, Grid]:
    """A raster with invalid blocks, and a grid that windows slide over by a quarter of a cell."""
    folder = tmp_path_factory.mktemp("scene")
    codes = np.random.default_rng(0).integers(0, 90, (2, 256, 256), dtype=np.int16)
    codes[:, 60:100, 40:140] = -1
    codes[:, 150:154, :] = -1
    grid = Grid(CRS, (100, 1000, 104, 1004), stride_m=80, chunk_cells=2)
    write_raster(folder / "a.tif", codes, x0=100 * 320 - 640, y0=1004 * 320 + 640, nodata=-1)
    catalog = catalog_of(folder, raster_input("made", "a.tif", layer="embedding", product="made/1"))
    return catalog, grid


def fit_scene(catalog: lczcube.catalog.Catalog, grid: Grid) -> tuple[PatchModel, xr.Dataset]:
    cube = lczcube.open_cube(catalog, grid, inputs=["made"], year=2024)
    pixels = image(cube)
    x, y = np.meshgrid(np.arange(4) * 320 + 32160.0, np.arange(4) * 320 + 320160.0)
    lcz = np.tile(np.array([2, 6], np.uint8), 8)
    area = PatchArea("made", pixels, grid, x.ravel(), y.ravel(), lcz, halo_px=grid.halo_px)
    bands = tuple(pixels["band"].values.tolist())
    quick = PatchParameters(epochs=1, width=4)
    return fit_patch([area], seed=0, bands=bands, products=("made/1",), parameters=quick), cube


def test_a_map_covers_what_the_features_of_the_cube_cover(
    scene: tuple[lczcube.catalog.Catalog, Grid], tmp_path: Path
) -> None:
    catalog, grid = scene
    model, cube = fit_scene(catalog, grid)
    mapped = lczcube.predict(model, cube)
    cells = lczcube.aggregate(cube)
    np.testing.assert_array_equal(mapped["lcz"] > 0, cells["covered"])
    assert not cells["covered"].all()
    for name in ("cell_x", "cell_y"):
        np.testing.assert_array_equal(mapped[name], cells[name])
    store = lczcube.write_product({"cells": mapped}, tmp_path / "lcz.zarr")
    assert xr.open_zarr(store, group="cells")["lcz"].shape == grid.output_geobox.shape


def test_a_square_is_read_where_aggregate_patches_reads_it(
    scene: tuple[lczcube.catalog.Catalog, Grid],
) -> None:
    """The mean of a band over the window, by both; the network is left out."""
    from lczcube.models.patch import _squares
    from lczcube.models.sampler import windows_on_disk

    catalog, grid = scene
    cube = lczcube.open_cube(catalog, grid, inputs=["made"], year=2024)
    x, y = np.array([32305.0, 33137.0, 32000.0]), np.array([320777.0, 321003.0, 321280.0])
    area = PatchArea("made", image(cube), grid, x, y, np.ones(3, np.uint8), halo_px=grid.halo_px)
    with windows_on_disk([_squares(area)], side=32, label_side=1, scratch=None) as windows:
        read = windows.read(np.arange(3))["image"]
    squares = {"patch_id": list("abc"), "crs": CRS, "x0": x - 160, "y0": y + 160, "size_m": 320.0}
    table = gpd.GeoDataFrame(squares, geometry=gpd.points_from_xy(x, y), crs=CRS)
    wanted = lczcube.aggregate_patches(cube, table, stats=("mean",))["features"].values
    np.testing.assert_allclose(np.nanmean(read, axis=(2, 3)), wanted, rtol=1e-5)


# what is kept, and what is refused


def test_a_loaded_model_is_the_same(model: PatchModel, tmp_path: Path) -> None:
    model.save(tmp_path / "patch")
    loaded = load_model(tmp_path / "patch")
    assert isinstance(loaded, PatchModel)
    assert (loaded.meta, loaded.fingerprint) == (model.meta, model.fingerprint)
    area = made_area()
    np.testing.assert_array_equal(patch_probability(loaded, area), patch_probability(model, area))


def test_a_map_of_a_city_that_lacks_the_second_layer() -> None:
    area = made_area()
    coords = {"band": list(BANDS), "layer": ("band", ["a", "b"])}
    bare = area.image.values.copy()
    bare[1] = np.nan
    areas = [replace(area, image=area.image.assign_coords(coords)),
             replace(area, image=area.image.copy(data=bare).assign_coords(coords))]  # fmt: skip
    model = fit(areas)
    said = patch_probability(model, areas[1]).argmax(axis=1) + 1
    assert (said == area.lcz).mean() > 0.95


def test_other_bands_products_and_cells_are_refused(model: PatchModel) -> None:
    area = made_area()
    grid = area.grid
    swapped = area.image.assign_coords(band=["green", "red"])
    with pytest.raises(ModelError, match="number 0 is 'green', not 'red'"):
        patch_probability(model, replace(area, image=swapped))
    with pytest.raises(ModelError, match="trained on made/1, these features are of made/2"):
        predict_patch(model, area.image, grid=grid, halo_px=0, products=("made/2",))
    coarse = Grid(CRS, (0, 0, 6, 5), cell_m=160)
    with pytest.raises(GridMismatchError, match=r"cell of this grid is 16 pixels .* cell_m = 80"):
        predict_patch(model, area.image, grid=coarse, halo_px=0)
    with pytest.raises(GridMismatchError, match=r"pixels along a cell differ \(8 in made, 16 in"):
        fit([area, replace(area, city="other", grid=coarse)])
    sliding = made_grid(20)
    with pytest.raises(GridMismatchError, match="open the cube with halo_px=3"):
        predict_patch(model, area.image, grid=sliding, halo_px=0)


def test_labels_that_cannot_be_are_refused() -> None:
    area = made_area()
    with pytest.raises(LabelError, match="columns of lengths 120, 120, 119"):
        fit([replace(area, lcz=area.lcz[1:])])
    with pytest.raises(LabelError, match="labels of made hold LCZ code 18"):
        fit([replace(area, lcz=np.full(120, 18, np.uint8))])
    with pytest.raises(ModelError, match="only LCZ 2"):
        fit([replace(area, lcz=np.full(120, 2, np.uint8))])
    with pytest.raises(ModelError, match="no labelled sample with valid features"):
        fit([replace(area, image=area.image * np.float32(np.nan))])
    with pytest.raises(ModelError, match="no labelled sample with valid features"):
        fit([replace(area, x=area.x[:0], y=area.y[:0], lcz=area.lcz[:0])])


def test_a_cell_of_three_pixels_is_not_halved() -> None:
    grid = Grid(CRS, (0, 0, 12, 10), pixel_m=100, cell_m=300)
    values = np.random.default_rng(0).normal(size=(2, *grid.shape)).astype(np.float32)
    values[0, :, :18] += 10
    picture = xr.DataArray(values, dims=("band", "y", "x"), coords={"band": list(BANDS)},
                           attrs={"products": list(PRODUCTS)})  # fmt: skip
    at_x, at_y = (v.ravel() for v in np.meshgrid(np.arange(12) * 300 + 150.0,
                                                 np.arange(10) * 300 + 150.0))  # fmt: skip
    lcz = np.where(at_x < 1800, 2, 6).astype(np.uint8)
    area = PatchArea("made", picture, grid, at_x, at_y, lcz)
    model = fit([area])
    assert (patch_probability(model, area).argmax(axis=1) + 1 == lcz).mean() > 0.95
