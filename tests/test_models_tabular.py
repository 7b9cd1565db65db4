import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import dask.array as da
import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr

from lczcube.errors import (
    LabelError,
    MissingExtraError,
    MissingInputError,
    ModelError,
    StoreError,
)
from lczcube.models import (
    ModelMeta,
    TabularModel,
    XgbModel,
    XgbParameters,
    fit_forest,
    fit_knn,
    fit_xgb,
    load_model,
    predict_features,
    require_features,
)
from lczcube.models.balance import balanced_weights
from lczcube.models.meta import read_meta, written_folder
from lczcube.probability import quantise

Fit = Callable[..., TabularModel]
QUICK = XgbParameters(rounds=8, max_depth=3, colsample=1.0, subsample=1.0)
META = ModelMeta("xgb", ("a", "b"), ("made/1",), (2, 6), 0, 3, True, {"rounds": 1})


def made_samples(seed: int = 0, n: int = 90) -> xr.Dataset:
    """Three zones (2, 6, 17) around three points of a plane, and a third feature that is noise."""
    random = np.random.default_rng(seed)
    lcz = np.array([2, 6, 17], np.uint8)[np.arange(n) % 3]
    centre = np.array([[0, 0], [5, 0], [0, 5]], np.float32)[np.arange(n) % 3]
    features = np.column_stack([centre + random.normal(0, 0.5, (n, 2)), random.normal(size=n)])
    return xr.Dataset(
        {
            "features": (("sample", "feature"), features.astype(np.float32)),
            "lcz": ("sample", lcz),
            "weight": ("sample", np.ones(n, np.float32)),
        },
        coords={"feature": ["a", "b", "noise"]},
        attrs={"products": json.dumps(["made/1"]), "synthetic": 1},
    )


def made_features(rows: int = 7, columns: int = 9) -> xr.Dataset:
    """Cells whose zone is 2, 6 or 17 by (row + column) modulo 3; two without data."""
    row, column = np.mgrid[:rows, :columns]
    values = np.array([[0, 0, 0], [5, 0, 0], [0, 5, 0]], np.float32)[(row + column) % 3]
    values[1, 2] = np.nan
    covered = np.ones((rows, columns), bool)
    covered[3, 4] = False
    return xr.Dataset(
        {
            "features": (("cell_y", "cell_x", "feature"), values),
            "covered": (("cell_y", "cell_x"), covered),
        },
        coords={
            "cell_y": 100.0 - np.arange(rows),
            "cell_x": 10.0 + np.arange(columns),
            "feature": ["a", "b", "noise"],
        },
        attrs={"products": json.dumps(["made/1"])},
    )


def row_of(**per_code: float) -> npt.NDArray[np.float32]:
    row = np.zeros(17, np.float32)
    for name, value in per_code.items():
        row[int(name[1:]) - 1] = value
    return row


# quantise


def test_quantise_gives_the_best_code_its_per_cent_and_all_per_cents() -> None:
    lcz, confidence, percent = quantise(row_of(c3=0.254, c14=0.746)[None])
    assert (lcz.tolist(), confidence.tolist()) == ([14], [75])
    assert percent[0].tolist() == [0, 0, 25, *[0] * 10, 75, 0, 0, 0]
    assert {a.dtype for a in (lcz, confidence, percent)} == {np.dtype(np.uint8)}


def test_the_best_code_is_chosen_before_rounding() -> None:
    lcz, confidence, _ = quantise(row_of(c1=0.498, c2=0.502))
    assert (int(lcz), int(confidence)) == (2, 50)


def test_ties_within_a_millionth_go_to_the_lowest_code() -> None:
    tied = quantise(row_of(c4=0.4, c9=0.4 + 5e-7))[0]
    apart = quantise(row_of(c4=0.4, c9=0.4 + 5e-6))[0]
    assert (int(tied), int(apart)) == (4, 9)


def test_a_row_with_nan_is_no_data() -> None:
    lcz, confidence, percent = quantise(row_of(c4=np.nan, c9=1.0))
    assert (int(lcz), int(confidence), set(percent.tolist())) == (0, 255, {255})


def test_probabilities_of_another_number_of_classes_are_refused() -> None:
    with pytest.raises(ModelError, match=r"shape \(2, 10\) do not end in 17"):
        quantise(np.zeros((2, 10), np.float32))


# meta and folders


def test_meta_survives_json_and_gives_the_same_text() -> None:
    text = META.to_json()
    assert ModelMeta.from_json(text) == META
    assert ModelMeta.from_json(text).to_json() == text
    assert list(json.loads(text)) == sorted(json.loads(text))


@pytest.mark.parametrize("text", ["[]", "{}", "not json", '{"format": 99}'])
def test_a_text_that_is_no_model_is_refused(text: str) -> None:
    with pytest.raises(ModelError, match="not a model's description"):
        ModelMeta.from_json(text)


def test_features_of_training_are_accepted() -> None:
    require_features(META, ["a", "b"], ["made/1"])


@pytest.mark.parametrize(
    ("features", "products", "message"),
    [
        (["a", "b"], ["made/2"], "trained on made/1, these features are of made/2"),
        (["a", "b"], [], "these features are of no embedding product"),
        (["b", "a"], ["made/1"], "number 0 is 'b', not 'a'"),
        (["a"], ["made/1"], "these are 1: they lack 'b'"),
        (["a", "b", "c"], ["made/1"], "these are 3: they add 'c'"),
    ],
)
def test_other_features_are_refused(features: list[str], products: list[str], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        require_features(META, features, products)


def test_a_failed_write_leaves_the_old_model_and_nothing_else(tmp_path: Path) -> None:
    with written_folder(tmp_path / "m", META) as folder:
        (folder / "weights").write_text("old")
    with pytest.raises(IsADirectoryError), written_folder(tmp_path / "m", META) as folder:
        folder.write_text("new")
    assert (tmp_path / "m" / "weights").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_folder_that_is_no_model_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with (
        pytest.raises(StoreError, match="is not a model; it is not replaced"),
        written_folder(tmp_path, META),
    ):
        pass
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_folder_without_a_model_is_missing_input(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"holds no model\.json"):
        load_model(tmp_path)


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    with written_folder(tmp_path / "m", META):
        pass
    with pytest.raises(ModelError, match="holds a xgb model, not unet"):
        read_meta(tmp_path / "m", kind="unet")


# weights


def test_balance_one_gives_each_class_the_same_weight_and_mean_one() -> None:
    lcz = np.array([1, 1, 1, 2], np.uint8)
    weight = balanced_weights(lcz, np.ones(4, np.float32), balance=1)
    np.testing.assert_allclose(weight, [2 / 3, 2 / 3, 2 / 3, 2], rtol=1e-6)


def test_balance_zero_leaves_the_sample_weights() -> None:
    lcz = np.array([1, 1, 2, 2], np.uint8)
    given = np.array([1, 3, 1, 3], np.float32)
    np.testing.assert_allclose(balanced_weights(lcz, given, balance=0), given / 2)


# xgb


def test_xgb_learns_zones_that_lie_apart() -> None:
    model = fit_xgb(made_samples(), seed=0, parameters=QUICK)
    fresh = made_samples(seed=1)
    probability = model.probability(fresh["features"].values)
    assert (probability.argmax(axis=1) + 1 == fresh["lcz"].values).mean() > 0.95


def test_probabilities_sum_to_one_and_unseen_classes_have_none() -> None:
    model = fit_xgb(made_samples(), seed=0, parameters=QUICK)
    probability = model.probability(np.array([[0, 5, 0], [np.nan] * 3], np.float32))
    assert probability.dtype == np.float32
    np.testing.assert_allclose(probability.sum(axis=1), 1, atol=1e-6)
    assert np.flatnonzero(probability.sum(axis=0)).tolist() == [1, 5, 16]


def test_the_meta_says_what_it_was_trained_on() -> None:
    meta = fit_xgb(made_samples(), seed=3, parameters=QUICK).meta
    assert (meta.features, meta.products) == (("a", "b", "noise"), ("made/1",))
    assert (meta.classes, meta.n_train, meta.seed) == ((2, 6, 17), 90, 3)
    assert meta.synthetic
    assert meta.parameters["rounds"] == 8


def test_two_fits_are_the_same_bytes() -> None:
    sampled = XgbParameters(rounds=5, max_depth=3, subsample=0.5, colsample=0.5)
    first, again = (fit_xgb(made_samples(), seed=1, parameters=sampled) for _ in range(2))
    other = fit_xgb(made_samples(), seed=2, parameters=sampled)
    assert first.weights == again.weights
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_a_loaded_model_predicts_the_same_bytes(tmp_path: Path) -> None:
    model = fit_xgb(made_samples(), seed=0, parameters=QUICK)
    model.save(tmp_path / "xgb")
    loaded = load_model(tmp_path / "xgb")
    assert isinstance(loaded, XgbModel)
    assert loaded.meta == model.meta
    rows = made_samples(seed=5)["features"].values
    assert loaded.probability(rows).tobytes() == model.probability(rows).tobytes()
    names = sorted(p.name for p in (tmp_path / "xgb").iterdir())
    assert names == ["model.json", "model.ubj", "model.ubj.sha256"]


def test_a_pickled_model_predicts_the_same_bytes() -> None:
    model = fit_xgb(made_samples(), seed=0, parameters=QUICK)
    rows = made_samples(seed=5)["features"].values
    wanted = model.probability(rows)
    assert pickle.loads(pickle.dumps(model)).probability(rows).tobytes() == wanted.tobytes()


def test_samples_without_weight_or_features_are_left_out() -> None:
    samples = made_samples()
    samples["weight"][samples["lcz"].values == 6] = 0
    samples["features"][0] = np.nan
    meta = fit_xgb(samples, seed=0, parameters=QUICK).meta
    assert (meta.classes, meta.n_train) == ((2, 17), 59)


def test_weights_move_the_vote() -> None:
    samples = made_samples().isel(sample=slice(0, 60))
    samples["features"][:] = 0
    samples["weight"][samples["lcz"].values == 17] = 9
    unbalanced = XgbParameters(rounds=20, balance=0.0)
    probability = fit_xgb(samples, seed=0, parameters=unbalanced).probability(
        np.zeros((1, 3), np.float32)
    )
    np.testing.assert_allclose(probability[0, [1, 5, 16]], [1 / 11, 1 / 11, 9 / 11], atol=0.05)


def test_one_class_is_refused_with_a_remedy() -> None:
    samples = made_samples()
    samples["lcz"][:] = 6
    with pytest.raises(ModelError, match=r"hold only LCZ 6; .* Add labels"):
        fit_xgb(samples, seed=0)


def test_samples_that_teach_nothing_are_refused() -> None:
    samples = made_samples()
    samples["features"][:] = np.nan
    with pytest.raises(ModelError, match="no labelled sample with valid features"):
        fit_xgb(samples, seed=0)


def test_a_code_18_is_refused() -> None:
    samples = made_samples()
    samples["lcz"][0] = 18
    with pytest.raises(LabelError, match="code 18"):
        fit_xgb(samples, seed=0)


def test_a_negative_weight_is_refused() -> None:
    samples = made_samples()
    samples["weight"][0] = -1
    with pytest.raises(ModelError, match=r"weight such as -1\.0"):
        fit_xgb(samples, seed=0)


def test_a_parameter_out_of_range_is_refused() -> None:
    with pytest.raises(ModelError, match=r"xgb subsample = 1\.5"):
        fit_xgb(made_samples(), seed=0, parameters=XgbParameters(subsample=1.5))


def test_without_xgboost_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xgboost", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lczcube\[xgb\]'"):
        fit_xgb(made_samples(), seed=0)


def test_importing_the_models_loads_no_heavy_library() -> None:
    code = "import sys, lczcube.models; print(*{'torch', 'xgboost', 'sklearn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# baselines


@pytest.mark.parametrize("fit", [fit_forest, fit_knn])
def test_a_baseline_learns_zones_that_lie_apart(fit: Fit) -> None:
    model = fit(made_samples(), seed=0)
    fresh = made_samples(seed=1)
    probability = model.probability(fresh["features"].values)
    np.testing.assert_allclose(probability.sum(axis=1), 1, atol=1e-5)
    assert (probability.argmax(axis=1) + 1 == fresh["lcz"].values).mean() > 0.95


@pytest.mark.parametrize("fit", [fit_forest, fit_knn])
def test_a_baseline_reads_nan_as_the_median_of_training(fit: Fit) -> None:
    samples = made_samples()
    model = fit(samples, seed=0)
    median = np.median(samples["features"].values[:, 2])
    with_nan, filled = [[0, 5, np.nan]], [[0, 5, median]]
    rows = np.array([*with_nan, *filled], np.float32)
    one, other = model.probability(rows)
    assert one.tolist() == other.tolist()


def test_knn_does_not_depend_on_the_unit_of_a_feature() -> None:
    samples = made_samples()
    rows = made_samples(seed=1)["features"].values
    wanted = fit_knn(samples).probability(rows).argmax(axis=1)
    scale = np.array([1, 1000, 0.001], np.float32)
    samples["features"] = samples["features"] * scale
    assert (fit_knn(samples).probability(rows * scale).argmax(axis=1) == wanted).all()


# maps


def test_the_map_gives_each_cell_its_zone_on_its_coordinates() -> None:
    model = fit_xgb(made_samples(), seed=0, parameters=QUICK)
    mapped = predict_features(model, made_features())
    row, column = np.mgrid[:7, :9]
    wanted = np.array([2, 6, 17], np.uint8)[(row + column) % 3]
    wanted[1, 2] = wanted[3, 4] = 0
    np.testing.assert_array_equal(mapped["lcz"], wanted)
    assert mapped["lcz"].dims == ("cell_y", "cell_x")
    assert mapped["cell_y"].values[0] == 100
    assert mapped["cell_x"].values[0] == 10


def test_nodata_is_where_features_are_unknown_or_not_covered_only() -> None:
    model = fit_xgb(made_samples(), seed=0, parameters=QUICK)
    mapped = predict_features(model, made_features())
    empty = np.zeros((7, 9), bool)
    empty[1, 2] = empty[3, 4] = True
    np.testing.assert_array_equal(mapped["lcz"] == 0, empty)
    np.testing.assert_array_equal(mapped["confidence"] == 255, empty)
    np.testing.assert_array_equal((mapped["probability"] == 255).all("lcz_class"), empty)
    np.testing.assert_array_equal((mapped["probability"] == 255).any("lcz_class"), empty)


def test_confidence_is_the_per_cent_of_the_zone() -> None:
    mapped = predict_features(fit_forest(made_samples(), seed=0), made_features())
    known = mapped["lcz"].values > 0
    rows = np.moveaxis(mapped["probability"].values, 0, -1)[known]
    winner = rows[np.arange(len(rows)), mapped["lcz"].values[known] - 1]
    np.testing.assert_array_equal(winner, mapped["confidence"].values[known])
    assert mapped["probability"].dims == ("lcz_class", "cell_y", "cell_x")
    assert mapped["lcz_class"].values.tolist() == list(range(1, 18))


@pytest.mark.parametrize(
    "fit", [fit_forest, lambda s, seed: fit_xgb(s, seed=seed, parameters=QUICK)]
)
def test_dask_equals_numpy_whatever_the_chunks(fit: Fit) -> None:
    model = fit(made_samples(), seed=0)
    features = made_features()
    lazy = predict_features(model, features.chunk(cell_y=3, cell_x=4, feature=2))
    assert all(isinstance(v.data, da.Array) for v in lazy.data_vars.values())
    xr.testing.assert_identical(lazy.compute(), predict_features(model, features))


def test_a_map_is_one_prediction_a_chunk() -> None:
    model = fit_xgb(made_samples(), seed=0, parameters=QUICK)
    lazy = predict_features(model, made_features().chunk(cell_y=3, cell_x=4, feature=-1))
    graph = lazy["lcz"].data.__dask_graph__()
    predictions = [key for key in graph if "predict_block" in str(key[0])]
    assert len(predictions) == 9
    assert lazy["lcz"].chunks == ((3, 3, 1), (4, 4, 1))


def test_predicting_leaves_the_features_as_they_were() -> None:
    features = made_features()
    before = features.copy(deep=True)
    predict_features(fit_forest(made_samples(), seed=0), features)
    xr.testing.assert_identical(features, before)


def test_features_of_another_product_are_not_mapped() -> None:
    features = made_features().assign_attrs(products=json.dumps(["made/2"]))
    with pytest.raises(ModelError, match="trained on made/1"):
        predict_features(fit_forest(made_samples(), seed=0), features)


def test_features_in_another_order_are_not_mapped() -> None:
    features = made_features().isel(feature=[1, 0, 2])
    with pytest.raises(ModelError, match="number 0 is 'b', not 'a'"):
        predict_features(fit_forest(made_samples(), seed=0), features)
