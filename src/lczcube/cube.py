"""The cube: every layer of a city on one Grid, lazy, as stored codes.

``open_cube`` builds the graph and reads no pixel; ``decode`` turns codes into values, lazily.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import dask.array as da
import numpy as np
import xarray as xr

from lczcube.catalog import Catalog
from lczcube.decoders import Coding
from lczcube.engines import LOADERS
from lczcube.errors import CatalogError, GridMismatchError
from lczcube.grid import Grid
from lczcube.layers import (
    Engine,
    Wanted,
    absent_layer,
    find_items,
    open_layer,
    raise_no_items,
)

GRID_ATTR = "lczcube_grid"
HALO_ATTR = "lczcube_halo_px"
Missing = Literal["refuse", "drop_layer", "indicator"]

_EMPTY = np.empty((0, 0, 0, 0), np.float32)


def open_cube(
    catalog: Catalog,
    grid: Grid,
    *,
    inputs: Sequence[str],
    year: int | None = None,
    datetime: str | None = None,
    halo_px: int | None = None,
    nearest_year: bool = False,
    missing: Missing = "refuse",
    engine: Engine = "native",
) -> xr.Dataset:
    """A lazy cube of the inputs on a grid; computes no pixel.

    Parameters
    ----------
    catalog : Catalog
        Where the items are.
    grid : Grid
        The lattice of the cube. Sources on the same lattice are read as they lie; others are
        resampled by the rule of their collection.
    inputs : sequence of str
        Collections of the catalog; each becomes one variable of that name.
    year : int, optional
        Shorthand for ``datetime=str(year)``. Layers meet on exact years.
    datetime : str, optional
        As in pystac-client: ``2024``, ``2023-06/2024-06`` …
    halo_px : int, optional
        Pixels past the grid on each side. Default: what the grid's windows need.
    nearest_year : bool
        Take the nearest year there is, the earlier of two, for an input that has none in ``year``;
        the year is in its attribute ``year_used``. Default: that input is missing.
    missing : str
        For an input that has no item on this grid and date: ``refuse`` (default),
        ``drop_layer``: leave it out, ``indicator``: a variable without a valid pixel, and every
        input gets the feature ``<name>_present``. ``attrs["missing"]`` lists them.
    engine : str
        What reads the files: ``native`` (default), ``odc`` (odc-stac), or ``stackstac`` (layers of
        one band): see :mod:`lczcube.engines` for where they differ.

    Returns
    -------
    xarray.Dataset
        One variable per input, dims ``(time, <name>_band, y, x)``; ``(y, x)`` for a static layer
        of one band. Stored codes in their stored dtype; decoder, validity, product and licence in
        the attributes, ``covered_share`` (how much of the pixels its tiles cover) and ``n_tiles``
        among them. Dask chunks of whole cells. ``attrs`` hold the grid and the halo.

    Raises
    ------
    CatalogError
        If an input is unknown, has no item on this grid and date, its items disagree on bands, or
        the inputs do not meet on the same years.

    Notes
    -----
    Where tiles overlap, a pixel belongs to one of them: see :mod:`lczcube.mosaic`.
    """
    if not inputs:
        raise CatalogError(f"no inputs named; the catalog has {', '.join(catalog.collection_ids)}.")
    if year is not None and datetime is not None:
        raise CatalogError(f"year = {year} and datetime = {datetime!r} are both given; give one.")
    if engine != "native" and engine not in LOADERS:
        raise CatalogError(f"engine {engine!r} is unknown; choose native, {', '.join(LOADERS)}.")
    halo = grid.halo_px if halo_px is None else halo_px
    wanted = Wanted(grid, halo, str(year) if year is not None else datetime)
    nearest = year if nearest_year else None
    found = {name: find_items(catalog, wanted, name, nearest) for name in inputs}
    absent = [name for name, items in found.items() if not items]
    if len(absent) == len(found) or (absent and missing == "refuse"):
        raise_no_items(catalog, absent[0], wanted)
    layers = {
        name: open_layer(catalog.layer(name), items, wanted, engine)
        for name, items in found.items()
        if items
    }
    _require_same_years(layers)
    if missing == "indicator":
        layers |= {name: absent_layer(catalog, name, wanted) for name in absent}
        layers = {name: _with_presence(layers[name], name not in absent) for name in inputs}
    cube = xr.merge(layers.values(), join="exact", compat="equals", combine_attrs="override")
    return cube.assign_attrs(
        {GRID_ATTR: grid.to_json(), HALO_ATTR: halo, "missing": json.dumps(absent)}
    )


def open_cubes(
    catalog: Catalog,
    grids: Mapping[str, Grid],
    *,
    inputs: Sequence[str],
    year: int | None = None,
    datetime: str | None = None,
    nearest_year: bool = False,
    missing: Missing = "refuse",
) -> xr.DataTree:
    """Lazy cubes of many cities: a node a city, each on its own grid; computes no pixel.

    Parameters
    ----------
    catalog : Catalog
        Where the items are.
    grids : mapping of str to Grid
        By city.
    inputs, year, datetime, nearest_year, missing
        As in :func:`open_cube`. ``drop_layer`` drops an input that one city lacks in all of them,
        so that their features stay comparable.

    Returns
    -------
    xarray.DataTree
        Cubes under :func:`node_name` of each city, whose name is in their attribute ``city``.

    Raises
    ------
    CatalogError
        Naming the city and the layer.

    Examples
    --------
    >>> tree = open_cubes(catalog, grids, inputs=["alphaearth"], year=2024)  # doctest: +SKIP
    >>> tree["nairobi"]["alphaearth"].sizes  # doctest: +SKIP
    """
    kept = list(inputs)
    if missing == "drop_layer":
        kept = shared_inputs(catalog, grids, inputs=inputs, year=year, datetime=datetime)
    cubes = {}
    for city, grid in grids.items():
        try:
            cube = open_cube(
                catalog,
                grid,
                inputs=kept,
                year=year,
                datetime=datetime,
                nearest_year=nearest_year,
                missing=missing,
            )
        except CatalogError as error:
            raise CatalogError(f"city {city!r}: {error}") from error
        cubes[node_name(city)] = cube.assign_attrs(city=city)
    return xr.DataTree.from_dict(cubes)


def shared_inputs(
    catalog: Catalog,
    grids: Mapping[str, Grid],
    *,
    inputs: Sequence[str],
    year: int | None = None,
    datetime: str | None = None,
) -> list[str]:
    """The inputs that every city has, in their order.

    Raises
    ------
    CatalogError
        If there is none.
    """
    when = str(year) if year is not None else datetime
    wanted = [Wanted(grid, grid.halo_px, when) for grid in grids.values()]
    kept = [name for name in inputs if all(find_items(catalog, w, name, None) for w in wanted)]
    if not kept:
        raise CatalogError(
            f"none of {', '.join(inputs)} has items in all of {', '.join(grids)}"
            f"{f' at {when}' if when else ''}; there is nothing to compare them by."
        )
    return kept


def node_name(city: str) -> str:
    """The name of a city's node or group: its own, but for what a path would misread.

    Examples
    --------
    >>> node_name("São Paulo [2024]"), node_name("Rio/Niterói")
    ('São Paulo [2024]', 'Rio%2FNiterói')
    """
    escaped = city.replace("%", "%25").replace("/", "%2F")
    return escaped.replace(".", "%2E") if set(escaped) == {"."} else escaped


def grid_of(cube: xr.Dataset) -> Grid:
    """The grid a cube, or features made from it, lie on.

    Raises
    ------
    GridMismatchError
        If the dataset carries no grid.
    """
    if GRID_ATTR not in cube.attrs:
        raise GridMismatchError(
            f"the dataset has no attribute {GRID_ATTR!r}; open it with lczcube.open_cube, or keep "
            "its attributes (xarray.set_options(keep_attrs=True))."
        )
    return Grid.from_json(cube.attrs[GRID_ATTR])


def years_of(cube: xr.Dataset) -> tuple[int, ...]:
    """Years of the layers of a cube, sorted: those that were used; none of static layers."""
    years: set[int] = set()
    for layer in cube.data_vars.values():
        if "year_used" in layer.attrs:
            years.add(int(layer.attrs["year_used"]))
        elif "time" in layer.dims:
            years |= set(cube["time"].dt.year.values.tolist())
    return tuple(sorted(years))


def halo_of(cube: xr.Dataset) -> int:
    """Pixels by which a cube reaches past its grid, on each side."""
    return int(cube.attrs.get(HALO_ATTR, 0))


def trim_halo(cube: xr.Dataset) -> xr.Dataset:
    """The cube on exactly its grid's pixels."""
    halo = halo_of(cube)
    if halo == 0:
        return cube
    inner = slice(halo, -halo)
    return cube.isel(y=inner, x=inner).assign_attrs({HALO_ATTR: 0})


def decode(cube: xr.Dataset) -> xr.Dataset:
    """Values of a cube: float32 with NaN where a pixel is invalid, lazily.

    Parameters
    ----------
    cube : xarray.Dataset
        From :func:`open_cube`.

    Returns
    -------
    xarray.Dataset
        The same variables, dims and chunks, float32, without the scales of codes that have some.
        Variables without a decoder stay as they are.
    """
    decoded = {
        name: _decode_variable(cube[name], cube.get(f"{name}_scale")) for name in coded_layers(cube)
    }
    rest = {
        name: variable
        for name, variable in cube.data_vars.items()
        if name not in decoded and str(name).removesuffix("_scale") not in decoded
    }
    return xr.Dataset(decoded | rest, attrs=cube.attrs)


def layer_codes(cube: xr.Dataset, name: str) -> xr.DataArray:
    """Stored codes of one layer as ``(<name>_band, y, x)``: one date, the band dimension kept.

    Raises
    ------
    CatalogError
        If the layer holds several dates.
    """
    variable = cube[name]
    if "time" in variable.dims:
        if variable.sizes["time"] != 1:
            years = ", ".join(str(t)[:4] for t in variable["time"].values)
            raise CatalogError(
                f"layer {name!r} holds {variable.sizes['time']} dates ({years}); features are of "
                "one date. Open the cube with year=."
            )
        variable = variable.isel(time=0, drop=True)
    band_dim = f"{name}_band"
    return variable if band_dim in variable.dims else variable.expand_dims({band_dim: [name]})


def layer_scales(cube: xr.Dataset, name: str) -> xr.DataArray | None:
    """Scales of the codes of one layer as ``(1 or <name>_band, y, x)``; None where it has none."""
    if f"{name}_scale" not in cube:
        return None
    scales = cube[f"{name}_scale"]
    scales = scales.isel(time=0, drop=True) if "time" in scales.dims else scales
    return scales if f"{name}_band" in scales.dims else scales.expand_dims("scale_band")


def feature_names(cube: xr.Dataset) -> list[str]:
    """Names of the bands of all layers, ``<input>_<band>``, in the order of the cube."""
    return [
        f"{name}_{band}" if band else name
        for name in coded_layers(cube)
        for band in band_names(cube, name)
    ]


def band_names(cube: xr.Dataset, name: str) -> tuple[str, ...]:
    """Names of a layer's bands; one empty name for a layer without a band dimension."""
    band_dim = f"{name}_band"
    if band_dim not in cube[name].dims:
        return ("",)
    return tuple(str(band) for band in cube[name][band_dim].values)


def coded_layers(cube: xr.Dataset) -> list[str]:
    """Names of the layers that hold codes, in the order of the cube."""
    return [str(name) for name, v in cube.data_vars.items() if "decoder" in v.attrs]


def only_inputs(cube: xr.Dataset, inputs: Sequence[str]) -> xr.Dataset:
    """The cube with the layers of some of its inputs, in its own order."""
    owners = {name: cube[name].attrs.get("input", name) for name in coded_layers(cube)}
    names = (str(name) for name in cube.data_vars)
    return cube[[n for n in names if owners.get(n.removesuffix("_scale"), n) in inputs]]


def image(cube: xr.Dataset) -> xr.DataArray:
    """All decoded bands of one date as one image, for models on pixels; lazy.

    Returns
    -------
    xarray.DataArray
        float32, dims ``(band, y, x)``, NaN where a pixel is invalid; ``band`` as
        :func:`feature_names`, and a coordinate ``layer`` that names the layer of each. Covers the
        cube's halo.
    """
    decoded = decode(cube)
    parts = [
        layer_codes(decoded, name).rename({f"{name}_band": "band"}).drop_vars("band")
        for name in coded_layers(cube)
    ]
    joined = xr.concat(parts, dim="band", coords="minimal", compat="override", join="exact")
    owners = [name for name in coded_layers(cube) for _ in band_names(cube, name)]
    joined = joined.assign_coords(band=feature_names(cube), layer=("band", owners))
    return joined.chunk(band=-1).assign_attrs(cube.attrs | identity_attrs(cube))


def identity_attrs(cube: xr.Dataset) -> dict[str, Any]:
    """Attributes that features and maps carry on: grid, products (a JSON list) and synthetic.

    A layer without a product is ``raster/<name>``: two of them never meet in one feature space.
    """
    layers = [cube[name].attrs for name in coded_layers(cube)]
    products = [
        attrs.get("product") or f"raster/{name}"
        for name, attrs in zip(coded_layers(cube), layers, strict=True)
    ]
    return {
        GRID_ATTR: grid_of(cube).to_json(),
        "products": json.dumps(products),
        "synthetic": int(any(attrs["synthetic"] for attrs in layers)),
    }


def _with_presence(dataset: xr.Dataset, present: bool) -> xr.Dataset:
    coded = {str(name): v for name, v in dataset.data_vars.items() if "decoder" in v.attrs}
    return dataset.assign({k: v.assign_attrs(present=int(present)) for k, v in coded.items()})


def _require_same_years(layers: Mapping[str, xr.Dataset]) -> None:
    years = {
        name: [str(t)[:10] for t in dataset["time"].values]
        for name, dataset in layers.items()
        if "time" in dataset.dims
    }
    first = next(iter(years), None)
    for name, dates in years.items():
        if first is not None and dates != years[first]:
            raise CatalogError(
                f"layers {first!r} ({', '.join(years[first])}) and {name!r} ({', '.join(dates)}) "
                "do not meet on the same dates; name the year (year = ...), or open them apart."
            )


def _decode_variable(variable: xr.DataArray, scales: xr.DataArray | None) -> xr.DataArray:
    coding = Coding.from_attrs(variable.attrs)
    band_dim = f"{variable.name}_band"
    blocks = [_with_bands(variable, band_dim)]
    if scales is not None:
        blocks.append(_with_bands(scales, band_dim))
    if hasattr(blocks[0], "dask"):
        values = da.map_blocks(
            coding.decode, *blocks, dtype=np.float32, chunks=blocks[0].chunks, meta=_EMPTY
        )
    else:
        values = coding.decode(*blocks)
    if band_dim not in variable.dims:
        values = values[..., 0, :, :]
    kept = {k: v for k, v in variable.attrs.items() if k not in ("nodata", "scale", "offset")}
    return variable.copy(data=values).assign_attrs(kept)


def _with_bands(variable: xr.DataArray, band_dim: str) -> Any:
    data = variable.data
    return data if band_dim in variable.dims else data[..., None, :, :]
