"""Models of a run: held-out predictions, the fit that is kept, maps, and scores."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from lczcube.confidence import Confidence, ConfidenceSettings, fit_confidence
from lczcube.config import CityFile
from lczcube.crossval import (
    Candidate,
    CrossValidation,
    Predicted,
    Predictor,
    cross_validate,
)
from lczcube.errors import LabelError, ModelError
from lczcube.labels import Split, split_labels
from lczcube.labels.samples import without_rules
from lczcube.lcz import N_CLASSES
from lczcube.learners import LEARNERS, Learner
from lczcube.models import XgbModel, load_model
from lczcube.models.tabular import file_fingerprint
from lczcube.protocols import ScoreProtocol
from lczcube.runtime import Progress
from lczcube.trainingdata import CityData, Rows, TrainingData, roles_of, run_table

REPEATS = {"unet": 1, "patch": 1}
"""Seeds that a network is cross-validated with: a fit costs many times the others."""

_DIGESTED = (".json", ".ubj", ".safetensors")

HELD_OUT = "held_out.parquet"
"""In a model's folder: what models of the same kind said of samples that they had not seen."""

MOST_HELD_OUT = 100_000
"""Held-out samples that the confidence of a model is learnt from; more are drawn from."""


def train_model(data: TrainingData, kind: str, folder: Path, *, progress: Progress) -> str:
    """Fit and save a model on all labels that may train, with what models like it are worth.

    Parameters
    ----------
    data : TrainingData
        Of the run.
    kind : str
        Of :data:`lczcube.config.ModelKind`.
    folder : pathlib.Path
        The model's own; replaced.
    progress : callable
        Told of every fold.

    Returns
    -------
    str
        What was done, in a line.
    """
    learner, checkpoints = LEARNERS[kind], folder.with_name(f".{folder.name}.checkpoints")
    data = replace(data, checkpoints=checkpoints)

    def told(line: str) -> None:
        progress(f"train: {kind}, {line}")

    held_out = _held_out(data, learner, told)
    told("all labels")
    model = learner.fit(data, data.rows_that_train(), seed=data.run.seed, final=True)
    model.save(folder)
    if held_out is not None:
        _write_held_out(held_out, folder / HELD_OUT)
        try:
            _confidence(data, learner, model, held_out).save(folder)
        except (LabelError, ModelError) as error:
            told(f"no confidence: {error}")
    shutil.rmtree(checkpoints, ignore_errors=True)
    return f"{kind} on {model.meta.n_train} samples"


def predict_maps(config: CityFile, data: CityData, models: Path) -> dict[str, xr.Dataset]:
    """Lazy maps of a city by the saved models of a run, by group of the product.

    The first model of each unit in ``[run] models`` makes the map of ``cells``, and of ``pixels``.
    """
    maps = {}
    for unit, kind in mapped_models(config).items():
        folder = models / kind
        confidence = Confidence.load(folder) if Confidence.is_in(folder) else None
        made = LEARNERS[kind].map(load_model(folder), data, confidence)
        maps[unit] = made.assign_attrs(model=kind)
    return maps


def model_digest(folder: Path) -> str:
    """SHA-256, hex, of what a model's maps depend on: weights, description, confidence."""
    files = sorted(path for path in folder.iterdir() if path.suffix in _DIGESTED)
    told = [path for path in files if path.name != "item.json"]
    return file_fingerprint(*(path.name.encode() for path in told), *(p.read_bytes() for p in told))


def mapped_models(config: CityFile) -> dict[str, str]:
    """The kind of model that makes the map, by group of the product."""
    kinds = run_table(config).models
    return {LEARNERS[kind].unit: kind for kind in reversed(kinds)}


def cross_validate_models(
    data: TrainingData,
    models: Path,
    *,
    progress: Progress,
    protocol: ScoreProtocol | None = None,
) -> CrossValidation:
    """Scores of the run's models and baselines on its split; fits them on labels alone.

    Pseudo-labels take no part: they were made with the labels that a fold holds out. Labels by rule
    train, away from what a fold evaluates. A protocol takes the place of the run's own split; it
    scores as published tables do, and labels by rule take no part in it. What training predicted of
    held-out folds is taken from the models' folders, not worked out again.
    """
    run = data.run
    known: dict[str, dict[int, Predicted]] = {}
    if protocol is None:
        known = {kind: _known(data, models / kind) for kind in run.models}
    else:
        data = _without_rules(data)
    candidates = [
        Candidate(kind, predictor(data, LEARNERS[kind]), REPEATS.get(kind, 0), known.get(kind, {}))
        for kind in dict.fromkeys((*run.models, *run.baselines))
    ]
    return cross_validate_candidates(data, candidates, progress=progress, protocol=protocol)


def cross_validate_candidates(
    data: TrainingData,
    candidates: Sequence[Candidate],
    *,
    progress: Progress,
    protocol: ScoreProtocol | None = None,
) -> CrossValidation:
    """Scores of candidates on the split of a run, or of a protocol."""
    run, roles = data.run, roles_of(data.config)
    own = protocol or ScoreProtocol("", run.split, "", run.folds, run.repeats)
    if own.roles is not None:
        roles = dict.fromkeys(roles, own.roles)
    return cross_validate(
        data.samples,
        candidates,
        {name: city.grid for name, city in data.cities.items()},
        method=own.method,
        folds=own.folds,
        seeds=range(run.seed, run.seed + own.n_seeds),
        roles=roles,
        progress=progress,
        exclude_eval_m=_exclude_eval_m(data.config),
    )


def predictor(data: TrainingData, learner: Learner) -> Predictor:
    """What a learner fitted on some samples says of others: a candidate's ``predict``."""

    def predict(train: Rows, test: Rows, seed: int) -> Any:
        model = learner.fit(data, train, seed=seed, final=False)
        return learner.probability(model, data, test)

    return predict


def _without_rules(data: TrainingData) -> TrainingData:
    parts, pixel_parts = (
        {city: without_rules(part) for city, part in of.items()}
        for of in (data.parts, data.pixel_parts)
    )
    return replace(data, parts=parts, pixel_parts=pixel_parts)


def _exclude_eval_m(config: CityFile) -> float:
    return 320 if config.rules is None else config.rules.exclude_eval_m


def _held_out(
    data: TrainingData, learner: Learner, told: Callable[[str], None]
) -> pd.DataFrame | None:
    """Predictions of the run's own folds; None where they cannot be split, or a fold not fitted."""
    run = data.run
    try:
        split = split_labels(
            data.frame,
            method=run.split,
            folds=run.folds,
            seed=run.seed,
            roles=roles_of(data.config),
            exclude_eval_m=_exclude_eval_m(data.config),
        )
        return _of_folds(data, learner, split, told)
    except (LabelError, ModelError) as error:
        told(f"no held-out predictions: {error}")
        return None


def _of_folds(
    data: TrainingData, learner: Learner, split: Split, told: Callable[[str], None]
) -> pd.DataFrame:
    keys = data.frame[["city", "patch_id", "group", "lcz"]].assign(fold=split.folds)
    said: dict[str, npt.NDArray[np.float32]] = {}
    for fold in range(split.n_folds):
        told(f"fold {fold + 1} of {split.n_folds}")
        train, test = split.train_test(fold)
        model = learner.fit(data, train, seed=split.seed, final=False)
        for name, found in learner.held_out(model, data, test).items():
            empty = np.full((len(keys), N_CLASSES), np.nan, np.float32)
            said.setdefault(name, empty)[test] = found
    tables = [pd.DataFrame(said[of], columns=_codes(of), index=keys.index) for of in said]
    return pd.concat([keys, *tables], axis=1)


def _codes(of: str) -> list[str]:
    return [f"{of}{code}" for code in range(1, N_CLASSES + 1)]


def _confidence(
    data: TrainingData, learner: Learner, model: Any, held_out: pd.DataFrame
) -> Confidence:
    """What a model's probabilities are worth, from what others like it said of held-out labels.

    Of a map of pixels, from what they said of the pixels at the centres of the labels.
    """
    table = data.config.confidence
    has_features = table.applicability and learner.unit == "cells"
    rows = _rows_to_compare(len(held_out), table.max_samples, data.run.seed)
    told = held_out.iloc[rows]
    features = data.samples["features"].isel(sample=rows).values if has_features else None
    weights = model.importance() if isinstance(model, XgbModel) else None
    of = "c" if learner.unit == "pixels" else "p"
    return fit_confidence(
        told[_codes(of)].to_numpy(np.float32),
        told["lcz"].to_numpy(),
        told["group"].to_numpy(str),
        cities=told["city"].to_numpy(str),
        folds=told["fold"].to_numpy(),
        features=features,
        weights=weights if weights is not None and weights.any() else None,
        trained=np.isin(rows, data.rows_that_train()),
        settings=ConfidenceSettings(
            method=table.calibration,
            promise=table.promise,
            score=table.score,
            classwise=table.classwise,
            max_samples=table.max_samples,
            seed=data.run.seed,
        ),
    )


def _rows_to_compare(n: int, max_samples: int, seed: int) -> Rows:
    """All samples, or of very many a draw that memory bears."""
    most = max(20 * max_samples, MOST_HELD_OUT)
    if n <= most:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, most, replace=False))


def _write_held_out(table: pd.DataFrame, path: Path) -> None:
    partial = path.with_name(path.name + ".partial")
    table.to_parquet(partial, index=False)
    partial.replace(path)


def _known(data: TrainingData, folder: Path) -> dict[int, Predicted]:
    """What training predicted of held-out folds, by seed."""
    path = folder / HELD_OUT
    if not path.is_file():
        return {}
    table = pd.read_parquet(path)
    if table["patch_id"].tolist() != data.frame["patch_id"].tolist():
        return {}
    return {data.run.seed: Predicted(table[_codes("p")].to_numpy(np.float32))}
