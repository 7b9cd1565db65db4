"""The layout of a product: its JSON Schema, its versions, and what each variable says of itself."""

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from zarr.storage import LocalStore, WrapperStore

from lczcube.errors import StoreError
from lczcube.grid import Grid
from lczcube.products import map_groups, open_product, write_product
from lczcube.schema import KINDS, SCHEMA_VERSION, json_schema
from tests.test_products import GRID, all_bytes, features_on, maps_on

FROZEN = Path(__file__).parent / "data"
"""Stores that the code of a version wrote, never to be written again."""

FROZEN_GRID = Grid("EPSG:32632", (10, 20, 13, 22), pixel_m=20, chunk_cells=4)
YEARS = (2017, 2021, 2024)


def complete_maps(grid: Grid) -> xr.Dataset:
    """Every variable of a map, with no data in the upper-left corner."""
    maps = maps_on(grid).compute()
    codes = maps["lcz"].values.astype(np.uint32)
    here = codes > 0
    dims = ("y", "x")
    return maps.assign(
        label_set=(dims, np.where(here, np.uint32(1) << (codes - 1) % 32, 0).astype(np.uint32)),
        applicable=(dims, np.where(here, codes % 2, 255).astype(np.uint8)),
        dissimilarity=(dims, np.where(here, codes / 4, np.nan).astype(np.float32)),
        distance=(dims, np.where(here, codes / 8, np.nan).astype(np.float32)),
        donor=(dims, np.where(here, codes.astype(np.int32), np.int32(-1))),
        pseudo_label=(dims, (codes // 2).astype(np.uint8)),
    )


def yearly_maps(grid: Grid) -> xr.Dataset:
    """Maps of three years, each a zone further."""
    first = maps_on(grid, chunk=20)
    later = [
        first.assign(lcz=first["lcz"] * 0 + (first["lcz"] + i) % 18).assign_attrs(first.attrs)
        for i in range(len(YEARS))
    ]
    time = xr.Variable("time", pd.to_datetime([f"{year}-07-01" for year in YEARS]))
    joined = xr.concat(later, time, data_vars="all", coords="minimal").assign_attrs(first.attrs)
    return joined.assign(lcz=joined["lcz"].astype(np.uint8))


def root_of(store: Path) -> dict[str, Any]:
    return dict(json.loads((store / "zarr.json").read_text()))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    groups = {"pixels": complete_maps(GRID), "cells": features_on(GRID)}
    return write_product(groups, tmp_path_factory.mktemp("schema") / "lcz.zarr")


@pytest.fixture(scope="module")
def years(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_product(
        {"pixels": yearly_maps(GRID)}, tmp_path_factory.mktemp("years") / "lcz.zarr"
    )


def test_the_schema_is_a_schema_and_written_stores_keep_it(store: Path, years: Path) -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    for written in (store, years, FROZEN / "product-2.0.0.zarr"):
        jsonschema.validate(root_of(written), schema)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("attributes", "lczcube_schema"), "1.0.0"),
        (("consolidated_metadata", "metadata", "pixels/lcz", "data_type"), "int16"),
        (("consolidated_metadata", "metadata", "pixels/lcz", "attributes", "nodata"), 255),
        (("consolidated_metadata", "metadata", "pixels/confidence", "fill_value"), 0),
        (
            ("consolidated_metadata", "metadata", "pixels/probability", "dimension_names"),
            ["y", "x"],
        ),
        (("consolidated_metadata", "metadata", "pixels/label_set", "data_type"), "int32"),
        (
            ("consolidated_metadata", "metadata", "pixels/applicable", "attributes", "flag_values"),
            [],
        ),
        (("consolidated_metadata", "metadata", "pixels", "attributes", "spatial:shape"), [64]),
        (
            ("consolidated_metadata", "metadata", "pixels/donor", "attributes", "grid_mapping"),
            "crs",
        ),
        (("consolidated_metadata", "metadata", "pixels/dissimilarity", "codecs"), []),
    ],
)
def test_a_store_that_breaks_the_layout_does_not_keep_the_schema(
    store: Path, path: tuple[str, ...], value: object
) -> None:
    root = copy.deepcopy(root_of(store))
    node = root
    for key in path[:-1]:
        node = node[key]
    assert node[path[-1]] != value
    node[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(root, json_schema())


def test_plain_xarray_finds_sets_flags_and_what_is_no_data(store: Path) -> None:
    given, opened = complete_maps(GRID), xr.open_zarr(store, group="pixels")
    for name in ("label_set", "applicable", "donor", "pseudo_label"):
        assert opened[name].dtype == given[name].dtype
        assert opened[name].attrs["nodata"] == given[name].values[0, 0]
        np.testing.assert_array_equal(opened[name], given[name])
    for name in ("dissimilarity", "distance"):
        assert opened[name].dtype == np.float32
        np.testing.assert_array_equal(opened[name], given[name])
    sets, codes = opened["label_set"], given["lcz"]
    for mask, code in zip(sets.attrs["flag_masks"], range(1, 18), strict=True):
        np.testing.assert_array_equal((sets & mask) > 0, codes == code)
    assert sets.attrs["flag_meanings"] == opened["lcz"].attrs["flag_meanings"]


def test_zarr_fills_with_what_is_no_data(store: Path) -> None:
    for name in complete_maps(GRID).data_vars:
        nodata, fill = (
            KINDS[str(name)].nodata,
            zarr.open_array(store / "pixels" / str(name)).fill_value,
        )
        np.testing.assert_equal(float(fill), float(nodata or 0))


def test_maps_of_several_years_open_with_their_dates(years: Path) -> None:
    given, opened = yearly_maps(GRID).compute(), xr.open_zarr(years, group="pixels")
    assert opened["lcz"].dims == ("time", "y", "x")
    assert opened["probability"].dims == ("time", "lcz_class", "y", "x")
    assert opened["time"].dt.year.values.tolist() == list(YEARS)
    np.testing.assert_array_equal(opened["lcz"], given["lcz"])
    percent = given["confidence"].where(given["confidence"] != 255)
    np.testing.assert_allclose(opened["confidence"] * 100, percent, rtol=1e-12)


class Reads(WrapperStore[LocalStore]):
    """A store that notes which shards are read."""

    def __init__(self, store: LocalStore) -> None:
        super().__init__(store)
        self.shards: list[str] = []

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        if "/c/" in key:
            self.shards.append(key)
        return await super().get(key, prototype, byte_range)


def test_the_history_of_a_cell_lies_in_one_shard(years: Path) -> None:
    for name in ("lcz", "probability"):
        store = Reads(LocalStore(years, read_only=True))
        array = zarr.open_array(store, path=f"pixels/{name}", mode="r")
        history = array[..., 40, 50]
        assert history.shape[0] == len(YEARS)
        assert set(store.shards) == {f"pixels/{name}/c/" + "0/" * (array.ndim - 2) + "1/1"}


def test_a_map_of_one_year_is_decoded_alone(years: Path) -> None:
    assert zarr.open_array(years / "pixels" / "lcz", mode="r").chunks[0] == 1


@pytest.mark.parametrize("version", ["1.0.0", "2.0.0"])
def test_a_store_of_each_version_is_read(version: str) -> None:
    frozen = FROZEN / f"product-{version}.zarr"
    given = maps_on(FROZEN_GRID).compute()
    opened = open_product(frozen, "pixels")
    assert root_of(frozen)["attributes"]["lczcube_schema"] == version
    np.testing.assert_array_equal(opened["lcz"], given["lcz"])
    percent = given["probability"].where(given["probability"] != 255)
    np.testing.assert_allclose(opened["probability"] * 100, percent, rtol=1e-6)
    np.testing.assert_array_equal(opened["x"], given["x"])
    assert opened.attrs["proj:code"] == "EPSG:32632"
    assert map_groups(frozen) == ["cells", "pixels"]
    assert open_product(frozen, "cells")["lcz"].shape == (2, 3)


def test_the_frozen_store_of_this_version_is_what_is_written_now(tmp_path: Path) -> None:
    groups = {
        "pixels": complete_maps(FROZEN_GRID),
        "cells": maps_on(FROZEN_GRID, on_cells=True),
    }
    path = write_product(groups, tmp_path / "lcz.zarr", attrs={"id": "frozen", "synthetic": 1})
    frozen = all_bytes(FROZEN / f"product-{SCHEMA_VERSION}.zarr")
    metadata = {key: json.loads(text) for key, text in frozen.items() if key.endswith("zarr.json")}
    written = all_bytes(path)
    assert written.keys() == frozen.keys()
    assert {key: json.loads(written[key]) for key in metadata} == metadata


@pytest.mark.parametrize(
    ("version", "remedy"), [("3.0.0", "Upgrade lczcube"), (None, "It is no product store")]
)
def test_a_store_of_another_layout_is_refused(
    tmp_path: Path, version: str | None, remedy: str
) -> None:
    path = write_product({"pixels": maps_on(GRID)}, tmp_path / "lcz.zarr")
    root = root_of(path)
    root["attributes"]["lczcube_schema"] = version
    (path / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(
        StoreError, match=rf"lczcube_schema = .*this lczcube reads 1\.x and 2\.x.*{remedy}"
    ):
        open_product(path, "pixels")
