"""Regions: a Zarr store that is laid out first, then filled shard by shard, and that resumes.

A region is one shard, written by one task: two writers in one shard would lose updates. When it is
durable it leaves a marker in a folder beside the store, with the length and the SHA-256 of its
file, or ``absent`` for a shard of nothing but fill, which has no file. Markers hold no times and no
host names. The same call again sweeps what a killed writer left, skips what is complete, and ends
with the same bytes. The root's metadata, all of it consolidated, is written last: a store that has
it is whole.
"""

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr
from dask.array.optimization import optimize
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph

from lczcube.errors import StoreError
from lczcube.places import Folder, Held, Place, place_of
from lczcube.runtime import n_cores

MARKERS_SUFFIX = ".regions"
STAGING_SUFFIX = ".partial"

_ROOT = "zarr.json"
_IDENTITY = "identity"
_FILES = "files.json"

_Files = dict[str, bytes]


@dataclass(frozen=True)
class Leaf:
    """A group of a store that is to be written.

    Attributes
    ----------
    dataset : xarray.Dataset
        Its lazy variables become regions, whose Dask chunks must be the shards; others, coordinates
        among them, are written when the store is laid out.
    encoding : mapping
        Of every lazy variable: ``chunks``, ``shards``, ``compressors``; of others as xarray has it.
    """

    dataset: xr.Dataset
    encoding: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class RegionReport:
    """What :func:`fill_store` did: regions in the store, and how many of them it wrote."""

    n_regions: int
    n_written: int


@dataclass(frozen=True)
class StoreCheck:
    """What :func:`verify_store` found: keys of files, sorted.

    Attributes
    ----------
    n_files : int
        Files that there should be.
    damaged : tuple of str
        Those whose bytes are not those that were written.
    missing : tuple of str
        Those that are not there.
    surplus : tuple of str
        Files that should not be there.
    """

    n_files: int
    damaged: tuple[str, ...]
    missing: tuple[str, ...]
    surplus: tuple[str, ...]

    @property
    def is_sound(self) -> bool:
        """True where all is as it was written."""
        return not (self.damaged or self.missing or self.surplus)


@dataclass(frozen=True)
class OpenStore:
    """A store that is being written: where its files go, what it depends on, whether it is ours."""

    place: Place
    identity: str
    require_held: Held

    def require_ours(self) -> None:
        """Raise a StoreError where the lock is lost, or another writer has begun the store anew."""
        self.require_held()
        if identity_of(self.place) != self.identity:
            raise StoreError(
                f"{self.place.name} is being written by another process, which began it anew; this "
                "call stops."
            )

    def __reduce__(self) -> tuple[Any, ...]:
        """For another process, where the time of a lock is not known but the identity is read."""
        return OpenStore, (self.place, self.identity, _held_elsewhere)


def _held_elsewhere() -> None:
    """Nothing: the process that took the lock looks after it."""


@dataclass(frozen=True)
class _Region:
    """One shard of one array."""

    array: str
    index: tuple[int, ...]

    @property
    def shard(self) -> str:
        """Key of the shard below its array, by Zarr v3's default encoding."""
        return "/".join(["c", *map(str, self.index)])

    @property
    def key(self) -> str:
        return f"{self.array}/{self.shard}"

    @property
    def marker(self) -> str:
        return f"{self.array.replace('/', '.')}.{'.'.join(map(str, self.index))}.json"


def compressors() -> list[Any]:
    """Codecs of an array whose every flipped bit is an error on reading.

    The checksum within a zstd frame leaves bits of the frame's header unchecked; CRC-32C, of the
    whole frame, leaves none, and takes as many bytes.
    """
    from zarr.codecs import Crc32cCodec, ZstdCodec

    return [ZstdCodec(level=3, checksum=False), Crc32cCodec()]


def write_regions(
    leaves: Mapping[str, Leaf],
    store: str | Path,
    *,
    identity: str,
    attrs: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> RegionReport:
    """Write groups of lazy variables as a Zarr v3 store, a shard a task; computes them.

    Parameters
    ----------
    leaves : mapping of str to Leaf
        By the name of the group.
    store, identity, overwrite
        As in :func:`writing`.
    attrs : mapping, optional
        Attributes of the root.

    Returns
    -------
    RegionReport

    Raises
    ------
    StoreError
        As :func:`writing`.
    """
    with writing(store, identity=identity, overwrite=overwrite) as opened:
        return fill_store(opened, leaves, attrs)


@contextmanager
def writing(
    store: str | Path,
    *,
    identity: str,
    overwrite: bool = False,
    beside: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> Iterator[OpenStore]:
    """Hold a store for writing: locked, of one identity, rid of what killed writers left.

    Parameters
    ----------
    store : str or pathlib.Path
        Folder of the store, ``….zarr``, or the URL of a prefix of an object store.
    identity : str
        What the pixels depend on. A store that was begun with another identity is not gone on with.
    overwrite : bool
        Begin anew where a whole store stands, or one of another identity.
    beside : bool
        Write a folder under another name, and give it its own at the end: what stands there now
        stands until the new one is whole. An object store has no other names to give; there what
        is to be replaced is removed first.
    storage_options : mapping, optional
        Of an object store; see :func:`lczcube.places.place_of`.

    Yields
    ------
    OpenStore
        For :func:`fill_store`.

    Raises
    ------
    StoreError
        If the store belongs to another identity, another writer holds its lock, or it cannot be
        written.
    """
    place = place_of(store, storage_options)
    with place.locked() as require_held:
        staging = place.with_suffix(STAGING_SUFFIX) if beside else None
        if isinstance(place, Folder) and isinstance(staging, Folder):
            _finish_move(staging, place)
            target = _target(place, staging, identity, overwrite=overwrite)
            yield OpenStore(target, identity, require_held)
            if target == staging:
                _move(staging, place)
        else:
            target = _target(place, place, identity, overwrite=overwrite)
            yield OpenStore(target, identity, require_held)


def fill_store(
    opened: OpenStore, leaves: Mapping[str, Leaf], attrs: Mapping[str, Any] | None = None
) -> RegionReport:
    """Write what a store lacks of its groups, one after the other; computes it.

    Parameters
    ----------
    opened : OpenStore
        From :func:`writing`.
    leaves : mapping of str to Leaf
        By the name of the group. A group may read, when it is computed, what those before it wrote.
    attrs : mapping, optional
        Attributes of the root.

    Returns
    -------
    RegionReport

    Raises
    ------
    StoreError
        If the store cannot be written. What is written stays, for the same call again.
    """
    place, side = opened.place, _side(opened.place)
    place.make()  # before its markers: markers alone are those of a store that was moved
    side.make()
    for swept in (place, side):
        swept.sweep()
    side.write(_IDENTITY, opened.identity.encode())
    files = _lay_out(leaves, attrs or {})
    root = files.pop(_ROOT)
    _write_changed(place, files)
    records = _records(side)
    reports = [_fill_group(opened, group, leaf, files, records) for group, leaf in leaves.items()]
    whole = {key: _record(content) for key, content in {**files, _ROOT: root}.items()}
    _write_changed(side, {_FILES: json.dumps(whole, indent=1, sort_keys=True).encode()})
    opened.require_ours()
    _write_changed(place, {_ROOT: root})
    return RegionReport(sum(r.n_regions for r in reports), sum(r.n_written for r in reports))


def verify_store(
    store: str | Path, *, hashes: bool = True, storage_options: Mapping[str, Any] | None = None
) -> StoreCheck:
    """Files of a store that are not as they were written; reads them.

    Parameters
    ----------
    store, storage_options
        As in :func:`writing`.
    hashes : bool
        Compare SHA-256; False compares lengths only, and reads no file.

    Returns
    -------
    StoreCheck

    Raises
    ------
    StoreError
        If there is no whole store, or nothing beside it says what was written.
    """
    place = place_of(store, storage_options)
    side = _side(place)
    require_whole(place)
    records = _records(side)
    if not records:
        raise StoreError(
            f"{place.name} cannot be checked: {side.name}, which says what was written, is not "
            "there. Copy the two together, or write the store again."
        )
    held = set(place.all_keys())
    expected = {key for key, record in records.items() if record != "absent"}
    damaged = (
        key for key in expected & held if not _matches(place, key, records[key], hashes=hashes)
    )
    return StoreCheck(
        len(expected),
        tuple(sorted(damaged)),
        tuple(sorted(expected - held)),
        tuple(sorted(held - expected)),
    )


def is_whole(place: Place) -> bool:
    """True for a store that was written to its end."""
    root = place.read(_ROOT)
    return root is not None and "consolidated_metadata" in json.loads(root)


def require_whole(place: Place) -> None:
    """Raise a StoreError unless a store was written to its end."""
    if is_whole(place):
        return
    begun = place.exists() or place.with_suffix(STAGING_SUFFIX).exists()
    raise StoreError(
        f"{place.name} is not whole: writing it was interrupted. Give the same command again: it "
        "goes on where it stopped."
        if begun
        else f"{place.name}: no such store; it may not be written yet."
    )


def require_not_whole(place: Place) -> None:
    """Raise a StoreError where a store was written to its end."""
    if is_whole(place):
        raise _exists(place)


def digest_of(store: str | Path, prefixes: Sequence[str]) -> str:
    """SHA-256, in hex, of the root's metadata and of files by what their keys begin with; reads."""
    place, digest = place_of(store), hashlib.sha256()
    for key in place.all_keys():
        if key == _ROOT or key.startswith(tuple(prefixes)):
            digest.update(json.dumps([key, _record(place.read(key) or b"")]).encode())
    return digest.hexdigest()


def identity_of(place: Place) -> str | None:
    """The identity that a store is written with; None where there is no store of ours."""
    held = _side(place).read(_IDENTITY)
    return None if held is None else held.decode()


def _side(place: Place) -> Place:
    return place.with_suffix(MARKERS_SUFFIX)


def _target(place: Place, staging: Place, identity: str, *, overwrite: bool) -> Place:
    """Where to write: the place itself where its store is gone on with, else beside it."""
    ours = identity_of(place) == identity
    if place.exists():
        if ours and not (overwrite and is_whole(place)):
            return place
        if not overwrite:
            raise _exists(place)
    if staging == place or identity_of(staging) != identity:
        _remove(staging)
    return staging


def _exists(place: Place) -> StoreError:
    return StoreError(
        f"{place.name} exists; pass overwrite=True (--overwrite) to replace it. Another call wrote "
        "it, from other inputs or settings maybe; or name another store."
    )


def _remove(place: Place) -> None:
    """Markers first: a store without them is no store of ours, and is not gone on with."""
    _side(place).remove()
    place.remove()


def _move(staging: Folder, place: Folder) -> None:
    """Put a whole store in its place; killed at any moment, :func:`_finish_move` goes on."""
    if place.path.exists():
        place.move_to(_replaced(place))
    staging.move_to(place)
    _finish_move(staging, place)


def _finish_move(staging: Folder, place: Folder) -> None:
    """What is left of a move that began; where none did, nothing."""
    replaced = _replaced(place)
    markers, staged = (each.with_suffix(MARKERS_SUFFIX) for each in (place, staging))
    if replaced.path.exists() and not place.path.exists():
        (staging if _is_as_staged(staging, staging) else replaced).move_to(place)
    if not staging.path.exists() and _is_as_staged(place, staging):
        markers.remove()
        staged.move_to(markers)
    replaced.remove()


def _replaced(place: Folder) -> Folder:
    """Where a store waits while another takes its place."""
    return Folder(place.path.with_name(f".{place.path.name}.lczcube-replaced"))


def _is_as_staged(place: Place, staging: Place) -> bool:
    """True for the whole store that the markers of the staging are of."""
    record = json.loads(_side(staging).read(_FILES) or b"{}").get(_ROOT)
    return record is not None and is_whole(place) and _matches(place, _ROOT, record, hashes=True)


def _lay_out(leaves: Mapping[str, Leaf], attrs: Mapping[str, Any]) -> _Files:
    """Metadata and coordinates by key, the consolidated metadata of the root among them."""
    import zarr
    from zarr.storage import MemoryStore

    files: dict[str, Any] = {}
    store = MemoryStore(files)
    zarr.create_group(store, zarr_format=3, attributes=dict(attrs))
    for group, leaf in leaves.items():
        leaf.dataset.to_zarr(
            store,
            group=group,
            mode="w",
            zarr_format=3,
            encoding={name: dict(values) for name, values in leaf.encoding.items()},
            consolidated=False,
            compute=False,
        )
    with warnings.catch_warnings():
        # Every reader we test takes it, though it is not yet in the specification of Zarr v3.
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        zarr.consolidate_metadata(store, zarr_format=3)
    return {key: buffer.to_bytes() for key, buffer in sorted(files.items())}


def _write_changed(place: Place, files: Mapping[str, bytes]) -> None:
    for key, content in files.items():
        if place.read(key) != content:
            place.write(key, content)


def _fill_group(
    opened: OpenStore, group: str, leaf: Leaf, files: _Files, records: Mapping[str, Any]
) -> RegionReport:
    lazy = {k: v.data for k, v in leaf.dataset.data_vars.items() if dask.is_dask_collection(v)}
    arrays = {f"{group}/{name}": array for name, array in lazy.items()}
    regions = [
        _Region(name, index)
        for name, array in arrays.items()
        for index in np.ndindex(*array.numblocks)
    ]
    left = [
        region
        for region in regions
        if region.key not in records
        or not _matches(opened.place, region.key, records[region.key], hashes=False)
    ]
    tasks = [
        _write_region(block, files[f"{region.array}/zarr.json"], opened, region)
        for region, block in _blocks(arrays, left)
    ]
    with _threads_that_end():
        dask.compute(*tasks)
    return RegionReport(len(regions), len(left))


def _blocks(
    arrays: Mapping[str, da.Array], regions: Sequence[_Region]
) -> Iterator[tuple[_Region, Any]]:
    """Regions with their blocks, of one graph: what arrays share is computed once."""
    keys = [(arrays[region.array].name, *region.index) for region in regions]
    merged = HighLevelGraph.merge(*(array.dask for array in arrays.values()))
    graph = HighLevelGraph.from_collections("regions", optimize(merged, keys), dependencies=())
    for region, key in zip(regions, keys, strict=True):
        yield region, Delayed(key, graph, layer="regions")


@dask.delayed(pure=False)  # type: ignore[untyped-decorator]
def _write_region(block: Any, metadata: bytes, opened: OpenStore, region: _Region) -> None:
    shard, place = _encoded(block, metadata, region), opened.place
    opened.require_ours()
    if shard is None:
        place.delete(region.key)
        record: Any = "absent"
    else:
        place.write(region.key, shard)
        record = _record(shard)
    content = json.dumps({region.key: record}, sort_keys=True)
    _side(place).write(region.marker, content.encode())


def _encoded(block: Any, metadata: bytes, region: _Region) -> memoryview | None:
    """A shard as its file will be; None for nothing but fill."""
    import zarr
    from zarr.core.buffer import default_buffer_prototype
    from zarr.storage import MemoryStore

    files = {"zarr.json": default_buffer_prototype().buffer.from_bytes(metadata)}
    array = zarr.open_array(MemoryStore(files), mode="r+", zarr_format=3)
    sides = array.shards or array.chunks
    array[
        tuple(
            slice(i * n, min((i + 1) * n, size))
            for i, n, size in zip(region.index, sides, array.shape, strict=True)
        )
    ] = block
    shard = files.get(region.shard)
    return None if shard is None else shard.as_numpy_array().data


def _record(content: bytes | memoryview) -> dict[str, Any]:
    return {"length": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _records(side: Place) -> dict[str, Any]:
    """By key, what was written."""
    records: dict[str, Any] = {}
    for marker in side.all_keys():
        if marker.endswith(".json"):
            records |= json.loads(side.read(marker) or b"{}")
    return records


def _matches(place: Place, key: str, record: Any, *, hashes: bool) -> bool:
    if record == "absent":
        return place.size(key) is None
    if not hashes:
        return place.size(key) == int(record["length"])
    content = place.read(key)
    return content is not None and bool(_record(content) == record)


@contextmanager
def _threads_that_end() -> Iterator[None]:
    """A pool of threads whose tasks are all over when it is left.

    Dask raises a task's error at once, while the tasks beside it still write: they would go on when
    the lock is free.
    """
    n_threads = dask.config.get("num_workers", None) or n_cores()
    with ThreadPoolExecutor(n_threads) as pool, dask.config.set(pool=pool):
        yield
