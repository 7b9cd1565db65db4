"""Rasters of no particular source, with their oddities: real heights, VRT, JPEG 2000, broken files.

Values of a cube are held against sums by hand that share no code with it.
"""

import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import rasterio.shutil
from affine import Affine

from lczcube.catalog import build_catalog, open_catalog
from lczcube.config import read_config
from lczcube.cube import decode, open_cube
from lczcube.errors import CatalogError, ConfigError
from lczcube.grid import Grid
from lczcube.mosaic import mosaics_of, plan_reads
from lczcube.quantities import CANOPY_HEIGHT_M
from lczcube.sources import SOURCES
from tests.scenes import catalog_of, position_codes, raster_input, write_raster

BILBAO = Grid("EPSG:25830", (1561, 14982, 1565, 14986))
ALEXANDRIA = Grid("EPSG:26918", (1005, 13430, 1006, 13431))
CATALOGS = Path(__file__).parents[1] / "catalogs"


def overlaps(
    first: float, side: float, n: int, edges: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Length that each stored pixel along an axis shares with each pixel of a grid."""
    ends = np.sort(first + side * np.arange(n + 1))
    low = np.maximum(ends[None, :-1], edges[:-1, None])
    return np.clip(np.minimum(ends[None, 1:], edges[1:, None]) - low, 0, None)


def area_sums(path: Path, grid: Grid, values: Any) -> npt.NDArray[np.float64]:
    """Sums of ``values(codes)`` over each pixel of a grid of the file's own CRS, weighted by m2."""
    with rasterio.open(path) as file:
        stored, affine = file.read(1), file.transform
    minx, miny, maxx, maxy = grid.bbox
    rows, columns = grid.shape
    y = overlaps(affine.f, affine.e, stored.shape[0], np.linspace(miny, maxy, rows + 1))[::-1]
    y = y[:, ::-1]  # stored from the north, the edges from the south
    x = overlaps(affine.c, affine.a, stored.shape[1], np.linspace(minx, maxx, columns + 1))
    sums: npt.NDArray[np.float64] = y @ np.asarray(values(stored), float) @ x.T
    return sums


def notes(catalog: Any, name: str) -> str:
    (item,) = catalog.items(name)
    return str(item.properties.get("lczcube:note", ""))


# Bilbao: pixels of 2.502 x 2.5024 m, no nodata


def test_rasters_of_bilbao_tell_their_oddities(realdata: Path, tmp_path: Path) -> None:
    folder = realdata / "heights"
    names = {"bdsm": "BDSM.tif", "cdsm": "CDSM.tif", "dem": "DEM.tif"}
    catalog = catalog_of(
        tmp_path, *(raster_input(name, str(folder / file)) for name, file in names.items())
    )
    assert notes(catalog, "bdsm") == (
        "Pixels are not square: 2.50206 x 2.50241. No nodata is declared: every pixel counts as "
        "valid."
    )
    assert "5.00124 x 4.99921" in notes(catalog, "dem")
    (item,) = catalog.items("cdsm")
    assert item.assets["data"].extra_fields["raster:spatial_resolution"] == 2.50223


def test_canopy_of_bilbao_is_averaged_by_area(realdata: Path, tmp_path: Path) -> None:
    """Pixels that are not square, on a lattice of none of ours, as a canopy layer."""
    path = realdata / "heights" / "CDSM.tif"
    catalog = catalog_of(tmp_path, raster_input("cdsm", str(path), layer="canopy"))
    cube = decode(open_cube(catalog, BILBAO, inputs=["cdsm"], year=2024)).isel(time=0).compute()
    area = area_sums(path, BILBAO, np.ones_like)
    trees = area_sums(path, BILBAO, lambda h: h >= CANOPY_HEIGHT_M)
    heights = area_sums(path, BILBAO, lambda h: np.where(h >= CANOPY_HEIGHT_M, h, 0))
    np.testing.assert_allclose(area, 100, rtol=1e-9)
    np.testing.assert_allclose(cube["cdsm_fraction"].values, trees / area, atol=1e-5)
    some = trees > 1e-3
    assert 0.1 < some.mean() < 0.9
    np.testing.assert_allclose(
        cube["cdsm_height"].values[some], (heights / np.maximum(trees, 1e-9))[some], rtol=1e-4
    )


def test_a_city_larger_than_a_raster_without_nodata_is_refused_with_the_remedy(
    realdata: Path, tmp_path: Path
) -> None:
    path = realdata / "heights" / "BDSM.tif"
    wide = Grid("EPSG:25830", (1559, 14980, 1565, 14986))
    catalog = catalog_of(tmp_path, raster_input("bdsm", str(path)))
    with pytest.raises(CatalogError, match=r"leave \d+ of \d+ pixels out.*Set nodata"):
        open_cube(catalog, wide, inputs=["bdsm"], year=2024)
    catalog = catalog_of(tmp_path, raster_input("bdsm", str(path), nodata=-1))
    cube = open_cube(catalog, wide, inputs=["bdsm"], year=2024)
    codes = cube["bdsm"].isel(time=0).values
    x, y = np.meshgrid(cube["x"].values, cube["y"].values)
    with rasterio.open(path) as file:
        inside = (x > file.bounds.left) & (x < file.bounds.right)
        inside &= (y > file.bounds.bottom) & (y < file.bounds.top)
    assert 0 < inside.mean() < 1
    np.testing.assert_array_equal(codes[0] == -1, ~inside)


# Alexandria: 2 m, nodata -9999


@pytest.mark.parametrize("name", ["dsm", "dtm", "hag"])
def test_heights_of_alexandria_are_averaged_by_area(
    realdata: Path, tmp_path: Path, name: str
) -> None:
    """10 m pixels that cut stored pixels of 2 m in no half: the origin is 8 m off."""
    path = realdata / "heights" / f"{name}.tif"
    catalog = catalog_of(tmp_path, raster_input(name, str(path), resampling="average"))
    assert notes(catalog, name) == ""
    cube = decode(open_cube(catalog, ALEXANDRIA, inputs=[name], year=2024))
    values = cube[name].isel(time=0).values[0]
    known = area_sums(path, ALEXANDRIA, lambda h: h != -9999)
    sums = area_sums(path, ALEXANDRIA, lambda h: np.where(h == -9999, 0, h))
    some = known > 1e-6
    np.testing.assert_array_equal(np.isfinite(values), some)
    np.testing.assert_allclose(values[some], sums[some] / known[some], rtol=1e-5)
    assert some.mean() > 0.5


def test_a_vrt_and_a_jpeg_2000_give_the_pixels_of_their_source(
    realdata: Path, tmp_path: Path
) -> None:
    source = realdata / "heights" / "dtm.tif"
    rasterio.shutil.copy(source, tmp_path / "dtm.vrt", driver="VRT")
    with rasterio.open(source) as file:
        profile = file.profile
        centimetres = np.round(np.clip(file.read(), 0, None) * 100).astype("uint16")
    profile.update(driver="GTiff", dtype="uint16", nodata=0)
    with rasterio.open(tmp_path / "cm.tif", "w", **profile) as file:
        file.write(centimetres)
    lossless = {"REVERSIBLE": "YES", "QUALITY": "100", "YCBCR420": "NO"}
    rasterio.shutil.copy(tmp_path / "cm.tif", tmp_path / "cm.jp2", driver="JP2OpenJPEG", **lossless)
    files = {"a": str(source), "b": "dtm.vrt", "c": "cm.tif", "d": "cm.jp2"}
    extra = {"c": {"nodata": 0}, "d": {"nodata": 0}}
    catalog = catalog_of(
        tmp_path, *(raster_input(k, file, **extra.get(k, {})) for k, file in files.items())
    )
    cube = open_cube(catalog, ALEXANDRIA, inputs=[*files], year=2024)
    for one, other in (("a", "b"), ("c", "d")):
        np.testing.assert_array_equal(cube[one].values, cube[other].values)
        assert len(np.unique(cube[one].values)) > 100
    types = [catalog.items(name)[0].assets["data"].media_type for name in ("b", "d")]
    assert types == ["application/x-gdal-vrt", "image/jp2"]


# Whatever people have


def test_broken_rasters_are_rows_and_the_rest_is_built(tmp_path: Path) -> None:
    codes = position_codes(300, 300, x0=500_000, y0=5_000_000)
    whole = write_raster(tmp_path / "d_whole.tif", codes, x0=500_000, y0=5_000_000)
    (tmp_path / "a_short.tif").write_bytes(whole.read_bytes()[:-1000])
    write_raster(tmp_path / "b_nowhere.tif", codes, x0=500_000, y0=5_000_000, crs=None)
    with rasterio.open(whole) as file:
        profile = file.profile | {"transform": Affine(9, 4, 500_000, 4, -9, 5_000_000)}
        with rasterio.open(tmp_path / "c_turned.tif", "w", **profile) as turned:
            turned.write(file.read())
    (tmp_path / "e_half.tif").write_bytes(whole.read_bytes()[:6])
    text = f'id = "town"\n[[input]]\n{raster_input("r", "*.tif")}\n'
    (tmp_path / "town.toml").write_text(text)
    report = build_catalog(tmp_path / "town.toml", tmp_path / "out")
    said = {Path(failure.path).name: failure.reason for failure in report.failures}
    assert list(said) == ["a_short.tif", "b_nowhere.tif", "c_turned.tif", "e_half.tif"]
    for name, part in (
        ("a_short", f"cannot be read whole: its pixels end at byte {whole.stat().st_size}"),
        ("b_nowhere", "has no CRS"),
        ("c_turned", "is rotated"),
        ("e_half", "cannot be read as a raster"),
    ):
        assert part in said[f"{name}.tif"]
    assert [item.id for item in open_catalog(report.path).items("r")] == ["r_2024_d_whole"]


def test_a_raster_of_the_whole_globe_is_found_in_a_city(tmp_path: Path) -> None:
    """A UTM zone has no image of the far side of the Earth, where corners of the file lie."""
    side = 0.01
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "crs": "EPSG:4326", "nodata": 0}
    shape = {"width": 36_000, "height": 14_000, "tiled": True, "compress": "deflate"}
    transform = Affine(side, 0, -180, 0, -side, 80)
    with rasterio.open(
        tmp_path / "globe.tif", "w", transform=transform, sparse_ok=True, **profile, **shape
    ) as file:
        left, top = round((36.82 + 180) / side), round((80 + 1.29) / side)
        window = rasterio.windows.Window(left - 20, top - 20, 40, 40)
        file.write(np.arange(1600).reshape(1, 40, 40).astype("uint8") % 17 + 1, window=window)
    catalog = catalog_of(tmp_path, raster_input("lcz", "globe.tif", layer="lcz_map"))
    grid = Grid.from_bbox((36.80, -1.31, 36.84, -1.27))
    cube = open_cube(catalog, grid, inputs=["lcz"], year=2024)
    assert cube["lcz"].attrs["covered_share"] == 1
    codes = cube["lcz"].values[0, 0]
    assert (codes > 0).all()
    lon, lat = lonlat_of(cube, grid)
    columns = np.floor((lon + 180) / side).astype(int) - (left - 20)
    rows = np.floor((80 - lat) / side).astype(int) - (top - 20)
    np.testing.assert_array_equal(codes, (rows * 40 + columns) % 256 % 17 + 1)
    (mosaic,) = mosaics_of(cube["lcz"].data)
    stored = plan_reads(mosaic).stored_bytes
    assert stored is not None
    assert stored < 1000  # of a file of 36,000 x 14,000 pixels, and not the whole of it


def lonlat_of(cube: Any, grid: Grid) -> Any:
    from pyproj import Transformer

    x, y = np.meshgrid(cube["x"].values, cube["y"].values)
    return Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True).transform(x, y)


# The catalog files of real cities


def tables_of(path: Path) -> list[dict[str, Any]]:
    """The ``[[input]]`` tables of a file, those behind a # among them."""
    text = path.read_text()
    blocks = re.findall(r"^# \[\[input\]\]\n(?:# .*\n)+", text, re.MULTILINE)
    hidden = "".join(re.sub(r"^# ", "", block, flags=re.MULTILINE) for block in blocks)
    return [*tomllib.loads(text)["input"], *tomllib.loads(hidden).get("input", [])]


@pytest.mark.parametrize("path", sorted(CATALOGS.glob("*.toml")), ids=lambda path: path.stem)
def test_the_catalog_files_are_legal(path: Path) -> None:
    tables = tables_of(path)
    for table in tables:
        SOURCES[table["source"]].model_validate(table)
    config = read_config(path)
    assert config.cities
    assert config.run is not None


def test_hong_kong_and_the_template_can_be_read_as_they_are() -> None:
    names = [read_config(CATALOGS / f"{name}.toml").id for name in ("hongkong", "template")]
    assert names == ["hongkong", "mycity"]


def test_the_template_shows_every_source() -> None:
    shown = {table["source"] for table in tables_of(CATALOGS / "template.toml")}
    assert {*SOURCES} <= shown


def test_a_wrong_key_in_a_catalog_file_is_found(tmp_path: Path) -> None:
    text = (CATALOGS / "hongkong.toml").read_text().replace("class_column", "class_colum")
    (tmp_path / "hongkong.toml").write_text(text)
    with pytest.raises(ConfigError, match="did you mean 'class_column'"):
        read_config(tmp_path / "hongkong.toml")
