import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from lczcube.errors import LabelError
from lczcube.propagate import Audit, Policy, Voting, audit_propagation, plot_audit
from lczcube.propagate.audit import THRESHOLDS
from tests.test_propagate import samples_of


def cities(n_cities: int = 3, seed: int = 0, classes: tuple[tuple[int, ...], ...] = ()) -> Any:
    """Patches of five classes that overlap; each city shifts them a little."""
    rng = np.random.default_rng(seed)
    parts = []
    for number in range(n_cities):
        codes = rng.choice(classes[number] if classes else (1, 2, 3, 4, 5), 80)
        shift = rng.normal(0, 0.3, 4)
        place = np.stack([np.cos(codes), np.sin(codes), codes / 3, np.cos(2 * codes)], axis=1)
        parts.append((codes, place + shift + rng.normal(0, 0.35, (80, 4)), f"city{number}"))
    codes, features, names = (
        np.concatenate([np.broadcast_to(part[i], 80) if i == 2 else part[i] for part in parts])
        for i in range(3)
    )
    n = len(codes)
    return samples_of(
        features,
        codes,
        [f"{name}/{i:04d}" for i, name in enumerate(names)],
        city=names.astype(object),
        x=rng.uniform(0, 30_000, n),
        y=rng.uniform(0, 30_000, n),
    )


def audited(samples: xr.Dataset, *policies: Policy) -> Audit:
    return audit_propagation(samples, policies or (Policy("pooled"),), split="given", novelty=0.99)


def test_every_sample_is_voted_on_once_a_hold_out() -> None:
    records = audited(cities()).records
    counts = records.groupby("method").size().to_dict()
    assert counts == {"city": 240, "block": 240}
    assert sorted(records["city"].unique()) == ["city0", "city1", "city2"]


def test_the_labels_of_a_city_that_is_left_out_change_no_vote_on_it() -> None:
    samples = cities()
    poisoned = samples.copy(deep=True)
    mine = samples["city"].values == "city1"
    poisoned["lcz"].values[mine] = 17 - poisoned["lcz"].values[mine]
    before, after = (
        _of(audited(each), method="city", city="city1") for each in (samples, poisoned)
    )
    for column in ("voted", "vote", "confidence", "novel"):
        np.testing.assert_array_equal(before[column], after[column])
    assert (before["lcz"].to_numpy() != after["lcz"].to_numpy()).all()


def test_a_class_that_one_city_lacks_is_found_there_by_the_labels_of_another() -> None:
    samples = cities(classes=((1, 2, 3, 4, 5), (1, 2, 4), (1, 2, 3, 4, 5)))
    truth = cities(seed=0)
    alike = _of(audited(truth), method="city", city="city0")
    found = _of(audited(samples), method="city", city="city0")
    for part in (alike, found):
        threes = part[part["lcz"] == 3]
        assert (threes["voted"] == 3).mean() > 0.6


def test_what_is_kept_at_a_cut_is_right_about_as_often_as_it_says() -> None:
    summary = audited(cities(5, seed=3)).summary
    for row in summary:
        assert row["error_calibrated"] < 0.12
        assert row["interval_calibrated"][0] <= row["error_calibrated"]
        assert row["precision"] is None or row["precision"] > 0.8


def test_tables_count_what_the_records_hold() -> None:
    audit = audited(cities())
    records = _of(audit, method="city", city="city2")
    kept = (records["confidence"] >= 0.7) & ~records["novel"]
    row = next(
        one
        for one in audit.by_city
        if (one["method"], one["city"], one["cut"]) == ("city", "city2", 0.7)
    )
    assert (row["n"], row["kept"]) == (80, kept.sum())
    assert row["precision"] == pytest.approx(
        (records["voted"] == records["lcz"])[kept].mean() if kept.any() else None
    )
    of_class = [one for one in audit.by_class if one["method"] == "city"]
    at_half = [one for one in of_class if one["cut"] == 0.5]
    assert sum(one["n"] for one in at_half) == 240
    assert len(of_class) == len(at_half) * len(THRESHOLDS)


def test_policies_are_compared_on_the_same_folds() -> None:
    policies = (
        Policy("pooled"),
        Policy("by city", Voting(merge="by_city")),
        Policy("own", own=True),
    )
    audit = audited(cities(), *policies)
    hold_outs = {(row["policy"], row["method"]) for row in audit.summary}
    assert hold_outs == {
        *((name, method) for name in ("pooled", "by city") for method in ("city", "block")),
        ("own", "block"),
    }
    text = audit.to_text()
    assert "| pooled " in text
    assert "| own " in text
    assert text.count("pooled, city left out") == 1


def test_each_citys_own_labels_can_be_the_first_policy(tmp_path: Path) -> None:
    audit = audited(cities(), Policy("own", own=True), Policy("pooled"))
    text = audit.to_text()
    assert "own, block left out" in text
    assert "pooled, city left out" in text
    assert plot_audit(audit, tmp_path / "audit.png").is_file()


def test_a_city_of_labels_by_rule_alone_is_not_left_out() -> None:
    samples = cities(2)
    origin = np.where(samples["city"].values == "city1", "rule", "label").astype(object)
    audit = audited(samples.assign(origin=("sample", origin)))
    assert set(audit.records["method"]) == {"block"}
    assert set(audit.records["city"]) == {"city0"}


def test_an_audit_of_raw_votes_takes_them_for_confidence() -> None:
    records = audited(cities(), Policy("raw", calibrate="none")).records
    np.testing.assert_array_equal(records["vote"], records["confidence"])


def test_the_same_audit_twice_is_the_same_text_and_numbers() -> None:
    first, second = audited(cities()), audited(cities())
    assert first.to_text() == second.to_text()
    assert json.dumps(first.to_dict()) == json.dumps(second.to_dict())


def test_one_city_is_audited_by_blocks_alone_and_too_few_labels_are_refused() -> None:
    one = cities(1)
    assert set(audited(one).records["method"]) == {"block"}
    few = one.isel(sample=np.arange(8))
    with pytest.raises(LabelError, match="nothing can be left out"):
        audited(few)


def test_a_sample_that_lacks_a_feature_is_not_voted_on() -> None:
    samples = cities(1)
    samples["features"].values[3, 1] = np.nan
    assert len(audited(samples).records) == 79


def test_the_picture_of_an_audit_is_drawn(tmp_path: Path) -> None:
    import matplotlib.image

    policies = (Policy("pooled"), Policy("by city", Voting(merge="by_city")))
    path = plot_audit(audited(cities(), *policies), tmp_path / "audit.png", title="two policies")
    picture = matplotlib.image.imread(path)
    assert picture.shape[0] > 800
    assert picture[..., :3].std() > 0.1
    with pytest.raises(LabelError, match="is not there"):
        plot_audit(audited(cities(1)), tmp_path / "no" / "audit.png")


def _of(audit: Audit, **wanted: str) -> Any:
    records = audit.records
    for column, value in wanted.items():
        records = records[records[column] == value]
    return records
