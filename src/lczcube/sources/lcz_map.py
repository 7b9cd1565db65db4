"""Source ``lcz_map``: maps of Local Climate Zones made by others, as layers.

The LCZ Generator's output, maps of the old WUDAPT portal, and the global, European and US maps.
Files stay as they are: an item says which band is the map and, as the band's
``classification:classes``, which zone each stored code is. The reader gives 1-17, 0 for no data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import model_validator

from lczcube.errors import SourceError
from lczcube.lcz import NODATA, ZONES, CodeTable
from lczcube.sources.files import SourceFile, file_facts, require_file, stem
from lczcube.sources.footprints import footprint
from lczcube.sources.inputs import Input, Kind, Publication
from lczcube.sources.items import (
    CLASSIFICATION_URI,
    FILE_URI,
    LCZCUBE_URI,
    PROJECTION_URI,
    RASTER_URI,
    SourceItem,
    crs_name,
    grid_bbox,
    grid_fields,
    new_item,
    safe_id,
)
from lczcube.sources.label_tables import DropClasses
from lczcube.sources.lcz_codes import CodeCounts, Recode, count_codes, require_natural, zones_of
from lczcube.sources.lcz_editions import GLOBAL_YEAR, PUBLICATIONS, Edition, lattice_note
from lczcube.sources.raster import open_raster, raster_type, resolution_m

if TYPE_CHECKING:
    import pystac
    from rasterio.io import DatasetReader

GENERATOR_BANDS = ("lcz", "lczFilter", "classProbability")
"""Bands of the LCZ Generator: modal class, the same filtered, share of models that agree (%)."""

MAX_WHOLE_BYTES = 64 << 20
"""Largest map, decoded, whose codes are all counted when it is registered: a country at 100 m. Of a
larger one this much is looked at: the global map has 61 GB."""

_SUBMISSION = re.compile(r"[0-9a-f]{40}")
_CODE_LIMIT = 2**31


class LczMapInput(Input):
    """An ``[[input]]`` of maps of Local Climate Zones.

    Attributes
    ----------
    edition : str, optional
        Which published map it is: it brings licence, citation and, for ``global``, the year.
    band : str, optional
        Description of the band that is the map. Default: ``lczFilter``, or the only band.
    nodata : float, optional
        Code of no data, in place of what the files declare. NaN and 0, unless it is recoded,
        always are.
    recode : table, optional
        LCZ 1-17, or 0, of each stored code, for maps with codes of their own.
    drop_classes : tuple of int
        Codes that are read as no data, such as 18 and 19.
    resampling : str
        Onto another lattice: ``nearest`` (default), or ``mode``: the zone of the largest area.
    static : bool
        True for a map that meets every year, without a time dimension.
    """

    kind: ClassVar[Kind] = "raster"
    suffixes: ClassVar[tuple[str, ...]] = (".tif", ".tiff", ".vrt")

    source: Literal["lcz_map"]
    edition: Edition | None = None
    band: str | None = None
    nodata: float | None = None
    recode: Recode = ()
    drop_classes: DropClasses = ()
    resampling: Literal["nearest", "mode"] = "nearest"
    static: bool = False
    ai_derived: bool = True

    @property
    def all_years(self) -> tuple[int, ...]:
        """As in the TOML; the global map is of 2018 unless that says otherwise."""
        years = super().all_years
        return (GLOBAL_YEAR,) if self.edition == "global" and not (years or self.static) else years

    @property
    def layer_fields(self) -> dict[str, Any]:
        """Codes that become zones when they are read."""
        return {
            "layer": "lcz_map",
            "decoder": "lcz_codes",
            "valid": "nodata",
            "resampling": self.resampling,
            "static": self.static,
        }

    def published_as(self, _product: str = "") -> Publication | None:
        """By edition."""
        return None if self.edition is None else PUBLICATIONS[self.edition]

    @model_validator(mode="after")
    def _check_year(self) -> LczMapInput:
        if not self.static and not self.all_years:
            raise ValueError("is a map without year; add year = 2021, or static = true")
        return self

    @model_validator(mode="after")
    def _check_codes(self) -> LczMapInput:
        if self.recode and self.drop_classes:
            raise ValueError("has both recode and drop_classes; recode to 0 what is to be dropped")
        return self


def build_items(entry: LczMapInput, file: SourceFile) -> list[SourceItem]:
    """The item of one map; reads its codes, all of them up to 64 MiB, else a sample of blocks.

    Raises
    ------
    MissingInputError
        If the file is not there.
    SourceError
        If it cannot be read, has no CRS, is rotated, or no band of it is known to be the map.
    LabelError
        If a code is no LCZ and is neither recoded nor dropped, or if codes 1-10 alone cover much
        ground.
    """
    require_file(file)
    with open_raster(file) as raster:
        names = _band_names(raster)
        position = _map_band(entry, file, names)
        counted = count_codes(raster, position + 1, max_bytes=MAX_WHOLE_BYTES)
        bands = [_band(raster, i, name) for i, name in enumerate(names)]
        bands[position] |= _classes(entry, file, raster, position, counted)
        return [SourceItem(_item(entry, file, raster, bands, position, counted))]


def _band_names(raster: DatasetReader) -> list[str]:
    """By description where each band has one of its own; of three without any, the Generator's."""
    described = [safe_id(text or "") for text in raster.descriptions]
    if all(described) and len(set(described)) == len(described):
        return described
    if _is_unnamed_generator(raster):
        return list(GENERATOR_BANDS)
    return [f"b{i:02d}" for i in range(1, raster.count + 1)]


def _is_unnamed_generator(raster: DatasetReader) -> bool:
    return raster.count == len(GENERATOR_BANDS) and not any(raster.descriptions)


def _map_band(entry: LczMapInput, file: SourceFile, names: list[str]) -> int:
    """Position of the band that is the map."""
    listed = ", ".join(names)
    wanted = entry.band or (names[0] if len(names) == 1 else GENERATOR_BANDS[1])
    if wanted == GENERATOR_BANDS[2]:
        raise SourceError(
            f"{file.href}: band {wanted!r} holds shares of models and no zones; register it as a "
            'raster of its own (source = "raster").'
        )
    if wanted not in names:
        raise SourceError(
            f"{file.href} has no band {wanted!r} but {listed}; name the one that is the map: band."
        )
    return names.index(wanted)


def _band(raster: DatasetReader, i: int, name: str) -> dict[str, Any]:
    band: dict[str, Any] = {"name": name, "data_type": raster.dtypes[i]}
    nodata = raster.nodatavals[i]
    if nodata is None or not np.isfinite(nodata):
        return band
    is_whole = np.dtype(raster.dtypes[i]).kind in "iu"
    return band | {"nodata": int(nodata) if is_whole else nodata}


def _classes(
    entry: LczMapInput,
    file: SourceFile,
    raster: DatasetReader,
    position: int,
    counted: CodeCounts,
) -> dict[str, Any]:
    """Nodata and ``classification:classes`` of the map's band."""
    nodata = raster.nodatavals[position] if entry.nodata is None else entry.nodata
    nodata = None if nodata is None or not np.isfinite(nodata) else nodata
    values, counts = counted.values, counted.counts
    zones = zones_of(
        values,
        counts,
        nodata=nodata,
        recode=entry.recode,
        drop_classes=entry.drop_classes,
        where=file.href,
    )
    if not entry.recode:
        require_natural(values, counts, zones, pixel_m=resolution_m(raster), where=file.href)
    found = _whole(values, zones)
    missing = {} if nodata is None else _whole(np.array([nodata]), np.array([NODATA]))
    table = CodeTable.of(_named_codes(entry, found, counted.is_whole) | missing | found)
    n_px = _whole(values, counts) if counted.is_whole else None
    said = {"classification:classes": table.classes(n_px)}
    if nodata is None and found.get(NODATA):
        return said  # 0 is recoded to a zone
    return said | {"nodata": next(iter(missing), nodata or NODATA)}


def _whole(values: npt.NDArray[Any], paired: npt.NDArray[Any]) -> dict[int, int]:
    """What stands beside each value that is a whole number of 32 bits."""
    pairs = zip(values.tolist(), paired.tolist(), strict=True)
    return {int(v): int(p) for v, p in pairs if abs(v) < _CODE_LIMIT and v == int(v)}


def _named_codes(entry: LczMapInput, found: Mapping[int, int], is_whole: bool) -> dict[int, int]:
    """Codes that are named whether they occur or not: no data, and every zone as it is coded."""
    if entry.recode:
        return {NODATA: NODATA} | dict(entry.recode)
    is_legacy = any(code > 100 and zone for code, zone in found.items())
    is_plain = any(code in range(11, 18) for code in found) or not is_legacy
    codes = {z.code: z.code for z in ZONES if z.is_built or is_plain or not is_whole}
    if is_legacy or not is_whole:
        codes |= {z.legacy_code: z.code for z in ZONES}
    dropped = [code for each in entry.drop_classes for code in (each, each + 90)]
    return {NODATA: NODATA} | codes | dict.fromkeys(dropped, NODATA)


def _item(
    entry: LczMapInput,
    file: SourceFile,
    raster: DatasetReader,
    bands: list[dict[str, Any]],
    position: int,
    counted: CodeCounts,
) -> pystac.Item:
    import pystac
    import shapely

    crs = crs_name(raster.crs)
    transform = tuple(raster.transform)
    bounds = grid_bbox(raster.shape, transform)
    note = _note(entry, raster, position, counted)
    submission = _SUBMISSION.fullmatch(stem(file.href))
    item = new_item(
        file.item_id,
        footprint(shapely.box(*bounds), crs, where=file.href),
        year=None if entry.static else file.year,
        properties={
            **grid_fields(crs, raster.shape, transform),
            **({"lczcube:submission": submission[0]} if submission else {}),
            **({"lczcube:note": note} if note else {}),
        },
        extensions=(PROJECTION_URI, RASTER_URI, FILE_URI, CLASSIFICATION_URI, LCZCUBE_URI),
    )
    asset = pystac.Asset(
        href=file.href,
        title=entry.title,
        media_type=raster_type(file, raster),
        roles=["data"],
        extra_fields={
            "bands": bands,
            "lczcube:band": bands[position]["name"],
            "raster:spatial_resolution": resolution_m(raster),
            "lczcube:block_shape": list(raster.block_shapes[position]),
            **file_facts(file.href, checksum=counted.is_whole),
        },
    )
    item.add_asset("data", asset)
    return item


def _note(
    entry: LczMapInput, raster: DatasetReader, position: int, counted: CodeCounts
) -> str | None:
    """What was taken on trust when a map was registered."""
    notes = []
    if _is_unnamed_generator(raster):
        notes.append(
            f"Its bands have no descriptions; band {position + 1} of {raster.count} is taken for "
            f"{GENERATOR_BANDS[position]}, by the LCZ Generator's order."
        )
    if not counted.is_whole:
        notes.append(
            f"Codes were looked at in {counted.n_px} of {raster.width * raster.height} pixels; a "
            "code that is no LCZ elsewhere is refused when it is read."
        )
    if entry.edition == "global":
        notes.append(lattice_note(raster) or "")
    return " ".join(filter(None, notes)) or None
