"""Maps against maps: counted chunk by chunk, drawn block by block."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr

from lczcube.agreement.plane import codes_of, lattice, nodata_of, plane, require_same
from lczcube.agreement.tally import N_CODES, Indices, Tally
from lczcube.agreement.value import Agreement, CityAgreements, Measured, Pair, agreement_of
from lczcube.errors import ConfigError

BLOCK_M = 3200.0
"""Side of the blocks that the bootstrap draws, m: ten cells of 320 m, as in ``block-cv``."""

STRIP_PX = 1 << 20
"""Pixels that are counted at once."""


def map_agreement(
    first: xr.DataArray,
    second: xr.DataArray,
    pair: Pair,
    *,
    city: str = "",
    block_m: float = BLOCK_M,
    n_boot: int = 1000,
    seed: int = 0,
) -> Agreement:
    """How far two maps of zones agree, pixel by pixel; computes at once, a chunk at a time.

    Parameters
    ----------
    first, second : xarray.DataArray
        LCZ codes 1-17, 0 (or the attribute ``nodata``) for no data, uint8, dims ``(y, x)`` and
        others of size 1, on the same pixels: ``lcz`` of a product, a layer of a cube. NumPy or
        Dask, in any chunks.
    pair : Pair
        What they are called, and what they share.
    city : str
        For the table.
    block_m : float
        Side of the blocks that are drawn, m. Neighbouring pixels are alike, so pixels are no
        independent evidence. Default 3,200.
    n_boot, seed : int
        Draws of the bootstrap, and their seed. 0 for no intervals.

    Returns
    -------
    Agreement
        Over the pixels in which both have a class; the same in any chunking.

    Raises
    ------
    GridMismatchError
        If the two do not lie on the same square pixels in metres.
    LabelError
        If a map holds other codes than 0-17.
    ConfigError
        If a block is smaller than a pixel.

    Notes
    -----
    Blocks lie on multiples of ``block_m`` in the CRS; a pixel is in the block that holds its
    centre. Memory is a chunk of ``first`` and the chunks of ``second`` that meet it for
    each thread, and a row for each block and pair of codes in it.
    """
    tally = _tally(first, second, pair, block_m)
    return agreement_of(tally, pair, _measured(city, block_m), n_boot=n_boot, seed=seed)


def city_agreements(
    maps: Mapping[str, tuple[xr.DataArray, xr.DataArray]],
    pair: Pair,
    *,
    block_m: float = BLOCK_M,
    n_boot: int = 1000,
    seed: int = 0,
) -> CityAgreements:
    """How far two maps agree in several cities: city by city, and together.

    Parameters
    ----------
    maps : mapping of str to tuple of xarray.DataArray
        By city: the two maps, each city on a grid of its own.
    pair, block_m, n_boot, seed
        As in :func:`map_agreement`.

    Raises
    ------
    ConfigError
        If there is no city.
    GridMismatchError, LabelError
        As :func:`map_agreement`.
    """
    if not maps:
        raise ConfigError("no city; give the two maps of each city by its name.")
    tallies = {city: _tally(*both, pair, block_m) for city, both in maps.items()}
    cities = {
        city: agreement_of(tally, pair, _measured(city, block_m), n_boot=n_boot, seed=seed)
        for city, tally in tallies.items()
    }
    joined = Tally.joined(list(tallies.values()))
    together = _measured(f"all {len(cities)}", block_m)
    return CityAgreements(cities, agreement_of(joined, pair, together, n_boot=n_boot, seed=seed))


def _measured(city: str, block_m: float) -> Measured:
    return Measured("pixel", f"blocks of {block_m:g} m", city)


class _Side(NamedTuple):
    name: str
    nodata: int | None


class _Counts(NamedTuple):
    """Pixels by block and pair of codes, as :class:`Tally` has them."""

    block: Indices
    entry: Indices
    n: Indices


def _tally(first: xr.DataArray, second: xr.DataArray, pair: Pair, block_m: float) -> Tally:
    a, b = plane(first, name=pair.first), plane(second, name=pair.second)
    where = lattice(a, name=pair.first)
    require_same(where, lattice(b, name=pair.second), names=(pair.first, pair.second))
    if not where.pixel_m <= block_m < np.inf:
        raise ConfigError(
            f"block_m = {block_m:g} with pixels of {where.pixel_m:g} m; a block holds pixels."
        )
    sides = _Side(pair.first, nodata_of(first)), _Side(pair.second, nodata_of(second))
    rows, columns = _blocks(a, block_m)
    if a.chunks is None and b.chunks is None:
        counts = [_count(a.values, b.values, rows, columns, sides)]
    else:
        counts = _count_chunks(a, b, rows, columns, sides)
    return Tally.of(*(np.concatenate(parts) for parts in zip(*counts, strict=True)))


def _blocks(flat: xr.DataArray, block_m: float) -> tuple[Indices, Indices]:
    """Numbers whose sum is the block of a pixel: of each row, and of each column."""
    row, column = (np.floor(flat[dim].values / block_m).astype(np.int64) for dim in ("y", "x"))
    column = column - column.min()
    return (row - row.min()) * (int(column.max()) + 1), column


def _count_chunks(
    a: xr.DataArray,
    b: xr.DataArray,
    rows: Indices,
    columns: Indices,
    sides: tuple[_Side, _Side],
) -> list[_Counts]:
    import dask

    a = a if a.chunks else a.chunk(b.chunksizes)
    b = b.chunk(a.chunksizes)
    # Optimised apart, the two would read a source that they share twice.
    chunks = zip(
        *(one.data.to_delayed(optimize_graph=False).ravel() for one in (a, b)), strict=True
    )
    places = [(y, x) for y in _slices(a.chunksizes["y"]) for x in _slices(a.chunksizes["x"])]
    count = dask.delayed(_count, pure=False)
    tasks = [
        count(of_a, of_b, rows[y], columns[x], sides)
        for (of_a, of_b), (y, x) in zip(chunks, places, strict=True)
    ]
    return list(dask.compute(*tasks))


def _slices(sizes: tuple[int, ...]) -> list[slice]:
    stops = np.cumsum(sizes).tolist()
    return [slice(stop - size, stop) for stop, size in zip(stops, sizes, strict=True)]


def _count(
    a: npt.NDArray[np.integer],
    b: npt.NDArray[np.integer],
    rows: Indices,
    columns: Indices,
    sides: tuple[_Side, _Side],
) -> _Counts:
    """Strip by strip, so that whole numbers of 8 bytes are never held for all pixels."""
    step = max(STRIP_PX // max(a.shape[1], 1), 1)
    strips = []
    for start in range(0, len(rows), step):
        strip = slice(start, start + step)
        of_a, of_b = (
            codes_of(codes[strip], name=side.name, nodata=side.nodata)
            for codes, side in zip((a, b), sides, strict=True)
        )
        blocks = rows[strip, None] + columns
        keys, counts = np.unique(blocks * N_CODES**2 + of_a * N_CODES + of_b, return_counts=True)
        strips.append((keys // N_CODES**2, keys % N_CODES**2, counts))
    return _Counts(*(np.concatenate(parts) for parts in zip(*strips, strict=True)))
