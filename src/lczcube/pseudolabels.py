"""The pseudo-labels of a run, and how right they would have been."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import xarray as xr

from lczcube.config import PropagateTable
from lczcube.errors import LabelError
from lczcube.labels.rule_samples import join_rules
from lczcube.labels.samples import join_samples, without_absent
from lczcube.labels.splits import rows_of_roles
from lczcube.products import open_product, write_product
from lczcube.propagate import (
    Audit,
    Donors,
    Electors,
    HeldOut,
    Merge,
    Moments,
    Policy,
    Voting,
    appoint,
    audit_propagation,
    build_donors,
    cross_fitted,
    electorates,
    exclude_pseudo_labels,
    fate_counts,
    fixed_cut,
    keep_rates,
    plot_audit,
    precision_cut,
    propagate_labels,
    pseudo_label_table,
    quantile_cut,
    reliability,
    silent_classes,
)
from lczcube.propagate.cuts import HALF_PERCENT
from lczcube.rundonors import RunDonors
from lczcube.runfolder import Run, write_json
from lczcube.tables import plain
from lczcube.trainingdata import roles_of

Float64 = npt.NDArray[np.float64]

LOW_RECALL = 0.95

READ = ["lcz", "confidence", "vote", "distance", "donor", "fate"]
"""Variables of the stored cells that tables and counts are made of."""


@dataclass(frozen=True)
class _Cast:
    """All that decides on the cells of a city."""

    electors: Electors
    held: HeldOut | None
    cells: xr.Dataset
    city: str

    @property
    def donors(self) -> Donors:
        return self.electors.donors


def propagate_city(given: RunDonors, city: str, *, identity: str | None = None) -> str:
    """Votes on the cells of a city, written with what becomes of each; one line of summary.

    Writes ``propagated.zarr``, ``pseudo_labels.parquet`` and ``propagate.json``.

    Parameters
    ----------
    given : RunDonors
        What the run has.
    city : str
        Of the run.
    identity : str, optional
        What the result depends on; see :func:`lczcube.write_product`.
    """
    run = given.run
    cast = _with_indexes(given, _cast(given, city))
    cut = _cut(run.config.propagate, cast)
    voted = propagate_labels(cast.electors, cast.cells, city=city, cut=cut)
    labels = run.labels(city)
    safe = exclude_pseudo_labels(
        voted,
        labels=_guarding(given, city, labels),
        evaluation=_evaluation(run, labels),
        exclude_eval_m=run.config.propagate.exclude_eval_m,
    )
    store = run.path(city, "propagated.zarr")
    attrs = {"donor_id": cast.donors.donor_id.tolist(), "synthetic": int(voted.attrs["synthetic"])}
    provenance = _provenance(cast, cut)
    write_product(
        {"cells": safe}, store, attrs=attrs | provenance, overwrite=True, identity=identity
    )
    stored = open_product(store, "cells")[READ].load()
    table = pseudo_label_table(stored, city=city, donors=cast.donors.table)
    table.to_parquet(run.path(city, "pseudo_labels.parquet"))
    facts = provenance | _counts(cast, cut, stored)
    write_json(run.path(city, "propagate.json"), plain(facts))
    for warning in facts["warnings"]:
        run.progress(f"{city}: {warning}")
    return _summary(facts)


def audit_run(run: Run) -> str:
    """Leave cities and blocks out of a run's donors, and vote on them; the tables.

    Writes ``audit.json``, ``audit.md`` and ``audit.png``.

    Raises
    ------
    LabelError
        If nothing can be left out.
    """
    given, table = RunDonors(run), run.config.propagate
    named = given.samples if isinstance(table.donors, str) else table.donors
    givers = given.giving(named)
    joined = without_absent(join_samples([given.samples[name] for name in givers]), [])
    names = joined["feature"].values.tolist()
    moments = given.moments(givers, names)
    audit = audit_propagation(
        joined,
        _policies(table, moments, given.weights(names)),
        split=run.table.split,
        novelty=table.novelty,
        seed=run.table.seed,
    )
    return _write_audit(run, audit, synthetic=bool(joined.attrs["synthetic"]))


def _write_audit(run: Run, audit: Audit, *, synthetic: bool) -> str:
    title = f"Propagation, {run.config.id}" + (" (synthetic data)" if synthetic else "")
    write_json(run.folder / "audit.json", {"title": title} | audit.to_dict())
    text = f"{title}\n\n{audit.to_text()}\n"
    (run.folder / "audit.md").write_text(text, encoding="utf-8")
    plot_audit(audit, run.folder / "audit.png", title=title)
    return text


def _policies(
    table: PropagateTable, moments: Mapping[str, Moments], weights: Mapping[str, float]
) -> list[Policy]:
    """The policy of the run first; of several cities, then those that could take its place."""
    common: dict[str, Any] = {"weights": weights, "pca": table.pca, "calibrate": table.calibrate}
    merges: tuple[Merge, ...] = ("pooled", "by_city")
    others = [(merge, standardise) for standardise in ("donors", "city") for merge in merges]
    first = (table.merge, str(table.standardise))
    ways = [first, *(way for way in others if way != first and len(moments) > 1)]
    policies = [
        Policy(
            _named(merge, standardise),
            _voting(table, merge),
            moments=moments if standardise == "city" else {},
            **common,
        )
        for merge, standardise in ways
    ]
    if len(moments) > 1:
        policies.append(Policy("own city", _voting(table), own=True, **common))
    return sorted(policies, key=lambda policy: policy.own != (table.donors == "own"))


def _named(merge: str, standardise: str) -> str:
    return merge.replace("_", " ") + (", z by city" if standardise == "city" else "")


def _cast(given: RunDonors, city: str) -> _Cast:
    table, run = given.run.config.propagate, given.run
    givers = given.donor_cities(city)
    samples = [given.samples[name] for name in givers]
    all_cells = given.cells(city)
    joined = without_absent(join_samples(samples), [all_cells])
    cells = without_absent(all_cells, samples)
    names = joined["feature"].values.tolist()
    own = table.standardise == "city"
    donors = build_donors(
        joined,
        weights=given.weights(names),
        pca=table.pca,
        moments=given.moments({*givers, city}, names) if own else {},
    )
    electors, held = appoint(
        donors,
        _voting(table),
        city=city,
        split=run.table.split,
        calibrate=table.calibrate,
        novelty=table.novelty,
        seed=run.table.seed,
    )
    return _Cast(electors, held, cells, city)


def _with_indexes(given: RunDonors, cast: _Cast) -> _Cast:
    donors, voting = cast.donors, cast.electors.voting
    indexes = tuple(
        given.index(donors.take(one.rows), cast.cells, cast.city)
        for one in electorates(donors, voting)
    )
    return replace(cast, electors=replace(cast.electors, indexes=indexes))


def _voting(table: PropagateTable, merge: Merge | None = None) -> Voting:
    return Voting(table.k, table.power, table.balance, merge or table.merge)


def _guarding(given: RunDonors, city: str, labels: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Labels that pseudo-labels may not contradict: none of a city whose labels take no part."""
    if city not in given.donor_cities(city):
        return labels.iloc[:0]
    rules = given.run.rule_labels(city)
    return labels if rules is None else join_rules(labels, rules)


def _evaluation(run: Run, labels: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Labels that scores are made on and that are told apart beforehand."""
    if run.table.split != "given":
        return labels.iloc[:0]
    return labels[rows_of_roles(labels, roles_of(run.config))[1]]


def _cut(table: PropagateTable, cast: _Cast) -> npt.NDArray[np.float64]:
    if table.cut == "precision":
        return _precision_cut(table, cast)
    if table.cut == "quantile":
        voted = propagate_labels(cast.electors, cast.cells, city=cast.city)
        sure = voted[["lcz", "confidence"]].compute()
        share = sure["confidence"].values / 100
        return quantile_cut(share, sure["lcz"].values, table.keep_share) - HALF_PERCENT
    if isinstance(table.min_confidence, float):
        return fixed_cut(table.min_confidence)
    of_class = dict(table.min_confidence)
    other = of_class.pop("other", 0.8)
    return fixed_cut(other, {int(code): value for code, value in of_class.items()})


def _precision_cut(table: PropagateTable, cast: _Cast) -> npt.NDArray[np.float64]:
    held = cast.held
    if held is None:
        raise LabelError(
            f'cut = "precision" in [propagate] learns from donors that are held out, and '
            f"{cast.donors.n_groups} groups of labels are too few. Draw more polygons, or use "
            'cut = "confidence".'
        )
    is_raw = cast.electors.calibration is None
    probability = held.votes.shares if is_raw else cross_fitted(held, cast.donors.is_class)
    return precision_cut(
        probability.max(axis=1), held.votes.lcz, held.is_right, table.target_precision
    )


def _provenance(cast: _Cast, cut: npt.NDArray[np.float64]) -> dict[str, Any]:
    """What the pseudo-labels were made from and how, as JSON values."""
    electors, donors = cast.electors, cast.donors
    calibration = electors.calibration
    return {
        "cut": {str(code + 1): float(cut[code]) for code in np.flatnonzero(donors.is_class)},
        "donors": {str(k): int(n) for k, n in donors.table["city"].value_counts().items()},
        "n_groups": donors.n_groups,
        "n_dimensions": donors.space.n_dimensions,
        "products": list(donors.space.products),
        "voting": asdict(electors.voting),
        "search": [index.facts() for index in electors.indexes],
        "novelty_limit": None if np.isinf(electors.limit) else electors.limit,
        "calibration": calibration
        and {"temperature": calibration.temperature, "mix": calibration.mix},
    }


def _counts(cast: _Cast, cut: npt.NDArray[np.float64], stored: xr.Dataset) -> dict[str, Any]:
    """What became of the cells, and what confidence is worth, as JSON values."""
    rates = keep_rates(stored, cut)
    held = cast.held
    return {
        "counts": fate_counts(stored),
        "of_class": {str(code): counts for code, counts in rates.items()},
        "reliability": None if held is None else _reliability(cast, held),
        "warnings": _warnings(cast, rates),
    }


def _reliability(cast: _Cast, held: HeldOut) -> dict[str, Any]:
    """Of raw votes and, if they are calibrated, of those."""
    told = asdict(reliability(held, cast.donors.is_class))
    if cast.electors.calibration is None:
        told |= {"error_calibrated": None, "interval_calibrated": None}
        told["bins"] = [one for one in told["bins"] if one["stage"] == "raw"]
    return told


def _warnings(cast: _Cast, rates: Mapping[int, Mapping[str, int]]) -> list[str]:
    donors = cast.donors
    lines = []
    if cast.held is None:
        lines.append(
            f"{donors.n_groups} groups of labels are too few to hold any out: confidence is the "
            "share of the vote, not calibrated, and no cell is called novel."
        )
    lines += [
        f"of the {index.recall.k} nearest groups the graph finds {index.recall.value:.3f} "
        f'({index.recall.n_sample} cells): set search = "exact" in [propagate] to find all.'
        for index in cast.electors.indexes
        if index.recall is not None and index.recall.value < LOW_RECALL
    ]
    for code in silent_classes(rates, donors.is_class):
        n = int((donors.lcz == code).sum())
        won = rates.get(code, {"cells": 0})["cells"]
        lines.append(f"LCZ {code} has {n} donors, wins {won} cells and keeps none.")
    return lines


def _summary(facts: Mapping[str, Any]) -> str:
    totals = {
        key: sum(counts[key] for counts in facts["of_class"].values())
        for key in ("cells", "raw", "kept")
    }
    told = facts["reliability"]
    error = ""
    if told:
        error = f"; calibration error {told['error_raw']:.3f} raw"
        if told["error_calibrated"] is not None:
            error += f", {told['error_calibrated']:.3f} calibrated"
        error += f" ({told['method']} held out)"
    return (
        f"{totals['kept']} of {totals['cells']} cells kept, raw votes would keep "
        f"{totals['raw']}{error}"
    )
