"""Cubes as Zarr: codes brought home as they are, and opened again with the same bits."""

import json
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from odc.geo.xr import xr_coords

from lczcube.cube import GRID_ATTR, HALO_ATTR, grid_of, halo_of
from lczcube.errors import GridMismatchError, StoreError
from lczcube.grid import Grid
from lczcube.places import place_of
from lczcube.regions import (
    Leaf,
    RegionReport,
    compressors,
    identity_of,
    is_whole,
    write_regions,
)

GROUP = "cube"

INNER_CHUNKS = 2
"""Chunks along a side of a shard, where the shard can be halved."""


def write_cube(cube: xr.Dataset, store: str | Path, *, overwrite: bool = False) -> RegionReport:
    """Write a cube as sharded Zarr v3, codes as stored; reads every pixel of it.

    Parameters
    ----------
    cube : xarray.Dataset
        From :func:`lczcube.open_cube`.
    store : str or pathlib.Path
        Folder of the store. An interrupted call goes on where it stopped: see
        :mod:`lczcube.regions`.
    overwrite : bool
        Replace a store of other inputs, another grid or another halo.

    Returns
    -------
    RegionReport

    Raises
    ------
    StoreError
        If the store holds another cube, or another process writes it.

    Notes
    -----
    A shard is a chunk of the cube, all bands of one date. Compressors carry checksums. Layers
    without nodata codes keep every code: nothing is filled.
    """
    ready = _in_shards(cube)
    encoding = {
        str(name): _encoding(v) for name, v in ready.data_vars.items() if hasattr(v.data, "dask")
    }
    leaves = {GROUP: Leaf(ready, encoding)}
    return write_regions(leaves, store, identity=_identity(cube), overwrite=overwrite)


def is_stored(cube: xr.Dataset, store: str | Path) -> bool:
    """True when a store holds exactly this cube, whole; reads no pixel."""
    place = place_of(store)
    return is_whole(place) and identity_of(place) == _identity(cube)


def stored_halo_px(store: str | Path) -> int:
    """Pixels by which a stored cube reaches past its grid; -1 where there is no whole one."""
    if not is_whole(place_of(store)):
        return -1
    return halo_of(xr.open_zarr(store, group=GROUP, mask_and_scale=False))


def open_stored_cube(
    store: str | Path, *, grid: Grid | None = None, halo_px: int | None = None
) -> xr.Dataset:
    """A cube of :func:`write_cube`, lazy.

    Parameters
    ----------
    store : str or pathlib.Path
        Its folder.
    grid : Grid, optional
        The grid that is wanted; refused when the stored one has other pixels.
    halo_px : int, optional
        Default: the halo it was written with; at most that.

    Returns
    -------
    xarray.Dataset
        As :func:`lczcube.open_cube` gave it, with the chunks of the store.

    Raises
    ------
    StoreError
        If the store is not there, or was not written to its end.
    GridMismatchError
        If it lies on another grid, or reaches less far past it.
    """
    if not is_whole(place_of(store)):
        raise StoreError(
            f"{store} holds no whole cube; write it, or finish it, with `lczcube cube RUN --write`."
        )
    stored = xr.open_zarr(store, group=GROUP, mask_and_scale=False)
    named = {dim: stored[dim].attrs["names"] for dim in stored.dims if "names" in stored[dim].attrs}
    cube = stored.assign_coords(named)
    for name in cube.data_vars:
        cube[name].attrs = json.loads(cube[name].attrs["lczcube_attrs"])
        cube[name].encoding = {}
    if grid is not None:
        _require_grid(cube, store, grid)
        cube = cube.assign_attrs({GRID_ATTR: grid.to_json()})
    return _with_halo(cube, store, halo_px)


def _identity(cube: xr.Dataset) -> str:
    """What a cube's pixels depend on: the names of its arrays are made of their tiles."""
    arrays = [(str(name), getattr(v.data, "name", "")) for name, v in cube.data_vars.items()]
    return str(tokenize(arrays, sorted(cube.attrs.items())))


def _in_shards(cube: xr.Dataset) -> xr.Dataset:
    """The cube with attributes and names as Zarr keeps them, chunks of one regular size."""
    grid, halo = grid_of(cube), halo_of(cube)
    side = grid.chunk_px
    even = cube.chunk({"y": side, "x": side}) if halo else cube
    variables = {
        name: v.drop_attrs().assign_attrs(
            lczcube_attrs=json.dumps(v.attrs, sort_keys=True), grid_mapping="spatial_ref"
        )
        for name, v in even.data_vars.items()
    }
    numbered = even.assign(variables)
    for dim in list(numbered.dims):
        if str(dim).endswith("_band"):
            names = numbered[dim].values.tolist()
            numbered = numbered.assign_coords({dim: np.arange(len(names), dtype=np.int32)})
            numbered[dim].attrs["names"] = names
    return numbered


def _encoding(variable: xr.DataArray) -> dict[str, Any]:
    shard = tuple(sizes[0] for sizes in da.asarray(variable.data).chunks)
    inner = tuple(
        n // INNER_CHUNKS if dim in ("y", "x") and n % INNER_CHUNKS == 0 else n
        for dim, n in zip(variable.dims, shard, strict=True)
    )
    nodata = json.loads(variable.attrs["lczcube_attrs"]).get("nodata", 0)
    return {
        "chunks": inner,
        "shards": shard,
        "compressors": compressors(),
        "fill_value": variable.dtype.type(nodata),
    }


def _require_grid(cube: xr.Dataset, store: str | Path, grid: Grid) -> None:
    held = grid_of(cube)
    if held.geobox != grid.geobox:
        raise GridMismatchError(
            f"{store} holds the grid {held.crs} {held.bbox} and {grid.crs} {grid.bbox} is wanted; "
            "write it again with `lczcube cube RUN --write --overwrite`."
        )


def _with_halo(cube: xr.Dataset, store: str | Path, halo_px: int | None) -> xr.Dataset:
    held = halo_of(cube)
    wanted = held if halo_px is None else halo_px
    if wanted > held:
        raise GridMismatchError(
            f"{store} reaches {held} px past its grid and {wanted} are wanted; write it again with "
            f"a halo of {wanted} px."
        )
    inner = slice(held - wanted, wanted - held or None)
    cut = cube.isel(y=inner, x=inner).assign_attrs({HALO_ATTR: wanted})
    return cut.assign_coords(xr_coords(grid_of(cut).read_geobox(wanted)))
