"""From stored codes to values: decoders and validity rules, applied block by block.

Codes are never averaged. A block is decoded to float32 with NaN where it is invalid, and only then
resampled or reduced.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lczcube.errors import CatalogError

DECODERS = ("linear", "signed_square", "int8_times_scale")
VALID_RULES = ("nodata", "all_bands_nodata", "finite_scale")

MAX_VALID_SCALE = 1.0
"""Scales of TESSERA lie below this; larger ones mark broken pixels (geotessera MAX_VALID_SCALE)."""


@dataclass(frozen=True)
class Coding:
    """How the codes of one layer become values, and which pixels are valid.

    Attributes
    ----------
    decoder : str
        ``linear``: ``code * scale + offset``. ``signed_square``: ``sign(c) * (c / 127.5)**2``, the
        official rule of AlphaEarth (Brown et al. 2025, arXiv:2507.22291). ``int8_times_scale``:
        ``code * scales``, the scale of each pixel being a layer of its own (TESSERA, Feng et al.
        2025, arXiv:2506.20380).
    valid : str
        ``nodata``: a pixel is valid where no band is nodata. ``all_bands_nodata``: where at least
        one band is not. ``finite_scale``: where the scale is finite, above 0 and below
        :data:`MAX_VALID_SCALE`, in every band that has one.
    nodata : float or None
        The code that means "no value here"; None when there is none. NaN codes are always nodata.
    scale, offset : tuple of float
        One per band; used by ``linear``.
    """

    decoder: str
    valid: str
    nodata: float | None
    scale: tuple[float, ...]
    offset: tuple[float, ...]

    def __post_init__(self) -> None:
        for value, known, name in (
            (self.decoder, DECODERS, "decoder"),
            (self.valid, VALID_RULES, "valid"),
        ):
            if value not in known:
                raise CatalogError(
                    f"{name} {value!r} is unknown to this version; known: {', '.join(known)}."
                )

    @classmethod
    def from_attrs(cls, attrs: Mapping[str, Any]) -> "Coding":
        """The coding that :func:`lczcube.cube.open_cube` wrote on a variable."""
        nodata = attrs.get("nodata")
        return cls(
            decoder=attrs["decoder"],
            valid=attrs["valid"],
            nodata=None if nodata is None else float(nodata),
            scale=tuple(attrs["scale"]),
            offset=tuple(attrs["offset"]),
        )

    def to_attrs(self) -> dict[str, Any]:
        """Attributes that :meth:`from_attrs` reads; ``nodata`` is left out when there is none."""
        attrs: dict[str, Any] = {
            "decoder": self.decoder,
            "valid": self.valid,
            "scale": list(self.scale),
            "offset": list(self.offset),
        }
        return attrs if self.nodata is None else attrs | {"nodata": self.nodata}

    @property
    def has_scales(self) -> bool:
        """True when codes mean nothing without a scale for each pixel."""
        return self.decoder == "int8_times_scale"

    def valid_pixels(
        self, codes: npt.NDArray[Any], scales: npt.NDArray[np.float32] | None = None
    ) -> npt.NDArray[np.bool_]:
        """Which pixels of a block are valid.

        Parameters
        ----------
        codes : numpy.ndarray
            Stored codes, dims ``(..., band, y, x)``.
        scales : numpy.ndarray, optional
            float32, dims ``(..., 1 or band, y, x)``; wanted by ``finite_scale``.

        Returns
        -------
        numpy.ndarray
            bool, dims ``(..., y, x)``.
        """
        if self.valid == "finite_scale":
            known = _scales(scales)
            usable = np.isfinite(known) & (known > 0) & (known < MAX_VALID_SCALE)
            every: npt.NDArray[np.bool_] = np.logical_and.reduce(usable, axis=-3)
            return every
        missing = self._missing(codes)
        reduce = np.logical_and if self.valid == "all_bands_nodata" else np.logical_or
        invalid: npt.NDArray[np.bool_] = reduce.reduce(missing, axis=-3)
        return ~invalid

    def decode_band(
        self,
        codes: npt.NDArray[Any],
        band: int,
        scales: npt.NDArray[np.float32] | None = None,
    ) -> npt.NDArray[np.float32]:
        """Values of one band, float32, invalid pixels not yet marked.

        Parameters
        ----------
        codes : numpy.ndarray
            Codes of the band, any shape.
        band : int
            Its position in the layer.
        scales : numpy.ndarray, optional
            float32, of the shape of ``codes``; wanted by ``int8_times_scale``.
        """
        values = codes.astype(np.float32)
        if self.has_scales:
            with np.errstate(invalid="ignore"):  # code 0 times the +inf of a pixel without data
                return values * _scales(scales)
        if self.decoder == "signed_square":
            squared: npt.NDArray[np.float32] = np.square(values / np.float32(127.5))
            return np.sign(values) * squared
        scale, offset = np.float32(self.scale[band]), np.float32(self.offset[band])
        return values if scale == 1 and offset == 0 else values * scale + offset

    def decode(
        self, codes: npt.NDArray[Any], scales: npt.NDArray[np.float32] | None = None
    ) -> npt.NDArray[np.float32]:
        """Values of a block, float32, dims as ``codes``, NaN where a pixel is invalid.

        ``scales`` as in :meth:`valid_pixels`.
        """
        values = np.empty(codes.shape, dtype=np.float32)
        for band in range(codes.shape[-3]):
            of_band = None
            if scales is not None:
                of_band = scales[..., min(band, scales.shape[-3] - 1), :, :]
            values[..., band, :, :] = self.decode_band(codes[..., band, :, :], band, of_band)
        invalid = ~self.valid_pixels(codes, scales)
        np.moveaxis(values, -3, 0)[:, invalid] = np.nan
        return values

    def _missing(self, codes: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        missing = np.isnan(codes) if codes.dtype.kind == "f" else np.zeros(codes.shape, bool)
        if self.nodata is not None and not np.isnan(self.nodata):
            missing |= codes == self.nodata
        return missing


def _scales(scales: npt.NDArray[np.float32] | None) -> npt.NDArray[np.float32]:
    if scales is None:
        raise CatalogError(
            "codes of decoder 'int8_times_scale' came without their scales; open the layer with "
            "lczcube.open_cube, which reads both."
        )
    return scales
