"""Tables beside canopy heights: which tiles there are, and which ground of a tile was imaged."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lczcube.errors import SourceError
from lczcube.sources.files import SourceFile, first_line, is_remote, require_file, without_warnings
from lczcube.sources.footprints import DECIMALS, Footprint, geometry_footprint
from lczcube.sources.quadkeys import QuadTile

if TYPE_CHECKING:
    import pandas as pd
    import shapely

_QUADKEY = re.compile(r"[0-3]{9}|[0-3]{10}")
_INDEX_COLUMN, _DATE_COLUMN = "tile", "acq_date"


@dataclass(frozen=True)
class Imaged:
    """The ground of a tile that images show.

    Attributes
    ----------
    outline : Footprint
        Within the tile.
    first, last : str or None
        Days of acquisition, ``YYYY-MM-DD``; None where none can be read.
    """

    outline: Footprint
    first: str | None
    last: str | None


def read_index(file: SourceFile) -> frozenset[str]:
    """Quadkeys of the publisher's ``tiles.geojson``; reads no geometry.

    Raises
    ------
    MissingInputError
        If it is not there.
    SourceError
        If it is at a URL, cannot be read, or is no such index.
    """
    table = _read(file, _INDEX_COLUMN, read_geometry=False)
    names = frozenset(str(name) for name in table[_INDEX_COLUMN])
    wrong = sorted(name for name in names if not _QUADKEY.fullmatch(name))
    if wrong or len({len(name) for name in names}) > 1:
        shown = ", ".join(map(repr, wrong[:3])) or "quadkeys of 9 and of 10 digits"
        raise SourceError(
            f"{file.href} lists {shown}; tiles of canopy height are named by quadkeys of 9 digits "
            "(version 1) or 10 (version 2). Name the publisher's tiles.geojson."
        )
    return names


def read_imaged(file: SourceFile, tile: QuadTile) -> Imaged:
    """The union of the footprints that have a date, within a tile.

    Raises
    ------
    MissingInputError
        If the file is not there.
    SourceError
        If it cannot be read, lacks the dates, or no dated footprint meets the tile.
    """
    import shapely

    table = _read(file, _DATE_COLUMN, read_geometry=True)
    dated = table[table[_DATE_COLUMN].notna() & table.geometry.notna()]
    within = _polygons(
        shapely.intersection(
            _polygons(shapely.union_all(shapely.make_valid(dated.geometry.to_numpy()))),
            shapely.box(*tile.bbox),
        )
    )
    outline = shapely.set_precision(within, 10**-DECIMALS)
    if shapely.area(outline) == 0:
        raise SourceError(
            f"{file.href} has {len(dated)} dated footprints and none on tile {tile.quadkey}, so "
            "the tile has no valid pixel; fetch both again."
        )
    return Imaged(geometry_footprint(outline), *_days(dated[_DATE_COLUMN]))


def _read(file: SourceFile, column: str, *, read_geometry: bool) -> pd.DataFrame:
    import pyogrio

    if is_remote(file.href):
        raise SourceError(f"{file.href} is at a URL; fetch it, and name the file.")
    require_file(file)
    try:
        # A ring that is not closed becomes a null geometry, which is left out.
        with without_warnings():
            table = pyogrio.read_dataframe(
                file.href,
                columns=[column],
                read_geometry=read_geometry,
                force_2d=True,
                on_invalid="ignore",
            )
    except (RuntimeError, ValueError) as error:
        raise SourceError(
            f"{file.href} cannot be read as GeoJSON ({first_line(error)}); fetch it again."
        ) from error
    if column not in table or (read_geometry and "geometry" not in table):
        missing = column if column not in table else "geometry"
        raise SourceError(f"{file.href} lacks {missing}; fetch it again.")
    return table


def _polygons(geometry: shapely.Geometry) -> shapely.Geometry:
    """The parts of a geometry that have an area."""
    import shapely

    parts = shapely.get_parts(shapely.get_parts(geometry))
    return shapely.union_all([part for part in parts if part.area > 0])


def _days(dates: pd.Series) -> tuple[str | None, str | None]:
    import pandas as pd

    times = pd.to_datetime(dates.astype(str), format="mixed", errors="coerce", utc=True).dropna()
    if not len(times):
        return None, None
    return f"{times.min():%Y-%m-%d}", f"{times.max():%Y-%m-%d}"
