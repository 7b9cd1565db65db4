"""Area of each Local Climate Zone in a map, with xarray and zarr alone.

``python examples/read_map.py RUN/CITY/lcz.zarr [cells|pixels]``
"""

import sys

import xarray as xr


def class_areas(store: str, group: str = "cells") -> dict[str, float]:
    """Area in km² by zone, zones present only."""
    lcz = xr.open_zarr(store, group=group)["lcz"]
    pixel_km2 = float(abs(lcz.x[1] - lcz.x[0]) * abs(lcz.y[1] - lcz.y[0])) / 1e6
    names = lcz.attrs["flag_meanings"].split()
    counts = [int((lcz == code).sum()) for code in lcz.attrs["flag_values"]]
    return {name: n * pixel_km2 for name, n in zip(names, counts, strict=True) if n}


if __name__ == "__main__":
    for zone, area_km2 in class_areas(*sys.argv[1:]).items():
        print(f"{area_km2:10.2f} km²  {zone}")
