"""The rules of a run: cells of its cities labelled by what OpenStreetMap has there."""

from dataclasses import replace
from typing import Any

import geopandas as gpd
import xarray as xr

from lczcube.config import RulesTable
from lczcube.cube import years_of
from lczcube.errors import ConfigError
from lczcube.labels import (
    ClassRule,
    chosen_rules,
    counts_text,
    label_by_rules,
    read_feature_states,
)
from lczcube.labels.cover import join_states
from lczcube.labels.rule_samples import keep_alike, keep_beside
from lczcube.labels.rules import COUNTS
from lczcube.labels.splits import rows_of_roles
from lczcube.runfolder import RULE_LABELS, Run
from lczcube.trainingdata import roles_of

ROLES = {"donors", "evaluate_on"}
"""Keys of a city that say what the publisher's splits are for."""


def rule_inputs(run: Run) -> tuple[str, ...]:
    """Names of the inputs that rules read; none without [rules]."""
    return () if run.config.rules is None else run.config.rules.osm


def rule_settings(run: Run) -> dict[str, Any]:
    """What labels by rule depend on, as JSON values; empty without [rules]."""
    if run.config.rules is None:
        return {}
    roles = run.config.model_dump(mode="json", include={"cities": {"__all__": ROLES}})
    return {"rules": run.config.rules.model_dump(mode="json"), "split": run.table.split} | roles


def label_city_by_rules(
    run: Run, city: str, cube: xr.Dataset, labels: gpd.GeoDataFrame
) -> gpd.GeoDataFrame | None:
    """Cells of a city that its rules label beside its labels; None without [rules].

    Raises
    ------
    ConfigError
        If no year of the image is known.
    LabelError
        If an input has no features of OpenStreetMap.
    """
    table = run.config.rules
    if table is None:
        return None
    grid = run.grids[city]
    states = [read_feature_states(run.catalog, name, grid) for name in table.osm]
    found = label_by_rules(
        join_states([state for of in states for state in of]),
        grid,
        city=city,
        year=table.year or _image_year(city, cube),
        rules=_rules_of(table),
        weight=table.weight,
    )
    evaluated = None
    if run.table.split == "given":
        _, evaluated = rows_of_roles(labels, roles_of(run.config))
    return keep_beside(found, labels, evaluation=evaluated, exclude_eval_m=table.exclude_eval_m)


def keep_like_samples(
    run: Run, rules: gpd.GeoDataFrame | None, samples: xr.Dataset
) -> tuple[gpd.GeoDataFrame | None, xr.Dataset]:
    """Labels by rule, and all samples, without those by rule that look unlike their class."""
    table = run.config.rules
    if table is None or rules is None:
        return rules, samples
    compared = _likeness_features(run, samples) if table.drop_far else None
    kept, left = keep_alike(rules, samples, features=compared, deviations=table.deviations)
    return kept, left.assign_attrs({COUNTS: kept.attrs[COUNTS]})


def write_rule_labels(
    run: Run, city: str, rules: gpd.GeoDataFrame | None
) -> gpd.GeoDataFrame | None:
    """Leave a city's labels by rule in its folder, tell their counts, and give them back."""
    if rules is not None:
        path = run.path(city, RULE_LABELS)
        partial = path.with_name(path.name + ".partial")
        rules.to_parquet(partial)
        partial.replace(path)
        run.progress("\n".join(f"aggregate: {line}" for line in counts_text(rules).splitlines()))
    return rules


def rules_summary(city: str, rules: gpd.GeoDataFrame) -> str:
    """How many samples a city has by which rule, in words."""
    of_rules = rules.attrs[COUNTS]["rules"]
    listed = ", ".join(f"{name} {counts['kept']}" for name, counts in of_rules.items())
    return f"{len(rules)} samples by rule in {city} ({listed})"


def rules_manifest(run: Run, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run; where rules label, theirs too, and their counts by city."""
    if run.config.rules is None:
        return {"settings": settings}
    labels = {city: run.rule_labels(city) for city in run.cities}
    return {
        "settings": settings | {"rules": run.config.rules.model_dump(mode="json")},
        COUNTS: {city: of.attrs[COUNTS] for city, of in labels.items() if of is not None},
    }


def _rules_of(table: RulesTable) -> dict[str, ClassRule]:
    own = {
        name: ClassRule(rule.lcz, rule.features, under=rule.under)
        for name, rule in table.own.items()
    }
    return {
        name: replace(rule, min_cover=table.min_cover, max_other=table.max_other)
        for name, rule in (chosen_rules(table.classes) | own).items()
    }


def _image_year(city: str, cube: xr.Dataset) -> int:
    """The year of the oldest layer of a cube."""
    years = years_of(cube)
    if not years:
        raise ConfigError(
            f"the features of {city} have no year, and [rules] leaves out what began after it; set "
            "year in [rules]."
        )
    return years[0]


def _likeness_features(run: Run, samples: xr.Dataset) -> list[str]:
    """Features that know no rule: of embeddings, else of all layers but OpenStreetMap's."""
    layers = {name: run.catalog.layer(name).layer for name in run.features}
    embeddings = {name for name, layer in layers.items() if layer == "embedding"}
    told = embeddings or {name for name, layer in layers.items() if layer != "osm"}
    owners = {
        feature: max((name for name in layers if feature.startswith(f"{name}_")), key=len)
        for feature in samples["feature"].values.tolist()
    }
    return [feature for feature, owner in owners.items() if owner in told]
