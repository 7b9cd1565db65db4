"""Products: LCZ maps as Zarr v3 that plain xarray opens, and as a picture.

A store is written beside its place and moved there when it is whole: a reader sees all of it or
none.
"""

import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from odc.geo.geobox import GeoBox

from lczcube import lcz as zones
from lczcube.cube import grid_of
from lczcube.errors import StoreError
from lczcube.grid import Grid
from lczcube.probability import PERCENT_NODATA
from lczcube.runtime import n_cores

SCHEMA_VERSION = "1.0.0"

_PROJ_CONVENTION = {
    "uuid": "f17cb550-5864-4468-aeb7-f3180cfb622f",
    "name": "proj",
    "description": "Coordinate reference system information for geospatial data",
    "schema_url": "https://raw.githubusercontent.com/zarr-conventions/proj/refs/tags/v0.1/schema.json",
    "spec_url": "https://github.com/zarr-conventions/proj/blob/v0.1/README.md",
}
_SPATIAL_CONVENTION = {
    "uuid": "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4",
    "name": "spatial",
    "description": "Spatial coordinate information",
    "schema_url": (
        "https://raw.githubusercontent.com/zarr-conventions/spatial/refs/tags/v0.1/schema.json"
    ),
    "spec_url": "https://github.com/zarr-conventions/spatial/blob/v0.1/README.md",
}

_VARIABLE_ATTRS: dict[str, dict[str, Any]] = {
    "confidence": {"long_name": "Probability of the mapped zone", "units": "1"},
    "probability": {"long_name": "Probability of each Local Climate Zone", "units": "1"},
    "distance": {"long_name": "Distance to the nearest donor", "units": "standard deviations"},
    "donor": {"long_name": "Position of the nearest donor in attribute donor_id; -1 for none"},
    "vote": {"long_name": "Share of the vote of the mapped zone, not calibrated", "units": "1"},
    "fate": {"long_name": "What becomes of the pseudo-label"},
    "kept": {"long_name": "True where the pseudo-label is kept"},
    "label_set": {"long_name": "Local Climate Zones that the pixel may have, a bit each"},
    "dissimilarity": {"long_name": "Distance to the nearest training sample, by their mean one"},
    "applicable": {"long_name": "1 where features are as in training, 0 where not, 255 no data"},
    "features": {"long_name": "Statistics of the bands over the window of each output pixel"},
    "valid_fraction": {"long_name": "Share of valid pixels in the window", "units": "1"},
    "covered": {"long_name": "True where at least half of the output pixel is valid"},
}
_PERCENT = ("confidence", "probability", "vote")
_PERCENT_ATTRS = {"_FillValue": np.uint8(PERCENT_NODATA), "scale_factor": 0.01}
"""As attributes, not as encoding: the per cents are packed already, xarray must not pack again."""
_SPATIAL_NAMES = {"cell_y": "y", "cell_x": "x"}


def write_product(
    groups: Mapping[str, xr.Dataset],
    store: str | Path,
    *,
    attrs: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write datasets as the leaf groups of one Zarr v3 store.

    Parameters
    ----------
    groups : mapping of str to xarray.Dataset
        By group name, ``pixels`` or ``cells``. Dims ``(y, x)`` or ``(cell_y, cell_x)`` on the grid
        in each dataset's attributes; lazy datasets are computed chunk by chunk.
    store : str or Path
        Folder to write, ``….zarr``.
    attrs : mapping, optional
        Attributes of the root: the manifest. JSON values.
    overwrite : bool
        Replace an existing store. Default: refuse.

    Returns
    -------
    pathlib.Path
        The store.

    Raises
    ------
    StoreError
        If the store exists and ``overwrite`` is false.
    GridMismatchError
        If a dataset does not carry its grid.

    Notes
    -----
    One Dask task writes one whole shard. Compressors carry checksums. ``lcz`` has the nodata 0 and
    stays uint8; per cents stay uint8 and open as shares in [0, 1] with NaN, which plain xarray
    makes float64.
    """
    path = Path(store)
    with _replacing(path, overwrite=overwrite) as partial:
        for name, dataset in groups.items():
            ready, encoding = _prepare(dataset)
            ready.to_zarr(
                partial, group=name, mode="w", zarr_format=3, encoding=encoding, consolidated=False
            )
        _finish(partial, {"lczcube_schema": SCHEMA_VERSION, **(attrs or {})})
    return path


def open_product(store: str | Path, group: str) -> xr.Dataset:
    """One group of a product store, lazy, with chunks as stored.

    Raises
    ------
    StoreError
        If the store or the group is not there.
    """
    try:
        dataset: xr.Dataset = xr.open_zarr(store, group=group)
        return dataset
    except (FileNotFoundError, KeyError) as error:
        raise StoreError(f"{store}: no group {group!r}; it may not be written yet.") from error


def open_features(store: str | Path) -> xr.Dataset:
    """Features as :func:`lczcube.aggregate` gave them, from the group ``cells`` of a store; lazy.

    Raises
    ------
    StoreError
        If the store is not there.
    """
    stored = open_product(store, "cells").drop_vars("spatial_ref")
    named = stored.assign_coords(feature=stored["feature"].attrs["names"])
    return named.rename({"y": "cell_y", "x": "cell_x"})


def write_map_png(
    groups: Mapping[str, xr.Dataset], path: str | Path, *, title: str, note: str = ""
) -> Path:
    """Draw LCZ maps side by side with the official palette and one legend.

    Loads ``lcz`` of each group, thinned to at most 2,000 pixels a side.

    Parameters
    ----------
    groups : mapping of str to xarray.Dataset
        Panel title to a dataset with ``lcz``, dims ``(y, x)``, metres.
    path : str or Path
        PNG to write.
    title : str
        Above the panels.
    note : str
        Below them: sources, or a word that the data are synthetic.

    Notes
    -----
    The legend lists the classes present, built before natural (colours: Demuzere et al. 2022,
    doi:10.5194/essd-14-3835-2022).
    """
    from matplotlib.figure import Figure

    maps = {name: _covered(_thinned(dataset["lcz"])) for name, dataset in groups.items()}
    widths = [0.9 + 5.3 * _aspect(lcz) for lcz in maps.values()]
    figure = Figure(figsize=(sum(widths) + 2.6, 6.4), layout="constrained")
    axes = figure.subplots(1, len(maps), squeeze=False)[0]
    for axis, (name, lcz) in zip(axes, maps.items(), strict=True):
        _draw_panel(axis, lcz, name)
    axes[0].set_ylabel("northing, km")
    _draw_legend(figure, _present(maps.values()))
    figure.suptitle(title, fontsize=13)
    if note:
        figure.supxlabel(note, fontsize=8, color="#444444")
    target = Path(path)
    partial = target.with_name(target.name + ".partial")
    figure.savefig(partial, dpi=150, format="png", metadata={"Software": None})
    partial.replace(target)
    return target


@contextmanager
def _replacing(path: Path, *, overwrite: bool) -> Iterator[Path]:
    if path.exists() and not overwrite:
        raise StoreError(f"{path} exists; pass overwrite=True (--overwrite) to replace it.")
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _threads_that_end():
            yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(path, ignore_errors=True)
    partial.replace(path)


@contextmanager
def _threads_that_end() -> Iterator[None]:
    """A pool of threads whose tasks are all over when it is left.

    Dask raises a task's error at once, while the tasks beside it still write: what is then removed
    would come back.
    """
    import dask

    n_threads = dask.config.get("num_workers", None) or n_cores()
    with ThreadPoolExecutor(n_threads) as pool, dask.config.set(pool=pool):
        yield


def _prepare(dataset: xr.Dataset) -> tuple[xr.Dataset, dict[str, dict[str, Any]]]:
    grid = grid_of(dataset)
    named = dataset.rename({k: v for k, v in _SPATIAL_NAMES.items() if k in dataset.dims})
    geobox = _geobox_of(named, grid)
    side_px = round(grid.chunk_px * grid.pixel_m / geobox.resolution.x)
    named = named.assign_coords(_coordinates(geobox)).chunk(_shards(named, side_px))
    encoding: dict[str, dict[str, Any]] = {}
    for name, variable in named.data_vars.items():
        variable.attrs.update(_VARIABLE_ATTRS.get(str(name), {}))
        variable.attrs.update(_PERCENT_ATTRS if name in _PERCENT else {})
        variable.attrs["grid_mapping"] = "spatial_ref"
        encoding[str(name)] = _encoding(variable, side_px)
    if "lcz" in named:
        named["lcz"].attrs.update(zones.cf_attrs() | {"nodata": zones.NODATA})
    if "lcz_class" in named.coords:
        named["lcz_class"].attrs.update(zones.cf_attrs())
    if "feature" in named.coords:
        named = _names_to_attribute(named, "feature")
    return named.assign_attrs(_georeference(grid, geobox)), encoding


def _geobox_of(dataset: xr.Dataset, grid: Grid) -> GeoBox:
    shape = (dataset.sizes["y"], dataset.sizes["x"])
    for geobox in (grid.output_geobox, grid.geobox):
        if tuple(geobox.shape) == shape:
            return geobox
    raise StoreError(
        f"a dataset of {shape} pixels is neither the grid's pixels {grid.shape} nor its output "
        f"pixels {tuple(grid.output_geobox.shape)}; trim its halo first."
    )


def _coordinates(geobox: GeoBox) -> dict[str, Any]:
    axes = {
        dim: (
            (dim,),
            geobox.coordinates[dim].values,
            {"standard_name": f"projection_{dim}_coordinate", "units": "m", "axis": dim.upper()},
        )
        for dim in ("y", "x")
    }
    transform = " ".join(repr(float(v)) for v in geobox.affine.to_gdal())
    crs = geobox.crs
    if crs is None:
        raise StoreError("the grid has no CRS; a product needs one.")
    spatial_ref = crs.proj.to_cf() | {"GeoTransform": transform}
    spatial_ref["spatial_ref"] = spatial_ref["crs_wkt"]
    return {**axes, "spatial_ref": ((), np.int32(crs.to_epsg() or 0), spatial_ref)}


def _shards(dataset: xr.Dataset, side_px: int) -> dict[str, int]:
    return {str(dim): side_px if dim in ("y", "x") else -1 for dim in dataset.dims}


def _encoding(variable: xr.DataArray, side_px: int) -> dict[str, Any]:
    from zarr.codecs import ZstdCodec

    inner_px = side_px // 2 if side_px % 2 == 0 else side_px
    sides = {"y": (inner_px, side_px), "x": (inner_px, side_px)}
    inner = tuple(sides[str(d)][0] if d in sides else variable.sizes[d] for d in variable.dims)
    shard = tuple(sides[str(d)][1] if d in sides else variable.sizes[d] for d in variable.dims)
    return {
        "chunks": inner,
        "shards": shard,
        "compressors": [ZstdCodec(level=3, checksum=True)],
    }


def _names_to_attribute(dataset: xr.Dataset, dim: str) -> xr.Dataset:
    """Names of a dimension as an attribute: Zarr v3 has no stable string arrays yet."""
    names = [str(v) for v in dataset[dim].values]
    numbered = dataset.assign_coords({dim: np.arange(len(names), dtype=np.int32)})
    numbered[dim].attrs["names"] = names
    return numbered


def _georeference(grid: Grid, geobox: GeoBox) -> dict[str, Any]:
    rows, columns = geobox.shape
    crs = {"proj:code": grid.crs} if grid.crs.startswith("EPSG:") else {"proj:wkt2": grid.crs}
    return {
        "Conventions": "CF-1.11",
        "zarr_conventions": [_SPATIAL_CONVENTION, _PROJ_CONVENTION],
        **crs,
        "spatial:dimensions": ["y", "x"],
        "spatial:transform_type": "affine",
        "spatial:transform": [float(v) for v in geobox.affine[:6]],
        "spatial:shape": [rows, columns],
        "spatial:bbox": [float(v) for v in geobox.boundingbox.bbox],
        "spatial:registration": "pixel",
    }


def _finish(store: Path, attrs: Mapping[str, Any]) -> None:
    import zarr

    root = zarr.open_group(store, mode="a", zarr_format=3)
    root.attrs.update(dict(attrs))
    with warnings.catch_warnings():
        # https://github.com/zarr-developers/zarr-python/issues/2958: consolidated metadata works
        # in every reader we test, but is not yet in the specification.
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        zarr.consolidate_metadata(store, zarr_format=3)


def _thinned(lcz: xr.DataArray, most: int = 2000) -> xr.DataArray:
    step = max(1, -(-max(lcz.shape) // most))
    return lcz[::step, ::step].compute()


def _covered(lcz: xr.DataArray) -> xr.DataArray:
    """The smallest rectangle that holds all the map has; the whole if it has nothing."""
    known = lcz.values != zones.NODATA
    if not known.any():
        return lcz
    rows, columns = (np.flatnonzero(known.any(axis=axis)) for axis in (1, 0))
    return lcz[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _aspect(lcz: xr.DataArray) -> float:
    """Width over height, within what a page bears."""
    return float(np.clip(lcz.shape[1] / lcz.shape[0], 0.5, 2.5))


def _present(maps: Sequence[xr.DataArray] | Any) -> list[zones.Zone]:
    codes = sorted({int(code) for lcz in maps for code in np.unique(lcz.values)})
    return [zones.zone(code) for code in codes if code != zones.NODATA]


def _draw_panel(axis: Any, lcz: xr.DataArray, title: str) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    y, x = lcz["y"].values, lcz["x"].values
    half = abs(x[1] - x[0]) / 2 if len(x) > 1 else 0.5
    extent = ((x[0] - half) / 1e3, (x[-1] + half) / 1e3, (y[-1] - half) / 1e3, (y[0] + half) / 1e3)
    axis.imshow(zones.colors()[lcz.values], extent=extent, interpolation="nearest")
    axis.use_sticky_edges = False
    axis.margins(0.02)
    _draw_scale_bar(axis, extent)
    axis.set_title(title, fontsize=10)
    axis.set_xlabel("easting, km")
    for direction in (axis.xaxis, axis.yaxis):
        direction.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        direction.set_major_locator(MaxNLocator(nbins=5))
    axis.tick_params(labelsize=8)


def _draw_scale_bar(axis: Any, extent: tuple[float, float, float, float]) -> None:
    """A bar of a round length, in km, along the lower edge; about a fifth of the map's width."""
    west, east, south, north = extent
    length_km = _round_length((east - west) / 5)
    x, y = west + 0.04 * (east - west), south + 0.05 * (north - south)
    halo = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5}
    axis.plot([x, x + length_km], [y, y], color="white", linewidth=5, solid_capstyle="butt")
    axis.plot([x, x + length_km], [y, y], color="black", linewidth=2.5, solid_capstyle="butt")
    label = f"{length_km:g} km" if length_km >= 1 else f"{length_km * 1000:g} m"
    above = y + 0.02 * (north - south)
    axis.text(x, above, label, fontsize=8, va="bottom", ha="left", bbox=halo)


def _round_length(most: float) -> float:
    """The largest of 1, 2 or 5 times a power of ten that is at most ``most``."""
    power = float(10 ** np.floor(np.log10(most)))
    return max(step * power for step in (1, 2, 5) if step * power <= most * (1 + 1e-9))


def _draw_legend(figure: Any, present: Sequence[zones.Zone]) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor=f"#{z.wudapt}", edgecolor="#666666", linewidth=0.4, label=label)
        for z, label in ((z, f"{z.letter}  {z.name}") for z in present)
    ]
    if handles:
        figure.legend(
            handles=handles,
            loc="outside right center",
            title="Local Climate Zone",
            frameon=False,
            fontsize=9,
        )
