"""Source ``raster``: a GeoTIFF, COG or anything GDAL opens, registered band by band."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import model_validator

from lczcube.errors import SourceError
from lczcube.sources.bands import Band, as_code, band_fields, fits, name_bands, require_code
from lczcube.sources.files import (
    SourceFile,
    file_facts,
    first_line,
    is_remote,
    media_type,
    require_file,
    without_warnings,
)
from lczcube.sources.footprints import footprint
from lczcube.sources.footprints import resolution_m as resolution_of_grid
from lczcube.sources.inputs import LayerInput
from lczcube.sources.items import (
    FILE_URI,
    LCZCUBE_URI,
    PROJECTION_URI,
    RASTER_URI,
    SourceItem,
    crs_name,
    grid_fields,
    new_item,
)
from lczcube.sources.osm_rasterizer import require_no_osm_raster

if TYPE_CHECKING:
    import pystac
    from rasterio.io import DatasetReader

SQUARE_TOLERANCE = 1e-6
"""Sides of a square pixel differ by less than this share."""

COG_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"

logger = logging.getLogger(__name__)


class RasterInput(LayerInput):
    """An ``[[input]]`` of rasters; keys as of :class:`lczcube.sources.inputs.LayerInput`."""

    suffixes: ClassVar[tuple[str, ...]] = (".tif", ".tiff", ".vrt", ".jp2")

    source: Literal["raster"]

    @model_validator(mode="after")
    def _check_year(self) -> RasterInput:
        if not self.static and not self.all_years:
            raise ValueError("is a raster without year; add year = 2024, or static = true")
        return self


def build_items(entry: RasterInput, file: SourceFile) -> list[SourceItem]:
    """The item of one raster; reads its header, and no pixel but for ``checksums``.

    Raises
    ------
    MissingInputError
        If the file is not there.
    SourceError
        If it cannot be read, has no CRS, is rotated, its bands differ in dtype or nodata, or it is
        output of osm-rasterizer, whose nodata is data, and no other is given.
    """
    require_file(file)
    with open_raster(file) as raster:
        if entry.nodata is None:
            require_no_osm_raster(raster, file.href)
        return [SourceItem(_item(entry, file, raster))]


@contextmanager
def open_raster(file: SourceFile) -> Iterator[DatasetReader]:
    """A raster open for reading that has a CRS, is not rotated, and is not cut short.

    Raises
    ------
    SourceError
        If it cannot be read, has no CRS, its transform is rotated or missing, or the last block of
        a local TIFF lies past its end.
    """
    with open_pixels(file) as raster:
        _require_georeferenced(raster, file)
        yield raster


@contextmanager
def open_pixels(file: SourceFile) -> Iterator[DatasetReader]:
    """A raster open for reading, wherever it lies: masks do not say where.

    Raises
    ------
    SourceError
        If it cannot be read.
    """
    from rasterio.errors import RasterioError

    try:
        with _opened(file.href) as raster:
            _require_whole(raster, file)
            yield raster
    except (RasterioError, OSError) as error:
        raise SourceError(
            f"{file.href} cannot be read as a raster ({first_line(error)}); "
            "check the file, or fetch it again."
        ) from error


def raster_type(file: SourceFile, raster: DatasetReader) -> str:
    """Media type of a raster: of a COG where it is one, else by suffix."""
    is_cog = raster.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") == "COG"
    return COG_TYPE if is_cog else media_type(file.href)


def resolution_m(raster: DatasetReader) -> float:
    """Side of a pixel in metres; in degrees that of a square of the pixels' mean area."""
    transform = tuple(raster.transform)[:6]
    return resolution_of_grid(crs_name(raster.crs), raster.shape, transform)


def _opened(href: str) -> DatasetReader:
    import rasterio

    with without_warnings():  # NotGeoreferencedWarning: we say it ourselves
        return rasterio.open(href)


def _require_georeferenced(raster: DatasetReader, file: SourceFile) -> None:
    if raster.crs is None:
        raise SourceError(
            f"{file.href} has no CRS, so it has no place; assign the one its publisher states "
            "(gdal_edit.py -a_srs EPSG:n)."
        )
    affine = raster.transform
    if affine.b or affine.d:
        raise SourceError(
            f"{file.href} is rotated (transform {tuple(affine)[:6]}); pixels lie along x and y. "
            "Warp it to a north-up grid (gdalwarp)."
        )
    if affine.is_identity:
        raise SourceError(
            f"{file.href} has a CRS but no transform; assign one (gdal_edit.py -a_ullr)."
        )


def _require_whole(raster: DatasetReader, file: SourceFile) -> None:
    """Raise for a TIFF whose header is there and whose last pixels are not."""
    if raster.driver != "GTiff" or is_remote(file.href):
        return
    size = Path(file.href).stat().st_size
    rows, columns = raster.block_shapes[0]
    last = f"{(raster.width - 1) // columns}_{(raster.height - 1) // rows}"
    for band in {1, raster.count}:
        names = (f"BLOCK_OFFSET_{last}", f"BLOCK_SIZE_{last}")
        told = [raster.get_tag_item(name, "TIFF", bidx=band) for name in names]
        if None not in told and sum(map(int, told)) > size:
            raise SourceError(
                f"{file.href} cannot be read whole: its pixels end at byte "
                f"{sum(map(int, told))} and it has {size}. Fetch it again."
            )


def _item(entry: RasterInput, file: SourceFile, raster: DatasetReader) -> pystac.Item:
    import shapely

    crs = crs_name(raster.crs)
    note = _note(entry, raster)
    item = new_item(
        file.item_id,
        footprint(shapely.box(*_sorted_bounds(raster)), crs, where=file.href),
        year=file.year,
        properties=grid_fields(crs, raster.shape, tuple(raster.transform)[:6])
        | ({"lczcube:note": note} if note else {}),
        extensions=(PROJECTION_URI, RASTER_URI, FILE_URI, LCZCUBE_URI),
    )
    item.add_asset("data", _asset(entry, file, raster))
    return item


def _note(entry: RasterInput, raster: DatasetReader) -> str:
    """What a user should know of a file that is registered all the same."""
    width, height = abs(raster.transform.a), abs(raster.transform.e)
    dtype = np.dtype(raster.dtypes[0])
    notes = []
    if abs(width - height) > SQUARE_TOLERANCE * height:
        notes.append(f"Pixels are not square: {width:.6g} x {height:.6g}.")
    if entry.nodata is None and dtype.kind != "f":
        declared = [v for v in raster.nodatavals if v is not None]
        if not declared:
            notes.append("No nodata is declared: every pixel counts as valid.")
        elif not fits(declared[0], dtype):
            notes.append(f"The declared nodata {declared[0]:g} cannot occur in {dtype}.")
    return " ".join(notes)


def _sorted_bounds(raster: DatasetReader) -> tuple[float, float, float, float]:
    left, bottom, right, top = raster.bounds
    return min(left, right), min(bottom, top), max(left, right), max(bottom, top)


def _asset(entry: RasterInput, file: SourceFile, raster: DatasetReader) -> pystac.Asset:
    import pystac

    return pystac.Asset(
        href=file.href,
        title=entry.title,
        media_type=raster_type(file, raster),
        roles=["data"],
        extra_fields={
            "bands": _bands(entry, file, raster),
            "raster:spatial_resolution": resolution_m(raster),
            "lczcube:block_shape": list(raster.block_shapes[0]),
            **file_facts(file.href, checksum=entry.checksums),
        },
    )


def _bands(entry: RasterInput, file: SourceFile, raster: DatasetReader) -> list[dict[str, Any]]:
    _require_one_dtype(raster, file)
    names = name_bands(entry.bands, raster.descriptions, file.href)
    return band_fields(bands_of(raster), names, raster.dtypes[0], _nodata(entry, file, raster))


def bands_of(raster: DatasetReader) -> list[Band]:
    """What a header says of its bands."""
    told = (raster.descriptions, raster.scales, raster.offsets, raster.units)
    return [
        Band(text, float(scale), float(offset), unit, text)
        for text, scale, offset, unit in zip(*told, strict=True)
    ]


def _require_one_dtype(raster: DatasetReader, file: SourceFile) -> None:
    counts = Counter(raster.dtypes)
    if len(counts) > 1:
        listed = ", ".join(f"{dtype} ({n} bands)" for dtype, n in sorted(counts.items()))
        raise SourceError(
            f"{file.href} mixes dtypes: {listed}; one layer has one dtype. Split it into two files."
        )


def _nodata(entry: RasterInput, file: SourceFile, raster: DatasetReader) -> float | None:
    dtype = np.dtype(raster.dtypes[0])
    if entry.nodata is not None:
        return require_code(entry.nodata, dtype, file.href)
    declared = {None if v is None or math.isnan(v) else v for v in raster.nodatavals}
    if len(declared) > 1:
        listed = ", ".join(str(v) for v in sorted(declared, key=str))
        raise SourceError(
            f"{file.href} declares several nodata values ({listed}); one layer has one. "
            "Set nodata in the input."
        )
    (value,) = declared
    if value is None:
        return None
    if not fits(value, dtype):
        logger.warning("%s: nodata %s cannot occur in %s; ignored", file.href, value, dtype)
        return None
    return as_code(value, dtype)
