"""The label table: one GeoDataFrame for labels of any source, one row a polygon or a patch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import shapely

from lczcube.errors import LabelError, MissingInputError
from lczcube.grid import BBox
from lczcube.lcz import N_CLASSES, NODATA, require_codes

if TYPE_CHECKING:
    import pystac

    from lczcube.catalog import Catalog

COLUMNS = (
    "patch_id",
    "city",
    "group",
    "lcz",
    "admissible",
    "split",
    "weight",
    "year",
    "source",
    "license",
    "crs",
    "x0",
    "y0",
    "size_m",
    "geometry",
)
"""Columns of every label table, in order."""

LONLAT = "EPSG:4326"

_POLYGONAL = ("Polygon", "MultiPolygon")


def read_labels(
    catalog: Catalog,
    names: Sequence[str],
    *,
    crs: str | None = None,
    cities: Mapping[str, BBox] | None = None,
    keep_sets: bool = False,
) -> gpd.GeoDataFrame:
    """All labels of some inputs as one table; reads the tables, no raster.

    Parameters
    ----------
    catalog : Catalog
        Holds the label inputs; each of their items has an asset ``labels``. Items that have
        ``patches`` in its place hold no label and are passed over.
    names : sequence of str
        Names of label inputs.
    crs : str, optional
        CRS of the geometries given back. Default ``EPSG:4326``, which every label has an image
        in. A table already in ``crs`` keeps its coordinates to the bit; from another CRS every
        corner is transformed, so that a square stays the same ground.
    cities : mapping of str to tuple, optional
        Bboxes in EPSG:4326. A row without a city gets the first city whose bbox holds its
        centroid (of the native geometry); a row in none keeps ``""``.
    keep_sets : bool
        True to keep labels that may be one of several classes, with ``lcz`` 0. Default: leave
        them out, since nothing that wants a class can use them.

    Returns
    -------
    geopandas.GeoDataFrame
        Columns :data:`COLUMNS`, sorted by ``patch_id``, index 0 … n-1. ``crs``, ``x0``, ``y0``
        and ``size_m`` stay those of the source's own CRS. ``attrs["n_sets"]`` counts the labels
        of several classes that were left out.

    Raises
    ------
    CatalogError
        If the catalog has no input of that name.
    LabelError
        If no label is found, if an input holds patches without labels only, if a table breaks the
        format, or if patch ids repeat.
    MissingInputError
        If a label table is not there.
    """
    target = crs or LONLAT
    tables = [
        _prepare(_read_table(item), crs=target, cities=cities or {})
        for name in names
        for item in _labelled_items(catalog, name)
    ]
    filled = [table for table in tables if len(table)]
    if not filled:
        listed = ", ".join(names) or "none named"
        raise LabelError(f"no labels in the inputs ({listed}); name inputs that hold polygons.")
    joined = gpd.GeoDataFrame(pd.concat(filled, ignore_index=True), crs=target)
    _require_unique(joined)
    ordered = joined.sort_values("patch_id", kind="stable", ignore_index=True)
    if keep_sets:
        return ordered
    single = single_class(ordered)
    if single.empty:
        raise LabelError(
            f"all {len(ordered)} labels of {', '.join(names)} may be one of several classes; name "
            "an input with labels of one class each."
        )
    return single


def single_class(labels: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """The labels of one class; ``attrs["n_sets"]`` counts those of several, left out."""
    is_set = _is_set(labels)
    single = labels[~is_set].reset_index(drop=True)
    single.attrs["n_sets"] = int(is_set.sum())
    return single


def require_labels(
    labels: gpd.GeoDataFrame, *, where: str = "labels", allow_sets: bool = False
) -> None:
    """Raise unless rows are polygons with LCZ codes 1-17 in a stated CRS.

    Parameters
    ----------
    labels : geopandas.GeoDataFrame
        With the columns ``lcz`` and ``geometry`` at least.
    where : str
        What holds the labels, for the message.
    allow_sets : bool
        True where rows may be of several classes, as their column ``admissible`` says, with code 0.

    Raises
    ------
    LabelError
        Naming what is missing or wrong, and what to do.
    """
    if "lcz" not in labels:
        raise LabelError(f"{where} have no column lcz; name it with class_column.")
    require_codes(labels["lcz"].to_numpy(), where=where)
    is_zero = (labels["lcz"] == NODATA).to_numpy()
    n_zero = int((is_zero & ~_is_set(labels)).sum() if allow_sets else is_zero.sum())
    if n_zero:
        raise LabelError(f"{where} hold LCZ code 0 in {n_zero} rows; a label is 1-{N_CLASSES}.")
    if labels.crs is None:
        raise LabelError(f"{where} have no CRS; set the CRS the coordinates are in (set_crs).")
    geometries = labels.geometry
    n_bad = int((~geometries.geom_type.isin(_POLYGONAL) | geometries.is_empty).sum())
    if n_bad:
        raise LabelError(
            f"{where} have {n_bad} rows that are not polygons; a label covers an area. "
            "Drop them, or buffer points to the area they stand for."
        )


def _is_set(labels: gpd.GeoDataFrame) -> npt.NDArray[np.bool_]:
    return np.asarray(labels["admissible"].fillna("").str.contains(" ", regex=False), dtype=bool)


def _labelled_items(catalog: Catalog, name: str) -> list[pystac.Item]:
    items = catalog.items(name)
    labelled = [item for item in items if "labels" in item.assets or "patches" not in item.assets]
    if items and not labelled:
        raise LabelError(
            f"input {name!r} holds patches without labels ({len(items)} tables, such as "
            f"{items[0].id}), which cannot be learnt from. Put the files with the labels beside "
            "their geolocation, and build the catalog again."
        )
    return labelled


def _read_table(item: pystac.Item) -> gpd.GeoDataFrame:
    asset = item.assets.get("labels")
    if asset is None:
        raise LabelError(f"item {item.id} has no asset 'labels'; it is not a label input.")
    href = asset.get_absolute_href() or asset.href
    if "://" not in href and not Path(href).is_file():
        raise MissingInputError(f"label table {href} is not there; build the catalog again.")
    table = gpd.read_parquet(href)
    where = f"labels of {item.id}"
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise LabelError(f"{where} lack the columns {', '.join(missing)}; build the catalog again.")
    require_labels(table, where=where, allow_sets=True)
    return table


def _prepare(table: gpd.GeoDataFrame, *, crs: str, cities: Mapping[str, BBox]) -> gpd.GeoDataFrame:
    placed = table.assign(city=_city_names(table, cities))
    moved = placed if placed.crs == crs else placed.to_crs(crs)
    return moved[list(COLUMNS)]


def _city_names(table: gpd.GeoDataFrame, cities: Mapping[str, BBox]) -> pd.Series:
    named = table["city"].fillna("").astype(object)
    if not cities:
        return named
    centroids = gpd.GeoSeries(shapely.centroid(table.geometry.to_numpy()), crs=table.crs)
    lonlat = centroids.to_crs(LONLAT)
    x, y = lonlat.x.to_numpy(), lonlat.y.to_numpy()
    inside = [
        (minx <= x) & (x <= maxx) & (miny <= y) & (y <= maxy)
        for minx, miny, maxx, maxy in cities.values()
    ]
    found = np.select(inside, list(cities), default="").astype(object)
    return named.where(named != "", pd.Series(found, index=table.index))


def _require_unique(labels: gpd.GeoDataFrame) -> None:
    repeated = labels[labels["patch_id"].duplicated(keep=False)]
    if repeated.empty:
        return
    sources = ", ".join(sorted(set(repeated["source"])))
    raise LabelError(
        f"{repeated['patch_id'].nunique()} patch ids occur more than once, such as "
        f"{repeated['patch_id'].iloc[0]!r}, in {sources}; an id names one label. "
        "Name each input once, and give inputs names of their own."
    )
