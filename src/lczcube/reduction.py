"""Reduction: statistics of windows over the layers of a cube, as one Dask graph.

A layer comes in pieces: the slabs that its files are read in, or the chunks of an array. One task
reads a piece, decodes it and reduces the windows that no other piece touches; of the rest of the
piece it keeps the strips that the other windows need. A second task puts the windows of a group
together. Every pixel is read once, a window has the same bits however the layer is cut, and what is
held between the two kinds of task does not grow with the size of the files.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import shapely
import xarray as xr
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from lczcube.cube import band_names, coded_layers, layer_codes, layer_scales
from lczcube.decoders import Coding
from lczcube.kernels import count_valid, n_columns, reduce_windows, valid_mask
from lczcube.mosaic import Mosaic, Pixels, Slab, mosaics_of, paste
from lczcube.reader import Codes
from lczcube.tiles import Rect

Positions = npt.NDArray[np.int64]

NOBODY, SHARED = -1, -2
"""In place of the one piece that a window touches: it touches none, or several."""


@dataclass(frozen=True)
class Windows:
    """Square windows on the pixels of a cube, halo included.

    Attributes
    ----------
    rows, columns : numpy.ndarray
        int64, upper-left pixels; may lie outside.
    size_px : int
        Side.
    inner_px : int
        Side of the square in the middle whose valid share is counted too; 0 for none.
    """

    rows: Positions
    columns: Positions
    size_px: int
    inner_px: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, ids: Positions) -> "Windows":
        """Some of them."""
        return Windows(self.rows[ids], self.columns[ids], self.size_px, self.inner_px)

    def seen_from(self, rect: Rect) -> "Windows":
        """The same windows, in pixels counted from a rectangle's corner."""
        rows, columns = self.rows - rect.top, self.columns - rect.left
        return Windows(rows, columns, self.size_px, self.inner_px)

    def bounds(self) -> Rect:
        """The smallest rectangle that holds them all."""
        return Rect(
            int(self.rows.min()),
            int(self.columns.min()),
            int(self.rows.max()) + self.size_px,
            int(self.columns.max()) + self.size_px,
        )

    def touch(self, rect: Rect) -> npt.NDArray[np.bool_]:
        """Which of them share a pixel with a rectangle."""
        in_rows = (self.rows < rect.bottom) & (self.rows + self.size_px > rect.top)
        in_columns = (self.columns < rect.right) & (self.columns + self.size_px > rect.left)
        return in_rows & in_columns


@dataclass(frozen=True)
class ChunkedCodes:
    """Codes as an array, cut along ``y`` and ``x`` only.

    Attributes
    ----------
    codes : dask.array.Array
        ``(band, y, x)``.
    scales : dask.array.Array or None
        float32 ``(1 or band, y, x)``, cut like the codes.
    """

    codes: da.Array
    scales: da.Array | None

    @property
    def arrays(self) -> list[da.Array]:
        """Both, or the one there is."""
        return [array for array in (self.codes, self.scales) if array is not None]


@dataclass(frozen=True)
class LayerPieces:
    """One layer of a cube, and the pieces it comes in.

    Attributes
    ----------
    name : str
        Of the layer.
    bands : tuple of str
        Names of its bands.
    coding : Coding
        How codes become values.
    dtype : str
        Of the codes.
    is_present : bool
        False for a layer that the city lacks.
    is_needed : bool
        False for a layer whose holes make no pixel invalid: heights, and what the city lacks.
    empty : float
        Statistics of a window without a valid pixel: NaN, or 0 for a height of nothing.
    rects : tuple of Rect
        One a piece, on the cube's pixels.
    source : Mosaic or ChunkedCodes
        What the pieces are slabs or chunks of.
    """

    name: str
    bands: tuple[str, ...]
    coding: Coding
    dtype: str
    is_present: bool
    is_needed: bool
    empty: float
    rects: tuple[Rect, ...]
    source: Mosaic | ChunkedCodes


@dataclass(frozen=True)
class Group:
    """Windows that are put together in one task.

    Attributes
    ----------
    index : tuple of int
        Place of its chunk in the array.
    ids : numpy.ndarray
        int64, ascending: its windows.
    shape : tuple of int
        Of its chunk, without the columns.
    """

    index: tuple[int, ...]
    ids: Positions
    shape: tuple[int, ...]


def cube_layers(cube: xr.Dataset) -> list[LayerPieces]:
    """The layers of a cube that hold codes, in its order.

    Raises
    ------
    CatalogError
        If a layer holds several dates.
    """
    return [_layer(cube, name) for name in coded_layers(cube)]


def reduce_layers(
    layers: Sequence[LayerPieces],
    windows: Windows,
    groups: Sequence[Group],
    stats: Sequence[str],
    chunks: tuple[tuple[int, ...], ...],
) -> tuple[da.Array, da.Array]:
    """Statistics of windows, and how much of them is valid, as two lazy arrays.

    Parameters
    ----------
    layers : sequence of LayerPieces
        On one frame.
    windows : Windows
        All windows.
    groups : sequence of Group
        One a chunk of the arrays.
    stats : sequence of str
        Of :func:`lczcube.kernels.reduce_windows`.
    chunks : tuple
        Chunks of the arrays' leading dims; the last dim holds the columns.

    Returns
    -------
    statistics : dask.array.Array
        float32, a column a statistic and band of every layer; NaN where a window has no valid
        pixel.
    shares : dask.array.Array
        float32: the share of each window that is valid in every layer and, with ``inner_px``, that
        share of its inner square.
    """
    token = tokenize(
        [(x.name, x.coding, x.rects, x.source) for x in layers],
        (windows.rows, windows.columns, windows.size_px, windows.inner_px),
        [group.ids for group in groups],
        tuple(stats),
    )
    pieces = _pieces_graph(layers, windows, tuple(stats), f"pieces-{token}")
    jobs = [_group_job(layers, windows, group, tuple(stats)) for group in groups]
    n_statistics = sum(n_columns(stats, len(layer.bands)) for layer in layers)
    n_shares = 2 if windows.inner_px else 1
    arrays = []
    for function, width in ((_statistics, n_statistics), (_shares, n_shares)):
        name = f"{function.__name__.strip('_')}-{token}"
        tasks = {
            (name, *group.index, 0): (function, job, *((f"pieces-{token}", *at) for at in met))
            for group, (job, met) in zip(groups, jobs, strict=True)
        }
        graph = HighLevelGraph(
            {**pieces.layers, name: tasks}, {**pieces.dependencies, name: {f"pieces-{token}"}}
        )
        arrays.append(da.Array(graph, name, chunks=(*chunks, (width,)), dtype=np.float32))
    statistics, shares = arrays
    return statistics, shares


@dataclass(frozen=True)
class _PieceJob:
    """What to reduce of a piece: windows in its own pixels, and the strips to keep."""

    ids: Positions
    windows: Windows
    strips: tuple[Rect, ...]
    rect: Rect
    coding: Coding
    stats: tuple[str, ...]


@dataclass(frozen=True)
class _Strip:
    rect: Rect
    codes: Codes
    scales: npt.NDArray[np.float32] | None


@dataclass(frozen=True)
class _Reduced:
    """A piece after its task: finished windows, and what the others need of it.

    ``valid_bits``: the pixels of the piece that are valid and its own, eight to a byte, as many
    pieces wait for their neighbours at a time.
    """

    ids: Positions
    columns: npt.NDArray[np.float32]
    valid_bits: npt.NDArray[np.uint8]
    strips: tuple[_Strip, ...]

    def valid(self, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """The valid pixels, as an array of the piece's shape."""
        bits = np.unpackbits(self.valid_bits, count=shape[0] * shape[1])
        return bits.reshape(shape).astype(bool)


@dataclass(frozen=True)
class _LayerFacts:
    is_needed: bool
    empty: float
    coding: Coding
    n_bands: int
    dtype: str
    rects: tuple[Rect, ...]


@dataclass(frozen=True)
class _GroupJob:
    """Windows to put together, as pixels of the rectangle that holds them."""

    ids: Positions
    windows: Windows
    bounds: Rect
    shape: tuple[int, ...]
    layers: tuple[_LayerFacts, ...]
    stats: tuple[str, ...]


def _layer(cube: xr.Dataset, name: str) -> LayerPieces:
    codes = layer_codes(cube, name)
    mosaics = mosaics_of(cube[name].data)
    source = mosaics[0] if len(mosaics) == 1 else _chunked(codes, layer_scales(cube, name))
    return LayerPieces(
        name=name,
        bands=band_names(cube, name),
        coding=Coding.from_attrs(cube[name].attrs),
        dtype=str(codes.dtype),
        is_present=bool(cube[name].attrs.get("present", 1)),
        is_needed=bool(cube[name].attrs.get("needed", 1)),
        empty=float(cube[name].attrs.get("empty", np.nan)),
        rects=_rects(source),
        source=source,
    )


def _chunked(codes: xr.DataArray, scales: xr.DataArray | None) -> ChunkedCodes:
    array = da.asarray(codes.data).rechunk({0: -1})
    if scales is None:
        return ChunkedCodes(array, None)
    cut = {0: -1, 1: array.chunks[1], 2: array.chunks[2]}
    return ChunkedCodes(array, da.asarray(scales.data).rechunk(cut))


def _rects(source: Mosaic | ChunkedCodes) -> tuple[Rect, ...]:
    if isinstance(source, Mosaic):
        return tuple(slab.rect for slab in source.slabs)
    edges_y, edges_x = (np.cumsum([0, *sizes]).tolist() for sizes in source.codes.chunks[1:])
    return tuple(
        Rect(y0, x0, y1, x1) for y0, y1 in pairwise(edges_y) for x0, x1 in pairwise(edges_x)
    )


def _touched_once(windows: Windows, rects: Sequence[Rect]) -> Positions:
    """The one piece that each window touches; NOBODY, or SHARED by several."""
    tree = shapely.STRtree([shapely.box(r.left, r.top, r.right, r.bottom) for r in rects])
    inset = 0.25  # pieces that only meet the window's edge do not touch it
    boxes = shapely.box(
        windows.columns + inset,
        windows.rows + inset,
        windows.columns + windows.size_px - inset,
        windows.rows + windows.size_px - inset,
    )
    window, piece = tree.query(boxes)
    touched = np.bincount(window, minlength=len(windows))
    owner = np.full(len(windows), NOBODY, dtype=np.int64)
    owner[window] = piece
    owner[touched > 1] = SHARED
    return owner


def _pieces_graph(
    layers: Sequence[LayerPieces], windows: Windows, stats: tuple[str, ...], name: str
) -> HighLevelGraph:
    """A task a piece of every layer, under ``(name, layer, piece)``."""
    tasks: dict[Any, Any] = {}
    for number, layer in enumerate(layers):
        if isinstance(layer.source, Mosaic):
            tasks[f"{name}-mosaic-{number}"] = layer.source
        for position, job in enumerate(_piece_jobs(layer, windows, stats)):
            key = (name, number, position)
            tasks[key] = _piece_task(layer, position, job, f"{name}-mosaic-{number}")
    arrays = [x.source.arrays for x in layers if isinstance(x.source, ChunkedCodes)]
    sources = [array for of_layer in arrays for array in of_layer]
    return HighLevelGraph.from_collections(name, tasks, dependencies=sources)


def _piece_jobs(
    layer: LayerPieces, windows: Windows, stats: tuple[str, ...]
) -> Iterator[_PieceJob]:
    owner = _touched_once(windows, layer.rects)
    shared = windows.take(np.flatnonzero(owner == SHARED))
    order = np.argsort(owner, kind="stable")
    starts = np.searchsorted(owner[order], np.arange(len(layer.rects) + 1))
    for number, rect in enumerate(layer.rects):
        ids = order[starts[number] : starts[number + 1]]
        own = windows.take(ids).seen_from(rect)
        yield _PieceJob(ids, own, _strips(rect, layer.rects, shared), rect, layer.coding, stats)


def _piece_task(layer: LayerPieces, number: int, job: _PieceJob, mosaic_key: str) -> Any:
    source = layer.source
    if isinstance(source, Mosaic):
        return (_reduce_slab, mosaic_key, source.slabs[number], job)
    at = divmod(number, source.codes.numblocks[2])
    return (_reduce_chunk, job, *((array.name, 0, *at) for array in source.arrays))


def _strips(rect: Rect, rects: Sequence[Rect], shared: Windows) -> tuple[Rect, ...]:
    """The parts of a piece that windows shared with other pieces need: at most four."""
    met = shared.take(np.flatnonzero(shared.touch(rect)))
    if not len(met):
        return ()
    inner = _past_the_edges(rect, met)
    if met.touch(inner).any():
        inner = _away_from_others(rect, rects, met.size_px - 1)
    if inner.is_empty:
        return (rect,)
    around = (
        Rect(rect.top, rect.left, inner.top, rect.right),
        Rect(inner.bottom, rect.left, rect.bottom, rect.right),
        Rect(inner.top, rect.left, inner.bottom, inner.left),
        Rect(inner.top, inner.right, inner.bottom, rect.right),
    )
    return tuple(strip for strip in around if not strip.is_empty and met.touch(strip).any())


def _past_the_edges(rect: Rect, windows: Windows) -> Rect:
    """What windows across the edges of a piece leave of it: where pieces only touch, the rest."""
    bottoms, rights = windows.rows + windows.size_px, windows.columns + windows.size_px
    return Rect(
        int(bottoms[windows.rows < rect.top].max(initial=rect.top)),
        int(rights[windows.columns < rect.left].max(initial=rect.left)),
        int(windows.rows[bottoms > rect.bottom].min(initial=rect.bottom)),
        int(windows.columns[rights > rect.right].min(initial=rect.right)),
    )


def _away_from_others(rect: Rect, rects: Sequence[Rect], reach_px: int) -> Rect:
    """A part of a piece that no window reaches which touches another piece, as large as may be."""
    inner = rect
    near = [_grown(other, reach_px) for other in rects if other is not rect]
    near = [other for other in near if not other.meet(rect).is_empty]
    for other in sorted(near, key=lambda r: (-_area(r.meet(rect)), r)):
        if not inner.meet(other).is_empty:
            inner = max(_without(inner, other), key=_area)
    return inner


def _grown(rect: Rect, by_px: int) -> Rect:
    return Rect(rect.top - by_px, rect.left - by_px, rect.bottom + by_px, rect.right + by_px)


def _without(rect: Rect, other: Rect) -> tuple[Rect, ...]:
    """The four largest rectangles in one that leave another out."""
    return (
        Rect(rect.top, rect.left, min(rect.bottom, other.top), rect.right),
        Rect(max(rect.top, other.bottom), rect.left, rect.bottom, rect.right),
        Rect(rect.top, rect.left, rect.bottom, min(rect.right, other.left)),
        Rect(rect.top, max(rect.left, other.right), rect.bottom, rect.right),
    )


def _area(rect: Rect) -> int:
    return 0 if rect.is_empty else int(np.prod(rect.shape))


def _group_job(
    layers: Sequence[LayerPieces], windows: Windows, group: Group, stats: tuple[str, ...]
) -> tuple[_GroupJob, list[tuple[int, int]]]:
    """What a group does, and the ``(layer, piece)`` it wants."""
    own = windows.take(group.ids)
    bounds = own.bounds()
    facts, met = [], []
    for number, layer in enumerate(layers):
        pieces = [i for i, rect in enumerate(layer.rects) if not rect.meet(bounds).is_empty]
        rects = tuple(layer.rects[i] for i in pieces)
        facts.append(
            _LayerFacts(
                layer.is_needed, layer.empty, layer.coding, len(layer.bands), layer.dtype, rects
            )
        )
        met += [(number, i) for i in pieces]
    job = _GroupJob(group.ids, own.seen_from(bounds), bounds, group.shape, tuple(facts), stats)
    return job, met


def _reduce_slab(mosaic: Mosaic, slab: Slab, job: _PieceJob) -> _Reduced:
    return _reduce(mosaic.read(slab), job)


def _reduce_chunk(
    job: _PieceJob, codes: Codes, scales: npt.NDArray[np.float32] | None = None
) -> _Reduced:
    return _reduce(Pixels(codes, scales, None), job)


def _reduce(pixels: Pixels, job: _PieceJob) -> _Reduced:
    """Finish the windows of a piece, and keep its strips."""
    codes, band_last = _as_it_lies(pixels.codes)
    scales = pixels.scales
    valid = valid_mask(codes, job.coding, _like(scales, band_last=band_last), band_last=band_last)
    if pixels.owned is not None:
        valid &= pixels.owned
    columns = reduce_windows(
        codes,
        job.coding,
        valid,
        job.windows.rows,
        job.windows.columns,
        size_px=job.windows.size_px,
        stats=job.stats,
        scales=_like(scales, band_last=band_last),
        band_last=band_last,
    )
    strips = tuple(_strip(pixels, job.rect, rect) for rect in job.strips)
    return _Reduced(job.ids, columns, np.packbits(valid), strips)


def _as_it_lies(codes: Codes) -> tuple[Codes, bool]:
    """Codes without a copy, ``(y, x, band)`` where the bands of a pixel lie side by side."""
    if codes.shape[0] > 1 and codes.strides[0] == codes.itemsize:
        return codes.transpose(1, 2, 0), True
    return codes, False


def _like(
    scales: npt.NDArray[np.float32] | None, *, band_last: bool
) -> npt.NDArray[np.float32] | None:
    """Scales as the kernels take them: ``(y, x)``, or one a band in the order of the codes."""
    if scales is None:
        return None
    if scales.shape[0] == 1:
        return scales.reshape(scales.shape[1:])
    return scales.transpose(1, 2, 0) if band_last else scales


def _strip(pixels: Pixels, rect: Rect, part: Rect) -> _Strip:
    at = part.within(rect)
    scales = None if pixels.scales is None else np.array(pixels.scales[:, *at])
    return _Strip(part, np.array(pixels.codes[:, *at]), scales)


def _statistics(job: _GroupJob, *reduced: _Reduced) -> npt.NDArray[np.float32]:
    """All statistics of a group of windows."""
    parts = [_layer_statistics(job, layer, pieces) for layer, pieces in _by_layer(job, reduced)]
    columns = np.concatenate(parts, axis=1)
    return columns.reshape(*job.shape, columns.shape[1])


def _shares(job: _GroupJob, *reduced: _Reduced) -> npt.NDArray[np.float32]:
    """Shares of a group of windows that are valid in every layer."""
    valid = np.ones(job.bounds.shape, dtype=bool)
    for layer, pieces in _by_layer(job, reduced):
        if layer.is_needed:
            valid &= _assembled_valid(layer, pieces, job.bounds)
    windows = job.windows
    shares = [_share(valid, windows.rows, windows.columns, windows.size_px)]
    if windows.inner_px:
        margin = (windows.size_px - windows.inner_px) // 2
        inner = (windows.rows + margin, windows.columns + margin)
        shares.append(_share(valid, *inner, windows.inner_px))
    columns = np.concatenate(shares, axis=1)
    return columns.reshape(*job.shape, columns.shape[1])


def _by_layer(
    job: _GroupJob, reduced: Sequence[_Reduced]
) -> Iterator[tuple[_LayerFacts, Sequence[_Reduced]]]:
    for layer in job.layers:
        n_pieces = len(layer.rects)
        yield layer, reduced[:n_pieces]
        reduced = reduced[n_pieces:]


def _assembled_valid(
    layer: _LayerFacts, pieces: Sequence[_Reduced], bounds: Rect
) -> npt.NDArray[np.bool_]:
    valid = np.zeros(bounds.shape, dtype=bool)
    for rect, piece in zip(layer.rects, pieces, strict=True):
        part = rect.meet(bounds)
        valid[part.within(bounds)] |= piece.valid(rect.shape)[part.within(rect)]
    return valid


def _layer_statistics(
    job: _GroupJob, layer: _LayerFacts, pieces: Sequence[_Reduced]
) -> npt.NDArray[np.float32]:
    width = n_columns(job.stats, layer.n_bands)
    columns = np.full((len(job.ids), width), np.nan, dtype=np.float32)
    is_left = np.ones(len(job.ids), dtype=bool)
    for piece in pieces:
        _, here, there = np.intersect1d(job.ids, piece.ids, assume_unique=True, return_indices=True)
        columns[here] = piece.columns[there]
        is_left[here] = False
    left = np.flatnonzero(is_left)
    if any(piece.strips for piece in pieces) and len(left):
        codes, scales = _assembled_codes(layer, pieces, job.bounds)
        rest = job.windows.take(left)
        columns[left] = reduce_windows(
            codes,
            layer.coding,
            _assembled_valid(layer, pieces, job.bounds),
            rest.rows,
            rest.columns,
            size_px=rest.size_px,
            stats=job.stats,
            scales=_like(scales, band_last=False),
        )
    return columns if np.isnan(layer.empty) else np.nan_to_num(columns, nan=layer.empty)


def _assembled_codes(
    layer: _LayerFacts, pieces: Sequence[_Reduced], bounds: Rect
) -> tuple[Codes, npt.NDArray[np.float32] | None]:
    """The strips in their places; where there is none the codes are not looked at."""
    codes = np.empty((layer.n_bands, *bounds.shape), dtype=layer.dtype)
    scales = None
    for rect, piece in zip(layer.rects, pieces, strict=True):
        valid = piece.valid(rect.shape)
        for strip in piece.strips:
            part = strip.rect.meet(bounds)
            if part.is_empty:
                continue
            at, here = part.within(bounds), part.within(strip.rect)
            owned = valid[part.within(rect)]
            paste(codes[:, *at], strip.codes[:, *here], owned)
            if strip.scales is not None:
                if scales is None:
                    scales = np.empty((len(strip.scales), *bounds.shape), dtype=np.float32)
                paste(scales[:, *at], strip.scales[:, *here], owned)
    return codes, scales


def _share(
    valid: npt.NDArray[np.bool_], rows: Positions, columns: Positions, size_px: int
) -> npt.NDArray[np.float32]:
    count = count_valid(valid, rows, columns, size_px)
    share: npt.NDArray[np.float32] = (count[:, None] / size_px**2).astype(np.float32)
    return share
