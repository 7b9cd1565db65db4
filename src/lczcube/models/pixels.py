"""Models on one feature vector per cell, used on the bare band values of every pixel."""

import xarray as xr

from lczcube.confidence import Confidence
from lczcube.errors import GridMismatchError
from lczcube.grid import Grid
from lczcube.models.maps import map_dataset
from lczcube.models.meta import require_features
from lczcube.models.tabular import TabularModel, lazy_probability, products_of


def predict_pixels(
    model: TabularModel,
    image: xr.DataArray,
    *,
    grid: Grid,
    halo_px: int = 0,
    products: tuple[str, ...] | None = None,
    confidence: Confidence | None = None,
) -> xr.Dataset:
    """Map of zones, confidence and probabilities of every pixel; lazy if the image is.

    Parameters
    ----------
    model : TabularModel
        Trained on pixels, see :func:`lczcube.models.batches.pixel_batches`, or on
        :func:`lczcube.labels.samples.read_pixels`.
    image : xarray.DataArray
        float32, dims ``(band, y, x)``, names in the coordinate ``band``, NaN where invalid, on
        ``grid.read_geobox(halo_px)``. Any chunks.
    grid : Grid
        Of the map.
    halo_px : int
        Pixels the image reaches past the grid. A pixel is predicted from itself alone: none needed.
    products : tuple of str, optional
        Embedding products of the image. Default: its attribute ``products``.
    confidence : Confidence, optional
        Of the model. Default: probabilities as they are, and nothing else.

    Returns
    -------
    xarray.Dataset
        As :func:`lczcube.models.predict_unet` gives, in chunks of ``grid.chunk_px``. No data where
        all bands are NaN.

    Raises
    ------
    GridMismatchError
        If the image is not on the grid with that halo.
    ModelError
        If bands or products are not those of training.
    """
    values = _pixels(model, image, grid, halo_px, products)
    like = xr.full_like(values.isel(band=0, drop=True), True, dtype=bool)
    return map_dataset(
        lazy_probability(model, values.data, like.data),
        like,
        model.meta,
        grid_json=grid.to_json(),
        confidence=confidence,
        features=values,
    )


def pixel_probability(
    model: TabularModel,
    image: xr.DataArray,
    *,
    grid: Grid,
    halo_px: int = 0,
    products: tuple[str, ...] | None = None,
) -> xr.DataArray:
    """Probabilities of every pixel, float32 ``(lcz_class, y, x)``, NaN for no data.

    Parameters and errors are those of :func:`predict_pixels`.
    """
    values = _pixels(model, image, grid, halo_px, products)
    like = xr.full_like(values.isel(band=0, drop=True), True, dtype=bool)
    probability = lazy_probability(model, values.data, like.data)
    return xr.DataArray(probability, dict(like.coords), dims=("lcz_class", "y", "x"))


def _pixels(
    model: TabularModel,
    image: xr.DataArray,
    grid: Grid,
    halo_px: int,
    products: tuple[str, ...] | None,
) -> xr.DataArray:
    """The pixels that a model is asked about, dims ``(y, x, band)``, in chunks of the grid."""
    named = products if products is not None else products_of(image.attrs)
    require_features(model.meta, [str(band) for band in image["band"].to_numpy()], named)
    values = pixels_of(image, grid.shape, halo_px, where="the map")
    if values.chunks is None:
        return values
    return values.chunk(y=grid.chunk_px, x=grid.chunk_px, band=-1)


def pixels_of(
    image: xr.DataArray, shape: tuple[int, int], halo_px: int, *, where: str
) -> xr.DataArray:
    """The pixels of an image inside its halo, dims ``(y, x, band)``.

    Raises
    ------
    GridMismatchError
        If the image is not ``shape`` pixels and the halo.
    """
    height, width = (n + 2 * halo_px for n in shape)
    if set(image.dims) != {"band", "y", "x"} or (image.sizes["y"], image.sizes["x"]) != (
        height,
        width,
    ):
        raise GridMismatchError(
            f"image of {where} has {dict(image.sizes)}; with {shape[0]} x {shape[1]} pixels and a "
            f"halo of {halo_px} it has bands, y: {height} and x: {width}. Open it on that grid."
        )
    inner = {dim: slice(halo_px, halo_px + n) for dim, n in zip(("y", "x"), shape, strict=True)}
    return image.transpose("y", "x", "band").isel(inner)
