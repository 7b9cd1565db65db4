"""The synthetic world: formats, truth, labels, the stated optimum, and what is refused."""

import hashlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from rasterio.windows import Window as RasterWindow
from shapely import box, unary_union

from lczcube.config import read_config
from lczcube.errors import ConfigError, StoreError
from lczcube.grid import Grid
from lczcube.synth import Difficulty, World, WorldCity, write_world
from lczcube.synth.bayes import cell_variance, expected_accuracy, observe, pure_cells
from lczcube.synth.embedding import BLOCK_PX, embedding_model, quantise
from lczcube.synth.labels import Patch, draw_patches, splits
from lczcube.synth.zones import Window, zone_map

KM = 1.6
Array = npt.NDArray[Any]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return write_world(tmp_path_factory.mktemp("synth") / "world", km=KM, seed=7, tile_px=128)


def test_the_same_seed_gives_the_same_bytes(world: World, tmp_path: Path) -> None:
    again = write_world(tmp_path / "again", km=KM, seed=7, tile_px=128)
    assert digests(again.path) == digests(world.path)


def test_another_seed_gives_another_map_and_other_codes(world: World, tmp_path: Path) -> None:
    other = write_world(tmp_path / "other", cities=1, km=KM, seed=8, tile_px=128)
    assert not np.array_equal(truth_of(other.cities[0]), truth_of(world.cities[0]))
    assert codes_of(other.cities[0].tiles[0]) != codes_of(world.cities[0].tiles[0])


def test_a_world_that_is_there_is_left_as_it_is(world: World) -> None:
    before = {path: path.stat().st_mtime_ns for path in files_of(world.path)}
    assert write_world(world.path, km=KM, seed=7, tile_px=128) == world
    assert {path: path.stat().st_mtime_ns for path in files_of(world.path)} == before


def test_an_interrupted_world_is_written_anew(tmp_path: Path) -> None:
    (tmp_path / "w.partial" / "labels").mkdir(parents=True)
    (tmp_path / "w.partial" / "labels" / "left_over.parquet").write_text("half")
    again = write_world(tmp_path / "w", cities=1, km=1.5, seed=7)
    assert [path.name for path in tmp_path.iterdir()] == ["w"]
    assert [path.name for path in (again.path / "labels").iterdir()] == ["synthetic_north.parquet"]


def test_tiles_have_the_publishers_layout(world: World) -> None:
    for city in world.cities:
        for path in city.tiles:
            with rasterio.open(path) as tile:
                assert tile.transform.e == 10
                assert tile.transform.a == 10
                assert tile.transform.c % 10 == 0
                assert tile.transform.f % 10 == 0
                assert tile.count == 64
                assert set(tile.dtypes) == {"int8"}
                assert tile.nodata == -128
                assert tile.descriptions == tuple(f"A{band:02d}" for band in range(64))
                assert tile.profile["interleave"] == "band"
                assert tile.profile["compress"] == "zstd"
                assert tile.block_shapes[0] == (64, 64)
                assert str(tile.crs) == city.grid.crs


def test_tile_names_give_rows_before_columns(world: World) -> None:
    tiles = world.cities[0].tiles
    places = {}
    for path in tiles:
        stem, rows, columns = path.stem.rsplit("-", 2)
        assert stem.isalnum()
        assert (len(rows), len(columns)) == (10, 10)
        with rasterio.open(path) as tile:
            places[int(rows), int(columns)] = (tile.transform.f, tile.transform.c)
    south, west = places[0, 0]
    assert len(places) > 4
    assert places == {(r, c): (south + 10 * r, west + 10 * c) for r, c in places}


def test_the_folder_names_year_zone_and_hemisphere(world: World) -> None:
    folders = [city.tiles[0].parent.relative_to(world.path).as_posix() for city in world.cities]
    assert folders == [
        "alphaearth/synthetic_north/annual/2021/32N",
        "alphaearth/synthetic_south/annual/2021/39S",
    ]
    assert [city.grid.crs for city in world.cities] == ["EPSG:32632", "EPSG:32739"]


def test_codes_are_equal_where_tiles_overlap(world: World) -> None:
    n_shared = 0
    for city in world.cities:
        by_place = [(bounds_px(path), path) for path in city.tiles]
        for i, (a, path_a) in enumerate(by_place):
            for b, path_b in by_place[i + 1 :]:
                shared = (max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
                if shared[0] < shared[2] and shared[1] < shared[3]:
                    n_shared += 1
                    one, other = read_px(path_a, shared), read_px(path_b, shared)
                    np.testing.assert_array_equal(one, other)
    assert n_shared > 10


def test_tiles_cover_the_city_and_a_window_past_it(world: World) -> None:
    for city in world.cities:
        minx, miny, maxx, maxy = city.grid.bbox
        places = [bounds_px(path) for path in city.tiles]
        assert min(p[0] for p in places) * 10 <= minx - 320
        assert min(p[1] for p in places) * 10 <= miny - 320
        assert max(p[2] for p in places) * 10 >= maxx + 320
        assert max(p[3] for p in places) * 10 >= maxy + 320


def test_decoded_vectors_have_length_one(world: World) -> None:
    for city in world.cities:
        codes = mosaic(city).astype(np.float64)
        length = np.sqrt((((codes / 127.5) ** 2) ** 2).sum(axis=0))
        assert abs(length[codes[0] != -128] - 1).max() < 0.01


def test_nodata_is_in_all_bands_together(world: World) -> None:
    for city in world.cities:
        missing = (mosaic(city) == -128).sum(axis=0)
        assert set(np.unique(missing)) == {0, 64}


def test_truth_is_nodata_exactly_where_the_embedding_is(world: World) -> None:
    for city in world.cities:
        np.testing.assert_array_equal(truth_of(city) == 0, mosaic(city)[0] == -128)


def test_there_is_a_hole_inside_the_city(world: World) -> None:
    for city in world.cities:
        missing = truth_of(city) == 0
        height, width = missing.shape
        assert missing[-1, -1]
        assert missing[round(height * 0.28), round(width * 0.30)]
        assert not missing[round(height * 0.28), round(width * 0.5)]
        assert not missing[0].any()
        assert 0.01 < missing.mean() < 0.06


def test_truth_is_north_up_on_the_lattice_of_the_tiles(world: World) -> None:
    for city in world.cities:
        with rasterio.open(city.truth) as truth, rasterio.open(city.tiles[0]) as tile:
            assert truth.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            assert truth.transform == city.grid.geobox.affine
            assert truth.shape == city.grid.shape
            assert (truth.transform.c - tile.transform.c) % 10 == 0
            assert (truth.transform.f - tile.transform.f) % 10 == 0
            assert truth.nodata == 0
            assert truth.dtypes == ("uint8",)
            assert truth.crs == tile.crs
            assert truth.colormap(1)[17][:3] == (0x6A, 0x6A, 0xFF)


def test_truth_lies_where_the_embedding_says(world: World) -> None:
    """Pixels of one class are alike; moved by a quarter of the city, truth fits them worse."""
    for city in world.cities:
        codes = mosaic(city).astype(np.float32)
        vectors = np.copysign((codes / 127.5) ** 2, codes)
        truth = truth_of(city)
        right = spread_within(vectors, truth)
        for moved in (truth[::-1], truth[:, ::-1], np.roll(truth, truth.shape[0] // 4, axis=0)):
            seen = (truth > 0) & (moved > 0)
            assert spread_within(vectors, np.where(seen, moved, 0)) > 1.1 * right


def test_water_and_several_classes_are_there(world: World) -> None:
    for city in world.cities:
        classes = set(np.unique(truth_of(city)).tolist()) - {0}
        assert 17 in classes
        assert len(classes) >= 3


def test_a_city_of_six_kilometres_has_twelve_classes_in_zones_of_a_kilometre() -> None:
    drawn = zone_map(city_grid(19), np.random.default_rng(7))
    assert len(np.unique(drawn.truth(drawn.window))) == 13
    assert 90 <= drawn.side_px <= 110


def test_most_of_a_default_city_is_left_unlabelled() -> None:
    drawn = zone_map(city_grid(19), np.random.default_rng(7))
    patches = draw_patches(drawn, np.random.default_rng(8))
    labelled = unary_union([box(p.x0, p.y0 - 320, p.x0 + 320, p.y0) for p in patches]).area
    assert 0.15 < labelled / (19 * 320) ** 2 < 0.4
    assert len({p.lcz for p in patches}) == 12
    assert len(patches) * 320**2 / labelled > 4


def test_a_patch_is_its_class_at_its_upper_left_corner_and_nowhere_else(world: World) -> None:
    for city in world.cities:
        table = gpd.read_parquet(city.labels)
        truth = truth_of(city)
        minx, _, _, maxy = city.grid.bbox
        right, moved_north, moved_east = [], [], []
        for row in table.itertuples():
            x, y = round((row.x0 - minx) / 10), round((maxy - row.y0) / 10)
            right.append(share_of(truth, x, y, row.lcz))
            moved_north.append(share_of(truth, x, y - 32, row.lcz))
            moved_east.append(share_of(truth, x + 32, y, row.lcz))
        assert min(right) >= 0.75
        assert np.mean(right) > 0.9
        assert np.mean(moved_north) < 0.75
        assert np.mean(moved_east) < 0.75


def test_patches_are_at_least_four_fifths_their_class_by_pixel_centres(world: World) -> None:
    for city in world.cities:
        table = gpd.read_parquet(city.labels)
        truth = truth_of(city)
        minx, _, _, maxy = city.grid.bbox
        for row in table.itertuples():
            centres_x = minx + 10 * np.arange(truth.shape[1]) + 5
            centres_y = maxy - 10 * np.arange(truth.shape[0]) - 5
            inside_x = (centres_x > row.x0) & (centres_x < row.x0 + 320)
            inside_y = (centres_y < row.y0) & (centres_y > row.y0 - 320)
            square = truth[np.ix_(inside_y, inside_x)]
            assert square.shape == (32, 32)
            assert (square == row.lcz).mean() >= 0.8
            assert (square > 0).all()


def test_patches_are_squares_of_320_m_off_the_lattice(world: World) -> None:
    for city in world.cities:
        table = gpd.read_parquet(city.labels)
        bounds = table.bounds
        np.testing.assert_allclose(bounds.minx, table.x0, atol=1e-6)
        np.testing.assert_allclose(bounds.maxy, table.y0, atol=1e-6)
        np.testing.assert_allclose(table.area, 320**2, atol=1e-3)
        off = np.minimum(table.x0 % 10, 10 - table.x0 % 10)
        assert (off > 1e-3).mean() > 0.5
        assert f"EPSG:{table.crs.to_epsg()}" == city.grid.crs


def test_patches_overlap_within_a_site_and_never_across(world: World) -> None:
    for city in world.cities:
        table = gpd.read_parquet(city.labels)
        assert table.area.sum() / table.union_all().area > 2
        joined = table.sjoin(table, predicate="overlaps")
        assert len(joined) > 2 * len(table)
        assert (joined.site_left == joined.site_right).all()


def test_a_site_has_one_class_and_one_split(world: World) -> None:
    for city in world.cities:
        table = gpd.read_parquet(city.labels)
        assert (table.groupby("site")[["lcz", "split"]].nunique() == 1).all().all()
        assert table.id.is_unique


def test_each_class_trains_and_its_other_sites_validate_or_test() -> None:
    patches = [Patch(0, 0, code, site) for code, site in ((1, 0), (1, 1), (1, 2), (2, 3), (2, 4))]
    assert splits(patches) == ["training", "testing", "validation", "training", "validation"]


def test_the_city_file_finds_the_files_it_names(world: World) -> None:
    config = tomllib.loads(world.config.read_text())
    assert read_config(world.config).id == "synthetic-7"
    assert list(config["city"]) == ["synthetic_north", "synthetic_south"]
    assert tuple(config["city"]["synthetic_north"]["bbox"]) == world.cities[0].bbox
    embedding, labels = config["input"]
    assert embedding["product"] == "synthetic-alphaearth/7"
    for city in world.cities:
        pattern = embedding["href"].format(city=city.name, year=embedding["years"][0])
        assert tuple(sorted(world.path.glob(pattern))) == city.tiles
        assert world.path / labels["href"].format(city=city.name) == city.labels


def test_every_file_says_synthetic(world: World) -> None:
    for path in files_of(world.path):
        if path.suffix in (".tif", ".tiff"):
            with rasterio.open(path) as file:
                assert file.tags()["SYNTHETIC"] == "true"
        elif path.suffix == ".parquet":
            assert gpd.read_parquet(path).synthetic.all()
        elif path.suffix == ".toml":
            config = tomllib.loads(path.read_text())
            assert path.read_text().startswith("# SYNTHETIC")
            assert all(table["synthetic"] for table in config["input"])
        else:
            assert json.loads(path.read_text())["synthetic"] is True


def test_the_optimum_is_stated_with_unit_and_population(world: World) -> None:
    told = json.loads(world.description.read_text())["bayes"]
    assert told["accuracy"] == world.bayes_accuracy
    assert 0 < told["accuracy"] <= told["accuracy_seeing_blocks"] < 1
    assert told["unit"] == "cell"
    assert told["n_draws_per_city"] >= 50_000
    assert "one class fills" in told["population"]


def test_the_optimum_of_two_classes_is_the_normal_distributions() -> None:
    """Two equal classes, two standard deviations apart: Phi(1) = 0.8413."""
    means = np.zeros((17, 24))
    means[1, 0] = 2.0
    share = np.zeros(17)
    share[:2] = 0.5
    rng = np.random.default_rng(1)
    accuracy = expected_accuracy(means, share, np.ones(24), n_draws=100_000, rng=rng)
    assert accuracy == pytest.approx(0.8413, abs=0.005)


def test_the_observer_leans_to_the_commoner_class() -> None:
    """At the middle between two classes the shares decide."""
    means = np.zeros((17, 24))
    means[4, 0] = 2.0
    share = np.zeros(17)
    share[0], share[4] = 0.3, 0.7
    middle = np.zeros((1, 24))
    middle[0, 0] = 1.0
    assert observe(middle, means, share, np.ones(24)).tolist() == [5]


def test_the_default_world_is_hard_but_not_hopeless() -> None:
    model = embedding_model(Difficulty(), n_cities=2, seed=7)
    share = np.full(17, 1 / 17)
    rng = np.random.default_rng(0)
    accuracy = expected_accuracy(
        model.means[0], share, cell_variance(model), n_draws=50_000, rng=rng
    )
    assert 0.9 < accuracy < 0.98


def test_a_cells_latent_vector_is_the_mean_of_its_pixels(world: World) -> None:
    """The observer's three-by-three shares of blocks against a mean over 1,024 pixels."""
    city = world.cities[0]
    model = embedding_model(Difficulty(), n_cities=2, seed=7)
    drawn = zone_map(city.grid, np.random.default_rng([7, 0, 10]))
    cells = pure_cells(model, drawn, 0, city.grid)
    truth = truth_of(city)
    assert cells.lcz.size > 0
    for code, row, column, latent in zip(
        cells.lcz, cells.row, cells.column, cells.latent, strict=True
    ):
        square = truth[row * 32 : row * 32 + 32, column * 32 : column * 32 + 32]
        assert (square == code).all()
        west = drawn.window.x0 + 32 * column
        south = drawn.window.y1 - 32 * (row + 1)
        blocks_x = (np.arange(west, west + 32) - 8) // BLOCK_PX
        blocks_y = (np.arange(south, south + 32) - 8) // BLOCK_PX
        blocks = Window(blocks_x[0], blocks_y[0], blocks_x[-1] + 1, blocks_y[-1] + 1)
        variation = model.variations(0, blocks)
        pixels = variation[(blocks_y - blocks_y[0])[:, None], blocks_x - blocks_x[0]]
        expected = model.means[0, code - 1] + pixels.mean(axis=(0, 1))
        np.testing.assert_allclose(latent, expected, atol=1e-12)


def test_a_window_does_not_depend_on_how_it_is_cut() -> None:
    model = embedding_model(Difficulty(), n_cities=1, seed=3)
    drawn = zone_map(city_grid(), np.random.default_rng(3))
    whole = Window(
        drawn.window.x0 + 5, drawn.window.y0 - 7, drawn.window.x0 + 90, drawn.window.y0 + 60
    )
    together = model.codes(drawn, 0, whole)
    for part in whole.parts(37):
        rows = slice(part.y0 - whole.y0, part.y1 - whole.y0)
        columns = slice(part.x0 - whole.x0, part.x1 - whole.x0)
        np.testing.assert_array_equal(model.codes(drawn, 0, part), together[:, rows, columns])


def test_quantising_gives_the_publishers_codes() -> None:
    """127.5 * sqrt(0.25) = 63.75; whole vectors of one number stop at 127."""
    given = np.array([0.0, 0.25, -0.25, 1.0, -1.0], dtype=np.float32)
    assert quantise(given).tolist() == [0, 64, -64, 127, -127]


def test_blocks_are_independent_of_each_other() -> None:
    model = embedding_model(Difficulty(), n_cities=1, seed=5)
    drawn = model.variations(0, Window(0, 0, 60, 60)) / model.variation
    beside = (drawn[:, 1:] * drawn[:, :-1]).mean()
    assert abs(beside) < 0.02
    assert drawn.std() == pytest.approx(1, abs=0.02)


def test_memory_does_not_grow_with_a_tile() -> None:
    """A tile of 256 pixels and one of 1,024, in processes of their own: 16 times the area."""
    peaks = [peak_memory(tile_px) for tile_px in (256, 1024)]
    assert peaks[1] < 1.2 * peaks[0]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"cities": 0}, "cities = 0"),
        ({"cities": 31}, "1-30"),
        ({"km": 1.0}, "at least 1.5 km"),
        ({"km": float("nan")}, "km = nan"),
        ({"seed": -1}, "seed = -1"),
        ({"year": 2016}, "2017 or later"),
        ({"tile_px": 100}, "use 128"),
    ],
)
def test_a_parameter_out_of_range_is_refused(
    wrong: dict[str, float], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        write_world(tmp_path / "w", **wrong)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_difficulty_without_spread_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"variation = 0.*default is 0\.03"):
        Difficulty(variation=0)


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(StoreError, match="no synthetic world"):
        write_world(tmp_path, km=KM)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_world_of_other_parameters_is_refused(world: World) -> None:
    with pytest.raises(StoreError, match="other parameters"):
        write_world(world.path, km=KM, seed=8, tile_px=128)


def city_grid(side_cells: int = 5) -> Grid:
    return Grid("EPSG:32632", (1855, 16600, 1855 + side_cells, 16600 + side_cells))


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files_of(folder)
    }


def truth_of(city: WorldCity) -> Array:
    with rasterio.open(city.truth) as file:
        return np.asarray(file.read(1))


def codes_of(path: Path) -> bytes:
    with rasterio.open(path) as file:
        return bytes(file.read().tobytes())


def bounds_px(path: Path) -> tuple[int, int, int, int]:
    with rasterio.open(path) as tile:
        x, y = round(tile.transform.c / 10), round(tile.transform.f / 10)
        return x, y, x + tile.width, y + tile.height


def read_px(path: Path, place: tuple[int, int, int, int]) -> Array:
    x, y, _, _ = bounds_px(path)
    x0, y0, x1, y1 = place
    with rasterio.open(path) as tile:
        return np.asarray(tile.read(window=RasterWindow(x0 - x, y0 - y, x1 - x0, y1 - y0)))


def mosaic(city: WorldCity) -> Array:
    """Codes on the city's grid, pixel by pixel from the tiles' coordinates, north-up."""
    minx, miny, maxx, maxy = (round(v / 10) for v in city.grid.bbox)
    out = np.full((64, maxy - miny, maxx - minx), -1, dtype=np.int8)
    for path in city.tiles:
        x0, y0, x1, y1 = bounds_px(path)
        place = (max(x0, minx), max(y0, miny), min(x1, maxx), min(y1, maxy))
        if place[0] < place[2] and place[1] < place[3]:
            part = read_px(path, place)[:, ::-1]
            rows = slice(maxy - place[3], maxy - place[1])
            out[:, rows, place[0] - minx : place[2] - minx] = part
    return out


def share_of(truth: Array, x: int, y: int, code: int) -> float:
    square = truth[max(y, 0) : max(y + 32, 0), max(x, 0) : max(x + 32, 0)]
    return float((square == code).sum() / 32**2)


def spread_within(vectors: Array, truth: Array) -> float:
    """Mean variance of the vectors around their class's mean."""
    seen = truth > 0
    residual = vectors[:, seen].copy()
    codes = truth[seen]
    for code in np.unique(codes):
        own = codes == code
        residual[:, own] -= residual[:, own].mean(axis=1, keepdims=True)
    return float((residual**2).sum(axis=0).mean())


def peak_memory(tile_px: int) -> int:
    script = f"""
import tempfile
from pathlib import Path
from lczcube.synth.city import draw_city
from lczcube.synth.files import write_tile
from lczcube.synth.embedding import Difficulty, embedding_model
from lczcube.synth.labels import Patch, draw_patches, splits
from lczcube.synth.zones import Window
city = draw_city(0, km=1.6, seed=7)
model = embedding_model(Difficulty(pixel_noise=0.0), n_cities=1, seed=7)
x, y = city.zone_map.window.x0, city.zone_map.window.y0
with tempfile.TemporaryDirectory() as folder:
    place = Window(x, y, x + {tile_px}, y + {tile_px})
    write_tile(Path(folder) / "t.tiff", place, city, model, 2021)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(int(status["VmHWM"].split()[0]))  # ru_maxrss starts at the peak of the parent
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return int(done.stdout)
