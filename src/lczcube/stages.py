"""The stages of a run: what each depends on, what it writes, and how."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import xarray as xr

from lczcube import __version__
from lczcube.ablation import ablate, arms_of
from lczcube.catalog import build_catalog, catalog_digest, open_catalog
from lczcube.crossval import CrossValidation
from lczcube.cube import years_of
from lczcube.cubestore import write_cube
from lczcube.errors import LabelError, SourceError
from lczcube.evaluate import comparisons_table, scores_table
from lczcube.labels.rule_samples import join_rules
from lczcube.labels.samples import build_samples, n_labelled, read_pixels, write_samples
from lczcube.learners import reach_px
from lczcube.modelcards import write_run_models
from lczcube.outputs import write_outputs
from lczcube.predictions import write_predictions
from lczcube.products import MAP_STORE, open_features, open_product, write_map_png, write_product
from lczcube.protocols import ScoreProtocol, spread_table
from lczcube.pseudolabels import propagate_city
from lczcube.rundonors import RunDonors
from lczcube.runfolder import CUBE_STORE, RULE_LABELS, Run, write_json
from lczcube.runrules import (
    ROLES,
    keep_like_samples,
    label_city_by_rules,
    rule_inputs,
    rule_settings,
    rules_manifest,
    rules_summary,
    write_rule_labels,
)
from lczcube.runtime import memory_budget_bytes, require_memory
from lczcube.training import (
    cross_validate_models,
    mapped_models,
    model_digest,
    predict_maps,
    train_model,
)
from lczcube.windows import aggregate, projected_peak_bytes

PLACES: dict[str, Any] = {"cities": {"__all__": {"bbox", "crs"}}}
SETTINGS = {"run", "grid", "propagate", "confidence", "xgb", "unet", "patch"}

MODELS = "models"
"""Folder of a run's models."""

MAP_TITLES = {
    "xgb": "XGBoost on windows",
    "forest": "Random forest on windows",
    "knn": "Nearest neighbours on windows",
    "linear": "Linear model on windows",
    "patch": "Patch network",
    "unet": "U-Net on pixels",
    "xgb_pixels": "XGBoost on pixels",
}


@dataclass(frozen=True)
class Stage:
    """One stage: what it depends on beside the stage before, what it writes, and how.

    Attributes
    ----------
    name : str
        The command, and for ``train`` the kind of model.
    after : tuple of str
        Names of the stages whose results it reads.
    settings : callable
        JSON values that its result depends on.
    outputs : callable
        Paths that exist once it is done.
    compute : callable
        Does it and gives a line of summary; is told its fingerprint, which says what the stores
        that it writes depend on.
    result : callable, optional
        What later stages depend on: a digest of what was made. Default: the fingerprint, where the
        same settings give the same bytes.
    """

    name: str
    after: tuple[str, ...]
    settings: Callable[[Run], Any]
    outputs: Callable[[Run], list[Path]]
    compute: Callable[[Run, str], str]
    result: Callable[[Run], str] | None = None

    @property
    def command(self) -> str:
        """The command that does it."""
        return self.name.split()[0]


def require_cube_fits(run: Run, cube: xr.Dataset) -> int:
    """Projected peak of aggregating a cube, in bytes per worker.

    Raises
    ------
    MemoryBudgetError
        If it is over the memory budget.
    """
    peak = projected_peak_bytes(cube, stats=run.table.stats, n_concurrent=run.n_concurrent)
    require_memory(
        peak,
        memory_budget_bytes(run.memory),
        remedy="Lower [grid] chunk_cells, use fewer threads, or raise --memory.",
    )
    return peak


def _build_catalog(run: Run, _: str) -> str:
    report = build_catalog(run.config.source_path, run.folder / "catalog", strict=run.strict)
    wanted = {*run.table.features, *run.table.labels, *rule_inputs(run)}
    built = set(open_catalog(run.folder / "catalog" / "catalog.json").collection_ids)
    if wanted - built:
        reasons = " ".join(failure.reason for failure in report.failures)
        raise SourceError(f"input {', '.join(sorted(wanted - built))} could not be read. {reasons}")
    for failure in report.failures:
        run.progress(f"left out: {failure}")
    left_out = f", {len(report.failures)} files left out" if report.failures else ""
    return f"{report.n_items} items in {report.n_collections} collections{left_out}"


def _describe_cubes(run: Run, _: str) -> str:
    for city in run.cities:
        cube = run.cube(city)
        require_cube_fits(run, cube)
        run.path(city, "").mkdir(exist_ok=True)
        facts = {"grid": run.grids[city].to_dict(), "layers": describe_cube(cube)}
        write_json(run.path(city, "cube.json"), facts)
    shapes = [f"{city} {' x '.join(map(str, run.grids[city].shape))}" for city in run.cities]
    return f"{', '.join(shapes)} pixels"


def write_cubes(run: Run, *, overwrite: bool = False) -> str:
    """Bring the cubes of a run home, as Zarr; goes on where an interrupted call stopped.

    They reach as far past their grids as the models of the run look.
    """
    lines = []
    for city in run.cities:
        run.progress(f"cube --write: {city}")
        cube = run.cube_of_files(city, _reach_px(run, city))
        report = write_cube(cube, run.path(city, CUBE_STORE), overwrite=overwrite)
        lines.append(f"{city}: {report.n_written} of {report.n_regions} shards written")
    return "; ".join(lines)


def _reach_px(run: Run, city: str) -> int:
    """Pixels past the grid that windows and models of a run look at."""
    return max(run.grids[city].halo_px, reach_px(run.config))


def describe_cube(cube: xr.Dataset) -> dict[str, Any]:
    """Dims, dtype, chunks and identity of every layer of a cube, as plain values."""
    shown = (
        *("layer", "product", "decoder", "valid", "resampling", "license", "synthetic"),
        *("engine", "n_tiles", "covered_share", "year_used", "present"),
    )
    return {
        str(name): {
            "dims": {str(dim): int(size) for dim, size in variable.sizes.items()},
            "dtype": str(variable.dtype),
            "n_chunks": int(np.prod([len(c) for c in variable.chunks or ()])),
            **{key: variable.attrs[key] for key in shown if key in variable.attrs},
        }
        for name, variable in cube.data_vars.items()
    }


def _aggregate(run: Run, identity: str) -> str:
    counts, n_sets = {}, {}
    told: list[str] = []
    for city in run.cities:
        run.progress(f"aggregate: {city}")
        cube, labels = run.cube(city), run.labels(city)
        rules = label_city_by_rules(run, city, cube, labels)
        store = run.path(city, "features.zarr")
        cells = aggregate(cube, **run.table.features_of_windows)
        write_product({"cells": cells}, store, overwrite=True, identity=identity)
        counts[city], kept = _write_samples(run, city, cube, labels, rules)
        if kept is not None:
            told.append(rules_summary(city, kept))
        told += _other_years(city, cube, labels)
        n_sets[city] = labels.attrs["n_sets"]
    if not any(counts.values()):
        raise LabelError(
            f"no label of {', '.join(run.table.labels)} lies in {', '.join(run.cities)}; check the "
            "cities' bbox, the labels' CRS, and `city` of the label inputs."
        )
    lines = [f"{n} labelled samples in {city}" for city, n in counts.items()]
    lines += [f"{n} labels of several classes unused in {city}" for city, n in n_sets.items() if n]
    return ", ".join(lines + told)


def _other_years(city: str, cube: xr.Dataset, labels: gpd.GeoDataFrame) -> list[str]:
    """Labels that say they are of another year than the layers; they are used all the same."""
    years = years_of(cube)
    other = labels["year"][(labels["year"] > 0) & ~labels["year"].isin(years)]
    if other.empty or not years:
        return []
    of, layers = (", ".join(map(str, sorted(set(found)))) for found in (other, years))
    return [f"{len(other)} labels of {of} used with layers of {layers} in {city}"]


def _write_samples(
    run: Run,
    city: str,
    cube: xr.Dataset,
    labels: gpd.GeoDataFrame,
    rules: gpd.GeoDataFrame | None,
) -> tuple[int, gpd.GeoDataFrame | None]:
    """Number of samples that somebody labelled, and the labels by rule that are samples."""
    path, of_pixels = run.path(city, "samples.parquet"), run.path(city, "pixels.parquet")
    table = labels if rules is None else join_rules(labels, rules)
    if table.empty:
        for stale in (path, of_pixels):
            stale.unlink(missing_ok=True)
        return 0, write_rule_labels(run, city, rules)
    cells = open_features(run.path(city, "features.zarr"))
    samples = build_samples(table, cube, cells, **run.table.features_of_windows)
    rules, samples = keep_like_samples(run, rules, samples)
    write_samples(samples, path)
    if "forest_pixels" in run.table.baselines:
        write_samples(read_pixels(samples, cube), of_pixels)
    return n_labelled(samples), write_rule_labels(run, city, rules)


def _propagate(run: Run, identity: str) -> str:
    given, lines = RunDonors(run), []
    for city in run.cities:
        run.progress(f"propagate: {city}")
        lines.append(f"{city}: {propagate_city(given, city, identity=identity)}")
    given.sweep_indexes()
    return "; ".join(lines)


def _predict(run: Run, identity: str) -> str:
    for city in run.cities:
        run.progress(f"predict: {city}")
        store = run.path(city, MAP_STORE)
        maps = _maps(run, city)
        write_product(maps, store, attrs=_manifest(run), overwrite=True, identity=identity)
        _draw(run, city, {name: open_product(store, name) for name in maps})
    left_out = write_outputs(run.folder).left_out
    for why in left_out:
        run.progress(f"left out: {why}")
    return f"{len(run.cities)} maps" + (f", {len(left_out)} exports left out" if left_out else "")


def _maps(run: Run, city: str) -> dict[str, xr.Dataset]:
    """Lazy maps of a city by group; with a dimension ``time`` where the run maps several years."""
    models, years = run.folder / MODELS, sorted(run.table.map_years)
    if not years:
        return predict_maps(run.config, run.data(city), models)
    by_year = [predict_maps(run.config, run.data_of_year(city, year), models) for year in years]
    time = pd.DatetimeIndex([f"{year}-01-01" for year in years], name="time").as_unit("ns")
    return {
        group: xr.concat([maps[group] for maps in by_year], time, coords="minimal", compat="equals")
        for group in by_year[0]
    }


def _draw(run: Run, city: str, maps: dict[str, xr.Dataset]) -> None:
    kinds = mapped_models(run.config)
    panels = {
        f"{MAP_TITLES[kinds[name]]}, {abs(float(m.x[1] - m.x[0])):g} m{when}": step
        for name, m in maps.items()
        for when, step in _each_year(m)
    }
    synthetic = _manifest(run)["synthetic"]
    years = {run.table.year} if run.table.year else _years(run)
    years = set() if run.table.map_years else years  # panels say theirs
    year = f" {years.pop()}" if len(years) == 1 else ""
    write_map_png(
        panels,
        run.path(city, "lcz.png"),
        title=f"Local Climate Zones, {city}{year}" + (" (synthetic data)" if synthetic else ""),
        note=f"{run.grids[city].crs}. Made with lczcube {__version__} from "
        f"{', '.join(run.table.features)}; labels {', '.join(run.table.labels)}"
        + (f", rules {', '.join(rule_inputs(run))}." if rule_inputs(run) else "."),
    )


def _each_year(maps: xr.Dataset) -> list[tuple[str, xr.Dataset]]:
    """The map, or of several years the first and the last, and what its title adds."""
    if "time" not in maps.dims:
        return [("", maps)]
    ends = (maps.isel(time=i) for i in sorted({0, maps.sizes["time"] - 1}))
    return [(f", {int(end['time'].dt.year)}", end) for end in ends]


def _years(run: Run) -> set[int]:
    """Years of the feature inputs."""
    return {year for name in run.table.features for year in run.config.input(name).all_years}


def _manifest(run: Run) -> dict[str, Any]:
    """What a map is made of: the root attributes of its store."""
    roles = {"features": run.table.features, "labels": run.table.labels, "rules": rule_inputs(run)}
    names = dict.fromkeys(name for of in roles.values() for name in of)
    layers = [run.catalog.layer(name) for name in names]
    return {
        "lczcube_version": __version__,
        "id": run.config.id,
        "synthetic": int(any(layer.synthetic for layer in layers)),
        "inputs": {
            layer.name: {
                "product": layer.product,
                "license": layer.license,
                "license_note": layer.license_note,
                "ai_derived": layer.ai_derived,
                "role": " and ".join(role for role, of in roles.items() if layer.name in of),
                "items": _item_facts(run, layer.name),
            }
            for layer in layers
        },
        **rules_manifest(run, run.config.model_dump(mode="json", include=SETTINGS)),
    }


def _item_facts(run: Run, name: str) -> dict[str, dict[str, Any]]:
    """Size and, where the catalog has it, checksum of every file of every item of an input."""
    return {
        item.id: {
            key: {
                fact: asset.extra_fields[f"file:{fact}"]
                for fact in ("size", "checksum")
                if f"file:{fact}" in asset.extra_fields
            }
            for key, asset in item.assets.items()
        }
        for item in run.catalog.items(name)
    }


def _evaluate(run: Run, _: str) -> str:
    text = _write_scores(run, _cross_validate(run, None))
    write_run_models(run.folder, manifest=_manifest(run), kinds=run.table.models)
    return text


def score_by_protocol(run: Run, protocol: ScoreProtocol) -> str:
    """Score the models and baselines of a run by a protocol; the table, and where it is.

    Writes ``scores_NAME.json``, ``scores_NAME.md`` and ``predictions_NAME.parquet`` beside those of
    the run's own split.
    """
    source = [protocol.source] if protocol.source else []
    head = [f"Protocol {protocol.name}: {protocol.note}", *source, ""]
    return _write_scores(run, _cross_validate(run, protocol), protocol, head)


def _cross_validate(run: Run, protocol: ScoreProtocol | None) -> CrossValidation:
    return cross_validate_models(
        run.training_data(), run.folder / MODELS, progress=run.progress, protocol=protocol
    )


def _write_scores(
    run: Run,
    result: CrossValidation,
    protocol: ScoreProtocol | None = None,
    head: Sequence[str] = (),
) -> str:
    write_predictions(result.predictions, scored_path(run, "predictions.parquet", protocol))
    manifest = _manifest(run)
    made = {key: told["role"] for key, told in manifest["inputs"].items() if told["ai_derived"]}
    content = {"id": run.config.id, "synthetic": manifest["synthetic"], "ai_derived": made}
    write_json(scored_path(run, "scores.json", protocol), content | result.to_dict())
    lines = [*head, scores_table(list(result.scores.items()))]
    for city, scores in result.per_city.items():
        lines.append(f"\n{city}\n{scores_table(list(scores.items()))}")
    if result.comparisons:
        lines += ["", comparisons_table(result.comparisons)]
    spread = spread_table(result.per_seed)
    lines += ["", spread] if spread else []
    lines += ["", *(comparison.statement for comparison in result.comparisons), *result.warnings]
    lines += ai_derived_lines(made)
    text = "\n".join(lines) + "\n"
    scored_path(run, "scores.md", protocol).write_text(text, encoding="utf-8")
    return text


def ablate_run(run: Run, kinds: Sequence[str]) -> str:
    """What heights add to every embedding of a run, as text.

    Writes ``ablation.json`` and ``ablation.md``.
    """
    layers = {name: run.catalog.layer(name) for name in run.features}
    arms = arms_of(run.features, {name: layer.layer for name, layer in layers.items()})
    found = ablate(run.training_data(), arms, kinds or run.table.models, progress=run.progress)
    synthetic = int(any(layer.synthetic for layer in layers.values()))
    content = {"id": run.config.id, "synthetic": synthetic, "ablation": found.to_dict()}
    write_json(run.folder / "ablation.json", content)
    text = ("Synthetic data.\n\n" if synthetic else "") + found.to_text()
    (run.folder / "ablation.md").write_text(text, encoding="utf-8")
    return text


def scored_path(run: Run, name: str, protocol: ScoreProtocol | None = None) -> Path:
    """Where an evaluation leaves a file: ``scores.md``, or ``scores_NAME.md`` of a protocol."""
    path = run.folder / name
    return path if protocol is None else path.with_stem(f"{path.stem}_{protocol.name}")


def ai_derived_lines(roles: Mapping[str, str], of: str = "") -> list[str]:
    """A sentence for each input that a model made, by its role; ``of`` says whose input."""
    return [
        f"Input {name!r}{of}, used as {role}, is itself the product of a model."
        for name, role in roles.items()
    ]


def _in_cities(*names: str) -> Callable[[Run], list[Path]]:
    return lambda run: [run.path(city, name) for city in run.cities for name in names]


def stages_of(run: Run, kinds: Sequence[str] = ()) -> tuple[Stage, ...]:
    """The stages of a run, each after those that it reads.

    Parameters
    ----------
    run : Run
        City file and folder.
    kinds : sequence of str
        Kinds of models to train beside those of ``[run] models``.
    """
    own = tuple(_trains(kind) for kind in run.table.models)
    others = tuple(_trains(kind) for kind in kinds if kind not in run.table.models)
    mapped = tuple(f"train {kind}" for kind in mapped_models(run.config).values())
    return (
        *TO_PROPAGATE,
        *own,
        *others,
        Stage(
            "predict",
            mapped,
            lambda run: {"map_years": run.table.map_years},
            _in_cities(MAP_STORE, "lcz.png"),
            _predict,
        ),
        Stage(
            "evaluate",
            tuple(stage.name for stage in own),
            lambda run: {
                "folds": run.table.folds,
                "repeats": run.table.repeats,
                "baselines": run.table.baselines,
                **_tables(run, run.table.baselines),
            },
            lambda run: [
                scored_path(run, name)
                for name in ("scores.json", "scores.md", "predictions.parquet")
            ],
            _evaluate,
        ),
    )


TO_PROPAGATE: tuple[Stage, ...] = (
    Stage(
        "build-catalog",
        (),
        lambda run: [
            run.config.model_dump(mode="json", include={"id": True, "inputs": True, **PLACES}),
            run.input_stats(),
        ],
        lambda run: [run.folder / "catalog" / "catalog.json"],
        _build_catalog,
        # A catalog of the same bytes leaves later stages up to date, whatever the files' dates.
        lambda run: catalog_digest(run.folder / "catalog"),
    ),
    Stage(
        "cube",
        ("build-catalog",),
        lambda run: (
            run.config.model_dump(mode="json", include={"grid": True, **PLACES})
            | run.table.model_dump(
                mode="json", include={"features", "year", "nearest_year", "missing", "engine"}
            )
        ),
        _in_cities("cube.json"),
        _describe_cubes,
    ),
    Stage(
        "aggregate",
        ("cube",),
        lambda run: {
            "labels": run.table.labels,
            **run.table.features_of_windows,
            "pixels": "forest_pixels" in run.table.baselines,
            **rule_settings(run),
        },
        lambda run: [
            run.path(city, name)
            for city in run.cities
            for name in ("features.zarr", *([RULE_LABELS] if run.config.rules else []))
        ],
        _aggregate,
    ),
    Stage(
        "propagate",
        ("aggregate",),
        lambda run: [
            run.config.propagate.model_dump(mode="json"),
            run.table.split,
            run.table.seed,
            run.config.model_dump(mode="json", include={"cities": {"__all__": ROLES}}),
        ],
        _in_cities("propagated.zarr", "pseudo_labels.parquet"),
        _propagate,
    ),
)
"""The stages before any model."""


def _tables(run: Run, kinds: Sequence[str]) -> dict[str, Any]:
    """The tables of the city file that kinds of models have."""
    names = {kind.removesuffix("_pixels") for kind in kinds}
    return run.config.model_dump(mode="json", include=names)


def _trains(kind: str) -> Stage:
    def settings(run: Run) -> Any:
        keys = ("split", "folds", "seed", "pseudo_weight", "pseudo_per_class")
        own = run.config.model_dump(
            mode="json", include={kind.removesuffix("_pixels"), "confidence"}
        )
        return own | {key: getattr(run.table, key) for key in keys}

    def compute(run: Run, _: str) -> str:
        folder = run.folder / MODELS / kind
        summary = train_model(run.training_data(), kind, folder, progress=run.progress)
        write_run_models(run.folder, manifest=_manifest(run), kinds=[kind], scores=False)
        return summary

    return Stage(
        f"train {kind}",
        ("propagate",),
        settings,
        lambda run: [run.folder / MODELS / kind / "model.json"],
        compute,
        lambda run: model_digest(run.folder / MODELS / kind),
    )
