"""Loops over windows of coded pixels, compiled by numba for :mod:`lczcube.kernels`.

A module of its own because numba's cache on disk wants functions at module level, and numba is to
be imported only where windows are reduced. The functions see memory, not shapes: an array of any
layout is a flat run of elements and the steps through it, so that one compiled version per dtype
serves views, chunks and memory maps alike.

Two families. Small integers are summed exactly, in any order. All else becomes float32 values,
summed in float64 in one order: the pixel at position ``k`` of its window, row by row, always goes
to partial sum ``k % LANES``, and the partial sums are added up in turn. The processor can fill the
partial sums side by side, and neither the layout nor the place of a window changes a bit.

Arguments are arrays, numbers and tuples of numbers only. Classes would be pickled into numba's
cache, which then cannot be read once they have changed; and numba counts references at every call
that is given a tuple of arrays.
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir  # type: ignore[import-untyped]
from numba import extending

LANES = 32
"""Partial sums of a window. 8 and 16 take 1.7 times as long band-first; 64 is no faster."""

ROUNDS = 4
"""Times that a partial sum is added to while it is at hand: 0.6 of the time of 1; 8 is slower."""

EXACT_RUN = 2**15
"""Codes whose sums fit 32 bits, the width that vectorises best, even if all are 65,535."""

SQUARED_UNIT = 1 / 127.5**2

MEAN, STD, MAX, MIN = range(4)
"""Places in ``moments``, which is ``(window, moment, band)``."""

N_FACTS = 8
TOP, LEFT, HEIGHT, WIDTH, POSITION, N_VALID, FIRST_Y, FIRST_X = range(N_FACTS)
"""Columns of ``windows``, written by :func:`survey`: the part of a window that lies in the array,
the row-major position in the window where it begins, how many pixels are valid and the first."""

AHEAD = 2
"""Windows, or bands of a row, between the one at work and the one that is fetched. Bands lie too
far apart for the processor to see what comes next; without this, loops take 1.3 times as long."""

LINE_BYTES = 64

at = np.uint64
"""An index. Unsigned, for numba then leaves out its test for negative ones: 12 times as fast."""

Function = TypeVar("Function", bound=Callable[..., Any])
Steps = tuple[int, int, int, int]
"""``start, band, row, column``: (b, y, x) is at ``start + b * band + y * row + x * column``."""
Numbers = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def _compiled(function: Function) -> Function:
    """Compiled when first called; kept on disk where numba finds a folder that it may write."""
    jit: Callable[..., Any] = numba.njit
    try:
        return cast(Function, jit(nogil=True, error_model="numpy", cache=True)(function))
    except RuntimeError:
        return cast(Function, jit(nogil=True, error_model="numpy")(function))


_intrinsic: Callable[..., Any] = extending.intrinsic


@_intrinsic
def _prefetch(_typing: Any, array: Any, index: Any) -> Any:
    """Ask the processor for an element that will be read soon; any index is safe."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        address, number = builder.gep(data, [arguments[1]]), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [address.type, number, number, number])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [address.type], kind)
        builder.call(prefetch, [address, number(0), number(3), number(1)])  # read, keep, data
        return context.get_dummy_value()

    return numba.void(array, index), generate


@_compiled
def _index(steps: Steps, band: int, y: int, x: int) -> int:
    return steps[0] + steps[1] * band + steps[2] * y + steps[3] * x


@_compiled
def _prefetch_rows(codes: Numbers, start: int, step: int, height: int, width: int) -> None:
    for j in range(height):
        for k in range(0, width, LINE_BYTES // codes.itemsize):
            _prefetch(codes, start + j * step + k)


@_compiled
def _fill(array: Numbers, value: Any) -> None:
    for k in range(array.size):
        array[at(k)] = value


@_compiled
def survey(
    valid: Mask,
    steps: Steps,
    shape: tuple[int, int],
    rows: Int64,
    columns: Int64,
    size: int,
    windows: Int64,
) -> None:
    """Cut every window to the array, count its valid pixels and find the first."""
    for i in range(rows.size):
        top, left = max(rows[i], 0), max(columns[i], 0)
        height = max(min(rows[i] + size, shape[0]) - top, 0)
        width = max(min(columns[i] + size, shape[1]) - left, 0)
        windows[i, TOP], windows[i, LEFT] = top, left
        windows[i, HEIGHT], windows[i, WIDTH] = height, width
        windows[i, POSITION] = (top - rows[i]) * size + left - columns[i]
        n = 0
        for y in range(top, top + height):
            start = _index(steps, 0, y, left)
            n_before = n
            for k in range(width):
                n += valid[at(start + k)]
            if n_before == 0 and n > 0:
                windows[i, FIRST_Y] = y
                windows[i, FIRST_X] = left + _first_valid(valid, start)
        windows[i, N_VALID] = n


@_compiled
def _first_valid(valid: Mask, start: int) -> int:
    k = 0
    while not valid[at(start + k)]:
        k += 1
    return k


@_compiled
def mask_band_first(
    codes: Numbers, steps: Steps, nodata: Any, any_band: bool, n_bands: int, valid: Mask
) -> None:
    """Pixels with a code in every band, or in ``any_band``; the codes' ``column`` step is 1.

    A row is left after the first band that leaves no pixel in doubt.
    """
    n_rows, n_columns = valid.shape
    settled = np.empty(n_columns, np.uint8)
    for y in range(n_rows):
        _fill(settled, 0)
        for band in range(n_bands):
            ahead = _index(steps, min(band + AHEAD, n_bands - 1), y, 0)
            _prefetch_rows(codes, ahead, 0, 1, n_columns)
            if _settle(codes, _index(steps, band, y, 0), nodata, any_band, settled):
                break
        for x in range(n_columns):
            valid[at(y), at(x)] = (settled[at(x)] != 0) == any_band


@_compiled
def _settle(
    codes: Numbers, start: int, nodata: Any, any_band: bool, settled: npt.NDArray[np.uint8]
) -> Any:
    """Mark the pixels that a band settles; 1 when all are settled."""
    every = np.uint8(1)
    for x in range(settled.size):
        new = np.uint8(_is_missing(codes[at(start + x)], nodata) != any_band)
        now = np.uint8(settled[at(x)] | new)
        settled[at(x)] = now
        every = np.uint8(every & now)
    return every


@_compiled
def _is_missing(code: Any, nodata: Any) -> Any:
    """Nodata or NaN; ``|`` where ``or`` would be a branch, four times as slow."""
    return (code == nodata) | (code != code)


@_compiled
def mask_band_last(
    codes: Numbers, steps: Steps, nodata: Any, any_band: bool, n_bands: int, valid: Mask
) -> None:
    """As :func:`mask_band_first`, with a ``band`` step of 1; a pixel is left when it is settled."""
    n_rows, n_columns = valid.shape
    for y in range(n_rows):
        for x in range(n_columns):
            start = _index(steps, 0, y, x)
            settled = False
            for band in range(n_bands):
                if _is_missing(codes[at(start + band)], nodata) != any_band:
                    settled = True
                    break
            valid[at(y), at(x)] = settled == any_band


@_compiled
def exact_band_first(
    codes: Numbers,
    steps: Steps,
    valid: Mask,
    valid_steps: Steps,
    factor: Float32,
    factor_steps: Steps,
    offset: Float32,
    squared: bool,
    windows: Int64,
    size: int,
    moments: Float32,
) -> None:
    """Moments of codes of up to 16 bits, whose ``column`` step is 1: integers until the end.

    Invalid pixels repeat the window's first valid code, which saves a branch and changes no
    extreme; what they add to the sums is taken off again, exactly. A value is ``code * factor +
    offset``, or ``sign(code) * (code / 127.5)**2`` when ``squared``.
    """
    pixels = np.empty(size**2, codes.dtype)
    for b in range(offset.size):
        scale = factor[at(_index(factor_steps, b, 0, 0))]
        for i in range(len(windows)):
            n = windows[i, N_VALID]
            if n == 0:
                continue
            fill = codes[at(_index(steps, b, windows[i, FIRST_Y], windows[i, FIRST_X]))]
            coming = min(i + AHEAD, len(windows) - 1)
            ahead = _index(steps, b, windows[coming, TOP], windows[coming, LEFT])
            _prefetch_rows(codes, ahead, steps[2], windows[coming, HEIGHT], windows[coming, WIDTH])
            _gather_codes(codes, steps, b, valid, valid_steps, windows, i, fill, pixels)
            total, squares, lowest, highest = _exact_sums(pixels, squared)
            term = _term(np.int64(fill), squared)
            total -= (pixels.size - n) * term
            squares -= (pixels.size - n) * term * term
            mean, std = _exact_moments(n, total, squares, scale, offset[b], squared)
            low = _decoded(lowest, scale, offset[b], squared)
            high = _decoded(highest, scale, offset[b], squared)
            _write(moments, i, b, mean, std, min(low, high), max(low, high))


@_compiled
def _gather_codes(
    codes: Numbers,
    steps: Steps,
    band: int,
    valid: Mask,
    valid_steps: Steps,
    windows: Int64,
    i: int,
    fill: Any,
    pixels: Numbers,
) -> None:
    """The window's valid codes, in no order that matters, and ``fill`` in all other places."""
    top, left, width = windows[i, TOP], windows[i, LEFT], windows[i, WIDTH]
    if windows[i, HEIGHT] * width < pixels.size:
        _fill(pixels, fill)
    for j in range(windows[i, HEIGHT]):
        code, flag = _index(steps, band, top + j, left), _index(valid_steps, 0, top + j, left)
        put = j * width
        for k in range(width):
            pixels[at(put + k)] = codes[at(code + k)] if valid[at(flag + k)] else fill


@_compiled
def _term(code: Any, squared: bool) -> Any:
    """What is summed: the code, or its signed square."""
    return code * abs(code) if squared else code


@_compiled
def _exact_sums(pixels: Numbers, squared: bool) -> tuple[Any, Any, Any, Any]:
    """Sum and sum of squares of the terms; lowest and highest code."""
    total, squares = np.int64(0), np.int64(0)
    lowest = highest = np.int32(pixels[0])
    for start in range(0, pixels.size, EXACT_RUN):
        run_total, low, high = np.int32(0), np.uint32(0), np.uint32(0)
        for k in range(min(EXACT_RUN, pixels.size - start)):
            code = np.int32(pixels[at(start + k)])
            lowest, highest = min(lowest, code), max(highest, code)
            term = np.int32(_term(code, squared))
            square = np.uint32(np.uint32(term) * np.uint32(term))
            run_total = np.int32(run_total + term)
            low = np.uint32(low + (square & np.uint32(0xFFFF)))
            high = np.uint32(high + (square >> np.uint32(16)))
        total += np.int64(run_total)
        squares += np.int64(low) + (np.int64(high) << 16)
    return total, squares, lowest, highest


@_compiled
def exact_band_last(
    codes: Numbers,
    steps: Steps,
    valid: Mask,
    valid_steps: Steps,
    factor: Float32,
    factor_steps: Steps,
    offset: Float32,
    squared: bool,
    windows: Int64,
    size: int,  # noqa: ARG001 - the four are called alike
    moments: Float32,
) -> None:
    """As :func:`exact_band_first`, with a ``band`` step of 1: a pixel's bands side by side."""
    n_bands = offset.size
    totals, squares = np.empty(n_bands, np.int64), np.empty(n_bands, np.int64)
    lowest, highest = np.empty(n_bands, np.int32), np.empty(n_bands, np.int32)
    for i in range(len(windows)):
        n = windows[i, N_VALID]
        if n == 0:
            continue
        _fill(totals, 0)
        _fill(squares, 0)
        _fill(lowest, 2**16)
        _fill(highest, -(2**16))
        for y in range(windows[i, TOP], windows[i, TOP] + windows[i, HEIGHT]):
            for x in range(windows[i, LEFT], windows[i, LEFT] + windows[i, WIDTH]):
                if valid[at(_index(valid_steps, 0, y, x))]:
                    start = _index(steps, 0, y, x)
                    _add_terms(codes, start, squared, totals, squares)
                    _add_ends(codes, start, lowest, highest)
        for b in range(n_bands):
            scale = factor[at(_index(factor_steps, b, 0, 0))]
            mean, std = _exact_moments(n, totals[b], squares[b], scale, offset[b], squared)
            low = _decoded(lowest[b], scale, offset[b], squared)
            high = _decoded(highest[b], scale, offset[b], squared)
            _write(moments, i, b, mean, std, min(low, high), max(low, high))


@_compiled
def _add_terms(codes: Numbers, start: int, squared: bool, totals: Int64, squares: Int64) -> None:
    for b in range(totals.size):
        term = np.int64(_term(np.int32(codes[at(start + b)]), squared))
        totals[at(b)] += term
        squares[at(b)] += term * term


@_compiled
def _add_ends(codes: Numbers, start: int, lowest: Numbers, highest: Numbers) -> None:
    for b in range(lowest.size):
        code = np.int32(codes[at(start + b)])
        lowest[at(b)] = min(lowest[at(b)], code)
        highest[at(b)] = max(highest[at(b)], code)


@_compiled
def _exact_moments(
    n: Any, total: Any, squares: Any, factor: Any, offset: Any, squared: bool
) -> tuple[Any, Any]:
    """Mean and population standard deviation of values, from integer sums of their terms.

    The variance is taken about a whole number next to the mean, where it is exact up to the last
    line: the textbook difference would overflow, or cancel.
    """
    mean = total / n
    whole = np.int64(mean)
    rest = total - whole * n
    about = squares - whole * (total + rest)
    std = math.sqrt(max(about - rest * (rest / n), 0.0) / n)
    if squared:
        return mean * SQUARED_UNIT, std * SQUARED_UNIT
    return mean * np.float64(factor) + np.float64(offset), std * abs(np.float64(factor))


@_compiled
def _decoded(code: Any, factor: Any, offset: Any, squared: bool) -> Any:
    """One value, rounded where :meth:`lczcube.decoders.Coding.decode_band` rounds."""
    value = np.float32(code)
    if squared:
        share = value / np.float32(127.5)
        return share * abs(share)
    return value * factor + offset


@_compiled
def _write(
    moments: Float32, i: int, b: int, mean: Any, std: Any, lowest: Any, highest: Any
) -> None:
    """Adding 0.0 makes negative zeros, equal to zeros, the same bits."""
    moments[i, MEAN, b] = mean
    moments[i, STD, b] = std
    moments[i, MAX, b] = highest + 0.0
    moments[i, MIN, b] = lowest + 0.0


@_compiled
def float_band_first(
    codes: Numbers,
    steps: Steps,
    valid: Mask,
    valid_steps: Steps,
    factor: Float32,
    factor_steps: Steps,
    offset: Float32,
    squared: bool,
    windows: Int64,
    size: int,
    moments: Float32,
) -> None:
    """Moments of decoded values of codes whose ``column`` step is 1.

    Summed are differences from the window's first valid value, which keeps the variance sound: the
    mean is at most ``sqrt(n)`` standard deviations from any value. Invalid pixels repeat that
    value, and so add nothing.
    """
    row, offsets = np.empty(size, np.float32), np.empty(size, np.float32)
    values = np.empty(-(-(size**2) // (ROUNDS * LANES)) * ROUNDS * LANES, np.float32)
    bits, ends = values.view(np.int32), np.empty(2, np.int32)
    lowest_highest = ends.view(np.float32)
    totals, squares = np.empty(LANES), np.empty(LANES)
    for b in range(offset.size):
        _fill(offsets, offset[b])
        for i in range(len(windows)):
            n, top, left = windows[i, N_VALID], windows[i, TOP], windows[i, LEFT]
            height, width = windows[i, HEIGHT], windows[i, WIDTH]
            if n == 0:
                continue
            code = codes[at(_index(steps, b, windows[i, FIRST_Y], windows[i, FIRST_X]))]
            scale = factor[at(_index(factor_steps, b, windows[i, FIRST_Y], windows[i, FIRST_X]))]
            first = _decoded(code, scale, offset[b], squared)
            coming = min(i + AHEAD, len(windows) - 1)
            ahead = _index(steps, b, windows[coming, TOP], windows[coming, LEFT])
            _prefetch_rows(codes, ahead, steps[2], windows[coming, HEIGHT], windows[coming, WIDTH])
            if height * width < values.size:
                _fill(values, first)
            for j in range(height):
                start = _index(steps, b, top + j, left)
                scales = _index(factor_steps, b, top + j, left)
                if squared:
                    _decode_squares(codes, start, width, row)
                elif factor_steps[3] == 0:
                    _decode_with_one(codes, start, factor[at(scales)], offsets, width, row)
                else:
                    _decode_with_each(codes, start, factor, scales, offsets, width, row)
                flags, put = _index(valid_steps, 0, top + j, left), windows[i, POSITION] + j * size
                for k in range(width):
                    values[at(put + k)] = row[at(k)] if valid[at(flags + k)] else first
            _fill(totals, 0)
            _fill(squares, 0)
            for start in range(0, values.size, ROUNDS * LANES):
                _add_differences(values, start, first, totals, squares)
            total, square = totals[0], squares[0]
            for lane in range(1, LANES):
                total += totals[lane]
                square += squares[lane]
            _find_extremes(bits, ends)
            mean, std = _float_moments(n, first, total, square)
            _write(moments, i, b, mean, std, lowest_highest[0], lowest_highest[1])


@_compiled
def _decode_squares(codes: Numbers, start: int, n: int, values: Float32) -> None:
    for k in range(n):
        values[at(k)] = _decoded(codes[at(start + k)], np.float32(1), np.float32(0), True)


@_compiled
def _decode_with_one(
    codes: Numbers, start: int, factor: Any, offset: Float32, n: int, values: Float32
) -> None:
    for k in range(n):
        values[at(k)] = _decoded(codes[at(start + k)], factor, offset[at(k)], False)


@_compiled
def _decode_with_each(
    codes: Numbers,
    start: int,
    factor: Float32,
    factor_start: int,
    offset: Float32,
    n: int,
    values: Float32,
) -> None:
    for k in range(n):
        scale = factor[at(factor_start + k)]
        values[at(k)] = _decoded(codes[at(start + k)], scale, offset[at(k)], False)


@_compiled
def _add_differences(
    values: Float32, start: int, shift: Any, totals: Float64, squares: Float64
) -> None:
    """Add ``ROUNDS`` values to every partial sum, one after the other."""
    for lane in range(LANES):
        total, square = totals[at(lane)], squares[at(lane)]
        for r in range(ROUNDS):
            difference = np.float64(values[at(start + r * LANES + lane)]) - np.float64(shift)
            total += difference
            square += difference * difference
        totals[at(lane)], squares[at(lane)] = total, square


@_compiled
def _find_extremes(bits: npt.NDArray[np.int32], ends: npt.NDArray[np.int32]) -> None:
    """Bits of the lowest and the highest float32 among ``bits``.

    They are compared as integers that sort as the floats do, which vectorises; a comparison of
    floats does not, for it must heed NaN.
    """
    lowest = highest = _sortable(bits[0])
    for k in range(bits.size):
        key = _sortable(bits[at(k)])
        lowest, highest = min(lowest, key), max(highest, key)
    ends[0], ends[1] = _sortable(lowest), _sortable(highest)


@_compiled
def _sortable(bits: Any) -> Any:
    """Turn round the order of negative floats; its own inverse."""
    return np.int32(bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))


@_compiled
def _float_moments(n: int, shift: Any, total: Any, squares: Any) -> tuple[Any, Any]:
    """Mean and population standard deviation from sums of differences from ``shift``.

    The latter is NaN if a value is NaN or infinite.
    """
    above = total / n
    variance = squares / n - above * above
    return shift + above, 0.0 if variance < 0.0 else math.sqrt(variance)


@_compiled
def float_band_last(
    codes: Numbers,
    steps: Steps,
    valid: Mask,
    valid_steps: Steps,
    factor: Float32,
    factor_steps: Steps,
    offset: Float32,
    squared: bool,
    windows: Int64,
    size: int,
    moments: Float32,
) -> None:
    """As :func:`float_band_first`, with a ``band`` step of 1: a pixel's bands side by side."""
    n_bands = offset.size
    values, shift = np.empty(n_bands, np.float32), np.empty(n_bands)
    totals, squares = np.empty(LANES * n_bands), np.empty(LANES * n_bands)
    lowest, highest = np.empty(n_bands, np.float32), np.empty(n_bands, np.float32)
    for i in range(len(windows)):
        n, top, left = windows[i, N_VALID], windows[i, TOP], windows[i, LEFT]
        if n == 0:
            continue
        _fill(totals, 0)
        _fill(squares, 0)
        _fill(lowest, np.inf)
        _fill(highest, -np.inf)
        is_first = True
        for j in range(windows[i, HEIGHT]):
            for k in range(windows[i, WIDTH]):
                if not valid[at(_index(valid_steps, 0, top + j, left + k))]:
                    continue
                start = _index(steps, 0, top + j, left + k)
                scales = _index(factor_steps, 0, top + j, left + k)
                if squared:
                    _decode_squares(codes, start, n_bands, values)
                elif factor_steps[1] == 0:
                    _decode_with_one(codes, start, factor[at(scales)], offset, n_bands, values)
                else:
                    _decode_with_each(codes, start, factor, scales, offset, n_bands, values)
                if is_first:
                    is_first = False
                    for b in range(n_bands):
                        shift[b] = values[b]
                lane = (windows[i, POSITION] + j * size + k) % LANES
                _add_bands(values, shift, totals, squares, lane * n_bands)
                _add_extremes(values, lowest, highest)
        for lane in range(1, LANES):
            for b in range(n_bands):
                totals[at(b)] += totals[at(lane * n_bands + b)]
                squares[at(b)] += squares[at(lane * n_bands + b)]
        for b in range(n_bands):
            mean, std = _float_moments(n, shift[b], totals[b], squares[b])
            _write(moments, i, b, mean, std, lowest[b], highest[b])


@_compiled
def _add_bands(
    values: Float32, shift: Float64, totals: Float64, squares: Float64, put: int
) -> None:
    for b in range(values.size):
        difference = np.float64(values[at(b)]) - shift[at(b)]
        totals[at(put + b)] += difference
        squares[at(put + b)] += difference * difference


@_compiled
def _add_extremes(values: Float32, lowest: Float32, highest: Float32) -> None:
    for b in range(values.size):
        lowest[at(b)] = min(lowest[at(b)], values[at(b)])
        highest[at(b)] = max(highest[at(b)], values[at(b)])


@_compiled
def skip_nan(
    codes: Numbers,
    steps: Steps,
    valid: Mask,
    valid_steps: Steps,
    factor: Float32,
    factor_steps: Steps,
    offset: Float32,
    squared: bool,
    windows: Int64,
    size: int,
    moments: Float32,
) -> None:
    """Moments again where the standard deviation is NaN: without NaN values, in two passes.

    For values of valid pixels that are NaN all the same, as a float code may be in one band. Of
    infinite values, mean and extremes are infinite and the standard deviation is NaN.
    """
    values = np.empty(size**2, np.float64)
    for i in range(len(windows)):
        for b in range(offset.size):
            if windows[i, N_VALID] == 0 or not math.isnan(moments[i, STD, b]):
                continue
            n = 0
            for y in range(windows[i, TOP], windows[i, TOP] + windows[i, HEIGHT]):
                for x in range(windows[i, LEFT], windows[i, LEFT] + windows[i, WIDTH]):
                    scale = factor[at(_index(factor_steps, b, y, x))]
                    value = _decoded(codes[at(_index(steps, b, y, x))], scale, offset[b], squared)
                    if valid[at(_index(valid_steps, 0, y, x))] and not math.isnan(value):
                        values[at(n)] = value
                        n += 1
            _write_plainly(moments, i, b, values, n)


@_compiled
def _write_plainly(moments: Float32, i: int, b: int, values: Float64, n: int) -> None:
    total, variance, lowest, highest = 0.0, 0.0, np.inf, -np.inf
    for k in range(n):
        total += values[at(k)]
        lowest, highest = min(lowest, values[at(k)]), max(highest, values[at(k)])
    if n == 0:
        total = lowest = highest = np.nan
    mean = total / n
    for k in range(n):
        variance += (values[at(k)] - mean) ** 2
    _write(moments, i, b, mean, math.sqrt(variance / n), lowest, highest)
