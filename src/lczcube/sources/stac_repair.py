"""An item of somebody else, as lczcube writes them: its dates, its footprint, and one asset."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lczcube.errors import ConfigError, SourceError
from lczcube.sources.bands import as_code, band_fields, fits, name_bands, require_code
from lczcube.sources.files import (
    SourceFile,
    file_facts,
    is_remote,
    media_type,
    require_public,
)
from lczcube.sources.footprints import Footprint, footprint, geometry_footprint, resolution_m
from lczcube.sources.items import (
    FILE_URI,
    LCZCUBE_URI,
    PROJECTION_URI,
    RASTER_URI,
    ZARR_URI,
    grid_bbox,
    grid_fields,
)
from lczcube.sources.stac_pixels import Pixels, Transform, told_pixels, with_header
from lczcube.sources.stac_read import absolute_href
from lczcube.sources.zarr_arrays import DTYPES

if TYPE_CHECKING:
    import pystac

    from lczcube.sources.stac_items import ItemFile, StacInput

_RASTERS = ("image/tiff", "image/jp2", "image/vnd.stac.geotiff", "image/x.geotiff")
_RASTER_SUFFIXES = (".tif", ".tiff", ".vrt", ".jp2")
_STORES = ("application/vnd.zarr", "application/x-npy")
"""What is no raster of GDAL and read all the same, where the item says where its pixels lie."""

_KEPT = ("lczcube:axes", "lczcube:zarr", "zarr:zarr_format", "zarr:node_type")


def imported_item(entry: StacInput, file: ItemFile) -> pystac.Item:
    """An item as lczcube writes them, of one that somebody else wrote.

    Kept are its dates, its footprint and the wanted asset, as ``data``; dropped are links, other
    assets and all other properties.

    Raises
    ------
    MissingInputError
        If the asset's file is not there.
    SourceError
        If the asset is no raster, its href holds a credential, it does not say enough, or
        contradicts its file.
    """
    where = f"{file.href}: item {file.values.get('id')!r}"
    key = _asset_key(entry, file.values["assets"], where)
    asset: Mapping[str, Any] = file.values["assets"][key]
    href = _public_href(entry, str(asset["href"]), file.href)
    pixels = told_pixels(asset, file.values["properties"], key, where)
    if _is_gdal(asset):
        size = None if asset.get("file:size") is None else int(asset["file:size"])
        raster = SourceFile(href, file.item_id, file.year, file.city)
        pixels = with_header(pixels, raster, size, where)
    else:
        _require_store(pixels, file.values["assets"], key, where)
    crs, shape, transform = _grid(pixels, where)
    outline = _outline(file.values.get("geometry"), crs, shape, transform, where)
    item = _new_item(file, outline, pixels.note, grid_fields(crs, shape, transform))
    item.add_asset("data", _asset(entry, asset, href, pixels, where))
    if any(field.startswith("file:") for field in item.assets["data"].extra_fields):
        item.stac_extensions.append(FILE_URI)
    if "zarr:node_type" in item.assets["data"].extra_fields:
        item.stac_extensions.append(ZARR_URI)
    return item


# Which asset


def _asset_key(entry: StacInput, assets: Mapping[str, Any], where: str) -> str:
    if entry.asset is not None:
        if entry.asset not in assets:
            raise SourceError(
                f"{where} has no asset {entry.asset!r}; it has {', '.join(sorted(assets))}."
            )
        return entry.asset
    rasters = [key for key, asset in sorted(assets.items()) if _is_pixels(asset)]
    if "data" in rasters:
        return "data"
    if len(rasters) != 1:
        raise SourceError(
            f"{where} has {len(rasters)} rasters among its assets ({', '.join(sorted(assets))}); "
            "name one: asset = …"
        )
    return rasters[0]


def _require_store(pixels: Pixels, assets: Mapping[str, Any], key: str, where: str) -> None:
    """Raise for what GDAL does not open, unless the item says where in it the pixels lie."""
    asset = assets[key]
    if pixels.missing or not {"lczcube:zarr", "lczcube:axes"} & {*asset}:
        media = _media(asset) or "of no type"
        raise SourceError(
            f"{where}: its asset {key!r} is {media}, no raster that GDAL opens; register a Zarr "
            'store with source = "zarr", tables as labels.'
        )
    if "scales" in assets:
        raise SourceError(
            f"{where} has codes with scales beside them, which mean nothing alone; register the "
            'files with source = "tessera".'
        )


def _is_pixels(asset: Mapping[str, Any]) -> bool:
    roles = set(asset.get("roles") or ())
    is_shown = roles & {"thumbnail", "overview", "metadata"}
    return not is_shown and (_is_gdal(asset) or _media(asset) in _STORES)


def _is_gdal(asset: Mapping[str, Any]) -> bool:
    media = _media(asset)
    path = str(asset.get("href", "")).partition("?")[0].lower()
    return media in _RASTERS or (media not in _STORES and path.endswith(_RASTER_SUFFIXES))


def _media(asset: Mapping[str, Any]) -> str:
    return str(asset.get("type") or "").partition(";")[0].strip()


def _public_href(entry: StacInput, href: str, base: str) -> str:
    absolute = absolute_href(href, base)
    try:
        require_public(absolute, entry)
    except ConfigError as error:
        raise SourceError(str(error)) from error
    return absolute


# The item


def _grid(pixels: Pixels, where: str) -> tuple[str, tuple[int, int], Transform]:
    crs, shape, transform = pixels.crs, pixels.shape, pixels.transform
    if crs is None or shape is None or transform is None:
        raise SourceError(f"{where} does not tell {', '.join(pixels.missing)}; correct it.")
    if transform[1] or transform[3]:
        raise SourceError(
            f"{where} is rotated (transform {transform}); pixels lie along x and y. Warp the file "
            "to a north-up grid (gdalwarp)."
        )
    return crs, shape, transform


def _outline(
    geometry: Mapping[str, Any] | None,
    crs: str,
    shape: tuple[int, int],
    transform: Transform,
    where: str,
) -> Footprint:
    """The item's footprint, or that of its pixels where it has none that is a sound polygon."""
    import shapely

    extent = footprint(shapely.box(*grid_bbox(shape, transform)), crs, where=where)
    if geometry is None:
        return extent
    given = shapely.force_2d(shapely.geometry.shape(geometry))
    if not given.is_valid or given.geom_type not in ("Polygon", "MultiPolygon"):
        return extent
    if not shapely.intersects(given, shapely.geometry.shape(extent.geometry)):
        raise SourceError(
            f"{where} has a geometry and a proj:transform that do not meet; correct its CRS."
        )
    return geometry_footprint(given)


def _new_item(
    file: ItemFile, outline: Footprint, note: str | None, grid: Mapping[str, Any]
) -> pystac.Item:
    import pystac
    from pystac.utils import datetime_to_str, str_to_datetime

    told = file.values["properties"]
    instant = told.get("datetime")
    keys = ("start_datetime", "end_datetime")
    interval = {
        key: datetime_to_str(str_to_datetime(str(told[key])))
        for key in keys
        if all(told.get(k) for k in keys)
    }
    notes = {} if note is None else {"lczcube:note": note}
    return pystac.Item(
        id=file.item_id,
        geometry=outline.geometry,
        bbox=list(outline.bbox),
        datetime=None if instant is None else str_to_datetime(str(instant)),
        properties={**interval, **grid, **notes},
        stac_extensions=[LCZCUBE_URI, PROJECTION_URI, RASTER_URI],
    )


def _asset(
    entry: StacInput, asset: Mapping[str, Any], href: str, pixels: Pixels, where: str
) -> pystac.Asset:
    import pystac

    crs, shape, transform = _grid(pixels, where)
    block = {} if pixels.block_shape is None else {"lczcube:block_shape": [*pixels.block_shape]}
    checksum = {k: asset[k] for k in ("file:checksum",) if asset.get(k)}
    is_file = not is_remote(href) and Path(href).is_file()
    return pystac.Asset(
        href=href,
        title=entry.title or asset.get("title"),
        media_type=asset.get("type") or media_type(href),
        roles=["data"],
        extra_fields={
            "bands": _bands(entry, pixels, where),
            "raster:spatial_resolution": resolution_m(crs, shape, transform),
            **block,
            **checksum,
            **(file_facts(href, checksum=False) if is_file else {}),
            **{key: asset[key] for key in _KEPT if key in asset},
        },
    )


def _bands(entry: StacInput, pixels: Pixels, where: str) -> list[dict[str, Any]]:
    bands, dtype = pixels.bands or (), str(pixels.dtype)
    if dtype not in DTYPES:
        raise SourceError(f"{where} holds {dtype}; a layer holds {', '.join(DTYPES)}.")
    names = name_bands(entry.bands, [band.name for band in bands], where)
    return band_fields(bands, names, dtype, _nodata(entry, pixels, np.dtype(dtype), where))


def _nodata(entry: StacInput, pixels: Pixels, dtype: np.dtype[Any], where: str) -> float | None:
    if entry.nodata is not None:
        return require_code(entry.nodata, dtype, where)
    if len(pixels.nodata) > 1:
        raise SourceError(
            f"{where} declares several nodata values "
            f"({', '.join(f'{v:g}' for v in sorted(pixels.nodata))}); one layer has one. Set "
            "nodata in the input."
        )
    return next((as_code(v, dtype) for v in pixels.nodata if fits(v, dtype)), None)
