"""Change between maps: what differs, surely and in large enough pieces, in any chunking."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.image import imread
from scipy import ndimage

from lczcube.changes import (
    STATUS,
    ChangeRules,
    change_table,
    changes_text,
    find_changes,
)
from lczcube.changes_plot import write_changes_png
from lczcube.components import Connectivity, in_large_component
from lczcube.cube import GRID_ATTR
from lczcube.errors import ConfigError, GridMismatchError, StoreError
from lczcube.grid import Grid
from lczcube.lcz import colors
from lczcube.mapstack import MADE_BY, maps_by_year, stack_years
from lczcube.products import open_product, write_product
from tests.small_runs import lczcube

GRID = Grid("EPSG:32632", (0, 0, 3, 2), pixel_m=80, chunk_cells=1)
"""8 x 12 pixels of 80 m (0.64 ha), 2 x 3 cells, chunks of a cell (4 pixels)."""

Codes = npt.NDArray[np.uint16]


def map_of(
    lcz: npt.ArrayLike, confidence: npt.ArrayLike = 100, *, grid: Grid = GRID, **attrs: Any
) -> xr.Dataset:
    """A map on the pixels of a grid, as a model gives it: confidence in whole per cents."""
    codes = np.broadcast_to(np.asarray(lcz, np.uint8), grid.shape)
    percent = np.where(codes == 0, 255, np.broadcast_to(confidence, grid.shape)).astype(np.uint8)
    coordinates = grid.geobox.coordinates
    return xr.Dataset(
        {"lcz": (("y", "x"), codes), "confidence": (("y", "x"), percent)},
        coords={dim: coordinates[dim].values for dim in ("y", "x")},
        attrs={GRID_ATTR: grid.to_json(), "model": "xgb", "seed": 0, "synthetic": 0} | attrs,
    )


def with_patch(lcz: int, *squares: tuple[slice, slice], base: int = 6) -> npt.NDArray[np.uint8]:
    codes = np.full(GRID.shape, base, np.uint8)
    for square in squares:
        codes[square] = lcz
    return codes


def naive(codes: Codes, min_px: int, connectivity: Connectivity) -> npt.NDArray[np.bool_]:
    """One class at a time, one pass over the whole."""
    shape = ndimage.generate_binary_structure(2, 1 if connectivity == 4 else 2)
    answer = np.zeros(codes.shape, bool)
    for code in set(np.unique(codes).tolist()) - {0}:
        numbers, _ = ndimage.label(codes == code, shape)
        answer |= (np.bincount(numbers.ravel())[numbers] >= min_px) & (codes == code)
    return answer


@settings(max_examples=40, deadline=None)
@given(
    codes=arrays(np.uint16, (9, 11), elements=st.sampled_from([0, 617, 603])),
    rows=st.integers(1, 9),
    columns=st.integers(1, 11),
    min_px=st.integers(0, 12),
    connectivity=st.sampled_from([4, 8]),
)
def test_components_in_any_chunking_are_those_of_scipy_on_the_whole(
    codes: Codes, rows: int, columns: int, min_px: int, connectivity: Connectivity
) -> None:
    chunked = da.from_array(codes, chunks=(rows, columns))
    found = in_large_component(chunked, min_px=min_px, connectivity=connectivity)
    assert found.chunks == chunked.chunks
    np.testing.assert_array_equal(
        found.compute(scheduler="sync"), naive(codes, min_px, connectivity)
    )


def test_pixels_of_four_chunks_that_meet_in_a_corner_are_one_component() -> None:
    codes = np.zeros((4, 4), np.uint16)
    codes[1, 1] = codes[2, 2] = 617
    chunked = da.from_array(codes, chunks=2)
    by_corners = in_large_component(chunked, min_px=2, connectivity=8).compute()
    by_sides = in_large_component(chunked, min_px=2, connectivity=4).compute()
    assert by_corners.sum() == 2
    assert by_sides.sum() == 0


def test_the_same_components_have_the_same_names() -> None:
    codes = np.full((4, 4), 617, np.uint16)
    names = {
        in_large_component(da.from_array(codes, chunks=2), min_px=n, connectivity=8).name
        for n in (2, 2, 3)
    }
    assert len(names) == 2


def test_a_snake_through_many_chunks_is_one_component() -> None:
    codes = np.zeros((12, 12), np.uint16)
    codes[::2] = 617
    codes[1::4, -1] = codes[3::4, 0] = 617
    n = int((codes > 0).sum())
    chunked = da.from_array(codes, chunks=3)
    assert in_large_component(chunked, min_px=n, connectivity=4).compute().sum() == n
    assert in_large_component(chunked, min_px=n + 1, connectivity=4).compute().sum() == 0


def test_from_to_and_status_are_those_worked_out_by_hand() -> None:
    before, after = with_patch(6), with_patch(17, np.s_[0:2, 0:3], np.s_[7:8, 11:12])
    before[4, 4] = 0
    percent = np.full(GRID.shape, 80)
    percent[0, 0] = 62  # 0.62 x 0.8 = 0.496
    stacked = stack_years({2021: map_of(after, 80), 2019: map_of(before, percent)})
    changes = find_changes(stacked, ChangeRules(min_confidence=0.5, min_area_ha=1.28))
    assert changes["time"].dt.year.values.tolist() == [2021]
    assert changes["since"].dt.year.values.tolist() == [2019]
    from_to = np.full(GRID.shape, 606)
    from_to[0:2, 0:3] = from_to[7, 11] = 617
    from_to[4, 4] = 0
    np.testing.assert_array_equal(changes["from_to"][0], from_to)
    status = np.full(GRID.shape, STATUS.index("same"))
    status[0:2, 0:3] = STATUS.index("changed")
    status[0, 0] = STATUS.index("too_uncertain")
    status[7, 11] = STATUS.index("too_small")  # 0.64 ha
    status[4, 4] = STATUS.index("no_data")
    np.testing.assert_array_equal(changes["status"][0], status)
    np.testing.assert_array_equal(changes["changed"], changes["status"] == 2)
    joint = changes["joint_confidence"][0].values
    assert joint[0, 0] == np.float32(0.496)
    assert np.isnan(joint[4, 4])
    assert {name: str(v.dtype) for name, v in changes.items()} == {
        "from_to": "uint16",
        "joint_confidence": "float32",
        "status": "uint8",
        "changed": "bool",
    }


def test_a_threshold_that_a_product_meets_exactly_is_met() -> None:
    stacked = stack_years({2019: map_of(6, 80), 2020: map_of(17, 50), 2021: map_of(6, 70)})
    at = find_changes(stacked, ChangeRules(min_confidence=0.4))
    above = find_changes(stacked, ChangeRules(min_confidence=0.4 + 1e-9))
    assert at["changed"].mean(["y", "x"]).values.tolist() == [1, 0]  # 0.4 and 0.35
    assert not above["changed"].any()


def test_a_unit_of_whole_pixels_is_met_by_so_many_pixels() -> None:
    after = with_patch(17, np.s_[3:5, 3:5])  # over four chunks: 4 x 0.64 ha
    stacked = stack_years({2019: map_of(6), 2021: map_of(after)})
    for area_ha, n in ((2.56, 4), (2.57, 0)):
        changes = find_changes(stacked, ChangeRules(min_area_ha=area_ha))
        assert int(changes["changed"].sum()) == n


def test_two_transitions_side_by_side_do_not_help_each_other() -> None:
    after = with_patch(17, np.s_[0:1, 0:2])
    after[0, 2:4] = 14
    stacked = stack_years({2019: map_of(6), 2021: map_of(after)})
    changes = find_changes(stacked, ChangeRules(min_area_ha=2.0))
    assert not changes["changed"].any()


@settings(max_examples=8, deadline=None)
@given(rows=st.integers(1, 8), columns=st.integers(1, 12), seed=st.integers(0, 99))
def test_any_chunking_gives_what_one_chunk_gives(rows: int, columns: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    years = [
        map_of(random.choice([0, 6, 6, 17], GRID.shape), random.integers(0, 101, GRID.shape))
        for _ in range(3)
    ]
    stacked = stack_years(dict(zip((2019, 2020, 2022), years, strict=True)))
    rules = ChangeRules(min_confidence=0.1, min_area_ha=1.5, connectivity=4)
    whole = find_changes(stacked, rules)
    pieces = find_changes(stacked.chunk(time=1, y=rows, x=columns), rules)
    xr.testing.assert_identical(pieces.compute(scheduler="sync"), whole.compute(scheduler="sync"))


def test_finding_changes_computes_nothing() -> None:
    def refuse(block: npt.NDArray[Any]) -> npt.NDArray[Any]:
        raise AssertionError("computed")

    stacked = stack_years({2019: map_of(6), 2021: map_of(17)}).chunk(y=4, x=4)
    never = stacked.map(lambda v: v.copy(data=v.data.map_blocks(refuse, dtype=v.dtype)))
    changes = find_changes(never.assign_attrs(stacked.attrs), ChangeRules(min_area_ha=2))
    with pytest.raises(AssertionError, match="computed"):
        changes["status"].compute()


def test_areas_add_up_to_the_ground_that_both_maps_cover() -> None:
    before, after = with_patch(6), with_patch(17, np.s_[0:2, 0:3])
    after[2, 2] = 0
    changes = find_changes(stack_years({2019: map_of(before), 2021: map_of(after)}))
    table = change_table(changes)
    rows = table.set_index(["lcz_from", "lcz_to"])
    assert rows.loc[(6, 17), "changed_ha"] == pytest.approx(6 * 0.64)
    assert rows.loc[(6, 6), "same_ha"] == pytest.approx((96 - 6 - 1) * 0.64)
    areas = table[[name for name in table if name.endswith("_ha")]]
    assert areas.to_numpy().sum() == pytest.approx(95 * 0.64)
    text = changes_text(table, changes)
    assert "| 6 Open low-rise | G Water | 3.8 " in text
    assert "overestimates change" in text
    assert "Synthetic" not in text


def test_transitions_past_the_limit_are_one_row_and_in_the_totals() -> None:
    after = with_patch(17, np.s_[0:4, 0:3])
    after[4:6, 0:2], after[7, 7] = 14, 11
    changes = find_changes(stack_years({2019: map_of(6), 2021: map_of(after)}))
    text = changes_text(change_table(changes), changes, limit=1)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[4:7]]
    assert [row[:3] for row in rows] == [
        ["6 Open low-rise", "G Water", "7.7"],
        ["2 more", "", "3.2"],
        ["all", "", "10.9"],
    ]


def test_cells_have_the_area_of_cells() -> None:
    cells = map_of(6).isel(y=slice(0, 2), x=slice(0, 3))
    coordinates = GRID.output_geobox.coordinates
    cells = cells.assign_coords({dim: coordinates[dim].values for dim in ("y", "x")})
    other = cells.assign(lcz=cells["lcz"] * np.uint8(0) + np.uint8(17))
    renamed = other.rename(y="cell_y", x="cell_x")
    table = change_table(find_changes(stack_years({2019: cells, 2021: renamed})))
    assert table["changed_ha"].tolist() == [pytest.approx(6 * 10.24)]


MANIFEST = {
    "settings": {"run": {"year": 2019, "models": ["xgb"]}, "xgb": {"rounds": 5}},
    "inputs": {
        "image": {"product": "alphaearth/1", "role": "features"},
        "areas": {"product": None, "role": "labels"},
    },
}


def write_map(folder: Path, year: int, dataset: xr.Dataset, product: str = "alphaearth/1") -> Path:
    """A run folder with one map in it."""
    told = json.loads(json.dumps(MANIFEST).replace("2019", str(year)))
    told["inputs"]["image"]["product"] = product
    store = folder / f"run_{year}" / "town" / "lcz.zarr"
    write_product({"pixels": dataset}, store, attrs=told, overwrite=True)
    return store.parent.parent


def test_maps_of_runs_are_those_of_their_stores_in_the_order_of_years(tmp_path: Path) -> None:
    percent = np.arange(96).reshape(8, 12)
    runs = [
        write_map(tmp_path, year, map_of(lcz, percent)) for year, lcz in ((2021, 17), (2019, 6))
    ]
    stacked = stack_years(maps_by_year(runs), group="pixels").compute()
    assert stacked["time"].dt.year.values.tolist() == [2019, 2021]
    assert stacked["lcz"][:, 0, 0].values.tolist() == [6, 17]
    np.testing.assert_array_equal(stacked["confidence"][0], percent)
    assert stacked["confidence"].dtype == np.uint8
    said = json.loads(stacked.attrs[MADE_BY])
    assert said[0] == said[1]
    assert said[0]["product"] == ["alphaearth/1"]
    assert said[0]["xgb.rounds"] == 5


def test_years_of_one_store_come_back_as_they_were(tmp_path: Path) -> None:
    after = with_patch(17, np.s_[0:2, 0:3])
    stacked = stack_years({2019: map_of(6, 90), 2021: map_of(after, 77)})
    changes = find_changes(stacked)
    store = write_product({"pixels": stacked, "change": changes}, tmp_path / "change.zarr")
    again = find_changes(open_product(store, "pixels"))
    xr.testing.assert_equal(again.compute(), changes.compute())
    opened = open_product(store, "change").compute().drop_vars("spatial_ref")
    for name, variable in changes.items():
        np.testing.assert_array_equal(opened[name].values, variable.values)
    assert opened["status"].attrs["flag_meanings"].split() == list(STATUS)
    assert opened["since"].values == changes["since"].values


def test_maps_of_different_products_are_refused_unless_asked(tmp_path: Path) -> None:
    runs = [
        write_map(tmp_path, 2019, map_of(6)),
        write_map(tmp_path, 2021, map_of(17), product="tessera/1.1"),
    ]
    stacked = stack_years(maps_by_year(runs), group="pixels")
    told = r'product of 2019 is \["alphaearth/1"\] and of 2021 \["tessera/1.1"\].* allow_mixed'
    with pytest.raises(StoreError, match=told):
        find_changes(stacked)
    changes = find_changes(stacked, allow_mixed=True)
    assert "tessera/1.1" in changes.attrs["mixed"]
    assert "Of different origin: product of 2019" in changes_text(change_table(changes), changes)


def test_maps_of_different_models_are_refused() -> None:
    stacked = stack_years({2019: map_of(6), 2021: map_of(17, model="unet")})
    with pytest.raises(StoreError, match='model of 2019 is "xgb" and of 2021 "unet"'):
        find_changes(stacked)


def test_maps_on_other_pixels_are_refused_with_what_differs() -> None:
    moved = Grid("EPSG:32632", (0, 0, 3, 2), anchor_um=(80_000_000, 0), pixel_m=80, chunk_cells=1)
    with pytest.raises(GridMismatchError, match=r"2019 and 2021 .*anchor_um: \[0, 0\] and \[80"):
        stack_years({2019: map_of(6), 2021: map_of(17, grid=moved)})
    part = map_of(17).isel(y=slice(0, 4))
    with pytest.raises(GridMismatchError, match=r"pixels: \(8, 12\) and \(4, 12\)"):
        stack_years({2019: map_of(6), 2021: part})


def test_chunks_of_another_size_are_no_other_grid() -> None:
    other = Grid("EPSG:32632", (0, 0, 3, 2), pixel_m=80, chunk_cells=2)
    assert stack_years({2019: map_of(6), 2021: map_of(17, grid=other)}).sizes["time"] == 2


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ({"min_confidence": 1.5}, "min_confidence = 1.5: it is a share"),
        ({"min_area_ha": -1}, "min_area_ha = -1: it is 0 ha or more"),
        ({"min_area_ha": float("nan")}, "min_area_ha = nan"),
        ({"connectivity": 6}, "connectivity = 6: it is 4 or 8"),
    ],
)
def test_rules_out_of_range_are_refused(rules: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        ChangeRules(**rules)


def test_one_year_has_no_change_and_no_map_no_year() -> None:
    with pytest.raises(ConfigError, match="two years or more"):
        find_changes(stack_years({2019: map_of(6)}))
    with pytest.raises(ConfigError, match="no map is given"):
        stack_years({})


def test_a_dataset_that_is_no_map_is_named() -> None:
    with pytest.raises(StoreError, match="map of 2019 has no confidence but lcz"):
        stack_years({2019: map_of(6)[["lcz"]]})


def test_the_command_prints_the_table_and_writes_store_and_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    after = with_patch(17, np.s_[0:4, 0:6])
    runs = [
        write_map(tmp_path, 2019, map_of(6, synthetic=1)),
        write_map(tmp_path, 2021, map_of(after, synthetic=1)),
    ]
    out = tmp_path / "change.zarr"
    given = ("--out", out, "--group", "pixels", "--min-area-ha", "2")
    arguments: list[str | Path] = ["change", *runs, *given]
    assert lczcube(*arguments) == 0
    told = capsys.readouterr().out
    assert "2019 to 2021, 46.1 ha the same" in told  # 72 pixels
    assert "| 6 Open low-rise | G Water | 15.4 " in told  # 24 pixels
    assert "Synthetic" in told
    changes = open_product(out, "change")
    assert int(changes["changed"].sum()) == 24
    assert open_product(out, "pixels").sizes["time"] == 2
    assert lczcube(*arguments) == 1
    assert "exists; pass overwrite" in capsys.readouterr().err
    assert lczcube(*arguments, "--overwrite") == 0
    picture = (imread(out.with_suffix(".png"))[..., :3] * 255).round().astype(np.uint8)
    (panels,) = [picture[:, : picture.shape[1] * 5 // 6]]
    water, houses = ((panels == colors()[code]).all(axis=-1).sum() for code in (17, 6))
    # Water is in the later map and in the panel of change; houses in both maps.
    assert water / houses == pytest.approx(2 * 24 / (96 + 72), rel=0.1)


def change_of(folder: Path, min_area_ha: str, *more: str, out: str = "change.zarr") -> int:
    runs = [folder / f"run_{year}" for year in (2019, 2021)]
    given = ("--group", "pixels", "--min-area-ha", min_area_ha, *more)
    return lczcube("change", *runs, "--out", folder / out, *given)


@pytest.fixture
def two_maps(tmp_path: Path) -> Path:
    """A folder with runs of 2019 and 2021, from 6 to 17."""
    for year, code in ((2019, 6), (2021, 17)):
        write_map(tmp_path, year, map_of(code))
    return tmp_path


@pytest.mark.parametrize("min_area_ha", ["0", "2"])
def test_a_change_is_never_that_of_a_map_that_was_replaced(
    two_maps: Path, capsys: pytest.CaptureFixture[str], min_area_ha: str
) -> None:
    assert change_of(two_maps, min_area_ha) == 0
    write_map(two_maps, 2021, map_of(11))
    (two_maps / "change.png").unlink()
    assert change_of(two_maps, min_area_ha) == 1
    assert "change.zarr exists; pass overwrite" in capsys.readouterr().err
    assert change_of(two_maps, min_area_ha, "--overwrite") == 0
    assert (open_product(two_maps / "change.zarr", "change")["from_to"] == 611).all()


@pytest.mark.parametrize(("min_area_ha", "code"), [("0", 17), ("2", 17), ("2", 11)])
def test_an_interrupted_change_goes_on_where_the_maps_are_the_same(
    two_maps: Path, monkeypatch: pytest.MonkeyPatch, min_area_ha: str, code: int
) -> None:
    sync = os.fsync

    def full(descriptor: int) -> None:
        if "/change/status/c/" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    assert change_of(two_maps, min_area_ha) == 1
    monkeypatch.undo()
    staged, markers = (two_maps / f"change.zarr{s}.regions" for s in (".partial", ""))
    kept = {p.name: p.stat().st_mtime_ns for p in staged.glob("pixels.*.json")}
    assert kept
    if code != 17:
        write_map(two_maps, 2021, map_of(code))
    assert change_of(two_maps, min_area_ha) == 0
    assert (open_product(two_maps / "change.zarr", "change")["from_to"] == 600 + code).all()
    is_kept = {(markers / name).stat().st_mtime_ns == then for name, then in kept.items()}
    assert is_kept == {code == 17}


def test_a_whole_change_whose_picture_is_missing_is_drawn_and_not_written_again(
    two_maps: Path,
) -> None:
    assert change_of(two_maps, "2") == 0
    store, picture = two_maps / "change.zarr", two_maps / "change.png"
    before, drawn = {p: p.stat().st_mtime_ns for p in store.rglob("*")}, picture.read_bytes()
    picture.unlink()
    assert change_of(two_maps, "2") == 0
    assert picture.read_bytes() == drawn
    assert {p: p.stat().st_mtime_ns for p in store.rglob("*")} == before


def test_a_picture_is_not_replaced_unasked_and_nothing_is_written(
    two_maps: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (two_maps / "change.png").write_bytes(b"mine")
    assert change_of(two_maps, "0") == 1
    assert "change.png exists; pass overwrite" in capsys.readouterr().err
    assert (two_maps / "change.png").read_bytes() == b"mine"
    assert not (two_maps / "change.zarr").exists()


@pytest.mark.parametrize("out", [".", "run_2021", "run_2021/town/lcz.zarr"])
def test_a_map_that_is_compared_is_not_written_over(
    two_maps: Path, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    assert change_of(two_maps, "0", "--overwrite", out=out) == 1
    assert "is, holds or lies in the map" in capsys.readouterr().err
    assert (open_product(two_maps / "run_2021/town/lcz.zarr", "pixels")["lcz"] == 17).all()


def test_the_years_of_one_store_that_does_not_say_whether_it_is_synthetic(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stacked = stack_years({2019: map_of(6), 2021: map_of(17)})
    del stacked.attrs["synthetic"]
    store = write_product({"pixels": stacked}, tmp_path / "years.zarr")
    out = tmp_path / "change.zarr"
    assert lczcube("change", store, "--group", "pixels", "--out", out) == 0
    assert "| 6 Open low-rise | G Water | 61.4 " in capsys.readouterr().out


def test_the_picture_is_the_same_bytes_twice(tmp_path: Path) -> None:
    stacked = stack_years({2019: map_of(6), 2021: map_of(17)})
    changes = find_changes(stacked)
    first, second = (
        write_changes_png(stacked, changes, tmp_path / name, title="T").read_bytes()
        for name in ("a.png", "b.png")
    )
    assert first == second


@pytest.mark.parametrize(
    ("years", "city", "told"),
    [
        ((2019,), None, "1 years for 2 maps"),
        ((2019, 2019), None, "are both of 2019"),
        ((), "elsewhere", "has maps of town; name one"),
    ],
)
def test_maps_whose_year_or_city_is_not_clear_are_refused(
    tmp_path: Path, years: tuple[int, ...], city: str | None, told: str
) -> None:
    runs = [write_map(tmp_path, year, map_of(6)) for year in (2019, 2021)]
    with pytest.raises(ConfigError, match=told):
        maps_by_year(runs, years=years, city=city)


def test_a_folder_without_a_map_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no product store, and no run folder with a map"):
        maps_by_year([tmp_path])
