"""Calibration: from the share of a vote to the chance that it is right, learnt where labels are.

Donors are held out, in whole polygons, blocks or cities, and the others vote on them. Two numbers
are learnt from how those votes fare: a temperature, and how much of the chance is spread evenly
over all classes. The winner of a vote stays the winner.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from lczcube.errors import LabelError
from lczcube.labels.origins import is_by_rule
from lczcube.labels.splits import split_labels
from lczcube.metrics import N_BINS as METRIC_BINS
from lczcube.metrics import calibration_error, confidence_bins
from lczcube.propagate.donors import Donors
from lczcube.propagate.votes import Votes, Voting, cast_votes
from lczcube.tables import Interval, percentile_interval

HoldOut = Literal["polygon", "block", "city"]

N_FOLDS = 5
MAX_ROWS = 5000
"""Held-out donors that are voted on; two parameters need no more."""

MIN_GROUPS = 10
"""Groups of donors below which nothing can be held out that says much."""

MIN_OF_A_CLASS = 2
"""Donors that some class must have: of one alone nobody is left when it is held out."""

N_BINS = 10
"""Of the reliability table."""

N_DRAWS = 1000
"""Of the bootstrap over groups."""

FLOOR = 1e-9
"""Least probability that the likelihood reckons with."""

_DRAWN_AT_ONCE = 1 << 22
"""Counts of groups in memory while the bootstrap draws."""

Float64 = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Calibration:
    """Turns shares of a vote into probabilities: ``(1 - mix) softmax(log(share) / T) + mix / n``.

    Attributes
    ----------
    temperature : float
        T, above 0; 1 leaves the shares.
    mix : float
        In [0, 1): what is spread evenly over the classes that have a donor.
    is_class : numpy.ndarray
        bool, (17,): those classes.
    """

    temperature: float
    mix: float
    is_class: npt.NDArray[np.bool_]

    def apply(self, shares: Float64) -> Float64:
        """Probabilities, float64, (query, 17), of shares."""
        return _probabilities(shares, self.temperature, self.mix, self.is_class)


@dataclass(frozen=True)
class HeldOut:
    """Votes on donors by others.

    Attributes
    ----------
    method : str
        What was held out whole: ``polygon``, ``block`` or ``city``.
    votes : Votes
        On every row; ``donor`` counts among the donors of its fold.
    lcz : numpy.ndarray
        uint8, (row,): the true class.
    group, fold : numpy.ndarray
        int64, (row,): its group, and the fold that held it out.
    n_donors : int
        Of all donors, from which the rows were drawn.
    """

    method: str
    votes: Votes
    lcz: npt.NDArray[np.uint8]
    group: npt.NDArray[np.int64]
    fold: npt.NDArray[np.int64]
    n_donors: int

    @property
    def is_right(self) -> npt.NDArray[np.bool_]:
        """bool, (row,): whether the vote is right."""
        right: npt.NDArray[np.bool_] = self.votes.lcz == self.lcz
        return right


@dataclass(frozen=True)
class Reliability:
    """How far confidence is from the share that is right, before and after calibration.

    Attributes
    ----------
    method, n_rows, n_groups
        What was held out, donors that were voted on, and their groups.
    accuracy : float
        Share of the votes that are right, 0-1.
    error_raw, error_calibrated : float
        Expected calibration error, 0-1; the second by calibrations that never saw the fold they
        are applied to.
    interval_raw, interval_calibrated : tuple of float or None
        Their 95 % intervals by a bootstrap over groups.
    bins : tuple of dict
        By ``stage`` (``raw``, ``calibrated``) and bin of confidence: ``low``, ``high``, ``n``,
        ``confidence`` and ``right``, means of the rows in it.
    """

    method: str
    n_rows: int
    n_groups: int
    accuracy: float
    error_raw: float
    error_calibrated: float
    interval_raw: Interval | None
    interval_calibrated: Interval | None
    bins: tuple[dict[str, float | str], ...]

    def __str__(self) -> str:
        return (
            f"calibration error {self.error_raw:.3f} raw, {self.error_calibrated:.3f} calibrated "
            f"({self.n_rows} donors of {self.n_groups} groups, {self.method} held out)"
        )


def hold_out_method(donors: Donors, city: str | None, split: str) -> HoldOut | None:
    """What to hold out so that held-out donors are as far from the others as the cells of a city.

    Parameters
    ----------
    donors : Donors
        Of all cities.
    city : str or None
        Whose cells are asked about.
    split : str
        How the run splits its labels.

    Returns
    -------
    str or None
        ``city`` where the city has no donor of its own and two others have; else the split of the
        run if it is ``block`` or ``polygon``; else ``block`` for squares and ``polygon`` for
        polygons. None with too few groups.
    """
    n_groups, most = _labelled(donors.table)
    if n_groups < MIN_GROUPS or most < MIN_OF_A_CLASS:
        return None
    cities = donors.city[~is_by_rule(donors.table)]
    if city is not None and city not in cities and np.unique(cities).size > 1:
        return "city"
    if split == "block" or (split != "polygon" and _are_patches(donors)):
        return "block"
    return "polygon"


def whole_folds(
    frame: pd.DataFrame, method: HoldOut, *, seed: int
) -> tuple[str, list[tuple[Rows, Rows]]]:
    """What is held out, and of each fold the rows that vote and the rows that are voted on.

    Five folds of whole blocks or polygons, or one a city. Where there are too few blocks polygons
    are held out; of few labels there are fewer folds. At most 5,000 rows are voted on, none by
    rule; a fold that lacks one of the two is left out.
    """
    # A stratified split wants a class that has a row for every fold.
    n_folds = max(2, min(N_FOLDS, *_labelled(frame)))
    try:
        split = split_labels(frame, method=method, folds=n_folds, seed=seed)
    except LabelError:
        if method != "block":
            raise
        split = split_labels(frame, method="polygon", folds=n_folds, seed=seed)
    asked = _drawn(frame, seed)
    folds = [split.train_test(fold) for fold in range(split.n_folds)]
    drawn = [(train, test[asked[test]]) for train, test in folds]
    return split.method, [(train, test) for train, test in drawn if len(train) and len(test)]


def held_out_votes(donors: Donors, voting: Voting, *, method: HoldOut, seed: int = 0) -> HeldOut:
    """Votes on donors by those of other polygons, blocks or cities; none on labels by rule.

    Parameters
    ----------
    donors : Donors
        All.
    voting : Voting
        As it will be used.
    method : str
        ``polygon`` or ``block``: five folds of whole ones; ``city``: one a city. Blocks need room:
        where there are fewer than folds, polygons are held out.
    seed : int
        Of the folds and of the rows. Default 0.

    Raises
    ------
    LabelError
        If nothing can be held out that way.
    """
    try:
        held_out, folds = whole_folds(donors.table, method, seed=seed)
    except LabelError as error:
        raise LabelError(
            f'calibrate = "{method}" in [propagate]: {error} Or use "auto".'
        ) from error
    if not folds:
        raise LabelError(f"no donor can be held out by {method}; give donors of more groups.")
    rows = [test for _, test in folds]
    parts = [cast_votes(donors.take(train), donors.vectors[test], voting) for train, test in folds]
    at = np.concatenate(rows)
    return HeldOut(
        method=held_out,
        votes=Votes(
            np.concatenate([part.shares for part in parts]),
            np.concatenate([part.distance for part in parts]),
            np.concatenate([part.donor for part in parts]),
        ),
        lcz=donors.lcz[at],
        group=donors.group[at],
        fold=np.repeat(np.arange(len(rows)), [len(part) for part in rows]),
        n_donors=len(donors.lcz),
    )


def fit_calibration(held: HeldOut, is_class: npt.NDArray[np.bool_]) -> Calibration:
    """The temperature and the mix under which the true classes are most likely.

    Parameters
    ----------
    held : HeldOut
        Votes whose truth is known.
    is_class : numpy.ndarray
        bool, (17,): classes that have a donor.
    """
    return _fit(held.votes.shares, held.lcz, is_class)


def reliability(held: HeldOut, is_class: npt.NDArray[np.bool_], *, seed: int = 0) -> Reliability:
    """Calibration error before and after, each fold calibrated by the others."""
    after = cross_fitted(held, is_class).max(axis=1)
    return reliability_of(
        held.votes.top, after, held.is_right, held.group, method=held.method, seed=seed
    )


def reliability_of(
    raw: Float64,
    after: Float64,
    right: npt.NDArray[np.bool_],
    group: npt.NDArray[Any],
    *,
    method: str,
    right_after: npt.NDArray[np.bool_] | None = None,
    seed: int = 0,
) -> Reliability:
    """What two confidences of the same rows, before and after calibration, are worth.

    Parameters
    ----------
    raw, after : numpy.ndarray
        float64 in [0, 1], (row,).
    right : numpy.ndarray
        bool, (row,): whether the row is right.
    group : numpy.ndarray
        (row,): what the bootstrap draws whole.
    method : str
        What was held out.
    right_after : numpy.ndarray, optional
        bool, (row,): whether the row is right after calibration. Default: as before.
    seed : int
        Of the bootstrap. Default 0.
    """
    later = right if right_after is None else right_after
    return Reliability(
        method=method,
        n_rows=len(right),
        n_groups=int(np.unique(group).size),
        accuracy=float(right.mean()),
        error_raw=calibration_error(raw, right),
        error_calibrated=calibration_error(after, later),
        interval_raw=bootstrap_error(raw, right, group, seed=seed),
        interval_calibrated=bootstrap_error(after, later, group, seed=seed),
        bins=(*reliability_bins("raw", raw, right), *reliability_bins("calibrated", after, later)),
    )


def cross_fitted(held: HeldOut, is_class: npt.NDArray[np.bool_]) -> Float64:
    """Probabilities of held-out rows, (row, 17), each fold's calibration learnt on the others."""
    probability = np.empty_like(held.votes.shares)
    for fold in np.unique(held.fold):
        test = held.fold == fold
        train = ~test if not test.all() else test
        fitted = _fit(held.votes.shares[train], held.lcz[train], is_class)
        probability[test] = fitted.apply(held.votes.shares[test])
    return probability


def bootstrap_error(
    confidence: Float64,
    right: npt.NDArray[np.bool_],
    group: npt.NDArray[Any],
    *,
    seed: int = 0,
) -> Interval | None:
    """95 % interval of the calibration error, by drawing whole groups; None of one group."""
    _, owner = np.unique(group, return_inverse=True)
    n_groups = int(owner.max()) + 1
    if n_groups < 2:
        return None
    excess = np.zeros((n_groups, METRIC_BINS))
    np.add.at(excess, (owner, confidence_bins(confidence)), right - confidence)
    sizes, rng = np.bincount(owner), np.random.default_rng(seed)
    draws = np.empty(N_DRAWS)
    step = max(1, _DRAWN_AT_ONCE // n_groups)
    for start in range(0, N_DRAWS, step):
        part = slice(start, min(start + step, N_DRAWS))
        drawn = rng.multinomial(
            n_groups, np.full(n_groups, 1 / n_groups), size=part.stop - part.start
        )
        draws[part] = np.abs(drawn @ excess).sum(axis=1) / (drawn @ sizes)
    return percentile_interval(draws)


def reliability_bins(
    stage: str, confidence: Float64, right: npt.NDArray[np.bool_]
) -> list[dict[str, float | str]]:
    """Bins of confidence, of rows that are right or not: what :class:`Reliability` holds."""
    number = confidence_bins(confidence, N_BINS)
    return [
        {
            "stage": stage,
            "low": one / N_BINS,
            "high": (one + 1) / N_BINS,
            "n": int((number == one).sum()),
            "confidence": float(confidence[number == one].mean()),
            "right": float(right[number == one].mean()),
        }
        for one in np.unique(number).tolist()
    ]


def _drawn(frame: pd.DataFrame, seed: int) -> npt.NDArray[np.bool_]:
    """At most 5,000 of the rows that somebody labelled, bool, (row,)."""
    labelled = np.flatnonzero(~is_by_rule(frame))
    drawn = np.zeros(len(frame), bool)
    drawn[np.random.default_rng(seed).permutation(labelled)[:MAX_ROWS]] = True
    return drawn


def _labelled(frame: pd.DataFrame) -> tuple[int, int]:
    """Groups of rows that somebody labelled, and rows of their most frequent class."""
    labels = frame[~is_by_rule(frame)]
    n_groups = len(labels[["city", "group"]].drop_duplicates())
    return n_groups, int(labels["lcz"].value_counts().max()) if n_groups else 0


def _are_patches(donors: Donors) -> bool:
    """Whether most groups are single squares or a few that overlap, as So2Sat's."""
    n_groups, _ = _labelled(donors.table)
    return 2 * n_groups > int((~is_by_rule(donors.table)).sum())


def _fit(
    shares: Float64, lcz: npt.NDArray[np.uint8], is_class: npt.NDArray[np.bool_]
) -> Calibration:
    from scipy.optimize import minimize

    rows = np.arange(len(lcz))

    def loss(point: Float64) -> float:
        probability = _probabilities(shares, *_natural(point), is_class)
        return float(-np.log(np.maximum(probability[rows, lcz - 1], FLOOR)).mean())

    starts = ((0.0, -2.0), (1.0, -1.0))
    found = [minimize(loss, start, method="Nelder-Mead") for start in starts]
    return Calibration(*_natural(min(found, key=lambda one: float(one.fun)).x), is_class)


def _natural(point: Float64) -> tuple[float, float]:
    """Temperature, 0.05 to 20, and mix of a point of the plane that is searched."""
    log_temperature, logit = np.clip(point, (-3.0, -12.0), (3.0, 6.0))
    return float(np.exp(log_temperature)), float(1 / (1 + np.exp(-logit)))


def _probabilities(
    shares: Float64, temperature: float, mix: float, is_class: npt.NDArray[np.bool_]
) -> Float64:
    mixed: Float64 = (1 - mix) * sharpened(shares, temperature) + mix * is_class / is_class.sum()
    return mixed


def sharpened(shares: npt.NDArray[Any], temperature: float) -> npt.NDArray[Any]:
    """``softmax(log(share) / temperature)`` of each row, (row, 17), in the dtype of the shares."""
    powers = (shares / shares.max(axis=1, keepdims=True)) ** (1 / temperature)
    scaled: npt.NDArray[Any] = powers / powers.sum(axis=1, keepdims=True)
    return scaled
