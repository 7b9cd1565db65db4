from pathlib import Path

import pytest

from lczcube.cli import main
from lczcube.plans import MOST_FILES_LISTED, plan_catalog, plan_world
from lczcube.synth import write_world


def lczcube(*arguments: str | Path) -> int:
    """Exit status of a command run in this process."""
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    return int(exit_.value.code or 0)


def catalog_file(folder: Path, *hrefs: str) -> Path:
    """A catalog file of one input."""
    path = folder / "catalog.toml"
    path.write_text(
        f'id = "x"\n[[input]]\nname = "a"\nsource = "raster"\nyear = 2024\nhref = {list(hrefs)}\n'
    )
    return path


def test_a_plan_of_a_catalog_lists_files_with_their_sizes_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one.tif").write_bytes(b"x" * 2048)  # no raster: a plan opens no file
    (tmp_path / "two.tif").write_bytes(b"x" * 1024)
    assert (
        lczcube("build-catalog", catalog_file(tmp_path, "*.tif"), tmp_path / "out", "--dry-run")
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "a (raster): 2 of 2 files found, 3.00 kiB",
        f"      2.00 kiB  {tmp_path / 'one.tif'}",
        f"      1.00 kiB  {tmp_path / 'two.tif'}",
        f"would write {tmp_path / 'out'}: catalog.json and 1 collection",
    ]
    assert not (tmp_path / "out").exists()


def test_files_that_are_not_there_are_shown_as_missing_and_the_status_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one.tif").write_bytes(b"x")
    config = catalog_file(tmp_path, "one.tif", "none.tif")
    assert lczcube("build-catalog", config, tmp_path / "out", "--dry-run") == 1
    out = capsys.readouterr().out
    assert "a (raster): 1 of 2 files found, 1 B" in out
    assert f"       missing  {tmp_path / 'none.tif'}" in out


def test_a_remote_file_is_listed_and_not_asked_for(tmp_path: Path) -> None:
    plan = plan_catalog(catalog_file(tmp_path, "https://example.org/a.tif"), tmp_path / "out")
    assert plan.text.splitlines()[:2] == [
        "a (raster): 1 remote of unknown size",
        "             ?  https://example.org/a.tif",
    ]
    assert plan.n_missing == 0


def test_a_long_list_of_files_is_cut_and_says_how_many_more(tmp_path: Path) -> None:
    for number in range(MOST_FILES_LISTED + 3):
        (tmp_path / f"{number:02d}.tif").write_bytes(b"x")
    text = plan_catalog(catalog_file(tmp_path, "*.tif"), tmp_path / "out").text
    assert text.count(".tif") == MOST_FILES_LISTED
    assert "… and 3 more" in text


def test_a_plan_of_a_world_is_near_to_what_is_written(tmp_path: Path) -> None:
    text = plan_world(tmp_path / "world", cities=1, km=5.0, seed=7)
    assert not (tmp_path / "world").exists()
    world = write_world(tmp_path / "world", cities=1, km=5.0, seed=7)
    planned = float(text.split("alphaearth: ")[1].split(" MiB")[0])
    written = len(world.cities[0].tiles) * 4  # 256 x 256 x 64 is 4 MiB
    assert 0.5 * written < planned < 1.5 * written


def test_a_world_that_cannot_be_is_refused_by_its_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lczcube("synth", tmp_path / "world", "--km", "0.2", "--dry-run") == 2
    assert "km = 0.2: a city needs at least 1.5 km" in capsys.readouterr().err
