"""What a pixel map says of a square: by brute force, off the lattice, past the map, in strips."""

from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pytest
import shapely
import xarray as xr

from lczcube import patchmaps
from lczcube.errors import GridMismatchError, LabelError
from lczcube.patchmaps import lcz_of_patches, patch_probabilities

X0, Y0, PIXEL_M, SIDE = 500_000.0, 5_400_000.0, 10.0, 100


def made_map(seed: int = 0) -> xr.Dataset:
    """Per cents of 17 classes on 100 x 100 pixels, a tenth of them without data."""
    rng = np.random.default_rng(seed)
    percent = rng.integers(0, 101, (17, SIDE, SIDE)).astype(np.uint8)
    percent[:, rng.random((SIDE, SIDE)) < 0.1] = 255
    return on_lattice(percent)


def on_lattice(percent: npt.NDArray[Any]) -> xr.Dataset:
    centres = PIXEL_M * (np.arange(percent.shape[1]) + 0.5)
    coords = {"x": X0 + PIXEL_M * (np.arange(percent.shape[2]) + 0.5), "y": Y0 - centres}
    return xr.Dataset({"probability": (("class", "y", "x"), percent)}, coords)


def patches_of(*corners: tuple[float, float], side: float = 320.0) -> gpd.GeoDataFrame:
    """Squares that hang from upper-left corners, in pixels of the map."""
    left = X0 + PIXEL_M * np.array([x for x, _ in corners], float)
    top = Y0 - PIXEL_M * np.array([y for _, y in corners], float)
    squares = shapely.box(left, top - side, left + side, top)
    return gpd.GeoDataFrame(geometry=squares, crs="EPSG:32632", index=range(7, 7 + len(corners)))


def by_hand(maps: xr.Dataset, top: int, left: int) -> tuple[int, float, float]:
    percent = maps["probability"].values.astype(float)
    square = percent[:, max(top, 0) : max(top + 32, 0), max(left, 0) : max(left + 32, 0)]
    mapped = square[0] != 255
    if not mapped.any():
        return 0, np.nan, 0.0
    means = square[:, mapped].mean(axis=1) / 100
    return int(means.argmax()) + 1, float(means.max()), mapped.sum() / 1024


CORNERS = [(0, 0), (10, 3), (68, 68), (90, 90), (-20, 5), (5, -31), (-40, 0), (200, 10), (30, 400)]


@pytest.mark.parametrize("strip_bytes", [1, 64 << 20])
def test_every_square_is_what_its_pixels_say(
    strip_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patchmaps, "STRIP_BYTES", strip_bytes)
    maps = made_map()
    found = lcz_of_patches(maps, patches_of(*CORNERS))
    assert found.index.tolist() == list(range(7, 7 + len(CORNERS)))
    expected = np.array([by_hand(maps, top, left) for left, top in CORNERS])
    np.testing.assert_array_equal(found["lcz"], expected[:, 0])
    np.testing.assert_allclose(found["confidence"], expected[:, 1], rtol=1e-5)
    np.testing.assert_allclose(found["mapped_fraction"], expected[:, 2], rtol=1e-6)
    assert (found["lcz"] == 0).sum() == 3


def test_squares_off_the_lattice_are_those_of_the_nearest_edges_ties_up_and_left() -> None:
    maps = made_map()
    moved = lcz_of_patches(maps, patches_of((10.4, 20.4), (10.5, 20.5), (10.6, 20.6)))
    plain = lcz_of_patches(maps, patches_of((10, 20), (10, 20), (11, 21)))
    np.testing.assert_array_equal(moved.to_numpy(), plain.to_numpy())


def test_lazy_float_and_turned_maps_say_the_same() -> None:
    maps = made_map()
    patches = patches_of(*CORNERS)
    expected = lcz_of_patches(maps, patches)
    lazy = maps.chunk({"class": 17, "y": 30, "x": 40}).transpose("y", "x", "class")
    np.testing.assert_array_equal(lcz_of_patches(lazy, patches), expected)
    shares = maps["probability"].where(maps["probability"] != 255).astype(np.float32) / 100
    as_opened = lcz_of_patches(xr.Dataset({"probability": shares}), patches)
    np.testing.assert_allclose(as_opened, expected, rtol=1e-6)


def test_equal_means_give_the_lowest_code() -> None:
    percent = np.zeros((17, 32, 32), np.uint8)
    percent[4], percent[11] = 50, 50
    found = lcz_of_patches(on_lattice(percent), patches_of((0, 0)))
    assert found.iloc[0].tolist() == [5, 0.5, 1.0]


def test_what_is_no_square_or_no_map_is_refused() -> None:
    maps = made_map()
    slanted = patches_of((10, 10))
    slanted.geometry = slanted.rotate(10)
    with pytest.raises(LabelError, match="1 patches are no upright boxes"):
        lcz_of_patches(maps, slanted)
    with pytest.raises(GridMismatchError, match="no regular lattice"):
        lcz_of_patches(maps.isel(y=slice(None, None, -1)), patches_of((0, 0)))
    with pytest.raises(GridMismatchError, match="has 3 classes"):
        lcz_of_patches(maps.isel({"class": slice(3)}), patches_of((0, 0)))


def test_probabilities_of_a_square_are_the_means_of_its_pixels_and_sum_to_one() -> None:
    maps = made_map()
    found = patch_probabilities(maps, patches_of(*CORNERS))
    square = maps["probability"].values[:, 3:35, 10:42].astype(float)
    wanted = square[:, square[0] != 255].mean(axis=1)
    np.testing.assert_allclose(found[1], wanted / wanted.sum(), rtol=1e-6)
    assert found.dtype == np.float32
    table = lcz_of_patches(maps, patches_of(*CORNERS))
    is_mapped = table["lcz"].to_numpy() > 0
    np.testing.assert_array_equal(np.isnan(found).all(axis=1), ~is_mapped)
    assert (found[is_mapped].argmax(axis=1) + 1 == table["lcz"][is_mapped]).all()
