"""Optional packages of the models, imported when a model is fitted or used."""

from importlib import import_module
from types import ModuleType

from lczcube.errors import MissingExtraError


def import_extra(module: str, *, extra: str) -> ModuleType:
    """The module ``module``, which the extra ``extra`` of lczcube installs.

    Raises
    ------
    MissingExtraError
        If it is not installed, with the command that installs it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{module} is not installed; this needs it: pip install 'lczcube[{extra}]'"
        ) from error
