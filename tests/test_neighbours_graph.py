"""Graphs that pynndescent builds; it compiles for half a minute in every process that does."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from numpy.lib.stride_tricks import sliding_window_view

from lczcube.neighbours import (
    DonorIndex,
    build_index,
    is_compiled,
    measure_recall,
    open_index,
    write_index,
)
from lczcube.runtime import open_scheduler

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]

Floats = npt.NDArray[np.float64]

N_QUERIES = 1000


def standardised(vectors: npt.NDArray[np.float32]) -> Floats:
    wide = vectors.astype(np.float64)
    wide = wide[:, wide.std(axis=0) > 0]
    scores: Floats = (wide - wide.mean(axis=0)) / wide.std(axis=0)
    return scores


def enmap_pixels(realdata: Path) -> Floats:
    """4,096 pixels of four tiles, 224 bands."""
    tiles = []
    for path in sorted((realdata / "enmap").glob("enmap_potsdam_tile_*.tif")):
        with rasterio.open(path) as file:
            tiles.append(file.read().reshape(224, -1).T)
    return standardised(np.concatenate(tiles))


def hongkong_windows(realdata: Path) -> Floats:
    """Mean, deviation and maximum of 36 bands in windows of 3 x 3 pixels, 108 features."""
    with rasterio.open(realdata / "hongkong" / "landsat8_36band_100m.tif") as file:
        pixels = file.read().astype(np.float32)
    windows = sliding_window_view(pixels, (3, 3), axis=(1, 2)).reshape(36, -1, 9)
    windows = windows[:, (windows > 0).all(axis=(0, 2))]
    statistics = [windows.mean(axis=-1), windows.std(axis=-1), windows.max(axis=-1)]
    return standardised(np.concatenate(statistics).T)


def made_vectors(_: Path) -> Floats:
    """384 features of 24 variables, as in ``benchmarks/neighbours.py``."""
    return vectors_of(51_000, seed=1)


def vectors_of(n: int, seed: int) -> Floats:
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(24, 128)) * 2 / np.sqrt(24)
    spread = rng.normal(size=(128, 384)) / np.sqrt(128)
    rng = np.random.default_rng(seed)
    vectors = np.tanh(rng.normal(size=(n, 24)) @ mix) @ spread
    noisy: Floats = vectors + 0.05 * vectors.std() * rng.normal(size=vectors.shape)
    return noisy


def graph_of(donors: Floats) -> DonorIndex:
    return build_index(donors, method="pynndescent", n_queries=1, k=1, n_threads=2)


@pytest.mark.parametrize(
    ("source", "n_features"),
    [(enmap_pixels, 218), (hongkong_windows, 108), (made_vectors, 384)],
)
def test_at_least_95_in_100_of_the_ten_nearest_are_found(
    realdata: Path, source: object, n_features: int
) -> None:
    assert callable(source)
    vectors = source(realdata)
    vectors = vectors[np.random.default_rng(0).permutation(len(vectors))]
    assert vectors.shape[1] == n_features
    index = graph_of(vectors[N_QUERIES:])
    for k in (10, 100):
        recall = measure_recall(index, vectors[:N_QUERIES], k)
        print(source.__name__, len(vectors), recall)
        assert recall.value >= 0.95
    assert is_compiled()


def test_donors_that_are_all_alike_are_found(recwarn: pytest.WarningsRecorder) -> None:
    donors = np.repeat(np.random.default_rng(0).normal(size=(40, 8)), 50, axis=0)
    index = graph_of(donors)
    distance, found = index.query(donors[::50], 50)
    assert (distance == 0).all()
    assert (found == np.arange(2000).reshape(40, 50)).all()
    assert not recwarn.list


BUILD = """
import sys
import numpy as np
from lczcube.neighbours import build_index
donors = np.load(sys.argv[1])
print(build_index(donors, method="pynndescent", n_queries=1, k=1, n_threads=2).digest)
"""


def test_two_processes_build_the_same_graph(tmp_path: Path) -> None:
    np.save(tmp_path / "donors.npy", vectors_of(20_000, seed=1))
    command = [sys.executable, "-W", "error", "-c", BUILD, str(tmp_path / "donors.npy")]
    digests = {subprocess.run(command, capture_output=True, check=True).stdout for _ in range(2)}
    assert len(digests) == 1


def test_worker_processes_find_the_same_bits_as_threads(tmp_path: Path) -> None:
    import dask.array as da

    donors, queries = vectors_of(5_000, seed=1), vectors_of(2_000, seed=2)
    stored = write_index(graph_of(donors), tmp_path / "index")
    index = open_index(tmp_path / "index", fingerprint=stored.fingerprint)

    def found_in(scheduler: str) -> npt.NDArray[np.int64]:
        blocks = da.from_array(queries, chunks=(300, -1))
        lazy = blocks.map_blocks(
            lambda block, index: index.query(block, 10)[1],
            index=index,
            chunks=(blocks.chunks[0], (10,)),
            dtype=np.int64,
            meta=np.empty((0, 0), np.int64),
        )
        with open_scheduler(scheduler, n_workers=2):
            return np.asarray(lazy.compute())

    assert (found_in("local") == found_in("threads")).all()
    assert (found_in("threads") == index.query(queries, 10)[1]).all()


MANY_QUERIES = """
import sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from lczcube.neighbours import open_index

index = open_index(sys.argv[1], fingerprint=sys.argv[2])
n_blocks, rows = int(sys.argv[3]), 8192

def block_sum(seed):
    rng = np.random.default_rng(seed)
    near = index.vectors[rng.integers(0, len(index.vectors), rows)]
    return index.query(near + 0.1 * rng.normal(size=near.shape), 10)[1].sum()

with ThreadPoolExecutor(2) as pool:
    sum(pool.map(block_sum, range(n_blocks)))
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(int(status["VmHWM"].split()[0]) * 1024)
"""

BUILD_MANY = """
import sys
import numpy as np
from lczcube.neighbours import build_index, write_index
rng = np.random.default_rng(0)
donors = rng.normal(size=(200_000, 24)) @ rng.normal(size=(24, 384))
index = build_index(donors, n_queries=2_000_000, k=10, n_threads=2)
print(write_index(index, sys.argv[1]).fingerprint)
assert index.method == "pynndescent"
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(int(status["VmHWM"].split()[0]) * 1024)
"""


def output_of(program: str, *arguments: str) -> list[str]:
    command = [sys.executable, "-W", "error", "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_two_million_queries_of_200_000_donors_take_less_than_4_gib(tmp_path: Path) -> None:
    folder = str(tmp_path / "index")
    fingerprint, build_bytes = output_of(BUILD_MANY, folder)
    few, many = (int(output_of(MANY_QUERIES, folder, fingerprint, n)[0]) for n in ("16", "245"))
    print(f"peaks: build {build_bytes}, 131,072 queries {few}, 2,007,040 queries {many}")
    assert int(build_bytes) < 4 << 30
    assert many < 4 << 30
    assert many < 1.1 * few


def test_threads_may_build_at_the_same_time() -> None:
    donors = vectors_of(2_000, seed=1)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(graph_of, [donors, donors])
    assert first.digest == second.digest
