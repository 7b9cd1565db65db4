import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from lczcube.config import CityFile, PatchTable, UnetTable, read_config
from lczcube.errors import ConfigError, GridError, MissingInputError
from lczcube.models import PatchParameters, UnetParameters
from lczcube.sources.files import SourceFile, expand_hrefs, redact

CITY = """
id = "town"
[city.town]
bbox = [11.5, 48.1, 11.6, 48.2]
[grid]
pixel_m = 100
cell_m = 300
stride_m = 100
anchor = "image"
[[input]]
name = "image"
source = "raster"
href = "image.tif"
year = 2020
[[input]]
name = "areas"
source = "polygons"
href = "areas.gpkg"
class_column = "lcz"
[run]
features = ["image"]
labels = ["areas"]
models = ["xgb", "unet"]
"""


def read(tmp_path: Path, text: str) -> CityFile:
    path = tmp_path / "town.toml"
    path.write_text(text)
    return read_config(path)


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    message = str(caught.value)
    assert "\n" not in message
    return message


def files(tmp_path: Path, href: str, *, cities: tuple[str, ...] = (), more: str = "") -> list[str]:
    return [Path(file.href).name for file in found(tmp_path, href, cities=cities, more=more)]


def found(
    tmp_path: Path, href: str, *, cities: tuple[str, ...] = (), more: str = "year = 2020"
) -> list[SourceFile]:
    toml = f'id = "t"\n[[input]]\nname = "a"\nsource = "raster"\nhref = {href}\n'
    toml += more or "year = 2020"
    for city in cities:
        toml += f"\n[city.{city}]\nbbox = [0, 0, 1, 1]"
    config = read(tmp_path, toml)
    return expand_hrefs(config.inputs[0], folder=config.source_path.parent, cities=cities)


def test_a_city_file_is_read_with_its_defaults(tmp_path: Path) -> None:
    config = read(tmp_path, CITY)
    assert config.cities["town"].bbox == (11.5, 48.1, 11.6, 48.2)
    assert config.grid.stride_m == 100
    assert config.run is not None
    assert config.run.stats == ("mean", "std", "max")
    assert config.run.baselines == ("forest", "forest_pixels")
    assert (config.run.folds, config.run.repeats, config.run.pseudo_weight) == (5, 1, 0.0)
    assert config.propagate.donors == "all"
    assert config.input("image").href == ("image.tif",)


def test_a_file_of_inputs_alone_is_a_catalog_file(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        'id = "c"\n[[input]]\nname = "a"\nsource = "label_raster"\nhref = ["a.tif", "b.tif"]\n',
    )
    assert config.run is None
    assert config.cities == {}
    assert config.inputs[0].href == ("a.tif", "b.tif")


def test_the_source_path_is_absolute_whatever_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "town.toml").write_text(CITY)
    monkeypatch.chdir(tmp_path)
    assert read_config("town.toml").source_path == tmp_path / "town.toml"


def test_a_missing_city_file_is_a_missing_input(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"nowhere\.toml is not there"):
        read_config(tmp_path / "nowhere.toml")


def test_a_file_that_is_no_toml_names_the_line(tmp_path: Path) -> None:
    assert "line 1" in refusal(tmp_path, "id = \n")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "pixel_m = 100",
            "pixl_m = 100",
            "unknown key 'pixl_m' in [grid] (did you mean 'pixel_m'?)",
        ),
        ('id = "town"', 'id = "town"\nidd = 1', "unknown key 'idd' in the top level"),
        ("year = 2020", "colour = 1\nyear = 2020", "unknown key 'colour' in [[input]] 'image'"),
        ("bbox = [", "box = 1\nbbox = [", "unknown key 'box' in [city.town]"),
        ("[run]", "[run]\nlearning = 1", "unknown key 'learning' in [run]"),
    ],
)
def test_an_unknown_key_is_named_with_its_table(
    tmp_path: Path, old: str, new: str, expected: str
) -> None:
    assert expected in refusal(tmp_path, CITY.replace(old, new))


def test_an_unknown_key_lists_the_known_ones(tmp_path: Path) -> None:
    message = refusal(tmp_path, CITY.replace("pixel_m = 100", "pixl_m = 100"))
    assert "known keys: pixel_m, cell_m, stride_m, chunk_cells, anchor." in message


def test_an_unknown_key_hides_no_key_that_it_should_have_been(tmp_path: Path) -> None:
    message = refusal(tmp_path, CITY.replace('href = "image.tif"', 'hreff = "image.tif"'))
    assert "did you mean 'href'?" in message


def test_known_keys_are_those_of_the_toml_file(tmp_path: Path) -> None:
    message = refusal(tmp_path, "inputs = 1\n" + CITY)
    assert "city, confidence, grid, input," in message


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("pixel_m = 100", 'pixel_m = "100"', "pixel_m = '100' in [grid]"),
        ("year = 2020", "year = 2020.5", "year = 2020.5 in [[input]] 'image'"),
        ("[11.5, 48.1, 11.6, 48.2]", '"all"', "bbox = 'all' in [city.town]"),
        ('models = ["xgb", "unet"]', 'models = ["rf"]', "models.0 = 'rf' in [run]"),
        ('models = ["xgb", "unet"]', "seed = true", "seed = True in [run]"),
        ('"raster"', '"rastr"', "source = 'rastr' in [[input]] 'image' is unknown; known: raster"),
        ('source = "raster"\n', "", "key 'source' is missing in [[input]] 'image'"),
        (
            'class_column = "lcz"\n',
            "",
            "[[input]] 'areas' wants either class_column or class_set_column",
        ),
        ('name = "image"', 'name = "../up"', "name = '../up' in [[input]] '../up'"),
    ],
)
def test_a_wrong_value_is_shown_with_its_key_and_table(
    tmp_path: Path, old: str, new: str, expected: str
) -> None:
    assert expected in refusal(tmp_path, CITY.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('features = ["image"]', 'features = ["imag"]', "[run] features names 'imag'"),
        ('features = ["image"]', 'features = ["areas"]', "is not an input of rasters"),
        ('labels = ["areas"]', 'labels = ["image"]', "is not an input of labels"),
        ('anchor = "image"', 'anchor = "areas"', "[grid] anchor names 'areas'"),
        ("[run]", '[propagate]\ndonors = ["rome"]\n[run]', "names rome; name cities (town)"),
        ("[run]", '[run]\nsplit = "city"', "leaves one city out"),
        ("[run]", "[unet]\ndepth = 4\n[run]", "[unet] window_px = 16; with depth = 4"),
        ("[run]", "[unet]\nwindow_px = 30\n[run]", "multiple of 4 and at least 8: use 32"),
        ("[run]", "[unet]\nwindow_px = 8\n[run]", None),
        ("[run]", "[run]\nyear = 2019", "year = 2019 in [run] but input 'image' is of 2020"),
        ("year = 2020", "", "'image' is a raster without year"),
        ("year = 2020", "year = 2020\nyears = [2020]", "has both year and years"),
        ("year = 2020", "years = [2019, 2020]", "href without {year}"),
        ("image.tif", "{year}.tif", None),
        ("image.tif", "{city}.tif", None),
        ("year = 2020", 'year = 2020\ncity = "rome"', "city = 'rome' in [[input]] 'image'"),
        ("year = 2020", 'year = 2020\nlayer = "embedding"', "is an embedding without product"),
        ("year = 2020", 'year = 2020\nbands = ["a", "a"]', "has bands that repeat"),
        ('name = "areas"', 'name = "image"', "names occur in several"),
        ("[11.5, 48.1, 11.6, 48.2]", "[48.1, 11.6, 48.2, 11.5]", "is no box in EPSG:4326"),
        ("[city.town]", "[city.models]", "a run keeps its own files in models/"),
        (
            "[run]",
            "[propagate]\nweights = { areas = 2 }\n[run]",
            "weights in [propagate] names areas, which is no feature of [run]; features: image",
        ),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(
    tmp_path: Path, old: str, new: str, expected: str | None
) -> None:
    text = CITY.replace(old, new, 1)
    if expected is None:
        assert read(tmp_path, text).run is not None
    else:
        assert expected in refusal(tmp_path, text)


def test_an_illegal_stride_is_refused_at_the_door(tmp_path: Path) -> None:
    with pytest.raises(GridError, match="stride_m = 200 is illegal"):
        read(tmp_path, CITY.replace("stride_m = 100", "stride_m = 200"))


def test_relative_hrefs_start_from_the_folder_of_the_toml_file(tmp_path: Path) -> None:
    (file,) = found(tmp_path, '"sub/../x.tif"')
    assert file.href == (tmp_path / "x.tif").as_posix()


def test_city_and_year_give_one_file_each(tmp_path: Path) -> None:
    expanded = found(
        tmp_path, '"{city}_{year}.tif"', cities=("bonn", "rome"), more="years = [2024, 2017]"
    )
    assert [(Path(f.href).name, f.city, f.year) for f in expanded] == [
        ("bonn_2017.tif", "bonn", 2017),
        ("bonn_2024.tif", "bonn", 2024),
        ("rome_2017.tif", "rome", 2017),
        ("rome_2024.tif", "rome", 2024),
    ]
    assert expanded[0].item_id == "a_2017_bonn_2017"


def test_a_glob_gives_its_files_in_order(tmp_path: Path) -> None:
    for name in ("b.tif", "a.tif", "c.txt"):
        (tmp_path / name).touch()
    assert files(tmp_path, '"*.tif"') == ["a.tif", "b.tif"]


def test_brackets_of_a_file_that_exists_are_no_glob(tmp_path: Path) -> None:
    for name in ("[Bonn][2016].tif", "B2.tif"):
        (tmp_path / name).touch()
    assert files(tmp_path, '"[Bonn][2016].tif"') == ["[Bonn][2016].tif"]
    assert files(tmp_path, '"[Bonn][2].tif"') == ["B2.tif"]


def test_brackets_in_the_folder_of_the_toml_file_are_no_glob(tmp_path: Path) -> None:
    folder = tmp_path / "[data]"
    folder.mkdir()
    (folder / "a.tif").touch()
    assert files(folder, '"*.tif"') == ["a.tif"]


def test_brackets_in_a_variable_are_no_glob(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "[data]"
    folder.mkdir()
    (folder / "a.tif").touch()
    monkeypatch.setenv("LCZ_TEST_DATA", str(folder))
    assert files(tmp_path, '"${LCZ_TEST_DATA}/*.tif"') == ["a.tif"]


def test_a_folder_gives_its_files_of_the_source(tmp_path: Path) -> None:
    (tmp_path / "tiles").mkdir()
    for name in ("b.tif", "a.TIFF", "notes.txt"):
        (tmp_path / "tiles" / name).touch()
    assert files(tmp_path, '"tiles"') == ["a.TIFF", "b.tif"]


def test_a_file_named_twice_is_one_file(tmp_path: Path) -> None:
    (tmp_path / "a.tif").touch()
    assert files(tmp_path, '["a.tif", "*.tif", "./a.tif"]') == ["a.tif"]


def test_files_of_one_name_get_ids_of_their_own(tmp_path: Path) -> None:
    expanded = found(tmp_path, '["x/a.tif", "y/a.tif", "y/[a].tif"]')
    assert [file.item_id for file in expanded] == ["a_2020_a", "a_2020_a-2", "a_2020_a-3"]


def test_a_default_stands_in_for_a_variable_that_is_not_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LCZ_TEST_DATA", raising=False)
    (file,) = found(tmp_path, '"${LCZ_TEST_DATA:-data}/a.tif"')
    assert file.href == (tmp_path / "data" / "a.tif").as_posix()


def test_a_variable_that_is_not_set_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LCZ_TEST_DATA", raising=False)
    with pytest.raises(ConfigError, match="environment variable LCZ_TEST_DATA is not set"):
        found(tmp_path, '"${LCZ_TEST_DATA}/a.tif"')


def test_a_url_is_passed_on_as_given(tmp_path: Path) -> None:
    (file,) = found(tmp_path, '"https://host/tiles/a.tif?v=2"')
    assert (file.href, file.item_id) == ("https://host/tiles/a.tif?v=2", "a_2020_a")


@pytest.mark.parametrize(
    "url", ["https://me:hush@host/a.tif", "https://host/a.tif?X-Amz-Signature=hush"]
)
def test_a_credential_is_refused_and_not_echoed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("LCZ_TEST_URL", url)
    with pytest.raises(ConfigError, match="holds a credential") as caught:
        found(tmp_path, '"${LCZ_TEST_URL}"')
    assert "hush" not in str(caught.value)


def test_a_credential_in_the_file_is_not_echoed_with_another_fault(tmp_path: Path) -> None:
    message = refusal(
        tmp_path, CITY.replace('"image.tif"', '{ url = "https://me:hush@host/a.tif" }')
    )
    assert "hush" not in message
    assert redact("https://me:hush@host/a?k=hush") == "https://***@host/a?***"


def test_reading_a_config_loads_no_heavy_library() -> None:
    code = (
        "import sys, lczcube.config; "
        "print([m for m in ('rasterio', 'geopandas', 'pandas', 'odc', 'pystac', 'shapely',"
        " 'pyproj', 'xarray', 'dask') if m in sys.modules])"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert shown.stdout.strip() == "[]"


def test_the_tables_of_the_networks_have_the_defaults_of_their_parameters() -> None:
    for table, parameters in ((UnetTable, UnetParameters), (PatchTable, PatchParameters)):
        wanted = asdict(parameters())
        known = {k: v for k, v in wanted.items() if k in table.model_fields}
        assert table().model_dump(exclude={"early_stopping"}) == known
        assert set(wanted) - set(table.model_fields) <= {"window_px"}
