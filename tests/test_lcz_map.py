"""Maps of zones by others: any publisher's codes become 1-17, or are refused with their counts."""

import json
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pystac
import pytest
import rasterio
import rasterio.features
import rasterio.shutil
import xarray as xr
from affine import Affine
from pyproj import Transformer
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from shapely import box

from lczcube import lcz
from lczcube.catalog import Catalog, build_catalog, open_catalog
from lczcube.cli import main
from lczcube.cube import open_cube
from lczcube.cubestore import open_stored_cube, write_cube
from lczcube.errors import CatalogError, ConfigError, LabelError, SourceError
from lczcube.grid import Grid, project_bbox
from lczcube.labels import rasterize_labels, read_labels
from lczcube.layers import layer_geobox
from lczcube.pipeline import run_stages
from lczcube.runfolder import open_run
from lczcube.sources import SOURCES, build_items, find_files
from lczcube.sources.items import CLASSIFICATION_URI
from lczcube.sources.lcz_codes import count_codes
from lczcube.sources.lcz_editions import GLOBAL_ORIGIN, GLOBAL_PIXEL, lattice_shift
from lczcube.synth.city import City, draw_city
from lczcube.synth.lcz_map import write_generator_map, write_global_map, write_legacy_map
from lczcube.windows import aggregate
from tests.scenes import CRS, catalog_of, write_raster
from tests.test_catalog import extension_schema, validate, with_schemas

X0, Y0 = 500_480, 5_400_000
BBOX = (X0, Y0 - 640, X0 + 640, Y0)
ZONES = [1, 2, 6, 8, 11, 12, 14, 17]

Codes = npt.NDArray[Any]


def map_codes(rows: int = 64, columns: int = 64) -> Codes:
    """Zones that say where they are: no row or column is another, moved by a few pixels."""
    y, x = np.mgrid[:rows, :columns]
    return np.array(ZONES, np.uint8)[(3 * y + 5 * x + (x * y) // 7) % len(ZONES)]


def write_map(path: Path, codes: Codes, **keys: Any) -> Path:
    return write_raster(path, codes[None] if codes.ndim == 2 else codes, x0=X0, y0=Y0, **keys)


def map_input(name: str, href: str, **keys: Any) -> str:
    lines = {"name": name, "source": "lcz_map", "href": href, "year": 2021, **keys}
    return "\n".join(f"{k} = {v if k == 'recode' else json.dumps(v)}" for k, v in lines.items())


def item_of(path: Path, source: str = "lcz_map", **keys: Any) -> pystac.Item:
    if source == "lcz_map" and keys.get("edition") != "global":
        keys.setdefault("year", 2021)
    values = {"name": "map", "source": source, "href": str(path), **keys}
    entry = SOURCES[source].model_validate(values)
    (file,) = find_files(entry, folder=path.parent, cities={})
    (made,) = build_items(entry, file)
    return made.item


def map_band(item: pystac.Item) -> dict[str, Any]:
    fields = item.assets["data"].extra_fields
    (band,) = [b for b in fields["bands"] if b["name"] == fields["lczcube:band"]]
    return dict(band)


def counts_of(item: pystac.Item) -> dict[int, int]:
    """Pixels of each zone by the item's classes; 0 holds all of no data."""
    counts: dict[int, int] = {}
    for each in map_band(item)["classification:classes"]:
        code = 0 if each.get("nodata") else lcz.code_of(each["name"])
        counts[code] = counts.get(code, 0) + each["count"]
    return {code: n for code, n in counts.items() if n}


def counted(zones: Codes) -> dict[int, int]:
    values, counts = np.unique(zones, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def cube_of(catalog: Catalog, grid: Grid, **keys: Any) -> Codes:
    cube = open_cube(catalog, grid, inputs=["map"], **keys)
    values: Codes = cube["map"].values.squeeze()
    return values


def scene_grid(**keys: Any) -> Grid:
    return Grid.from_bbox(BBOX, bbox_crs=CRS, crs=CRS, **keys)


# How each publisher stores zones


def legacy(zones: Codes) -> Codes:
    """A-G as 101-107."""
    return np.where(zones > 10, zones.astype(int) + 90, zones)


def gone(codes: Codes, nodata: float) -> Codes:
    """No data stored as another number."""
    return np.where(codes == 0, nodata, codes.astype(float))


STORED: dict[str, tuple[Any, str, float | None]] = {
    "uint8, 0": (lambda z: z, "uint8", 0),
    "uint8, none declared": (lambda z: z, "uint8", None),
    "uint8, 255": (lambda z: gone(z, 255), "uint8", 255),
    "int32, -999": (lambda z: gone(z, -999), "int32", -999),
    "legacy uint8": (legacy, "uint8", None),
    "legacy int16, -1": (lambda z: gone(legacy(z), -1), "int16", -1),
    "legacy float32, -999": (lambda z: gone(legacy(z), -999), "float32", -999),
    "legacy float32, NaN": (lambda z: gone(legacy(z), np.nan), "float32", None),
    "float64, lowest": (lambda z: gone(z, -3.4e38), "float64", -3.4e38),
}
"""How zones become stored codes, in which dtype, and the nodata that is declared."""


@pytest.mark.parametrize("way", STORED)
@pytest.mark.parametrize("south_up", [False, True])
def test_however_a_map_is_stored_the_cube_holds_its_zones(
    tmp_path: Path, way: str, south_up: bool
) -> None:
    zones = map_codes()
    zones[5:9, 20:40] = 0
    store, dtype, nodata = STORED[way]
    write_map(tmp_path / "map.tif", store(zones).astype(dtype), nodata=nodata, south_up=south_up)
    catalog = catalog_of(tmp_path, map_input("map", "map.tif"))
    found = cube_of(catalog, scene_grid())
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, zones)
    (item,) = catalog.items("map")
    # NaN and the lowest number cannot be the value of a class.
    is_class = "NaN" not in way and "lowest" not in way
    assert counts_of(item) == counted(zones if is_class else zones[zones > 0])


def test_the_files_of_one_input_may_be_coded_each_in_its_own_way(tmp_path: Path) -> None:
    zones = map_codes()
    west, east = zones[:, :32], zones[:, 32:]
    write_raster(tmp_path / "maps/west.tif", west[None], x0=X0, y0=Y0, nodata=0)
    stored = legacy(east).astype("float32")[None]
    write_raster(tmp_path / "maps/east.tif", stored, x0=X0 + 320, y0=Y0, nodata=-999)
    catalog = catalog_of(tmp_path, map_input("map", "maps"))
    np.testing.assert_array_equal(cube_of(catalog, scene_grid()), zones)


def test_past_a_map_is_no_data(tmp_path: Path) -> None:
    write_map(tmp_path / "map.tif", map_codes(32, 32))
    catalog = catalog_of(tmp_path, map_input("map", "map.tif"))
    found = cube_of(catalog, scene_grid())
    np.testing.assert_array_equal(found[:32, :32], map_codes(32, 32))
    assert not found[32:].any()
    assert not found[:, 32:].any()


# Which band


def generator_bands(zones: Codes) -> Codes:
    """``lcz``, ``lczFilter`` and ``classProbability``: the second is ``zones``."""
    return np.stack([np.roll(zones, 1, axis=1), zones, np.full_like(zones, 88)])


NAMES = ("lcz", "lczFilter", "classProbability")


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_the_filtered_band_is_found_by_its_description(
    tmp_path: Path, order: tuple[int, ...]
) -> None:
    bands, names = generator_bands(map_codes())[list(order)], [NAMES[i] for i in order]
    write_map(tmp_path / "map.tif", bands, names=names)
    catalog = catalog_of(tmp_path, map_input("map", "map.tif", edition="generator"))
    np.testing.assert_array_equal(cube_of(catalog, scene_grid()), map_codes())
    (item,) = catalog.items("map")
    fields = item.assets["data"].extra_fields
    assert [band["name"] for band in fields["bands"]] == names
    assert fields["lczcube:band"] == "lczFilter"
    assert "lczcube:note" not in item.properties


def test_of_three_bands_without_descriptions_the_second_is_taken_and_that_is_said(
    tmp_path: Path,
) -> None:
    path = write_map(tmp_path / "map.tif", generator_bands(map_codes()))
    catalog = catalog_of(tmp_path, map_input("map", path.name))
    np.testing.assert_array_equal(cube_of(catalog, scene_grid()), map_codes())
    assert "band 2 of 3 is taken for lczFilter" in item_of(path).properties["lczcube:note"]


def test_bands_of_which_some_are_named_are_not_taken_by_position(tmp_path: Path) -> None:
    path = write_map(tmp_path / "map.tif", generator_bands(map_codes()), names=("", "lcz"))
    with pytest.raises(SourceError, match="has no band 'lczFilter' but b01, b02, b03"):
        item_of(path)
    assert item_of(path, band="b02").assets["data"].extra_fields["lczcube:band"] == "b02"


def test_another_band_is_taken_by_name(tmp_path: Path) -> None:
    bands = generator_bands(map_codes())
    write_map(tmp_path / "map.tif", bands, names=NAMES)
    catalog = catalog_of(tmp_path, map_input("map", "map.tif", band="lcz"))
    np.testing.assert_array_equal(cube_of(catalog, scene_grid()), bands[0])


def test_two_bands_of_one_file_are_two_layers_of_one_cube(tmp_path: Path) -> None:
    bands = generator_bands(map_codes())
    write_map(tmp_path / "map.tif", bands, names=NAMES)
    inputs = [map_input(name, "map.tif", band=name) for name in NAMES[:2]]
    cube = open_cube(catalog_of(tmp_path, *inputs), scene_grid(), inputs=NAMES[:2])
    for name, expected in zip(NAMES[:2], bands, strict=False):
        np.testing.assert_array_equal(cube[name].values.squeeze(), expected)


def test_the_share_of_models_is_no_map(tmp_path: Path) -> None:
    path = write_map(tmp_path / "map.tif", generator_bands(map_codes()), names=NAMES)
    with pytest.raises(SourceError, match="holds shares of models and no zones"):
        item_of(path, band="classProbability")


def test_bands_that_nobody_names_are_refused_with_their_names(tmp_path: Path) -> None:
    path = write_map(tmp_path / "map.tif", generator_bands(map_codes())[:2])
    with pytest.raises(SourceError, match=r"has no band 'lczFilter' but b01, b02; name the one"):
        item_of(path)


# Codes that are no LCZ


def test_a_code_that_is_no_zone_is_refused_with_its_count(tmp_path: Path) -> None:
    zones = map_codes()
    zones[:2, :5] = 18
    zones[3, :3] = 30
    path = write_map(tmp_path / "map.tif", zones)
    message = r"holds LCZ code 18 \(10 times\), 30 \(3 times\); .* drop_classes = \[18, 30\]"
    for source in ("lcz_map", "label_raster"):
        with pytest.raises(LabelError, match=message):
            item_of(path, source)


def test_undeclared_nodata_is_refused_and_can_be_said(tmp_path: Path) -> None:
    zones = map_codes().astype("int16")
    zones[:2, :5] = -999
    path = write_map(tmp_path / "map.tif", zones)
    with pytest.raises(LabelError, match=r"-999 \(10 times\); .* Set nodata"):
        item_of(path)
    assert counts_of(item_of(path, nodata=-999.0))[0] == 10


def test_dropped_codes_are_no_data(tmp_path: Path) -> None:
    zones = map_codes()
    zones[:2, :5] = 18
    write_map(tmp_path / "map.tif", zones)
    catalog = catalog_of(tmp_path, map_input("map", "map.tif", drop_classes=[18, 19]))
    np.testing.assert_array_equal(cube_of(catalog, scene_grid()), np.where(zones == 18, 0, zones))


def test_a_probability_map_is_refused_in_one_short_line(tmp_path: Path) -> None:
    path = write_map(tmp_path / "map.tif", np.arange(64 * 64).reshape(64, 64).astype("uint8"))
    with pytest.raises(LabelError, match=r"and \d+ other codes; .* These are likely no zones"):
        item_of(path)


def test_decimal_codes_are_refused(tmp_path: Path) -> None:
    zones = map_codes().astype("float32")
    zones[0, :4] = 6.5
    path = write_map(tmp_path / "map.tif", zones)
    with pytest.raises(LabelError, match=r"name no LCZ: '6\.5' \(1 times\)"):
        item_of(path)


def own_codes() -> Codes:
    """Codes 0-10 of its own on 128 x 128 pixels."""
    y, x = np.mgrid[:128, :128]
    return ((y // 3 + x // 5) % 11).astype("uint8")


@pytest.mark.parametrize("source", ["lcz_map", "label_raster"])
def test_much_ground_of_codes_1_to_10_alone_is_taken_for_another_coding(
    tmp_path: Path, source: str
) -> None:
    path = write_map(tmp_path / "map.tif", own_codes(), pixel_m=100)
    with pytest.raises(LabelError, match=r"no natural zone .* recode = \{1 = 1, 2 = 2, .*10 = 10"):
        item_of(path, source)
    small = write_map(tmp_path / "small.tif", own_codes(), pixel_m=10)
    assert item_of(small, source)


def test_codes_of_its_own_become_zones_by_recode(tmp_path: Path) -> None:
    table = {0: 17, 1: 3, 2: 6, 3: 6, 4: 11, 5: 0, 6: 8, 7: 14, 8: 12, 9: 2, 10: 5}
    write_map(tmp_path / "map.tif", own_codes())
    recode = "{" + ", ".join(f"{k} = {v}" for k, v in table.items()) + "}"
    expected = np.vectorize(table.get)(own_codes())
    labels = f'name = "labels"\nsource = "label_raster"\nhref = "map.tif"\nrecode = {recode}'
    catalog = catalog_of(tmp_path, map_input("map", "map.tif", recode=recode), labels)
    grid = Grid.from_bbox((X0, Y0 - 1280, X0 + 1280, Y0), bbox_crs=CRS, crs=CRS)
    np.testing.assert_array_equal(cube_of(catalog, grid), expected)
    (item,) = catalog.items("map")
    assert counts_of(item) == counted(expected)
    burnt = rasterize_labels(read_labels(catalog, ["labels"], crs=CRS), grid)
    np.testing.assert_array_equal(burnt["lcz"].values, expected)


@pytest.mark.parametrize("source", ["lcz_map", "label_raster"])
def test_a_code_that_recode_forgets_is_refused_with_its_count(tmp_path: Path, source: str) -> None:
    path = write_map(tmp_path / "map.tif", own_codes())
    n = int((own_codes() == 10).sum())
    with pytest.raises(LabelError, match=rf"holds code 10 \({n} times\), which recode does not"):
        item_of(path, source, recode={str(code): 6 for code in range(10)})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("recode = {1 = 18}", "recode gives 18; an LCZ is 1-17"),
        ("recode = {x = 3}", "no whole number"),
        ("recode = {1 = 3}\ndrop_classes = [2]", "both recode and drop_classes"),
        ('resampling = "average"', "nearest"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(tmp_path: Path, keys: str, message: str) -> None:
    write_map(tmp_path / "map.tif", map_codes())
    with pytest.raises(ConfigError, match=message):
        catalog_of(tmp_path, map_input("map", "map.tif") + "\n" + keys)


def test_a_map_without_a_year_is_refused_but_for_the_global_one(tmp_path: Path) -> None:
    path = write_map(tmp_path / "map.tif", map_codes())
    with pytest.raises(ValueError, match="is a map without year"):
        SOURCES["lcz_map"].model_validate({"name": "m", "source": "lcz_map", "href": str(path)})
    assert item_of(path, edition="global").properties["start_datetime"].startswith("2018")
    assert item_of(path, edition="global", year=2020).datetime.year == 2020


# Large maps


def test_of_a_large_map_blocks_all_over_it_are_counted_the_same_every_time(tmp_path: Path) -> None:
    y, x = np.mgrid[:8, :8]
    zones = np.kron((y * 8 + x) % 16 + 1, np.ones((64, 64))).astype("uint8")
    path = write_map(tmp_path / "map.tif", zones)
    with rasterio.open(path) as raster:
        whole = count_codes(raster, max_bytes=512 * 512)
        part = count_codes(raster, max_bytes=64 * 64 * 8)
        again = count_codes(raster, max_bytes=64 * 64 * 8)
    assert whole.is_whole
    assert whole.counts.tolist() == [64 * 64 * 4] * 16
    assert not part.is_whole
    assert part.n_px <= 64 * 64 * 8
    # Every ninth block: on another row and another column each time.
    assert part.values.tolist() == sorted({(n * 9) % 16 + 1 for n in range(8)})
    assert (part.values.tolist(), part.counts.tolist()) == (
        again.values.tolist(),
        again.counts.tolist(),
    )


def test_a_code_that_only_reading_finds_is_refused_with_its_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zones = map_codes(256, 256)
    zones[80, 70:77] = 30
    write_map(tmp_path / "map.tif", zones)
    monkeypatch.setattr("lczcube.sources.lcz_map.MAX_WHOLE_BYTES", 64 * 64)
    catalog = catalog_of(tmp_path, map_input("map", "map.tif"))
    (item,) = catalog.items("map")
    assert "Codes were looked at in 4096 of 65536 pixels" in item.properties["lczcube:note"]
    assert "count" not in map_band(item)["classification:classes"][0]
    assert "file:checksum" not in item.assets["data"].extra_fields
    grid = Grid.from_bbox((X0, Y0 - 2560, X0 + 2560, Y0), bbox_crs=CRS, crs=CRS)
    with pytest.raises(LabelError, match=r"map\.tif holds code 30 \(7 times\)"):
        cube_of(catalog, grid)


def test_a_legacy_map_of_which_a_part_was_looked_at_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zones = map_codes(256, 256)
    zones[:64, :64] = 6
    write_map(tmp_path / "map.tif", legacy(zones).astype("uint8"))
    monkeypatch.setattr("lczcube.sources.lcz_map.MAX_WHOLE_BYTES", 64 * 64)
    catalog = catalog_of(tmp_path, map_input("map", "map.tif"))
    grid = Grid.from_bbox((X0, Y0 - 2560, X0 + 2560, Y0), bbox_crs=CRS, crs=CRS)
    np.testing.assert_array_equal(cube_of(catalog, grid), zones)


# On another lattice, and in the rest of the toolkit


def modes_by_counting(zones: Codes, side: int) -> Codes:
    """The commonest zone of each square, the lowest of equals; 0 does not count."""
    rows, columns = (n // side for n in zones.shape)
    modes = np.zeros((rows, columns), np.uint8)
    for i, j in np.ndindex(rows, columns):
        square = zones[i * side : (i + 1) * side, j * side : (j + 1) * side]
        counts = np.bincount(square[square > 0], minlength=18)
        modes[i, j] = counts.argmax() if counts.any() else 0
    return modes


def test_zones_are_never_averaged_but_the_commonest_can_be_taken(tmp_path: Path) -> None:
    zones = map_codes()
    zones[:20, :20] = 0
    write_map(tmp_path / "map.tif", legacy(zones).astype("float32"))
    grid = scene_grid(pixel_m=40, cell_m=320)
    catalog = catalog_of(tmp_path, map_input("map", "map.tif", resampling="mode"))
    found = cube_of(catalog, grid)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, modes_by_counting(zones, 4))
    catalog = catalog_of(tmp_path, map_input("map", "map.tif"))
    # The centre of a 40 m pixel is the corner of four: the one right below it is taken.
    np.testing.assert_array_equal(cube_of(catalog, grid), zones[2::4, 2::4])


def test_a_map_of_europe_in_its_own_projection_lands_on_a_city(tmp_path: Path) -> None:
    """EPSG:3035 is turned by a degree or so against UTM: a shift or a flip would show."""
    zones = map_codes(80, 80)
    place = Affine(100, 0, 4_330_000, 0, -100, 2_880_000)
    size = {"height": 80, "width": 80, "count": 1, "dtype": "uint8"}
    with rasterio.open(
        tmp_path / "map.tif", "w", driver="GTiff", crs="EPSG:3035", transform=place, **size
    ) as file:
        file.write(zones, 1)
    catalog = catalog_of(tmp_path, map_input("map", "map.tif", edition="europe"))
    west, south, east, north = project_bbox(
        (4_332_000, 2_874_000, 4_336_000, 2_878_000), "EPSG:3035", "EPSG:4326"
    )
    grid = Grid.from_bbox((west, south, east, north), pixel_m=100, cell_m=300)
    found = cube_of(catalog, grid)
    to_map = Transformer.from_crs(grid.crs, "EPSG:3035", always_xy=True)
    for row, column in np.ndindex(*grid.shape):
        x, y = to_map.transform(*(grid.geobox.affine * (column + 0.5, row + 0.5)))
        j, i = (int(v) for v in ~place * (x, y))
        assert found[row, column] == zones[i, j], (row, column)
    assert grid.crs == "EPSG:32632"
    assert found.size > 1_000


def test_shares_of_zones_are_features(tmp_path: Path) -> None:
    zones = map_codes()
    zones[:32, :32] = 0
    zones[40:44, 0:32] = 0
    write_map(tmp_path / "map.tif", legacy(zones).astype("float32"))
    catalog = catalog_of(tmp_path, map_input("map", "map.tif"))
    cube = open_cube(catalog, scene_grid(), inputs=["map"], year=2021)
    features = aggregate(cube, stats=("f14", "f6")).compute()
    names = [str(name) for name in features["feature"].values]
    assert names == ["map_lcz_f14", "map_lcz_f6"]
    values = features["features"] if isinstance(features, xr.Dataset) else features
    for code, name in ((14, "map_lcz_f14"), (6, "map_lcz_f6")):
        of_code = values.sel(feature=name).values
        for i, j in np.ndindex(2, 2):
            cell = zones[32 * i : 32 * (i + 1), 32 * j : 32 * (j + 1)]
            valid = (cell > 0).sum()
            expected = (cell == code).sum() / valid if valid else np.nan
            assert of_code[i, j] == pytest.approx(expected, nan_ok=True, rel=1e-6)


def test_a_map_is_brought_home_as_zones(tmp_path: Path) -> None:
    zones = map_codes()
    write_map(tmp_path / "map.tif", legacy(zones).astype("float32"))
    catalog = catalog_of(tmp_path, map_input("map", "map.tif"))
    cube = open_cube(catalog, scene_grid(), inputs=["map"], year=2021)
    write_cube(cube, tmp_path / "cube.zarr")
    stored = open_stored_cube(tmp_path / "cube.zarr")["map"]
    np.testing.assert_array_equal(stored.values.squeeze(), zones)
    assert stored.dtype == np.uint8
    assert stored.attrs["decoder"] == "linear"


def test_a_map_is_described_and_brought_home_from_the_command_line(
    tmp_path: Path, city: City, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_legacy_map(tmp_path, city, seed=5)
    squares = [box(p.x0, p.y0 - 320, p.x0 + 320, p.y0) for p in city.patches]
    labels = gpd.GeoDataFrame(
        {"lcz": [p.lcz for p in city.patches]}, geometry=squares, crs=city.grid.crs
    )
    labels.to_file(tmp_path / "labels.gpkg")
    (tmp_path / "city.toml").write_text(
        f'id = "maps"\n[city.here]\nbbox = {list(city.bbox)}\n[grid]\nchunk_cells = 5\n'
        f"[[input]]\n{map_input('map', path.name, synthetic=True)}\n"
        '[[input]]\nname = "labels"\nsource = "polygons"\nhref = "labels.gpkg"\n'
        'class_column = "lcz"\n[run]\nfeatures = ["map"]\nlabels = ["labels"]\nyear = 2021\n'
    )
    run = tmp_path / "run"
    config = ["--config", str(tmp_path / "city.toml")]
    run_stages(open_run(run, tmp_path / "city.toml"), ["build-catalog"])
    for command in (
        ["cube", str(run), *config, "--write"],
        ["describe", str(run), *config],
        ["aggregate", str(run), *config],
    ):
        with pytest.raises(SystemExit) as exit_:
            main(command)
        assert not exit_.value.code, (command, capsys.readouterr().err)
    told = capsys.readouterr().out
    assert "dtype uint8" in told
    assert "layer lcz_map" in told
    stored = open_stored_cube(run / "here" / "cube.zarr")["map"].values.squeeze()
    assert set(np.unique(stored)) <= set(range(18))
    assert (stored > 0).mean() > 0.5


def test_recoding_anew_is_another_cube_for_dask(tmp_path: Path) -> None:
    write_map(tmp_path / "map.tif", own_codes())
    names = []
    for zone in (6, 14):
        recode = "{" + ", ".join(f"{code} = {zone}" for code in range(11)) + "}"
        catalog = catalog_of(tmp_path, map_input("map", "map.tif", recode=recode))
        cube = open_cube(catalog, scene_grid(), inputs=["map"])
        assert set(np.unique(cube["map"].values)) == {zone}
        names.append(cube["map"].data.name)
    assert names[0] != names[1]


def test_a_static_map_has_no_time_and_no_band(tmp_path: Path) -> None:
    write_map(tmp_path / "map.tif", map_codes())
    text = map_input("map", "map.tif", static=True).replace("year = 2021\n", "")
    cube = open_cube(catalog_of(tmp_path, text), scene_grid(), inputs=["map"])
    assert cube["map"].dims == ("y", "x")


@pytest.mark.parametrize("engine", ["odc", "stackstac"])
def test_other_engines_are_refused_as_they_give_stored_codes(tmp_path: Path, engine: str) -> None:
    write_map(tmp_path / "map.tif", map_codes())
    catalog = catalog_of(tmp_path, map_input("map", "map.tif"))
    with pytest.raises(CatalogError, match="Use the engine 'native'"):
        open_cube(catalog, scene_grid(), inputs=["map"], engine=engine)


# What the catalog says


def collection_of(folder: Path, text: str) -> dict[str, Any]:
    catalog_of(folder, text)
    values: dict[str, Any] = json.loads((folder / "catalog/map/collection.json").read_text())
    return values


EDITIONS = {
    "global": ("CC-BY-4.0", "10.5194/essd-14-3835-2022"),
    "generator": ("other", "10.3389/fenvs.2021.637455"),
    "europe": ("other", "10.1371/journal.pone.0214474"),
    "conus": ("CC-BY-4.0", "10.1038/s41597-020-00605-z"),
}


@pytest.mark.parametrize("edition", EDITIONS)
def test_an_edition_brings_its_licence_and_what_to_cite(tmp_path: Path, edition: str) -> None:
    write_map(tmp_path / "map.tif", map_codes())
    values = collection_of(tmp_path, map_input("map", "map.tif", edition=edition))
    license_, doi = EDITIONS[edition]
    assert values["license"] == license_
    assert values["sci:publications"][0]["doi"] == doi
    assert values["lczcube:license_note"]
    assert values["lczcube:ai_derived"] is True
    assert (values["lczcube:layer"], values["lczcube:decoder"]) == ("lcz_map", "lcz_codes")


def test_the_licence_of_a_submission_is_what_the_user_says(tmp_path: Path) -> None:
    write_map(tmp_path / "map.tif", map_codes())
    text = map_input("map", "map.tif", edition="generator", license="CC-BY-SA-4.0")
    values = collection_of(tmp_path, text)
    assert values["license"] == "CC-BY-SA-4.0"
    assert "2023-06-16" in values["lczcube:license_note"]


def test_a_map_without_edition_and_a_made_up_one_cite_nobody(tmp_path: Path) -> None:
    write_map(tmp_path / "map.tif", map_codes())
    for keys in ({}, {"edition": "global", "synthetic": True}):
        values = collection_of(tmp_path, map_input("map", "map.tif", **keys))
        assert values["license"] == "other"
        assert "sci:publications" not in values


def test_a_submission_is_known_by_its_40_hex_digits(tmp_path: Path) -> None:
    name = "3f1c" * 10
    path = write_map(tmp_path / f"{name}.tif", generator_bands(map_codes()), names=NAMES)
    assert item_of(path).properties["lczcube:submission"] == name
    other = write_map(tmp_path / "3F1C.tif", generator_bands(map_codes()), names=NAMES)
    assert "lczcube:submission" not in item_of(other).properties


def test_classes_carry_stored_code_name_colour_and_count(tmp_path: Path) -> None:
    zones = map_codes()
    item = item_of(write_map(tmp_path / "map.tif", legacy(zones).astype("float32"), nodata=-999))
    classes = {c["value"]: c for c in map_band(item)["classification:classes"]}
    assert sorted(classes) == [-999, 0, *range(1, 11), *range(101, 108)]
    for zone in lcz.ZONES:
        held = classes[zone.legacy_code]
        assert (held["name"], held["color_hint"]) == (zone.slug, zone.wudapt)
        assert held["count"] == int((zones == zone.code).sum())
    assert classes[-999]["nodata"]
    assert (map_band(item)["nodata"], map_band(item)["data_type"]) == (-999, "float32")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog of maps of every kind."""
    folder = tmp_path_factory.mktemp("maps")
    zones = map_codes()
    write_map(folder / "plain.tif", zones, nodata=0)
    write_map(folder / "legacy.tif", legacy(zones).astype("int32"))
    write_map(folder / f"{'0a' * 20}.tif", generator_bands(zones), names=NAMES)
    catalog_of(
        folder,
        map_input("mixed", "*.tif", edition="generator"),
        map_input("own", "plain.tif", recode="{0 = 0, " + ", ".join(
            f"{code} = {18 - code}" for code in range(1, 18)) + "}"),
    )  # fmt: skip
    return folder / "catalog"


def test_where_0_is_a_zone_it_is_not_called_nodata(tmp_path: Path) -> None:
    path = write_map(tmp_path / "map.tif", own_codes())
    table = {str(code): 6 for code in range(11)}
    assert "nodata" not in map_band(item_of(path, recode=table))
    assert map_band(item_of(path, recode=table | {"0": 0}))["nodata"] == 0


def test_the_example_of_the_guide_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[1] / "docs/guide/catalog.md").read_text()
    section = page.split("## Maps of zones by others")[1].split("\n## ")[0]
    example = section.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "catalog.md", "exec"), {})
    unique, counts = capsys.readouterr().out.splitlines()
    assert f"# {unique}" in example
    assert f"# {counts}" in example


def test_items_and_collections_are_stac_and_ours(built: Path) -> None:
    paths = [*built.glob("*/items/*.json"), *built.glob("*/collection.json")]
    assert len(paths) == 4 + 2
    for path in paths:
        values = json.loads(path.read_text())
        kind = "item" if values["type"] == "Feature" else "collection"
        core = f"https://schemas.stacspec.org/v1.1.0/{kind}-spec/json-schema/{kind}.json"
        validate(values, {"$ref": core})
        if kind == "item":
            assert CLASSIFICATION_URI in values["stac_extensions"]


@with_schemas
def test_items_are_valid_against_the_extensions_they_declare(built: Path) -> None:
    older = CLASSIFICATION_URI.replace("v2.0.0", "v1.1.0")
    n_classes = 0
    for path in [*built.glob("*/items/*.json"), *built.glob("*/collection.json")]:
        values = json.loads(path.read_text())
        for uri in values["stac_extensions"]:
            if uri != CLASSIFICATION_URI:
                validate(values, extension_schema(uri))
        for asset in values.get("assets", {}).values():
            # Version 1.1 is the one at hand, and knows classes on bands as `raster:bands` only.
            as_older = {"raster:bands": [_only_classes(band) for band in asset.get("bands", [])]}
            held = {"stac_extensions": [older], "assets": {"data": as_older}}
            validate({"type": "Feature", "properties": {}, **held}, extension_schema(older))
            n_classes += sum("classification:classes" in band for band in as_older["raster:bands"])
    assert n_classes == 4


def _only_classes(band: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in band.items() if k.startswith("classification:")}


def test_geoparquet_and_json_give_equal_items(built: Path) -> None:
    tables, static = open_catalog(built), open_catalog(built / "catalog.json")
    for name in ("mixed", "own"):
        one, other = ([i.to_dict() for i in c.items(name)] for c in (tables, static))
        assert one == other


def test_the_cube_is_the_same_from_geoparquet(built: Path) -> None:
    cubes = [
        open_cube(open_catalog(place), scene_grid(), inputs=["own"])["own"].values.squeeze()
        for place in (built, built / "catalog.json")
    ]
    np.testing.assert_array_equal(cubes[0], 18 - map_codes().astype(int))
    np.testing.assert_array_equal(cubes[0], cubes[1])


def test_building_again_gives_the_same_bytes(tmp_path: Path) -> None:
    write_map(tmp_path / "map.tif", map_codes())
    catalog_of(tmp_path, map_input("map", "map.tif"))
    before = {p: p.read_bytes() for p in (tmp_path / "catalog").rglob("*") if p.is_file()}
    catalog_of(tmp_path, map_input("map", "map.tif"))
    assert before == {p: p.read_bytes() for p in (tmp_path / "catalog").rglob("*") if p.is_file()}


# The lattice of the global map


def on_global_lattice(path: Path, left: float, top: float, pixel: float = GLOBAL_PIXEL) -> Path:
    corner = (GLOBAL_ORIGIN[0] + left * GLOBAL_PIXEL, GLOBAL_ORIGIN[1] - top * GLOBAL_PIXEL)
    transform = Affine(pixel, 0, corner[0], 0, -pixel, corner[1])
    codes = map_codes(40, 50)
    size = {"height": 40, "width": 50, "count": 1, "dtype": "uint8"}
    with rasterio.open(
        path, "w", driver="GTiff", crs="EPSG:4326", transform=transform, nodata=0, **size
    ) as file:
        file.write(codes, 1)
    return path


def test_a_crop_on_the_lattice_of_the_global_map_is_taken_without_a_word(tmp_path: Path) -> None:
    path = on_global_lattice(tmp_path / "map.tif", 200_000, 40_000)
    assert "lczcube:note" not in item_of(path, edition="global").properties


@pytest.mark.parametrize(
    ("left", "top", "pixel", "expected"),
    [
        (200_000.25, 40_000, GLOBAL_PIXEL, "+0.250 px east and +0.000 px south"),
        (200_000, 39_999.6, GLOBAL_PIXEL, "+0.000 px east and -0.400 px south"),
        (200_000, 40_000, GLOBAL_PIXEL * (1 + 2e-3), "+0.100 px east and +0.080 px south"),
    ],
)
def test_a_crop_off_the_lattice_says_by_how_much(
    tmp_path: Path, left: float, top: float, pixel: float, expected: str
) -> None:
    path = on_global_lattice(tmp_path / "map.tif", left, top, pixel)
    assert expected in item_of(path, edition="global").properties["lczcube:note"]
    assert "lczcube:note" not in item_of(path).properties


def test_a_global_map_in_metres_is_said_to_be_resampled(tmp_path: Path) -> None:
    path = write_map(tmp_path / "map.tif", map_codes())
    assert "not in EPSG:4326" in item_of(path, edition="global").properties["lczcube:note"]


# Polygons with a second class


def write_areas(path: Path, primary: list[Any], second: list[Any]) -> Path:
    squares = [box(X0 + 100 * n, Y0 - 90, X0 + 100 * n + 90, Y0) for n in range(len(primary))]
    columns = {"first": primary, "second": second}
    gpd.GeoDataFrame(columns, geometry=squares, crs=CRS).to_file(path)
    return path


def test_a_second_class_is_kept_beside_the_first(tmp_path: Path) -> None:
    write_areas(tmp_path / "areas.gpkg", ["101", "6", None, "3"], ["102", None, "5", "LCZ 2"])
    text = (
        'name = "areas"\nsource = "polygons"\nhref = "areas.gpkg"\nclass_column = "first"\n'
        'alternative_column = "second"'
    )
    catalog = catalog_of(tmp_path, text)
    (item,) = catalog.items("areas")
    table = gpd.read_parquet(item.assets["labels"].href)
    assert table["lcz"].tolist() == [11, 6, 3]
    assert table["alternative"].tolist() == [12, 0, 2]
    assert "lczcube:note" not in item.properties
    assert read_labels(catalog, ["areas"])["lcz"].tolist() == [11, 6, 3]


def test_a_second_class_that_is_no_zone_is_refused(tmp_path: Path) -> None:
    path = write_areas(tmp_path / "areas.gpkg", [1, 2], [3, 18])
    with pytest.raises(LabelError, match=r"LCZ code 18 \(1 times\)"):
        item_of(path, "polygons", class_column="first", alternative_column="second")
    with pytest.raises(SourceError, match=r"no column 'third' \(alternative_column\)"):
        item_of(path, "polygons", class_column="first", alternative_column="third")


# Synthetic maps


@pytest.fixture(scope="module")
def city() -> City:
    return draw_city(1, km=3.0, seed=5)


def truth_on(city: City, transform: Affine, crs: str, shape: tuple[int, int]) -> Codes:
    """The city's true zone at every pixel's centre, found one by one; 0 past the city."""
    to_city = Transformer.from_crs(crs, city.grid.crs, always_xy=True)
    window = city.zone_map.window
    whole = city.zone_map.truth(window)
    truth = np.zeros(shape, np.uint8)
    for row, column in np.ndindex(*shape):
        x, y = to_city.transform(*(transform * (column + 0.5, row + 0.5)))
        i, j = int(y // 10) - window.y0, int(x // 10) - window.x0
        if 0 <= i < whole.shape[0] and 0 <= j < whole.shape[1]:
            truth[row, column] = whole[i, j]
    return truth


def test_a_synthetic_map_without_errors_is_the_truth(tmp_path: Path, city: City) -> None:
    paths = [
        write(tmp_path, city, seed=5, error_share=0)
        for write in (write_generator_map, write_legacy_map, write_global_map)
    ]
    for path, band in zip(paths, (2, 1, 1), strict=True):
        with rasterio.open(path) as file:
            stored = file.read(band).astype(int)
            assert file.tags()["SYNTHETIC"] == "true"
            truth = truth_on(city, file.transform, file.crs, file.shape)
        stored[stored == -999] = 0
        np.testing.assert_array_equal(np.where(stored > 100, stored - 90, stored), truth)
        assert len(np.unique(truth)) > 5


def test_a_synthetic_map_has_the_stated_share_of_errors(tmp_path: Path, city: City) -> None:
    path = write_generator_map(tmp_path, city, seed=5, error_share=0.3)
    with rasterio.open(path) as file:
        raw, filtered, agreement = file.read()
        truth = truth_on(city, file.transform, file.crs, file.shape)
        assert file.tags()["error_share"] == "0.3"
    seen = truth > 0
    sigma = np.sqrt(0.3 * 0.7 / seen.sum())
    assert (raw != truth)[seen].mean() == pytest.approx(0.3, abs=4 * sigma)
    assert (filtered != truth)[seen].mean() == pytest.approx(0.15, abs=4 * sigma)
    np.testing.assert_array_equal(raw[~seen], 0)
    assert set(np.unique(agreement)) <= set(range(0, 101, 4))
    assert agreement[seen & (raw == truth)].mean() > agreement[seen & (raw != truth)].mean() + 20


def test_synthetic_maps_are_what_the_publishers_write(tmp_path: Path, city: City) -> None:
    with rasterio.open(write_generator_map(tmp_path, city, seed=5)) as file:
        assert (file.descriptions, file.dtypes[0], file.crs) == (NAMES, "uint8", "EPSG:4326")
        assert item_of(Path(file.name)).properties["lczcube:submission"] == Path(file.name).stem
    with rasterio.open(write_legacy_map(tmp_path, city, seed=5)) as file:
        assert (file.dtypes, file.nodata, file.crs) == (("float32",), -999, city.grid.crs)
        assert set(np.unique(file.read(1))) & set(range(101, 108))
    with rasterio.open(write_global_map(tmp_path, city, seed=5)) as file:
        assert (file.dtypes, file.nodata) == (("uint8",), 0)
        assert max(map(abs, lattice_shift(file) or (1,))) < 1e-3
        for zone in lcz.ZONES:
            assert file.colormap(1)[zone.code] == (*bytes.fromhex(zone.wudapt), 255)


@pytest.mark.parametrize("write", [write_generator_map, write_legacy_map, write_global_map])
def test_a_synthetic_map_holds_its_city_and_less_than_a_pixel_more(
    tmp_path: Path, city: City, write: Any
) -> None:
    with rasterio.open(write(tmp_path, city, seed=5)) as file:
        wanted = city.bbox if file.crs == "EPSG:4326" else city.grid.bbox
        outwards = np.array([-1, -1, 1, 1]) * (np.array(file.bounds) - np.array(wanted))
        pixel = file.transform.a
    assert (outwards > -1e-6 * pixel).all()
    assert (outwards < pixel).all()


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(
    tmp_path: Path, city: City
) -> None:
    for write in (write_generator_map, write_legacy_map, write_global_map):
        one, two, other = (
            write(tmp_path / place, city, seed=seed)
            for place, seed in zip("abc", (5, 5, 6), strict=True)
        )
        assert one.read_bytes() == two.read_bytes()
        assert one.read_bytes() != other.read_bytes()


def test_synthetic_maps_of_three_codings_agree_in_one_cube(tmp_path: Path, city: City) -> None:
    writers = (write_generator_map, write_legacy_map, write_global_map)
    paths = [write(tmp_path, city, seed=5, error_share=0) for write in writers]
    inputs = [
        map_input(name, str(path), synthetic=True)
        for name, path in zip(("generator", "legacy", "world"), paths, strict=True)
    ]
    catalog = catalog_of(tmp_path, *inputs)
    cube = open_cube(catalog, city.grid, inputs=["generator", "legacy", "world"])
    truth = city.zone_map.truth(city.zone_map.window)[::-1]
    assert truth.shape == city.grid.shape
    for name in ("generator", "legacy", "world"):
        found = cube[name].values.squeeze()
        both = (found > 0) & (truth > 0)
        assert both.sum() > 0.9 * (truth > 0).sum()
        # A zone is 500 m wide and a pixel of the map 100 m: the edges of zones differ.
        assert (found == truth)[both].mean() > 0.85
        assert cube[name].attrs["synthetic"] == 1


def test_a_synthetic_map_becomes_a_valid_cog(tmp_path: Path, city: City) -> None:
    from rio_cogeo.cogeo import cog_validate

    path = write_generator_map(tmp_path, city, seed=5)
    cog = tmp_path / "cog.tif"
    rasterio.shutil.copy(path, cog, driver="COG", compress="deflate")
    is_valid, errors, _ = cog_validate(str(cog))
    assert (is_valid, errors) == (True, [])
    assert counts_of(item_of(cog)) == counts_of(item_of(path))


# Real maps


REAL_MAPS = {
    "lcz_maps/lcz_zaragoza.tif": {},
    "lcz_maps/lcz_too_small.tif": {},
    "lcz_maps/sydney_generator.tif": {"edition": "generator"},
    "hongkong/lcz_global_v3.tif": {"edition": "global"},
}


def read_zones(path: Path) -> tuple[Codes, Any, Any]:
    """Zones of a real map by rasterio alone, its transform and its CRS."""
    with rasterio.open(path) as file:
        stored = file.read(2 if file.count == 3 else 1).astype(int)
        stored[stored == (-999 if file.nodata is None else file.nodata)] = 0
        return stored.astype(np.uint8), file.transform, file.crs


@pytest.mark.parametrize("name", REAL_MAPS)
def test_the_histogram_of_a_real_map_is_that_of_its_pixels(realdata: Path, name: str) -> None:
    zones, _, _ = read_zones(realdata / name)
    assert counts_of(item_of(realdata / name, **REAL_MAPS[name])) == counted(zones)


PLACES = {
    "lcz_maps/lcz_zaragoza.tif": (-0.95, 41.60, -0.80, 41.70),
    "lcz_maps/lcz_too_small.tif": (-1.25, 41.50, -1.15, 41.60),
    "lcz_maps/sydney_generator.tif": (151.15, -33.92, 151.25, -33.83),
    "hongkong/lcz_global_v3.tif": (114.16, 22.32, 114.20, 22.35),
}


@pytest.mark.parametrize("name", REAL_MAPS)
def test_a_real_map_on_a_grid_is_gdals_nearest(realdata: Path, tmp_path: Path, name: str) -> None:
    catalog = catalog_of(tmp_path, map_input("map", str(realdata / name), **REAL_MAPS[name]))
    grid = Grid.from_bbox(PLACES[name])
    found = cube_of(catalog, grid)
    rows, columns = grid.shape
    zones, transform, crs = read_zones(realdata / name)
    size = {"height": zones.shape[0], "width": zones.shape[1], "count": 1, "dtype": "uint8"}
    with rasterio.MemoryFile() as memory:
        with memory.open(driver="GTiff", crs=crs, transform=transform, nodata=0, **size) as file:
            file.write(zones, 1)
        with (
            memory.open() as file,
            WarpedVRT(
                file,
                crs=grid.crs,
                transform=grid.geobox.affine,
                width=columns,
                height=rows,
                tolerance=1e-6,
                resampling=Resampling.nearest,
            ) as warped,
        ):
            expected = warped.read(1)
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(found)) >= 5


def test_the_crop_of_the_global_map_at_hand_is_off_its_lattice(realdata: Path) -> None:
    item = item_of(realdata / "hongkong/lcz_global_v3.tif", edition="global")
    assert "+0.340 px east and -0.236 px south" in item.properties["lczcube:note"]


def test_denton_has_codes_of_its_own(realdata: Path, tmp_path: Path) -> None:
    path = realdata / "lcz_maps/denton_gislcz.tif"
    for source in ("lcz_map", "label_raster"):
        with pytest.raises(LabelError, match=r"1 \(3350 times\).* no natural zone .* recode"):
            item_of(path, source)
    table = dict(enumerate((0, 3, 14, 6, 6, 8, 5, 10, 11, 12, 17)))
    with rasterio.open(path) as file:
        stored = file.read(1)
        grid_box = project_bbox(file.bounds, str(file.crs), "EPSG:4326")
    item = item_of(path, recode={str(code): zone for code, zone in table.items()})
    expected: dict[int, int] = {}
    for code, n in counted(stored).items():
        expected[table[code]] = expected.get(table[code], 0) + n
    assert counts_of(item) == expected
    recode = "{" + ", ".join(f"{code} = {zone}" for code, zone in table.items()) + "}"
    catalog = catalog_of(tmp_path, map_input("map", str(path), recode=recode))
    anchor = layer_geobox(catalog, "map", bbox=grid_box)
    grid = Grid.from_bbox(grid_box, anchor=anchor, pixel_m=100, cell_m=300)
    found = cube_of(catalog, grid)
    left = round((anchor.affine.c - grid.geobox.affine.c) / 100)
    top = round((grid.geobox.affine.f - anchor.affine.f) / 100)
    inner = found[top : top + stored.shape[0], left : left + stored.shape[1]]
    np.testing.assert_array_equal(inner, np.vectorize(table.get)(stored))


def test_the_sydney_map_is_known_by_its_band_names(realdata: Path) -> None:
    item = item_of(realdata / "lcz_maps/sydney_generator.tif", edition="generator")
    assert item.assets["data"].extra_fields["lczcube:band"] == "lczFilter"
    assert map_band(item)["data_type"] == "int16"


@pytest.mark.parametrize("place", ["sidney", "redon"])
def test_polygons_of_geoclimate_are_labels_and_a_map(
    realdata: Path, tmp_path: Path, place: str
) -> None:
    path = realdata / "lcz_maps" / f"{place}_rsu_lcz.geojson"
    raw = gpd.read_file(path)
    text = (
        f'name = "rsu"\nsource = "polygons"\nhref = "{path}"\nclass_column = "LCZ_PRIMARY"\n'
        'alternative_column = "LCZ_SECONDARY"'
    )
    catalog = catalog_of(tmp_path, text)
    (item,) = catalog.items("rsu")
    assert "not by a model" in item.properties["lczcube:note"]
    assert catalog.layer("rsu").ai_derived is False
    table = gpd.read_parquet(item.assets["labels"].href)
    primary, second = raw["LCZ_PRIMARY"], raw["LCZ_SECONDARY"].fillna(0).astype(int)
    np.testing.assert_array_equal(table["lcz"], np.where(primary > 100, primary - 90, primary))
    np.testing.assert_array_equal(table["alternative"], second)
    assert table["alternative"].dtype == np.uint8
    assert list(table.columns)[-1] == "alternative"
    described = [c["name"] for c in item.assets["labels"].extra_fields["table:columns"]]
    assert described == list(table.columns)

    grid = Grid.from_bbox(tuple(raw.to_crs(4326).total_bounds), crs=str(raw.crs))
    burnt = rasterize_labels(read_labels(catalog, ["rsu"], crs=grid.crs), grid)
    zones = burnt["lcz"].values
    by_zone = {
        int(code): rasterio.features.rasterize(
            table.geometry[table["lcz"] == code], grid.shape, transform=grid.geobox.affine
        ).astype(bool)
        for code in table["lcz"].unique()
    }
    claims = sum(mask.astype(int) for mask in by_zone.values())
    for code, mask in by_zone.items():
        np.testing.assert_array_equal(zones == code, mask & (claims == 1))
    assert (zones > 0).sum() > 10_000


@with_schemas
def test_real_maps_are_valid_items_and_broken_ones_are_rows(realdata: Path, tmp_path: Path) -> None:
    toml = tmp_path / "maps.toml"
    toml.write_text(
        f'id = "maps"\n[[input]]\n{map_input("maps", str(realdata / "lcz_maps"))}\n'
        f"[[input]]\n{map_input('world', str(realdata / 'hongkong/lcz_global_v3.tif'))}\n"
        f"[[input]]\n{map_input('cover', str(realdata / 'hongkong/worldcover_2021.tif'))}\n"
    )
    report = build_catalog(toml, tmp_path / "catalog")
    failed = [Path(failure.path).name for failure in report.failures]
    assert failed == ["denton_gislcz.tif", "worldcover_2021.tif"]
    assert report.n_items == 4
    for path in report.path.glob("*/items/*.json"):
        values = json.loads(path.read_text())
        for uri in set(values["stac_extensions"]) - {CLASSIFICATION_URI}:
            validate(values, extension_schema(uri))
