"""Rasters that an option of an export names."""

from pathlib import Path

import rasterio
from rasterio import DatasetReader

from lczcube.errors import MissingInputError, SourceError


def open_raster(path: str | Path, wanted: str) -> DatasetReader:
    """The raster of an option, opened; ``wanted`` says what the option names.

    Raises
    ------
    MissingInputError
        If there is no such file.
    SourceError
        If it is no raster.
    """
    if not Path(path).exists():
        raise MissingInputError(f"{path}: no such file; {wanted}.")
    try:
        return rasterio.open(path)
    except rasterio.errors.RasterioIOError as error:
        raise SourceError(f"{path} cannot be read as a raster: {error}.") from error
