"""Change between maps of one city: from which zone to which, how sure, and how large.

Two maps differ where the ground changed and where either is wrong. Of the differences only those
count that both maps are sure of and that are large enough; their areas are still no estimate of
what changed, see :data:`NOTE`.

References
----------
Singh, A. (1989). Digital change detection techniques using remotely-sensed data. International
Journal of Remote Sensing 10, 989-1003, doi:10.1080/01431168908903939 (two maps are right together
as often as the product of their accuracies says).
Olofsson, P. et al. (2014). Good practices for estimating area and assessing accuracy of land
change. Remote Sensing of Environment 148, 42-57, doi:10.1016/j.rse.2014.02.015.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr

from lczcube.components import Connectivity, in_large_component
from lczcube.cube import GRID_ATTR, grid_of
from lczcube.errors import ConfigError, StoreError
from lczcube.lcz import N_CLASSES, NODATA, zone
from lczcube.mapstack import MADE_BY, differences_of_origin
from lczcube.products import as_percent
from lczcube.regions import digest_of
from lczcube.tables import markdown_table

STATUS = ("no_data", "same", "changed", "too_uncertain", "too_small")
"""What becomes of a pixel, by its code in ``status``; only ``changed`` is a change."""

NOTE = (
    "A comparison of two maps overestimates change: they also differ where either is wrong. Areas "
    "are counts of pixels, on the grid of the map; for an area with an interval, label a random "
    "sample of what changed and of what did not (Olofsson et al. 2014)."
)

_M2_PER_HA = 10_000.0
_READ = ("lcz", "confidence", "time", "y", "x")
_N_CODES = 101 * N_CLASSES + 1  # 100 * from + to, at most 1717


@dataclass(frozen=True)
class ChangeRules:
    """Which differences of two maps are a change.

    Attributes
    ----------
    min_confidence : float
        Least product of the confidences of the two maps, 0-1. It is the probability that both are
        right if their errors are independent (Singh 1989); errors that repeat from year to year
        make it higher. Default 0.5: rather right than wrong.
    min_area_ha : float
        Minimum mapping unit: least area, ha, of connected pixels that changed from one same zone
        to one same zone. Default 0: a pixel is enough.
    connectivity : int
        4: pixels are connected by sides; 8, the default: by corners too.

    Raises
    ------
    ConfigError
        If a value is out of its range.
    """

    min_confidence: float = 0.5
    min_area_ha: float = 0.0
    connectivity: Connectivity = 8

    def __post_init__(self) -> None:
        if not 0 <= self.min_confidence <= 1:
            raise ConfigError(f"min_confidence = {self.min_confidence:g}: it is a share, 0 to 1.")
        if not (math.isfinite(self.min_area_ha) and self.min_area_ha >= 0):
            raise ConfigError(f"min_area_ha = {self.min_area_ha:g}: it is 0 ha or more.")
        if self.connectivity not in (4, 8):
            raise ConfigError(f"connectivity = {self.connectivity}: it is 4 or 8.")


def find_changes(
    maps: xr.Dataset, rules: ChangeRules | None = None, *, allow_mixed: bool = False
) -> xr.Dataset:
    """Change from each map to the next one; lazy if the maps are.

    Parameters
    ----------
    maps : xarray.Dataset
        Of :func:`stack_years`, or the same read from a store; two years or more, in any chunks.
    rules : ChangeRules, optional
        Default: those of the class.
    allow_mixed : bool
        Compare maps of different products, labels or models too. Default: refuse, as they differ
        where nothing changed.

    Returns
    -------
    xarray.Dataset
        Dims ``(time, y, x)``, a step for each pair of years; ``time`` is the later one and
        ``since`` the earlier.

        - ``from_to`` uint16: 100 times the earlier zone plus the later one, so 617 is from 6 to
          17; zones that stay are 606; 0 where either map has no data.
        - ``joint_confidence`` float32: product of the two confidences; NaN where no data.
        - ``status`` uint8: position in :data:`STATUS`.
        - ``changed`` bool: status ``changed``.

    Raises
    ------
    ConfigError
        If there is one year only, or years repeat or go backwards.
    StoreError
        If maps of different origin are to be compared.
    GridMismatchError
        If the dataset carries no grid.

    Notes
    -----
    With a minimum mapping unit the pixels of all chunks are looked at before the first answer: 8
    bytes a pixel wait in memory.
    """
    rules = rules or ChangeRules()
    _require_years(maps)
    mixed = differences_of_origin(maps)
    if mixed and not allow_mixed:
        raise StoreError(
            f"{'; '.join(mixed)}. Maps of different origin differ where nothing changed. Map both "
            "years with one product, one set of labels and one model, or allow it: allow_mixed "
            "(--allow-mixed)."
        )
    n_steps = maps.sizes["time"] - 1
    steps = [_change(maps.isel(time=i), maps.isel(time=i + 1), rules) for i in range(n_steps)]
    changes = xr.concat(steps, "time", combine_attrs="override")
    since = ("time", maps["time"].values[:-1], {"long_name": "Date of the earlier map"})
    told = {"min_confidence": rules.min_confidence, "min_area_ha": rules.min_area_ha}
    return changes.assign_coords(since=since).assign_attrs(
        {key: maps.attrs[key] for key in (GRID_ATTR, "synthetic", MADE_BY) if key in maps.attrs}
        | {**told, "connectivity": rules.connectivity, "mixed": "; ".join(mixed), "note": NOTE}
    )


def changes_identity(
    stores: Sequence[Path], rules: ChangeRules, *, group: str, years: Sequence[int] = ()
) -> str:
    """What a store of changes depends on, for :func:`lczcube.write_product`; reads the maps' files.

    Parameters
    ----------
    stores : sequence of pathlib.Path
        Product stores that the maps are of, in their order.
    rules : ChangeRules
        As for :func:`find_changes`.
    group : str
        Group of the stores.
    years : sequence of int
        Years that were named for the maps; none where the stores say them.

    Returns
    -------
    str
        SHA-256, in hex: another one when a map was written anew with other values.
    """
    prefixes = [f"{group}/{name}/" for name in _READ]
    maps = [digest_of(store, prefixes) for store in stores]
    said = json.dumps([maps, asdict(rules), group, list(years)])
    return hashlib.sha256(said.encode()).hexdigest()


def change_table(changes: xr.Dataset) -> pd.DataFrame:
    """Area of each transition, by what became of it; computes the pixels.

    Parameters
    ----------
    changes : xarray.Dataset
        Of :func:`find_changes`.

    Returns
    -------
    pandas.DataFrame
        A row for each pair of years and zones that occurs: ``since``, ``until`` (years),
        ``lcz_from``, ``lcz_to``, and areas in ha by :data:`STATUS`: ``same_ha``, ``changed_ha``,
        ``too_uncertain_ha``, ``too_small_ha``. An area is a number of pixels times the area of a
        pixel on the grid; in a UTM zone that is within 0.2 % of the ground.
    """
    pixel_ha = _pixel_m2(changes) / _M2_PER_HA
    rows = []
    for i in range(changes.sizes["time"]):
        step = changes.isel(time=i)
        keys = step["from_to"].data.astype(np.int64) * len(STATUS) + step["status"].data
        counts = da.bincount(da.asarray(keys).ravel(), minlength=_N_CODES * len(STATUS)).compute()
        by_code = counts.reshape(_N_CODES, len(STATUS))
        years = [int(step[name].dt.year) for name in ("since", "time")]
        for code in np.flatnonzero(by_code[1:].sum(axis=1)) + 1:
            areas = (by_code[code] * pixel_ha).tolist()
            rows.append([*years, int(code) // 100, int(code) % 100, *areas[1:]])
    areas_ha = [f"{name}_ha" for name in STATUS[1:]]
    return pd.DataFrame(rows, columns=["since", "until", "lcz_from", "lcz_to", *areas_ha])


def changes_text(table: pd.DataFrame, changes: xr.Dataset, *, limit: int = 20) -> str:
    """A Markdown table of the transitions, largest first, with totals and what they do not say.

    Parameters
    ----------
    table : pandas.DataFrame
        Of :func:`change_table`.
    changes : xarray.Dataset
        What it is of.
    limit : int
        Transitions that are listed of a pair of years; the others are in the totals.
    """
    lines = []
    for (since, until), part in table.groupby(["since", "until"]):
        differs = part[part["lcz_from"] != part["lcz_to"]]
        ordered = differs.sort_values(
            ["changed_ha", "too_uncertain_ha", "too_small_ha"], ascending=False, kind="stable"
        )
        rows = [_row(row) for row in ordered.head(limit).itertuples(index=False)]
        if len(ordered) > limit:
            rows.append([f"{len(ordered) - limit} more", *_sums(ordered[limit:])])
        header = ["from", "to", "changed, ha", "too uncertain, ha", "too small, ha"]
        lines += [f"{since} to {until}, {part['same_ha'].sum():.1f} ha the same", ""]
        lines += [markdown_table(header, [*rows, ["all", *_sums(differs)]]), ""]
    told = changes.attrs
    lines.append(
        f"Changed: the product of both confidences is {told['min_confidence']:g} or more, on "
        f"{told['min_area_ha']:g} ha or more of one transition, connected by "
        f"{'sides' if told['connectivity'] == 4 else 'sides and corners'}."
    )
    lines += [f"Of different origin: {told['mixed']}."] if told["mixed"] else []
    lines += ["Synthetic: made-up data."] if told.get("synthetic") else []
    return "\n".join([*lines, told["note"]])


def _require_years(maps: xr.Dataset) -> None:
    if "time" not in maps.dims or maps.sizes["time"] < 2:
        raise ConfigError("a change is between maps of two years or more; stack_years makes that.")
    times = maps["time"].values
    if not (times[1:] > times[:-1]).all():
        listed = ", ".join(str(t)[:10] for t in times)
        raise ConfigError(f"the maps' dates are {listed}; give each year once, in order.")


def _change(before: xr.Dataset, after: xr.Dataset, rules: ChangeRules) -> xr.Dataset:
    """One step, dims ``(y, x)``."""
    earlier, later = (da.asarray(each["lcz"].data) for each in (before, after))
    percents = [da.asarray(as_percent(each["confidence"]).data) for each in (before, after)]
    is_known = (earlier != NODATA) & (later != NODATA)
    from_to = da.where(is_known, earlier.astype(np.uint16) * 100 + later, 0).astype(np.uint16)
    joint = _joint(is_known, *percents)
    differs = is_known & (earlier != later)
    is_sure = differs & (joint >= rules.min_confidence)
    min_px = math.ceil(rules.min_area_ha * _M2_PER_HA / _pixel_m2(before) - 1e-9)
    is_large = in_large_component(
        da.where(is_sure, from_to, 0).astype(np.uint16),
        min_px=min_px,
        connectivity=rules.connectivity,
    )
    status = da.where(is_large, 2, 4)
    for rule, code in ((is_sure, 3), (differs, 1), (is_known, 0)):
        status = da.where(rule, status, code)
    return _described(after, from_to, joint.astype(np.float32), status.astype(np.uint8))


def _joint(is_known: da.Array, first: da.Array, second: da.Array) -> da.Array:
    """Product of two confidences of whole per cents: of 80 and 50 it is 0.4, and not a bit less."""
    has_both = is_known & (first <= 100) & (second <= 100)
    return da.where(has_both, first.astype(np.int64) * second / 10_000, np.nan)


def _described(
    like: xr.Dataset, from_to: da.Array, joint: da.Array, status: da.Array
) -> xr.Dataset:
    flags = {"flag_values": list(range(len(STATUS))), "flag_meanings": " ".join(STATUS)}
    names = {
        "from_to": (
            from_to,
            {"long_name": "100 times the earlier zone plus the later", "nodata": 0},
        ),
        "joint_confidence": (joint, {"long_name": "Product of both confidences", "units": "1"}),
        "status": (status, {"long_name": "What becomes of a pixel"} | flags),
        "changed": (status == STATUS.index("changed"), {"long_name": "True where it changed"}),
    }
    arrays = {name: (("y", "x"), data, attrs) for name, (data, attrs) in names.items()}
    return xr.Dataset(arrays, coords={name: like[name].variable for name in ("time", "y", "x")})


def _pixel_m2(maps: xr.Dataset) -> float:
    grid = grid_of(maps)
    is_output = (maps.sizes["y"], maps.sizes["x"]) == tuple(grid.output_geobox.shape)
    return float(grid.stride_m if is_output else grid.pixel_m) ** 2


def _row(row: Any) -> list[str]:
    names = [f"{zone(code).letter} {zone(code).name}" for code in (row.lcz_from, row.lcz_to)]
    areas = (row.changed_ha, row.too_uncertain_ha, row.too_small_ha)
    return [*names, *(f"{area:.1f}" for area in areas)]


def _sums(rows: pd.DataFrame) -> list[str]:
    """Cells of a row that stands for several: no zone, and sums."""
    return ["", *(f"{rows[f'{name}_ha'].sum():.1f}" for name in STATUS[2:])]
