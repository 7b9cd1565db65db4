"""Quantities: what stored pixels become when they are averaged by area to coarser ones."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lczcube.errors import CatalogError, ConfigError
from lczcube.reader import Storage
from lczcube.sources.open_buildings_pixels import BUILDING_BANDS

RULES = ("average", "sum", "mode", "fraction_at_least", "mean_where_at_least", "weighted_mean")
"""How stored pixels become one number; see :class:`Quantity`."""

CANOPY_HEIGHT_M = 2.0
"""What is canopy rather than grass or ground: 2 m or 3 m are customary for the canopy height map of
Meta and WRI, whose heights are whole metres."""

BUILDING_PRESENCE = 0.34
"""Google's threshold on the presence of Open Buildings 2.5D (Sirko et al. 2023, arXiv:2310.11622);
the band is a confidence without calibration, and 0.5 is the other customary choice."""

AVERAGING = ("average", "sum", "mode")
"""Rules of resampling a layer that need all stored pixels below a pixel of the frame."""


@dataclass(frozen=True)
class Quantity:
    """What a pixel of the frame is to hold, from stored pixels by area.

    Attributes
    ----------
    rule : str
        ``average``: mean of a band. ``sum``: each stored value shared out by area, so that totals
        are kept (counts); half a pixel of data gives half the count. ``mode``: the code with the
        largest area, of equal ones the lower. ``fraction_at_least``: share of the valid area where
        the band is at least ``threshold``, 0-1. ``mean_where_at_least``: mean of the band over just
        that area. ``weighted_mean``: mean of the band weighted by ``weight_band``.
    band : int
        Position of the band in the layer, from 0.
    threshold : float or None
        In stored units; for the two rules that have one. Compared in the stored dtype.
    weight_band : int or None
        Position of the weights, 0 or more, for ``weighted_mean``.
    empty : float or None
        Value of a pixel that has data and in it nothing that counts: no canopy, no building. None
        (default) is NaN: a mean height of nothing is not 0 m. It makes the pixel invalid, though;
        0 keeps it for features that need every layer. Past the data it is NaN whatever this is.
    scale, offset : float
        What makes a value of the stored numbers of ``band``; a share has no use for them.
    from_overviews : bool
        True where overviews may stand in for stored pixels although the quantity of averages is
        another: a threshold then asks averages. Not for ``mode``.

    Raises
    ------
    ConfigError
        If the rule is unknown, or lacks what it needs or has what it does not use.
    """

    rule: str
    band: int = 0
    threshold: float | None = None
    weight_band: int | None = None
    empty: float | None = None
    scale: float = 1.0
    offset: float = 0.0
    from_overviews: bool = False

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ConfigError(f"rule {self.rule!r} is unknown; known: {', '.join(RULES)}.")
        if self.rule == "mode" and self.from_overviews:
            raise ConfigError("classes have no averages; leave from_overviews out.")
        for name, value, is_used in (
            ("threshold", self.threshold, self.rule.endswith("_at_least")),
            ("weight_band", self.weight_band, self.rule == "weighted_mean"),
        ):
            if (value is not None) != is_used:
                raise ConfigError(
                    f"rule {self.rule!r} {'needs' if is_used else 'has no use for'} {name}, "
                    f"which is {value!r}; {'give it' if is_used else 'leave it out'}."
                )

    @property
    def bands(self) -> tuple[int, ...]:
        """Positions of the bands it is made from."""
        return (self.band,) if self.weight_band is None else (self.band, self.weight_band)


def on_stored(
    quantity: Quantity, scales: Sequence[float], offsets: Sequence[float], *, layer: str
) -> Quantity:
    """A quantity of values as one of stored numbers, ``value = stored * scale + offset``.

    Parameters
    ----------
    quantity : Quantity
        Its threshold in values.
    scales, offsets : sequence of float
        Of all bands of the layer.
    layer : str
        Name of the layer, for messages.

    Raises
    ------
    CatalogError
        If a scale is not above 0, or values that are summed or weights have an offset: half a
        pixel would take half of it.
    """
    scale, offset = scales[quantity.band], offsets[quantity.band]
    summed = quantity.band if quantity.rule == "sum" else quantity.weight_band
    has_shift = summed is not None and offsets[summed] != 0
    if has_shift or min(scales[band] for band in quantity.bands) <= 0:
        raise CatalogError(
            f"layer {layer!r} has bands of scales {list(scales)} and offsets {list(offsets)}; a "
            f"{quantity.rule} wants scales above 0, and sums and weights no offset. Store values."
        )
    if quantity.threshold is not None:
        stored = (quantity.threshold - offset) / scale
        quantity = replace(quantity, threshold=float(f"{stored:.12g}"))
    if quantity.rule == "fraction_at_least":
        return quantity
    return replace(quantity, scale=scale, offset=offset)


def canopy(
    min_height_m: float = CANOPY_HEIGHT_M, *, from_overviews: bool = False
) -> dict[str, Quantity]:
    """Quantities of a canopy height map, by variable: mean height of the canopy, and its share.

    Parameters
    ----------
    min_height_m : float
        What is canopy, in metres. Default: :data:`CANOPY_HEIGHT_M`.
    from_overviews : bool
        True: overviews may stand in for stored pixels. Default: exact.

    Notes
    -----
    A plain average of heights would mix the ground at 0 m with the trees. Overviews hold such
    averages: at the edge of a crown they are lower than it, and canopy where half was ground. The
    share then comes out too large and the height too low; their product, the volume, is kept but
    for what falls below the threshold and for rounding.
    """
    rules = {"canopy_height": "mean_where_at_least", "canopy_fraction": "fraction_at_least"}
    return {
        name: Quantity(rule, threshold=min_height_m, from_overviews=from_overviews)
        for name, rule in rules.items()
    }


def buildings(
    bands: Sequence[str] = BUILDING_BANDS, *, min_presence: float = BUILDING_PRESENCE
) -> dict[str, Quantity]:
    """Quantities of Open Buildings 2.5D, by variable: height, share of the ground, count.

    Parameters
    ----------
    bands : sequence of str
        Names of the layer's bands, in their order. Default: the publisher's.
    min_presence : float
        Presence that is a building, 0-1. Default: :data:`BUILDING_PRESENCE`.

    Returns
    -------
    dict
        ``building_height`` in metres, weighted by presence: the band is 0, not nodata, where no
        building is. ``building_fraction``, 0-1. ``building_count``, buildings per pixel.

    Raises
    ------
    CatalogError
        If a band is not among ``bands``.
    """
    missing = [name for name in BUILDING_BANDS if name not in bands]
    if missing:
        raise CatalogError(
            f"a buildings layer needs bands {', '.join(BUILDING_BANDS)} and has "
            f"{', '.join(bands)}; name them so, or make the layer a raster."
        )
    count, height, presence = (list(bands).index(name) for name in BUILDING_BANDS)
    return {
        "building_height": Quantity("weighted_mean", band=height, weight_band=presence),
        "building_fraction": Quantity("fraction_at_least", band=presence, threshold=min_presence),
        "building_count": Quantity("sum", band=count),
    }


CANOPY = canopy()
"""Of the canopy height maps of Meta and WRI."""

BUILDINGS = buildings()
"""Of Open Buildings 2.5D."""


def band_quantities(storage: Storage) -> tuple[Quantity, ...]:
    """Every band of a layer by the layer's own rule of resampling."""
    return tuple(Quantity(storage.resampling, band) for band in range(storage.n_bands))
