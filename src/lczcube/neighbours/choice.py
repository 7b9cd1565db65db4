"""Which search a run should take, from what each costs.

Seconds of one core of an Intel Xeon with AVX-512 that other work shared, by
``benchmarks/neighbours.py``; on another machine they differ, their ratios less.
"""

from dataclasses import dataclass

from lczcube.errors import ModelError
from lczcube.neighbours.graph import MOST_OF_A_GROUP, n_candidates

METHODS = ("exact", "pynndescent")

MIN_DONORS = 20_000
"""Under so many donors every search is exact, and pynndescent is not even imported."""

MIN_GAIN = 2.0
"""An answer that may miss a donor has to cost at most half of one that does not."""

EXACT_PAIR_S = 3.4e-9
EXACT_PAIR_FEATURE_S = 0.028e-9
"""Exact search: of a donor and a query, and of each of their features."""

BUILD_DONOR_S = 0.13e-3
"""Building a graph: of a donor. The number of features hardly matters."""

CANDIDATE_S = 3e-6
"""Searching a graph: of a query, for each candidate that is kept."""

COMPILE_S = 30.0
"""Before the first graph that a process builds. numba's cache on disk does not shorten it."""


@dataclass(frozen=True)
class SearchCost:
    """What a search will cost.

    Attributes
    ----------
    method : str
        ``exact`` or ``pynndescent``.
    compile_s, build_s, query_s : float
        Seconds of one core: compiling, building the graph (0 for the exact search), all queries.
    """

    method: str
    compile_s: float
    build_s: float
    query_s: float

    @property
    def total_s(self) -> float:
        """All of it."""
        return self.compile_s + self.build_s + self.query_s

    def sentence(self) -> str:
        """For a dry run."""
        if self.method == "exact":
            return f"exact search: about {_duration(self.query_s)} of one core"
        return (
            f"approximate search by pynndescent: about {_duration(self.compile_s)} of compilation, "
            f"then of one core {_duration(self.build_s)} to build and {_duration(self.query_s)} to "
            "query"
        )


def choose_method(
    n_donors: int,
    n_queries: int,
    n_features: int,
    *,
    k: int,
    n_groups: int | None = None,
    compiled: bool = False,
) -> str:
    """``exact`` or ``pynndescent``, whichever a run should take.

    Parameters
    ----------
    n_donors, n_queries, n_features : int
        Size of the search.
    k : int
        Neighbours of a query.
    n_groups : int, optional
        Of the donors, where neighbours of different groups are asked for. Default: as many.
    compiled : bool
        Whether this process has built a graph before, see ``is_compiled``. Default False.

    Returns
    -------
    str
        ``exact`` under 20,000 donors, where groups are so large that a search of a graph would find
        too few of them, and wherever a graph would not cost at most half as much, compilation and
        build included.
    """
    if n_donors < MIN_DONORS or n_donors > MOST_OF_A_GROUP * (n_groups or n_donors):
        return "exact"
    exact, graph = (
        search_cost(
            n_donors,
            n_queries,
            n_features,
            k=k,
            method=method,
            of_groups=n_groups is not None,
            compiled=compiled,
        )
        for method in METHODS
    )
    return "pynndescent" if MIN_GAIN * graph.total_s <= exact.total_s else "exact"


def search_cost(
    n_donors: int,
    n_queries: int,
    n_features: int,
    *,
    k: int,
    method: str,
    of_groups: bool = False,
    compiled: bool = False,
) -> SearchCost:
    """What a search by a method costs.

    Parameters
    ----------
    n_donors, n_queries, n_features : int
        Size of the search.
    k : int
        Neighbours of a query.
    method : str
        ``exact`` or ``pynndescent``.
    of_groups : bool
        Whether the neighbours are to be of different groups. Default False.
    compiled : bool
        Whether this process has built a graph before. Default False.

    Raises
    ------
    ModelError
        If the method is unknown.
    """
    if method not in METHODS:
        raise ModelError(f"method {method!r} is unknown; choose {' or '.join(METHODS)}.")
    if method == "exact":
        pair_s = EXACT_PAIR_S + n_features * EXACT_PAIR_FEATURE_S
        return SearchCost(method, 0.0, 0.0, n_donors * n_queries * pair_s)
    return SearchCost(
        method,
        0.0 if compiled else COMPILE_S,
        n_donors * BUILD_DONOR_S,
        n_queries * n_candidates(n_donors, k, of_groups=of_groups) * CANDIDATE_S,
    )


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"
