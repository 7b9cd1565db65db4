import gc
import os
import sys
import warnings
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import yaml
from dask.system import CPU_COUNT
from threadpoolctl import threadpool_info

from lczcube.errors import ConfigError, MemoryBudgetError, MissingExtraError, MissingInputError
from lczcube.runtime import (
    memory_budget_bytes,
    n_cores,
    open_scheduler,
    pinned_threads,
    require_memory,
    timed_step,
)


def blas_threads() -> set[int]:
    np.ones((2, 2)) @ np.ones((2, 2))
    return {pool["num_threads"] for pool in threadpool_info()}


def process_of_blocks() -> set[int]:
    """Process ids that compute the blocks of an array."""
    blocks = da.zeros(8, chunks=1, dtype=np.int64).map_blocks(
        lambda block: block + os.getpid(), dtype=np.int64
    )
    return set(blocks.compute().tolist())


def test_threads_compute_in_this_process() -> None:
    with open_scheduler("threads", n_workers=2) as opened:
        assert opened == "threads (2)"
        assert dask.config.get("num_workers") == 2
        assert process_of_blocks() == {os.getpid()}


def test_threads_take_the_cores_of_the_machine_by_default() -> None:
    with open_scheduler() as opened:
        assert opened == f"threads ({n_cores()})"
    assert 1 <= n_cores() <= max(CPU_COUNT, os.cpu_count() or 1)


def test_settings_are_restored_after_threads() -> None:
    before = (dask.config.get("scheduler", None), dask.config.get("num_workers", None))
    with open_scheduler("threads", n_workers=3):
        pass
    assert (dask.config.get("scheduler", None), dask.config.get("num_workers", None)) == before


def test_local_workers_compute_in_other_processes_with_one_thread_each() -> None:
    with open_scheduler("local", n_workers=2) as opened:
        assert opened == "local cluster (2 workers)"
        processes = process_of_blocks()
    assert os.getpid() not in processes
    assert 1 <= len(processes) <= 2


def test_an_unknown_cluster_is_refused_with_the_known_ones() -> None:
    with (
        pytest.raises(ConfigError, match="cluster 'kubernetes' is unknown; use threads, local"),
        open_scheduler("kubernetes"),
    ):
        pass


def test_a_missing_cluster_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "slurm.yaml"
    with (
        pytest.raises(MissingInputError, match=r"slurm\.yaml: no such cluster file"),
        open_scheduler(str(path)),
    ):
        pass


@pytest.mark.parametrize(
    "text", ["type: htcondor", "just words", "type: [local]", "", "options: 1"]
)
def test_a_cluster_file_of_unknown_type_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cluster.yml"
    path.write_text(text)
    with (
        pytest.raises(ConfigError, match="type must be one of local, pbs, slurm"),
        open_scheduler(str(path)),
    ):
        pass


def test_a_cluster_file_that_is_not_yaml_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text("type: [")
    with (
        pytest.raises(ConfigError, match=r"cluster\.yaml is not YAML: .* line 1") as caught,
        open_scheduler(str(path)),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_a_missing_cluster_library_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    path = tmp_path / "slurm.yaml"
    path.write_text("type: slurm")
    with (
        pytest.raises(MissingExtraError, match=r"pip install 'lczcube\[cluster\]'"),
        open_scheduler(str(path)),
    ):
        pass


OPTIONS = {
    "slurm": {
        "n_workers": 1,
        "cores": 1,
        "memory": "1GiB",
        "interface": "lo",
        "scheduler_options": {"dashboard_address": ":0"},
    },
    "local": {"n_workers": 1, "dashboard_address": None},
}


def cluster_file(folder: Path, kind: str, **changes: object) -> Path:
    """A cluster file of one worker, with some options changed; ``...`` leaves one out."""
    options = {k: v for k, v in (OPTIONS[kind] | changes).items() if v is not ...}
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump({"type": kind, "options": options}))
    return path


def fake_command(folder: Path, name: str, script: str) -> None:
    """A stand-in for a command of SLURM."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def refusal(path: Path) -> str:
    """What is said of a cluster file that cannot be used; one line, exit status 2."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Dask's, of a half-made cluster
        with pytest.raises(ConfigError) as caught, open_scheduler(str(path)):
            pass
        said, status = str(caught.value), caught.value.exit_status
        del caught
        gc.collect()
    assert status == 2
    assert "\n" not in said
    return said


@pytest.mark.parametrize(
    ("kind", "changes", "reason"),
    [
        ("slurm", {"coers": 3}, "unknown option 'coers'. Options are those of dask_jobqueue.SLURM"),
        ("slurm", {"memory": ...}, "You must specify how much cores and memory per job"),
        ("slurm", {"memory": "lots"}, "Could not interpret 'lots' as a byte unit"),
        ("slurm", {"n_workers": ...}, "n_workers = None under options; write how many"),
        (
            "local",
            {"n_worker": 3},
            "unknown option 'n_worker' (did you mean 'n_workers'?). Options",
        ),
        ("local", {"memory_limit": "lots"}, "Could not interpret 'lots' as a byte unit"),
        ("local", {"n_workers": "many"}, "n_workers = 'many' under options; write how many"),
    ],
)
def test_an_option_that_a_cluster_cannot_use_is_one_line_with_file_and_reason(
    tmp_path: Path, kind: str, changes: dict[str, object], reason: str
) -> None:
    path = cluster_file(tmp_path, kind, **changes)
    said = refusal(path)
    assert said.startswith(f"{path}: ")
    assert reason in said


def test_options_that_are_no_table_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text("type: local\noptions: [1, 2]")
    assert "options = [1, 2] is no table" in refusal(path)


def test_a_job_queue_that_is_not_installed_is_named_before_anything_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    said = refusal(cluster_file(tmp_path, "slurm"))
    assert "needs `sbatch`, which is not on this machine's PATH" in said


def test_what_a_job_queue_says_when_it_refuses_a_job_is_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_command(tmp_path, "sbatch", "echo 'invalid partition specified: fast' >&2; exit 1")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert "invalid partition specified: fast" in refusal(cluster_file(tmp_path, "slurm"))


def test_jobs_of_a_queue_compute_in_processes_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = tmp_path / "job"
    copy_and_start = f'cp "$1" {job}.sh; setsid sh {job}.sh >/dev/null 2>&1 & echo $! > {job}'
    fake_command(tmp_path, "sbatch", f'{copy_and_start}; echo "Submitted batch job 1"')
    fake_command(tmp_path, "scancel", f"kill -- -$(cat {job})")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with open_scheduler(str(cluster_file(tmp_path, "slurm"))) as opened:
        assert opened.startswith("slurm cluster")
        assert os.getpid() not in process_of_blocks()


def test_blas_is_held_to_one_thread_inside_and_given_back_after() -> None:
    before = blas_threads()
    with pinned_threads(1):
        assert blas_threads() == {1}
    assert blas_threads() == before


def test_blas_is_held_to_one_thread_while_a_scheduler_is_open() -> None:
    with open_scheduler("threads", n_workers=2):
        assert blas_threads() == {1}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("4GiB", 4 * 2**30), ("800MB", 800_000_000), ("1.5 GiB", 3 * 2**29), ("512", 512)],
)
def test_a_memory_budget_is_read_with_its_unit(text: str, expected: int) -> None:
    assert memory_budget_bytes(text) == expected


@pytest.mark.parametrize("text", ["lots", "4 bananas", "", "GiB", "0", "-4GiB"])
def test_a_memory_budget_that_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=f"memory '{text}' is not a size; write 4GiB or 800MB"):
        memory_budget_bytes(text)


def test_the_default_budget_leaves_a_fifth_of_the_memory() -> None:
    from distributed.system import MEMORY_LIMIT

    assert memory_budget_bytes() == int(0.8 * MEMORY_LIMIT)


def test_a_plan_over_the_budget_is_refused_with_both_sizes_and_the_remedy() -> None:
    with pytest.raises(MemoryBudgetError) as caught:
        require_memory(3 * 2**30, 2**30, remedy="Set grid.chunk_cells to 10.")
    assert str(caught.value) == (
        "the plan peaks at 3.00 GiB and the memory budget is 1.00 GiB. Set grid.chunk_cells to 10."
    )


def test_a_plan_of_exactly_the_budget_is_let_through() -> None:
    require_memory(2**30, 2**30, remedy="never shown")


def test_a_step_tells_its_name_and_knows_its_seconds_when_it_has_ended() -> None:
    told: list[str] = []
    with timed_step("aggregate/a", told.append) as timer:
        assert told == ["aggregate/a"]
        assert timer.seconds == 0
    assert timer.seconds > 0
