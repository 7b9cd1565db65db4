"""Nearest donors of queries: compared with every donor, or found in a graph.

``exact`` is the search that compares everything, ``graph`` what is built with pynndescent and
searched step by step, ``index`` the one object that answers by either, ``choice`` which of the two
a run should take, ``store`` an index as a folder of plain arrays.
"""

from lczcube.neighbours.choice import SearchCost, choose_method, search_cost
from lczcube.neighbours.exact import nearest_donors
from lczcube.neighbours.graph import is_compiled
from lczcube.neighbours.index import (
    DonorIndex,
    Recall,
    build_index,
    donors_fingerprint,
    measure_recall,
)
from lczcube.neighbours.store import open_index, write_index

__all__ = [
    "DonorIndex",
    "Recall",
    "SearchCost",
    "build_index",
    "choose_method",
    "donors_fingerprint",
    "is_compiled",
    "measure_recall",
    "nearest_donors",
    "open_index",
    "search_cost",
    "write_index",
]
