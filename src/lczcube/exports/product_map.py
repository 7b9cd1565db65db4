"""A map to export: zones and per cents of a product, where its pixels lie, what is said of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

from lczcube.errors import StoreError
from lczcube.products import manifest, open_product

YEAR_TAG = "REPRESENTATIVE_YEAR"
"""Tag that says which year a map is of, as in files of the LCZ Generator."""


@dataclass(frozen=True)
class ProductMap:
    """A map to export.

    Attributes
    ----------
    data : xarray.Dataset
        ``lcz`` (uint8, 0-17), ``confidence`` and ``probability`` (shares, NaN for no data), dims
        ``(y, x)`` and ``(lcz_class, y, x)``, as :func:`lczcube.products.open_product` gives them.
    geobox : odc.geo.geobox.GeoBox
        The pixels, north-up, in metres.
    tags : dict of str to str
        What is said of the map in every export: year, labels, authors, licences, version.
    """

    data: xr.Dataset
    geobox: GeoBox
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def pixel_m(self) -> float:
        """Side of a pixel, m."""
        return abs(float(self.geobox.affine.a))


def open_map(
    store: str | Path,
    group: str = "cells",
    *,
    year: int | None = None,
    tags: Mapping[str, str] | None = None,
) -> ProductMap:
    """A group of a product store as a map of one year to export; lazy.

    Parameters
    ----------
    store : str or pathlib.Path
        ``lcz.zarr``.
    group : str
        ``cells`` (default: every run has them) or ``pixels``.
    year : int, optional
        Which of its maps. Default: the only one there is.
    tags : mapping of str to str, optional
        What to say of the map in every export. Of a store with a dimension ``time``, the year is
        added.

    Raises
    ------
    StoreError
        If the store or the group is not there, holds no map or none of that year, or holds several
        and no year is named.
    """
    data = open_product(store, group)
    if "lcz" not in data:
        held = ", ".join(sorted(map(str, data.data_vars)))
        raise StoreError(f"{store}/{group} holds {held} and no lcz; name the store of a map.")
    told = dict(tags or {})
    if "time" in data.dims:
        years = data["time"].dt.year.values.tolist()
        year = _one_of(years, year, store)
        data, told[YEAR_TAG] = data.isel(time=years.index(year), drop=True), str(year)
    elif year is not None:
        own = manifest(store).get("settings", {}).get("run", {}).get("year")
        _one_of([] if own is None else [own], year, store)
    return ProductMap(data, product_geobox(data), told)


def _one_of(years: Sequence[int], asked: int | None, store: str | Path) -> int:
    """The year asked for, else the only one."""
    if asked in years or (asked is None and len(years) == 1):
        return asked or years[0]
    held = f"holds maps of {', '.join(map(str, years))}" if years else "does not say its year"
    remedy = "name one of them: --year" if years else "leave out --year"
    raise StoreError(f"{store} {held}{f' and none of {asked}' if asked else ''}; {remedy}.")


def product_geobox(data: xr.Dataset) -> GeoBox:
    """The pixels of an opened product, by the ``spatial:`` and ``proj:`` attributes of its group.

    Raises
    ------
    StoreError
        If it has none.
    """
    crs = data.attrs.get("proj:code") or data.attrs.get("proj:wkt2")
    if crs is None or "spatial:transform" not in data.attrs:
        raise StoreError(
            "the dataset has no proj: and spatial: attributes; write it with "
            "lczcube.write_product and open it again."
        )
    shape = (data.sizes["y"], data.sizes["x"])
    return GeoBox(shape, Affine(*data.attrs["spatial:transform"]), crs)


def row_strips(n_rows: int, n_columns: int, *, most_px: int = 1 << 18) -> Iterator[slice]:
    """Slices of whole rows, in order, of at most ``most_px`` pixels (or one row)."""
    step = max(1, most_px // n_columns)
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def windows(geobox: GeoBox, side_px: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of squares of ``side_px`` that cover a geobox, row by row."""
    n_rows, n_columns = geobox.shape
    for row in range(0, n_rows, side_px):
        for column in range(0, n_columns, side_px):
            rows = slice(row, min(row + side_px, n_rows))
            yield rows, slice(column, min(column + side_px, n_columns))
