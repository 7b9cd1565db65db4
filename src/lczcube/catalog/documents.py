"""STAC objects as they are written: catalog, collections and items as JSON, the same every time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lczcube.catalog.hrefs import from_items
from lczcube.sources import Input
from lczcube.sources.inputs import Publication
from lczcube.sources.items import (
    LCZCUBE_URI,
    PARQUET_TYPE,
    PROJECTION_URI,
    RASTER_URI,
    SCIENTIFIC_URI,
    TABLE_URI,
)

STAC_VERSION = "1.1.0"
CATALOG_FILE = "catalog.json"

ITEMS_ASSET = "items"
"""Key of the asset of a collection that holds its items as stac-geoparquet."""

Document = dict[str, Any]

_FIELDS = (
    "layer",
    "product",
    "decoder",
    "valid",
    "ai_derived",
    "resampling",
    "license_note",
    "synthetic",
    "static",
    "presence_threshold",
    "overviews",
)
_OF_ONE_FILE = ("href", "file:size", "file:checksum", "table:row_count")
JSON_TYPE = "application/json"
GEOJSON_TYPE = "application/geo+json"
_NO_SPDX = ("other", "proprietary", "various")


def catalog_document(catalog_id: str, title: str, children: Mapping[str, str]) -> Document:
    """The catalog of collections, titles by name."""
    links = [link_to("root", f"./{CATALOG_FILE}", title=title)]
    links += [link_to("child", f"./{n}/collection.json", title=children[n]) for n in children]
    return {
        "type": "Catalog",
        "id": catalog_id,
        "stac_version": STAC_VERSION,
        "description": f"Inputs of {title}.",
        "title": title,
        "links": links,
    }


def collection_document(
    entry: Input, items: Sequence[Document], coding: Mapping[str, str]
) -> Document:
    """The collection of an input, without links to its items and to the catalog.

    Parameters
    ----------
    entry : Input
        The input.
    items : sequence of dict
        Its items, at least one, sorted by id.
    coding : mapping of str to str
        ``product``, ``decoder`` and ``valid`` where the files decide them.
    """
    made_up = " Synthetic: made-up data." if entry.synthetic else ""
    shared = item_assets_of(items)
    summaries = summaries_of(items)
    publication = None if entry.synthetic else entry.published_as(coding.get("product", ""))
    license_id = entry.license or (publication.license if publication else "other")
    values: Document = {
        "type": "Collection",
        "id": entry.name,
        "stac_version": STAC_VERSION,
        "stac_extensions": _extensions(publication, shared, summaries),
        "title": title_of(entry),
        "description": f"{title_of(entry)}, input of kind {entry.source}.{made_up}",
        "keywords": ["synthetic"] if entry.synthetic else None,
        "license": license_id,
        "providers": _providers(publication),
        "extent": extent_of(items),
        "summaries": summaries,
        **_citation_fields(publication),
        **_our_fields(entry, coding, publication),
        "item_assets": shared,
        "links": _links_of(publication, license_id),
        "assets": {
            ITEMS_ASSET: {
                "href": f"./{entry.name}.parquet",
                "type": PARQUET_TYPE,
                "title": "All items as stac-geoparquet",
                "roles": ["stac-items", "collection-mirror"],
            }
        },
    }
    return {
        key: value for key, value in values.items() if value not in (None, [], {}) or key == "links"
    }


def linked_collection(collection: Document, items: Sequence[Document], root: str) -> Document:
    """A collection as its JSON file has it: with links, one folder below the catalog."""
    links = [
        link_to("root", f"../{CATALOG_FILE}", title=root),
        link_to("parent", f"../{CATALOG_FILE}", title=root),
        *collection["links"],
    ]
    links += [link_to("item", f"./items/{i['id']}.json", GEOJSON_TYPE, i["id"]) for i in items]
    assets = {
        key: {**asset, "href": f"../{asset['href'].removeprefix('./')}"}
        for key, asset in collection["assets"].items()
    }
    return collection | {"links": links, "assets": assets}


def linked_item(item: Document) -> Document:
    """An item as its JSON file has it: with links, two folders below the catalog."""
    name = item["collection"]
    assets = {
        key: {**asset, "href": from_items(asset["href"], name)}
        for key, asset in item["assets"].items()
    }
    links = [
        link_to("root", f"../../{CATALOG_FILE}"),
        link_to("parent", "../collection.json"),
        link_to("collection", "../collection.json"),
        *(link | {"href": from_items(link["href"], name)} for link in item["links"]),
    ]
    return item | {"links": links, "assets": assets}


def title_of(entry: Input) -> str:
    """Title of an input, its name where it has none."""
    return entry.title or entry.name


def as_text(document: Document) -> str:
    """JSON with a line for each field, and for each asset, property and link."""
    lines = [f"{json.dumps(key)}: {_nested(value)}" for key, value in document.items()]
    return "{\n  " + ",\n  ".join(lines) + "\n}\n"


def _nested(value: Any) -> str:
    if isinstance(value, dict) and value:
        lines = [f"{json.dumps(key)}: {_compact(v)}" for key, v in value.items()]
        return "{\n    " + ",\n    ".join(lines) + "\n  }"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n    " + ",\n    ".join(map(_compact, value)) + "\n  ]"
    return _compact(value)


def _compact(value: Any) -> str:
    return json.dumps(value, allow_nan=False)


def link_to(rel: str, href: str, type_: str = JSON_TYPE, title: str | None = None) -> Document:
    """A link of an object, with a title where one is given."""
    return {"rel": rel, "href": href, "type": type_} | ({} if title is None else {"title": title})


def extent_of(items: Sequence[Document]) -> Document:
    """The extent of a collection: one box and one interval that hold all its items."""
    boxes = [item["bbox"] for item in items]
    corners = [min(b[0] for b in boxes), min(b[1] for b in boxes)]
    corners += [max(b[2] for b in boxes), max(b[3] for b in boxes)]
    of = [item["properties"] for item in items]
    # Written by pystac in one form, which sorts as the times do.
    start = min(p.get("start_datetime") or p["datetime"] for p in of)
    end = max(p.get("end_datetime") or p["datetime"] for p in of)
    return {"spatial": {"bbox": [corners]}, "temporal": {"interval": [[start, end]]}}


def summaries_of(items: Sequence[Document]) -> Document:
    """CRS and bands of all items."""
    found: Document = {}
    for key in ("proj:code", "proj:wkt2"):
        values = {item["properties"].get(key) for item in items} - {None}
        if values:
            found[key] = sorted(values)
    bands: dict[str, Any] = {}
    last: list[Any] = []
    for item in items:
        for asset in item["assets"].values():
            listed = asset.get("bands") or last
            if listed != last:  # of most tiles they are those of the tile before
                bands |= {_compact(band): band for band in listed}
                last = listed
    return found | ({"bands": list(bands.values())} if bands else {})


def item_assets_of(items: Sequence[Document]) -> Document:
    """What the assets of one key have in common, over all items that have it."""
    by_key: dict[str, list[Document]] = {}
    for item in items:
        for key, asset in item["assets"].items():
            by_key.setdefault(key, []).append(asset)
    common = {key: _common(assets) for key, assets in by_key.items()}
    return {key: asset for key, asset in common.items() if len(asset) > 1}


def _common(assets: Sequence[Document]) -> Document:
    first, *rest = assets
    return {
        key: value
        for key, value in first.items()
        if key not in _OF_ONE_FILE and all(asset.get(key) == value for asset in rest)
    }


def _extensions(
    publication: Publication | None, shared: Document, summaries: Document
) -> list[str]:
    used = {key.split(":")[0] for asset in shared.values() for key in _keys(asset)}
    used |= {key.split(":")[0] for key in summaries}
    known = {"proj": PROJECTION_URI, "raster": RASTER_URI, "table": TABLE_URI}
    uris = [uri for prefix, uri in known.items() if prefix in used]
    cited = [SCIENTIFIC_URI] if publication else []
    return sorted([LCZCUBE_URI, *uris, *cited])


def _keys(asset: Document) -> Iterable[str]:
    yield from asset
    for band in asset.get("bands", ()):
        yield from band


def _our_fields(
    entry: Input, coding: Mapping[str, str], publication: Publication | None
) -> Document:
    values: Document = {
        "ai_derived": entry.ai_derived,
        "synthetic": entry.synthetic,
        "license_note": entry.license_note or (publication.license_note if publication else None),
        **entry.layer_fields,
        **coding,
    }
    return {f"lczcube:{k}": values[k] for k in _FIELDS if values.get(k) is not None}


def _citation_fields(publication: Publication | None) -> Document:
    if publication is None:
        return {}
    citation = publication.citation
    listed = [{"doi": publication.doi, "citation": citation}]
    return {"sci:citation": citation, "sci:publications": listed}


def _providers(publication: Publication | None) -> list[Document]:
    if publication is None or not publication.producer:
        return []
    url = {"url": publication.url} if publication.url else {}
    return [{"name": publication.producer, "roles": ["producer"]} | url]


def _links_of(publication: Publication | None, license_id: str) -> list[Document]:
    links = []
    if license_id not in _NO_SPDX and not license_id.startswith("LicenseRef"):
        href = f"https://spdx.org/licenses/{license_id}.html"
        links.append(link_to("license", href, "text/html", license_id))
    if publication is not None:
        doi = publication.doi
        links.append(link_to("cite-as", f"https://doi.org/{doi}", "text/html", f"doi:{doi}"))
    return links
