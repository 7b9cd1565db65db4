"""Where a store lies: a folder, or a prefix of an object store; one door to both.

A file is written whole or not at all: in a folder under another name that is changed when its bytes
are durable, in an object store by one put. What a place cannot do is a StoreError with the remedy.
Credentials of object stores are in no name and no message.
"""

import errno
import json
import math
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from lczcube.errors import MissingExtraError, StoreError

if TYPE_CHECKING:
    from zarr.abc.store import Store

PARTIAL = ".partial"

LEASE_S = 120.0
"""Seconds for which the lock of an object store is taken; renewed after each third of them."""

_LEASE = "lease.json"

_REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of your quota",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
    errno.EACCES: "get the right to write there",
    errno.EPERM: "get the right to write there",
    errno.EROFS: "have it mounted for writing",
}

Held = Callable[[], None]
"""Raises a StoreError where a lock that was taken is no longer ours."""


class Place(Protocol):
    """Files by key, such as ``pixels/lcz/zarr.json``, below one name."""

    @property
    def name(self) -> str:
        """What messages call it."""

    def with_suffix(self, suffix: str) -> "Place":
        """The place beside it, its name and a suffix."""

    def exists(self) -> bool:
        """True where it holds anything."""

    def make(self) -> None:
        """Make it, empty, where places can be."""

    def all_keys(self) -> list[str]:
        """Keys of all files, sorted."""

    def read(self, key: str) -> bytes | None:
        """A file, None where there is none."""

    def size(self, key: str) -> int | None:
        """Bytes of a file, None where there is none."""

    def write(self, key: str, content: bytes | memoryview) -> None:
        """Write a file, whole and durable."""

    def delete(self, key: str) -> None:
        """Remove a file, if it is there."""

    def remove(self) -> None:
        """Remove all files."""

    def sweep(self) -> None:
        """Remove what killed writers left half-written."""

    def locked(self) -> AbstractContextManager[Held]:
        """Keep a second writer out."""

    def to_zarr(self) -> "Store":
        """It as a store of zarr, for reading."""


def place_of(store: str | Path, storage_options: Mapping[str, Any] | None = None) -> Place:
    """The place that a path or a URL names; of a link to a folder, the folder.

    Parameters
    ----------
    store : str or pathlib.Path
        A folder, or the URL of a prefix of an object store, ``s3://bucket/key.zarr``.
    storage_options : mapping, optional
        Of an object store, as :func:`obstore.store.from_url` takes them: ``region``, ``endpoint``,
        ``access_key_id``. Default: those of the environment.

    Raises
    ------
    StoreError
        If a URL has a query, a fragment, a user or a password.
    MissingExtraError
        If obstore is not installed and the store is a URL.
    """
    if not isinstance(store, str) or "://" not in store:
        path = Path(store)
        return Folder(path.resolve() if path.is_symlink() else path)
    if "?" in store or "#" in store or "@" in urlsplit(store).netloc:
        raise StoreError(
            f"{_without_secrets(store)} was given with a user, a password, or what follows ? or #; "
            "name the prefix alone, and pass what else is needed as storage_options."
        )
    try:
        import obstore  # noqa: F401 (only whether it is there)
    except ImportError as error:
        raise MissingExtraError(
            f"{_without_secrets(store)} is in an object store, which obstore reads; "
            "pip install 'lczcube[cloud]'."
        ) from error
    return Bucket(store.rstrip("/"), dict(storage_options or {}))


@dataclass(frozen=True)
class Folder:
    """A folder of this machine's file systems; see :class:`Place`."""

    path: Path

    @property
    def name(self) -> str:
        """Its path."""
        return str(self.path)

    def with_suffix(self, suffix: str) -> "Folder":
        """``NAME`` and the suffix."""
        return Folder(self.path.with_name(self.path.name + suffix))

    def exists(self) -> bool:
        """True where the folder holds anything."""
        return self.path.is_dir() and any(self.path.iterdir())

    def make(self) -> None:
        """Make the folder."""
        with _with_remedy(self.path):
            self.path.mkdir(parents=True, exist_ok=True)

    def all_keys(self) -> list[str]:
        """Paths below it, sorted."""
        files = (path for path in self.path.rglob("*") if path.is_file())
        return sorted(path.relative_to(self.path).as_posix() for path in files)

    def read(self, key: str) -> bytes | None:
        """A file, None where there is none."""
        try:
            return (self.path / key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def size(self, key: str) -> int | None:
        """Bytes of a file, None where there is none."""
        try:
            return (self.path / key).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, key: str, content: bytes | memoryview) -> None:
        """Write a file, whole and durable.

        Folders are not synced: a name that a crash of the machine takes is missing when the store
        is gone on with, and is written again.
        """
        path = self.path / key
        partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL}")
        with _with_remedy(self.path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with partial.open("wb") as stream:
                    stream.write(content)
                    stream.flush()
                    os.fsync(stream.fileno())
                partial.replace(path)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise

    def delete(self, key: str) -> None:
        """Remove a file, if it is there."""
        with _with_remedy(self.path):
            (self.path / key).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder."""
        with _with_remedy(self.path):
            if self.path.exists():
                shutil.rmtree(self.path)

    def sweep(self) -> None:
        """Remove what killed writers left half-written."""
        with _with_remedy(self.path):
            for leftover in self.path.rglob(f"*{PARTIAL}"):
                leftover.unlink(missing_ok=True)

    def move_to(self, other: "Folder") -> None:
        """Give it another name, at which nothing may be."""
        with _with_remedy(other.path):
            self.path.rename(other.path)

    @contextmanager
    def locked(self) -> Iterator[Held]:
        """Keep a second writer out; the system frees the lock of a process that dies."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.path.with_name(f".{self.path.name}.lock"), timeout=0)
        with _with_remedy(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire()
            except Timeout as error:
                raise _is_locked(self.name, "wait for it, or stop it first") from error
        try:
            yield lambda: None
        finally:
            lock.release()

    def to_zarr(self) -> "Store":
        """It as a store of zarr, for reading."""
        from zarr.storage import LocalStore

        return LocalStore(self.path, read_only=True)


@dataclass(frozen=True)
class Bucket:
    """A prefix of an object store; see :class:`Place`."""

    url: str
    options: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """Its URL, without what may be secret."""
        return _without_secrets(self.url)

    @property
    def _objects(self) -> Any:
        from obstore.store import from_url

        return from_url(self.url, **self.options)

    def with_suffix(self, suffix: str) -> "Bucket":
        """``URL`` and the suffix."""
        return replace(self, url=self.url + suffix)

    def exists(self) -> bool:
        """True where it holds an object."""
        return bool(self.all_keys())

    def make(self) -> None:
        """Nothing: a prefix is there with its first object."""

    def all_keys(self) -> list[str]:
        """Keys below it, sorted."""
        import obstore

        with _with_remedy_of_bucket(self.name):
            batches = list(obstore.list(self._objects))
        return sorted(str(each["path"]) for batch in batches for each in batch)

    def read(self, key: str) -> bytes | None:
        """An object, None where there is none."""
        import obstore

        with _with_remedy_of_bucket(self.name):
            try:
                return bytes(obstore.get(self._objects, key).bytes())
            except FileNotFoundError:
                return None

    def size(self, key: str) -> int | None:
        """Bytes of an object, None where there is none."""
        import obstore

        with _with_remedy_of_bucket(self.name):
            try:
                return int(obstore.head(self._objects, key)["size"])
            except FileNotFoundError:
                return None

    def write(self, key: str, content: bytes | memoryview) -> None:
        """Write an object: all of it is there or none."""
        import obstore

        with _with_remedy_of_bucket(self.name):
            obstore.put(self._objects, key, content)

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        import obstore

        with _with_remedy_of_bucket(self.name):
            try:
                obstore.delete(self._objects, key)
            except FileNotFoundError:
                return

    def remove(self) -> None:
        """Remove all objects below it."""
        import obstore

        keys = self.all_keys()
        with _with_remedy_of_bucket(self.name):
            if keys:
                obstore.delete(self._objects, keys)

    def sweep(self) -> None:
        """Nothing: no object is ever half-written."""

    @contextmanager
    def locked(self) -> Iterator[Held]:
        """Keep a second writer out, by a lease of :data:`LEASE_S` that is renewed while we write.

        The lease is an object ``URL.lock/lease.json`` with an owner, drawn at random, and the
        second at which it ends. One that a dead writer left is taken over when it has ended. What
        cannot be renewed is tried again while it lasts; when it has ended it is no longer ours.
        """
        lease = _Lease(self.with_suffix(".lock"))
        lease.take()
        stop = threading.Event()
        renewing = threading.Thread(target=lease.keep, args=(stop,), daemon=True)
        renewing.start()
        try:
            yield lease.require_held
        finally:
            stop.set()
            renewing.join()
            lease.give_back()

    def to_zarr(self) -> "Store":
        """It as a store of zarr, for reading."""
        from zarr.storage import ObjectStore

        return ObjectStore(self._objects, read_only=True)


class _Lease:
    """The right to write to an object store until a time; each change hangs on the last one."""

    def __init__(self, place: Bucket) -> None:
        self.place = place
        self.owner = uuid.uuid4().hex
        self.held_until_s = -math.inf  # of the monotonic clock

    def take(self) -> None:
        from obstore.exceptions import AlreadyExistsError

        with _with_remedy_of_bucket(self.place.name):
            try:
                self._put("create")
            except AlreadyExistsError:
                held, e_tag = self._stored()
                left_s = held["ends_s"] - time.time()
                if left_s > 0:
                    remedy = f"wait for it, or {left_s:.0f} s if it was stopped"
                    raise _is_locked(self.place.name.removesuffix(".lock"), remedy) from None
                self._put({"e_tag": e_tag})

    def keep(self, stop: threading.Event) -> None:
        """Renew the lease until told to stop, or until it is lost."""
        wait_s = LEASE_S / 3
        while not stop.wait(wait_s) and self._is_held():
            try:
                self._renew()
                wait_s = LEASE_S / 3
            except Exception:  # whatever it was, try again while there is time
                wait_s = LEASE_S / 30

    def require_held(self) -> None:
        if not self._is_held():
            raise StoreError(
                f"{self.place.name} was not renewed in {LEASE_S:.0f} s, and another process may "
                "write; give the same command again: it goes on where it stopped."
            )

    def give_back(self) -> None:
        """Remove the lease where it is ours; one that cannot be removed ends by itself."""
        with suppress(StoreError), _with_remedy_of_bucket(self.place.name):
            if self._is_held() and self._stored()[0]["owner"] == self.owner:
                self.place.delete(_LEASE)

    def _is_held(self) -> bool:
        return time.monotonic() < self.held_until_s

    def _renew(self) -> None:
        """Read it first: an answer that was lost may have been of a renewal that was done."""
        held, e_tag = self._stored()
        if held["owner"] == self.owner:
            self._put({"e_tag": e_tag})
        else:
            self.held_until_s = -math.inf

    def _stored(self) -> tuple[dict[str, Any], str | None]:
        import obstore

        held = obstore.get(self.place._objects, _LEASE)
        return json.loads(bytes(held.bytes())), held.meta["e_tag"]

    def _put(self, mode: Any) -> None:
        import obstore

        began_s = time.monotonic()
        content = json.dumps({"owner": self.owner, "ends_s": math.ceil(time.time() + LEASE_S)})
        obstore.put(self.place._objects, _LEASE, content.encode(), mode=mode)
        self.held_until_s = began_s + LEASE_S


def _is_locked(name: str, remedy: str) -> StoreError:
    return StoreError(f"{name} is being written by another process; {remedy}.")


@contextmanager
def _with_remedy(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "see to it")
        raise StoreError(
            f"{path} cannot be written ({error.strerror or error}); {remedy} and give the same "
            "command again: it goes on where it stopped."
        ) from error


@contextmanager
def _with_remedy_of_bucket(name: str) -> Iterator[None]:
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, OSError) as error:
        raise StoreError(
            f"{name} cannot be reached or written ({type(error).__name__}); check the bucket, "
            "storage_options and your rights, and give the same command again: it goes on where "
            "it stopped."
        ) from error


def _without_secrets(url: str) -> str:
    """A URL without user, password and query."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"
