"""The 17 Local Climate Zones: codes, letters, names, palettes, legacy codes and similarity.

Inside lczcube a zone is its ``lcz`` code: uint8, 1-10 built, 11-17 natural (A-G), 0 no data.
Other codings are translated at the border, by :func:`from_legacy`, :func:`code_of` and
:class:`CodeTable`.

References
----------
Stewart, I. D. & Oke, T. R. (2012). Local climate zones for urban temperature studies.
BAMS 93, 1879-1900, doi:10.1175/BAMS-D-11-00019.1 (zones and names).
Demuzere, M. et al. (2022). A global map of local climate zones. ESSD 14, 3835-3873,
doi:10.5194/essd-14-3835-2022 (both palettes: the raster's colour table and the readme's).
Bechtel, B., Demuzere, M. & Stewart, I. D. (2020). A weighted accuracy measure for land cover
mapping. Remote Sensing 12, 1769, doi:10.3390/rs12111769 (similarity).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from lczcube.errors import LabelError

NODATA = 0
N_CLASSES = 17

Palette = Literal["wudapt", "readme"]


@dataclass(frozen=True)
class Zone:
    """One Local Climate Zone.

    Attributes
    ----------
    code : int
        1-17, the value in every raster and table of lczcube.
    letter : str
        The published label: ``1`` to ``10`` and ``A`` to ``G``.
    name : str
        Name after Stewart & Oke (2012).
    wudapt, readme : str
        Colours, six upper-case hex digits: of the global raster's colour table (also WUDAPT and
        the LCZ Generator), and of its readme.
    legacy_code : int
        Code in old WUDAPT maps and GeoClimate: 1-10, 101-107.
    """

    code: int
    letter: str
    name: str
    wudapt: str
    readme: str
    legacy_code: int

    @property
    def slug(self) -> str:
        """``lcz_1`` ... ``lcz_10``, ``lcz_a`` ... ``lcz_g``: the name in STAC and CF metadata."""
        return f"lcz_{self.letter.lower()}"

    @property
    def is_built(self) -> bool:
        """True for the built types, codes 1-10."""
        return self.code <= 10

    def color(self, palette: Palette = "wudapt") -> str:
        """Six hex digits of the zone's colour in ``palette``."""
        return self.wudapt if palette == "wudapt" else self.readme


ZONES: tuple[Zone, ...] = (
    Zone(1, "1", "Compact high-rise", "8C0000", "910613", 1),
    Zone(2, "2", "Compact midrise", "D10000", "D9081C", 2),
    Zone(3, "3", "Compact low-rise", "FF0000", "FF0A22", 3),
    Zone(4, "4", "Open high-rise", "BF4D00", "C54F1E", 4),
    Zone(5, "5", "Open midrise", "FF6600", "FF6628", 5),
    Zone(6, "6", "Open low-rise", "FF9955", "FF985E", 6),
    Zone(7, "7", "Lightweight low-rise", "FAEE05", "FDED3F", 7),
    Zone(8, "8", "Large low-rise", "BCBCBC", "BBBBBB", 8),
    Zone(9, "9", "Sparsely built", "FFCCAA", "FFCBAB", 9),
    Zone(10, "10", "Heavy industry", "555555", "565656", 10),
    Zone(11, "A", "Dense trees", "006A00", "006A18", 101),
    Zone(12, "B", "Scattered trees", "00AA00", "00A926", 102),
    Zone(13, "C", "Bush, scrub", "648525", "628432", 103),
    Zone(14, "D", "Low plants", "B9DB79", "B5DA7F", 104),
    Zone(15, "E", "Bare rock or paved", "000000", "000000", 105),
    Zone(16, "F", "Bare soil or sand", "FBF7AE", "FCF7B1", 106),
    Zone(17, "G", "Water", "6A6AFF", "656BFA", 107),
)

_PIECE_PX = 1 << 18  # codes translated at a time: positions of 2 MB, however large a read is

MOST_LISTED = 8
"""Codes that a message names."""

_SIMILARITY_TWELFTHS = (
    (12, 11, 10, 8, 7, 6, 7, 9, 5, 9, 4, 3, 1, 0, 3, 0, 0),
    (11, 12, 11, 7, 8, 7, 8, 10, 5, 10, 5, 4, 3, 1, 4, 1, 1),
    (10, 11, 12, 6, 7, 8, 9, 11, 7, 11, 6, 5, 4, 2, 5, 2, 2),
    (8, 7, 6, 12, 11, 10, 9, 6, 9, 7, 6, 7, 6, 4, 1, 4, 4),
    (7, 8, 7, 11, 12, 11, 10, 8, 10, 8, 7, 8, 6, 5, 2, 5, 5),
    (6, 7, 8, 10, 11, 12, 11, 9, 11, 9, 8, 9, 8, 7, 3, 6, 6),
    (7, 8, 9, 9, 10, 11, 12, 8, 10, 8, 9, 8, 7, 5, 2, 5, 5),
    (9, 10, 11, 6, 8, 9, 8, 12, 9, 11, 5, 6, 5, 3, 6, 4, 4),
    (5, 5, 7, 9, 10, 11, 10, 9, 12, 8, 7, 8, 9, 7, 4, 7, 7),
    (9, 10, 11, 7, 8, 9, 8, 11, 8, 12, 5, 6, 5, 3, 6, 4, 4),
    (4, 5, 6, 6, 7, 8, 9, 5, 7, 5, 12, 11, 10, 8, 5, 8, 8),
    (3, 4, 5, 7, 8, 9, 8, 6, 8, 6, 11, 12, 11, 9, 6, 9, 9),
    (1, 3, 4, 6, 6, 8, 7, 5, 9, 5, 10, 11, 12, 10, 7, 10, 10),
    (0, 1, 2, 4, 5, 7, 5, 3, 7, 3, 8, 9, 10, 12, 9, 11, 11),
    (3, 4, 5, 1, 2, 3, 2, 6, 4, 6, 5, 6, 7, 9, 12, 9, 9),
    (0, 1, 2, 4, 5, 6, 5, 4, 7, 4, 8, 9, 10, 11, 9, 12, 11),
    (0, 1, 2, 4, 5, 6, 5, 4, 7, 4, 8, 9, 10, 11, 9, 11, 12),
)


@dataclass(frozen=True)
class CodeTable:
    """Which zone each stored code of a map stands for.

    Attributes
    ----------
    stored : tuple of int
        Codes as they are stored, ascending.
    lcz : tuple of int
        Zone of each, 1-17; 0 is no data.
    nodata : float or None
        One more stored value that is no data, which need not be whole. NaN always is.
    """

    stored: tuple[int, ...]
    lcz: tuple[int, ...]
    nodata: float | None = None

    @classmethod
    def of(cls, zones: Mapping[int, int], nodata: float | None = None) -> Self:
        """The table of a mapping from stored codes to zones."""
        stored = tuple(sorted(zones))
        return cls(stored, tuple(zones[code] for code in stored), nodata)

    @classmethod
    def of_classes(cls, classes: Sequence[Mapping[str, Any]], nodata: float | None = None) -> Self:
        """The table that a band's ``classification:classes`` spell out, by name.

        Raises
        ------
        LabelError
            If a class names no zone.
        """
        zones = {
            int(c["value"]): NODATA if c.get("nodata") else code_of(str(c["name"])) for c in classes
        }
        return cls.of(zones, nodata)

    def classes(
        self, counts: Mapping[int, int] | None = None, palette: Palette = "wudapt"
    ) -> list[dict[str, Any]]:
        """``classification:classes`` of the stored codes, with ``count`` where counts are given."""
        classes = [
            _stac_class(code, value, palette)
            for value, code in zip(self.stored, self.lcz, strict=True)
        ]
        if counts is None:
            return classes
        return [each | {"count": counts.get(each["value"], 0)} for each in classes]

    def translate(self, codes: npt.NDArray[Any], *, where: str) -> npt.NDArray[np.uint8]:
        """Zones of stored codes.

        Parameters
        ----------
        codes : numpy.ndarray
            Whole or decimal numbers, any shape.
        where : str
            What holds the codes, for the message.

        Returns
        -------
        numpy.ndarray
            uint8, same shape, 0-17.

        Raises
        ------
        LabelError
            If a code is not in the table; the message names each and how often it occurs.
        """
        flat = codes.reshape(-1)
        zones = np.empty(flat.size, dtype=np.uint8)
        unknown = [
            self._translate_into(zones[start : start + _PIECE_PX], flat[start : start + _PIECE_PX])
            for start in range(0, flat.size, _PIECE_PX)
        ]
        bad = np.concatenate([flat[:0], *unknown])
        if bad.size:
            listed = listed_codes(*np.unique(bad, return_counts=True))
            raise LabelError(
                f"{where} holds code {listed}, which its item does not name; set drop_classes or "
                "recode, and build the catalog again."
            )
        return zones.reshape(codes.shape)

    def _translate_into(
        self, zones: npt.NDArray[np.uint8], codes: npt.NDArray[Any]
    ) -> npt.NDArray[Any]:
        """Write the zones of some codes; the codes that are not in the table."""
        keys = np.array(self.stored, dtype=np.int64 if codes.dtype.kind in "iu" else np.float64)
        at = np.minimum(np.searchsorted(keys, codes), len(keys) - 1)
        absent = keys[at] != codes
        zones[:] = np.where(absent, NODATA, np.array(self.lcz, dtype=np.uint8)[at])
        others = codes[absent]
        unknown: npt.NDArray[Any] = others[(others != self.nodata) & (others == others)]  # no NaN
        return unknown


def zone(code: int) -> Zone:
    """The zone of an ``lcz`` code.

    Raises
    ------
    LabelError
        If ``code`` is not 1-17.

    Examples
    --------
    >>> zone(11).letter, zone(11).name
    ('A', 'Dense trees')
    """
    if not 1 <= code <= N_CLASSES:
        raise LabelError(f"LCZ code {code}: codes are 1-17 (0 is no data).")
    return ZONES[code - 1]


def code_of(text: str) -> int:
    """The ``lcz`` code of a label as people write it: ``6``, ``A``, ``LCZ 6``, ``lcz_a``, ``104``.

    Raises
    ------
    LabelError
        If ``text`` names no zone.

    Examples
    --------
    >>> code_of("LCZ G"), code_of("104"), code_of("lcz_10")
    (17, 14, 10)
    """
    key = text.strip().upper().removeprefix("LCZ").strip(" _-")
    by_label = {z.letter: z.code for z in ZONES}
    by_number = {str(z.code): z.code for z in ZONES}
    by_legacy = {str(z.legacy_code): z.code for z in ZONES}
    for table in (by_label, by_number, by_legacy):
        if key in table:
            return table[key]
    raise LabelError(f"{text!r} names no LCZ; use 1-10 and A-G, 1-17, or 101-107 for A-G.")


def from_legacy(codes: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """Codes 1-17 from legacy codes: 101-107 become 11-17, 0-17 stay.

    Parameters
    ----------
    codes : array_like of int
        Any shape; 0 is no data.

    Returns
    -------
    numpy.ndarray
        uint8, same shape, 0-17.

    Raises
    ------
    LabelError
        If a code is neither 0-17 nor 101-107; the message names the codes and their counts.
    """
    given = np.asarray(codes)
    natural = (given >= 101) & (given <= 107)
    translated = np.where(natural, given - 90, given)
    require_codes(translated)
    return translated.astype(np.uint8)


def require_codes(codes: npt.ArrayLike, *, where: str = "labels") -> None:
    """Raise unless every code is 0-17.

    Parameters
    ----------
    codes : array_like of int
        Any shape.
    where : str
        What holds the codes, for the message.

    Raises
    ------
    LabelError
        Naming each bad code, how often it occurs, and what to do.
    """
    given = np.asarray(codes)
    bad = given[~np.isin(given, np.arange(N_CLASSES + 1))]
    if bad.size == 0:
        return
    values, counts = np.unique(bad, return_counts=True)
    raise LabelError(
        f"{where} hold LCZ code {listed_codes(values, counts)}; codes are 1-17, 0 for no data. "
        "Drop 18 and 19, or map 101-107 to 11-17."
    )


def listed_codes(values: npt.ArrayLike, counts: npt.ArrayLike) -> str:
    """Codes and how often each occurs, for a message; of many, the first eight.

    Examples
    --------
    >>> listed_codes([18, 108.0], [2, 1])
    '18 (2 times), 108 (1 times)'
    """
    pairs = list(zip(np.asarray(values).tolist(), np.asarray(counts).tolist(), strict=True))
    shown = ", ".join(f"{value:.12g} ({n} times)" for value, n in pairs[:MOST_LISTED])
    left_out = len(pairs) - MOST_LISTED
    return shown if left_out <= 0 else f"{shown} and {left_out} other codes"


def class_index(codes: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Class indices 0-16 of codes 1-17, for models; 0 (no data) becomes -1."""
    return np.asarray(codes).astype(np.int64) - 1


def colors(palette: Palette = "wudapt") -> npt.NDArray[np.uint8]:
    """RGB of codes 0-17, uint8, shape (18, 3); code 0 is white."""
    hexes = ["FFFFFF", *(z.color(palette) for z in ZONES)]
    return np.array([list(bytes.fromhex(h)) for h in hexes], dtype=np.uint8)


def similarity() -> npt.NDArray[np.float64]:
    """Similarity of zones, shape (17, 17), float64 in [0, 1], 1 on the diagonal.

    The weight of OA_w and kappa_w (Bechtel, Demuzere & Stewart 2020); values are twelfths.
    """
    return np.array(_SIMILARITY_TWELFTHS, dtype=np.float64) / 12


def stac_classes(palette: Palette = "wudapt") -> list[dict[str, Any]]:
    """``classification:classes`` of an LCZ raster, no data first (STAC classification 2.0)."""
    return [_stac_class(code, code, palette) for code in range(N_CLASSES + 1)]


def cf_attrs(palette: Palette = "wudapt") -> dict[str, Any]:
    """CF attributes of an LCZ raster: flag values, meanings and colours of codes 1-17."""
    return {
        "standard_name": "area_type",
        "long_name": "Local Climate Zone",
        "flag_values": [z.code for z in ZONES],
        "flag_meanings": " ".join(_cf_word(z) for z in ZONES),
        "flag_colors": " ".join(f"#{z.color(palette)}" for z in ZONES),
    }


def _stac_class(code: int, value: int, palette: Palette) -> dict[str, Any]:
    """The class of a zone, or of no data, that is stored as ``value``."""
    if code == NODATA:
        return {
            "value": value,
            "name": "nodata",
            "title": "No data",
            "description": "No data",
            "nodata": True,
        }
    z = zone(code)
    return {
        "value": value,
        "name": z.slug,
        "title": f"LCZ {z.letter}: {z.name}",
        "description": z.name,
        "color_hint": z.color(palette),
    }


def _cf_word(zone: Zone) -> str:
    name = zone.name.lower().replace(", ", "_").replace("-", "_").replace(" ", "_")
    return f"{zone.slug}_{name}"
