"""Source ``zarr``: an array of a Zarr store, version 2 or 3, registered by its attributes.

Which dimension is which, where the pixels lie, which year a step is and which code means nothing
is said in one of several conventions; each has a module: :mod:`lczcube.sources.zarr_arrays`,
``zarr_places``, ``zarr_times`` and ``zarr_bands``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, model_validator

from lczcube.errors import MissingInputError, SourceError
from lczcube.sources import alphaearth
from lczcube.sources.files import SourceFile, find_hrefs, is_remote, with_ids
from lczcube.sources.footprints import BBox, Footprint, footprint, resolution_m
from lczcube.sources.inputs import LayerInput, as_tuple
from lczcube.sources.items import (
    LCZCUBE_URI,
    PROJECTION_URI,
    RASTER_URI,
    ZARR_URI,
    SourceItem,
    grid_bbox,
    grid_fields,
    new_item,
)
from lczcube.sources.zarr_arrays import Axis, GridArray, open_array
from lczcube.sources.zarr_bands import array_bands, array_nodata
from lczcube.sources.zarr_places import Coordinates, Place, place_of
from lczcube.sources.zarr_times import years_of

if TYPE_CHECKING:
    import pystac

_MARKERS = ("zarr.json", ".zgroup", ".zarray")


class ZarrInput(LayerInput):
    """An ``[[input]]`` of a Zarr array; further keys as of :class:`LayerInput`.

    Attributes
    ----------
    href : str or list of str
        Groups: stores, or a group inside one (``cube.zarr/pixels``); folders of stores; globs.
    year, years
        The years that are wanted of an array with a time; the year of one without.
    array : str, optional
        Which array. Default: the only one with rows and columns.
    dims : tuple of str
        ``time``, ``band``, ``y``, ``x`` in the order of ``array``, where it does not name them.
    crs : str, optional
        Where the store does not state it.
    coordinates : str
        What the coordinates x and y are of pixels: ``centres`` (as in xarray) or upper-left
        ``edges`` (as aef-download writes them).
    """

    suffixes: ClassVar[tuple[str, ...]] = (".zarr",)
    years_in_paths: ClassVar[bool] = True

    source: Literal["zarr"]
    array: str | None = None
    dims: Annotated[tuple[Axis, ...], BeforeValidator(as_tuple)] = ()
    crs: str | None = None
    coordinates: Coordinates = "centres"

    @model_validator(mode="after")
    def _check_dims(self) -> ZarrInput:
        if self.dims and (len(set(self.dims)) < len(self.dims) or not {"y", "x"} <= {*self.dims}):
            raise ValueError('has dims that repeat, or without y and x; such as ["band", "y", "x"]')
        if self.dims and self.array is None:
            raise ValueError("has dims but no array; name the array whose dimensions they are")
        return self


@dataclass(frozen=True)
class _Opened:
    """What an array says: its place, bands, and what was taken on trust."""

    grid: GridArray
    place: Place
    bands: list[dict[str, Any]]
    note: str


@dataclass(frozen=True)
class _Step:
    """A year of an array, None for a layer without dates; and its place on the axis of time."""

    year: int | None
    index: int | None


def find_files(entry: ZarrInput, *, folder: Path, cities: Mapping[str, BBox]) -> list[SourceFile]:
    """The groups an input means; opens none.

    Raises
    ------
    ConfigError
        If an href cannot be used.
    """
    found = find_hrefs(entry, folder=folder, cities=tuple(cities), search=_stores_below)
    return with_ids(entry, found)


def build_items(entry: ZarrInput, file: SourceFile) -> list[SourceItem]:
    """Items of an array, one for each wanted year; reads attributes and coordinates, no pixel.

    Raises
    ------
    MissingInputError
        If the store is not there.
    SourceError
        If it is no Zarr group, the array is not there or not of numbers, or its dimensions, place
        or years are not said.
    """
    _require_store(file)
    opened = _open(entry, file)
    steps = _steps(entry, file, opened.grid)
    outline = _footprint(opened.place, file)
    return [SourceItem(_item(entry, file, opened, step, outline)) for step in steps]


def _stores_below(folder: Path) -> list[str]:
    """The folder itself where it is a store, else the stores below it; looks into none."""
    stores: list[str] = []
    for path, folders, files in os.walk(folder):
        if any(marker in files for marker in _MARKERS):
            stores.append(Path(path).as_posix())
            folders.clear()
    return sorted(stores)


def _require_store(file: SourceFile) -> None:
    if is_remote(file.href):
        raise SourceError(
            f"{file.href} is a Zarr store at a URL; bring it home, and name the copy."
        )
    path = Path(file.href)
    if not path.exists():
        raise MissingInputError(f"{path} is not there; check href, or fetch the store.")
    if not any((path / marker).is_file() for marker in _MARKERS):
        raise SourceError(f"{path} is no Zarr group (no zarr.json, no .zgroup); name the store.")
    _require_complete(path)


def _require_complete(path: Path) -> None:
    """Raise for a store of aef-download whose side file says that it broke off."""
    beside = path.with_name(f"{path.name}.progress.json")
    if not beside.is_file():
        return
    try:
        is_whole = json.loads(beside.read_text(encoding="utf-8"))["status"] == "complete"
    except (ValueError, KeyError, TypeError):
        is_whole = False
    if not is_whole:
        raise SourceError(
            f"{path} is a download that broke off, by {beside.name}; what is missing would read as "
            "codes. Run the download again."
        )


def _open(entry: ZarrInput, file: SourceFile) -> _Opened:
    grid = open_array(file.href, name=entry.array, dims=entry.dims)
    place = place_of(grid, crs=entry.crs, coordinates=entry.coordinates)
    nodata, note = array_nodata(grid, entry.nodata)
    is_alphaearth = entry.decoder == "signed_square"
    names = alphaearth.BAND_NAMES if is_alphaearth else ()
    bands = array_bands(grid, given=entry.bands, default=names, nodata=nodata)
    notes = [text for text in (place.note, note) if text is not None]
    return _Opened(grid, place, bands, " ".join(notes))


def _steps(entry: ZarrInput, file: SourceFile, grid: GridArray) -> list[_Step]:
    wanted = entry.all_years if file.year is None else (file.year,)
    n_steps = grid.size("time")
    if grid.dim("time") is None or (entry.static and n_steps == 1):
        index = None if grid.dim("time") is None else 0
        return [_Step(None if entry.static else _only_year(wanted, grid), index)]
    if entry.static:
        raise SourceError(
            f"{grid.where} has {n_steps} steps of time and static = true; a layer without dates "
            "has one. Leave static out."
        )
    years = years_of(grid.coordinate("time"), grid.attrs, n_steps, grid.where)
    steps = [_Step(y, i) for i, y in enumerate(years) if not wanted or y in wanted]
    _require_one_a_year(steps, grid)
    if not steps and not file.is_found:
        raise SourceError(
            f"{grid.where} has the years {_listed(years)} and the input wants {_listed(wanted)}; "
            "correct year."
        )
    return steps


def _require_one_a_year(steps: Sequence[_Step], grid: GridArray) -> None:
    years = {step.year for step in steps}
    if len(years) < len(steps):
        raise SourceError(
            f"{grid.where} has {len(steps)} steps in {len(years)} years; a layer has one a year. "
            "Reduce them to years (xarray: groupby time.year)."
        )


def _only_year(wanted: Sequence[int], grid: GridArray) -> int:
    """The year of an array without a time: as the input says, else as its attributes do."""
    told = grid.attrs.get("year")
    if not wanted and isinstance(told, int):
        return told
    if len(wanted) != 1:
        raise SourceError(
            f"{grid.where} has no time, and {len(wanted)} years are given; add year = 2024, or "
            "static = true."
        )
    if isinstance(told, int) and told != wanted[0]:
        raise SourceError(
            f"{grid.where} is of {told} by its attributes, but the input wants {wanted[0]}; "
            "correct year, or href."
        )
    return wanted[0]


def _listed(years: Sequence[int]) -> str:
    return ", ".join(map(str, years))


def _footprint(place: Place, file: SourceFile) -> Footprint:
    import shapely

    outline = shapely.box(*grid_bbox(place.shape, place.transform))
    return footprint(outline, place.crs, where=file.href)


def _item(
    entry: ZarrInput, file: SourceFile, opened: _Opened, step: _Step, outline: Footprint
) -> pystac.Item:
    place = opened.place
    note = {"lczcube:note": opened.note} if opened.note else {}
    item = new_item(
        _item_id(entry, file, step),
        outline,
        year=step.year,
        properties=grid_fields(place.crs, place.shape, place.transform) | note,
        extensions=(PROJECTION_URI, RASTER_URI, ZARR_URI, LCZCUBE_URI),
    )
    item.add_asset("data", _asset(entry, file, opened, step))
    return item


def _item_id(entry: ZarrInput, file: SourceFile, step: _Step) -> str:
    name = file.item_id.removeprefix(f"{entry.name}_").removeprefix(f"{file.year}_")
    return "_".join([entry.name, *([] if step.year is None else [str(step.year)]), name])


def _asset(entry: ZarrInput, file: SourceFile, opened: _Opened, step: _Step) -> pystac.Asset:
    import pystac

    grid = opened.grid
    version = grid.array.metadata.zarr_format
    axes = grid.axes[1:] if grid.axes[0] == "time" else grid.axes
    place: dict[str, Any] = {"array": grid.name, "axes": ",".join(axes)}
    if step.index is not None:
        place["time_index"] = step.index
    return pystac.Asset(
        href=file.href,
        title=entry.title,
        media_type=f"application/vnd.zarr; version={version}",
        roles=["data"],
        extra_fields={
            "bands": opened.bands,
            "raster:spatial_resolution": resolution_m(
                opened.place.crs, opened.place.shape, opened.place.transform
            ),
            "lczcube:block_shape": list(grid.block_shape),
            "lczcube:zarr": place,
            "zarr:zarr_format": version,
            "zarr:node_type": "group",
        },
    )
