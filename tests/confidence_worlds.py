"""Out-of-fold predictions that are made up, in blocks whose samples are alike."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Blocks:
    probability: Float32
    lcz: npt.NDArray[np.uint8]
    group: npt.NDArray[np.int64]


def softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: npt.NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares


def draw_blocks(
    seed: int, n: int, *, codes: int = 8, most: int = 30, large_is_easy: bool = True
) -> Blocks:
    """Blocks of one class and 1 to 30 samples, whose logits share an error.

    With ``large_is_easy`` a block's share of that range is also how easy it is.
    """
    rng = np.random.default_rng(seed)
    size = rng.integers(1, most + 1, n)
    easy = size / most if large_is_easy else rng.random(n)
    group = np.repeat(np.arange(n), size)
    lcz = rng.integers(1, codes + 1, n)[group]
    logits = rng.normal(0, 1.2, (n, codes))[group] + rng.normal(0, 0.7, (len(group), codes))
    logits[np.arange(len(group)), lcz - 1] += 1 + 3 * easy[group]
    probability = np.zeros((len(group), 17), np.float32)
    probability[:, :codes] = softmax(logits)
    return Blocks(probability, lcz.astype(np.uint8), group)


def honest(seed: int, n: int, *, codes: int = 6) -> Blocks:
    """Samples whose class is drawn by their probability: nothing to calibrate."""
    rng = np.random.default_rng(seed)
    chance = rng.dirichlet(np.full(codes, 0.5), n)
    beyond = rng.random((n, 1)) > chance.cumsum(axis=1)
    lcz = np.minimum(beyond.sum(axis=1), codes - 1) + 1
    probability = np.zeros((n, 17), np.float32)
    probability[:, :codes] = chance
    return Blocks(probability, lcz.astype(np.uint8), np.arange(n) // 10)
