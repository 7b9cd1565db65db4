"""Write a synthetic world: tiles of codes, the true maps, labelled patches, and what they are."""

import json
import math
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import rasterio
from affine import Affine
from rasterio.shutil import copy as copy_raster
from rasterio.windows import Window as RasterWindow
from shapely import box

from lczcube import lcz
from lczcube.errors import ConfigError, StoreError
from lczcube.grid import BBox, Grid
from lczcube.synth import bayes
from lczcube.synth.embedding import (
    N_BANDS,
    NODATA_CODE,
    TWINS,
    Difficulty,
    EmbeddingModel,
    embedding_model,
)
from lczcube.synth.labels import MIN_SHARE, PATCH_M, Patch, draw_patches, splits
from lczcube.synth.zones import PIXEL_M, Window, ZoneMap, zone_map

MIN_KM = 1.5
MAX_CITIES = 30
BLOCK_PX = 64
HALO_PX = 48
OVERLAP_PX = 16
CHUNK_CELLS = 5
N_DRAWS = 100_000

_FORMAT = 1
_PART_PX = 256
_KM_PER_DEGREE = 111.2


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
        Embedding tiles, south-up, by name.
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
    """

    path: Path
    config: Path
    description: Path
    seed: int
    year: int
    cities: tuple[WorldCity, ...]
    bayes_accuracy: float


@dataclass(frozen=True, eq=False)
class _City:
    number: int
    name: str
    bbox: BBox
    grid: Grid
    zone_map: ZoneMap
    patches: list[Patch]


def write_world(
    out: str | Path,
    *,
    cities: int = 2,
    km: float = 6.0,
    seed: int = 7,
    year: int = 2021,
    tile_px: int = 256,
    difficulty: Difficulty | None = None,
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
    _require_parameters(cities=cities, km=km, seed=seed, year=year, tile_px=tile_px)
    parameters = {
        "cities": cities,
        "km": float(km),
        "seed": seed,
        "year": year,
        "tile_px": tile_px,
        "difficulty": asdict(difficulty),
    }
    drawn = [_city(number, km=km, seed=seed) for number in range(cities)]
    if not _is_written(out, parameters):
        _write(out, drawn, parameters, embedding_model(difficulty, n_cities=cities, seed=seed))
    return _world(out, drawn, parameters)


def _require_parameters(*, cities: int, km: float, seed: int, year: int, tile_px: int) -> None:
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


def _city(number: int, *, km: float, seed: int) -> _City:
    is_north = number % 2 == 0
    turn = number // 2 + 1
    name = "synthetic_" + ("north" if is_north else "south") + (f"_{turn}" if turn > 1 else "")
    bbox = _bbox(number, km)
    grid = Grid.from_bbox(bbox, chunk_cells=CHUNK_CELLS)
    truth = zone_map(grid, np.random.default_rng([seed, number, 10]))
    patches = draw_patches(truth, np.random.default_rng([seed, number, 11]))
    return _City(number, name, bbox, grid, truth, patches)


def _bbox(number: int, km: float) -> BBox:
    """A place in zone 32N, 39S, 46N, 53S ... away from the zone's edge and its middle."""
    zone = (31 + 7 * number) % 60 + 1
    lon = zone * 6 - 183 + 1.3
    lat = 48.1 - number % 15 if number % 2 == 0 else -26.2 - number % 15
    half_lat = km / 2 / _KM_PER_DEGREE
    half_lon = half_lat / math.cos(math.radians(lat))
    west, east, south, north = lon - half_lon, lon + half_lon, lat - half_lat, lat + half_lat
    return round(west, 5), round(south, 5), round(east, 5), round(north, 5)


def _is_written(out: Path, parameters: dict[str, Any]) -> bool:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    try:
        found = json.loads((out / "world.json").read_text())
    except (OSError, ValueError) as error:
        raise StoreError(f"{out} is there and is no synthetic world; name a new folder.") from error
    if (found.get("format"), found.get("parameters")) != (_FORMAT, parameters):
        raise StoreError(
            f"{out} holds a synthetic world of other parameters (seed {found.get('seed')}); "
            "name a new folder, or delete it."
        )
    return True


def _write(
    out: Path, cities: list[_City], parameters: dict[str, Any], model: EmbeddingModel
) -> None:
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for city in cities:
        for path, window in _tiles(partial, city, parameters):
            _write_tile(path, window, city, model, parameters["year"])
        _write_truth(_truth_path(partial, city), city, parameters["seed"])
        _write_labels(_labels_path(partial, city), city, parameters["seed"])
    (partial / "world.toml").write_text(_toml(cities, parameters))
    description = json.dumps(_description(cities, parameters, model), indent=2) + "\n"
    (partial / "world.json").write_text(description)
    os.replace(partial, out)


def _world(out: Path, cities: list[_City], parameters: dict[str, Any]) -> World:
    description = json.loads((out / "world.json").read_text())
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
                tiles=tuple(sorted(path for path, _ in _tiles(out, city, parameters))),
                truth=_truth_path(out, city),
                labels=_labels_path(out, city),
            )
            for city in cities
        ),
        bayes_accuracy=float(description["bayes"]["accuracy"]),
    )


def _tiles(out: Path, city: _City, parameters: dict[str, Any]) -> list[tuple[Path, Window]]:
    """Path and pixels of each tile; they reach past the city and overlap by 16 pixels."""
    side = parameters["tile_px"]
    step = side - OVERLAP_PX
    covered = city.zone_map.window.grown(HALO_PX)
    epsg = int(city.grid.crs.removeprefix("EPSG:"))
    utm = f"{epsg % 100}{'N' if epsg < 32700 else 'S'}"
    folder = out / "alphaearth" / city.name / "annual" / str(parameters["year"]) / utm
    prefix = f"synthetic{utm.lower()}seed{parameters['seed']}"
    height, width = covered.shape
    found = []
    for y in range(0, max(1, height - OVERLAP_PX), step):
        for x in range(0, max(1, width - OVERLAP_PX), step):
            west, south = covered.x0 + x, covered.y0 + y
            window = Window(west, south, west + side, south + side)
            found.append((folder / f"{prefix}-{y:010d}-{x:010d}.tiff", window))
    return found


def _truth_path(out: Path, city: _City) -> Path:
    return out / "truth" / f"{city.name}_lcz.tif"


def _labels_path(out: Path, city: _City) -> Path:
    return out / "labels" / f"{city.name}.parquet"


def _write_tile(path: Path, window: Window, city: _City, model: EmbeddingModel, year: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = window.shape
    profile = {
        "driver": "GTiff",
        "dtype": "int8",
        "count": N_BANDS,
        "height": height,
        "width": width,
        "crs": city.grid.crs,
        "transform": Affine(PIXEL_M, 0, window.x0 * PIXEL_M, 0, PIXEL_M, window.y0 * PIXEL_M),
        "nodata": NODATA_CODE,
        "interleave": "band",
        "tiled": True,
        "blockxsize": BLOCK_PX,
        "blockysize": BLOCK_PX,
        "compress": "zstd",
        "zstd_level": 3,
        "bigtiff": "if_safer",
    }
    with rasterio.open(path, "w", **profile) as tile:
        tile.update_tags(**_tags(model.seed), year=str(year))
        tile.descriptions = tuple(f"A{band:02d}" for band in range(N_BANDS))
        for part in window.parts(_PART_PX):
            codes = model.codes(city.zone_map, city.number, part)
            tile.write(codes, window=_raster_window(part, window))


def _write_truth(path: Path, city: _City, seed: int) -> None:
    """A striped north-up draft, then the COG with its colour table and overviews."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft.tif")
    window, grid = city.zone_map.window, city.grid
    height, width = window.shape
    profile = {
        "driver": "GTiff",
        "dtype": "uint8",
        "count": 1,
        "height": height,
        "width": width,
        "crs": grid.crs,
        "transform": grid.geobox.affine,
        "nodata": lcz.NODATA,
    }
    with rasterio.open(draft, "w", **profile) as truth:
        truth.update_tags(**_tags(seed))
        truth.descriptions = ("lcz",)
        truth.write_colormap(
            1, {code: tuple(rgb) for code, rgb in enumerate(lcz.colors().tolist())}
        )
        for part in window.parts(_PART_PX * 4):
            top = window.y1 - part.y1
            place = RasterWindow(part.x0 - window.x0, top, part.shape[1], part.shape[0])
            truth.write(city.zone_map.truth(part)[::-1], 1, window=place)
    copy_raster(
        draft, path, driver="COG", compress="deflate", blocksize=128, overview_resampling="mode"
    )
    draft.unlink()


def _write_labels(path: Path, city: _City, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    patches = city.patches
    columns = {
        "id": [f"{city.name}/{n:06d}" for n in range(len(patches))],
        "lcz": np.array([p.lcz for p in patches], dtype=np.uint8),
        "x0": np.array([p.x0 for p in patches], dtype=np.float64),
        "y0": np.array([p.y0 for p in patches], dtype=np.float64),
        "site": [f"{city.name}/site-{p.site:04d}" for p in patches],
        "split": splits(patches),
        "source": [f"synthetic world, seed {seed}"] * len(patches),
        "synthetic": [True] * len(patches),
    }
    squares = [box(p.x0, p.y0 - PATCH_M, p.x0 + PATCH_M, p.y0) for p in patches]
    frame = gpd.GeoDataFrame(columns, geometry=squares, crs=city.grid.crs)
    frame.to_parquet(path, index=False)


def _raster_window(part: Window, whole: Window) -> RasterWindow:
    """Place of a part in a south-up raster."""
    return RasterWindow(part.x0 - whole.x0, part.y0 - whole.y0, part.shape[1], part.shape[0])


def _tags(seed: int) -> dict[str, str]:
    return {"SYNTHETIC": "true", "source": f"lczcube synthetic world, seed {seed}: not real"}


def _toml(cities: list[_City], parameters: dict[str, Any]) -> str:
    seed, year = parameters["seed"], parameters["year"]
    tables = "\n".join(f"[city.{c.name}]\nbbox = {list(c.bbox)}\n" for c in cities)
    return f"""\
# SYNTHETIC: a made-up world, written by `lczcube synth` with seed {seed}. Nothing here is real.
id = "synthetic-{seed}"
title = "Synthetic world, seed {seed}"

{tables}
[grid]
pixel_m = {PIXEL_M}
cell_m = {PATCH_M}
chunk_cells = {CHUNK_CELLS}

# SYNTHETIC embedding in AlphaEarth's format; another seed is another product.
[[input]]
name = "alphaearth"
source = "raster"
layer = "embedding"
product = "synthetic-alphaearth/{seed}"
decoder = "signed_square"
valid = "all_bands_nodata"
synthetic = true
href = "alphaearth/{{city}}/annual/{{year}}/*/*.tiff"
years = [{year}]
title = "Synthetic embedding"
license = "CC0-1.0"

# SYNTHETIC labels: squares that overlap as So2Sat's do.
[[input]]
name = "patches"
source = "patches"
synthetic = true
href = "labels/{{city}}.parquet"
class_column = "lcz"
x0_column = "x0"
y0_column = "y0"
size_m = {PATCH_M}
group_column = "site"
split_column = "split"
id_column = "id"
title = "Synthetic labels"
license = "CC0-1.0"

[propagate]
donors = "all"
k = 10
min_confidence = 0.8
exclude_eval_m = {PATCH_M}

[run]
features = ["alphaearth"]
labels = ["patches"]
year = {year}
split = "polygon"
folds = 5
seed = {seed}
models = ["xgb", "unet"]
"""


def _description(
    cities: list[_City], parameters: dict[str, Any], model: EmbeddingModel
) -> dict[str, Any]:
    per_city = [_describe_city(city, model, parameters["seed"]) for city in cities]
    n_pure = [c["n_pure_cells"] for c in per_city]
    weights = n_pure if sum(n_pure) else None
    observed = [c["ideal_observer_right"] for c in per_city]
    return {
        "format": _FORMAT,
        "synthetic": True,
        "seed": parameters["seed"],
        "product": f"synthetic-alphaearth/{parameters['seed']}",
        "parameters": parameters,
        "bayes": {
            "accuracy": _rounded(
                np.average([c["bayes_accuracy"] for c in per_city], weights=weights)
            ),
            "accuracy_seeing_blocks": _rounded(
                np.average([c["bayes_accuracy_seeing_blocks"] for c in per_city], weights=weights)
            ),
            "observed_on_this_world": _rounded(sum(observed) / sum(n_pure))
            if sum(n_pure)
            else None,
            "unit": "cell",
            "population": "cells of 320 m that one class fills, of all cities together, on the "
            "default grid",
            "n_cells": sum(n_pure),
            "n_draws_per_city": N_DRAWS,
            "method": "Monte Carlo of an observer who knows, for each city, class means, "
            "covariance and class shares, and sees the mean latent vector of one cell before "
            "noise, normalisation and quantisation: argmax of log(share) - squared Mahalanobis "
            "distance / 2. A rule that also reads the cells beside may do better.",
        },
        "signatures": _describe_signatures(model),
        "cities": {city.name: told for city, told in zip(cities, per_city, strict=True)},
    }


def _describe_city(city: _City, model: EmbeddingModel, seed: int) -> dict[str, Any]:
    cells = bayes.pure_cells(model, city.zone_map, city.number, city.grid)
    means, variance = model.means[city.number], bayes.cell_variance(model)
    share = bayes.class_share(cells.lcz)
    given = bayes.observe(cells.latent, means, share, variance)
    accuracies = [
        bayes.expected_accuracy(
            means, share, v, n_draws=N_DRAWS, rng=np.random.default_rng([seed, city.number, 12])
        )
        for v in (variance, bayes.cell_variance(model, weigh_blocks=True))
    ]
    return {
        "bbox": list(city.bbox),
        "grid": city.grid.to_dict(),
        "n_pure_cells": int(cells.lcz.size),
        "pure_cells_per_class": _counts(cells.lcz),
        "bayes_accuracy": _rounded(accuracies[0]),
        "bayes_accuracy_seeing_blocks": _rounded(accuracies[1]),
        "ideal_observer_right": int((given == cells.lcz).sum()),
        "n_patches": len(city.patches),
        "n_sites": len({p.site for p in city.patches}),
        "patches_per_class": _counts(np.array([p.lcz for p in city.patches], dtype=np.uint8)),
        "least_share_of_a_patch": MIN_SHARE,
    }


def _describe_signatures(model: EmbeddingModel) -> dict[str, Any]:
    """Nearest other class and its distance, in standard deviations of a cell, first city."""
    scaled = model.means[0] / np.sqrt(bayes.cell_variance(model))
    apart = np.linalg.norm(scaled[:, None] - scaled[None], axis=-1)
    np.fill_diagonal(apart, np.inf)
    return {
        "unit": "standard deviations of a cell's mean latent vector, in the first city",
        "twins": [list(pair) for pair in TWINS],
        "nearest": {
            str(code): {"lcz": int(row.argmin()) + 1, "distance": _rounded(row.min(), 2)}
            for code, row in enumerate(apart, start=1)
        },
    }


def _counts(codes: np.ndarray[Any, np.dtype[np.uint8]]) -> dict[str, int]:
    values, counts = np.unique(codes, return_counts=True)
    return {str(v): int(n) for v, n in zip(values, counts, strict=True)}


def _rounded(value: float, digits: int = 4) -> float:
    return round(float(value), digits)
