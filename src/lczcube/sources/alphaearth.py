"""Source ``alphaearth``: Google's annual satellite embedding, 64 int8 bands in south-up COGs.

The files do not say in their names where they lie: an index does, or their headers.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, model_validator

from lczcube.errors import ConfigError, LczcubeError, MissingInputError, SourceError
from lczcube.sources.files import (
    SourceFile,
    file_facts,
    find_hrefs,
    first_line,
    is_remote,
    media_type,
    require_file,
    require_public,
    resolve_path,
    with_ids,
    with_year,
)
from lczcube.sources.footprints import (
    BBox,
    Footprint,
    clipped,
    footprint,
    geometry_footprint,
    meets_any,
    search_boxes,
    utm_meridians,
)
from lczcube.sources.inputs import EmbeddingInput, Publication, as_texts
from lczcube.sources.items import (
    FILE_URI,
    LCZCUBE_URI,
    PROJECTION_URI,
    RASTER_URI,
    SourceItem,
    crs_name,
    grid_bbox,
    grid_fields,
    named_bands,
    new_item,
)
from lczcube.sources.raster import COG_TYPE, open_raster

if TYPE_CHECKING:
    import pandas as pd
    import pystac
    from rasterio.io import DatasetReader

BAND_NAMES = tuple(f"A{band:02d}" for band in range(64))
NODATA = -128
PIXEL_M = 10
BLOCK_PX = 1024
"""Side of a block of the publisher's COGs, pixels."""

PRODUCT = "alphaearth/1"

_YEAR_AND_ZONE = re.compile(r"/(?P<year>20\d\d)/(?P<zone>\d{1,2})(?P<hemisphere>[NS])/")

_INDEX_COLUMNS = ("crs", "year", "utm_west", "utm_south", "utm_east", "utm_north", "path")
_STAC_COLUMNS = ("proj:epsg", "datetime", "assets")


class AlphaEarthInput(EmbeddingInput):
    """An ``[[input]]`` of AlphaEarth's tiles.

    Attributes
    ----------
    href : str or list of str
        Tiles, folders of tiles (searched all the way down) or globs. With ``index``: the one
        folder or URL below which ``{year}/{zone}/{name}`` lie, in place of the index's own paths.
    index : str, optional
        The publisher's ``aef_index.parquet``, or its stac-geoparquet. Only tiles of it that meet a
        city and are of a wanted year are registered; no tile is opened (but each one is for the
        stac-geoparquet, which does not say where the pixels lie, unless ``aef_index.parquet`` is
        beside it).
    """

    suffixes: ClassVar[tuple[str, ...]] = (".tif", ".tiff")
    publication: ClassVar[Publication | None] = Publication(
        license="CC-BY-4.0",
        license_note="The AlphaEarth Foundations Satellite Embedding dataset is produced by Google "
        "and Google DeepMind.",
        citation="Brown, C. F. et al. (2025): AlphaEarth Foundations: An embedding field model for "
        "accurate and efficient global mapping from sparse label data. arXiv:2507.22291",
        doi="10.48550/arXiv.2507.22291",
        producer="Google and Google DeepMind",
        url="https://deepmind.google/science/alphaearth",
    )

    source: Literal["alphaearth"]
    href: Annotated[tuple[str, ...], BeforeValidator(as_texts)] = ()
    index: str | None = None

    @property
    def places(self) -> tuple[str, ...]:
        """The index, and what holds the tiles."""
        return self.href if self.index is None else (self.index, *self.href)

    @model_validator(mode="after")
    def _check_place(self) -> AlphaEarthInput:
        if not self.href and self.index is None:
            raise ValueError(
                "has neither href nor index; name the tiles, or the publisher's aef_index.parquet"
            )
        if self.index is not None and (len(self.href) > 1 or any("{" in h for h in self.href)):
            raise ValueError(
                "has an index, so href is one folder or URL, below which {year}/{zone}/{name} lie; "
                "leave it out for the paths of the index"
            )
        return self


@dataclass(frozen=True, kw_only=True)
class IndexedTile(SourceFile):
    """A tile as an index describes it.

    Attributes
    ----------
    crs : str
        ``EPSG:n``.
    bounds : tuple of float or None
        ``(west, south, east, north)`` of the pixels, in ``crs``; None where the index lacks it.
    outline : Footprint
        Clipped to the UTM zone.
    """

    crs: str
    bounds: BBox | None
    outline: Footprint


def find_files(
    entry: AlphaEarthInput, *, folder: Path, cities: Mapping[str, BBox]
) -> list[SourceFile]:
    """The tiles an input means; opens no tile, reads an index whole.

    Raises
    ------
    ConfigError
        If an index is to be searched but no city says where, or an href cannot be used.
    """
    if entry.index is not None:
        return with_ids(entry, _indexed(entry, folder, cities))
    found = find_hrefs(entry, folder=folder, cities=tuple(cities), search=_tiles_below)
    dated = (with_year(entry, file, year_in(file.href)) for file in found)
    return with_ids(entry, [file for file in dated if file is not None])


def build_items(entry: AlphaEarthInput, file: SourceFile) -> list[SourceItem]:
    """The item of one tile: from its index, else from its header. Reads no pixel.

    Raises
    ------
    MissingInputError
        If the file is not there.
    SourceError
        If it is no tile of AlphaEarth, or its path contradicts its year or CRS.
    """
    if file.fault is not None:
        raise file.fault
    require_file(file)
    if isinstance(file, IndexedTile) and file.bounds is not None:
        item = _item_of_index(entry, file, file.bounds)
    else:
        item = _item_of_header(entry, file)
    _add_vrt(item, file.href)
    coding = {
        "product": entry.product or PRODUCT,
        "decoder": "signed_square",
        "valid": "all_bands_nodata",
    }
    return [SourceItem(item, coding=coding)]


def year_in(href: str) -> int | None:
    """Year of a path ``…/{year}/{zone}/{name}``, None where it has none.

    Examples
    --------
    >>> year_in("s3://bucket/v1/annual/2020/31N/x8qqwcsisbgygl2ry-0000000000-0000008192.tiff")
    2020
    """
    found = _last_year_and_zone(href)
    return None if found is None else int(found["year"])


def zone_in(href: str) -> str | None:
    """CRS that the zone in a path names, ``EPSG:n``; None where it names none.

    Examples
    --------
    >>> zone_in("annual/2020/1S/x8qqwcsisbgygl2ry-0000000000-0000008192.tiff")
    'EPSG:32701'
    """
    found = _last_year_and_zone(href)
    if found is None:
        return None
    return f"EPSG:32{6 if found['hemisphere'] == 'N' else 7}{int(found['zone']):02d}"


def _last_year_and_zone(href: str) -> re.Match[str] | None:
    found = list(_YEAR_AND_ZONE.finditer(f"/{href}"))
    return found[-1] if found else None


def _tiles_below(folder: Path) -> list[str]:
    return sorted(
        path.as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in AlphaEarthInput.suffixes and path.is_file()
    )


# From the index


def _indexed(entry: AlphaEarthInput, folder: Path, cities: Mapping[str, BBox]) -> list[SourceFile]:
    if not cities:
        raise ConfigError(
            f"[[input]] {entry.name!r} has an index of the whole Earth, but the file names no "
            "city; add a [city.NAME] table with its bbox."
        )
    named = [entry.city] if entry.city else list(cities)
    boxes = search_boxes(cities[name] for name in named)
    root = resolve_path(entry.href[0], entry, folder) if entry.href else None
    path = resolve_path(str(entry.index), entry, folder)
    index = SourceFile(path, "", None, entry.city or "")
    try:
        rows = _rows_of(index, boxes)
    except LczcubeError as error:
        return [replace(index, fault=error)]
    wanted = entry.all_years
    return [
        _indexed_tile(entry, row, root)
        for row in rows
        if (not wanted or row.year in wanted) and _meets(row, boxes)
    ]


def _rows_of(index: SourceFile, boxes: Sequence[BBox]) -> list[_Row]:
    try:
        return list(_read_index(index, boxes))
    except (AttributeError, KeyError, TypeError) as error:
        raise SourceError(
            f"{index.href} has a row that cannot be read ({first_line(error)}); fetch it again."
        ) from error


@dataclass(frozen=True)
class _Row:
    """A row of an index."""

    path: str
    year: int
    crs: str
    bounds: BBox | None
    bbox: BBox
    geometry: bytes


def _read_index(file: SourceFile, boxes: Sequence[BBox]) -> Iterator[_Row]:
    """Rows of an index near the boxes, whose outlines may yet miss them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if is_remote(file.href):
        raise SourceError(f"{file.href} is an index at a URL; fetch it, and name the file.")
    require_file(file)
    try:
        names = set(pq.read_schema(file.href).names)
        table = pq.read_table(file.href, filters=_near(names, boxes))
    except (OSError, pa.ArrowException) as error:
        raise SourceError(
            f"{file.href} cannot be read as Parquet ({first_line(error)}); fetch it again."
        ) from error
    if {"geometry", *_INDEX_COLUMNS} <= names:
        return _plain_rows(table.to_pandas())
    if {"geometry", *_STAC_COLUMNS} <= names:
        return _stac_rows(table.to_pandas(), _bounds_beside(file, boxes))
    missing = sorted({"geometry", *_INDEX_COLUMNS} - names)
    raise SourceError(
        f"{file.href} is no index of AlphaEarth: it lacks {', '.join(missing)}. Name the "
        "publisher's aef_index.parquet, or its stac-geoparquet."
    )


def _near(names: Collection[str], boxes: Sequence[BBox]) -> Any:
    """A filter for rows whose columns of bounds meet a box; None for a table without them."""
    import pyarrow.compute as pc

    sides = [f"wgs84_{side}" for side in ("west", "south", "east", "north")]
    if set(sides) <= set(names):
        west, south, east, north = (pc.field(side) for side in sides)
    elif "bbox" in names:
        corners = ("xmin", "ymin", "xmax", "ymax")
        west, south, east, north = (pc.field("bbox", corner) for corner in corners)
    else:
        return None
    crosses = west > east  # the antimeridian
    return reduce(
        or_,
        (
            (crosses | ((west <= b[2]) & (east >= b[0]))) & (south <= b[3]) & (north >= b[1])
            for b in boxes
        ),
    )


def _plain_rows(table: pd.DataFrame) -> Iterator[_Row]:
    for row in table.sort_values(["year", "path"], kind="stable").to_dict("records"):
        bounds = tuple(float(row[f"utm_{side}"]) for side in ("west", "south", "east", "north"))
        yield _row(str(row["path"]), int(row["year"]), str(row["crs"]), bounds, row["geometry"])


def _stac_rows(table: pd.DataFrame, bounds: Mapping[tuple[int, str], BBox]) -> Iterator[_Row]:
    """Rows of the stac-geoparquet, whose ``proj:epsg`` is the text ``EPSG:n``."""
    import pandas as pd

    rows = table.to_dict("records")
    hrefs = [str(row["assets"]["data"]["href"]) for row in rows]
    for href, row in sorted(zip(hrefs, rows, strict=True), key=lambda pair: pair[0]):
        year = int(pd.Timestamp(row["datetime"]).year)
        key = (year, href.rsplit("/", maxsplit=1)[-1])
        yield _row(href, year, str(row["proj:epsg"]), bounds.get(key), row["geometry"])


def _row(path: str, year: int, crs: str, bounds: Any, geometry: bytes) -> _Row:
    import shapely

    return _Row(path, year, crs, bounds, shapely.from_wkb(geometry).bounds, geometry)


def _bounds_beside(file: SourceFile, boxes: Sequence[BBox]) -> dict[tuple[int, str], BBox]:
    """Bounds by year and file name, from the plain index beside a stac-geoparquet."""
    beside = Path(file.href).with_name("aef_index.parquet")
    if not beside.is_file():
        return {}
    rows = _read_index(SourceFile(beside.as_posix(), "", None, ""), boxes)
    return {(r.year, r.path.rsplit("/", maxsplit=1)[-1]): r.bounds for r in rows if r.bounds}


def _meets(row: _Row, boxes: Sequence[BBox]) -> bool:
    import shapely

    if not meets_any(row.bbox, boxes):
        return False
    geometry = shapely.from_wkb(row.geometry)
    return any(shapely.intersects(geometry, shapely.box(*box)) for box in boxes)


def _indexed_tile(entry: AlphaEarthInput, row: _Row, root: str | None) -> IndexedTile:
    import shapely

    href = row.path
    if root is not None:
        href = "/".join([root.rstrip("/"), *row.path.split("/")[-3:]])
    return IndexedTile(
        href=href,
        item_id="",
        year=row.year,
        city=entry.city or "",
        is_found=True,
        fault=_fault_of(entry, row, href),
        crs=row.crs,
        bounds=row.bounds,
        outline=geometry_footprint(shapely.from_wkb(row.geometry)),
    )


def _fault_of(entry: AlphaEarthInput, row: _Row, href: str) -> LczcubeError | None:
    try:
        require_public(href, entry)
    except ConfigError as error:
        return SourceError(str(error))
    if not is_remote(href) and not Path(href).is_absolute():
        return MissingInputError(
            f"{href} is a relative path of the index; name its folder in href."
        )
    try:
        _require_path(href, row.year, row.crs)
        _zone_of(row.crs, href)
    except SourceError as error:
        return error
    return None


def _item_of_index(entry: AlphaEarthInput, file: IndexedTile, bounds: BBox) -> pystac.Item:
    west, south, east, north = bounds
    shape = (round((north - south) / PIXEL_M), round((east - west) / PIXEL_M))
    if shape[0] * PIXEL_M != north - south or shape[1] * PIXEL_M != east - west or min(shape) < 1:
        raise SourceError(
            f"{file.href}: its bounds in the index, {bounds}, are no whole pixels of {PIXEL_M} m; "
            "fetch the index again, or name the tile in href."
        )
    item = _item(file, file.crs, shape, (PIXEL_M, 0, west, 0, PIXEL_M, south), file.outline)
    block = min(BLOCK_PX, *shape)
    item.add_asset("data", _asset(entry, file, media=COG_TYPE, block_shape=(block, block)))
    return item


# From the header


def _item_of_header(entry: AlphaEarthInput, file: SourceFile) -> pystac.Item:
    with open_raster(file) as raster:
        crs = crs_name(raster.crs)
        _require_alphaearth(raster, crs, file)
        transform = tuple(raster.transform)[:6]
        meridians = _zone_of(crs, file.href)
        outline = (
            file.outline if isinstance(file, IndexedTile) else _footprint(raster, meridians, file)
        )
        item = _item(file, crs, raster.shape, transform, outline)
        is_cog = raster.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") == "COG"
        media = COG_TYPE if is_cog else media_type(file.href)
        block_shape = raster.block_shapes[0]
        item.add_asset("data", _asset(entry, file, media=media, block_shape=block_shape))
    return item


def _require_alphaearth(raster: DatasetReader, crs: str, file: SourceFile) -> None:
    if raster.count != len(BAND_NAMES):
        raise SourceError(
            f"{file.href} has {raster.count} bands; a tile of AlphaEarth has {len(BAND_NAMES)}. "
            'Register other rasters with source = "raster".'
        )
    if set(raster.dtypes) != {"int8"}:
        raise SourceError(
            f"{file.href} holds {raster.dtypes[0]}; a tile of AlphaEarth holds int8 codes. "
            'Register decoded values with source = "raster".'
        )
    if any(nodata not in (None, NODATA) for nodata in raster.nodatavals):
        raise SourceError(
            f"{file.href} declares nodata {raster.nodatavals[0]:g}; AlphaEarth's is {NODATA}. "
            "Correct it (gdal_edit.py -a_nodata -128)."
        )
    if any(raster.descriptions) and tuple(raster.descriptions) != BAND_NAMES:
        raise SourceError(
            f"{file.href} has bands {raster.descriptions[0]}, {raster.descriptions[1]} …; "
            "AlphaEarth's are A00 to A63 in order. Put them in order (gdal_translate -b)."
        )
    if abs(raster.transform.a) != PIXEL_M or abs(raster.transform.e) != PIXEL_M:
        raise SourceError(
            f"{file.href} has pixels of {abs(raster.transform.a):g} x {abs(raster.transform.e):g} "
            f"m; AlphaEarth's are {PIXEL_M} m. Codes cannot be averaged: use the original tile."
        )
    _require_path(file.href, file.year, crs)


def _require_path(href: str, year: int | None, crs: str) -> None:
    """Raise where the folders of a path contradict what is known of the tile."""
    told_year, told_crs = year_in(href), zone_in(href)
    if told_year is not None and told_year != year:
        raise SourceError(
            f"{href} is of {told_year} by its path, but of {year} by the index; fetch the index "
            "again, or name the tile in href."
        )
    if told_crs is not None and told_crs != crs:
        raise SourceError(
            f"{href} lies in the folder of {told_crs}, but its CRS is {crs}; fetch it again."
        )


def _zone_of(crs: str, where: str) -> tuple[float, float]:
    """Meridians of a tile's UTM zone."""
    meridians = utm_meridians(crs)
    if meridians is None:
        raise SourceError(
            f"{where} is in {crs if len(crs) < 20 else 'a CRS without a code'}; a tile of "
            "AlphaEarth is in a UTM zone of WGS 84. Use the original tile."
        )
    return meridians


def _footprint(raster: DatasetReader, zone: tuple[float, float], file: SourceFile) -> Footprint:
    """Bounds of the pixels, clipped to the zone: beyond it the neighbour's tile owns a pixel."""
    import shapely

    outline = shapely.box(*grid_bbox(raster.shape, tuple(raster.transform)[:6]))
    whole = footprint(outline, crs_name(raster.crs), where=file.href)
    west, east = zone
    return clipped(whole, west=west, east=east, where=file.href)


def _add_vrt(item: pystac.Item, href: str) -> None:
    """The publisher's north-up ``.vrt`` beside a local tile, as an asset."""
    import pystac

    vrt = Path(href).with_suffix(".vrt")
    if is_remote(href) or not vrt.is_file():
        return
    a, b, c, d, e, f = item.properties["proj:transform"]
    north = f + max(e, 0) * item.properties["proj:shape"][0]
    item.add_asset(
        "vrt",
        pystac.Asset(
            href=vrt.as_posix(),
            title="The same pixels, north-up",
            media_type=media_type(vrt.as_posix()),
            roles=["virtual"],
            extra_fields={
                "proj:transform": [a, b, c, d, -abs(e), north],
                **file_facts(vrt.as_posix(), checksum=False),
            },
        ),
    )


# Both


def _item(
    file: SourceFile,
    crs: str,
    shape: tuple[int, int],
    transform: Sequence[float],
    outline: Footprint,
) -> pystac.Item:
    return new_item(
        file.item_id,
        outline,
        year=file.year,
        properties=grid_fields(crs, shape, transform),
        extensions=(PROJECTION_URI, RASTER_URI, FILE_URI, LCZCUBE_URI),
    )


def _asset(
    entry: AlphaEarthInput, file: SourceFile, *, media: str, block_shape: tuple[int, int]
) -> pystac.Asset:
    import pystac

    return pystac.Asset(
        href=file.href,
        title=entry.title,
        media_type=media,
        roles=["data"],
        extra_fields={
            "bands": named_bands(BAND_NAMES, "int8", nodata=NODATA),
            "raster:spatial_resolution": float(PIXEL_M),
            "lczcube:block_shape": list(block_shape),
            **file_facts(file.href, checksum=entry.checksums),
        },
    )
