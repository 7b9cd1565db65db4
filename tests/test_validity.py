"""Catalogs as others see them: schemas, stac-check's rules, and readers that are not ours."""

import json
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pystac
import pytest
import rasterio
from affine import Affine
from shapely import box

from lczcube.catalog import build_catalog, open_catalog
from tests.test_catalog import CORE, extension_schema, validate, with_schemas

TOWN = """
id = "town"
title = "A town"

[[input]]
name = "image"
source = "raster"
href = "image_{year}.tif"
years = [2019, 2021]
title = "An image"
license = "CC-BY-4.0"
checksums = true

[[input]]
name = "heights"
source = "raster"
href = "heights.tif"
static = true
ai_derived = true
synthetic = true

[[input]]
name = "lambert"
source = "raster"
href = "lambert.tif"
year = 2020

[[input]]
name = "areas"
source = "polygons"
href = "areas.gpkg"
class_column = "lcz"

[[input]]
name = "tessera"
source = "tessera"
href = "tessera"

[[input]]
name = "aef"
source = "alphaearth"
href = "aef"
"""
LAMBERT = "+proj=laea +lat_0=47 +lon_0=9 +x_0=500000 +y_0=5000000 +ellps=GRS80 +units=m"

EXPECTED_OF_STAC_CHECK = {
    # Relocatable: a self link would tie the catalog to a place.
    "check_links_self",
    # A layer without a date has none; start_datetime and end_datetime say so.
    "datetime_null",
    # The publisher's names, such as grid_2.95_51.45: an id that finds the file is worth more.
    "searchable_identifiers",
}


def write_raster(path: Path, count: int = 2, crs: str = "EPSG:32632") -> None:
    with rasterio.open(
        path, "w", driver="GTiff", width=8, height=6, count=count, dtype="int16", crs=crs,
        transform=Affine(10, 0, 500_000, 0, -10, 5_000_000), nodata=-99,
    ) as raster:  # fmt: skip
        raster.write(np.arange(count * 48, dtype="int16").reshape(count, 6, 8))


def write_alphaearth(path: Path) -> None:
    path.parent.mkdir(parents=True)
    with rasterio.open(
        path, "w", driver="GTiff", width=16, height=16, count=64, dtype="int8", nodata=-128,
        crs="EPSG:32632", transform=Affine(10, 0, 500_000, 0, 10, 5_000_000),
    ) as raster:  # fmt: skip
        raster.write(np.ones((64, 16, 16), "int8"))
        raster.descriptions = tuple(f"A{band:02d}" for band in range(64))


def write_tessera(folder: Path) -> None:
    """A tile by the name of the publisher's, 2.95 E and 51.45 N, cut at its upper-left corner."""
    tile = folder / "global_0.1_degree_representation" / "2020" / "grid_2.95_51.45"
    tile.mkdir(parents=True)
    np.save(tile / "grid_2.95_51.45.npy", np.ones((12, 16, 128), "int8"))
    np.save(tile / "grid_2.95_51.45_scales.npy", np.ones((12, 16), "float32"))
    masks = folder / "global_0.1_degree_tiff_all"
    masks.mkdir()
    with rasterio.open(
        masks / "grid_2.95_51.45.tiff", "w", driver="GTiff", width=16, height=12, count=1,
        dtype="uint8", crs="EPSG:32631",
        transform=Affine(10, 0, 493043.54669013567, 0, -10, 5705433.907345436),
    ) as raster:  # fmt: skip
        raster.write(np.ones((1, 12, 16), "uint8"))
    sidecar = {"dataset_version": "1.0", "dataset_variant": "vultr"}
    (folder / "tessera_metadata.json").write_text(json.dumps(sidecar))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("valid")
    for name in ("image_2019", "image_2021"):
        write_raster(folder / f"{name}.tif")
    write_raster(folder / "heights.tif", count=1)
    write_raster(folder / "lambert.tif", crs=LAMBERT)
    squares = [box(500_000 + 50 * i, 4_999_960, 500_040 + 50 * i, 5e6) for i in range(2)]
    areas = gpd.GeoDataFrame({"lcz": [2, 17]}, geometry=squares, crs="EPSG:32632")
    areas.to_file(folder / "areas.gpkg")
    write_tessera(folder / "tessera")
    write_alphaearth(folder / "aef" / "2020" / "32N" / "abc-0000000000-0000000000.tiff")
    (folder / "town.toml").write_text(TOWN)
    return build_catalog(folder / "town.toml", folder / "catalog", strict=True).path


def documents(built: Path) -> dict[str, dict[str, Any]]:
    return {
        path.relative_to(built).as_posix(): json.loads(path.read_text())
        for path in sorted(built.rglob("*.json"))
    }


def test_every_object_is_valid_stac_1_1(built: Path) -> None:
    kinds = {"Feature": "item", "Collection": "collection", "Catalog": "catalog"}
    found = documents(built)
    assert len(found) == 1 + 6 + 7
    for values in found.values():
        kind = kinds[values["type"]]
        assert values["stac_version"] == "1.1.0"
        validate(values, {"$ref": f"{CORE}/{kind}-spec/json-schema/{kind}.json"})


@with_schemas
def test_every_object_is_valid_against_the_extensions_it_declares(built: Path) -> None:
    n_checked = 0
    for values in documents(built).values():
        for uri in values.get("stac_extensions", ()):
            validate(values, extension_schema(uri))
            n_checked += 1
    assert n_checked >= 4 * 3 + 5 + 2 * 4 + 6 * 2


def test_no_field_of_an_extension_is_used_that_is_not_declared(built: Path) -> None:
    for name, values in documents(built).items():
        declared = {uri.split("/")[-3] for uri in values.get("stac_extensions", ())}
        declared = {{"projection": "proj", "scientific": "sci"}.get(n, n) for n in declared}
        declared |= {"lczcube"} if "schemas" in declared else set()
        used = {key.split(":")[0] for key in keys_of(values) if ":" in key}
        used -= {"https", "http"}
        assert used <= declared, name


def keys_of(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value).union(*map(keys_of, value.values()))
    return set().union(*map(keys_of, value)) if isinstance(value, list) else set()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_stac_check_complains_of_what_we_chose_and_of_nothing_else(built: Path) -> None:
    # fast: its rules alone; its schemas are on the network, ours are tested above.
    from stac_check.lint import Linter

    told: dict[str, list[str]] = {}
    for name, values in documents(built).items():
        linter = Linter(values, fast=True)
        assert linter.valid_stac
        for rule in linter.create_best_practices_dict():
            told.setdefault(rule, []).append(name)
    assert set(told) == EXPECTED_OF_STAC_CHECK
    assert told["searchable_identifiers"] == ["tessera/items/tessera_2020_grid_2.95_51.45.json"]
    assert told["datetime_null"] == [
        "areas/items/areas_areas.json",
        "heights/items/heights_heights.json",
    ]


def test_every_link_and_asset_leads_to_a_file(built: Path) -> None:
    for name, values in documents(built).items():
        hrefs = [link["href"] for link in values["links"]]
        hrefs += [asset["href"] for asset in values.get("assets", {}).values()]
        local = [href for href in hrefs if "://" not in href]
        assert local
        for href in local:
            assert not href.startswith("/")
            assert ((built / name).parent / href).is_file(), (name, href)


def test_pystac_walks_the_whole_tree(built: Path) -> None:
    catalog = pystac.Catalog.from_file(str(built / "catalog.json"))
    assert catalog.id == "town"
    items = list(catalog.get_items(recursive=True))
    assert len(items) == 7
    for item in items:
        assert item.get_root() is catalog
        assert item.get_collection() is item.get_parent()
        assert all(Path(str(a.get_absolute_href())).is_file() for a in item.assets.values())


def test_a_collection_sums_up_its_items(built: Path) -> None:
    image = json.loads((built / "image" / "collection.json").read_text())
    assert image["extent"]["temporal"]["interval"] == [
        ["2019-01-01T00:00:00Z", "2021-12-31T23:59:59Z"]
    ]
    item = json.loads((built / "image" / "items" / "image_2019_image_2019.json").read_text())
    assert image["extent"]["spatial"]["bbox"] == [item["bbox"]]
    band = {"data_type": "int16", "nodata": -99}
    bands = [{"name": "b01", **band}, {"name": "b02", **band}]
    assert image["summaries"] == {"proj:code": ["EPSG:32632"], "bands": bands}
    shared = image["item_assets"]["data"]
    assert (shared["bands"], shared["roles"]) == (bands, ["data"])
    assert not {"href", "file:size", "file:checksum"} & set(shared)
    licence = [link for link in image["links"] if link["rel"] == "license"]
    assert [link["href"] for link in licence] == ["https://spdx.org/licenses/CC-BY-4.0.html"]


def test_a_published_collection_names_its_producer_and_its_paper(built: Path) -> None:
    tessera = json.loads((built / "tessera" / "collection.json").read_text())
    assert tessera["providers"] == [
        {"name": "University of Cambridge", "roles": ["producer"], "url": "https://geotessera.org"}
    ]
    links = {link["rel"]: link["href"] for link in tessera["links"]}
    assert links["cite-as"] == "https://doi.org/10.48550/arXiv.2506.20380"
    assert links["license"] == "https://spdx.org/licenses/CC0-1.0.html"
    assert set(tessera["item_assets"]) == {"data", "scales", "landmask"}


def test_the_collection_leads_to_its_geoparquet(built: Path) -> None:
    collection = pystac.Collection.from_file(str(built / "image" / "collection.json"))
    asset = collection.assets["items"]
    assert "stac-items" in (asset.roles or ())
    assert asset.media_type == "application/vnd.apache.parquet"
    assert Path(str(asset.get_absolute_href())) == built / "image.parquet"


def test_rustac_reads_the_geoparquet_as_it_reads_the_json(built: Path) -> None:
    import rustac

    for name in ("image", "areas", "tessera", "aef"):
        found = rustac.read_sync(str(built / f"{name}.parquet"))
        assert found["type"] == "FeatureCollection"
        for feature in found["features"]:
            path = built / name / "items" / f"{feature['id']}.json"
            item = json.loads(path.read_text())
            assert list(feature["bbox"]) == item["bbox"]
            assert set(feature["assets"]) == set(item["assets"])
            assert feature["properties"]["proj:code"] == item["properties"]["proj:code"]
            assert rustac.read_sync(str(path))["id"] == item["id"]


def test_stac_geoparquet_reads_the_items_as_they_are_in_json(built: Path) -> None:
    for name in open_catalog(built).collection_ids:
        for item in open_catalog(built).items(name):
            path = built / name / "items" / f"{item.id}.json"
            published = json.loads(path.read_text())
            read = item.to_dict()
            for asset in published["assets"].values():
                asset["href"] = str((path.parent / asset["href"]).resolve())
            assert read | {"links": []} == published | {"links": []}


def test_odc_stac_loads_items_of_the_tree(built: Path) -> None:
    import odc.stac

    catalog = pystac.Catalog.from_file(str(built / "catalog.json"))
    (collection,) = [child for child in catalog.get_children() if child.id == "image"]
    loaded = odc.stac.load(collection.get_items(), bands=["data.2"], chunks={})
    assert dict(loaded.sizes) == {"time": 2, "y": 6, "x": 8}
    assert loaded["data.2"].values[0].tolist() == np.arange(48, 96).reshape(6, 8).tolist()


def test_every_engine_reads_the_same_pixels_of_the_catalog(built: Path) -> None:
    from lczcube.cube import open_cube
    from lczcube.grid import Grid

    catalog = open_catalog(built)
    (item,) = catalog.items("heights")
    west, south, east, north = item.bbox or ()
    grid = Grid.from_bbox((west, south, east, north), crs="EPSG:32632")
    cubes = [
        open_cube(catalog, grid, inputs=["heights"], engine=engine)["heights"].values
        for engine in ("native", "odc", "stackstac")
    ]
    assert np.count_nonzero(cubes[0] != -99) == 48
    assert all(np.array_equal(cubes[0], cube) for cube in cubes[1:])
