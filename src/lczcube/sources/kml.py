"""Placemarks of KML and KMZ files, read without trusting the file."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from lczcube.errors import SourceError
from lczcube.sources.files import first_line
from lczcube.sources.kml_text import read_kml_text

if TYPE_CHECKING:
    import shapely

SUFFIXES = (".kml", ".kmz")

MAX_MB = 100.0
"""Largest KML text that is read, MB; ten times what the LCZ Generator accepts."""

MAX_DEPTH = 100
"""Deepest nesting of elements."""

_CONTAINERS = ("Folder", "Document")
_COMMA = re.compile(r"\s*,\s*")
_MIN_RING_POINTS = 4


@dataclass(eq=False)
class KmlFolder:
    """A Folder or Document: its name, and the one it lies in.

    Attributes
    ----------
    name : str
        As written, without white space around it; ``""`` without a name.
    parent : KmlFolder or None
        None for the outermost.
    """

    parent: KmlFolder | None
    name: str = ""

    @property
    def path(self) -> tuple[KmlFolder, ...]:
        """The folder and those around it, innermost first."""
        return (self, *(() if self.parent is None else self.parent.path))


@dataclass(frozen=True, eq=False)
class Placemark:
    """One Placemark.

    Attributes
    ----------
    folder : KmlFolder
        What it lies in.
    name : str
        Its name, ``""`` without one.
    geometry : shapely.Geometry or None
        2-D, EPSG:4326: its polygons; without any, its lines and points; None for a placeholder.
    n_closed : int
        Rings that did not end where they began, and were closed.
    fields : dict of str to str
        Its description and extended data.
    """

    folder: KmlFolder
    name: str
    geometry: shapely.Geometry | None
    n_closed: int
    fields: dict[str, str]


@dataclass(frozen=True, eq=False)
class Kml:
    """What a file holds.

    Attributes
    ----------
    folders : list of KmlFolder
        In the order of the file.
    placemarks : list of Placemark
        In the order of the file.
    n_bytes : int
        Size of the KML text, unpacked.
    """

    folders: list[KmlFolder] = field(default_factory=list)
    placemarks: list[Placemark] = field(default_factory=list)
    n_bytes: int = 0


def is_kml(href: str) -> bool:
    """True for KML and KMZ, by name."""
    return PurePosixPath(href.split("?", maxsplit=1)[0]).suffix.lower() in SUFFIXES


def read_kml(href: str, *, max_mb: float = MAX_MB) -> Kml:
    """All placemarks of a local KML or KMZ file; network links are not followed.

    Parameters
    ----------
    href : str
        The file.
    max_mb : float
        Largest KML text read, unpacked, in MB. Default 100.

    Raises
    ------
    SourceError
        If the text cannot be trusted (see :func:`lczcube.sources.kml_text.read_kml_text`) or is no
        KML, or if coordinates are no longitude and latitude.
    """
    text, n_bytes = read_kml_text(href, max_mb=max_mb)
    kml = Kml(n_bytes=n_bytes)
    try:
        for folder, element in _placemarks(text, kml.folders, href):
            kml.placemarks.append(_placemark(folder, element, href))
    except ElementTree.ParseError as error:
        raise SourceError(
            f"{href} is no KML ({first_line(error)}); save it again in Google Earth or QGIS."
        ) from error
    return kml


def _placemarks(
    text: str, folders: list[KmlFolder], where: str
) -> Iterator[tuple[KmlFolder, ElementTree.Element]]:
    """Each Placemark with its folder; appends to ``folders``, and frees what was read."""
    folder, tags = KmlFolder(None), list[str]()
    stream = io.BytesIO(text.encode("utf-8"))
    for event, element in ElementTree.iterparse(stream, ("start", "end")):
        tag = _tag(element)
        if event == "start":
            tags.append(tag)
            if tags[0] != "kml" or len(tags) > MAX_DEPTH:
                fault = f"nests deeper than {MAX_DEPTH}" if tags[0] == "kml" else f"is <{tags[0]}>"
                raise SourceError(f"{where} is no KML: it {fault}; export it again as KML.")
            if tag in _CONTAINERS:
                folder = KmlFolder(folder)
                folders.append(folder)
            continue
        tags.pop()
        if tag == "name" and tags[-1] in _CONTAINERS:
            folder.name = (element.text or "").strip()
        elif tag == "Placemark":
            yield folder, element
            element.clear()
        elif tag in _CONTAINERS:
            folder = folder.parent or folder
            element.clear()


def _placemark(folder: KmlFolder, element: ElementTree.Element, where: str) -> Placemark:
    name = _text(element, "name")
    try:
        geometry, n_closed = _geometry(element)
    except ValueError as error:
        raise SourceError(
            f"{where}: placemark {name!r} in folder {folder.name!r} cannot be placed "
            f"({first_line(error)}); correct or delete it."
        ) from error
    return Placemark(folder, name, geometry, n_closed, _fields(element))


def _fields(element: ElementTree.Element) -> dict[str, str]:
    fields = {"description": _text(element, "description")}
    for child in element.iter():
        if _tag(child) == "SimpleData":
            fields[child.get("name", "")] = (child.text or "").strip()
        elif _tag(child) == "Data":
            fields[child.get("name", "")] = _text(child, "value")
    return fields


def _geometry(element: ElementTree.Element) -> tuple[shapely.Geometry | None, int]:
    import shapely

    found = [_polygon(child) for child in element.iter() if _tag(child) == "Polygon"]
    polygons = [polygon for polygon, _ in found if polygon is not None]
    n_closed = sum(n for _, n in found)
    if len(polygons) > 1:
        return shapely.MultiPolygon(polygons), n_closed
    if found:
        return polygons[0] if polygons else None, n_closed
    for child in element.iter():
        if _tag(child) in ("LineString", "LinearRing", "Point"):
            points = _points(_text(child, "coordinates"))
            if points:
                return shapely.LineString(points) if len(points) > 1 else shapely.Point(points), 0
    return None, 0


def _polygon(element: ElementTree.Element) -> tuple[shapely.Polygon | None, int]:
    import shapely

    outer, inner = list[_Ring](), list[_Ring]()
    for boundary in element:
        rings = outer if _tag(boundary) == "outerBoundaryIs" else inner
        if _tag(boundary) in ("outerBoundaryIs", "innerBoundaryIs"):
            rings += [_ring(ring) for ring in boundary if _tag(ring) == "LinearRing"]
    closed = [ring for ring in (*outer[:1], *inner) if len(ring.points) >= _MIN_RING_POINTS]
    if not outer or outer[0] not in closed:
        return None, 0
    holes = [ring.points for ring in closed[1:]]
    return shapely.Polygon(closed[0].points, holes), sum(ring.was_open for ring in closed)


@dataclass(frozen=True, eq=False)
class _Ring:
    points: list[tuple[float, float]]
    was_open: bool


def _ring(element: ElementTree.Element) -> _Ring:
    points = _points(_text(element, "coordinates"))
    was_open = bool(points) and points[0] != points[-1]
    return _Ring(points + points[:1] if was_open else points, was_open)


def _points(text: str) -> list[tuple[float, float]]:
    points = []
    for word in _COMMA.sub(",", text).split():
        numbers = word.split(",")
        try:
            lon, lat = float(numbers[0]), float(numbers[1])
        except (ValueError, IndexError):
            lon, lat = math.nan, math.nan
        if not (abs(lon) <= 180 and abs(lat) <= 90):
            raise ValueError(f"{word!r} is no longitude, latitude")
        points.append((lon, lat))
    if points and max(p[0] for p in points) - min(p[0] for p in points) > 180:
        raise ValueError("it spans more than 180 degrees: cut it at the antimeridian")
    return points


def _text(element: ElementTree.Element, tag: str) -> str:
    """Text of the first child of a name, without white space around it."""
    for child in element:
        if _tag(child) == tag:
            return (child.text or "").strip()
    return ""


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]
