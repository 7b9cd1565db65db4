"""Shapes burnt on the pixels of a rectangle."""

import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import shapely
from affine import Affine

from lczcube.tiles import Rect

_BURNING = threading.Lock()


def burn(outlines: Sequence[shapely.Geometry], rect: Rect) -> npt.NDArray[np.uint8]:
    """Which pixels of a rectangle have their centre in a polygon.

    Parameters
    ----------
    outlines : sequence of shapely.Geometry
        Polygons, at least one, in pixel coordinates of the frame that the rectangle is of.
    rect : Rect
        The rectangle.

    Returns
    -------
    numpy.ndarray
        uint8 ``(rows, columns)``, 1 or 0.
    """
    from rasterio.features import rasterize

    # Twice as large, as rasterio warns of an identity transform; and one at a time, as it changes
    # the process's warning filters while it burns.
    with _BURNING:
        burnt: npt.NDArray[np.uint8] = rasterize(
            [shapely.transform(outline, lambda xy: 2 * xy) for outline in outlines],
            out_shape=rect.shape,
            transform=Affine(2, 0, 2 * rect.left, 0, 2, 2 * rect.top),
            fill=0,
            default_value=1,
            dtype="uint8",
        )
    return burnt
