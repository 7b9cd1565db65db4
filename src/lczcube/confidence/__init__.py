"""Confidence of maps: what the probabilities of a model are worth, and where.

``outoffold`` holds what all is learnt from, ``calibration`` makes probabilities come true as often
as they say, ``labelsets`` turns them into sets that hold the true class as promised, ``coverage``
measures that, ``applicability`` says where features are like those of training; ``value`` is all of
it for one model, ``store`` its two files in the model's folder.
"""

from lczcube.confidence.applicability import Applicability
from lczcube.confidence.calibration import ClassCalibration, cross_calibrated, fit_calibration
from lczcube.confidence.coverage import coverage_report, coverage_table, held_out_sets
from lczcube.confidence.labelsets import LabelSets
from lczcube.confidence.outoffold import is_unseen
from lczcube.confidence.value import Confidence, ConfidenceSettings, fit_confidence

__all__ = [
    "Applicability",
    "ClassCalibration",
    "Confidence",
    "ConfidenceSettings",
    "LabelSets",
    "coverage_report",
    "coverage_table",
    "cross_calibrated",
    "fit_calibration",
    "fit_confidence",
    "held_out_sets",
    "is_unseen",
]
