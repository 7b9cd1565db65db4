"""Trees from batches that never stand in memory together."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import rasterio
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.features import rasterize

from lczcube.errors import (
    GridMismatchError,
    LabelError,
    MissingInputError,
    ModelError,
    StoreError,
)
from lczcube.labels.samples import write_samples
from lczcube.models import Area, XgbParameters, fit_xgb
from lczcube.models import spool as spools
from lczcube.models import xgb as trees
from lczcube.models.batches import (
    Batch,
    SourceBatches,
    cell_batches,
    joined_batches,
    parquet_batches,
    pixel_batches,
    read_batches,
    sample_batches,
)
from lczcube.models.spool import scratch_folder, spool
from lczcube.models.tabular import training_table
from tests.test_models_tabular import QUICK, made_samples

SAMPLED = XgbParameters(rounds=4, max_depth=3, subsample=0.5, colsample=0.5)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 64 rows of three features, and bins from 200 rows."""
    monkeypatch.setattr(spools, "_BLOCK_BYTES", 64 * 3 * 4)
    monkeypatch.setattr(trees, "CUT_ROWS", 200)


def full_samples(n: int = 90, *, city: str = "here", seed: int = 0) -> xr.Dataset:
    """Samples with all columns of a table; features encode nothing but their zone."""
    samples = made_samples(seed, n)
    number = np.arange(n)
    columns: dict[str, Any] = {
        "patch_id": np.array([f"{city}-{i:05d}" for i in number], object),
        "city": np.full(n, city, object),
        "group": np.array([f"g{i // 10}" for i in number], object),
        "split": np.where(number % 5 == 0, "test", "train").astype(object),
        "x": number.astype(float),
        "y": -number.astype(float),
        "size_m": np.full(n, 320.0),
        "valid_fraction": np.ones(n, np.float32),
    }
    assigned = samples.assign({name: ("sample", values) for name, values in columns.items()})
    return assigned.assign_attrs(unit="patch", absent_features="[]")


def source(samples: xr.Dataset, sizes: list[int]) -> SourceBatches:
    """The samples in batches of these sizes, again and again."""

    def read() -> Iterator[Batch]:
        start, number = 0, 0
        while start < samples.sizes["sample"]:
            stop = start + sizes[number % len(sizes)]
            part = samples.isel(sample=slice(start, stop))
            yield Batch(part["features"].values, part["lcz"].values, part["weight"].values)
            start, number = stop, number + 1

    return SourceBatches(("a", "b", "noise"), ("made/1",), True, read)


# the same trees


def test_batches_give_the_trees_of_memory_bit_for_bit(small_blocks: None, tmp_path: Path) -> None:
    samples = made_samples(n=1000)
    samples["features"][3, 1] = np.nan
    samples["features"][8] = np.nan
    samples["weight"] = ("sample", np.random.default_rng(1).random(1000).astype(np.float32))
    samples["weight"][11] = 0
    wanted = fit_xgb(samples, seed=3, parameters=SAMPLED)
    found = fit_xgb(sample_batches(samples), seed=3, parameters=SAMPLED, scratch=tmp_path)
    assert found.weights == wanted.weights
    assert found.meta == wanted.meta


@settings(max_examples=8, deadline=None)
@given(sizes=st.lists(st.integers(0, 150), min_size=1, max_size=4).filter(any))
def test_how_a_source_cuts_its_batches_leaves_no_trace(sizes: list[int]) -> None:
    samples = made_samples(n=300)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spools, "_BLOCK_BYTES", 64 * 3 * 4)
        found = fit_xgb(source(samples, sizes), seed=0, parameters=SAMPLED)
    assert found.weights == fit_xgb(samples, seed=0, parameters=SAMPLED).weights


def test_each_batch_is_read_once() -> None:
    samples = made_samples(n=100)
    n_read = 0

    def read() -> Iterator[Batch]:
        nonlocal n_read
        for batch in source(samples, [30]):
            n_read += 1
            yield batch

    given = SourceBatches(("a", "b", "noise"), ("made/1",), True, read)
    fit_xgb(given, seed=0, parameters=QUICK)
    assert n_read == 4


def test_bins_from_some_rows_cost_no_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, fresh = made_samples(n=2000), made_samples(seed=1, n=900)
    index = (np.arange(900), fresh["lcz"].values - 1)

    def loss() -> float:
        model = fit_xgb(samples, seed=0, parameters=QUICK)
        return float(-np.log(model.probability(fresh["features"].values)[index]).mean())

    wanted = loss()
    monkeypatch.setattr(trees, "CUT_ROWS", 500)
    assert loss() == pytest.approx(wanted, abs=0.005)


# memory

FIT = """
import sys
from pathlib import Path
from lczcube.labels.samples import read_samples
from lczcube.models import XgbParameters, fit_xgb, spool, xgb
from lczcube.models.batches import parquet_batches

spool._BLOCK_BYTES, xgb.CUT_ROWS = 2 << 20, 4096
table, how, scratch = sys.argv[1:]
samples = parquet_batches(table) if how == "batches" else read_samples(table)
fit_xgb(samples, seed=0, parameters=XgbParameters(rounds=2, max_depth=3), scratch=scratch)
# VmHWM and not ru_maxrss, which starts at the peak of the process that started this one.
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(int(status["VmHWM"].split()[0]) * 1024)
"""


def peak_bytes(n_rows: int, how: str, folder: Path) -> int:
    """Peak resident memory of a process that fits trees to a table of so many rows."""
    samples = full_samples(n_rows)
    features = np.random.default_rng(0).random((n_rows, 96), np.float32)
    features[:, 0] += samples["lcz"].values
    wide = samples.drop_vars(["features", "feature"])
    wide = wide.assign(features=(("sample", "feature"), features))
    table = folder / f"{n_rows}.parquet"
    write_samples(wide.assign_coords(feature=[f"f{i:02d}" for i in range(96)]), table)
    command = [sys.executable, "-W", "error", "-c", FIT, str(table), how, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(
    not Path("/proc/self/status").is_file(), reason="peaks are read from Linux's /proc"
)
def test_the_peak_of_a_fit_from_batches_does_not_grow_with_the_table(tmp_path: Path) -> None:
    small, large = (peak_bytes(n_rows, "batches", tmp_path) for n_rows in (40_000, 320_000))
    assert large < 1.2 * small


# early stopping


def test_a_fit_ends_where_held_out_samples_no_longer_gain(
    small_blocks: None, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    samples, held = made_samples(n=400), made_samples(seed=1, n=200)
    for part in (samples, held):
        wrong = random.random(part.sizes["sample"]) < 0.3
        part["lcz"] = part["lcz"].where(~wrong, 6).astype(np.uint8)
    parameters = XgbParameters(rounds=200, learning_rate=0.5, early_stopping=5)
    model = fit_xgb(samples, seed=0, valid=held, parameters=parameters)
    rounds = model.meta.parameters["rounds"]
    assert 1 < rounds < 100

    def loss(rounds: int) -> float:
        plain = XgbParameters(rounds=rounds, learning_rate=0.5)
        probability = fit_xgb(samples, seed=0, parameters=plain).probability(
            held["features"].values
        )
        index = np.arange(held.sizes["sample"]), held["lcz"].values - 1
        factors = np.zeros(18)
        codes, counts = np.unique(samples["lcz"].values, return_counts=True)
        factors[codes] = counts**-0.5
        return float(np.average(-np.log(probability[index]), weights=factors[held["lcz"].values]))

    losses = {n: loss(n) for n in range(rounds - 2, rounds + 6)}
    assert min(losses, key=lambda n: losses[n]) == rounds
    streamed = fit_xgb(
        sample_batches(samples), seed=0, valid=held, parameters=parameters, scratch=tmp_path
    )
    assert streamed.weights == model.weights


def test_held_out_samples_of_unknown_classes_are_left_out() -> None:
    samples = made_samples()
    held = made_samples(seed=1)
    more = held.copy(deep=True)
    more["lcz"][::4] = 11
    keep = np.flatnonzero(more["lcz"].values != 11)
    parameters = XgbParameters(rounds=30, early_stopping=2)
    fits = [
        fit_xgb(samples, seed=0, valid=valid, parameters=parameters)
        for valid in (more, held.isel(sample=keep), sample_batches(more))
    ]
    assert len({model.weights for model in fits}) == 1


def test_early_stopping_without_held_out_samples_is_refused() -> None:
    with pytest.raises(ModelError, match=r"early_stopping = 5 needs samples .* give blocks"):
        fit_xgb(made_samples(), seed=0, parameters=XgbParameters(early_stopping=5))


@pytest.mark.parametrize("as_batches", [False, True])
def test_held_out_samples_of_other_classes_only_are_refused(as_batches: bool) -> None:
    held = made_samples()
    held["lcz"][:] = 11
    valid = sample_batches(held) if as_batches else held
    with pytest.raises(ModelError, match="have classes 11, training 2, 6, 17"):
        fit_xgb(made_samples(), seed=0, valid=valid, parameters=XgbParameters(early_stopping=5))


def test_held_out_samples_with_features_in_another_order_are_refused() -> None:
    held = made_samples().isel(feature=[1, 0, 2])
    with pytest.raises(ModelError, match="number 0 is 'b', not 'a'"):
        fit_xgb(made_samples(), seed=0, valid=held, parameters=XgbParameters(early_stopping=5))


# sources


def test_a_parquet_table_gives_its_rows_in_order(tmp_path: Path) -> None:
    samples = full_samples()
    write_samples(samples, tmp_path / "s.parquet")
    batches = parquet_batches(tmp_path / "s.parquet")
    found = read_batches(batches)
    np.testing.assert_array_equal(found["features"].values, samples["features"])
    np.testing.assert_array_equal(found["lcz"].values, samples["lcz"])
    np.testing.assert_array_equal(found["weight"].values, samples["weight"])
    assert (batches.names, batches.products) == (("a", "b", "noise"), ("made/1",))
    assert batches.synthetic


def test_a_table_of_several_row_groups_is_read_part_by_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lczcube.labels.samples._GROUP_ROWS", 25)
    monkeypatch.setattr("lczcube.models.batches._ROWS", 25)
    samples = full_samples()
    write_samples(samples, tmp_path / "s.parquet")
    batches = parquet_batches(tmp_path / "s.parquet", rows=np.arange(90) % 7 == 0)
    assert [len(batch.lcz) for batch in batches] == [4, 4, 3, 2]
    np.testing.assert_array_equal(read_batches(batches)["features"], samples["features"][::7])


def test_rows_are_chosen_by_their_columns_or_by_their_number(tmp_path: Path) -> None:
    samples = full_samples()
    write_samples(samples, tmp_path / "s.parquet")
    wanted = samples["features"].values[np.arange(90) % 5 == 0]

    def held_out(table: pd.DataFrame) -> Any:
        return table["split"] == "test"

    for rows in (held_out, np.arange(90) % 5 == 0):
        found = read_batches(parquet_batches(tmp_path / "s.parquet", rows=rows))
        np.testing.assert_array_equal(found["features"].values, wanted)


def test_a_selection_of_another_length_is_refused(tmp_path: Path) -> None:
    write_samples(full_samples(), tmp_path / "s.parquet")
    with pytest.raises(LabelError, match=r"89 values and .* 90 rows"):
        list(parquet_batches(tmp_path / "s.parquet", rows=np.ones(89, bool)))


def test_files_of_several_cities_train_as_one_table(tmp_path: Path) -> None:
    parts = [full_samples(city=city, seed=seed) for seed, city in enumerate("abc")]
    paths = [tmp_path / f"{number}.parquet" for number in range(3)]
    for part, path in zip(parts, paths, strict=True):
        write_samples(part, path)
    empty = tmp_path / "empty.parquet"
    write_samples(parts[0].isel(sample=slice(0)), empty)
    batches = joined_batches([parquet_batches(path) for path in [*paths, empty]])
    joined = xr.concat(parts, dim="sample", join="exact", combine_attrs="override")
    found = fit_xgb(batches, seed=0, parameters=QUICK, scratch=tmp_path)
    assert found.weights == fit_xgb(joined, seed=0, parameters=QUICK).weights


def test_cities_with_features_in_another_order_are_refused() -> None:
    samples = made_samples()
    other = sample_batches(samples.isel(feature=[1, 0, 2]))
    with pytest.raises(ModelError, match="number 0 is 'b', not 'a'"):
        joined_batches([sample_batches(samples), other])


def test_cities_of_other_products_are_refused() -> None:
    samples = made_samples()
    other = sample_batches(samples.assign_attrs(products=json.dumps(["made/2"])))
    with pytest.raises(ModelError, match="features of made/1 and of made/2"):
        joined_batches([sample_batches(samples), other])


def test_a_file_that_is_not_there_or_no_table_of_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="there is no"):
        parquet_batches(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("no table")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "other.parquet")
    for name in ("text.parquet", "other.parquet"):
        with pytest.raises(LabelError, match=f"{name} is no table of samples"):
            parquet_batches(tmp_path / name)


def test_lazy_samples_are_read_a_chunk_at_a_time() -> None:
    samples = made_samples()
    batches = sample_batches(samples.chunk(sample=40))
    assert [len(batch.lcz) for batch in batches] == [40, 40, 10]
    np.testing.assert_array_equal(read_batches(batches)["features"], samples["features"])


def cells(height: int = 7, width: int = 9) -> xr.Dataset:
    """Features that are their own row and column; one cell is not covered."""
    row, column = np.mgrid[:height, :width].astype(np.float32)
    covered = np.ones((height, width), bool)
    covered[3, 4] = False
    return xr.Dataset(
        {
            "features": (("cell_y", "cell_x", "feature"), np.stack([row, column], axis=-1)),
            "covered": (("cell_y", "cell_x"), covered),
        },
        coords={"feature": ["row", "column"]},
        attrs={"products": json.dumps(["made/1"]), "synthetic": 0},
    )


@pytest.mark.parametrize("chunks", [None, {"cell_y": 3, "cell_x": 4, "feature": 1}])
def test_labelled_cells_give_their_own_features(chunks: dict[str, int] | None) -> None:
    features = cells() if chunks is None else cells().chunk(chunks)
    labels = pd.DataFrame(
        {
            "row": [6, 0, 3, 2, 2],
            "column": [8, 5, 4, 7, 7],
            "lcz": [6, 2, 2, 2, 6],
            "weight": [1, 2, 3, 4, 5],
        }
    )
    found = read_batches(cell_batches(features, labels))
    order = np.argsort(found["weight"].values)
    assert found["lcz"].values[order].tolist() == [6, 2, 2, 2, 6]
    wanted = [[6, 8], [0, 5], [np.nan, np.nan], [2, 7], [2, 7]]
    np.testing.assert_array_equal(found["features"].values[order], wanted)


def test_only_chunks_with_labels_are_read_each_once_and_in_order() -> None:
    import dask.array as da

    read = []

    def block(block_info: Any = None) -> Any:
        location = block_info[None]["array-location"]
        read.append(tuple(start for start, _ in location[:2]))
        return np.zeros([stop - start for start, stop in location], np.float32)

    values = da.map_blocks(
        block, chunks=((3, 3, 1), (4, 4, 1), (2,)), dtype=np.float32, meta=np.zeros((0, 0, 0), "f4")
    )
    features = cells().assign(features=(("cell_y", "cell_x", "feature"), values))
    labels = pd.DataFrame({"row": [6, 0, 1, 5], "column": [8, 5, 6, 0], "lcz": [6, 2, 2, 2]})
    assert [len(batch.lcz) for batch in cell_batches(features, labels)] == [2, 1, 1]
    assert read == [(0, 4), (3, 0), (6, 8)]


def test_a_label_outside_the_cells_is_refused() -> None:
    labels = pd.DataFrame({"row": [0, 7], "column": [0, 2], "lcz": [6, 2]})
    with pytest.raises(GridMismatchError, match=r"1 labels lie outside .* row 7, column 2"):
        cell_batches(cells(), labels)


def area(*, halo_px: int = 2, chunks: dict[str, int] | None = None) -> Area:
    """A city of 7 x 9 pixels whose two bands are row and column, with a halo."""
    row, column = np.mgrid[-halo_px : 7 + halo_px, -halo_px : 9 + halo_px].astype(np.float32)
    image = xr.DataArray(
        np.stack([row, column]),
        dims=("band", "y", "x"),
        coords={"band": ["made_row", "made_column"]},
        attrs={"products": json.dumps(["made/1"]), "synthetic": 1},
    )
    lcz = np.zeros((7, 9), np.uint8)
    lcz[1, 2], lcz[4, 8], lcz[6, 0] = 2, 6, 6
    weight = np.where(lcz > 0, np.float32(0.5), np.float32(0))
    return Area("made", image if chunks is None else image.chunk(chunks), lcz, weight, halo_px)


@pytest.mark.parametrize("halo_px", [0, 2])
@pytest.mark.parametrize("chunks", [None, {"y": 4, "x": 5, "band": 1}])
def test_labelled_pixels_give_their_own_bands(halo_px: int, chunks: dict[str, int] | None) -> None:
    batches = pixel_batches(area(halo_px=halo_px, chunks=chunks))
    found = read_batches(batches)
    order = np.argsort(found["features"].values[:, 0])
    assert found["features"].values[order].tolist() == [[1, 2], [4, 8], [6, 0]]
    assert found["lcz"].values[order].tolist() == [2, 6, 6]
    assert found["weight"].values.tolist() == [0.5] * 3
    assert (batches.names, batches.products) == (("made_row", "made_column"), ("made/1",))
    assert batches.synthetic


def test_labels_that_do_not_lie_on_their_image_are_refused() -> None:
    given = area(halo_px=2)
    shifted = Area("made", given.image, given.lcz, halo_px=1)
    with pytest.raises(
        GridMismatchError, match=r"image of made has .* halo of 1 it has bands, y: 9 and x: 11"
    ):
        pixel_batches(shifted)


def test_pixels_of_the_real_scene_are_those_that_gdal_reads(realdata: Path, tmp_path: Path) -> None:
    folder = realdata / "hongkong"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    with rasterio.open(folder / "landsat8_36band_100m.tif") as file:
        stored, transform, crs = file.read(), file.transform, file.crs
        image = xr.DataArray(
            np.where(stored == 0, np.nan, stored).astype(np.float32),
            dims=("band", "y", "x"),
            coords={"band": [f"b{i:02d}" for i in range(file.count)]},
            attrs={"products": []},
        )
        polygons = gpd.read_file(folder / "lcz_dfc2017_train_polygons.gpkg").to_crs(crs)
        pairs = list(zip(polygons.geometry, polygons["lcz"].astype(int), strict=True))
        lcz = rasterize(pairs, image.shape[1:], transform=transform, dtype="uint8")
        row, column = np.nonzero(lcz)
        places = np.column_stack(transform * (column + 0.5, row + 0.5))
        wanted = np.array(list(file.sample(places)), np.float32)
    batches = pixel_batches(Area("hongkong", image.chunk(y=100, x=130), lcz))
    found = read_batches(batches)
    wanted[wanted == 0] = np.nan

    def ordered(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return rows[np.lexsort(rows.T)]

    np.testing.assert_array_equal(ordered(found["features"].values), ordered(wanted))
    in_memory = fit_xgb(found, seed=0, parameters=SAMPLED)
    streamed = fit_xgb(batches, seed=0, parameters=SAMPLED, scratch=tmp_path)
    assert streamed.weights == in_memory.weights
    assert streamed.meta.n_train == int((~np.isnan(wanted).all(axis=1)).sum()) > 4000


# bad input, in memory and in batches


@pytest.mark.parametrize("as_batches", [False, True])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"lcz": (slice(None), 6)}, ModelError, "hold only LCZ 6; .* Add labels"),
        ({"lcz": (slice(None), 0)}, ModelError, "no labelled sample with valid features"),
        ({"weight": (slice(None), 0)}, ModelError, "no labelled sample with valid features"),
        ({"features": (slice(None), np.nan)}, ModelError, "no labelled sample with valid"),
        ({"features": (slice(0, 4), np.inf)}, ModelError, r"3 of 3 .*: a \(4\), b \(4\)"),
        ({"features": (0, [0, -np.inf, 0])}, ModelError, r"1 of 3 .* values: b \(1\); .* Mask"),
        ({"lcz": (0, 18)}, LabelError, "code 18"),
        ({"weight": (0, -1)}, ModelError, r"weight such as -1\.0"),
        ({"weight": (0, np.nan)}, ModelError, "weight such as nan"),
    ],
)
def test_bad_samples_are_refused(
    change: dict[str, tuple[Any, Any]],
    error: type[Exception],
    message: str,
    as_batches: bool,
    tmp_path: Path,
) -> None:
    samples = made_samples()
    for name, (at, value) in change.items():
        samples[name][at] = value
    with pytest.raises(error, match=message):
        fit_xgb(
            sample_batches(samples.chunk(sample=40)) if as_batches else samples,
            seed=0,
            parameters=QUICK,
            scratch=tmp_path,
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("as_batches", [False, True])
def test_infinities_of_rows_that_are_left_out_do_no_harm(as_batches: bool) -> None:
    samples = made_samples()
    samples["features"][0, 1], samples["weight"][0] = np.inf, 0
    given = sample_batches(samples) if as_batches else samples
    assert fit_xgb(given, seed=0, parameters=QUICK).meta.n_train == 89


def test_batches_without_rows_or_without_data_are_passed_over(small_blocks: None) -> None:
    samples = made_samples(n=200)
    samples["features"][60:130] = np.nan

    def read() -> Iterator[Batch]:
        yield Batch(np.empty((0, 3), np.float32), np.empty(0, np.uint8), np.empty(0, np.float32))
        yield from source(samples, [30, 0])

    given = SourceBatches(("a", "b", "noise"), ("made/1",), True, read)
    found = fit_xgb(given, seed=0, parameters=QUICK)
    assert found.weights == fit_xgb(samples, seed=0, parameters=QUICK).weights


def test_a_batch_of_another_shape_than_its_names_is_refused() -> None:
    samples = made_samples()
    for names in (("a", "b"), ("a", "b", "noise", "more")):
        given = SourceBatches(names, (), True, lambda: iter(source(samples, [30])))
        with pytest.raises(ModelError, match=r"a batch has features \(30, 3\)"):
            fit_xgb(given, seed=0, parameters=QUICK)


def test_a_code_that_no_byte_holds_is_refused() -> None:
    labels = pd.DataFrame({"row": [0, 1], "column": [0, 0], "lcz": [257, 2]})
    with pytest.raises(LabelError, match="code 257"):
        fit_xgb(cell_batches(cells(), labels), seed=0, parameters=QUICK)


def test_no_batch_at_all_is_refused() -> None:
    with pytest.raises(ModelError, match="no labelled sample"):
        fit_xgb(SourceBatches(("a",), (), False, lambda: iter([])), seed=0, parameters=QUICK)


def test_an_error_of_a_source_arrives_as_it_is(tmp_path: Path) -> None:
    def read() -> Iterator[Batch]:
        yield from source(made_samples(), [30])
        raise MissingInputError("tile gone")

    with pytest.raises(MissingInputError, match="tile gone"):
        fit_xgb(SourceBatches(("a", "b", "noise"), (), False, read), seed=0, scratch=tmp_path)
    assert list(tmp_path.iterdir()) == []


# the device


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(ModelError, match="device = 'tpu': it is cpu or cuda"):
        fit_xgb(made_samples(), seed=0, parameters=XgbParameters(device="tpu"))


def has_gpu() -> bool:
    import xgboost

    try:
        trees._require_device(xgboost, "cuda")
    except ModelError:
        return False
    return True


def test_without_a_gpu_cuda_is_refused_with_the_remedy() -> None:
    if has_gpu():
        pytest.skip("there is a GPU")
    with pytest.raises(ModelError, match=r"device = 'cuda', and .* (no GPU|without CUDA)"):
        fit_xgb(made_samples(), seed=0, parameters=XgbParameters(device="cuda"))


def test_an_xgboost_without_cuda_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import xgboost

    monkeypatch.setattr(xgboost, "build_info", lambda: {"USE_CUDA": False})
    with pytest.raises(ModelError, match="built without CUDA"):
        fit_xgb(made_samples(), seed=0, parameters=XgbParameters(device="cuda"))


@pytest.mark.parametrize("as_batches", [False, True])
def test_a_gpu_learns_what_a_cpu_learns(as_batches: bool, small_blocks: None) -> None:
    if not has_gpu():
        pytest.skip("XGBoost finds no GPU here")
    if as_batches:
        pytest.importorskip("cupy")
    samples, fresh = made_samples(n=600), made_samples(seed=1)["features"].values
    given = sample_batches(samples) if as_batches else samples
    on_gpu = XgbParameters(rounds=8, max_depth=3, colsample=1, subsample=1, device="cuda")
    found = fit_xgb(given, seed=0, parameters=on_gpu).probability(fresh)
    wanted = fit_xgb(samples, seed=0, parameters=QUICK).probability(fresh)
    np.testing.assert_allclose(found, wanted, atol=0.02)


# scratch


def test_nothing_is_left_in_scratch(tmp_path: Path, small_blocks: None) -> None:
    fit_xgb(sample_batches(made_samples(n=300)), seed=0, parameters=QUICK, scratch=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_fit_left_is_swept_and_what_a_living_one_uses_is_not(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom lczcube.models.spool import scratch_folder\n"
        "with scratch_folder(sys.argv[1]) as folder:\n"
        "    (folder / 'bins').write_text('many')\n    os._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert len(list(tmp_path.iterdir())) == 2
    mine = tmp_path / "thesis.txt"
    mine.write_text("years of work")
    with scratch_folder(tmp_path) as first:
        assert {p.name for p in tmp_path.iterdir()} == {
            first.name,
            f"{first.name}.lock",
            "thesis.txt",
        }
        with scratch_folder(tmp_path) as second:
            assert first.is_dir()
            assert second.is_dir()
        assert first.is_dir()
    assert list(tmp_path.iterdir()) == [mine]


def test_a_scratch_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file cannot be written: .* \(scratch=\)"):
        fit_xgb(sample_batches(made_samples()), seed=0, scratch=tmp_path / "file")


def test_rows_of_a_spool_are_those_of_the_table(small_blocks: None, tmp_path: Path) -> None:
    samples = made_samples(n=300)
    spooled = spool(sample_batches(samples), tmp_path / "spool")
    assert spooled.sizes == (64, 64, 64, 64, 44)
    at = np.array([0, 63, 64, 130, 299])
    found, wanted = spooled.rows(at), training_table(samples).rows(at)
    np.testing.assert_array_equal(found.features, wanted.features)
    np.testing.assert_array_equal(found.lcz, wanted.lcz)
