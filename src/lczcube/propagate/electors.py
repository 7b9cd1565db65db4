"""Electors: donors that vote, and what a vote of theirs is worth."""

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from lczcube.neighbours import DonorIndex
from lczcube.propagate.calibration import (
    Calibration,
    HeldOut,
    fit_calibration,
    held_out_votes,
    hold_out_method,
)
from lczcube.propagate.cuts import novelty_limit
from lczcube.propagate.donors import Donors
from lczcube.propagate.space import Cities
from lczcube.propagate.votes import Votes, Voting, cast_votes

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Electors:
    """Who votes, how, and how a vote becomes a confidence.

    Attributes
    ----------
    donors : Donors
        Who votes.
    voting : Voting
        How.
    calibration : Calibration or None
        None takes the share of the vote for the confidence.
    limit : float
        Distance beyond which a cell is novel and abstains.
    indexes : tuple of DonorIndex
        That the donors are searched by, from :func:`electorates`; none compares with all.
    """

    donors: Donors
    voting: Voting = field(default_factory=Voting)
    calibration: Calibration | None = None
    limit: float = float("inf")
    indexes: tuple[DonorIndex, ...] = ()

    def vote(self, features: npt.NDArray[np.floating], city: str | Cities) -> tuple[Votes, Float64]:
        """Votes on features, of one city or a city each, and probabilities, (query, 17)."""
        vectors = self.donors.space.vectors(features, city)
        votes = cast_votes(self.donors, vectors, self.voting, self.indexes)
        shares = votes.shares
        return votes, shares if self.calibration is None else self.calibration.apply(shares)

    def to_ship(self) -> "Electors":
        """The same without what indexes hold anyway: light to send to the workers of a cluster."""
        return replace(self, donors=self.donors.without_vectors()) if self.indexes else self


def appoint(
    donors: Donors,
    voting: Voting,
    *,
    city: str | None,
    split: str,
    calibrate: Literal["auto", "polygon", "block", "city", "none"] = "auto",
    novelty: float = 0.99,
    seed: int = 0,
) -> tuple[Electors, HeldOut | None]:
    """Electors that know what their votes are worth, from donors held out of each other.

    Parameters
    ----------
    donors : Donors
        Who votes.
    voting : Voting
        How.
    city : str or None
        Whose cells will be voted on; None where donors are near all of them.
    split : str
        How the run splits its labels; see :func:`hold_out_method`.
    calibrate : str
        ``auto``, what to hold out, or ``none``, which takes shares of the vote for confidence.
    novelty : float
        As :func:`novelty_limit` takes it. Default 0.99.
    seed : int
        Of the folds. Default 0.

    Returns
    -------
    Electors
        With too few groups to hold any out: not calibrated, and without a limit.
    HeldOut or None
        What they learnt from.
    """
    own = hold_out_method(donors, city, split)
    method = own if calibrate == "auto" or calibrate == "none" else calibrate
    if method is None:
        return Electors(donors, voting), None
    held = held_out_votes(donors, voting, method=method, seed=seed)
    calibration = None if calibrate == "none" else fit_calibration(held, donors.is_class)
    return Electors(donors, voting, calibration, novelty_limit(held.votes.distance, novelty)), held
