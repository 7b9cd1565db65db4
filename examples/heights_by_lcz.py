"""Mean building and canopy height of each Local Climate Zone, with xarray and zarr alone.

``python examples/heights_by_lcz.py RUN/CITY``

The run's features need canopy and buildings (``features = [..., "canopy", "building"]``). A height
is the mean over the cells that have some, and each cell counts once. A map that was made with these
features has seen them: the means then say what the model learnt, not whether it is right.
"""

import sys
from pathlib import Path

import xarray as xr

COLUMNS = {
    "building_height_mean": "buildings, m",
    "building_fraction_mean": "built, %",
    "canopy_height_mean": "canopy, m",
    "canopy_fraction_mean": "canopy, %",
}


def heights_by_lcz(city: Path) -> xr.Dataset:
    """Means by zone: a variable for each column, dimension ``lcz``."""
    lcz = xr.open_zarr(city / "lcz.zarr", group="cells")["lcz"]
    stored = xr.open_zarr(city / "features.zarr", group="cells")["features"]
    cells = stored.assign_coords(feature=stored["feature"].attrs["names"])
    chosen = cells.sel(feature=list(COLUMNS)).to_dataset("feature")
    means = chosen.groupby(lcz.compute()).mean()
    means = means.where(means["lcz"] > 0, drop=True)
    for name in means:
        if "fraction" in str(name):
            means[name] = means[name] * 100
    return means.compute()


def main(city: str) -> None:
    means = heights_by_lcz(Path(city))
    lcz = xr.open_zarr(f"{city}/lcz.zarr", group="cells")["lcz"]
    names = dict(zip(lcz.attrs["flag_values"], lcz.attrs["flag_meanings"].split(), strict=True))
    print("  ".join([f"{'zone':28}", *(f"{title:>12}" for title in COLUMNS.values())]))
    for code in means["lcz"].values:
        row = means.sel(lcz=code)
        values = "  ".join(f"{float(row[name]):12.1f}" for name in COLUMNS)
        print(f"{names[int(code)]:28}  {values}")


if __name__ == "__main__":
    main(*sys.argv[1:])
