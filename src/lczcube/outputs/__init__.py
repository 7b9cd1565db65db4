"""Products of a run as STAC: a collection a run, an item a city and year, to be inputs again."""

from lczcube.outputs.write import OutputsReport, write_outputs

__all__ = ["OutputsReport", "write_outputs"]
