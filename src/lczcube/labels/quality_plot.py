"""A picture of suspicious labels: where they lie, why, and each seen from near."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import shapely
import xarray as xr

from lczcube import lcz as zones
from lczcube.errors import LabelError
from lczcube.labels.quality import QualityReport

FLAG_COLOURS: Mapping[str, str] = {
    "unlike_class": "#E6007E",
    "contradicts": "#00A5CF",
    "mixed": "#7B2CBF",
    "invalid": "#111111",
    "complex": "#B8860B",
    "duplicate": "#0B6E4F",
    "narrow": "#3A5FCD",
    "small": "#4A4A4A",
}
"""Colours of outlines, what says most of a label first: a suspect has that of its first flag."""

FLAG_WORDS: Mapping[str, str] = {
    "unlike_class": "unlike its class",
    "contradicts": "contradicts another",
    "mixed": "mixed inside",
    "invalid": "invalid outline",
    "complex": "complex outline",
    "duplicate": "duplicate",
    "narrow": "narrow",
    "small": "small",
}

MAX_VIEWS = 12
"""Suspects shown from near; a page bears no more."""

VIEW_ROWS = 4
MAX_SIDE_PX = 1500
"""Pixels of the image along a side of the map; views from near show all."""

STRETCH = (2, 98)
"""Percentiles of each band that are drawn black and full."""


def plot_suspects(
    report: QualityReport, path: str | Path, *, image: xr.DataArray | None = None, title: str = ""
) -> Path:
    """Write a PNG of the labels in their colours, suspects outlined, numbered and seen from near.

    Parameters
    ----------
    report : QualityReport
        From :func:`~lczcube.labels.quality.check_labels`; numbers are those of its text.
    path : str or Path
        PNG to write.
    image : xarray.DataArray, optional
        Three bands, red first, dims ``(band, y, x)`` with the coordinates ``x`` and ``y`` in the
        CRS of the report's table. Each band is stretched; NaN is white. Default: no background.
    title : str
        Above the map.

    Returns
    -------
    pathlib.Path
        Of the PNG.

    Raises
    ------
    LabelError
        If the image has not three bands, or none of it lies under the labels.
    """
    from matplotlib.figure import Figure

    picture = None if image is None else _Picture(image, report.table)
    suspects = report.suspects.assign(main=[_main_flag(f) for f in report.suspects["flags"]])
    near = _from_near(suspects)
    columns = -(-len(near) // VIEW_ROWS)
    figure = Figure(figsize=(10.2 + 2.3 * columns, 8.4), layout="constrained")
    ratios = [8.0] + [2.2] * columns
    layout = figure.add_gridspec(VIEW_ROWS, 1 + columns, width_ratios=ratios)
    axis = figure.add_subplot(layout[:, 0])
    _draw_map(axis, report.table, suspects, picture)
    axis.set_title(title or _heading(report), fontsize=12, loc="left")
    for place, (_, suspect) in enumerate(near.iterrows()):
        view = figure.add_subplot(layout[place // columns, 1 + place % columns])
        _draw_view(view, suspect, report, picture)
    _draw_legends(figure, report, suspects)
    target = Path(path)
    partial = target.with_name(target.name + ".partial")
    figure.savefig(partial, dpi=150, format="png", metadata={"Software": None})
    partial.replace(target)
    return target


class _Picture:
    """An image under labels, stretched alike on the map and from near."""

    def __init__(self, image: xr.DataArray, labels: gpd.GeoDataFrame) -> None:
        if image.ndim != 3 or image.shape[0] != 3:
            raise LabelError(
                f"the image has dims {dict(image.sizes)}; it is drawn of three bands, red first: "
                "dims (band, y, x)."
            )
        self.image = image.transpose(image.dims[0], "y", "x").sortby("y", ascending=False)
        minx, miny, maxx, maxy = labels.total_bounds
        whole = self._within(minx, miny, maxx, maxy)
        if 0 in whole.shape:
            raise LabelError(
                f"no pixel of the image lies under the labels ({labels.crs.to_string()}, bbox "
                f"{minx:g}, {miny:g}, {maxx:g}, {maxy:g}); give it in their CRS."
            )
        step = max(1, -(-max(whole.shape[1:]) // MAX_SIDE_PX))
        sampled = whole[:, ::step, ::step].values.astype(np.float32)
        self.low, self.high = (
            np.nanpercentile(sampled, p, axis=(1, 2), keepdims=True) for p in STRETCH
        )

    def draw(self, axis: Any, bbox: tuple[float, float, float, float]) -> None:
        part = self._within(*bbox)
        if 0 in part.shape:
            return
        step = max(1, -(-max(part.shape[1:]) // MAX_SIDE_PX))
        part = part[:, ::step, ::step]
        x, y = part["x"].values, part["y"].values
        half_x, half_y = self._half("x") * step, self._half("y") * step
        extent = (x[0] - half_x, x[-1] + half_x, y[-1] - half_y, y[0] + half_y)
        axis.imshow(self._stretched(part), extent=extent, interpolation="nearest")

    def _within(self, minx: float, miny: float, maxx: float, maxy: float) -> xr.DataArray:
        dx, dy = self._half("x"), self._half("y")
        return self.image.sel(
            x=slice(minx - dx, maxx + dx), y=slice(maxy + dy, miny - dy)
        )  # pixels that the box cuts are in

    def _half(self, name: str) -> float:
        values = self.image[name].values
        return abs(float(values[1] - values[0])) / 2 if len(values) > 1 else 0.5

    def _stretched(self, part: xr.DataArray) -> npt.NDArray[np.float32]:
        values = part.values.astype(np.float32)
        scaled = (values - self.low) / np.maximum(self.high - self.low, 1e-6)
        # Pale, so that colours of the zones stand out.
        shown: npt.NDArray[np.float32] = 0.15 + 0.85 * np.clip(scaled, 0, 1)
        return np.moveaxis(np.where(np.isfinite(shown), shown, 1.0), 0, -1).astype(np.float32)


def _main_flag(flags: str) -> str:
    own = flags.split(";")
    return next(flag for flag in FLAG_COLOURS if flag in own)


def _from_near(suspects: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """The suspects that a page bears: what says most first, then in order."""
    rank = suspects["main"].map({flag: i for i, flag in enumerate(FLAG_COLOURS)})
    order = np.lexsort((suspects["number"], rank.astype(int)))
    return suspects.iloc[order[:MAX_VIEWS]]


def _heading(report: QualityReport) -> str:
    n, n_suspects = len(report.table), len(report.suspects)
    return f"{n_suspects} of {n} labels are suspicious"


def _draw_map(
    axis: Any, table: gpd.GeoDataFrame, suspects: gpd.GeoDataFrame, picture: _Picture | None
) -> None:
    box = _widened(table.total_bounds, 0.03)
    if picture is not None:
        picture.draw(axis, box)
    for row in table.itertuples():
        _draw_polygon(axis, row.geometry, _colour(row.lcz), "#333333", width=0.4, alpha=0.85)
    for row in suspects.itertuples():
        colour = FLAG_COLOURS[row.main]
        _draw_polygon(axis, row.geometry, "none", colour, width=1.2)
        centre = row.geometry.centroid
        axis.plot(centre.x, centre.y, "o", ms=11, mfc="none", mec=colour, mew=1.3)
        _write(axis, str(row.number), centre, colour)
    _frame(axis, box, table)


def _draw_view(axis: Any, suspect: Any, report: QualityReport, picture: _Picture | None) -> None:
    """One suspect in the middle, with what lies around it, and its pixels that stand apart."""
    table = report.table
    box = _widened(suspect.geometry.bounds, 0.6, square=True)
    if picture is not None:
        picture.draw(axis, box)
    around = table[table.intersects(shapely.box(*box))]
    for row in around.itertuples():
        own = row.patch_id == suspect.patch_id
        if not own:
            _draw_polygon(axis, row.geometry, _colour(row.lcz), "#333333", width=0.5, alpha=0.5)
    colour = FLAG_COLOURS[suspect.main]
    fill = "none" if picture is not None else _colour(suspect.lcz)
    _draw_polygon(axis, suspect.geometry, fill, "white", width=3.2)
    _draw_polygon(axis, suspect.geometry, "none", colour, width=1.8)
    apart = report.pixels[report.pixels["patch_id"] == suspect.patch_id].geometry
    if len(apart):
        apart = apart.to_crs(table.crs)
        axis.plot(apart.x, apart.y, "x", ms=3, mew=0.8, color=colour)
    axis.set_xlim(box[0], box[2])
    axis.set_ylim(box[1], box[3])
    axis.set_aspect(_aspect(table))
    axis.set_xticks([])
    axis.set_yticks([])
    letter = zones.zone(int(suspect.lcz)).letter
    axis.set_title(f"{suspect.number}  LCZ {letter}", fontsize=8, loc="left", color=colour, pad=2)
    axis.set_xlabel(_short(suspect), fontsize=6.5, labelpad=2)


def _short(suspect: Any) -> str:
    """The measure behind the flag that the outline shows, short enough for a small picture."""
    words = {
        "unlike_class": f"{suspect.score:.2f} x the usual distance",
        "contradicts": f"{suspect.overlap_share:.0%} of it under another class",
        "mixed": f"{suspect.apart_share:.0%} of pixels apart",
        "complex": f"compactness {suspect.compactness:.2f}",
        "narrow": f"{suspect.width_m:.0f} m wide",
        "small": f"{suspect.area_km2:.3f} km2",
    }
    return words.get(suspect.main, FLAG_WORDS[suspect.main])


def _draw_polygon(
    axis: Any, shape: Any, fill: str, edge: str, *, width: float, alpha: float = 1.0
) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Outline

    for part in shapely.get_parts(shape):
        if part.geom_type != "Polygon" or part.is_empty:
            continue
        rings = [np.asarray(r.coords)[:, :2] for r in (part.exterior, *part.interiors)]
        outline = Outline.make_compound_path(*(Outline(ring, closed=True) for ring in rings))
        style = {"facecolor": fill, "edgecolor": edge, "linewidth": width}
        axis.add_patch(PathPatch(outline, alpha=alpha, **style))


def _write(axis: Any, text: str, at: Any, colour: str) -> None:
    from matplotlib.patheffects import withStroke

    axis.annotate(
        text,
        (at.x, at.y),
        xytext=(6, 5),
        textcoords="offset points",
        fontsize=7,
        color=colour,
        weight="bold",
        path_effects=[withStroke(linewidth=2, foreground="white")],
    )


def _widened(
    bounds: Any, share: float, *, square: bool = False
) -> tuple[float, float, float, float]:
    minx, miny, maxx, maxy = (float(edge) for edge in bounds)
    width, height = maxx - minx, maxy - miny
    if square:
        width = height = max(width, height)
    x, y = (minx + maxx) / 2, (miny + maxy) / 2
    half_x, half_y = (0.5 + share) * width, (0.5 + share) * height
    return (x - half_x, y - half_y, x + half_x, y + half_y)


def _frame(axis: Any, box: tuple[float, float, float, float], table: gpd.GeoDataFrame) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_xlim(box[0], box[2])
    axis.set_ylim(box[1], box[3])
    axis.set_aspect(_aspect(table))
    projected = bool(table.crs.is_projected)
    axis.set_xlabel("easting, km" if projected else "longitude", fontsize=8)
    axis.set_ylabel("northing, km" if projected else "latitude", fontsize=8)
    for direction in (axis.xaxis, axis.yaxis):
        direction.set_major_locator(MaxNLocator(nbins=5))
        if projected:
            direction.set_major_formatter(FuncFormatter(lambda v, _: f"{v / 1e3:g}"))
    axis.tick_params(labelsize=7)


def _aspect(table: gpd.GeoDataFrame) -> float:
    """Height of a unit of y over the width of one of x, so that shapes are those on the ground."""
    if table.crs.is_projected:
        return 1.0
    _, south, _, north = table.total_bounds
    return float(1 / np.cos(np.radians((south + north) / 2)))


def _draw_legends(figure: Any, report: QualityReport, suspects: gpd.GeoDataFrame) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    counts = report.counts
    reasons = [
        Line2D([], [], color=colour, lw=2, label=f"{FLAG_WORDS[flag]} ({counts[flag]})")
        for flag, colour in FLAG_COLOURS.items()
        if counts[flag]
    ]
    classes = report.table["lcz"].value_counts().sort_index()
    fills = [
        Patch(
            facecolor=_colour(int(code)),
            edgecolor="#666666",
            linewidth=0.4,
            label=f"{zones.zone(int(code)).letter}  {zones.zone(int(code)).name} ({n})",
        )
        for code, n in classes.items()
    ]
    blank = Line2D([], [], color="none", label=" ")
    head = Line2D([], [], color="none", label="Suspicious because (labels)")
    kinds = Line2D([], [], color="none", label="Local Climate Zone (labels)")
    shown = [head, *reasons, blank] if len(suspects) else []
    figure.legend(
        handles=[*shown, kinds, *fills], loc="outside right center", frameon=False, fontsize=7.5
    )


def _colour(code: int) -> str:
    return f"#{zones.zone(int(code)).wudapt}"
