"""What a model was trained on, and the folder that holds it: ``model.json`` and weights."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from lczcube.errors import MissingInputError, ModelError, StoreError
from lczcube.lcz import N_CLASSES

META_NAME = "model.json"
FORMAT = 1


@dataclass(frozen=True)
class ModelMeta:
    """What a model was trained on; it may be used on nothing else.

    Attributes
    ----------
    kind : str
        What the folder holds: ``xgb``, ``unet``, ``patch``, ``linear``, ``forest`` or ``knn``. Of
        trees on pixels, which a run calls ``xgb_pixels``, it is ``xgb`` too.
    features : tuple of str
        Names of the features, or of the bands of a U-Net, in the order of training.
    products : tuple of str
        Embedding products among them, such as ``alphaearth/1``.
    classes : tuple of int
        The codes 1-17 seen in training, ascending; no other code is ever predicted.
    seed : int
        Of the fit.
    n_train : int
        Samples, or labelled pixels, with a weight above 0.
    synthetic : bool
        True when the training data were made up; maps then say so.
    parameters : dict
        Of the fit, as plain values.
    """

    kind: str
    features: tuple[str, ...]
    products: tuple[str, ...]
    classes: tuple[int, ...]
    seed: int
    n_train: int
    synthetic: bool
    parameters: dict[str, Any]

    def to_json(self) -> str:
        """The same text for the same model: sorted keys, no times, no host names."""
        return json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The meta of :meth:`to_json`.

        Raises
        ------
        ModelError
            If the text is not the description of a model in this format.
        """
        try:
            values = json.loads(text)
            if values["format"] != FORMAT:
                raise ValueError(f"its format is {values['format']}")
            return cls(**{name: _plain(values[name]) for name in cls.__dataclass_fields__})
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"{META_NAME} is not a model's description of format {FORMAT}: {error!r}. "
                "Train the model again."
            ) from error


def require_features(meta: ModelMeta, features: Sequence[str], products: Sequence[str]) -> None:
    """Raise unless features and products are those of training, in that order.

    Parameters
    ----------
    meta : ModelMeta
        Of the model.
    features : sequence of str
        Names of what it is to be used on.
    products : sequence of str
        Their embedding products; their order does not matter.

    Raises
    ------
    ModelError
        Naming the first difference.
    """
    if sorted(products) != sorted(meta.products):
        raise ModelError(
            f"model was trained on {_listed(meta.products)}, these features are of "
            f"{_listed(products)}; two products never share a feature space. Train on this one."
        )
    if tuple(features) != meta.features:
        raise ModelError(
            f"model was trained on {len(meta.features)} features, these are {len(features)}: "
            f"{_first_difference(meta.features, features)}. Give them in the order of training."
        )


def read_meta(folder: str | Path, *, kind: str | None = None) -> ModelMeta:
    """The meta of a saved model.

    Raises
    ------
    MissingInputError
        If there is no model in ``folder``.
    ModelError
        If it is a model of another kind, or of another format.
    """
    path = Path(folder) / META_NAME
    if not path.is_file():
        raise MissingInputError(f"{folder} holds no {META_NAME}; a model folder does. Train first.")
    meta = ModelMeta.from_json(path.read_text(encoding="utf-8"))
    if kind is not None and meta.kind != kind:
        raise ModelError(f"{folder} holds a {meta.kind} model, not {kind}; use load_model.")
    return meta


@contextmanager
def written_folder(folder: str | Path, meta: ModelMeta) -> Iterator[Path]:
    """A new folder with ``meta`` in it that takes the name ``folder`` when the ``with`` ends well.

    An older model of that name is replaced; a fit that is killed leaves it untouched.

    Raises
    ------
    StoreError
        If ``folder`` exists and is not a model: it is never deleted.
    """
    target = Path(folder)
    _require_replaceable(target)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        (partial / META_NAME).write_text(meta.to_json(), encoding="utf-8")
        yield partial
        _replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def scatter_classes(
    probability: npt.NDArray[np.float32], classes: Sequence[int]
) -> npt.NDArray[np.float32]:
    """Probabilities of the classes seen in training, spread over codes 1-17.

    Parameters
    ----------
    probability : numpy.ndarray
        float32, shape (n, len(classes)).
    classes : sequence of int
        The code of each column.

    Returns
    -------
    numpy.ndarray
        float32, shape (n, 17); 0 for classes that were not seen.
    """
    spread = np.zeros((len(probability), N_CLASSES), np.float32)
    spread[:, np.asarray(classes) - 1] = probability
    return spread


def require_classes(classes: npt.NDArray[np.uint8]) -> None:
    """Raise unless there are two classes to tell apart.

    Raises
    ------
    ModelError
        Naming the one class, or saying that there is none.
    """
    if len(classes) > 1:
        return
    found = f"only LCZ {classes[0]}" if len(classes) else "no labelled sample with valid features"
    raise ModelError(
        f"training data hold {found}; a model needs two classes or more. "
        "Add labels, or check that labels and valid pixels overlap."
    )


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "no embedding product"


def _first_difference(wanted: Sequence[str], given: Sequence[str]) -> str:
    for position, (one, other) in enumerate(zip(wanted, given, strict=False)):
        if one != other:
            return f"number {position} is {other!r}, not {one!r}"
    longer, what = (wanted, "lack") if len(wanted) > len(given) else (given, "add")
    return f"they {what} {longer[min(len(wanted), len(given))]!r}"


def _require_replaceable(target: Path) -> None:
    if target.exists() and not (target / META_NAME).is_file() and not _is_empty(target):
        raise StoreError(f"{target} exists and is not a model; it is not replaced. Name another.")


def _is_empty(target: Path) -> bool:
    return target.is_dir() and not any(target.iterdir())


def _replace(partial: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    partial.rename(target)
    shutil.rmtree(old, ignore_errors=True)
