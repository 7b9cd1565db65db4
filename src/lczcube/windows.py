"""Features per cell, and per patch at its own position: mean, spread and maximum of each band.

Semantics are those of ``xarray`` ``coarsen`` on the decoded cube with NaN skipped and population
standard deviation. Codes are decoded and reduced in one task, band by band, and every sum runs in
one fixed order, so that no chunking changes a bit.
"""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import dask.array as da
import geopandas as gpd
import numpy as np
import numpy.typing as npt
import xarray as xr
from pyproj import Transformer

from lczcube.cube import coded_layers, grid_of, halo_of, identity_attrs
from lczcube.errors import CatalogError, ConfigError, GridMismatchError
from lczcube.grid import Grid
from lczcube.kernels import require_stats
from lczcube.reduction import Group, LayerPieces, Windows, cube_layers, reduce_layers
from lczcube.tiles import Rect

STATS = ("mean", "std", "max")

PROCESS_BYTES = 450 << 20
"""What a process holds once it has imported all it needs and compiled the loops, measured."""

COVERED_SHARE = 0.5
"""An output pixel is covered when at least this share of its own square is valid."""

Float64 = npt.NDArray[np.float64]

Pair = tuple[str, str]

OVER_DATES = ("mean", "std", "max", "min")
"""Statistics of a difference over the dates that bands are named by."""


def aggregate(
    cube: xr.Dataset,
    *,
    stats: Sequence[str] = STATS,
    differences: Sequence[Pair] = (),
) -> xr.Dataset:
    """Features of every output pixel of the cube's grid; lazy.

    Parameters
    ----------
    cube : xarray.Dataset
        From :func:`lczcube.open_cube`, one date, with the halo of its grid.
    stats : sequence of str
        Of ``mean``, ``std`` (population) and ``max``.
    differences : sequence of (str, str)
        Pairs of bands: the normalised difference ``(a - b) / (a + b)`` of their window means is a
        feature too, as NDVI is of near infrared and red. A name stands for the band of that name,
        and for each ``<date>_<name>`` of a layer: both of a pair are of one date, and with several
        dates their :data:`OVER_DATES` are features as well. NaN where the sum of a pair is 0.

    Returns
    -------
    xarray.Dataset
        On the grid's output pixels (the cells, unless a stride is set):

        - ``features``: float32, dims ``(cell_y, cell_x, feature)``; the window of ``cell_m`` around
          each output pixel. ``feature`` names are ``<input>_<band>_<stat>``, then
          ``<input>_<date>_nd_<a>_<b>`` of every difference and ``<input>_nd_<a>_<b>_<stat>`` over
          its dates, then, in a cube opened with
          ``missing="indicator"``, ``<input>_present`` (1, or 0 for an input that the city lacks).
          NaN where a window holds no valid pixel.
        - ``valid_fraction``: float32 in [0, 1], dims ``(cell_y, cell_x)``; share of the window's
          pixels that are valid in every layer.
        - ``covered``: bool, dims ``(cell_y, cell_x)``; at least half of the output pixel's own
          square is valid. A map covers these and no others.

        ``attrs["absent_features"]``, a JSON list, names those of layers that the city lacks.

    Raises
    ------
    ConfigError
        If a statistic is unknown, or no layer has the bands of a difference.
    GridMismatchError
        If the cube has not the halo that the grid's windows need.
    CatalogError
        If a layer holds categories of OpenStreetMap: a mean of their numbers says nothing.
    """
    require_stats(stats)
    grid = grid_of(cube)
    if halo_of(cube) != grid.halo_px:
        raise GridMismatchError(
            f"the cube has a halo of {halo_of(cube)} px, and windows of {grid.cell_m:g} m at a "
            f"stride of {grid.stride_m:g} m need {grid.halo_px}. Open it with "
            f"halo_px={grid.halo_px}."
        )
    _require_quantities(cube)
    layers = cube_layers(cube)
    names = _feature_names(layers, stats)
    features, shares = _aggregate_lattice(layers, grid, stats)
    names, features = _with_differences(names, features, layers, differences)
    is_present = {layer.name: layer.is_present for layer in layers}
    owners = {name: layer_of_feature(name, list(is_present)) for name in names}
    absent = [name for name, layer in owners.items() if layer and not is_present[layer]]
    names, features = _with_presence(names, features, cube)
    y, x = (grid.output_geobox.coordinates[dim].values for dim in ("y", "x"))
    dims = ("cell_y", "cell_x")
    return xr.Dataset(
        {
            "features": ((*dims, "feature"), features),
            "valid_fraction": (dims, shares[..., 0]),
            "covered": (dims, shares[..., 1] >= COVERED_SHARE),
        },
        coords={"cell_y": y, "cell_x": x, "feature": names},
        attrs=identity_attrs(cube) | {"absent_features": json.dumps(absent)},
    )


def aggregate_patches(
    cube: xr.Dataset,
    patches: gpd.GeoDataFrame,
    *,
    stats: Sequence[str] = STATS,
    differences: Sequence[Pair] = (),
) -> xr.Dataset:
    """Features of labelled squares at their own positions; lazy.

    Parameters
    ----------
    cube : xarray.Dataset
        From :func:`lczcube.open_cube`, one date.
    patches : geopandas.GeoDataFrame
        Columns ``patch_id``, ``crs``, ``x0``, ``y0`` (upper-left corner in ``crs``) and ``size_m``,
        all of one size.
    stats, differences
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
    require_stats(stats)
    _require_quantities(cube)
    grid = grid_of(cube)
    layers = cube_layers(cube)
    names = _feature_names(layers, stats)
    x0, y0 = _corners_on(grid, patches)
    columns, rows = snap_to_pixels(grid, x0, y0)
    minx, _, _, maxy = grid.bbox
    dx_m = minx + columns * grid.pixel_m - x0
    dy_m = maxy - rows * grid.pixel_m - y0
    halo = halo_of(cube)
    windows = Windows(rows + halo, columns + halo, _patch_size_px(patches, grid))
    features, shares = _aggregate_squares(layers, windows, grid.chunk_px, stats)
    names, features = _with_differences(names, features, layers, differences)
    names, features = _with_presence(names, features, cube)
    return xr.Dataset(
        {
            "features": (("patch", "feature"), features),
            "valid_fraction": (("patch",), shares[:, 0]),
            "dx_m": (("patch",), dx_m.astype(np.float32)),
            "dy_m": (("patch",), dy_m.astype(np.float32)),
        },
        coords={"patch_id": (("patch",), patches["patch_id"].to_numpy(object)), "feature": names},
        attrs=identity_attrs(cube),
    )


def snap_to_pixels(
    grid: Grid, x0: Float64, y0: Float64
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Columns and rows of the nearest pixel edges; ties go left and up.

    Parameters
    ----------
    grid : Grid
        Gives the pixels, counted from its upper-left.
    x0, y0 : numpy.ndarray
        float64, shape (n,): upper-left corners of squares in the grid's CRS.

    Returns
    -------
    columns, rows : numpy.ndarray
        int64, shape (n,); may lie outside the grid.
    """
    minx, _, _, maxy = grid.bbox
    columns = _nearest_edge((x0 - minx) / grid.pixel_m)
    return columns, _nearest_edge((maxy - y0) / grid.pixel_m)


def projected_peak_bytes(
    cube: xr.Dataset, *, stats: Sequence[str] = STATS, n_concurrent: int = 1
) -> int:
    """Bytes that a worker process holds at most while it aggregates a cube.

    Parameters
    ----------
    cube : xarray.Dataset
        From :func:`lczcube.open_cube`.
    stats : sequence of str
        As in :func:`aggregate`.
    n_concurrent : int
        Tasks that the process runs at a time.

    Notes
    -----
    The interpreter and its libraries; for each task the largest slab three times over (decoded
    blocks in GDAL's cache, the slab, and its copy where tiles meet) and the codes of a chunk; and
    the strips and features of three rows of slabs, which wait for their neighbours.
    """
    grid = grid_of(cube)
    chunk_px = grid.chunk_px + 2 * halo_of(cube)
    tasks, waiting = 0, 0
    for layer in cube_layers(cube):
        pixel_bytes = len(layer.bands) * np.dtype(layer.dtype).itemsize
        tasks = max(tasks, 3 * pixel_bytes * max((_area(r) for r in layer.rects), default=0))
        tasks = max(tasks, pixel_bytes * chunk_px**2)
        three_rows_px = 3 * (grid.shape[1] + 2 * halo_of(cube))
        slab_rows = max((r.shape[0] for r in layer.rects), default=0)
        strips = 4 * grid.cell_px * three_rows_px * pixel_bytes
        n_windows = three_rows_px * slab_rows // grid.stride_px**2
        waiting += strips + n_windows * len(layer.bands) * len(stats) * 4
    return int(PROCESS_BYTES + n_concurrent * tasks + waiting)


def _require_quantities(cube: xr.Dataset) -> None:
    """Raise for numbers of a list, which have no mean."""
    for name in coded_layers(cube):
        attrs = cube[name].attrs
        if attrs.get("layer") == "osm" and "flag_values" in attrs:
            raise CatalogError(
                f"layer {name!r} holds categories ({attrs['flag_meanings']}); a mean of their "
                "numbers says nothing. Make a mask of each feature (osm-rasterizer without "
                '--single-layer, or source = "osm"), or leave the layer out.'
            )


def _area(rect: Rect) -> int:
    rows, columns = rect.shape
    return rows * columns


def _feature_names(layers: Sequence[LayerPieces], stats: Sequence[str]) -> list[str]:
    return [
        "_".join(part for part in (layer.name, band, stat) if part)
        for layer in layers
        for stat in stats
        for band in layer.bands
    ]


def layer_of_feature(feature: str, layers: Sequence[str]) -> str | None:
    """The layer a feature is named after: the longest name, as one may begin another."""
    named = (x for x in layers if feature == x or feature.startswith(f"{x}_"))
    return max(named, key=len, default=None)


def _with_differences(
    names: list[str],
    features: da.Array,
    layers: Sequence[LayerPieces],
    pairs: Sequence[Pair],
) -> tuple[list[str], da.Array]:
    """Features, and the normalised differences of pairs of bands, at each date and over dates."""
    columns = {name: column for column, name in enumerate(names)}
    found = [difference for pair in pairs for difference in _differences(columns, layers, pair)]
    if not found:
        return names, features
    made = da.map_blocks(
        _differences_of,
        features,
        differences=found,
        dtype=np.float32,
        chunks=(*features.chunks[:-1], (sum(len(one.names) for one in found),)),
        meta=np.empty((0,) * features.ndim, np.float32),
    )
    joined = da.concatenate([features, made], axis=-1).rechunk({-1: -1})
    return [*names, *(name for one in found for name in one.names)], joined


class _Difference(NamedTuple):
    """A pair of bands of a layer: columns of their means, one for each date, and what it gives."""

    a: list[int]
    b: list[int]
    names: list[str]


def _differences(
    columns: Mapping[str, int], layers: Sequence[LayerPieces], pair: Pair
) -> list[_Difference]:
    """The differences that a pair gives, one of each layer that has both bands."""
    found = []
    for layer in layers:
        dates = [band.removesuffix(pair[0]) for band in layer.bands if _is_band(band, pair[0])]
        means = {
            date: [columns.get(f"{layer.name}_{date}{band}_mean") for band in pair]
            for date in dates
        }
        both = {date: (a, b) for date, (a, b) in means.items() if a is not None and b is not None}
        if both:
            what = f"nd_{pair[0]}_{pair[1]}"
            names = [f"{layer.name}_{date}{what}" for date in both]
            if len(both) > 1:
                names += [f"{layer.name}_{what}_{stat}" for stat in OVER_DATES]
            a, b = zip(*both.values(), strict=True)
            found.append(_Difference(list(a), list(b), names))
    if not found:
        bands = [band for layer in layers for band in layer.bands]
        raise ConfigError(
            f"differences names {pair[0]!r} and {pair[1]!r}, and no layer has a mean of both; "
            f'bands are {_some(bands)}. Name two bands of one layer, and keep "mean" in stats.'
        )
    return found


def _differences_of(
    features: npt.NDArray[np.float32], differences: Sequence[_Difference]
) -> npt.NDArray[np.float32]:
    parts = []
    for one in differences:
        a, b = features[..., one.a], features[..., one.b]
        total = a + b
        values = np.divide(a - b, total, out=np.full_like(total, np.nan), where=total != 0)
        parts.append(values)
        if len(one.names) > len(one.a):
            stats = (values.mean(-1), values.std(-1), values.max(-1), values.min(-1))
            parts.append(np.stack(stats, axis=-1))
    return np.concatenate(parts, axis=-1)


def _is_band(band: str, name: str) -> bool:
    return band == name or band.endswith(f"_{name}")


def _some(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def _with_presence(
    names: list[str], features: da.Array, cube: xr.Dataset
) -> tuple[list[str], da.Array]:
    """Features, and for a cube that may lack layers a column a layer that says if it has it."""
    attrs = [(name, cube[name].attrs) for name in coded_layers(cube)]
    present = {f"{a.get('input', n)}_present": a["present"] for n, a in attrs if "present" in a}
    if not present:
        return names, features
    columns = np.array(list(present.values()), dtype=np.float32)
    flags = da.broadcast_to(
        columns, (*features.shape[:-1], len(columns)), chunks=(*features.chunks[:-1], -1)
    )
    joined = da.concatenate([features, flags], axis=-1).rechunk({-1: -1})
    return [*names, *present], joined


def _aggregate_lattice(layers: Sequence[LayerPieces], grid: Grid, stats: Sequence[str]) -> da.Array:
    """All output pixels, a chunk of the grid in one task."""
    n_rows, n_columns = grid.output_geobox.shape
    at_y, at_x = np.mgrid[0:n_rows, 0:n_columns] * grid.stride_px
    windows = Windows(at_y.ravel(), at_x.ravel(), grid.cell_px, grid.stride_px)
    side = grid.chunk_px // grid.stride_px
    chunks = tuple(
        tuple(min(side, n - start) for start in range(0, n, side)) for n in (n_rows, n_columns)
    )
    numbers = np.arange(n_rows * n_columns).reshape(n_rows, n_columns)
    groups = [
        Group((i, j), block.ravel(), block.shape)
        for i, rows in enumerate(np.array_split(numbers, np.cumsum(chunks[0])[:-1], axis=0))
        for j, block in enumerate(np.array_split(rows, np.cumsum(chunks[1])[:-1], axis=1))
    ]
    return reduce_layers(layers, windows, groups, stats, chunks)


def _aggregate_squares(
    layers: Sequence[LayerPieces], windows: Windows, chunk_px: int, stats: Sequence[str]
) -> tuple[da.Array, da.Array]:
    """Squares anywhere; those of a chunk in one task, and given back in their own order."""
    chunk_of = np.stack([windows.rows // chunk_px, windows.columns // chunk_px])
    order = np.lexsort((np.arange(len(windows)), chunk_of[1], chunk_of[0]))
    cuts = np.flatnonzero(np.any(np.diff(chunk_of[:, order], axis=1), axis=0)) + 1
    groups = [Group((i,), ids, (len(ids),)) for i, ids in enumerate(np.split(order, cuts))]
    chunks = (tuple(len(group.ids) for group in groups),)
    features, shares = reduce_layers(layers, windows, groups, stats, chunks)
    own_order = np.argsort(order)
    return features[own_order], shares[own_order]


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


def _nearest_edge(position_px: Float64) -> npt.NDArray[np.int64]:
    """Nearest integer; halves go down: left and up. Noise under 1e-6 px breaks no tie."""
    return np.ceil(np.round(position_px, 6) - 0.5).astype(np.int64)
