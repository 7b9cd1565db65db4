import json
import pickle
import subprocess
import sys
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import numpy as np
import numpy.typing as npt
import pytest

from lczcube.errors import ConfigError, MissingExtraError, MissingInputError, ModelError, StoreError
from lczcube.neighbours import (
    DonorIndex,
    Recall,
    build_index,
    choose_method,
    donors_fingerprint,
    graph,
    measure_recall,
    nearest_donors,
    open_index,
    search_cost,
    write_index,
)
from lczcube.neighbours.index import array_digest
from lczcube.neighbours.store import _checksum

Floats = npt.NDArray[np.float64]

ISLAND = 40
"""Donors of a class that is like no other, at the end of all donors: more than a donor is joined
to, so that they are joined to each other alone."""


class ExactDescent:
    """In place of pynndescent's, which compiles for half a minute: the same by comparing all."""

    def __init__(self, data: Any, *, n_neighbors: int, **_: int) -> None:
        wide = np.asarray(data, np.float64)
        distance, index = nearest_donors(wide, wide, n_neighbors)
        self.neighbor_graph = index.astype(np.int32), distance.astype(np.float32)


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("pynndescent")
    module.NNDescent = ExactDescent  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pynndescent", module)
    # As few among these donors as there are among 200,000.
    monkeypatch.setattr(graph, "N_STARTS", 16)
    return module


def vectors_of(n: int, seed: int) -> Floats:
    """20 features of 6 variables."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(0).normal(size=(6, 20))
    vectors: Floats = rng.normal(size=(n, 6)) @ mix + 0.05 * rng.normal(size=(n, 20))
    return vectors


@pytest.fixture(scope="module")
def donors() -> Floats:
    return np.vstack([vectors_of(1500, 1), 50 + 0.1 * vectors_of(ISLAND, 3)])


@pytest.fixture(scope="module")
def queries() -> Floats:
    return vectors_of(400, 2)


@pytest.fixture
def index(donors: Floats) -> DonorIndex:
    return graph_of(donors)


@pytest.fixture
def stored(index: DonorIndex, tmp_path: Path) -> DonorIndex:
    return write_index(index, tmp_path / "index")


def graph_of(donors: Floats, **options: Any) -> DonorIndex:
    return build_index(donors, method="pynndescent", n_queries=1, k=1, **options)


def folder_of(stored: DonorIndex) -> Path:
    assert stored.folder is not None
    return stored.folder


def same_bits(first: tuple[Any, ...], second: tuple[Any, ...]) -> bool:
    return [part.tobytes() for part in first] == [part.tobytes() for part in second]


def test_the_graph_finds_what_the_exact_search_finds(
    index: DonorIndex, donors: Floats, queries: Floats
) -> None:
    true = nearest_donors(donors, queries, 10)
    found = index.query(queries, 10)
    everything = (found[1] == true[1]).all(axis=1)
    assert everything.mean() > 0.95
    assert same_bits(
        tuple(part[everything] for part in found), tuple(part[everything] for part in true)
    )
    assert measure_recall(index, queries, 10, n_sample=300, seed=5).n_sample == 300
    assert measure_recall(index, queries, 10).value > 0.95


def test_donors_that_nothing_leads_to_are_found(index: DonorIndex, donors: Floats) -> None:
    joined = index.graph
    assert joined is not None
    first = len(donors) - ISLAND
    assert (joined.indices[joined.indptr[first] :] >= first).all()
    distance, found = index.query(donors[first:], ISLAND)
    assert (np.sort(found, axis=1) == np.arange(first, len(donors))).all()
    assert (distance[:, 0] == 0).all()


def test_every_donor_is_found_when_all_are_wanted(index: DonorIndex, donors: Floats) -> None:
    assert same_bits(
        index.query(donors[:3], len(donors)), nearest_donors(donors, donors[:3], len(donors))
    )


def test_donors_at_one_distance_are_in_order_of_index() -> None:
    corners = np.array([[x, y] for x in (-1.0, 1.0) for y in (-1.0, 1.0)] * 20)
    distance, found = graph_of(corners).query(np.zeros((1, 2)), 80)
    assert (distance == np.sqrt(2)).all()
    assert (found == np.arange(80)).all()


@pytest.mark.parametrize("n_rows", [1, 7, 399])
def test_a_query_has_the_same_bits_in_any_company(
    index: DonorIndex, queries: Floats, n_rows: int
) -> None:
    parts = [index.query(queries[i : i + n_rows], 6) for i in range(0, len(queries), n_rows)]
    joined = tuple(np.concatenate(part) for part in zip(*parts, strict=True))
    assert same_bits(joined, index.query(queries, 6))


def test_threads_that_share_an_index_find_the_same_bits(index: DonorIndex, queries: Floats) -> None:
    alone = index.query(queries, 10)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda _: index.query(queries, 10), range(8)))
    assert all(same_bits(found, alone) for found in together)


def test_the_same_donors_and_seed_give_the_same_index(donors: Floats) -> None:
    first, second, other = graph_of(donors), graph_of(donors), graph_of(donors, seed=1)
    assert first.digest == second.digest != other.digest
    assert dask.base.tokenize(first) == dask.base.tokenize(second) != dask.base.tokenize(other)


def test_facts_say_what_a_graph_is_and_what_it_finds(donors: Floats) -> None:
    index = graph_of(donors, seed=3, n_threads=1).with_recall(Recall(0.99, 10, 1000, 0))
    facts = json.loads(json.dumps(index.facts()))
    assert facts.pop("pynndescent")[0].isdigit()
    assert facts == {
        "method": "pynndescent",
        "n_donors": 1540,
        "n_features": 20,
        "n_threads": 1,
        "seed": 3,
        "recall": {"value": 0.99, "k": 10, "n_sample": 1000, "seed": 0},
    }


def test_a_graph_that_leads_nowhere_has_a_low_recall(index: DonorIndex, queries: Floats) -> None:
    joined = index.graph
    assert joined is not None
    poisoned = replace(index, graph=replace(joined, indices=np.zeros_like(joined.indices)))
    assert measure_recall(poisoned, queries, 10).value < 0.7


def test_what_does_not_fit_is_refused(index: DonorIndex, donors: Floats, queries: Floats) -> None:
    for wrong in (queries[:, :-1], queries[0]):
        with pytest.raises(ModelError, match=r"give \(query, 20\)"):
            index.query(wrong, 1)
    for k in (0, len(donors) + 1):
        with pytest.raises(ModelError, match="choose 1 to 1540"):
            index.query(queries, k)
    with pytest.raises(ModelError, match="recall of no query"):
        measure_recall(index, queries[:0], 1)
    with pytest.raises(ModelError, match="method 'annoy' is unknown"):
        build_index(donors, method="annoy", n_queries=1, k=1)
    with pytest.raises(ModelError, match="not finite"):
        build_index(np.full((3, 2), np.nan), n_queries=1, k=1)
    with pytest.raises(ModelError, match="30 donors are too few for a graph"):
        graph_of(donors[:30])
    with pytest.raises(ConfigError, match="n_threads = 4096"):
        graph_of(donors, n_threads=4096)


def test_without_pynndescent_the_error_says_what_to_install(
    donors: Floats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynndescent", None)
    with pytest.raises(MissingExtraError, match=r"lczcube\[ann\]"):
        graph_of(donors)


def test_under_20_000_donors_pynndescent_is_not_even_imported() -> None:
    program = """
import sys
import numpy as np
from lczcube.neighbours import build_index
index = build_index(np.eye(19_999, 2), n_queries=10**12, k=10)
index.query(np.zeros((1, 2)), 10)
print(index.method, "pynndescent" in sys.modules, index.facts()["recall"])
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["exact", "False", "None"]


def test_the_method_is_the_one_that_pays() -> None:
    assert choose_method(19_999, 10**9, 384, k=10) == "exact"
    assert choose_method(200_000, 1_000, 384, k=10) == "exact"
    assert choose_method(200_000, 200_000, 384, k=10) == "pynndescent"


def test_a_process_that_has_compiled_chooses_a_graph_sooner() -> None:
    sizes = [10_000 * i for i in range(1, 20)]
    chosen = {
        compiled: [choose_method(200_000, n, 384, k=10, compiled=compiled) for n in sizes]
        for compiled in (False, True)
    }
    assert chosen[True].count("pynndescent") > chosen[False].count("pynndescent") > 0


def test_the_plan_says_in_words_what_a_search_costs() -> None:
    sentence = search_cost(200_000, 200_000, 384, k=10, method="pynndescent").sentence()
    assert "compilation" in sentence
    assert "to build" in sentence
    exact = search_cost(5_000, 1_000, 64, k=10, method="exact").sentence()
    assert exact == "exact search: about 0 s of one core"
    with pytest.raises(ModelError, match="method 'annoy' is unknown"):
        search_cost(1, 1, 1, k=1, method="annoy")


@pytest.mark.parametrize("method", ["exact", "pynndescent"])
def test_a_stored_index_answers_with_the_same_bits(
    donors: Floats, queries: Floats, tmp_path: Path, method: str
) -> None:
    built = build_index(donors, method=method, n_queries=1, k=1).with_recall(Recall(1.0, 10, 9, 0))
    write_index(built, tmp_path / "index")
    index = open_index(tmp_path / "index", fingerprint=built.fingerprint)
    assert same_bits(index.query(queries, 10), built.query(queries, 10))
    assert index.facts() == built.facts()
    assert index.digest == built.digest


def test_the_same_index_is_stored_as_the_same_bytes(index: DonorIndex, tmp_path: Path) -> None:
    first, second = write_index(index, tmp_path / "a"), write_index(index, tmp_path / "b")
    files = {path.name: path.read_bytes() for path in folder_of(first).iterdir()}
    assert files == {path.name: path.read_bytes() for path in folder_of(second).iterdir()}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_names_products_and_bits_of_donors_are_their_fingerprint(donors: Floats) -> None:
    fingerprints = {
        donors_fingerprint(donors),
        donors_fingerprint(donors, names=["a", "b"]),
        donors_fingerprint(donors, names=["ab"]),
        donors_fingerprint(donors, products=["a", "b"]),
        donors_fingerprint(donors[:, ::-1]),
        donors_fingerprint(np.nextafter(donors, 0)),
    }
    assert len(fingerprints) == 6


def test_an_index_of_other_donors_is_refused(stored: DonorIndex, donors: Floats) -> None:
    with pytest.raises(ModelError, match="built from other donors, features or products"):
        open_index(folder_of(stored), fingerprint=donors_fingerprint(donors, products=["other"]))
    with pytest.raises(MissingInputError, match="build the index first"):
        open_index(folder_of(stored).parent, fingerprint=stored.fingerprint)


@pytest.mark.parametrize(
    "name",
    [
        "vectors.npy",
        "places.npy",
        "axes.npy",
        "indptr.npy",
        "indices.npy",
        "starts.npy",
        "index.json",
    ],
)
def test_a_flipped_bit_or_a_cut_file_is_refused(stored: DonorIndex, name: str) -> None:
    path = folder_of(stored) / name
    whole = path.read_bytes()
    position = len(whole) * 2 // 3
    flipped = bytes([whole[position] ^ 1])
    for damaged in (whole[:position] + flipped + whole[position + 1 :], whole[:position], b""):
        path.write_bytes(damaged)
        with pytest.raises(ModelError, match=r"is damaged.*build the index again"):
            open_index(path.parent, fingerprint=stored.fingerprint)
    path.unlink()
    with pytest.raises((ModelError, MissingInputError), match="build the index"):
        open_index(path.parent, fingerprint=stored.fingerprint)


POISONS: dict[str, Callable[[npt.NDArray[Any]], Any]] = {
    "indices": lambda array: np.where(np.arange(len(array)) == 7, 1540, array),
    "starts": lambda array: -array,
    "indptr": lambda array: array[::-1],
    "places": lambda array: array[1:],
    "axes": lambda array: array[:-1],
}


@pytest.mark.parametrize("name", POISONS)
def test_numbers_that_lead_out_of_the_graph_are_refused_whatever_the_checksums_say(
    index: DonorIndex, tmp_path: Path, name: str
) -> None:
    joined = index.graph
    assert joined is not None
    array = np.ascontiguousarray(POISONS[name](joined.arrays()[name]), joined.arrays()[name].dtype)
    folder = tmp_path / "index"
    write_index(index, folder)
    np.save(folder / f"{name}.npy", array)
    described = json.loads((folder / "index.json").read_text())
    described["content"]["digests"][name] = array_digest(array)
    described["sha256"] = _checksum(described["content"])
    (folder / "index.json").write_text(json.dumps(described))
    with pytest.raises(ModelError, match="a number leads out of the graph"):
        open_index(folder, fingerprint=index.fingerprint)


def test_an_array_of_objects_is_not_unpickled(stored: DonorIndex) -> None:
    np.save(folder_of(stored) / "axes.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ModelError, match=r"axes\.npy cannot be read"):
        open_index(folder_of(stored), fingerprint=stored.fingerprint)


def test_a_folder_that_is_no_index_is_never_replaced(index: DonorIndex, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"holds no index\.json"):
        write_index(index, tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_stored_index_travels_as_the_name_of_its_folder(
    stored: DonorIndex, queries: Floats, tmp_path: Path
) -> None:
    (tmp_path / "index.pickle").write_bytes(pickle.dumps(stored))
    assert (tmp_path / "index.pickle").stat().st_size < 500
    np.save(tmp_path / "queries.npy", queries)
    program = """
import pickle, sys
import numpy as np
folder = sys.argv[1]
index = pickle.load(open(f"{folder}/index.pickle", "rb"))
distance, found = index.query(np.load(f"{folder}/queries.npy"), 10)
np.save(f"{folder}/distance.npy", distance)
np.save(f"{folder}/found.npy", found)
assert "pynndescent" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program, str(tmp_path)], check=True)
    there = np.load(tmp_path / "distance.npy"), np.load(tmp_path / "found.npy")
    assert same_bits(there, stored.query(queries, 10))


def test_an_index_that_is_not_stored_travels_with_its_arrays(
    index: DonorIndex, queries: Floats
) -> None:
    arrived = pickle.loads(pickle.dumps(index))
    assert same_bits(arrived.query(queries, 10), index.query(queries, 10))


def test_an_index_that_was_replaced_after_it_was_shipped_is_refused(
    stored: DonorIndex, donors: Floats
) -> None:
    shipped = pickle.dumps(stored)
    write_index(graph_of(donors[:-1]), folder_of(stored))
    with pytest.raises(ModelError, match="was replaced while it was in use"):
        pickle.loads(shipped)
