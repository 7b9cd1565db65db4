"""What the confidence of pseudo-labels is worth on whole worlds, synthetic and real."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from lczcube.cli import main
from lczcube.labels.samples import read_samples
from lczcube.propagate import Policy, audit_propagation
from lczcube.synth import write_world
from tests.conftest import PROJECT

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

STAGES = ("build-catalog", "cube", "aggregate")


def lczcube(*arguments: str | Path) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    assert not exit_.value.code


@pytest.fixture(scope="module")
def six_cities(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The audit of a synthetic world of six cities, each left out once."""
    folder = tmp_path_factory.mktemp("six")
    write_world(folder / "world", cities=6, seed=11)
    for stage in STAGES:
        lczcube(stage, folder / "run", "--config", folder / "world" / "world.toml")
    lczcube("audit", folder / "run")
    return dict(json.loads((folder / "run" / "audit.json").read_text()))


@pytest.fixture(scope="module")
def hong_kong(realdata: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of Hong Kong as far as its features."""
    folder = tmp_path_factory.mktemp("hongkong") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LCZCUBE_REALDATA", str(realdata))
        for stage in STAGES:
            lczcube(stage, folder, "--config", PROJECT / "catalogs" / "hongkong.toml")
    return folder


def summary_of(audit: dict[str, Any], policy: str, method: str) -> dict[str, Any]:
    rows: list[dict[str, Any]] = audit["summary"]
    return next(row for row in rows if (row["policy"], row["method"]) == (policy, method))


def test_calibration_more_than_halves_the_error_in_cities_that_it_never_saw(
    six_cities: dict[str, Any],
) -> None:
    row = summary_of(six_cities, "pooled", "city")
    assert row["error_calibrated"] < row["error_raw"] / 2
    assert row["interval_calibrated"][1] < row["interval_raw"][0]
    assert row["precision"] > 0.8
    assert row["kept"] > 0.15


def test_cities_standardised_by_their_own_cells_are_better_voted_on(
    six_cities: dict[str, Any],
) -> None:
    """Synthetic cities are shifted by construction: this is what the option is for."""
    plain = summary_of(six_cities, "pooled", "city")
    own = summary_of(six_cities, "pooled, z by city", "city")
    assert own["accuracy"] > plain["accuracy"] + 0.03
    assert own["precision"] > 0.8


def test_what_is_kept_of_hong_kong_at_a_calibrated_cut_of_four_fifths_is_right_that_often(
    hong_kong: Path,
) -> None:
    """Polygons of the contest of 2017 in five folds, three seeds of the folds."""
    samples = read_samples(hong_kong / "hongkong" / "samples.parquet")
    rows = [
        audit_propagation(
            samples, [Policy("pooled")], split="polygon", novelty=0.99, seed=seed
        ).summary[0]
        for seed in range(3)
    ]
    for row in rows:
        print({key: row[key] for key in ("error_raw", "error_calibrated", "interval_calibrated")})
        print({key: row[key] for key in ("accuracy", "kept", "precision")})
    assert np.mean([row["precision"] for row in rows]) >= 0.8
    assert np.mean([row["kept"] for row in rows]) > 0.15
    errors = [np.mean([row[f"error_{stage}"] for row in rows]) for stage in ("raw", "calibrated")]
    assert errors[1] < errors[0]


def test_the_graph_of_donors_gives_the_map_that_comparing_with_all_gives(
    hong_kong: Path, tmp_path: Path, realdata: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LCZCUBE_REALDATA", str(realdata))
    text = (PROJECT / "catalogs" / "hongkong.toml").read_text()
    found = {}
    for search in ("exact", "pynndescent"):
        config = tmp_path / f"{search}.toml"
        config.write_text(text.replace("[propagate]\n", f'[propagate]\nsearch = "{search}"\n'))
        lczcube("propagate", hong_kong, "--config", config)
        (facts,) = json.loads((hong_kong / "hongkong" / "propagate.json").read_text())["search"]
        assert facts["method"] == search
        cells = xr.open_zarr(hong_kong / "hongkong" / "propagated.zarr", group="cells")
        found[search] = cells["lcz"].values
    print(facts["recall"])
    assert facts["recall"]["value"] > 0.5  # polygons of hundreds of cells: few groups are found
    here = (found["exact"] > 0) & (found["pynndescent"] > 0)
    assert (found["exact"] == found["pynndescent"])[here].mean() > 0.85
