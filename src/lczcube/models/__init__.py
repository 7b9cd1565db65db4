"""Models: boosted trees on features, a U-Net on pixels, a network on patches, and baselines.

Importing this package loads neither torch, xgboost nor scikit-learn.
"""

from pathlib import Path

import xarray as xr

from lczcube.cube import feature_names, grid_of, halo_of, image
from lczcube.errors import ModelError
from lczcube.models.baselines import KINDS as BASELINES
from lczcube.models.baselines import SklearnModel, fit_forest, fit_knn, fit_linear
from lczcube.models.batches import Batch, Batches
from lczcube.models.meta import ModelMeta, read_meta, require_features
from lczcube.models.patch import (
    PatchArea,
    PatchModel,
    PatchParameters,
    fit_patch,
    patch_probability,
    predict_patch,
)
from lczcube.models.pixels import predict_pixels
from lczcube.models.tabular import TabularModel, predict_features
from lczcube.models.unet import (
    Area,
    UnetModel,
    UnetParameters,
    context_px,
    fit_unet,
)
from lczcube.models.unetmap import predict_unet
from lczcube.models.xgb import XgbModel, XgbParameters, fit_xgb

__all__ = [
    "Area",
    "Batch",
    "Batches",
    "ModelMeta",
    "PatchArea",
    "PatchModel",
    "PatchParameters",
    "SklearnModel",
    "TabularModel",
    "UnetModel",
    "UnetParameters",
    "XgbModel",
    "XgbParameters",
    "context_px",
    "fit_forest",
    "fit_knn",
    "fit_linear",
    "fit_patch",
    "fit_unet",
    "fit_xgb",
    "load_model",
    "patch_probability",
    "predict",
    "predict_features",
    "predict_patch",
    "predict_pixels",
    "predict_unet",
    "read_meta",
    "require_features",
]


def load_model(folder: str | Path) -> XgbModel | UnetModel | PatchModel | SklearnModel:
    """The model saved in a folder, whichever kind it is.

    Raises
    ------
    MissingInputError
        If there is no model in ``folder``.
    ModelError
        If its kind is unknown, or its weights are missing or damaged.
    MissingExtraError
        If the library of its kind is not installed.
    """
    kind = read_meta(folder).kind
    if kind == "xgb":
        return XgbModel.load(folder)
    if kind == "unet":
        return UnetModel.load(folder)
    if kind == "patch":
        return PatchModel.load(folder)
    if kind in BASELINES:
        return SklearnModel.load(folder)
    raise ModelError(
        f"{folder} holds a {kind} model; xgb, unet, patch, {', '.join(BASELINES)} can be loaded. "
        "Train again."
    )


def predict(model: TabularModel | UnetModel | PatchModel, data: xr.Dataset) -> xr.Dataset:
    """Map of zones, confidence and probabilities by a model of any kind; lazy.

    Parameters
    ----------
    model : TabularModel, UnetModel or PatchModel
        Fitted, or from :func:`load_model`.
    data : xarray.Dataset
        What the model learned from: features of :func:`lczcube.aggregate`, or for a model of pixels
        the cube of :func:`lczcube.open_cube`; for a U-Net with ``halo_px=model.context_px`` or
        more, for a patch network with the halo of its grid, which is the default, or more.

    Returns
    -------
    xarray.Dataset
        ``lcz``, ``confidence`` and ``probability``, see :func:`predict_features`,
        :func:`predict_pixels`, :func:`predict_unet` and :func:`predict_patch`;
        :func:`lczcube.write_product` takes it as it is.

    Raises
    ------
    ModelError
        If the model wants the other kind of data, or was trained on other features.
    GridMismatchError
        If the halo of the cube is too small.
    """
    if isinstance(model, UnetModel | PatchModel):
        if "features" in data:
            raise _other_data(model, "pixels: give it the cube", data)
        grid, halo_px = grid_of(data), halo_of(data)
        if isinstance(model, UnetModel):
            return predict_unet(model, image(data), grid=grid, halo_px=halo_px)
        return predict_patch(model, image(data), grid=grid, halo_px=halo_px)
    if model.meta.features == tuple(feature_names(data)):
        return predict_pixels(model, image(data), grid=grid_of(data), halo_px=halo_of(data))
    if "features" not in data:
        raise _other_data(model, "features: give it aggregate(cube)", data)
    return predict_features(model, data)


def _other_data(
    model: TabularModel | UnetModel | PatchModel, wanted: str, data: xr.Dataset
) -> ModelError:
    return ModelError(f"a {model.meta.kind} model maps {wanted}, not {_listed(data)}.")


def _listed(data: xr.Dataset) -> str:
    return f"a dataset of {', '.join(map(str, data.data_vars)) or 'nothing'}"
