"""Which year each step of a Zarr array is: whole numbers, CF times, or dates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lczcube.errors import SourceError
from lczcube.sources.files import first_line

if TYPE_CHECKING:
    import zarr

FIRST_YEAR, LAST_YEAR = 1900, 2100


def years_of(
    variable: zarr.Array[Any] | None, attrs: Mapping[str, Any], n_steps: int, where: str
) -> tuple[int, ...]:
    """Years of the steps of an array, in their order; reads the times.

    Parameters
    ----------
    variable : zarr.Array or None
        The coordinate of the time: years as whole numbers, or times as CF writes them.
    attrs : mapping
        Attributes of the array and its group: ``years``, a list, where there is no coordinate.
    n_steps : int
        Number of steps.
    where : str
        What it is, for the message.

    Raises
    ------
    SourceError
        If the times are not there, or are no years and no CF times.
    """
    if variable is not None and variable.shape == (n_steps,):
        years = _years(np.asarray(variable[:]), dict(variable.attrs), where)
    elif isinstance(attrs.get("years"), list | tuple) and len(attrs["years"]) == n_steps:
        years = np.asarray(attrs["years"])
    else:
        raise SourceError(
            f"{where} has {n_steps} steps of time and no coordinate that says when they are; write "
            "one of years."
        )
    bad = [year for year in years.tolist() if not FIRST_YEAR <= year <= LAST_YEAR]
    if bad:
        raise SourceError(
            f"{where} has times such as {bad[0]}, which is no year; write years, or CF times with "
            "their units."
        )
    return tuple(int(year) for year in years)


def _years(values: npt.NDArray[Any], attrs: dict[str, Any], where: str) -> npt.NDArray[Any]:
    if values.dtype.kind == "M":
        return values.astype("datetime64[Y]").astype(int) + 1970
    if "units" in attrs:
        return _cf_years(values, attrs, where)
    if values.dtype.kind in "iu":
        return values
    raise SourceError(
        f"{where} has times of {values.dtype} without units; write years as whole numbers, or CF "
        "times with their units."
    )


def _cf_years(values: npt.NDArray[Any], attrs: dict[str, Any], where: str) -> npt.NDArray[Any]:
    import xarray as xr

    coded = xr.Dataset({"time": ("time", values, attrs)})
    try:
        times = xr.decode_cf(coded)["time"]
        return np.asarray(times.dt.year)
    except (ValueError, TypeError, AttributeError, ImportError, OverflowError) as error:
        raise SourceError(
            f"{where} has times in {str(attrs['units'])[:40]!r} that cannot be read "
            f"({first_line(error)}); write years, or CF times."
        ) from error
