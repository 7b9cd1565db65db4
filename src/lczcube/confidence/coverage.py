"""What label sets hold of what they promise: over all samples, by city, by class."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from lczcube.confidence.labelsets import (
    PROMISE,
    LabelSets,
    Score,
    UInt32,
    holds,
    require_settings,
)
from lczcube.confidence.outoffold import (
    Float32,
    OutOfFold,
    each_held_out,
    group_folds,
    require_as_many,
)
from lczcube.tables import Interval, markdown_table, percentile_interval, with_interval

N_DRAWS = 1000
"""Of the bootstrap over groups."""

COLUMNS = (
    "by",
    "name",
    "n",
    "n_groups",
    "coverage",
    "coverage_of_groups",
    "low",
    "high",
    "gap",
    "mean_size",
    "single",
)


def held_out_sets(
    probability: Float32,
    lcz: npt.ArrayLike,
    groups: npt.ArrayLike,
    *,
    held_out: npt.ArrayLike | None = None,
    promise: float = PROMISE,
    score: Score = "aps",
    classwise: bool = False,
) -> UInt32:
    """The set of each sample by limits that were learnt on the others.

    Parameters
    ----------
    probability, lcz, groups, promise, score, classwise
        As in :meth:`LabelSets.fit`; every row is predicted.
    held_out : array_like, optional
        (n,): the unit whose sets the others make. Cities say what the sets are worth in a city that
        was never asked. Default: five folds of whole groups.

    Returns
    -------
    numpy.ndarray
        uint32, (n,): bit ``code - 1`` of each class.

    Raises
    ------
    LabelError, ModelError
        As :meth:`LabelSets.fit`; or if there are not as many units as samples.
    """
    require_settings(promise, score)
    held = OutOfFold.of(probability, lcz, groups)
    units = group_folds(held.group) if held_out is None else np.asarray(held_out)
    require_as_many(len(held.lcz), units, "units to hold out")
    sets = np.zeros(len(held.lcz), np.uint32)
    for others, rows in each_held_out(units):
        fitted = LabelSets.of(held.take(others), promise=promise, score=score, classwise=classwise)
        sets[rows] = fitted.sets(held.probability[rows])
    return sets


def coverage_report(
    sets: UInt32,
    lcz: npt.ArrayLike,
    groups: npt.ArrayLike,
    *,
    cities: npt.ArrayLike | None = None,
    promise: float = PROMISE,
    seed: int = 0,
) -> pd.DataFrame:
    """How often sets hold the true class, and how large they are.

    Parameters
    ----------
    sets : numpy.ndarray
        uint32, (n,): from :func:`held_out_sets`, or of samples that were never trained on.
    lcz : array_like of int
        (n,): true classes, 1-17.
    groups : array_like
        (n,): polygon, block or patch of each sample.
    cities : array_like of str, optional
        (n,): a row a city is then added.
    promise : float
        What the sets promise. Default 0.9.
    seed : int
        Of the bootstrap over groups. Default 0.

    Returns
    -------
    pandas.DataFrame
        A row for all samples, for each city and for each class (``by``: ``all``, ``city``,
        ``class``; ``name``), with ``n`` and ``n_groups``; ``coverage``, the share of samples whose
        set holds the class; ``coverage_of_groups``, the mean of that over groups, which is what the
        promise is about, with its 95 % interval ``low``, ``high`` by drawing groups; ``gap``, that
        less the promise; ``mean_size``, classes a set; ``single``, share of sets of one class.
        All shares 0-1.

    Raises
    ------
    ModelError
        If there are not as many labels, groups or cities as sets.
    """
    codes, group = np.asarray(lcz), np.asarray(groups)
    city = None if cities is None else np.asarray(cities)
    for what, given in (("labels", codes), ("groups", group), ("cities", city)):
        if given is not None:
            require_as_many(len(sets), given, what)
    parts: list[tuple[str, str, npt.NDArray[np.bool_]]] = [("all", "", np.ones(len(sets), bool))]
    if city is not None:
        parts += [("city", str(name), city == name) for name in np.unique(city)]
    parts += [("class", str(code), codes == code) for code in np.unique(codes)]
    right = holds(sets, codes)
    size = np.bitwise_count(sets).astype(np.int64)
    rows = [
        (by, name, *_row(right[at], size[at], group[at], promise, seed)) for by, name, at in parts
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def coverage_table(report: pd.DataFrame) -> str:
    """A coverage report as a Markdown table that also reads as plain text."""
    header = ("sets of", "n", "groups", "coverage of groups", "coverage", "mean size", "single")
    rows = [
        (
            " ".join(filter(None, (row["by"], row["name"]))),
            str(row["n"]),
            str(row["n_groups"]),
            with_interval(row["coverage_of_groups"], _interval(row)),
            f"{row['coverage']:.3f}",
            f"{row['mean_size']:.2f}",
            f"{row['single']:.3f}",
        )
        for row in report.to_dict("records")
    ]
    return markdown_table(header, rows)


def _row(
    right: npt.NDArray[np.bool_],
    size: npt.NDArray[np.int64],
    group: npt.NDArray[Any],
    promise: float,
    seed: int,
) -> tuple[float, ...]:
    _, owner, count = np.unique(group, return_inverse=True, return_counts=True)
    share = np.bincount(owner, weights=right) / count
    interval = _of_drawn(share, seed)
    low, high = interval or (float("nan"), float("nan"))
    mean = float(share.mean())
    sizes = float(size.mean()), float((size == 1).mean())
    return len(right), len(count), float(right.mean()), mean, low, high, mean - promise, *sizes


def _of_drawn(share: npt.NDArray[np.float64], seed: int) -> Interval | None:
    """95 % interval of the mean over groups, by drawing them; None of one group."""
    if len(share) < 2:
        return None
    rng = np.random.default_rng(seed)
    draws = [share[rng.integers(len(share), size=len(share))].mean() for _ in range(N_DRAWS)]
    return percentile_interval(np.array(draws))


def _interval(row: dict[Any, Any]) -> Interval | None:
    return None if np.isnan(row["low"]) else (row["low"], row["high"])
