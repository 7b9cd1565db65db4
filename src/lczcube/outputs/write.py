"""The catalog of a run's products, written whole, beside the catalog of its inputs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lczcube.catalog import open_catalog
from lczcube.catalog.documents import (
    CATALOG_FILE,
    ITEMS_ASSET,
    STAC_VERSION,
    Document,
    as_text,
    catalog_document,
    extent_of,
    item_assets_of,
    linked_collection,
    linked_item,
    summaries_of,
)
from lczcube.catalog.folder import (
    Outputs,
    collections_in,
    publish,
    require_no_way_out,
    require_ours,
    staging_folder,
)
from lczcube.catalog.geoparquet import write_geoparquet
from lczcube.errors import StoreError
from lczcube.outputs.items import CityItems, MappedRun, city_items
from lczcube.products import MAP_STORE
from lczcube.sources.items import PARQUET_TYPE, safe_id

PRODUCTS = "products"
"""Folder of the catalog of products in a run folder."""


@dataclass(frozen=True)
class OutputsReport:
    """What :func:`write_outputs` wrote.

    Attributes
    ----------
    path : pathlib.Path
        The catalog's folder.
    n_items : int
        Items of its one collection.
    left_out : tuple of str
        Exported files that are no map of zones, or of another map, and why.
    """

    path: Path
    n_items: int
    left_out: tuple[str, ...]


def write_outputs(folder: str | Path) -> OutputsReport:
    """Register the maps of a run folder as a static STAC catalog, ``products/`` in it.

    Reads metadata of stores; of GeoTIFFs in ``CITY/exports/`` the codes, to count them, and where
    such a file says of which map it is the store, to compare.

    Parameters
    ----------
    folder : str or pathlib.Path
        A run folder with a catalog of inputs and at least one ``CITY/lcz.zarr``.

    Returns
    -------
    OutputsReport
        Where it is, and which exported files are not in it.

    Raises
    ------
    StoreError
        If no city has a map.
    CatalogError, MissingInputError
        If the catalog of inputs is not there, or ``products`` holds something else.

    Notes
    -----
    One collection named after the run; an item a city and year with an asset for each group of the
    store, for each GeoTIFF of zones and for the picture, and links ``derived_from`` to every input
    item and model. All hrefs are relative: run and catalog move together. The same run gives the
    same bytes; files that stay the same are not touched, and ``catalog.json`` is moved in last.
    """
    run = _mapped_run(Path(os.path.abspath(folder)))
    made = [city_items(run, city) for city in _mapped_cities(run.folder)]
    items = [item for each in made for item in each.items]
    target = run.folder / PRODUCTS
    require_ours(target, _catalog_id(run), overwrite=False)
    require_no_way_out(target, {safe_id(run.id)})
    with staging_folder(target) as staging:
        outputs = Outputs(staging / "catalog", target)
        _write(run, _collection(run, items, made), items, outputs)
        publish(outputs, {*collections_in(target), safe_id(run.id)})
    return OutputsReport(target, len(items), tuple(why for each in made for why in each.left_out))


def _mapped_run(folder: Path) -> MappedRun:
    inputs = folder / "catalog" / CATALOG_FILE
    catalog = open_catalog(inputs)
    return MappedRun(folder, *_id_and_title(inputs), catalog)


def _id_and_title(path: Path) -> tuple[str, str]:
    import pystac

    root = pystac.Catalog.from_file(str(path))
    return root.id, root.title or root.id


def _mapped_cities(folder: Path) -> list[str]:
    cities = sorted(path.parent.name for path in folder.glob(f"*/{MAP_STORE}"))
    if not cities:
        raise StoreError(
            f"{folder} has no map (CITY/{MAP_STORE}); run `lczcube predict {folder}` first."
        )
    return cities


def _catalog_id(run: MappedRun) -> str:
    return f"{run.id}-{PRODUCTS}"


def _collection(run: MappedRun, items: Sequence[Document], made: Sequence[CityItems]) -> Document:
    """The collection, without links to its items and to the catalog."""
    name, manifests = safe_id(run.id), [each.manifest for each in made]
    is_synthetic = any(manifest["synthetic"] for manifest in manifests)
    note = _license_note(manifests)
    return {
        "type": "Collection",
        "id": name,
        "stac_version": STAC_VERSION,
        "stac_extensions": sorted({uri for item in items for uri in item["stac_extensions"]}),
        "title": f"Local Climate Zones: {run.title}",
        "description": f"Maps of Local Climate Zones made by lczcube: {run.title}."
        + (" Synthetic: made from made-up data." if is_synthetic else ""),
        "keywords": ["local climate zones", *(["synthetic"] if is_synthetic else [])],
        "license": "other",
        "extent": extent_of(items),
        "summaries": summaries_of(items) | _software(manifests),
        "lczcube:layer": "lcz_map",
        "lczcube:decoder": "linear",
        "lczcube:valid": "nodata",
        "lczcube:resampling": "nearest",
        "lczcube:static": False,
        "lczcube:ai_derived": True,
        "lczcube:synthetic": is_synthetic,
        **({"lczcube:license_note": note} if note else {}),
        "item_assets": item_assets_of(items),
        "links": [],
        "assets": {
            ITEMS_ASSET: {
                "href": f"./{name}.parquet",
                "type": PARQUET_TYPE,
                "title": "All items as stac-geoparquet",
                "roles": ["stac-items", "collection-mirror"],
            }
        },
    }


def _software(manifests: Sequence[Mapping[str, Any]]) -> Document:
    versions = sorted({manifest["lczcube_version"] for manifest in manifests})
    return {"processing:software": [{"lczcube": version} for version in versions]}


def _license_note(manifests: Sequence[Mapping[str, Any]]) -> str:
    """Licence of every input, and what it asks of a map."""
    inputs = {name: facts for told in manifests for name, facts in told["inputs"].items()}
    return " ".join(
        f"{name}: {facts['license']}."
        + (f" {facts['license_note']}" if facts["license_note"] else "")
        for name, facts in sorted(inputs.items())
    )


def _write(
    run: MappedRun, collection: Document, items: Sequence[Document], outputs: Outputs
) -> None:
    name = collection["id"]
    title = f"Products of {run.title}"
    root = catalog_document(_catalog_id(run), title, {name: collection["title"]})
    outputs.write_text(CATALOG_FILE, as_text(root | {"description": f"{title}."}))
    outputs.write_text(
        f"{name}/collection.json", as_text(linked_collection(collection, items, title))
    )
    for item in items:
        outputs.write_text(f"{name}/items/{item['id']}.json", as_text(linked_item(item)))
    write_geoparquet(collection, list(items), outputs.new(f"{name}.parquet"))
