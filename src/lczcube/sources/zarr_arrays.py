"""Arrays of a Zarr group: which one is wanted, and what each of its dimensions is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lczcube.errors import SourceError
from lczcube.sources.files import first_line

if TYPE_CHECKING:
    import zarr

Axis = Literal["time", "band", "y", "x"]

DTYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64")
"""Codes that layers are made of."""

_AXES: Mapping[str, Axis] = {
    **dict.fromkeys(("y", "lat", "latitude", "northing", "row"), "y"),
    **dict.fromkeys(("x", "lon", "longitude", "easting", "column"), "x"),
    **dict.fromkeys(("time", "year", "t"), "time"),
}
"""What dimensions are called; one of another name is that of the bands."""

_READ_ERRORS = (OSError, ValueError, KeyError, TypeError)


@dataclass(frozen=True)
class GridArray:
    """An array of a group that has rows and columns.

    Attributes
    ----------
    group : zarr.Group
        What holds it; coordinates are arrays beside it.
    array : zarr.Array
        The array.
    axes : tuple of str
        Each of its dimensions: ``time``, ``band``, ``y`` or ``x``.
    names : tuple of str
        What the store calls them.
    href : str
        Of the group.
    """

    group: zarr.Group
    array: zarr.Array[Any]
    axes: tuple[Axis, ...]
    names: tuple[str, ...]
    href: str

    @property
    def name(self) -> str:
        """Of the array in its group."""
        return str(self.array.name).rsplit("/", maxsplit=1)[-1]

    @property
    def where(self) -> str:
        """What it is called in messages."""
        return f"{self.href}/{self.name}"

    @property
    def shape(self) -> tuple[int, int]:
        """``(rows, columns)``."""
        return self.size("y"), self.size("x")

    @property
    def block_shape(self) -> tuple[int, int]:
        """``(rows, columns)`` that are compressed together."""
        chunks = dict(zip(self.axes, self.array.chunks, strict=True))
        return int(chunks["y"]), int(chunks["x"])

    @property
    def attrs(self) -> dict[str, Any]:
        """Attributes of the group, which its arrays inherit, and over them those of the array."""
        return {**self.group.attrs, **self.array.attrs}

    def size(self, axis: Axis) -> int:
        """Length along an axis; 1 where it has none."""
        sizes = dict(zip(self.axes, self.array.shape, strict=True))
        return int(sizes.get(axis, 1))

    def dim(self, axis: Axis) -> str | None:
        """What the store calls an axis; None where the array has none."""
        return dict(zip(self.axes, self.names, strict=True)).get(axis)

    def variable(self, name: str | None) -> zarr.Array[Any] | None:
        """Another array of the group; None where there is none."""
        import zarr

        found = None if name is None else self.group.get(name)
        return found if isinstance(found, zarr.Array) else None

    def coordinate(self, axis: Axis) -> zarr.Array[Any] | None:
        """The coordinate of an axis: one value a step; None where there is none."""
        found = self.variable(self.dim(axis))
        return None if found is None or found.shape != (self.size(axis),) else found


def open_array(href: str, *, name: str | None = None, dims: Sequence[Axis] = ()) -> GridArray:
    """An array of a local group; reads attributes alone.

    Parameters
    ----------
    href : str
        Path of the group.
    name : str, optional
        Which array. Default: the only one with rows and columns.
    dims : sequence of str
        Its axes, where it does not name its dimensions.

    Raises
    ------
    SourceError
        If the group or the array cannot be read, there is not one such array, or its codes are no
        numbers of a layer.
    """
    group, arrays, listed = _read_group(href)
    if name is not None and name not in arrays:
        raise SourceError(f"{href} has no array {name!r}; it has {listed}.")
    candidates = arrays.values() if name is None else [arrays[name]]
    grids = [_grid_array(group, array, dims if name else (), href) for array in candidates]
    found = [grid for grid in grids if grid is not None]
    if name is not None and not found:
        raise _no_axes(arrays[name], f"{href}/{name}")
    if len(found) != 1:
        raise SourceError(
            f"{href} has {len(found)} arrays with dimensions y and x, among {listed}; name one: "
            "array = …, or the group that holds it in href."
        )
    (grid,) = found
    if grid.array.dtype.name not in DTYPES:
        raise SourceError(
            f"{grid.where} holds {grid.array.dtype.name}; a layer holds {', '.join(DTYPES)}. "
            "Convert it."
        )
    return grid


def _read_group(href: str) -> tuple[zarr.Group, dict[str, zarr.Array[Any]], str]:
    """A group, its arrays, and what is in it for a message."""
    import zarr

    try:
        group = zarr.open_group(href, mode="r", use_consolidated=False)
        arrays = {str(name): array for name, array in group.arrays()}
        groups = [f"group {name}" for name in sorted(group.group_keys())]
    except _READ_ERRORS as error:
        raise SourceError(
            f"{href} cannot be read as a Zarr group ({first_line(error)}); name the group that "
            "holds the array, or fetch it again."
        ) from error
    named = [f"{name} {array.shape}" for name, array in sorted(arrays.items())]
    return group, arrays, ", ".join([*named, *groups]) or "nothing"


def _grid_array(
    group: zarr.Group, array: zarr.Array[Any], dims: Sequence[Axis], href: str
) -> GridArray | None:
    """None for an array without rows and columns, or whose dimensions are not told apart."""
    names = _dimension_names(array)
    axes = tuple(dims) or tuple(_AXES.get(name.lower(), "band") for name in names)
    is_clear = len(set(axes)) == len(axes) == array.ndim and {"y", "x"} <= {*axes}
    if not is_clear:
        return None
    return GridArray(group, array, axes, names if len(names) == len(axes) else axes, href)


def _dimension_names(array: zarr.Array[Any]) -> tuple[str, ...]:
    """Names of the dimensions: Zarr 3's own, or what xarray writes in version 2."""
    names = getattr(array.metadata, "dimension_names", None)
    if names is None or None in names:
        names = array.attrs.get("_ARRAY_DIMENSIONS", ())
    return tuple(map(str, names)) if isinstance(names, list | tuple) else ()


def _no_axes(array: zarr.Array[Any], where: str) -> SourceError:
    names = _dimension_names(array)
    told = f"dimensions {', '.join(names)}" if names else "no names of its dimensions"
    return SourceError(
        f"{where} has {told} and shape {array.shape}; rows and columns, and at most a time and "
        'bands beside them, are wanted. Say which is which: dims = ["band", "y", "x"].'
    )
