"""Models: boosted trees on features, a U-Net on pixels, and baselines.

Importing this package loads neither torch, xgboost nor scikit-learn.
"""

from pathlib import Path

from lczcube.errors import ModelError
from lczcube.models.baselines import SklearnModel, fit_forest, fit_knn
from lczcube.models.meta import ModelMeta, read_meta, require_features
from lczcube.models.tabular import TabularModel, predict_features
from lczcube.models.unet import (
    Area,
    UnetModel,
    UnetParameters,
    context_px,
    fit_unet,
    predict_unet,
)
from lczcube.models.xgb import XgbModel, XgbParameters, fit_xgb

__all__ = [
    "Area",
    "ModelMeta",
    "SklearnModel",
    "TabularModel",
    "UnetModel",
    "UnetParameters",
    "XgbModel",
    "XgbParameters",
    "context_px",
    "fit_forest",
    "fit_knn",
    "fit_unet",
    "fit_xgb",
    "load_model",
    "predict_features",
    "predict_unet",
    "read_meta",
    "require_features",
]


def load_model(folder: str | Path) -> XgbModel | UnetModel:
    """The model saved in a folder, whichever kind it is.

    Raises
    ------
    MissingInputError
        If there is no model in ``folder``.
    ModelError
        If its kind cannot be loaded.
    MissingExtraError
        If the library of its kind is not installed.
    """
    kind = read_meta(folder).kind
    if kind == "xgb":
        return XgbModel.load(folder)
    if kind == "unet":
        return UnetModel.load(folder)
    raise ModelError(f"{folder} holds a {kind} model; only xgb and unet are saved. Train again.")
