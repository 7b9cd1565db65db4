"""The whole path: files to a map, stage by stage, in one run folder.

Each stage reads what the stages before wrote and leaves a fingerprint of all it depends on; a stage
whose fingerprint stands and whose files are there is up to date and does nothing.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import dask.array
import pandas as pd
import xarray as xr

from lczcube import __version__
from lczcube.cube import coded_layers, grid_of
from lczcube.errors import ConfigError, StageError
from lczcube.evaluate import PairedComparison, compare_predictions
from lczcube.mosaic import mosaics_of, plan_reads
from lczcube.predictions import predictions_of, read_predictions
from lczcube.protocols import ScoreProtocol, protocol_of
from lczcube.pseudolabels import audit_run
from lczcube.rundonors import RunDonors
from lczcube.runfolder import RUN_FILE, Run, read_json, write_json
from lczcube.runtime import StepReport, timed_step
from lczcube.stages import (
    Stage,
    ablate_run,
    ai_derived_lines,
    require_cube_fits,
    score_by_protocol,
    scored_path,
    stages_of,
)
from lczcube.windows import aggregate


def run_stages(
    run: Run, names: Sequence[str] | None = None, *, overwrite: bool = False
) -> list[StepReport]:
    """Do the stages that are not up to date.

    Parameters
    ----------
    run : Run
        City file and folder.
    names : sequence of str, optional
        Commands, such as ``predict``, or names of stages, such as ``train forest``; default all of
        the run. Stages that they read must be up to date, or named too.
    overwrite : bool
        Do the named stages again even when they are up to date.

    Returns
    -------
    list of StepReport
        One per named stage, ``done`` or ``up to date``.

    Raises
    ------
    StageError
        If a stage that a named one reads is missing or out of date.
    """
    stages = stages_of(run, _kinds_of(names or ()))
    named = [s for s in stages if names is None or s.name in names or s.command in names]
    reports = []
    for stage in named:
        for before in _stages_before(run, stage):
            _require_state(run, before, f"stage {stage.name!r}")
        if not overwrite and stage_state(run, stage) == "up to date":
            reports.append(StepReport(stage.name, "up to date", 0.0))
        else:
            reports.append(_do(run, stage))
    return reports


def _kinds_of(names: Sequence[str]) -> list[str]:
    """Kinds of models in names such as ``train forest``."""
    return [
        kind
        for command, _, kind in (n.partition(" ") for n in names)
        if command == "train" and kind
    ]


def _stages_before(run: Run, stage: Stage) -> list[Stage]:
    """The stages that a stage reads, and those that they read, first ones first."""
    stages = {s.name: s for s in stages_of(run)}
    read = {name for name in stage.after for name in (*_names_before(stages, name), name)}
    return [s for s in stages.values() if s.name in read]


def _names_before(stages: Mapping[str, Stage], name: str) -> set[str]:
    after = stages[name].after
    return {*after, *(far for near in after for far in _names_before(stages, near))}


def score_run(run: Run, protocol: str) -> str:
    """Scores of a run's models by a protocol of :data:`lczcube.protocols.PROTOCOLS`, as text.

    Raises
    ------
    ConfigError
        If there is no such protocol.
    StageError
        If features and samples are missing or out of date.
    """
    found = protocol_of(protocol)
    _require_up_to_date(run, "aggregate", f"protocol {protocol!r}")
    text = score_by_protocol(run, found)
    _write_record(run, _record_name(found), {"fingerprint": _fingerprint_of_protocol(run, found)})
    return text


def compare_runs(
    a: Run,
    b: Run,
    *,
    models: tuple[str | None, str | None] = (None, None),
    protocol: str | None = None,
) -> PairedComparison:
    """Difference of a model of one run and a model of another, on the units that both scored.

    Parameters
    ----------
    a, b : Run
        Runs that were evaluated; one run twice compares two of its models.
    models : tuple of str or None
        A model of each. Default: the first that each scored.
    protocol : str, optional
        Take the predictions of a protocol. Default: of the runs' own splits.

    Returns
    -------
    PairedComparison
        Its draws have the seed of ``a``; of two models of a run it is the run's own comparison.

    Raises
    ------
    ConfigError
        If protocol or model is unknown, or a model would be compared with itself.
    StageError
        If predictions are missing or out of date.
    LabelError
        If the two cannot be paired.
    """
    tables = [_run_predictions(run, protocol) for run in (a, b)]
    first, second = (
        str(table["model"].iloc[0]) if model is None else model
        for table, model in zip(tables, models, strict=True)
    )
    if a.folder == b.folder and first == second:
        raise ConfigError(
            f"{first} of {a.folder} would be compared with itself; name two models: "
            f"--models {first} OTHER, of {', '.join(tables[0]['model'].unique())}."
        )
    names = _names_of_pair((a, first), (b, second))
    found = compare_predictions(
        predictions_of(tables[0], first),
        predictions_of(tables[1], second),
        names=names,
        seed=a.table.seed,
    )
    return replace(found, warnings=(*found.warnings, *_ai_derived(a, b, protocol)))


def _run_predictions(run: Run, protocol: str | None) -> pd.DataFrame:
    """What a run's scores rest on; refused where it no longer is what the run would give."""
    if protocol is None:
        _require_up_to_date(run, "evaluate", "a comparison")
        return read_predictions(scored_path(run, "predictions.parquet"))
    found = protocol_of(protocol)
    _require_up_to_date(run, "aggregate", "a comparison")
    path = scored_path(run, "predictions.parquet", found)
    record = _read_records(run).get(_record_name(found))
    if record is None or not path.exists():
        state = "missing"
    elif record["fingerprint"] != _fingerprint_of_protocol(run, found):
        state = "out of date"
    else:
        return read_predictions(path)
    raise StageError(
        f"a comparison needs the predictions of protocol {protocol!r}, which are {state} in "
        f"{run.folder}; run `lczcube evaluate {run.folder} --protocol {protocol}` first."
    )


def _names_of_pair(a: tuple[Run, str], b: tuple[Run, str]) -> tuple[str, str]:
    """What tells the two apart: models of one run, or of folders by their names or paths."""
    (run_a, model_a), (run_b, model_b) = a, b
    if run_a.folder == run_b.folder:
        return model_a, model_b
    if run_a.folder.name == run_b.folder.name:
        return f"{run_a.folder} {model_a}", f"{run_b.folder} {model_b}"
    return f"{run_a.folder.name} {model_a}", f"{run_b.folder.name} {model_b}"


def _ai_derived(a: Run, b: Run, protocol: str | None) -> list[str]:
    found = None if protocol is None else protocol_of(protocol)
    runs = {run.folder: run for run in (a, b)}.values()
    return [
        line
        for run in runs
        for line in ai_derived_lines(
            read_json(scored_path(run, "scores.json", found)).get("ai_derived", {}),
            of=f" of {run.folder.name}",
        )
    ]


def audit_donors(run: Run) -> str:
    """How right the pseudo-labels of a run would have been, as text.

    Raises
    ------
    StageError
        If features and samples are missing or out of date.
    LabelError
        If the labels are too few to leave any out.
    """
    _require_up_to_date(run, "aggregate", "audit")
    return audit_run(run)


def ablate_inputs(run: Run, kinds: Sequence[str] = ()) -> str:
    """What canopy and buildings add to every embedding of a run, as text.

    Parameters
    ----------
    run : Run
        With features and samples.
    kinds : sequence of str
        Kinds of models. Default: those of ``[run] models``.

    Raises
    ------
    StageError
        If features and samples are missing or out of date.
    ConfigError
        If the run has no embedding, or neither canopy nor buildings.
    """
    _require_up_to_date(run, "propagate", "ablate")
    return ablate_run(run, kinds)


def _require_up_to_date(run: Run, last: str, what: str) -> None:
    stage = next(stage for stage in stages_of(run) if stage.name == last)
    for one in (*_stages_before(run, stage), stage):
        _require_state(run, one, what)


def _require_state(run: Run, stage: Stage, what: str) -> None:
    """Raise unless a stage that something needs is up to date."""
    state = stage_state(run, stage)
    if state != "up to date":
        raise StageError(
            f"{what} needs {stage.name!r}, which is {state} in {run.folder}; "
            f"run `lczcube {stage.command} {run.folder}` first, or `lczcube run`."
        )


def stage_state(run: Run, stage: Stage) -> str:
    """``up to date``, ``out of date`` or ``missing``."""
    record = _read_records(run).get(stage.name)
    if record is None or not all(path.exists() for path in stage.outputs(run)):
        return "missing"
    return "up to date" if record["fingerprint"] == _fingerprint(run, stage) else "out of date"


def plan(run: Run) -> str:
    """What a run would do, as text; reads metadata, no pixel, and writes nothing.

    Raises
    ------
    MemoryBudgetError
        If the projected peak is over the memory budget.
    """
    states = {stage.name: stage_state(run, stage) for stage in stages_of(run)}
    lines = [f"{name:14} {state}" for name, state in states.items()]
    if states["build-catalog"] == "missing":
        known = "grids and tasks are known once build-catalog is done"
        return "\n".join([*lines, f"{known}; `lczcube build-catalog --dry-run` lists the files"])
    from dask.utils import format_bytes

    has_samples = states["aggregate"] == "up to date"
    for city in run.cities:
        cube = run.cube(city)
        rows, columns = grid_of(cube).shape
        lines.append(f"{city}: {rows} x {columns} pixels")
        lines += [f"  {line}" for name in coded_layers(cube) for line in _layer_plan(cube, name)]
        cells = aggregate(cube, **run.table.features_of_windows)
        n_tasks = len(dask.array.asarray(cells["features"].data).__dask_graph__())
        lines.append(
            f"  aggregate: {n_tasks} tasks, {format_bytes(cells['features'].nbytes)} of features "
            f"to write, projected peak {format_bytes(require_cube_fits(run, cube))} per worker"
        )
        if has_samples:
            lines.append(f"  {RunDonors(run).plan(city)}")
    return "\n".join(lines)


def _layer_plan(cube: xr.Dataset, name: str) -> list[str]:
    from dask.utils import format_bytes

    layer = cube[name]
    mosaics = mosaics_of(layer.data)
    if not layer.attrs.get("present", 1):
        return [f"{name}: absent"]
    if not mosaics:
        return [f"{name}: {format_bytes(layer.nbytes)} of codes to read from an array"]
    plans = [plan_reads(mosaic) for mosaic in mosaics]
    stored = [p.stored_bytes for p in plans if p.stored_bytes is not None]
    fetched = f"about {format_bytes(sum(stored))}" if len(stored) == len(plans) else "unknown size"
    decoded = format_bytes(sum(p.decoded_bytes for p in plans))
    return [
        f"{name}: {sum(p.n_tiles for p in plans)} items, {sum(p.n_reads for p in plans)} reads, "
        f"{fetched} to fetch, {decoded} decoded, "
        f"{layer.attrs['covered_share']:.1%} of the pixels covered"
    ]


def _do(run: Run, stage: Stage) -> StepReport:
    with timed_step(stage.name, run.progress) as timing:
        run.folder.mkdir(parents=True, exist_ok=True)
        _drop_record(run, stage)  # killed in the middle, it is not done
        summary = stage.compute(run, _fingerprint(run, stage))
        _record(run, stage, summary)
    return StepReport(stage.name, "done", timing.seconds, summary)


def _fingerprint(run: Run, stage: Stage) -> str:
    records = _read_records(run)
    return _digest_of(
        {
            "version": __version__,
            "stage": stage.name,
            "settings": stage.settings(run),
            "before": {name: records.get(name, {}).get("result", "") for name in stage.after},
        }
    )


def _fingerprint_of_protocol(run: Run, protocol: ScoreProtocol) -> str:
    """Of samples, and of the settings that the stages after them have: models, seed, roles."""
    return _digest_of(
        {
            "version": __version__,
            "protocol": asdict(protocol),
            "settings": [stage.settings(run) for stage in stages_of(run) if _is_scored(stage)],
            "before": _read_records(run)["aggregate"]["result"],
        }
    )


def _is_scored(stage: Stage) -> bool:
    """Whether the scores of a protocol depend on the settings of a stage."""
    return stage.command in ("train", "evaluate")


def _record_name(protocol: ScoreProtocol) -> str:
    return f"evaluate --protocol {protocol.name}"


def _record(run: Run, stage: Stage, summary: str) -> None:
    fingerprint = _fingerprint(run, stage)
    result = fingerprint if stage.result is None else stage.result(run)
    record = {"fingerprint": fingerprint, "result": result, "summary": summary}
    _write_record(run, stage.name, record)


def _drop_record(run: Run, stage: Stage) -> None:
    records = _read_records(run)
    if records.pop(stage.name, None) is not None:
        _write_records(run, records)


def _write_record(run: Run, name: str, record: dict[str, str]) -> None:
    _write_records(run, _read_records(run) | {name: record})


def _write_records(run: Run, records: Mapping[str, Any]) -> None:
    content = {
        "config": str(run.config.source_path),
        "id": run.config.id,
        "lczcube_version": __version__,
        "stages": records,
    }
    write_json(run.folder / RUN_FILE, content)


def _read_records(run: Run) -> dict[str, Any]:
    return dict(read_json(run.folder / RUN_FILE).get("stages", {}))


def _digest_of(facts: dict[str, Any]) -> str:
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
