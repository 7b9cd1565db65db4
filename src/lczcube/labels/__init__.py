"""Labels: the table, burning on a grid, splits that do not leak, and a measure of the leak."""

from lczcube.labels.burn import label_cells, rasterize_labels
from lczcube.labels.leakage import LeakageReport, leakage_report
from lczcube.labels.splits import Roles, Split, split_labels
from lczcube.labels.table import read_labels, require_labels
from lczcube.labels.template import write_template

__all__ = [
    "LeakageReport",
    "Roles",
    "Split",
    "label_cells",
    "leakage_report",
    "rasterize_labels",
    "read_labels",
    "require_labels",
    "split_labels",
    "write_template",
]
