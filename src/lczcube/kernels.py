"""Statistics of square windows of coded pixels: one fast pass, without a decoded copy.

Semantics are those of ``xarray`` ``coarsen`` on the decoded layer: NaN skipped, population standard
deviation. A window is a square of pixels anywhere: a cell of a lattice, one of many that overlap,
or a patch that reaches past the array, where what lies outside is invalid.

Moments run in compiled loops (``lczcube._window_loops``), which release the interpreter's lock, so
that Dask's threads run side by side. Quantiles are sorted by NumPy; class fractions are counts.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

from lczcube.decoders import Coding
from lczcube.errors import CatalogError, ConfigError, GridMismatchError
from lczcube.runtime import IMPORTING

if TYPE_CHECKING:
    from lczcube._window_loops import Steps

Codes = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
Positions = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]

MOMENTS = ("mean", "std", "max", "min")
"""In the order of ``lczcube._window_loops``."""

DTYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64")

MAX_SIZE_PX = 2**15
"""In a larger window, squares of 16-bit codes might sum to more than 64 bits hold."""

SORTED_PX = 2**18
"""Pixels sorted at a time for quantiles: 1 MB of values, which stay in a core's own cache."""


def reduce_windows(
    codes: Codes,
    coding: Coding,
    valid: Mask,
    rows: Positions,
    columns: Positions,
    *,
    size_px: int,
    stats: Sequence[str],
    scales: Float32 | None = None,
    band_last: bool = False,
) -> Float32:
    """Statistics of every band in every window.

    Parameters
    ----------
    codes : numpy.ndarray
        Stored codes, dims ``(band, y, x)``, or ``(y, x, band)`` if ``band_last``; int8, uint8,
        int16, uint16, int32, uint32, float32 or float64. A view or a read-only memory map is read
        in place if its last dimension lies side by side in memory, and copied if not.
    coding : Coding
        How codes become values.
    valid : numpy.ndarray
        bool, dims ``(y, x)``: the pixels that count, the layer's own rule included
        (:func:`valid_mask`).
    rows, columns : numpy.ndarray
        int64, one per window: its upper-left pixel. Windows may overlap, and reach past the array.
    size_px : int
        Side of the windows in pixels, 1 to 32,768.
    stats : sequence of str
        ``mean``, ``std`` (population), ``max``, ``min``; ``qNN``, the quantile of NN percent,
        linear between values; ``fCODE``, the share of the valid pixels whose stored code is CODE.
    scales : numpy.ndarray, optional
        float32, the scale of each pixel, for ``int8_times_scale``: dims ``(y, x)``, or those of
        ``codes``, with one band or as many.
    band_last : bool
        Whether bands are the last dimension, as in the files of TESSERA.

    Returns
    -------
    numpy.ndarray
        float32, ``(n_windows, n_stats * n_bands)``: all bands of the first statistic, then of the
        next. NaN where a window holds no valid value.

    Raises
    ------
    ConfigError
        If a statistic is unknown or named twice, or ``size_px`` is out of range.
    CatalogError
        If the dtype is another one, or scales are missing.
    GridMismatchError
        If ``valid``, ``scales`` or the coding's bands do not fit ``codes``.

    Notes
    -----
    Codes of up to 16 bits are summed as integers, exactly. Wider ones, codes times scales and the
    ``signed_square`` of 16 bits are summed in float64, in one order, from their float32 values.
    Either way the same pixels give the same bits, in whatever array, place and layout. A maximum
    or minimum has the bits of :meth:`~lczcube.decoders.Coding.decode`, but that zero is positive.

    Per code in a window, one thread takes 0.4 to 0.9 ns for all moments and 10 to 20 ns for all
    quantiles; a class costs 1 ns per code of the array, and 10 if ``band_last``. The first call for
    a dtype, layout and family of decoders compiles for one to two seconds, unless an earlier
    process has left the result on disk, and imports numba.
    """
    require_stats(stats)
    layer = _Layer.of(codes, coding, valid, scales, band_last)
    windows = _survey(valid, rows, columns, size_px)
    n_bands = len(layer.codes)
    reduced = np.full((windows.rows.size, n_columns(stats, n_bands)), np.nan, np.float32)
    if codes.size and windows.rows.size:
        first = {stat: n_bands * i for i, stat in enumerate(stats)}
        _write_moments(reduced, first, layer, windows)
        _write_quantiles(reduced, first, layer, windows)
        _write_fractions(reduced, first, layer, windows)
    return reduced


def count_valid(
    valid: Mask, rows: Positions, columns: Positions, size_px: int
) -> npt.NDArray[np.int32]:
    """Valid pixels of every window.

    Parameters
    ----------
    valid : numpy.ndarray
        bool, dims ``(y, x)``.
    rows, columns, size_px
        As in :func:`reduce_windows`.

    Returns
    -------
    numpy.ndarray
        int32, one per window; pixels outside the array are not valid.
    """
    return _survey(valid, rows, columns, size_px).n_valid.astype(np.int32)


def valid_mask(
    codes: Codes, coding: Coding, scales: Float32 | None = None, band_last: bool = False
) -> Mask:
    """Which pixels are valid: :meth:`Coding.valid_pixels` in one pass, bands read as needed.

    Parameters
    ----------
    codes, coding, scales, band_last
        As in :func:`reduce_windows`. ``finite_scale`` reads the scales and no code.

    Returns
    -------
    numpy.ndarray
        bool, dims ``(y, x)``.

    Raises
    ------
    CatalogError
        If the dtype has no kernel, or scales are missing.
    """
    by_band = _by_band(codes, band_last)
    if coding.valid == "finite_scale":
        return coding.valid_pixels(by_band, None if scales is None else _by_band(scales, band_last))
    _require_dtype(codes)
    nodata = _nodata_code(coding.nodata, codes.dtype)
    valid = np.ones(by_band.shape[1:], np.bool_)
    if codes.size == 0:
        return coding.valid_pixels(by_band)
    if nodata is not None:
        loops = _loops()
        mask = loops.mask_band_last if band_last else loops.mask_band_first
        any_band = coding.valid == "all_bands_nodata"
        mask(*_memory(by_band, band_last), nodata, any_band, len(by_band), valid)
    return valid


def n_columns(stats: Sequence[str], n_bands: int) -> int:
    """Columns that :func:`reduce_windows` gives: every statistic of every band."""
    return len(stats) * n_bands


def require_stats(stats: Sequence[str]) -> None:
    """Refuse statistics that :func:`reduce_windows` does not know.

    Raises
    ------
    ConfigError
        If there is none, or one is unknown or named twice.
    """
    unknown = [s for s in stats if s not in MOMENTS and _percent(s) is None and _class(s) is None]
    if unknown or not stats or len(set(stats)) != len(stats):
        raise ConfigError(
            f"stats {list(stats)}: name each once, of {', '.join(MOMENTS)}, qNN (a quantile in "
            "percent, as q95) and fCODE (the share of a class, as f11)."
        )


def _percent(stat: str) -> int | None:
    found = re.fullmatch(r"q(\d\d)", stat, re.ASCII)
    return int(found[1]) if found else None


def _class(stat: str) -> int | None:
    found = re.fullmatch(r"f(-?\d+)", stat, re.ASCII)
    return int(found[1]) if found else None


@dataclass(frozen=True)
class _Layer:
    """What is reduced: codes and scales seen as ``(band, y, x)``, however they lie in memory."""

    codes: Codes
    coding: Coding
    valid: Mask
    scales: Float32 | None
    band_last: bool

    @classmethod
    def of(
        cls, codes: Codes, coding: Coding, valid: Mask, scales: Float32 | None, band_last: bool
    ) -> "_Layer":
        _require_dtype(codes)
        by_band = _by_band(codes, band_last)
        n_bands, *shape = by_band.shape
        _require_fit("valid", valid.shape, [tuple(shape)])
        if not coding.has_scales:
            if coding.decoder == "linear":
                _require_fit("the coding's scale", (len(coding.scale),), [(n_bands,)])
            return cls(by_band, coding, valid, None, band_last)
        if scales is None:
            raise CatalogError(
                "codes of decoder 'int8_times_scale' came without their scales; pass scales=, one "
                "per pixel."
            )
        scales = _by_band(np.asarray(scales, np.float32), band_last)
        _require_fit("scales", scales.shape, [(n, *shape) for n in (1, n_bands)])
        return cls(by_band, coding, valid, scales, band_last)

    def band(self, band: int) -> tuple[Codes, Float32 | None]:
        """Codes and scales of one band, dims ``(y, x)``."""
        scales = self.scales
        return self.codes[band], None if scales is None else scales[min(band, len(scales) - 1)]

    @property
    def is_exact(self) -> bool:
        """Whether all sums of terms and of their squares fit integers of 64 bits."""
        kind, bits = self.codes.dtype.kind, 8 * self.codes.dtype.itemsize
        small = bits <= (8 if self.coding.decoder == "signed_square" else 16)
        return kind in "iu" and small and not self.coding.has_scales


@dataclass(frozen=True)
class _Windows:
    """Positions, valid pixels, and ``facts``: what ``survey`` in the loops finds of each window."""

    rows: Positions
    columns: Positions
    size_px: int
    n_valid: npt.NDArray[np.int64]
    facts: npt.NDArray[np.int64]


def _by_band(array: npt.NDArray[Any], band_last: bool) -> npt.NDArray[Any]:
    """A view as ``(band, y, x)``."""
    if array.ndim == 2:
        return array[np.newaxis]
    return np.moveaxis(array, -1, 0) if band_last else array


def _require_dtype(codes: Codes) -> None:
    if codes.dtype.name not in DTYPES:
        raise CatalogError(
            f"codes are {codes.dtype.name}; windows are reduced of {', '.join(DTYPES)}."
        )


def _require_fit(name: str, shape: tuple[int, ...], allowed: list[tuple[int, ...]]) -> None:
    if shape not in allowed:
        raise GridMismatchError(
            f"{name}: shape {shape}; the codes want {' or '.join(map(str, allowed))}."
        )


def _loops() -> ModuleType:
    """The compiled loops; numba is imported when they are first wanted."""
    with IMPORTING:
        from lczcube import _window_loops

    return _window_loops


def _survey(valid: Mask, rows: Positions, columns: Positions, size_px: int) -> _Windows:
    loops = _loops()
    if not 1 <= size_px <= MAX_SIZE_PX:
        raise ConfigError(f"windows of {size_px} px: choose a side of 1 to {MAX_SIZE_PX} pixels.")
    _require_fit("columns", np.shape(columns), [np.shape(rows)])
    # Copies: an array that may not be written is another type to numba, to be compiled again.
    rows, columns = np.array(rows, np.int64), np.array(columns, np.int64)
    facts = np.zeros((len(rows), loops.N_FACTS), np.int64)
    if facts.size and valid.size:
        flat, steps = _memory(valid[np.newaxis], band_last=False)
        loops.survey(flat, steps, valid.shape, rows, columns, size_px, facts)
    return _Windows(rows, columns, size_px, facts[:, loops.N_VALID], facts)


def _write_moments(
    reduced: Float32, first: Mapping[str, int], layer: _Layer, windows: _Windows
) -> None:
    loops = _loops()
    wanted = [stat for stat in MOMENTS if stat in first]
    if not wanted:
        return
    if layer.is_exact:
        reduce = loops.exact_band_last if layer.band_last else loops.exact_band_first
    else:
        reduce = loops.float_band_last if layer.band_last else loops.float_band_first
    factor, offset = _decoding(layer)
    n_bands = len(layer.codes)
    moments = np.full((len(reduced), len(MOMENTS), n_bands), np.nan, np.float32)
    arguments = (
        *_memory(layer.codes, layer.band_last),
        *_memory(layer.valid[np.newaxis], band_last=False),
        *_memory(factor, layer.band_last),
        offset,
        layer.coding.decoder == "signed_square",
        windows.facts,
        windows.size_px,
        moments,
    )
    reduce(*arguments)
    if np.isnan(moments[windows.n_valid > 0, MOMENTS.index("std")]).any():
        loops.skip_nan(*arguments)
    for stat in wanted:
        reduced[:, first[stat] : first[stat] + n_bands] = moments[:, MOMENTS.index(stat)]


def _decoding(layer: _Layer) -> tuple[Float32, Float32]:
    """Factors, ``(band, y, x)`` or one pixel of them, and one offset per band."""
    n_bands = len(layer.codes)
    offset = np.zeros(n_bands, np.float32)
    if layer.scales is not None:
        return layer.scales, offset
    factor = np.ones((n_bands, 1, 1), np.float32)
    if layer.coding.decoder == "linear":
        factor[:, 0, 0], offset[:] = layer.coding.scale, layer.coding.offset
    return factor, offset


def _memory(array: npt.NDArray[Any], band_last: bool) -> tuple[npt.NDArray[Any], "Steps"]:
    """Memory of an array ``(band, y, x)``, read-only; a copy if the loops cannot run along it.

    They run along bands if ``band_last``, else along x, and take elements to lie side by side
    there. A dimension of length 1 has step 0, so that one band of scales serves all bands.
    """
    run = 0 if band_last else 2
    size = array.dtype.itemsize
    whole = all(stride % size == 0 for stride in array.strides)
    if not (array.flags.aligned and array.dtype.isnative and whole) or (
        array.shape[run] > 1 and array.strides[run] != size
    ):
        stored = np.moveaxis(array, run, -1).astype(array.dtype.newbyteorder("="), order="C")
        array = np.moveaxis(stored, -1, run)
    steps = [s // size if n > 1 else 0 for s, n in zip(array.strides, array.shape, strict=True)]
    reach = [step * (n - 1) for step, n in zip(steps, array.shape, strict=True)]
    lowest = array[tuple(slice(None, None, -1 if step < 0 else 1) for step in steps)]
    flat = as_strided(lowest, (1 + sum(map(abs, reach)),), (size,), writeable=False)
    band, row, column = steps
    return flat, (-sum(min(r, 0) for r in reach), band, row, column)


def _nodata_code(nodata: float | None, dtype: np.dtype[Any]) -> Any:
    """Nodata as a code; None where no code can be missing."""
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return dtype.type(np.nan if nodata is None else nodata)
    bounds = np.iinfo(dtype)
    if nodata is None or not float(nodata).is_integer() or not bounds.min <= nodata <= bounds.max:
        return None
    return dtype.type(int(nodata))


def _write_quantiles(
    reduced: Float32, first: Mapping[str, int], layer: _Layer, windows: _Windows
) -> None:
    shares = {column: p / 100 for s, column in first.items() if (p := _percent(s)) is not None}
    if not shares:
        return
    some = np.flatnonzero(windows.n_valid)
    n_blocks = -(-len(some) * windows.size_px**2 // SORTED_PX) or 1
    for block in np.array_split(some, min(n_blocks, len(some) or 1)):
        y, x, counts = _pixels(windows, block, layer.valid)
        for band in range(len(layer.codes)):
            codes, scales = layer.band(band)
            of_pixel = None if scales is None else scales[y, x]
            values = layer.coding.decode_band(codes[y, x], band, of_pixel)
            values[~counts] = np.nan
            values.sort(axis=-1)
            for column, share in shares.items():
                reduced[block, column + band] = _quantile(values, share)


def _pixels(windows: _Windows, block: Positions, valid: Mask) -> tuple[Positions, Positions, Mask]:
    """Rows, columns, and which count, of all pixels of some windows; ``(window, pixel)``."""
    offset_y, offset_x = np.divmod(np.arange(windows.size_px**2), windows.size_px)
    y = windows.rows[block, np.newaxis] + offset_y
    x = windows.columns[block, np.newaxis] + offset_x
    inside_y, inside_x = (np.clip(v, 0, n - 1) for v, n in zip((y, x), valid.shape, strict=True))
    return inside_y, inside_x, valid[inside_y, inside_x] & (y == inside_y) & (x == inside_x)


def _quantile(values: Float32, share: float) -> npt.NDArray[np.float64]:
    """Quantile of each row of sorted values, NaN last and skipped; NumPy's ``linear`` method."""
    n = values.shape[-1] - np.isnan(values).sum(axis=-1)
    position = share * np.maximum(n - 1, 0)
    below = np.floor(position).astype(np.int64)
    window = np.arange(len(values))
    low = values[window, below].astype(np.float64)
    high = values[window, np.minimum(below + 1, np.maximum(n - 1, 0))].astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinities
        between: npt.NDArray[np.float64] = low + (high - low) * (position - below)
    return np.where((low == high) | (position == below), low, between) + 0.0


def _write_fractions(
    reduced: Float32, first: Mapping[str, int], layer: _Layer, windows: _Windows
) -> None:
    some = windows.n_valid > 0
    n_valid = windows.n_valid[some]
    for stat, column in first.items():
        code = _class(stat)
        if code is None:
            continue
        for band, codes in enumerate(layer.codes):
            n = count_valid(
                layer.valid & (codes == code), windows.rows, windows.columns, windows.size_px
            )
            reduced[some, column + band] = n[some] / n_valid
