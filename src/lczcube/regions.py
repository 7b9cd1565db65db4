"""Regions: a Zarr store that is laid out first, then filled shard by shard, and that resumes.

A region is one shard, written by one task: two writers in one shard would lose updates. When it is
durable it leaves a marker in a folder beside the store, with the length and the SHA-256 of its
file, or ``absent`` for a shard of nothing but fill, which has no file. Markers hold no times and no
host names. The same call again sweeps what a killed writer left, skips what is complete, and ends
with the same bytes. Metadata is consolidated last: a store that has it is whole.
"""

import hashlib
import json
import os
import shutil
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr

from lczcube.errors import StoreError

MARKERS_SUFFIX = ".regions"


@dataclass(frozen=True)
class RegionReport:
    """What :func:`write_regions` did: regions in the store, and how many of them it wrote."""

    n_regions: int
    n_written: int


@dataclass(frozen=True)
class _Region:
    """One shard of one array."""

    array: str
    index: tuple[int, ...]

    @property
    def key(self) -> str:
        """Path of the shard below its array, by Zarr v3's default encoding."""
        return "/".join(["c", *map(str, self.index)])

    @property
    def marker(self) -> str:
        return f"{self.array}.{'.'.join(map(str, self.index))}.json"


def write_regions(
    dataset: xr.Dataset,
    store: str | Path,
    *,
    group: str,
    encoding: Mapping[str, Mapping[str, Any]],
    identity: str,
    overwrite: bool = False,
) -> RegionReport:
    """Write lazy variables as one group of a Zarr v3 store, a shard a task; computes them.

    Parameters
    ----------
    dataset : xarray.Dataset
        Its lazy variables become regions, whose Dask chunks must be the shards; others, coordinates
        among them, are written when the store is laid out.
    store : str or pathlib.Path
        Folder of the store, ``….zarr``.
    group : str
        Its group.
    encoding : mapping
        Of every lazy variable: ``chunks``, ``shards``, ``compressors``.
    identity : str
        What the pixels depend on. A store that was begun with another identity is not gone on with.
    overwrite : bool
        Begin anew where a store of another identity, or no store of ours, stands.

    Returns
    -------
    RegionReport

    Raises
    ------
    StoreError
        If the store belongs to another identity, or another writer holds its lock.
    """
    path = Path(store)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _lock(path):
        _require_ours(path, identity, overwrite=overwrite)
        _sweep(path)
        lazy = {str(k): v for k, v in dataset.data_vars.items() if dask.is_dask_collection(v)}
        if not (_markers(path) / "identity").is_file():
            _lay_out(dataset, path, group, encoding, identity)
        regions = [region for name, v in lazy.items() for region in _regions(name, v.data)]
        left = [region for region in regions if not _is_complete(path / group, path, region)]
        tasks = [
            _write_region(block, path / group, path, region)
            for region, block in _blocks(lazy, left)
        ]
        dask.compute(*tasks)
        _consolidate(path)
    return RegionReport(len(regions), len(left))


def verify_regions(store: str | Path, *, group: str, hashes: bool = True) -> list[str]:
    """Shards of a store that are not as they were written; reads their files.

    Parameters
    ----------
    store, group
        As in :func:`write_regions`.
    hashes : bool
        Compare SHA-256; False compares lengths only.

    Returns
    -------
    list of str
        Paths below the group, sorted; empty for a sound store.
    """
    path = Path(store)
    return [
        f"{record['array']}/{record['key']}"
        for marker in sorted(_markers(path).glob("*.json"))
        if (record := json.loads(marker.read_text()))
        and not _matches(path / group / record["array"] / record["key"], record, hashes=hashes)
    ]


def is_whole(store: str | Path) -> bool:
    """True for a store that was written to its end."""
    path = Path(store) / "zarr.json"
    return path.is_file() and "consolidated_metadata" in json.loads(path.read_text())


def identity_of(store: str | Path) -> str | None:
    """The identity that a store was laid out with; None where there is no store of ours."""
    held = _markers(Path(store)) / "identity"
    return held.read_text() if held.is_file() else None


def remove_store(store: str | Path) -> None:
    """Remove a store and the markers beside it."""
    for folder in (Path(store), _markers(Path(store))):
        shutil.rmtree(folder, ignore_errors=True)


def _markers(store: Path) -> Path:
    return store.with_name(store.name + MARKERS_SUFFIX)


def _require_ours(store: Path, identity: str, *, overwrite: bool) -> None:
    held = [file.read_text() for file in _markers(store).glob("identity*")]
    if not store.exists() or held == [identity]:
        return
    if not overwrite:
        raise StoreError(
            f"{store} exists and was made from other inputs or settings; pass overwrite=True "
            "(--overwrite) to replace it, or name another store."
        )
    remove_store(store)


def _lay_out(
    dataset: xr.Dataset,
    store: Path,
    group: str,
    encoding: Mapping[str, Mapping[str, Any]],
    identity: str,
) -> None:
    """Metadata and coordinates; the identity gets its name last, and says that they are whole."""
    remove_store(store)
    _markers(store).mkdir()
    begun = _markers(store) / "identity-begun"
    _write_durably(begun, identity)
    dataset.to_zarr(
        store,
        group=group,
        mode="w",
        zarr_format=3,
        encoding={name: dict(values) for name, values in encoding.items()},
        consolidated=False,
        compute=False,
    )
    begun.rename(_markers(store) / "identity")


def _regions(name: str, array: da.Array) -> list[_Region]:
    return [_Region(name, index) for index in np.ndindex(*array.numblocks)]


def _blocks(
    lazy: Mapping[str, xr.DataArray], regions: Sequence[_Region]
) -> Iterator[tuple[_Region, Any]]:
    delayed = {name: variable.data.to_delayed() for name, variable in lazy.items()}
    for region in regions:
        yield region, delayed[region.array][region.index]


@dask.delayed(pure=False)  # type: ignore[untyped-decorator]
def _write_region(block: Any, group: Path, store: Path, region: _Region) -> None:
    import zarr

    array = zarr.open_array(group / region.array, mode="r+", zarr_format=3)
    shard = array.shards or array.chunks
    at = tuple(
        slice(i * n, min((i + 1) * n, size))
        for i, n, size in zip(region.index, shard, array.shape, strict=True)
    )
    file = group / region.array / region.key
    file.unlink(missing_ok=True)  # zarr would read a damaged shard before it writes part of it
    array[at] = block
    record: dict[str, Any] = {"array": region.array, "key": region.key, "shard": "absent"}
    if file.is_file():
        _sync(file)
        record["shard"] = {"length": file.stat().st_size, "sha256": _sha256(file)}
    _write_durably(_markers(store) / region.marker, json.dumps(record, sort_keys=True))


def _is_complete(group: Path, store: Path, region: _Region) -> bool:
    marker = _markers(store) / region.marker
    if not marker.is_file():
        return False
    record = json.loads(marker.read_text())
    return _matches(group / region.array / region.key, record, hashes=False)


def _matches(file: Path, record: Mapping[str, Any], *, hashes: bool) -> bool:
    shard = record["shard"]
    if shard == "absent":
        return not file.exists()
    if not file.is_file() or file.stat().st_size != shard["length"]:
        return False
    return not hashes or _sha256(file) == shard["sha256"]


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(file: Path) -> None:
    with file.open("rb") as stream:
        os.fsync(stream.fileno())


def _write_durably(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    with partial.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)


def _sweep(store: Path) -> None:
    """Remove what a killed writer left half-written."""
    for folder in (store, _markers(store)):
        for leftover in folder.rglob("*.partial"):
            leftover.unlink(missing_ok=True)


def _consolidate(store: Path) -> None:
    import zarr

    with warnings.catch_warnings():
        # Every reader we test takes it, though it is not yet in the specification of Zarr v3.
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        zarr.consolidate_metadata(store, zarr_format=3)


@contextmanager
def _lock(store: Path) -> Iterator[None]:
    """Keep a second writer out; the system frees the lock of a process that dies."""
    from filelock import FileLock, Timeout

    lock = FileLock(store.with_name(f".{store.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise StoreError(
            f"{store} is being written by another process; wait for it, or stop it first."
        ) from error
    try:
        yield
    finally:
        lock.release()
