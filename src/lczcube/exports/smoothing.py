"""The class-wise Gaussian filter of WUDAPT maps, which gives LCZs the size they are meant to have.

For each class its pixels, as 0 and 1, are smoothed with a Gaussian of the class's own width; a
pixel gets the class that is then strongest in it.

References
----------
Demuzere, M. et al. (2020). Combining expert and crowd-sourced training data to map urban form and
functions for the continental US. Scientific Data 7, 264, doi:10.1038/s41597-020-00605-z (the
filter and its widths).
Demuzere, M. et al. (2021). LCZ Generator: a web application to create Local Climate Zone maps.
Frontiers in Environmental Science 9, 637455, doi:10.3389/fenvs.2021.637455 (``lczFilter``).
Demuzere, M. multitemporal-lcz-mapping, ``create_lcz_map.py``, function ``_gaussian_filter``,
https://github.com/matthiasdemuzere/multitemporal-lcz-mapping (the author's code: a width is the
standard deviation, and the kernel is a square that is cut at a radius of its own).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import xarray as xr

from lczcube.lcz import NODATA, ZONES, require_codes


@dataclass(frozen=True)
class FilterWidth:
    """The Gaussian of a class: standard deviation, and half the side of its square kernel, m."""

    sigma_m: float
    radius_m: float


Widths = Mapping[int, FilterWidth]

_BUILT = FilterWidth(150, 300)
_LARGE = FilterWidth(250, 500)
_NATURAL = FilterWidth(75, 200)
PUBLISHED_WIDTHS: Widths = {
    **{zone.code: _BUILT if zone.is_built else _NATURAL for zone in ZONES},
    1: FilterWidth(100, 200),
    8: _LARGE,
    10: _LARGE,
    17: FilterWidth(25, 50),
}
"""By LCZ code, as published: all natural classes but water have 75 m."""

GENERATOR_WIDTHS: Widths = {**PUBLISHED_WIDTHS, 15: _BUILT}
"""By LCZ code, as the LCZ Generator filters: LCZ E, bare rock or paved, has the 150 m of built
classes, as in its author's code. These give band ``lczFilter`` of a file of the Generator (Sydney,
793,000 pixels) but for 9 pixels; with 75 m for LCZ E, 1,036 differ."""


def gaussian_filter(
    lcz: xr.DataArray, *, pixel_m: float, widths: Widths = PUBLISHED_WIDTHS
) -> xr.DataArray:
    """LCZ smoothed by the class-wise Gaussian filter of WUDAPT.

    Parameters
    ----------
    lcz : xarray.DataArray
        uint8, 0-17, dims ``(y, x)``, square pixels; NumPy or Dask, in any chunks.
    pixel_m : float
        Side of a pixel, m. Where it is over a class's radius, that class is not smoothed.
    widths : mapping of int to FilterWidth
        By code, 1-17. Default: as published.

    Returns
    -------
    xarray.DataArray
        uint8, as ``lcz``: the strongest class, of equals the lowest code; 0 where ``lcz`` is.
        Lazy if ``lcz`` is, and the same in any chunking.

    Raises
    ------
    LabelError
        If a code is not 0-17; of a lazy map when it is computed.

    Notes
    -----
    Pixels without a class, and what lies outside the map, carry no weight: each class is divided
    by the share of its kernel that has classes. The published maps are not, and their authors cut
    500 m off each edge instead.

    Examples
    --------
    >>> row = xr.DataArray(np.array([[17, 6, 17]], np.uint8), dims=("y", "x"))
    >>> gaussian_filter(row, pixel_m=10).values.tolist()
    [[17, 17, 17]]
    """
    smooth = partial(_filtered, pixel_m=pixel_m, widths=widths)
    if lcz.chunks is None:
        return lcz.copy(data=smooth(lcz.values))
    import dask.array as da

    reach = max(_radius_px(width, pixel_m) for width in widths.values())
    padded = da.map_overlap(
        smooth,
        lcz.data,
        depth=tuple(min(reach, size) for size in lcz.shape),
        boundary=NODATA,
        dtype=np.uint8,
        meta=np.empty((0, 0), np.uint8),
    )
    return lcz.copy(data=padded.rechunk(lcz.chunks))


def _filtered(
    codes: npt.NDArray[np.uint8], *, pixel_m: float, widths: Widths
) -> npt.NDArray[np.uint8]:
    require_codes(codes, where="the map")
    known = (codes != NODATA).astype(np.float64)
    best = np.zeros(codes.shape)
    winner = np.zeros_like(codes)
    shares: dict[FilterWidth, npt.NDArray[np.float64]] = {}
    for code in np.unique(codes[codes != NODATA]).tolist():
        width = widths[code]
        if width not in shares:
            shares[width] = _smoothed(known, width, pixel_m)
        member = _smoothed((codes == code).astype(np.float64), width, pixel_m)
        strength = np.divide(member, shares[width], out=np.zeros_like(member), where=known > 0)
        stronger = strength > best + _TIE
        best[stronger], winner[stronger] = strength[stronger], code
    return winner


_TIE = 1e-9
"""Strengths closer than this are equal: the order of a sum must not move a map."""


def _smoothed(
    values: npt.NDArray[np.float64], width: FilterWidth, pixel_m: float
) -> npt.NDArray[np.float64]:
    """Values times the kernel of a class, which is the product of two rows; 0 outside."""
    from scipy.ndimage import correlate1d

    kernel = kernel_row(width, pixel_m)
    for axis in (0, 1):
        values = correlate1d(values, kernel, axis=axis, mode="constant")
    return values


def kernel_row(width: FilterWidth, pixel_m: float) -> npt.NDArray[np.float64]:
    """One row of the square kernel of a class: float64, sum 1, odd length."""
    reach = _radius_px(width, pixel_m)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) * pixel_m / width.sigma_m) ** 2)
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def _radius_px(width: FilterWidth, pixel_m: float) -> int:
    return int(width.radius_m / pixel_m + 1e-9)
