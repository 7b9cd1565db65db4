"""Exact nearest neighbours: candidates by single precision, and the truth among them by double.

The result is that of comparing everything with everything, and does not depend on how many queries
are looked up at once.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from lczcube.runtime import IMPORTING

BLOCK_BYTES = 8 << 20
"""Of approximate distances at a time: they are read back from the cache."""

NOBODY = -1
"""In a list of owners: a place that nobody has taken yet."""

MIN_ROWS = 128
"""Queries of a matrix product at least: among 200,000 donors 16 take three times as long."""

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


def nearest_donors(
    donors: Float64, queries: Float64, k: int, groups: Int64 | None = None
) -> tuple[Float64, Int64]:
    """Exact k nearest neighbours by Euclidean distance; of groups, the nearest donor of each.

    Parameters
    ----------
    donors : numpy.ndarray
        float64, (donor, feature).
    queries : numpy.ndarray
        float64, (query, feature), finite.
    k : int
        At most the number of donors, or of groups.
    groups : numpy.ndarray, optional
        int64, (donor,): the k neighbours of a query are then of k different groups. Default: every
        donor is a group of its own.

    Returns
    -------
    distance : numpy.ndarray
        float64, (query, k), ascending.
    index : numpy.ndarray
        int64, (query, k); equal distances in order of index.

    Notes
    -----
    A matrix product in float32 orders the donors of each query up to its rounding error, which has
    a bound. Donors that the bound cannot rule out get their exact distance, summed feature by
    feature: the same bits in any block, on any number of threads.
    """
    distance = np.empty((len(queries), k))
    index = np.empty((len(queries), k), np.int64)
    groups = np.arange(len(donors)) if groups is None else np.ascontiguousarray(groups, np.int64)
    expanded = _expanded(donors)
    reach = float(np.sqrt(np.einsum("df,df->d", donors, donors).max()))
    search = _search_kernel()
    n_rows = max(MIN_ROWS, BLOCK_BYTES // (4 * len(donors)))
    for start in range(0, len(queries), n_rows):
        rows = slice(start, start + n_rows)
        approximate = _with_ones(queries[rows]) @ expanded
        slack = 2 * _error_bound(queries[rows], reach)
        search(approximate, slack, groups, donors, queries[rows], distance[rows], index[rows])
    return distance, index


def _expanded(donors: Float64) -> Float32:
    """Factor of ``|d|² - 2 q·d``, float32 (feature + 1, donor): -2 d, and the squared lengths."""
    squares = np.einsum("df,df->d", donors, donors)
    return np.vstack([-2 * donors.T, squares]).astype(np.float32)


def _with_ones(queries: Float64) -> Float32:
    return np.hstack([queries, np.ones((len(queries), 1))]).astype(np.float32)


def _error_bound(queries: Float64, reach: float) -> Float64:
    """Most that an approximation may be off, (query,), where no donor is longer than ``reach``.

    A sum of n products is off by at most n units of rounding times the sum of their sizes, whatever
    its order; rounding the factors adds two units. The last term covers the exact distances.
    """
    length = np.sqrt(np.einsum("qf,qf->q", queries, queries))
    n_units = 1.01 * (queries.shape[1] + 4)
    single, double = np.finfo(np.float32).eps / 2, np.finfo(np.float64).eps
    sizes = (2 * length + reach) * reach
    bound: Float64 = n_units * (single * sizes + double * (length + reach) ** 2)
    return bound + np.finfo(np.float32).tiny


@cache
def _search_kernel() -> Callable[..., None]:
    """The compiled search of a block; compiling takes a second, once a process."""
    with IMPORTING:
        from numba import njit

    jit = njit(nogil=True)
    insert, survivors, exact = jit(_insert), jit(_survivors), jit(_exact_distance)

    def search(
        approximate: Float32,
        slack: Float64,
        groups: Int64,
        donors: Float64,
        queries: Float64,
        distance: Float64,
        index: Int64,
    ) -> None:
        maybe = np.empty(len(donors), np.int64)
        lowest = np.empty(distance.shape[1], np.float64)
        owners = np.empty(distance.shape[1], np.int64)
        for row in range(len(queries)):
            n_maybe = survivors(approximate[row], slack[row], groups, insert, lowest, owners, maybe)
            distance[row] = np.inf
            index[row] = NOBODY
            for donor in maybe[:n_maybe]:
                away = exact(donors[donor], queries[row])
                insert(distance[row], index[row], groups, away, donor)

    compiled: Callable[..., None] = jit(search)
    return compiled


def _insert(values: Float64, owners: Int64, groups: Int64, value: float, owner: int) -> None:
    """Put a donor in its place among the k lowest of different groups, behind its equals."""
    place = len(values) - 1
    if not value < values[place]:
        return
    for slot in range(len(values)):
        if owners[slot] != NOBODY and groups[owners[slot]] == groups[owner]:
            place = slot
            break
    if not value < values[place]:
        return
    while place > 0 and values[place - 1] > value:
        values[place] = values[place - 1]
        owners[place] = owners[place - 1]
        place -= 1
    values[place] = value
    owners[place] = owner


def _survivors(
    approximate: Float32,
    slack: float,
    groups: Int64,
    insert: Any,
    lowest: Float64,
    owners: Int64,
    maybe: Int64,
) -> int:
    """Fill ``maybe``, ascending, with all donors that may be among the k nearest; their number.

    What the limit rules out while it still falls it would rule out at its end. The limit of a donor
    whose group is among the lowest is that of its group.
    """
    lowest[:] = np.inf
    owners[:] = NOBODY
    last = len(lowest) - 1
    n_maybe = 0
    for donor in range(len(approximate)):
        value = approximate[donor]
        if not value > lowest[last] + slack:
            maybe[n_maybe] = donor
            n_maybe += 1
            insert(lowest, owners, groups, value, donor)
    n_kept = 0
    for donor in maybe[:n_maybe]:
        limit = lowest[last]
        for slot in range(len(lowest)):
            if owners[slot] != NOBODY and groups[owners[slot]] == groups[donor]:
                limit = lowest[slot]
        if not approximate[donor] > limit + slack:
            maybe[n_kept] = donor
            n_kept += 1
    return n_kept


def _exact_distance(donor: Float64, query: Float64) -> float:
    total = 0.0
    for feature in range(len(donor)):
        total += (donor[feature] - query[feature]) ** 2
    return float(np.sqrt(total))
