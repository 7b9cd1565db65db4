"""A map as GeoParquet: a polygon for every pixel that has a class."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
import xarray as xr
from odc.geo.geobox import GeoBox

from lczcube.exports.product_map import ProductMap, row_strips
from lczcube.grid import bbox_of
from lczcube.lcz import NODATA, ZONES
from lczcube.probability import PERCENT_NODATA
from lczcube.products import as_percent

_SCHEMA = pa.schema(
    [
        ("lcz", pa.uint8()),
        ("zone", pa.string()),
        ("name", pa.string()),
        ("confidence", pa.float32()),
        *((zone.slug, pa.float32()) for zone in ZONES),
        ("geometry", pa.binary()),
    ]
)
_LABELS = np.array(["", *(zone.letter for zone in ZONES)])
_NAMES = np.array(["", *(zone.name for zone in ZONES)])


def write_cells(lcz_map: ProductMap, path: str | Path) -> Path:
    """Write a map as GeoParquet 1.1, a square for every pixel that has a class.

    Parameters
    ----------
    lcz_map : ProductMap
        The map; cells rather than pixels of 10 m, of which a square km has 10,000.
    path : str or pathlib.Path
        File to write, ``….parquet``.

    Returns
    -------
    pathlib.Path
        The file: ``lcz`` (1-17), ``zone`` (1-10, A-G), ``name``, ``confidence`` and ``lcz_1`` to
        ``lcz_g`` (probabilities, 0-1, float32), ``geometry`` in the map's CRS; rows from north to
        south and west to east. The map's tags are in the file's metadata, ``lczcube``.

    Notes
    -----
    Written by strips of rows, a row group each.
    """
    schema = _SCHEMA.with_metadata(
        {
            "geo": json.dumps(_geo_metadata(lcz_map.geobox)),
            "lczcube": json.dumps(dict(lcz_map.tags), sort_keys=True),
        }
    )
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for table in _tables(lcz_map, schema):
            writer.write_table(table)
    return Path(path)


def _tables(lcz_map: ProductMap, schema: pa.Schema) -> Iterator[pa.Table]:
    parts = xr.Dataset(
        {
            "lcz": lcz_map.data["lcz"],
            "confidence": as_percent(lcz_map.data["confidence"]),
            "probability": as_percent(lcz_map.data["probability"]),
        }
    )
    for rows in row_strips(*lcz_map.geobox.shape):
        strip = parts.isel(y=rows).compute()
        known = strip["lcz"].values != NODATA
        row, column = np.nonzero(known)
        codes = strip["lcz"].values[known]
        columns: dict[str, Any] = {
            "lcz": codes,
            "zone": _LABELS[codes],
            "name": _NAMES[codes],
            "confidence": _shares(strip["confidence"].values[known]),
            "geometry": _squares(lcz_map.geobox, row + rows.start, column),
        }
        for zone in ZONES:
            columns[zone.slug] = _shares(strip["probability"].values[zone.code - 1][known])
        yield pa.table({name: columns[name] for name in schema.names}, schema=schema)


def _shares(percent: Any) -> Any:
    shares = percent.astype(np.float32) / np.float32(100)
    return pa.array(shares, mask=percent == PERCENT_NODATA)


def _squares(geobox: GeoBox, rows: Any, columns: Any) -> Any:
    """WKB of the outlines of pixels."""
    west, north = geobox.affine * (columns, rows)
    east, south = geobox.affine * (columns + 1, rows + 1)
    return shapely.to_wkb(shapely.box(west, south, east, north))


def _geo_metadata(geobox: GeoBox) -> dict[str, Any]:
    """What GeoParquet 1.1 asks of a file (https://geoparquet.org/releases/v1.1.0/)."""
    column = {
        "encoding": "WKB",
        "geometry_types": ["Polygon"],
        "crs": geobox.crs.proj.to_json_dict() if geobox.crs else None,
        "bbox": list(bbox_of(geobox)),
    }
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
