"""Window statistics against a slow version of themselves, and the promises about bits and memory.

Arrays are drawn by seed: a failing example is reproduced from the numbers that Hypothesis prints.
"""

import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from lczcube.decoders import Coding
from lczcube.errors import CatalogError, ConfigError, GridMismatchError
from lczcube.kernels import (
    DTYPES,
    count_valid,
    n_columns,
    reduce_windows,
    require_stats,
    valid_mask,
)

TOLERANCE = 2e-6
"""Of the largest value of a window: a few roundings of float32, and no more."""

ALL_STATS = ("mean", "std", "max", "min", "q05", "q50", "q95", "f0", "f-3", "f300")

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Scene:
    """Codes ``(band, y, x)`` with all that is wanted to reduce them."""

    codes: npt.NDArray[Any]
    coding: Coding
    valid: npt.NDArray[np.bool_]
    scales: Float32 | None
    rows: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    size_px: int

    def reduce(self, stats: Sequence[str] = ALL_STATS) -> Float32:
        return reduce_windows(
            self.codes,
            self.coding,
            self.valid,
            self.rows,
            self.columns,
            size_px=self.size_px,
            stats=stats,
            scales=self.scales,
        )

    def reduce_band_last(self, stats: Sequence[str] = ALL_STATS) -> Float32:
        scales = self.scales
        return reduce_windows(
            band_last(self.codes),
            self.coding,
            self.valid,
            self.rows,
            self.columns,
            size_px=self.size_px,
            stats=stats,
            scales=band_last(scales) if scales is not None and scales.ndim == 3 else scales,
            band_last=True,
        )

    def decoded(self) -> Float32:
        scales = self.scales[np.newaxis] if np.ndim(self.scales) == 2 else self.scales
        values = [
            self.coding.decode_band(
                self.codes[b], b, None if scales is None else scales[min(b, len(scales) - 1)]
            )
            for b in range(len(self.codes))
        ]
        return np.where(self.valid, np.array(values, np.float32), np.float32(np.nan))


def band_last(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same pixels, stored as ``(y, x, band)``."""
    return np.ascontiguousarray(np.moveaxis(array, 0, -1))


def coding_of(decoder: str, n_bands: int, rng: np.random.Generator) -> Coding:
    scale = rng.choice([1.0, 0.01, -2.5, 3e-5], n_bands)
    offset = rng.choice([0.0, -7.25, 1000.0], n_bands)
    return Coding(decoder, "nodata", None, tuple(scale.tolist()), tuple(offset.tolist()))


def codes_of(dtype: str, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[Any]:
    """The whole range of an integer dtype, or a few codes of it; floats of one magnitude."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return (rng.normal(size=shape) * 10.0 ** rng.integers(-6, 7)).astype(kind)
    bounds = np.iinfo(kind)
    if rng.random() < 0.3:
        return rng.integers(max(bounds.min, -4), 5, shape).astype(kind)
    return rng.integers(bounds.min, bounds.max, shape, dtype=kind, endpoint=True)


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1), label="seed"))
    n_bands = draw(st.integers(1, 4), label="n_bands")
    shape = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)), label="shape")
    dtype = draw(st.sampled_from(DTYPES), label="dtype")
    decoder = draw(
        st.sampled_from(("linear", "signed_square", "int8_times_scale")), label="decoder"
    )
    share = draw(st.sampled_from((0.0, 0.3, 0.9, 1.0)), label="valid share")
    scales: Float32 | None = None
    if decoder == "int8_times_scale":
        per_band = draw(st.booleans(), label="scales per band")
        scales = rng.uniform(0.001, 1, (n_bands, *shape) if per_band else shape).astype(np.float32)
    n = draw(st.integers(0, 6), label="n_windows")
    return Scene(
        codes_of(dtype, (n_bands, *shape), rng),
        coding_of(decoder, n_bands, rng),
        rng.random(shape) < share,
        scales,
        rng.integers(-45, 45, n),
        rng.integers(-45, 45, n),
        draw(st.integers(1, 45), label="size_px"),
    )


def window_of(array: npt.NDArray[Any], row: int, column: int, size: int) -> npt.NDArray[Any]:
    """Pixels of a window that lie in the array: ``(..., pixel)``, row by row."""
    inside = array[..., max(row, 0) : max(row + size, 0), max(column, 0) : max(column + size, 0)]
    return inside.reshape(*array.shape[:-2], -1)


def slow_statistic(
    stat: str, values: Float32, codes: npt.NDArray[Any], valid: npt.NDArray[np.bool_]
) -> float:
    """One statistic of one band of one window, by its definition."""
    if stat.startswith("f"):
        return float(np.mean(codes[valid] == int(stat[1:]))) if valid.any() else np.nan
    there = values[~np.isnan(values)].astype(np.float64)
    if there.size == 0:
        return np.nan
    if stat.startswith("q"):
        return float(np.quantile(there, int(stat[1:]) / 100))
    return float(getattr(np, stat)(there))


def slow_statistics(
    scene: Scene, stats: Sequence[str] = ALL_STATS
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """All statistics by their definitions, and the largest value behind each; 1 for shares."""
    values = scene.decoded()
    shape = (len(scene.rows), len(stats), len(scene.codes))
    expected, magnitude = np.full(shape, np.nan), np.zeros(shape)
    for i, (row, column) in enumerate(zip(scene.rows, scene.columns, strict=True)):
        of_window = [
            window_of(a, row, column, scene.size_px) for a in (values, scene.codes, scene.valid)
        ]
        for b in range(len(scene.codes)):
            there = np.abs(of_window[0][b])
            magnitude[i, :, b] = np.nanmax(there, initial=0) if there.size else 0
            expected[i, :, b] = [
                slow_statistic(stat, of_window[0][b], of_window[1][b], of_window[2])
                for stat in stats
            ]
    magnitude[:, [stat.startswith("f") for stat in stats]] = 1
    rows = (shape[0], shape[1] * shape[2])
    return expected.reshape(rows), magnitude.reshape(rows)


def assert_same_bits(actual: Float32, expected: Float32) -> None:
    np.testing.assert_array_equal(actual.view(np.uint32), expected.view(np.uint32))


def assert_close(scene: Scene, actual: Float32, stats: Sequence[str] = ALL_STATS) -> None:
    expected, magnitude = slow_statistics(scene, stats)
    assert actual.dtype == np.float32
    assert actual.shape == expected.shape
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
    error = np.nan_to_num(np.abs(actual - expected))
    assert (error <= TOLERANCE * np.maximum(magnitude, 1e-30)).all(), error.max()


@given(scenes())
@settings(deadline=None, max_examples=150)
def test_statistics_are_those_of_the_decoded_pixels(scene: Scene) -> None:
    assert_close(scene, scene.reduce())


@given(scenes())
@settings(deadline=None, max_examples=150)
def test_bands_stored_last_give_the_same_bits(scene: Scene) -> None:
    assert_same_bits(scene.reduce_band_last(), scene.reduce())


@given(scenes(), st.integers(0, 9), st.integers(0, 9))
@settings(deadline=None, max_examples=100)
def test_a_window_has_the_same_bits_in_a_larger_array(scene: Scene, down: int, right: int) -> None:
    rng = np.random.default_rng(1)
    n_bands, n_rows, n_columns = scene.codes.shape
    around = (n_rows + down + 3, n_columns + right + 5)
    inside = (..., slice(down, down + n_rows), slice(right, right + n_columns))
    codes = codes_of(scene.codes.dtype.name, (n_bands, *around), rng)
    codes[inside] = scene.codes
    valid = np.zeros(around, bool)
    valid[inside] = scene.valid
    scales = scene.scales
    if scales is not None:
        scales = np.full((*scales.shape[:-2], *around), np.nan, np.float32)
        scales[inside] = scene.scales
    larger = replace(
        scene,
        codes=codes,
        valid=valid,
        scales=scales,
        rows=scene.rows + down,
        columns=scene.columns + right,
    )
    assert_same_bits(larger.reduce(), scene.reduce())


@given(scenes())
@settings(deadline=None, max_examples=50)
def test_windows_reduced_one_at_a_time_have_the_same_bits(scene: Scene) -> None:
    together = scene.reduce()
    for i in range(len(scene.rows)):
        alone = replace(scene, rows=scene.rows[i : i + 1], columns=scene.columns[i : i + 1])
        assert_same_bits(alone.reduce(), together[i : i + 1])


@given(scenes())
@settings(deadline=None, max_examples=50)
def test_extremes_have_the_bits_that_decoding_gives(scene: Scene) -> None:
    values = scene.decoded()
    extremes = scene.reduce(("max", "min")).reshape(len(scene.rows), 2, len(scene.codes))
    for i, (row, column) in enumerate(zip(scene.rows, scene.columns, strict=True)):
        of_window = window_of(values, row, column, scene.size_px)
        for b in np.flatnonzero(~np.isnan(extremes[i, 0])):
            expected = np.array([np.nanmax(of_window[b]), np.nanmin(of_window[b])], np.float32)
            assert_same_bits(extremes[i, :, b].copy(), expected + np.float32(0))


@given(scenes(), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=50)
def test_integers_of_8_bits_give_the_same_bits_in_any_order(scene: Scene, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(scene.valid.size)
    scene = replace(
        scene,
        codes=codes_of("int8", scene.codes.shape, np.random.default_rng(seed)),
        coding=replace(scene.coding, decoder="signed_square"),
        rows=np.array([0]),
        columns=np.array([0]),
        size_px=40,
    )
    shuffled = replace(
        scene,
        codes=scene.codes.reshape(len(scene.codes), -1)[:, order].reshape(scene.codes.shape),
        valid=scene.valid.ravel()[order].reshape(scene.valid.shape),
    )
    assert_same_bits(shuffled.reduce(), scene.reduce())


@given(scenes())
@settings(deadline=None, max_examples=30)
def test_the_input_is_not_changed(scene: Scene) -> None:
    given_arrays = [scene.codes, scene.valid, scene.rows, scene.columns]
    given_arrays += [] if scene.scales is None else [scene.scales]
    before = [array.copy() for array in given_arrays]
    scene.reduce()
    valid_mask(scene.codes, scene.coding)
    for array, copy in zip(given_arrays, before, strict=True):
        np.testing.assert_array_equal(array, copy)


def plain_scene(dtype: str = "int8", decoder: str = "linear") -> Scene:
    """Two bands of 30 x 50 pixels, nine in ten valid, and the windows of a lattice of 10."""
    rng = np.random.default_rng(3)
    scales = rng.uniform(0.1, 0.9, (30, 50)).astype(np.float32)
    y, x = np.mgrid[0:30:10, 0:50:10].reshape(2, -1)
    return Scene(
        codes_of(dtype, (2, 30, 50), rng),
        coding_of(decoder, 2, rng),
        rng.random((30, 50)) < 0.9,
        scales if decoder == "int8_times_scale" else None,
        y,
        x,
        10,
    )


@pytest.mark.parametrize("decoder", ["signed_square", "int8_times_scale"])
def test_a_lattice_of_cells_is_what_xarray_coarsens(decoder: str) -> None:
    scene = plain_scene(decoder=decoder)
    windows = xr.DataArray(scene.decoded().astype(float), dims=("b", "y", "x")).coarsen(y=10, x=10)
    expected = [getattr(windows, stat)().values for stat in ("mean", "std", "max", "min")]
    actual = scene.reduce(("mean", "std", "max", "min"))
    np.testing.assert_allclose(
        actual, np.array(expected).reshape(8, -1).T, rtol=TOLERANCE, atol=1e-7
    )


def test_windows_at_a_stride_and_patches_share_pixels() -> None:
    y, x = np.mgrid[-5:30:5, -5:50:5].reshape(2, -1)
    scene = replace(plain_scene(), rows=y, columns=x)
    assert_close(scene, scene.reduce())


@pytest.mark.parametrize("decoder", ["linear", "signed_square", "int8_times_scale"])
@pytest.mark.parametrize("stored_last", [False, True])
def test_views_of_any_strides_are_read_as_they_are(decoder: str, stored_last: bool) -> None:
    scene = plain_scene(decoder=decoder)
    expected = scene.reduce()
    rng = np.random.default_rng(4)
    axes = (1, 2, 0) if stored_last else (0, 1, 2)
    wide = rng.integers(-9, 9, (9, 40, 70), dtype=np.int8).transpose(axes).copy()
    by_band = wide.transpose(np.argsort(axes))
    views = [
        by_band[3:5, 4:34, 7:57],
        by_band[3:5, 33:3:-1, 7:57],
        by_band[5:3:-1, 4:34, 56:6:-1],
        by_band[2:8:3, 4:34, 7:57],
        by_band[:2, :30, ::1][..., 10:60],
    ]
    for view in views:
        view[:] = scene.codes
        actual = reduce_windows(
            view.transpose(axes),
            scene.coding,
            np.asfortranarray(scene.valid),
            scene.rows,
            scene.columns,
            size_px=10,
            stats=ALL_STATS,
            scales=None if scene.scales is None else np.asfortranarray(scene.scales),
            band_last=stored_last,
        )
        assert_same_bits(actual, expected)


def test_a_read_only_memory_map_is_reduced_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = plain_scene(decoder="int8_times_scale")
    np.save(tmp_path / "codes.npy", band_last(scene.codes))
    codes = np.load(tmp_path / "codes.npy", mmap_mode="r")[2:20, 3:40]
    scene = replace(scene, codes=scene.codes[:, 2:20, 3:40], valid=scene.valid[2:20, 3:40])
    scene = replace(scene, scales=np.ascontiguousarray(scene.scales[2:20, 3:40]))
    keys: dict[str, Any] = {"size_px": 10, "stats": ("mean", "std"), "scales": scene.scales}
    expected = scene.reduce(("mean", "std"))
    for array in (codes, scene.valid, scene.rows, scene.columns, scene.scales):
        array.flags.writeable = False
    given_arrays = (codes, scene.coding, scene.valid, scene.rows, scene.columns)
    assert_same_bits(reduce_windows(*given_arrays, **keys, band_last=True), expected)


def test_codes_of_the_other_byte_order_are_read() -> None:
    scene = plain_scene("int16")
    swapped = replace(scene, codes=scene.codes.astype(scene.codes.dtype.newbyteorder()))
    assert_same_bits(swapped.reduce(), scene.reduce())


def test_layouts_of_one_dtype_share_one_compiled_version(tmp_path: Path) -> None:
    from lczcube import _window_loops as loops

    scene = plain_scene("uint16")
    np.save(tmp_path / "codes.npy", scene.codes)
    for codes in (scene.codes, scene.codes[::-1], np.load(tmp_path / "codes.npy", mmap_mode="r")):
        replace(scene, codes=codes).reduce()
    compiled = loops.exact_band_first.signatures  # type: ignore[attr-defined]
    assert [s[0].dtype.name for s in compiled].count("uint16") == 1


def test_no_windows_give_no_rows() -> None:
    scene = replace(plain_scene(), rows=np.empty(0, np.int64), columns=np.empty(0, np.int64))
    assert scene.reduce().shape == (0, 20)
    assert count_valid(scene.valid, scene.rows, scene.columns, 10).shape == (0,)


@pytest.mark.parametrize("shape", [(2, 0, 50), (2, 30, 0), (0, 30, 50)])
def test_arrays_without_pixels_or_bands_hold_nothing(shape: tuple[int, int, int]) -> None:
    scene = replace(
        plain_scene(),
        codes=np.empty(shape, np.int8),
        coding=Coding("linear", "nodata", -128, (1,) * shape[0], (0,) * shape[0]),
        valid=np.ones(shape[1:], bool),
    )
    reduced = scene.reduce()
    assert reduced.shape == (15, 10 * shape[0])
    assert np.isnan(reduced).all()
    mask = valid_mask(scene.codes, scene.coding)
    np.testing.assert_array_equal(mask, scene.coding.valid_pixels(scene.codes))


def test_a_window_without_a_valid_pixel_is_nan() -> None:
    scene = plain_scene()
    scene.valid[:10, :10] = False
    reduced = replace(scene, rows=np.array([0, -10, 0]), columns=np.array([0, 0, 10])).reduce()
    assert np.isnan(reduced).all(axis=1).tolist() == [True, True, False]


def test_one_pixel_is_its_own_mean_and_has_no_spread() -> None:
    scene = plain_scene(decoder="signed_square")
    scene.valid[:] = False
    scene.valid[4, 5] = True
    reduced = replace(scene, rows=np.array([0]), columns=np.array([0])).reduce(ALL_STATS[:7])
    value = scene.decoded()[:, 4, 5]
    expected = [value, [0, 0], value, value, value, value, value]
    np.testing.assert_allclose(reduced.reshape(7, 2), expected, rtol=1e-7)


@pytest.mark.parametrize("dtype", ["uint16", "int32", "float32"])
def test_the_spread_of_values_far_from_zero_is_not_lost(dtype: str) -> None:
    rng = np.random.default_rng(0)
    base = 65_000 if dtype == "uint16" else 8_000_000
    codes = (base + rng.integers(0, 3, (1, 40, 40))).astype(dtype)
    scene = replace(
        plain_scene(),
        codes=codes,
        coding=Coding("linear", "nodata", None, (1,), (0,)),
        valid=np.ones((40, 40), bool),
        rows=np.array([0]),
        columns=np.array([0]),
        size_px=40,
    )
    expected = np.std(codes.astype(np.float64))
    for reduced in (scene.reduce(("std",)), scene.reduce_band_last(("std",))):
        np.testing.assert_allclose(reduced, [[expected]], rtol=TOLERANCE)


@pytest.mark.parametrize("code", [255, 254])
def test_sums_of_a_large_window_do_not_overflow(code: int) -> None:
    size = 300  # 90,000 pixels: three runs of the 32-bit sums
    codes = np.full((1, size, size), 65_280 + code, np.uint16)
    codes[0, -1, -1] = 0
    one, at = Coding("linear", "nodata", None, (1,), (0,)), np.array([0])
    scene = Scene(codes, one, np.ones((size, size), bool), None, at, at, size)
    assert_close(scene, scene.reduce())
    assert_same_bits(scene.reduce_band_last(), scene.reduce())


def test_a_value_that_is_nan_in_one_band_is_skipped_in_that_band() -> None:
    scene = plain_scene("float32")
    scene.codes[0, :10, :10] = np.nan
    scene.codes[0, 0, 20] = scene.codes[1, 15, 15] = np.nan
    assert_close(scene, scene.reduce())
    assert_same_bits(scene.reduce_band_last(), scene.reduce())


def test_infinite_values_give_infinite_means_and_no_spread() -> None:
    scene = plain_scene("float32")
    scene = replace(scene, coding=Coding("linear", "nodata", None, (1, 1), (0, 0)))
    scene.valid[:] = True
    scene.codes[0, 0, 0] = scene.codes[0, 3, 13] = np.inf
    reduced = scene.reduce(("mean", "std", "max"))[:2, ::2]
    np.testing.assert_array_equal(reduced, [[np.inf, np.nan, np.inf]] * 2)


def test_zeros_are_positive_whatever_their_order() -> None:
    codes = np.array([[[0.0, -0.0, 0.0, -0.0]]], np.float32)
    one, at = Coding("linear", "nodata", None, (1,), (0,)), np.array([0, 0])
    scene = Scene(codes, one, np.ones((1, 4), bool), None, at, np.array([0, 1]), 3)
    for reduced in (scene.reduce(), scene.reduce_band_last()):
        assert not np.signbit(reduced).any()


@given(scenes(), st.sampled_from(("nodata", "all_bands_nodata")), st.booleans())
@settings(deadline=None, max_examples=150)
def test_the_mask_is_that_of_the_coding(scene: Scene, rule: str, stored_last: bool) -> None:
    codes = scene.codes.copy()
    nodata = codes.flat[0].item()
    codes[:, scene.valid] = nodata
    coding = Coding("linear", rule, nodata, (1,) * len(codes), (0,) * len(codes))
    stored = band_last(codes) if stored_last else codes
    mask = valid_mask(stored, coding, band_last=stored_last)
    np.testing.assert_array_equal(mask, coding.valid_pixels(codes))


@pytest.mark.parametrize("rule", ["nodata", "all_bands_nodata"])
@pytest.mark.parametrize("nodata", [None, np.nan, 0.5, 300, -1, 7, 1e300])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_nodata_that_no_code_can_be_hides_nothing(
    dtype: str, nodata: float | None, rule: str
) -> None:
    codes = np.array([[[7, 7, 1]], [[7, 2, 1]]], dtype)
    if dtype == "float32":
        codes[0, 0, 0] = np.nan
    coding = Coding("linear", rule, nodata, (1, 1), (0, 0))
    with np.errstate(over="ignore"):
        expected = coding.valid_pixels(codes)
    np.testing.assert_array_equal(valid_mask(codes, coding), expected)


def test_the_mask_of_a_finite_scale_reads_scales_per_pixel_or_per_band() -> None:
    codes = np.zeros((2, 1, 4), np.int8)
    coding = Coding("int8_times_scale", "finite_scale", None, (1, 1), (0, 0))
    shared = np.array([[0.5, np.nan, 0.0, 1.0]], np.float32)
    expected = [[True, False, False, False]]
    assert valid_mask(codes, coding, shared).tolist() == expected
    assert valid_mask(band_last(codes), coding, shared, band_last=True).tolist() == expected
    per_band = np.stack([shared, np.array([[np.inf, 0.5, 0.5, 0.5]], np.float32)])
    assert valid_mask(codes, coding, per_band).tolist() == [[False] * 4]
    with pytest.raises(CatalogError, match="without their scales"):
        valid_mask(codes, coding)


@given(scenes())
@settings(deadline=None, max_examples=50)
def test_valid_pixels_are_counted(scene: Scene) -> None:
    counts = count_valid(scene.valid, scene.rows, scene.columns, scene.size_px)
    assert counts.dtype == np.int32
    positions = zip(scene.rows, scene.columns, strict=True)
    expected = [window_of(scene.valid, *at, scene.size_px).sum() for at in positions]
    assert counts.tolist() == expected


def test_columns_are_statistics_then_bands() -> None:
    scene = plain_scene()
    both = scene.reduce(("f0", "max", "mean"))
    assert both.shape[1] == n_columns(("f0", "max", "mean"), 2) == 6
    assert_same_bits(both[:, 2:4].copy(), scene.reduce(("max",)))
    assert_same_bits(both[:, 4:].copy(), scene.reduce(("mean",)))


@pytest.mark.parametrize(
    "stats",
    [(), ("mode",), ("q5",), ("q100",), ("f",), ("f1.5",), ("mean", "mean"), ("q\u0660\u0665",)],
)
def test_statistics_that_are_not_known_are_refused(stats: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"mean, std, max, min, qNN .* fCODE"):
        require_stats(stats)
    with pytest.raises(ConfigError):
        plain_scene().reduce(stats)


@pytest.mark.parametrize("size_px", [0, -3, 40_000])
def test_a_window_of_no_or_too_many_pixels_is_refused(size_px: int) -> None:
    with pytest.raises(ConfigError, match=f"{size_px} px"):
        replace(plain_scene(), size_px=size_px).reduce()


def test_codes_of_another_dtype_are_refused() -> None:
    codes = np.zeros((2, 30, 50), np.int64)
    with pytest.raises(CatalogError, match="int64"):
        replace(plain_scene(), codes=codes).reduce()
    with pytest.raises(CatalogError, match="int64"):
        valid_mask(codes, plain_scene().coding)


def test_codes_that_want_scales_are_refused_without() -> None:
    with pytest.raises(CatalogError, match="without their scales"):
        replace(plain_scene(decoder="int8_times_scale"), scales=None).reduce()


def test_arrays_that_do_not_fit_the_codes_are_refused() -> None:
    scene = plain_scene(decoder="int8_times_scale")
    with pytest.raises(GridMismatchError, match="valid"):
        replace(scene, valid=scene.valid[1:]).reduce()
    with pytest.raises(GridMismatchError, match="scales"):
        replace(scene, scales=np.ones((3, 30, 50), np.float32)).reduce()
    with pytest.raises(GridMismatchError, match="columns"):
        replace(scene, columns=scene.columns[1:]).reduce()
    short = Coding("linear", "nodata", None, (1,), (0,))
    with pytest.raises(GridMismatchError, match="coding"):
        replace(scene, coding=short).reduce()


def test_numba_is_imported_only_to_reduce() -> None:
    program = "import sys, lczcube.kernels; assert not {'numba', 'xarray'} & set(sys.modules)"
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


def test_threads_that_reduce_side_by_side_give_the_same_bits() -> None:
    scene = plain_scene("uint32")
    expected = scene.reduce()
    with ThreadPoolExecutor(4) as pool:
        for reduced in pool.map(lambda _: scene.reduce(), range(40)):
            assert_same_bits(reduced, expected)


def test_functions_compile_where_no_cache_can_be_written() -> None:
    from lczcube._window_loops import _compiled

    names: dict[str, Any] = {}
    exec("def twice(x):\n    return 2 * x", names)  # of no file, so that there is no folder for it
    assert _compiled(names["twice"])(21) == 42
