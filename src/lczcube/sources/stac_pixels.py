"""What is known of the pixels of a STAC asset: what its item tells, and what its file says.

Items tell it in the words of many versions (``proj:epsg``, ``raster:bands``, ``eo:bands``), or
leave it to the file. A local file's header is always read and has the last word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lczcube.errors import SourceError
from lczcube.sources.bands import Band
from lczcube.sources.files import SourceFile, is_remote, require_file
from lczcube.sources.items import crs_name, grid_bbox, named_crs
from lczcube.sources.raster import bands_of, open_raster

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

TOLERANCE_PX = 1e-3
"""An item's transform may differ by this from its file's: decimals that were cut off."""

_SOUTH_UP = "Rows are stored from the south, and the item said from the north."

_LISTS = ("eo:bands", "raster:bands", "bands")
"""Lists of bands, of old versions first: a later one has the last word."""

Transform = tuple[float, ...]


@dataclass(frozen=True)
class Pixels:
    """What is known of the pixels of an asset; None for what is not told.

    Attributes
    ----------
    crs : str or None
        As :func:`lczcube.sources.items.crs_name`.
    shape, transform : tuple or None
        ``(rows, columns)``; ``a, b, c, d, e, f``.
    bands : tuple of Band or None
        One each; a single one where the item lists none and tells a dtype of the asset.
    has_list : bool
        False for that single one, which the file may contradict.
    dtype : str or None
        Of all bands.
    nodata : frozenset of float
        The codes that the bands say mean nothing; several contradict each other.
    block_shape : tuple of int or None
        What is compressed together.
    note : str or None
        What was put right.
    """

    crs: str | None = None
    shape: tuple[int, int] | None = None
    transform: Transform | None = None
    bands: tuple[Band, ...] | None = None
    has_list: bool = True
    dtype: str | None = None
    nodata: frozenset[float] = frozenset()
    block_shape: tuple[int, int] | None = None
    note: str | None = None

    @property
    def missing(self) -> list[str]:
        """Names of what is not told."""
        told = {
            "proj:code": self.crs,
            "proj:shape": self.shape,
            "proj:transform": self.transform,
            "data_type": self.dtype,
            "bands": self.bands,
        }
        return [name for name, value in told.items() if value is None]


def told_pixels(
    asset: Mapping[str, Any], properties: Mapping[str, Any], key: str, where: str
) -> Pixels:
    """What an item tells of an asset, in the words of any version.

    Parameters
    ----------
    asset, properties : mapping
        Of the item; the asset has the last word.
    key : str
        Of the asset: the name of a single band without one.
    where : str
        What it is called in messages.

    Raises
    ------
    SourceError
        If its CRS is unknown, its bands differ in dtype, or its lists of bands in length.
    """
    facts = {**properties, **asset}
    shape, transform = facts.get("proj:shape"), facts.get("proj:transform")
    bands = _merged_bands(asset, where)
    types = {str(band["data_type"]) for band in bands or () if band.get("data_type") is not None}
    if len(types) > 1:
        raise SourceError(
            f"{where} mixes dtypes: {', '.join(sorted(types))}; one layer has one dtype."
        )
    block = asset.get("lczcube:block_shape")
    return Pixels(
        crs=_told_crs(properties, asset, where),
        shape=None if shape is None else (int(shape[0]), int(shape[1])),
        transform=None if transform is None else tuple(float(v) for v in transform[:6]),
        bands=None if bands is None else tuple(_band(band, len(bands), key) for band in bands),
        has_list=any(asset.get(name) for name in _LISTS),
        dtype=types.pop() if types else None,
        nodata=frozenset(_nodata_codes(bands or ())),
        block_shape=None if block is None else (int(block[0]), int(block[1])),
    )


def _told_crs(properties: Mapping[str, Any], asset: Mapping[str, Any], where: str) -> str | None:
    for facts in (asset, properties):
        epsg = facts.get("proj:epsg")
        if epsg is not None:
            text = str(epsg).upper().removeprefix("EPSG:")
            return named_crs(f"EPSG:{text}", where=f"proj:epsg of {where}")
        for key in ("proj:code", "proj:wkt2", "proj:projjson"):
            if facts.get(key):
                return named_crs(facts[key], where=f"{key} of {where}")
    return None


def _merged_bands(asset: Mapping[str, Any], where: str) -> list[dict[str, Any]] | None:
    """Bands by all lists there are, in the words of STAC 1.1; None where their number is open."""
    lists = [asset[key] for key in _LISTS if asset.get(key)]
    common = {k: asset[k] for k in ("data_type", "nodata", "unit") if asset.get(k) is not None}
    if not lists:
        return [common] if "data_type" in common else None
    if len({len(bands) for bands in lists}) > 1:
        raise SourceError(
            f"{where} has lists of {', '.join(str(len(bands)) for bands in lists)} bands for one "
            "asset; correct it."
        )
    merged = [dict(common) for _ in lists[0]]
    for bands in lists:
        for band, facts in zip(merged, bands, strict=True):
            band |= {key: value for key, value in facts.items() if value is not None}
    return merged


def _band(facts: Mapping[str, Any], n_bands: int, key: str) -> Band:
    name = facts.get("name")
    return Band(
        name=str(name) if name is not None else (key if n_bands == 1 else None),
        scale=float(facts.get("raster:scale", facts.get("scale", 1))),
        offset=float(facts.get("raster:offset", facts.get("offset", 0))),
        unit=facts.get("unit"),
        description=facts.get("description"),
    )


def _nodata_codes(bands: Sequence[Mapping[str, Any]]) -> list[float]:
    """Without NaN, which is never valid."""
    codes = [float(band["nodata"]) for band in bands if band.get("nodata") is not None]
    return [code for code in codes if code == code]


# What the file says


def with_header(told: Pixels, file: SourceFile, size: int | None, where: str) -> Pixels:
    """What an item tells of a raster, completed and checked by its header.

    Parameters
    ----------
    told : Pixels
        As :func:`told_pixels` gives it.
    file : SourceFile
        The raster; a remote one is opened only where something is missing.
    size : int or None
        Bytes that it has by the item.
    where : str
        What it is called in messages.

    Raises
    ------
    MissingInputError
        If a local file is not there.
    SourceError
        If the file cannot be opened, or is not what the item says.
    """
    if is_remote(file.href):
        if not told.missing:
            return told
    else:
        require_file(file)
        _require_size(size, file, where)
    with open_raster(file) as raster:
        return _completed(told, _of_header(raster), where)


def _require_size(size: int | None, file: SourceFile, where: str) -> None:
    actual = Path(file.href).stat().st_size
    if size is not None and size != actual:
        raise SourceError(
            f"{where}: {file.href} has {actual} bytes and the item says {size}; fetch it again."
        )


def _of_header(raster: DatasetReader) -> Pixels:
    dtypes = set(raster.dtypes)
    nodata = {v for v in raster.nodatavals if v is not None and v == v}
    return Pixels(
        crs=crs_name(raster.crs),
        shape=tuple(raster.shape),
        transform=tuple(float(v) for v in tuple(raster.transform)[:6]),
        bands=tuple(bands_of(raster)),
        dtype=dtypes.pop() if len(dtypes) == 1 else "several dtypes",
        nodata=frozenset(nodata),
        block_shape=tuple(raster.block_shapes[0]),
    )


def _completed(told: Pixels, header: Pixels, where: str) -> Pixels:
    """The header, with names, scales and nodata of the item where it tells them."""
    for name, item, file in (
        ("CRS", told.crs, header.crs),
        ("proj:shape", told.shape, header.shape),
        ("data_type", told.dtype, header.dtype),
        ("number of bands", _n(told), _n(header)),
    ):
        if item is not None and item != file and not _is_same_crs(name, item, file):
            raise SourceError(
                f"{where} says {name} {str(item)[:40]} and its file says {str(file)[:40]}; correct "
                "the item, or fetch the file again."
            )
    return replace(
        header,
        bands=_joined(told, header.bands or ()),
        nodata=told.nodata or header.nodata,
        note=_checked_transform(told, header, where),
    )


def _n(pixels: Pixels) -> int | None:
    return None if pixels.bands is None or not pixels.has_list else len(pixels.bands)


def _is_same_crs(name: str, item: Any, file: Any) -> bool:
    from pyproj import CRS

    return name == "CRS" and bool(CRS(item).equals(CRS(file), ignore_axis_order=True))


def _joined(told: Pixels, header: Sequence[Band]) -> tuple[Band, ...]:
    if told.bands is None or len(told.bands) != len(header):
        return tuple(header)
    blank = Band()
    return tuple(
        Band(
            name=item.name or file.name,
            scale=file.scale if item.scale == blank.scale else item.scale,
            offset=file.offset if item.offset == blank.offset else item.offset,
            unit=item.unit or file.unit,
            description=item.description or file.description,
        )
        for item, file in zip(told.bands, header, strict=True)
    )


def _checked_transform(told: Pixels, header: Pixels, where: str) -> str | None:
    """A note where the item turns the file over; an error where it puts it elsewhere."""
    if told.transform is None or header.transform is None or header.shape is None:
        return None
    side = min(abs(header.transform[0]), abs(header.transform[4]))
    if np.allclose(told.transform, header.transform, rtol=0, atol=TOLERANCE_PX * side):
        return None
    item, file = (grid_bbox(header.shape, t) for t in (told.transform, header.transform))
    if np.allclose(item, file, rtol=0, atol=TOLERANCE_PX * side):
        return _SOUTH_UP
    raise SourceError(
        f"{where} has the proj:transform {[*told.transform]} and its file {[*header.transform]}; "
        "correct the item, or fetch the file again."
    )
