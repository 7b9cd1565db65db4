"""The cube: every layer of a city on one Grid, lazy, as stored codes.

``open_cube`` builds the graph and reads no pixel; ``decode`` turns codes into values, lazily.
"""

import json
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import odc.stac
import pystac
import xarray as xr
from affine import Affine
from odc.geo import CRS, wh_
from odc.geo.geobox import GeoBox

from lczcube.catalog import Catalog, Layer
from lczcube.decoders import Coding
from lczcube.errors import CatalogError, GridMismatchError
from lczcube.grid import BBox, Grid, bbox_of, project_bbox

# rasterio silences this for its own in-memory targets with warnings.catch_warnings, which is not
# thread-safe: with several threads it leaks, and says nothing of the user's files.
warnings.filterwarnings("ignore", message="Dataset has no geotransform")

GRID_ATTR = "lczcube_grid"
HALO_ATTR = "lczcube_halo_px"
ASSET = "data"


def open_cube(
    catalog: Catalog,
    grid: Grid,
    *,
    inputs: Sequence[str],
    year: int | None = None,
    datetime: str | None = None,
    halo_px: int | None = None,
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

    Returns
    -------
    xarray.Dataset
        One variable per input, dims ``(time, <name>_band, y, x)``; ``(y, x)`` for a static layer
        of one band. Stored codes in their stored dtype; decoder, validity, product and licence in
        the attributes. Dask chunks of whole cells. ``attrs`` hold the grid and the halo.

    Raises
    ------
    CatalogError
        If an input is unknown, has no item on this grid and date, or its items disagree on bands.

    Notes
    -----
    Where tiles overlap, a pixel is taken from the first item in order of id that has data there.
    """
    if not inputs:
        raise CatalogError(f"no inputs named; the catalog has {', '.join(catalog.collection_ids)}.")
    if year is not None and datetime is not None:
        raise CatalogError(f"year = {year} and datetime = {datetime!r} are both given; give one.")
    when = str(year) if year is not None else datetime
    halo = grid.halo_px if halo_px is None else halo_px
    layers = {name: _open_layer(catalog, grid, name, when, halo) for name in inputs}
    cube = xr.merge(layers.values(), join="exact", compat="equals", combine_attrs="override")
    return cube.assign_attrs({GRID_ATTR: grid.to_json(), HALO_ATTR: halo})


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
        The same variables, dims and chunks, float32. Variables without a decoder stay as they are.
    """
    decoded = {
        name: _decode_variable(variable) if "decoder" in variable.attrs else variable
        for name, variable in cube.data_vars.items()
    }
    return xr.Dataset(decoded, attrs=cube.attrs)


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


def feature_names(cube: xr.Dataset) -> list[str]:
    """Names of the bands of all layers, ``<input>_<band>``, in the order of the cube."""
    return [
        f"{name}_{band}"
        for name in coded_layers(cube)
        for band in layer_codes(cube, name)[f"{name}_band"].values.tolist()
    ]


def coded_layers(cube: xr.Dataset) -> list[str]:
    """Names of the layers that hold codes, in the order of the cube."""
    return [str(name) for name, v in cube.data_vars.items() if "decoder" in v.attrs]


def image(cube: xr.Dataset) -> xr.DataArray:
    """All decoded bands of one date as one image, for models on pixels; lazy.

    Returns
    -------
    xarray.DataArray
        float32, dims ``(band, y, x)``, NaN where a pixel is invalid; ``band`` as
        :func:`feature_names`. Covers the cube's halo.
    """
    decoded = decode(cube)
    parts = [
        layer_codes(decoded, name).rename({f"{name}_band": "band"}).drop_vars("band")
        for name in coded_layers(cube)
    ]
    joined = xr.concat(parts, dim="band", coords="minimal", compat="override", join="exact")
    joined = joined.assign_coords(band=feature_names(cube))
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


def layer_geobox(catalog: Catalog, name: str, *, bbox: BBox) -> GeoBox:
    """Pixels of the first item of a layer in a bbox, as stored: an anchor for a grid.

    Parameters
    ----------
    catalog : Catalog
        Where the layer is.
    name : str
        Its collection.
    bbox : tuple of float
        ``(minx, miny, maxx, maxy)``, EPSG:4326.

    Raises
    ------
    CatalogError
        If the layer has no item there.
    """
    items = catalog.items(name, bbox=bbox)
    if not items:
        raise CatalogError(
            f"layer {name!r}, the anchor, has no item in bbox {bbox} (EPSG:4326); "
            "check the city's bbox."
        )
    properties = items[0].properties
    crs = properties.get("proj:code") or properties["proj:wkt2"]
    rows, columns = properties["proj:shape"]
    return GeoBox(wh_(columns, rows), Affine(*properties["proj:transform"][:6]), CRS(crs))


def _open_layer(catalog: Catalog, grid: Grid, name: str, when: str | None, halo: int) -> xr.Dataset:
    layer = catalog.layer(name)
    geobox = grid.read_geobox(halo)
    bbox = project_bbox(bbox_of(geobox), grid.crs, "EPSG:4326")
    items = catalog.items(name, bbox=bbox, datetime=None if layer.static else when)
    if not items:
        _raise_no_items(catalog, name, grid, when)
    bands = _common_bands(items, name)
    dtype = str(bands[0]["data_type"])
    _require_resampling(layer, dtype)
    loaded = odc.stac.load(
        items,
        bands=[ASSET],
        geobox=geobox,
        chunks={"x": grid.chunk_px, "y": grid.chunk_px},
        groupby="time",
        resampling=layer.resampling,
        stac_cfg={name: _load_settings(bands, dtype)},
    )
    variable = (
        loaded[ASSET] if "band" in loaded[ASSET].dims else loaded[ASSET].expand_dims("band", 1)
    )
    variable = variable.rename(band=f"{name}_band").assign_coords(
        {f"{name}_band": [band["name"] for band in bands]}
    )
    if layer.static:
        variable = variable.isel(time=0, drop=True)
        if len(bands) == 1:
            variable = variable.isel({f"{name}_band": 0}, drop=True)
    variable = variable.chunk(_chunks(grid, halo))
    return variable.rename(name).assign_attrs(_layer_attrs(layer, bands)).to_dataset()


def _raise_no_items(catalog: Catalog, name: str, grid: Grid, when: str | None) -> None:
    dates = sorted({_date(item) for item in catalog.items(name)})
    raise CatalogError(
        f"layer {name!r} has no item on this grid ({grid.crs}, bbox {_rounded(grid.bbox)})"
        f"{f' at {when}' if when else ''}; it has dates {', '.join(dates) or 'none'}. "
        "Check the bbox and the year, or add the missing input."
    )


def _date(item: pystac.Item) -> str:
    return str(item.datetime or item.properties.get("start_datetime"))[:10]


def _rounded(bbox: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{v:.0f}" for v in bbox) + ")"


def _common_bands(items: Sequence[pystac.Item], name: str) -> list[dict[str, Any]]:
    first = _bands(items[0])
    for item in items[1:]:
        if _bands(item) != first:
            raise CatalogError(
                f"items {items[0].id!r} and {item.id!r} of layer {name!r} differ in band names, "
                "dtype, nodata or scale; one layer has one set of bands. Give them two inputs."
            )
    return first


def _bands(item: pystac.Item) -> list[dict[str, Any]]:
    keys = ("name", "data_type", "nodata", "raster:scale", "raster:offset")
    bands = item.assets[ASSET].extra_fields["bands"]
    return [{key: band[key] for key in keys if band.get(key) is not None} for band in bands]


def _require_resampling(layer: Layer, dtype: str) -> None:
    if layer.resampling in ("average", "sum") and np.dtype(dtype).kind != "f":
        raise CatalogError(
            f"layer {layer.name!r} holds {dtype} codes and asks for resampling "
            f"{layer.resampling!r}, which would average codes. Use nearest or mode."
        )


def _load_settings(bands: Sequence[dict[str, Any]], dtype: str) -> dict[str, Any]:
    asset: dict[str, Any] = {"data_type": dtype, "nodata": bands[0].get("nodata")}
    if len(bands) == 1:
        return {"assets": {ASSET: asset}}
    return {
        "dims": {"band": len(bands)},
        "coords": {"band": [band["name"] for band in bands]},
        "assets": {ASSET: asset | {"dims": ["band", "y", "x"]}},
    }


def _chunks(grid: Grid, halo: int) -> dict[str, tuple[int, ...]]:
    rows, columns = grid.shape
    return {
        "y": _chunks_along(rows, grid.chunk_px, halo),
        "x": _chunks_along(columns, grid.chunk_px, halo),
    }


def _chunks_along(n_px: int, chunk_px: int, halo: int) -> tuple[int, ...]:
    chunks = [min(chunk_px, n_px - start) for start in range(0, n_px, chunk_px)]
    chunks[0] += halo
    chunks[-1] += halo
    return tuple(chunks)


def _layer_attrs(layer: Layer, bands: Sequence[dict[str, Any]]) -> dict[str, Any]:
    coding = Coding(
        decoder=layer.decoder,
        valid=layer.valid,
        nodata=bands[0].get("nodata"),
        scale=tuple(float(band.get("raster:scale", 1)) for band in bands),
        offset=tuple(float(band.get("raster:offset", 0)) for band in bands),
    )
    facts = {
        "layer": layer.layer,
        "product": layer.product,
        "resampling": layer.resampling,
        "license": layer.license,
        "license_note": layer.license_note,
        "ai_derived": int(layer.ai_derived),
        "synthetic": int(layer.synthetic),
    }
    return coding.to_attrs() | {key: value for key, value in facts.items() if value is not None}


def _decode_variable(variable: xr.DataArray) -> xr.DataArray:
    coding = Coding.from_attrs(variable.attrs)
    squeezed = f"{variable.name}_band" not in variable.dims
    codes = variable.data[..., None, :, :] if squeezed else variable.data
    values = (
        codes.map_blocks(coding.decode, dtype=np.float32)
        if hasattr(codes, "dask")
        else (coding.decode(codes))
    )
    values = values[..., 0, :, :] if squeezed else values
    kept = {k: v for k, v in variable.attrs.items() if k not in ("nodata", "scale", "offset")}
    return variable.copy(data=values).assign_attrs(kept)
