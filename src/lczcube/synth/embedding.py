"""The embedding of a synthetic city: what a class looks like, and the codes of any window.

A pixel's latent vector is ``z = signature[class] + shift[city, class] + variation[block]`` in a
subspace of 24 of the 64 dimensions; its embedding is ``normalise(direction + z + noise)``. Blocks
are squares of 160 m on a lattice half a block off that of the cells, and independent of each
other: being near a label tells nothing beyond the class.
"""

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from lczcube import lcz
from lczcube.errors import ConfigError
from lczcube.synth.zones import Window, ZoneMap

N_BANDS = 64
N_LATENT = 24
BLOCK_PX = 16
BLOCK_OFFSET_PX = 8
NODATA_CODE = -128
TWINS = ((2, 3),)

_BLOCKS_PER_SQUARE = 8
_SQUARE_PX = BLOCK_PX * _BLOCKS_PER_SQUARE
_VARIATION, NOISE_STREAM = 0, 1
_N_SIGNATURE = 8
_N_NUISANCE = 3
_DISTANCE_POWER = 0.6
_WATER = 16

_Float = npt.NDArray[np.float64]
_Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Difficulty:
    """How hard the classes are to tell apart. Lengths are shares of the common mean direction.

    The defaults are calibrated by ``benchmarks/synth_difficulty.py``.

    Parameters
    ----------
    signature : float
        Distance of two classes that share nothing; similar ones (Bechtel et al. 2020) are closer.
    twin : float
        Distance of LCZ 2 and 3, which are nearly one class: the part of the error that no amount
        of labels removes.
    variation : float
        Standard deviation of a block within its class, in each of the 8 dimensions of the
        signatures; half of it in the 13 dimensions that tell nothing.
    nuisance : float
        The other 3 dimensions tell nothing and vary this many times as much: they mislead
        distances, not a classifier that weighs its dimensions.
    city_shift : float
        Standard deviation of what a city adds to all its classes, in the dimensions of the
        signatures; in the others in proportion to ``variation``.
    city_bend : float
        Size of the random linear map that a city adds to the signatures, 0 for none: similar
        classes are shifted alike.
    pixel_noise : float
        Standard deviation of a pixel, per band.

    Raises
    ------
    ConfigError
        If a value is negative, or ``variation`` or ``nuisance`` is zero.
    """

    signature: float = 0.8
    twin: float = 0.008
    variation: float = 0.03
    nuisance: float = 8.0
    city_shift: float = 0.03
    city_bend: float = 0.33
    pixel_noise: float = 0.03

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            least = "above 0" if name in ("variation", "nuisance") else "0 or more"
            if not value >= 0 or (value == 0 and least == "above 0"):
                raise ConfigError(
                    f"difficulty {name} = {value}: it is {least}; the default is "
                    f"{getattr(Difficulty, name)}."
                )


@dataclass(frozen=True, eq=False)
class EmbeddingModel:
    """Signatures, shifts and spread of one world.

    Attributes
    ----------
    direction : numpy.ndarray
        float64 ``(64,)``, unit: the mean of all embeddings.
    basis : numpy.ndarray
        float64 ``(24, 64)``, orthonormal rows, orthogonal to ``direction``.
    means : numpy.ndarray
        float64 ``(city, 17, 24)``: signature plus the city's shift.
    variation : numpy.ndarray
        float64 ``(24,)``: standard deviation of a block within its class.
    pixel_noise : float
        Standard deviation of a pixel, per band.
    seed : int
        Root of every random number of the windows.
    """

    direction: _Float
    basis: _Float
    means: _Float
    variation: _Float
    pixel_noise: float
    seed: int

    def variations(self, city: int, blocks: Window) -> _Float:
        """Within-class variation of blocks, float64 ``(rows, columns, 24)``, south to north.

        ``blocks`` counts blocks, not pixels.
        """
        per = _BLOCKS_PER_SQUARE
        out = np.empty((*blocks.shape, N_LATENT))
        for square, part in _squares(blocks, per):
            draws = self._rng(city, _VARIATION, square).standard_normal((per, per, N_LATENT))
            out[_within(part, blocks)] = draws[_within(part, square)]
        return out * self.variation

    def codes(self, zone_map: ZoneMap, city: int, window: Window) -> npt.NDArray[np.int8]:
        """Codes of a window, int8 ``(64, rows, columns)``, rows from south to north."""
        means = (self.direction + self.means[city] @ self.basis).astype(np.float32)
        embedding = means[zone_map.classes(window).astype(np.intp) - 1]
        embedding += self.variation_px(city, window, self.basis)
        embedding += self.noise_px(city, window, n_bands=N_BANDS, stream=NOISE_STREAM)
        embedding /= np.linalg.norm(embedding, axis=-1, keepdims=True)
        codes = quantise(embedding)
        codes[~zone_map.seen(window)] = NODATA_CODE
        return np.ascontiguousarray(np.moveaxis(codes, -1, 0))

    def variation_px(self, city: int, window: Window, basis: _Float) -> _Float32:
        """Within-class variation of each pixel, float32 ``(rows, columns, band)``, in ``basis``."""
        blocks = blocks_of(window)
        vectors = (self.variations(city, blocks) @ basis).astype(np.float32)
        row = (np.arange(window.y0, window.y1) - BLOCK_OFFSET_PX) // BLOCK_PX - blocks.y0
        column = (np.arange(window.x0, window.x1) - BLOCK_OFFSET_PX) // BLOCK_PX - blocks.x0
        return vectors[row[:, None], column[None, :]]

    def noise_px(self, city: int, window: Window, *, n_bands: int, stream: int) -> _Float32:
        """Noise of each pixel and band, float32 ``(rows, columns, n_bands)``; one of a stream."""
        shape = (_SQUARE_PX, _SQUARE_PX, n_bands)
        out = np.empty((*window.shape, n_bands), dtype=np.float32)
        for square, part in _squares(window, _SQUARE_PX):
            draws = self._rng(city, stream, square).standard_normal(shape, dtype=np.float32)
            out[_within(part, window)] = draws[_within(part, square)]
        out *= np.float32(self.pixel_noise)
        return out

    def _rng(self, city: int, kind: int, square: Window) -> np.random.Generator:
        return np.random.default_rng([self.seed, city, kind, square.x0, square.y0])


def embedding_model(difficulty: Difficulty, *, n_cities: int, seed: int) -> EmbeddingModel:
    """Draw the signatures of a world. Distances between them do not depend on the seed."""
    rng = np.random.default_rng([seed, n_cities])
    frame, _ = np.linalg.qr(rng.standard_normal((N_BANDS, N_LATENT + 1)))
    turn, _ = np.linalg.qr(rng.standard_normal((_N_SIGNATURE, _N_SIGNATURE)))
    signatures = _signatures(difficulty) @ turn
    spread = _spread(difficulty)
    shift = rng.standard_normal((n_cities, 1, N_LATENT)) * difficulty.city_shift * spread
    bend = rng.standard_normal((n_cities, _N_SIGNATURE, N_LATENT)) / np.sqrt(_N_SIGNATURE)
    bend *= difficulty.city_bend * np.minimum(spread, 1)
    means = np.pad(signatures, ((0, 0), (0, N_LATENT - _N_SIGNATURE)))
    return EmbeddingModel(
        direction=frame[:, 0],
        basis=frame[:, 1:].T,
        means=means + shift + signatures @ bend,
        variation=difficulty.variation * spread,
        pixel_noise=difficulty.pixel_noise,
        seed=seed,
    )


def quantise(embedding: _Float32) -> npt.NDArray[np.int8]:
    """AlphaEarth's codes of unit vectors: ``sign(x) * sqrt(|x|) * 127.5``, rounded, -127 to 127."""
    root = np.copysign(np.sqrt(np.abs(embedding)), embedding)
    return np.clip(np.rint(root * np.float32(127.5)), -127, 127).astype(np.int8)


def blocks_of(window: Window) -> Window:
    """The blocks that hold a window's pixels, counted in blocks."""
    start = ((edge - BLOCK_OFFSET_PX) // BLOCK_PX for edge in (window.x0, window.y0))
    stop = ((edge - 1 - BLOCK_OFFSET_PX) // BLOCK_PX + 1 for edge in (window.x1, window.y1))
    return Window(*start, *stop)


def _signatures(difficulty: Difficulty) -> _Float:
    """Places of the 17 classes, ``(17, 8)``: classical scaling of (1 - similarity)^0.6.

    Water counts as half as similar to the others: for heat it is much like bare soil, from space
    it is not.
    """
    similar = lcz.similarity()
    similar[_WATER, :_WATER] = similar[:_WATER, _WATER] = similar[_WATER, :_WATER] / 2
    squared = (1 - similar) ** (2 * _DISTANCE_POWER)
    centring = np.eye(lcz.N_CLASSES) - 1 / lcz.N_CLASSES
    values, vectors = np.linalg.eigh(-centring @ squared @ centring / 2)
    values, vectors = values[::-1][:_N_SIGNATURE], vectors[:, ::-1][:, :_N_SIGNATURE]
    places = difficulty.signature * vectors * np.sqrt(np.clip(values, 0, None))
    for a, b in np.array(TWINS) - 1:
        middle, apart = (places[a] + places[b]) / 2, places[a] - places[b]
        offset = apart / np.linalg.norm(apart) * difficulty.twin / 2
        places[a], places[b] = middle + offset, middle - offset
    return np.asarray(places)


def _spread(difficulty: Difficulty) -> _Float:
    """Standard deviation of each latent dimension, in units of the signatures' dimensions."""
    spread = np.full(N_LATENT, 0.5)
    spread[:_N_SIGNATURE] = 1
    spread[_N_SIGNATURE : _N_SIGNATURE + _N_NUISANCE] = difficulty.nuisance
    return spread


def _squares(window: Window, side: int) -> list[tuple[Window, Window]]:
    """Squares of the fixed lattice that a window touches, each with the part they share."""
    found = []
    for y in range(window.y0 // side * side, window.y1, side):
        for x in range(window.x0 // side * side, window.x1, side):
            part = Window(
                max(x, window.x0),
                max(y, window.y0),
                min(x + side, window.x1),
                min(y + side, window.y1),
            )
            found.append((Window(x, y, x + side, y + side), part))
    return found


def _within(part: Window, whole: Window) -> tuple[slice, slice]:
    return (
        slice(part.y0 - whole.y0, part.y1 - whole.y0),
        slice(part.x0 - whole.x0, part.x1 - whole.x0),
    )
