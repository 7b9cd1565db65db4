"""Labels as training areas for the LCZ Generator: KML, a folder a class, EPSG:4326."""

from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

import geopandas as gpd
import shapely

from lczcube.errors import LabelError
from lczcube.labels.table import LONLAT
from lczcube.lcz import ZONES, require_codes, zone
from lczcube.sources.kml_text import MEGABYTE
from lczcube.sources.training_areas import GENERATOR_MB

DIGITS = 7
"""Decimals of a degree: coordinates are kept to about 1 cm."""


def write_training_areas(
    labels: gpd.GeoDataFrame,
    path: str | Path,
    *,
    thin_m: float = 0,
    name: str = "training areas",
    note: str = "",
) -> Path:
    """Write labels as KML for the LCZ Generator: a folder a class, ``1``-``10``, ``A``-``G``.

    Parameters
    ----------
    labels : geopandas.GeoDataFrame
        ``lcz`` (1-17) and polygons, in any CRS; other columns but ``patch_id`` are left out.
    path : str or pathlib.Path
        File to write, ``….kml``. The Generator reads city, date and author from a form.
    thin_m : float
        Vertices are left out where the outline moves by less, m; a polygon stays valid and keeps
        at least four points. Default 0: every vertex is kept.
    name, note : str
        Name and description of the document.

    Returns
    -------
    pathlib.Path
        The file. Coordinates have 7 decimals, about 1 cm; rows keep their order in a class.

    Raises
    ------
    LabelError
        If there is no label, a code is not 1-17, a geometry is no polygon, or the file would be
        over the 10 MB that the Generator takes.
    """
    areas = _areas(labels, thin_m)
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        '<kml xmlns="http://www.opengis.net/kml/2.2"><Document>',
        f"<name>{escape(name)}</name>",
        f"<description>{escape(note)}</description>",
        *_styles(),
    ]
    for code, of_class in areas.groupby("lcz", sort=True):
        lines.append(f"<Folder><name>{zone(int(code)).letter}</name>")
        lines += [
            f"<Placemark><name>{escape(str(title))}</name>"
            f"<styleUrl>#lcz_{code}</styleUrl>{_kml(shape)}</Placemark>"
            for title, shape in zip(of_class["title"], of_class.geometry, strict=True)
        ]
        lines.append("</Folder>")
    text = ("\n".join([*lines, "</Document></kml>"]) + "\n").encode("utf-8")
    _require_small(len(text), thin_m)
    target = Path(path)
    target.write_bytes(text)
    return target


def _areas(labels: gpd.GeoDataFrame, thin_m: float) -> gpd.GeoDataFrame:
    """One simple polygon a row, in degrees, thinned in metres."""
    if labels.empty:
        raise LabelError("there is no label to export; name label inputs in [run] labels.")
    require_codes(labels["lcz"].to_numpy())
    if not (labels["lcz"] > 0).all():
        raise LabelError("labels hold LCZ 0, which is no class; drop these rows.")
    kinds = set(labels.geom_type) - {"Polygon", "MultiPolygon"}
    if kinds:
        raise LabelError(f"labels hold {', '.join(sorted(kinds))}; training areas are polygons.")
    titles = labels["patch_id"] if "patch_id" in labels else labels.index.astype(str)
    kept = gpd.GeoDataFrame(
        {"lcz": labels["lcz"].astype(int), "title": titles}, geometry=labels.geometry
    )
    if thin_m > 0:
        metric = kept.estimate_utm_crs()
        kept = kept.to_crs(metric)
        kept.geometry = kept.geometry.simplify(thin_m, preserve_topology=True)
    return kept.to_crs(LONLAT).explode(ignore_index=True)


def _styles() -> Iterator[str]:
    """A filled style a class; KML colours are alpha, blue, green, red."""
    for z in ZONES:
        red, green, blue = (z.color()[i : i + 2].lower() for i in (0, 2, 4))
        yield (
            f'<Style id="lcz_{z.code}"><LineStyle><color>ff{blue}{green}{red}</color></LineStyle>'
            f"<PolyStyle><color>6e{blue}{green}{red}</color></PolyStyle></Style>"
        )


def _kml(polygon: shapely.Polygon) -> str:
    inner = "".join(_ring("innerBoundaryIs", ring) for ring in polygon.interiors)
    return f"<Polygon>{_ring('outerBoundaryIs', polygon.exterior)}{inner}</Polygon>"


def _ring(tag: str, ring: shapely.LinearRing) -> str:
    points = shapely.get_coordinates(ring)
    text = " ".join(f"{lon:.{DIGITS}f},{lat:.{DIGITS}f}" for lon, lat in points.tolist())
    return f"<{tag}><LinearRing><coordinates>{text}</coordinates></LinearRing></{tag}>"


def _require_small(n_bytes: int, thin_m: float) -> None:
    if n_bytes <= GENERATOR_MB * MEGABYTE:
        return
    raise LabelError(
        f"the training areas take {n_bytes / MEGABYTE:.1f} MB at a tolerance of {thin_m:g} m, and "
        f"the LCZ Generator takes {GENERATOR_MB} MB; thin their vertices with a larger tolerance "
        "(--thin-m), or export fewer."
    )
