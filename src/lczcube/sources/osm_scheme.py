"""Tags of OpenStreetMap, and which of the 17 features of urban form they say is on the ground.

The features and their tags follow lczkit (MIT; after Fonte et al. 2019, doi:10.3390/ijgi8020061,
and GeoClimate), with tags that have since been deprecated, for old snapshots. Tags with a prefix
such as ``disused:`` are other keys, and say nothing here.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

SCHEME = "lczkit-17/1"
"""Name and version of the scheme, written on every item."""

FEATURES = (
    "low_plants",
    "scrub",
    "scattered_trees",
    "dense_trees",
    "bare_soil",
    "bare_rock",
    "rail",
    "roads_minor",
    "roads_major",
    "paved",
    "heavy_industry",
    "buildings_lowrise",
    "large_lowrise",
    "lightweight",
    "buildings_midrise",
    "buildings_highrise",
    "water",
)
"""Names, in the order in which a picture is painted: later ones cover earlier ones."""

MAPPED = "mapped"
"""The band that is 1 where any of the features is, whichever of them are asked for."""

BUILDINGS = (
    "buildings_lowrise", "large_lowrise", "lightweight", "buildings_midrise", "buildings_highrise",
)  # fmt: skip
"""The features of buildings: every building is one of them."""

Element = Literal["node", "open_way", "closed_way", "multipolygon"]
Shape = Literal["point", "line", "area"]

MIN_MIDRISE_LEVELS, MIN_HIGHRISE_LEVELS = 4.0, 10.0
MIN_MIDRISE_M, MIN_HIGHRISE_M = 10.0, 25.0
LANE_M = 3.5
MAX_WIDTH_M = 500.0
"""A line that is tagged wider is taken to have no tagged width."""

ROAD_WIDTHS_M: Mapping[str, float] = {
    "motorway": 24,
    "trunk": 16,
    "primary": 10,
    "secondary": 10,
    "tertiary": 8,
    "residential": 8,
    "unclassified": 3,
    "service": 3,
    "pedestrian": 3,
    "track": 2,
}
"""Widths by GeoClimate of roads without ``width`` and ``lanes``; others have their feature's."""


@dataclass(frozen=True)
class Match:
    """What an object is.

    Attributes
    ----------
    feature : str
        One of :data:`FEATURES`.
    shape : str
        ``point``, ``line`` or ``area``.
    width_m : float or None
        Of a line.
    """

    feature: str
    shape: Shape
    width_m: float | None = None


@dataclass(frozen=True)
class _Rule:
    """How objects of a tag are drawn.

    ``area``: closed ways and multipolygons. ``line``: ways; closed ones are areas with
    ``area=yes``, and multipolygons are areas. ``either``: closed ways are areas, open ones lines.
    ``site``: areas, and nodes.
    """

    feature: str
    drawn: Literal["area", "line", "either", "site"]
    width_m: float | None = None

    def shape(self, element: Element, *, is_marked_area: bool) -> Shape | None:
        """How an element is drawn by the rule, if at all."""
        if element == "node":
            return "point" if self.drawn == "site" else None
        if element == "open_way":
            return "line" if self.drawn in ("line", "either") else None
        if element == "closed_way" and self.drawn == "line" and not is_marked_area:
            return "line"
        return "area"


def _tags(text: str, rule: _Rule) -> dict[tuple[str, str], _Rule]:
    """Rules of a text such as ``natural=scrub,heath landuse=vineyard``."""
    pairs = (part.split("=") for part in text.split())
    return {(key, value): rule for key, values in pairs for value in values.split(",")}


_RULES: Mapping[tuple[str, str], _Rule] = {
    **_tags(
        "landuse=farmland,meadow,grass,allotments,recreation_ground,village_green,greenfield,"
        "flowerbed natural=grassland,fell,wetland leisure=park,garden,golf_course,pitch,common "
        "landcover=grass",
        _Rule("low_plants", "area"),
    ),
    **_tags("natural=scrub,heath,shrubbery landuse=vineyard", _Rule("scrub", "area")),
    **_tags("landuse=orchard,plant_nursery", _Rule("scattered_trees", "area")),
    **_tags("natural=tree_row", _Rule("scattered_trees", "line", 5)),
    **_tags("natural=wood landuse=forest wetland=mangrove,swamp", _Rule("dense_trees", "area")),
    **_tags(
        "natural=sand,beach,dune,mud,shingle landuse=quarry,brownfield,construction,landfill",
        _Rule("bare_soil", "area"),
    ),
    **_tags("natural=bare_rock,scree,rock,stone", _Rule("bare_rock", "area")),
    **_tags(
        "railway=rail,light_rail,tram,narrow_gauge,funicular,monorail", _Rule("rail", "line", 6)
    ),
    **_tags("landuse=railway", _Rule("rail", "area")),
    **_tags(
        "highway=tertiary,tertiary_link,residential,unclassified,service,living_street,track",
        _Rule("roads_minor", "line", 6),
    ),
    **_tags(
        "highway=motorway,motorway_link,trunk,trunk_link,primary,primary_link,secondary,"
        "secondary_link",
        _Rule("roads_major", "line", 12),
    ),
    **_tags("amenity=parking", _Rule("paved", "area")),
    **_tags("aeroway=runway,taxiway,apron", _Rule("paved", "either", 18)),
    **_tags("highway=pedestrian", _Rule("paved", "line", 8)),
    **_tags("landuse=industrial,port", _Rule("heavy_industry", "area")),
    **_tags(
        "man_made=works,wastewater_plant,water_works,chimney,storage_tank,silo,gasometer,kiln,"
        "petroleum_well power=plant,substation",
        _Rule("heavy_industry", "site"),
    ),
    **_tags(
        "natural=water,bay,strait waterway=riverbank landuse=reservoir,basin,salt_pond "
        "leisure=swimming_pool",
        _Rule("water", "area"),
    ),
    **_tags("waterway=river,canal,stream,drain,ditch", _Rule("water", "line", 8)),
    # Deprecated or never approved, and in old snapshots.
    **_tags(
        "natural=grass,meadow,marsh landuse=farm,field,crop,pasture", _Rule("low_plants", "area")
    ),
    **_tags("natural=moor,shrub landuse=scrub,scrubs", _Rule("scrub", "area")),
    **_tags("natural=trees landuse=wood boundary=forest", _Rule("dense_trees", "area")),
    **_tags("natural=desert", _Rule("bare_soil", "area")),
    **_tags("landuse=harbour", _Rule("heavy_industry", "area")),
    **_tags("waterway=brook,rapids", _Rule("water", "line", 8)),
}

_INDUSTRIAL = _Rule("heavy_industry", "area")

KEYS = tuple(sorted({key for key, _ in _RULES} | {"building", "industrial"}))
"""Keys of the scheme: an object without any of them is none of its features."""

NODE_KEYS = tuple(sorted({key for (key, _), rule in _RULES.items() if rule.drawn == "site"}))
"""Those that nodes are taken by."""

_NO_BUILDING = {"no", "entrance", "proposed", "planned", "demolished", "razed", "removed"}
_LARGE = {
    "warehouse", "industrial", "retail", "supermarket", "hangar", "train_station", "transportation",
    "stadium", "sports_hall", "parking", "service", "manufacture", "depot",
}  # fmt: skip
_LIGHTWEIGHT = {
    "hut", "shed", "cabin", "ger", "yurt", "static_caravan", "tent", "slum", "shanty",
}  # fmt: skip
_NOT_THERE = ("proposed", "demolished", "razed", "removed")

_LEVEL_KEYS = ("building:levels", "stories", "floors")
_MOST_LEVELS = 200.0
_MOST_METRES = 1000.0
_NUMBER = re.compile(r"\s*(\d+(?:\.\d+)?)")
_LENGTH = re.compile(r"\s*(\d+(?:[.,]\d+)?)\s*(m|metres?|meters?|'|ft|feet)?\s*$", re.IGNORECASE)
_FOOT_M = 0.3048

_BEGIN_KEYS = ("start_date", "opening_date")
_BEGIN = re.compile(r"\s*(\d{4})(?:s|-\d{2}(?:-\d{2})?)?(?:\s*\.\.\s*\d{4}\S*)?\s*$")


def classify(tags: Mapping[str, str], element: Element, *, roofs: bool = False) -> list[Match]:
    """The features that an object is, none or several, each once for each shape.

    Parameters
    ----------
    tags : mapping of str to str
        Of the object.
    element : str
        ``node``, ``open_way``, ``closed_way`` or ``multipolygon``.
    roofs : bool
        True to take ``building=roof`` for a building. Default: a roof has no walls.

    Examples
    --------
    >>> classify({"highway": "motorway", "lanes": "3"}, "open_way")
    [Match(feature='roads_major', shape='line', width_m=10.5)]
    >>> classify({"building": "yes", "height": "30 m"}, "closed_way")
    [Match(feature='buildings_highrise', shape='area', width_m=None)]
    """
    if _is_hidden(tags):
        return []
    area = tags.get("area")
    found: dict[tuple[str, Shape], Match] = {}
    for rule in _rules_of(tags):
        shape = rule.shape(element, is_marked_area=area == "yes")
        if shape is None or (shape == "area" and element == "closed_way" and area == "no"):
            continue
        width_m = _width_m(tags, rule) if shape == "line" else None
        found.setdefault((rule.feature, shape), Match(rule.feature, shape, width_m))
    building = building_feature(tags, roofs=roofs)
    if building is not None and element in ("closed_way", "multipolygon") and area != "no":
        found[building, "area"] = Match(building, "area")
    return list(found.values())


def building_feature(tags: Mapping[str, str], *, roofs: bool = False) -> str | None:
    """Which of :data:`BUILDINGS` an object is; None where it is no building.

    Storeys decide, else the height, else the kind of building: a warehouse of six storeys is
    midrise. Without any of them a building is low.
    """
    kind = tags.get("building")
    if kind is None or kind in _NO_BUILDING or (kind == "roof" and not roofs):
        return None
    levels, height_m = levels_of(tags), height_of(tags)
    if levels is not None:
        is_mid, is_high = levels >= MIN_MIDRISE_LEVELS, levels >= MIN_HIGHRISE_LEVELS
    else:
        known_m = 0.0 if height_m is None else height_m
        is_mid, is_high = known_m >= MIN_MIDRISE_M, known_m >= MIN_HIGHRISE_M
        is_high |= kind == "skyscraper" and height_m is None
    if is_high or is_mid:
        return "buildings_highrise" if is_high else "buildings_midrise"
    if kind in _LARGE:
        return "large_lowrise"
    return "lightweight" if kind in _LIGHTWEIGHT else "buildings_lowrise"


def levels_of(tags: Mapping[str, str]) -> float | None:
    """Storeys as they are tagged; None where they are not, or cannot be."""
    for key in _LEVEL_KEYS:
        match = _NUMBER.match(tags.get(key, ""))
        if match and float(match[1]) <= _MOST_LEVELS:
            return float(match[1])
    return None


def height_of(tags: Mapping[str, str]) -> float | None:
    """Height in metres as it is tagged; None where it is not, or cannot be."""
    return _metres(tags.get("height") or tags.get("building:height"))


def began_of(tags: Mapping[str, str]) -> int:
    """The first year in which an object may have been there, as it is tagged; 0 where unknown.

    Of a decade or a range it is the first year. What is about a year, before or after it, or in a
    century, says nothing that could be held against the object.

    Examples
    --------
    >>> began_of({"start_date": "2019-05"}), began_of({"start_date": "1950s"})
    (2019, 1950)
    >>> began_of({"start_date": "~1855"}), began_of({})
    (0, 0)
    """
    for key in _BEGIN_KEYS:
        match = _BEGIN.match(tags.get(key, ""))
        if match:
            return int(match[1])
    return 0


def _is_hidden(tags: Mapping[str, str]) -> bool:
    """True for what is under the ground, or not there."""
    return (
        tags.get("location") == "underground"
        or tags.get("parking") == "underground"
        or tags.get("tunnel", "no") != "no"
        or tags.get("layer", "").strip().startswith("-")
        or any(tags.get(key) == "yes" for key in _NOT_THERE)
    )


def _rules_of(tags: Mapping[str, str]) -> list[_Rule]:
    rules = [_RULES[tag] for tag in tags.items() if tag in _RULES]
    return [*rules, _INDUSTRIAL] if tags.get("industrial", "no") != "no" else rules


def _width_m(tags: Mapping[str, str], rule: _Rule) -> float | None:
    tagged = _metres(tags.get("width"))
    if tagged and tagged <= MAX_WIDTH_M:
        return tagged
    road = tags.get("highway")
    if road is None or (rule.feature == "paved" and "aeroway" in tags):
        return rule.width_m
    lanes = _NUMBER.match(tags.get("lanes", ""))
    if lanes and 1 <= float(lanes[1]) <= 16:
        return float(lanes[1]) * LANE_M
    return ROAD_WIDTHS_M.get(road, rule.width_m)


def _metres(text: str | None) -> float | None:
    match = _LENGTH.match(text or "")
    if match is None:
        return None
    unit = (match[2] or "m").lower()
    metres = float(match[1].replace(",", ".")) * (_FOOT_M if unit in ("'", "ft", "feet") else 1)
    return metres if 0 <= metres <= _MOST_METRES else None
