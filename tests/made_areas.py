"""A made-up image and its zones, as functions of position alone, for the networks."""

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr

from lczcube.grid import Grid
from lczcube.models import Area, UnetModel, UnetParameters, context_px, fit_unet

Float32 = npt.NDArray[np.float32]
TINY = UnetParameters(
    noise=0.1,
    band_dropout=0,
    dropout=0,
    epochs=25,
    width=6,
    depth=2,
    window_px=16,
    batch=4,
    learning_rate=1e-2,
)
BANDS = ("red", "green")
PRODUCTS = ("made/1",)
HALO = context_px(TINY)


def made_grid(x0: int = 0, y0: int = 0, x1: int = 26, y1: int = 24, chunk_cells: int = 10) -> Grid:
    """Cells of 3 x 3 pixels: neither they nor their chunks are whole pooling blocks of 4 pixels."""
    return Grid("EPSG:32632", (x0, y0, x1, y1), pixel_m=10, cell_m=30, chunk_cells=chunk_cells)


def world(grid: Grid, halo_px: int) -> tuple[Float32, npt.NDArray[np.uint8]]:
    """Image and zones as a function of position alone: stripes 12 pixels wide of three zones."""
    rows, columns = grid.shape
    row = np.arange(-halo_px, rows + halo_px) - grid.cells[3] * grid.cell_px
    column = np.arange(-halo_px, columns + halo_px) + grid.cells[0] * grid.cell_px
    y, x = np.meshgrid(row, column, indexing="ij")
    kind = (x // 12) % 3
    noise = np.sin(12.9898 * x + 78.233 * y) * 0.3
    image = np.stack([kind * 10.0 + noise, 1000 - kind * 300.0 + 40 * np.cos(3.1 * x + 7.7 * y)])
    image[:, (y % 40 == 7) & (x % 9 == 4)] = np.nan
    return image.astype(np.float32), np.array([3, 6, 17], np.uint8)[kind]


def made_image(grid: Grid, halo_px: int = HALO, chunks: int | None = None) -> xr.DataArray:
    values, _ = world(grid, halo_px)
    data = values if chunks is None else da.from_array(values, chunks=(1, chunks, chunks + 3))
    return xr.DataArray(
        data, dims=("band", "y", "x"), coords={"band": list(BANDS)},
        attrs={"products": list(PRODUCTS)},
    )  # fmt: skip


def made_area(grid: Grid, halo_px: int = HALO) -> Area:
    """A label on one pixel in about twelve of the upper half; the rest has none."""
    _, zones = world(grid, 0)
    y, x = np.indices(zones.shape)
    sparse = ((5 * y + 7 * x) % 12 == 0) & (y < zones.shape[0] // 2)
    return Area("made", made_image(grid, halo_px), np.where(sparse, zones, 0).astype(np.uint8),
                halo_px=halo_px)  # fmt: skip


def fit(areas: list[Area], *, seed: int = 0, parameters: UnetParameters = TINY) -> UnetModel:
    return fit_unet(
        areas, seed=seed, bands=BANDS, products=PRODUCTS, parameters=parameters, synthetic=True
    )
