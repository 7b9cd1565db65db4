"""Connected pixels of one code, exact over the borders of chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import dask
import dask.array as da
import numpy as np
import numpy.typing as npt

Connectivity = Literal[4, 8]
"""Neighbours of a pixel: along rows and columns, or along diagonals too."""

Codes = npt.NDArray[np.uint16]
Numbers = npt.NDArray[np.int64]
Answers = npt.NDArray[np.bool_]


def in_large_component(codes: da.Array, *, min_px: int, connectivity: Connectivity) -> da.Array:
    """True where a code above 0 is one of at least ``min_px`` connected pixels of that code.

    Parameters
    ----------
    codes : dask.array.Array
        uint16, shape (rows, columns); 0 belongs to no component.
    min_px : int
        Pixels of the smallest component that counts.
    connectivity : int
        4 or 8.

    Returns
    -------
    dask.array.Array
        bool, in the chunks of ``codes``; the same values in any chunking. Lazy.

    Notes
    -----
    Every chunk is cut into its components, those that touch along borders are joined, and only then
    is a chunk's answer known: the numbers of all chunks, 8 bytes a pixel, wait for the last one.
    """
    if min_px <= 1:
        return codes > 0
    parts = [
        [dask.delayed(_part, pure=True)(block, connectivity) for block in row]
        for row in codes.to_delayed()
    ]
    frames = [[dask.delayed(_frame, pure=True)(part) for part in row] for row in parts]
    answers = dask.delayed(_answers, pure=True)(frames, min_px, connectivity)
    rows, columns = codes.chunks
    blocks = [
        [
            da.from_delayed(
                dask.delayed(_answer, pure=True)(part, answers[i][j]),
                (rows[i], columns[j]),
                dtype=bool,
            )
            for j, part in enumerate(row)
        ]
        for i, row in enumerate(parts)
    ]
    return da.block(blocks)


@dataclass(frozen=True)
class _Part:
    """The components of a chunk: codes, numbers from 0 (-1 for code 0), pixels of each."""

    codes: Codes
    numbers: Numbers
    sizes: Numbers


@dataclass(frozen=True)
class _Edge:
    """A row or column of a chunk at its border."""

    codes: Codes
    numbers: Numbers


@dataclass(frozen=True)
class _Frame:
    """What the chunks around need to know of a chunk."""

    sizes: Numbers
    top: _Edge
    bottom: _Edge
    left: _Edge
    right: _Edge


def _part(codes: Codes, connectivity: Connectivity) -> _Part:
    is_any = codes > 0
    pixels = np.full(codes.shape, -1, np.int64)
    pixels[is_any] = np.arange(np.count_nonzero(is_any))
    found = _joined(_touching(codes, pixels, connectivity), int(np.count_nonzero(is_any)))
    numbers = np.full(codes.shape, -1, np.int64)
    numbers[is_any] = found
    return _Part(codes, numbers, np.bincount(found))


def _frame(part: _Part) -> _Frame:
    codes, numbers = part.codes, part.numbers
    return _Frame(
        part.sizes,
        top=_Edge(codes[0], numbers[0]),
        bottom=_Edge(codes[-1], numbers[-1]),
        left=_Edge(codes[:, 0], numbers[:, 0]),
        right=_Edge(codes[:, -1], numbers[:, -1]),
    )


def _answers(
    frames: Sequence[Sequence[_Frame]], min_px: int, connectivity: Connectivity
) -> list[list[Answers]]:
    """Of every chunk, which of its components are part of a large one."""
    sizes = [frame.sizes for row in frames for frame in row]
    stops = np.cumsum([len(each) for each in sizes])
    starts = np.concatenate([[0], stops[:-1]]).reshape(len(frames), -1)
    pairs = [_touching(*strip, connectivity) for strip in _strips(frames, starts)]
    whole = _joined(np.concatenate([np.empty((2, 0), np.int64), *pairs], axis=1), int(stops[-1]))
    is_large = np.bincount(whole, weights=np.concatenate(sizes))[whole] >= min_px
    pieces = np.split(is_large, stops[:-1])
    width = len(frames[0])
    return [pieces[i : i + width] for i in range(0, len(pieces), width)]


def _strips(frames: Sequence[Sequence[_Frame]], starts: Numbers) -> Iterator[tuple[Codes, Numbers]]:
    """Codes and numbers, over all chunks, of the two lines of pixels along every border.

    A border is taken over all its length, so that the corner where four chunks meet is in it.
    """
    for upper, lower in zip(range(len(frames)), range(1, len(frames)), strict=False):
        above = [(frame.bottom, n) for frame, n in zip(frames[upper], starts[upper], strict=True)]
        below = [(frame.top, n) for frame, n in zip(frames[lower], starts[lower], strict=True)]
        yield _strip(above, below)
    columns = list(zip(*frames, strict=True))
    for left, right in zip(range(len(columns)), range(1, len(columns)), strict=False):
        west = [(f.right, n) for f, n in zip(columns[left], starts[:, left], strict=True)]
        east = [(f.left, n) for f, n in zip(columns[right], starts[:, right], strict=True)]
        yield _strip(west, east)


def _strip(
    first: Sequence[tuple[_Edge, int]], second: Sequence[tuple[_Edge, int]]
) -> tuple[Codes, Numbers]:
    lines = (first, second)
    codes = np.stack([np.concatenate([edge.codes for edge, _ in line]) for line in lines])
    numbers = np.stack([np.concatenate([edge.numbers + n for edge, n in line]) for line in lines])
    return codes, numbers


def _touching(codes: Codes, numbers: Numbers, connectivity: Connectivity) -> Numbers:
    """Pairs of numbers of neighbouring pixels that have one code above 0, shape (2, n)."""
    whole, first, last = slice(None), slice(None, -1), slice(1, None)
    steps = [((whole, first), (whole, last)), ((first, whole), (last, whole))]
    if connectivity == 8:
        steps += [((first, first), (last, last)), ((first, last), (last, first))]
    pairs = []
    for here, there in steps:
        is_same = (codes[here] == codes[there]) & (codes[here] > 0)
        pairs.append(np.stack([numbers[here][is_same], numbers[there][is_same]]))
    return np.concatenate(pairs, axis=1)


def _joined(pairs: Numbers, n: int) -> Numbers:
    """The component of each of ``n`` numbers."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(pairs.shape[1], bool), pairs), shape=(n, n))
    found: Numbers = connected_components(graph, directed=False)[1]
    return found.astype(np.int64)


def _answer(part: _Part, is_large: Answers) -> Answers:
    """Number -1, no component, is the last of the answers: no."""
    answer: Answers = np.append(is_large, False)[part.numbers]
    return answer
