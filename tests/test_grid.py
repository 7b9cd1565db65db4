import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from odc.geo import CRS, wh_
from odc.geo.geobox import GeoBox

from lczcube.errors import GridError
from lczcube.grid import Grid, require_legal

MUNICH = (11.55, 48.12, 11.60, 48.16)
LANDSAT = GeoBox(
    wh_(528, 529),
    Affine(100.0, 0.0, 797608.2595713184, 0.0, -100.0, 2499950.9198932867),
    CRS("EPSG:32649"),
)


def test_a_bbox_grows_outward_to_whole_cells() -> None:
    grid = Grid.from_bbox((1.0, 321.0, 320.5, 639.0), bbox_crs="EPSG:32632", crs="EPSG:32632")
    assert grid.cells == (0, 1, 2, 2)
    assert grid.bbox == (0, 320, 640, 640)


def test_a_bbox_on_the_lattice_does_not_grow() -> None:
    grid = Grid.from_bbox((320, 640, 960, 1280), bbox_crs="EPSG:32632", crs="EPSG:32632")
    assert grid.bbox == (320, 640, 960, 1280)


def test_the_default_crs_is_the_utm_zone_of_the_centre_in_its_hemisphere() -> None:
    assert Grid.from_bbox(MUNICH).crs == "EPSG:32632"
    assert Grid.from_bbox((36.80, -1.30, 36.85, -1.25)).crs == "EPSG:32737"


def test_pixels_are_north_up_with_the_upper_left_corner_first() -> None:
    grid = Grid("EPSG:32632", (0, 0, 2, 3))
    assert grid.geobox.affine == Affine(10, 0, 0, 0, -10, 960)
    assert grid.shape == (96, 64)
    assert grid.geobox.coordinates["y"].values[0] == 955


def test_an_anchor_keeps_the_transform_of_its_input_to_a_micrometre() -> None:
    grid = Grid.from_geobox(LANDSAT, cell_m=300, stride_m=100)
    offset_px = (grid.geobox.affine.c - LANDSAT.affine.c) / 100
    assert abs(offset_px - round(offset_px)) * 100 < 1e-6
    assert grid.crs == "EPSG:32649"
    assert grid.is_lattice_of(LANDSAT)


def test_a_south_up_raster_on_the_lattice_is_on_the_lattice() -> None:
    grid = Grid("EPSG:32632", (0, 0, 2, 2))
    south_up = GeoBox(wh_(8, 8), Affine(10, 0, 100, 0, 10, 200), CRS("EPSG:32632"))
    shifted = GeoBox(wh_(8, 8), Affine(10, 0, 105, 0, 10, 200), CRS("EPSG:32632"))
    assert grid.is_lattice_of(south_up)
    assert not grid.is_lattice_of(shifted)


def test_a_crs_that_conflicts_with_the_anchor_is_refused() -> None:
    with pytest.raises(GridError, match="conflicts with the anchor's EPSG:32649"):
        Grid.from_bbox(
            (114.0, 22.2, 114.1, 22.3), crs="EPSG:32650", anchor=LANDSAT, pixel_m=100, cell_m=300
        )


@pytest.mark.parametrize("stride_m", [30, 15, 110, 400, 70])
def test_an_illegal_stride_is_refused_and_legal_ones_are_named(stride_m: float) -> None:
    with pytest.raises(GridError, match=r"stride_m = .* is illegal .* Use (\d+) or (\d+)") as info:
        Grid.from_bbox(MUNICH, stride_m=stride_m)
    named = [int(word) for word in str(info.value).split("Use ")[1].rstrip(".").split(" or ")]
    for legal in named:
        require_legal(10, 320, legal, 20)


def test_a_cell_that_is_not_whole_pixels_is_refused() -> None:
    with pytest.raises(GridError, match=r"cell_m = 325 is not a multiple .* use 320 or 330"):
        Grid.from_bbox(MUNICH, cell_m=325)


def test_a_crs_in_degrees_is_refused() -> None:
    with pytest.raises(GridError, match="not projected in metres"):
        Grid("EPSG:4326", (0, 0, 1, 1))


def test_bounds_that_cut_an_output_pixel_are_refused() -> None:
    with pytest.raises(GridError, match=r"multiples of 5 cells .* Use \(0, 0, 5, 5\)"):
        Grid("EPSG:32632", (0, 0, 3, 5), stride_m=100)


def test_a_window_is_centred_on_its_output_pixel() -> None:
    grid = Grid("EPSG:32632", (0, 0, 5, 5), stride_m=100)
    assert (grid.cell_px, grid.stride_px, grid.halo_px) == (32, 10, 11)
    assert grid.output_geobox.shape == (16, 16)
    assert grid.read_geobox().shape == (182, 182)


def test_an_anchor_is_kept_modulo_the_cell_and_grids_are_equal_by_it() -> None:
    shifted = Grid("EPSG:32632", (0, 0, 2, 2), anchor_um=(320_000_000 + 5, -5))
    assert shifted.anchor_um == (5, 319_999_995)
    assert shifted == Grid("EPSG:32632", (1, -1, 3, 1), anchor_um=(5, 319_999_995))
    assert hash(shifted) == hash(Grid("EPSG:32632", (1, -1, 3, 1), anchor_um=(5, 319_999_995)))


@given(
    x=st.floats(2e5, 7e5),
    y=st.floats(1e5, 9e6),
    width=st.floats(1, 5e4),
    height=st.floats(1, 5e4),
    anchor=st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)),
)
def test_a_grid_holds_its_bbox_and_is_at_most_a_cell_larger(
    x: float, y: float, width: float, height: float, anchor: tuple[int, int]
) -> None:
    lattice = GeoBox(
        wh_(1, 1), Affine(10, 0, anchor[0] / 1e6, 0, -10, anchor[1] / 1e6), CRS("EPSG:32632")
    )
    bbox = (x, y, x + width, y + height)
    grid = Grid.from_bbox(bbox, bbox_crs="EPSG:32632", anchor=lattice)
    slack = 0.011
    margins = np.array(bbox) - np.array(grid.bbox)
    assert (margins[:2] >= -slack).all()
    assert (margins[2:] <= slack).all()
    assert (np.abs(margins) < 320 + slack).all()


@given(
    cells=st.tuples(st.integers(-500, 500), st.integers(0, 9000)),
    size=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    anchor=st.tuples(st.integers(-(10**12), 10**12), st.integers(-(10**12), 10**12)),
)
def test_a_grid_survives_json(
    cells: tuple[int, int], size: tuple[int, int], anchor: tuple[int, int]
) -> None:
    x, y = cells
    grid = Grid("EPSG:32632", (x, y, x + size[0], y + size[1]), anchor)
    assert Grid.from_json(grid.to_json()) == grid
