"""A map of zones as one north-up plane of codes, on a lattice in metres."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr
from odc.geo.xr import ODCExtensionDa
from pyproj import CRS

from lczcube.errors import GridMismatchError, LabelError
from lczcube.grid import LATTICE_TOLERANCE_PX
from lczcube.lcz import N_CLASSES, NODATA, require_codes


class Lattice(NamedTuple):
    """Upper-left corner, m; pixel side, m; rows and columns; CRS."""

    left: float
    top: float
    pixel_m: float
    shape: tuple[int, int]
    crs: CRS


def plane(lcz: xr.DataArray, *, name: str) -> xr.DataArray:
    """The codes with dims ``(y, x)``, north-up; lazy if they are.

    Raises
    ------
    GridMismatchError
        If more than one date or band is left.
    LabelError
        If the codes are no whole numbers.
    """
    if not {"y", "x"} <= set(lcz.dims):
        raise GridMismatchError(f"{name} has dims {lcz.dims}; a map has dims y and x.")
    others = {str(dim): n for dim, n in lcz.sizes.items() if dim not in ("y", "x")}
    if any(n != 1 for n in others.values()):
        listed = ", ".join(f"{n} of {dim}" for dim, n in others.items() if n != 1)
        raise GridMismatchError(f"{name} has {listed}; choose one (isel).")
    if lcz.dtype.kind not in "ui":
        raise LabelError(
            f"{name} is {lcz.dtype}; LCZ codes are uint8, 1-17 and 0 for no data. Open the layer "
            "with its codes as stored."
        )
    flat = lcz.isel(dict.fromkeys(others, 0), drop=True).transpose("y", "x")
    is_south_up = flat.sizes["y"] > 1 and flat["y"].values[0] < flat["y"].values[-1]
    return flat.isel(y=slice(None, None, -1)) if is_south_up else flat


def lattice(flat: xr.DataArray, *, name: str) -> Lattice:
    """Where the pixels of a plane lie.

    Raises
    ------
    GridMismatchError
        If they have no CRS in metres, or are not square and regular.
    """
    crs = ODCExtensionDa(flat).crs
    if crs is None:
        raise GridMismatchError(
            f"{name} has no CRS; open it as lczcube does, or assign one (.odc.assign_crs)."
        )
    if not crs.projected or {axis.unit_name for axis in crs.proj.axis_info} != {"metre"}:
        raise GridMismatchError(
            f"{name} is in {_name(crs.proj)}, which is not projected in metres; open it on a Grid "
            "(open_cube)."
        )
    x, y = flat["x"].values.astype(np.float64), flat["y"].values.astype(np.float64)
    steps = [np.diff(x), -np.diff(y)]
    if not any(step.size for step in steps):
        raise GridMismatchError(f"{name} is a single pixel; two pixels say how large one is.")
    pixel_m = float(np.concatenate(steps).mean())
    off = max(
        float(np.abs(axis - axis[0] - np.arange(axis.size) * pixel_m).max()) for axis in (x, -y)
    )
    if pixel_m <= 0 or off > LATTICE_TOLERANCE_PX * pixel_m:
        raise GridMismatchError(
            f"the pixels of {name} are not square and regular in metres; open it on a Grid "
            "(open_cube)."
        )
    left, top = float(x[0] - pixel_m / 2), float(y[0] + pixel_m / 2)
    return Lattice(left, top, pixel_m, (y.size, x.size), crs.proj)


def require_same(first: Lattice, second: Lattice, *, names: tuple[str, str]) -> None:
    """Raise unless two lattices have the same pixels.

    Raises
    ------
    GridMismatchError
        Naming what differs.
    """
    a, b = names
    remedy = "Open both on one Grid (open_cube; trim_halo leaves out the halo)."
    if first.crs != second.crs:
        raise GridMismatchError(
            f"{a} is in {_name(first.crs)}, {b} in {_name(second.crs)}. {remedy}"
        )
    if first.shape != second.shape:
        raise GridMismatchError(
            f"{a} has {first.shape} rows and columns, {b} {second.shape}. {remedy}"
        )
    far = max(
        abs(first.left - second.left),
        abs(first.top - second.top),
        abs(first.pixel_m - second.pixel_m) * max(first.shape),
    )
    if far > LATTICE_TOLERANCE_PX * first.pixel_m:
        raise GridMismatchError(f"{a} and {b} lie up to {far:g} m apart. {remedy}")


def codes_of(
    stored: npt.NDArray[np.integer], *, name: str, nodata: int | None
) -> npt.NDArray[np.int64]:
    """Codes 0-17, 0 also for the layer's own no data.

    Raises
    ------
    LabelError
        If there are other codes.
    """
    codes = stored.astype(np.int64)
    if nodata is not None:
        codes[codes == nodata] = NODATA
    if codes.size and (codes.min() < 0 or codes.max() > N_CLASSES):
        require_codes(codes, where=f"pixels of {name}")
    return codes


def nodata_of(lcz: xr.DataArray) -> int | None:
    """The layer's own code of no data, as its attributes have it."""
    given = lcz.attrs.get("nodata")
    return None if given is None or not np.isfinite(given) else int(given)


def _name(crs: CRS) -> str:
    known = crs.to_authority()
    return crs.to_string() if known is None else ":".join(known)
