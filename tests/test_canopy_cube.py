"""Canopy heights in the cube: which pixels count, by sums made one by one, and what is read."""

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import shapely
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.shutil import copy as copy_raster
from rasterio.windows import Window

from lczcube.catalog import Catalog, build_catalog, open_catalog
from lczcube.cube import decode, open_cube
from lczcube.errors import CatalogError, ConfigError, SourceError
from lczcube.grid import Grid, bbox_of, project_bbox
from lczcube.quantities import Quantity
from lczcube.sources.quadkeys import QuadTile
from lczcube.synth import City, draw_city
from lczcube.synth.canopy import write_canopy
from lczcube.tiles import Tile
from lczcube.windows import aggregate
from tests.scenes import catalog_of, raster_input
from tests.test_canopy import V1, V2, write_footprints, write_mask
from tests.test_cube import X0, Y0

TOO_LITTLE = 1e-6
"""Share of a pixel below which the sums of the test are only rounding."""

Pixels = npt.NDArray[Any]
Valid = Callable[[Pixels, Pixels], Pixels]
"""Which of some stored pixels, by rows and columns, hold data."""


@pytest.fixture(scope="module")
def city() -> City:
    return draw_city(0, km=2, seed=7)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, city: City) -> Path:
    """``v1``, 3.2 m on the ground, and ``v2``, 1.6 m; with dense and with scattered trees."""
    folder = tmp_path_factory.mktemp("archive")
    for version in (1, 2):
        write_canopy(folder / f"v{version}", [city], seed=7, version=version, side_px=16384)
    return folder


def canopy_input(href: Path | str, **keys: Any) -> str:
    lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    return "\n".join(['name = "canopy"', 'source = "canopy"', f'href = "{href}"', *lines])


def opened(catalog: Catalog, grid: Grid) -> xr.Dataset:
    return decode(open_cube(catalog, grid, inputs=["canopy"])).compute(scheduler="sync")


def small_grid(city: City, chunk_cells: int = 5) -> Grid:
    return Grid(city.grid.crs, city.grid.cells, chunk_cells=chunk_cells)


def pieces_of(path: Path, corners: Sequence[tuple[float, float]], crs: str) -> tuple[Pixels, ...]:
    """Rows, columns and areas of the stored pixels that a quadrilateral shares ground with."""
    with rasterio.open(path) as file:
        transform, tile_crs, shape = file.transform, file.crs.to_string(), file.shape
    to_tile = Transformer.from_crs(crs, tile_crs, always_xy=True)
    outline = shapely.Polygon([~transform * to_tile.transform(*corner) for corner in corners])
    left, top, right, bottom = outline.bounds
    rows, columns = np.meshgrid(
        np.arange(max(int(top), 0), min(int(bottom) + 1, shape[0])),
        np.arange(max(int(left), 0), min(int(right) + 1, shape[1])),
        indexing="ij",
    )
    boxes = shapely.box(columns, rows, columns + 1, rows + 1)
    return rows.ravel(), columns.ravel(), shapely.area(shapely.intersection(boxes, outline)).ravel()


def by_hand(
    grid: Grid, row: int, column: int, path: Path, *, valid: Valid | None = None
) -> tuple[float, float]:
    """Height over the canopy and its share in one pixel of a grid, from stored pixels."""
    box = grid.geobox.affine
    corners = [box * (column + dx, row + dy) for dx, dy in ((0, 0), (1, 0), (1, 1), (0, 1))]
    rows, columns, areas = pieces_of(path, corners, grid.crs)
    window = Window(columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1)
    with rasterio.open(path) as file:
        heights = file.read(1, window=window).ravel().astype(float)
    areas = np.where(heights == 255, 0, areas)
    if valid is not None:
        areas = np.where(valid(rows, columns), areas, 0)
    if areas.sum() < TOO_LITTLE:
        return np.nan, np.nan
    tall = np.where(heights >= 2, areas, 0)
    height = (tall * heights).sum() / tall.sum() if tall.sum() > TOO_LITTLE else np.nan
    return height, tall.sum() / areas.sum()


def some_pixels(cube: xr.Dataset, n: int) -> list[tuple[int, int]]:
    rng = np.random.default_rng(0)
    rows, columns = cube["canopy_fraction"].shape
    return [(int(rng.integers(rows)), int(rng.integers(columns))) for _ in range(n)]


def assert_by_hand(
    cube: xr.Dataset, grid: Grid, path: Path, *, valid: Valid | None, n: int = 40
) -> None:
    expected = [by_hand(grid, *at, path, valid=valid) for at in some_pixels(cube, n)]
    for name, values in zip(
        ("canopy_height", "canopy_fraction"), np.transpose(expected), strict=True
    ):
        found = [float(cube[name].values[at]) for at in some_pixels(cube, n)]
        np.testing.assert_allclose(found, values, rtol=1e-5, atol=1e-6)


def only_tile(folder: Path) -> Path:
    (path,) = sorted((folder / "chm").glob("*.tif"))
    return path


def by_mask(archive: Path, code: int) -> Valid:
    """Where the mask of version 1 holds a code."""
    (path,) = (archive / "v1" / "msk").iterdir()
    with rasterio.open(path) as file:
        codes = file.read(1)
    return lambda rows, columns: codes[rows, columns] == code


# The mask of version 1


def test_heights_and_shares_are_those_of_the_unmasked_pixels(
    archive: Path, city: City, tmp_path: Path
) -> None:
    grid, valid = small_grid(city), by_mask(archive, 255)
    cube = opened(catalog_of(tmp_path, canopy_input(archive / "v1")), grid)
    assert_by_hand(cube, grid, only_tile(archive / "v1"), valid=valid)
    fraction = cube["canopy_fraction"].values
    assert 0.1 < np.isnan(fraction).mean() < 0.4, "the south-east was not imaged"
    assert np.isnan(fraction[-1, -1])
    assert (fraction[0, 0:20] == 0).any() or (fraction == 0).any()
    assert cube["canopy_height"].attrs["product"] == "meta-chm/1"


def test_the_other_polarity_turns_data_and_gap_round(
    archive: Path, city: City, tmp_path: Path
) -> None:
    grid, valid = small_grid(city), by_mask(archive, 0)
    catalog = catalog_of(tmp_path, canopy_input(archive / "v1", mask="zero_is_valid"))
    cube = opened(catalog, grid)
    assert_by_hand(cube, grid, only_tile(archive / "v1"), valid=valid)
    assert cube["canopy_fraction"].values[-1, -1] == 0
    assert np.isnan(cube["canopy_fraction"].values[0, 0])


def test_without_its_mask_a_gap_would_read_as_bare_ground(
    archive: Path, city: City, tmp_path: Path
) -> None:
    grid = small_grid(city)
    cube = opened(catalog_of(tmp_path, canopy_input(archive / "v1", mask="ignore")), grid)
    assert_by_hand(cube, grid, only_tile(archive / "v1"), valid=None)
    assert cube["canopy_fraction"].values[-1, -1] == 0


def test_any_chunking_gives_the_same_bits(archive: Path, city: City, tmp_path: Path) -> None:
    for version in ("v1", "v2"):
        catalog = catalog_of(tmp_path, canopy_input(archive / version))
        whole, cut = (opened(catalog, small_grid(city, cells)) for cells in (20, 1))
        for name in ("canopy_height", "canopy_fraction"):
            np.testing.assert_array_equal(whole[name].values, cut[name].values)


def test_a_mask_that_is_gone_is_named(archive: Path, city: City, tmp_path: Path) -> None:
    path = tmp_path / "v1" / "chm" / only_tile(archive / "v1").name
    path.parent.mkdir(parents=True)
    path.hardlink_to(only_tile(archive / "v1"))
    mask = write_mask(path)
    catalog = catalog_of(tmp_path, canopy_input("v1"))
    mask.unlink()
    with pytest.raises(SourceError, match=r"120221112\.tif\.msk cannot be opened"):
        opened(catalog, small_grid(city))


# The footprints of version 2


def test_what_no_footprint_holds_is_nan_and_not_0(
    archive: Path, city: City, tmp_path: Path
) -> None:
    path, grid = only_tile(archive / "v2"), small_grid(city)
    catalog = catalog_of(tmp_path, canopy_input(archive / "v2"))
    cube = opened(catalog, grid)
    assert_by_hand(cube, grid, path, valid=by_footprints(path))
    fraction = cube["canopy_fraction"].values
    assert np.isnan(fraction[-1, -1])
    assert (fraction == 0).sum() > 100, "bare ground that was imaged is 0"
    bare = open_cube(catalog, grid, inputs=["canopy"])
    cells = aggregate(bare, stats=("mean",)).compute(scheduler="sync")
    of_fraction = cells["features"].values[..., 1]
    assert np.isnan(of_fraction[-1, -1])
    assert np.nanmax(of_fraction) > 0


def by_footprints(path: Path) -> Valid:
    """Where the centre of a stored pixel, in degrees, lies in a footprint."""
    metadata = path.parents[1] / "metadata" / f"{path.stem}.geojson"
    rows = json.loads(metadata.read_text())["features"]
    outlines = shapely.union_all([shapely.geometry.shape(row["geometry"]) for row in rows])
    with rasterio.open(path) as file:
        transform = file.transform
    to_lonlat = Transformer.from_crs("EPSG:3857", "EPSG:4326", always_xy=True)

    def valid(rows: Pixels, columns: Pixels) -> Pixels:
        centres = to_lonlat.transform(*(transform * (columns + 0.5, rows + 0.5)))
        inside: Pixels = shapely.intersects_xy(outlines, *centres)
        return inside

    return valid


def test_without_footprints_a_gap_would_read_as_bare_ground(
    archive: Path, city: City, tmp_path: Path
) -> None:
    path = only_tile(archive / "v2")
    (tmp_path / "chm").mkdir()
    (tmp_path / "chm" / path.name).hardlink_to(path)
    cube = opened(catalog_of(tmp_path, canopy_input("chm")), small_grid(city))
    assert cube["canopy_fraction"].values[-1, -1] == 0


def write_heights(folder: Path, quadkey: str, heights: Pixels) -> Path:
    """A tile of version 2 of few and large pixels."""
    path = folder / "chm" / f"{quadkey}.tif"
    path.parent.mkdir(parents=True, exist_ok=True)
    side = len(heights)
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "crs": "EPSG:3857"}
    transform = Affine(*QuadTile.of_quadkey(quadkey).transform(side))
    with rasterio.open(path, "w", width=side, height=side, transform=transform, **profile) as file:
        file.write(heights, 1)
    return path


def edge_grid(tile: QuadTile) -> Grid:
    """Some cells on the east edge of a tile."""
    _, south, east, north = tile.bbox
    middle = (south + north) / 2
    return Grid.from_bbox((east - 0.01, middle - 0.005, east + 0.01, middle + 0.005))


def test_where_two_tiles_meet_each_says_what_it_was_imaged_for(tmp_path: Path) -> None:
    """The western one has trees of 10 m, the eastern of 20 m; a strip between was not imaged."""
    west_tile = QuadTile.of_quadkey("1202211122")
    east_tile = QuadTile(10, west_tile.x + 1, west_tile.y)
    edge = west_tile.bbox[2]
    world = shapely.box(-180, -85, 180, 85)
    parts = {
        west_tile: shapely.intersection(world, shapely.box(-180, -85, edge - 0.002, 85)),
        east_tile: shapely.intersection(world, shapely.box(edge + 0.003, -85, 180, 85)),
    }
    for height, (tile, outline) in zip((10, 20), parts.items(), strict=True):
        heights = np.full((4096, 4096), height, np.uint8)
        path = write_heights(tmp_path, tile.quadkey, heights)
        write_footprints(path, (outline, "2019-01-01"))
    grid = edge_grid(west_tile)
    catalog = catalog_of(tmp_path, canopy_input("chm"))
    cube = opened(catalog, grid)
    lon = lon_of(cube, grid)
    pixel = 2 * 360 / 1024 / 4096  # two stored pixels, in degrees
    height = cube["canopy_height"].values
    assert (height[lon < edge - 0.002 - pixel] == 10).all()
    assert (height[lon > edge + 0.003 + pixel] == 20).all()
    between = (lon > edge - 0.002 + pixel) & (lon < edge + 0.003 - pixel)
    assert between.sum() > 500
    assert np.isnan(cube["canopy_fraction"].values[between]).all()
    assert cube["canopy_height"].attrs["n_tiles"] == 2


def test_tiles_that_were_imaged_to_their_edge_leave_no_gap(tmp_path: Path) -> None:
    west_tile = QuadTile.of_quadkey("1202211122")
    everywhere = shapely.box(-180, -85, 180, 85)
    for tile in (west_tile, QuadTile(10, west_tile.x + 1, west_tile.y)):
        path = write_heights(tmp_path, tile.quadkey, np.full((4096, 4096), 7, np.uint8))
        write_footprints(path, (everywhere, "2019-01-01"))
    cube = opened(catalog_of(tmp_path, canopy_input("chm")), edge_grid(west_tile))
    assert (cube["canopy_height"].values == 7).all()
    assert (cube["canopy_fraction"].values == 1).all()


def lon_of(cube: xr.Dataset, grid: Grid) -> Pixels:
    x, y = np.meshgrid(cube["x"].values, cube["y"].values)
    lon: Pixels = Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True).transform(x, y)[0]
    return lon


def test_a_code_of_255_is_no_tree(tmp_path: Path) -> None:
    tile = QuadTile.of_quadkey("1202211122")
    heights = np.full((4096, 4096), 255, np.uint8)
    heights[::2] = 12
    write_heights(tmp_path, tile.quadkey, heights)
    bbox = np.array(tile.bbox)
    middle = (bbox[:2] + bbox[2:]) / 2
    grid = Grid.from_bbox((*(middle - 0.003), *(middle + 0.003)))
    cube = opened(catalog_of(tmp_path, canopy_input("chm")), grid)
    assert np.nanmax(cube["canopy_height"].values) == 12
    assert np.nanmin(cube["canopy_fraction"].values) == 1


def test_windows_of_a_footprint_are_those_of_its_centres() -> None:
    """Whole blocks, empty ones and cut ones, in a tile with a hole in its footprint."""
    affine = Affine(*QuadTile.of_quadkey(V2).transform(2048))
    west, south, east, north = QuadTile.of_quadkey(V2).bbox
    ring = shapely.Point((west + east) / 2, (south + north) / 2).buffer(0.09)
    outline = shapely.difference(ring, ring.centroid.buffer(0.05))
    at = ("a", "a.tif", "gdal", "EPSG:3857", affine, (2048, 2048), (512, 512), "band,y,x", "", None)
    tile = Tile(*at, outline, is_bounded=True)
    rows, columns = slice(37, 1970), slice(11, 2040)
    found = tile.in_footprint(rows, columns)
    grid_y, grid_x = np.mgrid[rows, columns] + 0.5
    to_lonlat = Transformer.from_crs("EPSG:3857", "EPSG:4326", always_xy=True)
    lon, lat = to_lonlat.transform(*(affine * (grid_x, grid_y)))
    expected = shapely.intersects_xy(outline, lon, lat)
    assert 0.2 < expected.mean() < 0.8
    # Edges are chords: those cut in degrees and in metres lie up to a centimetre apart.
    assert (found != expected).mean() < 1e-5
    np.testing.assert_array_equal(
        tile.in_footprint(slice(600, 601), columns)[0], found[600 - rows.start]
    )


def edited_catalog(folder: Path, **fields: Any) -> Catalog:
    """A raster of ones whose collection says more than our sources would write."""
    path = folder / "ones.tif"
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "crs": "EPSG:32632"}
    transform = Affine(10, 0, X0, 0, -10, Y0)
    with rasterio.open(path, "w", width=128, height=64, transform=transform, **profile) as file:
        file.write(np.ones((1, 64, 128), np.uint8))
    keys = {"nodata": fields.pop("nodata")} if "nodata" in fields else {}
    catalog_of(folder, raster_input("ones", "ones.tif", **keys))
    collection = folder / "catalog" / "ones" / "collection.json"
    values = json.loads(collection.read_text())
    collection.write_text(json.dumps(values | fields))
    (item,) = (folder / "catalog" / "ones" / "items").iterdir()
    values = json.loads(item.read_text())
    west, south, east, north = values["bbox"]
    values["geometry"] = shapely.geometry.mapping(
        shapely.box(west - 1, south - 1, (west + east) / 2, north + 1)
    )
    item.write_text(json.dumps(values))
    return open_catalog(folder / "catalog" / "catalog.json")


def ones_grid() -> Grid:
    x, y = X0 // 320 + 1, Y0 // 320
    return Grid("EPSG:32632", (x, y - 1, x + 2, y))


def test_codes_of_any_layer_end_at_its_footprint_when_it_says_so(tmp_path: Path) -> None:
    catalog = edited_catalog(tmp_path, nodata=9, **{"lczcube:valid": "footprint"})
    codes = open_cube(catalog, ones_grid(), inputs=["ones"], year=2024)["ones"].values[0, 0]
    columns = codes[16]
    edge = int(np.flatnonzero(columns == 9)[0])
    assert (columns[:edge] == 1).all()
    assert (columns[edge:] == 9).all()
    assert 0 < edge < 64
    with pytest.raises(CatalogError, match="engine 'odc' does not look at"):
        open_cube(catalog, ones_grid(), inputs=["ones"], year=2024, engine="odc")


def test_a_footprint_that_cannot_be_written_into_the_codes_is_refused(tmp_path: Path) -> None:
    catalog = edited_catalog(tmp_path, **{"lczcube:valid": "footprint"})
    with pytest.raises(CatalogError, match=r"uint8 codes without a nodata code, and masks or"):
        open_cube(catalog, ones_grid(), inputs=["ones"], year=2024)


# What is read


def strips_read(caplog: pytest.LogCaptureFixture) -> list[int]:
    found = [re.search(r"rows (\d+)-(\d+)", record.message) for record in caplog.records]
    return [row for match in found if match for row in range(int(match[1]), int(match[2]))]


@pytest.mark.parametrize("chunk_cells", [1, 2, 20])
def test_strips_are_decoded_once_by_neighbouring_chunks(
    archive: Path,
    city: City,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    chunk_cells: int,
) -> None:
    """A strip is as wide as the tile: who reads it for one chunk has decoded it for all."""
    monkeypatch.setattr("lczcube.averaging.SECTION_PX", 16)
    grid = small_grid(city, chunk_cells)
    cube = open_cube(catalog_of(tmp_path, canopy_input(archive / "v1")), grid, inputs=["canopy"])
    with caplog.at_level(logging.DEBUG, logger="lczcube.reader"):
        cube["canopy_height"].compute(scheduler="sync")
    rows = strips_read(caplog)
    assert len(set(rows)) > 300
    assert len(rows) <= 1.3 * len(set(rows))
    if chunk_cells == 20:
        assert len(rows) == len(set(rows))


@dataclass(frozen=True)
class Server:
    """A web server of a folder: its URL, below any first folder, and what it has sent."""

    url: str
    folder: Path
    log: Path

    def sent(self, prefix: str) -> int:
        """Bytes of what lies below a path."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return sum(int(line.split()[-1]) for line in lines if line.startswith(prefix))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder, log = tmp_path / "served", tmp_path / "served.log"
    script = Path(__file__).with_name("range_server.py")
    command = [sys.executable, str(script), str(folder), str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Server(f"http://127.0.0.1:{process.stdout.readline().strip()}", folder, log)
        finally:
            process.terminate()


def moved(catalog: Catalog, folder: Path, old: str, new: str) -> Catalog:
    """The catalog of a folder with its files elsewhere."""
    (path,) = (folder / "catalog" / "canopy" / "items").iterdir()
    item = json.loads(path.read_text())
    for asset in item["assets"].values():
        asset["href"] = os.path.normpath(path.parent / asset["href"]).replace(old, new)
    path.write_text(json.dumps(item))
    return open_catalog(folder / "catalog" / "catalog.json")


def test_overviews_fetch_less_and_are_another_product(
    archive: Path, city: City, tmp_path: Path, server: Server
) -> None:
    """What fetching less costs: larger shares, lower heights, about the same volume."""
    server.folder.symlink_to(archive)
    grid = small_grid(city)
    cubes, sent = {}, {}
    for name, overviews in (("exact", False), ("coarse", True)):
        folder = tmp_path / name
        folder.mkdir()
        catalog = catalog_of(folder, canopy_input(archive / "v2", overviews=overviews))
        catalog = moved(catalog, folder, str(archive), f"{server.url}/{name}")
        cubes[name] = opened(catalog, grid)
        sent[name] = server.sent(f"/{name}/v2/chm/")
    assert 0 < sent["coarse"] < 0.8 * sent["exact"]  # a small city: sections reach past it
    exact, coarse = cubes["exact"], cubes["coarse"]
    assert exact["canopy_fraction"].attrs["product"] == "meta-chm/2"
    assert coarse["canopy_fraction"].attrs["product"] == "meta-chm/2/overviews"
    assert coarse["canopy_fraction"].attrs["overviews"] == 1
    assert "overviews" not in exact["canopy_fraction"].attrs
    share, height, volume = (
        [float(of(cube).mean()) for cube in (exact, coarse)]
        for of in (
            lambda cube: cube["canopy_fraction"],
            lambda cube: cube["canopy_height"],
            lambda cube: cube["canopy_fraction"] * cube["canopy_height"].fillna(0),
        )
    )
    assert 1.2 < share[1] / share[0] < 1.7
    assert 0.5 < height[1] / height[0] < 0.85
    assert 0.95 < volume[1] / volume[0] < 1.05


def test_overviews_end_where_the_footprints_do(archive: Path, city: City, tmp_path: Path) -> None:
    grid = small_grid(city)
    exact, coarse = (
        opened(catalog_of(tmp_path, canopy_input(archive / "v2", overviews=on)), grid)
        for on in (False, True)
    )
    gaps = [np.isnan(cube["canopy_fraction"].values) for cube in (exact, coarse)]
    assert gaps[0].mean() > 0.1
    assert (gaps[0] != gaps[1]).mean() < 0.02


@pytest.mark.parametrize("kind", ["no overviews", "a mask"])
def test_overviews_are_left_where_there_are_none_or_a_mask_is_finer(
    archive: Path, city: City, tmp_path: Path, kind: str
) -> None:
    folder = tmp_path / "v1"
    for name in ("chm", "msk"):
        (folder / name).mkdir(parents=True)
    tile = only_tile(archive / "v1")
    (mask,) = (archive / "v1" / "msk").iterdir()
    (folder / "msk" / mask.name).hardlink_to(mask)
    if kind == "a mask":
        copy_raster(tile, folder / "chm" / tile.name, driver="COG", overview_resampling="average")
        with rasterio.open(folder / "chm" / tile.name) as file:
            assert file.overviews(1)
    else:
        (folder / "chm" / tile.name).hardlink_to(tile)
    grid = small_grid(city)
    exact, coarse = (
        opened(catalog_of(tmp_path, canopy_input("v1", overviews=on)), grid) for on in (False, True)
    )
    np.testing.assert_array_equal(exact["canopy_height"].values, coarse["canopy_height"].values)


def test_a_tile_of_the_publishers_size_is_read_from_its_url(
    city: City, tmp_path: Path, server: Server
) -> None:
    """65,536 strips of which a few are stored, by a catalog that has not opened the file."""
    x, y, *_ = city.grid.cells
    grid = Grid(city.grid.crs, (x, y, x + 1, y + 1))
    tile = QuadTile.of_quadkey(V1)
    west, south, east, north = project_bbox(bbox_of(grid.geobox), grid.crs, "EPSG:3857")
    transform = Affine(*tile.transform(65536))
    left, top = (int(v) for v in ~transform * (west, north))
    right, bottom = (int(v) + 1 for v in ~transform * (east, south))
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "crs": "EPSG:3857"}
    layout = {"blockysize": 1, "tiled": False, "sparse_ok": True, "compress": "deflate"}
    rng = np.random.default_rng(0)
    heights = rng.integers(0, 9, (bottom - top, right - left)).astype(np.uint8)
    for name, codes in ((f"chm/{V1}.tif", heights), (f"msk/{V1}.tif.msk", heights * 0 + 255)):
        path = server.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with rasterio.open(
            path, "w", width=65536, height=65536, transform=transform, **profile, **layout
        ) as file:
            file.write(codes, 1, window=Window(left, top, right - left, bottom - top))
    place = project_bbox(bbox_of(grid.geobox), grid.crs, "EPSG:4326")
    (tmp_path / "town.toml").write_text(
        f'id = "town"\n[city.town]\nbbox = {list(place)}\n[[input]]\n'
        + canopy_input(f"{server.url}/v1")
    )
    report = build_catalog(tmp_path / "town.toml", tmp_path / "catalog")
    assert not server.log.exists(), "a tile was opened"
    cube = opened(open_catalog(report.path), grid)
    assert_by_hand(cube, grid, server.folder / "chm" / f"{V1}.tif", valid=None, n=10)
    assert not np.isnan(cube["canopy_fraction"].values).any()


# Real heights


def lengths(starts: Pixels, edges: Pixels) -> Pixels:
    """Length that each stretch between ``starts`` shares with each between ``edges``."""
    shared = np.minimum(starts[1:, None], edges[None, 1:]) - np.maximum(
        starts[:-1, None], edges[None, :-1]
    )
    return np.clip(shared, 0, None)


def test_the_canopy_of_bilbao_is_that_of_its_own_pixels(realdata: Path, tmp_path: Path) -> None:
    """Pixels of 2.502 by 2.5024 m on 10 m, in the file's own CRS, by two matrices of lengths."""
    path = realdata / "heights" / "CDSM.tif"
    catalog = catalog_of(tmp_path, canopy_input(path, ai_derived=False, title="Bilbao, lidar"))
    grid = Grid("EPSG:25830", (1561, 14982, 1565, 14986), chunk_cells=3)
    cube = opened(catalog, grid)
    with rasterio.open(path) as file:
        heights, transform = file.read(1).astype(float), file.transform
    frame: GeoBox = grid.geobox
    rows, columns = frame.shape
    x = frame.affine.c + frame.affine.a * np.arange(columns + 1)
    y = -(frame.affine.f + frame.affine.e * np.arange(rows + 1))
    wx = lengths(x, transform.c + transform.a * np.arange(heights.shape[1] + 1))
    wy = lengths(y, -(transform.f + transform.e * np.arange(heights.shape[0] + 1)))
    tall = heights >= 2
    share = wy @ tall @ wx.T
    with np.errstate(invalid="ignore", divide="ignore"):
        height = np.where(share > 1e-6, (wy @ (tall * heights) @ wx.T) / share, np.nan)
    np.testing.assert_allclose(cube["canopy_fraction"].values, share / 100, atol=1e-6)
    np.testing.assert_allclose(cube["canopy_height"].values, height, rtol=1e-5)
    assert 0.02 < (share / 100).mean() < 0.5
    assert np.nanmax(height) > 10
    assert cube["canopy_height"].attrs["ai_derived"] == 0
    # A plain average of heights is another number: it mixes the ground with the trees.
    plain = (wy @ heights @ wx.T) / 100
    both = (share > 20) & (share < 80)
    assert (plain[both] < 0.9 * height[both]).mean() > 0.9


def test_overviews_are_averages_of_ground_and_crowns(archive: Path) -> None:
    """What is said of the option is measured on such overviews."""
    with rasterio.open(only_tile(archive / "v2"), overview_level=0) as file:
        coarse = file.read(1)
    row, column = (int(v) for v in np.argwhere(coarse > 10)[0] // 64 * 64)
    with rasterio.open(only_tile(archive / "v2")) as file:
        fine = file.read(1, window=Window(2 * column, 2 * row, 128, 128)).astype(float)
    averages = fine.reshape(64, 2, 64, 2).mean(axis=(1, 3))
    assert averages.max() > 10
    assert np.abs(coarse[row : row + 64, column : column + 64] - averages).max() <= 0.5


def test_classes_have_no_overviews_of_averages() -> None:
    with pytest.raises(ConfigError, match="classes have no averages"):
        Quantity("mode", from_overviews=True)
