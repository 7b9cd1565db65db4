"""Tiles of Meta's and WRI's canopy height map, of both versions: where they lie, where they hold.

Version 1 has masks, version 2 footprints: where neither says that there is data, a stored 0 is no
bare ground. A tile at a URL is not opened, as everything follows from its name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lczcube.errors import SourceError
from lczcube.sources.canopy_assets import height_asset
from lczcube.sources.canopy_tables import Imaged, read_imaged
from lczcube.sources.files import SourceFile, file_facts, is_remote, media_type, require_file
from lczcube.sources.footprints import Footprint, box_footprint
from lczcube.sources.inputs import Publication
from lczcube.sources.items import (
    FILE_URI,
    LCZCUBE_URI,
    PROJECTION_URI,
    RASTER_URI,
    SourceItem,
    crs_name,
    grid_fields,
    named_bands,
    new_item,
)
from lczcube.sources.quadkeys import CRS, QuadTile
from lczcube.sources.raster import COG_TYPE, open_pixels, open_raster

if TYPE_CHECKING:
    import pystac
    from rasterio.io import DatasetReader

    from lczcube.sources.canopy import CanopyInput

DTYPE = "uint8"

PLACE_TOLERANCE_PX = 0.01
"""How far a tile's corners may lie from where its quadkey puts them."""

_NO_MASK = "No mask: where nothing was imaged the tile reads 0 m, as bare ground does."
_NO_FOOTPRINTS = "No footprints: where nothing was imaged the tile reads 0 m, as bare ground does."
_NOT_OPENED = "Not opened: place, size and nodata follow from the name."


@dataclass(frozen=True)
class Version:
    """A version of the map.

    Attributes
    ----------
    number : int
        1 or 2.
    zoom : int
        Digits of its quadkeys.
    side_px : int
        Pixels along a side of the publisher's tiles.
    has_mask : bool
        True where a mask says which pixels are valid, False where footprints do.
    block_shape : tuple of int or None
        Rows and columns of the publisher's blocks, where they are known.
    publication : Publication
        Licence and citation.
    """

    number: int
    zoom: int
    side_px: int
    has_mask: bool
    block_shape: tuple[int, int] | None
    publication: Publication

    def coding(self, entry: CanopyInput) -> dict[str, str]:
        """What a layer of it says of its values; of overviews they are others."""
        return {
            "product": f"meta-chm/{self.number}{'/overviews' if entry.overviews else ''}",
            "valid": "nodata" if self.has_mask else "footprint",
        }


VERSIONS: Mapping[int, Version] = {
    version.zoom: version
    for version in (
        Version(
            number=1,
            zoom=9,
            side_px=65536,
            has_mask=True,
            block_shape=(1, 65536),
            publication=Publication(
                license="CC-BY-4.0",
                license_note="Name Meta and the World Resources Institute (Tolan et al. 2024).",
                citation="Tolan, J. et al. (2024): Very high resolution canopy height maps from "
                "RGB imagery using self-supervised vision transformer and convolutional decoder "
                "trained on aerial lidar. Remote Sensing of Environment 300, 113888.",
                doi="10.1016/j.rse.2023.113888",
            ),
        ),
        Version(
            number=2,
            zoom=10,
            side_px=32768,
            has_mask=False,
            block_shape=None,
            publication=Publication(
                license="CC-BY-4.0",
                license_note="Name Meta and the World Resources Institute (CHMv2, 2026). Source "
                "imagery © 2016 Vantor.",
                citation="Meta and World Resources Institute (2026): CHMv2. arXiv:2603.06382",
                doi="10.48550/arXiv.2603.06382",
            ),
        ),
    )
}
"""By zoom, which is the number of digits of a tile's name."""


@dataclass(frozen=True, kw_only=True)
class CanopyTile(SourceFile):
    """A tile, and the files beside it.

    Attributes
    ----------
    tile : QuadTile
        Which.
    mask, metadata : str or None
        Mask of version 1, and footprints; None where there is none.
    """

    tile: QuadTile
    mask: str | None
    metadata: str | None

    @property
    def version(self) -> Version:
        """By the length of its name."""
        return VERSIONS[self.tile.zoom]

    def beside(self, href: str) -> SourceFile:
        """A file beside it."""
        return SourceFile(href, self.item_id, self.year, self.city)


@dataclass(frozen=True)
class _Header:
    """What the header of a tile says, or at a URL its name."""

    side_px: int
    declared: float | None
    block_shape: tuple[int, int] | None
    is_cog: bool


def tile_item(entry: CanopyInput, file: CanopyTile) -> SourceItem:
    """The item of a tile, from headers and footprints.

    Raises
    ------
    MissingInputError
        If a file beside it is not there.
    SourceError
        If tile or mask is broken or not what its name says.
    """
    notes = []
    if is_remote(file.href):
        header = _header_by_name(file.version)
        notes.append(_NOT_OPENED)
    else:
        header = _read_header(file)
        if header.side_px != file.version.side_px:
            notes.append(
                f"{header.side_px} pixels a side; the publisher's tiles have "
                f"{file.version.side_px}."
            )
    imaged = _imaged(file)
    if file.version.has_mask and file.mask is None:
        notes.append(_NO_MASK)
    if not file.version.has_mask and imaged is None:
        notes.append(_NO_FOOTPRINTS)
    item = new_item(
        file.item_id,
        _outline(file, imaged),
        year=file.year,
        properties={
            **grid_fields(CRS, (header.side_px,) * 2, file.tile.transform(header.side_px)),
            **({"lczcube:note": " ".join(notes)} if notes else {}),
        },
        extensions=(PROJECTION_URI, RASTER_URI, FILE_URI, LCZCUBE_URI),
    )
    for key, asset in _assets(entry, file, header, imaged).items():
        item.add_asset(key, asset)
    return SourceItem(item, coding=file.version.coding(entry))


def _header_by_name(version: Version) -> _Header:
    return _Header(version.side_px, None, version.block_shape, is_cog=not version.has_mask)


def _read_header(file: CanopyTile) -> _Header:
    with open_raster(file) as raster:
        _require_heights(raster, file)
        _require_place(raster, file)
        return _Header(
            side_px=raster.width,
            declared=raster.nodatavals[0],
            block_shape=raster.block_shapes[0],
            is_cog=raster.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") == "COG",
        )


def _require_heights(raster: DatasetReader, file: CanopyTile) -> None:
    if raster.count != 1 or raster.dtypes[0] != DTYPE:
        raise SourceError(
            f"{file.href} holds {raster.count} band(s) of {raster.dtypes[0]}; a tile of canopy "
            f"height holds one of {DTYPE}. Fetch it again, or name another raster otherwise."
        )


def _require_place(raster: DatasetReader, file: CanopyTile) -> None:
    """Raise where the pixels are not those that the name says, to a hundredth of a pixel."""
    crs = crs_name(raster.crs)
    if crs != CRS:
        raise SourceError(
            f"{file.href} is in {crs if len(crs) < 20 else 'a CRS without a code'}; a tile of "
            f"canopy height is in {CRS}. Use the original tile, or name an export otherwise."
        )
    rows, columns = raster.shape
    a, _, c, _, e, f = file.tile.transform(columns)
    found = raster.transform
    apart_px = max(
        abs(found.c - c) / a,
        abs(found.f - f) / a,
        abs(found.a - a) / a * columns,
        abs(found.e - e) / a * rows,
    )
    if rows != columns or apart_px > PLACE_TOLERANCE_PX:
        raise SourceError(
            f"{file.href} has {rows} x {columns} pixels from ({found.c:.2f}, {found.f:.2f}) of "
            f"{found.a:.6g} x {-found.e:.6g} m, and tile {file.tile.quadkey} begins at ({c:.2f}, "
            f"{f:.2f}) with {columns} x {columns} of {a:.6g} m; name crops and exports otherwise, "
            "or fetch it again."
        )


def _imaged(file: CanopyTile) -> Imaged | None:
    """Footprints of version 2, where they are at hand."""
    if file.version.has_mask or file.metadata is None or is_remote(file.metadata):
        return None
    return read_imaged(file.beside(file.metadata), file.tile)


def _outline(file: CanopyTile, imaged: Imaged | None) -> Footprint:
    return box_footprint(file.tile.bbox) if imaged is None else imaged.outline


def _assets(
    entry: CanopyInput, file: CanopyTile, header: _Header, imaged: Imaged | None
) -> dict[str, pystac.Asset]:
    _, south, _, north = file.tile.bbox
    pixel_m = file.tile.transform(header.side_px)[0]
    assets = {
        "data": height_asset(
            entry,
            file,
            dtype=DTYPE,
            declared=header.declared,
            media=COG_TYPE if header.is_cog else media_type(file.href),
            resolution_m=pixel_m * math.cos(math.radians((south + north) / 2)),
            block_shape=header.block_shape,
        )
    }
    if file.mask is not None:
        assets["mask"] = _mask_asset(entry, file, file.mask, header)
    if file.metadata is not None:
        assets["metadata"] = _metadata_asset(entry, file.metadata, imaged)
    return assets


def _mask_asset(entry: CanopyInput, file: CanopyTile, href: str, header: _Header) -> pystac.Asset:
    import pystac

    if not is_remote(href):
        _require_mask(file.beside(href), header)
    means = {} if entry.mask == "ignore" else {"lczcube:mask": entry.mask}
    return pystac.Asset(
        href=href,
        title="Which pixels hold data",
        media_type=media_type("mask.tif"),
        roles=["mask"],
        extra_fields={
            "bands": named_bands(["mask"], DTYPE),
            **means,
            **file_facts(href, checksum=entry.checksums),
        },
    )


def _require_mask(mask: SourceFile, header: _Header) -> None:
    require_file(mask)
    with open_pixels(mask) as raster:
        if raster.shape != (header.side_px,) * 2 or raster.count != 1 or raster.dtypes[0] != DTYPE:
            raise SourceError(
                f"{mask.href} holds {raster.count} band(s) of {raster.dtypes[0]}, "
                f"{raster.height} x {raster.width} pixels; the mask of a tile holds one of {DTYPE} "
                f"with as many pixels as the tile, {header.side_px} a side. Fetch it again."
            )


def _metadata_asset(entry: CanopyInput, href: str, imaged: Imaged | None) -> pystac.Asset:
    import pystac

    days: dict[str, Any] = {}
    if imaged is not None and imaged.first is not None:
        days = {
            "start_datetime": f"{imaged.first}T00:00:00Z",
            "end_datetime": f"{imaged.last}T23:59:59Z",
        }
    return pystac.Asset(
        href=href,
        title="Footprints of the images, with their days",
        media_type=media_type(href),
        roles=["metadata"],
        extra_fields={**days, **file_facts(href, checksum=entry.checksums)},
    )
