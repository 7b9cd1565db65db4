"""COGs of a map: as it is, at 100 m, and as the LCZ Generator writes them."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from pyproj import Transformer
from rio_cogeo import cog_validate

from lczcube.errors import GridError, StoreError
from lczcube.exports import ProductMap, open_map, write_100m, write_generator, write_map_cog
from lczcube.exports.rasters import GENERATOR_DEGREES, percent_of_class
from lczcube.exports.smoothing import gaussian_filter
from lczcube.grid import Grid
from lczcube.lcz import ZONES, colors
from lczcube.products import write_product
from tests.product_scenes import map_of_codes, map_of_raster, position_map
from tests.test_products import GRID as COARSE_GRID
from tests.test_products import features_on

GRID = Grid("EPSG:32632", (1600, 15650, 1605, 15654), anchor_um=(3_250_000, 0), chunk_cells=2)
"""128 x 160 pixels of 10 m, not on multiples of 10 m."""

GDALINFO = shutil.which("gdalinfo")


@pytest.fixture(scope="module")
def lcz_map(tmp_path_factory: pytest.TempPathFactory) -> ProductMap:
    return position_map(GRID, tmp_path_factory.mktemp("map") / "lcz.zarr")


@pytest.fixture(scope="module")
def cog(lcz_map: ProductMap, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_map_cog(lcz_map, tmp_path_factory.mktemp("cog") / "lcz.tif")


def read(path: Path, band: int = 1) -> npt.NDArray[Any]:
    with rasterio.open(path) as file:
        values: npt.NDArray[Any] = file.read(band)
        return values


def gdalinfo(path: Path) -> dict[str, Any]:
    """What GDAL's own program says; a warning is a failure."""
    if GDALINFO is None:
        pytest.skip("no gdalinfo on this machine")
    done = subprocess.run([GDALINFO, "-json", path], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return dict(json.loads(done.stdout))


def test_the_cog_has_the_pixels_of_the_map_and_lies_where_it_does(
    cog: Path, lcz_map: ProductMap
) -> None:
    np.testing.assert_array_equal(read(cog), lcz_map.data["lcz"])
    with rasterio.open(cog) as file:
        assert (file.dtypes, file.nodata, file.crs) == (("uint8",), 0, "EPSG:32632")
        assert file.transform == GRID.geobox.affine
        assert file.block_shapes == [(512, 512)]
        assert file.descriptions == ("lcz",)


def test_the_cog_is_valid(cog: Path) -> None:
    assert cog_validate(cog, strict=True) == (True, [], [])


def test_the_cog_has_the_colours_of_the_zones(cog: Path) -> None:
    with rasterio.open(cog) as file:
        table = file.colormap(1)
    assert [table[z.code] for z in ZONES] == [(*map(int, colors()[z.code]), 255) for z in ZONES]
    assert table[0][3] == 0


def test_the_cog_says_what_its_codes_and_the_map_are_and_no_date(cog: Path) -> None:
    with rasterio.open(cog) as file:
        assert file.tags(1)["LCZ_11"] == "LCZ A: Dense trees"
        tags = file.tags()
    assert tags.pop("AREA_OR_POINT") == "Area"
    assert tags == {"TIFFTAG_SOFTWARE": "lczcube test", "REPRESENTATIVE_YEAR": "2024"}


def test_gdal_names_the_classes_of_the_cog(cog: Path) -> None:
    told = gdalinfo(cog)
    (band,) = told["bands"]
    assert band["noDataValue"] == 0
    assert 'ID["EPSG",32632]' in told["coordinateSystem"]["wkt"]
    xml = cog.with_name("lcz.tif.aux.xml").read_text()
    assert xml.count("<Category>") == 18
    text = subprocess.run([str(GDALINFO), cog], capture_output=True, text=True, check=True).stdout
    assert "      6: LCZ 6: Open low-rise\n" in text
    assert "GDALRasterAttributeTable" in text


def test_gdal_keeps_classes_and_colours_on_a_copy(cog: Path, tmp_path: Path) -> None:
    program = shutil.which("gdal_translate")
    if program is None:
        pytest.skip("no gdal_translate on this machine")
    done = subprocess.run(
        [program, "-q", "-of", "GTiff", cog, tmp_path / "copy.tif"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    np.testing.assert_array_equal(read(tmp_path / "copy.tif"), read(cog))
    with rasterio.open(tmp_path / "copy.tif") as file:
        assert file.colormap(1)[17] == (106, 106, 255, 255)
    assert "LCZ G: Water" in (tmp_path / "copy.tif.aux.xml").read_text()


def test_the_same_map_gives_the_same_bytes_and_leaves_nothing_else(
    cog: Path, lcz_map: ProductMap, tmp_path: Path
) -> None:
    again = write_map_cog(lcz_map, tmp_path / "lcz.tif")
    assert again.read_bytes() == cog.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lcz.tif", "lcz.tif.aux.xml"]


def test_overviews_are_the_most_frequent_class(tmp_path: Path) -> None:
    grid = Grid("EPSG:32632", (1600, 15650, 1620, 15670), chunk_cells=10)
    codes = np.full(grid.shape, 2, dtype=np.uint8)
    codes[::2, ::2] = 17  # one of each four; a mean would be 5 or 6
    cog = write_map_cog(map_of_codes(codes, grid, tmp_path / "m.zarr"), tmp_path / "m.tif")
    with rasterio.open(cog) as file:
        assert file.overviews(1) == [2]
        half = file.read(1, out_shape=(320, 320))
    assert np.unique(half).tolist() == [2]


def test_100_m_pixels_lie_on_multiples_and_are_the_mode_of_their_own(tmp_path: Path) -> None:
    grid = Grid("EPSG:32632", (1600, 15650, 1605, 15655), chunk_cells=2)  # on multiples of 100 m
    lcz_map = position_map(grid, tmp_path / "lcz.zarr")
    out = write_100m(lcz_map, tmp_path / "m.tif", smoothing="mode")
    with rasterio.open(out) as file:
        assert file.transform[0] == 100
        assert (file.transform[2] % 100, file.transform[5] % 100) == (0, 0)
        assert file.tags()["LCZCUBE_FILTER"] == "mode"
        found = file.read(1)
    codes = lcz_map.data["lcz"].values
    assert found.shape == (16, 16)
    for row, column in np.ndindex(found.shape):
        block = codes[row * 10 : row * 10 + 10, column * 10 : column * 10 + 10]
        ranked = Counter(block[block > 0].tolist()).most_common(2)
        if len(ranked) == 1 or ranked[0][1] > ranked[1][1]:
            assert found[row, column] == ranked[0][0]


def test_100_m_pixels_cover_a_map_that_lies_between_them(
    lcz_map: ProductMap, tmp_path: Path
) -> None:
    out = write_100m(lcz_map, tmp_path / "m.tif")
    with rasterio.open(out) as file:
        west, south, east, north = file.bounds
        assert all(edge % 100 == 0 for edge in file.bounds)
    left, bottom, right, top = GRID.bbox
    assert 0 <= left - west < 100
    assert 0 <= bottom - south < 100
    assert 0 <= east - right < 100
    assert 0 <= north - top < 100


def test_the_100_m_product_is_the_mode_of_the_smoothed_map(tmp_path: Path) -> None:
    grid = Grid("EPSG:32632", (1600, 15650, 1605, 15655), chunk_cells=2)
    lcz_map = position_map(grid, tmp_path / "lcz.zarr")
    smooth = gaussian_filter(lcz_map.data["lcz"].compute(), pixel_m=10)
    by_hand = map_of_codes(smooth.values, grid, tmp_path / "smooth.zarr")
    expected = read(write_100m(by_hand, tmp_path / "mode.tif", smoothing="mode"))
    found = read(write_100m(lcz_map, tmp_path / "gaussian.tif"))
    np.testing.assert_array_equal(found, expected)
    assert (found != read(write_100m(lcz_map, tmp_path / "x.tif", smoothing="mode"))).any()


def test_a_100_m_product_of_coarser_pixels_is_refused(tmp_path: Path) -> None:
    grid = Grid("EPSG:32632", (0, 0, 4, 4), pixel_m=320, chunk_cells=2)
    lcz_map = map_of_codes(np.ones((4, 4), np.uint8), grid, tmp_path / "m.zarr")
    with pytest.raises(GridError, match="pixels of 320 m"):
        write_100m(lcz_map, tmp_path / "m.tif")
    assert not (tmp_path / "m.tif").exists()


def test_the_generators_layout_has_its_bands_pixels_and_lattice(
    lcz_map: ProductMap, tmp_path: Path
) -> None:
    out = write_generator(lcz_map, tmp_path / "g.tif")
    with rasterio.open(out) as file:
        assert file.descriptions == ("lcz", "lczFilter", "classProbability")
        assert (file.crs, file.nodata) == ("EPSG:4326", 0)
        assert file.transform.a == -file.transform.e == GENERATOR_DEGREES
        steps = [file.transform.c / GENERATOR_DEGREES, file.transform.f / GENERATOR_DEGREES]
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-6)
        assert [interp.name for interp in file.colorinterp] == ["gray", "undefined", "undefined"]
        percent = file.read(3)[file.read(1) > 0]
    assert cog_validate(out, strict=True) == (True, [], [])
    assert set(np.unique(percent)) <= set(range(1, 61))
    aux = out.with_name("g.tif.aux.xml").read_text()
    assert [f'band="{n}"' in aux for n in (1, 2, 3)] == [True, True, False]
    gdalinfo(out)


def test_the_real_generator_file_has_the_lattice_that_we_write(realdata: Path) -> None:
    with rasterio.open(realdata / "lcz_maps" / "sydney_generator.tif") as file:
        steps = [file.transform.c / GENERATOR_DEGREES, file.transform.f / GENERATOR_DEGREES]
        assert file.descriptions == ("lcz", "lczFilter", "classProbability")
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-6)


def test_a_real_map_comes_back_on_its_own_lattice(realdata: Path, tmp_path: Path) -> None:
    """Sydney of the Generator, cut into pixels of 10 m and written again: the same classes.

    Where a class ends, pixels of 10 m straddle the edge by up to 7 m of 100 m and do not turn the
    mode of the 90 to 100 others.
    """
    path = realdata / "lcz_maps" / "sydney_generator.tif"
    grid = Grid.from_bbox((151.15, -33.92, 151.20, -33.88))
    out = write_generator(map_of_raster(path, grid, tmp_path / "s.zarr"), tmp_path / "s.tif")
    with rasterio.open(out) as ours, rasterio.open(path) as theirs:
        row, column = (round(v) for v in theirs.index(*(ours.transform * (0.5, 0.5)), op=float))
        found = ours.read(1)
        window = rasterio.windows.Window(column, row, ours.width, ours.height)
        expected = theirs.read(1, window=window)
    inside = (slice(2, -2), slice(4, -4))
    assert (found[inside] > 0).all()
    np.testing.assert_array_equal(found[inside], expected[inside])


def test_a_generator_pixel_has_the_class_of_the_place(lcz_map: ProductMap, tmp_path: Path) -> None:
    """Places far from any border: a shift of one pixel would move them to another class."""
    blocky = np.repeat(np.repeat(np.arange(16).reshape(4, 4) + 1, 32, axis=0), 40, axis=1)
    grid_map = map_of_codes(blocky.astype(np.uint8), GRID, tmp_path / "b.zarr")
    out = write_generator(grid_map, tmp_path / "b.tif")
    to_degrees = Transformer.from_crs("EPSG:32632", "EPSG:4326", always_xy=True)
    with rasterio.open(out) as file:
        codes = file.read(1)
        for row, column in np.ndindex(4, 4):
            x, y = GRID.geobox.affine * (column * 40 + 20, row * 32 + 16)
            place = file.index(*to_degrees.transform(x, y))
            assert codes[place] == row * 4 + column + 1


def test_the_probability_is_that_of_the_class_beside_it() -> None:
    lcz = np.array([[2, 0, 17]], dtype=np.uint8)
    percents = np.zeros((17, 1, 3), dtype=np.uint8)
    percents[1, 0], percents[16, 0] = (55, 9, 9), (45, 0, 255)
    assert percent_of_class(lcz, percents).tolist() == [[55, 0, 0]]


def test_a_store_without_a_map_is_refused(tmp_path: Path) -> None:
    store = write_product({"cells": features_on(COARSE_GRID)}, tmp_path / "f.zarr")
    with pytest.raises(StoreError, match="no lcz"):
        open_map(store)


STREAM = """
import sys
import dask.array as da
import numpy as np
import xarray as xr
from pathlib import Path
from lczcube.exports import ProductMap, write_map_cog
from lczcube.grid import Grid
from lczcube.runtime import open_scheduler

side, out = int(sys.argv[1]), sys.argv[2]
grid = Grid("EPSG:32632", (1600, 15650, 1600 + side, 15650 + side))
codes = da.ones(grid.shape, chunks=640, dtype=np.uint8)
data = xr.Dataset({"lcz": (("y", "x"), codes)})
with open_scheduler("threads", n_workers=1):
    write_map_cog(ProductMap(data, grid.geobox), Path(out))
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(int(status["VmHWM"].split()[0]) * 1024)
"""


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads Linux's /proc")
def test_a_map_16_times_larger_takes_no_more_memory(tmp_path: Path) -> None:
    peaks = []
    for side in (100, 400):  # 10 and 164 million pixels
        command = [sys.executable, "-c", STREAM, str(side), str(tmp_path / f"{side}.tif")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout))
    # Held in memory, the larger one would take 154 MB more; GDAL keeps up to 64 MiB of blocks.
    assert peaks[1] - peaks[0] < 77e6
