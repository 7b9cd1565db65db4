import json
from dataclasses import replace
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import box
from sklearn.neighbors import KNeighborsClassifier

from lczcube.cube import GRID_ATTR
from lczcube.errors import ConfigError, LabelError, ModelError
from lczcube.grid import Grid
from lczcube.labels.samples import COLUMNS
from lczcube.neighbours import nearest_donors
from lczcube.propagate import (
    FATES,
    Calibration,
    Donors,
    Electors,
    Voting,
    build_donors,
    cast_votes,
    city_moments,
    exclude_pseudo_labels,
    fate_counts,
    fixed_cut,
    keep_rates,
    propagate_labels,
    pseudo_label_table,
    silent_classes,
)

Floats = npt.NDArray[np.float64]
PRODUCTS = ["test/1"]


def grid_of_shape(rows: int, columns: int, **keys: Any) -> Grid:
    return Grid("EPSG:32632", (0, 0, columns, rows), **keys)


def samples_of(
    features: npt.ArrayLike,
    lcz: npt.ArrayLike,
    ids: list[str] | None = None,
    **columns: npt.ArrayLike,
) -> xr.Dataset:
    """Samples of city ``x``, each a group of its own, but for what ``columns`` say."""
    values = np.asarray(features, np.float32)
    n = len(values)
    patch_id = ids or [f"p{i:04d}" for i in range(n)]
    given: dict[str, Any] = {
        "patch_id": np.array(patch_id, object),
        "city": np.full(n, "x", object),
        "group": np.array(patch_id, object),
        "lcz": np.asarray(lcz, np.uint8),
        "split": np.full(n, "", object),
        "weight": np.ones(n, np.float32),
        "x": 1000.0 * np.arange(n),
        "y": np.zeros(n),
        "size_m": np.full(n, 320.0),
        "valid_fraction": np.ones(n, np.float32),
    } | {name: np.asarray(column) for name, column in columns.items()}
    assert set(given) == set(COLUMNS)
    data: dict[str, Any] = {name: (("sample",), column) for name, column in given.items()}
    return xr.Dataset(
        data | {"features": (("sample", "feature"), values)},
        coords={"feature": [f"aef_b{i}_mean" for i in range(values.shape[1])]},
        attrs={"products": json.dumps(PRODUCTS), "synthetic": 1, "unit": "patch"},
    )


def queries_of(features: npt.ArrayLike, covered: npt.ArrayLike | None = None) -> xr.Dataset:
    """Queries on cells of 320 m from features of dims (cell_y, cell_x, feature)."""
    values = np.asarray(features, np.float32)
    rows, columns, n = values.shape
    inside = np.ones((rows, columns), bool) if covered is None else np.asarray(covered)
    grid = grid_of_shape(rows, columns)
    return xr.Dataset(
        {
            "features": (("cell_y", "cell_x", "feature"), values),
            "covered": (("cell_y", "cell_x"), inside),
        },
        coords={
            "cell_y": grid.output_geobox.coordinates["y"].values,
            "cell_x": grid.output_geobox.coordinates["x"].values,
            "feature": [f"aef_b{i}_mean" for i in range(n)],
        },
        attrs={"products": json.dumps(PRODUCTS), GRID_ATTR: grid.to_json(), "synthetic": 0},
    )


def of_k(donors: Donors, k: int) -> Electors:
    return Electors(donors, Voting(k=k))


def brute_force(donors: Floats, queries: Floats, k: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Each query on its own: sort all donors by (distance, position)."""
    rows = []
    for query in queries:
        away = [float(np.sqrt(np.sum((donor - query) ** 2))) for donor in donors]
        rows.append(sorted((d, i) for i, d in enumerate(away))[:k])
    distance = np.array([[d for d, _ in row] for row in rows]).reshape(len(queries), k)
    return distance, np.array([[i for _, i in row] for row in rows], np.int64).reshape(-1, k)


def random_world(seed: int) -> tuple[xr.Dataset, Floats]:
    """60 donors, a third of them copies, and 7 x 9 queries, some of them on a donor."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(60, 4))
    features[40:] = features[:20]
    queries = rng.normal(size=(7, 9, 4))
    queries[0, :5] = features[:5]
    return samples_of(features, rng.integers(1, 18, 60)), queries


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 12), st.booleans())
def test_neighbours_equal_brute_force(seed: int, n: int, k: int, coarse: bool) -> None:
    rng = np.random.default_rng(seed)
    donors, queries = rng.normal(size=(n, 3)), rng.normal(size=(5, 3))
    if coarse:  # whole numbers: many donors at equal distances and at distance 0
        donors, queries = np.round(donors), np.round(queries)
    k = min(k, n)
    distance, index = nearest_donors(donors, queries, k)
    expected_distance, expected_index = brute_force(donors, queries, k)
    np.testing.assert_allclose(distance, expected_distance, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(index, expected_index)


def test_more_ties_than_spare_candidates_still_go_by_position() -> None:
    donors = np.zeros((300, 2))
    donors[7] = 9.0
    distance, index = nearest_donors(donors, np.ones((3, 2)), 4)
    assert index.tolist() == [[0, 1, 2, 3]] * 3
    np.testing.assert_allclose(distance, np.sqrt(2))


def test_neighbours_of_more_queries_than_a_block_equal_one_at_a_time() -> None:
    rng = np.random.default_rng(1)
    donors, queries = rng.normal(size=(50, 3)), rng.normal(size=(2100, 3))
    distance, index = nearest_donors(donors, queries, 5)
    at = [0, 1023, 1024, 2047, 2048, 2099]
    expected_distance, expected_index = brute_force(donors, queries[at], 5)
    np.testing.assert_array_equal(index[at], expected_index)
    np.testing.assert_allclose(distance[at], expected_distance, rtol=1e-12)


def test_no_query_has_no_neighbours() -> None:
    distance, index = nearest_donors(np.ones((5, 2)), np.empty((0, 2)), 3)
    assert distance.shape == index.shape == (0, 3)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_votes_equal_scikit_learn_weighted_by_distance(seed: int) -> None:
    rng = np.random.default_rng(seed)
    donors = build_donors(samples_of(rng.normal(size=(80, 4)), rng.integers(1, 18, 80)))
    queries = rng.normal(size=(6, 8, 4)).astype(np.float32)
    queries[0, 0] = (donors.vectors[3] / donors.space.scale + donors.space.mean).astype(np.float32)
    electors = Electors(donors, Voting(k=10, power=1))
    voted = propagate_labels(electors, queries_of(queries)).compute()
    reference = KNeighborsClassifier(10, weights="distance", algorithm="brute")
    reference.fit(donors.vectors, donors.lcz)
    shares = reference.predict_proba(
        (queries.reshape(-1, 4) - donors.space.mean) * donors.space.scale
    )
    expected = np.zeros((48, 17))
    expected[:, reference.classes_.astype(int) - 1] = shares
    percent = voted["probability"].values.reshape(17, -1).T
    assert np.abs(percent - expected * 100).max() <= 0.5 + 1e-3
    winner = expected.max(axis=1)
    chosen = expected[np.arange(48), voted["lcz"].values.ravel().astype(int) - 1]
    np.testing.assert_allclose(chosen, winner, atol=2e-6)
    np.testing.assert_array_equal(voted["kept"].values.ravel(), winner >= 0.8)
    distance = reference.kneighbors(
        (queries.reshape(-1, 4) - donors.space.mean) * donors.space.scale
    )[0][:, 0]
    np.testing.assert_allclose(voted["distance"].values.ravel(), distance, rtol=1e-6, atol=1e-6)


def test_neighbours_at_equal_distance_are_taken_in_order_of_id() -> None:
    donors = build_donors(samples_of([[1.0], [-1.0], [1.0], [-1.0]], [4, 3, 2, 1], list("dcba")))
    voted = propagate_labels(of_k(donors, 1), queries_of([[[0.0]]])).compute()
    assert int(voted["lcz"].item()) == 1
    assert donors.donor_id[int(voted["donor"].item())] == "a"


def test_donors_at_distance_zero_outvote_all_others() -> None:
    samples = samples_of([[0.0], [0.0], [0.001], [0.001], [0.001]], [5, 6, 7, 7, 7])
    voted = propagate_labels(build_donors(samples), queries_of([[[0.0]]])).compute()
    percent = voted["probability"].values.ravel()
    assert percent[[4, 5, 6]].tolist() == [50, 50, 0]
    assert int(voted["lcz"].item()) == 5
    assert float(voted["distance"].item()) == 0


def test_more_neighbours_than_donors_means_all_donors_vote() -> None:
    donors = build_donors(samples_of([[0.0], [2.0]], [3, 9]))
    voted = propagate_labels(donors, queries_of([[[1.0]]])).compute()
    assert voted["probability"].values.ravel()[[2, 8]].tolist() == [50, 50]


def test_dask_equals_numpy() -> None:
    samples, queries = random_world(3)
    electors, whole = of_k(build_donors(samples), 7), queries_of(queries)
    lazy = propagate_labels(electors, whole.chunk({"cell_y": 3, "cell_x": 4, "feature": 2}))
    xr.testing.assert_identical(lazy.compute(), propagate_labels(electors, whole).compute())


@pytest.mark.parametrize("chunks", [(1, 1), (7, 2), (3, 9), (2, 5)])
def test_any_chunking_equals_one_chunk(chunks: tuple[int, int]) -> None:
    samples, queries = random_world(4)
    electors, whole = of_k(build_donors(samples, pca=0.9), 7), queries_of(queries).chunk()
    electors = replace(electors, calibration=Calibration(1.7, 0.1, electors.donors.is_class))
    cut = whole.chunk({"cell_y": chunks[0], "cell_x": chunks[1]})
    xr.testing.assert_identical(
        propagate_labels(electors, cut).compute(), propagate_labels(electors, whole).compute()
    )


def test_propagation_computes_nothing_before_it_is_asked_to() -> None:
    samples, queries = random_world(5)
    voted = propagate_labels(build_donors(samples), queries_of(queries).chunk({"cell_y": 4}))
    assert all(v.chunks is not None for v in voted.data_vars.values())
    assert voted["lcz"].chunks == ((4, 3), (9,))


def test_the_order_of_donors_does_not_matter() -> None:
    samples, queries = random_world(6)
    shuffled = samples.isel(sample=np.random.default_rng(0).permutation(60))
    first, second = (
        propagate_labels(of_k(build_donors(s), 7), queries_of(queries)).compute()
        for s in (samples, shuffled)
    )
    xr.testing.assert_identical(first, second)


def test_results_have_chosen_dtypes_and_the_queries_coordinates() -> None:
    samples, queries = random_world(7)
    given = queries_of(queries)
    voted = propagate_labels(of_k(build_donors(samples), 7), given, cut=0.6)
    dtypes = {str(name): str(v.dtype) for name, v in voted.data_vars.items()}
    assert dtypes == {
        "lcz": "uint8",
        "confidence": "uint8",
        "probability": "uint8",
        "vote": "uint8",
        "distance": "float32",
        "donor": "int32",
        "fate": "uint8",
        "kept": "bool",
    }
    computed = voted.compute()
    assert {str(name): str(v.dtype) for name, v in computed.data_vars.items()} == dtypes
    assert voted["probability"].dims == ("lcz_class", "cell_y", "cell_x")
    assert voted["lcz_class"].values.tolist() == list(range(1, 18))
    xr.testing.assert_identical(voted["cell_y"], given["cell_y"])
    assert voted.attrs == given.attrs
    assert voted["fate"].attrs["flag_meanings"].split() == list(FATES)


def test_another_product_is_refused() -> None:
    samples, queries = random_world(8)
    other = queries_of(queries).assign_attrs(products=json.dumps(["test/2"]))
    with pytest.raises(ModelError, match=r"of product test/2 and donors of test/1"):
        propagate_labels(build_donors(samples), other)


@pytest.mark.parametrize("order", [[3, 2, 1, 0], [0, 1, 2]])
def test_other_features_are_refused(order: list[int]) -> None:
    samples, queries = random_world(9)
    other = queries_of(queries).isel(feature=order)
    with pytest.raises(ModelError, match=rf"have {len(order)} features .* in another order"):
        propagate_labels(build_donors(samples), other)


@pytest.mark.parametrize("wrong", [{"k": 0}, {"power": -1}, {"balance": 1.5}, {"merge": "all"}])
def test_an_impossible_vote_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=f"{next(iter(wrong))} = "):
        Voting(**wrong)


@pytest.mark.parametrize(
    "cut", [1.2, -0.1, np.full(3, 0.8), np.full(17, np.nan), np.full(17, -3.0)]
)
def test_an_impossible_cut_is_refused(cut: Any) -> None:
    samples, queries = random_world(10)
    with pytest.raises(ModelError, match=r"give 0-1|one a class"):
        propagate_labels(build_donors(samples), queries_of(queries), cut=cut)


def five_at_equal_distance(n_winning: int, n: int = 5) -> Donors:
    """Donors all at distance 1 of the query 0 (z-scores by hand)."""
    corners = np.where(np.arange(n) % 2, -1.0, 1.0)[:, None]
    codes = [2] * n_winning + [8] * (n - n_winning)
    ids = [f"p{i:04d}" for i in range(n)]
    donors = build_donors(samples_of(corners, codes, ids))
    space = replace(donors.space, mean=np.zeros(1), scale=np.ones(1))
    return replace(donors, vectors=corners, space=space)


def test_a_confidence_of_exactly_the_cut_is_kept() -> None:
    donors = five_at_equal_distance(4)
    voted = propagate_labels(of_k(donors, 5), queries_of([[[0.0]]]), cut=0.8).compute()
    assert (int(voted["lcz"].item()), int(voted["confidence"].item())) == (2, 80)
    assert bool(voted["kept"].item())


def test_a_confidence_that_only_rounds_to_the_cut_is_not_kept() -> None:
    donors = five_at_equal_distance(167, 210)  # 0.7952, stored as 80 per cent
    voted = propagate_labels(of_k(donors, 210), queries_of([[[0.0]]])).compute()
    assert int(voted["confidence"].item()) == 80
    assert not bool(voted["kept"].item())


def test_cells_not_covered_or_with_nan_abstain() -> None:
    samples, queries = random_world(11)
    queries[1, 2, 3] = np.nan
    covered = np.ones((7, 9), bool)
    covered[4, 5] = False
    voted = propagate_labels(build_donors(samples), queries_of(queries, covered), cut=0).compute()
    silent = np.zeros((7, 9), bool)
    silent[[1, 4], [2, 5]] = True
    np.testing.assert_array_equal(voted["lcz"].values == 0, silent)
    np.testing.assert_array_equal(voted["confidence"].values == 255, silent)
    np.testing.assert_array_equal((voted["probability"].values == 255).all(axis=0), silent)
    np.testing.assert_array_equal(np.isnan(voted["distance"].values), silent)
    np.testing.assert_array_equal(voted["donor"].values == -1, silent)
    np.testing.assert_array_equal(voted["kept"].values, ~silent)


def test_donors_are_standardised_by_their_own_features() -> None:
    donors = build_donors(samples_of([[1, 5], [3, 5]], [1, 2]))
    assert donors.space.mean.tolist() == [2, 5]
    assert donors.space.scale.tolist() == [1, 1]
    assert donors.vectors.tolist() == [[-1, 0], [1, 0]]


def test_donors_with_a_nan_feature_or_without_class_are_left_out() -> None:
    samples = samples_of([[1, 5], [np.nan, 5], [7, 5], [9, 6]], [1, 2, 0, 4], list("dcba"))
    donors = build_donors(samples)
    assert donors.donor_id.tolist() == ["a", "d"]
    assert donors.lcz.tolist() == [4, 1]


def test_samples_that_give_no_donor_are_refused() -> None:
    with pytest.raises(LabelError, match="none of the 1 labelled samples has all features"):
        build_donors(samples_of([[np.nan]], [1]))


def test_of_a_group_only_the_nearest_donor_votes() -> None:
    near = [[1.0], [1.1], [1.2], [1.3]]  # cells of one polygon
    samples = samples_of(
        [*near, [-2.0], [3.0]], [5, 5, 5, 5, 6, 6], group=["a", "a", "a", "a", "b", "c"]
    )
    donors = build_donors(samples)
    votes = cast_votes(donors, donors.space.vectors(np.array([[0.0]]), "x"), Voting(k=3))
    weights = np.array([1 / 1, 1 / 4, 1 / 9])  # distances 1, 2 and 3, squared
    np.testing.assert_allclose(votes.shares[0, 4], weights[0] / weights.sum())
    np.testing.assert_allclose(votes.shares[0, 5], weights[1:].sum() / weights.sum())


def test_groups_of_one_name_in_two_cities_are_two() -> None:
    samples = samples_of([[1.0], [2.0]], [5, 6], group=["a", "a"], city=["x", "z"])
    assert build_donors(samples).n_groups == 2


def test_a_label_of_half_the_weight_has_half_a_vote() -> None:
    samples = samples_of([[1.0], [-1.0]], [5, 6], weight=np.array([1, 0.5], np.float32))
    donors = build_donors(samples)
    votes = cast_votes(donors, np.zeros((1, 1)), Voting())
    np.testing.assert_allclose(votes.shares[0, [4, 5]], [2 / 3, 1 / 3])
    assert build_donors(samples_of([[1.0], [2.0]], [5, 6], weight=[1, 0])).lcz.tolist() == [5]


def test_balance_takes_the_frequency_of_classes_out() -> None:
    samples = samples_of([[1.0], [-1.0], [1.0], [-1.0]], [5, 5, 5, 6])
    votes = [
        cast_votes(build_donors(samples), np.zeros((1, 1)), Voting(balance=balance))
        for balance in (0, 1)
    ]
    np.testing.assert_allclose(votes[0].shares[0, [4, 5]], [3 / 4, 1 / 4])
    np.testing.assert_allclose(votes[1].shares[0, [4, 5]], [1 / 2, 1 / 2])


def test_balance_counts_a_group_of_two_classes_for_both() -> None:
    samples = samples_of([[1.0], [-1.0]] * 2, [5, 6] * 2, group=["a", "a", "b", "b"])
    votes = cast_votes(build_donors(samples), np.zeros((1, 1)), Voting(balance=1, k=4))
    np.testing.assert_allclose(votes.shares[0, [4, 5]], [1, 0])  # of each group the first by id
    one = samples_of([[1.0], [-1.0]], [5, 6], group=["a", "b"])
    both = cast_votes(build_donors(one), np.zeros((1, 1)), Voting(balance=1))
    np.testing.assert_allclose(both.shares[0, [4, 5]], [0.5, 0.5])


class FindsOne:
    """An index that finds one group, and nobody beside it."""

    def query(self, queries: Floats, k: int, _: Any) -> tuple[Floats, npt.NDArray[np.int64]]:
        distance = np.full((len(queries), k), np.inf)
        index = np.full((len(queries), k), -1)
        distance[:, 0], index[:, 0] = 2.0, 0
        return distance, index


@pytest.mark.parametrize("power", [0.0, 1.0, 200.0])
def test_who_is_not_found_has_no_vote_whatever_the_power(power: float) -> None:
    donors = build_donors(samples_of([[1.0], [-1.0], [3.0]], [5, 6, 6]))
    index: Any = FindsOne()
    votes = cast_votes(donors, np.zeros((2, 1)), Voting(power=power), [index])
    np.testing.assert_array_equal(votes.shares[:, 4], [1, 1])


def test_equals_that_rounding_hides_do_not_decide() -> None:
    features = np.random.default_rng(3).normal(size=(7, 2)).astype(np.float32)
    features[:, 1] = 0.1
    moments = {"x": (np.array([0.0, 0.3]), np.array([1.0, 0.7]))}
    donors = build_donors(samples_of(features, [1, 2, 3, 4, 5, 6, 7]), moments=moments)
    assert donors.space.scale[1] == 1


def test_by_city_a_city_of_many_labels_does_not_drown_the_other() -> None:
    many = [[0.9 + i / 100] for i in range(20)]
    samples = samples_of([*many, [-1.2], [-1.3]], [5] * 20 + [6] * 2, city=["x"] * 20 + ["z"] * 2)
    donors = build_donors(samples)
    query = donors.space.vectors(np.array([[0.0]]), "x")
    pooled, by_city = (
        cast_votes(donors, query, Voting(k=2, merge=merge)) for merge in ("pooled", "by_city")
    )
    assert pooled.shares[0, 5] == 0
    assert by_city.shares[0, 5] > 0.3
    assert pooled.donor == by_city.donor == 0
    np.testing.assert_array_equal(pooled.distance, by_city.distance)


def test_a_weight_of_an_input_stretches_its_features() -> None:
    rng = np.random.default_rng(0)
    samples = samples_of(rng.normal(size=(30, 3)), rng.integers(1, 18, 30)).assign_coords(
        feature=["aef_b0_mean", "aef_more_b0_mean", "canopy_mean"]
    )
    plain, weighted = (build_donors(samples, weights=w) for w in ({}, {"aef": 4, "aef_more": 0}))
    ratio = weighted.vectors / plain.vectors
    np.testing.assert_allclose(ratio, np.broadcast_to([2, 0, 1], ratio.shape), atol=1e-12)
    with pytest.raises(ConfigError, match="weight aef = inf is no weight"):
        build_donors(samples, weights={"aef": np.inf})
    with pytest.raises(ConfigError, match="weight other = 1 is of no input"):
        build_donors(samples, weights={"other": 1})
    with pytest.raises(ConfigError, match="weight aef = -1 is no weight"):
        build_donors(samples, weights={"aef": -1})


def test_principal_components_keep_the_distances_but_for_the_share_left_out() -> None:
    rng = np.random.default_rng(1)
    hidden = rng.normal(size=(200, 3))
    features = hidden @ rng.normal(size=(3, 12)) + 1e-3 * rng.normal(size=(200, 12))
    samples = samples_of(features, rng.integers(1, 18, 200))
    whole, fewer = build_donors(samples), build_donors(samples, pca=0.999)
    assert fewer.vectors.shape[1] == fewer.space.n_dimensions == 3
    pairs = [
        np.linalg.norm(d.vectors[:50, None] - d.vectors[None, 50:], axis=-1) for d in (whole, fewer)
    ]
    np.testing.assert_allclose(pairs[1], pairs[0], rtol=0.02, atol=0.02)
    with pytest.raises(ConfigError, match=r"pca = 1: give the share"):
        build_donors(samples, pca=1)


def test_cities_standardised_by_their_own_cells_are_alike_but_for_a_shift() -> None:
    rng = np.random.default_rng(2)
    cells = rng.normal(size=(5, 6, 2)).astype(np.float32)
    there = 3 * cells + 10
    covered = np.ones((5, 6), bool)
    covered[0, 0] = False
    moments = {
        city: city_moments(queries_of(values, covered).chunk({"cell_y": 2}))
        for city, values in (("x", cells), ("z", there))
    }
    flat = cells.reshape(-1, 2)[1:].astype(float)
    np.testing.assert_allclose(moments["x"], [flat.mean(axis=0), flat.std(axis=0)], rtol=1e-6)
    samples = samples_of(cells.reshape(-1, 2)[:20], rng.integers(1, 18, 20))
    donors = build_donors(samples, moments=moments)
    here, away = (
        propagate_labels(donors, queries_of(values), city=city).compute()
        for city, values in (("x", cells), ("z", there))
    )
    np.testing.assert_array_equal(here["lcz"].values, away["lcz"].values)
    np.testing.assert_allclose(here["distance"].values, away["distance"].values, atol=1e-4)
    with pytest.raises(ModelError, match="the cells of 'y' are not known"):
        propagate_labels(donors, queries_of(cells), city="y").compute()


def test_a_cell_beyond_the_limit_is_novel_and_abstains_but_says_who_was_nearest() -> None:
    donors = build_donors(samples_of([[0.0], [2.0]], [3, 9]))
    voted = propagate_labels(
        Electors(donors, limit=1.0), queries_of([[[1.0], [9.0]]]), cut=0
    ).compute()
    assert voted["lcz"].values[0, 1] == 0
    assert voted["confidence"].values[0, 1] == voted["vote"].values[0, 1] == 255
    assert voted["donor"].values.tolist() == [[0, 1]]
    assert voted["distance"].values.tolist() == [[1, 7]]
    assert fates_of(voted) == {"kept": 1, "novel": 1}


def test_a_cut_of_its_own_is_that_of_the_winning_class() -> None:
    donors = build_donors(samples_of([[0.0], [2.0]], [3, 9]))
    cells = queries_of([[[0.9], [1.1]]])
    confidence = propagate_labels(donors, cells, cut=0).compute()["confidence"].values
    assert (confidence == 60).all()
    voted = propagate_labels(donors, cells, cut=fixed_cut(0.9, {9: 0.5})).compute()
    assert voted["kept"].values.tolist() == [[False, True]]


def kept_cells(lcz: list[list[int]]) -> xr.Dataset:
    """All cells kept, as propagation gives them, on cells of 320 m from (0, 0) upwards."""
    codes = np.array(lcz, np.uint8)
    grid = grid_of_shape(*codes.shape)
    dims = ("cell_y", "cell_x")
    return xr.Dataset(
        {
            "lcz": (dims, codes),
            "fate": (dims, np.where(codes > 0, 0, 5).astype(np.uint8)),
            "kept": (dims, codes > 0),
            "confidence": (dims, np.full(codes.shape, 0.9)),
            "vote": (dims, np.full(codes.shape, 0.7)),
            "distance": (dims, np.full(codes.shape, 1.5, np.float32)),
            "donor": (dims, np.arange(codes.size, dtype=np.int32).reshape(codes.shape)),
        },
        coords={
            "cell_y": grid.output_geobox.coordinates["y"].values,
            "cell_x": grid.output_geobox.coordinates["x"].values,
        },
        attrs={GRID_ATTR: grid.to_json()},
    )


def squares(lcz: list[int], *boxes: tuple[float, float, float, float]) -> gpd.GeoDataFrame:
    codes = np.array(lcz, np.uint8)
    return gpd.GeoDataFrame({"lcz": codes}, geometry=[box(*b) for b in boxes], crs="EPSG:32632")


NONE = squares([])


def test_a_pseudo_label_that_contradicts_a_label_is_dropped() -> None:
    cells = kept_cells([[1, 1, 1], [1, 1, 1]])
    labels = squares([2, 1], (10, 330, 20, 340), (650, 10, 660, 20))  # lower right agrees
    narrowed = exclude_pseudo_labels(cells, labels=labels, evaluation=NONE)
    assert narrowed["kept"].values.tolist() == [[False, True, True], [True, True, True]]
    assert fates_of(narrowed) == {"contradicts_a_label": 1, "kept": 5}


def test_a_pseudo_label_near_the_evaluation_is_dropped_even_when_it_agrees() -> None:
    cells = kept_cells([[1, 1, 1, 1]])
    evaluation = squares([1], (10, 10, 310, 310))
    narrowed = exclude_pseudo_labels(cells, labels=evaluation, evaluation=evaluation)
    # Windows start at 0, 320, 640, 960 m: gaps to the label are 0, 10, 330 and 650 m.
    assert narrowed["kept"].values.tolist() == [[False, False, True, True]]
    assert fates_of(narrowed) == {"near_evaluation": 2, "kept": 2}


def test_the_distance_to_the_evaluation_can_be_chosen() -> None:
    cells = kept_cells([[1, 1, 1, 1]])
    evaluation = squares([1], (10, 10, 310, 310))
    narrowed = exclude_pseudo_labels(cells, labels=NONE, evaluation=evaluation, exclude_eval_m=331)
    assert narrowed["kept"].values.tolist() == [[False, False, False, True]]


def test_a_pseudo_label_dropped_twice_is_counted_once() -> None:
    cells = kept_cells([[1, 0, 0]])
    label = squares([9], (10, 10, 20, 20))
    narrowed = exclude_pseudo_labels(cells, labels=label, evaluation=label)
    assert fates_of(narrowed) == {"contradicts_a_label": 1, "no_data": 2}


def test_a_cell_that_was_not_kept_keeps_its_reason() -> None:
    cells = kept_cells([[1, 1]])
    cells["fate"].values[:] = [[1, 2]]
    label = squares([9], (0, 0, 640, 320))
    narrowed = exclude_pseudo_labels(cells, labels=label, evaluation=label)
    assert narrowed["fate"].values.tolist() == [[1, 2]]


def test_excluding_leaves_the_input_and_the_other_variables_as_they_were() -> None:
    cells = kept_cells([[1, 2]])
    before = cells.copy(deep=True)
    label = squares([9], (0, 0, 640, 320))
    narrowed = exclude_pseudo_labels(cells, labels=label, evaluation=NONE)
    xr.testing.assert_identical(cells, before)
    judged = ["kept", "fate"]
    xr.testing.assert_identical(narrowed.drop_vars(judged), cells.drop_vars(judged))


def test_a_window_wider_than_its_output_pixel_is_what_counts_in_any_chunking() -> None:
    cells = kept_cells([[1] * 16] * 16)
    grid = Grid("EPSG:32632", (0, 0, 5, 5), stride_m=100)  # 16 x 16 pixels, windows of 320 m
    at = grid.output_geobox.coordinates
    cells = cells.assign_attrs({GRID_ATTR: grid.to_json()}).assign_coords(
        cell_y=at["y"].values, cell_x=at["x"].values
    )
    label = squares([9], (801, 801, 802, 802))
    narrowed = exclude_pseudo_labels(cells, labels=label, evaluation=NONE)
    # Windows reach 160 m past their centre; rows count from the top.
    centres = np.arange(16) * 100 + 50
    near_x = np.abs(centres - 801.5) <= 160.5
    near_y = np.abs(1600 - centres - 801.5) <= 160.5
    np.testing.assert_array_equal(~narrowed["kept"].values, near_y[:, None] & near_x[None])
    chunked = exclude_pseudo_labels(
        cells.chunk({"cell_y": 5, "cell_x": 7}), labels=label, evaluation=NONE
    )
    assert chunked["kept"].chunks == ((5, 5, 5, 1), (7, 7, 2))
    np.testing.assert_array_equal(chunked["kept"].values, narrowed["kept"].values)


def test_the_table_of_pseudo_labels_has_a_row_and_a_window_per_kept_cell() -> None:
    cells = kept_cells([[0, 4], [5, 0]])
    donors = pd.DataFrame({"patch_id": ["p0", "p1", "p2", "p3"], "city": ["x", "x", "z", "z"]})
    table = pseudo_label_table(cells, city="x", donors=donors)
    assert table["patch_id"].tolist() == ["pseudo/x/0-1", "pseudo/x/1-0"]
    assert table["lcz"].tolist() == [4, 5]
    assert table["donor"].tolist() == ["p1", "p2"]
    assert table["donor_city"].tolist() == ["x", "z"]
    assert set(table["origin"]) == {"pseudo"}
    np.testing.assert_allclose(table["confidence"], 0.9, rtol=1e-6)
    np.testing.assert_array_equal(table["weight"], table["confidence"])
    np.testing.assert_allclose(table["vote"], 0.7, rtol=1e-6)
    assert table.total_bounds.tolist() == [0, 0, 640, 640]
    assert table.geometry.iloc[0].bounds == (320, 320, 640, 640)
    assert table.crs == "EPSG:32632"


def test_keep_rates_count_what_raw_votes_and_confidence_and_safety_keep() -> None:
    cells = kept_cells([[1, 1, 2], [0, 2, 17]])
    cells["vote"].values[:] = [[0.9, 0.5, 0.8], [np.nan, 0.795, 0.2]]
    cells["fate"].values[:] = [[0, 1, 0], [5, 3, 1]]
    assert keep_rates(cells, fixed_cut(0.8)) == {
        1: {"cells": 2, "raw": 1, "calibrated": 1, "kept": 1},
        2: {"cells": 2, "raw": 2, "calibrated": 2, "kept": 1},
        17: {"cells": 1, "raw": 0, "calibrated": 0, "kept": 0},
    }


def test_a_class_with_donors_that_keeps_nothing_is_named() -> None:
    rates = {3: {"kept": 2}, 5: {"kept": 0}}
    present = np.isin(np.arange(1, 18), [3, 5, 9])
    assert silent_classes(rates, present) == [5, 9]


def fates_of(cells: xr.Dataset) -> dict[str, int]:
    return {fate: n for fate, n in fate_counts(cells).items() if n}
