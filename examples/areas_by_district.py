"""Area of each Local Climate Zone in every district of a polygon file.

``python examples/areas_by_district.py RUN/CITY/lcz.zarr [DISTRICTS.gpkg NAME_COLUMN]``

A pixel belongs to the district that holds its centre. Without a file, the map is cut into four
made-up districts.
"""

import sys

import geopandas as gpd
import pandas as pd
import rasterio.features
import xarray as xr
from affine import Affine
from shapely import box

GROUP = "cells"


def areas_by_district(store: str, districts: gpd.GeoDataFrame, name: str) -> pd.DataFrame:
    """Area in km², a row a district and a column a zone."""
    dataset = xr.open_zarr(store, group=GROUP)
    lcz, affine = dataset["lcz"], Affine(*dataset.attrs["spatial:transform"])
    projected = districts.to_crs(dataset["spatial_ref"].attrs["crs_wkt"])
    numbered = zip(projected.geometry, range(1, len(projected) + 1), strict=True)
    burnt = rasterio.features.rasterize(numbered, out_shape=lcz.shape, transform=affine)
    pixels = pd.DataFrame({"district": burnt.ravel(), "lcz": lcz.values.ravel()})
    counts = pixels[(pixels > 0).all(axis=1)].value_counts().unstack(fill_value=0)
    counts.index = [projected[name].iloc[number - 1] for number in counts.index]
    return counts.sort_index(axis=1) * abs(affine.a * affine.e) / 1e6


def quarters(store: str) -> gpd.GeoDataFrame:
    """Made-up districts: the four quarters of the map."""
    dataset = xr.open_zarr(store, group=GROUP)
    west, south, east, north = dataset.attrs["spatial:bbox"]
    x, y = (west + east) / 2, (south + north) / 2
    boxes = [box(west, y, x, north), box(x, y, east, north), box(west, south, x, y)]
    names = ["north-west", "north-east", "south-west", "south-east"]
    geometry = [*boxes, box(x, south, east, y)]
    return gpd.GeoDataFrame({"name": names}, geometry=geometry, crs=dataset.attrs["proj:code"])


def main(store: str, path: str = "", name: str = "name") -> None:
    if not path:
        print("Districts: four made-up quarters of the map.")
    districts = gpd.read_file(path) if path else quarters(store)
    print(areas_by_district(store, districts, name).round(2).to_string())


if __name__ == "__main__":
    main(*sys.argv[1:])
