"""Assets of a mapped city: groups of its Zarr store, GeoTIFFs of zones, and its picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from lczcube import lcz as zones
from lczcube.catalog.documents import Document
from lczcube.products import open_product
from lczcube.sources.files import SourceFile, file_facts
from lczcube.sources.footprints import resolution_m
from lczcube.sources.items import ZARR_TYPE, grid_fields, safe_id
from lczcube.sources.lcz_map import LczMapInput, build_items

MAP = "lcz"
"""Array of a group that is the map, and the band of its asset."""


def zarr_asset(store: Path, group: str, *, time_index: int | None) -> Document:
    """The asset of a group of a product store; reads attributes and coordinates, no pixel.

    Parameters
    ----------
    store : pathlib.Path
        A store that :func:`lczcube.write_product` wrote.
    group : str
        One of its groups, with an array ``lcz``.
    time_index : int or None
        Step of its dimension ``time``; None where it has none.

    Returns
    -------
    dict
        The map as the asset's band, all arrays of the group as variables of a data cube; the href
        is relative to the folder of the run's catalog of products.

    Raises
    ------
    StoreError
        If store or group is not there.
    """
    dataset = open_product(store, group)
    crs = str(dataset.attrs.get("proj:code") or dataset.attrs["proj:wkt2"])
    rows, columns = (int(n) for n in dataset.attrs["spatial:shape"])
    transform = [float(v) for v in dataset.attrs["spatial:transform"]]
    step = {} if time_index is None else {"time_index": time_index}
    chunks = dataset[MAP].encoding["chunks"]
    return {
        "href": f"../{store.parent.name}/{store.name}/{group}",
        "type": ZARR_TYPE,
        "title": f"Local Climate Zones, {transform[0]:g} m",
        "roles": ["data", "zarr"],
        "zarr:zarr_format": 3,
        "zarr:node_type": "group",
        "zarr:consolidated": False,  # at the root of the store, not at its groups
        **grid_fields(crs, (rows, columns), transform),
        "raster:spatial_resolution": resolution_m(crs, (rows, columns), transform),
        "bands": [
            {
                "name": MAP,
                "data_type": "uint8",
                "nodata": zones.NODATA,
                "classification:classes": zones.stac_classes(),
            }
        ],
        "cube:dimensions": _dimensions(dataset, crs),
        "cube:variables": {str(name): _variable(v) for name, v in dataset.data_vars.items()},
        "lczcube:zarr": {"array": MAP, "axes": "y,x", **step},
        "lczcube:block_shape": [int(n) for n in chunks[-2:]],
    }


def map_file_asset(path: Path, *, year: int | None) -> Document:
    """The asset of a GeoTIFF of zones: of one band, or in the bands of the LCZ Generator.

    Reads the codes of a file of up to 64 MB, to count them.

    Parameters
    ----------
    path : pathlib.Path
        The file, in a folder of the city's folder.
    year : int or None
        Of the map.

    Raises
    ------
    SourceError, LabelError
        If it is no map of zones.
    """
    entry = LczMapInput(
        name="exported", source="lcz_map", href=(path.as_posix(),), year=year, static=year is None
    )
    file = SourceFile(path.as_posix(), safe_id(path.stem), year, "")
    item = build_items(entry, file)[0].item
    asset = item.assets["data"]
    place = {key: value for key, value in item.properties.items() if key.startswith("proj:")}
    city, folder = path.parent.parent.name, path.parent.name
    return {
        "href": f"../{city}/{folder}/{path.name}",
        "type": asset.media_type,
        "title": f"Local Climate Zones, {path.name}",
        "roles": ["data"],
        **place,
        **asset.extra_fields,
    }


def picture_asset(path: Path) -> Document:
    """The asset of a city's picture."""
    return {
        "href": f"../{path.parent.name}/{path.name}",
        "type": "image/png",
        "title": "Maps with the WUDAPT palette and a legend",
        "roles": ["thumbnail"],
        **file_facts(str(path)),
    }


def _dimensions(dataset: xr.Dataset, crs: str) -> dict[str, Any]:
    system = int(crs.removeprefix("EPSG:")) if crs.startswith("EPSG:") else crs
    transform = dataset.attrs["spatial:transform"]
    found: dict[str, Any] = {}
    for name in map(str, dataset.sizes):
        values = dataset[name]
        if name in ("x", "y"):
            edges = sorted((float(values[0]), float(values[-1])))
            axis = {"type": "spatial", "axis": name, "extent": edges}
            step = float(transform[0 if name == "x" else 4])
            found[name] = {**axis, "step": step, "reference_system": system}
        elif name == "time":
            times = [f"{value}Z" for value in values.values.astype("datetime64[s]")]
            found[name] = {"type": "temporal", "extent": [times[0], times[-1]], "values": times}
        else:
            found[name] = {"type": "other", "values": values.values.tolist()}
    return found


def _variable(variable: xr.DataArray) -> dict[str, Any]:
    """A variable as it is stored: per cents are uint8, whatever xarray opens them as."""
    fill = variable.encoding.get("_FillValue", variable.attrs.get("nodata"))
    has_code = fill is not None and fill == fill  # NaN is no code
    unit = variable.attrs.get("units")
    return {
        "dimensions": [str(dim) for dim in variable.dims],
        "variable_type": "data",
        "data_type": str(variable.encoding["dtype"]),
        **({"nodata": np.asarray(fill).item()} if has_code else {}),
        **({} if unit is None else {"unit": unit}),
    }
