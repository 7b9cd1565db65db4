"""What is known of a model beside its weights: inputs, labels, split, scores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from lczcube.catalog import open_catalog
from lczcube.confidence import Confidence
from lczcube.errors import MissingInputError
from lczcube.grid import Grid
from lczcube.models.meta import ModelMeta, read_meta
from lczcube.sources.footprints import Footprint, footprint, geometry_footprint
from lczcube.training import HELD_OUT

NO_SCORES: Mapping[str, Any] = {}

"""In a model's folder: a row for each sample, with ``city`` and the ``fold`` that held it out."""

_NEVER, _UNUSED = -1, -2
"""Folds of samples that only train, and of those that take no part."""


@dataclass(frozen=True)
class ModelFacts:
    """What the documents of a model tell.

    Attributes
    ----------
    run : str
        Id of the city file it was trained by.
    name : str
        Of its folder in ``models/``: the kind that the run calls it, such as ``xgb_pixels``.
    meta : ModelMeta
        What it was trained on.
    manifest : mapping
        As in the root attributes of a map: ``lczcube_version``, ``synthetic``, ``settings``, and
        ``inputs`` by name with ``product``, ``license``, ``license_note``, ``ai_derived`` and
        ``role``.
    cities : tuple of str
        That it learnt from, sorted.
    outline : Footprint
        Of their grids.
    label_items : tuple of str
        Names of its labels' items as ``INPUT/items/ID.json``, in the run's catalog of inputs.
    scores : mapping
        As :meth:`lczcube.evaluate.Scores.to_dict` gives them; empty before the run is evaluated.
        They are of models that were trained the same way on other folds.
    per_city : mapping of str to mapping
        The same by city.
    warnings : tuple of str
        Of the evaluation.
    confidence : str
        What its probabilities are worth, as Markdown; empty where nothing was held out.
    """

    run: str
    name: str
    meta: ModelMeta
    manifest: Mapping[str, Any]
    cities: tuple[str, ...]
    outline: Footprint
    label_items: tuple[str, ...]
    scores: Mapping[str, Any] = field(default_factory=dict)
    per_city: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    confidence: str = ""

    @property
    def is_synthetic(self) -> bool:
        """True where anything that it learnt from is made up."""
        return bool(self.meta.synthetic or self.manifest["synthetic"])

    @property
    def settings(self) -> Mapping[str, Any]:
        """The table ``[run]`` of the city file."""
        run: Mapping[str, Any] = self.manifest["settings"]["run"]
        return run

    def inputs(self, role: str) -> dict[str, Mapping[str, Any]]:
        """Inputs of a role: ``features``, ``labels`` or ``rules``."""
        told: Mapping[str, Mapping[str, Any]] = self.manifest["inputs"]
        return {name: facts for name, facts in told.items() if role in facts["role"].split(" and ")}

    @property
    def ai_derived(self) -> dict[str, str]:
        """Inputs that are themselves products of a model, with their roles."""
        told: Mapping[str, Mapping[str, Any]] = self.manifest["inputs"]
        return {name: facts["role"] for name, facts in told.items() if facts["ai_derived"]}


def facts_of_run(
    folder: str | Path,
    name: str,
    *,
    manifest: Mapping[str, Any] | None = None,
    scores: bool = True,
) -> ModelFacts:
    """The facts of a model of a run folder; reads metadata only.

    Parameters
    ----------
    folder : str or pathlib.Path
        The run folder.
    name : str
        Folder of the model in ``models/``, such as ``xgb``.
    manifest : mapping, optional
        What maps of the run are made of. Default: what the store of one of its maps says.
    scores : bool
        False leaves out the scores of the run: those of before the model was trained anew are of
        another one.

    Raises
    ------
    MissingInputError
        If model, catalog or cubes are not there; or no map, and no manifest is given.
    """
    run = Path(folder)
    found = _cubes(run)
    told = _manifest(run) if manifest is None else manifest
    meta = read_meta(run / "models" / name)
    taught = _taught(run / "models" / name, str(told["settings"]["run"]["split"]))
    cubes = found if taught is None else _cubes(run, taught)
    scored = _read_scores(run) if scores else {}
    return ModelFacts(
        run=str(told["id"]),
        name=name,
        meta=meta,
        manifest=told,
        cities=tuple(cubes),
        outline=_outline([_grid(path) for path in cubes.values()]),
        label_items=_label_items(run, told),
        scores=scored.get("scores", {}).get(name, NO_SCORES),
        per_city={city: of[name] for city, of in scored.get("per_city", {}).items() if name in of},
        warnings=tuple(scored.get("warnings", ())),
        confidence=_confidence(run / "models" / name),
    )


def _taught(model: Path, split: str) -> set[str] | None:
    """Cities of the samples that a model trained on; None where its folder does not say.

    With splits that are given, what is held out is not trained on.
    """
    path = model / HELD_OUT
    if not path.is_file():
        return None
    samples = pd.read_parquet(path, columns=["city", "fold"])
    fold = samples["fold"]
    learnt = fold == _NEVER if split == "given" else fold != _UNUSED
    return set(samples["city"][learnt])


def _cubes(run: Path, cities: set[str] | None = None) -> dict[str, Path]:
    """Descriptions of the cubes by city, sorted; of some cities, or all."""
    found = {path.parent.name: path for path in sorted(run.glob("*/cube.json"))}
    cubes = {city: path for city, path in found.items() if cities is None or city in cities}
    if not cubes:
        asked = f" among {', '.join(sorted(cities))}, which train" if cities else ""
        raise MissingInputError(
            f"{run} has no city with a cube (CITY/cube.json){asked}; run `lczcube cube {run}` "
            "first."
        )
    return cubes


def _manifest(run: Path) -> dict[str, Any]:
    import zarr

    stores = sorted(run.glob("*/lcz.zarr"))
    if not stores:
        raise MissingInputError(
            f"{run} has no map that says what its models are made of; run `lczcube predict {run}` "
            "first, or give the manifest."
        )
    return dict(zarr.open_group(stores[0], mode="r").attrs)


def _confidence(model: Path) -> str:
    return Confidence.load(model).summary() if Confidence.is_in(model) else ""


def _read_scores(run: Path) -> dict[str, Any]:
    path = run / "scores.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _grid(path: Path) -> Grid:
    return Grid.from_dict(json.loads(path.read_text(encoding="utf-8"))["grid"])


def _outline(grids: list[Grid]) -> Footprint:
    import shapely

    outlines = [footprint(shapely.box(*grid.bbox), grid.crs, where="a grid") for grid in grids]
    shapes = [shapely.geometry.shape(outline.geometry) for outline in outlines]
    return geometry_footprint(shapely.union_all(shapes))


def _label_items(run: Path, manifest: Mapping[str, Any]) -> tuple[str, ...]:
    catalog = open_catalog(run / "catalog" / "catalog.json")
    labels = [name for name, facts in manifest["inputs"].items() if facts["role"] != "features"]
    return tuple(f"{name}/items/{item.id}.json" for name in labels for item in catalog.items(name))
