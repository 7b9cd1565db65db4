"""A map as GeoParquet, styles, and canopy parameters; labels as training areas."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyogrio
import pyproj
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from lczcube.errors import LabelError, MissingInputError, SourceError
from lczcube.exports import (
    ProductMap,
    building_parameters,
    canopy_parameters,
    cells,
    published_parameters,
    write_cells,
    write_clr,
    write_qml,
    write_training_areas,
)
from lczcube.exports.product_map import row_strips
from lczcube.exports.training_areas import DIGITS
from lczcube.grid import Grid
from lczcube.lcz import ZONES, colors
from lczcube.products import _draw_scale_bar, _round_length
from lczcube.sources.class_folders import classes_of
from lczcube.sources.kml import read_kml
from tests.product_scenes import TAGS, map_of_codes, position_map

GRID = Grid("EPSG:32632", (1600, 15650, 1602, 15651), chunk_cells=1)
"""32 x 64 pixels of 10 m."""


@pytest.fixture(scope="module")
def lcz_map(tmp_path_factory: pytest.TempPathFactory) -> ProductMap:
    return position_map(GRID, tmp_path_factory.mktemp("map") / "lcz.zarr")


# GeoParquet


def test_geoparquet_has_a_square_for_every_pixel_with_a_class(
    lcz_map: ProductMap, tmp_path: Path
) -> None:
    table = gpd.read_parquet(write_cells(lcz_map, tmp_path / "c.parquet"))
    codes = lcz_map.data["lcz"].values
    row, column = np.nonzero(codes)
    assert table.crs == "EPSG:32632"
    assert table["lcz"].tolist() == codes[row, column].tolist()
    assert table["zone"].tolist() == [ZONES[c - 1].letter for c in codes[row, column]]
    west, north = lcz_map.geobox.affine * (column, row)
    expected = np.column_stack([west, north - 10, west + 10, north])
    np.testing.assert_array_equal(table.bounds.to_numpy(), expected)
    assert (table.area == 100).all()


def test_geoparquet_has_the_probabilities_as_shares(lcz_map: ProductMap, tmp_path: Path) -> None:
    table = gpd.read_parquet(write_cells(lcz_map, tmp_path / "c.parquet"))
    shares = table[[zone.slug for zone in ZONES]].to_numpy()
    assert shares.dtype == np.float32
    np.testing.assert_array_equal(table["confidence"], np.float32(0.6))
    assert (shares.argmax(axis=1) + 1 == table["lcz"]).all()
    np.testing.assert_allclose(shares.sum(axis=1), 0.6, atol=1e-6)


def test_geoparquet_says_what_the_map_is(lcz_map: ProductMap, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    found = pq.read_schema(write_cells(lcz_map, tmp_path / "c.parquet")).metadata
    assert json.loads(found[b"lczcube"]) == TAGS
    assert json.loads(found[b"geo"])["columns"]["geometry"]["bbox"] == list(GRID.bbox)


def test_strips_give_the_table_of_one_piece(
    lcz_map: ProductMap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = gpd.read_parquet(write_cells(lcz_map, tmp_path / "whole.parquet"))
    monkeypatch.setattr(cells, "row_strips", lambda n, m: row_strips(n, m, most_px=5 * m))
    strips = gpd.read_parquet(write_cells(lcz_map, tmp_path / "strips.parquet"))
    pd.testing.assert_frame_equal(strips, whole)


# Styles


def test_a_qml_names_and_colours_every_class(tmp_path: Path) -> None:
    root = ElementTree.parse(write_qml(tmp_path / "lcz.qml")).getroot()
    entries = root.findall("./pipe/rasterrenderer[@type='paletted']/colorPalette/paletteEntry")
    assert [e.get("value") for e in entries] == [str(z.code) for z in ZONES]
    assert [e.get("color") for e in entries] == [f"#{z.wudapt.lower()}" for z in ZONES]
    assert entries[10].get("label") == "LCZ A: Dense trees"


def test_a_clr_has_the_colours_of_every_class(tmp_path: Path) -> None:
    table = np.loadtxt(write_clr(tmp_path / "lcz.clr"), dtype=int)
    np.testing.assert_array_equal(table[:, 0], np.arange(1, 18))
    np.testing.assert_array_equal(table[:, 1:], colors()[1:])


# Canopy parameters


def heights_file(
    path: Path,
    heights: npt.NDArray[np.float32],
    *,
    pixel_m: float = 2,
    nodata: float | None = None,
    crs: str = "EPSG:32632",
) -> Path:
    """A raster of heights from the upper left corner of the grid."""
    west, _, _, north = GRID.bbox
    rows, columns = heights.shape
    profile = {"driver": "GTiff", "dtype": "float32", "count": 1, "crs": crs, "nodata": nodata}
    transform = Affine(pixel_m, 0, west, 0, -pixel_m, north)
    with rasterio.open(
        path, "w", width=columns, height=rows, transform=transform, **profile
    ) as file:
        file.write(heights.astype(np.float32), 1)
    return path


def halves(store: Path) -> ProductMap:
    """LCZ 3 in the western 320 m, LCZ 6 in the eastern."""
    codes = np.full(GRID.shape, 3, dtype=np.uint8)
    codes[:, 32:] = 6
    return map_of_codes(codes, GRID, store)


def test_parameters_of_one_block_of_houses_are_those_worked_by_hand(tmp_path: Path) -> None:
    heights = np.zeros((160, 320), np.float32)
    # In LCZ 3: 40 x 100 m of 8 m and beside it, wall to wall, 40 x 100 m of 4 m.
    heights[20:40, 20:70], heights[40:60, 20:70] = 8, 4
    found = building_parameters(
        halves(tmp_path / "m.zarr"), heights_file(tmp_path / "h.tif", heights), scratch=tmp_path
    )
    row = found.table.loc[3]
    # 2,000 pixels of 8,000 m2 in 102,400 m2 of ground.
    assert row["BLDFR_URB2D"] == pytest.approx(8000 / 102_400)
    assert row["MH_URB2D"] == pytest.approx(6)
    assert (row["MH_URB2D_MIN"], row["MH_URB2D_MAX"]) == pytest.approx((4.05, 8.05))
    # Walls: of 8 m along 100 + 2 x 40 m, of 4 m along as much; the wall between them is inside.
    walls_m2 = (8 * 180 + 4 * 180) * np.pi / 4
    assert row["H2W"] == pytest.approx(walls_m2 / 102_400 / (2 * (1 - 8000 / 102_400)))
    assert row["FRC_URB2D"] == 0.85
    told = found.sources.loc[3]
    assert told["area_km2"] == pytest.approx(0.1024)
    assert told["built_km2"] == pytest.approx(0.008)
    assert told["FRC_URB2D"] == "published"
    assert (told[list(canopy_parameters.PARAMETERS[1:])] == "local").all()


def test_a_class_with_little_ground_or_no_building_keeps_published_values(tmp_path: Path) -> None:
    heights = np.zeros((160, 320), np.float32)
    heights[20:60, 20:60] = 8
    lcz_map = halves(tmp_path / "m.zarr")
    path = heights_file(tmp_path / "h.tif", heights)
    found = building_parameters(lcz_map, path, scratch=tmp_path)
    assert found.table.loc[6].tolist() == published_parameters().loc[6].tolist()
    assert found.sources.loc[6, "note"] == "no building"
    few = building_parameters(lcz_map, path, scratch=tmp_path, min_area_km2=0.11)
    pd.testing.assert_frame_equal(few.table, published_parameters())
    assert few.sources.loc[3, "note"] == "0.102 km2 with heights, under 0.11"


def test_values_that_w2w_could_not_use_stay_published(tmp_path: Path) -> None:
    heights = np.zeros((160, 320), np.float32)
    heights[:, 160:300] = 5  # one height, and 7/8 of the ground: over FRC_URB2D of LCZ 6, 0.6
    path = heights_file(tmp_path / "h.tif", heights)
    found = building_parameters(halves(tmp_path / "m.zarr"), path, scratch=tmp_path)
    assert found.table.loc[6].tolist() == published_parameters().loc[6].tolist()
    assert "not in order" in found.sources.loc[6, "note"]
    assert "built share 0.88 is not below FRC_URB2D 0.6" in found.sources.loc[6, "note"]


def test_unknown_heights_are_neither_ground_nor_building(tmp_path: Path) -> None:
    heights = np.zeros((160, 320), np.float32)
    heights[20:60, 20:60] = 8
    heights[:, :10], heights[:10], heights[-10:] = -9999, np.nan, -3
    path = heights_file(tmp_path / "h.tif", heights, nodata=-9999)
    lcz_map = halves(tmp_path / "m.zarr")
    found = building_parameters(lcz_map, path, scratch=tmp_path, min_area_km2=0.05)
    assert found.sources.loc[3, "area_km2"] == pytest.approx(140 * 150 * 4 / 1e6)
    assert found.table.loc[3, "BLDFR_URB2D"] == pytest.approx(1600 / (140 * 150))


@given(seed=st.integers(0, 50), step=st.integers(7, 90))
@settings(max_examples=6, deadline=None)
def test_any_block_gives_the_same_parameters(
    seed: int, step: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("ucp")
    random = np.random.default_rng(seed)
    heights = np.where(random.random((160, 320)) < 0.3, random.integers(3, 30, (160, 320)), 0)
    path = heights_file(folder / "h.tif", heights.astype(np.float32))
    lcz_map = halves(folder / "m.zarr")
    whole = building_parameters(lcz_map, path, scratch=folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(canopy_parameters, "_STEP_PX", step)
        blocks = building_parameters(lcz_map, path, scratch=folder)
    pd.testing.assert_frame_equal(blocks.table, whole.table)
    pd.testing.assert_frame_equal(blocks.sources, whole.sources)


def test_real_heights_give_the_shares_of_plain_numpy(realdata: Path, tmp_path: Path) -> None:
    """Bilbao's buildings, 2.5 m, with made-up classes: north LCZ 2, south LCZ 5."""
    path = realdata / "heights" / "BDSM.tif"
    with rasterio.open(path) as file:
        heights, bounds, transform = file.read(1).astype(float), file.bounds, file.transform
    grid = Grid.from_bbox(tuple(bounds), bbox_crs="EPSG:25830", crs="EPSG:25830")
    codes = np.full(grid.shape, 5, dtype=np.uint8)
    codes[: grid.shape[0] // 2] = 2
    lcz_map = map_of_codes(codes, grid, tmp_path / "m.zarr")
    found = building_parameters(lcz_map, path, scratch=tmp_path)
    middle = grid.geobox.affine.f - 10 * (grid.shape[0] // 2)
    north = transform.f + transform.e * (np.arange(heights.shape[0]) + 0.5) > middle
    for code, rows in ((2, north), (5, ~north)):
        of_class = heights[rows]
        built = of_class[of_class >= 2]
        row = found.table.loc[code]
        assert row["BLDFR_URB2D"] == pytest.approx(built.size / of_class.size, rel=1e-3)
        assert row["MH_URB2D"] == pytest.approx(built.mean(), rel=1e-3)
        low, high = np.quantile(built, [0.05, 0.95])
        assert (row["MH_URB2D_MIN"], row["MH_URB2D_MAX"]) == pytest.approx((low, high), abs=0.1)
        assert 0.1 < row["H2W"] < 5


def test_the_table_is_laid_out_as_w2w_reads_it(lcz_map: ProductMap, tmp_path: Path) -> None:
    heights = np.zeros((160, 320), np.float32)
    heights[20:40] = np.linspace(3, 30, 320)
    path = heights_file(tmp_path / "h.tif", heights)
    found = building_parameters(lcz_map, path, scratch=tmp_path, min_area_km2=0.001)
    table, sources = found.write(tmp_path / "ucp.csv")
    head, first = table.read_text().splitlines()[:2]
    assert head == ",FRC_URB2D,MH_URB2D_MIN,MH_URB2D,MH_URB2D_MAX,BLDFR_URB2D,H2W"
    assert first.startswith("1,0.95,")
    back = pd.read_csv(table, index_col=0)
    built = back.loc[1:10]
    assert (built["MH_URB2D_MIN"] < built["MH_URB2D"]).all()
    assert (built["MH_URB2D"] < built["MH_URB2D_MAX"]).all()
    assert (built["BLDFR_URB2D"] < built["FRC_URB2D"]).all()
    assert pd.read_csv(sources, index_col="lcz")["MH_URB2D"].isin(["local", "published"]).all()


def test_heights_that_cannot_be_used_are_refused(lcz_map: ProductMap, tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="no such file"):
        building_parameters(lcz_map, tmp_path / "none.tif", scratch=tmp_path)
    degrees = heights_file(tmp_path / "d.tif", np.zeros((2, 2), np.float32), crs="EPSG:4326")
    feet = heights_file(tmp_path / "f.tif", np.zeros((2, 2), np.float32), crs="EPSG:2263")
    with pytest.raises(SourceError, match=r"EPSG:2263, in US survey foot; .* CRS in metres"):
        building_parameters(lcz_map, feet, scratch=tmp_path)
    with pytest.raises(SourceError, match="CRS in metres"):
        building_parameters(lcz_map, degrees, scratch=tmp_path)
    elsewhere = heights_file(tmp_path / "e.tif", np.zeros((2, 2), np.float32), crs="EPSG:32633")
    with pytest.raises(SourceError, match="no height where the map has a class"):
        building_parameters(lcz_map, elsewhere, scratch=tmp_path)
    (tmp_path / "text.tif").write_text("no raster")
    with pytest.raises(SourceError, match="cannot be read as a raster"):
        building_parameters(lcz_map, tmp_path / "text.tif", scratch=tmp_path)


# Training areas


def label_table(shapes: list[shapely.Geometry], codes: list[int], crs: str) -> gpd.GeoDataFrame:
    named = [f"a<{n}>&" for n in range(len(codes))]
    return gpd.GeoDataFrame({"lcz": codes, "patch_id": named}, geometry=shapes, crs=crs)


def real_areas(realdata: Path) -> gpd.GeoDataFrame:
    """Polygons of the training areas of Melbourne."""
    kml = read_kml(str(next((realdata / "training_areas").glob("*2019*.kml"))))
    classes = classes_of(kml.folders)
    marks = [m for m in kml.placemarks if m.folder in classes and m.geometry is not None]
    return label_table(
        [mark.geometry for mark in marks], [classes[m.folder].code for m in marks], "EPSG:4326"
    )


def by_our_reader(path: Path) -> list[tuple[int, shapely.Geometry]]:
    kml = read_kml(str(path))
    classes = classes_of(kml.folders)
    return [(classes[mark.folder].code, mark.geometry) for mark in kml.placemarks]


def by_gdal(path: Path) -> list[tuple[int, shapely.Geometry]]:
    found = []
    for name, _ in pyogrio.list_layers(path):
        layer = pyogrio.read_dataframe(path, layer=name, force_2d=True)
        code = next(zone.code for zone in ZONES if zone.letter == name)
        found += [(code, shape) for shape in layer.geometry]
    return found


SQUARE = shapely.box(512_000, 5_009_000, 512_300, 5_009_200)
WITH_HOLE = shapely.Polygon(
    SQUARE.exterior, [shapely.box(512_100, 5_009_050, 512_150, 5_009_100).exterior]
)


@pytest.mark.parametrize("reader", [by_our_reader, by_gdal])
def test_training_areas_come_back_with_their_shapes_and_classes(
    reader: object, tmp_path: Path
) -> None:
    both = shapely.MultiPolygon([SQUARE, shapely.transform(WITH_HOLE, lambda p: p + 1000)])
    labels = label_table([WITH_HOLE, both, SQUARE], [17, 2, 17], "EPSG:32632")
    found = reader(write_training_areas(labels, tmp_path / "ta.kml"))  # type: ignore[operator]
    assert [code for code, _ in found] == [2, 2, 17, 17]
    expected = labels.to_crs("EPSG:4326").geometry
    for (_, shape), own in zip(found, [*expected[1].geoms, expected[0], expected[2]], strict=True):
        assert shapely.equals_exact(shape, own, 10.0**-DIGITS)


@pytest.mark.parametrize("reader", [by_our_reader, by_gdal])
def test_real_training_areas_come_back(reader: object, realdata: Path, tmp_path: Path) -> None:
    labels = real_areas(realdata)
    found = reader(write_training_areas(labels, tmp_path / "ta.kml"))  # type: ignore[operator]
    expected = labels.sort_values("lcz", kind="stable").explode()
    assert [code for code, _ in found] == expected["lcz"].tolist()
    shapes = shapely.force_2d(expected.geometry.to_numpy())
    kept = [shape for _, shape in found]
    assert shapely.equals_exact(kept, shapes, 10.0**-DIGITS).all()


def test_folders_have_the_names_that_the_generator_takes(tmp_path: Path) -> None:
    labels = label_table([SQUARE] * 17, list(range(17, 0, -1)), "EPSG:32632")
    layers = pyogrio.list_layers(write_training_areas(labels, tmp_path / "ta.kml"))
    assert layers[:, 0].tolist() == [*map(str, range(1, 11)), *"ABCDEFG"]


def test_thinning_keeps_outlines_within_its_tolerance_and_every_area(
    realdata: Path, tmp_path: Path
) -> None:
    labels = real_areas(realdata)
    whole = write_training_areas(labels, tmp_path / "whole.kml")
    thin = write_training_areas(labels, tmp_path / "thin.kml", thin_m=20)
    assert thin.stat().st_size < whole.stat().st_size
    metres = gpd.GeoSeries([s for _, s in by_our_reader(thin)], crs="EPSG:4326").to_crs(32755)
    before = gpd.GeoSeries([s for _, s in by_our_reader(whole)], crs="EPSG:4326").to_crs(32755)
    assert len(metres) == len(before)
    moved = shapely.hausdorff_distance(metres.exterior, before.exterior)
    assert 1 < moved.max() < 20.1


def test_areas_over_ten_megabytes_are_refused_and_thinned_ones_are_not(tmp_path: Path) -> None:
    angles = np.linspace(0, 2 * np.pi, 500_000, endpoint=False)
    circle = np.column_stack([500_000 + 1000 * np.cos(angles), 5e6 + 1000 * np.sin(angles)])
    labels = label_table([shapely.Polygon(circle)], [11], "EPSG:32632")
    with pytest.raises(LabelError, match=r"take 10\.\d MB at a tolerance of 0 m"):
        write_training_areas(labels, tmp_path / "ta.kml")
    assert not (tmp_path / "ta.kml").exists()
    assert write_training_areas(labels, tmp_path / "ta.kml", thin_m=1).stat().st_size < 20_000


@pytest.mark.parametrize(
    ("shapes", "codes", "words"),
    [
        ([], [], "no label to export"),
        ([SQUARE], [18], r"18 \(1 times\)"),
        ([SQUARE], [0], "LCZ 0"),
        ([shapely.Point(0, 0)], [3], "Point; training areas are polygons"),
    ],
)
def test_labels_that_are_no_training_areas_are_refused(
    shapes: list[shapely.Geometry], codes: list[int], words: str, tmp_path: Path
) -> None:
    with pytest.raises(LabelError, match=words):
        write_training_areas(label_table(shapes, codes, "EPSG:32632"), tmp_path / "ta.kml")


def test_names_are_escaped_and_no_date_is_written(tmp_path: Path) -> None:
    labels = label_table([SQUARE], [3], "EPSG:32632")
    path = write_training_areas(labels, tmp_path / "ta.kml", name="a & b", note="<by me>")
    layer = pyogrio.read_dataframe(path)
    assert layer["Name"].tolist() == ["a<0>&"]
    assert not re.search(r"timestamp|TimeSpan", path.read_text(), re.IGNORECASE)
    assert pyproj.CRS(layer.crs).to_epsg() == 4326


# Scale bar


@given(most=st.floats(1e-3, 1e4))
def test_a_scale_bar_is_the_longest_round_one_that_fits(most: float) -> None:
    length = _round_length(most)
    assert length <= most * (1 + 1e-9) < 2.5 * length * (1 + 1e-6)
    assert f"{length:.0e}"[0] in "125"
    assert float(f"{length:.0e}") == pytest.approx(length)


def test_a_scale_bar_is_as_long_as_it_says() -> None:
    axis = Figure().subplots()
    _draw_scale_bar(axis, (650.0, 677.0, 4600.0, 4620.0))
    lengths = {float(np.ptp(line.get_xdata())) for line in axis.lines}
    assert lengths == {5.0}
    assert [text.get_text() for text in axis.texts] == ["5 km"]
