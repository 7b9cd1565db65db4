"""Index files of synthetic AlphaEarth tiles, as the publisher's: plain, and stac-geoparquet."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import pandas as pd
from shapely.geometry import box, shape

from lczcube.sources.alphaearth import zone_in
from lczcube.sources.footprints import clipped, footprint
from lczcube.synth.city import City
from lczcube.synth.zones import PIXEL_M, Window

URL = "s3://lczcube-synthetic.invalid/alphaearth/v1/annual"
"""Where the index says its tiles are: a host that cannot exist."""


def write_aef_index(
    annual: Path, city: City, tiles: Sequence[tuple[Path, Window]], *, year: int
) -> tuple[Path, Path]:
    """Write ``aef_index.parquet`` and ``aef_index_stac_geoparquet.parquet`` of a city's tiles.

    Parameters
    ----------
    annual : Path
        Folder above the years, which gets the two files.
    city : City
        Whose tiles they are.
    tiles : sequence of (Path, Window)
        As :func:`lczcube.synth.files.tiles` gives them.
    year : int
        Of the tiles.
    """
    rows = [
        _row(fid, path.relative_to(annual).as_posix(), window, city, year)
        for fid, (path, window) in enumerate(tiles, start=1)
    ]
    plain, stac = annual / "aef_index.parquet", annual / "aef_index_stac_geoparquet.parquet"
    gpd.GeoDataFrame(rows, crs="EPSG:4326").to_parquet(plain, index=False)
    gpd.GeoDataFrame([_stac_row(row) for row in rows], crs="OGC:CRS84").to_parquet(
        stac, index=False
    )
    return plain, stac


def _row(fid: int, name: str, window: Window, city: City, year: int) -> dict[str, Any]:
    crs = city.grid.crs
    bounds = [v * PIXEL_M for v in (window.x0, window.y0, window.x1, window.y1)]
    zone = Path(name).parent.name
    if zone_in(f"{URL}/{name}") != crs:
        raise ValueError(f"tile {name} is in the folder of another zone than {crs}")
    west = int(zone[:-1]) * 6.0 - 186.0
    whole = footprint(box(*bounds), crs, where=name)
    geometry = shape(clipped(whole, west=west, east=west + 6, where=name).geometry)
    sides = ("west", "south", "east", "north")
    return {
        "fid": fid,
        "geometry": geometry,
        "crs": crs,
        "year": year,
        "utm_zone": zone,
        **{f"utm_{side}": float(value) for side, value in zip(sides, bounds, strict=True)},
        **{f"wgs84_{side}": v for side, v in zip(sides, geometry.bounds, strict=True)},
        "path": f"{URL}/{name}",
        "synthetic": True,
    }


def _stac_row(row: dict[str, Any]) -> dict[str, Any]:
    west, south, east, north = row["geometry"].bounds
    return {
        "id": Path(row["path"]).stem,
        "datetime": pd.Timestamp(f"{row['year']}-01-01T00:00:00Z"),
        "bbox": {"xmin": west, "ymin": south, "xmax": east, "ymax": north},
        "proj:epsg": row["crs"],
        "assets": {"data": {"href": row["path"]}},
        "geometry": row["geometry"],
        "synthetic": True,
    }
