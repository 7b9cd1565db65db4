"""Audit: how right pseudo-labels would have been, on labels that took no part in making them.

Whole cities, and whole blocks or polygons, are taken away; what is left is calibrated and votes on
them just as on the cells of an unknown place. What would have been kept is compared with the truth.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from lczcube.errors import LabelError
from lczcube.labels.origins import is_by_rule
from lczcube.labels.samples import sample_frame
from lczcube.metrics import calibration_error
from lczcube.propagate.calibration import (
    HoldOut,
    bootstrap_error,
    hold_out_method,
    reliability_bins,
    whole_folds,
)
from lczcube.propagate.donors import Donors, are_usable, build_donors
from lczcube.propagate.electors import appoint
from lczcube.propagate.space import Moments
from lczcube.propagate.votes import Voting
from lczcube.tables import markdown_table, plain, with_interval

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Cuts that are audited."""

SHOWN_THRESHOLD = 0.8

ELSEWHERE = ""
"""A city that has no donor."""

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Policy:
    """Whose donors vote, and how.

    Attributes
    ----------
    name : str
        For the tables.
    voting : Voting
        How.
    own : bool
        Only donors of the same city vote; no city can then be left out.
    moments : mapping
        By city, when each is standardised by its own cells; empty otherwise.
    weights : mapping of str to float
        By input, as :func:`build_donors` takes them.
    pca : float or None
        As :func:`build_donors` takes it.
    calibrate : str
        ``none`` takes shares of the vote for confidence; all else learns from what is left.
    """

    name: str
    voting: Voting = field(default_factory=Voting)
    own: bool = False
    moments: Mapping[str, Moments] | None = None
    weights: Mapping[str, float] | None = None
    pca: float | None = None
    calibrate: str = "auto"


@dataclass(frozen=True, eq=False)
class Audit:
    """Held-out samples and what would have become of them.

    Attributes
    ----------
    records : pandas.DataFrame
        A row a policy, hold-out and sample: ``policy``, ``method``, ``city``, ``group``, ``lcz``
        (the truth), ``voted``, ``vote`` and ``confidence`` (0-1, raw and calibrated), ``novel``.
    """

    records: pd.DataFrame

    @property
    def methods(self) -> list[str]:
        """What was left out, in order."""
        return list(self.records["method"].unique())

    def policies(self, method: str) -> list[str]:
        """Policies that could leave that out, in order."""
        return list(self.records["policy"][self.records["method"] == method].unique())

    @cached_property
    def by_cut(self) -> list[dict[str, Any]]:
        """Precision and keep rate of each policy, hold-out and cut."""
        return [
            {"policy": policy, "method": method, "cut": cut} | _kept(part, cut)
            for (policy, method), part in self._parts(["policy", "method"])
            for cut in THRESHOLDS
        ]

    @cached_property
    def summary(self) -> list[dict[str, Any]]:
        """Of each policy and hold-out: accuracy, calibration error, and precision at 0.8."""
        return [
            {"policy": policy, "method": method} | _facts(part)
            for (policy, method), part in self._parts(["policy", "method"])
        ]

    @cached_property
    def by_class(self) -> list[dict[str, Any]]:
        """Precision and keep rate of each policy, hold-out, voted class and cut."""
        return [
            {"policy": policy, "method": method, "lcz": int(code), "cut": cut} | _kept(part, cut)
            for (policy, method, code), part in self._parts(["policy", "method", "voted"])
            for cut in THRESHOLDS
        ]

    @cached_property
    def by_city(self) -> list[dict[str, Any]]:
        """Precision and keep rate of each policy, hold-out, city and cut."""
        return [
            {"policy": policy, "method": method, "city": city, "cut": cut} | _kept(part, cut)
            for (policy, method, city), part in self._parts(["policy", "method", "city"])
            for cut in THRESHOLDS
        ]

    @cached_property
    def reliability(self) -> list[dict[str, Any]]:
        """Bins of confidence of each policy and hold-out, raw and calibrated."""
        return [
            {"policy": policy, "method": method} | one
            for (policy, method), part in self._parts(["policy", "method"])
            for stage, column in (("raw", "vote"), ("calibrated", "confidence"))
            for one in reliability_bins(stage, part[column].to_numpy(), _right(part))
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, sorted, floats of 6 digits: for JSON."""
        tables = {
            "summary": self.summary,
            "by_cut": self.by_cut,
            "by_class": self.by_class,
            "by_city": self.by_city,
            "reliability": self.reliability,
        }
        return dict(plain(tables))

    def to_text(self) -> str:
        """Tables for people: policies, then classes and cities of the first policy."""
        lines = [_summary_table(self.summary)]
        for method in self.methods:
            first = self.policies(method)[0]
            at = {"policy": first, "method": method}
            title = f"{first}, {method} left out: precision of what is kept (share kept)"
            lines += ["", title, "", _cut_table(only(self.by_class, at), "lcz")]
            lines += ["", _cut_table(only(self.by_city, at), "city")]
        return "\n".join(lines)

    def _parts(self, columns: list[str]) -> Iterator[tuple[Any, pd.DataFrame]]:
        yield from self.records.groupby(columns, sort=False)


def audit_propagation(
    samples: xr.Dataset, policies: Sequence[Policy], *, split: str, novelty: float, seed: int = 0
) -> Audit:
    """Leave cities and blocks (or polygons) out, and vote on them.

    Parameters
    ----------
    samples : xarray.Dataset
        Labelled samples of all cities that may give donors.
    policies : sequence of Policy
        Compared on the same folds, but for those of each city's own donors.
    split : str
        How the run splits its labels: decides between blocks and polygons.
    novelty : float
        As :func:`novelty_limit` takes it.
    seed : int
        Of the folds. Default 0.

    Returns
    -------
    Audit
        Cities are left out where there are two or more.

    Raises
    ------
    LabelError
        If neither can be left out.
    """
    samples = samples.isel(sample=np.flatnonzero(are_usable(samples)))
    parts = [
        _audited(part, policy, method, novelty, seed)
        for policy in policies
        for part in _electorates(samples, own=policy.own)
        for method in _hold_outs(part, policy, split)
    ]
    if not parts:
        raise LabelError(
            "the labels lie in one city and in too few groups: nothing can be left out. Draw more "
            "polygons, or add a city."
        )
    return Audit(pd.concat(parts, ignore_index=True))


def _electorates(samples: xr.Dataset, *, own: bool) -> Iterator[xr.Dataset]:
    cities = samples["city"].values.astype(str)
    if not own:
        yield samples
        return
    for city in np.unique(cities):
        yield samples.isel(sample=np.flatnonzero(cities == city))


def _hold_outs(samples: xr.Dataset, policy: Policy, split: str) -> Iterator[HoldOut]:
    """What can be left out of these samples: cities of several, blocks or polygons of enough."""
    labelled = samples["city"].values[~is_by_rule(samples)].astype(str)
    if np.unique(labelled).size > 1:
        yield "city"
    within = hold_out_method(_donors(samples, policy), None, split)
    if within is not None:
        yield within


def _audited(
    samples: xr.Dataset, policy: Policy, method: HoldOut, novelty: float, seed: int
) -> pd.DataFrame:
    held_out, folds = whole_folds(sample_frame(samples), method, seed=seed)
    parts = [
        _voted(
            samples.isel(sample=train), samples.isel(sample=test), policy, held_out, novelty, seed
        )
        for train, test in folds
    ]
    return pd.concat(parts, ignore_index=True)


def _voted(
    train: xr.Dataset, test: xr.Dataset, policy: Policy, method: str, novelty: float, seed: int
) -> pd.DataFrame:
    """Records of a fold: donors that never saw it learn from each other, and vote."""
    electors, _ = appoint(
        _donors(train, policy),
        policy.voting,
        city=ELSEWHERE if method == "city" else None,
        split=method,
        calibrate="none" if policy.calibrate == "none" else "auto",
        novelty=novelty,
        seed=seed,
    )
    frame = sample_frame(test)
    cities = frame["city"].to_numpy(str)
    votes, probability = electors.vote(test["features"].values, cities)
    return pd.DataFrame(
        {
            "policy": policy.name,
            "method": method,
            "city": cities,
            "group": frame["city"].astype(str) + "/" + frame["group"].astype(str),
            "lcz": frame["lcz"].to_numpy(np.uint8),
            "voted": votes.lcz,
            "vote": votes.top,
            "confidence": probability.max(axis=1),
            "novel": votes.distance > electors.limit,
        }
    )


def _donors(samples: xr.Dataset, policy: Policy) -> Donors:
    return build_donors(samples, weights=policy.weights, pca=policy.pca, moments=policy.moments)


def _right(part: pd.DataFrame) -> npt.NDArray[np.bool_]:
    right: npt.NDArray[np.bool_] = (part["voted"] == part["lcz"]).to_numpy(bool)
    return right


def _kept(part: pd.DataFrame, cut: float) -> dict[str, Any]:
    kept = (part["confidence"] >= cut) & ~part["novel"]
    return {
        "n": len(part),
        "kept": int(kept.sum()),
        "precision": float(_right(part[kept]).mean()) if kept.any() else None,
        "raw_kept": int((part["vote"] >= cut).sum()),
    }


def _facts(part: pd.DataFrame) -> dict[str, Any]:
    right, groups = _right(part), part["group"].to_numpy(str)
    facts: dict[str, Any] = {"n": len(part), "groups": int(np.unique(groups).size)}
    facts["accuracy"] = float(right.mean())
    for stage, column in (("raw", "vote"), ("calibrated", "confidence")):
        confidence = part[column].to_numpy()
        facts[f"error_{stage}"] = calibration_error(confidence, right)
        facts[f"interval_{stage}"] = bootstrap_error(confidence, right, groups)
    facts["novel"] = float(part["novel"].mean())
    at = _kept(part, SHOWN_THRESHOLD)
    return facts | {"kept": at["kept"] / len(part), "precision": at["precision"]}


def _summary_table(rows: Sequence[Mapping[str, Any]]) -> str:
    header = (
        *("donors", "left out", "n", "groups", "accuracy", "error raw", "error calibrated"),
        *("novel", f"kept at {SHOWN_THRESHOLD:g}", "precision"),
    )
    table = [
        (
            *(row["policy"], row["method"], str(row["n"]), str(row["groups"])),
            f"{row['accuracy']:.3f}",
            with_interval(row["error_raw"], row["interval_raw"]),
            with_interval(row["error_calibrated"], row["interval_calibrated"]),
            f"{row['novel']:.3f}",
            f"{row['kept']:.3f}",
            with_interval(row["precision"], None),
        )
        for row in rows
    ]
    return markdown_table(header, table)


def _cut_table(rows: Sequence[Mapping[str, Any]], key: str) -> str:
    names = sorted({row[key] for row in rows})
    header = (key, "n", *(f"{cut:g}" for cut in THRESHOLDS))
    return markdown_table(header, [_cut_row(only(rows, {key: name}), name) for name in names])


def _cut_row(rows: Sequence[Mapping[str, Any]], name: object) -> tuple[str, ...]:
    cells = [
        f"{with_interval(row['precision'], None)} ({row['kept'] / row['n']:.2f})" for row in rows
    ]
    return (str(name), str(rows[0]["n"]), *cells)


def only(rows: Sequence[Mapping[str, Any]], wanted: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Rows of a table that have these values."""
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]
