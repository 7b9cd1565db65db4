import warnings
from pathlib import Path

import dask
import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import box

from lczcube.catalog import open_catalog
from lczcube.cube import decode, open_cube
from lczcube.errors import ConfigError, GridMismatchError
from lczcube.grid import Grid
from lczcube.windows import aggregate, aggregate_patches
from tests.scenes import CRS, catalog_of, raster_input, write_raster

X0, Y0 = 500_480, 5_400_000


def noise_scene(folder: Path) -> npt.NDArray[np.int8]:
    """Three bands of 256 x 256 int8 codes with invalid pixels, an empty cell and its catalog."""
    rng = np.random.default_rng(5)
    codes = rng.integers(-127, 128, (3, 256, 256)).astype(np.int8)
    codes[:, rng.random((256, 256)) < 0.1] = -128
    codes[:, 64:96, 96:128] = -128
    write_raster(folder / "noise.tif", codes, x0=X0, y0=Y0, nodata=-128)
    catalog_of(
        folder,
        raster_input(
            "aef",
            "noise.tif",
            layer="embedding",
            product="test/1",
            decoder="signed_square",
            valid="all_bands_nodata",
        ),
    )
    return codes


def grid_of_cells(cells: tuple[int, int, int, int], **keys: float) -> Grid:
    """Cells counted from the scene's upper-left corner: x0, y0 down, x1, y1 down."""
    x, y = X0 // 320, Y0 // 320
    left, top, right, bottom = cells
    return Grid(CRS, (x + left, y - bottom, x + right, y - top), **keys)


def cube_of(folder: Path, grid: Grid) -> xr.Dataset:
    catalog = open_catalog(folder / "catalog" / "catalog.json")
    return open_cube(catalog, grid, inputs=["aef"], year=2024)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, npt.NDArray[np.int8]]:
    folder = tmp_path_factory.mktemp("scene")
    return folder, noise_scene(folder)


Scene = tuple[Path, npt.NDArray[np.int8]]


def decoded(codes: npt.NDArray[np.int8]) -> npt.NDArray[np.float64]:
    values = np.sign(codes) * (codes.astype(np.float64) / 127.5) ** 2
    return np.where((codes == -128).all(axis=0), np.nan, values)


def window_oracle(
    values: npt.NDArray[np.float64], grid: Grid
) -> dict[str, npt.NDArray[np.float64]]:
    """Statistics of every window, one window at a time, outside of the scene being invalid."""
    padded = np.pad(values, ((0, 0), (256, 256), (256, 256)), constant_values=np.nan)
    left = round((grid.bbox[0] - X0) / 10) + 256 - grid.halo_px
    top = round((Y0 - grid.bbox[3]) / 10) + 256 - grid.halo_px
    rows, columns = grid.output_geobox.shape
    stats = {name: np.full((3, rows, columns), np.nan) for name in ("mean", "std", "max")}
    stats["valid"] = np.zeros((1, rows, columns))
    for i in range(rows):
        for j in range(columns):
            y, x = top + i * grid.stride_px, left + j * grid.stride_px
            window = padded[:, y : y + grid.cell_px, x : x + grid.cell_px]
            stats["valid"][0, i, j] = np.isfinite(window[0]).mean()
            if np.isfinite(window).any():
                stats["mean"][:, i, j] = np.nanmean(window, axis=(1, 2))
                stats["std"][:, i, j] = np.nanstd(window, axis=(1, 2))
                stats["max"][:, i, j] = np.nanmax(window, axis=(1, 2))
    return stats


def require_equal_to_oracle(cells: xr.Dataset, oracle: dict[str, npt.NDArray[np.float64]]) -> None:
    expected = np.concatenate([oracle["mean"], oracle["std"], oracle["max"]])
    np.testing.assert_allclose(
        np.moveaxis(cells["features"].values, -1, 0), expected, rtol=2e-6, atol=1e-7
    )
    np.testing.assert_allclose(cells["valid_fraction"].values, oracle["valid"][0], rtol=1e-6)


def test_cells_equal_xarray_coarsen_on_the_decoded_cube(scene: Scene) -> None:
    cube = cube_of(scene[0], grid_of_cells((0, 0, 8, 8), chunk_cells=3))
    cells = aggregate(cube).compute()
    windows = decode(cube)["aef"].isel(time=0).astype("float64").compute().coarsen(y=32, x=32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the empty cell
        expected = np.concatenate([windows.mean(), windows.std(), windows.max()])
    np.testing.assert_allclose(
        np.moveaxis(cells["features"].values, -1, 0), expected, rtol=2e-6, atol=1e-7
    )


def test_features_are_named_after_input_band_and_statistic(scene: Scene) -> None:
    cells = aggregate(cube_of(scene[0], grid_of_cells((0, 0, 2, 2))), stats=("mean", "max"))
    assert cells["feature"].values.tolist() == [
        *(f"aef_b0{b}_mean" for b in (1, 2, 3)),
        *(f"aef_b0{b}_max" for b in (1, 2, 3)),
    ]
    assert cells["features"].dims == ("cell_y", "cell_x", "feature")
    assert cells["features"].dtype == np.float32


@pytest.mark.parametrize("stride_m", [20, 100, 160, 320])
def test_windows_at_a_stride_equal_a_loop_over_windows(scene: Scene, stride_m: float) -> None:
    x, y = X0 // 320, Y0 // 320
    cells = (x - 4, y - 10, x + 6, y) if stride_m == 100 else (x, y - 7, x + 6, y - 1)
    grid = Grid(CRS, cells, stride_m=stride_m, chunk_cells=5)
    cells = aggregate(cube_of(scene[0], grid)).compute()
    require_equal_to_oracle(cells, window_oracle(decoded(scene[1]), grid))


def test_a_cell_without_valid_pixels_is_nan_and_not_covered(scene: Scene) -> None:
    cells = aggregate(cube_of(scene[0], grid_of_cells((0, 0, 8, 8)))).compute()
    assert np.isnan(cells["features"].values[2, 3]).all()
    assert not cells["covered"].values[2, 3]
    assert cells["covered"].values.sum() == 63
    assert cells["valid_fraction"].values[2, 3] == 0


@settings(max_examples=12, deadline=None)
@given(chunk_cells=st.integers(1, 9), shift=st.tuples(st.integers(0, 3), st.integers(0, 3)))
def test_a_cell_has_the_same_bits_in_any_chunking_and_any_bbox(
    scene: Scene, chunk_cells: int, shift: tuple[int, int]
) -> None:
    whole = aggregate(cube_of(scene[0], grid_of_cells((0, 0, 8, 8), chunk_cells=20)))
    left, top = shift
    part = aggregate(
        cube_of(scene[0], grid_of_cells((left, top, left + 5, top + 4), chunk_cells=chunk_cells))
    )
    expected = whole.isel(cell_y=slice(top, top + 4), cell_x=slice(left, left + 5))
    for name in ("features", "valid_fraction", "covered"):
        np.testing.assert_array_equal(part[name].values, expected[name].values)


def test_strided_windows_have_the_same_bits_in_any_chunking(scene: Scene) -> None:
    features = [
        aggregate(cube_of(scene[0], grid_of_cells((1, 1, 7, 7), stride_m=160, chunk_cells=n)))
        .compute()["features"]
        .values
        for n in (1, 2, 4, 20)
    ]
    for other in features[1:]:
        np.testing.assert_array_equal(other, features[0])


def test_aggregate_computes_no_pixel(tmp_path: Path) -> None:
    noise_scene(tmp_path)
    cube = cube_of(tmp_path, grid_of_cells((0, 0, 8, 8)))
    (tmp_path / "noise.tif").unlink()
    assert aggregate(cube)["features"].shape == (8, 8, 9)


def test_a_read_is_a_task_and_a_chunk_is_a_task(scene: Scene) -> None:
    cube = cube_of(scene[0], grid_of_cells((0, 0, 8, 8), chunk_cells=2))
    (optimised,) = dask.optimize(aggregate(cube)["features"].data)
    tasks = [key for key in dict(optimised.dask) if "mosaic" not in str(key)]
    assert len(tasks) == 1 + 16  # one slab of 256 x 256 pixels; 4 x 4 chunks, each cut in its task


def patches_at(*corners: tuple[float, float], size_m: float = 320) -> gpd.GeoDataFrame:
    return gpd.GeoDataFrame(
        {
            "patch_id": [f"p{i}" for i in range(len(corners))],
            "crs": CRS,
            "x0": [x for x, _ in corners],
            "y0": [y for _, y in corners],
            "size_m": size_m,
        },
        geometry=[box(x, y - size_m, x + size_m, y) for x, y in corners],
        crs=CRS,
    )


def test_a_patch_on_the_lattice_has_the_features_of_its_cell(scene: Scene) -> None:
    cube = cube_of(scene[0], grid_of_cells((0, 0, 8, 8), chunk_cells=3))
    cells = aggregate(cube).compute()
    corners = [(X0 + 320 * j, Y0 - 320 * i) for i, j in ((7, 7), (0, 0), (2, 5), (1, 1))]
    patches = aggregate_patches(cube, patches_at(*corners)).compute()
    expected = np.stack(
        [cells["features"].values[i, j] for i, j in ((7, 7), (0, 0), (2, 5), (1, 1))]
    )
    np.testing.assert_array_equal(patches["features"].values, expected)
    assert patches["patch_id"].values.tolist() == ["p0", "p1", "p2", "p3"]


def test_a_patch_between_pixels_snaps_to_the_nearest_edge_and_says_so(scene: Scene) -> None:
    cube = cube_of(scene[0], grid_of_cells((0, 0, 8, 8)))
    moved = aggregate_patches(cube, patches_at((X0 + 504, Y0 - 506), (X0 + 496, Y0 - 494)))
    exact = aggregate_patches(cube, patches_at((X0 + 500, Y0 - 510), (X0 + 500, Y0 - 490)))
    np.testing.assert_array_equal(moved["features"].values, exact["features"].values)
    np.testing.assert_allclose(moved["dx_m"].values, [-4, 4])
    np.testing.assert_allclose(moved["dy_m"].values, [-4, 4])


def test_a_tie_snaps_up_and_left(scene: Scene) -> None:
    cube = cube_of(scene[0], grid_of_cells((0, 0, 8, 8)))
    snapped = aggregate_patches(cube, patches_at((X0 + 505, Y0 - 505)))
    assert snapped["dx_m"].values.tolist() == [-5]
    assert snapped["dy_m"].values.tolist() == [5]


def test_a_patch_shifted_by_one_pixel_has_other_features(scene: Scene) -> None:
    cube = cube_of(scene[0], grid_of_cells((0, 0, 8, 8)))
    features = aggregate_patches(cube, patches_at((X0, Y0), (X0 + 10, Y0)))["features"].values
    means_and_stds = features[:, :6]
    assert (means_and_stds[0] != means_and_stds[1]).all()


def test_a_patch_over_the_edge_counts_the_outside_as_invalid(scene: Scene) -> None:
    cube = cube_of(scene[0], grid_of_cells((0, 0, 2, 2)))
    over = aggregate_patches(cube, patches_at((X0 - 160, Y0 + 160))).compute()
    inner = decoded(scene[1])[:, :16, :16]
    np.testing.assert_allclose(
        over["features"].values[0, :3], np.nanmean(inner, axis=(1, 2)), rtol=2e-6
    )
    expected = np.isfinite(inner[0]).sum() / 1024
    np.testing.assert_allclose(over["valid_fraction"].values, [expected], rtol=1e-6)


def test_patches_of_two_sizes_are_refused(scene: Scene) -> None:
    cube = cube_of(scene[0], grid_of_cells((0, 0, 2, 2)))
    patches = patches_at((X0, Y0), (X0, Y0))
    patches["size_m"] = [320, 160]
    with pytest.raises(GridMismatchError, match="sizes 160, 320 m"):
        aggregate_patches(cube, patches)


def test_an_unknown_statistic_is_refused(scene: Scene) -> None:
    cube = cube_of(scene[0], grid_of_cells((0, 0, 2, 2)))
    with pytest.raises(ConfigError, match="median"):
        aggregate(cube, stats=("mean", "median"))


def test_a_cube_without_the_halo_of_its_windows_is_refused(scene: Scene) -> None:
    catalog = open_catalog(scene[0] / "catalog" / "catalog.json")
    grid = grid_of_cells((0, 0, 2, 2), stride_m=160)
    cube = open_cube(catalog, grid, inputs=["aef"], year=2024, halo_px=0)
    with pytest.raises(GridMismatchError, match="halo_px=8"):
        aggregate(cube)


def test_a_difference_is_that_of_the_means_of_two_bands(scene: Scene) -> None:
    cube = cube_of(scene[0], grid_of_cells((0, 0, 8, 8), chunk_cells=3))
    cells = aggregate(cube, differences=(("b03", "b01"),)).compute()
    assert cells["feature"].values[-1] == "aef_nd_b03_b01"
    features = cells["features"]
    a, b = (features.sel(feature=f"aef_b0{n}_mean").values.astype(np.float64) for n in (3, 1))
    expected = (a - b) / (a + b)
    assert np.isnan(expected).sum() == 1  # the empty cell
    np.testing.assert_allclose(features.values[..., -1], expected, rtol=1e-4)
    np.testing.assert_array_equal(features.values[..., :-1], aggregate(cube)["features"].values)


def test_differences_of_patches_are_those_of_cells(scene: Scene) -> None:
    grid = grid_of_cells((0, 0, 8, 8))
    cube, pairs = cube_of(scene[0], grid), (("b03", "b01"),)
    left, _, _, top = grid.bbox
    patches = patches_at((left, top), (left + 640, top - 320))
    found = aggregate_patches(cube, patches, differences=pairs)
    cells = aggregate(cube, differences=pairs)
    assert found["feature"].values.tolist() == cells["feature"].values.tolist()
    expected = cells["features"].values[[0, 1], [0, 2]]
    np.testing.assert_allclose(found["features"].values, expected, rtol=1e-4)


PAIRS = ((1, 0), (3, 2))


def test_a_difference_is_made_within_each_date_and_over_them(tmp_path: Path) -> None:
    codes = np.arange(4 * 64 * 64).reshape(4, 64, 64).astype(np.float32) + 1
    write_raster(tmp_path / "dates.tif", codes, x0=X0, y0=Y0)
    bands = ["2013_B4", "2013_B5", "2014_B4", "2014_B5"]
    catalog_of(tmp_path, raster_input("aef", "dates.tif", bands=bands))
    cells = aggregate(
        cube_of(tmp_path, grid_of_cells((0, 0, 2, 2))),
        stats=("mean",),
        differences=(("B5", "B4"),),
    )
    dates = [f"aef_{year}_nd_B5_B4" for year in (2013, 2014)]
    over = [f"aef_nd_B5_B4_{stat}" for stat in ("mean", "std", "max", "min")]
    assert cells["feature"].values[4:].tolist() == [*dates, *over]
    means = cells["features"].values
    of_date = [(means[..., i] - means[..., j]) / (means[..., i] + means[..., j]) for i, j in PAIRS]
    expected = [*of_date, *(f(of_date, axis=0) for f in (np.mean, np.std, np.max, np.min))]
    np.testing.assert_allclose(means[..., 4:], np.stack(expected, axis=-1), rtol=1e-5)


@pytest.mark.parametrize(("keys", "band"), [({}, "b09"), ({"stats": ("max",)}, "b02"), ({}, "1")])
def test_a_difference_without_its_bands_is_refused(
    scene: Scene, keys: dict[str, tuple[str, ...]], band: str
) -> None:
    cube = cube_of(scene[0], grid_of_cells((0, 0, 2, 2)))
    with pytest.raises(ConfigError, match=f"'b01' and '{band}', and no layer has a mean of both"):
        aggregate(cube, differences=(("b01", band),), **keys)
