"""What the models of a run learn from: samples of all cities, and labelled pixels of each."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from lczcube.config import CityFile, RunTable
from lczcube.cube import identity_attrs, image, only_inputs
from lczcube.errors import LabelError
from lczcube.grid import Grid
from lczcube.labels import Roles, rasterize_labels
from lczcube.labels.origins import ORIGIN, PSEUDO, is_by_rule
from lczcube.labels.samples import absent_features, join_samples, sample_frame
from lczcube.labels.splits import Method, rows_of_roles, split_labels
from lczcube.lcz import NODATA
from lczcube.models import Area
from lczcube.windows import layer_of_feature

STOPPING_FOLDS = 5
"""One in so many is held out to stop by."""

Rows = npt.NDArray[np.intp]
"""Positions of samples."""


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
    open_pseudo_labels : callable
        Reads the table of :func:`lczcube.propagate.pseudo_label_table`.
    rule_labels : geopandas.GeoDataFrame, optional
        Label table of the cells that are labelled by rule.
    """

    city: str
    grid: Grid
    open_cube: OpenCube
    features: xr.Dataset
    labels: gpd.GeoDataFrame
    open_pseudo_labels: Callable[[], gpd.GeoDataFrame]
    rule_labels: gpd.GeoDataFrame | None = None


@dataclass(frozen=True, eq=False)
class TrainingData:
    """What the models of a run learn from.

    Attributes
    ----------
    config : CityFile
        Cities, labels and parameters.
    parts : mapping of str to xarray.Dataset
        Samples of :func:`lczcube.labels.samples.build_samples`, by city.
    city : callable
        The data of a city, by its name.
    pixel_parts : mapping of str to xarray.Dataset
        The same samples with the bare values of their centre pixel; empty where no model asks.
    n_threads : int
        Threads of a fit.
    checkpoints : pathlib.Path, optional
        Folder of the fits of networks, which go on there after a kill. Default: none.
    """

    config: CityFile
    parts: Mapping[str, xr.Dataset]
    city: Callable[[str], CityData]
    pixel_parts: Mapping[str, xr.Dataset] = field(default_factory=dict)
    n_threads: int = 1
    checkpoints: Path | None = None

    @property
    def run(self) -> RunTable:
        """The ``[run]`` table.

        Raises
        ------
        LabelError
            If the file has none.
        """
        return run_table(self.config)

    @cached_property
    def samples(self) -> xr.Dataset:
        """Samples of all cities, in the order of ``parts``."""
        return join_samples(list(self.parts.values()))

    @cached_property
    def pixels(self) -> xr.Dataset:
        """The samples with the bare values of their centre pixel."""
        return join_samples(list(self.pixel_parts.values()))

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The samples without their features, a row each."""
        return sample_frame(self.samples)

    @cached_property
    def cities(self) -> dict[str, CityData]:
        """The data of every city that has samples."""
        return {name: self.city(name) for name in self.parts}

    @cached_property
    def every_city(self) -> dict[str, CityData]:
        """The data of all cities of the run: one without samples may have pseudo-labels."""
        return {name: self.city(name) for name in sorted(self.config.cities)}

    def checkpoint(self, kind: str, rows: Rows, seed: int) -> Path | None:
        """Where the fit of a network on some samples keeps what it has."""
        if self.checkpoints is None:
            return None
        digest = hashlib.sha256(rows.astype(np.int64).tobytes()).hexdigest()[:12]
        return self.checkpoints / f"{kind}-{seed}-{digest}"

    def groups(self, rows: Rows) -> set[str]:
        """Groups of labels that samples are of."""
        return set(self.frame["group"].to_numpy()[rows].tolist())

    def held_for_stopping(self, rows: Rows, *, seed: int, wanted: bool) -> tuple[Rows, Rows | None]:
        """Rows to train on and, where wanted, rows to stop by.

        A fold of whole cities, blocks or polygons, as the run's split has them.
        """
        if not wanted:
            return rows, None
        frame = self.frame.iloc[rows].reset_index(drop=True)
        method: Method = self.run.split if self.run.split in ("block", "city") else "polygon"
        if method == "city" and frame["city"].nunique() < 2:
            method = "polygon"
        try:
            split = split_labels(frame, method=method, folds=STOPPING_FOLDS, seed=seed)
        except LabelError as error:
            raise LabelError(
                f"early_stopping holds out one in {STOPPING_FOLDS} groups of labels, and these "
                f"cannot be split so: {error} Switch it off."
            ) from error
        train, held = split.train_test(0)
        return rows[train], rows[held]

    def only(self, inputs: Sequence[str]) -> "TrainingData":
        """The same labels with some of the inputs."""
        cube = only_inputs(next(iter(self.cities.values())).open_cube(0), inputs)
        products = identity_attrs(cube)["products"]

        def only(dataset: xr.Dataset) -> xr.Dataset:
            return _only_inputs(dataset, inputs, self.run.features, products)

        def city(name: str) -> CityData:
            whole = self.cities[name]
            return replace(
                whole,
                open_cube=lambda halo_px: only_inputs(whole.open_cube(halo_px), inputs),
                features=only(whole.features),
            )

        parts, pixel_parts = (
            {name: only(part) for name, part in of.items()} for of in (self.parts, self.pixel_parts)
        )
        return replace(self, parts=parts, pixel_parts=pixel_parts, city=city)

    def rows_that_train(self) -> Rows:
        """The samples that final models train on: all, or those of the donor splits when given.

        Those by rule always: when splits are given, none was made near a label that is only scored.
        """
        return rows_that_train(self.samples, self.config)


def _only_inputs(
    dataset: xr.Dataset, inputs: Sequence[str], all_inputs: Sequence[str], products: str
) -> xr.Dataset:
    names = dataset["feature"].values.tolist()
    kept = [layer_of_feature(name, all_inputs) in inputs for name in names]
    some = dataset.isel(feature=np.flatnonzero(kept))
    absent = [name for name in absent_features(dataset) if name in some["feature"].values]
    return some.assign_attrs(products=products, absent_features=json.dumps(absent))


def training_rows(samples: xr.Dataset, config: CityFile) -> xr.Dataset:
    """The samples that final models train on; see :meth:`TrainingData.rows_that_train`."""
    return samples.isel(sample=rows_that_train(samples, config))


def rows_that_train(samples: xr.Dataset, config: CityFile) -> Rows:
    """Positions of :func:`training_rows`, ascending."""
    if run_table(config).split != "given":
        return np.arange(samples.sizes["sample"])
    donors, _ = rows_of_roles(sample_frame(samples), roles_of(config))
    return np.flatnonzero(donors | is_by_rule(samples))


def roles_of(config: CityFile) -> dict[str, Roles]:
    """What the publisher's splits are for, by city."""
    return {name: Roles(city.donors, city.evaluate_on) for name, city in config.cities.items()}


def run_table(config: CityFile) -> RunTable:
    """The ``[run]`` table of a city file.

    Raises
    ------
    LabelError
        If it has none.
    """
    if config.run is None:
        raise LabelError(f"{config.id!r} has no [run] table; add one with features and labels.")
    return config.run


def pseudo_samples(data: CityData, run: RunTable) -> xr.Dataset | None:
    """Pseudo-labelled cells as samples; None where there are none.

    Of windows that overlap (a stride under the cell) only those of one tiling are taken, and of
    each class at most ``pseudo_per_class``, drawn by the seed: more would say the same again.
    """
    table = _drawn(_tiling(data.open_pseudo_labels(), data.grid), run)
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


def _tiling(table: gpd.GeoDataFrame, grid: Grid) -> gpd.GeoDataFrame:
    step = -(-grid.cell_px // grid.stride_px)
    return table[(table["row"] % step == 0) & (table["column"] % step == 0)]


def _drawn(table: gpd.GeoDataFrame, run: RunTable) -> gpd.GeoDataFrame:
    order = table.sample(frac=1, random_state=run.seed).index
    rank = table.loc[order].groupby("lcz").cumcount().reindex(table.index)
    return table[rank < run.pseudo_per_class]


def training_area(
    data: CityData,
    training: TrainingData,
    *,
    halo_px: int,
    rows: Rows,
    pseudo_weight: float = 0.0,
) -> Area:
    """The labelled pixels of a city, as a model of pixels trains on them; burns the labels.

    Labels are burnt whole, by their groups; then the squares of all samples that do not train are
    taken out: those that a fold evaluates, those near them, and those of no role.

    Parameters
    ----------
    data : CityData
        The city.
    training : TrainingData
        Of the run that it is of.
    halo_px : int
        Pixels past the grid.
    rows : numpy.ndarray
        Positions of the samples that train, of all cities.
    pseudo_weight : float
        Weight of a pseudo-label. Default 0: none.
    """
    groups = training.groups(rows)
    lcz, weight = _burnt(data.labels[data.labels["group"].isin(groups)], data.grid)
    if data.rule_labels is not None:
        rules = data.rule_labels
        of_rules = _burnt(rules[rules["group"].isin(groups)], data.grid)
        free = lcz == NODATA
        lcz[free], weight[free] = (values[free] for values in of_rules)
    for square in _squares_of_others(data, training, rows):
        lcz[square], weight[square] = NODATA, 0
    if pseudo_weight > 0:
        _burn_pseudo_labels(lcz, weight, data, pseudo_weight)
    return Area(
        city=data.city,
        image=image(data.open_cube(halo_px)),
        lcz=lcz,
        weight=weight,
        halo_px=halo_px,
    )


def _squares_of_others(
    data: CityData, training: TrainingData, rows: Rows
) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of the pixels in the squares of a city's samples that do not train."""
    is_other = (training.frame["city"] == data.city).to_numpy(copy=True)
    is_other[rows] = False
    others = training.frame[is_other]
    grid = data.grid
    minx, _, _, maxy = grid.bbox
    half = others["size_m"].to_numpy(float) / 2
    edges = (
        (maxy - others["y"].to_numpy(float) - half, half),
        (others["x"].to_numpy(float) - minx - half, half),
    )
    starts, stops = (
        [_first_inside(first + k * side, grid.pixel_m) for first, side in edges] for k in (0, 2)
    )
    for top, left, bottom, right in zip(*starts, *stops, strict=True):
        yield slice(top, bottom), slice(left, right)


def _first_inside(edge_m: npt.NDArray[np.float64], pixel_m: float) -> npt.NDArray[np.int64]:
    """First pixel whose centre lies past an edge, counted from the grid's corner; 0 at least."""
    return np.maximum(np.ceil(edge_m / pixel_m - 0.5 - 1e-9), 0).astype(np.int64)


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
    table = data.open_pseudo_labels()
    columns = (table[name] for name in ("row", "column", "lcz", "weight"))
    for row, column, code, share in zip(*columns, strict=True):
        square = (
            slice(row * side, (row + 1) * side),
            slice(column * side, (column + 1) * side),
        )
        free = lcz[square] == NODATA
        lcz[square][free] = code
        weight[square][free] = pseudo_weight * share
