"""What is told of the coverage of cities: plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from lczcube.coverage.text import coverage_text

SPLITS = ("", "training", "validation", "testing")
"""In the order they are listed and drawn; others follow."""


@dataclass(frozen=True)
class LayerCoverage:
    """How much of a city one layer covers in one year.

    Attributes
    ----------
    layer : str
        Name of the input.
    n_tiles : int
        Tiles that meet the city.
    share : float
        Share of the city's area that lies in a tile, 0-1.
    cell_share : float
        Share of its cells whose centre does.
    valid_share : float or None
        Share of its cells that have a valid pixel of the layer; None where no pixel was looked at.
    """

    layer: str
    n_tiles: int
    share: float
    cell_share: float
    valid_share: float | None = None

    @property
    def best(self) -> float:
        """Share of the cells: by pixels where they are known, else by tiles."""
        return self.cell_share if self.valid_share is None else self.valid_share


@dataclass(frozen=True)
class YearCoverage:
    """What a city has in one year.

    Attributes
    ----------
    city : str
        Name.
    year : int or None
        Layers without dates count in every year; None where there are no others.
    n_cells : int
        Cells of its grid.
    layers : tuple of LayerCoverage
        One for each feature input, in their order.
    common_share : float
        Share of the cells where all layers are.
    share_without : float
        Share of the cells where all are but the one that has the fewest.
    is_exact : bool
        True where the shares of cells are those of valid pixels.
    """

    city: str
    year: int | None
    n_cells: int
    layers: tuple[LayerCoverage, ...]
    common_share: float
    share_without: float
    is_exact: bool = False

    @property
    def lost_share(self) -> float:
        """Share of the cells that the widest layer has and the common ground has not."""
        return max(layer.best for layer in self.layers) - self.common_share

    @property
    def limiting(self) -> str:
        """The layer that has the fewest cells; the first of several."""
        return min(self.layers, key=lambda layer: layer.best).layer


@dataclass(frozen=True)
class LabelCoverage:
    """Labels of a city by class.

    Attributes
    ----------
    city, source, split : str
        City, label input, and the publisher's split (empty where it has none).
    counts : tuple of int
        Of LCZ 1 to 17.
    """

    city: str
    source: str
    split: str
    counts: tuple[int, ...]

    @property
    def total(self) -> int:
        """Labels of all classes."""
        return sum(self.counts)


@dataclass(frozen=True)
class Coverage:
    """Layers and labels of the cities of a run; from :func:`coverage_of`.

    Attributes
    ----------
    id : str
        Of the city file.
    synthetic : bool
        True where any layer is made up.
    years : tuple of YearCoverage
        By city, then year.
    labels : tuple of LabelCoverage
        By city, source and split; a city without labels has none.
    n_elsewhere : int
        Labels that lie in none of the cities.
    """

    id: str
    synthetic: bool
    years: tuple[YearCoverage, ...]
    labels: tuple[LabelCoverage, ...]
    n_elsewhere: int = 0

    @property
    def cities(self) -> tuple[str, ...]:
        """Names of the cities."""
        return tuple(dict.fromkeys(row.city for row in self.years))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def to_text(self) -> str:
        """A table of layers by city and year, and one of labels by class."""
        return coverage_text(self)
