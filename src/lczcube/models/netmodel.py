"""A fitted network and the folder that holds it; what the U-Net and the patch network share."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from lczcube.lcz import N_CLASSES
from lczcube.models.extras import import_extra
from lczcube.models.inputs import LAYER, MEAN, STD, Inputs
from lczcube.models.meta import ModelMeta, read_meta, written_folder
from lczcube.models.network import ready_to_predict
from lczcube.models.tabular import file_fingerprint

if TYPE_CHECKING:
    import torch

WEIGHTS_NAME = "weights.safetensors"
HISTORY_NAME = "history.json"

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class NetworkModel:
    """A trained network and what it was trained on.

    Attributes
    ----------
    meta : ModelMeta
        Bands, products and classes of training.
    state : dict
        Weights by name, NumPy; ``input.mean``, ``input.std`` and ``input.layer`` say how bands
        become channels.
    history : tuple of dict
        Of each epoch: ``loss``, and with validation data ``valid_loss`` and ``valid_macro_f1``.
    """

    kind: ClassVar[str]

    meta: ModelMeta
    state: dict[str, npt.NDArray[Any]]
    history: tuple[Mapping[str, float], ...] = ()

    def build(self, n_inputs: int, n_classes: int) -> Any:
        """The torch module, with weights of chance."""
        raise NotImplementedError

    @cached_property
    def inputs(self) -> Inputs:
        """How bands become channels.

        Raises
        ------
        ModelError
            If the model does not say.
        """
        return Inputs.from_state(self.state)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of weights and meta, hex."""
        ordered = [self.state[name] for name in sorted(self.state)]
        return file_fingerprint(self.meta.to_json().encode(), *(v.tobytes() for v in ordered))

    @cached_property
    def network(self) -> Any:
        """The torch module, ready to predict; built once a process, never pickled.

        Raises
        ------
        MissingExtraError
            If torch is not installed.
        """
        torch = import_extra("torch", extra="unet")
        given = (name for name in self.state if name not in (MEAN, STD, LAYER))
        network = self.build(self.inputs.n_channels, len(self.meta.classes))
        network.load_state_dict({name: torch.from_numpy(self.state[name]) for name in given})
        return ready_to_predict(network).to(self.device)

    @property
    def device(self) -> str:
        """Where it predicts: on the device of its fit, on the CPU where that is not there."""
        torch = import_extra("torch", extra="unet")
        wanted = self.meta.parameters.get("device", "cpu")
        return "cuda" if wanted == "cuda" and torch.cuda.is_available() else "cpu"

    def spread_probability(self, logits: "torch.Tensor") -> Float32:
        """Probabilities of codes 1-17, float32 (17, ...), of logits (class, ...)."""
        import torch

        seen = torch.softmax(logits.float(), dim=0).cpu().numpy()
        spread = np.zeros((N_CLASSES, *seen.shape[1:]), np.float32)
        spread[np.asarray(self.meta.classes) - 1] = seen
        return spread

    def __getstate__(self) -> dict[str, Any]:
        """Meta, weights and history: a worker builds its own network."""
        return {"meta": self.meta, "state": self.state, "history": self.history}

    def save(self, folder: str | Path) -> None:
        """Write weights, history and ``model.json``; an older model there is replaced.

        Raises
        ------
        StoreError
            If ``folder`` exists and is not a model.
        MissingExtraError
            If safetensors is not installed.
        """
        safetensors = import_extra("safetensors.numpy", extra="unet")
        with written_folder(folder, self.meta) as partial:
            safetensors.save_file(self.state, partial / WEIGHTS_NAME)
            text = json.dumps(list(self.history), indent=1) + "\n"
            (partial / HISTORY_NAME).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """The model of :meth:`save`; it predicts the same bytes.

        Raises
        ------
        MissingInputError
            If there is no model in ``folder``.
        ModelError
            If it is a model of another kind.
        MissingExtraError
            If safetensors is not installed.
        """
        meta = read_meta(folder, kind=cls.kind)
        safetensors = import_extra("safetensors.numpy", extra="unet")
        history = json.loads((Path(folder) / HISTORY_NAME).read_text(encoding="utf-8"))
        return cls(meta, safetensors.load_file(Path(folder) / WEIGHTS_NAME), tuple(history))
