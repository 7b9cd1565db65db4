"""Codes of LCZ rasters: which occur, which zone each stands for, and which stand for none."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, BeforeValidator

from lczcube.errors import LabelError
from lczcube.lcz import N_CLASSES, NODATA, ZONES, listed_codes
from lczcube.sources.class_codes import codes_of

if TYPE_CHECKING:
    from rasterio.io import DatasetReader
    from rasterio.windows import Window

MAX_BUILT_KM2 = 100.0
"""Ground without one natural zone above which codes 1-10 are taken for some other coding. The
largest built-up areas have water and parks in a square of 10 km."""

_READ_PX = 4 << 20
_NATURAL = [z.code for z in ZONES if not z.is_built]


def _as_pairs(value: Any) -> Any:
    """A TOML table, whose keys are text, as pairs of whole numbers."""
    if not isinstance(value, dict):
        return value
    try:
        return tuple(sorted((int(key), zone) for key, zone in value.items()))
    except ValueError as error:
        raise ValueError(
            "recode has a key that is no whole number; write {1 = 3, 2 = 0}"
        ) from error


def _check_zones(pairs: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    bad = [zone for _, zone in pairs if not 0 <= zone <= N_CLASSES]
    if bad:
        raise ValueError(f"recode gives {bad[0]}; an LCZ is 1-{N_CLASSES}, 0 for no data")
    return pairs


Recode = Annotated[
    tuple[tuple[int, int], ...], BeforeValidator(_as_pairs), AfterValidator(_check_zones)
]
"""A TOML table from stored codes to LCZ 1-17 or 0, kept as sorted pairs; empty for none."""


@dataclass(frozen=True)
class CodeCounts:
    """Codes of a band, and how often each occurs in the pixels that were read.

    Attributes
    ----------
    values : numpy.ndarray
        As stored, ascending, each once.
    counts : numpy.ndarray
        int64, one per value.
    is_whole : bool
        True when every pixel of the band was read.
    """

    values: npt.NDArray[Any]
    counts: npt.NDArray[np.int64]
    is_whole: bool

    @property
    def n_px(self) -> int:
        """Pixels read."""
        return int(self.counts.sum())


def count_codes(raster: DatasetReader, band: int = 1, *, max_bytes: int) -> CodeCounts:
    """The codes of a band; reads it whole, or a sample of its blocks that is the same every time.

    Parameters
    ----------
    raster : rasterio.io.DatasetReader
        An open raster.
    band : int
        Counted from 1.
    max_bytes : int
        Most bytes, decoded, that are read; of a larger band about so many.
    """
    n_bytes = raster.width * raster.height * np.dtype(raster.dtypes[band - 1]).itemsize
    is_whole = n_bytes <= max_bytes
    windows = (
        _all_rows(raster, band)
        if is_whole
        else _some_blocks(raster, band, math.ceil(n_bytes / max_bytes))
    )
    found = [np.unique(raster.read(band, window=w), return_counts=True) for w in windows]
    values, inverse = np.unique(np.concatenate([v for v, _ in found]), return_inverse=True)
    counts = np.zeros(len(values), dtype=np.int64)
    np.add.at(counts, inverse, np.concatenate([n for _, n in found]))
    return CodeCounts(values, counts, is_whole)


def zones_of(
    values: npt.NDArray[Any],
    counts: npt.NDArray[Any],
    *,
    nodata: float | None,
    recode: Sequence[tuple[int, int]] = (),
    drop_classes: Sequence[int] = (),
    where: str,
) -> npt.NDArray[np.uint8]:
    """The zone of each code that occurs: by ``recode`` if given, else 1-17 and 101-107.

    Parameters
    ----------
    values, counts : numpy.ndarray
        Stored codes, each once, and how often it occurs.
    nodata : float or None
        A code that is no data. 0, unless it is recoded, and NaN always are.
    recode : sequence of tuple of int
        Pairs of stored code and LCZ 1-17 or 0; then every code that occurs must be in it.
    drop_classes : sequence of int
        Codes that become 0.
    where : str
        The file, for messages.

    Returns
    -------
    numpy.ndarray
        uint8, shape of ``values``, 0-17.

    Raises
    ------
    LabelError
        If a code is no LCZ, or is not in ``recode``; the message has its count.
    """
    import pandas as pd

    missing = np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), bool)
    if nodata is not None:
        missing |= values == nodata
    if recode:
        return _recoded(values, counts, missing, dict(recode), where)
    codes = codes_of(
        pd.Series(np.where(missing, NODATA, values)),
        drop_classes=drop_classes,
        counts=np.asarray(counts),
        where=where,
    )
    return codes.astype(np.uint8)


def require_natural(
    values: npt.NDArray[Any],
    counts: npt.NDArray[Any],
    zones: npt.NDArray[np.uint8],
    *,
    pixel_m: float,
    where: str,
) -> None:
    """Raise where much ground has zones and none of it a natural one: other codes, then.

    Parameters
    ----------
    values, counts, zones : numpy.ndarray
        Stored codes, how often each occurs, and what it was taken for.
    pixel_m : float
        Side of a pixel, m.
    where : str
        The file, for the message.

    Raises
    ------
    LabelError
        With the table to complete.
    """
    built = zones != NODATA
    km2 = float(np.sum(counts[built])) * pixel_m**2 / 1e6
    if km2 <= MAX_BUILT_KM2 or np.isin(zones, _NATURAL).any():
        return
    table = ", ".join(f"{v:.12g} = {z}" for v, z in zip(values[built], zones[built], strict=True))
    raise LabelError(
        f"{where} holds codes {listed_codes(values[built], counts[built])} on {km2:.0f} km2 and no "
        "natural zone (11-17 or 101-107), as no map of zones does; these are likely codes of its "
        f"own. Say what each means by recode; were they LCZ: recode = {{{table}}}."
    )


def _recoded(
    values: npt.NDArray[Any],
    counts: npt.NDArray[Any],
    missing: npt.NDArray[np.bool_],
    table: dict[int, int],
    where: str,
) -> npt.NDArray[np.uint8]:
    unknown = ~missing & (values != NODATA) & ~np.isin(values, list(table))
    if unknown.any():
        raise LabelError(
            f"{where} holds code {listed_codes(values[unknown], counts[unknown])}, which recode "
            "does not name; give each an LCZ 1-17, or 0 for no data."
        )
    zones = [0 if gone else table.get(int(v), 0) for v, gone in zip(values, missing, strict=True)]
    return np.array(zones, dtype=np.uint8)


def _all_rows(raster: DatasetReader, band: int) -> Iterator[Window]:
    from rasterio.windows import Window

    block_rows = raster.block_shapes[band - 1][0]
    step = block_rows * max(1, _READ_PX // (block_rows * raster.width))
    for top in range(0, raster.height, step):
        yield Window(0, top, raster.width, min(step, raster.height - top))


def _some_blocks(raster: DatasetReader, band: int, step: int) -> Iterator[Window]:
    """About every ``step``-th block, row by row, so that every column of blocks is met."""
    from rasterio.windows import Window

    rows, columns = raster.block_shapes[band - 1]
    across, down = math.ceil(raster.width / columns), math.ceil(raster.height / rows)
    while math.gcd(step, across) > 1:
        step += 1
    for number in range(0, across * down, step):
        top, left = number // across * rows, number % across * columns
        height, width = min(rows, raster.height - top), min(columns, raster.width - left)
        yield Window(left, top, width, height)
