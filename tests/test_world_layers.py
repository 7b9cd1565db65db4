"""All inputs of the mission at once: a synthetic world in every publisher's format, one run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr

from lczcube.ablation import arms_of
from lczcube.catalog import open_catalog
from lczcube.cli import main
from lczcube.cube import image
from lczcube.errors import ConfigError
from lczcube.labels import read_labels
from lczcube.products import open_features
from lczcube.runfolder import open_run
from lczcube.synth import World, write_world
from lczcube.synth.layers import LAYERS
from lczcube.windows import layer_of_feature

YEAR = 2021
FEATURES = '["alphaearth", "tessera", "canopy", "building", "osm"]'


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("synth") / "world"
    return write_world(folder, cities=1, km=1.6, seed=7, year=YEAR, layers=tuple(LAYERS))


@pytest.fixture(scope="module")
def done(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    text = world.config.read_text()
    text = text.replace(text[text.index("features = ") :].splitlines()[0], f"features = {FEATURES}")
    text = text.replace('["xgb", "unet"]', '["xgb"]\nbaselines = []')
    config = world.path / "all.toml"
    config.write_text(text + "\n[xgb]\nrounds = 5\n")
    folder = tmp_path_factory.mktemp("runs") / "run"
    with pytest.raises(SystemExit) as exit_:
        main(["run", str(config), str(folder)])
    assert not exit_.value.code
    return folder


def test_every_layer_is_registered_and_says_that_it_is_made_up(done: Path) -> None:
    catalog = open_catalog(done / "catalog")
    layers = {catalog.layer(name).layer for name in catalog.collection_ids}
    wanted = {"embedding", "canopy", "buildings", "osm", "lcz_map", "labels"}
    assert layers == wanted
    assert all(catalog.layer(name).synthetic for name in catalog.collection_ids)
    assert len(catalog.collection_ids) == len(LAYERS) + 1


def test_features_of_all_layers_meet_in_one_table(done: Path, world: World) -> None:
    names = features(done, world)["feature"].values.tolist()
    prefixes = {name.split("_")[0] for name in names}
    assert prefixes == {"alphaearth", "tessera", "canopy", "building", "osm"}


def features(done: Path, world: World) -> xr.Dataset:
    return open_features(done / world.cities[0].name / "features.zarr")


def test_scores_name_every_input_that_a_model_made_and_its_role(done: Path) -> None:
    scores = json.loads((done / "scores.json").read_text())
    assert scores["ai_derived"] == {"building": "features", "canopy": "features"}
    text = (done / "scores.md").read_text()
    assert "Input 'canopy', used as features, is itself the product of a model." in text


def test_layers_show_the_same_world(done: Path, world: World) -> None:
    cells = features(done, world)["features"]
    with rasterio.open(world.cities[0].truth) as file:
        truth = file.read(1)
    rows, columns = cells.shape[:2]
    blocks = truth.reshape(rows, 32, columns, 32).swapaxes(1, 2).reshape(rows, columns, -1)
    is_pure = (blocks == blocks[..., 512:513]).mean(axis=-1) > 0.9
    lcz = np.where(is_pure, blocks[..., 512], 0)

    def mean(name: str, where: Any) -> float:
        return float(np.nanmean(cells.sel(feature=name).values[where]))

    is_built, is_natural = (lcz >= 1) & (lcz <= 10), lcz >= 11
    assert is_built.any()
    assert is_natural.any()
    for name in ("building_fraction_mean", "building_count_mean"):
        assert mean(name, is_built) > 3 * mean(name, is_natural)
    is_wooded = np.isin(lcz, [11, 12])
    if is_wooded.any():
        assert mean("canopy_fraction_mean", is_wooded) > mean("canopy_fraction_mean", is_built)
    if (lcz == 17).any():
        assert mean("osm_water_mean", lcz == 17) > 0.5 > mean("osm_water_mean", is_built)


def test_labels_of_all_kinds_are_true(world: World, done: Path) -> None:
    city = world.cities[0]
    catalog = open_catalog(done / "catalog")
    with rasterio.open(city.truth) as file:
        truth, affine = file.read(1), file.transform
    for name in ("so2sat", "areas", "labels"):
        labels = read_labels(catalog, [name], crs=city.grid.crs)
        centres = labels.geometry.representative_point()
        columns, rows = ~affine * (centres.x.to_numpy(), centres.y.to_numpy())
        inside = (rows >= 0) & (rows < truth.shape[0]) & (columns >= 0) & (columns < truth.shape[1])
        at = truth[rows[inside].astype(int), columns[inside].astype(int)]
        known = at > 0
        assert (at[known] == labels["lcz"].to_numpy()[inside][known]).mean() > 0.85, name


def test_an_ablation_asks_every_product_what_heights_add(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = json.loads((done / "scores.json").read_text())["scores"]["xgb"]
    with pytest.raises(SystemExit) as exit_:
        main(["ablate", str(done)])
    assert not exit_.value.code
    text = (done / "ablation.md").read_text()
    assert text == capsys.readouterr().out
    assert text.startswith("Synthetic data.")
    found = json.loads((done / "ablation.json").read_text())["ablation"]
    assert list(found) == ["xgb, alphaearth", "xgb, tessera"]
    for base in ("alphaearth", "tessera"):
        arms = found[f"xgb, {base}"]["scores"]
        added = ["", " + canopy", " + buildings", " + canopy + buildings"]
        assert set(arms) == {base + name for name in added}
        assert {row["n"] for row in arms.values()} == {scores["n"]}
        gains = found[f"xgb, {base}"]["comparisons"]
        assert [row["names"] for row in gains] == [[base, base + name] for name in added[1:]]


def test_an_arm_learns_from_its_own_inputs_and_no_other(done: Path) -> None:
    run = open_run(done)
    data = run.training_data()
    arms = arms_of(run.features, {n: run.catalog.layer(n).layer for n in run.features})
    for arm in (arm for of_base in arms.values() for arm in of_base):
        only = data.only(arm.inputs)
        names = only.samples["feature"].values.tolist()
        assert {layer_of_feature(name, run.features) for name in names} == set(arm.inputs)
        (city,) = only.cities.values()
        assert city.features["feature"].values.tolist() == names
        bands = image(city.open_cube(0))
        owners = {layer_of_feature(name, run.features) for name in bands["band"].values}
        assert owners == set(arm.inputs)
        assert bands.attrs["products"] == only.samples.attrs["products"]


def test_arms_need_an_embedding_and_heights() -> None:
    kinds = {"a": "embedding", "c": "canopy", "o": "osm", "r": "raster"}
    (arms,) = arms_of(["a", "c", "o"], kinds).values()
    assert [arm.name for arm in arms] == ["a", "a + canopy"]
    assert list(arms_of(["r", "c"], kinds)) == ["r"]
    for features in (["a", "o"], ["c"]):
        with pytest.raises(ConfigError, match="an ablation wants an embedding, and canopy"):
            arms_of(features, kinds)
