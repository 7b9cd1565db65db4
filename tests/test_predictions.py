"""Predictions as a table, and two models compared on the units that both scored."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lczcube.errors import ConfigError, LabelError, MissingInputError
from lczcube.evaluate import PairedComparison, compare, compare_predictions
from lczcube.predictions import (
    COLUMNS,
    predictions_of,
    read_predictions,
    write_predictions,
)

N, PER_GROUP = 24, 3
TRUE = (1 + np.arange(N) % 4).astype(np.uint8)
GROUPS = np.array([f"in/g{i // PER_GROUP}" for i in range(N)])
SHARES = (0.4, 0.9)


def guesses(share: float, seed: int) -> npt.NDArray[np.uint8]:
    """Right for about that share of the units."""
    is_right = np.random.default_rng([seed, int(100 * share)]).random(N) < share
    return np.where(is_right, TRUE, np.uint8(17))


def made(share: float, *, seeds: tuple[int, ...] = (0, 1), **columns: Any) -> pd.DataFrame:
    """Predictions of 24 patches in groups of three."""
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "city": "here",
                    "patch_id": [f"in/{i:02d}" for i in range(N)],
                    "x": 320.0 * np.arange(N),
                    "y": 0.0,
                    "group": GROUPS,
                    "unit": "patch",
                    "split": "polygon, 5 folds",
                    "trained_on": f"labels of seed {seed}",
                    "model": "made",
                    "seed": seed,
                    "lcz_true": TRUE,
                    "lcz_predicted": guesses(share, seed),
                    "confidence": np.float32(0.75),
                }
            )
            for seed in seeds
        ],
        ignore_index=True,
    ).assign(**columns)


def paired(a: pd.DataFrame, b: pd.DataFrame) -> PairedComparison:
    return compare_predictions(a, b, n_boot=20)


def compared(rows: Any = slice(None), seeds: tuple[int, ...] = (0, 1)) -> dict[str, Any]:
    """What `compare` says of some of the 24 patches."""
    a, b = (np.stack([guesses(share, seed)[rows] for seed in seeds]) for share in SHARES)
    options: dict[str, Any] = {"groups": GROUPS[rows], "group_noun": "label groups"}
    return compare(TRUE[rows], a, b, n_boot=20, **options).to_dict()


A, B = (made(share) for share in SHARES)


def test_the_same_units_are_compared_as_compare_does() -> None:
    found = paired(A, B)
    assert found.comparison.to_dict() == compared()
    assert (found.n, found.n_shared, found.unit) == ((N, N), N, "patch")
    assert found.warnings == ()
    assert found.statement.endswith("over 8 label groups). Both scored the same 24 patches.")


@settings(max_examples=25, deadline=None)
@given(
    left=st.sets(st.integers(0, N - 1), min_size=1),
    right=st.sets(st.integers(0, N - 1), min_size=1),
    order=st.randoms(use_true_random=False),
)
def test_only_shared_units_count_in_any_order_of_rows(
    left: set[int], right: set[int], order: Any
) -> None:
    def some(table: pd.DataFrame, units: set[int]) -> pd.DataFrame:
        rows = [row for row in range(len(table)) if row % N in units]
        order.shuffle(rows)
        return table.iloc[rows]

    a, b, shared = some(A, left), some(B, right), sorted(left & right)
    if not shared:
        with pytest.raises(LabelError, match="no unit was scored by both"):
            paired(a, b)
        return
    found = paired(a, b)
    assert found.comparison.to_dict() == compared(shared)
    assert (found.n, found.n_shared) == ((len(left), len(right)), len(shared))


def test_units_that_one_alone_scored_are_counted_in_words() -> None:
    found = paired(A[A["patch_id"] < "in/20"], B[B["patch_id"] >= "in/08"])
    assert "A scored 20 patches and B 16; this is of the 12 that both scored." in found.to_text()


def test_units_of_one_id_in_two_cities_are_two() -> None:
    there = B.assign(city="there")
    with pytest.raises(LabelError, match=r"24 such as 'in/00' in 'there'\. Units are paired by"):
        paired(A, there)
    both = paired(pd.concat([A, A.assign(city="there")]), pd.concat([there, B]))
    assert both.n_shared == 2 * N


def test_seeds_that_both_have_are_compared_and_else_each_on_its_own() -> None:
    found = paired(made(SHARES[0], seeds=(0, 1, 2)), made(SHARES[1], seeds=(1,)))
    assert found.comparison.to_dict() == compared(seeds=(1,))
    assert found.comparison.repeats == (1, 1)
    apart = paired(A, made(SHARES[1], seeds=(5, 6, 7)))
    assert apart.comparison.repeats == (2, 3)
    assert apart.n_trained_apart == N
    assert apart.warnings[1] == "A and B have no seed in common; each is the mean over its own."
    alike = {"trained_on": "training", "split": "given"}
    given = paired(A.assign(**alike), made(SHARES[1], seeds=(5,), **alike))
    assert given.n_trained_apart == 0


def test_hold_outs_pair_a_unit_with_itself_draw_by_draw() -> None:
    # Seed 0 draws patches 0-11 and seed 1 patches 6-17; B was drawn once.
    drawn = [slice(0, 12), slice(N + 6, N + 18)]
    a = pd.concat([A.iloc[rows] for rows in drawn])
    b = pd.concat([B.iloc[rows] for rows in drawn])
    found = paired(a, b)
    true, groups = (np.concatenate([v[:12], v[6:18]]) for v in (TRUE, GROUPS))
    said = [np.concatenate([guesses(s, 0)[:12], guesses(s, 1)[6:18]]) for s in SHARES]
    expected = compare(true, *said, groups=groups, n_boot=20)
    assert found.comparison.differences == expected.differences
    assert found.comparison.intervals == expected.intervals
    assert (found.n, found.comparison.repeats) == ((24, 24), (2, 2))
    assert paired(a, b.iloc[:12]).n_shared == 12


def test_models_that_learnt_from_other_labels_are_told() -> None:
    other = B.copy()
    other.loc[other["patch_id"] < "in/10", "trained_on"] = "fewer labels"
    found = paired(A, other.assign(split="block, 5 folds"))
    assert found.n_trained_apart == 10
    (said,) = found.warnings
    assert said == (
        "A and B did not learn from the same labels for 10 of the 24 patches (splits: polygon, 5 "
        "folds; block, 5 folds): the difference is one of training labels too, not of the models "
        "alone."
    )
    assert found.to_text().endswith(said)
    assert found.to_dict()["warnings"] == [said]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"unit": "pixel"}, "A was scored per patch and B per pixel; only units of one kind"),
        ({"lcz_true": np.uint8(3)}, "differ in the class of 18 of the 24 units that both scored"),
        ({"group": "in/g0"}, r"differ in the group of 21 .* such as 'in/03'"),
        ({"x": 0.0}, "differ in the place of 23 .* on the same labels and grid"),
        ({"seed": 0}, "B holds 24 units more than once with one seed"),
        ({"x": np.arange(2.0 * N)}, "B gives 24 units another class, group or place"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_units_that_are_not_the_same_are_refused(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(LabelError, match=message):
        paired(A, B.assign(**columns))


def test_tables_that_are_not_of_one_model_are_refused() -> None:
    both = pd.concat([A, B.assign(model="other")])
    with pytest.raises(LabelError, match="B holds models made, other; compare one with one"):
        paired(A, both)
    pd.testing.assert_frame_equal(predictions_of(both, "made"), A)
    with pytest.raises(ConfigError, match="model 'unet' was not scored; there are made, other"):
        predictions_of(both, "unet")
    with pytest.raises(LabelError, match="the table of A has no column seed; predictions have"):
        paired(A.drop(columns="seed"), B)
    with pytest.raises(LabelError, match="A has no predictions"):
        paired(A.iloc[:0], B)


def test_a_table_is_read_as_it_was_written_and_twice_in_the_same_bytes(tmp_path: Path) -> None:
    paths = tmp_path / "a.parquet", tmp_path / "b.parquet"
    for path in paths:
        write_predictions(A.assign(stray=1), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    pd.testing.assert_frame_equal(read_predictions(paths[0]), A[list(COLUMNS)])
    A[["city"]].to_parquet(paths[0])
    with pytest.raises(LabelError, match=r"a\.parquet has no column patch_id"):
        read_predictions(paths[0])
    with pytest.raises(MissingInputError, match=r"none\.parquet is not there; `lczcube evaluate"):
        read_predictions(tmp_path / "none.parquet")
