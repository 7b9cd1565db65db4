"""Blocks of an image with a margin around each, so that a result does not end at its block."""

from typing import Any

import numpy as np
import xarray as xr

from lczcube.errors import GridMismatchError
from lczcube.grid import Grid

Sizes = tuple[tuple[int, ...], tuple[int, ...]]


def to_margin(image: xr.DataArray, *, halo_px: int, margin_px: int) -> Any:
    """An image cropped, or padded with NaN, from its halo to a margin; lazy.

    Parameters
    ----------
    image : xarray.DataArray
        float32, dims ``(band, y, x)``, reaching ``halo_px`` past a grid on each side.
    halo_px, margin_px : int
        Of the image, and of what is given back.

    Returns
    -------
    dask.array.Array
        All bands in one chunk.
    """
    import dask.array as da

    values = da.asarray(image.data).rechunk({0: -1})
    if halo_px >= margin_px:
        spare = halo_px - margin_px
        inner = slice(spare, -spare or None)
        return values[:, inner, inner]
    missing = margin_px - halo_px
    pad = ((0, 0), (missing, missing), (missing, missing))
    return da.pad(values, pad, mode="constant", constant_values=np.nan)


def with_margins(values: Any, *, margin_px: int, sizes: Sizes) -> Any:
    """An array in blocks that overlap; lazy.

    Parameters
    ----------
    values : dask.array.Array
        ``(band, y, x)``, reaching ``margin_px`` past a grid on each side; one chunk of bands.
    margin_px : int
        By which each block reaches into its neighbours.
    sizes : tuple
        Rows and columns of the blocks without their margin, which together make the grid. None is
        smaller than the margin, but for the last.
    """
    import dask.array as da

    read = tuple(
        (part[0] + 2 * margin_px,)
        if len(part) == 1
        else (part[0] + margin_px, *part[1:-1], part[-1] + margin_px)
        for part in sizes
    )
    depth = {0: 0, 1: margin_px, 2: margin_px}
    return da.overlap.overlap(values.rechunk({1: read[0], 2: read[1]}), depth, "none")


def block_sizes(n_px: int, *, chunk_px: int, margin_px: int, block_px: int = 0) -> tuple[int, ...]:
    """Whole chunks along a block: up to ``block_px``, and as many as the margin asks for."""
    n_chunks = max(block_px // chunk_px, -(-margin_px // chunk_px), 1)
    n_whole, rest = divmod(n_px, n_chunks * chunk_px)
    return (n_chunks * chunk_px,) * n_whole + ((rest,) if rest else ())


def starts_of(grid: Grid, sizes: Sizes) -> tuple[tuple[int, ...], ...]:
    """First row and column of each block, in pixels from the grid's anchor, southwards and east."""
    x0, _, _, y1 = grid.cells
    first = (-y1 * grid.cell_px, x0 * grid.cell_px)
    return tuple(
        tuple(int(v) for v in at + np.concatenate([[0], np.cumsum(part)[:-1]]))
        for at, part in zip(first, sizes, strict=True)
    )


def require_image(image: xr.DataArray, grid: Grid, *, halo_px: int, least_px: int) -> None:
    """Raise unless an image lies on the grid with a halo that is large enough.

    Raises
    ------
    GridMismatchError
        Naming shapes, or the halo to open the cube with.
    """
    wanted = tuple(n + 2 * halo_px for n in grid.shape)
    if image.dims != ("band", "y", "x") or image.shape[1:] != wanted:
        raise GridMismatchError(
            f"image has dims {image.dims} and shape {image.shape}; on this grid with a halo of "
            f"{halo_px} px it is ('band', 'y', 'x'), (bands, {wanted[0]}, {wanted[1]})."
        )
    if halo_px < least_px:
        raise GridMismatchError(
            f"image reaches {halo_px} px past the grid and the model sees {least_px}; "
            f"open the cube with halo_px={least_px}."
        )
