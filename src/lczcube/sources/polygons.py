"""Source ``polygons``: labels as polygons in any format OGR reads, or GeoParquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import model_validator

from lczcube.errors import SourceError
from lczcube.sources.class_folders import class_of_name, classes_of, require_classes
from lczcube.sources.files import SourceFile, first_line, require_file, without_warnings
from lczcube.sources.items import SourceItem
from lczcube.sources.kml import Kml, Placemark, is_kml, read_kml
from lczcube.sources.label_tables import LabelInput, Rows, column_of, label_item

if TYPE_CHECKING:
    import geopandas as gpd
    import numpy as np
    import numpy.typing as npt
    import shapely

LAYER_COLUMN = "layer"
"""``class_column`` that stands for the layer's own name: WUDAPT KML has one folder a class."""

CLOSED_COLUMN = "_closed"
"""Column of a KML's table: True where a ring did not end where it began, and was closed."""

GEOCLIMATE_COLUMN = "LCZ_PRIMARY"
"""Class column of GeoClimate's maps."""

GEOCLIMATE_NOTE = (
    "Zones by the rules of GeoClimate from vector data (OpenStreetMap or BD TOPO), not by a model; "
    "the licence of those data holds."
)

_POLYGONAL = ("Polygon", "MultiPolygon")


class PolygonsInput(LabelInput):
    """An ``[[input]]`` of label polygons.

    Attributes
    ----------
    class_column : str, optional
        Column of the class: integers, floats, or text such as ``LCZ 6``, ``A``, ``104``.
        ``layer``, where there is no such column, is the name of the layer (KML folders).
    class_set_column : str, optional
        In place of ``class_column``: column of all the classes that a label may be, such as
        ``1,2,3``, ``LCZ 1 / LCZ 2`` or ``compact``. Only rows of one class train or score.
    group_column : str, optional
        Column of the unit that is never split between folds. Default: every row is its own.
    split_column, weight_column : str, optional
        Columns of the publisher's split and of a weight. Default: none, and 1.
    alternative_column : str, optional
        Column of a second class that is admissible too, such as GeoClimate's ``LCZ_SECONDARY``.
        It is kept in the table, as ``alternative``; nothing is trained or scored by it.
    """

    suffixes: ClassVar[tuple[str, ...]] = (
        ".gpkg", ".geojson", ".json", ".shp", ".fgb", ".kml", ".kmz", ".parquet",
    )  # fmt: skip

    source: Literal["polygons"]
    class_column: str | None = None
    class_set_column: str | None = None
    group_column: str | None = None
    split_column: str | None = None
    weight_column: str | None = None
    alternative_column: str | None = None

    @model_validator(mode="after")
    def _check_classes(self) -> PolygonsInput:
        if (self.class_column is None) == (self.class_set_column is None):
            raise ValueError("wants either class_column or class_set_column")
        return self


def build_items(entry: PolygonsInput, file: SourceFile) -> list[SourceItem]:
    """The label table of one file of polygons, and its item; reads the file.

    Multipolygons stay one label; heights are dropped; invalid polygons are made valid and
    counted; rows without an area or a class are left out and counted.

    Raises
    ------
    MissingInputError
        If the file is not there.
    SourceError
        If it cannot be read, has no CRS, no such column, or holds points or lines.
    LabelError
        If a code is no LCZ and is not in ``drop_classes``.
    """
    require_file(file)
    frame = read_polygons(file, entry.class_column or entry.class_set_column or "")
    named = {
        "lcz": (entry.class_column, "class_column"),
        "class_set": (entry.class_set_column, "class_set_column"),
        "group": (entry.group_column, "group_column"),
        "split": (entry.split_column, "split_column"),
        "weight": (entry.weight_column, "weight_column"),
        "alternative": (entry.alternative_column, "alternative_column"),
    }
    columns = {
        key: column_of(frame, column, option, where=file.href)
        for key, (column, option) in named.items()
        if column is not None
    }
    rows = polygon_rows(frame, columns, file)
    if entry.class_column == GEOCLIMATE_COLUMN:
        rows = replace(rows, properties={"lczcube:note": GEOCLIMATE_NOTE})
    return [label_item(entry, file, rows)]


def read_polygons(file: SourceFile, class_column: str) -> gpd.GeoDataFrame:
    """All rows of the layers of a file that have a class column, geometries 2-D, one CRS.

    Raises
    ------
    SourceError
        If the file cannot be read, has no such column, no CRS, or layers in several CRSs.
    """
    if is_kml(file.href):
        return _joined([_kml_frame(read_kml(file.href), class_column, file.href)], file)
    try:
        frames = _read_layers(file.href, class_column)
    except (OSError, ValueError, RuntimeError) as error:
        raise SourceError(
            f"{file.href} cannot be read as vector data ({first_line(error)}); "
            "check the file, or convert it to GeoPackage."
        ) from error
    crss = {frame.crs for frame in frames}
    if None in crss:
        raise SourceError(f"{file.href} has no CRS; assign the one its coordinates are in.")
    if len(crss) > 1:
        raise SourceError(f"{file.href} has layers in {len(crss)} CRSs; give each its own file.")
    return _joined(frames, file)


def _read_layers(href: str, class_column: str) -> list[gpd.GeoDataFrame]:
    import geopandas as gpd
    import pyogrio

    if href.split("?", maxsplit=1)[0].endswith(".parquet"):
        return [gpd.read_parquet(href)]
    fields = {
        str(name): set(pyogrio.read_info(href, layer=name)["fields"])
        for name, geometry_type in pyogrio.list_layers(href)
        if geometry_type is not None
    }
    holding = [name for name in fields if class_column in fields[name]]
    if not holding and class_column == LAYER_COLUMN:
        named = {name: class_of_name(name) for name in fields}
        return [
            _read_layer(href, name).assign(**{LAYER_COLUMN: own.code})
            for name, own in named.items()
            if own is not None
        ]
    return [_read_layer(href, name) for name in holding or fields]


def _kml_frame(kml: Kml, class_column: str, href: str) -> gpd.GeoDataFrame:
    """Placemarks as rows: name, description, extended data; or those of folders of a class."""
    marks = kml.placemarks
    if class_column != LAYER_COLUMN or any(LAYER_COLUMN in mark.fields for mark in marks):
        return placemark_frame(marks, [{**mark.fields, "Name": mark.name} for mark in marks])
    classes = classes_of(kml.folders)
    require_classes(kml.folders, classes, href)
    marks = [mark for mark in marks if mark.folder in classes]
    return placemark_frame(marks, [{LAYER_COLUMN: classes[mark.folder].code} for mark in marks])


def placemark_frame(
    marks: Sequence[Placemark], rows: Sequence[Mapping[str, Any]]
) -> gpd.GeoDataFrame:
    """Placemarks of a KML as a table of the columns in ``rows``, and whether they were closed."""
    import geopandas as gpd
    import pandas as pd

    closed = [mark.n_closed > 0 for mark in marks]
    columns = pd.DataFrame(list(rows), dtype=object).assign(**{CLOSED_COLUMN: closed})
    return gpd.GeoDataFrame(columns, geometry=[mark.geometry for mark in marks], crs="EPSG:4326")


def _read_layer(href: str, layer: str) -> gpd.GeoDataFrame:
    import pyogrio

    # What cannot be read becomes a null geometry, which is counted.
    with without_warnings():
        return pyogrio.read_dataframe(href, layer=layer, force_2d=True, on_invalid="ignore")


def _joined(frames: list[gpd.GeoDataFrame], file: SourceFile) -> gpd.GeoDataFrame:
    import geopandas as gpd
    import pandas as pd

    filled = [frame for frame in frames if len(frame)]
    if not filled:
        raise SourceError(f"{file.href} holds no row; fetch it again, or take it off the list.")
    if len(filled) == 1:
        return filled[0]
    shared = [c for c in filled[0].columns if all(c in frame for frame in filled)]
    stacked = pd.concat([frame[shared].astype(_object_columns(frame, shared)) for frame in filled])
    return gpd.GeoDataFrame(stacked.reset_index(drop=True), crs=filled[0].crs)


def _object_columns(frame: gpd.GeoDataFrame, columns: list[str]) -> dict[str, Any]:
    return {name: object for name in columns if name != frame.geometry.name}


def polygon_rows(frame: gpd.GeoDataFrame, columns: dict[str, Any], file: SourceFile) -> Rows:
    """Labels of the polygons of a table: 2-D, valid, each with an area.

    Parameters
    ----------
    frame : geopandas.GeoDataFrame
        Its geometries are the labels'.
    columns : dict of str to pandas.Series
        Those of :class:`~lczcube.sources.label_tables.Rows`.
    file : SourceFile
        For messages.

    Raises
    ------
    SourceError
        If it holds points or lines.
    """
    import geopandas as gpd
    import numpy as np
    import shapely

    flat = shapely.force_2d(frame.geometry.to_numpy())
    _require_polygons(flat, file)
    invalid = ~shapely.is_valid(flat) & ~shapely.is_missing(flat)
    flat[invalid] = [_polygonal(shapely.make_valid(polygon)) for polygon in flat[invalid]]
    with_area = shapely.area(flat) > 0
    repaired = invalid | frame.get(CLOSED_COLUMN, np.zeros(len(flat), bool))
    labels = gpd.GeoDataFrame(columns, geometry=flat, crs=frame.crs)
    return Rows(
        labels[with_area].reset_index(drop=True),
        n_repaired=int((repaired & with_area).sum()),
        n_dropped=int((~with_area).sum()),
    )


def _require_polygons(geometries: npt.NDArray[np.object_], file: SourceFile) -> None:
    import numpy as np

    kinds = {g.geom_type for g in geometries if g is not None and not g.is_empty}
    other = sorted(kinds - {*_POLYGONAL, "GeometryCollection"})
    if other:
        n_other = int(np.sum([g is not None and g.geom_type in other for g in geometries]))
        raise SourceError(
            f"{file.href} holds {n_other} geometries of type {', '.join(other)}; a label is a "
            "polygon. Buffer them to the area they stand for, or leave them out."
        )


def _polygonal(geometry: shapely.Geometry) -> shapely.Geometry:
    import shapely

    parts = [p for p in shapely.get_parts(geometry, return_index=False) if p.area > 0]
    polygons = [p for part in parts for p in shapely.get_parts(part)]
    return shapely.union_all([p for p in polygons if p.geom_type in _POLYGONAL])
