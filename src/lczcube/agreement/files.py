"""Agreement of two files: two maps, or two sets of labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array as da
import geopandas as gpd
import numpy as np
import numpy.typing as npt
import xarray as xr
from odc.geo.geobox import GeoBox
from odc.geo.xr import wrap_xr

from lczcube.agreement.labels import label_agreement
from lczcube.agreement.maps import BLOCK_M, map_agreement
from lczcube.agreement.value import Agreement, Pair
from lczcube.errors import ConfigError, MissingInputError, SourceError, StoreError
from lczcube.products import map_groups, open_product
from lczcube.sources.class_codes import codes_of
from lczcube.sources.files import SourceFile, first_line
from lczcube.sources.label_tables import column_of
from lczcube.sources.polygons import PolygonsInput, polygon_rows, read_polygons

ZARR = ".zarr"
RASTERS = (".tif", ".tiff", ".vrt")
VECTORS = PolygonsInput.suffixes

CHUNK_PX = 4096
"""Side of the pieces that a raster is read in."""

NOT_SAID = "It was not said what they share (training labels, images, hands)."


@dataclass(frozen=True)
class Reading:
    """How a file is read.

    Attributes
    ----------
    class_column : str
        Of labels: the column of the class. Codes, or text such as ``LCZ 6`` or ``A``.
    band : int, optional
        Of a raster of several bands: the one of the classes, from 1.
    """

    class_column: str = "lcz"
    band: int | None = None


def file_agreement(
    first: str | Path,
    second: str | Path,
    *,
    names: Sequence[str] = (),
    dependence: str = NOT_SAID,
    readings: tuple[Reading, Reading] = (Reading(), Reading()),
    block_m: float = BLOCK_M,
) -> Agreement:
    """How far two maps, or two sets of labels, agree; reads the files.

    Parameters
    ----------
    first, second : str or pathlib.Path
        Maps: a group of a Zarr product (``lcz.zarr/cells``; of a store with one map, the store) or
        a raster. Labels: vector files, label tables. Both are maps, or both are labels.
    names : sequence of str
        What they are called. Default: their paths.
    dependence : str
        What they share, in a sentence.
    readings : tuple of Reading
        How each is read.
    block_m : float
        Of maps: side of the blocks that the bootstrap draws, m.

    Raises
    ------
    ConfigError
        If one is a map and the other labels, or a file is known as neither.
    MissingInputError
        If a file is not there.
    StoreError, SourceError
        If it cannot be read, or holds no classes or several maps.
    GridMismatchError
        If two maps do not lie on the same pixels in metres.
    LabelError
        If there are other codes than 1-17.
    """
    if len(names) not in (0, 2):
        raise ConfigError(f"names = {', '.join(names)}: an agreement has two sides, so two names.")
    name_a, name_b = names or (str(first), str(second))
    pair = Pair(name_a, name_b, dependence)
    kinds = [_kind(Path(path)) for path in (first, second)]
    if kinds[0] != kinds[1]:
        raise ConfigError(
            f"{first} is {kinds[0]} and {second} {kinds[1]}: give two maps, or two files of "
            "labels. For a map and labels there is lczcube.agreement.map_label_agreement, and, "
            "where the map is tested on them, lczcube evaluate."
        )
    sides = list(zip((Path(first), Path(second)), readings, strict=True))
    if kinds[0] == "a map":
        one, other = (_open_map(path, how) for path, how in sides)
        return map_agreement(one, other, pair, block_m=block_m)
    drawn, again = (_read_labels(path, how) for path, how in sides)
    return label_agreement(drawn, again, pair)


def _kind(path: Path) -> str:
    if not path.exists():
        raise MissingInputError(f"{path} is not there; name a map, or a file of labels.")
    if path.suffix.lower() in RASTERS or _store_of(path) is not None:
        return "a map"
    if path.suffix.lower() in VECTORS:
        return "a file of labels"
    raise ConfigError(
        f"{path} is known neither as a map ({', '.join((ZARR, *RASTERS))}) nor as labels "
        f"({', '.join(VECTORS)}); convert it to one of these."
    )


def _store_of(path: Path) -> Path | None:
    return next((p for p in (path, *path.parents) if p.suffix == ZARR and p.is_dir()), None)


def _open_map(path: Path, how: Reading) -> xr.DataArray:
    store = _store_of(path)
    return _open_raster(path, how.band) if store is None else _open_stored(path, store)


def _open_stored(path: Path, store: Path) -> xr.DataArray:
    group = path.relative_to(store).as_posix()
    if group == ".":
        groups = map_groups(store)
        if len(groups) != 1:
            raise StoreError(
                f"{store} holds {' and '.join(groups) or 'no map'}; name the group of one map, "
                f"such as {store}/{groups[0] if groups else 'cells'}."
            )
        (group,) = groups
    dataset = open_product(store, group)
    if "lcz" not in dataset:
        held = ", ".join(map(str, dataset.data_vars)) or "nothing"
        raise StoreError(f"{path} holds {held}, and no lcz; name a map, such as lcz.zarr/cells.")
    return dataset["lcz"]


def _open_raster(path: Path, band: int | None) -> xr.DataArray:
    """The codes of a raster, lazy."""
    import rasterio
    import rasterio.errors

    try:
        with rasterio.open(path) as file:
            _require_band(path, file.count, band)
            geobox = GeoBox(file.shape, file.transform, file.crs)
            dtype, nodata = np.dtype(file.dtypes[(band or 1) - 1]), file.nodatavals[(band or 1) - 1]
    except rasterio.errors.RasterioError as error:
        raise SourceError(
            f"{path} cannot be read as a raster ({first_line(error)}); check the file."
        ) from error
    codes = da.map_blocks(
        _read_block,
        path=path,
        band=band or 1,
        dtype=dtype,
        meta=np.empty((0, 0), dtype),
        chunks=da.core.normalize_chunks((CHUNK_PX, CHUNK_PX), shape=geobox.shape),
    )
    wrapped = wrap_xr(codes, geobox)
    lcz = wrapped.rename(dict(zip(wrapped.dims, ("y", "x"), strict=True)))
    return lcz if nodata is None else lcz.assign_attrs(nodata=nodata)


def _require_band(path: Path, n_bands: int, band: int | None) -> None:
    if (band is None and n_bands > 1) or not 1 <= (band or 1) <= n_bands:
        asked = "none is named" if band is None else f"band {band} is named"
        raise ConfigError(
            f"{path} has {n_bands} bands, and {asked}; name that of the classes with --band."
        )


def _read_block(
    path: Path, band: int, block_info: dict[None, dict[str, Any]]
) -> npt.NDArray[np.integer]:
    import rasterio

    (top, bottom), (left, right) = block_info[None]["array-location"]
    with rasterio.open(path) as file:
        codes: npt.NDArray[np.integer] = file.read(band, window=((top, bottom), (left, right)))
    return codes


def _read_labels(path: Path, how: Reading) -> gpd.GeoDataFrame:
    file = SourceFile(path.absolute().as_posix(), path.stem, None, "")
    frame = read_polygons(file, how.class_column)
    columns = {"lcz": column_of(frame, how.class_column, "--class-column", where=str(path))}
    if "group" in frame:
        columns["group"] = frame["group"]
    labels = polygon_rows(frame, columns, file).frame
    codes = codes_of(labels["lcz"], drop_classes=(), where=str(path)).astype(np.uint8)
    return labels.assign(lcz=codes)[codes > 0].reset_index(drop=True)
