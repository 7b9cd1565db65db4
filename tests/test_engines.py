"""Layers by odc-stac and stackstac against the cube's own reader: equal arrays on one grid."""

import pickle
import sys
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import numpy as np
import numpy.typing as npt
import pystac
import pytest
import xarray as xr
from pyproj import Transformer

from lczcube.catalog import Catalog
from lczcube.cube import open_cube
from lczcube.engines import LOADERS, CodesDriver, load_odc, load_stackstac
from lczcube.errors import CatalogError, MissingExtraError
from lczcube.grid import BBox, Grid
from lczcube.mosaic import Mosaic, mosaics_of
from lczcube.reader import Storage
from lczcube.tiles import Tile, tile_of
from tests.scenes import CRS, catalog_of, position_codes, raster_input, write_raster

X0, Y0 = 500_000, 5_400_320

EMBEDDING = {
    "layer": "embedding",
    "product": "alphaearth/1",
    "decoder": "signed_square",
    "valid": "all_bands_nodata",
}


def small_grid(*, chunk_cells: int = 2) -> Grid:
    """Four by four cells inside a scene of 256 x 256 pixels."""
    x, y = X0 // 320 + 2, (Y0 - 1280 - 640) // 320 + 1
    return Grid(CRS, (x, y, x + 4, y + 4), chunk_cells=chunk_cells)


class Layers:
    """One layer as the cube gives it, and what the other engines want to load it."""

    def __init__(self, catalog: Catalog, name: str, grid: Grid, halo_px: int = 0) -> None:
        self.cube = open_cube(catalog, grid, inputs=[name], halo_px=halo_px)
        self.native = self.cube[name]
        self.mosaics: tuple[Mosaic, ...] = mosaics_of(self.native.data)
        items = catalog.items(name)
        dates = {tile.tile.item_id: i for i, m in enumerate(self.mosaics) for tile in m.tiles}
        self.by_date = [
            [item for item in items if dates.get(item.id) == i] for i in range(len(self.mosaics))
        ]
        self.bands = [band["name"] for band in items[0].assets["data"].extra_fields["bands"]]

    @property
    def codes(self) -> npt.NDArray[Any]:
        """Codes of the cube, ``(time, band, y, x)``."""
        rows, columns = self.native.shape[-2:]
        codes: npt.NDArray[Any] = self.native.data.compute(scheduler="synchronous")
        return codes.reshape(len(self.mosaics), len(self.bands), rows, columns)

    def by(self, engine: str) -> xr.DataArray:
        """The layer by another engine."""
        if engine == "stackstac":
            pytest.importorskip("stackstac")
        first = self.mosaics[0]
        return LOADERS[engine](self.by_date, first.storage, self.bands, first.frame, first.chunks)


def require_equal(layers: Layers, engine: str) -> None:
    """Codes, dtype, nodata, chunks and coordinates of an engine are those of the cube."""
    loaded, native = layers.by(engine), layers.native
    np.testing.assert_array_equal(loaded.values, layers.codes)
    assert loaded.dims == ("time", "band", "y", "x")
    assert loaded.dtype == native.dtype
    assert loaded.attrs.get("nodata") == native.attrs.get("nodata")
    assert loaded.chunks is not None
    assert loaded.chunks[2:] == layers.mosaics[0].chunks
    for axis in ("y", "x"):
        np.testing.assert_array_equal(loaded[axis].values, native[axis].values)
    assert loaded["band"].values.tolist() == layers.bands
    if "time" in native.dims:
        np.testing.assert_array_equal(loaded["time"].values, native["time"].values)


def scene_codes(kind: str) -> tuple[npt.NDArray[Any], float | None, dict[str, Any]]:
    """Codes of 256 x 256 pixels, nodata and the keys of the input."""
    rng = np.random.default_rng(3)
    if kind == "embedding":
        codes = rng.integers(-127, 128, (6, 256, 256)).astype(np.int8)
        codes[:, 60:90, 100:130] = -128
        return codes, -128, dict(EMBEDDING)
    if kind == "height":
        codes = rng.random((1, 256, 256)).astype(np.float32)
        codes[:, 60:90, 100:130] = np.nan
        return codes, None, {"static": True, "resampling": "average"}
    if kind == "classes":
        return rng.integers(0, 18, (1, 256, 256)).astype(np.uint8), 0, {"resampling": "mode"}
    return position_codes(256, 256, x0=X0, y0=Y0)[:1], -1, {}


def write_tiles(
    folder: Path, codes: npt.NDArray[Any], nodata: float | None, *, south_up: Sequence[bool]
) -> None:
    """Four tiles that overlap by 14 rows and 8 columns, equal where they do."""
    flips = iter(south_up)
    for i, rows in enumerate((slice(0, 131), slice(117, 256))):
        for j, columns in enumerate((slice(0, 101), slice(93, 256))):
            write_raster(
                folder / f"tile{i}{j}.tif",
                codes[:, rows, columns],
                x0=X0 + columns.start * 10,
                y0=Y0 - rows.start * 10,
                nodata=nodata,
                south_up=next(flips),
            )


@pytest.mark.parametrize("halo_px", [0, 5])
@pytest.mark.parametrize("south_up", [False, True])
@pytest.mark.parametrize("kind", ["embedding", "height", "classes", "where"])
def test_engines_agree_on_every_kind_of_layer(
    tmp_path: Path, kind: str, south_up: bool, halo_px: int
) -> None:
    codes, nodata, keys = scene_codes(kind)
    write_raster(tmp_path / "a.tif", codes, x0=X0, y0=Y0, nodata=nodata, south_up=south_up)
    catalog = catalog_of(tmp_path, raster_input("a", "a.tif", **keys))
    layers = Layers(catalog, "a", small_grid(), halo_px)
    require_equal(layers, "odc")
    if len(codes) == 1:
        require_equal(layers, "stackstac")


@pytest.mark.parametrize("kind", ["embedding", "height", "classes", "where"])
def test_engines_agree_on_tiles_that_overlap(tmp_path: Path, kind: str) -> None:
    codes, nodata, keys = scene_codes(kind)
    write_tiles(tmp_path, codes, nodata, south_up=[False, True, True, False])
    catalog = catalog_of(tmp_path, raster_input("a", "tile*.tif", **keys))
    layers = Layers(catalog, "a", small_grid(), 3)
    assert len(layers.mosaics[0].tiles) == 4
    require_equal(layers, "odc")
    if len(codes) == 1:
        require_equal(layers, "stackstac")


@pytest.mark.parametrize("engine", ["odc", "stackstac"])
def test_a_cube_is_the_same_by_any_engine(tmp_path: Path, engine: Any) -> None:
    pytest.importorskip("stackstac")
    codes, nodata, keys = scene_codes("classes")
    write_tiles(tmp_path, codes, nodata, south_up=[True] * 4)
    catalog = catalog_of(tmp_path, raster_input("a", "tile*.tif", **keys))
    native, other = (
        open_cube(catalog, small_grid(), inputs=["a"], halo_px=3, engine=name).compute()
        for name in ("native", engine)
    )
    assert other["a"].attrs.pop("engine") == engine
    del native["a"].attrs["engine"]
    xr.testing.assert_identical(other, native)


@pytest.mark.parametrize("engine", ["odc", "stackstac"])
def test_the_first_tile_wins_and_the_next_fills_its_holes(tmp_path: Path, engine: str) -> None:
    first = np.full((1, 256, 160), 3, np.uint8)
    first[:, 100:140, 80:120] = 0
    write_raster(tmp_path / "a.tif", first, x0=X0, y0=Y0, nodata=0)
    write_raster(tmp_path / "b.tif", np.full((1, 256, 176), 5, np.uint8), x0=X0 + 800, y0=Y0)
    catalog = catalog_of(tmp_path, raster_input("a", "[ab].tif", nodata=0))
    layers = Layers(catalog, "a", small_grid())
    require_equal(layers, engine)
    assert set(np.unique(layers.codes)) == {3, 5}


@pytest.mark.parametrize("engine", ["odc", "stackstac"])
def test_a_tile_of_the_lattice_comes_before_one_that_is_resampled(
    tmp_path: Path, engine: str
) -> None:
    write_raster(
        tmp_path / "a.tif", np.full((1, 256, 256), 3, np.uint8), x0=X0 + 3, y0=Y0, nodata=0
    )
    write_raster(tmp_path / "b.tif", np.full((1, 256, 100), 5, np.uint8), x0=X0, y0=Y0, nodata=0)
    catalog = catalog_of(tmp_path, raster_input("a", "[ab].tif"))
    layers = Layers(catalog, "a", small_grid())
    require_equal(layers, engine)
    assert set(np.unique(layers.codes)) == {3, 5}


def test_engines_agree_on_several_years(tmp_path: Path) -> None:
    codes, nodata, _ = scene_codes("where")
    for year in (2021, 2022, 2024):
        write_raster(tmp_path / f"{year}.tif", codes + year, x0=X0, y0=Y0, nodata=nodata)
        write_raster(
            tmp_path / f"{year}_b.tif",
            np.stack([codes[0] + year, codes[0] - year]),
            x0=X0,
            y0=Y0,
            nodata=nodata,
            south_up=year == 2022,
        )
    catalog = catalog_of(
        tmp_path, *(_of_years(name, href) for name, href in (("a", "{year}"), ("b", "{year}_b")))
    )
    for name in ("a", "b"):
        layers = Layers(catalog, name, small_grid())
        assert layers.native.sizes["time"] == 3
        require_equal(layers, "odc")
    require_equal(Layers(catalog, "a", small_grid()), "stackstac")


def _of_years(name: str, stem: str) -> str:
    return "\n".join(
        [
            f'name = "{name}"',
            'source = "raster"',
            f'href = "{stem}.tif"',
            "years = [2021, 2022, 2024]",
        ]
    )


@pytest.mark.parametrize("engine", ["odc", "stackstac"])
def test_a_date_beside_the_grid_is_nodata_and_keeps_its_place(tmp_path: Path, engine: str) -> None:
    codes, nodata, _ = scene_codes("where")
    write_raster(tmp_path / "a.tif", codes, x0=X0, y0=Y0, nodata=nodata)
    write_raster(tmp_path / "b.tif", codes, x0=X0 + 90_000, y0=Y0, nodata=nodata)
    catalog = catalog_of(tmp_path, raster_input("a", "[ab].tif"))
    layers = Layers(catalog, "a", small_grid())
    here, away = catalog.items("a")
    away.datetime = datetime(2023, 1, 1, tzinfo=UTC)
    layers.by_date = [[away], [here]]
    loaded = layers.by(engine)
    assert (loaded.values[0] == -1).all()
    np.testing.assert_array_equal(loaded.values[1:], layers.codes)
    assert loaded["time"].dt.year.values.tolist() == [2023, 2024]


@pytest.mark.parametrize("engine", ["odc", "stackstac"])
def test_any_chunking_gives_the_same_codes(tmp_path: Path, engine: str) -> None:
    codes, nodata, keys = scene_codes("classes")
    write_tiles(tmp_path, codes, nodata, south_up=[True] * 4)
    catalog = catalog_of(tmp_path, raster_input("a", "tile*.tif", **keys))
    for chunk_cells in (1, 3, 20):
        require_equal(Layers(catalog, "a", small_grid(chunk_cells=chunk_cells), 7), engine)


def test_the_catalogs_nodata_replaces_that_of_the_file(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(0, 20, (2, 256, 256)).astype(np.uint8)
    for path, south_up in (("a.tif", False), ("b.tif", True)):
        write_raster(tmp_path / path, codes, x0=X0, y0=Y0, nodata=7, south_up=south_up)
    catalog = catalog_of(
        tmp_path,
        raster_input("a", "a.tif", nodata=0),
        raster_input("b", "b.tif", nodata=0),
    )
    for name in ("a", "b"):
        layers = Layers(catalog, name, small_grid())
        require_equal(layers, "odc")
        assert (layers.codes == 7).any()


def test_pixels_past_all_tiles_are_nodata(tmp_path: Path) -> None:
    codes, nodata, _ = scene_codes("where")
    write_raster(tmp_path / "a.tif", codes[:, :100, :90], x0=X0, y0=Y0, nodata=nodata)
    write_raster(tmp_path / "f.tif", codes[:, :100, :90].astype(np.float32), x0=X0, y0=Y0)
    catalog = catalog_of(tmp_path, raster_input("a", "a.tif"), raster_input("f", "f.tif"))
    for name in ("a", "f"):
        layers = Layers(catalog, name, small_grid())
        require_equal(layers, "odc")
        require_equal(layers, "stackstac")


def test_opening_reads_no_pixel(tmp_path: Path) -> None:
    codes, nodata, _ = scene_codes("classes")
    path = write_raster(tmp_path / "a.tif", codes, x0=X0, y0=Y0, nodata=nodata)
    layers = Layers(catalog_of(tmp_path, raster_input("a", "a.tif")), "a", small_grid())
    path.unlink()
    assert layers.by("odc").dtype == np.uint8
    assert layers.by("stackstac").dtype == np.uint8


def test_all_bands_of_a_chunk_are_one_task(tmp_path: Path) -> None:
    codes, nodata, keys = scene_codes("embedding")
    write_raster(tmp_path / "a.tif", codes, x0=X0, y0=Y0, nodata=nodata)
    layers = Layers(catalog_of(tmp_path, raster_input("a", "a.tif", **keys)), "a", small_grid())
    loaded = layers.by("odc")
    assert loaded.chunks is not None
    assert loaded.chunks[1] == (6,)
    assert len(loaded.__dask_graph__()) <= 4 + 1 + 2  # chunks, file, settings and grid


def test_a_layer_by_odc_can_be_sent_to_another_process(tmp_path: Path) -> None:
    codes, nodata, keys = scene_codes("embedding")
    write_raster(tmp_path / "a.tif", codes, x0=X0, y0=Y0, nodata=nodata, south_up=True)
    layers = Layers(catalog_of(tmp_path, raster_input("a", "a.tif", **keys)), "a", small_grid())
    sent = pickle.loads(cloudpickle.dumps(layers.by("odc")))
    np.testing.assert_array_equal(sent.values, layers.codes)
    assert isinstance(pickle.loads(pickle.dumps(CodesDriver())), CodesDriver)


def test_rasterios_warning_of_its_own_memory_files_does_not_leak(tmp_path: Path) -> None:
    """Without the driver's filter it leaks in most runs of this test."""
    codes, nodata, _ = scene_codes("where")
    write_tiles(tmp_path, codes, nodata, south_up=[True] * 4)
    catalog = catalog_of(tmp_path, raster_input("a", "tile*.tif"))
    layers = Layers(catalog, "a", small_grid(chunk_cells=1), 3)
    with warnings.catch_warnings(), dask.config.set(scheduler="threads", num_workers=8):
        for _ in range(20):
            warnings.resetwarnings()
            warnings.filterwarnings("error", message="Dataset has no geotransform")
            layers.by("odc").compute()


def test_stackstac_refuses_several_bands_in_one_file(tmp_path: Path) -> None:
    codes, nodata, keys = scene_codes("embedding")
    write_raster(tmp_path / "a.tif", codes, x0=X0, y0=Y0, nodata=nodata)
    layers = Layers(catalog_of(tmp_path, raster_input("a", "a.tif", **keys)), "a", small_grid())
    with pytest.raises(CatalogError, match=r"'a' holds 6 bands in one file.*'native' or 'odc'"):
        layers.by("stackstac")


def test_stackstac_that_is_not_installed_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes, nodata, _ = scene_codes("classes")
    write_raster(tmp_path / "a.tif", codes, x0=X0, y0=Y0, nodata=nodata)
    layers = Layers(catalog_of(tmp_path, raster_input("a", "a.tif")), "a", small_grid())
    first = layers.mosaics[0]
    monkeypatch.setitem(sys.modules, "stackstac", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lczcube\[stackstac\]'"):
        load_stackstac(layers.by_date, first.storage, layers.bands, first.frame, first.chunks)


@pytest.mark.parametrize("engine", ["odc", "stackstac"])
def test_a_file_that_gdal_does_not_open_is_refused(engine: str) -> None:
    item = pystac.Item(
        "t",
        None,
        None,
        datetime(2024, 1, 1, tzinfo=UTC),
        {"proj:code": CRS, "proj:transform": [10, 0, X0, 0, -10, Y0], "proj:shape": [64, 64]},
    )
    item.add_asset("data", pystac.Asset("t.npy", media_type="application/x-npy"))
    frame = small_grid().read_geobox(0)
    with pytest.raises(CatalogError, match=r"'t' is stored as npy.*Use the engine 'native'"):
        LOADERS[engine]([[item]], Storage("int8", 1, -128), ["b"], frame, ((128,), (128,)))


def test_stackstac_refuses_a_grid_without_epsg_code(tmp_path: Path) -> None:
    codes, nodata, _ = scene_codes("classes")
    write_raster(tmp_path / "a.tif", codes, x0=X0, y0=Y0, nodata=nodata)
    catalog = catalog_of(tmp_path, raster_input("a", "a.tif"))
    here = "+proj=tmerc +lat_0=48 +lon_0=9 +x_0=0 +y_0=0 +ellps=WGS84 +units=m"
    grid = Grid.from_bbox((9.005, 48.735, 9.015, 48.745), crs=here)
    with pytest.raises(CatalogError, match=r"has no EPSG code.*'native' or 'odc'"):
        Layers(catalog, "a", grid).by("stackstac")


def real_layer(
    folder: Path, path: Path, grid: Grid | None = None, *, chunk_cells: int = 2, **keys: Any
) -> Layers:
    """A real raster on a grid, or on its own lattice: 32 pixels a cell."""
    folder.mkdir()
    catalog = catalog_of(folder, raster_input("real", str(path), **keys))
    own = tile_of(catalog.items("real")[0]).geobox
    if grid is None:
        grid = Grid.from_geobox(own, cell_m=own.affine.a * 32, chunk_cells=chunk_cells)
    return Layers(catalog, "real", grid)


def test_engines_agree_on_a_real_alphaearth_crop(tmp_path: Path, realdata: Path) -> None:
    path = realdata / "alphaearth" / "aef_2024_wisconsin_utm16n_10m_int8.tif"
    layers = real_layer(tmp_path / "aef", path, **EMBEDDING)
    assert layers.codes.shape == (1, 64, 128, 128)
    require_equal(layers, "odc")


def test_engines_agree_on_real_landsat_bands_and_labels(tmp_path: Path, realdata: Path) -> None:
    """Its corner is no multiple of the pixel: the lattice is anchored at 0.2595713184 m."""
    landsat = real_layer(
        tmp_path / "landsat", realdata / "hongkong" / "landsat8_36band_100m.tif", chunk_cells=5
    )
    assert landsat.codes.shape == (1, 36, 544, 544)
    require_equal(landsat, "odc")
    labels = real_layer(
        tmp_path / "labels",
        realdata / "hongkong" / "lcz_dfc2017_train.tif",
        chunk_cells=5,
        static=True,
    )
    require_equal(labels, "odc")
    require_equal(labels, "stackstac")


@pytest.mark.parametrize("engine", ["odc", "stackstac"])
@pytest.mark.parametrize("name", ["worldcover_2021", "lcz_global_v3"])
def test_engines_differ_under_resampling_only_at_the_edges_of_stored_pixels(
    tmp_path: Path, realdata: Path, name: str, engine: str
) -> None:
    """Degrees onto 10 m of UTM, nearest: GDAL's warp may be an eighth of a pixel off, ours not."""
    path = realdata / "hongkong" / f"{name}.tif"
    grid = Grid.from_bbox(lonlat_bbox(path))
    layers = real_layer(tmp_path / name, path, grid)
    differs = layers.by(engine).values[0, 0] != layers.codes[0, 0]
    assert differs.mean() < 0.001
    tile = tile_of(layers.by_date[0][0])
    assert edge_distance_px(tile, layers.mosaics[0])[differs].max(initial=0) < 0.125


def lonlat_bbox(path: Path) -> BBox:
    import rasterio

    with rasterio.open(path) as file:
        left, bottom, right, top = file.bounds
    return left, bottom, right, top


def edge_distance_px(tile: Tile, mosaic: Mosaic) -> npt.NDArray[np.float64]:
    """How far, in pixels of the frame, each centre lies from the nearest edge of a stored pixel."""
    frame = mosaic.frame
    to_tile = Transformer.from_crs(str(frame.crs), tile.crs, always_xy=True)

    def stored(shift_x: float, shift_y: float) -> npt.NDArray[np.float64]:
        y, x = np.mgrid[0 : frame.shape[0], 0 : frame.shape[1]] + 0.5
        x, y = frame.affine * ((x + shift_x).ravel(), (y + shift_y).ravel())
        return np.stack(~tile.affine * to_tile.transform(x, y)).reshape(2, *frame.shape)

    centre = stored(0, 0)
    across = abs(stored(0.5, 0)[0] - stored(-0.5, 0)[0])
    down = abs(stored(0, 0.5)[1] - stored(0, -0.5)[1])
    off = abs(centre - centre.round()) / np.stack([across, down])
    nearest: npt.NDArray[np.float64] = off.min(axis=0)
    return nearest


def test_a_tile_of_another_zone_agrees_but_at_edges(tmp_path: Path) -> None:
    """Chunks that only a bent edge of the tile reaches are not left out."""
    rng = np.random.default_rng(0)
    codes = rng.integers(1, 250, (1, 300, 300)).astype(np.uint8)
    x, y = Transformer.from_crs(CRS, "EPSG:32633", always_xy=True).transform(X0 + 1200, Y0 - 1200)
    write_raster(
        tmp_path / "a.tif", codes, x0=round(x, -1) - 900, y0=round(y, -1) + 900, crs="EPSG:32633"
    )
    catalog = catalog_of(tmp_path, raster_input("a", "a.tif", nodata=0))
    layers = Layers(catalog, "a", small_grid(chunk_cells=1))
    for engine in ("odc", "stackstac"):
        differs = layers.by(engine).values != layers.codes
        assert differs.mean() < 0.005
        distance = edge_distance_px(tile_of(layers.by_date[0][0]), layers.mosaics[0])
        assert distance[differs[0, 0]].max(initial=0) < 0.125


def test_loaders_are_named() -> None:
    assert dict(LOADERS) == {"odc": load_odc, "stackstac": load_stackstac}
