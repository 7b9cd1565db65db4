"""An agreement: what it was measured on, how sure it is, and what its two sides share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from lczcube.agreement.tally import Amounts, Tally
from lczcube.errors import ConfigError
from lczcube.lcz import N_CLASSES
from lczcube.metrics import (
    Confusion,
    Values,
    built_natural_accuracy,
    class_f1,
    kappa,
    overall_accuracy,
    weighted_accuracy,
    weighted_kappa,
)
from lczcube.tables import Interval, percentile_interval, plain

AgreementUnit = Literal["pixel", "polygon", "m2"]

UNITS: tuple[str, ...] = get_args(AgreementUnit)

FEW_GROUPS = 10
"""With fewer groups the percentiles of a bootstrap are known to lie too close together."""


def mean_f1(confusion: Confusion) -> Values:
    """F1, mean over the classes that either side gives: the same whichever side comes first."""
    f1 = class_f1(confusion)
    n = (~np.isnan(f1)).sum(axis=-1)
    return np.where(n > 0, np.nansum(f1, axis=-1) / np.maximum(n, 1), np.nan)


METRICS = {
    "oa": overall_accuracy,
    "oa_w": weighted_accuracy,
    "oa_bu": built_natural_accuracy,
    "kappa": kappa,
    "kappa_w": weighted_kappa,
    "mean_f1": mean_f1,
}
"""By name, in the order of tables. All are symmetric: neither side is the reference."""


@dataclass(frozen=True)
class Pair:
    """The two sides of an agreement.

    Attributes
    ----------
    first, second : str
        What they are called.
    dependence : str
        What they share, in a sentence: "the map was trained on labels such as these". If they share
        nothing, say that, and why you think so.

    Raises
    ------
    ConfigError
        If a name or the dependence is empty, or both names are the same.
    """

    first: str
    second: str
    dependence: str

    def __post_init__(self) -> None:
        if not self.first.strip() or not self.second.strip() or self.first == self.second:
            raise ConfigError(
                f"names {self.first!r} and {self.second!r}: an agreement names its two sides apart."
            )
        if not self.dependence.strip():
            raise ConfigError(
                f"the dependence of {self.first} and {self.second} is empty; say what they share "
                "(training labels, images, hands), or that they share nothing."
            )


@dataclass(frozen=True, eq=False)
class Agreement:
    """How far two answers agree, where both give one. It is no score: neither is the reference.

    Attributes
    ----------
    pair : Pair
        The two sides, and what they share.
    unit : str
        What is counted: ``pixel``, ``polygon`` or ``m2``.
    city : str
        Where; empty if not said.
    n : float
        Units in which both give a class.
    shared : float or None
        ``n`` over the units in which either gives one; of a map and labels, over the units of the
        labels. None if there is none.
    n_groups, group_noun : int, str
        What the bootstrap draws from.
    metrics : mapping of str to float or None
        ``oa``, ``oa_w``, ``oa_bu``, ``kappa``, ``kappa_w`` and ``mean_f1``, over ``n``; None where
        not defined.
    f1 : mapping of int to float
        By code, of the classes that either gives over ``n``; precision of one side is recall of the
        other.
    confusion : numpy.ndarray
        float64, shape (17, 17): rows the first, columns the second, codes 1-17, in units.
    intervals : mapping of str to tuple or None
        By metric: 95 % interval of the bootstrap over groups. None with fewer than two groups.
    remarks : tuple of str
        What else a reader must know, a sentence each.
    n_identical, n_smaller : int or None
        Of two sets of labels: polygons of the smaller set that are in the other too, and polygons
        of the smaller set. Otherwise None.
    n_boot, seed : int
        Draws of the bootstrap, and their seed.
    """

    pair: Pair
    unit: str
    city: str
    n: float
    shared: float | None
    n_groups: int
    group_noun: str
    metrics: Mapping[str, float | None]
    f1: Mapping[int, float]
    confusion: npt.NDArray[np.float64]
    intervals: Mapping[str, Interval | None]
    remarks: tuple[str, ...]
    n_identical: int | None
    n_smaller: int | None
    n_boot: int
    seed: int

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ConfigError(f"unit = {self.unit!r}; an agreement is per {', '.join(UNITS)}.")

    @property
    def oa(self) -> float | None:
        """Share of the units in which both give the same class."""
        return self.metrics["oa"]

    @property
    def identical_share(self) -> float | None:
        """Share of the smaller set of labels that is in the other too; None but for labels."""
        if self.n_identical is None or not self.n_smaller:
            return None
        return self.n_identical / self.n_smaller

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: keys sorted, floats rounded to 6 digits."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        values["pair"] = vars(self.pair)
        values["f1"] = {str(code): value for code, value in self.f1.items()}
        values["confusion"] = self.confusion.tolist()
        values["identical_share"] = self.identical_share
        made: dict[str, Any] = plain(values)
        return made


@dataclass(frozen=True, eq=False)
class CityAgreements:
    """The same two sides in several cities, city by city and together.

    Attributes
    ----------
    cities : mapping of str to Agreement
        By city.
    pooled : Agreement
        All units of all cities: large cities weigh more. Its interval is over the blocks of these
        cities, and says nothing of another city.
    """

    cities: Mapping[str, Agreement]
    pooled: Agreement

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        cities = {city: self.cities[city].to_dict() for city in sorted(self.cities)}
        return {"cities": cities, "pooled": self.pooled.to_dict()}


@dataclass(frozen=True)
class Measured:
    """What a tally was counted on, for :func:`agreement_of`."""

    unit: AgreementUnit
    group_noun: str
    city: str = ""
    remarks: tuple[str, ...] = ()
    n_identical: int | None = None
    n_smaller: int | None = None


def agreement_of(
    tally: Tally, pair: Pair, measured: Measured, *, n_boot: int, seed: int
) -> Agreement:
    """The agreement of a tally, with a bootstrap over its groups."""
    if n_boot < 0:
        raise ConfigError(f"n_boot = {n_boot}; give 0 draws for no intervals, or more.")
    counts = tally.confusion()
    shared = counts[1:, 1:]
    n, n_either = float(shared.sum()), float(counts.sum() - counts[0, 0])
    f1 = class_f1(_scored(shared))
    draws = _metrics(tally.draws(n_boot=n_boot, seed=seed))
    return Agreement(
        pair=pair,
        unit=measured.unit,
        city=measured.city,
        n=n,
        shared=n / n_either if n_either else None,
        n_groups=tally.n_groups,
        group_noun=measured.group_noun,
        metrics={
            name: None if np.isnan(value) else float(value)
            for name, value in _metrics(shared).items()
        },
        f1={i + 1: float(f1[i]) for i in range(N_CLASSES) if not np.isnan(f1[i])},
        confusion=shared,
        intervals={name: percentile_interval(values) for name, values in draws.items()},
        remarks=(*measured.remarks, *_remarks(n, tally.n_groups, measured.group_noun)),
        n_identical=measured.n_identical,
        n_smaller=measured.n_smaller,
        n_boot=n_boot,
        seed=seed,
    )


def _remarks(n: float, n_groups: int, group_noun: str) -> tuple[str, ...]:
    if n == 0:
        return ("There is no ground for which both give a class.",)
    if n_groups >= FEW_GROUPS:
        return ()
    if n_groups == 1:
        return ("All of it is one piece of evidence, and gives no interval.",)
    return (f"{n_groups} {group_noun} are few: what is not known is more than the brackets say.",)


def _scored(shared: Amounts) -> Confusion:
    """As :data:`lczcube.metrics.Confusion` has it: a column of units without a prediction first."""
    return np.insert(shared, 0, 0.0, axis=-1)


def _metrics(shared: Amounts) -> dict[str, Values]:
    """Metrics of matrices ``(..., 17, 17)``, each of shape ``(...)``."""
    confusion = _scored(shared)
    return {name: metric(confusion) for name, metric in METRICS.items()}
