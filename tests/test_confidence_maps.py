import json
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr

from lczcube.confidence import Applicability, ClassCalibration, Confidence, LabelSets
from lczcube.cube import GRID_ATTR
from lczcube.errors import ModelError
from lczcube.grid import Grid
from lczcube.lcz import cf_attrs
from lczcube.models import ModelMeta, XgbParameters, fit_xgb, predict_features
from lczcube.models.maps import map_dataset
from lczcube.probability import quantise
from lczcube.products import open_product, write_product
from tests.confidence_worlds import draw_blocks

META = ModelMeta("made", ("a", "b", "c"), ("made/1",), tuple(range(1, 9)), 0, 3, True, {})
GRID = Grid("EPSG:32632", (10, 20, 12, 22), pixel_m=20, chunk_cells=1)
"""32 x 32 pixels of 20 m in chunks of 16."""

ROWS, COLUMNS = GRID.shape


def made_confidence(**parts: Any) -> Confidence:
    blocks = draw_blocks(1, 100)
    train = np.random.default_rng(0).normal(size=(80, 3)).astype(np.float32)
    return Confidence(
        **{
            "calibration": ClassCalibration("temperature", temperature=2.0),
            "label_sets": LabelSets.fit(blocks.probability, blocks.lcz, blocks.group),
            "applicability": Applicability.fit(train, np.arange(80) % 4),
        }
        | parts
    )


def made_map() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Probabilities (17, y, x) with a hole, and features (y, x, 3), one pixel without any."""
    rows = draw_blocks(2, 200).probability[: ROWS * COLUMNS]
    probability = np.moveaxis(rows.reshape(ROWS, COLUMNS, 17), -1, 0).copy()
    probability[:, 3:5, 7] = np.nan
    features = np.random.default_rng(1).normal(size=(ROWS, COLUMNS, 3)).astype(np.float32)
    features[:, COLUMNS // 2 :] += 9
    features[0, 0] = np.nan
    return probability, features


def mapped(
    probability: Any, features: Any, confidence: Confidence | None, dims: str = "yxf"
) -> xr.Dataset:
    box = GRID.geobox
    like = xr.DataArray(
        np.ones(GRID.shape, bool),
        dims=("y", "x"),
        coords={dim: box.coordinates[dim].values for dim in ("y", "x")},
    )
    seen = None if features is None else xr.DataArray(features, dims=tuple(dims))
    return map_dataset(
        probability,
        like,
        META,
        grid_json=GRID.to_json(),
        confidence=confidence,
        features=seen,
    )


def test_every_variable_is_that_of_its_part_pixel_by_pixel() -> None:
    probability, features = made_map()
    confidence = made_confidence()
    found = mapped(probability, features, confidence)
    known = ~np.isnan(probability[0])
    rows = confidence.calibrated(probability[:, known].T)
    lcz, percent_of_lcz, percent = quantise(rows)
    assert confidence.label_sets is not None
    assert confidence.applicability is not None
    index = confidence.applicability.dissimilarity(features[known])
    np.testing.assert_array_equal(found["lcz"].values[known], lcz)
    np.testing.assert_array_equal(found["confidence"].values[known], percent_of_lcz)
    np.testing.assert_array_equal(found["probability"].values[:, known], percent.T)
    np.testing.assert_array_equal(
        found["label_set"].values[known], confidence.label_sets.sets(rows)
    )
    np.testing.assert_array_equal(found["dissimilarity"].values[known], index)
    is_far = found["applicable"].values[:, COLUMNS // 2 :]
    assert (is_far == 0).mean() > 0.99
    dtypes = {name: str(variable.dtype) for name, variable in found.data_vars.items()}
    assert dtypes == {
        "lcz": "uint8",
        "confidence": "uint8",
        "probability": "uint8",
        "label_set": "uint32",
        "dissimilarity": "float32",
        "applicable": "uint8",
    }
    assert found["probability"].dims == ("lcz_class", "y", "x")


def test_no_data_is_where_the_map_has_none_and_where_features_say_nothing() -> None:
    probability, features = made_map()
    found = mapped(probability, features, made_confidence())
    hole = np.isnan(probability[0])
    np.testing.assert_array_equal(found["label_set"] == 0, hole)
    hole[0, 0] = True
    np.testing.assert_array_equal(np.isnan(found["dissimilarity"]), hole)
    np.testing.assert_array_equal(found["applicable"] == 255, hole)


def test_every_set_holds_the_class_of_the_map() -> None:
    probability, features = made_map()
    found = mapped(probability, features, made_confidence())
    known = found["lcz"].values > 0
    code = found["lcz"].values[known].astype(np.uint32)
    assert ((found["label_set"].values[known] >> (code - 1)) & 1 == 1).all()


def test_a_temperature_leaves_the_zones_and_moves_their_confidence() -> None:
    probability, _ = made_map()
    plain = mapped(probability, None, None)
    calibrated = mapped(probability, None, made_confidence(applicability=None, label_sets=None))
    xr.testing.assert_equal(calibrated["lcz"], plain["lcz"])
    known = plain["lcz"].values > 0
    assert calibrated["confidence"].values[known].mean() < plain["confidence"].values[known].mean()


def test_without_confidence_a_map_is_what_it_was() -> None:
    probability, _ = made_map()
    found = mapped(probability, None, None)
    lcz, percent_of_lcz, percent = quantise(np.moveaxis(probability, 0, -1))
    assert list(found.data_vars) == ["lcz", "confidence", "probability"]
    np.testing.assert_array_equal(found["lcz"], lcz)
    np.testing.assert_array_equal(found["confidence"], percent_of_lcz)
    np.testing.assert_array_equal(found["probability"], np.moveaxis(percent, -1, 0))


@pytest.mark.parametrize("side", [5, 16, 64])
def test_any_chunks_give_the_map_of_one(side: int) -> None:
    probability, features = made_map()
    lazy = mapped(
        da.from_array(probability, chunks=(17, side, side)),
        da.from_array(np.moveaxis(features, -1, 0), chunks=(1, 11, 11)),
        made_confidence(),
        dims="fyx",
    )
    assert all(isinstance(variable.data, da.Array) for variable in lazy.data_vars.values())
    xr.testing.assert_identical(lazy.compute(), mapped(probability, features, made_confidence()))


def test_all_variables_come_of_one_task_a_chunk_and_the_model_runs_once() -> None:
    probability, features = made_map()
    calls = []

    def model(block: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        calls.append(block.shape)
        return block

    chunked = da.from_array(probability, chunks=(17, 16, 16))
    lazy = mapped(
        da.map_blocks(model, chunked, dtype=np.float32, meta=np.empty((0, 0, 0), np.float32)),
        da.from_array(features, chunks=(16, 16, 3)),
        made_confidence(),
    )
    graph = dict(lazy.__dask_graph__() or {})
    assert sum("pixels_of_block" in str(key[0]) for key in graph) == 4
    with dask.config.set(scheduler="synchronous"):
        lazy.compute()
    assert calls == [(17, 16, 16)] * 4


def test_a_map_with_confidence_is_written_and_read_again(tmp_path: Path) -> None:
    probability, features = made_map()
    found = mapped(da.from_array(probability, chunks=(17, 16, 16)), features, made_confidence())
    write_product({"pixels": found}, tmp_path / "map.zarr")
    stored = open_product(tmp_path / "map.zarr", "pixels")
    for name in ("label_set", "dissimilarity", "applicable"):
        np.testing.assert_array_equal(stored[name], found[name])
        assert stored[name].dtype == found[name].dtype
        assert stored[name].attrs["grid_mapping"] == "spatial_ref"
        assert stored[name].attrs["long_name"]
    attrs = stored["label_set"].attrs
    assert attrs["flag_masks"] == [1 << bit for bit in range(17)]
    assert attrs["flag_meanings"] == cf_attrs()["flag_meanings"]
    assert len(attrs["flag_meanings"].split()) == 17
    assert stored.attrs["label_set_promise"] == 0.9
    assert stored.attrs["dissimilarity_threshold"] > 0
    assert stored.attrs[GRID_ATTR] == GRID.to_json()


def test_a_model_and_its_confidence_map_features_of_cells() -> None:
    rng = np.random.default_rng(5)
    lcz = (np.arange(120) % 2 * 4 + 2).astype(np.uint8)
    values = rng.normal(size=(120, 2)).astype(np.float32) + lcz[:, None]
    attrs = {"products": json.dumps([])}
    samples = xr.Dataset(
        {"features": (("sample", "feature"), values), "lcz": ("sample", lcz)},
        coords={"feature": ["a", "noise"]},
        attrs=attrs,
    )
    model = fit_xgb(samples, seed=0, parameters=XgbParameters(rounds=5, max_depth=2, colsample=1))
    area = Applicability.fit(values, np.arange(120) // 2 % 5, model.importance())
    board = np.stack([np.full((4, 5), 2.0), np.full((4, 5), 2.0)], axis=-1).astype(np.float32)
    board[:, 3:] = 90
    features = xr.Dataset(
        {
            "features": (("cell_y", "cell_x", "feature"), board),
            "covered": (("cell_y", "cell_x"), np.arange(20).reshape(4, 5) > 0),
        },
        coords={"feature": ["a", "noise"]},
        attrs=attrs,
    )
    confidence = Confidence(applicability=area)
    found = predict_features(model, features, confidence=confidence)
    wanted = np.ones((4, 5), np.uint8)
    wanted[:, 3:], wanted[0, 0] = 0, 255
    np.testing.assert_array_equal(found["applicable"], wanted)
    lazy = predict_features(model, features.chunk(cell_y=3, feature=1), confidence=confidence)
    xr.testing.assert_identical(lazy.compute(), found)


def test_the_importance_of_a_feature_that_no_tree_uses_is_0() -> None:
    lcz = (np.arange(60) % 2 * 4 + 2).astype(np.uint8)
    values = np.column_stack([lcz, np.ones(60), lcz + np.arange(60) % 7]).astype(np.float32)
    samples = xr.Dataset(
        {"features": (("sample", "feature"), values), "lcz": ("sample", lcz)},
        coords={"feature": ["told", "same", "blurred"]},
    )
    model = fit_xgb(samples, seed=0, parameters=XgbParameters(rounds=3, max_depth=2, colsample=1))
    gain = model.importance()
    assert gain.shape == (3,)
    assert gain[1] == 0
    assert gain[0] > gain[2] >= 0


def test_an_area_of_applicability_without_features_is_refused() -> None:
    probability, _ = made_map()
    with pytest.raises(ModelError, match="no features to hold against it"):
        mapped(probability, None, made_confidence())


def test_features_of_another_shape_are_refused_before_anything_is_computed() -> None:
    probability, features = made_map()
    with pytest.raises(ModelError, match=r"wants \(32, 32, 3\)"):
        mapped(da.from_array(probability), features[..., :2], made_confidence())
