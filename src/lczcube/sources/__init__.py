"""Kinds of input: one module for each value of ``source`` in an ``[[input]]`` table.

A module holds the settings of its kind (a pydantic model) and ``build_items``, which makes STAC
items, and label tables where it reads labels, of one file.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import Field

from lczcube.sources import label_raster, patches, polygons, raster
from lczcube.sources.files import SourceFile
from lczcube.sources.inputs import Input
from lczcube.sources.items import SourceItem
from lczcube.sources.label_raster import LabelRasterInput
from lczcube.sources.patches import PatchesInput
from lczcube.sources.polygons import PolygonsInput
from lczcube.sources.raster import RasterInput

__all__ = ["SOURCES", "AnyInput", "Input", "SourceFile", "SourceItem", "build_items"]

AnyInput = Annotated[
    RasterInput | PolygonsInput | LabelRasterInput | PatchesInput, Field(discriminator="source")
]
"""An ``[[input]]`` table of any kind."""

SOURCES: Mapping[str, type[Input]] = {
    "raster": RasterInput,
    "polygons": PolygonsInput,
    "label_raster": LabelRasterInput,
    "patches": PatchesInput,
}
"""Settings by value of ``source``."""

_BUILDERS: Mapping[str, Callable[[Any, SourceFile], list[SourceItem]]] = {
    "raster": raster.build_items,
    "polygons": polygons.build_items,
    "label_raster": label_raster.build_items,
    "patches": patches.build_items,
}


def build_items(entry: Input, file: SourceFile) -> list[SourceItem]:
    """Items of one file of an input, by the module its ``source`` names.

    Raises
    ------
    MissingInputError, SourceError, LabelError
        If the file is not there, cannot be registered as it is, or holds no LCZ codes.
    """
    return _BUILDERS[entry.source](entry, file)
