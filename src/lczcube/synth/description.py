"""What a synthetic world says of itself: its city file and its description."""

import json
from typing import Any

import numpy as np
import numpy.typing as npt

from lczcube.synth import bayes
from lczcube.synth.city import CHUNK_CELLS, City
from lczcube.synth.embedding import TWINS, EmbeddingModel
from lczcube.synth.labels import MIN_SHARE, PATCH_M
from lczcube.synth.layers import DEFAULT_LAYERS, LAYERS, layers_of
from lczcube.synth.zones import PIXEL_M

FORMAT = 1
N_DRAWS = 100_000


def city_file(cities: list[City], parameters: dict[str, Any]) -> str:
    """Text of ``world.toml``, a city file for ``lczcube run``."""
    seed, year = parameters["seed"], parameters["year"]
    layers = layers_of(parameters)
    tables = "\n".join(f"[city.{c.name}]\nbbox = {list(c.bbox)}\n" for c in cities)
    inputs = "".join(LAYERS[layer].toml.format(seed=seed, year=year) for layer in layers)
    features = [layer for layer in layers if LAYERS[layer].product]
    return f"""\
# SYNTHETIC: a made-up world, written by `lczcube synth` with seed {seed}. Nothing here is real.
id = "synthetic-{seed}"
title = "Synthetic world, seed {seed}"

{tables}
[grid]
pixel_m = {PIXEL_M}
cell_m = {PATCH_M}
chunk_cells = {CHUNK_CELLS}

{inputs}\
# SYNTHETIC labels: squares that overlap as So2Sat's do.
[[input]]
name = "labels"
source = "patches"
synthetic = true
href = "labels/{{city}}.parquet"
class_column = "lcz"
x0_column = "x0"
y0_column = "y0"
size_m = {PATCH_M}
group_column = "site"
split_column = "split"
id_column = "id"
title = "Synthetic labels"
license = "CC0-1.0"

[propagate]
donors = "all"
k = 10
min_confidence = 0.8
exclude_eval_m = {PATCH_M}

[run]
features = {json.dumps(features)}
labels = ["labels"]
year = {year}
split = "polygon"
folds = 5
seed = {seed}
models = ["xgb", "unet"]

[unet]
epochs = 4                                  # small: a demonstration in minutes
width = 8
"""


def describe(
    cities: list[City], parameters: dict[str, Any], model: EmbeddingModel
) -> dict[str, Any]:
    """Content of ``world.json``: parameters, optimum, signatures, and counts of each city."""
    per_city = [_describe_city(city, model, parameters["seed"]) for city in cities]
    n_pure = [c["n_pure_cells"] for c in per_city]
    weights = n_pure if sum(n_pure) else None
    observed = [c["ideal_observer_right"] for c in per_city]
    return {
        "format": FORMAT,
        "synthetic": True,
        "seed": parameters["seed"],
        **_products(parameters),
        "parameters": parameters,
        "bayes": {
            "accuracy": _rounded(
                np.average([c["bayes_accuracy"] for c in per_city], weights=weights)
            ),
            "accuracy_seeing_blocks": _rounded(
                np.average([c["bayes_accuracy_seeing_blocks"] for c in per_city], weights=weights)
            ),
            "observed_on_this_world": _rounded(sum(observed) / sum(n_pure))
            if sum(n_pure)
            else None,
            "unit": "cell",
            "population": "cells of 320 m that one class fills, of all cities together, on the "
            "default grid",
            "n_cells": sum(n_pure),
            "n_draws_per_city": N_DRAWS,
            "method": "Monte Carlo of an observer who knows, for each city, class means, "
            "covariance and class shares, and sees the mean latent vector of one cell before "
            "noise, normalisation and quantisation: argmax of log(share) - squared Mahalanobis "
            "distance / 2. A rule that also reads the cells beside may do better.",
        },
        "signatures": _describe_signatures(model),
        "cities": {city.name: told for city, told in zip(cities, per_city, strict=True)},
    }


def _products(parameters: dict[str, Any]) -> dict[str, Any]:
    """``product`` of a world of AlphaEarth alone, else ``products`` by layer."""
    seed, layers = parameters["seed"], layers_of(parameters)
    names = {
        layer: LAYERS[layer].product.format(seed=seed) for layer in layers if LAYERS[layer].product
    }
    if layers == list(DEFAULT_LAYERS):
        return {"product": names["alphaearth"]}
    return {"products": names}


def _describe_city(city: City, model: EmbeddingModel, seed: int) -> dict[str, Any]:
    cells = bayes.pure_cells(model, city.zone_map, city.number, city.grid)
    means, variance = model.means[city.number], bayes.cell_variance(model)
    share = bayes.class_share(cells.lcz)
    given = bayes.observe(cells.latent, means, share, variance)
    accuracies = [
        bayes.expected_accuracy(
            means, share, v, n_draws=N_DRAWS, rng=np.random.default_rng([seed, city.number, 12])
        )
        for v in (variance, bayes.cell_variance(model, weigh_blocks=True))
    ]
    return {
        "bbox": list(city.bbox),
        "grid": city.grid.to_dict(),
        "n_pure_cells": int(cells.lcz.size),
        "pure_cells_per_class": _counts(cells.lcz),
        "bayes_accuracy": _rounded(accuracies[0]),
        "bayes_accuracy_seeing_blocks": _rounded(accuracies[1]),
        "ideal_observer_right": int((given == cells.lcz).sum()),
        "n_patches": len(city.patches),
        "n_sites": len({p.site for p in city.patches}),
        "patches_per_class": _counts(np.array([p.lcz for p in city.patches], dtype=np.uint8)),
        "least_share_of_a_patch": MIN_SHARE,
    }


def _describe_signatures(model: EmbeddingModel) -> dict[str, Any]:
    """Nearest other class and its distance, in standard deviations of a cell, first city."""
    scaled = model.means[0] / np.sqrt(bayes.cell_variance(model))
    apart = np.linalg.norm(scaled[:, None] - scaled[None], axis=-1)
    np.fill_diagonal(apart, np.inf)
    return {
        "unit": "standard deviations of a cell's mean latent vector, in the first city",
        "twins": [list(pair) for pair in TWINS],
        "nearest": {
            str(code): {"lcz": int(row.argmin()) + 1, "distance": _rounded(row.min(), 2)}
            for code, row in enumerate(apart, start=1)
        },
    }


def _counts(codes: npt.NDArray[np.uint8]) -> dict[str, int]:
    values, counts = np.unique(codes, return_counts=True)
    return {str(v): int(n) for v, n in zip(values, counts, strict=True)}


def _rounded(value: float, digits: int = 4) -> float:
    return round(float(value), digits)
