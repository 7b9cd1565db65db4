"""Rasters of canopy height that are no tiles of the publisher: exports, crops, other surveys."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lczcube.errors import SourceError
from lczcube.sources.canopy_assets import height_asset
from lczcube.sources.files import SourceFile, media_type
from lczcube.sources.footprints import footprint
from lczcube.sources.items import (
    FILE_URI,
    LCZCUBE_URI,
    PROJECTION_URI,
    RASTER_URI,
    SourceItem,
    crs_name,
    grid_bbox,
    grid_fields,
    new_item,
)
from lczcube.sources.raster import COG_TYPE, open_raster, resolution_m

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

    from lczcube.sources.canopy import CanopyInput

_NOTE = (
    "No tile of the publisher: pixels that are coarser than a crown mix ground with crowns, and "
    "then neither the height over the canopy nor its share is exact."
)
_METRES = ("", "m", "metre", "metres", "meter", "meters")


def export_item(entry: CanopyInput, file: SourceFile) -> SourceItem:
    """The item of a raster of heights in metres, wherever it lies.

    Raises
    ------
    SourceError
        If it has several bands, is no raster of metres, or has no place.
    """
    import shapely

    with open_raster(file) as raster:
        _require_heights(raster, file)
        crs, transform = crs_name(raster.crs), tuple(raster.transform)[:6]
        outline = shapely.box(*grid_bbox(raster.shape, transform))
        item = new_item(
            file.item_id,
            footprint(outline, crs, where=file.href),
            year=file.year,
            properties={**grid_fields(crs, raster.shape, transform), "lczcube:note": _NOTE},
            extensions=(PROJECTION_URI, RASTER_URI, FILE_URI, LCZCUBE_URI),
        )
        is_cog = raster.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") == "COG"
        asset = height_asset(
            entry,
            file,
            dtype=raster.dtypes[0],
            declared=raster.nodatavals[0],
            media=COG_TYPE if is_cog else media_type(file.href),
            resolution_m=resolution_m(raster),
            block_shape=raster.block_shapes[0],
        )
    item.add_asset("data", asset)
    return SourceItem(item, coding={"valid": "nodata"})


def _require_heights(raster: DatasetReader, file: SourceFile) -> None:
    if raster.count != 1:
        raise SourceError(
            f"{file.href} has {raster.count} bands; canopy heights are one. Keep that band "
            "(gdal_translate -b)."
        )
    if np.dtype(raster.dtypes[0]).kind not in "iuf":
        raise SourceError(
            f"{file.href} holds {raster.dtypes[0]}; heights are whole or decimal numbers."
        )
    scale, offset = raster.scales[0], raster.offsets[0]
    if (scale, offset) != (1, 0):
        raise SourceError(
            f"{file.href} stores heights with scale {scale:g} and offset {offset:g}; what is "
            "canopy is decided on the stored numbers, so store metres (gdal_translate -unscale)."
        )
    unit = raster.units[0] or ""
    if unit.strip().lower() not in _METRES:
        raise SourceError(
            f"{file.href} holds heights in {unit!r}; convert them to metres (gdal_calc.py)."
        )
