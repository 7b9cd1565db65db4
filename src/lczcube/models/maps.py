"""Maps of probabilities: what every model predicts, as the variables of a product."""

from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from lczcube.cube import GRID_ATTR
from lczcube.lcz import N_CLASSES, cf_attrs
from lczcube.models.meta import ModelMeta
from lczcube.probability import quantise

_N_LAYERS = 2 + N_CLASSES


def map_dataset(
    probability: Any, like: xr.DataArray, meta: ModelMeta, *, grid_json: str | None
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

    Returns
    -------
    xarray.Dataset
        ``lcz``, ``confidence``, ``probability`` and the coordinates of ``like``.
    """
    layers = _quantised(probability)
    y, x = like.dims
    percent = {"units": "%", "valid_range": [0, 100]}
    return xr.Dataset(
        {
            "lcz": ((y, x), layers[0], cf_attrs()),
            "confidence": ((y, x), layers[1], {"long_name": "Probability of lcz"} | percent),
            "probability": (
                ("lcz_class", y, x),
                layers[2:],
                {"long_name": "Probability of each Local Climate Zone"} | percent,
            ),
        },
        coords=dict(like.coords) | {"lcz_class": np.arange(1, N_CLASSES + 1, dtype=np.uint8)},
        attrs={"model": meta.kind, "seed": meta.seed, "synthetic": int(meta.synthetic)}
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


def _quantised(probability: Any) -> Any:
    """The 19 layers of a map: lcz, confidence, 17 per cents; uint8 (19, y, x)."""
    import dask.array as da

    if not isinstance(probability, da.Array):
        return _quantised_block(probability)
    return da.map_blocks(
        _quantised_block,
        probability,
        dtype=np.uint8,
        chunks=((_N_LAYERS,), *probability.chunks[1:]),
        meta=np.empty((0, 0, 0), np.uint8),
    )


def _quantised_block(probability: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    lcz, confidence, percent = quantise(np.moveaxis(probability, 0, -1))
    return np.concatenate([lcz[None], confidence[None], np.moveaxis(percent, -1, 0)])
