import json
import os
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import geopandas as gpd
import jsonschema  # type: ignore[import-untyped]
import numpy as np
import pystac
import pytest
import rasterio
import shapely
from pystac.validation.local_validator import get_local_schema_cache
from rasterio.transform import Affine
from referencing import Registry, Resource

from lczcube.catalog import Catalog, build_catalog, open_catalog
from lczcube.errors import CatalogError, ConfigError, LabelError, MissingInputError, SourceError
from lczcube.sources.items import LCZCUBE_URI

REALDATA = Path(
    os.environ.get("LCZCUBE_REALDATA", Path(__file__).parents[1] / ".." / "shared" / "data")
)
real = pytest.mark.skipif(
    not REALDATA.is_dir(), reason="no real data: LCZCUBE_REALDATA names no folder"
)
SCHEMAS = REALDATA.parent / "schemas"
with_schemas = pytest.mark.skipif(
    not SCHEMAS.is_dir(), reason="no schemas of the STAC extensions beside the real data"
)

CORE = "https://schemas.stacspec.org/v1.1.0"

IMAGE = """
[[input]]
name = "image"
source = "raster"
href = "image_*.tif"
year = 2020
title = "An image"
license_note = "Cite it."
"""
AREAS = """
[[input]]
name = "areas"
source = "polygons"
href = "areas.gpkg"
class_column = "lcz"
"""
HEIGHTS = """
[[input]]
name = "heights"
source = "raster"
href = "heights_{year}.tif"
years = [2019, 2021]
layer = "canopy"
ai_derived = true
synthetic = true
"""


def write_raster(path: Path, *, east_km: int = 0, crs: str | None = "EPSG:32632") -> None:
    transform = Affine(10, 0, 500_000 + 1000 * east_km, 0, -10, 5_000_000)
    with rasterio.open(
        path, "w", driver="GTiff", count=2, height=4, width=5, dtype="int16", crs=crs,
        transform=transform, nodata=-99,
    ) as raster:  # fmt: skip
        raster.write(np.arange(40, dtype="int16").reshape(2, 4, 5))


def write_areas(path: Path, classes: tuple[int, ...] = (2, 17)) -> None:
    boxes = [shapely.box(500_000 + 50 * i, 4_999_960, 500_040 + 50 * i, 5e6) for i in range(2)]
    gpd.GeoDataFrame({"lcz": classes}, geometry=boxes, crs="EPSG:32632").to_file(path)


def write_town(folder: Path) -> Path:
    """Inputs of a town: two images side by side, heights of two years, two labels."""
    folder.mkdir()
    write_raster(folder / "image_a.tif")
    write_raster(folder / "image_b.tif", east_km=100)
    write_raster(folder / "heights_2019.tif")
    write_raster(folder / "heights_2021.tif")
    write_areas(folder / "areas.gpkg")
    return folder


def write_toml(town: Path, *inputs: str, id: str = "town") -> Path:  # noqa: A002
    path = town / "town.toml"
    path.write_text(f'id = "{id}"\n' + "".join(inputs))
    return path


@pytest.fixture
def town(tmp_path: Path) -> Path:
    return write_town(tmp_path / "town")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog of the town, for tests that only read it."""
    folder = tmp_path_factory.mktemp("built")
    toml = write_toml(write_town(folder / "town"), IMAGE, HEIGHTS, AREAS)
    return build_catalog(toml, folder / "catalog").path


@pytest.fixture
def out(town: Path, tmp_path: Path) -> Path:
    build_catalog(write_toml(town, IMAGE, HEIGHTS, AREAS), tmp_path / "catalog")
    return tmp_path / "catalog"


def published(folder: Path) -> dict[str, Path]:
    """Files of a catalog by name, without the record of the build."""
    files = (path for path in folder.rglob("*") if path.is_file())
    named = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: path for name, path in named.items() if not name.startswith(".lczcube/")}


def contents(folder: Path) -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in published(folder).items()}


def written_at(folder: Path) -> dict[str, int]:
    return {name: path.stat().st_mtime_ns for name, path in published(folder).items()}


def ids(catalog: Catalog, name: str, **query: Any) -> list[str]:
    return [item.id for item in catalog.items(name, **query)]


# Building


def test_a_catalog_holds_json_geoparquet_and_label_tables(out: Path) -> None:
    assert sorted(contents(out)) == [
        "areas.parquet",
        "areas/areas_areas.parquet",
        "areas/collection.json",
        "areas/items/areas_areas.json",
        "catalog.json",
        "heights.parquet",
        "heights/collection.json",
        "heights/items/heights_2019_heights_2019.json",
        "heights/items/heights_2021_heights_2021.json",
        "image.parquet",
        "image/collection.json",
        "image/items/image_2020_image_a.json",
        "image/items/image_2020_image_b.json",
    ]


def test_the_report_counts_what_was_written(town: Path, tmp_path: Path) -> None:
    report = build_catalog(write_toml(town, IMAGE, AREAS), tmp_path / "catalog")
    assert (report.n_collections, report.n_items, report.failures) == (2, 3, ())
    assert report.path == tmp_path / "catalog"


def test_building_twice_gives_the_same_bytes_and_writes_none(town: Path, out: Path) -> None:
    before, times = contents(out), written_at(out)
    build_catalog(town / "town.toml", out)
    assert contents(out) == before
    assert written_at(out) == times


def test_building_under_another_name_gives_the_same_bytes(
    town: Path, out: Path, tmp_path: Path
) -> None:
    build_catalog(town / "town.toml", tmp_path / "elsewhere")
    assert contents(tmp_path / "elsewhere") == contents(out)


def test_adding_an_input_touches_nothing_else(town: Path, out: Path) -> None:
    times = written_at(out)
    more = AREAS.replace('"areas"', '"more"')
    build_catalog(write_toml(town, more, IMAGE, HEIGHTS, AREAS), out)
    changed = {name for name, time in written_at(out).items() if times.get(name) != time}
    assert changed == {
        "catalog.json",
        "more.parquet",
        "more/collection.json",
        "more/items/more_areas.json",
        "more/more_areas.parquet",
    }


def test_an_input_no_longer_named_is_removed(town: Path, out: Path) -> None:
    build_catalog(write_toml(town, IMAGE), out)
    assert {name.split("/")[0] for name in contents(out)} == {
        "catalog.json",
        "image",
        "image.parquet",
    }
    assert not (out / "areas").exists()


def test_files_that_no_build_wrote_are_left_alone(town: Path, out: Path) -> None:
    (out / "notes.txt").write_text("mine")
    (out / "areas" / "notes.txt").write_text("mine")
    build_catalog(write_toml(town, IMAGE), out)
    assert (out / "notes.txt").read_text() == "mine"
    assert (out / "areas" / "notes.txt").read_text() == "mine"


def test_a_catalog_that_names_another_folder_has_nothing_removed_there(
    town: Path, out: Path, tmp_path: Path
) -> None:
    victim = tmp_path / "victim" / "collection.json"
    victim.parent.mkdir()
    victim.write_text("{}")
    values = json.loads((out / "catalog.json").read_text())
    for href in ("../victim/collection.json", "/collection.json", str(victim)):
        values["links"].append({"rel": "child", "href": href})
    (out / "catalog.json").write_text(json.dumps(values))
    build_catalog(write_toml(town, IMAGE), out)
    assert victim.is_file()


def test_a_changed_file_rewrites_its_collection_alone(town: Path, out: Path) -> None:
    times = written_at(out)
    write_areas(town / "areas.gpkg", (3, 17))
    build_catalog(town / "town.toml", out)
    changed = {name for name, time in written_at(out).items() if times[name] != time}
    assert changed == {
        "areas.parquet",
        "areas/areas_areas.parquet",
        "areas/items/areas_areas.json",
    }


def test_a_broken_file_is_one_row_and_the_rest_is_built(town: Path, tmp_path: Path) -> None:
    write_raster(town / "image_b.tif", crs=None)
    report = build_catalog(write_toml(town, IMAGE, AREAS), tmp_path / "catalog")
    (failure,) = report.failures
    assert failure.path == (town / "image_b.tif").as_posix()
    assert "has no CRS" in failure.reason
    assert ids(open_catalog(report.path), "image") == ["image_2020_image_a"]


def test_an_input_whose_files_are_all_broken_is_left_out(town: Path, tmp_path: Path) -> None:
    (town / "areas.gpkg").unlink()
    report = build_catalog(write_toml(town, IMAGE, AREAS), tmp_path / "catalog")
    assert "is not there" in report.failures[0].reason
    assert open_catalog(report.path).collection_ids == ("image",)


def test_a_glob_without_a_file_is_a_failure(town: Path, tmp_path: Path) -> None:
    toml = write_toml(town, IMAGE, HEIGHTS.replace("heights_{year}", "none_{year}_*"))
    report = build_catalog(toml, tmp_path / "catalog")
    assert [Path(failure.path).name for failure in report.failures] == [
        "none_2019_*.tif",
        "none_2021_*.tif",
    ]


def test_strict_raises_the_first_fault_and_writes_nothing(town: Path, tmp_path: Path) -> None:
    write_raster(town / "image_b.tif", crs=None)
    with pytest.raises(SourceError, match="has no CRS"):
        build_catalog(write_toml(town, IMAGE, AREAS), tmp_path / "catalog", strict=True)
    assert [path.name for path in tmp_path.iterdir()] == ["town"]


def test_labels_with_code_18_are_refused_and_nothing_is_written(town: Path, tmp_path: Path) -> None:
    write_areas(town / "areas.gpkg", (5, 18))
    with pytest.raises(LabelError, match=r"drop_classes = \[18\]"):
        build_catalog(write_toml(town, AREAS), tmp_path / "catalog", strict=True)
    with pytest.raises(CatalogError, match=r"no file of its 1 inputs .* code 18 \(1 times\)"):
        build_catalog(write_toml(town, AREAS), tmp_path / "catalog")
    assert [path.name for path in tmp_path.iterdir()] == ["town"]


def test_a_failed_build_leaves_an_older_catalog_as_it_was(town: Path, out: Path) -> None:
    before = contents(out)
    write_raster(town / "image_a.tif", crs=None)
    with pytest.raises(SourceError):
        build_catalog(town / "town.toml", out, strict=True)
    assert contents(out) == before


def test_a_write_that_fails_leaves_nothing_behind(
    town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("lczcube.catalog.build.write_geoparquet", full_disk)
    with pytest.raises(OSError, match="No space left"):
        build_catalog(write_toml(town, IMAGE), tmp_path / "catalog")
    assert [path.name for path in tmp_path.iterdir()] == ["town"]


def test_what_a_killed_build_left_behind_is_swept(town: Path, tmp_path: Path) -> None:
    left = tmp_path / ".catalog.partial" / "catalog"
    left.mkdir(parents=True)
    (left / "half.json").write_text("{")
    build_catalog(write_toml(town, IMAGE), tmp_path / "catalog")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["catalog", "town"]
    assert not (tmp_path / "catalog" / "half.json").exists()


def test_a_folder_with_a_dot_in_its_name_can_hold_a_catalog(town: Path, tmp_path: Path) -> None:
    report = build_catalog(write_toml(town, IMAGE), tmp_path / "deep" / "run.v1")
    assert open_catalog(report.path / "catalog.json").collection_ids == ("image",)


def test_a_folder_of_other_files_is_refused(town: Path, tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="holds files but no catalog"):
        build_catalog(write_toml(town, IMAGE), town, overwrite=True)


def test_a_catalog_of_another_id_is_replaced_only_when_asked(town: Path, out: Path) -> None:
    toml = write_toml(town, IMAGE, id="village")
    with pytest.raises(CatalogError, match="holds catalog 'town', not 'village'"):
        build_catalog(toml, out)
    build_catalog(toml, out, overwrite=True)
    assert open_catalog(out).collection_ids == ("image",)


def test_a_credential_reaches_no_file_and_no_message(
    town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LCZ_TEST_URL", "https://me:hush@host/a.tif")
    toml = write_toml(town, AREAS, IMAGE.replace("image_*.tif", "${LCZ_TEST_URL}"))
    with pytest.raises(ConfigError) as caught:
        build_catalog(toml, tmp_path / "catalog")
    assert "hush" not in str(caught.value)
    assert not (tmp_path / "catalog").exists()


# Opening


def test_geoparquet_and_json_give_equal_items(built: Path) -> None:
    tables, static = open_catalog(built), open_catalog(built / "catalog.json")
    assert tables.collection_ids == static.collection_ids == ("areas", "heights", "image")
    for name in tables.collection_ids:
        pairs = zip(tables.items(name), static.items(name), strict=True)
        assert all(one.to_dict() == other.to_dict() for one, other in pairs)
        assert tables.layer(name) == static.layer(name)


def test_a_crs_without_a_code_gives_equal_items(town: Path, tmp_path: Path) -> None:
    lambert = "+proj=laea +lat_0=47 +lon_0=9 +x_0=500000 +y_0=5000000 +ellps=GRS80 +units=m"
    write_raster(town / "image_a.tif", crs=lambert)
    (town / "image_b.tif").unlink()
    out = build_catalog(write_toml(town, IMAGE), tmp_path / "catalog").path
    (one,), (other,) = (open_catalog(p).items("image") for p in (out, out / "catalog.json"))
    assert one.to_dict() == other.to_dict()
    assert one.properties["proj:code"] is None
    assert one.properties["proj:wkt2"].startswith("PROJCRS")


def test_an_input_without_a_year_gives_equal_items_of_every_year(built: Path) -> None:
    for href in (built, built / "catalog.json"):
        (item,) = open_catalog(href).items("areas", datetime="2003")
        assert item.datetime is None


def test_a_layer_says_what_its_collection_says(built: Path) -> None:
    layer = open_catalog(built).layer("heights")
    assert (layer.layer, layer.ai_derived, layer.synthetic) == ("canopy", True, True)
    assert (layer.decoder, layer.valid, layer.resampling) == ("linear", "nodata", "nearest")
    assert layer.static is False
    assert open_catalog(built).layer("image").license_note == "Cite it."
    assert open_catalog(built).layer("areas").layer == "labels"


def test_the_label_asset_is_the_table(built: Path) -> None:
    (item,) = open_catalog(built).items("areas")
    table = gpd.read_parquet(item.assets["labels"].href)
    assert list(table["lcz"]) == [2, 17]
    assert item.assets["labels"].extra_fields["table:row_count"] == 2
    assert item.assets["source"].href.endswith("areas.gpkg")


def test_items_given_out_are_copies(built: Path) -> None:
    for href in (built, built / "catalog.json"):
        catalog = open_catalog(href)
        catalog.items("areas")[0].properties.clear()
        assert catalog.items("areas")[0].properties


@pytest.mark.parametrize(
    ("when", "years"),
    [
        ("2019", [2019]),
        ("2020", []),
        ("2019-06", [2019]),
        ("2019-06-30", [2019]),
        ("2019-12-31T23:59:59Z", [2019]),
        ("2018/2020", [2019]),
        ("2019-12/2021-01", [2019, 2021]),
        ("2020/..", [2021]),
        ("../2019", [2019]),
        ("2018", []),
        (None, [2019, 2021]),
    ],
)
def test_datetime_keeps_items_whose_interval_meets_it(
    built: Path, when: str | None, years: list[int]
) -> None:
    for href in (built, built / "catalog.json"):
        found = ids(open_catalog(href), "heights", datetime=when)
        assert found == [f"heights_{year}_heights_{year}" for year in years]


def test_a_datetime_that_cannot_be_read_is_refused(built: Path) -> None:
    with pytest.raises(CatalogError, match="datetime = 'summer' cannot be read"):
        open_catalog(built).items("heights", datetime="summer")


def test_bbox_keeps_items_whose_geometry_meets_it(built: Path) -> None:
    catalog = open_catalog(built)
    # The images lie 100 km apart, from 9.0 and from about 10.27 degrees east.
    assert ids(catalog, "image", bbox=(8.9, 45, 9.1, 46)) == ["image_2020_image_a"]
    assert ids(catalog, "image", bbox=(10.2, 45, 10.4, 46)) == ["image_2020_image_b"]
    assert ids(catalog, "image", bbox=(8.9, 45, 10.4, 46)) == [
        "image_2020_image_a",
        "image_2020_image_b",
    ]
    assert ids(catalog, "image", bbox=(8.9, 47, 10.4, 48)) == []


def test_a_bbox_whose_west_is_above_its_east_crosses_the_antimeridian(built: Path) -> None:
    catalog = open_catalog(built)
    assert ids(catalog, "image", bbox=(10, 45, -170, 46)) == ["image_2020_image_b"]


def test_an_unknown_collection_lists_the_known_ones(built: Path) -> None:
    with pytest.raises(CatalogError, match="no collection 'rain'; it has areas, heights, image"):
        open_catalog(built).items("rain")


@pytest.mark.parametrize(
    ("make", "error", "expected"),
    [
        (lambda _: None, MissingInputError, "is not there"),
        (lambda path: path.mkdir(), CatalogError, "holds neither"),
        (lambda path: path.write_text("{}"), CatalogError, "is no STAC catalog"),
        (lambda path: path.write_text("no"), CatalogError, "is no STAC catalog"),
    ],
)
def test_what_is_no_catalog_is_refused(
    tmp_path: Path, make: Callable[[Path], object], error: type[Exception], expected: str
) -> None:
    make(tmp_path / "x")
    with pytest.raises(error, match=expected):
        open_catalog(tmp_path / "x")


def test_a_table_that_is_no_stac_is_refused(tmp_path: Path) -> None:
    points = gpd.GeoDataFrame({"a": [1]}, geometry=[shapely.Point(0, 0)], crs="EPSG:4326")
    points.to_parquet(tmp_path / "points.parquet")
    with pytest.raises(CatalogError, match="is no stac-geoparquet"):
        _ = open_catalog(tmp_path).collection_ids


def test_stac_that_knows_nothing_of_us_is_a_plain_raster(tmp_path: Path) -> None:
    from stac_geoparquet.arrow import parse_stac_items_to_arrow, to_parquet

    item = foreign_item().to_dict() | {"links": []}
    to_parquet(parse_stac_items_to_arrow([item]), tmp_path / "theirs.parquet")
    catalog = open_catalog(tmp_path)
    assert catalog.collection_ids == ("theirs",)
    assert (catalog.layer("theirs").layer, catalog.layer("theirs").decoder) == ("raster", "linear")
    assert ids(catalog, "theirs", datetime="2020-05-01") == ["one"]
    assert ids(catalog, "theirs", datetime="2021") == []


def foreign_item() -> pystac.Item:
    return pystac.Item(
        id="one",
        geometry=shapely.geometry.mapping(shapely.box(0, 0, 1, 1)),
        bbox=[0, 0, 1, 1],
        datetime=pystac.utils.str_to_datetime("2020-05-01T10:00:00Z"),
        properties={},
        collection="theirs",
    )


# Schemas


def our_schema() -> dict[str, Any]:
    path = resources.files("lczcube") / "schemas" / "lczcube-v1.0.0.json"
    schema: dict[str, Any] = json.loads(path.read_text())
    return schema


def extension_schema(uri: str) -> dict[str, Any]:
    if uri == LCZCUBE_URI:
        return our_schema()
    name, version = uri.split("/")[-3:-1]
    schema: dict[str, Any] = json.loads((SCHEMAS / f"{name}-{version}.json").read_text())
    return schema


def validate(values: dict[str, Any], schema: dict[str, Any]) -> None:
    """Against a schema, with the core schemas that pystac ships at hand and no network."""
    known = [(uri, Resource.from_contents(core)) for uri, core in get_local_schema_cache().items()]
    registry: Registry[Any] = Registry().with_resources(known)
    jsonschema.Draft7Validator(schema, registry=registry).validate(values)


def test_every_object_is_valid_stac_1_1(built: Path) -> None:
    paths = list(built.rglob("*.json"))
    assert len(paths) == 9
    for path in paths:
        values = json.loads(path.read_text())
        assert values["stac_version"] == "1.1.0"
        kind = {"Feature": "item"}.get(values["type"], values["type"].lower())
        validate(values, {"$ref": f"{CORE}/{kind}-spec/json-schema/{kind}.json"})


@with_schemas
def test_every_item_is_valid_against_the_extensions_it_declares(built: Path) -> None:
    n_checked = 0
    for path in built.rglob("items/*.json"):
        values = json.loads(path.read_text())
        for uri in values["stac_extensions"]:
            validate(values, extension_schema(uri))
            n_checked += 1
    assert n_checked == 4 * 4 + 5


def test_our_fields_are_valid_against_our_schema(built: Path) -> None:
    for path in built.glob("*/collection.json"):
        values = json.loads(path.read_text())
        assert LCZCUBE_URI in values["stac_extensions"]
        validate(values, our_schema())
    assert our_schema()["$id"] == LCZCUBE_URI


@pytest.mark.parametrize(
    "fault",
    [
        {"lczcube:layer": "rain"},
        {"lczcube:layer": "embedding"},
        {"lczcube:decoder": "magic"},
        {"lczcube:valid": "always"},
        {"lczcube:resampling": "bilinear"},
        {"lczcube:colour": "red"},
        {"lczcube:synthetic": "no"},
        {"stac_extensions": []},
    ],
)
def test_our_schema_refuses_what_we_would_not_read(built: Path, fault: dict[str, Any]) -> None:
    values = json.loads((built / "image" / "collection.json").read_text())
    with pytest.raises(jsonschema.ValidationError):
        validate(values | fault, our_schema())


# Real files


@real
def test_the_hong_kong_catalog_is_built_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LCZCUBE_REALDATA", str(REALDATA.resolve()))
    toml = Path(__file__).parents[1] / "catalogs" / "hongkong.toml"
    report = build_catalog(toml, tmp_path / "catalog")
    assert (report.n_collections, report.n_items, report.failures) == (2, 2, ())
    (item,) = open_catalog(report.path).items(
        "dfc2017", bbox=(113.86, 22.10, 114.40, 22.58), datetime="2014"
    )
    table = gpd.read_parquet(item.assets["labels"].href)
    assert len(table) == 82
    assert table["group"].nunique() == 82
    assert sorted(table["lcz"].unique()) == [1, 2, 3, 4, 5, 6, 8, 10, 11, 12, 13, 14, 17]


@real
@with_schemas
def test_a_catalog_of_the_traps_is_valid_and_its_broken_rows_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LCZCUBE_REALDATA", str(REALDATA.resolve()))
    toml = tmp_path / "traps.toml"
    toml.write_text(TRAPS)
    report = build_catalog(toml, tmp_path / "catalog")
    assert [Path(failure.path).name for failure in report.failures] == ["w2w_geo_em.d04.nc"]
    tables, static = open_catalog(report.path), open_catalog(report.path / "catalog.json")
    for name in tables.collection_ids:
        pairs = zip(tables.items(name), static.items(name), strict=True)
        assert all(one.to_dict() == other.to_dict() for one, other in pairs)
    for path in report.path.rglob("items/*.json"):
        values = json.loads(path.read_text())
        for uri in values["stac_extensions"]:
            validate(values, extension_schema(uri))
    assert len(tables.items("melbourne")) == 3
    assert len(tables.items("olinda")) == 2


TRAPS = """
id = "traps"
[[input]]
name = "melbourne"
source = "polygons"
href = "${LCZCUBE_REALDATA}/training_areas"
class_column = "layer"
[[input]]
name = "geoclimate"
source = "polygons"
href = "${LCZCUBE_REALDATA}/lcz_maps/*_rsu_lcz.geojson"
class_column = "LCZ_PRIMARY"
group_column = "ID_RSU"
[[input]]
name = "zaragoza"
source = "label_raster"
href = ["${LCZCUBE_REALDATA}/lcz_maps/lcz_too_small.tif"]
ai_derived = true
[[input]]
name = "dfc_raster"
source = "label_raster"
href = "${LCZCUBE_REALDATA}/hongkong/lcz_dfc2017_train.tif"
[[input]]
name = "olinda"
source = "raster"
href = ["${LCZCUBE_REALDATA}/misc/L7*.tif", "${LCZCUBE_REALDATA}/misc/olinda_dem_utm25s.tif"]
year = 2001
[[input]]
name = "broken"
source = "label_raster"
href = "${LCZCUBE_REALDATA}/lcz_maps/w2w_geo_em.d04.nc"
"""


def test_the_example_of_the_guide_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[1] / "docs" / "guide" / "catalog.md").read_text()
    example = page.split("```python\n")[1].split("```")[0]
    promised = [line.split(")  # ")[1] for line in example.splitlines() if ")  # " in line]
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "catalog.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == promised
