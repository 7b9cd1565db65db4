"""Features per cell, and per patch at its own position: mean, spread and maximum of each band.

Semantics are those of ``xarray`` ``coarsen`` on the decoded cube with NaN skipped and population
standard deviation. Codes are decoded and reduced in one task, band by band, and every sum runs in
one fixed order, so that no chunking changes a bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dask
import dask.array as da
import geopandas as gpd
import numpy as np
import numpy.typing as npt
import xarray as xr
from pyproj import Transformer

from lczcube.cube import coded_layers, grid_of, halo_of, identity_attrs, layer_codes
from lczcube.decoders import Coding
from lczcube.errors import ConfigError, GridMismatchError
from lczcube.grid import Grid

STATS = ("mean", "std", "max")

COVERED_SHARE = 0.5
"""An output pixel is covered when at least this share of its own square is valid."""

Float64 = npt.NDArray[np.float64]


def aggregate(cube: xr.Dataset, *, stats: Sequence[str] = STATS) -> xr.Dataset:
    """Features of every output pixel of the cube's grid; lazy.

    Parameters
    ----------
    cube : xarray.Dataset
        From :func:`lczcube.open_cube`, one date, with the halo of its grid.
    stats : sequence of str
        Of ``mean``, ``std`` (population) and ``max``.

    Returns
    -------
    xarray.Dataset
        On the grid's output pixels (the cells, unless a stride is set):

        - ``features``: float32, dims ``(cell_y, cell_x, feature)``; the window of ``cell_m`` around
          each output pixel. ``feature`` names are ``<input>_<band>_<stat>``. NaN where a window
          holds no valid pixel.
        - ``valid_fraction``: float32 in [0, 1], dims ``(cell_y, cell_x)``; share of the window's
          pixels that are valid in every layer.
        - ``covered``: bool, dims ``(cell_y, cell_x)``; at least half of the output pixel's own
          square is valid. A map covers these and no others.

    Raises
    ------
    ConfigError
        If a statistic is unknown.
    GridMismatchError
        If the cube has not the halo that the grid's windows need.
    """
    _require_stats(stats)
    grid = grid_of(cube)
    if halo_of(cube) != grid.halo_px:
        raise GridMismatchError(
            f"the cube has a halo of {halo_of(cube)} px, and windows of {grid.cell_m:g} m at a "
            f"stride of {grid.stride_m:g} m need {grid.halo_px}. Open it with "
            f"halo_px={grid.halo_px}."
        )
    layers = _layers(cube)
    names = _feature_names(layers, stats)
    packed = _aggregate_blocks(layers, grid, tuple(stats), n_columns=len(names) + 2)
    return _cells_dataset(packed, names, cube, grid)


def aggregate_patches(
    cube: xr.Dataset, patches: gpd.GeoDataFrame, *, stats: Sequence[str] = STATS
) -> xr.Dataset:
    """Features of labelled squares at their own positions; lazy.

    Parameters
    ----------
    cube : xarray.Dataset
        From :func:`lczcube.open_cube`, one date.
    patches : geopandas.GeoDataFrame
        Columns ``patch_id``, ``crs``, ``x0``, ``y0`` (upper-left corner in ``crs``) and ``size_m``,
        all of one size.
    stats : sequence of str
        As in :func:`aggregate`.

    Returns
    -------
    xarray.Dataset
        Dims ``(patch, feature)``, in the order of ``patches``: ``features`` float32 as in
        :func:`aggregate`; ``valid_fraction`` float32 (pixels outside the cube count as invalid);
        ``dx_m`` and ``dy_m`` float32, the shift east and north of the snap; coordinate
        ``patch_id``.

    Raises
    ------
    GridMismatchError
        If the patches differ in size, or their size is not whole pixels.

    Notes
    -----
    A patch off the lattice snaps to the nearest pixel edge, ties up-left. A patch in another CRS
    keeps its centre and becomes a square of the grid's CRS.
    """
    _require_stats(stats)
    grid = grid_of(cube)
    layers = _layers(cube)
    names = _feature_names(layers, stats)
    size_px = _patch_size_px(patches, grid)
    x0, y0 = _corners_on(grid, patches)
    columns, rows, dx_m, dy_m = _snap(grid, x0, y0)
    halo = halo_of(cube)
    packed = _aggregate_squares(
        layers, rows + halo, columns + halo, size_px, tuple(stats), grid.chunk_px, len(names) + 1
    )
    return xr.Dataset(
        {
            "features": (("patch", "feature"), packed[:, :-1]),
            "valid_fraction": (("patch",), packed[:, -1]),
            "dx_m": (("patch",), dx_m.astype(np.float32)),
            "dy_m": (("patch",), dy_m.astype(np.float32)),
        },
        coords={"patch_id": (("patch",), patches["patch_id"].to_numpy(object)), "feature": names},
        attrs=identity_attrs(cube),
    )


def projected_peak_bytes(cube: xr.Dataset) -> int:
    """Bytes that one aggregation task holds at its peak: codes twice, and seven float64 images.

    The codes stand as read and as grown by the halo; a band's values, its valid values and their
    running reductions are float64 of one band.
    """
    side_px = grid_of(cube).chunk_px + 2 * halo_of(cube)
    codes = sum(layer.codes.shape[0] * layer.codes.dtype.itemsize for layer in _layers(cube))
    return int(side_px**2 * (2 * codes + 7 * 8))


@dataclass(frozen=True)
class _LayerCodes:
    name: str
    bands: tuple[str, ...]
    codes: da.Array
    coding: Coding


def _layers(cube: xr.Dataset) -> list[_LayerCodes]:
    layers = []
    for name in coded_layers(cube):
        codes = layer_codes(cube, name)
        bands = tuple(str(b) for b in codes[f"{name}_band"].values)
        data = da.asarray(codes.data)
        layers.append(
            _LayerCodes(name, bands, data.rechunk({0: -1}), Coding.from_attrs(cube[name].attrs))
        )
    return layers


def _require_stats(stats: Sequence[str]) -> None:
    unknown = [s for s in stats if s not in STATS]
    if unknown or not stats:
        raise ConfigError(f"stats {list(stats)}: choose from {', '.join(STATS)}.")


def _feature_names(layers: Sequence[_LayerCodes], stats: Sequence[str]) -> list[str]:
    return [f"{x.name}_{band}_{stat}" for x in layers for stat in stats for band in x.bands]


def _aggregate_blocks(
    layers: Sequence[_LayerCodes], grid: Grid, stats: tuple[str, ...], n_columns: int
) -> da.Array:
    blocks = [_with_overlap(layer.codes, grid.halo_px) for layer in layers]
    arguments: list[Any] = []
    for i, block in enumerate(blocks):
        arguments += [block, (f"band{i}", "y", "x")]
    side_y, side_x = (_output_chunks(chunks, grid) for chunks in blocks[0].chunks[1:])
    return da.blockwise(
        _reduce_block,
        ("y", "x", "column"),
        *arguments,
        new_axes={"column": n_columns},
        adjust_chunks={"y": side_y, "x": side_x},
        concatenate=True,
        dtype=np.float32,
        meta=np.empty((0, 0, 0), np.float32),
        codings=tuple(layer.coding for layer in layers),
        window=grid.cell_px,
        stride=grid.stride_px,
        stats=stats,
    )


def _with_overlap(codes: da.Array, halo: int) -> da.Array:
    """Every chunk with a halo on all sides: the cube's own at the border, else its neighbours'."""
    if halo == 0:
        return codes
    return da.overlap.overlap(codes, depth={1: halo, 2: halo}, boundary="none")


def _output_chunks(chunks: tuple[int, ...], grid: Grid) -> tuple[int, ...]:
    return tuple((n - 2 * grid.halo_px) // grid.stride_px for n in chunks)


def _reduce_block(
    *blocks: npt.NDArray[Any],
    codings: tuple[Coding, ...],
    window: int,
    stride: int,
    stats: tuple[str, ...],
) -> npt.NDArray[np.float32]:
    """Columns: the statistics of every layer, then valid_fraction, then covered."""
    valid_layers = [c.valid_pixels(b) for c, b in zip(codings, blocks, strict=True)]
    columns = [
        column
        for codes, coding, valid in zip(blocks, codings, valid_layers, strict=True)
        for column in _window_stats(codes, coding, valid, window, stride, stats)
    ]
    valid = np.logical_and.reduce(valid_layers)
    columns.append(_window_sum(valid.astype(np.float64), window, stride) / window**2)
    own = valid[_own_square(window, stride)]
    covered = _window_sum(own.astype(np.float64), stride, stride) / stride**2 >= COVERED_SHARE
    columns.append(covered.astype(np.float64))
    return np.stack(columns, axis=-1).astype(np.float32)


def _own_square(window: int, stride: int) -> tuple[slice, slice]:
    halo = (window - stride) // 2
    inner = slice(halo, -halo or None)
    return inner, inner


def _window_stats(
    codes: npt.NDArray[Any],
    coding: Coding,
    valid: npt.NDArray[np.bool_],
    window: int,
    stride: int,
    stats: tuple[str, ...],
) -> list[Float64]:
    count = _window_sum(valid.astype(np.float64), window, stride)
    empty = count == 0
    n = np.where(empty, np.nan, count)
    by_stat: dict[str, list[Float64]] = {stat: [] for stat in stats}
    for band in range(codes.shape[0]):
        values = coding.decode_band(codes[band], band).astype(np.float64)
        filled = np.where(valid, values, 0.0)
        mean = _window_sum(filled, window, stride) / n
        if "mean" in stats:
            by_stat["mean"].append(mean)
        if "std" in stats:
            mean_square = _window_sum(np.square(filled), window, stride) / n
            by_stat["std"].append(np.sqrt(np.maximum(mean_square - np.square(mean), 0.0)))
        if "max" in stats:
            largest = _window_reduce(np.where(valid, values, -np.inf), window, stride, np.maximum)
            by_stat["max"].append(np.where(empty, np.nan, largest))
    return [column for stat in stats for column in by_stat[stat]]


def _window_sum(values: Float64, window: int, stride: int) -> Float64:
    return _window_reduce(values, window, stride, np.add)


def _window_reduce(values: Float64, window: int, stride: int, ufunc: np.ufunc) -> Float64:
    """Reduce windows along rows, then columns, term by term: one order whatever the block."""
    rows = _reduce_along(values, window, stride, ufunc)
    return _reduce_along(rows.T, window, stride, ufunc).T


def _reduce_along(values: Float64, window: int, stride: int, ufunc: np.ufunc) -> Float64:
    span = values.shape[0] - window + 1
    reduced = values[0:span:stride].copy()
    for k in range(1, window):
        ufunc(reduced, values[k : k + span : stride], out=reduced)
    return reduced


def _cells_dataset(packed: da.Array, names: list[str], cube: xr.Dataset, grid: Grid) -> xr.Dataset:
    geobox = grid.output_geobox
    y, x = (geobox.coordinates[dim].values for dim in ("y", "x"))
    dims = ("cell_y", "cell_x")
    return xr.Dataset(
        {
            "features": ((*dims, "feature"), packed[..., :-2]),
            "valid_fraction": (dims, packed[..., -2]),
            "covered": (dims, packed[..., -1] > 0),
        },
        coords={"cell_y": y, "cell_x": x, "feature": names},
        attrs=identity_attrs(cube),
    )


def _patch_size_px(patches: gpd.GeoDataFrame, grid: Grid) -> int:
    sizes = np.unique(patches["size_m"].to_numpy(float))
    if len(sizes) != 1 or abs(sizes[0] / grid.pixel_m - round(sizes[0] / grid.pixel_m)) > 1e-6:
        raise GridMismatchError(
            f"patches have sizes {', '.join(f'{s:g}' for s in sizes[:5])} m on pixels of "
            f"{grid.pixel_m:g} m; patches of one call have one size of whole pixels."
        )
    return round(float(sizes[0]) / grid.pixel_m)


def _corners_on(grid: Grid, patches: gpd.GeoDataFrame) -> tuple[Float64, Float64]:
    x0 = patches["x0"].to_numpy(float).copy()
    y0 = patches["y0"].to_numpy(float).copy()
    half = patches["size_m"].to_numpy(float) / 2
    crs = patches["crs"].to_numpy(object)
    for src_crs in sorted(set(crs) - {grid.crs}):
        rows = crs == src_crs
        to_grid = Transformer.from_crs(src_crs, grid.crs, always_xy=True)
        x, y = to_grid.transform(x0[rows] + half[rows], y0[rows] - half[rows])
        x0[rows], y0[rows] = x - half[rows], y + half[rows]
    return x0, y0


def _snap(
    grid: Grid, x0: Float64, y0: Float64
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Float64, Float64]:
    minx, _, _, maxy = grid.bbox
    columns = _nearest_edge((x0 - minx) / grid.pixel_m)
    rows = _nearest_edge((maxy - y0) / grid.pixel_m)
    dx_m = minx + columns * grid.pixel_m - x0
    dy_m = maxy - rows * grid.pixel_m - y0
    return columns, rows, dx_m, dy_m


def _nearest_edge(position_px: Float64) -> npt.NDArray[np.int64]:
    """Nearest integer; halves go down: left and up. Noise under 1e-6 px breaks no tie."""
    return np.ceil(np.round(position_px, 6) - 0.5).astype(np.int64)


def _aggregate_squares(
    layers: Sequence[_LayerCodes],
    rows: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int64],
    size_px: int,
    stats: tuple[str, ...],
    chunk_px: int,
    n_columns: int,
) -> da.Array:
    """One task per chunk that holds patches; patches come back in their own order."""
    chunk_of = np.stack([rows // chunk_px, columns // chunk_px])
    order = np.lexsort((np.arange(len(rows)), chunk_of[1], chunk_of[0]))
    cuts = np.flatnonzero(np.any(np.diff(chunk_of[:, order], axis=1), axis=0)) + 1
    parts = [
        _squares_of_chunk(layers, rows[group], columns[group], size_px, stats, n_columns)
        for group in np.split(order, cuts)
        if len(group)
    ]
    if not parts:
        return da.empty((0, n_columns), dtype=np.float32)
    return da.concatenate(parts)[np.argsort(order)]


def _squares_of_chunk(
    layers: Sequence[_LayerCodes],
    rows: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int64],
    size_px: int,
    stats: tuple[str, ...],
    n_columns: int,
) -> da.Array:
    n_rows, n_cols = layers[0].codes.shape[1:]
    top, bottom = (int(np.clip(v, 0, n_rows)) for v in (rows.min(), rows.max() + size_px))
    left, right = (int(np.clip(v, 0, n_cols)) for v in (columns.min(), columns.max() + size_px))
    blocks = [layer.codes[:, top:bottom, left:right] for layer in layers]
    reduced = dask.delayed(_reduce_squares, pure=True)(
        blocks,
        tuple(layer.coding for layer in layers),
        rows - top,
        columns - left,
        size_px,
        stats,
    )
    return da.from_delayed(reduced, shape=(len(rows), n_columns), dtype=np.float32)


def _reduce_squares(
    blocks: Sequence[npt.NDArray[Any]],
    codings: tuple[Coding, ...],
    rows: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int64],
    size_px: int,
    stats: tuple[str, ...],
) -> npt.NDArray[np.float32]:
    valid_layers = [c.valid_pixels(b) for c, b in zip(codings, blocks, strict=True)]
    n_columns = sum(len(b) for b in blocks) * len(stats) + 1
    reduced = np.full((len(rows), n_columns), np.nan, dtype=np.float32)
    for i, (row, column) in enumerate(zip(rows, columns, strict=True)):
        inside = (_inside(row, size_px), _inside(column, size_px))
        reduced[i] = _reduce_square(blocks, codings, valid_layers, inside, size_px, stats)
    return reduced


def _inside(start: int, size: int) -> slice:
    return slice(max(start, 0), max(start + size, 0))


def _reduce_square(
    blocks: Sequence[npt.NDArray[Any]],
    codings: tuple[Coding, ...],
    valid_layers: Sequence[npt.NDArray[np.bool_]],
    inside: tuple[slice, slice],
    size_px: int,
    stats: tuple[str, ...],
) -> npt.NDArray[np.float32]:
    """The statistics of one square: a window whose outside, if any, is invalid."""
    columns: list[float] = []
    for codes, coding, valid in zip(blocks, codings, valid_layers, strict=True):
        square, square_valid = _padded(codes, valid, inside, size_px)
        windows = _window_stats(square, coding, square_valid, size_px, size_px, stats)
        columns += [float(window[0, 0]) for window in windows]
    share = np.logical_and.reduce([v[inside] for v in valid_layers]).sum() / size_px**2
    return np.array([*columns, share], dtype=np.float32)


def _padded(
    codes: npt.NDArray[Any],
    valid: npt.NDArray[np.bool_],
    inside: tuple[slice, slice],
    size_px: int,
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    square, square_valid = codes[:, *inside], valid[inside]
    rows, columns = square_valid.shape
    if (rows, columns) == (size_px, size_px):
        return square, square_valid
    short = ((0, size_px - rows), (0, size_px - columns))
    return np.pad(square, ((0, 0), *short)), np.pad(square_valid, short)
