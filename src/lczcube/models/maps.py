"""Maps of probabilities: what every model predicts, as the variables of a product."""

from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from lczcube.confidence import Confidence
from lczcube.cube import GRID_ATTR
from lczcube.errors import ModelError
from lczcube.lcz import N_CLASSES, NODATA, ZONES, cf_attrs
from lczcube.models.meta import ModelMeta
from lczcube.probability import PERCENT_NODATA, quantise

NOT_KNOWN = 255
"""No data in ``applicable``, which is 0 or 1."""

_PERCENT = {"units": "%", "valid_range": [0, 100]}
_ATTRS: dict[str, dict[str, Any]] = {
    "lcz": cf_attrs(),
    "confidence": {"long_name": "Probability of lcz"} | _PERCENT,
    "probability": {"long_name": "Probability of each Local Climate Zone"} | _PERCENT,
    "label_set": {
        "flag_masks": [1 << (zone.code - 1) for zone in ZONES],
        "flag_meanings": cf_attrs()["flag_meanings"],
        "nodata": 0,
    },
    "dissimilarity": {"units": "1"},
    "applicable": {
        "flag_values": [0, 1],
        "flag_meanings": "outside inside",
        "nodata": NOT_KNOWN,
    },
}


def map_dataset(
    probability: Any,
    like: xr.DataArray,
    meta: ModelMeta,
    *,
    grid_json: str | None,
    confidence: Confidence | None = None,
    features: xr.DataArray | None = None,
) -> xr.Dataset:
    """The Dataset of a map from the probabilities of its classes; lazy if they are.

    Parameters
    ----------
    probability : numpy.ndarray or dask.array.Array
        float32 in [0, 1], shape (17, y, x), codes 1-17; NaN where there is no data. Dask: all
        classes in one chunk.
    like : xarray.DataArray
        dims ``(y, x)`` of any name: gives dims and coordinates.
    meta : ModelMeta
        Of the model, for the attributes.
    grid_json : str or None
        The grid, as its attribute says; None leaves it out, and the map cannot be written then.
    confidence : Confidence, optional
        Of the model. Default: probabilities as they are, and nothing else.
    features : xarray.DataArray, optional
        float32, the dims of ``like`` and one more: what the model saw of each pixel. Wanted where
        the confidence has an area of applicability.

    Returns
    -------
    xarray.Dataset
        ``lcz``, ``confidence``, ``probability`` and the coordinates of ``like``; of calibrated
        probabilities, if they are. With label sets ``label_set``, uint32 ``(y, x)``: bit
        ``code - 1`` of each class that the pixel may have, 0 for no data. With an area of
        applicability ``dissimilarity``, float32 ``(y, x)``, NaN for no data, and ``applicable``,
        uint8 ``(y, x)``: 1 inside, 0 outside, 255 for no data.

    Raises
    ------
    ModelError
        If the confidence has an area of applicability, and features are missing or of another
        shape.

    Notes
    -----
    One task a chunk gives all variables.
    """
    chosen = confidence or Confidence()
    area = chosen.applicability
    seen = None if area is None else _features(features, like, area.n_features)
    pixels = _pixels(probability, seen, chosen)
    y, x = like.dims
    dims = {"probability": ("lcz_class", y, x)}
    layers = {name: pixels[name] for name in _pixel_dtype(chosen).names or ()}
    layers["probability"] = layers["probability"].transpose(2, 0, 1)
    return xr.Dataset(
        {name: (dims.get(name, (y, x)), layer, _ATTRS[name]) for name, layer in layers.items()},
        coords=dict(like.coords) | {"lcz_class": np.arange(1, N_CLASSES + 1, dtype=np.uint8)},
        attrs={"model": meta.kind, "seed": meta.seed, "synthetic": int(meta.synthetic)}
        | _promise(chosen)
        | ({} if grid_json is None else {GRID_ATTR: grid_json}),
    )


def on_raster(
    probability: npt.NDArray[np.float32], known: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float32]:
    """Probabilities of pixels laid out on a raster.

    Parameters
    ----------
    probability : numpy.ndarray
        float32, shape (n, 17): one row per true pixel of ``known``, row by row.
    known : numpy.ndarray
        bool, shape (y, x).

    Returns
    -------
    numpy.ndarray
        float32, shape (17, y, x); NaN outside ``known``.
    """
    raster = np.full((N_CLASSES, *known.shape), np.nan, np.float32)
    raster[:, known] = probability.T
    return raster


def shared(value: object, fingerprint: str) -> Any:
    """One object of a Dask graph that all its tasks refer to, named after its content."""
    from dask.delayed import delayed

    return delayed(value, name=f"model-{fingerprint}", traverse=False)


def _features(features: xr.DataArray | None, like: xr.DataArray, n_features: int) -> Any:
    """Features, (y, x, feature)."""
    if features is None:
        raise ModelError(
            "the confidence of this model has an area of applicability, and there are no features "
            "to hold against it; give features=, or a confidence without applicability."
        )
    seen = features.transpose(*like.dims, ...)
    if seen.shape != (*like.shape, n_features):
        raise ModelError(
            f"features of shape {seen.shape}; the area of applicability of this model wants "
            f"{(*like.shape, n_features)}, as in training."
        )
    return seen.data


def _promise(confidence: Confidence) -> dict[str, float]:
    """What the variables of a map promise, as attributes."""
    sets, area = confidence.label_sets, confidence.applicability
    return ({} if sets is None else {"label_set_promise": sets.promise}) | (
        {} if area is None else {"dissimilarity_threshold": area.threshold}
    )


def _pixel_dtype(confidence: Confidence) -> np.dtype[Any]:
    """All that a map says of a pixel, as one record: one task gives what differs in dtype."""
    fields: list[tuple[Any, ...]] = [
        ("lcz", np.uint8),
        ("confidence", np.uint8),
        ("probability", np.uint8, (N_CLASSES,)),
    ]
    if confidence.label_sets is not None:
        fields += [("label_set", np.uint32)]
    if confidence.applicability is not None:
        fields += [("dissimilarity", np.float32), ("applicable", np.uint8)]
    return np.dtype(fields)


_EMPTY = {
    "lcz": NODATA,
    "confidence": PERCENT_NODATA,
    "probability": PERCENT_NODATA,
    "label_set": 0,
    "dissimilarity": np.nan,
    "applicable": NOT_KNOWN,
}


def _pixels(probability: Any, features: Any, confidence: Confidence) -> Any:
    """Records of a map, (y, x)."""
    import dask.array as da

    if not isinstance(probability, da.Array):
        in_memory = None if features is None else np.asarray(features)
        return _pixels_of_block(probability, in_memory, confidence=confidence)
    dtype = _pixel_dtype(confidence)
    seen: list[Any] = []
    if features is not None:
        seen = [da.asarray(features).rechunk((*probability.chunks[1:], -1)), "yxf"]
    return da.blockwise(
        _pixels_of_block,
        "yx",
        probability,
        "kyx",
        *seen,
        confidence=shared(confidence, confidence.fingerprint),
        concatenate=True,
        dtype=dtype,
        meta=np.empty((0, 0), dtype),
    )


def _pixels_of_block(
    probability: npt.NDArray[np.float32],
    features: npt.NDArray[np.float32] | None = None,
    *,
    confidence: Confidence,
) -> npt.NDArray[Any]:
    known = ~np.isnan(probability).any(axis=0)
    pixels = np.empty(known.shape, _pixel_dtype(confidence))
    for name in pixels.dtype.names or ():
        pixels[name] = _EMPTY[name]
    rows = confidence.calibrated(np.ascontiguousarray(probability[:, known].T))
    lcz, percent_of_lcz, percent = quantise(rows)
    pixels["lcz"][known] = lcz
    pixels["confidence"][known] = percent_of_lcz
    pixels["probability"][known] = percent
    if confidence.label_sets is not None:
        pixels["label_set"][known] = confidence.label_sets.sets(rows)
    if confidence.applicability is not None and features is not None:
        index = confidence.applicability.dissimilarity(features[known])
        pixels["dissimilarity"][known] = index
        pixels["applicable"][known] = np.where(
            np.isnan(index), NOT_KNOWN, confidence.applicability.inside(index)
        )
    return pixels
