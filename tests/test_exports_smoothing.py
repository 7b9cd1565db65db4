"""The class-wise Gaussian filter, against cases worked by hand and a slow obvious version."""

import math
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from lczcube.errors import LabelError
from lczcube.exports.smoothing import (
    GENERATOR_WIDTHS,
    PUBLISHED_WIDTHS,
    gaussian_filter,
    kernel_row,
)


def filtered(codes: Any, pixel_m: float = 100) -> list[list[int]]:
    given_codes = xr.DataArray(np.array(codes, dtype=np.uint8), dims=("y", "x"))
    found: list[list[int]] = gaussian_filter(given_codes, pixel_m=pixel_m).values.tolist()
    return found


def slow(codes: npt.NDArray[np.uint8], pixel_m: float) -> npt.NDArray[np.uint8]:
    """Pixel by pixel: for each class the weighted share of what its kernel covers and knows."""
    found = np.zeros_like(codes)
    for y, x in zip(*np.nonzero(codes), strict=True):
        best = 0.0
        for code in range(1, 18):
            width = PUBLISHED_WIDTHS[code]
            reach = math.floor(width.radius_m / pixel_m)
            of_class = of_all = 0.0
            for dy in range(-reach, reach + 1):
                for dx in range(-reach, reach + 1):
                    if not (0 <= y + dy < codes.shape[0] and 0 <= x + dx < codes.shape[1]):
                        continue
                    distance2 = (dy**2 + dx**2) * pixel_m**2
                    weight = math.exp(-distance2 / (2 * width.sigma_m**2))
                    of_all += weight * (codes[y + dy, x + dx] > 0)
                    of_class += weight * (codes[y + dy, x + dx] == code)
            if of_class and of_class / of_all > best + 1e-9:
                best, found[y, x] = of_class / of_all, code
    return found


def test_the_widths_are_those_published() -> None:
    sigmas = {code: width.sigma_m for code, width in PUBLISHED_WIDTHS.items()}
    natural = dict.fromkeys(range(11, 17), 75)
    built = dict.fromkeys((2, 3, 4, 5, 6, 7, 9), 150)
    assert sigmas == {1: 100, 8: 250, 10: 250, 17: 25, **built, **natural}


def test_it_gives_the_filtered_band_of_a_real_file_of_the_generator(realdata: Path) -> None:
    """Sydney; 800 m at the edges are left out, past which the Generator saw and we do not."""
    with rasterio.open(realdata / "lcz_maps" / "sydney_generator.tif") as file:
        raw, expected = file.read([1, 2]).astype(np.uint8)
    lcz = xr.DataArray(raw, dims=("y", "x"))
    inside = (slice(8, -8), slice(8, -8))
    found = gaussian_filter(lcz, pixel_m=100, widths=GENERATOR_WIDTHS).values[inside]
    assert (raw != expected)[inside].mean() > 0.1
    assert (found != expected[inside]).sum() < 20
    published = gaussian_filter(lcz, pixel_m=100).values[inside]
    assert 0.998 < (published == expected[inside]).mean() < 0.999


def test_the_kernel_of_100_m_pixels_is_that_worked_by_hand() -> None:
    # LCZ 6, 150 m: exp(-d^2 / 2) at d = 0, 2/3, 4/3, 2 is 1, 0.80074, 0.41111, 0.13534; the sum
    # of all seven is 1 + 2 x 1.34719 = 3.69438.
    expected = np.array([0.13534, 0.41111, 0.80074, 1, 0.80074, 0.41111, 0.13534]) / 3.69438
    np.testing.assert_allclose(kernel_row(PUBLISHED_WIDTHS[6], 100), expected, atol=1e-5)


def test_a_lone_built_pixel_goes_and_two_stay_as_worked_by_hand() -> None:
    # One: LCZ 6 has 1 / 3.69438 = 0.271 of its kernel; LCZ A, 75 m, with weights 1, 0.41111 and
    # 0.02857 that sum to 1.87936, has 0.87936 / 1.87936 = 0.468 of its own.
    assert filtered([[11, 11, 11, 6, 11, 11, 11]]) == [[11] * 7]
    # Two: LCZ 6 has (1 + 0.80074) / 3.69438 = 0.487, LCZ A 0.46825 / 1.87936 = 0.249.
    two = [[11, 11, 11, 6, 6, 11, 11, 11]]
    assert filtered(two) == two


def test_a_lone_pixel_of_water_stays_since_its_kernel_is_narrow() -> None:
    # 50 m of radius are no pixel of 100 m: water keeps all of its kernel, LCZ A has 0.468.
    river = [[11, 11, 11, 17, 11, 11, 11]]
    assert filtered(river) == river


def test_of_equal_classes_the_lowest_code_wins() -> None:
    # The middle pixel of seven belongs to 9; 2 and 3 have the same width and the same weight.
    row = [[2, 2, 2, 9, 3, 3, 3]]
    assert filtered(row)[0][3] == 2
    assert filtered([row[0][::-1]])[0][3] == 2


def test_what_has_no_class_keeps_none_and_pulls_nobody() -> None:
    codes = [[0, 0, 0, 6, 0, 0, 0]]
    assert filtered(codes) == codes


@given(
    codes=st.lists(
        st.lists(st.sampled_from([0, 1, 6, 8, 11, 15, 17]), min_size=9, max_size=9),
        min_size=2,
        max_size=8,
    ),
    pixel_m=st.sampled_from([60.0, 100.0]),
)
@settings(max_examples=15, deadline=None)
def test_it_equals_a_slow_loop(codes: list[list[int]], pixel_m: float) -> None:
    expected = slow(np.array(codes, dtype=np.uint8), pixel_m)
    assert filtered(codes, pixel_m) == expected.tolist()


@given(
    rows=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    columns=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    pixel_m=st.sampled_from([50.0, 100.0]),
    seed=st.integers(0, 99),
)
@settings(max_examples=15, deadline=None)
def test_any_chunking_gives_one_chunk(
    rows: list[int], columns: list[int], pixel_m: float, seed: int
) -> None:
    shape = (sum(rows), sum(columns))
    codes = np.random.default_rng(seed).choice([0, 2, 8, 11, 17], shape).astype(np.uint8)
    chunks = (tuple(rows), tuple(columns))
    lazy = xr.DataArray(da.from_array(codes, chunks=chunks), dims=("y", "x"), attrs={"kept": 1})
    found = gaussian_filter(lazy, pixel_m=pixel_m)
    assert found.chunks == chunks
    assert found.dtype == np.uint8
    assert found.attrs == {"kept": 1}
    assert found.values.tolist() == filtered(codes, pixel_m)


def test_a_lazy_map_is_not_computed() -> None:
    def refuse(block: npt.NDArray[Any]) -> npt.NDArray[Any]:
        raise AssertionError("computed")

    lazy = da.ones((64, 64), chunks=32, dtype=np.uint8).map_blocks(refuse, dtype=np.uint8)
    assert gaussian_filter(xr.DataArray(lazy, dims=("y", "x")), pixel_m=10).chunks is not None


def test_a_code_that_is_no_lcz_is_refused() -> None:
    with pytest.raises(LabelError, match=r"18 \(1 times\)"):
        filtered([[6, 18]])
