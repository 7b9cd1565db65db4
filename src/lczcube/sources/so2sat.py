"""Source ``so2sat``: So2Sat LCZ42, labelled 320 m squares of 52 cities.

The rows of a split are of many cities in no order, so that the small geolocation and the labels of
all files are read first. An item is a city and a UTM zone, of whatever splits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from lczcube.errors import ConfigError, LczcubeError, SourceError
from lczcube.sources.files import SourceFile, file_facts, find_hrefs, media_type
from lczcube.sources.footprints import BBox
from lczcube.sources.inputs import Publication
from lczcube.sources.items import SourceItem, safe_id
from lczcube.sources.label_tables import LabelInput, Rows, label_item, patch_item
from lczcube.sources.so2sat_cities import CITIES
from lczcube.sources.so2sat_geo import PATCH_M, Origin
from lczcube.sources.so2sat_rows import Placed, Wanted, place_splits
from lczcube.sources.so2sat_splits import Split, find_splits, read_split

if TYPE_CHECKING:
    import geopandas as gpd
    import pandas as pd
    import pystac


class So2SatInput(LabelInput):
    """An ``[[input]]`` of So2Sat LCZ42, versions 1 to 4.

    Attributes
    ----------
    origin : {"corner", "centre"}
        What the geolocation's coordinates are of, as
        :func:`lczcube.sources.so2sat_geo.read_geolocation` explains.
    fix_epsg : bool
        True to read patches that their stated UTM zone puts into no city in the one zone that puts
        them into one. Default: they are left out and reported.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".h5",)
    publication: ClassVar[Publication | None] = Publication(
        license="CC-BY-4.0",
        license_note="Labels of So2Sat LCZ42 (Zhu et al. 2020), CC-BY-4.0: name the authors.",
        citation="Zhu, X. X. et al. (2020): So2Sat LCZ42: A Benchmark Data Set for the "
        "Classification of Global Local Climate Zones. IEEE Geoscience and Remote Sensing "
        "Magazine 8(3), 76-89",
        doi="10.1109/MGRS.2020.2964708",
        producer="Technical University of Munich and DLR",
        url="https://mediatum.ub.tum.de/1836598",
    )

    source: Literal["so2sat"]
    origin: Origin = "corner"
    fix_epsg: bool = False


@dataclass(frozen=True, eq=False)
class CityFile(SourceFile):
    """The patches of one city in one UTM zone.

    Attributes
    ----------
    rows : pandas.DataFrame
        As :attr:`lczcube.sources.so2sat_rows.Placed.patches`.
    splits : tuple of Split
        All splits of the input; ``rows["split"]`` counts them.
    """

    rows: pd.DataFrame | None = None
    splits: tuple[Split, ...] = ()


def find_files(entry: So2SatInput, *, folder: Path, cities: Mapping[str, BBox]) -> list[SourceFile]:
    """A file for each city and UTM zone; reads geolocation and labels, and no pixel.

    Where the TOML file has cities, patches whose centre lies in a city's bbox are its, and others
    are left out; where it has none, they are of So2Sat's own cities. ``city`` without a table is
    one of So2Sat's names.

    Raises
    ------
    ConfigError
        If an href cannot be used as it is written, or ``city`` is no city.
    """
    wanted = _wanted(entry, cities)
    named = find_hrefs(entry, folder=folder, cities=tuple(cities), search=find_splits)
    splits, faults = _read_splits(entry, named)
    if not splits:
        return faults
    placed = place_splits(splits, wanted, fix_epsg=entry.fix_epsg)
    faults += [_at_fault(entry, split.file, error) for split, error in placed.faults]
    if placed.patches.empty and not faults:
        faults.append(_at_fault(entry, splits[0].file, _nothing_wanted(placed, wanted)))
    return [*_city_files(entry, splits, placed.patches), *faults]


def build_items(entry: So2SatInput, file: SourceFile) -> list[SourceItem]:
    """The item of one city and zone, with its table of labels, or of patches without labels.

    Raises
    ------
    MissingInputError, SourceError, LabelError
        What :func:`find_files` found wrong with a file.
    """
    if file.fault is not None:
        raise file.fault
    if not isinstance(file, CityFile) or file.rows is None:
        raise SourceError(f"{file.href} is of several cities; find_files tells them apart.")
    used = [file.splits[number] for number in np.unique(file.rows["split"])]
    assets = {key: asset for split in used for key, asset in _assets(entry, split)}
    note = _note(entry, file.rows, used)
    rows = Rows(
        _squares(file.rows, file.splits),
        properties={"lczcube:note": note} if note else {},
        assets=assets,
    )
    is_labelled = bool(file.rows["lcz"].iloc[0])
    return [label_item(entry, file, rows) if is_labelled else patch_item(entry, file, rows)]


def _wanted(entry: So2SatInput, cities: Mapping[str, BBox]) -> Wanted:
    if entry.city is None:
        return Wanted(boxes=dict(cities))
    if entry.city in cities:
        return Wanted(boxes={entry.city: cities[entry.city]})
    if entry.city in CITIES:
        return Wanted(city=entry.city)
    raise ConfigError(
        f"input {entry.name!r}: city = {entry.city!r} is neither a [city.{entry.city}] table nor a "
        f"city of So2Sat; its cities: {', '.join(sorted(CITIES))}."
    )


def _read_splits(
    entry: So2SatInput, named: Sequence[SourceFile]
) -> tuple[list[Split], list[SourceFile]]:
    splits: dict[tuple[str, str], Split] = {}
    faults: list[SourceFile] = []
    for file in named:
        try:
            split = read_split(file, origin=entry.origin)
            if file.city and entry.city is None:
                split = replace(split, prefix=f"{file.city}/{split.prefix}")
            first = splits.setdefault((file.city, split.name), split)
            if first.geo != split.geo:
                raise SourceError(
                    f"{split.geo} and {first.geo} are both the split {split.name}, and divide the "
                    "same patches; give each an input of its own."
                )
        except LczcubeError as error:
            faults.append(_at_fault(entry, file, error))
    return list(splits.values()), faults


def _at_fault(entry: So2SatInput, file: SourceFile, error: LczcubeError) -> SourceFile:
    return replace(file, item_id=f"{entry.name}_{safe_id(Path(file.href).stem)}", fault=error)


def _nothing_wanted(placed: Placed, wanted: Wanted) -> SourceError:
    return SourceError(
        f"no patch lies in {', '.join(wanted.names)}; these files hold patches of "
        f"{', '.join(placed.cities) or 'no city of So2Sat'}. Correct bbox, or add the other splits."
    )


def _city_files(
    entry: So2SatInput, splits: Sequence[Split], patches: pd.DataFrame
) -> Iterator[CityFile]:
    """By name of the city; with the zone in its id where the city has several."""
    taken: set[str] = set()
    for (city, is_labelled), alike in patches.groupby(["city", patches["lcz"] > 0], sort=True):
        n_zones = alike["epsg"].nunique()
        for epsg, rows in alike.groupby("epsg", sort=True):
            parts = [entry.name, safe_id(city) or "city"]
            parts += [str(epsg)] if n_zones > 1 else []
            parts += [] if is_labelled else ["unlabelled"]
            item_id = _untaken("_".join(parts), taken)
            taken.add(item_id)
            first = splits[int(rows["split"].iloc[0])].file
            yield CityFile(
                href=first.href,
                item_id=item_id,
                year=first.year,
                city=city,
                rows=rows,
                splits=tuple(splits),
            )


def _untaken(wanted: str, taken: set[str]) -> str:
    """The id, with a number where names of two cities differ in unsafe letters only."""
    item_id, n = wanted, 1
    while item_id in taken:
        n += 1
        item_id = f"{wanted}-{n}"
    return item_id


def _squares(rows: pd.DataFrame, splits: Sequence[Split]) -> gpd.GeoDataFrame:
    import geopandas as gpd
    import shapely

    x0, y0 = rows["x0"].to_numpy(), rows["y0"].to_numpy()
    names = np.array([split.name for split in splits], dtype=object)
    return gpd.GeoDataFrame(
        {
            "patch_id": rows["patch_id"].to_numpy(),
            "group": rows["group"].to_numpy(),
            "lcz": rows["lcz"].to_numpy(),
            "split": names[rows["split"].to_numpy()],
            "x0": x0,
            "y0": y0,
            "size_m": PATCH_M,
        },
        geometry=shapely.box(x0, y0 - PATCH_M, x0 + PATCH_M, y0),
        crs=int(rows["epsg"].iloc[0]),
    )


def _assets(entry: So2SatInput, split: Split) -> Iterator[tuple[str, pystac.Asset]]:
    import pystac

    files = {
        "h5": (split.h5, "Sentinel-1 and Sentinel-2 pixels, and labels"),
        "geo": (split.geo, "Geolocation"),
    }
    for key, (path, title) in files.items():
        if path is not None:
            href = path.as_posix()
            yield (
                f"{split.name}_{key}",
                pystac.Asset(
                    href=href,
                    title=f"{title}, of {split.name}",
                    media_type=media_type(href),
                    roles=["source"],
                    extra_fields=dict(file_facts(href, checksum=entry.checksums)),
                ),
            )


def _note(entry: So2SatInput, rows: pd.DataFrame, splits: Sequence[Split]) -> str:
    """What was taken on trust or put right in the patches of a city."""
    notes = []
    if not all(split.patches.is_proven for split in splits):
        what = "upper-left corner of the patch" if entry.origin == "corner" else "centre of a pixel"
        notes.append(f"coordinates are taken for the {what}, as the files do not say it")
    n_moved = int(rows["is_moved"].sum())
    if n_moved:
        zone = int(rows["epsg"].iloc[0])
        notes.append(f"{n_moved:,} patches are read in EPSG:{zone} against what their file states")
    place = ["x0", "y0"]
    n_double = int(rows.duplicated(place).sum())
    if n_double:
        n_other = n_double - int(rows.duplicated([*place, "lcz"]).sum())
        notes.append(f"{n_double:,} patches lie exactly on another")
        notes[-1] += f", {n_other:,} of them with another label" if n_other else ""
    return "; ".join(notes)
