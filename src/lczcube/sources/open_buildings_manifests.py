"""Manifests of Open Buildings 2.5D Temporal: where every tile of a UTM zone and a year lies.

They are Earth Engine's ingestion manifests, written by a protobuf library: a number that is 0 is
left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from lczcube.errors import SourceError
from lczcube.sources.files import SourceFile, first_line, is_remote, require_file
from lczcube.sources.footprints import BBox, meets_any, utm_meridians
from lczcube.sources.open_buildings_pixels import (
    BLOCK_PX,
    BUILDING_BANDS,
    NODATA,
    PIXEL_M,
    TILE_PATH,
    Pixels,
)

MAX_BYTES = 64 << 20
"""Largest manifest that is read; the publisher's are of 3 MB for 8,300 tiles."""

MAX_SIDE_PX = 1 << 20
EASTINGS_M = (-1e6, 2e6)
NORTHINGS_M = (-1e6, 1.1e7)
"""Where a UTM zone has coordinates, with room for what reaches past it or over the equator."""

EDGE_POINTS = 5
"""Points along an edge of a tile that are transformed: between them 12.5 km bend by under 1 m."""

BUCKETS = "https://storage.googleapis.com"
"""Where Google's buckets are read over HTTPS: by anyone, without a setting of GDAL."""

_NAME = re.compile(r"[0-9a-f]{1,16}_EPSG_(?P<epsg>\d{4,6})_(?P<year>\d{4})_\d\d_\d\d\.json")
_REMEDY = "; fetch the manifest again."
_URL = re.compile(r"(?:gs|https)://[A-Za-z0-9][A-Za-z0-9._-]*/[^?#\s]+")


@dataclass(frozen=True)
class ListedTile:
    """A tile as a manifest describes it.

    Attributes
    ----------
    url : str
        ``uriPrefix`` and URI, joined without a slash.
    folder, name : str
        Its last two parts: ``3be7c_2023_06_30``, ``tile_OScHfh-5ubs.tif``.
    year : int
        By its folder.
    pixels : Pixels
        Its grid and bands.
    """

    url: str
    folder: str
    name: str
    year: int
    pixels: Pixels


@dataclass(frozen=True)
class Manifest:
    """What a manifest says.

    Attributes
    ----------
    tiles : tuple of ListedTile
        Those that can be used.
    fault : SourceError or None
        What is wrong with the others, in one message.
    """

    tiles: tuple[ListedTile, ...]
    fault: SourceError | None


def crs_and_year(href: str) -> tuple[str, int] | None:
    """CRS and year by the name of a manifest; None for a name of another kind.

    Examples
    --------
    >>> crs_and_year("v1/manifests/39_EPSG_32643_2023_06_30.json")
    ('EPSG:32643', 2023)
    """
    found = _NAME.fullmatch(href.rsplit("/", maxsplit=1)[-1])
    return None if found is None else (f"EPSG:{found['epsg']}", int(found["year"]))


def readable_url(url: str) -> str:
    """A URL as GDAL reads it without credentials: ``gs://`` becomes HTTPS.

    Examples
    --------
    >>> readable_url("gs://open-buildings-temporal-data/v1/geotiffs/a.tif")
    'https://storage.googleapis.com/open-buildings-temporal-data/v1/geotiffs/a.tif'
    """
    return f"{BUCKETS}/{quote(url[5:])}" if url.startswith("gs://") else url


def public_url(tile: ListedTile) -> str:
    """Where the publisher keeps a tile, as GDAL reads it.

    Raises
    ------
    SourceError
        If the manifest leads to something else than a bucket or an HTTPS server.
    """
    if _URL.fullmatch(tile.url) is None:
        raise SourceError(
            f"{tile.url[:200]} is no gs:// or https:// URL; name the folder of your copies in href."
        )
    return readable_url(tile.url)


def read_manifest(file: SourceFile, boxes: Sequence[BBox]) -> Manifest:
    """What a manifest says; opens no tile. Keys that are unknown are passed over.

    Parameters
    ----------
    file : SourceFile
        The manifest.
    boxes : sequence of tuple of float
        Where tiles are wanted, EPSG:4326; everywhere if there are none. A manifest whose name puts
        it in a UTM zone that meets none of them is not read, and has no tile.

    Raises
    ------
    MissingInputError
        If it is not there.
    SourceError
        If it is no manifest, or its CRS, bands or nodata cannot be used.
    """
    if is_remote(file.href):
        raise SourceError(f"{file.href} is a manifest at a URL; fetch it, and name the file.")
    require_file(file)
    named = crs_and_year(file.href)
    zone = None if named is None else utm_meridians(named[0])
    if zone is not None and not meets_any((zone[0], -90, zone[1], 90), boxes):
        return Manifest((), None)
    said = _mapping(_parsed(file.href), file.href)
    tilesets = _sequence(said.get("tilesets"), f"{file.href}: tilesets")
    if not tilesets:
        raise SourceError(
            f"{file.href} is no manifest of Open Buildings: it lacks tilesets. Fetch it again."
        )
    bands, nodata = _bands(said, file.href)
    prefix = str(said.get("uriPrefix", ""))
    tiles: list[ListedTile] = []
    faults: list[str] = []
    for number, tileset in enumerate(tilesets):
        found = _mapping(tileset, f"{file.href}: tilesets[{number}]")
        of_all = _OfAll(prefix, _crs(found, file.href), _year(file.href), bands, nodata)
        sources = _sequence(found.get("sources"), f"{file.href}: tilesets[{number}].sources")
        for position, source in enumerate(sources):
            try:
                tiles.append(_tile(source, of_all))
            except SourceError as error:
                faults.append(f"tilesets[{number}].sources[{position}] {error}")
    return Manifest(tuple(tiles), _one_fault(faults, file.href))


def near(tiles: Sequence[ListedTile], boxes: Sequence[BBox]) -> list[ListedTile]:
    """Tiles whose pixels may meet one of the boxes (EPSG:4326); all where there are no boxes."""
    found: list[ListedTile] = []
    for crs, of_crs in groupby(tiles, key=lambda tile: tile.pixels.crs):
        some = list(of_crs)
        bounds = _lonlat_bounds([tile.pixels for tile in some], crs).tolist()
        found += [tile for tile, b in zip(some, bounds, strict=True) if meets_any((*b,), boxes)]
    return found


def _parsed(href: str) -> Any:
    path = Path(href)
    if path.stat().st_size > MAX_BYTES:
        raise SourceError(
            f"{href} has {path.stat().st_size:,} bytes; a manifest of Open Buildings has a few "
            "million. Name the publisher's files."
        )
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise SourceError(
            f"{href} cannot be read as JSON ({first_line(error)}); fetch it again."
        ) from error


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise SourceError(f"{where} is no JSON object{_REMEDY}")
    return value


def _sequence(value: Any, where: str) -> Sequence[Any]:
    if value is not None and not isinstance(value, list):
        raise SourceError(f"{where} is no JSON array{_REMEDY}")
    return value or []


# Bands


def _bands(said: Mapping[str, Any], href: str) -> tuple[tuple[str, ...], float]:
    bands = [_mapping(b, f"{href}: bands") for b in _sequence(said.get("bands"), f"{href}: bands")]
    positions = {str(band.get("id")): band.get("tilesetBandIndex", 0) for band in bands}
    names = tuple(sorted(positions, key=lambda name: str(positions[name]))) or BUILDING_BANDS
    if (
        set(names) != set(BUILDING_BANDS)
        or (bands and sorted(positions.values(), key=str) != [0, 1, 2])
        or len({str(band.get("tilesetId")) for band in bands}) > 1
    ):
        listed = ", ".join(f"{name} at {positions.get(name)}" for name in names)
        raise SourceError(
            f"{href} has bands {listed[:300]}; Open Buildings has {', '.join(BUILDING_BANDS)} at "
            "0, 1 and 2 of one file. Fetch it again."
        )
    return names, _nodata([said, *bands], href)


def _nodata(parts: Sequence[Mapping[str, Any]], href: str) -> float:
    said = [_mapping(part.get("missingData", {}), f"{href}: missingData") for part in parts]
    values = [v for part in said for v in _sequence(part.get("values"), f"{href}: missingData")]
    if any(not _is_number(value) or value >= 0 for value in values) or len(set(values)) > 1:
        raise SourceError(
            f"{href} has missingData {str(values)[:100]}; one layer has one number for it, below "
            "0. Fetch it again."
        )
    return float(values[0]) if values else NODATA


def _is_number(value: Any) -> bool:
    """True for a number that a double holds exactly enough; not for NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15


# Tilesets


def _year(href: str) -> int | None:
    named = crs_and_year(href)
    return None if named is None else named[1]


def _crs(tileset: Mapping[str, Any], href: str) -> str:
    """The CRS of a tileset, which its manifest's name must not contradict."""
    named = crs_and_year(href)
    told = tileset.get("crs")
    crs = _epsg(str(told)) if told else named and named[0]
    if told and crs is None:
        raise SourceError(
            f"{href} has a CRS that cannot be read ({str(told)[:40]}); fetch it again."
        )
    if crs is None:
        raise SourceError(
            f"{href} says its CRS neither in tilesets nor in its name; keep the publisher's name, "
            "such as 39_EPSG_32643_2023_06_30.json."
        )
    if named is not None and named[0] != crs:
        raise SourceError(f"{href} is of {named[0]} by its name, but its tiles are in {crs}.")
    if utm_meridians(crs) is None:
        raise SourceError(
            f"{href} is of {crs}; tiles of Open Buildings are in a UTM zone of WGS 84. Fetch it "
            "again."
        )
    return crs


@lru_cache(maxsize=64)
def _epsg(text: str) -> str | None:
    """``EPSG:n`` of a CRS, its text where it has no code, None where it is none."""
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        epsg = CRS.from_user_input(text).to_epsg()
    except CRSError:
        return None
    return f"EPSG:{epsg}" if epsg else text[:40]


def _one_fault(faults: Sequence[str], href: str) -> SourceError | None:
    if not faults:
        return None
    more = f" ({len(faults) - 1} more)" if len(faults) > 1 else ""
    first = faults[0].removesuffix(_REMEDY)
    return SourceError(f"{href}: {first}{more}{_REMEDY[:-1]}, or name the tiles in href.")


@dataclass(frozen=True)
class _OfAll:
    """What a manifest says of all tiles of a tileset."""

    prefix: str
    crs: str
    year: int | None
    bands: tuple[str, ...]
    nodata: float


def _tile(source: Any, of_all: _OfAll) -> ListedTile:
    """A tile of a source; errors name neither the manifest nor the source."""
    said = _mapping(source, "is no source:")
    uris = _sequence(said.get("uris"), "has uris that")
    if not uris or not isinstance(uris[0], str):
        raise SourceError("has no uris")
    url = of_all.prefix + uris[0]
    tile = TILE_PATH.search(url)
    if tile is None or {"..", "."} & set(url.split("/")) or "\\" in url:
        raise SourceError(
            f"leads to {url[:200]!r}, which is no tile …/TOKEN_YEAR_06_30/tile_NAME.tif"
        )
    year = int(tile["year"])
    if of_all.year not in (None, year):
        raise SourceError(
            f"leads to {url[:200]!r}, but the manifest is of {of_all.year} by its name"
        )
    transform = _transform(_mapping(said.get("affineTransform", {}), "has an affineTransform that"))
    shape = _shape(_mapping(said.get("dimensions", {}), "has dimensions that"))
    pixels = Pixels(
        crs=of_all.crs,
        shape=shape,
        transform=transform,
        bands=of_all.bands,
        dtype="float32",
        nodata=of_all.nodata,
        block_shape=(min(BLOCK_PX, shape[0]), min(BLOCK_PX, shape[1])),
        is_cog=True,
    )
    return ListedTile(url, tile["folder"], tile["name"], year, pixels)


def _transform(said: Mapping[str, Any]) -> tuple[float, ...]:
    names = ("scaleX", "shearX", "translateX", "shearY", "scaleY", "translateY")
    values = [said.get(name, 0) for name in names]
    if not all(map(_is_number, values)):
        raise SourceError("has an affineTransform that is no numbers")
    a, b, c, d, e, f = values
    if b or d or abs(a) != PIXEL_M or abs(e) != PIXEL_M:
        raise SourceError(
            f"has pixels of {a:g} x {e:g} m, shear {b:g} and {d:g}; they are of {PIXEL_M:g} m, "
            "along x and y"
        )
    for low, value, high in (
        (EASTINGS_M[0], c, EASTINGS_M[1]),
        (NORTHINGS_M[0], f, NORTHINGS_M[1]),
    ):
        if not low <= value <= high:
            raise SourceError(f"begins at ({c:g}, {f:g}), which no UTM zone has")
    return tuple(map(float, values))


def _shape(said: Mapping[str, Any]) -> tuple[int, int]:
    rows, columns = said.get("height", 0), said.get("width", 0)
    if not all(_is_number(n) and n == int(n) and 1 <= n <= MAX_SIDE_PX for n in (rows, columns)):
        raise SourceError(f"has dimensions {str(dict(said))[:100]}, which are no width and height")
    return int(rows), int(columns)


# Where they lie


def _lonlat_bounds(tiles: Sequence[Pixels], crs: str) -> npt.NDArray[np.float64]:
    """``(tile, 4)``: bboxes in EPSG:4326; of the whole width where one crosses 180 degrees."""
    from pyproj import Transformer

    affine = np.array([tile.transform for tile in tiles])
    rows, columns = np.array([tile.shape for tile in tiles]).T
    u, v = np.array([*_around()]).T
    x = affine[:, 2, None] + affine[:, 0, None] * columns[:, None] * u
    y = affine[:, 5, None] + affine[:, 4, None] * rows[:, None] * v
    lon, lat = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(x, y)
    west, east = lon.min(axis=1), lon.max(axis=1)
    crosses = east - west > 180
    west, east = np.where(crosses, -180, west), np.where(crosses, 180, east)
    return np.stack([west, lat.min(axis=1), east, lat.max(axis=1)], axis=1)


def _around() -> Iterator[tuple[float, float]]:
    """Points on the sides of a square."""
    along: Collection[float] = np.linspace(0, 1, EDGE_POINTS).tolist()
    for t in along:
        yield from ((t, 0), (t, 1), (0, t), (1, t))
