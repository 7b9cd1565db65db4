"""Labels against labels over the same ground, and a map against labels."""

from typing import Literal, NamedTuple, get_args

import geopandas as gpd
import numpy as np
import shapely
import xarray as xr

from lczcube.agreement.ground import (
    claimed_ground,
    ground_tally,
    group_numbers,
    linked,
    metric_shapes,
    n_identical,
)
from lczcube.agreement.plane import Lattice, codes_of, lattice, nodata_of, plane
from lczcube.agreement.tally import N_CODES, Indices, Tally
from lczcube.agreement.value import Agreement, AgreementUnit, Measured, Pair, agreement_of
from lczcube.errors import ConfigError, GridMismatchError, LabelError
from lczcube.grid import LATTICE_TOLERANCE_PX, UM, Grid
from lczcube.labels import rasterize_labels, require_labels
from lczcube.lcz import NODATA

LabelUnit = Literal["pixel", "polygon"]

LABEL_UNITS: tuple[str, ...] = get_args(LabelUnit)

_GROUND: AgreementUnit = "m2"
_PIXEL: AgreementUnit = "pixel"


def label_agreement(
    first: gpd.GeoDataFrame,
    second: gpd.GeoDataFrame,
    pair: Pair,
    *,
    grid: Grid | None = None,
    city: str = "",
    n_boot: int = 1000,
    seed: int = 0,
) -> Agreement:
    """How far two sets of labels agree on the ground that both claim.

    Parameters
    ----------
    first, second : geopandas.GeoDataFrame
        Polygons with ``lcz`` 1-17, and ``group`` where labels belong together.
    pair : Pair
        What they are called, and what they share.
    grid : Grid, optional
        Count its pixels, by the rule of :func:`lczcube.labels.rasterize_labels`: what a model that
        learns from pixels sees. Default: count ground, m2, by cutting polygon with polygon, in the
        CRS of ``first``, or in its UTM zone if that is not in metres.
    city : str
        For the table.
    n_boot, seed : int
        Draws of the bootstrap, and their seed. Drawn are clusters of labels that share ground.

    Returns
    -------
    Agreement
        ``n_identical`` counts the polygons that the two sets have in common: where there are many,
        one set was made from the other, and their agreement is no evidence.

    Raises
    ------
    LabelError
        If a table is not one of labels, or if a set has no label on ``grid``.

    Notes
    -----
    Ground that labels of one set claim for several classes is left out, and said in the remarks;
    ground that labels of one class claim twice counts once. Cutting takes 16 s for twice 20,000
    squares that overlap 5 others each.
    """
    for labels, name in ((first, pair.first), (second, pair.second)):
        require_labels(labels, where=name)
        if labels.empty:
            raise LabelError(f"{name} hold no label; an agreement needs labels on both sides.")
    shapes = metric_shapes(first, second)
    n_same, n_smaller = n_identical(*shapes)
    if grid is None:
        a, b = (claimed_ground(*one) for one in zip(shapes, (first, second), strict=True))
        tally, unit = ground_tally(a, b), _GROUND
        conflicts = _hectares(a.conflict_m2), _hectares(b.conflict_m2)
    else:
        on_a, on_b = (rasterize_labels(labels, grid) for labels in (first, second))
        tally, unit = _tally_burnt(on_a, on_b, first, second), _PIXEL
        conflicts = _pixels(on_a.attrs["n_conflicts"]), _pixels(on_b.attrs["n_conflicts"])
    remarks = (
        *_identical_remarks(n_same, n_smaller),
        *_conflict_remarks(pair.first, conflicts[0]),
        *_conflict_remarks(pair.second, conflicts[1]),
    )
    measured = Measured(unit, "clusters", city, remarks, n_same, n_smaller)
    return agreement_of(tally, pair, measured, n_boot=n_boot, seed=seed)


def map_label_agreement(
    lcz: xr.DataArray,
    labels: gpd.GeoDataFrame,
    pair: Pair,
    *,
    unit: LabelUnit = "pixel",
    min_mapped: float = 0.5,
    city: str = "",
    n_boot: int = 1000,
    seed: int = 0,
) -> Agreement:
    """How far a map agrees with labels that are no reference for it, over the labels' ground.

    Where the map is a model's of lczcube and the labels are what it is tested on, use
    :func:`lczcube.score`, which says how near training lay.

    Parameters
    ----------
    lcz : xarray.DataArray
        LCZ codes 1-17, 0 (or the attribute ``nodata``) for no data, dims ``(y, x)`` and others of
        size 1, square pixels in metres. The rows and columns under the labels are read.
    labels : geopandas.GeoDataFrame
        Polygons with ``lcz`` 1-17, in any CRS, and ``group`` where labels belong together. Those
        that do not meet the map are left out, and counted in the remarks.
    pair : Pair
        What map and labels are called, in this order, and what they share.
    unit : str
        ``pixel``: the pixels whose centres lie in a label. ``polygon``: a label is what most of its
        mapped pixels are, of equals the lowest code.
    min_mapped : float
        Of ``polygon``: share of a label's pixels that must be mapped for it to have a class, more
        than 0 to 1. Default a half: less is no majority of the label.
    city : str
        For the table.
    n_boot, seed : int
        Draws of the bootstrap, and their seed. Drawn are the groups of labels.

    Returns
    -------
    Agreement
        ``shared`` is the share of the labels' units that are mapped.

    Raises
    ------
    LabelError
        If the table is not one of labels, if no label meets the map, or if the map holds other
        codes than 0-17.
    GridMismatchError, GridError
        If the map's pixels are not square in metres.
    ConfigError
        If unit or share is another.

    Notes
    -----
    Memory is that of :func:`lczcube.labels.rasterize_labels` on the rectangle that holds the labels
    that meet the map.
    """
    if unit not in LABEL_UNITS:
        raise ConfigError(f"unit = {unit!r}; give one of {', '.join(LABEL_UNITS)}.")
    if not 0 < min_mapped <= 1:
        raise ConfigError(f"min_mapped = {min_mapped}; it is a share, more than 0 to 1.")
    require_labels(labels, where=pair.second)
    flat = plane(lcz, name=pair.first)
    where = lattice(flat, name=pair.first)
    here, window = _meeting(labels, where, pair)
    burnt = rasterize_labels(here, _grid_of(window, where))
    mapped = _window(flat, window, name=pair.first)
    patch = burnt["patch"].values
    is_label = patch > 0
    rows, codes = patch[is_label].astype(np.int64) - 1, mapped[is_label]
    if unit == "polygon":
        rows, codes = _majorities(rows, codes, len(here), min_mapped)
    true = here["lcz"].to_numpy().astype(np.int64)[rows]
    groups = group_numbers(here)[rows]
    tally = Tally.of(groups, codes * N_CODES + true, np.ones(len(rows)))
    remarks = (
        *_outside_remarks(len(labels) - len(here), len(labels)),
        *_without_pixel_remarks(burnt.attrs["n_without_pixel"]),
        *_conflict_remarks(pair.second, _pixels(burnt.attrs["n_conflicts"])),
    )
    measured = Measured(unit, "groups of labels", city, remarks)
    return agreement_of(tally, pair, measured, n_boot=n_boot, seed=seed)


def _tally_burnt(
    a: xr.Dataset, b: xr.Dataset, first: gpd.GeoDataFrame, second: gpd.GeoDataFrame
) -> Tally:
    """Pixels that either set claims, in clusters of labels that share pixels."""
    is_claimed = (a["patch"].values > 0) | (b["patch"].values > 0)
    codes_a, codes_b, rows_a, rows_b = (
        one[name].values[is_claimed].astype(np.int64) for name in ("lcz", "patch") for one in (a, b)
    )
    clusters = np.full(codes_a.size, -1)
    both = (codes_a > 0) & (codes_b > 0)
    clusters[both] = linked(
        group_numbers(first)[rows_a[both] - 1], group_numbers(second)[rows_b[both] - 1]
    )
    return Tally.of(clusters, codes_a * N_CODES + codes_b, np.ones(codes_a.size))


class _Window(NamedTuple):
    """Rows and columns of a map, past whose edges they may reach."""

    top: int
    left: int
    bottom: int
    right: int


def _meeting(
    labels: gpd.GeoDataFrame, where: Lattice, pair: Pair
) -> tuple[gpd.GeoDataFrame, _Window]:
    """The labels that meet a map, and the window that holds them whole."""
    rows, columns = where.shape
    right, bottom = where.left + columns * where.pixel_m, where.top - rows * where.pixel_m
    moved = labels.geometry.to_crs(where.crs)
    meets = shapely.intersects(moved.to_numpy(), shapely.box(where.left, bottom, right, where.top))
    if not meets.any():
        raise LabelError(
            f"none of {len(labels)} labels of {pair.second} meets {pair.first}; check the CRS of "
            "the labels, and that both are of one city."
        )
    minx, miny, maxx, maxy = moved[meets].total_bounds
    left, right = ((x - where.left) / where.pixel_m for x in (minx, maxx))
    top, bottom = ((where.top - y) / where.pixel_m for y in (maxy, miny))
    window = _Window(
        *(int(np.floor(v)) for v in (top, left)), *(int(v) + 1 for v in (bottom, right))
    )
    return labels[meets].reset_index(drop=True), window


def _grid_of(window: _Window, where: Lattice) -> Grid:
    """The pixels of a window as a grid, a cell each."""
    pixel_um = round(where.pixel_m * UM)
    drift_m = abs(pixel_um / UM - where.pixel_m) * max(where.shape)
    if drift_m > LATTICE_TOLERANCE_PX * where.pixel_m:
        raise GridMismatchError(
            f"pixels of {where.pixel_m!r} m are no whole number of micrometres; open the map on a "
            "Grid (open_cube)."
        )
    return Grid(
        where.crs.to_wkt(),
        (0, 0, window.right - window.left, window.bottom - window.top),
        anchor_um=(
            round(where.left * UM) + window.left * pixel_um,
            round(where.top * UM) - window.bottom * pixel_um,
        ),
        pixel_m=pixel_um / UM,
        cell_m=pixel_um / UM,
        chunk_cells=1,
    )


def _window(flat: xr.DataArray, window: _Window, *, name: str) -> Indices:
    """Codes of a window, 0 past the edges of the map."""
    n_rows, n_columns = flat.shape
    rows = slice(max(window.top, 0), min(window.bottom, n_rows))
    columns = slice(max(window.left, 0), min(window.right, n_columns))
    codes = np.zeros((window.bottom - window.top, window.right - window.left), np.int64)
    inside = (
        slice(rows.start - window.top, rows.stop - window.top),
        slice(columns.start - window.left, columns.stop - window.left),
    )
    stored = flat[rows, columns].to_numpy()
    codes[inside] = codes_of(stored, name=name, nodata=nodata_of(flat))
    return codes


def _majorities(
    rows: Indices, codes: Indices, n_labels: int, min_mapped: float
) -> tuple[Indices, Indices]:
    """Labels that have pixels, and the class of each by its pixels; 0 if too few are mapped."""
    counts = np.bincount(rows * N_CODES + codes, minlength=n_labels * N_CODES)
    counts = counts.reshape(n_labels, N_CODES)
    n_px, n_mapped = counts.sum(axis=1), counts[:, 1:].sum(axis=1)
    majority = np.where(
        n_mapped >= np.maximum(min_mapped * n_px, 1), counts[:, 1:].argmax(axis=1) + 1, NODATA
    )
    with_pixels = np.flatnonzero(n_px)
    return with_pixels, majority[with_pixels]


def _identical_remarks(n_same: int, n_smaller: int) -> tuple[str, ...]:
    if n_same == 0:
        return ()
    count = f"{n_same} of the {n_smaller} polygons of the smaller set are in the other too"
    if 2 * n_same < n_smaller:
        remark = f"{count}: there, their agreement is no evidence."
    else:
        remark = f"{count}: these are the same labels, and their agreement is no evidence."
    return (remark,)


def _conflict_remarks(name: str, amount: str) -> tuple[str, ...]:
    return (f"Left out: {amount} that {name} claim for several classes.",) if amount else ()


def _outside_remarks(n_outside: int, n_labels: int) -> tuple[str, ...]:
    return (f"{n_outside} of {n_labels} labels do not meet the map.",) if n_outside else ()


def _without_pixel_remarks(n: int) -> tuple[str, ...]:
    return (f"{n} labels that meet the map hold no pixel of their own.",) if n else ()


def _hectares(area_m2: float) -> str:
    return f"{area_m2 / 1e4:.2f} ha" if area_m2 else ""


def _pixels(n: int) -> str:
    return f"{n} pixels" if n else ""
