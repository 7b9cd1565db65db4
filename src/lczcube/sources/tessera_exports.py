"""GeoTIFF exports of TESSERA: float32 values, decoded by the publisher's own library."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lczcube.errors import SourceError
from lczcube.sources.files import SourceFile, file_facts, media_type
from lczcube.sources.footprints import box_footprint, footprint
from lczcube.sources.inputs import EmbeddingInput
from lczcube.sources.items import (
    FILE_URI,
    LCZCUBE_URI,
    PROJECTION_URI,
    SourceItem,
    crs_name,
    grid_bbox,
    grid_fields,
    named_bands,
    new_item,
)
from lczcube.sources.raster import COG_TYPE, open_raster
from lczcube.sources.tessera_archives import product_of_tags, require_product
from lczcube.sources.tessera_tiles import BAND_NAMES, PIXEL_M, GridTile, snap_outward

if TYPE_CHECKING:
    import pystac
    from rasterio.io import DatasetReader

_NAME = re.compile(r"(?P<tile>grid_-?\d+\.\d+_-?\d+\.\d+)_(?P<year>\d{4})\.tiff?")
_SNAPPED = (
    "The file's own origin is that of the land mask, inside the pixel; proj:transform is where the "
    "pixels lie."
)


def tile_and_year(path: Path) -> tuple[GridTile, int] | None:
    """What the name of an exported tile tells; None for a mosaic or anything else.

    Examples
    --------
    >>> tile_and_year(Path("2024/grid_0.15_52.05/grid_0.15_52.05_2024.tiff"))
    (GridTile(lon_i=15, lat_i=5205), 2024)
    """
    found = _NAME.fullmatch(path.name)
    tile = GridTile.of_name(found["tile"]) if found else None
    return (tile, int(found["year"])) if found and tile else None


def export_item(entry: EmbeddingInput, file: SourceFile) -> SourceItem:
    """The item of an export; reads its header.

    Raises
    ------
    SourceError
        If it cannot be read, is no export, or does not say its year and product.
    """
    with open_raster(file) as raster:
        tags: Mapping[str, str] = raster.tags()
        _require_export(raster, tags, file)
        year = _year(entry, tags, file)
        said = product_of_tags(tags)
        product = require_product(entry.product, [said] if said else [], file.href)
        item = _item(raster, file, year)
        item.add_asset("data", _asset(entry, file, raster))
    return SourceItem(item, coding={"product": product, "decoder": "linear", "valid": "nodata"})


def _require_export(raster: DatasetReader, tags: Mapping[str, str], file: SourceFile) -> None:
    is_tagged = any(name.startswith("TESSERA_") for name in tags)
    if raster.count != len(BAND_NAMES) or not is_tagged:
        raise SourceError(
            f"{file.href} has {raster.count} bands{'' if is_tagged else ' and no tag TESSERA_*'}; "
            f"an export of TESSERA has {len(BAND_NAMES)} and is tagged. Register other rasters "
            'with source = "raster".'
        )
    if set(raster.dtypes) != {"float32"}:
        raise SourceError(
            f"{file.href} holds {raster.dtypes[0]}; an export of TESSERA holds float32 values. "
            "Export it again (geotessera download --format tiff)."
        )


def _year(entry: EmbeddingInput, tags: Mapping[str, str], file: SourceFile) -> int:
    """Year of an export, by path, tags or input, which must not contradict each other."""
    tagged = tags.get("TESSERA_YEAR", "")
    told = {year for year in (file.year, int(tagged) if tagged.isdigit() else None) if year}
    if not told and len(entry.all_years) == 1:
        told = set(entry.all_years)
    if len(told) != 1:
        listed = " and ".join(map(str, sorted(told))) or "no year"
        raise SourceError(
            f"{file.href} is of {listed} by its path and tags; correct the one that is wrong, or "
            "set year in an input of its own."
        )
    (year,) = told
    if entry.all_years and year not in entry.all_years:
        listed = ", ".join(map(str, entry.all_years))
        raise SourceError(
            f"{file.href} is of {year} by its tags, but the input wants {listed}; correct year, "
            "or href."
        )
    return year


def _item(raster: DatasetReader, file: SourceFile, year: int) -> pystac.Item:
    import shapely

    crs, transform = crs_name(raster.crs), [float(v) for v in tuple(raster.transform)[:6]]
    found = tile_and_year(Path(file.href))
    properties: dict[str, Any] = {}
    if found and crs == found[0].crs and (transform[0], transform[4]) == (PIXEL_M, -PIXEL_M):
        outline = box_footprint(found[0].bbox)
        origin = snap_outward(transform[2], transform[5])
        if origin != (transform[2], transform[5]):
            transform[2], transform[5] = origin
            properties["lczcube:note"] = _SNAPPED
    else:
        bounds = shapely.box(*grid_bbox(raster.shape, transform))
        outline = footprint(bounds, crs, where=file.href)
    return new_item(
        file.item_id,
        outline,
        year=year,
        properties=grid_fields(crs, raster.shape, transform) | properties,
        extensions=(PROJECTION_URI, FILE_URI, LCZCUBE_URI),
    )


def _asset(entry: EmbeddingInput, file: SourceFile, raster: DatasetReader) -> pystac.Asset:
    import pystac

    is_cog = raster.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") == "COG"
    return pystac.Asset(
        href=file.href,
        title=entry.title,
        media_type=COG_TYPE if is_cog else media_type(file.href),
        roles=["data"],
        extra_fields={
            "bands": named_bands(BAND_NAMES, "float32"),
            "lczcube:block_shape": list(raster.block_shapes[0]),
            **file_facts(file.href, checksum=entry.checksums),
        },
    )
