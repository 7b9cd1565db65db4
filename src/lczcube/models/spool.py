"""The rows that teach something, on disk in blocks of one size, in a scratch folder."""

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from lczcube.errors import ModelError, StoreError
from lczcube.lcz import N_CLASSES
from lczcube.models.batches import Batch, Batches
from lczcube.models.tabular import usable_rows

logger = logging.getLogger(__name__)

_BLOCK_BYTES = 24 << 20
"""Of the features of a block: small beside what trees need at least, large beside their overhead
of a block (16,384 rows of 384 features; with a quarter of that a fit takes a fifth longer)."""

_PREFIX = "lczcube-trees-"


@dataclass(frozen=True)
class Spool:
    """A training table on disk.

    Attributes
    ----------
    folder : pathlib.Path
        Holds the blocks.
    sizes : tuple of int
        Rows of each block.
    totals : numpy.ndarray
        float64, shape (18,): total weight of the rows of each code.
    names, products : tuple of str
        Of the features.
    synthetic : bool
        True when the data are made up.
    """

    folder: Path
    sizes: tuple[int, ...]
    totals: npt.NDArray[np.float64]
    names: tuple[str, ...]
    products: tuple[str, ...]
    synthetic: bool

    @property
    def n_rows(self) -> int:
        """Rows of all blocks."""
        return sum(self.sizes)

    @property
    def classes(self) -> tuple[int, ...]:
        """The codes that occur, ascending."""
        return tuple(np.flatnonzero(self.totals).tolist())

    def block(self, number: int) -> Batch:
        """One block, read from disk."""
        return Batch(*(np.load(path) for path in _paths(self.folder, number)))

    def rows(self, positions: npt.NDArray[np.intp]) -> Batch:
        """Some rows of all blocks, by their positions, ascending."""
        edges = np.cumsum([0, *self.sizes])
        cuts = np.searchsorted(positions, edges)
        parts = []
        for number, start in enumerate(edges[:-1]):
            at = positions[cuts[number] : cuts[number + 1]] - start
            parts.append(_rows_of(self.block(number), at))
        columns = zip(*map(_columns, parts), strict=True)
        return Batch(*(np.concatenate(column) for column in columns))


def spool(batches: Batches, folder: Path) -> Spool:
    """Write the rows of batches that teach something to ``folder``; reads each batch once.

    Parameters
    ----------
    batches : Batches
        Any source; how it cuts its batches leaves no trace.
    folder : pathlib.Path
        Is made.

    Raises
    ------
    LabelError
        If a code is not 0-17.
    ModelError
        If a batch has not the shape that its names give, a weight is negative or not finite, or a
        feature is infinite.
    StoreError
        If the disk is full.
    """
    folder.mkdir()
    n_block = max(1, _BLOCK_BYTES // (4 * max(1, len(batches.names))))
    totals = np.zeros(N_CLASSES + 1)
    sizes = []
    for number, block in enumerate(_blocks(_usable(batches), n_block, len(batches.names))):
        _save(block, folder, number)
        # One by one, in the order of the rows: the same bits as a sum over the whole table.
        np.add.at(totals, block.lcz, block.weight.astype(np.float64))
        sizes.append(len(block.lcz))
    return Spool(folder, tuple(sizes), totals, batches.names, batches.products, batches.synthetic)


@contextmanager
def scratch_folder(parent: str | Path | None = None) -> Iterator[Path]:
    """A new folder in ``parent`` that is removed when the ``with`` ends.

    Folders that killed processes left in ``parent`` are removed first.

    Parameters
    ----------
    parent : str or pathlib.Path, optional
        Default: the system's folder for temporary files.

    Raises
    ------
    StoreError
        If nothing can be written there.
    """
    from filelock import FileLock

    home = Path(tempfile.gettempdir() if parent is None else parent)
    folder = home / f"{_PREFIX}{uuid4().hex}"
    # The system frees the lock of a process that dies: a lock that can be taken has no owner.
    lock = FileLock(_lock_path(folder))
    try:
        home.mkdir(parents=True, exist_ok=True)
        _sweep(home)
        lock.acquire()
        folder.mkdir()
    except OSError as error:
        raise _unwritable(home, error) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _lock_path(folder).unlink(missing_ok=True)
        lock.release()


def _lock_path(folder: Path) -> Path:
    return folder.with_suffix(".lock")


def _sweep(home: Path) -> None:
    from filelock import FileLock, Timeout

    for path in home.glob(f"{_PREFIX}*.lock"):
        try:
            with FileLock(path, timeout=0):
                logger.info("removing %s of a process that was killed", path.with_suffix(""))
                shutil.rmtree(path.with_suffix(""), ignore_errors=True)
                path.unlink(missing_ok=True)
        except (Timeout, PermissionError):
            logger.debug("%s is in use", path)


def _unwritable(folder: Path, error: OSError) -> StoreError:
    return StoreError(
        f"scratch folder {folder} cannot be written: {error.strerror or error}. Name one with "
        "space for the table (scratch=)."
    )


def _usable(batches: Batches) -> Iterator[Batch]:
    for batch in batches:
        _require_shape(batch, len(batches.names))
        use = usable_rows(batch.features, batch.lcz, batch.weight, batches.names)
        yield _rows_of(batch, np.flatnonzero(use))


def _require_shape(batch: Batch, n_features: int) -> None:
    n = len(batch.lcz)
    if batch.features.shape != (n, n_features) or batch.weight.shape != (n,):
        raise ModelError(
            f"a batch has features {batch.features.shape}, weights {batch.weight.shape} and {n} "
            f"labels; with {n_features} names of features it has ({n}, {n_features}) and ({n},)."
        )


def _blocks(batches: Iterator[Batch], n_block: int, n_features: int) -> Iterator[Batch]:
    """The same rows in blocks of ``n_block``, the last one shorter; all in one buffer."""
    buffer = Batch(
        np.empty((n_block, n_features), np.float32),
        np.empty(n_block, np.uint8),
        np.empty(n_block, np.float32),
    )
    filled = 0
    for batch in batches:
        start = 0
        while start < len(batch.lcz):
            n = min(n_block - filled, len(batch.lcz) - start)
            for target, source in zip(_columns(buffer), _columns(batch), strict=True):
                target[filled : filled + n] = source[start : start + n]
            filled, start = filled + n, start + n
            if filled == n_block:
                yield buffer
                filled = 0
    if filled:
        yield _rows_of(buffer, np.arange(filled))


def _save(block: Batch, folder: Path, number: int) -> None:
    try:
        for path, column in zip(_paths(folder, number), _columns(block), strict=True):
            np.save(path, column)
    except OSError as error:
        raise _unwritable(folder.parent.parent, error) from error


def _paths(folder: Path, number: int) -> list[Path]:
    return [folder / f"{number:06d}.{name}.npy" for name in ("features", "lcz", "weight")]


def _columns(batch: Batch) -> tuple[npt.NDArray[Any], ...]:
    return batch.features, batch.lcz, batch.weight


def _rows_of(batch: Batch, at: npt.NDArray[np.intp]) -> Batch:
    return Batch(*(column[at] for column in _columns(batch)))
