"""Source ``patches``: a table whose rows are labelled squares, as So2Sat's are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from lczcube.errors import SourceError
from lczcube.sources.files import SourceFile, require_file
from lczcube.sources.items import SourceItem
from lczcube.sources.label_tables import LabelInput, Rows, column_of, label_item
from lczcube.sources.polygons import read_polygons

if TYPE_CHECKING:
    import geopandas as gpd
    import numpy.typing as npt

EDGE_TOLERANCE_M = 0.01
"""A square whose geometry is off by more than this is not where its corner says."""


class PatchesInput(LabelInput):
    """An ``[[input]]`` of labelled squares.

    Attributes
    ----------
    class_column, x0_column, y0_column : str
        Columns of the class and of the upper-left corner, in the CRS of the file.
    size_m : float
        Side of a square, m. Default 320: a So2Sat patch.
    group_column, split_column, id_column : str, optional
        Columns of the unit never split, of the publisher's split, and of an id. Default: every
        row its own group, no split, a running number.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".parquet", ".gpkg")

    source: Literal["patches"]
    class_column: str = "lcz"
    x0_column: str = "x0"
    y0_column: str = "y0"
    size_m: Annotated[float, Field(gt=0)] = 320.0
    group_column: str | None = None
    split_column: str | None = None
    id_column: str | None = None


def build_items(entry: PatchesInput, file: SourceFile) -> list[SourceItem]:
    """The label table of one file of squares, and its item; reads the file.

    Raises
    ------
    MissingInputError
        If the file is not there.
    SourceError
        If it cannot be read, has no projected CRS or no such column, or if its geometries are not
        the squares its corners say.
    LabelError
        If a code is no LCZ and is not in ``drop_classes``.
    """
    require_file(file)
    frame = read_polygons(file, entry.class_column)
    if not frame.crs.is_projected:
        raise SourceError(
            f"{file.href} is in {frame.crs.to_string()}, which is not projected; a patch of "
            f"{entry.size_m:g} m needs metres. Store x0 and y0 in the UTM zone of the city."
        )
    return [label_item(entry, file, Rows(_squares(entry, file, frame)))]


def _squares(entry: PatchesInput, file: SourceFile, frame: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    import geopandas as gpd
    import shapely

    named = {
        "lcz": (entry.class_column, "class_column"),
        "x0": (entry.x0_column, "x0_column"),
        "y0": (entry.y0_column, "y0_column"),
        "group": (entry.group_column, "group_column"),
        "split": (entry.split_column, "split_column"),
        "id": (entry.id_column, "id_column"),
    }
    columns = {
        key: column_of(frame, column, option, where=file.href)
        for key, (column, option) in named.items()
        if column is not None
    }
    x0 = columns["x0"].to_numpy(dtype=np.float64)
    y0 = columns["y0"].to_numpy(dtype=np.float64)
    _require_finite(x0, y0, file)
    squares = shapely.box(x0, y0 - entry.size_m, x0 + entry.size_m, y0)
    _require_same_place(frame, squares, entry, file)
    made = gpd.GeoDataFrame(columns, geometry=squares, crs=frame.crs)
    return made.assign(size_m=entry.size_m)


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
