from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from lczcube.decoders import Coding
from lczcube.errors import CatalogError


def coding(**keys: Any) -> Coding:
    given = {"decoder": "linear", "valid": "nodata", "nodata": None, "scale": (1,), "offset": (0,)}
    return Coding(**(given | keys))


def two_bands(first: list[float], second: list[float], dtype: str) -> npt.NDArray[Any]:
    """Codes of two bands of one row, dims (band, y, x)."""
    return np.array([[first], [second]], dtype=dtype)


def test_linear_codes_are_scaled_and_shifted_band_by_band() -> None:
    codes = two_bands([1, 2], [3, 4], "int16")
    values = coding(scale=(0.5, 2), offset=(0, -1)).decode(codes)
    assert values.dtype == np.float32
    assert values.tolist() == [[[0.5, 1.0]], [[5.0, 7.0]]]


def test_signed_square_codes_follow_the_rule_of_alphaearth() -> None:
    codes = np.array([[[-127, -51, 0, 51, 127]]], dtype=np.int8)
    values = coding(decoder="signed_square", nodata=-128).decode(codes)
    expected = [-((127 / 127.5) ** 2), -0.16, 0, 0.16, (127 / 127.5) ** 2]
    np.testing.assert_allclose(values[0, 0], expected, rtol=1e-6)


def test_one_band_of_nodata_makes_a_pixel_invalid() -> None:
    codes = two_bands([9, 0, 0], [9, 9, 0], "uint8")
    assert coding(nodata=0).valid_pixels(codes).tolist() == [[True, False, False]]


def test_only_all_bands_of_nodata_make_a_pixel_invalid_under_that_rule() -> None:
    codes = two_bands([9, 0, 0], [9, 9, 0], "uint8")
    rule = coding(nodata=0, valid="all_bands_nodata")
    assert rule.valid_pixels(codes).tolist() == [[True, True, False]]


def test_an_invalid_pixel_is_nan_in_every_band() -> None:
    codes = two_bands([9, 0], [9, 9], "uint8")
    values = coding(nodata=0, scale=(1, 1), offset=(0, 0)).decode(codes)
    np.testing.assert_array_equal(values, [[[9, np.nan]], [[9, np.nan]]])


def test_nan_codes_are_nodata_beside_the_stated_nodata() -> None:
    codes = np.array([[[1, np.nan, -9999]]], dtype=np.float32)
    assert coding(nodata=-9999).valid_pixels(codes).tolist() == [[True, False, False]]


def test_nan_as_nodata_is_nodata() -> None:
    codes = np.array([[[1, np.nan]]], dtype=np.float32)
    assert coding(nodata=float("nan")).valid_pixels(codes).tolist() == [[True, False]]


def test_a_float32_nodata_equals_its_stored_code() -> None:
    lowest = float(np.finfo(np.float32).min)
    codes = np.array([[[lowest, 1]]], dtype=np.float32)
    assert coding(nodata=lowest).valid_pixels(codes).tolist() == [[False, True]]


def test_without_nodata_every_integer_code_is_valid() -> None:
    codes = np.zeros((1, 2, 2), np.uint8)
    assert coding().valid_pixels(codes).all()


def test_dates_are_decoded_each_with_its_own_validity() -> None:
    codes = np.arange(2 * 3 * 2 * 2, dtype=np.int16).reshape(2, 3, 2, 2)
    rule = coding(nodata=13, scale=(1, 1, 1), offset=(0, 0, 0))
    values = rule.decode(codes)
    expected = codes.astype(np.float32)
    expected[1, :, 0, 1] = np.nan
    np.testing.assert_array_equal(values, expected)


def test_decoding_leaves_the_codes_as_they_were() -> None:
    codes = two_bands([9.0, 0.0], [9.0, np.nan], "float32")
    before = codes.copy()
    coding(nodata=0, scale=(1, 1), offset=(0, 0)).decode(codes)
    np.testing.assert_array_equal(codes, before)


@pytest.mark.parametrize("nodata", [None, -128.0])
def test_a_coding_comes_back_from_its_attributes(nodata: float | None) -> None:
    given = coding(nodata=nodata, scale=(0.5, 2.0), offset=(0.0, 1.0))
    assert Coding.from_attrs(given.to_attrs()) == given


@pytest.mark.parametrize("key", ["decoder", "valid"])
def test_an_unknown_rule_is_refused_with_the_known_ones(key: str) -> None:
    with pytest.raises(CatalogError, match=f"{key} 'cubic' is unknown .* known: "):
        coding(**{key: "cubic"})


def test_codes_times_scale_are_valid_where_the_scale_is_usable() -> None:
    codes = np.array([[[2, -128, 3, 0, 5, 6]], [[1, 1, 1, 1, 1, 1]]], np.int8)
    scales = np.array([[[0.5, 0.25, np.nan, np.inf, 1.0, 0.0]]], np.float32)
    coding = Coding("int8_times_scale", "finite_scale", None, (1, 1), (0, 0))
    values = coding.decode(codes, scales)
    nan = np.nan
    np.testing.assert_array_equal(values[0, 0], [1.0, -32.0, nan, nan, nan, nan])
    np.testing.assert_array_equal(values[1, 0], [0.5, 0.25, nan, nan, nan, nan])
    assert values.dtype == np.float32


def test_a_scale_of_every_band_is_used_band_by_band() -> None:
    codes = np.array([[[2, 2]], [[3, 3]]], np.int8)
    scales = np.array([[[0.5, 0.5]], [[0.25, np.nan]]], np.float32)
    coding = Coding("int8_times_scale", "finite_scale", None, (1, 1), (0, 0))
    values = coding.decode(codes, scales)
    np.testing.assert_array_equal(values[:, 0, 0], [1.0, 0.75])
    assert np.isnan(values[:, 0, 1]).all()  # one band without a scale: the pixel is not valid


def test_codes_without_their_scales_are_refused() -> None:
    coding = Coding("int8_times_scale", "finite_scale", None, (1,), (0,))
    with pytest.raises(CatalogError, match="without their scales"):
        coding.decode(np.zeros((1, 2, 2), np.int8))
