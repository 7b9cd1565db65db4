"""Source ``label_raster``: LCZ codes as a raster; each region of one code becomes a polygon."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from lczcube.errors import SourceError
from lczcube.lcz import NODATA
from lczcube.sources.files import SourceFile, require_file
from lczcube.sources.items import SourceItem
from lczcube.sources.label_tables import LabelInput, Rows, label_item
from lczcube.sources.lcz_codes import Recode, require_natural, zones_of
from lczcube.sources.osm_rasterizer import require_no_osm_raster
from lczcube.sources.raster import open_raster, resolution_m

if TYPE_CHECKING:
    import geopandas as gpd
    from rasterio.io import DatasetReader

MAX_PIXELS = 500_000_000
"""Largest raster read whole, in pixels: a label raster is a city or a country, not the globe."""


class LabelRasterInput(LabelInput):
    """An ``[[input]]`` of rasters of LCZ codes, in their first band.

    Attributes
    ----------
    nodata : float, optional
        Code that means "no label", in place of what the files declare. NaN and 0, unless it is
        recoded, always do.
    recode : table, optional
        LCZ 1-17, or 0, of each code, for files with codes of their own: ``{1 = 6, 2 = 11}``.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".tif", ".tiff", ".vrt")

    source: Literal["label_raster"]
    nodata: float | None = None
    recode: Recode = ()


def build_items(entry: LabelRasterInput, file: SourceFile) -> list[SourceItem]:
    """The label table of one raster of codes, and its item; reads the raster.

    Each 4-connected region of one code is one polygon and one group. 101-107 become 11-17.

    Raises
    ------
    MissingInputError
        If the file is not there.
    SourceError
        If it cannot be read, has no CRS, is rotated, is too large to be read whole, or is output of
        osm-rasterizer.
    LabelError
        If a code is no LCZ and is not in ``drop_classes``, or is not in ``recode`` where there is
        one, or if codes 1-10 alone cover much ground.
    """
    require_file(file)
    with open_raster(file) as raster:
        require_no_osm_raster(raster, file.href)
        if raster.width * raster.height > MAX_PIXELS:
            raise SourceError(
                f"{file.href} has {raster.width} x {raster.height} pixels; labels are read whole, "
                f"up to {MAX_PIXELS} pixels. Cut it to the city."
            )
        regions = _regions(_codes(entry, file, raster), raster)
        files = tuple(raster.files)  # of a .vrt: those it reads
    return [replace(label_item(entry, file, Rows(regions)), made_of=files)]


def _codes(
    entry: LabelRasterInput, file: SourceFile, raster: DatasetReader
) -> npt.NDArray[np.uint8]:
    stored = raster.read(1)
    values, inverse, counts = np.unique(stored, return_inverse=True, return_counts=True)
    zones = zones_of(
        values,
        counts,
        nodata=raster.nodata if entry.nodata is None else entry.nodata,
        recode=entry.recode,
        drop_classes=entry.drop_classes,
        where=file.href,
    )
    if not entry.recode:
        require_natural(values, counts, zones, pixel_m=resolution_m(raster), where=file.href)
    return zones[inverse].reshape(stored.shape)


def _regions(codes: npt.NDArray[np.uint8], raster: DatasetReader) -> gpd.GeoDataFrame:
    import geopandas as gpd
    import shapely.geometry
    from rasterio.features import shapes

    found = shapes(codes, mask=codes != NODATA, connectivity=4, transform=raster.transform)
    polygons, values = [], []
    for geometry, value in found:
        polygons.append(shapely.geometry.shape(geometry))
        values.append(int(value))
    return gpd.GeoDataFrame({"lcz": values}, geometry=polygons, crs=raster.crs.to_wkt())
