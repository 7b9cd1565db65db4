"""Errors of lczcube: each is also the built-in a caller would catch.

Every message says what was wrong (with the value), which rule it breaks, and what to do.
"""


class LczcubeError(Exception):
    """Anything lczcube refuses. ``exit_status`` is what the command line exits with."""

    exit_status = 1


class ConfigError(LczcubeError, ValueError):
    """A setting in a TOML or YAML file, or an option, that cannot be used."""

    exit_status = 2


class GridError(LczcubeError, ValueError):
    """A grid that breaks a rule: pixel, cell, stride, chunk, anchor or CRS."""

    exit_status = 2


class GridMismatchError(GridError):
    """Two things that must lie on one grid and do not."""

    exit_status = 1


class MissingInputError(LczcubeError, FileNotFoundError):
    """A file, folder or catalog that is not there."""


class SourceError(LczcubeError, ValueError):
    """A publisher's file that cannot be registered as it is."""


class CatalogError(LczcubeError, ValueError):
    """A catalog that cannot answer what was asked of it."""


class LabelError(LczcubeError, ValueError):
    """Labels that are not LCZ codes, or that do not serve the purpose."""


class ModelError(LczcubeError, ValueError):
    """A model that may not be used on these features, or cannot be trained on these labels."""


class StoreError(LczcubeError, ValueError):
    """A Zarr store or a run folder that is not what was asked for."""


class StageError(LczcubeError, RuntimeError):
    """A stage whose input, the output of an earlier stage, is not there."""


class MemoryBudgetError(LczcubeError, MemoryError):
    """A plan whose projected peak is over the memory budget."""


class MissingExtraError(LczcubeError, ImportError):
    """An optional package that a stage needs and that is not installed."""
