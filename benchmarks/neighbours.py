"""Nearest donors by a graph against comparing everything: seconds, build and compilation included.

    python benchmarks/neighbours.py
    python benchmarks/neighbours.py --donors 50000 --queries 50000 --k 10
    python benchmarks/neighbours.py --costs

Vectors have 384 features and intrinsic dimension 24: 24 normal variables, mixed into 128, each
squeezed by tanh, mixed into 384, and noise of a twentieth of their deviation. Their dimension by
the maximum likelihood of Levina and Bickel (2005) is printed too. The exact search answers a share
of the queries, and its time is scaled up; the graph answers all. Both work on blocks of queries on
``--threads`` threads, BLAS on one each, as a run does. Compilation is what the first graph of a
process takes longer than the second. The last line is a process that opens the stored index and
queries it. ``--costs`` prints the constants of ``lczcube.neighbours.choice``.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lczcube.neighbours import (
    DonorIndex,
    build_index,
    choice,
    measure_recall,
    nearest_donors,
    write_index,
)
from lczcube.neighbours.graph import n_candidates
from lczcube.runtime import n_cores, pinned_threads

Floats = npt.NDArray[np.float64]

INTRINSIC, HIDDEN, N_FEATURES, NOISE = 24, 128, 384, 0.05
BLOCK_ROWS = 4096
N_COMPILE = 25_000
"""Donors of the graphs that compilation is timed on: fewer leave out parts of the library."""

OPEN_AND_QUERY = """
import sys, time
started = time.perf_counter()
import numpy as np
from lczcube.neighbours import open_index
index = open_index(sys.argv[1], fingerprint=sys.argv[2])
opened = time.perf_counter()
index.query(np.array(index.vectors[:1000]), 10)
print(f"open {opened - started:.1f} s, of which the checksums are most; "
      f"first 1,000 queries {time.perf_counter() - opened:.1f} s; "
      f"pynndescent {'' if 'pynndescent' in sys.modules else 'not '}imported")
"""


@dataclass(frozen=True)
class Seconds:
    """By the clock, and of all cores together, which other work on the machine moves less."""

    wall: float
    cores: float

    def __add__(self, other: "Seconds") -> "Seconds":
        return Seconds(self.wall + other.wall, self.cores + other.cores)

    def __sub__(self, other: "Seconds") -> "Seconds":
        return Seconds(self.wall - other.wall, self.cores - other.cores)

    def __mul__(self, factor: float) -> "Seconds":
        return Seconds(self.wall * factor, self.cores * factor)

    def __str__(self) -> str:
        return f"{self.wall:.0f} ({self.cores:.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--donors", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=200_000)
    parser.add_argument("--k", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--exact-queries", type=int, default=16_384)
    parser.add_argument("--threads", type=int, default=n_cores())
    parser.add_argument("--costs", action="store_true")
    options = parser.parse_args()
    print(f"load of the machine before: {os.getloadavg()[0]:.1f} on {n_cores()} cores")
    with pinned_threads(1):
        costs() if options.costs else compare(options)
    print(f"load of the machine after: {os.getloadavg()[0]:.1f}")


def compare(options: argparse.Namespace) -> None:
    donors, queries = vectors_of(options.donors, seed=1), vectors_of(options.queries, seed=2)
    sample = queries[: options.exact_queries]
    compiling = compile_seconds()
    index, building = timed(lambda: graph_index(donors, options.threads))
    print(f"seconds by the clock (of all cores): compilation {compiling}, build {building}")
    index.query(queries[:1], 1)
    nearest_donors(donors[:100], queries[:1], 1)
    print("| k | exact | graph | queries alone | ratio | recall |\n|---|---|---|---|---|---|")
    for k in options.k:
        _, querying = timed(lambda k=k: in_blocks(index.query, queries, k, options.threads))
        _, sampled = timed(lambda k=k: in_blocks(exact(donors), sample, k, options.threads))
        compared, total = sampled * (len(queries) / len(sample)), compiling + building + querying
        ratios = f"{compared.wall / total.wall:.1f} ({compared.cores / total.cores:.1f})"
        recall = measure_recall(index, queries, k).value
        print(f"| {k} | {compared} | {total} | {querying} | {ratios} | {recall:.3f} |", flush=True)
    print(f"dimension by maximum likelihood: {dimension(donors, sample[:1000]):.1f}")
    with tempfile.TemporaryDirectory() as folder:
        stored = write_index(index, Path(folder) / "index")
        command = [sys.executable, "-c", OPEN_AND_QUERY, str(stored.folder), stored.fingerprint]
        _, running = timed(lambda: subprocess.run(command, check=True))
    print(f"that process, from its start to its end: {running.wall:.1f} s", flush=True)


def costs() -> None:
    """Seconds of one core. Exact: two numbers of features. Graph: one of each."""
    pairs_s = [exact_pair_seconds(n_features) for n_features in (64, N_FEATURES)]
    slope = (pairs_s[1] - pairs_s[0]) / (N_FEATURES - 64)
    print(f"EXACT_PAIR_S = {pairs_s[0] - 64 * slope:.2g}, EXACT_PAIR_FEATURE_S = {slope:.2g}")
    print(f"COMPILE_S = {compile_seconds().cores:.2g}")
    donors, queries = vectors_of(100_000, seed=1), vectors_of(8192, seed=2)
    index, building = timed(lambda: graph_index(donors, 1))
    index.query(queries[:1], 1)
    _, querying = timed(lambda: index.query(queries, 10))
    n_wanted = n_candidates(len(donors), 10)
    print(f"BUILD_DONOR_S = {building.cores / len(donors):.2g}")
    print(f"CANDIDATE_S = {querying.cores / len(queries) / n_wanted:.2g}")
    print(f"now: { ({name: value for name, value in vars(choice).items() if name[-2:] == '_S'}) }")


def exact_pair_seconds(n_features: int) -> float:
    donors, queries = vectors_of(100_000, 1, n_features), vectors_of(2048, 2, n_features)
    nearest_donors(donors[:100], queries[:1], 1)
    _, comparing = timed(lambda: nearest_donors(donors, queries, 10))
    return comparing.cores / len(donors) / len(queries)


def compile_seconds() -> Seconds:
    """What the first graph of a process takes longer than the second."""
    donors = vectors_of(N_COMPILE, seed=3)
    first, second = (timed(lambda: graph_index(donors, n_cores()))[1] for _ in range(2))
    return first - second


def graph_index(donors: Floats, n_threads: int) -> DonorIndex:
    return build_index(donors, method="pynndescent", n_queries=1, k=1, n_threads=n_threads)


def exact(donors: Floats) -> Callable[[Floats, int], Any]:
    return lambda queries, k: nearest_donors(donors, queries, k)


def in_blocks(search: Callable[[Floats, int], Any], queries: Floats, k: int, threads: int) -> None:
    with ThreadPoolExecutor(threads) as pool:
        starts = range(0, len(queries), BLOCK_ROWS)
        list(pool.map(lambda start: search(queries[start : start + BLOCK_ROWS], k), starts))


def timed(work: Callable[[], Any]) -> tuple[Any, Seconds]:
    wall, cores = time.perf_counter(), time.process_time()
    result = work()
    return result, Seconds(time.perf_counter() - wall, time.process_time() - cores)


def vectors_of(n: int, seed: int, n_features: int = N_FEATURES) -> Floats:
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(INTRINSIC, HIDDEN)) * 2 / np.sqrt(INTRINSIC)
    spread = rng.normal(size=(HIDDEN, n_features)) / np.sqrt(HIDDEN)
    rng = np.random.default_rng(seed)
    vectors = np.tanh(rng.normal(size=(n, INTRINSIC)) @ mix) @ spread
    return vectors + NOISE * vectors.std() * rng.normal(size=vectors.shape)


def dimension(donors: Floats, queries: Floats) -> float:
    away, _ = nearest_donors(donors, queries, 20)
    return float(1 / np.log(away[:, -1:] / away[:, :-1]).mean())


if __name__ == "__main__":
    main()
