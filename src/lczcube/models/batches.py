"""Labelled features in batches that never stand in memory together: what trees train on."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from lczcube.errors import GridMismatchError, LabelError, ModelError
from lczcube.labels.samples import iter_samples, read_sample_header, sample_frame
from lczcube.models.meta import _first_difference, _listed
from lczcube.models.pixels import pixels_of
from lczcube.models.tabular import Described, feature_names, products_of, sample_weights
from lczcube.models.unet import Area

Selection = npt.NDArray[np.bool_] | Callable[[pd.DataFrame], npt.ArrayLike]

_ROWS = 4096
"""Rows of a batch where nothing in the source says how many: 6 MiB of 384 features."""


@dataclass(frozen=True)
class Batch:
    """Some labelled feature vectors.

    Attributes
    ----------
    features : numpy.ndarray
        float32, shape (n, n_features), NaN where unknown.
    lcz : numpy.ndarray
        uint8, shape (n,), 1-17, 0 where there is no label.
    weight : numpy.ndarray
        float32, shape (n,), 0 to leave a row out.
    """

    features: npt.NDArray[np.float32]
    lcz: npt.NDArray[np.uint8]
    weight: npt.NDArray[np.float32]


class Batches(Described, Protocol):
    """A table in batches; iterating again gives the same rows in the same order."""

    def __iter__(self) -> Iterator[Batch]:
        """The batches, read as they are asked for."""


@dataclass(frozen=True)
class SourceBatches:
    """Batches that a function reads anew each time.

    Attributes
    ----------
    names, products : tuple of str
        Of the features.
    synthetic : bool
        True when the data are made up.
    read : callable
        Gives an iterator of batches from the first on.
    """

    names: tuple[str, ...]
    products: tuple[str, ...]
    synthetic: bool
    read: Callable[[], Iterator[Batch]]

    def __iter__(self) -> Iterator[Batch]:
        """The batches, read as they are asked for."""
        return self.read()


def sample_batches(samples: xr.Dataset) -> SourceBatches:
    """Batches of a Dataset of samples, in memory or lazy (from a Zarr store, say).

    Parameters
    ----------
    samples : xarray.Dataset
        As :func:`lczcube.models.fit_xgb` takes them. Lazy samples are read a chunk along
        ``sample`` at a time.
    """
    columns = samples[["features", "lcz", *(["weight"] if "weight" in samples else [])]]

    def read() -> Iterator[Batch]:
        for start, stop in sample_chunks(samples):
            yield _batch(columns.isel(sample=slice(start, stop)).compute())

    return _source(samples, read)


def parquet_batches(path: str | Path, *, rows: Selection | None = None) -> SourceBatches:
    """Batches of a Parquet table of samples, read a row group at a time.

    Parameters
    ----------
    path : str or pathlib.Path
        Written by :func:`lczcube.labels.samples.write_samples`.
    rows : numpy.ndarray or callable, optional
        Rows to give: bool, one per row of the file, in its order; or a function that says so of a
        table of the columns without the features (``group``, ``split``, ``origin``, ...), and is
        asked for a part of the file at a time. Default: all.

    Raises
    ------
    LabelError
        If ``rows`` has another length than the table.
    """

    def read() -> Iterator[Batch]:
        start = 0
        for part in iter_samples(path, n_rows=_ROWS):
            stop = start + part.sizes["sample"]
            yield _batch(part.isel(sample=_selected(part, rows, start, stop)))
            start = stop
        if isinstance(rows, np.ndarray) and len(rows) != start:
            raise LabelError(f"rows has {len(rows)} values and {path} {start} rows; give one each.")

    return _source(read_sample_header(path), read)


def cell_batches(features: xr.Dataset, labels: pd.DataFrame) -> SourceBatches:
    """Batches of the features of labelled cells, read a chunk at a time, in the order on disk.

    Parameters
    ----------
    features : xarray.Dataset
        From :func:`lczcube.aggregate`, or as stored: ``features`` ``(cell_y, cell_x, feature)``,
        ``covered`` ``(cell_y, cell_x)``. A cell that is not covered gives no row.
    labels : pandas.DataFrame
        ``row``, ``column`` of each label's cell, ``lcz``, and ``weight`` where labels differ. A
        cell with two labels gives two rows.
    """
    values = features["features"].transpose("cell_y", "cell_x", "feature")
    known = values.where(features["covered"])
    _require_inside(labels, known.shape[0], known.shape[1])
    return _source(features, lambda: _raster_batches(known.data, labels))


def pixel_batches(area: Area) -> SourceBatches:
    """Batches of the bare band values of labelled pixels, read a chunk at a time.

    Parameters
    ----------
    area : Area
        Image and labels of a city. The image says its ``products``, and ``synthetic``, in its
        attributes, as :func:`lczcube.cube.image` does.

    Raises
    ------
    GridMismatchError
        If the labels do not lie on the image.
    """
    inner = pixels_of(area.image, area.lcz.shape, area.halo_px, where=area.city)

    def read() -> Iterator[Batch]:
        row, column = (index.astype(np.int32) for index in np.nonzero(area.lcz))
        labels = pd.DataFrame({"row": row, "column": column, "lcz": area.lcz[row, column]})
        if area.weight is not None:
            labels["weight"] = area.weight[row, column]
        return _raster_batches(inner.data, labels)

    return _source(inner.rename(band="feature"), read)


def joined_batches(parts: Sequence[Batches]) -> SourceBatches:
    """Batches of several files, cities or kinds of source, one after the other.

    Raises
    ------
    ModelError
        If their features or products differ.
    """
    first = parts[0]
    for part in parts[1:]:
        require_same_features(first, part)

    def read() -> Iterator[Batch]:
        for part in parts:
            yield from part

    return SourceBatches(first.names, first.products, any(p.synthetic for p in parts), read)


def read_batches(batches: Batches) -> xr.Dataset:
    """All rows of batches as samples in memory, which is what the baselines take."""
    empty = Batch(
        np.empty((0, len(batches.names)), np.float32),
        np.empty(0, np.uint8),
        np.empty(0, np.float32),
    )
    parts = [empty, *batches]
    return xr.Dataset(
        {
            "features": (("sample", "feature"), np.concatenate([p.features for p in parts])),
            "lcz": ("sample", np.concatenate([p.lcz for p in parts])),
            "weight": ("sample", np.concatenate([p.weight for p in parts])),
        },
        coords={"feature": list(batches.names)},
        attrs={"products": list(batches.products), "synthetic": int(batches.synthetic)},
    )


def require_same_features(one: Described, other: Described) -> None:
    """Raise unless two tables have the same features in the same order, of the same products.

    Raises
    ------
    ModelError
        Naming both products, or the first feature that differs.
    """
    if sorted(one.products) != sorted(other.products):
        raise ModelError(
            f"features of {_listed(one.products)} and of {_listed(other.products)} are not of one "
            "feature space; train on the same inputs in every city."
        )
    if one.names != other.names:
        raise ModelError(
            f"one table has {len(one.names)} features, another {len(other.names)}: "
            f"{_first_difference(one.names, other.names)}. Aggregate every city with the same "
            "inputs and stats, in the same order."
        )


def _source(data: xr.Dataset | xr.DataArray, read: Callable[[], Iterator[Batch]]) -> SourceBatches:
    synthetic = bool(data.attrs.get("synthetic", False))
    return SourceBatches(feature_names(data), products_of(data.attrs), synthetic, read)


def _batch(samples: xr.Dataset) -> Batch:
    """Samples in memory as a batch."""
    features = samples["features"].transpose("sample", "feature").to_numpy()
    lcz = samples["lcz"].to_numpy()
    return Batch(features.astype(np.float32, copy=False), lcz, sample_weights(samples))


def sample_chunks(samples: xr.Dataset) -> Iterator[tuple[int, int]]:
    """First row and the one past the last of each chunk; of small parts where there are none."""
    n = samples.sizes["sample"]
    chunks = dict(samples["features"].chunksizes).get("sample")
    edges = np.cumsum([0, *chunks]) if chunks else np.append(np.arange(0, n, _ROWS), n)
    return pairwise(edges.tolist())


def _selected(
    part: xr.Dataset, rows: Selection | None, start: int, stop: int
) -> npt.NDArray[np.intp]:
    if rows is None:
        return np.arange(stop - start)
    if callable(rows):
        return np.flatnonzero(np.asarray(rows(sample_frame(part)), bool))
    return np.flatnonzero(rows[start:stop])


def _require_inside(labels: pd.DataFrame, height: int, width: int) -> None:
    row, column = labels["row"].to_numpy(), labels["column"].to_numpy()
    outside = (row < 0) | (row >= height) | (column < 0) | (column >= width)
    if outside.any():
        first = int(np.flatnonzero(outside)[0])
        raise GridMismatchError(
            f"{int(outside.sum())} labels lie outside the {height} x {width} cells, the first at "
            f"row {row[first]}, column {column[first]}; count rows and columns on the features' "
            "own grid."
        )


def _raster_batches(values: Any, labels: pd.DataFrame) -> Iterator[Batch]:
    """A batch for each chunk of ``values``, (y, x, feature), that holds labels."""
    rows, columns = (_edges(values, axis) for axis in (0, 1))
    chunk_row = np.searchsorted(rows, labels["row"], side="right") - 1
    chunk_column = np.searchsorted(columns, labels["column"], side="right") - 1
    for (i, j), part in labels.groupby([chunk_row, chunk_column], sort=True):
        chunk = np.asarray(values[rows[i] : rows[i + 1], columns[j] : columns[j + 1]])
        found = chunk[part["row"] - rows[i], part["column"] - columns[j]]
        weight = part["weight"] if "weight" in part else np.ones(len(part))
        yield Batch(
            found.astype(np.float32, copy=False),
            part["lcz"].to_numpy(),
            np.asarray(weight, np.float32),
        )


def _edges(values: Any, axis: int) -> npt.NDArray[np.intp]:
    chunks = values.chunks[axis] if hasattr(values, "chunks") else [values.shape[axis]]
    return np.cumsum([0, *chunks])
