"""Canopy heights registered: quadkeys, the files beside a tile, what is found and what refused."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pystac
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from pyproj import Transformer
from rasterio.shutil import copy as copy_raster
from rio_cogeo import cog_validate
from shapely.geometry import shape

from lczcube.catalog import CatalogReport, build_catalog, open_catalog
from lczcube.errors import ConfigError, LczcubeError, MissingInputError, SourceError
from lczcube.sources import SourceItem, build_items, find_files
from lczcube.sources.canopy import CanopyInput
from lczcube.sources.items import LCZCUBE_URI
from lczcube.sources.quadkeys import QuadTile, tiles_meeting
from lczcube.synth import City, draw_city
from lczcube.synth.canopy import STANDS, canopy_heights, write_canopy
from tests.test_catalog import CORE, extension_schema, validate, with_schemas

V1, V2 = "120221112", "1202211123"
"""Tiles of both versions over Munich; the second lies in the first."""

BBOX = (10.2798, 48.08651, 10.3202, 48.11349)
URL = "https://dataforgood-fb-data.s3.amazonaws.com/forests/v1/alsgedi_global_v6_float"

Pixels = npt.NDArray[Any]


def write_tile(folder: Path, quadkey: str = V1, side_px: int = 64, **changes: Any) -> Path:
    """A tile of the publisher's layout, small: ``chm/{quadkey}.tif``, all ground."""
    path = folder / "chm" / f"{quadkey}.tif"
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {
        "driver": "GTiff",
        "dtype": "uint8",
        "count": 1,
        "height": side_px,
        "width": side_px,
        "crs": "EPSG:3857",
        "transform": Affine(*QuadTile.of_quadkey(quadkey).transform(side_px)),
        "tiled": False,
        "blockysize": 1,
        "compress": "deflate",
        "predictor": 2,
    } | changes
    with rasterio.open(path, "w", **profile) as file:
        file.write(np.zeros((profile["count"], profile["height"], profile["width"]), np.uint8))
    return path


def write_mask(tile: Path, valid: Pixels | None = None, **changes: Any) -> Path:
    """The mask of a tile in the publisher's folder, 255 where it holds data."""
    path = tile.parents[1] / "msk" / f"{tile.name}.msk"
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(tile) as file:
        profile = dict(file.profile) | changes
    codes = np.full((profile["height"], profile["width"]), 255, np.uint8)
    with rasterio.open(path, "w", **profile) as mask:
        mask.write(codes if valid is None else np.where(valid, 255, 0).astype(np.uint8), 1)
    return path


def write_footprints(
    tile: Path, *outlines: tuple[shapely.Geometry, str | None], column: str = "acq_date"
) -> Path:
    """``metadata/{quadkey}.geojson`` of outlines, EPSG:4326, and their days."""
    path = tile.parents[1] / "metadata" / f"{tile.stem}.geojson"
    path.parent.mkdir(parents=True, exist_ok=True)
    features = [
        {
            "type": "Feature",
            "properties": {column: day},
            "geometry": shapely.geometry.mapping(outline),
        }
        for outline, day in outlines
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def write_index(folder: Path, *quadkeys: str, column: str = "tile") -> Path:
    path = folder / "tiles.geojson"
    features = [
        {
            "type": "Feature",
            "properties": {column: quadkey},
            "geometry": shapely.geometry.mapping(shapely.box(*QuadTile.of_quadkey(quadkey).bbox)),
        }
        for quadkey in quadkeys
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def register(
    href: Path | str, *, cities: Mapping[str, Any] | None = None, **keys: Any
) -> list[SourceItem]:
    entry = CanopyInput.model_validate(
        {"name": "canopy", "source": "canopy", "href": str(href), **keys}
    )
    files = find_files(entry, folder=Path("/"), cities=cities or {})
    return [made for file in files for made in build_items(entry, file)]


def item_of(href: Path | str, **keys: Any) -> pystac.Item:
    (made,) = register(href, **keys)
    return made.item


def built(folder: Path, keys: str, *, bbox: Any = BBOX) -> CatalogReport:
    toml = folder / "town.toml"
    toml.write_text(
        f'id = "town"\n[city.town]\nbbox = {list(bbox)}\n'
        f'[[input]]\nname = "canopy"\nsource = "canopy"\n{keys}\n'
    )
    return build_catalog(toml, folder / "catalog")


@pytest.fixture(scope="module")
def city() -> City:
    return draw_city(0, km=3, seed=7)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, city: City) -> Path:
    """``v1`` and ``v2`` of one made-up city."""
    folder = tmp_path_factory.mktemp("archive")
    write_canopy(folder / "v1", [city], seed=7, version=1, side_px=8192)
    write_canopy(folder / "v2", [city], seed=7, version=2, side_px=8192)
    return folder


# Quadkeys


@pytest.mark.parametrize(
    ("lon", "lat", "quadkey"),
    [
        (15.97, 45.81, "120230330"),
        (-113.62, 53.63, "021211312"),
        (13.4, 52.5, "120210233"),
        (36.82, -1.29, "300110102"),
        (-77.03, 38.9, "0320100322"),
    ],
)
def test_points_lie_in_the_publishers_tiles(lon: float, lat: float, quadkey: str) -> None:
    tile = QuadTile.at(lon, lat, len(quadkey))
    assert tile.quadkey == quadkey
    assert QuadTile.of_quadkey(quadkey) == tile
    west, south, east, north = tile.bbox
    assert west <= lon < east
    assert south < lat <= north


@given(st.integers(1, 22), st.floats(-180, 180), st.floats(-90, 90))
def test_a_quadkey_and_its_tile_are_one(zoom: int, lon: float, lat: float) -> None:
    tile = QuadTile.at(lon, lat, zoom)
    assert QuadTile.of_quadkey(tile.quadkey) == tile
    assert len(tile.quadkey) == zoom
    west, south, east, north = tile.bbox
    assert QuadTile.at((west + east) / 2, (south + north) / 2, zoom) == tile


@pytest.mark.parametrize(("quadkey", "side_px"), [(V1, 65536), (V2, 32768)])
def test_pixels_of_both_versions_are_1_194_m_and_fill_the_bbox(quadkey: str, side_px: int) -> None:
    tile = QuadTile.of_quadkey(quadkey)
    a, b, c, d, e, f = tile.transform(side_px)
    assert (a, b, d, e) == (pytest.approx(1.19432857, abs=1e-8), 0, 0, -a)
    to_lonlat = Transformer.from_crs("EPSG:3857", "EPSG:4326", always_xy=True)
    west, north = to_lonlat.transform(c, f)
    east, south = to_lonlat.transform(c + side_px * a, f + side_px * e)
    assert (west, south, east, north) == pytest.approx(tile.bbox, abs=1e-9)


def test_the_tiles_that_a_box_meets_are_those_whose_bbox_meets_it() -> None:
    box = (-0.9, -0.2, 1.9, 1.1)
    found = tiles_meeting([box, box], 9)
    every = (QuadTile(9, x, y) for x in range(250, 262) for y in range(250, 262))
    area = shapely.box(*box)
    assert found == [t for t in every if shapely.intersection(shapely.box(*t.bbox), area).area > 0]
    assert len(found) == 3 * 5


@pytest.mark.parametrize("text", ["", "1204", "12a"])
def test_what_is_no_quadkey_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no quadkey"):
        QuadTile.of_quadkey(text)


# Version 1


def test_a_tile_of_version_1_lies_where_its_name_says(tmp_path: Path) -> None:
    path = write_tile(tmp_path)
    item = item_of(path)
    assert item.id == f"canopy_{V1}"
    assert item.properties["proj:code"] == "EPSG:3857"
    assert item.properties["proj:shape"] == [64, 64]
    with rasterio.open(path) as file:
        assert item.properties["proj:transform"] == pytest.approx(tuple(file.transform)[:6])
    assert shape(item.geometry or {}).equals(shapely.box(*QuadTile.of_quadkey(V1).bbox))
    assert item.datetime is None


def test_its_asset_is_one_band_of_metres_in_strips(tmp_path: Path) -> None:
    asset = item_of(write_tile(tmp_path)).assets["data"]
    (band,) = asset.extra_fields["bands"]
    assert band == {"name": "height", "data_type": "uint8", "unit": "m", "nodata": 255}
    assert asset.extra_fields["lczcube:block_shape"] == [1, 64]
    assert asset.media_type == "image/tiff; application=geotiff"


def test_the_resolution_is_that_on_the_ground(tmp_path: Path) -> None:
    tile = QuadTile.at(10.75, 60, 9)
    asset = item_of(write_tile(tmp_path, tile.quadkey, side_px=65536 // 512)).assets["data"]
    ground_m = 512 * 1.19432857 * np.cos(np.radians(np.mean(tile.bbox[1::2])))
    assert asset.extra_fields["raster:spatial_resolution"] == pytest.approx(ground_m, rel=1e-5)
    assert ground_m == pytest.approx(512 * 0.6, rel=0.02)


def test_the_mask_of_another_folder_is_an_asset_that_says_what_0_means(tmp_path: Path) -> None:
    path = write_tile(tmp_path)
    mask = write_mask(path)
    item = item_of(path)
    assert item.assets["mask"].href == mask.as_posix()
    assert item.assets["mask"].roles == ["mask"]
    assert item.assets["mask"].extra_fields["lczcube:mask"] == "zero_is_invalid"
    turned = item_of(path, mask="zero_is_valid").assets["mask"]
    assert turned.extra_fields["lczcube:mask"] == "zero_is_valid"
    assert "lczcube:mask" not in item_of(path, mask="ignore").assets["mask"].extra_fields


def test_a_mask_next_to_its_tile_is_found_too(tmp_path: Path) -> None:
    path = write_tile(tmp_path)
    beside = write_mask(path).rename(path.with_name(f"{V1}.tif.msk"))
    assert item_of(path).assets["mask"].href == beside.as_posix()


def test_a_tile_without_its_mask_or_of_another_size_says_so(tmp_path: Path) -> None:
    note = item_of(write_tile(tmp_path)).properties["lczcube:note"]
    assert "No mask: where nothing was imaged the tile reads 0 m" in note
    assert "64 pixels a side; the publisher's tiles have 65536." in note


def test_a_tile_of_the_publishers_size_is_registered_without_a_pixel(tmp_path: Path) -> None:
    """65,536 pixels a side, nothing stored: reading them would take seconds and 4 GB."""
    path = write_tile(tmp_path)
    profile = {"crs": "EPSG:3857", "driver": "GTiff", "dtype": "uint8", "count": 1}
    transform = Affine(*QuadTile.of_quadkey(V1).transform(65536))
    size = {"width": 65536, "height": 65536, "blockysize": 1, "tiled": False, "sparse_ok": True}
    for place in (path, tmp_path / "msk" / f"{V1}.tif.msk"):
        place.parent.mkdir(exist_ok=True)
        rasterio.open(place, "w", transform=transform, **profile, **size).close()
    item = item_of(path)
    assert "lczcube:note" not in item.properties
    assert item.properties["proj:shape"] == [65536, 65536]
    assert item.properties["proj:transform"][0] == pytest.approx(1.19432857, abs=1e-8)
    assert item.assets["data"].extra_fields["lczcube:block_shape"] == [1, 65536]


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the system does not count reads")
def test_registering_reads_headers_only(tmp_path: Path) -> None:
    path = write_tile(tmp_path, side_px=2048)
    noise = np.random.default_rng(0).integers(0, 256, (2048, 2048), np.uint8)
    with rasterio.open(path, "r+") as file:
        file.write(noise, 1)
    item_of(path)
    before = bytes_read()
    item_of(path)
    assert bytes_read() - before < path.stat().st_size / 10
    item_of(path, checksums=True)
    assert bytes_read() - before > path.stat().st_size


def bytes_read() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])


# Version 2


def test_a_footprint_is_the_union_of_dated_ones_within_the_tile(tmp_path: Path) -> None:
    path = write_tile(tmp_path, V2)
    west, south, east, north = QuadTile.of_quadkey(V2).bbox
    middle = (west + east) / 2
    metadata = write_footprints(
        path,
        (shapely.box(west - 1, south - 1, middle, north + 1), "2019-05-03"),
        (shapely.box(west, south, middle, north), "2017-11-20"),
        (shapely.box(middle, south, east, north), None),
    )
    item = item_of(path)
    expected = shapely.box(west, south, middle, north)
    assert shape(item.geometry or {}).symmetric_difference(expected).area < 1e-8
    asset = item.assets["metadata"]
    assert asset.href == metadata.as_posix()
    assert asset.extra_fields["start_datetime"] == "2017-11-20T00:00:00Z"
    assert asset.extra_fields["end_datetime"] == "2019-05-03T23:59:59Z"
    assert asset.media_type == "application/geo+json"


def test_footprints_that_cross_themselves_or_have_holes_keep_their_area(tmp_path: Path) -> None:
    path = write_tile(tmp_path, V2)
    west, south, east, north = QuadTile.of_quadkey(V2).bbox
    bow = shapely.Polygon([(west, south), (east, north), (east, south), (west, north)])
    write_footprints(path, (bow, "2018-01-01"))
    area = shape(item_of(path).geometry or {}).area
    assert area == pytest.approx((east - west) * (north - south) / 2, rel=1e-6)


def test_a_tile_of_version_2_without_footprints_says_so(tmp_path: Path) -> None:
    item = item_of(write_tile(tmp_path, V2))
    assert "No footprints: where nothing was imaged" in item.properties["lczcube:note"]
    assert "metadata" not in item.assets


def test_footprints_may_lie_in_a_folder_of_their_own(tmp_path: Path) -> None:
    path = write_tile(tmp_path / "a", V2)
    west, south, _, north = QuadTile.of_quadkey(V2).bbox
    outline = shapely.box(west, south, west + 0.1, north)
    place = write_footprints(path, (outline, "2018-01-01")).parent.rename(tmp_path / "dates")
    item = item_of(path, metadata=str(place))
    assert shape(item.geometry or {}).bounds[2] == pytest.approx(west + 0.1)
    with pytest.raises(MissingInputError, match=r"1202211123\.geojson is not there; fetch it"):
        item_of(path, metadata=str(tmp_path))


# Finding


def test_only_tiles_near_a_city_are_taken_from_a_folder(tmp_path: Path) -> None:
    near = write_tile(tmp_path / "deep" / "v1", V1)
    write_tile(tmp_path / "deep" / "v1", "300110102")
    write_tile(tmp_path, "120221113")  # 23 km to the east
    found = register(tmp_path, cities={"town": BBOX})
    assert [made.item.assets["data"].href for made in found] == [near.as_posix()]
    assert len(register(tmp_path)) == 3


def test_a_tile_that_href_names_is_meant_wherever_it_lies(tmp_path: Path) -> None:
    path = write_tile(tmp_path, "300110102")
    assert item_of(path, cities={"town": BBOX}).id == "canopy_300110102"


def test_a_version_is_chosen_where_a_folder_holds_both(archive: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        report = built(tmp_path, f'href = "{archive}"\nversion = {number}')
        assert not report.failures
        product = open_catalog(report.path).layer("canopy").product
        assert product == f"meta-chm/{number}"
    with pytest.raises(LczcubeError, match="mixes layers"):
        built(tmp_path, f'href = "{archive}"')
    with pytest.raises(SourceError, match="is of version 1 by its name, and the input says"):
        item_of(archive / "v1" / "chm" / f"{V1}.tif", version=2)


def test_other_rasters_of_the_archive_are_no_tiles(tmp_path: Path) -> None:
    path = write_tile(tmp_path)
    (tmp_path / "CHM_acquisition_date.tif").write_bytes(path.read_bytes())
    assert len(register(tmp_path)) == 1


def test_an_index_says_which_tiles_of_a_city_there_are(tmp_path: Path) -> None:
    write_tile(tmp_path, V1)
    index = write_index(tmp_path, V1, "120221110", "300110102")
    wide = (*BBOX[:3], 48.9)
    entry = CanopyInput(name="canopy", source="canopy", href=(str(tmp_path),), index=str(index))
    files = find_files(entry, folder=tmp_path, cities={"town": wide})
    assert [Path(file.href).stem for file in files] == ["120221110", V1]
    report = built(tmp_path, 'href = "."\nindex = "tiles.geojson"', bbox=wide)
    assert report.n_items == 1
    (failure,) = report.failures
    assert "120221110.tif is not there" in failure.reason


def test_tiles_at_a_url_are_named_by_the_cities_and_not_opened() -> None:
    """Tests have no network: a tile that was opened would fail."""
    (made,) = register(URL, cities={"town": BBOX})
    item = made.item
    assert item.assets["data"].href == f"{URL}/chm/{V1}.tif"
    assert item.assets["mask"].href == f"{URL}/msk/{V1}.tif.msk"
    assert item.assets["metadata"].href == f"{URL}/metadata/{V1}.geojson"
    assert item.properties["proj:shape"] == [65536, 65536]
    assert item.properties["proj:transform"] == list(QuadTile.of_quadkey(V1).transform(65536))
    assert item.properties["lczcube:note"].startswith("Not opened:")
    assert item.assets["data"].extra_fields["lczcube:block_shape"] == [1, 65536]


def test_a_city_on_an_edge_takes_the_tiles_on_both_sides() -> None:
    west, south, _, north = QuadTile.of_quadkey(V2).bbox
    bbox = (west - 0.01, south + 0.1, west + 0.01, north - 0.1)
    found = register("s3://bucket/forests/v2/global/x", cities={"town": bbox})
    assert [made.item.id for made in found] == ["canopy_1202211122", "canopy_1202211123"]
    assert found[0].item.assets["data"].href.startswith("s3://bucket/forests/v2/global/x/chm/12022")
    assert found[0].item.assets["data"].media_type.endswith("profile=cloud-optimized")
    assert "mask" not in found[0].item.assets
    assert "No footprints" in found[0].item.properties["lczcube:note"]


def test_a_url_with_an_index_and_local_footprints_is_whole(tmp_path: Path) -> None:
    write_index(tmp_path, V2)
    west, south, east, north = QuadTile.of_quadkey(V2).bbox
    outline = shapely.box(west, south, (west + east) / 2, north)
    write_footprints(tmp_path / "chm" / f"{V2}.tif", (outline, "2018-01-01"))
    wide = (BBOX[0] - 1, *BBOX[1:])
    item = item_of(
        "s3://bucket/a",
        cities={"town": wide},
        index=str(tmp_path / "tiles.geojson"),
        metadata=str(tmp_path / "metadata"),
    )
    assert item.assets["data"].href == f"s3://bucket/a/chm/{V2}.tif"
    assert shape(item.geometry or {}).bounds[2] == pytest.approx((west + east) / 2)
    assert "No footprints" not in item.properties["lczcube:note"]


def test_a_url_wants_a_city_and_a_version() -> None:
    with pytest.raises(ConfigError, match=r"names no city; add a \[city.NAME\] table"):
        register(URL)
    with pytest.raises(ConfigError, match=r"does not tell the version.*add version = 1"):
        register("https://example.org/mirror", cities={"town": BBOX})
    (made,) = register("https://example.org/mirror", cities={"town": BBOX}, version=2)
    assert made.item.assets["data"].href == f"https://example.org/mirror/chm/{V2}.tif"


def test_a_tile_at_a_url_that_is_named_follows_from_its_name() -> None:
    item = item_of(f"{URL}/chm/300110102.tif")
    assert item.properties["proj:transform"] == list(QuadTile.at(36.82, -1.29, 9).transform(65536))
    assert item.assets["mask"].href == f"{URL}/msk/300110102.tif.msk"


def test_a_year_gives_the_layer_a_date(tmp_path: Path) -> None:
    path = write_tile(tmp_path)
    assert item_of(path, year=2020).properties["start_datetime"] == "2020-01-01T00:00:00Z"
    static = CanopyInput(name="c", source="canopy", href=("a",)).layer_fields["static"]
    dated = CanopyInput(name="c", source="canopy", href=("a",), year=2020).layer_fields["static"]
    assert (static, dated) == (True, False)


# Exports


def write_export(path: Path, **changes: Any) -> Path:
    profile = {
        "driver": "GTiff",
        "dtype": "float32",
        "count": 1,
        "height": 32,
        "width": 48,
        "crs": "EPSG:32632",
        "transform": Affine(10, 0, 600_000, 0, -10, 5_330_000),
    } | changes
    with rasterio.open(path, "w", **profile) as file:
        file.write(np.zeros((profile["count"], 32, 48), profile["dtype"]))
    return path


def test_an_export_is_registered_and_says_that_it_mixes(tmp_path: Path) -> None:
    (made,) = register(write_export(tmp_path / "munich.tif"))
    assert made.coding == {"valid": "nodata"}
    item = made.item
    assert item.properties["proj:code"] == "EPSG:32632"
    assert "mix ground with crowns" in item.properties["lczcube:note"]
    (band,) = item.assets["data"].extra_fields["bands"]
    assert band == {"name": "height", "data_type": "float32", "unit": "m", "nodata": 255}


@pytest.mark.parametrize(
    ("dtype", "declared", "key", "code"),
    [
        ("uint8", None, None, 255),
        ("uint8", 254, None, 254),
        ("int16", -9999, None, -9999),
        ("float32", float("nan"), None, 255),
        ("int16", 0, 255, 255),
        ("int16", 0, 0, 0),
        ("int8", None, None, None),
    ],
)
def test_nodata_is_the_inputs_or_the_files_or_255(
    tmp_path: Path, dtype: str, declared: float | None, key: float | None, code: float | None
) -> None:
    path = write_export(tmp_path / "a.tif", dtype=dtype, nodata=declared)
    (band,) = item_of(path, nodata=key).assets["data"].extra_fields["bands"]
    assert band.get("nodata") == code


def test_the_canopy_of_bilbao_is_registered_as_it_lies(realdata: Path) -> None:
    item = item_of(realdata / "heights" / "CDSM.tif")
    assert item.properties["proj:code"] == "EPSG:25830"
    assert item.properties["proj:transform"][0] == pytest.approx(2.50205798)
    assert item.properties["proj:transform"][4] == pytest.approx(-2.50240888)
    (band,) = item.assets["data"].extra_fields["bands"]
    assert (band["data_type"], band["nodata"]) == ("int16", 255)
    assert shape(item.geometry or {}).contains(shapely.Point(-2.99, 43.31))


# What is refused


@pytest.mark.parametrize(
    ("quadkey", "fault", "said"),
    [
        (V1, {"crs": "EPSG:32632"}, "is in EPSG:32632; a tile of canopy height is in EPSG:3857"),
        (V1, {"crs": None}, "has no CRS"),
        (V1, {"height": 63}, "has 63 x 64 pixels"),
        (V1, {"count": 3}, "holds 3 band(s) of uint8; a tile of canopy height holds one"),
        (V1, {"dtype": "float32"}, "holds 1 band(s) of float32"),
        (V1, {"nodata": 0}, "declares nodata 0, which is also ground without trees"),
        (V1, {"transform": Affine(*QuadTile.of_quadkey(V2).transform(64))}, "and tile 120221112"),
        (V1, {"transform": Affine(*QuadTile.of_quadkey(V1).transform(32))}, "64 x 64 of 1222.9"),
        (V2, {"transform": Affine(*QuadTile.of_quadkey(V1).transform(64))}, "and tile 1202211123"),
    ],
)
def test_what_is_not_the_tile_of_its_name_is_refused(
    tmp_path: Path, quadkey: str, fault: dict[str, Any], said: str
) -> None:
    path = write_tile(tmp_path, quadkey, **fault)
    with pytest.raises(SourceError) as caught:
        register(path)
    assert said in str(caught.value)
    assert path.name in str(caught.value)


def test_a_tile_moved_by_a_fiftieth_of_a_pixel_is_refused(tmp_path: Path) -> None:
    a, b, c, d, e, f = QuadTile.of_quadkey(V1).transform(64)
    for shift_px, is_refused in ((0.001, False), (0.02, True)):
        path = write_tile(tmp_path, transform=Affine(a, b, c, d, e, f + shift_px * a))
        if is_refused:
            with pytest.raises(SourceError, match="and tile 120221112 begins at"):
                register(path)
        else:
            register(path)


@pytest.mark.parametrize(
    "fault", [{"height": 32}, {"count": 2}, {"dtype": "uint16"}], ids=["size", "bands", "dtype"]
)
def test_a_mask_of_another_shape_is_refused(tmp_path: Path, fault: dict[str, Any]) -> None:
    path = write_tile(tmp_path)
    write_mask(path, **fault)
    with pytest.raises(SourceError, match=r"tif\.msk holds .* with as many pixels as the tile, 64"):
        register(path)


def test_a_broken_mask_is_refused_by_name(tmp_path: Path) -> None:
    path = write_tile(tmp_path)
    write_mask(path).write_bytes(b"II*\0broken")
    with pytest.raises(SourceError, match=r"120221112\.tif\.msk cannot be read as a raster"):
        register(path)


def test_a_tile_cut_short_is_one_row_and_the_rest_is_built(tmp_path: Path) -> None:
    write_tile(tmp_path, V1)
    broken = write_tile(tmp_path, "120221110")
    broken.write_bytes(broken.read_bytes()[:100])
    report = built(tmp_path, 'href = "chm"', bbox=(*BBOX[:3], 48.9))
    assert report.n_items == 1
    (failure,) = report.failures
    assert "120221110.tif cannot be read as a raster" in failure.reason


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{not json", "cannot be read as GeoJSON"),
        ('{"type": "FeatureCollection", "features": []}', "lacks acq_date"),
        ("", "is empty"),
    ],
)
def test_broken_footprints_are_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    path = write_tile(tmp_path, V2)
    write_footprints(path).write_text(text)
    with pytest.raises(SourceError, match=said) as caught:
        register(path)
    assert f"{V2}.geojson" in str(caught.value)


def test_footprints_without_a_day_or_beside_the_tile_are_refused(tmp_path: Path) -> None:
    path = write_tile(tmp_path, V2)
    on_tile = shapely.box(*QuadTile.of_quadkey(V2).bbox)
    beside = (shapely.box(0, 0, 1, 1), "2018-01-01")
    write_footprints(path, (on_tile, None), beside)
    with pytest.raises(SourceError, match="has 1 dated footprints and none on tile 1202211123"):
        register(path)
    write_footprints(path, (on_tile, "2018-01-01"), column="date")
    with pytest.raises(SourceError, match="lacks acq_date"):
        register(path)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"count": 2}, "has 2 bands; canopy heights are one"),
        ({"dtype": "complex64"}, "holds complex64"),
        ({"crs": None}, "has no CRS"),
        ({"dtype": "uint8", "nodata": 0}, "declares nodata 0"),
    ],
)
def test_an_export_that_holds_no_heights_is_refused(
    tmp_path: Path, fault: dict[str, Any], said: str
) -> None:
    with pytest.raises(SourceError, match=said):
        register(write_export(tmp_path / "a.tif", **fault))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scales": (0.1,)}, "with scale 0.1 and offset 0"),
        ({"offsets": (1.0,)}, "with scale 1 and offset 1"),
        ({"units": ("feet",)}, "heights in 'feet'; convert them to metres"),
    ],
)
def test_heights_in_other_units_are_refused(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    path = write_export(tmp_path / "a.tif")
    with rasterio.open(path, "r+") as file:
        for name, value in change.items():
            setattr(file, name, value)
    with pytest.raises(SourceError, match=said):
        register(path)


def test_a_nodata_code_that_cannot_be_stored_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nodata = -1 cannot be stored as uint8"):
        register(write_tile(tmp_path), nodata=-1)


@pytest.mark.parametrize(
    ("quadkeys", "column", "said"),
    [
        ((V1, V2), "tile", "quadkeys of 9 and of 10 digits"),
        (("12022111",), "tile", "'12022111'"),
        ((V1,), "name", "lacks tile"),
        ((V2,), "tile", "lists tiles of version 2, and the input says version = 1"),
    ],
)
def test_what_is_no_index_is_one_row(
    tmp_path: Path, quadkeys: tuple[str, ...], column: str, said: str
) -> None:
    index = write_index(tmp_path, *quadkeys, column=column)
    with pytest.raises(SourceError) as caught:
        register(tmp_path, index=str(index), version=1, cities={"town": BBOX})
    assert said in str(caught.value)
    assert "tiles.geojson" in str(caught.value)


def test_an_index_at_a_url_or_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is at a URL; fetch it"):
        register("s3://a/b", index="https://example.org/tiles.geojson", cities={"town": BBOX})
    with pytest.raises(MissingInputError, match="is not there"):
        register("s3://a/b", index=str(tmp_path / "tiles.geojson"), cities={"town": BBOX})


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"href": ["a", "b"], "index": "t.geojson"}, "has an index, so href is one folder"),
        ({"href": "{city}", "index": "t.geojson"}, "has an index, so href is one folder"),
        ({"href": "a", "version": 3}, "Input should be 1 or 2"),
        ({"href": "a", "mask": "none"}, "Input should be 'zero_is_invalid'"),
        ({"href": "a", "layer": "canopy"}, "Extra inputs are not permitted"),
    ],
)
def test_keys_that_cannot_be_are_refused(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        CanopyInput.model_validate({"name": "canopy", "source": "canopy", **keys})


# The catalog


@pytest.mark.parametrize(
    ("version", "doi", "valid"),
    [(1, "10.1016/j.rse.2023.113888", "nodata"), (2, "10.48550/arXiv.2603.06382", "footprint")],
)
def test_a_collection_says_licence_and_citation_of_its_version(
    tmp_path: Path, archive: Path, version: int, doi: str, valid: str
) -> None:
    report = built(tmp_path, f'href = "{archive}/v{version}"')
    values = json.loads((report.path / "canopy" / "collection.json").read_text())
    assert values["license"] == "CC-BY-4.0"
    assert values["sci:publications"][0]["doi"] == doi
    layer = open_catalog(report.path).layer("canopy")
    assert (layer.layer, layer.product, layer.valid) == ("canopy", f"meta-chm/{version}", valid)
    assert (layer.ai_derived, layer.static, layer.overviews) == (True, True, False)
    assert "World Resources Institute" in layer.license_note
    overviews = built(tmp_path, f'href = "{archive}/v{version}"\noverviews = true')
    assert open_catalog(overviews.path).layer("canopy").overviews


def test_an_export_and_made_up_data_have_no_publisher(tmp_path: Path, archive: Path) -> None:
    write_export(tmp_path / "munich.tif")
    for keys in ('href = "munich.tif"', f'href = "{archive}/v1"\nsynthetic = true'):
        report = built(tmp_path, keys)
        values = json.loads((report.path / "canopy" / "collection.json").read_text())
        assert values["license"] == "other"
        assert "sci:publications" not in values


@with_schemas
@pytest.mark.parametrize("keys", ["v1", "v2", "export", "url"])
def test_everything_is_valid_stac(tmp_path: Path, archive: Path, keys: str) -> None:
    href = {"url": URL, "export": str(write_export(tmp_path / "munich.tif"))}
    report = built(tmp_path, f'href = "{href.get(keys, archive / keys)}"\nchecksums = true')
    assert not report.failures
    paths = [*report.path.glob("canopy/items/*.json"), report.path / "canopy" / "collection.json"]
    assert len(paths) == 2
    for path in paths:
        values = json.loads(path.read_text())
        kind = {"Feature": "item"}.get(values["type"], values["type"].lower())
        validate(values, {"$ref": f"{CORE}/{kind}-spec/json-schema/{kind}.json"})
        assert LCZCUBE_URI in values["stac_extensions"]
        for uri in values["stac_extensions"]:
            validate(values, extension_schema(uri))


def test_building_again_gives_the_same_items(tmp_path: Path, archive: Path) -> None:
    report = built(tmp_path, f'href = "{archive}/v2"')
    (path,) = report.path.glob("canopy/items/*.json")
    first, when = path.read_bytes(), path.stat().st_mtime_ns
    built(tmp_path, f'href = "{archive}/v2"')
    assert path.read_bytes() == first
    assert path.stat().st_mtime_ns == when


# The made-up files


def test_readers_that_are_not_ours_take_the_tiles_for_what_they_are(archive: Path) -> None:
    (v1,), (v2,) = (sorted((archive / name / "chm").glob("*.tif")) for name in ("v1", "v2"))
    assert cog_validate(v2, quiet=True)[0]
    assert not cog_validate(v1, quiet=True)[0]
    with rasterio.open(v1) as file:
        assert file.block_shapes == [(1, 8192)]
        assert file.overviews(1) == []
        assert file.tags()["UNITS"] == "METERS"
        assert file.tags()["SYNTHETIC"] == "true"
        assert file.tags(ns="IMAGE_STRUCTURE")["COMPRESSION"] == "DEFLATE"
    with rasterio.open(v2) as file:
        assert file.overviews(1) == [2, 4, 8, 16, 32]
        assert file.crs.to_epsg() == 3857


def test_gdal_takes_the_mask_for_the_tiles_when_it_lies_next_to_it(
    archive: Path, tmp_path: Path
) -> None:
    """GDAL's own convention gives the polarity that the writer means."""
    (tile,) = (archive / "v1" / "chm").glob("*.tif")
    copy = tmp_path / tile.name
    os.link(tile, copy)
    os.link(archive / "v1" / "msk" / f"{tile.name}.msk", f"{copy}.msk")
    with rasterio.open(copy) as file:
        heights, valid = file.read(1), file.dataset_mask()
    assert set(np.unique(valid)) == {0, 255}
    assert heights[valid == 0].max() == 0
    assert heights[valid == 255].max() > 10


def test_trees_stand_where_the_zones_have_them(city: City) -> None:
    window = city.zone_map.window
    zones = city.zone_map.classes(window)
    x = np.arange(window.x0, window.x1) * 10.0 + 5
    y = np.arange(window.y0, window.y1) * 10.0 + 5
    heights = canopy_heights(city, *np.meshgrid(x, y), seed=7)
    share = {zone: float((heights[zones == zone] >= 2).mean()) for zone in np.unique(zones)}
    assert share[11] > 0.45
    assert max(share[zone] for zone in share if zone <= 10) < 0.3 * share[11]
    assert share.get(17, 0) < 0.01
    assert heights[zones == 11].max() > 20
    assert max(stand.highest_m for stand in STANDS.values()) <= 26


def test_a_window_of_trees_does_not_depend_on_what_is_drawn_beside_it(city: City) -> None:
    minx, miny, _, _ = city.grid.bbox
    x, y = np.meshgrid(minx + np.arange(0, 400, 3.0), miny + np.arange(0, 300, 3.0))
    whole, part = canopy_heights(city, x, y, seed=1), np.s_[20:50, 30:90]
    np.testing.assert_array_equal(whole[part], canopy_heights(city, x[part], y[part], seed=1))
    assert (whole != canopy_heights(city, x, y, seed=2)).any()


def test_the_same_seed_gives_the_same_bytes(city: City, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_canopy(tmp_path / name, [city], seed=3, version=1, side_px=4096)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 4
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_retiled_copy_of_version_1_is_registered_too(archive: Path, tmp_path: Path) -> None:
    (tile,) = (archive / "v1" / "chm").glob("*.tif")
    copy_raster(tile, tmp_path / tile.name, driver="COG", blocksize=256)
    asset = item_of(tmp_path / tile.name).assets["data"]
    assert asset.extra_fields["lczcube:block_shape"] == [256, 256]
