"""Outliers among labels, by their features: polygons unlike their class, pixels unlike the rest.

Both steps are DBSCAN (Ester et al. 1996), whose noise is what lies within ``eps`` of no dense
point. ``eps`` is found from the data: points are as far from their k-th neighbour as the median
point is, plus so many deviations; what lies farther is unusual. Features are standardised by the
means of all polygons, so that a feature weighs as much as it varies between polygons.

References
----------
Ester, M., Kriegel, H.-P., Sander, J. & Xu, X. (1996). A density-based algorithm for discovering
clusters in large spatial databases with noise. KDD-96, 226-231 (DBSCAN, and the k-distance).
"""

from __future__ import annotations

from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from lczcube.errors import LabelError
from lczcube.labels.samples import absent_features
from lczcube.lcz import zone

CELL_MARK = "@"
"""Between the patch id of a polygon and the output pixel, in the patch id of a sample."""

POLYGON_NEIGHBOURS = 2
"""k of the polygons of a class: with itself three polygons are a group, the least that is one."""

PIXEL_NEIGHBOURS = 4
"""k of the pixels of a polygon, as Ester et al. advise for large sets of points."""

DEVIATIONS = 3.0
"""Median absolute deviations, scaled to a normal's, past the median k-distance."""

MIN_SPREAD = 0.5
"""The deviations are taken to be this share of the median at least: a handful of equal distances
says little of how far the next may lie."""

MAX_PIXELS = 2000
"""Pixels of a polygon that are looked at, spread evenly over it: memory goes with their square."""


@dataclass(frozen=True, eq=False)
class Outliers:
    """What the features say of labels.

    Attributes
    ----------
    polygons : pandas.DataFrame
        One row per label, in order: ``n_samples``; ``score``, distance to the second nearest
        polygon of its class in units of the largest that is usual, NaN where it cannot be judged;
        ``is_outlier``; ``like`` and ``like_lcz``, patch id and class of the polygon of any class
        that is most alike, ``""`` and 0 for none; ``apart_share``, share of its samples outside
        the largest group, NaN where not judged.
    pixels : pandas.DataFrame
        The samples that stand apart: ``patch_id`` of the label, ``sample``, ``lcz``, ``x``, ``y``.
    notes : tuple of str
        What cannot be judged, and why.
    """

    polygons: pd.DataFrame
    pixels: pd.DataFrame
    notes: tuple[str, ...]


def find_outliers(
    labels: gpd.GeoDataFrame,
    samples: xr.Dataset,
    *,
    min_polygons: int = 6,
    min_pixels: int = 20,
    deviations: float = DEVIATIONS,
) -> Outliers:
    """Polygons unlike the others of their class, and pixels unlike the others of their polygon.

    Parameters
    ----------
    labels : geopandas.GeoDataFrame
        With ``patch_id`` and ``lcz``.
    samples : xarray.Dataset
        Of these labels, from :func:`lczcube.labels.samples.build_samples`. Samples of other
        labels are left aside, and so are features that the city lacks.
    min_polygons : int
        A class of fewer polygons cannot be judged. Default 6: with fewer the median distance is
        that of two or three.
    min_pixels : int
        Polygons with fewer samples are not looked at inside. Default 20.
    deviations : float
        How far past the median distance is unusual, in deviations. Default 3.

    Returns
    -------
    Outliers

    Raises
    ------
    LabelError
        If no sample is of these labels.

    Notes
    -----
    Outliers by chance, among polygon means drawn from one normal distribution: 3 to 4 % of the
    polygons in 2 dimensions, 1 to 2 % in 4, under 0.5 % in 10 or more. Three polygons that
    resemble each other are a group: a class with two appearances is not suspicious, and neither
    are three labels wrong in one way. Memory is one column of the samples, and the square of
    2,000 pixels.
    """
    ids = samples["patch_id"].values.astype(str)
    owners = _owners(ids, labels["patch_id"].to_numpy(str))
    if (owners < 0).all():
        raise LabelError(
            f"none of the {len(ids)} samples is of these {len(labels)} labels; "
            "give the samples and the labels of one city of one run."
        )
    order = np.argsort(ids, kind="stable")
    order = order[owners[order] >= 0]
    values = _Values.of(samples, order, owners[order], len(labels))
    polygons, notes = _judge_polygons(labels, values, min_polygons, deviations)
    shares, apart = _judge_pixels(values, min_pixels, deviations)
    polygons["apart_share"] = shares
    rows = order[apart]
    pixels = pd.DataFrame(
        {
            "patch_id": labels["patch_id"].to_numpy(object)[owners[rows]],
            "sample": ids[rows].astype(object),
            "lcz": samples["lcz"].values[rows],
            "x": samples["x"].values[rows],
            "y": samples["y"].values[rows],
        }
    )
    n_few = int(((values.counts > 0) & (values.counts < min_pixels)).sum())
    if n_few:
        notes.append(f"{n_few} labels have under {min_pixels} samples: not looked at inside")
    return Outliers(polygons, pixels, tuple(notes))


def usual_distance(distances: npt.NDArray[np.float64], deviations: float = DEVIATIONS) -> float:
    """The largest k-distance that is usual: ``eps`` of DBSCAN. Above 0."""
    middle = float(np.median(distances))
    spread = 1.4826 * float(np.median(np.abs(distances - middle)))
    limit = middle + max(deviations * spread, MIN_SPREAD * middle)
    return max(limit, float(np.finfo(np.float32).eps))


def find_noise(
    values: npt.NDArray[np.float64], k: int, deviations: float = DEVIATIONS
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """The k-distances of points in units of the usual one, and which points are DBSCAN's noise.

    The noise is that of scikit-learn's DBSCAN with ``min_samples`` k + 1, found without the lists
    of all neighbours, whose memory goes with the square of the points.
    """
    from sklearn.neighbors import NearestNeighbors

    distances = NearestNeighbors(n_neighbors=k).fit(values).kneighbors()[0][:, k - 1]
    limit = usual_distance(distances, deviations)
    dense = distances <= limit
    nearest = NearestNeighbors(n_neighbors=1).fit(values[dense]).kneighbors(values)[0][:, 0]
    return distances / limit, ~dense & (nearest > limit)


def find_groups(
    values: npt.NDArray[np.float64], k: int, deviations: float = DEVIATIONS
) -> npt.NDArray[np.int64]:
    """The group of each point by scikit-learn's DBSCAN; -1 is noise."""
    from sklearn.cluster import DBSCAN
    from sklearn.neighbors import NearestNeighbors

    distances = NearestNeighbors(n_neighbors=k).fit(values).kneighbors()[0][:, k - 1]
    limit = usual_distance(distances, deviations)
    clusters = DBSCAN(eps=limit, min_samples=k + 1).fit(values)
    groups: npt.NDArray[np.int64] = clusters.labels_.astype(np.int64)
    return groups


def _owners(ids: npt.NDArray[np.str_], patch_ids: npt.NDArray[np.str_]) -> npt.NDArray[np.int64]:
    """Row of the label that each sample is of; -1 for none of them."""
    rows = {patch_id: row for row, patch_id in enumerate(patch_ids.tolist())}
    found = [rows.get(i, rows.get(i.rpartition(CELL_MARK)[0], -1)) for i in ids.tolist()]
    return np.array(found, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class _Values:
    """Samples sorted by id, the label of each, and the standardised means of the labels."""

    features: npt.NDArray[np.float32]
    order: npt.NDArray[np.intp]
    owners: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    means: npt.NDArray[np.float64]
    kept: npt.NDArray[np.intp]
    centre: npt.NDArray[np.float64]
    scale: npt.NDArray[np.float64]

    @classmethod
    def of(
        cls,
        samples: xr.Dataset,
        order: npt.NDArray[np.intp],
        owners: npt.NDArray[np.int64],
        n_labels: int,
    ) -> _Values:
        features = samples["features"].values
        absent = np.isin(samples["feature"].values, absent_features(samples))
        counts = np.bincount(owners, minlength=n_labels)
        has = counts > 0
        means = np.zeros((n_labels, features.shape[1]))
        for column in np.flatnonzero(~absent):
            sums = np.bincount(owners, weights=features[order, column], minlength=n_labels)
            means[has, column] = sums[has] / counts[has]
        centre, scale = means[has].mean(axis=0), means[has].std(axis=0)
        kept = np.flatnonzero(~absent & (scale > 1e-6 * (1e-12 + np.abs(centre))))
        centre, scale = centre[kept], scale[kept]
        standard = (means[:, kept] - centre) / scale
        return cls(features, order, owners, counts, standard, kept, centre, scale)

    def pixels(self, positions: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
        rows = self.features[self.order[positions]][:, self.kept]
        standard: npt.NDArray[np.float64] = (rows - self.centre) / self.scale
        return standard


def _judge_polygons(
    labels: gpd.GeoDataFrame, values: _Values, min_polygons: int, deviations: float
) -> tuple[pd.DataFrame, list[str]]:
    codes, has = labels["lcz"].to_numpy(), values.counts > 0
    score, outlier = np.full(len(labels), np.nan), np.zeros(len(labels), bool)
    few = []
    for code in np.unique(codes):
        rows = np.flatnonzero((codes == code) & has)
        if len(rows) < max(min_polygons, POLYGON_NEIGHBOURS + 1):
            few.append(f"{zone(int(code)).letter} ({len(rows)})")
        else:
            score[rows], outlier[rows] = find_noise(
                values.means[rows], POLYGON_NEIGHBOURS, deviations
            )
    like = _most_alike(values.means, has)
    ids = labels["patch_id"].to_numpy(object)
    table = {
        "n_samples": values.counts.astype(np.int32),
        "score": score,
        "is_outlier": outlier,
        "like": np.where(like >= 0, ids[like], ""),
        "like_lcz": np.where(like >= 0, codes[like], 0).astype(np.uint8),
    }
    notes = []
    if few:
        notes.append(
            f"classes with under {min_polygons} labels that have samples cannot be judged: LCZ "
            + ", ".join(few)
        )
    if not has.all():
        notes.append(f"{(~has).sum()} labels have no sample: features say nothing of them")
    return pd.DataFrame(table, index=labels.index), notes


def _most_alike(
    means: npt.NDArray[np.float64], has: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    """Row of the nearest other label; -1 where there is none."""
    from sklearn.neighbors import NearestNeighbors

    like = np.full(len(means), -1, dtype=np.int64)
    rows = np.flatnonzero(has)
    if len(rows) > 1:
        found = NearestNeighbors(n_neighbors=1).fit(means[rows]).kneighbors()[1][:, 0]
        like[rows] = rows[found]
    return like


def _judge_pixels(
    values: _Values, min_pixels: int, deviations: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp]]:
    """Share of the samples of each label outside its largest group, and where they are."""
    shares = np.full(len(values.counts), np.nan)
    apart: list[npt.NDArray[np.intp]] = []
    by_owner = np.argsort(values.owners, kind="stable")
    ends = np.cumsum(values.counts)
    for row in np.flatnonzero(values.counts >= max(min_pixels, PIXEL_NEIGHBOURS + 1)):
        positions = by_owner[ends[row] - values.counts[row] : ends[row]]
        if len(positions) > MAX_PIXELS:
            drawn = np.linspace(0, len(positions) - 1, MAX_PIXELS).round().astype(int)
            positions = positions[drawn]
        groups = find_groups(values.pixels(positions), PIXEL_NEIGHBOURS, deviations)
        sizes = np.bincount(groups[groups >= 0], minlength=1)
        outside = groups != sizes.argmax()
        shares[row] = outside.mean()
        apart.append(positions[outside])
    return shares, np.concatenate(apart) if apart else np.zeros(0, dtype=np.intp)
