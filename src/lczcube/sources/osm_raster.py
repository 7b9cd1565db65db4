"""Source ``osm_raster``: GeoTIFFs that osm-rasterizer has made of OpenStreetMap.

Either a mask of 0 and 1 for each feature, or one band of categories: numbers of the list of
features that the file was made with. They are no Local Climate Zones, whatever their values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import model_validator

from lczcube.errors import SourceError
from lczcube.sources import raster
from lczcube.sources.files import SourceFile, require_file
from lczcube.sources.inputs import Input, Kind, Publication
from lczcube.sources.items import CLASSIFICATION_URI, SourceItem, safe_id
from lczcube.sources.osm import OsmInput
from lczcube.sources.osm_items import OUTSIDE
from lczcube.sources.osm_rasterizer import BAND_NAMES_TAG, categories_of, mask_names_of

if TYPE_CHECKING:
    import pystac
    from rasterio.io import DatasetReader

NO_CATEGORY = 0


class OsmRasterInput(Input):
    """An ``[[input]]`` of output of osm-rasterizer.

    Attributes
    ----------
    resampling : str
        ``nearest`` (default) or, for categories, ``mode``.
    static : bool
        True for a layer without a date: it meets every year, and has no time dimension.
    """

    kind: ClassVar[Kind] = "raster"
    suffixes: ClassVar[tuple[str, ...]] = (".tif", ".tiff")
    publication: ClassVar[Publication | None] = OsmInput.publication

    source: Literal["osm_raster"]
    resampling: Literal["nearest", "mode"] = "nearest"
    static: bool = False

    @model_validator(mode="after")
    def _check_year(self) -> OsmRasterInput:
        if not self.static and not self.all_years:
            raise ValueError("is a raster without year; add year = 2024, or static = true")
        return self

    @property
    def layer_fields(self) -> dict[str, Any]:
        """Masks or categories: neither is ever averaged on reading."""
        return {
            "layer": "osm",
            "decoder": "linear",
            "valid": "nodata",
            "resampling": self.resampling,
            "static": self.static,
        }


def build_items(entry: OsmRasterInput, file: SourceFile) -> list[SourceItem]:
    """The item of one raster; reads its header and its checksum, and no pixel.

    The files declare nodata 0. In a mask 0 says that the feature is not there, so that it is data;
    pixels past the file are then 255. Among categories 0 is nodata.

    Raises
    ------
    MissingInputError
        If the file is not there.
    SourceError
        If it cannot be read, or is not what osm-rasterizer writes.
    """
    require_file(file)
    with raster.open_raster(file) as dataset:
        categories = categories_of(dataset)
        names = ("landcover",) if categories else _mask_names(dataset, file)
        if set(dataset.dtypes) != {"uint8"}:
            raise SourceError(
                f"{file.href} holds {dataset.dtypes[0]}, and osm-rasterizer writes uint8; register "
                'other rasters with source = "raster".'
            )
    as_raster = raster.RasterInput(
        source="raster",
        name=entry.name,
        href=entry.href,
        title=entry.title,
        bands=names,
        nodata=NO_CATEGORY if categories else OUTSIDE,
        static=True,
    )
    (made,) = raster.build_items(as_raster, file)
    if categories:
        _name_classes(made.item, categories)
    return [made]


def _mask_names(dataset: DatasetReader, file: SourceFile) -> tuple[str, ...]:
    named = mask_names_of(dataset)
    names = tuple(safe_id(name) for name in named)
    if len(names) != dataset.count or not all(names) or len(set(names)) < len(names):
        raise SourceError(
            f"{file.href} has {dataset.count} bands and the names {', '.join(named) or '(none)'}; "
            f"osm-rasterizer names each once, in its tag {BAND_NAMES_TAG} or the descriptions. "
            'Register other rasters with source = "raster", layer = "osm" and bands.'
        )
    return names


def _name_classes(item: pystac.Item, categories: tuple[str, ...]) -> None:
    nodata = {"value": NO_CATEGORY, "name": "nodata", "description": "No feature", "nodata": True}
    classes = [
        {"value": value, "name": safe_id(name), "description": name}
        for value, name in enumerate(categories, 1)
    ]
    (band,) = item.assets["data"].extra_fields["bands"]
    band["classification:classes"] = [nodata, *classes]
    item.stac_extensions = sorted([*item.stac_extensions, CLASSIFICATION_URI])
