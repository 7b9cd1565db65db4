"""Baselines to hold a model against, of scikit-learn: a linear probe, a forest, neighbours."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from lczcube.errors import LabelError, ModelError
from lczcube.labels.splits import split_labels
from lczcube.models.balance import balanced_weights
from lczcube.models.forest import forest_arrays, forest_probability, is_forest
from lczcube.models.meta import ModelMeta, read_meta, scatter_classes, written_folder
from lczcube.models.tabular import (
    TrainingTable,
    file_fingerprint,
    meta_of,
    sample_weights,
    training_table,
    usable_rows,
)

KINDS = ("linear", "knn", "forest")
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
"""Of which :func:`fit_linear` takes the one that fits held-out groups best."""

_WEIGHTS_NAME = "weights.safetensors"
_FILL, _MEAN, _SCALE = "input.fill", "input.mean", "input.scale"
_PENALTY = 1e-2
_PENALTY_FOLDS = 3
_MAX_ITERATIONS = 2000

_ONE_AT_A_TIME = Lock()
"""scikit-learn swaps Python's global warning filters while neighbours are looked up (1.9)."""

Float32 = npt.NDArray[np.float32]
Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class SklearnModel:
    """What scikit-learn fitted, as arrays, behind the protocol of tabular models.

    Attributes
    ----------
    meta : ModelMeta
        Features, products and classes of training; its kind is ``linear``, ``knn`` or ``forest``.
    arrays : dict
        Weights by name, as in ``weights.safetensors``; ``input.fill`` stands in for NaN,
        ``input.mean`` and ``input.scale`` standardise.
    """

    meta: ModelMeta
    arrays: Arrays

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of weights and meta, hex."""
        ordered = [self.arrays[name] for name in sorted(self.arrays)]
        return file_fingerprint(self.meta.to_json().encode(), *(v.tobytes() for v in ordered))

    def probability(self, features: Float32) -> Float32:
        """Probabilities of codes 1-17, float32 (n, 17), of features, float32 (n, n_features)."""
        rows = _filled(features, self.arrays)
        seen = {"linear": self._linear, "knn": self._knn, "forest": self._forest}[self.meta.kind]
        return scatter_classes(seen(rows).astype(np.float32), self.meta.classes)

    def save(self, folder: str | Path) -> None:
        """Write ``weights.safetensors`` and ``model.json``; an older model there is replaced.

        Raises
        ------
        StoreError
            If ``folder`` exists and is not a model.
        """
        from safetensors.numpy import save_file

        with written_folder(folder, self.meta) as partial:
            save_file(self.arrays, partial / _WEIGHTS_NAME)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """The model of :meth:`save`; it predicts the same bytes.

        Raises
        ------
        MissingInputError
            If there is no model in ``folder``.
        ModelError
            If it is a model of another kind, or its weights are missing, damaged or not of it.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        meta = read_meta(folder)
        if meta.kind not in KINDS:
            raise ModelError(f"{folder} holds a {meta.kind} model, no baseline; use load_model.")
        path = Path(folder) / _WEIGHTS_NAME
        try:
            arrays = load_file(path)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path} cannot be read: {error}. Train the model again.") from error
        _require_arrays(arrays, meta, path)
        return cls(meta, arrays)

    def __getstate__(self) -> dict[str, Any]:
        """Meta and weights: a worker builds its own search."""
        return {"meta": self.meta, "arrays": self.arrays}

    def _linear(self, rows: Float32) -> npt.NDArray[np.float64]:
        from scipy.special import softmax

        logits = rows @ self.arrays["coefficient"] + self.arrays["intercept"]
        return np.asarray(softmax(logits, axis=1))

    def _knn(self, rows: Float32) -> npt.NDArray[np.float64]:
        with _ONE_AT_A_TIME:
            return np.asarray(self._neighbours.predict_proba(_standardised(rows, self.arrays)))

    def _forest(self, rows: Float32) -> npt.NDArray[np.float64]:
        return forest_probability(self.arrays, rows)

    @cached_property
    def _neighbours(self) -> Any:
        from sklearn.neighbors import KNeighborsClassifier

        points, lcz = self.arrays["points"], self.arrays["lcz"]
        k = min(self.meta.parameters["k"], len(lcz))
        return KNeighborsClassifier(k, weights="distance", n_jobs=1).fit(points, lcz)


def fit_forest(samples: xr.Dataset, *, seed: int, n_trees: int = 300) -> SklearnModel:
    """Fit a random forest with scikit-learn's defaults, without class weights.

    Parameters
    ----------
    samples : xarray.Dataset
        As for :func:`lczcube.models.fit_xgb`, in memory. NaN becomes the median of training.
    seed : int
        Of the bootstrap and the splits.
    n_trees : int
        Default 300: more moved no score in Hong Kong.

    Raises
    ------
    LabelError, ModelError
        As for :func:`lczcube.models.fit_xgb`.
    """
    from sklearn.ensemble import RandomForestClassifier

    table = training_table(samples)
    inputs = _fill_values(table.features)
    forest = RandomForestClassifier(n_estimators=n_trees, random_state=seed, n_jobs=1)
    forest.fit(_filled(table.features, inputs), table.lcz, sample_weight=table.weight)
    meta = meta_of(table, "forest", seed=seed, parameters={"n_trees": n_trees})
    return SklearnModel(meta, inputs | forest_arrays(forest))


def fit_knn(samples: xr.Dataset, *, seed: int = 0, k: int = 10) -> SklearnModel:
    """Fit nearest neighbours on standardised features, votes weighted by distance.

    Parameters
    ----------
    samples : xarray.Dataset
        As for :func:`lczcube.models.fit_xgb`, in memory, but all weights above 0 count the same.
        NaN becomes the median of training.
    seed : int
        Recorded; nothing here is random.
    k : int
        Neighbours; fewer where there are fewer samples. Default 10, as in propagation.

    Raises
    ------
    LabelError, ModelError
        As for :func:`lczcube.models.fit_xgb`.
    """
    table = training_table(samples)
    inputs = _scaling(table.features)
    points = _standardised(_filled(table.features, inputs), inputs)
    meta = meta_of(table, "knn", seed=seed, parameters={"k": k})
    return SklearnModel(meta, inputs | {"points": points, "lcz": table.lcz})


def fit_linear(
    samples: xr.Dataset, *, seed: int = 0, balance: float = 0.5, penalty: float | None = None
) -> SklearnModel:
    """Fit a linear probe: multinomial logistic regression on standardised features.

    Parameters
    ----------
    samples : xarray.Dataset
        As for :func:`lczcube.models.fit_xgb`, in memory. NaN becomes the median of training.
        ``group`` str ``(sample)`` says which samples are not held out from each other.
    seed : int
        Of the folds that choose the penalty.
    balance : float
        Class weights, 0 (none) to 1 (every class the same total weight), as of the trees.
    penalty : float, optional
        Weight of half the squared coefficients beside the mean loss, above 0: what it means does
        not depend on the number of samples. Default: of :data:`PENALTIES` the one with the highest
        likelihood of groups held out in three folds (12 fits more); 0.01 where there are no groups,
        or too few labels to hold any out.

    Raises
    ------
    LabelError, ModelError
        As for :func:`lczcube.models.fit_xgb`; ModelError also if the penalty is not above 0.
    """
    if penalty is not None and not penalty > 0:
        raise ModelError(f"linear penalty = {penalty}: it is above 0.")
    if not balance >= 0:
        raise ModelError(f"linear balance = {balance}: it is at least 0.")
    table = training_table(samples)
    inputs = _scaling(table.features)
    rows = _standardised(_filled(table.features, inputs), inputs)
    weight = balanced_weights(table.lcz, table.weight, balance=balance)
    if penalty is None:
        penalty = _best_penalty(rows, table, weight, _groups(samples), seed)
    regression = _regression(rows, table.lcz, weight, penalty)
    meta = meta_of(table, "linear", seed=seed, parameters={"balance": balance, "penalty": penalty})
    # On features as they come: (x - mean) / scale is linear too.
    coefficient, intercept = _coefficients(regression)
    coefficient = coefficient / inputs[_SCALE][:, None]
    intercept = intercept - inputs[_MEAN] @ coefficient
    return SklearnModel(
        meta,
        {_FILL: inputs[_FILL], "coefficient": coefficient, "intercept": intercept},
    )


def _groups(samples: xr.Dataset) -> npt.NDArray[np.object_] | None:
    """Groups of the samples that :func:`training_table` keeps."""
    if "group" not in samples:
        return None
    features = samples["features"].transpose("sample", "feature").to_numpy()
    use = usable_rows(features, samples["lcz"].to_numpy(), sample_weights(samples), ())
    groups: npt.NDArray[np.object_] = samples["group"].to_numpy().astype(object)[use]
    return groups


def _best_penalty(
    rows: Float32,
    table: TrainingTable,
    weight: Float32,
    groups: npt.NDArray[np.object_] | None,
    seed: int,
) -> float:
    if groups is None:
        return _PENALTY
    frame = pd.DataFrame({"lcz": table.lcz, "group": groups})
    try:
        split = split_labels(frame, method="polygon", folds=_PENALTY_FOLDS, seed=seed)
    except LabelError:
        return _PENALTY
    held = [split.folds == fold for fold in range(split.n_folds)]
    held = [rows_of_fold for rows_of_fold in held if len(np.unique(table.lcz[~rows_of_fold])) > 1]

    def gain(penalty: float) -> float:
        return float(
            np.mean([_likelihood(rows, table.lcz, weight, fold, penalty) for fold in held])
        )

    return max(PENALTIES, key=gain) if held else _PENALTY


def _likelihood(
    rows: Float32,
    lcz: npt.NDArray[np.uint8],
    weight: Float32,
    held: npt.NDArray[np.bool_],
    penalty: float,
) -> float:
    """Mean log-likelihood of the held-out samples whose class is in training."""
    from scipy.special import log_softmax

    regression = _regression(rows[~held], lcz[~held], weight[~held], penalty)
    known = held & np.isin(lcz, regression.classes_)
    if not known.any():
        return 0.0
    column = np.searchsorted(regression.classes_, lcz[known])
    coefficient, intercept = _coefficients(regression)
    # Not of predict_log_proba, which is -inf where a probability rounds to 0.
    said = log_softmax(rows[known] @ coefficient + intercept, axis=1)
    said = said[np.arange(len(column)), column]
    return float(np.average(said, weights=weight[known]))


def _regression(rows: Float32, lcz: npt.NDArray[np.uint8], weight: Float32, penalty: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    strength = 1 / (penalty * float(weight.sum()))
    return LogisticRegression(C=strength, max_iter=_MAX_ITERATIONS).fit(rows, lcz, weight)


def _coefficients(regression: Any) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Coefficients (n_features, n_classes) and intercepts; of two classes the first has 0."""
    coefficient, intercept = regression.coef_.T, regression.intercept_
    if len(regression.classes_) == 2:
        coefficient = np.hstack([np.zeros_like(coefficient), coefficient])
        intercept = np.append(0.0, intercept)
    return np.asarray(coefficient, np.float64), np.asarray(intercept, np.float64)


def _fill_values(features: Float32) -> Arrays:
    """The median of each feature, 0 where it is never known."""
    from sklearn.impute import SimpleImputer

    imputer = SimpleImputer(strategy="median", keep_empty_features=True).fit(features)
    return {_FILL: np.nan_to_num(imputer.statistics_).astype(np.float32)}


def _scaling(features: Float32) -> Arrays:
    """Median, and mean and standard deviation of the filled features; 1 for a constant."""
    from sklearn.preprocessing import StandardScaler

    inputs = _fill_values(features)
    scaler = StandardScaler().fit(_filled(features, inputs).astype(np.float64))
    return inputs | {_MEAN: scaler.mean_, _SCALE: scaler.scale_}


def _filled(features: Float32, inputs: Mapping[str, npt.NDArray[Any]]) -> Float32:
    return np.where(np.isnan(features), inputs[_FILL], features)


def _standardised(rows: Float32, inputs: Mapping[str, npt.NDArray[Any]]) -> Float32:
    return np.asarray((rows - inputs[_MEAN]) / inputs[_SCALE], np.float32)


def _require_arrays(arrays: Arrays, meta: ModelMeta, path: Path) -> None:
    try:
        fits = _fits(arrays, meta)
    except (KeyError, IndexError) as error:
        raise ModelError(
            f"{path} lacks weights of a {meta.kind} model: {error!r}. Train the model again."
        ) from error
    if not fits:
        raise ModelError(
            f"{path} holds weights that are not of a {meta.kind} model of {len(meta.features)} "
            f"features and {len(meta.classes)} classes. Train the model again."
        )


def _fits(arrays: Arrays, meta: ModelMeta) -> bool:
    n_features, n_classes = len(meta.features), len(meta.classes)
    if arrays[_FILL].shape != (n_features,) or not _finite(arrays):
        return False
    if meta.kind == "forest":
        return is_forest(arrays, n_features, n_classes)
    if meta.kind == "linear":
        shapes = arrays["coefficient"].shape, arrays["intercept"].shape
        return shapes == ((n_features, n_classes), (n_classes,))
    points, lcz = arrays["points"], arrays["lcz"]
    return (
        points.shape == (len(lcz), n_features)
        and arrays[_MEAN].shape == arrays[_SCALE].shape == (n_features,)
        and bool((arrays[_SCALE] > 0).all())
        and np.unique(lcz).tolist() == list(meta.classes)
    )


def _finite(arrays: Arrays) -> bool:
    return all(bool(np.isfinite(array).all()) for array in arrays.values())
