"""Editions: published maps of Local Climate Zones, what they ask of users, the global lattice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from lczcube.sources.inputs import Publication

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

Edition = Literal["generator", "global", "europe", "conus"]

GLOBAL_YEAR = 2018
"""Nominal year of the global map."""

GLOBAL_ORIGIN = (-170.0007776279147, 80.03809518448114)
"""Longitude and latitude of the upper-left corner of the global map, degrees."""

GLOBAL_PIXEL = 0.000898315284119518
"""Side of its pixels, degrees: 100 m at the equator."""

LATTICE_TOLERANCE_PX = 1e-3

PUBLICATIONS: Mapping[Edition, Publication] = {
    "generator": Publication(
        license="other",
        license_note="LCZ Generator: CC BY-SA 4.0 for maps submitted before 2023-06-16, "
        "CC BY-NC-SA 4.0 for later ones; share alike, and name the author of the submission.",
        citation="Demuzere, M., Kittner, J. & Bechtel, B. (2021): LCZ Generator: A web application "
        "to create Local Climate Zone maps. Frontiers in Environmental Science 9, 637455",
        doi="10.3389/fenvs.2021.637455",
    ),
    "global": Publication(
        license="CC-BY-4.0",
        license_note="Global map of Local Climate Zones, Demuzere et al. (2022), CC BY 4.0; name "
        "it, and say what was changed.",
        citation="Demuzere, M. et al. (2022): A global map of local climate zones to support earth "
        "system modelling and urban-scale environmental science. Earth System Science Data 14, "
        "3835-3873",
        doi="10.5194/essd-14-3835-2022",
    ),
    "europe": Publication(
        license="other",
        license_note="European LCZ map, Demuzere et al. (2019); its licence is that of the page it "
        "was fetched from.",
        citation="Demuzere, M., Bechtel, B., Middel, A. & Mills, G. (2019): Mapping Europe into "
        "local climate zones. PLOS ONE 14, e0214474",
        doi="10.1371/journal.pone.0214474",
    ),
    "conus": Publication(
        license="CC-BY-4.0",
        license_note="CONUS-wide LCZ map, Demuzere et al. (2020), CC BY 4.0; name it, and say what "
        "was changed.",
        citation="Demuzere, M. et al. (2020): Combining expert and crowd-sourced training data to "
        "map urban form and functions for the continental US. Scientific Data 7, 264",
        doi="10.1038/s41597-020-00605-z",
    ),
}


def lattice_shift(raster: DatasetReader) -> tuple[float, float] | None:
    """Pixels by which a raster lies east and south of the global map's lattice, -0.5 to 0.5.

    The larger of those at its two outer corners, so that pixels of another size show. None for
    another CRS.
    """
    if raster.crs.to_epsg() != 4326:
        return None
    affine = raster.transform
    corners = [affine * (0, 0), affine * (raster.width, raster.height)]
    east = [(lon - GLOBAL_ORIGIN[0]) / GLOBAL_PIXEL for lon, _ in corners]
    south = [(GLOBAL_ORIGIN[1] - lat) / GLOBAL_PIXEL for _, lat in corners]
    shifts = [max((v - round(v) for v in values), key=abs) for values in (east, south)]
    return shifts[0], shifts[1]


def lattice_note(raster: DatasetReader) -> str | None:
    """What is to be said of a crop of the global map that is not on its lattice; None if it is."""
    shift = lattice_shift(raster)
    if shift is None:
        return "It is not in EPSG:4326 as the global map is; it was resampled."
    if max(map(abs, shift)) <= LATTICE_TOLERANCE_PX:
        return None
    return (
        f"Its pixels lie {shift[0]:+.3f} px east and {shift[1]:+.3f} px south of the global map's; "
        "it was resampled, or its corner was rounded."
    )
