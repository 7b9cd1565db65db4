"""The command line: a thin door to the functions of the package.

Progress goes to stderr, results to stdout. Exit status: 0 done, 1 refused or partly failed, 2 bad
arguments. Nothing heavy is imported before a command runs.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

from cyclopts import App, CycloptsError, Parameter

from lczcube import __version__
from lczcube.errors import LczcubeError

if TYPE_CHECKING:
    import pystac
    from rich.progress import TaskID

    from lczcube.catalog.register import FileProgress
    from lczcube.grid import Grid
    from lczcube.runfolder import Run

app = App(
    name="lczcube",
    version=__version__,
    help="Local Climate Zone maps from satellite embeddings, labels and STAC catalogs.",
    default_parameter=Parameter(negative=()),
    help_format="plaintext",  # rich's Markdown costs a third of the start
)


T = TypeVar("T")

Several = Annotated[tuple[str, ...], Parameter(consume_multiple=True)]
"""An option that takes one value or more."""


@Parameter(name="*")
@dataclass(frozen=True)
class Options:
    """Options that every stage takes."""

    cluster: str = "threads"
    "threads, local, the address of a scheduler, or a YAML file of dask_config/."
    workers: int | None = None
    "Threads or local worker processes; default: the cores of this machine."
    memory: str | None = None
    "Memory budget of a worker, such as 4GiB; default: 80 % of this machine's."
    overwrite: bool = False
    "Do it again even when it is up to date."
    strict: bool = False
    "Stop at the first broken file instead of going on without it."
    dry_run: bool = False
    "Print what would be done, read no pixel, write nothing."
    verbose: Annotated[bool, Parameter(name=("--verbose", "-v"))] = False
    "Show tracebacks and the log."


@app.command(name="run")
def run_all(config: Path, folder: Path, /, *, options: Options | None = None) -> None:
    """Do every stage of a city file in a run folder; again does nothing.

    Parameters
    ----------
    config
        City file, CITY.toml.
    folder
        Run folder; made if it is not there.
    """
    _stages(None, folder, config, options or Options())


@app.command(name="build-catalog")
def build(
    source: Path,
    out: Path | None = None,
    /,
    *,
    config: Path | None = None,
    overwrite: bool = False,
    strict: bool = False,
    workers: int = 4,
    dry_run: bool = False,
) -> int:
    """Register the inputs of a TOML file as a static STAC catalog and stac-geoparquet.

    Again, it opens the files that changed. Without OUT it is the first stage of a run folder.

    Parameters
    ----------
    source
        CATALOG.toml or CITY.toml; without OUT, a run folder.
    out
        Folder of the catalog.
    config
        City file of a run folder; default: the one the folder was made with.
    overwrite
        Open every file anew, and replace a catalog of another id.
    strict
        Stop at the first broken file.
    workers
        Threads that open files; more than 4 help with files at URLs.
    dry_run
        Print the files that would be registered and their sizes; write nothing.
    """
    from lczcube.errors import ConfigError

    if workers < 1:
        raise ConfigError(f"workers = {workers}: files are opened by 1 thread or more.")
    if out is None:
        if source.is_file():
            raise ConfigError(f"{source} is a file; name the folder of the catalog too, OUT.")
        options = Options(overwrite=overwrite, strict=strict, dry_run=dry_run)
        _stages(["build-catalog"], source, config, options)
        return 0
    if config is not None:
        raise ConfigError("--config is of a run folder; with OUT, the first argument is the file.")
    if dry_run:
        from lczcube.plans import plan_catalog

        plan = plan_catalog(source, out)
        print(plan.text)
        return 1 if plan.n_missing else 0
    from lczcube.catalog import build_catalog

    with _file_progress() as progress:
        report = build_catalog(
            source, out, overwrite=overwrite, strict=strict, workers=workers, progress=progress
        )
    counts, *left_out = str(report).splitlines()
    print("\n".join(left_out), end="\n" if left_out else "", file=sys.stderr)
    print(counts)
    return 1 if report.failures else 0


@app.command
def search(
    catalog: str,
    /,
    *,
    bbox: tuple[float, float, float, float] | None = None,
    datetime: str | None = None,
    collections: Several = (),
    ids: Several = (),
    limit: int | None = None,
    json: bool = False,
) -> None:
    """List the items of a catalog: a line each, or with --json an ItemCollection.

    Nothing found is an empty list and no error.

    Parameters
    ----------
    catalog
        A catalog.json, a folder of stac-geoparquet, or the URL of a STAC API.
    bbox
        WEST SOUTH EAST NORTH in degrees; west above east crosses the antimeridian.
    datetime
        2024, 2024-06-30, 2023-06/2024-06 or 2020/.. .
    collections
        Names of collections; default: all.
    ids
        Ids of items.
    limit
        At most so many items.
    json
        GeoJSON with all that is known, instead of a table.
    """
    from lczcube.catalog import open_catalog

    items = open_catalog(catalog).search(
        collections=collections or None,
        bbox=bbox,
        datetime=datetime,
        ids=ids or None,
        limit=limit,
    )
    print(_as_feature_collection(items) if json else _as_table(items))


@app.command
def describe(
    folder: Path,
    /,
    *,
    config: Path | None = None,
    seams: bool = False,
    picture: Path | None = None,
) -> int:
    """Print the grid and the layers of every city's cube, and what they cover; reads no pixel.

    Coverage is which city and year has what share of each layer, what all layers together leave,
    and which labels there are. A city that lacks a layer has no cube and is shown all the same;
    the exit status is 1 then.

    Parameters
    ----------
    folder
        Run folder.
    config
        City file; default: the one the folder was made with.
    seams
        Also read along the edges of tiles, and look there for steps and for tiles that are a pixel
        out of place.
    picture
        Also draw the coverage: a PNG.
    """
    from lczcube.coverage import coverage_of, plot_coverage
    from lczcube.errors import CatalogError
    from lczcube.runfolder import open_run
    from lczcube.seams import find_seams
    from lczcube.stages import describe_cube

    run, status = open_run(folder, config), 0
    for city in run.cities:
        grid = run.grids[city]
        rows, columns = grid.shape
        print(
            f"{city}: {grid.crs}, {rows} x {columns} pixels of {grid.pixel_m:g} m, cells of "
            f"{grid.cell_m:g} m at a stride of {grid.stride_m:g} m"
        )
        try:
            for name, facts in describe_cube(run.cube(city)).items():
                print(f"  {name}: " + ", ".join(f"{k} {v}" for k, v in facts.items()))
            if seams:
                print(find_seams(run.cube_of_files(city, grid.halo_px)).to_text())
        except CatalogError as error:
            print(f"  no cube: {error}")
            status = 1
    told = coverage_of(run)
    print(told.to_text())
    if picture is not None:
        plot_coverage(told, picture)
        print(f"picture {picture}")
    return status


@app.command
def synth(
    out: Path,
    /,
    *,
    cities: int = 2,
    km: float = 6.0,
    layers: str = "alphaearth",
    seed: int = 7,
    dry_run: bool = False,
) -> None:
    """Write a small synthetic world: inputs, labels, the true map, and its world.toml.

    Parameters
    ----------
    out
        Folder; must be empty or absent.
    cities
        Number of cities, in different UTM zones and hemispheres.
    km
        Side of each city, km.
    layers
        Inputs to write, each in its publisher's format, with commas between; "all" for all.
    seed
        Seed of everything random.
    dry_run
        Print what would be written and how large it is; write nothing.
    """
    from lczcube.synth.layers import LAYERS

    names = tuple(LAYERS) if layers == "all" else tuple(name.strip() for name in layers.split(","))
    if dry_run:
        from lczcube.plans import plan_world

        print(plan_world(out, cities=cities, km=km, seed=seed, layers=names))
        return
    from lczcube.synth import write_world

    world = write_world(out, cities=cities, km=km, seed=seed, layers=names)
    print(f"synthetic world of {cities} cities: {Path(out) / 'world.toml'}")
    print(f"Bayes-optimal accuracy on pure cells: {world.bayes_accuracy:.3f}")


@app.command
def template(
    path: Path, /, *, run: Path | None = None, city: str | None = None, crs: str | None = None
) -> None:
    """Write an empty GeoPackage to draw training areas in, styled for QGIS.

    Parameters
    ----------
    path
        A new file, AREAS.gpkg.
    run
        Run folder: draw in its city's CRS, with the cells of its grid as a second layer.
    city
        City of the run; default: its only one.
    crs
        CRS to draw in, without a run; default: EPSG:4326.
    """
    from lczcube.errors import ConfigError
    from lczcube.labels import write_template

    if run is None and city is not None:
        raise ConfigError(f"--city {city} is of a run; name its folder with --run.")
    if run is not None and crs is not None:
        raise ConfigError(f"--crs {crs} and --run: with a run it is the CRS of the city's grid.")
    grid = None if run is None else _grid_of(run, city)
    print(f"template {write_template(path, grid=grid, crs=crs or 'EPSG:4326')}")


def _grid_of(folder: Path, city: str | None) -> "Grid":
    from lczcube.errors import ConfigError
    from lczcube.runfolder import open_run

    run = open_run(folder)
    if city is None and len(run.cities) == 1:
        return run.grids[run.cities[0]]
    if city not in run.cities:
        raise ConfigError(
            f"city = {city!r}: {folder} has {', '.join(run.cities)}; name one with --city."
        )
    return run.grids[city]


@app.command
def cube(
    folder: Path,
    /,
    *,
    config: Path | None = None,
    write: bool = False,
    options: Options | None = None,
) -> None:
    """Check the layers of every city on its grid; with --write, bring their pixels home.

    Parameters
    ----------
    folder
        Run folder.
    config
        City file; default: the one the folder was made with.
    write
        Store every city's cube as Zarr; interrupted, the same command goes on.
    """
    _stages(["cube"], folder, config, options or Options(), write=write)


def _stage_command(name: str, summary: str) -> None:
    def command(
        folder: Path, /, *, config: Path | None = None, options: Options | None = None
    ) -> None:
        _stages([name], folder, config, options or Options())

    command.__doc__ = f"""{summary}

    Parameters
    ----------
    folder
        Run folder.
    config
        City file; default: the one the folder was made with.
    """
    app.command(command, name=name)


for _name, _summary in (
    ("aggregate", "Features per cell, and of every label."),
    ("propagate", "Pseudo-labels from the nearest labelled features."),
    ("predict", "Write the maps: Zarr and PNG."),
):
    _stage_command(_name, _summary)


@app.command
def train(
    folder: Path, /, *models: str, config: Path | None = None, options: Options | None = None
) -> None:
    """Fit the models of a run, with what models like them say of held-out labels.

    Parameters
    ----------
    folder
        Run folder.
    models
        Kinds of models: xgb, xgb_pixels, unet, patch, linear, forest, knn; also such as [run]
        models does not name. Default: those of [run] models.
    config
        City file; default: the one the folder was made with.
    """
    _require_kinds(models)
    names = [f"train {kind}" for kind in models] or ["train"]
    _stages(names, folder, config, options or Options())


def _require_kinds(models: Sequence[str]) -> None:
    from typing import get_args

    from lczcube.config import ModelKind
    from lczcube.errors import ConfigError

    unknown = [kind for kind in models if kind not in get_args(ModelKind)]
    if unknown:
        raise ConfigError(
            f"model {unknown[0]!r} is unknown; there are {', '.join(get_args(ModelKind))}."
        )


@app.command
def ablate(folder: Path, /, *, models: Several = (), config: Path | None = None) -> None:
    """Score every embedding of a run alone, with canopy, with buildings and with both.

    All on the same folds; what each adds, with its interval and class by class, goes to
    ablation.md and ablation.json of the run folder.

    Parameters
    ----------
    folder
        Run folder.
    models
        Kinds of models; default: those of [run] models.
    config
        City file; default: the one the folder was made with.
    """
    from lczcube.pipeline import ablate_inputs
    from lczcube.runfolder import open_run

    _require_kinds(models)
    print(ablate_inputs(open_run(folder, config, progress=_progress()), models), end="")


@app.command
def export(
    folder: Path,
    /,
    *,
    what: Several = (),
    out: Path | None = None,
    city: Several = (),
    group: str | None = None,
    year: int | None = None,
    fill: Path | None = None,
    margin_km: float = 50.0,
    heights: Path | None = None,
    min_area_km2: float = 0.1,
    thin_m: float = 0.0,
    config: Path | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
) -> None:
    """Write the maps of a run as other tools read them: a city's files once all are made.

    Parameters
    ----------
    folder
        Run folder.
    what
        Formats, with spaces or commas between: cog, generator, 100m, geoparquet, qgis, png, wrf,
        ucp, kml. Default: cog, qgis and png.
    out
        Folder; each city gets one of its name there. Default: RUN/CITY/exports.
    city
        Cities; default: all of the run.
    group
        pixels or cells. Default: cells for geoparquet, else the finest there is.
    year
        Of a run that maps several years: which one.
    fill
        For wrf: a map of LCZ in EPSG:4326 for what lies outside ours, such as the global one.
    margin_km
        For wrf: how far the fill reaches past our map, km.
    heights
        For ucp: raster of building heights above ground, m; 0 where there is none.
    min_area_km2
        For ucp: ground of a class that its own values need; with less it keeps published ones.
    thin_m
        For kml: leave out vertices that move an outline by less, m.
    config
        City file; default: the one the folder was made with.
    overwrite
        Replace files that are there.
    dry_run
        Print what would be written; read no pixel.
    """
    from lczcube.exports.of_run import DEFAULT_FORMATS, ExportOptions, export_run, plan_export
    from lczcube.runfolder import open_run

    run = open_run(folder, config, progress=_progress())
    formats = [name for each in what for name in each.split(",") if name] or DEFAULT_FORMATS
    options = ExportOptions(group, fill, margin_km, heights, min_area_km2, thin_m, year)
    if dry_run:
        print(plan_export(run, formats, out=out, cities=city, options=options))
        return
    for path in export_run(
        run, formats, out=out, cities=city, options=options, overwrite=overwrite
    ):
        print(path)
    if out is None:
        from lczcube.outputs import write_outputs

        # Items of the maps have the exports as assets.
        for why in write_outputs(run.folder).left_out:
            run.progress(f"left out: {why}")


@app.command
def audit(folder: Path, /, *, config: Path | None = None) -> None:
    """Say how right pseudo-labels would have been: cities and blocks are left out and voted on.

    Compares the ways to give donors, by class, city and cut, in audit.md, audit.json and audit.png
    of the run folder; needs features and samples (the stage aggregate).

    Parameters
    ----------
    folder
        Run folder.
    config
        City file; default: the one the folder was made with.
    """
    from lczcube.pipeline import audit_donors
    from lczcube.runfolder import open_run

    print(audit_donors(open_run(folder, config)), end="")


@app.command
def check_labels(folder: Path, /, *, config: Path | None = None, limit: int = 20) -> None:
    """Check the labels of every city: shapes, contradictions, outliers; drops nothing.

    Leaves a layer of suspects, suspects.gpkg, and a picture, suspects.png, in the city's folder.

    Parameters
    ----------
    folder
        Run folder.
    config
        City file; default: the one the folder was made with.
    limit
        Suspects that are listed of a city.
    """
    from lczcube.labels.quality import check_labels as check
    from lczcube.labels.quality_plot import plot_suspects
    from lczcube.labels.samples import without_rules
    from lczcube.runfolder import open_run

    run = open_run(folder, config)
    samples = {city: without_rules(part) for city, part in run.samples().items()}
    for city in run.cities:
        labels = run.labels(city)
        if labels.empty:
            print(f"{city}: no label")
            continue
        report = check(labels, samples.get(city))
        print(f"{city}: {report.to_text(limit=limit)}")
        path = run.path(city, "suspects.gpkg")
        path.parent.mkdir(parents=True, exist_ok=True)
        report.write_suspects(path)
        made_up = any(run.catalog.layer(name).synthetic for name in run.table.labels)
        title = f"Labels of {city}" + (" (synthetic data)" if made_up else "")
        plot_suspects(report, path.with_suffix(".png"), title=title)
        print(f"layer {path}\npicture {path.with_suffix('.png')}")


@app.command
def evaluate(
    folder: Path,
    /,
    *,
    protocol: str | None = None,
    config: Path | None = None,
    options: Options | None = None,
) -> None:
    """Cross-validate the models and print their scores.

    Parameters
    ----------
    folder
        Run folder.
    protocol
        Split and score as published tables do: wudapt, culture-10, leave-one-city-out, block-cv,
        polygon-cv, random. Default: as the city file says.
    config
        City file; default: the one the folder was made with.
    """
    _stages(["evaluate"], folder, config, options or Options(), protocol=protocol)


@app.command
def compare(
    run_a: Path,
    run_b: Path,
    /,
    *,
    models: Several = (),
    protocol: str | None = None,
    json: bool = False,
) -> None:
    """Compare two models on the units that both scored, of two evaluated runs or of one.

    Parameters
    ----------
    run_a
        Run folder.
    run_b
        Run folder; RUN_A again compares two models of it.
    models
        One model for both runs, or one each: xgb, unet, forest, knn, forest_pixels. Default: the
        first that each run scored.
    protocol
        Compare what `lczcube evaluate --protocol` left. Default: the runs' own splits.
    json
        Everything as JSON, instead of a table.
    """
    from lczcube.pipeline import compare_runs
    from lczcube.protocols import protocol_of
    from lczcube.runfolder import open_run

    found = compare_runs(
        open_run(run_a),
        open_run(run_b),
        models=_of_both(models or (None,), "models"),
        protocol=protocol,
    )
    if json:
        print(_as_json(found.to_dict()))
        return
    if protocol is not None:
        print(f"Protocol {protocol}: {protocol_of(protocol).note}\n")
    print(found.to_text())


@app.command
def agreement(
    first: Path,
    second: Path,
    /,
    *,
    names: Several = (),
    dependence: str | None = None,
    class_column: Several = ("lcz",),
    band: Annotated[tuple[int, ...], Parameter(consume_multiple=True)] = (),
    block_m: float = 3200.0,
    json: bool = False,
) -> None:
    """Print how far two maps, or two sets of labels, agree of which neither is the reference.

    Parameters
    ----------
    first
        A map (lcz.zarr/cells, a GeoTIFF) or labels (GeoPackage, GeoJSON, KML, a label table).
    second
        The same kind of thing; two maps lie on the same pixels, in metres.
    names
        What the two are called; default: their paths.
    dependence
        What they share, in a sentence: training labels, images, hands.
    class_column
        Column of the class of labels, one for both or one each.
    band
        Band of the classes of rasters of several, one for both or one each.
    block_m
        Side of the blocks of a map that are drawn for the interval, m.
    json
        Everything as JSON, instead of a table.
    """
    from lczcube.agreement import Reading, agreement_table, file_agreement
    from lczcube.agreement.files import NOT_SAID

    columns = _of_both(class_column, "class-column")
    bands = _of_both(band or (None,), "band")
    readings = Reading(columns[0], bands[0]), Reading(columns[1], bands[1])
    found = file_agreement(
        first,
        second,
        names=names,
        dependence=dependence or NOT_SAID,
        readings=readings,
        block_m=block_m,
    )
    print(_as_json(found.to_dict()) if json else agreement_table([found]))


@app.command
def change(
    *maps: Path,
    out: Path,
    city: str | None = None,
    group: str = "cells",
    years: Annotated[tuple[int, ...], Parameter(consume_multiple=True)] = (),
    min_confidence: float = 0.5,
    min_area_ha: float = 0.0,
    connectivity: Literal[4, 8] = 8,
    allow_mixed: bool = False,
    overwrite: bool = False,
) -> None:
    """Print what changed between maps of a city, and write it as Zarr and as a picture.

    The store holds the maps with a dimension time, and the group change; the picture lies beside.
    Interrupted, the same command goes on as long as the maps are the same.

    Parameters
    ----------
    maps
        Run folders or stores (lcz.zarr) on one grid: one a year, or one that has all years.
    out
        Store to write, CHANGE.zarr; the picture is CHANGE.png.
    city
        City of the run folders; default: their only one.
    group
        cells, or pixels.
    years
        Year of each map, in their order; default: as their city files say.
    min_confidence
        Least product of the confidences of both maps, 0 to 1.
    min_area_ha
        Least area of connected pixels of one transition, ha.
    connectivity
        4: pixels are connected by sides; 8: by corners too.
    allow_mixed
        Compare maps of different products, labels or models too.
    overwrite
        Replace an existing store and picture.
    """
    from lczcube.changes import (
        ChangeRules,
        change_table,
        changes_identity,
        changes_text,
        find_changes,
    )
    from lczcube.changes_plot import write_changes_png
    from lczcube.mapstack import maps_by_year, open_stack
    from lczcube.products import open_product, write_product

    rules, picture = ChangeRules(min_confidence, min_area_ha, connectivity), out.with_suffix(".png")
    # Numbers stand for the years, which one store of several years does not have.
    stores = list(maps_by_year(maps, city=city, years=range(len(maps))).values())
    _require_free(out, picture, stores, overwrite=overwrite)
    stacked = open_stack(maps, group=group, city=city, years=years)
    changes = find_changes(stacked, rules, allow_mixed=allow_mixed)
    identity = changes_identity(stores, rules, group=group, years=years)
    write_product({group: stacked, "change": changes}, out, overwrite=overwrite, identity=identity)
    stacked, changes = open_product(out, group), open_product(out, "change")
    print(changes_text(change_table(changes), changes))
    made_up = " (synthetic data)" if changes.attrs.get("synthetic") else ""
    title = f"Local Climate Zones{f', {city}' if city else ''}: change{made_up}"
    print(f"\nzarr    {out}")
    print(f"picture {write_changes_png(stacked, changes, picture, title=title)}")


def _require_free(out: Path, picture: Path, stores: "Sequence[Path]", *, overwrite: bool) -> None:
    """Refuse to write over the maps that are compared, and over a picture unasked."""
    from lczcube.errors import StoreError

    target = out.resolve()
    for store in (each.resolve() for each in stores):
        if target == store or target in store.parents or store in target.parents:
            raise StoreError(f"--out {out} is, holds or lies in the map {store}; name another.")
    if picture.exists() and not overwrite:
        raise StoreError(
            f"{picture} exists; pass overwrite=True (--overwrite) to replace it and {out}, or name "
            "another store."
        )


@app.command
def verify(
    store: str, /, *, hashes: Annotated[bool, Parameter(negative="--no-hashes")] = True
) -> int:
    """Compare the files of a store with what was written: damaged, missing and surplus ones.

    Parameters
    ----------
    store
        A store that lczcube wrote, such as RUN/CITY/lcz.zarr, or the URL of one.
    hashes
        Read every file; --no-hashes compares lengths only.
    """
    from lczcube.regions import verify_store

    found = verify_store(store, hashes=hashes)
    if found.is_sound:
        print(f"{store}: {found.n_files} files, all as they were written")
        return 0
    for word in ("damaged", "missing", "surplus"):
        for key in getattr(found, word):
            print(f"{word}  {key}")
    print(
        f"{store}: {len(found.damaged)} damaged, {len(found.missing)} missing, "
        f"{len(found.surplus)} surplus of {found.n_files} files.\n"
        "Give the command that wrote the store again with --overwrite; for the map of a run: "
        "lczcube predict RUN --overwrite."
    )
    return 1


def _of_both(values: "tuple[T, ...]", option: str) -> "tuple[T, T]":
    """One value for both sides, or one each."""
    from lczcube.errors import ConfigError

    if len(values) not in (1, 2):
        given = ", ".join(map(str, values))
        raise ConfigError(f"--{option} {given}: give one value for both sides, or one for each.")
    return values[0], values[-1]


def _as_json(content: dict[str, object]) -> str:
    import json

    return json.dumps(content, indent=1, sort_keys=True)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its status."""
    given = sys.argv[1:] if arguments is None else arguments
    verbose = "-v" in given or "--verbose" in given
    with _one_line_errors(verbose=verbose), _quiet_pipe():
        status = app(given, exit_on_error=False, print_error=False)
        sys.stdout.flush()
        sys.exit(status or 0)


@contextmanager
def _one_line_errors(*, verbose: bool) -> Iterator[None]:
    try:
        yield
    except CycloptsError as error:
        _refuse(" ".join(str(error).split()), 2)
    except LczcubeError as error:
        if verbose:
            raise
        _refuse(str(error), error.exit_status)
    except KeyboardInterrupt:
        _refuse("interrupted; the same command goes on where it stopped.", 1)
    except OSError as error:
        if verbose:
            raise
        _refuse(f"{type(error).__name__}: {error}", 1)


@contextmanager
def _quiet_pipe() -> Iterator[None]:
    """Nothing is said where whoever read the output, such as ``head``, has had enough."""
    try:
        yield
    except BrokenPipeError:
        # What is left in the buffer goes nowhere, not to a closed pipe when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _refuse(message: str, status: int) -> None:
    print(f"lczcube: {message}", file=sys.stderr)
    sys.exit(status)


def _stages(
    names: list[str] | None,
    folder: Path,
    config: Path | None,
    options: Options,
    *,
    write: bool = False,
    protocol: str | None = None,
) -> None:
    if options.verbose:
        import logging

        logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    from lczcube.pipeline import plan, run_stages, score_run
    from lczcube.runfolder import open_run
    from lczcube.runtime import memory_budget_bytes, n_cores, open_scheduler
    from lczcube.stages import write_cubes

    memory_budget_bytes(options.memory)  # refuses what is no size, before anything is done

    run = open_run(
        folder,
        config,
        n_concurrent=(options.workers or n_cores()) if options.cluster == "threads" else 1,
        memory=options.memory,
        strict=options.strict,
        progress=_progress(),
    )
    if options.dry_run:
        print(plan(run))
        return
    with open_scheduler(options.cluster, n_workers=options.workers):
        if protocol is not None:
            print(score_run(run, protocol))
            return
        reports = run_stages(run, names, overwrite=options.overwrite)
        if write:
            print(write_cubes(run, overwrite=options.overwrite))
    for report in reports:
        print(f"{report.name}: {report.state}")
        if report.summary:
            print("\n".join(f"  {line}".rstrip() for line in report.summary.splitlines()))
    _print_places(run, [report.name for report in reports])


@contextmanager
def _file_progress() -> "Iterator[FileProgress]":
    """A bar an input on a terminal, else a line an input."""
    if not sys.stderr.isatty():
        yield _line_progress
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def show(name: str, n_done: int, n_files: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=n_files)
            bars.update(tasks[name], completed=n_done)

        yield show


def _line_progress(name: str, n_done: int, n_files: int) -> None:
    if n_done == n_files:
        print(f"{name}: {n_files} files", file=sys.stderr, flush=True)


def _as_feature_collection(items: "Sequence[pystac.Item]") -> str:
    import json

    lines = ",\n".join(json.dumps(item.to_dict()) for item in items)
    return f'{{"type": "FeatureCollection", "features": [\n{lines}\n]}}'


def _as_table(items: "Sequence[pystac.Item]") -> str:
    rows = [("id", "collection", "datetime", "west south east north")]
    rows += [(i.id, i.collection_id or "", _dates(i), _corners(i)) for i in items]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ("  ".join(map(str.ljust, row[:3], widths)) + f"  {row[3]}" for row in rows)
    return "\n".join(lines)


def _dates(item: "pystac.Item") -> str:
    of = item.properties
    if of.get("start_datetime") and of.get("end_datetime"):
        return f"{of['start_datetime'][:10]}/{of['end_datetime'][:10]}"
    return str(of.get("datetime") or "")


def _corners(item: "pystac.Item") -> str:
    return " ".join(f"{corner:.5f}" for corner in item.bbox or ())


def _progress() -> Callable[[str], None]:
    return lambda line: print(line, file=sys.stderr, flush=True)


def _print_places(run: "Run", names: list[str]) -> None:
    if "predict" in names:
        for city in run.cities:
            print(f"map    {run.path(city, 'lcz.png')}")
            print(f"zarr   {run.path(city, 'lcz.zarr')}")
    if "evaluate" in names:
        print(f"scores {run.folder / 'scores.md'} and scores.json")


if __name__ == "__main__":
    main()
