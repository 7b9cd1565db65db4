"""Learners: each kind of model behind one door: fitted, asked about samples, laid out as a map."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from lczcube.confidence import Confidence
from lczcube.config import CityFile, NetworkTable
from lczcube.cube import image
from lczcube.labels.samples import join_samples, sample_squares
from lczcube.lcz import N_CLASSES
from lczcube.models import (
    Area,
    Batches,
    PatchArea,
    PatchParameters,
    UnetParameters,
    XgbModel,
    XgbParameters,
    context_px,
    fit_forest,
    fit_knn,
    fit_linear,
    fit_patch,
    fit_unet,
    fit_xgb,
    patch_probability,
    predict_features,
    predict_patch,
    predict_pixels,
    predict_unet,
)
from lczcube.models.batches import joined_batches, pixel_batches, sample_batches
from lczcube.models.pixels import pixel_probability
from lczcube.models.unetmap import unet_probability
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

    def held_out(
        self, model: Any, data: TrainingData, rows: Rows
    ) -> dict[str, npt.NDArray[np.float32]]:
        """What is kept of samples that it has not seen, (n, 17) each.

        ``p`` is :meth:`probability`; of a map of pixels ``c`` is that of the pixel at the centre.
        """

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
        wanted = self.stops and data.config.xgb.early_stopping > 0
        train, held = data.held_for_stopping(rows, seed=seed, wanted=wanted)
        chosen = samples.isel(sample=train)
        if final and data.run.pseudo_weight > 0:
            made = (pseudo_samples(city, data.run) for city in data.every_city.values())
            chosen = join_samples([chosen, *(part for part in made if part is not None)])
        valid = None if held is None else samples.isel(sample=held)
        return self.fit_samples(chosen, valid, seed, data)

    def probability(self, model: Any, data: TrainingData, rows: Rows) -> npt.NDArray[np.float32]:
        """Probabilities of samples by their features, a batch at a time."""
        samples = self._samples(data).isel(sample=rows)
        return np.concatenate([model.probability(b.features) for b in sample_batches(samples)])

    def held_out(
        self, model: Any, data: TrainingData, rows: Rows
    ) -> dict[str, npt.NDArray[np.float32]]:
        """Probabilities of samples."""
        return {"p": self.probability(model, data, rows)}

    def map(self, model: Any, city: CityData, confidence: Confidence | None) -> xr.Dataset:
        """A map of cells."""
        return predict_features(model, city.features, confidence=confidence)

    def _samples(self, data: TrainingData) -> xr.Dataset:
        return data.pixels if self.of_pixels else data.samples


class _Mapped(ABC):
    """A model that is asked about samples by its map of pixels."""

    unit: Unit = "pixels"

    @abstractmethod
    def lazy_probability(self, model: Any, city: CityData) -> xr.DataArray:
        """Probabilities of all pixels of a city, float32 ``(lcz_class, y, x)``, before rounding."""

    def probability(self, model: Any, data: TrainingData, rows: Rows) -> npt.NDArray[np.float32]:
        """The mean probability over the square of each sample."""
        found: npt.NDArray[np.float32] = self._over_squares(model, data, rows, (None,))[0]
        return found

    def held_out(
        self, model: Any, data: TrainingData, rows: Rows
    ) -> dict[str, npt.NDArray[np.float32]]:
        """Mean probabilities over the squares of samples, and those of their middle pixels."""
        sides = (None, data.config.grid.pixel_m)
        return dict(zip("pc", self._over_squares(model, data, rows, sides), strict=True))

    def _over_squares(
        self, model: Any, data: TrainingData, rows: Rows, sides_m: Sequence[float | None]
    ) -> npt.NDArray[np.float32]:
        """Means over squares of each side around samples, (side, n, 17), in one pass of a map."""
        found = np.full((len(sides_m), len(rows), N_CLASSES), np.nan, np.float32)
        owners = data.frame["city"].to_numpy()[rows]
        for city in data.cities.values():
            mine = np.flatnonzero(owners == city.city)
            if len(mine):
                samples = data.samples.isel(sample=rows[mine])
                squares = [sample_squares(samples, city.grid, side_m=side) for side in sides_m]
                maps = xr.Dataset({"probability": self.lazy_probability(model, city)})
                said = patch_probabilities(maps, pd.concat(squares, ignore_index=True))
                found[:, mine] = said.reshape(len(sides_m), len(mine), N_CLASSES)
        return found


@dataclass(frozen=True)
class OnPixels(_Mapped):
    """The U-Net: learns from labelled pixels and what lies around them."""

    def fit(self, data: TrainingData, rows: Rows, *, seed: int, final: bool) -> Any:
        """A U-Net of the labelled pixels of the groups of some samples."""
        wanted = data.config.unet.early_stopping
        train, held = data.held_for_stopping(rows, seed=seed, wanted=wanted)
        halo_px = context_px(unet_parameters(data.config))
        areas = _areas(data, train, halo_px, data.run.pseudo_weight if final else 0.0)
        return fit_unet(
            areas,
            seed=seed,
            parameters=unet_parameters(data.config),
            n_threads=data.n_threads,
            valid=None if held is None else _areas(data, held, halo_px),
            checkpoint=data.checkpoint("unet", rows, seed),
            **_identity(areas[0].image),
        )

    def lazy_probability(self, model: Any, city: CityData) -> xr.DataArray:
        """Probabilities of all pixels of a city."""
        pixels = image(city.open_cube(model.context_px))
        return unet_probability(model, pixels, grid=city.grid, halo_px=model.context_px)

    def map(self, model: Any, city: CityData, confidence: Confidence | None) -> xr.Dataset:
        """A map of pixels."""
        pixels = image(city.open_cube(model.context_px))
        return predict_unet(
            model, pixels, grid=city.grid, halo_px=model.context_px, confidence=confidence
        )


def _areas(data: TrainingData, rows: Rows, halo_px: int, pseudo_weight: float = 0.0) -> list[Area]:
    """The labelled pixels of samples, city by city; with pseudo-labels of all cities of the run."""
    cities = data.every_city if pseudo_weight > 0 else data.cities
    return [
        training_area(city, data, halo_px=halo_px, rows=rows, pseudo_weight=pseudo_weight)
        for city in cities.values()
    ]


@dataclass(frozen=True)
class OnWindows:
    """The patch network: learns from the pixels of labelled squares, and maps cells."""

    unit: Unit = "cells"

    def fit(self, data: TrainingData, rows: Rows, *, seed: int, final: bool) -> Any:
        """A network of the windows of some samples, and of pseudo-labels where they train."""
        wanted = data.config.patch.early_stopping
        train, held = data.held_for_stopping(rows, seed=seed, wanted=wanted)
        areas = _patch_areas(data, train, with_pseudo=final and data.run.pseudo_weight > 0)
        return fit_patch(
            areas,
            seed=seed,
            parameters=patch_parameters(data.config),
            n_threads=data.n_threads,
            valid=None if held is None else _patch_areas(data, held),
            checkpoint=data.checkpoint("patch", rows, seed),
            **_identity(areas[0].image),
        )

    def probability(self, model: Any, data: TrainingData, rows: Rows) -> npt.NDArray[np.float32]:
        """Probabilities of the windows of samples."""
        found = np.full((len(rows), N_CLASSES), np.nan, np.float32)
        owners = data.frame["city"].to_numpy()[rows]
        for area in _patch_areas(data, rows):
            found[owners == area.city] = patch_probability(model, area)
        return found

    def held_out(
        self, model: Any, data: TrainingData, rows: Rows
    ) -> dict[str, npt.NDArray[np.float32]]:
        """Probabilities of samples."""
        return {"p": self.probability(model, data, rows)}

    def map(self, model: Any, city: CityData, confidence: Confidence | None) -> xr.Dataset:
        """A map of cells."""
        halo_px = city.grid.halo_px
        return predict_patch(
            model,
            image(city.open_cube(halo_px)),
            grid=city.grid,
            halo_px=halo_px,
            confidence=confidence,
            features=city.features["features"],
        )


def _patch_areas(data: TrainingData, rows: Rows, *, with_pseudo: bool = False) -> list[PatchArea]:
    """The squares of samples, one part a city that has some."""
    areas = []
    for city in (data.every_city if with_pseudo else data.cities).values():
        mine = data.frame.iloc[rows]
        mine = mine[mine["city"] == city.city][["x", "y", "lcz", "weight"]]
        made = pseudo_samples(city, data.run) if with_pseudo else None
        if made is not None:
            extra = {name: made[name].values for name in mine}
            mine = pd.concat([mine, pd.DataFrame(extra)], ignore_index=True)
        if len(mine):
            halo_px = city.grid.halo_px
            areas.append(
                PatchArea(
                    city.city,
                    image(city.open_cube(halo_px)),
                    city.grid,
                    mine["x"].to_numpy(float),
                    mine["y"].to_numpy(float),
                    mine["lcz"].to_numpy(np.uint8),
                    mine["weight"].to_numpy(np.float32),
                    halo_px,
                )
            )
    return areas


def _identity(pixels: xr.DataArray) -> dict[str, Any]:
    """What a network is told of the image that it learns from."""
    return {
        "bands": tuple(pixels["band"].values.tolist()),
        "products": tuple(json.loads(pixels.attrs["products"])),
        "synthetic": bool(pixels.attrs["synthetic"]),
    }


@dataclass(frozen=True)
class OnPixelValues(_Mapped):
    """Boosted trees on the bare values of labelled pixels, read a chunk at a time."""

    def fit(self, data: TrainingData, rows: Rows, *, seed: int, final: bool) -> Any:
        """Trees of the labelled pixels of the groups of some samples."""
        wanted = data.config.xgb.early_stopping > 0
        train, held = data.held_for_stopping(rows, seed=seed, wanted=wanted)
        weight = data.run.pseudo_weight if final else 0.0
        valid = None if held is None else _pixel_batches(_areas(data, held, 0))
        return _fit_trees(_pixel_batches(_areas(data, train, 0, weight)), valid, seed, data)

    def lazy_probability(self, model: Any, city: CityData) -> xr.DataArray:
        """Probabilities of all pixels of a city."""
        return pixel_probability(model, image(city.open_cube(0)), grid=city.grid)

    def map(self, model: Any, city: CityData, confidence: Confidence | None) -> xr.Dataset:
        """A map of pixels."""
        return predict_pixels(
            model, image(city.open_cube(0)), grid=city.grid, confidence=confidence
        )


def _pixel_batches(areas: Sequence[Area]) -> Batches:
    return joined_batches([pixel_batches(area) for area in areas])


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
    "patch": OnWindows(),
    "forest_pixels": OnFeatures(_baseline(fit_forest), of_pixels=True),
}
"""By kind; all but those ``of_pixels`` are saved and make maps."""


def xgb_parameters(config: CityFile) -> XgbParameters:
    """Parameters of the ``[xgb]`` table."""
    return XgbParameters(**config.xgb.model_dump())


def unet_parameters(config: CityFile) -> UnetParameters:
    """Parameters of the ``[unet]`` table."""
    return UnetParameters(**_settings(config.unet))


def patch_parameters(config: CityFile) -> PatchParameters:
    """Parameters of the ``[patch]`` table."""
    return PatchParameters(**_settings(config.patch))


def _settings(table: NetworkTable) -> dict[str, Any]:
    """What a network is told: a validation says whether it may stop early."""
    return table.model_dump(exclude={"early_stopping"})


def reach_px(config: CityFile) -> int:
    """Pixels past the grid that the models of a run look at."""
    models = () if config.run is None else config.run.models
    return context_px(unet_parameters(config)) if "unet" in models else 0
