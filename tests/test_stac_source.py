"""Items of somebody else as a source: repaired, and in a cube the pixels of their files."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pystac
import pytest
import rasterio
import rustac
import shapely
from stac_geoparquet.arrow import parse_stac_items_to_arrow, to_parquet

from lczcube.catalog import build_catalog, open_catalog
from lczcube.cube import decode, open_cube
from lczcube.errors import MissingInputError, SourceError
from lczcube.grid import Grid
from lczcube.sources import SOURCES, build_items, find_files
from lczcube.sources.stac_read import absolute_href
from tests.scenes import CRS, catalog_of, position_codes, raster_input, write_raster
from tests.test_catalog import extension_schema, validate, with_schemas

X0, Y0 = 500_000.0, 5_000_000.0
TRANSFORM = [10.0, 0.0, X0, 0.0, -10.0, Y0]
GRID = Grid(CRS, (1563, 15624, 1565, 15625), chunk_cells=1)
CITY = (9.0, 45.14, 9.01, 45.155)
V1 = "https://stac-extensions.github.io"


def image(folder: Path, name: str = "a.tif", **keys: Any) -> Path:
    codes = position_codes(40, 70, x0=X0, y0=Y0)
    return write_raster(folder / name, codes, x0=X0, y0=Y0, nodata=-1, **keys)


def item_of(name: str = "a", **asset: Any) -> dict[str, Any]:
    """An item of STAC 1.0, with everything in the words of its time."""
    box = shapely.box(9.0, 45.149, 9.009, 45.154)
    facts = {
        "href": f"./{name}.tif",
        "type": "image/tiff; application=geotiff",
        "roles": ["data"],
        "raster:bands": [{"data_type": "int32", "nodata": -1}] * 2,
        "eo:bands": [{"name": "east", "common_name": "red"}, {"name": "north"}],
    }
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [
            f"{V1}/projection/v1.1.0/schema.json",
            f"{V1}/raster/v1.1.0/schema.json",
            f"{V1}/eo/v1.1.0/schema.json",
        ],
        "id": name,
        "geometry": shapely.geometry.mapping(box),
        "bbox": list(box.bounds),
        "properties": {
            "datetime": "2024-06-30T00:00:00Z",
            "proj:epsg": 32632,
            "proj:shape": [40, 70],
            "proj:transform": [*TRANSFORM, 0.0, 0.0, 1.0],
            "proj:geometry": {"type": "Point", "coordinates": [0, 0]},
            "eo:cloud_cover": 3,
        },
        "links": [{"rel": "self", "href": "https://elsewhere.org/a.json"}],
        "assets": {
            "thumbnail": {"href": "a.png", "type": "image/png", "roles": ["thumbnail"]},
            "image": {**facts, **asset},
        },
        "collection": "scenes",
    }


def write_item(folder: Path, values: dict[str, Any], name: str | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name or values['id']}.json"
    path.write_text(json.dumps(values))
    return path


def register(href: Path | str, *, city: Any = None, **keys: Any) -> list[pystac.Item]:
    entry = SOURCES["stac"].model_validate(
        {"name": "s", "source": "stac", "href": str(href), **keys}
    )
    files = find_files(entry, folder=Path("/"), cities={} if city is None else {"town": city})
    return [made.item for file in files for made in build_items(entry, file)]


def only(href: Path | str, **keys: Any) -> pystac.Item:
    (item,) = register(href, **keys)
    return item


def stac_input(href: Path | str, **keys: Any) -> str:
    lines = {"name": "s", "source": "stac", "href": str(href), **keys}
    return "\n".join(f"{key} = {json.dumps(value)}" for key, value in lines.items())


def require_positions(folder: Path, href: Path, **keys: Any) -> None:
    """The two bands of every pixel of a cube are its own easting and northing, in pixels."""
    cube = open_cube(catalog_of(folder, stac_input(href, **keys)), GRID, inputs=["s"], year=2024)
    codes = cube["s"].isel(time=0).values
    x, y = np.meshgrid(cube["x"].values, cube["y"].values)
    inside = (x < X0 + 700) & (x > X0) & (y < Y0) & (y > Y0 - 400)
    assert inside.any()
    expected = np.stack([np.floor(x / 10), np.floor(y / 10)])
    np.testing.assert_array_equal(codes[:, inside], expected[:, inside])
    assert (codes[:, ~inside] == -1).all()


# Documents


def as_item(folder: Path) -> Path:
    return write_item(folder, item_of())


def as_list(folder: Path) -> Path:
    values = {"type": "FeatureCollection", "features": [item_of()]}
    return write_item(folder, values, "list")


def as_catalog(folder: Path) -> Path:
    write_item(folder / "scenes" / "a", item_of(href="../../a.tif"))
    links = [{"rel": "item", "href": "./a/a.json"}, {"rel": "parent", "href": "../catalog.json"}]
    collection = {"type": "Collection", "stac_version": "1.0.0", "id": "scenes", "links": links}
    write_item(folder / "scenes", collection, "collection")
    links = [{"rel": "child", "href": "./scenes/collection.json"}]
    links += [{"rel": "root", "href": "./catalog.json"}]
    write_item(folder, {"type": "Catalog", "stac_version": "1.0.0", "links": links}, "catalog")
    return folder


def as_table(folder: Path) -> Path:
    to_parquet(parse_stac_items_to_arrow([item_of()]), folder / "items.parquet")
    return folder / "items.parquet"


def as_table_of_rustac(folder: Path) -> Path:
    rustac.write_sync(str(folder / "items.parquet"), [item_of()])
    return folder / "items.parquet"


@pytest.mark.parametrize(
    "write", [as_item, as_list, as_catalog, as_table, as_table_of_rustac], ids=lambda f: f.__name__
)
def test_an_item_ends_at_its_pixels_whatever_it_is_kept_in(
    tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    image(tmp_path / "data")
    document = write(tmp_path / "data")
    item = only(document)
    assert item.id == "s_2024_a"
    assert item.assets["data"].href == (tmp_path / "data" / "a.tif").as_posix()
    require_positions(tmp_path, document)


def test_an_item_is_repaired_to_stac_1_1(tmp_path: Path) -> None:
    image(tmp_path)
    item = only(write_item(tmp_path, item_of()))
    values = item.to_dict()
    assert values["stac_version"] == "1.1.0"
    assert sorted(item.properties) == [
        "datetime",
        "proj:bbox",
        "proj:code",
        "proj:shape",
        "proj:transform",
    ]
    assert item.properties["proj:code"] == CRS
    assert item.properties["proj:transform"] == TRANSFORM
    assert list(item.assets) == ["data"]
    assert item.assets["data"].extra_fields["bands"] == [
        {"name": "east", "data_type": "int32", "nodata": -1},
        {"name": "north", "data_type": "int32", "nodata": -1},
    ]
    assert item.assets["data"].extra_fields["lczcube:block_shape"] == [64, 64]
    assert item.links == []
    assert values["properties"]["datetime"] == "2024-06-30T00:00:00Z"


@pytest.mark.parametrize(
    "crs",
    [
        {"proj:epsg": 32632},
        {"proj:epsg": "32632"},
        {"proj:epsg": "EPSG:32632"},
        {"proj:epsg": None, "proj:code": "EPSG:32632"},
        {"proj:wkt2": rasterio.crs.CRS.from_epsg(32632).to_wkt(version="WKT2_2019")},
        {},
    ],
)
def test_a_crs_in_any_spelling_is_one(tmp_path: Path, crs: dict[str, Any]) -> None:
    image(tmp_path)
    values = item_of()
    del values["properties"]["proj:epsg"]
    values["properties"] |= crs
    assert only(write_item(tmp_path, values)).properties["proj:code"] == CRS


def bare(values: dict[str, Any]) -> dict[str, Any]:
    """An item that says nothing of its pixels."""
    values["properties"] = {"datetime": "2024-06-30T00:00:00Z"}
    image = values["assets"]["image"]
    values["assets"]["image"] = {"href": image["href"], "type": image["type"]}
    return values


def test_what_an_item_does_not_say_comes_from_the_file(tmp_path: Path) -> None:
    image(tmp_path, names=("e", "n"))
    values = bare(item_of()) | {"geometry": None}
    del values["bbox"]
    item = only(write_item(tmp_path, values))
    assert item.properties["proj:shape"] == [40, 70]
    assert [band["name"] for band in item.assets["data"].extra_fields["bands"]] == ["e", "n"]
    assert item.assets["data"].extra_fields["bands"][0]["nodata"] == -1
    assert item.bbox == pytest.approx([9.0, 45.1494, 9.0089, 45.1531], abs=2e-3)
    require_positions(tmp_path, tmp_path / "a.json")


def test_scales_of_old_and_new_spelling_decode_the_codes(tmp_path: Path) -> None:
    write_raster(tmp_path / "a.tif", np.full((2, 40, 70), 30, "int32"), x0=X0, y0=Y0)
    bands = [{"data_type": "int32", "nodata": -1, "scale": 0.1, "offset": -1.0}] * 2
    write_item(tmp_path, item_of(**{"raster:bands": bands}))
    catalog = catalog_of(tmp_path, stac_input(tmp_path / "a.json"))
    values = decode(open_cube(catalog, GRID, inputs=["s"], year=2024))["s"].values
    np.testing.assert_allclose(values[np.isfinite(values)], 2.0, rtol=1e-6)
    new = item_of(bands=[{"name": "x", "raster:scale": 0.1}, {"name": "y"}])
    (first, second) = only(write_item(tmp_path, new)).assets["data"].extra_fields["bands"]
    assert (first["name"], first["raster:scale"]) == ("x", 0.1)
    assert "raster:scale" not in second


def test_a_file_stored_from_the_south_is_read_as_it_lies(tmp_path: Path) -> None:
    """The item says north-up, as stackstac wants it."""
    image(tmp_path, south_up=True)
    item = only(write_item(tmp_path, item_of()))
    assert item.properties["proj:transform"][4] == 10
    assert "stored from the south" in item.properties["lczcube:note"]
    require_positions(tmp_path, tmp_path / "a.json")


def test_an_asset_of_one_band_may_say_its_dtype_itself(tmp_path: Path) -> None:
    write_raster(tmp_path / "a.tif", np.zeros((1, 40, 70), "uint8"), x0=X0, y0=Y0)
    values = bare(item_of())
    values["assets"]["image"] |= {"data_type": "uint8", "nodata": 255}
    item = only(write_item(tmp_path, values))
    assert item.assets["data"].extra_fields["bands"] == [
        {"name": "image", "data_type": "uint8", "nodata": 255}
    ]
    image(tmp_path)
    values["assets"]["image"] = {"href": "a.tif", "data_type": "int32"}
    bands = only(write_item(tmp_path, values)).assets["data"].extra_fields["bands"]
    assert [band["name"] for band in bands] == ["b01", "b02"]


# Which items


def test_items_are_chosen_by_city_year_and_collection(tmp_path: Path) -> None:
    image(tmp_path)
    far = item_of() | {"id": "far", "geometry": shapely.geometry.mapping(shapely.box(0, 0, 1, 1))}
    old = item_of() | {"id": "old"}
    old["properties"] = {**old["properties"], "datetime": "2019-06-30T00:00:00Z"}
    span = item_of() | {"id": "span"}
    span["properties"] = {
        **span["properties"],
        "datetime": None,
        "start_datetime": "2016-01-01T00:00:00Z",
        "end_datetime": "2020-12-31T00:00:00Z",
    }
    boxed = item_of() | {"id": "boxed", "geometry": None}
    values = {"type": "FeatureCollection", "features": [item_of(), far, old, span, boxed]}
    path = write_item(tmp_path, values, "list")

    def ids(**keys: Any) -> list[str]:
        return [item.id for item in register(path, city=CITY, **keys)]

    assert ids() == ["s_2024_a", "s_2019_old", "s_2016_span", "s_2024_boxed"]
    assert ids(year=2019) == ["s_2019_old", "s_2016_span"]
    assert ids(years=[2019, 2024]) == ids()
    assert ids(collection="scenes") == ids()
    assert ids(collection="others") == []
    assert ids(static=True)[0] == "s_a"


def test_tables_are_filtered_by_city(tmp_path: Path) -> None:
    image(tmp_path)
    box = shapely.box(0, 0, 1, 1)
    far = {"id": "far", "geometry": shapely.geometry.mapping(box), "bbox": [0.0, 0, 1, 1]}
    to_parquet(parse_stac_items_to_arrow([item_of(), item_of() | far]), tmp_path / "i.parquet")
    assert [item.id for item in register(tmp_path / "i.parquet", city=CITY)] == ["s_2024_a"]
    with pytest.raises(SourceError, match="do not meet"):
        register(tmp_path / "i.parquet")


def test_items_of_two_collections_want_one_to_be_named(tmp_path: Path) -> None:
    image(tmp_path)
    write_item(tmp_path / "items", item_of(href="../a.tif"))
    write_item(tmp_path / "items", item_of(href="../a.tif") | {"id": "b", "collection": "maps"})
    with pytest.raises(SourceError, match=r"items of 2 collections \(maps, scenes\)"):
        register(tmp_path / "items")
    assert only(tmp_path / "items", collection="maps").id == "s_2024_b"


def test_ids_that_repeat_are_told_apart(tmp_path: Path) -> None:
    image(tmp_path)
    for name in ("x", "y"):
        write_item(tmp_path / name, item_of(href="../a.tif"))
    ids = [item.id for item in register(tmp_path / "*" / "a.json")]
    assert ids == ["s_2024_a", "s_2024_a-2"]


def test_a_catalog_that_links_to_itself_ends(tmp_path: Path) -> None:
    image(tmp_path)
    folder = as_catalog(tmp_path)
    collection = json.loads((folder / "scenes" / "collection.json").read_text())
    collection["links"].append({"rel": "child", "href": "../catalog.json"})
    write_item(folder / "scenes", collection, "collection")
    assert only(folder).id == "s_2024_a"


# Which asset


def test_the_asset_is_named_where_there_are_several(tmp_path: Path) -> None:
    image(tmp_path)
    values = item_of()
    values["assets"]["other"] = dict(values["assets"]["image"])
    path = write_item(tmp_path, values)
    with pytest.raises(SourceError, match=r"has 2 rasters among its assets \(image, other, thumb"):
        register(path)
    assert list(only(path, asset="other").assets) == ["data"]
    with pytest.raises(SourceError, match="has no asset 'B04'; it has image, other, thumbnail"):
        register(path, asset="B04")
    values["assets"]["data"] = values["assets"].pop("other")
    assert only(write_item(tmp_path, values)).id == "s_2024_a"


@pytest.mark.parametrize(
    ("asset", "said"),
    [
        ({"type": "application/vnd.zarr", "href": "a.zarr"}, "register a Zarr store with source ="),
        ({"type": "text/csv", "href": "a.csv"}, "is text/csv, no raster"),
        ({"href": "gone.tif"}, "is not there"),
        ({"href": "https://me:secret@host.org/a.tif"}, "holds a credential"),
        ({"href": "https://host.org/a.tif?sig=abcdef"}, "holds a credential"),
        ({"raster:bands": [{"data_type": "int32"}]}, "has lists of 2, 1 bands"),
        ({"raster:bands": [{"data_type": "int8"}] * 2}, "says data_type int8 and its file"),
        ({"raster:bands": [{"data_type": "int8"}, {"data_type": "uint8"}]}, "mixes dtypes"),
        ({"raster:bands": [{"nodata": 1}, {"nodata": 2}]}, "declares several nodata values"),
        ({"proj:shape": [41, 70]}, "says proj:shape"),
        ({"proj:epsg": 32633}, "says CRS EPSG:32633 and its file says EPSG:32632"),
        ({"proj:epsg": 1}, "is no CRS"),
        ({"proj:transform": [10, 0, X0 + 10, 0, -10, Y0]}, "has the proj:transform"),
        ({"file:size": 12}, "bytes and the item says 12"),
    ],
)
def test_an_asset_that_cannot_be_used_is_refused(
    tmp_path: Path, asset: dict[str, Any], said: str
) -> None:
    image(tmp_path)
    path = write_item(tmp_path, item_of(**asset))
    with pytest.raises((SourceError, MissingInputError), match=said) as caught:
        register(path, asset="image")
    assert "secret" not in str(caught.value)
    assert "abcdef" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_codes_with_scales_beside_them_are_left_to_their_own_source(tmp_path: Path) -> None:
    values = item_of(**{"type": "application/x-npy", "href": "a.npy", "lczcube:axes": "y,x,band"})
    path = write_item(tmp_path, values)
    assert only(path, asset="image").assets["data"].extra_fields["lczcube:axes"] == "y,x,band"
    values["assets"]["scales"] = {"href": "b.npy", "type": "application/x-npy"}
    with pytest.raises(SourceError, match='with source = "tessera"'):
        register(write_item(tmp_path, values), asset="image")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"properties": {}}, "has neither datetime nor"),
        ({"properties": {"datetime": "soon"}}, "item 'a' cannot be read as a STAC item"),
        ({"properties": None}, "item 'a' cannot be read as a STAC item"),
        ({"assets": []}, "item 'a'"),
        ({"assets": {"data": {"type": "image/tiff"}}}, "item 'a' cannot be read as a STAC item"),
        ({"geometry": {"type": "Polygon"}}, "item 'a' cannot be read as a STAC item"),
    ],
)
def test_an_item_that_is_none_is_refused(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    image(tmp_path)
    path = write_item(tmp_path, item_of() | changes, "a")
    with pytest.raises(SourceError, match=said):
        register(path, city=CITY)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty"),
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("[1]", "holds no object"),
        ('{"type": "Topology"}', "has type 'Topology'"),
        ('{"a": 1}', "has no type"),
        (
            '{"type": "FeatureCollection", "features": [{}, {}]}',
            "lists 2 features and no STAC",
        ),
    ],
)
def test_a_document_that_is_no_stac_is_refused(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(SourceError, match=said):
        register(tmp_path / "a.json")


def test_a_table_that_is_no_stac_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa

    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(SourceError, match="lacks assets, geometry"):
        register(tmp_path / "a.parquet")
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(SourceError, match="cannot be read as stac-geoparquet"):
        register(tmp_path / "a.parquet")
    with pytest.raises(SourceError, match="is a table at a URL"):
        register("https://host.org/a.parquet")


def test_a_url_that_does_not_answer_is_refused() -> None:
    with pytest.raises(SourceError, match=r"http://127\.0\.0\.1:9/a\.json does not answer"):
        register("http://127.0.0.1:9/a.json")
    with pytest.raises(SourceError, match="is no document that can be read from here"):
        register("s3://bucket/a.json")


def test_broken_documents_are_rows_and_the_rest_is_built(tmp_path: Path) -> None:
    image(tmp_path)
    folder = as_catalog(tmp_path)
    collection = json.loads((folder / "scenes" / "collection.json").read_text())
    collection["links"] += [{"rel": "item", "href": f"./{n}.json"} for n in ("gone", "no", "far")]
    write_item(folder / "scenes", collection, "collection")
    write_item(folder / "scenes", item_of(href="no.tif"), "no")
    moved = item_of(href="../a.tif")
    moved["properties"]["proj:epsg"] = 32633
    write_item(folder / "scenes", moved, "far")
    (tmp_path / "town.toml").write_text(f'id = "town"\n[[input]]\n{stac_input(folder)}\n')
    report = build_catalog(tmp_path / "town.toml", tmp_path / "out")
    assert sorted(Path(f.path).name for f in report.failures) == [
        "far.json",
        "gone.json",
        "no.json",
    ]
    assert [item.id for item in open_catalog(report.path).items("s")] == ["s_2024_a"]


@pytest.mark.parametrize(
    ("href", "base", "expected"),
    [
        ("./a.tif", "/data/x/item.json", "/data/x/a.tif"),
        ("../../a.tif", "/data/x/item.json", "/a.tif"),
        ("/abs/a.tif", "/data/item.json", "/abs/a.tif"),
        ("file:///abs/a.tif", "/data/item.json", "/abs/a.tif"),
        ("s3://bucket/a.tif", "/data/item.json", "s3://bucket/a.tif"),
        ("/vsizip/a.zip/a.tif", "/data/item.json", "/vsizip/a.zip/a.tif"),
        ("../a.tif", "https://host.org/x/item.json", "https://host.org/a.tif"),
    ],
)
def test_hrefs_start_at_their_document(href: str, base: str, expected: str) -> None:
    assert absolute_href(href, base) == expected


# What lczcube writes


def test_a_catalog_of_our_own_comes_back(tmp_path: Path) -> None:
    image(tmp_path / "data")
    ours = catalog_of(tmp_path, raster_input("s", "data/a.tif", checksums=True))
    (before,) = ours.items("s")
    for document in ("catalog/catalog.json", "catalog/s.parquet"):
        item = only(tmp_path / document)
        assert item.properties["proj:transform"] == before.properties["proj:transform"]
        assert item.geometry == before.geometry
        for key in ("bands", "lczcube:block_shape", "file:checksum", "raster:spatial_resolution"):
            assert item.assets["data"].extra_fields[key] == before.assets["data"].extra_fields[key]
    shutil.move(tmp_path / "catalog", tmp_path / "theirs")
    require_positions(tmp_path, tmp_path / "theirs")


@with_schemas
def test_imported_items_are_valid_against_what_they_declare(tmp_path: Path) -> None:
    image(tmp_path)
    image(tmp_path, "b.tif", south_up=True)
    remote = item_of(href="https://host.org/c.tif") | {"id": "c"}
    values = {"type": "FeatureCollection", "features": [item_of(), item_of("b"), remote]}
    write_item(tmp_path, values, "list")
    catalog_of(tmp_path, stac_input(tmp_path / "list.json"))
    paths = sorted((tmp_path / "catalog" / "s").rglob("*.json"))
    assert len(paths) == 4
    for path in paths:
        held = json.loads(path.read_text())
        for uri in held["stac_extensions"]:
            validate(held, extension_schema(uri))
    tables = open_catalog(tmp_path / "catalog")
    static = open_catalog(tmp_path / "catalog" / "catalog.json")
    one, other = ([item.to_dict() for item in c.items("s")] for c in (tables, static))
    assert one == other
