"""From the data of cities to models and maps: what training and scoring have in common."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import xarray as xr

from lczcube.config import CityFile, RunTable
from lczcube.crossval import (
    Candidate,
    CrossValidation,
    Predicted,
    Predictor,
    cross_validate,
)
from lczcube.cube import image
from lczcube.errors import LabelError
from lczcube.grid import Grid
from lczcube.labels import Roles, rasterize_labels
from lczcube.labels.origins import ORIGIN, PSEUDO, is_by_rule
from lczcube.labels.samples import join_samples, sample_frame, sample_squares, without_rules
from lczcube.labels.splits import rows_of_roles
from lczcube.lcz import NODATA
from lczcube.models import (
    Area,
    UnetModel,
    UnetParameters,
    XgbModel,
    XgbParameters,
    context_px,
    fit_forest,
    fit_knn,
    fit_unet,
    fit_xgb,
    predict,
)
from lczcube.models.tabular import TabularModel
from lczcube.patchmaps import lcz_of_patches
from lczcube.protocols import ScoreProtocol
from lczcube.runtime import Progress

UNET_SEEDS = 1
"""Seeds that the U-Net is cross-validated with: at 10 m a fit costs many times the others."""


class OpenCube(Protocol):
    """Opens a city's cube with a halo."""

    def __call__(self, halo_px: int) -> xr.Dataset:
        """The cube of the run's inputs."""


@dataclass(frozen=True)
class CityData:
    """What the models take from one city.

    Attributes
    ----------
    city : str
        Its name.
    grid : Grid
        Its grid.
    open_cube : OpenCube
        Gives the lazy cube with a halo.
    features : xarray.Dataset
        Of :func:`lczcube.aggregate`, lazy.
    labels : geopandas.GeoDataFrame
        Label table in the grid's CRS.
    pseudo_labels : geopandas.GeoDataFrame
        Of :func:`lczcube.propagate.pseudo_label_table`.
    rule_labels : geopandas.GeoDataFrame, optional
        Label table of the cells that are labelled by rule.
    """

    city: str
    grid: Grid
    open_cube: OpenCube
    features: xr.Dataset
    labels: gpd.GeoDataFrame
    pseudo_labels: gpd.GeoDataFrame
    rule_labels: gpd.GeoDataFrame | None = None


def fit_models(
    config: CityFile,
    samples: Mapping[str, xr.Dataset],
    data: Callable[[str], CityData],
    folder: Path,
    *,
    n_threads: int,
    progress: Progress,
) -> dict[str, int]:
    """Fit and save the models of a run on all labels that may train, and on pseudo-labels.

    Returns
    -------
    dict
        Training samples by model.
    """
    run = _run_table(config)
    cities = sorted(config.cities)
    counts = {}
    if "xgb" in run.models:
        progress("train: xgb")
        parts = [training_rows(part, config) for part in samples.values()]
        if run.pseudo_weight > 0:
            parts += [
                part
                for part in (pseudo_samples(data(city), run) for city in cities)
                if part is not None
            ]
        model = _xgb(config, n_threads)(join_samples(parts), seed=run.seed)
        model.save(folder / "xgb")
        counts["xgb"] = model.meta.n_train
    if "unet" in run.models:
        progress("train: unet")
        unet = _fit_unet(config, [data(city) for city in cities], n_threads, seed=run.seed)
        unet.save(folder / "unet")
        counts["unet"] = unet.meta.n_train
    return counts


def predict_maps(config: CityFile, data: CityData, folder: Path) -> dict[str, xr.Dataset]:
    """Lazy maps of a city by the saved models: ``cells`` by XGBoost, ``pixels`` by the U-Net."""
    run = _run_table(config)
    maps = {}
    if "xgb" in run.models:
        maps["cells"] = predict(XgbModel.load(folder / "xgb"), data.features)
    if "unet" in run.models:
        maps["pixels"] = _predict_unet(UnetModel.load(folder / "unet"), data)
    return maps


def cross_validate_models(
    config: CityFile,
    samples: Mapping[str, xr.Dataset],
    pixels: Mapping[str, xr.Dataset],
    data: Callable[[str], CityData],
    *,
    n_threads: int,
    progress: Progress,
    protocol: ScoreProtocol | None = None,
) -> CrossValidation:
    """Scores of the run's models and baselines on its split; fits them on labels alone.

    Pseudo-labels take no part: they were made with the labels that a fold holds out. Labels by rule
    train, away from what a fold evaluates. A protocol takes the place of the run's own split; it
    scores as published tables do, and labels by rule take no part in it.
    """
    run = _run_table(config)
    if protocol is not None:
        samples, pixels = (
            {city: without_rules(part) for city, part in parts.items()}
            for parts in (samples, pixels)
        )
    joined = join_samples(list(samples.values()))
    context = _Context(config, joined, n_threads)
    candidates = (
        [Candidate("xgb", context.tabular(_xgb(config, n_threads)))] if "xgb" in run.models else []
    )
    if "forest" in run.baselines:
        candidates.append(Candidate("forest", context.tabular(fit_forest)))
    if "knn" in run.baselines:
        candidates.append(Candidate("knn", context.tabular(fit_knn)))
    if "forest_pixels" in run.baselines:
        bare = join_samples(list(pixels.values()))
        candidates.append(
            Candidate("forest_pixels", _Context(config, bare, n_threads).tabular(fit_forest))
        )
    if "unet" in run.models:
        cities = [data(city) for city in samples]
        candidates.append(Candidate("unet", context.unet(cities), UNET_SEEDS))
    if protocol is None:
        protocol = ScoreProtocol("", run.split, "", run.folds, run.repeats)
    roles = roles_of(config)
    if protocol.roles is not None:
        roles = dict.fromkeys(roles, protocol.roles)
    return cross_validate(
        joined,
        candidates,
        {city: data(city).grid for city in samples},
        method=protocol.method,
        folds=protocol.folds,
        seeds=range(run.seed, run.seed + protocol.n_seeds),
        roles=roles,
        progress=progress,
        exclude_eval_m=320 if config.rules is None else config.rules.exclude_eval_m,
    )


def training_rows(samples: xr.Dataset, config: CityFile) -> xr.Dataset:
    """The samples that final models train on: all, or those of the donor splits when given.

    Those by rule always: when splits are given, none was made near a label that is only scored.
    """
    if _run_table(config).split != "given":
        return samples
    donors, _ = rows_of_roles(sample_frame(samples), roles_of(config))
    return samples.isel(sample=np.flatnonzero(donors | is_by_rule(samples)))


def roles_of(config: CityFile) -> dict[str, Roles]:
    """What the publisher's splits are for, by city."""
    return {name: Roles(city.donors, city.evaluate_on) for name, city in config.cities.items()}


def pseudo_samples(data: CityData, run: RunTable) -> xr.Dataset | None:
    """Pseudo-labelled cells as samples; None where there are none.

    Of windows that overlap (a stride under the cell) only those of one tiling are taken, and of
    each class at most ``pseudo_per_class``, drawn by the seed: more would say the same again.
    """
    table = _drawn(_tiling(data.pseudo_labels, data.grid), run)
    if table.empty:
        return None
    at = {
        "cell_y": xr.DataArray(table["row"].to_numpy(), dims="sample"),
        "cell_x": xr.DataArray(table["column"].to_numpy(), dims="sample"),
    }
    values = data.features[["features", "valid_fraction"]].drop_vars("feature").isel(at).compute()
    n = len(table)
    columns: dict[str, Any] = {
        "patch_id": table["patch_id"].to_numpy(),
        "city": np.full(n, data.city, dtype=object),
        "group": table["patch_id"].to_numpy(),
        "lcz": table["lcz"].to_numpy(np.uint8),
        "split": np.full(n, "pseudo", dtype=object),
        "weight": (run.pseudo_weight * table["weight"]).to_numpy(np.float32),
        "x": values["cell_x"].values,
        "y": values["cell_y"].values,
        "size_m": np.full(n, float(data.grid.stride_m)),
        "valid_fraction": values["valid_fraction"].values,
        ORIGIN: np.full(n, PSEUDO, dtype=object),
    }
    dataset = {name: (("sample",), column) for name, column in columns.items()}
    return xr.Dataset(
        dataset | {"features": (("sample", "feature"), values["features"].values)},
        coords={"feature": data.features["feature"].values.tolist()},
        attrs={key: data.features.attrs[key] for key in ("products", "synthetic")}
        | {"unit": "pseudo"},
    )


def xgb_parameters(config: CityFile) -> XgbParameters:
    """Parameters of the ``[xgb]`` table."""
    return XgbParameters(**config.xgb.model_dump())


def unet_parameters(config: CityFile) -> UnetParameters:
    """Parameters of the ``[unet]`` table."""
    return UnetParameters(**config.unet.model_dump())


Fit = Callable[..., TabularModel]


@dataclass(frozen=True)
class _Context:
    config: CityFile
    samples: xr.Dataset
    n_threads: int

    def tabular(self, fit: Fit) -> Predictor:
        def predict(
            train: npt.NDArray[np.intp], test: npt.NDArray[np.intp], seed: int
        ) -> Predicted:
            model = fit(self.samples.isel(sample=train), seed=seed)
            probability = model.probability(self.samples["features"].values[test])
            lcz: npt.NDArray[np.uint8] = (probability.argmax(axis=1) + 1).astype(np.uint8)
            return Predicted(lcz, probability.max(axis=1))

        return predict

    def unet(self, cities: Sequence[CityData]) -> Predictor:
        """The U-Net per sample: by the mean probability over its square."""

        def predict(
            train: npt.NDArray[np.intp], test: npt.NDArray[np.intp], seed: int
        ) -> Predicted:
            groups = set(self.samples["group"].values[train].tolist())
            model = _fit_unet(self.config, cities, self.n_threads, seed=seed, groups=groups)
            found = Predicted(np.full(len(test), NODATA, np.uint8), np.zeros(len(test), np.float32))
            owners = self.samples["city"].values[test]
            for data in cities:
                mine = np.flatnonzero(owners == data.city)
                squares = sample_squares(self.samples.isel(sample=test[mine]), data.grid)
                said = lcz_of_patches(_predict_unet(model, data), squares)
                found.lcz[mine], found.confidence[mine] = said["lcz"], said["confidence"]
            return found

        return predict


def _tiling(table: gpd.GeoDataFrame, grid: Grid) -> gpd.GeoDataFrame:
    step = -(-grid.cell_px // grid.stride_px)
    return table[(table["row"] % step == 0) & (table["column"] % step == 0)]


def _drawn(table: gpd.GeoDataFrame, run: RunTable) -> gpd.GeoDataFrame:
    order = table.sample(frac=1, random_state=run.seed).index
    rank = table.loc[order].groupby("lcz").cumcount().reindex(table.index)
    return table[rank < run.pseudo_per_class]


def _run_table(config: CityFile) -> RunTable:
    if config.run is None:
        raise LabelError(f"{config.id!r} has no [run] table; add one with features and labels.")
    return config.run


def _xgb(config: CityFile, n_threads: int) -> Callable[..., XgbModel]:
    def fit(samples: xr.Dataset, *, seed: int) -> XgbModel:
        parameters = xgb_parameters(config)
        return fit_xgb(samples, seed=seed, parameters=parameters, n_threads=n_threads)

    return fit


def _fit_unet(
    config: CityFile,
    cities: Sequence[CityData],
    n_threads: int,
    *,
    seed: int,
    groups: set[str] | None = None,
) -> UnetModel:
    """A U-Net on the labels of some groups; with all groups, on pseudo-labels too."""
    run = _run_table(config)
    parameters = unet_parameters(config)
    weight = run.pseudo_weight if groups is None else 0.0
    halo_px = context_px(parameters)
    areas = [
        training_area(data, config, halo_px=halo_px, groups=groups, pseudo_weight=weight)
        for data in cities
    ]
    return fit_unet(
        areas,
        seed=seed,
        parameters=parameters,
        n_threads=n_threads,
        bands=tuple(areas[0].image["band"].values.tolist()),
        products=tuple(json.loads(areas[0].image.attrs["products"])),
        synthetic=bool(areas[0].image.attrs["synthetic"]),
    )


def training_area(
    data: CityData,
    config: CityFile,
    *,
    halo_px: int,
    groups: set[str] | None = None,
    pseudo_weight: float = 0.0,
) -> Area:
    """The labelled pixels of a city, as a U-Net trains on them; burns the labels.

    Parameters
    ----------
    data : CityData
        The city.
    config : CityFile
        Says which labels may train, when the publisher's splits are given.
    halo_px : int
        Pixels past the grid.
    groups : set of str, optional
        Groups of labels, and of labels by rule, that train. Default: all that may.
    pseudo_weight : float
        Weight of a pseudo-label. Default 0: none.
    """
    labels = data.labels
    if groups is not None:
        labels = labels[labels["group"].isin(groups)]
    elif _run_table(config).split == "given":
        labels = labels[rows_of_roles(labels, roles_of(config))[0]]
    lcz, weight = _burnt(labels, data.grid)
    if data.rule_labels is not None:
        rules = data.rule_labels
        of_rules = _burnt(
            rules if groups is None else rules[rules["group"].isin(groups)], data.grid
        )
        free = lcz == NODATA
        lcz[free], weight[free] = (values[free] for values in of_rules)
    if pseudo_weight > 0:
        _burn_pseudo_labels(lcz, weight, data, pseudo_weight)
    return Area(
        city=data.city,
        image=image(data.open_cube(halo_px)),
        lcz=lcz,
        weight=weight,
        halo_px=halo_px,
    )


def _burnt(
    labels: gpd.GeoDataFrame, grid: Grid
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Class and weight of each pixel, 0 where no label is."""
    if labels.empty:
        return np.zeros(grid.shape, np.uint8), np.zeros(grid.shape, np.float32)
    burnt = rasterize_labels(labels, grid)
    lcz: npt.NDArray[np.uint8] = burnt["lcz"].values
    weights = labels["weight"].to_numpy(np.float32)
    return lcz, np.where(lcz == NODATA, np.float32(0), weights[burnt["patch"].values - 1])


def _burn_pseudo_labels(
    lcz: npt.NDArray[np.uint8],
    weight: npt.NDArray[np.float32],
    data: CityData,
    pseudo_weight: float,
) -> None:
    """Write pseudo-labels into the output pixels' own squares, where no label is."""
    side = data.grid.stride_px
    table = data.pseudo_labels
    columns = (table[name] for name in ("row", "column", "lcz", "weight"))
    for row, column, code, share in zip(*columns, strict=True):
        square = (
            slice(row * side, (row + 1) * side),
            slice(column * side, (column + 1) * side),
        )
        free = lcz[square] == NODATA
        lcz[square][free] = code
        weight[square][free] = pseudo_weight * share


def _predict_unet(model: UnetModel, data: CityData) -> xr.Dataset:
    return predict(model, data.open_cube(model.context_px))
