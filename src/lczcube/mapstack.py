"""Maps of one city in several years as one dataset, with what made each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from lczcube.cube import GRID_ATTR, grid_of
from lczcube.errors import ConfigError, GridMismatchError, StoreError
from lczcube.products import MAP_STORE, as_percent, inputs_of, manifest, open_product, with_yx

MADE_BY = "made_by"
"""Attribute of stacked maps: what made each, a JSON list in the order of ``time``."""


def stack_years(maps: Mapping[int, str | Path | xr.Dataset], *, group: str = "cells") -> xr.Dataset:
    """Maps of one city in several years as one dataset; lazy if they are.

    Parameters
    ----------
    maps : mapping of int to path or xarray.Dataset
        By year: product stores (``lcz.zarr``), or maps with ``lcz`` and ``confidence`` as
        :func:`lczcube.predict` gives them or a store is opened.
    group : str
        Group of the stores. Default ``cells``.

    Returns
    -------
    xarray.Dataset
        ``lcz`` uint8 and ``confidence`` uint8, per cent (255: no data), dims ``(time, y, x)``;
        ``time`` is 1 January of each year. What made each map is in the attribute ``made_by``.
        :func:`lczcube.write_product` stores it.

    Raises
    ------
    ConfigError
        If there is no map.
    GridMismatchError
        If two do not lie on the same pixels: nothing is resampled unasked.
    StoreError
        If a store, its group or a variable is not there.
    """
    if not maps:
        raise ConfigError("no map is given; stack the maps of one year or more.")
    years = sorted(maps)
    opened = {year: _stored(maps[year], group, f"the map of {year}") for year in years}
    first = opened[years[0]]
    for year in years[1:]:
        _require_same_grid(first, opened[year], f"{years[0]} and {year}")
    times = pd.DatetimeIndex([f"{year}-01-01" for year in years], name="time").as_unit("ns")
    stacked = xr.concat(list(opened.values()), times, join="override", combine_attrs="drop")
    made_by = [json.loads(each.attrs[MADE_BY]) for each in opened.values()]
    return stacked.assign_attrs(
        {
            GRID_ATTR: first.attrs[GRID_ATTR],
            "synthetic": int(any(each.attrs.get("synthetic", 0) for each in opened.values())),
            MADE_BY: json.dumps(made_by, sort_keys=True),
        }
    )


def open_stack(
    places: Sequence[str | Path],
    *,
    group: str = "cells",
    city: str | None = None,
    years: Sequence[int] = (),
) -> xr.Dataset:
    """Maps of a city in several years: of one store that has them all, or of one store each.

    Parameters
    ----------
    places : sequence of path
        Run folders, or product stores.
    group : str
        Group of the stores.
    city, years
        As in :func:`maps_by_year`.

    Returns
    -------
    xarray.Dataset
        As :func:`stack_years` gives.

    Raises
    ------
    ConfigError, StoreError, GridMismatchError
        As :func:`maps_by_year` and :func:`stack_years`.
    """
    if len(places) == 1 and not years:
        maps = open_product(_store_in(Path(places[0]), city), group)
        if "time" in maps.dims:
            confidence = as_percent(maps["confidence"])
            return xr.Dataset({"lcz": maps["lcz"], "confidence": confidence}, attrs=maps.attrs)
    return stack_years(maps_by_year(places, city=city, years=years), group=group)


def maps_by_year(
    places: Sequence[str | Path], *, city: str | None = None, years: Sequence[int] = ()
) -> dict[int, Path]:
    """The stores of a city's maps, by year.

    Parameters
    ----------
    places : sequence of path
        Run folders, or product stores.
    city : str, optional
        City of the run folders. Default: their only one.
    years : sequence of int
        Year of each place. Default: what its store says, from the city file.

    Raises
    ------
    ConfigError
        If a year is not said or said twice, or a city is to be named.
    StoreError
        If a place is no run folder with a map and no store.
    """
    if years and len(years) != len(places):
        raise ConfigError(f"{len(years)} years for {len(places)} maps; name a year for each.")
    found: dict[int, Path] = {}
    for i, place in enumerate(places):
        store = _store_in(Path(place), city)
        year = years[i] if years else _year_of(store)
        if year in found:
            raise ConfigError(f"{found[year]} and {store} are both of {year}; give a year once.")
        found[year] = store
    return found


def differences_of_origin(maps: xr.Dataset) -> list[str]:
    """What later maps were made with that the first one was not, as sentences.

    Parameters
    ----------
    maps : xarray.Dataset
        Of :func:`stack_years`. What only one of two maps says is not compared.
    """
    said = json.loads(maps.attrs.get(MADE_BY, "[]"))
    years = maps["time"].dt.year.values.tolist()
    found = []
    for year, other in zip(years[1:], said[1:], strict=False):
        for key in sorted({*said[0]} & {*other}):
            one, two = (json.dumps(each[key]) for each in (said[0], other))
            if one != two:
                found.append(f"{key} of {years[0]} is {one} and of {year} {two}")
    return found


def _stored(given: str | Path | xr.Dataset, group: str, name: str) -> xr.Dataset:
    """``lcz`` and ``confidence`` of a map as they are stored, with what made it."""
    if isinstance(given, xr.Dataset):
        dataset, made_by = given, _said_of(given.attrs, {})
    else:
        dataset = open_product(given, group)
        made_by = _said_of(dataset.attrs, manifest(given))
        name = f"{given}/{group}"
    missing = [each for each in ("lcz", "confidence") if each not in dataset]
    if missing:
        held = ", ".join(map(str, dataset.data_vars)) or "nothing"
        raise StoreError(f"{name} has no {' and no '.join(missing)} but {held}; name a map.")
    dataset = with_yx(dataset)
    if set(dataset["lcz"].dims) != {"y", "x"}:
        raise StoreError(f"{name} has dims {dataset['lcz'].dims}; give maps of one year each.")
    stored = xr.Dataset(
        {
            "lcz": dataset["lcz"].transpose("y", "x"),
            "confidence": as_percent(dataset["confidence"]),
        },
        attrs=dataset.attrs | {MADE_BY: json.dumps(made_by)},
    ).reset_coords(drop=True)
    for variable in stored.variables.values():
        variable.encoding = {}
    return stored


def _said_of(attrs: Mapping[Any, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """What made a map, as far as it says: two maps are comparable where these are the same."""
    inputs: Mapping[str, Any] = told.get("inputs", {})
    settings: Mapping[str, Any] = told.get("settings", {})
    model = attrs.get("model")
    run = settings.get("run", {})
    said = {
        "product": sorted(inputs[name]["product"] or name for name in inputs_of(told, "features")),
        "labels": sorted(inputs_of(told, "labels")),
        "rules": sorted(inputs_of(told, "rules")),
        "model": model,
        "seed": attrs.get("seed"),
        **{f"{model}.{key}": value for key, value in settings.get(str(model), {}).items()},
        "stats": run.get("stats"),
        "pseudo_weight": run.get("pseudo_weight"),
    }
    return {key: value for key, value in said.items() if value not in (None, [])}


def _require_same_grid(first: xr.Dataset, other: xr.Dataset, years: str) -> None:
    grids = [grid_of(first).to_dict(), grid_of(other).to_dict()]
    differing = [key for key in grids[0] if grids[0][key] != grids[1][key] and key != "chunk_cells"]
    shapes = [each["lcz"].shape for each in (first, other)]
    if differing:
        listed = "; ".join(f"{key}: {grids[0][key]} and {grids[1][key]}" for key in differing)
    elif shapes[0] != shapes[1]:
        listed = f"pixels: {shapes[0]} and {shapes[1]}"
    else:
        return
    raise GridMismatchError(
        f"the maps of {years} do not lie on the same pixels ({listed}); map both with the same "
        "bbox, [grid] and anchor, and compare one group."
    )


def _store_in(place: Path, city: str | None) -> Path:
    """The store itself, or that of a city of a run folder."""
    if (place / "zarr.json").is_file():
        return place
    stores = {path.parent.name: path for path in sorted(place.glob(f"*/{MAP_STORE}"))}
    if not stores:
        raise StoreError(
            f"{place} is no product store, and no run folder with a map (CITY/{MAP_STORE})."
        )
    if city is None and len(stores) == 1:
        return next(iter(stores.values()))
    if city not in stores:
        raise ConfigError(f"city = {city!r}: {place} has maps of {', '.join(stores)}; name one.")
    return stores[city]


def _year_of(store: Path) -> int:
    year = manifest(store).get("settings", {}).get("run", {}).get("year")
    if year is None:
        raise ConfigError(f"{store} does not say its year; name the years of all maps, in order.")
    return int(year)
