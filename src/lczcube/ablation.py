"""Ablation: what heights add to an embedding, on the same folds.

Every embedding of a run alone, with canopy, with buildings and with both: one question, asked of
each product and each kind of model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lczcube.crossval import Candidate, CrossValidation
from lczcube.errors import ConfigError
from lczcube.evaluate import Comparison, scores_table
from lczcube.lcz import zone
from lczcube.learners import LEARNERS
from lczcube.runtime import Progress
from lczcube.tables import markdown_table, with_interval
from lczcube.training import REPEATS, cross_validate_candidates, predictor
from lczcube.trainingdata import TrainingData

EXTRAS = {"canopy": "canopy", "buildings": "buildings"}
"""Kinds of layers that an arm adds, and what the tables call them."""


@dataclass(frozen=True)
class Arm:
    """A set of inputs to learn from.

    Attributes
    ----------
    base : str
        The input that is always there: an embedding.
    added : tuple of str
        Kinds of layers that are added to it: ``canopy``, ``buildings``.
    inputs : tuple of str
        Names of all its inputs, in the order of the run.
    """

    base: str
    added: tuple[str, ...]
    inputs: tuple[str, ...]

    @property
    def name(self) -> str:
        """As in the tables: ``alphaearth + canopy``."""
        return " + ".join((self.base, *self.added))


@dataclass(frozen=True, eq=False)
class Ablation:
    """Scores of every arm, by kind of model and embedding.

    Attributes
    ----------
    found : mapping
        ``{(kind, base): CrossValidation}``; its candidates are the names of arms, the base first.
    """

    found: Mapping[tuple[str, str], CrossValidation]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {f"{kind}, {base}": result.to_dict() for (kind, base), result in self.found.items()}

    def to_text(self) -> str:
        """Scores, what each arm gains over the embedding alone, and the gain of every class."""
        scores = [
            (f"{kind}, {name}", value)
            for (kind, _), result in self.found.items()
            for name, value in result.scores.items()
        ]
        parts = [scores_table(scores), self._gains(), self._gains_of_classes()]
        warnings = dict.fromkeys(w for result in self.found.values() for w in result.warnings)
        return "\n\n".join([*parts, *warnings]) + "\n"

    def _gains(self) -> str:
        rows = [
            (kind, gain.names[1], *(_gain(gain, metric) for metric in ("oa", "macro_f1", "kappa")))
            for (kind, _), result in self.found.items()
            for gain in result.comparisons
        ]
        note = (
            "Gain over the embedding alone; in brackets the 95 % interval over label groups, both "
            "scored on the same draws."
        )
        return f"{note}\n\n" + markdown_table(("model", "inputs", "OA", "F1", "kappa"), rows)

    def _gains_of_classes(self) -> str:
        rows = [
            (kind, name, _gains_of_classes(result, base, name))
            for (kind, base), result in self.found.items()
            for name in list(result.scores)[1:]
        ]
        codes = sorted({code for _, _, gains in rows for code in gains})
        table = [
            (kind, name, *(gains.get(code, "-") for code in codes)) for kind, name, gains in rows
        ]
        header = ("model", "inputs", *(zone(code).letter for code in codes))
        return "Gain in F1 of every class, in points.\n\n" + markdown_table(header, table)


def arms_of(features: Sequence[str], kinds: Mapping[str, str]) -> dict[str, tuple[Arm, ...]]:
    """The arms of every embedding of a run, the embedding alone first.

    Parameters
    ----------
    features : sequence of str
        Inputs of the run, in its order.
    kinds : mapping of str to str
        Kind of layer of each: ``embedding``, ``canopy``, ``buildings``, or another.

    Returns
    -------
    dict
        Arms by the name of the base. Bases are the embeddings; where there are none, all inputs
        that are neither canopy nor buildings.

    Raises
    ------
    ConfigError
        If there is nothing to add, or nothing to add it to.
    """
    extras = {kind: [name for name in features if kinds[name] == kind] for kind in EXTRAS}
    extras = {kind: names for kind, names in extras.items() if names}
    rest = [name for name in features if kinds[name] not in EXTRAS]
    bases = [name for name in rest if kinds[name] == "embedding"] or rest
    if not extras or not bases:
        raise ConfigError(
            f"[run] features has {', '.join(features)}; an ablation wants an embedding, and canopy "
            "or buildings beside it. Add an input of canopy or open_buildings."
        )
    sets: list[tuple[str, ...]] = [(), *((kind,) for kind in extras)]
    sets += [tuple(extras)] if len(extras) > 1 else []
    return {base: tuple(_arm(base, added, extras, features) for added in sets) for base in bases}


def ablate(
    data: TrainingData,
    arms: Mapping[str, Sequence[Arm]],
    kinds: Sequence[str],
    *,
    progress: Progress,
) -> Ablation:
    """Cross-validate kinds of models on every arm, with the run's folds and seeds; fits them all.

    Parameters
    ----------
    data : TrainingData
        Of a run whose features hold the layers of all arms.
    arms : mapping of str to sequence of Arm
        Of :func:`arms_of`.
    kinds : sequence of str
        Of :data:`lczcube.learners.LEARNERS`.
    progress : callable
        Told of every fit.
    """
    found = {}
    for kind in kinds:
        for base, of_base in arms.items():
            candidates = [
                Candidate(
                    arm.name,
                    predictor(data.only(arm.inputs), LEARNERS[kind]),
                    REPEATS.get(kind, 0),
                )
                for arm in of_base
            ]
            progress(f"ablate: {kind}, {base}")
            found[kind, base] = cross_validate_candidates(data, candidates, progress=progress)
    return Ablation(found)


def _arm(
    base: str, added: tuple[str, ...], extras: Mapping[str, Sequence[str]], features: Sequence[str]
) -> Arm:
    wanted = {base, *(name for kind in added for name in extras[kind])}
    return Arm(base, added, tuple(name for name in features if name in wanted))


def _gain(found: Comparison, metric: str) -> str:
    """Second minus first, with its interval."""
    difference, interval = found.differences[metric], found.intervals[metric]
    return with_interval(
        None if difference is None else -difference,
        None if interval is None else (-interval[1], -interval[0]),
        signed=True,
    )


def _gains_of_classes(result: CrossValidation, base: str, name: str) -> dict[int, str]:
    before, after = (result.scores[of].per_class for of in (base, name))
    return {
        code: f"{100 * (after[code].f1 - before[code].f1):+.1f}"
        for code in sorted(set(before) & set(after))
    }
