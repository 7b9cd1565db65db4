"""A made-up world whose true map is known, in the publishers' formats."""

from lczcube.synth.embedding import Difficulty
from lczcube.synth.world import World, WorldCity, write_world

__all__ = ["Difficulty", "World", "WorldCity", "write_world"]
