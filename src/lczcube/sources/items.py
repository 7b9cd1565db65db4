"""STAC items as every source writes them: ids, dates, CRS fields and extension URIs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from lczcube.errors import SourceError

if TYPE_CHECKING:
    import geopandas as gpd
    import pystac
    import rasterio.crs

    from lczcube.sources.footprints import Footprint

_STAC_EXTENSIONS = "https://stac-extensions.github.io"
PROJECTION_URI = f"{_STAC_EXTENSIONS}/projection/v2.0.0/schema.json"
RASTER_URI = f"{_STAC_EXTENSIONS}/raster/v2.0.0/schema.json"
FILE_URI = f"{_STAC_EXTENSIONS}/file/v2.1.0/schema.json"
LABEL_URI = f"{_STAC_EXTENSIONS}/label/v1.0.1/schema.json"
TABLE_URI = f"{_STAC_EXTENSIONS}/table/v1.2.0/schema.json"
CLASSIFICATION_URI = f"{_STAC_EXTENSIONS}/classification/v2.0.0/schema.json"
SCIENTIFIC_URI = f"{_STAC_EXTENSIONS}/scientific/v1.0.0/schema.json"
ZARR_URI = f"{_STAC_EXTENSIONS}/zarr/v1.1.0/schema.json"
DATACUBE_URI = f"{_STAC_EXTENSIONS}/datacube/v2.3.0/schema.json"
PROCESSING_URI = f"{_STAC_EXTENSIONS}/processing/v1.2.0/schema.json"
MLM_URI = f"{_STAC_EXTENSIONS}/mlm/v1.5.2/schema.json"
LCZCUBE_URI = "https://lczcube.github.io/schemas/v1.0.0/schema.json"

WRITTEN_URIS = frozenset(
    (
        PROJECTION_URI,
        RASTER_URI,
        FILE_URI,
        CLASSIFICATION_URI,
        LABEL_URI,
        TABLE_URI,
        ZARR_URI,
        DATACUBE_URI,
        PROCESSING_URI,
        LCZCUBE_URI,
    )
)
"""Schemas, in the version that items declare: nothing is to be migrated."""

UNDATED = ("1970-01-01T00:00:00Z", "2099-12-31T23:59:59Z")
"""Interval of an item without a year: it meets every year. ``datetime`` is null then."""

ZARR_TYPE = "application/vnd.zarr; version=3"
PARQUET_TYPE = "application/vnd.apache.parquet"

_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class ItemTable:
    """A table that is written as GeoParquet beside its item.

    Attributes
    ----------
    frame : geopandas.GeoDataFrame
        The rows.
    asset : str
        Key of the asset it becomes, and its second role.
    fields : mapping
        Further fields of the asset.
    parquet : mapping
        Options of :meth:`geopandas.GeoDataFrame.to_parquet`.
    """

    frame: gpd.GeoDataFrame
    asset: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    parquet: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SourceItem:
    """What a source makes of one file.

    Attributes
    ----------
    item : pystac.Item
        Describes the file; it lacks the asset of its table yet.
    table : ItemTable or None
        Rows to write beside the item: labels, or features of a map.
    coding : mapping of str to str
        ``product``, ``decoder`` and ``valid`` where the file decides them; all items of an input
        agree.
    made_of : tuple of str
        Local files it was made of, beside the file itself, its assets, and what has their stem: a
        build reads the file again when one of them changes.
    """

    item: pystac.Item
    table: ItemTable | None = None
    coding: Mapping[str, str] = field(default_factory=dict)
    made_of: tuple[str, ...] = ()


def safe_id(text: str) -> str:
    """``text`` with every run outside ``A-Za-z0-9_.-`` replaced by one ``-``.

    Examples
    --------
    >>> safe_id("[Melbourne][2006][JamesBennie]")
    'Melbourne-2006-JamesBennie'
    """
    return _UNSAFE.sub("-", text).strip("-.")


def new_item(
    item_id: str,
    footprint: Footprint,
    *,
    year: int | None,
    properties: Mapping[str, Any],
    extensions: Sequence[str],
) -> pystac.Item:
    """A STAC 1.1 item of one year, or without a date of its own.

    Parameters
    ----------
    item_id : str
        Unique in its collection.
    footprint : Footprint
        Geometry and bbox in EPSG:4326.
    year : int or None
        1 January UTC becomes ``datetime``, the year ``start_datetime`` to ``end_datetime``. None:
        ``datetime`` is null and the interval is :data:`UNDATED`.
    properties : mapping
        Further properties.
    extensions : sequence of str
        Schema URIs the item declares.
    """
    import pystac

    start, end = UNDATED if year is None else (f"{year}-01-01T00:00:00Z", f"{year}-12-31T23:59:59Z")
    return pystac.Item(
        id=item_id,
        geometry=footprint.geometry,
        bbox=list(footprint.bbox),
        datetime=None if year is None else datetime(year, 1, 1, tzinfo=UTC),
        properties={"start_datetime": start, "end_datetime": end, **properties},
        stac_extensions=sorted(extensions),
    )


def crs_name(crs: rasterio.crs.CRS) -> str:
    """``EPSG:n`` where that is exactly the CRS, else WKT2."""
    from rasterio.crs import CRS

    epsg = crs.to_epsg()
    if epsg is not None and CRS.from_epsg(epsg) == crs:
        return f"EPSG:{epsg}"
    return str(crs.to_wkt(version="WKT2_2019"))


def named_crs(value: Any, *, where: str) -> str:
    """:func:`crs_name` of a code, WKT or PROJJSON.

    Raises
    ------
    SourceError
        If PROJ knows no such CRS.
    """
    import rasterio.crs
    from pyproj import CRS
    from pyproj.exceptions import CRSError
    from rasterio.errors import CRSError as RasterioCRSError

    try:
        return crs_name(rasterio.crs.CRS.from_wkt(CRS.from_user_input(value).to_wkt()))
    except (CRSError, RasterioCRSError) as error:
        told = str(error).partition("\n")[0]
        raise SourceError(
            f"{where}: {str(value)[:40]!r} is no CRS ({told}); correct it."
        ) from error


def crs_fields(name: str) -> dict[str, str | None]:
    """Projection-extension fields of a :func:`crs_name`."""
    return (
        {"proj:code": name}
        if name.startswith("EPSG:")
        else {
            "proj:code": None,
            "proj:wkt2": name,
        }
    )


def grid_fields(crs: str, shape: tuple[int, int], transform: Sequence[float]) -> dict[str, Any]:
    """Projection-extension fields of a raster, as stored.

    Parameters
    ----------
    crs : str
        A :func:`crs_name`.
    shape : tuple of int
        ``(rows, columns)``.
    transform : sequence of float
        ``a, b, c, d, e, f`` with ``b = d = 0``; ``e`` is positive in a south-up raster.
    """
    return {
        **crs_fields(crs),
        "proj:shape": list(shape),
        "proj:transform": [float(v) for v in transform[:6]],
        "proj:bbox": list(grid_bbox(shape, transform)),
    }


def grid_bbox(
    shape: tuple[int, int], transform: Sequence[float]
) -> tuple[float, float, float, float]:
    """``(minx, miny, maxx, maxy)`` of a raster, however it is stored; see :func:`grid_fields`."""
    a, _, c, _, e, f = (float(v) for v in transform[:6])
    left, right = sorted((c, c + a * shape[1]))
    bottom, top = sorted((f, f + e * shape[0]))
    return left, bottom, right, top


def named_bands(
    names: Sequence[str], dtype: str, *, nodata: int | None = None
) -> list[dict[str, Any]]:
    """``bands`` of an asset: a name each, one dtype and one nodata."""
    common: dict[str, Any] = {"data_type": dtype}
    if nodata is not None:
        common["nodata"] = nodata
    return [{"name": name, **common} for name in names]
