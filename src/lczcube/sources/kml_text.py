"""The text of KML and KMZ files, unpacked and decoded without trusting the file."""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from lczcube.errors import SourceError
from lczcube.sources.files import first_line, is_remote

MEGABYTE = 1_000_000

MAX_ENTRIES = 1_000
"""Most entries of a KMZ: a KML and its icons."""

MAX_RATIO = 200
"""Most bytes that one packed byte may give: KML of coordinates gives 5, of empty folders 50."""

_MAIN_ENTRY = "doc.kml"
_ZIP_START = b"PK\x03\x04"
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCODINGS = ("utf-8", "us-ascii", "ascii", "iso-8859-1", "latin-1", "windows-1252")
_DECLARED = re.compile(rb"""^\s*<\?xml[^>]*?encoding\s*=\s*["']([\w.-]+)["']""")
_PROLOG = re.compile(r"\s*(?:<\?.*?\?>\s*|<!--.*?-->\s*)*", re.DOTALL)
_ELEMENT = re.compile(r"<[A-Za-z_]")


def read_kml_text(href: str, *, max_mb: float) -> tuple[str, int]:
    """The text of a KML or KMZ from its first element on, and its size in bytes.

    Parameters
    ----------
    href : str
        Local; a KMZ is known by its first bytes, not by its name.
    max_mb : float
        Largest text read, MB.

    Raises
    ------
    SourceError
        If it is too large, not local, no text, or declares a document type; for a KMZ also if it
        holds no KML, climbs out of its folder, or unpacks to far more than it holds.

    Notes
    -----
    What comes before the first element is cut off, and a document type can stand nowhere else: a
    parser can neither fetch nor expand anything.
    """
    if is_remote(href):
        raise SourceError(f"{href} is not local; KML is read from files alone: fetch it first.")
    where, limit = Path(href), int(max_mb * MEGABYTE)
    _require_size(where.stat().st_size, limit, where)
    packed = where.read_bytes()
    text = _unpacked(packed, limit, where) if packed.startswith(_ZIP_START) else packed
    return _without_prolog(_decoded(text, where), where), len(text)


def _require_size(n_bytes: int, limit: int, where: Path) -> None:
    if n_bytes > limit:
        raise SourceError(
            f"{where} holds {n_bytes / MEGABYTE:.1f} MB of KML; up to {limit / MEGABYTE:g} MB are "
            "read. Cut it to the city, convert it to GeoPackage, or raise max_mb of training_areas."
        )


def _unpacked(packed: bytes, limit: int, where: Path) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            entry = _main_entry(archive, where)
            _require_size(entry.file_size, limit, where)
            _require_plausible(entry, where)
            with archive.open(entry) as stream:
                text = stream.read(limit)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise SourceError(
            f"{where} cannot be unpacked ({first_line(error)}); fetch it again."
        ) from error
    return text


def _require_plausible(entry: zipfile.ZipInfo, where: Path) -> None:
    if entry.compress_type not in _METHODS:
        raise SourceError(
            f"{where} is packed by method {entry.compress_type}; KMZ files are deflated (8). Pack "
            "it again."
        )
    if entry.file_size > MAX_RATIO * max(entry.compress_size, 1):
        raise SourceError(
            f"{where} unpacks {entry.compress_size} bytes to {entry.file_size}, over {MAX_RATIO} "
            "times as much; no KML packs so well. Unpack it yourself if you trust it."
        )


def _main_entry(archive: zipfile.ZipFile, where: Path) -> zipfile.ZipInfo:
    entries = archive.infolist()
    if len(entries) > MAX_ENTRIES:
        raise SourceError(
            f"{where} holds {len(entries)} files; a KMZ of training areas holds a few, at most "
            f"{MAX_ENTRIES} are accepted. Unpack its KML and name that."
        )
    for entry in entries:
        parts = PurePosixPath(entry.filename.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or ":" in entry.filename:
            raise SourceError(
                f"{where} holds a file that climbs out of its folder ({entry.filename!r}); it is "
                "not read. Unpack its KML yourself if you trust it."
            )
    kmls = [entry for entry in entries if entry.filename.lower().endswith(".kml")]
    if not kmls:
        raise SourceError(f"{where} is a zip file without a KML; name the right file.")
    return next((entry for entry in kmls if entry.filename == _MAIN_ENTRY), kmls[0])


def _decoded(text: bytes, where: Path) -> str:
    declared = _DECLARED.match(text[:200])
    encoding = declared[1].decode("ascii").lower() if declared else "utf-8"
    if text.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    elif encoding not in _ENCODINGS:
        raise SourceError(f"{where} is encoded as {encoding!r}; store it as UTF-8.")
    try:
        decoded = text.decode("utf-8-sig" if encoding == "utf-8" else encoding)
    except UnicodeDecodeError as error:
        raise SourceError(f"{where} is no {encoding} text; store it as UTF-8.") from error
    return decoded


def _without_prolog(text: str, where: Path) -> str:
    """The text from its first element on: only before that can a document type stand."""
    prolog = _PROLOG.match(text)
    start = 0 if prolog is None else prolog.end()
    if text.startswith("<!", start):
        raise SourceError(
            f"{where} declares a document type, which may name entities and other files; KML needs "
            "none. Delete the <!DOCTYPE ...> if you trust the file."
        )
    # A parser guesses the encoding by the first bytes: two of ASCII leave it UTF-8.
    if not _ELEMENT.match(text, start):
        raise SourceError(f"{where} is no KML: no element begins it; save it again as KML.")
    return text[start:]
