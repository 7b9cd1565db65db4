"""A graph of donors: near ones found by pynndescent, joined both ways, and searched step by step.

It is kept as plain arrays, and searched without pynndescent: that library compiles for half a
minute where it builds, its own search hands the state of its random numbers on from query to query,
and its objects can only be pickled. A search runs in single precision on the principal axes; what
it finds is compared with the query in double precision on all features, so that the result hangs on
which donors were found and on nothing else.

References
----------
Dong, W., Charikar, M. & Li, K. (2011). Efficient k-nearest neighbor graph construction for generic
similarity measures. WWW'11, 577-586 (what pynndescent builds).
Malkov, Y. A. & Yashunin, D. A. (2020). Efficient and robust approximate nearest neighbor search
using hierarchical navigable small world graphs. IEEE TPAMI 42(4), 824-836 (algorithms 2 and 4: the
search, and which neighbours are kept).
"""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from lczcube.errors import ConfigError, MissingExtraError, ModelError
from lczcube.neighbours.exact import Float32, Float64, Int64
from lczcube.runtime import IMPORTING, n_cores, pinned_threads

N_NEIGHBORS = 30
"""Of a donor before they are thinned; pynndescent's default."""

N_AXES = 64
"""Principal axes that a search sees: of 384 features 96 find no more, and
candidates are compared on all of them (decision 13)."""

N_CANDIDATES = 100
"""Nearest donors that a search holds on to, of which k are given back; with 64 recall at 10 misses
0.95 where the intrinsic dimension is 24 (decision 13)."""

SPARE = 2
"""The same for each neighbour that is wanted, where k is large."""

MOST_OF_A_GROUP = 10
"""The same for each group that is wanted: of larger groups a search may find fewer than k."""

N_STARTS = 1024
"""Donors that every search begins with: from 64, one query in twelve on Hong Kong is lost among
unlike donors and finds none of its own (decision 13)."""

Int32 = npt.NDArray[np.int32]

_BUILDING = threading.Lock()
"""One build at a time: some thread pools of numba end the process when two threads use them."""

_built_in_this_process = threading.Event()


@dataclass(frozen=True, eq=False)
class Graph:
    """Donors joined to near donors, and where to begin.

    Attributes
    ----------
    places : numpy.ndarray
        float32, (donor, axis): the donors on their principal axes.
    axes : numpy.ndarray
        float32, (feature, axis): the axes, of length 1.
    indptr : numpy.ndarray
        int64, (donor + 1,): those that donor ``i`` is joined to are
        ``indices[indptr[i]:indptr[i + 1]]``.
    indices : numpy.ndarray
        int32, (joint,): donors.
    starts : numpy.ndarray
        int32, (start,): donors from which every donor can be reached.
    seed, n_threads : int
        What it was built with; another number of threads gives another graph.
    version : str
        Of pynndescent.
    """

    places: Float32
    axes: Float32
    indptr: Int64
    indices: Int32
    starts: Int32
    seed: int
    n_threads: int
    version: str

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Its arrays, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}

    def settings(self) -> dict[str, Any]:
        """All else, as plain JSON."""
        return {"seed": self.seed, "n_threads": self.n_threads, "version": self.version}


def build_graph(donors: Float64, *, seed: int, n_threads: int | None = None) -> Graph:
    """The graph of donors; compiles for half a minute where a process builds its first.

    Parameters
    ----------
    donors : numpy.ndarray
        float64, (donor, feature), finite.
    seed : int
        Of the descent and the starts.
    n_threads : int, optional
        Threads of the build. Default: the cores of this machine.

    Raises
    ------
    MissingExtraError
        If pynndescent is not installed.
    ModelError
        If there are too few donors for a graph.
    ConfigError
        If numba cannot work on so many threads.
    """
    if len(donors) <= N_NEIGHBORS:
        raise ModelError(
            f"{len(donors)} donors are too few for a graph that joins each to {N_NEIGHBORS}; use "
            "method='exact'."
        )
    library = _library()
    with _BUILDING, pinned_threads(1), _numba_threads(n_threads or n_cores()) as n_pinned:
        axes = _principal_axes(donors)
        places = (donors @ axes).astype(np.float32)
        neighbours, _ = library.NNDescent(
            places, n_neighbors=N_NEIGHBORS, random_state=seed, n_jobs=n_pinned
        ).neighbor_graph
    _built_in_this_process.set()
    indptr, indices, starts = _joined(places, neighbours, seed)
    return Graph(
        places=places,
        axes=axes,
        indptr=indptr,
        indices=indices,
        starts=starts,
        seed=seed,
        n_threads=n_pinned,
        version=installed_version("pynndescent"),
    )


def search_graph(
    graph: Graph, donors: Float64, queries: Float64, k: int, groups: Int64 | None = None
) -> tuple[Float64, Int64]:
    """The k nearest of the donors that a search of the graph finds; of groups, the nearest of each.

    Parameters
    ----------
    graph : Graph
        From :func:`build_graph`.
    donors : numpy.ndarray
        float64, (donor, feature), what it was built from.
    queries : numpy.ndarray
        float64, (query, feature), finite.
    k : int
        At most the number of donors, or of groups.
    groups : numpy.ndarray, optional
        int64, (donor,): the k are then of different groups. Default: each donor is its own.

    Returns
    -------
    distance, index : numpy.ndarray
        As of :func:`~lczcube.neighbours.nearest_donors`; infinite and -1 where the donors that were
        found are of fewer groups than k.

    Notes
    -----
    One thread, which leaves the interpreter to others. A query's result does not depend on the
    queries beside it.
    """
    distance = np.empty((len(queries), k))
    index = np.empty((len(queries), k), np.int64)
    n_wanted = n_candidates(len(donors), k, of_groups=groups is not None)
    of_each = np.arange(len(donors)) if groups is None else np.asarray(groups, np.int64)
    arrays = [read_only(array) for array in (*graph.arrays().values(), donors, queries, of_each)]
    _loops().search(*arrays, n_wanted, distance, index)
    return distance, index


def n_candidates(n_donors: int, k: int, *, of_groups: bool = False) -> int:
    """Nearest donors that a search for k, or for k groups, holds on to."""
    return min(n_donors, max(N_CANDIDATES, (MOST_OF_A_GROUP if of_groups else SPARE) * k))


def is_compiled() -> bool:
    """Whether this process has built a graph before, so that the next costs no compilation."""
    return _built_in_this_process.is_set()


def read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A contiguous view that may not be written: one type to numba, mapped from a file or not."""
    view = np.asarray(np.ascontiguousarray(array)).view()
    view.flags.writeable = False
    return view


def _principal_axes(donors: Float64) -> Float32:
    centred = donors - donors.mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    return np.ascontiguousarray(vectors[:, ::-1][:, :N_AXES], np.float32)


def _joined(places: Float32, neighbours: Int32, seed: int) -> tuple[Int64, Int32, Int32]:
    """``indptr``, ``indices`` and ``starts``: neighbours thinned, then joined both ways."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    n_donors = len(places)
    keep = np.zeros(neighbours.shape, np.bool_)
    _loops().thin(places, neighbours, keep)
    begins = np.concatenate([[0], np.cumsum(keep.sum(axis=1))])
    ones = np.ones(begins[-1], np.int8)
    one_way = csr_array((ones, neighbours[keep], begins), shape=(n_donors, n_donors))
    both_ways = one_way + one_way.T.tocsr()
    both_ways.sort_indices()
    _, part = connected_components(both_ways, directed=False)
    indptr, indices = both_ways.indptr.astype(np.int64), both_ways.indices.astype(np.int32)
    return indptr, indices, _starts(part, seed)


def _starts(part: Int32, seed: int) -> Int32:
    """Donors drawn from all, and one of every part of the graph that no joint leads to."""
    drawn = np.random.default_rng(seed).permutation(len(part))[:N_STARTS]
    _, first = np.unique(part, return_index=True)
    return np.union1d(drawn, first).astype(np.int32)


def _loops() -> Any:
    with IMPORTING:
        from lczcube.neighbours import _graph_loops

    return _graph_loops


def _library() -> ModuleType:
    """pynndescent, imported when a graph is first built; seconds."""
    try:
        with IMPORTING:
            import pynndescent
    except ImportError as error:
        raise MissingExtraError(
            "pynndescent is not installed; approximate neighbours need it: "
            "pip install 'lczcube[ann]', or use method='exact'"
        ) from error
    library: ModuleType = pynndescent
    return library


@contextmanager
def _numba_threads(n_threads: int) -> Iterator[int]:
    """Hold numba to so many threads inside the ``with``, and pynndescent's advice to itself."""
    import numba

    before = numba.get_num_threads()
    try:
        numba.set_num_threads(n_threads)
    except ValueError as error:
        raise ConfigError(
            f"n_threads = {n_threads}: {error}. Choose fewer, or set NUMBA_NUM_THREADS before the "
            "process starts."
        ) from error
    try:
        with warnings.catch_warnings():
            # Among many equal donors: each is joined to those that it has.
            warnings.filterwarnings("ignore", message="Failed to correctly find n_neighbors")
            yield n_threads
    finally:
        numba.set_num_threads(before)
