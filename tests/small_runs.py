"""A small synthetic world and runs of it, in seconds."""

from pathlib import Path

import pytest

from lczcube.cli import main
from lczcube.synth import write_world


def write_small_world(folder: Path, layers: tuple[str, ...] = ("alphaearth",)) -> Path:
    """A city file of a city of 1.6 km: XGBoost of five rounds, and nothing beside it."""
    write_world(folder, cities=1, km=1.6, seed=7, layers=layers)
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


def map_cities(config: Path, folder: Path) -> Path:
    """A run folder with maps and models, not evaluated."""
    for stage in ("build-catalog", "cube", "aggregate", "propagate", "train", "predict"):
        assert lczcube(stage, folder, "--config", config) == 0
    return folder
