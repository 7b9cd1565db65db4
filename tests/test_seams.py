"""Seams: what is planted in tiles is found, scenes without a fault are silent."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import dask
import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import shapely
import xarray as xr
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from scipy.stats import t as student

from lczcube import edges, seams
from lczcube.decoders import Coding
from lczcube.errors import CatalogError
from lczcube.mosaic import Mosaic, mosaic_array
from lczcube.reader import Storage
from lczcube.seams import SeamReport, find_seams
from lczcube.tiles import Tile, place_tiles
from tests.scenes import CRS

X0, Y0 = 500_000, 5_400_000
MARGIN_PX = 4
"""Pixels of a scene past the frame on all sides, out of which a shifted tile is cut."""

HALVES = ((96,), (96,))
"""Cuts of a scene of 192 pixels into four tiles: 0 and 1 above, 2 and 3 below."""

NINE = ((64, 128), (64, 128))
"""Nine tiles, row by row; tile 4 has neighbours on all sides."""

Codes = npt.NDArray[Any]


@dataclass(frozen=True)
class Fault:
    """What is wrong with one tile: its content comes from ``shift`` (x, y) pixels further."""

    tile: int = 0
    shift: tuple[int, int] = (0, 0)
    gain: float = 1.0
    step: float = 0.0


def field(rng: np.random.Generator, side: int, correlation_px: float) -> Codes:
    """A random field of unit variance, smooth over some pixels, periodic."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None])
    response = np.exp(-2 * (np.pi * correlation_px * frequency) ** 2)
    smooth = np.fft.ifft2(np.fft.fft2(rng.standard_normal((side, side))) * response).real
    return smooth / smooth.std()


def scene_of(
    seed: int, *, correlation_px: float = 2, noise: float = 0.1, n_bands: int = 3, side: int = 192
) -> Codes:
    """int16 codes ``(band, y, x)`` with a margin: mean 5000, standard deviation about 500."""
    rng = np.random.default_rng(seed)
    side += 2 * MARGIN_PX
    values = np.stack([field(rng, side, correlation_px) for _ in range(n_bands)])
    values += noise * rng.standard_normal(values.shape)
    return np.round(5000 + 500 * values).astype(np.int16)


def tile_codes(
    scene: Codes, rows: tuple[int, int], columns: tuple[int, int], fault: Fault, nodata: float
) -> Codes:
    dx, dy = fault.shift
    part = scene[
        :,
        MARGIN_PX + rows[0] + dy : MARGIN_PX + rows[1] + dy,
        MARGIN_PX + columns[0] + dx : MARGIN_PX + columns[1] + dx,
    ]
    changed = part * fault.gain + fault.step
    changed = changed if part.dtype.kind == "f" else np.round(changed)
    return np.where(part == nodata, part, changed).astype(part.dtype)


def cut(
    folder: Path,
    scene: Codes,
    cuts: tuple[Sequence[int], Sequence[int]] = HALVES,
    *,
    fault: Fault | None = None,
    overlap_px: int = 0,
    nodata: float = -1,
    decoder: str = "linear",
    valid: str = "nodata",
    footprints: Mapping[int, shapely.Geometry] | None = None,
) -> xr.Dataset:
    """The cube of a scene cut into tiles, row by row, that reach over the next by some pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, columns = (n - 2 * MARGIN_PX for n in scene.shape[1:])
    tiles: list[Tile] = []
    for top, bottom in pairwise([0, *cuts[0], rows]):
        for left, right in pairwise([0, *cuts[1], columns]):
            number = len(tiles)
            end = min(bottom + overlap_px, rows), min(right + overlap_px, columns)
            own = fault if fault is not None and fault.tile == number else Fault()
            codes = tile_codes(scene, (top, end[0]), (left, end[1]), own, nodata)
            path = folder / f"t{number}.npy"
            np.save(path, codes.transpose(1, 2, 0))
            affine = Affine(10, 0, X0 + 10 * left, 0, -10, Y0 - 10 * top)
            shape = codes.shape[1:]
            place = (f"t{number}", str(path), "npy", CRS, affine, shape, shape)
            tiles.append(Tile(*place, "y,x,band", "", None, (footprints or {}).get(number)))
    frame = GeoBox((rows, columns), Affine(10, 0, X0, 0, -10, Y0), CRS)
    return cube_of(tiles, frame, scene.dtype.name, len(scene), nodata, decoder, valid)


def cube_of(
    tiles: Sequence[Tile],
    frame: GeoBox,
    dtype: str,
    n_bands: int,
    nodata: float,
    decoder: str = "linear",
    valid: str = "nodata",
) -> xr.Dataset:
    coding = Coding(decoder, valid, nodata, (1.0,) * n_bands, (0.0,) * n_bands)
    mosaic = Mosaic(
        name="scene",
        tiles=tuple(place_tiles(tiles, frame)),
        scale_tiles=(),
        frame=frame,
        storage=Storage(dtype, n_bands, nodata),
        coding=coding,
        chunks=((frame.shape[0],), (frame.shape[1],)),
    )
    data = mosaic_array([mosaic], ("band", "y", "x"))
    variable = xr.Variable(("scene_band", "y", "x"), data, coding.to_attrs())
    return xr.Dataset({"scene": variable}, {"scene_band": [f"b{i}" for i in range(n_bands)]})


def touches(report: SeamReport, tile: int) -> list[bool]:
    """Of each seam that was found: whether the tile is one of the two."""
    return [f"t{tile}" in (seam.tile_a, seam.tile_b) for seam in report.found]


def outcomes(
    strategy: st.SearchStrategy[Any], examples: int, judge: Callable[[Any], bool]
) -> list[bool]:
    """What ``judge`` says of that many draws, the same ones each time."""
    said: list[bool] = []

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(drawn: Any) -> None:
        said.append(judge(drawn))

    run()
    return said


def tilings(side: int, least_px: int) -> st.SearchStrategy[tuple[list[int], list[int]]]:
    """One or two cuts each way that leave no tile narrower than ``least_px``."""
    first = st.integers(least_px, side - 2 * least_px)
    two = first.flatmap(
        lambda at: st.integers(at + least_px, side - least_px).map(lambda then: [at, then])
    )
    one = st.integers(least_px, side - least_px).map(lambda at: [at])
    return st.tuples(one | two, one | two)


scenes = st.builds(
    scene_of,
    seed=st.integers(0, 2**32 - 1),
    correlation_px=st.sampled_from([1, 2, 5]),
    noise=st.sampled_from([0, 0.05, 0.1]),
    n_bands=st.sampled_from([3, 6]),
)
"""Scenes with structure enough for an offset to show at an edge of 60 pixels."""

tiles_of_any_tiling = st.integers(0, 3)
shifts = st.sampled_from(edges.SHIFTS)
steps = st.tuples(st.sampled_from([(1.1, 0.0), (0.92, 0.0), (1.0, 400.0)]), st.booleans())


def test_scenes_without_a_fault_are_silent(tmp_path: Path) -> None:
    kinds = st.builds(
        scene_of,
        seed=st.integers(0, 2**32 - 1),
        correlation_px=st.sampled_from([0, 1, 3, 10]),
        noise=st.sampled_from([0, 0.1, 1]),
        n_bands=st.sampled_from([1, 3, 12]),
    )
    overlaps = st.sampled_from([0, 0, 5, 12])
    drawn = st.tuples(kinds, tilings(192, 40), overlaps)
    silent = outcomes(
        drawn,
        60,
        lambda d: not find_seams(cut(tmp_path, d[0], d[1], overlap_px=d[2])).found,
    )
    assert np.mean(silent) >= 0.95


def test_a_tile_that_lies_a_pixel_off_is_found(tmp_path: Path) -> None:
    drawn = st.tuples(scenes, tilings(192, 60), tiles_of_any_tiling, shifts)

    def is_found(drawn: Any) -> bool:
        scene, cuts, tile, shift = drawn
        report = find_seams(cut(tmp_path, scene, cuts, fault=Fault(tile, shift)))
        return bool(report.found) and all(touches(report, tile))

    assert np.mean(outcomes(drawn, 60, is_found)) >= 0.95


def test_a_tile_that_is_brighter_or_darker_is_found(tmp_path: Path) -> None:
    drawn = st.tuples(scenes, tilings(192, 60), tiles_of_any_tiling, steps)

    def is_found(drawn: Any) -> bool:
        scene, cuts, tile, ((gain, step), is_darker) = drawn
        fault = Fault(tile, gain=gain, step=-step if is_darker else step)
        report = find_seams(cut(tmp_path, scene, cuts, fault=fault))
        return bool(report.found) and all(touches(report, tile))

    assert np.mean(outcomes(drawn, 60, is_found)) >= 0.95


@pytest.mark.parametrize("shift", edges.SHIFTS)
def test_moving_a_tile_by_its_shift_mends_it(tmp_path: Path, shift: tuple[int, int]) -> None:
    scene = scene_of(3, correlation_px=1)
    report = find_seams(cut(tmp_path, scene, NINE, fault=Fault(4, shift)))
    assert {seam.verdict for seam in report.found} == {"shift"}
    for seam in report.found:
        assert seam.shift is not None
        dx, dy = seam.shift if seam.tile_b == "t4" else (-seam.shift[0], -seam.shift[1])
        assert (dx, dy) == shift


@pytest.mark.parametrize("overlap_px", [8, 12, 40])
@pytest.mark.parametrize("shift", [(1, 0), (0, -1), (-1, 1), (2, 1)])
def test_an_overlap_tells_the_shift_even_of_noise(
    tmp_path: Path, shift: tuple[int, int], overlap_px: int
) -> None:
    scene = scene_of(0, correlation_px=0, n_bands=1)
    report = find_seams(cut(tmp_path, scene, overlap_px=overlap_px, fault=Fault(0, shift)))
    found = [seam for seam in report.found if seam.tile_a == "t0"]
    assert {seam.tile_b for seam in found} >= {"t1", "t2"}
    assert all(touches(report, 0))
    for seam in found:
        assert seam.method == "overlap"
        assert seam.verdict == "shift"
        assert seam.shift == (-shift[0], -shift[1])
        assert seam.unequal_share is not None
        assert seam.unequal_share > 0.9


def test_an_overlap_tells_step_and_gain(tmp_path: Path) -> None:
    scene = scene_of(1)
    lifted = find_seams(cut(tmp_path, scene, overlap_px=12, fault=Fault(3, step=30)))
    assert [(s.tile_a, s.tile_b, s.verdict, s.step) for s in lifted.found] == [
        ("t1", "t3", "step", 30.0),
        ("t2", "t3", "step", 30.0),
        *([("t0", "t3", "step", 30.0)] if len(lifted.found) == 3 else []),
    ]
    scaled = find_seams(cut(tmp_path, scene, overlap_px=12, fault=Fault(3, gain=1.1)))
    assert [seam.gain for seam in scaled.found] == [pytest.approx(1.1, abs=0.002)] * 2


def test_equal_overlaps_have_no_unequal_code(tmp_path: Path) -> None:
    report = find_seams(cut(tmp_path, scene_of(2), overlap_px=12))
    assert {seam.unequal_share for seam in report.seams} == {0.0}
    assert {seam.verdict for seam in report.seams} == {"none"}


def with_coast(scene: Codes, along: tuple[int, int], *, offset_px: int = 0) -> Codes:
    """Sea, dark and calm, to the left of the middle; the coast leaves it outside some rows."""
    rows, columns = np.mgrid[0 : scene.shape[1], 0 : scene.shape[2]]
    first, last = along[0] + MARGIN_PX, along[1] + MARGIN_PX
    away = np.maximum(0, np.maximum(first - rows, rows - last + 1))
    land = columns >= MARGIN_PX + 96 + offset_px + away
    return np.where(land, scene, 1000 + scene // 5).astype(scene.dtype)


@pytest.mark.parametrize("offset_px", [0, 2])
@pytest.mark.parametrize("seed", range(6))
def test_a_coast_along_less_than_half_of_an_edge_is_no_seam(
    tmp_path: Path, seed: int, offset_px: int
) -> None:
    start = [0, 25, 50][seed % 3]
    coast = with_coast(scene_of(seed), (start, start + 43), offset_px=offset_px)
    assert find_seams(cut(tmp_path, coast)).found == ()


def test_a_coast_along_a_whole_edge_cannot_be_told_from_a_step(tmp_path: Path) -> None:
    report = find_seams(cut(tmp_path, with_coast(scene_of(0), (0, 96))))
    assert ("t0", "t1") in {(seam.tile_a, seam.tile_b) for seam in report.found}


def parcels(seed: int, border_px: int) -> Codes:
    """Fields of a few dozen pixels, with noise, in rows one border of which lies at a pixel."""
    rng = np.random.default_rng(seed)
    side = 192 + 2 * MARGIN_PX
    scene = np.zeros((2, side, side))
    for top in range((border_px + MARGIN_PX) % 34 - 34, side, 34):
        edges = [0, *np.cumsum(rng.integers(15, 40, 14)).tolist()]
        for left, right in pairwise(edges):
            scene[:, max(0, top) : top + 34, left:right] = rng.normal(5000, 500, (2, 1, 1))
    return np.round(scene + rng.normal(0, 30, scene.shape)).astype(np.int16)


@pytest.mark.parametrize("border_px", [91, 94, 95, 97, 98, 99])
def test_parcels_whose_borders_run_near_edges_are_no_seams(tmp_path: Path, border_px: int) -> None:
    for seed in range(5):
        assert find_seams(cut(tmp_path, parcels(seed, border_px))).found == ()


def with_holes(scene: Codes, seed: int) -> Codes:
    clouds = field(np.random.default_rng(seed), scene.shape[1], 12) > 1
    return np.where(clouds, -1, scene).astype(scene.dtype)


def test_pixels_without_data_raise_no_alarm_and_hide_no_fault(tmp_path: Path) -> None:
    for seed in range(5):
        scene = with_holes(scene_of(seed, correlation_px=1), seed + 100)
        assert find_seams(cut(tmp_path, scene)).found == ()
        for fault in (Fault(0, (1, 0)), Fault(0, gain=1.1)):
            report = find_seams(cut(tmp_path, scene, fault=fault))
            assert report.found
            assert all(touches(report, 0))


def test_an_edge_without_data_is_undecided(tmp_path: Path) -> None:
    scene = scene_of(0)
    scene[:, :, MARGIN_PX + 80 :] = -1
    report = find_seams(cut(tmp_path, scene))
    verdicts = {(seam.tile_a, seam.tile_b): seam.verdict for seam in report.seams}
    assert verdicts[("t0", "t1")] == verdicts[("t1", "t3")] == "undecided"
    assert verdicts[("t0", "t2")] == "none"
    assert "3 could not be judged" in report.to_text()


def test_flat_tiles_have_no_offset_and_their_step_is_found(tmp_path: Path) -> None:
    flat = np.full((1, 200, 200), 7, np.int16)
    assert {s.verdict for s in find_seams(cut(tmp_path, flat)).seams} == {"none"}
    report = find_seams(cut(tmp_path, flat, fault=Fault(0, step=2)))
    assert [(s.tile_a, s.tile_b, s.verdict, s.step) for s in report.found] == [
        ("t0", "t1", "step", -2.0),
        ("t0", "t2", "step", -2.0),
    ]


def test_power_says_where_an_offset_would_go_unseen(tmp_path: Path) -> None:
    """On noise only a line that is there twice shows: three of the eight offsets."""
    noise = find_seams(cut(tmp_path, scene_of(0, correlation_px=0, n_bands=1)))
    smooth = find_seams(cut(tmp_path, scene_of(0, correlation_px=3, noise=0)))
    assert [seam.shift_power for seam in noise.seams] == pytest.approx([3 / 8] * 4, abs=0.02)
    assert all(seam.shift_power is not None and seam.shift_power > 0.9 for seam in smooth.seams)


def test_an_edge_that_slants_is_followed(tmp_path: Path) -> None:
    """Two tiles of the whole scene; a line that slants by 40 pixels says which owns what."""
    to_lonlat = Transformer.from_crs(CRS, "EPSG:4326", always_xy=True)
    left, right = X0 - 100, X0 + 2020
    west = shapely.Polygon(
        [(left, Y0 + 100), (X0 + 760, Y0 + 100), (X0 + 1160, Y0 - 2020), (left, Y0 - 2020)]
    )
    east = shapely.box(left, Y0 - 2020, right, Y0 + 100).difference(west)
    scene = scene_of(5, correlation_px=1)
    for fault, n_found in ((Fault(), 0), (Fault(1, (0, 1)), 1), (Fault(1, gain=1.1), 1)):
        tiles = []
        for number, outline in enumerate((west, east)):
            own = fault if number == fault.tile == 1 else Fault()
            codes = tile_codes(scene, (0, 192), (0, 192), own, -1)
            # Past its footprint a tile holds nothing: the edge, not the overlap, is to be judged.
            inside = shapely.contains_xy(
                shapely.buffer(outline, 15),
                *np.meshgrid(X0 + 10 * np.arange(192) + 5, Y0 - 10 * np.arange(192) - 5),
            )
            path = tmp_path / f"t{number}.npy"
            np.save(path, np.where(inside, codes, -1).astype(np.int16).transpose(1, 2, 0))
            footprint = shapely.transform(outline, to_lonlat.transform, interleaved=False)
            affine = Affine(10, 0, X0, 0, -10, Y0)
            # Of another pixel size by less than it matters: not on the lattice, so no overlap.
            tiles.append(
                Tile(
                    f"t{number}",
                    str(path),
                    "npy",
                    CRS,
                    affine * Affine.translation(0.1, 0.1),
                    (192, 192),
                    (192, 192),
                    "y,x,band",
                    "",
                    None,
                    footprint,
                )
            )
        frame = GeoBox((190, 190), Affine(10, 0, X0, 0, -10, Y0), CRS)
        report = find_seams(cube_of(tiles, frame, "int16", 3, -1))
        assert [(s.tile_a, s.side, s.tile_b) for s in report.seams][:1] == [("t0", "east", "t1")]
        assert min(n_found, 1) == min(len(report.found), 1)


def test_a_long_edge_is_read_in_stretches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seams, "STRIP_BYTES", 128 * 3 * 2 * edges.STRIP_PX * 4)
    scene = scene_of(0, side=800)
    assert find_seams(cut(tmp_path, scene, ((400,), (400,)))).found == ()
    for fault in (Fault(3, (1, 1)), Fault(3, gain=1.1)):
        report = find_seams(cut(tmp_path, scene, ((400,), (400,)), fault=fault))
        assert report.found
        assert all(touches(report, 3))


def test_scales_of_codes_are_looked_at_too(tmp_path: Path) -> None:
    scene = (scene_of(0) // 50).astype(np.int8)
    cube = cut(tmp_path, scene, nodata=-128)
    plain = cube["scene"].data.dask.layers[cube["scene"].data.name].mosaics[0]
    scale_tiles = []
    for placed in plain.tiles:
        value = 0.02 if placed.tile.item_id == "t3" else 0.01
        path = tmp_path / f"{placed.tile.item_id}_scales.npy"
        np.save(path, np.full(placed.tile.shape, value, np.float32))
        tile = replace(placed.tile, href=str(path), axes="y,x")
        scale_tiles.append(replace(placed, tile=tile))
    coding = replace(plain.coding, decoder="int8_times_scale", valid="finite_scale", nodata=None)
    mosaic = replace(plain, coding=coding, scale_tiles=tuple(scale_tiles))
    variable = xr.Variable(
        ("scene_band", "y", "x"), mosaic_array([mosaic], ("band", "y", "x")), coding.to_attrs()
    )
    report = find_seams(cube.assign(scene=variable))
    assert [(seam.tile_a, seam.tile_b, seam.verdict) for seam in report.found] == [
        ("t1", "t3", "step"),
        ("t2", "t3", "step"),
    ]


def test_tiles_that_meet_in_a_corner_share_no_edge(tmp_path: Path) -> None:
    cube = cut(tmp_path, scene_of(0))
    mosaic = cube["scene"].data.dask.layers[cube["scene"].data.name].mosaics[0]
    diagonal = replace(mosaic, tiles=(mosaic.tiles[0], mosaic.tiles[3]))
    data = mosaic_array([diagonal], ("band", "y", "x"))
    report = find_seams(cube.assign(scene=(cube["scene"].dims, data, cube["scene"].attrs)))
    assert report.seams == ()
    assert report.to_text().startswith("0 of 0 edges")


def test_dates_and_layers_are_told_apart(tmp_path: Path) -> None:
    cube = cut(tmp_path / "a", scene_of(0))
    faulty = cut(tmp_path / "b", scene_of(1), fault=Fault(0, gain=1.1))
    mosaics = [c["scene"].data.dask.layers[c["scene"].data.name].mosaics[0] for c in (cube, faulty)]
    data = mosaic_array(mosaics, ("time", "band", "y", "x"))
    dates = np.array(["2023-01-01", "2024-01-01"], "datetime64[ns]")
    variable = xr.Variable(("time", "scene_band", "y", "x"), data, cube["scene"].attrs)
    both = xr.Dataset({"scene": variable}, {"time": dates})
    report = find_seams(both, layer="scene")
    assert {seam.date for seam in report.seams} == {"2023-01-01", "2024-01-01"}
    assert {seam.date for seam in report.found} == {"2024-01-01"}


def test_a_report_is_the_same_twice_and_plain(tmp_path: Path) -> None:
    cube = cut(tmp_path, scene_of(0), NINE, fault=Fault(4, (1, 0)))
    keys = dask.base.tokenize(cube["scene"].data)
    first, second = find_seams(cube), find_seams(cube)
    assert first == second
    assert dask.base.tokenize(cube["scene"].data) == keys
    plain = json.loads(json.dumps(first.to_dict(), allow_nan=False))
    assert plain["n_found"] == len(first.found)
    assert len(plain["seams"]) == 12
    text = first.to_text()
    assert f"{len(first.found)} of 12 edges" in text
    assert "shift x -1 y +0 px" in text
    assert f"tile t4: {len(first.found)} of 4" in text


def test_a_layer_that_is_not_there_or_was_changed_is_refused(tmp_path: Path) -> None:
    cube = cut(tmp_path, scene_of(0))
    with pytest.raises(CatalogError, match="no layer 'other'; it has scene"):
        find_seams(cube, layer="other")
    with pytest.raises(CatalogError, match="tiles of layer 'scene' are not known"):
        find_seams(cube.isel(x=slice(10, 100)))


@pytest.mark.parametrize("n_free", [5, 12, 37])
@pytest.mark.parametrize("value", [-3.0, 0.0, 1.0, 4.0, 8.0])
def test_probabilities_are_those_of_student(value: float, n_free: int) -> None:
    assert edges.upper_tail(value, n_free) == pytest.approx(student.sf(value, n_free), rel=0.15)


def test_probabilities_are_corrected_as_holm_does() -> None:
    corrected = seams._holm(np.array([0.01, 0.04, 0.03, math.nan, 0.005]))
    assert corrected[[0, 1, 2, 4]] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert math.isnan(corrected[3])


def read_real(path: Path) -> Codes:
    with rasterio.open(path) as file:
        codes: Codes = file.read()
    return codes


landsat_cuts = [((176, 350), (176, 350)), ((150, 320), (200, 360)), ((260,), (260,))]


@pytest.mark.parametrize("cuts", landsat_cuts)
def test_landsat_of_hong_kong_in_tiles(
    tmp_path: Path, realdata: Path, cuts: tuple[Sequence[int], Sequence[int]]
) -> None:
    scene = read_real(realdata / "hongkong" / "landsat8_36band_100m.tif")
    middle = (len(cuts[1]) + 1) + 1 if len(cuts[0]) == 2 else 0
    assert find_seams(cut(tmp_path, scene, cuts, nodata=0)).found == ()
    for fault in (
        Fault(middle, (1, 0)),
        Fault(middle, (0, -1)),
        Fault(middle, (-1, 1)),
        Fault(middle, gain=1.03),
    ):
        report = find_seams(cut(tmp_path, scene, cuts, nodata=0, fault=fault))
        assert report.found
        assert all(touches(report, middle))
        wanted = "step" if fault.shift == (0, 0) else "shift"
        assert {seam.verdict for seam in report.found} == {wanted}


def test_alphaearth_in_tiles(tmp_path: Path, realdata: Path) -> None:
    path = realdata / "alphaearth" / "aef_2024_wisconsin_utm16n_10m_int8.tif"
    scene = read_real(path)

    def report_of(fault: Fault | None = None) -> SeamReport:
        cuts = ((44,), (44,))
        return find_seams(
            cut(tmp_path, scene, cuts, fault=fault, nodata=-128, decoder="signed_square")
        )

    assert report_of().found == ()
    for fault in (Fault(0, (1, 0)), Fault(0, (0, 1)), Fault(0, (1, 1)), Fault(0, step=4)):
        report = report_of(fault)
        assert report.found
        assert all(touches(report, 0))


def test_enmap_in_tiles(tmp_path: Path, realdata: Path) -> None:
    """224 bands, six of them without data, in halves: an edge of 32 pixels between 16 columns."""
    scene = read_real(realdata / "enmap" / "enmap_potsdam_tile_64_0.tif")
    padded = np.pad(scene, ((0, 0), (MARGIN_PX,) * 2, (MARGIN_PX,) * 2), mode="reflect")

    def verdicts(fault: Fault | None = None) -> list[str]:
        halves = cut(
            tmp_path, padded, ((), (16,)), fault=fault, nodata=-32768, valid="all_bands_nodata"
        )
        return [seam.verdict for seam in find_seams(halves).seams]

    assert verdicts() == ["none"]
    assert verdicts(Fault(1, gain=1.1)) == ["step"]
    assert verdicts(Fault(1, (0, 1))) == ["shift"]
