"""Splits of So2Sat: the files on disk, which belong together, and what their rows are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lczcube.errors import LabelError, SourceError
from lczcube.lcz import N_CLASSES, NODATA
from lczcube.sources.files import SourceFile, is_remote, require_file
from lczcube.sources.hdf5 import open_hdf5, require_dataset, row_blocks
from lczcube.sources.so2sat_geo import MOST_ROWS, Geolocation, Origin, read_geolocation

SPLIT_NAMES = {
    "training": "training",
    "train-new": "training",
    "validation": "validation",
    "val-new": "validation",
    "testing": "testing",
    "test-new": "testing",
}
"""Split by name of its file; the second name of each is that of re-packs of version 3."""

V3_FOLDERS = ("random", "block", "culture_10")
"""Folders of version 3: each divides the same patches another way."""

GEO_SUFFIX = "_geo"

_V4 = "version 4 (mediaTUM 1836598, or zhu-xlab/So2Sat-LCZ42 on Hugging Face)"


@dataclass(frozen=True, eq=False)
class Split:
    """The rows of one split.

    Attributes
    ----------
    file : SourceFile
        As the input names it.
    name : str
        ``training``, ``validation`` or ``testing``.
    prefix : str
        What the ids of its patches begin with: the name, after the city where ``{city}`` is in
        href, and the folder of version 3.
    h5 : pathlib.Path or None
        Pixels and labels; None where the geolocation stands alone.
    geo : pathlib.Path
        The geolocation.
    patches : Geolocation
        Where each row lies.
    lcz : numpy.ndarray
        uint8: 1-17, or 0 throughout without ``h5``.
    """

    file: SourceFile
    name: str
    prefix: str
    h5: Path | None
    geo: Path
    patches: Geolocation
    lcz: npt.NDArray[np.uint8]


def find_splits(folder: Path) -> list[str]:
    """Hrefs of the splits in a folder, else in version 3's folders below it, sorted.

    Each once: the file of labels, or the geolocation where it stands alone.
    """
    for places in ([folder], [folder / name for name in V3_FOLDERS]):
        found = {_labels_path(path) for place in places for path in place.glob("*.h5")}
        hrefs = [
            (path if path.is_file() else _geo_path(path)).as_posix()
            for path in found
            if path.stem in SPLIT_NAMES
        ]
        if hrefs:
            return sorted(hrefs)
    return []


def read_split(file: SourceFile, *, origin: Origin) -> Split:
    """The geolocation of a split, and its labels where they are; no pixel.

    Raises
    ------
    MissingInputError
        If the file is not there.
    SourceError, LabelError
        If its name says no split, it has no geolocation, or one of the two cannot be used.
    """
    _require_local(file)
    require_file(file)
    h5 = _labels_path(Path(file.href))
    if h5.stem not in SPLIT_NAMES:
        raise SourceError(
            f"{file.href}: its name says no split; name it {', '.join(SPLIT_NAMES)} (.h5), and its "
            f"geolocation the same with {GEO_SUFFIX}."
        )
    geo = _geo_path(h5)
    if not geo.is_file():
        _raise_no_place(h5, geo)
    patches = read_geolocation(geo, origin=origin)
    lcz = read_lcz(h5) if h5.is_file() else np.full(len(patches), NODATA, dtype=np.uint8)
    if len(lcz) != len(patches):
        raise SourceError(
            f"{h5} has {len(lcz):,} rows and {geo.name} {len(patches):,}; they belong together row "
            f"by row. Fetch both of {_V4}."
        )
    name, folder = SPLIT_NAMES[h5.stem], h5.parent.name
    parts = [folder] if folder in V3_FOLDERS else []
    return Split(
        file=file,
        name=name,
        prefix="/".join([*parts, name]),
        h5=h5 if h5.is_file() else None,
        geo=geo,
        patches=patches,
        lcz=lcz,
    )


def read_lcz(path: Path) -> npt.NDArray[np.uint8]:
    """LCZ code, 1-17, of each row of ``label``; reads a block of rows at a time, and no pixel.

    Raises
    ------
    SourceError
        If it is no HDF5, or ``label`` is not there, not numbers, or not of 17 columns.
    LabelError
        If a row is not one-hot.
    """
    with open_hdf5(path) as file:
        label = require_dataset(file, "label")
        if label.ndim != 2 or label.shape[1] != N_CLASSES or label.dtype.kind not in "biuf":
            raise SourceError(
                f"{path}: label is {label.dtype} of shape {label.shape}; So2Sat's is one-hot, "
                f"numbers of shape (N, {N_CLASSES})."
            )
        if not 0 < label.shape[0] <= MOST_ROWS:
            raise SourceError(f"{path} has {label.shape[0]:,} rows; So2Sat's have up to 352,366.")
        lcz = np.empty(label.shape[0], dtype=np.uint8)
        is_one_hot = np.empty(label.shape[0], dtype=bool)
        for start, rows in row_blocks(label):
            block = slice(start, start + len(rows))
            is_one_hot[block] = ((rows == 0) | (rows == 1)).all(axis=1) & (rows.sum(axis=1) == 1)
            lcz[block] = rows.argmax(axis=1) + 1
    if not is_one_hot.all():
        raise LabelError(
            f"{path}: {int((~is_one_hot).sum())} of {len(lcz)} rows of label are not one-hot, the "
            f"first is row {int(np.argmin(is_one_hot))}; a row has one 1 and sixteen 0. Fetch the "
            "file again."
        )
    return lcz


def _labels_path(path: Path) -> Path:
    return path.with_name(f"{path.stem.removesuffix(GEO_SUFFIX)}{path.suffix}")


def _geo_path(labels: Path) -> Path:
    return labels.with_name(f"{labels.stem}{GEO_SUFFIX}{labels.suffix}")


def _require_local(file: SourceFile) -> None:
    if is_remote(file.href):
        raise SourceError(f"{file.href} is remote; fetch So2Sat's files, and name their folder.")
    path = Path(file.href)
    packed = sorted(path.glob("*.h5.gz")) if path.is_dir() else [path] * (path.suffix == ".gz")
    if packed:
        raise SourceError(f"{packed[0]} is packed; unpack it first (gunzip).")


def _raise_no_place(h5: Path, geo: Path) -> None:
    if h5.parent.name in V3_FOLDERS or h5.stem.endswith("-new"):
        raise SourceError(
            f"{h5} has labels without a place: there is no {geo.name} beside it, and the published "
            f"geolocation is not in the order of version 3. Use the files of {_V4}."
        )
    raise SourceError(
        f"{h5} has labels without a place: there is no {geo.name} beside it. Fetch it of {_V4}; "
        "it is in the order of versions 1 and 2."
    )
