"""Label tables: from a publisher's rows to one format, and the STAC item of a table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field

from lczcube.errors import LabelError, SourceError
from lczcube.lcz import MOST_LISTED, N_CLASSES, NODATA, ZONES, code_of, listed_codes
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

LABELS_ASSET = "labels"
"""Asset of a label item that is its table."""

TABLE_COLUMNS = {
    "patch_id": ("string", "Unique id of the label"),
    "city": ("string", "City it belongs to, empty if unknown"),
    "group": ("string", "Unit that is never split between folds"),
    "lcz": ("uint8", "Local Climate Zone, 1-17"),
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

_LEGACY = range(101, 110)
_EXTRA = {"W": 18, "H": 19}
_WHOLE = re.compile(r"[+-]?\d+(\.0*)?")


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
        where the source has them, ``group``, ``split``, ``weight``, ``alternative`` (coded as
        ``lcz``), ``id``, ``x0``, ``y0``, ``size_m``.
    n_repaired : int
        Geometries that were invalid and were made valid.
    n_dropped : int
        Rows without a geometry, an area or a class.
    note : str or None
        What is to be said of the file.
    """

    frame: gpd.GeoDataFrame
    n_repaired: int = 0
    n_dropped: int = 0
    note: str | None = None


def label_item(entry: LabelInput, file: SourceFile, rows: Rows) -> SourceItem:
    """The table of a file's labels, and its STAC item, which lacks the asset ``labels`` yet.

    Raises
    ------
    LabelError
        If a code is no LCZ and is not dropped, or if no label is left.
    SourceError
        If ids repeat, or a weight is not a number of 0 or more.
    """
    import shapely

    crs = crs_name_of(rows.frame)
    table, n_without = _table(entry, file, rows.frame, crs)
    hull = shapely.convex_hull(shapely.geometrycollections(table.geometry.to_numpy()))
    properties = {
        **crs_fields(crs),
        "proj:bbox": [float(v) for v in table.total_bounds],
        **_label_fields(entry, table),
        "lczcube:n_repaired": rows.n_repaired,
        "lczcube:n_dropped": rows.n_dropped + n_without,
        **({} if rows.note is None else {"lczcube:note": rows.note}),
    }
    item = new_item(
        file.item_id,
        footprint(hull, crs, where=file.href),
        year=file.year,
        properties=properties,
        extensions=(PROJECTION_URI, LABEL_URI, TABLE_URI, FILE_URI, LCZCUBE_URI),
    )
    item.add_asset("source", _source_asset(file))
    return SourceItem(item, ItemTable(table, LABELS_ASSET, _asset_fields(table)))


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


def codes_of(
    values: pd.Series,
    *,
    drop_classes: Sequence[int] = (),
    counts: npt.NDArray[np.intp] | None = None,
    where: str,
) -> npt.NDArray[np.int64]:
    """LCZ codes of a class column of any type; 0 where there is none or it is dropped.

    Parameters
    ----------
    values : pandas.Series
        Integers, floats or text: ``6``, ``6.0``, ``"LCZ 6"``, ``"A"``, ``104``. Null is no label.
    drop_classes : sequence of int
        Codes that become 0, before and after 101-109 are read as 11-19.
    counts : numpy.ndarray, optional
        How often each value occurs, for the message. Default: once.
    where : str
        The file, for the message.

    Returns
    -------
    numpy.ndarray
        int64, shape of ``values``, 0-17.

    Raises
    ------
    LabelError
        Naming the file, each bad code, how often it occurs, and the remedy.
    """
    kinds = {value: class_code(value) for value in values.dropna().unique()}
    given = values.map(kinds)
    unread = given.isna() & values.notna()
    if unread.any():
        _raise_unread(values[unread], where)
    codes = given.fillna(NODATA).to_numpy(dtype=np.int64)
    dropped = np.isin(codes, list(drop_classes))
    codes = np.where(dropped, NODATA, np.where(np.isin(codes, _LEGACY), codes - 90, codes))
    codes[np.isin(codes, list(drop_classes))] = NODATA
    bad = (codes < 0) | (codes > N_CLASSES)
    if bad.any():
        _raise_bad(codes[bad], np.ones(bad.sum(), int) if counts is None else counts[bad], where)
    return codes


def class_code(value: Any) -> int | None:
    """The code one value of a class column means, 101-109 as they are; None if it names none."""
    if isinstance(value, str):
        return _code_of_text(value.strip())
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return int(number) if number == np.floor(number) else None


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
    import geopandas as gpd

    codes = codes_of(frame["lcz"], drop_classes=entry.drop_classes, where=file.href)
    labelled = codes != NODATA
    if not labelled.any():
        raise LabelError(
            f"{file.href} holds no label ({len(frame)} rows, none with a class 1-{N_CLASSES}); "
            "check class_column and drop_classes."
        )
    kept = frame[labelled].reset_index(drop=True)
    ids = _patch_ids(entry, file, frame)[labelled].reset_index(drop=True)
    columns = {
        "patch_id": ids,
        "city": file.city,
        "group": _groups(entry, kept, ids),
        "lcz": codes[labelled].astype(np.uint8),
        "split": _splits(kept),
        "weight": _weights(kept, file),
        "year": np.full(len(kept), file.year or 0, dtype=np.int32),
        "source": entry.name,
        "license": entry.license or "",
        "crs": crs,
        "x0": _lengths(kept, "x0"),
        "y0": _lengths(kept, "y0"),
        "size_m": _lengths(kept, "size_m"),
    }
    optional = [name for name in OPTIONAL_COLUMNS if name in kept]
    for name in optional:
        others = codes_of(kept[name], drop_classes=entry.drop_classes, where=file.href)
        columns[name] = others.astype(np.uint8)
    table = gpd.GeoDataFrame(columns, geometry=kept.geometry.array, crs=frame.crs)
    return table[[*TABLE_COLUMNS, *optional]], int((~labelled).sum())


def _patch_ids(entry: LabelInput, file: SourceFile, frame: gpd.GeoDataFrame) -> pd.Series:
    import pandas as pd

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


def _code_of_text(text: str) -> int | None:
    if text == "":
        return NODATA
    if _WHOLE.fullmatch(text):
        return int(float(text))
    key = text.upper().removeprefix("LCZ").strip(" _-")
    if key in _EXTRA:
        return _EXTRA[key]
    if key.isdigit():
        return int(key)
    try:
        return code_of(text)
    except LabelError:
        return None


def _raise_unread(values: pd.Series, where: str) -> None:
    counts = values.astype(str).value_counts()
    listed = ", ".join(f"{text!r} ({n} times)" for text, n in counts.head(3).items())
    raise LabelError(
        f"{where} holds classes that name no LCZ: {listed}; use 1-10 and A-G, 1-17, or 101-107 "
        "for A-G. Name another class_column, or recode them."
    )


def _raise_bad(bad: npt.NDArray[np.int64], counts: npt.NDArray[np.intp], where: str) -> None:
    values = np.unique(bad)
    listed = listed_codes(values, [counts[bad == v].sum() for v in values])
    remedy = ", ".join(str(v) for v in values)
    advice = "Set nodata, or recode them"
    if len(values) > MOST_LISTED:
        advice = "These are likely no zones; name the column, band or file that holds some"
    elif all(1 <= v <= 255 for v in values):
        advice = f"Set drop_classes = [{remedy}]"
    raise LabelError(
        f"{where} holds LCZ code {listed}; codes are 1-{N_CLASSES}, 0 for no data. {advice}."
    )


def _label_fields(entry: LabelInput, table: gpd.GeoDataFrame) -> dict[str, Any]:
    counts = table["lcz"].value_counts().sort_index()
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
    }


def _source_asset(file: SourceFile) -> Any:
    import pystac

    return pystac.Asset(
        href=file.href,
        media_type=media_type(file.href),
        roles=["source"],
        extra_fields=dict(file_facts(file.href)),
    )
