"""Polygons on pixels, against rasterio and against the definition."""

import numpy as np
import numpy.typing as npt
import rasterio.features
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st

from lczcube.burning import burn
from lczcube.tiles import Rect

RECT = Rect(0, 0, 20, 24)


def burnt(*polygons: shapely.Geometry, rect: Rect = RECT) -> npt.NDArray[np.uint8]:
    return burn(np.array(polygons, dtype=object), rect)


def test_a_square_is_the_pixels_whose_centres_it_holds() -> None:
    mask = burnt(shapely.box(2.4, 3.6, 5.4, 6.4))
    expected = np.zeros(RECT.shape, dtype=np.uint8)
    expected[4:6, 2:5] = 1  # centres 4.5, 5.5 down and 2.5, 3.5, 4.5 across
    np.testing.assert_array_equal(mask, expected)


def test_nothing_is_burnt_of_nothing() -> None:
    assert not burnt().any()
    assert not burnt(shapely.Polygon()).any()
    assert not burnt(shapely.box(100, 100, 120, 120)).any()


def test_rings_may_run_either_way() -> None:
    outer = [(1.0, 1.0), (15.0, 1.0), (15.0, 15.0), (1.0, 15.0)]
    hole = [(4.0, 4.0), (9.0, 4.0), (9.0, 9.0), (4.0, 9.0)]
    masks = [
        burnt(shapely.Polygon(o, [h])) for o in (outer, outer[::-1]) for h in (hole, hole[::-1])
    ]
    assert masks[0].sum() == 14 * 14 - 5 * 5
    for mask in masks[1:]:
        np.testing.assert_array_equal(mask, masks[0])


def test_polygons_of_opposite_directions_do_not_cancel() -> None:
    square = shapely.box(1, 1, 9, 9)
    other = shapely.Polygon(list(shapely.box(5, 5, 15, 15).exterior.coords)[::-1])
    assert square.exterior.is_ccw != other.exterior.is_ccw
    np.testing.assert_array_equal(burnt(square, other), burnt(square) | burnt(other))


def test_a_polygon_in_the_hole_of_another_is_there() -> None:
    ring = shapely.Polygon(shapely.box(0, 0, 12, 12).exterior, [shapely.box(3, 3, 9, 9).exterior])
    assert burnt(ring, shapely.box(3, 3, 9, 9)).sum() == 144


def test_squares_that_meet_on_centres_share_no_pixel_and_leave_none() -> None:
    left, right = shapely.box(0.5, 0.5, 4.5, 8.5), shapely.box(4.5, 0.5, 10.5, 8.5)
    masks = burnt(left).astype(int) + burnt(right)
    assert masks.max() == 1
    np.testing.assert_array_equal(masks, burnt(shapely.box(0.5, 0.5, 10.5, 8.5)))


corners = st.tuples(st.floats(-10, 34, width=16), st.floats(-10, 30, width=16))
rings = st.lists(corners, min_size=3, max_size=8).map(
    lambda points: shapely.convex_hull(shapely.MultiPoint(points))
)


@settings(max_examples=150, deadline=None)
@given(hulls=st.lists(rings.filter(lambda hull: hull.geom_type == "Polygon"), max_size=5))
def test_a_centre_off_all_edges_is_in_exactly_where_a_polygon_holds_it(
    hulls: list[shapely.Polygon],
) -> None:
    mask = burnt(*hulls)
    for row in range(RECT.bottom):
        for column in range(RECT.right):
            centre = shapely.Point(column + 0.5, row + 0.5)
            if all(hull.boundary.distance(centre) > 1e-9 for hull in hulls):
                assert mask[row, column] == any(hull.contains(centre) for hull in hulls)


@settings(max_examples=100, deadline=None)
@given(
    points=st.lists(
        st.tuples(st.integers(-8, 56), st.integers(-8, 48)), min_size=3, max_size=12, unique=True
    ),
    cut=st.tuples(st.integers(1, 19), st.integers(1, 23)),
)
def test_pieces_give_what_the_whole_gives(
    points: list[tuple[int, int]], cut: tuple[int, int]
) -> None:
    """On half pixels, so that corners and edges lie on centres; rings may cross themselves."""
    polygon = shapely.Polygon([(x / 2, y / 2) for x, y in points])
    whole = burnt(polygon)
    row, column = cut
    for top, bottom in ((0, row), (row, 20)):
        for left, right in ((0, column), (column, 24)):
            piece = burnt(polygon, rect=Rect(top, left, bottom, right))
            np.testing.assert_array_equal(piece, whole[top:bottom, left:right])


def test_many_polygons_are_those_of_rasterio() -> None:
    rng = np.random.default_rng(0)
    polygons = []
    for x, y in rng.uniform(-5, 105, (400, 2)):
        angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
        radii = rng.uniform(0.3, 6, 9)
        ring = shapely.Polygon(np.c_[x + radii * np.cos(angles), y + radii * np.sin(angles)])
        polygons.append(shapely.buffer(ring, 0))
    mask = burnt(*polygons, rect=Rect(0, 0, 100, 100))
    doubled = [shapely.transform(polygon, lambda xy: 2 * xy) for polygon in polygons]
    expected = rasterio.features.rasterize(
        [polygon for polygon in doubled if not polygon.is_empty],
        out_shape=(100, 100),
        transform=Affine(2, 0, 0, 0, 2, 0),
        dtype="uint8",
    )
    assert 0.5 < expected.mean() < 1
    np.testing.assert_array_equal(mask, expected)
