"""stac-geoparquet: the items of a collection as one table, with the collection in its metadata."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lczcube.catalog.query import Query
from lczcube.catalog.reading import item_of
from lczcube.errors import CatalogError
from lczcube.sources.files import first_line

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq
    import pystac

ROWS_PER_GROUP = 512
"""Rows that are read together: a search of a city decodes one group, not the table."""

_ROWS_PER_BATCH = 64
_SIDES = ("xmin", "ymin", "xmax", "ymax")
_TIMES = ("start_datetime", "end_datetime")
_LIGHT = ("id", "collection", "bbox", *_TIMES)


def write_geoparquet(
    collection: Mapping[str, Any], items: Sequence[dict[str, Any]], path: Path
) -> None:
    """Write items, hrefs relative to the table, and their collection in the metadata.

    Items are used up: geometries inside of them may have become WKB.
    """
    import pyarrow as pa
    from stac_geoparquet.arrow import parse_stac_items_to_arrow, to_parquet

    table = pa.Table.from_batches(parse_stac_items_to_arrow(map(_Held, items)))
    batches = table.to_batches(max_chunksize=ROWS_PER_GROUP)
    to_parquet(
        pa.RecordBatchReader.from_batches(table.schema, batches),
        path,
        collections={collection["id"]: collection},
        compression="zstd",
    )


class _Held(dict[str, Any]):
    """An item that only we hold: the deep copy that stac-geoparquet makes of it is shallow.

    It was four fifths of the time that writing took.
    """

    def __deepcopy__(self, _: dict[int, Any]) -> dict[str, Any]:
        return dict(self)


def read_collections(path: Path) -> list[pystac.Collection]:
    """Collections a stac-geoparquet file describes in its metadata, else made from its items."""
    import json

    import pyarrow.parquet as pq
    import pystac

    try:
        metadata = pq.read_metadata(path).metadata or {}
        described = json.loads(metadata.get(b"stac-geoparquet", b"{}"))
    except (OSError, ValueError) as error:
        raise CatalogError(
            f"{path} cannot be read ({first_line(error)}); fetch it again."
        ) from error
    if b"stac-geoparquet" not in metadata and b"geo" not in metadata:
        raise CatalogError(f"{path} is no stac-geoparquet; keep other tables in another folder.")
    held = list(described.get("collections", {}).values())
    if held:
        return [pystac.Collection.from_dict(values) for values in held]
    return _collections_from_items(path)


def _collections_from_items(path: Path) -> list[pystac.Collection]:
    import pyarrow.parquet as pq
    import pystac

    try:
        ids = pq.read_table(path, columns=["collection"])["collection"].unique().to_pylist()
    except (KeyError, ValueError) as error:
        raise CatalogError(f"{path} is no stac-geoparquet; keep other tables elsewhere.") from error
    extent = pystac.Extent(
        pystac.SpatialExtent([-180.0, -90.0, 180.0, 90.0]), pystac.TemporalExtent([None, None])
    )
    return [
        pystac.Collection(
            id=name, description=f"Items of {path.name}.", extent=extent, license="other"
        )
        for name in ids
    ]


def read_items(path: Path, name: str, query: Query) -> Iterator[pystac.Item]:
    """Items of one collection that a query asks for, sorted by id, hrefs absolute.

    Boxes, times and ids are read of all rows; the rest of row groups where some may match, and
    only rows that may match become items.

    Raises
    ------
    CatalogError
        If the table is broken.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from stac_geoparquet.arrow import stac_table_to_items

    try:
        with pq.ParquetFile(path) as file:
            table = _rows_of(file, name, query)
    except (OSError, pa.ArrowException) as error:
        raise CatalogError(
            f"{path} cannot be read ({first_line(error)}); fetch it again."
        ) from error
    for start in range(0, len(table), _ROWS_PER_BATCH):
        for values in stac_table_to_items(table.slice(start, _ROWS_PER_BATCH)):
            item = item_of(_as_stac(values), str(path))
            if query.matches(item):
                yield item


def _rows_of(file: pq.ParquetFile, name: str, query: Query) -> pa.Table:
    """Rows of a collection that may answer a query, sorted by id."""
    import pyarrow as pa

    light = [column for column in _LIGHT if column in file.schema_arrow.names]
    found = []
    for group in range(file.num_row_groups):
        rows = _may_match(file.read_row_group(group, columns=light), name, query)
        if len(rows):
            found.append(file.read_row_group(group).take(rows))
    if not found:
        return file.schema_arrow.empty_table()
    return pa.concat_tables(found).sort_by("id").combine_chunks()


def _may_match(table: pa.Table, name: str, query: Query) -> pa.Array:
    """Numbers of the rows that may answer a query; :meth:`Query.matches` decides."""
    import pyarrow as pa
    import pyarrow.compute as pc

    mask = pc.equal(table["collection"], name)
    if query.ids is not None:
        mask = pc.and_(mask, pc.is_in(table["id"], value_set=pa.array(sorted(query.ids))))
    columns = set(table.column_names)
    if query.boxes and "bbox" in columns and pa.types.is_struct(table.schema.field("bbox").type):
        mask = pc.and_kleene(mask, _may_meet_boxes(table["bbox"], query))
    if query.when is not None and set(_TIMES) <= columns:
        mask = pc.and_kleene(mask, _may_meet_times(table, query))
    return pc.indices_nonzero(pc.fill_null(mask, True))


def _may_meet_boxes(bbox: pa.ChunkedArray, query: Query) -> pa.ChunkedArray:
    import pyarrow.compute as pc

    west, south, east, north = (pc.struct_field(bbox, side) for side in _SIDES)
    meets = pc.greater(west, east)  # it crosses the antimeridian
    for box in query.boxes:
        beside = pc.and_(pc.less_equal(west, box[2]), pc.greater_equal(east, box[0]))
        above = pc.and_(pc.less_equal(south, box[3]), pc.greater_equal(north, box[1]))
        meets = pc.or_(meets, pc.and_(beside, above))
    return meets


def _may_meet_times(table: pa.Table, query: Query) -> pa.ChunkedArray | pa.Scalar:
    """Null, which may match, for a row without an interval."""
    import pyarrow as pa
    import pyarrow.compute as pc

    meets: Any = pa.scalar(True)
    asked = query.interval
    if not all(pa.types.is_timestamp(table.schema.field(name).type) for name in _TIMES):
        return meets
    for column, compare, limit in (
        ("end_datetime", pc.greater_equal, asked[0]),
        ("start_datetime", pc.less_equal, asked[1]),
    ):
        if limit is not None:
            type_ = table.schema.field(column).type
            meets = pc.and_kleene(meets, compare(table[column], pa.scalar(limit, type_)))
    return meets


def _as_stac(values: dict[str, Any]) -> dict[str, Any]:
    """An item as it went into the table, which adds nulls and fractions of seconds."""
    from pystac.utils import datetime_to_str, str_to_datetime

    stripped: dict[str, Any] = _without_nulls(values)
    properties = stripped["properties"]
    properties["datetime"] = values["properties"].get("datetime")
    if "proj:wkt2" in properties:
        properties.setdefault("proj:code", None)
    for key in ("start_datetime", "end_datetime"):
        if key in properties:
            properties[key] = datetime_to_str(str_to_datetime(properties[key]))
    return stripped


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    return [_without_nulls(v) for v in value] if isinstance(value, list | tuple) else value
