"""Agreements as a Markdown table."""

from collections.abc import Sequence

from lczcube.agreement.value import METRICS, Agreement, CityAgreements
from lczcube.tables import markdown_table, with_interval

HEADINGS = {
    "oa": "OA",
    "oa_w": "OA_w",
    "oa_bu": "OA_bu",
    "kappa": "kappa",
    "kappa_w": "kappa_w",
    "mean_f1": "mean F1",
}
"""Metrics of the table, and their headings."""

_M2_PER_HA = 1e4


def agreement_table(rows: Sequence[Agreement | CityAgreements]) -> str:
    """Agreements as a Markdown table that also reads as plain text, and below it what they share.

    Parameters
    ----------
    rows : sequence of Agreement or CityAgreements
        In the order to print. Several cities are a row each, and then one together.

    Returns
    -------
    str
        Lines without a trailing line break. Brackets hold the 95 % interval over groups. Below the
        table: for each pair its dependence, and the remarks.
    """
    flat = [agreement for row in rows for agreement in _flat(row)]
    header = ("agreement", "city", "unit", "n", "shared", "groups", *HEADINGS.values())
    notes = dict.fromkeys(note for agreement in flat for note in _notes(agreement))
    table = markdown_table(header, [_row(agreement) for agreement in flat])
    return "\n".join([table, *([""] if notes else []), *notes])


def _flat(row: Agreement | CityAgreements) -> list[Agreement]:
    return [row] if isinstance(row, Agreement) else [*row.cities.values(), row.pooled]


def _named(agreement: Agreement) -> str:
    return f"{agreement.pair.first} / {agreement.pair.second}"


def _row(agreement: Agreement) -> tuple[str, ...]:
    is_area = agreement.unit == "m2"
    return (
        _named(agreement),
        agreement.city or "-",
        agreement.unit,
        f"{agreement.n / _M2_PER_HA:.1f} ha" if is_area else f"{agreement.n:.0f}",
        "-" if agreement.shared is None else f"{agreement.shared:.1%}",
        f"{agreement.n_groups} ({agreement.group_noun})",
        *(with_interval(agreement.metrics[name], agreement.intervals[name]) for name in METRICS),
    )


def _notes(agreement: Agreement) -> list[str]:
    where = f", {agreement.city}" if agreement.city else ""
    return [
        f"- {_named(agreement)}: {agreement.pair.dependence}",
        *(f"- {_named(agreement)}{where}: {remark}" for remark in agreement.remarks),
    ]
