"""Zarr arrays of any convention as a source: where their pixels come to lie in a cube."""

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
import pytest
import xarray as xr
import zarr

from lczcube.catalog import build_catalog, open_catalog
from lczcube.catalog.build import CatalogReport
from lczcube.config import read_config
from lczcube.cube import decode, open_cube
from lczcube.errors import ConfigError, MissingInputError, SourceError
from lczcube.grid import Grid
from lczcube.plans import plan_catalog
from lczcube.sources import SOURCES, SourceItem, build_items, find_files
from tests.scenes import CRS, catalog_of, position_codes
from tests.test_catalog import extension_schema, validate, with_schemas

X0, Y0, ROWS, COLUMNS = 500_000.0, 5_000_000.0, 40, 70
GRID = Grid(CRS, (1563, 15624, 1565, 15625), chunk_cells=1)
TRANSFORM = [10.0, 0.0, X0, 0.0, -10.0, Y0]


def codes_here() -> npt.NDArray[np.int32]:
    return position_codes(ROWS, COLUMNS, x0=X0, y0=Y0)


def write_array(
    path: Path,
    codes: npt.NDArray[Any],
    dims: tuple[str, ...],
    *,
    group: dict[str, Any] | None = None,
    attrs: dict[str, Any] | None = None,
    coordinates: dict[str, Any] | None = None,
    zarr_format: int = 3,
    name: str = "codes",
    **settings: Any,
) -> Path:
    """A group with one array, as plain zarr writes it, and coordinates of its dimensions."""
    root = zarr.open_group(path, mode="a", zarr_format=zarr_format)
    root.attrs.update(group or {})
    arrays = {name: (codes, dims)}
    arrays |= {k: (np.asarray(v), (k,)) for k, v in (coordinates or {}).items()}
    for key, (values, names) in arrays.items():
        named: dict[str, Any] = {"dimension_names": names} if zarr_format == 3 and names else {}
        made = root.create_array(
            key,
            shape=values.shape,
            dtype=values.dtype,
            chunks=tuple(min(16, n) for n in values.shape),
            **named,
            **(settings if key == name else {}),
        )
        made[...] = values
        if zarr_format == 2:
            made.attrs["_ARRAY_DIMENSIONS"] = list(names)
    root[name].attrs.update(attrs or {})
    return path


def centres() -> dict[str, npt.NDArray[np.float64]]:
    return {
        "y": Y0 - 10 * (np.arange(ROWS) + 0.5),
        "x": X0 + 10 * (np.arange(COLUMNS) + 0.5),
    }


def utm() -> dict[str, Any]:
    return {"proj:code": CRS, "spatial:transform": TRANSFORM}


def register(href: Path | str, **keys: Any) -> list[SourceItem]:
    entry = SOURCES["zarr"].model_validate(
        {"name": "z", "source": "zarr", "href": str(href), **keys}
    )
    files = find_files(entry, folder=Path("/"), cities={})
    return [made for file in files for made in build_items(entry, file)]


def only(href: Path | str, **keys: Any) -> Any:
    keys.setdefault("year", 2024)
    (made,) = register(href, **keys)
    return made.item


def bands_of(item: Any) -> list[dict[str, Any]]:
    bands: list[dict[str, Any]] = item.assets["data"].extra_fields["bands"]
    return bands


def cube_of(folder: Path, store: Path, *, grid: Grid = GRID, **keys: Any) -> Any:
    lines = {"name": "z", "source": "zarr", "href": str(store), "year": 2024, **keys}
    text = "\n".join(f"{key} = {json.dumps(value)}" for key, value in lines.items())
    return open_cube(catalog_of(folder, text), grid, inputs=["z"], year=2024)


def require_positions(cube: xr.Dataset) -> None:
    """The two bands of every pixel are its own easting and northing, in pixels."""
    codes = cube["z"].isel(time=0).values
    x, y = np.meshgrid(cube["x"].values, cube["y"].values)
    expected = np.stack([np.floor(x / 10), np.floor(y / 10)])
    inside = (x > X0) & (x < X0 + 10 * COLUMNS) & (y < Y0) & (y > Y0 - 10 * ROWS)
    assert inside.any()
    np.testing.assert_array_equal(codes[:, inside], expected[:, inside])
    assert (codes[:, ~inside] == -1).all()


# Where pixels lie


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("south_up", [False, True])
@pytest.mark.parametrize(
    "dims",
    [
        ("time", "band", "y", "x"),
        ("time", "y", "x", "band"),
        ("band", "time", "y", "x"),
        ("y", "x", "time", "band"),
        ("x", "y", "band", "time"),
        ("band", "y", "x"),
    ],
)
def test_dimensions_in_any_order_and_rows_in_either_end_at_the_same_pixels(
    tmp_path: Path, dims: tuple[str, ...], south_up: bool, zarr_format: int
) -> None:
    step = codes_here()[:, :: -1 if south_up else 1]
    every = np.stack([np.full_like(step, 7), step])
    order = [("time", "band", "y", "x").index(dim) for dim in dims]
    codes = every.transpose(order) if "time" in dims else step
    axes = centres()
    axes["y"] = axes["y"][:: -1 if south_up else 1]
    years = {"time": np.array([2019, 2024], "int32")} if "time" in dims else {}
    store = write_array(
        tmp_path / "s.zarr",
        codes,
        dims,
        group={"proj:code": CRS},
        coordinates=axes | years,
        zarr_format=zarr_format,
    )
    cube = cube_of(tmp_path, store, nodata=-1)
    require_positions(cube)


def mapping(tmp_path: Path, attrs: dict[str, Any], name: str = "spatial_ref") -> Path:
    """A store whose place is told by a CF grid mapping alone."""
    store = write_array(tmp_path / "s.zarr", codes_here(), ("band", "y", "x"))
    zarr.open_group(store).create_array(name, shape=(), dtype="int64", attributes=attrs)
    return store


GEOTRANSFORM = "500000.0 10.0 0.0 5000000.0 0.0 -10.0"
WKT = pyproj.CRS(CRS).to_wkt()


@pytest.mark.parametrize(
    "attrs",
    [
        {"crs_wkt": WKT, "GeoTransform": GEOTRANSFORM},
        {"spatial_ref": WKT, "GeoTransform": GEOTRANSFORM},
        {"GeoTransform": GEOTRANSFORM, **pyproj.CRS("+proj=utm +zone=32 +datum=WGS84").to_cf()},
        {
            "GeoTransform": GEOTRANSFORM,
            **{k: v for k, v in pyproj.CRS(CRS).to_cf().items() if k != "crs_wkt"},
        },
    ],
)
def test_a_cf_grid_mapping_tells_the_place(tmp_path: Path, attrs: dict[str, Any]) -> None:
    require_positions(cube_of(tmp_path, mapping(tmp_path, attrs), nodata=-1))


def test_the_grid_mapping_that_an_array_names_is_taken(tmp_path: Path) -> None:
    store = mapping(tmp_path, {"crs_wkt": pyproj.CRS("EPSG:3857").to_wkt()})
    root = zarr.open_group(store)
    utm_attrs = {"crs_wkt": WKT, "GeoTransform": GEOTRANSFORM}
    root.create_array("utm", shape=(), dtype="int64", attributes=utm_attrs)
    root["codes"].attrs["grid_mapping"] = "utm: x y"
    assert only(store).properties["proj:code"] == CRS


@pytest.mark.parametrize(
    "group",
    [
        utm(),
        {"proj:wkt2": WKT, "spatial:transform": TRANSFORM, "spatial:shape": [ROWS, COLUMNS]},
        {"proj:projjson": pyproj.CRS(CRS).to_json_dict(), "spatial:transform": TRANSFORM},
        {
            "proj:code": CRS,
            "spatial:transform": [10.0, 0.0, X0 + 5, 0.0, -10.0, Y0 - 5],
            "spatial:registration": "node",
        },
    ],
)
def test_the_zarr_conventions_tell_the_place(tmp_path: Path, group: dict[str, Any]) -> None:
    store = write_array(tmp_path / "s.zarr", codes_here(), ("band", "y", "x"), group=group)
    require_positions(cube_of(tmp_path, store, nodata=-1))


def test_what_xarray_and_rioxarray_write_is_read(tmp_path: Path) -> None:
    """Written by xarray with a CF mapping and string band names, both formats."""
    data = xr.DataArray(
        codes_here()[None],
        dims=("time", "band", "y", "x"),
        coords={"time": np.array(["2024-01-01"], "datetime64[ns]"), **centres()},
        attrs={"grid_mapping": "spatial_ref"},
    )
    dataset = xr.Dataset({"codes": data}, coords={"spatial_ref": ((), 0, {"crs_wkt": WKT})})
    for version in (2, 3):
        folder = tmp_path / str(version)
        folder.mkdir()
        dataset.to_zarr(folder / "s.zarr", zarr_format=version, consolidated=False)
        require_positions(cube_of(folder, folder / "s.zarr", nodata=-1))


def test_edges_taken_for_centres_are_half_a_pixel_off_and_the_key_puts_them_right(
    tmp_path: Path,
) -> None:
    edges = {k: v + (5 if k == "y" else -5) for k, v in centres().items()}
    store = write_array(
        tmp_path / "s.zarr",
        codes_here(),
        ("band", "y", "x"),
        group={"proj:code": CRS},
        coordinates=edges,
    )
    assert only(store).properties["proj:transform"][2::3] == [X0 - 5, Y0 + 5]
    require_positions(cube_of(tmp_path, store, nodata=-1, coordinates="edges"))


def test_a_transform_and_coordinates_that_disagree_are_refused(tmp_path: Path) -> None:
    edges = {k: v + (5 if k == "y" else -5) for k, v in centres().items()}
    store = write_array(
        tmp_path / "s.zarr", codes_here(), ("band", "y", "x"), group=utm(), coordinates=edges
    )
    with pytest.raises(SourceError, match=r'0\.5 pixels apart.*coordinates = "edges"'):
        only(store)
    assert only(store, coordinates="edges").properties["proj:transform"] == TRANSFORM


def test_coordinates_that_are_not_even_are_refused(tmp_path: Path) -> None:
    axes = centres()
    axes["x"][30:] += 0.2
    store = write_array(
        tmp_path / "s.zarr",
        codes_here(),
        ("band", "y", "x"),
        group={"proj:code": CRS},
        coordinates=axes,
    )
    with pytest.raises(SourceError, match="coordinate 'x' is not evenly spaced, it is off by up"):
        only(store)


def test_longitude_and_latitude_are_taken_to_be_wgs84_and_the_item_says_so(tmp_path: Path) -> None:
    axes = {"latitude": 48 - 0.1 * np.arange(ROWS), "longitude": 9 + 0.1 * np.arange(COLUMNS)}
    store = write_array(
        tmp_path / "s.zarr",
        codes_here(),
        ("band", "latitude", "longitude"),
        coordinates=axes,
    )
    item = only(store)
    assert item.properties["proj:code"] == "EPSG:4326"
    assert item.properties["proj:transform"] == pytest.approx([0.1, 0, 8.95, 0, -0.1, 48.05])
    assert "taken to be EPSG:4326" in item.properties["lczcube:note"]
    assert only(store, crs="EPSG:4258").properties["proj:code"] == "EPSG:4258"


def test_longitudes_from_0_to_360_are_refused(tmp_path: Path) -> None:
    axes = {"lat": 48 - 0.1 * np.arange(ROWS), "lon": np.arange(COLUMNS) * 5.0}
    store = write_array(tmp_path / "s.zarr", codes_here(), ("band", "lat", "lon"), coordinates=axes)
    with pytest.raises(SourceError, match=r"longitudes from -2\.5 to 347\.5"):
        only(store)


@pytest.mark.parametrize(
    ("group", "keys", "said"),
    [
        ({"spatial:transform": TRANSFORM}, {}, "states no CRS"),
        ({"proj:code": CRS}, {}, "has neither spatial:transform nor GeoTransform"),
        ({**utm(), "proj:code": "EPSG:1"}, {}, "is no CRS"),
        ({**utm(), "spatial:transform": [1, 2]}, {}, "it is six numbers"),
        ({**utm(), "spatial:transform": [10, 1, 0, 0, -10, 0]}, {}, "is rotated"),
        ({**utm(), "spatial:transform_type": "gcps"}, {}, "spatial:transform_type 'gcps'"),
        ({**utm(), "spatial:shape": [20, 35]}, {}, "another array's"),
        (utm(), {"crs": "EPSG:32633"}, "leave crs out, or correct the store"),
        (utm(), {"array": "heights"}, "has no array 'heights'; it has codes"),
        (utm(), {"bands": ["a"]}, "has 2 bands but bands names 1"),
        (utm(), {"nodata": 0.5}, "cannot be stored as int32"),
        (utm(), {"years": [2023, 2024]}, "has no time, and 2 years are given"),
    ],
)
def test_a_store_that_does_not_say_enough_is_refused(
    tmp_path: Path, group: dict[str, Any], keys: dict[str, Any], said: str
) -> None:
    store = write_array(tmp_path / "s.zarr", codes_here(), ("band", "y", "x"), group=group)
    keys = keys if "years" in keys else {"year": 2024, **keys}
    with pytest.raises(SourceError, match=said) as caught:
        register(store, **keys)
    assert "s.zarr" in str(caught.value)
    assert "\n" not in str(caught.value)


# Which array


def test_an_array_without_names_of_dimensions_wants_them_from_the_input(tmp_path: Path) -> None:
    store = write_array(tmp_path / "s.zarr", codes_here(), (), group=utm())
    with pytest.raises(SourceError, match="has 0 arrays with dimensions y and x"):
        only(store)
    with pytest.raises(SourceError, match=r"no names of its dimensions.*dims = "):
        only(store, array="codes")
    item = only(store, array="codes", dims=["band", "y", "x"])
    assert item.assets["data"].extra_fields["lczcube:zarr"]["axes"] == "band,y,x"


def test_of_several_arrays_one_is_to_be_named(tmp_path: Path) -> None:
    store = write_array(tmp_path / "s.zarr", codes_here(), ("band", "y", "x"), group=utm())
    write_array(store, codes_here()[0].astype("uint8"), ("y", "x"), name="mask")
    with pytest.raises(SourceError, match=r"has 2 arrays.*codes \(2, 40, 70\), mask"):
        only(store)
    item = only(store, array="mask")
    assert bands_of(item) == [{"name": "mask", "data_type": "uint8"}]
    assert item.assets["data"].extra_fields["lczcube:zarr"] == {"array": "mask", "axes": "y,x"}


def test_a_group_inside_a_store_is_named_in_href(tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "tree.zarr", mode="w")
    write_array(tmp_path / "tree.zarr" / "fine", codes_here(), ("band", "y", "x"), group=utm())
    with pytest.raises(SourceError, match="among group fine"):
        only(tmp_path / "tree.zarr")
    assert only(tmp_path / "tree.zarr" / "fine").id == "z_2024_fine"


def test_two_dimensions_of_no_known_name_are_refused(tmp_path: Path) -> None:
    codes = codes_here()[None]
    store = write_array(tmp_path / "s.zarr", codes, ("member", "band", "y", "x"), group=utm())
    with pytest.raises(SourceError, match="has 0 arrays with dimensions y and x"):
        only(store)
    with pytest.raises(SourceError, match="has dimensions member, band, y, x"):
        only(store, array="codes")


def test_dims_of_no_named_array_are_refused_by_the_file(tmp_path: Path) -> None:
    table = '[[input]]\nname = "z"\nsource = "zarr"\nhref = "s"\ndims = ["y", "x"]\n'
    (tmp_path / "a.toml").write_text(f'id = "a"\n{table}')
    with pytest.raises(ConfigError, match="has dims but no array"):
        read_config(tmp_path / "a.toml")
    (tmp_path / "a.toml").write_text(f'id = "a"\n{table}array = "codes"\n'.replace('"x"', '"y"'))
    with pytest.raises(ConfigError, match="has dims that repeat"):
        read_config(tmp_path / "a.toml")


def test_booleans_are_no_layer(tmp_path: Path) -> None:
    codes = codes_here() > 7
    store = write_array(tmp_path / "s.zarr", codes, ("band", "y", "x"), group=utm())
    with pytest.raises(SourceError, match="holds bool; a layer holds int8"):
        only(store)


def test_stores_are_found_in_folders_and_by_globs(tmp_path: Path) -> None:
    for year in (2019, 2024):
        write_array(
            tmp_path / "all" / f"a_{year}.zarr", codes_here(), ("band", "y", "x"), group=utm()
        )
    ids = ["z_2024_a_2019", "z_2024_a_2024"]
    assert [made.item.id for made in register(tmp_path / "all", year=2024)] == ids
    assert [made.item.id for made in register(tmp_path / "all" / "a_*.zarr", year=2024)] == ids
    found = register(tmp_path / "all" / "a_{year}.zarr", years=[2019, 2024])
    assert [made.item.id for made in found] == ["z_2019_a_2019", "z_2024_a_2024"]


def test_a_store_that_is_not_there_or_no_store_or_far_away_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"gone\.zarr is not there"):
        register(tmp_path / "gone.zarr", year=2024)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="is no Zarr group"):
        register(tmp_path / "empty", year=2024)
    with pytest.raises(SourceError, match="is a Zarr store at a URL; bring it home"):
        register("s3://bucket/a.zarr", year=2024)
    store = write_array(tmp_path / "s.zarr", codes_here(), ("band", "y", "x"), group=utm())
    with pytest.raises(SourceError, match="cannot be read as a Zarr group"):
        register(store / "codes", year=2024)


def test_the_plan_of_a_catalog_finds_a_store(tmp_path: Path) -> None:
    write_array(tmp_path / "s.zarr", codes_here(), ("band", "y", "x"), group=utm())
    table = '[[input]]\nname = "z"\nsource = "zarr"\nyear = 2024\nhref = ["s.zarr", "gone.zarr"]\n'
    (tmp_path / "town.toml").write_text(f'id = "town"\n{table}')
    plan = plan_catalog(tmp_path / "town.toml", tmp_path / "out")
    assert plan.n_missing == 1
    assert "missing  " + (tmp_path / "gone.zarr").as_posix() in plan.text


def test_a_broken_store_is_one_row_and_the_others_are_built(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_array(tmp_path / f"{name}.zarr", codes_here(), ("band", "y", "x"), group=utm())
    (tmp_path / "a.zarr" / "zarr.json").write_text("{")
    (tmp_path / "b.zarr" / "codes" / "zarr.json").write_text('{"zarr_format": 3}')
    report = built(tmp_path, 'href = "*.zarr"\nyear = 2024')
    assert [Path(failure.path).name for failure in report.failures] == ["a.zarr", "b.zarr"]
    assert [item.id for item in open_catalog(report.path).items("z")] == ["z_2024_c"]


# Time


def with_times(path: Path, times: Any, **attrs: Any) -> Path:
    codes = np.zeros((len(times), 4, 5), "uint8")
    store = write_array(
        path,
        codes,
        ("time", "y", "x"),
        group={"proj:code": CRS, "spatial:transform": TRANSFORM},
        coordinates={"time": times},
    )
    zarr.open_group(store)["time"].attrs.update(attrs)
    return store


@pytest.mark.parametrize(
    ("times", "attrs"),
    [
        (np.array([2017, 2024], "int16"), {}),
        (
            np.array([0, 2556]),
            {"units": "days since 2017-01-01"},
        ),
        (np.array([0.5, 2556.5]), {"units": "days since 2017-01-01 00:00"}),
        (np.array(["2017-06-01", "2024-06-01"], "datetime64[D]"), {}),
    ],
)
@pytest.mark.filterwarnings("ignore:The data type:zarr.errors.UnstableSpecificationWarning")
def test_steps_of_time_are_years_however_they_are_written(
    tmp_path: Path, times: Any, attrs: dict[str, Any]
) -> None:
    made = register(with_times(tmp_path / "s.zarr", times, **attrs))
    assert [m.item.id for m in made] == ["z_2017_s", "z_2024_s"]
    places = [m.item.assets["data"].extra_fields["lczcube:zarr"]["time_index"] for m in made]
    assert places == [0, 1]
    assert [m.item.id for m in register(tmp_path / "s.zarr", year=2024)] == ["z_2024_s"]


@pytest.mark.parametrize(
    ("times", "attrs", "said"),
    [
        (np.array([0, 1]), {}, "has times such as 0, which is no year"),
        (np.array([0.5, 1.5]), {}, "has times of float64 without units"),
        (np.array([0, 1]), {"units": "parsecs since noon"}, "that cannot be read"),
        (np.array([2024, 2024]), {}, "has 2 steps in 1 years; a layer has one a year"),
    ],
)
def test_times_that_are_no_years_are_refused(
    tmp_path: Path, times: Any, attrs: dict[str, Any], said: str
) -> None:
    with pytest.raises(SourceError, match=said):
        register(with_times(tmp_path / "s.zarr", times, **attrs))


def test_a_year_that_a_named_store_lacks_is_refused_and_in_a_folder_passed_over(
    tmp_path: Path,
) -> None:
    with_times(tmp_path / "all" / "a.zarr", [2017])
    with_times(tmp_path / "all" / "b.zarr", [2024])
    assert [m.item.id for m in register(tmp_path / "all", year=2024)] == ["z_2024_b"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="has the years 2017 and the input wants 2024"):
        register(tmp_path / "all" / "a.*", year=2024)


def test_a_step_can_be_a_layer_without_dates(tmp_path: Path) -> None:
    item = only(with_times(tmp_path / "s.zarr", [2017]), year=None, static=True)
    assert (item.id, item.datetime) == ("z_s", None)
    assert item.assets["data"].extra_fields["lczcube:zarr"]["time_index"] == 0
    with pytest.raises(SourceError, match="has 2 steps of time and static = true"):
        only(with_times(tmp_path / "t.zarr", [2017, 2018]), year=None, static=True)


def test_the_year_of_an_array_without_time_is_told_or_given(tmp_path: Path) -> None:
    plain = write_array(tmp_path / "s.zarr", codes_here(), ("band", "y", "x"), group=utm())
    with pytest.raises(SourceError, match="has no time, and 0 years are given"):
        register(plain)
    told = write_array(
        tmp_path / "t.zarr", codes_here(), ("band", "y", "x"), group={**utm(), "year": 2021}
    )
    assert only(told, year=None).id == "z_2021_t"
    with pytest.raises(SourceError, match="is of 2021 by its attributes"):
        only(told, year=2024)


# Codes


@pytest.mark.parametrize(
    ("dtype", "fill", "attrs", "given", "expected"),
    [
        ("int8", -128, {}, None, -128),
        ("int8", 0, {}, None, None),
        ("int8", 0, {"_FillValue": 0}, None, 0),
        ("int16", 0, {"missing_value": -9999}, None, -9999),
        ("int16", 0, {"_FillValue": -1}, 7.0, 7),
        ("uint8", 0, {"_FillValue": -1}, None, None),
        ("float32", np.nan, {}, None, None),
        ("float32", 0, {"_FillValue": -9999.0}, None, -9999.0),
        ("float32", 0, {"_FillValue": "AAAAAACHw8A="}, None, -9999.0 * 0 - 9998.0),
    ],
)
def test_nodata_is_the_inputs_or_what_the_store_declares(
    tmp_path: Path,
    dtype: str,
    fill: float,
    attrs: dict[str, Any],
    given: float | None,
    expected: float | None,
) -> None:
    codes = np.ones((2, 4, 5), dtype)
    store = write_array(
        tmp_path / "s.zarr", codes, ("band", "y", "x"), group=utm(), attrs=attrs, fill_value=fill
    )
    item = only(store, nodata=given)
    assert bands_of(item)[0].get("nodata") == expected
    is_trusted = fill == 0 and not attrs and given is None
    assert ("0 is taken for a value" in item.properties.get("lczcube:note", "")) == is_trusted


def test_the_fill_value_that_xarray_writes_comes_back(tmp_path: Path) -> None:
    values = xr.Dataset(
        {"h": (("y", "x"), np.ones((4, 5), "float32"))}, attrs={"proj:code": CRS}
    ).assign_attrs({"spatial:transform": TRANSFORM})
    values.to_zarr(tmp_path / "s.zarr", encoding={"h": {"_FillValue": -9999.0}}, consolidated=False)
    stored = zarr.open_group(tmp_path / "s.zarr")["h"].attrs["_FillValue"]
    assert isinstance(stored, str)  # eight bytes in base64
    assert bands_of(only(tmp_path / "s.zarr"))[0]["nodata"] == -9999.0


def test_a_scale_and_an_offset_decode_the_codes(tmp_path: Path) -> None:
    attrs = {"scale_factor": 0.1, "add_offset": -5.0, "_FillValue": -1, "units": "m"}
    codes = np.full((ROWS, COLUMNS), 70, "int16")
    codes[:, :10] = -1
    store = write_array(tmp_path / "s.zarr", codes, ("y", "x"), group=utm(), attrs=attrs)
    assert bands_of(only(store)) == [
        {
            "name": "codes",
            "data_type": "int16",
            "nodata": -1,
            "raster:scale": 0.1,
            "raster:offset": -5.0,
            "unit": "m",
        }
    ]
    values = decode(cube_of(tmp_path, store))["z"].values[0, 0]
    inside = np.isfinite(values)
    np.testing.assert_allclose(values[inside], 2.0, rtol=1e-6)
    x, y = np.meshgrid(centres()["x"], centres()["y"])
    minx, miny, maxx, maxy = GRID.bbox
    here = (x > max(minx, X0 + 100)) & (x < maxx) & (y > miny) & (y < maxy)
    assert inside.sum() == here.sum()


@pytest.mark.parametrize(
    ("attrs", "said"),
    [
        ({"scale_factor": "tenth"}, "has scale_factor 'tenth', which is no number"),
        ({"_FillValue": "none"}, "has _FillValue 'none', which is no number"),
    ],
)
def test_attributes_that_are_no_numbers_are_refused(
    tmp_path: Path, attrs: dict[str, Any], said: str
) -> None:
    store = write_array(
        tmp_path / "s.zarr", codes_here(), ("band", "y", "x"), group=utm(), attrs=attrs
    )
    with pytest.raises(SourceError, match=said):
        only(store)


def test_big_endian_codes_are_read(tmp_path: Path) -> None:
    codes = codes_here().astype(">i4")
    store = write_array(tmp_path / "s.zarr", codes, ("band", "y", "x"), group=utm(), zarr_format=2)
    require_positions(cube_of(tmp_path, store, nodata=-1))


@pytest.mark.parametrize(
    ("names", "attrs", "expected"),
    [
        (None, {"band_names": ["red", "near infrared"]}, ["red", "near-infrared"]),
        (None, {"band_dimensions": ["A00", "A01"]}, ["A00", "A01"]),
        (["vv", "vh"], {}, ["vv", "vh"]),
        (None, {}, ["b01", "b02"]),
    ],
)
def test_bands_are_named_by_the_store(
    tmp_path: Path, names: list[str] | None, attrs: dict[str, Any], expected: list[str]
) -> None:
    store = write_array(
        tmp_path / "s.zarr", codes_here(), ("band", "y", "x"), group=utm(), attrs=attrs
    )
    if names is not None:
        band = zarr.open_group(store).create_array(
            "band", shape=(2,), dtype="int32", dimension_names=["band"]
        )
        band.attrs["names"] = names
    assert [band["name"] for band in bands_of(only(store))] == expected


def test_bands_named_by_strings_are_read(tmp_path: Path) -> None:
    data = xr.Dataset(
        {"codes": (("band", "y", "x"), codes_here())},
        coords={"band": np.array(["vv", "vh"], object)},
        attrs=utm(),
    )
    data.to_zarr(tmp_path / "s.zarr", zarr_format=2, consolidated=False)
    assert [band["name"] for band in bands_of(only(tmp_path / "s.zarr"))] == ["vv", "vh"]


# The stores of others


def mosaic_store(path: Path) -> tuple[Path, npt.NDArray[np.int8], tuple[int, int]]:
    """The whole of aef-mosaic, all but a few chunks unwritten, as zarrs lays it out."""
    side = 8.983111749910169e-05
    rows, columns = 1_859_584, 4_009_984
    west, north = -180.0, 83.68570533713473
    root = zarr.open_group(path, mode="w", zarr_format=3)
    array = root.create_array(
        "embeddings",
        shape=(9, 64, rows, columns),
        dtype="int8",
        chunks=(1, 64, 256, 256),
        shards=(1, 64, 4096, 4096),
        fill_value=-128,
        dimension_names=["time", "embedding", "y", "x"],
        attributes={
            "proj:code": "EPSG:4326",
            "spatial:transform": [side, 0.0, west, 0.0, -side, north],
            "embedding_dimensions": [f"A{band:02d}" for band in range(64)],
            "years": list(range(2017, 2026)),
        },
    )
    axes = {
        "x": west + (np.arange(columns) + 0.5) * side,
        "y": north - (np.arange(rows) + 0.5) * side,
        "time": np.arange(2017, 2026, dtype="int32"),
    }
    for name, values in axes.items():
        made = root.create_array(
            name, shape=values.shape, dtype=values.dtype, dimension_names=[name]
        )
        made[:] = values
    top, left = round((north + 1.29) / side), round((36.82 - west) / side)
    codes = np.random.default_rng(3).integers(-127, 128, (64, 160, 160)).astype("int8")
    array[7, :, top : top + 160, left : left + 160] = codes
    return path, codes, (top, left)


def keys_of_the_guide() -> dict[str, Any]:
    """What the guide's table for the mosaic says of its codes."""
    page = (Path(__file__).parents[1] / "docs" / "guide" / "catalog.md").read_text()
    blocks = [block.split("```")[0] for block in page.split("```toml\n")[1:]]
    (table,) = (tomllib.loads(b)["input"][0] for b in blocks if 'source = "zarr"' in b)
    assert {key: DOWNLOAD[key] for key in ("layer", "product", "decoder", "valid")} == {
        key: value for key, value in table.items() if key not in ("name", "source", "href", "years")
    }
    return {key: DOWNLOAD[key] for key in ("layer", "product", "decoder", "valid")}


def test_the_mosaic_of_alphaearth_lies_where_its_degrees_say(tmp_path: Path) -> None:
    store, codes, (top, left) = mosaic_store(tmp_path / "aef-mosaic")
    keys = keys_of_the_guide()
    grid = Grid.from_bbox((36.822, -1.2995, 36.840, -1.2925))
    cube = cube_of(tmp_path, store, grid=grid, **keys)
    assert cube["z"].attrs["covered_share"] == 1
    assert cube["z_band"].values[[0, 63]].tolist() == ["A00", "A63"]
    read = cube["z"].isel(time=0).values
    x, y = np.meshgrid(cube["x"].values, cube["y"].values)
    lon, lat = pyproj.Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True).transform(x, y)
    side = 8.983111749910169e-05
    rows = np.floor((83.68570533713473 - lat) / side).astype(int) - top
    columns = np.floor((lon + 180.0) / side).astype(int) - left
    inside = (rows >= 0) & (rows < 160) & (columns >= 0) & (columns < 160)
    assert 0.5 < inside.mean() < 1
    np.testing.assert_array_equal(read[:, inside], codes[:, rows[inside], columns[inside]])
    assert (read[:, ~inside] == -128).all()
    assert np.isnan(decode(cube)["z"].isel(time=0).values[:, ~inside]).all()
    ids = [made.item.id for made in register(store, **keys)]
    assert [ids[0], len(ids), ids[-1]] == ["z_2017_aef-mosaic", 9, "z_2025_aef-mosaic"]


def download_store(path: Path, codes: npt.NDArray[np.int8]) -> Path:
    """What aef-download 0.1.0 writes: edges, no names of dimensions, no CRS, fill 0."""
    side = 8.983111749910169e-05
    edges = {"y": -1.29 - side * np.arange(ROWS), "x": 36.82 + side * np.arange(COLUMNS)}
    write_array(path, codes, (), name="embeddings", group={"year": 2021, "dequantized": False})
    write_array(path, np.ones(codes.shape[1:], "uint8"), (), name="mask")
    root = zarr.open_group(path)
    for name, values in edges.items():
        root.create_array(name, shape=values.shape, dtype=values.dtype)[:] = values
    return path


DOWNLOAD = {
    "array": "embeddings",
    "dims": ["band", "y", "x"],
    "coordinates": "edges",
    "crs": "EPSG:4326",
    "nodata": -128,
    "layer": "embedding",
    "product": "alphaearth/1",
    "decoder": "signed_square",
    "valid": "all_bands_nodata",
}


def test_a_download_of_the_mosaic_is_registered_from_its_edges(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(-127, 128, (64, ROWS, COLUMNS)).astype("int8")
    store = download_store(tmp_path / "nairobi_2021.zarr", codes)
    item = only(store, year=None, **DOWNLOAD)
    assert item.id == "z_2021_nairobi_2021"
    side = 8.983111749910169e-05
    assert item.properties["proj:transform"] == pytest.approx(
        [side, 0, 36.82, 0, -side, -1.29], abs=1e-12
    )
    assert bands_of(item)[7] == {"name": "A07", "data_type": "int8", "nodata": -128}


@pytest.mark.parametrize("content", ['{"status": "in_progress"}', "{"])
def test_a_download_that_broke_off_is_refused(tmp_path: Path, content: str) -> None:
    codes = np.zeros((64, ROWS, COLUMNS), "int8")
    store = download_store(tmp_path / "nairobi_2021.zarr", codes)
    beside = tmp_path / "nairobi_2021.zarr.progress.json"
    beside.write_text(content)
    with pytest.raises(SourceError, match="is a download that broke off"):
        only(store, year=None, **DOWNLOAD)
    beside.write_text('{"status": "complete"}')
    assert only(store, year=None, **DOWNLOAD).id == "z_2021_nairobi_2021"


# The catalog


def built(folder: Path, *tables: str) -> CatalogReport:
    text = "".join(f'[[input]]\nname = "z"\nsource = "zarr"\n{table}\n' for table in tables)
    (folder / "town.toml").write_text(f'id = "town"\n{text}')
    return build_catalog(folder / "town.toml", folder / "catalog")


@pytest.fixture
def report(tmp_path: Path) -> CatalogReport:
    axes = {"latitude": 48 - 0.1 * np.arange(ROWS), "longitude": 9 + 0.1 * np.arange(COLUMNS)}
    codes = np.stack([codes_here()] * 2, axis=1)
    write_array(
        tmp_path / "s.zarr",
        codes,
        ("band", "time", "latitude", "longitude"),
        coordinates={**axes, "time": [2019, 2024]},
    )
    return built(tmp_path, 'href = "s.zarr"')


@with_schemas
def test_items_are_valid_against_what_they_declare(report: CatalogReport) -> None:
    paths = [*report.path.glob("z/items/*.json"), *report.path.glob("z/collection.json")]
    assert len(paths) == 3
    for path in paths:
        values = json.loads(path.read_text())
        for uri in values["stac_extensions"]:
            validate(values, extension_schema(uri))


def test_geoparquet_and_json_give_equal_items_and_the_same_bytes_again(
    report: CatalogReport, tmp_path: Path
) -> None:
    tables, static = open_catalog(report.path), open_catalog(report.path / "catalog.json")
    one, other = ([item.to_dict() for item in c.items("z")] for c in (tables, static))
    assert one == other
    before = published_bytes(report.path)
    shutil.rmtree(report.path)
    build_catalog(tmp_path / "town.toml", report.path)
    assert published_bytes(report.path) == before


def published_bytes(catalog: Path) -> dict[Path, bytes]:
    """All files but the record of the build, which holds dates of files."""
    files = (path for path in catalog.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in files if ".lczcube" not in path.parts}
