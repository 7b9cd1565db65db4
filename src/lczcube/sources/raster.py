"""Source ``raster``: a GeoTIFF, COG or anything GDAL opens, registered band by band."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import model_validator

from lczcube.errors import SourceError
from lczcube.sources.files import (
    SourceFile,
    file_facts,
    first_line,
    media_type,
    require_file,
    without_warnings,
)
from lczcube.sources.footprints import footprint
from lczcube.sources.inputs import Input, Kind, Names
from lczcube.sources.items import (
    FILE_URI,
    LCZCUBE_URI,
    PROJECTION_URI,
    RASTER_URI,
    SourceItem,
    crs_fields,
    crs_name,
    new_item,
    safe_id,
)
from lczcube.sources.osm_rasterizer import require_no_osm_raster

if TYPE_CHECKING:
    import pystac
    from rasterio.io import DatasetReader

COG_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"

logger = logging.getLogger(__name__)


class RasterInput(Input):
    """An ``[[input]]`` of rasters.

    Attributes
    ----------
    layer : str
        What the bands are; ``embedding`` wants a ``product``.
    product : str, optional
        What makes two embeddings comparable, such as ``alphaearth/1``.
    decoder : str
        ``linear``: code times scale plus offset of the file. ``signed_square``: AlphaEarth.
    valid : str
        ``nodata``: a pixel is valid where no band is nodata. ``all_bands_nodata``: where one is
        not.
    resampling : str
        How it may be resampled onto another lattice.
    nodata : float, optional
        In place of what the files declare.
    bands : tuple of str
        Names of the bands, in place of the files' descriptions.
    static : bool
        True for a layer without a date: it meets every year, and has no time dimension.
    """

    kind: ClassVar[Kind] = "raster"
    suffixes: ClassVar[tuple[str, ...]] = (".tif", ".tiff", ".vrt", ".jp2")

    source: Literal["raster"]
    layer: Literal["raster", "embedding", "canopy", "buildings", "osm", "lcz_map"] = "raster"
    product: str | None = None
    decoder: Literal["linear", "signed_square"] = "linear"
    valid: Literal["nodata", "all_bands_nodata"] = "nodata"
    resampling: Literal["nearest", "average", "mode", "sum"] = "nearest"
    nodata: float | None = None
    bands: Names = ()
    static: bool = False

    @property
    def layer_fields(self) -> dict[str, Any]:
        """As the input says."""
        names = ("layer", "product", "decoder", "valid", "resampling", "static")
        return {name: getattr(self, name) for name in names}

    @model_validator(mode="after")
    def _check_product(self) -> RasterInput:
        if self.layer == "embedding" and not self.product:
            raise ValueError(
                "is an embedding without product; two products never meet, so name it: "
                'product = "alphaearth/1"'
            )
        return self

    @model_validator(mode="after")
    def _check_bands(self) -> RasterInput:
        if len(set(self.bands)) < len(self.bands) or any(
            safe_id(b) != b or not b for b in self.bands
        ):
            raise ValueError(
                "has bands that repeat or hold other characters than A-Z a-z 0-9 _ . -"
            )
        return self

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
    """A raster open for reading that has a CRS and is not rotated.

    Raises
    ------
    SourceError
        If it cannot be read, has no CRS, or its transform is rotated or missing.
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
    affine = raster.transform
    if raster.crs.is_projected:
        side_m = math.sqrt(abs(affine.a * affine.e)) * raster.crs.linear_units_factor[1]
    else:
        side_m = math.sqrt(_geodesic_area_m2(raster) / (raster.width * raster.height))
    return float(f"{side_m:.6g}")


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


def _item(entry: RasterInput, file: SourceFile, raster: DatasetReader) -> pystac.Item:
    import shapely

    crs = crs_name(raster.crs)
    bounds = _sorted_bounds(raster)
    item = new_item(
        file.item_id,
        footprint(shapely.box(*bounds), crs, where=file.href),
        year=file.year,
        properties={
            **crs_fields(crs),
            "proj:shape": list(raster.shape),
            "proj:transform": [float(v) for v in tuple(raster.transform)[:6]],
            "proj:bbox": list(bounds),
        },
        extensions=(PROJECTION_URI, RASTER_URI, FILE_URI, LCZCUBE_URI),
    )
    item.add_asset("data", _asset(entry, file, raster))
    return item


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
    names = _band_names(entry, file, raster)
    nodata = _nodata(entry, file, raster)
    return [_band(raster, i, name, nodata) for i, name in enumerate(names)]


def _band(raster: DatasetReader, i: int, name: str, nodata: float | None) -> dict[str, Any]:
    scale, offset = float(raster.scales[i]), float(raster.offsets[i])
    optional = {
        "nodata": nodata,
        "raster:scale": scale if scale != 1 else None,
        "raster:offset": offset if offset != 0 else None,
        "unit": raster.units[i] or None,
        "description": raster.descriptions[i] if raster.descriptions[i] != name else None,
    }
    band = {"name": name, "data_type": raster.dtypes[i]}
    return band | {key: value for key, value in optional.items() if value is not None}


def _band_names(entry: RasterInput, file: SourceFile, raster: DatasetReader) -> list[str]:
    if entry.bands:
        if len(entry.bands) != raster.count:
            raise SourceError(
                f"{file.href} has {raster.count} bands but bands names {len(entry.bands)}; "
                "name each band once, or leave bands out."
            )
        return list(entry.bands)
    described = [safe_id(text or "") for text in raster.descriptions]
    if all(described) and len(set(described)) == len(described):
        return described
    return [f"b{i:02d}" for i in range(1, raster.count + 1)]


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
        if not _fits(entry.nodata, dtype):
            raise SourceError(
                f"{file.href}: nodata = {entry.nodata:g} cannot be stored as {dtype}; "
                "set a code of that dtype, or leave nodata out."
            )
        return _number(entry.nodata, dtype)
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
    if not _fits(value, dtype):
        logger.warning("%s: nodata %s cannot occur in %s; ignored", file.href, value, dtype)
        return None
    return _number(value, dtype)


def _fits(value: float, dtype: np.dtype[Any]) -> bool:
    if dtype.kind == "f":
        return math.isfinite(value)
    limits = np.iinfo(dtype)
    return value == int(value) and limits.min <= value <= limits.max


def _number(value: float, dtype: np.dtype[Any]) -> float:
    return float(value) if dtype.kind == "f" else int(value)


def _geodesic_area_m2(raster: DatasetReader) -> float:
    import shapely
    from pyproj import CRS, Geod

    minx, miny, maxx, maxy = _sorted_bounds(raster)
    # A geodesic edge over more than half the globe runs the other way round: thirds do not.
    third = (maxx - minx) / 3
    dense = shapely.segmentize(shapely.box(minx, miny, minx + third, maxy), third / 21)
    ellipsoid = CRS(raster.crs.to_wkt()).get_geod() or Geod(ellps="WGS84")
    area, _ = ellipsoid.geometry_area_perimeter(dense)
    return 3 * abs(float(area))
