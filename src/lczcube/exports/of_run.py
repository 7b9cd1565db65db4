"""The exports of a run: which formats there are, the files of each, and writing them whole."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pystac

from lczcube.catalog import Catalog
from lczcube.errors import ConfigError, LabelError, StoreError
from lczcube.exports.canopy_parameters import DEFAULT_MIN_AREA_KM2, building_parameters
from lczcube.exports.cells import write_cells
from lczcube.exports.product_map import YEAR_TAG, ProductMap, open_map
from lczcube.exports.rasters import write_100m, write_generator, write_map_cog
from lczcube.exports.styles import write_clr, write_qml
from lczcube.exports.training_areas import write_training_areas
from lczcube.exports.wrf import DEFAULT_MARGIN_KM, write_wrf_map
from lczcube.outputs.items import EXPORTS, MAP_TAG, years_of
from lczcube.places import Folder
from lczcube.products import (
    MAP_STORE,
    inputs_of,
    manifest,
    map_groups,
    store_digest,
    write_map_png,
)
from lczcube.runfolder import Run

DEFAULT_FORMATS = ("cog", "qgis", "png")


@dataclass(frozen=True)
class ExportOptions:
    """How a run is exported.

    Attributes
    ----------
    group : str, optional
        Group of the map's store. Default: ``cells`` for GeoParquet, else the finest there is.
    fill : pathlib.Path, optional
        For ``wrf``: the map beyond ours.
    margin_km : float
        For ``wrf``: how far it reaches, km.
    heights : pathlib.Path, optional
        For ``ucp``: building heights.
    min_area_km2 : float
        For ``ucp``: ground of a class that its own values need, km2.
    thin_m : float
        For ``kml``: tolerance of the outlines, m.
    year : int, optional
        Which map of a run that maps several years.
    """

    group: str | None = None
    fill: Path | None = None
    margin_km: float = DEFAULT_MARGIN_KM
    heights: Path | None = None
    min_area_km2: float = DEFAULT_MIN_AREA_KM2
    thin_m: float = 0.0
    year: int | None = None


@dataclass(frozen=True)
class CityExport:
    """A city of a run to export, and how."""

    run: Run
    city: str
    options: ExportOptions

    def map(self, *, prefer: str = "pixels") -> ProductMap:
        """The city's map with what is said of it, for which the store is read."""
        plain = self.plain_map(prefer=prefer)
        return replace(plain, tags={**self.tags, **plain.tags})

    def plain_map(self, *, prefer: str = "pixels") -> ProductMap:
        """The city's map, of the group asked for, else ``prefer``, else the one there is."""
        return open_map(self.store, self.group(prefer=prefer), year=self.options.year)

    def group(self, *, prefer: str = "pixels") -> str:
        """Name of that group.

        Raises
        ------
        StoreError
            If there is no map, or not that group.
        """
        held = map_groups(self.store) if self.store.is_dir() else []
        asked = self.options.group
        if not held or (asked is not None and asked not in held):
            raise StoreError(
                f"{self.store} holds {', '.join(held) or 'no map'}"
                + (f" and no group {asked!r}" if asked else "")
                + "; `lczcube predict RUN` writes maps: the first model of cells and the first of "
                "pixels in [run] models make one each."
            )
        return asked or (prefer if prefer in held else held[0])

    @property
    def store(self) -> Path:
        """The store of its maps."""
        return self.run.path(self.city, MAP_STORE)

    @cached_property
    def tags(self) -> dict[str, str]:
        """What is said of its map."""
        return map_tags(self.store, self.run.catalog)


@dataclass(frozen=True)
class Format:
    """A format of exports: what it is, its files, and how they are written to a folder."""

    summary: str
    files: tuple[str, ...]
    write: Callable[[CityExport, Path], object]
    prefer: str | None = "pixels"
    """Group of the map that it takes of itself; None where it takes no map."""


def export_run(
    run: Run,
    formats: Sequence[str] = DEFAULT_FORMATS,
    *,
    out: str | Path | None = None,
    cities: Sequence[str] = (),
    options: ExportOptions | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write the maps of a run in other tools' formats: a city's files once all are made.

    Parameters
    ----------
    run : Run
        A run that was predicted.
    formats : sequence of str
        Keys of :data:`FORMATS`; one that is named twice is written once.
    out : str or pathlib.Path, optional
        Folder; each city gets one of its name there. Default: ``exports`` in the city's folder.
    cities : sequence of str
        Cities of the run. Default: all.
    options : ExportOptions, optional
        How.
    overwrite : bool
        Replace files that are there. Default: refuse before anything is written.

    Returns
    -------
    list of pathlib.Path
        What was written.

    Raises
    ------
    ConfigError
        If a format or a city is unknown, or lacks an option that it needs.
    StoreError
        If a map, a group or a year is not there, a run maps several years and none is named, or a
        file is there and ``overwrite`` is false, or another process exports to the same folder.

    Notes
    -----
    Where a format fails, no file of the city is touched. Then files are moved to their places one
    by one: a process that is killed meanwhile leaves new ones beside old ones, and the same call
    with ``overwrite`` writes them all.
    """
    names = list(dict.fromkeys(formats))
    jobs = _jobs(run, names, list(dict.fromkeys(cities)), options or ExportOptions())
    with ExitStack() as held:
        for job in jobs:
            held.enter_context(Folder(_folder(job, out)).locked())
        there = [path for job in jobs for path in _targets(job, names, out) if path.exists()]
        if there and not overwrite:
            raise StoreError(
                f"{_listed(there)} exists; pass overwrite=True (--overwrite) to replace."
            )
        written = []
        for job in jobs:
            run.progress(f"export: {job.city}")
            written += _write_city(job, names, _folder(job, out))
        return written


def plan_export(
    run: Run,
    formats: Sequence[str] = DEFAULT_FORMATS,
    *,
    out: str | Path | None = None,
    cities: Sequence[str] = (),
    options: ExportOptions | None = None,
) -> str:
    """What :func:`export_run` would write, a line a file; reads no pixel and writes nothing.

    Raises
    ------
    ConfigError, StoreError
        As :func:`export_run`, but for files that are there: they are marked.
    """
    lines = []
    for job in _jobs(run, formats, cities, options or ExportOptions()):
        for name in dict.fromkeys(formats):
            form = FORMATS[name]
            of = f" of {_described(job, form.prefer)}" if form.prefer else ""
            paths = (_folder(job, out) / file for file in form.files)
            lines += [
                f"{path}: {form.summary}{of}{', exists' if path.exists() else ''}" for path in paths
            ]
    return "\n".join(lines)


def map_tags(store: str | Path, catalog: Catalog) -> dict[str, str]:
    """What is said of a map in every export: no date and no host name; reads the store.

    Parameters
    ----------
    store : str or pathlib.Path
        The map's store, whose root says what it was made from, whatever the city file says today.
    catalog : Catalog
        Of the run: its items name the authors of labels and the years of layers.

    Returns
    -------
    dict of str to str
        Version, id, year of the layers, inputs, authors and licences of the labels and of what
        rules read, and which map it is (``LCZCUBE_MAP``, :func:`lczcube.products.store_digest`).
    """
    told = manifest(store)
    inputs: Mapping[str, Mapping[str, Any]] = told["inputs"]
    labels = inputs_of(told, "labels", "rules")
    notes = dict.fromkeys(of["license_note"] for of in inputs.values() if of["license_note"])
    tags = {
        "TIFFTAG_SOFTWARE": f"lczcube {told['lczcube_version']}",
        "LCZCUBE_ID": told["id"],
        MAP_TAG: store_digest(store),
        YEAR_TAG: ", ".join(map(str, _years(told, catalog))),
        "FEATURES": ", ".join(inputs_of(told, "features")),
        "LABELS": ", ".join(inputs_of(told, "labels")),
        "RULES": ", ".join(inputs_of(told, "rules")),
        "LABEL_AUTHORS": "; ".join(_authors(_items(told, catalog, labels))),
        "LABEL_LICENSES": "; ".join(f"{name}: {inputs[name]['license']}" for name in labels),
        "LICENSE_NOTES": " ".join(notes),
        "AI_DERIVED_INPUTS": ", ".join(name for name, of in inputs.items() if of["ai_derived"]),
        "SYNTHETIC": "yes" if told["synthetic"] else "",
    }
    return {key: value for key, value in tags.items() if value}


def _years(told: Mapping[str, Any], catalog: Catalog) -> list[int]:
    """The year of the run, or where it has none those of the layers."""
    year = told["settings"]["run"]["year"]
    return [year] if year else years_of(_items(told, catalog, inputs_of(told, "features")))


def _items(told: Mapping[str, Any], catalog: Catalog, names: Sequence[str]) -> list[pystac.Item]:
    """Items of inputs that a map was made from, as far as the catalog still has them."""
    return [
        item
        for name in names
        if name in catalog.collection_ids
        for item in catalog.items(name)
        if item.id in told["inputs"][name]["items"]
    ]


def _authors(items: Sequence[pystac.Item]) -> list[str]:
    """Producers that items name, each once."""
    providers = [of for item in items for of in item.properties.get("providers", ())]
    return list(dict.fromkeys(str(provider["name"]) for provider in providers))


def _jobs(
    run: Run, formats: Sequence[str], cities: Sequence[str], options: ExportOptions
) -> list[CityExport]:
    """A job a city; refuses what cannot be exported before anything is written."""
    for kind, asked, held in (("format", formats, FORMATS), ("city", cities, run.cities)):
        unknown = [name for name in asked if name not in held]
        if unknown or (kind == "format" and not asked):
            raise ConfigError(
                f"{kind} {', '.join(map(repr, unknown)) or 'none'}: choose of {', '.join(held)}."
            )
    if "ucp" in formats and options.heights is None:
        raise ConfigError("format 'ucp' reads building heights; name a raster with --heights.")
    jobs = [CityExport(run, city, options) for city in cities or run.cities]
    for job in jobs:
        for name in formats:
            prefer = FORMATS[name].prefer
            if prefer is not None:
                job.plain_map(prefer=prefer)
    return jobs


def _folder(job: CityExport, out: str | Path | None) -> Path:
    return job.run.path(job.city, EXPORTS) if out is None else Path(out) / job.city


def _targets(job: CityExport, formats: Sequence[str], out: str | Path | None) -> list[Path]:
    return [_folder(job, out) / file for name in formats for file in FORMATS[name].files]


def _write_city(job: CityExport, formats: Sequence[str], folder: Path) -> list[Path]:
    """Write all files to a folder beside their places, then move them there one by one."""
    partial_folder = folder / ".partial"
    shutil.rmtree(partial_folder, ignore_errors=True)  # of a call that was killed
    partial_folder.mkdir(parents=True)
    try:
        for name in formats:
            job.run.progress(f"export: {job.city} {name}")
            FORMATS[name].write(job, partial_folder)
        return [
            (partial_folder / file).replace(folder / file)
            for name in formats
            for file in FORMATS[name].files
        ]
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)


def _described(job: CityExport, prefer: str) -> str:
    lcz_map = job.plain_map(prefer=prefer)
    rows, columns = lcz_map.geobox.shape
    return f"{job.group(prefer=prefer)}, {rows} x {columns} pixels of {lcz_map.pixel_m:g} m"


def _listed(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return ", ".join(map(str, paths[:3])) + more


def _cog(job: CityExport, folder: Path) -> None:
    write_map_cog(job.map(), folder / "lcz.tif")


def _at_100m(job: CityExport, folder: Path) -> None:
    write_100m(job.map(), folder / "lcz_100m.tif", smoothing="gaussian")
    write_100m(job.map(), folder / "lcz_100m_mode.tif", smoothing="mode")


def _generator(job: CityExport, folder: Path) -> None:
    write_generator(job.map(), folder / "lcz_generator.tif")


def _geoparquet(job: CityExport, folder: Path) -> None:
    write_cells(job.map(prefer="cells"), folder / "lcz_cells.parquet")


def _qgis(_: CityExport, folder: Path) -> None:
    write_qml(folder / "lcz.qml")
    write_clr(folder / "lcz.clr")


def _png(job: CityExport, folder: Path) -> None:
    lcz_map = job.map()
    tags = lcz_map.tags
    year = f" {tags[YEAR_TAG]}" if YEAR_TAG in tags else ""
    made_up = " (synthetic data)" if "SYNTHETIC" in tags else ""
    title = f"Local Climate Zones, {job.city}{year}{made_up}"
    crs = str(lcz_map.geobox.crs)
    labelled = ", ".join(tags[key] for key in ("LABELS", "RULES") if key in tags)
    note = f"{crs}. {tags['TIFFTAG_SOFTWARE']}; labels {labelled}."
    panel = {f"{lcz_map.pixel_m:g} m": lcz_map.data}
    write_map_png(panel, folder / "lcz.png", title=title, note=note)


def _wrf(job: CityExport, folder: Path) -> None:
    options = job.options
    write_wrf_map(job.map(), folder / "lcz_wrf.tif", fill=options.fill, margin_km=options.margin_km)


def _ucp(job: CityExport, folder: Path) -> None:
    options = job.options
    if options.heights is None:
        raise ConfigError("format 'ucp' reads building heights; name a raster with --heights.")
    found = building_parameters(
        job.map(), options.heights, scratch=folder, min_area_km2=options.min_area_km2
    )
    found.write(folder / "ucp.csv")


def _kml(job: CityExport, folder: Path) -> None:
    run = job.run
    names = run.table.labels
    authors = _authors([item for name in names for item in run.catalog.items(name)])
    licenses = (f"{name}: {run.catalog.layer(name).license}" for name in names)
    said = {"labels": ", ".join(names), "authors": "; ".join(authors)}
    said["licenses"] = "; ".join(licenses)
    note = ". ".join(f"{key}: {value}" for key, value in said.items() if value)
    try:
        write_training_areas(
            run.labels(job.city),
            folder / "training_areas.kml",
            thin_m=job.options.thin_m,
            name=f"{job.city} training areas",
            note=note,
        )
    except LabelError as error:
        raise LabelError(f"city {job.city!r}: {error}") from error


FORMATS: Mapping[str, Format] = {
    "cog": Format("GeoTIFF with colours and names", ("lcz.tif", "lcz.tif.aux.xml"), _cog),
    "generator": Format(
        "three bands, EPSG:4326", ("lcz_generator.tif", "lcz_generator.tif.aux.xml"), _generator
    ),
    "100m": Format(
        "100 m, by the WUDAPT filter and by mode",
        (
            "lcz_100m.tif",
            "lcz_100m.tif.aux.xml",
            "lcz_100m_mode.tif",
            "lcz_100m_mode.tif.aux.xml",
        ),
        _at_100m,
    ),
    "geoparquet": Format("GeoParquet", ("lcz_cells.parquet",), _geoparquet, "cells"),
    "qgis": Format("style and colours", ("lcz.qml", "lcz.clr"), _qgis, None),
    "png": Format("picture", ("lcz.png",), _png),
    "wrf": Format("map for w2w", ("lcz_wrf.tif", "lcz_wrf.tif.aux.xml"), _wrf),
    "ucp": Format("canopy parameters for w2w", ("ucp.csv", "ucp_sources.csv"), _ucp),
    "kml": Format("training areas", ("training_areas.kml",), _kml, None),
}
"""By name, as ``lczcube export --what`` takes them."""
