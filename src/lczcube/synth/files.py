"""The files of a synthetic city: tiles of codes, the true map, the table of patches."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import rasterio
from affine import Affine
from rasterio.shutil import copy as copy_raster
from rasterio.windows import Window as RasterWindow
from shapely import box

from lczcube import lcz
from lczcube.synth.city import City
from lczcube.synth.embedding import N_BANDS, NODATA_CODE, EmbeddingModel
from lczcube.synth.labels import PATCH_M, splits
from lczcube.synth.zones import PIXEL_M, Window

BLOCK_PX = 64
HALO_PX = 48
OVERLAP_PX = 16
_PART_PX = 256


def tiles(out: Path, city: City, parameters: Mapping[str, Any]) -> list[tuple[Path, Window]]:
    """Path and pixels of each tile; they reach past the city and overlap by 16 pixels."""
    side = parameters["tile_px"]
    step = side - OVERLAP_PX
    covered = city.zone_map.window.grown(HALO_PX)
    epsg = int(city.grid.crs.removeprefix("EPSG:"))
    utm = f"{epsg % 100}{'N' if epsg < 32700 else 'S'}"
    folder = out / "alphaearth" / city.name / "annual" / str(parameters["year"]) / utm
    prefix = f"synthetic{utm.lower()}seed{parameters['seed']}"
    height, width = covered.shape
    found = []
    for y in range(0, max(1, height - OVERLAP_PX), step):
        for x in range(0, max(1, width - OVERLAP_PX), step):
            west, south = covered.x0 + x, covered.y0 + y
            window = Window(west, south, west + side, south + side)
            found.append((folder / f"{prefix}-{y:010d}-{x:010d}.tiff", window))
    return found


def truth_path(out: Path, city: City) -> Path:
    """Path of a city's true map."""
    return out / "truth" / f"{city.name}_lcz.tif"


def labels_path(out: Path, city: City) -> Path:
    """Path of a city's labelled patches."""
    return out / "labels" / f"{city.name}.parquet"


def write_tile(path: Path, window: Window, city: City, model: EmbeddingModel, year: int) -> None:
    """One tile of codes, south-up and planar as the publisher's, written part by part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = window.shape
    profile = {
        "driver": "GTiff",
        "dtype": "int8",
        "count": N_BANDS,
        "height": height,
        "width": width,
        "crs": city.grid.crs,
        "transform": Affine(PIXEL_M, 0, window.x0 * PIXEL_M, 0, PIXEL_M, window.y0 * PIXEL_M),
        "nodata": NODATA_CODE,
        "interleave": "band",
        "tiled": True,
        "blockxsize": BLOCK_PX,
        "blockysize": BLOCK_PX,
        "compress": "zstd",
        "zstd_level": 3,
        "bigtiff": "if_safer",
    }
    with rasterio.open(path, "w", **profile) as tile:
        tile.update_tags(**tags(model.seed), year=str(year))
        tile.descriptions = tuple(f"A{band:02d}" for band in range(N_BANDS))
        for part in window.parts(_PART_PX):
            codes = model.codes(city.zone_map, city.number, part)
            tile.write(codes, window=_raster_window(part, window))


def write_truth(path: Path, city: City, seed: int) -> None:
    """The true map of a city, a north-up COG with its colour table; a striped draft goes before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft.tif")
    window, grid = city.zone_map.window, city.grid
    height, width = window.shape
    profile = {
        "driver": "GTiff",
        "dtype": "uint8",
        "count": 1,
        "height": height,
        "width": width,
        "crs": grid.crs,
        "transform": grid.geobox.affine,
        "nodata": lcz.NODATA,
    }
    with rasterio.open(draft, "w", **profile) as truth:
        truth.update_tags(**tags(seed))
        truth.descriptions = ("lcz",)
        truth.write_colormap(
            1, {code: tuple(rgb) for code, rgb in enumerate(lcz.colors().tolist())}
        )
        for part in window.parts(_PART_PX * 4):
            top = window.y1 - part.y1
            place = RasterWindow(part.x0 - window.x0, top, part.shape[1], part.shape[0])
            truth.write(city.zone_map.truth(part)[::-1], 1, window=place)
    copy_raster(
        draft, path, driver="COG", compress="deflate", blocksize=128, overview_resampling="mode"
    )
    draft.unlink()


def write_labels(path: Path, city: City, seed: int) -> None:
    """The labelled patches of a city, a row each, as GeoParquet in the city's CRS."""
    path.parent.mkdir(parents=True, exist_ok=True)
    patches = city.patches
    columns = {
        "id": [f"{city.name}/{n:06d}" for n in range(len(patches))],
        "lcz": np.array([p.lcz for p in patches], dtype=np.uint8),
        "x0": np.array([p.x0 for p in patches], dtype=np.float64),
        "y0": np.array([p.y0 for p in patches], dtype=np.float64),
        "site": [f"{city.name}/site-{p.site:04d}" for p in patches],
        "split": splits(patches),
        "source": [f"synthetic world, seed {seed}"] * len(patches),
        "synthetic": [True] * len(patches),
    }
    squares = [box(p.x0, p.y0 - PATCH_M, p.x0 + PATCH_M, p.y0) for p in patches]
    frame = gpd.GeoDataFrame(columns, geometry=squares, crs=city.grid.crs)
    frame.to_parquet(path, index=False)


def _raster_window(part: Window, whole: Window) -> RasterWindow:
    """Place of a part in a south-up raster."""
    return RasterWindow(part.x0 - whole.x0, part.y0 - whole.y0, part.shape[1], part.shape[0])


def tags(seed: int) -> dict[str, str]:
    """Tags of every raster of a synthetic world."""
    return {"SYNTHETIC": "true", "source": f"lczcube synthetic world, seed {seed}: not real"}
