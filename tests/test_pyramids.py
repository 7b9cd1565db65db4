"""Levels of a map: what four pixels become, and where the level lies."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import dask.array as da
import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lczcube.grid import Grid
from lczcube.products import map_groups, open_product, write_product
from lczcube.pyramids import halve, halved_geobox, level_names
from lczcube.schema import kind_of
from tests.test_products import all_bytes, maps_on

GRID = Grid("EPSG:32632", (0, 0, 35, 33), pixel_m=10, chunk_cells=9)
"""1,056 x 1,120 pixels: levels of 528 x 560 and 264 x 280."""

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=7)


def fours(values: npt.NDArray[np.generic]) -> list[list[npt.NDArray[np.generic]]]:
    """Pixels of each square of two, rows and columns clipped at the edge."""
    rows, columns = values.shape
    return [
        [values[[y, y, y1, y1], [x, x1, x, x1]] for x, x1 in pairs(columns)]
        for y, y1 in pairs(rows)
    ]


def pairs(n: int) -> list[tuple[int, int]]:
    return [(i, min(i + 1, n - 1)) for i in range(0, n, 2)]


@given(hnp.arrays(np.uint8, SHAPES, elements=st.integers(0, 4)))
def test_a_zone_is_the_most_frequent_of_four_the_lowest_of_several_and_never_no_data(
    codes: npt.NDArray[np.uint8],
) -> None:
    def mode(four: npt.NDArray[np.generic]) -> int:
        counts = Counter(int(code) for code in four if code != 0)
        return min(counts, key=lambda code: (-counts[code], code)) if counts else 0

    expected = [[mode(four) for four in row] for row in fours(codes)]
    found = halve(codes, kind_of("lcz", codes.dtype), (0, 1))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


@given(hnp.arrays(np.uint8, SHAPES, elements=st.sampled_from([0, 1, 33, 50, 100, 255])))
def test_a_per_cent_is_the_mean_of_the_valid_ones(percent: npt.NDArray[np.uint8]) -> None:
    def mean(four: npt.NDArray[np.generic]) -> float:
        valid = [int(value) for value in four if value != 255]
        return round(sum(valid) / len(valid)) if valid else 255  # half to even, as ours

    expected = [[mean(four) for four in row] for row in fours(percent)]
    np.testing.assert_array_equal(
        halve(percent, kind_of("confidence", percent.dtype), (0, 1)), expected
    )


@given(hnp.arrays(np.float32, SHAPES, elements=st.sampled_from([0.0, 0.25, 3.5, float("nan")])))
def test_a_decimal_number_is_the_mean_of_those_that_are_numbers(
    values: npt.NDArray[np.float32],
) -> None:
    def mean(four: npt.NDArray[np.generic]) -> float:
        valid = [float(value) for value in four if value == value]
        return sum(valid) / len(valid) if valid else float("nan")

    expected = [[mean(four) for four in row] for row in fours(values)]
    found = halve(values, kind_of("dissimilarity", values.dtype), (0, 1))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@given(hnp.arrays(np.uint32, SHAPES, elements=st.integers(0, 2**17 - 1)))
def test_a_label_set_holds_every_zone_of_four(sets: npt.NDArray[np.uint32]) -> None:
    expected = [[np.bitwise_or.reduce(four) for four in row] for row in fours(sets)]
    np.testing.assert_array_equal(halve(sets, kind_of("label_set", sets.dtype), (0, 1)), expected)


def test_true_and_false_are_codes_that_both_count() -> None:
    kept = np.array([[True, True, False, True], [True, False, False, True]])
    np.testing.assert_array_equal(halve(kept, kind_of("kept", kept.dtype), (0, 1)), [[True, False]])


def test_levels_end_where_a_map_is_small() -> None:
    assert level_names("pixels", GRID.geobox) == ["pixels_2", "pixels_4"]
    small = Grid("EPSG:32632", (0, 0, 16, 1)).geobox
    assert small.shape == (32, 512)
    assert level_names("pixels", small) == []


def test_a_level_of_odd_pixels_keeps_the_corner_and_reaches_past_the_map() -> None:
    geobox = Grid("EPSG:32632", (1, 1, 4, 4), pixel_m=100, cell_m=300).geobox
    assert geobox.shape == (9, 9)
    halved = halved_geobox(geobox)
    assert halved.shape == (5, 5)
    assert (halved.affine.c, halved.affine.f) == (geobox.affine.c, geobox.affine.f)
    assert (halved.affine.a, halved.affine.e) == (200, -200)


def full_maps(chunk: int) -> xr.Dataset:
    maps = maps_on(GRID, chunk=chunk)
    codes = maps["lcz"]
    sets = da.left_shift(np.uint32(1), codes.data.astype(np.uint32)) >> 1
    return maps.assign(
        label_set=(("y", "x"), sets),
        applicable=(("y", "x"), da.where(codes.data == 0, 255, codes.data % 2).astype(np.uint8)),
        dissimilarity=(("y", "x"), da.where(codes.data == 0, np.nan, codes.data).astype("f4")),
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pyramid") / "lcz.zarr"
    groups = {"pixels": full_maps(2000), "cells": maps_on(GRID, on_cells=True)}
    return write_product(groups, path)


def test_every_level_is_the_one_below_it_halved(store: Path) -> None:
    groups = ["pixels", "pixels_2", "pixels_4"]
    for below, above in pairwise(groups):
        for name in (
            "lcz",
            "confidence",
            "probability",
            "label_set",
            "applicable",
            "dissimilarity",
        ):
            source, level = (
                zarr.open_array(store / group / name, mode="r") for group in (below, above)
            )
            values = np.asarray(source[:])
            axes = (values.ndim - 2, values.ndim - 1)
            expected = halve(values, kind_of(name, values.dtype), axes)
            assert level.dtype == source.dtype
            assert level.fill_value == source.fill_value or np.isnan(level.fill_value)
            assert level.shards == source.shards
            np.testing.assert_array_equal(level[:], expected)


def test_a_level_lies_on_the_ground_of_its_map(store: Path) -> None:
    pixels, level = open_product(store, "pixels"), open_product(store, "pixels_4")
    assert level.attrs["spatial:bbox"] == pixels.attrs["spatial:bbox"]
    np.testing.assert_allclose(level["x"][0], pixels["x"][:4].mean())
    np.testing.assert_allclose(level["y"][-1], pixels["y"][-4:].mean())
    assert level["lcz"].attrs["resampling_method"] == "mode"
    assert level["probability"].attrs["resampling_method"] == "average"
    assert level["lcz"].attrs["flag_values"] == pixels["lcz"].attrs["flag_values"]


def test_the_root_says_which_levels_there_are(store: Path) -> None:
    with xr.open_datatree(store, engine="zarr") as tree:
        layout = tree.attrs["multiscales"]["layout"]
        assert tree.attrs["zarr_conventions"][0]["uuid"] == "d35379db-88df-4056-af3a-620245f8e347"
        assert set(tree.children) == {"pixels", "pixels_2", "pixels_4", "cells"}
        assert [level["asset"] for level in layout] == ["pixels", "pixels_2", "pixels_4"]
        assert [level.get("derived_from") for level in layout] == [None, "pixels", "pixels_2"]
        for level in layout:
            attrs = tree[level["asset"]].attrs
            assert level["spatial:transform"] == attrs["spatial:transform"]
            assert level["spatial:shape"] == list(tree[level["asset"]]["lcz"].shape)


def test_levels_are_no_maps_of_their_own(store: Path) -> None:
    assert map_groups(store) == ["cells", "pixels"]


def test_levels_are_the_same_bytes_in_any_chunking(store: Path, tmp_path: Path) -> None:
    groups = {"pixels": full_maps(300), "cells": maps_on(GRID, on_cells=True, chunk=5)}
    assert all_bytes(write_product(groups, tmp_path / "lcz.zarr")) == all_bytes(store)
