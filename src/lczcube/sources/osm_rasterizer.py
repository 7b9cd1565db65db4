"""What osm-rasterizer writes into its GeoTIFFs: names of masks, or of categories.

Source: ancazugo/osm-rasterizer (MIT), ``rasterize.py``: tags ``BAND_NAMES`` and ``CATEGORIES``,
lists with commas; the value of a category is its place in the list, from 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lczcube.errors import SourceError

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

CATEGORIES_TAG, BAND_NAMES_TAG = "CATEGORIES", "BAND_NAMES"


def categories_of(dataset: DatasetReader) -> tuple[str, ...]:
    """Names of the categories 1, 2, 3 ... of a raster; empty where it holds none."""
    text = str(dataset.tags().get(CATEGORIES_TAG, ""))
    return tuple(text.split(",")) if text and dataset.count == 1 else ()


def mask_names_of(dataset: DatasetReader) -> tuple[str, ...]:
    """Names of the bands: their descriptions where each has one, else those of the tag."""
    described = tuple(text or "" for text in dataset.descriptions)
    if all(described):
        return described
    text = str(dataset.tags().get(BAND_NAMES_TAG, ""))
    return tuple(text.split(",")) if text else ()


def require_no_osm_raster(dataset: DatasetReader, href: str) -> None:
    """Raise for output of osm-rasterizer, which another source must not take for its own.

    Raises
    ------
    SourceError
        If the dataset has the tool's tags.
    """
    is_coded_so = set(dataset.dtypes) == {"uint8"} and dataset.nodata == 0
    if is_coded_so and BAND_NAMES_TAG in dataset.tags():
        raise SourceError(
            f"{href} is output of osm-rasterizer: its 0 is data, and its categories are numbers of "
            'a list, no Local Climate Zones. Register it with source = "osm_raster".'
        )
