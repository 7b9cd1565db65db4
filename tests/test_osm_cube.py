"""OpenStreetMap on a grid: masks drawn pixel by pixel from the table of features."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dask
import geopandas as gpd
import numpy as np
import numpy.typing as npt
import osmium
import pyproj
import pytest
import rasterio
import rasterio.features
import shapely
import xarray as xr
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st

from lczcube.catalog import Catalog
from lczcube.cube import decode, open_cube
from lczcube.cubestore import open_stored_cube, write_cube
from lczcube.errors import CatalogError, LczcubeError, SourceError
from lczcube.grid import Grid
from lczcube.layers import layer_geobox
from lczcube.masks import read_masks
from lczcube.mosaic import mosaics_of
from lczcube.products import open_features
from lczcube.sources.osm_scheme import BUILDINGS, FEATURES, MAPPED
from lczcube.synth import write_world
from lczcube.synth.city import draw_city
from lczcube.synth.osm import write_osm
from lczcube.tiles import FEATURES_ASSET, Rect, place_tiles, tile_of
from lczcube.windows import aggregate, aggregate_patches
from tests.osm_scenes import (
    BBOX,
    CRS,
    SIDE_M,
    X0,
    Y0,
    Drawn,
    area,
    grid,
    line,
    lonlat,
    osm_catalog,
    square,
    write_osm_file,
)
from tests.scenes import catalog_of, raster_input, write_raster
from tests.test_pipeline import city_file, lczcube

HOUSE = {"building": "house"}
AREAS = (
    HOUSE,
    {"building": "yes", "building:levels": "7"},
    {"natural": "wood"},
    {"landuse": "grass"},
    {"natural": "water"},
)
LINES = ({"highway": "residential"}, {"railway": "rail"}, {"waterway": "river"})
Mask = npt.NDArray[np.uint8]


def cube_of(catalog: Catalog, chunk_cells: int = 20, **keys: Any) -> xr.Dataset:
    return open_cube(catalog, grid(chunk_cells), inputs=["osm"], **keys)


def scene(folder: Path, *things: Drawn, **keys: Any) -> Catalog:
    return osm_catalog(folder, write_osm_file(folder / "a.osm.pbf", *things), **keys)


def mask_of(cube: xr.Dataset, band: str) -> Mask:
    values: Mask = cube["osm"].sel(osm_band=band).isel(time=0).values
    return values


def pixels(mask: Mask) -> set[tuple[int, int]]:
    """Column and row, counted from the lower left corner, of the pixels that are 1."""
    rows, columns = np.nonzero(mask == 1)
    return {(int(c), int(mask.shape[0] - 1 - r)) for r, c in zip(rows, columns, strict=True)}


def block(x: int, y: int, width: int, height: int) -> set[tuple[int, int]]:
    return {(i, j) for i in range(x, x + width) for j in range(y, y + height)}


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """Random shapes of all kinds over the whole square, some out of it."""
    rng = np.random.default_rng(3)
    things: list[Drawn] = []
    for i in range(150):
        x, y = rng.uniform(-100, SIDE_M, 2)
        feature = AREAS[i % len(AREAS)]
        angles = np.sort(rng.uniform(0, 2 * np.pi, 7))
        radii = rng.uniform(5, 140, 7)
        ring = [(x + r * np.cos(a), y + r * np.sin(a)) for r, a in zip(radii, angles, strict=True)]
        things.append(Drawn(feature, ring))
    for i in range(40):
        tags = LINES[i % len(LINES)]
        things.append(line(tags, *(tuple(p) for p in rng.uniform(-100, SIDE_M + 100, (4, 2)))))
    things += [Drawn({"man_made": "silo"}, [tuple(p)]) for p in rng.uniform(0, SIDE_M, (30, 2))]
    return scene(tmp_path_factory.mktemp("busy"), *things)


# Where pixels lie


def test_a_pixel_is_1_where_its_centre_lies_in_an_area(tmp_path: Path) -> None:
    # 94 m to 126 m holds the centres 95, 105, 115, 125; 203 to 217 those at 205 and 215.
    cube = cube_of(scene(tmp_path, Drawn(HOUSE, square(94, 203, 32, 14))))
    assert pixels(mask_of(cube, "buildings_lowrise")) == block(9, 20, 4, 2)


def test_a_hole_is_0(tmp_path: Path) -> None:
    lake = Drawn({"natural": "water"}, square(101, 101, 98), holes=[square(131, 131, 38)])
    expected = block(10, 10, 10, 10) - block(13, 13, 4, 4)
    assert pixels(mask_of(cube_of(scene(tmp_path, lake)), "water")) == expected


def test_a_line_is_as_wide_as_it_is(tmp_path: Path) -> None:
    roads = (
        line({"highway": "motorway", "width": "28"}, (-100, 500), (2000, 500)),
        line({"railway": "rail", "width": "8"}, (105, -100), (105, 2000)),
    )
    cube = cube_of(scene(tmp_path, *roads))
    # 486 to 514 m holds the centres 495 and 505 only; 101 to 109 m that at 105.
    assert pixels(mask_of(cube, "roads_major")) == block(0, 49, 128, 2)
    assert pixels(mask_of(cube, "rail")) == block(10, 0, 1, 128)


def test_a_point_is_the_pixel_that_holds_it(tmp_path: Path) -> None:
    corners = [(0.1, 0.1), (9.9, 1279.9), (1270.1, 639.9), (500.1, 500.1)]
    points = [Drawn({"man_made": "chimney"}, [corner]) for corner in corners]
    cube = cube_of(scene(tmp_path, *points))
    assert pixels(mask_of(cube, "heavy_industry")) == {(0, 0), (0, 127), (127, 63), (50, 50)}


def test_mapped_is_any_feature_whichever_are_asked_for(tmp_path: Path) -> None:
    things = (area(HOUSE, 101, 101, 98), area({"natural": "wood"}, 301, 101, 98))
    cube = cube_of(scene(tmp_path, *things, features=["water", "dense_trees"]))
    assert cube["osm_band"].values.tolist() == ["water", "dense_trees", "mapped"]
    assert pixels(mask_of(cube, "water")) == set()
    assert pixels(mask_of(cube, "dense_trees")) == block(30, 10, 10, 10)
    assert pixels(mask_of(cube, "mapped")) == block(10, 10, 10, 10) | block(30, 10, 10, 10)


def test_nothing_mapped_is_0_and_stays_0(tmp_path: Path) -> None:
    cube = cube_of(scene(tmp_path, area(HOUSE, 2000, 2000, 10)))
    assert (cube["osm"].values == 0).all()
    assert cube["osm"].attrs["covered_share"] == 1


def test_an_item_without_any_feature_is_all_0(tmp_path: Path) -> None:
    cube = cube_of(scene(tmp_path, area({"landuse": "residential"}, 0, 0, 100)))
    assert (cube["osm"].values == 0).all()


def test_the_variable_holds_bytes_by_feature(busy: Catalog) -> None:
    osm = cube_of(busy)["osm"]
    assert osm.dims == ("time", "osm_band", "y", "x")
    assert osm.dtype == np.uint8
    assert osm["osm_band"].values.tolist() == [*FEATURES, MAPPED]
    assert osm.attrs["layer"] == "osm"
    assert "OpenStreetMap contributors" in osm.attrs["license_note"]
    assert np.datetime64("2020-01-01") == osm["time"].values[0]


@pytest.mark.parametrize("band", ["buildings_lowrise", "buildings_midrise", "dense_trees", "water"])
def test_masks_equal_rasterio_on_the_whole_frame(busy: Catalog, band: str) -> None:
    (item,) = busy.items("osm")
    table = gpd.read_parquet(item.assets["features"].href)
    shapes = table[table["feature"] == band]
    shapes = shapes.set_geometry(shapes.geometry.segmentize(0.005)).to_crs(CRS)
    is_line = shapes["width_m"].notna()
    drawn = shapes.geometry.where(~is_line, shapes.geometry.buffer(shapes["width_m"].fillna(0) / 2))
    expected = rasterio.features.rasterize(
        drawn, out_shape=(128, 128), transform=Affine(10, 0, X0, 0, -10, Y0 + SIDE_M), dtype="uint8"
    )
    assert expected.sum() > 100
    np.testing.assert_array_equal(mask_of(cube_of(busy), band), expected)


def test_every_pixel_of_a_building_is_in_the_mask_of_its_kind_alone(busy: Catalog) -> None:
    (item,) = busy.items("osm")
    table = gpd.read_parquet(item.assets["features"].href)
    ids = table[table["feature"].isin(BUILDINGS)]["osm_id"]
    assert ids.is_unique
    assert set(table["feature"]) & set(BUILDINGS) == {"buildings_lowrise", "buildings_midrise"}


def test_mapped_is_the_union_of_all_masks(busy: Catalog) -> None:
    values = cube_of(busy)["osm"].values[0]
    np.testing.assert_array_equal(values[-1], values[:-1].max(axis=0))


# Any chunking, any halo, any tiling


@pytest.mark.parametrize("chunk_cells", [1, 2, 3])
def test_any_chunking_equals_one_chunk(busy: Catalog, chunk_cells: int) -> None:
    cut = cube_of(busy, chunk_cells)["osm"]
    assert len(cut.chunks[-1]) > 1  # type: ignore[index]
    np.testing.assert_array_equal(cut.values, cube_of(busy)["osm"].values)


def test_a_halo_shows_more_and_changes_nothing(busy: Catalog) -> None:
    wide = cube_of(busy, halo_px=5)["osm"].values
    assert wide.shape[-2:] == (138, 138)
    np.testing.assert_array_equal(wide[..., 5:-5, 5:-5], cube_of(busy)["osm"].values)


def test_a_pixel_does_not_depend_on_the_bbox(busy: Catalog) -> None:
    small = Grid.from_bbox((X0 + 400, Y0 + 400, X0 + 900, Y0 + 900), crs=CRS, bbox_crs=CRS)
    part = open_cube(busy, small, inputs=["osm"])["osm"]
    whole = cube_of(busy)["osm"].sel(y=part["y"], x=part["x"])
    xr.testing.assert_equal(part.compute(), whole.compute())


def test_threads_give_the_same_bits_as_one(busy: Catalog) -> None:
    lazy = cube_of(busy, 1)["osm"].data
    with dask.config.set(scheduler="threads", num_workers=4):
        together = lazy.compute()
    np.testing.assert_array_equal(together, lazy.compute(scheduler="sync"))


points = st.tuples(st.integers(-40, 300), st.integers(-40, 300)).map(lambda p: (p[0] / 8, p[1] / 8))


@settings(max_examples=40, deadline=None)
@given(
    shapes=st.lists(st.lists(points, min_size=2, max_size=6, unique=True), min_size=1, max_size=6),
    widths=st.lists(st.sampled_from([1.0, 4.0, 10.0, 55.0]), min_size=6, max_size=6),
    cut=st.tuples(st.integers(1, 31), st.integers(1, 31)),
)
def test_drawing_in_pieces_equals_drawing_at_once(
    tmp_path_factory: pytest.TempPathFactory,
    shapes: list[list[tuple[float, float]]],
    widths: list[float],
    cut: tuple[int, int],
) -> None:
    """Points on eighths of a pixel of 10 m, so that many edges run through centres."""
    geometries, features, held = [], [], []
    for ring, width in zip(shapes, widths, strict=False):
        places = [lonlat(10 * x, 10 * y) for x, y in ring]
        hull = shapely.convex_hull(shapely.MultiPoint(places))
        is_line = hull.geom_type != "Polygon"
        geometries.append(shapely.LineString(places) if is_line else hull)
        features.append("rail" if is_line else "water")
        held.append(width if is_line else np.nan)
    path = tmp_path_factory.mktemp("pieces") / "t.parquet"
    table = {"feature": features, "width_m": np.array(held, dtype=np.float32)}
    frame = gpd.GeoDataFrame(table, geometry=geometries, crs=4326)
    frame.to_parquet(path, write_covering_bbox=True)
    placed, geobox = _placed(path)
    whole = read_masks(placed, Rect(0, 0, 32, 32), geobox, 255)
    row, column = cut
    for top, bottom in ((0, row), (row, 32)):
        for left, right in ((0, column), (column, 32)):
            rect = Rect(top, left, bottom, right)
            np.testing.assert_array_equal(
                read_masks(placed, rect, geobox, 255), whole[:, top:bottom, left:right]
            )


def _placed(path: Path) -> Any:
    import pystac

    item = pystac.Item(
        "t", shapely.geometry.mapping(shapely.box(*BBOX)), list(BBOX), None,
        {"start_datetime": "2020-01-01T00:00:00Z", "end_datetime": "2020-12-31T00:00:00Z",
         "proj:code": "EPSG:4326"},
    )  # fmt: skip
    bands = [{"name": name} for name in ("water", "rail", "mapped")]
    media_type = "application/vnd.apache.parquet"
    asset = pystac.Asset(str(path), media_type=media_type, extra_fields={"bands": bands})
    item.add_asset(FEATURES_ASSET, asset)
    frame = Grid.from_bbox((X0, Y0, X0 + 320, Y0 + 320), crs=CRS, bbox_crs=CRS).read_geobox(0)
    (placed,) = place_tiles([tile_of(item)], frame)
    return placed, frame


# Where the extract ends


def half(folder: Path, name: str, west_m: float, east_m: float, *things: Drawn) -> Path:
    """An extract between two eastings of the square."""
    bbox = (*lonlat(west_m, -300), *lonlat(east_m, SIDE_M + 300))
    return write_osm_file(folder / name, *things, bbox=bbox)


def test_pixels_past_the_extract_are_not_covered_and_are_counted(tmp_path: Path) -> None:
    wood = area({"natural": "wood"}, -50, -50, 1500)
    catalog = osm_catalog(tmp_path, half(tmp_path, "a.osm.pbf", -300, 640, wood))
    cube = cube_of(catalog)
    assert cube["osm"].attrs["covered_share"] == pytest.approx(0.5, abs=0.03)
    mask = mask_of(cube, "dense_trees")
    assert set(np.unique(mask)) == {1, 255}
    # Meridians lean by 1.3 degrees here: a row's last pixel moves by up to 3 pixels.
    assert (mask == 1).mean() == pytest.approx(cube["osm"].attrs["covered_share"], abs=0.005)
    assert np.isnan(decode(cube)["osm"].values[0, 3][mask == 255]).all()


def test_extracts_side_by_side_make_one_map(tmp_path: Path) -> None:
    things = (
        area({"natural": "wood"}, 100, 100, 1000),
        line({"railway": "rail"}, (0, 0), (1280, 900)),
    )
    for name, west, east in (("w.osm.pbf", -300, 640), ("e.osm.pbf", 600, 1600)):
        half(tmp_path / "parts", name, west, east, *things)
    both = cube_of(osm_catalog(tmp_path, tmp_path / "parts"))
    whole = cube_of(scene(tmp_path / "whole", *things))
    assert both["osm"].attrs["n_tiles"] == 2
    np.testing.assert_array_equal(both["osm"].values, whole["osm"].values)


def test_a_grid_beside_the_extract_has_no_item(tmp_path: Path) -> None:
    catalog = osm_catalog(tmp_path, half(tmp_path, "a.osm.pbf", 5000, 6000))
    with pytest.raises(CatalogError, match="has no item on this grid"):
        cube_of(catalog)


# Through the rest of the package


def test_the_mean_of_a_mask_is_the_fraction_of_a_cell(busy: Catalog) -> None:
    cube = cube_of(busy, 1)
    features = aggregate(cube, stats=["mean"])["features"].compute()
    blocks = cube["osm"].values[0].reshape(18, 4, 32, 4, 32).mean(axis=(2, 4))
    expected = np.moveaxis(blocks, 0, -1).astype(np.float32)
    np.testing.assert_allclose(features.values, expected, rtol=0, atol=1e-6)
    assert features["feature"].values[-1] == "osm_mapped_mean"
    assert 0.2 < float(features[..., -1].mean()) < 1


def test_a_fraction_is_of_the_covered_pixels_alone(tmp_path: Path) -> None:
    wood = area({"natural": "wood"}, -50, -50, 1500)
    catalog = osm_catalog(tmp_path, half(tmp_path, "a.osm.pbf", -300, 700, wood))
    made = aggregate(cube_of(catalog), stats=["mean"]).compute()
    trees = made["features"].sel(feature="osm_dense_trees_mean").values
    share = made["valid_fraction"].values
    assert 0 < share[0, 2] < 1
    np.testing.assert_allclose(trees[share > 0], 1, atol=1e-6)
    assert np.isnan(trees[share == 0]).all()


def test_a_cube_brought_home_has_the_same_bits(busy: Catalog, tmp_path: Path) -> None:
    cube = cube_of(busy, 2)
    write_cube(cube, tmp_path / "cube.zarr")
    stored = open_stored_cube(tmp_path / "cube.zarr")
    xr.testing.assert_equal(stored.compute(), cube.compute())
    assert write_cube(cube_of(busy, 2), tmp_path / "cube.zarr").n_written == 0


def test_two_choices_of_features_are_two_arrays(tmp_path: Path) -> None:
    first = cube_of(scene(tmp_path, area(HOUSE, 0, 0, 50), features=["water"]))["osm"]
    second = cube_of(osm_catalog(tmp_path, tmp_path / "a.osm.pbf", features=["rail"]))["osm"]
    assert first.data.name != second.data.name


def test_dates_of_a_history_are_steps_of_time(tmp_path: Path) -> None:
    city = draw_city(0, km=2.0, seed=7)
    path = write_osm(tmp_path / "city.osh.pbf", city, seed=7)
    catalog = osm_catalog(tmp_path, path, dates=["2014-01-01", "2018-01-01", "latest"])
    cube = open_cube(catalog, city.grid, inputs=["osm"])
    shares = decode(cube)["osm"].mean(("y", "x")).sel(osm_band="mapped").values
    assert shares[0] < shares[1] < shares[2]
    (alone,) = open_cube(catalog, city.grid, inputs=["osm"], year=2018)["osm"].values
    np.testing.assert_array_equal(alone, cube["osm"].values[1])


def test_a_static_map_meets_a_layer_of_any_year(tmp_path: Path) -> None:
    codes = np.ones((1, 128, 128), dtype=np.uint8)
    write_raster(tmp_path / "image.tif", codes, x0=X0, y0=Y0 + SIDE_M)
    write_osm_file(tmp_path / "a.osm.pbf", area(HOUSE, 100, 100, 50))
    osm = 'name = "osm"\nsource = "osm"\nhref = "a.osm.pbf"\nstatic = true'
    catalog = catalog_of(tmp_path, raster_input("image", "image.tif"), osm)
    cube = open_cube(catalog, grid(), inputs=["image", "osm"], year=2024)
    assert cube["osm"].dims == ("osm_band", "y", "x")
    assert int((cube["osm"].sel(osm_band="buildings_lowrise") == 1).sum()) == 25


def test_other_engines_leave_the_drawing_to_us(busy: Catalog) -> None:
    by_odc = cube_of(busy, engine="odc")["osm"]
    assert by_odc.attrs["engine"] == "native"
    np.testing.assert_array_equal(by_odc.values, cube_of(busy)["osm"].values)


def test_a_table_anchors_no_grid(busy: Catalog) -> None:
    with pytest.raises(CatalogError, match="has no pixels of its own"):
        layer_geobox(busy, "osm", bbox=BBOX)


def test_opening_reads_no_table(busy: Catalog, tmp_path: Path) -> None:
    catalog = scene(tmp_path, area(HOUSE, 0, 0, 50))
    (item,) = catalog.items("osm")
    Path(item.assets["features"].href).unlink()
    cube = cube_of(catalog)
    assert len(mosaics_of(cube["osm"].data)) == 1
    with pytest.raises(SourceError, match="cannot be read as a table of features"):
        cube["osm"].values  # noqa: B018


def test_a_city_without_the_table_is_a_declared_hole(tmp_path: Path) -> None:
    codes = np.ones((1, 128, 128), dtype=np.uint8)
    write_raster(tmp_path / "image.tif", codes, x0=X0, y0=Y0 + SIDE_M)
    half(tmp_path, "a.osm.pbf", 50_000, 51_000)
    osm = 'name = "osm"\nsource = "osm"\nhref = "a.osm.pbf"'
    catalog = catalog_of(tmp_path, raster_input("image", "image.tif"), osm)
    cube = open_cube(catalog, grid(), inputs=["image", "osm"], year=2024, missing="indicator")
    assert np.isnan(cube["osm"].values).all()
    assert cube["osm"].attrs["present"] == 0


def test_the_example_of_the_guide_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[1] / "docs" / "guide" / "catalog.md").read_text()
    blocks = [part.split("```")[0] for part in page.split("```python\n")[1:]]
    (example,) = (block for block in blocks if "write_osm" in block)
    promised = [line.split(")  # ")[1] for line in example.splitlines() if ")  # " in line]
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "catalog.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == promised


def test_a_run_maps_with_masks_that_agree_with_the_true_zones(tmp_path: Path) -> None:
    world = write_world(tmp_path / "world", cities=1, km=2.0, seed=7)
    city = draw_city(0, km=2.0, seed=7)
    write_osm(tmp_path / "world" / "town.osh.pbf", city, seed=7)
    text = city_file(world.path).read_text().replace('["alphaearth"]', '["alphaearth", "osm"]')
    osm = 'name = "osm"\nsource = "osm"\nhref = "town.osh.pbf"\nyear = 2021\nsynthetic = true'
    config = tmp_path / "world" / "town.toml"
    config.write_text(f"{text}\n[[input]]\n{osm}\n")
    run = tmp_path / "run"
    assert lczcube("run", config, run, "--dry-run") == 0
    assert lczcube("run", config, run) == 0
    assert lczcube("cube", run, "--write") == 0
    assert lczcube("describe", run) == 0
    features = open_features(run / city.name / "features.zarr")["features"]
    water = features.sel(feature="osm_water_mean").values
    zones = city.zone_map.truth(city.zone_map.window)[::-1]
    rows, columns = water.shape
    is_water = (zones == 17).reshape(rows, 32, columns, 32).mean(axis=(1, 3))
    # Blocks across an edge are not mapped, so water is at most what it truly is.
    assert (water <= is_water + 1e-6).all()
    assert water[is_water == 1].min() > 0.7
    assert water[is_water == 0].max() == 0


# Output of osm-rasterizer

MOVED_M = 0.5


def write_osm_raster(path: Path, codes: Mask, **tags: str) -> Path:
    """As the tool writes it: CRS from WKT, an origin off the lattice, nodata 0.

    The CRS is UTM moved by half a metre, which no EPSG code names.
    """
    moved = f"+proj=tmerc +lon_0=9 +k=0.9996 +x_0={500_000 + MOVED_M} +datum=WGS84 +units=m"
    crs = rasterio.crs.CRS.from_wkt(pyproj.CRS(moved).to_wkt())
    transform = Affine(10, 0, X0 + MOVED_M + 3.4, 0, -10, Y0 + SIDE_M - 2.7)
    profile = {"driver": "GTiff", "dtype": "uint8", "nodata": 0, "compress": "lzw", "tiled": True}
    size = {"count": len(codes), "height": codes.shape[1], "width": codes.shape[2]}
    blocks = {"blockxsize": 256, "blockysize": 256}
    with rasterio.open(
        path, "w", crs=crs, transform=transform, **profile, **size, **blocks
    ) as file:
        file.write(codes)
        file.update_tags(**tags)
        for i, name in enumerate(tags["BAND_NAMES"].split(","), 1):
            file.update_tags(i, name=name)
    return path


def raster_catalog(folder: Path, keys: str = "") -> Catalog:
    text = f'name = "osm"\nsource = "osm_raster"\nhref = "r.tif"\nyear = 2024\n{keys}'
    return catalog_of(folder, text)


@pytest.fixture
def masks(tmp_path: Path) -> Mask:
    rng = np.random.default_rng(1)
    codes: Mask = (rng.random((3, 140, 140)) < 0.3).astype(np.uint8)
    write_osm_raster(tmp_path / "r.tif", codes, BAND_NAMES="buildings,water,roads")
    return codes


def test_masks_of_osm_rasterizer_keep_their_zeros(tmp_path: Path, masks: Mask) -> None:
    catalog = raster_catalog(tmp_path)
    (item,) = catalog.items("osm")
    assert item.properties.get("proj:code") is None
    assert item.properties["proj:wkt2"].startswith("PROJCRS")
    cube = cube_of(catalog)
    assert cube["osm_band"].values.tolist() == ["buildings", "water", "roads"]
    values = cube["osm"].values[0]
    assert set(np.unique(values)) <= {0, 1, 255}
    # The file begins 3.4 m east and 2.7 m south of the grid: the first pixel's centre lies in the
    # file's first, and so on to the last.
    np.testing.assert_array_equal(values, masks[:, :128, :128])
    means = aggregate(cube, stats=["mean"])["features"].values
    np.testing.assert_allclose(means[0, 0], masks[:, :32, :32].mean(axis=(1, 2)), atol=1e-6)


def test_past_a_mask_of_osm_rasterizer_nothing_is_known(tmp_path: Path, masks: Mask) -> None:
    cube = open_cube(raster_catalog(tmp_path), grid(), inputs=["osm"], halo_px=20)
    values = cube["osm"].values[0]
    assert (values[:, 0] == 255).all()
    assert (values[:, 20:-20, 20:-20] != 255).all()


@pytest.fixture
def categories(tmp_path: Path) -> Mask:
    codes: Mask = np.random.default_rng(2).integers(0, 4, (1, 140, 140)).astype(np.uint8)
    names = "buildings,water bodies,roads"
    write_osm_raster(tmp_path / "r.tif", codes, BAND_NAMES="landcover", CATEGORIES=names)
    return codes


def test_categories_keep_their_names_and_numbers(tmp_path: Path, categories: Mask) -> None:
    catalog = raster_catalog(tmp_path)
    (item,) = catalog.items("osm")
    (band,) = item.assets["data"].extra_fields["bands"]
    assert band["nodata"] == 0
    classes = [(c["value"], c["name"]) for c in band["classification:classes"]]
    assert classes == [(0, "nodata"), (1, "buildings"), (2, "water-bodies"), (3, "roads")]
    cube = cube_of(catalog)
    np.testing.assert_array_equal(cube["osm"].values[0], categories[:, :128, :128])
    assert cube["osm"].attrs["flag_values"] == [0, 1, 2, 3]
    assert cube["osm"].attrs["flag_meanings"] == "nodata buildings water-bodies roads"


def test_categories_are_never_averaged(tmp_path: Path, categories: Mask) -> None:
    cube = cube_of(raster_catalog(tmp_path))
    with pytest.raises(CatalogError, match=r"holds categories \(nodata buildings"):
        aggregate(cube)
    columns = {"patch_id": ["a"], "crs": [CRS], "x0": [X0], "y0": [Y0 + 320.0], "size_m": [320.0]}
    patch = gpd.GeoDataFrame(columns, geometry=[shapely.box(X0, Y0, X0 + 320, Y0 + 320)], crs=CRS)
    with pytest.raises(CatalogError, match="a mean of their numbers says nothing"):
        aggregate_patches(cube, patch)


@pytest.mark.parametrize("source", ["raster", "label_raster"])
def test_categories_are_taken_for_nothing_else(
    tmp_path: Path, categories: Mask, source: str
) -> None:
    from lczcube.catalog import build_catalog

    toml = tmp_path / "c.toml"
    text = f'[[input]]\nname = "a"\nsource = "{source}"\nhref = "r.tif"\nyear = 2024\n'
    toml.write_text(f'id = "c"\n{text}')
    with pytest.raises(LczcubeError, match=r'no Local Climate Zones.*source = "osm_raster"'):
        build_catalog(toml, tmp_path / "catalog")


@pytest.mark.parametrize(("count", "names"), [(2, "a"), (2, "a,b,c"), (2, "a,a"), (1, "a,b")])
def test_masks_whose_names_do_not_fit_are_refused(tmp_path: Path, count: int, names: str) -> None:
    codes = np.ones((count, 140, 140), np.uint8)
    path = tmp_path / "r.tif"
    profile = {"driver": "GTiff", "dtype": "uint8", "nodata": 0, "crs": CRS}
    transform = Affine(10, 0, X0, 0, -10, Y0)
    with rasterio.open(
        path, "w", count=count, height=140, width=140, transform=transform, **profile
    ) as file:
        file.write(codes)
        file.update_tags(BAND_NAMES=names)
    with pytest.raises(LczcubeError, match="osm-rasterizer names each once"):
        raster_catalog(tmp_path)


# Real files


def _real_cube(
    realdata: Path, folder: Path, name: str, bbox: Sequence[float], **keys: Any
) -> xr.Dataset:
    catalog = osm_catalog(folder, realdata / "osm" / name, **keys)
    west, south, east, north = bbox
    return open_cube(catalog, Grid.from_bbox((west, south, east, north)), inputs=["osm"])


REAL = {
    "Helsinki.osm.pbf": ((24.9351762, 60.164155, 24.9534145, 60.179113), {}),
    "liechtenstein-2013-08-03.osm.pbf": ((9.50, 47.13, 9.56, 47.20), {}),
    "redon.osm": ((-2.0937, 47.6463, -2.0798, 47.6529), {"dates": ["2019-01-01"]}),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", REAL)
def test_the_share_of_buildings_is_that_of_gdals_own_reader(
    realdata: Path, tmp_path: Path, name: str
) -> None:
    """Within 1.5 per cent: pixels of 10 m sample an area of some hectares.

    GDAL closes rings that lack nodes at the edge of an extract, which are no buildings here.
    """
    import pyogrio

    bbox, keys = REAL[name]
    osm = _real_cube(realdata, tmp_path, name, bbox, **keys)["osm"].compute()
    bands = osm.sel(osm_band=list(BUILDINGS)).isel(time=0).values
    covered = bands[0] != 255
    drawn_m2 = 100.0 * int(((bands == 1).any(axis=0) & covered).sum())
    path = realdata / "osm" / name
    frame = pyogrio.read_dataframe(path, layer="multipolygons", on_invalid="ignore")
    kinds = frame["building"].fillna("no")
    is_building = ~kinds.isin(["no", "roof", "entrance"]) & frame.is_valid
    is_building &= ~frame["osm_way_id"].isin(_ways_without_nodes(path))
    buildings = frame[is_building].to_crs(osm.odc.crs.to_wkt())
    rows, columns = np.nonzero(covered)
    y, x = osm["y"].values, osm["x"].values
    seen = shapely.box(
        x[columns.min()] - 5, y[rows.max()] - 5, x[columns.max()] + 5, y[rows.min()] + 5
    )
    expected = float(shapely.intersection(buildings.geometry.union_all(), seen).area)
    assert expected > 50_000
    assert drawn_m2 == pytest.approx(expected, rel=0.015)


def _ways_without_nodes(path: Path) -> set[str]:
    nodes = {obj.id for obj in osmium.FileProcessor(path, osmium.osm.NODE)}
    ways: Any = osmium.FileProcessor(path, osmium.osm.WAY)
    return {str(way.id) for way in ways if any(node.ref not in nodes for node in way.nodes)}


def test_andorra_la_vella_grows(realdata: Path, tmp_path: Path) -> None:
    dates = ["2010-01-01", "2014-01-01", "2017-01-01"]
    bbox = (1.50, 42.49, 1.56, 42.53)
    cube = _real_cube(realdata, tmp_path, "andorra.osh.pbf", bbox, dates=dates)
    shares = decode(cube)["osm"].sel(osm_band=list(BUILDINGS)).sum("osm_band").mean(("y", "x"))
    first, second, third = shares.values
    assert first == 0
    assert 0.001 < second < third < 0.1
