"""A model card: what a model is of, what it learnt from, how good it is, and where it ends.

References
----------
Mitchell, M. et al. (2019). Model cards for model reporting. FAT* '19, 220-229,
doi:10.1145/3287560.3287596 (the sections).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lczcube.lcz import ZONES, zone
from lczcube.modelcards.facts import ModelFacts
from lczcube.modelcards.item import METRICS, kind_of
from lczcube.tables import markdown_table, with_interval

_TITLES = {
    "oa": "OA",
    "oa_u": "OA_u",
    "oa_bu": "OA_bu",
    "oa_w": "OA_w",
    "macro_f1": "macro F1",
    "kappa": "kappa",
    "calibration_error": "calibration error",
}


def model_card(facts: ModelFacts) -> str:
    """The card of a model as Markdown; the same text for the same facts."""
    head = f"# {kind_of(facts).architecture} of {facts.run}"
    made_up = (
        ["**Synthetic: made from made-up data. Nothing it maps is real.**"]
        if facts.is_synthetic
        else []
    )
    parts = [
        [head, *made_up, _intended(facts)],
        ["## Data", _data(facts), *_asked(facts), _ai_derived(facts)],
        ["## Training", _training(facts)],
        ["## Scores", *_scores(facts)],
        *([["## Confidence", facts.confidence]] if facts.confidence else []),
        ["## Limits", _bullets(_limits(facts))],
    ]
    return "\n\n".join(paragraph for part in parts for paragraph in part) + "\n"


def _intended(facts: ModelFacts) -> str:
    meta = facts.meta
    products = ", ".join(meta.products) or "no embedding"
    return (
        f"Maps Local Climate Zones from {len(meta.features)} features of {products}, as lczcube "
        f"{facts.manifest['lczcube_version']} makes them, in cities like {_listed(facts.cities)}. "
        "It refuses other products and other features."
    )


def _data(facts: ModelFacts) -> str:
    told: Mapping[str, Mapping[str, Any]] = facts.manifest["inputs"]
    rows = [
        [name, each["role"], each["product"] or "-", each["license"], _yes(each["ai_derived"])]
        for name, each in told.items()
    ]
    return markdown_table(["input", "role", "product", "licence", "made by a model"], rows)


def _asked(facts: ModelFacts) -> list[str]:
    """What licences ask of a map."""
    told: Mapping[str, Mapping[str, Any]] = facts.manifest["inputs"]
    notes = [
        f"{name}: {each['license_note']}" for name, each in told.items() if each["license_note"]
    ]
    return [_bullets(notes)] if notes else []


def _ai_derived(facts: ModelFacts) -> str:
    if not facts.ai_derived:
        return "No input is declared to be the product of a model."
    named = [f"{name} (as {role})" for name, role in facts.ai_derived.items()]
    return f"Themselves products of a model, with errors of their own: {_listed(named)}."


def _training(facts: ModelFacts) -> str:
    meta, run = facts.meta, facts.settings
    weight = float(run.get("pseudo_weight", 0.0))
    unit = "labelled pixels" if kind_of(facts).task == "semantic-segmentation" else "samples"
    settings = ", ".join(f"{name} {value}" for name, value in sorted(meta.parameters.items()))
    lines = [
        f"{meta.n_train} {unit} of {_listed(facts.cities)}.",
        f"Labels: {_listed(sorted(facts.inputs('labels')))}.",
        "Pseudo-labels: "
        + (f"a weight of {weight:g} beside the labels' 1." if weight else "none were used."),
        f"Seed {meta.seed}; {settings}.",
    ]
    if facts.inputs("rules"):
        lines.insert(2, f"Labels by rule, of {_listed(sorted(facts.inputs('rules')))}.")
    return _bullets(lines)


def _scores(facts: ModelFacts) -> list[str]:
    if not facts.scores:
        return ["Not evaluated: nothing is known of how good it is (`lczcube evaluate`)."]
    of = facts.scores
    leak = of["leakage"]
    rows = [_score_row("all", of), *(_score_row(city, s) for city, s in facts.per_city.items())]
    classes = [
        [f"{zone(int(code)).letter} {zone(int(code)).name}", *_of_class(told)]
        for code, told in sorted(of["per_class"].items(), key=lambda pair: int(pair[0]))
    ]
    near = "" if leak["nearest_m"] is None else f", the nearest {leak['nearest_m']:.0f} m away"
    return [
        f"Of models trained the same way and scored on what they did not see: unit {of['unit']}, "
        f"split {of['split']}. In brackets 95 % intervals of a bootstrap over {of['n_groups']} "
        "groups of labels; other cities differ by more.",
        markdown_table(["", "n", *(_TITLES[name] for name in METRICS)], rows),
        markdown_table(["zone", "F1", "precision", "recall", "n"], classes),
        f"Leakage: {leak['share_touching']:.1%} of {leak['n_test']} evaluated units touch "
        f"training{near}; {leak['n_near']} have their centre within 320 m of one of training.",
    ]


def _score_row(name: str, scores: Mapping[str, Any]) -> list[str]:
    intervals: Mapping[str, Any] = scores.get("intervals", {})
    values = [with_interval(scores.get(key), _pair(intervals.get(key))) for key in METRICS]
    return [name, str(scores["n"]), *values]


def _pair(interval: Sequence[float] | None) -> tuple[float, float] | None:
    return None if interval is None else (interval[0], interval[1])


def _of_class(told: Mapping[str, Any]) -> list[str]:
    shares = [with_interval(told[name], None) for name in ("f1", "precision", "recall")]
    return [*shares, str(told["support"])]


def _limits(facts: ModelFacts) -> list[str]:
    seen = facts.meta.classes
    unseen = [z.letter for z in ZONES if z.code not in seen]
    limits = list(facts.warnings)
    if unseen:
        limits.append(f"LCZ {', '.join(unseen)}: not in its labels, so it never maps them.")
    if len(facts.cities) == 1:
        limits.append(f"It knows one city, {facts.cities[0]}; nothing says how it does elsewhere.")
    limits.append("Its labels were drawn by people, who agree with each other only in part.")
    if not facts.confidence:
        limits.append("A confidence is the model's own word; see the calibration error.")
    return limits


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
