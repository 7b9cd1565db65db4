import os
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pystac
import pytest
import rasterio.features
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from lczcube.errors import LabelError, MissingInputError
from lczcube.grid import Grid
from lczcube.labels import label_cells, leakage_report, rasterize_labels, read_labels
from lczcube.labels.leakage import LeakageReport
from lczcube.labels.table import COLUMNS

UTM = "EPSG:32632"
REALDATA = Path(os.environ.get("LCZCUBE_REALDATA", Path(__file__).parents[2] / "shared" / "data"))


def labels_of(*rows, crs=UTM):
    """A label table of (lcz, geometry) rows."""
    lcz, shapes = zip(*rows, strict=True)
    n = len(rows)
    values = {
        "patch_id": [f"in/{i:03d}" for i in range(n)],
        "city": "",
        "group": [f"in/{i:03d}" for i in range(n)],
        "lcz": np.array(lcz, np.uint8),
        "admissible": [str(code) for code in lcz],
        "split": "",
        "weight": np.float32(1),
        "year": np.int32(0),
        "source": "in",
        "license": "MIT",
        "crs": crs,
        "x0": np.nan,
        "y0": np.nan,
        "size_m": np.nan,
    }
    return gpd.GeoDataFrame(values, geometry=list(shapes), crs=crs)


def small_grid(stride_m=0):
    """4 x 4 cells of 40 m, 16 x 16 pixels of 10 m, upper-left corner at (1000, 2160)."""
    return Grid(UTM, (25, 50, 29, 54), pixel_m=10, cell_m=40, stride_m=stride_m, chunk_cells=4)


class FakeCatalog:
    """Items of label tables written to a folder, as a catalog hands them out."""

    def __init__(self, folder, **inputs):
        self.folder, self.inputs = folder, inputs

    def items(self, name):
        path = self.folder / f"{name}.parquet"
        self.inputs[name].to_parquet(path)
        item = pystac.Item(f"{name}_x", None, None, pd.Timestamp("2020-01-01").to_pydatetime(), {})
        item.set_self_href(str(self.folder / "items" / f"{name}_x.json"))
        item.add_asset("labels", pystac.Asset(f"../{name}.parquet"))
        return [item]


def named(table, name):
    ids = [f"{name}/{i:03d}" for i in range(len(table))]
    return table.assign(patch_id=ids, group=ids, source=name)


class TestReadLabels:
    def test_tables_of_all_inputs_are_one_table_sorted_by_patch_id(self, tmp_path):
        a = named(labels_of((1, shapely.box(0, 0, 9, 9)), (2, shapely.box(9, 0, 18, 9))), "a")
        b = named(labels_of((3, shapely.box(0, 9, 9, 18))), "b")
        labels = read_labels(FakeCatalog(tmp_path, a=a[::-1], b=b), ["b", "a"], crs=UTM)
        assert list(labels.columns) == list(COLUMNS)
        assert list(labels["patch_id"]) == ["a/000", "a/001", "b/000"]
        assert list(labels["lcz"]) == [1, 2, 3]
        assert labels["lcz"].dtype == np.uint8
        assert list(labels.index) == [0, 1, 2]

    def test_a_table_already_in_the_crs_keeps_its_coordinates_to_the_bit(self, tmp_path):
        corner = 691234.123456789
        table = labels_of((1, shapely.box(corner, 5334567.3, corner + 320, 5334887.3)))
        labels = read_labels(FakeCatalog(tmp_path, a=table), ["a"], crs=UTM)
        assert labels.geometry.iloc[0].equals_exact(table.geometry.iloc[0], 0)

    def test_another_crs_transforms_every_corner(self, tmp_path):
        table = labels_of((1, shapely.box(690000, 5330000, 690320, 5330320)))
        labels = read_labels(FakeCatalog(tmp_path, a=table), ["a"], crs="EPSG:32633")
        there = labels.geometry.iloc[0]
        assert shapely.get_num_coordinates(there) == 5
        assert there.bounds[2] - there.bounds[0] > 321
        back = labels.geometry.to_crs(UTM).iloc[0]
        assert back.normalize().equals_exact(table.geometry.iloc[0].normalize(), 1e-3)

    def test_the_default_crs_is_lonlat(self, tmp_path):
        table = labels_of((1, shapely.box(690000, 5330000, 690320, 5330320)))
        labels = read_labels(FakeCatalog(tmp_path, a=table), ["a"])
        assert labels.crs == "EPSG:4326"
        assert list(labels["crs"]) == [UTM]

    def test_a_row_without_city_gets_the_city_whose_bbox_holds_its_centroid(self, tmp_path):
        table = labels_of(
            (1, shapely.box(690000, 5330000, 690320, 5330320)),
            (1, shapely.box(500000, 5330000, 500320, 5330320)),
            (1, shapely.box(690000, 5330400, 690320, 5330720)),
        )
        table["city"] = ["", "", "named"]
        cities = {"munich": (11.3, 48.0, 11.8, 48.3)}
        labels = read_labels(FakeCatalog(tmp_path, a=table), ["a"], cities=cities)
        assert list(labels["city"]) == ["munich", "", "named"]

    def test_two_sources_with_the_same_patch_ids_are_refused(self, tmp_path):
        table = labels_of((1, shapely.box(0, 0, 9, 9)))
        with pytest.raises(LabelError, match="1 patch ids occur more than once, such as 'in/000'"):
            read_labels(FakeCatalog(tmp_path, a=table, b=table), ["a", "b"])

    def test_no_label_at_all_is_refused(self, tmp_path):
        table = labels_of((1, shapely.box(0, 0, 9, 9)))
        with pytest.raises(LabelError, match="no labels"):
            read_labels(FakeCatalog(tmp_path, a=table[:0]), ["a"])
        with pytest.raises(LabelError, match="none named"):
            read_labels(FakeCatalog(tmp_path), [])

    @pytest.mark.parametrize("code", [0, 18])
    def test_a_code_that_is_no_zone_is_refused_by_name(self, tmp_path, code):
        table = labels_of((code, shapely.box(0, 0, 9, 9)))
        with pytest.raises(LabelError, match=f"labels of a_x hold LCZ code {code}"):
            read_labels(FakeCatalog(tmp_path, a=table), ["a"])

    def test_a_table_without_a_column_is_refused(self, tmp_path):
        table = labels_of((1, shapely.box(0, 0, 9, 9))).drop(columns="weight")
        with pytest.raises(LabelError, match="lack the columns weight"):
            read_labels(FakeCatalog(tmp_path, a=table), ["a"])

    def test_points_are_refused(self, tmp_path):
        table = labels_of((1, shapely.Point(0, 0)))
        with pytest.raises(LabelError, match="1 rows that are not polygons"):
            read_labels(FakeCatalog(tmp_path, a=table), ["a"])

    def test_a_missing_table_is_named(self, tmp_path):
        catalog = FakeCatalog(tmp_path, a=labels_of((1, shapely.box(0, 0, 9, 9))))
        items = catalog.items("a")
        (tmp_path / "a.parquet").unlink()
        catalog.items = lambda _: items
        with pytest.raises(MissingInputError, match=r"a\.parquet is not there"):
            read_labels(catalog, ["a"])


class TestRasterizeLabels:
    def test_a_pixel_belongs_to_the_label_that_holds_its_centre(self):
        # x 1014..1036 holds the centres 1015, 1025, 1035 (columns 1-3);
        # y 2126..2146 holds 2135 and 2145 (rows 1 and 2 from the top, 2160).
        burnt = rasterize_labels(labels_of((6, shapely.box(1014, 2126, 1036, 2146))), small_grid())
        expected = np.zeros((16, 16), np.uint8)
        expected[1:3, 1:4] = 6
        np.testing.assert_array_equal(burnt["lcz"], expected)
        np.testing.assert_array_equal(burnt["patch"], expected > 0)
        assert burnt["lcz"].dtype == np.uint8
        assert burnt["patch"].dtype == np.int32

    def test_pixels_that_encode_their_position_come_back_in_place(self):
        # One label a pixel, its row number the pixel's position: any shift, flip or transposition
        # moves a number.
        rows, columns = np.mgrid[:16, :16]
        x, y = 1000 + 10 * columns.ravel(), 2160 - 10 * rows.ravel()
        shapes = shapely.box(x + 1, y - 9, x + 9, y - 1)
        burnt = rasterize_labels(labels_of(*[(1, shape) for shape in shapes]), small_grid())
        np.testing.assert_array_equal(burnt["patch"], 1 + np.arange(256).reshape(16, 16))

    def test_a_label_shifted_by_one_pixel_changes_the_raster_by_one_pixel(self):
        square = shapely.box(1040, 2040, 1080, 2080)
        here = rasterize_labels(labels_of((6, square)), small_grid())["lcz"].to_numpy()
        east = shapely.affinity.translate(square, xoff=10)
        south = shapely.affinity.translate(square, yoff=-10)
        moved_east = rasterize_labels(labels_of((6, east)), small_grid())["lcz"].to_numpy()
        moved_south = rasterize_labels(labels_of((6, south)), small_grid())["lcz"].to_numpy()
        assert not np.array_equal(here, moved_east)
        np.testing.assert_array_equal(moved_east, np.roll(here, 1, axis=1))
        np.testing.assert_array_equal(moved_south, np.roll(here, 1, axis=0))

    def test_the_raster_is_north_up_with_pixel_centres_as_coordinates(self):
        burnt = rasterize_labels(labels_of((6, shapely.box(1040, 2040, 1080, 2080))), small_grid())
        assert burnt["y"].to_numpy()[[0, -1]].tolist() == [2155, 2005]
        assert burnt["x"].to_numpy()[[0, -1]].tolist() == [1005, 1155]
        assert "WGS 84 / UTM zone 32N" in burnt["spatial_ref"].attrs["crs_wkt"]

    def test_pixels_claimed_by_two_classes_are_no_label_and_counted(self):
        west = shapely.box(1000, 2120, 1040, 2160)
        east = shapely.box(1020, 2120, 1060, 2160)
        burnt = rasterize_labels(labels_of((6, west), (2, east)), small_grid())
        top = [6, 6, 0, 0, 2, 2, 0, 0]
        assert burnt["lcz"].to_numpy()[0, :8].tolist() == top
        assert burnt["patch"].to_numpy()[0, :8].tolist() == [1, 1, 0, 0, 2, 2, 0, 0]
        assert burnt.attrs["n_conflicts"] == 2 * 4

    def test_pixels_claimed_by_three_classes_are_one_conflict(self):
        square = shapely.box(1000, 2150, 1010, 2160)
        burnt = rasterize_labels(labels_of((6, square), (2, square), (9, square)), small_grid())
        assert burnt.attrs["n_conflicts"] == 1
        assert burnt["lcz"].to_numpy().sum() == 0

    def test_the_first_of_two_labels_of_one_class_has_the_pixel(self):
        west = shapely.box(1000, 2120, 1040, 2160)
        east = shapely.box(1020, 2120, 1060, 2160)
        burnt = rasterize_labels(labels_of((6, west), (6, east)), small_grid())
        assert burnt["patch"].to_numpy()[0, :8].tolist() == [1, 1, 1, 1, 2, 2, 0, 0]
        assert burnt.attrs["n_conflicts"] == 0

    def test_labels_without_a_pixel_are_counted(self):
        sliver = shapely.box(1001, 2150, 1003, 2160)
        outside = shapely.box(0, 0, 40, 40)
        square = shapely.box(1040, 2040, 1080, 2080)
        labels = labels_of((6, square), (6, sliver), (6, outside))
        assert rasterize_labels(labels, small_grid()).attrs["n_without_pixel"] == 2

    def test_labels_in_another_crs_land_on_the_same_pixels(self):
        grid = Grid.from_bbox((690000, 5330000, 691280, 5331280), bbox_crs=UTM, crs=UTM)
        labels = labels_of((6, shapely.box(690324, 5330324, 690644, 5330644)))
        here = rasterize_labels(labels, grid)
        there = rasterize_labels(labels.to_crs("EPSG:4326"), grid)
        np.testing.assert_array_equal(here["patch"], there["patch"])

    def test_no_overlap_of_labels_and_grid_is_refused_with_both_boxes(self):
        labels = labels_of((6, shapely.box(0, 0, 40, 40)))
        with pytest.raises(LabelError, match=r"\(0, 0, 40, 40\), the grid in \(1000, 2000"):
            rasterize_labels(labels, small_grid())

    def test_an_empty_table_gives_no_label_anywhere(self):
        labels = labels_of((6, shapely.box(0, 0, 40, 40)))[:0]
        assert rasterize_labels(labels, small_grid())["lcz"].to_numpy().max() == 0

    def test_labels_without_crs_are_refused(self):
        labels = labels_of((6, shapely.box(1000, 2000, 1040, 2040)), crs=None)
        with pytest.raises(LabelError, match="no CRS"):
            rasterize_labels(labels, small_grid())

    @settings(max_examples=30, deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.integers(1, 3),
                st.floats(990, 1150),
                st.floats(1990, 2150),
                st.floats(3, 90),
                st.floats(0, 90),
            ),
            min_size=1,
            max_size=8,
        )
    )
    def test_every_pixel_follows_the_rule_label_by_label(self, rows):
        shapes = [
            shapely.affinity.rotate(shapely.box(x, y, x + side, y + side / 2), angle)
            for _, x, y, side, angle in rows
        ]
        anchor = (1, shapely.box(1002, 2002, 1008, 2008))
        labels = labels_of(anchor, *[(row[0], s) for row, s in zip(rows, shapes, strict=True)])
        grid = small_grid()
        lcz, patch, n_conflicts = _burn_one_by_one(labels, grid)
        burnt = rasterize_labels(labels, grid)
        np.testing.assert_array_equal(burnt["lcz"], lcz)
        np.testing.assert_array_equal(burnt["patch"], patch)
        assert burnt.attrs["n_conflicts"] == n_conflicts

    def test_the_rule_is_centre_in_polygon_by_shapely_too(self):
        blob = shapely.Point(1077.3, 2081.7).buffer(51.3)
        burnt = rasterize_labels(labels_of((6, blob)), small_grid())
        x, y = np.meshgrid(burnt["x"], burnt["y"])
        np.testing.assert_array_equal(burnt["lcz"] > 0, shapely.contains_xy(blob, x, y))

    @settings(max_examples=20, deadline=None)
    @given(st.floats(0.5, 30))
    def test_erosion_keeps_the_pixels_that_lie_so_far_inside(self, erosion_m):
        blob = shapely.Polygon([(1003, 2004), (1150, 2020), (1120, 2155), (1030, 2140)])
        burnt = rasterize_labels(labels_of((6, blob)), small_grid(), erosion_m=erosion_m)
        x, y = np.meshgrid(burnt["x"], burnt["y"])
        inside = shapely.contains_xy(blob, x, y)
        depth = shapely.distance(blob.exterior, shapely.points(x, y))
        np.testing.assert_array_equal(burnt["lcz"] > 0, inside & (depth > erosion_m))

    def test_a_label_that_erosion_leaves_nothing_of_is_counted(self):
        labels = labels_of(
            (6, shapely.box(1000, 2000, 1080, 2080)), (2, shapely.box(1100, 2100, 1120, 2120))
        )
        burnt = rasterize_labels(labels, small_grid(), erosion_m=15)
        assert set(np.unique(burnt["lcz"])) == {0, 6}
        assert burnt.attrs["n_without_pixel"] == 1
        with pytest.raises(LabelError, match="erosion_m = -1: erosion is 0 m or more"):
            rasterize_labels(labels, small_grid(), erosion_m=-1)

    def test_the_split_of_each_pixel_is_that_of_its_label(self):
        west, east = shapely.box(1000, 2000, 1040, 2160), shapely.box(1080, 2000, 1120, 2160)
        labels = labels_of((6, west), (2, east)).assign(split=["testing", ""])
        burnt = rasterize_labels(labels, small_grid())
        expected = np.where(burnt["lcz"] == 6, 3, 0)
        np.testing.assert_array_equal(burnt["split"], expected)
        assert burnt["split"].dtype == np.uint8
        assert burnt["split"].attrs["flag_meanings"] == "none training validation testing"

    def test_hong_kong_polygons_burn_to_the_publishers_own_raster(self):
        folder = REALDATA / "hongkong"
        if not folder.is_dir():
            pytest.skip("real data is absent: set LCZCUBE_REALDATA")
        polygons = gpd.read_file(folder / "lcz_dfc2017_train_polygons.gpkg")
        with rasterio.open(folder / "lcz_dfc2017_train.tif") as raster:
            published = raster.read(1)
            origin = raster.transform
            crs = str(raster.crs)
        corner_um = (round(origin.c * 1e6), round(origin.f * 1e6))
        rows, columns = published.shape
        grown = (0, -rows, columns, 0)
        grid = Grid(crs, grown, corner_um, pixel_m=100, cell_m=100, chunk_cells=10)
        burnt = rasterize_labels(polygons, grid)
        np.testing.assert_array_equal(burnt["lcz"], np.where(published > 17, 0, published))


class TestLabelCells:
    def test_an_output_pixel_belongs_to_the_label_that_holds_its_centre(self):
        # Cells of 40 m: centres at x 1020, 1060, ... and y 2140, 2100, ...
        labels = labels_of((6, shapely.box(1030, 2090, 1110, 2160)))
        cells = label_cells(labels, small_grid())
        assert cells.to_dict("list") == {
            "row": [0, 0, 1, 1],
            "column": [1, 2, 1, 2],
            "label": [0, 0, 0, 0],
        }

    def test_cells_of_two_classes_are_left_out_and_counted(self):
        west = shapely.box(1000, 2120, 1080, 2160)
        east = shapely.box(1040, 2120, 1120, 2160)
        cells = label_cells(labels_of((6, west), (2, east)), small_grid())
        assert cells["column"].tolist() == [0, 2]
        assert cells["label"].tolist() == [0, 1]
        assert cells.attrs == {"n_conflicts": 1, "n_without_pixel": 0}

    def test_a_stride_gives_output_pixels_of_the_stride(self):
        labels = labels_of((6, shapely.box(1020, 2140, 1040, 2160)))
        cells = label_cells(labels, small_grid(stride_m=20))
        assert cells[["row", "column"]].to_numpy().tolist() == [[0, 1]]


def so2sat_squares(realdata, split):
    """Squares of a split of So2Sat LCZ42 by EPSG code, by the publisher's geolocation."""
    import h5py

    with h5py.File(realdata / "so2sat" / f"{split}_geo.h5") as file:
        codes, tfw = file["epsg"][:].ravel(), file["tfw"][:]
    left, top = tfw[:, 0], tfw[:, 3]
    squares = shapely.box(left, top - 320, left + 320, top)
    return {
        code: gpd.GeoDataFrame(geometry=squares[codes == code], crs=int(code))
        for code in np.unique(codes)
    }


class TestLeakageReport:
    def test_the_report_of_squares_worked_by_hand(self):
        train = labels_of((1, shapely.box(0, 0, 10, 10)), (1, shapely.box(5, 0, 15, 10)))
        test = labels_of(
            (1, shapely.box(8, 5, 18, 15)),  # shares x 8..15, y 5..10 with the union: 35 m2
            (1, shapely.box(15, 0, 25, 10)),  # shares an edge
            (1, shapely.box(30, 0, 40, 10)),  # 15 m away
        )
        report = leakage_report(train, test)
        # Centres: (5, 5) and (10, 5) against (13, 10), (20, 5), (35, 5).
        nearest = pytest.approx(34**0.5)
        assert report == LeakageReport(pytest.approx(2 / 3), pytest.approx(35), 0.0, 3, 3, nearest)

    def test_the_nearest_distance_is_given_where_nothing_touches(self):
        train = labels_of((1, shapely.box(0, 0, 10, 10)))
        test = labels_of((1, shapely.box(13, 14, 20, 20)), (1, shapely.box(90, 0, 99, 9)))
        nearest = pytest.approx((11.5**2 + 12**2) ** 0.5)
        assert leakage_report(train, test) == LeakageReport(0.0, 0.0, 5.0, 2, 2, nearest)

    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_random_patches_agree_with_brute_force(self, seed):
        rng = np.random.default_rng(seed)
        corners = rng.uniform(0, 4000, (120, 2))
        shapes = shapely.box(*corners.T, *(corners + 320).T)
        train = gpd.GeoDataFrame(geometry=shapes[:70], crs=UTM)
        test = gpd.GeoDataFrame(geometry=shapes[70:], crs=UTM)
        union = shapely.union_all(shapes[:70])
        report = leakage_report(train, test)
        touching = [any(t.intersects(other) for other in shapes[:70]) for t in shapes[70:]]
        assert report.share_touching == pytest.approx(np.mean(touching))
        area = sum(t.intersection(union).area for t in shapes[70:])
        assert report.shared_area_m2 == pytest.approx(area)
        nearest = min(t.distance(other) for t in shapes[70:] for other in shapes[:70])
        assert report.nearest_m == pytest.approx(nearest)
        between = corners[70:, None] - corners[None, :70]
        distances = np.hypot(*np.moveaxis(between, -1, 0)).min(axis=1)
        assert report.nearest_centre_m == pytest.approx(distances.min())
        assert report.n_near == (distances < 320).sum()

    def test_four_hundred_thousand_patches_that_overlap_are_measured(self):
        """By an index, in 2 s; pair by pair they would be 26 billion."""
        rng = np.random.default_rng(0)
        sites = np.repeat(rng.uniform(0, 400_000, (20_000, 2)), 20, axis=0)
        corners = sites + rng.integers(-4, 5, sites.shape) * 100
        patches = gpd.GeoDataFrame(geometry=shapely.box(*corners.T, *(corners + 320).T), crs=UTM)
        report = leakage_report(patches[:320_000], patches[320_000:])
        assert report.n_test == 80_000
        assert 0.1 < report.share_touching < 0.2

    def test_a_random_split_of_patches_that_overlap_shouts(self):
        rng = np.random.default_rng(0)
        corners = rng.uniform(0, 8_000, (4_000, 2))
        patches = gpd.GeoDataFrame(geometry=shapely.box(*corners.T, *(corners + 320).T), crs=UTM)
        report = leakage_report(patches[:3_000], patches[3_000:])
        assert report.share_touching > 0.99
        assert str(report).startswith(f"{report.share_touching:.1%} of 1000 evaluation patches")

    def test_the_official_split_of_so2sat_leaks_as_known(self, realdata):
        reports, brute = [], 0
        squares = [so2sat_squares(realdata, split) for split in ("validation", "testing")]
        for epsg in sorted(squares[1]):
            validation, testing = (by_zone[epsg] for by_zone in squares)
            reports.append(leakage_report(validation, testing))
            overlaps = [
                np.abs(
                    validation.bounds[side].to_numpy() - testing.bounds[side].to_numpy()[:, None]
                )
                <= 320
                for side in ("minx", "miny")
            ]
            brute += int((overlaps[0] & overlaps[1]).any(axis=1).sum())
        pooled = LeakageReport.pooled(reports)
        assert pooled.n_test == 24_188
        assert pooled.n_touching == brute == 2085
        assert pooled.n_near == 1862
        assert pooled.nearest_centre_m == pytest.approx(100)

    def test_no_training_patch_leaks_nothing(self):
        test = labels_of((1, shapely.box(0, 0, 10, 10)))
        assert leakage_report(test[:0], test) == LeakageReport(0.0, 0.0, None, 1)

    def test_two_crss_and_degrees_are_refused(self):
        square = shapely.box(0, 0, 10, 10)
        metres, degrees = labels_of((1, square)), labels_of((1, square), crs="EPSG:4326")
        with pytest.raises(LabelError, match="EPSG:4326, evaluation patches in EPSG:32632"):
            leakage_report(degrees, metres)
        with pytest.raises(LabelError, match="not projected in metres"):
            leakage_report(degrees, degrees)

    def test_no_evaluation_patch_is_refused(self):
        train = labels_of((1, shapely.box(0, 0, 10, 10)))
        with pytest.raises(LabelError, match="no evaluation patches"):
            leakage_report(train, train[:0])

    def test_reports_of_cities_pool_by_their_patches(self):
        pooled = LeakageReport.pooled(
            [LeakageReport(0.5, 10.0, 0.0, 10), LeakageReport(0.0, 0.0, None, 30)]
        )
        assert pooled == LeakageReport(0.125, 10.0, 0.0, 40)
        assert pooled.to_dict() == {
            "n_near": 0,
            "n_test": 40,
            "nearest_centre_m": None,
            "nearest_m": 0.0,
            "share_touching": 0.125,
            "shared_area_m2": 10.0,
        }


def _burn_one_by_one(labels, grid):
    lcz = np.zeros(grid.shape, np.uint8)
    patch = np.zeros(grid.shape, np.int32)
    conflict = np.zeros(grid.shape, bool)
    for number, (code, shape) in enumerate(zip(labels["lcz"], labels.geometry, strict=True), 1):
        mask = rasterio.features.rasterize(
            [(shape, 1)], out_shape=grid.shape, transform=grid.geobox.affine
        ).astype(bool)
        conflict |= mask & (lcz > 0) & (lcz != code)
        first = mask & (lcz == 0)
        lcz[first], patch[first] = code, number
    lcz[conflict], patch[conflict] = 0, 0
    return lcz, patch, int(conflict.sum())
