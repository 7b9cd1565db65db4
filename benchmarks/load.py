"""Loading embeddings: lczcube's graph, odc-stac and plain rasterio on the same files, in one run.

    python benchmarks/load.py

Four GeoTIFFs of 1024 x 1024 pixels and 64 bands of int8 codes, zstd, blocks of 512, are made in a
temporary folder, stored south-up as AlphaEarth's are. A grid of 1984 x 1984 pixels over all four
is loaded in chunks of 640 that line up with no block. "rasterio" reads each file whole, once, in as
many threads: what there is to gain. Each path is timed in turn, the best of the repeats; the codes
must be equal. Times move with the machine, on a busy one those of the processor least; ratios,
tasks and blocks do not.

A block is what is compressed together. Decoded blocks are counted from the windows that a path
reads: a warp's windows may be larger, so those of odc-stac on south-up files are a lower bound.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import numpy as np
import numpy.typing as npt
import odc.stac
import rasterio
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from odc.loader import RasterLoadParams, RasterSource, RioDriver, RioReader

from lczcube.catalog import build_catalog, open_catalog
from lczcube.cube import open_cube
from lczcube.engines import load_odc
from lczcube.grid import Grid
from lczcube.mosaic import Mosaic, mosaics_of
from lczcube.tiles import PlacedTile, Rect

CRS = "EPSG:32632"
X0, Y0 = 500_070, 5_400_110
SIDE_PX = 1024
BLOCK_PX = 512
NODATA = -128
BASE = "rasterio"

INPUT = """id = "benchmark"
[[input]]
name = "aef"
source = "raster"
href = "*.tif"
year = 2024
layer = "embedding"
product = "benchmark/1"
decoder = "signed_square"
valid = "all_bands_nodata"
"""


def main() -> None:
    options = parsed_options()
    for interleave in options.interleave:
        with tempfile.TemporaryDirectory() as folder, dask_threads(options.threads):
            write_tiles(Path(folder), interleave, options)
            scene = open_scene(Path(folder), interleave, options)
            print_table(scene, measure(scene, options.repeats))


def parsed_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--interleave", nargs="+", default=["band", "pixel"])
    parser.add_argument("--north-up", action="store_true", help="store the files north-up")
    parser.add_argument("--bands", type=int, default=64)
    parser.add_argument("--chunk-cells", type=int, default=20, help="cells of 32 pixels")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-per-band", action="store_true", help="leave the slowest path out")
    return parser.parse_args()


@contextmanager
def dask_threads(n_threads: int) -> Iterator[None]:
    with dask.config.set(scheduler="threads", num_workers=n_threads):
        yield


def write_tiles(folder: Path, interleave: str, options: argparse.Namespace) -> None:
    """Two by two tiles of smooth codes with noise, as compressible as an embedding."""
    rng = np.random.default_rng(0)
    base = rng.normal(0, 30, (options.bands, SIDE_PX // 8, SIDE_PX // 8))
    profile = {"driver": "GTiff", "count": options.bands, "dtype": "int8", "nodata": NODATA}
    size = {"height": SIDE_PX, "width": SIDE_PX, "crs": CRS}
    layout = {"tiled": True, "blockxsize": BLOCK_PX, "blockysize": BLOCK_PX, "compress": "zstd"}
    for row in range(2):
        for column in range(2):
            left, top = X0 + column * SIDE_PX * 10, Y0 - row * SIDE_PX * 10
            affine = Affine(10, 0, left, 0, -10, top)
            if not options.north_up:
                affine = Affine(10, 0, left, 0, 10, top - SIDE_PX * 10)
            codes = np.stack([noisy(band, rng) for band in base])
            path = folder / f"{row}{column}.tif"
            with rasterio.open(
                path, "w", transform=affine, interleave=interleave, **profile, **size, **layout
            ) as file:
                file.write(codes)


def noisy(band: npt.NDArray[Any], rng: np.random.Generator) -> npt.NDArray[np.int8]:
    values = band.repeat(8, 0).repeat(8, 1) + rng.normal(0, 6, (SIDE_PX, SIDE_PX))
    return np.clip(values, -127, 127).astype(np.int8)


@dataclass(frozen=True)
class Scene:
    """Files, the cube over them, and what is compared on them."""

    cube: xr.Dataset
    mosaic: Mosaic
    items: list[Any]
    is_planar: bool
    north_up: bool
    threads: int
    with_per_band: bool

    @property
    def names(self) -> list[str]:
        return [str(name) for name in self.cube["aef_band"].values]


def open_scene(folder: Path, interleave: str, options: argparse.Namespace) -> Scene:
    (folder / "catalog.toml").write_text(INPUT)
    build_catalog(folder / "catalog.toml", folder / "catalog")
    catalog = open_catalog(folder / "catalog" / "catalog.json")
    x, y, n_cells = X0 // 320 + 1, (Y0 - 2 * SIDE_PX * 10) // 320 + 1, 2 * SIDE_PX // 32 - 2
    grid = Grid(CRS, (x, y, x + n_cells, y + n_cells), chunk_cells=options.chunk_cells)
    cube = open_cube(catalog, grid, inputs=["aef"], year=2024)
    return Scene(
        cube=cube,
        mosaic=mosaics_of(cube["aef"].data)[0],
        items=catalog.items("aef"),
        is_planar=interleave == "band",
        north_up=options.north_up,
        threads=options.threads,
        with_per_band=not options.no_per_band,
    )


@dataclass(frozen=True)
class LoadPath:
    """One way to load: opens lazily, and the windows it reads."""

    name: str
    open: Callable[[Scene], Any]
    windows: Callable[[Scene], list[tuple[PlacedTile, Rect]]]
    is_per_band: bool = False


def native(scene: Scene) -> xr.DataArray:
    return scene.cube["aef"]


def odc_one_variable(scene: Scene) -> xr.DataArray:
    mosaic = scene.mosaic
    return load_odc([scene.items], mosaic.storage, scene.names, mosaic.frame, mosaic.chunks)


def odc_driver(scene: Scene) -> xr.DataArray:
    """What the issue names: odc-stac with a driver and a fuser of one's own."""
    n_bands = scene.mosaic.storage.n_bands
    asset = {"data_type": "int8", "nodata": NODATA, "dims": ["band", "y", "x"]}
    return odc.stac.load(
        scene.items,
        bands=["data"],
        geobox=scene.mosaic.frame,
        chunks=side_of_chunk(scene),
        driver=PasteDriver(),
        fuse_func=f"{__name__}.paste",
        stac_cfg={"*": {"dims": {"band": n_bands}, "assets": {"data": asset}}},
    )["data"]


def odc_per_band(scene: Scene) -> xr.Dataset:
    names = [f"data.{i}" for i in range(1, scene.mosaic.storage.n_bands + 1)]
    frame = scene.mosaic.frame
    return odc.stac.load(scene.items, bands=names, geobox=frame, chunks=side_of_chunk(scene))


def side_of_chunk(scene: Scene) -> dict[str, int]:
    return {"y": max(scene.mosaic.chunks[0]), "x": max(scene.mosaic.chunks[1])}


class PasteDriver(RioDriver):
    """Reads a tile of the frame's lattice as it lies, flipped where it is stored south-up."""

    def open(self, src: RasterSource, ctx: Any) -> "PasteReader":
        return PasteReader(src, ctx)


class PasteReader(RioReader):
    def read(
        self, cfg: RasterLoadParams, dst_geobox: GeoBox, **_options: Any
    ) -> tuple[tuple[slice, slice], npt.NDArray[Any]]:
        with rasterio.open(self._src.uri, sharing=False) as file:
            box = file.bounds
            corner = ~dst_geobox.affine * (box.left, max(box.top, box.bottom))
            left, top = (round(v) for v in corner)
            rows, columns = dst_geobox.shape
            y0, y1 = max(top, 0), min(top + file.height, rows)
            x0, x1 = max(left, 0), min(left + file.width, columns)
            south_up = file.transform.e > 0
            stored = (file.height + top - y1, file.height + top - y0)
            window = (stored if south_up else (y0 - top, y1 - top), (x0 - left, x1 - left))
            codes = file.read(window=window, out_dtype=cfg.dtype)
        return (slice(y0, y1), slice(x0, x1)), codes[:, ::-1] if south_up else codes


def paste(dst: npt.NDArray[Any], src: npt.NDArray[Any]) -> None:
    np.copyto(dst, src)


def windows_of_slabs(scene: Scene) -> list[tuple[PlacedTile, Rect]]:
    tiles = scene.mosaic.tiles
    return [(tiles[i], slab.rect) for slab in scene.mosaic.slabs for i in slab.owners]


def windows_of_chunks(scene: Scene) -> list[tuple[PlacedTile, Rect]]:
    return [(tile, rect) for rect in scene.mosaic.chunk_rects for tile in scene.mosaic.tiles]


PATHS = (
    LoadPath("lczcube graph", native, windows_of_slabs),
    LoadPath("odc-stac, driver and fuser", odc_driver, windows_of_chunks),
    LoadPath("odc-stac, one variable", odc_one_variable, windows_of_chunks),
    LoadPath("odc-stac, a variable a band", odc_per_band, windows_of_chunks, is_per_band=True),
)


def n_blocks(scene: Scene, windows: Sequence[tuple[PlacedTile, Rect]], per_band: bool) -> int:
    """Blocks decoded by reads of windows of the frame."""
    n_bands = scene.mosaic.storage.n_bands
    spatial = sum(blocks_across(tile, rect) for tile, rect in windows)
    return spatial * (n_bands if scene.is_planar or per_band else 1)


def blocks_across(placed: PlacedTile, rect: Rect) -> int:
    part = rect.meet(placed.bounds)
    if part.is_empty:
        return 0
    rows, columns = part.within(placed.bounds)
    if placed.tile.affine.e > 0:
        rows = slice(placed.tile.shape[0] - rows.stop, placed.tile.shape[0] - rows.start)
    heights, widths = placed.tile.block_shape
    return (-(-rows.stop // heights) - rows.start // heights) * (
        -(-columns.stop // widths) - columns.start // widths
    )


def rasterio_once(scene: Scene) -> npt.NDArray[np.int8]:
    whole = np.empty((scene.mosaic.storage.n_bands, 2 * SIDE_PX, 2 * SIDE_PX), np.int8)

    def read(placed: PlacedTile) -> None:
        with rasterio.open(placed.tile.href) as file:
            codes = file.read()
        top = 0 if placed.bounds.top < SIDE_PX // 2 else SIDE_PX
        left = 0 if placed.bounds.left < SIDE_PX // 2 else SIDE_PX
        turned = codes if scene.north_up else codes[:, ::-1]
        whole[:, top : top + SIDE_PX, left : left + SIDE_PX] = turned

    with ThreadPoolExecutor(scene.threads) as pool:
        list(pool.map(read, scene.mosaic.tiles))
    return whole


@dataclass
class Result:
    n_tasks: int
    n_decoded: int
    seconds: float = float("inf")
    cpu_seconds: float = float("inf")

    def timed(self, load: Callable[[], Any]) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        loaded = load()
        self.seconds = min(self.seconds, time.perf_counter() - wall)
        self.cpu_seconds = min(self.cpu_seconds, time.process_time() - cpu)
        return loaded


def measure(scene: Scene, repeats: int) -> dict[str, Result]:
    """Each path in turn, ``repeats`` times; a variable a band, the slowest, once."""
    bounds = scene.mosaic.tiles[0].bounds
    rows, columns = scene.mosaic.frame.shape
    inner = (slice(-bounds.top, rows - bounds.top), slice(-bounds.left, columns - bounds.left))
    touched = [(tile, tile.bounds.meet(Rect(0, 0, rows, columns))) for tile in scene.mosaic.tiles]
    results = {BASE: Result(0, n_blocks(scene, touched, per_band=False))}
    for path in PATHS:
        if scene.with_per_band or not path.is_per_band:
            n_decoded = n_blocks(scene, path.windows(scene), path.is_per_band)
            results[path.name] = Result(len(path.open(scene).__dask_graph__()), n_decoded)
    for repeat in range(repeats):
        expected = results[BASE].timed(lambda: rasterio_once(scene))[:, *inner]
        for path in PATHS:
            if path.name in results and not (path.is_per_band and repeat):
                loaded = results[path.name].timed(lambda path=path: path.open(scene).compute())
                require_equal(loaded, expected)
    return results


def require_equal(loaded: xr.DataArray | xr.Dataset, expected: npt.NDArray[np.int8]) -> None:
    if isinstance(loaded, xr.Dataset):
        for band, variable in enumerate(loaded.data_vars.values()):
            np.testing.assert_array_equal(variable.values[0], expected[band])
    else:
        np.testing.assert_array_equal(loaded.values[0], expected)


def print_table(scene: Scene, results: dict[str, Result]) -> None:
    base = results[BASE]
    interleave = "planar" if scene.is_planar else "pixel-interleaved"
    stored = "north-up" if scene.north_up else "south-up"
    print(f"\n{interleave}, {stored}, {scene.threads} threads, {base.n_decoded} blocks touched\n")
    print("| path | s | to rasterio | CPU s | to rasterio | tasks | decoded / touched |")
    print("|---|---|---|---|---|---|---|")
    for name, result in results.items():
        wall, cpu = result.seconds / base.seconds, result.cpu_seconds / base.cpu_seconds
        print(
            f"| {name} | {result.seconds:.2f} | {wall:.1f} | {result.cpu_seconds:.2f} | {cpu:.1f} "
            f"| {result.n_tasks} | {result.n_decoded / base.n_decoded:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
