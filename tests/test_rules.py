"""Labels by rule: cells that OpenStreetMap covers with one natural class."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import osmium
import pandas as pd
import pytest
import shapely
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from lczcube.cube import open_cube
from lczcube.errors import LabelError, MissingInputError
from lczcube.grid import Grid, project_bbox
from lczcube.labels import (
    RULES,
    ClassRule,
    FeatureState,
    chosen_rules,
    counts_text,
    drop_far,
    label_by_rules,
    read_feature_states,
    require_labels,
    split_labels,
)
from lczcube.labels.cover import areas_on_cells, cell_squares, join_states
from lczcube.labels.rules import COUNTS
from lczcube.labels.table import COLUMNS
from lczcube.sources.osm_scheme import began_of
from lczcube.synth.city import City, draw_city
from lczcube.synth.embedding import Difficulty, embedding_model
from lczcube.synth.osm import write_osm
from lczcube.synth.zones import Window
from lczcube.windows import aggregate, aggregate_patches
from tests.osm_scenes import BBOX, CRS, X0, Y0, area, grid, line, osm_catalog, write_osm_file
from tests.scenes import catalog_of, raster_input, write_raster

CELL = 320.0
EVERYWHERE = shapely.box(*BBOX)


@dataclass(frozen=True)
class Mapped:
    """A feature that covers ``width`` by ``height`` cells from the lower left of the scene."""

    feature: str
    x: float
    y: float
    width: float = 1.0
    height: float = 1.0
    began: int = 0


def state(date: str, *things: Mapped, extent: shapely.Geometry = EVERYWHERE) -> FeatureState:
    boxes = [
        shapely.box(
            X0 + t.x * CELL,
            Y0 + t.y * CELL,
            X0 + (t.x + t.width) * CELL,
            Y0 + (t.y + t.height) * CELL,
        )
        for t in things
    ]
    columns = {
        "feature": [t.feature for t in things],
        "osm_type": "way",
        "osm_id": range(1, len(things) + 1),
        "width_m": np.full(len(things), np.nan, np.float32),
        "began": np.array([t.began for t in things], np.int16),
    }
    table = gpd.GeoDataFrame(columns, geometry=boxes, crs=CRS).to_crs("EPSG:4326")
    return FeatureState(date, table, extent)


def labelled(*states: FeatureState, rules: Any = None, year: int = 2020, on: Any = None) -> Any:
    return label_by_rules(states, on or grid(), city="town", year=year, rules=rules)


def places(labels: gpd.GeoDataFrame) -> set[tuple[int, int]]:
    """Column and row of labelled cells, counted from the lower left of the scene."""
    x = ((labels["x0"] - X0) / CELL).astype(int)
    y = ((labels["y0"] - Y0) / CELL).astype(int) - 1
    return set(zip(x, y, strict=True))


def counts_of(labels: gpd.GeoDataFrame, rule: str = "water") -> dict[str, Any]:
    counts: dict[str, Any] = labels.attrs[COUNTS]["rules"][rule]
    return counts


# Cover


@pytest.mark.parametrize(("width", "is_kept"), [(0.96, True), (0.951, True), (0.949, False)])
def test_a_cell_is_labelled_from_95_per_cent_of_cover(width: float, is_kept: bool) -> None:
    labels = labelled(state("2020-01-01", Mapped("water", 1, 2, width)))
    assert places(labels) == ({(1, 2)} if is_kept else set())


def test_what_is_mapped_twice_counts_once() -> None:
    # 0.6 and 0.6 of a cell, 0.3 of it shared: 0.9.
    twice = [Mapped("water", 0, 0, 0.6), Mapped("water", 0.3, 0, 0.6)]
    assert labelled(state("2020-01-01", *twice)).empty
    assert places(labelled(state("2020-01-01", *twice, Mapped("water", 0.9, 0, 0.1)))) == {(0, 0)}


def test_features_of_one_rule_add_up_and_those_of_two_do_not() -> None:
    rock = state("2020-01-01", Mapped("bare_rock", 0, 0, 0.5), Mapped("paved", 0.5, 0, 0.5))
    assert labelled(rock, rules=chosen_rules(["bare_rock"]))["lcz"].tolist() == [15]
    mixed = state("2020-01-01", Mapped("water", 0, 0, 0.5), Mapped("scrub", 0.5, 0, 0.5))
    assert labelled(mixed, rules=chosen_rules(["water", "scrub"])).empty


def test_rules_of_many_corners_cover_what_those_of_few_do() -> None:
    """A disc of 4,000 corners goes through blocks, one of 40 does not."""
    wide = Grid.from_bbox((X0, Y0, X0 + 20 * CELL, Y0 + 20 * CELL), crs=CRS, bbox_crs=CRS)
    squares = cell_squares(wide)
    disc = shapely.Point(X0 + 3000, Y0 + 3100).buffer(2500, quad_segs=1000)
    table = gpd.GeoDataFrame({"width_m": [np.nan]}, geometry=[disc], crs=CRS).to_crs("EPSG:4326")
    covered_m2 = shapely.area(areas_on_cells(table, wide, squares))
    expected_m2 = shapely.area(shapely.intersection(disc, squares))
    assert np.abs(covered_m2 - expected_m2).max() < 1  # m2 of 102,400
    assert covered_m2.sum() == pytest.approx(disc.area, rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    boxes=st.lists(
        st.tuples(*[st.floats(-0.5, 4, width=16)] * 2, *[st.floats(0.25, 3, width=16)] * 2),
        min_size=1,
        max_size=8,
    )
)
def test_cover_is_that_of_one_union_cut_with_each_cell(boxes: list[tuple[float, ...]]) -> None:
    mapped = state("2020-01-01", *(Mapped("water", *box) for box in boxes))
    squares = cell_squares(grid())
    covered_m2 = shapely.area(areas_on_cells(mapped.table, grid(), squares))
    # Edges are straight in degrees; in metres they bend, by under 1 cm between corners of ours.
    bent = mapped.table.geometry.segmentize(0.0005).to_crs(CRS)
    whole = shapely.union_all(bent.to_numpy())
    slow_m2 = np.array([whole.intersection(square).area for square in squares])
    assert np.abs(covered_m2 - slow_m2).max() < 1e-4 * CELL**2


def test_cells_are_those_of_the_grid() -> None:
    wide = Grid.from_bbox((X0, Y0, X0 + 3 * CELL, Y0 + 2 * CELL), crs=CRS, bbox_crs=CRS)
    bounds = shapely.bounds(cell_squares(wide)).tolist()
    assert bounds[0] == [X0, Y0 + CELL, X0 + CELL, Y0 + 2 * CELL]
    assert bounds[-1] == [X0 + 2 * CELL, Y0, X0 + 3 * CELL, Y0 + CELL]
    assert len(bounds) == 6


# What speaks against a class


@pytest.mark.parametrize(("share", "is_kept"), [(0.04, True), (0.06, False)])
def test_other_features_speak_against_a_class(share: float, is_kept: bool) -> None:
    harbour = state("2020-01-01", Mapped("water", 0, 0), Mapped("roads_major", 0, 0, share))
    labels = labelled(harbour)
    assert len(labels) == is_kept
    assert counts_of(labels)["contradicted"] == (not is_kept)


def test_a_park_under_its_lake_does_not_speak_against_it() -> None:
    park = Mapped("low_plants", 0, 0, 3, 3)
    assert places(labelled(state("2020-01-01", park, Mapped("water", 1, 1)))) == {(1, 1)}


def test_land_won_from_the_water_is_no_water() -> None:
    before = state("2015-01-01", Mapped("water", 0, 0))
    after = state("2020-01-01", Mapped("low_plants", 0, 0))
    labels = labelled(before, after)
    assert labels.empty
    assert counts_of(labels)["contradicted"] == 1


def test_a_lake_that_was_drawn_into_a_park_later_is_water() -> None:
    before = state("2015-01-01", Mapped("low_plants", 0, 0))
    after = state("2020-01-01", Mapped("low_plants", 0, 0), Mapped("water", 0, 0))
    assert places(labelled(before, after)) == {(0, 0)}


def test_what_was_built_on_at_any_date_is_dropped() -> None:
    water = Mapped("water", 0, 0)
    built = state("2020-01-01", water, Mapped("large_lowrise", 0, 0, 0.5))
    assert labelled(state("2015-01-01", water), built).empty
    assert labelled(built, state("2025-01-01", water)).empty


def test_a_cell_that_two_rules_claim_has_no_label_and_is_counted() -> None:
    rules = {
        "water": ClassRule(17, ("water",), under=("scrub",)),
        "scrub": ClassRule(13, ("scrub",), under=("water",)),
    }
    labels = labelled(
        state("2020-01-01", Mapped("water", 0, 0), Mapped("scrub", 0, 0)), rules=rules
    )
    assert labels.empty
    assert counts_of(labels, "water")["claimed_twice"] == 1
    assert counts_of(labels, "scrub")["claimed_twice"] == 1


# Dates


def test_dates_are_joined() -> None:
    half, other = Mapped("water", 0, 0, 0.5), Mapped("water", 0.5, 0, 0.5)
    labels = labelled(
        state("2015-01-01", half, Mapped("water", 2, 2)),
        state("2020-01-01", other, Mapped("water", 3, 3)),
    )
    assert places(labels) == {(0, 0), (2, 2), (3, 3)}
    counts = counts_of(labels)
    assert counts["covered_by_date"] == {"2015-01-01": 1, "2020-01-01": 1}
    assert (counts["covered"], counts["kept"]) == (3, 3)


def test_inputs_of_one_date_are_one_state() -> None:
    half, other = Mapped("water", 0, 0, 0.5), Mapped("water", 0.5, 0, 0.5)
    west = shapely.box(*BBOX[:2], (BBOX[0] + BBOX[2]) / 2, BBOX[3])
    parts = [state("2020-01-01", half, extent=west), state("2020-01-01", other)]
    with pytest.raises(LabelError, match="a date has one state"):
        labelled(*parts)
    joined = join_states([*parts, state("2015-01-01")])
    assert [one.date for one in joined] == ["2015-01-01", "2020-01-01"]
    assert joined[1].extent.equals(EVERYWHERE)
    assert places(labelled(*joined)) == {(0, 0)}


@pytest.mark.parametrize(
    ("began", "is_kept"), [(0, True), (2019, True), (2020, True), (2021, False)]
)
def test_what_began_after_the_image_is_not_there(began: int, is_kept: bool) -> None:
    labels = labelled(state("2023-01-01", Mapped("water", 0, 0, began=began)))
    assert len(labels) == is_kept
    assert labels.attrs[COUNTS]["features_began_later"] == (not is_kept)


def test_what_was_built_after_the_image_speaks_against_nothing() -> None:
    pier = Mapped("paved", 0, 0, 0.5, began=2022)
    reservoir = state("2023-01-01", Mapped("water", 0, 0), pier)
    assert len(labelled(reservoir, year=2020)) == 1
    assert labelled(reservoir, year=2022).empty


def test_a_feature_of_two_dates_that_began_later_is_counted_once() -> None:
    later = Mapped("water", 0, 0, began=2022)
    labels = labelled(state("2023-01-01", later), state("2024-01-01", later))
    assert labels.attrs[COUNTS]["features_began_later"] == 1


@pytest.mark.parametrize(
    ("tags", "year"),
    [
        ({"start_date": "2019"}, 2019),
        ({"start_date": "2019-05-31"}, 2019),
        ({"start_date": "1950s"}, 1950),
        ({"start_date": "2010..2013"}, 2010),
        ({"opening_date": "2024-06"}, 2024),
        ({"start_date": "2019", "opening_date": "2024"}, 2019),
        ({"start_date": "before 1910"}, 0),
        ({"start_date": "~2021"}, 0),
        ({"start_date": "C18"}, 0),
        ({"start_date": "20211"}, 0),
        ({"start_date": ""}, 0),
        ({"natural": "water"}, 0),
    ],
)
def test_the_year_an_object_began(tags: dict[str, str], year: int) -> None:
    assert began_of(tags) == year


# The table


def test_the_table_is_a_label_table() -> None:
    labels = labelled(state("2020-01-01", Mapped("water", 1, 2)))
    require_labels(labels)
    assert list(labels.columns) == list(COLUMNS)
    (row,) = labels.to_dict("records")
    # Cells of 320 m from the CRS's zero: x 640,320, y 5,120,640.
    assert row.pop("geometry").equals(shapely.box(640_320, 5_120_640, 640_640, 5_120_960))
    assert row == {
        "patch_id": "osm_rules/town/16002_2001",
        "city": "town",
        "group": "osm_rules/town/16002_2001",
        "lcz": 17,
        "admissible": "17",
        "split": "",
        "weight": 1.0,
        "year": 2020,
        "source": "osm_rules",
        "license": "ODbL-1.0",
        "crs": CRS,
        "x0": 640_320.0,
        "y0": 5_120_960.0,
        "size_m": 320.0,
    }


def test_an_empty_table_has_the_types_of_a_full_one() -> None:
    full, empty = labelled(state("d", Mapped("water", 0, 0))), labelled(state("d"))
    assert empty.empty
    assert empty.dtypes.astype(str).to_dict() == full.dtypes.astype(str).to_dict()
    assert empty.crs == full.crs


def test_another_bbox_gives_the_same_ids() -> None:
    lake = state("2020-01-01", Mapped("water", 1, 1, 2, 2))
    part = Grid.from_bbox((X0 + CELL, Y0 + CELL, X0 + 1280, Y0 + 1280), crs=CRS, bbox_crs=CRS)
    whole, cut = labelled(lake), labelled(lake, on=part)
    assert whole["patch_id"].tolist() == cut["patch_id"].tolist()
    assert len(whole) == 4


def test_cells_that_touch_are_one_group_and_no_split_cuts_it() -> None:
    # Two lakes: one of three cells that meet by an edge and by a corner, one apart.
    lakes = [
        Mapped("water", 0, 3, 2),
        Mapped("water", 2, 2),
        Mapped("water", 0, 0),
        Mapped("water", 0, 1),
    ]
    wood = Mapped("dense_trees", 3, 3)
    labels = labelled(
        state("2020-01-01", *lakes, wood), rules=chosen_rules(["water", "dense_trees"])
    )
    groups = [sorted(places(part)) for _, part in labels.groupby("group")]
    assert sorted(groups) == [[(0, 0), (0, 1)], [(0, 3), (1, 3), (2, 2)], [(3, 3)]]
    split = split_labels(labels, method="polygon", folds=2, seed=0)
    assert all(len(set(split.folds[labels["group"] == group])) == 1 for group in labels["group"])


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_rows_and_states_changes_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = ("water", "low_plants", "dense_trees", "roads_minor")
    things = [
        Mapped(
            names[i % 4],
            *rng.uniform(0, 3, 2),
            *rng.uniform(0.1, 2, 2),
            int(rng.integers(2018, 2023)),
        )
        for i in range(60)
    ]
    states = [state("2018-01-01", *things[:30]), state("2022-01-01", *things[30:])]
    turned = [
        FeatureState(s.date, s.table.sample(frac=1, random_state=seed), s.extent) for s in states
    ]
    rules = chosen_rules(["water", "dense_trees"])
    first, second = labelled(*states, rules=rules), labelled(*turned[::-1], rules=rules)
    pd.testing.assert_frame_equal(pd.DataFrame(first), pd.DataFrame(second))
    assert first.attrs == second.attrs


def test_cells_past_the_extract_are_not_labelled() -> None:
    lake = Mapped("water", 0, 0, 4, 4)
    half = project_bbox((X0 - 50, Y0 - 50, X0 + 2.5 * CELL, Y0 + 1330), CRS, "EPSG:4326")
    west = state("2020-01-01", lake, extent=shapely.box(*half))
    labels = labelled(west)
    assert places(labels) == {(x, y) for x in (0, 1) for y in range(4)}
    assert labels.attrs[COUNTS]["outside_extent"] == 8
    assert len(labelled(west, state("2021-01-01", lake))) == 16


def test_the_input_stays_as_it_was() -> None:
    given_state = state("2020-01-01", Mapped("water", 0, 0), Mapped("water", 1, 1, began=2024))
    copy = given_state.table.copy()
    labelled(given_state)
    pd.testing.assert_frame_equal(pd.DataFrame(given_state.table), pd.DataFrame(copy))


def test_counts_are_told_in_words_and_survive_a_file(tmp_path: Path) -> None:
    labels = labelled(state("2020-01-01", Mapped("water", 0, 0), Mapped("water", 1, 1, began=2024)))
    assert counts_text(labels).splitlines() == [
        "16 cells, 0 past the extract; 1 features began later than the image",
        "water: 1 covered (1 on 2020-01-01), 0 contradicted, 0 claimed twice; 1 kept, LCZ 17",
    ]
    labels.to_parquet(tmp_path / "rules.parquet")
    assert counts_text(gpd.read_parquet(tmp_path / "rules.parquet")) == counts_text(labels)


# What is refused


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"lcz": 3}, "natural classes"),
        ({"lcz": 18}, "natural classes"),
        ({"features": ()}, r"\(none\)"),
        ({"features": ("sea",)}, "sea"),
        ({"under": ("water",)}, "each once"),
        ({"min_cover": 0.5}, "min_cover = 0.5"),
        ({"max_other": 0.5}, "max_other = 0.5"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(LabelError, match=message):
        ClassRule(**{"lcz": 17, "features": ("water",), **keys})


def test_what_cannot_be_labelled_by_is_refused() -> None:
    lake = state("2020-01-01", Mapped("water", 0, 0))
    with pytest.raises(LabelError, match=r"no rule is named sea; known: water"):
        chosen_rules(["sea"])
    with pytest.raises(LabelError, match="a state of OpenStreetMap"):
        labelled()
    with pytest.raises(LabelError, match="a rule at least"):
        labelled(lake, rules={})
    with pytest.raises(LabelError, match="a class has one rule"):
        labelled(lake, rules={"a": RULES["water"], "b": RULES["water"]})
    with pytest.raises(LabelError, match="a date has one state"):
        labelled(lake, lake)


def test_water_alone_is_on() -> None:
    things = [Mapped("dense_trees", 0, 0), Mapped("low_plants", 1, 1), Mapped("water", 2, 2)]
    assert labelled(state("2020-01-01", *things))["lcz"].tolist() == [17]


# Likeness


def lakes(n: int = 16) -> gpd.GeoDataFrame:
    every = [Mapped("water", i % 4, i // 4) for i in range(n)]
    return labelled(state("2020-01-01", *every))


def features_of(labels: gpd.GeoDataFrame, values: npt.NDArray[Any]) -> xr.Dataset:
    return xr.Dataset(
        {"features": (("patch", "feature"), values.astype(np.float32))},
        coords={"patch_id": ("patch", labels["patch_id"].to_numpy(object))},
    )


def test_no_cell_of_clean_classes_is_far() -> None:
    labels = lakes()
    for seed in range(20):
        values = np.random.default_rng(seed).normal(5, [1, 10, 0.1, 3] * 16, (16, 64))
        near = drop_far(labels, features_of(labels, values))
        assert len(near) == 16, f"seed {seed}"
        assert counts_of(near)["far"] == 0


def test_planted_cells_are_far_and_no_other() -> None:
    labels = lakes()
    planted = set(labels["patch_id"].iloc[[3, 11]])
    for seed in range(20):
        values = np.random.default_rng(seed).normal(0, 1, (16, 64))
        values[[3, 11], :32] += 6
        near = drop_far(labels, features_of(labels, values))
        assert set(labels["patch_id"]) - set(near["patch_id"]) == planted, f"seed {seed}"
        assert (counts_of(near)["far"], counts_of(near)["kept"]) == (2, 14)
    assert counts_of(labels)["kept"] == 16
    assert "2 far from the others; 14 kept" in counts_text(near)


def test_features_may_come_in_any_order_and_any_unit() -> None:
    labels = lakes()
    values = np.random.default_rng(0).normal(0, 1, (16, 64))
    values[3] += 6
    given_ = features_of(labels, values)
    other = features_of(labels, values * 1000 - 7).isel(patch=slice(None, None, -1))
    first, second = drop_far(labels, given_), drop_far(labels, other)
    assert first["patch_id"].tolist() == second["patch_id"].tolist()
    assert len(first) == 15


def test_a_class_of_few_cells_is_not_judged_and_that_is_said() -> None:
    labels = lakes(7)
    values = np.zeros((7, 2))
    values[0] = 100
    near = drop_far(labels, features_of(labels, values))
    assert len(near) == 7
    assert "7 not judged by features: 7 cells with features, under 8" in counts_text(near)


def test_cells_without_features_stay_and_are_counted() -> None:
    labels = lakes()
    values = np.random.default_rng(1).normal(0, 1, (16, 64))
    values[5, 0] = np.nan
    values[:, 7] = np.nan  # of a layer that the city lacks
    near = drop_far(labels, features_of(labels, values))
    assert len(near) == 16
    assert counts_of(near)["not_judged"] == 1


def test_cells_that_are_all_alike_are_near() -> None:
    labels = lakes()
    assert len(drop_far(labels, features_of(labels, np.ones((16, 3))))) == 16


def test_features_of_other_labels_are_refused() -> None:
    labels = lakes()
    with pytest.raises(LabelError, match="8 labels have no row of features"):
        drop_far(labels, features_of(lakes(8), np.ones((8, 3))))
    nothing = features_of(labels, np.full((16, 3), np.nan))
    with pytest.raises(LabelError, match="do they lie on the embedding"):
        drop_far(labels, nothing)
    labels.attrs.clear()
    with pytest.raises(LabelError, match="give what label_by_rules gave"):
        drop_far(labels, features_of(labels, np.ones((16, 3))))


# Through the catalog


def test_features_are_read_through_the_catalog(tmp_path: Path) -> None:
    water = {"natural": "water"}
    file = write_osm_file(
        tmp_path / "a.osm.pbf",
        area(water, 0, 0, CELL),
        area({**water, "start_date": "2022-04"}, 640, 0, CELL),
        # As wide as a cell, along the third row from below.
        line({"waterway": "river", "width": "320"}, (0, 800), (1280, 800)),
    )
    catalog = osm_catalog(tmp_path, file)
    (read,) = read_feature_states(catalog, "osm", grid())
    assert read.date == "2020-03-01"
    assert sorted(read.table["began"]) == [0, 0, 2022]
    river = {(x, 2) for x in range(4)}
    assert places(labelled(read, year=2020)) == {(0, 0), *river}
    assert places(labelled(read, year=2022)) == {(0, 0), (2, 0), *river}
    with pytest.raises(LabelError, match=r"no features of 2021-01-01; it has 2020-03-01"):
        read_feature_states(catalog, "osm", grid(), dates=["2021-01-01"])
    for table in (tmp_path / "catalog").rglob("*.parquet"):
        if "items" not in table.name:
            table.unlink()
    with pytest.raises(MissingInputError, match="build the catalog again"):
        read_feature_states(catalog, "osm", grid())


def test_an_input_without_features_is_refused(tmp_path: Path) -> None:
    write_raster(tmp_path / "a.tif", np.zeros((1, 128, 128), np.uint8), x0=X0, y0=Y0 + 1280)
    catalog = catalog_of(tmp_path, raster_input("other", "a.tif"))
    with pytest.raises(LabelError, match='source = "osm"'):
        read_feature_states(catalog, "other", grid())


def write_embedding(folder: Path, city: City) -> str:
    """The synthetic embedding of a city as a raster, and its input."""
    model = embedding_model(Difficulty(), n_cities=1, seed=7)
    codes = model.codes(city.zone_map, 0, Window.of_grid(city.grid))
    north_up = codes[:, ::-1].astype(np.int16)
    minx, _, _, maxy = city.grid.bbox
    write_raster(
        folder / "embedding.tif", north_up, x0=minx, y0=maxy, crs=city.grid.crs, nodata=-128
    )
    return raster_input("embedding", "embedding.tif")


@pytest.fixture(scope="module")
def city() -> City:
    return draw_city(0, km=6.0, seed=7)


@pytest.fixture(scope="module")
def town(city: City, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The catalog of a synthetic city: its map at two dates, and its embedding."""
    folder = tmp_path_factory.mktemp("town")
    write_osm(folder / "town.osh.pbf", city, seed=7)
    dates = '["2016-01-01", "2021-06-01"]'
    osm = f'name = "osm"\nsource = "osm"\nhref = "town.osh.pbf"\ndates = {dates}'
    return catalog_of(folder, osm, write_embedding(folder, city))


def true_shares(city: City, labels: gpd.GeoDataFrame) -> npt.NDArray[np.float64]:
    """Share of the pixels of each cell that are truly of its class."""
    truth = city.zone_map.classes(Window.of_grid(city.grid))[::-1]
    minx, _, _, maxy = city.grid.bbox
    shares = []
    for x0, y0, lcz in zip(labels["x0"], labels["y0"], labels["lcz"], strict=True):
        row, column = round((maxy - y0) / 10), round((x0 - minx) / 10)
        shares.append((truth[row : row + 32, column : column + 32] == lcz).mean())
    return np.array(shares)


def test_cells_of_a_synthetic_city_are_truly_of_their_class(town: Any, city: City) -> None:
    states = read_feature_states(town, "osm", city.grid)
    labels = label_by_rules(states, city.grid, city="town", year=2021, rules=RULES)
    of_class = labels.groupby("lcz").size()
    assert of_class[17] >= 8
    assert of_class.sum() >= 40
    assert (true_shares(city, labels) >= 0.95).mean() >= 0.95
    # The map became more complete.
    early, late = counts_of(labels)["covered_by_date"].values()
    assert early < late


def test_cells_that_the_map_has_wrong_are_found_by_the_embedding(town: Any, city: City) -> None:
    states = read_feature_states(town, "osm", city.grid)
    right = label_by_rules(states, city.grid, city="town", year=2021)
    wrong = wrongly_water(states, city, right, n=2)
    labels = label_by_rules(wrong, city.grid, city="town", year=2021)
    planted = set(labels["patch_id"]) - set(right["patch_id"])
    assert len(planted) == 2
    halo_px = city.grid.halo_px
    cube = open_cube(town, city.grid, inputs=["embedding"], halo_px=halo_px).isel(time=0)
    near = drop_far(labels, aggregate_patches(cube, labels).compute())
    assert planted.isdisjoint(near["patch_id"])
    assert len(set(right["patch_id"]) - set(near["patch_id"])) <= 0.05 * len(right)
    assert (true_shares(city, near) >= 0.95).mean() >= 0.95


def wrongly_water(
    states: Sequence[FeatureState], city: City, right: gpd.GeoDataFrame, *, n: int
) -> list[FeatureState]:
    """The states with cells of nothing but fields mapped as water in place of what was there."""
    rules = chosen_rules(["low_plants"])
    fields = label_by_rules(states, city.grid, city="town", year=2021, rules=rules)
    cells = fields[~fields["patch_id"].isin(right["patch_id"])].iloc[:n]
    columns = {"feature": "water", "osm_type": "way", "osm_id": range(-n, 0), "began": 0}
    drawn = gpd.GeoDataFrame(columns, geometry=cells.geometry.to_numpy(), crs=city.grid.crs)
    table = pd.concat([states[-1].table, drawn.to_crs("EPSG:4326")], ignore_index=True)
    return [*states[:-1], FeatureState(states[-1].date, table, states[-1].extent)]


def test_the_example_of_the_guide_prints_what_it_promises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[1] / "docs" / "guide" / "labels.md").read_text()
    (example,) = (
        part.split("```")[0] for part in page.split("```python\n")[1:] if "write_osm" in part[:400]
    )
    (promised,) = (
        part.split("```")[0] for part in page.split("```text\n")[1:] if "covered" in part[:200]
    )
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "labels.md", "exec"), {})
    assert capsys.readouterr().out == promised


# Real files


def test_cover_agrees_with_the_masks_of_the_cube(realdata: Path, tmp_path: Path) -> None:
    """Of Andorra, on cells: areas by shapely against pixels whose centres they hold."""
    href = (realdata / "osm" / "andorra.osh.pbf").as_posix()
    keys = 'dates = ["2017-01-01"]\nfeatures = ["dense_trees", "water"]'
    catalog = catalog_of(tmp_path, f'name = "osm"\nsource = "osm"\nhref = "{href}"\n{keys}')
    town = Grid.from_bbox((1.50, 42.50, 1.60, 42.58))
    (read,) = read_feature_states(catalog, "osm", town)
    cube = open_cube(catalog, town, inputs=["osm"]).isel(time=0)
    shares = aggregate(cube, stats=["mean"])["features"]
    for feature, tolerance, at_least in (("dense_trees", 0.01, 0.99), ("water", 0.02, 0.05)):
        table = read.table[read.table["feature"] == feature]
        covered_m2 = shapely.area(areas_on_cells(table, town, cell_squares(town)))
        drawn = shares.sel(feature=f"osm_{feature}_mean").values.ravel()
        assert np.abs(covered_m2 / town.cell_m**2 - drawn).max() < tolerance
        assert drawn.max() > at_least


def test_andorra_has_woods_and_rocks_and_no_water_of_a_cell(realdata: Path, tmp_path: Path) -> None:
    href = (realdata / "osm" / "andorra.osh.pbf").as_posix()
    dates = 'dates = ["2014-01-01", "2017-01-01"]'
    catalog = catalog_of(tmp_path, f'name = "osm"\nsource = "osm"\nhref = "{href}"\n{dates}')
    country = Grid.from_bbox((1.40, 42.42, 1.80, 42.66))
    states = read_feature_states(catalog, "osm", country)
    labels = label_by_rules(states, country, city="andorra", year=2016, rules=RULES)
    assert counts_of(labels, "water")["covered"] == 0
    woods = counts_of(labels, "dense_trees")
    # Woods were mapped from 2014 to 2017; some cells have enough only by both dates together.
    assert woods["covered_by_date"] == {"2014-01-01": 686, "2017-01-01": 1045}
    assert (woods["covered"], woods["contradicted"], woods["kept"]) == (1105, 51, 1054)
    assert labels["patch_id"].is_unique
    assert labels["lcz"].value_counts()[15] == counts_of(labels, "bare_rock")["kept"] == 283


def test_real_objects_began_in_the_year_of_their_tag(realdata: Path, tmp_path: Path) -> None:
    path = realdata / "osm" / "Helsinki.osm.pbf"
    osm = f'name = "osm"\nsource = "osm"\nhref = "{path.as_posix()}"\nstatic = true'
    centre = Grid.from_bbox((24.9351, 60.1641, 24.9535, 60.1792))
    (read,) = read_feature_states(catalog_of(tmp_path, osm), "osm", centre)
    ways = osmium.FileProcessor(path, osmium.osm.WAY)
    tagged = {way.id: way.tags["start_date"] for way in ways if "start_date" in way.tags}
    told = read.table[(read.table["began"] > 0) & (read.table["osm_type"] == "way")]
    assert len(told) > 50
    assert [int(tagged[i][:4]) for i in told["osm_id"]] == told["began"].tolist()
    # Of 2000 and later: left out for an image of 1999.
    n_later = int((read.table["began"] >= 2000).sum())
    labels = label_by_rules([read], centre, city="helsinki", year=1999)
    assert labels.attrs[COUNTS]["features_began_later"] == n_later > 0
