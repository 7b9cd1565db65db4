"""Labels: table, burning, rules, quality, splits that do not leak, and a measure of the leak."""

from lczcube.labels.burn import label_cells, rasterize_labels
from lczcube.labels.class_rules import RULES, ClassRule, chosen_rules
from lczcube.labels.cover import FeatureState, read_feature_states
from lczcube.labels.flags import QualityRules
from lczcube.labels.leakage import LeakageReport, leakage_report
from lczcube.labels.likeness import drop_far
from lczcube.labels.overlaps import LabelComparison, compare_labels
from lczcube.labels.quality import QualityReport, check_labels, drop_suspects
from lczcube.labels.quality_plot import plot_suspects
from lczcube.labels.rules import counts_text, label_by_rules
from lczcube.labels.splits import Roles, Split, split_labels
from lczcube.labels.table import read_labels, require_labels
from lczcube.labels.template import write_template

__all__ = [
    "RULES",
    "ClassRule",
    "FeatureState",
    "LabelComparison",
    "LeakageReport",
    "QualityReport",
    "QualityRules",
    "Roles",
    "Split",
    "check_labels",
    "chosen_rules",
    "compare_labels",
    "counts_text",
    "drop_far",
    "drop_suspects",
    "label_by_rules",
    "label_cells",
    "leakage_report",
    "plot_suspects",
    "rasterize_labels",
    "read_feature_states",
    "read_labels",
    "require_labels",
    "split_labels",
    "write_template",
]
