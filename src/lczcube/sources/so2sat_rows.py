"""Rows of So2Sat's splits, put into cities: whose patch it is, what it overlaps, and if it is lost.

A patch is lost where the UTM zone it states puts it into no city: some releases state wrong zones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lczcube.errors import SourceError
from lczcube.sources.footprints import BBox
from lczcube.sources.overlaps import overlap_groups
from lczcube.sources.so2sat_cities import zones_in_use
from lczcube.sources.so2sat_geo import PATCH_M, Geolocation, Place, in_zones, place
from lczcube.sources.so2sat_splits import Split

if TYPE_CHECKING:
    import pandas as pd

_Texts = npt.NDArray[np.str_]


@dataclass(frozen=True)
class Wanted:
    """Which patches an input wants.

    Attributes
    ----------
    boxes : mapping of str to tuple
        Bboxes, EPSG:4326, by the name that patches in them get; empty: all patches, by So2Sat's
        own names.
    city : str or None
        So2Sat's name of the only city, where there are no boxes.
    """

    boxes: Mapping[str, BBox] = field(default_factory=dict)
    city: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the wanted cities; empty for all."""
        return (self.city,) if self.city else tuple(self.boxes)

    def name(self, spots: Place) -> _Texts:
        """City of each patch; ``""`` where it is not wanted."""
        if not self.boxes:
            is_wanted = spots.is_home & ((spots.city == self.city) | (self.city is None))
            return np.where(is_wanted, spots.city, "")
        inside = [
            (west <= spots.lon) & (spots.lon <= east) & (south <= spots.lat) & (spots.lat <= north)
            for west, south, east, north in self.boxes.values()
        ]
        found = np.select(inside, list(self.boxes), default="")
        return np.where(spots.is_home | ~spots.is_named, found, "")

    def only(self, city: str) -> Wanted:
        """What is wanted of a file of one city; of all where ``city`` is ``""``."""
        return Wanted({city: self.boxes[city]}) if city in self.boxes else self


@dataclass(frozen=True, eq=False)
class Placed:
    """What became of the rows of the splits.

    Attributes
    ----------
    patches : pandas.DataFrame
        Wanted rows: ``split`` (number), ``patch_id``, ``group``, ``city``, ``epsg``, ``x0``,
        ``y0``, ``lcz``, and ``is_moved`` where another zone than the stated one was taken.
    cities : tuple of str
        So2Sat's cities in the files.
    faults : tuple of (Split, SourceError)
        Rows left out, by split and stated zone.
    """

    patches: pd.DataFrame
    cities: tuple[str, ...]
    faults: tuple[tuple[Split, SourceError], ...]


def place_splits(splits: Sequence[Split], wanted: Wanted, *, fix_epsg: bool) -> Placed:
    """Put the rows of splits into cities, and group those that overlap.

    Parameters
    ----------
    splits : sequence of Split
        Splits of one publication.
    wanted : Wanted
        Whose rows are kept.
    fix_epsg : bool
        Read lost patches in the one zone that puts them into a city, where there is one.
    """
    import pandas as pd

    tables, faults = [], []
    for number, split in enumerate(splits):
        table, lost = _located(split, wanted.only(split.file.city), fix_epsg=fix_epsg)
        tables.append(table.assign(split=number))
        faults += [(split, error) for error in lost]
    rows = pd.concat(tables, ignore_index=True)
    kept = rows[rows["city"] != ""]
    # Patches that are not wanted still join those that they overlap into one group.
    near = rows[rows["epsg"].isin(kept["epsg"].unique())].reset_index(drop=True)
    near = near.assign(group=_groups(near))
    patches = near[near["city"] != ""].reset_index(drop=True)
    return Placed(patches, tuple(sorted(set(rows["home"]) - {""})), tuple(faults))


def _located(
    split: Split, wanted: Wanted, *, fix_epsg: bool
) -> tuple[pd.DataFrame, list[SourceError]]:
    """Rows of a split that have a place, and a fault for each zone that loses some."""
    import pandas as pd

    rows = _rows(split, wanted)
    lost = rows[~rows["is_home"] & (rows["city"] == "")]
    if lost.empty:
        return rows, []
    index = lost.index.to_numpy()
    zones, n_zones = _fitting_zones(split.patches.rows(index), wanted)
    fitting = _rows(replace(split, patches=in_zones(split.patches, zones, index)), wanted)
    moved = fitting.loc[index].assign(stated=lost["epsg"], n_zones=n_zones, is_moved=True)
    is_taken = (moved["n_zones"] == 1) & fix_epsg
    # Patches that would come into no wanted city are not missed.
    missed = moved[~is_taken & ((moved["city"] != "") | (not wanted.names))]
    faults = [
        _lost(split, int(stated), some, rows.loc[some.index])
        for stated, some in missed.groupby("stated")
    ]
    found = pd.concat([rows.drop(index=index), moved.loc[is_taken, list(rows)]])
    return found.sort_index(), faults


def _fitting_zones(
    patches: Geolocation, wanted: Wanted
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """A zone that would put each patch into a city, a wanted one if any (0: none), and how many."""
    zone, n_zones = (np.zeros(len(patches), dtype=np.int32) for _ in range(2))
    is_wanted = np.zeros(len(patches), dtype=bool)
    for epsg in zones_in_use():
        spots = place(in_zones(patches, epsg))
        into_wanted = spots.is_home & (wanted.name(spots) != "")
        zone[spots.is_home & (zone == 0) | into_wanted & ~is_wanted] = epsg
        is_wanted |= into_wanted
        n_zones += spots.is_home
    return zone, n_zones


def _rows(split: Split, wanted: Wanted) -> pd.DataFrame:
    import pandas as pd

    patches = split.patches
    spots = place(patches)
    return pd.DataFrame(
        {
            "patch_id": [f"{split.prefix}/{row:06d}" for row in range(len(patches))],
            "city": wanted.name(spots).astype(object),
            "home": np.where(spots.is_home, spots.city, "").astype(object),
            "is_home": spots.is_home,
            "epsg": patches.epsg,
            "x0": patches.x0,
            "y0": patches.y0,
            "lon": spots.lon,
            "lat": spots.lat,
            "lcz": split.lcz,
            "is_moved": False,
        }
    )


def _lost(split: Split, stated: int, moved: pd.DataFrame, rows: pd.DataFrame) -> SourceError:
    first = rows.iloc[0]
    where = f"{first['lat']:.1f}, {first['lon']:.1f}" if np.isfinite(first["lat"]) else "nowhere"
    fits = moved[moved["n_zones"] == 1]
    fault = (
        f"{split.geo}: EPSG:{stated} puts {len(moved):,} patches into no city of So2Sat (the first "
        f"at latitude, longitude {where})"
    )
    if fits.empty:
        return SourceError(
            f"{fault}, and not exactly one UTM zone would; fetch the newest geolocation."
        )
    zones = ", ".join(f"EPSG:{zone}" for zone in sorted(fits["epsg"].unique()))
    cities = ", ".join(sorted(fits["home"].unique()))
    return SourceError(
        f"{fault}; {zones} would put {len(fits):,} of them into {cities}. Fetch the newest "
        "geolocation, or set fix_epsg = true to read them so."
    )


def _groups(rows: pd.DataFrame) -> npt.NDArray[np.object_]:
    """Id of the first patch of the chain of overlapping patches that each one is in."""
    groups = np.empty(len(rows), dtype=object)
    ids = rows["patch_id"].to_numpy(object)
    for index in rows.groupby("epsg").indices.values():
        x0, y0 = rows["x0"].to_numpy()[index], rows["y0"].to_numpy()[index]
        groups[index] = ids[index][overlap_groups(x0, y0, PATCH_M)]
    return groups
