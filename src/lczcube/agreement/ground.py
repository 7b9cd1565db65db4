"""The ground that labels claim: each spot once, for one class."""

from dataclasses import dataclass
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import shapely

from lczcube.agreement.tally import N_CODES, Indices, Tally
from lczcube.lcz import NODATA

IDENTICAL_IOU = 0.95
"""Two polygons are one when they share this much of their union: redrawing moves a border by more
(in Hong Kong's two sets the nearest pair shares 0.60), a copy that was reprojected or rounded by
less."""

Shapes = npt.NDArray[np.object_]


@dataclass(frozen=True, eq=False)
class Ground:
    """Labels cut so that no two of them overlap.

    Attributes
    ----------
    pieces : numpy.ndarray of shapely.Geometry
        What each label claims, and no other does: not what one of another class claims too, nor
        what an earlier one of its class does.
    codes, groups : numpy.ndarray
        int64: class of each label, and number of its group.
    conflict_m2 : float
        Ground that labels of different classes claim, m2.
    """

    pieces: Shapes
    codes: Indices
    groups: Indices
    conflict_m2: float


def metric_shapes(first: gpd.GeoDataFrame, second: gpd.GeoDataFrame) -> tuple[Shapes, Shapes]:
    """Valid flat geometries of both, in the CRS of the first or, if not in metres, its UTM zone."""
    crs = first.crs if _is_metric(first.crs) else first.estimate_utm_crs()
    both = []
    for labels in (first, second):
        moved = labels.geometry if labels.crs == crs else labels.geometry.to_crs(crs)
        both.append(shapely.make_valid(shapely.force_2d(moved.to_numpy())))
    return both[0], both[1]


def claimed_ground(shapes: Shapes, labels: gpd.GeoDataFrame) -> Ground:
    """The ground of labels, with geometries of :func:`metric_shapes`."""
    codes = labels["lcz"].to_numpy().astype(np.int64)
    pieces = shapes.copy()
    row, other, shared = _overlaps(shapes, shapes)
    is_conflict = codes[row] != codes[other]
    conflict_m2 = float(shapely.area(shapely.union_all(shared[is_conflict])))
    is_lost = is_conflict | (other < row)
    order = np.flatnonzero(is_lost)[np.argsort(row[is_lost], kind="stable")]
    labels_cut, starts = np.unique(row[order], return_index=True)
    for label, pairs in zip(labels_cut, np.split(order, starts)[1:], strict=True):
        rivals = shapely.union_all(shapes[other[pairs]])
        pieces[label] = shapely.difference(shapes[label], rivals)
    return Ground(pieces, codes, group_numbers(labels), conflict_m2)


def ground_tally(first: Ground, second: Ground) -> Tally:
    """Ground of both by their classes, m2, in clusters of labels that share ground."""
    row, other, shared = _overlaps(first.pieces, second.pieces, is_self=False)
    area = shapely.area(shared)
    clusters = linked(first.groups[row], second.groups[other])
    entry = first.codes[row] * N_CODES + second.codes[other]
    only_first = _left(first.pieces, row, area)
    only_second = _left(second.pieces, other, area)
    nowhere = np.full(len(only_first) + len(only_second), -1)
    return Tally.of(
        np.concatenate([clusters, nowhere]),
        np.concatenate([entry, first.codes * N_CODES + NODATA, second.codes]),
        np.concatenate([area, only_first, only_second]),
    )


def n_identical(first: Shapes, second: Shapes) -> tuple[int, int]:
    """Polygons of the smaller set that are in the other too, and polygons of the smaller set."""
    small, large = sorted((first, second), key=len)
    row, other, shared = _overlaps(small, large, is_self=False)
    area = shapely.area(shared)
    union = shapely.area(small)[row] + shapely.area(large)[other] - area
    return int(np.unique(row[area >= IDENTICAL_IOU * union]).size), len(small)


def group_numbers(labels: gpd.GeoDataFrame) -> Indices:
    """A number for each label: the same for labels that belong together."""
    if "group" not in labels:
        return np.arange(len(labels))
    numbers: Indices = np.unique(labels["group"].astype(str), return_inverse=True)[1]
    return numbers.astype(np.int64)


def linked(first: Indices, second: Indices) -> Indices:
    """Cluster of each pair of groups: pairs with a group in common are in one, through any chain.

    The numbers are those of the smallest first group in the cluster.
    """
    of_first, of_second = (np.unique(groups, return_inverse=True)[1] for groups in (first, second))
    lowest = first.copy()
    while True:
        before = lowest
        for groups in (of_first, of_second):
            least = np.full(groups.max(initial=-1) + 1, np.iinfo(np.int64).max)
            np.minimum.at(least, groups, lowest)
            lowest = least[groups]
        if np.array_equal(before, lowest):
            return lowest


def _is_metric(crs: Any) -> bool:
    return crs.is_projected and {axis.unit_name for axis in crs.axis_info} == {"metre"}


def _overlaps(
    shapes: Shapes, others: Shapes, *, is_self: bool = True
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Shapes]:
    """Rows of the pairs that share ground, and what they share; not of a shape with itself."""
    row, other = shapely.STRtree(others).query(shapes, predicate="intersects")
    if is_self:
        row, other = row[row != other], other[row != other]
    shared = shapely.intersection(shapes[row], others[other])
    has_ground = shapely.area(shared) > 0
    return row[has_ground], other[has_ground], shared[has_ground]


def _left(
    pieces: Shapes, row: npt.NDArray[np.intp], shared_m2: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Ground of each piece that the other set does not claim, m2."""
    taken = np.bincount(row, weights=shared_m2, minlength=len(pieces))
    left: npt.NDArray[np.float64] = np.maximum(shapely.area(pieces) - taken, 0.0)
    return left
