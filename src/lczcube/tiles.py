"""Tiles: the files of a layer as they are stored, and where they lie on the pixels of a frame.

A frame is the GeoBox that is read: a grid's pixels and their halo. Pixel coordinates in it run
right and down from its upper-left corner. A tile on the frame's own lattice is read as it lies,
flipped where it is stored south-up; any other tile is resampled.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pystac
import shapely
from affine import Affine
from odc.geo import CRS, wh_
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from lczcube.errors import CatalogError
from lczcube.grid import LATTICE_TOLERANCE_PX, bbox_of, project_bbox
from lczcube.lcz import CodeTable

DEFAULT_BLOCK_PX = 512
"""Side of a compressed block where the catalog does not say: what GDAL's COG driver writes."""

N_SEGMENTS = 64
"""Pieces that an edge is cut into before it is projected: 100 km then bends by under 0.1 m."""

LCZ_BAND = "lczcube:band"
"""Field of an asset that holds a map of zones: which of its ``bands`` is read."""

PIXELS_ASSET, FEATURES_ASSET = "data", "features"
"""Keys of the asset that holds an item's pixels, and of the table that they are drawn from."""

OUTLINE_BLOCK_PX = 512
"""Side of the squares that are asked as a whole if an outline holds them."""

MASK = "mask"

_FILE_KINDS = {
    "application/x-npy": "npy",
    "application/vnd.zarr": "zarr",
    "application/vnd.apache.parquet": "features",
}


class Rect(NamedTuple):
    """Pixels ``[top, bottom) x [left, right)`` of a frame."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        """``(rows, columns)``."""
        return self.bottom - self.top, self.right - self.left

    @property
    def is_empty(self) -> bool:
        """True when it holds no pixel."""
        return self.bottom <= self.top or self.right <= self.left

    def meet(self, other: "Rect") -> "Rect":
        """What two rectangles share; may be empty."""
        return Rect(
            max(self.top, other.top),
            max(self.left, other.left),
            min(self.bottom, other.bottom),
            min(self.right, other.right),
        )

    def within(self, outer: "Rect") -> tuple[slice, slice]:
        """Row and column slices of this rectangle in an array of ``outer``."""
        return (
            slice(self.top - outer.top, self.bottom - outer.top),
            slice(self.left - outer.left, self.right - outer.left),
        )


@dataclass(frozen=True)
class Mask:
    """A raster that says which pixels of a tile hold data, pixel by pixel as stored.

    Attributes
    ----------
    href : str
        Where it is.
    zero_is_valid : bool
        False: 0 means that there is no data, as in GDAL's masks.
    """

    href: str
    zero_is_valid: bool


@dataclass(frozen=True)
class Tile:
    """One file of a layer, as stored.

    Attributes
    ----------
    item_id, href : str
        The item, and where its pixels are.
    kind : str
        ``gdal``, ``npy`` or ``zarr``; ``features`` for a table of shapes, which has no pixels of
        its own and is drawn on those of any frame.
    crs : str
        Of the file.
    affine : affine.Affine
        As stored: ``e`` is positive in a south-up file.
    shape : tuple of int
        ``(rows, columns)``.
    block_shape : tuple of int
        ``(rows, columns)`` of what is compressed together.
    axes : str
        Order of the stored axes: ``band,y,x``, ``y,x,band`` or ``y,x``.
    array : str
        Name of a Zarr array in its group.
    time_index : int or None
        Position along a leading time axis of a Zarr array.
    footprint : shapely.Geometry or None
        EPSG:4326: where the tile, rather than another, says what a pixel is.
    size_bytes : int or None
        Of the file, where the catalog knows it.
    checksum : str
        Of the file, where the catalog knows it; else empty.
    band : int or None
        Position of the one band that is read; None for all.
    zones : CodeTable or None
        For a map of zones: what its codes become when they are read.
    bands : tuple of str
        Masks that are drawn of a table of features; empty for files of pixels.
    mask : Mask or None
        Which pixels hold data.
    is_bounded : bool
        True where codes outside the footprint mean nothing, rather than what they say.
    """

    item_id: str
    href: str
    kind: str
    crs: str
    affine: Affine
    shape: tuple[int, int]
    block_shape: tuple[int, int]
    axes: str
    array: str
    time_index: int | None
    footprint: shapely.Geometry | None
    size_bytes: int | None = None
    checksum: str = ""
    band: int | None = None
    zones: CodeTable | None = None
    bands: tuple[str, ...] = ()
    mask: Mask | None = None
    is_bounded: bool = False

    @cached_property
    def geobox(self) -> GeoBox:
        """The pixels as stored.

        Raises
        ------
        CatalogError
            If there are none.
        """
        if self.kind == "features":
            raise CatalogError(
                f"item {self.item_id!r} is a table of features and has no pixels of its own; "
                "take the grid's anchor from another input."
            )
        rows, columns = self.shape
        return GeoBox(wh_(columns, rows), self.affine, CRS(self.crs))

    @property
    def is_band_last(self) -> bool:
        """True when the bands of a pixel lie side by side."""
        return self.axes.endswith("band")

    @property
    def hides_codes(self) -> bool:
        """True where a mask or the footprint makes stored codes nodata."""
        return self.mask is not None or self.is_bounded

    def in_footprint(self, rows: slice, columns: slice) -> npt.NDArray[np.bool_]:
        """Which pixels of a window, as stored, have their centre in the footprint."""
        rect = Rect(rows.start, columns.start, rows.stop, columns.stop)
        inside = np.zeros(rect.shape, dtype=bool)
        for block in _blocks_of(rect):
            outline = shapely.box(block.left, block.top, block.right, block.bottom)
            # The part is nobody else's: threads may not share what _centres_in prepares.
            part = shapely.intersection(self._stored_footprint, outline)
            if part.is_empty:
                continue
            is_whole = shapely.covers(part, outline)
            inside[block.within(rect)] = True if is_whole else _centres_in(part, block)
        return inside

    @cached_property
    def _stored_footprint(self) -> shapely.Geometry:
        """The footprint in pixel coordinates of the file."""
        if self.footprint is None or self.footprint.is_empty:
            return shapely.Polygon()
        return _to_frame(self.footprint, "EPSG:4326", self.geobox)


@dataclass(frozen=True)
class PlacedTile:
    """A tile on a frame.

    Attributes
    ----------
    tile : Tile
        As stored.
    rect : Rect or None
        Its pixels in the frame, past whose edges they may reach; None for another lattice.
    extent, footprint : shapely.Geometry or None
        In pixel coordinates of the frame. None for an extent that is ``rect``, and for a footprint
        that is the extent.
    """

    tile: Tile
    rect: Rect | None
    extent: shapely.Geometry | None
    footprint: shapely.Geometry | None

    @property
    def on_lattice(self) -> bool:
        """True when its pixels are pixels of the frame."""
        return self.rect is not None

    @property
    def outline(self) -> shapely.Geometry:
        """The extent as a polygon in pixel coordinates."""
        if self.rect is None:
            return self.extent
        return shapely.box(self.rect.left, self.rect.top, self.rect.right, self.rect.bottom)

    @property
    def bounds(self) -> Rect:
        """The smallest rectangle of the frame that holds it."""
        if self.rect is not None:
            return self.rect
        if shapely.is_empty(self.extent):
            return Rect(0, 0, 0, 0)
        left, top, right, bottom = shapely.bounds(self.extent).tolist()
        floor, ceil = int(np.floor(top)), int(np.ceil(bottom))
        return Rect(floor, int(np.floor(left)), ceil, int(np.ceil(right)))

    def covers(self, rect: Rect, *, footprint: bool) -> npt.NDArray[np.bool_]:
        """Which pixels of a rectangle have their centre in the footprint, or in the extent."""
        outline = self.footprint if footprint and self.footprint is not None else self.extent
        if outline is not None:
            return _centres_in(outline, rect)
        inside = np.zeros(rect.shape, dtype=bool)
        part = rect.meet(self.bounds)
        if not part.is_empty:
            inside[part.within(rect)] = True
        return inside


def pixels_asset(item: pystac.Item) -> pystac.Asset:
    """The asset that an item's pixels are read from, or drawn from."""
    assets = item.assets
    return assets[PIXELS_ASSET] if PIXELS_ASSET in assets else assets[FEATURES_ASSET]


def tile_of(item: pystac.Item, asset_key: str | None = None) -> Tile:
    """The tile that an asset of an item describes; opens no file.

    Parameters
    ----------
    item : pystac.Item
        From a catalog.
    asset_key : str, optional
        Default: :func:`pixels_asset`.

    Raises
    ------
    CatalogError
        If the item does not say where its pixels lie.
    """
    asset = pixels_asset(item) if asset_key is None else item.assets[asset_key]
    media_type = str(asset.media_type or "").split(";", maxsplit=1)[0].strip()
    kind = _FILE_KINDS.get(media_type, "gdal")
    return _table_of(item, asset) if kind == "features" else _raster_of(item, asset, kind)


def _table_of(item: pystac.Item, asset: pystac.Asset) -> Tile:
    return Tile(
        item_id=item.id,
        href=asset.href,
        kind="features",
        crs=str(item.properties["proj:code"]),
        affine=Affine.identity(),
        shape=(0, 0),
        block_shape=(0, 0),
        axes="band,y,x",
        array="",
        time_index=None,
        footprint=shapely.geometry.shape(item.geometry),
        size_bytes=asset.extra_fields.get("file:size"),
        checksum=str(asset.extra_fields.get("file:checksum", "")),
        bands=tuple(str(band["name"]) for band in asset.extra_fields["bands"]),
    )


def _raster_of(item: pystac.Item, asset: pystac.Asset, kind: str) -> Tile:
    facts: dict[str, Any] = {**item.properties, **asset.extra_fields}
    crs = facts.get("proj:code") or facts.get("proj:wkt2")
    transform, shape = facts.get("proj:transform"), facts.get("proj:shape")
    if not crs or transform is None or shape is None:
        raise CatalogError(
            f"item {item.id!r} lacks proj:code, proj:transform or proj:shape, so its pixels have "
            "no place; register the file with lczcube build-catalog."
        )
    zarr: Mapping[str, Any] = facts.get("lczcube:zarr", {})
    rows, columns = (int(n) for n in shape)
    band = _lcz_band(asset)
    return Tile(
        item_id=item.id,
        href=asset.href,
        kind=kind,
        crs=str(crs),
        affine=Affine(*[float(v) for v in transform[:6]]),
        shape=(rows, columns),
        block_shape=_block_shape(facts, (rows, columns)),
        axes=str(zarr.get("axes") or facts.get("lczcube:axes") or "band,y,x"),
        array=str(zarr.get("array", "")),
        time_index=zarr.get("time_index"),
        footprint=None if item.geometry is None else shapely.geometry.shape(item.geometry),
        size_bytes=asset.extra_fields.get("file:size"),
        checksum=str(asset.extra_fields.get("file:checksum", "")),
        band=band,
        zones=None if band is None else _zones(asset.extra_fields["bands"][band]),
        mask=mask_of(item) if asset is item.assets.get(PIXELS_ASSET) else None,
    )


def mask_of(item: pystac.Item) -> Mask | None:
    """The mask that says of itself what it means; any other is somebody's picture."""
    asset = item.assets.get(MASK)
    means = None if asset is None else asset.extra_fields.get("lczcube:mask")
    if asset is None or means is None:
        return None
    return Mask(asset.href, zero_is_valid=means == "zero_is_valid")


def place_tiles(tiles: Sequence[Tile], frame: GeoBox) -> list[PlacedTile]:
    """Tiles on a frame, those on its lattice first, then in order of id; tiles beside it left out.

    The order is that of ownership: of the tiles whose footprint holds a pixel's centre the first
    owns the pixel.
    """
    window = frame_rect(frame)
    placed = [_place(tile, frame) for tile in tiles]
    inside = [p for p in placed if not p.bounds.meet(window).is_empty]
    return sorted(inside, key=lambda p: (not p.on_lattice, p.tile.item_id))


def frame_rect(frame: GeoBox) -> Rect:
    """All pixels of a frame."""
    rows, columns = frame.shape
    return Rect(0, 0, rows, columns)


def _lcz_band(asset: pystac.Asset) -> int | None:
    if LCZ_BAND not in asset.extra_fields:
        return None
    names = [band["name"] for band in asset.extra_fields["bands"]]
    return names.index(asset.extra_fields[LCZ_BAND])


def _zones(band: Mapping[str, Any]) -> CodeTable:
    return CodeTable.of_classes(band["classification:classes"], band.get("nodata"))


def _block_shape(facts: Mapping[str, Any], shape: tuple[int, int]) -> tuple[int, int]:
    rows, columns = facts.get("lczcube:block_shape", (DEFAULT_BLOCK_PX, DEFAULT_BLOCK_PX))
    return min(int(rows), shape[0]), min(int(columns), shape[1])


def _place(tile: Tile, frame: GeoBox) -> PlacedTile:
    if tile.kind == "features":
        return PlacedTile(tile, None, _projected_footprint(tile, frame), None)
    rect = _lattice_rect(tile, frame)
    extent = None if rect is not None else _projected_extent(tile, frame)
    footprint = _projected_footprint(tile, frame)
    if footprint is not None and shapely.covers(footprint, _inner(rect, extent, frame)):
        footprint = None
    return PlacedTile(tile, rect, extent, footprint)


def _lattice_rect(tile: Tile, frame: GeoBox) -> Rect | None:
    if CRS(tile.crs) != frame.crs:
        return None
    a, b, _, d, e, _ = tile.affine[:6]
    pixel_x, pixel_y = frame.affine.a, abs(frame.affine.e)
    drift_px = max(abs(abs(a) - pixel_x) / pixel_x, abs(abs(e) - pixel_y) / pixel_y)
    if b or d or drift_px * max(tile.shape) > LATTICE_TOLERANCE_PX:
        return None
    rows, columns = tile.shape
    left = tile.affine.c + min(a * columns, 0)
    top = tile.affine.f + max(e * rows, 0)
    column = (left - frame.affine.c) / pixel_x
    row = (frame.affine.f - top) / pixel_y
    if max(abs(column - round(column)), abs(row - round(row))) > LATTICE_TOLERANCE_PX:
        return None
    return Rect(round(row), round(column), round(row) + rows, round(column) + columns)


def _projected_extent(tile: Tile, frame: GeoBox) -> shapely.Geometry:
    rows, columns = tile.shape
    corners = [
        tile.affine * corner for corner in ((0, 0), (columns, 0), (columns, rows), (0, rows))
    ]
    return _to_frame(shapely.Polygon(corners), tile.crs, frame)


def _projected_footprint(tile: Tile, frame: GeoBox) -> shapely.Geometry | None:
    """The footprint near the frame: far from it a UTM zone has no image of it."""
    if tile.footprint is None:
        return None
    west, south, east, north = project_bbox(bbox_of(frame), str(frame.crs), "EPSG:4326")
    margin = 0.2 * max(east - west, north - south)
    near = shapely.box(west - margin, south - margin, east + margin, north + margin)
    part = shapely.intersection(tile.footprint, near)
    return part if part.is_empty else _to_frame(part, "EPSG:4326", frame)


def _to_frame(outline: shapely.Geometry, crs: str, frame: GeoBox) -> shapely.Geometry:
    minx, miny, maxx, maxy = outline.bounds
    dense = shapely.segmentize(outline, max(maxx - minx, maxy - miny) / N_SEGMENTS)
    if CRS(crs) != frame.crs:
        transformer = Transformer.from_crs(crs, str(frame.crs), always_xy=True)
        dense = shapely.transform(
            dense, lambda xy: np.column_stack(transformer.transform(xy[:, 0], xy[:, 1]))
        )
    to_px = ~frame.affine
    return shapely.transform(
        dense,
        lambda xy: np.column_stack([to_px.a * xy[:, 0] + to_px.c, to_px.e * xy[:, 1] + to_px.f]),
    )


def _inner(rect: Rect | None, extent: shapely.Geometry | None, frame: GeoBox) -> shapely.Geometry:
    """The part of an extent in the frame, its edge moved in to where no centre is left out."""
    if rect is not None:
        extent = shapely.box(rect.left, rect.top, rect.right, rect.bottom)
    rows, columns = frame.shape
    return shapely.intersection(shapely.buffer(extent, -0.45), shapely.box(0, 0, columns, rows))


def _blocks_of(rect: Rect) -> Iterator[Rect]:
    for top in range(rect.top, rect.bottom, OUTLINE_BLOCK_PX):
        for left in range(rect.left, rect.right, OUTLINE_BLOCK_PX):
            yield Rect(top, left, top + OUTLINE_BLOCK_PX, left + OUTLINE_BLOCK_PX).meet(rect)


def _centres_in(outline: shapely.Geometry, rect: Rect) -> npt.NDArray[np.bool_]:
    """Not by rasterio's masks, which are not thread-safe: they change the warning filters."""
    shapely.prepare(outline)
    x, y = np.arange(rect.left, rect.right) + 0.5, np.arange(rect.top, rect.bottom) + 0.5
    inside: npt.NDArray[np.bool_] = shapely.intersects_xy(outline, *np.meshgrid(x, y))
    return inside
