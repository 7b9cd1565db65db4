"""Archives of TESSERA: which product a folder of tiles holds, and where its land masks are.

Layouts, as the publisher and its library write them::

    npy/{dataset}/{year}/grid_X_Y/grid_X_Y.npy          landmasks/{version}/grid_X_Y.tiff
    OUT/global_0.1_degree_representation/{year}/…       OUT/global_0.1_degree_tiff_all/grid_X_Y.tiff

with ``manifest.parquet`` (``registry.parquet`` before 0.8), ``landmasks.parquet`` and
``tessera_metadata.json`` where they were copied along.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lczcube.errors import SourceError
from lczcube.sources.files import first_line
from lczcube.sources.tessera_tiles import GridTile

SIDECAR = "tessera_metadata.json"
MANIFESTS = ("manifest.parquet", "registry.parquet")
LANDMASK_TABLE = "landmasks.parquet"
EMBEDDINGS_FOLDER = "global_0.1_degree_representation"
LANDMASKS_FOLDER = "global_0.1_degree_tiff_all"

_DATASETS = (
    ("1.0", "vultr", "v1", "v1"),
    ("1.1", "dclimate", None, "v1.1-dclimate"),
    ("1.1", "cambridge", "v1.1-cam", "v1.1"),
    ("2.0", "2B-L~beta1", "v2-2B-L~beta1", "v2-2B-L~beta1"),
    ("2.0", "2B-L~beta2", "v2-2B-L~beta2", "v2-2B-L~beta2"),
)
"""Version, variant, and their folders in the publisher's ``npy`` and ``zarr`` trees."""

_Key = TypeVar("_Key")

_DATASET_FOLDER = re.compile(r"(?P<version>v\d+(?:\.\d+)?)(?:-(?P<variant>.+))?")


@dataclass(frozen=True)
class Archive:
    """What the tables beside a folder of years say of its tiles.

    Attributes
    ----------
    folder : pathlib.Path
        Holds the folders named after years.
    sidecar_product : str or None
        Product by ``tessera_metadata.json``.
    manifest_products : mapping
        Products by the manifest, of each ``(year, tile)`` and, under None, of all around.
    code_sizes, scale_sizes, mask_sizes : mapping
        Bytes by the tables: of the codes and the scales of each ``(year, tile)``, and of the land
        mask of each tile. Several where the manifest has several variants.
    """

    folder: Path
    sidecar_product: str | None
    manifest_products: Mapping[tuple[int, GridTile] | None, frozenset[str]]
    code_sizes: Mapping[tuple[int, GridTile], frozenset[int]]
    scale_sizes: Mapping[tuple[int, GridTile], frozenset[int]]
    mask_sizes: Mapping[GridTile, frozenset[int]]

    def products(self, year: int, tile: GridTile) -> frozenset[str]:
        """What the archive says a tile is: nothing, one product, or several that contradict."""
        by_manifest = self.manifest_products.get(
            (year, tile), self.manifest_products.get(None, frozenset())
        )
        if self.sidecar_product is not None:
            if self.sidecar_product in by_manifest:
                return frozenset({self.sidecar_product})
            return by_manifest | {self.sidecar_product}
        if by_manifest:
            return by_manifest
        by_folder = product_of_folder(self.folder)
        return frozenset() if by_folder is None else frozenset({by_folder})

    def sizes(
        self, year: int, tile: GridTile
    ) -> tuple[frozenset[int], frozenset[int], frozenset[int]]:
        """Bytes that codes, scales and land mask of a tile may have; empty where nobody says."""
        key, unsaid = (year, tile), frozenset[int]()
        return (
            self.code_sizes.get(key, unsaid),
            self.scale_sizes.get(key, unsaid),
            self.mask_sizes.get(tile, unsaid),
        )

    def landmask(self, tile: GridTile, beside: Path) -> Path | None:
        """The land mask of a tile, in the archive or beside its codes; None where there is none."""
        for folder in (*_landmask_folders(self.folder), beside):
            for suffix in (".tiff", ".tif"):
                path = folder / f"{tile.name}{suffix}"
                if path.is_file():
                    return path
        return None


def read_archive(folder: Path, tiles: Collection[GridTile]) -> Archive:
    """What is known of tiles below a folder of years; reads its tables, and no tile.

    Parameters
    ----------
    folder : pathlib.Path
        Holds the folders named after years.
    tiles : collection of GridTile
        The tiles that are wanted: a manifest of the whole Earth is read around them alone.

    Raises
    ------
    SourceError
        If a table cannot be read.
    """
    products: dict[tuple[int, GridTile] | None, set[str]] = defaultdict(set)
    codes: dict[tuple[int, GridTile], set[int]] = defaultdict(set)
    scales: dict[tuple[int, GridTile], set[int]] = defaultdict(set)
    masks: dict[GridTile, set[int]] = defaultdict(set)
    manifest = _first_of(folder, MANIFESTS)
    for row in _rows(manifest, tiles, required=("year", "lon", "lat")):
        key = (int(row["year"]), _tile(row))
        if said := _product_of_row(row):
            products[key].add(said)
            products[None].add(said)
        codes[key].add(_n_bytes(row.get("grid_size")) or _n_bytes(row.get("file_size")))
        scales[key].add(_n_bytes(row.get("scales_size")))
    table = _first_of(folder, (LANDMASK_TABLE,), *_landmask_folders(folder))
    for row in _rows(table, tiles, required=("lon", "lat")):
        masks[_tile(row)].add(_n_bytes(row.get("file_size")))
    return Archive(
        folder=folder,
        sidecar_product=_sidecar_product(folder),
        manifest_products={key: frozenset(found) for key, found in products.items()},
        code_sizes=_said(codes),
        scale_sizes=_said(scales),
        mask_sizes=_said(masks),
    )


def product(version: str, variant: str) -> str:
    """``tessera/{version}/{variant}``, the version spelt with its minor.

    Examples
    --------
    >>> product("v1", "vultr")
    'tessera/1.0/vultr'
    """
    digits = version.removeprefix("v")
    return f"tessera/{digits if '.' in digits else f'{digits}.0'}/{variant}"


def product_of_folder(folder: Path) -> str | None:
    """Product by the name of a folder of the publisher's trees, None where it does not tell.

    Examples
    --------
    >>> product_of_folder(Path("mirror/npy/v1.1-cam"))
    'tessera/1.1/cambridge'
    >>> product_of_folder(Path("mirror/zarr/v1.1"))
    'tessera/1.1/cambridge'
    >>> product_of_folder(Path("tiles/global_0.1_degree_representation"))
    """
    parent = folder.parent.name
    if parent in ("npy", "zarr"):
        place = 2 if parent == "npy" else 3
        for dataset in _DATASETS:
            if dataset[place] == folder.name:
                return product(dataset[0], dataset[1])
        found = _DATASET_FOLDER.fullmatch(folder.name)
        return product(found["version"], found["variant"]) if found and found["variant"] else None
    if folder.name.startswith(EMBEDDINGS_FOLDER):
        found = _DATASET_FOLDER.fullmatch(parent)
        variant = folder.name.removeprefix(EMBEDDINGS_FOLDER).removeprefix(".")
        if found and not found["variant"]:
            return product(parent, variant) if variant else only_product(parent)
    return None


def only_product(version: str) -> str | None:
    """Product of a version that was published in one variant; None where there are more, or none.

    Examples
    --------
    >>> only_product("v1")
    'tessera/1.0/vultr'
    >>> only_product("1.1")
    """
    known = {product(v, variant) for v, variant, _, _ in _DATASETS}
    of_version = [name for name in known if name.startswith(product(version, ""))]
    return of_version[0] if len(of_version) == 1 else None


def product_of_tags(tags: Mapping[str, str]) -> str | None:
    """Product by the tags of a GeoTIFF export; None where they do not tell."""
    version, variant = tags.get("TESSERA_DATASET_VERSION"), tags.get("TESSERA_DATASET_VARIANT")
    if not version:
        return None
    return product(version, variant) if variant else only_product(version)


def require_product(named: str | None, said: Iterable[str], where: str) -> str:
    """The product of a file, by its archive or by the input.

    Parameters
    ----------
    named : str or None
        ``product`` of the input.
    said : iterable of str
        What the archive says: nothing, one product, or several.
    where : str
        The file, for the message.

    Raises
    ------
    SourceError
        If nobody says it, or two contradict each other.
    """
    found = sorted(set(said))
    if named is not None and (not found or named in found):
        return named
    if named is None and len(found) == 1:
        return found[0]
    if not found:
        raise SourceError(
            f"{where} does not say which TESSERA it is, and two of them share no feature space; "
            'set product, such as "tessera/1.0/vultr" or "tessera/1.1/cambridge".'
        )
    if named is not None:
        raise SourceError(
            f"{where} is {' or '.join(found)} by its archive, but product is {named!r}; "
            "correct product, or take the other archive."
        )
    raise SourceError(
        f"{where} is {' and '.join(found)} by its archive, which contradict each other; set "
        "product to the right one."
    )


def _landmask_folders(folder: Path) -> tuple[Path, ...]:
    found = _DATASET_FOLDER.fullmatch(folder.name)
    beside = folder.parent / LANDMASKS_FOLDER
    if folder.parent.name != "npy" or found is None:
        return (beside,)
    return (folder.parent.parent / "landmasks" / found["version"], beside)


def _first_of(folder: Path, names: tuple[str, ...], *more: Path) -> Path | None:
    """The first file of a name in the folder, around it where that is no tree of datasets."""
    around = () if folder.parent.name in ("npy", "zarr") else (folder.parent,)
    places = (folder, *around, *more)
    paths = (place / name for place in places for name in names)
    return next((path for path in paths if path.is_file()), None)


def _sidecar_product(folder: Path) -> str | None:
    path = _first_of(folder, (SIDECAR,))
    if path is None:
        return None
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        version = said.get("dataset_version") or said.get("dataset_version_path")
        variant = said.get("dataset_variant")
    except (OSError, ValueError, AttributeError) as error:
        raise SourceError(
            f"{path} cannot be read ({first_line(error)}); fetch it again, or delete it and set "
            "product."
        ) from error
    return product(str(version), str(variant)) if version and variant else None


def _rows(
    path: Path | None, tiles: Collection[GridTile], *, required: tuple[str, ...]
) -> Iterator[dict[str, Any]]:
    """Rows of a table around the tiles; none of a table that is not there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path is None:
        return
    wanted = ("version", "variant", "grid_size", "file_size", "scales_size", *required)
    lons, lats = ([getattr(t, key) / 100 for t in tiles] for key in ("lon_i", "lat_i"))
    around = [
        (name, comparison, value)
        for name, centres in (("lon", lons), ("lat", lats))
        for comparison, value in ((">=", min(centres) - 0.01), ("<=", max(centres) + 0.01))
    ]
    try:
        names = pq.read_schema(path).names
        missing = [name for name in required if name not in names]
        if missing:
            raise SourceError(f"{path} lacks {', '.join(missing)}; fetch it again, or delete it.")
        columns = [name for name in names if name in wanted]
        table = pq.read_table(path, columns=columns, filters=around)
    except (OSError, pa.ArrowException) as error:
        raise SourceError(
            f"{path} cannot be read as Parquet ({first_line(error)}); fetch it again, or delete it."
        ) from error
    yield from table.to_pandas().to_dict("records")


def _tile(row: Mapping[str, Any]) -> GridTile:
    return GridTile(round(float(row["lon"]) * 100), round(float(row["lat"]) * 100))


def _said(sizes: Mapping[_Key, set[int]]) -> dict[_Key, frozenset[int]]:
    """The sizes that are known: where one row has none, any may be right."""
    return {key: frozenset(found) for key, found in sizes.items() if 0 not in found}


def _n_bytes(value: Any) -> int:
    return 0 if value is None or value != value else int(value)


def _product_of_row(row: Mapping[str, Any]) -> str | None:
    version, variant = row.get("version"), row.get("variant")
    return product(str(version), str(variant)) if version and variant else None
