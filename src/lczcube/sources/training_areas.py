"""Source ``training_areas``: WUDAPT training areas, as KML or KMZ, or as the public collection."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from lczcube.lcz import N_CLASSES
from lczcube.sources import area_collection
from lczcube.sources.area_collection import CollectionFile
from lczcube.sources.class_folders import FolderClass, classes_of, require_classes
from lczcube.sources.files import SourceFile, expand_hrefs, require_file, stem
from lczcube.sources.footprints import BBox, search_boxes
from lczcube.sources.inputs import Publication, as_tuple
from lczcube.sources.items import SourceItem
from lczcube.sources.kml import MAX_MB, Kml, KmlFolder, Placemark, is_kml, read_kml
from lczcube.sources.kml_text import MEGABYTE
from lczcube.sources.label_tables import LabelInput, Rows, label_item
from lczcube.sources.polygons import placemark_frame, polygon_rows

if TYPE_CHECKING:
    import geopandas as gpd

GENERATOR_MB = 10
"""Largest file that the LCZ Generator accepts, MB."""

_BRACKETED = re.compile(r"\[([^\]]*)\]")
_OLD_NAME = re.compile(r"([^({\[]+)\(([^)]*)\)(?:\{([^}]*)\})?")
_YEAR = re.compile(r"(?<!\d)((?:19|20)\d\d)(?!\d)")
_COMPACT_DATE = re.compile(r"((?:19|20)\d\d)(?:0[1-9]|1[0-2])(?:[0-2]\d|3[01])")
_REGION = re.compile(
    r"\b(roi|aoi|(region|area) of interest|study area|boundary|extent)\b", re.IGNORECASE
)


class TrainingAreasInput(LabelInput):
    """An ``[[input]]`` of WUDAPT training areas.

    Attributes
    ----------
    year : int, optional
        Year they are of. Default: the one in the file's name, ``[City][2019][Author].kmz`` or
        ``city(2019-05-31){author}.kml``; in the collection each area's own.
    max_mb : float
        Largest KML read, unpacked, in MB. Default 100; the LCZ Generator accepts 10.
    qc_steps : tuple of int
        Of the collection: steps 1-3 of the publisher's quality control whose flag must be true.
        Default: none, all areas are taken.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".kml", ".kmz", ".gpkg")
    publication: ClassVar[Publication] = Publication(
        license="other",
        license_note="Training areas of the LCZ Generator are CC BY-SA 4.0 if submitted before "
        "2023-06-16 and CC BY-NC-SA 4.0 since then; ask the authors of others.",
        citation="Demuzere, M., Kittner, J. & Bechtel, B. (2021). LCZ Generator: A Web Application "
        "to Create Local Climate Zone Maps. Frontiers in Environmental Science 9, 637455.",
        doi="10.3389/fenvs.2021.637455",
    )

    source: Literal["training_areas"]
    max_mb: Annotated[float, Field(gt=0)] = MAX_MB
    qc_steps: Annotated[
        tuple[Annotated[int, Field(ge=1, le=3)], ...], BeforeValidator(as_tuple)
    ] = ()


def find_files(
    entry: TrainingAreasInput, *, folder: Path, cities: Mapping[str, BBox]
) -> list[SourceFile]:
    """The files of an input; of the collection only what lies near the cities will be read.

    Raises
    ------
    ConfigError
        If an href cannot be used.
    """
    named = [entry.city] if entry.city and entry.city in cities else list(cities)
    boxes = tuple(search_boxes(cities[name] for name in named))
    files = expand_hrefs(entry, folder=folder, cities=tuple(cities))
    return [file if is_kml(file.href) else CollectionFile.of(file, boxes) for file in files]


def build_items(entry: TrainingAreasInput, file: SourceFile) -> list[SourceItem]:
    """The label table of one file of training areas, and its item; reads the file.

    Classes 18 (``W``) and 19 (``H``) of the template are left out and counted.

    Raises
    ------
    MissingInputError
        If the file is not there.
    SourceError
        If it cannot be read or is not safe to read, has no folder or column of classes, or holds
        points or lines as labels.
    LabelError
        If no label is left.
    """
    require_file(file)
    if isinstance(file, CollectionFile):
        rows = area_collection.read_rows(file, qc_steps=entry.qc_steps)
        return [label_item(entry, file, rows)]
    told = told_by_name(file.href)
    dated = replace(file, year=told.year if file.year is None else file.year)
    made = label_item(entry, dated, _rows(read_kml(file.href, max_mb=entry.max_mb), dated, told))
    if made.table is not None:
        made.item.properties["lczcube:class_areas"] = _class_areas(made.table.frame)
    return [made]


@dataclass(frozen=True)
class NameParts:
    """What the name of a file says: ``city`` and ``author``, ``""`` if nothing; ``year``."""

    city: str = ""
    year: int | None = None
    author: str = ""

    @property
    def fields(self) -> dict[str, Any]:
        """``title`` and ``providers`` of STAC, where the name says something."""
        named = [part for part in (self.city, self.author) if part]
        fields: dict[str, Any] = {"title": f"Training areas: {', '.join(named)}"} if named else {}
        if self.author:
            fields["providers"] = [{"name": self.author, "roles": ["producer"]}]
        return fields


def told_by_name(href: str) -> NameParts:
    """City, year and author in a file's name, as WUDAPT and its portal before it wrote them.

    Examples
    --------
    >>> told_by_name("[Melbourne][2006][JamesBennie].kmz")
    NameParts(city='Melbourne', year=2006, author='JamesBennie')
    >>> told_by_name("kiel(2015-07-01){ann}.kml")
    NameParts(city='kiel', year=2015, author='ann')
    """
    name = stem(href)
    bracketed = _BRACKETED.findall(name)
    if len(bracketed) > 1:
        city, date, author = (*bracketed, "")[:3]
        return NameParts(city.strip(), _year(date), author.strip())
    old = _OLD_NAME.fullmatch(name)
    if old is None:
        return NameParts()
    return NameParts(old[1].strip(), _year(old[2]), (old[3] or "").strip())


def _year(text: str) -> int | None:
    found = _YEAR.search(text) or _COMPACT_DATE.fullmatch(text.strip())
    return int(found[1]) if found else None


def _rows(kml: Kml, file: SourceFile, told: NameParts) -> Rows:
    classes = classes_of(kml.folders)
    require_classes(kml.folders, classes, file.href)
    codes = [_code(mark, classes) for mark in kml.placemarks]
    labels = [mark for mark, code in zip(kml.placemarks, codes, strict=True) if _is_lcz(code)]
    frame = placemark_frame(labels, [{"lcz": code} for code in codes if _is_lcz(code)])
    rows = polygon_rows(frame, {"lcz": frame.get("lcz", [])}, file)
    return replace(
        rows,
        n_dropped=rows.n_dropped + len(codes) - len(labels),
        properties={
            **told.fields,
            "lczcube:folders": _folder_rows(kml, classes),
            **_region_fields(kml, classes),
            **_note_fields(_notes(kml, classes, codes), told, file),
        },
    )


def _code(mark: Placemark, classes: Mapping[KmlFolder, FolderClass]) -> int:
    """Class of a placemark, 1-19; 0 outside the folders of classes."""
    own = classes.get(mark.folder)
    return 0 if own is None else own.code


def _is_lcz(code: int) -> bool:
    return 1 <= code <= N_CLASSES


def _class_areas(frame: gpd.GeoDataFrame) -> list[dict[str, Any]]:
    """Number of labels and their area in the UTM zone of all, by class."""
    areas_km2 = frame.to_crs(frame.estimate_utm_crs()).area / 1e6
    grouped = areas_km2.groupby(frame["lcz"].astype(int))
    return [
        {"lcz": int(code), "n": len(areas), "area_km2": round(float(areas.sum()), 6)}
        for code, areas in grouped
    ]


def _folder_rows(kml: Kml, classes: Mapping[KmlFolder, FolderClass]) -> list[dict[str, Any]]:
    """Each folder of the file: its class, 0 if none, and how many of its placemarks are areas."""
    counts = Counter(mark.folder for mark in kml.placemarks if _is_area(mark))
    rows = []
    for folder in kml.folders:
        own = classes.get(folder, FolderClass(0))
        rows.append(
            {"name": folder.name, "lcz": own.code, "suffix": own.suffix, "n": counts[folder]}
        )
    return rows


def _region_fields(kml: Kml, classes: Mapping[KmlFolder, FolderClass]) -> dict[str, Any]:
    """Where the region of interest lies, if the file draws one, and its area."""
    import geopandas as gpd

    drawn = [
        mark.geometry
        for mark in kml.placemarks
        if mark.folder not in classes and _is_area(mark) and _is_region(mark)
    ]
    if not drawn:
        return {}
    region = gpd.GeoSeries(drawn, crs="EPSG:4326").make_valid()
    area_km2 = region.to_crs(region.estimate_utm_crs()).union_all().area / 1e6
    return {
        "lczcube:region_bbox": [float(edge) for edge in region.total_bounds],
        "lczcube:region_area_km2": round(float(area_km2), 6),
    }


def _is_region(mark: Placemark) -> bool:
    return bool(_REGION.search(mark.name) or _REGION.search(mark.folder.name))


def _is_area(mark: Placemark) -> bool:
    return mark.geometry is not None and mark.geometry.geom_type in ("Polygon", "MultiPolygon")


def _note_fields(notes: list[str], told: NameParts, file: SourceFile) -> dict[str, str]:
    if told.year not in (None, file.year):
        notes = [*notes, f"its name says {told.year}, the input {file.year}"]
    return {"lczcube:note": "; ".join(notes)} if notes else {}


def _notes(kml: Kml, classes: Mapping[KmlFolder, FolderClass], codes: Sequence[int]) -> list[str]:
    n_extra = sum(code > N_CLASSES for code in codes)
    ignored = Counter(
        mark.folder.name
        for mark in kml.placemarks
        if mark.folder not in classes and _is_area(mark) and not _is_region(mark)
    )
    notes = []
    if kml.n_bytes > GENERATOR_MB * MEGABYTE:
        notes.append(f"over the {GENERATOR_MB} MB that the LCZ Generator accepts")
    if n_extra:
        notes.append(f"{n_extra} areas of classes 18 (W) and 19 (H) left out, which are no LCZ")
    if ignored:
        listed = ", ".join(f"{name!r} ({n})" for name, n in sorted(ignored.items()))
        notes.append(f"polygons left out in folders that name no class: {listed}")
    return notes
