"""Source ``tessera``: Cambridge's annual embedding, as npy tiles, GeoTIFF exports or Zarr zones.

A tile is int8 codes and a float32 scale for each pixel. Codes and scales do not say where they
lie: the name says which 0.1 degree box, the land mask says CRS and origin.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lczcube.errors import LczcubeError, SourceError
from lczcube.sources import tessera_exports, tessera_zarr
from lczcube.sources.files import (
    SourceFile,
    file_facts,
    find_hrefs,
    is_remote,
    media_type,
    require_file,
    with_ids,
    with_year,
)
from lczcube.sources.footprints import (
    BBox,
    box_footprint,
    footprint,
    meets_any,
    search_boxes,
)
from lczcube.sources.inputs import EmbeddingInput, Publication
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
from lczcube.sources.npy import NpyHeader, read_header
from lczcube.sources.raster import open_raster
from lczcube.sources.tessera_archives import (
    LANDMASKS_FOLDER,
    Archive,
    read_archive,
    require_product,
)
from lczcube.sources.tessera_tiles import BAND_NAMES, N_BANDS, PIXEL_M, GridTile, snap_outward

if TYPE_CHECKING:
    import pystac
    from rasterio.io import DatasetReader

MAX_EXTRA_PX = 2
"""Codes may have this many rows or columns more or less than the land mask: it rounds its extent,
codes are laid out from ``floor`` to ``ceil``."""

_YEAR_FOLDER = re.compile(r"\d{4}")
_SCALES = "_scales"

_NO_MASK = "No land mask: CRS and origin are computed from the tile's name."


class TesseraInput(EmbeddingInput):
    """An ``[[input]]`` of TESSERA.

    Attributes
    ----------
    href : str or list of str
        Folders of an archive (searched all the way down), tiles (``grid_X_Y.npy``, with their
        scales beside them; exports ``.tif``), globs, or Zarr stores. Of a folder only tiles that
        meet a city are registered.
    product : str, optional
        ``tessera/{version}/{variant}``, where the archive does not tell it.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".npy", ".tif", ".tiff")
    publication: ClassVar[Publication | None] = Publication(
        license="CC0-1.0",
        license_note="The publisher asks to be named: TESSERA, University of Cambridge "
        "(arXiv:2506.20380).",
        citation="Feng, Z. et al. (2025): TESSERA: Temporal Embeddings of Surface Spectra for "
        "Earth Representation and Analysis. arXiv:2506.20380",
        doi="10.48550/arXiv.2506.20380",
        producer="University of Cambridge",
        url="https://geotessera.org",
    )

    source: Literal["tessera"]


@dataclass(frozen=True, kw_only=True)
class TileFile(SourceFile):
    """A tile of codes, and what its archive says of it.

    Attributes
    ----------
    tile : GridTile
        Which.
    products : frozenset of str
        What the archive says it is; several contradict each other.
    landmask : str or None
        Path of its land mask.
    sizes : tuple of frozenset of int
        Bytes of codes, scales and land mask by the archive's tables: one of these; empty where
        they do not say.
    """

    tile: GridTile
    products: frozenset[str] = frozenset()
    landmask: str | None = None
    sizes: tuple[frozenset[int], frozenset[int], frozenset[int]] = (frozenset(),) * 3

    @property
    def scales(self) -> SourceFile:
        """The scales beside the codes."""
        path = Path(self.href)
        href = path.with_name(f"{path.stem}{_SCALES}.npy").as_posix()
        return SourceFile(href, self.item_id, self.year, self.city)


def find_files(
    entry: TesseraInput, *, folder: Path, cities: Mapping[str, BBox]
) -> list[SourceFile]:
    """The tiles, exports and Zarr zones an input means; opens none, reads the archives' tables.

    Raises
    ------
    ConfigError
        If an href cannot be used.
    """
    named = [entry.city] if entry.city and entry.city in cities else list(cities)
    boxes = search_boxes(cities[name] for name in named)
    found = find_hrefs(entry, folder=folder, cities=tuple(cities), search=_search)
    made = (_recognised(entry, file) for file in found)
    wanted = [file for file in made if file is not None and _is_near(file, boxes)]
    return with_ids(entry, _with_archives(wanted))


def build_items(entry: TesseraInput, file: SourceFile) -> list[SourceItem]:
    """The item of a tile, or one a year of a Zarr zone; reads headers, and no pixel.

    Raises
    ------
    MissingInputError
        If a file is not there.
    SourceError
        If it is broken, no TESSERA, or does not say which product it is.
    """
    if file.fault is not None:
        raise file.fault
    if tessera_zarr.is_zone(file.href):
        return tessera_zarr.zone_items(entry, file)
    require_file(file)
    if isinstance(file, TileFile):
        return [_npy_item(entry, file)]
    return [tessera_exports.export_item(entry, file)]


# Finding


def _search(folder: Path) -> list[str]:
    """Tiles and Zarr zones below a folder; of a Zarr store nothing else is looked at.

    Exports only where there are neither: beside tiles they hold the same, as the publisher's
    library has it too.
    """
    hrefs: list[str] = []
    for path, folders, files in os.walk(folder):
        place = Path(path)
        if tessera_zarr.is_zone(place):
            hrefs.append(place.as_posix())
            folders.clear()
            continue
        is_store = "zarr.json" in files
        folders[:] = sorted(name for name in folders if _is_searched(place / name, is_store))
        hrefs += [(place / name).as_posix() for name in files if _is_ours(name)]
    codes = [href for href in hrefs if not href.endswith((".tif", ".tiff"))]
    return sorted(codes or hrefs)


def _is_searched(folder: Path, is_in_store: bool) -> bool:
    if is_in_store:
        return tessera_zarr.is_zone(folder)
    return folder.name not in (LANDMASKS_FOLDER, "landmasks")


def _is_ours(name: str) -> bool:
    path = Path(name)
    if path.suffix == ".npy":
        return GridTile.of_name(path.stem) is not None
    return tessera_exports.tile_and_year(path) is not None


def _recognised(entry: TesseraInput, file: SourceFile) -> SourceFile | None:
    """A file with its year and tile; None for one that is no tile of its own, or not wanted."""
    if is_remote(file.href):
        return replace(
            file,
            fault=SourceError(
                f"{file.href} is a URL; TESSERA is registered from a local copy, since codes, "
                "scales and land mask are three files. Fetch it (geotessera download)."
            ),
        )
    path = Path(file.href)
    if tessera_zarr.is_zone(path):
        return file
    tile = GridTile.of_name(path.stem)
    if path.is_file() and path.suffix.lower() not in TesseraInput.suffixes:
        fault = SourceError(
            f"{path} is neither a tile (.npy), an export (.tif) nor a Zarr zone; name the folder "
            "of the archive."
        )
        return replace(file, fault=fault)
    if path.suffix != ".npy":
        return None if tile is not None else _dated_export(entry, file)
    if path.stem.endswith(_SCALES):
        return None
    if tile is None:
        fault = SourceError(
            f"{path} is not named grid_LON_LAT.npy after a tile of 0.1 degree, so it has no place; "
            "give it back the publisher's name."
        )
        return replace(file, fault=fault)
    dated = with_year(entry, file, _year_folder(path))
    if dated is None:
        return None
    return TileFile(**(vars(dated) | {"tile": tile}))


def _dated_export(entry: TesseraInput, file: SourceFile) -> SourceFile | None:
    """An export with the year of its name or folder; without one its tags tell, later."""
    path = Path(file.href)
    found = tessera_exports.tile_and_year(path)
    told = found[1] if found else _year_folder(path)
    return with_year(entry, file, told) if told is not None else file


def _year_folder(path: Path) -> int | None:
    """Year by the folder of a tile's folder, or its own; one further up is somebody's project."""
    near = list(path.parents)[:2]
    return next((int(p.name) for p in near if _YEAR_FOLDER.fullmatch(p.name)), None)


def _is_near(file: SourceFile, boxes: Sequence[BBox]) -> bool:
    """False for a tile that a search found and no city wants."""
    if not file.is_found:
        return True
    if tessera_zarr.is_zone(file.href):
        return any(meets_any(box, boxes) for box in tessera_zarr.zone_boxes(file.href))
    if isinstance(file, TileFile):
        return meets_any(file.tile.bbox, boxes)
    found = tessera_exports.tile_and_year(Path(file.href))
    return found is None or meets_any(found[0].bbox, boxes)


def _with_archives(files: Sequence[SourceFile]) -> list[SourceFile]:
    """The tiles with what the tables of their archives say; a broken table is all tiles' fault."""
    tiles: dict[Path, list[GridTile]] = {}
    for file in files:
        if isinstance(file, TileFile):
            tiles.setdefault(_archive_folder(file), []).append(file.tile)
    archives: dict[Path, Archive | LczcubeError] = {}
    for place, wanted in tiles.items():
        try:
            archives[place] = read_archive(place, wanted)
        except LczcubeError as error:
            archives[place] = error
    return [
        _with_archive(file, archives[_archive_folder(file)]) if isinstance(file, TileFile) else file
        for file in files
    ]


def _archive_folder(file: TileFile) -> Path:
    """The folder that holds the folders of years; of a tile outside one, its own."""
    path = Path(file.href)
    near = list(path.parents)[:2]
    return next((p.parent for p in near if _YEAR_FOLDER.fullmatch(p.name)), path.parent)


def _with_archive(file: TileFile, archive: Archive | LczcubeError) -> TileFile:
    if isinstance(archive, LczcubeError):
        return replace(file, fault=file.fault or archive)
    if file.year is None:
        return file
    landmask = archive.landmask(file.tile, Path(file.href).parent)
    return replace(
        file,
        products=archive.products(file.year, file.tile),
        landmask=None if landmask is None else landmask.as_posix(),
        sizes=archive.sizes(file.year, file.tile),
    )


# Tiles of codes


@dataclass(frozen=True)
class _Place:
    """Where the pixels of a tile lie: CRS, upper-left corner, and the shape they should have."""

    crs: str
    origin: tuple[float, float]
    shape: tuple[int, int]
    note: str | None = None


def _npy_item(entry: TesseraInput, file: TileFile) -> SourceItem:
    product = require_product(entry.product, file.products, file.href)
    codes, scales = _codes_header(file), _scales_header(file.scales)
    _require_size(file.href, file.sizes[0])
    _require_size(file.scales.href, file.sizes[1])
    place = _place_by_name(file) if file.landmask is None else _place_by_mask(file, file.landmask)
    for header, href in ((codes, file.href), (scales, file.scales.href)):
        _require_shape(header, href, place)
    # The land mask's own shape does not matter: it may be a row short.
    shape = min(codes.shape[0], scales.shape[0]), min(codes.shape[1], scales.shape[1])
    transform = (PIXEL_M, 0, place.origin[0], 0, -PIXEL_M, place.origin[1])
    properties: dict[str, Any] = grid_fields(place.crs, shape, transform)
    if place.note is not None:
        properties["lczcube:note"] = place.note
    item = new_item(
        file.item_id,
        box_footprint(file.tile.bbox),
        year=file.year,
        properties=properties,
        extensions=(PROJECTION_URI, RASTER_URI, FILE_URI, LCZCUBE_URI),
    )
    for key, asset in _tile_assets(entry, file, scales).items():
        item.add_asset(key, asset)
    return SourceItem(
        item, coding={"product": product, "decoder": "int8_times_scale", "valid": "finite_scale"}
    )


def _codes_header(file: TileFile) -> NpyHeader:
    header = read_header(file)
    if header.dtype != "int8" or len(header.shape) != 3 or header.shape[2] != N_BANDS:
        raise SourceError(
            f"{file.href} holds {header.dtype} of shape {header.shape}; codes of TESSERA are int8, "
            f"(rows, columns, {N_BANDS}). Fetch it again."
        )
    return header


def _scales_header(file: SourceFile) -> NpyHeader:
    header = read_header(file)
    if header.dtype != "float32" or header.shape[2:] not in ((), (N_BANDS,)):
        raise SourceError(
            f"{file.href} holds {header.dtype} of shape {header.shape}; scales of TESSERA are "
            f"float32, (rows, columns) or (rows, columns, {N_BANDS}). Fetch it again."
        )
    return header


def _require_size(href: str, expected: frozenset[int]) -> None:
    found = Path(href).stat().st_size
    if expected and found not in expected:
        listed = " or ".join(map(str, sorted(expected)))
        raise SourceError(
            f"{href} has {found} bytes, and {listed} by its archive's table; fetch both again."
        )


def _require_shape(header: NpyHeader, href: str, place: _Place) -> None:
    """Raise where codes or scales are those of another tile than the land mask, or of a part."""
    rows, columns = header.shape[:2]
    expected_rows, expected_columns = place.shape
    apart = max(abs(rows - expected_rows), abs(columns - expected_columns))
    if apart > MAX_EXTRA_PX or min(rows, columns) < 1:
        by = "its land mask" if place.note is None else "its name, and no land mask says where a "
        by += "" if place.note is None else "part of it lies"
        raise SourceError(
            f"{href} has {rows} x {columns} pixels, and {expected_rows} x {expected_columns} by "
            f"{by}; fetch them again."
        )


def _place_by_mask(file: TileFile, landmask: str) -> _Place:
    mask = SourceFile(landmask, file.item_id, file.year, file.city)
    require_file(mask)
    _require_size(landmask, file.sizes[2])
    with open_raster(mask) as raster:
        a, e = raster.transform.a, raster.transform.e
        if (a, e) != (PIXEL_M, -PIXEL_M):
            raise SourceError(
                f"{landmask} has pixels of {a:g} x {e:g}; the land mask of a tile is north-up with "
                f"pixels of {PIXEL_M} m. Fetch it again."
            )
        crs = crs_name(raster.crs)
        _require_box_in_mask(file.tile, raster, landmask)
        origin = snap_outward(raster.transform.c, raster.transform.f)
        return _Place(crs, origin, raster.shape)


def _require_box_in_mask(tile: GridTile, raster: DatasetReader, landmask: str) -> None:
    """Raise where the land mask lies elsewhere than the tile's name says."""
    import shapely

    outline = footprint(shapely.box(*raster.bounds), crs_name(raster.crs), where=landmask)
    if not shapely.intersects(shapely.geometry.shape(outline.geometry), shapely.box(*tile.bbox)):
        raise SourceError(
            f"{landmask} lies at {tuple(round(v, 2) for v in outline.bbox)}, and its name says "
            f"{tile.bbox}; fetch it again."
        )


def _place_by_name(file: TileFile) -> _Place:
    minx, _, _, maxy = file.tile.projected_bbox()
    return _Place(file.tile.crs, snap_outward(minx, maxy), file.tile.mask_shape(), note=_NO_MASK)


def _tile_assets(entry: TesseraInput, file: TileFile, scales: NpyHeader) -> dict[str, pystac.Asset]:
    import pystac

    assets = {
        "data": pystac.Asset(
            href=file.href,
            title=entry.title,
            media_type=media_type(file.href),
            roles=["data"],
            extra_fields={
                "bands": named_bands(BAND_NAMES, "int8"),
                "lczcube:axes": "y,x,band",
                "raster:spatial_resolution": float(PIXEL_M),
                **file_facts(file.href, checksum=entry.checksums),
            },
        ),
        "scales": pystac.Asset(
            href=file.scales.href,
            title="Scale of each pixel",
            media_type=media_type(file.scales.href),
            roles=["auxiliary"],
            extra_fields={
                "data_type": "float32",
                "lczcube:axes": "y,x" if len(scales.shape) == 2 else "y,x,band",
                **file_facts(file.scales.href, checksum=entry.checksums),
            },
        ),
    }
    if file.landmask is not None:
        assets["landmask"] = pystac.Asset(
            href=file.landmask,
            title="Land 1, water 0",
            media_type=media_type(file.landmask),
            roles=["mask"],
            extra_fields=file_facts(file.landmask, checksum=entry.checksums),
        )
    return assets
