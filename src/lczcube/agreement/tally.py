"""How often, or on how much ground, two answers give which pair of codes, group by group."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from lczcube.lcz import N_CLASSES

N_CODES = N_CLASSES + 1

Indices = npt.NDArray[np.int64]
Amounts = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Tally:
    """Sparse: ``amount`` of ``group`` has the codes that ``entry`` numbers.

    Attributes
    ----------
    group : numpy.ndarray
        int64; what the bootstrap draws. Groups in which both sides give a class are 0 ... n-1, all
        else is -1.
    entry : numpy.ndarray
        int64: the first code times 18 plus the second; 0 is no data.
    amount : numpy.ndarray
        float64: units, or m2.
    """

    group: Indices
    entry: Indices
    amount: Amounts

    @classmethod
    def of(cls, group: npt.ArrayLike, entry: npt.ArrayLike, amount: npt.ArrayLike) -> Self:
        """Amounts of one group and entry added up, in an order that does not depend on theirs."""
        groups, entries = np.asarray(group, np.int64), np.asarray(entry, np.int64)
        groups = np.where(is_shared(entries), groups, -1)
        known, numbers = np.unique(groups, return_inverse=True)
        if known.size and known[0] == -1:
            numbers = numbers - 1
        keys, rows = np.unique(numbers * N_CODES**2 + entries, return_inverse=True)
        total = np.bincount(rows, np.asarray(amount, np.float64), keys.size).astype(np.float64)
        return cls(keys // N_CODES**2, keys % N_CODES**2, total)

    @classmethod
    def joined(cls, tallies: Sequence[Self]) -> Self:
        """Several tallies as one; a group of one is no group of another."""
        starts = np.cumsum([0, *(tally.n_groups for tally in tallies)])
        groups = [
            np.where(tally.group < 0, -1, tally.group + start)
            for tally, start in zip(tallies, starts[:-1], strict=True)
        ]
        entries, amounts = ([getattr(t, name) for t in tallies] for name in ("entry", "amount"))
        return cls.of(np.concatenate(groups), np.concatenate(entries), np.concatenate(amounts))

    @property
    def n_groups(self) -> int:
        """Groups in which both sides give a class."""
        return int(self.group.max(initial=-1)) + 1

    def confusion(self) -> Amounts:
        """Amounts of all pairs of codes 0-17, shape (18, 18)."""
        filled = np.bincount(self.entry, weights=self.amount, minlength=N_CODES**2)
        return filled.astype(np.float64).reshape(N_CODES, N_CODES)

    def draws(self, *, n_boot: int, seed: int) -> Amounts:
        """Amounts of pairs of codes 1-17, (draw, 17, 17); a lone group is not drawn."""
        shared = self.group >= 0
        group, entry, amount = self.group[shared], self.entry[shared], self.amount[shared]
        n_draws = n_boot if self.n_groups > 1 else 0
        rng = np.random.default_rng(seed)
        drawn = np.empty((n_draws, N_CODES**2))
        for draw in range(n_draws):
            groups = rng.integers(self.n_groups, size=self.n_groups)
            times = np.bincount(groups, minlength=self.n_groups)[group]
            drawn[draw] = np.bincount(entry, weights=amount * times, minlength=N_CODES**2)
        return drawn.reshape(n_draws, N_CODES, N_CODES)[:, 1:, 1:]


def is_shared(entry: Indices) -> npt.NDArray[np.bool_]:
    """Whether both codes of an entry are classes."""
    return (entry // N_CODES > 0) & (entry % N_CODES > 0)
