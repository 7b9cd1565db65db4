"""Change as a picture: the maps of both years, and what changed to what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from lczcube import lcz as zones
from lczcube.changes import STATUS

MAX_SIDE_PX = 2000
"""Pixels of a panel's longer side; larger maps are thinned."""

SAME_RGB = (235, 235, 235)
UNSURE_RGB = (203, 184, 226)
"""Lilac: a darker grey is that of LCZ 8."""

_UNSURE = tuple(STATUS.index(name) for name in ("too_uncertain", "too_small"))


def write_changes_png(
    maps: xr.Dataset, changes: xr.Dataset, path: str | Path, *, title: str
) -> Path:
    """Draw the maps of all years and each change between them, thinned to 2,000 pixels a side.

    Parameters
    ----------
    maps : xarray.Dataset
        Of :func:`lczcube.mapstack.stack_years`.
    changes : xarray.Dataset
        Of :func:`lczcube.changes.find_changes` on them.
    path : str or pathlib.Path
        PNG to write.
    title : str
        Above the panels.

    Returns
    -------
    pathlib.Path
        The picture: what changed has the colour of its later zone, what stayed is light grey, what
        differs but is too uncertain or too small is lilac.
    """
    from matplotlib.figure import Figure

    lcz, status = (_thinned(array) for array in (maps["lcz"], changes["status"]))
    years, until = (each["time"].dt.year.values.tolist() for each in (maps, changes))
    since = changes["since"].dt.year.values.tolist()
    palette = zones.colors()
    panels = [(str(year), palette[lcz[i].values]) for i, year in enumerate(years)]
    panels += [
        (f"Changed {since[i]} to {until[i]}, in the colour of {until[i]}", _drawn(lcz, status, i))
        for i in range(len(until))
    ]
    height_width = lcz.sizes["y"] / lcz.sizes["x"]
    figure = Figure(
        figsize=(5.2 * len(panels) + 2.6, float(np.clip(5.2 * height_width, 3.0, 10.0)) + 1.2),
        layout="constrained",
    )
    axes = figure.subplots(1, len(panels), squeeze=False, sharex=True, sharey=True)[0]
    for axis, (name, colors) in zip(axes, panels, strict=True):
        _draw(axis, colors, lcz, name)
    axes[0].set_ylabel("northing, km")
    _draw_legend(figure, lcz)
    figure.suptitle(title, fontsize=13)
    target = Path(path)
    partial = target.with_name(target.name + ".partial")
    figure.savefig(partial, dpi=150, format="png", metadata={"Software": None})
    partial.replace(target)
    return target


def _thinned(array: xr.DataArray) -> xr.DataArray:
    step = max(1, -(-max(array.sizes["y"], array.sizes["x"]) // MAX_SIDE_PX))
    return array.isel(y=slice(None, None, step), x=slice(None, None, step)).compute()


def _drawn(lcz: xr.DataArray, status: xr.DataArray, step: int) -> npt.NDArray[np.uint8]:
    """RGB of a step, shape (rows, columns, 3)."""
    fate = status[step].values
    colors: npt.NDArray[np.uint8] = zones.colors()[lcz[step + 1].values]
    colors[fate == STATUS.index("no_data")] = 255
    colors[fate == STATUS.index("same")] = SAME_RGB
    colors[np.isin(fate, _UNSURE)] = UNSURE_RGB
    return colors


def _draw(axis: Any, colors: npt.NDArray[np.uint8], lcz: xr.DataArray, title: str) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    y, x = lcz["y"].values / 1e3, lcz["x"].values / 1e3
    half = abs(x[1] - x[0]) / 2 if len(x) > 1 else 0.5
    extent = (x[0] - half, x[-1] + half, y[-1] - half, y[0] + half)
    axis.imshow(colors, extent=extent, interpolation="nearest")
    axis.set_title(title, fontsize=10)
    axis.set_xlabel("easting, km")
    for direction in (axis.xaxis, axis.yaxis):
        direction.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        direction.set_major_locator(MaxNLocator(nbins=5))
    axis.tick_params(labelsize=8)


def _draw_legend(figure: Any, lcz: xr.DataArray) -> None:
    from matplotlib.patches import Patch

    codes = [int(code) for code in np.unique(lcz.values) if code != zones.NODATA]
    named = [(f"#{z.wudapt}", f"{z.letter}  {z.name}") for z in map(zones.zone, codes)]
    greys = ((SAME_RGB, "the same"), (UNSURE_RGB, "differs: too uncertain or too small"))
    named += [(f"#{bytes(rgb).hex()}", label) for rgb, label in greys]
    handles = [
        Patch(facecolor=color, edgecolor="#666666", linewidth=0.4, label=label)
        for color, label in named
    ]
    figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize=9)
