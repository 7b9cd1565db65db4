"""Files of an input: from an ``href`` to the files it names, and what is known of each."""

import glob
import hashlib
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import TypeVar

from lczcube.errors import ConfigError, LczcubeError, MissingInputError, SourceError
from lczcube.sources.inputs import Input
from lczcube.sources.items import PARQUET_TYPE, safe_id

HASH_BLOCK_BYTES = 1 << 20

MEDIA_TYPES = {
    ".csv": "text/csv",
    ".fgb": "application/vnd.flatgeobuf",
    ".geojson": "application/geo+json",
    ".gpkg": "application/geopackage+sqlite3",
    ".h5": "application/x-hdf5",
    ".jp2": "image/jp2",
    ".json": "application/geo+json",
    ".kml": "application/vnd.google-earth.kml+xml",
    ".kmz": "application/vnd.google-earth.kmz",
    ".npy": "application/x-npy",
    ".parquet": PARQUET_TYPE,
    ".shp": "application/vnd.shp",
    ".tif": "image/tiff; application=geotiff",
    ".tiff": "image/tiff; application=geotiff",
    ".vrt": "application/x-gdal-vrt",
}

_VARIABLE = re.compile(r"\$\{([A-Za-z_]\w*)(?::-([^}]*))?\}")
_USER_INFO = re.compile(r"(://)[^/@\s]+@")
_QUERY = re.compile(r"(://[^\s?'\"]+)\?[^\s'\"]+")
_SECRET_QUERY = re.compile(
    r"[?&](sig|signature|x-(amz|goog)-(signature|credential|security-token)|"
    r"(access_?)?token|api_?key|password)=",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class SourceFile:
    """One file of an input.

    Attributes
    ----------
    href : str
        Absolute POSIX path, or a URL.
    item_id : str
        Id of the item it becomes.
    year : int or None
        Year it is of.
    city : str
        City it belongs to, ``""`` if unknown.
    is_found : bool
        True where a folder was searched for it, False where ``href`` names it.
    fault : LczcubeError or None
        Why it cannot be registered, where that showed before it was opened.
    """

    href: str
    item_id: str
    year: int | None
    city: str
    is_found: bool = False
    fault: LczcubeError | None = None


_silence_lock = Lock()
_silences: "list[warnings.catch_warnings[None]]" = []  # the same one, for each that is inside

AnyFile = TypeVar("AnyFile", bound=SourceFile)

Search = Callable[[Path], list[str]]
"""Gives the hrefs that a source takes from a folder, sorted."""


def expand_hrefs(entry: Input, *, folder: Path, cities: Sequence[str]) -> list[SourceFile]:
    """The files an input names, in order; a file that is not there is kept, and fails later.

    Parameters
    ----------
    entry : Input
        An ``[[input]]`` table.
    folder : pathlib.Path
        What relative paths start from: the folder of the TOML file.
    cities : sequence of str
        What ``{city}`` stands for.

    Returns
    -------
    list of SourceFile
        ``{city}`` and ``{year}`` give one href each. ``${VAR}`` and ``${VAR:-default}`` come from
        the environment. A path that exists is taken as it is written, brackets and all; else it
        is a glob. A folder gives its files, by suffix.

    Raises
    ------
    ConfigError
        If a variable is not set, ``{city}`` stands for nothing, or a URL holds a credential.
    """

    def search(path: Path) -> list[str]:
        return _files_of(path, entry.suffixes)

    return with_ids(entry, find_hrefs(entry, folder=folder, cities=cities, search=search))


def find_hrefs(
    entry: Input, *, folder: Path, cities: Sequence[str], search: Search
) -> list[SourceFile]:
    """As :func:`expand_hrefs`, but without ids, and with a folder searched by ``search``.

    A folder without a file of the source is kept as it is, and fails later.
    """
    named = {
        (href, year): SourceFile(href, "", year, city, is_found)
        for template in entry.href
        for filled, year, city in _fill(template, entry, cities)
        for href, is_found in _find(filled, entry, folder, search)
    }
    return list(named.values())


def with_year(entry: Input, file: AnyFile, told: int | None) -> AnyFile | None:
    """A file with the year that its path tells, for sources whose paths do.

    Parameters
    ----------
    entry : Input
        ``year`` and ``years`` say which years are wanted; neither: all.
    file : SourceFile
        ``year`` is set where ``{year}`` in ``href`` says so.
    told : int or None
        Year in the path; None where it has none.

    Returns
    -------
    SourceFile or None
        None for a file that a search found and no year wants. A file that ``href`` names is
        wanted: a year that contradicts is its ``fault``.
    """
    wanted = entry.all_years if file.year is None else (file.year,)
    if told is None:
        if len(wanted) == 1:
            return replace(file, year=wanted[0])
        return replace(
            file,
            fault=SourceError(
                f"{file.href} has no year in its path; keep it in a folder named after its year, "
                "or set year in an input of its own."
            ),
        )
    if not wanted or told in wanted:
        return replace(file, year=told)
    if file.is_found:
        return None
    listed = ", ".join(map(str, wanted))
    return replace(
        file,
        year=told,
        fault=SourceError(
            f"{file.href} is of {told} by its path, but the input wants {listed}; "
            "correct year, or href."
        ),
    )


def resolve_path(text: str, entry: Input, folder: Path) -> str:
    """One path or URL of an input in full: variables from the environment, absolute.

    Raises
    ------
    ConfigError
        If a variable is not set, or a URL holds a credential.
    """
    filled = _from_environment(text, entry, escape=False)
    if is_remote(filled):
        require_public(filled, entry)
        return filled
    return Path(os.path.abspath(folder / filled)).as_posix()


def require_public(href: str, entry: Input) -> None:
    """Raise for a URL that holds a credential, which would be written to the catalog.

    Raises
    ------
    ConfigError
        Naming the URL without its secret.
    """
    if _USER_INFO.search(href) or _SECRET_QUERY.search(href):
        raise ConfigError(
            f"input {entry.name!r}: href {redact(href)} holds a credential, which would be written "
            "to the catalog; give it to GDAL by its environment (GDAL_HTTP_NETRC, AWS_PROFILE)."
        )


def with_ids(entry: Input, files: Sequence[AnyFile]) -> list[AnyFile]:
    """Files with an id each: name, year of a raster, and stem; a number where two would be one."""
    taken: set[str] = set()
    numbered = []
    for file in files:
        wanted = _item_id(entry, file)
        item_id, n = wanted, 1
        while item_id.lower() in taken:
            n += 1
            item_id = f"{wanted}-{n}"
        taken.add(item_id.lower())
        numbered.append(replace(file, item_id=item_id))
    return numbered


def require_file(file: SourceFile) -> None:
    """Raise unless a local file is there.

    Raises
    ------
    MissingInputError
        If there is no such file.
    SourceError
        If it is a folder without files of the source, or an empty file.
    """
    if is_remote(file.href):
        return
    path = Path(file.href)
    if path.is_dir():
        raise SourceError(f"{path} is a folder without a file of this source; name the files.")
    if not path.is_file():
        raise MissingInputError(f"{path} is not there; check href, or fetch the file.")
    if path.stat().st_size == 0:
        raise SourceError(f"{path} is empty (0 bytes); fetch it again.")


def file_facts(href: str, *, checksum: bool = True) -> dict[str, int | str]:
    """``file:size`` (bytes) and ``file:checksum`` (multihash, SHA-256) of a local file.

    Reads the whole file, unless ``checksum`` is false: only the size then. A URL gives no facts.
    """
    if is_remote(href):
        return {}
    if not checksum:
        return {"file:size": Path(href).stat().st_size}
    digest = hashlib.sha256()
    with Path(href).open("rb") as stream:
        while block := stream.read(HASH_BLOCK_BYTES):
            digest.update(block)
    return {
        "file:size": Path(href).stat().st_size,
        "file:checksum": f"1220{digest.hexdigest()}",
    }


def media_type(href: str) -> str:
    """Media type by suffix."""
    return MEDIA_TYPES.get(_suffix(href), "application/octet-stream")


def stem(href: str) -> str:
    """File name without folder, suffix and query."""
    return Path(href.split("?", maxsplit=1)[0]).stem if is_remote(href) else Path(href).stem


def is_remote(href: str) -> bool:
    """True for a URL or a GDAL virtual path, which are passed on as given."""
    return "://" in href or href.startswith("/vsi")


def redact(text: str) -> str:
    """``text`` with user, password and query of every URL in it masked.

    Examples
    --------
    >>> redact("cannot read https://me:secret@host/a.tif?sig=1")
    'cannot read https://***@host/a.tif?***'
    """
    return _QUERY.sub(r"\1?***", _USER_INFO.sub(r"\1***@", text))


def first_line(error: Exception) -> str:
    """First line of an error's message, without secrets and final stop."""
    lines = str(error).strip().splitlines()
    return redact(lines[0]).rstrip(".") if lines else type(error).__name__


@contextmanager
def without_warnings() -> Iterator[None]:
    """No warning is shown or raised inside, in any number of threads at once.

    ``warnings.catch_warnings`` alone restores in the order of leaving, and so leaks from one thread
    to another: here the first to enter silences, the last to leave restores.
    """
    with _silence_lock:
        silence = _silences[0] if _silences else warnings.catch_warnings()
        if not _silences:
            silence.__enter__()
            warnings.simplefilter("ignore")
        _silences.append(silence)
    try:
        yield
    finally:
        with _silence_lock:
            _silences.pop()
            if not _silences:
                silence.__exit__(None, None, None)


def _fill(
    template: str, entry: Input, cities: Sequence[str]
) -> Iterator[tuple[str, int | None, str]]:
    names = (entry.city,) if entry.city else tuple(cities)
    if "{city}" not in template:
        names = (entry.city or "",)
    elif not names:
        raise ConfigError(
            f"input {entry.name!r} has {{city}} in href but the file names no city; "
            "add a [city.NAME] table, or city = to the input."
        )
    years: tuple[int | None, ...] = entry.all_years or (None,)
    if entry.years_in_paths and "{year}" not in template:
        years = (None,)
    for city in names:
        for year in years:
            yield template.replace("{city}", city).replace("{year}", str(year)), year, city


def _find(filled: str, entry: Input, folder: Path, search: Search) -> list[tuple[str, bool]]:
    """Hrefs, each with True where a folder was searched for it."""
    literal = resolve_path(filled, entry, folder)
    if is_remote(literal):
        return [(literal, False)]
    path = Path(literal)
    if path.is_dir():
        return [(href, True) for href in search(path)] or [(path.as_posix(), False)]
    if path.exists() or not glob.has_magic(_VARIABLE.sub("", filled)):
        return [(path.as_posix(), False)]
    pattern = os.path.join(glob.escape(str(folder)), _from_environment(filled, entry, escape=True))
    found = (Path(os.path.abspath(match)) for match in glob.glob(pattern, recursive=True))
    files = sorted(match.as_posix() for match in found if match.is_file())
    return [(href, False) for href in files or [path.as_posix()]]


def _from_environment(text: str, entry: Input, *, escape: bool) -> str:
    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1]) or match[2]
        if not found:
            raise ConfigError(
                f"input {entry.name!r}: environment variable {match[1]} is not set; "
                f"set it, or write ${{{match[1]}:-default}} in href."
            )
        return glob.escape(found) if escape else found

    return _VARIABLE.sub(value, text)


def _files_of(folder: Path, suffixes: Sequence[str]) -> list[str]:
    return sorted(
        path.as_posix()
        for path in folder.iterdir()
        if path.is_file() and path.suffix.lower() in suffixes
    )


def _item_id(entry: Input, file: SourceFile) -> str:
    year = [str(file.year)] if entry.kind == "raster" and file.year is not None else []
    return "_".join([entry.name, *year, safe_id(stem(file.href)) or "file"])


def _suffix(href: str) -> str:
    return Path(href.split("?", maxsplit=1)[0] if is_remote(href) else href).suffix.lower()
