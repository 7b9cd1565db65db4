"""Placemarks of KML and KMZ files, read without trusting the file."""

from __future__ import annotations

import io
import math
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from lczcube.errors import SourceError
from lczcube.sources.files import first_line, is_remote

if TYPE_CHECKING:
    import shapely

SUFFIXES = (".kml", ".kmz")

MEGABYTE = 1_000_000

MAX_MB = 100.0
"""Largest KML text that is read, MB; ten times what the LCZ Generator accepts."""

MAX_ENTRIES = 1_000
"""Most entries of a KMZ: a KML and its icons."""

MAX_RATIO = 200
"""Most bytes that one packed byte may give: KML of coordinates gives 5, of empty folders 50."""

MAX_DEPTH = 100
"""Deepest nesting of elements."""

_MAIN_ENTRY = "doc.kml"
_CONTAINERS = ("Folder", "Document")
_ENCODINGS = ("utf-8", "us-ascii", "ascii", "iso-8859-1", "latin-1", "windows-1252")
_DECLARED = re.compile(rb"""^\s*<\?xml[^>]*?encoding\s*=\s*["']([\w.-]+)["']""")
_PROLOG = re.compile(r"\s*(?:<\?.*?\?>\s*|<!--.*?-->\s*)*", re.DOTALL)
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
    """True for a local file that is KML or KMZ by its name."""
    return not is_remote(href) and Path(href).suffix.lower() in SUFFIXES


def read_kml(path: str | Path, *, max_mb: float = MAX_MB) -> Kml:
    """All placemarks of a KML or KMZ file.

    Parameters
    ----------
    path : str or pathlib.Path
        Local; a KMZ is known by its first bytes, not by its name.
    max_mb : float
        Largest KML text read, in MB. Default 100.

    Raises
    ------
    SourceError
        If the file is too large, is no KML, declares a document type or entities, or if
        coordinates are no longitude and latitude; for a KMZ also if it holds no KML, climbs out
        of its folder, or unpacks to far more than it holds.

    Notes
    -----
    Of a KMZ only ``doc.kml``, else its first KML, is unpacked, in memory; network links are not
    followed. The XML parser sees no document type, so it can neither fetch nor expand anything.
    """
    where, limit = Path(path), int(max_mb * MEGABYTE)
    _require_size(where.stat().st_size, limit, where)
    packed = where.read_bytes()
    text = _unpacked(packed, limit, where) if packed[:4] == b"PK\x03\x04" else packed
    return _parsed(_decoded(text, where), len(text), where)


def _require_size(n_bytes: int, limit: int, where: Path) -> None:
    if n_bytes > limit:
        raise SourceError(
            f"{where} holds {n_bytes / MEGABYTE:.1f} MB of KML; up to {limit / MEGABYTE:g} MB are "
            "read. Cut it to the city, convert it to GeoPackage, or raise max_mb."
        )


def _unpacked(packed: bytes, limit: int, where: Path) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            entry = _main_entry(archive, where)
            _require_size(entry.file_size, limit, where)
            if entry.file_size > MAX_RATIO * max(entry.compress_size, 1):
                raise SourceError(
                    f"{where} unpacks {entry.compress_size} bytes to {entry.file_size}, over "
                    f"{MAX_RATIO} times as much; no KML packs so well. Unpack it yourself if you "
                    "trust it."
                )
            with archive.open(entry) as stream:
                text = stream.read(limit + 1)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise SourceError(
            f"{where} cannot be unpacked ({first_line(error)}); fetch it again."
        ) from error
    _require_size(len(text), limit, where)
    return text


def _main_entry(archive: zipfile.ZipFile, where: Path) -> zipfile.ZipInfo:
    entries = archive.infolist()
    if len(entries) > MAX_ENTRIES:
        raise SourceError(
            f"{where} holds {len(entries)} files; a KMZ of training areas holds a few, at most "
            f"{MAX_ENTRIES} are accepted. Unpack its KML and name that."
        )
    for entry in entries:
        parts = PurePosixPath(entry.filename.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or ":" in entry.filename:
            raise SourceError(
                f"{where} holds a file that climbs out of its folder ({entry.filename!r}); it is "
                "not read. Unpack its KML yourself if you trust it."
            )
    kmls = [entry for entry in entries if entry.filename.lower().endswith(".kml")]
    if not kmls:
        raise SourceError(f"{where} is a zip file without a KML; name the right file.")
    return next((entry for entry in kmls if entry.filename == _MAIN_ENTRY), kmls[0])


def _decoded(text: bytes, where: Path) -> str:
    declared = _DECLARED.match(text[:200])
    encoding = declared[1].decode("ascii").lower() if declared else "utf-8"
    if text.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    elif encoding not in _ENCODINGS:
        raise SourceError(f"{where} is encoded as {encoding!r}; store it as UTF-8.")
    try:
        decoded = text.decode("utf-8-sig" if encoding == "utf-8" else encoding)
    except UnicodeDecodeError as error:
        raise SourceError(f"{where} is no {encoding} text; store it as UTF-8.") from error
    return _without_prolog(decoded, where)


def _without_prolog(text: str, where: Path) -> str:
    """The text from its first element on: only before that can a document type stand."""
    prolog = _PROLOG.match(text)
    start = 0 if prolog is None else prolog.end()
    if text.startswith("<!", start):
        raise SourceError(
            f"{where} declares a document type, which may name entities and other files; KML needs "
            "none. Delete the <!DOCTYPE ...> if you trust the file."
        )
    return text[start:]


def _parsed(text: str, n_bytes: int, where: Path) -> Kml:
    kml = Kml(n_bytes=n_bytes)
    try:
        for folder, element in _placemarks(text, kml.folders, where):
            kml.placemarks.append(_placemark(folder, element, where))
    except ElementTree.ParseError as error:
        raise SourceError(f"{where} is no KML ({first_line(error)}); export it again.") from error
    return kml


def _placemarks(
    text: str, folders: list[KmlFolder], where: Path
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


def _placemark(folder: KmlFolder, element: ElementTree.Element, where: Path) -> Placemark:
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
    if found:
        joined = shapely.MultiPolygon(polygons) if len(polygons) > 1 else None
        first = polygons[0] if polygons else None
        return joined or first, sum(n_closed for _, n_closed in found)
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
