import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from lczcube.catalog import Catalog
from lczcube.cube import (
    decode,
    grid_of,
    image,
    node_name,
    open_cube,
    open_cubes,
    trim_halo,
)
from lczcube.errors import CatalogError
from lczcube.grid import Grid
from lczcube.windows import aggregate
from tests.scenes import CRS, catalog_of, position_codes, raster_input, write_raster

X0, Y0 = 500_000, 5_400_320


def small_grid(**keys: float) -> Grid:
    """Four by four cells inside the scene of :func:`scene`, in chunks of two by two cells."""
    x, y = X0 // 320 + 2, (Y0 - 1280 - 640) // 320 + 1
    return Grid(CRS, (x, y, x + 4, y + 4), chunk_cells=2, **keys)


def scene(folder: Path, **keys: bool) -> xr.Dataset:
    """A raster of 256 x 256 pixels around the grid, one file."""
    codes = position_codes(256, 256, x0=X0, y0=Y0)
    write_raster(folder / "all.tif", codes, x0=X0, y0=Y0, nodata=-1, **keys)
    catalog = catalog_of(folder, raster_input("where", "all.tif"))
    return open_cube(catalog, small_grid(), inputs=["where"], year=2024)


def require_own_positions(cube: xr.Dataset) -> None:
    where = cube["where"].isel(time=0)
    x = np.round(cube["x"].values / 10 - 0.5)
    y = np.round(cube["y"].values / 10 - 0.5)
    np.testing.assert_array_equal(where.values[0], np.broadcast_to(x, (len(y), len(x))))
    np.testing.assert_array_equal(where.values[1], np.broadcast_to(y[:, None], (len(y), len(x))))


def test_every_pixel_lies_where_its_code_says(tmp_path: Path) -> None:
    require_own_positions(scene(tmp_path))


def test_a_south_up_scene_gives_the_same_cube(tmp_path: Path) -> None:
    cube = scene(tmp_path, south_up=True)
    require_own_positions(cube)
    xr.testing.assert_identical(cube.compute(), scene(tmp_path / "north").compute())


def test_a_scene_shifted_by_one_pixel_is_seen(tmp_path: Path) -> None:
    codes = position_codes(256, 256, x0=X0 + 10, y0=Y0)
    write_raster(tmp_path / "all.tif", codes, x0=X0, y0=Y0, nodata=-1)
    catalog = catalog_of(tmp_path, raster_input("where", "all.tif"))
    cube = open_cube(catalog, small_grid(), inputs=["where"], year=2024)
    with pytest.raises(AssertionError):
        require_own_positions(cube)


def test_overlapping_tiles_give_the_cube_of_the_whole_scene(tmp_path: Path) -> None:
    codes = position_codes(256, 256, x0=X0, y0=Y0)
    for i, rows in enumerate((slice(0, 131), slice(117, 256))):
        for j, columns in enumerate((slice(0, 101), slice(93, 256))):
            write_raster(
                tmp_path / f"tile{i}{j}.tif",
                codes[:, rows, columns],
                x0=X0 + columns.start * 10,
                y0=Y0 - rows.start * 10,
                nodata=-1,
                south_up=bool(j),
            )
    catalog = catalog_of(tmp_path, raster_input("where", "tile*.tif"))
    cube = open_cube(catalog, small_grid(), inputs=["where"], year=2024)
    require_own_positions(cube)


def test_any_chunking_gives_the_same_cube(tmp_path: Path) -> None:
    scene(tmp_path)
    from lczcube.catalog import open_catalog

    catalog = open_catalog(tmp_path / "catalog" / "catalog.json")
    base = small_grid()
    cubes = []
    for chunk_cells in (1, 2, 3, 4, 20):
        grid = Grid(CRS, base.cells, chunk_cells=chunk_cells)
        cube = open_cube(catalog, grid, inputs=["where"], year=2024, halo_px=7)
        assert set(cube.chunks["y"][1:-1]) <= {32 * chunk_cells}
        cubes.append(cube.compute())
    for cube in cubes[1:]:
        np.testing.assert_array_equal(cube["where"].values, cubes[0]["where"].values)


def test_the_halo_comes_from_the_source_and_can_be_trimmed(tmp_path: Path) -> None:
    scene(tmp_path)
    from lczcube.catalog import open_catalog

    catalog = open_catalog(tmp_path / "catalog" / "catalog.json")
    cube = open_cube(catalog, small_grid(), inputs=["where"], year=2024, halo_px=5)
    assert cube.sizes["x"] == 138
    require_own_positions(cube)
    assert trim_halo(cube).sizes["x"] == 128
    require_own_positions(trim_halo(cube))


def test_opening_computes_no_pixel(tmp_path: Path) -> None:
    cube = scene(tmp_path)
    (tmp_path / "all.tif").unlink()
    assert cube["where"].dtype == np.int32
    assert cube["where"].dims == ("time", "where_band", "y", "x")
    assert grid_of(cube) == small_grid()


def test_pixels_outside_all_tiles_are_nodata(tmp_path: Path) -> None:
    codes = position_codes(100, 100, x0=X0, y0=Y0)
    write_raster(tmp_path / "part.tif", codes, x0=X0, y0=Y0, nodata=-1)
    catalog = catalog_of(tmp_path, raster_input("where", "part.tif"))
    cube = open_cube(catalog, small_grid(), inputs=["where"], year=2024)
    absent = cube["where"].isel(time=0, x=slice(52, None)).values
    assert (absent == -1).all()
    assert np.isnan(decode(cube)["where"].isel(time=0).values[:, :, 52:]).all()


def test_signed_square_codes_decode_to_the_published_values(tmp_path: Path) -> None:
    codes = np.tile(np.array([-127, 0, 127, -128], np.int8), (2, 160, 40))
    write_raster(tmp_path / "codes.tif", codes, x0=X0, y0=Y0, nodata=-128)
    catalog = catalog_of(
        tmp_path,
        raster_input(
            "aef",
            "codes.tif",
            layer="embedding",
            product="alphaearth/1",
            decoder="signed_square",
            valid="all_bands_nodata",
        ),
    )
    cube = open_cube(catalog, small_grid(), inputs=["aef"], year=2024)
    values = decode(cube)["aef"].isel(time=0, y=0, x=slice(0, 4)).values
    np.testing.assert_allclose(values[0], [-0.9921722, 0, 0.9921722, np.nan], rtol=1e-6)
    assert values.dtype == np.float32


def test_a_pixel_is_valid_by_the_rule_of_its_layer(tmp_path: Path) -> None:
    codes = np.ones((2, 160, 160), np.uint8)
    codes[0, :, 64:] = 0
    codes[1, :, 96:] = 0
    write_raster(tmp_path / "a.tif", codes, x0=X0, y0=Y0, nodata=0)
    catalog = catalog_of(
        tmp_path,
        raster_input("any", "a.tif"),
        raster_input("all", "a.tif", valid="all_bands_nodata"),
    )
    cube = decode(open_cube(catalog, small_grid(), inputs=["any", "all"], year=2024))
    valid = {name: np.isfinite(cube[name].values[0, 1, 0]) for name in ("any", "all")}
    # The grid starts 48 pixels into the scene; band 1 ends 16 pixels later, band 2 after 48.
    assert valid["any"].nonzero()[0].tolist() == list(range(16))
    assert valid["all"].nonzero()[0].tolist() == list(range(48))


def test_an_image_joins_the_bands_of_all_layers(tmp_path: Path) -> None:
    codes = np.ones((2, 256, 256), np.uint8)
    write_raster(tmp_path / "a.tif", codes, x0=X0, y0=Y0, names=["red", "nir"])
    write_raster(tmp_path / "b.tif", codes[:1].astype(np.float32), x0=X0, y0=Y0)
    catalog = catalog_of(tmp_path, raster_input("a", "a.tif"), raster_input("b", "b.tif"))
    joined = image(open_cube(catalog, small_grid(), inputs=["a", "b"], year=2024))
    assert joined["band"].values.tolist() == ["a_red", "a_nir", "b_b01"]
    assert joined.dtype == np.float32
    assert (joined.values == 1).all()


def test_a_year_without_items_is_an_error_that_lists_the_years(tmp_path: Path) -> None:
    codes = position_codes(256, 256, x0=X0, y0=Y0)
    write_raster(tmp_path / "all.tif", codes, x0=X0, y0=Y0, nodata=-1)
    catalog = catalog_of(tmp_path, raster_input("where", "all.tif"))
    with pytest.raises(CatalogError, match=r"no item on this grid .* at 2019; it has .*2024"):
        open_cube(catalog, small_grid(), inputs=["where"], year=2019)


def test_items_that_disagree_on_bands_are_refused(tmp_path: Path) -> None:
    codes = position_codes(256, 256, x0=X0, y0=Y0)
    write_raster(tmp_path / "a.tif", codes, x0=X0, y0=Y0, nodata=-1)
    write_raster(tmp_path / "b.tif", codes[:1], x0=X0, y0=Y0, nodata=-1)
    catalog = catalog_of(tmp_path, raster_input("where", "*.tif"))
    with pytest.raises(CatalogError, match="differ in band names"):
        open_cube(catalog, small_grid(), inputs=["where"], year=2024)


def two_cities(folder: Path) -> tuple[Catalog, dict[str, Grid]]:
    """Cities 20 km apart: both have layer ``a`` of 2020 and 2024, only the first has ``b``."""
    for name, x0 in (("west", X0), ("east", X0 + 20_480)):
        codes = position_codes(256, 256, x0=x0, y0=Y0)
        write_raster(folder / f"a_{name}_2020.tif", codes, x0=x0, y0=Y0, nodata=-1)
        write_raster(folder / f"a_{name}_2024.tif", codes, x0=x0, y0=Y0, nodata=-1)
    write_raster(folder / "b_west.tif", np.ones((1, 256, 256), np.float32), x0=X0, y0=Y0)
    west = small_grid()
    x0, y0, x1, y1 = west.cells
    east = Grid(CRS, (x0 + 64, y0, x1 + 64, y1), chunk_cells=2)
    a = raster_input("a", "a_*_{year}.tif").replace("year = 2024", "years = [2020, 2024]")
    catalog = catalog_of(folder, a, raster_input("b", "b_west.tif"))
    return catalog, {"São Paulo [1.5]": west, "east/side": east}


def test_cities_are_nodes_with_their_own_grids_whatever_their_names(tmp_path: Path) -> None:
    catalog, grids = two_cities(tmp_path)
    tree = open_cubes(catalog, grids, inputs=["a"], year=2024)
    assert sorted(tree.children) == ["São Paulo [1.5]", "east%2Fside"]
    assert [node.attrs["city"] for node in tree.children.values()] == list(grids)
    for city, grid in grids.items():
        cube = tree[node_name(city)].to_dataset()
        assert grid_of(cube) == grid
        require_own_positions(cube.rename(a="where"))


def test_a_layer_that_a_city_lacks_is_refused_with_city_and_layer(tmp_path: Path) -> None:
    catalog, grids = two_cities(tmp_path)
    with pytest.raises(CatalogError, match=r"city 'east/side': layer 'b' has no item .*drop_layer"):
        open_cubes(catalog, grids, inputs=["a", "b"], year=2024)


def test_a_layer_that_a_city_lacks_is_dropped_in_all_of_them(tmp_path: Path) -> None:
    catalog, grids = two_cities(tmp_path)
    tree = open_cubes(catalog, grids, inputs=["a", "b"], year=2024, missing="drop_layer")
    assert [list(node.data_vars) for node in tree.children.values()] == [["a"], ["a"]]


def test_a_layer_that_a_city_lacks_is_a_feature_that_says_so(tmp_path: Path) -> None:
    catalog, grids = two_cities(tmp_path)
    tree = open_cubes(catalog, grids, inputs=["a", "b"], year=2024, missing="indicator")
    cubes = {city: tree[node_name(city)].to_dataset() for city in grids}
    cells = {city: aggregate(cube, stats=("mean",)).compute() for city, cube in cubes.items()}
    west, east = cells.values()
    assert west["feature"].values.tolist() == east["feature"].values.tolist()
    assert west["feature"].values.tolist()[-2:] == ["a_present", "b_present"]
    assert (west["features"].values[..., -2:] == 1).all()
    assert (east["features"].values[..., -2:] == [1, 0]).all()
    assert np.isnan(east.sel(feature="b_b01_mean")["features"].values).all()
    assert (east["valid_fraction"].values == 1).all()  # what is not there makes nothing invalid
    assert json.loads(cubes["east/side"].attrs["missing"]) == ["b"]


def test_the_nearest_year_is_taken_when_asked_for_and_recorded(tmp_path: Path) -> None:
    catalog, grids = two_cities(tmp_path)
    grid = grids["east/side"]
    with pytest.raises(CatalogError, match="no item on this grid"):
        open_cube(catalog, grid, inputs=["a"], year=2022)
    cube = open_cube(catalog, grid, inputs=["a"], year=2022, nearest_year=True)
    assert cube["a"].attrs["year_used"] == 2020  # of two as near, the earlier
    assert str(cube["time"].values[0])[:10] == "2020-01-01"
    assert "year_used" not in open_cube(catalog, grid, inputs=["a"], year=2024)["a"].attrs


def test_layers_of_other_years_do_not_meet(tmp_path: Path) -> None:
    catalog, grids = two_cities(tmp_path)
    with pytest.raises(CatalogError, match=r"'a' \(2020-01-01, 2024-01-01\) and 'b' \(2024"):
        open_cube(catalog, grids["São Paulo [1.5]"], inputs=["a", "b"])


def test_a_missing_tile_is_counted(tmp_path: Path) -> None:
    codes = position_codes(100, 256, x0=X0, y0=Y0)
    write_raster(tmp_path / "part.tif", codes, x0=X0, y0=Y0, nodata=-1)
    catalog = catalog_of(tmp_path, raster_input("where", "part.tif"))
    attrs = open_cube(catalog, small_grid(), inputs=["where"], year=2024)["where"].attrs
    assert attrs["n_tiles"] == 1
    assert attrs["covered_share"] == pytest.approx(68 / 128)  # the grid starts 32 rows down
