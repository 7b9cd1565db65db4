"""Layers: what a catalog holds of one input, opened on the pixels and dates that are wanted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC
from typing import Any, Literal, NoReturn

import dask.array as da
import numpy as np
import numpy.typing as npt
import pystac
import xarray as xr
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords

from lczcube.catalog import Catalog, Layer
from lczcube.decoders import Coding
from lczcube.engines import LOADERS
from lczcube.errors import CatalogError
from lczcube.grid import BBox, Grid, bbox_of, project_bbox
from lczcube.lcz import NODATA
from lczcube.mosaic import Averaged, Mosaic, mosaic_array, require_covered
from lczcube.quantities import (
    AVERAGING,
    BUILDING_PRESENCE,
    Quantity,
    band_quantities,
    buildings,
    canopy,
    on_stored,
)
from lczcube.reader import Storage
from lczcube.sources.open_buildings_pixels import BUILDING_BANDS
from lczcube.tiles import LCZ_BAND, PlacedTile, mask_of, pixels_asset, place_tiles, tile_of

LCZ_CODES = "lcz_codes"
"""Decoder of maps of zones: it is applied when pixels are read, whatever a file's own codes."""

FOOTPRINT = "footprint"
"""The rule of validity by which codes outside a tile's footprint mean nothing."""

SCALES = "scales"
CLASSES = "classification:classes"

Engine = Literal["native", "odc", "stackstac"]


@dataclass(frozen=True)
class Wanted:
    """Pixels and dates that a cube is opened on.

    Attributes
    ----------
    grid : Grid
        Its pixels,
    halo : int
        and so many past it on each side.
    when : str or None
        Dates, as in pystac-client; None for all.
    """

    grid: Grid
    halo: int
    when: str | None

    @property
    def frame(self) -> GeoBox:
        """The pixels."""
        return self.grid.read_geobox(self.halo)

    @property
    def bbox(self) -> BBox:
        """Their bbox, EPSG:4326."""
        return project_bbox(bbox_of(self.frame), self.grid.crs, "EPSG:4326")

    @property
    def chunks(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Rows and columns of their chunks."""
        return chunks_of(self.grid, self.halo)


def find_items(
    catalog: Catalog, wanted: Wanted, name: str, nearest: int | None
) -> list[pystac.Item]:
    """Items of an input on the wanted pixels and dates; else, if asked for, of the nearest year."""
    when = None if catalog.layer(name).static else wanted.when
    items = catalog.items(name, bbox=wanted.bbox, datetime=when)
    if items or nearest is None:
        return items
    everything = catalog.items(name, bbox=wanted.bbox)
    if not everything:
        return []
    years = sorted({year_of(item) for item in everything}, key=lambda y: (abs(y - nearest), y))
    return [item for item in everything if year_of(item) == years[0]]


def open_layer(
    layer: Layer, items: Sequence[pystac.Item], wanted: Wanted, engine: Engine
) -> xr.Dataset:
    """A layer as variables on the wanted pixels: its codes and, where they want them, scales; lazy.

    Raises
    ------
    CatalogError
        If the items disagree on bands, the rule of resampling would average codes, whole numbers
        without a nodata code do not cover the pixels, or another engine is to read codes of zones.
    """
    name = layer.name
    bands = _common_bands(items, name)
    _require_nodata_code(layer, items, bands)
    by_date = _by_date(items, layer)
    quantities = quantities_of(layer, _names(bands))
    mosaics = [_mosaic(layer, part, bands, wanted) for part in by_date.values()]
    if quantities:
        variables = _quantity_variables(mosaics, layer, quantities)
    else:
        _require_resampling(layer, str(bands[0]["data_type"]))
        variables = _code_variables(mosaics, layer)
        is_drawn = any(placed.tile.kind == "features" for placed in mosaics[0].tiles)
        if engine != "native" and not is_drawn:
            _require_plain(layer, items, engine)
            _load_by(engine, variables[name], list(by_date.values()), mosaics[0], _names(bands))
    if CLASSES in bands[0] and name in variables:
        variables[name].attrs |= _flags(bands[0][CLASSES])
    has_bands = any(f"{name}_band" in variable.dims for variable in variables.values())
    coordinates = _coordinates(wanted, name, bands if has_bands else ())
    if not layer.static:
        coordinates["time"] = _times([date for date in by_date if date is not None])
        for variable in variables.values():
            variable.attrs |= _year_used(coordinates["time"], wanted)
    return xr.Dataset(variables, coords=coordinates)


def quantities_of(layer: Layer, bands: Sequence[str]) -> dict[str, Quantity]:
    """What a layer of heights becomes, by variable; empty for a layer that stays as it is stored.

    Canopy heights become the mean height over the canopy and its share of the ground, Open
    Buildings (by the names of its bands) the height weighted by presence, the share and the count.
    """
    if layer.layer == "canopy" and len(bands) == 1:
        found = canopy(from_overviews=layer.overviews)
    elif layer.layer == "buildings" and set(BUILDING_BANDS) <= set(bands):
        found = buildings(bands, min_presence=layer.presence_threshold or BUILDING_PRESENCE)
    else:
        return {}
    return {f"{layer.name}_{key.partition('_')[2]}": found[key] for key in found}


def absent_layer(catalog: Catalog, name: str, wanted: Wanted) -> xr.Dataset:
    """A layer that has no tile here: a variable as it would be, without a valid pixel."""
    layer, elsewhere = catalog.layer(name), catalog.items(name)
    if not elsewhere:
        raise_no_items(catalog, name, wanted)
    bands = _common_bands(elsewhere, name)
    quantities = quantities_of(layer, _names(bands))
    sizes = dict.fromkeys(quantities, 1) or {name: len(bands)}
    variables = {}
    for variable, n_bands in sizes.items():
        shape = (n_bands, *wanted.frame.shape)
        values = da.full(shape, np.nan, dtype=np.float32, chunks=((n_bands,), *wanted.chunks))
        attrs = _plain_coding(n_bands).to_attrs() | _layer_attrs(layer) | {"needed": 0}
        dims = (f"{name}_band", "y", "x")
        variables[variable] = (
            xr.Variable(dims[1:], values[0], attrs)
            if quantities
            else xr.Variable(dims, values, attrs)
        )
    return xr.Dataset(variables, coords=_coordinates(wanted, name, () if quantities else bands))


def year_of(item: pystac.Item) -> int:
    """The year that an item counts for: of its datetime, else of its start."""
    return int(str(_instant(item))[:4])


def raise_no_items(catalog: Catalog, name: str, wanted: Wanted) -> NoReturn:
    """Raise a CatalogError that names the layer, the place, the date, and the dates there are."""
    items = catalog.items(name)
    dates = sorted({_date(item) for item in items})
    grid = wanted.grid
    held = f"it has dates {', '.join(dates)}" if dates else "it has none anywhere"
    if catalog.layer(name).static and items:
        held = f"its {len(items)} lie elsewhere, and meet every year"
    raise CatalogError(
        f"layer {name!r} has no item on this grid ({grid.crs}, bbox {_rounded(grid.bbox)})"
        f"{f' at {wanted.when}' if wanted.when else ''}; {held}. Check the bbox and the year, add "
        'the missing input, or say how to do without: missing = "drop_layer" or "indicator".'
    )


def chunks_of(grid: Grid, halo_px: int = 0) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Rows and columns of the chunks of a cube: whole cells, the halo with the outermost."""
    rows, columns = grid.shape
    side = grid.chunk_px
    return _chunks_along(rows, side, halo_px), _chunks_along(columns, side, halo_px)


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
    return tile_of(items[0]).geobox


def _coordinates(wanted: Wanted, name: str, bands: Sequence[dict[str, Any]]) -> dict[str, Any]:
    coordinates: dict[str, Any] = {str(k): axis for k, axis in xr_coords(wanted.frame).items()}
    if bands:
        coordinates[f"{name}_band"] = _names(bands)
    return coordinates


def _names(bands: Sequence[dict[str, Any]]) -> list[str]:
    return [str(band["name"]) for band in bands]


def _times(dates: Sequence[np.datetime64]) -> npt.NDArray[np.datetime64]:
    """Dates of a layer, each the start of its year where it is the only one of the year.

    So layers of one year meet whatever their day.
    """
    times = np.array(dates, dtype="datetime64[ns]")
    years = times.astype("datetime64[Y]")
    return years.astype("datetime64[ns]") if len(np.unique(years)) == len(years) else times


def _year_used(times: npt.NDArray[np.datetime64], wanted: Wanted) -> dict[str, int]:
    years = np.unique(times.astype("datetime64[Y]").astype(int) + 1970)
    asked = wanted.when
    return (
        {}
        if asked is None or len(years) > 1 or asked == str(years[0])
        else {"year_used": int(years[0])}
    )


def _by_date(
    items: Sequence[pystac.Item], layer: Layer
) -> dict[np.datetime64 | None, list[pystac.Item]]:
    """Items of each date, in order of date; all together for a layer without dates."""
    dates = [None if layer.static else _instant(item) for item in items]
    return {
        date: [item for item, its in zip(items, dates, strict=True) if its == date]
        for date in sorted(set(dates), key=str)
    }


def _instant(item: pystac.Item) -> np.datetime64:
    when = item.datetime or item.common_metadata.start_datetime
    return np.datetime64(when.astimezone(UTC).replace(tzinfo=None), "ns")  # type: ignore[union-attr]


def _mosaic(
    layer: Layer,
    items: Sequence[pystac.Item],
    bands: Sequence[dict[str, Any]],
    wanted: Wanted,
) -> Mosaic:
    frame = wanted.frame
    coding = _coding(layer, bands)
    scales = place_tiles([tile_of(i, SCALES) for i in items], frame) if coding.has_scales else []
    bounded = layer.valid == FOOTPRINT
    stored_tiles = [replace(tile_of(item), is_bounded=bounded) for item in items]
    tiles = tuple(place_tiles(stored_tiles, frame))
    stored = Storage(
        str(bands[0]["data_type"]), len(bands), bands[0].get("nodata"), layer.resampling
    )
    averaged = _averaged(layer, tiles, stored, _names(bands), coding)
    if averaged is not None:
        coding = replace(coding, nodata=None if stored.resampling != "mode" else coding.nodata)
    mosaic = Mosaic(
        name=layer.name,
        tiles=tiles,
        scale_tiles=tuple(scales),
        frame=frame,
        storage=stored if averaged is None else _storage_of(averaged),
        coding=coding,
        chunks=wanted.chunks,
        averaged=averaged,
    )
    require_covered(mosaic)
    return mosaic


def _averaged(
    layer: Layer,
    tiles: Sequence[PlacedTile],
    stored: Storage,
    bands: Sequence[str],
    coding: Coding,
) -> Averaged | None:
    """What to average: the quantities of heights, or all bands where a tile is off the lattice."""
    quantities = quantities_of(layer, bands).values()
    if quantities:
        given = coding.scale, coding.offset
        stored_quantities = tuple(on_stored(q, *given, layer=layer.name) for q in quantities)
        return Averaged(stored, stored_quantities, layer.overviews)
    if stored.resampling in AVERAGING and not all(placed.on_lattice for placed in tiles):
        return Averaged(stored, band_quantities(stored))
    return None


def _storage_of(averaged: Averaged) -> Storage:
    """How quantities are held: float32 with NaN, or codes of which the commonest is taken."""
    if averaged.quantities[0].rule == "mode":
        return averaged.stored
    return Storage("float32", len(averaged.quantities), None)


def _code_variables(mosaics: Sequence[Mosaic], layer: Layer) -> dict[str, xr.Variable]:
    variables = {layer.name: _variable(mosaics, layer)}
    if mosaics[0].coding.has_scales:
        scales = [mosaic.of_scales() for mosaic in mosaics]
        variables[f"{layer.name}_scale"] = _scale_variable(scales, layer)
    return variables


def _quantity_variables(
    mosaics: Sequence[Mosaic], layer: Layer, quantities: Mapping[str, Quantity]
) -> dict[str, xr.Variable]:
    """A variable ``(time, y, x)`` or ``(y, x)`` a quantity, all cut from one array.

    A height is NaN where there is nothing of a height: that makes no pixel invalid, and a window
    without any has the height 0.
    """
    joined = _variable(mosaics, layer)
    plain = _plain_coding(1).to_attrs()
    variables = {}
    for position, (name, quantity) in enumerate(quantities.items()):
        is_height = quantity.rule in ("mean_where_at_least", "weighted_mean")
        attrs = joined.attrs | plain | ({"needed": 0, "empty": 0.0} if is_height else {})
        attrs.pop("nodata", None)
        part = joined.isel({f"{layer.name}_band": position})
        variables[name] = xr.Variable(part.dims, part.data, attrs)
    return variables


def _plain_coding(n_bands: int) -> Coding:
    return Coding("linear", "nodata", None, (1.0,) * n_bands, (0.0,) * n_bands)


def _load_by(
    engine: Engine,
    variable: xr.Variable,
    by_date: Sequence[Sequence[pystac.Item]],
    mosaic: Mosaic,
    bands: Sequence[str],
) -> None:
    codes = LOADERS[engine](by_date, mosaic.storage, bands, mosaic.frame, mosaic.chunks)
    variable.data = codes.data.reshape(variable.shape)
    variable.attrs["engine"] = engine


def _variable(mosaics: Sequence[Mosaic], layer: Layer) -> xr.Variable:
    leading = [] if layer.static else ["time"]
    is_flat = layer.static and mosaics[0].storage.n_bands == 1
    leading += [] if is_flat else ["band"]
    data = mosaic_array(mosaics, (*leading, "y", "x"))
    dims = [f"{layer.name}_band" if dim == "band" else dim for dim in (*leading, "y", "x")]
    counts = {
        "n_tiles": sum(len(mosaic.tiles) for mosaic in mosaics),
        "covered_share": round(min(mosaic.covered_share for mosaic in mosaics), 6),
        "engine": "native",
    }
    return xr.Variable(dims, data, mosaics[0].coding.to_attrs() | _layer_attrs(layer) | counts)


def _scale_variable(mosaics: Sequence[Mosaic], layer: Layer) -> xr.Variable:
    """Scales of codes, ``(time, y, x)`` or, one a band, ``(time, <name>_band, y, x)``."""
    leading = [] if layer.static else ["time"]
    leading += [] if mosaics[0].storage.n_bands == 1 else ["band"]
    data = mosaic_array(mosaics, (*leading, "y", "x"))
    dims = [f"{layer.name}_band" if dim == "band" else dim for dim in (*leading, "y", "x")]
    return xr.Variable(dims, data, {"long_name": f"Scale of the codes of {layer.name}"})


def _flags(classes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """CF attributes of codes that are categories."""
    return {
        "flag_values": [int(known["value"]) for known in classes],
        "flag_meanings": " ".join(str(known["name"]) for known in classes),
    }


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
    """What is read: the bands as they are stored, or the one of a map as zones."""
    fields = pixels_asset(item).extra_fields
    if LCZ_BAND in fields:
        return [{"name": "lcz", "data_type": "uint8", "nodata": NODATA}]
    keys = ("name", "data_type", "nodata", "raster:scale", "raster:offset", CLASSES)
    bands = fields["bands"]
    return [{key: band[key] for key in keys if band.get(key) is not None} for band in bands]


def _require_resampling(layer: Layer, dtype: str) -> None:
    if layer.resampling in ("average", "sum") and np.dtype(dtype).kind != "f":
        raise CatalogError(
            f"layer {layer.name!r} holds {dtype} codes and asks for resampling "
            f"{layer.resampling!r}, which would average codes. Use nearest or mode."
        )


def _hides_codes(layer: Layer, items: Sequence[pystac.Item]) -> bool:
    return layer.valid == FOOTPRINT or any(mask_of(item) for item in items)


def _require_nodata_code(
    layer: Layer, items: Sequence[pystac.Item], bands: Sequence[dict[str, Any]]
) -> None:
    """Raise where pixels are to be hidden and whole numbers have no code that says so."""
    dtype = np.dtype(str(bands[0]["data_type"]))
    if dtype.kind != "f" and bands[0].get("nodata") is None and _hides_codes(layer, items):
        raise CatalogError(
            f"layer {layer.name!r} holds {dtype} codes without a nodata code, and masks or "
            "footprints that say where it has none. Set nodata in its [[input]]."
        )


def _require_plain(layer: Layer, items: Sequence[pystac.Item], engine: Engine) -> None:
    """Raise where an engine would give other codes than are read: hidden ones, or no zones."""
    if layer.decoder == LCZ_CODES:
        raise CatalogError(
            f"layer {layer.name!r} is a map whose codes become zones when they are read, and the "
            f"engine {engine!r} gives codes as they are stored. Use the engine 'native'."
        )
    if _hides_codes(layer, items):
        raise CatalogError(
            f"layer {layer.name!r} has masks or footprints that say where it is valid, which "
            f'engine {engine!r} does not look at; use engine = "native".'
        )


def _chunks_along(n_px: int, chunk_px: int, halo: int) -> tuple[int, ...]:
    chunks = [min(chunk_px, n_px - start) for start in range(0, n_px, chunk_px)]
    chunks[0] += halo
    chunks[-1] += halo
    return tuple(chunks)


def _coding(layer: Layer, bands: Sequence[dict[str, Any]]) -> Coding:
    return Coding(
        decoder="linear" if layer.decoder == LCZ_CODES else layer.decoder,
        # The reader writes nodata outside footprints.
        valid="nodata" if layer.valid == FOOTPRINT else layer.valid,
        nodata=bands[0].get("nodata"),
        scale=tuple(float(band.get("raster:scale", 1)) for band in bands),
        offset=tuple(float(band.get("raster:offset", 0)) for band in bands),
    )


def _layer_attrs(layer: Layer) -> dict[str, Any]:
    facts = {
        "input": layer.name,
        "layer": layer.layer,
        "product": layer.product,
        "resampling": layer.resampling,
        "license": layer.license,
        "license_note": layer.license_note,
        "ai_derived": int(layer.ai_derived),
        "synthetic": int(layer.synthetic),
        "presence_threshold": layer.presence_threshold,
        "overviews": 1 if layer.overviews else None,
    }
    return {key: value for key, value in facts.items() if value is not None}
