"""Source ``canopy``: canopy heights of Meta and WRI, in metres, or any raster of such heights.

The publisher's tiles are named by quadkeys, so their place is known without opening them. Where
they hold data is said by other files: a mask beside version 1, footprints beside version 2.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from lczcube.errors import ConfigError, LczcubeError, MissingInputError, SourceError
from lczcube.sources.canopy_exports import export_item
from lczcube.sources.canopy_tables import read_index
from lczcube.sources.canopy_tiles import VERSIONS, CanopyTile, Version, tile_item
from lczcube.sources.files import (
    SourceFile,
    find_hrefs,
    is_remote,
    require_file,
    resolve_path,
    with_ids,
)
from lczcube.sources.footprints import BBox, meets_any, search_boxes
from lczcube.sources.inputs import Input, Kind, Publication
from lczcube.sources.items import SourceItem
from lczcube.sources.quadkeys import QuadTile, tiles_meeting

_TILE = re.compile(r"([0-3]{9}|[0-3]{10})\.tiff?", re.IGNORECASE)
_VERSION = re.compile(r"/v([12])(?=/|$)")
_TILES_FOLDER = "chm"


class CanopyInput(Input):
    """An ``[[input]]`` of canopy heights; without ``year`` it has no date, as the maps are mosaics.

    Attributes
    ----------
    href : str or list of str
        Tiles, folders (searched all the way down), globs; or the folder or URL below which
        ``chm/{quadkey}.tif`` lie. At a URL the tiles of the cities are named without asking.
    index : str, optional
        The publisher's ``tiles.geojson``: which tiles there are. Without, every tile of a city is
        expected at a URL, also those of the open sea, which are not there.
    metadata : str, optional
        Folder of ``{quadkey}.geojson``, for tiles that lie elsewhere. Default: beside ``chm``.
    version : int, optional
        1 or 2; tells what a URL holds, and chooses where a folder holds both.
    mask : str
        What 0 means in the masks of version 1. Default: GDAL's convention, as the publisher does
        not state it. ``ignore`` leaves the masks alone.
    overviews : bool
        True to read coarse pixels in place of the stored ones where they are at most half a pixel
        of the grid. Much less to fetch, but approximate: they mix ground with crowns. Default: off.
    nodata : float, optional
        In place of what the files declare; 255 where they declare none.
    """

    kind: ClassVar[Kind] = "raster"
    suffixes: ClassVar[tuple[str, ...]] = (".tif", ".tiff")

    source: Literal["canopy"]
    index: str | None = None
    metadata: str | None = None
    version: Literal[1, 2] | None = None
    mask: Literal["zero_is_invalid", "zero_is_valid", "ignore"] = "zero_is_invalid"
    overviews: bool = False
    nodata: float | None = None
    ai_derived: bool = True

    @property
    def layer_fields(self) -> dict[str, Any]:
        """Heights, not to be averaged with the ground; the files say where they are valid.

        Those of overviews are another product: a model of one is none of the other.
        """
        approximate = {"product": "canopy/overviews"} if self.overviews else {}
        return {
            **approximate,
            "layer": "canopy",
            "decoder": "linear",
            "resampling": "nearest",
            "static": not self.all_years,
            "overviews": self.overviews,
        }

    def published_as(self, product: str = "") -> Publication | None:
        """By version; an export is of neither."""
        published = {f"meta-chm/{v.number}": v.publication for v in VERSIONS.values()}
        return published.get(product.removesuffix("/overviews"))

    @model_validator(mode="after")
    def _check_index(self) -> CanopyInput:
        if self.index is not None and (len(self.href) > 1 or "{" in self.href[0]):
            raise ValueError(
                "has an index, so href is one folder or URL, below which chm/{quadkey}.tif lie"
            )
        return self


def find_files(entry: CanopyInput, *, folder: Path, cities: Mapping[str, BBox]) -> list[SourceFile]:
    """The tiles and exports an input means; opens none of them, reads an index.

    Raises
    ------
    ConfigError
        If tiles are to be named by the cities and there is none, or an href cannot be used.
    """
    named = [entry.city] if entry.city and entry.city in cities else list(cities)
    boxes = search_boxes(cities[name] for name in named)
    if entry.index is not None:
        return with_ids(entry, _indexed(entry, folder, boxes))
    found = find_hrefs(entry, folder=folder, cities=tuple(cities), search=_search)
    files = [made for file in found for made in _recognised(entry, file, folder, boxes)]
    return with_ids(entry, files)


def build_items(entry: CanopyInput, file: SourceFile) -> list[SourceItem]:
    """The item of a tile or an export; reads headers and footprints, and no pixel.

    Raises
    ------
    MissingInputError
        If a file is not there.
    SourceError
        If it is broken, no raster of heights, or not where its name says.
    """
    if file.fault is not None:
        raise file.fault
    require_file(file)
    if isinstance(file, CanopyTile):
        return [tile_item(entry, file)]
    return [export_item(entry, file)]


def _search(folder: Path) -> list[str]:
    """Tiles below a folder; exports only where there is none, as the archive has other rasters."""
    paths = [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in CanopyInput.suffixes and path.is_file()
    ]
    tiles = [path for path in paths if _TILE.fullmatch(path.name)]
    return sorted(path.as_posix() for path in tiles or paths)


def _recognised(
    entry: CanopyInput, file: SourceFile, folder: Path, boxes: Sequence[BBox]
) -> Iterator[SourceFile]:
    """A file as what it is; the tiles of the cities, where it is a URL that is no file."""
    name = _name(file.href)
    found = _TILE.fullmatch(name)
    if found is not None:
        tile = _tile(entry, file, found[1], folder)
        if not file.is_found or (meets_any(tile.tile.bbox, boxes) and _is_wanted(entry, tile)):
            yield tile
    elif is_remote(file.href) and not name.lower().endswith(CanopyInput.suffixes):
        version = _version_at(entry, file.href)
        _require_cities(entry, boxes)
        quadkeys = [tile.quadkey for tile in tiles_meeting(boxes, version.zoom)]
        yield from _tiles_at(entry, file, quadkeys, folder)
    else:
        yield file


def _name(href: str) -> str:
    return href.split("?", maxsplit=1)[0].rsplit("/", maxsplit=1)[-1]


def _is_wanted(entry: CanopyInput, tile: CanopyTile) -> bool:
    return entry.version in (None, tile.version.number)


def _version_at(entry: CanopyInput, href: str) -> Version:
    """Version of the tiles at a URL: what the input says, else the publisher's folder."""
    told = _VERSION.findall(href)
    number = entry.version or (int(told[-1]) if told else None)
    if number is None:
        raise ConfigError(
            f"input {entry.name!r}: {href} does not tell the version of its tiles, as the "
            "publisher's folders do (…/v1/…); add version = 1 or version = 2."
        )
    return next(version for version in VERSIONS.values() if version.number == number)


def _require_cities(entry: CanopyInput, boxes: Sequence[BBox]) -> None:
    if not boxes:
        raise ConfigError(
            f"[[input]] {entry.name!r} has tiles of the whole Earth, but the file names no city; "
            "add a [city.NAME] table with its bbox."
        )


# From the index


def _indexed(entry: CanopyInput, folder: Path, boxes: Sequence[BBox]) -> list[SourceFile]:
    _require_cities(entry, boxes)
    root = SourceFile(resolve_path(entry.href[0], entry, folder), "", None, entry.city or "")
    index = replace(root, href=resolve_path(str(entry.index), entry, folder))
    try:
        quadkeys = _require_version(entry, read_index(index), index.href)
    except LczcubeError as error:
        return [replace(index, fault=error)]
    near = (name for name in quadkeys if meets_any(QuadTile.of_quadkey(name).bbox, boxes))
    return list(_tiles_at(entry, root, sorted(near), folder))


def _require_version(entry: CanopyInput, quadkeys: Collection[str], href: str) -> Collection[str]:
    zooms = {len(name) for name in quadkeys}
    if len(zooms) == 1 and entry.version not in (None, VERSIONS[min(zooms)].number):
        raise SourceError(
            f"{href} lists tiles of version {VERSIONS[min(zooms)].number}, and the input says "
            f"version = {entry.version}; correct one of them."
        )
    return quadkeys


def _tiles_at(
    entry: CanopyInput, root: SourceFile, quadkeys: Sequence[str], folder: Path
) -> Iterator[CanopyTile]:
    place = root.href.rstrip("/")
    if place.rsplit("/", maxsplit=1)[-1] != _TILES_FOLDER:
        place = f"{place}/{_TILES_FOLDER}"
    year = entry.all_years[0] if len(entry.all_years) == 1 else root.year
    for quadkey in quadkeys:
        file = replace(root, href=f"{place}/{quadkey}.tif", year=year, is_found=True)
        yield _tile(entry, file, quadkey, folder)


# Tiles and the files beside them


def _tile(entry: CanopyInput, file: SourceFile, quadkey: str, folder: Path) -> CanopyTile:
    version = VERSIONS[len(quadkey)]
    facts: dict[str, Any] = {
        "tile": QuadTile.of_quadkey(quadkey),
        "mask": _mask_of(file.href, quadkey) if version.has_mask else None,
        "metadata": _beside(file.href, "metadata", f"{quadkey}.geojson"),
    }
    if entry.metadata is not None:
        metadata = Path(resolve_path(entry.metadata, entry, folder)) / f"{quadkey}.geojson"
        facts["metadata"] = metadata.as_posix()
        if not metadata.is_file():
            facts["fault"] = MissingInputError(
                f"{metadata} is not there; fetch it, or correct metadata."
            )
    if entry.version not in (None, version.number):
        facts["fault"] = SourceError(
            f"{file.href} is of version {version.number} by its name, and the input says "
            f"version = {entry.version}; correct one of them."
        )
    return CanopyTile(**(vars(file) | facts))


def _mask_of(href: str, quadkey: str) -> str | None:
    """The mask of a tile: in the publisher's folder, else where GDAL looks for it."""
    name = f"{quadkey}.tif.msk"
    return _beside(href, "msk", name) or _existing(f"{href.rsplit('/', maxsplit=1)[0]}/{name}")


def _beside(href: str, folder: str, name: str) -> str | None:
    """A file of another folder beside that of a tile; None where it is not there.

    At a URL it is taken to be there if the tile is in the publisher's folder.
    """
    place = href.split("?", maxsplit=1)[0].rsplit("/", maxsplit=1)[0]
    parent, _, own = place.rpartition("/")
    path = f"{parent}/{folder}/{name}"
    if is_remote(href):
        return path if own == _TILES_FOLDER else None
    return _existing(path)


def _existing(path: str) -> str | None:
    return path if not is_remote(path) and Path(path).is_file() else None
