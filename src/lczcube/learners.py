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
from lczcube.cube import image
from lczcube.labels.samples import join_samples, sample_squares
from lczcube.lcz import N_CLASSES
from lczcube.models import (
    Batches,
    UnetParameters,
    XgbModel,
    XgbParameters,
    context_px,
    fit_forest,
    fit_knn,
    fit_linear,
    fit_unet,
    fit_xgb,
    predict,
    predict_features,
    predict_pixels,
)
from lczcube.models.batches import joined_batches, pixel_batches, sample_batches
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
        ``(samples, valid, seed, data)`` gives the model; ``valid`` is None but for early stopping.
    of_pixels : bool
        Learn from the bare values of the samples' centre pixels instead; such a model has no map.
    stops : bool
        May stop early.
    """

    fit_samples: Callable[[xr.Dataset, xr.Dataset | None, int, TrainingData], Any]
    of_pixels: bool = False
    stops: bool = False
    unit: Unit = "cells"

    def fit(self, data: TrainingData, rows: Rows, *, seed: int, final: bool) -> Any:
        """A model of the features of samples."""
        samples = self._samples(data)
        train, held = data.held_for_stopping(rows, seed=seed) if self.stops else (rows, None)
        chosen = samples.isel(sample=train)
        if final and data.run.pseudo_weight > 0:
            made = (pseudo_samples(city, data.run) for city in data.cities.values())
            chosen = join_samples([chosen, *(part for part in made if part is not None)])
        valid = None if held is None else samples.isel(sample=held)
        return self.fit_samples(chosen, valid, seed, data)

    def probability(self, model: Any, data: TrainingData, rows: Rows) -> npt.NDArray[np.float32]:
        """Probabilities of samples by their features, a batch at a time."""
        samples = self._samples(data).isel(sample=rows)
        return np.concatenate([model.probability(b.features) for b in sample_batches(samples)])

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
        return _mean_over_squares(self, model, data, rows)

    def map(self, model: Any, city: CityData, confidence: Confidence | None) -> xr.Dataset:
        """A map of pixels."""
        return predict(model, city.open_cube(model.context_px))


@dataclass(frozen=True)
class OnPixelValues:
    """Boosted trees on the bare values of labelled pixels, read a chunk at a time."""

    unit: Unit = "pixels"

    def fit(self, data: TrainingData, rows: Rows, *, seed: int, final: bool) -> Any:
        """Trees of the labelled pixels of the groups of some samples."""
        train, held = data.held_for_stopping(rows, seed=seed)
        groups = None if final and held is None else data.groups(train)
        valid = None if held is None else _pixel_batches(data, data.groups(held))
        return _fit_trees(_pixel_batches(data, groups), valid, seed, data)

    def probability(self, model: Any, data: TrainingData, rows: Rows) -> npt.NDArray[np.float32]:
        """The mean probability over the square of each sample."""
        return _mean_over_squares(self, model, data, rows)

    def map(self, model: Any, city: CityData, confidence: Confidence | None) -> xr.Dataset:
        """A map of pixels."""
        return predict_pixels(
            model, image(city.open_cube(0)), grid=city.grid, confidence=confidence
        )


def _mean_over_squares(
    learner: Learner, model: Any, data: TrainingData, rows: Rows
) -> npt.NDArray[np.float32]:
    """What a map of pixels says of the square of each sample: float32 (n, 17)."""
    found = np.full((len(rows), N_CLASSES), np.nan, np.float32)
    owners = data.frame["city"].to_numpy()[rows]
    for city in data.cities.values():
        mine = np.flatnonzero(owners == city.city)
        if len(mine):
            squares = sample_squares(data.samples.isel(sample=rows[mine]), city.grid)
            found[mine] = patch_probabilities(learner.map(model, city, None), squares)
    return found


def _pixel_batches(data: TrainingData, groups: set[str] | None) -> Batches:
    parts = [
        pixel_batches(training_area(city, data.config, halo_px=0, groups=groups))
        for city in data.cities.values()
    ]
    return joined_batches(parts)


def _fit_trees(train: Any, valid: Any, seed: int, data: TrainingData) -> XgbModel:
    return fit_xgb(
        train,
        valid=valid,
        seed=seed,
        parameters=xgb_parameters(data.config),
        n_threads=data.n_threads,
    )


def _xgb(samples: xr.Dataset, valid: xr.Dataset | None, seed: int, data: TrainingData) -> Any:
    held = None if valid is None else _trees_input(valid)
    return _fit_trees(_trees_input(samples), held, seed, data)


def _trees_input(samples: xr.Dataset) -> xr.Dataset | Batches:
    """Samples in memory as they are; lazy ones in batches, which give the same trees."""
    return sample_batches(samples) if samples["features"].chunks else samples


def _baseline(fit: Callable[..., Any]) -> Callable[..., Any]:
    def fit_samples(samples: xr.Dataset, _: Any, seed: int, __: TrainingData) -> Any:
        return fit(samples.compute(), seed=seed)

    return fit_samples


LEARNERS: dict[str, Learner] = {
    "xgb": OnFeatures(_xgb, stops=True),
    "xgb_pixels": OnPixelValues(),
    "linear": OnFeatures(_baseline(fit_linear)),
    "forest": OnFeatures(_baseline(fit_forest)),
    "knn": OnFeatures(_baseline(fit_knn)),
    "unet": OnPixels(),
    "forest_pixels": OnFeatures(_baseline(fit_forest), of_pixels=True),
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
