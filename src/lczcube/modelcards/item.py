"""A model as a STAC item with the MLM extension."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lczcube.catalog.documents import GEOJSON_TYPE, Document, link_to
from lczcube.lcz import N_CLASSES, stac_classes
from lczcube.modelcards.facts import ModelFacts
from lczcube.models.meta import META_NAME, ModelMeta
from lczcube.sources.files import file_facts
from lczcube.sources.items import (
    FILE_URI,
    LCZCUBE_URI,
    MLM_URI,
    PROCESSING_URI,
    new_item,
    safe_id,
)
from lczcube.training import HELD_OUT

ITEM_NAME, CARD_NAME = "item.json", "card.md"

WEIGHTS = ("model.ubj", "weights.safetensors")
"""Files of weights that models are saved as."""

OTHER_FILES: Mapping[str, tuple[str, str, str, str]] = {
    "meta": (
        META_NAME,
        "application/json",
        "What the model was trained on; it may be used on nothing else",
        "metadata",
    ),
    "card": (CARD_NAME, "text/markdown", "Model card", "metadata"),
    "confidence": (
        "confidence.json",
        "application/json",
        "What its probabilities are worth: calibration, label sets, area of applicability",
        "metadata",
    ),
    "confidence_arrays": (
        "confidence.safetensors",
        "application/octet-stream",
        "Arrays of the confidence",
        "data",
    ),
    "held_out": (
        HELD_OUT,
        "application/vnd.apache.parquet",
        "What models like it said of labels that they had not seen",
        "data",
    ),
}
"""Other files of a model's folder: name, media type, title, role."""

METRICS = ("oa", "oa_u", "oa_bu", "oa_w", "macro_f1", "kappa", "calibration_error")
"""Scores that documents tell, in this order."""


InputForm = Literal["features", "pixel", "window", "image"]


@dataclass(frozen=True)
class Kind:
    """How the MLM extension names a kind of model.

    Attributes
    ----------
    architecture, framework, artifact : str
        ``mlm:architecture``, ``mlm:framework``, ``mlm:artifact_type``.
    input : str
        What one zone is told from: ``features`` of a window, the bands of a ``pixel``, the pixels
        of a ``window``; or an ``image``, of which each pixel gets one.
    task : str
        Of ``mlm:tasks``: one zone for a window, or one for each pixel.
    """

    architecture: str
    framework: str
    artifact: str
    input: InputForm = "features"
    task: str = "scene-classification"


_BOOSTER, _TORCH = "xgboost.Booster.save_raw", "safetensors.torch.save_file"

KINDS: Mapping[str, Kind] = {
    "xgb": Kind("Gradient-boosted trees", "XGBoost", _BOOSTER),
    "xgb_pixels": Kind(
        "Gradient-boosted trees on pixels", "XGBoost", _BOOSTER, "pixel", "semantic-segmentation"
    ),
    "linear": Kind("Linear probe", "scikit-learn", "safetensors"),
    "forest": Kind("Random forest", "scikit-learn", "safetensors"),
    "knn": Kind("Nearest neighbours", "scikit-learn", "safetensors"),
    "patch": Kind("Patch network", "PyTorch", _TORCH, "window"),
    "unet": Kind("U-Net", "PyTorch", _TORCH, "image", "semantic-segmentation"),
}
"""By the kind that a run names, which is the name of the model's folder."""

_INPUTS: Mapping[InputForm, tuple[str, str]] = {
    "features": ("features", "Statistics of decoded bands over a window, NaN where unknown."),
    "pixel": ("pixels", "Decoded bands of a pixel, NaN where invalid."),
    "window": (
        "pixels",
        "Decoded bands of the pixels of a window, NaN where invalid; the model normalises them "
        "itself.",
    ),
    "image": (
        "pixels",
        "Decoded bands of pixels, NaN where invalid; the model normalises them itself.",
    ),
}
"""Name and description of each form."""


def model_item(facts: ModelFacts, folder: Path) -> Document:
    """The item of a saved model, as its JSON file in ``folder`` has it; reads the weights' bytes.

    Raises
    ------
    OSError
        If there are no weights in the folder.
    """
    meta = facts.meta
    kind = kind_of(facts)
    years = _years(facts)
    item = new_item(
        safe_id(f"{facts.run}_{facts.name}"),
        facts.outline,
        year=max(years, default=None),
        properties={
            **({"start_datetime": f"{min(years)}-01-01T00:00:00Z"} if years else {}),
            "title": f"Local Climate Zones by {kind.architecture}, {facts.run}",
            "bands": _bands(meta),
            "mlm:name": safe_id(f"lcz {facts.name} {facts.run}"),
            "mlm:architecture": kind.architecture,
            "mlm:tasks": [kind.task],
            "mlm:framework": kind.framework,
            "mlm:pretrained": False,
            "mlm:pretrained_source": None,
            "mlm:hyperparameters": {**_plain(meta.parameters), "seed": meta.seed},
            "mlm:input": [_input(meta, kind)],
            "mlm:output": [_output(kind)],
            "processing:software": {"lczcube": facts.manifest["lczcube_version"]},
            "lczcube:synthetic": facts.is_synthetic,
            "lczcube:training": training(facts),
            **({"lczcube:scores": told_scores(facts.scores)} if facts.scores else {}),
        },
        extensions=(FILE_URI, LCZCUBE_URI, MLM_URI, PROCESSING_URI),
    )
    values: Document = item.to_dict(include_self_link=False, transform_hrefs=False)
    labels = [
        link_to("derived_from", f"../../catalog/{name}", GEOJSON_TYPE, Path(name).stem)
        for name in facts.label_items
    ]
    return values | {"links": labels, "assets": _assets(folder, meta, kind)}


def kind_of(facts: ModelFacts) -> Kind:
    """The MLM terms of a model; of a folder of another name, those of what it holds."""
    return KINDS.get(facts.name, KINDS[facts.meta.kind])


def training(facts: ModelFacts) -> dict[str, Any]:
    """What the model learnt from, and how its scores kept training and evaluation apart."""
    meta = facts.meta
    return {
        "cities": list(facts.cities),
        "products": list(meta.products),
        "features": sorted(facts.inputs("features")),
        "labels": sorted(facts.inputs("labels")),
        "rules": sorted(facts.inputs("rules")),
        "ai_derived": facts.ai_derived,
        "classes": list(meta.classes),
        "n_train": meta.n_train,
        "pseudo_weight": float(facts.settings.get("pseudo_weight", 0.0)),
        "seed": meta.seed,
        "split": str(facts.scores.get("split") or facts.settings["split"]),
    }


def told_scores(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Main scores with their intervals, on what they are, and the leakage report."""
    intervals: Mapping[str, Any] = scores.get("intervals", {})
    return {
        "unit": scores["unit"],
        "split": scores["split"],
        "n": scores["n"],
        "n_groups": scores["n_groups"],
        "metrics": {
            name: {"value": scores[name]}
            | ({"interval": list(intervals[name])} if intervals.get(name) else {})
            for name in METRICS
            if scores.get(name) is not None
        },
        "leakage": dict(scores["leakage"]),
    }


def _years(facts: ModelFacts) -> list[int]:
    year = facts.settings.get("year")
    return [int(year)] if year else []


def _input(meta: ModelMeta, kind: Kind) -> dict[str, Any]:
    name, described = _INPUTS[kind.input]
    return {
        "name": name,
        "description": described,
        "bands": list(meta.features),
        "input": _array("bands", len(meta.features), _sides(meta, kind)),
        "value_scaling": None,
        "resize_type": None,
    }


def _sides(meta: ModelMeta, kind: Kind) -> list[int]:
    match kind.input:
        case "window":
            return [int(meta.parameters["window_px"])] * 2
        case "image":
            return [-1, -1]
        case _:
            return []


def _output(kind: Kind) -> dict[str, Any]:
    return {
        "name": "probability",
        "description": "Probability of each Local Climate Zone, in the order of its codes 1-17.",
        "tasks": [kind.task],
        "result": _array("class", N_CLASSES, [-1, -1] if kind.input == "image" else []),
        "classification:classes": stac_classes()[1:],
    }


def _array(dim: str, size: int, sides: list[int]) -> dict[str, Any]:
    return {
        "shape": [-1, size, *sides],
        "dim_order": ["batch", dim, *(["height", "width"] if sides else [])],
        "data_type": "float32",
    }


def _assets(folder: Path, meta: ModelMeta, kind: Kind) -> dict[str, Document]:
    weights = {
        path.stem: {
            "href": f"./{path.name}",
            "type": f"application/octet-stream; framework={kind.framework.lower()}",
            "title": f"Weights of the {kind.architecture}",
            "roles": ["mlm:model", "mlm:weights", "data"],
            "mlm:artifact_type": kind.artifact,
            "bands": _bands(meta),
            **file_facts(str(path)),
        }
        for path in (folder / name for name in WEIGHTS)
        if path.is_file()
    }
    others = {
        key: {
            "href": f"./{name}",
            "type": media_type,
            "title": title,
            "roles": [role],
            # The card tells of the item's own scores: its bytes are not known yet.
            **({} if name == CARD_NAME else file_facts(str(folder / name))),
        }
        for key, (name, media_type, title, role) in OTHER_FILES.items()
        if name == CARD_NAME or (folder / name).is_file()
    }
    return weights | others


def _bands(meta: ModelMeta) -> list[dict[str, str]]:
    """The features by name. MLM wants them of the item, and STAC then of an asset too."""
    return [{"name": name} for name in meta.features]


def _plain(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(v) if isinstance(v, tuple) else v for name, v in parameters.items()}
