"""stac-geoparquet: the items of a collection as one table, with the collection in its metadata."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lczcube.errors import CatalogError
from lczcube.sources.files import first_line

if TYPE_CHECKING:
    import pystac


def write_geoparquet(collection: pystac.Collection, path: Path) -> None:
    """Write the items of a collection, and the collection itself, without links."""
    from stac_geoparquet.arrow import parse_stac_items_to_arrow, to_parquet

    items = [item.to_dict() | {"links": []} for item in collection.get_items()]
    described = collection.to_dict() | {"links": []}
    to_parquet(
        parse_stac_items_to_arrow(items),
        path,
        collections={collection.id: described},
        compression="zstd",
    )


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


def read_items(path: Path, name: str) -> Iterator[pystac.Item]:
    """Items of one collection, hrefs absolute."""
    import pyarrow.parquet as pq
    import pystac
    from stac_geoparquet.arrow import stac_table_to_items

    table = pq.read_table(path, filters=[("collection", "==", name)])
    for values in stac_table_to_items(table):
        item = pystac.Item.from_dict(_as_stac(values))
        item.set_self_href(str(path))
        item.make_asset_hrefs_absolute()
        yield item


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
