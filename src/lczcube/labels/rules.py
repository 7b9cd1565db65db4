"""Rule labels: cells that OpenStreetMap covers with one natural class, and nothing against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import shapely

from lczcube.errors import LabelError
from lczcube.grid import Grid
from lczcube.labels.class_rules import ClassRule, chosen_rules
from lczcube.labels.cover import (
    FeatureState,
    Geometries,
    areas_on_cells,
    cell_squares,
    is_within,
)
from lczcube.labels.table import COLUMNS
from lczcube.lcz import NODATA
from lczcube.sources.osm_scheme import FEATURES

SOURCE = "osm_rules"
LICENSE = "ODbL-1.0"
COUNTS = "rule_counts"
"""Key of the counts in the ``attrs`` of a table of rule labels."""

REASONS = {
    "contradict_a_label": "touching a label of another class",
    "near_evaluation": "near evaluation labels",
    "no_pixels": "without valid pixels",
    "far": "far from the others",
}
"""Why a cell was dropped after the rules, by its key in the counts, and in words."""

SLACK = 1e-9
"""A share this little past its limit still meets it: the order of a sum does not decide."""

GROWN_M = 1.0
"""Cells grow by so much to share ground with those that they touch."""

Mask = npt.NDArray[np.bool_]


def label_by_rules(
    states: Sequence[FeatureState],
    grid: Grid,
    *,
    city: str,
    year: int,
    rules: Mapping[str, ClassRule] | None = None,
    weight: float = 1.0,
) -> gpd.GeoDataFrame:
    """Cells of a grid that features of OpenStreetMap cover with one natural class.

    Parameters
    ----------
    states : sequence of FeatureState
        From :func:`lczcube.labels.cover.read_feature_states`. What any of them has counts: a map
        becomes complete with time. Features that say they began after ``year`` are left out.
    grid : Grid
        Its cells are labelled.
    city : str
        For the column ``city`` and the ids.
    year : int
        Year of the image that the labels are for.
    rules : mapping of str to ClassRule, optional
        By name. Default: :func:`~lczcube.labels.class_rules.chosen_rules`, water alone.
    weight : float
        Of every label. Default 1.

    Returns
    -------
    geopandas.GeoDataFrame
        A label table, :data:`lczcube.labels.table.COLUMNS`, in the grid's CRS, sorted by
        ``patch_id``. Cells of a class that touch, by a corner too, are one ``group``.
        ``attrs["rule_counts"]`` counts cells by rule, see :func:`counts_text`.

    Raises
    ------
    LabelError
        If there is no state or no rule, or two rules give one class.

    Notes
    -----
    A cell has to lie in the extent of a state. One that two rules claim has no label.
    """
    rules = chosen_rules() if rules is None else rules
    _require_usable(states, rules)
    squares = cell_squares(grid)
    known = is_within(states, grid, squares)
    present, n_later = _present(states, year)
    lcz = np.full(len(squares), NODATA, np.uint8)
    claims = np.zeros(len(squares), np.int32)
    counts: dict[str, Any] = {}
    for name, rule in rules.items():
        kept, counts[name] = _cells_of(rule, present, grid, squares, known)
        lcz[kept] = rule.lcz
        claims[kept] += 1
    lcz[claims > 1] = NODATA
    for name, rule in rules.items():
        n_kept = int((lcz == rule.lcz).sum())
        counts[name] |= {"claimed_twice": counts[name].pop("agreed") - n_kept, "kept": n_kept}
    labels = _label_table(lcz, grid, squares, city=city, year=year, weight=weight)
    labels.attrs[COUNTS] = {
        "rules": counts,
        "cells": len(squares),
        "outside_extent": int((~known).sum()),
        "features_began_later": n_later,
    }
    return labels


def counts_text(labels: gpd.GeoDataFrame) -> str:
    """The counts of rule labels in words, a line a rule.

    Parameters
    ----------
    labels : geopandas.GeoDataFrame
        From :func:`label_by_rules`, or of :func:`lczcube.labels.likeness.drop_far`; or, of a run,
        ``run.rule_labels(city)``.
    """
    counts = labels.attrs[COUNTS]
    lines = [
        f"{counts['cells']} cells, {counts['outside_extent']} past the extract; "
        f"{counts['features_began_later']} features began later than the image"
    ]
    for name, of in counts["rules"].items():
        dates = ", ".join(f"{n} on {date}" for date, n in of["covered_by_date"].items())
        dropped = f"{of['contradicted']} contradicted, {of['claimed_twice']} claimed twice"
        for reason, words in REASONS.items():
            if reason in of:
                dropped += f", {of[reason]} {words}"
        lines.append(
            f"{name}: {of['covered']} covered ({dates}), {dropped}; {of['kept']} kept, LCZ "
            f"{of['lcz']}"
        )
        if of.get("not_judged"):
            lines.append(f"  {of['not_judged']} not judged by features: {of['why']}")
    return "\n".join(lines)


def _require_usable(states: Sequence[FeatureState], rules: Mapping[str, ClassRule]) -> None:
    codes = [rule.lcz for rule in rules.values()]
    if not states or not codes:
        raise LabelError("rules want a state of OpenStreetMap at least, and a rule at least.")
    if len(set(codes)) < len(codes):
        raise LabelError(
            f"rules {', '.join(rules)} give classes {', '.join(map(str, codes))}; a class has one "
            "rule. Name its features together."
        )
    dates = [state.date for state in states]
    if len(set(dates)) < len(dates):
        raise LabelError(f"states have the dates {', '.join(dates)}; a date has one state.")


def _present(states: Sequence[FeatureState], year: int) -> tuple[list[FeatureState], int]:
    """States in order of date, without what began after the year, and how many objects that is."""
    later = [state.table["began"].to_numpy() > year for state in states]
    left_out = [state.table[is_later] for state, is_later in zip(states, later, strict=True)]
    objects = pd.concat([frame[["osm_type", "osm_id", "feature"]] for frame in left_out])
    present = [
        replace(state, table=state.table[~is_later])
        for state, is_later in zip(states, later, strict=True)
    ]
    return sorted(present, key=lambda state: state.date), len(objects.drop_duplicates())


def _cells_of(
    rule: ClassRule,
    states: Sequence[FeatureState],
    grid: Grid,
    squares: Geometries,
    known: Mask,
) -> tuple[npt.NDArray[np.intp], dict[str, Any]]:
    """Cells that a rule claims, and its counts."""
    cell_m2 = grid.cell_m**2
    least_m2 = (rule.min_cover - SLACK) * cell_m2
    own = np.array(
        [areas_on_cells(_of(state, rule.features), grid, squares) for state in states],
        dtype=object,
    )
    is_covered = (shapely.area(_union(own)) >= least_m2) & known
    by_date = (shapely.area(own) >= least_m2) & known
    cells = np.flatnonzero(is_covered)
    other_m2 = _other_m2(rule, states, grid, squares[cells], own[:, cells])
    agreed = cells[other_m2 <= (rule.max_other + SLACK) * cell_m2]
    counts = {
        "lcz": rule.lcz,
        "covered_by_date": {
            state.date: int(n) for state, n in zip(states, by_date.sum(axis=1), strict=True)
        },
        "covered": len(cells),
        "contradicted": len(cells) - len(agreed),
        "agreed": len(agreed),
    }
    return agreed, counts


def _other_m2(
    rule: ClassRule,
    states: Sequence[FeatureState],
    grid: Grid,
    squares: Geometries,
    own: Geometries,
) -> npt.NDArray[np.float64]:
    """Ground of each cell that speaks against the class.

    Other features at any date; and what may lie under the class, where an earlier date had the
    class and a later one has not: land that was won from the water.
    """
    if not len(squares):
        return np.zeros(0)
    against = [name for name in FEATURES if name not in (*rule.features, *rule.under)]
    parts = [areas_on_cells(_of(state, against), grid, squares) for state in states]
    for later in range(1, len(states)):
        under = areas_on_cells(_of(states[later], rule.under), grid, squares)
        gone = shapely.difference(_union(own[:later]), own[later])
        parts.append(shapely.intersection(gone, under))
    return np.asarray(shapely.area(_union(np.array(parts, dtype=object))))


def _of(state: FeatureState, features: Sequence[str]) -> gpd.GeoDataFrame:
    return state.table[state.table["feature"].isin(features)]


def _union(areas: Geometries) -> Geometries:
    return np.asarray(shapely.union_all(areas, axis=0))


def _label_table(
    lcz: npt.NDArray[np.uint8],
    grid: Grid,
    squares: Geometries,
    *,
    city: str,
    year: int,
    weight: float,
) -> gpd.GeoDataFrame:
    cells = np.flatnonzero(lcz)
    codes, squares = lcz[cells], squares[cells]
    minx, _, _, maxy = shapely.bounds(squares).reshape(-1, 4).T
    ids = _cell_ids(grid, city, cells)
    columns = {
        "patch_id": ids,
        "city": city,
        "group": _groups(codes, squares, ids),
        "lcz": codes,
        "admissible": codes.astype(str).astype(object),
        "split": "",
        "weight": np.float32(weight),
        "year": np.int32(year),
        "source": SOURCE,
        "license": LICENSE,
        "crs": grid.crs,
        "x0": minx,
        "y0": maxy,
        "size_m": np.float64(grid.cell_m),
    }
    frame = pd.DataFrame(columns, index=range(len(cells)))
    labels = gpd.GeoDataFrame(frame, geometry=squares, crs=grid.crs)
    return labels[list(COLUMNS)].sort_values("patch_id", kind="stable", ignore_index=True)


def _cell_ids(grid: Grid, city: str, cells: npt.NDArray[np.intp]) -> npt.NDArray[np.object_]:
    """Ids of cells by row and column of the lattice, so that another bbox gives the same."""
    x0, _, _, y1 = grid.cells
    rows, columns = np.divmod(cells, grid.cell_shape[1])
    places = zip((y1 - 1 - rows).tolist(), (x0 + columns).tolist(), strict=True)
    return np.array([f"{SOURCE}/{city}/{row}_{column}" for row, column in places], dtype=object)


def _groups(
    codes: npt.NDArray[np.uint8], squares: Geometries, ids: npt.NDArray[np.object_]
) -> npt.NDArray[np.object_]:
    """The group of each cell: the id of the first, from the north-west, of those that touch."""
    groups = ids.copy()
    for code in np.unique(codes):
        cells = np.flatnonzero(codes == code)
        grown = shapely.buffer(squares[cells], GROWN_M, join_style="mitre")
        clusters = shapely.get_parts(shapely.union_all(grown))
        found = shapely.STRtree(clusters).query(shapely.centroid(squares[cells]), "within")
        cluster = found[1][np.argsort(found[0])]
        _, first, number = np.unique(cluster, return_index=True, return_inverse=True)
        groups[cells] = ids[cells[first]][number]
    return groups
