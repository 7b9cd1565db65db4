"""The layers that a synthetic world may hold: what writes them, and their part of its city file."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lczcube.synth.aef_index import write_aef_index
from lczcube.synth.canopy import write_canopy
from lczcube.synth.city import City
from lczcube.synth.embedding import Difficulty, embedding_model
from lczcube.synth.files import tiles, write_tile
from lczcube.synth.lcz_map import write_generator_map
from lczcube.synth.open_buildings import write_open_buildings
from lczcube.synth.osm import write_osm
from lczcube.synth.so2sat import write_so2sat
from lczcube.synth.tessera import write_tessera
from lczcube.synth.training_areas import training_areas_path, write_training_areas

TESSERA_FOLDER = "tessera"
BUILDING_TILE_PX = 2500
"""A tenth of the publisher's."""

DEFAULT_LAYERS = ("alphaearth",)

Parameters = Mapping[str, Any]


@dataclass(frozen=True)
class WorldLayer:
    """A layer of a world.

    Attributes
    ----------
    write : callable
        Writes its files for all cities into the world's folder.
    toml : str
        Its ``[[input]]`` in ``world.toml``, with ``{seed}`` and ``{year}``.
    bytes_per_km2 : int
        About, before compression.
    product : str
        Identity of an embedding, with ``{seed}``; empty for any other layer.
    """

    write: Callable[[Path, Sequence[City], Parameters], None]
    toml: str
    bytes_per_km2: int
    product: str = ""


def layers_of(parameters: Parameters) -> list[str]:
    """Layers of a world; one that does not say has AlphaEarth alone."""
    return list(parameters.get("layers", DEFAULT_LAYERS))


def _write_alphaearth(out: Path, cities: Sequence[City], parameters: Parameters) -> None:
    difficulty = Difficulty(**parameters["difficulty"])
    model = embedding_model(difficulty, n_cities=len(cities), seed=parameters["seed"])
    for city in cities:
        places = tiles(out, city, parameters)
        for path, window in places:
            write_tile(path, window, city, model, parameters["year"])
        if parameters.get("index"):
            write_aef_index(places[0][0].parents[2], city, places, year=parameters["year"])


def _write_tessera(out: Path, cities: Sequence[City], parameters: Parameters) -> None:
    write_tessera(
        out / TESSERA_FOLDER,
        cities,
        seed=parameters["seed"],
        year=parameters["year"],
        difficulty=Difficulty(**parameters["difficulty"]),
    )


def _write_open_buildings(out: Path, cities: Sequence[City], parameters: Parameters) -> None:
    folder = out / "open_buildings"
    seed, year = parameters["seed"], parameters["year"]
    write_open_buildings(folder, cities, seed=seed, year=year, tile_px=BUILDING_TILE_PX)


def _write_canopy(out: Path, cities: Sequence[City], parameters: Parameters) -> None:
    write_canopy(out / "canopy", cities, seed=parameters["seed"])


def _write_osm(out: Path, cities: Sequence[City], parameters: Parameters) -> None:
    for city in cities:
        write_osm(out / "osm" / f"{city.name}.osh.pbf", city, seed=parameters["seed"])


def _write_lcz_maps(out: Path, cities: Sequence[City], parameters: Parameters) -> None:
    for city in cities:
        write_generator_map(out / "lcz_maps", city, seed=parameters["seed"])


def _write_so2sat(out: Path, cities: Sequence[City], parameters: Parameters) -> None:
    write_so2sat(out / "so2sat", cities, seed=parameters["seed"])


def _write_training_areas(out: Path, cities: Sequence[City], parameters: Parameters) -> None:
    for city in cities:
        path = training_areas_path(out, city, year=parameters["year"])
        path.parent.mkdir(parents=True, exist_ok=True)
        write_training_areas(path, city, seed=parameters["seed"])


LAYERS: Mapping[str, WorldLayer] = {
    "alphaearth": WorldLayer(
        _write_alphaearth,
        """\
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

""",
        bytes_per_km2=64 * 100**2,
        product="synthetic-alphaearth/{seed}",
    ),
    "tessera": WorldLayer(
        _write_tessera,
        """\
# SYNTHETIC embedding in TESSERA's format; its tessera_metadata.json says which product it is.
[[input]]
name = "tessera"
source = "tessera"
synthetic = true
href = "tessera"
year = {year}
title = "Synthetic TESSERA"
license = "CC0-1.0"

""",
        bytes_per_km2=(128 + 4) * 100**2,
        product="tessera/0.0/synthetic-{seed}",
    ),
    "canopy": WorldLayer(
        _write_canopy,
        """\
# SYNTHETIC canopy heights in the format of Meta's version 2; a tile has a quarter of its pixels.
[[input]]
name = "canopy"
source = "canopy"
synthetic = true
href = "canopy"
title = "Synthetic canopy heights"
license = "CC0-1.0"

""",
        bytes_per_km2=100_000,
    ),
    "osm": WorldLayer(
        _write_osm,
        """\
# SYNTHETIC OpenStreetMap: full histories, at the start of the year.
[[input]]
name = "osm"
source = "osm"
synthetic = true
href = "osm/{{city}}.osh.pbf"
dates = ["{year}-01-01"]
title = "Synthetic OpenStreetMap"
license = "CC0-1.0"

""",
        bytes_per_km2=40_000,
    ),
    "lcz_map": WorldLayer(
        _write_lcz_maps,
        """\
# SYNTHETIC maps in the format of the LCZ Generator, with stated errors.
[[input]]
name = "lcz_generator"
source = "lcz_map"
synthetic = true
href = "lcz_maps"
year = {year}
title = "Synthetic map of zones"
license = "CC0-1.0"

""",
        bytes_per_km2=300,
    ),
    "open_buildings": WorldLayer(
        _write_open_buildings,
        """\
# SYNTHETIC buildings in the format of Open Buildings 2.5D.
[[input]]
name = "building"
source = "open_buildings"
synthetic = true
manifest = "open_buildings/v1/manifests"
href = "open_buildings/v1/geotiffs"
year = {year}
title = "Synthetic buildings"
license = "CC0-1.0"

""",
        bytes_per_km2=3 * 4 * 2000**2,
    ),
    "so2sat": WorldLayer(
        _write_so2sat,
        """\
# SYNTHETIC patches in the format of So2Sat LCZ42; every second city is held out.
[[input]]
name = "so2sat"
source = "so2sat"
synthetic = true
href = "so2sat"
title = "Synthetic So2Sat"
license = "CC0-1.0"

""",
        bytes_per_km2=5 * 150_000,
    ),
    "training_areas": WorldLayer(
        _write_training_areas,
        """\
# SYNTHETIC training areas as WUDAPT's: a folder a class.
[[input]]
name = "areas"
source = "training_areas"
synthetic = true
href = "training_areas"
title = "Synthetic training areas"
license = "CC0-1.0"

""",
        bytes_per_km2=1000,
    ),
}
"""By name."""
