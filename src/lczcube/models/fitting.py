"""The fit of a network, of pixels or of windows: from labelled windows to a model's weights."""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lczcube.errors import ModelError
from lczcube.models.balance import class_factors
from lczcube.models.extras import import_extra
from lczcube.models.inputs import layer_names, layer_numbers, require_layers
from lczcube.models.meta import ModelMeta, require_classes
from lczcube.models.sampler import LabelledWindows, scan, windows_on_disk
from lczcube.models.tabular import file_fingerprint
from lczcube.models.trainingrun import Fit, State, train
from lczcube.models.windowbatches import WindowBatches


@dataclass(frozen=True, eq=False)
class Fitted:
    """A fitted network.

    Attributes
    ----------
    meta : ModelMeta
        What it was trained on.
    state : dict
        Weights and normalisation.
    history : tuple of dict
        One an epoch: ``loss``, and ``valid_loss`` and ``valid_macro_f1`` with validation data.
    """

    meta: ModelMeta
    state: State
    history: tuple[Mapping[str, float], ...]


def fit_network(
    fit: Fit, cities: Sequence[LabelledWindows], valid: Sequence[LabelledWindows]
) -> Fitted:
    """Read the windows, train on them, and keep the best weights; goes on from a checkpoint.

    Raises
    ------
    ModelError
        If bands or layers differ, fewer than two classes have a valid pixel, a layer has none, the
        loss is not a number, or no validation label counts.
    StoreError
        If there is no room for the windows.
    """
    import_extra("torch", extra="unet")
    image = cities[0].image
    for city in (*cities, *valid):
        require_layers(city.city, city.image, fit.bands, layer_names(image))
    if not any(len(city.rows) for city in cities):
        require_classes(np.zeros(0, np.uint8))
    sizes: Any = {"side": fit.side, "label_side": fit.label_side, "scratch": fit.scratch}
    with ExitStack() as stack:
        windows = stack.enter_context(windows_on_disk(cities, **sizes))
        found = scan(windows, layer_numbers(image), names=layer_names(image))
        classes = np.flatnonzero(found.n_labels).astype(np.uint8)
        require_classes(classes)
        n_train, balance = int(found.n_labels.sum()), fit.parameters.balance
        factors = class_factors(found.total_weight, n_train, balance=balance)
        rest = (found.inputs, classes, factors, fit.parameters)
        training, checking, digest = WindowBatches(windows, found.taught, *rest), None, ""
        if valid:
            unseen = stack.enter_context(windows_on_disk(valid, **sizes))
            seen = scan(unseen, found.inputs.layer)
            _require_validation(seen.n_labels, classes)
            checking, digest = WindowBatches(unseen, seen.taught, *rest), seen.digest
        meta = _meta(fit, classes, n_train)
        fingerprint = _fingerprint(fit, meta, found.inputs.layer, (found.digest, digest))
        state, history = train(fit, training, checking, fingerprint)
    return Fitted(meta, state | found.inputs.to_state(), history)


def _require_validation(n_labels: npt.NDArray[np.float64], classes: npt.NDArray[np.uint8]) -> None:
    if not n_labels[classes].any():
        raise ModelError(
            "the validation data hold no label on a valid pixel of a class that is trained on "
            f"({', '.join(map(str, classes))}); give other areas as valid, or none."
        )


def _meta(fit: Fit, classes: npt.NDArray[np.uint8], n_train: int) -> ModelMeta:
    return ModelMeta(
        kind=fit.kind,
        features=fit.bands,
        products=fit.products,
        classes=tuple(int(code) for code in classes),
        seed=fit.seed,
        n_train=n_train,
        synthetic=fit.synthetic,
        parameters=asdict(fit.parameters),
    )


def _fingerprint(
    fit: Fit, meta: ModelMeta, layer: npt.NDArray[np.int64], digests: Sequence[str]
) -> str:
    """Of all that the weights follow from."""
    import torch

    rest = json.dumps([torch.__version__, fit.n_threads, layer.tolist(), fit.side])
    return file_fingerprint(*(text.encode() for text in (meta.to_json(), rest, *digests)))
