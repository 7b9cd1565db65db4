"""The public collection of all training areas of the LCZ Generator, one GeoPackage of the world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from lczcube.errors import SourceError
from lczcube.sources.files import SourceFile, first_line
from lczcube.sources.footprints import BBox
from lczcube.sources.label_tables import Rows, column_of
from lczcube.sources.polygons import polygon_rows

if TYPE_CHECKING:
    import geopandas as gpd
    import numpy.typing as npt
    import pandas as pd

CLASS, GROUP, DATE, LICENSE = "class", "submission_id", "representative_date", "license"
"""Columns of the collection: class 1-19, submission, date and licence of each area."""

EXTRA_CLASSES = (18, 19)

FIRST_YEAR, LAST_YEAR = 1900, 2100

_TRUE = ("true", "t", "1", "yes")


@dataclass(frozen=True)
class CollectionFile(SourceFile):
    """A file of the collection, and where areas of it are wanted.

    Attributes
    ----------
    boxes : tuple of tuple of float
        Bboxes in EPSG:4326; empty for all of the world.
    """

    boxes: tuple[BBox, ...] = ()

    @classmethod
    def of(cls, file: SourceFile, boxes: tuple[BBox, ...]) -> Self:
        """A file as one of the collection."""
        return cls(**vars(file), boxes=boxes)


def read_rows(file: CollectionFile, *, qc_steps: Sequence[int] = ()) -> Rows:
    """Labels of the collection near the wanted places, each with its year and licence.

    Parameters
    ----------
    file : CollectionFile
        A GeoPackage whose layer has the columns ``class``, ``submission_id``,
        ``representative_date`` and ``license``.
    qc_steps : sequence of int
        Only areas whose flags ``qc_step1`` ... of these steps are true.

    Returns
    -------
    Rows
        Groups are submissions. An area whose date cannot be read has the year of the input, or 0.

    Raises
    ------
    SourceError
        If the file cannot be read, lacks a column, or has no area near the places.
    """
    frame = _read(file)
    flags = [f"qc_step{step}" for step in qc_steps]
    passed = np.ones(len(frame), bool)
    for name in flags:
        passed &= _is_true(column_of(frame, name, "qc_steps", where=file.href))
    is_lcz = ~frame[CLASS].isin(EXTRA_CLASSES).to_numpy()
    kept = frame[passed & is_lcz].reset_index(names="id")
    years, n_undated = _years(kept[DATE], file.year)
    columns = {
        "lcz": kept[CLASS],
        "group": kept[GROUP],
        "id": kept["id"],
        "year": years,
        "license": kept[LICENSE].fillna("").astype(str),
    }
    rows = polygon_rows(kept, columns, file)
    counts = {
        "of classes 18 (W) and 19 (H) left out, which are no LCZ": int((~is_lcz).sum()),
        f"left out by {', '.join(flags)}": int((is_lcz & ~passed).sum()),
    }
    notes = [f"{n} areas {what}" for what, n in counts.items() if n]
    return replace(
        rows,
        n_dropped=rows.n_dropped + sum(counts.values()),
        properties={
            "lczcube:n_undated": n_undated,
            **({"lczcube:note": "; ".join(notes)} if notes else {}),
        },
    )


def _read(file: CollectionFile) -> gpd.GeoDataFrame:
    """Rows near the places, each once, by row number."""
    import pandas as pd
    import pyogrio

    try:
        layer, crs = _layer(file)
        parts = [
            pyogrio.read_dataframe(
                file.href,
                layer=layer,
                bbox=box,
                fid_as_index=True,
                force_2d=True,
                on_invalid="ignore",
            )
            for box in _boxes_in(crs, file.boxes)
        ]
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(
            f"{file.href} cannot be read as GeoPackage ({first_line(error)}); fetch it again."
        ) from error
    filled = [part for part in parts if len(part)]
    if not filled:
        raise SourceError(
            f"{file.href} has no training area within 5 km of a city; check bbox, or take it off "
            "the list."
        )
    frame = pd.concat(filled)
    return frame[~frame.index.duplicated()].sort_index()


def _layer(file: CollectionFile) -> tuple[str, Any]:
    import pyogrio

    wanted = {CLASS, GROUP, DATE, LICENSE}
    for name, geometry_type in pyogrio.list_layers(file.href):
        if geometry_type is not None:
            info = pyogrio.read_info(file.href, layer=name)
            if wanted <= set(info["fields"]):
                return str(name), info["crs"]
    raise SourceError(
        f"{file.href} is not the collection of training areas: no layer has the columns "
        f'{", ".join(sorted(wanted))}. For other GeoPackages use source = "polygons".'
    )


def _boxes_in(crs: Any, boxes: Sequence[BBox]) -> list[BBox | None]:
    from pyproj import Transformer

    if not boxes:
        return [None]
    there = Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    return [there.transform_bounds(*box) for box in boxes]


def _is_true(flags: pd.Series) -> npt.NDArray[np.bool_]:
    is_true: npt.NDArray[np.bool_] = (
        flags.astype(str).str.strip().str.lower().isin(_TRUE).to_numpy()
    )
    return is_true


def _years(dates: pd.Series, other: int | None) -> tuple[npt.NDArray[np.int32], int]:
    """Year of each date, and how many cannot be read, which get another."""
    import pandas as pd

    texts = dates.astype("string").str.strip()
    read = pd.to_datetime(texts, errors="coerce", format="ISO8601", utc=True).dt.year
    known = read.between(FIRST_YEAR, LAST_YEAR).to_numpy()
    years = np.where(known, read.fillna(0), other or 0).astype(np.int32)
    return years, int((~known).sum())
