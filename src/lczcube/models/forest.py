"""A random forest as arrays: safe to load, and read by a compiled loop of our own.

scikit-learn walks its trees without a check of their numbers, so a forged file could read any
memory; and what its trees look like inside changes with its versions. Arrays are checked once.
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from lczcube.runtime import IMPORTING

Arrays = Mapping[str, npt.NDArray[Any]]

LEAF = -1


def forest_arrays(forest: Any) -> dict[str, npt.NDArray[Any]]:
    """The trees of a fitted scikit-learn forest, one after the other.

    Returns
    -------
    dict
        ``root`` int32 (n_trees,): first node of each tree. For each node ``feature`` int32, -1 in a
        leaf, and ``threshold`` float64; ``left`` and ``right`` int32: the next node where the
        feature is at most the threshold, or above; in a leaf ``left`` is its row of ``share``
        float32 (n_leaves, n_classes), its training samples by class.
    """
    trees = [estimator.tree_ for estimator in forest.estimators_]
    counts = np.array([tree.node_count for tree in trees])
    root = np.cumsum([0, *counts[:-1]])
    feature = np.concatenate([tree.feature for tree in trees])
    is_leaf = np.concatenate([tree.children_left == LEAF for tree in trees])
    shift = np.repeat(root, counts)
    left, right = (
        np.concatenate([getattr(tree, f"children_{side}") for tree in trees]) + shift
        for side in ("left", "right")
    )
    left[is_leaf], right[is_leaf] = np.arange(is_leaf.sum()), 0
    share = np.concatenate([tree.value[tree.children_left == LEAF, 0] for tree in trees])
    return {
        "root": root.astype(np.int32),
        "feature": np.where(is_leaf, LEAF, feature).astype(np.int32),
        "threshold": np.concatenate([tree.threshold for tree in trees]),
        "left": left.astype(np.int32),
        "right": right.astype(np.int32),
        "share": (share / share.sum(axis=1, keepdims=True)).astype(np.float32),
    }


def is_forest(arrays: Arrays, n_features: int, n_classes: int) -> bool:
    """Whether every walk from a root ends in a leaf and reads nothing past the arrays."""
    root, feature, left, right = (arrays[n] for n in ("root", "feature", "left", "right"))
    threshold, share, n = arrays["threshold"], arrays["share"], len(feature)
    if not all(array.dtype == np.int32 for array in (root, feature, left, right)):
        return False
    if not left.shape == right.shape == threshold.shape == (n,) or share.shape[1] != n_classes:
        return False
    leaf, inner = left[feature == LEAF], np.flatnonzero(feature != LEAF)
    following = np.stack([left, right])[:, inner]
    return bool(
        root.ndim == 1
        and len(root) > 0
        and np.all((root >= 0) & (root < n))
        and np.all((leaf >= 0) & (leaf < len(share)))
        and np.all((feature[inner] >= 0) & (feature[inner] < n_features))
        # A node is always followed by later ones: no walk is endless.
        and np.all((following > inner) & (following < n))
    )


def forest_probability(arrays: Arrays, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Mean share of each class over the trees, float64 (n, n_classes), of rows without NaN."""
    total = np.zeros((len(rows), arrays["share"].shape[1]))
    names = ("root", "feature", "threshold", "left", "right", "share")
    _kernel()(np.ascontiguousarray(rows), *(arrays[name] for name in names), total)
    return total / len(arrays["root"])


@cache
def _kernel() -> Callable[..., None]:
    """The compiled walk; compiling takes a second, once a process."""
    with IMPORTING:
        from numba import njit

    def walk(
        rows: npt.NDArray[np.float32],
        root: npt.NDArray[np.int32],
        feature: npt.NDArray[np.int32],
        threshold: npt.NDArray[np.float64],
        left: npt.NDArray[np.int32],
        right: npt.NDArray[np.int32],
        share: npt.NDArray[np.float32],
        total: npt.NDArray[np.float64],
    ) -> None:
        for row in range(len(rows)):
            for first in root:
                node = first
                while feature[node] != LEAF:
                    small = rows[row, feature[node]] <= threshold[node]
                    node = left[node] if small else right[node]
                for index in range(share.shape[1]):
                    total[row, index] += share[left[node], index]

    compiled: Callable[..., None] = njit(nogil=True)(walk)
    return compiled
