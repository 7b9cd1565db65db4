import json
import shutil
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pystac
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import shape

from lczcube.catalog import Catalog, CatalogReport, build_catalog, open_catalog
from lczcube.config import read_config
from lczcube.cube import open_cube
from lczcube.errors import ConfigError, LczcubeError, MissingInputError, SourceError
from lczcube.sources import SourceItem, build_items, find_files
from lczcube.sources.alphaearth import AlphaEarthInput, year_in, zone_in
from lczcube.sources.items import LCZCUBE_URI
from lczcube.synth import World, write_world
from tests.test_catalog import extension_schema, validate, with_schemas

NAMES = tuple(f"A{band:02d}" for band in range(64))
NAME = "x8qqwcsisbgygl2ry-0000000000-0000008192.tiff"
INDEX = "aef_index.parquet"
STAC_INDEX = "aef_index_stac_geoparquet.parquet"


def write_tile(path: Path, **profile: Any) -> Path:
    """A tile of 32 x 48 pixels at 9 degrees east, south-up."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = profile.pop("names", NAMES)
    settings: dict[str, Any] = {
        "driver": "GTiff",
        "count": 64,
        "height": 32,
        "width": 48,
        "dtype": "int8",
        "crs": "EPSG:32632",
        "transform": Affine(10, 0, 500_000, 0, 10, 5_000_000),
        "nodata": -128,
        "tiled": True,
        "blockxsize": 16,
        "blockysize": 16,
        **profile,
    }
    with rasterio.open(path, "w", **settings) as tile:
        if names:
            tile.descriptions = names
    return path


def tile_in(folder: Path, year: int = 2020, zone: str = "32N", **profile: Any) -> Path:
    return write_tile(folder / "annual" / str(year) / zone / NAME, **profile)


def register(href: Path | str, **keys: Any) -> list[SourceItem]:
    entry = AlphaEarthInput.model_validate(
        {"name": "aef", "source": "alphaearth", "href": str(href), **keys}
    )
    files = find_files(entry, folder=Path("/"), cities={})
    return [made for file in files for made in build_items(entry, file)]


def item_of(href: Path | str, **keys: Any) -> pystac.Item:
    (made,) = register(href, **keys)
    return made.item


def built(folder: Path, keys: str, *, bbox: str = "") -> CatalogReport:
    city = f"[city.town]\nbbox = {bbox}\n" if bbox else ""
    toml = folder / "town.toml"
    toml.write_text(f'id = "town"\n{city}[[input]]\nname = "aef"\nsource = "alphaearth"\n{keys}\n')
    return build_catalog(toml, folder / "catalog")


def items_of(report: CatalogReport) -> list[pystac.Item]:
    return open_catalog(report.path).items("aef")


# From headers


def test_an_item_keeps_the_south_up_transform_of_its_file(tmp_path: Path) -> None:
    item = item_of(tile_in(tmp_path))
    assert item.properties["proj:code"] == "EPSG:32632"
    assert item.properties["proj:shape"] == [32, 48]
    assert item.properties["proj:transform"] == [10, 0, 500_000, 0, 10, 5_000_000]
    assert item.properties["proj:bbox"] == [500_000, 5_000_000, 500_480, 5_000_320]


def test_the_asset_has_64_named_bands_of_int8_with_nodata(tmp_path: Path) -> None:
    path = tile_in(tmp_path)
    asset = item_of(path).assets["data"]
    assert asset.href == path.as_posix()
    assert asset.media_type == "image/tiff; application=geotiff"
    bands = asset.extra_fields["bands"]
    assert [band["name"] for band in bands] == list(NAMES)
    assert bands[63] == {"name": "A63", "data_type": "int8", "nodata": -128}
    assert asset.extra_fields["lczcube:block_shape"] == [16, 16]


def test_year_and_id_come_from_the_path(tmp_path: Path) -> None:
    item = item_of(tile_in(tmp_path, year=2023))
    assert item.id == "aef_2023_x8qqwcsisbgygl2ry-0000000000-0000008192"
    assert item.to_dict()["properties"]["datetime"] == "2023-01-01T00:00:00Z"
    assert item.properties["end_datetime"] == "2023-12-31T23:59:59Z"


def test_codes_are_read_by_the_publishers_rule(tmp_path: Path) -> None:
    (made,) = register(tile_in(tmp_path))
    assert made.coding == {
        "product": "alphaearth/1",
        "decoder": "signed_square",
        "valid": "all_bands_nodata",
    }
    (other,) = register(tile_in(tmp_path), product="betaearth/0.2.5")
    assert other.coding["product"] == "betaearth/0.2.5"


def test_a_footprint_ends_where_the_zone_ends(tmp_path: Path) -> None:
    """At 45 N, 12 E lies 236,446 m east of the central meridian at 9 E."""
    over_the_edge = Affine(10, 0, 736_200, 0, 10, 4_987_000)
    footprint = shape(item_of(tile_in(tmp_path, transform=over_the_edge)).geometry or {})
    assert footprint.bounds[2] == 12.0
    assert footprint.bounds[0] < 11.999


def test_tiles_on_both_sides_of_a_zones_edge_do_not_share_ground(tmp_path: Path) -> None:
    west = tile_in(tmp_path, transform=Affine(10, 0, 736_200, 0, 10, 4_987_000))
    east = tile_in(
        tmp_path, zone="33N", crs="EPSG:32633", transform=Affine(10, 0, 263_300, 0, 10, 4_987_000)
    )
    raw, clipped = [], []
    for path in (west, east):
        item = item_of(path)
        clipped.append(shape(item.geometry or {}))
        box = gpd.GeoSeries([shapely.box(*item.properties["proj:bbox"])])
        raw.append(box.set_crs(item.properties["proj:code"]).to_crs(4326)[0])
    assert raw[0].intersection(raw[1]).area > 0
    assert clipped[0].intersection(clipped[1]).area == 0
    assert clipped[0].touches(clipped[1])


def test_a_north_up_copy_of_a_tile_is_registered_as_it_lies(tmp_path: Path) -> None:
    north_up = Affine(10, 0, 500_000, 0, -10, 5_000_320)
    item = item_of(tile_in(tmp_path, transform=north_up))
    assert item.properties["proj:transform"] == [10, 0, 500_000, 0, -10, 5_000_320]
    assert item.properties["proj:bbox"] == [500_000, 5_000_000, 500_480, 5_000_320]


def test_a_crop_outside_the_publishers_folders_takes_the_inputs_year(tmp_path: Path) -> None:
    path = write_tile(tmp_path / "crop.tif", names=())
    assert item_of(path, year=2022).id == "aef_2022_crop"
    with pytest.raises(SourceError, match=r"crop\.tif has no year in its path"):
        register(path)


def test_the_publishers_vrt_is_an_asset_that_lies_north_up(tmp_path: Path) -> None:
    path = tile_in(tmp_path)
    with rasterio.open(path) as tile:
        rasterio.shutil.copy(tile, path.with_suffix(".vrt"), driver="VRT")
    vrt = item_of(path).assets["vrt"]
    assert vrt.href == path.with_suffix(".vrt").as_posix()
    assert vrt.extra_fields["proj:transform"] == [10, 0, 500_000, 0, -10, 5_000_320]


def test_a_tile_is_read_for_its_checksum_only_when_asked(tmp_path: Path) -> None:
    path = tile_in(tmp_path)
    fields = item_of(path).assets["data"].extra_fields
    assert fields["file:size"] == path.stat().st_size
    assert "file:checksum" not in fields
    assert "file:checksum" in item_of(path, checksums=True).assets["data"].extra_fields


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"count": 63, "names": NAMES[:63]}, "has 63 bands; a tile of AlphaEarth has 64"),
        ({"dtype": "int16"}, "holds int16; a tile of AlphaEarth holds int8"),
        ({"nodata": 0}, "declares nodata 0; AlphaEarth's is -128"),
        ({"names": NAMES[::-1]}, "has bands A63, A62"),
        ({"transform": Affine(20, 0, 5e5, 0, 20, 5e6)}, "pixels of 20 x 20 m"),
        ({"crs": "EPSG:32633"}, "in the folder of EPSG:32632, but its CRS is EPSG:32633"),
        ({"crs": None}, "has no CRS"),
    ],
)
def test_what_is_no_tile_of_alphaearth_is_refused_by_name(
    tmp_path: Path, fault: dict[str, Any], said: str
) -> None:
    path = tile_in(tmp_path, **fault)
    with pytest.raises(SourceError) as caught:
        register(path)
    assert said in str(caught.value)
    assert NAME in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tile_in_another_crs_than_utm_is_refused(tmp_path: Path) -> None:
    path = write_tile(tmp_path / "2020" / "a.tif", crs="EPSG:3035")
    with pytest.raises(SourceError, match="is in EPSG:3035; a tile of AlphaEarth is in a UTM"):
        register(path, year=2020)


def test_a_tile_outside_its_zone_is_refused(tmp_path: Path) -> None:
    path = tile_in(tmp_path, transform=Affine(10, 0, 900_000, 0, 10, 5_000_000))
    with pytest.raises(SourceError, match="lies wholly outside 6 to 12 degrees east"):
        register(path)


def test_a_year_that_contradicts_a_named_file_is_refused(tmp_path: Path) -> None:
    path = tile_in(tmp_path, year=2020)
    with pytest.raises(SourceError, match="is of 2020 by its path, but the input wants 2021"):
        register(path, year=2021)
    with pytest.raises(SourceError, match="wants 2018, 2019"):
        register(path, years=[2018, 2019])


def test_a_folder_is_searched_for_the_wanted_years(tmp_path: Path) -> None:
    for year in (2019, 2020, 2021):
        tile_in(tmp_path, year=year)
    years = [str(made.item.datetime)[:4] for made in register(tmp_path, years=[2019, 2021])]
    assert years == ["2019", "2021"]
    assert len(register(tmp_path)) == 3


def test_a_year_in_href_chooses_the_folder(tmp_path: Path) -> None:
    for year in (2019, 2020):
        tile_in(tmp_path, year=year)
    made = register(f"{tmp_path}/annual/{{year}}/*/*.tiff", years=[2020])
    assert [str(m.item.datetime)[:4] for m in made] == ["2020"]


def test_a_broken_tile_is_one_row_and_the_rest_is_built(tmp_path: Path) -> None:
    tile_in(tmp_path)
    bad = tile_in(tmp_path, zone="33N", count=3, names=())
    empty = tmp_path / "annual" / "2020" / "31N" / "empty.tiff"
    empty.parent.mkdir()
    empty.touch()
    report = built(tmp_path, 'href = "annual"')
    assert [failure.path for failure in report.failures] == [empty.as_posix(), bad.as_posix()]
    assert len(items_of(report)) == 1


def test_a_search_that_finds_no_tile_is_a_row(tmp_path: Path) -> None:
    tile_in(tmp_path)
    write_tile(tmp_path / "other" / "2021" / "32N" / "b.tiff")
    report = built(
        tmp_path,
        'href = "annual"\nyear = 2020\n[[input]]\nname = "none"\nsource = "alphaearth"\n'
        'href = "other"\nyear = 2017',
    )
    (failure,) = report.failures
    assert failure.path == "other"
    assert "has no tile of 2017" in failure.reason


# From the index


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return write_world(
        tmp_path_factory.mktemp("synth") / "world", km=1.5, seed=3, tile_px=192, index=True
    )


def annual_of(world: World) -> Path:
    return world.cities[0].tiles[0].parents[2]


def bbox_of(world: World) -> str:
    return str(list(world.cities[0].bbox))


def test_index_and_headers_give_the_same_items(world: World, tmp_path: Path) -> None:
    root = annual_of(world)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    by_header = built(tmp_path / "a", f'href = "{root}"')
    by_index = built(
        tmp_path / "b", f'index = "{root / INDEX}"\nhref = "{root}"', bbox=bbox_of(world)
    )
    assert not by_header.failures
    assert not by_index.failures
    pairs = list(zip(items_of(by_header), items_of(by_index), strict=True))
    assert len(pairs) == 4
    for one, other in pairs:
        assert one.id == other.id
        assert one.properties == other.properties
        assert one.assets["data"].href == other.assets["data"].href
        assert (
            one.assets["data"].extra_fields["bands"] == other.assets["data"].extra_fields["bands"]
        )
        assert shapely.equals_exact(shape(one.geometry or {}), shape(other.geometry or {}), 1e-8)


def test_no_tile_of_an_index_is_opened(world: World, tmp_path: Path) -> None:
    """The index's own paths lead to a host that cannot exist."""
    report = built(tmp_path, f'index = "{annual_of(world) / INDEX}"', bbox=bbox_of(world))
    assert not report.failures
    item = items_of(report)[0]
    asset = item.assets["data"]
    assert asset.href.startswith("s3://lczcube-synthetic.invalid/alphaearth/v1/annual/2021/32N/")
    assert asset.media_type == "image/tiff; application=geotiff; profile=cloud-optimized"
    assert item.properties["proj:transform"][4] == 10
    assert item.properties["proj:shape"] == [192, 192]


def index_rows(folder: Path, **columns: list[Any]) -> Path:
    """An index of three tiles: one in the town, one a degree east, one in the town a year on."""
    wests = [500_000.0, 580_000.0, 500_000.0]
    rows: dict[str, list[Any]] = {
        "fid": [1, 2, 3],
        "crs": ["EPSG:32632"] * 3,
        "year": [2020, 2020, 2021],
        "utm_zone": ["32N"] * 3,
        "utm_west": wests,
        "utm_south": [5_000_000.0] * 3,
        "utm_east": [west + 81_920 for west in wests],
        "utm_north": [5_081_920.0] * 3,
        "path": [f"gs://aef/annual/{name}" for name in ("2020/32N/a", "2020/32N/b", "2021/32N/a")],
        **columns,
    }
    boxes = [shapely.box(9 + d, 45.15, 10 + d, 45.85) for d in (0.0, 1.1, 0.0)]
    folder.mkdir(parents=True, exist_ok=True)
    gpd.GeoDataFrame(rows, geometry=boxes, crs=4326).to_parquet(folder / INDEX)
    return folder / INDEX


TOWN = "[9.1, 45.3, 9.2, 45.4]"


def test_only_tiles_near_a_city_and_of_a_wanted_year_are_registered(tmp_path: Path) -> None:
    index_rows(tmp_path)
    found = items_of(built(tmp_path, f'index = "{INDEX}"\nyear = 2020', bbox=TOWN))
    assert [item.id for item in found] == ["aef_2020_a"]
    both = items_of(built(tmp_path, f'index = "{INDEX}"', bbox=TOWN))
    assert [item.id for item in both] == ["aef_2020_a", "aef_2021_a"]


def test_a_tile_within_the_halo_of_a_city_is_registered(tmp_path: Path) -> None:
    """The second tile begins at 10.1 E; 5 km are 0.064 degrees there."""
    index_rows(tmp_path)
    keys = f'index = "{INDEX}"\nyear = 2020'
    near = items_of(built(tmp_path, keys, bbox="[9.9, 45.3, 10.04, 45.4]"))
    assert [item.id for item in near] == ["aef_2020_a", "aef_2020_b"]
    far = items_of(built(tmp_path, keys, bbox="[9.9, 45.3, 10.03, 45.4]"))
    assert [item.id for item in far] == ["aef_2020_a"]


def test_a_whole_tile_of_the_index_has_8192_pixels_in_blocks_of_1024(tmp_path: Path) -> None:
    index_rows(tmp_path)
    item = items_of(built(tmp_path, f'index = "{INDEX}"\nyear = 2020', bbox=TOWN))[0]
    assert item.properties["proj:shape"] == [8192, 8192]
    assert item.properties["proj:transform"] == [10, 0, 500_000, 0, 10, 5_000_000]
    assert item.properties["proj:bbox"] == [500_000, 5_000_000, 581_920, 5_081_920]
    assert item.assets["data"].extra_fields["lczcube:block_shape"] == [1024, 1024]
    assert item.bbox == [9, 45.15, 10, 45.85]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"crs": ["EPSG:32633"] * 3}, "in the folder of EPSG:32632, but its CRS is EPSG:32633"),
        ({"year": [2019, 2020, 2019]}, "is of 2020 by its path, but of 2019 by the index"),
        ({"utm_east": [500_005.0] * 3}, "are no whole pixels of 10 m"),
        ({"path": ["gs://me:hush@aef/2020/32N/a"] * 3}, "holds a credential"),
        ({"path": ["annual/2020/32N/a"] * 3}, "is a relative path of the index"),
    ],
)
def test_a_row_that_contradicts_itself_is_a_row_of_the_report(
    tmp_path: Path, columns: dict[str, list[Any]], said: str
) -> None:
    index_rows(tmp_path, **columns)
    good = write_tile(tmp_path / "good" / "2020" / "32N" / NAME)
    report = built(
        tmp_path,
        f'index = "{INDEX}"\n[[input]]\nname = "good"\nsource = "alphaearth"\nhref = "{good}"',
        bbox=TOWN,
    )
    assert report.failures
    assert said in report.failures[0].reason
    assert "hush" not in str(report.failures)


def test_an_index_that_cannot_be_used_is_a_row_of_the_report(tmp_path: Path) -> None:
    tile_in(tmp_path)
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "other.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"not what it says")
    reasons = []
    for name in ("gone", "broken", "other"):
        more = f'[[input]]\nname = "bad"\nsource = "alphaearth"\nindex = "{name}.parquet"'
        report = built(tmp_path, f'href = "annual"\n{more}', bbox=TOWN)
        reasons += [failure.reason for failure in report.failures]
    assert "is not there" in reasons[0]
    assert "cannot be read as Parquet" in reasons[1]
    assert "is no index of AlphaEarth: it lacks crs, geometry, path" in reasons[2]


def test_a_row_without_an_outline_is_the_fault_of_its_index(tmp_path: Path) -> None:
    table = gpd.read_parquet(index_rows(tmp_path))
    table.loc[0, "geometry"] = None
    table.to_parquet(tmp_path / INDEX)
    with pytest.raises(LczcubeError, match="has a row that cannot be read"):
        built(tmp_path, f'index = "{INDEX}"', bbox=TOWN)


def test_an_index_wants_a_city(tmp_path: Path) -> None:
    index_rows(tmp_path)
    with pytest.raises(ConfigError, match="index of the whole Earth, but the file names no city"):
        built(tmp_path, f'index = "{INDEX}"')


def test_a_tile_that_the_local_copy_lacks_is_a_row(world: World, tmp_path: Path) -> None:
    copy = tmp_path / "annual"
    shutil.copytree(annual_of(world), copy)
    gone = sorted(copy.glob("2021/*/*.tiff"))[0]
    gone.unlink()
    report = built(
        tmp_path, 'index = "annual/aef_index.parquet"\nhref = "annual"', bbox=bbox_of(world)
    )
    assert [failure.path for failure in report.failures] == [gone.as_posix()]
    assert len(items_of(report)) == 3


def test_the_stac_index_is_repaired_from_the_plain_one_beside_it(
    world: World, tmp_path: Path
) -> None:
    root = annual_of(world)
    for name, index in (("plain", INDEX), ("stac", STAC_INDEX)):
        (tmp_path / name).mkdir()
        built(tmp_path / name, f'index = "{root / index}"', bbox=bbox_of(world))
    plain, stac = (
        open_catalog(tmp_path / name / "catalog").items("aef") for name in ("plain", "stac")
    )
    assert [item.to_dict() for item in plain] == [item.to_dict() for item in stac]


def test_the_stac_index_alone_takes_the_grid_from_the_headers(world: World, tmp_path: Path) -> None:
    copy = tmp_path / "annual"
    shutil.copytree(annual_of(world), copy)
    (copy / INDEX).unlink()
    report = built(tmp_path, f'index = "annual/{STAC_INDEX}"\nhref = "annual"', bbox=bbox_of(world))
    assert not report.failures
    item = items_of(report)[0]
    with rasterio.open(item.assets["data"].href) as tile:
        assert item.properties["proj:transform"] == list(tile.transform)[:6]
        assert item.properties["proj:code"] == str(tile.crs)


# The catalog


@pytest.fixture
def report(world: World, tmp_path: Path) -> CatalogReport:
    return built(tmp_path, f'href = "{annual_of(world)}"')


def test_a_collection_says_what_google_asks(report: CatalogReport) -> None:
    layer = open_catalog(report.path).layer("aef")
    assert (layer.layer, layer.product) == ("embedding", "alphaearth/1")
    assert (layer.decoder, layer.valid) == ("signed_square", "all_bands_nodata")
    assert (layer.resampling, layer.static) == ("nearest", False)
    assert layer.license == "CC-BY-4.0"
    assert layer.license_note == (
        "The AlphaEarth Foundations Satellite Embedding dataset is produced by Google and Google "
        "DeepMind."
    )
    collection = json.loads((report.path / "aef" / "collection.json").read_text())
    assert collection["sci:publications"][0]["doi"] == "10.48550/arXiv.2507.22291"


def test_made_up_tiles_are_not_said_to_be_googles(world: World, tmp_path: Path) -> None:
    report = built(tmp_path, f'href = "{annual_of(world)}"\nsynthetic = true')
    layer = open_catalog(report.path).layer("aef")
    assert (layer.license, layer.license_note, layer.synthetic) == ("other", "", True)
    assert "sci:citation" not in (report.path / "aef" / "collection.json").read_text()


def test_building_twice_gives_the_same_bytes(report: CatalogReport, tmp_path: Path) -> None:
    def published(folder: Path) -> list[bytes]:
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return [path.read_bytes() for path in files if path.parent.name != ".lczcube"]

    before = published(report.path)
    build_catalog(tmp_path / "town.toml", tmp_path / "again")
    assert published(tmp_path / "again") == before


def test_geoparquet_and_json_give_equal_items(report: CatalogReport) -> None:
    tables: Catalog = open_catalog(report.path)
    static = open_catalog(report.path / "catalog.json")
    assert [i.to_dict() for i in tables.items("aef")] == [i.to_dict() for i in static.items("aef")]


def test_a_cube_of_tiles_is_that_of_the_same_files_as_rasters(world: World, tmp_path: Path) -> None:
    raster = (
        'layer = "embedding"\nproduct = "alphaearth/1"\ndecoder = "signed_square"\n'
        'valid = "all_bands_nodata"\nyear = 2021'
    )
    root = annual_of(world)
    report = built(
        tmp_path,
        f'href = "{root}"\n[[input]]\nname = "raster"\nsource = "raster"\n'
        f'href = "{root}/*/*/*.tiff"\n{raster}',
    )
    inputs = ["aef", "raster"]
    cube = open_cube(open_catalog(report.path), world.cities[0].grid, inputs=inputs, year=2021)
    assert cube["aef"].attrs == cube["raster"].attrs | {
        key: cube["aef"].attrs[key] for key in ("input", "license", "license_note")
    }
    np.testing.assert_array_equal(cube["aef"].values, cube["raster"].values)
    assert (cube["aef"].values != -128).any()


@with_schemas
def test_items_and_collection_are_valid_against_what_they_declare(report: CatalogReport) -> None:
    paths = [*report.path.glob("aef/items/*.json"), report.path / "aef" / "collection.json"]
    for path in paths:
        values = json.loads(path.read_text())
        assert LCZCUBE_URI in values["stac_extensions"]
        for uri in values["stac_extensions"]:
            validate(values, extension_schema(uri))
    assert len(paths) == 5


def test_the_real_crop_is_registered(realdata: Path) -> None:
    path = realdata / "alphaearth" / "aef_2024_wisconsin_utm16n_10m_int8.tif"
    item = item_of(path, year=2024)
    assert item.properties["proj:code"] == "EPSG:32616"
    assert item.properties["proj:transform"] == [10, 0, 358_410, 0, -10, 4_906_600]
    assert item.properties["proj:shape"] == [97, 97]
    assert shape(item.geometry or {}).contains(shapely.Point(-88.767, 44.294))
    with pytest.raises(SourceError, match="has 3 bands"):
        register(realdata / "alphaearth" / "A00_A01_A02.tif", year=2024)


# Settings


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("", "has neither href nor index"),
        ('index = "i.parquet"\nhref = ["a", "b"]', "href is one folder or URL"),
        ('index = "i.parquet"\nhref = "{city}"', "href is one folder or URL"),
        ('href = "a"\nyear = 2020\nyears = [2021]', "has both year and years"),
        ('href = "a/{year}"', "has {year} in href but no year"),
        ('href = "a"\nlayer = "embedding"', "unknown key 'layer'"),
        ('href = "a"\nproduct = "my own"', "product = 'my own'"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    tmp_path: Path, keys: str, said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        built(tmp_path, keys)
    assert said in str(caught.value)


def test_several_years_need_no_year_in_href(tmp_path: Path) -> None:
    toml = tmp_path / "a.toml"
    toml.write_text(
        'id = "a"\n[[input]]\nname = "aef"\nsource = "alphaearth"\nhref = "a"\nyears = [2017, 2024]'
    )
    assert read_config(toml).inputs[0].all_years == (2017, 2024)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"gone\.tiff is not there"):
        register(tmp_path / "2020" / "32N" / "gone.tiff")


# Paths


@given(
    year=st.integers(2000, 2099),
    zone=st.integers(1, 60),
    hemisphere=st.sampled_from("NS"),
    before=st.sampled_from(["", "/", "s3://bucket/v1/annual/", "/data/2019/annual/"]),
    offsets=st.tuples(st.sampled_from([0, 8192]), st.sampled_from([0, 8192])),
)
def test_year_and_zone_of_a_path_are_found_wherever_it_lies(
    year: int, zone: int, hemisphere: str, before: str, offsets: tuple[int, int]
) -> None:
    name = f"x8qqwcsisbgygl2ry-{offsets[0]:010d}-{offsets[1]:010d}.tiff"
    href = f"{before}{year}/{zone}{hemisphere}/{name}"
    assert year_in(href) == year
    assert zone_in(href) == f"EPSG:{(32600 if hemisphere == 'N' else 32700) + zone}"


@pytest.mark.parametrize("href", ["a.tiff", "2020/a.tiff", "31N/a.tiff", "1999/31N/a.tiff"])
def test_a_path_of_another_form_tells_neither_year_nor_zone(href: str) -> None:
    assert year_in(href) is None
    assert zone_in(href) is None
