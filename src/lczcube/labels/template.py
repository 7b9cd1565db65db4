"""A GeoPackage to draw label polygons in with QGIS, classes and colours ready."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyogrio
import shapely
from pyproj import CRS
from pyproj.exceptions import CRSError

from lczcube.errors import LabelError
from lczcube.grid import Grid
from lczcube.labels.qml import cell_style, label_style
from lczcube.labels.table import LONLAT

LABEL_LAYER = "training_areas"
CELL_LAYER = "cells"

MAX_CELLS = 250_000
"""Most cells drawn: 160 km a side at 320 m."""

_FIELDS = (
    pa.field("geom", pa.binary(), metadata={"ARROW:extension:name": "geoarrow.wkb"}),
    pa.field("lcz", pa.int16()),
    pa.field("name", pa.string()),
    pa.field("author", pa.string()),
    pa.field("date", pa.date32()),
    pa.field("comment", pa.string()),
)
_EPOCH = "1970-01-01T00:00:00.000Z"
_STYLES = """
CREATE TABLE layer_styles (
  id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
  f_table_catalog TEXT(256),
  f_table_schema TEXT(256),
  f_table_name TEXT(256),
  f_geometry_column TEXT(256),
  styleName TEXT(30),
  styleQML TEXT,
  styleSLD TEXT,
  useAsDefault BOOLEAN,
  description TEXT,
  owner TEXT(30),
  ui TEXT(30),
  update_time DATETIME DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now'))
)
"""


def write_template(path: str | Path, *, grid: Grid | None = None, crs: str = LONLAT) -> Path:
    """Write an empty GeoPackage to draw label polygons in.

    Its layer ``training_areas`` has the fields ``lcz`` (a list of the 17 classes to choose from),
    ``name``, ``author``, ``date`` and ``comment``. QGIS finds a style in the file: the colours of
    the classes and that list. The source ``polygons`` reads what was drawn, with
    ``class_column = "lcz"``.

    Parameters
    ----------
    path : str or pathlib.Path
        A new file, ``.gpkg``.
    grid : Grid, optional
        The city's grid: its cells become a second layer, ``cells``, to draw by. Default: none.
    crs : str
        CRS to draw in. Default ``EPSG:4326``; with a grid, the grid's.

    Returns
    -------
    pathlib.Path
        The file. The same arguments give the same bytes.

    Raises
    ------
    LabelError
        If the file is there already, as it may hold what somebody drew; if it is not called
        ``.gpkg``; if the CRS is none; or if the grid has over 250,000 cells.
    """
    target = Path(path)
    if target.suffix != ".gpkg":
        raise LabelError(f"{target} must be called .gpkg, which QGIS knows it by.")
    if target.exists():
        raise LabelError(f"{target} is there already and may hold areas; name a new file.")
    if grid is None:
        _require_crs(crs)
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent, prefix=f".{target.stem}-") as folder:
        draft, packed = Path(folder) / "draft.gpkg", Path(folder) / "packed.gpkg"
        _write_label_layer(draft, crs if grid is None else grid.crs)
        if grid is not None:
            _write_cells(draft, grid)
        _write_styles(draft, packed, has_cells=grid is not None)
        packed.replace(target)
    return target


def _require_crs(crs: str) -> None:
    try:
        CRS.from_user_input(crs)
    except CRSError as error:
        raise LabelError(f"crs = {crs!r} is no CRS; write EPSG:n, such as EPSG:32632.") from error


def _write_label_layer(draft: Path, crs: str) -> None:
    empty = pa.schema(_FIELDS).empty_table()
    pyogrio.write_arrow(
        empty,
        draft,
        layer=LABEL_LAYER,
        driver="GPKG",
        geometry_name="geom",
        geometry_type="Polygon",
        crs=crs,
    )


def _write_cells(draft: Path, grid: Grid) -> None:
    rows, columns = grid.cell_shape
    if rows * columns > MAX_CELLS:
        raise LabelError(
            f"the grid has {rows} x {columns} cells; up to {MAX_CELLS} are drawn. Leave grid out, "
            "or cut it to where you draw."
        )
    row, column = np.indices((rows, columns), dtype=np.int32).reshape(2, -1)
    values = {"row": row, "column": column}
    cells = gpd.GeoDataFrame(values, geometry=_squares(grid, row, column), crs=grid.crs)
    pyogrio.write_dataframe(cells, draft, layer=CELL_LAYER, driver="GPKG", geometry_type="Polygon")


def _squares(
    grid: Grid, row: npt.NDArray[np.int32], column: npt.NDArray[np.int32]
) -> npt.NDArray[np.object_]:
    """Cells by row from the north and column from the west."""
    west, north = grid.bbox[0], grid.bbox[3]
    left, top = west + column * grid.cell_m, north - row * grid.cell_m
    squares: npt.NDArray[np.object_] = shapely.box(left, top - grid.cell_m, left + grid.cell_m, top)
    return squares


def _write_styles(draft: Path, packed: Path, *, has_cells: bool) -> None:
    """The styles where QGIS looks for them; a packed copy, with no time, so that bytes repeat."""
    styles = [(LABEL_LAYER, label_style())] + ([(CELL_LAYER, cell_style())] if has_cells else [])
    with closing(sqlite3.connect(draft)) as database:
        database.execute(_STYLES)
        database.executemany(
            "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, "
            "f_geometry_column, styleName, styleQML, styleSLD, useAsDefault, description, owner, "
            "update_time) VALUES ('', '', ?, 'geom', ?, ?, '', 1, 'Local Climate Zones', '', ?)",
            [(layer, layer, style, _EPOCH) for layer, style in styles],
        )
        database.execute(
            "INSERT INTO gpkg_contents (table_name, data_type, identifier) "
            "VALUES ('layer_styles', 'attributes', 'layer_styles')"
        )
        database.execute("UPDATE gpkg_contents SET last_change = ?", (_EPOCH,))
        database.commit()
        database.execute("VACUUM INTO ?", (str(packed),))
