"""Shares of cities by the places of tiles, or by the features of a run; labels by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import shapely

from lczcube.coverage.values import SPLITS, Coverage, LabelCoverage, LayerCoverage, YearCoverage
from lczcube.errors import LabelError
from lczcube.labels import read_labels
from lczcube.layers import Wanted, year_of
from lczcube.lcz import N_CLASSES
from lczcube.products import open_features
from lczcube.tiles import place_tiles, project_outline, tile_of
from lczcube.windows import layer_of_feature

if TYPE_CHECKING:
    import geopandas as gpd
    import pystac
    from odc.geo.geobox import GeoBox

    from lczcube.grid import Grid
    from lczcube.runfolder import Run

Mask = npt.NDArray[np.bool_]

_ByYear = Mapping[int | None, Sequence["pystac.Item"]]


def coverage_of(run: Run, *, exact: bool = False) -> Coverage:
    """Layers and labels of every city of a run; reads its catalog and label tables, and no pixel.

    Parameters
    ----------
    run : Run
        With a built catalog.
    exact : bool
        Also read which cells have valid pixels, from the features of cities that have some; those
        are of one year. Default: by the places of tiles alone, which may hold nodata.

    Returns
    -------
    Coverage
        A row for each city and each year that any layer has anywhere.

    Raises
    ------
    MissingInputError
        If the run has no catalog yet.

    Examples
    --------
    >>> print(coverage_of(open_run("RUN")).to_text())  # doctest: +SKIP
    """
    items = {city: _items_of(run, city) for city in run.cities}
    dated = {
        year for of_city in items.values() for by_year in of_city.values() for year in by_year
    } - {None}
    years: list[int | None] = [*sorted(year for year in dated if year is not None)] or [None]
    rows = [
        _year_coverage(run, city, year, items[city], exact=exact and _is_of_features(run, year))
        for city in run.cities
        for year in years
    ]
    labels, n_elsewhere = _labels_of(run)
    names = (*run.table.features, *run.table.labels)
    built = [run.catalog.layer(n) for n in names if n in run.catalog.collection_ids]
    made_up = any(layer.synthetic for layer in built)
    return Coverage(run.config.id, made_up, tuple(rows), labels, n_elsewhere)


def _items_of(run: Run, city: str) -> dict[str, _ByYear]:
    """Items of each feature input that meet a city, by year; None for a layer without dates."""
    grid = run.grids[city]
    bbox = Wanted(grid, 0, None).bbox
    found: dict[str, dict[int | None, list[pystac.Item]]] = {}
    for name in run.table.features:
        found[name] = {}
        if name not in run.catalog.collection_ids:
            continue
        is_static = run.catalog.layer(name).static
        for item in run.catalog.items(name, bbox=bbox):
            found[name].setdefault(None if is_static else year_of(item), []).append(item)
    return dict(found)


def _is_of_features(run: Run, year: int | None) -> bool:
    return run.table.year is None or run.table.year == year


def _year_coverage(
    run: Run, city: str, year: int | None, items: Mapping[str, _ByYear], *, exact: bool
) -> YearCoverage:
    grid = run.grids[city]
    here = {name: _items_in(by_year, year) for name, by_year in items.items()}
    outlines = {name: _outline(found, grid.cell_geobox) for name, found in here.items()}
    masks = {name: _cells_in(outline, grid) for name, outline in outlines.items()}
    valid = _valid_cells(run, city) if exact else {}
    if not {*here} <= {*valid}:
        valid = {}
    cells = valid or masks
    fewest = min(cells, key=lambda name: int(cells[name].sum()))
    others = [mask for name, mask in cells.items() if name != fewest] or [cells[fewest]]
    n_cells = int(np.prod(grid.cell_shape))
    layers = tuple(
        LayerCoverage(
            layer=name,
            n_tiles=len(here[name]),
            share=round(float(outlines[name].area) / n_cells, 6),
            cell_share=_share(masks[name]),
            valid_share=_share(valid[name]) if valid else None,
        )
        for name in here
    )
    return YearCoverage(
        city=city,
        year=year,
        n_cells=n_cells,
        layers=layers,
        common_share=_share(np.logical_and.reduce([*cells.values()])),
        share_without=_share(np.logical_and.reduce(others)),
        is_exact=bool(valid),
    )


def _items_in(by_year: _ByYear, year: int | None) -> list[pystac.Item]:
    """Items of a year, and those without dates."""
    return [*by_year.get(None, ()), *(() if year is None else by_year.get(year, ()))]


def _share(cells: Mask) -> float:
    return round(float(cells.mean()), 6)


def _outline(items: Sequence[pystac.Item], frame: GeoBox) -> shapely.Geometry:
    """What some items cover of a frame, in its pixel coordinates: extents, else footprints."""
    rows, columns = frame.shape
    placed = place_tiles([tile_of(item) for item in items if _has_pixels(item)], frame)
    outlines = [tile.outline for tile in placed]
    outlines += [
        project_outline(shapely.geometry.shape(item.geometry), frame)
        for item in items
        if not _has_pixels(item) and item.geometry is not None
    ]
    return shapely.intersection(shapely.union_all(outlines), shapely.box(0, 0, columns, rows))


def _has_pixels(item: pystac.Item) -> bool:
    """False for vectors, whose footprint is all that says where they are."""
    asset = item.assets.get("data")
    return asset is not None and "proj:transform" in {**item.properties, **asset.extra_fields}


def _cells_in(outline: shapely.Geometry, grid: Grid) -> Mask:
    rows, columns = grid.cell_shape
    x, y = np.meshgrid(np.arange(columns) + 0.5, np.arange(rows) + 0.5)
    shapely.prepare(outline)
    inside: Mask = shapely.intersects_xy(outline, x, y)
    return inside


def _valid_cells(run: Run, city: str) -> dict[str, Mask]:
    """Which output pixels have a valid pixel of each layer; empty where there are no features."""
    path = run.path(city, "features.zarr")
    if not path.exists():
        return {}
    features = open_features(path)
    names = [str(name) for name in features["feature"].values]
    firsts: dict[str, int] = {}
    for position, name in enumerate(names):
        layer = layer_of_feature(name, run.table.features)
        if layer is not None and name != f"{layer}_present":
            firsts.setdefault(layer, position)
    return {
        layer: np.isfinite(features["features"].isel(feature=position).values)
        for layer, position in firsts.items()
    }


def _labels_of(run: Run) -> tuple[tuple[LabelCoverage, ...], int]:
    """Labels by city, source and split, and how many lie in no city."""
    boxes = {name: table.bbox for name, table in run.config.cities.items()}
    names = [name for name in run.table.labels if name in run.catalog.collection_ids]
    try:
        labels = read_labels(run.catalog, names, cities=boxes)
    except LabelError:
        return (), 0
    inside = labels[labels["city"].isin(list(boxes))]
    rows = [
        LabelCoverage(city, source, split, _counts(part))
        for (city, source, split), part in inside.groupby(["city", "source", "split"])
    ]
    rows.sort(key=lambda row: (row.city, row.source, _split_order(row.split)))
    return tuple(rows), len(labels) - len(inside)


def _counts(labels: gpd.GeoDataFrame) -> tuple[int, ...]:
    return tuple(np.bincount(labels["lcz"].to_numpy(), minlength=N_CLASSES + 1)[1:].tolist())


def _split_order(split: str) -> tuple[int, str]:
    return (SPLITS.index(split) if split in SPLITS else len(SPLITS), split)
