"""A run: a city file bound to a folder, and what each stage finds there."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import geopandas as gpd
import xarray as xr

from lczcube.catalog import Catalog, open_catalog
from lczcube.config import CityFile, RunTable, read_config
from lczcube.cube import open_cube, shared_inputs
from lczcube.cubestore import is_stored, open_stored_cube, stored_halo_px
from lczcube.errors import CatalogError, ConfigError, LabelError, StoreError
from lczcube.grid import Grid
from lczcube.labels import read_labels
from lczcube.labels.samples import open_samples, read_samples
from lczcube.labels.table import single_class
from lczcube.layers import layer_geobox
from lczcube.products import open_features
from lczcube.runtime import Progress
from lczcube.sources import find_files
from lczcube.sources.files import expand_hrefs, is_remote
from lczcube.trainingdata import CityData, TrainingData
from lczcube.windows import aggregate

RUN_FILE = "run.json"
CUBE_STORE = "cube.zarr"
"""A city's cube, once it was brought home."""

MOST_SAMPLE_BYTES = 256 << 20
"""Parquet tables of samples that are larger in sum are not held in memory."""

PSEUDO_LABELS = "pseudo_labels.parquet"

RULE_LABELS = "rule_labels.parquet"
"""The cells of a city that a rule labelled, with the counts of those that it did not."""


@dataclass(frozen=True)
class Run:
    """A city file bound to a run folder.

    Attributes
    ----------
    config : CityFile
        What to do.
    folder : pathlib.Path
        Where it is done.
    n_threads : int
        Threads of a model's training. Default 1: the same bits on every machine.
    n_concurrent : int
        Tasks that one worker process runs at a time.
    memory : str, optional
        Memory budget of a worker, such as ``4GiB``.
    strict : bool
        Stop at the first broken file instead of going on without it.
    progress : callable
        Told of every step.
    """

    config: CityFile
    folder: Path
    n_threads: int = 1
    n_concurrent: int = 1
    memory: str | None = None
    strict: bool = False
    progress: Progress = lambda _: None

    @property
    def table(self) -> RunTable:
        """The ``[run]`` table.

        Raises
        ------
        ConfigError
            If the file has none: it is a catalog file.
        """
        if self.config.run is None:
            raise ConfigError(
                f"{self.config.source_path.name} has no [run] table; add one with features and "
                "labels, or use build-catalog."
            )
        return self.config.run

    @property
    def cities(self) -> tuple[str, ...]:
        """Names of the cities, sorted."""
        return tuple(sorted(self.config.cities))

    @cached_property
    def catalog(self) -> Catalog:
        """The run's catalog."""
        return open_catalog(self.folder / "catalog" / "catalog.json")

    @cached_property
    def grids(self) -> dict[str, Grid]:
        """The grid of every city."""
        return {city: city_grid(self.config, self.catalog, city) for city in self.cities}

    def path(self, city: str, name: str) -> Path:
        """A file of a city's folder."""
        return self.folder / city / name

    def input_stats(self) -> list[tuple[str, int, int]]:
        """Path, size and modification time (ns) of every local input file, and what lists them."""
        folder = self.config.source_path.parent
        cities = {name: city.bbox for name, city in self.config.cities.items()}
        hrefs: set[str] = set()
        for entry in self.config.inputs:
            named = entry.model_copy(update={"href": entry.places})
            for files in (
                find_files(entry, folder=folder, cities=cities),
                expand_hrefs(named, folder=folder, cities=self.cities),
            ):
                hrefs |= {file.href for file in files if not is_remote(file.href)}
        found = [(href, Path(href).stat()) for href in hrefs if Path(href).exists()]
        return sorted((href, stat.st_size, stat.st_mtime_ns) for href, stat in found)

    @cached_property
    def features(self) -> tuple[str, ...]:
        """The feature inputs: with ``missing = "drop_layer"`` those that every city has."""
        if self.table.missing != "drop_layer":
            return self.table.features
        kept = shared_inputs(
            self.catalog, self.grids, inputs=self.table.features, year=self.table.year
        )
        return tuple(kept)

    def cube(self, city: str, halo_px: int | None = None, year: int | None = None) -> xr.Dataset:
        """The city's lazy cube of the feature inputs: brought home, or of their files.

        In another year than the run's, where one is given.
        """
        store, grid = self.path(city, CUBE_STORE), self.grids[city]
        reach = grid.halo_px if halo_px is None else halo_px
        held = stored_halo_px(store)
        if reach <= held and is_stored(self.cube_of_files(city, held, year), store):
            return open_stored_cube(store, grid=grid, halo_px=reach)
        return self.cube_of_files(city, reach, year)

    def cube_of_files(self, city: str, halo_px: int, year: int | None = None) -> xr.Dataset:
        """The city's lazy cube of the files that its catalog names."""
        try:
            return open_cube(
                self.catalog,
                self.grids[city],
                inputs=self.features,
                year=year or self.table.year,
                halo_px=halo_px,
                nearest_year=self.table.nearest_year,
                missing="indicator" if self.table.missing == "indicator" else "refuse",
                engine=self.table.engine,
            )
        except CatalogError as error:
            raise CatalogError(f"city {city!r}: {error}") from error

    def labels(self, city: str) -> gpd.GeoDataFrame:
        """The city's labels of one class each in its grid's CRS; ``n_sets`` counts the others."""
        boxes = {name: table.bbox for name, table in self.config.cities.items()}
        crs = self.grids[city].crs
        labels = read_labels(self.catalog, self.table.labels, crs=crs, cities=boxes, keep_sets=True)
        return single_class(labels[labels["city"] == city])

    def rule_labels(self, city: str) -> gpd.GeoDataFrame | None:
        """The city's labels by rule, as the stage ``aggregate`` left them; None without [rules]."""
        if self.config.rules is None:
            return None
        return gpd.read_parquet(self.path(city, RULE_LABELS))

    def samples(self, name: str = "samples.parquet") -> dict[str, xr.Dataset]:
        """Samples of every city that has some, in memory; lazy where they are large."""
        paths = {city: self.path(city, name) for city in self.cities}
        found = {city: path for city, path in paths.items() if path.exists()}
        is_large = sum(path.stat().st_size for path in found.values()) > MOST_SAMPLE_BYTES
        read = open_samples if is_large else read_samples
        return {city: read(path) for city, path in found.items()}

    def data(self, city: str) -> CityData:
        """What the models need of a city."""
        return CityData(
            city=city,
            grid=self.grids[city],
            open_cube=lambda halo_px: self.cube(city, halo_px),
            features=open_features(self.path(city, "features.zarr")),
            labels=self.labels(city),
            open_pseudo_labels=lambda: gpd.read_parquet(self.path(city, PSEUDO_LABELS)),
            rule_labels=self.rule_labels(city),
        )

    def data_of_year(self, city: str, year: int) -> CityData:
        """What the models map of a city in a year; features of another than the run's are lazy."""
        data = self.data(city)
        if year == self.table.year:
            return data
        return replace(
            data,
            open_cube=lambda halo_px: self.cube(city, halo_px, year),
            features=aggregate(self.cube(city, None, year), **self.table.features_of_windows),
        )

    def training_data(self) -> TrainingData:
        """What the models of the run learn from.

        Raises
        ------
        LabelError
            If no city has a sample.
        """
        parts = self.samples()
        if not parts:
            raise LabelError(
                f"no city of {self.folder} has a labelled sample; check labels and bbox of the "
                "cities, and run `lczcube aggregate` again."
            )
        return TrainingData(
            config=self.config,
            parts=parts,
            city=self.data,
            pixel_parts=self.samples("pixels.parquet"),
            n_threads=self.n_threads,
        )


def open_run(folder: str | Path, config: str | Path | None = None, **options: Any) -> Run:
    """A run of a folder; the city file is remembered from the first time.

    Parameters
    ----------
    folder : str or pathlib.Path
        The run folder.
    config : str or pathlib.Path, optional
        City file. Default: the one that the folder was made with.
    **options
        Fields of :class:`Run`.

    Raises
    ------
    StoreError
        If the folder belongs to another city file, or to none and ``config`` is not given.
    """
    path = Path(folder).absolute()
    record = read_json(path / RUN_FILE)
    if config is None:
        if "config" not in record:
            raise StoreError(
                f"{folder} is no run folder (it has no {RUN_FILE}); name the city file: "
                f"--config CITY.toml, or `lczcube run CITY.toml {folder}`."
            )
        config = record["config"]
    settings = read_config(config)
    if record.get("id", settings.id) != settings.id:
        raise StoreError(
            f"{folder} holds a run of {record['id']!r} and the city file says {settings.id!r}; "
            "give each its own run folder."
        )
    return Run(settings, path, **options)


def city_grid(config: CityFile, catalog: Catalog, city: str) -> Grid:
    """The grid of a city, as its file says.

    Raises
    ------
    GridError
        If the settings break a rule of the grid, or ``crs`` conflicts with the anchor's.
    """
    table = config.cities[city]
    settings = config.grid
    anchor = (
        None if settings.anchor is None else layer_geobox(catalog, settings.anchor, bbox=table.bbox)
    )
    return Grid.from_bbox(
        table.bbox,
        crs=table.crs,
        anchor=anchor,
        pixel_m=settings.pixel_m,
        cell_m=settings.cell_m,
        stride_m=settings.stride_m,
        chunk_cells=settings.chunk_cells,
    )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty when there is no file."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object as JSON, sorted, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    partial.replace(path)
