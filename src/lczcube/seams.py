"""Seams: jumps of values, and offsets of one pixel, where the tiles of a mosaic meet.

A tile that is brighter than its neighbours, or lies a pixel beside its place, leaves no gap and no
error. It shows where two tiles meet: what happens across the edge does not happen across the lines
beside it, inside the tiles. Where tiles overlap, both say what the same ground is.

What is tested, and how, is in the notes of :func:`find_seams`.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from lczcube.cube import coded_layers
from lczcube.edges import (
    LOG_FLOOR,
    MIN_BLOCKS,
    MIN_EDGE_PX,
    REACH_PX,
    STRIP_PX,
    Numbers,
    Shift,
    Values,
    find_shift,
    fit_step,
    has_border_beside,
    smallest_difference,
    step_facts,
    step_probability,
    upper_tail,
)
from lczcube.errors import CatalogError
from lczcube.mosaic import Mosaic, mosaics_of
from lczcube.reader import Codes, read_tile
from lczcube.tiles import Rect, frame_rect

MIN_OVERLAP_PX = 8
"""Least width of an overlap that is judged as one; a narrower one is judged by its edge."""

STRIP_BYTES = 16 << 20
"""Most values that are held of one edge or overlap; of longer ones, stretches spread over it."""

STRIP_MAX_PX = 2048
"""Most pixels of an edge that are read: what a tile does wrong, it does everywhere."""

N_SQUARES = 16
"""Of an overlap, at most."""

N_STRETCHES = 4
"""Of an edge that is too long to be read whole."""

WINDOW_PX = 1024
"""Side of the windows in which the edges of ownership are looked for."""

STEP_LEVEL = 0.05
"""A step as likely as this by chance is taken out before an offset is looked for: undetected, it
would look like one; taken out where there is none, it costs power."""


@dataclass(frozen=True)
class Seam:
    """What two tiles do where they meet.

    Attributes
    ----------
    layer : str
        Name of the layer.
    date : str or None
        Of the mosaic; None for a layer without dates.
    tile_a, tile_b : str
        Items; ``tile_b`` lies on ``side`` of ``tile_a``.
    side : str
        ``east`` or ``south``.
    n_px : int
        Length of the edge, or area of the overlap, pixels of the frame.
    method : str
        ``edge`` or ``overlap``.
    p_step, p_shift : float
        Probability of such a step, or offset, without a fault, corrected for all that was tested
        (Holm). NaN where too few pixels are valid.
    verdict : str
        ``step``, ``shift``, ``none``, or ``undecided``.
    band : str or None
        Band whose step stands out most; None unless a step was found.
    step, gain : float or None
        Of that band: median step from ``tile_a`` to ``tile_b`` in decoded values, and factor of the
        values of ``tile_b``.
    shift : tuple of int or None
        ``(x, y)`` pixels, right and down, by which ``tile_b`` has to move to fit ``tile_a``; None
        unless an offset was found.
    unequal_share : float or None
        Share of the pixels of the overlap, 0-1, whose codes are not equal; None for an edge.
    shift_power : float or None
        Share of the offsets by one pixel, of all eight, that would have been found here: the test
        itself run on lines inside the tiles between which it plants them. None for an overlap.
    """

    layer: str
    date: str | None
    tile_a: str
    tile_b: str
    side: str
    n_px: int
    method: str
    p_step: float = math.nan
    p_shift: float = math.nan
    verdict: str = "undecided"
    band: str | None = None
    step: float | None = None
    gain: float | None = None
    shift: Shift | None = None
    unequal_share: float | None = None
    shift_power: float | None = None


@dataclass(frozen=True)
class SeamReport:
    """Seams of the tiles of a cube.

    Attributes
    ----------
    seams : tuple of Seam
        All that were judged, in order of layer, date and tiles.
    alpha : float
        Probability of any false alarm.
    """

    seams: tuple[Seam, ...]
    alpha: float

    @property
    def found(self) -> tuple[Seam, ...]:
        """Those with a step or an offset."""
        return tuple(seam for seam in self.seams if seam.verdict in ("step", "shift"))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: NaN is None."""
        rows = [{k: None if v != v else v for k, v in asdict(seam).items()} for seam in self.seams]
        return {"alpha": self.alpha, "n_found": len(self.found), "seams": rows}

    def to_text(self) -> str:
        """A table of what was found, and how many edges were judged and how well."""
        undecided = sum(seam.verdict == "undecided" for seam in self.seams)
        powers = [s.shift_power for s in self.seams if s.shift_power is not None]
        lines = [
            f"{len(self.found)} of {len(self.seams)} edges and overlaps of tiles have a fault "
            f"(any false alarm: {self.alpha:.1%}); {undecided} could not be judged"
        ]
        if powers:
            lines.append(
                f"an offset of one pixel would be seen at {np.mean(powers):.0%} of the edges"
            )
        if self.found:
            lines += ["", *_table([_HEADER, *map(_row, self.found)]), "", *self._worst_tiles()]
        return "\n".join(lines)

    def _worst_tiles(self) -> list[str]:
        """How often each tile is part of what was found; a faulty tile has it on all sides."""
        found = Counter(t for s in self.found for t in (s.tile_a, s.tile_b))
        judged = Counter(t for s in self.seams for t in (s.tile_a, s.tile_b))
        worst = sorted(found, key=lambda t: (-found[t] / judged[t], -found[t], t))
        return [f"tile {t}: {found[t]} of {judged[t]}" for t in worst[:5]]


def find_seams(cube: xr.Dataset, *, layer: str | None = None, alpha: float = 0.01) -> SeamReport:
    """Steps and one-pixel offsets between the tiles of a cube; reads pixels along their edges.

    Parameters
    ----------
    cube : xarray.Dataset
        As :func:`lczcube.cube.open_cube` gives it.
    layer : str, optional
        One layer; default: all that hold codes.
    alpha : float
        Probability of any false alarm in the report, 0-1. Default 0.01: a report of a thousand
        edges is then as quiet as one of ten.

    Returns
    -------
    SeamReport
        One row for every two tiles that share an edge of :data:`MIN_EDGE_PX` or overlap. Layers
        that are averaged by area have no such edges, and no rows.

    Raises
    ------
    CatalogError
        If the layer is not in the cube, or something was done to it since it was opened.
    SourceError
        If a tile cannot be read.

    Notes
    -----
    *Edges.* A strip of 24 pixels is read on each side, cut into about twelve blocks along it.
    Lines inside the two tiles are what the edge is compared with.

    A step: the jump across a line is predicted from the differences of three pixels on each side
    (least squares over the lines inside: extrapolation on smooth ground, a mean on noise). What is
    left, in all bands, and the same times the value (for a gain), is averaged over each block and
    scaled by its spread over the lines inside. A fault gives all blocks the same vector, noise does
    not: each block is projected on the mean of the others that do not touch it, in the metric of
    the shrunk covariance of the lines inside [1]_, [2]_.

    An offset: bands are combined into the maximum autocorrelation factors [3]_. The last line of
    one tile is compared with the first of the other at offsets of -2 to 2 along the edge, as it is
    and as predicted from three pixels; logarithms of mean absolute differences, less those of the
    pairs of lines beside, are the features of a block. The same features of lines inside give what
    is normal; of lines inside that are moved apart, together and along by one pixel, what each of
    the eight offsets looks like. Fisher's discriminant between the two is the statistic.

    Both: of the statistics of the blocks only the lowest two fifths count, as if they were a random
    sample (a partial conjunction [4]_): a border of the scene that follows the edge along less than
    half of its length is no fault. Their sum is divided by its spread over the lines inside, which
    covers the correlation of blocks, and read off Student's t; of a step, only what it has more
    than the line inside that looks most like one.

    *Overlaps* of tiles on one lattice, at least 8 pixels wide: up to sixteen squares of both tiles;
    the best of 25 offsets is that of the least mean absolute difference, its gain over none and the
    median step of each band are tested by their spread over the squares.

    All probabilities are corrected together by Holm's method.

    A border of the scene that follows an edge along more than half of it cannot be told from a
    step; one a pixel or two beside an edge leaves it undecided. Ground without structure hides an
    offset: ``shift_power`` says so.

    Cost: at most 2,048 pixels of an edge are read, in strips of at most 16 MB, whatever the size of
    the city.

    References
    ----------
    .. [1] Chen, Qin (2010). A two-sample test for high-dimensional data with applications to
       gene-set testing. Annals of Statistics 38(2), 808-835.
    .. [2] Ledoit, Wolf (2004). A well-conditioned estimator for large-dimensional covariance
       matrices. Journal of Multivariate Analysis 88(2), 365-411.
    .. [3] Switzer, Green (1984). Min/max autocorrelation factors for multivariate spatial imagery.
       Technical report 6, Department of Statistics, Stanford University.
    .. [4] Benjamini, Heller (2008). Screening for partial conjunction hypotheses. Biometrics 64(4),
       1215-1222.
    """
    names = coded_layers(cube) if layer is None else [layer]
    contacts = [contact for name in names for contact in _contacts(cube, name)]
    level = alpha / max(1, 2 * len(contacts))
    seams = [
        _judge_edge(contact, level)
        if contact.overlap is None
        else _judge_overlap(contact, contact.overlap)
        for contact in contacts
    ]
    return SeamReport(_decided(seams, alpha), alpha)


@dataclass(frozen=True)
class _Contact:
    """Two tiles of a mosaic that meet.

    ``along`` and ``across`` are the rows of the edge and the first column of tile ``b`` in each
    (side ``east``), or the columns and rows (``south``). ``overlap`` is set instead where the tiles
    share enough pixels.
    """

    seam: Seam
    bands: tuple[str, ...]
    mosaic: Mosaic
    a: int
    b: int
    along: npt.NDArray[np.int64]
    across: npt.NDArray[np.int64]
    overlap: Rect | None

    @property
    def is_upright(self) -> bool:
        return self.seam.side == "east"


def _contacts(cube: xr.Dataset, name: str) -> Iterator[_Contact]:
    if name not in cube:
        raise CatalogError(f"the cube has no layer {name!r}; it has {', '.join(map(str, cube))}.")
    variable = cube[name]
    mosaics = mosaics_of(variable.data)
    if not mosaics:
        raise CatalogError(
            f"the tiles of layer {name!r} are not known: it was changed since the cube was opened, "
            "or was loaded by another engine. Give find_seams a cube as lczcube.open_cube returns "
            "it with engine='native'."
        )
    dates = [str(t)[:10] for t in variable["time"].values] if "time" in variable.dims else [None]
    band_dim = f"{name}_band"
    bands = variable[band_dim].values.tolist() if band_dim in variable.dims else [name]
    for date, mosaic in zip(dates, mosaics, strict=True):
        if mosaic.averaged is not None:
            continue
        for (a, b, side), (along, across), overlap in _meetings(mosaic):
            ids = mosaic.tiles[a].tile.item_id, mosaic.tiles[b].tile.item_id
            n_px = len(along) if overlap is None else math.prod(overlap.shape)
            method = "edge" if overlap is None else "overlap"
            seam = Seam(name, date, *ids, side, n_px, method)
            yield _Contact(seam, tuple(map(str, bands)), mosaic, a, b, along, across, overlap)


_Pair = tuple[int, int, str]
_Line = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
_NO_LINE: _Line = (np.empty(0, np.int64), np.empty(0, np.int64))


def _meetings(mosaic: Mosaic) -> Iterator[tuple[_Pair, _Line, Rect | None]]:
    overlaps = {frozenset(pair[:2]): (pair, rect) for pair, rect in _overlaps(mosaic)}
    for pair, rect in overlaps.values():
        yield pair, _NO_LINE, rect
    for pair, line in sorted(_edges(mosaic).items()):
        if frozenset(pair[:2]) not in overlaps and len(line[0]) >= MIN_EDGE_PX:
            yield pair, line, None


def _overlaps(mosaic: Mosaic) -> Iterator[tuple[_Pair, Rect]]:
    """Pairs of tiles on the frame's lattice that share a rectangle of the frame."""
    on_lattice = [i for i, placed in enumerate(mosaic.tiles) if placed.on_lattice]
    for i, j in combinations(on_lattice, 2):
        first, second = mosaic.tiles[i].bounds, mosaic.tiles[j].bounds
        shared = first.meet(second).meet(frame_rect(mosaic.frame))
        if shared.is_empty or min(shared.shape) < MIN_OVERLAP_PX:
            continue
        if len(_squares(mosaic, shared)) < MIN_BLOCKS:
            continue
        down, right = second.top - first.top, second.left - first.left
        side = "east" if abs(right) >= abs(down) else "south"
        is_second_after = (right if side == "east" else down) >= 0
        yield (i, j, side) if is_second_after else (j, i, side), shared


def _edges(mosaic: Mosaic) -> dict[_Pair, _Line]:
    """Where ownership passes from a tile to another, to the right or down; by windows."""
    found: dict[_Pair, list[npt.NDArray[np.int64]]] = {}
    for rect in _windows(mosaic):
        near = [i for i, p in enumerate(mosaic.tiles) if not p.bounds.meet(rect).is_empty]
        if len(near) < 2:
            continue
        owner = _owner_map(mosaic, near, rect)
        for side, owners, origin in (
            ("east", owner, (rect.top, rect.left)),
            ("south", owner.T, (rect.left, rect.top)),
        ):
            before, after = owners[:, :-1], owners[:, 1:]
            along, across = np.nonzero((before != after) & (before >= 0) & (after >= 0))
            at = np.stack([along + origin[0], across + 1 + origin[1]], axis=1)
            pairs = np.stack([before[along, across], after[along, across]], axis=1)
            for a, b in np.unique(pairs, axis=0).tolist():
                found.setdefault((a, b, side), []).append(at[(pairs == (a, b)).all(axis=1)])
    return {pair: _line(np.concatenate(pieces)) for pair, pieces in found.items()}


def _windows(mosaic: Mosaic) -> Iterator[Rect]:
    """Windows that cover the frame and share one row and column with the next."""
    frame = frame_rect(mosaic.frame)
    for top in range(0, frame.bottom, WINDOW_PX):
        for left in range(0, frame.right, WINDOW_PX):
            yield Rect(top, left, top + WINDOW_PX + 1, left + WINDOW_PX + 1).meet(frame)


def _owner_map(mosaic: Mosaic, positions: Sequence[int], rect: Rect) -> npt.NDArray[np.int32]:
    owner = np.full(rect.shape, -1, dtype=np.int32)
    for footprint in (True, False):
        for position in positions:
            covered = mosaic.tiles[position].covers(rect, footprint=footprint)
            owner[covered & (owner < 0)] = position
    return owner


def _line(at: npt.NDArray[np.int64]) -> _Line:
    """Positions along an edge, ascending, and the place of the edge in each, the first of many."""
    along, first = np.unique(at[:, 0], return_index=True)
    return along, at[first, 1]


def _read_values(mosaic: Mosaic, position: int, rect: Rect) -> tuple[Codes, Values]:
    """Codes of a tile on a rectangle, and values: NaN where invalid, and past the tile."""
    placed, storage = mosaic.tiles[position], mosaic.storage
    if placed.bounds.meet(rect).is_empty:
        shape = (storage.n_bands, *rect.shape)
        return np.full(shape, storage.fill, storage.dtype), np.full(shape, np.nan, np.float32)
    codes = read_tile(placed, rect, mosaic.frame, storage)
    scales = None
    if mosaic.scale_tiles:
        of_scales = mosaic.of_scales()
        scales = read_tile(of_scales.tiles[position], rect, mosaic.frame, of_scales.storage)
    values = mosaic.coding.decode(codes, scales)
    valid = np.isfinite(values).all(axis=0) & placed.covers(rect, footprint=False)
    values[:, ~valid] = np.nan
    return codes, values


def _judge_edge(contact: _Contact, level: float) -> Seam:
    strip = _read_strip(contact)
    step = step_probability(strip)
    if step is None or has_border_beside(strip):
        return contact.seam
    seam = replace(contact.seam, p_step=step)
    if step < STEP_LEVEL:
        offset, gain = fit_step(strip)
        seam = replace(seam, **step_facts(strip, offset, gain, contact.bands))
        strip[..., STRIP_PX:] = (strip[..., STRIP_PX:] - offset) / gain
    p_shift, shift, power = find_shift(strip, level)
    return replace(seam, p_shift=p_shift, shift=_in_frame(shift, contact), shift_power=power)


def _in_frame(shift: Shift, contact: _Contact) -> Shift:
    """``(across, along)`` the edge as ``(x, y)``."""
    return shift if contact.is_upright else (shift[1], shift[0])


def _read_strip(contact: _Contact) -> Values:
    """Values beside an edge, ``(band, along, across)``: tile a, then tile b, NaN where invalid.

    Each position along the edge has the edge in the middle, whatever way it takes. Stretches are
    parted by NaN, so that no offset compares one with another.
    """
    n_bands = contact.mosaic.storage.n_bands
    gap = np.full((n_bands, REACH_PX + 1, 2 * STRIP_PX), np.nan, np.float32)
    start, stop = int(contact.along[0]), int(contact.along[-1]) + 1
    most = STRIP_BYTES // (gap[:, 0].nbytes)
    most = min(max(most, 4 * MIN_EDGE_PX), STRIP_MAX_PX)
    pieces: list[Values] = []
    if stop - start <= most:
        pieces = [_read_stretch(contact, start, stop)]
    else:
        length = most // N_STRETCHES
        for at in np.linspace(start, stop - length, N_STRETCHES).astype(int).tolist():
            pieces += [_read_stretch(contact, at, at + length), gap]
    return np.concatenate(pieces, axis=1)


def _read_stretch(contact: _Contact, start: int, stop: int) -> Values:
    inside = (contact.along >= start) & (contact.along < stop)
    along, across = contact.along[inside], contact.across[inside]
    shape = (contact.mosaic.storage.n_bands, stop - start, 2 * STRIP_PX)
    stretch = np.full(shape, np.nan, np.float32)
    if not len(along):
        return stretch
    low, high = int(across.min()), int(across.max())
    for tile, first, place in (
        (contact.a, -STRIP_PX, slice(STRIP_PX)),
        (contact.b, 0, slice(STRIP_PX, None)),
    ):
        left, right = low + first, high + first + STRIP_PX
        rect = Rect(start, left, stop, right)
        if not contact.is_upright:
            rect = Rect(left, start, right, stop)
        _, values = _read_values(contact.mosaic, tile, rect)
        if not contact.is_upright:
            values = values.transpose(0, 2, 1)
        columns = (across + first - left)[:, None] + np.arange(STRIP_PX)
        stretch[:, along - start, place] = values[:, (along - start)[:, None], columns]
    return stretch


def _judge_overlap(contact: _Contact, shared: Rect) -> Seam:
    squares = [_read_square(contact, rect, shared) for rect in _squares(contact.mosaic, shared)]
    squares = [square for square in squares if 4 * square.n_valid >= square.n_px]
    if len(squares) < MIN_BLOCKS:
        return contact.seam
    misfits = np.array([square.misfits for square in squares])
    best = int(misfits.sum(axis=0).argmin())
    better = np.log((misfits[:, :1] + LOG_FLOOR) / (misfits[:, [best]] + LOG_FLOOR))
    steps, slopes = map(np.array, zip(*(square.steps(best) for square in squares), strict=True))
    t = np.abs(_t_values(np.concatenate([steps, slopes], axis=1)))
    band = int(t.argmax()) % len(contact.bands)
    slope = float(np.median(slopes[:, band]))
    n_free, n_valid = len(squares) - 1, sum(square.n_valid for square in squares)
    return replace(
        contact.seam,
        p_step=min(1.0, 2 * len(t) * upper_tail(float(t.max()), n_free)),
        p_shift=min(1.0, len(_OFFSETS) * upper_tail(float(_t_values(better)[0]), n_free)),
        band=contact.bands[band],
        step=float(np.median(steps[:, band])),
        gain=(1 + slope / 2) / (1 - slope / 2),
        shift=_OFFSETS[best],
        unequal_share=sum(square.n_unequal for square in squares) / n_valid,
    )


_REACHED = range(-REACH_PX, REACH_PX + 1)
_OFFSETS: list[Shift] = [(0, 0), *((x, y) for x in _REACHED for y in _REACHED if x or y)]
"""``(x, y)`` by which tile b is moved, none first."""


def _squares(mosaic: Mosaic, shared: Rect) -> list[Rect]:
    """At most sixteen squares, spread over an overlap, that fit into memory together."""
    most = math.isqrt(STRIP_BYTES // (2 * 4 * N_SQUARES * mosaic.storage.n_bands))
    side = min(64, most, *shared.shape, math.isqrt(math.prod(shared.shape) // N_SQUARES))
    side = max(side, MIN_OVERLAP_PX)
    rows, columns = (n // side for n in shared.shape)
    every = [
        Rect(top, left, top + side, left + side)
        for top in np.linspace(shared.top, shared.bottom - side, rows).astype(int).tolist()
        for left in np.linspace(shared.left, shared.right - side, columns).astype(int).tolist()
    ]
    chosen = np.linspace(0, len(every) - 1, min(N_SQUARES, len(every))).astype(int)
    return [every[i] for i in chosen.tolist()]


@dataclass(frozen=True)
class _Square:
    """Values of two tiles on the same ground, ``(band, y, x)``, and how many codes differ."""

    a: Values
    b: Values
    n_px: int
    n_valid: int
    n_unequal: int

    @cached_property
    def misfits(self) -> Numbers:
        """Mean absolute difference at each offset, less the mean step, by that within tile a."""
        scale = np.nanmean(np.abs(self.a - _band_means(self.a)), axis=(1, 2))
        varied = scale > smallest_difference(self.a)
        misfits = np.zeros(len(_OFFSETS))
        for i, offset in enumerate(_OFFSETS):
            difference, _ = self._pair(offset)
            spread = np.nanmean(np.abs(difference - _band_means(difference)), axis=(1, 2))
            misfits[i] = np.mean(spread[varied] / scale[varied]) if varied.any() else 0
        return misfits

    def steps(self, offset: int) -> tuple[Numbers, Numbers]:
        """Of each band: median difference at an offset, and its slope against the value."""
        difference, level = self._pair(_OFFSETS[offset])
        steps = np.nanmedian(difference, axis=(1, 2))
        dx = level - _band_means(level)
        dy = difference - _band_means(difference)
        slopes = np.nansum(dx * dy, axis=(1, 2)) / (np.nansum(dx * dx, axis=(1, 2)) + 1e-30)
        return steps, slopes

    def _pair(self, offset: Shift) -> tuple[Values, Values]:
        """Difference from tile a to tile b moved by an offset, and the mean of both."""
        x, y = offset
        r, rows, columns = REACH_PX, *self.a.shape[1:]
        a = self.a[:, r : rows - r, r : columns - r]
        b = self.b[:, r - y : rows - r - y, r - x : columns - r - x]
        return b - a, ((a + b) / 2).astype(np.float32)


def _read_square(contact: _Contact, rect: Rect, shared: Rect) -> _Square:
    r = REACH_PX
    around = Rect(rect.top - r, rect.left - r, rect.bottom + r, rect.right + r).meet(shared)
    codes_a, a = _read_values(contact.mosaic, contact.a, around)
    codes_b, b = _read_values(contact.mosaic, contact.b, around)
    valid = np.isfinite(a).all(axis=0) & np.isfinite(b).all(axis=0)
    unequal = valid & (codes_a != codes_b).any(axis=0)
    return _Square(a, b, valid.size, int(valid.sum()), int(unequal.sum()))


def _band_means(values: Values) -> Values:
    means: Values = np.nanmean(values, axis=(1, 2), keepdims=True)
    return means


def _t_values(sample: Numbers) -> Numbers:
    """Mean over its standard error, of each column; 0 where all are 0."""
    mean, spread = sample.mean(axis=0), sample.std(axis=0, ddof=1) / math.sqrt(len(sample))
    t: Numbers = mean / (np.maximum(spread, 1e-9 * np.abs(mean)) + np.finfo(np.float32).tiny)
    return t


def _decided(seams: Sequence[Seam], alpha: float) -> tuple[Seam, ...]:
    """Seams with probabilities corrected together, verdicts, and no fact that was not found."""
    steps, shifts = ([getattr(seam, name) for seam in seams] for name in ("p_step", "p_shift"))
    corrected = _holm(np.array(steps + shifts))
    return tuple(
        _verdict(replace(seam, p_step=float(p_step), p_shift=float(p_shift)), alpha)
        for seam, p_step, p_shift in zip(
            seams, corrected[: len(seams)], corrected[len(seams) :], strict=True
        )
    )


def _holm(p: Numbers) -> Numbers:
    """Probabilities corrected for their number (Holm 1979); NaN is not counted."""
    corrected = np.full(len(p), np.nan)
    order = np.argsort(p)[: int(np.isfinite(p).sum())]
    scaled = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return corrected


def _verdict(seam: Seam, alpha: float) -> Seam:
    has_step, has_shift = seam.p_step <= alpha, seam.p_shift <= alpha
    if not has_step:
        seam = replace(seam, band=None, step=None, gain=None)
    if not has_shift:
        seam = replace(seam, shift=None)
    if has_shift and not (has_step and seam.p_step < seam.p_shift):
        return replace(seam, verdict="shift")
    if has_step:
        return replace(seam, verdict="step")
    judged = not (math.isnan(seam.p_step) and math.isnan(seam.p_shift))
    return replace(seam, verdict="none" if judged else "undecided")


_HEADER = (
    "layer",
    "date",
    "tile a",
    "side",
    "tile b",
    "pixels",
    "by",
    "p step",
    "p shift",
    "fault",
)


def _row(seam: Seam) -> tuple[str, ...]:
    facts = (seam.layer, seam.date or "-", seam.tile_a, seam.side, seam.tile_b, str(seam.n_px))
    return (*facts, seam.method, f"{seam.p_step:.1g}", f"{seam.p_shift:.1g}", _fault(seam))


def _fault(seam: Seam) -> str:
    parts = []
    if seam.shift is not None:
        parts.append(f"shift x {seam.shift[0]:+d} y {seam.shift[1]:+d} px")
    if seam.step is not None:
        parts.append(f"step {seam.step:+.3g}, gain {seam.gain:.3f} in band {seam.band}")
    if seam.unequal_share is not None:
        parts.append(f"{seam.unequal_share:.0%} of codes differ")
    first = "shift" if seam.verdict == "shift" else "step"
    return "; ".join(sorted(parts, key=lambda part: not part.startswith(first)))


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
