from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import xarray as xr
from shapely import box

from lczcube.cube import open_cube
from lczcube.errors import ConfigError, LabelError
from lczcube.grid import Grid
from lczcube.labels.samples import (
    build_samples,
    join_samples,
    read_pixels,
    read_samples,
    sample_frame,
    sample_squares,
    without_rules,
    write_samples,
)
from lczcube.windows import aggregate
from tests.scenes import CRS, catalog_of, position_codes, raster_input, write_raster

X0, Y0 = 500_480, 5_400_000
SIDE_PX = 128
STATS = ("mean", "max")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[xr.Dataset, xr.Dataset]:
    """Cube and cells of 4 x 4 cells; codes are pixels from the upper-left, a hole below right."""
    folder = tmp_path_factory.mktemp("samples")
    codes = position_codes(SIDE_PX, SIDE_PX, x0=X0, y0=Y0)
    codes -= np.array([X0 // 10, Y0 // 10 - SIDE_PX], np.int32)[:, None, None]
    codes[:, 96:, 96:] = -1
    write_raster(folder / "a.tif", codes, x0=X0, y0=Y0, nodata=-1)
    catalog = catalog_of(
        folder, raster_input("pos", "a.tif", layer="embedding", product="position/1")
    )
    x, y = X0 // 320, Y0 // 320
    grid = Grid(CRS, (x, y - 4, x + 4, y), chunk_cells=2)
    cube = open_cube(catalog, grid, inputs=["pos"], year=2024)
    return cube, aggregate(cube, stats=STATS)


def label(patch_id: str, left: float, top: float, lcz: int = 3, **keys: Any) -> dict[str, Any]:
    """A patch of 320 m; left and top in metres from the scene's upper-left corner, south down."""
    x0, y0 = X0 + left, Y0 - top
    row = {"patch_id": patch_id, "city": "x", "group": patch_id, "lcz": lcz, "split": ""}
    square = {"crs": CRS, "x0": x0, "y0": y0, "size_m": 320.0}
    return row | {"weight": 1.0} | square | {"geometry": box(x0, y0 - 320, x0 + 320, y0)} | keys


def polygon(patch_id: str, left: float, top: float, width: float, height: float) -> dict[str, Any]:
    x0, y0 = X0 + left, Y0 - top
    outline = {"geometry": box(x0, y0 - height, x0 + width, y0)}
    nothing = {"x0": np.nan, "y0": np.nan, "size_m": np.nan}
    return label(patch_id, left, top, 11, **nothing, **outline)


def table(*rows: dict[str, Any]) -> gpd.GeoDataFrame:
    labels = gpd.GeoDataFrame(list(rows), geometry="geometry", crs=CRS)
    return labels.astype({"lcz": "uint8", "weight": "float32"})


def built(scene: tuple[xr.Dataset, xr.Dataset], *rows: dict[str, Any]) -> xr.Dataset:
    return build_samples(table(*rows), *scene, stats=STATS)


def test_a_patch_is_one_sample_at_its_own_position(scene: tuple[xr.Dataset, xr.Dataset]) -> None:
    samples = built(scene, label("b", 50, 110), label("a", 0, 0, 7))
    assert samples["patch_id"].values.tolist() == ["a", "b"]
    assert samples["lcz"].values.tolist() == [7, 3]
    assert samples["feature"].values.tolist() == [
        "pos_b01_mean",
        "pos_b02_mean",
        "pos_b01_max",
        "pos_b02_max",
    ]
    # Pixels 5-36 eastwards; northing 127 - row, rows 11-42.
    np.testing.assert_allclose(samples["features"].values[1], [20.5, 100.5, 36, 116])
    assert (samples["x"].values[1], samples["y"].values[1]) == (X0 + 210, Y0 - 270)
    assert samples["size_m"].values.tolist() == [320, 320]
    assert samples.attrs["unit"] == "patch"


def test_samples_have_chosen_dtypes_and_are_in_memory(
    scene: tuple[xr.Dataset, xr.Dataset],
) -> None:
    samples = built(scene, label("a", 0, 0), polygon("p", 320, 320, 320, 320))
    numbers = {str(n): str(v.dtype) for n, v in samples.data_vars.items() if v.dtype != object}
    assert numbers == {
        "lcz": "uint8",
        "weight": "float32",
        "x": "float64",
        "y": "float64",
        "size_m": "float64",
        "valid_fraction": "float32",
        "features": "float32",
    }
    assert not samples.chunks


def test_a_polygon_is_one_sample_per_cell_whose_centre_it_holds(
    scene: tuple[xr.Dataset, xr.Dataset],
) -> None:
    samples = built(scene, polygon("p", 100, 100, 640, 300))
    # Centres 160, 480 m along x and 160 m down lie in it.
    assert samples["patch_id"].values.tolist() == ["p@0-0", "p@0-1"]
    assert samples["group"].values.tolist() == ["p", "p"]
    np.testing.assert_allclose(samples["features"].values[1], [47.5, 111.5, 63, 127])
    assert samples["x"].values.tolist() == [X0 + 160, X0 + 480]
    assert samples.attrs["unit"] == "cell"


def test_a_sample_without_enough_valid_pixels_is_dropped_and_counted(
    scene: tuple[xr.Dataset, xr.Dataset],
) -> None:
    samples = built(scene, label("a", 0, 0), label("hole", 960, 960), label("half", 800, 960))
    assert samples["patch_id"].values.tolist() == ["a", "half"]
    assert samples["valid_fraction"].values.tolist() == [1, 0.5]
    assert samples.attrs["n_dropped"] == 1


def test_a_label_outside_the_grid_is_no_sample(scene: tuple[xr.Dataset, xr.Dataset]) -> None:
    samples = built(scene, label("a", 0, 0), label("far", 5000, 5000))
    assert samples["patch_id"].values.tolist() == ["a"]
    assert samples.attrs["n_dropped"] == 0


def test_labels_that_miss_the_grid_are_refused(scene: tuple[xr.Dataset, xr.Dataset]) -> None:
    with pytest.raises(LabelError, match=r"none of the 1 labels meets the grid \(EPSG:32632"):
        built(scene, label("far", 5000, 5000))


@pytest.mark.parametrize(
    "row", [label("hole", 960, 960), polygon("tiny", 10, 10, 20, 20)], ids=["hole", "tiny"]
)
def test_labels_without_valid_pixels_are_refused(
    scene: tuple[xr.Dataset, xr.Dataset], row: dict[str, Any]
) -> None:
    with pytest.raises(LabelError, match=r"labelled samples has valid pixels"):
        built(scene, row)


def test_pixels_are_the_bare_values_under_the_centres(
    scene: tuple[xr.Dataset, xr.Dataset],
) -> None:
    samples = built(scene, label("a", 0, 0), label("b", 50, 110))
    pixels = read_pixels(samples, scene[0])
    assert pixels["feature"].values.tolist() == ["pos_b01", "pos_b02"]
    assert pixels["features"].dtype == np.float32
    # Centres lie on pixel corners: the pixel is the one right and below.
    assert pixels["features"].values.tolist() == [[16, 111], [21, 100]]
    xr.testing.assert_identical(
        pixels.drop_dims("feature"), samples.drop_vars("feature").drop_dims("feature")
    )


def test_pixels_of_a_cube_in_memory_equal_those_of_a_lazy_one(
    scene: tuple[xr.Dataset, xr.Dataset],
) -> None:
    samples = built(scene, label("a", 0, 0), label("b", 50, 110))
    xr.testing.assert_identical(
        read_pixels(samples, scene[0].compute()), read_pixels(samples, scene[0])
    )


@pytest.mark.parametrize(
    ("left", "top", "expected"), [(-160, 0, [0, 111]), (1120, 0, [127, 111]), (0, 1120, [16, 0])]
)
def test_a_patch_half_outside_takes_the_pixel_at_the_border(
    scene: tuple[xr.Dataset, xr.Dataset], left: float, top: float, expected: list[int]
) -> None:
    samples = built(scene, label("a", left, top))
    assert samples["valid_fraction"].values.tolist() == [0.5]
    assert read_pixels(samples, scene[0])["features"].values.tolist() == [expected]


def test_samples_come_back_from_a_file(
    scene: tuple[xr.Dataset, xr.Dataset], tmp_path: Path
) -> None:
    samples = built(scene, label("a", 0, 0, split="training"), polygon("p", 320, 320, 320, 320))
    write_samples(samples, tmp_path / "samples.parquet")
    xr.testing.assert_identical(read_samples(tmp_path / "samples.parquet"), samples)
    assert [p.name for p in tmp_path.iterdir()] == ["samples.parquet"]


def test_writing_samples_twice_gives_the_same_bytes(
    scene: tuple[xr.Dataset, xr.Dataset], tmp_path: Path
) -> None:
    samples = built(scene, label("a", 0, 0))
    first, second = tmp_path / "first.parquet", tmp_path / "second.parquet"
    write_samples(samples, first)
    write_samples(samples, second)
    assert first.read_bytes() == second.read_bytes()


def test_samples_of_cities_are_joined_in_the_order_given(
    scene: tuple[xr.Dataset, xr.Dataset],
) -> None:
    one = built(scene, label("b", 0, 0, city="one"), label("c", 320, 0, city="one"))
    two = built(scene, label("a", 640, 0, city="two")).assign_attrs(synthetic=1)
    joined = join_samples([one, two])
    assert joined["patch_id"].values.tolist() == ["b", "c", "a"]
    assert joined["lcz"].dtype == np.uint8
    assert joined["features"].dtype == np.float32
    assert joined.attrs == {
        "products": '["position/1"]',
        "synthetic": 1,
        "unit": "patch",
        "absent_features": "[]",
    }


def test_samples_of_other_features_or_products_are_not_joined(
    scene: tuple[xr.Dataset, xr.Dataset],
) -> None:
    samples = built(scene, label("a", 0, 0))
    for other in (
        samples.assign_attrs(products='["position/2"]'),
        samples.isel(feature=[1, 0, 2, 3]),
        samples.isel(feature=slice(3)),
    ):
        with pytest.raises(LabelError, match="differ in features or products"):
            join_samples([samples, other])


def test_the_frame_of_samples_has_a_row_each_and_no_features(
    scene: tuple[xr.Dataset, xr.Dataset],
) -> None:
    frame = sample_frame(built(scene, label("a", 0, 0), label("b", 320, 0, 5)))
    assert frame["lcz"].tolist() == [3, 5]
    assert not [name for name in frame.columns if name.startswith("pos_")]


def test_squares_are_what_was_labelled_or_as_wide_as_asked(
    scene: tuple[xr.Dataset, xr.Dataset],
) -> None:
    samples = built(scene, label("a", 0, 0))
    grid = Grid(CRS, (0, 0, 1, 1))
    assert sample_squares(samples, grid).total_bounds.tolist() == [X0, Y0 - 320, X0 + 320, Y0]
    narrow = sample_squares(samples, grid, side_m=100)
    assert narrow.total_bounds.tolist() == [X0 + 110, Y0 - 210, X0 + 210, Y0 - 110]
    assert narrow.crs == CRS


def test_statistics_that_are_not_those_of_the_cells_are_refused(
    scene: tuple[xr.Dataset, xr.Dataset],
) -> None:
    with pytest.raises(ConfigError, match="stats mean give 2 features of a patch"):
        build_samples(table(label("a", 0, 0)), *scene, stats=("mean",))


def test_the_origin_of_a_label_goes_on_to_its_sample_and_through_a_file(
    scene: tuple[xr.Dataset, xr.Dataset], tmp_path: Path
) -> None:
    rows = [label("a", 0, 0, origin="label"), label("b", 320, 320, origin="rule")]
    samples = built(scene, *rows, polygon("p", 640, 0, 320, 320) | {"origin": "label"})
    assert samples["origin"].values.tolist() == ["label", "rule", "label"]
    write_samples(samples, tmp_path / "samples.parquet")
    xr.testing.assert_identical(read_samples(tmp_path / "samples.parquet"), samples)
    assert without_rules(samples)["patch_id"].values.tolist() == ["a", "p@0-2"]
    plain = built(scene, label("c", 0, 640))
    assert "origin" not in plain
    joined = join_samples([samples, plain])
    assert joined["origin"].values.tolist() == ["label", "rule", "label", "label"]
    assert joined.attrs["unit"] == "cell"


def test_patches_may_differ_in_size(scene: tuple[xr.Dataset, xr.Dataset]) -> None:
    small = {"size_m": 160.0, "geometry": box(X0, Y0 - 160, X0 + 160, Y0)}
    samples = built(scene, label("b", 320, 0), label("a", 0, 0, **small))
    assert samples["size_m"].values.tolist() == [160, 320]
    # Pixels 0-15 and 32-63 eastwards.
    means = samples["features"].sel(feature="pos_b01_mean").values
    np.testing.assert_allclose(means, [7.5, 47.5])


def test_rules_that_label_cells_without_pixels_give_no_sample(
    scene: tuple[xr.Dataset, xr.Dataset], tmp_path: Path
) -> None:
    samples = built(scene, label("hole", 960, 960, origin="rule"))
    assert (samples.sizes["sample"], samples.attrs["unit"]) == (0, "rule")
    write_samples(read_pixels(samples, scene[0].isel(time=0)), tmp_path / "pixels.parquet")
    write_samples(samples, tmp_path / "samples.parquet")
    nothing = read_samples(tmp_path / "samples.parquet")
    joined = join_samples([nothing, built(scene, label("a", 0, 0))])
    assert joined["patch_id"].values.tolist() == ["a"]
    assert joined.attrs["unit"] == "patch"
