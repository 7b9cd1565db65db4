"""Votes: what the donors nearest to a query say of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from lczcube.errors import ModelError
from lczcube.lcz import N_CLASSES
from lczcube.neighbours import DonorIndex, nearest_donors
from lczcube.propagate.donors import Donors, Electorate

Merge = Literal["pooled", "by_city"]

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Voting:
    """How neighbours vote.

    Attributes
    ----------
    k : int
        Groups that vote, each by its nearest donor; all where there are fewer.
    power : float
        A vote weighs ``weight / distance ** power``.
    balance : float
        0 leaves classes as frequent as they are among the groups of donors; 1 takes their
        frequency out, as if every class had as many groups.
    merge : str
        ``pooled``: the nearest groups of all cities vote. ``by_city``: the k nearest of each city,
        so that a city with many labels does not drown the others.
    """

    k: int = 10
    power: float = 2.0
    balance: float = 0.0
    merge: Merge = "pooled"

    def __post_init__(self) -> None:
        if self.k < 1 or self.power < 0 or not 0 <= self.balance <= 1:
            raise ModelError(
                f"k = {self.k}, power = {self.power:g}, balance = {self.balance:g}: k is at least "
                "1, power 0 or more, balance in [0, 1]."
            )
        if self.merge not in ("pooled", "by_city"):
            raise ModelError(f"merge = {self.merge!r} is unknown; use pooled or by_city.")


@dataclass(frozen=True)
class Votes:
    """What donors say of queries.

    Attributes
    ----------
    shares : numpy.ndarray
        float64, (query, 17): share of the vote of each class, sums to 1.
    distance : numpy.ndarray
        float64, (query,): to the nearest donor.
    donor : numpy.ndarray
        int64, (query,): position of the nearest donor.
    """

    shares: Float64
    distance: Float64
    donor: Int64

    @property
    def lcz(self) -> npt.NDArray[np.uint8]:
        """uint8, (query,): the class with most votes, the lowest of equals."""
        codes: npt.NDArray[np.uint8] = (self.shares.argmax(axis=1) + 1).astype(np.uint8)
        return codes

    @property
    def top(self) -> Float64:
        """float64, (query,): its share."""
        top: Float64 = self.shares.max(axis=1)
        return top


def cast_votes(
    donors: Donors, vectors: Float64, voting: Voting, indexes: Sequence[DonorIndex] = ()
) -> Votes:
    """Votes on queries.

    Parameters
    ----------
    donors : Donors
        Who votes.
    vectors : numpy.ndarray
        float64, (query, dimension), of the donors' space, finite.
    voting : Voting
        How.
    indexes : sequence of DonorIndex
        Of the donors, one for each of :func:`electorates`. Default: they are compared with all.

    Returns
    -------
    Votes
        The same bits however the queries are cut in blocks.

    Notes
    -----
    Of every group only the nearest donor votes: cells of one polygon say the same thing several
    times, and ten of them are no ten witnesses. A donor at distance 0 outvotes all others.
    Neighbours at equal distance are taken in the order of donors.
    """
    distance, index = _neighbours(donors, vectors, voting, indexes)
    weight = donors.weight[index] * _class_factor(donors, voting.balance)[donors.lcz[index]]
    shares = _shares(distance, weight, donors.lcz[index], voting.power)
    nearest = distance.argmin(axis=1)
    rows = np.arange(len(vectors))
    return Votes(shares, distance[rows, nearest], index[rows, nearest])


def electorates(donors: Donors, voting: Voting) -> tuple[Electorate, ...]:
    """The donors among whom the k nearest groups are sought: all, or city by city."""
    return donors.pooled if voting.merge == "pooled" else donors.by_city


def _neighbours(
    donors: Donors, vectors: Float64, voting: Voting, indexes: Sequence[DonorIndex]
) -> tuple[Float64, Int64]:
    """Where a graph finds fewer groups than k, the rest are infinitely far, and no vote."""
    found = []
    for number, one in enumerate(electorates(donors, voting)):
        k = min(voting.k, one.n_groups)
        if indexes:
            distance, index = indexes[number].query(vectors, k, one.group)
        else:
            distance, index = nearest_donors(one.vectors, vectors, k, one.group)
        found.append((distance, one.rows[index]))
    distances, indices = zip(*found, strict=True)
    return np.concatenate(distances, axis=1), np.concatenate(indices, axis=1)


def _class_factor(donors: Donors, balance: float) -> Float64:
    """float64, (18,): by code, the number of its groups to the power ``-balance``."""
    factor: Float64 = np.maximum(donors.groups_of_class, 1).astype(np.float64) ** -balance
    return factor


def _shares(
    distance: Float64, weight: Float64, lcz: npt.NDArray[np.uint8], power: float
) -> Float64:
    exact = distance == 0
    nearest = distance.min(axis=1, keepdims=True)
    ratio = np.divide(nearest, distance, out=np.ones_like(distance), where=~exact)
    closeness = np.where(nearest == 0, exact, np.isfinite(distance) * ratio**power)
    votes = np.zeros((len(lcz), N_CLASSES))
    rows = np.arange(len(lcz))
    for neighbour in range(lcz.shape[1]):
        column = lcz[:, neighbour].astype(np.int64) - 1
        votes[rows, column] += closeness[:, neighbour] * weight[:, neighbour]
    shares: Float64 = votes / votes.sum(axis=1, keepdims=True)
    return shares
