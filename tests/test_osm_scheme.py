"""Which feature an object of OpenStreetMap is, by its tags and the way it is drawn."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lczcube.sources.osm_scheme import (
    BUILDINGS,
    FEATURES,
    KEYS,
    ROAD_WIDTHS_M,
    Element,
    building_feature,
    classify,
    height_of,
    levels_of,
)


def tags(text: str) -> dict[str, str]:
    """``"building=yes,building:levels=4"`` as a mapping."""
    return dict(pair.split("=", 1) for pair in text.split(",")) if text else {}


def found(text: str, element: Element = "closed_way", *, roofs: bool = False) -> set[str]:
    return {match.feature for match in classify(tags(text), element, roofs=roofs)}


AREAS = {
    "low_plants": "landuse=farmland landuse=meadow landuse=grass landuse=allotments "
    "landuse=recreation_ground landuse=village_green landuse=greenfield landuse=flowerbed "
    "natural=grassland natural=fell natural=wetland leisure=park leisure=garden "
    "leisure=golf_course leisure=pitch leisure=common landcover=grass",
    "scrub": "natural=scrub natural=heath natural=shrubbery landuse=vineyard",
    "scattered_trees": "landuse=orchard landuse=plant_nursery",
    "dense_trees": "natural=wood landuse=forest wetland=mangrove wetland=swamp",
    "bare_soil": "natural=sand natural=beach natural=dune natural=mud natural=shingle "
    "landuse=quarry landuse=brownfield landuse=construction landuse=landfill",
    "bare_rock": "natural=bare_rock natural=scree natural=rock natural=stone",
    "rail": "landuse=railway",
    "paved": "amenity=parking aeroway=runway aeroway=taxiway aeroway=apron",
    "heavy_industry": "landuse=industrial landuse=port man_made=works man_made=wastewater_plant "
    "man_made=water_works man_made=chimney man_made=storage_tank man_made=silo man_made=gasometer "
    "man_made=kiln man_made=petroleum_well power=plant power=substation industrial=oil",
    "buildings_lowrise": "building=yes building=house building=public_building building=garage",
    "large_lowrise": "building=warehouse building=industrial building=retail building=supermarket "
    "building=hangar building=train_station building=transportation building=stadium "
    "building=sports_hall building=parking building=service building=manufacture building=depot",
    "lightweight": "building=hut building=shed building=cabin building=ger building=yurt "
    "building=static_caravan building=tent building=slum building=shanty",
    "water": "natural=water natural=bay natural=strait waterway=riverbank landuse=reservoir "
    "landuse=basin landuse=salt_pond leisure=swimming_pool",
}

LINES = {
    "scattered_trees": "natural=tree_row",
    "rail": "railway=rail railway=light_rail railway=tram railway=narrow_gauge railway=funicular "
    "railway=monorail",
    "roads_minor": "highway=tertiary highway=tertiary_link highway=residential "
    "highway=unclassified highway=service highway=living_street highway=track",
    "roads_major": "highway=motorway highway=motorway_link highway=trunk highway=trunk_link "
    "highway=primary highway=primary_link highway=secondary highway=secondary_link",
    "paved": "highway=pedestrian aeroway=runway aeroway=taxiway",
    "water": "waterway=river waterway=canal waterway=stream waterway=drain waterway=ditch",
}

OLD = {
    "low_plants": "natural=grass natural=meadow natural=marsh landuse=farm landuse=field "
    "landuse=crop landuse=pasture",
    "scrub": "natural=moor natural=shrub landuse=scrub landuse=scrubs",
    "dense_trees": "natural=trees landuse=wood boundary=forest",
    "bare_soil": "natural=desert",
    "heavy_industry": "landuse=harbour",
    "buildings_highrise": "building=skyscraper",
}


def pairs(table: dict[str, str]) -> list[tuple[str, str]]:
    return [(feature, text) for feature, texts in table.items() for text in texts.split()]


@pytest.mark.parametrize(("feature", "text"), pairs(AREAS) + pairs(OLD))
def test_an_area_is_the_feature_of_its_tag(feature: str, text: str) -> None:
    assert found(text) == {feature}
    assert found(text, "multipolygon") == {feature}


@pytest.mark.parametrize(
    ("feature", "text"),
    [*pairs(LINES), ("water", "waterway=brook"), ("water", "waterway=rapids")],
)
def test_a_line_is_the_feature_of_its_tag(feature: str, text: str) -> None:
    (match,) = classify(tags(text), "open_way")
    assert (match.feature, match.shape) == (feature, "line")
    assert match.width_m is not None
    assert match.width_m > 0


def test_every_feature_has_a_tag() -> None:
    reached = {feature for feature, _ in pairs(AREAS) + pairs(LINES)}
    assert reached | {"buildings_midrise", "buildings_highrise"} == set(FEATURES)


@pytest.mark.parametrize(
    "text",
    [
        "building=no",
        "building=entrance",
        "building=demolished",
        "building=yes,location=underground",
        "building=yes,layer=-1",
        "building=yes,demolished=yes",
        "highway=residential,tunnel=yes",
        "highway=service,tunnel=building_passage",
        "railway=rail,tunnel=yes",
        "waterway=stream,tunnel=culvert",
        "highway=primary,layer=-2",
        "highway=proposed",
        "highway=footway",
        "railway=abandoned",
        "amenity=parking,parking=underground",
        "natural=coastline",
        "proposed:building=yes",
        "disused:landuse=industrial",
        "demolished:building=house",
        "industrial=no",
        "landuse=residential",
        "name=Nowhere",
        "",
    ],
)
def test_what_is_hidden_or_not_there_is_nothing(text: str) -> None:
    assert found(text) == set()
    assert found(text, "open_way") == set()


def test_a_tag_of_the_past_takes_nothing_from_what_is_there_now() -> None:
    assert found("building=yes,disused:shop=bakery") == {"buildings_lowrise"}
    assert found("landuse=grass,demolished:building=yes") == {"low_plants"}


@pytest.mark.parametrize("text", ["highway=primary,tunnel=no", "highway=primary,layer=1"])
def test_a_bridge_and_a_road_that_is_no_tunnel_stay(text: str) -> None:
    assert found(text, "open_way") == {"roads_major"}


def test_a_roof_is_a_building_only_where_it_is_asked_for() -> None:
    assert found("building=roof") == set()
    assert found("building=roof", roofs=True) == {"buildings_lowrise"}


@pytest.mark.parametrize(
    ("text", "feature"),
    [
        ("building=yes", "buildings_lowrise"),
        ("building=yes,building:levels=1", "buildings_lowrise"),
        ("building=yes,building:levels=3", "buildings_lowrise"),
        ("building=yes,building:levels=3.5", "buildings_lowrise"),
        ("building=yes,building:levels=4", "buildings_midrise"),
        ("building=yes,building:levels=9", "buildings_midrise"),
        ("building=yes,building:levels=10", "buildings_highrise"),
        ("building=yes,height=9.9", "buildings_lowrise"),
        ("building=yes,height=10", "buildings_midrise"),
        ("building=yes,height=24.9 m", "buildings_midrise"),
        ("building=yes,height=25m", "buildings_highrise"),
        ("building=yes,height=90 ft", "buildings_highrise"),
        ("building=yes,height=tall", "buildings_lowrise"),
        ("building=yes,building:levels=2,height=30", "buildings_lowrise"),
        ("building=warehouse,building:levels=6", "buildings_midrise"),
        ("building=hut,building:levels=1", "lightweight"),
        ("building=skyscraper,building:levels=6", "buildings_midrise"),
        ("building=skyscraper,height=20", "buildings_midrise"),
        ("building=yes,stories=5", "buildings_midrise"),
        ("building=yes,floors=12", "buildings_highrise"),
        ("building=yes,building:levels=9999", "buildings_lowrise"),
    ],
)
def test_storeys_then_height_then_kind_say_what_a_building_is(text: str, feature: str) -> None:
    assert building_feature(tags(text)) == feature
    assert found(text) == {feature}


@pytest.mark.parametrize(
    ("text", "levels"), [("3", 3), ("2.5", 2.5), ("4;5", 4), ("-1", None), ("", None), ("x", None)]
)
def test_levels_are_read_as_they_are_tagged(text: str, levels: float | None) -> None:
    assert levels_of({"building:levels": text}) == levels


@pytest.mark.parametrize(
    ("text", "height_m"),
    [
        ("12", 12),
        ("12.5 m", 12.5),
        ("7,5", 7.5),
        ("10'", 3.048),
        ("5 stories", None),
        ("1e9", None),
    ],
)
def test_heights_are_read_in_metres(text: str, height_m: float | None) -> None:
    assert height_of({"height": text}) == height_m


@pytest.mark.parametrize(
    ("text", "width_m"),
    [
        *((f"highway={road}", width) for road, width in ROAD_WIDTHS_M.items()),
        ("highway=residential,width=5.5", 5.5),
        ("highway=residential,width=18'", 18 * 0.3048),
        ("highway=residential,lanes=2", 7.0),
        ("highway=residential,lanes=2,width=6", 6.0),
        ("highway=residential,lanes=0", 8.0),
        ("highway=residential,width=wide", 8.0),
        ("highway=residential,width=9999", 8.0),
        ("highway=motorway_link", 12.0),
        ("highway=living_street", 6.0),
        ("railway=rail", 6.0),
        ("railway=tram,lanes=2", 6.0),
        ("waterway=river", 8.0),
        ("waterway=river,width=120", 120.0),
        ("natural=tree_row", 5.0),
        ("aeroway=runway", 18.0),
        ("aeroway=runway,width=45", 45.0),
    ],
)
def test_a_line_has_its_tagged_width_else_its_lanes_else_that_of_its_class(
    text: str, width_m: float
) -> None:
    (match,) = classify(tags(text), "open_way")
    assert match.width_m == pytest.approx(width_m)


@pytest.mark.parametrize(
    ("text", "element", "shape"),
    [
        ("highway=residential", "closed_way", "line"),
        ("highway=residential,area=yes", "closed_way", "area"),
        ("highway=pedestrian", "multipolygon", "area"),
        ("aeroway=runway", "open_way", "line"),
        ("aeroway=runway", "closed_way", "area"),
        ("waterway=river", "closed_way", "line"),
        ("man_made=chimney", "node", "point"),
        ("power=substation", "node", "point"),
        ("building=yes", "node", None),
        ("building=yes", "open_way", None),
        ("landuse=forest", "open_way", None),
        ("landuse=forest,area=no", "closed_way", None),
        ("building=yes,area=no", "closed_way", None),
        ("highway=residential", "node", None),
    ],
)
def test_how_an_object_is_drawn_decides_its_shape(
    text: str, element: Element, shape: str | None
) -> None:
    matches = classify(tags(text), element)
    assert [match.shape for match in matches] == ([] if shape is None else [shape])


def test_an_object_may_be_several_features() -> None:
    assert found("amenity=parking,building=parking,building:levels=5") == {
        "paved", "buildings_midrise",
    }  # fmt: skip
    assert found("natural=wetland,wetland=swamp") == {"low_plants", "dense_trees"}


KINDS = ["yes", "no", "hut", "warehouse", "skyscraper", "roof", "house", "Borda", ""]
NUMBERS = ["", "0", "1", "3", "4", "9", "10", "26", "-2", "x", "5 m", "7;8"]


@given(
    kind=st.sampled_from(KINDS),
    levels=st.sampled_from(NUMBERS),
    height=st.sampled_from(NUMBERS),
    other=st.dictionaries(st.sampled_from(KEYS), st.sampled_from(["yes", "wood", "water", "rail"])),
    element=st.sampled_from(get_args(Element)),
)
def test_a_building_is_one_of_five_and_nothing_repeats(
    kind: str, levels: str, height: str, other: dict[str, str], element: Element
) -> None:
    object_tags = {**other, "building": kind, "building:levels": levels, "height": height}
    matches = classify(object_tags, element)
    drawn = [(match.feature, match.shape) for match in matches]
    assert len(set(drawn)) == len(drawn)
    n_buildings = sum(feature in BUILDINGS for feature, _ in drawn)
    is_area = element in ("closed_way", "multipolygon") and other.get("area") != "no"
    assert n_buildings == (is_area and building_feature(object_tags) is not None)
