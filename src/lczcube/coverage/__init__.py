"""Coverage: which city has what in which year, and what a common ground of all layers would lose.

Told by where the tiles lie, without a pixel; exactly, by the features of a run that has some.
"""

from lczcube.coverage.picture import plot_coverage
from lczcube.coverage.shares import coverage_of
from lczcube.coverage.values import Coverage, LabelCoverage, LayerCoverage, YearCoverage

__all__ = [
    "Coverage",
    "LabelCoverage",
    "LayerCoverage",
    "YearCoverage",
    "coverage_of",
    "plot_coverage",
]
