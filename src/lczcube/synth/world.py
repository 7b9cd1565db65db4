"""Write a synthetic world: tiles of codes, the true maps, labelled patches, and what they are."""

import json
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lczcube.errors import ConfigError, StoreError
from lczcube.grid import BBox, Grid
from lczcube.synth.city import City, draw_city
from lczcube.synth.description import FORMAT, city_file, describe
from lczcube.synth.embedding import Difficulty, EmbeddingModel, embedding_model
from lczcube.synth.files import BLOCK_PX, labels_path, tiles, truth_path, write_labels, write_truth
from lczcube.synth.layers import DEFAULT_LAYERS, LAYERS, TESSERA_FOLDER, layers_of

MIN_KM = 1.5
MAX_CITIES = 30


@dataclass(frozen=True)
class WorldCity:
    """A city of a synthetic world and its files.

    Attributes
    ----------
    name : str
        ``synthetic_north``, ``synthetic_south``, ``synthetic_north_2`` ...
    bbox : tuple of float
        ``(minx, miny, maxx, maxy)``, EPSG:4326.
    grid : Grid
        10 m pixels, 320 m cells: the bbox grown to whole cells. Truth and labels lie in it.
    tiles : tuple of Path
        AlphaEarth tiles, south-up, by name; none in a world without that layer.
    truth, labels : Path
        True map (uint8, north-up) and labelled patches (GeoParquet).
    """

    name: str
    bbox: BBox
    grid: Grid
    tiles: tuple[Path, ...]
    truth: Path
    labels: Path


@dataclass(frozen=True)
class World:
    """A written synthetic world.

    Attributes
    ----------
    path, config, description : Path
        The folder, its ``world.toml`` (a city file for ``lczcube run``) and ``world.json``.
    seed, year : int
        As asked for.
    cities : tuple of WorldCity
        Northern and southern by turns.
    bayes_accuracy : float
        Best accuracy of a rule that sees one cell, over pure cells; see ``world.json``.
    tessera : Path or None
        Archive of TESSERA tiles of all cities; None in a world without that layer.
    """

    path: Path
    config: Path
    description: Path
    seed: int
    year: int
    cities: tuple[WorldCity, ...]
    bayes_accuracy: float
    tessera: Path | None = None


def write_world(
    out: str | Path,
    *,
    cities: int = 2,
    km: float = 6.0,
    seed: int = 7,
    year: int = 2021,
    tile_px: int = 256,
    difficulty: Difficulty | None = None,
    layers: Sequence[str] = DEFAULT_LAYERS,
    index: bool = False,
) -> World:
    """Write the inputs of a made-up world, its truth, and the best accuracy there can be.

    Parameters
    ----------
    out : str or Path
        Folder to make. A world of the same parameters that is there already is left as it is.
    cities : int
        1-30; each in a UTM zone of its own, northern and southern hemisphere by turns.
    km : float
        Side of a city, at least 1.5 km. Default 6: the smallest that has room for 12 classes,
        three zones each, and leaves most cells without a label.
    seed : int
        Same seed, same bytes. 0 or more.
    year : int
        Year of the embedding, 2017 or later.
    tile_px : int
        Side of an embedding tile in pixels, a multiple of 64. The publisher's have 8192.
    difficulty : Difficulty, optional
        Default: calibrated to real cities, see :class:`Difficulty`.
    layers : sequence of str
        What to write: names of :data:`lczcube.synth.layers.LAYERS`. All show the same world.
    index : bool
        Also write the publisher's two index files beside the AlphaEarth tiles.

    Returns
    -------
    World

    Raises
    ------
    ConfigError
        If a parameter is out of its range.
    StoreError
        If ``out`` holds anything else.

    Notes
    -----
    Streams: memory does not grow with the area, but for the table of patches. Written into
    ``OUT.partial``, which becomes ``OUT`` when all is there.

    Examples
    --------
    >>> world = write_world("world", km=2, seed=7)  # doctest: +SKIP
    >>> [city.grid.crs for city in world.cities]  # doctest: +SKIP
    ['EPSG:32632', 'EPSG:32739']
    """
    out = Path(out)
    difficulty = difficulty or Difficulty()
    require_parameters(cities=cities, km=km, seed=seed, year=year, tile_px=tile_px)
    require_layers(layers, index=index)
    parameters = {
        "cities": cities,
        "km": float(km),
        "seed": seed,
        "year": year,
        "tile_px": tile_px,
        "difficulty": asdict(difficulty),
    }
    # A world of the default layers keeps the bytes it had before there were others.
    if tuple(layers) != DEFAULT_LAYERS:
        parameters["layers"] = list(layers)
    if index:
        parameters["index"] = True
    drawn = [draw_city(number, km=km, seed=seed) for number in range(cities)]
    if not _is_written(out, parameters):
        _write(out, drawn, parameters, embedding_model(difficulty, n_cities=cities, seed=seed))
    return _world(out, drawn, parameters)


def require_parameters(
    *, cities: int, km: float, seed: int, year: int = 2021, tile_px: int = 256
) -> None:
    """Raise a ConfigError for a parameter of :func:`write_world` that is out of its range."""
    if not 1 <= cities <= MAX_CITIES:
        raise ConfigError(f"cities = {cities}: a world has 1-{MAX_CITIES} cities; ask for 2.")
    if not MIN_KM <= km < math.inf:
        raise ConfigError(
            f"km = {km:g}: a city needs at least {MIN_KM:g} km a side to hold zones and patches; "
            "6 km has room for 12 classes."
        )
    if seed < 0:
        raise ConfigError(f"seed = {seed}: a seed is 0 or more.")
    if not 2017 <= year <= 2100:
        raise ConfigError(f"year = {year}: AlphaEarth begins in 2017; use 2017 or later.")
    if tile_px < BLOCK_PX or tile_px % BLOCK_PX:
        raise ConfigError(
            f"tile_px = {tile_px}: tiles are whole blocks of {BLOCK_PX} pixels; "
            f"use {max(1, round(tile_px / BLOCK_PX)) * BLOCK_PX}."
        )


def require_layers(layers: Sequence[str], *, index: bool = False) -> None:
    """Raise a ConfigError for layers of :func:`write_world` that there are not."""
    unknown = [layer for layer in layers if layer not in LAYERS]
    if unknown or not layers or len(set(layers)) < len(layers):
        raise ConfigError(
            f"layers = {list(layers)}: name one or more of {', '.join(LAYERS)}, each once."
        )
    if index and "alphaearth" not in layers:
        raise ConfigError(
            "index is of AlphaEarth tiles, and layers has none; add alphaearth, or leave index out."
        )


def _is_written(out: Path, parameters: dict[str, Any]) -> bool:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    try:
        found = json.loads((out / "world.json").read_text())
    except (OSError, ValueError) as error:
        raise StoreError(f"{out} is there and is no synthetic world; name a new folder.") from error
    if (found.get("format"), found.get("parameters")) != (FORMAT, parameters):
        raise StoreError(
            f"{out} holds a synthetic world of other parameters (seed {found.get('seed')}); "
            "name a new folder, or delete it."
        )
    return True


def _write(
    out: Path, cities: list[City], parameters: dict[str, Any], model: EmbeddingModel
) -> None:
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for layer in layers_of(parameters):
        LAYERS[layer].write(partial, cities, parameters)
    for city in cities:
        write_truth(truth_path(partial, city), city, parameters["seed"])
        write_labels(labels_path(partial, city), city, parameters["seed"])
    (partial / "world.toml").write_text(city_file(cities, parameters))
    description = json.dumps(describe(cities, parameters, model), indent=2) + "\n"
    (partial / "world.json").write_text(description)
    os.replace(partial, out)


def _world(out: Path, cities: list[City], parameters: dict[str, Any]) -> World:
    description = json.loads((out / "world.json").read_text())
    layers = layers_of(parameters)
    return World(
        path=out,
        config=out / "world.toml",
        description=out / "world.json",
        seed=parameters["seed"],
        year=parameters["year"],
        cities=tuple(
            WorldCity(
                name=city.name,
                bbox=city.bbox,
                grid=city.grid,
                tiles=tuple(sorted(path for path, _ in tiles(out, city, parameters)))
                if "alphaearth" in layers
                else (),
                truth=truth_path(out, city),
                labels=labels_path(out, city),
            )
            for city in cities
        ),
        bayes_accuracy=float(description["bayes"]["accuracy"]),
        tessera=out / TESSERA_FOLDER if "tessera" in layers else None,
    )
