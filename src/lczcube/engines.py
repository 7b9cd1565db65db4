"""Other engines: layers read by odc-stac or stackstac in place of :mod:`lczcube.mosaic`.

They share none of its reading code, so that each checks the other, and serve who knows one of the
two libraries. On one grid all engines give the same codes, but for what the functions below name.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC
from types import ModuleType
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import pystac
import xarray as xr
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from odc.loader import RasterLoadParams, RasterSource, RioDriver, RioReader
from odc.loader.types import GlobalLoadContext, LocalLoadContext, ReaderSubsetSelection

from lczcube.errors import CatalogError, MissingExtraError
from lczcube.grid import bbox_of, project_bbox
from lczcube.reader import Storage
from lczcube.tiles import PlacedTile, place_tiles, tile_of

ASSET = "data"
DIMS = ("time", "band", "y", "x")

_STACKSTAC_OPTIONS = {
    "assets": [ASSET],
    "snap_bounds": False,
    "xy_coords": "center",
    "rescale": False,
    "sortby_date": False,
    "properties": False,
    "band_coords": False,
}

Chunks = tuple[tuple[int, ...], tuple[int, ...]]


def load_odc(
    by_date: Sequence[Sequence[pystac.Item]],
    storage: Storage,
    bands: Sequence[str],
    frame: GeoBox,
    chunks: Chunks,
) -> xr.DataArray:
    """Codes of a layer by odc-stac, lazily; all bands of a file are one variable and one read.

    Parameters
    ----------
    by_date : sequence of sequence of pystac.Item
        Items of one layer for each date, in order of date; one entry for a layer without dates.
    storage : Storage
        How the codes are stored; the same in all items.
    bands : sequence of str
        Names of the bands, in the order of the file.
    frame : odc.geo.geobox.GeoBox
        Pixels to give, north-up.
    chunks : tuple
        Rows and columns of the chunks.

    Returns
    -------
    xarray.DataArray
        Stored dtype, dims ``(time, band, y, x)``, the library's own coordinates. Dask chunks as
        asked, one a date. ``attrs`` hold ``nodata`` where there is one.

    Raises
    ------
    CatalogError
        If a file is not one that GDAL opens.

    Notes
    -----
    Where tiles overlap, the first that holds another code than nodata wins, band by band, in our
    order of tiles. Footprints are not looked at, and a pixel may take its bands from two tiles:
    where tiles differ in their overlap, so do the engines. A code of 0 of whole numbers without
    nodata counts as missing there.

    Tiles of the frame's own lattice come out the same to the bit. Under ``nearest`` a pixel whose
    centre lies within about an eighth of a pixel of the edge of a stored pixel may take the
    neighbour's code, GDAL's tolerance for a warp (0.05 % of WorldCover onto 10 m, 0.7 % of a map
    1.6 degrees wide onto 100 m), and a tile that is off by exactly half a pixel is pasted one
    pixel beside where GDAL puts it. Under ``average`` pixels that a tile covers in part, but not
    at their centre, have a value. Files beside a file (``.tfw``, ``.aux.xml``) are not looked for.

    A chunk is read on its own: blocks that several chunks cut are decoded several times, and a
    south-up file is warped. While rasterio warps in several threads it may leave the process's
    warning filters changed (see :class:`CodesDriver`).
    """
    import odc.stac

    _require_gdal(by_date, "odc")
    placed = [place_tiles([tile_of(item) for item in items], frame) for items in by_date]
    ordered = [
        _in_order_of_ownership(items, tiles) for items, tiles in zip(by_date, placed, strict=True)
    ]
    date_of = [date for date, items in enumerate(ordered) for _ in items]
    loaded = odc.stac.load(
        [item for items in ordered for item in items],
        bands=[ASSET],
        geobox=frame,
        chunks={"y": max(chunks[0]), "x": max(chunks[1])},
        groupby=lambda _item, _parsed, position: date_of[position],
        preserve_original_order=True,
        resampling=_rule([tile for tiles in placed for tile in tiles], storage),
        # An overview holds other codes than those stored; averaged ones, for all we know.
        use_overviews=False,
        driver=CodesDriver(),
        stac_cfg={"*": _odc_settings(storage, bands)},
    )[ASSET]
    if storage.n_bands == 1:
        loaded = loaded.expand_dims("band")
    loaded = loaded.assign_coords(band=list(bands)).transpose(*DIMS)
    loaded = loaded.chunk({"y": chunks[0], "x": chunks[1]})
    loaded.attrs = _nodata_attr(storage)
    return loaded


def load_stackstac(
    by_date: Sequence[Sequence[pystac.Item]],
    storage: Storage,
    bands: Sequence[str],
    frame: GeoBox,
    chunks: Chunks,
) -> xr.DataArray:
    """Codes of a layer of one band by stackstac, lazily.

    Parameters and result as of :func:`load_odc`. Needs the extra ``stackstac``.

    Raises
    ------
    CatalogError
        If the layer has several bands, a file is not one that GDAL opens, or the CRS of the frame
        has no EPSG code.
    MissingExtraError
        If stackstac is not installed.

    Notes
    -----
    Where tiles overlap, the first that holds another code than nodata wins, as in :func:`load_odc`.
    Every tile is warped by GDAL's VRT, one of the frame's lattice without a change, another with
    the tolerance named there. A pixel that the file itself calls nodata is missing, also where the
    catalog names another code.
    """
    _require_one_band(by_date, storage)
    _require_gdal(by_date, "stackstac")
    stackstac = _import_stackstac()
    arrays = [_stackstac_date(stackstac, items, storage, frame, chunks) for items in by_date]
    loaded = xr.concat(arrays, dim="time", join="exact", coords="minimal", compat="override")
    loaded = loaded.assign_coords(band=list(bands)).transpose(*DIMS)
    loaded.attrs = _nodata_attr(storage)
    return loaded


LOADERS: Mapping[str, Callable[..., xr.DataArray]] = {
    "odc": load_odc,
    "stackstac": load_stackstac,
}
"""Engines by name."""


class CodesDriver(RioDriver):
    """odc-loader's rasterio driver for stored codes: its reads, two of its habits corrected.

    The nodata of the catalog replaces that of the file; odc-loader prefers the file's. And
    "Dataset has no geotransform" is not shown: rasterio says it of the in-memory target of a warp
    and hides it with ``warnings.catch_warnings``, which is not thread-safe, so that it leaks from
    Dask's threads (https://github.com/opendatacube/odc-geo/issues/131) and says nothing of the
    user's files. The filter is set in the task, where it also holds in worker processes, and only
    for ``rasterio.warp``. What cannot be mended here: the same race may leave rasterio's own
    "ignore everything" behind (21 of 40 runs of 100 warps in two threads).
    """

    @contextmanager
    def restore_env(
        self, env: dict[str, Any], load_state: GlobalLoadContext
    ) -> Iterator[LocalLoadContext]:
        """As in odc-loader; a task reads within it."""
        warnings.filterwarnings(
            "ignore", message="Dataset has no geotransform", module=r"rasterio\.warp"
        )
        with super().restore_env(env, load_state) as context:
            yield context

    def open(self, src: RasterSource, ctx: LocalLoadContext) -> "_CodesReader":
        """A reader of one file."""
        return _CodesReader(src, ctx)


class _CodesReader(RioReader):
    def read(
        self,
        cfg: RasterLoadParams,
        dst_geobox: GeoBox,
        *,
        dst: npt.NDArray[Any] | None = None,
        selection: ReaderSubsetSelection | None = None,
    ) -> tuple[tuple[slice, slice], npt.NDArray[Any]]:
        of_catalog = cfg.patch(src_nodata_override=cfg.fill_value)
        return super().read(of_catalog, dst_geobox, dst=dst, selection=selection)


def _odc_settings(storage: Storage, bands: Sequence[str]) -> dict[str, Any]:
    """What odc-stac is told of the asset: one variable ``(band, y, x)``, not one a band."""
    asset: dict[str, Any] = {"data_type": storage.dtype, "nodata": storage.nodata}
    if storage.n_bands == 1:
        return {"assets": {ASSET: asset}}
    return {
        "dims": {"band": storage.n_bands},
        "coords": {"band": list(bands)},
        "assets": {ASSET: asset | {"dims": ["band", "y", "x"]}},
    }


def _in_order_of_ownership(
    items: Sequence[pystac.Item], placed: Sequence[PlacedTile]
) -> list[pystac.Item]:
    """Items in the order of their tiles; those beside the frame last."""
    rank = {tile.tile.item_id: position for position, tile in enumerate(placed)}
    return sorted(items, key=lambda item: rank.get(item.id, len(rank)))


def _rule(placed: Sequence[PlacedTile], storage: Storage) -> str:
    """How tiles are resampled: those of the frame's lattice are not.

    Under ``mode`` and ``average`` GDAL lets a sliver of a neighbour, which rounding leaves at a
    pixel's edge, speak for a pixel that is nodata.
    """
    return "nearest" if all(tile.on_lattice for tile in placed) else storage.resampling


def _stackstac_date(
    stackstac: ModuleType,
    items: Sequence[pystac.Item],
    storage: Storage,
    frame: GeoBox,
    chunks: Chunks,
) -> xr.DataArray:
    """Codes of one date, dims ``(band, y, x)``, with ``time`` as a coordinate."""
    from rasterio.enums import Resampling

    fill = np.dtype(storage.dtype).type(storage.fill)
    known = {item.id: item for item in items}
    placed = place_tiles([tile_of(item) for item in items], frame)
    stacks = [
        stackstac.stack(
            [_stackstac_item(known[tile.tile.item_id], frame) for tile in tiles],
            resampling=Resampling[_rule(tiles, storage)],
            dtype=fill.dtype,
            fill_value=fill,
            chunksize=chunks,
            **_stackstac_grid(frame),
            **_STACKSTAC_OPTIONS,
        )
        for tiles in _lattice_first(placed)
    ]
    if stacks:
        stack = xr.concat(stacks, dim="time", join="exact", coords="minimal", compat="override")
        codes = stackstac.mosaic(stack, dim="time", reverse=True, nodata=fill)
        codes = codes.drop_vars(["id", "epsg"], errors="ignore").rename(None)
    else:
        codes = _nothing(frame, chunks, fill)
    dated: xr.DataArray = codes.assign_coords(time=np.datetime64(_instant(items[0]), "ns"))
    return dated


def _lattice_first(placed: Sequence[PlacedTile]) -> list[list[PlacedTile]]:
    """Tiles of the frame's lattice, then the others; without a part that is empty."""
    parts = ([t for t in placed if t.on_lattice], [t for t in placed if not t.on_lattice])
    return [part for part in parts if part]


def _stackstac_grid(frame: GeoBox) -> dict[str, Any]:
    """All of the grid: what is left out, stackstac derives from the items, which resamples."""
    return {
        "epsg": _epsg_of(frame),
        "resolution": (frame.affine.a, -frame.affine.e),
        "bounds": bbox_of(frame),
    }


def _stackstac_item(item: pystac.Item, frame: GeoBox) -> dict[str, Any]:
    """An item as stackstac 0.5 understands it: where it lies by ``proj:epsg`` and ``proj:bbox``.

    The box is that in the frame's CRS, its edges bent as they are: stackstac projects corners
    alone, and leaves out chunks that only a bent edge reaches. A box has no south-up, at which
    stackstac fails; the rows are turned when the file is warped.
    """
    tile = tile_of(item)
    box = project_bbox(bbox_of(tile.geobox), tile.crs, str(frame.crs))
    place = {"proj:epsg": _epsg_of(frame), "proj:bbox": list(box)}
    return {
        "id": item.id,
        "properties": {"datetime": _instant(item), **place},
        "assets": {ASSET: {"href": tile.href}},
    }


def _nothing(frame: GeoBox, chunks: Chunks, fill: Any) -> xr.DataArray:
    codes = da.full((1, *frame.shape), fill, dtype=fill.dtype, chunks=((1,), *chunks))
    axes = {name: axis for name, axis in xr_coords(frame).items() if name in ("y", "x")}
    return xr.DataArray(codes, axes | {"band": [ASSET]}, DIMS[1:])


def _instant(item: pystac.Item) -> str:
    """Date of an item, UTC, or the start of its interval, as ISO 8601 without a zone."""
    when = item.datetime or item.common_metadata.start_datetime
    if when is None:
        raise CatalogError(
            f"item {item.id!r} has neither datetime nor start_datetime; STAC wants one of them. "
            "Run lczcube build-catalog again."
        )
    return when.astimezone(UTC).replace(tzinfo=None).isoformat()


def _nodata_attr(storage: Storage) -> dict[str, float]:
    return {} if storage.nodata is None else {"nodata": storage.nodata}


def _require_gdal(by_date: Sequence[Sequence[pystac.Item]], engine: str) -> None:
    for item in (item for items in by_date for item in items):
        kind = tile_of(item).kind
        if kind != "gdal":
            raise CatalogError(
                f"item {item.id!r} is stored as {kind}, and the engine {engine!r} reads what GDAL "
                "opens. Use the engine 'native'."
            )


def _require_one_band(by_date: Sequence[Sequence[pystac.Item]], storage: Storage) -> None:
    if storage.n_bands > 1:
        raise CatalogError(
            f"layer {by_date[0][0].collection_id!r} holds {storage.n_bands} bands in one file, and "
            "stackstac reads files of one band. Use the engine 'native' or 'odc'."
        )


def _epsg_of(frame: GeoBox) -> int:
    epsg = None if frame.crs is None else frame.crs.to_epsg()
    if epsg is None:
        raise CatalogError(
            f"the grid's CRS {str(frame.crs)[:60]!r} has no EPSG code, and stackstac knows no "
            "other. Use the engine 'native' or 'odc'."
        )
    return int(epsg)


def _import_stackstac() -> ModuleType:
    try:
        import stackstac
    except ImportError as error:
        raise MissingExtraError(
            "stackstac is not installed; the engine 'stackstac' needs it: "
            "pip install 'lczcube[stackstac]'"
        ) from error
    module: ModuleType = stackstac
    return module
