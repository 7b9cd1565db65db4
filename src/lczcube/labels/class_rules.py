"""Class rules: which features of OpenStreetMap are which natural class, and how much of a cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from lczcube.errors import LabelError
from lczcube.lcz import N_CLASSES
from lczcube.sources.osm_scheme import FEATURES

FIRST_NATURAL = 11


@dataclass(frozen=True)
class ClassRule:
    """When a cell is labelled with a natural class.

    Attributes
    ----------
    lcz : int
        11-17. Built classes are no cover: they are how buildings stand.
    features : tuple of str
        Features that are the class, of :data:`lczcube.sources.osm_scheme.FEATURES`.
    min_cover : float
        Share of the cell under them. Default 0.95: the rest is a shore, or a border drawn by hand.
    max_other : float
        Share of the cell under other features. Default 0.05: a track through a wood is 1 %, two
        streets are 5 %.
    under : tuple of str
        Features that may lie under those of the class without speaking against it, as a park does
        under its lake. They count where a later date has them in place of the class.

    Raises
    ------
    LabelError
        If the class, a feature or a share is none.
    """

    lcz: int
    features: tuple[str, ...]
    min_cover: float = 0.95
    max_other: float = 0.05
    under: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not FIRST_NATURAL <= self.lcz <= N_CLASSES:
            raise LabelError(
                f"a rule gives class {self.lcz}; cover tells natural classes, "
                f"{FIRST_NATURAL}-{N_CLASSES} (A-G), and no built one."
            )
        named = (*self.features, *self.under)
        unknown = [name for name in named if name not in FEATURES]
        if unknown or not self.features or len(set(named)) < len(named):
            raise LabelError(
                f"a rule of class {self.lcz} has features {', '.join(named) or '(none)'}; name one "
                f"or more, each once, of {', '.join(FEATURES)}."
            )
        if not (0.5 < self.min_cover <= 1 and 0 <= self.max_other < 0.5):
            raise LabelError(
                f"a rule of class {self.lcz} has min_cover = {self.min_cover} and max_other = "
                f"{self.max_other}; a class has over 0.5 to 1 of its cell, others 0 to under 0.5."
            )


RULES: Mapping[str, ClassRule] = MappingProxyType(
    {
        "water": ClassRule(17, ("water",), under=("low_plants",)),
        "dense_trees": ClassRule(11, ("dense_trees",), under=("low_plants", "scattered_trees")),
        "scrub": ClassRule(13, ("scrub",), under=("low_plants",)),
        "low_plants": ClassRule(14, ("low_plants",)),
        "bare_rock": ClassRule(15, ("bare_rock", "paved")),
    }
)
"""Rules by name. Only water is unambiguous enough to be used unasked. There is none of B, as an
orchard or a row says nothing of how far apart its trees stand, and none of F, as sand and mud share
their feature with building sites, landfills and quarries."""

DEFAULT_RULES = ("water",)


def chosen_rules(names: Sequence[str] = DEFAULT_RULES) -> dict[str, ClassRule]:
    """Rules by their names.

    Raises
    ------
    LabelError
        If there is no rule of a name.
    """
    unknown = [name for name in names if name not in RULES]
    if unknown:
        raise LabelError(f"no rule is named {', '.join(unknown)}; known: {', '.join(RULES)}.")
    return {name: RULES[name] for name in names}
