"""Items of a mapped city: one a year, with what it was made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pystac
import rasterio
import shapely

from lczcube.catalog import Catalog
from lczcube.catalog.documents import GEOJSON_TYPE, JSON_TYPE, Document, link_to
from lczcube.errors import LczcubeError, SourceError, StoreError
from lczcube.outputs.assets import map_file_asset, picture_asset, zarr_asset
from lczcube.products import MAP_STORE, inputs_of, manifest, map_groups, open_product, store_digest
from lczcube.sources.footprints import BBox, Footprint, footprint
from lczcube.sources.items import (
    CLASSIFICATION_URI,
    DATACUBE_URI,
    FILE_URI,
    LCZCUBE_URI,
    PROCESSING_URI,
    PROJECTION_URI,
    RASTER_URI,
    UNDATED,
    ZARR_TYPE,
    ZARR_URI,
    crs_fields,
    grid_bbox,
    new_item,
    safe_id,
)

PICTURE, MODEL_ITEM = "lcz.png", "item.json"
EXPORTS = "exports"
"""Folder in a city's folder of what is exported."""

MAP_TAG = "LCZCUBE_MAP"
"""Tag of an exported GeoTIFF: :func:`lczcube.products.store_digest` of what it was made of."""

_EXTENSIONS = {
    "proj": PROJECTION_URI,
    "raster": RASTER_URI,
    "file": FILE_URI,
    "classification": CLASSIFICATION_URI,
    "cube": DATACUBE_URI,
    "zarr": ZARR_URI,
    "processing": PROCESSING_URI,
    "lczcube": LCZCUBE_URI,
}


@dataclass(frozen=True)
class MappedRun:
    """A run folder with maps in it.

    Attributes
    ----------
    folder : pathlib.Path
        The run folder.
    id, title : str
        Of its city file.
    inputs : Catalog
        Its catalog of inputs.
    """

    folder: Path
    id: str
    title: str
    inputs: Catalog


@dataclass(frozen=True)
class CityItems:
    """What a city gave.

    Attributes
    ----------
    items : tuple of dict
        One a year, hrefs relative to the catalog of products.
    manifest : mapping
        What the map was made of: the root attributes of its store.
    left_out : tuple of str
        Exported files that are no map of zones, or of another map, and why.
    """

    items: tuple[Document, ...]
    manifest: Mapping[str, Any]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class _Step:
    """A year of a map: where it is on the axis of time, None where there is no axis."""

    years: tuple[int, ...]
    time_index: int | None


def city_items(run: MappedRun, city: str) -> CityItems:
    """The items of a city's map; reads metadata, and the codes of exported GeoTIFFs.

    Raises
    ------
    StoreError
        If the map is not there.
    """
    store = run.folder / city / MAP_STORE
    told, groups = manifest(store), map_groups(store)
    outline, crs = _place(store, groups[0])
    steps = _steps(run, store, groups[0], outline.bbox)
    files, left_out = _files(run.folder / city, steps)
    items = []
    for step in steps:
        assets = {g: zarr_asset(store, g, time_index=step.time_index) for g in groups}
        sources = _sources(run, told, outline.bbox, step)
        links = [*_input_links(sources), *_model_links(run.folder, store, groups)]
        links.append(link_to("store", f"../{city}/{MAP_STORE}", ZARR_TYPE, "The whole store"))
        head = _head(run, city, step, outline, crs_fields(crs) | _processing(told))
        items.append(_document(head, assets | files, links) | {"collection": safe_id(run.id)})
    return CityItems(tuple(items), told, left_out)


def _place(store: Path, group: str) -> tuple[Footprint, str]:
    told = open_product(store, group).attrs
    crs = str(told.get("proj:code") or told["proj:wkt2"])
    bounds = grid_bbox(tuple(told["spatial:shape"]), told["spatial:transform"])
    return footprint(shapely.box(*bounds), crs, where=str(store)), crs


def _sources(
    run: MappedRun, told: Mapping[str, Any], bbox: BBox, step: _Step
) -> dict[str, list[pystac.Item]]:
    """Items of each input: of features those in the city, of labels all, as models learn from all.

    A layer of another year than the map's is not among them.
    """
    layers = inputs_of(told, "features")
    is_dated = len(step.years) == 1 and not _is_nearest(told)
    when = str(step.years[0]) if is_dated else None
    return {
        name: run.inputs.items(name, bbox=bbox, datetime=when)
        if name in layers
        else run.inputs.items(name)
        for name in told["inputs"]
    }


def _is_nearest(told: Mapping[str, Any]) -> bool:
    """True where layers of other years may stand in for the map's."""
    return bool(told["settings"]["run"].get("nearest_year"))


def _steps(run: MappedRun, store: Path, group: str, bbox: BBox) -> list[_Step]:
    """The years of a map: of its axis, of the run, or where neither says one of all its layers."""
    dataset, told = open_product(store, group), manifest(store)
    if "time" in dataset.dims:
        years = dataset["time"].dt.year.values.tolist()
        return [_Step((int(year),), index) for index, year in enumerate(years)]
    year = told["settings"]["run"]["year"]
    return [_Step((int(year),) if year else _years_of_layers(run, told, bbox), None)]


def _years_of_layers(run: MappedRun, told: Mapping[str, Any], bbox: BBox) -> tuple[int, ...]:
    layers = inputs_of(told, "features")
    return tuple(years_of([item for of in layers for item in run.inputs.items(of, bbox=bbox)]))


def years_of(items: Sequence[pystac.Item]) -> list[int]:
    """The years in which items begin, sorted; undated ones have none."""
    starts = {item.properties["start_datetime"] for item in items} - {UNDATED[0]}
    return sorted({int(start[:4]) for start in starts})


def _files(folder: Path, steps: Sequence[_Step]) -> tuple[dict[str, Document], tuple[str, ...]]:
    """Assets of the files beside a store: of one map alone, as they do not say their year."""
    if len(steps) > 1:
        return {}, ()
    picture = folder / PICTURE
    assets = {"picture": picture_asset(picture)} if picture.is_file() else {}
    year = max(steps[0].years, default=None)
    left_out, digest_of = [], cache(store_digest)  # reads the store: once, and only where asked
    for path in sorted((folder / EXPORTS).glob("*.tif")):
        try:
            _require_of_this_map(path, folder / MAP_STORE, digest_of)
            assets[safe_id(path.stem)] = map_file_asset(path, year=year)
        except LczcubeError as error:
            left_out.append(str(error))
    return assets, tuple(left_out)


def _require_of_this_map(path: Path, store: Path, digest_of: Callable[[Path], str]) -> None:
    """Raise a StoreError for an export of a map that was replaced since; others say no map."""
    try:
        with rasterio.open(path) as file:
            made_of = file.tags().get(MAP_TAG)
    except rasterio.errors.RasterioIOError as error:
        raise SourceError(f"{path} cannot be read as a raster: {error}.") from error
    if made_of is not None and made_of != digest_of(store):
        raise StoreError(
            f"{path} was exported from another map than {store}; export it again (--overwrite)."
        )


def _head(
    run: MappedRun, city: str, step: _Step, outline: Footprint, properties: Mapping[str, Any]
) -> pystac.Item:
    """The item without assets and links; its interval holds the years of all layers."""
    year = max(step.years, default=None)
    start = {"start_datetime": f"{min(step.years)}-01-01T00:00:00Z"} if step.years else {}
    title = f"Local Climate Zones, {city}" + (f" {year}" if year else "")
    return new_item(
        safe_id("_".join([run.id, city, *([str(year)] if year else [])])),
        outline,
        year=year,
        properties={"title": title, **start, **properties},
        extensions=(),
    )


def _processing(told: Mapping[str, Any]) -> dict[str, Any]:
    inputs: Mapping[str, Any] = told["inputs"]
    made_from = ", ".join(f"{name} ({facts['role']})" for name, facts in inputs.items())
    models = ", ".join(told["settings"]["run"]["models"])
    of_models = [name for name, facts in inputs.items() if facts["ai_derived"]]
    derived = f" Themselves products of a model: {', '.join(of_models)}." if of_models else ""
    made_up = " Synthetic: made from made-up data." if told["synthetic"] else ""
    return {
        "processing:software": {"lczcube": told["lczcube_version"]},
        "processing:lineage": f"Mapped by {models} from {made_from}.{derived}{made_up}",
    }


def _input_links(sources: Mapping[str, Sequence[pystac.Item]]) -> list[Document]:
    return [
        link_to("derived_from", f"../catalog/{name}/items/{item.id}.json", GEOJSON_TYPE, item.id)
        for name, items in sources.items()
        for item in items
    ]


def _model_links(folder: Path, store: Path, groups: Sequence[str]) -> list[Document]:
    """Links to the models of the groups: their items, or where they have none their meta."""
    models = sorted({str(open_product(store, group).attrs.get("model", "")) for group in groups})
    links = []
    for name in models:
        for file, type_ in ((MODEL_ITEM, GEOJSON_TYPE), ("model.json", JSON_TYPE)):
            if (folder / "models" / name / file).is_file():
                href = f"../models/{name}/{file}"
                links.append(link_to("derived_from", href, type_, f"model {name}"))
                break
    return links


def _document(
    head: pystac.Item, assets: Mapping[str, Document], links: Sequence[Document]
) -> Document:
    values: Document = head.to_dict(include_self_link=False, transform_hrefs=False)
    used = {key.split(":")[0] for key in _fields(values["properties"])}
    used |= {key.split(":")[0] for asset in assets.values() for key in _fields(asset)}
    declared = sorted(uri for prefix, uri in _EXTENSIONS.items() if prefix in used)
    return values | {"stac_extensions": declared, "assets": dict(assets), "links": list(links)}


def _fields(values: Mapping[str, Any]) -> set[str]:
    return set(values).union(*values.get("bands", ()))
