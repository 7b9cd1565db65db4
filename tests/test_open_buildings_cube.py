"""Open Buildings on the grid: heights, shares, counts against arithmetic on the stored pixels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import xarray as xr
from affine import Affine
from pyproj import Transformer
from rasterio.merge import merge
from scipy import ndimage

from lczcube.catalog import Catalog, build_catalog, open_catalog
from lczcube.cube import decode, open_cube
from lczcube.errors import CatalogError
from lczcube.grid import Grid
from lczcube.quantities import BUILDING_BANDS
from lczcube.synth import City, draw_city, write_open_buildings
from lczcube.synth.open_buildings import bands_of, buildings
from lczcube.synth.zones import Window
from tests.scenes import catalog_of, raster_input, write_raster

SEED, YEAR = 3, 2021
NODATA = -99
Bands = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def city() -> City:
    return draw_city(0, km=1.5, seed=SEED)


@pytest.fixture(scope="module")
def archive(city: City, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("archive")
    write_open_buildings(out, [city], seed=SEED, year=YEAR, tile_px=2_496, block_px=256)
    return out


def tiles_of(archive: Path) -> list[Path]:
    return sorted(archive.glob("v1/geotiffs/*/*.tif"))


@pytest.fixture(scope="module")
def stored(archive: Path, city: City) -> Bands:
    """All stored pixels of the city's grid, by rasterio's own mosaic; NaN for no data."""
    bands, transform = merge(tiles_of(archive), bounds=city.grid.bbox)
    assert transform == Affine(0.5, 0, city.grid.bbox[0], 0, -0.5, city.grid.bbox[3])
    return np.where(bands == NODATA, np.nan, bands)


def catalog(folder: Path, keys: str, *, city: City | None = None) -> Catalog:
    """Of one input, ``building``."""
    folder.mkdir(exist_ok=True)
    toml = folder / "town.toml"
    bbox = "" if city is None else f"[city.{city.name}]\nbbox = {list(city.bbox)}\n"
    toml.write_text(
        f'id = "town"\n{bbox}[[input]]\nname = "building"\nsource = "open_buildings"\n{keys}\n'
    )
    report = build_catalog(toml, folder / "catalog")
    assert not report.failures
    return open_catalog(report.path)


def values_of(found: Catalog, grid: Grid, year: int | None = YEAR) -> xr.Dataset:
    return decode(open_cube(found, grid, inputs=["building"], year=year)).compute()


def by_pixel(bands: Bands, n: int = 20) -> npt.NDArray[np.float64]:
    """Stored pixels below each pixel: ``(band, y, x, stored)``."""
    n_bands, rows, columns = bands.shape
    cut = bands.astype(np.float64).reshape(n_bands, rows // n, n, columns // n, n)
    return cut.transpose(0, 1, 3, 2, 4).reshape(n_bands, rows // n, columns // n, n * n)


def expected(bands: Bands, n: int = 20, threshold: float = 0.34) -> dict[str, Any]:
    """Height, share and count of pixels that hold ``n`` times ``n`` whole stored pixels."""
    count, height, presence = by_pixel(bands, n)
    valid = np.isfinite(count)
    count, height, presence = (np.where(valid, v, 0) for v in (count, height, presence))
    with np.errstate(invalid="ignore"):
        mean = (height * presence).sum(axis=2) / presence.sum(axis=2)
        share = ((presence >= np.float32(threshold)) & valid).sum(axis=2) / valid.sum(axis=2)
    total = np.where(valid.any(axis=2), count.sum(axis=2), np.nan)
    return {"building_height": mean, "building_fraction": share, "building_count": total}


def assert_equal(cube: xr.Dataset, wanted: dict[str, Any], rtol: float = 2e-6) -> None:
    assert sorted(cube.data_vars) == sorted(wanted)
    for name, values in wanted.items():
        np.testing.assert_allclose(cube[name].values[0], values, rtol=rtol, err_msg=name)


# Tiles


def test_a_city_from_manifests_has_the_quantities_of_its_stored_pixels(
    archive: Path, city: City, stored: Bands, tmp_path: Path
) -> None:
    """The tiles' origin is 4 m and 2 m off the 10 m of the grid, and they cut its pixels."""
    keys = f'manifest = "{archive}/v1/manifests"\nhref = "{archive}/v1/geotiffs"'
    cube = values_of(catalog(tmp_path, keys, city=city), city.grid)
    assert cube["building_count"].dims == ("time", "y", "x")
    assert cube["time"].values == np.array(["2021-01-01"], dtype="datetime64[ns]")
    wanted = expected(stored)
    assert np.isnan(wanted["building_count"]).any()  # where the world was not seen
    assert (wanted["building_count"] == 0).any()
    assert_equal(cube, wanted)
    assert cube["building_count"].attrs["ai_derived"] == 1


def test_counts_add_up_to_the_number_of_buildings(
    archive: Path, city: City, tmp_path: Path
) -> None:
    """Of a grid that holds all tiles; buildings that nodata or the edge cut count in part."""
    x0, y0, x1, y1 = city.grid.cells
    whole = Grid(city.grid.crs, (x0 - 8, y0 - 8, x1 + 8, y1 + 8))
    cube = values_of(catalog(tmp_path, f'href = "{archive}"'), whole)
    total = float(cube["building_count"].sum(dtype=np.float64))
    in_files = 0.0
    for path in tiles_of(archive):
        with rasterio.open(path) as tile:
            count = tile.read(1).astype(np.float64)
            in_files += float(count[count != NODATA].sum())
    assert total == pytest.approx(in_files, rel=1e-6)
    window = city.zone_map.window.grown(48)
    fine = Window(*(20 * v for v in (window.x0, window.y0, window.x1, window.y1)))
    seen = bands_of(city, fine, seed=SEED)[0] != NODATA
    counted = 0.0
    for b in buildings(city, fine, seed=SEED):
        rows = slice(max(b.y0 - fine.y0, 0), max(b.y1 - fine.y0, 0))
        columns = slice(max(b.x0 - fine.x0, 0), max(b.x1 - fine.x0, 0))
        counted += seen[rows, columns].sum() / b.area_px
    assert counted > 1_000
    assert total == pytest.approx(counted, rel=1e-5)


def test_a_threshold_of_presence_reaches_the_share(
    archive: Path, city: City, stored: Bands, tmp_path: Path
) -> None:
    cube = values_of(catalog(tmp_path, f'href = "{archive}"\npresence_threshold = 0.8'), city.grid)
    wanted = expected(stored, threshold=0.8)
    assert_equal(cube, wanted)
    assert cube["building_fraction"].attrs["presence_threshold"] == 0.8
    assert np.nanmean(wanted["building_fraction"]) < 0.9 * np.nanmean(
        expected(stored)["building_fraction"]
    )


def write_tile(folder: Path, bands: Bands, x0: float, y0: float, **keys: Any) -> Path:
    return write_raster(folder, bands, x0=x0, y0=y0, nodata=NODATA, names=BUILDING_BANDS, **keys)


def test_a_year_is_a_date_of_its_own(tmp_path: Path) -> None:
    x0, y0 = 691_204.0, 5_335_004.0
    for year in (2019, 2021):
        bands = np.full((3, 2_000, 2_000), (year - 2018) / 1_000, np.float32)
        path = tmp_path / f"3be7c_{year}_06_30" / "tile_a.tif"
        write_tile(path, bands, x0, y0, pixel_m=0.5)
    grid = Grid("EPSG:32632", (2_161, 16_670, 2_162, 16_671))
    cube = values_of(catalog(tmp_path, f'href = "{tmp_path}"'), grid, year=None)
    assert cube.sizes["time"] == 2
    np.testing.assert_allclose(cube["building_count"].isel(time=0), 0.4, rtol=1e-6)
    np.testing.assert_allclose(cube["building_count"].isel(time=1), 1.2, rtol=1e-6)


def test_zones_that_overlap_are_counted_once(tmp_path: Path) -> None:
    """Tiles of both zones cover the grid, with a building or two a square metre.

    12 E is the edge. To the west the tile of zone 32 says 1, to the east that of zone 33 says 2.
    """
    lat = 48.5
    places = {}
    for crs in ("EPSG:32632", "EPSG:32633"):
        x, y = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(12.0, lat)
        places[crs] = round(2 * x) / 2, round(2 * y) / 2
    for (crs, (x, y)), value in zip(places.items(), (1, 2), strict=True):
        bands = np.full((3, 1_600, 1_600), value, np.float32)
        bands[0] *= 0.25
        path = tmp_path / "3be7c_2021_06_30" / f"tile_{value}.tif"
        write_tile(path, bands, x - 400, y + 400, pixel_m=0.5, crs=crs)
    x, y = places["EPSG:32632"]
    cell_x, cell_y = int(x // 320), int(y // 320)
    grid = Grid("EPSG:32632", (cell_x, cell_y, cell_x + 1, cell_y + 1))
    cube = values_of(catalog(tmp_path, f'href = "{tmp_path}"'), grid)
    minx, _, maxx, _ = grid.bbox
    assert x - 390 < minx < x < maxx < x + 390
    count = cube["building_count"].values[0].astype(np.float64)
    assert np.isfinite(count).all()
    px_x, px_y = np.meshgrid(cube["x"].values, cube["y"].values)
    lon, _ = Transformer.from_crs("EPSG:32632", "EPSG:4326", always_xy=True).transform(px_x, px_y)
    width_m = 111_320 * np.cos(np.radians(lat))
    # Scale of the two zones, equal at the edge between them: a square metre is one in both.
    np.testing.assert_allclose(count[(lon - 12) * width_m < -8], 100, rtol=2e-4)
    np.testing.assert_allclose(count[(lon - 12) * width_m > 8], 200, rtol=2e-4)
    share_west = (np.clip(0.5 - (lon - 12) * width_m / 10, 0, 1)).mean()
    assert count.mean() == pytest.approx(100 * share_west + 200 * (1 - share_west), rel=2e-3)


# Exports


def write_export(
    path: Path, bands: Bands, grid: Grid, names: Sequence[str] = BUILDING_BANDS
) -> None:
    """Means of 10 m, as Earth Engine's reduceResolution makes them, with NaN for no data."""
    x0, _, _, y1 = grid.bbox
    order = [BUILDING_BANDS.index(name) for name in names]
    write_raster(path, bands[order].astype(np.float32), x0=x0, y0=y1, names=names)


def means(stored: Bands) -> npt.NDArray[np.float64]:
    pixels = by_pixel(stored)
    return np.where(np.isfinite(pixels).all(axis=3), pixels.mean(axis=3), np.nan)


def test_an_export_has_the_counts_of_the_tiles_it_was_made_of(
    city: City, stored: Bands, tmp_path: Path
) -> None:
    coarse = means(stored)
    write_export(tmp_path / "ob.tif", coarse, city.grid, BUILDING_BANDS[::-1])
    cube = values_of(catalog(tmp_path, f'href = "ob.tif"\nyear = {YEAR}'), city.grid)
    wanted = np.where(np.isfinite(coarse[0]), expected(stored)["building_count"], np.nan)
    np.testing.assert_allclose(cube["building_count"].values[0], wanted, rtol=2e-6)
    assert np.nansum(wanted) > 500
    # Thresholds and weights act on the means: all that an export can tell.
    share = np.where(np.isfinite(coarse[2]), coarse[2] >= np.float32(0.34), np.nan)
    np.testing.assert_array_equal(cube["building_fraction"].values[0], share)
    height = np.where(coarse[2] > 0, coarse[1], np.nan)
    np.testing.assert_allclose(cube["building_height"].values[0], height, rtol=2e-6)


def test_an_export_of_another_pixel_keeps_the_total(city: City, tmp_path: Path) -> None:
    """4 m on a grid of 10 m: the scale is 64."""
    rng = np.random.default_rng(0)
    bands = rng.uniform(0.001, 0.02, (3, 80, 80)).astype(np.float32)
    minx, _, _, maxy = city.grid.bbox
    path = write_tile(tmp_path / "ob.tif", bands, minx + 1, maxy - 3, pixel_m=4)
    cube = values_of(catalog(tmp_path, f'href = "{path}"\nyear = {YEAR}'), city.grid)
    total = float(cube["building_count"].sum(dtype=np.float64))
    assert total == pytest.approx(64 * bands[0].sum(dtype=np.float64), rel=1e-6)
    summed = catalog(tmp_path / "summed", f'href = "{path}"\nyear = {YEAR}\ncount = "sum"')
    total = float(values_of(summed, city.grid)["building_count"].sum(dtype=np.float64))
    assert total == pytest.approx(bands[0].sum(dtype=np.float64), rel=1e-6)


def test_tiles_and_exports_do_not_mix(
    archive: Path, city: City, stored: Bands, tmp_path: Path
) -> None:
    write_export(tmp_path / "ob.tif", means(stored), city.grid)
    found = catalog(tmp_path, f'href = ["{archive}", "ob.tif"]\nyear = {YEAR}')
    with pytest.raises(CatalogError, match="differ in band names, dtype, nodata or scale"):
        open_cube(found, city.grid, inputs=["building"], year=YEAR)


# Scales of other layers of heights


def scaled(path: Path, scales: Sequence[float], offsets: Sequence[float] = (0, 0, 0)) -> None:
    with rasterio.open(path, "r+") as raster:
        raster.scales, raster.offsets = scales[: raster.count], offsets[: raster.count]


def test_a_canopy_in_decimetres_is_that_in_metres(city: City, tmp_path: Path) -> None:
    """1.1 m is a threshold of 11, which 1.1 / 0.1 is not."""
    minx, _, _, maxy = city.grid.bbox
    metres = np.random.default_rng(0).integers(0, 300, (1, 160, 160)) / 10
    for name, values in (("m", metres.astype(np.float32)), ("dm", np.rint(metres * 10))):
        path = tmp_path / f"{name}.tif"
        write_raster(path, values.astype("float32" if name == "m" else "uint16"),
                     x0=minx, y0=maxy, pixel_m=2)  # fmt: skip
    scaled(tmp_path / "dm.tif", [0.1])
    keys = {"layer": "canopy"}
    found = catalog_of(
        tmp_path, raster_input("m", "m.tif", **keys), raster_input("dm", "dm.tif", **keys)
    )
    cube = decode(open_cube(found, city.grid, inputs=["m", "dm"], year=2024)).compute()
    for quantity in ("height", "fraction"):
        one, other = cube[f"m_{quantity}"].values, cube[f"dm_{quantity}"].values
        assert np.isfinite(one).any()
        np.testing.assert_allclose(other, one, rtol=2e-6)


def test_a_threshold_survives_its_scale(city: City) -> None:
    from lczcube.quantities import Quantity, on_stored

    share = Quantity("fraction_at_least", threshold=1.1)
    assert on_stored(share, [0.1], [0], layer="x").threshold == 11
    height = on_stored(Quantity("mean_where_at_least", threshold=2), [0.5], [-10], layer="x")
    assert (height.threshold, height.scale, height.offset) == (24, 0.5, -10)


@pytest.mark.parametrize(
    ("scales", "offsets"),
    [((1, 1, 1), (1, 0, 0)), ((1, 1, 1), (0, 0, 0.5)), ((1, 1, -1), (0, 0, 0))],
)
def test_counts_and_weights_with_an_offset_are_refused(
    city: City, tmp_path: Path, scales: Sequence[float], offsets: Sequence[float]
) -> None:
    minx, _, _, maxy = city.grid.bbox
    path = write_tile(tmp_path / "ob.tif", np.ones((3, 64, 64), np.float32), minx, maxy)
    scaled(path, scales, offsets)
    found = catalog_of(tmp_path, raster_input("building", "ob.tif", layer="buildings"))
    with pytest.raises(CatalogError, match=r"'building' has bands of scales .* Store values"):
        open_cube(found, city.grid, inputs=["building"], year=2024)


# Synthetic files


def test_gdal_reads_synthetic_tiles_as_the_publishers(archive: Path, city: City) -> None:
    from rio_cogeo import cog_validate

    origins = []
    for path in tiles_of(archive):
        is_valid, errors, _ = cog_validate(str(path))
        assert is_valid, errors
        with rasterio.open(path) as tile:
            assert tile.dtypes == ("float32",) * 3
            assert tile.nodatavals == (NODATA,) * 3
            assert set(tile.block_shapes) == {(256, 256)}
            assert tile.tags(ns="IMAGE_STRUCTURE")["PREDICTOR"] == "3"
            assert tile.transform.a == 0.5
            assert tile.crs == city.grid.crs
            origins.append((tile.transform.c, tile.transform.f))
            assert tile.tags()["SYNTHETIC"] == "true"
            assert not any(tile.descriptions)
    assert len(origins) == 9
    assert all((2 * x).is_integer() and (2 * y).is_integer() for x, y in origins)
    x, y = min(x for x, _ in origins), max(y for _, y in origins)
    assert (x % 10, y % 10) == (4, 2)


def test_overviews_are_averages(archive: Path) -> None:
    path = tiles_of(archive)[0]
    with rasterio.open(path) as tile, rasterio.open(path, overview_level=0) as half:
        fine = np.where(tile.read() == NODATA, np.nan, tile.read())
        coarse = half.read()
    pairs = by_pixel(fine, 2)
    whole = np.isfinite(pairs).all(axis=3)
    assert whole.any()
    np.testing.assert_allclose(coarse[whole], pairs.mean(axis=3)[whole], rtol=1e-5, atol=1e-7)


def test_buildings_follow_the_true_zone(city: City) -> None:
    """High where zones 1, 2, 4, 5 are; many small ones in 3; hardly any in nature."""
    window = city.zone_map.window
    classes = city.zone_map.classes(window)[::-1]
    fine = Window(*(20 * v for v in (window.x0, window.y0, window.x1, window.y1)))
    bands = bands_of(city, fine, seed=SEED)[:, ::-1]
    found = expected(np.where(bands == NODATA, np.nan, bands))
    core = ndimage.minimum_filter(classes, 15) == ndimage.maximum_filter(classes, 15)

    def mean(name: str, code: int) -> float:
        return float(np.nanmean(found[f"building_{name}"][core & (classes == code)]))

    assert mean("height", 2) > 10
    assert mean("height", 2) < 25
    assert mean("height", 3) < 10
    assert mean("fraction", 2) > 0.4
    assert mean("fraction", 11) < 0.02
    assert mean("count", 3) > 3 * mean("count", 2)


def middle(city: City) -> Window:
    """700 by 500 pixels that hold buildings, and some that were not seen."""
    west, south = (20 * v for v in (city.zone_map.window.x0, city.zone_map.window.y0))
    x0, y0 = west + 1_000, south + 2_600
    return Window(x0, y0, x0 + 700, y0 + 500)


def test_any_window_is_a_cut_of_the_whole(city: City) -> None:
    whole = middle(city)
    part = Window(whole.x0 + 123, whole.y0 + 77, whole.x0 + 600, whole.y0 + 431)
    np.testing.assert_array_equal(
        bands_of(city, part, seed=SEED), bands_of(city, whole, seed=SEED)[:, 77:431, 123:600]
    )
    count = bands_of(city, part, seed=SEED)[0]
    assert (count > 0).any()
    assert (count == NODATA).any()


def test_the_same_seed_gives_the_same_bytes(archive: Path, city: City, tmp_path: Path) -> None:
    write_open_buildings(tmp_path, [city], seed=SEED, year=YEAR, tile_px=2_496, block_px=256)
    ours = {p.relative_to(archive): p.read_bytes() for p in archive.rglob("*") if p.is_file()}
    again = {p.relative_to(tmp_path): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert again == ours
    assert len(ours) == 10


# Real heights


def bilbao(realdata: Path) -> tuple[Path, npt.NDArray[np.int16], Affine]:
    path = realdata / "heights" / "BDSM.tif"
    with rasterio.open(path) as raster:
        return path, raster.read(1), raster.transform


def overlaps(n: int, size: float, start: float, edges: npt.NDArray[np.float64]) -> Any:
    """Length that each of ``n`` stored pixels shares with each pixel between edges, ascending."""
    low = start + size * np.arange(n)
    shared = np.minimum(low[None] + size, edges[1:, None]) - np.maximum(low[None], edges[:-1, None])
    return np.clip(shared, 0, None)


def weights(grid: Grid, affine: Affine, shape: tuple[int, int]) -> tuple[Any, Any]:
    """Shared lengths along y and x; rows of the grid from north to south."""
    minx, _, maxx, maxy = grid.bbox
    rows, columns = grid.shape
    along_x = overlaps(shape[1], affine.a, affine.c, np.linspace(minx, maxx, columns + 1))
    down = overlaps(shape[0], -affine.e, -affine.f, -maxy + 10.0 * np.arange(rows + 1))
    return down, along_x


GRID = Grid("EPSG:25830", (1_561, 14_982, 1_565, 14_986))


def test_bilbao_as_a_raster_keeps_its_heights_on_pixels_that_are_not_square(
    realdata: Path, tmp_path: Path
) -> None:
    """2.502 x 2.5024 m, no nodata: 0 m is a height."""
    path, heights, affine = bilbao(realdata)
    sizes = abs(affine.a), abs(affine.e)
    assert sizes[0] != sizes[1]
    floats = tmp_path / "bdsm.tif"
    with rasterio.open(path) as raster:
        profile = raster.profile | {"dtype": "float32"}
    with rasterio.open(floats, "w", **profile) as raster:
        raster.write(heights.astype(np.float32), 1)
    found = catalog_of(tmp_path, raster_input("bdsm", "bdsm.tif", resampling="average"))
    cube = decode(open_cube(found, GRID, inputs=["bdsm"], year=2024)).compute()
    down, along = weights(GRID, affine, heights.shape)
    wanted = down @ heights.astype(np.float64) @ along.T / (down.sum(1)[:, None] * along.sum(1))
    np.testing.assert_allclose(cube["bdsm"].values[0, 0], wanted, rtol=3e-6, atol=1e-6)
    assert (wanted == 0).any()
    item = found.items("bdsm")[0]
    assert item.assets["data"].extra_fields["raster:spatial_resolution"] == 2.50223


def test_bilbao_is_no_open_buildings(realdata: Path, tmp_path: Path) -> None:
    path, _, _ = bilbao(realdata)
    (tmp_path / "town.toml").write_text(
        'id = "town"\n[[input]]\nname = "ob"\nsource = "open_buildings"\nyear = 2024\n'
        f'href = "{path}"\n[[input]]\nname = "bdsm"\nsource = "raster"\nyear = 2024\n'
        f'href = "{path}"\n'
    )
    report = build_catalog(tmp_path / "town.toml", tmp_path / "catalog")
    (failure,) = report.failures
    assert failure.path == path.as_posix()
    assert "is in EPSG:25830; counts per pixel need a UTM zone of WGS 84" in failure.reason
    assert report.n_items == 1


def test_bilbao_as_an_export_has_its_buildings_counted(realdata: Path, tmp_path: Path) -> None:
    """Its heights, with a building for every patch of them: what an export of 2.5 m would hold."""
    _, heights, affine = bilbao(realdata)
    names, n_buildings = ndimage.label(heights > 0)
    size = np.bincount(names.ravel())
    per_px = np.where(names > 0, 1 / size[names], 0)
    n_merged = abs(affine.a * affine.e) / 0.25
    bands = np.stack([per_px / n_merged, heights, heights > 0]).astype(np.float32)
    path = tmp_path / "ob.tif"
    with rasterio.open(
        path, "w", driver="GTiff", count=3, dtype="float32", crs="EPSG:32630",
        height=heights.shape[0], width=heights.shape[1], transform=affine,
    ) as raster:  # fmt: skip
        raster.write(bands)
        raster.descriptions = BUILDING_BANDS
    found = catalog(tmp_path, f'href = "ob.tif"\nyear = {YEAR}')
    whole = Grid("EPSG:32630", (1_560, 14_980, 1_572, 14_992))
    cube = values_of(found, whole)
    total = float(cube["building_count"].sum(dtype=np.float64))
    assert n_buildings > 500
    assert total == pytest.approx(n_buildings, rel=1e-5)
    inner = Grid("EPSG:32630", GRID.cells)
    down, along = weights(inner, affine, heights.shape)
    built = down @ (heights > 0).astype(np.float64) @ along.T
    volume = down @ heights.astype(np.float64) @ along.T
    cube = values_of(found, inner)
    share = built / (down.sum(1)[:, None] * along.sum(1))
    np.testing.assert_allclose(cube["building_fraction"].values[0], share, rtol=1e-5, atol=1e-6)
    with np.errstate(invalid="ignore"):
        height = np.where(built > 1e-3, volume / built, np.nan)
    some = np.isfinite(height)
    np.testing.assert_allclose(cube["building_height"].values[0][some], height[some], rtol=1e-5)
