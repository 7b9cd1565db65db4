"""Source ``label_raster``: LCZ codes as a raster; each region of one code becomes a polygon."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from lczcube.errors import SourceError
from lczcube.lcz import NODATA
from lczcube.sources.class_codes import codes_of
from lczcube.sources.files import SourceFile, require_file
from lczcube.sources.items import SourceItem
from lczcube.sources.label_tables import LabelInput, Rows, label_item
from lczcube.sources.osm_rasterizer import require_no_osm_raster
from lczcube.sources.raster import open_raster

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
        Code that means "no label", in place of what the files declare. 0 and NaN always do.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".tif", ".tiff", ".vrt")

    source: Literal["label_raster"]
    nodata: float | None = None


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
        If a code is no LCZ and is not in ``drop_classes``.
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
    return [label_item(entry, file, Rows(regions))]


def _codes(
    entry: LabelRasterInput, file: SourceFile, raster: DatasetReader
) -> npt.NDArray[np.uint8]:
    import pandas as pd

    stored = raster.read(1)
    nodata = raster.nodata if entry.nodata is None else entry.nodata
    values, inverse, counts = np.unique(stored, return_inverse=True, return_counts=True)
    missing = np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), bool)
    if nodata is not None:
        missing |= values == nodata
    codes = codes_of(
        pd.Series(np.where(missing, NODATA, values)),
        drop_classes=entry.drop_classes,
        counts=counts,
        where=file.href,
    )
    return codes.astype(np.uint8)[inverse].reshape(stored.shape)


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
