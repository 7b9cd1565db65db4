"""Source ``patches``: a table whose rows are labelled squares, as So2Sat's are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from lczcube.errors import SourceError
from lczcube.sources.files import SourceFile, require_file
from lczcube.sources.items import SourceItem
from lczcube.sources.label_tables import LabelInput, Rows, column_of, label_item
from lczcube.sources.polygons import read_polygons
from lczcube.sources.rebuilt import RebuiltSquares, rebuilt_squares

if TYPE_CHECKING:
    import geopandas as gpd
    import numpy.typing as npt
    import pandas as pd

EDGE_TOLERANCE_M = 0.01
"""A square whose geometry is off by more than this is not where its corner says."""

REBUILT_TOLERANCE_M = 10.0
"""A box farther than a pixel from that around its rebuilt square is the box of something else."""

BEYOND_ZONE_DEGREES = 6.0
"""How far past the area of a CRS its squares may lie: publishers extend a zone to the next."""


class PatchesInput(LabelInput):
    """An ``[[input]]`` of labelled squares.

    Attributes
    ----------
    class_column, x0_column, y0_column : str
        Columns of the class and of the upper-left corner, in the CRS of the file.
    size_m : float
        Side of a square, m. Default 320: a So2Sat patch.
    rebuild : bool
        True for a file whose geometries are squares drawn in longitude and latitude, or the boxes
        around them: squares of the UTM zone are rebuilt from them, as
        :func:`lczcube.sources.rebuilt.rebuilt_squares` does. Corner columns are not read then.
    crs : str, optional
        With ``rebuild``, the CRS that the squares are of, such as ``EPSG:32650``.
    group_column, split_column, id_column : str, optional
        Columns of the unit never split, of the publisher's split, and of an id. Default: every
        row its own group, no split, a running number.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".parquet", ".gpkg", ".geojson", ".json", ".fgb", ".shp")

    source: Literal["patches"]
    class_column: str = "lcz"
    x0_column: str = "x0"
    y0_column: str = "y0"
    size_m: Annotated[float, Field(gt=0)] = 320.0
    rebuild: bool = False
    crs: str | None = None
    group_column: str | None = None
    split_column: str | None = None
    id_column: str | None = None

    @model_validator(mode="after")
    def _check_crs(self) -> PatchesInput:
        if self.crs is not None and not self.rebuild:
            raise ValueError("has crs without rebuild = true; other files say their CRS themselves")
        return self


def build_items(entry: PatchesInput, file: SourceFile) -> list[SourceItem]:
    """The label table of one file of squares, and its item; reads the file.

    Rebuilt squares give an item for each UTM zone.

    Raises
    ------
    MissingInputError
        If the file is not there.
    SourceError
        If it cannot be read, has no projected CRS or no such column, if its geometries are not the
        squares its corners say, or not those that are to be rebuilt.
    LabelError
        If a code is no LCZ and is not in ``drop_classes``.
    """
    require_file(file)
    frame = read_polygons(file, entry.class_column)
    if entry.rebuild:
        return _rebuilt_items(entry, file, frame)
    if not frame.crs.is_projected:
        raise SourceError(
            f"{file.href} is in {frame.crs.to_string()}, which is not projected; a patch of "
            f"{entry.size_m:g} m needs metres. Store x0 and y0 in the UTM zone of the city, or set "
            "rebuild = true where the geometries are squares."
        )
    return [label_item(entry, file, Rows(_squares(entry, file, frame)))]


def _squares(entry: PatchesInput, file: SourceFile, frame: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    import geopandas as gpd
    import shapely

    columns = _columns(entry, file, frame)
    for key, column, option in (("x0", entry.x0_column, "x0"), ("y0", entry.y0_column, "y0")):
        columns[key] = column_of(frame, column, f"{option}_column", where=file.href)
    x0 = columns["x0"].to_numpy(dtype=np.float64)
    y0 = columns["y0"].to_numpy(dtype=np.float64)
    _require_finite(x0, y0, file)
    squares = shapely.box(x0, y0 - entry.size_m, x0 + entry.size_m, y0)
    _require_same_place(frame, squares, entry, file)
    made = gpd.GeoDataFrame(columns, geometry=squares, crs=frame.crs)
    return made.assign(size_m=entry.size_m)


def _columns(
    entry: PatchesInput, file: SourceFile, frame: gpd.GeoDataFrame
) -> dict[str, pd.Series]:
    """Columns that say what a patch is, not where."""
    named = {
        "lcz": (entry.class_column, "class_column"),
        "group": (entry.group_column, "group_column"),
        "split": (entry.split_column, "split_column"),
        "id": (entry.id_column, "id_column"),
    }
    return {
        key: column_of(frame, column, option, where=file.href)
        for key, (column, option) in named.items()
        if column is not None
    }


def _require_finite(
    x0: npt.NDArray[np.float64], y0: npt.NDArray[np.float64], file: SourceFile
) -> None:
    n_bad = int((~(np.isfinite(x0) & np.isfinite(y0))).sum())
    if n_bad:
        raise SourceError(
            f"{file.href}: {n_bad} rows have no corner; fill x0 and y0, or drop them."
        )


def _require_same_place(
    frame: gpd.GeoDataFrame,
    squares: npt.NDArray[np.object_],
    entry: PatchesInput,
    file: SourceFile,
) -> None:
    import shapely

    given = frame.geometry.to_numpy()
    comparable = np.isin(shapely.get_type_id(given), (3, 6)) & ~shapely.is_empty(given)
    if not comparable.any():
        return
    shifts = shapely.bounds(given[comparable]) - shapely.bounds(squares[comparable])
    off = np.abs(shifts).max(axis=1) > EDGE_TOLERANCE_M
    if off.any():
        dx, dy = shifts[off][0][[0, 3]]
        raise SourceError(
            f"{file.href}: {int(off.sum())} geometries are not the squares of {entry.size_m:g} m "
            f"that x0, y0 say; the first is {dx:+g} m east and {dy:+g} m north of it. x0, y0 is "
            "the upper-left corner: check the columns, size_m, or whether a centre was stored."
        )


def _rebuilt_items(
    entry: PatchesInput, file: SourceFile, frame: gpd.GeoDataFrame
) -> list[SourceItem]:
    import geopandas as gpd
    import pandas as pd
    import shapely

    boxes = _lonlat_boxes(frame, file)
    made = rebuilt_squares(boxes, size_m=entry.size_m, crs=_metric_crs(entry, file, boxes))
    _require_boxes_of_squares(made, entry, file)
    columns = pd.DataFrame(_columns(entry, file, frame))
    if "id" not in columns:
        columns["id"] = [f"{row:06d}" for row in range(len(columns))]
    items = []
    for squares in made:
        x0, y0, size_m = squares.x0, squares.y0, entry.size_m
        table = gpd.GeoDataFrame(
            columns.iloc[squares.rows].assign(x0=x0, y0=y0, size_m=size_m).reset_index(drop=True),
            geometry=shapely.box(x0, y0 - size_m, x0 + size_m, y0),
            crs=squares.crs,
        )
        note = (
            f"squares of {squares.crs} rebuilt from longitude and latitude, keeping their middle; "
            f"edges of the boxes around them differ by up to {squares.deviation_m.max():.2f} m"
        )
        zone = f"_{squares.crs.removeprefix('EPSG:')}" if len(made) > 1 else ""
        part = replace(file, item_id=f"{file.item_id}{zone}")
        items.append(label_item(entry, part, Rows(table, properties={"lczcube:note": note})))
    return items


def _lonlat_boxes(frame: gpd.GeoDataFrame, file: SourceFile) -> npt.NDArray[np.float64]:
    import shapely

    if frame.crs.is_projected:
        raise SourceError(
            f"{file.href} is in {frame.crs.to_string()}, and rebuild = true is for longitude and "
            "latitude; transform the file to EPSG:4326, or name the columns of its corners instead."
        )
    shapes = frame.to_crs("EPSG:4326").geometry.to_numpy()
    bad = ~np.isin(shapely.get_type_id(shapes), (3, 6)) | shapely.is_empty(shapes)
    if bad.any():
        raise SourceError(
            f"{file.href}: {int(bad.sum())} rows are no polygons, the first is row "
            f"{int(np.argmax(bad))}; a square is rebuilt from its outline. Drop them."
        )
    boxes: npt.NDArray[np.float64] = shapely.bounds(shapes)
    return boxes


def _metric_crs(
    entry: PatchesInput, file: SourceFile, boxes: npt.NDArray[np.float64]
) -> str | None:
    """The CRS that the input names for its squares, if it can be."""
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    if entry.crs is None:
        return None
    try:
        crs = CRS.from_user_input(entry.crs)
    except CRSError as error:
        raise SourceError(
            f"{file.href}: crs = {entry.crs!r} is unknown to PROJ; name a UTM zone, such as "
            '"EPSG:32650".'
        ) from error
    if not crs.is_projected:
        raise SourceError(
            f"{file.href}: crs = {entry.crs!r} is not projected; name a UTM zone, such as "
            '"EPSG:32650".'
        )
    area = crs.area_of_use
    west, east = float(boxes[:, 0].min()), float(boxes[:, 2].max())
    if area is not None and (
        west < area.west - BEYOND_ZONE_DEGREES or east > area.east + BEYOND_ZONE_DEGREES
    ):
        raise SourceError(
            f"{file.href}: crs = {entry.crs!r} is of {area.west:g} to {area.east:g} degrees east, "
            f"and the squares lie at {west:.2f} to {east:.2f}; name their own, or leave it out."
        )
    return entry.crs


def _require_boxes_of_squares(
    made: Sequence[RebuiltSquares], entry: PatchesInput, file: SourceFile
) -> None:
    for squares in made:
        off = ~(squares.deviation_m <= REBUILT_TOLERANCE_M)
        if off.any():
            raise SourceError(
                f"{file.href}: {int(off.sum())} of {len(off)} geometries are no squares of "
                f"{entry.size_m:g} m in {squares.crs}: their boxes are up to "
                f"{squares.deviation_m.max():.0f} m off, row {int(squares.rows[np.argmax(off)])} "
                "first. Check size_m, name their crs, or leave other rows out."
            )
