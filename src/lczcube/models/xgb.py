"""Gradient-boosted trees on features: XGBoost, in memory or out of core."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import xarray as xr

from lczcube.errors import ModelError
from lczcube.models.balance import class_factors
from lczcube.models.batches import Batches, require_same_features, sample_batches
from lczcube.models.extras import import_extra
from lczcube.models.meta import (
    ModelMeta,
    read_meta,
    require_classes,
    scatter_classes,
    written_folder,
)
from lczcube.models.spool import Spool, scratch_folder, spool
from lczcube.models.tabular import (
    Rows,
    Table,
    TrainingTable,
    file_fingerprint,
    meta_of,
    sample_table,
    training_table,
)

KIND = "xgb"
DEVICES = ("cpu", "cuda")
CUT_ROWS = 32768
"""Rows, drawn by the seed, that the 256 bins of each feature are made from. From all rows XGBoost's
sketches grow with the table (peak of 400,000 x 384 from batches: 1.1 GB, from these rows 0.55 GB);
LightGBM draws too (``bin_construct_sample_cnt``). The loss stays: 1.9904 on 98,304 x 24 made rows
of 17 classes, 1.9898 with bins of all rows, 1.9899 with those and another seed."""

_WEIGHTS_NAME = "model.ubj"
_CHECKSUM_NAME = "model.ubj.sha256"
_LEAST = {"rounds": 1, "max_depth": 1, "min_child_weight": 0, "balance": 0, "early_stopping": 0}


@dataclass(frozen=True)
class XgbParameters:
    """Settings of :func:`fit_xgb`.

    Attributes
    ----------
    rounds : int
        Boosting rounds, each one tree a class.
    max_depth : int
        Depth of a tree.
    learning_rate : float
        Share of each tree that is added, (0, 1].
    subsample : float
        Share of the samples a tree sees, (0, 1].
    colsample : float
        Share of the features each split may choose from, (0, 1].
    min_child_weight : float
        Least sum of Hessians in a leaf.
    balance : float
        Class weights, 0 (none) to 1 (every class the same total weight).
    early_stopping : int
        Rounds without a lower loss on the held-out samples after which the fit ends, with the
        rounds up to the lowest; 0 is off. The model's meta says how many rounds it has.
    device : str
        ``cpu``, or ``cuda`` for a GPU.
    """

    rounds: int = 100
    max_depth: int = 6
    learning_rate: float = 0.1
    subsample: float = 0.7
    colsample: float = 0.2
    min_child_weight: float = 1.0
    balance: float = 0.5
    early_stopping: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class XgbModel:
    """Boosted trees and what they were trained on.

    Attributes
    ----------
    meta : ModelMeta
        Features, products and classes of training.
    weights : bytes
        The booster in XGBoost's UBJSON, as in ``model.ubj``.
    """

    meta: ModelMeta
    weights: bytes

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of weights and meta, hex."""
        return file_fingerprint(self.weights, self.meta.to_json().encode())

    def probability(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Probabilities of codes 1-17.

        Parameters
        ----------
        features : numpy.ndarray
            float32, shape (n, n_features), in the order of training; may hold NaN.

        Returns
        -------
        numpy.ndarray
            float32, shape (n, 17); rows sum to 1; 0 for classes not seen in training.
        """
        seen = self._booster.inplace_predict(features, validate_features=False)
        return scatter_classes(np.asarray(seen, np.float32), self.meta.classes)

    def importance(self) -> npt.NDArray[np.float64]:
        """Total gain of each feature over all splits, float64 (n_features,); 0 if it is unused."""
        gain = self._booster.get_score(importance_type="total_gain")
        names = self._booster.feature_names or [f"f{i}" for i in range(len(self.meta.features))]
        return np.array([gain.get(name, 0.0) for name in names], np.float64)

    def save(self, folder: str | Path) -> None:
        """Write ``model.ubj``, its checksum and ``model.json``; an older model is replaced.

        Raises
        ------
        StoreError
            If ``folder`` exists and is not a model.
        """
        with written_folder(folder, self.meta) as partial:
            (partial / _WEIGHTS_NAME).write_bytes(self.weights)
            (partial / _CHECKSUM_NAME).write_text(_checksum(self.weights), encoding="ascii")

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """The model of :meth:`save`; it predicts the same bytes.

        Raises
        ------
        MissingInputError
            If there is no model in ``folder``.
        ModelError
            If it is a model of another kind, or its trees are missing, damaged or not of it.
        MissingExtraError
            If xgboost is not installed.
        """
        meta = read_meta(folder, kind=KIND)
        path = Path(folder) / _WEIGHTS_NAME
        model = cls(meta, _read_weights(path))
        n_features = model._booster.num_features()
        if n_features != len(meta.features):
            raise ModelError(
                f"{path} holds trees of {n_features} features, {folder} a model of "
                f"{len(meta.features)}. Train the model again."
            )
        return model

    @cached_property
    def _booster(self) -> Any:
        xgboost = import_extra("xgboost", extra="xgb")
        booster = xgboost.Booster(params={"nthread": 1})
        booster.load_model(bytearray(self.weights))
        return booster

    def __getstate__(self) -> dict[str, Any]:
        """Meta and weights: a worker builds its own booster."""
        return {"meta": self.meta, "weights": self.weights}


def _read_weights(path: Path) -> bytes:
    """The bytes that were saved: of others XGBoost 3.2 may end the process, and no error."""
    try:
        weights = path.read_bytes()
        saved = path.with_name(_CHECKSUM_NAME).read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error}. Train the model again.") from error
    if _checksum(weights) != saved:
        raise ModelError(
            f"{path} is not what was saved: its SHA-256 is not that of {_CHECKSUM_NAME}. Train the "
            "model again."
        )
    return weights


def _checksum(weights: bytes) -> str:
    return hashlib.sha256(weights).hexdigest()


def fit_xgb(
    samples: xr.Dataset | Batches,
    *,
    seed: int,
    valid: xr.Dataset | Batches | None = None,
    parameters: XgbParameters | None = None,
    n_threads: int = 1,
    scratch: str | Path | None = None,
) -> XgbModel:
    """Fit boosted trees to samples in memory, or to batches that never stand in memory together.

    Parameters
    ----------
    samples : xarray.Dataset or Batches
        In memory: ``features`` float32 ``(sample, feature)``, NaN where unknown; ``lcz`` uint8
        ``(sample)`` 1-17; ``weight`` float32 ``(sample)``, 0 to leave a sample out. Or batches of
        :mod:`lczcube.models.batches`, which are read once.
    seed : int
        Of the sampling of rows and columns.
    valid : xarray.Dataset or Batches, optional
        Samples of blocks or cities that ``samples`` lack, for early stopping; weighted as those.
        Samples of classes that are not in training are left out.
    parameters : XgbParameters, optional
        Default: those of the class.
    n_threads : int
        Threads of the fit. With another number the trees may differ in the last bit.
    scratch : str or pathlib.Path, optional
        Folder for temporary files of batches: the table once as float32 and once as bins. They are
        removed at the end, and those of a killed fit by the next one. Default: the system's.

    Raises
    ------
    LabelError
        If a code is not 1-17.
    ModelError
        If the samples hold fewer than two classes, a feature is infinite, ``valid`` is missing, has
        other features or none of the classes, a parameter is out of its range, or there is no GPU.
    StoreError
        If the scratch folder cannot be written.
    MissingExtraError
        If xgboost is not installed, or for batches on a GPU cupy.

    Notes
    -----
    Both ways give the same trees, bit for bit, on one CPU thread. With batches the memory is that
    of :data:`CUT_ROWS` rows and of one block of 24 MiB at a time, beside the gradients and
    predictions of each row (``benchmarks/xgb.py`` at 400,000 x 384, 17 classes: a peak of 0.79 GB,
    in memory 4.0 GB, reading included).
    """
    chosen = parameters or XgbParameters()
    require_parameters(chosen, has_valid=valid is not None)
    valid = valid if chosen.early_stopping else None
    xgboost = import_extra("xgboost", extra="xgb")
    _require_device(xgboost, chosen.device)
    if isinstance(samples, xr.Dataset) and (valid is None or isinstance(valid, xr.Dataset)):
        held = None if valid is None else sample_table(valid)
        return _boosted(xgboost, training_table(samples), held, chosen, seed, n_threads)
    with scratch_folder(scratch) as folder:
        train = spool(_as_batches(samples), folder / "train")
        require_classes(np.array(train.classes, np.uint8))
        held_out = None if valid is None else spool(_as_batches(valid), folder / "valid")
        return _boosted(xgboost, train, held_out, chosen, seed, n_threads)


def require_parameters(parameters: XgbParameters, *, has_valid: bool) -> None:
    """Raise unless parameters are in their ranges, and held-out samples there where wanted.

    Raises
    ------
    ModelError
        Naming the first that is not.
    """
    for name in ("learning_rate", "subsample", "colsample"):
        value = getattr(parameters, name)
        if not 0 < value <= 1:
            raise ModelError(f"xgb {name} = {value}: it is a share above 0, at most 1.")
    for name, least in _LEAST.items():
        value = getattr(parameters, name)
        if not value >= least:
            raise ModelError(f"xgb {name} = {value}: it is at least {least}.")
    if parameters.device not in DEVICES:
        raise ModelError(f"xgb device = {parameters.device!r}: it is {' or '.join(DEVICES)}.")
    if parameters.early_stopping and not has_valid:
        raise ModelError(
            f"xgb early_stopping = {parameters.early_stopping} needs samples that are held out; "
            "give blocks or cities of their own as valid, or set it to 0."
        )


def settings_of(
    parameters: XgbParameters, n_classes: int, *, seed: int, n_threads: int
) -> dict[str, Any]:
    """The parameters in XGBoost's words."""
    return {
        "objective": "multi:softprob",
        "eval_metric": "mlogloss",
        "num_class": n_classes,
        "tree_method": "hist",
        "max_depth": parameters.max_depth,
        "learning_rate": parameters.learning_rate,
        "subsample": parameters.subsample,
        "colsample_bynode": parameters.colsample,
        "min_child_weight": parameters.min_child_weight,
        "seed": seed,
        "nthread": n_threads,
        "device": parameters.device,
        "verbosity": 0,
    }


def early_stop(rounds: int) -> list[Any]:
    """XGBoost's callbacks that end a fit after so many rounds without gain; none for 0."""
    xgboost = import_extra("xgboost", extra="xgb")
    return [xgboost.callback.EarlyStopping(rounds=rounds, save_best=True)] if rounds else []


def fitted_model(booster: Any, table: Table, parameters: XgbParameters, *, seed: int) -> XgbModel:
    """The model of a booster; its meta says how many rounds it has."""
    reached = replace(parameters, rounds=booster.num_boosted_rounds())
    meta = meta_of(table, KIND, seed=seed, parameters=asdict(reached))
    return XgbModel(meta, bytes(booster.save_raw("ubj")))


def matrix_inputs(
    rows: Rows, classes: Sequence[int], factors: npt.NDArray[np.float64]
) -> dict[str, npt.NDArray[Any]]:
    """Data, class indices and balanced weights of the rows whose class is in training."""
    known = factors[rows.lcz] > 0
    columns = rows.features, rows.lcz, rows.weight
    features, lcz, weight = columns if known.all() else (column[known] for column in columns)
    return {
        "data": features,
        "label": np.searchsorted(classes, lcz),
        "weight": (weight * factors[lcz]).astype(np.float32),
    }


def _boosted(
    xgboost: Any,
    train: TrainingTable | Spool,
    held: TrainingTable | Spool | None,
    parameters: XgbParameters,
    seed: int,
    n_threads: int,
) -> XgbModel:
    factors = class_factors(train.totals, train.n_rows, balance=parameters.balance)
    matrices = _Matrices(xgboost, train.classes, factors, n_threads, parameters.device)
    data = matrices.of_training(train, seed)
    evals = []
    if held is not None:
        require_held_out(held, train)
        evals = [(matrices.of_table(held, ref=data), "valid")]
    booster = xgboost.train(
        settings_of(parameters, len(train.classes), seed=seed, n_threads=n_threads),
        data,
        num_boost_round=parameters.rounds,
        evals=evals,
        verbose_eval=False,
        callbacks=early_stop(parameters.early_stopping),
    )
    return fitted_model(booster, train, parameters, seed=seed)


@dataclass(frozen=True)
class _Matrices:
    """XGBoost's matrices of tables, with the classes and class weights of training."""

    xgboost: Any
    classes: tuple[int, ...]
    factors: npt.NDArray[np.float64]
    n_threads: int
    device: str

    def of_training(self, table: TrainingTable | Spool, seed: int) -> Any:
        """The table in bins that some of its rows give."""
        if table.n_rows <= CUT_ROWS:
            drawn = np.arange(table.n_rows)
        else:
            random = np.random.default_rng(seed)
            drawn = np.sort(random.choice(table.n_rows, CUT_ROWS, replace=False))
        cuts = self._in_memory(table.rows(drawn))
        in_memory = isinstance(table, TrainingTable)
        return cuts if in_memory and len(drawn) == table.n_rows else self.of_table(table, ref=cuts)

    def of_table(self, table: TrainingTable | Spool, *, ref: Any) -> Any:
        """The table in the bins of ``ref``."""
        if isinstance(table, TrainingTable):
            return self._in_memory(table, ref=ref)
        pages = _pages(self.xgboost, table, self.inputs)
        return self.xgboost.ExtMemQuantileDMatrix(pages, nthread=self.n_threads, ref=ref)

    def inputs(self, rows: Rows) -> dict[str, Any]:
        """What XGBoost takes of rows; on a GPU out of core it wants them there."""
        given: dict[str, Any] = dict(matrix_inputs(rows, self.classes, self.factors))
        if self.device == "cuda":
            given["data"] = import_extra("cupy", extra="cuda").asarray(given["data"])
        return given

    def _in_memory(self, rows: Rows, ref: Any = None) -> Any:
        given = matrix_inputs(rows, self.classes, self.factors)
        return self.xgboost.QuantileDMatrix(**given, nthread=self.n_threads, ref=ref)


def _pages(xgboost: Any, table: Spool, inputs: Callable[[Rows], dict[str, Any]]) -> Any:
    """XGBoost's iterator over the blocks of a table; it caches them as bins beside the blocks."""

    # xgboost is imported when it is used: for mypy its classes are Any.
    class Pages(xgboost.DataIter):  # type: ignore[misc]
        def __init__(self) -> None:
            self.number = 0
            super().__init__(cache_prefix=str(table.folder / "bins"))

        def reset(self) -> None:
            self.number = 0

        def next(self, input_data: Callable[..., None]) -> bool:
            while self.number < len(table.sizes):
                given = inputs(table.block(self.number))
                self.number += 1
                if len(given["label"]):
                    input_data(**given)
                    return True
            return False

    return Pages()


def _as_batches(samples: xr.Dataset | Batches) -> Batches:
    return sample_batches(samples) if isinstance(samples, xr.Dataset) else samples


def require_held_out(held: Table, train: Table) -> None:
    """Raise unless held-out samples have the features of training, and one of its classes.

    Raises
    ------
    ModelError
        Naming what differs.
    """
    require_same_features(train, held)
    if not set(held.classes) & set(train.classes):
        found, taught = (", ".join(map(str, t.classes)) or "none" for t in (held, train))
        raise ModelError(
            f"held-out samples have classes {found}, training {taught}; hold "
            "out samples of classes that are trained on."
        )


def _require_device(xgboost: Any, device: str) -> None:
    if device == "cpu":
        return
    if not xgboost.build_info()["USE_CUDA"]:
        raise ModelError(
            f"xgb device = {device!r}, and this XGBoost was built without CUDA; install the one of "
            "PyPI, or use cpu."
        )
    tiny = xgboost.DMatrix(np.zeros((2, 1), np.float32), label=[0, 1])
    booster = xgboost.train({"device": device, "verbosity": 0}, tiny, num_boost_round=1)
    # XGBoost goes on without a GPU, and says so only in a warning.
    used = json.loads(booster.save_config())["learner"]["generic_param"]["device"]
    if not used.startswith(device):
        raise ModelError(
            f"xgb device = {device!r}, and XGBoost finds no GPU; check nvidia-smi and "
            "CUDA_VISIBLE_DEVICES, or use cpu."
        )
