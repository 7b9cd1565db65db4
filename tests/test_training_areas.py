"""Training areas, labels of several classes, and the template to draw labels in."""

import datetime
import io
import json
import re
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely
from pyproj import Geod
from rasterio.features import rasterize

import lczcube
from lczcube.catalog import build_catalog, open_catalog
from lczcube.errors import ConfigError, LabelError, SourceError
from lczcube.grid import Grid
from lczcube.labels import rasterize_labels, read_labels, write_template
from lczcube.labels.samples import read_samples
from lczcube.lcz import ZONES
from lczcube.pipeline import run_stages
from lczcube.sources import SOURCES, SourceItem, build_items, find_files
from lczcube.sources.class_folders import class_of_name
from lczcube.sources.class_sets import sets_of
from lczcube.sources.kml import read_kml
from lczcube.sources.training_areas import NameParts, told_by_name
from lczcube.synth import draw_city, write_training_areas, write_world
from lczcube.synth.training_areas import training_areas_path
from tests.test_catalog import CORE, extension_schema, validate, with_schemas

Boxes = dict[str, tuple[float, float, float, float]]

HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n<kml xmlns="http://www.opengis.net/kml/2.2">'


def ring(west: float, south: float = 48.0, *, side: float = 0.01, height: str = "") -> str:
    """Coordinates of a square, closed."""
    corners = [(0, 0), (side, 0), (side, side), (0, side), (0, 0)]
    return " ".join(f"{west + x:.6f},{south + y:.6f}{height}" for x, y in corners)


def polygon(outer: str, *holes: str) -> str:
    rings = [("outer", outer), *(("inner", hole) for hole in holes)]
    return "".join(
        ["<Polygon>"]
        + [
            f"<{kind}BoundaryIs><LinearRing><coordinates>{text}</coordinates></LinearRing>"
            f"</{kind}BoundaryIs>"
            for kind, text in rings
        ]
        + ["</Polygon>"]
    )


def mark(content: str = "", name: str = "") -> str:
    return f"<Placemark><name>{name}</name>{content}</Placemark>"


def folder(name: str, *contents: str) -> str:
    return f"<Folder><name>{name}</name>{''.join(contents)}</Folder>"


def kml(*contents: str) -> str:
    return f"{HEAD}<Document><name>doc</name>{''.join(contents)}</Document></kml>"


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode("utf-8") if isinstance(text, str) else text)
    return path


def write_kmz(
    path: Path, entries: dict[str, str | bytes], method: int = zipfile.ZIP_DEFLATED
) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, text in entries.items():
            archive.writestr(name, text)
    return path


def register(path: Path | str, *, cities: Boxes | None = None, **keys: Any) -> SourceItem:
    source = keys.pop("source", "training_areas")
    entry = SOURCES[source].model_validate(
        {"name": "x", "source": source, "href": str(path), **keys}
    )
    (file,) = find_files(entry, folder=Path("/"), cities=cities or {})
    (made,) = build_items(entry, file)
    return made


def table_of(path: Path, **keys: Any) -> gpd.GeoDataFrame:
    table = register(path, **keys).table
    assert table is not None
    return table.frame


def properties_of(path: Path, **keys: Any) -> dict[str, Any]:
    properties: dict[str, Any] = register(path, **keys).item.properties
    return properties


# Names of folders


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("1", (1, "")),
        ("10", (10, "")),
        (" LCZ 1 ", (1, "")),
        ("LCZ_A", (11, "")),
        ("lcz-g", (17, "")),
        ("LCZ6", (6, "")),
        ("a", (11, "")),
        ("11", (11, "")),
        ("17", (17, "")),
        ("101", (11, "")),
        ("107", (17, "")),
        ("W", (18, "")),
        ("h", (19, "")),
        ("18", (18, "")),
        ("19", (19, "")),
        ("108", (18, "")),
        ("109", (19, "")),
        ("D summer", (14, "summer")),
        ("14_winter", (14, "winter")),
        ("LCZ 104 (dry season)", (14, "dry season")),
        ("6 - Open low-rise", (6, "Open low-rise")),
        ("A. Dense trees", (11, "Dense trees")),
        ("D 2019", (14, "2019")),
    ],
)
def test_a_folder_names_its_class_in_any_spelling(name: str, expected: tuple[int, str]) -> None:
    found = class_of_name(name)
    assert found is not None
    assert (found.code, found.suffix) == expected


@pytest.mark.parametrize(
    "name",
    ["", "0", "20", "110", "100", "I", "Style", "ROI", "Water", "AB", "1st survey", "10km", "2019",
     "[Melbourne][2006][JamesBennie]", "1 - 3", "LCZ 1 / LCZ 2", "A or B", "1 & 2", "1,2"],
)  # fmt: skip
def test_other_folders_and_those_of_two_classes_name_none(name: str) -> None:
    assert class_of_name(name) is None


# Reading


@pytest.fixture
def habits(tmp_path: Path) -> Path:
    """A file with the habits of contributors: 9 areas of 6 classes, and much else."""
    hole = ring(10.152, 48.002, side=0.004)
    two = polygon(ring(10.2)) + polygon(ring(10.22))
    bow_tie = "10.30,48.00 10.31,48.01 10.31,48.00 10.30,48.01 10.30,48.00"
    unclosed = ring(10.4).rsplit(" ", 1)[0]
    text = kml(
        folder("Style", mark(name="style placeholder")),
        folder(
            "[Kiel][2019][Ann]",
            mark(polygon(ring(9.9, 47.9, side=0.8)), "ROI"),
            folder("1", mark(polygon(ring(10.0, height=",0")), "3-D")),
            folder("2"),
            folder("LCZ 3", mark(polygon(ring(10.15), hole)), mark()),
            folder("101", mark(f"<MultiGeometry>{two}</MultiGeometry>")),
            folder("D summer", mark(polygon(bow_tie))),
            folder("14_winter", mark(polygon(unclosed))),
            folder("g", mark(polygon(ring(10.5))), folder("lakes", mark(polygon(ring(10.6))))),
            folder("W", mark(polygon(ring(10.55)))),
            folder("109", mark(polygon(ring(10.65)))),
            folder("old", mark(polygon(ring(10.7))), mark(polygon(ring(10.72)))),
        ),
    )
    return write(tmp_path / "[Kiel][2019][Ann].kml", text)


def test_areas_have_the_classes_of_their_folders(habits: Path) -> None:
    table = table_of(habits)
    assert list(table["lcz"]) == [1, 3, 11, 14, 14, 17, 17]
    assert list(table["year"]) == [2019] * 7
    assert table["group"].is_unique
    assert table.crs == "EPSG:4326"
    assert not table.has_z.any()
    assert table.is_valid.all()


def test_holes_parts_and_open_rings_keep_their_ground(habits: Path) -> None:
    areas = shapely.area(table_of(habits).geometry.to_numpy())
    square = 0.01**2
    expected = [square, square - 0.004**2, 2 * square, square / 2, square, square, square]
    np.testing.assert_allclose(areas, expected, rtol=1e-9)
    assert properties_of(habits)["lczcube:n_repaired"] == 2  # the bow tie and the open ring


def test_what_is_left_out_is_counted_and_told(habits: Path) -> None:
    properties = properties_of(habits)
    # Two placeholders, the region, one each of W and 109, two old polygons.
    assert properties["lczcube:n_dropped"] == 7
    assert properties["lczcube:note"] == (
        "2 areas of classes 18 (W) and 19 (H) left out, which are no LCZ; "
        "polygons left out in folders that name no class: 'old' (2)"
    )
    folders = {row["name"]: row for row in properties["lczcube:folders"]}
    assert folders["D summer"] == {"name": "D summer", "lcz": 14, "suffix": "summer", "n": 1}
    assert folders["14_winter"]["suffix"] == "winter"
    assert (folders["lakes"]["lcz"], folders["lakes"]["suffix"]) == (17, "lakes")
    assert (folders["2"]["lcz"], folders["2"]["n"]) == (2, 0)
    assert (folders["W"]["lcz"], folders["old"]["lcz"], folders["old"]["n"]) == (18, 0, 2)


def test_an_item_says_who_drew_where_and_how_much(habits: Path) -> None:
    properties = properties_of(habits)
    assert properties["title"] == "Training areas: Kiel, Ann"
    assert properties["providers"] == [{"name": "Ann", "roles": ["producer"]}]
    assert properties["lczcube:region_bbox"] == pytest.approx([9.9, 47.9, 10.7, 48.7])
    geod = Geod(ellps="WGS84")
    region_km2 = geod.geometry_area_perimeter(shapely.box(9.9, 47.9, 10.7, 48.7))[0] / 1e6
    assert properties["lczcube:region_area_km2"] == pytest.approx(region_km2, rel=2e-3)
    (first, *_) = properties["lczcube:class_areas"]
    square_km2 = geod.geometry_area_perimeter(shapely.box(10.0, 48.0, 10.01, 48.01))[0] / 1e6
    assert (first["lcz"], first["n"]) == (1, 1)
    assert first["area_km2"] == pytest.approx(square_km2, rel=2e-3)
    counts = {row["lcz"]: row["n"] for row in properties["lczcube:class_areas"]}
    assert counts == {1: 1, 3: 1, 11: 1, 14: 2, 17: 2}


def test_a_class_that_the_input_drops_is_in_no_count(habits: Path) -> None:
    made = register(habits, drop_classes=(17,))
    assert made.table is not None
    assert 17 not in set(made.table.frame["lcz"])
    assert 17 not in {row["lcz"] for row in made.item.properties["lczcube:class_areas"]}
    assert made.item.properties["lczcube:n_dropped"] == 9


def test_a_kmz_gives_the_rows_of_its_doc_kml(habits: Path, tmp_path: Path) -> None:
    other = kml(folder("5", mark(polygon(ring(20.0)))))
    entries = {"icons/a.kml": other, "icons/a.png": b"png", "doc.kml": habits.read_bytes()}
    packed = write_kmz(tmp_path / "[Kiel][2019][Ann].kmz", entries)
    a, b = table_of(habits), table_of(packed)
    pd.testing.assert_frame_equal(pd.DataFrame(a), pd.DataFrame(b))
    first = write_kmz(tmp_path / "other.kmz", {"b.txt": b"", "areas.KML": other, "z.kml": b"<"})
    assert list(table_of(first)["lcz"]) == [5]


def test_what_gdal_reads_of_a_folder_is_what_we_read(habits: Path) -> None:
    table = table_of(habits)
    for layer, lcz in (("1", 1), ("LCZ 3", 3), ("101", 11)):
        theirs = pyogrio.read_dataframe(habits, layer=layer, force_2d=True)
        theirs = theirs[theirs.geometry.notna()]
        ours = table[table["lcz"] == lcz]
        assert len(ours) == len(theirs) == 1
        assert shapely.equals(ours.geometry.iloc[0], theirs.geometry.iloc[0])


def test_an_authors_initial_around_class_folders_is_no_class(tmp_path: Path) -> None:
    stray = mark(polygon(ring(10.5)))
    inner = folder("1", mark(polygon(ring(10.0)))), folder("A", mark(polygon(ring(10.1))))
    path = write(tmp_path / "a.kml", kml(folder("G Mills", stray, *inner)))
    assert list(table_of(path)["lcz"]) == [1, 11]
    own = folder("D seasons", folder("D summer", mark(polygon(ring(10.2)))), stray)
    path = write(tmp_path / "b.kml", kml(own))
    assert list(table_of(path)["lcz"]) == [14, 14]


def test_names_that_come_after_the_areas_and_other_namespaces_are_read(tmp_path: Path) -> None:
    late = f"<Folder>{mark(polygon(ring(10.0)))}<name>LCZ 4</name></Folder>"
    text = kml(late).replace("http://www.opengis.net/kml/2.2", "http://earth.google.com/kml/2.0")
    assert list(table_of(write(tmp_path / "a.kml", text))["lcz"]) == [4]
    bare = kml(late).replace(' xmlns="http://www.opengis.net/kml/2.2"', "")
    assert list(table_of(write(tmp_path / "b.kml", bare))["lcz"]) == [4]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "iso-8859-1"])
def test_a_kml_in_another_encoding_is_read(tmp_path: Path, encoding: str) -> None:
    text = kml(folder("4", mark(polygon(ring(10.0)), "Züge"))).replace("UTF-8", encoding[:6])
    declared = text.replace("utf-8-", "utf-8").replace("iso-88", "iso-8859-1")
    path = write(tmp_path / "a.kml", declared.encode(encoding))
    assert [mark.name for mark in read_kml(str(path)).placemarks] == ["Züge"]


def test_coordinates_with_blanks_and_line_breaks_are_read(tmp_path: Path) -> None:
    outer = "\n\t10.0, 48.0,0\n\t10.01 ,48.0,0\t10.01,48.01,0 10.0,48.01,0\n10.0,48.0,0 \n"
    path = write(tmp_path / "a.kml", kml(folder("4", mark(polygon(outer)))))
    (area,) = table_of(path).geometry
    assert area.equals(shapely.box(10, 48, 10.01, 48.01))


def test_a_ring_of_two_points_is_left_out_and_counted(tmp_path: Path) -> None:
    flat = mark(polygon("10,48 10.1,48 10,48"))
    path = write(tmp_path / "a.kml", kml(folder("4", flat, mark(polygon(ring(10.0))))))
    made = register(path)
    assert made.table is not None
    assert len(made.table.frame) == 1
    assert made.item.properties["lczcube:n_dropped"] == 1


def test_a_style_that_html_describes_is_no_document_type(tmp_path: Path) -> None:
    html = "<description><![CDATA[<!DOCTYPE html><html><!ENTITY></html>]]></description>"
    path = write(tmp_path / "a.kml", kml(html, folder("4", mark(polygon(ring(10.0))))))
    assert list(table_of(path)["lcz"]) == [4]


def test_the_polygons_source_reads_the_same_classes_but_wants_w_dropped(habits: Path) -> None:
    with pytest.raises(LabelError, match=r"18 \(1 times\), 19 \(1 times\)"):
        table_of(habits, source="polygons", class_column="layer")
    table = table_of(habits, source="polygons", class_column="layer", drop_classes=(18, 19))
    assert list(table["lcz"]) == list(table_of(habits)["lcz"])


def test_the_polygons_source_reads_names_and_extended_data_of_placemarks(tmp_path: Path) -> None:
    data = '<ExtendedData><Data name="zone"><value>LCZ 5</value></Data></ExtendedData>'
    simple = '<ExtendedData><SchemaData><SimpleData name="zone">A</SimpleData></SchemaData>'
    marks = [
        mark(data + polygon(ring(10.0)), "6"),
        mark(simple + "</ExtendedData>" + polygon(ring(10.1)), "17"),
    ]
    path = write(tmp_path / "a.kml", kml(folder("mine", *marks)))
    by_name = table_of(path, source="polygons", class_column="Name")
    by_data = table_of(path, source="polygons", class_column="zone")
    assert (list(by_name["lcz"]), list(by_data["lcz"])) == ([6, 17], [5, 11])


# Names of files


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("[Melbourne][2006][JamesBennie].kmz", NameParts("Melbourne", 2006, "JamesBennie")),
        ("[São Paulo][2019-05-31][A B].kml", NameParts("São Paulo", 2019, "A B")),
        ("[Melbourne][240821][JB].kml", NameParts("Melbourne", None, "JB")),
        ("[Kiel][20190531].kml", NameParts("Kiel", 2019, "")),
        ("kiel(2015-07-01){ann}.kml", NameParts("kiel", 2015, "ann")),
        ("kiel(2015-07-01).kml", NameParts("kiel", 2015, "")),
        ("areas_2019.kml", NameParts()),
    ],
)
def test_a_file_name_tells_city_year_and_author(name: str, expected: NameParts) -> None:
    assert told_by_name(name) == expected


def test_the_year_of_the_input_stands_and_another_in_the_name_is_told(habits: Path) -> None:
    made = register(habits, year=2021)
    assert made.table is not None
    assert set(made.table.frame["year"]) == {2021}
    assert made.item.properties["lczcube:note"].endswith("its name says 2019, the input 2021")


# Files that cannot be trusted


def bomb(path: Path) -> Path:
    return write_kmz(path, {"doc.kml": kml(" " * 20_000_000)})


def many_entries(path: Path) -> Path:
    return write_kmz(path, {"doc.kml": kml()} | {f"icon{n}.png": b"" for n in range(1001)})


def lying_size(path: Path) -> Path:
    """A KMZ whose directory says 100 bytes of a file that unpacks to far more."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("doc.kml", kml(folder("1", *[mark(polygon(ring(10.0)))] * 500)))
        size = archive.getinfo("doc.kml").file_size
    stored = stream.getvalue().replace(size.to_bytes(4, "little"), (100).to_bytes(4, "little"))
    return write(path, stored)


XXE = '<!DOCTYPE kml [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
LAUGHS = '<!DOCTYPE kml [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
GOOD = kml(folder("4", mark(polygon(ring(10.0)))))


def with_doctype(doctype: str) -> str:
    return GOOD.replace("<kml", f"<!-- areas -->\n{doctype}<kml", 1)


BAD_FILES: dict[str, tuple[str, Any]] = {
    "bomb.kmz": ("unpacks .* over 200 times as much", bomb),
    "many.kmz": ("holds 1002 files", many_entries),
    "lying.kmz": ("cannot be unpacked", lying_size),
    "climbs.kmz": (
        r"climbs out of its folder \('\.\./\.\./doc\.kml'\)",
        lambda path: write_kmz(path, {"../../doc.kml": GOOD}),
    ),
    "backslash.kmz": (
        "climbs out of its folder",
        lambda path: write_kmz(path, {"doc.kml": GOOD, "..\\evil.dll": b""}),
    ),
    "absolute.kmz": (
        "climbs out of its folder",
        lambda path: write_kmz(path, {"doc.kml": GOOD, "/etc/passwd": b""}),
    ),
    "lzma.kmz": (
        "packed by method 14",
        lambda path: write_kmz(path, {"doc.kml": GOOD}, zipfile.ZIP_LZMA),
    ),
    "empty.kmz": ("zip file without a KML", lambda path: write_kmz(path, {"a.txt": b"a"})),
    "cut.kmz": (
        "cannot be unpacked",
        lambda path: write(path, write_kmz(path, {"doc.kml": GOOD}).read_bytes()[:-30]),
    ),
    "xxe.kml": ("declares a document type", lambda path: write(path, with_doctype(XXE))),
    "xxe16.kml": (
        "declares a document type",
        lambda path: write(path, with_doctype(XXE).encode("utf-16")),
    ),
    "xxe16le.kml": (
        "no element begins it",
        lambda path: write(path, with_doctype(XXE).partition("-->")[2].strip().encode("utf-16-le")),
    ),
    "laughs.kml": ("declares a document type", lambda path: write(path, with_doctype(LAUGHS))),
    "xxe.kmz": (
        "declares a document type",
        lambda path: write_kmz(path, {"doc.kml": with_doctype(XXE)}),
    ),
    "utf7.kml": ("encoded as 'utf-7'", lambda path: write(path, GOOD.replace("UTF-8", "UTF-7"))),
    "latin.kml": ("is no utf-8 text", lambda path: write(path, GOOD.encode() + b"\xe9")),
    "html.kml": ("is no KML: it is <html>", lambda path: write(path, "<html><p>404</p></html>")),
    "cut.kml": ("is no KML", lambda path: write(path, GOOD[:-40])),
    "noise.kml": ("is no", lambda path: write(path, bytes(range(256)))),
    "deep.kml": ("nests deeper than 100", lambda path: write(path, HEAD + "<Folder>" * 200)),
    "unclassed.kml": (
        r"no folder named after a class \(its folders: 'doc', 'mine'\)",
        lambda path: write(path, kml(folder("mine", mark(polygon(ring(10.0)))))),
    ),
    "lines.kml": (
        "holds 1 geometries of type LineString",
        lambda path: write(
            path,
            kml(
                folder(
                    "4",
                    mark(f"<LineString><coordinates>{ring(10.0)}</coordinates></LineString>"),
                )
            ),
        ),
    ),
    "bare.kml": ("holds no (label|row)", lambda path: write(path, kml(folder("4"), folder("5")))),
    "metres.kml": (
        "'690000,5335000' is no longitude, latitude",
        lambda path: write(
            path, kml(folder("4", mark(polygon("690000,5335000 690100,5335000 690100,5335100"))))
        ),
    ),
    "swapped.kml": (
        "is no longitude, latitude",
        lambda path: write(
            path, kml(folder("4", mark(polygon("-37,144 -37,145 -38,145 -37,144"), "m")))
        ),
    ),
    "words.kml": (
        "'north' is no longitude, latitude",
        lambda path: write(path, kml(folder("4", mark(polygon("north east south west"))))),
    ),
    "fiji.kml": (
        "cut it at the antimeridian",
        lambda path: write(
            path, kml(folder("4", mark(polygon("179.9,-17 -179.9,-17 -179.9,-16 179.9,-17"))))
        ),
    ),
}


@pytest.mark.parametrize("source", ["training_areas", "polygons"])
@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_cannot_be_trusted_is_refused(tmp_path: Path, name: str, source: str) -> None:
    message, make = BAD_FILES[name]
    keys = {"class_column": "layer"} if source == "polygons" else {}
    path = make(tmp_path / name)
    with pytest.raises((SourceError, LabelError), match=message) as caught:
        register(path, source=source, **keys)
    assert name in str(caught.value)


def test_a_broken_file_is_a_row_of_the_report_and_the_rest_is_built(tmp_path: Path) -> None:
    for name, (_, make) in BAD_FILES.items():
        make(tmp_path / name)
    write(tmp_path / "good.kml", GOOD)
    toml = tmp_path / "areas.toml"
    toml.write_text(
        'id = "areas"\n[[input]]\nname = "areas"\nsource = "training_areas"\nhref = "."\n'
    )
    report = build_catalog(toml, tmp_path / "catalog")
    assert report.n_items == 1
    assert sorted(Path(failure.path).name for failure in report.failures) == sorted(BAD_FILES)
    assert list(read_labels(open_catalog(tmp_path / "catalog"), ["areas"])["lcz"]) == [4]


def test_a_parser_never_sees_a_document_type_in_disguise(tmp_path: Path) -> None:
    # Without a byte order mark expat takes "<\0" for UTF-16: the check must not look past it.
    hidden = f"{LAUGHS}<kml><Folder><name>&b;</name></Folder></kml>".encode("utf-16-le")
    assert ElementTree.fromstring(hidden).findtext("Folder/name") == "a" * 16
    with pytest.raises(SourceError, match="no element begins it"):
        read_kml(str(write(tmp_path / "a.kml", hidden)))


@pytest.mark.parametrize("source", ["training_areas", "polygons"])
def test_kml_at_a_url_is_refused_unfetched(source: str) -> None:
    keys = {"class_column": "layer"} if source == "polygons" else {}
    with pytest.raises(SourceError, match="fetch it first"):
        register("https://host.invalid/a.kml", source=source, **keys)


def test_a_size_limit_is_kept_and_can_be_raised(tmp_path: Path) -> None:
    text = kml(" " * 2_000_000, folder("4", mark(polygon(ring(10.0)))))
    path = write(tmp_path / "a.kml", text)
    with pytest.raises(SourceError, match=r"holds 2\.0 MB of KML; up to 1 MB are read"):
        register(path, max_mb=1.0)
    assert "lczcube:note" not in properties_of(path)
    large = write(tmp_path / "b.kml", text.replace(" " * 2_000_000, " " * 11_000_000))
    assert properties_of(large)["lczcube:note"] == "over the 10 MB that the LCZ Generator accepts"


# The public collection


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    """Six areas in the publisher's columns: four near (10, 48), one beyond, one of class 18."""
    west = [10.0, 10.02, 10.04, 10.06, 12.0, 10.08]
    columns = {
        "class": [1, 17, 6, 11, 3, 18],
        "qc_step1": ["True", "T", "False", "True", "True", "True"],
        "qc_step2": ["True", "False", "True", "True", "True", "True"],
        "submission_id": ["s1", "s1", "s2", "s2", "s3", "s1"],
        "representative_date": ["2019-05-31", "2020", "summer", "0202-01-01", "2018", "2019"],
        "license": ["CC-BY-SA-4.0", "CC-BY-SA-4.0", "CC-BY-NC-SA-4.0", None, "x", "x"],
    }
    squares = shapely.force_3d(shapely.box(west, 48, np.add(west, 0.01), 48.01), 0.0)
    path = tmp_path / "lcz_generator_tas.gpkg"
    frame = gpd.GeoDataFrame(columns, geometry=squares, crs="EPSG:4326")
    frame.to_file(path, layer="areas", driver="GPKG")
    pd.DataFrame({"styleName": ["a"]}).pipe(
        pyogrio.write_dataframe, path, layer="layer_styles", driver="GPKG"
    )
    return path


NEAR = {"kiel": (10.0, 47.9, 10.1, 48.1)}


def test_areas_of_the_collection_near_a_city_are_read_with_year_group_and_licence(
    collection: Path,
) -> None:
    made = register(collection, cities=NEAR)
    assert made.table is not None
    table = made.table.frame
    assert list(table["lcz"]) == [1, 17, 6, 11]
    assert list(table["group"]) == ["x/s1", "x/s1", "x/s2", "x/s2"]
    assert list(table["year"]) == [2019, 2020, 0, 0]
    assert table["year"].dtype == np.int32
    assert list(table["license"]) == ["CC-BY-SA-4.0", "CC-BY-SA-4.0", "CC-BY-NC-SA-4.0", ""]
    assert not table.has_z.any()
    assert made.item.properties["lczcube:n_undated"] == 2
    assert made.item.properties["lczcube:n_dropped"] == 1
    assert made.item.properties["lczcube:note"].startswith("1 areas of classes 18 (W) and 19 (H)")


def test_ids_of_the_collection_do_not_depend_on_the_cities(collection: Path) -> None:
    everywhere = table_of(collection)
    assert list(everywhere["lcz"]) == [1, 17, 6, 11, 3]
    far = table_of(collection, cities={"far": (11.99, 47.9, 12.1, 48.1)})
    assert list(far["patch_id"]) == [everywhere["patch_id"].iloc[4]]
    twice = table_of(collection, cities=NEAR | {"same": (10.0, 48.0, 10.05, 48.01)})
    assert twice["patch_id"].is_unique
    assert len(twice) == 4


def test_flags_of_quality_control_are_asked_for(collection: Path) -> None:
    assert list(table_of(collection, cities=NEAR, qc_steps=[1])["lcz"]) == [1, 17, 11]
    both = register(collection, cities=NEAR, qc_steps=[1, 2])
    assert both.table is not None
    assert list(both.table.frame["lcz"]) == [1, 11]
    assert both.item.properties["lczcube:n_dropped"] == 3
    assert "2 areas left out by qc_step1, qc_step2" in both.item.properties["lczcube:note"]
    with pytest.raises(SourceError, match=r"no column 'qc_step3' \(qc_steps\)"):
        register(collection, qc_steps=[3])


def test_an_undated_area_has_the_year_of_the_input(collection: Path) -> None:
    assert list(table_of(collection, cities=NEAR, year=2021)["year"]) == [2019, 2020, 2021, 2021]


def test_a_place_without_areas_and_another_geopackage_are_refused(
    collection: Path, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match="no training area within 5 km of a city"):
        register(collection, cities={"far": (50.0, 10.0, 50.1, 10.1)})
    write_template(tmp_path / "other.gpkg")
    with pytest.raises(SourceError, match="is not the collection of training areas"):
        register(tmp_path / "other.gpkg")
    broken = write(tmp_path / "broken.gpkg", b"no database")
    with pytest.raises(SourceError, match="cannot be read as GeoPackage"):
        register(broken)


# Labels of several classes


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("1,2,3", {1, 2, 3}),
        ("3; 1;2", {1, 2, 3}),
        ("1 2 3", {1, 2, 3}),
        ("1-3", {1, 2, 3}),
        ("LCZ 1 - LCZ 3", {1, 2, 3}),
        ("A-D", {11, 12, 13, 14}),
        ("101-104", {11, 12, 13, 14}),
        ("LCZ 1 / LCZ 2", {1, 2}),
        ("lcz_1/lcz_a", {1, 11}),
        ("A or B", {11, 12}),
        ("compact", {1, 2, 3}),
        ("Open", {4, 5, 6}),
        ("compact, 8", {1, 2, 3, 8}),
        ("natural", set(range(11, 18))),
        ("built", set(range(1, 11))),
        ("{1, 101}", {1, 11}),
        ([1, 2], {1, 2}),
        (np.array([3, 1]), {1, 3}),
        ("6", {6}),
        (6.0, {6}),
        (104, {14}),
        ("1,1", {1}),
        (None, set()),
        (float("nan"), set()),
        ("", set()),
        ("0", set()),
    ],
)
def test_a_set_is_read_however_it_is_written(written: Any, expected: set[int]) -> None:
    (found,) = sets_of(pd.Series([written], dtype=object), where="a")
    assert found == expected


@pytest.mark.parametrize("written", ["forest", "1,forest", "3-1", "1-", "-3", "6.5", "1-forest"])
def test_a_set_that_names_something_else_is_refused(written: str) -> None:
    with pytest.raises(LabelError, match="1 sets of classes that cannot be read, such as"):
        sets_of(pd.Series(["1,2", written]), where="a")


def test_a_set_with_a_code_that_is_no_lcz_is_refused_or_dropped_whole() -> None:
    sets = pd.Series(["1,2", "6,18", "W", "25"])
    with pytest.raises(LabelError, match=r"18 \(2 times\), 25 \(1 times\)"):
        sets_of(sets, where="a")
    found = sets_of(sets, drop_classes=(18, 25), where="a")
    # {6, 18} does not become {6}, which nobody said.
    assert found == [{1, 2}, set(), set(), set()]


UTM32 = "EPSG:32632"


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """Five squares of 100 m: two of one class, two of several, one of none."""
    sets = ["6", "1,2,3", "LCZ A", "A/B", None]
    squares = [shapely.box(690_000 + 200 * i, 5_335_000, 690_100 + 200 * i, 5_335_100)
               for i in range(5)]  # fmt: skip
    frame = gpd.GeoDataFrame({"may_be": sets}, geometry=squares, crs=UTM32)
    frame.to_file(tmp_path / "several.gpkg", driver="GPKG")
    toml = tmp_path / "several.toml"
    toml.write_text(
        'id = "several"\n[[input]]\nname = "x"\nsource = "polygons"\nhref = "several.gpkg"\n'
        'class_set_column = "may_be"\n'
    )
    return toml


def test_a_label_of_several_classes_has_code_0_and_says_which(several: Path) -> None:
    made = register(several.with_suffix(".gpkg"), source="polygons", class_set_column="may_be")
    assert made.table is not None
    table = made.table.frame
    assert list(table["lcz"]) == [6, 0, 11, 0]
    assert table["lcz"].dtype == np.uint8
    assert list(table["admissible"]) == ["6", "1 2 3", "11", "11 12"]
    assert made.item.properties["lczcube:n_sets"] == 2
    assert made.item.properties["lczcube:n_dropped"] == 1
    (overview,) = made.item.properties["label:overviews"]
    assert overview["counts"] == [{"name": "6", "count": 1}, {"name": "11", "count": 1}]


def test_no_label_of_several_classes_is_handed_to_what_wants_one(several: Path) -> None:
    catalog = open_catalog(build_catalog(several, several.parent / "catalog").path)
    labels = read_labels(catalog, ["x"], crs=UTM32)
    assert list(labels["lcz"]) == [6, 11]
    assert labels.attrs["n_sets"] == 2
    kept = read_labels(catalog, ["x"], crs=UTM32, keep_sets=True)
    assert list(kept["admissible"]) == ["6", "1 2 3", "11", "11 12"]
    grid = Grid.from_bbox((690_000, 5_335_000, 691_000, 5_335_100), bbox_crs=UTM32, crs=UTM32)
    # Burning wants a class of every row: what is kept for evaluation cannot slip in.
    with pytest.raises(LabelError, match="LCZ code 0 in 2 rows"):
        rasterize_labels(kept, grid)
    assert set(np.unique(rasterize_labels(labels, grid)["lcz"])) == {0, 6, 11}


def test_a_set_that_pretends_to_one_class_is_still_left_out(several: Path) -> None:
    catalog = open_catalog(build_catalog(several, several.parent / "catalog").path)
    (item,) = catalog.items("x")
    href = Path(item.assets["labels"].href)
    table = gpd.read_parquet(href)
    table["lcz"] = np.array([6, 2, 11, 0], np.uint8)
    table.to_parquet(href, index=False)
    assert list(read_labels(catalog, ["x"], crs=UTM32)["lcz"]) == [6, 11]


def test_labels_that_are_all_of_several_classes_are_refused(tmp_path: Path) -> None:
    frame = gpd.GeoDataFrame({"s": ["1,2"]}, geometry=[shapely.box(0, 0, 100, 100)], crs=UTM32)
    frame.to_file(tmp_path / "a.gpkg", driver="GPKG")
    toml = tmp_path / "a.toml"
    toml.write_text(
        'id = "a"\n[[input]]\nname = "x"\nsource = "polygons"\nhref = "a.gpkg"\n'
        'class_set_column = "s"\n'
    )
    catalog = open_catalog(build_catalog(toml, tmp_path / "catalog").path)
    with pytest.raises(LabelError, match="all 1 labels of x may be one of several classes"):
        read_labels(catalog, ["x"])
    assert len(read_labels(catalog, ["x"], keep_sets=True)) == 1


def test_a_run_trains_and_scores_on_no_label_of_several_classes(tmp_path: Path) -> None:
    world = write_world(tmp_path / "world", cities=1, km=2.0, seed=7)
    squares = gpd.read_parquet(next((world.path / "labels").glob("*.parquet")))
    is_set = np.arange(len(squares)) % 3 == 0
    either = squares["lcz"].astype(str) + ", 9, 10"
    squares["may_be"] = np.where(is_set, either, squares["lcz"].astype(str))
    squares[["may_be", "geometry"]].to_file(tmp_path / "drawn.gpkg", driver="GPKG")
    head, _, rest = re.split(
        r"(?<=\n)(?=\[\[input\]\]\nname = \"labels\"|\[propagate\])",
        (world.path / "world.toml").read_text(),
    )
    drawn = '[[input]]\nname = "labels"\nsource = "polygons"\nhref = "../drawn.gpkg"\n'
    config = world.path / "drawn.toml"
    config.write_text(f'{head}{drawn}class_set_column = "may_be"\n{rest}')
    run = lczcube.open_run(tmp_path / "run", config)
    (city,) = run.cities
    reports = run_stages(run, ["build-catalog", "cube", "aggregate"])
    inside = squares.centroid.to_crs("EPSG:4326").within(shapely.box(*world.cities[0].bbox))
    n_sets = int((is_set & inside).sum())
    assert n_sets > 0
    assert f"{n_sets} labels of several classes unused in {city}" in reports[-1].summary
    samples = read_samples(run.path(city, "samples.parquet"))
    row = np.array([int(name.rpartition("/")[2]) for name in samples["group"].values])
    assert not is_set[row].any()
    np.testing.assert_array_equal(samples["lcz"].values, squares["lcz"].to_numpy()[row])
    assert len(run.labels(city)) == (~is_set & inside).sum()


@pytest.mark.parametrize("keys", ["", 'class_column = "a"\nclass_set_column = "a"\n'])
def test_polygons_want_one_column_of_classes_or_of_sets(tmp_path: Path, keys: str) -> None:
    toml = tmp_path / "a.toml"
    toml.write_text(
        f'id = "a"\n[[input]]\nname = "x"\nsource = "polygons"\nhref = "a.gpkg"\n{keys}'
    )
    with pytest.raises(ConfigError, match="wants either class_column or class_set_column"):
        lczcube.read_config(toml)


# The template


@pytest.fixture
def grid() -> Grid:
    return Grid.from_bbox((11.5, 48.1, 11.55, 48.13))


def test_what_is_drawn_in_the_template_is_read_by_the_polygons_source(
    tmp_path: Path, grid: Grid
) -> None:
    path = write_template(tmp_path / "draw.gpkg", grid=grid)
    x, y = grid.bbox[:2]
    drawn = gpd.GeoDataFrame(
        {
            "lcz": [6, 17, None],
            "name": ["école", None, "undecided"],
            "author": ["Ann"] * 3,
            "date": [datetime.date(2024, 5, 31)] * 3,
            "comment": [None, "pond", None],
        },
        geometry=[shapely.box(x + d, y, x + d + 100, y + 100) for d in (0, 200, 400)],
        crs=grid.crs,
    )
    drawn.to_file(path, layer="training_areas", mode="a", driver="GPKG")
    made = register(path, source="polygons", class_column="lcz")
    assert made.table is not None
    table = made.table.frame
    assert list(table["lcz"]) == [6, 17]
    assert table.crs == grid.crs
    assert all(shapely.equals(table.geometry.to_numpy(), drawn.geometry.to_numpy()[:2]))
    assert made.item.properties["lczcube:n_dropped"] == 1
    kept = gpd.read_file(path, layer="training_areas")
    assert list(kept["name"]) == ["école", None, "undecided"]
    assert kept["date"].iloc[0] == pd.Timestamp(2024, 5, 31)


def test_the_cells_of_the_template_are_those_of_the_grid(tmp_path: Path, grid: Grid) -> None:
    path = write_template(tmp_path / "draw.gpkg", grid=grid)
    cells = gpd.read_file(path, layer="cells")
    assert len(cells) == grid.cell_shape[0] * grid.cell_shape[1]
    assert tuple(cells.total_bounds) == grid.bbox
    assert set(cells.area) == {320.0**2}
    # The cell of row 1, column 2 lies on pixels 32-64 from the north and 64-96 from the west.
    cell = cells[(cells["row"] == 1) & (cells["column"] == 2)]
    burnt = rasterize(cell.geometry, out_shape=grid.shape, transform=grid.geobox.affine)
    rows, columns = np.nonzero(burnt)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (32, 63, 64, 95)


def test_the_style_of_the_template_has_every_class_with_its_colour(tmp_path: Path) -> None:
    path = write_template(tmp_path / "draw.gpkg")
    styles = pyogrio.read_dataframe(path, layer="layer_styles")
    assert list(styles["f_table_name"]) == ["training_areas"]
    assert list(styles["useAsDefault"]) == [True]
    style = ElementTree.fromstring(styles["styleQML"].iloc[0])
    categories = {c.get("value"): c for c in style.iter("category")}
    symbols = {s.get("name"): s for s in style.iter("symbol")}
    choices = {
        option.get("value"): option.get("name")
        for option in style.findall(".//field[@name='lcz']//Option[@type='QString']")
    }
    assert len(categories) == len(symbols) == len(choices) == 17
    for zone in ZONES:
        category = categories[str(zone.code)]
        assert category.get("label") == choices[str(zone.code)] == f"LCZ {zone.letter}: {zone.name}"
        color = symbols[category.get("symbol", "")].find(".//Option[@name='outline_color']")
        assert color is not None
        red, green, blue, _ = (int(part) for part in color.get("value", "").split(","))
        assert f"{red:02X}{green:02X}{blue:02X}" == zone.wudapt


def test_a_template_has_the_same_bytes_again(
    tmp_path: Path, grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write_template(tmp_path / "a.gpkg", grid=grid).read_bytes()
    # GDAL takes the time of writing from here where it is set: another day, the same bytes.
    monkeypatch.setenv("OGR_CURRENT_DATE", "2031-01-01T00:00:00.000Z")
    assert write_template(tmp_path / "b.gpkg", grid=grid).read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gpkg", "b.gpkg"]


def test_a_template_is_not_written_over_what_somebody_drew(tmp_path: Path, grid: Grid) -> None:
    path = write_template(tmp_path / "a.gpkg")
    before = path.read_bytes()
    with pytest.raises(LabelError, match="is there already and may hold areas"):
        write_template(path, grid=grid)
    assert path.read_bytes() == before
    with pytest.raises(LabelError, match=r"must be called \.gpkg"):
        write_template(tmp_path / "a.shp")
    wide = Grid(UTM32, (0, 0, 600, 600))
    with pytest.raises(LabelError, match="600 x 600 cells; up to 250000"):
        write_template(tmp_path / "wide.gpkg", grid=wide)
    with pytest.raises(LabelError, match="crs = 'foo' is no CRS; write EPSG:n"):
        write_template(tmp_path / "new" / "foo.gpkg", crs="foo")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.gpkg"]


# Synthetic


@pytest.mark.parametrize("suffix", [".kmz", ".kml"])
@pytest.mark.parametrize("number", [0, 1])
def test_synthetic_areas_lie_on_pixels_of_their_class(
    tmp_path: Path, number: int, suffix: str
) -> None:
    city = draw_city(number, km=4, seed=7)
    path = training_areas_path(tmp_path, city, year=2021, suffix=suffix)
    write_training_areas(path, city, seed=7)
    made = register(path, synthetic=True)
    assert made.table is not None
    table = made.table.frame.to_crs(city.grid.crs)
    truth = city.zone_map.truth(city.zone_map.window)[::-1]
    burnt = rasterize(
        zip(table.geometry, table["lcz"], strict=True),
        out_shape=truth.shape,
        transform=city.grid.geobox.affine,
        dtype="uint8",
    )
    assert (burnt > 0).mean() > 0.3
    np.testing.assert_array_equal(burnt[burnt > 0], truth[burnt > 0])
    assert set(table["year"]) == {2021}


def test_synthetic_areas_have_every_habit_and_the_same_bytes(tmp_path: Path) -> None:
    city = draw_city(0, km=5, seed=7)
    first = write_training_areas(tmp_path / "a.kmz", city, seed=7).read_bytes()
    assert write_training_areas(tmp_path / "b.kmz", city, seed=7).read_bytes() == first
    assert write_training_areas(tmp_path / "c.kmz", city, seed=8).read_bytes() != first
    with zipfile.ZipFile(tmp_path / "a.kmz") as archive:
        assert archive.namelist() == ["doc.kml"]
        text = archive.read("doc.kml").decode()
    assert "Synthetic world, seed 7: not real." in text
    for part in ("<MultiGeometry>", "<innerBoundaryIs>", ",0 ", "style placeholder", ">ROI<"):
        assert part in text
    rows = properties_of(tmp_path / "a.kmz")["lczcube:folders"]
    filled = {row["name"] for row in rows if row["n"]}
    assert {"2", "LCZ 3", "lcz_6", "A", "101", "D summer", "14_winter", "G", "W"} <= filled
    assert {row["name"] for row in rows if not row["n"]} >= {"Style", "1"}


# STAC


@with_schemas
def test_items_are_valid_against_the_schemas_they_declare(
    habits: Path, collection: Path, several: Path
) -> None:
    toml = habits.parent / "all.toml"
    toml.write_text(
        'id = "all"\n[city.kiel]\nbbox = [10.0, 47.9, 10.1, 48.1]\n'
        '[[input]]\nname = "areas"\nsource = "training_areas"\n'
        f'href = ["{habits.name}", "{collection.name}"]\n'
        '[[input]]\nname = "several"\nsource = "polygons"\nhref = "several.gpkg"\n'
        'class_set_column = "may_be"\n'
    )
    report = build_catalog(toml, habits.parent / "catalog")
    assert (report.n_items, report.failures) == (3, ())
    paths = sorted(report.path.rglob("items/*.json"))
    assert len(paths) == 3
    for path in paths:
        values = json.loads(path.read_text())
        validate(values, {"$ref": f"{CORE}/item-spec/json-schema/item.json"})
        for uri in values["stac_extensions"]:
            validate(values, extension_schema(uri))
    # The same items come back from stac-geoparquet, where fields of some items are null.
    catalog = open_catalog(report.path)
    folders = {item.id: item.properties.get("lczcube:folders") for item in catalog.items("areas")}
    assert folders["areas_lcz_generator_tas"] is None
    assert len(folders["areas_Kiel-2019-Ann"]) == 14


# Real files


def classes_by_hand(path: Path) -> Counter[str]:
    """Polygons of each folder of a KML or KMZ, by an XPath of its own."""
    if path.suffix == ".kmz":
        with zipfile.ZipFile(path) as archive:
            root = ElementTree.fromstring(archive.read("doc.kml"))
    else:
        root = ElementTree.parse(path).getroot()
    counts: Counter[str] = Counter()
    for found in root.iterfind(".//{*}Folder"):
        counts[found.findtext("{*}name", "")] += len(found.findall("{*}Placemark/{*}Polygon"))
    return counts


@pytest.mark.parametrize("year", [2006, 2016, 2019])
def test_the_melbourne_areas_are_those_that_two_other_readers_find(
    realdata: Path, year: int
) -> None:
    suffix = "kml" if year == 2019 else "kmz"
    path = realdata / "training_areas" / f"[Melbourne][{year}][JamesBennie].{suffix}"
    made = register(path)
    assert made.table is not None
    table, properties = made.table.frame, made.item.properties
    letters = {zone.letter: zone.code for zone in ZONES}
    by_hand = classes_by_hand(path)
    expected = {code: by_hand[letter] for letter, code in letters.items() if by_hand[letter]}
    assert table["lcz"].value_counts().to_dict() == expected
    assert (len(table), len(expected)) == (101, 9)
    for letter, code in letters.items():
        theirs = pyogrio.read_dataframe(path, layer=letter, force_2d=True)
        ours = table[table["lcz"] == code]
        assert len(ours) == len(theirs)
        pairs = zip(ours.geometry, theirs.geometry, strict=True)
        assert all(mine.equals_exact(other, 0) for mine, other in pairs)
    assert set(table["year"]) == {year}
    assert len(properties["lczcube:folders"]) == 19  # 18 folders and the document
    assert sum(row["lcz"] > 0 and row["n"] == 0 for row in properties["lczcube:folders"]) == 8
    assert properties["lczcube:n_dropped"] == 1  # the region of interest
    assert properties["lczcube:n_repaired"] == 0
    assert properties["lczcube:region_area_km2"] == pytest.approx(12_830, abs=5)
    assert made.item.to_dict()["properties"]["datetime"].startswith(str(year))
    assert "lczcube:note" not in properties


def test_the_melbourne_areas_cover_the_ground_that_geodesics_measure(realdata: Path) -> None:
    path = realdata / "training_areas" / "[Melbourne][2006][JamesBennie].kmz"
    made = register(path)
    assert made.table is not None
    geod = Geod(ellps="WGS84")
    measured = made.table.frame.geometry.map(lambda g: abs(geod.geometry_area_perimeter(g)[0]))
    expected = (measured / 1e6).groupby(made.table.frame["lcz"]).sum()
    for row in made.item.properties["lczcube:class_areas"]:
        assert row["area_km2"] == pytest.approx(expected[row["lcz"]], rel=2e-3)


def test_the_second_hong_kong_labels_are_137_polygons_of_all_classes(realdata: Path) -> None:
    path = realdata / "hongkong" / "lcz_second_train_polygons.gpkg"
    frame = gpd.read_file(path)
    column = next(
        name for name in frame.columns if "lcz" in name.lower() or "class" in name.lower()
    )
    table = table_of(path, source="polygons", class_column=column)
    assert len(table) == len(frame) == 137
    assert set(table["lcz"]) == set(range(1, 18))
    assert table.area.sum() == pytest.approx(frame.area.sum())
