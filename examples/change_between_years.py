"""Change between two years of a city's map, counted only where both maps are sure.

``python examples/change_between_years.py RUN_2019/CITY/lcz.zarr RUN_2021/CITY/lcz.zarr 2019 2021``

``lczcube change RUN_2019 RUN_2021 --out change.zarr`` does the same, writes it, and draws it.
"""

import sys

from lczcube.changes import ChangeRules, change_table, changes_text, find_changes
from lczcube.mapstack import stack_years


def main(earlier: str, later: str, since: str, until: str) -> None:
    maps = stack_years({int(since): earlier, int(until): later}, group="cells")
    rules = ChangeRules(min_confidence=0.5, min_area_ha=20)
    changes = find_changes(maps, rules)  # lazy: no pixel is read yet
    print(changes_text(change_table(changes), changes))

    # It is xarray: how much became built (1-10) that was not?
    was, became = changes["from_to"] // 100, changes["from_to"] % 100
    is_new = changes["changed"] & (was > 10) & (became <= 10)
    cell_ha = abs(float(maps["x"][1] - maps["x"][0])) ** 2 / 1e4
    print(f"\nNewly built: {int(is_new.sum()) * cell_ha:.1f} ha")


if __name__ == "__main__":
    main(*sys.argv[1:])
