"""TESSERA's files of synthetic cities: codes, scales, land masks, and the tables beside them.

The same world as the other layers, seen by another instrument: the latent vectors are those of
:mod:`lczcube.synth.embedding`, projected at random into 128 dimensions, with noise of their own.
The best accuracy that the world states holds for it too, but for the sea, which has no scales.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine

from lczcube.grid import project_bbox
from lczcube.sources.tessera_archives import (
    EMBEDDINGS_FOLDER,
    LANDMASK_TABLE,
    LANDMASKS_FOLDER,
    SIDECAR,
)
from lczcube.sources.tessera_tiles import N_BANDS, GridTile, snap_outward
from lczcube.synth.city import City
from lczcube.synth.embedding import N_LATENT, Difficulty, EmbeddingModel, embedding_model
from lczcube.synth.files import HALO_PX, tags
from lczcube.synth.zones import PIXEL_M, Window

VERSION = "0.0"
URL = "s3://lczcube-synthetic.invalid/tessera"
"""Where the manifest says its tiles are: a host that cannot exist."""

GAIN = 20.0
"""Length of a mean vector: scales are then about 0.05, as the publisher's."""

_MAX_CODE = 127
_PART_PX = 256
_STREAM = 2
_EPOCH = "1970-01-01T00:00:00+00:00"

_Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class TesseraModel:
    """The projection of a world's latent vectors into TESSERA's space.

    Attributes
    ----------
    latent : EmbeddingModel
        Means, variation and seed.
    direction : numpy.ndarray
        float64 ``(128,)``, unit: the mean of all embeddings.
    basis : numpy.ndarray
        float64 ``(24, 128)``, orthonormal rows, orthogonal to ``direction``.
    """

    latent: EmbeddingModel
    direction: npt.NDArray[np.float64]
    basis: npt.NDArray[np.float64]

    def codes_and_scales(self, city: City, window: Window) -> tuple[npt.NDArray[np.int8], _Float32]:
        """Codes int8 ``(rows, columns, 128)`` and scales float32 of a window, south to north.

        The scale is NaN on the sea and +inf where nothing was seen; codes are 0 there.
        """
        truth, number = city.zone_map, city.number
        means = (self.direction + self.latent.means[number] @ self.basis).astype(np.float32)
        values = means[truth.classes(window).astype(np.intp) - 1]
        values += self.latent.variation_px(number, window, self.basis)
        values += self.latent.noise_px(number, window, n_bands=N_BANDS, stream=_STREAM)
        values *= np.float32(GAIN)
        scales = np.abs(values).max(axis=-1) / np.float32(_MAX_CODE)
        codes = np.rint(values / scales[..., None]).astype(np.int8)
        is_seen, is_sea = truth.seen(window), truth.sea(window)
        codes[~is_seen | is_sea] = 0
        scales[~is_seen] = np.inf
        scales[is_sea] = np.nan
        return codes, scales


def tessera_model(latent: EmbeddingModel) -> TesseraModel:
    """Draw the projection of a world."""
    rng = np.random.default_rng([latent.seed, len(latent.means), 20])
    frame, _ = np.linalg.qr(rng.standard_normal((N_BANDS, N_LATENT + 1)))
    return TesseraModel(latent, frame[:, 0], frame[:, 1:].T)


def write_tessera(
    out: str | Path,
    cities: Sequence[City],
    *,
    seed: int,
    year: int,
    difficulty: Difficulty | None = None,
    margin_px: int | None = HALO_PX,
) -> list[Path]:
    """Write a synthetic TESSERA archive of cities, in the layout of the publisher's library.

    Parameters
    ----------
    out : str or Path
        Folder to write into.
    cities : sequence of City
        All cities of a world, in order, from :func:`lczcube.synth.draw_city`.
    seed, year, difficulty
        Those of the world.
    margin_px : int or None
        Tiles are cut to the cities and so many pixels around them. None: whole tiles, 0.1 degree a
        side, 0.1 GB each.

    Returns
    -------
    list of Path
        The tiles of codes, by city and name.

    Notes
    -----
    Streams: memory does not grow with a tile.
    """
    out = Path(out)
    model = tessera_model(
        embedding_model(difficulty or Difficulty(), n_cities=len(cities), seed=seed)
    )
    tiles = [
        tile for city in cities for tile in _tiles_of(city, out, year=year, margin_px=margin_px)
    ]
    for tile in tiles:
        _write_tile(tile, model)
        _write_mask(tile, seed)
    _write_tables(out, tiles, seed=seed, year=year)
    return [tile.codes for tile in tiles]


@dataclass(frozen=True, eq=False)
class _Tile:
    """One tile to write: its pixels, the land mask's origin and shape, and its files."""

    tile: GridTile
    city: City
    window: Window
    mask_origin: tuple[float, float]
    mask_shape: tuple[int, int]
    codes: Path
    mask: Path

    @property
    def scales(self) -> Path:
        return self.codes.with_name(f"{self.codes.stem}_scales.npy")


def _tiles_of(city: City, out: Path, *, year: int, margin_px: int | None) -> list[_Tile]:
    margin = HALO_PX if margin_px is None else margin_px
    covered = city.zone_map.window.grown(margin)
    x0, y0, x1, y1 = (float(v * PIXEL_M) for v in (covered.x0, covered.y0, covered.x1, covered.y1))
    west, south, east, north = project_bbox((x0, y0, x1, y1), city.grid.crs, "EPSG:4326")
    first, last = GridTile.at(west, south), GridTile.at(east, north)
    tiles = [
        GridTile(lon_i, lat_i)
        for lon_i in range(first.lon_i, last.lon_i + 1, 10)
        for lat_i in range(first.lat_i, last.lat_i + 1, 10)
    ]
    placed = (
        _placed(tile, city, out, year, None if margin_px is None else covered) for tile in tiles
    )
    return [tile for tile in placed if tile is not None]


def _placed(
    tile: GridTile, city: City, out: Path, year: int, covered: Window | None
) -> _Tile | None:
    """A tile, cut by whole pixels to the covered window: its origin stays as odd as it was."""
    minx, miny, maxx, maxy = tile.projected_bbox()
    left, top = (round(v / PIXEL_M) for v in snap_outward(minx, maxy))
    right, bottom = (round(-v / PIXEL_M) for v in snap_outward(-maxx, -miny))
    whole = window = Window(left, bottom, right, top)
    if covered is not None:
        window = Window(
            max(left, covered.x0),
            max(bottom, covered.y0),
            min(right, covered.x1),
            min(top, covered.y1),
        )
    rows, columns = window.shape
    if rows <= 0 or columns <= 0:
        return None
    cut_rows, cut_columns = whole.y1 - window.y1, window.x0 - whole.x0
    mask_rows, mask_columns = tile.mask_shape()
    return _Tile(
        tile=tile,
        city=city,
        window=window,
        mask_origin=(minx + cut_columns * PIXEL_M, maxy - cut_rows * PIXEL_M),
        mask_shape=(min(rows, mask_rows - cut_rows), min(columns, mask_columns - cut_columns)),
        codes=out / EMBEDDINGS_FOLDER / str(year) / tile.name / f"{tile.name}.npy",
        mask=out / LANDMASKS_FOLDER / f"{tile.name}.tiff",
    )


def _write_tile(tile: _Tile, model: TesseraModel) -> None:
    from numpy.lib.format import open_memmap

    tile.codes.parent.mkdir(parents=True, exist_ok=True)
    window = tile.window
    shape = (*window.shape, N_BANDS)
    codes = open_memmap(tile.codes, mode="w+", dtype=np.int8, shape=shape)
    scales = open_memmap(tile.scales, mode="w+", dtype=np.float32, shape=shape[:2])
    for part in window.parts(_PART_PX):
        rows = slice(window.y1 - part.y1, window.y1 - part.y0)
        columns = slice(part.x0 - window.x0, part.x1 - window.x0)
        part_codes, part_scales = model.codes_and_scales(tile.city, part)
        codes[rows, columns], scales[rows, columns] = part_codes[::-1], part_scales[::-1]
    codes.flush()
    scales.flush()


def _write_mask(tile: _Tile, seed: int) -> None:
    tile.mask.parent.mkdir(parents=True, exist_ok=True)
    rows, columns = tile.mask_shape
    west, north = tile.mask_origin
    land = ~tile.city.zone_map.sea(tile.window)[::-1][:rows, :columns]
    profile = {
        "driver": "GTiff",
        "dtype": "uint8",
        "count": 1,
        "height": rows,
        "width": columns,
        "crs": tile.tile.crs,
        "transform": Affine(PIXEL_M, 0, west, 0, -PIXEL_M, north),
        "compress": "lzw",
    }
    with rasterio.open(tile.mask, "w", **profile) as mask:
        mask.update_tags(**tags(seed))
        mask.write(land.astype(np.uint8), 1)


def _write_tables(out: Path, tiles: Sequence[_Tile], *, seed: int, year: int) -> None:
    import pandas as pd

    variant = f"synthetic-{seed}"
    dataset = f"v0-{variant}"
    manifest = [_manifest_row(tile, variant, f"{URL}/npy/{dataset}", year) for tile in tiles]
    masks = [
        {
            "lon": tile.tile.lon_i / 100,
            "lat": tile.tile.lat_i / 100,
            "file_size": tile.mask.stat().st_size,
            "mtime": pd.Timestamp(_EPOCH),
            "key": f"{URL}/landmasks/v0/{tile.mask.name}",
            "synthetic": True,
        }
        for tile in tiles
    ]
    for name, rows in (("manifest.parquet", manifest), (LANDMASK_TABLE, masks)):
        table = pd.DataFrame(rows)
        table["lon_i"] = np.array([tile.tile.lon_i for tile in tiles], dtype=np.int32)
        table["lat_i"] = np.array([tile.tile.lat_i for tile in tiles], dtype=np.int32)
        table.to_parquet(out / name, index=False)
    (out / SIDECAR).write_text(_sidecar(variant, dataset))


def _manifest_row(tile: _Tile, variant: str, url: str, year: int) -> dict[str, Any]:
    import pandas as pd

    directory = f"{url}/{year}/{tile.tile.name}"
    return {
        "version": VERSION,
        "variant": variant,
        "year": year,
        "lon": tile.tile.lon_i / 100,
        "lat": tile.tile.lat_i / 100,
        "directory": directory,
        "grid_path": f"{directory}/{tile.codes.name}",
        "scales_path": f"{directory}/{tile.scales.name}",
        "grid_mtime": pd.Timestamp(_EPOCH),
        "scales_mtime": pd.Timestamp(_EPOCH),
        "grid_size": tile.codes.stat().st_size,
        "scales_size": tile.scales.stat().st_size,
        "synthetic": True,
    }


def _sidecar(variant: str, dataset: str) -> str:
    said = {
        "dataset_version": VERSION,
        "dataset_version_path": "v0",
        "dataset_variant": variant,
        "dataset_path": dataset,
        "embeddings_subdir": EMBEDDINGS_FOLDER,
        "s3_embeddings_subdir": f"{EMBEDDINGS_FOLDER}.{variant}",
        "source_url_prefix": f"{URL}/npy/{dataset}/",
        "generated_at": _EPOCH,
        "synthetic": True,
    }
    return json.dumps(said, indent=2, sort_keys=True) + "\n"
