"""Label sets: the classes that a pixel may have, so that the true one is among them as promised.

Conformal prediction turns scores of samples whose class is known into a limit; a set holds every
class whose score is within it. The promise needs no assumption on the model, only that the groups
of a map are like those that were asked.

Samples of one polygon are alike, so they are not what is drawn at random: polygons are. Every group
therefore weighs the same, whatever its size, and one more group that is not there yet weighs as
much as each (hierarchical conformal prediction, Lee et al. 2023). What is promised is the chance
that the set of a random sample of a new group holds its class. Drawing one sample a group (Dunn et
al. 2022) promises the same and throws the others away.

References
----------
Romano, Y., Sesia, M., Candes, E. (2020): Classification with valid and adaptive coverage. NeurIPS,
arXiv:2006.02544 (aps). Angelopoulos, A. et al. (2021): Uncertainty sets for image classifiers using
conformal prediction. ICLR, arXiv:2009.14193 (raps). Sadinle, M., Lei, J., Wasserman, L. (2019):
Least ambiguous set-valued classifiers with bounded error levels. JASA 114, 223-234,
doi:10.1080/01621459.2017.1395341 (lac). Vovk, V. (2015): Cross-conformal predictors. Annals of
Mathematics and Artificial Intelligence 74, 9-28, doi:10.1007/s10472-013-9368-4. Dunn, R.,
Wasserman, L., Ramdas, A. (2022): Distribution-free prediction sets for two-layer hierarchical
models. JASA 118, 2491-2502, doi:10.1080/01621459.2022.2060112. Lee, Y., Barber, R. F., Willett, R.
(2023): Distribution-free inference with hierarchical data. arXiv:2306.06342.
"""

from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt

from lczcube.confidence.outoffold import Float32, OutOfFold, predicted
from lczcube.errors import ModelError
from lczcube.lcz import N_CLASSES
from lczcube.probability import TIE

Score = Literal["aps", "raps", "lac"]

PROMISE = 0.9

FREE_CLASSES = 3
"""raps: a set of so many classes costs nothing extra."""

PENALTY = 0.05
"""raps: what each further class adds to a score, whose scale is that of probabilities."""

_ROUNDING = 1e-12
"""Of a sum of weights."""

Float64 = npt.NDArray[np.float64]
UInt32 = npt.NDArray[np.uint32]


@dataclass(frozen=True, eq=False)
class LabelSets:
    """The limit of the scores of each class, and what it promises.

    Attributes
    ----------
    score : str
        How far a class is from being the answer, 0 for the winner. ``aps``: the probability of all
        classes above it; ``raps``: that, and 0.05 for each class beyond the third; ``lac``: one
        less its own probability.
    promise : float
        Share of the sets that hold the true class, in (0, 1).
    limit : numpy.ndarray
        float64, (17,): most that the score of a class in a set may be; inf where groups are too
        few for the promise.
    is_class : numpy.ndarray
        bool, (17,): classes that the model can predict; no other is ever in a set.
    n_groups : int
        Groups that the limits were learnt from.
    own_limit : tuple of int
        Codes whose limit was learnt from their own samples: the promise then holds for that class.
    """

    score: Score
    promise: float
    limit: Float64
    is_class: npt.NDArray[np.bool_]
    n_groups: int
    own_limit: tuple[int, ...] = ()

    @classmethod
    def fit(
        cls,
        probability: Float32,
        lcz: npt.ArrayLike,
        groups: npt.ArrayLike,
        *,
        promise: float = PROMISE,
        score: Score = "aps",
        classwise: bool = False,
    ) -> Self:
        """The limits under which sets of out-of-fold predictions hold the true class as promised.

        Parameters
        ----------
        probability : numpy.ndarray
            float32 in [0, 1], (n, 17), out of fold; calibrated, by other samples, if the map's are.
            Rows with NaN are left out.
        lcz : array_like of int
            (n,): true classes, 1-17.
        groups : array_like
            (n,): polygon, block or patch of each sample; names are not shared between cities.
        promise : float
            In (0, 1). Default 0.9.
        score : str
            ``aps`` (default): sets grow where the model is unsure; ``raps``: fewer very large
            sets; ``lac``: the smallest on average, which pays for it where the model is unsure.
        classwise : bool
            A limit for each class (Mondrian) whose own groups are enough for the promise, 9 for
            0.9; the others share that of all samples. Default False: the promise is then kept over
            all classes together, and rare ones may get less.

        Raises
        ------
        LabelError
            If a code is not 1-17, or fewer than two groups were predicted.
        ModelError
            If the score is unknown, the promise not in (0, 1), or probabilities do not fit.

        Notes
        -----
        The limits are learnt on models of the folds, and used with one that saw all samples
        (cross-conformal, Vovk 2015): where that one is better, sets hold the truth more often than
        promised. In theory a promise of 0.9 could fall to 0.8; no such case is known in practice.

        The winner has the score 0 in calibration and in the map, so that no set is empty and the
        limit reckons with it; no random number is drawn.
        """
        require_settings(promise, score)
        held = OutOfFold.of(probability, lcz, groups)
        return cls.of(held, promise=promise, score=score, classwise=classwise)

    @classmethod
    def of(cls, held: OutOfFold, *, promise: float, score: Score, classwise: bool) -> Self:
        """As :meth:`fit`, of predictions and settings that were checked."""
        scores = class_scores(held.probability, score)
        reached = scores[np.arange(len(held.lcz)), held.lcz - 1].astype(np.float64)
        limit = np.full(N_CLASSES, grouped_quantile(reached, held.group, promise))
        own = _own_limits(reached, held, promise) if classwise else {}
        for code, value in own.items():
            limit[code - 1] = value
        return cls(
            score=score,
            promise=promise,
            limit=limit,
            is_class=np.asarray((held.probability > 0).any(axis=0)),
            n_groups=held.n_groups,
            own_limit=tuple(own),
        )

    def sets(self, probability: Float32) -> UInt32:
        """The classes that each pixel may have.

        Parameters
        ----------
        probability : numpy.ndarray
            float32 in [0, 1], (n, 17), calibrated as those of :meth:`fit`.

        Returns
        -------
        numpy.ndarray
            uint32, (n,): bit ``code - 1`` is set for each class; 0 only where a row holds NaN.
        """
        member = class_scores(probability, self.score) <= self.limit
        member &= self.is_class | (probability >= _best(probability))
        return as_bits(member & predicted(probability)[:, None])


def as_bits(member: npt.NDArray[np.bool_]) -> UInt32:
    """Classes, bool (n, 17), as bits ``code - 1``, uint32 (n,)."""
    bits = np.zeros(len(member), np.uint32)
    for index in range(N_CLASSES):
        bits |= member[:, index].astype(np.uint32) << np.uint32(index)
    return bits


def holds(sets: UInt32, lcz: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Whether each set holds a class, 1-17: bool, (n,)."""
    code = np.asarray(lcz).astype(np.uint32)
    held: npt.NDArray[np.bool_] = (sets >> (code - np.uint32(1))) & np.uint32(1) == 1
    return held


def class_scores(probability: Float32, score: Score) -> Float32:
    """How far each class is from being the answer, float32 (n, 17); 0 for the winner.

    Classes within 1e-6 of the best are all winners, as the map's class is the first of them.
    """
    scores = 1 - probability if score == "lac" else _mass_above(probability, score)
    scores[probability >= _best(probability)] = 0
    return scores


def grouped_quantile(scores: Float64, groups: npt.NDArray[Any], level: float) -> float:
    """The score within which a new group's samples are with a chance of at least ``level``.

    Parameters
    ----------
    scores : numpy.ndarray
        float64, (n,).
    groups : numpy.ndarray
        (n,): whose sample it is.
    level : float
        In (0, 1).

    Returns
    -------
    float
        The least score that samples of a weight of ``level`` do not exceed. Each of K groups weighs
        ``1 / (K + 1)``, shared by its samples; the rest is a new group's, and infinitely far: inf
        where K is below ``level / (1 - level)``.
    """
    _, owner, size = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.argsort(scores, kind="stable")
    weight = 1 / (size[owner[order]] * (len(size) + 1.0))
    at = int(np.searchsorted(weight.cumsum(), level - _ROUNDING))
    return float(scores[order[at]]) if at < len(scores) else float("inf")


def require_settings(promise: float, score: str) -> None:
    """Raise unless label sets can be made with that promise and score.

    Raises
    ------
    ModelError
        If the promise is not in (0, 1), or the score unknown.
    """
    if not 0 < promise < 1:
        raise ModelError(
            f"label sets with a promise of {promise}: it is a share between 0 and 1, such as 0.9."
        )
    if score not in get_args(Score):
        raise ModelError(f"score {score!r} is unknown; it is one of {', '.join(get_args(Score))}.")


def _own_limits(scores: Float64, held: OutOfFold, promise: float) -> dict[int, float]:
    own = {}
    for code in np.unique(held.lcz).tolist():
        rows = held.lcz == code
        limit = grouped_quantile(scores[rows], held.group[rows], promise)
        if np.isfinite(limit):
            own[code] = limit
    return own


def _best(probability: Float32) -> Float32:
    """Least probability of a winner, (n, 1)."""
    least: Float32 = probability.max(axis=1, keepdims=True) - np.float32(TIE)
    return least


def _mass_above(probability: Float32, score: Score) -> Float32:
    """Probability of all classes above each, of equals of those with a lower code."""
    order = np.argsort(-probability, axis=1, kind="stable")
    ranked = np.take_along_axis(probability, order, axis=1)
    above = ranked.cumsum(axis=1, dtype=np.float32) - ranked
    if score == "raps":
        beyond = np.maximum(np.arange(1, N_CLASSES + 1) - FREE_CLASSES, 0)
        above += (PENALTY * beyond).astype(np.float32)
    scores = np.empty_like(above)
    np.put_along_axis(scores, order, above, axis=1)
    return scores
