"""The folder of a catalog: written beside it first, then moved in, and never past its edge."""

from __future__ import annotations

import filecmp
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from lczcube.catalog.documents import CATALOG_FILE
from lczcube.catalog.record import RECORD_FOLDER, record_name
from lczcube.errors import CatalogError

_SAFE_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Outputs:
    """What a build publishes.

    Attributes
    ----------
    staging : pathlib.Path
        Where new files wait; not inside ``target``.
    target : pathlib.Path
        The catalog's folder.
    names : set of str
        All files that belong to it now, new or as they were, relative to it.
    """

    staging: Path
    target: Path
    names: set[str] = field(default_factory=set)

    def write_text(self, name: str, text: str) -> None:
        """Put a text where it waits, unless it is published already."""
        content = text.encode()
        if not _holds(self.target / _inside(name), content):
            self.new(name).write_bytes(content)
        self.names.add(name)

    def new(self, name: str) -> Path:
        """Where a new file of a name is to be written.

        Raises
        ------
        CatalogError
            If the name leads out of the folder: it comes from a record that no build wrote.
        """
        path = self.staging / _inside(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.names.add(name)
        return path

    def keep(self, names: Collection[str]) -> None:
        """Files that stay as they are."""
        self.names.update(names)


def require_ours(target: Path, catalog_id: str, *, overwrite: bool) -> None:
    """Raise unless a folder is free, or holds a catalog of this id.

    Raises
    ------
    CatalogError
        Naming what it holds.
    """
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


def require_no_way_out(target: Path, names: Collection[str]) -> None:
    """Raise where a folder that would be written to is a link to elsewhere.

    Raises
    ------
    CatalogError
        Naming the link.
    """
    inside = [target / RECORD_FOLDER]
    inside += [target / name / below for name in names for below in ("", "items")]
    for folder in inside:
        if folder.is_symlink():
            raise CatalogError(
                f"{folder} is a link to {folder.readlink()}; a build writes inside {target} only. "
                "Remove the link, or name a new folder."
            )


@contextmanager
def staging_folder(target: Path) -> Iterator[Path]:
    """A folder beside a catalog's, gone when it is left; with the parents that nothing came of."""
    folder = target.parent / f".{target.name}.partial"
    made = [path for path in target.parents if not path.exists()]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for path in made:
            with suppress(OSError):  # it holds the catalog
                path.rmdir()


def collections_in(target: Path) -> list[str]:
    """Names of the collections of a catalog whose folders lie in its own."""
    import pystac

    if not (target / CATALOG_FILE).is_file():
        return []
    held = pystac.Catalog.from_file(str(target / CATALOG_FILE))
    names = [Path(link.href).parent.name for link in held.get_child_links()]
    return [name for name in names if _SAFE_NAME.fullmatch(name)]


def publish(outputs: Outputs, touched: Collection[str]) -> None:
    """Move new files in, and remove those of touched collections that no longer belong.

    ``touched`` are the collections that are new, changed, or no longer named.
    """
    staging, target = outputs.staging, outputs.target
    if not target.exists() or not any(target.iterdir()):
        staging.replace(target)
        return
    stale = [name for name in _owned(target, touched) if name not in outputs.names]
    # The catalog names the rest, so it comes last: a reader never finds a link to nothing.
    new = sorted(path.relative_to(staging) for path in staging.rglob("*") if path.is_file())
    for path in sorted(new, key=lambda path: path == Path(CATALOG_FILE)):
        _replace(staging / path, target / path)
    for name in stale:
        (target / name).unlink()
        _remove_empty((target / name).parent, target)


def _inside(name: str) -> str:
    if not all(_SAFE_PART.fullmatch(part) for part in name.split("/")):
        raise CatalogError(
            f"{name!r} leads out of the catalog, which somebody else's {RECORD_FOLDER} names; "
            "delete that folder, and build again."
        )
    return name


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except OSError:
        return False


def _owned(target: Path, names: Collection[str]) -> list[str]:
    """Files of collections that a build wrote."""
    patterns = ("{0}.parquet", "{0}/collection.json", "{0}/items/*.json", "{0}/*.parquet")
    files = {
        path
        for name in names
        for pattern in (*patterns, record_name("{0}"))
        for path in target.glob(pattern.format(name))
    }
    return sorted(path.relative_to(target).as_posix() for path in files)


def _replace(src: Path, dst: Path) -> None:
    if dst.is_file() and filecmp.cmp(src, dst, shallow=False):
        return
    dst.parent.mkdir(parents=True, exist_ok=True)
    src.replace(dst)


def _remove_empty(folder: Path, target: Path) -> None:
    while folder != target and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
