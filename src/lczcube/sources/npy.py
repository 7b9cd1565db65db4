"""NumPy files: what their headers say, without loading an element."""

from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from lczcube.errors import SourceError
from lczcube.sources.files import SourceFile, first_line, require_file


@dataclass(frozen=True)
class NpyHeader:
    """What the header of a ``.npy`` file says.

    Attributes
    ----------
    shape : tuple of int
        Of the array.
    dtype : str
        NumPy's name, with byte order where it is not this machine's: ``int8``, ``>f4``.
    """

    shape: tuple[int, ...]
    dtype: str


def read_header(file: SourceFile) -> NpyHeader:
    """The header of a ``.npy`` file whose elements are all there, in C order.

    Raises
    ------
    MissingInputError
        If the file is not there.
    SourceError
        If it is empty, no NumPy file, cut short, or in Fortran order.
    """
    require_file(file)
    path = Path(file.href)
    try:
        with path.open("rb") as stream:
            read = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[np.lib.format.read_magic(stream)]
            shape, is_fortran, dtype = read(stream)
            if dtype.hasobject:
                raise ValueError("it holds Python objects")
            n_bytes = stream.tell() + prod(shape) * dtype.itemsize
    except (OSError, ValueError, KeyError) as error:
        raise SourceError(
            f"{path} cannot be read as a NumPy file ({first_line(error)}); fetch it again."
        ) from error
    if path.stat().st_size < n_bytes:
        raise SourceError(
            f"{path} is cut short: {path.stat().st_size} bytes of {n_bytes}; fetch it again."
        )
    if is_fortran:
        raise SourceError(
            f"{path} is stored in Fortran order; save it again in C order "
            "(numpy.ascontiguousarray)."
        )
    return NpyHeader(shape, dtype.name if dtype.isnative else dtype.str)
