"""The area of each zone, and its mean confidence, computed by the workers of a Dask cluster.

``python examples/on_a_cluster.py RUN/CITY/lcz.zarr [SCHEDULER]``

SCHEDULER is the address of one that runs, such as tcp://host:8786; without it, two worker processes
are started here. Each reads whole shards; the map is never in one memory.
"""

import sys

import dask.array as da
import numpy as np
import xarray as xr
from dask.distributed import Client, LocalCluster


def sums_by_zone(dataset: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Cells, and the sum of confidences, of codes 0-17; one small array from each chunk."""
    lcz = dataset["lcz"].data.ravel()
    confidence = da.nan_to_num(dataset["confidence"].data.ravel())
    counts = da.bincount(lcz, minlength=18)
    return da.compute(counts, da.bincount(lcz, weights=confidence, minlength=18))


def main(store: str, scheduler: str | None = None) -> None:
    cluster = scheduler or LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with Client(cluster) as client:
        dataset = xr.open_zarr(store, group="cells")
        counts, sums = sums_by_zone(dataset)
        print(f"{len(client.scheduler_info()['workers'])} workers")
    cell_km2 = abs(float(dataset["x"][1] - dataset["x"][0])) ** 2 / 1e6
    names = dataset["lcz"].attrs["flag_meanings"].split()
    for code in np.flatnonzero(counts[1:]) + 1:
        share = sums[code] / counts[code]
        print(f"{counts[code] * cell_km2:10.2f} km²  confidence {share:.2f}  {names[code - 1]}")
    if not scheduler:
        cluster.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
