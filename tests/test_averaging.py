"""Averages of tiles against overlaps worked out pixel by pixel: as matrices, and as polygons."""

import logging
import re
import tracemalloc
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

from lczcube.averaging import read_averaged
from lczcube.errors import CatalogError, ConfigError, SourceError
from lczcube.quantities import (
    BUILDING_BANDS,
    BUILDINGS,
    CANOPY,
    Quantity,
    band_quantities,
    buildings,
    canopy,
)
from lczcube.reader import Storage
from lczcube.tiles import Rect, Tile, frame_rect, place_tiles

CRS = "EPSG:32632"
X0, Y0 = 700_000.0, 5_400_000.0
"""Of the frames: 200 km off the central meridian, where the grid is turned by 2 degrees."""

AVERAGE, SUM, MODE = Quantity("average"), Quantity("sum"), Quantity("mode")

Pixels = npt.NDArray[Any]


def frame_of(rows: int, columns: int, *, pixel_m: float = 10) -> GeoBox:
    return GeoBox((rows, columns), Affine(pixel_m, 0, X0, 0, -pixel_m, Y0), CRS)


def write_tile(
    path: Path,
    codes: Pixels,
    affine: Affine,
    *,
    crs: str = CRS,
    block: tuple[int, int] = (16, 16),
    footprint: shapely.Geometry | None = None,
    overviews: Resampling | None = None,
) -> Tile:
    """A GeoTIFF of ``(band, y, x)`` codes, in tiles or, for a block of other sides, strips."""
    rows, columns = codes.shape[1:]
    is_tiled = block[0] == block[1]
    layout = {"blockxsize": block[1], "tiled": True} if is_tiled else {"tiled": False}
    profile = {"driver": "GTiff", "count": len(codes), "dtype": codes.dtype.name, "crs": crs}
    with rasterio.open(
        path,
        "w",
        transform=affine,
        height=rows,
        width=columns,
        compress="zstd",
        blockysize=block[0],
        **profile,
        **layout,
    ) as file:
        file.write(codes)
        if overviews is not None:
            file.build_overviews([2, 4, 8], overviews)
    sides = (min(block[0], rows), min(block[1], columns))
    at = (path.stem, str(path), "gdal", crs, affine, (rows, columns), sides, "band,y,x", "", None)
    return Tile(*at, footprint)


def averaged(
    tiles: list[Tile],
    frame: GeoBox,
    storage: Storage,
    *quantities: Quantity,
    rect: Rect | None = None,
    use_overviews: bool = False,
) -> Pixels:
    placed = place_tiles(tiles, frame)
    wanted = quantities or band_quantities(storage)
    at = frame_rect(frame) if rect is None else rect
    return read_averaged(placed, at, frame, storage, wanted, use_overviews=use_overviews)


def overlaps(frame_edges: Pixels, tile_edges: Pixels) -> Pixels:
    """Length of each stored pixel in each pixel of the frame, one by one."""
    lengths = np.zeros((len(frame_edges) - 1, len(tile_edges) - 1))
    for i, frame_side in enumerate(pairwise(frame_edges)):
        for k, tile_side in enumerate(pairwise(tile_edges)):
            lengths[i, k] = max(
                0, min(max(frame_side), max(tile_side)) - max(min(frame_side), min(tile_side))
            )
    return lengths


def matrices(affine: Affine, shape: tuple[int, int], frame: GeoBox) -> tuple[Pixels, Pixels]:
    """``Wy`` and ``Wx``, in metres, of a tile in the frame's CRS."""
    to = frame.affine
    return (
        overlaps(
            to.f + to.e * np.arange(frame.shape[0] + 1),
            affine.f + affine.e * np.arange(shape[0] + 1),
        ),
        overlaps(
            to.c + to.a * np.arange(frame.shape[1] + 1),
            affine.c + affine.a * np.arange(shape[1] + 1),
        ),
    )


def matrix_average(codes: Pixels, valid: Pixels, affine: Affine, frame: GeoBox) -> Pixels:
    wy, wx = matrices(affine, codes.shape, frame)
    areas = wy @ valid @ wx.T
    with np.errstate(invalid="ignore"):
        return (wy @ np.where(valid, codes, 0.0) @ wx.T) / np.where(areas > 1e-6, areas, np.nan)


def outline_of(frame: GeoBox, row: int, column: int, affine: Affine, crs: str) -> shapely.Polygon:
    """A pixel of the frame in the pixels of a tile, its sides cut into 16 before they are moved."""
    square = shapely.segmentize(shapely.box(column, row, column + 1, row + 1), 1 / 16)
    to_crs = Transformer.from_crs(CRS, crs, always_xy=True)
    xy = [frame.affine * point for point in square.exterior.coords]
    return shapely.Polygon([~affine * to_crs.transform(*point) for point in xy])


def polygon_sums(
    codes: Pixels, affine: Affine, crs: str, frame: GeoBox, row: int, column: int
) -> tuple[float, float, float]:
    """Sum of value times area, valid area, and area of a pixel of the frame, in stored pixels."""
    outline = outline_of(frame, row, column, affine, crs)
    left, top, right, bottom = outline.bounds
    total = valid = 0.0
    for r in range(max(int(np.floor(top)), 0), min(int(np.ceil(bottom)), codes.shape[0])):
        for c in range(max(int(np.floor(left)), 0), min(int(np.ceil(right)), codes.shape[1])):
            if np.isfinite(codes[r, c]):
                area = outline.intersection(shapely.box(c, r, c + 1, r + 1)).area
                total, valid = total + area * float(codes[r, c]), valid + area
    return total, valid, outline.area


def random_codes(rows: int, columns: int, *, holes: float = 0.2) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(rows * columns)
    codes = rng.gamma(2, 3, (1, rows, columns)).astype(np.float32)
    codes[rng.random(codes.shape) < holes] = np.nan
    return codes


@pytest.mark.parametrize(
    ("affine", "shape"),
    [
        (Affine(2.502, 0, X0 + 3.1, 0, -2.5024, Y0 - 4.7), (90, 70)),
        (Affine(0.5, 0, X0 + 4, 0, -0.5, Y0 - 2), (300, 260)),
        (Affine(2.5, 0, X0, 0, -2.5, Y0), (80, 80)),
        (Affine(23.3, 0, X0 - 31, 0, -17.1, Y0 + 8), (14, 12)),
        (Affine(2.7, 0, X0 + 3, 0, 2.9, Y0 - 190), (70, 60)),
        (Affine(-2.7, 0, X0 + 190, 0, -2.9, Y0 - 7), (70, 60)),
    ],
    ids=["not square", "half metres", "whole", "coarse", "south-up", "east-left"],
)
def test_an_average_is_weighted_by_area(
    tmp_path: Path, affine: Affine, shape: tuple[int, int]
) -> None:
    codes = random_codes(*shape)
    frame = frame_of(21, 19)
    tile = write_tile(tmp_path / "a.tif", codes, affine)
    values = averaged([tile], frame, Storage("float32", 1, None, "average"))
    expected = matrix_average(codes[0], np.isfinite(codes[0]), affine, frame)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values[0], expected, rtol=2e-7)


@pytest.mark.parametrize("pixel_m", [1.19, 3.7, 23.3])
@pytest.mark.parametrize("crs", ["EPSG:3857", "EPSG:4326", "EPSG:32633"])
def test_in_another_crs_overlaps_are_those_of_polygons(
    tmp_path: Path, crs: str, pixel_m: float
) -> None:
    codes = random_codes(60, 50)
    frame = frame_of(10, 9)
    x, y = Transformer.from_crs(CRS, crs, always_xy=True).transform(X0 + 13, Y0 - 11)
    side = pixel_m / 90_000 if crs == "EPSG:4326" else pixel_m
    affine = Affine(side, 0, x, 0, -side, y)
    tile = write_tile(tmp_path / "a.tif", codes, affine, crs=crs)
    average, total = averaged([tile], frame, Storage("float32", 1, None), AVERAGE, SUM)
    for row in range(10):
        for column in range(9):
            sums, valid, area = polygon_sums(codes[0], affine, crs, frame, row, column)
            if valid < 1e-9 * area:
                assert np.isnan([average[row, column], total[row, column]]).all()
            elif valid > 0.01 * area:  # slivers move with the bend of a side, 5 um
                assert average[row, column] == pytest.approx(sums / valid, rel=1e-5)
                assert total[row, column] == pytest.approx(sums, rel=1e-5, abs=1e-6 * area)


def test_overlaps_of_a_turned_raster_are_those_of_polygons(tmp_path: Path) -> None:
    codes = random_codes(50, 50)
    affine = Affine.translation(X0 + 60, Y0 + 30) * Affine.rotation(-57) * Affine.scale(3.1, -2.7)
    frame = frame_of(12, 12)
    tile = write_tile(tmp_path / "a.tif", codes, affine)
    values = averaged([tile], frame, Storage("float32", 1, None), AVERAGE)[0]
    for row in range(12):
        for column in range(12):
            sums, valid, area = polygon_sums(codes[0], affine, CRS, frame, row, column)
            expected = sums / valid if valid > 1e-6 * area else np.nan
            assert values[row, column] == pytest.approx(expected, rel=1e-6, nan_ok=True)
    assert np.isfinite(values).sum() > 60


def test_gdal_is_further_from_the_polygons_than_we_are(tmp_path: Path) -> None:
    """GDAL takes the box around a pixel that is turned by two degrees."""
    codes = random_codes(150, 150, holes=0)
    frame = frame_of(12, 12)
    x, y = Transformer.from_crs(CRS, "EPSG:3857", always_xy=True).transform(X0 - 20, Y0 + 20)
    affine = Affine(1.19432857, 0, x, 0, -1.19432857, y)
    tile = write_tile(tmp_path / "a.tif", codes, affine, crs="EPSG:3857")
    ours = averaged([tile], frame, Storage("float32", 1, None), AVERAGE)[0, 2:10, 2:10]
    options = {"transform": frame.affine, "width": 12, "height": 12, "tolerance": 1e-6}
    with (
        rasterio.open(tile.href) as file,
        WarpedVRT(file, crs=CRS, resampling=Resampling.average, **options) as warped,
    ):
        theirs = warped.read(1)[2:10, 2:10]
    expected = np.empty((8, 8))
    for row in range(8):
        for column in range(8):
            sums, valid, _ = polygon_sums(codes[0], affine, "EPSG:3857", frame, row + 2, column + 2)
            expected[row, column] = sums / valid
    assert np.abs(ours / expected - 1).max() < 1e-5
    assert 1e-3 < np.abs(theirs / expected - 1).max() < 0.2


@pytest.mark.parametrize("crs", [CRS, "EPSG:3857", "EPSG:32633"])
def test_a_sum_keeps_the_total(tmp_path: Path, crs: str) -> None:
    codes = random_codes(75, 64, holes=0.1)
    x, y = Transformer.from_crs(CRS, crs, always_xy=True).transform(X0 + 100, Y0 - 100)
    tile = write_tile(tmp_path / "a.tif", codes, Affine(3.3, 0, x, 0, -2.9, y), crs=crs)
    values = averaged([tile], frame_of(60, 60), Storage("float32", 1, None), SUM)
    assert np.nansum(values, dtype=np.float64) == pytest.approx(
        np.nansum(codes, dtype=np.float64), rel=1e-6
    )


def test_nodata_nan_and_infinity_have_no_weight(tmp_path: Path) -> None:
    codes = np.array([[[1, -99, 5, np.nan], [np.inf, 3, -99, -99]]], np.float32)
    tile = write_tile(tmp_path / "a.tif", codes, Affine(5, 0, X0, 0, -5, Y0))
    values = averaged([tile], frame_of(1, 3), Storage("float32", 1, -99), AVERAGE, SUM)
    np.testing.assert_array_equal(values, [[[2, 5, np.nan]], [[4, 5, np.nan]]])


def test_bands_are_valid_together(tmp_path: Path) -> None:
    codes = np.array([[[1, 3]], [[10, np.nan]]], np.float32)
    tile = write_tile(tmp_path / "a.tif", codes, Affine(5, 0, X0, 0, -10, Y0))
    storage = Storage("float32", 2, None, "average")
    np.testing.assert_array_equal(averaged([tile], frame_of(1, 1), storage).ravel(), [1, 10])
    alone = averaged([tile], frame_of(1, 1), storage, AVERAGE)
    np.testing.assert_array_equal(alone.ravel(), [2])


def test_without_nodata_a_zero_is_a_value(tmp_path: Path) -> None:
    codes = np.array([[[0, 0, 0, 12]]], np.uint8)
    tile = write_tile(tmp_path / "a.tif", codes, Affine(2.5, 0, X0, 0, -10, Y0))
    assert averaged([tile], frame_of(1, 1), Storage("uint8", 1, None), AVERAGE) == 3
    assert averaged([tile], frame_of(1, 1), Storage("uint8", 1, 0), AVERAGE) == 12


def test_canopy_is_the_height_of_trees_and_their_share(tmp_path: Path) -> None:
    codes = np.array([[[0, 1, 8, 20, 0, 1, 255, 255]]], np.uint8)
    tile = write_tile(tmp_path / "a.tif", codes, Affine(2.5, 0, X0, 0, -10, Y0))
    storage = Storage("uint8", 1, 255)
    height, fraction = averaged([tile], frame_of(1, 3), storage, *CANOPY.values())
    np.testing.assert_array_equal(height, [[14, np.nan, np.nan]])
    np.testing.assert_array_equal(fraction, [[0.5, 0, np.nan]])
    higher = canopy(9)["canopy_height"]
    assert averaged([tile], frame_of(1, 1), storage, higher) == 20
    filled = Quantity("mean_where_at_least", threshold=2, empty=0)
    np.testing.assert_array_equal(
        averaged([tile], frame_of(1, 3), storage, filled)[0], [[14, 0, np.nan]]
    )


def test_a_threshold_between_whole_numbers_divides_them(tmp_path: Path) -> None:
    codes = np.array([[[2, 3, 3, 3]]], np.uint8)
    tile = write_tile(tmp_path / "a.tif", codes, Affine(2.5, 0, X0, 0, -10, Y0))
    share = Quantity("fraction_at_least", threshold=2.5)
    assert averaged([tile], frame_of(1, 1), Storage("uint8", 1, None), share) == 0.75


def test_a_threshold_is_one_of_the_stored_dtype(tmp_path: Path) -> None:
    codes = np.full((1, 1, 4), 0.34, np.float32)
    tile = write_tile(tmp_path / "a.tif", codes, Affine(2.5, 0, X0, 0, -10, Y0))
    share = Quantity("fraction_at_least", threshold=0.34)
    assert averaged([tile], frame_of(1, 1), Storage("float32", 1, None), share) == 1


def test_buildings_are_weighted_by_presence_thresholded_and_counted(tmp_path: Path) -> None:
    count = [0.01, 0.02, 0, 0, 0, 0, -99, 0]
    height = [10, 20, 0, 6, 0, 0, -99, 3]
    presence = [0.5, 1, 0.1, 0, 0, 0, -99, 0.25]
    codes = np.array([[count], [height], [presence]], np.float32)
    tile = write_tile(tmp_path / "a.tif", codes, Affine(2.5, 0, X0, 0, -10, Y0))
    storage = Storage("float32", 3, -99)
    values = averaged([tile], frame_of(1, 2), storage, *BUILDINGS.values())
    mean = (10 * 0.5 + 20) / 1.6
    np.testing.assert_allclose(values[:, 0, 0], [mean, 0.5, 0.03], rtol=1e-6)
    np.testing.assert_allclose(values[:, 0, 1], [3, 0, 0], rtol=1e-6)
    nowhere = averaged([tile], frame_of(1, 2), Storage("float32", 3, 3), *BUILDINGS.values())
    assert np.isnan(nowhere[0, 0, 1])


def test_bands_of_buildings_are_found_by_name() -> None:
    turned = buildings(BUILDING_BANDS[::-1], min_presence=0.5)
    assert turned == {
        "building_height": Quantity("weighted_mean", band=1, weight_band=0),
        "building_fraction": Quantity("fraction_at_least", band=0, threshold=0.5),
        "building_count": Quantity("sum", band=2),
    }
    with pytest.raises(CatalogError, match=r"needs bands .*building_presence.* and has a, b"):
        buildings(("a", "b"))


def test_the_mode_is_the_code_with_the_largest_area_of_equal_ones_the_lower(
    tmp_path: Path,
) -> None:
    codes = np.array([[[7, 7, 3, 9, 9, 4, 4, 9, 0, 0, 6, 0, 0, 0, 0, 0]]], np.uint8)
    tile = write_tile(tmp_path / "a.tif", codes, Affine(2.5, 0, X0, 0, -10, Y0))
    values = averaged([tile], frame_of(1, 5), Storage("uint8", 1, 0, "mode"))
    assert values.dtype == np.uint8
    np.testing.assert_array_equal(values[0, 0], [7, 4, 6, 0, 0])


@pytest.mark.parametrize("crs", [CRS, "EPSG:4326"])
def test_the_mode_is_that_of_areas_counted_one_by_one(tmp_path: Path, crs: str) -> None:
    codes = np.random.default_rng(3).integers(1, 5, (1, 40, 40)).astype(np.int16)
    x, y = Transformer.from_crs(CRS, crs, always_xy=True).transform(X0 + 3, Y0 - 3)
    side = 3.7 / 90_000 if crs == "EPSG:4326" else 3.7
    affine = Affine(side, 0, x, 0, -side, y)
    tile = write_tile(tmp_path / "a.tif", codes, affine, crs=crs)
    frame = frame_of(9, 9)
    values = averaged([tile], frame, Storage("int16", 1, -1, "mode"))[0]
    for row in range(9):
        for column in range(9):
            outline = outline_of(frame, row, column, affine, crs)
            areas = np.zeros(5)
            for r, c in np.ndindex(40, 40):
                areas[codes[0, r, c]] += outline.intersection(shapely.box(c, r, c + 1, r + 1)).area
            if np.diff(np.sort(areas)[-2:]) > 1e-3:
                assert values[row, column] == areas.argmax()


def test_more_codes_than_classes_are_refused(tmp_path: Path) -> None:
    codes = np.arange(400, dtype=np.int32).reshape(1, 20, 20)
    tile = write_tile(tmp_path / "a.tif", codes, Affine(5, 0, X0, 0, -5, Y0))
    with pytest.raises(CatalogError, match="meets 400 codes or more and counts 256 at most"):
        averaged([tile], frame_of(10, 10), Storage("int32", 1, None, "mode"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rule": "median"}, "rule 'median' is unknown; known: average, "),
        ({"rule": "fraction_at_least"}, "needs threshold, which is None; give it"),
        ({"rule": "sum", "threshold": 2}, "has no use for threshold, which is 2; leave it out"),
        ({"rule": "weighted_mean"}, "needs weight_band, which is None"),
        ({"rule": "mode", "weight_band": 1}, "has no use for weight_band"),
    ],
)
def test_a_quantity_that_makes_no_sense_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Quantity(**given)


def test_quantities_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    frame, storage = frame_of(1, 1), Storage("uint8", 2, None)
    with pytest.raises(ConfigError, match=r"average, mode do not share a dtype"):
        averaged([], frame, storage, AVERAGE, MODE)
    with pytest.raises(ConfigError, match=r"band 2 and the layer has 2, counted from 0"):
        averaged([], frame, storage, Quantity("average", band=2))


def test_past_all_tiles_there_is_nothing() -> None:
    frame, far = frame_of(3, 3), Storage("uint8", 1, 9, "mode")
    assert np.isnan(averaged([], frame, far, AVERAGE)).all()
    assert (averaged([], frame, far) == 9).all()


def test_a_pixel_across_two_tiles_has_both_and_an_overlap_once(tmp_path: Path) -> None:
    """Stored pixels of 4 m: the seam at 16 m cuts pixel 1, and two columns overlap."""
    left = np.array([[[1, 2, 3, 4, 50, 60]]], np.float32)
    right = np.array([[[5, 6, 7, 8]]], np.float32)
    tiles = [
        write_tile(tmp_path / "b.tif", right, Affine(4, 0, X0 + 16, 0, -10, Y0)),
        write_tile(tmp_path / "c.tif", left, Affine(4, 0, X0, 0, -10, Y0)),
    ]
    values = averaged(tiles, frame_of(1, 4), Storage("float32", 1, None), AVERAGE, SUM)
    average = [(4 * 1 + 4 * 2 + 2 * 3) / 10, (2 * 3 + 4 * 4 + 4 * 5) / 10]
    average += [(4 * 6 + 4 * 7 + 2 * 8) / 10, 8]
    np.testing.assert_allclose(values[0, 0], average, rtol=1e-6)
    np.testing.assert_allclose(values[1, 0].sum(), 36, rtol=1e-6)


cuts = st.lists(st.integers(1, 89), max_size=2, unique=True).map(sorted)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_tiles_with_overlaps_and_holes_give_the_scene(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """In steps of half a metre every product is exact, and so is the sum in any order."""
    folder = tmp_path_factory.mktemp("tiling")
    scene = random_codes(90, 90)
    edges_y, edges_x = ([0, *data.draw(cuts), 90] for _ in range(2))
    pixel_m, is_slanted = data.draw(st.sampled_from([(1.5, False), (2.502, False), (1.19, True)]))
    crs = "EPSG:3857" if is_slanted else CRS
    x, y = Transformer.from_crs(CRS, crs, always_xy=True).transform(X0 + 4, Y0 - 2)
    x, y = np.floor([x, y])
    tiles = []
    for y0, y1 in pairwise(edges_y):
        for x0, x1 in pairwise(edges_x):
            over = data.draw(st.integers(0, 20))  # tiles overlap by this much, down and right
            part = scene[:, y0 : y1 + over, x0 : x1 + over]
            affine = Affine(pixel_m, 0, x + pixel_m * x0, 0, -pixel_m, y - pixel_m * y0)
            if data.draw(st.booleans()):
                affine *= Affine.translation(0, part.shape[1]) * Affine.scale(1, -1)
                part = part[:, ::-1]
            path = folder / f"{data.draw(st.integers(0, 9))}{len(tiles):02d}.tif"
            tiles.append(write_tile(path, part, affine, crs=crs))
    whole = write_tile(folder / "whole.tif", scene, Affine(pixel_m, 0, x, 0, -pixel_m, y), crs=crs)
    frame, storage = frame_of(24, 24), Storage("float32", 1, None)
    wanted = (AVERAGE, SUM, *CANOPY.values())
    values = averaged(tiles, frame, storage, *wanted)
    expected = averaged([whole], frame, storage, *wanted)
    if pixel_m == 1.5:
        np.testing.assert_array_equal(values, expected)
    else:
        np.testing.assert_allclose(values, expected, rtol=3e-7)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_rectangle_gives_the_same_bits(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    data: st.DataObject,
) -> None:
    monkeypatch.setattr("lczcube.averaging.SECTION_PX", 16)
    folder = tmp_path_factory.mktemp("rectangles")
    crs = data.draw(st.sampled_from([CRS, "EPSG:3857"]))
    x, y = Transformer.from_crs(CRS, crs, always_xy=True).transform(X0 + 4, Y0 - 2)
    codes = random_codes(130, 110)
    affine = Affine(2.502, 0, x, 0, -2.5024, y)
    beside = affine * Affine.translation(60.3, 20.7)
    tiles = [
        write_tile(folder / "a.tif", codes, affine, crs=crs),
        write_tile(folder / "b.tif", codes, beside, crs=crs),
    ]
    frame, storage = frame_of(40, 50), Storage("float32", 1, None)
    whole = averaged(tiles, frame, storage, AVERAGE, SUM, *CANOPY.values())
    top, left = data.draw(st.integers(0, 39)), data.draw(st.integers(0, 49))
    bottom, right = data.draw(st.integers(top + 1, 40)), data.draw(st.integers(left + 1, 50))
    rect = Rect(top, left, bottom, right)
    part = averaged(tiles, frame, storage, AVERAGE, SUM, *CANOPY.values(), rect=rect)
    np.testing.assert_array_equal(part, whole[:, top:bottom, left:right])


def test_a_hole_of_a_tile_is_filled_by_the_next(tmp_path: Path) -> None:
    codes = random_codes(50, 50, holes=0)
    affine = Affine(4, 0, X0, 0, -4, Y0)
    holed = codes.copy()
    holed[0, 10:30, 13:37] = np.nan
    tiles = [
        write_tile(tmp_path / "a.tif", holed, affine),
        write_tile(tmp_path / "b.tif", codes * 2, affine),
    ]
    frame, storage = frame_of(20, 20), Storage("float32", 1, None)
    values = averaged(tiles, frame, storage, AVERAGE, SUM)
    mixed = write_tile(tmp_path / "c.tif", np.where(np.isnan(holed), codes * 2, codes), affine)
    np.testing.assert_allclose(values, averaged([mixed], frame, storage, AVERAGE, SUM), rtol=1e-7)


def test_a_footprint_decides_before_the_order_of_tiles(tmp_path: Path) -> None:
    to_lonlat = Transformer.from_crs(CRS, "EPSG:4326", always_xy=True)
    left_half = shapely.box(X0, Y0 - 200, X0 + 100, Y0)
    footprint = shapely.transform(left_half, to_lonlat.transform, interleaved=False)
    ones = np.ones((1, 50, 50), np.float32)
    affine = Affine(4, 0, X0, 0, -4, Y0)
    tiles = [
        write_tile(tmp_path / "a.tif", ones, affine, footprint=footprint),
        write_tile(tmp_path / "b.tif", ones * 2, affine),
    ]
    frame, storage = frame_of(20, 20), Storage("float32", 1, None)
    average, total = averaged(tiles, frame, storage, AVERAGE, SUM)
    assert (average[:, :10] == 1).all()
    assert (average[:, 10:] == 2).all()
    assert total.sum() == 1250 + 2500
    alone = averaged(tiles[:1], frame, storage, AVERAGE)
    assert (alone == 1).all()


def test_a_seam_of_utm_zones_is_counted_once(tmp_path: Path) -> None:
    """One a square metre on both sides of 12 degrees: 100 a pixel, but for half pixels of 2 m."""
    to_lonlat = Transformer.from_crs(CRS, "EPSG:4326", always_xy=True)
    x, y = to_lonlat.transform(12.0, 48.5, direction="INVERSE")
    x, y = round(x / 10) * 10, round(y / 10) * 10
    frame = GeoBox((50, 60), Affine(10, 0, x - 300, 0, -10, y + 250), CRS)
    ones = np.full((1, 600, 600), 4, np.float32)
    away_x, away_y = Transformer.from_crs(CRS, "EPSG:32633", always_xy=True).transform(x, y)
    tiles = [
        write_tile(
            tmp_path / "b.tif",
            ones,
            Affine(2, 0, x - 601, 0, -2, y + 603),
            footprint=shapely.box(11, 48, 12, 49),
        ),
        write_tile(
            tmp_path / "a.tif",
            ones,
            Affine(2, 0, away_x - 600, 0, -2, away_y + 600),
            crs="EPSG:32633",
            footprint=shapely.box(12, 48, 13, 49),
        ),
    ]
    average, total = averaged(tiles, frame, Storage("float32", 1, None), AVERAGE, SUM)
    assert (average == 4).all()
    lon = to_lonlat.transform(x - 295 + 10 * np.arange(60), np.full(60, y))[0]
    beside = np.abs(lon - 12) * 73_800 > 20
    assert (~beside).sum() < 8
    np.testing.assert_allclose(total[:, beside], 100, rtol=3e-3)  # scales of the two zones
    np.testing.assert_allclose(total[:, ~beside], 100, atol=15)
    assert total.mean() == pytest.approx(100, rel=3e-3)


def test_a_tile_that_ends_at_the_date_line_meets_the_next(tmp_path: Path) -> None:
    to_lonlat = Transformer.from_crs("EPSG:32701", "EPSG:4326", always_xy=True)
    x, y = to_lonlat.transform(-180.0, -17.0, direction="INVERSE")
    frame = GeoBox((6, 8), Affine(10, 0, x - 43, 0, -10, y + 31), "EPSG:32701")
    side = 1 / 30_000
    ones = np.full((1, 100, 100), 1, np.float32)
    tiles = [
        write_tile(
            tmp_path / f"{name}.tif",
            ones * value,
            Affine(side, 0, west, 0, -side, -17 + 50 * side),
            crs="EPSG:4326",
        )
        for name, west, value in (("a", 180 - 100 * side, 2), ("b", -180, 4))
    ]
    placed = [place_tiles([tile], frame)[0] for tile in tiles]
    storage = Storage("float32", 1, None)
    values = read_averaged(placed, frame_rect(frame), frame, storage, [AVERAGE])[0]
    assert (values[:, :3] == 2).all()
    assert (values[:, 6:] == 4).all()
    np.testing.assert_allclose(values[:, 4], 2 * 0.3 + 4 * 0.7, atol=0.2)  # north is 1 degree off


def windows_of(caplog: pytest.LogCaptureFixture) -> list[tuple[int, int, int, int]]:
    found = (re.findall(r"(\d+)-(\d+)", record.message)[-2:] for record in caplog.records)
    return [(int(a), int(b), int(c), int(d)) for (a, b), (c, d) in found]


@pytest.mark.parametrize("block", [(16, 16), (1, 3000)], ids=["tiles", "strips"])
@pytest.mark.parametrize("crs", [CRS, "EPSG:3857", "south-up"])
def test_blocks_are_decoded_once_and_few_at_a_time(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    block: tuple[int, int],
    crs: str,
) -> None:
    monkeypatch.setattr("lczcube.averaging.SECTION_PX", 16)
    monkeypatch.setattr("lczcube.averaging.READ_BYTES", 4096)  # four sections
    codes = np.random.default_rng(0).random((1, 300, 3000), np.float32)
    turn = Affine(1, 0, 0, 0, 1, -300) if crs == "south-up" else Affine(1, 0, 0, 0, -1, 0)
    crs = CRS if crs == "south-up" else crs
    at = Transformer.from_crs(CRS, crs, always_xy=True).transform(X0 - 600, Y0 + 30)
    affine = Affine.translation(*at) * turn
    tile = write_tile(tmp_path / "a.tif", codes, affine, crs=crs, block=block)
    with caplog.at_level(logging.DEBUG, logger="lczcube.reader"):
        averaged([tile], frame_of(13, 17), Storage("float32", 1, None), AVERAGE)
    windows = windows_of(caplog)
    decoded = [
        (row, column)
        for top, bottom, left, right in windows
        for row in range(top // block[0], -(-bottom // block[0]))
        for column in range(left // block[1], -(-right // block[1]))
    ]
    assert len(decoded) == len(set(decoded)) > 40
    largest = max((bottom - top) * (right - left) for top, bottom, left, right in windows)
    assert largest <= 1024 if block == (16, 16) else largest <= 16 * 400


def test_memory_does_not_grow_with_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three bands of 0.5 m, 113 MB, 2 MB at a time."""
    monkeypatch.setattr("lczcube.averaging.READ_BYTES", 2 << 20)
    monkeypatch.setattr("lczcube.averaging.SECTION_PX", 256)
    codes = np.zeros((3, 3072, 3072), np.float32)
    codes[:, ::2] = 0.5
    affine = Affine(0.5, 0, X0, 0, -0.5, Y0)
    tile = write_tile(tmp_path / "a.tif", codes, affine, block=(256, 256))
    del codes
    frame, storage = frame_of(153, 153), Storage("float32", 3, -99)
    first = Rect(0, 0, 1, 1)
    averaged([tile], frame, storage, *BUILDINGS.values(), rect=first)
    tracemalloc.start()
    values = averaged([tile], frame, storage, *BUILDINGS.values())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 << 20
    np.testing.assert_array_equal(values[:, 5, 5], np.float32([0.5, 0.5, 100]))


def with_averages(folder: Path, *, dtype: str = "float32", rows: int = 128) -> tuple[Tile, Pixels]:
    codes = (random_codes(rows, 192, holes=0) * 4).astype(dtype)
    affine = Affine(0.5, 0, X0 + 4, 0, -0.5, Y0 - 2)
    return write_tile(folder / "a.tif", codes, affine, overviews=Resampling.average), codes


@pytest.mark.parametrize("rows", [128, 132], ids=["whole", "cut off by the third"])
def test_overviews_serve_averages_and_sums(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, rows: int
) -> None:
    tile, codes = with_averages(tmp_path, rows=rows)
    frame, storage = frame_of(8, 12), Storage("float32", 1, None)
    exact = averaged([tile], frame, storage, AVERAGE, SUM)
    with caplog.at_level(logging.DEBUG, logger="lczcube.reader"):
        values = averaged([tile], frame, storage, AVERAGE, SUM, use_overviews=True)
    assert not caplog.records, "pixels of the tile itself were read"
    assert np.nansum(values[1]) == pytest.approx(codes.sum(dtype=np.float64), rel=1e-6)
    np.testing.assert_allclose(values[0, 1:-1, 1:-1], exact[0, 1:-1, 1:-1], rtol=0.1)


@pytest.mark.parametrize(
    ("dtype", "quantity", "pixel_m"),
    [
        ("float32", Quantity("fraction_at_least", threshold=9), 10),
        ("float32", Quantity("mean_where_at_least", threshold=9), 10),
        ("uint8", AVERAGE, 10),
        ("float32", AVERAGE, 1),
    ],
    ids=["share", "mean of part", "whole numbers", "a fine frame"],
)
def test_overviews_are_left_where_they_would_be_wrong(
    tmp_path: Path, dtype: str, quantity: Quantity, pixel_m: float
) -> None:
    tile, _ = with_averages(tmp_path, dtype=dtype)
    frame, storage = frame_of(8, 12, pixel_m=pixel_m), Storage(dtype, 1, None)
    np.testing.assert_array_equal(
        averaged([tile], frame, storage, quantity, use_overviews=True),
        averaged([tile], frame, storage, quantity),
    )


def test_a_south_up_overview_is_turned(tmp_path: Path) -> None:
    codes = np.mgrid[0:64, 0:64].astype(np.float32)
    affine = Affine(1.25, 0, X0, 0, 1.25, Y0 - 80)
    south_up = write_tile(tmp_path / "a.tif", codes[:, ::-1], affine, overviews=Resampling.average)
    storage = Storage("float32", 2, None, "average")
    values = averaged([south_up], frame_of(8, 8), storage, use_overviews=True)
    np.testing.assert_allclose(values, np.mgrid[0:8, 0:8] * 8 + 3.5)


def test_a_file_that_broke_off_is_named(tmp_path: Path) -> None:
    tile, _ = with_averages(tmp_path)
    whole = Path(tile.href).read_bytes()
    Path(tile.href).write_bytes(whole[:-8000] + b"\0" * 8000)
    storage = Storage("float32", 1, None)
    with pytest.raises(SourceError, match=r"a\.tif broke off while its overview was read"):
        averaged([tile], frame_of(8, 12), storage, AVERAGE, use_overviews=True)
    Path(tile.href).unlink()
    with pytest.raises(SourceError, match=r"a\.tif cannot be opened"):
        averaged([tile], frame_of(8, 12), storage, AVERAGE)


def test_arrays_of_other_kinds_are_averaged_too(tmp_path: Path) -> None:
    codes = random_codes(30, 40)[0]
    np.save(tmp_path / "a.npy", codes)
    affine = Affine(4, 0, X0 + 1, 0, -4, Y0 - 3)
    at = ("a", str(tmp_path / "a.npy"), "npy", CRS, affine, (30, 40), (30, 40), "y,x", "", None)
    frame = frame_of(12, 15)
    values = averaged([Tile(*at, None)], frame, Storage("float32", 1, None), AVERAGE)[0]
    expected = matrix_average(codes, np.isfinite(codes), affine, frame)
    np.testing.assert_allclose(values, expected, rtol=2e-7)


def real_tile(path: Path) -> tuple[Tile, Pixels]:
    with rasterio.open(path) as file:
        codes, block = file.read(), file.block_shapes[0]
        crs, affine = file.crs.to_string(), file.transform
    at = (path.stem, str(path), "gdal", crs, affine, codes.shape[1:], block, "band,y,x", "", None)
    return Tile(*at, None), codes


@pytest.mark.parametrize("name", ["BDSM", "CDSM"])
def test_the_volume_of_bilbao_is_kept(realdata: Path, name: str) -> None:
    tile, codes = real_tile(realdata / "heights" / f"{name}.tif")
    frame = GeoBox((342, 342), Affine(10, 0, 499_390, 0, -10, 4_797_210), tile.crs)
    storage = Storage("int16", 1, None)
    total, average, share = averaged(
        [tile], frame, storage, SUM, AVERAGE, Quantity("fraction_at_least", threshold=-32768)
    )
    assert np.nansum(total, dtype=np.float64) == pytest.approx(
        codes.sum(dtype=np.float64), rel=1e-6
    )
    inner = average[2:-2, 2:-2]
    assert (share[2:-2, 2:-2] == 1).all()
    px_area = abs(tile.affine.determinant)
    volume = np.nansum(total[2:-2, 2:-2], dtype=np.float64) * px_area
    assert inner.sum(dtype=np.float64) * 100 == pytest.approx(volume, rel=1e-6)
    expected = matrix_average(codes[0], np.ones(codes.shape[1:]), tile.affine, frame)
    np.testing.assert_allclose(average, expected, rtol=3e-7, atol=1e-6)


def test_radar_of_beijing_is_that_of_polygons(realdata: Path) -> None:
    tile, codes = real_tile(realdata / "beijing" / "THU_2020_sentinel_1_50pt.tif")
    to_utm = Transformer.from_crs("EPSG:4326", "EPSG:32650", always_xy=True)
    x, y = (round(v / 100) * 100 for v in to_utm.transform(tile.affine.c, tile.affine.f))
    frame = GeoBox((68, 60), Affine(100, 0, x - 200, 0, -100, y + 200), "EPSG:32650")
    values = averaged([tile], frame, Storage("float32", 2, None, "average"))
    together = np.where(np.isfinite(codes).all(axis=0), codes[0], np.nan)
    rng = np.random.default_rng(5)
    for row, column in zip(rng.integers(0, 68, 25), rng.integers(0, 60, 25), strict=True):
        square = shapely.segmentize(shapely.box(column, row, column + 1, row + 1), 1 / 16)
        xy = np.array([frame.affine * point for point in square.exterior.coords])
        lonlat = to_utm.transform(xy[:, 0], xy[:, 1], direction="INVERSE")
        outline = shapely.Polygon(np.column_stack(~tile.affine * lonlat))
        left, top, right, bottom = (int(v) for v in outline.bounds)
        sums = valid = 0.0
        for r in range(max(top, 0), min(bottom + 1, together.shape[0])):
            for c in range(max(left, 0), min(right + 1, together.shape[1])):
                if np.isfinite(together[r, c]):
                    area = outline.intersection(shapely.box(c, r, c + 1, r + 1)).area
                    sums, valid = sums + area * float(together[r, c]), valid + area
        expected = sums / valid if valid > 1e-3 * outline.area else np.nan
        if valid == 0 or valid > 1e-3 * outline.area:
            assert values[0, row, column] == pytest.approx(expected, abs=2e-5, nan_ok=True)


def test_heights_of_alexandria_skip_their_nodata(realdata: Path) -> None:
    tile, codes = real_tile(realdata / "heights" / "hag.tif")
    frame = GeoBox((56, 60), Affine(10, 0, 321_480, 0, -10, 4_298_030), tile.crs)
    storage = Storage("float32", 1, -9999)
    average, height, share = averaged([tile], frame, storage, AVERAGE, *CANOPY.values())
    valid = codes[0] != -9999
    expected = matrix_average(codes[0], valid, tile.affine, frame)
    np.testing.assert_allclose(average, expected, rtol=3e-6, atol=1e-6)
    tall = valid & (codes[0] >= 2)
    expected = matrix_average(codes[0], tall, tile.affine, frame)
    np.testing.assert_allclose(height, expected, rtol=3e-7)
    expected = matrix_average(tall.astype(float), valid, tile.affine, frame)
    np.testing.assert_allclose(share, expected, rtol=3e-7)
