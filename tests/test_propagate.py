import json
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import box
from sklearn.neighbors import KNeighborsClassifier

from lczcube.cube import GRID_ATTR
from lczcube.errors import LabelError, ModelError
from lczcube.grid import Grid
from lczcube.propagate import (
    Donors,
    build_donors,
    exclude_pseudo_labels,
    keep_rates,
    nearest_donors,
    propagate_labels,
    pseudo_label_table,
)

Floats = npt.NDArray[np.float64]
PRODUCTS = ["test/1"]


def grid_of_shape(rows: int, columns: int, **keys: Any) -> Grid:
    return Grid("EPSG:32632", (0, 0, columns, rows), **keys)


def samples_of(
    features: npt.ArrayLike, lcz: npt.ArrayLike, ids: list[str] | None = None
) -> xr.Dataset:
    values = np.asarray(features, np.float32)
    names = [f"aef_b{i}_mean" for i in range(values.shape[1])]
    patch_id = ids or [f"p{i:04d}" for i in range(len(values))]
    return xr.Dataset(
        {
            "features": (("sample", "feature"), values),
            "lcz": (("sample",), np.asarray(lcz, np.uint8)),
            "patch_id": (("sample",), np.array(patch_id, object)),
        },
        coords={"feature": names},
        attrs={"products": json.dumps(PRODUCTS)},
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
    queries[0, 0] = (donors.features[3] * donors.std + donors.mean).astype(np.float32)
    voted = propagate_labels(donors, queries_of(queries), k=10).compute()
    reference = KNeighborsClassifier(10, weights="distance", algorithm="brute")
    reference.fit(donors.features, donors.lcz)
    shares = reference.predict_proba((queries.reshape(-1, 4) - donors.mean) / donors.std)
    expected = np.zeros((48, 17))
    expected[:, reference.classes_.astype(int) - 1] = shares
    percent = voted["probability"].values.reshape(17, -1).T
    assert np.abs(percent - expected * 100).max() <= 0.5 + 1e-3
    winner = expected.max(axis=1)
    chosen = expected[np.arange(48), voted["lcz"].values.ravel().astype(int) - 1]
    np.testing.assert_allclose(chosen, winner, atol=2e-6)
    np.testing.assert_array_equal(voted["kept"].values.ravel(), winner >= 0.8)
    distance = reference.kneighbors((queries.reshape(-1, 4) - donors.mean) / donors.std)[0][:, 0]
    np.testing.assert_allclose(voted["distance"].values.ravel(), distance, rtol=1e-6, atol=1e-6)


def test_neighbours_at_equal_distance_are_taken_in_order_of_id() -> None:
    donors = build_donors(samples_of([[1.0], [-1.0], [1.0], [-1.0]], [4, 3, 2, 1], list("dcba")))
    voted = propagate_labels(donors, queries_of([[[0.0]]]), k=1).compute()
    assert int(voted["lcz"].item()) == 1
    assert donors.donor_id[int(voted["donor"].item())] == "a"


def test_donors_at_distance_zero_outvote_all_others() -> None:
    samples = samples_of([[0.0], [0.0], [0.001], [0.001], [0.001]], [5, 6, 7, 7, 7])
    voted = propagate_labels(build_donors(samples), queries_of([[[0.0]]]), k=5).compute()
    percent = voted["probability"].values.ravel()
    assert percent[[4, 5, 6]].tolist() == [50, 50, 0]
    assert int(voted["lcz"].item()) == 5
    assert float(voted["distance"].item()) == 0


def test_more_neighbours_than_donors_means_all_donors_vote() -> None:
    donors = build_donors(samples_of([[0.0], [2.0]], [3, 9]))
    voted = propagate_labels(donors, queries_of([[[1.0]]]), k=10).compute()
    assert voted["probability"].values.ravel()[[2, 8]].tolist() == [50, 50]


def test_dask_equals_numpy() -> None:
    samples, queries = random_world(3)
    donors, whole = build_donors(samples), queries_of(queries)
    lazy = propagate_labels(donors, whole.chunk({"cell_y": 3, "cell_x": 4, "feature": 2}), k=7)
    xr.testing.assert_identical(lazy.compute(), propagate_labels(donors, whole, k=7).compute())


@pytest.mark.parametrize("chunks", [(1, 1), (7, 2), (3, 9), (2, 5)])
def test_any_chunking_equals_one_chunk(chunks: tuple[int, int]) -> None:
    samples, queries = random_world(4)
    donors, whole = build_donors(samples), queries_of(queries).chunk()
    cut = whole.chunk({"cell_y": chunks[0], "cell_x": chunks[1]})
    xr.testing.assert_identical(
        propagate_labels(donors, cut, k=7).compute(), propagate_labels(donors, whole, k=7).compute()
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
        propagate_labels(build_donors(s), queries_of(queries), k=7).compute()
        for s in (samples, shuffled)
    )
    xr.testing.assert_identical(first, second)


def test_results_have_chosen_dtypes_and_the_queries_coordinates() -> None:
    samples, queries = random_world(7)
    given = queries_of(queries)
    voted = propagate_labels(build_donors(samples), given, k=7, min_confidence=0.6)
    dtypes = {str(name): str(v.dtype) for name, v in voted.data_vars.items()}
    assert dtypes == {
        "lcz": "uint8",
        "confidence": "uint8",
        "probability": "uint8",
        "distance": "float32",
        "donor": "int32",
        "kept": "bool",
    }
    computed = voted.compute()
    assert {str(name): str(v.dtype) for name, v in computed.data_vars.items()} == dtypes
    assert voted["probability"].dims == ("lcz_class", "cell_y", "cell_x")
    assert voted["lcz_class"].values.tolist() == list(range(1, 18))
    xr.testing.assert_identical(voted["cell_y"], given["cell_y"])
    assert voted.attrs == given.attrs | {"k": 7, "min_confidence": 0.6}


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


@pytest.mark.parametrize(("k", "cut"), [(0, 0.8), (3, 1.2), (3, -0.1)])
def test_an_impossible_k_or_cut_is_refused(k: int, cut: float) -> None:
    samples, queries = random_world(10)
    with pytest.raises(ModelError, match="k is at least 1"):
        propagate_labels(build_donors(samples), queries_of(queries), k=k, min_confidence=cut)


def five_at_equal_distance(n_winning: int, n: int = 5) -> Donors:
    """Donors all at distance 1 of the query 0 (z-scores by hand)."""
    corners = np.zeros((n, 1))
    corners[:, 0] = np.where(np.arange(n) % 2, -1.0, 1.0)
    return Donors(
        features=corners,
        mean=np.zeros(1),
        std=np.ones(1),
        lcz=np.array([2] * n_winning + [8] * (n - n_winning), np.uint8),
        donor_id=np.array([f"p{i}" for i in range(n)]),
        feature_names=("aef_b0_mean",),
        products=tuple(PRODUCTS),
    )


def test_a_confidence_of_exactly_the_cut_is_kept() -> None:
    donors = five_at_equal_distance(4)
    voted = propagate_labels(donors, queries_of([[[0.0]]]), k=5, min_confidence=0.8).compute()
    assert (int(voted["lcz"].item()), int(voted["confidence"].item())) == (2, 80)
    assert bool(voted["kept"].item())


def test_a_confidence_that_only_rounds_to_the_cut_is_not_kept() -> None:
    donors = five_at_equal_distance(167, 210)  # 0.7952, stored as 80 per cent
    voted = propagate_labels(donors, queries_of([[[0.0]]]), k=210).compute()
    assert int(voted["confidence"].item()) == 80
    assert not bool(voted["kept"].item())


def test_cells_not_covered_or_with_nan_abstain() -> None:
    samples, queries = random_world(11)
    queries[1, 2, 3] = np.nan
    covered = np.ones((7, 9), bool)
    covered[4, 5] = False
    voted = propagate_labels(
        build_donors(samples), queries_of(queries, covered), min_confidence=0
    ).compute()
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
    assert donors.mean.tolist() == [2, 5]
    assert donors.std.tolist() == [1, 1]
    assert donors.features.tolist() == [[-1, 0], [1, 0]]


def test_donors_with_a_nan_feature_or_without_class_are_left_out() -> None:
    samples = samples_of([[1, 5], [np.nan, 5], [7, 5], [9, 6]], [1, 2, 0, 4], list("dcba"))
    donors = build_donors(samples)
    assert donors.donor_id.tolist() == ["a", "d"]
    assert donors.lcz.tolist() == [4, 1]


def test_samples_that_give_no_donor_are_refused() -> None:
    with pytest.raises(LabelError, match="none of the 1 labelled samples has all features"):
        build_donors(samples_of([[np.nan]], [1]))


def kept_cells(lcz: list[list[int]]) -> xr.Dataset:
    """All cells kept, as propagation gives them, on cells of 320 m from (0, 0) upwards."""
    codes = np.array(lcz, np.uint8)
    grid = grid_of_shape(*codes.shape)
    dims = ("cell_y", "cell_x")
    return xr.Dataset(
        {
            "lcz": (dims, codes),
            "kept": (dims, codes > 0),
            "confidence": (dims, np.full(codes.shape, 90, np.uint8)),
            "distance": (dims, np.full(codes.shape, 1.5, np.float32)),
            "donor": (dims, np.arange(codes.size, dtype=np.int32).reshape(codes.shape)),
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
    narrowed, counts = exclude_pseudo_labels(cells, labels=labels, evaluation=NONE)
    assert narrowed["kept"].values.tolist() == [[False, True, True], [True, True, True]]
    assert counts == {
        "candidates": 6,
        "contradict_a_label": 1,
        "near_evaluation": 0,
        "kept": 5,
    }


def test_a_pseudo_label_near_the_evaluation_is_dropped_even_when_it_agrees() -> None:
    cells = kept_cells([[1, 1, 1, 1]])
    evaluation = squares([1], (10, 10, 310, 310))
    narrowed, counts = exclude_pseudo_labels(cells, labels=evaluation, evaluation=evaluation)
    # Windows start at 0, 320, 640, 960 m: gaps to the label are 0, 10, 330 and 650 m.
    assert narrowed["kept"].values.tolist() == [[False, False, True, True]]
    assert (counts["near_evaluation"], counts["kept"]) == (2, 2)


def test_the_distance_to_the_evaluation_can_be_chosen() -> None:
    cells = kept_cells([[1, 1, 1, 1]])
    evaluation = squares([1], (10, 10, 310, 310))
    narrowed, _ = exclude_pseudo_labels(
        cells, labels=NONE, evaluation=evaluation, exclude_eval_m=331
    )
    assert narrowed["kept"].values.tolist() == [[False, False, False, True]]


def test_a_pseudo_label_dropped_twice_is_counted_once() -> None:
    cells = kept_cells([[1, 0, 0]])
    label = squares([9], (10, 10, 20, 20))
    _, counts = exclude_pseudo_labels(cells, labels=label, evaluation=label)
    assert counts == {
        "candidates": 1,
        "contradict_a_label": 1,
        "near_evaluation": 0,
        "kept": 0,
    }


def test_excluding_leaves_the_input_and_the_other_variables_as_they_were() -> None:
    cells = kept_cells([[1, 2]])
    before = cells.copy(deep=True)
    label = squares([9], (0, 0, 640, 320))
    narrowed, _ = exclude_pseudo_labels(cells, labels=label, evaluation=NONE)
    xr.testing.assert_identical(cells, before)
    xr.testing.assert_identical(narrowed.drop_vars("kept"), cells.drop_vars("kept"))


def test_a_window_wider_than_its_output_pixel_is_what_counts() -> None:
    cells = kept_cells([[1] * 16] * 16)
    grid = Grid("EPSG:32632", (0, 0, 5, 5), stride_m=100)  # 16 x 16 pixels, windows of 320 m
    cells = cells.assign_attrs({GRID_ATTR: grid.to_json()})
    label = squares([9], (801, 801, 802, 802))
    narrowed, _ = exclude_pseudo_labels(cells, labels=label, evaluation=NONE)
    # Windows reach 160 m past their centre; rows count from the top.
    centres = np.arange(16) * 100 + 50
    near_x = np.abs(centres - 801.5) <= 160.5
    near_y = np.abs(1600 - centres - 801.5) <= 160.5
    np.testing.assert_array_equal(~narrowed["kept"].values, near_y[:, None] & near_x[None])


def test_the_table_of_pseudo_labels_has_a_row_and_a_window_per_kept_cell() -> None:
    cells = kept_cells([[0, 4], [5, 0]])
    table = pseudo_label_table(cells, city="x", donor_id=["p0", "p1", "p2", "p3"])
    assert table["patch_id"].tolist() == ["pseudo/x/0-1", "pseudo/x/1-0"]
    assert table["lcz"].tolist() == [4, 5]
    assert table["donor"].tolist() == ["p1", "p2"]
    np.testing.assert_allclose(table["confidence"], 0.9, rtol=1e-6)
    assert table.total_bounds.tolist() == [0, 0, 640, 640]
    assert table.geometry.iloc[0].bounds == (320, 320, 640, 640)
    assert table.crs == "EPSG:32632"


def test_keep_rates_count_kept_and_all_per_class() -> None:
    rates = keep_rates([[1, 1, 2], [0, 2, 17]], [[True, False, True], [False, True, False]])
    assert rates == {1: (1, 2), 2: (2, 2), 17: (0, 1)}
