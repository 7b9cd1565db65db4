"""Learners: each kind of model behind one door: fitted, asked about samples, laid out as a map."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import xarray as xr

from lczcube.confidence import Confidence
from lczcube.config import CityFile
from lczcube.labels.samples import join_samples, sample_squares
from lczcube.lcz import N_CLASSES
from lczcube.models import (
    UnetParameters,
    XgbParameters,
    context_px,
    fit_forest,
    fit_knn,
    fit_unet,
    fit_xgb,
    predict,
    predict_features,
)
from lczcube.patchmaps import patch_probabilities
from lczcube.trainingdata import CityData, Rows, TrainingData, pseudo_samples, training_area

Unit = Literal["cells", "pixels"]
"""Of what a model makes a map: the group of the product that it goes to."""


class Learner(Protocol):
    """A kind of model: how a run fits it, what it says of samples, and its map.

    Attributes
    ----------
    unit : str
        ``cells`` or ``pixels``.
    """

    @property
    def unit(self) -> Unit:
        """Of what its map is."""

    def fit(self, data: TrainingData, rows: Rows, *, seed: int, final: bool) -> Any:
        """A model of the labels of some samples; a final one may also learn from pseudo-labels."""

    def probability(self, model: Any, data: TrainingData, rows: Rows) -> npt.NDArray[np.float32]:
        """What a model says of samples: float32 (n, 17), a row of NaN for nothing."""

    def map(self, model: Any, city: CityData, confidence: Confidence | None) -> xr.Dataset:
        """Its map of a city; lazy."""


@dataclass(frozen=True)
class OnFeatures:
    """Models on the features of cells and patches.

    Attributes
    ----------
    fit_samples : callable
        ``(samples, seed, config, n_threads)`` gives the model.
    of_pixels : bool
        Learn from the bare values of the samples' centre pixels instead; such a model has no map.
    """

    fit_samples: Callable[[xr.Dataset, int, CityFile, int], Any]
    of_pixels: bool = False
    unit: Unit = "cells"

    def fit(self, data: TrainingData, rows: Rows, *, seed: int, final: bool) -> Any:
        """A model of the features of samples."""
        samples = self._samples(data).isel(sample=rows)
        if final and data.run.pseudo_weight > 0:
            made = (pseudo_samples(city, data.run) for city in data.cities.values())
            samples = join_samples([samples, *(part for part in made if part is not None)])
        return self.fit_samples(samples, seed, data.config, data.n_threads)

    def probability(self, model: Any, data: TrainingData, rows: Rows) -> npt.NDArray[np.float32]:
        """Probabilities of samples by their features."""
        features = self._samples(data)["features"].values[rows]
        found: npt.NDArray[np.float32] = model.probability(features)
        return found

    def map(self, model: Any, city: CityData, confidence: Confidence | None) -> xr.Dataset:
        """A map of cells."""
        return predict_features(model, city.features, confidence=confidence)

    def _samples(self, data: TrainingData) -> xr.Dataset:
        return data.pixels if self.of_pixels else data.samples


@dataclass(frozen=True)
class OnPixels:
    """The U-Net: learns from labelled pixels, and is asked about samples by its mean over them."""

    unit: Unit = "pixels"

    def fit(self, data: TrainingData, rows: Rows, *, seed: int, final: bool) -> Any:
        """A U-Net of the labelled pixels of the groups of some samples."""
        parameters = unet_parameters(data.config)
        halo_px = context_px(parameters)
        areas = [
            training_area(
                city,
                data.config,
                halo_px=halo_px,
                groups=None if final else data.groups(rows),
                pseudo_weight=data.run.pseudo_weight if final else 0.0,
            )
            for city in data.cities.values()
        ]
        return fit_unet(
            areas,
            seed=seed,
            parameters=parameters,
            n_threads=data.n_threads,
            bands=tuple(areas[0].image["band"].values.tolist()),
            products=tuple(json.loads(areas[0].image.attrs["products"])),
            synthetic=bool(areas[0].image.attrs["synthetic"]),
        )

    def probability(self, model: Any, data: TrainingData, rows: Rows) -> npt.NDArray[np.float32]:
        """The mean probability over the square of each sample."""
        found = np.full((len(rows), N_CLASSES), np.nan, np.float32)
        owners = data.frame["city"].to_numpy()[rows]
        for city in data.cities.values():
            mine = np.flatnonzero(owners == city.city)
            if len(mine):
                squares = sample_squares(data.samples.isel(sample=rows[mine]), city.grid)
                found[mine] = patch_probabilities(self.map(model, city, None), squares)
        return found

    def map(self, model: Any, city: CityData, confidence: Confidence | None) -> xr.Dataset:
        """A map of pixels."""
        return predict(model, city.open_cube(model.context_px))


def _xgb(samples: xr.Dataset, seed: int, config: CityFile, n_threads: int) -> Any:
    return fit_xgb(samples, seed=seed, parameters=xgb_parameters(config), n_threads=n_threads)


def _forest(samples: xr.Dataset, seed: int, _: CityFile, __: int) -> Any:
    return fit_forest(samples, seed=seed)


def _knn(samples: xr.Dataset, seed: int, _: CityFile, __: int) -> Any:
    return fit_knn(samples, seed=seed)


LEARNERS: dict[str, Learner] = {
    "xgb": OnFeatures(_xgb),
    "forest": OnFeatures(_forest),
    "knn": OnFeatures(_knn),
    "unet": OnPixels(),
    "forest_pixels": OnFeatures(_forest, of_pixels=True),
}
"""By kind; all but those ``of_pixels`` are saved and make maps."""


def xgb_parameters(config: CityFile) -> XgbParameters:
    """Parameters of the ``[xgb]`` table."""
    return XgbParameters(**config.xgb.model_dump())


def unet_parameters(config: CityFile) -> UnetParameters:
    """Parameters of the ``[unet]`` table."""
    return UnetParameters(**config.unet.model_dump())


def reach_px(config: CityFile) -> int:
    """Pixels past the grid that the models of a run look at."""
    models = () if config.run is None else config.run.models
    return context_px(unet_parameters(config)) if "unet" in models else 0
