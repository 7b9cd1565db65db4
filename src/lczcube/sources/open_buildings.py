"""Source ``open_buildings``: Google's Open Buildings 2.5D Temporal, three bands of 0.5 m.

Tiles are found by the publisher's manifests, or named; exports of Earth Engine at coarser pixels
are registered with what is different about them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from lczcube.errors import LczcubeError, SourceError
from lczcube.sources.files import (
    SourceFile,
    file_facts,
    find_hrefs,
    media_type,
    require_file,
    resolve_path,
    with_ids,
    with_year,
)
from lczcube.sources.footprints import (
    BBox,
    Footprint,
    clipped,
    footprint,
    search_boxes,
    utm_meridians,
)
from lczcube.sources.inputs import Input, Kind, Publication, as_texts
from lczcube.sources.items import (
    FILE_URI,
    LCZCUBE_URI,
    PROJECTION_URI,
    RASTER_URI,
    SourceItem,
    grid_bbox,
    grid_fields,
    new_item,
)
from lczcube.sources.open_buildings_manifests import (
    ListedTile,
    crs_and_year,
    near,
    public_url,
    read_manifest,
    readable_url,
)
from lczcube.sources.open_buildings_pixels import (
    COUNT_BAND,
    PIXEL_M,
    Pixels,
    read_pixels,
    year_in,
)
from lczcube.sources.raster import COG_TYPE

if TYPE_CHECKING:
    import pystac

LICENSES = ("CC-BY-4.0", "ODbL-1.0")
"""Of which who uses the data chooses one."""

_NOTES = {
    "CC-BY-4.0": "Name the source: Open Buildings 2.5D Temporal, Google Research; contains "
    "modified Copernicus data.",
    "ODbL-1.0": "Name the source: Open Buildings 2.5D Temporal, Google Research; contains modified "
    "Copernicus data. A database made from it is offered under the ODbL too.",
}
_ABOUT_BANDS = {
    "building_fractional_count": {"description": "Buildings, shared out over their pixels."},
    "building_height": {"unit": "m", "description": "Above the ground; 0 where no building is."},
    "building_presence": {"description": "Confidence that a building is there, not calibrated."},
}


class OpenBuildingsInput(Input):
    """An ``[[input]]`` of Open Buildings 2.5D Temporal.

    Attributes
    ----------
    href : str or list of str
        Tiles and exports, folders of them (searched all the way down) or globs. With
        ``manifest``: the one folder or URL that holds ``{token}_{year}_06_30/tile_….tif``, in
        place of the publisher's bucket.
    manifest : str or list of str
        The publisher's manifests: files, folders of them or globs. Only tiles that meet a city and
        are of a wanted year are registered; no tile is opened.
    year, years
        The years that are wanted; left out, all that are there. An export tells no year itself.
    license : str
        ``CC-BY-4.0`` or ``ODbL-1.0``: the publisher leaves the choice. Default: ``CC-BY-4.0``.
    count : str
        What a pixel of an export holds of the count: ``mean`` (default, what Earth Engine gives) of
        the pixels of 0.5 m below it, or their ``sum``.
    presence_threshold : float, optional
        Presence that is a building, 0-1. Default: Google's 0.34.
    """

    kind: ClassVar[Kind] = "raster"
    suffixes: ClassVar[tuple[str, ...]] = (".tif", ".tiff")
    years_in_paths: ClassVar[bool] = True
    publication: ClassVar[Publication | None] = Publication(
        license=LICENSES[0],
        license_note=_NOTES[LICENSES[0]],
        citation="Sirko, W. et al. (2023): High-resolution building and road detection from "
        "Sentinel-2. arXiv:2310.11622",
        doi="10.48550/arXiv.2310.11622",
        producer="Google Research",
        url="https://sites.research.google/gr/open-buildings/temporal/",
    )

    source: Literal["open_buildings"]
    href: Annotated[tuple[str, ...], BeforeValidator(as_texts)] = ()
    manifest: Annotated[tuple[str, ...], BeforeValidator(as_texts)] = ()
    ai_derived: bool = True
    count: Literal["mean", "sum"] = "mean"
    presence_threshold: Annotated[float, Field(gt=0, le=1)] | None = None

    @property
    def places(self) -> tuple[str, ...]:
        """Manifests, and what holds the tiles."""
        return self.manifest + self.href

    @property
    def layer_fields(self) -> dict[str, Any]:
        """Buildings of one year each, whose quantities are made in averaging."""
        fields: dict[str, Any] = {
            "layer": "buildings",
            "decoder": "linear",
            "valid": "nodata",
            "resampling": "average",
            "static": False,
            "presence_threshold": self.presence_threshold,
        }
        if self.license_note is None and not self.synthetic:
            fields["license_note"] = _NOTES[self.license or LICENSES[0]]
        return fields

    @model_validator(mode="after")
    def _check_place(self) -> OpenBuildingsInput:
        if not self.href and not self.manifest:
            raise ValueError(
                "has neither href nor manifest; name the tiles, or the publisher's manifests"
            )
        if self.manifest and (len(self.href) > 1 or any("{" in h for h in self.href)):
            raise ValueError(
                "has a manifest, so href is one folder or URL, which holds "
                "TOKEN_YEAR_06_30/tile_NAME.tif; leave it out for the publisher's bucket"
            )
        return self

    @model_validator(mode="after")
    def _check_license(self) -> OpenBuildingsInput:
        if not self.synthetic and self.license not in (None, *LICENSES):
            raise ValueError(
                f"has license {self.license!r}; Open Buildings is offered under "
                f"{' or '.join(LICENSES)}"
            )
        return self


@dataclass(frozen=True, kw_only=True)
class ManifestTile(SourceFile):
    """A tile of a manifest, of which nothing needs to be read.

    Attributes
    ----------
    pixels : Pixels
        As the manifest describes them.
    outline : Footprint
        Clipped to the UTM zone.
    """

    pixels: Pixels
    outline: Footprint


def find_files(
    entry: OpenBuildingsInput, *, folder: Path, cities: Mapping[str, BBox]
) -> list[SourceFile]:
    """The tiles an input means; opens no tile, reads manifests whole.

    A tile that lies wholly outside its UTM zone is left to the tile of the neighbouring zone.

    Raises
    ------
    ConfigError
        If an href cannot be used.
    """
    if entry.manifest:
        return with_ids(entry, list(_listed(entry, folder, cities)))
    found = find_hrefs(entry, folder=folder, cities=tuple(cities), search=_tiles_below)
    files = (replace(file, href=readable_url(file.href)) for file in found)
    dated = (with_year(entry, file, year_in(file.href)) for file in files)
    return with_ids(entry, [file for file in dated if file is not None])


def build_items(entry: OpenBuildingsInput, file: SourceFile) -> list[SourceItem]:
    """The item of one tile or export: from its manifest, else from its header. Reads no pixel.

    Raises
    ------
    MissingInputError
        If the file is not there.
    SourceError
        If it holds no Open Buildings, or cannot be taken as it is.
    """
    if file.fault is not None:
        raise file.fault
    require_file(file)
    if isinstance(file, ManifestTile):
        return [SourceItem(_item_of(entry, file, file.pixels, file.outline))]
    pixels = read_pixels(file)
    outline = _ground_of(pixels, file.href)
    if outline is not None:
        return [SourceItem(_item_of(entry, file, pixels, outline))]
    if file.is_found:
        return []
    raise SourceError(
        f"{file.href} lies wholly outside the UTM zone of its CRS, {pixels.crs}; use the tile of "
        "the neighbouring zone, or correct its CRS."
    )


def _tiles_below(folder: Path) -> list[str]:
    return sorted(
        path.as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in OpenBuildingsInput.suffixes and path.is_file()
    )


# From manifests


def _listed(
    entry: OpenBuildingsInput, folder: Path, cities: Mapping[str, BBox]
) -> Iterator[SourceFile]:
    """Tiles of all manifests, each once, and a faulty file for what cannot be read of one."""
    root = resolve_path(entry.href[0], entry, folder) if entry.href else None
    taken: set[str] = set()
    for file in _manifests(entry, folder, cities):
        for tile in _tiles_of(entry, file, cities, root):
            if tile.href not in taken:
                taken.add(tile.href)
                yield tile


def _manifests(
    entry: OpenBuildingsInput, folder: Path, cities: Mapping[str, BBox]
) -> Iterator[SourceFile]:
    """Manifests of the wanted years; those whose name tells no year, too.

    However it was named, a manifest of another year is no fault: it only says where tiles are.
    """
    named = entry.model_copy(update={"href": entry.manifest})
    for file in find_hrefs(named, folder=folder, cities=tuple(cities), search=_manifests_in):
        found, told = replace(file, is_found=True), crs_and_year(file.href)
        dated = found if told is None else with_year(entry, found, told[1])
        if dated is not None:
            yield dated


def _manifests_in(folder: Path) -> list[str]:
    return sorted(path.as_posix() for path in folder.glob("*.json") if path.is_file())


def _tiles_of(
    entry: OpenBuildingsInput, file: SourceFile, cities: Mapping[str, BBox], root: str | None
) -> Iterator[SourceFile]:
    boxes = search_boxes(cities[name] for name in cities if file.city in ("", name))
    try:
        manifest = read_manifest(file, boxes)
    except LczcubeError as error:
        yield replace(file, fault=error)
        return
    if manifest.fault is not None:
        yield replace(file, fault=manifest.fault)
    wanted = entry.all_years if file.year is None else (file.year,)
    for listed in near(manifest.tiles, boxes):
        if not wanted or listed.year in wanted:
            outline = _ground_of(listed.pixels, listed.url)
            if outline is not None and _meets(outline, boxes):
                yield _manifest_tile(entry, listed, outline, root)


def _meets(outline: Footprint, boxes: Sequence[BBox]) -> bool:
    import shapely

    geometry = shapely.geometry.shape(outline.geometry)
    return not boxes or any(shapely.intersects(geometry, shapely.box(*box)) for box in boxes)


def _manifest_tile(
    entry: OpenBuildingsInput, listed: ListedTile, outline: Footprint, root: str | None
) -> ManifestTile:
    href, fault = listed.url, None
    if root is not None:
        href = readable_url("/".join([root.rstrip("/"), listed.folder, listed.name]))
    else:
        try:
            href = public_url(listed)
        except SourceError as error:
            fault = error
    return ManifestTile(
        href=href,
        item_id="",
        year=listed.year,
        city=entry.city or "",
        is_found=True,
        fault=fault,
        pixels=listed.pixels,
        outline=outline,
    )


def _ground_of(pixels: Pixels, where: str) -> Footprint | None:
    """The footprint of a tile up to the edge of its UTM zone, of an export whole.

    Past the edge the neighbouring zone's tile owns a pixel. None for a tile that lies wholly there.
    """
    import shapely

    outline = shapely.box(*grid_bbox(pixels.shape, pixels.transform))
    whole = footprint(outline, pixels.crs, where=where)
    if not pixels.is_tile:
        return whole
    west, east = utm_meridians(pixels.crs) or (-180.0, 180.0)
    if whole.bbox[2] <= west or whole.bbox[0] >= east:
        return None
    return clipped(whole, west=west, east=east, where=where)


# Items


def _item_of(
    entry: OpenBuildingsInput, file: SourceFile, pixels: Pixels, outline: Footprint
) -> pystac.Item:
    item = new_item(
        file.item_id,
        outline,
        year=file.year,
        properties={
            **grid_fields(pixels.crs, pixels.shape, pixels.transform),
            "lczcube:note": " ".join([f"Of 30 June {file.year}.", *_note(entry, pixels)]),
        },
        extensions=(PROJECTION_URI, RASTER_URI, FILE_URI, LCZCUBE_URI),
    )
    item.add_asset("data", _asset(entry, file, pixels))
    return item


def _note(entry: OpenBuildingsInput, pixels: Pixels) -> list[str]:
    """What is different about an export; nothing for a tile."""
    if pixels.is_tile:
        return []
    a, e = abs(pixels.transform[0]), abs(pixels.transform[4])
    counts = (
        f"counts are means too and become numbers per pixel times {pixels.n_merged:g}."
        if entry.count == "mean"
        else "counts are numbers per pixel."
    )
    return [
        f"An export of {a:g} x {e:g} m: heights and presences are means over pixels of "
        f"{PIXEL_M:g} m, those without a building included; {counts}"
    ]


def _asset(entry: OpenBuildingsInput, file: SourceFile, pixels: Pixels) -> pystac.Asset:
    import pystac

    return pystac.Asset(
        href=file.href,
        title=entry.title,
        media_type=COG_TYPE if pixels.is_cog else media_type(file.href),
        roles=["data"],
        extra_fields={
            "bands": [_band(name, entry, pixels) for name in pixels.bands],
            "raster:spatial_resolution": pixels.side_m,
            "lczcube:block_shape": list(pixels.block_shape),
            **file_facts(file.href, checksum=entry.checksums),
        },
    )


def _band(name: str, entry: OpenBuildingsInput, pixels: Pixels) -> dict[str, Any]:
    band = {"name": name, "data_type": pixels.dtype, "nodata": pixels.nodata}
    is_mean = name == COUNT_BAND and entry.count == "mean" and not pixels.is_tile
    return band | _ABOUT_BANDS[name] | ({"raster:scale": pixels.n_merged} if is_mean else {})
