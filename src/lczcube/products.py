"""Products: LCZ maps as Zarr v3 that plain xarray opens, and as a picture.

A store in a folder is written beside its place and moved there when it is whole: a reader sees all
of it or none, and an interrupted call is gone on with. Its layout is :mod:`lczcube.schema`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import xarray as xr
from dask.base import tokenize
from odc.geo.geobox import GeoBox

from lczcube import lcz as zones
from lczcube.cube import grid_of
from lczcube.errors import StoreError
from lczcube.grid import Grid
from lczcube.places import Place, place_of
from lczcube.probability import PERCENT_NODATA
from lczcube.pyramids import halved_dataset, halved_geobox, level_names
from lczcube.regions import (
    Leaf,
    compressors,
    digest_of,
    fill_store,
    require_not_whole,
    require_whole,
    writing,
)
from lczcube.schema import SCHEMA_VERSION, VERSION_ATTR, conventions, kind_of, require_version

MAP_STORE = "lcz.zarr"
"""Store of a city's maps in its folder of a run."""

PYRAMID_GROUP = "pixels"
"""The group that has a pyramid of maps beside it."""

PathOrUrl = TypeVar("PathOrUrl", str, Path)

_SPATIAL_NAMES = {"cell_y": "y", "cell_x": "x"}


def write_product(
    groups: Mapping[str, xr.Dataset],
    store: PathOrUrl,
    *,
    attrs: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    identity: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> PathOrUrl:
    """Write datasets as the leaf groups of one Zarr v3 store; interrupted, the same call goes on.

    Parameters
    ----------
    groups : mapping of str to xarray.Dataset
        By group name, ``pixels`` or ``cells``. Dims ``(y, x)`` or ``(cell_y, cell_x)`` on the grid
        in each dataset's attributes, others before them, a ``time`` first of all; lazy datasets are
        computed chunk by chunk. What each variable is says :data:`lczcube.schema.KINDS`.
    store : str or Path
        Folder to write, ``….zarr``, or the URL of a prefix of an object store.
    attrs : mapping, optional
        Attributes of the root: the manifest. JSON values.
    overwrite : bool
        Replace an existing store. In a folder it stands until the new one is whole; in an object
        store it is removed first. Default: refuse.
    identity : str, optional
        What the pixels depend on: a store that was begun with another is begun anew, and a whole
        one of the same is left as it is. Default: a digest of metadata and of the names of the Dask
        arrays, which tell what their graphs are made of, but of files that a graph reads only the
        names; enough to go on with an interrupted call, while a whole store is refused.
    storage_options : mapping, optional
        Of an object store: see :func:`lczcube.places.place_of`. They are written nowhere.

    Returns
    -------
    str or pathlib.Path
        The store, as it was given.

    Raises
    ------
    StoreError
        If a store of another identity, or without one given any whole store, exists and
        ``overwrite`` is false; if another process writes it, or it cannot be written: a full disk,
        no right. What is written stays for the same call.
    GridMismatchError
        If a dataset does not carry its grid.

    Notes
    -----
    One Dask task writes one whole shard: a chunk of the grid, all times and classes of it. Every
    flipped bit of a shard is an error on reading. ``lcz`` has the nodata 0 and stays uint8; per
    cents stay uint8 and open as shares in [0, 1] with NaN, which plain xarray makes float64. The
    group ``pixels`` is halved into ``pixels_2``, ``pixels_4`` … until its longer side is 512 pixels
    or less, each level from the one below it: :func:`lczcube.pyramids.halve`.
    """
    prepared = {name: _prepare(dataset) for name, dataset in groups.items()}
    root = {VERSION_ATTR: SCHEMA_VERSION, **(attrs or {}), **_multiscales(prepared)}
    if identity is None and not overwrite:
        require_not_whole(place_of(store, storage_options))
    named = identity or _identity(prepared, root)
    with writing(
        store, identity=named, overwrite=overwrite, beside=True, storage_options=storage_options
    ) as opened:
        fill_store(opened, _leaves(prepared, opened.place), root)
    return store


def open_product(
    store: str | Path, group: str, *, storage_options: Mapping[str, Any] | None = None
) -> xr.Dataset:
    """One group of a product store, lazy, with chunks as stored.

    Parameters
    ----------
    store : str or Path
        Folder, or the URL of a prefix of an object store; of any version of the schema.
    group : str
        ``pixels``, ``cells``, or a level of the pyramid, ``pixels_2``.
    storage_options : mapping, optional
        Of an object store.

    Raises
    ------
    StoreError
        If the store or the group is not there, the store is not whole, or it was written by a later
        version of lczcube.
    """
    place = place_of(store, storage_options)
    require_whole(place)
    opened = place.to_zarr()
    require_version(_root_attrs(place).get(VERSION_ATTR), place.name)
    try:
        dataset: xr.Dataset = xr.open_zarr(opened, group=group)
        return dataset
    except (FileNotFoundError, KeyError) as error:
        raise StoreError(f"{place.name}: no group {group!r}; it may not be written yet.") from error


def map_groups(store: str | Path) -> list[str]:
    """Groups of a product store that hold a map, sorted; levels of a pyramid are not among them.

    Raises
    ------
    StoreError
        If the store is not there, or not whole.
    """
    place = place_of(store)
    require_whole(place)
    root = json.loads(place.read("zarr.json") or b"{}")
    layout = root.get("attributes", {}).get("multiscales", {"layout": []})["layout"]
    levels = {level["asset"] for level in layout if "derived_from" in level}
    arrays = root["consolidated_metadata"]["metadata"]
    holders = {key.removesuffix("/lcz") for key in arrays if key.endswith("/lcz")}
    return sorted(holders - levels)


def manifest(store: str | Path) -> dict[str, Any]:
    """What a product store says of itself: the attributes of its root.

    Raises
    ------
    StoreError
        If the store is not there, or not whole.
    """
    place = place_of(store)
    require_whole(place)
    return _root_attrs(place)


def store_digest(store: str | Path) -> str:
    """SHA-256, in hex, of the files of a product store: which maps these are; reads them.

    Raises
    ------
    StoreError
        If the store is not there, or not whole.
    """
    require_whole(place_of(store))
    return digest_of(store, [""])


def inputs_of(told: Mapping[str, Any], *roles: str) -> list[str]:
    """Names of the inputs of a map that have one of these roles, or several.

    Parameters
    ----------
    told : mapping
        Of :func:`manifest`; one without inputs has none.
    roles : str
        ``features``, ``labels`` or ``rules``; an input may have more than one of them.
    """
    inputs: Mapping[str, Mapping[str, Any]] = told.get("inputs", {})
    return [name for name, of in inputs.items() if {*of["role"].split(" and ")} & {*roles}]


def as_percent(shares: xr.DataArray) -> xr.DataArray:
    """Shares in whole per cents, uint8, 255 for no data, of shares with NaN or of these; lazy."""
    if shares.dtype == np.uint8:
        return shares
    return (shares * 100).round().fillna(PERCENT_NODATA).astype(np.uint8).drop_attrs()


def with_yx(dataset: xr.Dataset) -> xr.Dataset:
    """A dataset with the dims ``y`` and ``x``, also where it has those of cells."""
    return dataset.rename({k: v for k, v in _SPATIAL_NAMES.items() if k in dataset.dims})


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


@dataclass(frozen=True)
class _Prepared:
    """A group as it will be stored: its pixels, and the side of its shards."""

    dataset: xr.Dataset
    geobox: GeoBox
    side_px: int


def _prepare(dataset: xr.Dataset) -> _Prepared:
    grid = grid_of(dataset)
    named = with_yx(dataset)
    geobox = _geobox_of(named, grid)
    side_px = round(grid.chunk_px * grid.pixel_m / geobox.resolution.x)
    described = named.assign({name: _described(v) for name, v in named.data_vars.items()})
    if "lcz_class" in described.coords:
        described["lcz_class"].attrs.update(zones.cf_attrs())
    if "feature" in described.coords:
        described = _names_to_attribute(described, "feature")
    if "time" in described.coords:
        described["time"].attrs |= {"standard_name": "time", "axis": "T"}
        described["time"].encoding = {"units": "days since 1970-01-01", "dtype": "int64"}
    return _placed(described, geobox, side_px)


def _placed(dataset: xr.Dataset, geobox: GeoBox, side_px: int) -> _Prepared:
    """With the coordinates and the georeference of its pixels, a shard a chunk."""
    placed = dataset.assign_coords(_coordinates(geobox)).assign_attrs(_georeference(geobox))
    sides = {str(dim): side_px if dim in ("y", "x") else -1 for dim in placed.dims}
    # Coordinates are written when the store is laid out; ``chunk`` would make some of them lazy.
    return _Prepared(placed.chunk(sides).assign_coords(placed.coords), geobox, side_px)


def _described(variable: xr.DataArray) -> xr.DataArray:
    """A copy with the attributes of its kind, which win, and none of another store's encoding."""
    kind = kind_of(str(variable.name), variable.dtype)
    described = variable.copy(deep=False).drop_encoding()
    described.attrs = variable.attrs | dict(kind.attrs) | {"grid_mapping": "spatial_ref"}
    return described


def _identity(prepared: Mapping[str, _Prepared], root: Mapping[str, Any]) -> str:
    parts = [
        (
            group,
            sorted(of.dataset.attrs.items(), key=lambda item: str(item[0])),
            [(str(n), v.dims, v.dtype, v.data.name, v.attrs) for n, v in of.dataset.items()],
            [(str(n), v.values, v.attrs) for n, v in of.dataset.coords.items()],
        )
        for group, of in prepared.items()
    ]
    return str(tokenize(parts, root))


def _leaves(prepared: Mapping[str, _Prepared], place: Place) -> dict[str, Leaf]:
    """Groups as they are written: those given, and after them the levels that are made of one."""
    leaves = {name: _leaf(of) for name, of in prepared.items()}
    if PYRAMID_GROUP in prepared:
        name, below = PYRAMID_GROUP, prepared[PYRAMID_GROUP]
        for level in level_names(PYRAMID_GROUP, below.geobox):
            halved = halved_dataset(below.dataset, place, name, below.side_px)
            name, below = level, _placed(halved, halved_geobox(below.geobox), below.side_px)
            leaves[name] = _leaf(below)
    return leaves


def _leaf(prepared: _Prepared) -> Leaf:
    dataset = prepared.dataset
    lazy = {str(name): _encoding(v, prepared.side_px) for name, v in dataset.data_vars.items()}
    eager = {str(name): {"compressors": compressors()} for name in dataset.coords}
    return Leaf(dataset, lazy | eager)


def _encoding(variable: xr.DataArray, side_px: int) -> dict[str, Any]:
    """Chunks halve a shard in space, and hold one time: a map of one year is read alone."""
    inner_px = side_px // 2 if side_px % 2 == 0 else side_px
    chunks, shards = dict(variable.sizes), dict(variable.sizes)
    for dim in ("y", "x"):
        chunks[dim], shards[dim] = inner_px, side_px
    if "time" in chunks:
        chunks["time"] = 1
    nodata = kind_of(str(variable.name), variable.dtype).nodata
    return {
        "chunks": tuple(chunks[dim] for dim in variable.dims),
        "shards": tuple(shards[dim] for dim in variable.dims),
        "compressors": compressors(),
        "fill_value": variable.dtype.type(0 if nodata is None else nodata),
    }


def _multiscales(prepared: Mapping[str, _Prepared]) -> dict[str, Any]:
    """The levels of the pyramid, as attributes of their parent; nothing where there are none."""
    if PYRAMID_GROUP not in prepared:
        return {}
    geobox, below = prepared[PYRAMID_GROUP].geobox, PYRAMID_GROUP
    layout: list[dict[str, Any]] = [{"asset": below, **_frame(geobox)}]
    for level in level_names(PYRAMID_GROUP, geobox):
        geobox = halved_geobox(geobox)
        step = {"scale": [2.0, 2.0], "translation": [0.0, 0.0]}
        layout.append({"asset": level, "derived_from": below, "transform": step, **_frame(geobox)})
        below = level
    if len(layout) == 1:
        return {}
    return {
        "zarr_conventions": conventions("multiscales", "spatial"),
        "multiscales": {"layout": layout},
    }


def _root_attrs(place: Place) -> dict[str, Any]:
    return dict(json.loads(place.read("zarr.json") or b"{}").get("attributes", {}))


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


def _names_to_attribute(dataset: xr.Dataset, dim: str) -> xr.Dataset:
    """Names of a dimension as an attribute: Zarr v3 has no stable string arrays yet."""
    names = [str(v) for v in dataset[dim].values]
    numbered = dataset.assign_coords({dim: np.arange(len(names), dtype=np.int32)})
    numbered[dim].attrs["names"] = names
    return numbered


def _georeference(geobox: GeoBox) -> dict[str, Any]:
    crs = str(geobox.crs)
    named = {"proj:code": crs} if crs.startswith("EPSG:") else {"proj:wkt2": crs}
    return {
        "Conventions": "CF-1.11",
        "zarr_conventions": conventions("spatial", "proj"),
        **named,
        "spatial:dimensions": ["y", "x"],
        "spatial:transform_type": "affine",
        **_frame(geobox),
        "spatial:bbox": [float(v) for v in geobox.boundingbox.bbox],
        "spatial:registration": "pixel",
    }


def _frame(geobox: GeoBox) -> dict[str, Any]:
    return {
        "spatial:shape": [int(n) for n in geobox.shape],
        "spatial:transform": [float(v) for v in geobox.affine[:6]],
    }


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
