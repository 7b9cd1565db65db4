"""Items of OpenStreetMap: a state, its extent, and the table of its features beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lczcube.errors import SourceError
from lczcube.sources.files import SourceFile, file_facts
from lczcube.sources.footprints import BBox, geometry_footprint
from lczcube.sources.items import (
    FILE_URI,
    PROJECTION_URI,
    TABLE_URI,
    UNDATED,
    ItemTable,
    SourceItem,
    named_bands,
)
from lczcube.sources.osm_features import COLUMNS, OsmFeatures
from lczcube.sources.osm_scheme import SCHEME
from lczcube.sources.osm_snapshot import OsmHeader

if TYPE_CHECKING:
    import geopandas as gpd
    import shapely

TABLE_ASSET = "features"
"""Key of the asset that holds the table of features."""

OUTSIDE = 255
"""Code of pixels past the extract, where 0 would say that nothing is there."""

ROWS_PER_GROUP = 4096
"""Of the table: a chunk of a city of 10,000 buildings reads a few groups."""

_PBF_TYPE = "application/vnd.openstreetmap.data+pbf"
_XML_TYPE = "application/vnd.openstreetmap.data+xml"


@dataclass(frozen=True)
class OsmState:
    """OpenStreetMap at a date.

    Attributes
    ----------
    path : pathlib.Path
        A file without history.
    time : datetime or None
        Of what it is the state; None where nothing tells.
    note : str, optional
        What was taken on trust.
    """

    path: Path
    time: datetime | None
    note: str | None = None


@dataclass(frozen=True)
class Region:
    """Where features of a file are wanted.

    Attributes
    ----------
    boxes : tuple of tuple
        EPSG:4326; empty for everywhere.
    is_told : bool
        True when the file says that it covers them.
    """

    boxes: tuple[BBox, ...]
    is_told: bool


def region_of(header: OsmHeader, wanted: Sequence[BBox], file: SourceFile) -> Region:
    """Where features of a file are read: in the wanted boxes, cut to the file's own.

    What lies past a file's own box belongs to objects that reach out of it, or has strayed there.

    Raises
    ------
    SourceError
        If the file lies in none of the wanted boxes.
    """
    if header.bbox is None:
        return Region(tuple(wanted), is_told=False)
    met = [_meet(box, header.bbox) for box in wanted or (header.bbox,)]
    boxes = tuple(box for box in met if box[0] < box[2] and box[1] < box[3])
    if not boxes:
        raise _nowhere(file, header.bbox)
    return Region(boxes, is_told=True)


def osm_item(
    file: SourceFile,
    state: OsmState,
    found: OsmFeatures,
    region: Region,
    bands: Sequence[str],
    *,
    checksum: bool = False,
) -> SourceItem:
    """The item of a state, and its features sorted along a Hilbert curve.

    Parameters
    ----------
    file : SourceFile
        Where it comes from.
    state : OsmState
        The state.
    found : OsmFeatures
        What was read of it.
    region : Region
        Where it was read, from :func:`region_of`.
    bands : sequence of str
        Masks that the cube has of it.
    checksum : bool
        True to read the file for its SHA-256.

    Raises
    ------
    SourceError
        If the extent has no area.
    """
    import pystac

    outline = _extent(file, found, region)
    extent = geometry_footprint(outline)
    day = "undated" if state.time is None else f"{state.time:%Y-%m-%d}"
    properties: dict[str, Any] = {
        "proj:code": "EPSG:4326",
        "proj:bbox": list(extent.bbox),
        "lczcube:tag_scheme": SCHEME,
        "lczcube:n_broken_areas": found.n_broken_areas,
        "lczcube:n_broken_lines": found.n_broken_lines,
    }
    if state.note is not None:
        properties["lczcube:note"] = state.note
    if state.time is None:
        properties |= dict(zip(("start_datetime", "end_datetime"), UNDATED, strict=True))
    item = pystac.Item(
        id=f"{file.item_id}_{day}",
        geometry=extent.geometry,
        bbox=list(extent.bbox),
        datetime=state.time,
        properties=properties,
        stac_extensions=sorted((PROJECTION_URI, FILE_URI, TABLE_URI)),
    )
    item.add_asset("source", _source_asset(file, checksum=checksum))
    table = _in_hilbert_order(found.table, outline)
    parquet = {"row_group_size": ROWS_PER_GROUP, "write_covering_bbox": True}
    return SourceItem(item, ItemTable(table, TABLE_ASSET, _fields(table, bands), parquet))


def _extent(file: SourceFile, found: OsmFeatures, region: Region) -> shapely.Geometry:
    """Where a file says what is there: its own box, else the hull of its features."""
    import shapely

    near = shapely.union_all([shapely.box(*box) for box in region.boxes])
    if region.is_told:
        return near
    if found.hull is None or found.hull.area == 0:
        raise SourceError(
            f"{file.href} has neither a box in its header nor features that span an area, so that "
            "nobody knows what it covers; fetch an extract that says it."
        )
    outline = shapely.intersection(found.hull, near) if region.boxes else found.hull
    if outline.area == 0:
        raise _nowhere(file, found.hull.bounds)
    return outline


def _in_hilbert_order(table: gpd.GeoDataFrame, outline: shapely.Geometry) -> gpd.GeoDataFrame:
    """Rows that lie near each other stand near each other; the same rows in the same order."""
    if not len(table):
        return table
    along = table.geometry.hilbert_distance(total_bounds=outline.bounds).to_numpy()
    keys = [table[name].to_numpy() for name in ("osm_id", "osm_type", "feature")]
    return table.iloc[np.lexsort((*keys, along))].reset_index(drop=True)


def _fields(table: gpd.GeoDataFrame, bands: Sequence[str]) -> dict[str, Any]:
    return {
        "bands": named_bands(bands, "uint8", nodata=OUTSIDE),
        "table:columns": [
            {"name": name, "type": type_, "description": description}
            for name, (type_, description) in COLUMNS.items()
        ],
        "table:primary_geometry": "geometry",
        "table:row_count": len(table),
    }


def _source_asset(file: SourceFile, *, checksum: bool) -> Any:
    import pystac

    return pystac.Asset(
        href=file.href,
        media_type=_PBF_TYPE if file.href.lower().endswith(".pbf") else _XML_TYPE,
        roles=["source"],
        extra_fields=dict(file_facts(file.href, checksum=checksum)),
    )


def _meet(box: BBox, other: BBox) -> BBox:
    return (
        max(box[0], other[0]),
        max(box[1], other[1]),
        min(box[2], other[2]),
        min(box[3], other[3]),
    )


def _nowhere(file: SourceFile, bounds: Sequence[float]) -> SourceError:
    listed = ", ".join(f"{value:g}" for value in bounds)
    return SourceError(
        f"{file.href} covers ({listed}), which is near no city of the file; check href and bbox."
    )
