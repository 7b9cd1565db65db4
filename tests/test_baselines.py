"""Baselines: what scikit-learn says, savable without pickle."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr
from safetensors.numpy import load_file, save_file
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lczcube.errors import LabelError, ModelError
from lczcube.models import (
    SklearnModel,
    XgbModel,
    fit_forest,
    fit_knn,
    fit_linear,
    fit_xgb,
    load_model,
)
from lczcube.models.baselines import PENALTIES
from tests.test_models_tabular import QUICK, made_samples

Fit = Callable[..., SklearnModel]


def few_trees(samples: xr.Dataset, *, seed: int = 0) -> SklearnModel:
    return fit_forest(samples, seed=seed, n_trees=7)


FITS = pytest.mark.parametrize("fit", [fit_linear, few_trees, fit_knn])


def overlapping(n: int = 120, n_classes: int = 3, seed: int = 0) -> xr.Dataset:
    """Zones that lie on each other's ground, a feature with gaps, one never known, and weights."""
    samples = made_samples(seed, n)
    random = np.random.default_rng(seed + 10)
    features = samples["features"].values + random.normal(0, 2, (n, 3)).astype(np.float32)
    features[::7, 1] = np.nan
    features = np.column_stack([features * [1, 1000, 0.01], np.full(n, np.nan)])
    lcz = samples["lcz"].values
    if n_classes == 2:
        lcz[lcz == 17] = 6
    return xr.Dataset(
        {
            "features": (("sample", "feature"), features.astype(np.float32)),
            "lcz": ("sample", lcz),
            "weight": ("sample", random.uniform(0.5, 2, n).astype(np.float32)),
        },
        coords={"feature": ["a", "b", "noise", "gone"]},
        attrs=samples.attrs,
    )


def imputed(*steps: Any) -> Any:
    return make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), *steps)


def seen(model: SklearnModel, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return model.probability(features)[:, np.array(model.meta.classes) - 1]


# scikit-learn's answers


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_forest_says_what_scikit_learn_says(n_classes: int) -> None:
    samples, fresh = overlapping(n_classes=n_classes), overlapping(seed=1)["features"].values
    forest = imputed(RandomForestClassifier(20, random_state=3))
    forest.fit(
        samples["features"].values,
        samples["lcz"].values,
        randomforestclassifier__sample_weight=samples["weight"].values,
    )
    found = seen(fit_forest(samples, seed=3, n_trees=20), fresh)
    np.testing.assert_allclose(found, forest.predict_proba(fresh), atol=1e-6)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_neighbours_say_what_scikit_learn_says(n_classes: int) -> None:
    samples, fresh = overlapping(n_classes=n_classes), overlapping(seed=1)["features"].values
    neighbours = KNeighborsClassifier(10, weights="distance")
    wanted = imputed(StandardScaler(), neighbours).fit(
        samples["features"].values, samples["lcz"].values
    )
    np.testing.assert_allclose(
        seen(fit_knn(samples), fresh), wanted.predict_proba(fresh), atol=1e-4
    )


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_linear_probe_says_what_scikit_learn_says(n_classes: int) -> None:
    samples, fresh = overlapping(n_classes=n_classes), overlapping(seed=1)["features"].values
    weight = samples["weight"].values
    regression = LogisticRegression(C=1 / (0.05 * 120), max_iter=2000, tol=1e-8)
    wanted = imputed(StandardScaler(), regression).fit(
        samples["features"].values.astype(float),
        samples["lcz"].values,
        logisticregression__sample_weight=weight / weight.mean(),
    )
    model = fit_linear(samples, penalty=0.05, balance=0)
    found = seen(model, fresh)
    np.testing.assert_allclose(found, wanted.predict_proba(fresh.astype(float)), atol=2e-3)
    assert model.meta.parameters == {"balance": 0, "penalty": 0.05}


def test_what_a_penalty_means_does_not_depend_on_the_number_of_samples() -> None:
    samples = overlapping()
    twice = xr.concat([samples, samples], dim="sample", combine_attrs="override")
    fresh = overlapping(seed=1)["features"].values
    one, two = (fit_linear(given, penalty=0.01).probability(fresh) for given in (samples, twice))
    np.testing.assert_allclose(one, two, atol=2e-3)


def test_balance_gives_a_rare_class_its_share() -> None:
    samples = overlapping(n=300)
    rare = np.flatnonzero((samples["lcz"].values != 6) | (np.arange(300) % 30 == 1))
    samples = samples.isel(sample=rare)
    fresh = overlapping(seed=1)["features"].values
    shares = [
        float(fit_linear(samples, balance=balance, penalty=0.01).probability(fresh)[:, 5].mean())
        for balance in (0, 0.5, 1)
    ]
    assert shares == sorted(shares)
    assert shares[2] > 1.4 * shares[0]


# the penalty


def grouped_noise(copies: int) -> xr.Dataset:
    """40 groups with ``copies`` samples each that are all alike, 20 features of which 19 noise."""
    random = np.random.default_rng(0)
    lcz = np.array([2, 6], np.uint8)[np.arange(40) % 2]
    features = random.normal(size=(40, 20)).astype(np.float32)
    features[:, 0] += lcz / 3
    return xr.Dataset(
        {
            "features": (("sample", "feature"), np.repeat(features, copies, axis=0)),
            "lcz": ("sample", np.repeat(lcz, copies)),
            "group": ("sample", np.repeat([f"g{i}" for i in range(40)], copies)),
        },
        coords={"feature": [f"f{i}" for i in range(20)]},
        attrs={"products": ["made/1"]},
    )


def test_the_penalty_is_the_one_that_fits_held_out_groups_best() -> None:
    # Noise that is learnt by heart fails on other groups, however often each sample is there.
    assert fit_linear(grouped_noise(5)).meta.parameters["penalty"] == max(PENALTIES)
    alone = grouped_noise(5)
    alone["group"] = ("sample", np.arange(200).astype(str))
    assert fit_linear(alone).meta.parameters["penalty"] <= 0.001


def test_without_groups_the_penalty_is_a_hundredth() -> None:
    samples = grouped_noise(5)
    assert fit_linear(samples.drop_vars("group")).meta.parameters["penalty"] == 0.01
    one_group = samples.assign(group=("sample", np.full(200, "g")))
    assert fit_linear(one_group).meta.parameters["penalty"] == 0.01


@pytest.mark.parametrize(("name", "value"), [("penalty", 0.0), ("penalty", -1.0), ("balance", -1)])
def test_a_setting_out_of_range_is_refused(name: str, value: float) -> None:
    with pytest.raises(ModelError, match=f"linear {name} = {value}"):
        fit_linear(made_samples(), **{name: value})


# bad samples


@FITS
def test_bad_samples_are_refused(fit: Fit) -> None:
    infinite, foreign, single = made_samples(), made_samples(), made_samples()
    infinite["features"][3, 1] = np.inf
    foreign["lcz"][0] = 18
    single["lcz"][:] = 6
    with pytest.raises(ModelError, match=r"infinite values: b \(1\)"):
        fit(infinite, seed=0)
    with pytest.raises(LabelError, match="code 18"):
        fit(foreign, seed=0)
    with pytest.raises(ModelError, match="hold only LCZ 6"):
        fit(single, seed=0)


@FITS
def test_samples_without_weight_are_left_out(fit: Fit) -> None:
    samples = made_samples()
    samples["weight"][samples["lcz"].values == 6] = 0
    model = fit(samples, seed=0)
    assert (model.meta.classes, model.meta.n_train) == ((2, 17), 60)
    assert model.probability(samples["features"].values)[:, 5].max() == 0


# save and load


@FITS
def test_a_loaded_model_predicts_the_same_bytes(fit: Fit, tmp_path: Path) -> None:
    model, rows = fit(overlapping(), seed=0), overlapping(seed=5)["features"].values
    model.save(tmp_path / "m")
    loaded = load_model(tmp_path / "m")
    assert isinstance(loaded, SklearnModel)
    assert loaded.meta == model.meta
    assert loaded.fingerprint == model.fingerprint
    wanted = model.probability(rows).tobytes()
    assert loaded.probability(rows).tobytes() == wanted
    assert pickle.loads(pickle.dumps(model)).probability(rows).tobytes() == wanted
    names = sorted(p.name for p in (tmp_path / "m").iterdir())
    assert names == ["model.json", "weights.safetensors"]


@FITS
def test_two_fits_are_the_same_bytes(fit: Fit, tmp_path: Path) -> None:
    for name in ("one", "two"):
        fit(overlapping(), seed=1).save(tmp_path / name)
    one, two = (tmp_path / name / "weights.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    assert fit(overlapping(seed=1), seed=1).fingerprint != fit(overlapping(), seed=1).fingerprint


@FITS
def test_damaged_weights_are_refused(fit: Fit, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    fit(overlapping(), seed=0).save(folder)
    weights = folder / "weights.safetensors"
    whole = weights.read_bytes()
    for broken in (b"", b"no weights", whole[: len(whole) // 2]):
        weights.write_bytes(broken)
        with pytest.raises(ModelError, match=r"cannot be read: .* Train the model again"):
            load_model(folder)
    weights.unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        load_model(folder)


@pytest.mark.parametrize(
    ("fit", "name", "index", "value"),
    [
        (few_trees, "left", 0, 10**6),
        (few_trees, "left", 0, 0),
        (few_trees, "right", 0, -5),
        (few_trees, "feature", 0, 4),
        (few_trees, "feature", 0, -2),
        (few_trees, "root", 1, 10**6),
        (few_trees, "share", 0, np.nan),
        (fit_knn, "lcz", slice(None), 6),
        (fit_knn, "input.scale", 0, 0),
        (fit_linear, "coefficient", 0, np.inf),
        (fit_linear, "input.fill", 0, np.nan),
    ],
)
def test_forged_weights_are_refused(
    fit: Fit, name: str, index: Any, value: Any, tmp_path: Path
) -> None:
    fit(overlapping(), seed=0).save(tmp_path / "m")
    path = tmp_path / "m" / "weights.safetensors"
    arrays = {key: array.copy() for key, array in load_file(path).items()}
    arrays[name][index] = value
    save_file(arrays, path)
    with pytest.raises(ModelError, match=r"not of a \w+ model of 4 features and 3 classes"):
        load_model(tmp_path / "m")


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    fit_linear(overlapping()).save(tmp_path / "linear")
    fit_knn(overlapping()).save(tmp_path / "knn")
    fit_linear(made_samples()).save(tmp_path / "smaller")
    weights = {
        name: (tmp_path / name / "weights.safetensors").read_bytes()
        for name in ("linear", "smaller")
    }
    (tmp_path / "knn" / "weights.safetensors").write_bytes(weights["linear"])
    with pytest.raises(ModelError, match="lacks weights of a knn model: KeyError"):
        load_model(tmp_path / "knn")
    (tmp_path / "linear" / "weights.safetensors").write_bytes(weights["smaller"])
    with pytest.raises(ModelError, match="not of a linear model of 4 features"):
        load_model(tmp_path / "linear")


def test_damaged_trees_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "xgb"
    fit_xgb(made_samples(), seed=0, parameters=QUICK).save(folder)
    whole = (folder / "model.ubj").read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for broken in (b"", b"no trees", whole[: len(whole) // 2], flipped):
        (folder / "model.ubj").write_bytes(broken)
        with pytest.raises(ModelError, match=r"model\.ubj is not what was saved: .* Train the"):
            XgbModel.load(folder)
    for name in ("model.ubj", "model.ubj.sha256"):
        (folder / "model.ubj").write_bytes(whole)
        (folder / name).unlink()
        with pytest.raises(ModelError, match=r"model\.ubj cannot be read"):
            XgbModel.load(folder)


def test_trees_of_other_features_are_refused(tmp_path: Path) -> None:
    fit_xgb(made_samples(), seed=0, parameters=QUICK).save(tmp_path / "three")
    fit_xgb(overlapping(), seed=0, parameters=QUICK).save(tmp_path / "four")
    for name in ("model.ubj", "model.ubj.sha256"):
        (tmp_path / "four" / name).write_bytes((tmp_path / "three" / name).read_bytes())
    with pytest.raises(ModelError, match=r"trees of 3 features, .* a model of 4"):
        load_model(tmp_path / "four")
