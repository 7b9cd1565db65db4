"""A made-up world whose true map is known, in the publishers' formats."""

from lczcube.synth.aef_index import write_aef_index
from lczcube.synth.city import City, draw_city
from lczcube.synth.embedding import Difficulty
from lczcube.synth.open_buildings import write_open_buildings
from lczcube.synth.tessera import write_tessera
from lczcube.synth.training_areas import write_training_areas
from lczcube.synth.world import World, WorldCity, write_world

__all__ = [
    "City",
    "Difficulty",
    "World",
    "WorldCity",
    "draw_city",
    "write_aef_index",
    "write_open_buildings",
    "write_tessera",
    "write_training_areas",
    "write_world",
]
