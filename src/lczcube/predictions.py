"""Predictions that scores rest on: a table with a row a unit, model and seed; a pair of two."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from lczcube.errors import ConfigError, LabelError, MissingInputError

UNIT_KEY = ("city", "patch_id")
"""Columns that name a unit, whoever scored it."""

COLUMNS = (
    *UNIT_KEY,
    "x",
    "y",
    "group",
    "unit",
    "split",
    "trained_on",
    "model",
    "seed",
    "lcz_true",
    "lcz_predicted",
    "confidence",
)
"""Columns of every table of predictions, in order.

``x``, ``y`` are the centre in the CRS of the city's grid, m: ids of cells count from its corner.
``trained_on`` is a digest of the labels that the row's model learnt from: equal exactly when
they are.
"""

_REFERENCE = [*UNIT_KEY, "lcz_true", "group", "x", "y"]

SAME_PLACE_M = 0.01
"""Centres of one unit lie no farther apart: rounding, not another pixel."""


def write_predictions(predictions: pd.DataFrame, path: Path) -> None:
    """Write a table of predictions as Parquet, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    predictions[list(COLUMNS)].to_parquet(partial, index=False)
    partial.replace(path)


def read_predictions(path: str | Path) -> pd.DataFrame:
    """The predictions that ``lczcube evaluate`` left in a run folder, in memory.

    Parameters
    ----------
    path : str or pathlib.Path
        ``predictions.parquet``, or ``predictions_NAME.parquet`` of a protocol.

    Returns
    -------
    pandas.DataFrame
        Columns :data:`COLUMNS`, a row each unit, model and seed; ``lcz_true`` 1-17 and
        ``lcz_predicted`` 0-17 uint8, 0 for no prediction; ``confidence`` float32, 0-1.

    Raises
    ------
    MissingInputError
        If there is no such file.
    LabelError
        If columns are missing: it is another table.
    """
    if not Path(path).is_file():
        raise MissingInputError(
            f"{path} is not there; `lczcube evaluate RUN` writes the predictions that it scores."
        )
    table = pd.read_parquet(path)
    _require_columns(table, where=str(path))
    return table


def predictions_of(table: pd.DataFrame, model: str) -> pd.DataFrame:
    """The rows of one model.

    Raises
    ------
    ConfigError
        If the table has none; the message lists the models it has.
    """
    models = list(table["model"].unique())
    if model not in models:
        raise ConfigError(f"model {model!r} was not scored; there are {', '.join(models)}.")
    return table[table["model"] == model]


@dataclass(frozen=True, eq=False)
class Pair:
    """Predictions of two models, laid out alike on the units that both scored.

    Attributes
    ----------
    keys : tuple of str
        Columns that name a unit; of hold-outs also ``seed``, since each draws others.
    sides : tuple of pandas.DataFrame
        The rows that are compared; ``repeat`` numbers the predictions of a unit.
    units : tuple of pandas.DataFrame
        Every unit of each side, by key.
    """

    keys: tuple[str, ...]
    sides: tuple[pd.DataFrame, pd.DataFrame]
    units: tuple[pd.DataFrame, pd.DataFrame]

    @cached_property
    def reference(self) -> pd.DataFrame:
        """The units that both scored, by key, sorted: ``lcz_true``, ``group``, ``x``, ``y``."""
        here, there = self.units
        return here[here.index.isin(there.index)]

    @property
    def unit(self) -> str:
        """What one prediction stands for."""
        return str(self.sides[0]["unit"].iloc[0])

    @property
    def splits(self) -> tuple[str, str]:
        """How training and evaluation were kept apart, of each side."""
        a, b = (str(side["split"].iloc[0]) for side in self.sides)
        return a, b

    @property
    def n_units(self) -> tuple[int, int]:
        """Units of each side."""
        return len(self.units[0]), len(self.units[1])

    @property
    def n_seeds(self) -> tuple[int, int]:
        """Seeds of each side; of hold-outs those that drew a shared unit."""
        if "seed" in self.keys:
            n = int(self.reference.index.get_level_values("seed").nunique())
            return n, n
        a, b = (int(side["seed"].nunique()) for side in self.sides)
        return a, b

    @property
    def has_common_seeds(self) -> bool:
        """Whether any seed is of both."""
        return bool(_common_seeds(*self.sides))

    @property
    def n_trained_apart(self) -> int:
        """Shared units that the two predicted after learning from different labels."""
        a, b = (self.wide(number, "trained_on") for number in (0, 1))
        if not self.has_common_seeds:  # then no two repeats belong together
            a, b = np.concatenate([a, b]), a[:1]
        return int(np.count_nonzero((a != b).any(axis=0)))

    def wide(self, number: int, column: str) -> npt.NDArray[Any]:
        """A column of a side, shape (repeat, n), in the order of ``reference``."""
        table = self.sides[number].pivot(index=list(self.keys), columns="repeat", values=column)
        return np.asarray(table.loc[self.reference.index]).T


def pair_predictions(a: pd.DataFrame, b: pd.DataFrame, *, names: tuple[str, str]) -> Pair:
    """Two models' predictions on the units that both scored, whatever the order of their rows.

    Raises
    ------
    LabelError
        If a table is not of one model and unit, or holds a unit twice; if units are of two kinds;
        if the two share none; if they differ in class, group or place of a shared unit.
    """
    for table, name in zip((a, b), names, strict=True):
        _require_one_model(table, name)
    _require_one_kind(a, b, names)
    pair = _laid_out(a, b)
    _require_shared(pair, names)
    _require_same_reference(pair, names)
    return pair


def _require_one_model(table: pd.DataFrame, name: str) -> None:
    _require_columns(table, where=f"the table of {name}")
    if table.empty:
        raise LabelError(f"{name} has no predictions; a comparison needs at least one unit.")
    for column in ("model", "unit", "split"):
        found = table[column].unique()
        if len(found) > 1:
            raise LabelError(
                f"{name} holds {column}s {', '.join(map(str, found))}; compare one with one: "
                "predictions_of(table, model)."
            )
    n_double = int(table.duplicated([*UNIT_KEY, "seed"]).sum())
    if n_double:
        raise LabelError(
            f"{name} holds {n_double} units more than once with one seed; a model says one class "
            "of a unit. Drop the others."
        )
    n_unsure = int(table[_REFERENCE].drop_duplicates().duplicated(list(UNIT_KEY)).sum())
    if n_unsure:
        raise LabelError(
            f"{name} gives {n_unsure} units another class, group or place with another seed; the "
            "reference is one. Take a table that `lczcube evaluate` wrote."
        )


def _require_columns(table: pd.DataFrame, *, where: str) -> None:
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise LabelError(
            f"{where} has no column {', '.join(missing)}; predictions have {', '.join(COLUMNS)}. "
            "Take a table that `lczcube evaluate` wrote."
        )


def _require_one_kind(a: pd.DataFrame, b: pd.DataFrame, names: tuple[str, str]) -> None:
    of_a, of_b = (table["unit"].iloc[0] for table in (a, b))
    if of_a != of_b:
        raise LabelError(
            f"{names[0]} was scored per {of_a} and {names[1]} per {of_b}; only units of one kind "
            "are paired. Score both on the same labels and the same stride_m of the grid."
        )


def _laid_out(a: pd.DataFrame, b: pd.DataFrame) -> Pair:
    keys: tuple[str, ...] = UNIT_KEY
    if _draws_units(a) or _draws_units(b):
        keys, sides = (*UNIT_KEY, "seed"), (a.assign(repeat=0), b.assign(repeat=0))
    else:
        both = _common_seeds(a, b)
        kept = [side[side["seed"].isin(both)] if both else side for side in (a, b)]
        sides = (kept[0].assign(repeat=kept[0]["seed"]), kept[1].assign(repeat=kept[1]["seed"]))
    return Pair(keys, sides, (_units(sides[0], keys), _units(sides[1], keys)))


def _draws_units(table: pd.DataFrame) -> bool:
    """Whether seeds score different units, as hold-outs do."""
    n_units = len(table.drop_duplicates(list(UNIT_KEY)))
    return len(table) != n_units * int(table["seed"].nunique())


def _common_seeds(a: pd.DataFrame, b: pd.DataFrame) -> set[int]:
    return set(a["seed"]) & set(b["seed"])


def _units(side: pd.DataFrame, keys: tuple[str, ...]) -> pd.DataFrame:
    columns = [*_REFERENCE, *(key for key in keys if key not in UNIT_KEY)]
    return side[columns].drop_duplicates().set_index(list(keys)).sort_index()


def _require_shared(pair: Pair, names: tuple[str, str]) -> None:
    if len(pair.reference):
        return
    told = "; ".join(
        f"{name} scored {len(units)} such as {units.index[0][1]!r} in {units.index[0][0]!r}"
        for name, units in zip(names, pair.units, strict=True)
    )
    drawn = " and seed, since seeds draw them" if "seed" in pair.keys else ""
    raise LabelError(
        f"no unit was scored by both: {told}. Units are paired by city and patch_id{drawn}; score "
        "both on the same labels, under the same names of inputs and cities."
    )


def _require_same_reference(pair: Pair, names: tuple[str, str]) -> None:
    a = pair.reference
    b = pair.units[1].loc[a.index]
    apart_m = np.abs(a[["x", "y"]].to_numpy(float) - b[["x", "y"]].to_numpy(float)).max(axis=1)
    faults = {
        "class": a["lcz_true"].to_numpy() != b["lcz_true"].to_numpy(),
        "group": a["group"].to_numpy() != b["group"].to_numpy(),
        "place": apart_m > SAME_PLACE_M,
    }
    for what, differs in faults.items():
        if differs.any():
            example = a.index[int(np.argmax(differs))][1]
            raise LabelError(
                f"{names[0]} and {names[1]} differ in the {what} of {np.count_nonzero(differs)} of "
                f"the {len(a)} units that both scored, such as {example!r}; paired units are the "
                "same ones. Score both on the same labels and grid."
            )
