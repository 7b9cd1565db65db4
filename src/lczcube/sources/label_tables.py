"""Label tables: from a publisher's rows to one format, and the STAC item of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field

from lczcube.errors import LabelError, SourceError
from lczcube.lcz import N_CLASSES, NODATA, ZONES
from lczcube.sources.class_codes import codes_of
from lczcube.sources.class_sets import sets_of
from lczcube.sources.files import SourceFile, file_facts, media_type
from lczcube.sources.footprints import footprint
from lczcube.sources.inputs import Input, Kind, as_tuple
from lczcube.sources.items import (
    FILE_URI,
    LABEL_URI,
    LCZCUBE_URI,
    PROJECTION_URI,
    TABLE_URI,
    ItemTable,
    SourceItem,
    crs_fields,
    crs_name,
    new_item,
)

if TYPE_CHECKING:
    import geopandas as gpd
    import pandas as pd
    import pystac

LABELS_ASSET = "labels"
"""Asset of a label item that is its table."""

PATCHES_ASSET = "patches"
"""Asset of an item of patches without labels: a table with the same columns, but for ``lcz``."""

TABLE_COLUMNS = {
    "patch_id": ("string", "Unique id of the label"),
    "city": ("string", "City it belongs to, empty if unknown"),
    "group": ("string", "Unit that is never split between folds"),
    "lcz": ("uint8", "Local Climate Zone, 1-17; 0 where it may be one of several"),
    "admissible": ("string", "Codes that the label may be, with spaces between: 6, or 1 2 3"),
    "split": ("string", "The publisher's split, empty if none"),
    "weight": ("float", "Weight in training"),
    "year": ("int32", "Year it is of, 0 if unknown"),
    "source": ("string", "Input it comes from"),
    "license": ("string", "Licence of the labels"),
    "crs": ("string", "CRS of the coordinates"),
    "x0": ("double", "Left edge of a square patch"),
    "y0": ("double", "Upper edge of a square patch"),
    "size_m": ("double", "Side of a square patch, m"),
    "geometry": ("binary", "Polygon in the CRS of the source"),
}
"""Columns of a label table, in order: STAC type and description."""

OPTIONAL_COLUMNS = {"alternative": ("uint8", "Another zone that is admissible, 0 if none")}
"""Columns that come last where a source has them."""

SPLITS = {"train": "training", "val": "validation", "valid": "validation", "test": "testing"}
"""Short names of splits, spelt out."""


DropClasses = Annotated[tuple[Annotated[int, Field(ge=1, le=255)], ...], BeforeValidator(as_tuple)]
"""Codes to leave out."""


class LabelInput(Input):
    """Keys of every input of labels.

    Attributes
    ----------
    drop_classes : tuple of int
        Codes to leave out, such as 18 and 19 of the LCZ Generator.
    """

    kind: ClassVar[Kind] = "labels"

    drop_classes: DropClasses = ()


@dataclass(frozen=True)
class Rows:
    """Labels as a source reads them, before they are checked.

    Attributes
    ----------
    frame : geopandas.GeoDataFrame
        Polygons in the file's CRS; further columns ``lcz`` (as the publisher codes it) and,
        where the source has them, ``group``, ``split``, ``weight``, ``year``, ``license``,
        ``alternative`` (coded as ``lcz``), ``x0``, ``y0``, ``size_m``, and ``id`` (of the row in
        its file) or ``patch_id`` (in the input). A column ``class_set`` in place of ``lcz`` holds
        the classes that a label may be; see :func:`lczcube.sources.class_sets.sets_of`.
    n_repaired : int
        Geometries that were invalid and were made valid.
    n_dropped : int
        Rows without a geometry, an area or a class.
    properties : mapping of str to object
        Further properties of the item.
    assets : mapping of str to pystac.Asset, optional
        The files they were read from. Default: the file, with its checksum, as ``source``.
    """

    frame: gpd.GeoDataFrame
    n_repaired: int = 0
    n_dropped: int = 0
    properties: Mapping[str, Any] = field(default_factory=dict)
    assets: Mapping[str, pystac.Asset] | None = None


def label_item(entry: LabelInput, file: SourceFile, rows: Rows) -> SourceItem:
    """The table of a file's labels, and its STAC item, which lacks the asset ``labels`` yet.

    Raises
    ------
    LabelError
        If a code is no LCZ and is not dropped, or if no label is left.
    SourceError
        If ids repeat, or a weight is not a number of 0 or more.
    """
    crs = crs_name_of(rows.frame)
    table, n_without = _table(entry, file, rows.frame, crs)
    return _source_item(
        file,
        rows,
        table,
        asset=LABELS_ASSET,
        extensions=(LABEL_URI,),
        properties={
            **_label_fields(entry, table),
            "lczcube:n_repaired": rows.n_repaired,
            "lczcube:n_dropped": rows.n_dropped + n_without,
        },
    )


def patch_item(entry: LabelInput, file: SourceFile, rows: Rows) -> SourceItem:
    """The table of patches that have no labels, and its STAC item, which lacks ``patches`` yet.

    Such a table can be aggregated and measured for leaks; :func:`lczcube.labels.table.read_labels`
    does not take it for labels.

    Raises
    ------
    SourceError
        If ids repeat.
    """
    crs = crs_name_of(rows.frame)
    columns = _columns(entry, file, rows.frame, _patch_ids(entry, file, rows.frame), crs)
    table = columns[[name for name in TABLE_COLUMNS if name not in ("lcz", "admissible")]]
    return _source_item(file, rows, table, asset=PATCHES_ASSET, extensions=(), properties={})


def _source_item(
    file: SourceFile,
    rows: Rows,
    table: gpd.GeoDataFrame,
    *,
    asset: str,
    extensions: Sequence[str],
    properties: Mapping[str, Any],
) -> SourceItem:
    import shapely

    crs = crs_name_of(table)
    hull = shapely.convex_hull(shapely.geometrycollections(table.geometry.to_numpy()))
    item = new_item(
        file.item_id,
        footprint(hull, crs, where=file.href),
        year=file.year,
        properties={
            **crs_fields(crs),
            "proj:bbox": [float(v) for v in table.total_bounds],
            **properties,
            **rows.properties,
        },
        extensions=(PROJECTION_URI, TABLE_URI, FILE_URI, LCZCUBE_URI, *extensions),
    )
    assets = {"source": _source_asset(file)} if rows.assets is None else rows.assets
    for key, held in assets.items():
        item.add_asset(key, held)
    return SourceItem(item, ItemTable(table, asset, _asset_fields(table)))


def _asset_fields(table: gpd.GeoDataFrame) -> dict[str, Any]:
    """Table-extension fields of the asset that holds a label table."""
    known = TABLE_COLUMNS | OPTIONAL_COLUMNS
    return {
        "table:columns": [
            {"name": name, "type": known[name][0], "description": known[name][1]}
            for name in table.columns
        ],
        "table:primary_geometry": "geometry",
        "table:row_count": len(table),
    }


def crs_name_of(frame: gpd.GeoDataFrame) -> str:
    """``EPSG:n`` or WKT of a table's CRS."""
    from rasterio.crs import CRS

    return crs_name(CRS.from_user_input(frame.crs))


def column_of(frame: pd.DataFrame, column: str, key: str, *, where: str) -> pd.Series:
    """A column that a key of the TOML names.

    Raises
    ------
    SourceError
        If there is no such column; the message lists those there are.
    """
    if column not in frame:
        names = ", ".join(str(name) for name in frame.columns if name != "geometry") or "none"
        raise SourceError(f"{where} has no column {column!r} ({key}); its columns: {names}.")
    return frame[column]


def _table(
    entry: LabelInput, file: SourceFile, frame: gpd.GeoDataFrame, crs: str
) -> tuple[gpd.GeoDataFrame, int]:

    codes, admissible = _classes(entry, file, frame)
    labelled = admissible != ""
    if not labelled.any():
        raise LabelError(
            f"{file.href} holds no label ({len(frame)} rows, none with a class 1-{N_CLASSES}); "
            "check its classes, class_column and drop_classes."
        )
    kept = frame[labelled].reset_index(drop=True)
    ids = _patch_ids(entry, file, frame)[labelled].reset_index(drop=True)
    table = _columns(entry, file, kept, ids, crs).assign(
        lcz=codes[labelled], admissible=admissible[labelled]
    )
    optional = [name for name in OPTIONAL_COLUMNS if name in table]
    return table[[*TABLE_COLUMNS, *optional]], int((~labelled).sum())


def _columns(
    entry: LabelInput, file: SourceFile, frame: gpd.GeoDataFrame, ids: pd.Series, crs: str
) -> gpd.GeoDataFrame:
    """All columns of a table but its classes."""
    import geopandas as gpd

    columns = {
        "patch_id": ids,
        "city": file.city,
        "group": _groups(entry, frame, ids),
        "split": _splits(frame),
        "weight": _weights(frame, file),
        "year": frame.get("year", np.full(len(frame), file.year or 0, dtype=np.int32)),
        "source": entry.name,
        "license": frame.get("license", _license(entry)),
        "crs": crs,
        "x0": _lengths(frame, "x0"),
        "y0": _lengths(frame, "y0"),
        "size_m": _lengths(frame, "size_m"),
    }
    for name in OPTIONAL_COLUMNS:
        if name in frame:
            others = codes_of(frame[name], drop_classes=entry.drop_classes, where=file.href)
            columns[name] = others.astype(np.uint8)
    return gpd.GeoDataFrame(columns, geometry=frame.geometry.array, crs=frame.crs)


def _license(entry: LabelInput) -> str:
    publication = None if entry.synthetic else entry.published_as()
    return entry.license or (publication.license if publication else "")


def _classes(
    entry: LabelInput, file: SourceFile, frame: gpd.GeoDataFrame
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.object_]]:
    """The code of each row, 0 where it may be several or is none; and all it may be, as text."""
    if "class_set" in frame:
        sets = sets_of(frame["class_set"], drop_classes=entry.drop_classes, where=file.href)
        single = [next(iter(codes)) if len(codes) == 1 else NODATA for codes in sets]
        return np.array(single, dtype=np.uint8), _texts(sets)
    codes = codes_of(frame["lcz"], drop_classes=entry.drop_classes, where=file.href)
    return codes.astype(np.uint8), _texts([{code} - {NODATA} for code in codes.tolist()])


def _texts(sets: Sequence[Set[int]]) -> npt.NDArray[np.object_]:
    return np.array([" ".join(map(str, sorted(codes))) for codes in sets], dtype=object)


def _patch_ids(entry: LabelInput, file: SourceFile, frame: gpd.GeoDataFrame) -> pd.Series:
    import pandas as pd

    if "patch_id" in frame:
        prefix, ids = entry.name, frame["patch_id"]
    else:
        prefix = f"{entry.name}/{file.item_id.removeprefix(entry.name + '_')}"
        if "id" not in frame:
            return pd.Series([f"{prefix}/{n:06d}" for n in range(len(frame))])
        ids = frame["id"].map(_text)
    repeated = sorted(set(ids[ids.duplicated()]))
    if repeated:
        raise SourceError(
            f"{file.href}: {len(repeated)} ids occur more than once, such as {repeated[0]!r}; an "
            "id names one row. Name another id_column, or leave it out to number the rows."
        )
    return (prefix + "/" + ids).reset_index(drop=True)


def _groups(entry: LabelInput, frame: gpd.GeoDataFrame, ids: pd.Series) -> pd.Series:
    if "group" not in frame:
        return ids
    named = f"{entry.name}/" + frame["group"].map(_text)
    return named.where(frame["group"].notna(), ids)


def _splits(frame: gpd.GeoDataFrame) -> Any:
    if "split" not in frame:
        return ""
    return frame["split"].map(_text).str.lower().replace(SPLITS)


def _weights(frame: gpd.GeoDataFrame, file: SourceFile) -> npt.NDArray[np.float32]:
    import pandas as pd

    if "weight" not in frame:
        return np.ones(len(frame), dtype=np.float32)
    numbers = pd.to_numeric(frame["weight"], errors="coerce")
    weights: npt.NDArray[np.float32] = numbers.to_numpy(dtype=np.float32)
    bad = ~(np.isfinite(weights) & (weights >= 0))
    if bad.any():
        raise SourceError(
            f"{file.href}: {int(bad.sum())} weights are not numbers of 0 or more, such as "
            f"{frame['weight'][bad].iloc[0]!r}; correct them, or leave weight_column out."
        )
    return weights


def _lengths(frame: gpd.GeoDataFrame, column: str) -> npt.NDArray[np.float64]:
    if column not in frame:
        return np.full(len(frame), np.nan)
    lengths: npt.NDArray[np.float64] = frame[column].to_numpy(dtype=np.float64)
    return lengths


def _text(value: Any) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, float | np.floating) and value == int(value):
        return str(int(value))
    return str(value)


def _label_fields(entry: LabelInput, table: gpd.GeoDataFrame) -> dict[str, Any]:
    single = table["lcz"] != NODATA
    counts = table["lcz"][single].value_counts().sort_index()
    n_sets = int((~single).sum())
    named = entry.title or f"Local Climate Zones of input {entry.name}"
    return {
        "label:type": "vector",
        "label:description": f"{named} (synthetic)" if entry.synthetic else named,
        "label:properties": ["lcz"],
        "label:classes": [{"name": "lcz", "classes": [zone.code for zone in ZONES]}],
        "label:tasks": ["classification"],
        "label:overviews": [
            {
                "property_key": "lcz",
                "counts": [{"name": str(code), "count": int(n)} for code, n in counts.items()],
            }
        ],
        **({"lczcube:n_sets": n_sets} if n_sets else {}),
    }


def _source_asset(file: SourceFile) -> Any:
    import pystac

    return pystac.Asset(
        href=file.href,
        media_type=media_type(file.href),
        roles=["source"],
        extra_fields=dict(file_facts(file.href)),
    )
