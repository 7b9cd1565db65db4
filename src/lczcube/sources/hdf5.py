"""HDF5 files, read defensively: their own datasets only, nothing that points elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lczcube.errors import SourceError
from lczcube.sources.files import first_line

if TYPE_CHECKING:
    import h5py

MOST_CHUNK_BYTES = 512 << 20
"""HDF5 inflates a chunk as a whole; no publisher's is larger."""

BLOCK_ROWS = 65_536


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file to read.

    Raises
    ------
    SourceError
        If it is no HDF5, or a dataset of it cannot be read.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError) as error:
        raise SourceError(
            f"{path} cannot be read as HDF5 ({first_line(error)}); fetch it again, and unpack it "
            "where it is an archive."
        ) from error


def find_dataset(file: h5py.File, name: str) -> h5py.Dataset | None:
    """A dataset at the root of a file, or None where there is nothing of that name.

    Raises
    ------
    SourceError
        If it is a link, a group or a virtual dataset, keeps its values in other files, or has
        chunks of more than 512 MiB.
    """
    import h5py

    key = name.encode()
    if not file.id.links.exists(key):
        return None
    if file.id.links.get_info(key).type != h5py.h5l.TYPE_HARD:
        raise SourceError(f"{file.filename}: {name} is a link, which is not followed; {_COPY}.")
    held = file[name]
    if not isinstance(held, h5py.Dataset):
        raise SourceError(f"{file.filename}: {name} is a group; it must be a dataset.")
    if held.is_virtual or held.external:
        raise SourceError(f"{file.filename}: the values of {name} lie in other files; {_COPY}.")
    chunk_bytes = math.prod(held.chunks or (0,)) * _dtype(held, name).itemsize
    if chunk_bytes > MOST_CHUNK_BYTES:
        raise SourceError(
            f"{file.filename}: {name} has chunks of {chunk_bytes / 2**20:,.0f} MiB, more than "
            f"{MOST_CHUNK_BYTES / 2**20:,.0f}; store it in smaller chunks."
        )
    return held


def _dtype(dataset: h5py.Dataset, name: str) -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] = dataset.dtype
    except (TypeError, ValueError) as error:
        raise SourceError(
            f"{dataset.file.filename}: {name} is of a type that NumPy lacks ({first_line(error)}); "
            "fetch the file again."
        ) from error
    return dtype


_COPY = "copy the values into this file"


def require_dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """As :func:`find_dataset`, for a dataset that must be there.

    Raises
    ------
    SourceError
        Also if it is not there; the message lists what is.
    """
    held = find_dataset(file, name)
    if held is None:
        names = ", ".join(sorted(map(str, file))) or "nothing"
        raise SourceError(f"{file.filename} has no dataset {name}; it holds {names}.")
    return held


def row_blocks(dataset: h5py.Dataset) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """First row and values of one block of rows after another, whole chunks each."""
    chunk_rows = dataset.chunks[0] if dataset.chunks else 1
    step = math.ceil(BLOCK_ROWS / chunk_rows) * chunk_rows
    for start in range(0, dataset.shape[0], step):
        yield start, np.asarray(dataset[start : start + step])
