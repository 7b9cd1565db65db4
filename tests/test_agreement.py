"""Agreement against slow and obvious versions of itself, and on the two label sets of Hong Kong."""

import dataclasses
import json
import re
import tracemalloc

import dask
import dask.array as da
import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
import xarray as xr
from geopandas.testing import assert_geodataframe_equal
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.xr import xr_coords

from lczcube.agreement import (
    Pair,
    agreement_table,
    city_agreements,
    label_agreement,
    map_agreement,
    map_label_agreement,
)
from lczcube.agreement.ground import linked
from lczcube.agreement.value import METRICS
from lczcube.cube import GRID_ATTR, open_cube, trim_halo
from lczcube.errors import ConfigError, GridMismatchError, LabelError
from lczcube.grid import Grid
from lczcube.labels import rasterize_labels
from lczcube.layers import layer_geobox
from lczcube.lcz import similarity
from lczcube.products import open_product, write_product
from tests.conftest import PROJECT
from tests.scenes import catalog_of, raster_input

UTM = "EPSG:32632"
PAIR = Pair("map", "other", "Made up; they share nothing.")
OFFSET_PX = (50_000, 530_000)
KOWLOON = (114.163, 22.319, 114.195, 22.350)


def grid_of_shape(rows, columns, *, pixel_m=10):
    x0, y0 = OFFSET_PX
    return Grid(
        UTM, (x0, y0, x0 + columns, y0 + rows), pixel_m=pixel_m, cell_m=pixel_m, chunk_cells=1
    )


def plane_of(codes, *, pixel_m=10, **attrs):
    """A map of codes given row by row, north first."""
    codes = np.asarray(codes, np.uint8)
    grid = grid_of_shape(*codes.shape, pixel_m=pixel_m)
    return xr.DataArray(codes, coords=xr_coords(grid.geobox), dims=("y", "x"), attrs=attrs)


def bare(lcz):
    """Codes and coordinates alone: odc-geo also finds a CRS in attributes of coordinates."""
    coords = {dim: lcz[dim].values for dim in ("y", "x")}
    return xr.DataArray(lcz.values, coords=coords, dims=("y", "x"))


def labels_of(*rows, crs=UTM, **columns):
    """Labels of (lcz, geometry)."""
    lcz, shapes = zip(*rows, strict=True)
    return gpd.GeoDataFrame(
        {"lcz": np.array(lcz, np.uint8), **columns}, geometry=list(shapes), crs=crs
    )


def box(left, bottom, right, top):
    """A box in metres from the lower left corner of :func:`grid_of_shape`."""
    x0, y0 = (10 * n for n in OFFSET_PX)
    return shapely.box(x0 + left, y0 + bottom, x0 + right, y0 + top)


def random_pair(rows=23, columns=31, *, seed=0):
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 6, (rows, columns))
    return a, np.where(rng.random(a.shape) < 0.5, a, rng.integers(0, 18, a.shape))


def assert_same(found, expected):
    assert found.to_dict() == expected.to_dict()


class TestMaps:
    def test_an_agreement_worked_by_hand(self):
        # Both mapped: (1,1) twice, (1,2), (2,2), (17,17), (17,1). One side only: three pixels.
        a = plane_of([[1, 1, 1, 2, 17], [17, 5, 0, 0, 0]])
        b = plane_of([[1, 1, 2, 2, 17], [1, 0, 5, 6, 0]])
        found = map_agreement(a, b, PAIR, n_boot=0)
        assert found.n == 6
        assert found.shared == 6 / 9
        assert found.oa == pytest.approx(4 / 6)
        near = similarity()
        assert found.metrics["oa_w"] == pytest.approx((4 + near[0, 1] + near[16, 0]) / 6)
        assert found.metrics["oa_bu"] == pytest.approx(5 / 6)
        # Chance: first 3, 1, 2 of classes 1, 2, 17; second 3, 2, 1.
        chance = (3 * 3 + 1 * 2 + 2 * 1) / 36
        assert found.metrics["kappa"] == pytest.approx((4 / 6 - chance) / (1 - chance))
        assert found.f1 == pytest.approx({1: 4 / 6, 2: 2 / 3, 17: 2 / 3})
        assert found.metrics["mean_f1"] == pytest.approx(2 / 3)
        assert found.confusion[0, 1] == found.confusion[16, 0] == 1
        assert found.confusion.sum() == 6
        assert set(found.intervals.values()) == {None}

    def test_a_map_agrees_with_itself(self):
        codes, _ = random_pair()
        found = map_agreement(plane_of(codes), plane_of(codes), PAIR, block_m=40, n_boot=50)
        assert found.metrics == dict.fromkeys(METRICS, pytest.approx(1))
        assert found.intervals == dict.fromkeys(METRICS, (pytest.approx(1), pytest.approx(1)))
        assert set(found.f1.values()) == {1.0}
        assert found.shared == 1

    def test_neither_side_is_the_reference(self):
        a, b = map(plane_of, random_pair())
        one, other = (
            map_agreement(*both, PAIR, block_m=50, n_boot=40) for both in ((a, b), (b, a))
        )
        assert one.metrics == pytest.approx(other.metrics)
        assert one.f1 == pytest.approx(other.f1)
        for name in METRICS:
            assert one.intervals[name] == pytest.approx(other.intervals[name])
        np.testing.assert_array_equal(one.confusion, other.confusion.T)

    def test_counts_and_draws_are_those_of_a_loop_over_pixels_and_blocks(self):
        codes_a, codes_b = random_pair()
        a, b = plane_of(codes_a), plane_of(codes_b)
        found = map_agreement(a, b, PAIR, block_m=70, n_boot=60, seed=3)
        blocks = {}
        for i, j in np.ndindex(*codes_a.shape):
            if codes_a[i, j] and codes_b[i, j]:
                block = (float(a["y"][i]) // 70, float(a["x"][j]) // 70)
                counts = blocks.setdefault(block, np.zeros((17, 17)))
                counts[codes_a[i, j] - 1, codes_b[i, j] - 1] += 1
        assert found.n_groups == len(blocks) == 4 * 6
        np.testing.assert_array_equal(found.confusion, sum(blocks.values()))
        rng = np.random.default_rng(3)
        ordered = [blocks[key] for key in sorted(blocks)]
        drawn = []
        for _ in range(60):
            total = sum(ordered[i] for i in rng.integers(len(ordered), size=len(ordered)))
            drawn.append(np.trace(total) / total.sum())
        assert found.intervals["oa"] == pytest.approx(np.percentile(drawn, (2.5, 97.5)))

    @given(data=st.data())
    @settings(max_examples=40, deadline=None)
    def test_any_chunking_gives_the_same(self, data):
        a, b = map(plane_of, random_pair(12, 17, seed=data.draw(st.integers(0, 5))))
        expected = map_agreement(a, b, PAIR, block_m=40, n_boot=5)
        sizes = st.integers(1, 17)
        chunks = st.none() | st.fixed_dictionaries({"y": sizes, "x": sizes})
        both = (
            one if size is None else one.chunk(size)
            for one, size in ((a, data.draw(chunks)), (b, data.draw(chunks)))
        )
        assert_same(map_agreement(*both, PAIR, block_m=40, n_boot=5), expected)

    def test_chunks_that_cross_give_the_same(self):
        a, b = map(plane_of, random_pair())
        expected = map_agreement(a, b, PAIR, block_m=40, n_boot=5)
        rows, columns = {"y": 1, "x": 31}, {"y": 23, "x": 1}
        for chunks_a, chunks_b in ((rows, columns), (columns, rows)):
            found = map_agreement(a.chunk(chunks_a), b.chunk(chunks_b), PAIR, block_m=40, n_boot=5)
            assert_same(found, expected)

    def test_large_strips_are_counted_in_parts(self, monkeypatch):
        a, b = map(plane_of, random_pair())
        expected = map_agreement(a, b, PAIR, block_m=40, n_boot=5)
        monkeypatch.setattr("lczcube.agreement.maps.STRIP_PX", 70)
        assert_same(map_agreement(a, b, PAIR, block_m=40, n_boot=5), expected)

    def test_south_up_is_north_up_and_dims_of_one_are_dropped(self):
        a, b = map(plane_of, random_pair())
        expected = map_agreement(a, b, PAIR, block_m=40, n_boot=5)
        cube_like = b.isel(y=slice(None, None, -1)).expand_dims(time=1, b_band=["b01"])
        assert_same(map_agreement(a, cube_like, PAIR, block_m=40, n_boot=5), expected)

    def test_the_layers_own_nodata_is_no_class(self):
        a, b = plane_of([[1, 2], [255, 3]], nodata=255), plane_of([[1, 2], [1, 255]], nodata=255)
        found = map_agreement(a, b, PAIR)
        assert (found.n, found.oa, found.shared) == (2, 1.0, 0.5)

    def test_maps_that_do_not_meet_say_so(self):
        found = map_agreement(plane_of([[1, 0]]), plane_of([[0, 1]]), PAIR)
        assert (found.n, found.shared, found.n_groups) == (0, 0, 0)
        assert set(found.metrics.values()) == {None}
        assert found.remarks == ("There is no ground for which both give a class.",)
        assert map_agreement(plane_of([[0, 0]]), plane_of([[0, 0]]), PAIR).shared is None

    def test_chunks_are_computed_once_and_not_all_held(self):
        def peak_and_calls(side_px):
            calls = []

            def made(block_info=None):
                calls.append(block_info[None]["chunk-location"])
                shape = block_info[None]["chunk-shape"]
                return (np.arange(np.prod(shape)).reshape(shape) % 7).astype(np.uint8)

            chunks = ((256,) * (side_px // 256),) * 2
            lazy = da.map_blocks(made, chunks=chunks, dtype=np.uint8, meta=np.empty((0, 0), "u1"))
            grid = grid_of_shape(side_px, side_px)
            a = xr.DataArray(lazy, coords=xr_coords(grid.geobox), dims=("y", "x"))
            tracemalloc.start()
            found = map_agreement(a, a % 5, PAIR, n_boot=0)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert found.n == found.confusion.sum() > 0.6 * side_px**2
            return peak, len(calls), len(set(calls))

        with dask.config.set(scheduler="synchronous"):
            peak_and_calls(512)  # imports are made here
            peak, n_calls, n_chunks = peak_and_calls(4096)
        assert n_calls == n_chunks == 256
        assert peak < 4096**2 / 2  # half of one of the maps

    def test_few_groups_are_said_and_one_gives_no_interval(self):
        a, b = map(plane_of, random_pair())
        n_groups = {70: 24, 160: 4, 10_000: 1}
        for block_m, n in n_groups.items():
            found = map_agreement(a, b, PAIR, block_m=block_m, n_boot=10)
            assert found.n_groups == n
            assert (found.intervals["oa"] is None) == (n == 1)
            assert len(found.remarks) == (n < 10)

    def test_the_map_of_a_product_is_read_as_it_was_written(self, tmp_path):
        codes, other = random_pair(32, 64)
        grid = Grid(UTM, (100, 1000, 102, 1001))
        dims = ("y", "x")
        coords = xr_coords(grid.geobox)
        written = {
            name: xr.Dataset(
                {"lcz": (dims, values.astype(np.uint8))},
                coords=coords,
                attrs={GRID_ATTR: grid.to_json()},
            )
            for name, values in (("a", codes), ("b", other))
        }
        write_product(written, tmp_path / "lcz.zarr")
        stored = (open_product(tmp_path / "lcz.zarr", name)["lcz"] for name in written)
        expected = map_agreement(*(one["lcz"] for one in written.values()), PAIR, block_m=100)
        assert_same(map_agreement(*stored, PAIR, block_m=100), expected)
        assert expected.n == ((codes > 0) & (other > 0)).sum()


class TestRefused:
    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            (lambda b: b.isel(x=slice(1, None)), GridMismatchError, r"\(2, 3\).*Open both on one"),
            (lambda b: b.assign_coords(x=b["x"] + 10), GridMismatchError, "lie up to 10 m apart"),
            (bare, GridMismatchError, "other has no CRS"),
            (lambda b: b.odc.assign_crs("EPSG:32633"), GridMismatchError, "EPSG:32633"),
            (lambda b: b.odc.assign_crs("EPSG:4326"), GridMismatchError, "open it on a Grid"),
            (lambda b: b.rename(y="lat"), GridMismatchError, "dims y and x"),
            (lambda b: xr.concat([b, b], "time"), GridMismatchError, "2 of time; choose one"),
            (lambda b: b.assign_coords(x=b["x"] ** 2), GridMismatchError, "square and regular"),
            (lambda b: b.astype("f4"), LabelError, "float32"),
            (lambda b: b + np.uint8(100), LabelError, "pixels of other hold LCZ code 101"),
            (lambda b: b.astype("i2") - 2, LabelError, "code -1 "),
        ],
    )
    def test_what_is_no_map_on_the_same_pixels(self, change, error, message):
        a = plane_of([[1, 1, 1], [1, 1, 2]])
        with pytest.raises(error, match=message):
            map_agreement(a, change(a), PAIR)

    def test_a_bad_code_in_a_chunk_is_named(self):
        a = plane_of([[1, 2], [3, 18]])
        with pytest.raises(LabelError, match=r"other hold LCZ code 18 \(1 times\)"):
            map_agreement(plane_of([[1, 2], [3, 4]]), a.chunk(y=1), PAIR)

    def test_a_pixel_alone_has_no_size(self):
        with pytest.raises(GridMismatchError, match="single pixel"):
            map_agreement(plane_of([[1]]), plane_of([[1]]), PAIR)

    def test_blocks_smaller_than_pixels_and_negative_draws(self):
        a = plane_of([[1, 2]])
        with pytest.raises(ConfigError, match=r"block_m = 5 .* 10 m"):
            map_agreement(a, a, PAIR, block_m=5)
        with pytest.raises(ConfigError, match="n_boot = -1"):
            map_agreement(a, a, PAIR, n_boot=-1)

    def test_a_pair_says_what_its_sides_share(self):
        with pytest.raises(ConfigError, match="say what they share"):
            Pair("map", "other", " ")
        for second in ("", "map"):
            with pytest.raises(ConfigError, match="names its two sides"):
                Pair("map", second, "nothing")
        with pytest.raises(dataclasses.FrozenInstanceError):
            PAIR.dependence = ""

    def test_an_agreement_has_no_other_unit(self):
        a = plane_of([[1, 2]])
        with pytest.raises(ConfigError, match="unit = 'patch'"):
            dataclasses.replace(map_agreement(a, a, PAIR), unit="patch")


class TestCities:
    def test_cities_come_with_their_pool(self):
        codes = {"Ulm": random_pair(seed=1), "Bonn": random_pair(40, 9, seed=2)}
        maps = {city: tuple(map(plane_of, both)) for city, both in codes.items()}
        found = city_agreements(maps, PAIR, block_m=50, n_boot=20)
        for city, both in maps.items():
            alone = map_agreement(*both, PAIR, city=city, block_m=50, n_boot=20)
            assert_same(found.cities[city], alone)
        # The two lie on the same coordinates, and have no block in common all the same.
        assert found.pooled.n_groups == sum(one.n_groups for one in found.cities.values())
        expected = sum(one.confusion for one in found.cities.values())
        np.testing.assert_array_equal(found.pooled.confusion, expected)
        assert found.pooled.oa == pytest.approx(np.trace(expected) / expected.sum())
        low, high = found.pooled.intervals["oa"]
        assert low < found.pooled.oa < high

    def test_the_table_shows_the_pool_below_its_cities_and_what_the_sides_share(self):
        maps = {city: tuple(map(plane_of, random_pair(seed=7))) for city in ("Ulm", "Bonn")}
        found = city_agreements(maps, PAIR, block_m=50, n_boot=20)
        lines = agreement_table([found]).splitlines()
        assert [line.split("|")[2].strip() for line in lines[2:5]] == ["Ulm", "Bonn", "all 2"]
        assert {len(line) for line in lines[:5]} == {len(lines[0])}
        assert lines[5:] == ["", "- map / other: Made up; they share nothing."]
        assert f"{found.pooled.oa:.3f} [" in lines[4]
        text = json.dumps(found.to_dict(), sort_keys=True)
        assert json.loads(text)["cities"]["Ulm"]["pair"]["dependence"] == PAIR.dependence

    def test_no_city_is_refused(self):
        with pytest.raises(ConfigError, match="no city"):
            city_agreements({}, PAIR)


CORNER, SIDE = st.integers(0, 8), st.integers(1, 4)
BOXES = st.lists(st.tuples(st.integers(1, 3), CORNER, CORNER, SIDE, SIDE), min_size=1, max_size=7)
"""Class, left, bottom, width and height in pixels of 10 m, on a board of 12 x 12."""


def labels_of_boxes(boxes):
    rows = [(code, box(10 * x, 10 * y, 10 * (x + w), 10 * (y + h))) for code, x, y, w, h in boxes]
    return labels_of(*rows)


def claims(boxes):
    """Class of each square of 12 x 12, south first: 0 where none or several classes claim it."""
    squares = [[set() for _ in range(12)] for _ in range(12)]
    for code, x, y, width, height in boxes:
        for row in range(y, y + height):
            for column in range(x, x + width):
                squares[row][column].add(code)
    codes = [[one.copy().pop() if len(one) == 1 else 0 for one in row] for row in squares]
    return np.array(codes), sum(len(one) > 1 for row in squares for one in row)


class TestLabels:
    def test_ground_worked_by_hand(self):
        # 100 x 100 m of 1 and of 6; the other set has 1 on half of the first, 5 on a quarter of
        # the second, and ground of its own.
        first = labels_of((1, box(0, 0, 100, 100)), (6, box(200, 0, 300, 100)))
        second = labels_of(
            (1, box(50, 0, 150, 100)), (5, box(200, 0, 250, 50)), (17, box(400, 0, 500, 100))
        )
        found = label_agreement(first, second, PAIR)
        assert found.unit == "m2"
        assert found.n == pytest.approx(7_500)
        assert found.oa == pytest.approx(5_000 / 7_500)
        assert found.confusion[0, 0] == pytest.approx(5_000)
        assert found.confusion[5, 4] == pytest.approx(2_500)
        assert found.shared == pytest.approx(7_500 / (20_000 + 22_500 - 7_500))
        assert (found.n_groups, found.group_noun) == (2, "clusters")
        assert (found.n_identical, found.n_smaller, found.identical_share) == (0, 2, 0.0)
        few = "2 clusters are few: what is not known is more than the brackets say."
        assert found.remarks == (few,)

    @given(first=BOXES, second=BOXES)
    @settings(max_examples=60, deadline=None)
    def test_ground_and_pixels_are_those_of_a_board_of_squares(self, first, second):
        a, b = labels_of_boxes(first), labels_of_boxes(second)
        (codes_a, n_a), (codes_b, n_b) = claims(first), claims(second)
        expected = np.zeros((18, 18))
        np.add.at(expected, (codes_a, codes_b), 1)
        expected[0, 0] = 0
        for grid, size in ((None, 100), (grid_of_shape(12, 12), 1)):
            found = label_agreement(a, b, PAIR, grid=grid, n_boot=0)
            np.testing.assert_allclose(found.confusion / size, expected[1:, 1:], atol=1e-6)
            if expected.sum():
                assert found.shared == pytest.approx(expected[1:, 1:].sum() / expected.sum())
            left_out = [remark for remark in found.remarks if "Left out" in remark]
            assert len(left_out) == (n_a > 0) + (n_b > 0)

    @given(first=BOXES, second=BOXES)
    @settings(max_examples=40, deadline=None)
    def test_a_cluster_is_what_hangs_together_by_shared_ground(self, first, second):
        a, b = labels_of_boxes(first), labels_of_boxes(second)
        found = label_agreement(a, b, PAIR, grid=grid_of_shape(12, 12), n_boot=0)
        claimed = [rasterize_labels(one, grid_of_shape(12, 12))["patch"].values for one in (a, b)]
        both = (claimed[0] > 0) & (claimed[1] > 0)
        clusters = []
        for pair in zip(claimed[0][both].tolist(), claimed[1][both].tolist(), strict=True):
            ends = {("a", pair[0]), ("b", pair[1])}
            meeting = [one for one in clusters if one & ends]
            clusters = [one for one in clusters if not one & ends]
            clusters.append(ends.union(*meeting))
        assert found.n_groups == len(clusters)

    def test_labels_of_one_group_are_one_cluster(self):
        rows = [(1, box(200 * i, 0, 200 * i + 100, 100)) for i in range(4)]
        apart = label_agreement(labels_of(*rows), labels_of(*rows), PAIR)
        assert apart.n_groups == 4
        grouped = labels_of(*rows, group=["p", "p", "q", "r"])
        assert label_agreement(grouped, labels_of(*rows), PAIR).n_groups == 3

    def test_chains_of_any_length_are_one_cluster(self):
        n = 60
        order = np.random.default_rng(0).permutation(n)
        first, second = np.arange(n), np.arange(n)  # a0-b0, a1-b1, ... and a1-b0, a2-b1, ...
        pairs_a = np.concatenate([first, first[1:]])
        pairs_b = np.concatenate([second, second[:-1]])
        mixed = linked(order[pairs_a], np.argsort(order)[pairs_b])
        assert np.unique(mixed).size == 1
        assert linked(np.array([3, 5, 3]), np.array([1, 2, 2])).tolist() == [3, 3, 3]
        assert linked(np.array([], int), np.array([], int)).size == 0

    def test_degrees_are_measured_in_metres(self):
        first = labels_of((1, box(0, 0, 100, 100)), (6, box(200, 0, 300, 100)))
        second = labels_of((1, box(50, 0, 150, 100)), (5, box(200, 0, 250, 50)))
        expected = label_agreement(first, second, PAIR)
        for a, b in ((first.to_crs(4326), second), (first, second.to_crs(4326))):
            found = label_agreement(a, b, PAIR)
            np.testing.assert_allclose(found.confusion, expected.confusion, rtol=1e-5)

    def test_borders_that_touch_share_no_ground(self):
        found = label_agreement(
            labels_of((1, box(0, 0, 100, 100))), labels_of((2, box(100, 0, 200, 100))), PAIR
        )
        assert (found.n, found.n_groups) == (0, 0)
        assert found.remarks == ("There is no ground for which both give a class.",)

    def test_inputs_are_not_changed(self):
        first, second = labels_of((1, box(0, 0, 9, 9))), labels_of((2, box(5, 0, 20, 9)))
        before = first.copy(), second.copy()
        label_agreement(first, second, PAIR)
        assert_geodataframe_equal(first, before[0])
        assert_geodataframe_equal(second, before[1])

    def test_tables_without_labels_are_refused_by_their_name(self):
        labels = labels_of((1, box(0, 0, 100, 100)))
        with pytest.raises(LabelError, match="other hold no label"):
            label_agreement(labels, labels.iloc[:0], PAIR)
        with pytest.raises(LabelError, match="map have no column lcz"):
            label_agreement(labels.drop(columns="lcz"), labels, PAIR)
        far = labels.set_geometry(labels.translate(1e5))
        with pytest.raises(LabelError, match="none of 1 labels meets the grid"):
            label_agreement(labels, far, PAIR, grid=grid_of_shape(12, 12))


class TestCopies:
    ROWS = tuple((1 + i, box(200 * i, 0, 200 * i + 100 + i, 100)) for i in range(8))

    def test_a_copy_is_told_however_it_was_rounded_and_reprojected(self):
        first = labels_of(*self.ROWS)
        copy = first.to_crs(4326).iloc[::-1]
        copy["geometry"] = shapely.set_precision(copy.geometry.to_numpy(), 1e-6)
        found = label_agreement(first, copy, PAIR)
        assert found.identical_share == 1
        assert found.oa > 0.99
        assert any("the same labels" in remark for remark in found.remarks)
        assert "no evidence" in agreement_table([found])

    def test_a_part_of_the_other_set_is_a_copy_too(self):
        more = labels_of(*self.ROWS, (17, box(0, 1000, 100, 1100)))
        for both in ((labels_of(*self.ROWS[:3]), more), (more, labels_of(*self.ROWS[:3]))):
            found = label_agreement(*both, PAIR)
            assert (found.n_identical, found.n_smaller) == (3, 3)

    def test_some_labels_in_common_are_counted(self):
        second = labels_of(*self.ROWS[:2], (4, box(640, 0, 700, 60)), (5, box(820, 0, 900, 80)),
                           (17, box(0, 1000, 100, 1100)))  # fmt: skip
        found = label_agreement(labels_of(*self.ROWS), second, PAIR)
        assert (found.n_identical, found.n_smaller) == (2, 5)
        assert any("there, their agreement is no evidence" in line for line in found.remarks)

    def test_a_border_drawn_anew_is_no_copy(self):
        rows = [(code, shape.buffer(5, join_style="mitre")) for code, shape in self.ROWS]
        found = label_agreement(labels_of(*self.ROWS), labels_of(*rows), PAIR)
        assert found.n_identical == 0


class TestMapsAndLabels:
    CODES = [[1, 1, 2, 2, 0], [1, 3, 2, 2, 0], [3, 3, 3, 0, 0]]
    PAIR = Pair("map", "labels", "The map was trained on these labels.")

    def labels(self):
        # Rows of pixels are 20-30, 10-20 and 0-10 m from the south.
        return labels_of(
            (1, box(0, 10, 20, 30)),  # 1 1 / 1 3
            (4, box(20, 10, 50, 30)),  # 2 2 0 / 2 2 0
            (3, box(0, 0, 10, 10)),  # 3
            (9, box(40, 0, 80, 10)),  # 0, and three columns past the map
            (17, box(500, 500, 600, 600)),
        )

    def test_pixels_worked_by_hand(self):
        found = map_label_agreement(plane_of(self.CODES), self.labels(), self.PAIR)
        expected = np.zeros((17, 17))
        expected[0, 0], expected[2, 0], expected[1, 3], expected[2, 2] = 3, 1, 4, 1
        np.testing.assert_array_equal(found.confusion, expected)
        assert found.shared == 9 / (4 + 6 + 1 + 4)
        assert (found.n_groups, found.unit) == (3, "pixel")
        assert found.remarks[0] == "1 of 5 labels do not meet the map."

    def test_polygons_worked_by_hand(self):
        lcz = plane_of(self.CODES)
        found = map_label_agreement(lcz, self.labels(), self.PAIR, unit="polygon")
        expected = np.zeros((17, 17))
        expected[0, 0] = expected[1, 3] = expected[2, 2] = 1
        np.testing.assert_array_equal(found.confusion, expected)
        assert found.shared == 3 / 4
        strict = map_label_agreement(lcz, self.labels(), self.PAIR, unit="polygon", min_mapped=0.7)
        assert strict.n == 2  # the second label is mapped by 4 of 6

    def test_of_classes_as_frequent_the_lowest_is_taken(self):
        lcz = plane_of([[5, 2], [2, 5]])
        labels = labels_of((2, box(0, 0, 20, 20)))
        assert map_label_agreement(lcz, labels, self.PAIR, unit="polygon").oa == 1

    @given(boxes=BOXES, seed=st.integers(0, 20), chunk=st.none() | st.integers(1, 12))
    @settings(max_examples=40, deadline=None)
    def test_pixels_are_those_of_the_burnt_labels(self, boxes, seed, chunk):
        codes, labels = random_pair(12, 12, seed=seed)[1], labels_of_boxes(boxes)
        lcz = plane_of(codes)
        true, n_conflicts = claims(boxes)
        expected = np.zeros((18, 18))
        np.add.at(expected, (codes, true[::-1]), 1)
        found = map_label_agreement(
            lcz if chunk is None else lcz.chunk(chunk), labels, self.PAIR, n_boot=0
        )
        np.testing.assert_array_equal(found.confusion, expected[1:, 1:])
        if expected[:, 1:].sum():
            assert found.shared == pytest.approx(expected[1:, 1:].sum() / expected[:, 1:].sum())
        assert any("for several classes" in remark for remark in found.remarks) == bool(n_conflicts)

    def test_labels_in_degrees_and_a_map_south_up(self):
        lcz = plane_of(self.CODES).isel(y=slice(None, None, -1))
        found = map_label_agreement(lcz, self.labels().to_crs(4326), self.PAIR)
        assert found.n == 9

    def test_only_the_window_under_the_labels_is_read(self):
        read = []

        def made(block_info=None):
            read.append(block_info[None]["chunk-location"])
            return np.ones(block_info[None]["chunk-shape"], np.uint8)

        grid = grid_of_shape(600, 600)
        lazy = da.map_blocks(
            made, chunks=((100,) * 6,) * 2, dtype="u1", meta=np.empty((0, 0), "u1")
        )
        lcz = xr.DataArray(lazy, coords=xr_coords(grid.geobox), dims=("y", "x"))
        labels = labels_of((1, box(1_100, 1_100, 1_500, 1_500)))
        assert map_label_agreement(lcz, labels, self.PAIR).oa == 1
        assert read == [(4, 1)]

    def test_labels_elsewhere_units_and_shares_are_refused(self):
        lcz, labels = plane_of(self.CODES), self.labels()
        with pytest.raises(LabelError, match="none of 1 labels of labels meets map"):
            map_label_agreement(lcz, labels.iloc[4:], self.PAIR)
        with pytest.raises(ConfigError, match="unit = 'm2'"):
            map_label_agreement(lcz, labels, self.PAIR, unit="m2")
        with pytest.raises(ConfigError, match="min_mapped = 0"):
            map_label_agreement(lcz, labels, self.PAIR, min_mapped=0)
        with pytest.raises(LabelError, match="code 18"):
            map_label_agreement(lcz + np.uint8(17), labels, self.PAIR)
        thirds = lcz.assign_coords(x=lcz["x"] * (1 + 1e-8), y=lcz["y"] * (1 + 1e-8))
        assert map_label_agreement(thirds, labels, self.PAIR).n == 9


LANDSAT = "hongkong/landsat8_36band_100m.tif"
SETS = {
    "DFC 2017": "hongkong/lcz_dfc2017_train_polygons.gpkg",
    "second set": "hongkong/lcz_second_train_polygons.gpkg",
}
HANDS = Pair(*SETS, "Drawn by two hands, both over images of the city of which we know no more.")
TRAINED = "The global map was trained on such labels, these perhaps among them."


@pytest.fixture(scope="module")
def sets(realdata):
    return {name: gpd.read_file(realdata / path) for name, path in SETS.items()}


@pytest.fixture(scope="module")
def kowloon(realdata, tmp_path_factory):
    """The global map on the pixels of Landsat, as a cube has it, and the grid of all Hong Kong."""
    files = {"landsat": LANDSAT, "lcz_global": "hongkong/lcz_global_v3.tif"}
    inputs = [raster_input(name, str(realdata / path)) for name, path in files.items()]
    catalog = catalog_of(tmp_path_factory.mktemp("kowloon"), *inputs)
    anchor = layer_geobox(catalog, "landsat", bbox=KOWLOON)
    grid = Grid.from_bbox(KOWLOON, anchor=anchor, pixel_m=100, cell_m=300, stride_m=100)
    cube = trim_halo(open_cube(catalog, grid, inputs=["lcz_global"], year=2024))
    return cube["lcz_global"], Grid.from_geobox(anchor, cell_m=300, stride_m=100)


class TestHongKong:
    def test_two_hands_agree_on_five_sixths_of_the_little_ground_they_share(self, sets, kowloon):
        a, b = sets.values()
        ground = label_agreement(a, b, HANDS, city="Hong Kong")
        pixels = label_agreement(a, b, HANDS, grid=kowloon[1], city="Hong Kong")
        print(agreement_table([ground, pixels]))
        assert ground.n / 1e4 == pytest.approx(58.7, abs=0.05)
        assert ground.shared == pytest.approx(0.0103, abs=1e-4)
        assert ground.oa == pytest.approx(0.826, abs=1e-3)
        assert (ground.n_groups, pixels.n_groups) == (14, 10)
        assert (pixels.n, pixels.oa) == (57, pytest.approx(45 / 57))
        # Compact high-rise of one hand is open high-rise of the other: the largest difference.
        differences = ground.confusion - np.diag(np.diag(ground.confusion))
        assert np.unravel_index(differences.argmax(), (17, 17)) == (0, 3)
        low, high = ground.intervals["oa"]
        assert low < 0.6
        assert high > 0.95
        for found in (ground, pixels):
            assert (found.n_identical, found.n_smaller) == (0, 82)

    def test_shared_ground_is_that_of_one_union_a_class(self, sets):
        a, b = sets.values()
        found = label_agreement(a, b, HANDS, n_boot=0)
        unions = [
            {code: shapely.union_all(one.geometry[one["lcz"] == code].to_numpy()) for code in codes}
            for one, codes in ((one, sorted(set(one["lcz"]))) for one in (a, b))
        ]
        for code_a, shape_a in unions[0].items():
            for code_b, shape_b in unions[1].items():
                area = shapely.area(shapely.intersection(shape_a, shape_b))
                assert found.confusion[code_a - 1, code_b - 1] == pytest.approx(area, abs=1e-3)

    def test_a_set_against_itself_is_no_evidence(self, sets):
        for labels in sets.values():
            found = label_agreement(labels, labels.to_crs(4326), HANDS)
            assert found.identical_share == 1
            assert found.oa > 0.999
            assert any("no evidence" in remark for remark in found.remarks)

    def test_the_global_map_over_the_labels_of_kowloon(self, sets, kowloon):
        lcz, _ = kowloon
        found = {
            (name, unit): map_label_agreement(
                lcz, labels, Pair("global v3", name, TRAINED), unit=unit, min_mapped=0.1,
                city="Kowloon",
            )
            for name, labels in sets.items()
            for unit in ("pixel", "polygon")
        }  # fmt: skip
        text = agreement_table(list(found.values()))
        print(text)
        assert TRAINED in text
        pixels = found["DFC 2017", "pixel"]
        assert (pixels.n, pixels.n_groups) == (32, 2)
        assert pixels.oa == pytest.approx(26 / 32)
        assert pixels.metrics["oa_bu"] == 1
        assert found["DFC 2017", "polygon"].n == 2
        assert found["second set", "pixel"].n == 1  # no evidence, and the table says so
        assert "80 of 82 labels do not meet the map." in text
        assert "136 of 137 labels do not meet the map." in text

    def test_labels_burnt_by_their_publisher_give_the_same_as_the_polygons(
        self, sets, kowloon, realdata
    ):
        """The labels of 2017 also come as a raster on Landsat's pixels."""
        lcz, _ = kowloon
        with rasterio.open(realdata / "hongkong" / "lcz_dfc2017_train.tif") as file:
            columns, rows = ~file.transform * (
                float(lcz["x"][0]) - 50, float(lcz["y"][0]) + 50
            )  # fmt: skip
            top, left = round(rows), round(columns)
            stored = file.read(1)[top : top + lcz.sizes["y"], left : left + lcz.sizes["x"]]
        burnt = lcz.isel(time=0, lcz_global_band=0).copy(data=stored)
        pair = Pair("global v3", "DFC 2017", TRAINED)
        expected = map_agreement(lcz, burnt, pair).confusion
        labels = map_label_agreement(lcz, sets["DFC 2017"], pair)
        np.testing.assert_array_equal(labels.confusion, expected)

    def test_the_guide_runs_and_shows_these_figures(self, kowloon, realdata, capsys):
        text = (PROJECT / "docs" / "guide" / "scores.md").read_text(encoding="utf-8")
        section = text.split("## Agreement: the ceiling")[1]
        code = section.split("```python\n")[1].split("```")[0]
        paths = [realdata / path for path in SETS.values()]
        names = {"paths": paths, "cube": {"lcz_global": kowloon[0]}}
        exec(code, names)
        sets = names["first"], names["second"]
        print(agreement_table([label_agreement(*sets, HANDS, grid=kowloon[1])]))
        printed = capsys.readouterr().out
        figures = re.findall(r"-?\d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\]", section)
        assert len(figures) == 9
        assert [figure for figure in figures if figure not in printed] == []
