import json
import tracemalloc
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import geopandas as gpd
import h5py
import numpy as np
import pandas as pd
import pystac
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Transformer

from lczcube.catalog import CatalogReport, build_catalog, open_catalog
from lczcube.config import read_config
from lczcube.cube import open_cube
from lczcube.errors import ConfigError, LabelError, LczcubeError, SourceError
from lczcube.labels.leakage import leakage_report
from lczcube.labels.splits import split_labels
from lczcube.labels.table import COLUMNS, read_labels
from lczcube.runfolder import city_grid
from lczcube.sources import SourceItem, build_items, find_files
from lczcube.sources.items import LCZCUBE_URI
from lczcube.sources.overlaps import connected, overlap_groups
from lczcube.sources.patches import PatchesInput
from lczcube.sources.so2sat import So2SatInput
from lczcube.sources.so2sat_cities import CITIES, HELD_OUT, utm_epsg
from lczcube.sources.so2sat_splits import read_lcz
from lczcube.synth import write_world
from lczcube.synth.city import City, draw_city
from lczcube.synth.labels import draw_patches
from lczcube.synth.so2sat import MAX_PER_SITE, write_so2sat
from lczcube.windows import aggregate_patches
from tests.test_catalog import CORE, extension_schema, validate, with_schemas

NAIROBI = (256_000.858, 9_860_000.568)
MOSCOW = (412_000.239, 6_180_000.37)
KARACHI = (297_000.5, 2_762_000.5)
NAIROBI_BOX = "[36.6, -1.5, 37.1, -1.1]"


def write_geo(
    path: Path,
    corners: Sequence[tuple[float, float]],
    epsg: int | Sequence[int] = 32737,
    *,
    layout: str = "2026",
    cities: Sequence[str] | str = "nairobi",
    changed: dict[str, Any] | None = None,
) -> Path:
    """A geolocation file; ``changed`` replaces a dataset, or leaves it out where it is None."""
    path.parent.mkdir(parents=True, exist_ok=True)
    x0, y0 = np.array(corners, dtype=float).T
    n, zero, ten = len(corners), np.zeros(len(corners)), np.full(len(corners), 10.0)
    names = [cities] * n if isinstance(cities, str) else list(cities)
    columns: dict[str, Any] = {"epsg": np.broadcast_to(epsg, n).astype("int32")[:, None]}
    if layout == "2026":
        columns["city"] = np.array([name.encode() for name in names], dtype="S12")
        columns["tfw"] = np.column_stack([ten, zero, zero, -ten, x0, y0])
    else:
        rows = np.zeros((n, 4))
        columns["coord"] = np.column_stack([x0 + 160, y0 - 160, rows])
        columns["tfw"] = np.column_stack([x0, ten, zero, y0, zero, ten])
    with h5py.File(path, "w") as file:
        for name, values in (columns | (changed or {})).items():
            if values is not None:
                file[name] = values
    return path


def one_hot(lcz: Sequence[int]) -> np.ndarray[Any, Any]:
    return np.eye(17)[np.array(lcz) - 1]


def write_labels(path: Path, lcz: Sequence[int], **changed: Any) -> Path:
    """A split whose pixels cannot be read: the one chunk of ``sen2`` is no gzip."""
    path.parent.mkdir(parents=True, exist_ok=True)
    n = len(lcz)
    columns: dict[str, Any] = {"label": one_hot(lcz), **changed}
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            if values is not None:
                file[name] = values
        shape = (n, 32, 32, 10)
        sen2 = file.create_dataset("sen2", shape, "f8", chunks=shape, compression="gzip")
        sen2.id.write_direct_chunk((0, 0, 0, 0), b"this is no chunk")
        file.create_dataset("sen1", (n, 32, 32, 8), "f8", chunks=(1, 32, 32, 8))
    return path


def row_of(corner: tuple[float, float], n: int, step_m: float = 1000) -> list[tuple[float, float]]:
    return [(corner[0] + step_m * k, corner[1]) for k in range(n)]


def write_split(folder: Path, lcz: Sequence[int], name: str = "validation", **geo: Any) -> Path:
    corners = geo.pop("corners", row_of(NAIROBI, len(lcz)))
    write_geo(folder / f"{name}_geo.h5", corners, **geo)
    return write_labels(folder / f"{name}.h5", lcz)


def register(
    href: Path | str, *, cities: dict[str, Any] | None = None, **keys: Any
) -> list[SourceItem]:
    entry = So2SatInput.model_validate(
        {"name": "so2sat", "source": "so2sat", "href": str(href), **keys}
    )
    files = find_files(entry, folder=Path("/"), cities=cities or {})
    return [made for file in files for made in build_items(entry, file)]


def table_of(href: Path | str, **keys: Any) -> gpd.GeoDataFrame:
    (made,) = register(href, **keys)
    assert made.table is not None
    return made.table.frame


def built(folder: Path, keys: str = "", *, href: str = '"."', cities: str = "") -> CatalogReport:
    toml = folder / "town.toml"
    toml.write_text(
        f'id = "town"\n{cities}\n[[input]]\nname = "so2sat"\nsource = "so2sat"\n'
        f"href = {href}\n{keys}\n"
    )
    return build_catalog(toml, folder / "catalog")


def box_of(name: str, bbox: str) -> str:
    return f"[city.{name}]\nbbox = {bbox}\n"


# Where patches lie


@pytest.mark.parametrize("layout", ["2025", "2026"])
def test_a_patch_hangs_down_from_its_corner_in_both_layouts(tmp_path: Path, layout: str) -> None:
    write_split(tmp_path, [2, 11], layout=layout)
    table = table_of(tmp_path)
    assert table.crs == "EPSG:32737"
    x0, y0 = NAIROBI
    assert table.geometry[0].bounds == (x0, y0 - 320, x0 + 320, y0)
    assert table.geometry[1].bounds == (x0 + 1000, y0 - 320, x0 + 1320, y0)
    assert list(table["x0"]) == [x0, x0 + 1000]
    assert list(table["size_m"]) == [320, 320]
    assert list(table["lcz"]) == [2, 11]


@pytest.mark.parametrize("pixel_height", [10.0, -10.0])
def test_the_sign_of_the_pixel_height_turns_no_patch(tmp_path: Path, pixel_height: float) -> None:
    tfw = [[10.0, 0, 0, pixel_height, *NAIROBI]]
    write_geo(tmp_path / "validation_geo.h5", [NAIROBI], changed={"tfw": tfw})
    assert table_of(tmp_path).geometry[0].bounds[3] == NAIROBI[1]


def test_coordinates_can_be_those_of_the_centre_of_the_first_pixel(tmp_path: Path) -> None:
    write_split(tmp_path, [2])
    x0, y0 = NAIROBI
    bounds = table_of(tmp_path, origin="centre").geometry[0].bounds
    assert bounds == (x0 - 5, y0 + 5 - 320, x0 - 5 + 320, y0 + 5)


def test_centres_in_the_file_decide_what_its_coordinates_are_of(tmp_path: Path) -> None:
    write_split(tmp_path, [2, 3], layout="2025")
    with pytest.raises(SourceError, match=r'2 centres .* up to 5 m .*"centre"; try "corner"'):
        register(tmp_path, origin="centre")


def test_what_is_taken_on_trust_is_noted(tmp_path: Path) -> None:
    write_split(tmp_path / "new", [2])
    write_split(tmp_path / "old", [2], layout="2025")
    (new,), (old,) = register(tmp_path / "new"), register(tmp_path / "old")
    assert "taken for the upper-left corner of the patch" in new.item.properties["lczcube:note"]
    assert "lczcube:note" not in old.item.properties


def test_an_item_is_a_city_and_its_zone_is_the_crs(tmp_path: Path) -> None:
    write_split(
        tmp_path,
        [2, 3, 4],
        corners=[NAIROBI, MOSCOW, (NAIROBI[0] + 500, NAIROBI[1])],
        epsg=[32737, 32637, 32737],
        layout="2025",
    )
    moscow, nairobi = register(tmp_path)
    assert [made.item.id for made in (moscow, nairobi)] == ["so2sat_moscow", "so2sat_nairobi"]
    assert moscow.item.properties["proj:code"] == "EPSG:32637"
    assert nairobi.table is not None
    assert list(nairobi.table.frame["lcz"]) == [2, 4]
    assert set(nairobi.table.frame["city"]) == {"nairobi"}
    hull = shapely.geometry.shape(nairobi.item.geometry)
    assert hull.contains(shapely.Point(36.809, -1.267))


def test_a_city_in_two_zones_is_two_items(tmp_path: Path) -> None:
    """12 degrees east cuts Munich's surroundings; both zones hold 48 N there."""
    write_split(
        tmp_path, [2, 3], corners=[(700_000, 5_330_000), (290_000, 5_330_000)],
        epsg=[32632, 32633], cities="munich",
    )  # fmt: skip
    assert [made.item.id for made in register(tmp_path)] == [
        "so2sat_munich_32632",
        "so2sat_munich_32633",
    ]


def test_ids_are_those_of_the_rows_of_the_splits(tmp_path: Path) -> None:
    corners = [NAIROBI, MOSCOW, (NAIROBI[0] + 5000, NAIROBI[1])]
    epsg = [32737, 32637, 32737]
    names = ["nairobi", "moscow", "nairobi"]
    for split in ("validation", "testing"):
        write_split(tmp_path, [2, 3, 4], split, corners=corners, epsg=epsg, cities=names)
    whole = {made.item.id: made.table.frame for made in register(tmp_path) if made.table}
    nairobi = whole["so2sat_nairobi"]
    assert list(nairobi["patch_id"]) == [
        "so2sat/testing/000000",
        "so2sat/testing/000002",
        "so2sat/validation/000000",
        "so2sat/validation/000002",
    ]
    assert list(nairobi["split"]) == ["testing"] * 2 + ["validation"] * 2
    alone = table_of(tmp_path / "validation.h5", city="nairobi")
    assert list(alone["patch_id"]) == list(nairobi["patch_id"][2:])


def test_an_item_names_its_files_and_their_sizes_but_sums_them_only_when_asked(
    tmp_path: Path,
) -> None:
    path = write_split(tmp_path, [2])
    (made,) = register(tmp_path)
    asset = made.item.assets["validation_h5"]
    assert asset.href == path.as_posix()
    assert asset.media_type == "application/x-hdf5"
    assert asset.extra_fields == {"file:size": path.stat().st_size}
    assert set(made.item.assets) == {"validation_h5", "validation_geo"}
    (summed,) = register(tmp_path, checksums=True)
    assert summed.item.assets["validation_geo"].extra_fields["file:checksum"].startswith("1220")


# Labels, and what is not read


def test_no_pixel_is_read(tmp_path: Path) -> None:
    path = write_split(tmp_path, [2, 17])
    with h5py.File(path) as file, pytest.raises(OSError, match="filter"):
        file["sen2"][0]
    assert list(table_of(tmp_path)["lcz"]) == [2, 17]


def test_labels_of_a_large_split_are_read_in_blocks(tmp_path: Path) -> None:
    n = 400_000
    with h5py.File(tmp_path / "training.h5", "w") as file:
        label = file.create_dataset("label", (n, 17), "f8", chunks=(10_000, 17), compression=1)
        for start in range(0, n, 10_000):
            label[start : start + 10_000] = one_hot(np.arange(start, start + 10_000) % 17 + 1)
        # 33 GB, if anybody read it.
        file.create_dataset("sen2", (n, 32, 32, 10), "f8", chunks=(1, 32, 32, 10))
    tracemalloc.start()
    lcz = read_lcz(tmp_path / "training.h5")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(lcz, np.arange(n) % 17 + 1)
    assert peak < 0.5 * n * 17 * 8


@pytest.mark.parametrize(
    "row", [[0] * 17, [1, 1, *[0] * 15], [0.5, 0.5, *[0] * 15], [np.nan, *[0] * 16], [2, *[0] * 16]]
)
def test_labels_that_are_not_one_hot_are_refused_with_their_count(
    tmp_path: Path, row: list[float]
) -> None:
    write_split(tmp_path, [2, 3, 4])
    write_labels(tmp_path / "validation.h5", [2, 3, 4], label=[*one_hot([2]), row, row])
    with pytest.raises(LabelError, match=r"2 of 3 rows of label are not one-hot.*row 1"):
        register(tmp_path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"label": None}, r"no dataset label; it holds sen1, sen2"),
        ({"label": [1, 2, 3]}, r"label is int64 of shape \(3,\)"),
        ({"label": np.eye(10)[:3]}, r"shape \(3, 10\)"),
        ({"label": [["a"] * 17] * 3}, r"label is object"),
        ({"label": np.zeros((0, 17))}, r"has 0 rows"),
        ({"label": one_hot([1, 2])}, r"has 2 rows and validation_geo.h5 3"),
    ],
)
def test_labels_of_another_form_are_refused(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    write_split(tmp_path, [2, 3, 4])
    write_labels(tmp_path / "validation.h5", [2, 3, 4], **changed)
    with pytest.raises(SourceError, match=message):
        register(tmp_path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tfw": None}, r"no dataset tfw; it holds city, epsg"),
        ({"epsg": None}, r"no dataset epsg"),
        ({"epsg": [[32737, 32737]] * 2}, r"epsg has shape \(2, 2\)"),
        ({"epsg": 32737}, r"epsg has shape \(\)"),
        ({"epsg": ["32737", "32737"]}, r"epsg is of type object"),
        ({"epsg": np.zeros((0, 1), int)}, r"has 0 rows"),
        ({"tfw": np.ones((2, 4))}, r"tfw is float64 of shape \(2, 4\)"),
        ({"tfw": np.full((2, 6), np.nan)}, r"2 rows of tfw are not finite"),
        ({"tfw": [[10, 0, 0, 10, 1e5, 1e6], [1e5, 10, 0, 1e6, 0, 10]]}, r"1 of 2 rows of tfw"),
        ({"tfw": [[20, 0, 0, -20, 256e3, 986e4]] * 2}, r"2 rows of tfw are no north-up squares"),
        ({"tfw": [[10, 1, 1, -10, 256e3, 986e4]] * 2}, r"row 0: \[10.0, 1.0, 1.0"),
        ({"city": np.array([b"nairobi"])}, r"city is \|S7 of shape \(1,\)"),
        ({"city": [7, 7]}, r"city is int64"),
    ],
)
def test_geolocation_of_another_form_is_refused(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    write_geo(tmp_path / "validation_geo.h5", row_of(NAIROBI, 2), changed=changed)
    with pytest.raises(SourceError, match=message):
        register(tmp_path)


def test_names_of_cities_are_read_however_they_are_stored(tmp_path: Path) -> None:
    for number, changed in enumerate(
        ({"city": [" Nairobi "]}, {"city": None, "cityList": np.array([[b"nairobi"]])})
    ):
        write_geo(tmp_path / str(number) / "testing_geo.h5", [NAIROBI], changed=changed)
        assert list(table_of(tmp_path / str(number))["city"]) == ["nairobi"]


def test_a_file_in_which_every_patch_has_a_city_of_its_own_is_refused(tmp_path: Path) -> None:
    names = [f"c{n}" for n in range(1001)]
    write_geo(tmp_path / "testing_geo.h5", row_of(NAIROBI, 1001), cities=names)
    with pytest.raises(SourceError, match="city names 1,001 cities; So2Sat has 52"):
        register(tmp_path)


@pytest.mark.parametrize("kind", ["external", "soft", "virtual", "storage", "group", "chunks"])
@pytest.mark.parametrize("name", ["label", "tfw"])
def test_what_lies_elsewhere_is_not_followed(tmp_path: Path, kind: str, name: str) -> None:
    path = write_split(tmp_path / "a", [2, 3])
    path = path if name == "label" else path.with_name("validation_geo.h5")
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file[name] = one_hot([2, 3]) if name == "label" else np.zeros((2, 6))
    with h5py.File(path, "r+") as file:
        width = file[name].shape[1]
        del file[name]
        if kind == "external":
            file[name] = h5py.ExternalLink(other.as_posix(), f"/{name}")
        elif kind == "soft":
            file[name] = h5py.SoftLink("/elsewhere")
        elif kind == "virtual":
            layout = h5py.VirtualLayout((2, width), "f8")
            layout[:] = h5py.VirtualSource(other.as_posix(), name, (2, width))
            file.create_virtual_dataset(name, layout)
        elif kind == "storage":
            raw = tmp_path / "raw.bin"
            raw.write_bytes(bytes(16 * width))
            file.create_dataset(name, (2, width), "f8", external=[(raw.as_posix(), 0, 16 * width)])
        elif kind == "group":
            file.create_group(name)
        else:
            rows = (1 << 29) // 8 // width + 1
            file.create_dataset(
                name, (2, width), "f8", chunks=(rows, width), maxshape=(None, width)
            )
    with pytest.raises(
        SourceError, match=f"{name} (is a link|is a group|has chunks)|of {name} lie"
    ):
        register(tmp_path / "a")


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_file_is_read_or_refused_but_nothing_else(tmp_path: Path, seed: int) -> None:
    write_split(tmp_path, [2, 3, 4])
    path = tmp_path / "validation_geo.h5"
    rng = np.random.default_rng(seed)
    data = bytearray(path.read_bytes())
    for at in rng.integers(0, len(data), 30):
        data[at] = rng.integers(0, 256)
    path.write_bytes(bytes(data[: len(data) if seed % 2 else len(data) // 2]))
    with suppress(LczcubeError):
        register(tmp_path)


# Files


@pytest.mark.parametrize("name", ["training", "validation", "testing"])
def test_labels_without_geolocation_are_refused_with_the_remedy(tmp_path: Path, name: str) -> None:
    write_labels(tmp_path / f"{name}.h5", [2, 3])
    with pytest.raises(SourceError, match=rf"no {name}_geo.h5 .* version 4 .* versions 1 and 2"):
        register(tmp_path)


@pytest.mark.parametrize("name", ["random/training", "block/test-new", "elsewhere/val-new"])
def test_version_3_without_geolocation_is_told_that_there_is_none(
    tmp_path: Path, name: str
) -> None:
    path = write_labels(tmp_path / f"{name}.h5", [2, 3])
    with pytest.raises(SourceError, match=r"not in the order of version 3. Use the files of v"):
        register(path.parent)


def test_splits_of_version_3_are_told_by_folder_and_name(tmp_path: Path) -> None:
    for name in ("train-new", "val-new", "test-new"):
        write_split(tmp_path / "culture_10", [5], name)
    table = table_of(tmp_path)
    assert sorted(table["split"]) == ["testing", "training", "validation"]
    assert sorted(table["patch_id"])[0] == "so2sat/culture_10/testing/000000"


def test_a_glob_that_names_labels_and_geolocation_gives_each_patch_once(tmp_path: Path) -> None:
    write_split(tmp_path, [2, 3])
    assert list(table_of(tmp_path / "*.h5")["lcz"]) == [2, 3]
    assert list(table_of(tmp_path / "validation_geo.h5")["lcz"]) == [2, 3]


def test_two_divisions_of_the_same_patches_do_not_meet_in_one_input(tmp_path: Path) -> None:
    for folder in ("random", "block"):
        write_split(tmp_path / folder, [5], "training")
    report = built(tmp_path)
    (failure,) = report.failures
    assert "are both the split training" in failure.reason
    assert report.n_items == 1


@pytest.mark.parametrize(
    ("href", "message"),
    [
        ("map.h5", "its name says no split"),
        ("validation.h5.gz", "validation.h5.gz is packed; unpack it first (gunzip)"),
        ("packed", "training_geo.h5.gz is packed"),
        ("empty", "is a folder without a file of this source"),
        ("https://example.org/validation.h5", "is remote"),
        ("gone.h5", "is not there"),
        ("broken/validation.h5", "cannot be read as HDF5"),
    ],
)
def test_a_file_that_cannot_be_used_is_a_row_with_its_remedy(
    tmp_path: Path, href: str, message: str
) -> None:
    write_labels(tmp_path / "map.h5", [2])
    (tmp_path / "validation.h5.gz").write_bytes(b"gz")
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "training_geo.h5.gz").write_bytes(b"gz")
    (tmp_path / "empty").mkdir()
    write_split(tmp_path / "broken", [2])
    (tmp_path / "broken" / "validation.h5").write_bytes(b"no HDF5")
    write_split(tmp_path / "good", [2], "testing")
    report = built(tmp_path, href=f'["{href}", "good"]')
    (failure,) = report.failures
    assert message in failure.reason
    assert report.n_items == 1


# Cities


def test_patches_are_of_the_city_whose_bbox_holds_their_centre(tmp_path: Path) -> None:
    """The centre lies 160 m east and south of the corner: at 36.8087 E, 1.2671 S."""
    write_split(tmp_path, [2, 3], corners=[NAIROBI, MOSCOW], epsg=[32737, 32637], layout="2025")
    box = (36.8086, -1.3, 36.9, -1.2)
    table = table_of(tmp_path, cities={"nbo": box})
    assert list(table["city"]) == ["nbo"]
    assert list(table["lcz"]) == [2]
    with pytest.raises(SourceError, match=r"no patch lies in nbo; these .* of moscow, nairobi"):
        register(tmp_path, cities={"nbo": (36.8088, -1.3, 36.9, -1.2)})


def test_the_city_of_an_input_is_a_table_or_one_of_so2sats(tmp_path: Path) -> None:
    write_split(tmp_path, [2, 3], corners=[NAIROBI, MOSCOW], epsg=[32737, 32637], layout="2025")
    assert list(table_of(tmp_path, city="moscow")["lcz"]) == [3]
    box = {"a": (37.0, 55.0, 38.0, 56.0), "b": (36.0, -2.0, 37.0, -1.0)}
    assert list(table_of(tmp_path, city="b", cities=box)["lcz"]) == [2]
    with pytest.raises(ConfigError, match=r"neither a \[city.atlantis\] table nor a city of So2S"):
        register(tmp_path, city="atlantis")


def test_files_of_a_city_each_give_that_citys_patches(tmp_path: Path) -> None:
    for city in ("nbo", "mow"):
        write_split(
            tmp_path / city, [2, 3], corners=[NAIROBI, MOSCOW], epsg=[32737, 32637], layout="2025"
        )
    boxes = box_of("nbo", NAIROBI_BOX) + box_of("mow", "[37.0, 55.0, 38.0, 56.0]")
    report = built(tmp_path, href='"{city}/validation.h5"', cities=boxes)
    labels = read_labels(open_catalog(report.path), ["so2sat"])
    assert list(labels["patch_id"]) == [
        "so2sat/mow/validation/000001",
        "so2sat/nbo/validation/000000",
    ]
    assert list(labels["city"]) == ["mow", "nbo"]


def test_a_city_that_so2sat_does_not_have_is_believed_where_the_file_names_it(
    tmp_path: Path,
) -> None:
    write_split(tmp_path, [2], corners=[(500_000, 5_000_000)], epsg=32640, cities="newtown")
    assert list(table_of(tmp_path)["city"]) == ["newtown"]


def test_patches_of_no_city_are_refused_unless_the_toml_file_has_one_there(tmp_path: Path) -> None:
    write_split(tmp_path, [2], corners=[(500_000, 8_000_000)], epsg=32740, layout="2025")
    with pytest.raises(SourceError, match=r"32740 puts 1 patches .* -18.1, 57.0\), and not"):
        register(tmp_path)
    table = table_of(tmp_path, cities={"ocean": (56.9, -18.2, 57.1, -18.0)})
    assert list(table["city"]) == ["ocean"]


@pytest.mark.parametrize("layout", ["2025", "2026"])
def test_patches_that_a_wrong_zone_puts_elsewhere_are_left_out_and_counted(
    tmp_path: Path, layout: str
) -> None:
    """Orangi Town lies in Karachi, 42N; in New York's 18N its patches are in the Bahamas."""
    corners = [*row_of(KARACHI, 3), NAIROBI]
    epsg = [32618] * 3 + [32737]
    names = ["orangitown"] * 3 + ["nairobi"]
    write_split(tmp_path, [2, 3, 4, 5], corners=corners, epsg=epsg, layout=layout, cities=names)
    report = built(tmp_path)
    (failure,) = report.failures
    assert "EPSG:32618 puts 3 patches into no city" in failure.reason
    assert "latitude, longitude 25.0, -77.0" in failure.reason
    assert "EPSG:32642 would put 3 of them into orangitown" in failure.reason
    assert [item.id for item in open_catalog(report.path).items("so2sat")] == ["so2sat_nairobi"]


def test_a_wrong_zone_is_put_right_when_asked_and_said(tmp_path: Path) -> None:
    write_split(tmp_path, [2, 3], corners=row_of(KARACHI, 2), epsg=32618, cities="orangitown")
    (made,) = register(tmp_path, fix_epsg=True)
    assert made.item.id == "so2sat_orangitown"
    assert made.item.properties["proj:code"] == "EPSG:32642"
    assert "2 patches are read in EPSG:32642 against" in made.item.properties["lczcube:note"]
    assert made.table is not None
    assert made.table.frame.geometry[0].bounds[0] == KARACHI[0]


@pytest.mark.parametrize("epsg", [0, -1, 4326, 32637, 32799, 2_000_000_000])
def test_a_code_that_is_no_zone_of_the_city_is_a_wrong_zone(tmp_path: Path, epsg: int) -> None:
    write_split(tmp_path, [2], epsg=epsg)
    with pytest.raises(SourceError, match=r"EPSG:32737 would put 1 of them into nairobi"):
        register(tmp_path)
    assert table_of(tmp_path, fix_epsg=True).crs == "EPSG:32737"


def test_no_zone_is_guessed_where_several_fit_or_none(tmp_path: Path) -> None:
    """Berlin's numbers in 33N are those of a place near Melbourne in 55S."""
    write_split(tmp_path, [2], corners=[(390_000, 5_820_000)], epsg=32618, layout="2025")
    with pytest.raises(SourceError, match=r"not exactly one UTM zone"):
        register(tmp_path, fix_epsg=True)
    write_split(tmp_path, [2], corners=[(390_000, 5_820_000)], epsg=32618, cities="berlin")
    assert table_of(tmp_path, fix_epsg=True).crs == "EPSG:32633"


def test_other_cities_wrong_zones_are_not_this_citys_concern(tmp_path: Path) -> None:
    corners = [KARACHI, NAIROBI]
    write_split(
        tmp_path, [2, 5], corners=corners, epsg=[32618, 32737], cities=["orangitown", "nairobi"]
    )
    report = built(tmp_path, cities=box_of("nbo", NAIROBI_BOX))
    assert (report.failures, report.n_items) == ((), 1)
    both = box_of("nbo", NAIROBI_BOX) + box_of("karachi", "[66.9, 24.8, 67.2, 25.1]")
    (failure,) = built(tmp_path, cities=both).failures
    assert "set fix_epsg = true" in failure.reason


def test_a_wrong_zone_is_missed_by_the_city_it_would_fit_whatever_else_fits(tmp_path: Path) -> None:
    """Numbers that fit Berlin and, in a later zone, Melbourne."""
    corners = [(390_000, 5_820_000), (300_000, 5_813_000)]
    write_split(tmp_path, [2, 3], corners=corners, epsg=[32618, 32755], layout="2025")
    report = built(tmp_path, cities=box_of("melbourne", "[144.4, -38.3, 146.0, -37.4]"))
    (failure,) = report.failures
    assert "EPSG:32618 puts 1 patches into no city" in failure.reason
    assert report.n_items == 1


def test_a_patch_is_not_of_a_city_that_its_file_does_not_name(tmp_path: Path) -> None:
    """Moscow's name on a patch in Nairobi: one of the two is wrong."""
    write_split(tmp_path, [2], cities="moscow")
    with pytest.raises(SourceError, match="into no city"):
        register(tmp_path)
    with pytest.raises(SourceError, match="no patch lies in nbo"):
        register(tmp_path, cities={"nbo": (36.6, -1.5, 37.1, -1.1)})


def test_every_city_lies_in_the_zone_its_authors_used_or_beside_it() -> None:
    assert len(CITIES) == 52
    assert len(HELD_OUT) == 10
    for city in CITIES.values():
        (west, south, east, north), zone = city.bbox, city.epsg % 100
        assert (city.epsg // 100 == 326) == (south > 0) == (north > 0)
        assert abs((west + east) / 2 - (zone * 6 - 183)) < 3.5, city.name
    # The list of the publisher's script says 32618, in which Karachi's patches are in the Bahamas.
    assert CITIES["orangitown"].epsg == 32642
    assert utm_epsg(36.82, -1.29) == CITIES["nairobi"].epsg


def test_cities_whose_names_no_id_can_hold_are_numbered(tmp_path: Path) -> None:
    names = np.array(["北京".encode(), "上海".encode(), b"san juan"])
    corners = [(500_000, 5_000_000), (510_000, 5_000_000), (520_000, 5_000_000)]
    write_geo(tmp_path / "testing_geo.h5", corners, 32640, changed={"city": names})
    items = open_catalog(built(tmp_path).path).items("so2sat")
    assert sorted(item.id for item in items) == [
        "so2sat_city_unlabelled",
        "so2sat_city_unlabelled-2",
        "so2sat_san-juan_unlabelled",
    ]


# Groups


def test_patches_that_overlap_are_one_group_and_a_split_never_cuts_it(tmp_path: Path) -> None:
    x, y = NAIROBI
    chain = [(x, y), (x + 300, y), (x + 600, y + 300), (x + 2000, y), (x + 2320, y)]
    write_split(tmp_path, [2, 3, 2, 3, 3], corners=chain)
    table = table_of(tmp_path)
    assert list(table["group"]) == [
        *["so2sat/validation/000000"] * 3,
        *["so2sat/validation/000003"] * 2,
    ]


def test_groups_reach_across_splits_and_past_a_bbox(tmp_path: Path) -> None:
    """The patch between the two lies outside of the bbox, and still joins them."""
    x, y = NAIROBI
    write_split(tmp_path, [2], "testing", corners=[(x, y)])
    write_split(tmp_path, [2, 3], "validation", corners=[(x + 200, y + 250), (x + 400, y)])
    to_lonlat = Transformer.from_crs(32737, 4326, always_xy=True)
    west, south = to_lonlat.transform(x + 100, y - 300)
    east, north = to_lonlat.transform(x + 700, y - 100)
    table = table_of(tmp_path, cities={"nbo": (west, south, east, north)})
    assert list(table["patch_id"]) == ["so2sat/testing/000000", "so2sat/validation/000001"]
    assert set(table["group"]) == {"so2sat/testing/000000"}


@given(
    st.integers(1, 12).flatmap(
        lambda n: st.tuples(
            st.just(n),
            st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=20),
        )
    )
)
def test_connected_components_are_those_of_a_plain_search(
    graph: tuple[int, list[tuple[int, int]]],
) -> None:
    n, edges = graph
    expected = list(range(n))
    for _ in range(n):
        for a, b in edges:
            expected[a] = expected[b] = min(expected[a], expected[b])
    first, second = (np.array([edge[k] for edge in edges], dtype=np.intp) for k in (0, 1))
    assert connected(n, first, second).tolist() == expected


def test_squares_that_share_an_edge_touch_and_those_a_metre_apart_do_not() -> None:
    x0 = np.array([0.1, 320.1, 641.1, 961.1, 961.1])
    y0 = np.array([0.2, 0.2, 0.2, 320.2, 641.2])
    assert overlap_groups(x0, y0, 320).tolist() == [0, 0, 2, 2, 4]


def test_patches_on_the_same_ground_are_counted_with_their_labels(tmp_path: Path) -> None:
    corners = [NAIROBI, NAIROBI, NAIROBI, row_of(NAIROBI, 2)[1]]
    write_split(tmp_path, [2, 2, 3, 4], corners=corners, layout="2025")
    (made,) = register(tmp_path)
    note = "2 patches lie exactly on another, 1 of them with another label"
    assert made.item.properties["lczcube:note"] == note


# Patches without labels


def unlabelled(folder: Path) -> CatalogReport:
    write_geo(folder / "validation_geo.h5", row_of(NAIROBI, 3))
    return built(folder)


def test_geolocation_alone_gives_patches_that_are_no_labels(tmp_path: Path) -> None:
    report = unlabelled(tmp_path)
    assert report.failures == ()
    (item,) = open_catalog(report.path).items("so2sat")
    assert item.id == "so2sat_nairobi_unlabelled"
    assert set(item.assets) == {"validation_geo", "patches"}
    assert not any(key.startswith("label:") for key in item.properties)
    table = gpd.read_parquet(item.assets["patches"].href)
    assert list(table.columns) == [name for name in COLUMNS if name not in ("lcz", "admissible")]
    described = item.assets["patches"].extra_fields["table:columns"]
    assert [column["name"] for column in described] == list(table.columns)
    assert table["patch_id"][0] == "so2sat/validation/000000"


def test_patches_without_labels_are_refused_as_labels(tmp_path: Path) -> None:
    catalog = open_catalog(unlabelled(tmp_path).path)
    with pytest.raises(LabelError, match=r"'so2sat' holds patches without labels \(1 tables, such"):
        read_labels(catalog, ["so2sat"])


def test_labels_are_read_beside_patches_without(tmp_path: Path) -> None:
    write_split(tmp_path, [2], "validation")
    write_geo(tmp_path / "testing_geo.h5", row_of(NAIROBI, 3))
    catalog = open_catalog(built(tmp_path).path)
    assert len(catalog.items("so2sat")) == 2
    labels = read_labels(catalog, ["so2sat"])
    assert list(labels["patch_id"]) == ["so2sat/validation/000000"]


# The catalog


def test_a_collection_says_whom_to_cite(tmp_path: Path) -> None:
    write_split(tmp_path, [2])
    report = built(tmp_path)
    said = json.loads((report.path / "so2sat" / "collection.json").read_text())
    assert said["license"] == "CC-BY-4.0"
    assert said["sci:publications"][0]["doi"] == "10.1109/MGRS.2020.2964708"
    assert said["lczcube:layer"] == "labels"
    assert list(read_labels(open_catalog(report.path), ["so2sat"])["license"]) == ["CC-BY-4.0"]


def test_made_up_patches_are_not_said_to_be_so2sats(tmp_path: Path) -> None:
    write_split(tmp_path, [2])
    report = built(tmp_path, "synthetic = true")
    said = json.loads((report.path / "so2sat" / "collection.json").read_text())
    assert "sci:publications" not in said
    assert list(read_labels(open_catalog(report.path), ["so2sat"])["license"]) == [""]


def test_building_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    write_split(tmp_path, [2, 3, 3], corners=row_of(NAIROBI, 3, 200))
    report = built(tmp_path)
    paths = sorted(path for path in report.path.rglob("*") if path.is_file())
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in paths]
    built(tmp_path)
    assert [(path.read_bytes(), path.stat().st_mtime_ns) for path in paths] == before


@with_schemas
def test_items_are_valid_against_what_they_declare(tmp_path: Path) -> None:
    write_split(tmp_path, [2, 3], "validation")
    write_geo(tmp_path / "testing_geo.h5", row_of(NAIROBI, 3))
    report = built(tmp_path)
    paths = list(report.path.glob("so2sat/items/*.json"))
    assert len(paths) == 2
    for path in [*paths, report.path / "so2sat" / "collection.json"]:
        values = json.loads(path.read_text())
        kind = {"Feature": "item"}.get(values["type"], values["type"].lower())
        validate(values, {"$ref": f"{CORE}/{kind}-spec/json-schema/{kind}.json"})
        assert LCZCUBE_URI in values["stac_extensions"]
        for uri in values["stac_extensions"]:
            validate(values, extension_schema(uri))


def test_unknown_and_wrong_keys_are_refused(tmp_path: Path) -> None:
    for keys in ("origin = 'middle'", "geo = 'here'", "fix_epsg = 1"):
        with pytest.raises(ConfigError):
            built(tmp_path, keys)


# A synthetic So2Sat


@pytest.fixture(scope="module")
def cities() -> list[City]:
    return [draw_city(number, km=3.0, seed=7) for number in (0, 1)]


@pytest.fixture(scope="module", params=["2025", "2026"])
def synthetic(
    cities: list[City], tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Path:
    folder = tmp_path_factory.mktemp("so2sat")
    write_so2sat(folder, cities, seed=7, patches_per_city=40, layout=request.param)
    return folder


def by_the_publishers_recipe(folder: Path, split: str) -> list[tuple[int, float, float, int]]:
    """EPSG, upper-left corner and class of each row, with h5py alone."""
    rows = []
    with h5py.File(folder / f"{split}.h5") as data, h5py.File(folder / f"{split}_geo.h5") as geo:
        for n in range(data["label"].shape[0]):
            numbers = geo["tfw"][n].tolist()
            if "city" in geo:
                a, _, _, _, c, f = numbers
            else:
                c, a, _, f, _, _ = numbers
            assert abs(a) == 10
            rows.append((int(geo["epsg"][n][0]), c, f, int(np.argmax(data["label"][n])) + 1))
    return rows


def test_the_synthetic_files_have_the_publishers_form(synthetic: Path) -> None:
    for split in ("training", "validation", "testing"):
        with h5py.File(synthetic / f"{split}.h5") as file:
            n = file["label"].shape[0]
            assert file["sen1"].shape == (n, 32, 32, 8)
            assert file["sen2"].shape == (n, 32, 32, 10)
            assert {file[name].dtype.str for name in file} == {"<f8"}
            assert file.attrs["SYNTHETIC"] == "true"
            radar = file["sen1"][0]
        np.testing.assert_allclose(radar[..., 4], radar[..., 0] ** 2 + radar[..., 1] ** 2)
        vh, vv = radar[..., 0] + 1j * radar[..., 1], radar[..., 2] + 1j * radar[..., 3]
        np.testing.assert_allclose(radar[..., 6] + 1j * radar[..., 7], vh * vv.conj())
        with h5py.File(synthetic / f"{split}_geo.h5") as file:
            assert file["epsg"].shape == (n, 1)
            assert file["tfw"].shape == (n, 6)
            assert ("city" in file) != ("coord" in file)


def test_synthetic_patches_lie_on_the_zone_their_label_names(
    synthetic: Path, cities: list[City]
) -> None:
    """At least 0.8 of the pixels under a patch are of its class, and none is off the lattice's."""
    by_crs = {city.grid.crs: city.zone_map for city in cities}
    n_off = 0
    for split in ("training", "validation", "testing"):
        for epsg, x0, y0, lcz in by_the_publishers_recipe(synthetic, split):
            truth = by_crs[f"EPSG:{epsg}"]
            west, north = round(x0 / 10), round(y0 / 10)
            under = truth.classes(type(truth.window)(west, north - 32, west + 32, north))
            assert (under == lcz).mean() > 0.75
            n_off += x0 % 10 != 0
    assert n_off > 0


def test_of_a_city_held_out_the_west_validates_and_the_east_tests(
    synthetic: Path, cities: list[City]
) -> None:
    found = {s: by_the_publishers_recipe(synthetic, s) for s in ("training", "validation")}
    tested = by_the_publishers_recipe(synthetic, "testing")
    assert {row[0] for row in found["training"]} == {int(cities[0].grid.crs[5:])}
    assert {row[0] for row in [*found["validation"], *tested]} == {int(cities[1].grid.crs[5:])}
    assert max(row[1] for row in found["validation"]) < min(row[1] for row in tested)


def test_the_source_reads_what_the_recipe_reads(synthetic: Path, cities: list[City]) -> None:
    boxes = {city.name: city.bbox for city in cities}
    tables = [made.table.frame for made in register(synthetic, cities=boxes) if made.table]
    assert [table["city"][0] for table in tables] == sorted(boxes)
    read = {
        row.patch_id: (int(row.crs[5:]), row.x0, row.y0, row.lcz)
        for table in tables
        for row in table.itertuples()
    }
    expected = {
        f"so2sat/{split}/{n:06d}": row
        for split in ("training", "validation", "testing")
        for n, row in enumerate(by_the_publishers_recipe(synthetic, split))
    }
    assert read == expected


def test_a_synthetic_so2sat_of_a_seed_has_the_same_bytes(
    synthetic: Path, cities: list[City], tmp_path: Path
) -> None:
    with h5py.File(synthetic / "testing_geo.h5") as file:
        layout: Any = "2026" if "city" in file else "2025"
    paths = write_so2sat(tmp_path, cities, seed=7, patches_per_city=40, layout=layout)
    assert len(paths) == 6
    for path in paths:
        assert path.read_bytes() == (synthetic / path.name).read_bytes()


def test_synthetic_patches_cover_their_ground_about_six_times() -> None:
    city = draw_city(0, km=6.0, seed=7)
    patches = draw_patches(
        city.zone_map, np.random.default_rng([7, 0, 12]), max_per_site=MAX_PER_SITE
    )
    squares = [shapely.box(p.x0, p.y0 - 320, p.x0 + 320, p.y0) for p in patches]
    times = len(squares) * 320**2 / shapely.union_all(squares).area
    assert times == pytest.approx(5.9, abs=0.1)


def test_patches_without_labels_are_aggregated_in_a_cube(tmp_path: Path) -> None:
    world = write_world(tmp_path / "world", cities=1, km=2.0, seed=7)
    city = draw_city(0, km=2.0, seed=7)
    write_so2sat(tmp_path / "so2sat", [city], seed=7, patches_per_city=12)
    (tmp_path / "so2sat" / "training.h5").unlink()
    toml = world.path / "world.toml"
    toml.write_text(
        toml.read_text() + '\n[[input]]\nname = "so2sat"\nsource = "so2sat"\n'
        'href = "../so2sat"\nsynthetic = true\n'
    )
    catalog = open_catalog(build_catalog(toml, tmp_path / "catalog").path)
    (item,) = catalog.items("so2sat")
    patches = gpd.read_parquet(item.assets["patches"].href)
    grid = city_grid(read_config(toml), catalog, city.name)
    cube = open_cube(catalog, grid, inputs=["alphaearth"], year=2021)
    features = aggregate_patches(cube, patches, stats=("mean",)).compute()
    assert features["features"].shape == (len(patches), 64)
    assert (features["valid_fraction"] > 0.9).all()


# Real geolocation: first layout, no labels


@pytest.fixture(scope="module")
def real(realdata: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, gpd.GeoDataFrame]:
    """Tables of the ten cities by name."""
    report = built(tmp_path_factory.mktemp("real"), href=f'"{realdata / "so2sat"}"')
    assert report.failures == ()
    items = open_catalog(report.path).items("so2sat")
    tables = {item.id: gpd.read_parquet(item.assets["patches"].href) for item in items}
    return {id_.split("_")[1]: table for id_, table in tables.items()}


def test_the_real_patches_are_of_ten_cities_in_ten_zones(
    real: dict[str, gpd.GeoDataFrame],
) -> None:
    assert sorted(real) == sorted(HELD_OUT)
    counts = dict.fromkeys(("validation", "testing"), 0)
    for name, table in real.items():
        assert table.crs == f"EPSG:{CITIES[name].epsg}"
        assert set(table["city"]) == {name}
        for split in counts:
            counts[split] += int((table["split"] == split).sum())
    assert counts == {"validation": 24_119, "testing": 24_188}
    assert len({table.crs.to_epsg() for table in real.values()}) == 10


def test_the_real_patches_are_320_m_wide_and_around_their_centres(
    real: dict[str, gpd.GeoDataFrame], realdata: Path
) -> None:
    """``coord`` holds the centres; the ids say which row of which file a patch is."""
    centres = {}
    for split in ("validation", "testing"):
        with h5py.File(realdata / "so2sat" / f"{split}_geo.h5") as file:
            centres[split] = file["coord"][:, :2]
    for table in real.values():
        bounds = table.geometry.bounds.to_numpy()
        np.testing.assert_allclose(bounds[:, 2:] - bounds[:, :2], 320, atol=1e-6)
        rows = table["patch_id"].str.rsplit("/", n=1).str[-1].astype(int)
        expected = [centres[s][n] for s, n in zip(table["split"], rows, strict=True)]
        np.testing.assert_allclose((bounds[:, 2:] + bounds[:, :2]) / 2, expected, atol=1e-6)


def test_testing_leaks_into_validation_by_the_counts_known(
    real: dict[str, gpd.GeoDataFrame],
) -> None:
    n_near = n_overlapping = 0
    nearest = []
    for table in real.values():
        west = table[table["split"] == "validation"]
        east = table[table["split"] == "testing"]
        report = leakage_report(west, east)
        n_overlapping += round(report.share_touching * report.n_test)
        tree = shapely.STRtree(west.geometry.centroid.to_numpy())
        _, distance = tree.query_nearest(
            east.geometry.centroid.to_numpy(), return_distance=True, all_matches=False
        )
        n_near += int((distance < 320).sum())
        nearest.append(distance.min())
    assert (n_near, n_overlapping) == (1_862, 2_085)
    assert min(nearest) == pytest.approx(100, abs=1e-3)


def test_a_split_by_groups_of_real_patches_does_not_leak(
    real: dict[str, gpd.GeoDataFrame],
) -> None:
    table = real["nairobi"].assign(lcz=np.uint8(2))
    assert table["group"].nunique() == 117
    folds = split_labels(table, method="polygon", folds=5, seed=1).folds
    for fold in range(5):
        report = leakage_report(table[folds != fold], table[folds == fold])
        assert report.share_touching == 0


def test_patches_of_the_same_ground_in_guangzhou_are_noted(realdata: Path, tmp_path: Path) -> None:
    items = register(realdata / "so2sat", city="guangzhou")
    (item,) = (made.item for made in items)
    assert isinstance(item, pystac.Item)
    assert item.properties["lczcube:note"] == "81 patches lie exactly on another"


# Squares rebuilt from longitude and latitude


def lonlat_shapes(squares: gpd.GeoDataFrame, *, boxes: bool) -> gpd.GeoDataFrame:
    """The quadrilaterals that squares are in EPSG:4326, or the boxes around these."""
    turned = squares.to_crs("EPSG:4326")
    return turned.set_geometry(turned.envelope) if boxes else turned


def squares_at(corners: Sequence[tuple[float, float]], crs: str) -> gpd.GeoDataFrame:
    x0, y0 = np.array(corners, dtype=float).T
    shapes = shapely.box(x0, y0 - 320, x0 + 320, y0)
    return gpd.GeoDataFrame({"lcz": np.arange(len(x0)) % 17 + 1}, geometry=shapes, crs=crs)


def rebuild(path: Path, **keys: Any) -> list[SourceItem]:
    entry = PatchesInput.model_validate(
        {"name": "p", "source": "patches", "href": str(path), "rebuild": True, **keys}
    )
    files = find_files(entry, folder=Path("/"), cities={})
    return [made for file in files for made in build_items(entry, file)]


def rebuilt_bounds(made: SourceItem) -> np.ndarray[Any, Any]:
    assert made.table is not None
    bounds: np.ndarray[Any, Any] = made.table.frame.geometry.bounds.to_numpy()
    return bounds


@pytest.mark.parametrize("boxes", [True, False])
@pytest.mark.parametrize(
    ("corner", "crs"),
    [(NAIROBI, "EPSG:32737"), (MOSCOW, "EPSG:32637"), ((205_000.3, 2_470_000.7), "EPSG:32650")],
)
def test_squares_are_rebuilt_where_they_were(
    tmp_path: Path, corner: tuple[float, float], crs: str, boxes: bool
) -> None:
    """The third lies in Hong Kong, west of 114 E, which its authors count to zone 50."""
    squares = squares_at(row_of(corner, 5, 137.3), crs)
    lonlat_shapes(squares, boxes=boxes).to_file(tmp_path / "a.gpkg")
    (made,) = rebuild(tmp_path / "a.gpkg")
    assert made.item.properties["proj:code"] == crs
    np.testing.assert_allclose(rebuilt_bounds(made), squares.geometry.bounds.to_numpy(), atol=1e-3)
    assert made.table is not None
    assert list(made.table.frame["lcz"]) == [1, 2, 3, 4, 5]
    assert made.item.properties["lczcube:note"].endswith("differ by up to 0.00 m")


def test_rebuilt_patches_of_several_zones_are_an_item_each(tmp_path: Path) -> None:
    parts = [squares_at([NAIROBI], "EPSG:32737"), squares_at([MOSCOW], "EPSG:32637")]
    joined = gpd.GeoDataFrame(pd.concat([lonlat_shapes(part, boxes=True) for part in parts]))
    joined.to_file(tmp_path / "a.gpkg")
    moscow, nairobi = rebuild(tmp_path / "a.gpkg")
    assert [moscow.item.id, nairobi.item.id] == ["p_a_32637", "p_a_32737"]
    assert nairobi.table is not None
    assert list(nairobi.table.frame["patch_id"]) == ["p/a_32737/000000"]
    assert rebuilt_bounds(nairobi)[0][0] == pytest.approx(NAIROBI[0], abs=1e-3)


def test_a_neighbouring_zone_can_be_named_for_rebuilt_squares(tmp_path: Path) -> None:
    """Prague, 14.4 E, lies in 33N; here its squares were cut in 32N."""
    squares = squares_at([(884_000.5, 5_555_000.5)], "EPSG:32632")
    lonlat_shapes(squares, boxes=True).to_file(tmp_path / "a.gpkg")
    (made,) = rebuild(tmp_path / "a.gpkg", crs="EPSG:32632")
    np.testing.assert_allclose(rebuilt_bounds(made), squares.geometry.bounds.to_numpy(), atol=1e-3)
    (other,) = rebuild(tmp_path / "a.gpkg")
    assert other.item.properties["proj:code"] == "EPSG:32633"
    assert "differ by up to 0.00 m" not in other.item.properties["lczcube:note"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"size_m": 100.0}, r"2 of 2 geometries are no squares of 100 m in EPSG:32737"),
        ({"crs": "EPSG:4326"}, r"crs = 'EPSG:4326' is not projected"),
        ({"crs": "EPSG:999999"}, r"crs = 'EPSG:999999' is unknown to PROJ"),
        ({"crs": "EPSG:32610"}, r"is of -126 to -120 degrees east, and the squares"),
        ({"class_column": "class"}, r"no column 'class'"),
    ],
)
def test_shapes_that_no_square_explains_are_refused(
    tmp_path: Path, keys: dict[str, Any], message: str
) -> None:
    squares = squares_at(row_of(NAIROBI, 2), "EPSG:32737")
    lonlat_shapes(squares, boxes=True).to_file(tmp_path / "a.gpkg")
    with pytest.raises(SourceError, match=message):
        rebuild(tmp_path / "a.gpkg", **keys)


def test_points_and_shapes_in_metres_are_not_rebuilt(tmp_path: Path) -> None:
    squares = squares_at(row_of(NAIROBI, 2), "EPSG:32737")
    squares.to_file(tmp_path / "metres.gpkg")
    with pytest.raises(SourceError, match=r"is in EPSG:32737, and rebuild = true is for"):
        rebuild(tmp_path / "metres.gpkg")
    points = squares.set_geometry(squares.geometry.centroid).to_crs("EPSG:4326")
    points.to_file(tmp_path / "points.gpkg")
    with pytest.raises(SourceError, match=r"2 rows are no polygons, the first is row 0"):
        rebuild(tmp_path / "points.gpkg")


def test_a_crs_without_rebuild_is_refused() -> None:
    with pytest.raises(ValueError, match="crs without rebuild = true"):
        PatchesInput.model_validate(
            {"name": "p", "source": "patches", "href": "a.gpkg", "crs": "EPSG:32632"}
        )


def test_real_patches_survive_the_way_through_longitude_and_latitude(
    real: dict[str, gpd.GeoDataFrame], tmp_path: Path
) -> None:
    """Boxes of 1 % of the real patches, as others publish them, with 7 decimals of a degree."""
    some = {name: table[::100].assign(lcz=np.uint8(2)) for name, table in real.items()}
    joined = pd.concat([lonlat_shapes(table, boxes=True) for table in some.values()])
    boxes = gpd.GeoDataFrame(joined, crs="EPSG:4326")
    boxes.geometry = shapely.box(*np.round(boxes.geometry.bounds.to_numpy(), 7).T)
    boxes[["lcz", "patch_id", "geometry"]].to_file(tmp_path / "a.gpkg")
    made = rebuild(tmp_path / "a.gpkg", id_column="patch_id")
    assert len(made) == 10
    tables = [source.table.frame for source in made if source.table]
    places = {
        row.patch_id.split("/", 2)[2]: (row.crs, row.x0, row.y0)
        for table in tables
        for row in table.itertuples()
    }
    assert len(places) == sum(map(len, some.values()))
    for table in some.values():
        for row in table.itertuples():
            crs, x0, y0 = places[row.patch_id]
            assert crs == row.crs
            assert (x0, y0) == pytest.approx((row.x0, row.y0), abs=0.02)
