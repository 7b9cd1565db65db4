"""Maps for w2w: on the fill's own pixels, filled beyond ours, and saying which is which."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from affine import Affine
from rio_cogeo import cog_validate

from lczcube.errors import GridError, LabelError, MissingInputError, SourceError
from lczcube.exports import ProductMap, write_wrf_map
from lczcube.exports.rasters import GENERATOR_DEGREES
from lczcube.grid import Grid
from tests.product_scenes import map_of_codes, map_of_raster

CITY = Grid.from_bbox((-0.92, 41.63, -0.86, 41.67), crs="EPSG:32630")
HONG_KONG = Grid.from_bbox((114.16, 22.315, 114.20, 22.355))


@pytest.fixture(scope="module")
def zaragoza(realdata: Path, tmp_path_factory: pytest.TempPathFactory) -> ProductMap:
    folder = tmp_path_factory.mktemp("map")
    return map_of_raster(realdata / "lcz_maps" / "lcz_zaragoza.tif", CITY, folder / "lcz.zarr")


def plain_fill(
    path: Path, codes: npt.NDArray[Any], *, west: float = -1.0, north: float = 41.7, **keys: Any
) -> Path:
    profile = {"driver": "GTiff", "count": 1, "dtype": codes.dtype.name, "crs": "EPSG:4326"} | keys
    rows, columns = codes.shape
    transform = Affine(0.001, 0, west, 0, -0.001, north)
    with rasterio.open(
        path, "w", width=columns, height=rows, transform=transform, **profile
    ) as file:
        file.write(codes, 1)
    return path


def test_a_map_filled_from_its_own_source_is_that_source(
    zaragoza: ProductMap, realdata: Path, tmp_path: Path
) -> None:
    """Our pixels of 10 m, put back on the lattice that they were cut from: no class changes."""
    theirs = realdata / "lcz_maps" / "lcz_zaragoza.tif"
    out = write_wrf_map(zaragoza, tmp_path / "lcz_wrf.tif", fill=theirs, margin_km=200)
    with rasterio.open(out) as file, rasterio.open(theirs) as source:
        assert file.transform == source.transform
        assert file.shape == source.shape
        codes, origin = file.read()
        expected = source.read(1)
        assert (file.dtypes[0], file.nodata, file.crs) == ("uint8", 0, "EPSG:4326")
        assert file.descriptions == ("lcz", "source")
    np.testing.assert_array_equal(codes, np.where(expected < 0, 0, expected))
    assert set(np.unique(origin)) == {1, 2}
    assert 1500 < (origin == 1).sum() < 2500
    assert cog_validate(out, strict=True) == (True, [], [])


def test_the_margin_bounds_how_far_the_fill_reaches(
    zaragoza: ProductMap, realdata: Path, tmp_path: Path
) -> None:
    theirs = realdata / "lcz_maps" / "lcz_zaragoza.tif"
    out = write_wrf_map(zaragoza, tmp_path / "lcz_wrf.tif", fill=theirs, margin_km=10)
    own = write_wrf_map(zaragoza, tmp_path / "own.tif")
    with rasterio.open(out) as file, rasterio.open(own) as alone:
        reach = np.subtract(file.bounds, alone.bounds)
        pixel = file.transform.a
    up = 10 / 111.32
    aside = up / np.cos(np.radians(41.675))
    np.testing.assert_allclose(reach, [-aside, -up, aside, up], atol=1.01 * pixel)


def test_a_fill_smaller_than_the_map_cuts_none_of_it(realdata: Path, tmp_path: Path) -> None:
    crop = realdata / "hongkong" / "lcz_global_v3.tif"
    ours = map_of_codes(np.full(HONG_KONG.shape, 4, np.uint8), HONG_KONG, tmp_path / "m.zarr")
    ours.data["lcz"][:, 200:] = 0  # the east is not ours
    out = write_wrf_map(ours, tmp_path / "lcz_wrf.tif", fill=crop)
    with rasterio.open(out) as file, rasterio.open(crop) as source:
        west, south, east, north = file.bounds
        assert west < 114.1601
        assert south < 22.3151
        assert east > 114.1999
        assert north > 22.3549
        offset = (~source.transform) * (file.transform * (0, 0))
        np.testing.assert_allclose(offset, np.round(offset), atol=1e-6)
        codes, origin = file.read()
        column, row = (-round(v) for v in offset)
        inside = (slice(row, row + source.height), slice(column, column + source.width))
        global_map = source.read(1)
    assert set(np.unique(codes[origin == 1])) == {4}
    assert (codes[origin == 0] == 0).all()
    filled = origin[inside] == 2
    assert filled.any()
    np.testing.assert_array_equal(codes[inside][filled], global_map[filled])
    everywhere = np.zeros(origin.shape, dtype=bool)
    everywhere[inside] = True
    assert not (origin[~everywhere] == 2).any()


def test_without_a_fill_the_pixels_are_the_generators(zaragoza: ProductMap, tmp_path: Path) -> None:
    with rasterio.open(write_wrf_map(zaragoza, tmp_path / "lcz_wrf.tif")) as file:
        steps = [file.transform.c / GENERATOR_DEGREES, file.transform.f / GENERATOR_DEGREES]
        codes, origin = file.read()
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-6)
    np.testing.assert_array_equal(origin, codes > 0)


def test_old_codes_nodata_and_the_filtered_band_of_a_fill_are_understood(
    zaragoza: ProductMap, tmp_path: Path
) -> None:
    codes = np.full((120, 200), 104.0, dtype=np.float32)
    codes[0, 0], codes[0, 1], codes[0, 2] = -999, np.nan, 6
    fill = plain_fill(tmp_path / "f.tif", codes, nodata=-999)
    with rasterio.open(fill) as file:
        profile = file.profile
    with rasterio.open(tmp_path / "g.tif", "w", **profile | {"count": 2}) as file:
        file.write(np.stack([np.ones_like(codes), codes]))
        file.descriptions = ("lcz", "lczFilter")
    for name in ("f.tif", "g.tif"):
        with rasterio.open(
            write_wrf_map(zaragoza, tmp_path / "o.tif", fill=tmp_path / name)
        ) as file:
            assert file.read(1)[0, :4].tolist() == [0, 0, 6, 14]
            assert file.read(2)[0, :4].tolist() == [0, 0, 2, 2]


def test_a_fill_that_cannot_be_used_is_refused(zaragoza: ProductMap, tmp_path: Path) -> None:
    out, codes = tmp_path / "out" / "o.tif", np.full((20, 20), 3, dtype=np.uint8)
    out.parent.mkdir()
    with pytest.raises(MissingInputError, match="no such file"):
        write_wrf_map(zaragoza, out, fill=tmp_path / "none.tif")
    (tmp_path / "t.tif").write_text("no raster")
    with pytest.raises(SourceError, match="cannot be read as a raster"):
        write_wrf_map(zaragoza, out, fill=tmp_path / "t.tif")
    metres = plain_fill(tmp_path / "m.tif", codes, crs="EPSG:32630")
    with pytest.raises(SourceError, match="EPSG:32630; a fill is north-up in EPSG:4326"):
        write_wrf_map(zaragoza, out, fill=metres)
    far = plain_fill(tmp_path / "far.tif", codes, west=20)
    with pytest.raises(GridError, match="more than 50 km apart"):
        write_wrf_map(zaragoza, out, fill=far)
    bad = plain_fill(tmp_path / "bad.tif", codes * 6)
    with pytest.raises(LabelError, match=r"18 \(400 times\)"):
        write_wrf_map(zaragoza, out, fill=bad)
    assert list(out.parent.iterdir()) == []
