"""Gradient-boosted trees on features: XGBoost."""

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import xarray as xr

from lczcube.errors import ModelError
from lczcube.models.balance import balanced_weights
from lczcube.models.extras import import_extra
from lczcube.models.meta import ModelMeta, read_meta, scatter_classes, written_folder
from lczcube.models.tabular import TrainingTable, file_fingerprint, training_table

KIND = "xgb"
_WEIGHTS_NAME = "model.ubj"


@dataclass(frozen=True)
class XgbParameters:
    """Settings of :func:`fit_xgb`.

    Attributes
    ----------
    rounds : int
        Boosting rounds, each one tree a class.
    max_depth : int
        Depth of a tree.
    learning_rate : float
        Share of each tree that is added, (0, 1].
    subsample : float
        Share of the samples a tree sees, (0, 1].
    colsample : float
        Share of the features each split may choose from, (0, 1].
    min_child_weight : float
        Least sum of Hessians in a leaf.
    balance : float
        Class weights, 0 (none) to 1 (every class the same total weight).
    """

    rounds: int = 100
    max_depth: int = 6
    learning_rate: float = 0.1
    subsample: float = 0.7
    colsample: float = 0.2
    min_child_weight: float = 1.0
    balance: float = 0.5


@dataclass(frozen=True)
class XgbModel:
    """Boosted trees and what they were trained on.

    Attributes
    ----------
    meta : ModelMeta
        Features, products and classes of training.
    weights : bytes
        The booster in XGBoost's UBJSON, as in ``model.ubj``.
    """

    meta: ModelMeta
    weights: bytes

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of weights and meta, hex."""
        return file_fingerprint(self.weights, self.meta.to_json().encode())

    def probability(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Probabilities of codes 1-17.

        Parameters
        ----------
        features : numpy.ndarray
            float32, shape (n, n_features), in the order of training; may hold NaN.

        Returns
        -------
        numpy.ndarray
            float32, shape (n, 17); rows sum to 1; 0 for classes not seen in training.
        """
        seen = self._booster.inplace_predict(features, validate_features=False)
        return scatter_classes(np.asarray(seen, np.float32), self.meta.classes)

    def importance(self) -> npt.NDArray[np.float64]:
        """Total gain of each feature over all splits, float64 (n_features,); 0 if it is unused."""
        gain = self._booster.get_score(importance_type="total_gain")
        names = self._booster.feature_names or [f"f{i}" for i in range(len(self.meta.features))]
        return np.array([gain.get(name, 0.0) for name in names], np.float64)

    def save(self, folder: str | Path) -> None:
        """Write ``model.ubj`` and ``model.json`` to ``folder``; an older model is replaced.

        Raises
        ------
        StoreError
            If ``folder`` exists and is not a model.
        """
        with written_folder(folder, self.meta) as partial:
            (partial / _WEIGHTS_NAME).write_bytes(self.weights)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """The model of :meth:`save`; it predicts the same bytes.

        Raises
        ------
        MissingInputError
            If there is no model in ``folder``.
        ModelError
            If it is a model of another kind.
        MissingExtraError
            If xgboost is not installed.
        """
        meta = read_meta(folder, kind=KIND)
        model = cls(meta, (Path(folder) / _WEIGHTS_NAME).read_bytes())
        _ = model._booster
        return model

    @cached_property
    def _booster(self) -> Any:
        xgboost = import_extra("xgboost", extra="xgb")
        booster = xgboost.Booster(params={"nthread": 1})
        booster.load_model(bytearray(self.weights))
        return booster

    def __getstate__(self) -> dict[str, Any]:
        """Meta and weights: a worker builds its own booster."""
        return {"meta": self.meta, "weights": self.weights}


def fit_xgb(
    samples: xr.Dataset,
    *,
    seed: int,
    parameters: XgbParameters | None = None,
    n_threads: int = 1,
) -> XgbModel:
    """Fit boosted trees to samples in memory.

    Parameters
    ----------
    samples : xarray.Dataset
        ``features`` float32 ``(sample, feature)``, NaN where unknown; ``lcz`` uint8 ``(sample)``
        1-17; ``weight`` float32 ``(sample)``, 0 to leave a sample out.
    seed : int
        Of the sampling of rows and columns.
    parameters : XgbParameters, optional
        Default: those of the class.
    n_threads : int
        Threads of the fit. With another number the trees may differ in the last bit.

    Raises
    ------
    LabelError
        If a code is not 1-17.
    ModelError
        If the samples hold fewer than two classes, or a parameter is out of its range.
    MissingExtraError
        If xgboost is not installed.
    """
    chosen = parameters or XgbParameters()
    _require_parameters(chosen)
    table = training_table(samples)
    xgboost = import_extra("xgboost", extra="xgb")
    data = _matrix(xgboost, table, balance=chosen.balance, n_threads=n_threads)
    settings = _settings(chosen, len(table.classes), seed=seed, n_threads=n_threads)
    booster = xgboost.train(settings, data, num_boost_round=chosen.rounds)
    meta = table.meta(KIND, seed=seed, parameters=asdict(chosen))
    return XgbModel(meta, bytes(booster.save_raw("ubj")))


def _require_parameters(parameters: XgbParameters) -> None:
    for name in ("learning_rate", "subsample", "colsample"):
        value = getattr(parameters, name)
        if not 0 < value <= 1:
            raise ModelError(f"xgb {name} = {value}: it is a share above 0, at most 1.")
    for name in ("rounds", "max_depth"):
        value = getattr(parameters, name)
        if value < 1:
            raise ModelError(f"xgb {name} = {value}: it is at least 1.")
    for name in ("min_child_weight", "balance"):
        value = getattr(parameters, name)
        if value < 0:
            raise ModelError(f"xgb {name} = {value}: it is at least 0.")


def _matrix(xgboost: Any, table: TrainingTable, *, balance: float, n_threads: int) -> Any:
    return xgboost.QuantileDMatrix(
        table.features,
        label=np.searchsorted(table.classes, table.lcz),
        weight=balanced_weights(table.lcz, table.weight, balance=balance),
        nthread=n_threads,
    )


def _settings(
    parameters: XgbParameters, n_classes: int, *, seed: int, n_threads: int
) -> dict[str, Any]:
    return {
        "objective": "multi:softprob",
        "num_class": n_classes,
        "tree_method": "hist",
        "max_depth": parameters.max_depth,
        "learning_rate": parameters.learning_rate,
        "subsample": parameters.subsample,
        "colsample_bynode": parameters.colsample,
        "min_child_weight": parameters.min_child_weight,
        "seed": seed,
        "nthread": n_threads,
        "verbosity": 0,
    }
