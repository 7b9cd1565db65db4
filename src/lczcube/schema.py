"""The layout of product stores: their version, and what each variable is.

The rules that can be checked are a JSON Schema of the root's ``zarr.json``, shipped as
``schemas/product-v2.0.0.json``.

References
----------
CF conventions 1.11, 3.5 (flags). Zarr conventions ``proj``, ``spatial`` and ``multiscales``,
https://github.com/zarr-conventions.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Literal

import numpy as np

from lczcube import lcz as zones
from lczcube.errors import StoreError
from lczcube.probability import PERCENT_NODATA

SCHEMA_VERSION = "2.0.0"
"""Of stores that are written. Another first number is another layout."""

VERSION_ATTR = "lczcube_schema"

READ_VERSIONS = (1, 2)
"""First numbers of the versions that are read."""

_CONVENTIONS = {
    "spatial": ("689b58e2-cf7b-45e0-9fff-9cfc0883d6b4", "Spatial coordinate information"),
    "proj": (
        "f17cb550-5864-4468-aeb7-f3180cfb622f",
        "Coordinate reference system information for geospatial data",
    ),
    "multiscales": ("d35379db-88df-4056-af3a-620245f8e347", "Multiscale layout of zarr datasets"),
}

_PERCENT_ATTRS = {"units": "1", "_FillValue": np.uint8(PERCENT_NODATA), "scale_factor": 0.01}
"""As attributes, not as encoding: the per cents are packed already, xarray must not pack again."""


@dataclass(frozen=True)
class Kind:
    """What a variable of a product is.

    Attributes
    ----------
    halved : str
        How a level of the pyramid is made: ``mode``, ``average`` or ``union``.
    nodata : float or None
        No data, and what Zarr fills with; None where every code counts (Zarr fills with 0).
    attrs : mapping
        CF attributes.
    """

    halved: Literal["mode", "average", "union"]
    nodata: float | None
    attrs: Mapping[str, Any] = field(default_factory=dict)


def _percent(long_name: str) -> Kind:
    return Kind("average", PERCENT_NODATA, {"long_name": long_name, **_PERCENT_ATTRS})


def _float(long_name: str, **attrs: str) -> Kind:
    return Kind("average", np.nan, {"long_name": long_name, **attrs})


def _codes(nodata: float | None, long_name: str, **attrs: Any) -> Kind:
    stated = {} if nodata is None else {"nodata": nodata}
    return Kind("mode", nodata, {"long_name": long_name, **attrs, **stated})


_ZONE = zones.cf_attrs()

KINDS: Mapping[str, Kind] = {
    "lcz": Kind("mode", zones.NODATA, {**_ZONE, "nodata": zones.NODATA}),
    "confidence": _percent("Probability of the mapped zone"),
    "probability": _percent("Probability of each Local Climate Zone"),
    "label_set": Kind(
        "union",
        0,
        {
            "long_name": "Zones of the conformal label set; bit code - 1",
            "flag_masks": [1 << (code - 1) for code in _ZONE["flag_values"]],
            "flag_meanings": _ZONE["flag_meanings"],
            "flag_colors": _ZONE["flag_colors"],
            "nodata": 0,
        },
    ),
    "dissimilarity": _float("Dissimilarity to the training samples", units="1"),
    "applicable": _codes(
        255,
        "Whether the model applies: the pixel is like its training samples",
        flag_values=[0, 1],
        flag_meanings="not_applicable applicable",
    ),
    "distance": _float("Distance to the nearest donor", units="standard deviations"),
    "donor": _codes(-1, "Position of the nearest donor in attribute donor_id; -1 for none"),
    "vote": _percent("Share of the vote of the mapped zone, not calibrated"),
    "pseudo_label": Kind(
        "mode", zones.NODATA, {**_ZONE, "long_name": "Pseudo-label", "nodata": zones.NODATA}
    ),
    "fate": _codes(None, "What becomes of the pseudo-label"),
    "kept": _codes(None, "True where the pseudo-label is kept"),
    "features": _float("Statistics of the bands over the window of each output pixel"),
    "valid_fraction": _float("Share of valid pixels in the window", units="1"),
    "covered": _codes(None, "True where at least half of the output pixel is valid"),
}
"""By name; other variables are what their dtype says: see :func:`kind_of`."""


def kind_of(name: str, dtype: np.dtype[Any]) -> Kind:
    """What a variable is: by its name, else decimal numbers with NaN, or codes that all count."""
    by_dtype = Kind("average", np.nan) if dtype.kind == "f" else Kind("mode", None)
    return KINDS.get(name, by_dtype)


def conventions(*names: str) -> list[dict[str, str]]:
    """The attribute ``zarr_conventions`` that declares conventions by name."""
    return [
        {
            "uuid": uuid,
            "name": name,
            "description": description,
            "schema_url": (
                f"https://raw.githubusercontent.com/zarr-conventions/{name}/refs/tags/v0.1/schema.json"
            ),
            "spec_url": f"https://github.com/zarr-conventions/{name}/blob/v0.1/README.md",
        }
        for name, (uuid, description) in ((n, _CONVENTIONS[n]) for n in names)
    ]


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the root's ``zarr.json``, for :data:`SCHEMA_VERSION`."""
    name = f"product-v{SCHEMA_VERSION}.json"
    text = (resources.files("lczcube") / "schemas" / name).read_text(encoding="utf-8")
    return dict(json.loads(text))


def require_version(version: str | None, store: str) -> None:
    """Raise a StoreError unless stores of a version can be read.

    Parameters
    ----------
    version : str or None
        The root's attribute :data:`VERSION_ATTR`.
    store : str
        What the message calls the store.
    """
    first = str(version).partition(".")[0]
    if first in map(str, READ_VERSIONS):
        return
    known = " and ".join(f"{n}.x" for n in READ_VERSIONS)
    raise StoreError(
        f"{store} has {VERSION_ATTR} = {version!r}; this lczcube reads {known}. "
        + ("Upgrade lczcube." if first.isdigit() else "It is no product store.")
    )
