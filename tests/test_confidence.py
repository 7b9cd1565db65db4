import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from lczcube.confidence import (
    ClassCalibration,
    Confidence,
    ConfidenceSettings,
    cross_calibrated,
    fit_calibration,
    fit_confidence,
    is_unseen,
)
from lczcube.errors import LabelError, MissingInputError, ModelError
from lczcube.metrics import calibration_error
from lczcube.models import ModelMeta
from lczcube.models.meta import read_meta, written_folder
from lczcube.propagate.calibration import bootstrap_error, sharpened
from tests.confidence_worlds import Blocks, draw_blocks, honest

META = ModelMeta("xgb", ("a", "b"), (), (2, 6), 0, 3, True, {})


def overconfident(blocks: Blocks, power: float) -> Blocks:
    """The same samples with probabilities that say too much."""
    powers = blocks.probability.astype(np.float64) ** power
    shares = powers / powers.sum(axis=1, keepdims=True)
    return Blocks(shares.astype(np.float32), blocks.lcz, blocks.group)


def fitted(blocks: Blocks, method: Any) -> ClassCalibration:
    return fit_calibration(blocks.probability, blocks.lcz, blocks.group, method=method)


def error_of(probability: Any, lcz: Any) -> float:
    top = np.minimum(probability.max(axis=1), 1)
    return calibration_error(top, probability.argmax(axis=1) + 1 == lcz)


# calibration


@pytest.mark.parametrize("power", [0.5, 1.0, 2.5])
def test_the_temperature_is_the_power_that_was_planted(power: float) -> None:
    found = fitted(overconfident(honest(1, 6000), power), "temperature")
    assert found.temperature == pytest.approx(power, rel=0.06)


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_samples_that_were_not_seen_are_better_calibrated(method: str) -> None:
    calibration = fitted(overconfident(honest(2, 6000), 2.5), method)
    unseen = overconfident(honest(3, 6000), 2.5)
    before = error_of(unseen.probability, unseen.lcz)
    after = error_of(calibration.apply(unseen.probability), unseen.lcz)
    assert before > 0.1
    assert after < before / 3


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_what_is_calibrated_stays_as_it_is(method: str) -> None:
    blocks = honest(4, 6000)
    quality = fitted(blocks, method).quality
    assert quality is not None
    assert quality.error_calibrated < quality.error_raw + 0.015


@given(
    st.integers(0, 10_000),
    st.floats(0.1, 10),
    st.sampled_from(["temperature", "isotonic", "none"]),
)
@settings(max_examples=40, deadline=None)
def test_calibrated_probabilities_sum_to_one_and_zeros_stay(
    seed: int, temperature: float, method: Any
) -> None:
    rows = draw_blocks(seed, 12, codes=5).probability
    calibration = ClassCalibration(method, temperature=temperature)
    if method == "isotonic":
        calibration = fitted(draw_blocks(seed + 1, 12, codes=5), method)
    found = calibration.apply(rows)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    assert (found[rows == 0] == 0).all()
    if method == "temperature":
        np.testing.assert_array_equal(found.argmax(axis=1), rows.argmax(axis=1))


def test_a_row_without_data_stays_without() -> None:
    rows = draw_blocks(0, 12).probability[:3].copy()
    rows[1] = np.nan
    for method in ("temperature", "isotonic"):
        found = fitted(draw_blocks(1, 30), method).apply(rows)
        assert np.isnan(found).all(axis=1).tolist() == [False, True, False]


def test_the_temperature_is_that_of_logits() -> None:
    rows = draw_blocks(3, 10, codes=4).probability[:, :4].astype(np.float64)
    wanted = np.exp(np.log(rows) / 2.7)
    wanted /= wanted.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(sharpened(rows, 2.7), wanted, rtol=1e-9)


def test_isotonic_is_scikit_learns_curve_scaled_to_one() -> None:
    blocks = draw_blocks(5, 60, codes=4)
    found = fitted(blocks, "isotonic").apply(blocks.probability)
    wanted = np.zeros((len(blocks.lcz), 17))
    for code in range(1, 5):
        curve = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
        raw = blocks.probability[:, code - 1].astype(np.float64)
        wanted[:, code - 1] = curve.fit(raw, blocks.lcz == code).predict(raw)
    wanted /= wanted.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, wanted, atol=2e-6)


def test_where_every_curve_says_never_the_probabilities_stay() -> None:
    never = np.array([[0.0, 1.0], [0.0, 0.0]])
    calibration = ClassCalibration("isotonic", curves={1: never, 2: never})
    row = np.zeros((1, 17), np.float32)
    row[0, :2] = 0.25, 0.75
    np.testing.assert_array_equal(calibration.apply(row), row)


def test_a_class_without_labels_keeps_its_probability() -> None:
    blocks = draw_blocks(6, 60, codes=4)
    known = blocks.lcz != 3
    calibration = fit_calibration(
        blocks.probability[known], blocks.lcz[known], blocks.group[known], method="isotonic"
    )
    assert sorted(calibration.curves) == [1, 2, 4]
    assert (calibration.apply(blocks.probability)[:, 2] > 0).all()


def test_no_row_is_calibrated_by_its_own_unit() -> None:
    blocks = draw_blocks(7, 40)
    city = blocks.group % 3
    before = cross_calibrated(blocks.probability, blocks.lcz, blocks.group, held_out=city)
    other = blocks.lcz.copy()
    other[city == 1] = other[city == 1] % 8 + 1
    after = cross_calibrated(blocks.probability, other, blocks.group, held_out=city)
    np.testing.assert_array_equal(after[city == 1], before[city == 1])
    assert (after[city != 1] != before[city != 1]).any()


def test_quality_is_that_of_rows_calibrated_by_other_groups() -> None:
    blocks = draw_blocks(8, 60)
    quality = fitted(blocks, "isotonic").quality
    crossed = cross_calibrated(blocks.probability, blocks.lcz, blocks.group, method="isotonic")
    assert quality is not None
    assert quality.error_raw == pytest.approx(error_of(blocks.probability, blocks.lcz))
    assert quality.error_calibrated == pytest.approx(error_of(crossed, blocks.lcz))
    assert quality.interval_calibrated is not None
    assert (quality.n_rows, quality.n_groups) == (len(blocks.lcz), 60)


def test_samples_that_were_not_predicted_are_left_out() -> None:
    blocks = draw_blocks(9, 40)
    holed = blocks.probability.copy()
    holed[blocks.group == 4] = np.nan
    known = blocks.group != 4
    of_all = fit_calibration(holed, blocks.lcz, blocks.group)
    of_known = fit_calibration(holed[known], blocks.lcz[known], blocks.group[known])
    assert of_all.temperature == of_known.temperature


def test_the_bootstrap_of_many_groups_draws_in_parts_what_it_draws_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    sure, group = rng.random(400), np.arange(400) // 4
    right = rng.random(400) < sure
    at_once = bootstrap_error(sure, right, group)
    monkeypatch.setattr("lczcube.propagate.calibration._DRAWN_AT_ONCE", 700)
    assert bootstrap_error(sure, right, group) == at_once


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"lcz": np.array([1, 18])}, LabelError, "18"),
        ({"lcz": np.array([1, 0])}, LabelError, "code 0"),
        ({"groups": np.array([4, 4])}, LabelError, "1 groups have out-of-fold predictions"),
        ({"groups": np.array([4])}, ModelError, "groups of shape"),
        ({"probability": np.full((2, 17), 1.5, np.float32)}, ModelError, "probability 1.5"),
        ({"probability": np.full((2, 16), 0.1, np.float32)}, ModelError, "are \\(n, 17\\)"),
        ({"method": "platt"}, ModelError, "temperature, isotonic, none"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    row = np.full((2, 17), 1 / 17, np.float32)
    arguments = {"probability": row, "lcz": np.array([1, 2]), "groups": np.array([0, 1])}
    with pytest.raises(error, match=message):
        fit_calibration(**(arguments | change))


def test_samples_of_a_class_that_their_fold_had_not_seen_are_told() -> None:
    probability = np.zeros((6, 17), np.float32)
    probability[:3, :2] = 0.5  # this fold's model knows 1 and 2
    probability[3:, 1:3] = [[1, 0], [1, 0], [0.5, 0.5]]  # and this one 2 and 3
    found = is_unseen(probability, [1, 3, 2, 1, 3, 3], [0, 0, 0, 1, 1, 1])
    assert found.tolist() == [False, True, False, True, False, False]


def test_what_a_fold_could_not_know_does_not_move_the_limits() -> None:
    blocks = draw_blocks(13, 60, codes=4)
    fold = blocks.group % 3
    holed = blocks.probability.copy()
    holed[fold == 0, 3] = 0
    holed /= holed.sum(axis=1, keepdims=True)
    seen = ~((fold == 0) & (blocks.lcz == 4))
    found = fit_confidence(holed, blocks.lcz, blocks.group, folds=fold)
    alone = fit_confidence(holed[seen], blocks.lcz[seen], blocks.group[seen])
    assert found.n_unseen == int((~seen).sum()) > 0
    assert found.label_sets is not None
    assert alone.label_sets is not None
    np.testing.assert_array_equal(found.label_sets.limit, alone.label_sets.limit)
    assert f"{found.n_unseen} samples were left out" in found.summary()


# the whole, and its files


def made_confidence(method: Any = "isotonic") -> Confidence:
    blocks = draw_blocks(11, 60, codes=4)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(len(blocks.lcz), 3)).astype(np.float32)
    features[0, 1] = np.nan
    return fit_confidence(
        blocks.probability,
        blocks.lcz,
        blocks.group // 3,
        cities=np.array(["here", "there", "yonder"])[blocks.group % 3],
        folds=blocks.group % 5,
        features=features,
        weights=[1, 2, 0],
        settings=ConfidenceSettings(method=method, classwise=True),
    )


@pytest.mark.parametrize("method", ["temperature", "isotonic", "none"])
def test_what_is_loaded_gives_the_same_bytes(tmp_path: Path, method: str) -> None:
    saved = made_confidence(method)
    saved.save(tmp_path)
    loaded = Confidence.load(tmp_path)
    rows = draw_blocks(12, 40, codes=4).probability
    assert saved.label_sets is not None
    assert loaded.label_sets is not None
    assert saved.applicability is not None
    assert loaded.applicability is not None
    np.testing.assert_array_equal(loaded.calibrated(rows), saved.calibrated(rows))
    np.testing.assert_array_equal(loaded.label_sets.sets(rows), saved.label_sets.sets(rows))
    points = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)
    np.testing.assert_array_equal(
        loaded.applicability.dissimilarity(points), saved.applicability.dissimilarity(points)
    )
    assert loaded.applicability.threshold == saved.applicability.threshold
    assert loaded.fingerprint == saved.fingerprint
    assert loaded.summary() == saved.summary()


def test_an_empty_confidence_and_one_part_alone_can_be_saved(tmp_path: Path) -> None:
    Confidence().save(tmp_path)
    assert Confidence.load(tmp_path).fingerprint == Confidence().fingerprint
    alone = Confidence(calibration=ClassCalibration("temperature", temperature=1.5))
    alone.save(tmp_path)
    loaded = Confidence.load(tmp_path)
    assert loaded.calibration is not None
    assert loaded.calibration.temperature == 1.5
    assert (loaded.label_sets, loaded.applicability, loaded.coverage) == (None, None, None)


def test_the_same_confidence_is_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        made_confidence().save(tmp_path / name)
    for file in ("confidence.json", "confidence.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()


def test_another_confidence_has_another_fingerprint() -> None:
    assert made_confidence().fingerprint != made_confidence("none").fingerprint


def test_a_model_folder_keeps_its_meta_and_a_new_model_drops_the_old_confidence(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "model"
    with written_folder(folder, META):
        pass
    assert not Confidence.is_in(folder)
    made_confidence().save(folder)
    assert Confidence.is_in(folder)
    assert read_meta(folder) == META
    assert sorted(path.name for path in folder.iterdir()) == [
        "confidence.json",
        "confidence.safetensors",
        "model.json",
    ]
    with written_folder(folder, META):
        pass
    assert not Confidence.is_in(folder)


def test_a_damaged_or_absent_confidence_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="trained without confidence"):
        Confidence.load(tmp_path)
    with pytest.raises(MissingInputError, match="save the model there first"):
        Confidence().save(tmp_path / "nowhere")
    made_confidence().save(tmp_path)
    described = (tmp_path / "confidence.json").read_text(encoding="utf-8")
    stored = bytearray((tmp_path / "confidence.safetensors").read_bytes())
    stored[-3] ^= 1
    (tmp_path / "confidence.safetensors").write_bytes(stored)
    with pytest.raises(ModelError, match="checksum"):
        Confidence.load(tmp_path)
    made_confidence().save(tmp_path)
    later = json.loads(described) | {"format": 99}
    (tmp_path / "confidence.json").write_text(json.dumps(later), encoding="utf-8")
    with pytest.raises(ModelError, match="format is 99"):
        Confidence.load(tmp_path)


def test_a_worker_gets_what_is_stored_and_nothing_else() -> None:
    confidence = made_confidence()
    area = confidence.applicability
    assert area is not None
    points = np.zeros((1, 3), np.float32)
    before = len(pickle.dumps(area))
    wanted = area.dissimilarity(points)
    assert len(pickle.dumps(area)) == before
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(area)).dissimilarity(points), wanted)


def test_the_card_says_what_was_found() -> None:
    confidence = made_confidence()
    text = confidence.summary()
    assert confidence.calibration is not None
    quality = confidence.calibration.quality
    assert quality is not None
    assert f"{quality.error_calibrated:.3f}" in text
    assert "promise to hold the class of 90% of the samples of a new group" in text
    assert "in 2 features" in text
    assert "| city yonder " in text


def test_groups_of_one_name_in_two_cities_are_two() -> None:
    confidence = made_confidence()
    assert confidence.label_sets is not None
    assert confidence.label_sets.n_groups == 60


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"lcz": [18] * 4}, LabelError, "code 18"),
        ({"lcz": [0] * 4}, LabelError, "code 0"),
        ({"cities": ["a"]}, ModelError, "cities of shape"),
        ({"folds": [0, 1]}, ModelError, "folds of shape"),
        ({"settings": ConfidenceSettings(promise=1.0)}, ModelError, "promise of 1.0"),
        ({"settings": ConfidenceSettings(score="x")}, ModelError, "aps, raps, lac"),  # type: ignore[arg-type]
    ],
)
def test_what_gives_no_confidence_is_refused_at_the_door(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments: dict[str, Any] = {
        "probability": np.full((4, 17), 1 / 17, np.float32),
        "lcz": [1, 2, 1, 2],
        "groups": [0, 1, 2, 3],
        "folds": [0, 0, 1, 1],
    }
    with pytest.raises(error, match=message):
        fit_confidence(**(arguments | change))


def test_only_what_the_model_trains_on_is_compared_with() -> None:
    blocks = draw_blocks(1, 30)
    features = np.random.default_rng(0).normal(size=(len(blocks.lcz), 2)).astype(np.float32)
    trained = blocks.group < 20
    found = fit_confidence(
        blocks.probability,
        blocks.lcz,
        blocks.group,
        folds=np.where(trained, -1, 0),
        features=features,
        trained=trained,
    )
    assert found.applicability is not None
    np.testing.assert_array_equal(found.applicability.samples, features[trained])


def test_features_without_folds_are_refused() -> None:
    blocks = draw_blocks(1, 20)
    with pytest.raises(ModelError, match="features without folds"):
        fit_confidence(
            blocks.probability,
            blocks.lcz,
            blocks.group,
            features=np.zeros((len(blocks.lcz), 2), np.float32),
        )
