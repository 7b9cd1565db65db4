"""Source ``osm``: OpenStreetMap extracts and full histories, as features at a date."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from lczcube.errors import SourceError
from lczcube.sources.files import SourceFile, find_hrefs, is_remote, require_file, with_ids
from lczcube.sources.footprints import BBox, search_boxes
from lczcube.sources.inputs import Input, Kind, Publication, as_tuple
from lczcube.sources.items import SourceItem
from lczcube.sources.osm_features import read_features
from lczcube.sources.osm_items import OsmState, osm_item, region_of
from lczcube.sources.osm_scheme import FEATURES, MAPPED
from lczcube.sources.osm_snapshot import (
    LAST,
    OsmHeader,
    dated,
    is_named_history,
    read_header,
    write_snapshots,
)

LATEST = "latest"
_FILE = re.compile(r"\.(osm|osh)(\.(pbf|bz2|gz))?$|\.pbf$", re.IGNORECASE)


def _as_date(text: str) -> str:
    if text != LATEST:
        try:
            date.fromisoformat(text)
        except ValueError:
            raise ValueError(f'{text!r} is no date; write "2020-01-31" or "{LATEST}"') from None
    return text


def _as_feature(name: str) -> str:
    if name not in FEATURES:
        raise ValueError(f"{name!r} is no feature; known: {', '.join(FEATURES)}")
    return name


class OsmInput(Input):
    """An ``[[input]]`` of OpenStreetMap.

    Attributes
    ----------
    dates : tuple of str
        Dates of the states that are wanted of a full history, at 0:00 UTC; ``latest`` is its last.
        A file without history has one date, which has to be among them.
        Default: 1 January of each of ``years``, else ``latest``.
    history : bool, optional
        Whether the files are full histories, where they do not say it.
    features : tuple of str
        Bands wanted, in their order. Default: all of the scheme. ``mapped`` always follows.
    roofs : bool
        True to take roofs without walls for buildings.
    static : bool
        True for a layer that meets every year: the map of today for labels of another year.
    """

    kind: ClassVar[Kind] = "raster"
    suffixes: ClassVar[tuple[str, ...]] = (".pbf", ".osm", ".osh", ".bz2", ".gz")
    years_in_paths: ClassVar[bool] = True
    publication: ClassVar[Publication | None] = Publication(
        license="ODbL-1.0",
        license_note=(
            "© OpenStreetMap contributors, ODbL 1.0: a map made with it names them; a table of "
            "features derived from it is shared alike."
        ),
        citation="M. Haklay, P. Weber: OpenStreetMap: User-Generated Street Maps. IEEE Pervasive "
        "Computing 7(4), 12-18, 2008.",
        doi="10.1109/MPRV.2008.80",
        producer="OpenStreetMap contributors",
        url="https://www.openstreetmap.org/copyright",
    )

    source: Literal["osm"]
    dates: Annotated[
        tuple[Annotated[str, AfterValidator(_as_date)], ...], BeforeValidator(as_tuple)
    ] = ()
    history: bool | None = None
    features: Annotated[
        tuple[Annotated[str, AfterValidator(_as_feature)], ...],
        BeforeValidator(as_tuple),
        Field(min_length=1),
    ] = FEATURES
    roofs: bool = False
    static: bool = False

    @property
    def layer_fields(self) -> dict[str, Any]:
        """Masks of 0 and 1, drawn on the pixels that are asked for."""
        return {
            "layer": "osm",
            "decoder": "linear",
            "valid": "nodata",
            "resampling": "nearest",
            "static": self.static,
        }

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands: the features, and ``mapped``."""
        return (*self.features, MAPPED)

    @model_validator(mode="after")
    def _check_dates(self) -> OsmInput:
        if self.dates and self.all_years:
            raise ValueError("has dates and year; give one: year = 2020 is dates = ['2020-01-01']")
        for name, values in (("dates", self.dates), ("features", self.features)):
            if len(set(values)) < len(values):
                raise ValueError(f"has {name} that repeat; name each once")
        if self.static and max(len(self.dates), len(self.all_years)) > 1:
            raise ValueError("is static and has several dates; one that meets every year has one")
        return self


@dataclass(frozen=True)
class OsmFile(SourceFile):
    """A file of OpenStreetMap, and where its features are wanted.

    Attributes
    ----------
    boxes : tuple of tuple, optional
        Bboxes of the cities and a margin, EPSG:4326; empty for all that is there.
    """

    boxes: tuple[BBox, ...] = ()


def find_files(entry: OsmInput, *, folder: Path, cities: Mapping[str, BBox]) -> list[OsmFile]:
    """The files of an input; of those of a city, what lies near it is wanted, else near any city.

    Raises
    ------
    ConfigError
        If an href cannot be used as it is written.
    """

    def search(path: Path) -> list[str]:
        return sorted(
            found.as_posix()
            for found in path.iterdir()
            if found.is_file() and _FILE.search(found.name)
        )

    found = find_hrefs(entry, folder=folder, cities=tuple(cities), search=search)
    files = []
    for file in found:
        own = [cities[file.city]] if file.city in cities else list(cities.values())
        files.append(OsmFile(**vars(file), boxes=tuple(search_boxes(own))))
    return with_ids(entry, files)


def build_items(entry: OsmInput, file: SourceFile) -> list[SourceItem]:
    """An item and a table of features for each date of a file; reads the file.

    Raises
    ------
    MissingInputError
        If the file is not there.
    SourceError
        If it cannot be read, has no state at a date, no extent, or lies in no city.
    """
    if is_remote(file.href):
        raise SourceError(
            f"{file.href} is remote, and a whole extract is read several times; fetch it first, "
            "and name the copy."
        )
    require_file(file)
    path = Path(file.href)
    header = read_header(path)
    region = region_of(header, file.boxes if isinstance(file, OsmFile) else (), file)
    items = []
    with _states(entry, file, header) as states:
        for state in states:
            found = read_features(state.path, region.boxes, roofs=entry.roofs)
            made = osm_item(file, state, found, region, entry.bands, checksum=entry.checksums)
            items.append(made)
    if len({made.item.id for made in items}) < len(items):
        raise SourceError(
            f'{path} has "{LATEST}" on a day that dates names too ({items[-1].item.id}); leave one '
            "of them out."
        )
    return items


@contextmanager
def _states(entry: OsmInput, file: SourceFile, header: OsmHeader) -> Iterator[list[OsmState]]:
    """The states of a file that are wanted, each in a file without history."""
    path = Path(file.href)
    has_history = entry.history
    if has_history is None:
        has_history = header.has_history or is_named_history(path)
    if not has_history:
        yield [_only_state(entry, file, header)]
        return
    wanted = _wanted_dates(entry, file) or (LATEST,)
    limits = [_limit(text, header, path) for text in wanted]
    with tempfile.TemporaryDirectory(prefix="lczcube-osm-") as scratch:
        paths = [Path(scratch) / f"{number}.osm.pbf" for number in range(len(limits))]
        newest = write_snapshots(path, list(zip(limits, paths, strict=True)))
        yield [
            OsmState(out, newest)
            if limit == LAST
            else OsmState(out, limit, _note(limit, header, newest))
            for limit, out in zip(limits, paths, strict=True)
        ]


def _limit(wanted: str, header: OsmHeader, path: Path) -> datetime:
    """The time up to which versions of a history belong to a state."""
    if wanted == LATEST:
        return header.stamp or LAST
    time = _midnight(wanted)
    if header.stamp is not None and time > header.stamp:
        raise SourceError(
            f"{path} ends on {header.stamp:%Y-%m-%d}, before {wanted}; fetch a later one, or name "
            f'an earlier date or "{LATEST}" in dates.'
        )
    return time


def _note(time: datetime, header: OsmHeader, newest: datetime) -> str | None:
    if header.stamp is not None or time <= newest:
        return None
    return f"the history tells no end, and its newest object is of {newest:%Y-%m-%d}"


def _only_state(entry: OsmInput, file: SourceFile, header: OsmHeader) -> OsmState:
    """The one state of a file without history, if it is wanted."""
    path = Path(file.href)
    stamp = dated(path, header)
    wanted = _wanted_dates(entry, file)
    if stamp is None:
        return OsmState(path, *_stated_date(entry, file, wanted))
    by_year = not entry.dates and str(stamp.year) in {text[:4] for text in wanted}
    if wanted and LATEST not in wanted and f"{stamp:%Y-%m-%d}" not in wanted and not by_year:
        raise SourceError(
            f"{path} is no full history: it is the state of {stamp:%Y-%m-%d}, and the input wants "
            f"{', '.join(wanted)}. Name that date, or fetch a full history (.osh.pbf)."
        )
    return OsmState(path, stamp)


def _stated_date(
    entry: OsmInput, file: SourceFile, wanted: tuple[str, ...]
) -> tuple[datetime | None, str]:
    """The date of a file that tells none: the one that the input states."""
    if len(wanted) == 1 and LATEST not in wanted:
        return _midnight(wanted[0]), "date as the input states it; the file tells none"
    if entry.static:
        return None, "the file tells no date"
    raise SourceError(
        f"{file.href} tells no date, neither in its header nor its name nor its objects; give its "
        'date, dates = ["2020-01-31"], or static = true.'
    )


def _wanted_dates(entry: OsmInput, file: SourceFile) -> tuple[str, ...]:
    """What an input wants of a file; empty for what it has."""
    years = entry.all_years if file.year is None else (file.year,)
    return entry.dates or tuple(f"{year}-01-01" for year in years)


def _midnight(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
