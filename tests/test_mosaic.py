"""Mosaics of tiles against the scene they were cut from, against GDAL, and against slow oracles."""

import logging
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT

from lczcube.decoders import Coding
from lczcube.errors import CatalogError, SourceError
from lczcube.mosaic import Averaged, Mosaic, mosaic_array, mosaics_of, require_covered
from lczcube.quantities import band_quantities
from lczcube.reader import Storage
from lczcube.tiles import Rect, Tile, place_tiles

CRS = "EPSG:32632"
X0, Y0 = 500_000.0, 5_400_000.0


def frame_of(rows: int, columns: int, *, top: int = 0, left: int = 0) -> GeoBox:
    """Pixels of 10 m, counted from the scene's upper-left corner."""
    affine = Affine(10, 0, X0 + 10 * left, 0, -10, Y0 - 10 * top)
    return GeoBox((rows, columns), affine, CRS)


def write_tile(
    path: Path,
    codes: npt.NDArray[Any],
    *,
    top: int = 0,
    left: int = 0,
    south_up: bool = False,
    block_px: int = 16,
    nodata: float | None = None,
    interleave: str = "band",
    footprint: shapely.Geometry | None = None,
) -> Tile:
    """A GeoTIFF of ``(band, y, x)`` codes at a place of the scene, and its tile."""
    rows, columns = codes.shape[1:]
    affine = Affine(10, 0, X0 + 10 * left, 0, -10, Y0 - 10 * top)
    if south_up:
        codes = codes[:, ::-1]
        affine = Affine(10, 0, affine.c, 0, 10, affine.f - 10 * rows)
    profile = {"driver": "GTiff", "count": len(codes), "dtype": codes.dtype.name, "crs": CRS}
    layout = {"tiled": True, "blockxsize": block_px, "blockysize": block_px, "compress": "zstd"}
    with rasterio.open(
        path,
        "w",
        transform=affine,
        height=rows,
        width=columns,
        nodata=nodata,
        interleave=interleave,
        **profile,
        **layout,
    ) as file:
        file.write(codes)
    return tile_at(path, affine, (rows, columns), block_px=block_px, footprint=footprint)


def tile_at(
    path: Path,
    affine: Affine,
    shape: tuple[int, int],
    *,
    crs: str = CRS,
    kind: str = "gdal",
    axes: str = "band,y,x",
    block_px: int = 16,
    footprint: shapely.Geometry | None = None,
) -> Tile:
    block = (min(block_px, shape[0]), min(block_px, shape[1]))
    return Tile(path.stem, str(path), kind, crs, affine, shape, block, axes, "", None, footprint)


def mosaic_of(
    tiles: list[Tile],
    frame: GeoBox,
    codes: npt.NDArray[Any],
    *,
    nodata: float | None = None,
    chunk_px: int = 1000,
    resampling: str = "nearest",
    valid: str = "nodata",
) -> Mosaic:
    """A mosaic of tiles with the bands and dtype of ``codes``."""
    n_bands = len(codes)
    sizes = [
        tuple(min(chunk_px, n - start) for start in range(0, n, chunk_px)) for n in frame.shape
    ]
    return Mosaic(
        name="scene",
        tiles=tuple(place_tiles(tiles, frame)),
        scale_tiles=(),
        frame=frame,
        storage=Storage(codes.dtype.name, n_bands, nodata, resampling),
        coding=Coding("linear", valid, nodata, (1.0,) * n_bands, (0.0,) * n_bands),
        chunks=(sizes[0], sizes[1]),
    )


def values_of(mosaic: Mosaic) -> npt.NDArray[Any]:
    return mosaic_array([mosaic]).compute(scheduler="synchronous")[0]


def position_scene(rows: int, columns: int) -> npt.NDArray[np.int32]:
    """Two bands: row and column of each pixel."""
    return np.stack(np.mgrid[0:rows, 0:columns]).astype(np.int32)


def crop(scene: npt.NDArray[Any], frame: GeoBox, fill: float) -> npt.NDArray[Any]:
    """The scene on a frame, ``fill`` past its edges."""
    top, left = round((Y0 - frame.affine.f) / 10), round((frame.affine.c - X0) / 10)
    out = np.full((len(scene), *frame.shape), fill, dtype=scene.dtype)
    for row in range(out.shape[1]):
        for column in range(out.shape[2]):
            y, x = top + row, left + column
            if 0 <= y < scene.shape[1] and 0 <= x < scene.shape[2]:
                out[:, row, column] = scene[:, y, x]
    return out


cuts = st.lists(st.integers(1, 59), max_size=3, unique=True).map(sorted)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_tiling_flip_block_and_chunk_gives_the_scene(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("tiling")
    scene = position_scene(60, 60)
    edges_y, edges_x = ([0, *data.draw(cuts), 60] for _ in range(2))
    tiles = []
    for y0, y1 in pairwise(edges_y):
        for x0, x1 in pairwise(edges_x):
            over = data.draw(st.integers(0, 9))  # tiles overlap by this much, down and right
            part = scene[:, y0 : y1 + over, x0 : x1 + over]
            tiles.append(
                write_tile(
                    folder / f"{len(tiles):02d}.tif",
                    part,
                    top=y0,
                    left=x0,
                    south_up=data.draw(st.booleans()),
                    block_px=data.draw(st.sampled_from([16, 32])),
                    interleave=data.draw(st.sampled_from(["band", "pixel"])),
                    nodata=-1,
                )
            )
    frame = frame_of(
        data.draw(st.integers(1, 70)),
        data.draw(st.integers(1, 70)),
        top=data.draw(st.integers(-12, 40)),
        left=data.draw(st.integers(-12, 40)),
    )
    mosaic = mosaic_of(tiles, frame, scene, nodata=-1, chunk_px=data.draw(st.integers(5, 80)))
    np.testing.assert_array_equal(values_of(mosaic), crop(scene, frame, -1))


def test_every_pixel_of_the_tiles_is_read_in_one_slab_only(tmp_path: Path) -> None:
    scene = position_scene(64, 96)
    tiles = [
        write_tile(tmp_path / "a.tif", scene[:, :, :56], nodata=-1),
        write_tile(tmp_path / "b.tif", scene[:, :, 40:], left=40, nodata=-1),
    ]
    mosaic = mosaic_of(tiles, frame_of(64, 96), scene, nodata=-1)
    times = np.zeros((64, 96), int)
    for slab in mosaic.slabs:
        owned = mosaic.read(slab).owned
        times[slab.rect.top : slab.rect.bottom, slab.rect.left : slab.rect.right] += (
            1 if owned is None else owned
        )
    assert (times == 1).all()


def test_blocks_are_decoded_once_on_chunks_that_cut_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lczcube.mosaic.SLAB_BYTES", 4096)  # two blocks of two int32 bands
    scene = position_scene(128, 128)
    tile = write_tile(tmp_path / "a.tif", scene, nodata=-1, south_up=True)
    mosaic = mosaic_of([tile], frame_of(100, 90, top=9, left=7), scene, nodata=-1, chunk_px=20)
    with caplog.at_level(logging.DEBUG, logger="lczcube.reader"):
        values_of(mosaic)
    windows = [
        tuple(
            map(
                int,
                re.findall(r"(\d+)-(\d+)", r.message)[0] + re.findall(r"(\d+)-(\d+)", r.message)[1],
            )
        )
        for r in caplog.records
    ]
    decoded = [
        (y, x)
        for top, bottom, left, right in windows
        for y in range(top // 16, -(-bottom // 16))
        for x in range(left // 16, -(-right // 16))
    ]
    assert len(windows) > 8
    assert len(decoded) == len(set(decoded))


def test_a_hole_of_a_tile_is_filled_by_the_next_all_bands_together(tmp_path: Path) -> None:
    scene = position_scene(32, 32) + 1
    holed = scene.copy()
    holed[0, 4:10, 20:28] = 0  # one band only: by the rule "nodata" the pixel is no pixel
    other = scene[:, :, 16:] + 1000
    tiles = [
        write_tile(tmp_path / "a.tif", holed, nodata=0),
        write_tile(tmp_path / "b.tif", other, left=16, nodata=0),
    ]
    values = values_of(mosaic_of(tiles, frame_of(32, 32), scene, nodata=0))
    expected = scene.copy()
    expected[:, 4:10, 20:28] += 1000
    np.testing.assert_array_equal(values, expected)


def test_a_footprint_decides_before_the_order_of_tiles(tmp_path: Path) -> None:
    scene = np.ones((1, 40, 40), np.uint8)
    to_lonlat = Transformer.from_crs(CRS, "EPSG:4326", always_xy=True)
    left_half = shapely.box(X0, Y0 - 400, X0 + 200, Y0)
    footprint = shapely.transform(left_half, to_lonlat.transform, interleaved=False)
    tiles = [
        write_tile(tmp_path / "a.tif", scene, footprint=footprint, nodata=0),
        write_tile(tmp_path / "b.tif", scene * 2, nodata=0),
    ]
    values = values_of(mosaic_of(tiles, frame_of(40, 40), scene, nodata=0))[0]
    assert (values[:, :20] == 1).all()
    assert (values[:, 20:] == 2).all()


def test_a_seam_of_utm_zones_leaves_no_gap_and_no_double(tmp_path: Path) -> None:
    """Two tiles of two zones cut at 12 degrees; every pixel is checked against PROJ."""
    to_lonlat = Transformer.from_crs(CRS, "EPSG:4326", always_xy=True)
    lon, lat = 12.0, 48.5
    x, y = Transformer.from_crs("EPSG:4326", CRS, always_xy=True).transform(lon, lat)
    x, y = round(x / 10) * 10, round(y / 10) * 10
    frame = GeoBox((50, 60), Affine(10, 0, x - 300, 0, -10, y + 250), CRS)
    west = shapely.box(11, 48, 12, 49)
    east = shapely.box(12, 48, 13, 49)
    home = np.ones((1, 80, 80), np.uint8)
    home_affine = Affine(10, 0, x - 400, 0, -10, y + 400)
    away_x, away_y = Transformer.from_crs(CRS, "EPSG:32633", always_xy=True).transform(x, y)
    codes = np.random.default_rng(0).integers(10, 250, (1, 120, 120)).astype(np.uint8)
    away_affine = Affine(
        10, 0, round(away_x / 10) * 10 - 600, 0, -10, round(away_y / 10) * 10 + 600
    )
    for path, crs, affine, data in (
        ("home.tif", CRS, home_affine, home),
        ("away.tif", "EPSG:32633", away_affine, codes),
    ):
        profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "crs": crs, "nodata": 0}
        with rasterio.open(
            tmp_path / path,
            "w",
            transform=affine,
            height=data.shape[1],
            width=data.shape[2],
            **profile,
        ) as file:
            file.write(data)
    tiles = [
        tile_at(tmp_path / "home.tif", home_affine, (80, 80), footprint=west),
        tile_at(tmp_path / "away.tif", away_affine, (120, 120), crs="EPSG:32633", footprint=east),
    ]
    values = values_of(mosaic_of(tiles, frame, home, nodata=0, chunk_px=17))[0]
    to_away = Transformer.from_crs(CRS, "EPSG:32633", always_xy=True)
    for row in range(50):
        for column in range(60):
            px, py = frame.affine * (column + 0.5, row + 0.5)
            if to_lonlat.transform(px, py)[0] < 12:
                expected = 1
            else:
                c, r = ~away_affine * to_away.transform(px, py)
                expected = int(codes[0, int(np.floor(r)), int(np.floor(c))])
            assert values[row, column] == expected, (row, column)


@pytest.mark.parametrize("chunk_px", [13, 64])
@pytest.mark.parametrize("rule", ["nearest", "average", "sum"])
def test_resampling_is_that_of_gdal_whatever_the_chunks(
    tmp_path: Path, rule: str, chunk_px: int
) -> None:
    rng = np.random.default_rng(1)
    codes = rng.integers(1, 5, (2, 90, 90)).astype(np.float32)
    affine = Affine(3.7, 0.0, X0 + 3, 0, -4.1, Y0 - 2)
    path = tmp_path / "fine.tif"
    profile = {"driver": "GTiff", "count": 2, "dtype": "float32", "crs": CRS, "nodata": -99}
    with rasterio.open(path, "w", transform=affine, height=90, width=90, **profile) as file:
        file.write(codes)
    frame = frame_of(40, 36)
    mosaic = mosaic_of(
        [tile_at(path, affine, (90, 90))], frame, codes, nodata=-99, chunk_px=chunk_px
    )
    if rule != "nearest":
        stored = replace(mosaic.storage, resampling=rule)
        mosaic = replace(
            mosaic,
            storage=Storage("float32", 2, None),
            averaged=Averaged(stored, band_quantities(stored)),
        )
    with (
        rasterio.open(path) as file,
        WarpedVRT(
            file,
            crs=CRS,
            transform=frame.affine,
            width=36,
            height=40,
            tolerance=1e-6,
            resampling=Resampling[rule],
            nodata=-99,
        ) as warped,
    ):
        expected = warped.read()
    values = np.nan_to_num(values_of(mosaic), nan=-99)
    # At the edge of the data GDAL gives averages other weights; tests/test_averaging.py has them.
    inner = (slice(None), slice(1, 35), slice(1, 32)) if rule == "average" else ...
    np.testing.assert_allclose(values[inner], expected[inner], rtol=1e-5)


def test_an_array_knows_its_mosaics_until_something_is_done_to_it(tmp_path: Path) -> None:
    scene = position_scene(32, 32)
    tile = write_tile(tmp_path / "a.tif", scene, nodata=-1)
    mosaic = mosaic_of([tile], frame_of(32, 32), scene, nodata=-1)
    array = mosaic_array([mosaic])
    assert mosaics_of(array) == (mosaic,)
    assert mosaics_of(array + 1) == ()
    assert mosaics_of(array[:, :, :16]) == ()
    assert mosaics_of(np.zeros(3)) == ()


def test_whole_numbers_without_nodata_must_cover_the_frame(tmp_path: Path) -> None:
    scene = position_scene(32, 32)
    tile = write_tile(tmp_path / "a.tif", scene)
    require_covered(mosaic_of([tile], frame_of(32, 32), scene))
    with pytest.raises(CatalogError, match=r"leave 32 of 1056 pixels out.*Set nodata"):
        require_covered(mosaic_of([tile], frame_of(33, 32), scene))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("gone", "cannot be opened"),
        ("smaller", "16 x 16 pixels and the catalog says 32 x 32"),
        ("other", "holds 1 bands of uint8 and the catalog says 2 of int32"),
        ("short", "broke off while it was read"),
    ],
)
def test_a_file_that_is_not_what_the_catalog_says_is_named(
    tmp_path: Path, damage: str, said: str
) -> None:
    scene = position_scene(32, 32)
    path = tmp_path / "a.tif"
    tile = write_tile(path, scene)
    mosaic = mosaic_of([tile], frame_of(32, 32), scene)
    if damage == "gone":
        path.unlink()
    elif damage == "smaller":
        write_tile(path, scene[:, :16, :16])
    elif damage == "other":
        write_tile(path, np.zeros((1, 32, 32), np.uint8))
    else:
        whole = path.read_bytes()
        path.write_bytes(whole[:-600] + b"\0" * 600)
    with pytest.raises(SourceError, match=said) as error:
        values_of(mosaic)
    assert "a.tif" in str(error.value)


def test_a_rectangle_meets_another_in_what_they_share() -> None:
    assert Rect(0, 0, 4, 4).meet(Rect(2, 1, 9, 3)) == Rect(2, 1, 4, 3)
    assert Rect(0, 0, 2, 2).meet(Rect(2, 0, 4, 2)).is_empty
    assert Rect(2, 1, 4, 3).within(Rect(1, 1, 9, 9)) == (slice(1, 3), slice(0, 2))
