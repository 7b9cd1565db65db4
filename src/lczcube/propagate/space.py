"""The space in which donors and queries lie near or far: standardised, weighted features."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dask
import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr

from lczcube.errors import ConfigError, ModelError
from lczcube.windows import layer_of_feature

ROUNDING = 1e-9
"""Of a mean: a deviation below is rounding of equal values."""

Float64 = npt.NDArray[np.float64]
Cities = npt.NDArray[Any]
"""The city of each row, str, (row,)."""

Moments = tuple[Float64, Float64]
"""Mean and standard deviation of every feature, each (feature,)."""


@dataclass(frozen=True)
class Space:
    """How features become vectors, whose Euclidean distance is likeness.

    Attributes
    ----------
    feature_names, products : tuple of str
        What goes in; nothing else is taken.
    mean, scale : numpy.ndarray
        float64, (feature,): subtracted from the features, and multiplied with what is left.
    basis : numpy.ndarray or None
        float64, (feature, component): principal components; None keeps the features.
    moments : dict of str to tuple
        By city, when each city is standardised by its own cells first; empty otherwise.
    """

    feature_names: tuple[str, ...]
    products: tuple[str, ...]
    mean: Float64
    scale: Float64
    basis: Float64 | None = None
    moments: Mapping[str, Moments] = field(default_factory=dict)

    @property
    def n_dimensions(self) -> int:
        """Length of a vector."""
        return len(self.scale) if self.basis is None else int(self.basis.shape[1])

    def vectors(self, features: npt.NDArray[np.floating], city: str | Cities) -> Float64:
        """Vectors of features, float64, (row, dimension); ``city`` is of all rows or of each.

        Raises
        ------
        ModelError
            If cities are standardised by their own cells and those of a city are not known.
        """
        standardised = (self._own(features, city) - self.mean) * self.scale
        return standardised if self.basis is None else _projected(standardised, self.basis)

    def require(self, feature_names: Sequence[str], products: Sequence[str]) -> None:
        """Raise a ModelError unless these are the features and products of this space."""
        if tuple(products) != self.products:
            raise ModelError(
                f"queries are of product {', '.join(products)} and donors of "
                f"{', '.join(self.products)}; two products never share a feature space. "
                "Aggregate both from the same inputs."
            )
        if tuple(feature_names) != self.feature_names:
            raise ModelError(
                f"queries have {len(feature_names)} features ({feature_names[0]} …) and donors "
                f"{len(self.feature_names)} ({self.feature_names[0]} …), or in another order. "
                "Aggregate both with the same inputs and stats."
            )

    def _own(self, features: npt.NDArray[np.floating], city: str | Cities) -> Float64:
        values = np.asarray(features, np.float64)
        if not self.moments:
            return values
        own, cities = np.empty_like(values), np.broadcast_to(city, len(values))
        for name in map(str, np.unique(cities)):
            if name not in self.moments:
                raise ModelError(
                    f"features are standardised city by city, and the cells of {name!r} are not "
                    f"known (those of {', '.join(self.moments)} are); give its moments too."
                )
            mean, std = self.moments[name]
            own[cities == name] = (values[cities == name] - mean) / std
        return own


def fit_space(
    features: npt.NDArray[np.floating],
    cities: Cities,
    *,
    feature_names: Sequence[str],
    products: Sequence[str],
    weights: Mapping[str, float] | None = None,
    pca: float | None = None,
    moments: Mapping[str, Moments] | None = None,
) -> Space:
    """The space of donors.

    Parameters
    ----------
    features : numpy.ndarray
        float, (donor, feature), finite.
    cities : numpy.ndarray
        str, (donor,): the city of each.
    feature_names, products : sequence of str
        What the features are.
    weights : mapping of str to float, optional
        By input, how much its squared differences count; default 1 each. A feature belongs to the
        input with the longest name that it begins with: name both ``a`` and ``a_b``.
    pca : float, optional
        Keeps the principal components of the donors that hold this share of the variance, in
        (0, 1). Default: the features themselves.
    moments : mapping, optional
        By city, from :func:`city_moments`: every city is standardised by its own cells first.

    Raises
    ------
    ConfigError
        If a weight names no input of the features or is negative, or ``pca`` is not in (0, 1).
    """
    bare = Space(
        tuple(feature_names),
        tuple(products),
        np.zeros(len(feature_names)),
        np.ones(len(feature_names)),
        moments=dict(moments or {}),
    )
    values = bare.vectors(features, cities)
    mean, std = values.mean(axis=0), values.std(axis=0)
    scale = np.sqrt(_weight_of_features(feature_names, weights or {})) / _deviations(mean, std)
    basis = None if pca is None else _components((values - mean) * scale, pca)
    return Space(bare.feature_names, bare.products, mean, scale, basis, bare.moments)


def city_moments(cells: xr.Dataset) -> Moments:
    """Mean and population standard deviation of the features over a city's covered cells.

    Reads the features once. A feature that does not vary has standard deviation 1.

    Raises
    ------
    ModelError
        If no cell is covered and complete.
    """
    features = da.asarray(cells["features"].data).astype(np.float64)
    covered = da.asarray(cells["covered"].data)[..., None]
    inside = da.where(covered & da.isfinite(features).all(axis=-1, keepdims=True), features, np.nan)
    axes = tuple(range(features.ndim - 1))
    mean, std, n = dask.compute(
        da.nanmean(inside, axis=axes),
        da.nanstd(inside, axis=axes),
        da.isfinite(inside).any(axis=-1).sum(),
    )
    if not n:
        raise ModelError("no cell of the city is covered and complete; its features have no mean.")
    return mean, _deviations(mean, std)


def _deviations(mean: Float64, std: Float64) -> Float64:
    """Standard deviations; 1 of what does not vary but for rounding."""
    return np.where(std > ROUNDING * np.abs(mean), std, 1.0)


def _weight_of_features(names: Sequence[str], weights: Mapping[str, float]) -> Float64:
    owners = [layer_of_feature(name, list(weights)) for name in names]
    for name, weight in weights.items():
        if not 0 <= weight < np.inf or name not in owners:
            fault = "is no weight" if name in owners else "is of no input of the features"
            raise ConfigError(
                f"weight {name} = {weight:g} {fault}; weights are 0 or more, one an input."
            )
    return np.array([1.0 if owner is None else float(weights[owner]) for owner in owners])


def _projected(vectors: Float64, basis: Float64) -> Float64:
    """``vectors @ basis``, summed feature by feature: the same bits for any number of rows."""
    components = np.zeros((len(vectors), basis.shape[1]))
    for feature, row in zip(vectors.T, basis, strict=True):
        components += feature[:, np.newaxis] * row
    return components


def _components(vectors: Float64, share: float) -> Float64:
    from sklearn.decomposition import PCA

    if not 0 < share < 1:
        raise ConfigError(f"pca = {share:g}: give the share of the variance to keep, in (0, 1).")
    if (vectors == vectors[0]).all():
        raise ConfigError(f"pca = {share:g} of {len(vectors)} donors that are all alike; leave it.")
    fitted = PCA(n_components=share, svd_solver="full").fit(vectors)
    basis: Float64 = fitted.components_.T
    return basis
