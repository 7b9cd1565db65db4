"""A question to a catalog, and whether an item answers it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lczcube.config import BBox
from lczcube.errors import CatalogError
from lczcube.sources.files import first_line

if TYPE_CHECKING:
    import pystac


@dataclass(frozen=True)
class Query:
    """What is asked of a store.

    Attributes
    ----------
    collections : tuple of str
        Ids of collections that there are, sorted.
    bbox : tuple of float or None
        ``(minx, miny, maxx, maxy)``, EPSG:4326; west above east crosses the antimeridian.
    when : str or None
        An instant or interval, spelt out.
    ids : frozenset of str or None
        Ids of items.
    limit : int or None
        Most items that are wanted.
    """

    collections: tuple[str, ...]
    bbox: BBox | None = None
    when: str | None = None
    ids: frozenset[str] | None = None
    limit: int | None = None

    @property
    def boxes(self) -> tuple[BBox, ...]:
        """The bbox, cut in two at the antimeridian; empty where there is none."""
        if self.bbox is None:
            return ()
        west, south, east, north = self.bbox
        if west <= east:
            return (self.bbox,)
        return (west, south, 180.0, north), (-180.0, south, east, north)

    @property
    def interval(self) -> tuple[Any, Any]:
        """Start and end of what is asked for; None where it is open."""
        if self.when is None:
            return None, None
        start, _, end = self.when.partition("/")
        first = None if start in ("", "..") else start
        last = None if end == ".." else (end or first)
        return _instant(first), _instant(last)

    def matches(self, item: pystac.Item) -> bool:
        """True when the geometry, the time and the id of an item are asked for."""
        return (
            (self.ids is None or item.id in self.ids)
            and self._meets_time(item)
            and self._meets_bbox(item)
        )

    def may_match(self, values: Mapping[str, Any]) -> bool:
        """False when the id or the bbox of an item, as JSON has it, shows that it does not."""
        if self.ids is not None and values.get("id") not in self.ids:
            return False
        bbox = values.get("bbox")
        if self.bbox is None or not isinstance(bbox, list) or len(bbox) not in (4, 6):
            return True
        half = len(bbox) // 2
        (west, south), (east, north) = bbox[:2], bbox[half : half + 2]
        return west > east or any(
            west <= b[2] and b[0] <= east and south <= b[3] and b[1] <= north for b in self.boxes
        )

    def _meets_bbox(self, item: pystac.Item) -> bool:
        import shapely
        from shapely.geometry import shape

        if self.bbox is None:
            return True
        if item.geometry is None:
            return False
        geometry = shape(item.geometry)
        return any(geometry.intersects(shapely.box(*box)) for box in self.boxes)

    def _meets_time(self, item: pystac.Item) -> bool:
        if self.when is None:
            return True
        first, last = _interval(item)
        start, end = self.interval
        return (end is None or first <= end) and (start is None or last >= start)


def require_bbox(bbox: BBox) -> BBox:
    """A bbox, when it is one.

    Raises
    ------
    CatalogError
        Naming it.
    """
    values = tuple(float(v) for v in bbox)
    is_box = len(values) == 4 and all(map(math.isfinite, values))
    if not (is_box and -90 <= values[1] <= values[3] <= 90 and max(map(abs, values)) <= 180):
        raise CatalogError(
            f"bbox = {bbox!r} is no box in EPSG:4326; it is west, south, east, north in degrees, "
            "south below north."
        )
    west, south, east, north = values
    return west, south, east, north


def spelt_out(datetime: str) -> str:
    """An instant or interval in full, by pystac-client's own rules.

    Raises
    ------
    CatalogError
        If it cannot be read.
    """
    from pystac_client import ItemSearch

    try:
        spelt = ItemSearch(url="http://localhost", datetime=datetime).get_parameters()["datetime"]
    except Exception as error:  # pystac-client raises bare Exception
        raise CatalogError(
            f"datetime = {datetime!r} cannot be read ({first_line(error)}); "
            "write 2024, 2024-06-30, 2023-06/2024-06 or 2020/.. ."
        ) from error
    return str(spelt)


def _interval(item: pystac.Item) -> tuple[Any, Any]:
    """Start and end of an item; as in pgstac, an interval counts before ``datetime``."""
    common = item.common_metadata
    if common.start_datetime is not None and common.end_datetime is not None:
        return common.start_datetime, common.end_datetime
    return item.datetime, item.datetime


def _instant(text: str | None) -> Any:
    from pystac.utils import str_to_datetime

    return None if text is None else str_to_datetime(text)
