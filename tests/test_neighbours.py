import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lczcube.neighbours import exact, nearest_donors

Floats = npt.NDArray[np.float64]


def by_sorting(donors: Floats, queries: Floats, k: int) -> npt.NDArray[np.int64]:
    """Each query on its own: sort all donors by (distance, position)."""
    away = [np.sqrt(np.square(donors - query).sum(axis=1)) for query in queries]
    return np.array([np.argsort(row, kind="stable")[:k] for row in away])


def test_donors_that_single_precision_orders_wrongly_have_their_true_order() -> None:
    # The rounding errors of float32, 1e-7 of each of 108 features, are as large as the differences.
    rng = np.random.default_rng(0)
    donors = rng.normal(size=108) + 1e-7 * rng.normal(size=(500, 108))
    queries = rng.normal(size=(20, 108))
    np.testing.assert_array_equal(
        nearest_donors(donors, queries, 5)[1], by_sorting(donors, queries, 5)
    )


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e6])
def test_neighbours_are_exact_at_any_scale(scale: float) -> None:
    rng = np.random.default_rng(1)
    donors, queries = scale * rng.normal(size=(500, 20)), scale * rng.normal(size=(30, 20))
    np.testing.assert_array_equal(
        nearest_donors(donors, queries, 7)[1], by_sorting(donors, queries, 7)
    )


def test_neighbours_of_a_query_far_from_all_donors_are_exact() -> None:
    rng = np.random.default_rng(2)
    donors = rng.normal(size=(500, 20))
    queries = 1e5 * rng.normal(size=(10, 20))
    np.testing.assert_array_equal(
        nearest_donors(donors, queries, 7)[1], by_sorting(donors, queries, 7)
    )


@pytest.mark.parametrize("n_rows", [1, 7, 100, 999])
def test_a_query_has_the_same_bits_in_any_company(n_rows: int) -> None:
    rng = np.random.default_rng(3)
    donors, queries = rng.normal(size=(300, 33)), rng.normal(size=(999, 33))
    parts = [nearest_donors(donors, queries[i : i + n_rows], 6) for i in range(0, 999, n_rows)]
    whole = nearest_donors(donors, queries, 6)
    for position in (0, 1):
        joined = np.concatenate([part[position] for part in parts])
        assert joined.tobytes() == whole[position].tobytes()


def test_a_query_has_the_same_bits_in_any_block(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    donors, queries = rng.normal(size=(300, 33)), rng.normal(size=(999, 33))
    whole = nearest_donors(donors, queries, 6)
    monkeypatch.setattr(exact, "BLOCK_BYTES", 1)
    monkeypatch.setattr(exact, "MIN_ROWS", 7)
    blocks = nearest_donors(donors, queries, 6)
    assert [part.tobytes() for part in blocks] == [part.tobytes() for part in whole]


def test_distances_are_exact_to_the_last_digits() -> None:
    donors = np.array([[3.0, 4.0], [0.0, 1e-9], [1e8, 0.0]])
    distance, index = nearest_donors(donors, np.zeros((1, 2)), 3)
    assert index.tolist() == [[1, 0, 2]]
    np.testing.assert_allclose(distance, [[1e-9, 5.0, 1e8]], rtol=1e-15)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 9), st.booleans())
def test_of_groups_each_is_found_by_its_nearest_donor(
    seed: int, n: int, n_groups: int, coarse: bool
) -> None:
    rng = np.random.default_rng(seed)
    donors, queries = rng.normal(size=(n, 3)), rng.normal(size=(5, 3))
    if coarse:  # whole numbers: equal distances, within groups and between them
        donors, queries = np.round(donors), np.round(queries)
    groups = rng.integers(0, n_groups, n)
    k = min(4, np.unique(groups).size)
    distance, index = nearest_donors(donors, queries, k, groups)
    for row, query in enumerate(queries):
        away = np.sqrt(((donors - query) ** 2).sum(axis=1))
        order = np.lexsort((np.arange(n), away))
        _, first = np.unique(groups[order], return_index=True)
        expected = order[np.sort(first)[:k]]
        assert index[row].tolist() == expected.tolist()
        np.testing.assert_allclose(distance[row], away[expected], rtol=1e-12)
