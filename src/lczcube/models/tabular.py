"""Models on one feature vector per cell: what they share, their training table, their maps."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
import xarray as xr

from lczcube.confidence import Confidence
from lczcube.cube import GRID_ATTR
from lczcube.errors import ModelError
from lczcube.lcz import N_CLASSES, NODATA, require_codes
from lczcube.models.balance import class_totals
from lczcube.models.maps import map_dataset, on_raster, shared
from lczcube.models.meta import ModelMeta, require_classes, require_features


class TabularModel(Protocol):
    """A model on feature vectors."""

    @property
    def meta(self) -> ModelMeta:
        """What it was trained on."""

    @property
    def fingerprint(self) -> str:
        """Hex digits that differ between any two models."""

    def probability(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Probabilities of codes 1-17, float32 (n, 17), of features, float32 (n, n_features).

        Features may hold NaN. Rows sum to 1; classes not seen in training have 0.
        """


class SavedModel(Protocol):
    """A model that can be written to a folder."""

    def save(self, folder: str | Path) -> None:
        """Write weights and ``model.json``; an older model there is replaced at once."""


class Described(Protocol):
    """Features that say what they are."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the features."""

    @property
    def products(self) -> tuple[str, ...]:
        """Embedding products of the features."""

    @property
    def synthetic(self) -> bool:
        """True when the data are made up."""


class Table(Described, Protocol):
    """A table that a model was fitted on."""

    @property
    def classes(self) -> tuple[int, ...]:
        """The codes that occur, ascending."""

    @property
    def n_rows(self) -> int:
        """Number of samples."""


class Rows(Protocol):
    """Labelled feature vectors in memory."""

    @property
    def features(self) -> npt.NDArray[np.float32]:
        """float32, shape (n, n_features)."""

    @property
    def lcz(self) -> npt.NDArray[np.uint8]:
        """uint8, shape (n,)."""

    @property
    def weight(self) -> npt.NDArray[np.float32]:
        """float32, shape (n,)."""


@dataclass(frozen=True)
class TrainingTable:
    """Samples a tabular model can learn from.

    Attributes
    ----------
    features : numpy.ndarray
        float32, shape (n, n_features), not all NaN in any row.
    lcz : numpy.ndarray
        uint8, shape (n,), 1-17.
    weight : numpy.ndarray
        float32, shape (n,), above 0.
    names, products : tuple of str
        Of the features.
    synthetic : bool
        True when the samples say so in their attributes.
    """

    features: npt.NDArray[np.float32]
    lcz: npt.NDArray[np.uint8]
    weight: npt.NDArray[np.float32]
    names: tuple[str, ...]
    products: tuple[str, ...]
    synthetic: bool

    @property
    def n_rows(self) -> int:
        """Number of samples."""
        return len(self.lcz)

    @property
    def totals(self) -> npt.NDArray[np.float64]:
        """Total weight of the samples of each code 0-17, float64."""
        return class_totals(self.lcz, self.weight)

    @property
    def classes(self) -> tuple[int, ...]:
        """The codes that occur, ascending."""
        return tuple(int(code) for code in np.unique(self.lcz))

    def rows(self, positions: npt.NDArray[np.intp]) -> Self:
        """Some of the samples."""
        return replace(
            self,
            features=self.features[positions],
            lcz=self.lcz[positions],
            weight=self.weight[positions],
        )


def meta_of(table: Table, kind: str, *, seed: int, parameters: Mapping[str, Any]) -> ModelMeta:
    """The meta of a model fitted on a table."""
    return ModelMeta(
        kind=kind,
        features=table.names,
        products=table.products,
        classes=table.classes,
        seed=seed,
        n_train=table.n_rows,
        synthetic=table.synthetic,
        parameters=dict(parameters),
    )


def training_table(samples: xr.Dataset) -> TrainingTable:
    """The table of :func:`sample_table`, of two classes or more.

    Raises
    ------
    LabelError
        If a code is not 1-17.
    ModelError
        If a weight is negative or not finite, a feature is infinite, or fewer than two classes are
        left.
    """
    table = sample_table(samples)
    require_classes(np.array(table.classes, np.uint8))
    return table


def sample_table(samples: xr.Dataset) -> TrainingTable:
    """The samples that teach something: a weight above 0, and a feature that is not NaN.

    Parameters
    ----------
    samples : xarray.Dataset
        In memory: ``features`` float32 ``(sample, feature)``, ``lcz`` uint8 ``(sample)`` 1-17, and
        ``weight`` float32 ``(sample)`` where samples differ. Attributes ``products`` (a list)
        and ``synthetic``.

    Raises
    ------
    LabelError
        If a code is not 1-17.
    ModelError
        If a weight is negative or not finite, or a feature is infinite.
    """
    features = samples["features"].transpose("sample", "feature").to_numpy()
    lcz = samples["lcz"].to_numpy()
    weight = sample_weights(samples)
    names = feature_names(samples)
    use = usable_rows(features, lcz, weight, names)
    # No copy of the whole where all rows are used.
    used = features if use.all() else features[use]
    return TrainingTable(
        features=np.ascontiguousarray(used, dtype=np.float32),
        lcz=lcz[use].astype(np.uint8),
        weight=weight[use],
        names=names,
        products=products_of(samples.attrs),
        synthetic=bool(samples.attrs.get("synthetic", False)),
    )


def usable_rows(
    features: npt.NDArray[np.float32],
    lcz: npt.NDArray[np.uint8],
    weight: npt.NDArray[np.float32],
    names: Sequence[str],
) -> npt.NDArray[np.bool_]:
    """Rows that teach something: a label, a weight above 0, and a feature that is not NaN.

    Parameters
    ----------
    features : numpy.ndarray
        float32, shape (n, n_features).
    lcz : numpy.ndarray
        uint8, shape (n,), 0 where there is no label.
    weight : numpy.ndarray
        float32, shape (n,).
    names : sequence of str
        Of the features, for messages.

    Returns
    -------
    numpy.ndarray
        bool, shape (n,).

    Raises
    ------
    LabelError
        If a code is not 0-17.
    ModelError
        If a weight is negative or not finite, or a feature of a row that is used is infinite.
    """
    require_codes(lcz, where="samples")
    _require_weights(weight)
    use: npt.NDArray[np.bool_] = (weight > 0) & (lcz != NODATA) & ~np.isnan(features).all(axis=1)
    _require_no_infinity(features, use, names)
    return use


def feature_names(data: xr.Dataset | xr.DataArray) -> tuple[str, ...]:
    """Names along the dimension ``feature``, in order."""
    return tuple(str(name) for name in data["feature"].to_numpy())


def products_of(attrs: Mapping[Any, Any]) -> tuple[str, ...]:
    """Products in the attribute ``products``, a list or its JSON; none if it is absent."""
    listed = attrs.get("products", [])
    return tuple(json.loads(listed) if isinstance(listed, str) else listed)


def predict_features(
    model: TabularModel, features: xr.Dataset, *, confidence: Confidence | None = None
) -> xr.Dataset:
    """Map of zones, confidence and probabilities from features, lazy if the features are.

    Parameters
    ----------
    model : TabularModel
        A fitted or loaded model.
    features : xarray.Dataset
        ``features`` float32 ``(cell_y, cell_x, feature)``, names in the coordinate ``feature``,
        NaN where unknown; ``covered`` bool ``(cell_y, cell_x)``, False where the map has no data.
        Attribute ``products``: a list. NumPy or Dask.
    confidence : Confidence, optional
        Of the model. Default: its probabilities as they are.

    Returns
    -------
    xarray.Dataset
        ``lcz`` uint8 ``(cell_y, cell_x)``, 0 no data; ``confidence`` uint8 ``(cell_y, cell_x)``,
        per cent, 255 no data; ``probability`` uint8 ``(lcz_class, cell_y, cell_x)``, per cent,
        255 no data. No data where not covered or where all features are NaN. With confidence also
        ``label_set``, ``dissimilarity`` and ``applicable``; see
        :func:`lczcube.models.maps.map_dataset`. Coordinates, chunks and grid are those of
        ``features``.

    Raises
    ------
    ModelError
        If features or products are not those of training.

    Notes
    -----
    One task a chunk; the model is one object of the graph, shared by all tasks.
    """
    require_features(model.meta, feature_names(features), products_of(features.attrs))
    values = features["features"].transpose("cell_y", "cell_x", "feature")
    covered = features["covered"].transpose("cell_y", "cell_x")
    probability = lazy_probability(model, values.data, covered.data)
    return map_dataset(
        probability,
        covered,
        model.meta,
        grid_json=features.attrs.get(GRID_ATTR),
        confidence=confidence,
        features=values,
    )


def file_fingerprint(*parts: bytes) -> str:
    """SHA-256 of bytes, hex."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def sample_weights(samples: xr.Dataset) -> npt.NDArray[np.float32]:
    """The variable ``weight`` of samples, float32; 1 where they have none."""
    if "weight" not in samples:
        return np.ones(samples.sizes["sample"], np.float32)
    return samples["weight"].to_numpy().astype(np.float32)


def _require_weights(weight: npt.NDArray[np.float32]) -> None:
    bad = ~(np.isfinite(weight) & (weight >= 0))
    if bad.any():
        raise ModelError(
            f"{int(bad.sum())} samples have a weight such as {weight[bad][0]}; weights are finite "
            "and not negative. Use 0 to leave a sample out."
        )


def _require_no_infinity(
    features: npt.NDArray[np.float32], use: npt.NDArray[np.bool_], names: Sequence[str]
) -> None:
    counts = (np.isinf(features) & use[:, None]).sum(axis=0)
    if counts.any():
        listed = ", ".join(f"{names[i]} ({counts[i]})" for i in np.flatnonzero(counts)[:3])
        raise ModelError(
            f"{np.count_nonzero(counts)} of {len(names)} features hold infinite values: {listed}; "
            "a feature is a number, or NaN where it is unknown. Mask them before training."
        )


def lazy_probability(model: TabularModel, values: Any, covered: Any) -> Any:
    """Probabilities, float32 (17, y, x), of (y, x, feature); NaN where there is no data."""
    import dask.array as da

    if not isinstance(values, da.Array):
        return _predict_block(values, np.asarray(covered), model)
    values = values.rechunk({2: -1})
    covered = da.asarray(covered).rechunk(values.chunks[:2])
    return da.blockwise(
        _predict_block,
        "kyx",
        values,
        "yxf",
        covered,
        "yx",
        model=shared(model, model.fingerprint),
        new_axes={"k": N_CLASSES},
        concatenate=True,
        dtype=np.float32,
        meta=np.empty((0, 0, 0), np.float32),
    )


def _predict_block(
    values: npt.NDArray[np.float32], covered: npt.NDArray[np.bool_], model: TabularModel
) -> npt.NDArray[np.float32]:
    known = covered & ~np.isnan(values).all(axis=2)
    rows = np.ascontiguousarray(values[known], dtype=np.float32)
    empty = np.empty((0, N_CLASSES), np.float32)
    return on_raster(model.probability(rows) if len(rows) else empty, known)
