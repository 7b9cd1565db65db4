"""The 52 cities of So2Sat LCZ42: where they lie, and the zone their authors worked in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lczcube.sources.footprints import BBox

MARGIN_KM = 60.0
"""How far from a city's region a patch may lie: a neighbouring UTM zone is 300 km away or more."""

_KM_PER_DEGREE = 111.2

_Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class So2SatCity:
    """A city of the data set.

    Attributes
    ----------
    name : str
        As the geolocation files write it.
    epsg : int
        The UTM zone of its patches, as the publisher's script lists it (but for ``orangitown``).
    bbox : tuple of float
        Its region of interest, EPSG:4326, to 0.01 degrees.
    """

    name: str
    epsg: int
    bbox: BBox

    @property
    def centre(self) -> tuple[float, float]:
        """Longitude and latitude of the middle of its region."""
        west, south, east, north = self.bbox
        return (west + east) / 2, (south + north) / 2

    def distance_km(self, lon: _Float64, lat: _Float64) -> _Float64:
        """Distance of points from its region, 0 inside; infinite where they have no place."""
        west, south, east, north = self.bbox
        dx = np.maximum(np.maximum(west - lon, lon - east), 0)
        dy = np.maximum(np.maximum(south - lat, lat - north), 0)
        return _length_km(dx, dy, lat)


# Regions: the lists with which the authors fetched Sentinel-2, widened to the patches of validation
# and testing where these reach further. Those without a list (Bogota, Hong Kong, Kyoto, Melbourne,
# Shenzhen, Vancouver) are the urban area.
_TRAINING = {
    "amsterdam": (32631, (3.94, 52.11, 5.43, 52.94)),
    "beijing": (32650, (115.70, 39.62, 117.08, 40.58)),
    "berlin": (32633, (12.91, 52.28, 13.90, 52.84)),
    "bogota": (32618, (-74.40, 4.40, -73.80, 5.00)),
    "buenosaires": (32721, (-58.40, -34.60, -58.36, -34.57)),
    "cairo": (32636, (31.01, 29.63, 31.55, 30.42)),
    "capetown": (32734, (18.06, -34.39, 18.99, -33.63)),
    "caracas": (32619, (-66.93, 10.44, -66.78, 10.50)),
    "changsha": (32649, (112.67, 28.04, 113.31, 28.42)),
    "chicago": (32616, (-87.66, 41.87, -87.60, 41.90)),
    "cologne": (32632, (6.51, 50.64, 7.42, 51.28)),
    "dhaka": (32646, (90.36, 23.74, 90.45, 23.84)),
    "dongying": (32650, (118.42, 37.31, 119.34, 37.85)),
    "hongkong": (32650, (113.80, 22.10, 114.50, 22.58)),
    "islamabad": (32643, (72.55, 33.42, 73.43, 33.95)),
    "istanbul": (32635, (27.80, 40.65, 30.04, 41.80)),
    "kyoto": (32653, (135.50, 34.80, 136.00, 35.30)),
    "lima": (32718, (-77.04, -12.25, -76.93, -11.95)),
    "lisbon": (32629, (-9.64, 38.45, -8.71, 38.97)),
    "london": (32630, (-0.90, 51.09, 0.93, 51.82)),
    "losangeles": (32611, (-118.70, 33.71, -117.65, 34.96)),
    "madrid": (32630, (-4.41, 39.84, -2.86, 41.19)),
    "melbourne": (32755, (144.40, -38.30, 145.60, -37.40)),
    "milan": (32632, (8.67, 45.37, 9.47, 45.85)),
    "nanjing": (32650, (118.46, 31.71, 119.19, 32.45)),
    "newyork": (32618, (-74.61, 40.33, -73.47, 41.14)),
    # Orangi Town is in Karachi; the script says 32618, the zone of New York.
    "orangitown": (32642, (66.96, 24.91, 67.03, 25.00)),
    "paris": (32631, (1.56, 48.42, 2.94, 49.29)),
    "philadelphia": (32618, (-75.19, 39.94, -75.15, 39.97)),
    "qingdao": (32651, (119.91, 35.82, 120.80, 36.48)),
    "quezon": (32651, (121.04, 14.50, 121.13, 14.72)),
    "riodejaneiro": (32723, (-44.01, -23.11, -43.02, -22.63)),
    "rome": (32633, (12.24, 41.72, 12.73, 42.14)),
    "salvador": (32724, (-38.51, -12.94, -38.48, -12.91)),
    "saopaulo": (32723, (-46.95, -23.87, -46.08, -23.35)),
    "shanghai": (32651, (121.08, 30.83, 122.01, 31.54)),
    "shenzhen": (32650, (113.70, 22.40, 114.70, 22.90)),
    "tokyo": (32654, (139.64, 35.54, 139.92, 35.77)),
    "vancouver": (32610, (-123.50, 48.90, -122.30, 49.50)),
    "washingtondc": (32618, (-77.37, 38.60, -76.69, 39.11)),
    "wuhan": (32650, (113.94, 30.21, 114.88, 30.93)),
    "zurich": (32632, (8.23, 47.17, 8.85, 47.55)),
}
_HELD_OUT = {
    "guangzhou": (32649, (112.93, 22.88, 113.58, 23.39)),
    "jakarta": (32748, (106.54, -6.50, 107.11, -6.04)),
    "moscow": (32637, (36.94, 55.33, 38.32, 56.15)),
    "mumbai": (32643, (72.56, 18.66, 73.17, 19.54)),
    "munich": (32632, (11.12, 47.73, 12.00, 48.50)),
    "nairobi": (32737, (36.67, -1.44, 36.99, -1.19)),
    "sanfrancisco": (32610, (-122.72, 37.55, -122.09, 37.96)),
    "santiago": (32719, (-70.97, -33.72, -70.41, -33.20)),
    "sydney": (32756, (150.57, -34.01, 151.36, -33.58)),
    "tehran": (32639, (51.05, 35.48, 51.69, 35.87)),
}

CITIES: Mapping[str, So2SatCity] = {
    name: So2SatCity(name, epsg, bbox) for name, (epsg, bbox) in (_TRAINING | _HELD_OUT).items()
}
"""All cities by name: 42 of training, then the 10 of validation (west) and testing (east)."""

HELD_OUT = tuple(_HELD_OUT)
"""Names of the 10 cities of validation and testing."""


def zones_in_use() -> list[int]:
    """EPSG codes of the zones that patches lie in, sorted."""
    return sorted({city.epsg for city in CITIES.values()})


def nearest_city(lon: _Float64, lat: _Float64) -> tuple[npt.NDArray[np.str_], _Float64]:
    """Name of the city nearest to each point, and the distance from its region in km.

    Of several whose regions hold a point it is the one with the nearest centre. ``""`` and infinity
    where longitude or latitude is not finite.
    """
    names = np.full(lon.shape, "", dtype="<U16")
    best = np.full(lon.shape, np.inf)
    distance = np.full(lon.shape, np.inf)
    for city in CITIES.values():
        apart = city.distance_km(lon, lat)
        from_centre = _length_km(lon - city.centre[0], lat - city.centre[1], lat)
        rank = apart + 1e-6 * from_centre
        closer = rank < best
        best = np.where(closer, rank, best)
        distance = np.where(closer, apart, distance)
        names[closer] = city.name
    return names, distance


def utm_epsg(lon: float, lat: float) -> int:
    """EPSG code of the WGS 84 UTM zone of a point, by sixes of degrees.

    Examples
    --------
    >>> utm_epsg(36.82, -1.29)
    32737
    """
    zone = min(int((lon + 180) // 6) + 1, 60)
    return (32600 if lat >= 0 else 32700) + zone


def _length_km(dlon: _Float64, dlat: _Float64, lat: _Float64) -> _Float64:
    with np.errstate(invalid="ignore"):
        length = _KM_PER_DEGREE * np.hypot(dlon * np.cos(np.radians(lat)), dlat)
    return np.where(np.isfinite(length), length, np.inf)
