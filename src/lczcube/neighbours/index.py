"""Donors that can be asked for the nearest of them, exactly or by a graph."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lczcube.errors import ModelError
from lczcube.neighbours.choice import METHODS, choose_method
from lczcube.neighbours.exact import Float64, Int64, nearest_donors
from lczcube.neighbours.graph import Graph, build_graph, is_compiled, read_only, search_graph


@dataclass(frozen=True)
class Recall:
    """Share of the true k nearest that an index finds, and on how many queries it was measured."""

    value: float
    k: int
    n_sample: int
    seed: int


@dataclass(frozen=True, eq=False)
class DonorIndex:
    """Donors, and the way to the nearest of them; from :func:`build_index` or ``open_index``.

    Attributes
    ----------
    vectors : numpy.ndarray
        float64, (donor, feature), read-only.
    fingerprint : str
        Of the donors, see :func:`donors_fingerprint`.
    digests : dict
        SHA-256 of every array, hex, by name.
    graph : Graph, optional
        What pynndescent built; None for the exact search.
    recall : Recall, optional
        As measured, see :func:`measure_recall`; None for the exact search or before it was.
    folder : Path, optional
        Where it is stored. Such an index travels to another process as the name of its folder,
        which is mapped into memory there; another travels with its arrays.
    """

    vectors: Float64
    fingerprint: str
    digests: dict[str, str]
    graph: Graph | None = None
    recall: Recall | None = None
    folder: Path | None = None

    @property
    def method(self) -> str:
        """``exact`` or ``pynndescent``."""
        return "exact" if self.graph is None else "pynndescent"

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that answers depend on, hex: equal for indexes that give the same bits."""
        settings = None if self.graph is None else self.graph.settings()
        text = json.dumps([self.digests, settings], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def query(self, queries: Float64, k: int, groups: Int64 | None = None) -> tuple[Float64, Int64]:
        """The k nearest donors of each query, of different groups, on one thread.

        Parameters
        ----------
        queries : numpy.ndarray
            float64, (query, feature), finite, standardised as the donors are.
        k : int
            1 to the number of donors, or of groups.
        groups : numpy.ndarray, optional
            int64, (donor,). Default: each donor is a group of its own.

        Returns
        -------
        distance : numpy.ndarray
            float64, (query, k), ascending.
        index : numpy.ndarray
            int64, (query, k); equal distances in order of index. -1, infinitely far, where a graph
            led to donors of fewer groups.

        Raises
        ------
        ModelError
            If k or the number of features does not fit the donors.

        Notes
        -----
        The same bits in any company of queries, on any number of threads.
        """
        self._require_fit(queries, k)
        queries = np.asarray(queries, np.float64)
        if self.graph is None:
            return nearest_donors(self.vectors, queries, k, groups)
        return search_graph(self.graph, self.vectors, queries, k, groups)

    def facts(self) -> dict[str, Any]:
        """What it is, as plain JSON: for reports, fingerprints and attributes of products."""
        n_donors, n_features = self.vectors.shape
        graph = self.graph
        return {
            "method": self.method,
            "n_donors": n_donors,
            "n_features": n_features,
            "n_threads": graph and graph.n_threads,
            "seed": graph and graph.seed,
            "pynndescent": graph and graph.version,
            "recall": self.recall and asdict(self.recall),
        }

    def with_recall(self, recall: Recall) -> "DonorIndex":
        """The same index with what was measured on it."""
        return replace(self, recall=recall)

    def __dask_tokenize__(self) -> tuple[str, str]:
        """The same for indexes that give the same answers, in any process."""
        return "lczcube.DonorIndex", self.digest

    def __reduce__(self) -> tuple[Any, ...]:
        if self.folder is None:
            fields = (self.vectors, self.fingerprint, self.digests, self.graph, self.recall)
            return DonorIndex, fields
        from lczcube.neighbours.store import reopen_index

        return reopen_index, (str(self.folder), self.digest)

    def _require_fit(self, queries: npt.NDArray[Any], k: int) -> None:
        n_donors, n_features = self.vectors.shape
        if queries.ndim != 2 or queries.shape[1] != n_features:
            raise ModelError(
                f"queries have shape {queries.shape} and donors {n_features} features; give "
                f"(query, {n_features})."
            )
        if not 1 <= k <= n_donors:
            raise ModelError(f"k = {k} of {n_donors} donors; choose 1 to {n_donors}.")


def build_index(
    vectors: Float64,
    *,
    method: str = "auto",
    n_queries: int,
    k: int,
    seed: int = 0,
    n_threads: int | None = None,
    fingerprint: str | None = None,
) -> DonorIndex:
    """An index of donors, by the method that is wanted or the one that pays.

    Parameters
    ----------
    vectors : numpy.ndarray
        float64, (donor, feature), standardised, finite.
    method : str
        ``exact``, ``pynndescent`` or ``auto`` (default), see ``choose_method``.
    n_queries : int
        How many will be asked, all in all: whether a graph pays depends on it.
    k : int
        How many neighbours will be asked for.
    seed : int
        Of the graph. Default 0.
    n_threads : int, optional
        Threads that build the graph, recorded: on another number the graph is another. Default:
        the cores of this machine.
    fingerprint : str, optional
        Of the donors as the caller knows them. Default: that of the vectors alone.

    Raises
    ------
    ModelError
        If the method is unknown, k does not fit, or the vectors are too few or not finite.
    MissingExtraError
        If a graph is wanted and pynndescent is not installed.
    """
    vectors = read_only(np.asarray(vectors, np.float64))
    _require_vectors(vectors, method, k)
    if method == "auto":
        n_donors, n_features = vectors.shape
        method = choose_method(n_donors, n_queries, n_features, k=k, compiled=is_compiled())
    graph = None
    if method == "pynndescent":
        graph = build_graph(vectors, seed=seed, n_threads=n_threads)
    return DonorIndex(
        vectors=vectors,
        fingerprint=fingerprint or donors_fingerprint(vectors),
        digests=_array_digests(vectors, graph),
        graph=graph,
    )


def donors_fingerprint(
    vectors: Float64, *, names: Sequence[str] = (), products: Sequence[str] = ()
) -> str:
    """SHA-256, hex, of the bits of donors, the names of their features and their products."""
    text = json.dumps([list(names), list(products), array_digest(np.asarray(vectors, np.float64))])
    return hashlib.sha256(text.encode()).hexdigest()


def measure_recall(
    index: DonorIndex,
    queries: Float64,
    k: int,
    groups: Int64 | None = None,
    *,
    n_sample: int = 1000,
    seed: int = 0,
) -> Recall:
    """Share of the true k nearest donors that an index finds, on a sample of queries.

    Parameters
    ----------
    index : DonorIndex
        To be measured.
    queries : numpy.ndarray
        float64, (query, feature), finite.
    k : int
        Neighbours.
    groups : numpy.ndarray, optional
        int64, (donor,), as :meth:`DonorIndex.query` takes it.
    n_sample : int
        Queries that are compared with all donors; all, where there are fewer. Default 1,000: the
        standard error of a recall of 0.95 at k = 10 is then under 0.007.
    seed : int
        Of the sample. Default 0.

    Returns
    -------
    Recall
        In [0, 1]. A donor counts as found when it is no farther than the k-th nearest: of donors
        at one distance it does not matter which is found.

    Raises
    ------
    ModelError
        If there is no query.
    """
    if len(queries) == 0:
        raise ModelError("recall of no query; give at least one.")
    rows = np.random.default_rng(seed).permutation(len(queries))[:n_sample]
    sample = np.asarray(queries[np.sort(rows)], np.float64)
    found, _ = index.query(sample, k, groups)
    true, _ = nearest_donors(index.vectors, sample, k, groups)
    return Recall(float((found <= true[:, -1:]).mean()), k, len(sample), seed)


def array_digest(array: npt.NDArray[Any]) -> str:
    """SHA-256, hex, of the dtype, shape and bits of an array."""
    array = np.ascontiguousarray(array)
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape} ".encode())
    digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _array_digests(vectors: Float64, graph: Graph | None) -> dict[str, str]:
    arrays = {"vectors": vectors} | ({} if graph is None else graph.arrays())
    return {name: array_digest(array) for name, array in arrays.items()}


def _require_vectors(vectors: Float64, method: str, k: int) -> None:
    if vectors.ndim != 2 or 0 in vectors.shape or not np.isfinite(vectors).all():
        raise ModelError(
            f"donors have shape {vectors.shape}, or values that are not finite; give finite "
            "(donor, feature)."
        )
    if not 1 <= k <= len(vectors):
        raise ModelError(f"k = {k} of {len(vectors)} donors; choose 1 to {len(vectors)}.")
    if method not in {"auto", *METHODS}:
        raise ModelError(f"method {method!r} is unknown; choose auto, {' or '.join(METHODS)}.")
