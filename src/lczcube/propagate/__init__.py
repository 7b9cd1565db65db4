"""Propagation: labels travel from donors to unlabelled cells that look like them.

``space`` says what is near, ``donors`` who may speak, ``votes`` what they say, ``calibration`` how
often votes like that are right, ``cuts`` what is sure enough, ``electors`` all of that together;
``cells`` puts it on a city, lazily, ``safety`` drops what must not be kept, ``table`` is what
training takes; ``audit`` says how right it would have been on labels that it did not see.
"""

from lczcube.propagate.audit import Audit, Policy, audit_propagation
from lczcube.propagate.audit_plot import plot_audit
from lczcube.propagate.calibration import (
    Calibration,
    HeldOut,
    Reliability,
    cross_fitted,
    fit_calibration,
    held_out_votes,
    hold_out_method,
    reliability,
)
from lczcube.propagate.cells import FATES, propagate_labels
from lczcube.propagate.cuts import fixed_cut, novelty_limit, precision_cut, quantile_cut
from lczcube.propagate.donors import Donors, build_donors
from lczcube.propagate.electors import Electors, appoint
from lczcube.propagate.safety import exclude_pseudo_labels
from lczcube.propagate.space import Moments, Space, city_moments
from lczcube.propagate.table import fate_counts, keep_rates, pseudo_label_table, silent_classes
from lczcube.propagate.votes import Merge, Votes, Voting, cast_votes, electorates

__all__ = [
    "FATES",
    "Audit",
    "Calibration",
    "Donors",
    "Electors",
    "HeldOut",
    "Merge",
    "Moments",
    "Policy",
    "Reliability",
    "Space",
    "Votes",
    "Voting",
    "appoint",
    "audit_propagation",
    "build_donors",
    "cast_votes",
    "city_moments",
    "cross_fitted",
    "electorates",
    "exclude_pseudo_labels",
    "fate_counts",
    "fit_calibration",
    "fixed_cut",
    "held_out_votes",
    "hold_out_method",
    "keep_rates",
    "novelty_limit",
    "plot_audit",
    "precision_cut",
    "propagate_labels",
    "pseudo_label_table",
    "quantile_cut",
    "reliability",
    "silent_classes",
]
