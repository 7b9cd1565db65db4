import os
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from rasterio.features import rasterize
from rasterio.transform import Affine

from lczcube.errors import LabelError, MissingInputError, SourceError
from lczcube.sources import SOURCES, SourceItem, build_items
from lczcube.sources.files import expand_hrefs
from lczcube.sources.label_tables import TABLE_COLUMNS

REALDATA = Path(
    os.environ.get("LCZCUBE_REALDATA", Path(__file__).parents[1] / ".." / "shared" / "data")
)
real = pytest.mark.skipif(
    not REALDATA.is_dir(), reason="no real data: LCZCUBE_REALDATA names no folder"
)

UTM32 = "EPSG:32632"
NORTH_UP = Affine(10, 0, 500_000, 0, -10, 5_000_000)


def write_raster(
    path: Path,
    codes: Any,
    *,
    crs: str | None = UTM32,
    transform: Affine = NORTH_UP,
    nodata: float | None = None,
    names: tuple[str, ...] = (),
    **profile: Any,
) -> Path:
    bands = np.atleast_3d(np.asarray(codes).T).T
    with rasterio.open(
        path,
        "w",
        driver=profile.pop("driver", "GTiff"),
        count=bands.shape[0],
        height=bands.shape[1],
        width=bands.shape[2],
        dtype=bands.dtype,
        crs=crs,
        transform=transform,
        nodata=nodata,
        **profile,
    ) as raster:
        raster.write(bands)
        for i, name in enumerate(names, 1):
            raster.set_band_description(i, name)
    return path


def squares(classes: Any, *, crs: str | None = UTM32, **columns: Any) -> gpd.GeoDataFrame:
    """Squares of 100 m in a row, one class each."""
    boxes = [shapely.box(500_000 + 200 * i, 0, 500_100 + 200 * i, 100) for i in range(len(classes))]
    return gpd.GeoDataFrame({"lcz": classes, **columns}, geometry=boxes, crs=crs)


def write_polygons(path: Path, frame: gpd.GeoDataFrame) -> Path:
    frame.to_file(path, driver="GPKG", engine="pyogrio")
    return path


def register(source: str, path: Path | str, **keys: Any) -> SourceItem:
    if source == "raster" and not keys.get("static"):
        keys.setdefault("year", 2020)
    entry = SOURCES[source].model_validate(
        {"name": "x", "source": source, "href": str(path), **keys}
    )
    (file,) = expand_hrefs(entry, folder=Path("/"), cities=())
    (made,) = build_items(entry, file)
    return made


def bands_of(made: SourceItem) -> list[dict[str, Any]]:
    bands: list[dict[str, Any]] = made.item.assets["data"].extra_fields["bands"]
    return bands


def table_of(source: str, path: Path | str, **keys: Any) -> gpd.GeoDataFrame:
    table = register(source, path, **keys).table
    assert table is not None
    return table.frame


def polygon_codes(path: Path, **keys: Any) -> list[int]:
    return list(table_of("polygons", path, class_column="lcz", **keys)["lcz"])


# Rasters


def test_a_raster_item_says_where_its_pixels_lie(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", np.zeros((3, 4), "uint8"))
    properties = register("raster", path).item.properties
    assert properties["proj:code"] == UTM32
    assert properties["proj:shape"] == [3, 4]
    assert properties["proj:transform"] == [10, 0, 500_000, 0, -10, 5_000_000]
    assert properties["proj:bbox"] == [500_000, 4_999_970, 500_040, 5_000_000]


def test_a_raster_item_is_of_its_year(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", np.zeros((3, 4), "uint8"))
    item = register("raster", path).item
    assert item.id == "x_2020_a"
    assert item.to_dict()["properties"]["datetime"] == "2020-01-01T00:00:00Z"
    assert item.properties["start_datetime"] == "2020-01-01T00:00:00Z"
    assert item.properties["end_datetime"] == "2020-12-31T23:59:59Z"


def test_a_static_raster_without_year_has_no_datetime_but_an_interval(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", np.zeros((3, 4), "uint8"))
    item = register("raster", path, static=True).item
    assert (item.id, item.datetime) == ("x_a", None)
    assert item.properties["start_datetime"] == "1970-01-01T00:00:00Z"
    assert item.properties["end_datetime"] == "2099-12-31T23:59:59Z"


def test_a_south_up_raster_keeps_its_transform_and_has_a_sorted_bbox(tmp_path: Path) -> None:
    south_up = Affine(10, 0, 500_000, 0, 10, 4_999_970)
    path = write_raster(tmp_path / "a.tif", np.zeros((3, 4), "uint8"), transform=south_up)
    properties = register("raster", path).item.properties
    assert properties["proj:transform"][4:] == [10, 4_999_970]
    assert properties["proj:bbox"] == [500_000, 4_999_970, 500_040, 5_000_000]


def test_bands_are_named_by_their_descriptions(tmp_path: Path) -> None:
    path = write_raster(
        tmp_path / "a.tif", np.zeros((2, 3, 4), "int8"), nodata=-128, names=("A00", "red (1)")
    )
    assert bands_of(register("raster", path)) == [
        {"name": "A00", "data_type": "int8", "nodata": -128},
        {"name": "red-1", "data_type": "int8", "nodata": -128, "description": "red (1)"},
    ]


@pytest.mark.parametrize("names", [(), ("a", "a"), ("a", "")])
def test_bands_without_names_of_their_own_are_numbered(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    path = write_raster(tmp_path / "a.tif", np.zeros((2, 3, 4), "int8"), names=names)
    assert [band["name"] for band in bands_of(register("raster", path))] == ["b01", "b02"]


def test_bands_can_be_named_by_the_input(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", np.zeros((2, 3, 4), "int8"), names=("a", "b"))
    made = register("raster", path, bands=("vv", "vh"))
    assert [band["name"] for band in bands_of(made)] == ["vv", "vh"]
    with pytest.raises(SourceError, match="has 2 bands but bands names 1"):
        register("raster", path, bands=("vv",))


def test_scale_and_offset_of_a_file_are_told_when_they_do_something(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", np.zeros((2, 3, 4), "int16"))
    with rasterio.open(path, "r+") as raster:
        raster.scales, raster.offsets = (0.5, 1.0), (0.0, 3.0)
    first, second = bands_of(register("raster", path))
    assert first == {"name": "b01", "data_type": "int16", "raster:scale": 0.5}
    assert second == {"name": "b02", "data_type": "int16", "raster:offset": 3.0}


@pytest.mark.parametrize(
    ("dtype", "declared", "given", "expected"),
    [
        ("uint8", None, None, None),
        ("uint8", 0, None, 0),
        ("uint8", 0, 255, 255),
        ("float32", np.nan, None, None),
        ("float32", -9999, None, -9999.0),
        ("int16", None, -99, -99),
    ],
)
def test_nodata_is_the_inputs_or_the_files_or_none(
    tmp_path: Path, dtype: str, declared: float | None, given: float | None, expected: float | None
) -> None:
    path = write_raster(tmp_path / "a.tif", np.zeros((3, 4), dtype), nodata=declared)
    nodata = None if given is None else float(given)
    assert bands_of(register("raster", path, nodata=nodata))[0].get("nodata") == expected


def test_a_nodata_that_the_dtype_cannot_hold_is_refused(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", np.zeros((3, 4), "uint8"))
    with pytest.raises(SourceError, match="nodata = -1 cannot be stored as uint8"):
        register("raster", path, nodata=-1.0)


def test_a_cog_is_called_a_cog_and_a_geotiff_is_not(tmp_path: Path) -> None:
    plain = write_raster(tmp_path / "a.tif", np.zeros((3, 4), "uint8"))
    cog = write_raster(tmp_path / "b.tif", np.zeros((3, 4), "uint8"), driver="COG")
    types = [register("raster", path).item.assets["data"].media_type for path in (plain, cog)]
    geotiff = "image/tiff; application=geotiff"
    assert types == [geotiff, f"{geotiff}; profile=cloud-optimized"]


def test_a_raster_is_read_for_its_checksum_only_when_asked(tmp_path: Path) -> None:
    import hashlib

    path = write_raster(tmp_path / "a.tif", np.zeros((3, 4), "uint8"))
    fields = register("raster", path).item.assets["data"].extra_fields
    assert fields["file:size"] == len(path.read_bytes())
    assert "file:checksum" not in fields
    fields = register("raster", path, checksums=True).item.assets["data"].extra_fields
    assert fields["file:checksum"] == "1220" + hashlib.sha256(path.read_bytes()).hexdigest()


def test_resolution_is_in_metres_in_any_crs(tmp_path: Path) -> None:
    at_equator = Affine(0.001, 0, 10, 0, -0.001, 0.05)
    projected = write_raster(tmp_path / "a.tif", np.zeros((100, 100), "uint8"))
    degrees = write_raster(
        tmp_path / "b.tif", np.zeros((100, 100), "uint8"), crs="EPSG:4326", transform=at_equator
    )
    resolutions = [
        register("raster", path).item.assets["data"].extra_fields["raster:spatial_resolution"]
        for path in (projected, degrees)
    ]
    assert resolutions[0] == 10
    # A degree at the equator: 111.320 km east, 110.574 km north.
    assert resolutions[1] == pytest.approx(np.sqrt(111.320 * 110.574), rel=1e-4)


def test_the_footprint_follows_the_bent_edges(tmp_path: Path) -> None:
    wide = Affine(10_000, 0, 200_000, 0, -10_000, 7_000_000)
    path = write_raster(tmp_path / "a.tif", np.zeros((10, 60), "uint8"), transform=wide)
    footprint = shapely.geometry.shape(register("raster", path).item.geometry)
    corners = shapely.box(*footprint.bounds)
    # Along the upper edge the latitude has its top in the middle, at the central meridian.
    top = max(footprint.exterior.coords, key=lambda xy: xy[1])
    assert top[0] == pytest.approx(9, abs=0.3)
    assert footprint.area < corners.area


def test_a_footprint_across_the_antimeridian_is_cut_in_two(tmp_path: Path) -> None:
    far_east = Affine(1000, 0, 780_000, 0, -1000, 100_000)
    path = write_raster(
        tmp_path / "a.tif", np.zeros((10, 100), "uint8"), crs="EPSG:32660", transform=far_east
    )
    footprint = shapely.geometry.shape(register("raster", path).item.geometry)
    assert footprint.geom_type == "MultiPolygon"
    assert footprint.covers(shapely.Point(179.9, 0.85))
    assert footprint.covers(shapely.Point(-179.9, 0.85))
    assert not footprint.covers(shapely.Point(0, 0.85))


@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        ({"crs": None}, "has no CRS"),
        ({"transform": Affine(10, 1, 0, 1, -10, 0)}, "is rotated"),
        ({"transform": Affine(10, 0, 9e9, 0, -10, 9e9)}, "has no place on Earth"),
    ],
)
def test_a_raster_without_a_place_is_refused(
    tmp_path: Path, faults: dict[str, Any], expected: str
) -> None:
    path = write_raster(tmp_path / "a.tif", np.zeros((3, 4), "uint8"), **faults)
    with pytest.raises(SourceError, match=expected) as caught:
        register("raster", path)
    assert "a.tif" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_raster_without_any_georeference_is_refused_without_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "a.pgm"
    path.write_bytes(b"P5 2 2 255\n" + bytes(4))
    with pytest.raises(SourceError, match="has no CRS"):
        register("raster", path)


@pytest.mark.parametrize("source", ["raster", "label_raster", "polygons", "patches"])
def test_a_file_that_cannot_be_used_is_named_with_its_fault(tmp_path: Path, source: str) -> None:
    keys = {"class_column": "lcz"} if source == "polygons" else {}
    empty, garbage = tmp_path / "empty.gpkg", tmp_path / "garbage.gpkg"
    empty.touch()
    garbage.write_bytes(b"not what it says")
    with pytest.raises(MissingInputError, match=r"gone\.gpkg is not there"):
        register(source, tmp_path / "gone.gpkg", **keys)
    with pytest.raises(SourceError, match=r"empty\.gpkg is empty"):
        register(source, empty, **keys)
    with pytest.raises(SourceError, match=r"garbage\.gpkg cannot be read"):
        register(source, garbage, **keys)


def test_a_raster_cut_short_is_refused_when_its_pixels_are_read(tmp_path: Path) -> None:
    path = write_raster(
        tmp_path / "a.tif", np.ones((300, 300), "uint8"), compress="deflate", blockysize=16
    )
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(SourceError, match="cannot be read"):
        register("label_raster", path)


# Polygons


def test_a_label_table_has_the_agreed_columns_and_types(tmp_path: Path) -> None:
    path = write_polygons(tmp_path / "a.gpkg", squares([3, 17]))
    made = register("polygons", path, class_column="lcz", year=2019, license="MIT")
    assert made.table is not None
    table = made.table.frame
    assert list(table.columns) == list(TABLE_COLUMNS)
    assert [str(table[name].dtype) for name in ("lcz", "weight", "year")] == [
        "uint8",
        "float32",
        "int32",
    ]
    first = table.iloc[0]
    assert (first.patch_id, first.group) == ("x/a/000000", "x/a/000000")
    assert (first.city, first.split, first.year, first.license) == ("", "", 2019, "MIT")
    assert (first.crs, first.source, table.crs) == (UTM32, "x", UTM32)
    assert np.isnan([first.x0, first.y0, first.size_m]).all()


def test_groups_splits_and_weights_come_from_their_columns(tmp_path: Path) -> None:
    frame = squares([1, 2, 3], site=[7.0, 7.0, None], part=["train", "VAL", None], w=[1, 2, 0.5])
    path = write_polygons(tmp_path / "a.gpkg", frame)
    keys = {"group_column": "site", "split_column": "part", "weight_column": "w"}
    table = table_of("polygons", path, class_column="lcz", **keys)
    assert list(table["group"]) == ["x/7", "x/7", "x/a/000002"]
    assert list(table["split"]) == ["training", "validation", ""]
    assert list(table["weight"]) == [1, 2, 0.5]


@pytest.mark.parametrize(
    "classes",
    [
        [6, 11, 14],
        [6.0, 11.0, 14.0],
        ["LCZ 6", "A", "104"],
        ["6", "lcz_a", "LCZ D"],
        [6, 101, 104],
        ["6.0", "101", "14"],
    ],
)
def test_classes_are_read_however_they_are_written(tmp_path: Path, classes: list[Any]) -> None:
    path = write_polygons(tmp_path / "a.gpkg", squares(classes))
    assert polygon_codes(path) == [6, 11, 14]


def test_rows_without_a_class_are_left_out_and_counted(tmp_path: Path) -> None:
    path = write_polygons(tmp_path / "a.gpkg", squares(["5", None, "0", ""]))
    made = register("polygons", path, class_column="lcz")
    assert made.table is not None
    assert list(made.table.frame["patch_id"]) == ["x/a/000000"]
    assert made.item.properties["lczcube:n_dropped"] == 3


def test_a_code_that_is_no_lcz_is_refused_with_count_and_remedy(tmp_path: Path) -> None:
    path = write_polygons(tmp_path / "a.gpkg", squares([5, 18, 18]))
    with pytest.raises(LabelError) as caught:
        polygon_codes(path)
    assert str(caught.value) == (
        f"{path} holds LCZ code 18 (2 times); codes are 1-17, 0 for no data. "
        "Set drop_classes = [18]."
    )
    assert polygon_codes(path, drop_classes=(18,)) == [5]


def test_the_extra_classes_of_the_generator_can_be_dropped_under_any_name(tmp_path: Path) -> None:
    path = write_polygons(tmp_path / "a.gpkg", squares(["6", "W", "H", "108", "19"]))
    with pytest.raises(LabelError, match=r"18 \(2 times\), 19 \(2 times\)"):
        polygon_codes(path)
    assert polygon_codes(path, drop_classes=(18, 19)) == [6]


@pytest.mark.parametrize("classes", [["6", "forest"], [6, 6.5]])
def test_a_class_that_names_no_lcz_is_refused(tmp_path: Path, classes: list[Any]) -> None:
    path = write_polygons(tmp_path / "a.gpkg", squares(classes))
    with pytest.raises(LabelError, match=r"name no LCZ: '(forest|6\.5)' \(1 times\)"):
        polygon_codes(path)


def test_a_file_whose_labels_are_all_dropped_is_refused(tmp_path: Path) -> None:
    path = write_polygons(tmp_path / "a.gpkg", squares([18, 19]))
    with pytest.raises(LabelError, match="holds no label"):
        polygon_codes(path, drop_classes=(18, 19))


def test_a_missing_column_is_named_beside_those_there_are(tmp_path: Path) -> None:
    path = write_polygons(tmp_path / "a.gpkg", squares([5], kind=["a"]))
    with pytest.raises(SourceError, match=r"no column 'LCZ' \(class_column\).*: lcz, kind"):
        register("polygons", path, class_column="LCZ")
    with pytest.raises(SourceError, match=r"no column 'site' \(group_column\)"):
        register("polygons", path, class_column="lcz", group_column="site")


def test_polygons_without_a_crs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    squares([5], crs=None).to_parquet(path)
    with pytest.raises(SourceError, match="has no CRS"):
        polygon_codes(path)


def test_points_are_refused_as_labels(tmp_path: Path) -> None:
    frame = squares([5, 6])
    path = write_polygons(tmp_path / "a.gpkg", frame.set_geometry(frame.centroid))
    with pytest.raises(SourceError, match="2 geometries of type Point"):
        polygon_codes(path)


def test_a_multipolygon_stays_one_label(tmp_path: Path) -> None:
    frame = squares([5, 5]).dissolve(by="lcz").reset_index()
    table = table_of("polygons", write_polygons(tmp_path / "a.gpkg", frame), class_column="lcz")
    assert [g.geom_type for g in table.geometry] == ["MultiPolygon"]


def test_heights_are_dropped(tmp_path: Path) -> None:
    frame = squares([5])
    frame = frame.set_geometry(shapely.force_3d(frame.geometry.to_numpy(), 7.0), crs=UTM32)
    table = table_of("polygons", write_polygons(tmp_path / "a.gpkg", frame), class_column="lcz")
    assert not table.has_z.any()


def test_an_invalid_polygon_is_made_valid_and_counted(tmp_path: Path) -> None:
    bow_tie = shapely.Polygon([(0, 0), (100, 100), (100, 0), (0, 100)])
    frame = gpd.GeoDataFrame({"lcz": [5]}, geometry=[bow_tie], crs=UTM32)
    made = register("polygons", write_polygons(tmp_path / "a.gpkg", frame), class_column="lcz")
    assert made.table is not None
    assert made.table.frame.is_valid.all()
    assert made.table.frame.area.sum() == 5000
    assert made.item.properties["lczcube:n_repaired"] == 1


def test_rows_without_an_area_are_left_out_and_counted(tmp_path: Path) -> None:
    flat = shapely.Polygon([(0, 0), (100, 0), (0, 0), (0, 0)])
    frame = gpd.GeoDataFrame(
        {"lcz": [5, 6, 7]}, geometry=[shapely.box(0, 0, 10, 10), flat, None], crs=UTM32
    )
    made = register("polygons", write_polygons(tmp_path / "a.gpkg", frame), class_column="lcz")
    assert made.table is not None
    assert list(made.table.frame["lcz"]) == [5]
    assert made.item.properties["lczcube:n_dropped"] == 2


def test_a_weight_below_zero_is_refused(tmp_path: Path) -> None:
    path = write_polygons(tmp_path / "a.gpkg", squares([5, 6], w=[1.0, -1.0]))
    with pytest.raises(SourceError, match=r"1 weights .*-1\.0"):
        register("polygons", path, class_column="lcz", weight_column="w")


def test_a_label_item_counts_its_classes(tmp_path: Path) -> None:
    path = write_polygons(tmp_path / "a.gpkg", squares([5, 5, 17]))
    properties = register("polygons", path, class_column="lcz").item.properties
    (overview,) = properties["label:overviews"]
    assert overview["counts"] == [{"name": "5", "count": 2}, {"name": "17", "count": 1}]


# Label rasters


def test_each_region_of_one_code_is_a_polygon(tmp_path: Path) -> None:
    codes = np.array([[1, 1, 0], [0, 2, 1], [2, 2, 0]], "uint8")
    table = table_of("label_raster", write_raster(tmp_path / "a.tif", codes))
    # Two regions of 1 (they touch at a corner only) and one of 2.
    assert sorted(zip(table["lcz"], table.area, strict=True)) == [(1, 100), (1, 200), (2, 300)]
    assert table["group"].is_unique


@pytest.mark.parametrize("up", [-1, 1])
def test_polygons_of_a_label_raster_lie_on_its_pixels(tmp_path: Path, up: int) -> None:
    codes = np.zeros((4, 5), "uint8")
    codes[1, 2:4] = 6
    transform = Affine(10, 0, 500_000, 0, 10 * up, 5_000_000)
    table = table_of("label_raster", write_raster(tmp_path / "a.tif", codes, transform=transform))
    south, north = sorted([5_000_000 + 10 * up, 5_000_000 + 20 * up])
    assert table.geometry[0].equals(shapely.box(500_020, south, 500_040, north))


@pytest.mark.parametrize(
    ("dtype", "declared", "given"),
    [("int32", -999, None), ("int16", None, -1.0), ("uint8", 255, None), ("float32", np.nan, None)],
)
def test_nodata_of_a_label_raster_is_no_label(
    tmp_path: Path, dtype: str, declared: float | None, given: float | None
) -> None:
    absent = declared if given is None else given
    codes = np.array([[5, absent, 0], [5, 104, 104]], dtype)
    path = write_raster(tmp_path / "a.tif", codes, nodata=declared)
    table = table_of("label_raster", path, nodata=given)
    assert sorted(zip(table["lcz"], table.area, strict=True)) == [(5, 200), (14, 200)]


def test_undeclared_nodata_is_refused_with_its_count(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", np.array([[5, -1, -1]], "int16"))
    with pytest.raises(LabelError, match=r"code -1 \(2 times\).*Set nodata, or recode them"):
        register("label_raster", path)


def test_code_18_in_a_raster_is_refused_with_its_pixels_and_can_be_dropped(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", np.array([[5, 18, 18]], "uint8"))
    with pytest.raises(LabelError, match=r"code 18 \(2 times\).*drop_classes = \[18\]"):
        register("label_raster", path)
    assert list(table_of("label_raster", path, drop_classes=(18,))["lcz"]) == [5]


# Patches


def write_patches(path: Path, *, shift_m: float = 0, **columns: Any) -> Path:
    x0, y0 = np.array([500_005.5, 500_165.5]), np.array([5_000_320.25, 5_000_320.25])
    boxes = shapely.box(x0 + shift_m, y0 - 320 + shift_m, x0 + 320 + shift_m, y0 + shift_m)
    values = {"x0": x0, "y0": y0, "lcz": [2, 11], **columns}
    gpd.GeoDataFrame(values, geometry=boxes, crs=UTM32).to_parquet(path)
    return path


def test_a_patch_hangs_down_from_its_upper_left_corner(tmp_path: Path) -> None:
    table = table_of("patches", write_patches(tmp_path / "a.parquet"))
    assert table.geometry[0].bounds == (500_005.5, 5_000_000.25, 500_325.5, 5_000_320.25)
    assert (table["x0"][0], table["y0"][0], table["size_m"][0]) == (500_005.5, 5_000_320.25, 320)


def test_patches_take_ids_groups_and_splits_from_their_columns(tmp_path: Path) -> None:
    path = write_patches(
        tmp_path / "a.parquet", id=["000001", "000002"], block=[4, 4], part=["test", "training"]
    )
    table = table_of("patches", path, id_column="id", group_column="block", split_column="part")
    assert list(table["patch_id"]) == ["x/a/000001", "x/a/000002"]
    assert list(table["group"]) == ["x/4", "x/4"]
    assert list(table["split"]) == ["testing", "training"]


def test_ids_that_repeat_are_refused(tmp_path: Path) -> None:
    path = write_patches(tmp_path / "a.parquet", id=["1", "1"])
    with pytest.raises(SourceError, match="1 ids occur more than once, such as '1'"):
        register("patches", path, id_column="id")


def test_a_corner_that_is_a_centre_is_caught_by_the_geometry(tmp_path: Path) -> None:
    path = write_patches(tmp_path / "a.parquet", shift_m=160)
    with pytest.raises(SourceError, match=r"2 geometries .* \+160 m east and \+160 m north"):
        register("patches", path)


def test_patches_in_degrees_are_refused(tmp_path: Path) -> None:
    frame = gpd.read_parquet(write_patches(tmp_path / "a.parquet")).to_crs("EPSG:4326")
    frame.to_parquet(tmp_path / "b.parquet")
    with pytest.raises(SourceError, match=r"EPSG:4326, which is not projected"):
        register("patches", tmp_path / "b.parquet")


# Real files


@real
def test_a_label_raster_equals_the_polygons_drawn_from_it() -> None:
    folder = REALDATA / "hongkong"
    from_raster = table_of("label_raster", folder / "lcz_dfc2017_train.tif")
    from_polygons = table_of(
        "polygons", folder / "lcz_dfc2017_train_polygons.gpkg", class_column="lcz"
    )
    with rasterio.open(folder / "lcz_dfc2017_train.tif") as raster:
        codes, transform = raster.read(1), raster.transform
    for table in (from_raster, from_polygons):
        pairs = zip(table.geometry, table["lcz"], strict=True)
        np.testing.assert_array_equal(
            rasterize(pairs, out_shape=codes.shape, transform=transform, dtype="uint8"), codes
        )
    assert len(from_polygons) == 82


@real
def test_training_areas_in_kmz_are_read_by_folder_despite_brackets_and_empty_layers() -> None:
    path = REALDATA / "training_areas" / "[Melbourne][2006][JamesBennie].kmz"
    made = register("polygons", path, class_column="layer", year=2006)
    assert made.item.id == "x_Melbourne-2006-JamesBennie"
    assert made.table is not None
    counts = made.table.frame["lcz"].value_counts().to_dict()
    assert counts == {1: 3, 3: 5, 6: 15, 8: 15, 9: 13, 11: 13, 12: 13, 14: 13, 17: 11}


@real
def test_legacy_codes_of_geoclimate_become_natural_classes() -> None:
    path = REALDATA / "lcz_maps" / "redon_rsu_lcz.geojson"
    table = table_of("polygons", path, class_column="LCZ_PRIMARY")
    counts = table["lcz"].value_counts().to_dict()
    assert (counts[11], counts[12], counts[14], counts[15], counts[17]) == (63, 2, 139, 138, 39)
    assert table.crs == "EPSG:32630"


@real
def test_the_zaragoza_map_has_no_label_where_it_says_nodata() -> None:
    path = REALDATA / "lcz_maps" / "lcz_zaragoza.tif"
    table = table_of("label_raster", path)
    with rasterio.open(path) as raster:
        expected = np.unique(raster.read(1, masked=True).compressed())
        declared = raster.nodata
    assert sorted(table["lcz"].unique()) == expected.tolist()
    assert declared == -999


@real
def test_two_files_of_one_place_in_two_crss_keep_each_its_own() -> None:
    folder = REALDATA / "misc"
    items = [
        register("raster", folder / name).item for name in ("L7_ETMs.tif", "olinda_dem_utm25s.tif")
    ]
    assert [item.properties["proj:code"] for item in items] == ["EPSG:31985", "EPSG:32000"]
    first, second = (shapely.geometry.shape(item.geometry) for item in items)
    assert first.intersection(second).area > 0.98 * first.area


@real
@pytest.mark.parametrize(
    ("name", "n_bands", "first", "nodata"),
    [
        ("hongkong/landsat8_36band_100m.tif", 36, "2013333_B1", 0),
        ("alphaearth/aef_2024_wisconsin_utm16n_10m_int8.tif", 64, "A00", -128),
        ("heights/BDSM.tif", 1, "b01", None),
        ("beijing/THU_2020_sentinel_1_50pt.tif", 2, "VV_p50", None),
        ("enmap/enmap_potsdam_tile_64_0.tif", 224, "band-1-418.24-Nanometers", -32768),
    ],
)
def test_real_rasters_are_registered(
    name: str, n_bands: int, first: str, nodata: float | None
) -> None:
    bands = bands_of(register("raster", REALDATA / name))
    assert len(bands) == n_bands
    assert bands[0]["name"] == first
    assert {band.get("nodata") for band in bands} == {nodata}


@real
def test_the_hong_kong_stack_keeps_its_odd_lattice_and_its_neighbours_zone() -> None:
    item = register("raster", REALDATA / "hongkong" / "landsat8_36band_100m.tif").item
    assert item.properties["proj:code"] == "EPSG:32649"
    assert item.properties["proj:transform"][2::3] == [797608.2595713184, 2499950.9198932867]
