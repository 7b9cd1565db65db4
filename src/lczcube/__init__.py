"""Local Climate Zone maps from satellite embeddings, labels and STAC catalogs.

Public names are imported when they are first used: ``import lczcube`` is light.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lczcube.catalog import build_catalog, open_catalog
    from lczcube.config import read_config
    from lczcube.cube import decode, open_cube, open_cubes
    from lczcube.evaluate import score
    from lczcube.grid import Grid
    from lczcube.labels import leakage_report, read_labels, split_labels, write_template
    from lczcube.labels.samples import build_samples
    from lczcube.models import fit_xgb, load_model, predict
    from lczcube.pipeline import plan
    from lczcube.products import write_product
    from lczcube.propagate import build_donors, propagate_labels
    from lczcube.runfolder import city_grid, open_run
    from lczcube.windows import aggregate, aggregate_patches

__version__ = "0.1.0"

__all__ = [
    "Grid",
    "aggregate",
    "aggregate_patches",
    "build_catalog",
    "build_donors",
    "build_samples",
    "city_grid",
    "decode",
    "fit_xgb",
    "leakage_report",
    "load_model",
    "open_catalog",
    "open_cube",
    "open_cubes",
    "open_run",
    "plan",
    "predict",
    "propagate_labels",
    "read_config",
    "read_labels",
    "score",
    "split_labels",
    "write_product",
    "write_template",
]

_HOMES = {
    "Grid": "grid",
    "aggregate": "windows",
    "aggregate_patches": "windows",
    "build_catalog": "catalog",
    "build_donors": "propagate",
    "build_samples": "labels.samples",
    "city_grid": "runfolder",
    "decode": "cube",
    "fit_xgb": "models",
    "leakage_report": "labels",
    "load_model": "models",
    "open_catalog": "catalog",
    "open_cube": "cube",
    "open_cubes": "cube",
    "open_run": "runfolder",
    "plan": "pipeline",
    "predict": "models",
    "propagate_labels": "propagate",
    "read_config": "config",
    "read_labels": "labels",
    "score": "evaluate",
    "split_labels": "labels",
    "write_product": "products",
    "write_template": "labels",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lczcube' has no attribute {name!r}")
    return getattr(import_module(f"lczcube.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return ["__version__", *__all__]
