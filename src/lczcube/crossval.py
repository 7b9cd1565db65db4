"""Cross-validation: every model on the same folds, seed by seed, scored on what it has not seen."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from lczcube.evaluate import Comparison, Scores, Unit, compare, score
from lczcube.grid import Grid
from lczcube.labels import LeakageReport, Roles, Split, leakage_report, split_labels
from lczcube.labels.samples import sample_frame, sample_squares
from lczcube.labels.splits import UNUSED, Method
from lczcube.lcz import N_CLASSES
from lczcube.predictions import COLUMNS
from lczcube.probability import winners


@dataclass(frozen=True, eq=False)
class Predicted:
    """What a model says of samples.

    Attributes
    ----------
    probability : numpy.ndarray
        float32 in [0, 1], shape (n, 17): of codes 1-17; a row of NaN for no prediction.
    """

    probability: npt.NDArray[np.float32]

    @cached_property
    def lcz(self) -> npt.NDArray[np.uint8]:
        """uint8, shape (n,): the most probable code, 0 for no prediction."""
        return winners(self.probability)

    @cached_property
    def confidence(self) -> npt.NDArray[np.float32]:
        """float32, shape (n,): probability of that code, 0 for no prediction."""
        best: npt.NDArray[np.float32] = self.probability.max(axis=1)
        return np.nan_to_num(best)


Predictor = Callable[[npt.NDArray[np.intp], npt.NDArray[np.intp], int], npt.NDArray[np.float32]]
"""``(train, test, seed)``, positions of samples, gives the probabilities of the test samples."""


@dataclass(frozen=True)
class Candidate:
    """A model to cross-validate.

    Attributes
    ----------
    name : str
        As in the table of scores.
    predict : Predictor
        Fits on the training samples and predicts the test samples.
    repeats : int
        Seeds it is run with; 0 for all.
    known : mapping of int to Predicted
        By seed: what it says of all samples, where that was worked out before on the same folds.
    """

    name: str
    predict: Predictor
    repeats: int = 0
    known: Mapping[int, Predicted] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """Scores of several models on one set of folds.

    Attributes
    ----------
    scores : dict of str to Scores
        By candidate.
    comparisons : tuple of Comparison
        The first candidate against each other one, paired, on the seeds that both have.
    per_city : dict
        ``{city: {candidate: Scores}}`` where there are several cities.
    per_seed : dict
        ``{candidate: (metrics, ...)}``: of every seed, for its spread.
    warnings : tuple of str
        What the split says of itself.
    predictions : pandas.DataFrame
        What was scored, as :func:`lczcube.predictions.read_predictions` gives it: rows by
        candidate, seed and sample, in their order.
    """

    scores: Mapping[str, Scores]
    comparisons: tuple[Comparison, ...]
    per_city: Mapping[str, Mapping[str, Scores]]
    per_seed: Mapping[str, tuple[Mapping[str, float | None], ...]]
    warnings: tuple[str, ...]
    predictions: pd.DataFrame

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the predictions."""
        return {
            "scores": {name: scores.to_dict() for name, scores in self.scores.items()},
            "comparisons": [comparison.to_dict() for comparison in self.comparisons],
            "per_city": {
                city: {name: scores.to_dict() for name, scores in by_name.items()}
                for city, by_name in self.per_city.items()
            },
            "per_seed": {name: list(seeds) for name, seeds in self.per_seed.items()},
            "warnings": list(self.warnings),
        }


def cross_validate(
    samples: xr.Dataset,
    candidates: Sequence[Candidate],
    grids: Mapping[str, Grid],
    *,
    method: Method,
    folds: int,
    seeds: Sequence[int],
    progress: Callable[[str], None],
    roles: Mapping[str, Roles] | None = None,
    exclude_eval_m: float = 320,
) -> CrossValidation:
    """Scores of candidates over seeds and folds; fits every model of every fold.

    Parameters
    ----------
    samples : xarray.Dataset
        Of all cities.
    candidates : sequence of Candidate
        The first is compared with the others.
    grids : mapping of str to Grid
        By city; the leak is measured in their CRS, on the squares that features are made of.
    method : str
        Of :func:`lczcube.labels.split_labels`.
    folds : int
        Number of folds.
    seeds : sequence of int
        One complete set of folds, or one hold-out, each; the model takes the same seed.
    progress : callable
        Told of every seed and candidate.
    roles : mapping of str to Roles, optional
        What the publisher's splits are for, by city.
    exclude_eval_m : float
        How far samples by rule keep from what a fold evaluates, m; they are never evaluated. See
        :func:`lczcube.labels.split_labels`. Default 320.
    """
    frame = sample_frame(samples)
    splits = [
        split_labels(
            frame,
            method=method,
            folds=folds,
            seed=seed,
            roles=roles,
            exclude_eval_m=exclude_eval_m,
        )
        for seed in seeds
    ]
    predicted = {
        candidate.name: [
            _predicted(candidate, split, len(frame), progress)
            for split in splits[: candidate.repeats or len(splits)]
        ]
        for candidate in candidates
    }
    evaluation = _Evaluation(frame, splits, samples.attrs["unit"], _leakage(samples, splits, grids))
    cities = sorted(set(frame["city"])) if frame["city"].nunique() > 1 else []
    return CrossValidation(
        scores={name: evaluation.score(found) for name, found in predicted.items()},
        comparisons=evaluation.compare_first(predicted),
        per_city={
            city: {name: evaluation.score(found, city) for name, found in predicted.items()}
            for city in cities
            if evaluation.has(city)
        },
        per_seed={name: evaluation.per_seed(found) for name, found in predicted.items()},
        warnings=(
            *dict.fromkeys(w for split in splits for w in split.warnings),
            *_leak_of_unused(samples, splits[0], grids),
        ),
        predictions=evaluation.predictions(predicted),
    )


Predictions = Sequence[Predicted]
"""Of all samples, one a seed; ``lcz`` is 0 where the seed does not evaluate a sample."""


@dataclass(frozen=True, eq=False)
class _Evaluation:
    """What predictions of folds are scored on.

    Folds evaluate the same samples with every seed, and scores are means over seeds. A hold-out
    evaluates others: then all of them count, each as often as it was held out.
    """

    frame: pd.DataFrame
    splits: Sequence[Split]
    unit: Unit
    leakage: LeakageReport

    def score(self, found: Predictions, city: str | None = None) -> Scores:
        rows = self._rows(len(found), city)
        return score(
            self.frame["lcz"].to_numpy()[rows],
            self._taken([one.lcz for one in found], city),
            confidence=self._taken([one.confidence for one in found], city),
            unit=self.unit,
            split=self._split_name(len(found)),
            groups=self.frame["group"].to_numpy()[rows],
            leakage=self.leakage,
            seed=self.splits[0].seed,
        )

    def per_seed(self, found: Predictions) -> tuple[Mapping[str, float | None], ...]:
        scores = self.score(found)
        if len(scores.repeats) == len(found):
            return scores.repeats
        alone = (
            score(
                self.frame["lcz"].to_numpy()[split.folds >= 0],
                one.lcz[split.folds >= 0],
                unit=self.unit,
                split=split.name,
                leakage=self.leakage,
                n_boot=0,
            )
            for split, one in zip(self.splits, found, strict=False)
        )
        return tuple(scores.repeats[0] for scores in alone)

    def compare_first(self, predicted: Mapping[str, Predictions]) -> tuple[Comparison, ...]:
        """The first candidate against each other one, on the seeds that both were run with."""
        first, *others = predicted
        return tuple(self._compare(first, other, predicted) for other in others)

    def predictions(self, predicted: Mapping[str, Predictions]) -> pd.DataFrame:
        """The rows that the scores are of."""
        parts = self._rows_of_splits(None)
        trained_on = [
            np.array(_digests(self.frame, split))[split.folds[rows]]
            for split, rows in zip(self.splits, parts, strict=True)
        ]
        made = [
            self.frame.iloc[rows].assign(
                unit=self.unit,
                split=self._split_name(len(found)),
                trained_on=digests,
                model=name,
                seed=split.seed,
                lcz_predicted=one.lcz[rows],
                confidence=one.confidence[rows],
            )
            for name, found in predicted.items()
            for one, split, rows, digests in zip(
                found, self.splits, parts, trained_on, strict=False
            )
        ]
        joined = pd.concat(made, ignore_index=True)
        return joined.rename(columns={"lcz": "lcz_true"})[list(COLUMNS)]

    def has(self, city: str) -> bool:
        return bool(self._rows(1, city).size)

    def _compare(self, a: str, b: str, predicted: Mapping[str, Predictions]) -> Comparison:
        n = min(len(predicted[a]), len(predicted[b]))
        rows = self._rows(n, None)
        found = compare(
            self.frame["lcz"].to_numpy()[rows],
            self._taken([one.lcz for one in predicted[a][:n]], None),
            self._taken([one.lcz for one in predicted[b][:n]], None),
            groups=self.frame["group"].to_numpy()[rows],
            seed=self.splits[0].seed,
            names=(a, b),
            group_noun="label groups",
        )
        return replace(found, repeats=(n, n))

    @property
    def _is_holdout(self) -> bool:
        return self.splits[0].method == "holdout"

    def _split_name(self, n_seeds: int) -> str:
        if self._is_holdout:
            return f"holdout, {n_seeds} draws"
        name = self.splits[0].method
        return name if name == "given" else f"{name}, {self.splits[0].n_folds} folds"

    def _rows(self, n_seeds: int, city: str | None) -> npt.NDArray[np.intp]:
        parts = self._rows_of_splits(city)
        return np.concatenate(parts[:n_seeds]) if self._is_holdout else parts[0]

    def _rows_of_splits(self, city: str | None) -> list[npt.NDArray[np.intp]]:
        here = np.ones(len(self.frame), bool) if city is None else self.frame["city"] == city
        return [np.flatnonzero((split.folds >= 0) & here) for split in self.splits]

    def _taken(self, values: Sequence[npt.NDArray[Any]], city: str | None) -> npt.NDArray[Any]:
        """Values of the samples that are scored: ``(seed, n)``, or ``(n,)`` of all hold-outs."""
        parts = self._rows_of_splits(city)
        if self._is_holdout:
            return np.concatenate([v[rows] for v, rows in zip(values, parts, strict=False)])
        return np.stack([v[parts[0]] for v in values])


def _predicted(
    candidate: Candidate, split: Split, n_samples: int, progress: Callable[[str], None]
) -> Predicted:
    """What models that have not seen them say of all samples that a split evaluates."""
    if split.seed in candidate.known:
        return candidate.known[split.seed]
    progress(f"evaluate: {candidate.name}, seed {split.seed}")
    probability = np.full((n_samples, N_CLASSES), np.nan, np.float32)
    for fold in range(split.n_folds):
        train, test = split.train_test(fold)
        probability[test] = candidate.predict(train, test, split.seed)
    return Predicted(probability)


def _digests(frame: pd.DataFrame, split: Split) -> list[str]:
    """Of each fold, a digest of the labels that it trains on, whatever their order."""
    columns = (frame[name].astype(str) for name in ("city", "patch_id", "lcz", "weight"))
    labels = np.array(["\t".join(row) for row in zip(*columns, strict=True)], dtype=object)
    order = np.argsort(labels)
    digests = []
    for fold in range(split.n_folds):
        is_trained = np.zeros(len(frame), bool)
        is_trained[split.train_test(fold)[0]] = True
        text = "\n".join(labels[order[is_trained[order]]])
        digests.append(hashlib.sha256(text.encode()).hexdigest()[:16])
    return digests


def _leakage(
    samples: xr.Dataset, splits: Sequence[Split], grids: Mapping[str, Grid]
) -> LeakageReport:
    """Of the folds of the first seed, or of every hold-out; each city in its CRS."""
    measured = splits if splits[0].method == "holdout" else splits[:1]
    reports = [
        report
        for split in measured
        for fold in range(split.n_folds)
        for report in _leakage_of(samples, split.train_test(fold), grids)
    ]
    return LeakageReport.pooled(reports)


def _leakage_of(
    samples: xr.Dataset,
    train_test: tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]],
    grids: Mapping[str, Grid],
) -> Iterator[LeakageReport]:
    cities = samples["city"].values
    for city, grid in grids.items():
        train, test = (rows[cities[rows] == city] for rows in train_test)
        if len(test):
            yield leakage_report(
                *(
                    sample_squares(samples.isel(sample=rows), grid, side_m=grid.cell_m)
                    for rows in (train, test)
                )
            )


def _leak_of_unused(samples: xr.Dataset, split: Split, grids: Mapping[str, Grid]) -> Iterator[str]:
    """How near the samples that are not used lie: what fitting anything on them would leak."""
    unused, test = np.flatnonzero(split.folds == UNUSED), np.flatnonzero(split.folds >= 0)
    if len(unused):
        report = LeakageReport.pooled(list(_leakage_of(samples, (unused, test), grids)))
        yield f"{len(unused)} samples are not used; were they trained on: {report}."
