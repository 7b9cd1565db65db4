"""Building again, building in parallel, moving, and staying inside the folder."""

import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from affine import Affine
from shapely import box

import lczcube.sources
from lczcube.catalog import build_catalog, catalog_digest, open_catalog
from lczcube.errors import CatalogError, SourceError
from lczcube.sources import SourceItem
from lczcube.sources.footprints import box_footprint
from lczcube.sources.items import new_item
from tests.test_catalog import contents, written_at
from tests.test_tessera import write_store
from tests.test_validity import write_alphaearth, write_tessera

TILES = """
id = "tiles"

[[input]]
name = "tiles"
source = "raster"
href = "tiles/*.tif"
year = 2020
"""
AREAS = """
[[input]]
name = "areas"
source = "polygons"
href = "areas.gpkg"
class_column = "lcz"
"""


def write_tile(path: Path, column: int = 0, nodata: int = -128) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="GTiff", width=4, height=4, count=2, dtype="int8", crs="EPSG:32632",
        transform=Affine(10, 0, 500_000 + 40 * column, 0, -10, 5_000_000), nodata=nodata,
    ) as raster:  # fmt: skip
        raster.write(np.arange(32, dtype="int8").reshape(2, 4, 4))
    return path


def write_areas(path: Path, lcz: int = 2) -> None:
    squares = [box(500_000, 4_999_960, 500_040, 5_000_000)]
    gpd.GeoDataFrame({"lcz": [lcz]}, geometry=squares, crs="EPSG:32632").to_file(path)


def write_toml(folder: Path, text: str = TILES + AREAS) -> Path:
    (folder / "tiles.toml").write_text(text)
    return folder / "tiles.toml"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Five tiles and one file of labels, and the TOML file that names them."""
    for column in range(5):
        write_tile(tmp_path / "tiles" / f"t{column}.tif", column)
    write_areas(tmp_path / "areas.gpkg")
    write_toml(tmp_path)
    return tmp_path


@pytest.fixture
def toml(place: Path) -> Path:
    return place / "tiles.toml"


@pytest.fixture
def out(place: Path, toml: Path) -> Path:
    return build_catalog(toml, place / "catalog").path


def spoil(path: Path) -> None:
    """Other bytes, of the same number and date: whoever opens the file finds that it is broken."""
    stat = path.stat()
    path.write_bytes(bytes(stat.st_size))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def fresh(toml: Path, out: Path) -> dict[str, bytes]:
    """What a first build beside ``out`` publishes."""
    return contents(build_catalog(toml, out.with_name("fresh")).path)


# Building again


def test_a_second_build_opens_no_file(toml: Path, out: Path) -> None:
    before, times = contents(out), written_at(out)
    for path in [*toml.parent.glob("tiles/*"), toml.parent / "areas.gpkg"]:
        spoil(path)
    report = build_catalog(toml, out)
    assert (report.n_read, report.n_items, report.failures) == (0, 6, ())
    assert contents(out) == before
    assert written_at(out) == times


def test_a_second_build_of_embeddings_opens_no_tile(tmp_path: Path) -> None:
    write_tessera(tmp_path / "tessera")
    write_alphaearth(tmp_path / "aef" / "2020" / "32N" / "abc-0000000000-0000000000.tiff")
    write_store(tmp_path / "zarr" / "v1")
    inputs = (("tiles", "tessera", "tessera"), ("aef", "alphaearth", "aef"))
    inputs += (("zones", "tessera", "zarr"),)
    tables = [
        f'[[input]]\nname = "{name}"\nsource = "{source}"\nhref = "{href}"\n'
        for name, source, href in inputs
    ]
    toml = write_toml(tmp_path, "\n".join(['id = "embeddings"', *tables]))
    out = tmp_path / "catalog"
    assert build_catalog(toml, out, strict=True).n_read == 3
    before = contents(out)
    data = [path for path in tmp_path.rglob("*") if path.suffix in (".npy", ".tiff")]
    for path in data:
        spoil(path)
    assert len(data) == 4
    report = build_catalog(toml, out)
    assert (report.n_read, report.n_items, report.failures) == (0, 4, ())
    assert contents(out) == before
    (tmp_path / "zarr" / "v1" / "utm31" / "time" / "c" / "0").unlink()
    assert build_catalog(toml, out).n_read == 1


def test_of_three_hundred_tiles_only_the_one_that_changed_is_opened(tmp_path: Path) -> None:
    first = write_tile(tmp_path / "tiles" / "t000.tif")
    for n in range(1, 300):
        shutil.copy(first, first.with_name(f"t{n:03d}.tif"))
    toml = write_toml(tmp_path, TILES)
    assert build_catalog(toml, tmp_path / "catalog").n_read == 300
    changed = write_tile(tmp_path / "tiles" / "t123.tif", column=7, nodata=-1)
    for path in set(tmp_path.glob("tiles/*")) - {changed}:
        spoil(path)
    report = build_catalog(toml, tmp_path / "catalog")
    assert (report.n_read, report.n_items, report.failures) == (1, 300, ())
    bands = {
        item.id: item.assets["data"].extra_fields["bands"][0]["nodata"]
        for item in open_catalog(report.path).items("tiles")
    }
    assert [item_id for item_id, nodata in bands.items() if nodata == -1] == ["tiles_2020_t123"]


def test_a_tile_that_changed_gives_the_bytes_of_a_first_build(toml: Path, out: Path) -> None:
    write_tile(toml.parent / "tiles" / "t2.tif", column=9)
    assert build_catalog(toml, out).n_read == 1
    assert contents(out) == fresh(toml, out)


def test_tiles_that_came_and_went_give_the_bytes_of_a_first_build(toml: Path, out: Path) -> None:
    (toml.parent / "tiles" / "t0.tif").unlink()
    write_tile(toml.parent / "tiles" / "t00.tif", column=20)
    report = build_catalog(toml, out)
    assert (report.n_read, report.n_items) == (1, 6)
    assert contents(out) == fresh(toml, out)


def test_labels_that_changed_are_read_and_those_that_were_touched_give_the_same_bytes(
    toml: Path, out: Path
) -> None:
    before, labels = contents(out), toml.parent / "areas.gpkg"
    os.utime(labels, ns=(1, 1))
    assert build_catalog(toml, out).n_read == 1
    assert contents(out) == before
    labels.unlink()
    write_areas(labels, lcz=17)
    assert build_catalog(toml, out).n_read == 1
    (item,) = open_catalog(out).items("areas")
    assert list(gpd.read_parquet(item.assets["labels"].href)["lcz"]) == [17]


def test_a_file_beside_a_tile_that_gdal_reads_with_it_is_noticed(toml: Path, out: Path) -> None:
    (toml.parent / "tiles" / "t3.tif.aux.xml").write_text(
        "<PAMDataset><PAMRasterBand band='1'><Description>red</Description></PAMRasterBand>"
        "<PAMRasterBand band='2'><Description>nir</Description></PAMRasterBand></PAMDataset>"
    )
    assert build_catalog(toml, out).n_read == 1
    assert contents(out) == fresh(toml, out)
    item = next(i for i in open_catalog(out).items("tiles") if i.id == "tiles_2020_t3")
    assert [b["name"] for b in item.assets["data"].extra_fields["bands"]] == ["red", "nir"]


def test_labels_drawn_from_a_vrt_are_read_again_when_its_raster_changes(tmp_path: Path) -> None:
    def write_codes(code: int) -> None:
        with rasterio.open(
            tmp_path / "codes.tif", "w", driver="GTiff", width=2, height=2, count=1, dtype="uint8",
            crs="EPSG:32632", transform=Affine(10, 0, 500_000, 0, -10, 5_000_000),
        ) as raster:  # fmt: skip
            raster.write(np.full((1, 2, 2), code, "uint8"))

    write_codes(3)
    (tmp_path / "view.vrt").write_text(
        '<VRTDataset rasterXSize="2" rasterYSize="2"><SRS>EPSG:32632</SRS>'
        "<GeoTransform>500000,10,0,5000000,0,-10</GeoTransform>"
        '<VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        '<SourceFilename relativeToVRT="1">codes.tif</SourceFilename>'
        "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    toml = write_toml(
        tmp_path, 'id = "v"\n[[input]]\nname = "v"\nsource = "label_raster"\nhref = "view.vrt"\n'
    )
    build_catalog(toml, tmp_path / "catalog")
    assert build_catalog(toml, tmp_path / "catalog").n_read == 0
    write_codes(12)
    assert build_catalog(toml, tmp_path / "catalog").n_read == 1
    (item,) = open_catalog(tmp_path / "catalog").items("v")
    assert list(gpd.read_parquet(item.assets["labels"].href)["lcz"]) == [12]


def test_what_was_lost_or_changed_in_the_catalog_is_put_right(toml: Path, out: Path) -> None:
    before = contents(out)
    (out / "tiles" / "items" / "tiles_2020_t1.json").unlink()
    (out / "tiles" / "collection.json").write_text("{}")
    (out / "tiles.parquet").write_bytes(b"")
    assert build_catalog(toml, out).n_read == 0
    assert contents(out) == before
    (out / "areas" / "areas_areas.parquet").unlink()
    assert build_catalog(toml, out).n_read == 1
    assert contents(out) == before


def test_a_file_that_failed_is_tried_again(toml: Path, out: Path) -> None:
    tile = toml.parent / "tiles" / "t4.tif"
    good = tile.read_bytes()
    tile.write_bytes(b"II*\0")
    for _ in range(2):
        report = build_catalog(toml, out)
        assert (report.n_read, report.n_items, len(report.failures)) == (1, 5, 1)
    tile.write_bytes(good)
    report = build_catalog(toml, out)
    assert (report.n_read, report.n_items, report.failures) == (1, 6, ())


def test_only_the_input_whose_keys_changed_is_read_again(toml: Path, out: Path) -> None:
    write_toml(toml.parent, TILES + AREAS + "drop_classes = [18]\n")
    assert build_catalog(toml, out).n_read == 1


def test_another_title_of_the_catalog_opens_no_file(toml: Path, out: Path) -> None:
    write_toml(toml.parent, TILES.replace('"tiles"\n', '"tiles"\ntitle = "Tiles"\n', 1) + AREAS)
    assert build_catalog(toml, out).n_read == 0
    assert contents(out) == fresh(toml, out)


def test_another_version_reads_everything_again(
    toml: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lczcube.catalog.register.__version__", "99")
    assert build_catalog(toml, out).n_read == 6
    assert build_catalog(toml, out).n_read == 0


def test_overwrite_reads_everything_again_and_gives_the_same_bytes(toml: Path, out: Path) -> None:
    times = written_at(out)
    assert build_catalog(toml, out, overwrite=True).n_read == 6
    assert written_at(out) == times


def test_a_file_that_may_have_changed_while_it_was_read_is_read_again(
    toml: Path, out: Path
) -> None:
    later = toml.stat().st_mtime_ns + 3_600 * 10**9
    os.utime(toml.parent / "tiles" / "t0.tif", ns=(later, later))
    assert [build_catalog(toml, out).n_read for _ in range(2)] == [1, 1]


@pytest.mark.parametrize("at", [None, 0, 4, 100, 0.25, 0.5, 0.75, 0.9, -1])
def test_a_record_that_is_lost_or_damaged_costs_a_full_build_and_no_more(
    toml: Path, out: Path, at: float | None
) -> None:
    before, record = contents(out), out / ".lczcube" / "tiles.parquet"
    content = bytearray(record.read_bytes())
    if at is None:
        record.unlink()
    else:
        content[int(at * len(content)) if isinstance(at, float) else at] ^= 0xFF
        record.write_bytes(content)
    (out / "tiles" / "collection.json").unlink()  # so that the texts of the record are wanted
    report = build_catalog(toml, out)
    assert report.failures == ()
    assert contents(out) == before
    assert build_catalog(toml, out).n_read == 0


def test_a_record_whose_texts_alone_are_damaged_costs_a_full_build(toml: Path, out: Path) -> None:
    import pyarrow.parquet as pq

    before, record = contents(out), out / ".lczcube" / "tiles.parquet"
    row_group = pq.read_metadata(record).row_group(0)
    columns = [row_group.column(n) for n in range(row_group.num_columns)]
    (texts,) = [column for column in columns if column.path_in_schema == "items"]
    content = bytearray(record.read_bytes())
    content[(texts.dictionary_page_offset + texts.data_page_offset) // 2] ^= 0xFF
    record.write_bytes(content)
    assert build_catalog(toml, out).n_read == 0  # nothing wants the texts
    (out / "tiles" / "collection.json").unlink()
    assert build_catalog(toml, out).n_read == 5
    assert contents(out) == before


def test_a_record_cut_short_costs_a_full_build(toml: Path, out: Path) -> None:
    record = out / ".lczcube" / "tiles.parquet"
    record.write_bytes(record.read_bytes()[:200])
    assert build_catalog(toml, out).n_read == 5


def test_no_pixel_is_read(tmp_path: Path) -> None:
    # 40 GB where they are read, which neither memory nor patience holds.
    with rasterio.open(
        tmp_path / "wide.tif", "w", driver="GTiff", width=200_000, height=200_000, count=1,
        dtype="uint8", crs="EPSG:3857", transform=Affine(10, 0, 0, 0, -10, 2_000_000),
        tiled=True, compress="deflate", sparse_ok=True,
    ):  # fmt: skip
        pass
    toml = write_toml(tmp_path, TILES.replace("tiles/*.tif", "wide.tif"))
    assert build_catalog(toml, tmp_path / "catalog").n_items == 1


# In parallel


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_the_bytes_and_the_report_are_those_of_any_number_of_workers(
    toml: Path, out: Path, workers: int
) -> None:
    for n in (1, 3):
        (toml.parent / "tiles" / f"t{n}.tif").write_bytes(b"II*\0")
    report = build_catalog(toml, out.with_name("other"), workers=workers)
    assert [Path(f.path).name for f in report.failures] == ["t1.tif", "t3.tif"]
    build_catalog(toml, out, workers=3, overwrite=True)
    assert contents(report.path) == contents(out)


def test_progress_counts_the_files_of_every_input(toml: Path, place: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    build_catalog(toml, place / "catalog", progress=lambda *step: seen.append(step))
    assert seen == [*(("tiles", n, 5) for n in range(1, 6)), ("areas", 1, 1)]


def test_the_command_shows_a_line_an_input_and_a_row_a_broken_file(toml: Path, place: Path) -> None:
    (place / "tiles" / "t1.tif").write_bytes(b"II*\0")
    command = [sys.executable, "-m", "lczcube.cli", "build-catalog", str(toml), str(place / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == f"5 items in 2 collections: {place / 'out'}\n"
    lines = done.stderr.splitlines()
    assert lines[:2] == ["tiles: 5 files", "areas: 1 files"]
    assert lines[2].startswith(f"left out: {place}/tiles/t1.tif cannot be read")
    assert len(lines) == 3


# Moving


def test_data_and_catalog_can_move_together(toml: Path, out: Path, tmp_path: Path) -> None:
    for name in ("tiles", "areas.gpkg", "catalog"):
        (tmp_path / "moved").mkdir(exist_ok=True)
        (tmp_path / name).rename(tmp_path / "moved" / name)
    moved = (tmp_path / "moved").rename(tmp_path / "deep")
    for href in (moved / "catalog", moved / "catalog" / "catalog.json"):
        catalog = open_catalog(href)
        for item in catalog.search():
            for asset in item.assets.values():
                assert Path(asset.href).is_relative_to(moved)
                assert Path(asset.href).is_file()
        with rasterio.open(catalog.items("tiles")[1].assets["data"].href) as raster:
            assert raster.transform.c == 500_040


def test_hrefs_are_relative_in_json_and_in_geoparquet(out: Path) -> None:
    import pyarrow.parquet as pq

    item = json.loads((out / "areas" / "items" / "areas_areas.json").read_text())
    assert item["assets"]["source"]["href"] == "../../../areas.gpkg"
    assert item["assets"]["labels"]["href"] == "../areas_areas.parquet"
    (row,) = pq.read_table(out / "areas.parquet").to_pylist()
    assert row["assets"]["source"]["href"] == "../areas.gpkg"
    assert row["assets"]["labels"]["href"] == "./areas/areas_areas.parquet"
    collection = json.loads((out / "areas" / "collection.json").read_text())
    assert collection["assets"]["items"]["href"] == "../areas.parquet"


def test_data_in_the_catalogs_own_folder_are_found(tmp_path: Path) -> None:
    write_tile(tmp_path / "out" / "tiles" / "t0.tif")
    toml = write_toml(tmp_path, TILES.replace("tiles/*.tif", "out/tiles/t0.tif"))
    with pytest.raises(CatalogError, match="holds files but no catalog"):
        build_catalog(toml, tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "data")
    write_toml(tmp_path, TILES.replace("tiles/*.tif", "data/tiles/t0.tif"))
    build_catalog(toml, tmp_path / "out")
    (tmp_path / "data").rename(tmp_path / "out" / "tiles" / "data")
    write_toml(tmp_path, TILES.replace("tiles/*.tif", "out/tiles/data/tiles/t0.tif"))
    build_catalog(toml, tmp_path / "out")
    for href in (tmp_path / "out", tmp_path / "out" / "catalog.json"):
        (item,) = open_catalog(href).items("tiles")
        assert Path(item.assets["data"].href) == tmp_path / "out/tiles/data/tiles/t0.tif"


def test_data_on_another_file_system_keep_their_absolute_path(tmp_path: Path) -> None:
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system at /dev/shm")
    tile = write_tile(shared / f"lczcube-test-{os.getpid()}" / "t0.tif")
    try:
        toml = write_toml(tmp_path, TILES.replace("tiles/*.tif", tile.as_posix()))
        out = build_catalog(toml, tmp_path / "catalog").path
        item = json.loads((out / "tiles" / "items" / "tiles_2020_t0.json").read_text())
        assert item["assets"]["data"]["href"] == tile.as_posix()
    finally:
        shutil.rmtree(tile.parent)


def test_a_catalog_behind_a_link_finds_its_data_by_either_path(place: Path, toml: Path) -> None:
    (place / "a" / "b" / "c").mkdir(parents=True)
    (place / "link").symlink_to(place / "a" / "b" / "c")
    build_catalog(toml, place / "link" / "catalog")
    for folder in (place / "link", place / "a" / "b" / "c"):
        for item in open_catalog(folder / "catalog").search():
            assert all(Path(asset.href).is_file() for asset in item.assets.values())


# Staying inside


@pytest.mark.parametrize("inside", ["tiles", "tiles/items", ".lczcube"])
def test_a_folder_that_is_a_link_to_elsewhere_is_refused(
    toml: Path, out: Path, tmp_path: Path, inside: str
) -> None:
    shutil.rmtree(out / inside)
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "mine.json").write_text("{}")
    (out / inside).symlink_to(victim)
    with pytest.raises(CatalogError, match=r"is a link to .*victim; a build writes inside"):
        build_catalog(toml, out)
    assert [path.name for path in victim.iterdir()] == ["mine.json"]


def test_a_record_of_somebody_else_cannot_name_a_file_outside(toml: Path, out: Path) -> None:
    import hashlib

    import pyarrow as pa
    import pyarrow.parquet as pq

    record = out / ".lczcube" / "tiles.parquet"
    table = pq.read_table(record)
    texts = [t.replace("tiles_2020_t1", "../../../victim") for t in table["items"].to_pylist()]
    sums = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
    for name, values in (("items", texts), ("items_sha256", sums)):
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    pq.write_table(table, record)
    (out / "tiles" / "collection.json").unlink()
    with pytest.raises(CatalogError, match="leads out of the catalog"):
        build_catalog(toml, out)
    assert not list(toml.parent.rglob("victim*"))


def fake_source(item_id: Any) -> types.ModuleType:
    """A source whose items have the ids that a function of the file gives."""
    module = types.ModuleType("fake")

    def build_items(_: Any, file: Any) -> list[SourceItem]:
        whole = box_footprint((0, 0, 1, 1))
        made = new_item(item_id(file), whole, year=2020, properties={}, extensions=[])
        return [SourceItem(made)]

    vars(module)["build_items"] = build_items
    return module


@pytest.mark.parametrize("bad", ["../../victim", "/victim", "..", "a/b", "", ".hidden", "a\\b"])
def test_an_item_whose_id_is_no_file_name_is_one_row_of_the_report(
    toml: Path, out: Path, monkeypatch: pytest.MonkeyPatch, bad: str
) -> None:
    fake = fake_source(lambda file: bad if file.href.endswith("t1.tif") else file.item_id)
    monkeypatch.setitem(lczcube.sources._MODULES, "raster", fake)  # type: ignore[index]
    report = build_catalog(toml, out.with_name("other"))
    (failure,) = report.failures
    assert Path(failure.path).name == "t1.tif"
    assert f"the id {bad!r}, which cannot be a file name" in failure.reason
    assert report.n_items == 5


def test_an_id_that_an_earlier_file_has_is_one_row_of_the_report(
    toml: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = fake_source(lambda file: "Same" if file.href.endswith("t1.tif") else file.href[-6:-4])
    twice = fake_source(lambda file: "same" if file.href.endswith("t3.tif") else file.href[-6:-4])

    def build_items(entry: Any, file: Any) -> list[SourceItem]:
        module = twice if file.href.endswith("t3.tif") else fake
        items: list[SourceItem] = module.build_items(entry, file)
        return items

    both = types.ModuleType("both")
    vars(both)["build_items"] = build_items
    monkeypatch.setitem(lczcube.sources._MODULES, "raster", both)  # type: ignore[index]
    report = build_catalog(toml, out.with_name("other"))
    (failure,) = report.failures
    assert Path(failure.path).name == "t3.tif"
    assert "the id 'same', as" in failure.reason
    with pytest.raises(SourceError, match="an id names one item"):
        build_catalog(toml, out.with_name("other"), strict=True)


def test_a_licence_that_is_no_spdx_id_is_refused(toml: Path, place: Path) -> None:
    from lczcube.errors import ConfigError

    write_toml(place, TILES + 'license = "CC BY 4.0"\n')
    with pytest.raises(ConfigError, match=r"license = 'CC BY 4\.0'"):
        build_catalog(toml, place / "catalog")


def test_the_report_prints_a_row_for_every_file_that_was_left_out(toml: Path, place: Path) -> None:
    (place / "tiles" / "t1.tif").write_bytes(b"II*\0")
    lines = str(build_catalog(toml, place / "catalog")).splitlines()
    assert lines[0] == f"5 items in 2 collections: {place / 'catalog'}"
    assert lines[1].startswith(f"left out: {place.as_posix()}/tiles/t1.tif cannot be read")
    assert len(lines) == 2


# The digest


def test_the_digest_is_that_of_the_published_bytes(toml: Path, out: Path) -> None:
    before = catalog_digest(out)
    build_catalog(toml, out, overwrite=True)
    assert catalog_digest(out) == before
    write_tile(toml.parent / "tiles" / "t2.tif", column=9)
    build_catalog(toml, out)
    assert catalog_digest(out) != before


def test_a_tile_without_a_checksum_is_known_by_its_date_and_one_with_by_its_bytes(
    toml: Path, out: Path, place: Path
) -> None:
    tile = place / "tiles" / "t2.tif"

    def digest_when_touched(second: int) -> str:
        os.utime(tile, ns=(second * 10**9, second * 10**9))
        build_catalog(toml, out)
        return catalog_digest(out)

    assert digest_when_touched(1) != digest_when_touched(2)
    write_toml(place, TILES + "checksums = true\n" + AREAS)
    known = digest_when_touched(3)
    assert digest_when_touched(4) == known
    tile.write_bytes(tile.read_bytes()[:-1] + b"\x7f")
    assert digest_when_touched(5) != known


def test_touched_labels_leave_the_digest_as_it_is(toml: Path, out: Path) -> None:
    before = catalog_digest(out)
    os.utime(toml.parent / "areas.gpkg", ns=(1, 1))
    build_catalog(toml, out)
    assert catalog_digest(out) == before
