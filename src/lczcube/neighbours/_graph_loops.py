"""Loops over a graph of donors, compiled by numba for :mod:`lczcube.neighbours.graph`.

A module of its own because numba's cache on disk wants functions at module level, and numba is to
be imported only where a graph is built or searched. Each query is on its own: what it finds does
not depend on the queries beside it, and threads share only what is read.
"""

from collections.abc import Callable
from heapq import heappop, heappush, heapreplace
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

from lczcube._window_loops import LINE_BYTES, _prefetch
from lczcube.neighbours.exact import NOBODY, _exact_distance, _insert

Function = TypeVar("Function", bound=Callable[..., Any])
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Queue = list[tuple[np.float32, np.int32]]

LINE_FLOATS = LINE_BYTES // 4

SLACK = 1.001
"""Of a distance on the axes, in single precision, under the one on all features."""

FAST = {"reassoc", "contract", "nsz"}
"""Sums in any order, so that the processor can take several terms at once."""


def _compiled(function: Function, **options: Any) -> Function:
    """Compiled when first called; kept on disk where numba finds a folder that it may write."""
    jit: Callable[..., Any] = numba.njit
    try:
        return cast(Function, jit(nogil=True, cache=True, **options)(function))
    except RuntimeError:
        return cast(Function, jit(nogil=True, **options)(function))


def _squared(a: Float32, b: Float32) -> np.float32:
    total = np.float32(0)
    for axis in range(len(a)):
        total += (a[axis] - b[axis]) ** 2
    return total


def _project(query: Float64, axes: Float32, place: Float32) -> None:
    place[:] = 0
    for feature in range(len(query)):
        value = np.float32(query[feature])
        for axis in range(len(place)):
            place[axis] += value * axes[feature, axis]


squared = _compiled(_squared, fastmath=FAST)
project = _compiled(_project)
insert = _compiled(_insert)
exact_distance = _compiled(_exact_distance)


@_compiled
def thin(places: Float32, neighbours: Int32, keep: npt.NDArray[np.bool_]) -> None:
    """Mark in ``keep`` the neighbours that no kept, nearer one leads to.

    A neighbour that lies nearer to a kept one than to the donor itself is reached through that.
    """
    for donor in range(len(neighbours)):
        for column, neighbour in enumerate(neighbours[donor]):
            wanted = neighbour >= 0 and neighbour != donor
            if wanted:
                away = squared(places[donor], places[neighbour])
                for nearer in range(column):
                    other = neighbours[donor, nearer]
                    if keep[donor, nearer] and squared(places[other], places[neighbour]) < away:
                        wanted = False
                        break
            keep[donor, column] = wanted


@_compiled
def _limit(
    found: Queue, donors: Float64, query: Float64, groups: Int64, nearest: Int64
) -> tuple[int, float]:
    """How many of those found are of as many groups as are wanted, and how far others may lie.

    ``found`` is in order of distance on the axes; ``nearest``, overwritten, says how many groups.
    Beyond the squared distance no donor can be among the nearest.
    """
    n_groups = 0
    farthest = 0.0
    for position in range(len(found)):
        donor = found[position][1]
        is_new = True
        for slot in range(n_groups):
            if groups[nearest[slot]] == groups[donor]:
                is_new = False
                break
        if is_new:
            nearest[n_groups] = donor
            n_groups += 1
            farthest = max(farthest, exact_distance(donors[donor], query))
            if n_groups == len(nearest):
                return position + 1, SLACK * farthest**2
    return len(found), np.inf


@_compiled
def search(
    places: Float32,
    axes: Float32,
    indptr: Int64,
    indices: Int32,
    starts: Int32,
    donors: Float64,
    queries: Float64,
    groups: Int64,
    n_wanted: int,
    distance: Float64,
    index: Int64,
) -> None:
    """Fill ``distance`` and ``index`` with the nearest, of different groups, that a search finds.

    From the nearest donor met and not yet left, to all that it is joined to, until that one is
    farther than all of the ``n_wanted`` nearest met.
    """
    seen_by = np.full(len(places), -1, np.int64)
    n_axes = places.shape[1]
    place = np.empty(n_axes, np.float32)
    found = [(np.float32(0), np.int32(0))]
    ahead = [(np.float32(0), np.int32(0))]
    for row in range(len(queries)):
        project(queries[row], axes, place)
        found.clear()
        ahead.clear()
        joined = starts
        while True:
            for donor in joined:
                if seen_by[donor] != row:
                    for axis in range(0, n_axes, LINE_FLOATS):
                        _prefetch(places, donor * n_axes + axis)
            for donor in joined:
                if seen_by[donor] == row:
                    continue
                seen_by[donor] = row
                away = squared(place, places[donor])
                if len(found) < n_wanted:
                    heappush(found, (-away, donor))
                    heappush(ahead, (away, donor))
                elif away < -found[0][0]:
                    heapreplace(found, (-away, donor))
                    heappush(ahead, (away, donor))
            if len(ahead) == 0:
                break
            away, donor = heappop(ahead)
            if len(found) == n_wanted and away > -found[0][0]:
                break
            joined = indices[indptr[donor] : indptr[donor + 1]]
        found.sort(reverse=True)
        n_first, limit = _limit(found, donors, queries[row], groups, index[row])
        near = [
            int(donor)
            for position, (away, donor) in enumerate(found)
            if position < n_first or -away <= limit
        ]
        distance[row] = np.inf
        index[row] = NOBODY
        for nearest in sorted(near):
            away_exactly = exact_distance(donors[nearest], queries[row])
            insert(distance[row], index[row], groups, away_exactly, nearest)
