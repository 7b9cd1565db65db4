"""Building a catalog: from a TOML file to STAC, stac-geoparquet and label tables on disk."""

from __future__ import annotations

import filecmp
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lczcube.catalog.geoparquet import write_geoparquet
from lczcube.catalog.stores import CATALOG_FILE
from lczcube.config import CityFile, read_config
from lczcube.errors import CatalogError, LczcubeError, SourceError
from lczcube.sources import Input, SourceItem, build_items, find_files
from lczcube.sources.files import file_facts, redact
from lczcube.sources.inputs import Publication
from lczcube.sources.items import LCZCUBE_URI, PARQUET_TYPE, SCIENTIFIC_URI

if TYPE_CHECKING:
    import pystac

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
    "overviews",
)
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Failure:
    """A file that could not be registered: ``path`` (or URL), and ``reason`` in one line."""

    path: str
    reason: str


@dataclass(frozen=True)
class CatalogReport:
    """What :func:`build_catalog` wrote.

    Attributes
    ----------
    path : pathlib.Path
        The catalog's folder.
    n_collections, n_items : int
        Collections and items in the catalog.
    failures : tuple of Failure
        Files that were left out, in the order of the TOML file.
    """

    path: Path
    n_collections: int
    n_items: int
    failures: tuple[Failure, ...]


def build_catalog(
    config: str | Path, out: str | Path, *, overwrite: bool = False, strict: bool = False
) -> CatalogReport:
    """Write a static STAC catalog, and stac-geoparquet beside it, of the inputs of a TOML file.

    Reads headers and checksums of rasters, headers of embeddings, and all labels; no pixel of a
    feature layer.

    Parameters
    ----------
    config : str or pathlib.Path
        A city or catalog file.
    out : str or pathlib.Path
        Folder to write. A catalog of the same id there is brought up to date: files whose bytes
        stay the same are not touched, collections no longer named are removed.
    overwrite : bool
        Also replace a catalog of another id. Default: refuse, as it may be another project's.
    strict : bool
        Raise at the first file that cannot be registered. Default: leave it out and report it.

    Returns
    -------
    CatalogReport
        Counts, and a row for each file that was left out.

    Raises
    ------
    ConfigError, MissingInputError
        If the TOML file cannot be used or is not there.
    CatalogError
        If ``out`` holds something else, or no file at all could be registered.
    SourceError, LabelError
        With ``strict``: the first file's fault.

    Notes
    -----
    Everything is written beside ``out`` first and then moved, file by file, ``catalog.json`` last.
    """
    settings = read_config(config)
    target = Path(os.path.abspath(out))
    _require_ours(target, settings.id, overwrite=overwrite)
    registered, failures = _register(settings, strict=strict)
    if not registered:
        _raise_nothing(settings, failures)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _staging_folder(target) as staging:
        _write(settings, registered, staging=staging, target=target)
        _move(staging, target)
    n_items = sum(len(items) for _, items in registered)
    return CatalogReport(target, len(registered), n_items, tuple(failures))


def _require_ours(target: Path, catalog_id: str, *, overwrite: bool) -> None:
    import pystac

    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not (target / CATALOG_FILE).is_file():
        raise CatalogError(f"{target} holds files but no catalog; name a new folder.")
    try:
        held = pystac.Catalog.from_file(str(target / CATALOG_FILE)).id
    except (pystac.STACError, pystac.STACTypeError, ValueError, KeyError) as error:
        raise CatalogError(
            f"{target / CATALOG_FILE} is no STAC catalog; name a new folder."
        ) from error
    if held != catalog_id and not overwrite:
        raise CatalogError(
            f"{target} holds catalog {held!r}, not {catalog_id!r}; "
            "name another folder, or overwrite."
        )


def _register(
    settings: CityFile, *, strict: bool
) -> tuple[list[tuple[Input, list[SourceItem]]], list[Failure]]:
    registered: list[tuple[Input, list[SourceItem]]] = []
    failures: list[Failure] = []
    for entry in settings.inputs:
        items, faults = _register_input(entry, settings, strict=strict)
        failures += faults
        if items:
            registered.append((entry, sorted(items, key=lambda made: made.item.id)))
    return registered, failures


def _register_input(
    entry: Input, settings: CityFile, *, strict: bool
) -> tuple[list[SourceItem], list[Failure]]:
    folder = settings.source_path.parent
    cities = {name: city.bbox for name, city in settings.cities.items()}
    items: list[SourceItem] = []
    failures: list[Failure] = []
    for file in find_files(entry, folder=folder, cities=cities):
        try:
            items += build_items(entry, file)
        except LczcubeError as error:
            if strict:
                raise
            failures.append(Failure(redact(file.href), redact(str(error))))
    fault = _fault_of_input(entry, items, is_silent=not items and not failures)
    if fault is None:
        return items, failures
    if strict:
        raise fault
    return [], [*failures, Failure(redact(_place_of(entry)), redact(str(fault)))]


def _fault_of_input(
    entry: Input, items: Sequence[SourceItem], *, is_silent: bool
) -> SourceError | None:
    """Why an input as a whole cannot be used: it is empty, or its files are no one layer."""
    if is_silent:
        years = ", ".join(map(str, entry.all_years)) or "any year"
        return SourceError(
            f"input {entry.name!r} has no tile of {years} near a city in {_place_of(entry)}; check "
            "bbox and year, or fetch the tiles."
        )
    by_coding = {tuple(sorted(made.coding.items())): made.item.id for made in items}
    if len(by_coding) < 2:
        return None
    listed = "; ".join(
        f"{item_id} is {', '.join(value for _, value in coding)}"
        for coding, item_id in sorted(by_coding.items())
    )
    return SourceError(
        f"input {entry.name!r} mixes layers that share no feature space ({listed}); give each an "
        "input of its own."
    )


def _place_of(entry: Input) -> str:
    index = getattr(entry, "index", None)
    return ", ".join(entry.href if index is None else (index, *entry.href))


def _raise_nothing(settings: CityFile, failures: Sequence[Failure]) -> None:
    more = f" ({len(failures) - 1} more)" if len(failures) > 1 else ""
    raise CatalogError(
        f"{settings.source_path.name}: no file of its {len(settings.inputs)} inputs could be "
        f"registered. {failures[0].reason}{more}"
    )


@contextmanager
def _staging_folder(target: Path) -> Iterator[Path]:
    folder = target.parent / f".{target.name}.partial"
    # pystac takes a path with a suffix for a file, so the catalog is one folder further down.
    catalog = folder / "catalog"
    shutil.rmtree(folder, ignore_errors=True)
    catalog.mkdir(parents=True)
    try:
        yield catalog
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(
    settings: CityFile,
    registered: Sequence[tuple[Input, list[SourceItem]]],
    *,
    staging: Path,
    target: Path,
) -> None:
    import pystac
    from pystac.layout import TemplateLayoutStrategy

    catalog = pystac.Catalog(
        id=settings.id,
        description=f"Inputs of {settings.title or settings.id}.",
        title=settings.title,
    )
    for entry, made in registered:
        for source_item in made:
            _write_table(source_item, staging / entry.name, target / entry.name)
        collection = _collection(entry, made)
        write_geoparquet(collection, staging / f"{entry.name}.parquet")
        catalog.add_child(collection)
    catalog.normalize_hrefs(str(staging), strategy=TemplateLayoutStrategy(item_template="items"))
    catalog.save(catalog_type=pystac.CatalogType.SELF_CONTAINED)


def _write_table(made: SourceItem, staging: Path, target: Path) -> None:
    import pystac

    table = made.table
    if table is None:
        return
    name = f"{made.item.id}.parquet"
    staging.mkdir(exist_ok=True)
    table.frame.to_parquet(staging / name, index=False, compression="zstd", **table.parquet)
    made.item.add_asset(
        table.asset,
        pystac.Asset(
            href=(target / name).as_posix(),
            media_type=PARQUET_TYPE,
            roles=["data", table.asset],
            extra_fields={**table.fields, **file_facts(str(staging / name))},
        ),
    )


def _collection(entry: Input, made: Sequence[SourceItem]) -> pystac.Collection:
    import pystac

    items = [source_item.item for source_item in made]
    made_up = " Synthetic: made-up data." if entry.synthetic else ""
    publication = _publication(entry, made)
    citation = _citation_fields(publication)
    collection = pystac.Collection(
        id=entry.name,
        title=entry.title,
        description=f"{entry.title or entry.name}, input of kind {entry.source}.{made_up}",
        license=entry.license or (publication.license if publication else "other"),
        extent=pystac.Extent.from_items(items),
        extra_fields=_our_fields(entry, made[0].coding, publication) | citation,
        stac_extensions=[LCZCUBE_URI, *([SCIENTIFIC_URI] if citation else [])],
        keywords=["synthetic"] if entry.synthetic else None,
    )
    collection.add_items(items)
    return collection


def _our_fields(
    entry: Input, coding: Mapping[str, str], publication: Publication | None
) -> dict[str, Any]:
    values: dict[str, Any] = {
        "ai_derived": entry.ai_derived,
        "synthetic": entry.synthetic,
        "license_note": entry.license_note or (publication.license_note if publication else None),
        **entry.layer_fields,
        **coding,
    }
    return {f"lczcube:{k}": values[k] for k in _FIELDS if values.get(k) is not None}


def _citation_fields(publication: Publication | None) -> dict[str, Any]:
    if publication is None:
        return {}
    citation = publication.citation
    return {
        "sci:citation": citation,
        "sci:publications": [{"doi": publication.doi, "citation": citation}],
    }


def _publication(entry: Input, made: Sequence[SourceItem]) -> Publication | None:
    """What the publisher of an input says; nothing for made-up data."""
    return None if entry.synthetic else made[0].publication or entry.publication


def _move(staging: Path, target: Path) -> None:
    if not target.exists() or not any(target.iterdir()):
        staging.replace(target)
        return
    written = sorted(path.relative_to(staging) for path in staging.rglob("*") if path.is_file())
    stale = [path for path in _owned(target) if path not in set(written)]
    # The catalog names the rest, so it comes last: a reader never finds a link to nothing.
    for name in sorted(written, key=lambda path: path == Path(CATALOG_FILE)):
        _replace(staging / name, target / name)
    for name in stale:
        (target / name).unlink()
        _remove_empty(target / name.parent, target)


def _owned(target: Path) -> list[Path]:
    """Files below a catalog that a build wrote: those of the collections it names."""
    import pystac

    held = pystac.Catalog.from_file(str(target / CATALOG_FILE))
    names = [Path(link.href).parent.name for link in held.get_child_links()]
    patterns = ("{0}.parquet", "{0}/collection.json", "{0}/items/*.json", "{0}/*.parquet")
    files = {
        path
        for name in names
        if _SAFE_NAME.fullmatch(name)
        for pattern in patterns
        for path in target.glob(pattern.format(name))
    }
    return sorted(path.relative_to(target) for path in files)


def _replace(src: Path, dst: Path) -> None:
    if dst.is_file() and filecmp.cmp(src, dst, shallow=False):
        return
    dst.parent.mkdir(parents=True, exist_ok=True)
    src.replace(dst)


def _remove_empty(folder: Path, target: Path) -> None:
    while folder != target and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
