"""Averaging: tiles on any lattice, or several, weighted by area to the pixels of a frame.

A stored pixel counts by the area that it shares with a pixel of the frame, in one tile only: the
first whose footprint holds its centre, else the first whose extent does; where that tile has no
valid pixel the next one that has. Stored values are turned into the quantity that is wanted first
and averaged then, so that a threshold is one on stored values and never on averages.

Tiles are read in sections, rectangles of stored pixels that do not depend on what is asked for, and
every sum runs in the order of the sections and of the pixels in them. A pixel of the frame thus has
the same bits in any rectangle and chunk.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from affine import Affine
from odc.geo import CRS
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from lczcube.errors import CatalogError, ConfigError, SourceError
from lczcube.quantities import Quantity
from lczcube.reader import Codes, Storage, read_tile, without_hidden
from lczcube.runtime import IMPORTING
from lczcube.tiles import PlacedTile, Rect, Tile, place_tiles

READ_BYTES = 64 << 20
"""Most codes that one read gives, unless one section or one row of compressed blocks holds more."""

SECTION_PX = 512
"""Side of a section, or the next whole number of blocks: what one round of sums works on."""

LARGEST_SECTION_PX = 2048
"""Columns above which a block is cut: strips of canopy height v1 are 65,536 pixels wide."""

MAX_CODES = 256
"""Most classes of a layer that ``mode`` counts: each takes an array of its own."""

MAX_TERMS = 8
"""Arrays of a section that are worked on at once."""

MIN_SHARE = 1e-8
"""Share of a pixel below which an area is rounding and not data. One stored pixel of 0.5 m in a
pixel of 1 km is 2.5e-7."""

TIE = 1e-9
"""Relative difference of areas that is a tie: the same area summed in two orders."""

MIN_AREA = 1e-11
"""Overlap, in stored pixels, that is rounding: a hundred times that of coordinates of 512."""

WEB_MERCATOR_M = 40_075_016.685578488
"""Once around the Earth in EPSG:3857."""

NODE_PX = 32
"""Distance of the points whose position on another tile is exact; between them it is linear."""

FAR = 1 << 62
"""Past every row and column."""

Float64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]


def read_averaged(
    tiles: Sequence[PlacedTile],
    rect: Rect,
    frame: GeoBox,
    storage: Storage,
    quantities: Sequence[Quantity],
    *,
    use_overviews: bool = False,
) -> Codes:
    """Quantities of a mosaic of tiles on a rectangle of its frame; reads the files.

    Parameters
    ----------
    tiles : sequence of PlacedTile
        In order of ownership, on any lattices and in any CRS.
    rect : Rect
        Pixels of the frame that are wanted.
    frame : odc.geo.geobox.GeoBox
        The frame.
    storage : Storage
        Of the layer. A stored pixel is valid where no band that is used is nodata, NaN or infinite:
        bands come together. Its rule of resampling is not looked at.
    quantities : sequence of Quantity
        What is wanted, all from one read: :data:`CANOPY`, :data:`BUILDINGS`, or
        :func:`band_quantities`. ``mode`` stands alone or with its like.
    use_overviews : bool
        Read the coarsest overview whose pixels are at most half the frame's. Only for ``average``
        and ``sum`` of decimal numbers, and quantities that say ``from_overviews``; ignored
        otherwise, because neither the share above a threshold nor a product can be had from
        averages, and averages of whole numbers are rounded. Ignored for tiles with a mask too.
        Default off: GDAL writes overviews of nearest or cubic values unless told otherwise, and
        next to holes even averages have lost their weights. Open Buildings has true averages.

    Returns
    -------
    numpy.ndarray
        ``(quantity, y, x)``. float32, NaN where no valid area is; for ``mode`` the stored dtype
        with ``storage.fill``.

    Raises
    ------
    SourceError
        If a file cannot be read, or is not what the catalog says.
    CatalogError
        If ``mode`` meets more than :data:`MAX_CODES` codes.
    ConfigError
        If a quantity names a band that the layer does not have, or ``mode`` is mixed with others.

    Notes
    -----
    Areas are exact in the frame's CRS: ``Wy @ stored @ Wx.T``, in float64. In another CRS a pixel
    of the frame is the quadrilateral of its four corners, transformed exactly, and its overlap with
    every stored pixel is exact; a side of 10 m truly bends by 5 um, one of 100 m by 0.5 mm.
    Neighbours share their sides, so that sums are kept.

    Any rectangle gives the same bits. The same scene cut into other tiles gives the same to 1e-12
    before it is rounded to float32.

    Holds :data:`READ_BYTES` of codes, some arrays of a section, and one float64 array of ``rect``
    per term (at most two a quantity; one per class for ``mode``). Whole sections are read, each
    block once; tiles that overlap keep one bit per pixel, and where a footprint gives way to a
    later tile that one is read twice.
    """
    _require_possible(quantities, storage)
    stack = _Stack.of(tiles, storage, quantities, use_overviews=use_overviews)
    totals: dict[_Term, Float64] = {_VALID: np.zeros(rect.shape)}
    for position, source in enumerate(stack.sources):
        outlines = _outlines(source, rect, frame)
        for piece in _pieces(source, outlines, stack.storage):
            counted = stack.counted(position, piece)
            if not counted.any():
                continue
            terms = _terms(quantities, piece.codes, counted)
            _require_few_codes({*totals, *terms})
            for start in range(0, len(terms), MAX_TERMS):
                some = terms[start : start + MAX_TERMS]
                integrals = outlines.integrals(_numbers(some, piece.codes, counted), piece)
                _add(totals, some, integrals, source.n_px_merged)
    return np.stack([_value(quantity, totals, frame, storage) for quantity in quantities])


def _require_possible(quantities: Sequence[Quantity], storage: Storage) -> None:
    missing = {band for quantity in quantities for band in quantity.bands} - {
        *range(storage.n_bands)
    }
    if missing:
        raise ConfigError(
            f"a quantity is made from band {min(missing)} and the layer has {storage.n_bands}, "
            "counted from 0; name one of these."
        )
    if len({quantity.rule == "mode" for quantity in quantities}) != 1:
        raise ConfigError(
            f"quantities of rules {', '.join(quantity.rule for quantity in quantities) or 'none'} "
            "do not share a dtype; ask for those of mode apart, and for at least one."
        )


class _Term(NamedTuple):
    """A number per stored pixel whose integral over a pixel of the frame makes a quantity.

    ``kind``: ``valid`` (1), ``value``, ``count`` (a value that is summed), ``at_least`` (1 where a
    band is at least ``other``), ``value_at_least`` (the value there), ``product`` (with band
    ``other``) or ``code`` (1 where a band is ``other``). All are 0 where a pixel does not count.
    """

    kind: str
    band: int = 0
    other: float = 0

    def write(self, codes: Codes, counted: Mask, numbers: Float64) -> None:
        """Write its numbers over others."""
        band, zero = codes[self.band], codes.dtype.type(0)
        # Numbers of the stored kind: NumPy would compare whole numbers with others as float64.
        other = self.other if codes.dtype.kind == "f" else math.ceil(self.other)
        if self.kind in ("at_least", "value_at_least"):
            counted = np.logical_and(counted, band >= other)
        if self.kind == "code":
            counted = np.logical_and(counted, band == other)
        if self.kind in ("valid", "at_least", "code"):
            numbers[...] = counted
        else:
            numbers[...] = np.where(counted, band, zero)
        if self.kind == "product":
            numbers *= np.where(counted, codes[int(self.other)], zero)


_VALID = _Term("valid")


def _ratio_terms(quantity: Quantity) -> tuple[_Term, _Term]:
    """The terms whose integrals a quantity is the ratio of; ``sum`` is the first of them."""
    band, threshold, weight_band = quantity.band, quantity.threshold or 0, quantity.weight_band or 0
    terms = {
        "average": (_Term("value", band), _VALID),
        "sum": (_Term("count", band), _VALID),
        "fraction_at_least": (_Term("at_least", band, threshold), _VALID),
        "mean_where_at_least": (
            _Term("value_at_least", band, threshold),
            _Term("at_least", band, threshold),
        ),
        "weighted_mean": (_Term("product", band, weight_band), _Term("value", weight_band)),
    }
    return terms[quantity.rule]


def _terms(quantities: Sequence[Quantity], codes: Codes, counted: Mask) -> list[_Term]:
    """Terms of the quantities on stored pixels, each once."""
    terms = [_VALID]
    for quantity in quantities:
        if quantity.rule == "mode":
            present = np.unique(codes[quantity.band][counted]).tolist()
            terms += [_Term("code", quantity.band, code) for code in present]
        else:
            terms += _ratio_terms(quantity)
    return list(dict.fromkeys(terms))


def _numbers(terms: Sequence[_Term], codes: Codes, counted: Mask) -> Float64:
    numbers = np.empty((len(terms), *counted.shape))
    for term, of_term in zip(terms, numbers, strict=True):
        term.write(codes, counted, of_term)
    return numbers


def _add(
    totals: dict[_Term, Float64], terms: Sequence[_Term], integrals: "_Integrals", n_px_merged: int
) -> None:
    at = integrals.part.within(integrals.whole)
    for term, integral in zip(terms, integrals.per_term, strict=True):
        if term not in totals:
            totals[term] = np.zeros(integrals.whole.shape)
        # Counts are per stored pixel, of which an overview has merged some; all else is by area.
        totals[term][at] += integral * (n_px_merged if term.kind == "count" else integrals.px_area)


def _require_few_codes(terms: Collection[_Term]) -> None:
    n_codes = sum(term.kind == "code" for term in terms)
    if n_codes > MAX_CODES:
        raise CatalogError(
            f"resampling 'mode' meets {n_codes} codes or more and counts {MAX_CODES} at most: "
            "it is for classes. Use average for measurements, nearest for numbers of objects."
        )


def _value(
    quantity: Quantity, totals: Mapping[_Term, Float64], frame: GeoBox, storage: Storage
) -> Codes:
    px_area = abs(frame.affine.determinant)
    is_valid = totals[_VALID] >= MIN_SHARE * px_area
    if quantity.rule == "mode":
        return _largest(quantity.band, totals, is_valid, storage)
    nothing = np.zeros(is_valid.shape)
    upper, lower = (totals.get(term, nothing) for term in _ratio_terms(quantity))
    counts = is_valid & (lower >= MIN_SHARE * px_area)
    value = np.full(is_valid.shape, np.nan)
    value[is_valid] = np.nan if quantity.empty is None else quantity.empty
    mean = upper[counts] if quantity.rule == "sum" else upper[counts] / lower[counts]
    value[counts] = mean * quantity.scale + quantity.offset
    if quantity.rule == "fraction_at_least":
        np.clip(value, 0, 1, out=value)
    return value.astype(np.float32)


def _largest(band: int, totals: Mapping[_Term, Float64], is_valid: Mask, storage: Storage) -> Codes:
    winner = np.full(is_valid.shape, storage.fill, dtype=storage.dtype)
    most = np.zeros(is_valid.shape)
    for term in sorted(term for term in totals if (term.kind, term.band) == ("code", band)):
        area = totals[term]
        is_larger = is_valid & (area > most * (1 + TIE))
        winner[is_larger], most[is_larger] = term.other, area[is_larger]
    return winner


@dataclass(frozen=True)
class _Source:
    """A tile as it is read: north-up, or one of its overviews.

    Attributes
    ----------
    tile : Tile
        As stored, or as its overview is.
    level : int or None
        Number of the overview.
    n_px_merged : int
        Stored pixels in one of its pixels.
    """

    tile: Tile
    level: int | None = None
    n_px_merged: int = 1

    @cached_property
    def geobox(self) -> GeoBox:
        """Its pixels as they are read."""
        rows, columns = self.tile.shape
        down, right = self.is_mirrored
        corner = Affine.translation(columns if right else 0, rows if down else 0)
        turned = corner * Affine.scale(-1 if right else 1, -1 if down else 1)
        return GeoBox((rows, columns), self.tile.affine * turned, CRS(self.tile.crs))

    @property
    def is_mirrored(self) -> tuple[bool, bool]:
        """Stored from the bottom up; from right to left."""
        return self.tile.affine.e > 0, self.tile.affine.a < 0

    @cached_property
    def edges(self) -> tuple[Indices, Indices]:
        """Rows and columns where its sections begin, and its ends."""
        (rows, columns), (block_rows, block_columns) = self.tile.shape, self.tile.block_shape
        down, right = self.is_mirrored
        if self.has_wide_blocks:
            block_columns = SECTION_PX
        return _section_edges(rows, block_rows, down), _section_edges(columns, block_columns, right)

    @property
    def has_wide_blocks(self) -> bool:
        """True when sections cut its blocks: then all that is wanted of a block is read at once."""
        return has_wide_blocks(self.tile)

    def read(self, section: Rect, storage: Storage) -> Codes:
        """Codes of a rectangle of its pixels, ``(band, y, x)``."""
        if self.level is None:
            home = PlacedTile(self.tile, Rect(0, 0, *self.tile.shape), None, None)
            return read_tile(home, section, self.geobox, storage)
        return _read_overview(self, self.level, section, storage.fill)


def has_wide_blocks(tile: Tile) -> bool:
    """True for a tile of strips too wide for a section: whoever reads a part decodes all of it."""
    return tile.block_shape[1] > LARGEST_SECTION_PX


def _section_edges(length: int, block: int, is_mirrored: bool) -> Indices:
    edges = np.array([*range(0, length, block * -(-SECTION_PX // block)), length])
    return length - edges[::-1] if is_mirrored else edges


def _read_overview(source: _Source, level: int, section: Rect, fill: float) -> Codes:
    import rasterio
    from rasterio.errors import RasterioIOError
    from rasterio.windows import Window

    down, right = source.is_mirrored
    rows, columns = source.tile.shape
    top = rows - section.bottom if down else section.top
    left = columns - section.right if right else section.left
    at = slice(top, top + section.shape[0]), slice(left, left + section.shape[1])
    try:
        with rasterio.open(source.tile.href, overview_level=level) as file:
            codes: Codes = file.read(window=Window.from_slices(*at))
    except RasterioIOError as error:
        raise SourceError(
            f"{source.tile.href} broke off while its overview was read ({error}); fetch it again, "
            "then run lczcube build-catalog."
        ) from error
    codes = without_hidden(source.tile, codes, *at, fill)
    return codes[:, :: -1 if down else 1, :: -1 if right else 1]


def _may_merge(quantities: Sequence[Quantity], storage: Storage) -> bool:
    """True where averages of stored pixels give the quantities, or are said to do."""
    has_averages = np.dtype(storage.dtype).kind == "f"
    return all(
        quantity.from_overviews or (has_averages and quantity.rule in ("average", "sum"))
        for quantity in quantities
    )


def _overview_of(placed: PlacedTile) -> _Source:
    """The coarsest overview that a frame may be averaged from, else the tile."""
    import rasterio

    tile = placed.tile
    if tile.kind != "gdal" or tile.mask is not None:
        return _Source(tile)
    rows, columns = tile.shape
    area_px = rows * columns if placed.extent is None else placed.extent.area
    with rasterio.open(tile.href) as file:
        factors = list(enumerate(file.overviews(1)))
    usable = [
        (factor, level)
        for level, factor in factors
        if 2 * factor * math.sqrt(area_px / (rows * columns)) <= 1
        and rows % factor == columns % factor == 0
    ]
    if not usable:
        return _Source(tile)
    factor, level = max(usable)
    shape = (rows // factor, columns // factor)
    coarse = replace(
        tile,
        affine=tile.affine * Affine.scale(factor),
        shape=shape,
        block_shape=(min(tile.block_shape[0], shape[0]), min(tile.block_shape[1], shape[1])),
    )
    return _Source(coarse, level, factor**2)


class _Piece(NamedTuple):
    """A section of a tile, the pixels of a rectangle that it reaches, and its codes."""

    section: Rect
    part: Rect
    codes: Codes


class _Integrals(NamedTuple):
    """Integrals of terms over pixels of the frame.

    Attributes
    ----------
    whole, part : Rect
        The rectangle that is wanted, and the pixels of it that have integrals.
    per_term : numpy.ndarray
        float64 ``(term, y, x)``; the area of a stored pixel is 1.
    px_area : float or numpy.ndarray
        Area of a stored pixel in units of the frame's CRS; ``(y, x)`` where it varies.
    """

    whole: Rect
    part: Rect
    per_term: Float64
    px_area: float | Float64


def _pieces(source: _Source, outlines: "_Aligned | _Slanted", storage: Storage) -> Iterator[_Piece]:
    """Sections of a tile that a rectangle needs, read from left to right and down."""
    for row in _section_rows(source, outlines):
        for run in _runs(source, row, storage):
            left, right = run[0][0].left, run[-1][0].right
            stretch = Rect(run[0][0].top, left, run[0][0].bottom, right)
            codes = source.read(stretch, storage)
            for section, part in run:
                yield _Piece(section, part, codes[:, *section.within(stretch)])


def _section_rows(
    source: _Source, outlines: "_Aligned | _Slanted"
) -> Iterator[list[tuple[Rect, Rect]]]:
    reach = outlines.reach.meet(Rect(0, 0, *source.tile.shape))
    edges_y, edges_x = source.edges
    for top, bottom in _between(edges_y, reach.top, reach.bottom):
        row = [
            (section, outlines.part(section))
            for left, right in _between(edges_x, reach.left, reach.right)
            for section in [Rect(top, left, bottom, right)]
        ]
        needed = [(section, part) for section, part in row if not part.is_empty]
        if needed:
            yield needed


def _between(edges: Indices, start: int, stop: int) -> list[tuple[int, int]]:
    return [(a, b) for a, b in pairwise(edges.tolist()) if a < stop and b > start]


def _runs(
    source: _Source, row: list[tuple[Rect, Rect]], storage: Storage
) -> Iterator[list[tuple[Rect, Rect]]]:
    """Neighbouring sections that are read together."""
    pixel_bytes = storage.n_bands * np.dtype(storage.dtype).itemsize
    section_bytes = pixel_bytes * max(math.prod(section.shape) for section, _ in row)
    n_sections = len(row) if source.has_wide_blocks else max(1, READ_BYTES // section_bytes)
    return (row[i : i + n_sections] for i in range(0, len(row), n_sections))


@dataclass
class _Stack:
    """Tiles in order of ownership, and what is known of their valid pixels.

    Attributes
    ----------
    sources : list of _Source
        The tiles as they are read.
    storage : Storage
        Of the layer.
    quantities : sequence of Quantity
        What is wanted.
    on_source : dict
        Tile ``j`` placed on the pixels of tile ``i``, for those that overlap, and itself.
    masks : dict
        Valid pixels of sections of tiles that overlap others, a bit each.
    """

    sources: list[_Source]
    storage: Storage
    quantities: Sequence[Quantity]
    on_source: dict[tuple[int, int], PlacedTile]
    masks: dict[tuple[int, Rect], npt.NDArray[np.uint8]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        tiles: Sequence[PlacedTile],
        storage: Storage,
        quantities: Sequence[Quantity],
        *,
        use_overviews: bool,
    ) -> "_Stack":
        """The tiles, each placed on the others."""
        can_merge = use_overviews and _may_merge(quantities, storage)
        sources = [_overview_of(p) if can_merge else _Source(p.tile) for p in tiles]
        pairs = [
            (i, j)
            for i, placed in enumerate(tiles)
            for j, other in enumerate(tiles)
            if i != j and not placed.bounds.meet(other.bounds).is_empty
        ]
        pairs += [(i, i) for i in {i for i, _ in pairs}]
        on_source = {}
        for i, j in pairs:
            for placed in place_tiles([sources[j].tile], sources[i].geobox):
                on_source[i, j] = placed
        return cls(sources, storage, quantities, on_source)

    @cached_property
    def bands(self) -> list[int]:
        """Bands that are used."""
        return sorted({band for quantity in self.quantities for band in quantity.bands})

    def counted(self, position: int, piece: _Piece) -> Mask:
        """Which stored pixels of a piece are valid, and not another tile's."""
        counted = self._valid(piece.codes)
        rivals = [j for i, j in self.on_source if i == position != j]
        if rivals:
            self.masks[position, piece.section] = np.packbits(counted, axis=1)
            counted &= ~self._lost(position, piece.section, rivals)
        return counted

    def _valid(self, codes: Codes) -> Mask:
        valid = np.ones(codes.shape[1:], dtype=bool)
        nodata = self.storage.nodata
        for band in (codes[band] for band in self.bands):
            if codes.dtype.kind == "f":
                valid &= np.isfinite(band)
            elif nodata is not None and float(nodata).is_integer():
                nodata = int(nodata)  # NumPy would compare whole numbers with a float as float64.
            if nodata is not None and not np.isnan(nodata):
                valid &= band != nodata
        return valid

    def _lost(self, position: int, section: Rect, rivals: Sequence[int]) -> Mask:
        """Pixels of a section that belong to another tile, which has data there."""
        lost = np.zeros(section.shape, dtype=bool)
        source = self.sources[position]
        mine = self.on_source[position, position].covers(section, footprint=True)
        for j in rivals:
            if j > position and mine.all():
                continue
            theirs = self.on_source[position, j].covers(section, footprint=True)
            wins = np.where(mine, theirs & (j < position), theirs | (j < position))
            if wins.any():
                nodes = _nodes(source, section, self.sources[j])
                lost |= self._has_data(j, nodes, wins)
        return lost

    def _has_data(self, position: int, nodes: Float64, wanted: Mask) -> Mask:
        """Which of the wanted pixels between nodes have their centre in a valid pixel of a tile."""
        has_data = np.zeros(wanted.shape, dtype=bool)
        rows, columns = np.empty((2, *wanted.shape), dtype=np.int64)
        reach = Rect(*_loops().place(nodes, wanted, rows, columns))
        edges_y, edges_x = self.sources[position].edges
        for top, bottom in _between(edges_y, reach.top, reach.bottom):
            for left, right in _between(edges_x, reach.left, reach.right):
                valid = self._mask(position, Rect(top, left, bottom, right))
                _loops().mark(valid, rows - top, columns - left, wanted, has_data)
        return has_data

    def _mask(self, position: int, section: Rect) -> Mask:
        key = (position, section)
        if key not in self.masks:
            codes = self.sources[position].read(section, self.storage)
            self.masks[key] = np.packbits(self._valid(codes), axis=1)
        unpacked = np.unpackbits(self.masks[key], axis=1, count=section.shape[1])
        return unpacked.astype(bool)


def _nodes(source: _Source, section: Rect, other: _Source) -> Float64:
    """Points over a section, evenly from edge to edge, as ``(u, v)`` in pixels of another tile."""
    along = [
        np.linspace(start, stop, -(-(stop - start) // NODE_PX) + 1)
        for start, stop in ((section.top, section.bottom), (section.left, section.right))
    ]
    v, u = np.meshgrid(*along, indexing="ij")
    return _to_pixels(other.geobox, source.geobox.affine * (u, v), source.geobox.crs)


def _to_pixels(geobox: GeoBox, xy: tuple[Float64, Float64], crs: CRS | None) -> Float64:
    """Points as ``(u, v)`` pixel coordinates: to the right and down, from the corner."""
    x, y = xy
    if geobox.crs != crs:
        x, y = Transformer.from_crs(str(crs), str(geobox.crs), always_xy=True).transform(x, y)
        x = _unwrapped(x, geobox)
    a, b, c, d, e, f = geobox.affine[:6]
    # From the corner: coordinates of a million metres times 1 / pixel would lose six digits.
    right, down = x - c, y - f
    if b == d == 0:
        return np.stack([right / a, down / e])
    determinant = a * e - b * d
    return np.stack([(e * right - b * down) / determinant, (a * down - d * right) / determinant])


def _unwrapped(x: Float64, geobox: GeoBox) -> Float64:
    """Easting or longitude the short way round from the middle of a tile.

    Pixels of a frame past 180 degrees E are then next to a tile that ends there.
    """
    crs = CRS(geobox.crs)
    turn = 360.0 if crs.geographic else WEB_MERCATOR_M if crs.epsg == 3857 else math.inf
    middle, _ = geobox.affine * (geobox.shape.x / 2, geobox.shape.y / 2)
    turns = np.round((x - middle) / turn)
    return x - turns * turn if turns.any() else x


def _outlines(source: _Source, rect: Rect, frame: GeoBox) -> "_Aligned | _Slanted":
    """The pixels of a rectangle in the pixel coordinates of a tile."""
    is_upright = frame.affine.b == frame.affine.d == 0 < frame.affine.a and frame.affine.e < 0
    affine = source.geobox.affine
    columns, rows = np.arange(rect.left, rect.right + 1), np.arange(rect.top, rect.bottom + 1)
    if source.geobox.crs == frame.crs and is_upright and affine.b == affine.d == 0:
        u = (frame.affine.c + frame.affine.a * columns - affine.c) / affine.a
        v = (frame.affine.f + frame.affine.e * rows - affine.f) / affine.e
        return _Aligned(rect, u, v, abs(affine.determinant))
    grid_y, grid_x = np.meshgrid(rows, columns, indexing="ij")
    corners = _to_pixels(source.geobox, frame.affine * (grid_x, grid_y), frame.crs)
    return _Slanted(rect, corners, abs(frame.affine.determinant))


@dataclass(frozen=True)
class _Aligned:
    """Pixels of a rectangle whose sides run along those of a tile.

    Attributes
    ----------
    rect : Rect
        In the frame.
    u, v : numpy.ndarray
        Columns and rows of the tile where pixels begin, and the end; not whole numbers.
    tile_px_area : float
        Area of the tile's pixels, in units of the CRS.
    """

    rect: Rect
    u: Float64
    v: Float64
    tile_px_area: float

    @property
    def reach(self) -> Rect:
        """Pixels of the tile that it touches."""
        return Rect(
            math.floor(self.v[0]),
            math.floor(self.u[0]),
            math.ceil(self.v[-1]),
            math.ceil(self.u[-1]),
        )

    def part(self, section: Rect) -> Rect:
        """Pixels of the frame that a section of the tile reaches into."""
        top = np.searchsorted(self.v[1:], section.top, side="right")
        left = np.searchsorted(self.u[1:], section.left, side="right")
        bottom = np.searchsorted(self.v[:-1], section.bottom, side="left")
        right = np.searchsorted(self.u[:-1], section.right, side="left")
        return _shifted(Rect(int(top), int(left), int(bottom), int(right)), self.rect)

    def integrals(self, numbers: Float64, piece: _Piece) -> _Integrals:
        """Integrals of the numbers of terms on a section, over the part that it reaches into."""
        rows, columns = piece.part.within(self.rect)
        v = self.v[_and_end(rows)] - piece.section.top
        u = self.u[_and_end(columns)] - piece.section.left
        sums = np.zeros((len(numbers), *piece.part.shape))
        _loops().aligned(numbers, v, u, sums)
        return _Integrals(self.rect, piece.part, sums, self.tile_px_area)


BLOCK_PX = 16
"""Side of the blocks of pixels of a frame whose bounds on a tile are kept."""


@dataclass(frozen=True)
class _Slanted:
    """Pixels of a rectangle whose sides do not run along those of a tile.

    Attributes
    ----------
    rect : Rect
        In the frame.
    corners : numpy.ndarray
        ``(2, rows + 1, columns + 1)``: column and row of the tile, not whole numbers, at the
        corners of the pixels.
    frame_px_area : float
        Area of the pixels, in units of the frame's CRS.
    """

    rect: Rect
    corners: Float64
    frame_px_area: float

    @property
    def reach(self) -> Rect:
        """Pixels of the tile that it touches."""
        low, high = self.corners.min(axis=(1, 2)), self.corners.max(axis=(1, 2))
        return Rect(math.floor(low[1]), math.floor(low[0]), math.ceil(high[1]), math.ceil(high[0]))

    @cached_property
    def _block_bounds(self) -> tuple[Float64, Float64]:
        low, high = _bounds(self.corners)
        for axis in (1, 2):
            starts = np.arange(0, low.shape[axis], BLOCK_PX)
            low = np.minimum.reduceat(low, starts, axis=axis)
            high = np.maximum.reduceat(high, starts, axis=axis)
        return low, high

    def part(self, section: Rect) -> Rect:
        """Pixels of the frame that a section of the tile reaches into."""
        blocks = _reached(self._block_bounds, section)
        near = Rect(*(BLOCK_PX * edge for edge in blocks)).meet(Rect(0, 0, *self.rect.shape))
        if near.is_empty:
            return near
        rows, columns = (
            _and_end(slice(near.top, near.bottom)),
            _and_end(slice(near.left, near.right)),
        )
        exact = _reached(_bounds(self.corners[:, rows, columns]), section)
        return _shifted(_shifted(exact, near), self.rect)

    def integrals(self, numbers: Float64, piece: _Piece) -> _Integrals:
        """Integrals of the numbers of terms on a section, over the part that it reaches into."""
        rows, columns = piece.part.within(self.rect)
        corners = self.corners[:, _and_end(rows), _and_end(columns)]
        origin = np.array([piece.section.left, piece.section.top])
        sums = np.zeros((len(numbers), *piece.part.shape))
        _loops().slanted(numbers, corners - origin[:, None, None], sums)
        return _Integrals(self.rect, piece.part, sums, self.frame_px_area / _areas(corners))


def _shifted(rect: Rect, origin: Rect) -> Rect:
    return Rect(
        rect.top + origin.top,
        rect.left + origin.left,
        rect.bottom + origin.top,
        rect.right + origin.left,
    )


def _and_end(pixels: slice) -> slice:
    """The edges of a run of pixels: one more."""
    return slice(pixels.start, pixels.stop + 1)


def _quads(corners: Float64) -> tuple[Float64, Float64, Float64, Float64]:
    """Corners of each pixel: upper left, upper right, lower right, lower left."""
    return corners[:, :-1, :-1], corners[:, :-1, 1:], corners[:, 1:, 1:], corners[:, 1:, :-1]


def _bounds(corners: Float64) -> tuple[Float64, Float64]:
    quads = _quads(corners)
    return np.minimum.reduce(quads), np.maximum.reduce(quads)


def _reached(bounds: tuple[Float64, Float64], section: Rect) -> Rect:
    """The smallest rectangle of the bounded things that holds all that reach into a section."""
    low, high = bounds
    in_rows = (high[1] > section.top) & (low[1] < section.bottom)
    hit = in_rows & (high[0] > section.left) & (low[0] < section.right)
    rows, columns = np.flatnonzero(hit.any(axis=1)), np.flatnonzero(hit.any(axis=0))
    if not len(rows):
        return Rect(0, 0, 0, 0)
    return Rect(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)


def _areas(corners: Float64) -> Float64:
    """Areas of quadrilaterals, from their diagonals."""
    upper_left, upper_right, lower_right, lower_left = _quads(corners)
    (p, q), (r, s) = lower_right - upper_left, lower_left - upper_right
    areas: Float64 = np.abs(p * s - q * r) / 2
    return areas


class _Loops(NamedTuple):
    """The functions below, compiled."""

    aligned: Callable[[Float64, Float64, Float64, Float64], None]
    slanted: Callable[[Float64, Float64, Float64], None]
    place: Callable[[Float64, Mask, Indices, Indices], tuple[int, int, int, int]]
    mark: Callable[[Mask, Indices, Indices, Mask, Mask], None]


@cache
def _loops() -> _Loops:
    """Compiled where pixels are averaged, for numba is slow to import; kept on disk."""
    with IMPORTING:
        from numba.extending import register_jitable

        from lczcube._window_loops import _compiled

    for called in (_quad, _add_side, _settle_areas, _bilinear):
        register_jitable(called)
    return _Loops(
        _compiled(_sum_aligned), _compiled(_sum_slanted), _compiled(_place), _compiled(_mark)
    )


def _sum_aligned(numbers: Float64, v: Float64, u: Float64, sums: Float64) -> None:
    """Integrals over pixels between the rows ``v`` and the columns ``u`` of a section."""
    n_terms, n_rows, n_columns = numbers.shape
    below = np.empty(n_columns)
    for i in range(v.size - 1):
        for term in range(n_terms):
            below[:] = 0
            for row in range(max(math.floor(v[i]), 0), min(math.ceil(v[i + 1]), n_rows)):
                below += numbers[term, row] * (min(v[i + 1], row + 1) - max(v[i], row))
            for j in range(u.size - 1):
                total = 0.0
                for column in range(max(math.floor(u[j]), 0), min(math.ceil(u[j + 1]), n_columns)):
                    total += below[column] * (min(u[j + 1], column + 1) - max(u[j], column))
                sums[term, i, j] = total


def _sum_slanted(numbers: Float64, corners: Float64, sums: Float64) -> None:
    """Integrals over the quadrilaterals between corners ``(u, v)`` in a section, exactly.

    By Green's theorem the area of a quadrilateral in a row of stored pixels is the integral, along
    its sides, of how far right the side lies. A piece of a side in one stored pixel adds to that
    pixel the area to its left, and its height to every pixel further left.
    """
    n_terms, n_rows, n_columns = numbers.shape
    memory = np.empty(n_rows * (n_columns + 1))
    for i in range(corners.shape[1] - 1):
        for j in range(corners.shape[2] - 1):
            u0, u1, u2, u3 = _quad(corners[0], i, j)
            v0, v1, v2, v3 = _quad(corners[1], i, j)
            left = max(math.floor(min(u0, u1, u2, u3)), 0)
            width = min(math.ceil(max(u0, u1, u2, u3)), n_columns) - left
            top = max(math.floor(min(v0, v1, v2, v3)), 0)
            height = min(math.ceil(max(v0, v1, v2, v3)), n_rows) - top
            if width <= 0 or height <= 0:
                continue
            areas = memory[: height * (width + 1)].reshape((height, width + 1))
            areas[:] = 0
            # A side that two pixels share is followed in the same direction for both.
            _add_side(u0, v0, u1, v1, 1.0, top, left, areas)
            _add_side(u1, v1, u2, v2, 1.0, top, left, areas)
            _add_side(u3, v3, u2, v2, -1.0, top, left, areas)
            _add_side(u0, v0, u3, v3, -1.0, top, left, areas)
            _settle_areas(areas)
            for term in range(n_terms):
                total = 0.0
                for row in range(height):
                    stored = numbers[term, top + row, left : left + width]
                    for column in range(width):
                        total += areas[row, column + 1] * stored[column]
                sums[term, i, j] = total


def _quad(corners: Float64, i: int, j: int) -> tuple[float, float, float, float]:
    return corners[i, j], corners[i, j + 1], corners[i + 1, j + 1], corners[i + 1, j]


def _add_side(
    u0: float, v0: float, u1: float, v1: float, sign: float, top: int, left: int, areas: Float64
) -> None:
    """Add a side to a window of stored pixels: what :func:`_settle_areas` sums from the right.

    Column 0 of ``areas`` takes what falls to the left of the window.
    """
    if v0 == v1:
        return
    if v0 > v1:
        u0, v0, u1, v1, sign = u1, v1, u0, v0, -sign
    n_rows, n_columns = areas.shape
    right = left + n_columns - 1
    slope = (u1 - u0) / (v1 - v0)
    leftmost, rightmost = min(u0, u1), max(u0, u1)
    for row in range(max(math.floor(v0) - top, 0), min(math.ceil(v1) - top, n_rows)):
        upper, lower = max(v0, top + row), min(v1, top + row + 1)
        height = sign * (lower - upper)
        at = min(max(u0 + (upper - v0) * slope, leftmost), rightmost)
        to = min(max(u0 + (lower - v0) * slope, leftmost), rightmost)
        at, to = min(at, to), max(at, to)
        per_column = height / (to - at) if to > at else 0.0
        if at >= right:
            areas[row, n_columns - 1] += height
        elif to > right:
            areas[row, n_columns - 1] += per_column * (to - right)
        elif at == to and at >= left:
            column = math.floor(at)
            areas[row, column - left + 1] += height * (at - column)
            areas[row, column - left] += height * (column + 1 - at)
        at, to = max(at, left), min(to, right)
        while at < to:
            column = math.floor(at)
            stop = min(to, column + 1)
            piece, middle = per_column * (stop - at), (at + stop) / 2 - column
            areas[row, column - left + 1] += piece * middle
            areas[row, column - left] += piece * (1 - middle)
            at = stop


def _settle_areas(areas: Float64) -> None:
    """Sum what sides have added from the right, and leave out what is only rounding."""
    n_rows, n_columns = areas.shape
    for row in range(n_rows):
        area = 0.0
        for column in range(n_columns - 1, 0, -1):
            area += areas[row, column]
            areas[row, column] = abs(area) if abs(area) > MIN_AREA else 0.0


def _place(
    nodes: Float64, wanted: Mask, rows: Indices, columns: Indices
) -> tuple[int, int, int, int]:
    """Write the rows and columns of the wanted centres between nodes; what holds them all."""
    n_v, n_u = nodes.shape[1] - 1, nodes.shape[2] - 1
    top, left, bottom, right = FAR, FAR, -FAR, -FAR
    for i in range(wanted.shape[0]):
        y = (i + 0.5) * n_v / wanted.shape[0]
        for j in range(wanted.shape[1]):
            if wanted[i, j]:
                x = (j + 0.5) * n_u / wanted.shape[1]
                row = math.floor(_bilinear(nodes[1], y, x))
                column = math.floor(_bilinear(nodes[0], y, x))
                rows[i, j], columns[i, j] = row, column
                top, bottom = min(top, row), max(bottom, row + 1)
                left, right = min(left, column), max(right, column + 1)
    return top, left, bottom, right


def _bilinear(nodes: Float64, y: float, x: float) -> float:
    i, j = int(y), int(x)
    upper = nodes[i, j] * (j + 1 - x) + nodes[i, j + 1] * (x - j)
    lower = nodes[i + 1, j] * (j + 1 - x) + nodes[i + 1, j + 1] * (x - j)
    return float(upper * (i + 1 - y) + lower * (y - i))


def _mark(valid: Mask, rows: Indices, columns: Indices, wanted: Mask, marked: Mask) -> None:
    """Mark the wanted pixels whose place in a section is valid."""
    for i in range(wanted.shape[0]):
        for j in range(wanted.shape[1]):
            row, column = rows[i, j], columns[i, j]
            if wanted[i, j] and 0 <= row < valid.shape[0] and 0 <= column < valid.shape[1]:
                marked[i, j] |= valid[row, column]
