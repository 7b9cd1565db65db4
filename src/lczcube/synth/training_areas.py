"""Training areas of a synthetic city as WUDAPT contributors draw them: KML or KMZ, by folders."""

import zipfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import numpy as np
import shapely
from affine import Affine
from pyproj import Transformer
from rasterio.features import shapes

from lczcube.lcz import ZONES
from lczcube.synth.city import City
from lczcube.synth.zones import PIXEL_M, Window, ZoneMap

FOLDERS = {
    3: ("LCZ 3",),
    6: ("lcz_6",),
    11: ("A", "101"),
    14: ("D summer", "14_winter"),
    16: ("LCZ_F",),
}
"""Names of a class's folders; a class that is not here has its letter."""

EXTRA_FOLDER = "W"
"""Wetlands of the template, which are no LCZ."""

_MARGIN_M = 20
_SIMPLIFY_M = 10
_HOLE_M = 20
_GAP_M = 10
_DECIMALS = 8
_NAMESPACE = "http://www.opengis.net/kml/2.2"
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)


def training_areas_path(out: Path, city: City, *, year: int, suffix: str = ".kmz") -> Path:
    """Path of a city's training areas, named as the LCZ Generator wants it."""
    return out / "training_areas" / f"[{city.name}][{year}][Synthetic]{suffix}"


def write_training_areas(
    path: str | Path, city: City, *, seed: int, max_per_class: int = 4
) -> Path:
    """Write training areas of a synthetic city, each inside one of its true zones.

    The file has the habits of real ones: a folder a class under many names, empty ones among
    them; a style placeholder, a region of interest, and areas of class ``W``; areas with heights,
    holes, or several parts.

    Parameters
    ----------
    path : str or Path
        ``.kml``, or ``.kmz`` for a zip file with ``doc.kml``.
    city : City
        From :func:`lczcube.synth.city.draw_city`.
    seed : int
        Chooses the zones: the same seed gives the same bytes.
    max_per_class : int
        Zones that are drawn of each class at most.

    Returns
    -------
    Path
        The file.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    text = _document(city, seed, max_per_class)
    if target.suffix.lower() != ".kmz":
        target.write_bytes(text)
        return target
    entry = zipfile.ZipInfo("doc.kml", _ZIP_DATE)
    entry.compress_type = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr(entry, text)
    return target


def _document(city: City, seed: int, max_per_class: int) -> bytes:
    rng = np.random.default_rng([seed, city.number, 40])
    to_lonlat = Transformer.from_crs(city.grid.crs, "EPSG:4326", always_xy=True)
    root = Element("kml", {"xmlns": _NAMESPACE})
    document = _folder(root, f"{city.name} (synthetic)", tag="Document")
    SubElement(document, "description").text = f"Synthetic world, seed {seed}: not real."
    _add_placeholder(_folder(document, "Style"))
    top = _folder(document, city.name)
    _add_area(top, "ROI", shapely.box(*city.grid.bbox), to_lonlat)
    numbers = count()
    for zone in ZONES:
        areas = list(_areas(city.zone_map, zone.code, max_per_class, rng))
        names = FOLDERS.get(zone.code, (zone.letter,))
        for place, name in enumerate(names):
            folder = _folder(top, name)
            for area in areas[place :: len(names)]:
                _add_habit(folder, zone.letter, area, next(numbers), to_lonlat)
    west, south, _, _ = city.grid.bbox
    wetland = shapely.box(west, south, west + 200, south + 200)
    _add_area(_folder(top, EXTRA_FOLDER), EXTRA_FOLDER, wetland, to_lonlat)
    ElementTree.indent(root, " ")
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text


def _areas(
    zone_map: ZoneMap, code: int, max_per_class: int, rng: np.random.Generator
) -> Iterator[shapely.Polygon]:
    """Polygons in metres, each well inside one zone of a class and where something was seen."""
    found = 0
    for zone in rng.permutation(np.flatnonzero(zone_map.lcz.reshape(-1) == code)).tolist():
        area = _inside_zone(zone_map, zone)
        if area is not None:
            yield area
            found += 1
        if found == max_per_class:
            return


def _inside_zone(zone_map: ZoneMap, zone: int) -> shapely.Polygon | None:
    window = _around(zone_map, zone)
    if min(window.shape) <= 0:
        return None
    mask = (zone_map.zones(window) == zone) & zone_map.seen(window)
    transform = Affine(PIXEL_M, 0, window.x0 * PIXEL_M, 0, PIXEL_M, window.y0 * PIXEL_M)
    drawn = [
        shapely.geometry.shape(outline)
        for outline, _ in shapes(mask.astype(np.uint8), mask=mask, transform=transform)
    ]
    shrunk = [polygon.buffer(-_MARGIN_M).simplify(_SIMPLIFY_M) for polygon in drawn]
    parts = [part for polygon in shrunk for part in shapely.get_parts(polygon) if part.area > 0]
    return max(parts, key=lambda part: part.area, default=None)


def _around(zone_map: ZoneMap, zone: int) -> Window:
    """The pixels of the city within a side and a half of a zone's point."""
    city, reach = zone_map.window, 1.5 * zone_map.side_px
    x, y = (zone_map.points.reshape(-1, 2)[zone] * zone_map.side_px).tolist()
    return Window(
        max(city.x0, city.x0 + round(x - reach)),
        max(city.y0, city.y0 + round(y - reach)),
        min(city.x1, city.x0 + round(x + reach)),
        min(city.y1, city.y0 + round(y + reach)),
    )


def _add_habit(
    folder: Element, name: str, area: shapely.Polygon, number: int, to_lonlat: Transformer
) -> None:
    """An area as one of four kinds: plain, with heights, with a hole, in parts."""
    kind = number % 4
    middle = area.point_on_surface()
    if kind == 2:
        area = area.difference(middle.buffer(_HOLE_M, cap_style="square"))
    if kind == 3:
        _, south, _, north = area.bounds
        area = area.difference(shapely.box(middle.x - _GAP_M, south, middle.x + _GAP_M, north))
    _add_area(folder, name, area, to_lonlat, has_heights=kind == 1)


def _add_area(
    folder: Element,
    name: str,
    area: shapely.Geometry,
    to_lonlat: Transformer,
    *,
    has_heights: bool = False,
) -> None:
    placemark = SubElement(folder, "Placemark")
    SubElement(placemark, "name").text = name
    parts = shapely.get_parts(area)
    parent = SubElement(placemark, "MultiGeometry") if len(parts) > 1 else placemark
    for part in parts:
        polygon = SubElement(parent, "Polygon")
        for tag, ring in (("outer", part.exterior), *(("inner", r) for r in part.interiors)):
            linear = SubElement(SubElement(polygon, f"{tag}BoundaryIs"), "LinearRing")
            lon, lat = to_lonlat.transform(*ring.xy)
            height = ",0" if has_heights else ""
            SubElement(linear, "coordinates").text = " ".join(
                f"{x:.{_DECIMALS}f},{y:.{_DECIMALS}f}{height}"
                for x, y in zip(lon, lat, strict=True)
            )


def _add_placeholder(folder: Element) -> None:
    """A Placemark without a geometry, which keeps the template's style."""
    placemark = SubElement(folder, "Placemark")
    SubElement(placemark, "name").text = "style placeholder"


def _folder(parent: Element, name: str, *, tag: str = "Folder") -> Element:
    folder = SubElement(parent, tag)
    SubElement(folder, "name").text = name
    return folder
