"""Out-of-fold predictions: of each sample, by a model that saw nothing of its group."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from lczcube.errors import LabelError, ModelError
from lczcube.lcz import N_CLASSES, NODATA, require_codes

N_FOLDS = 5
"""Of whole groups, for what is learnt on some of them and asked of the others."""

MIN_GROUPS = 2
"""Below that nothing can be learnt on some groups and asked of another."""

Float32 = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """Predictions of samples whose class is known, checked.

    Attributes
    ----------
    probability : numpy.ndarray
        float32 in [0, 1], (n, 17): codes 1-17; no row holds NaN.
    lcz : numpy.ndarray
        uint8, (n,): the true class, 1-17.
    group : numpy.ndarray
        int64, (n,): number of the polygon, block or patch of the sample.
    """

    probability: Float32
    lcz: UInt8
    group: npt.NDArray[np.int64]

    @classmethod
    def of(cls, probability: Float32, lcz: npt.ArrayLike, groups: npt.ArrayLike) -> Self:
        """The samples that were predicted: rows that hold NaN are left out.

        Raises
        ------
        LabelError
            If a code is not 1-17, or fewer than two groups were predicted.
        ModelError
            If shapes do not fit, or a probability is outside 0-1.
        """
        codes, names = np.asarray(lcz), np.asarray(groups)
        _require_table(probability, codes)
        require_as_many(len(codes), names, "groups")
        _, group = np.unique(names, return_inverse=True)
        known = predicted(probability)
        _require_values(probability[known], group[known])
        return cls(
            np.ascontiguousarray(probability[known], dtype=np.float32),
            codes[known].astype(np.uint8),
            group[known].astype(np.int64),
        )

    @property
    def n_groups(self) -> int:
        """Different groups."""
        return int(np.unique(self.group).size)

    def take(self, rows: Rows) -> Self:
        """Some of the samples."""
        return type(self)(self.probability[rows], self.lcz[rows], self.group[rows])


def predicted(probability: Float32) -> npt.NDArray[np.bool_]:
    """Rows that hold no NaN: bool, (n,)."""
    return np.asarray(~np.isnan(probability).any(axis=1))


def is_unseen(
    probability: Float32, lcz: npt.ArrayLike, folds: npt.ArrayLike
) -> npt.NDArray[np.bool_]:
    """Samples of a class that the model of their fold had not seen: bool, (n,).

    Their class has the probability 0 in every row of the fold. They say what such a model cannot
    know, and nothing of one that knows all classes: leave them out.

    Parameters
    ----------
    probability : numpy.ndarray
        float32, (n, 17), out of fold.
    lcz : array_like of int
        (n,): true classes, 1-17.
    folds : array_like of int
        (n,): the fold that held each sample out.

    Raises
    ------
    LabelError
        If a code is not 1-17.
    ModelError
        If shapes do not fit.
    """
    codes, fold = np.asarray(lcz), np.asarray(folds)
    _require_table(probability, codes)
    require_as_many(len(codes), fold, "folds")
    unseen = np.zeros(len(codes), bool)
    for _, rows in each_held_out(fold):
        never = np.asarray((probability[rows] > 0).sum(axis=0) == 0)
        unseen[rows] = never[codes[rows] - 1]
    return unseen & predicted(probability)


def require_as_many(n: int, given: npt.NDArray[Any], what: str) -> None:
    """Raise unless there is one value a sample.

    Raises
    ------
    ModelError
        Naming what there is too little or too much of.
    """
    if given.shape != (n,):
        raise ModelError(
            f"{what} of shape {given.shape} for {n} samples; give one a sample, and leave out "
            "samples that were not predicted where every row must be."
        )


def group_folds(group: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """A fold, 0-4, of each sample: whole groups, folds of like size; the same each time."""
    from sklearn.model_selection import GroupKFold

    fold = np.zeros(len(group), np.int64)
    n_folds = min(N_FOLDS, int(np.unique(group).size))
    for number, (_, test) in enumerate(GroupKFold(n_folds).split(group, groups=group)):
        fold[test] = number
    return fold


def each_held_out(held_out: npt.NDArray[Any]) -> Iterator[tuple[Rows, Rows]]:
    """Rows of all other units, and rows of the unit, for each unit of ``held_out``."""
    for unit in np.unique(held_out):
        is_held = held_out == unit
        yield np.flatnonzero(~is_held), np.flatnonzero(is_held)


def _require_table(probability: Float32, lcz: npt.NDArray[Any]) -> None:
    if lcz.ndim != 1 or probability.shape != (len(lcz), N_CLASSES):
        raise ModelError(
            f"probabilities of shape {probability.shape}, labels of {lcz.shape}; they are "
            f"(n, {N_CLASSES}) and (n,)."
        )
    require_codes(lcz, where="out-of-fold samples")
    if (lcz == NODATA).any():
        raise LabelError(
            f"{int((lcz == NODATA).sum())} out-of-fold samples have code 0; give labelled ones."
        )


def _require_values(probability: Float32, group: npt.NDArray[np.intp]) -> None:
    if np.unique(group).size < MIN_GROUPS:
        raise LabelError(
            f"{np.unique(group).size} groups have out-of-fold predictions; confidence is learnt "
            f"on {MIN_GROUPS} or more. Cross-validate on more polygons, blocks or patches."
        )
    bad = probability[~((probability >= 0) & (probability <= 1 + 1e-5))]
    if bad.size:
        raise ModelError(f"probability {bad[0]:g} of an out-of-fold sample; it is in 0-1.")
