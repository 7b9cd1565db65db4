"""Where and within what a run computes: threads or a Dask cluster, pinned threads, memory, reports.

Nothing else in the package knows which scheduler runs: stages build graphs, and whoever calls them
opens one scheduler around all of it.
"""

import ctypes
import difflib
import logging
import os
import re
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lczcube.errors import ConfigError, MemoryBudgetError, MissingExtraError, MissingInputError

logger = logging.getLogger(__name__)

IMPORTING = threading.Lock()
"""Held while numba is imported: its modules import each other, and two tasks that begin with
different ones would each find the other's half made (``partially initialized module``)."""

Progress = Callable[[str], None]
"""Receives one line of plain text per step; the command line shows it on stderr."""

_CLUSTERS = {
    "local": ("distributed", "LocalCluster", ""),
    "slurm": ("dask_jobqueue", "SLURMCluster", "cluster"),
    "pbs": ("dask_jobqueue", "PBSCluster", "cluster"),
}

_SUBMIT_COMMANDS = {"slurm": "sbatch", "pbs": "qsub"}

_UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")

_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h

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
        If ``spec`` is none of these, or its file does not start a cluster: an unknown type or
        option, a missing option, a job queue that is not installed or refuses the job.
    """
    give_memory_back()
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


def give_memory_back() -> None:
    """Make this process return freed arrays of 1 MiB and more to the system at once.

    glibc learns from freed blocks to keep ever larger ones, up to 32 MiB, in a heap that
    fragments: the peak of a long run then grows by a tenth. Elsewhere than on glibc a no-op.
    """
    try:
        ctypes.CDLL("libc.so.6").mallopt(_M_MMAP_THRESHOLD, 1 << 20)
    except (OSError, AttributeError):
        logger.debug("no glibc: the allocator is left as it is")


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
            client.run(_prepare_worker)
            yield f"scheduler at {spec}"
        return
    with _cluster(spec, kind, options) as cluster, Client(cluster) as client:
        if kind == "local":
            client.run(_prepare_worker)
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
    options = settings.get("options") or {}
    if not isinstance(options, dict):
        raise ConfigError(f"{path}: options = {options!r} is no table; write `name: value` lines.")
    return settings["type"], options


@contextmanager
def _cluster(spec: str, kind: str, options: dict[str, Any]) -> Iterator[Any]:
    """A started cluster; what Dask says of options that it cannot use, in one line."""
    class_ = _cluster_class(kind)
    n_workers = _n_workers(spec, kind, options)
    if kind == "local":
        _require_local_options(spec, options)
    with ExitStack() as stack:
        start = partial(class_, **options | _later(kind))
        cluster = stack.enter_context(_started(spec, kind, class_, start))
        if kind in _SUBMIT_COMMANDS:
            _require_job_queue(spec, kind)
            submit = partial(cluster.sync, _submit, cluster, n_workers)
            _started(spec, kind, class_, submit)
        yield cluster


def _n_workers(spec: str, kind: str, options: dict[str, Any]) -> int:
    n_workers = options.get("n_workers", None if kind in _SUBMIT_COMMANDS else 1)
    if not isinstance(n_workers, int) or n_workers < 1:
        raise ConfigError(
            f"{spec}: n_workers = {n_workers!r} under options; write how many, at least 1."
        )
    return n_workers


def _require_local_options(spec: str, options: dict[str, Any]) -> None:
    """Refuse unknown names here: a worker process that meets one prints its traceback first."""
    from inspect import signature

    from distributed import LocalCluster, Nanny, Worker

    known = {
        name for class_ in (LocalCluster, Nanny, Worker) for name in signature(class_).parameters
    }
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise ConfigError(
                f"{spec}: unknown option {name!r}{hint}. Options are those of "
                "distributed.LocalCluster."
            )


def _later(kind: str) -> dict[str, int]:
    """Jobs are submitted once the cluster stands: from its constructor a failure is only logged."""
    return {"n_workers": 0} if kind in _SUBMIT_COMMANDS else {}


def _require_job_queue(spec: str, kind: str) -> None:
    command = _SUBMIT_COMMANDS[kind]
    if shutil.which(command) is None:
        raise ConfigError(
            f"{spec}: a {kind} cluster needs `{command}`, which is not on this machine's PATH; "
            "start the run where jobs are submitted, or use --cluster local."
        )


async def _submit(cluster: Any, n_workers: int) -> None:
    from distributed import Status

    cluster.scale(n_workers)
    try:
        await cluster._correct_state()  # what the job queue answers; `scale` does not wait for it
    except Exception:
        for job in cluster.workers.values():
            job.status = Status.failed  # else closing the cluster fails an assertion
        raise


def _started(spec: str, kind: str, class_: type, start: Callable[[], Any]) -> Any:
    """What ``start`` gives; its error is not chained, as it would hold what must now be closed."""
    with _silent("tornado.application"):  # which prints the traceback of a job that is refused
        try:
            return start()
        except (TypeError, ValueError, RuntimeError, OSError) as error:
            reason = _reason(error)
    home = f"{class_.__module__.partition('.')[0]}.{class_.__qualname__}"
    raise ConfigError(
        f"{spec}: the {kind} cluster did not start: {reason}. Options are those of {home}."
    )


@contextmanager
def _silent(logger_name: str) -> Iterator[None]:
    named = logging.getLogger(logger_name)
    before, named.disabled = named.disabled, True
    try:
        yield
    finally:
        named.disabled = before


def _reason(error: BaseException) -> str:
    """What Dask says, as one line without a final stop."""
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__  # "Nanny failed to start."
    unexpected = _UNEXPECTED.search(str(error))
    if unexpected:
        return f"unknown option {unexpected[1]!r}"
    return " ".join(str(error).split()).rstrip(".:") or type(error).__name__


def _cluster_class(kind: str) -> type:
    from importlib import import_module

    module, name, extra = _CLUSTERS[kind]
    try:
        return getattr(import_module(module), name)  # type: ignore[no-any-return]
    except ImportError as error:
        raise MissingExtraError(
            f"a {kind} cluster needs {module}; pip install 'lczcube[{extra}]'."
        ) from error


def _prepare_worker() -> None:
    from threadpoolctl import threadpool_limits

    give_memory_back()
    threadpool_limits(limits=1)
