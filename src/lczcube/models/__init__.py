"""Models: boosted trees on features, a U-Net on pixels, a network on patches, and baselines.

Importing this package loads neither torch, xgboost nor scikit-learn.
"""

from pathlib import Path

import xarray as xr

from lczcube.cube import grid_of, halo_of, image
from lczcube.errors import ModelError
from lczcube.models.baselines import SklearnModel, fit_forest, fit_knn
from lczcube.models.meta import ModelMeta, read_meta, require_features
from lczcube.models.patch import (
    PatchArea,
    PatchModel,
    PatchParameters,
    fit_patch,
    patch_probability,
    predict_patch,
)
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
    "fit_patch",
    "fit_unet",
    "fit_xgb",
    "load_model",
    "patch_probability",
    "predict",
    "predict_features",
    "predict_patch",
    "predict_unet",
    "read_meta",
    "require_features",
]


def load_model(folder: str | Path) -> XgbModel | UnetModel | PatchModel:
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
    if kind == "patch":
        return PatchModel.load(folder)
    raise ModelError(
        f"{folder} holds a {kind} model; only xgb, unet and patch are saved. Train again."
    )


def predict(model: TabularModel | UnetModel | PatchModel, data: xr.Dataset) -> xr.Dataset:
    """Map of zones, confidence and probabilities by a model of any kind; lazy.

    Parameters
    ----------
    model : TabularModel, UnetModel or PatchModel
        Fitted, or from :func:`load_model`.
    data : xarray.Dataset
        What the model learned from: features of :func:`lczcube.aggregate`; for a U-Net the cube of
        :func:`lczcube.open_cube` with ``halo_px=model.context_px`` or more; for a patch network the
        cube with the halo of its grid, which is the default, or more.

    Returns
    -------
    xarray.Dataset
        ``lcz``, ``confidence`` and ``probability``, see :func:`predict_features`,
        :func:`predict_unet` and :func:`predict_patch`; :func:`lczcube.write_product` takes it as
        it is.

    Raises
    ------
    ModelError
        If the model wants the other kind of data, or was trained on other features.
    GridMismatchError
        If the halo of the cube is too small.
    """
    sees_pixels = isinstance(model, UnetModel | PatchModel)
    if sees_pixels == ("features" in data):
        wanted = "pixels: give it the cube" if sees_pixels else "features: give it aggregate(cube)"
        raise ModelError(f"a {model.meta.kind} model maps {wanted}, not {_listed(data)}.")
    if isinstance(model, UnetModel):
        return predict_unet(model, image(data), grid=grid_of(data), halo_px=halo_of(data))
    if isinstance(model, PatchModel):
        return predict_patch(model, image(data), grid=grid_of(data), halo_px=halo_of(data))
    return predict_features(model, data)


def _listed(data: xr.Dataset) -> str:
    return f"a dataset of {', '.join(map(str, data.data_vars)) or 'nothing'}"
