"""Confidence on the real scene of Hong Kong: pixels, and polygons that no model of a fold saw."""

from pathlib import Path
from typing import NamedTuple

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import xarray as xr
from rasterio.features import rasterize
from sklearn.model_selection import StratifiedGroupKFold

from lczcube.confidence import (
    Applicability,
    Confidence,
    ConfidenceSettings,
    coverage_report,
    cross_calibrated,
    fit_confidence,
    held_out_sets,
    is_unseen,
)
from lczcube.models import XgbModel, XgbParameters, fit_xgb

Float32 = npt.NDArray[np.float32]
QUICK = XgbParameters(rounds=25, max_depth=4)


class Labelled(NamedTuple):
    scene: Float32
    features: Float32
    lcz: npt.NDArray[np.uint8]
    polygon: npt.NDArray[np.int64]
    fold: npt.NDArray[np.int64]
    probability: Float32


@pytest.fixture(scope="module")
def labelled(realdata: Path) -> Labelled:
    """Pixels of the training polygons, predicted by models of the other folds."""
    folder = realdata / "hongkong"
    with rasterio.open(folder / "landsat8_36band_100m.tif") as file:
        stored, transform, crs = file.read(), file.transform, str(file.crs)
    polygons = gpd.read_file(folder / "lcz_dfc2017_train_polygons.gpkg").to_crs(crs)

    def burnt(column: str, more: int = 0) -> npt.NDArray[np.int64]:
        pairs = list(zip(polygons.geometry, polygons[column] + more, strict=True))
        drawn = rasterize(pairs, stored.shape[1:], transform=transform, dtype="int32")
        return np.asarray(drawn, np.int64)

    valid = (stored != 0).all(axis=0)
    at = valid & (burnt("lcz") > 0)
    pixels = stored.astype(np.float32)
    features, lcz = pixels[:, at].T, burnt("lcz")[at].astype(np.uint8)
    polygon = burnt("polygon_id", 1)[at]
    fold = np.zeros(len(lcz), np.int64)
    splitter = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    for number, (_, test) in enumerate(splitter.split(lcz, lcz, polygon)):
        fold[test] = number
    probability = np.empty((len(lcz), 17), np.float32)
    for one in range(5):
        model = fitted(features[fold != one], lcz[fold != one])
        probability[fold == one] = model.probability(features[fold == one])
    every_hundredth = pixels[:, valid].T[::100]
    return Labelled(every_hundredth, features, lcz, polygon, fold, probability)


def fitted(features: Float32, lcz: npt.NDArray[np.uint8]) -> XgbModel:
    names = [f"b{i:02d}" for i in range(features.shape[1])]
    samples = xr.Dataset(
        {"features": (("sample", "feature"), features), "lcz": ("sample", lcz)},
        coords={"feature": names},
    )
    return fit_xgb(samples, seed=0, parameters=QUICK)


@pytest.fixture(scope="module")
def confidence(labelled: Labelled) -> Confidence:
    return fit_confidence(
        labelled.probability,
        labelled.lcz,
        labelled.polygon,
        folds=labelled.fold,
        features=labelled.features,
        weights=fitted(labelled.features, labelled.lcz).importance(),
        settings=ConfidenceSettings(max_samples=2000),
    )


def test_calibration_brings_confidence_nearer_to_what_is_right(confidence: Confidence) -> None:
    assert confidence.calibration is not None
    quality = confidence.calibration.quality
    assert quality is not None
    assert quality.error_calibrated < quality.error_raw


def test_sets_hold_the_class_of_unseen_polygons_within_the_noise_of_polygons(
    labelled: Labelled,
) -> None:
    asked = ~is_unseen(labelled.probability, labelled.lcz, labelled.fold)
    given, fold = (labelled.lcz[asked], labelled.polygon[asked]), labelled.fold[asked]
    calibrated = cross_calibrated(labelled.probability[asked], *given, held_out=fold)
    sets = held_out_sets(calibrated, *given, held_out=fold)
    report = coverage_report(sets, *given).iloc[0]
    assert report["n_groups"] > 75
    assert report["low"] < 0.9 < report["high"]
    assert abs(report["gap"]) < 0.04
    assert report["mean_size"] < 13 / 2


def test_the_scene_is_applicable_and_the_same_scene_twice_as_bright_is_not(
    labelled: Labelled, confidence: Confidence
) -> None:
    area = confidence.applicability
    assert isinstance(area, Applicability)
    assert area.inside(area.dissimilarity(labelled.scene)).mean() > 0.85
    assert area.inside(area.dissimilarity(labelled.scene * 2)).mean() < 0.1
