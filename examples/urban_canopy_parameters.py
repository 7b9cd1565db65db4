"""Urban canopy parameters of a map as rasters, from the ranges of Stewart & Oke (2012).

``python examples/urban_canopy_parameters.py RUN/CITY/lcz.zarr OUT_FOLDER``

Each zone gets the middle of its range; where the range has no end, its one bound. Heights and
fractions that a run has of its own city are better (examples/heights_by_lcz.py).

Stewart, I. D. & Oke, T. R. (2012), BAMS 93, 1879-1900, doi:10.1175/BAMS-D-11-00019.1, tables 3, 4.
"""

import io
import sys
from pathlib import Path

import numpy as np
import odc.geo.xr  # noqa: F401  # gives arrays .odc
import pandas as pd
import xarray as xr

RANGES = """
lcz  sky_view_factor  building_percent  roughness_height_m  albedo
1    0.2-0.4          40-60             25-                 0.10-0.20
2    0.3-0.6          40-70             10-25               0.10-0.20
3    0.2-0.6          40-70             3-10                0.10-0.20
4    0.5-0.7          20-40             25-                 0.12-0.25
5    0.5-0.8          20-40             10-25               0.12-0.25
6    0.6-0.9          20-40             3-10                0.12-0.25
7    0.2-0.5          60-90             2-4                 0.15-0.35
8    0.7-1            30-50             3-10                0.15-0.25
9    0.8-1            10-20             3-10                0.12-0.25
10   0.6-0.9          20-30             5-15                0.12-0.20
11   0-0.4            0-10              3-30                0.10-0.20
12   0.5-0.8          0-10              3-15                0.15-0.25
13   0.7-0.9          0-10              0-2                 0.15-0.30
14   0.9-1            0-10              0-1                 0.15-0.25
15   0.9-1            0-10              0-0.25              0.15-0.30
16   0.9-1            0-10              0-0.25              0.20-0.35
17   0.9-1            0-10              -                   0.02-0.10
"""


def middles() -> pd.DataFrame:
    """Middle of each range, a row a zone; NaN where there is none."""
    table = pd.read_csv(io.StringIO(RANGES), sep=r"\s+", index_col="lcz", dtype=str)
    ends = {name: column.str.split("-", expand=True) for name, column in table.items()}
    return pd.DataFrame({name: e.apply(pd.to_numeric).mean(axis=1) for name, e in ends.items()})


def parameter(lcz: xr.DataArray, values: pd.Series) -> xr.DataArray:
    """float32 on the pixels of the map; NaN where it has no data or the table no value."""
    by_code = np.concatenate([[np.nan], values]).astype(np.float32)
    return lcz.copy(data=lcz.data.map_blocks(by_code.__getitem__, dtype=np.float32))


def main(store: str, out: str) -> None:
    lcz = xr.open_zarr(store, group="cells")["lcz"]
    for name, values in middles().items():
        raster = parameter(lcz, values).drop_attrs(deep=False).compute()
        raster.odc.write_cog(Path(out) / f"{name}.tif", overwrite=True, nodata=np.nan)
        print(f"{name:20} {float(raster.min()):8.2f} to {float(raster.max()):8.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
