"""Styles of QGIS layers (QML): LCZ classes with their colours, and a list to choose from."""

from __future__ import annotations

from collections.abc import Mapping
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from lczcube.lcz import ZONES, Zone

FILL_ALPHA = 110
"""Opacity of areas, of 255: the imagery below stays in sight."""

_POLYGONS = "2"
_QGIS = {"version": "3.28.0", "styleCategories": "Symbology|Fields|Forms"}
_OUTLINE = {"outline_style": "solid", "outline_width": "0.5", "outline_width_unit": "MM"}


def label_style() -> str:
    """QML of a layer with a field ``lcz``: a colour a class, and a list to choose it from."""
    root = Element("qgis", _QGIS)
    renderer = SubElement(root, "renderer-v2", {"type": "categorizedSymbol", "attr": "lcz"})
    categories, symbols = SubElement(renderer, "categories"), SubElement(renderer, "symbols")
    for zone in ZONES:
        _add_category(categories, symbols, zone)
    fields = SubElement(root, "fieldConfiguration")
    _add_class_list(_widget(fields, "lcz", "ValueMap"))
    for name in ("name", "author", "comment"):
        _add_options(_widget(fields, name, "TextEdit"), {"IsMultiline": "false"})
    formats = {"display_format": "yyyy-MM-dd", "field_format": "yyyy-MM-dd"}
    _add_options(_widget(fields, "date", "DateTime"), {**formats, "calendar_popup": "true"})
    _add_rules(root)
    return _text(root)


def cell_style() -> str:
    """QML of a layer of cells: thin grey outlines, no fill."""
    root = Element("qgis", _QGIS)
    renderer = SubElement(root, "renderer-v2", {"type": "singleSymbol"})
    line = {"outline_color": "128,128,128,160", "outline_style": "solid", "outline_width": "0.1"}
    _add_symbol(SubElement(renderer, "symbols"), "0", {"style": "no", **line})
    return _text(root)


def _add_category(categories: Element, symbols: Element, zone: Zone) -> None:
    symbol = str(zone.code - 1)
    values = {"value": str(zone.code), "type": "long", "label": _label(zone), "symbol": symbol}
    SubElement(categories, "category", {**values, "render": "true"})
    red, green, blue = bytes.fromhex(zone.color())
    fill = {"color": f"{red},{green},{blue},{FILL_ALPHA}", "style": "solid"}
    _add_symbol(symbols, symbol, {**fill, "outline_color": f"{red},{green},{blue},255", **_OUTLINE})


def _label(zone: Zone) -> str:
    return f"LCZ {zone.letter}: {zone.name}"


def _add_symbol(symbols: Element, name: str, options: Mapping[str, str]) -> None:
    symbol = SubElement(symbols, "symbol", {"type": "fill", "name": name, "alpha": "1"})
    layer = SubElement(symbol, "layer", {"class": "SimpleFill", "enabled": "1", "pass": "0"})
    _fill(SubElement(layer, "Option", {"type": "Map"}), options)


def _widget(fields: Element, name: str, kind: str) -> Element:
    """The configuration of a field's editor."""
    widget = SubElement(SubElement(fields, "field", {"name": name}), "editWidget", {"type": kind})
    return SubElement(widget, "config")


def _add_class_list(config: Element) -> None:
    options = SubElement(config, "Option", {"type": "Map"})
    choices = SubElement(options, "Option", {"type": "List", "name": "map"})
    for zone in ZONES:
        _fill(SubElement(choices, "Option", {"type": "Map"}), {_label(zone): str(zone.code)})


def _add_options(config: Element, options: Mapping[str, str]) -> None:
    _fill(SubElement(config, "Option", {"type": "Map"}), options)


def _fill(parent: Element, options: Mapping[str, str]) -> None:
    for name, value in options.items():
        kind = "bool" if value in ("true", "false") else "QString"
        SubElement(parent, "Option", {"type": kind, "name": name, "value": value})


def _add_rules(root: Element) -> None:
    """A class is asked for; the date is today unless another is chosen."""
    rule = {"field": "lcz", "constraints": "1", "notnull_strength": "2"}
    SubElement(SubElement(root, "constraints"), "constraint", rule)
    today = {"field": "date", "expression": "to_date(now())", "applyOnUpdate": "0"}
    SubElement(SubElement(root, "defaults"), "default", today)
    alias = {"field": "lcz", "name": "Local Climate Zone"}
    SubElement(SubElement(root, "aliases"), "alias", alias)
    SubElement(root, "layerGeometryType").text = _POLYGONS


def _text(root: Element) -> str:
    ElementTree.indent(root, " ")
    return ElementTree.tostring(root, encoding="unicode")
