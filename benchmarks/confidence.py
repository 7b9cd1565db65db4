"""What calibration, label sets and the area of applicability are worth, on real and made-up data.

    python benchmarks/confidence.py hongkong     # LCZCUBE_REALDATA/hongkong: windows, five folds
    python benchmarks/confidence.py synthetic    # three cities, a fourth, one of another world
    python benchmarks/confidence.py cost         # CPU seconds a million pixels

Hong Kong: out-of-fold predictions of XGBoost on 3 x 3 windows, folds of whole polygons. What is
asked of a fold was learnt on the others. The synthetic world: XGBoost on the patches of three
cities, folds of cities; the pure cells that no patch touches, in those cities, in a fourth, and in
a city whose signatures are another world's.
"""

import argparse
import copy
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import xarray as xr

from hongkong_models import REALDATA, Scene, folds
from lczcube.confidence import (
    Applicability,
    Confidence,
    ConfidenceSettings,
    LabelSets,
    coverage_report,
    coverage_table,
    cross_calibrated,
    fit_calibration,
    fit_confidence,
    held_out_sets,
)
from lczcube.models import XgbModel, XgbParameters, fit_xgb
from lczcube.synth import WorldCity, write_world
from lczcube.tables import markdown_table, with_interval
from synth_difficulty import CitySamples, read_samples

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


def fit(samples: xr.Dataset, seed: int) -> XgbModel:
    return fit_xgb(samples, seed=seed, parameters=XgbParameters(), n_threads=1)


def out_of_fold(samples: xr.Dataset, fold: Int64, seed: int) -> Float32:
    """Predictions of each sample by a model of the other folds."""
    probability = np.empty((samples.sizes["sample"], 17), np.float32)
    for one in np.unique(fold):
        model = fit(samples.isel(sample=fold != one), seed)
        probability[fold == one] = model.probability(samples["features"].values[fold == one])
    return probability


def hongkong(seeds: int) -> None:
    scene = Scene(REALDATA)
    samples = scene.windows()
    for seed in range(seeds):
        fold = np.zeros(samples.sizes["sample"], np.int64)
        for number, (_, test) in enumerate(folds(samples, seed)):
            fold[test] = number
        probability = out_of_fold(samples, fold, seed)
        print(f"\n## Folds of seed {seed}\n")
        print_calibrations(probability, samples)
        print_sets(probability, samples, fold)
        print_area(scene, samples, fold, seed)


def print_calibrations(probability: Float32, samples: xr.Dataset) -> None:
    rows = []
    for method in ("temperature", "isotonic"):
        found = fit_calibration(
            probability, samples["lcz"].values, samples["group"].values, method=method
        )
        quality = found.quality
        assert quality is not None
        rows.append(
            (
                method,
                with_interval(quality.error_raw, quality.interval_raw),
                with_interval(quality.error_calibrated, quality.interval_calibrated),
                f"{found.temperature:.2f}",
            )
        )
    print(f"Right: {(probability.argmax(axis=1) + 1 == samples['lcz'].values).mean():.3f}\n")
    print(markdown_table(("calibration", "error before", "after", "temperature"), rows))


def print_sets(probability: Float32, samples: xr.Dataset, fold: Int64) -> None:
    lcz, group = samples["lcz"].values, samples["group"].values
    calibrated = cross_calibrated(probability, lcz, group, held_out=fold)
    for score in ("aps", "raps", "lac"):
        sets = held_out_sets(calibrated, lcz, group, held_out=fold, score=score)
        report = coverage_report(sets, lcz, group, cities=fold)
        print(f"\n{score}, sets of each fold by the others (`city`: the fold):\n")
        print(coverage_table(report[report["by"] != "class"]))


def print_area(scene: Scene, samples: xr.Dataset, fold: Int64, seed: int) -> None:
    whole = copy.copy(scene)
    whole.at = np.nonzero(~np.isnan(scene.image).any(axis=0))
    pixels = whole.windows()["features"].values
    model = fit(samples, seed)
    started = time.process_time()
    model.probability(pixels)
    print(f"\nThe model: {(time.process_time() - started) / len(pixels) * 1e6:.0f} CPU s a million")
    gain = model.importance()
    for name, weights in (("gain", gain), ("1", None)):
        area = Applicability.fit(samples["features"].values, fold, weights)
        started = time.process_time()
        index = area.dissimilarity(pixels)
        cost = (time.process_time() - started) / len(pixels) * 1e6
        print(
            f"\nweights {name}: threshold {area.threshold:.3f}, {area.inside(index).mean():.1%} of "
            f"{len(pixels)} pixels applicable, {cost:.0f} CPU seconds a million"
        )


def synthetic(seed: int, km: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = write_world(Path(folder) / "world", cities=4, km=km, seed=seed)
        other = write_world(Path(folder) / "other", cities=1, km=km, seed=seed + 100)
        cities = [read_samples(city) for city in world.cities]
        groups = [patch_groups(city) for city in world.cities]
        foreign = read_samples(other.cities[0])
    names = [city.name for city in world.cities]
    samples = table_of(cities[:3], names[:3], groups[:3])
    _, fold = np.unique(samples["city"].values, return_inverse=True)
    probability = out_of_fold(samples, fold, seed)
    model = fit(samples, seed)
    confidence = fit_confidence(
        probability,
        samples["lcz"].values,
        samples["group"].values,
        cities=samples["city"].values,
        folds=fold,
        features=samples["features"].values,
        weights=model.importance(),
        settings=ConfidenceSettings(seed=seed),
    )
    print(confidence.summary())
    patches = Applicability.fit(
        samples["features"].values, patch_folds(samples), model.importance()
    )
    print(f"\nThreshold by folds of patches instead of cities: {patches.threshold:.3f}\n")
    asked = dict(zip((f"{name}, in training" for name in names[:3]), cities, strict=False))
    asked |= {f"{names[3]}, held out": cities[3], "of another world": foreign}
    rows = [row_of(name, city, model, confidence, patches) for name, city in asked.items()]
    header = (
        "city",
        "cells",
        "right",
        "coverage",
        "mean size",
        "applicable (cities)",
        "applicable (patches)",
        "right inside",
        "right outside",
    )
    print(markdown_table(header, rows))


def patch_groups(city: WorldCity) -> npt.NDArray[np.object_]:
    groups: npt.NDArray[np.object_] = gpd.read_parquet(city.labels)["site"].to_numpy(object)
    return groups


def table_of(
    cities: list[CitySamples], names: list[str], groups: list[npt.NDArray[np.object_]]
) -> xr.Dataset:
    features = np.concatenate([city.patches for city in cities])
    known = ~np.isnan(features).any(axis=1)
    city = np.repeat(names, [len(each.patches) for each in cities])
    table = xr.Dataset(
        {
            "features": (("sample", "feature"), features),
            "lcz": ("sample", np.concatenate([each.patch_lcz for each in cities])),
            "city": ("sample", city),
            "group": ("sample", np.concatenate(groups).astype(str)),
        },
        coords={"feature": [f"f{i:03d}" for i in range(features.shape[1])]},
    )
    return table.isel(sample=known)


def patch_folds(samples: xr.Dataset) -> Int64:
    """Five folds of whole groups of patches."""
    names = np.char.add(samples["city"].values.astype(str), samples["group"].values.astype(str))
    _, number = np.unique(names, return_inverse=True)
    return np.random.default_rng(0).integers(0, 5, number.max() + 1)[number]


def row_of(
    name: str, city: CitySamples, model: XgbModel, confidence: Confidence, patches: Applicability
) -> tuple[str, ...]:
    assert confidence.label_sets is not None
    assert confidence.applicability is not None
    known = ~np.isnan(city.cells).any(axis=1)
    features, lcz = city.cells[known], city.cell_lcz[known]
    probability = confidence.calibrated(model.probability(features))
    right = probability.argmax(axis=1) + 1 == lcz
    report = coverage_report(confidence.label_sets.sets(probability), lcz, np.arange(len(lcz)))
    index = confidence.applicability.dissimilarity(features)
    inside = confidence.applicability.inside(index)
    return (
        name,
        str(len(lcz)),
        f"{right.mean():.3f}",
        f"{report['coverage'][0]:.3f}",
        f"{report['mean_size'][0]:.2f}",
        f"{inside.mean():.1%}",
        f"{patches.inside(index).mean():.1%}",
        f"{right[inside].mean():.3f}" if inside.any() else "-",
        f"{right[~inside].mean():.3f}" if (~inside).any() else "-",
    )


def cost(n: int = 200_000) -> None:
    rng = np.random.default_rng(0)
    chance = rng.dirichlet(np.full(17, 0.3), n).astype(np.float32)
    lcz = rng.integers(1, 18, 3000)
    print("CPU seconds a million pixels\n")
    rows = []
    for method in ("temperature", "isotonic"):
        found = fit_calibration(chance[:3000], lcz, np.arange(3000), method=method)
        rows.append((method, seconds(lambda: found.apply(chance), n)))  # noqa: B023
    for score in ("aps", "raps", "lac"):
        sets = LabelSets.fit(chance[:3000], lcz, np.arange(3000), score=score)
        rows.append((f"label sets, {score}", seconds(lambda: sets.sets(chance), n)))  # noqa: B023
    for n_features in (36, 64, 192):
        for most in (1000, 5000, 20_000):
            train = rng.normal(size=(most, n_features)).astype(np.float32)
            pixels = rng.normal(size=(n // 20, n_features)).astype(np.float32)
            area = Applicability.fit(train, np.arange(most) % 5, max_samples=most)
            area.dissimilarity(pixels[:100])
            rows.append(
                (
                    f"dissimilarity, {n_features} features, {most} samples",
                    seconds(lambda: area.dissimilarity(pixels), len(pixels)),  # noqa: B023
                )
            )
    print(markdown_table(("part", "CPU s"), [(name, f"{value:.2f}") for name, value in rows]))


def seconds(call: Callable[[], object], n: int) -> float:
    started = time.process_time()
    call()
    return (time.process_time() - started) / n * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["hongkong", "synthetic", "cost"])
    parser.add_argument("--seeds", type=int, default=1, help="of folds, in Hong Kong")
    parser.add_argument("--seed", type=int, default=7, help="of the synthetic world")
    parser.add_argument("--km", type=float, default=6.0)
    chosen = parser.parse_args()
    if chosen.what == "hongkong":
        hongkong(chosen.seeds)
    elif chosen.what == "synthetic":
        synthetic(chosen.seed, chosen.km)
    else:
        cost()


if __name__ == "__main__":
    main()
