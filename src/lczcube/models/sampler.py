"""The windows that a network trains on: read once in the order of the chunks, kept on disk.

Chunks are read once, as decoding them again in every epoch costs more than the training itself. The
windows go as they are into one file without a name, which the system removes when it is closed,
however the process ends. Batches are read from there in any order.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from lczcube.errors import ModelError, StoreError
from lczcube.models.inputs import Inputs, layers_valid

READ_BYTES = 512 << 20
"""Most decoded pixels that are read in one go, unless one chunk holds more."""

SCAN_BYTES = 64 << 20
"""Windows that one step of a pass over the file holds."""

Float32 = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LabelledWindows:
    """Where the windows of one city lie, and what their labels are.

    Attributes
    ----------
    city : str
        Name, for messages.
    image : xarray.DataArray
        float32, dims ``(band, y, x)``, NaN where invalid; lazy or not.
    rows, columns : numpy.ndarray
        int64, shape (n,): upper-left pixels of the windows in the image; windows may reach past it.
    labels : callable
        Of window numbers: codes uint8 and weights float32, shape (n, side, side) of the labels.
    """

    city: str
    image: xr.DataArray
    rows: Indices
    columns: Indices
    labels: Callable[[Indices], tuple[UInt8, Float32]]


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows on disk.

    Attributes
    ----------
    file : file
        Open and without a name.
    record : numpy.dtype
        ``image`` float32 (band, side, side), NaN where invalid; ``lcz`` uint8 and ``weight``
        float32, (label side, label side).
    n : int
        Number of windows.
    """

    file: IO[bytes]
    record: np.dtype[Any]
    n: int

    def __len__(self) -> int:
        return self.n

    def read(self, ids: Indices) -> npt.NDArray[Any]:
        """Some of them, in memory, by number."""
        return np.asarray(self.mapped()[ids])

    def parts(self) -> Iterator[Indices]:
        """Numbers of all, as many at a time as a pass should hold."""
        step = max(SCAN_BYTES // self.record.itemsize, 1)
        for start in range(0, self.n, step):
            yield np.arange(start, min(start + step, self.n))

    def mapped(self) -> "np.memmap[Any, Any]":
        """All of them, on disk. Pages count as memory of the process while this is held."""
        return np.memmap(self.file, dtype=self.record, mode="r+", shape=(self.n,))


@dataclass(frozen=True, eq=False)
class Scan:
    """What one pass over the windows finds.

    Attributes
    ----------
    inputs : Inputs
        Normalisation of the bands, by the valid pixels that have a label.
    taught : numpy.ndarray
        int64: windows with a label that counts.
    n_labels, total_weight : numpy.ndarray
        float64, shape (18,): labels that count of each code, and their weights.
    digest : str
        SHA-256 of all windows, hex.
    """

    inputs: Inputs
    taught: Indices
    n_labels: npt.NDArray[np.float64]
    total_weight: npt.NDArray[np.float64]
    digest: str


@contextmanager
def windows_on_disk(
    cities: Sequence[LabelledWindows], *, side: int, label_side: int, scratch: str | Path | None
) -> Iterator[Windows]:
    """The windows of all cities, in their order; reads the chunks that they meet.

    Parameters
    ----------
    cities : sequence of LabelledWindows
        With the same bands.
    side, label_side : int
        Pixels along a window, and along its labels.
    scratch : str or Path, optional
        Folder of the file. Default: that of the system for temporary files.

    Raises
    ------
    StoreError
        If the folder has no room for the file.
    """
    n_bands = cities[0].image.sizes["band"]
    record = np.dtype(
        [
            ("image", np.float32, (n_bands, side, side)),
            ("lcz", np.uint8, (label_side, label_side)),
            ("weight", np.float32, (label_side, label_side)),
        ]
    )
    n = sum(len(city.rows) for city in cities)
    folder = Path(scratch) if scratch is not None else Path(tempfile.gettempdir())
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        _reserve(file, n * record.itemsize, folder)
        windows = Windows(file, record, n)
        first = 0
        for city in cities:
            _write_city(windows, first, city)
            first += len(city.rows)
        yield windows


def scan(
    windows: Windows, layer: npt.NDArray[np.int64], *, names: Sequence[str] | None = None
) -> Scan:
    """Normalisation, labels and digest of windows; one pass over their file.

    Parameters
    ----------
    windows : Windows
        Of training or validation.
    layer : numpy.ndarray
        int64, shape (band,): number of each band's layer.
    names : sequence of str, optional
        Of the layers of a training. Default: a layer need not be there.

    Raises
    ------
    ModelError
        If labels count, and a layer of a training has no valid pixel under any.
    """
    moments = _Moments.zero(len(layer))
    n_labels, total = np.zeros(18), np.zeros(18)
    taught, digest = [], hashlib.sha256()
    for ids in windows.parts():
        part = windows.read(ids)
        digest.update(part.tobytes())
        valid = layers_valid(part["image"], layer)
        counts = taught_labels(part, valid)
        taught.append(ids[counts.any(axis=(1, 2))])
        codes = part["lcz"][counts]
        n_labels += np.bincount(codes, minlength=18)
        total += np.bincount(codes, part["weight"][counts], minlength=18)
        for band, number in enumerate(layer):
            pixels = valid[:, number] & np.broadcast_to(counts, valid[:, number].shape)
            moments.add(band, part["image"][:, band][pixels])
    if names is not None and n_labels.any() and not moments.n.all():
        absent = names[layer[int(np.argmin(moments.n))]]
        raise ModelError(
            f"layer {absent} has no valid pixel under any label of any city; there is nothing to "
            "learn from it. Leave it out, or add a city that has it."
        )
    inputs = Inputs(*moments.mean_std(), layer)
    numbers = np.concatenate([np.zeros(0, np.int64), *taught])
    return Scan(inputs, numbers, n_labels, total, digest.hexdigest())


def taught_labels(records: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> Any:
    """Labels that count: a code, a weight, and a valid pixel of the first layer.

    bool, shape of the labels; for one label a window, any valid pixel of the window.
    """
    first = valid[:, 0]
    is_whole = records["lcz"].shape[1:] != first.shape[1:]
    seen = np.any(first, axis=(1, 2), keepdims=True) if is_whole else first
    return seen & (records["lcz"] > 0) & (records["weight"] > 0)


@dataclass
class _Moments:
    """Counts, means and sums of squared deviations of bands, joined part by part (Chan 1979)."""

    n: npt.NDArray[np.float64]
    mean: npt.NDArray[np.float64]
    squares: npt.NDArray[np.float64]

    @classmethod
    def zero(cls, n_bands: int) -> "_Moments":
        return cls(np.zeros(n_bands), np.zeros(n_bands), np.zeros(n_bands))

    def add(self, band: int, values: Float32) -> None:
        if not len(values):
            return
        mean = float(values.mean(dtype=np.float64))
        apart, n = mean - self.mean[band], self.n[band] + len(values)
        self.squares[band] += float(values.var(dtype=np.float64)) * len(values)
        self.squares[band] += apart**2 * self.n[band] * len(values) / n
        self.mean[band] += apart * len(values) / n
        self.n[band] = n

    def mean_std(self) -> tuple[Float32, Float32]:
        std = np.sqrt(self.squares / np.maximum(self.n, 1)).astype(np.float32)
        return self.mean.astype(np.float32), np.where(std > 0, std, np.float32(1))


def _reserve(file: IO[bytes], n_bytes: int, folder: Path) -> None:
    """Take the room at once: a mapped file that the disk cannot hold kills the process later."""
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        raise StoreError(
            f"the windows to train on take {n_bytes / 1e9:.1f} GB, and {folder} has "
            f"{free / 1e9:.1f} GB left; name another folder as scratch, or train on fewer labels."
        )
    if hasattr(os, "posix_fallocate") and n_bytes:
        os.posix_fallocate(file.fileno(), 0, n_bytes)
    else:
        file.truncate(n_bytes)


def _write_city(windows: Windows, first: int, city: LabelledWindows) -> None:
    ids = np.arange(len(city.rows))
    step = max(SCAN_BYTES // windows.record.itemsize, 1)
    for start in range(0, len(ids), step):
        some = ids[start : start + step]
        records = windows.mapped()[first + start : first + start + len(some)]
        records["lcz"], records["weight"] = city.labels(some)
        records["image"][_reach_past(city, windows, some)] = np.nan
    for row, column, values in _chunks(city, windows.record["image"].shape[-1]):
        _paste(windows.mapped()[first : first + len(ids)]["image"], values, row, column, city)


def _reach_past(city: LabelledWindows, windows: Windows, ids: Indices) -> npt.NDArray[np.bool_]:
    side = windows.record["image"].shape[-1]
    height, width = city.image.shape[1:]
    rows, columns = city.rows[ids], city.columns[ids]
    before, after = (rows < 0) | (columns < 0), (rows + side > height) | (columns + side > width)
    return np.asarray(before | after)


def _chunks(city: LabelledWindows, side: int) -> Iterator[tuple[int, int, Float32]]:
    """Chunks that meet a window, each once, with the row and column of their first pixel."""
    import dask.array as da
    from dask.base import compute

    data = da.asarray(city.image.data).rechunk({0: -1})
    y_at, x_at = (np.concatenate([[0], np.cumsum(sizes)]) for sizes in data.chunks[1:])
    for i in range(len(y_at) - 1):
        met = [
            (int(y_at[i]), int(x_at[j]), data.blocks[0, i, j])
            for j in range(len(x_at) - 1)
            if _meets(city, side, (y_at[i], y_at[i + 1]), (x_at[j], x_at[j + 1]))
        ]
        n_bytes = max((block.nbytes for _, _, block in met), default=1)
        n_together = max(READ_BYTES // n_bytes, 1)
        for group in (met[k : k + n_together] for k in range(0, len(met), n_together)):
            values = list(compute(*(block for _, _, block in group)))
            for row, column, _ in group:
                yield row, column, np.asarray(values.pop(0))


def _meets(city: LabelledWindows, side: int, y: tuple[int, int], x: tuple[int, int]) -> bool:
    inside_y = (city.rows < y[1]) & (city.rows + side > y[0])
    return bool((inside_y & (city.columns < x[1]) & (city.columns + side > x[0])).any())


def _paste(image: Any, values: Float32, top: int, left: int, city: LabelledWindows) -> None:
    """Copy a chunk into the windows that it meets."""
    side = image.shape[-1]
    bottom, right = top + values.shape[1], left + values.shape[2]
    met = (city.rows < bottom) & (city.rows + side > top)
    met &= (city.columns < right) & (city.columns + side > left)
    for i in np.flatnonzero(met).tolist():
        row, column = int(city.rows[i]), int(city.columns[i])
        y0, y1 = max(row, top), min(row + side, bottom)
        x0, x1 = max(column, left), min(column + side, right)
        part = values[:, y0 - top : y1 - top, x0 - left : x1 - left]
        image[i, :, y0 - row : y1 - row, x0 - column : x1 - column] = part
