"""Baselines to hold a model against: a random forest and nearest neighbours, of scikit-learn.

They live in memory and are never saved.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from lczcube.models.balance import balanced_weights
from lczcube.models.meta import ModelMeta, scatter_classes
from lczcube.models.tabular import file_fingerprint, training_table


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

    def build() -> Any:
        from sklearn.ensemble import RandomForestClassifier

        return RandomForestClassifier(n_estimators=n_trees, random_state=seed, n_jobs=1)

    return _fit("forest", samples, build, seed=seed, parameters={"n_trees": n_trees})


def fit_knn(samples: xr.Dataset, *, seed: int = 0, k: int = 10) -> SklearnModel:
    """Fit nearest neighbours on standardised features, votes weighted by distance.

    Parameters
    ----------
    samples : xarray.Dataset
        As for :func:`lczcube.models.fit_xgb`, but weights above 0 all count the same. NaN becomes
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

    def build() -> Any:
        from sklearn.neighbors import KNeighborsClassifier

        n_samples = int((samples["lcz"] != 0).sum())
        return KNeighborsClassifier(n_neighbors=min(k, n_samples), weights="distance", n_jobs=1)

    return _fit("knn", samples, build, seed=seed, parameters={"k": k})
