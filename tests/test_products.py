import json
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import pyproj
import pytest
import xarray as xr
import zarr
from affine import Affine
from matplotlib.image import imread

from lczcube.cube import GRID_ATTR
from lczcube.errors import StoreError
from lczcube.grid import Grid
from lczcube.lcz import colors
from lczcube.products import open_features, open_product, write_map_png, write_product

GRID = Grid("EPSG:32632", (10, 20, 15, 24), anchor_um=(3_250_000, 0), pixel_m=20, chunk_cells=2)
"""64 x 80 pixels of 20 m, 4 x 5 cells, chunks of 2 cells (32 pixels): 2 x 3 shards."""


def maps_on(grid: Grid, *, on_cells: bool = False, chunk: int | None = None) -> xr.Dataset:
    """A map whose classes encode their position, with a hole in the upper-left corner."""
    geobox = grid.output_geobox if on_cells else grid.geobox
    rows, columns = geobox.shape
    codes = np.add.outer(np.arange(rows), 3 * np.arange(columns)) % 17 + 1
    codes[0, 0] = 0
    percent = np.stack([codes * 5 % 101] * 17).astype(np.uint8)
    percent[:, 0, 0] = 255
    y, x = ("cell_y", "cell_x") if on_cells else ("y", "x")
    side = chunk or rows + columns
    return xr.Dataset(
        {
            "lcz": ((y, x), da.from_array(codes.astype(np.uint8), chunks=side)),
            "confidence": ((y, x), da.from_array(percent[0], chunks=side)),
            "probability": (("lcz_class", y, x), da.from_array(percent, chunks=(17, side, side))),
        },
        coords={
            y: geobox.coordinates["y"].values,
            x: geobox.coordinates["x"].values,
            "lcz_class": np.arange(1, 18, dtype=np.uint8),
        },
        attrs={GRID_ATTR: grid.to_json(), "synthetic": 1},
    )


def features_on(grid: Grid) -> xr.Dataset:
    geobox = grid.output_geobox
    rows, columns = geobox.shape
    values = np.arange(rows * columns * 3, dtype=np.float32).reshape(rows, columns, 3)
    values[0, 0] = np.nan
    dims = ("cell_y", "cell_x")
    return xr.Dataset(
        {
            "features": ((*dims, "feature"), values),
            "valid_fraction": (dims, values[..., 1] / 1000),
            "covered": (dims, np.isfinite(values[..., 0])),
        },
        coords={
            "cell_y": geobox.coordinates["y"].values,
            "cell_x": geobox.coordinates["x"].values,
            "feature": ["aef_b01_mean", "aef_b01_std", "höhe_max"],
        },
        attrs={GRID_ATTR: grid.to_json(), "products": json.dumps(["test/1"]), "synthetic": 0},
    )


def raising(grid: Grid) -> xr.Dataset:
    """A map whose last block cannot be computed."""

    def refuse(block: npt.NDArray[Any], block_info: Any = None) -> npt.NDArray[Any]:
        if block_info and block_info[0]["chunk-location"] == (1, 2):
            raise OSError("disk on fire")
        return block

    maps = maps_on(grid, chunk=32)
    return maps.assign(lcz=maps["lcz"].copy(data=maps["lcz"].data.map_blocks(refuse, dtype="u1")))


def all_bytes(folder: Path) -> dict[str, bytes]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store") / "lcz.zarr"
    groups = {"pixels": maps_on(GRID), "cells": maps_on(GRID, on_cells=True)}
    return write_product(groups, folder, attrs={"inputs": ["aef"]})


def test_plain_xarray_opens_a_group_and_finds_the_values_and_coordinates(store: Path) -> None:
    given = maps_on(GRID).compute()
    opened = xr.open_zarr(store, group="pixels")
    assert opened["lcz"].dims == ("y", "x")
    assert opened["lcz"].dtype == np.uint8
    np.testing.assert_array_equal(opened["lcz"], given["lcz"])
    np.testing.assert_array_equal(opened["y"], given["y"])
    np.testing.assert_array_equal(opened["x"], given["x"])
    assert opened.attrs["synthetic"] == 1


def test_plain_xarray_opens_the_store_as_a_tree(store: Path) -> None:
    with xr.open_datatree(store, engine="zarr") as tree:
        assert set(tree.children) == {"pixels", "cells"}
        assert tree.attrs == {"lczcube_schema": "2.0.0", "inputs": ["aef"]}
        assert tree["cells"]["lcz"].shape == (4, 5)
        assert tree["pixels"]["lcz"].shape == (64, 80)


@pytest.mark.parametrize(("group", "side_m"), [("pixels", 20), ("cells", 320)])
def test_the_transform_is_the_grids(store: Path, group: str, side_m: float) -> None:
    opened = xr.open_zarr(store, group=group)
    minx, _, _, maxy = GRID.bbox
    expected = [side_m, 0, minx, 0, -side_m, maxy]
    np.testing.assert_allclose(opened.attrs["spatial:transform"], expected, atol=1e-6)
    written = [float(v) for v in opened["spatial_ref"].attrs["GeoTransform"].split()]
    np.testing.assert_allclose(tuple(Affine.from_gdal(*written))[:6], expected, atol=1e-6)
    first = (float(opened["x"][0]) - side_m / 2, float(opened["y"][0]) + side_m / 2)
    np.testing.assert_allclose(first, (minx, maxy), atol=1e-6)
    assert opened.attrs["spatial:shape"] == list(opened["lcz"].shape)
    assert opened.attrs["spatial:bbox"] == pytest.approx(GRID.bbox, abs=1e-6)


def test_the_crs_is_stated_and_every_variable_points_to_it(store: Path) -> None:
    opened = xr.open_zarr(store, group="cells", decode_coords=False)
    assert pyproj.CRS.from_wkt(opened["spatial_ref"].attrs["crs_wkt"]) == pyproj.CRS(32632)
    assert int(opened["spatial_ref"]) == 32632
    assert opened.attrs["proj:code"] == "EPSG:32632"
    for name in ("lcz", "confidence", "probability"):
        assert opened[name].attrs["grid_mapping"] == "spatial_ref"


def test_the_classes_are_named(store: Path) -> None:
    opened = xr.open_zarr(store, group="pixels")
    for attrs in (opened["lcz"].attrs, opened["lcz_class"].attrs):
        assert attrs["flag_values"] == list(range(1, 18))
        assert attrs["flag_meanings"].split()[10] == "lcz_a_dense_trees"
    assert opened["lcz"].attrs["nodata"] == 0
    assert opened["lcz_class"].values.tolist() == list(range(1, 18))


def test_per_cents_open_as_shares_with_nan(store: Path) -> None:
    given = maps_on(GRID).compute()
    opened = xr.open_zarr(store, group="pixels")
    for name in ("confidence", "probability"):
        stored = given[name].values
        expected = np.where(stored == 255, np.nan, stored / 100)
        assert opened[name].dtype == np.float64  # xarray: the scale is a JSON number
        np.testing.assert_allclose(opened[name].values, expected, rtol=1e-6)
        assert zarr.open_array(store / "pixels" / name, mode="r").dtype == np.uint8


def test_one_dask_chunk_is_one_shard(store: Path) -> None:
    opened = open_product(store, "pixels")
    array = zarr.open_array(store / "pixels" / "lcz", mode="r")
    assert array.shards == (32, 32)
    assert array.chunks == (16, 16)
    n_files = len([p for p in (store / "pixels" / "lcz" / "c").rglob("*") if p.is_file()])
    assert n_files == 2 * 3
    assert opened["probability"].shape == (17, 64, 80)


@pytest.mark.parametrize("chunk", [7, 16, 50, 100])
def test_any_chunking_gives_the_same_bytes(store: Path, tmp_path: Path, chunk: int) -> None:
    groups = {
        "pixels": maps_on(GRID, chunk=chunk),
        "cells": maps_on(GRID, on_cells=True, chunk=3),
    }
    again = write_product(groups, tmp_path / "other.zarr", attrs={"inputs": ["aef"]})
    assert all_bytes(again) == all_bytes(store)


def test_writing_over_a_store_gives_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "lcz.zarr"
    write_product({"pixels": maps_on(GRID), "old": maps_on(GRID)}, path)
    write_product({"pixels": maps_on(GRID)}, path, overwrite=True)
    fresh = write_product({"pixels": maps_on(GRID)}, tmp_path / "fresh.zarr")
    assert all_bytes(path) == all_bytes(fresh)


def test_writing_leaves_the_datasets_as_they_were(tmp_path: Path) -> None:
    maps, cells = maps_on(GRID), features_on(GRID)
    before = maps.copy(deep=True), cells.copy(deep=True)
    write_product({"pixels": maps, "cells": cells}, tmp_path / "lcz.zarr")
    xr.testing.assert_identical(maps, before[0])
    xr.testing.assert_identical(cells, before[1])


def test_an_existing_store_is_not_replaced_unasked(store: Path) -> None:
    before = all_bytes(store)
    with pytest.raises(StoreError, match=r"lcz\.zarr exists; pass overwrite=True"):
        write_product({"pixels": maps_on(GRID)}, store)
    assert all_bytes(store) == before


def test_without_an_identity_a_whole_store_is_refused_even_by_the_same_call(
    tmp_path: Path,
) -> None:
    source, path = tmp_path / "source.zarr", tmp_path / "copy.zarr"
    for code in (3, 5):
        maps = maps_on(GRID)[["lcz"]]
        maps["lcz"] = maps["lcz"].copy(data=np.full(GRID.shape, code, np.uint8))
        write_product({"pixels": maps}, source, overwrite=True)
        copied = {"pixels": open_product(source, "pixels").drop_vars("spatial_ref")}
        if code == 3:
            write_product(copied, path)
    with pytest.raises(StoreError, match=r"copy\.zarr exists; pass overwrite=True"):
        write_product(copied, path)
    write_product(copied, path, overwrite=True)
    assert (open_product(path, "pixels")["lcz"] == 5).all()


def test_an_error_while_writing_leaves_no_store_and_the_same_call_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "lcz.zarr"
    with pytest.raises(OSError, match="disk on fire"):
        write_product({"pixels": raising(GRID)}, path, identity="one")
    assert not path.exists()
    with pytest.raises(StoreError, match=r"is not whole: .* same command again"):
        open_product(path, "pixels")
    write_product({"pixels": maps_on(GRID)}, path, identity="one")
    assert all_bytes(path) == all_bytes(
        write_product({"pixels": maps_on(GRID)}, tmp_path / "undisturbed.zarr")
    )


def test_an_error_while_replacing_leaves_the_old_store_as_it_was(tmp_path: Path) -> None:
    path = write_product({"pixels": maps_on(GRID)}, tmp_path / "lcz.zarr")
    before = all_bytes(path)
    with pytest.raises(OSError, match="disk on fire"):
        write_product({"pixels": raising(GRID)}, path, overwrite=True)
    assert all_bytes(path) == before
    assert open_product(path, "pixels")["lcz"].shape == GRID.shape


def test_the_rest_of_another_write_is_no_obstacle(tmp_path: Path) -> None:
    rest = tmp_path / "lcz.zarr.partial" / "pixels"
    rest.mkdir(parents=True)
    (rest / "junk").write_text("half")
    path = write_product({"pixels": maps_on(GRID)}, tmp_path / "lcz.zarr")
    assert not list(tmp_path.rglob("junk"))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        ".lcz.zarr.lock",
        "lcz.zarr",
        "lcz.zarr.regions",
    ]
    assert open_product(path, "pixels")["lcz"].shape == GRID.shape


def test_a_dataset_off_the_grid_is_refused(tmp_path: Path) -> None:
    haloed = maps_on(GRID).isel(y=slice(1, None))
    with pytest.raises(StoreError, match=r"a dataset of \(63, 80\) pixels is neither"):
        write_product({"pixels": haloed}, tmp_path / "lcz.zarr")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("pixel_m", [0.5, 2.5])
def test_pixels_of_a_fraction_of_a_metre_keep_one_chunk_a_shard(
    tmp_path: Path, pixel_m: float
) -> None:
    grid = Grid("EPSG:32632", (0, 0, 3, 2), pixel_m=pixel_m, cell_m=10, chunk_cells=2)
    groups = {"pixels": maps_on(grid), "cells": maps_on(grid, on_cells=True)}
    path = write_product(groups, tmp_path / "lcz.zarr")
    side_px = round(20 / pixel_m)
    assert zarr.open_array(path / "pixels" / "lcz", mode="r").shards == (side_px, side_px)
    assert zarr.open_array(path / "cells" / "lcz", mode="r").shards == (2, 2)


def test_output_pixels_of_a_stride_lie_on_the_output_grid(tmp_path: Path) -> None:
    grid = Grid("EPSG:32632", (0, 0, 10, 5), stride_m=100, chunk_cells=5)
    path = write_product({"cells": maps_on(grid, on_cells=True)}, tmp_path / "lcz.zarr")
    opened = xr.open_zarr(path, group="cells")
    assert opened["lcz"].shape == (16, 32)
    assert opened.attrs["spatial:transform"] == [100, 0, 0, 0, -100, 1600]
    assert zarr.open_array(path / "cells" / "lcz", mode="r").shards == (16, 16)


def test_a_grid_without_epsg_code_keeps_its_crs(tmp_path: Path) -> None:
    crs = pyproj.CRS("+proj=tmerc +lat_0=1 +lon_0=9.5 +k=0.9996 +x_0=500000 +datum=WGS84 +units=m")
    grid = Grid(crs.to_wkt(), (0, 0, 2, 2), pixel_m=20)
    path = write_product({"pixels": maps_on(grid)}, tmp_path / "lcz.zarr")
    opened = xr.open_zarr(path, group="pixels")
    assert pyproj.CRS.from_wkt(opened["spatial_ref"].attrs["crs_wkt"]) == crs
    assert pyproj.CRS.from_wkt(opened.attrs["proj:wkt2"]) == crs


def test_a_missing_store_or_group_is_named(store: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no group 'features'"):
        open_product(store, "features")
    with pytest.raises(StoreError, match="no such store"):
        open_features(tmp_path / "absent.zarr")


def test_features_come_back_as_they_were(tmp_path: Path) -> None:
    given = features_on(GRID)
    opened = open_features(write_product({"cells": given}, tmp_path / "features.zarr"))
    assert opened["features"].chunks is not None
    assert opened["features"].dims == ("cell_y", "cell_x", "feature")
    assert {str(n): str(v.dtype) for n, v in opened.data_vars.items()} == {
        "features": "float32",
        "valid_fraction": "float32",
        "covered": "bool",
    }
    for name in given.variables:
        np.testing.assert_array_equal(opened[name].values, given[name].values)
    assert {key: opened.attrs[key] for key in given.attrs} == given.attrs


def two_class_map() -> xr.Dataset:
    maps = maps_on(GRID).compute()
    codes = np.full(maps["lcz"].shape, 6, np.uint8)
    codes[:, 40:] = 17
    codes[0, 0] = 0
    return maps.assign(lcz=(("y", "x"), codes))


def classes_drawn(picture: npt.NDArray[np.uint8]) -> set[int]:
    """Codes whose colour fills at least 60 pixels; letters are too thin to."""
    return {
        code
        for code, color in enumerate(colors())
        if code and code not in (15, 10, 8) and (picture == color).all(axis=-1).sum() >= 60
    }


def test_the_picture_and_its_legend_show_the_classes_present_only(tmp_path: Path) -> None:
    path = write_map_png({"truth": two_class_map()}, tmp_path / "lcz.png", title="Two classes")
    picture = (imread(path)[..., :3] * 255).round().astype(np.uint8)
    assert classes_drawn(picture) == {6, 17}
    legend = picture[:, -300:]
    assert classes_drawn(legend) == {6, 17}
    assert list(tmp_path.iterdir()) == [path]


def test_the_left_of_the_map_is_the_left_of_the_picture(tmp_path: Path) -> None:
    path = write_map_png({"truth": two_class_map()}, tmp_path / "lcz.png", title="Two classes")
    picture = (imread(path)[..., :3] * 255).round().astype(np.uint8)[:, :-300]
    left, right = (np.nonzero((picture == colors()[c]).all(axis=-1))[1] for c in (6, 17))
    assert left.max() < right.min()


def test_the_same_map_gives_the_same_picture_bytes(tmp_path: Path) -> None:
    first, second = (
        write_map_png(
            {"a": two_class_map(), "b": maps_on(GRID)}, tmp_path / name, title="T", note="synthetic"
        ).read_bytes()
        for name in ("first.png", "second.png")
    )
    assert first == second


def test_a_map_without_data_is_drawn_without_legend(tmp_path: Path) -> None:
    empty = two_class_map() * np.uint8(0)
    path = write_map_png({"empty": empty}, tmp_path / "lcz.png", title="Nothing")
    assert classes_drawn((imread(path)[..., :3] * 255).round().astype(np.uint8)) == set()
