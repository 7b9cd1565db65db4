"""The keys every ``[[input]]`` table shares; each kind of source adds its own."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Kind = Literal["raster", "labels"]


def as_tuple(value: Any) -> Any:
    """A list as a tuple; TOML knows only arrays."""
    return tuple(value) if isinstance(value, list) else value


def as_texts(value: Any) -> Any:
    """One string, or a list, as a tuple."""
    return (value,) if isinstance(value, str) else as_tuple(value)


Names = Annotated[tuple[str, ...], BeforeValidator(as_tuple)]
"""A TOML array of strings, kept as a tuple."""

Numbers = Annotated[tuple[int, ...], BeforeValidator(as_tuple)]
"""A TOML array of integers, kept as a tuple."""

Hrefs = Annotated[tuple[str, ...], BeforeValidator(as_texts), Field(min_length=1)]
"""One string or a TOML array of strings, kept as a tuple."""

SafeName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=64)]
"""A name that can be a folder, a variable and part of an id."""

Year = Annotated[int, Field(ge=1900, le=2100)]

SpdxId = Annotated[str, Field(pattern=r"^[A-Za-z0-9.+-]+$")]
"""An SPDX licence id such as ``CC-BY-4.0``, or ``other``."""


class Table(BaseModel):
    """A table of a TOML file: unknown keys and wrong types are errors, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Publication:
    """What the publisher of a data set says of it, and asks of who uses it.

    Attributes
    ----------
    license : str
        SPDX id.
    license_note : str
        What the licence asks of a map made with it.
    citation, doi : str
        The paper to cite.
    producer, url : str
        Who publishes it, and where; ``""`` for nobody in particular.
    """

    license: str
    license_note: str
    citation: str
    doi: str
    producer: str = ""
    url: str = ""


class Input(Table):
    """Keys of every ``[[input]]``.

    Attributes
    ----------
    name : str
        Name of the collection, of the cube's variable and of its features.
    source : str
        Kind of input: a module of :mod:`lczcube.sources`.
    href : tuple of str
        Files, folders, globs or URLs; see :func:`lczcube.sources.files.expand_hrefs`.
    year, years
        The year the files are of; several where ``href`` holds ``{year}``. Left out, the input
        has no date of its own and meets every year.
    city : str, optional
        City the files belong to. Default: what ``{city}`` stands for, else unknown.
    title, license, license_note : str, optional
        For people: what it is, its SPDX licence, and what that asks of a map made with it.
    synthetic : bool
        True for made-up data; every product made of it says so.
    ai_derived : bool
        True for products of a model (canopy heights, LCZ maps).
    checksums : bool
        True to read every file of pixels for its SHA-256; default: its size alone, as they may be
        gigabytes. Files of labels are read anyway, and have theirs.
    """

    kind: ClassVar[Kind]
    suffixes: ClassVar[tuple[str, ...]]
    years_in_paths: ClassVar[bool] = False
    publication: ClassVar[Publication | None] = None

    name: SafeName
    source: str
    href: Hrefs
    year: Year | None = None
    years: Annotated[tuple[Year, ...], BeforeValidator(as_tuple)] = ()
    city: SafeName | None = None
    title: str | None = None
    license: SpdxId | None = None
    license_note: str | None = None
    synthetic: bool = False
    ai_derived: bool = False
    checksums: bool = False

    @property
    def all_years(self) -> tuple[int, ...]:
        """Years of the input, sorted; empty where it has none."""
        return tuple(sorted({*self.years, *([] if self.year is None else [self.year])}))

    @property
    def places(self) -> tuple[str, ...]:
        """Where its files are looked for, for messages."""
        return self.href

    @property
    def layer_fields(self) -> dict[str, Any]:
        """What its collection says of its values: ``layer``, and how they may be read.

        ``decoder``, ``valid``, ``resampling``, ``static``, ``product`` and
        ``presence_threshold`` where the input decides them; see :class:`lczcube.catalog.Layer`.
        """
        return {"layer": "labels"}

    def published_as(self, _product: str = "") -> Publication | None:
        """What the publisher says of a product; nothing where nobody published it."""
        return self.publication

    @model_validator(mode="after")
    def _check_years(self) -> "Input":
        if self.year is not None and self.years:
            raise ValueError("has both year and years; give one")
        timeless = [href for href in self.href if "{year}" not in href]
        if len(self.all_years) > 1 and timeless and not self.years_in_paths:
            raise ValueError("has several years but an href without {year}; one file is one year")
        if not self.all_years and len(timeless) < len(self.href):
            raise ValueError("has {year} in href but no year; add year = 2024 or years = [...]")
        return self


class EmbeddingInput(Input):
    """Keys of an ``[[input]]`` of a published embedding, whose files tell their year themselves.

    Attributes
    ----------
    year, years
        The years that are wanted; left out, all that are there. A folder is searched for them, a
        file that ``href`` names must be of one of them.
    product : str, optional
        Identity of the embedding, where the files do not tell it.
    """

    kind: ClassVar[Kind] = "raster"
    years_in_paths: ClassVar[bool] = True

    product: Annotated[str, Field(pattern=r"^\S+$")] | None = None

    @property
    def layer_fields(self) -> dict[str, Any]:
        """An embedding: codes at their own place and date; the files say how they are coded."""
        return {"layer": "embedding", "resampling": "nearest", "static": False}
