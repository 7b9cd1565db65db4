"""Cloud-optimised GeoTIFFs of class rasters: streamed, with colours, class names and overviews.

A raster is written block by block to a temporary file beside its target, and made a COG from there
by GDAL: it never stands in memory.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import dask
import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.shutil
import xarray as xr
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from lczcube import lcz as zones
from lczcube.exports.product_map import windows

TILE_PX = 512
_EXACT_PX = 1e-6
"""Largest error of a place when warping, in pixels of the source (GDAL refuses 0)."""

_CACHE_BYTES = 64 << 20
"""Blocks that GDAL keeps; of itself it takes 5 % of the machine."""

_STEP_PX = 2048
"""Side of what is computed and written at a time: whole tiles, 4 MB a band."""


def class_tags() -> dict[str, str]:
    """What each code of an LCZ band means, as tags of the band: they travel inside the file."""
    return {f"LCZ_{z.code}": zones.stac_classes()[z.code]["title"] for z in zones.ZONES}


@contextmanager
def staged(
    folder: Path, layers: Sequence[xr.DataArray], geobox: GeoBox, *, nodata: int
) -> Iterator[Path]:
    """Layers as a plain GeoTIFF in a folder, for as long as the ``with`` lasts.

    Layers are uint8 ``(y, x)`` or ``(class, y, x)``, a band a class, lazy or not.
    """
    n_bands = sum(layer[..., 0, 0].size for layer in layers)
    with TemporaryDirectory(prefix=".staged-", dir=folder) as own:
        plain = Path(own) / "plain.tif"
        profile = _profile(geobox, n_bands, nodata)
        with rasterio.Env(GDAL_CACHEMAX=_CACHE_BYTES), rasterio.open(plain, "w", **profile) as file:
            for window, values in blocks_of(layers, geobox):
                file.write(values, window=window)
        yield plain


@contextmanager
def warped(source: Path, geobox: GeoBox, resampling: Resampling) -> Iterator[WarpedVRT]:
    """A file on other pixels, as GDAL resamples it; read by windows."""
    with (
        rasterio.open(source) as file,
        WarpedVRT(
            file,
            crs=str(geobox.crs),
            transform=geobox.affine,
            height=geobox.shape[0],
            width=geobox.shape[1],
            resampling=resampling,
            tolerance=_EXACT_PX,
        ) as view,
    ):
        yield view


def write_cog(
    path: Path,
    blocks: Iterator[tuple[Window, npt.NDArray[np.uint8]]],
    geobox: GeoBox,
    *,
    names: Sequence[str],
    tags: Mapping[str, str],
    lcz_bands: Sequence[int] = (1,),
) -> None:
    """Write uint8 blocks as a COG with nodata 0.

    Parameters
    ----------
    path : pathlib.Path
        File to write; ``….tif.aux.xml`` is written beside it.
    blocks : iterator of (rasterio.windows.Window, numpy.ndarray)
        Windows that cover the raster, and uint8 ``(band, y, x)``.
    geobox : odc.geo.geobox.GeoBox
        The pixels.
    names : sequence of str
        Names of the bands.
    tags : mapping of str to str
        Tags of the file.
    lcz_bands : sequence of int
        Numbers of the bands that hold LCZ codes, from 1. A file of this one band has the colour
        table, which TIFF has for single bands only.

    Notes
    -----
    Tiles of 512, DEFLATE, overviews by mode, one thread: the same map gives the same bytes with
    the same GDAL. Names of classes are tags of the band, and, since TIFF has no place for GDAL's
    category names and attribute table, also in the ``.aux.xml`` that GDAL and QGIS read.
    """
    with (
        rasterio.Env(GDAL_CACHEMAX=_CACHE_BYTES),
        TemporaryDirectory(prefix=".cog-", dir=path.parent) as folder,
    ):
        plain = Path(folder) / "plain.tif"
        with rasterio.open(plain, "w", **_profile(geobox, len(names), zones.NODATA)) as file:
            file.update_tags(**tags)
            for number, name in enumerate(names, 1):
                file.set_band_description(number, name)
            for number in lcz_bands:
                file.update_tags(number, **class_tags())
            if len(names) == 1:
                file.write_colormap(1, colour_table())
            for window, values in blocks:
                file.write(values, window=window)
        rasterio.shutil.copy(plain, path, driver="COG", **_COG)
    aux_path(path).write_text(class_metadata(lcz_bands), encoding="utf-8")


_COG = {
    "BLOCKSIZE": TILE_PX,
    "COMPRESS": "DEFLATE",
    "LEVEL": 9,
    "OVERVIEW_RESAMPLING": "MODE",
    "BIGTIFF": "IF_SAFER",
    "NUM_THREADS": 1,
}


def aux_path(path: Path) -> Path:
    """Where GDAL looks for what a TIFF has no place for."""
    return path.with_name(path.name + ".aux.xml")


def blocks_of(
    layers: Sequence[xr.DataArray], geobox: GeoBox
) -> Iterator[tuple[Window, npt.NDArray[np.uint8]]]:
    """Blocks ``(band, y, x)`` of layers that lie on ``geobox``; each chunk is computed once."""
    for window in write_windows(geobox):
        rows, columns = window.toslices()
        parts = dask.compute(*(layer[..., rows, columns].data for layer in layers))
        yield window, np.concatenate([part.reshape(-1, *part.shape[-2:]) for part in parts])


def write_windows(geobox: GeoBox) -> Iterator[Window]:
    """The windows in which a raster on ``geobox`` is written."""
    for rows, columns in windows(geobox, _STEP_PX):
        yield Window.from_slices(rows, columns)


def colour_table() -> dict[int, tuple[int, int, int, int]]:
    """RGBA of codes 0-17; 0 is transparent."""
    return {
        code: (int(red), int(green), int(blue), 0 if code == zones.NODATA else 255)
        for code, (red, green, blue) in enumerate(zones.colors())
    }


def class_metadata(lcz_bands: Sequence[int]) -> str:
    """Category names and attribute tables of bands of LCZ codes as GDAL's PAM (``.aux.xml``)."""
    root = Element("PAMDataset")
    for number in lcz_bands:
        _add_classes(SubElement(root, "PAMRasterBand", {"band": str(number)}))
    ElementTree.indent(root, " ")
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _add_classes(band: Element) -> None:
    names = SubElement(band, "CategoryNames")
    table = SubElement(band, "GDALRasterAttributeTable", {"tableType": "thematic"})
    for index, (name, kind, usage) in enumerate(_RAT_COLUMNS):
        column = SubElement(table, "FieldDefn", {"index": str(index)})
        SubElement(column, "Name").text = name
        SubElement(column, "Type").text = str(kind)
        SubElement(column, "Usage").text = str(usage)
    for entry in zones.stac_classes():
        code, title = entry["value"], entry["title"]
        SubElement(names, "Category").text = title
        row = SubElement(table, "Row", {"index": str(code)})
        for value in (code, title, *colour_table()[code]):
            SubElement(row, "F").text = str(value)


_RAT_COLUMNS = (
    ("VALUE", 0, 5),
    ("CLASS", 2, 2),
    ("RED", 0, 6),
    ("GREEN", 0, 7),
    ("BLUE", 0, 8),
    ("ALPHA", 0, 9),
)
"""Name, type (0 integer, 2 text) and usage of each column, as GDAL numbers them."""


def _profile(geobox: GeoBox, count: int, nodata: int) -> dict[str, Any]:
    rows, columns = geobox.shape
    return {
        "driver": "GTiff",
        "dtype": "uint8",
        "count": count,
        "height": rows,
        "width": columns,
        "crs": str(geobox.crs),
        "transform": geobox.affine,
        "nodata": nodata,
        "tiled": True,
        "blockxsize": TILE_PX,
        "blockysize": TILE_PX,
        "interleave": "band",
        "photometric": "minisblack",
        "compress": "deflate",
        "zlevel": 1,
        "bigtiff": "if_safer",
    }
