"""Kinds of input: one module for each value of ``source`` in an ``[[input]]`` table.

A module holds the settings of its kind (a pydantic model) and ``build_items``, which makes STAC
items, and label tables where it reads labels, of one file. One whose files are looked for in an
archive or an index has ``find_files`` too.
"""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Annotated, get_args

from pydantic import Field

from lczcube.sources import (
    alphaearth,
    canopy,
    label_raster,
    lcz_map,
    open_buildings,
    osm,
    osm_raster,
    patches,
    polygons,
    raster,
    so2sat,
    tessera,
    training_areas,
)
from lczcube.sources.alphaearth import AlphaEarthInput
from lczcube.sources.canopy import CanopyInput
from lczcube.sources.files import SourceFile, expand_hrefs
from lczcube.sources.footprints import BBox
from lczcube.sources.inputs import EmbeddingInput, Input
from lczcube.sources.items import SourceItem
from lczcube.sources.label_raster import LabelRasterInput
from lczcube.sources.lcz_map import LczMapInput
from lczcube.sources.open_buildings import OpenBuildingsInput
from lczcube.sources.osm import OsmInput
from lczcube.sources.osm_raster import OsmRasterInput
from lczcube.sources.patches import PatchesInput
from lczcube.sources.polygons import PolygonsInput
from lczcube.sources.raster import RasterInput
from lczcube.sources.so2sat import So2SatInput
from lczcube.sources.tessera import TesseraInput
from lczcube.sources.training_areas import TrainingAreasInput

__all__ = [
    "SOURCES",
    "AnyInput",
    "EmbeddingInput",
    "Input",
    "SourceFile",
    "SourceItem",
    "build_items",
    "find_files",
]

AnyInput = Annotated[
    RasterInput
    | AlphaEarthInput
    | TesseraInput
    | CanopyInput
    | LczMapInput
    | OsmInput
    | OsmRasterInput
    | PolygonsInput
    | TrainingAreasInput
    | OpenBuildingsInput
    | LabelRasterInput
    | PatchesInput
    | So2SatInput,
    Field(discriminator="source"),
]
"""An ``[[input]]`` table of any kind."""

SOURCES: Mapping[str, type[Input]] = {
    get_args(settings.model_fields["source"].annotation)[0]: settings
    for settings in get_args(get_args(AnyInput)[0])
}
"""Settings by value of ``source``."""

_MODULES: Mapping[str, ModuleType] = {
    "raster": raster,
    "alphaearth": alphaearth,
    "tessera": tessera,
    "osm": osm,
    "osm_raster": osm_raster,
    "open_buildings": open_buildings,
    "lcz_map": lcz_map,
    "canopy": canopy,
    "polygons": polygons,
    "training_areas": training_areas,
    "label_raster": label_raster,
    "patches": patches,
    "so2sat": so2sat,
}


def find_files(entry: Input, *, folder: Path, cities: Mapping[str, BBox]) -> list[SourceFile]:
    """The files of an input, in order; one that cannot be used is kept, and fails later.

    Parameters
    ----------
    entry : Input
        An ``[[input]]`` table.
    folder : pathlib.Path
        What relative paths start from: the folder of the TOML file.
    cities : mapping of str to tuple of float
        Bboxes of the cities, EPSG:4326, by name: what ``{city}`` stands for, and where tiles of an
        archive or index are looked for.

    Raises
    ------
    ConfigError
        If an href or an index cannot be used as it is written.
    """
    find = getattr(_MODULES[entry.source], "find_files", None)
    if find is None:
        return expand_hrefs(entry, folder=folder, cities=tuple(cities))
    files: list[SourceFile] = find(entry, folder=folder, cities=cities)
    return files


def build_items(entry: Input, file: SourceFile) -> list[SourceItem]:
    """Items of one file of an input, by the module its ``source`` names.

    Raises
    ------
    MissingInputError, SourceError, LabelError
        If the file is not there, cannot be registered as it is, or holds no LCZ codes.
    """
    items: list[SourceItem] = _MODULES[entry.source].build_items(entry, file)
    return items
