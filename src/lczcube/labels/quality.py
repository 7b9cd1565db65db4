"""Quality of labels: shape, likeness to their class, and contradictions. Flags, never drops.

The three steps are those of the LCZ Generator (shape of a training area, its mean against its
class, its pixels), with rules and limits of our own, and overlaps beside them.

References
----------
Demuzere, M., Kittner, J. & Bechtel, B. (2021). LCZ Generator: a web application to create Local
Climate Zone maps. Frontiers in Environmental Science 9, 637455, doi:10.3389/fenvs.2021.637455.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import xarray as xr

from lczcube.cube import grid_of
from lczcube.errors import LabelError
from lczcube.labels.flags import (
    FLAGS,
    QualityRules,
    Reasons,
    flag_outliers,
    flag_overlaps,
    flag_shapes,
)
from lczcube.labels.outliers import Outliers, find_outliers
from lczcube.labels.overlaps import find_overlaps
from lczcube.labels.shapes import measure_shapes
from lczcube.labels.table import require_labels
from lczcube.lcz import zone

_CENTRES = ("x", "y")


@dataclass(frozen=True, eq=False)
class QualityReport:
    """What is suspicious about labels, and what could not be judged.

    Attributes
    ----------
    table : geopandas.GeoDataFrame
        One row per label, sorted by ``patch_id``: ``patch_id``, ``lcz``, ``area_km2``,
        ``compactness``, ``width_m``, ``overlap_share`` (largest share of it under one label of
        another class), ``n_samples``, ``score`` and ``apart_share`` (see
        :class:`~lczcube.labels.outliers.Outliers`; NaN where not judged), ``like`` and
        ``like_lcz``, ``flags`` (names of :data:`~lczcube.labels.flags.FLAGS` with ``;``
        between, ``""`` for none), ``reason`` in words, and ``geometry`` in the labels' CRS.
    overlaps : pandas.DataFrame
        Every pair of labels that share ground, as :func:`find_overlaps` gives them.
    pixels : geopandas.GeoDataFrame
        Samples that stand apart from the rest of their label: points, in the samples' CRS.
    rules : QualityRules
        The limits.
    notes : tuple of str
        What could not be judged, and why.
    """

    table: gpd.GeoDataFrame
    overlaps: pd.DataFrame
    pixels: gpd.GeoDataFrame
    rules: QualityRules = field(default_factory=QualityRules)
    notes: tuple[str, ...] = ()

    @property
    def suspects(self) -> gpd.GeoDataFrame:
        """The rows of ``table`` with a flag, and their ``number``, from 1."""
        flagged = self.table[self.table["flags"] != ""].reset_index(drop=True)
        flagged.insert(0, "number", np.arange(1, len(flagged) + 1, dtype=np.int32))
        return flagged

    @property
    def counts(self) -> dict[str, int]:
        """Labels by flag, for every flag there is; one label may have several."""
        found = Counter(flag for flags in self.table["flags"] for flag in flags.split(";"))
        return {flag: found[flag] for flag in FLAGS}

    def to_text(self, *, limit: int = 20) -> str:
        """Counts by flag, what could not be judged, and the first suspects with their reasons."""
        suspects = self.suspects
        differ = self.overlaps["lcz_first"] != self.overlaps["lcz_second"]
        lines = [f"{len(suspects)} of {len(self.table)} labels are suspicious; none was dropped"]
        lines += [f"  {flag:<13}{n:>5}  {FLAGS[flag]}" for flag, n in self.counts.items() if n]
        lines.append(
            f"overlaps: {int(differ.sum())} pairs of different classes, "
            f"{self.overlaps.loc[differ, 'area_km2'].sum():.3f} km2; "
            f"{int((~differ).sum())} of the same class"
        )
        lines += [f"not judged: {note}" for note in self.notes]
        for row in suspects.head(limit).itertuples():
            lines.append(f"{row.number:>4}  {row.patch_id}  LCZ {_letter(row.lcz)}: {row.reason}")
        if len(suspects) > limit:
            lines.append(f"      and {len(suspects) - limit} more")
        return "\n".join(lines)

    def write_suspects(self, path: str | Path) -> Path:
        """Write the suspects as a layer: ``.gpkg``, or ``.parquet`` as GeoParquet.

        A GeoPackage has the layers ``suspects`` and ``pixels``; GeoParquet holds suspects alone.

        Raises
        ------
        LabelError
            If the name ends in neither.
        """
        target = Path(path)
        if target.suffix not in (".gpkg", ".parquet"):
            raise LabelError(f"{target.name}: suspects are written as .gpkg or .parquet.")
        partial = target.with_name(f".partial-{target.name}")
        partial.unlink(missing_ok=True)
        if target.suffix == ".parquet":
            self.suspects.to_parquet(partial, index=False)
        else:
            self.suspects.to_file(partial, layer="suspects", engine="pyogrio")
            if len(self.pixels):
                self.pixels.to_file(partial, layer="pixels", engine="pyogrio")
        partial.replace(target)
        return target


def check_labels(
    labels: gpd.GeoDataFrame,
    samples: xr.Dataset | None = None,
    *,
    rules: QualityRules | None = None,
) -> QualityReport:
    """What is suspicious about the labels of a city; changes none of them.

    Parameters
    ----------
    labels : geopandas.GeoDataFrame
        Label table of a city: ``patch_id``, ``lcz`` and polygons in any CRS. Areas are measured in
        their own CRS where it is true to area, else in the UTM zone of their middle.
    samples : xarray.Dataset, optional
        Their samples, for the steps that look at features: of a run, ``run.samples()[city]``.
        Without, shapes and overlaps alone are judged.
    rules : QualityRules, optional
        Default: the limits of :class:`~lczcube.labels.flags.QualityRules`.

    Returns
    -------
    QualityReport

    Raises
    ------
    LabelError
        If there is no label, rows are no polygons of a class, ids repeat, or samples are of other
        labels.
    """
    limits = rules or QualityRules()
    require_labels(labels)
    if labels.empty:
        raise LabelError("no labels to check; see the city's bbox and `city` of the inputs.")
    if not labels["patch_id"].is_unique:
        raise LabelError("patch ids occur more than once; an id names one label.")
    ordered = labels.sort_values("patch_id", kind="stable", ignore_index=True)
    shapes, overlaps = measure_shapes(ordered), find_overlaps(ordered)
    outliers = _outliers(ordered, samples, limits)
    table = _table(ordered, shapes, outliers)
    found = Reasons(len(table))
    flag_shapes(found, shapes, limits)
    table["overlap_share"] = flag_overlaps(found, table, overlaps, limits)
    flag_outliers(found, table, outliers.polygons, limits)
    table["flags"] = [";".join(flags) for flags in found.flags]
    table["reason"] = ["; ".join(reasons) for reasons in found.reasons]
    layer = gpd.GeoDataFrame(table, geometry=ordered.geometry.to_numpy(), crs=ordered.crs)
    return QualityReport(layer, overlaps, _points(outliers, samples), limits, outliers.notes)


def drop_suspects(
    labels: gpd.GeoDataFrame, report: QualityReport, *, flags: Sequence[str]
) -> gpd.GeoDataFrame:
    """The labels without those that have one of the flags named.

    Parameters
    ----------
    labels : geopandas.GeoDataFrame
        The labels that the report is of, or some of them.
    report : QualityReport
        From :func:`check_labels`.
    flags : sequence of str
        Names of :data:`~lczcube.labels.flags.FLAGS`, one at least.

    Returns
    -------
    geopandas.GeoDataFrame
        ``attrs["n_suspects_dropped"]`` counts the labels left out, ``attrs["suspects_dropped"]``
        by flag; a label of two flags counts in both.

    Raises
    ------
    LabelError
        If no flag is named, one is unknown, or the report is not of these labels.
    """
    unknown = sorted(set(flags) - set(FLAGS))
    if unknown or not flags:
        named = ", ".join(unknown) or "none"
        raise LabelError(f"flags to drop: {named}; name some of {', '.join(FLAGS)}.")
    by_id = dict(zip(report.table["patch_id"], report.table["flags"], strict=True))
    new = [patch_id for patch_id in labels["patch_id"] if patch_id not in by_id]
    if new:
        raise LabelError(
            f"{len(new)} labels, such as {new[0]!r}, are not in the report; check them first."
        )
    own = [set(by_id[patch_id].split(";")) & set(flags) for patch_id in labels["patch_id"]]
    drop = np.array([bool(found) for found in own], dtype=bool)
    kept = labels[~drop].reset_index(drop=True)
    counts = Counter(flag for found in own for flag in found)
    kept.attrs = dict(labels.attrs) | {
        "n_suspects_dropped": int(drop.sum()),
        "suspects_dropped": {flag: counts[flag] for flag in flags},
    }
    return kept


def _outliers(
    labels: gpd.GeoDataFrame, samples: xr.Dataset | None, rules: QualityRules
) -> Outliers:
    if samples is not None:
        return find_outliers(
            labels,
            samples,
            min_polygons=rules.min_polygons,
            min_pixels=rules.min_pixels,
            deviations=rules.deviations,
        )
    n = len(labels)
    nothing = pd.DataFrame(
        {
            "n_samples": np.zeros(n, np.int32),
            "score": np.full(n, np.nan),
            "is_outlier": np.zeros(n, bool),
            "like": np.full(n, "", dtype=object),
            "like_lcz": np.zeros(n, np.uint8),
            "apart_share": np.full(n, np.nan),
        },
        index=labels.index,
    )
    pixels = pd.DataFrame(columns=["patch_id", "sample", "lcz", *_CENTRES])
    return Outliers(nothing, pixels, ("features, since no samples were given",))


def _table(labels: gpd.GeoDataFrame, shapes: pd.DataFrame, outliers: Outliers) -> pd.DataFrame:
    told = outliers.polygons
    return pd.DataFrame(
        {
            "patch_id": labels["patch_id"].to_numpy(object),
            "lcz": labels["lcz"].to_numpy(np.uint8),
            **{name: shapes[name] for name in ("area_km2", "compactness", "width_m")},
            "overlap_share": 0.0,
            **{name: told[name] for name in ("n_samples", "score", "apart_share")},
            **{name: told[name] for name in ("like", "like_lcz")},
        }
    )


def _points(outliers: Outliers, samples: xr.Dataset | None) -> gpd.GeoDataFrame:
    pixels = outliers.pixels
    crs = None if samples is None else grid_of(samples).crs
    points = gpd.points_from_xy(pixels["x"].astype(float), pixels["y"].astype(float))
    return gpd.GeoDataFrame(pixels.drop(columns=list(_CENTRES)), geometry=points, crs=crs)


def _letter(code: int) -> str:
    return zone(int(code)).letter
