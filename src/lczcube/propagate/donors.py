"""Donors: labelled feature vectors in one fixed order."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from lczcube.errors import LabelError
from lczcube.labels.samples import sample_frame
from lczcube.lcz import N_CLASSES, NODATA
from lczcube.propagate.space import Moments, Space, fit_space

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Electorate:
    """Donors among whom the nearest groups are sought.

    Attributes
    ----------
    rows : numpy.ndarray
        int64, (donor,): positions among all donors.
    vectors, group : numpy.ndarray
        Of these, as :class:`Donors` has them.
    n_groups : int
        Number of their groups.
    """

    rows: npt.NDArray[np.intp]
    vectors: Float64
    group: Int64
    n_groups: int


@dataclass(frozen=True)
class Donors:
    """Labelled vectors, sorted by ``patch_id``.

    Attributes
    ----------
    vectors : numpy.ndarray
        float64, (donor, dimension), of ``space``.
    space : Space
        How features become vectors.
    table : pandas.DataFrame
        A row a donor: ``patch_id``, ``city``, ``group``, ``lcz``, ``split``, ``weight``, ``x``,
        ``y``, ``size_m``, as samples have them.
    lcz : numpy.ndarray
        uint8, (donor,), 1-17.
    weight : numpy.ndarray
        float64, (donor,), above 0.
    group : numpy.ndarray
        int64, (donor,): equal where donors are no independent witnesses of each other, a polygon's
        cells or patches that overlap, in one city.
    """

    vectors: Float64
    space: Space
    table: pd.DataFrame
    lcz: npt.NDArray[np.uint8]
    weight: Float64
    group: Int64

    @property
    def donor_id(self) -> npt.NDArray[np.object_]:
        """The ``patch_id`` of each, str, (donor,)."""
        return np.asarray(self.table["patch_id"], dtype=object)

    @property
    def city(self) -> npt.NDArray[np.object_]:
        """The city of each, str, (donor,)."""
        return np.asarray(self.table["city"], dtype=object)

    @cached_property
    def n_groups(self) -> int:
        """Number of groups."""
        return int(np.unique(self.group).size)

    @cached_property
    def groups_of_class(self) -> Int64:
        """int64, (18,): by code, the number of groups that have a donor of it."""
        pairs = np.unique(np.stack([self.group, self.lcz.astype(np.int64)]), axis=1)
        return np.bincount(pairs[1], minlength=N_CLASSES + 1)

    @cached_property
    def pooled(self) -> tuple["Electorate", ...]:
        """All donors together."""
        rows = np.arange(len(self.lcz))
        return (Electorate(rows, self.vectors, self.group, self.n_groups),)

    @cached_property
    def by_city(self) -> tuple["Electorate", ...]:
        """The donors of each city."""
        cities = [np.flatnonzero(self.city == city) for city in np.unique(self.city)]
        return tuple(
            Electorate(
                rows, self.vectors[rows], self.group[rows], int(np.unique(self.group[rows]).size)
            )
            for rows in cities
        )

    @property
    def is_class(self) -> npt.NDArray[np.bool_]:
        """bool, (17,): classes that have a donor."""
        return np.bincount(self.lcz, minlength=N_CLASSES + 1)[1:] > 0

    def take(self, rows: npt.NDArray[np.intp]) -> "Donors":
        """Some of the donors, in the same space."""
        return replace(
            self,
            vectors=self.vectors[rows],
            table=self.table.iloc[rows].reset_index(drop=True),
            lcz=self.lcz[rows],
            weight=self.weight[rows],
            group=self.group[rows],
        )

    def without_vectors(self) -> "Donors":
        """The same, whose vectors an index holds: of length 0 here."""
        return replace(self, vectors=self.vectors[:, :0], table=self.table[["patch_id", "city"]])


def are_usable(samples: xr.Dataset) -> npt.NDArray[np.bool_]:
    """Samples with all features, a class and a weight above 0, bool, (sample,)."""
    complete = np.isfinite(samples["features"].values).all(axis=1)
    usable: npt.NDArray[np.bool_] = (
        complete & (samples["lcz"].values != NODATA) & (samples["weight"].values > 0)
    )
    return usable


def build_donors(
    samples: xr.Dataset,
    *,
    weights: Mapping[str, float] | None = None,
    pca: float | None = None,
    moments: Mapping[str, Moments] | None = None,
) -> Donors:
    """Donors from labelled samples.

    Parameters
    ----------
    samples : xarray.Dataset
        From :func:`lczcube.build_samples`. Samples with a NaN feature, without class or of weight 0
        are left out.
    weights : mapping of str to float, optional
        By input, how much its squared differences count; default 1 each.
    pca : float, optional
        Share of the variance that principal components keep; default: no components.
    moments : mapping, optional
        By city, from :func:`lczcube.propagate.city_moments`: each city is standardised by its own
        cells before the donors' mean and deviation are taken.

    Returns
    -------
    Donors
        In a space of z-scores by the donors' own mean and standard deviation.

    Raises
    ------
    LabelError
        If no sample has features.
    ConfigError
        If a weight or ``pca`` is illegal.
    """
    features, usable = samples["features"].values, are_usable(samples)
    if not usable.any():
        raise LabelError(
            f"none of the {samples.sizes['sample']} labelled samples has all features and a weight "
            "above 0, so there is no donor; do labels and inputs overlap?"
        )
    frame = sample_frame(samples)
    order = np.flatnonzero(usable)
    order = order[np.argsort(frame["patch_id"].to_numpy(str)[order], kind="stable")]
    table = frame.iloc[order].reset_index(drop=True)
    cities = table["city"].to_numpy(object)
    space = fit_space(
        features[order],
        cities,
        feature_names=samples["feature"].values.tolist(),
        products=json.loads(samples.attrs["products"]),
        weights=weights,
        pca=pca,
        moments=moments,
    )
    return Donors(
        vectors=space.vectors(features[order], cities),
        space=space,
        table=table,
        lcz=table["lcz"].to_numpy(np.uint8),
        weight=table["weight"].to_numpy(np.float64),
        group=table.groupby(["city", "group"], sort=True).ngroup().to_numpy(np.int64),
    )
