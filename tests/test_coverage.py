"""Which city has what: shares of cells worked out by hand, against those that are told."""

import json
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from matplotlib.image import imread
from pyproj import Transformer

from lczcube.catalog import build_catalog
from lczcube.coverage import Coverage, coverage_of, plot_coverage
from lczcube.coverage.text import percent
from lczcube.pipeline import run_stages
from lczcube.runfolder import Run, open_run
from lczcube.windows import layer_of_feature
from tests.scenes import write_raster

CRS = "EPSG:32632"
X0, Y0 = 500_160.0, 4_999_680.0
"""A corner of the lattice of 320 m. Each city's grid is 8 x 10 cells south-east of the next one:
from ``x0 + 320`` and ``Y0 - 320``."""

EAST_M = 32_000


def box_of(x0: float) -> list[float]:
    to_lonlat = Transformer.from_crs(CRS, "EPSG:4326", always_xy=True)
    (w, e), (n, s) = to_lonlat.transform([x0 + 400, x0 + 2700], [Y0 - 400, Y0 - 3500])
    return [w, s, e, n]


def write_labels(path: Path) -> None:
    rows = [
        *(
            (X0 + 640 + 320 * i, lcz, part)
            for i, (lcz, part) in enumerate([(1, "train"), (1, "val"), (17, "val")])
        ),
        (X0 + EAST_M + 1920, 6, "test"),
        (X0 + 900_000, 6, "test"),
    ]
    boxes = [shapely.box(x, Y0 - 960, x + 320, Y0 - 640) for x, _, _ in rows]
    table = pd.DataFrame({"lcz": [r[1] for r in rows], "part": [r[2] for r in rows]})
    gpd.GeoDataFrame(table, geometry=boxes, crs=CRS).to_file(path, engine="pyogrio")


CITY_FILE = """
id = "pair"

[city.east]
bbox = {east}
crs = "EPSG:32632"

[city.west]
bbox = {west}
crs = "EPSG:32632"

[[input]]
name = "image"
source = "raster"
href = ["west_{{year}}.tif", "east_{{year}}.tif"]
years = [2019, 2024]

[[input]]
name = "heights"
source = "raster"
href = "heights.tif"
static = true

[[input]]
name = "areas"
source = "polygons"
href = "areas.gpkg"
class_column = "lcz"
split_column = "part"

[run]
features = ["image", "heights"]
labels = ["areas"]
year = 2024
missing = "indicator"
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Two cities; the eastern one has no heights, no image of 2019, and half of that of 2024."""
    ones = np.ones((1, 600, 600), "uint8")
    holed = ones.copy()
    holed[:, :, 96 + 32 : 96 + 64] = 0  # the first column of cells has no value
    top = {"y0": Y0 + 960, "nodata": 0}
    write_raster(tmp_path / "west_2024.tif", holed, x0=X0 - 960, **top)
    write_raster(tmp_path / "west_2019.tif", ones[:, :, :160], x0=X0 - 960, **top)
    write_raster(tmp_path / "east_2024.tif", ones, x0=X0 + EAST_M + 1600, **top)
    write_raster(tmp_path / "heights.tif", ones[:, :202], x0=X0 - 960, **top)
    write_labels(tmp_path / "areas.gpkg")
    text = CITY_FILE.format(east=box_of(X0 + EAST_M), west=box_of(X0))
    (tmp_path / "pair.toml").write_text(text)
    build_catalog(tmp_path / "pair.toml", tmp_path / "run" / "catalog")
    return open_run(tmp_path / "run", tmp_path / "pair.toml")


@pytest.fixture
def coverage(run: Run) -> Coverage:
    return coverage_of(run)


def shares(coverage: Coverage) -> dict[tuple[str, int | None], dict[str, float]]:
    return {
        (row.city, row.year): {layer.layer: layer.cell_share for layer in row.layers}
        | {"all": row.common_share, "without": row.share_without}
        for row in coverage.years
    }


def test_shares_are_those_of_the_cells_whose_centre_a_tile_holds(coverage: Coverage) -> None:
    """The grid of 8 columns and 10 rows: an image ends after a column, heights in the third row."""
    assert shares(coverage) == {
        ("east", 2019): {"image": 0, "heights": 0, "all": 0, "without": 0},
        ("east", 2024): {"image": 0.5, "heights": 0, "all": 0, "without": 0.5},
        ("west", 2019): {"image": 0.125, "heights": 0.2, "all": 0.025, "without": 0.2},
        ("west", 2024): {"image": 1, "heights": 0.2, "all": 0.2, "without": 1},
    }
    assert {row.n_cells for row in coverage.years} == {80}
    west = coverage.years[-1]
    assert [layer.share for layer in west.layers] == [1, pytest.approx(740 / 3200)]
    assert [layer.n_tiles for layer in west.layers] == [1, 1]
    assert [layer.n_tiles for layer in coverage.years[0].layers] == [0, 0]


def test_what_the_common_ground_loses_is_named(coverage: Coverage) -> None:
    lost = {(row.city, row.year): (row.lost_share, row.limiting) for row in coverage.years}
    assert lost["west", 2024] == (pytest.approx(0.8), "heights")
    assert lost["west", 2019] == (pytest.approx(0.175), "image")
    assert lost["east", 2024] == (0.5, "heights")


def test_shares_are_those_of_the_cube(run: Run, coverage: Coverage) -> None:
    cube = run.cube_of_files("west", 0)
    told = {layer.layer: layer.share for layer in coverage.years[-1].layers}
    for name in ("image", "heights"):
        assert cube[name].attrs["covered_share"] == pytest.approx(told[name], abs=1e-6)


def test_labels_are_counted_by_class_and_split(coverage: Coverage) -> None:
    counted = {
        (row.city, row.split): {i + 1: n for i, n in enumerate(row.counts) if n}
        for row in coverage.labels
    }
    assert counted == {
        ("east", "testing"): {6: 1},
        ("west", "training"): {1: 1},
        ("west", "validation"): {1: 1, 17: 1},
    }
    assert coverage.n_elsewhere == 1
    assert {row.source for row in coverage.labels} == {"areas"}


def test_pixels_tell_what_tiles_do_not(run: Run) -> None:
    """A tile of 2024 has no value in one of its eight columns of cells."""
    run_stages(run, ["build-catalog", "cube", "aggregate"])
    rows = {(row.city, row.year): row for row in coverage_of(run, exact=True).years}
    exact = rows["west", 2024]
    assert exact.is_exact
    assert [layer.valid_share for layer in exact.layers] == [7 / 8, 0.3]
    assert exact.common_share == pytest.approx(0.3 * 7 / 8, abs=1e-6)
    assert exact.lost_share == pytest.approx(7 / 8 - 0.3 * 7 / 8, abs=1e-6)
    assert not rows["west", 2019].is_exact
    assert [layer.valid_share for layer in rows["east", 2024].layers] == [0.5, 0]


def test_without_features_nothing_is_called_exact(run: Run) -> None:
    assert not any(row.is_exact for row in coverage_of(run, exact=True).years)


def test_the_text_says_it_in_two_tables(coverage: Coverage) -> None:
    assert coverage.to_text() == TEXT


TEXT = """coverage of pair

city  year  image  heights  all layers  lost  for want of  without it
east  2019      -        -          0%    0%
east  2024    50%        -          0%   50%  heights             50%
west  2019    12%      20%          2%   18%  image               20%
west  2024   100%      20%         20%   80%  heights            100%

labels  source  split       1  2  3  4  5  6  7  8  9  10  A  B  C  D  E  F  G  all
east    areas   testing     .  .  .  .  .  1  .  .  .   .  .  .  .  .  .  .  .    1
west    areas   training    1  .  .  .  .  .  .  .  .   .  .  .  .  .  .  .  .    1
west    areas   validation  1  .  .  .  .  .  .  .  .   .  .  .  .  .  .  .  1    2

1 labels lie in none of these cities
"""


def test_the_example_of_the_guide_runs(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[1] / "docs" / "guide" / "coverage.md").read_text()
    example = page.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "coverage.md", "exec"), {})
    assert capsys.readouterr().out == TEXT + "\n"
    assert (tmp_path / "coverage.png").stat().st_size > 10_000


def test_values_are_plain(coverage: Coverage) -> None:
    values = json.loads(json.dumps(coverage.to_dict()))
    assert values["years"][3]["layers"][1]["layer"] == "heights"
    assert values["synthetic"] is False


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0%"), (0.001, "<1%"), (0.5, "50%"), (0.9999, ">99%"), (1, "100%")]
)
def test_a_share_that_is_not_whole_is_not_called_whole(share: float, text: str) -> None:
    assert percent(share) == text


def test_a_feature_is_of_the_layer_with_the_longest_name() -> None:
    assert layer_of_feature("aef_2_A00_mean", ["aef", "aef_2"]) == "aef_2"
    assert layer_of_feature("aef_A00_mean", ["aef", "aef_2"]) == "aef"
    assert layer_of_feature("other", ["aef"]) is None


def test_a_run_without_labels_is_told_as_such(run: Run, tmp_path: Path) -> None:
    (tmp_path / "areas.gpkg").unlink()
    build_catalog(tmp_path / "pair.toml", tmp_path / "run" / "catalog")
    bare = coverage_of(open_run(tmp_path / "run", tmp_path / "pair.toml"))
    assert bare.labels == ()
    assert "no labels in these cities" in bare.to_text()
    assert plot_coverage(bare, tmp_path / "bare.png").is_file()


def test_the_picture_shows_shares_and_the_colours_of_the_zones(
    coverage: Coverage, tmp_path: Path
) -> None:
    path = plot_coverage(coverage, tmp_path / "coverage.png")
    pixels = np.round(imread(path)[..., :3] * 255).astype(int).reshape(-1, 3)
    colors, counts = np.unique(pixels, axis=0, return_counts=True)
    area = {tuple(color): int(n) for color, n in zip(colors.tolist(), counts, strict=True)}
    # LCZ 1, 6 and 17 have labels and large bars; LCZ 11 has none.
    for rgb in ((0x8C, 0, 0), (0xFF, 0x99, 0x55), (0x6A, 0x6A, 0xFF)):
        assert area.get(rgb, 0) > 1000
    assert area.get((0, 0x6A, 0), 0) == 0
    assert list(tmp_path.glob("*.partial")) == []
