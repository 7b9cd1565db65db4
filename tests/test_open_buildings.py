"""Open Buildings 2.5D as items: manifests of Earth Engine, tiles, exports, and what is refused."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pystac
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import shape

from lczcube.catalog import CatalogReport, build_catalog, open_catalog
from lczcube.config import read_config
from lczcube.errors import ConfigError, LczcubeError, SourceError
from lczcube.plans import plan_catalog
from lczcube.quantities import BUILDING_BANDS
from lczcube.runfolder import Run
from lczcube.sources import SourceFile, build_items, find_files
from lczcube.sources.items import LCZCUBE_URI
from lczcube.sources.open_buildings import OpenBuildingsInput
from lczcube.sources.open_buildings_manifests import crs_and_year, read_manifest
from lczcube.sources.open_buildings_pixels import year_in
from lczcube.synth import draw_city, write_open_buildings
from tests.test_catalog import extension_schema, validate, with_schemas

COUNT, HEIGHT, PRESENCE = BUILDING_BANDS
NAME = "39_EPSG_32643_2023_06_30.json"
TILE = "tile_OScHfh-5ubs.tif"
URI = f"e7c_2023_06_30/{TILE}"
PREFIX = "gs://open-buildings-temporal-data/v1/geotiffs/3b"
DELHI = "[77.6, 28.45, 77.65, 28.5]"


def source(uri: str = URI, *, x: float = 750_204, y: float = 3_155_792) -> dict[str, Any]:
    return {
        "uris": [uri],
        "affineTransform": {"scaleX": 0.5, "translateX": x, "scaleY": -0.5, "translateY": y},
        "dimensions": {"width": 25_000, "height": 25_000},
    }


def manifest(*sources: dict[str, Any], **keys: Any) -> dict[str, Any]:
    """As the publisher's: a prefix that ends inside the token, and no number that is 0."""
    missing = {"missingData": {"values": [-99]}}
    said = {
        "uriPrefix": PREFIX,
        "tilesets": [{"sources": list(sources or [source()])}],
        "bands": [
            {"id": COUNT, **missing},
            {"id": HEIGHT, "tilesetBandIndex": 1, **missing},
            {"id": PRESENCE, "tilesetBandIndex": 2, **missing},
        ],
        **keys,
    }
    return {key: value for key, value in said.items() if value is not None}


def write_manifest(folder: Path, said: Any = None, name: str = NAME) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(said if isinstance(said, str) else json.dumps(said or manifest()))
    return path


def write_tif(path: Path, **profile: Any) -> Path:
    """A tile of 48 x 32 pixels in zone 32; or an export, by its profile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = profile.pop("names", BUILDING_BANDS)
    scales = profile.pop("scales", None)
    profile = {
        "driver": "GTiff",
        "count": 3,
        "height": 32,
        "width": 48,
        "dtype": "float32",
        "crs": "EPSG:32632",
        "transform": Affine(0.5, 0, 595_354, 0, -0.5, 5_329_762),
        "nodata": -99,
        "tiled": True,
        "blockxsize": 16,
        "blockysize": 16,
        **profile,
    }
    with rasterio.open(path, "w", **profile) as raster:
        if names:
            raster.descriptions = names
        if scales:
            raster.scales = scales
    return path


def tile_in(folder: Path, year: int = 2021, name: str = TILE, **profile: Any) -> Path:
    return write_tif(folder / "geotiffs" / f"3be7c_{year}_06_30" / name, **profile)


def export(path: Path, *, pixel_m: float = 10, **profile: Any) -> Path:
    transform = Affine(pixel_m, 0, 595_354, 0, -pixel_m, 5_329_762)
    return write_tif(path, **{"transform": transform, "nodata": None, **profile})


def item_of(href: Path | str, **keys: Any) -> pystac.Item:
    entry = OpenBuildingsInput.model_validate(
        {"name": "ob", "source": "open_buildings", "href": str(href), **keys}
    )
    files = find_files(entry, folder=Path("/"), cities={})
    (made,) = [made for file in files for made in build_items(entry, file)]
    return made.item


def built(folder: Path, keys: str, *, bbox: str = "") -> CatalogReport:
    city = f"[city.town]\nbbox = {bbox}\n" if bbox else ""
    toml = folder / "town.toml"
    toml.write_text(
        f'id = "town"\n{city}[[input]]\nname = "ob"\nsource = "open_buildings"\n{keys}\n'
    )
    return build_catalog(toml, folder / "catalog")


def items_of(report: CatalogReport) -> list[pystac.Item]:
    assert not report.failures
    return open_catalog(report.path).items("ob")


def reasons_of(folder: Path, keys: str, *, bbox: str = "") -> list[str]:
    """Of the failures of a catalog that has a good tile besides."""
    good = tile_in(folder / "good", name="tile_good.tif")
    more = f'\n[[input]]\nname = "good"\nsource = "open_buildings"\nhref = "{good}"'
    report = built(folder, keys + more, bbox=bbox)
    assert open_catalog(report.path).items("good")
    return [failure.reason for failure in report.failures]


# From manifests


def test_a_tile_is_registered_by_its_manifest_alone(tmp_path: Path) -> None:
    """Nothing is opened: the network is blocked."""
    write_manifest(tmp_path)
    (item,) = items_of(built(tmp_path, f'manifest = "{NAME}"', bbox=DELHI))
    assert item.id == "ob_2023_tile_OScHfh-5ubs"
    assert item.to_dict()["properties"]["datetime"] == "2023-01-01T00:00:00Z"
    assert item.properties["lczcube:note"] == "Of 30 June 2023."
    assert item.properties["proj:code"] == "EPSG:32643"
    assert item.properties["proj:shape"] == [25_000, 25_000]
    assert item.properties["proj:transform"] == [0.5, 0, 750_204, 0, -0.5, 3_155_792]
    assert item.properties["proj:bbox"] == [750_204, 3_143_292, 762_704, 3_155_792]
    asset = item.assets["data"]
    assert asset.media_type == "image/tiff; application=geotiff; profile=cloud-optimized"
    assert asset.extra_fields["lczcube:block_shape"] == [512, 512]
    bands = asset.extra_fields["bands"]
    assert [band["name"] for band in bands] == list(BUILDING_BANDS)
    assert {(band["data_type"], band["nodata"]) for band in bands} == {("float32", -99)}
    assert bands[1]["unit"] == "m"
    assert not any("raster:scale" in band for band in bands)


def test_the_url_has_no_slash_between_prefix_and_uri_and_is_read_over_https(
    tmp_path: Path,
) -> None:
    write_manifest(tmp_path)
    (item,) = items_of(built(tmp_path, f'manifest = "{NAME}"', bbox=DELHI))
    assert item.assets["data"].href == (
        "https://storage.googleapis.com/open-buildings-temporal-data/v1/geotiffs/"
        "3be7c_2023_06_30/tile_OScHfh-5ubs.tif"
    )


def test_local_copies_replace_the_bucket(tmp_path: Path) -> None:
    write_manifest(tmp_path)
    copy = write_tif(tmp_path / "mirror" / "3be7c_2023_06_30" / TILE)
    keys = f'manifest = "{NAME}"\nhref = "mirror"'
    (item,) = items_of(built(tmp_path, keys, bbox=DELHI))
    asset = item.assets["data"]
    assert asset.href == copy.as_posix()
    assert asset.extra_fields["file:size"] == copy.stat().st_size
    assert "file:checksum" not in asset.extra_fields
    mirror = f'manifest = "{NAME}"\nhref = "gs://my-bucket/geotiffs"'
    (item,) = items_of(built(tmp_path, mirror, bbox=DELHI))
    assert item.assets["data"].href == (
        f"https://storage.googleapis.com/my-bucket/geotiffs/3be7c_2023_06_30/{TILE}"
    )


def test_a_copy_that_is_not_there_is_a_row(tmp_path: Path) -> None:
    write_manifest(tmp_path)
    (reason,) = reasons_of(tmp_path, f'manifest = "{NAME}"\nhref = "mirror"', bbox=DELHI)
    assert f"mirror/3be7c_2023_06_30/{TILE} is not there" in reason


def test_only_tiles_near_the_city_are_registered(tmp_path: Path) -> None:
    """3,600 tiles of 12.5 km; the right ones by transforming every outline with geopandas."""
    corners = [
        (x, y) for x in range(200_204, 950_000, 12_500) for y in range(200_792, 950_000, 12_500)
    ]
    sources = [
        source(f"{i:03x}_2023_06_30/tile_{i:011d}.tif", x=x, y=y)
        for i, (x, y) in enumerate(corners)
    ]
    write_manifest(tmp_path, manifest(*sources))
    found = items_of(built(tmp_path, f'manifest = "{NAME}"', bbox="[75.0, 4.0, 75.2, 4.3]"))
    outlines = gpd.GeoSeries(
        [shapely.segmentize(shapely.box(x, y - 12_500, x + 12_500, y), 500) for x, y in corners],
        crs="EPSG:32643",
    ).to_crs(4326)
    margin = 5_000 / 111_200
    wide = margin / np.cos(np.radians(4.3))
    near = outlines.intersects(shapely.box(75 - wide, 4 - margin, 75.2 + wide, 4.3 + margin))
    assert len(corners) == 3_600
    assert len(found) == int(near.sum()) > 6
    assert {item.properties["proj:transform"][2] for item in found} == {
        float(corners[i][0]) for i in np.flatnonzero(near)
    }


def test_a_file_that_names_no_city_takes_all_tiles(tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest(source(), source("e7d_2023_06_30/tile_b.tif", x=400_000)))
    assert len(items_of(built(tmp_path, f'manifest = "{NAME}"'))) == 2


def test_manifests_are_named_by_file_folder_or_glob_and_chosen_by_year(tmp_path: Path) -> None:
    folder = tmp_path / "manifests"
    write_manifest(folder)
    other = source("e7c_2022_06_30/tile_b.tif")
    write_manifest(folder, manifest(other), "39_EPSG_32643_2022_06_30.json")
    for named in ("manifests", "manifests/*.json", "manifests/39_EPSG_32643_{year}_06_30.json"):
        (item,) = items_of(built(tmp_path, f'manifest = "{named}"\nyear = 2022', bbox=DELHI))
        assert item.id == "ob_2022_tile_b"
    both = items_of(built(tmp_path, 'manifest = ["manifests"]', bbox=DELHI))
    assert [item.id for item in both] == ["ob_2022_tile_b", "ob_2023_tile_OScHfh-5ubs"]
    (reason,) = reasons_of(tmp_path, f'manifest = "manifests/{NAME}"\nyear = 2020', bbox=DELHI)
    assert f"has no tile of 2020 near a city in manifests/{NAME}" in reason


def test_a_tile_of_two_manifests_is_registered_once(tmp_path: Path) -> None:
    write_manifest(tmp_path)
    write_manifest(tmp_path, name="3b_EPSG_32643_2023_06_30.json")
    assert len(items_of(built(tmp_path, 'manifest = "3*.json"', bbox=DELHI))) == 1


def test_a_manifest_of_a_zone_without_a_city_is_not_even_read(tmp_path: Path) -> None:
    write_manifest(tmp_path)
    write_manifest(tmp_path, "broken", "39_EPSG_32641_2023_06_30.json")
    assert len(items_of(built(tmp_path, 'manifest = "*.json"', bbox=DELHI))) == 1
    write_manifest(tmp_path, "broken", "3b_EPSG_32643_2023_06_30.json")
    report = built(tmp_path, 'manifest = "*.json"', bbox=DELHI)
    assert "cannot be read as JSON" in report.failures[0].reason


def test_bands_lie_where_the_manifest_says_and_an_absent_position_is_0(tmp_path: Path) -> None:
    bands = [
        {"id": COUNT, "tilesetBandIndex": 2},
        {"id": HEIGHT},
        {"id": PRESENCE, "tilesetBandIndex": 1},
    ]
    write_manifest(tmp_path, manifest(bands=bands, missingData={"values": [-1]}, other=[{}]))
    (item,) = items_of(built(tmp_path, f'manifest = "{NAME}"', bbox=DELHI))
    found = item.assets["data"].extra_fields["bands"]
    assert [band["name"] for band in found] == [HEIGHT, PRESENCE, COUNT]
    assert {band["nodata"] for band in found} == {-1}


def test_the_crs_is_that_of_the_tileset_else_of_the_name(tmp_path: Path) -> None:
    tilesets = [{"sources": [source()], "crs": "EPSG:32643", "id": "t"}]
    write_manifest(tmp_path, manifest(tilesets=tilesets), "renamed.json")
    (item,) = items_of(built(tmp_path, 'manifest = "renamed.json"', bbox=DELHI))
    assert item.properties["proj:code"] == "EPSG:32643"
    assert item.datetime is not None
    assert item.datetime.year == 2023


def test_a_footprint_ends_where_the_zone_ends(tmp_path: Path) -> None:
    """At 28.5 N, 78 E lies 293,700 m east of the central meridian at 75 E."""
    sources = [
        source(x=785_204),
        source("e7d_2023_06_30/tile_past.tif", x=795_204),
    ]
    write_manifest(tmp_path, manifest(*sources))
    found = items_of(built(tmp_path, f'manifest = "{NAME}"', bbox="[77.9, 28.45, 78.1, 28.5]"))
    assert [item.id for item in found] == ["ob_2023_tile_OScHfh-5ubs"]
    west, _, east, _ = shape(found[0].geometry or {}).bounds
    assert east == 78
    assert 77.9 < west < 78


def test_zones_that_overlap_share_no_ground(tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest(source(x=785_204)))
    other = manifest(source("e7d_2023_06_30/tile_b.tif", x=200_204))
    write_manifest(tmp_path, other, "39_EPSG_32644_2023_06_30.json")
    found = items_of(built(tmp_path, 'manifest = "*.json"', bbox="[77.9, 28.45, 78.1, 28.5]"))
    one, two = (shape(item.geometry or {}) for item in found)
    raw = [
        gpd.GeoSeries([shapely.box(*item.properties["proj:bbox"])])
        .set_crs(item.properties["proj:code"])
        .to_crs(4326)[0]
        for item in found
    ]
    assert raw[0].intersection(raw[1]).area > 0
    assert one.intersection(two).area == 0
    assert one.touches(two)


TRANSFORM = source()["affineTransform"]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("{", "cannot be read as JSON"),
        ("[" * 200_000, "cannot be read as JSON"),
        ("[]", "is no JSON object"),
        ("{}", "is no manifest of Open Buildings: it lacks tilesets"),
        (manifest(tilesets={}), "tilesets is no JSON array"),
        (manifest(tilesets=[3]), "tilesets[0] is no JSON object"),
        (manifest(bands=[{"id": COUNT}]), "has bands building_fractional_count at 0; Open"),
        (manifest(bands=[{"id": name} for name in BUILDING_BANDS]), "at 0, 1 and 2 of one file"),
        (manifest(missingData={"values": [0]}), "one layer has one number for it"),
        (manifest(missingData={"values": ["x"]}), "one layer has one number for it"),
        (manifest(bands=None, missingData={"values": [0]}), "one number for it, below 0"),
        (manifest(tilesets=[{"crs": "EPSG:32644"}]), "is of EPSG:32643 by its name, but its tiles"),
        (manifest(tilesets=[{"crs": "nowhere"}]), "has a CRS that cannot be read (nowhere)"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_a_row(tmp_path: Path, said: Any, reason: str) -> None:
    write_manifest(tmp_path, said)
    (found,) = reasons_of(tmp_path, f'manifest = "{NAME}"', bbox=DELHI)
    assert NAME in found
    assert reason in found
    assert "\n" not in found


def test_a_manifest_of_another_crs_is_refused_by_name(tmp_path: Path) -> None:
    name = "39_EPSG_3857_2023_06_30.json"
    write_manifest(tmp_path, name=name)
    (found,) = reasons_of(tmp_path, f'manifest = "{name}"', bbox=DELHI)
    assert "is of EPSG:3857; tiles of Open Buildings are in a UTM zone" in found
    write_manifest(tmp_path, name="renamed.json")
    (found,) = reasons_of(tmp_path, 'manifest = "renamed.json"', bbox=DELHI)
    assert "says its CRS neither in tilesets nor in its name" in found


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"uris": []}, "has no uris"),
        ({"uris": [7]}, "has no uris"),
        ({"uris": ["e7c/../../../etc/e7c_2023_06_30/tile_a.tif"]}, "which is no tile"),
        ({"uris": ["e7c_2023_06_30/../tile_a.tif"]}, "which is no tile"),
        ({"uris": ["e7c_2023_06_30/tile_a.tif?x=1"]}, "which is no tile"),
        ({"uris": ["e7c_2022_06_30/tile_a.tif"]}, "but the manifest is of 2023 by its name"),
        ({"affineTransform": None}, "has an affineTransform that is no JSON object"),
        ({"affineTransform": {}}, "has pixels of 0 x 0 m"),
        ({"affineTransform": {**TRANSFORM, "scaleX": "0.5"}}, "that is no numbers"),
        ({"affineTransform": {**TRANSFORM, "shearX": 0.1}}, "shear 0.1 and 0"),
        ({"affineTransform": {**TRANSFORM, "translateX": 10**400}}, "that is no numbers"),
        ({"affineTransform": {**TRANSFORM, "translateX": float("nan")}}, "that is no numbers"),
        ({"affineTransform": {**TRANSFORM, "translateX": 10**9}}, "which no UTM zone has"),
        ({"dimensions": {}}, "has dimensions {}, which are no width and height"),
        ({"dimensions": {"width": 1.5, "height": 2}}, "which are no width and height"),
        ({"dimensions": {"width": 10**12, "height": 2}}, "which are no width and height"),
    ],
)
def test_broken_sources_are_one_row_and_the_others_are_registered(
    tmp_path: Path, broken: dict[str, Any], reason: str
) -> None:
    said = manifest({**source(), **broken}, {**source(), **broken}, source())
    write_manifest(tmp_path, said)
    report = built(tmp_path, f'manifest = "{NAME}"', bbox=DELHI)
    (failure,) = report.failures
    assert failure.path == (tmp_path / NAME).as_posix()
    assert f"{NAME}: tilesets[0].sources[0] " in failure.reason
    assert reason in failure.reason
    assert failure.reason.endswith(
        " (1 more); fetch the manifest again, or name the tiles in href."
    )
    assert failure.reason.count("again") == 1
    assert len(open_catalog(report.path).items("ob")) == 1


@pytest.mark.parametrize("prefix", ["/etc/3b", "file:///etc/3b", "gs://me:hush@b/3b", "/vsizip/3b"])
def test_a_prefix_that_leads_elsewhere_is_refused_unless_copies_are_named(
    tmp_path: Path, prefix: str
) -> None:
    write_manifest(tmp_path, manifest(uriPrefix=prefix))
    (reason,) = reasons_of(tmp_path, f'manifest = "{NAME}"', bbox=DELHI)
    assert "is no gs:// or https:// URL; name the folder of your copies in href" in reason
    assert "hush" not in reason
    copy = write_tif(tmp_path / "mirror" / "3be7c_2023_06_30" / TILE)
    (item,) = items_of(built(tmp_path, f'manifest = "{NAME}"\nhref = "mirror"', bbox=DELHI))
    assert item.assets["data"].href == copy.as_posix()


def test_a_manifest_of_impossible_size_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / NAME).open("wb") as file:
        file.truncate((64 << 20) + 1)
    (reason,) = reasons_of(tmp_path, f'manifest = "{NAME}"', bbox=DELHI)
    assert "has 67,108,865 bytes; a manifest of Open Buildings has a few million" in reason


def test_a_missing_or_remote_manifest_is_a_row(tmp_path: Path) -> None:
    (reason,) = reasons_of(tmp_path, 'manifest = "gone.json"', bbox=DELHI)
    assert "gone.json is not there" in reason
    (reason,) = reasons_of(tmp_path, 'manifest = "https://host/a.json"', bbox=DELHI)
    assert "is a manifest at a URL; fetch it" in reason


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
PLACES = """
uriPrefix
bands
bands 0
bands 0 id
bands 0 missingData
bands 0 missingData values
bands 0 tilesetId
bands 1 tilesetBandIndex
tilesets
tilesets 0
tilesets 0 crs
tilesets 0 sources
tilesets 0 sources 0
tilesets 0 sources 0 uris
tilesets 0 sources 0 affineTransform
tilesets 0 sources 0 affineTransform shearY
tilesets 0 sources 0 dimensions width
"""


def fault_of(path: Path) -> LczcubeError | None:
    try:
        return read_manifest(SourceFile(path.as_posix(), "", None, ""), []).fault
    except LczcubeError as error:
        return error


@settings(deadline=None, max_examples=60)
@given(place=st.sampled_from(PLACES.strip().splitlines()), value=json_values)
def test_any_value_anywhere_is_read_or_is_an_error_of_ours(
    tmp_path_factory: pytest.TempPathFactory, place: str, value: Any
) -> None:
    said: Any = manifest()
    inner = said
    *keys, last = (int(key) if key.isdigit() else key for key in place.split())
    for key in keys:
        inner = inner[key]
    inner[last] = value
    path = write_manifest(tmp_path_factory.mktemp("m"), json.dumps(said))
    fault = fault_of(path)
    assert fault is None or path.as_posix() in str(fault)


def test_tiles_at_a_url_are_read_over_https(tmp_path: Path) -> None:
    entry = OpenBuildingsInput.model_validate(
        {"name": "ob", "source": "open_buildings", "href": f"{PREFIX}{URI}"}
    )
    (file,) = find_files(entry, folder=tmp_path, cities={})
    assert file.href.startswith("https://storage.googleapis.com/open-buildings-temporal-data/v1/")
    assert file.year == 2023


# From headers


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A synthetic archive of one city, and its bbox."""
    out = tmp_path_factory.mktemp("world")
    city = draw_city(0, km=1.5, seed=3)
    write_open_buildings(out, [city], seed=3, year=2021, tile_px=2_496, block_px=256)
    return out, str(list(city.bbox))


def test_manifest_and_headers_give_the_same_items(world: tuple[Path, str], tmp_path: Path) -> None:
    root, bbox = world
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    by_header = items_of(built(tmp_path / "a", f'href = "{root}"'))
    keys = f'manifest = "{root}/v1/manifests"\nhref = "{root}/v1/geotiffs"'
    by_manifest = items_of(built(tmp_path / "b", keys, bbox=bbox))
    assert len(by_header) == 9
    assert 4 <= len(by_manifest) <= 9
    headers = {item.id: item for item in by_header}
    for item in by_manifest:
        other = headers[item.id]
        assert item.properties == other.properties
        assert item.geometry == other.geometry
        fields, of_header = (i.assets["data"].extra_fields for i in (item, other))
        assert fields == of_header | {"lczcube:block_shape": [512, 512]}


def test_the_year_of_a_tile_is_in_its_folder(tmp_path: Path) -> None:
    for year in (2020, 2021, 2022):
        tile_in(tmp_path, year)
    found = items_of(built(tmp_path, 'href = "geotiffs"\nyears = [2020, 2022]'))
    assert [item.id for item in found] == [
        "ob_2020_tile_OScHfh-5ubs",
        "ob_2022_tile_OScHfh-5ubs",
    ]
    with pytest.raises(SourceError, match="is of 2021 by its path, but the input wants 2020"):
        item_of(tile_in(tmp_path, 2021), year=2020)


def test_a_tile_without_names_has_the_publishers_order(tmp_path: Path) -> None:
    item = item_of(tile_in(tmp_path, names=()))
    bands = item.assets["data"].extra_fields["bands"]
    assert [band["name"] for band in bands] == list(BUILDING_BANDS)


def test_a_tile_past_its_zone_is_left_to_its_neighbour(tmp_path: Path) -> None:
    past = Affine(0.5, 0, 760_000, 0, -0.5, 5_329_762)
    path = tile_in(tmp_path, name="tile_past.tif", transform=past)
    with pytest.raises(SourceError, match="lies wholly outside the UTM zone of its CRS"):
        item_of(path)
    tile_in(tmp_path)
    (item,) = items_of(built(tmp_path, 'href = "geotiffs"'))
    assert item.id == "ob_2021_tile_OScHfh-5ubs"


def test_an_export_of_10_m_says_what_differs(tmp_path: Path) -> None:
    path = export(tmp_path / "ob.tif", names=(PRESENCE, COUNT, HEIGHT))
    item = item_of(path, year=2021)
    assert item.id == "ob_2021_ob"
    bands = item.assets["data"].extra_fields["bands"]
    assert [band["name"] for band in bands] == [PRESENCE, COUNT, HEIGHT]
    assert [band.get("raster:scale") for band in bands] == [None, 400, None]
    assert {band["nodata"] for band in bands} == {-99}
    assert item.assets["data"].extra_fields["raster:spatial_resolution"] == 10
    note = item.properties["lczcube:note"]
    assert "An export of 10 x 10 m: heights and presences are means" in note
    assert "times 400" in note


def test_counts_that_were_summed_are_taken_as_they_are(tmp_path: Path) -> None:
    item = item_of(export(tmp_path / "ob.tif"), year=2021, count="sum")
    assert not any("raster:scale" in band for band in item.assets["data"].extra_fields["bands"])
    assert item.properties["lczcube:note"].endswith("counts are numbers per pixel.")


@pytest.mark.parametrize(("pixel_m", "scale"), [(4, 64), (30, 3_600), (0.7, 1.96)])
def test_the_scale_of_counts_is_that_of_the_pixels_areas(
    tmp_path: Path, pixel_m: float, scale: float
) -> None:
    item = item_of(export(tmp_path / "ob.tif", pixel_m=pixel_m), year=2021)
    assert item.assets["data"].extra_fields["bands"][0]["raster:scale"] == scale


@pytest.mark.parametrize(("nodata", "kept"), [(None, -99), (np.nan, -99), (-99, -99), (-1, -1)])
def test_nodata_of_an_export_is_nan_or_negative(
    tmp_path: Path, nodata: float | None, kept: float
) -> None:
    item = item_of(export(tmp_path / "ob.tif", nodata=nodata, dtype="float64"), year=2021)
    band = item.assets["data"].extra_fields["bands"][0]
    assert (band["nodata"], band["data_type"]) == (kept, "float64")


def test_an_export_tells_no_year(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="has no year in its path"):
        item_of(export(tmp_path / "ob.tif"))


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"count": 2, "names": BUILDING_BANDS[:2]}, "has bands building_fractional_count, buildi"),
        ({"count": 2, "names": ()}, "has bands 2 without names"),
        ({"names": (COUNT, HEIGHT, "height")}, "has bands building_fractional_count, building_he"),
        ({"names": ()}, "has bands 3 without names; Open Buildings has building_fractional_count"),
        ({"dtype": "int16"}, "holds int16; Open Buildings has decimals"),
        ({"nodata": 0}, "declares nodata 0; 0 and above are heights"),
        ({"scales": (1, 0.1, 1)}, "declares a scale or an offset"),
        ({"crs": "EPSG:25832"}, "is in EPSG:25832; counts per pixel need a UTM zone of WGS 84"),
        ({"crs": None}, "has no CRS"),
        ({"pixel_m": 0.25}, "has pixels of 0.25 x 0.25 m"),
        ({"pixel_m": 250}, "has pixels of 250 x 250 m"),
    ],
)
def test_what_is_no_export_is_refused_by_name(
    tmp_path: Path, fault: dict[str, Any], said: str
) -> None:
    path = export(tmp_path / "ob.tif", **fault)
    with pytest.raises(SourceError) as caught:
        item_of(path, year=2021)
    assert said in str(caught.value)
    assert "ob.tif" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_export_in_degrees_is_told_how_to_be_made(tmp_path: Path) -> None:
    path = export(tmp_path / "ob.tif", crs=4326, transform=Affine(9e-5, 0, 77, 0, -9e-5, 28))
    with pytest.raises(SourceError, match=r"is in EPSG:4326; .* \(EPSG:326zz, 10\)"):
        item_of(path, year=2021)


def test_the_footprint_of_an_export_is_whole(tmp_path: Path) -> None:
    """It may be all there is on both sides of a zone's edge."""
    item = item_of(
        export(tmp_path / "ob.tif", transform=Affine(10, 0, 723_200, 0, -10, 5_329_762)), year=2021
    )
    west, _, east, _ = shape(item.geometry or {}).bounds
    assert west < 12 < east


# The catalog


def test_a_collection_says_what_google_asks(tmp_path: Path) -> None:
    tile_in(tmp_path)
    report = built(tmp_path, 'href = "geotiffs"')
    layer = open_catalog(report.path).layer("ob")
    assert (layer.layer, layer.ai_derived, layer.static) == ("buildings", True, False)
    assert layer.license == "CC-BY-4.0"
    assert layer.license_note.endswith("contains modified Copernicus data.")
    assert layer.presence_threshold is None
    collection = json.loads((report.path / "ob" / "collection.json").read_text())
    assert collection["sci:publications"][0]["doi"] == "10.48550/arXiv.2310.11622"
    assert "arXiv:2310.11622" in collection["sci:citation"]


def test_the_licence_may_be_the_other_one(tmp_path: Path) -> None:
    tile_in(tmp_path)
    keys = 'href = "geotiffs"\nlicense = "ODbL-1.0"\npresence_threshold = 0.5'
    layer = open_catalog(built(tmp_path, keys).path).layer("ob")
    assert layer.license == "ODbL-1.0"
    assert "is offered under the ODbL too" in layer.license_note
    assert layer.presence_threshold == 0.5


def test_made_up_tiles_are_not_said_to_be_googles(world: tuple[Path, str], tmp_path: Path) -> None:
    report = built(tmp_path, f'href = "{world[0]}"\nsynthetic = true\nlicense = "CC0-1.0"')
    layer = open_catalog(report.path).layer("ob")
    assert (layer.license, layer.license_note, layer.synthetic) == ("CC0-1.0", "", True)
    assert "sci:citation" not in (report.path / "ob" / "collection.json").read_text()


def test_building_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    write_manifest(tmp_path)
    path = built(tmp_path, f'manifest = "{NAME}"', bbox=DELHI).path
    before = published_bytes(path)
    shutil.rmtree(path)
    built(tmp_path, f'manifest = "{NAME}"', bbox=DELHI)
    assert published_bytes(path) == before


def published_bytes(catalog: Path) -> dict[Path, bytes]:
    """All files but the record of the build, which holds dates of files."""
    files = (path for path in catalog.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in files if ".lczcube" not in path.parts}


@with_schemas
def test_items_and_collection_are_valid_against_what_they_declare(tmp_path: Path) -> None:
    write_manifest(tmp_path)
    export(tmp_path / "ob.tif")
    report = built(
        tmp_path,
        f'manifest = "{NAME}"\n[[input]]\nname = "export"\nsource = "open_buildings"\n'
        'href = "ob.tif"\nyear = 2021\npresence_threshold = 0.5',
        bbox=DELHI,
    )
    paths = [*report.path.glob("*/items/*.json"), *report.path.glob("*/collection.json")]
    for path in paths:
        values = json.loads(path.read_text())
        assert LCZCUBE_URI in values["stac_extensions"]
        for uri in values["stac_extensions"]:
            validate(values, extension_schema(uri))
    assert len(paths) == 4


def test_a_plan_lists_the_tiles_and_a_run_notices_those_that_change(
    world: tuple[Path, str], tmp_path: Path
) -> None:
    """Manifests too: they say where tiles lie."""
    root, bbox = world
    shutil.copytree(root / "v1", tmp_path / "v1")
    keys = 'manifest = "v1/manifests/*.json"\nhref = "v1/geotiffs"\nyear = 2021'
    n_items = len(items_of(built(tmp_path, keys, bbox=bbox)))
    plan = plan_catalog(tmp_path / "town.toml", tmp_path / "out")
    assert f"ob (open_buildings): {n_items} of {n_items} files found" in plan.text
    assert plan.n_missing == 0
    run = Run(read_config(tmp_path / "town.toml"), tmp_path / "run")
    before = run.input_stats()
    (listing,) = tmp_path.glob("v1/manifests/*.json")
    assert before == run.input_stats()
    for path in (min(tmp_path.glob("v1/geotiffs/*/*.tif")), listing):
        os.utime(path, ns=(0, 0))
        after = run.input_stats()
        assert [name for name, *_ in after] == [name for name, *_ in before]
        assert (path.as_posix(), path.stat().st_size, 0) in after
        before = after


# Settings


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("", "has neither href nor manifest"),
        ('manifest = "m.json"\nhref = ["a", "b"]', "href is one folder or URL"),
        ('href = "a"\nlicense = "MIT"', "is offered under CC-BY-4.0 or ODbL-1.0"),
        ('href = "a"\ncount = "median"', "count = 'median'"),
        ('href = "a"\npresence_threshold = 0.0', "presence_threshold"),
        ('href = "a"\npresence_threshold = 34.0', "presence_threshold"),
        ('href = "a"\nlayer = "buildings"', "unknown key 'layer'"),
        ('href = "gs://me:hush@bucket/a.tif"', "holds a credential"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    tmp_path: Path, keys: str, said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        built(tmp_path, keys)
    assert said in str(caught.value)
    assert "hush" not in str(caught.value)


# Names


def test_years_and_zones_are_read_from_names() -> None:
    assert year_in("/a/2019/geotiffs/3be7c_2023_06_30/tile_OScHfh-5ubs.tif") == 2023
    for other in ("3be7c_2023_06_30.tif", "3be7c_2023/tile_a.tif", "x/tile_a.tif"):
        assert year_in(other) is None
    assert crs_and_year("a/b/2d_EPSG_32736_2016_06_30.json") == ("EPSG:32736", 2016)
    for other in ("2d_EPSG_32736_2016.json", "2d_EPSG_32736_2016_06_30.json.gz", "a.json"):
        assert crs_and_year(other) is None
