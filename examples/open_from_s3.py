"""A map in an object store, opened without copying it: one cell's history reads one shard.

``python examples/open_from_s3.py s3://BUCKET/PATH/lcz.zarr [ENDPOINT]``

With ``pip install obstore``. Keys are taken from the environment (``AWS_ACCESS_KEY_ID``, …), never
from the address. ENDPOINT is of a server other than Amazon's, such as http://localhost:9000.
"""

import sys
from urllib.parse import urlsplit

import xarray as xr
from obstore.store import S3Store
from zarr.storage import ObjectStore


def open_map(url: str, endpoint: str | None = None, group: str = "cells") -> xr.Dataset:
    """A group of a product store, lazy."""
    place = urlsplit(url)
    options = {"endpoint": endpoint, "client_options": {"allow_http": True}} if endpoint else {}
    s3 = S3Store(place.netloc, prefix=place.path.strip("/"), **options)
    return xr.open_zarr(ObjectStore(s3, read_only=True), group=group)


def main(url: str, endpoint: str | None = None) -> None:
    lcz = open_map(url, endpoint)["lcz"]
    middle = lcz.isel(x=lcz.sizes["x"] // 2, y=lcz.sizes["y"] // 2)
    print(f"{url}: {lcz.sizes['y']} x {lcz.sizes['x']} cells, LCZ {int(middle)} in the middle")
    for code, name in zip(
        lcz.attrs["flag_values"], lcz.attrs["flag_meanings"].split(), strict=True
    ):
        n = int((lcz == code).sum())
        if n:
            print(f"{n:8} cells  {name}")


if __name__ == "__main__":
    main(*sys.argv[1:])
