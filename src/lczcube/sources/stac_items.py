"""Source ``stac``: items that somebody else wrote, imported with what a cube needs of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lczcube.errors import LczcubeError, SourceError
from lczcube.sources.files import SourceFile, find_hrefs, with_ids
from lczcube.sources.footprints import BBox, meets_any, search_boxes
from lczcube.sources.inputs import LayerInput
from lczcube.sources.items import SourceItem
from lczcube.sources.stac_read import Found, read_items
from lczcube.sources.stac_repair import imported_item

if TYPE_CHECKING:
    from datetime import datetime

CATALOGS = ("catalog.json", "collection.json")

_MALFORMED = (AttributeError, KeyError, TypeError, ValueError, IndexError)


class StacInput(LayerInput):
    """An ``[[input]]`` of existing STAC items; further keys as of :class:`LayerInput`.

    Attributes
    ----------
    href : str or list of str
        An item, a list of items, a catalog or collection with all below it, or a stac-geoparquet
        file; a folder of one of them; a URL of JSON. Of all items those that meet a city are taken.
    year, years
        The years that are wanted; left out, all.
    asset : str, optional
        Key of the asset with the pixels. Default: ``data``, else the only raster.
    collection : str, optional
        Items of this collection alone.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".json", ".geojson", ".parquet")
    years_in_paths: ClassVar[bool] = True

    source: Literal["stac"]
    asset: str | None = None
    collection: str | None = None


@dataclass(frozen=True, kw_only=True)
class ItemFile(SourceFile):
    """An item in a document.

    Attributes
    ----------
    values : mapping
        As it is written.
    """

    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stem(self) -> str:
        """The id that it has there."""
        return str(self.values.get("id", super().stem))


def find_files(entry: StacInput, *, folder: Path, cities: Mapping[str, BBox]) -> list[SourceFile]:
    """The items that an input means; reads documents, opens no asset.

    Raises
    ------
    ConfigError
        If an href cannot be used.
    """
    named = [entry.city] if entry.city and entry.city in cities else list(cities)
    boxes = search_boxes(cities[name] for name in named)
    documents = find_hrefs(entry, folder=folder, cities=tuple(cities), search=_documents_in)
    files = [
        made
        for document in documents
        for found in read_items(document.href, boxes)
        for made in [_item_file(entry, document, found, boxes)]
        if made is not None
    ]
    return list(with_ids(entry, _of_one_collection(entry, files)))


def build_items(entry: StacInput, file: ItemFile) -> list[SourceItem]:
    """The item, repaired; reads the header of a local file, of a remote one where it must.

    Raises
    ------
    MissingInputError
        If the file is not there.
    SourceError
        If the item cannot be read, or does not fit its file.
    """
    if file.fault is not None:
        raise file.fault
    try:
        return [SourceItem(imported_item(entry, file))]
    except LczcubeError:
        raise
    except _MALFORMED as error:
        raise _unreadable(file.values, file.href, error) from error


def _documents_in(folder: Path) -> list[str]:
    """A catalog or collection; where there is none, all documents of a folder."""
    for name in CATALOGS:
        if (folder / name).is_file():
            return [(folder / name).as_posix()]
    return sorted(
        path.as_posix()
        for path in folder.iterdir()
        if path.is_file() and path.suffix.lower() in StacInput.suffixes
    )


def _item_file(
    entry: StacInput, document: SourceFile, found: Found, boxes: Sequence[BBox]
) -> ItemFile | None:
    """None for an item that is not wanted."""
    fault = found.fault
    year = None
    if fault is None:
        try:
            wanted = entry.all_years if document.year is None else (document.year,)
            first, last = _years(found.values)
            if not _is_wanted(entry, found.values, boxes) or (
                wanted and not any(first <= year <= last for year in wanted)
            ):
                return None
            year = None if entry.static else first
        except _MALFORMED as error:
            fault = _unreadable(found.values, found.href, error)
    return ItemFile(
        href=found.href,
        item_id="",
        year=year,
        city=document.city,
        is_found=True,
        fault=fault,
        values=found.values,
    )


def _is_wanted(entry: StacInput, values: Mapping[str, Any], boxes: Sequence[BBox]) -> bool:
    import shapely

    if entry.collection is not None and values.get("collection") != entry.collection:
        return False
    if not boxes or (values.get("geometry") is None and values.get("bbox") is None):
        return True
    if values.get("geometry") is not None:
        geometry = shapely.geometry.shape(values["geometry"])
        return any(shapely.intersects(geometry, shapely.box(*box)) for box in boxes)
    box = [float(v) for v in values["bbox"]]
    n = len(box) // 2
    return meets_any((box[0], box[1], box[n], box[n + 1]), boxes)


def _years(values: Mapping[str, Any]) -> tuple[int, int]:
    properties = values["properties"]
    start, end = (_instant(properties.get(f"{end}_datetime")) for end in ("start", "end"))
    instant = _instant(properties.get("datetime"))
    if start is not None and end is not None:
        return start.year, end.year
    if instant is None:
        raise ValueError("it has neither datetime nor start_datetime and end_datetime")
    return instant.year, instant.year


def _instant(text: Any) -> datetime | None:
    from pystac.utils import str_to_datetime

    return None if text is None else str_to_datetime(str(text))


def _of_one_collection(entry: StacInput, files: Sequence[ItemFile]) -> Sequence[ItemFile]:
    """The items, or one fault where they are of several collections and none is named."""
    ids = {str(file.values.get("collection")) for file in files if file.fault is None}
    if entry.collection is not None or len(ids) < 2:
        return files
    fault = SourceError(
        f"input {entry.name!r} has items of {len(ids)} collections ({', '.join(sorted(ids))}); one "
        "layer is of one. Name it: collection = …"
    )
    return [ItemFile(href=entry.href[0], item_id="", year=None, city="", fault=fault)]


def _unreadable(values: Mapping[str, Any], href: str, error: Exception) -> SourceError:
    what = f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else str(error)
    return SourceError(
        f"{href}: item {str(values.get('id'))[:60]!r} cannot be read as a STAC item ({what}); "
        "correct it."
    )
