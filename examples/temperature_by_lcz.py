"""Temperature by Local Climate Zone, from point stations.

``python examples/temperature_by_lcz.py RUN/CITY/lcz.zarr [STATIONS.csv]``

The table has the columns ``lon``, ``lat`` and ``temperature``, °C, of one hour or one night.
Without one, the script makes stations up and says so: 2 K warmer where the zone is built.
"""

import sys

import numpy as np
import pandas as pd
import pyproj
import xarray as xr


def zones_at(dataset: xr.Dataset, lon: pd.Series, lat: pd.Series) -> np.ndarray:
    """Zone below each station; 0 past the map and where it has no data."""
    crs = dataset["spatial_ref"].attrs["crs_wkt"]
    to_map = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    x, y = (xr.DataArray(v, dims="station") for v in to_map.transform(lon, lat))
    half_m = abs(float(dataset["x"][1] - dataset["x"][0])) / 2
    near = dataset["lcz"].sel(x=x, y=y, method="nearest")
    is_inside = (abs(near["x"] - x) <= half_m) & (abs(near["y"] - y) <= half_m)
    return near.where(is_inside, 0).values.astype(np.uint8)


def made_up_stations(dataset: xr.Dataset, n: int = 200, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    west, south, east, north = dataset.attrs["spatial:bbox"]
    crs = dataset["spatial_ref"].attrs["crs_wkt"]
    to_degrees = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    lon, lat = to_degrees.transform(random.uniform(west, east, n), random.uniform(south, north, n))
    is_built = np.isin(zones_at(dataset, lon, lat), range(1, 11))
    temperature = 18 + 2 * is_built + random.normal(0, 0.5, n)
    return pd.DataFrame({"lon": lon, "lat": lat, "temperature": temperature})


def temperature_by_lcz(dataset: xr.Dataset, stations: pd.DataFrame) -> pd.DataFrame:
    """Stations, mean, and its standard error, °C, by zone; zones of one station have no error."""
    lcz = zones_at(dataset, stations["lon"], stations["lat"])
    known = stations[lcz > 0].groupby(lcz[lcz > 0])["temperature"]
    return known.agg(["count", "mean", "sem"]).rename_axis("lcz")


def main(store: str, table: str = "") -> None:
    dataset = xr.open_zarr(store, group="cells")
    if not table:
        print("SYNTHETIC stations: made up by this script.")
    stations = pd.read_csv(table) if table else made_up_stations(dataset)
    print(temperature_by_lcz(dataset, stations).round(2).to_string())


if __name__ == "__main__":
    main(*sys.argv[1:])
