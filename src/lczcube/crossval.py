"""Cross-validation: every model on the same folds, seed by seed, scored on what it has not seen."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from lczcube.evaluate import Comparison, Scores, compare, score
from lczcube.grid import Grid
from lczcube.labels import LeakageReport, Split, leakage_report, split_labels
from lczcube.labels.samples import sample_frame, sample_squares
from lczcube.labels.splits import Method
from lczcube.lcz import NODATA

Predictor = Callable[[npt.NDArray[np.intp], npt.NDArray[np.intp], int], npt.NDArray[np.uint8]]
"""``(train, test, seed)``, positions of samples, gives the ``lcz`` of the test samples."""


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
    """

    name: str
    predict: Predictor
    repeats: int = 0


@dataclass(frozen=True)
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
    warnings : tuple of str
        What the split says of itself.
    """

    scores: Mapping[str, Scores]
    comparisons: tuple[Comparison, ...]
    per_city: Mapping[str, Mapping[str, Scores]]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "scores": {name: scores.to_dict() for name, scores in self.scores.items()},
            "comparisons": [comparison.to_dict() for comparison in self.comparisons],
            "per_city": {
                city: {name: scores.to_dict() for name, scores in by_name.items()}
                for city, by_name in self.per_city.items()
            },
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
        One complete set of folds each; the model takes the same seed.
    progress : callable
        Told of every seed and candidate.
    """
    frame = sample_frame(samples)
    splits = [split_labels(frame, method=method, folds=folds, seed=seed) for seed in seeds]
    evaluated = np.flatnonzero(splits[0].folds >= 0)
    predicted: dict[str, npt.NDArray[np.uint8]] = {}
    for candidate in candidates:
        own = splits[: candidate.repeats or len(splits)]
        predicted[candidate.name] = np.stack(
            [_out_of_fold(candidate, split, len(frame), progress) for split in own]
        )[:, evaluated]
    truth = frame["lcz"].to_numpy()[evaluated]
    groups = frame["group"].to_numpy()[evaluated]
    leakage = _leakage(samples, splits[0], grids)
    name_of_split = f"{method}, {splits[0].n_folds} folds"

    def scored(rows: npt.NDArray[np.intp], name: str) -> Scores:
        return score(
            truth[rows],
            predicted[name][:, rows],
            unit=samples.attrs["unit"],
            split=name_of_split,
            groups=groups[rows],
            leakage=leakage,
            seed=seeds[0],
        )

    cities = frame["city"].to_numpy()[evaluated]
    everything = np.arange(len(truth))
    return CrossValidation(
        scores={name: scored(everything, name) for name in predicted},
        comparisons=_comparisons(truth, predicted, groups, seeds[0]),
        per_city={
            city: {name: scored(np.flatnonzero(cities == city), name) for name in predicted}
            for city in (sorted(set(cities)) if len(set(cities)) > 1 else [])
        },
        warnings=tuple(dict.fromkeys(w for split in splits for w in split.warnings)),
    )


def _out_of_fold(
    candidate: Candidate, split: Split, n_samples: int, progress: Callable[[str], None]
) -> npt.NDArray[np.uint8]:
    progress(f"evaluate: {candidate.name}, seed {split.seed}")
    predicted = np.full(n_samples, NODATA, dtype=np.uint8)
    for fold in range(split.n_folds):
        train, test = split.train_test(fold)
        predicted[test] = candidate.predict(train, test, split.seed)
    return predicted


def _comparisons(
    truth: npt.NDArray[np.uint8],
    predicted: Mapping[str, npt.NDArray[np.uint8]],
    groups: npt.NDArray[Any],
    seed: int,
) -> tuple[Comparison, ...]:
    """The first candidate against each other one, on the seeds that both were run with."""
    first, *others = predicted
    pairs = ((other, min(len(predicted[first]), len(predicted[other]))) for other in others)
    return tuple(
        compare(
            truth,
            predicted[first][:n_seeds],
            predicted[other][:n_seeds],
            groups=groups,
            seed=seed,
            names=(first, other),
            group_noun="label groups",
        )
        for other, n_seeds in pairs
    )


def _leakage(samples: xr.Dataset, split: Split, grids: Mapping[str, Grid]) -> LeakageReport:
    cities = samples["city"].values
    reports = []
    for fold in range(split.n_folds):
        train, test = split.train_test(fold)
        for city, grid in grids.items():
            mine = [rows[cities[rows] == city] for rows in (train, test)]
            if len(mine[1]):
                squares = [
                    sample_squares(samples.isel(sample=rows), grid, side_m=grid.cell_m)
                    for rows in mine
                ]
                reports.append(leakage_report(*squares))
    return LeakageReport.pooled(reports)
