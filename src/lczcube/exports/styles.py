"""Colours and names of a raster of LCZ codes, as QGIS (QML) and ArcGIS (.clr) read them."""

from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from lczcube import lcz as zones


def write_qml(path: str | Path) -> Path:
    """Write the style of a raster of LCZ codes for QGIS 3: a colour and a name a class.

    QGIS takes ``lcz.qml`` of itself for a raster ``lcz.tif`` beside it.
    """
    root = Element("qgis", {"version": "3.28.0", "styleCategories": "Symbology"})
    options = {"type": "paletted", "band": "1", "opacity": "1", "alphaBand": "-1"}
    renderer = SubElement(SubElement(root, "pipe"), "rasterrenderer", options)
    palette = SubElement(renderer, "colorPalette")
    for entry in zones.stac_classes()[1:]:
        values = {
            "value": str(entry["value"]),
            "color": f"#{entry['color_hint'].lower()}",
            "alpha": "255",
            "label": entry["title"],
        }
        SubElement(palette, "paletteEntry", values)
    ElementTree.indent(root, " ")
    text = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
    return _write(path, text + ElementTree.tostring(root, encoding="unicode") + "\n")


def write_clr(path: str | Path) -> Path:
    """Write the colour map of LCZ codes for ArcGIS and QGIS: ``code red green blue`` a line."""
    rgb = zones.colors()
    lines = (f"{z.code} {' '.join(map(str, rgb[z.code].tolist()))}" for z in zones.ZONES)
    return _write(path, "\n".join(lines) + "\n")


def _write(path: str | Path, text: str) -> Path:
    target = Path(path)
    target.write_text(text, encoding="utf-8")
    return target
