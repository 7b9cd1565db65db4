"""Samples: labelled feature vectors, one per patch or per labelled output pixel.

A square label (a patch) is one sample, at its own position. A polygon gives one sample per output
pixel whose centre lies in it; all share the polygon's group, which no split cuts.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import shapely
import xarray as xr

from lczcube.cube import GRID_ATTR, grid_of, halo_of, image
from lczcube.errors import ConfigError, LabelError, MissingInputError
from lczcube.grid import Grid
from lczcube.labels.burn import label_cells
from lczcube.labels.origins import LABEL, ORIGIN, is_by_rule
from lczcube.windows import STATS, Pair, aggregate_patches

MIN_VALID_FRACTION = 0.5
"""A patch with less than this share of valid pixels is no sample."""

_GROUP_ROWS = 16384
"""Rows of a row group: 24 MiB of 384 features, which is what a reader of a large table holds."""

COLUMNS = (
    "patch_id",
    "city",
    "group",
    "lcz",
    "split",
    "weight",
    "x",
    "y",
    "size_m",
    "valid_fraction",
)


def build_samples(
    labels: gpd.GeoDataFrame,
    cube: xr.Dataset,
    cells: xr.Dataset,
    *,
    stats: Sequence[str] = STATS,
    differences: Sequence[Pair] = (),
) -> xr.Dataset:
    """Features of every label that meets a cube; reads the pixels under the labels.

    Parameters
    ----------
    labels : geopandas.GeoDataFrame
        Label table in the grid's CRS: patches, polygons, or both. A column ``origin`` goes on to
        the samples.
    cube : xarray.Dataset
        From :func:`lczcube.open_cube`.
    cells : xarray.Dataset
        Its features, from :func:`lczcube.aggregate`.
    stats, differences
        Those of ``cells``. Default: as :func:`lczcube.aggregate` has them by default.

    Returns
    -------
    xarray.Dataset
        In memory, dims ``(sample, feature)``, sorted by ``patch_id``: ``features`` float32;
        ``patch_id``, ``city``, ``group``, ``split`` str; ``lcz`` uint8; ``weight``,
        ``valid_fraction`` float32; ``x``, ``y`` float64, centre in the grid's CRS; ``size_m``
        float64, side of the square that the label is of. ``attrs["n_dropped"]`` counts samples
        without enough valid pixels; ``attrs["unit"]`` is ``patch``, ``pixel`` or ``cell``, or
        ``rule`` where all have their class from a rule: then there may be no sample at all.

    Raises
    ------
    ConfigError
        If ``cells`` have other statistics.
    LabelError
        If no label has valid pixels.
    """
    is_patch = np.isfinite(labels["size_m"].to_numpy(float))
    inside = _meets(labels, grid_of(cube))
    patches, polygons = labels[is_patch & inside], labels[~is_patch & inside]
    # Cells that a rule labelled may be of another size than somebody's patches.
    parts = [
        _patch_samples(of_size, cube, cells, stats, differences)
        for _, of_size in patches.groupby("size_m")
    ]
    if len(polygons):
        parts.append(_cell_samples(polygons, cells))
    if not parts:
        bbox = ", ".join(f"{v:.0f}" for v in grid_of(cube).bbox)
        raise LabelError(
            f"none of the {len(labels)} labels meets the grid ({grid_of(cube).crs}, bbox {bbox}); "
            "check the city's bbox and the labels' CRS."
        )
    table, features = (_joined(column) for column in zip(*parts, strict=True))
    unit = _unit(grid_of(cube), any_polygons=bool(len(polygons)))
    if _all_by_rule(table):
        unit = "rule"
    return _dataset(table, features, cells).assign_attrs(unit=unit)


def read_pixels(samples: xr.Dataset, cube: xr.Dataset) -> xr.Dataset:
    """The samples with the bare values of their centre pixel as features; reads those pixels.

    Returns
    -------
    xarray.Dataset
        As ``samples``, ``feature`` being ``<input>_<band>``.
    """
    grid, halo = grid_of(cube), halo_of(cube)
    minx, _, _, maxy = grid.bbox
    pixels = image(cube)
    # A patch that is half outside has its centre on the border, or a pixel past it.
    last_row, last_column = pixels.sizes["y"] - 1, pixels.sizes["x"] - 1
    columns = np.floor((samples["x"].values - minx) / grid.pixel_m).astype(int) + halo
    rows = np.floor((maxy - samples["y"].values) / grid.pixel_m).astype(int) + halo
    rows, columns = np.clip(rows, 0, last_row), np.clip(columns, 0, last_column)
    values = (
        pixels.data.vindex[:, rows, columns]
        if hasattr(pixels.data, "dask")
        else (pixels.values[:, rows, columns].T)
    )
    bare = samples.drop_vars("feature").drop_dims("feature")
    features = np.asarray(values).reshape(len(rows), pixels.sizes["band"]).astype(np.float32)
    return bare.assign(features=(("sample", "feature"), features)).assign_coords(
        feature=pixels["band"].values.tolist()
    )


def write_samples(samples: xr.Dataset, path: str | Path) -> None:
    """Write samples as one Parquet table: a column a feature, attributes in its metadata."""
    columns = {name: samples[name].values for name in _columns_of(samples)}
    features = pd.DataFrame(samples["features"].values, columns=samples["feature"].values.tolist())
    table = pd.concat([pd.DataFrame(columns), features], axis=1)
    table.attrs = dict(samples.attrs)
    partial = Path(path).with_name(Path(path).name + ".partial")
    table.to_parquet(partial, index=False, row_group_size=_GROUP_ROWS)
    partial.replace(path)


def read_samples(path: str | Path) -> xr.Dataset:
    """Samples of :func:`write_samples`, in memory."""
    table = pd.read_parquet(path)
    features = table.drop(columns=_columns_of(table))
    return _samples_of(table, features.to_numpy(np.float32), features.columns.tolist(), table.attrs)


def open_samples(path: str | Path) -> xr.Dataset:
    """Samples of :func:`write_samples` with lazy ``features``, a row group of the file a chunk.

    Raises
    ------
    MissingInputError, LabelError
        As for :func:`iter_samples`.
    """
    import dask.array as da

    with _open_samples(path) as (file, attrs):
        columns = _columns_of(file.schema_arrow.names)
        table = file.read(columns=columns).to_pandas()
        names = [name for name in file.schema_arrow.names if name not in columns]
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    features = da.map_blocks(
        _row_group,
        str(path),
        chunks=(tuple(sizes), (len(names),)),
        dtype=np.float32,
        meta=np.empty((0, 0), np.float32),
    )
    return _samples_of(table, features, names, attrs)


def _row_group(path: str, block_id: tuple[int, int]) -> npt.NDArray[np.float32]:
    with _open_samples(path) as (file, attrs):
        group = _samples_of_arrow(file.read_row_group(block_id[0]), attrs)
    features: npt.NDArray[np.float32] = group["features"].values
    return features


def read_sample_header(path: str | Path) -> xr.Dataset:
    """Samples of :func:`write_samples` without a row: names of the features, and attributes.

    Raises
    ------
    MissingInputError, LabelError
        As for :func:`iter_samples`.
    """
    with _open_samples(path) as (file, attrs):
        return _samples_of_arrow(file.schema_arrow.empty_table(), attrs)


def iter_samples(path: str | Path, *, n_rows: int) -> Iterator[xr.Dataset]:
    """Samples of :func:`write_samples` in parts of at most ``n_rows``, in the order of the file.

    Raises
    ------
    MissingInputError
        If there is no such file.
    LabelError
        If it is no table of samples.
    """
    with _open_samples(path) as (file, attrs):
        # One reader a row group: one of all keeps the bytes of each until the last (pyarrow 26).
        for group in range(file.num_row_groups):
            for batch in file.iter_batches(batch_size=n_rows, row_groups=[group]):
                yield _samples_of_arrow(batch, attrs)


@contextmanager
def _open_samples(path: str | Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The Parquet file, and the attributes that pandas keeps in its metadata."""
    import pyarrow
    import pyarrow.parquet

    if not Path(path).is_file():
        raise MissingInputError(f"there is no {path}; name a file that write_samples wrote.")
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield file, json.loads((file.schema_arrow.metadata or {})[b"PANDAS_ATTRS"])
    except (KeyError, pyarrow.ArrowException) as error:
        raise LabelError(
            f"{path} is no table of samples of write_samples: {error!r}. Make samples again."
        ) from error


def _samples_of_arrow(table: Any, attrs: dict[str, Any]) -> xr.Dataset:
    columns = _columns_of(table.schema.names)
    names = [name for name in table.schema.names if name not in columns]
    # Column by column: the whole as a data frame would be there three times.
    features = np.empty((table.num_rows, len(names)), np.float32)
    for number, name in enumerate(names):
        features[:, number] = table.column(name).to_numpy(zero_copy_only=False)
    return _samples_of(table.select(columns).to_pandas(), features, names, attrs)


def _samples_of(
    table: pd.DataFrame,
    features: Any,
    names: list[str],
    attrs: Mapping[Any, Any],
) -> xr.Dataset:
    data: dict[str, Any] = {
        name: (("sample",), table[name].to_numpy()) for name in _columns_of(table)
    }
    data["features"] = (("sample", "feature"), features)
    return xr.Dataset(data, coords={"feature": names}, attrs=attrs)


def join_samples(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """Samples of several cities as one, in the order given.

    Raises
    ------
    LabelError
        If their features or products differ.
    """
    first = parts[0]
    for part in parts[1:]:
        same = part.attrs["products"] == first.attrs["products"]
        if not same or part["feature"].values.tolist() != first["feature"].values.tolist():
            raise LabelError(
                "samples of the cities differ in features or products; aggregate every city from "
                "the same inputs with the same stats."
            )
    told = [_with_origin(part) for part in parts] if any(ORIGIN in p for p in parts) else parts
    joined = xr.concat(told, dim="sample", join="exact", combine_attrs="drop")
    units = sorted({part.attrs["unit"] for part in parts})
    return joined.assign_attrs(
        products=first.attrs["products"],
        synthetic=int(any(part.attrs["synthetic"] for part in parts)),
        unit=units[0],
        absent_features=json.dumps(sorted({n for part in parts for n in absent_features(part)})),
    )


def absent_features(dataset: xr.Dataset) -> list[str]:
    """Features, of cells or samples, of layers that a city lacks: NaN there."""
    return list(json.loads(dataset.attrs.get("absent_features", "[]")))


def without_absent(dataset: xr.Dataset, others: Sequence[xr.Dataset]) -> xr.Dataset:
    """Cells or samples with the features that they and all others have, for distances."""
    absent = {name for part in (dataset, *others) for name in absent_features(part)}
    if not absent:
        return dataset
    kept = [name for name in dataset["feature"].values.tolist() if name not in absent]
    return dataset.sel(feature=kept)


def without_rules(samples: xr.Dataset) -> xr.Dataset:
    """The samples whose class somebody gave."""
    return samples.isel(sample=np.flatnonzero(~is_by_rule(samples)))


def n_labelled(samples: xr.Dataset) -> int:
    """Number of samples whose class somebody gave."""
    return int((~is_by_rule(samples)).sum())


def sample_frame(samples: xr.Dataset) -> pd.DataFrame:
    """The samples without their features, one row each: what a split needs."""
    return pd.DataFrame({name: samples[name].values for name in _columns_of(samples)})


def sample_squares(samples: xr.Dataset, grid: Grid, *, side_m: float | None = None) -> Any:
    """Squares of the samples of one city: what each was labelled on, or sees.

    Parameters
    ----------
    samples : xarray.Dataset
        Of the city whose grid is given.
    grid : Grid
        Gives the CRS.
    side_m : float, optional
        Side of the squares, m. Default: ``size_m`` of each sample.

    Returns
    -------
    geopandas.GeoDataFrame
        With ``lcz`` and ``group``.
    """
    half = (samples["size_m"].values if side_m is None else side_m) / 2
    x, y = samples["x"].values, samples["y"].values
    return gpd.GeoDataFrame(
        {"lcz": samples["lcz"].values, "group": samples["group"].values},
        geometry=shapely.box(x - half, y - half, x + half, y + half),
        crs=grid.crs,
    )


def _columns_of(samples: xr.Dataset | pd.DataFrame | Sequence[str]) -> list[str]:
    return [*COLUMNS, *([ORIGIN] if ORIGIN in samples else [])]


def _all_by_rule(table: pd.DataFrame) -> bool:
    return len(table) > 0 and bool(is_by_rule(table).all())


def _with_origin(samples: xr.Dataset) -> xr.Dataset:
    if ORIGIN in samples:
        return samples
    return samples.assign({ORIGIN: ("sample", np.full(samples.sizes["sample"], LABEL, object))})


def _meets(labels: gpd.GeoDataFrame, grid: Grid) -> npt.NDArray[np.bool_]:
    meets: npt.NDArray[np.bool_] = labels.intersects(shapely.box(*grid.bbox)).to_numpy(bool)
    return meets


def _unit(grid: Grid, *, any_polygons: bool) -> str:
    if not any_polygons:
        return "patch"
    return "pixel" if grid.stride_m == grid.pixel_m else "cell"


def _patch_samples(
    patches: gpd.GeoDataFrame,
    cube: xr.Dataset,
    cells: xr.Dataset,
    stats: Sequence[str],
    differences: Sequence[Pair],
) -> tuple[pd.DataFrame, npt.NDArray[np.float32]]:
    lazy = aggregate_patches(cube, patches, stats=stats, differences=differences)
    if lazy["feature"].values.tolist() != cells["feature"].values.tolist():
        raise ConfigError(
            f"stats {', '.join(stats)} give {lazy.sizes['feature']} features of a patch, and the "
            f"cells have {cells.sizes['feature']} others; give build_samples the stats and the "
            "cube that aggregate had."
        )
    reduced = lazy.drop_vars("patch_id").compute().assign_coords(patch_id=lazy["patch_id"])
    centre = patches.geometry.centroid
    table = _label_columns(patches).assign(
        x=centre.x.to_numpy(),
        y=centre.y.to_numpy(),
        size_m=patches["size_m"].to_numpy(float),
        valid_fraction=reduced["valid_fraction"].values,
        usable=reduced["valid_fraction"].values >= MIN_VALID_FRACTION,
    )
    return table, reduced["features"].values


def _cell_samples(
    polygons: gpd.GeoDataFrame, cells: xr.Dataset
) -> tuple[pd.DataFrame, npt.NDArray[np.float32]]:
    grid = grid_of(cells)
    found = label_cells(polygons, grid)
    lazy = cells[["features", "valid_fraction", "covered"]].drop_vars("feature")
    at = {
        "cell_y": xr.DataArray(found["row"].to_numpy(), dims="sample"),
        "cell_x": xr.DataArray(found["column"].to_numpy(), dims="sample"),
    }
    reduced = lazy.isel(at).compute()
    owners = _label_columns(polygons.iloc[found["label"].to_numpy()])
    cell_ids = [f"{r}-{c}" for r, c in zip(found["row"], found["column"], strict=True)]
    table = owners.assign(
        patch_id=[f"{p}@{c}" for p, c in zip(owners["patch_id"], cell_ids, strict=True)],
        x=reduced["cell_x"].values,
        y=reduced["cell_y"].values,
        size_m=float(grid.stride_m),
        valid_fraction=reduced["valid_fraction"].values,
        usable=reduced["covered"].values,
    )
    return table, reduced["features"].values


def _label_columns(labels: gpd.GeoDataFrame) -> pd.DataFrame:
    names = ["patch_id", "city", "group", "lcz", "split", "weight"]
    names += [ORIGIN] if ORIGIN in labels else []
    return pd.DataFrame(labels[names]).reset_index(drop=True)


def _joined(parts: Sequence[Any]) -> Any:
    if isinstance(parts[0], pd.DataFrame):
        return pd.concat(parts, ignore_index=True)
    return np.concatenate(parts)


def _dataset(
    table: pd.DataFrame, features: npt.NDArray[np.float32], cells: xr.Dataset
) -> xr.Dataset:
    here = ~np.isin(cells["feature"].values, absent_features(cells))
    usable = table["usable"].to_numpy(bool) & np.isfinite(features[:, here]).all(axis=1)
    if not usable.any() and not _all_by_rule(table):
        raise LabelError(
            f"none of the {len(table)} labelled samples has valid pixels; do labels and inputs "
            "overlap?"
        )
    ids = table["patch_id"].to_numpy(str)[usable]
    order = np.flatnonzero(usable)[np.argsort(ids, kind="stable")]
    table = table.iloc[order]
    names = _columns_of(table)
    data: dict[str, Any] = {name: (("sample",), table[name].to_numpy()) for name in names}
    data["valid_fraction"] = (("sample",), table["valid_fraction"].to_numpy(np.float32))
    data["features"] = (("sample", "feature"), features[order])
    return xr.Dataset(
        data,
        coords={"feature": cells["feature"].values.tolist()},
        attrs={
            **{key: cells.attrs[key] for key in (GRID_ATTR, "products", "synthetic")},
            "absent_features": json.dumps(absent_features(cells)),
            "n_dropped": int((~usable).sum()),
        },
    )
