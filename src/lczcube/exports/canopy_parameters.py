"""Urban canopy parameters by LCZ for WRF, from local building heights: ``ucp.csv`` of w2w.

References
----------
Stewart, I. D. & Oke, T. R. (2012), doi:10.1175/BAMS-D-11-00019.1 (ranges of the published values).
Demuzere, M. et al. (2022). W2W. JOSS 7(76), 4432, doi:10.21105/joss.04432 (the table, and the
published values: ``w2w/resources/LCZ_UCP_lookup.csv``, MIT).
Martilli, A. (2009). On the derivation of input parameters for urban canopy models from urban
morphological datasets. Boundary-Layer Meteorology 130, 301-306, doi:10.1007/s10546-008-9345-4
(the canyon that has a given plan area and wall area).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.io import DatasetReader
from rasterio.windows import Window

from lczcube.errors import SourceError
from lczcube.exports.geotiff import staged, warped
from lczcube.exports.opened import open_raster
from lczcube.exports.product_map import ProductMap, windows
from lczcube.lcz import N_CLASSES, NODATA, ZONES

PARAMETERS = (
    "FRC_URB2D",
    "MH_URB2D_MIN",
    "MH_URB2D",
    "MH_URB2D_MAX",
    "BLDFR_URB2D",
    "H2W",
)
"""Columns of the table, as w2w names and orders them."""

_PUBLISHED = (
    (0.95, 25, 50, 75, 0.5, 2.5),
    (0.9, 10, 17.5, 25, 0.55, 1.25),
    (0.85, 3, 6.5, 10, 0.55, 1.25),
    (0.65, 25, 50, 75, 0.3, 1),
    (0.7, 10, 17.5, 25, 0.3, 0.5),
    (0.6, 3, 6.5, 10, 0.3, 0.5),
    (0.85, 4, 5, 6, 0.75, 1.5),
    (0.85, 3, 6.5, 10, 0.4, 0.2),
    (0.3, 3, 6.5, 10, 0.15, 0.15),
    (0.55, 5, 10, 15, 0.25, 0.35),
    (0, 0, 0, 0, 0, 0),
    (0, 0, 0, 0, 0, 0),
    (0, 0, 0, 0, 0, 0),
    (0, 0, 0, 0, 0, 0),
    (0.95, 0, 0, 0, 0.05, 0),
    (0, 0, 0, 0, 0, 0),
    (0, 0, 0, 0, 0, 0),
)

MIN_BUILDING_M = 2.0
"""Lowest building, m: below it lie walls and noise; LCZ 7 begins at 2 m."""

DEFAULT_MIN_AREA_KM2 = 0.1
"""Ground of a class that its own values need, km2: about one cell of 320 m."""

WALL_PIXEL_M = 5.0
"""Largest pixel that shows walls: streets are wider."""

QUANTILES = (0.05, 0.95)
"""Shares of the built area that lie below the smallest and the largest height: single pixels, a
spire or the foot of a roof, are not the range of a class."""

_MOST_M = 75.0
_BIN_M = 0.1
_N_BINS = 10_000
_STEP_PX = 1024
_ORIENTATION = np.pi / 4
_HEIGHTS = ("MH_URB2D_MIN", "MH_URB2D", "MH_URB2D_MAX")


def published_parameters() -> pd.DataFrame:
    """The values of w2w: rows 1-17, columns :data:`PARAMETERS`; shares, m, and a ratio."""
    return pd.DataFrame(
        _PUBLISHED, index=range(1, N_CLASSES + 1), columns=list(PARAMETERS), dtype=np.float64
    )


@dataclass(frozen=True)
class CanopyParameters:
    """Urban canopy parameters by LCZ.

    Attributes
    ----------
    table : pandas.DataFrame
        Rows 1-17, columns :data:`PARAMETERS`.
    sources : pandas.DataFrame
        Rows 1-17: ``area_km2`` of ground with heights, ``built_km2`` under buildings, then
        ``local`` or ``published`` for each parameter, and a ``note`` where local values were not
        taken.
    """

    table: pd.DataFrame
    sources: pd.DataFrame

    def write(self, path: str | Path) -> tuple[Path, Path]:
        """Write ``ucp.csv`` as w2w's ``--lcz-ucp`` reads it, and ``ucp_sources.csv`` beside it."""
        target = Path(path)
        beside = target.with_name(f"{target.stem}_sources{target.suffix}")
        self.table.round(4).to_csv(target)
        self.sources.round(4).to_csv(beside, index_label="lcz")
        return target, beside


def building_parameters(
    lcz_map: ProductMap,
    heights: str | Path,
    *,
    scratch: str | Path,
    min_area_km2: float = DEFAULT_MIN_AREA_KM2,
    min_building_m: float = MIN_BUILDING_M,
) -> CanopyParameters:
    """Canopy parameters of the built classes from a raster of building heights; reads pixels.

    Parameters
    ----------
    lcz_map : ProductMap
        Says which class a height pixel is of, by the place of its centre.
    heights : str or pathlib.Path
        Raster in metres above ground, 0 where there is no building, in a CRS in metres. A nodata
        value, NaN, and what is below 0 are unknown, and count neither as ground nor as building.
    scratch : str or pathlib.Path
        Folder for a temporary file, removed again.
    min_area_km2 : float
        Ground with known heights that a class needs, km2; with less it keeps the published values.
    min_building_m : float
        Lowest building, m.

    Returns
    -------
    CanopyParameters
        Of classes 1-10: ``MH_URB2D`` is the mean height over built area, ``_MIN`` and ``_MAX`` the
        heights that 5 % and 95 % of it are below (at most 75 m: w2w counts no higher),
        ``BLDFR_URB2D`` the built share of ground, and ``H2W`` that of the street canyon with the
        same built share and wall area. ``FRC_URB2D`` is published for all: heights do not tell it.

    Raises
    ------
    MissingInputError
        If the raster is not there.
    SourceError
        If it cannot be read, is not in metres, or does not overlap the map.

    Notes
    -----
    Walls are the sides between built and unbuilt pixels, as high as the building, times pi / 4:
    steps of pixels are longer than a wall that is turned, by 4 / pi on average over all turns.
    With ``w`` wall area and ``b`` built area per ground, ``H2W = w / (2 (1 - b))`` (Martilli
    2009). It stays published where pixels are over 5 m. A class keeps published values that w2w
    could not use: heights not in order, or a built share of ``FRC_URB2D`` or more. One block of
    1,024 pixels stands in memory at a time.
    """
    with _open_heights(heights) as file:
        geobox = GeoBox((file.height, file.width), file.transform, str(file.crs))
        counts = _Counts(abs(file.transform.a), abs(file.transform.e), min_building_m)
        with (
            staged(Path(scratch), [lcz_map.data["lcz"]], lcz_map.geobox, nodata=NODATA) as plain,
            warped(plain, geobox, Resampling.nearest) as classes,
        ):
            for rows, columns in windows(geobox, _STEP_PX):
                window = _with_neighbours(rows, columns, file)
                codes = classes.read(1, window=window)
                counts.add(codes, _known_heights(file, window), (rows, columns), window)
    if not counts.ground[1:].any():
        raise SourceError(
            f"{heights} has no height where the map has a class; name heights of this city."
        )
    return _parameters(counts, min_area_km2)


@dataclass
class _Counts:
    """Sums over height pixels by class 0-17."""

    dx_m: float
    dy_m: float
    min_building_m: float
    ground: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(N_CLASSES + 1, np.int64))
    walls_m2: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(N_CLASSES + 1))
    sums_m: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(N_CLASSES + 1))
    bins: npt.NDArray[np.int64] = field(
        default_factory=lambda: np.zeros((N_CLASSES + 1, _N_BINS), np.int64)
    )

    def add(
        self,
        codes: npt.NDArray[np.uint8],
        heights: npt.NDArray[np.float32],
        block: tuple[slice, slice],
        window: Window,
    ) -> None:
        """Count a block; codes and heights reach one pixel past it where the raster goes on."""
        rows, columns = (
            slice(part.start - offset, part.stop - offset)
            for part, offset in zip(block, (window.row_off, window.col_off), strict=True)
        )
        known = np.isfinite(heights)
        built = known & (np.nan_to_num(heights) >= self.min_building_m)
        walls = self._walls(heights, known, built)[rows, columns]
        own, built, known = codes[rows, columns], built[rows, columns], known[rows, columns]
        high = heights[rows, columns][built].astype(np.float64)
        n = N_CLASSES + 1
        self.ground += np.bincount(own[known], minlength=n)
        self.walls_m2 += np.bincount(own[built], weights=walls[built], minlength=n)
        self.sums_m += np.bincount(own[built], weights=high, minlength=n)
        bins = np.minimum(high / _BIN_M, _N_BINS - 1).astype(np.int64)
        flat = own[built].astype(np.int64) * _N_BINS + bins
        self.bins += np.bincount(flat, minlength=n * _N_BINS).reshape(n, _N_BINS)

    def _walls(
        self,
        heights: npt.NDArray[np.float32],
        known: npt.NDArray[np.bool_],
        built: npt.NDArray[np.bool_],
    ) -> npt.NDArray[np.float64]:
        """Wall area of each built pixel, m2: of its sides towards unbuilt ones."""
        open_ground = np.pad(known & ~built, 1)
        across = open_ground[1:-1, :-2].astype(np.float64) + open_ground[1:-1, 2:]
        along = open_ground[:-2, 1:-1].astype(np.float64) + open_ground[2:, 1:-1]
        sides_m = across * self.dy_m + along * self.dx_m
        return np.where(built, heights, 0) * sides_m * _ORIENTATION

    @property
    def built(self) -> npt.NDArray[np.int64]:
        """Built pixels by class."""
        return np.asarray(self.bins.sum(axis=1))

    def quantile(self, code: int, share: float) -> float:
        """Height below which a share of the built area of a class lies, m, to 0.1 m."""
        below = np.cumsum(self.bins[code])
        return float((np.searchsorted(below, share * below[-1]) + 0.5) * _BIN_M)


def _open_heights(heights: str | Path) -> DatasetReader:
    file = open_raster(heights, "--heights names a raster of heights")
    if file.crs is None or not file.crs.is_projected or file.crs.linear_units_factor[1] != 1:
        file.close()
        unit = f", in {file.crs.linear_units}" if file.crs and file.crs.is_projected else ""
        raise SourceError(
            f"{heights} is in {file.crs}{unit}; areas of buildings need a CRS in metres. Warp it "
            "first."
        )
    return file


def _with_neighbours(rows: slice, columns: slice, file: DatasetReader) -> Window:
    return Window.from_slices(
        (max(0, rows.start - 1), min(file.height, rows.stop + 1)),
        (max(0, columns.start - 1), min(file.width, columns.stop + 1)),
    )


def _known_heights(file: DatasetReader, window: Window) -> npt.NDArray[np.float32]:
    heights: npt.NDArray[np.float32] = file.read(1, window=window).astype(np.float32)
    unknown = heights < 0
    if file.nodata is not None:
        unknown |= heights == np.float32(file.nodata)
    heights[unknown] = np.nan
    return heights


def _parameters(counts: _Counts, min_area_km2: float) -> CanopyParameters:
    table = published_parameters()
    pixel_km2 = counts.dx_m * counts.dy_m / 1e6
    sources = pd.DataFrame(
        {
            "area_km2": counts.ground[1:] * pixel_km2,
            "built_km2": counts.built[1:] * pixel_km2,
            **dict.fromkeys(PARAMETERS, "published"),
            "note": "",
        },
        index=table.index,
    )
    for zone in (z for z in ZONES if z.is_built):
        for name, value, note in _local(counts, zone.code, min_area_km2):
            if note:
                sources.loc[zone.code, "note"] = "; ".join(
                    part for part in (sources.loc[zone.code, "note"], note) if part
                )
            else:
                table.loc[zone.code, name] = value
                sources.loc[zone.code, name] = "local"
    return CanopyParameters(table, sources)


def _local(counts: _Counts, code: int, min_area_km2: float) -> Iterator[tuple[str, float, str]]:
    """Name and local value of each parameter of a class, or why there is none."""
    area_km2 = counts.ground[code] * counts.dx_m * counts.dy_m / 1e6
    n_built = int(counts.built[code])
    if area_km2 < min_area_km2:
        yield "", 0, f"{area_km2:.3f} km2 with heights, under {min_area_km2:g}"
        return
    if not n_built:
        yield "", 0, "no building"
        return
    low, high = (counts.quantile(code, share) for share in QUANTILES)
    mean, high = float(counts.sums_m[code] / n_built), min(high, _MOST_M)
    if low < mean < high:
        yield from ((n, v, "") for n, v in zip(_HEIGHTS, (low, mean, high), strict=True))
    else:
        yield "", 0, f"heights {low:.1f}, {mean:.1f}, {high:.1f} m are not in order"
    share = n_built / int(counts.ground[code])
    most = float(_PUBLISHED[code - 1][0])
    if share >= most:
        yield "", 0, f"built share {share:.2f} is not below FRC_URB2D {most:g}"
        return
    yield "BLDFR_URB2D", share, ""
    if max(counts.dx_m, counts.dy_m) > WALL_PIXEL_M:
        yield "", 0, f"walls need pixels of {WALL_PIXEL_M:g} m or less"
        return
    walls = counts.walls_m2[code] / (counts.ground[code] * counts.dx_m * counts.dy_m)
    yield "H2W", float(walls / (2 * (1 - share))), ""
