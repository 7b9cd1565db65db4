"""Scores of the models on the real Hong Kong scene, with folds that never split a polygon.

Run ``python benchmarks/hongkong_models.py``; it reads ``LCZCUBE_REALDATA/hongkong`` and prints a
table: overall accuracy, macro F1 and kappa of all pixels, each predicted by the fold that did not
see its polygon. Mean over the seeds of the folds, their range, and the CPU seconds a fold takes.
"""

import argparse
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import rasterio
import xarray as xr
from rasterio.features import rasterize
from sklearn.metrics import cohen_kappa_score, f1_score
from sklearn.model_selection import StratifiedGroupKFold

from lczcube.grid import Grid
from lczcube.models import (
    Area,
    PatchArea,
    PatchParameters,
    UnetModel,
    UnetParameters,
    XgbParameters,
    fit_forest,
    fit_knn,
    fit_linear,
    fit_patch,
    fit_unet,
    fit_xgb,
    patch_probability,
    predict_unet,
)
from lczcube.models.tabular import TabularModel

REALDATA = Path(os.environ.get("LCZCUBE_REALDATA", "../shared/data")) / "hongkong"
Float32 = npt.NDArray[np.float32]
Fit = Callable[[xr.Dataset, int], TabularModel]


class Scene:
    """Image, labels and features of the scene."""

    def __init__(self, folder: Path) -> None:
        with rasterio.open(folder / "landsat8_36band_100m.tif") as source:
            stored = source.read()
            self.transform, self.crs = source.transform, str(source.crs)
        valid = (stored != 0).all(axis=0)
        self.image = np.where(valid, stored, np.nan).astype(np.float32)
        polygons = gpd.read_file(folder / "lcz_dfc2017_train_polygons.gpkg").to_crs(self.crs)
        self.lcz = self._burn(polygons.geometry, polygons["lcz"]).astype(np.uint8)
        self.group = self._burn(polygons.geometry, polygons["polygon_id"] + 1)
        self.lcz[~valid] = 0
        self.at = np.nonzero(self.lcz)

    def _burn(self, shapes: gpd.GeoSeries, values: npt.ArrayLike) -> npt.NDArray[np.int32]:
        pairs = list(zip(shapes, np.asarray(values), strict=True))
        shape = self.image.shape[1:]
        burnt = rasterize(pairs, shape, transform=self.transform, dtype="int32")
        return np.asarray(burnt, np.int32)

    def pixels(self) -> xr.Dataset:
        return self._samples(self.image[:, self.at[0], self.at[1]].T)

    def windows(self) -> xr.Dataset:
        padded = np.pad(self.image, ((0, 0), (1, 1), (1, 1)), constant_values=np.nan)
        rows, columns = self.at
        near = [padded[:, rows + i, columns + j] for i in range(3) for j in range(3)]
        stack = np.stack(near).astype(np.float64)
        stats = [np.nanmean(stack, 0), np.nanstd(stack, 0), np.nanmax(stack, 0)]
        return self._samples(np.concatenate(stats).T)

    def _samples(self, features: Float32) -> xr.Dataset:
        names = [f"f{i:03d}" for i in range(features.shape[1])]
        return xr.Dataset(
            {
                "features": (("sample", "feature"), features.astype(np.float32)),
                "lcz": ("sample", self.lcz[self.at]),
                "group": ("sample", self.group[self.at]),
            },
            coords={"feature": names},
        )


def folds(samples: xr.Dataset, seed: int) -> list[tuple[npt.NDArray[np.int64], ...]]:
    splitter = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        lcz, group = samples["lcz"].values, samples["group"].values
        return list(splitter.split(lcz, lcz, group))


def cross_predict(samples: xr.Dataset, fit: Fit, seed: int) -> npt.NDArray[np.int64]:
    predicted = np.zeros(samples.sizes["sample"], np.int64)
    for train, test in folds(samples, seed):
        model = fit(samples.isel(sample=train), seed)
        features = samples["features"].values[test]
        predicted[test] = model.probability(features).argmax(axis=1) + 1
    return predicted


def cross_predict_unet(
    scene: Scene, seed: int, parameters: UnetParameters
) -> npt.NDArray[np.int64]:
    samples = scene.pixels()
    predicted = np.zeros(samples.sizes["sample"], np.int64)
    bands = tuple(f"b{i:02d}" for i in range(len(scene.image)))
    image = xr.DataArray(scene.image, dims=("band", "y", "x"), coords={"band": list(bands)})
    for train, test in folds(samples, seed):
        lcz = np.zeros_like(scene.lcz)
        rows, columns = scene.at[0][train], scene.at[1][train]
        lcz[rows, columns] = scene.lcz[rows, columns]
        area = Area("hongkong", image, lcz)
        model = fit_unet(
            [area], seed=seed, bands=bands, products=(), parameters=parameters, n_threads=1
        )
        predicted[test] = predicted_map(model, image)[scene.at][test]
    return predicted


def cross_predict_patch(
    scene: Scene, seed: int, parameters: PatchParameters, *, window_px: int = 3
) -> npt.NDArray[np.int64]:
    """Every pixel by the window around it, as the features of the forest on windows are of."""
    samples = scene.pixels()
    predicted = np.zeros(samples.sizes["sample"], np.int64)
    bands = tuple(f"b{i:02d}" for i in range(len(scene.image)))
    rows, columns = (-(-n // window_px) * window_px for n in scene.image.shape[1:])
    short = rows - scene.image.shape[1], columns - scene.image.shape[2]
    padded = np.pad(scene.image, ((0, 0), (0, short[0]), (0, short[1])), constant_values=np.nan)
    image = xr.DataArray(
        padded, dims=("band", "y", "x"), coords={"band": list(bands)}, attrs={"products": []}
    )
    cells = (0, 0, columns // window_px, rows // window_px)
    grid = Grid("EPSG:32649", cells, pixel_m=100, cell_m=100 * window_px)
    x, y = (scene.at[1] + 0.5) * 100, (rows - scene.at[0] - 0.5) * 100
    for train, test in folds(samples, seed):
        known, asked = (
            PatchArea("hongkong", image, grid, x[part], y[part], scene.lcz[scene.at][part])
            for part in (train, test)
        )
        model = fit_patch([known], seed=seed, bands=bands, products=(), parameters=parameters)
        predicted[test] = patch_probability(model, asked).argmax(axis=1) + 1
    return predicted


def predicted_map(model: UnetModel, image: xr.DataArray) -> npt.NDArray[np.uint8]:
    """The whole map, on a made-up grid of cells of one pixel that holds the scene."""
    rows, columns = image.shape[1:]
    grid = Grid("EPSG:32649", (0, 0, columns, rows), pixel_m=100, cell_m=100, chunk_cells=256)
    halo = model.context_px
    padded = image.pad(y=halo, x=halo, constant_values=np.nan)
    lcz: npt.NDArray[np.uint8] = predict_unet(model, padded, grid=grid, halo_px=halo)["lcz"].values
    return lcz


def scores(truth: npt.NDArray[np.uint8], predicted: npt.NDArray[np.int64]) -> list[float]:
    return [
        float((truth == predicted).mean()),
        float(
            f1_score(truth, predicted, average="macro", labels=np.unique(truth), zero_division=0)
        ),
        float(cohen_kappa_score(truth, predicted)),
    ]


def report(name: str, rows: list[list[float]], seconds: float) -> None:
    table = np.array(rows)
    cells = "  ".join(
        f"{mean:.3f} ({low:.3f}-{high:.3f})"
        for mean, low, high in zip(
            table.mean(axis=0), table.min(axis=0), table.max(axis=0), strict=True
        )
    )
    print(f"{name:24s} {cells}  {seconds:6.1f}", flush=True)


def run(name: str, truth: npt.NDArray[np.uint8], predict: Callable[[int], npt.NDArray[np.int64]],
        seeds: range) -> None:  # fmt: skip
    started = time.process_time()
    rows = [scores(truth, predict(seed)) for seed in seeds]
    report(name, rows, (time.process_time() - started) / len(seeds) / 5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--unet-seeds", type=int, default=1)
    parser.add_argument("--only", nargs="*")
    chosen = parser.parse_args()
    scene = Scene(REALDATA)
    pixels, windows = scene.pixels(), scene.windows()
    truth = pixels["lcz"].values
    print(f"{len(truth)} pixels of {len(np.unique(pixels['group']))} polygons")
    print(f"{'':24s} {'OA':19s}  {'macro F1':19s}  {'kappa':19s}  CPU s/fold")

    def xgb(samples: xr.Dataset, seed: int) -> TabularModel:
        return fit_xgb(samples, seed=seed, parameters=XgbParameters(), n_threads=1)

    def forest(samples: xr.Dataset, seed: int) -> TabularModel:
        return fit_forest(samples, seed=seed)

    def knn(samples: xr.Dataset, seed: int) -> TabularModel:
        return fit_knn(samples, seed=seed)

    def linear(samples: xr.Dataset, seed: int) -> TabularModel:
        return fit_linear(samples, seed=seed)

    tabular: dict[str, tuple[xr.Dataset, Fit]] = {
        "forest on pixels": (pixels, forest),
        "forest on windows": (windows, forest),
        "knn on windows": (windows, knn),
        "linear on pixels": (pixels, linear),
        "linear on windows": (windows, linear),
        "xgb on pixels": (pixels, xgb),
        "xgb on windows": (windows, xgb),
    }
    for name, (samples, fit) in tabular.items():
        if not chosen.only or name in chosen.only:
            run(name, truth, lambda seed: cross_predict(samples, fit, seed), range(chosen.seeds))  # noqa: B023
    if not chosen.only or "unet" in chosen.only:
        run(
            "unet on pixels",
            truth,
            lambda seed: cross_predict_unet(scene, seed, UnetParameters()),
            range(chosen.unet_seeds),
        )
    if not chosen.only or "patch" in chosen.only:
        run(
            "patch on windows",
            truth,
            lambda seed: cross_predict_patch(scene, seed, PatchParameters()),
            range(chosen.unet_seeds),
        )


if __name__ == "__main__":
    main()
