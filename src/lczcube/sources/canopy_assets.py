"""Assets of canopy heights: the heights themselves, and the code of "no height here"."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from lczcube.errors import SourceError
from lczcube.sources.files import SourceFile, file_facts

if TYPE_CHECKING:
    import pystac

    from lczcube.sources.canopy import CanopyInput

BAND_NAME = "height"
NODATA = 255
"""Where no other is declared: no tree is that high."""


def height_asset(
    entry: CanopyInput,
    file: SourceFile,
    *,
    dtype: str,
    declared: float | None,
    media: str,
    resolution_m: float,
    block_shape: tuple[int, int] | None,
) -> pystac.Asset:
    """The asset of a raster of heights; ``block_shape`` is None where nobody knows it."""
    import pystac

    band: dict[str, Any] = {"name": BAND_NAME, "data_type": dtype, "unit": "m"}
    nodata = _nodata(entry, file, declared, np.dtype(dtype))
    if nodata is not None:
        band["nodata"] = nodata
    blocks = {} if block_shape is None else {"lczcube:block_shape": list(block_shape)}
    return pystac.Asset(
        href=file.href,
        title=entry.title,
        media_type=media,
        roles=["data"],
        extra_fields={
            "bands": [band],
            "raster:spatial_resolution": float(f"{resolution_m:.6g}"),
            **blocks,
            **file_facts(file.href, checksum=entry.checksums),
        },
    )


def _nodata(
    entry: CanopyInput, file: SourceFile, declared: float | None, dtype: np.dtype[Any]
) -> float | None:
    """The code of "no height here": the input's, else the file's, else 255."""
    if entry.nodata is not None:
        if not _can_hold(dtype, entry.nodata):
            raise SourceError(
                f"{file.href}: nodata = {entry.nodata:g} cannot be stored as {dtype}; set a code "
                "of that dtype, or leave nodata out."
            )
        return _number(entry.nodata, dtype)
    if declared == 0:
        raise SourceError(
            f"{file.href} declares nodata 0, which is also ground without trees: of what is left "
            "everything would be canopy. Set nodata = 255 in the input to take 0 for ground, or "
            "nodata = 0 if its ground has another code."
        )
    usable = [code for code in (declared, NODATA) if code is not None and _can_hold(dtype, code)]
    return _number(usable[0], dtype) if usable else None


def _can_hold(dtype: np.dtype[Any], code: float) -> bool:
    if dtype.kind == "f":
        return math.isfinite(code)
    limits = np.iinfo(dtype)
    return math.isfinite(code) and code == int(code) and limits.min <= code <= limits.max


def _number(code: float, dtype: np.dtype[Any]) -> float:
    return float(code) if dtype.kind == "f" else int(code)
