"""So2Sat's files of synthetic cities: Sentinel pixels, one-hot labels, and where the patches lie.

As the real ones: some cities train; of the others the western half validates and the eastern half
tests. Rows are shuffled, patches lie off the pixels' lattice and overlap about six times, and the
pixel height of the geolocation is positive although patches hang down from their corner.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from lczcube.lcz import N_CLASSES
from lczcube.synth.city import City
from lczcube.synth.files import tags
from lczcube.synth.labels import PATCH_M, PATCH_PX, Patch, draw_patches
from lczcube.synth.zones import PIXEL_M, Window

if TYPE_CHECKING:
    import h5py

Layout = Literal["2025", "2026"]

N_SEN1, N_SEN2 = 8, 10
MAX_PER_SITE = 100
_BLOCK_ROWS = 16
_NOISE_LEVELS = 4
_STREAM = 12

_Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Row:
    city: City
    patch: Patch


def write_so2sat(
    out: str | Path,
    cities: Sequence[City],
    *,
    seed: int,
    held_out: Sequence[str] | None = None,
    patches_per_city: int = 200,
    layout: Layout = "2026",
) -> list[Path]:
    """Write a synthetic So2Sat of cities: each split as ``{split}.h5`` and ``{split}_geo.h5``.

    Parameters
    ----------
    out : str or Path
        Folder to write into.
    cities : sequence of City
        From :func:`lczcube.synth.draw_city`.
    seed : int
        That of the world.
    held_out : sequence of str, optional
        Names of the cities that validate and test. Default: every second one.
    patches_per_city : int
        Patches of a city at most; each takes 0.15 MB before compression.
    layout : {"2025", "2026"}
        Of the geolocation: with centres, or with names of cities and in the order of a world file.

    Returns
    -------
    list of Path
        The files written; a split without a patch has none.

    Notes
    -----
    Streams: memory does not grow with the patches.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    held = {city.name for city in cities[1::2]} if held_out is None else set(held_out)
    rows: dict[str, list[_Row]] = {"training": [], "validation": [], "testing": []}
    for city in cities:
        for split, patch in _dealt(city, seed, patches_per_city, is_held_out=city.name in held):
            rows[split].append(_Row(city, patch))
    written = []
    for number, (split, held_rows) in enumerate(rows.items()):
        if held_rows:
            rng = np.random.default_rng([seed, number, 30])
            order = [held_rows[n] for n in rng.permutation(len(held_rows))]
            written.append(_write_split(out / f"{split}.h5", order, seed, number))
            written.append(_write_geo(out / f"{split}_geo.h5", order, seed, layout))
    return written


def _dealt(
    city: City, seed: int, at_most: int, *, is_held_out: bool
) -> Iterator[tuple[str, Patch]]:
    """Patches of a city, whole sites in random order, each with its split."""
    rng = np.random.default_rng([seed, city.number, _STREAM])
    drawn = draw_patches(city.zone_map, rng, max_per_site=MAX_PER_SITE)
    turn = rng.permutation(max(patch.site for patch in drawn) + 1)
    patches = sorted(drawn, key=lambda patch: int(turn[patch.site]))[:at_most]
    middle = float(np.median([patch.x0 for patch in patches]))
    for patch in patches:
        half = "validation" if patch.x0 < middle else "testing"
        yield half if is_held_out else "training", patch


def _write_split(path: Path, rows: Sequence[_Row], seed: int, number: int) -> Path:
    spectra = _Spectra.drawn(seed)
    with _new_file(path, seed) as file:
        side = (PATCH_PX, PATCH_PX)
        sen1, sen2 = (
            file.create_dataset(
                name, (len(rows), *side, bands), "f8", chunks=(1, *side, bands),
                compression="gzip", compression_opts=1, shuffle=True,
            )
            for name, bands in (("sen1", N_SEN1), ("sen2", N_SEN2))
        )  # fmt: skip
        lcz = np.array([row.patch.lcz for row in rows])
        file.create_dataset("label", data=np.eye(N_CLASSES)[lcz - 1], compression="gzip")
        for start in range(0, len(rows), _BLOCK_ROWS):
            block = rows[start : start + _BLOCK_ROWS]
            pixels = [
                spectra.pixels(row, np.random.default_rng([seed, number, 32, start + n]))
                for n, row in enumerate(block)
            ]
            sen1[start : start + len(block)] = np.stack([radar for radar, _ in pixels])
            sen2[start : start + len(block)] = np.stack([optical for _, optical in pixels])
    return path


def _write_geo(path: Path, rows: Sequence[_Row], seed: int, layout: Layout) -> Path:
    corner = np.array([(row.patch.x0, row.patch.y0) for row in rows])
    zeros, pixels = np.zeros(len(rows)), np.full(len(rows), float(PIXEL_M))
    epsg = [[int(row.city.grid.crs.removeprefix("EPSG:"))] for row in rows]
    with _new_file(path, seed) as file:
        file.create_dataset("epsg", data=np.array(epsg, dtype=np.int32))
        x0, y0 = corner.T
        if layout == "2026":
            names = [row.city.name.encode() for row in rows]
            file.create_dataset("city", data=np.array(names, dtype="S"))
            columns = [pixels, zeros, zeros, pixels, x0, y0]
        else:
            file.create_dataset("coord", data=_centres(rows, corner))
            columns = [x0, pixels, zeros, y0, zeros, pixels]
        file.create_dataset("tfw", data=np.column_stack(columns))
    return path


def _centres(rows: Sequence[_Row], corner: _Float64) -> _Float64:
    """UTM x and y of the centres, and row and column in the images of Sentinel-1 and 2."""
    centre = corner + np.array([PATCH_M / 2, -PATCH_M / 2])
    upper_left = np.array([(row.city.grid.bbox[0], row.city.grid.bbox[3]) for row in rows])
    image = np.floor(np.abs(centre - upper_left) / PIXEL_M)[:, ::-1]
    return np.column_stack([centre, image, image])


def _new_file(path: Path, seed: int) -> "h5py.File":
    import h5py

    file = h5py.File(path, "w", libver="earliest")
    for name, text in sorted(tags(seed).items()):
        file.attrs[name] = text
    return file


@dataclass(frozen=True, eq=False)
class _Spectra:
    """What each class looks like to the two sensors.

    Attributes
    ----------
    backscatter : numpy.ndarray
        float64 ``(17, 2)``: amplitude of VH and VV.
    reflectance : numpy.ndarray
        float64 ``(17, 10)``: 0-1.
    """

    backscatter: _Float64
    reflectance: _Float64

    @classmethod
    def drawn(cls, seed: int) -> "_Spectra":
        rng = np.random.default_rng([seed, 31])
        backscatter = np.round(rng.uniform(0.05, 0.6, size=(N_CLASSES, 2)), 2)
        return cls(backscatter, np.round(rng.uniform(0.02, 0.5, size=(N_CLASSES, N_SEN2)), 4))

    def pixels(self, row: _Row, rng: np.random.Generator) -> tuple[_Float64, _Float64]:
        """Sentinel-1 ``(32, 32, 8)`` and Sentinel-2 ``(32, 32, 10)`` of a patch, north-up."""
        west, north = round(row.patch.x0 / PIXEL_M), round(row.patch.y0 / PIXEL_M)
        window = Window(west, north - PATCH_PX, west + PATCH_PX, north)
        index = row.city.zone_map.classes(window)[::-1].astype(np.intp) - 1
        waves = self._noise(rng, (*index.shape, 4)).view(np.complex128)
        vh, vv = np.moveaxis(waves * self.backscatter[index], -1, 0)
        cross = vh * vv.conj()
        radar = [vh.real, vh.imag, vv.real, vv.imag, abs(vh) ** 2, abs(vv) ** 2]
        optical = self.reflectance[index] + 0.01 * self._noise(rng, (*index.shape, N_SEN2))
        return np.stack([*radar, cross.real, cross.imag], axis=-1), np.round(optical, 4)

    @staticmethod
    def _noise(rng: np.random.Generator, shape: Any) -> _Float64:
        """Few levels, so that it compresses."""
        drawn: _Float64 = np.round(rng.standard_normal(shape) * _NOISE_LEVELS) / _NOISE_LEVELS
        return drawn
