"""The grid: one lattice of pixels and 320 m cells on which every layer of a city lies.

Bounds are integer cell indices and the anchor is integer micrometres, so two grids are equal
exactly when their pixels are.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Self

from odc.geo import CRS, XY, wh_
from odc.geo.geobox import GeoBox
from odc.geo.geom import box
from pyproj import Transformer
from pyproj.exceptions import CRSError

from lczcube.errors import GridError

UM = 1_000_000
"""Micrometres in a metre: lengths are kept as integers of this unit."""

LATTICE_TOLERANCE_PX = 1e-3
"""Two lattices are one when their pixel edges differ by less than this share of a pixel."""

BBox = tuple[float, float, float, float]


@dataclass(frozen=True)
class Grid:
    """A north-up lattice of pixels, cells and output pixels in one projected CRS.

    Parameters
    ----------
    crs : str
        A projected CRS in metres, as ``EPSG:n`` or WKT.
    cells : tuple of int
        Bounds ``(x0, y0, x1, y1)`` in whole cells counted from the anchor, y northwards, stop
        exclusive.
    anchor_um : tuple of int
        ``(x, y)`` of a corner of the lattice in micrometres; kept modulo the cell.
    pixel_m : float
        Pixel side, m. Default 10: the embeddings' own.
    cell_m : float
        Side of a cell and of an aggregation window, m. Default 320: a So2Sat patch.
    stride_m : float, optional
        Side of an output pixel, m. Default ``cell_m``. A smaller stride slides the window: 100 m
        gives the customary 100 m map from 320 m of context.
    chunk_cells : int
        Side of a Dask chunk, in cells. Default 20: 640 pixels of 10 m.

    Raises
    ------
    GridError
        If a rule is broken: the pixel divides cell and stride; the stride divides the chunk and is
        at most the cell; cell minus stride is an even number of pixels, so that a window is
        centred on its output pixel; bounds hold whole cells and whole strides.

    Notes
    -----
    Where the stride does not divide the cell (100 m and 320 m), bounds are whole multiples of
    both (1,600 m): the output covers exactly the grid.
    """

    crs: str
    cells: tuple[int, int, int, int]
    anchor_um: tuple[int, int] = (0, 0)
    pixel_m: float = 10
    cell_m: float = 320
    stride_m: float = field(default=0)
    chunk_cells: int = 20

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "crs", _canonical_crs(self.crs))
        set_(self, "stride_m", self.stride_m or self.cell_m)
        for name in ("pixel_m", "cell_m", "stride_m"):
            set_(self, name, _canonical_length(name, getattr(self, name)))
        require_legal(self.pixel_m, self.cell_m, self.stride_m, self.chunk_cells)
        anchor_um, cells = _canonical_anchor(self.anchor_um, self.cells, _um(self.cell_m))
        set_(self, "anchor_um", anchor_um)
        set_(self, "cells", cells)
        self._require_whole_bounds()

    def _require_whole_bounds(self) -> None:
        x0, y0, x1, y1 = self.cells
        if x1 <= x0 or y1 <= y0:
            raise GridError(
                f"grid bounds {self.cells} in cells are empty; stop must be past start."
            )
        step = self.step_cells
        if any(v % step for v in self.cells):
            grown = _grow(self.cells, step)
            raise GridError(
                f"grid bounds {self.cells} in cells cut an output pixel of {self.stride_m:g} m; "
                f"bounds are multiples of {step} cells at this stride. Use {grown}."
            )

    @classmethod
    def from_bbox(
        cls,
        bbox: BBox,
        *,
        bbox_crs: str = "EPSG:4326",
        crs: str | None = None,
        anchor: GeoBox | None = None,
        pixel_m: float = 10,
        cell_m: float = 320,
        stride_m: float | None = None,
        chunk_cells: int = 20,
    ) -> Self:
        """The smallest grid that holds a bbox, grown outward to whole cells.

        Parameters
        ----------
        bbox : tuple of float
            ``(minx, miny, maxx, maxy)`` in ``bbox_crs``.
        bbox_crs : str
            Default ``EPSG:4326`` (degrees, longitude first).
        crs : str, optional
            CRS of the grid. Default: that of ``anchor``, else the UTM zone of the bbox's centre.
        anchor : odc.geo.geobox.GeoBox, optional
            Take the lattice and the CRS of this raster: labels move, embeddings do not.
        pixel_m, cell_m, stride_m, chunk_cells
            As in :class:`Grid`.

        Raises
        ------
        GridError
            If the bbox is empty, if ``crs`` differs from the anchor's, or if the anchor's pixels
            are not ``pixel_m``, north-up or south-up, and square.

        Examples
        --------
        >>> grid = Grid.from_bbox((11.55, 48.12, 11.60, 48.16))
        >>> grid.crs, grid.cell_shape
        ('EPSG:32632', (16, 13))
        """
        _require_bbox(bbox)
        anchor_um = (0, 0)
        if anchor is not None:
            _require_anchor(anchor, pixel_m=pixel_m, crs=crs)
            crs = str(anchor.crs)
            anchor_um = _corner_um(anchor)
        target = _canonical_crs(crs or _utm_crs(bbox, bbox_crs))
        pixel_m = _canonical_length("pixel_m", pixel_m)
        cell_m = _canonical_length("cell_m", cell_m)
        stride_m = _canonical_length("stride_m", stride_m or cell_m)
        require_legal(pixel_m, cell_m, stride_m, chunk_cells)
        projected = project_bbox(bbox, bbox_crs, target)
        cells = _cells_holding(projected, anchor_um, pixel_m=pixel_m, cell_m=cell_m)
        return cls(
            target,
            _grow(cells, _step_cells(cell_m, stride_m)),
            anchor_um,
            pixel_m,
            cell_m,
            stride_m,
            chunk_cells,
        )

    @classmethod
    def from_geobox(
        cls,
        geobox: GeoBox,
        *,
        cell_m: float = 320,
        stride_m: float | None = None,
        chunk_cells: int = 20,
    ) -> Self:
        """The smallest grid on a raster's own lattice that holds the raster.

        Raises
        ------
        GridError
            If the raster's pixels are not square, or its CRS is not in metres.
        """
        _canonical_crs(str(geobox.crs))
        return cls.from_bbox(
            bbox_of(geobox),
            bbox_crs=str(geobox.crs),
            anchor=geobox,
            pixel_m=abs(geobox.affine.a),
            cell_m=cell_m,
            stride_m=stride_m,
            chunk_cells=chunk_cells,
        )

    @property
    def cell_px(self) -> int:
        """Pixels along a cell."""
        return _um(self.cell_m) // _um(self.pixel_m)

    @property
    def stride_px(self) -> int:
        """Pixels along an output pixel."""
        return _um(self.stride_m) // _um(self.pixel_m)

    @property
    def chunk_px(self) -> int:
        """Pixels along a chunk: always whole cells and whole strides."""
        return self.chunk_cells * self.cell_px

    @property
    def halo_px(self) -> int:
        """Pixels a window reaches past its output pixel, on each side."""
        return (self.cell_px - self.stride_px) // 2

    @property
    def step_cells(self) -> int:
        """Bounds are multiples of this many cells: 1 unless the stride cuts cells."""
        return _step_cells(self.cell_m, self.stride_m)

    @property
    def bbox(self) -> BBox:
        """``(minx, miny, maxx, maxy)`` in the grid's CRS, m."""
        cell_um = _um(self.cell_m)
        edges_um = [self.anchor_um[i % 2] + index * cell_um for i, index in enumerate(self.cells)]
        minx, miny, maxx, maxy = (um / UM for um in edges_um)
        return minx, miny, maxx, maxy

    @property
    def cell_shape(self) -> tuple[int, int]:
        """``(rows, columns)`` of cells."""
        x0, y0, x1, y1 = self.cells
        return y1 - y0, x1 - x0

    @property
    def shape(self) -> tuple[int, int]:
        """``(rows, columns)`` of pixels."""
        rows, columns = self.cell_shape
        return rows * self.cell_px, columns * self.cell_px

    @property
    def geobox(self) -> GeoBox:
        """The pixels, north-up."""
        return self._geobox(self.pixel_m)

    @property
    def cell_geobox(self) -> GeoBox:
        """The cells, north-up."""
        return self._geobox(self.cell_m)

    @property
    def output_geobox(self) -> GeoBox:
        """The output pixels (one per stride), north-up; the cells unless a stride is set."""
        return self._geobox(self.stride_m)

    def read_geobox(self, halo_px: int | None = None) -> GeoBox:
        """The pixels grown by a halo on each side, so that a window at the edge is whole.

        Parameters
        ----------
        halo_px : int, optional
            Default: :attr:`halo_px`.
        """
        return self.geobox.pad(self.halo_px if halo_px is None else halo_px)

    def _geobox(self, side_m: float) -> GeoBox:
        from affine import Affine

        minx, miny, maxx, maxy = self.bbox
        side_um = _um(side_m)
        width = round((maxx - minx) * UM) // side_um
        height = round((maxy - miny) * UM) // side_um
        return GeoBox(
            wh_(width, height), Affine(side_m, 0.0, minx, 0.0, -side_m, maxy), CRS(self.crs)
        )

    def is_lattice_of(self, geobox: GeoBox) -> bool:
        """True when a raster's pixels are pixels of this grid, north-up or south-up."""
        if geobox.crs is None or CRS(self.crs) != geobox.crs:
            return False
        affine = geobox.affine
        tolerance = LATTICE_TOLERANCE_PX
        if abs(affine.b) + abs(affine.d) > 0:
            return False
        drift_px = max(geobox.shape) * max(
            abs(abs(affine.a) - self.pixel_m), abs(abs(affine.e) - self.pixel_m)
        )
        if drift_px > tolerance * self.pixel_m:
            return False
        minx, _, _, maxy = self.bbox
        offsets = ((affine.c - minx) / self.pixel_m, (affine.f - maxy) / self.pixel_m)
        return all(abs(v - round(v)) < tolerance for v in offsets)

    def to_json(self) -> str:
        """The grid as a JSON object, for attributes and manifests."""
        return json.dumps(self.to_dict(), sort_keys=True)

    def to_dict(self) -> dict[str, Any]:
        """The grid as plain values; :meth:`from_dict` gives it back."""
        return {
            "crs": self.crs,
            "cells": list(self.cells),
            "anchor_um": list(self.anchor_um),
            "pixel_m": self.pixel_m,
            "cell_m": self.cell_m,
            "stride_m": self.stride_m,
            "chunk_cells": self.chunk_cells,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The grid of :meth:`to_dict`."""
        x0, y0, x1, y1 = values["cells"]
        anchor_x, anchor_y = values["anchor_um"]
        return cls(**(values | {"cells": (x0, y0, x1, y1), "anchor_um": (anchor_x, anchor_y)}))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The grid of :meth:`to_json`."""
        return cls.from_dict(json.loads(text))


def require_legal(pixel_m: float, cell_m: float, stride_m: float, chunk_cells: int) -> None:
    """Raise unless pixel, cell, stride and chunk fit each other; the message names legal values.

    Parameters
    ----------
    pixel_m, cell_m, stride_m : float
        Sides in metres.
    chunk_cells : int
        Side of a chunk in cells.

    Raises
    ------
    GridError
        Naming the rule and the nearest legal values.
    """
    pixel, cell, stride = _um(pixel_m), _um(cell_m), _um(stride_m)
    if chunk_cells < 1:
        raise GridError(f"chunk_cells = {chunk_cells}: a chunk holds at least one cell.")
    if cell % pixel:
        legal = _nearest(cell / pixel, range(1, 2 * cell // pixel + 2))
        raise GridError(
            f"cell_m = {cell_m:g} is not a multiple of pixel_m = {pixel_m:g}; "
            f"use {_listed(n * pixel for n in legal)}."
        )
    legal_strides = [
        n * pixel
        for n in range(1, cell // pixel + 1)
        if (cell // pixel - n) % 2 == 0 and (chunk_cells * cell) % (n * pixel) == 0
    ]
    if stride not in legal_strides:
        nearest = sorted(_nearest(stride, legal_strides))
        raise GridError(
            f"stride_m = {stride_m:g} is illegal with pixel_m = {pixel_m:g}, cell_m = {cell_m:g} "
            f"and chunk_cells = {chunk_cells}: a stride is whole pixels, at most the cell, divides "
            f"the chunk of {chunk_cells * cell_m:g} m, and leaves an even number of pixels beside "
            f"it. Use {_listed(nearest)}."
        )


def bbox_of(geobox: GeoBox) -> BBox:
    """``(minx, miny, maxx, maxy)`` of a geobox, in its CRS."""
    minx, miny, maxx, maxy = geobox.boundingbox.bbox
    return minx, miny, maxx, maxy


def project_bbox(bbox: BBox, src_crs: str, dst_crs: str) -> BBox:
    """A bbox in another CRS: the box around its edges, densified so that bent edges fit."""
    if CRS(src_crs) == CRS(dst_crs):
        return bbox
    transformer = Transformer.from_crs(src_crs, dst_crs, always_xy=True)
    minx, miny, maxx, maxy = transformer.transform_bounds(*bbox, densify_pts=101)
    if not all(map(math.isfinite, (minx, miny, maxx, maxy))):
        raise GridError(f"bbox {bbox} in {src_crs} has no image in {dst_crs}; name another crs.")
    return minx, miny, maxx, maxy


def _canonical_crs(crs: str) -> str:
    try:
        parsed = CRS(crs)
    except (CRSError, ValueError) as error:
        raise GridError(
            f"crs {crs!r} is unknown to PROJ; use a code such as EPSG:32632."
        ) from error
    units = {axis.unit_name for axis in parsed.proj.axis_info}
    if not parsed.projected or units != {"metre"}:
        raise GridError(
            f"crs {crs!r} is not projected in metres; a grid needs metres. "
            "Use the UTM zone of the city (leave crs out to get it)."
        )
    epsg = parsed.to_epsg()
    return f"EPSG:{epsg}" if epsg else str(parsed.to_wkt())


def _canonical_length(name: str, metres: float) -> float:
    if not metres > 0 or abs(metres * UM - round(metres * UM)) > 0.01:
        raise GridError(
            f"{name} = {metres}: a length is positive and a whole number of micrometres."
        )
    exact = round(metres * UM) / UM
    return int(exact) if exact == int(exact) else exact


def _canonical_anchor(
    anchor_um: tuple[int, int], cells: tuple[int, int, int, int], cell_um: int
) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    (shift_x, anchor_x), (shift_y, anchor_y) = (divmod(int(a), cell_um) for a in anchor_um)
    x0, y0, x1, y1 = (int(v) for v in cells)
    return (anchor_x, anchor_y), (x0 + shift_x, y0 + shift_y, x1 + shift_x, y1 + shift_y)


def _require_bbox(bbox: BBox) -> None:
    minx, miny, maxx, maxy = bbox
    if not (minx < maxx and miny < maxy):
        raise GridError(
            f"bbox {tuple(bbox)} is empty; it is (minx, miny, maxx, maxy), min below max. "
            "A city across the antimeridian wants a bbox in its projected CRS."
        )


def _require_anchor(anchor: GeoBox, *, pixel_m: float, crs: str | None) -> None:
    affine = anchor.affine
    if anchor.crs is None:
        raise GridError("the anchor has no CRS; anchor the grid on a georeferenced input.")
    if crs is not None and CRS(crs) != anchor.crs:
        raise GridError(
            f"crs = {crs!r} conflicts with the anchor's {anchor.crs}; the anchor brings its own "
            "CRS. Drop crs, or drop anchor."
        )
    if abs(affine.b) + abs(affine.d) > 0 or abs(abs(affine.a) - abs(affine.e)) > 1e-9:
        raise GridError(
            f"the anchor's pixels ({affine.a:g} x {affine.e:g} m) are rotated or not square; "
            "leave anchor out and let the input be resampled."
        )
    if abs(abs(affine.a) - pixel_m) * max(anchor.shape) > LATTICE_TOLERANCE_PX * pixel_m:
        raise GridError(
            f"pixel_m = {pixel_m:g} differs from the anchor's pixel of {abs(affine.a):g} m; "
            f"set pixel_m = {abs(affine.a):g}, or leave anchor out."
        )


def _corner_um(geobox: GeoBox) -> tuple[int, int]:
    return round(geobox.affine.c * UM), round(geobox.affine.f * UM)


def _utm_crs(bbox: BBox, bbox_crs: str) -> str:
    centre = box(*bbox, crs=bbox_crs).to_crs("EPSG:4326").centroid
    lon, lat = centre.coords[0]
    return str(CRS.utm(XY(lon, lat)))


def _cells_holding(
    bbox: BBox, anchor_um: tuple[int, int], *, pixel_m: float, cell_m: float
) -> tuple[int, int, int, int]:
    slack = LATTICE_TOLERANCE_PX * pixel_m / cell_m
    minx, miny, maxx, maxy = (
        (edge - anchor_um[i % 2] / UM) / cell_m for i, edge in enumerate(bbox)
    )
    return (
        math.floor(minx + slack),
        math.floor(miny + slack),
        math.ceil(maxx - slack),
        math.ceil(maxy - slack),
    )


def _grow(cells: tuple[int, int, int, int], step: int) -> tuple[int, int, int, int]:
    x0, y0, x1, y1 = cells
    return x0 // step * step, y0 // step * step, -(-x1 // step) * step, -(-y1 // step) * step


def _step_cells(cell_m: float, stride_m: float) -> int:
    return math.lcm(_um(cell_m), _um(stride_m)) // _um(cell_m)


def _um(metres: float) -> int:
    return round(metres * UM)


def _nearest(wanted: float, candidates: Iterable[int], n: int = 2) -> list[int]:
    return sorted(candidates, key=lambda c: (abs(c - wanted), c))[:n]


def _listed(lengths_um: Iterable[int]) -> str:
    return " or ".join(f"{um / UM:g}" for um in lengths_um)
