"""Items as pystac's objects, made without the two deep copies that pystac makes by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lczcube.catalog.documents import STAC_VERSION
from lczcube.sources.items import WRITTEN_URIS

if TYPE_CHECKING:
    import pystac


def item_of(values: dict[str, Any], href: str) -> pystac.Item:
    """The item of a JSON object, hrefs absolute; ``values`` is used up.

    Parameters
    ----------
    values : dict
        An item of any version of STAC.
    href : str
        Where it was read, which relative hrefs start from.

    Raises
    ------
    pystac.STACError, pystac.STACTypeError, KeyError, ValueError
        If it is no STAC item.
    """
    import pystac

    current = values.get("stac_version") == STAC_VERSION
    current = current and WRITTEN_URIS.issuperset(values.get("stac_extensions") or ())
    item = pystac.Item.from_dict(values, href=href, migrate=not current, preserve_dict=False)
    item.make_asset_hrefs_absolute()
    return item
