"""Real files on one grid, each checked by a computation that shares no code with the cube."""

from pathlib import Path

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import shapely
import xarray as xr
from pyproj import Transformer

from lczcube.catalog import Catalog
from lczcube.cube import decode, open_cube
from lczcube.grid import Grid
from lczcube.layers import layer_geobox
from lczcube.vectors import burn_polygons
from lczcube.windows import aggregate
from tests.scenes import catalog_of, raster_input

KOWLOON = (114.166, 22.322, 114.192, 22.347)


def nearest_by_proj(
    path: Path, cube: xr.Dataset, crs: str, *, outside: float
) -> npt.NDArray[float]:
    """The stored value below each pixel centre of a cube, pixel by pixel through PROJ."""
    with rasterio.open(path) as file:
        stored = file.read(1)
        x, y = np.meshgrid(cube["x"].values, cube["y"].values)
        lon, lat = Transformer.from_crs(crs, file.crs, always_xy=True).transform(x, y)
        columns, rows = ~file.transform * (lon, lat)
    values = np.full(x.shape, outside, dtype=float)
    for i in np.ndindex(*x.shape):
        row, column = int(np.floor(rows[i])), int(np.floor(columns[i]))
        if 0 <= row < stored.shape[0] and 0 <= column < stored.shape[1]:
            values[i] = stored[row, column]
    return values


@pytest.fixture
def kowloon(realdata: Path, tmp_path: Path) -> tuple[Catalog, Grid]:
    folder = realdata / "hongkong"
    layers = {
        "landsat": "landsat8_36band_100m.tif",
        "worldcover": "worldcover_2021.tif",
        "lcz_global": "lcz_global_v3.tif",
        "training": "lcz_dfc2017_train.tif",
    }
    catalog = catalog_of(
        tmp_path, *(raster_input(name, str(folder / file)) for name, file in layers.items())
    )
    anchor = layer_geobox(catalog, "landsat", bbox=KOWLOON)
    return catalog, Grid.from_bbox(KOWLOON, anchor=anchor, pixel_m=100, cell_m=300, stride_m=100)


def test_the_layers_of_kowloon_meet_on_the_lattice_of_landsat(
    kowloon: tuple[Catalog, Grid], realdata: Path
) -> None:
    catalog, grid = kowloon
    names = ["landsat", "worldcover", "lcz_global", "training"]
    cube = open_cube(catalog, grid, inputs=names, year=2024).compute()
    with rasterio.open(realdata / "hongkong" / "landsat8_36band_100m.tif") as file:
        left = round((cube["x"].values[0] - 50 - file.transform.c) / 100)
        top = round((file.transform.f - cube["y"].values[0] - 50) / 100)
        rows, columns = cube.sizes["y"], cube.sizes["x"]
        window = file.read()[:, top : top + rows, left : left + columns]
    np.testing.assert_array_equal(cube["landsat"].values[0], window)
    for name, file_name in (("worldcover", "worldcover_2021"), ("lcz_global", "lcz_global_v3")):
        expected = nearest_by_proj(
            realdata / "hongkong" / f"{file_name}.tif", cube, grid.crs, outside=0
        )
        np.testing.assert_array_equal(cube[name].values[0, 0], expected)
        assert (expected > 0).mean() > 0.5
    assert set(np.unique(cube["training"].values)) <= set(range(18))


def test_the_buildings_of_kowloon_are_burnt_where_they_stand(
    realdata: Path,
) -> None:
    grid = Grid.from_bbox(KOWLOON, crs="EPSG:32650", chunk_cells=3)
    buildings = gpd.read_parquet(realdata / "hongkong" / "overture" / "buildings.parquet").geometry
    mask = burn_polygons(buildings, grid)
    assert mask.chunks is not None
    assert len(mask.chunks[0]) > 1
    outlines = shapely.union_all(buildings.to_crs(grid.crs).to_numpy())
    shapely.prepare(outlines)
    x, y = np.meshgrid(mask["x"].values, mask["y"].values)
    expected = shapely.contains_xy(outlines, x, y)
    burnt = mask.values.astype(bool)
    assert (burnt != expected).mean() < 1e-4  # centres on an outline, to a micrometre
    whole = burn_polygons(buildings, Grid.from_bbox(KOWLOON, crs="EPSG:32650"))
    np.testing.assert_array_equal(mask.values, whole.values)
    cells = burnt.reshape(grid.cell_shape[0], 32, grid.cell_shape[1], 32).mean(axis=(1, 3))
    areas = np.zeros(grid.cell_shape)
    minx, _, _, maxy = grid.bbox
    for i, j in np.ndindex(*grid.cell_shape):
        cell = shapely.box(
            minx + 320 * j, maxy - 320 * (i + 1), minx + 320 * (j + 1), maxy - 320 * i
        )
        areas[i, j] = shapely.intersection(outlines, cell).area / 320**2
    assert np.abs(cells - areas).max() < 0.02
    assert areas.max() > 0.3


def test_four_tiles_of_enmap_lie_in_one_cube(realdata: Path, tmp_path: Path) -> None:
    catalog = catalog_of(
        tmp_path, raster_input("enmap", str(realdata / "enmap" / "enmap_potsdam_tile_*.tif"))
    )
    grid = Grid.from_bbox(
        (364_095, 5_804_205, 368_895, 5_809_965),
        bbox_crs="EPSG:32633",
        anchor=layer_geobox(catalog, "enmap", bbox=(12.9, 52.3, 13.2, 52.5)),
        pixel_m=30,
        cell_m=960,
    )
    cube = open_cube(catalog, grid, inputs=["enmap"], year=2024)
    assert cube["enmap"].attrs["n_tiles"] == 4
    codes = cube["enmap"].isel(time=0).compute()
    found = 0
    for path in sorted((realdata / "enmap").glob("enmap_potsdam_tile_*.tif")):
        with rasterio.open(path) as file:
            stored, transform = file.read(), file.transform
        x = transform.c + 30 * (np.arange(32) + 0.5)
        y = transform.f - 30 * (np.arange(32) + 0.5)
        np.testing.assert_array_equal(codes.sel(x=x, y=y).values, stored)
        found += stored.shape[1] * stored.shape[2]
    assert int((codes[0] != -32768).sum()) == found


def test_pixels_of_bilbao_that_are_not_square_are_resampled(realdata: Path, tmp_path: Path) -> None:
    path = realdata / "heights" / "BDSM.tif"
    catalog = catalog_of(tmp_path, raster_input("bdsm", str(path), nodata=-32768))
    grid = Grid("EPSG:25830", (1561, 14982, 1565, 14986))
    cube = open_cube(catalog, grid, inputs=["bdsm"], year=2024)
    assert cube["bdsm"].attrs["covered_share"] == 1
    expected = nearest_by_proj(path, cube, grid.crs, outside=-32768)
    np.testing.assert_array_equal(cube["bdsm"].values[0, 0], expected)
    with pytest.raises(ValueError, match="not square"):
        Grid.from_bbox(
            (-2.98, 43.3, -2.97, 43.31),
            anchor=layer_geobox(catalog, "bdsm", bbox=(-3.1, 43.2, -2.9, 43.4)),
            pixel_m=2.5,
        )


def test_degrees_of_beijing_land_on_metres(realdata: Path, tmp_path: Path) -> None:
    path = realdata / "beijing" / "THU_2020_sentinel_1_50pt.tif"
    catalog = catalog_of(tmp_path, raster_input("s1", str(path)))
    grid = Grid.from_bbox((116.289, 39.972, 116.350, 40.031))
    cube = decode(open_cube(catalog, grid, inputs=["s1"], year=2024))
    values = cube["s1"].values[0, 0]
    expected = nearest_by_proj(path, cube, grid.crs, outside=np.nan)
    np.testing.assert_array_equal(values, expected.astype(np.float32))
    assert 0 < np.isnan(values).mean() < 0.2  # what the file lacks, and what lies past it


def test_a_layer_of_another_datum_lands_on_its_neighbour(realdata: Path, tmp_path: Path) -> None:
    """Olinda: an image in SIRGAS 2000, a DEM of an unknown datum that matches SIRGAS 1995."""
    etm, dem = (realdata / "misc" / name for name in ("L7_ETMs.tif", "olinda_dem_utm25s.tif"))
    catalog = catalog_of(
        tmp_path, raster_input("etm", str(etm), nodata=255), raster_input("dem", str(dem))
    )
    codes = [catalog.items(name)[0].properties["proj:code"] for name in ("etm", "dem")]
    assert codes == ["EPSG:31985", "EPSG:32000"]
    grid = Grid.from_bbox((-34.90, -8.03, -34.84, -7.97), crs="EPSG:31985")
    cube = open_cube(catalog, grid, inputs=["etm", "dem"], year=2024)
    expected = nearest_by_proj(dem, cube, grid.crs, outside=np.nan)
    np.testing.assert_array_equal(cube["dem"].values[0, 0], expected)
    bands = nearest_by_proj(etm, cube, grid.crs, outside=255)
    np.testing.assert_array_equal(cube["etm"].values[0, 0], bands)


def test_real_alphaearth_codes_decode_to_unit_vectors(realdata: Path, tmp_path: Path) -> None:
    path = realdata / "alphaearth" / "aef_2024_wisconsin_utm16n_10m_int8.tif"
    keys = {"layer": "embedding", "product": "alphaearth/1", "decoder": "signed_square"}
    catalog = catalog_of(tmp_path, raster_input("aef", str(path), valid="all_bands_nodata", **keys))
    grid = Grid.from_geobox(layer_geobox(catalog, "aef", bbox=(-89, 44, -88, 45)))
    cube = open_cube(catalog, grid, inputs=["aef"], year=2024)
    values = decode(cube)["aef"].isel(time=0).values
    norm = np.sqrt(np.square(values).sum(axis=0))
    known = np.isfinite(norm)
    assert known.sum() == 97 * 97
    np.testing.assert_allclose(norm[known], 1, atol=0.01)
    with rasterio.open(path) as file:
        stored = file.read()
    at = np.argwhere(known)
    (top, left), (bottom, right) = at.min(axis=0), at.max(axis=0) + 1
    np.testing.assert_array_equal(cube["aef"].values[0, :, top:bottom, left:right], stored)
    cells = aggregate(cube)
    windows = decode(cube)["aef"].isel(time=0).astype("float64").coarsen(y=32, x=32)
    expected = np.concatenate([windows.mean(), windows.std(), windows.max()])
    np.testing.assert_allclose(
        np.moveaxis(cells["features"].values, -1, 0), expected, rtol=2e-6, atol=1e-7
    )
