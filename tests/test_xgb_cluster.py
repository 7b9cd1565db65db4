"""Trees on a Dask cluster against trees on one machine."""

from collections.abc import Iterator

import numpy as np
import pytest
from distributed import Client, LocalCluster

from lczcube.errors import LabelError, ModelError
from lczcube.models import XgbParameters, fit_xgb
from lczcube.models.xgb_cluster import fit_xgb_cluster
from tests.test_models_tabular import QUICK, made_samples


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, memory_limit=None
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def test_a_cluster_learns_what_one_machine_learns(client: Client) -> None:
    samples, fresh = made_samples(n=2000), made_samples(seed=1, n=600)
    samples["features"][4, 1] = np.nan
    samples["features"][700:900] = np.nan
    samples["weight"][:] = np.random.default_rng(0).uniform(0.5, 2, 2000)
    found = fit_xgb_cluster(client, samples.chunk(sample=200), seed=0, parameters=QUICK)
    wanted = fit_xgb(samples, seed=0, parameters=QUICK)
    assert found.meta == wanted.meta
    rows = fresh["features"].values
    difference = np.abs(found.probability(rows) - wanted.probability(rows))
    assert difference.max() < 1e-3


def test_a_cluster_stops_early_on_held_out_samples(client: Client) -> None:
    random = np.random.default_rng(0)
    samples, held = made_samples(n=400), made_samples(seed=1, n=200)
    for part in (samples, held):
        wrong = random.random(part.sizes["sample"]) < 0.3
        part["lcz"] = part["lcz"].where(~wrong, 6).astype(np.uint8)
    held["lcz"][:20] = 11
    parameters = XgbParameters(
        rounds=60, learning_rate=0.5, early_stopping=5, subsample=1, colsample=1
    )
    found = fit_xgb_cluster(
        client,
        samples.chunk(sample=100),
        seed=0,
        valid=held.chunk(sample=20),
        parameters=parameters,
    )
    wanted = fit_xgb(samples, seed=0, valid=held, parameters=parameters)
    rounds = [model.meta.parameters["rounds"] for model in (found, wanted)]
    assert rounds[0] == pytest.approx(rounds[1], abs=2)
    assert max(rounds) < 30


def test_bad_samples_are_refused_on_a_cluster(client: Client) -> None:
    infinite, foreign, single = made_samples(), made_samples(), made_samples()
    infinite["features"][3, 1] = np.inf
    foreign["lcz"][50] = 18
    single["lcz"][:] = 6
    for samples, error, message in (
        (infinite, ModelError, r"infinite values: b \(1\)"),
        (foreign, LabelError, "code 18"),
        (single, ModelError, "hold only LCZ 6"),
    ):
        with pytest.raises(error, match=message):
            fit_xgb_cluster(client, samples.chunk(sample=30), seed=0, parameters=QUICK)
