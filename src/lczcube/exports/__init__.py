"""Exports of a map that other tools read: QGIS, GDAL, WRF, the LCZ Generator, tables."""

from lczcube.exports.canopy_parameters import (
    CanopyParameters,
    building_parameters,
    published_parameters,
)
from lczcube.exports.cells import write_cells
from lczcube.exports.of_run import FORMATS, ExportOptions, export_run, plan_export
from lczcube.exports.product_map import ProductMap, open_map
from lczcube.exports.rasters import write_100m, write_generator, write_map_cog
from lczcube.exports.smoothing import GENERATOR_WIDTHS, PUBLISHED_WIDTHS, gaussian_filter
from lczcube.exports.styles import write_clr, write_qml
from lczcube.exports.training_areas import write_training_areas
from lczcube.exports.wrf import write_wrf_map

__all__ = [
    "FORMATS",
    "GENERATOR_WIDTHS",
    "PUBLISHED_WIDTHS",
    "CanopyParameters",
    "ExportOptions",
    "ProductMap",
    "building_parameters",
    "export_run",
    "gaussian_filter",
    "open_map",
    "plan_export",
    "published_parameters",
    "write_100m",
    "write_cells",
    "write_clr",
    "write_generator",
    "write_map_cog",
    "write_qml",
    "write_training_areas",
    "write_wrf_map",
]
