"""Writing that cannot lose: killed, refused, damaged or disturbed, a store ends with its bytes."""

import errno
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr
import zarr
from filelock import FileLock

from lczcube.cli import main
from lczcube.errors import StoreError
from lczcube.grid import Grid
from lczcube.products import write_product
from lczcube.regions import StoreCheck, fill_store, verify_store, writing
from tests.test_products import GRID, all_bytes, maps_on, raising

LARGE = Grid("EPSG:32632", (0, 0, 18, 18), chunk_cells=9)
"""576 x 576 pixels in 2 x 2 shards, and a level of 288."""


def slow_maps(pause_s: float = 0.01) -> dict[str, xr.Dataset]:
    """Maps whose blocks take a while."""

    def slowly(block: npt.NDArray[Any]) -> npt.NDArray[Any]:
        time.sleep(pause_s)
        return block

    maps = maps_on(LARGE, chunk=LARGE.chunk_px)
    slow = {name: v.copy(data=da.map_blocks(slowly, v.data)) for name, v in maps.items()}
    return {"pixels": maps.assign(slow), "cells": maps_on(LARGE, on_cells=True)}


def write_slowly(path: Path, overwrite: bool) -> None:
    write_product(slow_maps(), path, identity="slow", overwrite=overwrite)


def write_and_stop_inside_a_shard(path: Path, overwrite: bool) -> None:
    """Stop where half of a shard is written and nothing of it is durable."""
    sync = os.fsync

    def stop(descriptor: int) -> None:
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        if "/pixels/probability/c/" in name:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            Path(f"{path}.stopped").touch()
            time.sleep(60)
        sync(descriptor)

    os.fsync = stop
    write_slowly(path, overwrite)


def start(target: Callable[[Path, bool], None], path: Path, *, overwrite: bool) -> Any:
    """A child that writes; forked from a server that has imported all it needs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.test_regions"])
    child = context.Process(target=target, args=(path, overwrite))
    child.start()
    return child


def kill(child: Any) -> None:
    child.kill()  # SIGKILL
    child.join()


def wait_for(happens: Callable[[], bool]) -> None:
    for _ in range(3000):
        if happens():
            return
        time.sleep(0.01)
    raise TimeoutError


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], float]:
    """The bytes of a store that nobody disturbed, and the seconds that a child takes for it."""
    path = tmp_path_factory.mktemp("undisturbed") / "lcz.zarr"
    start(write_slowly, path, overwrite=False).join()  # the server starts
    child, began = start(write_slowly, path, overwrite=True), time.monotonic()
    child.join()
    return all_bytes(path), time.monotonic() - began


@pytest.mark.parametrize("overwrite", [False, True])
def test_killed_at_any_moment_the_same_call_ends_with_the_same_bytes(
    undisturbed: tuple[dict[str, bytes], float], tmp_path: Path, overwrite: bool
) -> None:
    expected, seconds = undisturbed
    rng, n_killed, path = np.random.default_rng(int(overwrite)), 0, tmp_path / "work" / "lcz.zarr"
    path.parent.mkdir()
    was = write_product({"pixels": maps_on(GRID)}, tmp_path / "old.zarr", attrs={"id": "old"})
    old = all_bytes(was) if overwrite else {}
    for i, moment_s in enumerate(rng.uniform(0, 0.9 * seconds, size=10)):
        is_first = i % 2 == 0  # each store is killed, gone on with, and killed again
        if is_first:
            for folder in (path, Path(f"{path}.regions")):
                shutil.rmtree(folder, ignore_errors=True)
        if is_first and overwrite:
            shutil.copytree(was, path)
            shutil.copytree(f"{was}.regions", f"{path}.regions")
        child = start(write_slowly, path, overwrite=overwrite)
        time.sleep(moment_s)
        n_killed += child.is_alive()
        kill(child)
        assert all_bytes(path) in (old, {}, expected)
        if is_first:
            continue
        write_slowly(path, overwrite)
        assert all_bytes(path) == expected
        assert verify_store(path).is_sound
        assert sorted(p.name for p in path.parent.iterdir()) == [
            ".lcz.zarr.lock",
            "lcz.zarr",
            "lcz.zarr.regions",
        ]
    assert n_killed >= 5  # how long a child takes depends on what else the machine does


def test_killed_inside_a_shard_the_same_call_ends_with_the_same_bytes(
    undisturbed: tuple[dict[str, bytes], float], tmp_path: Path
) -> None:
    path = tmp_path / "lcz.zarr"
    child = start(write_and_stop_inside_a_shard, path, overwrite=False)
    wait_for(Path(f"{path}.stopped").exists)
    kill(child)
    half = [p for p in (tmp_path / "lcz.zarr.partial").rglob("*.partial") if p.is_file()]
    assert half
    write_slowly(path, False)
    assert all_bytes(path) == undisturbed[0]
    assert not list(tmp_path.rglob("*.partial"))


def test_what_was_written_before_the_kill_is_not_computed_again(tmp_path: Path) -> None:
    path = tmp_path / "lcz.zarr"
    child = start(write_slowly, path, overwrite=False)
    markers = tmp_path / "lcz.zarr.partial.regions"
    wait_for(lambda: len(list(markers.glob("pixels.*.json"))) >= 4)
    kill(child)
    kept = {p: p.stat().st_mtime_ns for p in markers.glob("pixels.*.json")}
    write_slowly(path, False)
    after = tmp_path / "lcz.zarr.regions"
    assert all((after / p.name).stat().st_mtime_ns == then for p, then in kept.items())


STATES = {
    "before the move": [],
    "old set aside": ["aside"],
    "new in place": ["aside", "place"],
    "markers removed": ["aside", "place", "unmark"],
    "markers in place": ["aside", "place", "unmark", "mark"],
}


@pytest.mark.parametrize("done", STATES.values(), ids=STATES)
def test_killed_between_any_two_steps_of_the_move_nothing_is_lost(
    tmp_path: Path, done: list[str]
) -> None:
    path = tmp_path / "lcz.zarr"
    new = {"pixels": maps_on(GRID), "cells": maps_on(GRID, on_cells=True)}
    expected = all_bytes(write_product(new, tmp_path / "other.zarr", identity="new"))
    write_product({"pixels": maps_on(GRID)}, path, identity="old")
    shutil.copytree(tmp_path / "other.zarr", f"{path}.partial")
    shutil.copytree(tmp_path / "other.zarr.regions", f"{path}.partial.regions")
    steps: dict[str, Callable[[], object]] = {
        "aside": lambda: path.rename(path.with_name(".lcz.zarr.lczcube-replaced")),
        "place": lambda: Path(f"{path}.partial").rename(path),
        "unmark": lambda: shutil.rmtree(f"{path}.regions"),
        "mark": lambda: Path(f"{path}.partial.regions").rename(f"{path}.regions"),
    }
    for step in done:
        steps[step]()
    write_product(new, path, identity="new", overwrite=True)
    assert all_bytes(path) == expected
    assert verify_store(path).is_sound
    assert sorted(p.name for p in tmp_path.glob("*lcz.zarr*")) == [
        ".lcz.zarr.lock",
        "lcz.zarr",
        "lcz.zarr.regions",
    ]


@pytest.mark.parametrize("has_place", [False, True])
def test_a_store_of_the_users_named_old_stays_as_it_is(tmp_path: Path, has_place: bool) -> None:
    path, old = tmp_path / "lcz.zarr", tmp_path / "lcz.zarr.old"
    write_product({"pixels": maps_on(GRID)}, old)
    before = all_bytes(old)
    if has_place:
        write_product({"pixels": maps_on(GRID)}, path)
    write_product({"cells": maps_on(GRID, on_cells=True)}, path, overwrite=True)
    assert all_bytes(old) == before
    assert sorted(p.name for p in path.iterdir()) == ["cells", "zarr.json"]


def test_a_half_written_store_is_never_put_in_place_of_a_replaced_one(tmp_path: Path) -> None:
    path = write_product({"pixels": maps_on(GRID)}, tmp_path / "lcz.zarr", identity="old")
    before = all_bytes(path)
    with pytest.raises(OSError, match="disk on fire"):
        write_product({"pixels": raising(GRID)}, path, identity="new", overwrite=True)
    path.rename(tmp_path / ".lcz.zarr.lczcube-replaced")
    with pytest.raises(StoreError, match="exists; pass overwrite"):
        write_product({"pixels": maps_on(GRID)}, path, identity="new")
    assert all_bytes(path) == before
    assert verify_store(path).is_sound


def test_markers_of_a_staging_that_was_removed_are_not_given_to_the_store(tmp_path: Path) -> None:
    path = write_product({"pixels": maps_on(GRID)}, tmp_path / "lcz.zarr", identity="old")
    with pytest.raises(OSError, match="disk on fire"):
        write_product({"pixels": raising(GRID)}, path, identity="new", overwrite=True)
    shutil.rmtree(f"{path}.partial")
    write_product({"pixels": maps_on(GRID)}, path, identity="old")
    assert verify_store(path).is_sound


def test_a_link_to_a_store_stays_one(tmp_path: Path) -> None:
    target = tmp_path / "large_disk" / "lcz.zarr"
    link = tmp_path / "lcz.zarr"
    link.symlink_to(target)
    for groups in ({"pixels": maps_on(GRID)}, {"cells": maps_on(GRID, on_cells=True)}):
        write_product(groups, link, overwrite=True)
        assert link.is_symlink()
        assert sorted(p.name for p in target.iterdir()) == [*groups, "zarr.json"]
        assert verify_store(link) == verify_store(target)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["large_disk", "lcz.zarr"]


def test_what_is_shared_by_variables_is_computed_once(tmp_path: Path) -> None:
    n_computed = [0]
    lock = threading.Lock()

    def count(block: npt.NDArray[Any]) -> npt.NDArray[Any]:
        with lock:
            n_computed[0] += 1
        return block

    maps = maps_on(GRID, chunk=32)
    codes = maps["lcz"].data.map_blocks(count, meta=np.empty((0, 0), np.uint8))
    percent = da.where(codes > 0, codes % 101, 255).astype(np.uint8)
    shared = maps.drop_vars("probability").assign(
        lcz=maps["lcz"].copy(data=codes), confidence=maps["confidence"].copy(data=percent)
    )
    write_product({"pixels": shared}, tmp_path / "lcz.zarr")
    assert n_computed == [2 * 3]


def test_the_same_call_again_writes_nothing(tmp_path: Path) -> None:
    path = write_product({"pixels": maps_on(GRID)}, tmp_path / "lcz.zarr", identity="one")
    before = {p: p.stat().st_mtime_ns for p in path.rglob("*")}
    write_product({"pixels": maps_on(GRID)}, path, identity="one")
    assert {p: p.stat().st_mtime_ns for p in path.rglob("*")} == before


def test_what_is_missing_or_cut_is_written_again_by_the_same_call(tmp_path: Path) -> None:
    path = write_product({"pixels": maps_on(GRID)}, tmp_path / "lcz.zarr", identity="one")
    before = all_bytes(path)
    (path / "pixels" / "lcz" / "c" / "0" / "0").unlink()
    cut = path / "pixels" / "probability" / "c" / "0" / "1" / "2"
    cut.write_bytes(cut.read_bytes()[:-1])
    (path / "pixels" / "y" / "zarr.json").write_text("{}")
    write_product({"pixels": maps_on(GRID)}, path, identity="one")
    assert all_bytes(path) == before


def test_a_worker_stops_where_another_writer_began_the_store_anew(tmp_path: Path) -> None:
    with writing(tmp_path / "lcz.zarr", identity="one") as opened:
        fill_store(opened, {})
        on_worker = pickle.loads(pickle.dumps(opened))
        on_worker.require_ours()
    with writing(tmp_path / "lcz.zarr", identity="two", overwrite=True) as other:
        with pytest.raises(StoreError, match="which began it anew"):
            on_worker.require_ours()
        fill_store(other, {})
        with pytest.raises(StoreError, match="which began it anew"):
            on_worker.require_ours()
        other.require_ours()


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lcz.zarr"
    with (
        FileLock(tmp_path / ".lcz.zarr.lock"),
        pytest.raises(StoreError, match="being written by another process; wait for it"),
    ):
        write_product({"pixels": maps_on(GRID)}, path)
    assert not path.exists()


def test_of_two_writers_at_once_one_is_refused_and_nothing_is_lost(
    undisturbed: tuple[dict[str, bytes], float], tmp_path: Path
) -> None:
    path = tmp_path / "lcz.zarr"
    children = [start(write_slowly, path, overwrite=True) for _ in range(2)]
    for child in children:
        child.join()
    assert 0 in [child.exitcode for child in children]
    assert all_bytes(path) == undisturbed[0]


FAULTS = {
    errno.ENOSPC: "No space left on device.*free some space",
    errno.EDQUOT: "free some of your quota",
    errno.EACCES: "Permission denied.*get the right to write there",
    errno.EROFS: "Read-only file system.*have it mounted for writing",
    errno.EFBIG: "ulimit -f",
}


@pytest.mark.parametrize(("fault", "n_before"), list(zip(FAULTS, [0, 3, 20, 25, 30], strict=True)))
def test_a_disk_that_takes_no_more_is_a_store_error_and_the_store_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: int, n_before: int
) -> None:
    expected = all_bytes(write_product({"pixels": maps_on(GRID)}, tmp_path / "whole.zarr"))
    path, sync, left = tmp_path / "lcz.zarr", os.fsync, [n_before]

    def full(descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(fault, os.strerror(fault))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=f"(?s){FAULTS[fault]}.*same command again"):
        write_product({"pixels": maps_on(GRID)}, path)
    monkeypatch.undo()
    assert not list(tmp_path.rglob("lcz.zarr.*/**/*.partial"))
    write_product({"pixels": maps_on(GRID)}, path)
    assert all_bytes(path) == expected


def test_a_file_where_the_folder_should_be_made_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "maps").write_text("no folder")
    with pytest.raises(StoreError, match="cannot be written"):
        write_product({"pixels": maps_on(GRID)}, tmp_path / "maps" / "lcz.zarr")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_without_the_right_to_write_is_a_store_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="get the right to write there"):
        write_product({"pixels": maps_on(GRID)}, tmp_path / "lcz.zarr")
    tmp_path.chmod(0o700)


def test_a_limit_of_file_sizes_is_a_store_error_and_the_store_resumes(tmp_path: Path) -> None:
    import resource

    noise = np.random.default_rng(0).integers(0, 101, (17, 64, 80), dtype=np.uint8)
    maps = maps_on(GRID).assign(probability=(("lcz_class", "y", "x"), da.from_array(noise)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, hard))
    try:
        with pytest.raises(StoreError, match="ulimit -f"):
            write_product({"pixels": maps}, tmp_path / "lcz.zarr")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    write_product({"pixels": maps}, tmp_path / "lcz.zarr")
    np.testing.assert_array_equal(
        zarr.open_array(tmp_path / "lcz.zarr" / "pixels" / "probability", mode="r")[:], noise
    )


@pytest.mark.parametrize("name", ["lcz", "probability"])
def test_every_flipped_bit_of_a_shard_is_an_error_on_reading(tmp_path: Path, name: str) -> None:
    grid = Grid("EPSG:32632", (0, 0, 4, 4), pixel_m=80)
    path = write_product({"pixels": maps_on(grid)}, tmp_path / "lcz.zarr")
    (shard,) = [p for p in (path / "pixels" / name / "c").rglob("*") if p.is_file()]
    array, sound = zarr.open_array(path / "pixels" / name, mode="r"), shard.read_bytes()
    rng, silent = np.random.default_rng(0), []
    for at in range(len(sound)):
        bits = range(8) if at % 16 == 0 else [int(rng.integers(8))]
        for bit in bits:
            damaged = bytearray(sound)
            damaged[at] ^= 1 << bit
            shard.write_bytes(damaged)
            try:
                array[:]
            except (RuntimeError, ValueError):
                continue
            silent.append((at, bit))
    assert silent == []


def damaged_store(folder: Path) -> tuple[Path, StoreCheck]:
    path = write_product({"pixels": maps_on(GRID)}, folder / "lcz.zarr")
    n_files = len(all_bytes(path))
    content = bytearray((path / "pixels" / "lcz" / "c" / "0" / "1").read_bytes())
    content[-9] ^= 4
    (path / "pixels" / "lcz" / "c" / "0" / "1").write_bytes(content)
    (path / "pixels" / "x" / "c" / "0").unlink()
    (path / "pixels" / "lcz" / "c" / "9").mkdir()
    (path / "pixels" / "lcz" / "c" / "9" / "9").write_bytes(b"?")
    return path, StoreCheck(
        n_files, ("pixels/lcz/c/0/1",), ("pixels/x/c/0",), ("pixels/lcz/c/9/9",)
    )


def test_damaged_missing_and_surplus_files_are_found(tmp_path: Path) -> None:
    path, expected = damaged_store(tmp_path)
    assert verify_store(path) == expected
    assert verify_store(path, hashes=False).damaged == ()


def test_to_overwrite_mends_a_damaged_store(tmp_path: Path) -> None:
    path, _ = damaged_store(tmp_path)
    write_product({"pixels": maps_on(GRID)}, path, overwrite=True)
    assert verify_store(path).is_sound


def test_a_file_of_a_block_of_nothing_but_fill_is_surplus(tmp_path: Path) -> None:
    empty = xr.zeros_like(maps_on(GRID)[["lcz"]])
    path = write_product({"pixels": empty}, tmp_path / "lcz.zarr")
    assert not (path / "pixels" / "lcz" / "c").exists()
    assert verify_store(path).is_sound
    (path / "pixels" / "lcz" / "c" / "0").mkdir(parents=True)
    (path / "pixels" / "lcz" / "c" / "0" / "0").write_bytes(b"?")
    assert verify_store(path).surplus == ("pixels/lcz/c/0/0",)


def test_the_command_lists_what_is_wrong_and_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = damaged_store(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main(["verify", str(path)])
    out = capsys.readouterr().out
    assert exit_.value.code == 1
    assert "damaged  pixels/lcz/c/0/1\nmissing  pixels/x/c/0\nsurplus  pixels/lcz/c/9/9\n" in out
    assert out.endswith("for the map of a run: lczcube predict RUN --overwrite.\n")


def test_the_command_says_that_a_sound_store_is_sound(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_product({"pixels": maps_on(GRID)}, tmp_path / "lcz.zarr")
    n_files = len(all_bytes(path))
    with pytest.raises(SystemExit) as exit_:
        main(["verify", str(path), "--no-hashes"])
    assert not exit_.value.code
    assert capsys.readouterr().out == f"{path}: {n_files} files, all as they were written\n"


def test_a_store_that_cannot_be_checked_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such store"):
        verify_store(tmp_path / "absent.zarr")
    path = write_product({"pixels": maps_on(GRID)}, tmp_path / "lcz.zarr")
    shutil.move(f"{path}.regions", tmp_path / "elsewhere")
    with pytest.raises(StoreError, match=r"lcz\.zarr\.regions, which says what was written"):
        verify_store(path)


def test_markers_hold_no_time_no_host_and_no_path(tmp_path: Path) -> None:
    write_product({"pixels": maps_on(GRID)}, tmp_path / "lcz.zarr")
    markers = sorted((tmp_path / "lcz.zarr.regions").glob("*.json"))
    assert len(markers) == 3 * 6 + 1
    for marker in markers:
        for record in json.loads(marker.read_text()).values():
            assert record == "absent" or set(record) == {"length", "sha256"}
