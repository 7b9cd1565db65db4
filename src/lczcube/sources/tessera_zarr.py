"""Zarr stores of TESSERA: one group a UTM zone, both hemispheres in the northern CRS."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lczcube.errors import SourceError
from lczcube.sources.files import SourceFile, first_line
from lczcube.sources.footprints import BBox, Footprint, box_footprint
from lczcube.sources.inputs import EmbeddingInput
from lczcube.sources.items import (
    LCZCUBE_URI,
    PROJECTION_URI,
    RASTER_URI,
    ZARR_URI,
    SourceItem,
    grid_bbox,
    grid_fields,
    named_bands,
    new_item,
)
from lczcube.sources.tessera_archives import only_product, product_of_folder, require_product
from lczcube.sources.tessera_tiles import BAND_NAMES, N_BANDS

if TYPE_CHECKING:
    import pystac
    import zarr

ZARR_TYPE = "application/vnd.zarr; version=3"

_ZONE = re.compile(r"utm(\d\d)")
_MODEL = re.compile(r"https://geotessera\.org/model/(\d+(?:\.\d+)?)")
_DIMENSIONS = {"embeddings": ("time", "band", "y", "x"), "scales": ("time", "y", "x")}
_GROUP_FIELDS = {"zarr:zarr_format": 3, "zarr:node_type": "group"}
_POINTS_PER_EDGE = 201


@dataclass(frozen=True)
class _Array:
    """An array of a group, as an asset."""

    name: str
    axes: str
    role: str
    title: str | None


_ASSETS = {
    "data": _Array("embeddings", "band,y,x", "data", None),
    "scales": _Array("scales", "y,x", "auxiliary", "Scale of each pixel"),
}


@dataclass(frozen=True)
class _Zone:
    """What a group says: grid, years, and how its codes are chunked."""

    crs: str
    transform: tuple[float, ...]
    shape: tuple[int, int]
    years: tuple[int, ...]
    block_shape: tuple[int, int]


def is_zone(path: str | Path) -> bool:
    """True for a folder that is a group ``utmNN`` of Zarr format 3."""
    place = Path(path)
    return _ZONE.fullmatch(place.name) is not None and (place / "zarr.json").is_file()


def zone_boxes(path: str | Path) -> list[BBox]:
    """The 6 degrees of a zone's name, EPSG:4326."""
    west = int(Path(path).name.removeprefix("utm")) * 6.0 - 186.0
    return [(west, -90.0, west + 6.0, 90.0)]


def zone_items(entry: EmbeddingInput, file: SourceFile) -> list[SourceItem]:
    """Items of a zone, one for each wanted year; reads attributes and the years.

    Raises
    ------
    SourceError
        If the group is broken, or does not say which product it is.
    """
    zone = _read_zone(file)
    said = _products(Path(file.href).parent, entry)
    product = require_product(entry.product, said, file.href)
    coding = {"product": product, "decoder": "int8_times_scale", "valid": "finite_scale"}
    outline = _footprint(zone, file)
    wanted = entry.all_years if file.year is None else (file.year,)
    root = (Path(file.href).parent / "zarr.json").as_posix()
    return [
        SourceItem(_item(entry, file, zone, index, outline), coding=coding, made_of=(root,))
        for index, year in enumerate(zone.years)
        if year > 0 and (not wanted or year in wanted)
    ]


def _read_zone(file: SourceFile) -> _Zone:
    import zarr

    try:
        group = zarr.open_group(file.href, mode="r", zarr_format=3, use_consolidated=False)
        arrays = {name: _array(group, name) for name in _DIMENSIONS}
        years = tuple(int(year) for year in _array_1d(group, "time"))
        attrs = dict(group.attrs)
        crs, transform = str(attrs["proj:code"]), _transform(attrs)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(
            f"{file.href} cannot be read as a zone of TESSERA ({first_line(error)}); fetch it "
            "again."
        ) from error
    codes, scales = arrays["embeddings"], arrays["scales"]
    shape = (int(codes.shape[2]), int(codes.shape[3]))
    faults = [
        (codes.dtype != "int8" or codes.shape[1] != N_BANDS, f"codes {codes.dtype} {codes.shape}"),
        (scales.dtype != "float32", f"scales {scales.dtype}"),
        (scales.shape != (codes.shape[0], *shape), f"scales of shape {scales.shape}"),
        (len(years) != codes.shape[0], f"{len(years)} years for {codes.shape[0]} layers"),
        (crs != _northern_crs(file.href), f"CRS {crs}"),
        (transform[0] <= 0 or transform[4] >= 0 or any(transform[1:4:2]), "a turned transform"),
    ]
    for is_fault, what in faults:
        if is_fault:
            raise SourceError(
                f"{file.href} has {what}; a zone of TESSERA has int8 codes (time, {N_BANDS}, y, x),"
                f" float32 scales (time, y, x) and the northern CRS of its name. Fetch it again."
            )
    block = (int(codes.chunks[2]), int(codes.chunks[3]))
    return _Zone(crs, transform, shape, years, block)


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    import zarr

    array = group[name]
    expected = _DIMENSIONS[name]
    if not isinstance(array, zarr.Array) or array.ndim != len(expected):
        raise ValueError(f"{name} is no array of {len(expected)} dimensions")
    named = getattr(array.metadata, "dimension_names", None)
    if named is not None and tuple(named) != expected:
        raise ValueError(f"{name} has dimensions {', '.join(map(str, named))}")
    return array


def _array_1d(group: zarr.Group, name: str) -> Any:
    import zarr

    array = group[name]
    if not isinstance(array, zarr.Array) or array.ndim != 1:
        raise ValueError(f"{name} is no array of one dimension")
    return array[:]


def _transform(attrs: Mapping[str, Any]) -> tuple[float, ...]:
    values = tuple(float(v) for v in attrs["spatial:transform"])
    if len(values) < 6:
        raise ValueError("spatial:transform has no six numbers")
    return values[:6]


def _northern_crs(href: str) -> str:
    return f"EPSG:326{Path(href).name.removeprefix('utm')}"


def _products(store: Path, entry: EmbeddingInput) -> list[str]:
    """What a store says it is: by its folder in the publisher's tree, else by its model.

    The model is a version alone; a product of that version that the input names agrees with it.
    """
    by_folder = product_of_folder(store)
    if by_folder is not None:
        return [by_folder]
    version = _model_version(store)
    if version is None:
        return []
    only = only_product(version)
    if only is not None:
        return [only]
    known = entry.product if entry.product is not None else ""
    prefix = f"tessera/{version if '.' in version else version + '.0'}/"
    if known and not known.startswith(prefix):
        return [f"{prefix}…"]
    return [known] if known else []


def _model_version(store: Path) -> str | None:
    import zarr

    try:
        root = zarr.open_group(store, mode="r", zarr_format=3, use_consolidated=False)
    except (OSError, ValueError):
        return None
    found = _MODEL.fullmatch(str(root.attrs.get("geoemb:model", "")))
    return found[1] if found else None


def _footprint(zone: _Zone, file: SourceFile) -> Footprint:
    """The box of degrees that holds the pixels, within the zone: zones do not share a pixel."""
    import numpy as np
    from pyproj import Transformer

    minx, miny, maxx, maxy = grid_bbox(zone.shape, zone.transform)
    along = np.linspace(0, 1, _POINTS_PER_EDGE)
    xs, ys = minx + (maxx - minx) * along, miny + (maxy - miny) * along
    edges_x = np.concatenate([xs, xs, np.full_like(ys, minx), np.full_like(ys, maxx)])
    edges_y = np.concatenate([np.full_like(xs, miny), np.full_like(xs, maxy), ys, ys])
    to_lonlat = Transformer.from_crs(zone.crs, "EPSG:4326", always_xy=True)
    lon, lat = to_lonlat.transform(edges_x, edges_y)
    west = zone_boxes(file.href)[0][0]
    # From the central meridian, so that zones 1 and 60 do not fall apart at the antimeridian.
    from_centre = (lon - (west + 3) + 180) % 360 - 180
    low, high = max(float(from_centre.min()), -3.0), min(float(from_centre.max()), 3.0)
    if not (np.isfinite(lon).all() and np.isfinite(lat).all() and low < high):
        raise SourceError(
            f"{file.href} spans ({minx:g}, {miny:g}, {maxx:g}, {maxy:g}), which is not in "
            f"{zone.crs}; fetch it again."
        )
    places = (west + 3 + low, float(lat.min()), west + 3 + high, float(lat.max()))
    rounded = [round(value, 9) for value in places]
    return box_footprint((rounded[0], rounded[1], rounded[2], rounded[3]))


def _item(
    entry: EmbeddingInput, file: SourceFile, zone: _Zone, index: int, outline: Footprint
) -> pystac.Item:
    import pystac

    year = zone.years[index]
    name = file.item_id.removeprefix(f"{entry.name}_").removeprefix(f"{file.year}_")
    item = new_item(
        f"{entry.name}_{year}_{name}",
        outline,
        year=year,
        properties=grid_fields(zone.crs, zone.shape, zone.transform),
        extensions=(PROJECTION_URI, RASTER_URI, ZARR_URI, LCZCUBE_URI),
    )
    for key, array in _ASSETS.items():
        fields = _data_fields(zone) if key == "data" else {"data_type": "float32"}
        place = {"array": array.name, "time_index": index, "axes": array.axes}
        asset = pystac.Asset(
            href=file.href,
            title=array.title or entry.title,
            media_type=ZARR_TYPE,
            roles=[array.role],
            extra_fields={**fields, "lczcube:zarr": place, **_GROUP_FIELDS},
        )
        item.add_asset(key, asset)
    return item


def _data_fields(zone: _Zone) -> dict[str, Any]:
    return {
        "bands": named_bands(BAND_NAMES, "int8"),
        "raster:spatial_resolution": zone.transform[0],
        "lczcube:block_shape": list(zone.block_shape),
    }
