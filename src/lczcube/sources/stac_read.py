"""Items of any STAC document: an item, a catalog and what it links to, a list, stac-geoparquet."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from lczcube.errors import LczcubeError, SourceError
from lczcube.sources.files import SourceFile, first_line, is_remote, require_file
from lczcube.sources.footprints import BBox, near_rows

_LINKS = ("child", "item")


@dataclass(frozen=True)
class Found:
    """An item as it is written, or why there is none.

    Attributes
    ----------
    href : str
        Path or URL of the document it is in; its relative hrefs start there.
    values : mapping
        The item as a JSON object.
    fault : LczcubeError or None
        Why a document cannot be used.
    """

    href: str
    values: Mapping[str, Any] = field(default_factory=dict)
    fault: LczcubeError | None = None


def read_items(href: str, boxes: Sequence[BBox]) -> Iterator[Found]:
    """Items of a document and of all it links to, unchecked; a broken document is one fault.

    Parameters
    ----------
    href : str
        Path or URL of a JSON document, or path of a stac-geoparquet file.
    boxes : sequence of tuple of float
        Where to look, EPSG:4326; rows of a table elsewhere are left out, all else is given.
    """
    if href.endswith(".parquet"):
        yield from _table_items(href, boxes)
        return
    pending, seen = [href], {href}
    while pending:
        here = pending.pop(0)
        try:
            values = _read_object(here)
            linked = [absolute_href(link, here) for link in _links(values)]
        except LczcubeError as error:
            yield Found(here, fault=error)
            continue
        pending += [link for link in linked if link not in seen]
        seen |= {*linked}
        yield from _items_in(values, here)


def absolute_href(href: str, base: str) -> str:
    """An href as a document has it, in full: a path, a URL, or a virtual path of GDAL.

    Parameters
    ----------
    href : str
        As it is written.
    base : str
        Path or URL of the document.
    """
    plain = href.removeprefix("file://")
    if is_remote(plain):
        return plain
    if is_remote(base):
        return urljoin(base, plain)
    return Path(os.path.abspath(Path(base).parent / plain)).as_posix()


def _read_object(href: str) -> Mapping[str, Any]:
    try:
        values = json.loads(_read_text(href))
    except (ValueError, RecursionError) as error:
        raise SourceError(
            f"{href} cannot be read as JSON ({first_line(error)}); fetch it again."
        ) from error
    if not isinstance(values, dict):
        raise SourceError(f"{href} is no STAC document: it holds no object. Name an item.")
    return values


def _read_text(href: str) -> str:
    if not is_remote(href):
        require_file(SourceFile(href, "", None, ""))
        return Path(href).read_text(encoding="utf-8")
    import pystac

    if urlsplit(href).scheme not in ("http", "https"):
        raise SourceError(f"{href} is no document that can be read from here; bring it home.")
    try:
        return str(pystac.StacIO.default().read_text(href))
    except Exception as error:  # pystac raises bare Exception for a URL that does not answer
        raise SourceError(
            f"{href} does not answer ({first_line(error)}); check the URL, or bring the documents "
            "home and name the copy."
        ) from error


def _links(values: Mapping[str, Any]) -> list[str]:
    """Hrefs of children and items; a document that is an item or a list has none of interest."""
    links = values.get("links", [])
    if values.get("type") in ("Feature", "FeatureCollection") or not isinstance(links, list):
        return []
    return [
        str(link["href"])
        for link in links
        if isinstance(link, dict) and link.get("rel") in _LINKS and "href" in link
    ]


def _items_in(values: Mapping[str, Any], here: str) -> Iterator[Found]:
    kind = values.get("type")
    if kind == "Feature":
        yield Found(here, values)
    elif kind == "FeatureCollection":
        features = values.get("features")
        members = [f for f in features if isinstance(f, dict)] if isinstance(features, list) else []
        if not any("assets" in member for member in members):
            yield Found(
                here,
                fault=SourceError(
                    f"{here} lists {len(members)} features and no STAC item: none has assets. "
                    'Register polygons with source = "polygons".'
                ),
            )
            return
        for member in members:
            yield Found(here, member)
    elif kind not in ("Catalog", "Collection") and "stac_version" not in values:
        what = "no type" if kind is None else f"type {str(kind)[:40]!r}"
        yield Found(
            here,
            fault=SourceError(
                f"{here} is no STAC document: it has {what}. Name an item, a list of items, a "
                "catalog, a collection or a stac-geoparquet file."
            ),
        )


def _table_items(href: str, boxes: Sequence[BBox]) -> Iterator[Found]:
    try:
        items = _read_table(href, boxes)
    except LczcubeError as error:
        yield Found(href, fault=error)
        return
    for values in items:
        yield Found(href, _without_nulls(values))


def _read_table(href: str, boxes: Sequence[BBox]) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from stac_geoparquet.arrow import stac_table_to_items

    if is_remote(href):
        raise SourceError(f"{href} is a table at a URL; fetch it, and name the file.")
    require_file(SourceFile(href, "", None, ""))
    try:
        names = set(pq.read_schema(href).names)
        missing = sorted({"id", "geometry", "assets"} - names)
        if missing:
            raise SourceError(
                f"{href} is no stac-geoparquet: it lacks {', '.join(missing)}. Name a table of "
                "items."
            )
        table = pq.read_table(href, filters=_near(boxes) if "bbox" in names else None)
        return list(stac_table_to_items(table))
    except SourceError:
        raise
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise SourceError(
            f"{href} cannot be read as stac-geoparquet ({first_line(error)}); fetch it again."
        ) from error


def _near(boxes: Sequence[BBox]) -> Any:
    import pyarrow.compute as pc

    sides = [pc.field("bbox", corner) for corner in ("xmin", "ymin", "xmax", "ymax")]
    return near_rows(sides, boxes)


def _without_nulls(value: Any) -> Any:
    """A row without the nulls that a table fills its gaps with."""
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    return [_without_nulls(v) for v in value] if isinstance(value, list | tuple) else value
