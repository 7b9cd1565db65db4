"""Kinds of input: one module for each value of ``source`` in an ``[[input]]`` table.

A module holds the settings of its kind (a pydantic model) and ``build_items``, which makes STAC
items, and label tables where it reads labels, of one file. One whose files are looked for in an
archive or an index has ``find_files`` too.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from lczcube.sources import alphaearth, label_raster, patches, polygons, raster, tessera
from lczcube.sources.alphaearth import AlphaEarthInput
from lczcube.sources.files import SourceFile, expand_hrefs
from lczcube.sources.footprints import BBox
from lczcube.sources.inputs import EmbeddingInput, Input
from lczcube.sources.items import SourceItem
from lczcube.sources.label_raster import LabelRasterInput
from lczcube.sources.patches import PatchesInput
from lczcube.sources.polygons import PolygonsInput
from lczcube.sources.raster import RasterInput
from lczcube.sources.tessera import TesseraInput

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
    RasterInput | AlphaEarthInput | TesseraInput | PolygonsInput | LabelRasterInput | PatchesInput,
    Field(discriminator="source"),
]
"""An ``[[input]]`` table of any kind."""

SOURCES: Mapping[str, type[Input]] = {
    "raster": RasterInput,
    "alphaearth": AlphaEarthInput,
    "tessera": TesseraInput,
    "polygons": PolygonsInput,
    "label_raster": LabelRasterInput,
    "patches": PatchesInput,
}
"""Settings by value of ``source``."""

_BUILDERS: Mapping[str, Callable[[Any, SourceFile], list[SourceItem]]] = {
    "raster": raster.build_items,
    "alphaearth": alphaearth.build_items,
    "tessera": tessera.build_items,
    "polygons": polygons.build_items,
    "label_raster": label_raster.build_items,
    "patches": patches.build_items,
}


_FINDERS: Mapping[str, Callable[..., list[SourceFile]]] = {
    "alphaearth": alphaearth.find_files,
    "tessera": tessera.find_files,
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
    if entry.source in _FINDERS:
        return _FINDERS[entry.source](entry, folder=folder, cities=cities)
    return expand_hrefs(entry, folder=folder, cities=tuple(cities))


def build_items(entry: Input, file: SourceFile) -> list[SourceItem]:
    """Items of one file of an input, by the module its ``source`` names.

    Raises
    ------
    MissingInputError, SourceError, LabelError
        If the file is not there, cannot be registered as it is, or holds no LCZ codes.
    """
    return _BUILDERS[entry.source](entry, file)
