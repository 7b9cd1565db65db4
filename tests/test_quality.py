"""Quality of labels: shapes and overlaps worked by hand, planted outliers, real training areas."""

import json
import re
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyogrio
import pytest
import rasterio
import shapely
import xarray as xr
from pyproj import Geod
from sklearn.cluster import DBSCAN

from lczcube.cube import GRID_ATTR, open_cube
from lczcube.errors import LabelError
from lczcube.grid import Grid
from lczcube.labels import (
    QualityReport,
    QualityRules,
    check_labels,
    compare_labels,
    drop_suspects,
    plot_suspects,
    read_labels,
)
from lczcube.labels.flags import FLAGS
from lczcube.labels.outliers import MAX_PIXELS, find_noise, find_outliers, usual_distance
from lczcube.labels.overlaps import find_overlaps
from lczcube.labels.quality_plot import FLAG_COLOURS, FLAG_WORDS, _Picture
from lczcube.labels.samples import build_samples
from lczcube.labels.shapes import measure_shapes
from lczcube.layers import layer_geobox
from lczcube.windows import aggregate
from tests.conftest import PROJECT
from tests.scenes import CRS, catalog_of, raster_input

X0, Y0 = 690_000.0, 5_330_000.0

Shapes = dict[str, tuple[int, Any]]


def square(x: float, y: float = 0, *, width: float = 400, height: float = 400) -> shapely.Polygon:
    """A rectangle, metres from the corner of the scene."""
    return shapely.box(X0 + x, Y0 + y, X0 + x + width, Y0 + y + height)


def table(shapes: Shapes, crs: str = CRS) -> gpd.GeoDataFrame:
    codes = np.array([code for code, _ in shapes.values()], np.uint8)
    columns = {"patch_id": list(shapes), "lcz": codes}
    return gpd.GeoDataFrame(columns, geometry=[s for _, s in shapes.values()], crs=crs)


def row_of(report: QualityReport, patch_id: str) -> Any:
    return report.table.set_index("patch_id").loc[patch_id]


def flags_of(report: QualityReport) -> dict[str, str]:
    return dict(zip(report.table["patch_id"], report.table["flags"], strict=True))


def samples_of(
    labels: gpd.GeoDataFrame, features: list[npt.NDArray[np.float64]], *, absent: int = 0
) -> xr.Dataset:
    """Samples of polygons as build_samples gives them: one array (pixel, feature) per label."""
    grid = Grid.from_bbox((X0, Y0, X0 + 3200, Y0 + 3200), bbox_crs=CRS, crs=CRS)
    ids = [
        f"{patch_id}@{row}-{column}"
        for patch_id, values in zip(labels["patch_id"], features, strict=True)
        for row, column in (divmod(i, 20) for i in range(len(values)))
    ]
    stacked = np.concatenate(features).astype(np.float32)
    names = [f"f{i}" for i in range(stacked.shape[1])]
    n = len(ids)
    order = np.argsort(ids)
    lcz = np.repeat(labels["lcz"].to_numpy(np.uint8), [len(v) for v in features])
    data = {
        "patch_id": ("sample", np.array(ids, dtype=object)[order]),
        "lcz": ("sample", lcz[order]),
        "x": ("sample", X0 + np.arange(n, dtype=float)),
        "y": ("sample", Y0 + np.arange(n, dtype=float)),
        "features": (("sample", "feature"), stacked[order]),
    }
    attrs = {GRID_ATTR: grid.to_json(), "absent_features": json.dumps(names[:absent])}
    return xr.Dataset(data, coords={"feature": names}, attrs=attrs)


def many(n: int, code: int = 6, start: int = 0) -> Shapes:
    """Squares of one class beside each other."""
    return {f"{code:02d}-{i:03d}": (code, square(500 * (start + i))) for i in range(n)}


def drawn(seed: int, means: npt.NDArray[np.float64], n_pixels: int) -> list[npt.NDArray[Any]]:
    random = np.random.default_rng(seed)
    return [mean + 0.3 * random.normal(size=(n_pixels, len(mean))) for mean in means]


# Shapes


def test_area_compactness_and_width_are_those_worked_by_hand() -> None:
    ring = square(2000).difference(square(2100, 100, width=200, height=200))
    parts = shapely.MultiPolygon([square(4000), square(5000)])
    labels = table(
        {
            "a square": (6, square(0)),
            "b strip": (6, square(500, width=50, height=800)),
            "c ring": (6, ring),
            "d parts": (6, parts),
            "e disc": (6, shapely.Point(X0 + 8000, Y0).buffer(300, quad_segs=200)),
        }
    )
    shapes = measure_shapes(labels)
    # 400 x 400; 50 x 800; 400 x 400 less 200 x 200; two of 400 x 400; pi 300².
    np.testing.assert_allclose(shapes["area_km2"], [0.16, 0.04, 0.12, 0.32, 0.28274], rtol=1e-4)
    by_hand = [
        np.pi / 4,  # 4 pi 160,000 / 1,600²
        4 * np.pi * 40_000 / 1_700**2,
        4 * np.pi * 120_000 / 2_400**2,  # 1,600 outside, 800 inside
        np.pi / 4,  # each part by itself, not 4 pi 320,000 / 3,200²
        1.0,
    ]
    np.testing.assert_allclose(shapes["compactness"], by_hand, rtol=1e-4)
    # The ring is 100 m wide on its sides; at a corner a circle of 2 (2 - sqrt 2) x 100 m fits in.
    np.testing.assert_allclose(shapes["width_m"], [400, 50, 200 * (2 - 2**0.5), 400, 600], atol=2)
    assert shapes["n_parts"].tolist() == [1, 1, 1, 2, 1]


def test_the_limits_themselves_are_allowed() -> None:
    labels = table(
        {
            "at": (6, square(0, width=200, height=200)),
            "under": (6, square(500, width=199, height=200)),
        }
    )
    assert flags_of(check_labels(labels)) == {"at": "", "under": "small"}


def test_each_shape_gets_its_flag_and_a_reason_with_its_measure() -> None:
    bow_tie = shapely.Polygon(
        [(X0, Y0), (X0 + 800, Y0 + 800), (X0 + 800, Y0), (X0, Y0 + 800), (X0, Y0)]
    )
    labels = table(
        {
            "bow": (6, bow_tie),
            "fine": (6, square(2000)),
            "long": (6, square(4000, width=2500, height=120)),
            "sliver": (6, square(8000, width=900, height=60)),
            "tiny": (6, square(12000, width=150, height=150)),
        }
    )
    report = check_labels(labels)
    assert flags_of(report) == {
        "bow": "invalid",
        "fine": "",
        "long": "complex",
        "sliver": "complex;narrow",
        "tiny": "small",
    }
    # Two triangles of 800 m x 400 m / 2.
    assert row_of(report, "bow")["area_km2"] == pytest.approx(0.32)
    assert "Self-intersection" in row_of(report, "bow")["reason"]
    # 4 pi 300,000 / 5,240² = 0.137; 4 pi 54,000 / 1,920² = 0.184
    assert row_of(report, "long")["reason"] == "compactness 0.14, under 0.25"
    assert row_of(report, "sliver")["reason"] == (
        "compactness 0.18, under 0.25; 60 m wide at most, under 100"
    )
    assert row_of(report, "tiny")["reason"] == "0.022 km2, under 0.04"
    assert report.counts == dict.fromkeys(FLAGS, 0) | {
        "invalid": 1, "complex": 2, "narrow": 1, "small": 1
    }  # fmt: skip


def test_the_limits_are_the_rules_given() -> None:
    labels = table({"tiny": (6, square(0, width=150, height=150))})
    rules = QualityRules(min_area_km2=0.0225, min_width_m=151, min_compactness=0.8)
    report = check_labels(labels, rules=rules)
    assert flags_of(report) == {"tiny": "complex;narrow"}
    assert report.rules is rules


@pytest.mark.parametrize(
    "lonlat", [(11.5, 48.1), (-58.4, -34.6), (114.2, 22.3), (2.9, 0.3), (-43.2, -22.9)]
)
@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857"])
def test_areas_are_geodesic_to_two_in_a_thousand(lonlat: tuple[float, float], crs: str) -> None:
    lon, lat = lonlat
    steps = np.linspace(-0.1, 0.1, 5)
    polygons = [
        shapely.box(lon + dx, lat + dy, lon + dx + 0.01, lat + dy + 0.01)
        for dx in steps
        for dy in steps
    ]
    labels = table({f"{i:02d}": (6, p) for i, p in enumerate(polygons)}, crs="EPSG:4326")
    geod = Geod(ellps="WGS84")
    expected = [abs(geod.geometry_area_perimeter(p)[0]) / 1e6 for p in polygons]
    measured = measure_shapes(labels.to_crs(crs))["area_km2"]
    np.testing.assert_allclose(measured, expected, rtol=2e-3)


def test_labels_too_far_apart_for_one_zone_are_refused() -> None:
    labels = table(
        {"a": (6, shapely.box(10, 48, 10.01, 48.01)), "b": (6, shapely.box(30, 48, 30.01, 48.01))},
        crs="EPSG:4326",
    )
    with pytest.raises(LabelError, match=r"span 20 degrees .* one city at a time"):
        check_labels(labels)


def test_a_projected_crs_in_feet_is_measured_in_metres() -> None:
    labels = table({"a": (6, square(0))}).to_crs("EPSG:2263")  # New York, US survey feet
    near = gpd.GeoDataFrame(
        {"patch_id": ["a"], "lcz": np.array([6], np.uint8)},
        geometry=[shapely.box(-74.0, 40.7, -73.99, 40.71)],
        crs="EPSG:4326",
    )
    expected = abs(Geod(ellps="WGS84").geometry_area_perimeter(near.geometry.iloc[0])[0]) / 1e6
    measured = measure_shapes(near.to_crs("EPSG:2263"))["area_km2"].iloc[0]
    assert measured == pytest.approx(expected, rel=2e-3)
    assert labels.crs.axis_info[0].unit_name != "metre"


# Overlaps


def test_a_contradiction_has_the_area_and_the_share_worked_by_hand() -> None:
    labels = table(
        {
            "a": (2, square(0)),  # 0.16 km2
            "b": (17, square(300, width=200, height=400)),  # 0.08 km2, 0.04 of it over a
            "c": (2, square(-400, width=400, height=400)),  # touches a
            "d": (2, square(100, 100, width=400, height=400)),  # same class as a
        }
    )
    pairs = find_overlaps(labels).set_index(["first", "second"])
    assert list(pairs.index) == [("a", "b"), ("a", "d"), ("b", "d")]
    assert pairs.loc[("a", "b"), "area_km2"] == pytest.approx(0.04)
    assert pairs.loc[("a", "b"), "share"] == pytest.approx(0.5)
    assert pairs.loc[("a", "b"), "iou"] == pytest.approx(0.04 / 0.20)
    report = check_labels(labels)
    assert flags_of(report) == {"a": "contradicts", "b": "contradicts", "c": "", "d": "contradicts"}
    # b and d share 200 m x 300 m.
    assert row_of(report, "b")["reason"] == "contradicts LCZ 2 of d on 0.060 km2 and 1 more"
    assert row_of(report, "a")["reason"] == "contradicts LCZ G of b on 0.040 km2"
    # Shares of the label itself: 0.06 of 0.08 km2, and 0.04 of 0.16.
    assert row_of(report, "b")["overlap_share"] == pytest.approx(0.75)
    assert row_of(report, "a")["overlap_share"] == pytest.approx(0.25)
    assert row_of(report, "c")["overlap_share"] == 0
    assert "2 pairs of different classes, 0.100 km2; 1 of the same class" in report.to_text()


def test_a_border_drawn_twice_is_no_contradiction() -> None:
    labels = table({"a": (2, square(0)), "b": (3, square(397))})  # 3 of 400 m: 0.75 %
    report = check_labels(labels)
    assert flags_of(report) == {"a": "", "b": ""}
    assert len(report.overlaps) == 1
    strict = check_labels(labels, rules=QualityRules(min_overlap_share=0.005))
    assert flags_of(strict) == {"a": "contradicts", "b": "contradicts"}


def test_repeats_are_flagged_but_the_first() -> None:
    labels = table(
        {"c": (2, square(0)), "a": (2, square(0)), "b": (2, square(0)), "d": (2, square(40))}
    )
    report = check_labels(labels)
    assert flags_of(report) == {"a": "", "b": "duplicate", "c": "duplicate", "d": ""}
    assert row_of(report, "c")["reason"] == "repeats a"
    kept = drop_suspects(labels, report, flags=["duplicate"])
    assert kept["patch_id"].tolist() == ["a", "d"]


def test_two_sources_are_compared() -> None:
    ours = table(
        {
            "a": (2, square(0)),
            "b": (3, square(1000)),
            "c": (6, square(2000)),
            "d": (6, square(9000)),
        }
    )
    theirs = table({"x": (2, square(0)), "y": (5, square(1000)), "z": (11, square(2200))})
    found = compare_labels(ours, theirs.to_crs("EPSG:4326"))
    assert (found.n_first, found.n_second) == (4, 3)
    assert (found.n_identical, found.n_identical_same_class) == (2, 1)
    assert found.share_identical == 0.5
    # b and y share all of 0.16 km2, c and z half of it.
    assert found.n_contradicting == 2
    assert found.contradicting_km2 == pytest.approx(0.24, rel=1e-4)
    assert found.agreeing_km2 == pytest.approx(0.16, rel=1e-4)
    assert "40% of it in agreement" in found.to_text()
    with pytest.raises(LabelError, match="4 and 0 labels"):
        compare_labels(ours, theirs.iloc[:0])


# Features


def test_the_noise_is_that_of_scikit_learn() -> None:
    n_noise = 0
    for seed in range(20):
        random = np.random.default_rng(seed)
        values = random.standard_t(2, size=(40, 3))
        ratio, noise = find_noise(values, 2)
        nearest = np.sort(np.linalg.norm(values[:, None] - values[None], axis=2), axis=1)[:, 2]
        limit = usual_distance(nearest)
        np.testing.assert_allclose(ratio, nearest / limit)
        expected = DBSCAN(eps=limit, min_samples=3).fit_predict(values) == -1
        np.testing.assert_array_equal(noise, expected)
        n_noise += int(noise.sum())
    assert n_noise > 20


def test_the_usual_distance_is_worked_by_hand() -> None:
    # Median 10; deviations 4, 2, 0, 2, 90, median 2, scaled 2.9652; 10 + 3 x 2.9652.
    assert usual_distance(np.array([6.0, 8, 10, 12, 100])) == pytest.approx(18.8956)
    # Equal distances: half the median more, not nothing.
    assert usual_distance(np.full(5, 2.0)) == pytest.approx(3.0)
    assert usual_distance(np.zeros(5)) > 0


def planted(seed: int, *, n: int, n_features: int, shift: float) -> tuple[bool, float]:
    """Whether the one wrong polygon is found, and the share flagged of those that are right."""
    random = np.random.default_rng(seed)
    labels = table(many(n, 6) | many(n, 14, start=n))
    centres = np.repeat([np.zeros(n_features), np.full(n_features, shift)], n, axis=0)
    means = centres + random.normal(size=centres.shape)
    labels.loc[0, "lcz"] = np.uint8(14)  # a polygon of 6 in the folder of 14
    found = find_outliers(labels, samples_of(labels, drawn(seed, means, 25))).polygons
    return bool(found["is_outlier"].iloc[0]), float(found["is_outlier"].iloc[1:].mean())


@pytest.mark.parametrize("n_features", [4, 16])
def test_a_label_of_the_wrong_class_is_found_and_few_right_ones_are_flagged(
    n_features: int,
) -> None:
    results = [planted(seed, n=14, n_features=n_features, shift=6.0) for seed in range(20)]
    hits, false = np.mean([hit for hit, _ in results]), np.mean([share for _, share in results])
    print(f"{n_features} features: found {hits:.0%}, right ones flagged {false:.1%}")
    assert hits == 1.0
    assert false < 0.04


def test_the_polygon_most_alike_is_told() -> None:
    labels = table(many(7, 6) | many(7, 14, start=7))
    means = np.concatenate([np.zeros((7, 3)), np.full((7, 3), 9.0)])
    means += np.random.default_rng(1).normal(size=means.shape)
    labels.loc[0, "lcz"] = np.uint8(14)
    means[8] = means[0] + 0.01  # the nearest of all, of class 14
    means[8, 0] += 0.02
    report = check_labels(labels, samples_of(labels, drawn(0, means, 2)))
    row = row_of(report, "06-000")
    assert (row["like"], row["like_lcz"]) == ("14-001", 14)


def test_a_class_of_few_labels_is_not_judged_and_that_is_said() -> None:
    labels = table(many(5, 6) | many(6, 17, start=5) | {"z none": (17, square(9000))})
    means = np.random.default_rng(0).normal(size=(11, 3))
    means[0] = 100.0
    samples = samples_of(labels.iloc[:11], drawn(0, means, 3))
    report = check_labels(labels, samples)
    assert report.table["score"].isna().tolist() == [True] * 5 + [False] * 6 + [True]
    assert "unlike_class" not in row_of(report, "06-000")["flags"]
    assert report.notes == (
        "classes with under 6 labels that have samples cannot be judged: LCZ 6 (5)",
        "1 labels have no sample: features say nothing of them",
        "11 labels have under 20 samples: not looked at inside",
    )
    assert "not judged: classes with under 6" in report.to_text()


def test_two_appearances_of_a_class_are_not_suspicious() -> None:
    labels = table(many(12, 6))
    means = np.random.default_rng(3).normal(size=(12, 8))
    means[:5] += 30  # flat roofs here, tiles there
    report = check_labels(labels, samples_of(labels, drawn(0, means, 5)))
    assert report.counts["unlike_class"] == 0


def test_a_polygon_with_a_lake_is_mixed_and_its_pixels_are_told() -> None:
    labels = table(many(8, 6))
    means = np.random.default_rng(0).normal(size=(8, 4))
    pixels = drawn(0, means, 100)
    pixels[3][:40] += 8.0  # 40 of 100 pixels are of something else
    pixels[5][:10] += 8.0  # 10: under a quarter
    report = check_labels(labels, samples_of(labels, pixels))
    assert flags_of(report)["06-003"] == "mixed"
    assert row_of(report, "06-003")["apart_share"] == pytest.approx(0.40, abs=0.05)
    assert row_of(report, "06-005")["apart_share"] == pytest.approx(0.10, abs=0.05)
    assert report.counts["mixed"] == 1
    of_lake = report.pixels[report.pixels["patch_id"] == "06-003"]["sample"]
    planted = {f"06-003@{i // 20}-{i % 20}" for i in range(40)}
    assert planted <= set(of_lake)
    assert report.pixels.crs == CRS


def test_clean_polygons_are_not_mixed() -> None:
    shares = []
    for seed in range(10):
        labels = table(many(8, 6))
        means = np.random.default_rng(seed).normal(size=(8, 6))
        report = check_labels(labels, samples_of(labels, drawn(seed, means, 80)))
        assert report.counts["mixed"] == 0
        shares.append(report.table["apart_share"].mean())
    print(f"pixels apart by chance: {np.mean(shares):.1%}")
    assert np.mean(shares) < 0.05


def test_of_a_large_polygon_pixels_are_drawn_over_all_of_it() -> None:
    labels = table(many(2, 6))
    pixels = drawn(0, np.zeros((2, 2)), 3 * MAX_PIXELS)
    pixels[0][: 2 * MAX_PIXELS] += 10.0  # two thirds, and so the largest group
    found = find_outliers(labels, samples_of(labels, pixels))
    assert found.polygons["apart_share"].iloc[0] == pytest.approx(1 / 3, abs=0.03)


def test_features_that_a_city_lacks_take_no_part() -> None:
    labels = table(many(8, 6))
    means = np.random.default_rng(0).normal(size=(8, 3))
    pixels = drawn(0, means, 30)
    whole = find_outliers(labels, samples_of(labels, [p[:, 1:] for p in pixels]))
    for values in pixels:
        values[:, 0] = np.nan
    lacking = find_outliers(labels, samples_of(labels, pixels, absent=1))
    pd.testing.assert_frame_equal(lacking.polygons, whole.polygons)


def test_the_order_of_rows_changes_nothing() -> None:
    labels = table(many(9, 6) | many(9, 14, start=8))
    means = np.random.default_rng(0).normal(size=(18, 5))
    means[2] += 12
    pixels = drawn(0, means, 30)
    pixels[4][::4] += 8.0
    samples = samples_of(labels, pixels)
    report = check_labels(labels, samples)
    random = np.random.default_rng(1)
    mixed = labels.sample(frac=1, random_state=1)
    shuffled = samples.isel(sample=random.permutation(samples.sizes["sample"]))
    again = check_labels(mixed, shuffled)
    pd.testing.assert_frame_equal(pd.DataFrame(again.table), pd.DataFrame(report.table))
    pd.testing.assert_frame_equal(again.overlaps, report.overlaps)
    pd.testing.assert_frame_equal(again.pixels, report.pixels)
    assert report.counts["unlike_class"] >= 1
    assert report.counts["contradicts"] == 2
    assert len(report.pixels) >= 8


def test_samples_of_other_labels_are_refused() -> None:
    labels = table(many(8, 6))
    samples = samples_of(labels, drawn(0, np.zeros((8, 2)), 3))
    other = table(many(8, 14))
    with pytest.raises(LabelError, match=r"none of the 24 samples is of these 8 labels"):
        check_labels(other, samples)


def test_patches_are_their_own_samples() -> None:
    labels = table(many(8, 6))
    labels["patch_id"] = [f"so2sat@{i}" for i in range(8)]  # the mark of cells in an id
    samples = samples_of(labels, [np.full((1, 2), float(i)) for i in range(8)])
    samples["patch_id"] = ("sample", labels["patch_id"].to_numpy(object))
    assert find_outliers(labels, samples).polygons["n_samples"].tolist() == [1] * 8


# Outcome


def suspicious() -> tuple[gpd.GeoDataFrame, QualityReport]:
    labels = table(
        {
            "a": (2, square(0)),
            "b": (17, square(200)),
            "c": (6, square(2000, width=100, height=100)),
            "d": (6, square(3000)),
        }
    )
    labels.attrs["n_sets"] = 3
    return labels, check_labels(labels)


def test_nothing_is_dropped_but_by_name_and_it_is_counted() -> None:
    labels, report = suspicious()
    before = labels.copy()
    assert len(report.table) == 4
    kept = drop_suspects(labels, report, flags=["small", "contradicts"])
    assert kept["patch_id"].tolist() == ["d"]
    assert kept.attrs == {
        "n_sets": 3,
        "n_suspects_dropped": 3,
        "suspects_dropped": {"small": 1, "contradicts": 2},
    }
    assert drop_suspects(labels, report, flags=["mixed"])["patch_id"].tolist() == list("abcd")
    pd.testing.assert_frame_equal(labels, before)
    assert labels.attrs == {"n_sets": 3}


def test_dropping_without_a_flag_or_by_another_report_is_refused() -> None:
    labels, report = suspicious()
    with pytest.raises(LabelError, match=r"flags to drop: none; name some of invalid, small"):
        drop_suspects(labels, report, flags=[])
    with pytest.raises(LabelError, match="flags to drop: tiny"):
        drop_suspects(labels, report, flags=["tiny", "small"])
    with pytest.raises(LabelError, match="1 labels, such as 'new', are not in the report"):
        drop_suspects(table({"new": (6, square(0))}), report, flags=["small"])


@pytest.mark.parametrize("suffix", ["gpkg", "parquet"])
def test_the_layer_of_suspects_reads_back(tmp_path: Path, suffix: str) -> None:
    _, report = suspicious()
    path = report.write_suspects(tmp_path / f"suspects.{suffix}")
    report.write_suspects(path)  # a second time replaces it
    back = gpd.read_parquet(path) if suffix == "parquet" else gpd.read_file(path, layer="suspects")
    assert back.crs == CRS
    assert back["number"].tolist() == [1, 2, 3]
    assert back["patch_id"].tolist() == ["a", "b", "c"]
    assert back["reason"].tolist() == report.suspects["reason"].tolist()
    assert shapely.equals(back.geometry.to_numpy(), report.suspects.geometry.to_numpy()).all()
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(LabelError, match=r"\.gpkg or \.parquet"):
        report.write_suspects(tmp_path / "suspects.shp")


def test_a_geopackage_has_the_pixels_that_stand_apart(tmp_path: Path) -> None:
    labels = table(many(8, 6))
    pixels = drawn(0, np.random.default_rng(0).normal(size=(8, 4)), 60)
    pixels[3][:25] += 8.0
    report = check_labels(labels, samples_of(labels, pixels))
    path = report.write_suspects(tmp_path / "suspects.gpkg")
    assert pyogrio.list_layers(path)[:, 0].tolist() == ["suspects", "pixels"]
    assert len(gpd.read_file(path, layer="pixels")) == len(report.pixels) > 20


def test_the_text_says_how_many_are_not_shown() -> None:
    _, report = suspicious()
    text = report.to_text(limit=1)
    assert text.startswith("3 of 4 labels are suspicious; none was dropped\n")
    assert text.endswith("and 2 more")
    assert "   1  a  LCZ 2: contradicts LCZ G of b on 0.080 km2" in text


def test_no_labels_labels_without_a_class_and_ids_used_twice_are_refused() -> None:
    labels = table({"a": (6, square(0)), "b": (0, square(500))})
    with pytest.raises(LabelError, match="LCZ code 0 in 1 rows"):
        check_labels(labels)
    with pytest.raises(LabelError, match="no labels to check"):
        check_labels(labels.iloc[:0])
    twice = table({"a": (6, square(0)), "b": (6, square(500))}).assign(patch_id="a")
    with pytest.raises(LabelError, match="occur more than once"):
        check_labels(twice)


# Picture


def picture_of(path: Path) -> npt.NDArray[np.uint8]:
    with rasterio.open(path) as file:
        return file.read()[:3]


def has_colour(picture: npt.NDArray[np.uint8], colour: str) -> bool:
    wanted = np.array(list(bytes.fromhex(colour.removeprefix("#"))))[:, None, None]
    return bool((np.abs(picture.astype(int) - wanted) <= 2).all(axis=0).any())


def test_every_flag_has_a_colour_and_words() -> None:
    assert set(FLAG_COLOURS) == set(FLAG_WORDS) == set(FLAGS)
    assert len(set(FLAG_COLOURS.values())) == len(FLAGS)


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_the_picture_outlines_suspects_in_the_colour_of_their_reason(tmp_path: Path) -> None:
    _, report = suspicious()
    picture = picture_of(plot_suspects(report, tmp_path / "a.png"))
    assert has_colour(picture, FLAG_COLOURS["contradicts"])
    assert has_colour(picture, FLAG_COLOURS["small"])
    assert not has_colour(picture, FLAG_COLOURS["unlike_class"])
    again = picture_of(plot_suspects(report, tmp_path / "b.png"))
    np.testing.assert_array_equal(picture, again)


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.parametrize("south_up", [False, True])
def test_the_image_lies_under_the_labels(tmp_path: Path, south_up: bool) -> None:
    _, report = suspicious()
    y = Y0 + 1000 - 10 * np.arange(200) - 5
    values = np.zeros((3, 200, 400), np.float32)
    values[0, :80] = 1.0  # red north of Y0 + 200
    image = xr.DataArray(
        values, dims=("band", "y", "x"), coords={"y": y, "x": X0 - 100 + 10 * np.arange(400) + 5}
    )
    image = image.isel(y=slice(None, None, -1)) if south_up else image
    seen = picture_of(plot_suspects(report, tmp_path / "a.png", image=image))
    seen = seen[:, :, : seen.shape[2] // 2]  # the map
    red, black = (
        (np.abs(seen.astype(int) - np.array(rgb)[:, None, None]) <= 2).all(axis=0)
        for rgb in ((255, 38, 38), (38, 38, 38))
    )
    assert min(red.sum(), black.sum()) > 5_000
    assert np.nonzero(red)[0].mean() < np.nonzero(black)[0].mean()


def test_a_pixel_of_the_image_is_drawn_where_it_lies() -> None:
    from matplotlib.figure import Figure

    labels = table({"a": (6, square(0))})
    x, y = X0 + 100 * np.arange(-5, 15) + 50, Y0 + 100 * np.arange(15, -5, -1) - 50
    image = xr.DataArray(np.ones((3, 20, 20)), dims=("band", "y", "x"), coords={"y": y, "x": x})
    axis = Figure().subplots()
    # The box cuts the pixels at its edges, which are drawn whole.
    _Picture(image, labels).draw(axis, (X0 + 20, Y0 - 80, X0 + 310, Y0 + 410))
    assert axis.images[0].get_extent() == pytest.approx([X0, X0 + 400, Y0 - 100, Y0 + 500])


def test_an_image_elsewhere_or_of_other_bands_is_refused(tmp_path: Path) -> None:
    _, report = suspicious()
    away = xr.DataArray(
        np.zeros((3, 4, 4)), dims=("band", "y", "x"), coords={"y": [3, 2, 1, 0], "x": [0, 1, 2, 3]}
    )
    with pytest.raises(LabelError, match="no pixel of the image lies under the labels"):
        plot_suspects(report, tmp_path / "a.png", image=away)
    with pytest.raises(LabelError, match="three bands, red first"):
        plot_suspects(report, tmp_path / "a.png", image=away[:2])


def test_labels_without_a_suspect_are_drawn_too(tmp_path: Path) -> None:
    report = check_labels(table({"a": (6, square(0))}).to_crs("EPSG:4326"))
    assert len(report.suspects) == 0
    assert plot_suspects(report, tmp_path / "a.png").stat().st_size > 10_000
    assert report.write_suspects(tmp_path / "none.gpkg").exists()


# Real


def test_the_training_areas_of_melbourne_are_sound_and_the_same_in_three_years(
    realdata: Path, tmp_path: Path
) -> None:
    files = f"{realdata}/training_areas/*{{year}}*JamesBennie*"
    years = (2006, 2016, 2019)
    catalog = catalog_of(
        tmp_path,
        *(
            f'name = "m{year}"\nsource = "training_areas"\nhref = "{files.format(year=year)}"'
            for year in years
        ),
    )
    sets = {year: read_labels(catalog, [f"m{year}"]) for year in years}
    for labels in sets.values():
        report = check_labels(labels)
        assert (len(report.table), len(report.suspects), len(report.overlaps)) == (101, 0, 0)
        geod = Geod(ellps="WGS84")
        ordered = labels.sort_values("patch_id")
        expected = [abs(geod.geometry_area_perimeter(g)[0]) / 1e6 for g in ordered.geometry]
        np.testing.assert_allclose(report.table["area_km2"], expected, rtol=2e-3)
    for year in (2016, 2019):
        found = compare_labels(sets[2006], sets[year])
        assert (found.n_identical, found.n_identical_same_class) == (101, 101)


def test_of_hong_kongs_two_label_sets_one_is_small_and_they_contradict_in_nine_places(
    realdata: Path, tmp_path: Path
) -> None:
    folder = realdata / "hongkong"
    texts = [
        f'name = "{name}"\nsource = "polygons"\nhref = "{folder / file}"\nclass_column = "lcz"'
        for name, file in (
            ("dfc2017", "lcz_dfc2017_train_polygons.gpkg"),
            ("second", "lcz_second_train_polygons.gpkg"),
        )
    ]
    landsat = raster_input("landsat", str(folder / "landsat8_36band_100m.tif"))
    catalog = catalog_of(tmp_path, landsat, *texts)
    box = (113.86, 22.10, 114.40, 22.58)
    anchor = layer_geobox(catalog, "landsat", bbox=box)
    grid = Grid.from_bbox(box, anchor=anchor, pixel_m=100, cell_m=300, stride_m=100)
    cube = open_cube(catalog, grid, inputs=["landsat"], year=2024)
    cells = aggregate(cube, stats=("mean",)).compute()
    sets = {name: read_labels(catalog, [name], crs=grid.crs) for name in ("dfc2017", "second")}
    reports = {
        name: check_labels(labels, build_samples(labels, cube, cells, stats=("mean",)))
        for name, labels in sets.items()
    }
    for report in reports.values():
        print(report.to_text(limit=8))
    # Polygons of 100 m pixels: none under four of them. The other set was drawn by hand.
    areas = {name: gpd.read_file(folder / f"lcz_{name}_train_polygons.gpkg").area for name in sets}
    for name, report in reports.items():
        assert report.counts["small"] == int((areas[name] < 40_000).sum())
    assert (reports["dfc2017"].counts["small"], reports["second"].counts["small"]) == (0, 56)
    assert reports["dfc2017"].counts["complex"] == 1  # three woods joined by corridors of a pixel
    assert len(reports["dfc2017"].suspects) <= 6
    assert reports["second"].counts["unlike_class"] <= 5
    found = compare_labels(sets["dfc2017"], sets["second"])
    print(found.to_text())
    assert (found.n_identical, found.n_contradicting, len(found.pairs)) == (0, 9, 18)
    # Over a third of a block of high-rises (0.18 km2) is compact in one set, open in the other.
    worst = found.pairs[found.pairs["lcz_first"] != found.pairs["lcz_second"]]
    worst = worst.sort_values("area_km2").iloc[-1]
    assert (worst["lcz_first"], worst["lcz_second"]) == (1, 4)
    assert worst["area_km2"] == pytest.approx(0.066, abs=0.0005)


# The guide


def test_the_example_of_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (PROJECT / "docs" / "guide" / "quality.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    labels = table(many(8, 6) | {"z": (17, square(200))})
    samples = samples_of(labels, drawn(0, np.random.default_rng(0).normal(size=(9, 4)), 30))
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "quality.md", "exec"), {"labels": labels, "samples": samples})
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == ["suspects.gpkg", "suspects.png"]
