"""Where and within what a run computes: threads or a Dask cluster, pinned threads, memory, reports.

Nothing else in the package knows which scheduler runs: stages build graphs, and whoever calls them
opens one scheduler around all of it.
"""

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lczcube.errors import ConfigError, MemoryBudgetError, MissingExtraError, MissingInputError

logger = logging.getLogger(__name__)

Progress = Callable[[str], None]
"""Receives one line of plain text per step; the command line shows it on stderr."""

_CLUSTERS = {
    "local": ("distributed", "LocalCluster", ""),
    "slurm": ("dask_jobqueue", "SLURMCluster", "cluster"),
    "pbs": ("dask_jobqueue", "PBSCluster", "cluster"),
}

DEFAULT_MEMORY_SHARE = 0.8


@dataclass(frozen=True)
class StepReport:
    """What one step of a run did.

    Attributes
    ----------
    name : str
        ``stage`` or ``stage/city``.
    state : str
        ``done``, or ``up to date`` when there was nothing to do.
    seconds : float
        Wall time.
    summary : str
        One line for a person.
    """

    name: str
    state: str
    seconds: float
    summary: str = ""


@contextmanager
def open_scheduler(spec: str = "threads", *, n_workers: int | None = None) -> Iterator[str]:
    """Compute everything inside the ``with`` on threads or on a Dask cluster.

    Parameters
    ----------
    spec : str
        ``threads`` (this process), ``local`` (worker processes on this machine), the address of a
        running scheduler (``tcp://host:8786``), or a YAML file of ``dask_config/``.
    n_workers : int, optional
        Threads or local worker processes. Default: the cores of this machine.

    Yields
    ------
    str
        What was opened, for reports.

    Raises
    ------
    ConfigError
        If ``spec`` is none of these, or the file names an unknown cluster type.
    """
    with pinned_threads(1):
        if spec == "threads":
            with _threads(n_workers or n_cores()) as opened:
                yield opened
        else:
            with _client(spec, n_workers) as opened:
                yield opened


def n_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def pinned_threads(n_threads: int) -> Iterator[None]:
    """Hold BLAS and OpenMP to ``n_threads`` inside the ``with``: sums then have one order.

    Parallelism comes from Dask; results are the same bytes on any number of workers.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=n_threads):
        yield


@dataclass
class Timer:
    """Seconds of a step, known when it has ended."""

    seconds: float = 0.0


@contextmanager
def timed_step(name: str, progress: Progress) -> Iterator[Timer]:
    """Tell ``progress`` that a step starts, and time it."""
    progress(name)
    timer = Timer()
    started = time.perf_counter()
    yield timer
    timer.seconds = time.perf_counter() - started
    logger.info("%s: %.1f s", name, timer.seconds)


def memory_budget_bytes(text: str | None = None) -> int:
    """Bytes of a memory budget such as ``4GiB``; by default 80 % of this machine's memory.

    Raises
    ------
    ConfigError
        If ``text`` is not a size.
    """
    from dask.utils import parse_bytes

    if text is None:
        from distributed.system import MEMORY_LIMIT

        return int(MEMORY_LIMIT * DEFAULT_MEMORY_SHARE)
    try:
        size = int(parse_bytes(text))
    except ValueError as error:
        raise ConfigError(f"memory {text!r} is not a size; write 4GiB or 800MB.") from error
    if size < 1 or not any(character.isdigit() for character in text):
        raise ConfigError(f"memory {text!r} is not a size; write 4GiB or 800MB.")
    return size


def require_memory(projected_bytes: int, budget_bytes: int, *, remedy: str) -> None:
    """Raise when a projected peak is over the budget.

    Parameters
    ----------
    projected_bytes, budget_bytes : int
        Peak of one worker process, and what it may take.
    remedy : str
        The knob to turn, a full sentence.

    Raises
    ------
    MemoryBudgetError
        Naming both sizes and the knob.
    """
    from dask.utils import format_bytes

    if projected_bytes > budget_bytes:
        raise MemoryBudgetError(
            f"the plan peaks at {format_bytes(projected_bytes)} and the memory budget is "
            f"{format_bytes(budget_bytes)}. {remedy}"
        )


@contextmanager
def _threads(n_threads: int) -> Iterator[str]:
    import dask

    with (
        dask.config.set(scheduler="threads", num_workers=n_threads),
        warnings.catch_warnings(),
    ):
        # rasterio silences this for its own in-memory targets with warnings.catch_warnings, which
        # is not thread-safe: with several threads it leaks, and says nothing of the user's files.
        warnings.filterwarnings("ignore", message="Dataset has no geotransform")
        yield f"threads ({n_threads})"


@contextmanager
def _client(spec: str, n_workers: int | None) -> Iterator[str]:
    from distributed import Client

    kind, options = _cluster_options(spec, n_workers)
    if kind == "address":
        with Client(spec) as client:
            client.run(_pin_worker_threads)
            yield f"scheduler at {spec}"
        return
    with _cluster_class(kind)(**options) as cluster, Client(cluster) as client:
        if kind == "local":
            client.run(_pin_worker_threads)
        yield f"{kind} cluster ({len(client.scheduler_info()['workers'])} workers)"


def _cluster_options(spec: str, n_workers: int | None) -> tuple[str, dict[str, Any]]:
    if spec == "local":
        return "local", {
            "n_workers": n_workers or n_cores(),
            "threads_per_worker": 1,
            "processes": True,
            "dashboard_address": None,
        }
    if "://" in spec:
        return "address", {}
    if Path(spec).suffix in {".yaml", ".yml"}:
        return _read_cluster_file(Path(spec))
    raise ConfigError(
        f"cluster {spec!r} is unknown; use threads, local, an address such as "
        "tcp://host:8786, or a YAML file of dask_config/."
    )


def _read_cluster_file(path: Path) -> tuple[str, dict[str, Any]]:
    import yaml

    if not path.is_file():
        raise MissingInputError(f"{path}: no such cluster file; dask_config/ holds examples.")
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(settings, dict) or str(settings.get("type")) not in _CLUSTERS:
        raise ConfigError(
            f"{path}: type must be one of {', '.join(sorted(_CLUSTERS))}, with the cluster's own "
            "arguments under `options`."
        )
    return settings["type"], settings.get("options") or {}


def _cluster_class(kind: str) -> Callable[..., Any]:
    from importlib import import_module

    module, name, extra = _CLUSTERS[kind]
    try:
        return getattr(import_module(module), name)  # type: ignore[no-any-return]
    except ImportError as error:
        raise MissingExtraError(
            f"a {kind} cluster needs {module}; pip install 'lczcube[{extra}]'."
        ) from error


def _pin_worker_threads() -> None:
    from threadpoolctl import threadpool_limits

    threadpool_limits(limits=1)
