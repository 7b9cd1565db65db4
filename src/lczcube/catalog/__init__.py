"""The catalog: inputs as STAC items, built from a TOML file and opened from three kinds of store.

``build_catalog`` writes metadata and label tables; ``open_catalog`` answers which items of an
input lie in a bbox and a time.
"""

from lczcube.catalog.build import CatalogReport, build_catalog
from lczcube.catalog.digest import catalog_digest
from lczcube.catalog.opened import Catalog, Layer, open_catalog
from lczcube.catalog.register import Failure

__all__ = [
    "Catalog",
    "CatalogReport",
    "Failure",
    "Layer",
    "build_catalog",
    "catalog_digest",
    "open_catalog",
]
