import hashlib
import json
import math
import shutil
import subprocess
import sys
import textwrap
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import pystac
import pytest
import rasterio
import shapely
import zarr
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import shape

from lczcube.catalog import CatalogReport, build_catalog, open_catalog
from lczcube.cube import open_cube
from lczcube.errors import LczcubeError, MissingInputError, SourceError
from lczcube.sources import SourceItem, build_items, find_files
from lczcube.sources.items import LCZCUBE_URI
from lczcube.sources.tessera import TesseraInput
from lczcube.sources.tessera_archives import product, product_of_folder
from lczcube.sources.tessera_tiles import GridTile, snap_outward
from lczcube.synth import City, Difficulty, World, draw_city, write_tessera, write_world
from lczcube.synth.embedding import embedding_model
from lczcube.synth.tessera import tessera_model
from tests.test_catalog import extension_schema, validate, with_schemas

Array = npt.NDArray[Any]

# FORMATS 1.3: name, EPSG, origin of the land mask, width x height, snapped origin.
GOLDEN = [
    ("grid_0.15_52.05", 32631, (300933.936, 5776128.478), (729, 1139), (300930, 5776130)),
    ("grid_2.95_51.45", 32631, (493043.547, 5705433.907), (696, 1113), (493040, 5705440)),
    ("grid_6.05_50.75", 32632, (288155.688, 5631875.030), (750, 1140), (288150, 5631880)),
    ("grid_36.85_-1.25", 32737, (255187.896, 9867274.036), (1114, 1107), (255180, 9867280)),
    ("grid_151.25_-33.85", 32756, (333374.816, 6258720.315), (944, 1125), (333370, 6258730)),
]
ROWS, COLUMNS = 12, 16
TILE = "grid_2.95_51.45"
ORIGIN = (493043.54669013567, 5705433.907345436)


# Names and the lattice


@pytest.mark.parametrize(("name", "epsg", "origin", "size", "snapped"), GOLDEN)
def test_tiles_lie_where_the_publishers_formula_puts_them(
    name: str,
    epsg: int,
    origin: tuple[float, float],
    size: tuple[int, int],
    snapped: tuple[int, int],
) -> None:
    tile = GridTile.of_name(name)
    assert tile is not None
    minx, _, _, maxy = tile.projected_bbox()
    assert tile.crs == f"EPSG:{epsg}"
    assert (minx, maxy) == pytest.approx(origin, abs=6e-4)
    assert tile.mask_shape() == size[::-1]
    assert snap_outward(minx, maxy) == snapped


centres = st.builds(
    lambda lon, lat: GridTile(10 * lon + 5, 10 * lat + 5),
    st.integers(-1800, 1799),
    st.integers(-800, 839),
)


@given(tile=centres)
def test_a_name_gives_back_its_tile(tile: GridTile) -> None:
    assert GridTile.of_name(tile.name) == tile
    assert tile.name == f"grid_{tile.lon_i / 100:.2f}_{tile.lat_i / 100:.2f}"


def test_the_tile_west_of_greenwich_has_a_name_of_its_own() -> None:
    assert GridTile(-5, 5145).name == "grid_-0.05_51.45"
    assert GridTile.of_name("grid_-0.05_51.45") == GridTile(-5, 5145)
    assert GridTile(-5, 5145).bbox == (-0.1, 51.4, 0.0, 51.5)
    assert GridTile.at(-0.0001, 51.45).name == "grid_-0.05_51.45"
    assert GridTile.at(0.0, -0.0001).name == "grid_0.05_-0.05"


@pytest.mark.parametrize(
    "name", ["grid_0.10_51.45", "grid_0.05_51.4", "grid_180.05_0.05", "tile_0.05_0.05", "grid_x_y"]
)
def test_other_names_are_no_tiles(name: str) -> None:
    assert GridTile.of_name(name) is None


@given(lon=st.floats(-179.99, 179.99), lat=st.floats(-80, 83.9))
def test_a_point_lies_in_the_tile_of_the_publishers_formula(lon: float, lat: float) -> None:
    expected = [round(math.floor(v * 10) / 10 + 0.05, 2) for v in (lon, lat)]
    tile = GridTile.at(lon, lat)
    assert [tile.lon_i / 100, tile.lat_i / 100] == expected


@given(tile=centres)
def test_boxes_of_neighbours_share_their_edges_to_the_bit(tile: GridTile) -> None:
    west, south, east, north = tile.bbox
    assert GridTile(tile.lon_i + 10, tile.lat_i).bbox[0] == east
    assert GridTile(tile.lon_i - 10, tile.lat_i).bbox[2] == west
    assert GridTile(tile.lon_i, tile.lat_i + 10).bbox[1] == north
    assert GridTile(tile.lon_i, tile.lat_i - 10).bbox[3] == south


@given(x=st.floats(0, 1e6), y=st.floats(-1e7, 1e7))
def test_snapping_goes_outward_by_less_than_a_pixel_and_once(x: float, y: float) -> None:
    column, row = snap_outward(x, y)
    assert (column % 10, row % 10) == (0, 0)
    assert -2e-5 <= x - column < 10
    assert -2e-5 <= row - y < 10
    assert snap_outward(column, row) == (column, row)


@given(
    column=st.integers(0, 100_000),
    row=st.integers(-1_000_000, 1_000_000),
    noise=st.floats(-5e-6, 5e-6),
)
def test_an_origin_on_the_lattice_stays_there_whatever_its_last_digits(
    column: int, row: int, noise: float
) -> None:
    assert snap_outward(column * 10 + noise, row * 10 + noise) == (column * 10, row * 10)


# Tiles of codes


def write_tile(
    out: Path,
    *,
    year: int = 2024,
    name: str = TILE,
    subfolder: str = "global_0.1_degree_representation",
    masks: str = "global_0.1_degree_tiff_all",
    shape: tuple[int, ...] = (ROWS, COLUMNS, 128),
    scales_shape: tuple[int, ...] = (ROWS, COLUMNS),
    mask_shape: tuple[int, int] = (ROWS, COLUMNS),
    origin: tuple[float, float] = ORIGIN,
) -> Path:
    """A small tile with an unsnapped land mask; codes count up, scales hold all three kinds."""
    path = out / subfolder / str(year) / name / f"{name}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, (np.arange(math.prod(shape)) % 251 - 125).astype("int8").reshape(shape))
    scales = np.linspace(0.01, 0.2, math.prod(scales_shape), dtype="float32")
    scales[:3] = np.nan, np.inf, 2.0
    np.save(path.with_name(f"{name}_scales.npy"), scales.reshape(scales_shape))
    write_mask(out / masks / f"{name}.tiff", mask_shape, origin)
    return path


def write_mask(
    path: Path,
    shape: tuple[int, int] = (ROWS, COLUMNS),
    origin: tuple[float, float] = ORIGIN,
    *,
    crs: str | None = "EPSG:32631",
    pixel: tuple[float, float] = (10, -10),
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "crs": crs}
    transform = Affine(pixel[0], 0, origin[0], 0, pixel[1], origin[1])
    size = {"height": shape[0], "width": shape[1]}
    with rasterio.open(path, "w", transform=transform, **profile, **size) as mask:
        mask.write(np.ones(shape, dtype="uint8"), 1)


def say(out: Path, version: str = "1.1", variant: str = "cambridge") -> None:
    """The sidecar of the publisher's library."""
    values = {"dataset_version": version, "dataset_variant": variant}
    (out / "tessera_metadata.json").write_text(json.dumps(values))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    write_tile(tmp_path / "out")
    say(tmp_path / "out")
    return tmp_path / "out"


def register(href: Path | str, **keys: Any) -> list[SourceItem]:
    entry = TesseraInput.model_validate(
        {"name": "tessera", "source": "tessera", "href": str(href), **keys}
    )
    files = find_files(entry, folder=Path("/"), cities={})
    return [made for file in files for made in build_items(entry, file)]


def item_of(href: Path | str, **keys: Any) -> pystac.Item:
    (made,) = register(href, **keys)
    return made.item


def ids(href: Path | str, **keys: Any) -> list[str]:
    return [made.item.id for made in register(href, **keys)]


def product_of(href: Path | str, **keys: Any) -> str:
    (product,) = {made.coding["product"] for made in register(href, **keys)}
    return product


def built(folder: Path, *inputs: str, bbox: str = "") -> CatalogReport:
    city = f"[city.town]\nbbox = {bbox}\n" if bbox else ""
    tables = "".join(
        f'[[input]]\nname = "t{n}"\nsource = "tessera"\n{keys}\n' for n, keys in enumerate(inputs)
    )
    toml = folder / "town.toml"
    toml.write_text(f'id = "town"\n{city}{tables}')
    return build_catalog(toml, folder / "catalog")


def test_an_item_lies_on_the_snapped_lattice_of_its_land_mask(archive: Path) -> None:
    item = item_of(archive)
    assert item.id == "tessera_2024_grid_2.95_51.45"
    assert item.properties["proj:code"] == "EPSG:32631"
    assert item.properties["proj:shape"] == [ROWS, COLUMNS]
    assert item.properties["proj:transform"] == [10, 0, 493_040, 0, -10, 5_705_440]
    assert item.properties["proj:bbox"] == [493_040, 5_705_320, 493_200, 5_705_440]
    assert item.to_dict()["properties"]["datetime"] == "2024-01-01T00:00:00Z"
    assert "lczcube:note" not in item.properties


def test_the_footprint_is_the_box_of_the_tile_not_its_pixels(archive: Path) -> None:
    item = item_of(archive)
    assert item.bbox == [2.9, 51.4, 3.0, 51.5]
    assert shape(item.geometry or {}).equals(shapely.box(2.9, 51.4, 3.0, 51.5))


def test_the_assets_are_codes_scales_and_land_mask(archive: Path) -> None:
    item = item_of(archive)
    folder = archive / "global_0.1_degree_representation" / "2024" / TILE
    data, scales, mask = (item.assets[key] for key in ("data", "scales", "landmask"))
    assert data.href == (folder / f"{TILE}.npy").as_posix()
    assert (data.media_type, data.roles) == ("application/x-npy", ["data"])
    assert data.extra_fields["lczcube:axes"] == "y,x,band"
    assert data.extra_fields["bands"][0] == {"name": "T000", "data_type": "int8"}
    assert [band["name"] for band in data.extra_fields["bands"]] == [
        f"T{band:03d}" for band in range(128)
    ]
    assert scales.href == (folder / f"{TILE}_scales.npy").as_posix()
    assert scales.extra_fields["data_type"] == "float32"
    assert scales.extra_fields["lczcube:axes"] == "y,x"
    assert mask.href == (archive / "global_0.1_degree_tiff_all" / f"{TILE}.tiff").as_posix()
    assert mask.roles == ["mask"]


def test_codes_are_read_by_the_publishers_rule(archive: Path) -> None:
    (made,) = register(archive)
    assert made.coding == {
        "product": "tessera/1.1/cambridge",
        "decoder": "int8_times_scale",
        "valid": "finite_scale",
    }


@pytest.mark.parametrize("extra", [0, 1, 2])
def test_codes_not_the_land_mask_say_how_many_pixels_there_are(tmp_path: Path, extra: int) -> None:
    """The mask's extent is rounded; codes run from floor to ceil, up to two pixels more."""
    rows, columns = ROWS + extra, COLUMNS + extra
    path = write_tile(tmp_path, shape=(rows, columns, 128), scales_shape=(rows, columns))
    assert item_of(path, product="p").properties["proj:shape"] == [rows, columns]


def test_codes_and_scales_of_two_shapes_are_cut_to_what_both_have(tmp_path: Path) -> None:
    path = write_tile(tmp_path, shape=(ROWS + 1, COLUMNS, 128), scales_shape=(ROWS, COLUMNS + 1))
    assert item_of(path, product="p").properties["proj:shape"] == [ROWS, COLUMNS]


def test_a_scale_for_each_band_is_said_so(tmp_path: Path) -> None:
    path = write_tile(tmp_path, scales_shape=(ROWS, COLUMNS, 128))
    assert item_of(path, product="p").assets["scales"].extra_fields["lczcube:axes"] == "y,x,band"


def test_an_origin_on_the_lattice_moves_no_pixel(tmp_path: Path) -> None:
    path = write_tile(tmp_path, origin=(493_040.0000001, 5_705_440.0000001))
    transform = item_of(path, product="p").properties["proj:transform"]
    assert transform == [10, 0, 493_040, 0, -10, 5_705_440]


@pytest.mark.parametrize("name", [golden[0] for golden in GOLDEN])
def test_without_a_land_mask_the_name_says_where_a_whole_tile_lies(
    tmp_path: Path, name: str
) -> None:
    tile = GridTile.of_name(name)
    assert tile is not None
    rows, columns = tile.mask_shape()
    path = tmp_path / "2024" / name / f"{name}.npy"
    path.parent.mkdir(parents=True)
    write_sparse_npy(path, (rows + 1, columns, 128), "int8")
    write_sparse_npy(path.with_name(f"{name}_scales.npy"), (rows + 1, columns), "float32")
    item = item_of(path, product="p")
    write_mask(
        path.with_name(f"{name}.tiff"),
        (rows, columns),
        (tile.projected_bbox()[0], tile.projected_bbox()[3]),
        crs=tile.crs,
    )
    masked = item_of(path, product="p")
    assert item.properties.pop("lczcube:note").startswith("No land mask")
    assert item.properties == masked.properties
    assert "landmask" not in item.assets


def write_sparse_npy(path: Path, shape: tuple[int, ...], dtype: str) -> None:
    """A NumPy file of zeros that takes no room on the disk."""
    with path.open("wb") as stream:
        header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        stream.truncate(stream.tell() + math.prod(shape) * np.dtype(dtype).itemsize)


def test_a_cut_tile_without_a_land_mask_has_no_place(archive: Path) -> None:
    shutil.rmtree(archive / "global_0.1_degree_tiff_all")
    with pytest.raises(SourceError, match=r"12 x 16 pixels, and 1113 x 696 by its name"):
        register(archive)


# Layouts


def test_the_remote_tree_is_read_where_it_was_mirrored(tmp_path: Path) -> None:
    write_tile(tmp_path, subfolder="npy/v1.1-cam", masks="landmasks/v1.1")
    item = item_of(tmp_path / "npy")
    assert (
        item.assets["landmask"].href
        == (tmp_path / "landmasks" / "v1.1" / f"{TILE}.tiff").as_posix()
    )
    assert product_of(tmp_path / "npy") == "tessera/1.1/cambridge"


def test_the_land_mask_of_another_version_is_not_taken(tmp_path: Path) -> None:
    write_tile(tmp_path, subfolder="npy/v1.1-cam", masks="landmasks/v1")
    with pytest.raises(SourceError, match="no land mask says where a part of it lies"):
        register(tmp_path / "npy")


@pytest.mark.parametrize(
    ("subfolder", "expected"),
    [
        ("npy/v1", "tessera/1.0/vultr"),
        ("npy/v1.1-cam", "tessera/1.1/cambridge"),
        ("npy/v2-2B-L~beta1", "tessera/2.0/2B-L~beta1"),
        ("npy/v2-2B-L~beta2", "tessera/2.0/2B-L~beta2"),
        ("npy/v3-new", "tessera/3.0/new"),
        ("zarr/v1.1", "tessera/1.1/cambridge"),
        ("zarr/v1.1-dclimate", "tessera/1.1/dclimate"),
        ("v1/global_0.1_degree_representation", "tessera/1.0/vultr"),
        ("v1.1/global_0.1_degree_representation.cambridge", "tessera/1.1/cambridge"),
        ("v1.1/global_0.1_degree_representation", None),
        ("out/global_0.1_degree_representation.cambridge", None),
        ("npy/other", None),
        ("v1", None),
    ],
)
def test_folders_of_the_publishers_trees_name_their_product(
    subfolder: str, expected: str | None
) -> None:
    assert product_of_folder(Path("/data") / subfolder) == expected


@pytest.mark.parametrize(
    ("version", "expected"), [("v1", "1.0"), ("1.0", "1.0"), ("v1.1", "1.1"), ("2", "2.0")]
)
def test_versions_are_spelt_with_their_minor(version: str, expected: str) -> None:
    assert product(version, "x") == f"tessera/{expected}/x"


def test_an_archive_that_does_not_say_what_it_is_is_refused_until_it_is_named(
    tmp_path: Path,
) -> None:
    write_tile(tmp_path)
    with pytest.raises(SourceError, match=r"does not say which TESSERA .* set product, such as"):
        register(tmp_path)
    assert product_of(tmp_path, product="tessera/1.0/vultr") == "tessera/1.0/vultr"


def test_a_product_that_contradicts_the_archive_is_refused(archive: Path) -> None:
    with pytest.raises(SourceError, match=r"is tessera/1\.1/cambridge by its archive, but product"):
        register(archive, product="tessera/1.0/vultr")


def write_manifest(path: Path, rows: list[dict[str, Any]]) -> None:
    keys = {"year": 2024, "lon": 2.95, "lat": 51.45, "lon_i": 295, "lat_i": 5145}
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame([{**keys, "grid_size": 0, **row} for row in rows]).to_parquet(path)


def test_the_manifest_says_what_a_tile_is(tmp_path: Path) -> None:
    write_tile(tmp_path, subfolder="npy/v1", masks="landmasks/v1")
    row = {"version": "1.0", "variant": "other"}
    write_manifest(tmp_path / "npy" / "v1" / "manifest.parquet", [row, row])
    assert product_of(tmp_path / "npy") == "tessera/1.0/other"


def test_a_manifest_of_two_variants_is_refused_until_one_is_named(tmp_path: Path) -> None:
    write_tile(tmp_path)
    rows = [{"version": "1.0", "variant": variant} for variant in ("a", "b")]
    write_manifest(tmp_path / "manifest.parquet", rows)
    with pytest.raises(SourceError, match=r"tessera/1\.0/a and tessera/1\.0/b by its archive"):
        register(tmp_path)
    assert product_of(tmp_path, product="tessera/1.0/b") == "tessera/1.0/b"


def test_sidecar_and_manifest_that_contradict_each_other_are_refused(archive: Path) -> None:
    write_manifest(archive / "manifest.parquet", [{"version": "1.0", "variant": "vultr"}])
    with pytest.raises(SourceError, match="which contradict each other"):
        register(archive)


def test_a_legacy_registry_says_no_product_but_sizes(tmp_path: Path) -> None:
    path = write_tile(tmp_path)
    size = path.stat().st_size
    values = {"lat": [51.45], "lon": [2.95], "year": [2024], "hash": ["0"], "scales_hash": ["0"]}
    sizes = {"file_size": [size], "scales_size": [ROWS * COLUMNS * 4 + 128]}
    table = gpd.GeoDataFrame(
        values | sizes, geometry=gpd.points_from_xy([2.95], [51.45]), crs="EPSG:4326"
    )
    table.to_parquet(tmp_path / "registry.parquet", compression="zstd")
    assert ids(tmp_path, product="tessera/1.0/vultr") == ["tessera_2024_grid_2.95_51.45"]
    table.assign(file_size=size + 1).to_parquet(tmp_path / "registry.parquet")
    with pytest.raises(SourceError, match=rf"has {size} bytes, and {size + 1} by its archive"):
        register(tmp_path, product="tessera/1.0/vultr")


def test_a_year_further_up_is_not_the_tiles(archive: Path, tmp_path: Path) -> None:
    project = tmp_path / "2019" / "work" / "tiles"
    project.mkdir(parents=True)
    folder = archive / "global_0.1_degree_representation" / "2024" / TILE
    for path in folder.iterdir():
        shutil.copy(path, project)
    with pytest.raises(SourceError, match="has no year in its path"):
        register(project, product="p")


def test_sizes_of_every_variant_in_a_manifest_are_right(tmp_path: Path) -> None:
    size = write_tile(tmp_path).stat().st_size
    rows = [{"version": "1.0", "variant": v, "grid_size": size + n} for n, v in enumerate("ab")]
    write_manifest(tmp_path / "manifest.parquet", rows)
    assert len(ids(tmp_path, product="tessera/1.0/a")) == 1
    rows = [{**row, "grid_size": row["grid_size"] + 1} for row in rows]
    write_manifest(tmp_path / "manifest.parquet", rows)
    with pytest.raises(SourceError, match=rf"and {size + 1} or {size + 2} by its archive"):
        register(tmp_path, product="tessera/1.0/a")


def test_years_come_from_the_folder_above_the_tile(archive: Path) -> None:
    write_tile(archive, year=2019)
    write_tile(archive, year=2021)
    assert [name.split("_")[1] for name in ids(archive)] == ["2019", "2021", "2024"]
    assert [name.split("_")[1] for name in ids(archive, years=[2021, 2019])] == ["2019", "2021"]
    assert len(ids(archive, year=2021)) == 1


def test_a_named_tile_of_another_year_is_refused(archive: Path) -> None:
    path = archive / "global_0.1_degree_representation" / "2024" / TILE / f"{TILE}.npy"
    with pytest.raises(SourceError, match="is of 2024 by its path, but the input wants 2020"):
        register(path, year=2020)
    assert len(ids(path.parent / "*.npy", year=2024)) == 1


def test_only_tiles_near_a_city_are_looked_at(archive: Path, tmp_path: Path) -> None:
    far = write_tile(archive, name="grid_9.95_51.45")
    far.write_bytes(b"broken")
    report = built(tmp_path, 'href = "out"', bbox="[3.01, 51.42, 3.02, 51.44]")
    assert not report.failures
    assert [i.id for i in open_catalog(report.path).items("t0")] == ["t0_2024_grid_2.95_51.45"]


def test_an_archive_without_a_tile_near_a_city_is_a_row(archive: Path, tmp_path: Path) -> None:
    write_tile(tmp_path / "b", name="grid_9.95_51.45")
    say(tmp_path / "b")
    report = built(tmp_path, 'href = "out"', 'href = "b"', bbox="[2.91, 51.42, 2.92, 51.44]")
    (failure,) = report.failures
    assert failure.path == "b"
    assert "has no tile of any year near a city" in failure.reason


def test_a_url_is_refused_with_the_remedy() -> None:
    with pytest.raises(SourceError, match="registered from a local copy"):
        register("https://host/npy/v1/2024/grid_0.15_52.05/grid_0.15_52.05.npy")


def test_tiles_are_read_for_their_checksum_only_when_asked(archive: Path) -> None:
    path = archive / "global_0.1_degree_representation" / "2024" / TILE / f"{TILE}.npy"
    plain = item_of(archive).assets["data"].extra_fields
    assert (plain["file:size"], "file:checksum" in plain) == (path.stat().st_size, False)
    summed = item_of(archive, checksums=True).assets["data"].extra_fields
    assert summed["file:checksum"] == "1220" + hashlib.sha256(path.read_bytes()).hexdigest()


# Broken tiles


def spoil(path: Path, how: str) -> None:
    scales = path.with_name(f"{path.stem}_scales.npy")
    mask = path.parents[3] / "global_0.1_degree_tiff_all" / f"{path.stem}.tiff"
    codes = np.load(path)
    spoilers = {
        "cut short": lambda: path.write_bytes(path.read_bytes()[:-100]),
        "cut in the header": lambda: path.write_bytes(path.read_bytes()[:40]),
        "empty": lambda: path.write_bytes(b""),
        "no numpy": lambda: path.write_bytes(b"not what it says" * 100),
        "float codes": lambda: np.save(path, codes.astype("float32")),
        "objects": lambda: np.save(path, codes.astype(object), allow_pickle=True),
        "64 bands": lambda: np.save(path, codes[..., :64]),
        "band first": lambda: np.save(path, np.moveaxis(codes, -1, 0)),
        "Fortran order": lambda: np.save(path, np.asfortranarray(codes)),
        "another shape": lambda: np.save(path, np.zeros((ROWS + 3, COLUMNS, 128), "int8")),
        "no scales": scales.unlink,
        "scales cut short": lambda: scales.write_bytes(scales.read_bytes()[:-1]),
        "double scales": lambda: np.save(scales, np.ones((ROWS, COLUMNS))),
        "swapped scales": lambda: np.save(scales, np.ones((ROWS, COLUMNS), ">f4")),
        "scales of 3 bands": lambda: np.save(scales, np.ones((ROWS, COLUMNS, 3), "float32")),
        "scales of another shape": lambda: np.save(scales, np.ones((ROWS, 99), "float32")),
        "mask without CRS": lambda: write_mask(mask, crs=None),
        "mask elsewhere": lambda: write_mask(mask, origin=(800_000, 5_705_440)),
        "mask of 20 m": lambda: write_mask(mask, pixel=(20, -20)),
        "mask south-up": lambda: write_mask(mask, pixel=(10, 10)),
        "mask broken": lambda: mask.write_bytes(b"II*\0"),
        "off the grid": lambda: path.rename(path.with_name("grid_2.90_51.45.npy")),
    }
    spoilers[how]()


FAULTS = [
    ("cut short", "is cut short: 24604 bytes of 24704"),
    ("cut in the header", "cannot be read as a NumPy file"),
    ("empty", "is empty"),
    ("no numpy", "cannot be read as a NumPy file"),
    ("float codes", "holds float32 of shape (12, 16, 128); codes of TESSERA are int8"),
    ("objects", "it holds Python objects"),
    ("64 bands", "holds int8 of shape (12, 16, 64)"),
    ("band first", "holds int8 of shape (128, 12, 16)"),
    ("Fortran order", "is stored in Fortran order"),
    ("another shape", "has 15 x 16 pixels, and 12 x 16 by its land mask"),
    ("no scales", f"{TILE}_scales.npy is not there"),
    ("scales cut short", f"{TILE}_scales.npy is cut short"),
    ("double scales", "holds float64 of shape (12, 16); scales of TESSERA are float32"),
    ("swapped scales", "holds >f4 of shape"),
    ("scales of 3 bands", "holds float32 of shape (12, 16, 3)"),
    ("scales of another shape", "has 12 x 99 pixels, and 12 x 16 by its land mask"),
    ("mask without CRS", f"{TILE}.tiff has no CRS"),
    ("mask elsewhere", f"{TILE}.tiff lies at"),
    ("mask of 20 m", f"{TILE}.tiff has pixels of 20 x -20"),
    ("mask south-up", f"{TILE}.tiff has pixels of 10 x 10"),
    ("mask broken", f"{TILE}.tiff cannot be read as a raster"),
]


@pytest.mark.parametrize(("how", "said"), FAULTS)
def test_a_broken_tile_is_refused_by_name_in_one_line(archive: Path, how: str, said: str) -> None:
    spoil(archive / "global_0.1_degree_representation" / "2024" / TILE / f"{TILE}.npy", how)
    with pytest.raises(LczcubeError) as caught:
        register(archive)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_named_file_that_is_no_tile_is_refused(archive: Path) -> None:
    path = archive / "global_0.1_degree_representation" / "2024" / TILE / f"{TILE}.npy"
    spoil(path, "off the grid")
    with pytest.raises(SourceError, match=r"is not named grid_LON_LAT\.npy after a tile"):
        register(path.with_name("grid_2.90_51.45.npy"))
    with pytest.raises(MissingInputError, match="is not there"):
        register(path)


def test_broken_tiles_are_rows_and_the_rest_is_built(archive: Path, tmp_path: Path) -> None:
    broken = [
        write_tile(archive, year=year)
        for year in range(2017, 2017 + len(("cut short", "no scales", "mask")))
    ]
    spoil(broken[0], "cut short")
    spoil(broken[1], "no scales")
    spoil(broken[2], "another shape")
    report = built(tmp_path, 'href = "out"')
    assert [failure.path for failure in report.failures] == [path.as_posix() for path in broken]
    items = open_catalog(report.path).items("t0")
    assert [item.id for item in items] == ["t0_2024_grid_2.95_51.45"]


@pytest.mark.parametrize("table", ["manifest.parquet", "tessera_metadata.json"])
def test_a_broken_table_is_the_fault_of_its_own_archive_alone(
    archive: Path, tmp_path: Path, table: str
) -> None:
    bad = write_tile(tmp_path / "bad")
    (tmp_path / "bad" / table).write_bytes(b"{not what it says")
    report = built(tmp_path, 'href = ["bad", "out"]')
    (failure,) = report.failures
    assert failure.path == bad.as_posix()
    assert f"{table} cannot be read" in failure.reason
    assert report.n_items == 1


def test_two_products_in_one_input_are_refused(archive: Path, tmp_path: Path) -> None:
    write_tile(tmp_path / "other", year=2019)
    say(tmp_path / "other", "1.0", "vultr")
    report = built(tmp_path, 'href = ["out", "other"]', 'href = "out"')
    (failure,) = report.failures
    assert "mixes layers that share no feature space" in failure.reason
    assert "tessera/1.0/vultr" in failure.reason
    assert open_catalog(report.path).collection_ids == ("t1",)


# Exports


def write_export(path: Path, *, tags: dict[str, str] | None = None, **profile: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {
        "count": 128,
        "dtype": "float32",
        "crs": "EPSG:32631",
        "transform": Affine(10, 0, ORIGIN[0], 0, -10, ORIGIN[1]),
        "nodata": np.nan,
        "height": ROWS,
        "width": COLUMNS,
        **profile,
    }
    told = {
        "TESSERA_DATASET_VERSION": "1.1",
        "TESSERA_DATASET_VARIANT": "cambridge",
        "TESSERA_YEAR": "2024",
    }
    with rasterio.open(path, "w", driver="GTiff", **settings) as export:
        export.update_tags(**(told if tags is None else tags))
    return path


def export_in(folder: Path, **keys: Any) -> Path:
    return write_export(folder / "2024" / TILE / f"{TILE}_2024.tiff", **keys)


def test_an_export_holds_values_on_the_lattice(tmp_path: Path) -> None:
    (made,) = register(export_in(tmp_path))
    assert made.coding == {
        "product": "tessera/1.1/cambridge",
        "decoder": "linear",
        "valid": "nodata",
    }
    item = made.item
    assert item.id == "tessera_2024_grid_2.95_51.45_2024"
    assert item.properties["proj:transform"] == [10, 0, 493_040, 0, -10, 5_705_440]
    assert item.properties["lczcube:note"].startswith("The file's own origin")
    assert item.bbox == [2.9, 51.4, 3.0, 51.5]
    bands = item.assets["data"].extra_fields["bands"]
    assert bands[127] == {"name": "T127", "data_type": "float32"}


def test_an_export_without_a_variant_is_the_only_one_of_its_version(tmp_path: Path) -> None:
    path = export_in(tmp_path, tags={"TESSERA_DATASET_VERSION": "v1", "TESSERA_YEAR": "2024"})
    assert product_of(path) == "tessera/1.0/vultr"
    path = export_in(tmp_path, tags={"TESSERA_DATASET_VERSION": "v1.1", "TESSERA_YEAR": "2024"})
    with pytest.raises(SourceError, match="does not say which TESSERA"):
        register(path)


def test_a_mosaic_of_exports_is_registered_as_it_lies(tmp_path: Path) -> None:
    path = write_export(tmp_path / "mosaic.tif", crs="EPSG:3857")
    item = item_of(path)
    assert item.id == "tessera_mosaic"
    assert item.datetime is not None
    assert item.datetime.year == 2024
    assert item.properties["proj:transform"][2] == ORIGIN[0]
    assert "lczcube:note" not in item.properties


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"count": 3}, "has 3 bands"),
        ({"tags": {}}, "has 128 bands and no tag TESSERA_*"),
        ({"dtype": "float64"}, "holds float64"),
        ({"tags": {"TESSERA_YEAR": "2020"}}, "is of 2020 and 2024 by its path and tags"),
        ({"crs": None}, "has no CRS"),
    ],
)
def test_what_is_no_export_is_refused(tmp_path: Path, fault: dict[str, Any], said: str) -> None:
    path = export_in(tmp_path, **fault)
    with pytest.raises(SourceError) as caught:
        register(path)
    assert said in str(caught.value)


def test_codes_and_values_are_not_mixed(archive: Path, tmp_path: Path) -> None:
    export_in(tmp_path / "exports")
    report = built(tmp_path, 'href = ["out", "exports"]', 'href = "out"')
    (failure,) = report.failures
    assert "mixes layers that share no feature space" in failure.reason
    assert "is linear" in failure.reason


def test_exports_beside_tiles_of_codes_are_left_out_of_a_search(archive: Path) -> None:
    path = export_in(archive)
    assert ids(archive) == ["tessera_2024_grid_2.95_51.45"]
    assert ids(path) == ["tessera_2024_grid_2.95_51.45_2024"]


def test_a_file_of_another_kind_is_refused_with_the_remedy(archive: Path) -> None:
    with pytest.raises(SourceError, match="name the folder of the archive"):
        register(archive / "tessera_metadata.json")


# Zarr stores


def write_store(
    path: Path, zone: int = 31, *, top: float = 5_705_440.0, model: str = "1.1", **attrs: Any
) -> Path:
    """A store of two years, as geotessera lays it out: band first, scales filled with +inf."""
    root = zarr.open_group(path, mode="a", zarr_format=3)
    root.attrs.update(
        {
            "geoemb:type": "pixel",
            "geoemb:dimensions": 128,
            "geoemb:model": f"https://geotessera.org/model/{model}",
        }
    )
    group = root.create_group(f"utm{zone:02d}")
    rows, columns = 64, 96
    arrays: dict[str, dict[str, Any]] = {
        "embeddings": {
            "shape": (2, 128, rows, columns),
            "dtype": "int8",
            "chunks": (1, 128, 32, 32),
            "shards": (1, 128, 64, 96),
            "fill_value": 0,
            "dimension_names": ["time", "band", "y", "x"],
        },
        "scales": {
            "shape": (2, rows, columns),
            "dtype": "float32",
            "chunks": (1, 32, 32),
            "shards": (1, 64, 96),
            "fill_value": np.inf,
            "dimension_names": ["time", "y", "x"],
        },
        "time": {"shape": (2,), "dtype": "int32", "chunks": (2,), "dimension_names": ["time"]},
    }
    for name, settings in arrays.items():
        group.create_array(name, **settings)
    time = group["time"]
    assert isinstance(time, zarr.Array)
    time[:] = np.array([2019, 2024], dtype="int32")
    group.attrs.update(
        {
            "proj:code": f"EPSG:326{zone:02d}",
            "spatial:transform": [10.0, 0.0, 493_040.0, 0.0, -10.0, top],
            "spatial:shape": [rows, columns],
            **attrs,
        }
    )
    return path


def test_a_zone_gives_an_item_for_each_year(tmp_path: Path) -> None:
    made = register(write_store(tmp_path / "zarr" / "v1.1"))
    assert [m.item.id for m in made] == ["tessera_2019_utm31", "tessera_2024_utm31"]
    assert {m.coding["product"] for m in made} == {"tessera/1.1/cambridge"}
    assert made[1].coding["decoder"] == "int8_times_scale"
    assert ids(tmp_path / "zarr", year=2024) == ["tessera_2024_utm31"]


def test_the_assets_of_a_zone_say_where_in_the_group_they_are(tmp_path: Path) -> None:
    store = write_store(tmp_path / "zarr" / "v1.1")
    item = register(store)[1].item
    data, scales = item.assets["data"], item.assets["scales"]
    assert data.href == scales.href == (store / "utm31").as_posix()
    assert data.media_type == "application/vnd.zarr; version=3"
    assert data.extra_fields["lczcube:zarr"] == {
        "array": "embeddings",
        "time_index": 1,
        "axes": "band,y,x",
    }
    assert data.extra_fields["lczcube:block_shape"] == [32, 32]
    assert len(data.extra_fields["bands"]) == 128
    assert scales.extra_fields["lczcube:zarr"] == {
        "array": "scales",
        "time_index": 1,
        "axes": "y,x",
    }
    assert item.properties["proj:code"] == "EPSG:32631"
    assert item.properties["proj:transform"] == [10, 0, 493_040, 0, -10, 5_705_440]
    assert item.properties["proj:shape"] == [64, 96]


def test_the_south_lies_in_the_northern_crs_below_zero(tmp_path: Path) -> None:
    """Zone 37, 1.25 S: grid_36.85_-1.25 lies at 9,867,280 m of the southern CRS."""
    store = write_store(tmp_path / "zarr" / "v1", 37, top=9_867_280.0 - 1e7)
    item = register(store)[0].item
    assert item.properties["proj:code"] == "EPSG:32637"
    assert item.properties["proj:transform"][5] == -132_720
    _, south, _, north = item.bbox or []
    assert (south, north) == pytest.approx((-1.2061, -1.2003), abs=5e-4)


def test_zones_share_no_ground(tmp_path: Path) -> None:
    wide = {"spatial:transform": [10_000.0, 0.0, 100_000.0, 0.0, -10_000.0, 5_705_440.0]}
    store = write_store(tmp_path / "zarr" / "v1.1", 31, **wide)
    write_store(store, 32, **wide)
    west, east = (made.item.bbox for made in register(store, year=2024))
    assert west is not None
    assert east is not None
    assert (west[2], east[0]) == (6.0, 6.0)
    assert west[0] == 0.0


@pytest.mark.parametrize("zone", [1, 60])
def test_a_zone_at_the_antimeridian_stays_on_its_side(tmp_path: Path, zone: int) -> None:
    wide = {"spatial:transform": [10_000.0, 0.0, 100_000.0, 0.0, -10_000.0, 5_705_440.0]}
    bbox = register(write_store(tmp_path / "zarr" / "v1.1", zone, **wide))[0].item.bbox
    assert bbox is not None
    assert bbox[::2] == ([-180.0, -174.0] if zone == 1 else [174.0, 180.0])


def test_a_store_elsewhere_tells_its_version_and_wants_the_variant(tmp_path: Path) -> None:
    store = write_store(tmp_path / "my.zarr")
    with pytest.raises(SourceError, match="does not say which TESSERA"):
        register(store)
    assert product_of(store, product="tessera/1.1/dclimate") == "tessera/1.1/dclimate"
    with pytest.raises(SourceError, match=r"is tessera/1\.1/… by its archive"):
        register(store, product="tessera/1.0/vultr")
    only = write_store(tmp_path / "old.zarr", model="1.0")
    assert product_of(only) == "tessera/1.0/vultr"


@pytest.mark.parametrize(
    ("attrs", "said"),
    [
        ({"proj:code": "EPSG:32731"}, "has CRS EPSG:32731"),
        ({"spatial:transform": [10, 0, 0, 0, 10, 0]}, "has a turned transform"),
        ({"spatial:transform": "no"}, "cannot be read as a zone of TESSERA"),
        ({"proj:code": None, "spatial:transform": [1]}, "cannot be read as a zone of TESSERA"),
    ],
)
def test_a_broken_zone_is_refused(tmp_path: Path, attrs: dict[str, Any], said: str) -> None:
    store = write_store(tmp_path / "zarr" / "v1.1", **attrs)
    with pytest.raises(SourceError) as caught:
        register(store)
    assert said in str(caught.value)
    assert "utm31" in str(caught.value)


def test_a_zone_without_scales_is_one_row_and_the_other_is_built(tmp_path: Path) -> None:
    store = write_store(tmp_path / "zarr" / "v1.1")
    write_store(store, 32)
    shutil.rmtree(store / "utm31" / "scales")
    report = built(tmp_path, 'href = "zarr"\nyear = 2024')
    assert [Path(failure.path).name for failure in report.failures] == ["utm31"]
    assert [i.id for i in open_catalog(report.path).items("t0")] == ["t0_2024_utm32"]


# The catalog


@pytest.fixture
def report(archive: Path, tmp_path: Path) -> CatalogReport:
    write_store(tmp_path / "zarr" / "v1.1")
    export_in(tmp_path / "exports")
    no_mask = tmp_path / "bare" / "2024" / TILE / f"{TILE}.npy"
    no_mask.parent.mkdir(parents=True)
    write_sparse_npy(no_mask, (1113, 696, 128), "int8")
    write_sparse_npy(no_mask.with_name(f"{TILE}_scales.npy"), (1113, 696), "float32")
    return built(
        tmp_path,
        'href = ["out", "zarr"]',
        'href = "exports"',
        'href = "bare"\nproduct = "tessera/2.0/2B-L~beta1"',
    )


def test_a_collection_says_what_the_publisher_asks(report: CatalogReport) -> None:
    layer = open_catalog(report.path).layer("t0")
    assert report.failures == ()
    assert (layer.layer, layer.product) == ("embedding", "tessera/1.1/cambridge")
    assert (layer.decoder, layer.valid) == ("int8_times_scale", "finite_scale")
    assert (layer.resampling, layer.static, layer.license) == ("nearest", False, "CC0-1.0")
    assert "TESSERA, University of Cambridge" in layer.license_note
    assert open_catalog(report.path).layer("t1").decoder == "linear"
    collection = json.loads((report.path / "t0" / "collection.json").read_text())
    assert collection["sci:publications"][0]["doi"] == "10.48550/arXiv.2506.20380"


def test_building_twice_gives_the_same_bytes(report: CatalogReport, tmp_path: Path) -> None:
    def published(folder: Path) -> list[bytes]:
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return [path.read_bytes() for path in files if path.parent.name != ".lczcube"]

    before = published(report.path)
    build_catalog(tmp_path / "town.toml", tmp_path / "again")
    assert published(tmp_path / "again") == before


def test_geoparquet_and_json_give_equal_items(report: CatalogReport) -> None:
    """Tiles and zones, with and without a land mask, in one collection."""
    tables, static = open_catalog(report.path), open_catalog(report.path / "catalog.json")
    for name in ("t0", "t1", "t2"):
        one, other = ([i.to_dict() for i in c.items(name)] for c in (tables, static))
        assert one == other


@with_schemas
def test_items_and_collections_are_valid_against_what_they_declare(report: CatalogReport) -> None:
    paths = [*report.path.glob("t?/items/*.json"), *report.path.glob("t?/collection.json")]
    for path in paths:
        values = json.loads(path.read_text())
        assert LCZCUBE_URI in values["stac_extensions"]
        for uri in values["stac_extensions"]:
            validate(values, extension_schema(uri))
    assert len(paths) == 5 + 3


# The synthetic archive


@pytest.fixture(scope="module")
def cities() -> list[City]:
    return [draw_city(number, km=1.5, seed=5) for number in range(2)]


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory, cities: list[City]) -> Path:
    out = tmp_path_factory.mktemp("synth") / "tessera"
    write_tessera(out, cities, seed=5, year=2022)
    return out


def values_of(item: pystac.Item) -> Array:
    """Decoded values of a tile, float32 ``(128, y, x)``, by the publisher's rule."""
    rows, columns = item.properties["proj:shape"]
    codes = np.load(item.assets["data"].href)[:rows, :columns].astype("float32")
    scales = np.load(item.assets["scales"].href)[:rows, :columns]
    is_valid = np.isfinite(scales) & (scales > 0) & (scales < 1)
    codes *= np.where(is_valid, scales, np.nan)[..., None]
    return np.moveaxis(codes, -1, 0)


def placed(items: list[pystac.Item]) -> Iterator[tuple[pystac.Item, int, int]]:
    """Items with the column and the row of their upper-left pixel in the zone."""
    for item in items:
        transform = item.properties["proj:transform"]
        yield item, round(transform[2] / 10), round(transform[5] / 10)


def test_the_synthetic_archive_is_registered_whole(synthetic: Path) -> None:
    made = register(synthetic)
    assert len(made) == 8
    assert product_of(synthetic) == "tessera/0.0/synthetic-5"
    assert {m.item.properties["proj:code"] for m in made} == {"EPSG:32632", "EPSG:32739"}
    assert all("landmask" in m.item.assets for m in made)


def test_its_land_masks_have_the_odd_origin_of_the_publishers(synthetic: Path) -> None:
    """Cut by whole pixels, so the fraction is that of the whole tile."""
    differing = set()
    for made in register(synthetic):
        tile = GridTile.of_name(Path(made.item.assets["data"].href).stem)
        assert tile is not None
        minx, _, _, maxy = tile.projected_bbox()
        with rasterio.open(made.item.assets["landmask"].href) as mask:
            assert (mask.transform.c - minx) % 10 == pytest.approx(0, abs=1e-6) or (
                mask.transform.c - minx
            ) % 10 == pytest.approx(10, abs=1e-6)
            off = abs((mask.transform.f - maxy) / 10)
            assert off == pytest.approx(round(off), abs=1e-6)
            assert mask.transform.c % 10 > 0.01
            assert mask.tags()["SYNTHETIC"] == "true"
            rows, columns = np.load(made.item.assets["data"].href, mmap_mode="r").shape[:2]
            differing.add((rows - mask.height, columns - mask.width))
    assert differing - {(0, 0)}
    assert all(0 <= n <= 2 for pair in differing for n in pair)


def test_its_tiles_overlap_and_agree_where_they_do(synthetic: Path) -> None:
    n_shared = 0
    tiles = list(placed([made.item for made in register(synthetic)]))
    for i, (one, x, y) in enumerate(tiles):
        for other, x2, y2 in tiles[i + 1 :]:
            if one.properties["proj:code"] != other.properties["proj:code"]:
                continue
            a, b = values_of(one), values_of(other)
            left, right = max(x, x2), min(x + a.shape[2], x2 + b.shape[2])
            top, bottom = min(y, y2), max(y - a.shape[1], y2 - b.shape[1])
            if left < right and bottom < top:
                shared = a[:, y - top : y - bottom, left - x : right - x]
                np.testing.assert_array_equal(
                    shared, b[:, y2 - top : y2 - bottom, left - x2 : right - x2]
                )
                n_shared += shared[0].size
    assert n_shared > 1000


def test_its_pixels_lie_where_the_truth_says(synthetic: Path, cities: list[City]) -> None:
    """Pixels of one class are alike; moved by some pixels or turned, truth fits them worse."""
    items = [made.item for made in register(synthetic)]
    for city in cities:
        own = [item for item in items if item.properties["proj:code"] == city.grid.crs]
        window = city.zone_map.window
        values = np.full((128, *window.shape), np.nan, dtype="float32")
        for item, x, y in placed(own):
            tile = values_of(item)
            for row in range(tile.shape[1]):
                at = window.y1 - (y - row)
                if 0 <= at < values.shape[1]:
                    left, right = max(x, window.x0), min(x + tile.shape[2], window.x1)
                    values[:, at, left - window.x0 : right - window.x0] = tile[
                        :, row, left - x : right - x
                    ]
        truth = city.zone_map.truth(window)[::-1]
        right_fit = spread_within(values, truth)
        for moved in (truth[::-1], truth[:, ::-1], np.roll(truth, 5, axis=1)):
            assert spread_within(values, np.where(truth > 0, moved, 0)) > 1.03 * right_fit


def spread_within(values: Array, truth: Array) -> float:
    """Mean variance of the vectors around their class's mean."""
    is_seen = (truth > 0) & np.isfinite(values[0])
    residual, codes = values[:, is_seen].copy(), truth[is_seen]
    for code in np.unique(codes):
        residual[:, codes == code] -= residual[:, codes == code].mean(axis=1, keepdims=True)
    return float((residual**2).sum(axis=0).mean())


def test_its_sea_has_no_scale_and_what_was_not_seen_an_infinite_one(
    synthetic: Path, cities: list[City]
) -> None:
    kinds = set()
    by_crs = {city.grid.crs: city.zone_map for city in cities}
    for made in register(synthetic):
        item = made.item
        zone_map = by_crs[item.properties["proj:code"]]
        scales = np.load(item.assets["scales"].href)
        codes = np.load(item.assets["data"].href)
        ((_, x, y),) = placed([item])
        window = type(zone_map.window)(x, y - scales.shape[0], x + scales.shape[1], y)
        sea, seen = zone_map.sea(window)[::-1], zone_map.seen(window)[::-1]
        np.testing.assert_array_equal(np.isnan(scales), sea)
        np.testing.assert_array_equal(np.isposinf(scales), ~seen & ~sea)
        assert not codes[~np.isfinite(scales)].any()
        finite = scales[np.isfinite(scales)]
        assert 0.01 < finite.min() < finite.max() < 0.2
        with rasterio.open(item.assets["landmask"].href) as mask:
            np.testing.assert_array_equal(mask.read(1) == 0, sea[: mask.height, : mask.width])
        kinds |= {bool(sea.any()), *np.unique(zone_map.classes(window)[sea[::-1]]).tolist()}
    assert kinds <= {True, False, 17}
    assert True in kinds


def test_some_of_the_water_is_a_lake_that_has_scales(cities: list[City]) -> None:
    for city in cities:
        window = city.zone_map.window
        is_water = city.zone_map.classes(window) == 17
        is_sea = city.zone_map.sea(window)
        assert (is_sea & is_water).any()
        assert (~is_sea & is_water).any()
        assert not (is_sea & ~is_water).any()


def test_codes_use_the_whole_range_of_each_pixels_scale(synthetic: Path) -> None:
    for made in register(synthetic):
        codes = np.load(made.item.assets["data"].href)
        scales = np.load(made.item.assets["scales"].href)
        peaks = np.abs(codes.astype("int16")).max(axis=-1)
        assert set(np.unique(peaks[np.isfinite(scales)]).tolist()) == {127}


def test_its_tables_are_the_publishers(synthetic: Path) -> None:
    manifest = pd.read_parquet(synthetic / "manifest.parquet")
    assert set(manifest.columns) - {"synthetic"} == {
        *("version", "variant", "year", "lon", "lat", "directory", "grid_path", "scales_path"),
        *("grid_mtime", "scales_mtime", "grid_size", "scales_size", "lon_i", "lat_i"),
    }
    assert str(manifest["lon_i"].dtype) == "int32"
    masks = pd.read_parquet(synthetic / "landmasks.parquet")
    assert set(masks.columns) - {"synthetic"} == {
        *("lon", "lat", "file_size", "mtime", "key", "lon_i", "lat_i"),
    }
    assert len(masks) == len(manifest) == 8
    for table in (manifest, masks):
        assert table["synthetic"].all()
    sidecar = json.loads((synthetic / "tessera_metadata.json").read_text())
    assert sidecar["dataset_variant"] == "synthetic-5"
    assert sidecar["synthetic"] is True


def test_a_tile_whose_file_changed_size_is_told_by_the_manifest(
    synthetic: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(synthetic, copy)
    path = sorted(copy.rglob("grid_10*.npy"))[0]
    codes = np.load(path)
    np.save(path, codes[:-1])
    with pytest.raises(SourceError, match="by its archive's table"):
        register(copy)


def test_the_same_seed_gives_the_same_bytes(
    synthetic: Path, cities: list[City], tmp_path: Path
) -> None:
    write_tessera(tmp_path / "again", cities, seed=5, year=2022)
    assert contents(tmp_path / "again") == contents(synthetic)


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, World]:
    folder = tmp_path_factory.mktemp("worlds")
    settings: dict[str, Any] = {"cities": 1, "km": 1.5, "seed": 5, "tile_px": 192}
    plain = write_world(folder / "plain", **settings)
    both = write_world(folder / "both", layers=("alphaearth", "tessera"), **settings)
    return plain, both


def test_a_world_with_tessera_holds_the_same_other_files(worlds: tuple[World, World]) -> None:
    plain, both = (contents(world.path) for world in worlds)
    told = {"world.toml", "world.json"}
    assert {name: both[name] for name in plain if name not in told} == {
        name: plain[name] for name in plain if name not in told
    }
    assert {name.split("/")[0] for name in set(both) - set(plain)} == {"tessera"}
    assert worlds[0].tessera is None
    assert "layers" not in json.loads(worlds[0].description.read_text())["parameters"]


def test_the_city_file_of_a_world_registers_both_embeddings(
    worlds: tuple[World, World], tmp_path: Path
) -> None:
    report = build_catalog(worlds[1].config, tmp_path / "catalog")
    catalog = open_catalog(report.path)
    assert report.failures == ()
    assert catalog.layer("alphaearth").product == "synthetic-alphaearth/5"
    assert catalog.layer("tessera").product == "tessera/0.0/synthetic-5"
    assert catalog.layer("tessera").synthetic
    products = json.loads(worlds[1].description.read_text())["products"]
    assert products["tessera"] == "tessera/0.0/synthetic-5"


def test_the_cube_of_a_world_holds_what_its_model_drew(
    worlds: tuple[World, World], tmp_path: Path
) -> None:
    """Over four tiles that meet in the middle of the city: no gap, no shift, no duplicate."""
    (city,) = worlds[1].cities
    report = build_catalog(worlds[1].config, tmp_path / "catalog")
    cube = open_cube(open_catalog(report.path), city.grid, inputs=["tessera"], year=2021, halo_px=0)
    drawn = draw_city(0, km=1.5, seed=5)
    model = tessera_model(embedding_model(Difficulty(), n_cities=1, seed=5))
    codes, scales = model.codes_and_scales(drawn, drawn.zone_map.window)
    np.testing.assert_array_equal(cube["tessera"].values[0], np.moveaxis(codes[::-1], -1, 0))
    np.testing.assert_array_equal(cube["tessera_scale"].values.squeeze(), scales[::-1])


def test_layers_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    for layers in (("landsat",), (), ("tessera", "tessera")):
        with pytest.raises(LczcubeError, match="name one or more of alphaearth, tessera"):
            write_world(tmp_path / "w", layers=layers)
    with pytest.raises(LczcubeError, match="index is of AlphaEarth tiles"):
        write_world(tmp_path / "w", layers=("tessera",), index=True)


# Another reader

GEOTESSERA = "geotessera==0.7.5"
READ = """
    import hashlib, json, sys
    import numpy as np
    from geotessera.tiles import discover_tiles

    found = {}
    for tile in discover_tiles(__import__("pathlib").Path(sys.argv[1])):
        values = np.nan_to_num(tile.load_embedding(), nan=-999.0)
        found[tile.grid_name] = [
            tile.year, tile.crs.to_string(), tile.transform.c, tile.transform.f,
            list(values.shape), hashlib.sha256(values.astype("<f4").tobytes()).hexdigest(),
        ]
    print(json.dumps(found))
"""


@pytest.mark.long
def test_the_publishers_library_reads_the_synthetic_archive(
    synthetic: Path, tmp_path: Path
) -> None:
    """In a virtual environment of its own, as its dependencies are not ours."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", GEOTESSERA]
    if subprocess.run(install, capture_output=True, check=False).returncode:
        pytest.skip(f"{GEOTESSERA} cannot be installed here")
    command = [str(python), "-W", "ignore", "-c", textwrap.dedent(READ), str(synthetic)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    theirs = json.loads(done.stdout.splitlines()[-1])
    assert len(theirs) == 8
    for made in register(synthetic):
        item = made.item
        name = Path(item.assets["data"].href).stem
        values = np.moveaxis(values_of(item), 0, -1)
        values = np.ascontiguousarray(np.nan_to_num(values, nan=-999.0), dtype="<f4")
        year, crs, x, y, size, digest = theirs[name]
        assert (year, crs) == (2022, item.properties["proj:code"])
        assert list(snap_outward(x, y)) == item.properties["proj:transform"][2::3]
        assert size == [*item.properties["proj:shape"], 128]
        assert digest == hashlib.sha256(values.tobytes()).hexdigest()
