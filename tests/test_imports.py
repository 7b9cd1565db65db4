import subprocess
import sys

import lczcube

HEAVY = (
    "torch",
    "xgboost",
    "numba",
    "pynndescent",
    "distributed",
    "matplotlib",
    "sklearn",
    "scipy",
    "pandas",
    "geopandas",
    "rasterio",
    "xarray",
    "dask",
    "zarr",
    "pydantic",
)

MOST_MODULES_OF_PACKAGE = 60
"""Modules that ``import lczcube`` may add to a bare interpreter; 29 when this was written."""

MOST_MODULES_OF_HELP = 260
"""Modules that ``lczcube --help`` may add; 187 when this was written, 99 of them cyclopts'."""


def modules_added_by(statement: str) -> set[str]:
    """Names in ``sys.modules`` that a statement adds in a fresh interpreter."""
    program = (
        "import sys\nbefore = set(sys.modules)\n"
        f"{statement}\n"
        "print('\\nADDED', *sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split()[1:])


HELP = """
from lczcube.cli import main
try:
    main(["--help"])
except SystemExit as end:
    assert not end.code, end.code"""


def test_importing_the_package_loads_nothing_heavy() -> None:
    added = modules_added_by("import lczcube")
    assert added.isdisjoint(HEAVY)
    assert len(added) <= MOST_MODULES_OF_PACKAGE


def test_the_help_of_the_command_line_loads_nothing_heavy() -> None:
    added = modules_added_by(HELP)
    assert added.isdisjoint(HEAVY)
    assert len(added) <= MOST_MODULES_OF_HELP


def test_stage_functions_load_no_model_library_until_they_are_called() -> None:
    added = modules_added_by(f"from lczcube import {', '.join(lczcube.__all__)}")
    assert added.isdisjoint({"torch", "xgboost", "numba", "pynndescent", "matplotlib"})


def test_every_public_name_resolves_to_an_object_of_that_name_whatever_was_imported() -> None:
    for _ in range(2):  # importing a submodule sets an attribute of the package
        for name in lczcube.__all__:
            assert getattr(lczcube, name).__name__ == name


def test_public_names_are_listed_sorted_and_once() -> None:
    assert lczcube.__all__ == sorted(set(lczcube.__all__), key=lambda n: (n.islower(), n))
    assert set(dir(lczcube)) == {*lczcube.__all__, "__version__"}


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(lczcube, "open_everything")
