from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lczcube.errors import LabelError, ModelError
from lczcube.metrics import calibration_error
from lczcube.propagate import (
    Calibration,
    Donors,
    HeldOut,
    Votes,
    Voting,
    appoint,
    build_donors,
    calibration,
    cast_votes,
    cross_fitted,
    fit_calibration,
    fixed_cut,
    held_out_votes,
    hold_out_method,
    novelty_limit,
    precision_cut,
    quantile_cut,
    reliability,
)
from tests.test_propagate import samples_of

Floats = npt.NDArray[np.float64]
FIVE = np.arange(17) < 5
ALL = np.ones(17, bool)


def random_shares(rng: np.random.Generator, n: int, n_classes: int = 5) -> Floats:
    """Shares of ten votes among some classes."""
    shares = np.zeros((n, 17))
    chance = rng.dirichlet(np.full(n_classes, 0.7), n)
    for row in range(n):
        shares[row, :n_classes] = rng.multinomial(10, chance[row]) / 10
    return shares


def held_of(shares: Floats, lcz: npt.ArrayLike, n_groups: int = 50, n_folds: int = 5) -> HeldOut:
    n = len(shares)
    group = np.arange(n) * n_groups // n
    votes = Votes(shares, np.linspace(1, 2, n), np.zeros(n, np.int64))
    return HeldOut("polygon", votes, np.asarray(lcz, np.uint8), group, group % n_folds, n)


def drawn(rng: np.random.Generator, probability: Floats) -> npt.NDArray[np.uint8]:
    """Classes drawn by their probability."""
    beyond = rng.random((len(probability), 1)) > probability.cumsum(axis=1)
    return np.asarray(np.minimum(beyond.sum(axis=1), 16) + 1, np.uint8)


def polygons(n_groups: int = 24, n_each: int = 6, seed: int = 0, **keys: Any) -> Donors:
    """Donors of polygons whose cells lie together, in three classes that overlap."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(n_groups), n_each)
    codes = group % 3 + 1
    centre = codes[:, None] + rng.normal(0, 0.6, (n_groups, 2))[group]
    names = np.array([f"g{g:02d}" for g in group], object)
    ids = [f"p{i:04d}" for i in range(len(group))]
    features = centre + rng.normal(0, 0.05, centre.shape)
    return build_donors(samples_of(features, codes, ids, group=names, **keys))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 8), st.floats(0, 0.9))
def test_the_winner_of_a_vote_stays_the_winner(seed: int, temperature: float, mix: float) -> None:
    shares = random_shares(np.random.default_rng(seed), 40)
    probability = Calibration(temperature, mix, FIVE).apply(shares)
    np.testing.assert_allclose(probability.sum(axis=1), 1)
    winners = np.isclose(shares, shares.max(axis=1, keepdims=True))
    best = np.isclose(probability, probability.max(axis=1, keepdims=True), rtol=1e-9)
    np.testing.assert_array_equal(best, winners)
    assert (probability[:, ~FIVE] == 0).all()


def test_a_calibration_of_temperature_one_without_mix_changes_nothing() -> None:
    shares = random_shares(np.random.default_rng(0), 40)
    np.testing.assert_allclose(Calibration(1.0, 0.0, ALL).apply(shares), shares)


@pytest.mark.parametrize(("temperature", "mix"), [(1.0, 0.3), (2.5, 0.05), (0.5, 0.15)])
def test_the_calibration_that_made_the_truth_is_found(temperature: float, mix: float) -> None:
    rng = np.random.default_rng(1)
    shares = random_shares(rng, 8000)
    true = Calibration(temperature, mix, FIVE)
    found = fit_calibration(held_of(shares, drawn(rng, true.apply(shares))), FIVE)
    assert found.temperature == pytest.approx(temperature, rel=0.1)
    assert found.mix == pytest.approx(mix, abs=0.03)


def test_votes_that_are_too_sure_are_calibrated_on_rows_that_it_never_saw() -> None:
    rng = np.random.default_rng(2)
    shares = random_shares(rng, 3000)
    held = held_of(shares, drawn(rng, Calibration(2.0, 0.2, FIVE).apply(shares)))
    told = reliability(held, FIVE)
    assert told.error_calibrated < told.error_raw / 4
    assert told.interval_raw is not None
    assert told.interval_raw[0] < told.error_raw < told.interval_raw[1]
    assert told.accuracy == pytest.approx(held.is_right.mean())
    assert (told.n_rows, told.n_groups, told.method) == (3000, 50, "polygon")
    for stage in ("raw", "calibrated"):
        bins = [one for one in told.bins if one["stage"] == stage]
        assert sum(int(one["n"]) for one in bins) == 3000
        for one in bins:
            low, middle, high = (float(one[key]) for key in ("low", "confidence", "high"))
            assert low < middle <= high + 1e-9


def test_a_fold_takes_no_part_in_its_own_calibration() -> None:
    rng = np.random.default_rng(3)
    shares = random_shares(rng, 500)
    held = held_of(shares, drawn(rng, shares))
    poisoned = held.lcz.copy()
    poisoned[held.fold == 2] = 17 - poisoned[held.fold == 2]
    before, after = (
        cross_fitted(held_of(shares, lcz), ALL)[held.fold == 2] for lcz in (held.lcz, poisoned)
    )
    np.testing.assert_array_equal(before, after)


def test_no_donor_of_its_own_polygon_votes_on_a_held_out_one() -> None:
    donors = polygons()
    held = held_out_votes(donors, Voting(k=3), method="polygon")
    order = np.concatenate([np.flatnonzero(held.group == g) for g in np.unique(held.group)])
    away = np.linalg.norm(donors.vectors[:, None] - donors.vectors[None], axis=-1)
    away[donors.group[:, None] == donors.group[None]] = np.inf
    nearest = away.min(axis=1)
    assert (held.votes.distance[order] >= nearest - 1e-12).all()
    assert len(order) == len(donors.lcz) == held.n_donors


def test_labels_by_rule_vote_and_are_not_voted_on() -> None:
    samples = samples_of(np.arange(40.0)[:, None], np.arange(40) % 3 + 1, x=1e5 * np.arange(40))
    origin = np.where(np.arange(40) < 8, "rule", "label").astype(object)
    donors = build_donors(samples.assign(origin=("sample", origin)))
    held = held_out_votes(donors, Voting(k=1), method="polygon")
    assert sorted(held.group) == sorted(donors.group[8:])
    assert (held.votes.distance[held.group == donors.group[8]] < 1).all()  # by row 7, a rule's
    few = np.where(np.arange(40) < 31, "rule", "label").astype(object)
    assert (
        hold_out_method(build_donors(samples.assign(origin=("sample", few))), "x", "polygon")
        is None
    )


def test_many_labels_by_rule_do_not_crowd_out_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "MAX_ROWS", 20)
    n = 400
    samples = samples_of(np.arange(float(n))[:, None], np.arange(n) % 3 + 1, x=1e5 * np.arange(n))
    origin = np.where(np.arange(n) < 370, "rule", "label").astype(object)
    group = np.where(np.arange(n) < 370, "lake", np.arange(n).astype(str)).astype(object)
    donors = build_donors(samples.assign(origin=("sample", origin), group=("sample", group)))
    assert len(held_out_votes(donors, Voting(k=1), method="polygon").lcz) == 20
    assert hold_out_method(donors, "x", "given") == "block"


def test_the_order_of_samples_changes_no_held_out_vote() -> None:
    samples = samples_of(np.arange(40.0)[:, None], np.arange(40) % 3 + 1)
    shuffled = samples.isel(sample=np.random.default_rng(0).permutation(40))
    once, again = (
        held_out_votes(build_donors(each), Voting(), method="polygon", seed=4)
        for each in (samples, shuffled)
    )
    np.testing.assert_array_equal(once.votes.shares, again.votes.shares)


def test_more_donors_than_are_asked_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "MAX_ROWS", 50)
    held = held_out_votes(polygons(), Voting(), method="polygon")
    assert (len(held.lcz), held.n_donors) == (50, 144)


def test_what_is_held_out_is_what_the_cells_of_a_city_are_to_the_donors() -> None:
    two = polygons(city=np.repeat(["x", "z"], 72))
    assert hold_out_method(two, "y", "polygon") == "city"
    few = polygons(n_groups=6, city=np.repeat(["x", "z"], 18))
    assert hold_out_method(few, "y", "polygon") is None
    assert hold_out_method(two, "x", "polygon") == "polygon"
    assert hold_out_method(two, "x", "block") == "block"
    assert hold_out_method(two, "x", "given") == "polygon"  # cells of polygons
    patches = build_donors(samples_of(np.arange(30.0)[:, None], np.arange(30) % 3 + 1))
    assert hold_out_method(patches, "x", "given") == "block"
    assert hold_out_method(patches, "y", "given") == "block"  # one city only
    assert hold_out_method(polygons(n_groups=9), "x", "polygon") is None


def test_with_too_few_blocks_polygons_are_held_out() -> None:
    held = held_out_votes(polygons(x=np.zeros(144)), Voting(), method="block")
    assert held.method == "polygon"


def test_a_city_cannot_be_held_out_of_one() -> None:
    with pytest.raises(
        LabelError, match=r'calibrate = "city" .* takes two or more.* Or use "auto"'
    ):
        held_out_votes(polygons(), Voting(), method="city")


def test_electors_of_too_few_groups_are_not_calibrated_and_call_nothing_novel() -> None:
    electors, held = appoint(polygons(n_groups=9), Voting(), city="x", split="polygon")
    assert held is None
    assert electors.calibration is None
    assert electors.limit == np.inf


def test_electors_learn_from_each_other() -> None:
    electors, held = appoint(polygons(), Voting(), city="x", split="polygon", novelty=0.9)
    assert held is not None
    assert electors.calibration is not None
    assert (held.votes.distance <= electors.limit).mean() == pytest.approx(0.9, abs=0.01)
    raw, _ = appoint(polygons(), Voting(), city="x", split="polygon", calibrate="none")
    assert raw.calibration is None
    assert raw.limit < np.inf


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.3, 1.0), st.integers(1, 200))
def test_what_a_cut_by_precision_keeps_is_right_often_enough(
    seed: int, target: float, n: int
) -> None:
    rng = np.random.default_rng(seed)
    confidence = np.round(rng.random(n), 2)  # many equals
    right = rng.random(n) < confidence
    lcz = np.full(n, 3, np.uint8)
    cut = precision_cut(confidence, lcz, right, target)[2]
    kept = confidence >= cut
    assert not kept.any() or right[kept].mean() >= target
    lower = np.unique(confidence[~kept])
    assert all(right[confidence >= level].mean() < target for level in lower)


def test_a_class_of_few_votes_has_the_cut_of_all() -> None:
    rng = np.random.default_rng(5)
    confidence = rng.random(400)
    lcz = np.repeat(np.array([1, 2, 3], np.uint8), [200, 190, 10])
    right = np.where(lcz == 1, True, rng.random(400) < confidence)
    cut = precision_cut(confidence, lcz, right, 0.8)
    assert cut[0] == confidence[lcz == 1].min()
    assert cut[1] > cut[2] == cut[16] > cut[0]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 1.0), st.integers(1, 300))
def test_a_cut_by_quantile_keeps_the_share_of_each_class(seed: int, share: float, n: int) -> None:
    rng = np.random.default_rng(seed)
    confidence = rng.permutation(n) / n
    lcz = rng.integers(0, 3, n).astype(np.uint8)
    cut = quantile_cut(confidence, lcz, share)
    for code in (1, 2):
        mine = confidence[lcz == code]
        n_kept = (mine >= cut[code - 1]).sum()
        assert n_kept == (max(1, round(share * mine.size)) if mine.size else 0)
    assert (cut[2:] > 1).all()


def test_cuts_of_classes_and_their_limits() -> None:
    cut = fixed_cut(0.7, {6: 0.9})
    assert cut[5] == 0.9
    assert (np.delete(cut, 5) == 0.7).all()
    for wrong in ((1.1, {}), (0.5, {3: -0.2})):
        with pytest.raises(ModelError, match="give 0-1"):
            fixed_cut(*wrong)
    with pytest.raises(ModelError, match="a cut of class 18"):
        fixed_cut(0.5, {18: 0.5})
    one = np.ones(3)
    for call, said in (
        (lambda: precision_cut(one, one.astype(np.uint8), one > 0, 0), "target_precision = 0"),
        (lambda: quantile_cut(one, one.astype(np.uint8), 2), "keep_share = 2"),
        (lambda: novelty_limit(one, 0), "novelty = 0"),
    ):
        with pytest.raises(ModelError, match=said):
            call()


def test_a_novelty_of_one_is_no_limit() -> None:
    away = np.arange(100.0)
    assert novelty_limit(away, 1.0) == np.inf
    assert novelty_limit(away, 0.5) == 49.5


def test_group_votes_are_surer_of_what_more_polygons_say() -> None:
    """Cells of a polygon agree with each other, whatever is true: ten of them are one witness."""
    donors = polygons(n_groups=60, n_each=12, seed=6)
    apart = build_donors_apart(donors)
    errors = []
    for electorate in (apart, donors):
        parts = [held_out_votes_of(electorate, donors.group == group) for group in range(0, 60, 2)]
        confidence, right = (np.concatenate(part) for part in zip(*parts, strict=True))
        errors.append(calibration_error(confidence, right))
    assert errors[1] < 0.6 * errors[0]


def build_donors_apart(donors: Donors) -> Donors:
    """The same donors, every cell a group of its own."""
    return replace(donors, group=np.arange(len(donors.lcz)))


def held_out_votes_of(
    donors: Donors, held: npt.NDArray[np.bool_]
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    votes = cast_votes(donors.take(np.flatnonzero(~held)), donors.vectors[held], Voting(power=1))
    return votes.top, votes.lcz == donors.lcz[held]
