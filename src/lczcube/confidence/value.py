"""The confidence of a model: all that turns its probabilities into what a map may promise."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from lczcube.confidence.applicability import MAX_SAMPLES, Applicability
from lczcube.confidence.calibration import (
    ClassCalibration,
    Method,
    cross_calibrated,
    fit_calibration,
)
from lczcube.confidence.coverage import coverage_report, coverage_table, held_out_sets
from lczcube.confidence.labelsets import PROMISE, LabelSets, Score
from lczcube.confidence.outoffold import (
    Float32,
    OutOfFold,
    is_unseen,
    predicted,
    require_as_many,
)
from lczcube.confidence.store import NAME, fingerprint_of, pack, read_parts, unpack, write_parts
from lczcube.errors import ModelError
from lczcube.lcz import zone
from lczcube.tables import with_interval


@dataclass(frozen=True, eq=False)
class Confidence:
    """What a model's probabilities are worth; each part may be missing.

    Attributes
    ----------
    calibration : ClassCalibration or None
        Applied to the probabilities before anything else.
    label_sets : LabelSets or None
        Of the calibrated probabilities.
    applicability : Applicability or None
        Of the features.
    coverage : pandas.DataFrame or None
        What sets of held-out groups, or cities, held: :func:`coverage_report`.
    n_unseen : int
        Samples that were left out, as the model of their fold had not seen their class.
    """

    calibration: ClassCalibration | None = None
    label_sets: LabelSets | None = None
    applicability: Applicability | None = None
    coverage: pd.DataFrame | None = None
    n_unseen: int = 0

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all it holds, hex."""
        return fingerprint_of(*self._packed())

    def calibrated(self, probability: Float32) -> Float32:
        """Probabilities of a map, float32 (n, 17), from those of the model."""
        return probability if self.calibration is None else self.calibration.apply(probability)

    def save(self, folder: str | Path) -> None:
        """Write ``confidence.json`` and ``confidence.safetensors`` to the folder of a model.

        An older one is replaced. Saving a model replaces its whole folder: save it first.

        Raises
        ------
        MissingInputError
            If there is no such folder.
        """
        write_parts(folder, *self._packed())

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """The confidence of :meth:`save`; it gives the same bytes.

        Raises
        ------
        MissingInputError
            If there is none in ``folder``; see :meth:`is_in`.
        ModelError
            If it is damaged, or of another format.
        """
        return cls(**unpack(*read_parts(folder)))

    @staticmethod
    def is_in(folder: str | Path) -> bool:
        """Whether a model's folder holds its confidence."""
        return (Path(folder) / NAME).is_file()

    def summary(self) -> str:
        """Markdown lines for the card of a model."""
        return "\n".join(
            [*_calibration_lines(self.calibration), *_set_lines(self.label_sets)]
            + _applicability_lines(self.applicability)
            + _unseen_lines(self.n_unseen)
            + ([] if self.coverage is None else ["", coverage_table(self.coverage)])
        )

    def _packed(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        content, arrays = pack(self.calibration, self.label_sets, self.applicability, self.coverage)
        return content | {"n_unseen": self.n_unseen}, arrays


@dataclass(frozen=True)
class ConfidenceSettings:
    """How :func:`fit_confidence` goes about it.

    Attributes
    ----------
    method : str
        Of the calibration: ``temperature``, ``isotonic`` or ``none``; see :func:`fit_calibration`.
    promise : float
        Share of the label sets that hold the true class, in (0, 1).
    score : str
        Of the label sets: ``aps``, ``raps`` or ``lac``; see :meth:`LabelSets.fit`.
    classwise : bool
        A limit of its own for each class with enough groups.
    max_samples : int
        Training samples that pixels are compared with; see :meth:`Applicability.fit`.
    seed : int
        Of the bootstraps.
    """

    method: Method = "temperature"
    promise: float = PROMISE
    score: Score = "aps"
    classwise: bool = False
    max_samples: int = MAX_SAMPLES
    seed: int = 0


def fit_confidence(
    probability: Float32,
    lcz: npt.ArrayLike,
    groups: npt.ArrayLike,
    *,
    cities: npt.ArrayLike | None = None,
    folds: npt.ArrayLike | None = None,
    features: Float32 | None = None,
    weights: npt.ArrayLike | None = None,
    trained: npt.ArrayLike | None = None,
    settings: ConfidenceSettings | None = None,
) -> Confidence:
    """The confidence of a model, from the out-of-fold predictions of its training samples.

    Parameters
    ----------
    probability : numpy.ndarray
        float32 in [0, 1], (n, 17): each sample predicted by a model that saw nothing of its group;
        NaN for samples that were never held out.
    lcz : array_like of int
        (n,): classes, 1-17.
    groups : array_like
        (n,): polygon, block or patch of each sample; names may be shared between cities if
        ``cities`` is given.
    cities : array_like of str, optional
        (n,): of two or more, coverage is that of each city by sets of the others. It says what
        sets are worth in a new city if the folds are cities too. Default: one city.
    folds : array_like of int, optional
        (n,): the fold that held each sample out, -1 for none, -2 for samples that are not used.
        Wanted with ``features``, and where a fold's model may not have seen every class: samples
        of those it had not are left out.
    features : numpy.ndarray, optional
        float32, (n, n_features): what the model sees. Default: no area of applicability.
    weights : array_like of float, optional
        (n_features,): importance of each feature to the model. Default: 1.
    trained : array_like of bool, optional
        (n,): samples that the model itself trains on, with splits that are given not all; see
        :meth:`Applicability.fit`. Default: all that are used.
    settings : ConfidenceSettings, optional
        Default: those of the class.

    Raises
    ------
    LabelError
        If codes or groups do not serve; see :func:`fit_calibration`.
    ModelError
        If shapes, probabilities, features, folds or settings do not fit.

    Notes
    -----
    Label sets are learnt on probabilities that other groups calibrated. Their coverage is measured
    on groups, or on whole cities, by limits and a calibration of the others.
    """
    chosen = settings or ConfidenceSettings()
    held = OutOfFold.of(probability, lcz, _unique_names(groups, cities))
    unseen = np.zeros(len(probability), bool)
    if folds is not None:
        unseen = is_unseen(probability, lcz, folds)
    rows = predicted(probability)
    asked = held.take(np.flatnonzero(~unseen[rows]))
    city = None if cities is None else np.asarray(cities)[rows & ~unseen]
    applicability = None
    if features is not None:
        applicability = Applicability.fit(
            features, _required(folds), weights, trained=trained, max_samples=chosen.max_samples
        )
    return Confidence(
        calibration=fit_calibration(
            asked.probability,
            asked.lcz,
            asked.group,
            method=chosen.method,
            seed=chosen.seed,
        ),
        label_sets=_label_sets(asked, chosen),
        applicability=applicability,
        coverage=_coverage(asked, city, chosen),
        n_unseen=int(unseen.sum()),
    )


def _unique_names(groups: npt.ArrayLike, cities: npt.ArrayLike | None) -> npt.NDArray[Any]:
    """A number for each group of each city."""
    names = np.asarray(groups)
    if cities is None:
        return names
    require_as_many(len(names), np.asarray(cities), "cities")
    _, number = np.unique(names, return_inverse=True)
    _, city = np.unique(np.asarray(cities), return_inverse=True)
    unique: npt.NDArray[Any] = city * (int(number.max(initial=0)) + 1) + number
    return unique


def _required(folds: npt.ArrayLike | None) -> npt.ArrayLike:
    if folds is None:
        raise ModelError(
            "features without folds; the area of applicability compares samples of different "
            "folds. Give the fold that held each sample out, -1 for none."
        )
    return folds


def _label_sets(asked: OutOfFold, chosen: ConfidenceSettings) -> LabelSets:
    calibrated = cross_calibrated(asked.probability, asked.lcz, asked.group, method=chosen.method)
    return LabelSets.fit(
        calibrated,
        asked.lcz,
        asked.group,
        promise=chosen.promise,
        score=chosen.score,
        classwise=chosen.classwise,
    )


def _coverage(
    asked: OutOfFold, city: npt.NDArray[Any] | None, chosen: ConfidenceSettings
) -> pd.DataFrame:
    cities = city if city is not None and np.unique(city).size > 1 else None
    calibrated = cross_calibrated(
        asked.probability, asked.lcz, asked.group, method=chosen.method, held_out=cities
    )
    sets = held_out_sets(
        calibrated,
        asked.lcz,
        asked.group,
        held_out=cities,
        promise=chosen.promise,
        score=chosen.score,
        classwise=chosen.classwise,
    )
    return coverage_report(
        sets, asked.lcz, asked.group, cities=cities, promise=chosen.promise, seed=chosen.seed
    )


def _calibration_lines(calibration: ClassCalibration | None) -> list[str]:
    if calibration is None:
        return ["- Probabilities are the model's own, not calibrated."]
    how = {
        "temperature": f"scaled by a temperature of {calibration.temperature:.2f}",
        "isotonic": "bent by an isotonic curve a class",
        "none": "the model's own, not calibrated",
    }[calibration.method]
    quality = calibration.quality
    if quality is None:
        return [f"- Probabilities are {how}."]
    before = with_interval(quality.error_raw, quality.interval_raw)
    after = with_interval(quality.error_calibrated, quality.interval_calibrated)
    return [
        f"- Probabilities are {how}: calibration error {before} before, {after} after "
        f"({quality.n_rows} samples of {quality.n_groups} groups held out)."
    ]


def _set_lines(sets: LabelSets | None) -> list[str]:
    if sets is None:
        return []
    own = ", ".join(zone(code).letter for code in sets.own_limit)
    lines = [
        f"- Label sets ({sets.score}) promise to hold the class of {sets.promise:.0%} of the "
        f"samples of a new group; learnt from {sets.n_groups} groups."
    ]
    if np.isinf(sets.limit).any():
        lines.append("- Groups are too few for that promise: sets hold every class.")
    return lines + ([f"- Classes with a limit of their own: {own}."] if own else [])


def _applicability_lines(applicability: Applicability | None) -> list[str]:
    if applicability is None:
        return []
    return [
        f"- Applicable where the dissimilarity index is at most {applicability.threshold:.3f}; "
        f"compared with {len(applicability.samples)} of {applicability.n_train} training samples "
        f"in {int((applicability.weight > 0).sum())} features."
    ]


def _unseen_lines(n: int) -> list[str]:
    if not n:
        return []
    return [
        f"- All this is for classes that the model knows: {n} samples were left out whose class "
        "the model of their fold had not seen."
    ]
