"""A small synthetic world and runs of it, in seconds."""

from pathlib import Path

import pytest

from lczcube.cli import main
from lczcube.synth import write_world


def write_small_world(folder: Path, *, cities: int = 1, years: tuple[int, ...] = (2021,)) -> Path:
    """A city file of a world of 1.6 km: XGBoost of five rounds, and nothing beside it."""
    write_world(folder, cities=cities, km=1.6, seed=7, year=years[0])
    text = (folder / "world.toml").read_text()
    text = text.replace('["xgb", "unet"]', '["xgb"]\nbaselines = []')
    config = folder / "small.toml"
    config.write_text(text + "\n[xgb]\nrounds = 5\nmax_depth = 3\n")
    return config


def lczcube(*arguments: str | Path) -> int:
    """Exit status of a command run in this process."""
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    return int(exit_.value.code or 0)
