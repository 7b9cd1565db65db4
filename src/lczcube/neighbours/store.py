"""An index as a folder: ``index.json`` and plain arrays, nothing that runs when it is opened.

Arrays are mapped into memory, so that the workers of one machine share them. Every array is held to
its SHA-256, and every number that a search follows to its range: a folder may come from anywhere.
"""

import hashlib
import json
import os
import shutil
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lczcube.errors import MissingInputError, ModelError, StoreError
from lczcube.neighbours.graph import Graph, read_only
from lczcube.neighbours.index import DonorIndex, Recall, array_digest

INDEX_NAME = "index.json"
FORMAT = 1

DTYPES = {
    "vectors": "<f8",
    "places": "<f4",
    "axes": "<f4",
    "indptr": "<i8",
    "indices": "<i4",
    "starts": "<i4",
}


def write_index(index: DonorIndex, folder: str | Path) -> DonorIndex:
    """Store an index, whole or not at all; an older index of that name is replaced.

    Parameters
    ----------
    index : DonorIndex
        To be stored.
    folder : str or pathlib.Path
        Its folder.

    Returns
    -------
    DonorIndex
        The same, opened from the folder: to be shipped to workers, who map it from there.

    Raises
    ------
    StoreError
        If ``folder`` exists and is not an index: it is never deleted.
    """
    target = Path(folder)
    if target.exists() and not (target / INDEX_NAME).is_file():
        raise StoreError(f"{target} exists and holds no {INDEX_NAME}; name another folder.")
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for name, array in _arrays(index).items():
            np.save(partial / f"{name}.npy", array, allow_pickle=False)
        (partial / INDEX_NAME).write_text(_described(index), encoding="utf-8")
        _replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return _opened(target, verify=False)


def open_index(folder: str | Path, *, fingerprint: str) -> DonorIndex:
    """A stored index, mapped into memory; reads all of it once, to compare its checksums.

    Parameters
    ----------
    folder : str or pathlib.Path
        From :func:`write_index`.
    fingerprint : str
        Of the donors that it must have been built from.

    Raises
    ------
    MissingInputError
        If there is no index in ``folder``.
    ModelError
        If it was built from other donors, or is damaged.
    """
    index = _opened(Path(folder), verify=True)
    if index.fingerprint != fingerprint:
        raise ModelError(
            f"{folder} was built from other donors, features or products (fingerprint "
            f"{index.fingerprint[:12]}, wanted {fingerprint[:12]}); build the index again."
        )
    return index


@lru_cache(maxsize=4)
def reopen_index(folder: str, digest: str) -> DonorIndex:
    """The index that another process has opened and shipped; once a process.

    Raises
    ------
    MissingInputError
        If the folder is not there, as on a machine that does not share it.
    ModelError
        If it now holds another index.
    """
    index = _opened(Path(folder), verify=False)
    if index.digest != digest:
        raise ModelError(f"{folder} was replaced while it was in use; start the run again.")
    return index


def _arrays(index: DonorIndex) -> dict[str, npt.NDArray[Any]]:
    return {"vectors": index.vectors} | ({} if index.graph is None else index.graph.arrays())


def _described(index: DonorIndex) -> str:
    """The text of ``index.json``: no times, no host names."""
    content = {
        "format": FORMAT,
        "fingerprint": index.fingerprint,
        "digests": index.digests,
        "graph": index.graph and index.graph.settings(),
        "recall": index.recall and asdict(index.recall),
    }
    return json.dumps({"content": content, "sha256": _checksum(content)}, indent=1, sort_keys=True)


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _replace(partial: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(partial, target)
    shutil.rmtree(old, ignore_errors=True)


def _opened(folder: Path, *, verify: bool) -> DonorIndex:
    content = _content(folder)
    arrays: dict[str, Any] = {name: _mapped(folder, name) for name in content["digests"]}
    if verify:
        for name, array in arrays.items():
            if array_digest(array) != content["digests"][name]:
                raise _damaged(folder, f"{name}.npy does not have its checksum")
    vectors = arrays.pop("vectors")
    graph = None
    if content["graph"] is not None:
        graph = Graph(**arrays, **content["graph"])
        _require_sound(folder, graph, vectors.shape)
    return DonorIndex(
        vectors=vectors,
        fingerprint=content["fingerprint"],
        digests=content["digests"],
        graph=graph,
        recall=content["recall"] and Recall(**content["recall"]),
        folder=folder.resolve(),
    )


def _content(folder: Path) -> dict[str, Any]:
    path = folder / INDEX_NAME
    if not path.is_file():
        raise MissingInputError(f"{folder} holds no {INDEX_NAME}; build the index first.")
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        content: dict[str, Any] = stored["content"]
        if stored["sha256"] != _checksum(content):
            raise ValueError("it does not have its checksum")
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']}, not {FORMAT}")
        wanted = set(DTYPES) if content["graph"] is not None else {"vectors"}
        if set(content["digests"]) != wanted:
            raise ValueError(f"it names the arrays {', '.join(sorted(content['digests']))}")
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, f"{INDEX_NAME}: {error}") from error
    return content


def _mapped(folder: Path, name: str) -> npt.NDArray[Any]:
    path = folder / f"{name}.npy"
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(folder, f"{path.name} cannot be read ({error})") from error
    if array.dtype.str != DTYPES[name] or not array.flags.c_contiguous:
        raise _damaged(folder, f"{path.name} holds {array.dtype.str}, not {DTYPES[name]}")
    return read_only(array)


def _require_sound(folder: Path, graph: Graph, shape: tuple[int, ...]) -> None:
    """Refuse numbers that would lead a compiled search, which tests none, out of its arrays."""
    n_donors, n_features = shape
    n_axes = graph.axes.shape[-1]
    sound = (
        graph.places.shape == (n_donors, n_axes)
        and graph.axes.shape == (n_features, n_axes)
        and graph.indptr.shape == (n_donors + 1,)
        and graph.indptr[0] == 0
        and graph.indices.shape == (graph.indptr[-1],)
        and bool((np.diff(graph.indptr) >= 0).all())
        and all(
            donors.ndim == 1 and bool(((donors >= 0) & (donors < n_donors)).all())
            for donors in (graph.indices, graph.starts)
        )
    )
    if not sound:
        raise _damaged(folder, "a number leads out of the graph")


def _damaged(folder: Path, what: str) -> ModelError:
    return ModelError(f"{folder} is damaged: {what}; build the index again.")
