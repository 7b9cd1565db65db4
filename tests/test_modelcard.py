"""Item and card of a model: valid, the same bytes twice, and all that a user must know in them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import pystac
import pytest
import shapely
import zarr

from lczcube.config import ModelKind
from lczcube.errors import MissingInputError, ModelError
from lczcube.modelcards import (
    ModelFacts,
    facts_of_run,
    write_model_documents,
    write_run_models,
)
from lczcube.modelcards.card import model_card
from lczcube.modelcards.item import KINDS, model_item
from lczcube.models import load_model
from lczcube.outputs import write_outputs
from tests.small_runs import lczcube, write_small_world
from tests.stac_schemas import require_valid
from tests.test_catalog import with_schemas
from tests.test_pipeline import digests


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose embedding is declared to be a product of a model and asks for a citation."""
    folder = tmp_path_factory.mktemp("modelcard")
    config = write_small_world(folder / "world")
    text = config.read_text()
    told = 'title = "Synthetic embedding"'
    assert told in text
    more = f'{told}\nai_derived = true\nlicense_note = "Cite the embedding."'
    config.write_text(text.replace(told, more))
    assert lczcube("run", config, folder / "run") == 0
    return folder / "run"


@pytest.fixture(scope="module")
def model(run: Path) -> Path:
    (item,) = write_run_models(run)
    return item.parent


def item_of(model: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((model / "item.json").read_text())
    return values


@with_schemas
def test_the_item_is_valid_by_stac_and_by_every_extension_it_declares(model: Path) -> None:
    assert require_valid(item_of(model)) == 4


def of_kind(facts: ModelFacts, name: str, kind: str, **parameters: Any) -> ModelFacts:
    """The facts as if of another kind of model, which nothing scored."""
    meta = replace(facts.meta, kind=kind, features=("A00", "A01"), parameters=parameters)
    return replace(facts, name=name, meta=meta, scores={}, per_city={})


@with_schemas
@pytest.mark.parametrize(
    ("name", "kind", "task", "taken", "given"),
    [
        ("unet", "unet", "semantic-segmentation", [-1, 2, -1, -1], [-1, 17, -1, -1]),
        ("xgb_pixels", "xgb", "semantic-segmentation", [-1, 2], [-1, 17]),
        ("patch", "patch", "scene-classification", [-1, 2, 32, 32], [-1, 17]),
        ("knn", "knn", "scene-classification", [-1, 2], [-1, 17]),
        ("my_forest", "forest", "scene-classification", [-1, 2], [-1, 17]),
    ],
)
def test_items_of_other_kinds_are_valid_and_say_what_the_model_takes_and_gives(
    run: Path, tmp_path: Path, name: str, kind: str, task: str, taken: list[int], given: list[int]
) -> None:
    parameters = {"window_px": 32} if kind == "patch" else {}
    facts = of_kind(facts_of_run(run, "xgb"), name, kind, **parameters)
    (tmp_path / "model.json").write_text(facts.meta.to_json())
    (tmp_path / "weights.safetensors").write_bytes(b"w")
    write_model_documents(tmp_path, facts)
    values = item_of(tmp_path)
    require_valid(values)
    told = values["properties"]
    (into,), (out,) = told["mlm:input"], told["mlm:output"]
    assert into["bands"] == ["A00", "A01"]
    assert (told["mlm:tasks"], into["input"]["shape"], out["result"]["shape"]) == (
        [task],
        taken,
        given,
    )
    for array in (into["input"], out["result"]):
        assert len(array["shape"]) == len(array["dim_order"])


def test_trees_on_pixels_are_not_told_as_trees_on_windows(run: Path, model: Path) -> None:
    facts = facts_of_run(run, "xgb")
    cells, pixels = item_of(model), model_item(of_kind(facts, "xgb_pixels", "xgb"), model)
    for told in (lambda item: item["id"], lambda item: item["properties"]["mlm:name"],
                 lambda item: item["properties"]["mlm:input"][0]["description"]):  # fmt: skip
        assert told(cells) != told(pixels)
    assert "a pixel" in pixels["properties"]["mlm:input"][0]["description"]
    assert model_card(of_kind(facts, "xgb_pixels", "xgb")).startswith(
        "# Gradient-boosted trees on pixels of "
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_stac_check_complains_of_nothing(model: Path) -> None:
    from stac_check.lint import Linter

    linter = Linter(item_of(model), fast=True)
    assert linter.valid_stac
    assert linter.create_best_practices_dict() == {}


def test_the_item_tells_what_the_model_is_of(run: Path, model: Path) -> None:
    meta = load_model(model).meta
    scores = json.loads((run / "scores.json").read_text())["scores"]["xgb"]
    told = item_of(model)["properties"]
    assert told["mlm:input"][0]["bands"] == list(meta.features)
    assert [band["name"] for band in told["bands"]] == list(meta.features)
    assert told["mlm:output"][0]["result"]["shape"] == [-1, 17]
    assert [c["value"] for c in told["mlm:output"][0]["classification:classes"]] == [*range(1, 18)]
    assert told["mlm:hyperparameters"] == {**meta.parameters, "seed": meta.seed}
    training = told["lczcube:training"]
    assert training["products"] == list(meta.products)
    assert training["classes"] == list(meta.classes)
    assert training["n_train"] == meta.n_train
    assert training["labels"] == ["labels"]
    assert training["ai_derived"] == {"alphaearth": "features"}
    assert training["split"] == "polygon, 5 folds"
    assert told["lczcube:synthetic"] is True
    oa = told["lczcube:scores"]["metrics"]["oa"]
    assert oa == {"value": scores["oa"], "interval": scores["intervals"]["oa"]}
    assert told["lczcube:scores"]["leakage"] == scores["leakage"]


def test_links_and_assets_lead_to_labels_weights_and_card(run: Path, model: Path) -> None:
    item = pystac.Item.from_file(str(model / "item.json"))
    assert {key: asset.roles for key, asset in item.assets.items()} == {
        "model": ["mlm:model", "mlm:weights", "data"],
        "meta": ["metadata"],
        "card": ["metadata"],
        "confidence": ["metadata"],
        "confidence_arrays": ["data"],
        "held_out": ["data"],
    }
    for asset in item.assets.values():
        assert Path(str(asset.get_absolute_href())).is_file()
    links = [(model / link["href"]).resolve() for link in item_of(model)["links"]]
    assert links == sorted((run / "catalog" / "labels" / "items").resolve().glob("*.json"))


def test_the_item_lies_where_its_city_does(run: Path, model: Path) -> None:
    (city,) = (run / "catalog" / "alphaearth" / "items").glob("*0000000000-0000000000.json")
    outline = shapely.geometry.shape(item_of(model)["geometry"])
    assert outline.intersects(shapely.geometry.shape(json.loads(city.read_text())["geometry"]))


def test_the_card_says_what_a_user_must_know(run: Path, model: Path) -> None:
    card = (model / "card.md").read_text()
    scores = json.loads((run / "scores.json").read_text())
    low, high = scores["scores"]["xgb"]["intervals"]["oa"]
    for told in (
        "Synthetic: made from made-up data",
        "alphaearth: Cite the embedding.",
        "Themselves products of a model, with errors of their own: alphaearth (as features).",
        "CC0-1.0",
        "split polygon, 5 folds",
        f"{scores['scores']['xgb']['oa']:.3f} [{low:.3f}, {high:.3f}]",
        "evaluated units touch training",
        "not in its labels, so it never maps them",
        "nothing says how it does elsewhere",
        *scores["warnings"],
    ):
        assert told in card, told


def test_the_card_has_a_row_of_scores_for_each_city(run: Path) -> None:
    facts = facts_of_run(run, "xgb")
    worse = {**facts.scores, "oa": 0.125, "intervals": {"oa": [0.0625, 0.25]}}
    card = model_card(replace(facts, per_city={"north": facts.scores, "south": worse}))
    assert f"| north | {facts.scores['n']}" in card
    assert "| 0.125 [0.062, 0.250] |" in card


def test_a_model_that_is_not_evaluated_says_so(run: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(run, tmp_path / "run")
    (moved / "scores.json").unlink()
    write_run_models(moved)
    model = moved / "models" / "xgb"
    assert "Not evaluated: nothing is known of how good it is" in (model / "card.md").read_text()
    assert "lczcube:scores" not in item_of(model)["properties"]


def test_scores_of_older_models_can_be_left_out(run: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(run, tmp_path / "run")
    write_run_models(moved, scores=False)
    model = moved / "models" / "xgb"
    assert "Not evaluated: nothing is known of how good it is" in (model / "card.md").read_text()
    assert "lczcube:scores" not in item_of(model)["properties"]
    facts = facts_of_run(moved, "xgb", scores=False)
    assert (facts.scores, facts.per_city, facts.warnings) == ({}, {}, ())


def test_only_the_models_that_are_asked_for_are_told_of(run: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(run, tmp_path / "run")
    old = shutil.copytree(moved / "models" / "xgb", moved / "models" / "xgb_pixels")
    (old / "card.md").write_text("as it was")
    (item,) = write_run_models(moved, kinds=["xgb", "unet"])
    assert item.parent.name == "xgb"
    assert (old / "card.md").read_text() == "as it was"
    assert len(write_run_models(moved)) == 2


@pytest.mark.parametrize(
    ("split", "folds", "cities"),
    [
        ("polygon", {"north": 0, "south": -1, "west": -2}, ("north", "south")),
        ("given", {"north": 0, "south": -1, "west": -2}, ("south",)),
        ("polygon", None, ("north", "south", "west")),
    ],
)
def test_a_model_learnt_from_the_cities_whose_samples_train(
    run: Path, tmp_path: Path, split: str, folds: dict[str, int] | None, cities: tuple[str, ...]
) -> None:
    told = dict(facts_of_run(run, "xgb").manifest)
    told["settings"] = told["settings"] | {"run": told["settings"]["run"] | {"split": split}}
    moved = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("*.zarr"))
    (cube,) = moved.glob("*/cube.json")
    for name in ("north", "south", "west"):
        shutil.copytree(cube.parent, moved / name)
    shutil.rmtree(cube.parent)
    held_out = moved / "models" / "xgb" / "held_out.parquet"
    if folds is None:
        held_out.unlink()
    else:
        rows = pd.DataFrame({"city": list(folds), "fold": list(folds.values())})
        rows.to_parquet(held_out)
    assert facts_of_run(moved, "xgb", manifest=told).cities == cities
    for city in cities:
        shutil.rmtree(moved / city)
    with pytest.raises(MissingInputError, match="no city with a cube"):
        facts_of_run(moved, "xgb", manifest=told)


def test_the_same_run_gives_the_same_bytes_anywhere(run: Path, model: Path, tmp_path: Path) -> None:
    before = digests(model)
    assert {"item.json", "card.md"} <= set(before)
    write_run_models(run)
    assert digests(model) == before
    moved = shutil.copytree(run, tmp_path / "elsewhere")
    write_run_models(moved)
    assert digests(moved / "models" / "xgb") == before


def test_the_manifest_may_be_given_before_there_is_a_map(run: Path, tmp_path: Path) -> None:
    told = dict(facts_of_run(run, "xgb").manifest)
    moved = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("lcz.zarr"))
    with pytest.raises(MissingInputError, match=r"no map that says .* give the manifest"):
        write_run_models(moved)
    assert len(write_run_models(moved, manifest=told)) == 1


def test_products_lead_to_the_items_of_their_models(run: Path, model: Path) -> None:
    path = write_outputs(run).path
    (item,) = path.rglob("items/*.json")
    links = json.loads(item.read_text())["links"]
    targets = [(item.parent / link["href"]).resolve() for link in links]
    assert (model / "item.json").resolve() in targets


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_a_map_leads_to_the_model_that_its_group_names(run: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(run, tmp_path / "run")
    shutil.copytree(moved / "models" / "xgb", moved / "models" / "xgb_pixels")
    (store,) = moved.glob("*/lcz.zarr")
    root = zarr.open_group(store, mode="r+", use_consolidated=False)
    for name, _ in list(root.groups()):
        root[name].attrs["model"] = "xgb_pixels"
    zarr.consolidate_metadata(store)
    (item,) = write_outputs(moved).path.rglob("items/*.json")
    hrefs = [link["href"] for link in json.loads(item.read_text())["links"]]
    assert [href for href in hrefs if "/models/" in href] == [
        "../../../models/xgb_pixels/item.json"
    ]


def test_every_kind_that_a_run_can_train_has_its_words() -> None:
    assert set(KINDS) == set(get_args(ModelKind))


def test_facts_of_another_model_are_refused(run: Path, tmp_path: Path) -> None:
    facts: ModelFacts = facts_of_run(run, "xgb")
    other = replace(facts, meta=replace(facts.meta, seed=8))
    copied = shutil.copytree(run / "models" / "xgb", tmp_path / "xgb")
    with pytest.raises(ModelError, match="another model than the facts tell of"):
        write_model_documents(copied, other)


def test_a_folder_without_a_model_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"holds no model\.json"):
        write_model_documents(tmp_path, facts_of_run(run, "xgb"))
    with pytest.raises(MissingInputError, match=r"no city with a cube"):
        facts_of_run(tmp_path, "xgb")
