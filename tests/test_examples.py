import re
import subprocess
import sys
from pathlib import Path

import pytest

import lczcube
from lczcube.config import read_config
from lczcube.synth import write_world

PROJECT = Path(__file__).parents[1]
EXAMPLES = PROJECT / "examples"
DOCUMENTS = sorted(PROJECT.glob("*.md")) + sorted((PROJECT / "docs").rglob("*.md"))
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
PROJECT_PATH = re.compile(
    r"`((?:src|tests|docs|examples|catalogs|dask_config|benchmarks)/[\w./-]*\w)[`:]"
)


def run_example(name: str, *arguments: str, cwd: Path) -> str:
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def python_blocks(text: str) -> list[str]:
    return [block.strip() for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which examples/city_map.py has run on a small synthetic world."""
    folder = tmp_path_factory.mktemp("example")
    write_world(folder / "demo" / "world", cities=1, km=2.0, seed=7)
    run_example("city_map.py", cwd=folder)
    return folder


def test_the_example_of_a_city_map_writes_a_map(mapped: Path) -> None:
    assert (mapped / "demo" / "lcz.zarr" / "cells" / "lcz").is_dir()


def test_the_areas_of_the_zones_are_those_of_their_cells(mapped: Path) -> None:
    import xarray as xr

    out = run_example("read_map.py", "demo/lcz.zarr", cwd=mapped)
    areas_km2 = [float(line.split()[0]) for line in out.splitlines()]
    lcz = xr.open_zarr(mapped / "demo" / "lcz.zarr", group="cells")["lcz"].values
    assert len(areas_km2) == len(set(lcz[lcz > 0].tolist()))
    # A cell of 320 m is 0.1024 km2; each printed area is rounded to a hundredth.
    assert sum(areas_km2) == pytest.approx(
        0.1024 * int((lcz > 0).sum()), abs=0.005 * len(areas_km2)
    )


def test_the_readme_shows_the_lines_of_the_example() -> None:
    code = (EXAMPLES / "city_map.py").read_text(encoding="utf-8").split('"""', 2)[2].strip()
    assert python_blocks((PROJECT / "README.md").read_text(encoding="utf-8")) == [code]


def test_the_city_file_of_the_readme_is_legal(tmp_path: Path) -> None:
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "mycity.toml").write_text(block, encoding="utf-8")
    assert read_config(tmp_path / "mycity.toml").id == "mycity"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_every_file_that_a_document_names_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    linked = [target for target in LINK.findall(text) if "://" not in target]
    missing = [target for target in linked if not (document.parent / target).exists()]
    missing += [path for path in PROJECT_PATH.findall(text) if not (PROJECT / path).exists()]
    assert missing == []


def test_every_page_is_in_the_navigation_and_no_other() -> None:
    import yaml

    settings = yaml.safe_load((PROJECT / "mkdocs.yml").read_text(encoding="utf-8"))
    pages = {str(path.relative_to(PROJECT / "docs")) for path in (PROJECT / "docs").rglob("*.md")}
    assert set(_leaves(settings["nav"])) == pages


def test_the_reference_lists_every_public_name_and_no_other() -> None:
    text = (PROJECT / "docs" / "reference.md").read_text(encoding="utf-8")
    listed = re.findall(r"^::: lczcube\.([\w.]+)$", text, re.MULTILINE)
    homes = [f"{home}.{name}" for name, home in lczcube._HOMES.items()]
    assert sorted(listed) == sorted(homes)


@pytest.mark.parametrize("name", ["laptop", "slurm", "pbs"])
def test_a_cluster_file_names_a_known_type_and_its_options(name: str) -> None:
    from lczcube.runtime import _cluster_options

    kind, options = _cluster_options(str(PROJECT / "dask_config" / f"{name}.yaml"), None)
    assert kind == {"laptop": "local"}.get(name, name)
    assert options["n_workers"] >= 1


def _leaves(nav: object) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    children = nav.values() if isinstance(nav, dict) else nav
    return [page for child in children for page in _leaves(child)]
