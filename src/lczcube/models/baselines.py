"""Baselines to hold a model against: a random forest and nearest neighbours, of scikit-learn.

They live in memory and are never saved.
"""

from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from lczcube.models.meta import ModelMeta, scatter_classes
from lczcube.models.tabular import TrainingTable, file_fingerprint, meta_of, training_table

_ONE_AT_A_TIME = Lock()
"""scikit-learn swaps Python's global warning filters while a forest predicts (1.9)."""


@dataclass(frozen=True)
class SklearnModel:
    """A fitted scikit-learn classifier behind the protocol of tabular models.

    Attributes
    ----------
    meta : ModelMeta
        Features, products and classes of training.
    """

    meta: ModelMeta
    _classifier: Any
    _table_fingerprint: str

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of training data and meta, hex: the same ones give the same model."""
        return file_fingerprint(self._table_fingerprint.encode(), self.meta.to_json().encode())

    def probability(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Probabilities of codes 1-17, float32 (n, 17), of features, float32 (n, n_features)."""
        with _ONE_AT_A_TIME:
            seen = self._classifier.predict_proba(features)
        return scatter_classes(seen.astype(np.float32), self.meta.classes)


def fit_forest(samples: xr.Dataset, *, seed: int, n_trees: int = 300) -> SklearnModel:
    """Fit a random forest with scikit-learn's defaults, without class weights.

    Parameters
    ----------
    samples : xarray.Dataset
        As for :func:`lczcube.models.fit_xgb`. NaN becomes the median of training.
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
    forest = RandomForestClassifier(n_estimators=n_trees, random_state=seed, n_jobs=1)
    classifier = _imputed(forest)
    classifier.fit(table.features, table.lcz, randomforestclassifier__sample_weight=table.weight)
    return _model("forest", classifier, table, seed=seed, parameters={"n_trees": n_trees})


def fit_knn(samples: xr.Dataset, *, seed: int = 0, k: int = 10) -> SklearnModel:
    """Fit nearest neighbours on standardised features, votes weighted by distance.

    Parameters
    ----------
    samples : xarray.Dataset
        As for :func:`lczcube.models.fit_xgb`, but all weights above 0 count the same. NaN becomes
        the median of training.
    seed : int
        Recorded; nothing here is random.
    k : int
        Neighbours; fewer where there are fewer samples. Default 10, as in propagation.

    Raises
    ------
    LabelError, ModelError
        As for :func:`lczcube.models.fit_xgb`.
    """
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.preprocessing import StandardScaler

    table = training_table(samples)
    n_neighbors = min(k, len(table.lcz))
    neighbours = KNeighborsClassifier(n_neighbors, weights="distance", n_jobs=1)
    classifier = _imputed(StandardScaler(), neighbours)
    classifier.fit(table.features, table.lcz)
    return _model("knn", classifier, table, seed=seed, parameters={"k": k})


def _imputed(*steps: Any) -> Any:
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline

    return make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), *steps)


def _model(
    kind: str, classifier: Any, table: TrainingTable, *, seed: int, parameters: dict[str, Any]
) -> SklearnModel:
    content = (table.features, table.lcz, table.weight)
    fingerprint = file_fingerprint(*(values.tobytes() for values in content))
    return SklearnModel(
        meta_of(table, kind, seed=seed, parameters=parameters), classifier, fingerprint
    )
