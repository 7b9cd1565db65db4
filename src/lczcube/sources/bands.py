"""Bands of an asset as STAC 1.1 has them: a name each, one dtype, one nodata, scale and offset."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lczcube.errors import SourceError
from lczcube.sources.items import safe_id


@dataclass(frozen=True)
class Band:
    """What a file says of one band.

    Attributes
    ----------
    name : str or None
        As the file has it.
    scale, offset : float
        ``code * scale + offset`` is the value.
    unit, description : str or None
        For people.
    """

    name: str | None = None
    scale: float = 1.0
    offset: float = 0.0
    unit: str | None = None
    description: str | None = None


def band_fields(
    bands: Sequence[Band], names: Sequence[str], dtype: str, nodata: float | None
) -> list[dict[str, Any]]:
    """``bands`` of an asset; what says nothing is left out."""
    made = []
    for band, name in zip(bands, names, strict=True):
        optional = {
            "nodata": nodata,
            "raster:scale": band.scale if band.scale != 1 else None,
            "raster:offset": band.offset if band.offset != 0 else None,
            "unit": band.unit or None,
            "description": band.description if band.description != name else None,
        }
        told = {key: value for key, value in optional.items() if value is not None}
        made.append({"name": name, "data_type": dtype, **told})
    return made


def name_bands(given: Sequence[str], own: Sequence[str | None], where: str) -> list[str]:
    """Names of bands: those the input gives, else the file's where each is unique, else numbers.

    Raises
    ------
    SourceError
        If the input names another number of bands than there are.
    """
    if given:
        if len(given) != len(own):
            raise SourceError(
                f"{where} has {len(own)} bands but bands names {len(given)}; "
                "name each band once, or leave bands out."
            )
        return list(given)
    safe = [safe_id(text or "") for text in own]
    if all(safe) and len(set(safe)) == len(safe):
        return safe
    return [f"b{i:02d}" for i in range(1, len(own) + 1)]


def require_code(value: float, dtype: np.dtype[Any], where: str) -> float:
    """A nodata that an input gives, as a code of a dtype.

    Raises
    ------
    SourceError
        If the dtype has no such code.
    """
    if not fits(value, dtype):
        raise SourceError(
            f"{where}: nodata = {value:g} cannot be stored as {dtype}; "
            "set a code of that dtype, or leave nodata out."
        )
    return as_code(value, dtype)


def fits(value: float, dtype: np.dtype[Any]) -> bool:
    """True for a value that can occur among the codes of a dtype."""
    if dtype.kind == "f":
        return math.isfinite(value)
    if not math.isfinite(value):
        return False
    limits = np.iinfo(dtype)
    return value == int(value) and limits.min <= value <= limits.max


def as_code(value: float, dtype: np.dtype[Any]) -> float:
    """A value that :func:`fits`, as JSON has it: a whole number for whole numbers."""
    return float(value) if dtype.kind == "f" else int(value)
