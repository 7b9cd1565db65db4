"""Protocols: named ways to split and score, so that a table can stand beside a published one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lczcube.errors import ConfigError
from lczcube.evaluate import TABLE_METRICS
from lczcube.labels import Roles
from lczcube.labels.splits import Method
from lczcube.tables import markdown_table

QUANTILES = (0, 25, 50, 75, 100)
"""Of the spread over draws, per cent: what a box plot shows."""


@dataclass(frozen=True)
class ScoreProtocol:
    """A way to split and score.

    Attributes
    ----------
    name : str
        As on the command line.
    method : str
        Of :func:`lczcube.labels.split_labels`.
    folds, n_seeds : int
        Folds, and how often they, or a hold-out, are drawn.
    roles : Roles or None
        For every city, in place of its own; None to keep those.
    note : str
        What the scores are of, for the head of the table.
    source : str
        Who published it.
    """

    name: str
    method: Method
    note: str
    folds: int = 5
    n_seeds: int = 1
    roles: Roles | None = None
    source: str = ""


PROTOCOLS: Mapping[str, ScoreProtocol] = {
    protocol.name: protocol
    for protocol in (
        ScoreProtocol(
            "wudapt",
            "holdout",
            "25 draws of 70 % of the polygons of each class to train on and 30 % to score, whole "
            "polygons: how well a map of the same city fits areas drawn by the same hand.",
            n_seeds=25,
            source="Demuzere, Kittner, Bechtel (2021), doi:10.3389/fenvs.2021.637455",
        ),
        ScoreProtocol(
            "culture-10",
            "given",
            "So2Sat's official split: trained on `training`, scored on `testing`; nothing is "
            "fitted on `validation`, the western half of the cities that are scored.",
            roles=Roles(donors=("training",), evaluate_on=("testing",)),
            source="Zhu et al. (2020), doi:10.1109/MGRS.2020.2964708",
        ),
        ScoreProtocol(
            "leave-one-city-out",
            "city",
            "Each city scored by a model of the others: how well labels travel.",
        ),
        ScoreProtocol(
            "block-cv",
            "block",
            "Five folds of blocks of 3.2 km, training kept 320 m away: how well a city is filled.",
        ),
        ScoreProtocol(
            "polygon-cv",
            "polygon",
            "Five folds of whole polygons: neighbours of a polygon may be trained on.",
        ),
        ScoreProtocol(
            "random",
            "random",
            "LEAKS: five folds of single samples, whose neighbours are trained on. For comparison "
            "with tables that did so, and for nothing else.",
        ),
    )
}
"""By name."""


def protocol_of(name: str) -> ScoreProtocol:
    """The protocol of a name.

    Raises
    ------
    ConfigError
        If there is none; the message lists those there are.
    """
    if name not in PROTOCOLS:
        raise ConfigError(f"protocol {name!r} is unknown; known: {', '.join(PROTOCOLS)}.")
    return PROTOCOLS[name]


def spread_table(per_seed: Mapping[str, Sequence[Mapping[str, float | None]]]) -> str:
    """Quantiles of every metric over draws, as a Markdown table; empty with one draw.

    Parameters
    ----------
    per_seed : mapping of str to sequence of mapping
        Metrics of every draw, by model; :attr:`lczcube.crossval.CrossValidation.per_seed`.
    """
    rows = [
        (
            name,
            heading,
            *(f"{value:.3f}" for value in np.percentile(known, QUANTILES)),
            str(len(known)),
        )
        for name, draws in per_seed.items()
        for metric, heading in TABLE_METRICS.items()
        if len(known := [v for draw in draws if (v := draw[metric]) is not None]) > 1
    ]
    header = ("scored", "metric", "least", "25 %", "median", "75 %", "most", "draws")
    return markdown_table(header, rows) if rows else ""
