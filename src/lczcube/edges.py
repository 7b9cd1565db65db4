"""Edges: what the pixels along the edge of two tiles say of a step or an offset across it.

All of it works on a strip, ``(band, along, across)`` float32 with NaN where invalid:
:data:`STRIP_PX` pixels of tile a, then as many of tile b. What is tested, and how, is in the notes
of :func:`lczcube.seams.find_seams`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

MIN_EDGE_PX = 32
"""Shortest edge that is judged: eight blocks of four pixels."""

STRIP_PX = 24
"""Pixels read on each side of an edge: 38 lines inside the tiles to compare it with."""

STENCIL_PX = 3
"""Pixels on each side of a line that say what jump is to be expected there."""

N_BLOCKS = 12
MIN_BLOCK_PX = 4
MIN_BLOCKS = 6
MIN_LINES = 10

KEPT_SHARE = 0.4
"""Share of the blocks, those that speak least for a fault, that must speak for it together: a
border of the scene along half of an edge, and the blocks it just touches, then raise no alarm."""

REACH_PX = 2
"""Offsets along an edge at which lines are compared."""

N_COMPONENTS = 8
"""Combinations of bands that are compared when an offset is looked for."""

LOG_FLOOR = 0.01
"""Added to differences, in units of that between neighbouring pixels, before logarithms."""

Values = npt.NDArray[np.float32]
Numbers = npt.NDArray[Any]
Shift = tuple[int, int]

SHIFTS = tuple((x, y) for x in (-1, 0, 1) for y in (-1, 0, 1) if (x, y) != (0, 0))

_LINES = np.arange(2 * STRIP_PX + 1)
_INSIDE = (np.abs(_LINES - STRIP_PX) >= STENCIL_PX) & (
    np.abs(_LINES - STRIP_PX) <= STRIP_PX - STENCIL_PX
)
"""Lines of a strip whose stencil lies in one tile; line k is left of pixel k, the edge is line
``STRIP_PX``."""


def has_border_beside(strip: Values) -> bool:
    """True where a line by the edge jumps more than the edge, and than twice any line inside.

    That is a border of the scene a pixel or two off, and what it does to the lines beside it looks
    like a step or an offset there.
    """
    jumps = _block_means(np.subtract(*_forecasts(strip)[::-1]))
    scale = _rms(jumps[:, :, _INSIDE], axis=(1, 2)) + smallest_difference(jumps)[:, None, None]
    size = np.square(jumps / scale).sum(axis=0)
    size[:, np.isfinite(size).sum(axis=0) < MIN_BLOCKS] = 0
    of_lines = np.nanmedian(size, axis=0)
    near = of_lines[STRIP_PX - STENCIL_PX + 1 : STRIP_PX + STENCIL_PX].max()
    return bool(near > max(of_lines[STRIP_PX], 2 * of_lines[_INSIDE].max()))


def step_probability(strip: Values) -> float | None:
    """Probability of the jump across the edge by chance; None where too little is valid."""
    if np.isfinite(strip[0, :, STRIP_PX - 1 : STRIP_PX + 1]).all(axis=1).sum() < MIN_EDGE_PX:
        return None
    jumps = np.subtract(*_forecasts(strip)[::-1])
    levels = _levels(strip)
    blocks = np.concatenate([_block_means(jumps), _block_means(jumps * levels)])
    valid = np.isfinite(blocks[0])
    blocks = blocks[:, valid[:, STRIP_PX] & (valid[:, _INSIDE].sum(axis=1) >= MIN_LINES)]
    if blocks.shape[1] < MIN_BLOCKS:
        return None
    blocks = _whitened(_standardised(blocks))
    sums = _lowest(_agreement(blocks)) / _spread(blocks[..., _INSIDE])
    inside = sums[_INSIDE & np.isfinite(sums)]
    if len(inside) < MIN_LINES:
        return None
    t = sums[STRIP_PX] - max(0.0, inside.max())
    return upper_tail(float(t), len(inside) // STENCIL_PX)


def _forecasts(strip: Values) -> tuple[Values, Values]:
    """Pixels on both sides of each line, less what the differences beside foretell of its jump.

    Both ``(band, along, line)``; the right one less the left one is the jump that was not to be
    expected.
    """
    differences = np.diff(strip, axis=2)
    shape = (*strip.shape[:2], len(_LINES))
    left, right = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
    n, last = STENCIL_PX - 1, len(_LINES) - 1
    left[:, :, STENCIL_PX:] = strip[:, :, n:]
    right[:, :, : last - n] = strip[:, :, : last - n]
    for lag, weight in enumerate(_jump_weights(differences)[:, :, None, None], start=1):
        left[:, :, STENCIL_PX:] += weight * differences[:, :, n - lag : last - lag]
        right[:, :, : last - n] -= weight * differences[:, :, lag - 1 : last - 1 - n + lag]
    return left, right


def _jump_weights(differences: Values) -> Values:
    """``(lag, band)``: weights of the differences beside a line in a forecast of its jump.

    The same on both sides, so that a border of the scene tells of both what it tells of one.
    """
    n = STENCIL_PX - 1
    windows = np.lib.stride_tricks.sliding_window_view(differences, 2 * n + 1, axis=2)
    windows = windows[:, :, _INSIDE[STENCIL_PX:-STENCIL_PX]]
    whole = np.isfinite(windows[0]).all(axis=2)
    weights = np.zeros((n, len(differences)), np.float32)
    for band, window in enumerate(windows):
        sample = window[whole].astype(np.float64)
        jump, beside = sample[:, n], sample[:, n - 1 :: -1] + sample[:, n + 1 :]
        gram = beside.T @ beside
        ridge = 1e-4 * np.trace(gram) / n + np.finfo(float).tiny
        weights[:, band] = np.linalg.solve(gram + ridge * np.eye(n), beside.T @ jump)
    return weights


def _levels(strip: Values) -> Values:
    """Mean of the two pixels at each line, less the median of the band."""
    levels = np.full((*strip.shape[:2], len(_LINES)), np.nan, np.float32)
    levels[:, :, 1:-1] = (strip[:, :, 1:] + strip[:, :, :-1]) / 2
    return levels - np.nanmedian(strip, axis=(1, 2), keepdims=True)


def _block_means(values: Values) -> Values:
    """Means over blocks along the edge, axis -2; NaN where under half of a block is valid."""
    n = values.shape[-2]
    block_px = max(MIN_BLOCK_PX, n // N_BLOCKS)
    whole = values[..., : n // block_px * block_px, :]
    blocks = whole.reshape(*values.shape[:-2], -1, block_px, values.shape[-1])
    valid = np.isfinite(blocks)
    count = valid.sum(axis=-2)
    total = np.where(valid, blocks, 0).sum(axis=-2)
    return np.where(2 * count >= block_px, total / np.maximum(count, 1), np.nan)


def _standardised(blocks: Values) -> Numbers:
    """``(channel, block, line)`` in units of the spread inside the tiles, channel by block."""
    centred = blocks - np.nanmean(blocks[:, :, _INSIDE], axis=(1, 2), keepdims=True)
    scale = _rms(centred[:, :, _INSIDE], axis=(1, 2))
    scaled = centred / (scale + smallest_difference(blocks)[:, None, None])
    spread = _rms(scaled[:, :, _INSIDE], axis=(0, 2))
    pooled = np.hypot(spread, _rms(spread)) / math.sqrt(2)
    standardised: Numbers = scaled / np.maximum(pooled, 1e-6)
    return standardised


def _rms(values: Numbers, axis: tuple[int, ...] | None = None) -> Numbers:
    """Root of the mean square, axes kept, NaN skipped."""
    rms: Numbers = np.sqrt(np.nanmean(np.square(values), axis=axis, keepdims=axis is not None))
    return rms


def smallest_difference(values: Values) -> Numbers:
    """Of each band: a difference that is only rounding."""
    rounding = np.finfo(np.float32)
    largest = np.nanmax(np.abs(values), axis=(1, 2))
    smallest: Numbers = rounding.eps * largest + rounding.tiny
    return smallest


def _whitened(blocks: Numbers) -> Numbers:
    """Channels turned so that inside the tiles they are uncorrelated, as far as lines can tell."""
    n_channels = len(blocks)
    inside = blocks[:, :, _INSIDE].reshape(n_channels, -1)
    inside = inside[:, np.isfinite(inside).all(axis=0)]
    shrunk = n_channels / (n_channels + _INSIDE.sum())
    covariance = (1 - shrunk) * (inside @ inside.T) / inside.shape[1]
    root = np.linalg.cholesky(covariance + shrunk * np.eye(n_channels))
    whitened: Numbers = np.linalg.solve(root, blocks.reshape(n_channels, -1))
    return whitened.reshape(blocks.shape)


def _agreement(blocks: Numbers) -> Numbers:
    """``(block, line)``: each block along the mean of the others that do not touch it."""
    number = np.arange(blocks.shape[1])
    apart = (np.abs(np.subtract.outer(number, number)) > 1).astype(float)
    others = np.einsum("bo,con->cbn", apart, np.nan_to_num(blocks))
    length = np.sqrt(np.square(others).sum(axis=0))
    scores: Numbers = (others * blocks).sum(axis=0) / np.maximum(length, 1e-12)
    return scores


def _lowest(scores: Numbers) -> Numbers:
    """Sum of the lowest scores over blocks, axis 0, in units of its spread if they were chance."""
    n_kept = max(2, round(KEPT_SHARE * len(scores)))
    total: Numbers = np.sort(scores, axis=0)[:n_kept].sum(axis=0) / math.sqrt(n_kept)
    return total


def _spread(scores: Numbers) -> float:
    """How much more sums over blocks, axis -2, vary than those of independent scores would."""
    known = np.nan_to_num(scores)
    ratio = np.square(known.sum(axis=-2)).sum() / (np.square(known).sum() + 1e-12)
    return math.sqrt(min(max(float(ratio), 1.0), scores.shape[-2]))


def upper_tail(t: float, n_free: int) -> float:
    """Upper tail of Student's t, by Wallace's normal approximation (1959, Ann. Math. Stat. 30)."""
    z = (8 * n_free + 1) / (8 * n_free + 3) * math.sqrt(n_free * math.log1p(t * t / n_free))
    return 0.5 * math.erfc(math.copysign(z, t) / math.sqrt(2))


def fit_step(strip: Values) -> tuple[Values, Values]:
    """Offset and gain of tile b against tile a, each ``(band, 1, 1)``.

    A line through jump and value by least trimmed squares, from no step: half of the positions,
    those that fit best, decide, so that a border of the scene along the other half does not.
    """
    left, right = _forecasts(strip)
    jumps = (right - left)[:, :, STRIP_PX].astype(np.float64)
    means = strip[:, :, STRIP_PX - 1 : STRIP_PX + 1].mean(axis=2).astype(np.float64)
    valid = np.isfinite(jumps).all(axis=0)
    fits = np.array(
        [_trimmed_line(*pair) for pair in zip(means[:, valid], jumps[:, valid], strict=True)]
    )
    slope, intercept = np.clip(fits[:, 0], -1, 1), fits[:, 1]
    # The jump is a multiple of the mean of both pixels; of that of tile a it is this:
    gain = (1 + slope / 2) / (1 - slope / 2)
    offset = intercept * (gain + 1) / 2
    return offset[:, None, None].astype(np.float32), gain[:, None, None].astype(np.float32)


def _trimmed_line(x: Numbers, y: Numbers) -> tuple[float, float]:
    """Slope and intercept by concentration steps (Rousseeuw and Van Driessen 1999)."""
    slope, intercept = 0.0, 0.0
    for _ in range(10):
        best = np.argsort(np.abs(y - intercept - slope * x), kind="stable")[: -(-len(x) // 2)]
        dx, dy = x[best] - x[best].mean(), y[best] - y[best].mean()
        slope = float(dx @ dy / max(dx @ dx, np.finfo(float).tiny))
        intercept = float(y[best].mean() - slope * x[best].mean())
    return slope, intercept


def step_facts(strip: Values, offset: Values, gain: Values, bands: Sequence[str]) -> dict[str, Any]:
    """Band with the largest step for its noise, its median step and its gain."""
    before = strip[:, :, STRIP_PX - 1 : STRIP_PX]
    steps = offset + (gain - 1) * before
    noise = np.nanmean(np.abs(np.diff(strip[:, :, :STRIP_PX], axis=2)), axis=(1, 2))
    size = np.nanmean(np.abs(steps), axis=(1, 2)) / (noise + smallest_difference(strip))
    band = int(size.argmax())
    step = float(np.nanmedian(steps[band]))
    return {"band": bands[band], "step": step, "gain": float(gain[band, 0, 0])}


def find_shift(strip: Values, level: float) -> tuple[float, Shift, float]:
    """Probability of the best offset by chance, the likeliest, and the power to find one."""
    factors = _factors(strip)
    if not len(factors):
        return 1.0, (0, 0), 0.0
    pairs = _pair_differences(factors)
    normal = _features(pairs, (0, 0))
    centre = np.nanmean(normal[:, _INSIDE], axis=(0, 1))
    features = normal - centre
    inside, edge = _whole_rows(features[:, _INSIDE]), _whole_rows(features[:, STRIP_PX])
    if len(edge) < MIN_BLOCKS or len(inside) < MIN_LINES * MIN_BLOCKS:
        return math.nan, (0, 0), 0.0
    trials = [
        _try_shift(shift, features, _features(pairs, shift) - centre, level) for shift in SHIFTS
    ]
    p_shift = min(1.0, *(trial.p for trial in trials))
    likeliest = max(trials, key=lambda trial: trial.likeness).shift
    return p_shift, likeliest, sum(trial.power for trial in trials) / len(trials)


@dataclass(frozen=True)
class _Trial:
    """How much an edge looks like an offset: chance, log likelihood ratio, power."""

    shift: Shift
    p: float
    likeness: float
    power: float


def _try_shift(shift: Shift, features: Numbers, moved: Numbers, level: float) -> _Trial:
    """Fisher's discriminant between lines as they are and lines moved apart, at the edge."""
    inside, edge = _whole_rows(features[:, _INSIDE]), _whole_rows(features[:, STRIP_PX])
    moved = moved[:, _apart(shift)]
    mean = _whole_rows(moved).mean(axis=0)
    covariance = inside.T @ inside / len(inside)
    covariance += 0.05 * np.diag(np.diag(covariance)) + 1e-9 * np.eye(len(covariance))
    weights = np.linalg.solve(covariance, mean)
    likeness = float(np.median(edge, axis=0) @ weights - mean @ weights / 2)
    weights /= float(_rms(inside @ weights)) + 1e-9
    spread = _spread(features[:, _INSIDE] @ weights)

    def p_value(score: float) -> float:
        return len(SHIFTS) * upper_tail(score / spread, int(_INSIDE.sum()) - 1)

    found = [p_value(score) < level for score in _planted(moved @ weights)]
    p = p_value(float(_lowest(edge @ weights)))
    return _Trial(shift, p, likeness, sum(found) / max(1, len(found)))


def _planted(scores: Numbers) -> list[float]:
    """Lowest scores of lines with an offset planted, where all blocks that can have one do."""
    scores = scores[np.isfinite(scores).any(axis=1)]
    sums: list[float] = _lowest(scores[:, np.isfinite(scores).all(axis=0)]).tolist()
    return sums


def _factors(strip: Values) -> Values:
    """Combinations of bands that neighbouring pixels share most, in units of their difference."""
    near, far = strip[:, :, 1:] - strip[:, :, :-1], strip[:, :, 2:] - strip[:, :, :-2]
    scale = np.sqrt(np.nanmean(np.square(near, dtype=np.float64), axis=(1, 2)))
    varied = scale > smallest_difference(strip)
    if not varied.any():
        return strip[:0]
    unit = 1 / scale[varied]
    noise, signal = (_outer(d[varied], unit) for d in (near, far))
    root = np.linalg.cholesky(noise + 1e-3 * np.eye(len(noise)))
    whitened = np.linalg.solve(root, np.linalg.solve(root, signal).T)
    _, vectors = np.linalg.eigh(whitened)
    loadings = np.linalg.solve(root.T, vectors[:, ::-1][:, :N_COMPONENTS]) * unit[:, None]
    factors = np.einsum("bk,bnx->knx", loadings.astype(np.float32), strip[varied])
    size = np.nanmean(np.abs(np.diff(factors, axis=2)), axis=(1, 2), keepdims=True)
    scaled: Values = factors / size
    return scaled


def _outer(differences: Values, unit: Numbers) -> Numbers:
    """Second moments between bands of differences in units of their scale."""
    sample = differences.reshape(len(differences), -1)
    sample = sample[:, np.isfinite(sample).all(axis=0)] * unit[:, None]
    moments: Numbers = sample @ sample.T / sample.shape[1]
    return moments


_Maps = dict[Shift, Numbers]


def _pair_differences(strip: Values) -> tuple[_Maps, _Maps]:
    """Log mean absolute differences of lines, ``(block, line)``, as they are and as predicted.

    By ``(lag, offset)``: pixel ``k - 1 + lag`` moved by ``offset`` along the edge, against what the
    pixels left of line k say.
    """
    end = np.full((*strip.shape[:2], 1), np.nan, np.float32)
    plain = np.concatenate([end, strip], axis=2), np.concatenate([strip, end], axis=2)
    offsets = range(-REACH_PX - 1, REACH_PX + 2)
    keys = list(product((0, 1, 2), offsets))
    plain_maps, predicted_maps = (
        {(lag, offset): _log_mean(left, right, lag, offset) for lag, offset in keys}
        for left, right in (plain, _forecasts(strip))
    )
    return plain_maps, predicted_maps


def _log_mean(left: Values, right: Values, lag: int, offset: int) -> Numbers:
    n, n_lines = left.shape[1:]
    differences = np.full((n, n_lines), np.nan, np.float32)
    rows = slice(max(0, -offset), min(n, n - offset))
    moved = slice(rows.start + offset, rows.stop + offset)
    lines = slice(1, min(n_lines, n_lines + 1 - lag))
    columns = slice(lines.start - 1 + lag, lines.stop - 1 + lag)
    differences[rows, lines] = np.abs(right[:, moved, columns] - left[:, rows, lines]).mean(axis=0)
    logs: Numbers = np.log(_block_means(differences) + LOG_FLOOR)
    return logs


def _features(pairs: tuple[_Maps, _Maps], shift: Shift) -> Numbers:
    """``(block, line, feature)`` at lines whose right side is moved by ``(across, along)``.

    Less the mean of the pairs of lines beside, which lie in one tile each.
    """
    apart, along = shift
    plain, predicted = pairs
    features = []
    for offset in range(-REACH_PX, REACH_PX + 1):
        beside = plain[1, offset]
        local = (_moved(beside, -1) + _moved(beside, 1 + apart)) / 2
        features += [maps[1 + apart, offset + along] - local for maps in (plain, predicted)]
    return np.stack(features, axis=-1)


def _moved(values: Numbers, by: int) -> Numbers:
    """Values of the line that many to the right; NaN past the ends."""
    moved = np.full_like(values, np.nan)
    n = values.shape[1]
    moved[:, max(0, -by) : n - max(0, by)] = values[:, max(0, by) : n - max(0, -by)]
    return moved


def _apart(shift: Shift) -> npt.NDArray[np.bool_]:
    """Lines between which an offset is planted so that both sides lie in one tile."""
    moved = _LINES + shift[0]
    in_first = (_LINES >= STENCIL_PX) & (moved <= STRIP_PX - STENCIL_PX)
    in_second = (_LINES >= STRIP_PX + STENCIL_PX) & (moved <= 2 * STRIP_PX - STENCIL_PX)
    return in_first | in_second


def _whole_rows(features: Numbers) -> Numbers:
    rows = features.reshape(-1, features.shape[-1])
    return rows[np.isfinite(rows).all(axis=1)]
