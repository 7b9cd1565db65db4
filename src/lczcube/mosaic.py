"""Mosaics: the tiles of one layer and date on one frame, each pixel from the tile that owns it.

A pixel belongs to the first tile, in order of ownership, whose footprint holds its centre, else to
the first whose extent does; where that tile has no valid pixel the next one that has some gives it,
all bands together. Files are read in slabs of whole compressed blocks, each block once; chunks are
cut from slabs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import shapely
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from odc.geo.geobox import GeoBox

from lczcube.averaging import has_wide_blocks, read_averaged
from lczcube.decoders import Coding
from lczcube.errors import CatalogError
from lczcube.kernels import valid_mask
from lczcube.quantities import Quantity
from lczcube.reader import Codes, Storage, read_tile
from lczcube.tiles import PlacedTile, Rect, frame_rect

SLAB_BYTES = 64 << 20
"""Most codes that one read gives, unless a single compressed block holds more."""

SLAB_PX = 2048
"""Longest side of a slab: a city of one band is then still several tasks."""


STRIP_SLAB_PX = 4 << 20
"""Most pixels of a slab that is averaged from strips: 65 km by a chunk of 640 pixels of 10 m."""

DIMS = ("time", "band", "y", "x")


@dataclass(frozen=True)
class Pixels:
    """Codes of a rectangle of the frame.

    Attributes
    ----------
    codes : numpy.ndarray
        ``(band, y, x)``.
    scales : numpy.ndarray or None
        float32 ``(1 or band, y, x)``, for codes that mean nothing without.
    owned : numpy.ndarray or None
        bool ``(y, x)``: the pixels that are given here; the others belong to another slab. None
        when all are.
    """

    codes: Codes
    scales: npt.NDArray[np.float32] | None
    owned: npt.NDArray[np.bool_] | None


@dataclass(frozen=True)
class Slab:
    """What one task reads: a rectangle of the frame, and the tiles that own pixels there.

    Attributes
    ----------
    rect : Rect
        In the frame.
    owners : tuple of int
        Positions of the tiles whose pixels the slab gives.
    rivals : tuple of int
        Positions of other tiles that reach into the rectangle.
    """

    rect: Rect
    owners: tuple[int, ...]
    rivals: tuple[int, ...]


@dataclass(frozen=True)
class Averaged:
    """What is made of stored pixels by area.

    Attributes
    ----------
    stored : Storage
        How the files hold them.
    quantities : tuple of Quantity
        One a band of the mosaic.
    use_overviews : bool
        As of :func:`lczcube.averaging.read_averaged`.
    """

    stored: Storage
    quantities: tuple[Quantity, ...]
    use_overviews: bool = False


@dataclass(frozen=True)
class Mosaic:
    """Tiles of one layer and date on a frame.

    Attributes
    ----------
    name : str
        Of the layer.
    tiles, scale_tiles : tuple of PlacedTile
        In order of ownership; ``scale_tiles`` beside ``tiles``, or empty.
    frame : odc.geo.geobox.GeoBox
        Pixels that can be read.
    storage : Storage
        Of the codes.
    coding : Coding
        Which pixels are valid.
    chunks : tuple
        Rows and columns of the chunks that arrays are cut into.
    averaged : Averaged or None
        For a layer that is averaged by area: ``storage`` then holds its quantities.
    """

    name: str
    tiles: tuple[PlacedTile, ...]
    scale_tiles: tuple[PlacedTile, ...]
    frame: GeoBox
    storage: Storage
    coding: Coding
    chunks: tuple[tuple[int, ...], tuple[int, ...]]
    averaged: Averaged | None = None

    @cached_property
    def slabs(self) -> tuple[Slab, ...]:
        """What is read, in order: together all pixels of all tiles in the frame, each once."""
        if self.averaged is not None:
            everyone = tuple(range(len(self.tiles)))
            slabs = [self._slab(rect, self._met_by(rect, everyone)) for rect in self._area_rects]
            return tuple(slab for slab in slabs if slab.owners)
        on_lattice = [i for i, placed in enumerate(self.tiles) if placed.on_lattice]
        resampled = tuple(sorted({*range(len(self.tiles))} - {*on_lattice}))
        slabs = [
            self._slab(rect, (i,)) for i in on_lattice for rect in self._block_rects(self.tiles[i])
        ]
        slabs += [
            self._slab(rect, self._met_by(rect, resampled))
            for rect in self.chunk_rects
            if resampled
        ]
        return tuple(slab for slab in slabs if slab.owners)

    @cached_property
    def covered_share(self) -> float:
        """Share of the frame's pixels that lie in the extent of a tile."""
        rows, columns = self.frame.shape
        extents = shapely.union_all([placed.outline for placed in self.tiles])
        return float(shapely.intersection(extents, shapely.box(0, 0, columns, rows)).area) / (
            rows * columns
        )

    def read(self, slab: Slab) -> Pixels:
        """The pixels of a slab; reads its files."""
        if self.averaged is not None:
            tiles = [self.tiles[position] for position in slab.owners]
            codes = read_averaged(
                tiles,
                slab.rect,
                self.frame,
                self.averaged.stored,
                self.averaged.quantities,
                use_overviews=self.averaged.use_overviews,
            )
            return Pixels(codes, None, None)
        if len(slab.owners) == 1 and not slab.rivals:
            (owner,) = slab.owners
            return Pixels(self._read(owner, slab.rect), self._read_scales(owner, slab.rect), None)
        return self._read_shared(slab)

    def of_scales(self) -> "Mosaic":
        """The scales as a mosaic of their own, each pixel from the tile its codes come from."""
        n_bands = 1 if self.scale_tiles[0].tile.axes == "y,x" else self.storage.n_bands
        return Mosaic(
            name=f"{self.name}_scale",
            tiles=self.scale_tiles,
            scale_tiles=self.scale_tiles,
            frame=self.frame,
            storage=Storage("float32", n_bands, None),
            coding=Coding("linear", "finite_scale", None, (1.0,) * n_bands, (0.0,) * n_bands),
            chunks=self.chunks,
        )

    def _block_rects(self, placed: PlacedTile) -> list[Rect]:
        """A tile cut into whole blocks, a slab's worth each, and to the frame."""
        tile, rect = placed.tile, placed.bounds
        edges_y = _slab_edges(tile.shape[0], self._slab_side(tile.block_shape)[0])
        edges_x = _slab_edges(tile.shape[1], self._slab_side(tile.block_shape)[1])
        if tile.affine.e > 0:
            edges_y = [tile.shape[0] - edge for edge in reversed(edges_y)]
        if tile.affine.a < 0:
            edges_x = [tile.shape[1] - edge for edge in reversed(edges_x)]
        cut = [
            Rect(rect.top + y0, rect.left + x0, rect.top + y1, rect.left + x1).meet(
                frame_rect(self.frame)
            )
            for y0, y1 in pairwise(edges_y)
            for x0, x1 in pairwise(edges_x)
        ]
        return [piece for piece in cut if not piece.is_empty]

    def _slab_side(self, block: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of a slab: whole blocks, about square, within the limits."""
        pixel_bytes = self.storage.n_bands * np.dtype(self.storage.dtype).itemsize
        rows, columns = block
        while True:
            taller, wider = rows + block[0], columns + block[1]
            grown = (taller, columns) if taller <= wider else (rows, wider)
            if min(taller, wider) > SLAB_PX or grown[0] * grown[1] * pixel_bytes > SLAB_BYTES:
                return rows, columns
            rows, columns = grown

    @cached_property
    def chunk_rects(self) -> tuple[Rect, ...]:
        """The chunks, row by row."""
        edges_y, edges_x = (np.cumsum([0, *sizes]).tolist() for sizes in self.chunks)
        return tuple(
            Rect(y0, x0, y1, x1) for y0, y1 in pairwise(edges_y) for x0, x1 in pairwise(edges_x)
        )

    @cached_property
    def _area_rects(self) -> tuple[Rect, ...]:
        """What is averaged in one task: a chunk or, of strips, neighbours that cut the same."""
        if not any(has_wide_blocks(placed.tile) for placed in self.tiles):
            return self.chunk_rects
        joined: list[Rect] = []
        for rect in self.chunk_rects:
            whole = rect if not joined else Rect(joined[-1].top, joined[-1].left, *rect[2:])
            is_next = joined and rect.top == joined[-1].top
            if is_next and int(np.prod(whole.shape)) <= STRIP_SLAB_PX:
                joined[-1] = whole
            else:
                joined.append(rect)
        return tuple(joined)

    def _met_by(self, rect: Rect, positions: Sequence[int]) -> tuple[int, ...]:
        return tuple(i for i in positions if not self.tiles[i].bounds.meet(rect).is_empty)

    def _slab(self, rect: Rect, owners: tuple[int, ...]) -> Slab:
        others = [i for i in range(len(self.tiles)) if i not in owners]
        return Slab(rect, owners, self._met_by(rect, others))

    def _read(self, position: int, rect: Rect) -> Codes:
        return read_tile(self.tiles[position], rect, self.frame, self.storage)

    def _read_scales(self, position: int, rect: Rect) -> npt.NDArray[np.float32] | None:
        if not self.scale_tiles:
            return None
        placed = self.scale_tiles[position]
        n_bands = 1 if placed.tile.axes == "y,x" else self.storage.n_bands
        return read_tile(placed, rect, self.frame, Storage("float32", n_bands, None))

    def _read_shared(self, slab: Slab) -> Pixels:
        """A slab where tiles meet: a pixel from its owner, a hole from the next that has data."""
        rect = slab.rect
        everyone = sorted({*slab.owners, *slab.rivals})
        owner = self._owner_map(everyone, rect)
        owned = np.isin(owner, slab.owners)
        if len(slab.owners) == 1:
            (alone,) = slab.owners
            pixels = Pixels(self._read(alone, rect), self._read_scales(alone, rect), owned)
        else:
            pixels = self._blank(rect, owned)
            for position in slab.owners:
                self._fill(pixels, position, owner == position, rect)
        missing = owned & ~valid_mask(pixels.codes, self.coding, _flat(pixels.scales))
        return self._without_holes(pixels, missing, everyone, owner, rect)

    def _without_holes(
        self,
        pixels: Pixels,
        missing: npt.NDArray[np.bool_],
        positions: Sequence[int],
        owner: npt.NDArray[np.int32],
        rect: Rect,
    ) -> Pixels:
        """Missing pixels from the next tile in order that has some."""
        is_own_copy = False
        for footprint in (True, False):
            for position in positions if missing.any() else ():
                covered = self.tiles[position].covers(rect, footprint=footprint)
                wanted = missing & covered & (owner != position)
                if not wanted.any():
                    continue
                if not is_own_copy:
                    pixels, is_own_copy = _copied(pixels), True
                missing = missing & ~self._fill(pixels, position, wanted, rect, only_valid=True)
        return pixels

    def _owner_map(self, positions: Sequence[int], rect: Rect) -> npt.NDArray[np.int32]:
        owner = np.full(rect.shape, -1, dtype=np.int32)
        for footprint in (True, False):
            for position in positions:
                covered = self.tiles[position].covers(rect, footprint=footprint)
                owner[covered & (owner < 0)] = position
        return owner

    def _blank(self, rect: Rect, owned: npt.NDArray[np.bool_]) -> Pixels:
        shape = (self.storage.n_bands, *rect.shape)
        codes = np.full(shape, self.storage.fill, dtype=self.storage.dtype)
        scales = None
        if self.scale_tiles:
            per_band = self.scale_tiles[0].tile.axes != "y,x"
            bands = self.storage.n_bands if per_band else 1
            scales = np.full((bands, *rect.shape), np.nan, dtype=np.float32)
        return Pixels(codes, scales, owned)

    def _fill(
        self,
        pixels: Pixels,
        position: int,
        wanted: npt.NDArray[np.bool_],
        rect: Rect,
        *,
        only_valid: bool = False,
    ) -> npt.NDArray[np.bool_]:
        """Write a tile's pixels where they are wanted; which were written."""
        part = _bounds_of(wanted, rect)
        if part.is_empty:
            return wanted
        codes, scales = self._read(position, part), self._read_scales(position, part)
        at = part.within(rect)
        written = np.zeros(rect.shape, dtype=bool)
        written[at] = wanted[at]
        if only_valid:
            written[at] &= valid_mask(codes, self.coding, _flat(scales))
        here = written[at]
        pixels.codes[:, *at][:, here] = codes[:, here]
        if pixels.scales is not None and scales is not None:
            pixels.scales[:, *at][:, here] = scales[:, here]
        return written


@dataclass(frozen=True)
class ReadPlan:
    """What reading a whole mosaic takes.

    Attributes
    ----------
    n_tiles, n_reads : int
        Files, and tasks that read one.
    decoded_bytes : int
        Codes that the reads give.
    stored_bytes : int or None
        About what they fetch: of each file the share of its pixels that is read. None where the
        catalog does not know a file's size.
    """

    n_tiles: int
    n_reads: int
    decoded_bytes: int
    stored_bytes: int | None


def plan_reads(mosaic: Mosaic) -> ReadPlan:
    """What reading all of a mosaic takes; reads nothing."""
    storage = mosaic.storage if mosaic.averaged is None else mosaic.averaged.stored
    pixel_bytes = storage.n_bands * np.dtype(storage.dtype).itemsize
    decoded, stored = 0, 0.0
    for slab in mosaic.slabs:
        decoded += pixel_bytes * int(np.prod(slab.rect.shape))
        for placed in (mosaic.tiles[position] for position in slab.owners):
            size = placed.tile.size_bytes
            part = slab.rect.meet(placed.bounds)
            share = min(1.0, float(np.prod(part.shape)) / float(placed.outline.area))
            stored += np.nan if size is None else size * share
    n_bytes = None if np.isnan(stored) else round(stored)
    return ReadPlan(len(mosaic.tiles), len(mosaic.slabs), decoded, n_bytes)


class MosaicLayer(MaterializedLayer):  # type: ignore[misc]  # dask is skipped by mypy
    """Tasks of an array, and the mosaics it is cut from, one a date."""

    def __init__(self, mapping: Any, mosaics: Sequence[Mosaic]) -> None:
        super().__init__(mapping)
        self.mosaics = tuple(mosaics)


def mosaic_array(mosaics: Sequence[Mosaic], dims: Sequence[str] = DIMS) -> da.Array:
    """A lazy array of mosaics of one layer, one a date, on one frame.

    Parameters
    ----------
    mosaics : sequence of Mosaic
        In order of date.
    dims : sequence of str
        ``time``, ``band``, ``y``, ``x`` (default), without those of length one that the layer does
        not have.

    Notes
    -----
    Its tasks: a read a slab, and a chunk cut from the slabs it meets.
    """
    first = mosaics[0]
    name = f"cube-{first.name}-{tokenize([_identity(mosaic) for mosaic in mosaics], dims)}"
    tasks: dict[Any, Any] = {}
    for date, mosaic in enumerate(mosaics):
        tasks |= _chunk_tasks(mosaic, name, date, dims)
    sizes = {"time": (1,) * len(mosaics), "band": (first.storage.n_bands,)}
    chunks = (*(sizes[dim] for dim in dims if dim in sizes), *first.chunks)
    graph = HighLevelGraph({name: MosaicLayer(tasks, mosaics)}, {name: set()})
    return da.Array(graph, name, chunks=chunks, dtype=np.dtype(first.storage.dtype))


def mosaics_of(array: Any) -> tuple[Mosaic, ...]:
    """The mosaics that an array was cut from, when nothing was done to it since; else none."""
    graph = getattr(array, "dask", None)
    layer = graph.layers.get(array.name) if isinstance(graph, HighLevelGraph) else None
    return layer.mosaics if isinstance(layer, MosaicLayer) else ()


def require_covered(mosaic: Mosaic) -> None:
    """Raise where pixels lie past all tiles and no code can say so.

    Raises
    ------
    CatalogError
        If the codes are whole numbers without a nodata code, and the tiles leave pixels out.
    """
    storage = mosaic.storage
    if storage.nodata is not None or np.dtype(storage.dtype).kind == "f":
        return
    n_px = int(np.prod(mosaic.frame.shape))
    n_out = round((1 - mosaic.covered_share) * n_px)
    if n_out:
        raise CatalogError(
            f"layer {mosaic.name!r} holds {storage.dtype} codes without a nodata code, and its "
            f"tiles leave {n_out} of {n_px} pixels out, which would read as 0. Set nodata in its "
            "[[input]]."
        )


def _identity(mosaic: Mosaic) -> Any:
    tiles = [
        (
            *(t.item_id, t.href, t.affine[:6], t.crs, t.shape, t.size_bytes, t.checksum),
            *(t.band, t.zones, t.bands, t.mask),
        )
        for t in (placed.tile for placed in (*mosaic.tiles, *mosaic.scale_tiles))
    ]
    frame = (str(mosaic.frame.crs), mosaic.frame.affine[:6], tuple(mosaic.frame.shape))
    bounds = [
        placed.tile.footprint.wkb
        for placed in mosaic.tiles
        if placed.tile.is_bounded and placed.tile.footprint is not None
    ]
    return [mosaic.name, tiles, bounds, frame, mosaic.storage, mosaic.averaged, mosaic.chunks]


def _flat(scales: npt.NDArray[np.float32] | None) -> npt.NDArray[np.float32] | None:
    """Scales as the kernels take them: ``(y, x)`` where one serves all bands."""
    return scales[0] if scales is not None and len(scales) == 1 else scales


def _copied(pixels: Pixels) -> Pixels:
    """Pixels that may be written to, in the layout they have."""
    scales = None if pixels.scales is None else np.array(pixels.scales)
    return Pixels(np.array(pixels.codes, order="K"), scales, pixels.owned)


def _slab_edges(length: int, side: int) -> list[int]:
    return [*range(0, length, side), length]


def _bounds_of(wanted: npt.NDArray[np.bool_], rect: Rect) -> Rect:
    rows, columns = np.flatnonzero(wanted.any(axis=1)), np.flatnonzero(wanted.any(axis=0))
    if not len(rows):
        return Rect(rect.top, rect.left, rect.top, rect.left)
    return Rect(
        rect.top + int(rows[0]),
        rect.left + int(columns[0]),
        rect.top + int(rows[-1]) + 1,
        rect.left + int(columns[-1]) + 1,
    )


@dataclass(frozen=True)
class _Cut:
    """A chunk, the numbers of the slabs it is cut from, and its dims."""

    rect: Rect
    slabs: tuple[int, ...]
    dims: tuple[str, ...]


def _chunk_tasks(mosaic: Mosaic, name: str, date: int, dims: Sequence[str]) -> dict[Any, Any]:
    mosaic_key = f"{name}-mosaic-{date}"
    tasks: dict[Any, Any] = {mosaic_key: mosaic}
    for number, slab in enumerate(mosaic.slabs):
        tasks[(f"{name}-read", date, number)] = (Mosaic.read, mosaic_key, slab)
    n_columns = len(mosaic.chunks[1])
    for number, rect in enumerate(mosaic.chunk_rects):
        met = (i for i, slab in enumerate(mosaic.slabs) if not slab.rect.meet(rect).is_empty)
        cut = _Cut(rect, tuple(met), tuple(dims))
        keys = [(f"{name}-read", date, i) for i in cut.slabs]
        at = {"time": date, "band": 0, "y": number // n_columns, "x": number % n_columns}
        tasks[(name, *(at[dim] for dim in dims))] = (_cut_chunk, mosaic_key, cut, *keys)
    return tasks


def _cut_chunk(mosaic: Mosaic, cut: _Cut, *pieces: Pixels) -> Codes:
    """One chunk from the slabs it meets."""
    rects = [mosaic.slabs[i].rect for i in cut.slabs]
    storage = mosaic.storage
    chunk = np.empty((storage.n_bands, *cut.rect.shape), dtype=storage.dtype)
    if not _is_filled(pieces, rects, cut.rect):
        chunk.fill(storage.fill)
    for pixels, slab_rect in zip(pieces, rects, strict=True):
        part = cut.rect.meet(slab_rect)
        at, here = part.within(cut.rect), part.within(slab_rect)
        owned = None if pixels.owned is None else pixels.owned[here]
        paste(chunk[:, *at], pixels.codes[:, *here], owned)
    if "band" not in cut.dims:
        chunk = chunk[0]
    return chunk[None] if "time" in cut.dims else chunk


def _is_filled(pieces: Sequence[Pixels], rects: Sequence[Rect], rect: Rect) -> bool:
    """True when whole slabs, which share no pixel, fill the chunk."""
    n_px = sum(
        int(np.prod(rect.meet(slab_rect).shape))
        for pixels, slab_rect in zip(pieces, rects, strict=True)
        if pixels.owned is None
    )
    return n_px == int(np.prod(rect.shape))


def paste(dst: Codes, src: Codes, owned: npt.NDArray[np.bool_] | None) -> None:
    """Write ``(band, y, x)`` codes, those of owned pixels or (None) all, into an array."""
    if owned is not None:
        np.copyto(dst, src, where=owned)
    elif src.strides[0] < src.strides[-1]:
        # Bands side by side: row by row, both rows stay in the cache (74 ms against 267 ms for
        # 640 x 640 x 128).
        for row in range(dst.shape[1]):
            dst[:, row] = src[:, row]
    else:
        dst[...] = src
