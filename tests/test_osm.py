"""OpenStreetMap as a source: states at a date, features of a file, items and their tables."""

import json
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import osmium
import pyarrow.parquet as pq
import pystac
import pytest
import shapely
from osmium.osm import mutable

from lczcube.catalog import CatalogReport, build_catalog, open_catalog
from lczcube.config import read_config
from lczcube.errors import ConfigError, LczcubeError, MissingInputError, SourceError
from lczcube.grid import project_bbox
from lczcube.sources import SourceItem, build_items, find_files
from lczcube.sources.osm import OsmInput
from lczcube.sources.osm_features import read_features
from lczcube.sources.osm_scheme import BUILDINGS, FEATURES
from lczcube.sources.osm_snapshot import read_header, write_snapshots
from lczcube.synth.city import City, draw_city
from lczcube.synth.osm import REBUILT, TORN_DOWN, write_osm
from tests.osm_scenes import BBOX, CRS, X0, Y0, Drawn, area, line, square, write_osm_file
from tests.test_catalog import CORE, extension_schema, validate

WOOD = {"natural": "wood"}
HOUSE = {"building": "house"}
needs_osmium_tool = pytest.mark.skipif(
    shutil.which("osmium") is None, reason="osmium-tool is not installed"
)


def day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def register(
    href: Path | str, *, cities: dict[str, Any] | None = None, **keys: Any
) -> list[SourceItem]:
    entry = OsmInput.model_validate({"name": "osm", "source": "osm", "href": str(href), **keys})
    files = find_files(entry, folder=Path("/"), cities=cities or {})
    return [made for file in files for made in build_items(entry, file)]


def table_of(made: SourceItem) -> gpd.GeoDataFrame:
    assert made.table is not None
    return made.table.frame


def counts_of(made: SourceItem) -> dict[str, int]:
    counts = table_of(made)["feature"].value_counts()
    return {str(name): int(n) for name, n in counts.items()}


def areas_m2(table: gpd.GeoDataFrame) -> list[float]:
    return [float(value) for value in table.to_crs(CRS).geometry.area]


def n_buildings(made: SourceItem) -> int:
    return int(table_of(made)["feature"].isin(BUILDINGS).sum())


def built(folder: Path, keys: str, *, cities: str = "") -> CatalogReport:
    toml = folder / "town.toml"
    toml.write_text(f'id = "town"\n{cities}\n[[input]]\nname = "osm"\nsource = "osm"\n{keys}\n')
    return build_catalog(toml, folder / "catalog")


@pytest.fixture(scope="module")
def city() -> City:
    return draw_city(0, km=2.0, seed=7)


@pytest.fixture(scope="module")
def history(city: City, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_osm(tmp_path_factory.mktemp("osm") / "city.osh.pbf", city, seed=7)


# Features of a file


def test_areas_lines_and_points_become_rows(tmp_path: Path) -> None:
    path = write_osm_file(
        tmp_path / "a.osm.pbf",
        area(HOUSE | {"building:levels": "2", "height": "7.5"}, 100, 100, 20),
        line({"highway": "residential", "width": "5"}, (0, 50), (500, 50)),
        Drawn({"man_made": "chimney"}, [(300, 300)]),
    )
    (made,) = register(path)
    table = table_of(made).set_index("feature")
    assert set(table.index) == {"buildings_lowrise", "roads_minor", "heavy_industry"}
    house, road = table.loc["buildings_lowrise"], table.loc["roads_minor"]
    assert (house.osm_type, house.osm_id, house.levels, house.height_m) == ("way", 1, 2, 7.5)
    assert (road.osm_type, road.osm_id, road.width_m) == ("way", 2, 5)
    assert np.isnan(house.width_m)
    chimney = table.loc["heavy_industry"]
    assert (chimney.osm_type, chimney.osm_id) == ("node", 7)
    assert [shape.geom_type for shape in (house.geometry, road.geometry, chimney.geometry)] == [
        "MultiPolygon", "LineString", "Point",
    ]  # fmt: skip


def test_a_multipolygon_keeps_its_hole(tmp_path: Path) -> None:
    lake = Drawn({"natural": "water"}, square(0, 0, 100), holes=[square(25, 25, 50)])
    (made,) = register(write_osm_file(tmp_path / "a.osm.pbf", lake))
    # An area in the projection: 100 m squared less 50 m squared.
    assert areas_m2(table_of(made)) == pytest.approx([7500], rel=1e-3)
    assert table_of(made)["osm_type"].tolist() == ["relation"]


@pytest.mark.parametrize("own", [{}, {"source": "Bing", "note": "lake"}, WOOD])
def test_an_old_multipolygon_with_tags_on_its_ring_keeps_its_hole(
    tmp_path: Path, own: dict[str, str]
) -> None:
    wood = Drawn(own, square(0, 0, 100), holes=[square(25, 25, 50)], ring_tags=WOOD)
    (made,) = register(write_osm_file(tmp_path / "a.osm.pbf", wood))
    assert areas_m2(table_of(made)) == pytest.approx([7500], rel=1e-3)


def test_a_ring_that_is_something_else_stays_what_it_is(tmp_path: Path) -> None:
    block = Drawn(WOOD, square(0, 0, 100), holes=[square(25, 25, 50)], ring_tags=HOUSE)
    (made,) = register(write_osm_file(tmp_path / "a.osm.pbf", block))
    table = table_of(made).set_index("feature")
    assert areas_m2(table.loc[["dense_trees"]]) == pytest.approx([7500], rel=1e-3)
    assert areas_m2(table.loc[["buildings_lowrise"]]) == pytest.approx([10_000], rel=1e-3)


def test_an_untagged_ring_of_roads_is_no_area_of_road(tmp_path: Path) -> None:
    road = {"highway": "residential"}
    ring = Drawn({}, square(0, 0, 100), holes=[square(25, 25, 50)], ring_tags=road)
    (made,) = register(write_osm_file(tmp_path / "a.osm.pbf", ring))
    (shape,) = table_of(made).geometry
    assert shape.geom_type == "LineString"
    assert made.item.properties["lczcube:n_broken_areas"] == 0


def test_an_old_multipolygon_of_two_kinds_of_rings_leaves_each_what_it_is(tmp_path: Path) -> None:
    path = write_osm_file(tmp_path / "a.osm", area(WOOD, 0, 0, 100), area(HOUSE, 200, 0, 20))
    members = "".join(f'<member type="way" ref="{way}" role="outer"/>' for way in (1, 2))
    relation = f'<relation id="1" version="1">{members}<tag k="type" v="multipolygon"/></relation>'
    path.write_text(path.read_text().replace("</osm>", f"{relation}</osm>"))
    (made,) = register(path)
    table = table_of(made).set_index("feature")
    assert areas_m2(table.loc[["dense_trees"]]) == pytest.approx([10_000], rel=1e-3)
    assert areas_m2(table.loc[["buildings_lowrise"]]) == pytest.approx([400], rel=0.01)


def test_broken_areas_are_left_out_and_counted(tmp_path: Path) -> None:
    bow_tie = [(0.0, 0.0), (50.0, 50.0), (50.0, 0.0), (0.0, 50.0)]
    path = write_osm_file(
        tmp_path / "a.osm.pbf",
        Drawn(WOOD, square(200, 0, 100), holes=[square(225, 25, 50)]),
        Drawn(WOOD, bow_tie),
        area(WOOD, 500, 0, 10),
        without_nodes=[2],
    )
    (made,) = register(path)
    assert made.item.properties["lczcube:n_broken_areas"] == 2
    assert areas_m2(table_of(made)) == pytest.approx([100], rel=0.01)


def test_a_multipolygon_whose_ways_are_missing_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.osm"
    path.write_text(
        '<osm version="0.6"><bounds minlon="9" minlat="46" maxlon="10" maxlat="47"/>'
        '<relation id="1" version="1" timestamp="2019-01-01T00:00:00Z">'
        '<member type="way" ref="5" role="outer"/><tag k="type" v="multipolygon"/>'
        '<tag k="natural" v="wood"/></relation></osm>'
    )
    (made,) = register(path)
    assert made.item.properties["lczcube:n_broken_areas"] == 1
    assert len(table_of(made)) == 0


def test_a_line_that_lacks_a_node_is_drawn_in_parts_and_counted(tmp_path: Path) -> None:
    road = line({"highway": "primary"}, *((100.0 * i, 0.0) for i in range(6)))
    path = write_osm_file(tmp_path / "a.osm.pbf", road, without_nodes=[3])
    (made,) = register(path)
    assert made.item.properties["lczcube:n_broken_lines"] == 1
    (shape,) = table_of(made).to_crs(CRS).geometry
    assert [round(part.length) for part in shape.geoms] == [100, 200]


def test_what_strays_far_from_the_files_box_is_left_out(tmp_path: Path) -> None:
    far = [(900_000.0, 0.0), (900_010.0, 0.0), (900_010.0, 10.0)]
    path = write_osm_file(tmp_path / "a.osm.pbf", area(HOUSE, 0, 0, 20), Drawn(HOUSE, far))
    (made,) = register(path)
    assert n_buildings(made) == 1
    assert made.item.bbox == pytest.approx(BBOX, abs=1e-6)


def test_xml_in_any_order_gives_the_same_rows(tmp_path: Path) -> None:
    things = [area(HOUSE, 30.0 * i, 0, 20) for i in range(6)]
    things.append(Drawn(WOOD, square(0, 100, 100), holes=[square(25, 125, 50)]))
    in_order = write_osm_file(tmp_path / "a.osm", *things)
    head, *objects = in_order.read_text().split("\n  <way ")
    last, tail = objects[-1].split("\n  <relation", 1)
    ways = [*objects[:-1], last]
    shuffled = tmp_path / "b.osm"
    text = "".join(f"\n  <way {way}" for way in reversed(ways))
    shuffled.write_text(f"{head}{text}\n  <relation{tail}")
    with pytest.raises(RuntimeError, match="out of order"):
        list(osmium.FileProcessor(shuffled).with_areas())
    tables = [read_features(path, ()).table for path in (in_order, shuffled)]
    key = ["osm_type", "osm_id"]
    first, second = (table.sort_values(key).reset_index(drop=True) for table in tables)
    assert first.drop(columns="geometry").equals(second.drop(columns="geometry"))
    assert first.geometry.geom_equals(second.geometry).all()


@pytest.mark.parametrize("suffix", [".osm", ".osm.pbf", ".osm.bz2", ".osm.gz", ".pbf"])
def test_every_format_gives_the_same_table(tmp_path: Path, suffix: str) -> None:
    things = (area(HOUSE, 0, 0, 20), line({"railway": "rail"}, (0, 0), (9, 9)))
    (made,) = register(write_osm_file(tmp_path / f"a{suffix}", *things))
    assert counts_of(made) == {"buildings_lowrise": 1, "rail": 1}


def test_a_large_file_keeps_its_places_on_disk_and_gives_the_same(
    city: City, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_osm(tmp_path / "a.osm.pbf", city, seed=7)
    in_memory = read_features(path, ()).table
    monkeypatch.setattr("lczcube.sources.osm_features.LARGEST_IN_MEMORY_BYTES", 0)
    on_disk = read_features(path, ()).table
    assert len(in_memory) > 1000
    assert on_disk.drop(columns="geometry").equals(in_memory.drop(columns="geometry"))
    assert on_disk.geometry.geom_equals(in_memory.geometry).all()


def test_rows_come_in_batches_and_none_is_lost(
    city: City, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_osm(tmp_path / "a.osm.pbf", city, seed=7)
    at_once = read_features(path, ())
    monkeypatch.setattr("lczcube.sources.osm_features._BATCH", 100)
    in_batches = read_features(path, ())
    assert in_batches.table["osm_id"].tolist() == at_once.table["osm_id"].tolist()
    assert in_batches.hull is not None
    assert in_batches.hull.equals(at_once.hull)


def test_a_large_unsorted_file_is_refused_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.osm"
    nodes = "".join(f'<node id="{i}" lat="46" lon="10" version="1"/>' for i in (1, 2))
    ways = "".join(
        f'<way id="{i}" version="1"><nd ref="1"/><nd ref="2"/><tag k="highway" v="track"/></way>'
        for i in (2, 1)
    )
    path.write_text(f'<osm version="0.6">{nodes}{ways}</osm>')
    monkeypatch.setattr("lczcube.sources.osm_snapshot.LARGEST_UNSORTED_BYTES", 10)
    with pytest.raises(SourceError, match=r"too large to be sorted here; run osmium sort a\.osm"):
        register(path, dates=["2020-01-01"])


# States of a history


def test_a_building_changes_and_another_goes(history: Path) -> None:
    dates = ["2017-05-01", "2017-07-01", "2018-07-01"]
    before, rebuilt, after = register(history, dates=dates)
    first, second = (number for number in sorted(_ways_with_versions(history)))
    for made, feature in ((before, "buildings"), (rebuilt, "buildings_highrise")):
        row = table_of(made).set_index("osm_id").loc[first]
        assert str(row.feature).startswith(feature)
    rows = [table_of(made).set_index("osm_id").loc[[first]] for made in (before, rebuilt)]
    small, large = (areas_m2(row)[0] for row in rows)
    assert large == pytest.approx(1.25**2 * small, rel=1e-3)
    assert [second in set(table_of(made)["osm_id"]) for made in (before, rebuilt, after)] == [
        True, True, False,
    ]  # fmt: skip
    assert day("2017-06-01") == REBUILT
    assert day("2018-06-01") == TORN_DOWN


def _ways_with_versions(path: Path) -> set[int]:
    kinds = osmium.osm.WAY
    return {obj.id for obj in osmium.FileProcessor(path, kinds) if obj.version > 1}


def test_an_item_a_date_with_the_date_in_its_id(history: Path) -> None:
    made = register(history, dates=["2015-01-01", "latest"])
    assert [m.item.id for m in made] == [
        "osm_city.osh_2015-01-01",
        "osm_city.osh_2022-01-01",
    ]
    assert [m.item.datetime for m in made] == [day("2015-01-01"), day("2022-01-01")]
    assert n_buildings(made[0]) < n_buildings(made[1])


def test_years_are_their_first_days(history: Path) -> None:
    by_year = register(history, years=[2016, 2018])
    by_date = register(history, dates=["2016-01-01", "2018-01-01"])
    assert [m.item.to_dict() for m in by_year] == [m.item.to_dict() for m in by_date]


@pytest.mark.parametrize("date", ["2012-01-01", "2016-03-05", "2017-06-01", "2018-06-01"])
def test_a_state_is_the_extract_of_that_date(
    history: Path, city: City, tmp_path: Path, date: str
) -> None:
    state = tmp_path / "state.osm.pbf"
    write_snapshots(history, [(day(date), state)])
    extract = write_osm(tmp_path / "extract.osm.pbf", city, seed=7, date=day(date))
    assert _objects(state) == _objects(extract)


def _objects(path: Path) -> list[tuple[Any, ...]]:
    held = []
    for obj in osmium.FileProcessor(path):
        what: Any = None
        if obj.is_node():
            what = (obj.lon, obj.lat)
        elif obj.is_way():
            what = [node.ref for node in obj.nodes]
        held.append((obj.type_str(), obj.id, obj.version, dict(obj.tags), what))
    return held


@needs_osmium_tool
def test_states_are_those_of_osmium_time_filter(history: Path, tmp_path: Path) -> None:
    for date in ("2014-07-01", "2017-06-01", "2021-01-01"):
        ours, theirs = tmp_path / f"{date}.osm.pbf", tmp_path / f"{date}-tool.osm.pbf"
        write_snapshots(history, [(day(date), ours)])
        time_filter(history, date, theirs)
        assert _objects(ours) == _objects(theirs)


def time_filter(history: Path, date: str, out: Path) -> None:
    command = ["osmium", "time-filter", history, f"{date}T00:00:00Z", "-o", out, "--overwrite"]
    subprocess.run([str(part) for part in command], check=True, capture_output=True)


def test_many_dates_at_once_are_those_dates_alone(history: Path, tmp_path: Path) -> None:
    dates = [day(f"{year}-{month:02d}-01") for year in range(2013, 2018) for month in (1, 7)]
    together = [(date, tmp_path / f"{n}.osm.pbf") for n, date in enumerate(dates)]
    write_snapshots(history, together)
    for date, path in together:
        write_snapshots(history, [(date, tmp_path / "alone.osm.pbf")])
        assert _objects(path) == _objects(tmp_path / "alone.osm.pbf")


def test_a_day_is_given_once(history: Path) -> None:
    with pytest.raises(SourceError, match='has "latest" on a day that dates names too'):
        register(history, dates=["2022-01-01", "latest"])


@pytest.mark.parametrize("name", ["city.osh", "city.osh.bz2"])
def test_xml_is_a_history_by_its_name(city: City, history: Path, tmp_path: Path, name: str) -> None:
    path = write_osm(tmp_path / name, city, seed=7)
    assert not read_header(path).has_history
    (made,) = register(path, dates=["2016-01-01"])
    (same,) = register(history, dates=["2016-01-01"])
    assert counts_of(made) == counts_of(same)


def test_xml_of_another_name_is_a_history_if_the_input_says_so(city: City, tmp_path: Path) -> None:
    path = write_osm(tmp_path / "city.osh", city, seed=7).rename(tmp_path / "full.osm")
    (made,) = register(path, dates=["2016-01-01"], history=True)
    assert made.item.datetime == day("2016-01-01")
    with pytest.raises(SourceError):
        register(path)  # several versions of an object


def test_a_history_that_ends_before_a_date_is_refused(history: Path) -> None:
    with pytest.raises(SourceError, match=r"ends on 2022-01-01, before 2023-01-01"):
        register(history, dates=["2023-01-01"])


def _write_history(path: Path, *objects: Any) -> Path:
    header = osmium.io.Header()
    header.has_multiple_object_versions = True
    header.add_box(osmium.osm.Box(*BBOX))
    with osmium.SimpleWriter(str(path), header=header, overwrite=True) as writer:
        for obj in objects:
            writer.add(obj)
    return path


def test_an_unsorted_history_is_refused(tmp_path: Path) -> None:
    old = mutable.Node(id=1, version=1, timestamp=day("2015-01-01"), location=(10.8, 46.2))
    new = mutable.Node(id=1, version=2, timestamp=day("2016-01-01"), location=(10.8, 46.2))
    path = _write_history(tmp_path / "a.osh.pbf", new, old)
    with pytest.raises(SourceError, match=r"not sorted by type, id and version .*osmium sort"):
        register(path)


def test_a_history_without_times_is_refused(tmp_path: Path) -> None:
    path = _write_history(tmp_path / "a.osh.pbf", mutable.Node(id=1, location=(10.8, 46.2)))
    with pytest.raises(SourceError, match="a history without times"):
        register(path, dates=["2015-01-01"])


def test_a_date_past_the_newest_object_is_noted(tmp_path: Path) -> None:
    node = mutable.Node(id=1, version=1, timestamp=day("2015-01-01"), location=(10.8, 46.2))
    (made,) = register(_write_history(tmp_path / "a.osh.pbf", node), dates=["2016-01-01"])
    assert made.item.properties["lczcube:note"].endswith("newest object is of 2015-01-01")


# Dates of files without history


@pytest.mark.parametrize(
    ("name", "stamp", "expected"),
    [
        ("town.osm.pbf", "2020-03-01T20:21:02Z", "2020-03-01T20:21:02+00:00"),
        ("town-200101.osm.pbf", "2019-12-31T20:21:02Z", "2020-01-01T00:00:00+00:00"),
        ("town-200101.osm.pbf", "2020-01-01T20:21:02Z", "2020-01-01T20:21:02+00:00"),
        ("town-200101.osm.pbf", "2018-05-01T20:21:02Z", "2018-05-01T20:21:02+00:00"),
        ("town-180101.osm.pbf", None, "2018-01-01T00:00:00+00:00"),
        ("town_20180101.osm.pbf", None, "2018-01-01T00:00:00+00:00"),
        ("town-12345678.osm.pbf", None, "2019-01-01T00:00:00+00:00"),
        ("town-2018-02-03.osm", None, "2018-02-03T00:00:00+00:00"),
        ("town.osm.pbf", None, "2019-01-01T00:00:00+00:00"),
    ],
)
def test_the_date_is_the_headers_then_the_names_then_the_newest_objects(
    tmp_path: Path, name: str, stamp: str | None, expected: str
) -> None:
    path = write_osm_file(tmp_path / name, area(HOUSE, 0, 0, 20), stamp=stamp)
    (made,) = register(path)
    assert made.item.datetime == datetime.fromisoformat(expected)


def test_dates_of_an_extract_are_checked(tmp_path: Path) -> None:
    path = write_osm_file(tmp_path / "a.osm.pbf", area(HOUSE, 0, 0, 20))
    for keys in ({"dates": ["2020-03-01"]}, {"dates": ["latest"]}, {"year": 2020}):
        (made,) = register(path, **keys)
        assert made.item.id == "osm_a.osm_2020-03-01"
    for keys in ({"dates": ["2018-01-01"]}, {"year": 2019}):
        with pytest.raises(SourceError, match=r"no full history: it is the state of 2020-03-01"):
            register(path, **keys)


def test_a_file_without_a_date_takes_the_inputs_or_none(tmp_path: Path) -> None:
    path = write_osm_file(tmp_path / "a.osm.pbf", area(HOUSE, 0, 0, 20), stamp=None, time=None)
    with pytest.raises(SourceError, match=r"tells no date.*static = true"):
        register(path)
    (stated,) = register(path, dates=["2018-04-01"])
    assert stated.item.datetime == day("2018-04-01")
    assert "as the input states it" in stated.item.properties["lczcube:note"]
    (static,) = register(path, static=True)
    assert static.item.datetime is None
    assert static.item.id == "osm_a.osm_undated"


def test_year_in_the_path_chooses_the_extract(tmp_path: Path) -> None:
    for year in (2018, 2019):
        stamp = f"{year - 1}-12-31T21:00:00Z"
        write_osm_file(tmp_path / f"a-{year % 100}0101.osm.pbf", area(HOUSE, 0, 0, 20), stamp=stamp)
        shutil.move(tmp_path / f"a-{year % 100}0101.osm.pbf", tmp_path / f"a-{year}-01-01.osm.pbf")
    made = register(tmp_path / "a-{year}-01-01.osm.pbf", years=[2018, 2019])
    assert [m.item.datetime for m in made] == [day("2018-01-01"), day("2019-01-01")]


# Items


@pytest.fixture(scope="module")
def report(history: Path) -> CatalogReport:
    return built(history.parent, 'href = "city.osh.pbf"\ndates = ["2014-01-01", "latest"]')


def test_every_object_is_valid_stac(report: CatalogReport) -> None:
    assert not report.failures
    paths = list(report.path.rglob("*.json"))
    assert len(paths) == 4
    for path in paths:
        values = json.loads(path.read_text())
        kind = {"Feature": "item"}.get(values["type"], values["type"].lower())
        validate(values, {"$ref": f"{CORE}/{kind}-spec/json-schema/{kind}.json"})
        for uri in values.get("stac_extensions", []):
            validate(values, extension_schema(uri))


def test_an_item_describes_its_masks_and_its_table(report: CatalogReport) -> None:
    item = open_catalog(report.path).items("osm")[0]
    assert item.properties["proj:code"] == "EPSG:4326"
    assert item.properties["lczcube:tag_scheme"] == "lczkit-17/1"
    table = item.assets["features"]
    bands = table.extra_fields["bands"]
    assert [band["name"] for band in bands] == [*FEATURES, "mapped"]
    assert bands[0] == {"name": "low_plants", "data_type": "uint8", "nodata": 255}
    frame = gpd.read_parquet(table.href)
    assert table.extra_fields["table:row_count"] == len(frame)
    columns = [column["name"] for column in table.extra_fields["table:columns"]]
    assert columns == list(frame.columns.drop("bbox", errors="ignore"))
    assert item.assets["source"].href.endswith("city.osh.pbf")
    assert "file:checksum" not in item.assets["source"].extra_fields
    assert "file:checksum" in table.extra_fields


def test_the_collection_says_whose_data_they_are(report: CatalogReport) -> None:
    collection = pystac.Collection.from_file(str(report.path / "osm" / "collection.json"))
    assert collection.license == "ODbL-1.0"
    assert collection.extra_fields["lczcube:layer"] == "osm"
    assert "OpenStreetMap contributors" in collection.extra_fields["lczcube:license_note"]


def test_building_again_gives_the_same_bytes(report: CatalogReport) -> None:
    before = {path: path.read_bytes() for path in report.path.rglob("*") if path.is_file()}
    again = built(report.path.parent, 'href = "city.osh.pbf"\ndates = ["2014-01-01", "latest"]')
    assert {p: p.read_bytes() for p in again.path.rglob("*") if p.is_file()} == before


def test_a_table_is_sorted_so_that_a_box_reads_a_part_of_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    places = rng.uniform(0, 1200, (20_000, 2)).round(2)
    things = [Drawn({"man_made": "chimney"}, [(float(x), float(y))]) for x, y in places]
    write_osm_file(tmp_path / "a.osm.pbf", *things)
    report = built(tmp_path, 'href = "a.osm.pbf"')
    (item,) = open_catalog(report.path).items("osm")
    href = item.assets["features"].href
    file = pq.ParquetFile(href)
    assert file.metadata.num_row_groups == 5
    box = project_bbox((X0, Y0, X0 + 100, Y0 + 100), CRS, "EPSG:4326")
    part = gpd.read_parquet(href, bbox=box)
    inside = shapely.intersects(gpd.read_parquet(href).geometry.to_numpy(), shapely.box(*box))
    assert len(part) == int(inside.sum()) > 50
    names = file.schema_arrow.names
    assert "bbox" in names
    met = [_group_meets(file, i, box) for i in range(file.metadata.num_row_groups)]
    assert sum(met) <= 2


def _group_meets(file: pq.ParquetFile, group: int, box: tuple[float, ...]) -> bool:
    edges = {}
    for i in range(file.metadata.num_columns):
        column = file.metadata.row_group(group).column(i)
        if column.path_in_schema.startswith("bbox."):
            edges[column.path_in_schema.removeprefix("bbox.")] = column.statistics
    return bool(
        edges["xmin"].min <= box[2]
        and edges["xmax"].max >= box[0]
        and edges["ymin"].min <= box[3]
        and edges["ymax"].max >= box[1]
    )


def test_only_what_lies_near_a_city_is_kept(tmp_path: Path) -> None:
    wide = project_bbox((X0, Y0, X0 + 60_000, Y0 + 1000), CRS, "EPSG:4326")
    path = write_osm_file(
        tmp_path / "a.osm.pbf", area(HOUSE, 10, 10, 20), area(HOUSE, 50_000, 10, 20), bbox=wide
    )
    town = project_bbox((X0, Y0, X0 + 900, Y0 + 900), CRS, "EPSG:4326")
    (made,) = register(path, cities={"town": town})
    assert n_buildings(made) == 1
    west, south, east, north = made.item.bbox or []
    # 5 km past the city, and no farther than the file.
    assert (west, south, north) == pytest.approx((wide[0], wide[1], wide[3]))
    assert east == pytest.approx(town[2] + 5000 / 77_000, abs=0.002)


def test_a_file_of_a_city_is_read_near_that_city_alone(tmp_path: Path) -> None:
    boxes = {
        name: project_bbox((X0 + x, Y0, X0 + x + 900, Y0 + 900), CRS, "EPSG:4326")
        for name, x in (("west", 0), ("east", 50_000))
    }
    wide = project_bbox((X0, Y0, X0 + 60_000, Y0 + 1000), CRS, "EPSG:4326")
    things = (area(HOUSE, 10, 10, 20), area(HOUSE, 50_000, 10, 20))
    for name in boxes:
        write_osm_file(tmp_path / f"{name}.osm.pbf", *things, bbox=wide)
    both = register(tmp_path / "west.osm.pbf", cities=boxes)
    assert [n_buildings(made) for made in both] == [2]
    each = register(tmp_path / "{city}.osm.pbf", cities=boxes)
    assert [n_buildings(made) for made in each] == [1, 1]


def test_a_file_without_a_box_covers_the_hull_of_its_features(tmp_path: Path) -> None:
    corners = [(0.0, 0.0), (1000.0, 0.0), (0.0, 1000.0)]
    path = write_osm_file(
        tmp_path / "a.osm.pbf", *(area(HOUSE, x, y, 1) for x, y in corners), bbox=None
    )
    (made,) = register(path)
    outline = gpd.GeoSeries([shapely.geometry.shape(made.item.geometry)], crs=4326).to_crs(CRS)
    assert outline.area[0] == pytest.approx(500_000, rel=0.01)


def test_a_box_without_an_area_is_none(tmp_path: Path) -> None:
    place = (10.8, 46.2, 10.8, 46.2)
    path = write_osm_file(tmp_path / "a.osm.pbf", area(HOUSE, 0, 0, 20), bbox=place)
    assert read_header(path).bbox is None
    assert n_buildings(register(path)[0]) == 1


def test_a_file_with_neither_box_nor_area_is_refused(tmp_path: Path) -> None:
    path = write_osm_file(
        tmp_path / "a.osm.pbf", Drawn({"man_made": "chimney"}, [(0, 0)]), bbox=None
    )
    with pytest.raises(SourceError, match="nobody knows what it covers"):
        register(path)


def test_a_file_near_no_city_is_refused(tmp_path: Path) -> None:
    path = write_osm_file(tmp_path / "a.osm.pbf", area(HOUSE, 0, 0, 20))
    with pytest.raises(SourceError, match="near no city"):
        register(path, cities={"far": (20.0, 50.0, 20.1, 50.1)})


# What is refused


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ('dates = ["2020-13-01"]', "'2020-13-01' is no date"),
        ('dates = ["latest", "latest"]', "repeat"),
        ('features = ["houses"]', "'houses' is no feature; known: low_plants"),
        ("features = []", "at least 1"),
        ('static = true\ndates = ["2018-01-01", "2019-01-01"]', "static and has several dates"),
        ('dates = ["2018-01-01"]\nyear = 2018', "has dates and year"),
        ("roof = true", "roof"),
    ],
)
def test_keys_are_checked(tmp_path: Path, keys: str, message: str) -> None:
    toml = tmp_path / "town.toml"
    toml.write_text(
        f'id = "town"\n[[input]]\nname = "osm"\nsource = "osm"\nhref = "a.osm.pbf"\n{keys}\n'
    )
    with pytest.raises(ConfigError, match=message):
        read_config(toml)


BILLION_LAUGHS = (
    '<?xml version="1.0"?><!DOCTYPE osm [<!ENTITY a "aaaaaaaaaa">'
    + "".join(
        f'<!ENTITY {new} "{"&" + old + ";" * 1}{("&" + old + ";") * 9}">'
        for old, new in zip("abcdefghi", "bcdefghij", strict=True)
    )
    + '<!ELEMENT osm ANY>]><osm version="0.6"><node id="1" lat="46" lon="10" version="1">'
    '<tag k="name" v="&j;"/></node></osm>'
)


def test_xml_with_entities_is_refused_before_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "bomb.osm"
    path.write_text(BILLION_LAUGHS)
    with pytest.raises(SourceError, match=r"XML entities are not supported"):
        register(path, dates=["2020-01-01"])


def test_xml_reads_no_other_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("hidden")
    path = tmp_path / "xxe.osm"
    path.write_text(
        f'<?xml version="1.0"?><!DOCTYPE osm [<!ENTITY x SYSTEM "file://{secret}">]>'
        '<osm version="0.6"><node id="1" lat="46" lon="10" version="1">'
        '<tag k="man_made" v="&x;"/></node></osm>'
    )
    with pytest.raises(SourceError, match=r"XML entities are not supported") as caught:
        register(path, dates=["2020-01-01"])
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("share", [0.2, 0.6, 0.98])
def test_a_truncated_file_is_a_row_and_the_rest_is_built(
    history: Path, tmp_path: Path, share: float
) -> None:
    whole = history.read_bytes()
    (tmp_path / "cut.osh.pbf").write_bytes(whole[: int(share * len(whole))])
    write_osm_file(tmp_path / "good.osm.pbf", area(HOUSE, 0, 0, 20))
    report = built(tmp_path, 'href = ["cut.osh.pbf", "good.osm.pbf"]')
    (failure,) = report.failures
    assert failure.path.endswith("cut.osh.pbf")
    assert "cannot be read as OpenStreetMap data" in failure.reason
    assert report.n_items == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.osm.pbf", b"no map"), ("a.osm", b"no map"), ("a.osm", b"<osm"), ("a.osm.bz2", b"BZh9")],
)
def test_a_file_that_is_something_else_is_refused(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match="cannot be read as OpenStreetMap data"):
        register(tmp_path / name, dates=["2020-01-01"])


def test_a_missing_empty_or_remote_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError):
        register(tmp_path / "none.osm.pbf")
    (tmp_path / "empty.osm.pbf").touch()
    with pytest.raises(SourceError, match="is empty"):
        register(tmp_path / "empty.osm.pbf")
    with pytest.raises(LczcubeError, match="is remote"):
        register("https://download.example/town.osm.pbf")


def test_a_folder_gives_its_extracts_and_nothing_else(tmp_path: Path) -> None:
    for name in ("a.osm.pbf", "b.pbf", "c.osm"):
        write_osm_file(tmp_path / name, area(HOUSE, 0, 0, 20))
    (tmp_path / "notes.txt.gz").write_bytes(b"")
    assert len(register(tmp_path)) == 3


# The synthetic city


@pytest.mark.parametrize("name", ["a.osm", "a.osm.pbf", "a.osh", "a.osh.pbf"])
def test_a_synthetic_city_has_the_same_bytes_for_a_seed(
    city: City, tmp_path: Path, name: str
) -> None:
    first = write_osm(tmp_path / "1" / name, city, seed=7).read_bytes()
    assert write_osm(tmp_path / "2" / name, city, seed=7).read_bytes() == first
    assert write_osm(tmp_path / "3" / name, city, seed=8).read_bytes() != first


def test_a_history_has_no_date_to_be_written_at(city: City, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="leave date out"):
        write_osm(tmp_path / "a.osh.pbf", city, seed=7, date=day("2016-01-01"))


def test_the_synthetic_lake_has_an_island(history: Path) -> None:
    (made,) = register(history)
    table = table_of(made)
    lake = table[table["osm_type"] == "relation"].to_crs(city_crs(made))
    assert lake["feature"].tolist() == ["water"]
    assert lake.geometry.area.iloc[0] == pytest.approx(160**2 - 80**2, rel=1e-3)


def city_crs(made: SourceItem) -> str:
    west, south, east, north = made.item.bbox or []
    return str(gpd.GeoSeries([shapely.box(west, south, east, north)], crs=4326).estimate_utm_crs())


@needs_osmium_tool
@pytest.mark.parametrize("name", ["a.osm", "a.osm.pbf"])
def test_osmium_tool_finds_the_synthetic_city_whole(city: City, tmp_path: Path, name: str) -> None:
    path = write_osm(tmp_path / name, city, seed=7)
    done = subprocess.run(["osmium", "check-refs", "-r", path], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


# Real files

ANDORRA = {"2010-01-01": 0, "2014-01-01": 375, "2017-01-01": 1937}
"""Buildings: areas in the state of ``osmium time-filter`` with a tag ``building``, less open ways,
rings that cross themselves (2 and 1 in 2014) and roofs (7 in 2017)."""


def test_andorra_had_no_building_in_2010_and_many_in_2017(realdata: Path) -> None:
    made = register(realdata / "osm" / "andorra.osh.pbf", dates=list(ANDORRA))
    assert [n_buildings(m) for m in made] == list(ANDORRA.values())
    assert [m.item.properties["lczcube:n_broken_areas"] for m in made] == [0, 1, 2]
    assert [counts_of(m)["roads_minor"] for m in made] == [535, 1004, 1877]


@needs_osmium_tool
def test_andorras_buildings_are_those_of_osmium_time_filter(realdata: Path, tmp_path: Path) -> None:
    history = realdata / "osm" / "andorra.osh.pbf"
    for date, n in ANDORRA.items():
        state = tmp_path / f"{date}.osm.pbf"
        time_filter(history, date, state)
        areas = osmium.FileProcessor(state).with_areas()
        kept = areas.with_filter(osmium.filter.KeyFilter("building"))
        values = [o.tags["building"] for o in kept if o.is_area()]
        assert sum(value not in ("no", "roof", "entrance") for value in values) == n


def test_the_tiny_history_opens(realdata: Path) -> None:
    (made,) = register(realdata / "osm" / "test.osh.pbf")
    assert made.item.id.startswith("osm_test.osh_")
