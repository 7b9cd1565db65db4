"""A network in training: steps, epochs, early stopping, checkpoints and exact resume.

All randomness of a step follows from seed, epoch and step, so that a checkpoint holds weights, the
optimiser's state and two numbers, and a run that goes on from it gives the same bits.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lczcube.errors import ModelError
from lczcube.models.checkpoints import read_checkpoint, write_checkpoint
from lczcube.models.losses import masked_loss
from lczcube.models.parameters import TrainingParameters
from lczcube.models.windowbatches import WindowBatch, WindowBatches

if TYPE_CHECKING:
    import torch

State = dict[str, npt.NDArray[Any]]
History = tuple[Mapping[str, float], ...]

CHECKPOINT_S = 30.0
"""Seconds of work that a kill may cost."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fit:
    """What is fitted and how.

    Attributes
    ----------
    kind : str
        Of the model.
    parameters : TrainingParameters
        Of the kind.
    build : callable
        Of the numbers of channels and classes: the torch module.
    side, label_side : int
        Pixels along a window, and along its labels; 1 for one label a window.
    bands, products : tuple of str
        Of the images.
    seed, n_threads : int
        Of the fit.
    synthetic : bool
        True when images or labels are made up.
    checkpoint, scratch : str or Path, optional
        Folders of the checkpoint, and of the windows.
    """

    kind: str
    parameters: TrainingParameters
    build: Callable[[int, int], Any]
    side: int
    label_side: int
    bands: tuple[str, ...]
    products: tuple[str, ...]
    seed: int
    n_threads: int
    synthetic: bool
    checkpoint: str | Path | None
    scratch: str | Path | None


def train(
    fit: Fit, training: WindowBatches, checking: WindowBatches | None, fingerprint: str
) -> tuple[State, History]:
    """Weights and history of a run; it goes on from the checkpoint of the fingerprint.

    Raises
    ------
    ModelError
        If the loss is not a number, or the checkpoint is damaged.
    """
    with _deterministic_torch(fit.seed, fit.n_threads):
        run = _Run.start(fit, training, fingerprint)
        while not run.is_done(fit.parameters):
            run.one_epoch(training)
            run.end_epoch(None if checking is None else run.validate(checking))
        run.save()
        return run.final_state(), tuple(run.progress.history)


@contextmanager
def _deterministic_torch(seed: int, n_threads: int) -> Iterator[None]:
    """Torch with a seed and threads of its own. On a GPU the last bits of a fit may differ."""
    import torch

    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
        torch.set_num_threads(n_threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(deterministic)


@dataclass
class _Progress:
    """Where a fit is: steps of an epoch that are done, and their summed loss."""

    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    scale: dict[str, Any] = field(default_factory=dict)

    @property
    def best_epoch(self) -> int | None:
        """Epoch of the lowest validation loss, the first of equals; None without validation."""
        losses = [told.get("valid_loss", math.inf) for told in self.history]
        return int(np.argmin(losses)) if min(losses, default=math.inf) < math.inf else None


class _Run:
    """A network in training: its life is one fit."""

    def __init__(self, fit: Fit, training: WindowBatches, fingerprint: str) -> None:
        import torch

        self.fit, self.fingerprint = fit, fingerprint
        self.device = fit.parameters.device
        built = fit.build(training.inputs.n_channels, len(training.classes))
        self.network = built.to(self.device, memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=fit.parameters.learning_rate
        )
        self.dtype = _mixed_dtype(fit.parameters)
        self.scaler = torch.amp.GradScaler(self.device, enabled=self.dtype is torch.float16)
        self.n_steps = training.n_steps
        self.progress = _Progress()
        self.best: State = {}
        self.saved_at = time.monotonic()

    @classmethod
    def start(cls, fit: Fit, training: WindowBatches, fingerprint: str) -> "_Run":
        """A new run, or that of the checkpoint."""
        run = cls(fit, training, fingerprint)
        found = read_checkpoint(fit.checkpoint, fingerprint) if fit.checkpoint else None
        if found is not None:
            run._restore(*found)
            _log.info("%s goes on at epoch %d", fit.kind, run.progress.epoch)
        return run

    def is_done(self, parameters: TrainingParameters) -> bool:
        best, epoch = self.progress.best_epoch, self.progress.epoch
        stalled = best is not None and epoch - 1 - best >= parameters.patience
        return stalled or epoch >= parameters.epochs

    def one_epoch(self, training: WindowBatches) -> None:
        """The steps of an epoch that are left."""
        at = self.progress
        order = np.random.default_rng([self.fit.seed, at.epoch]).permutation(len(training.taught))
        self.network.train()
        while at.step < self.n_steps:
            seeds = np.random.SeedSequence([self.fit.seed, at.epoch, at.step])
            at.loss += self._step(training, order, seeds)
            at.step += 1
            if time.monotonic() - self.saved_at >= CHECKPOINT_S:
                self.save()

    def end_epoch(self, valid: dict[str, float] | None) -> None:
        at = self.progress
        at.history.append({"loss": at.loss / self.n_steps} | (valid or {}))
        at.epoch, at.step, at.loss = at.epoch + 1, 0, 0.0
        if valid is not None and at.best_epoch == at.epoch - 1:
            self.best = self._weights()

    def validate(self, checking: WindowBatches) -> dict[str, float]:
        """Cross-entropy and macro F1 over the validation labels, in the weights of the fit."""
        import torch

        n_classes = len(checking.classes)
        loss, weight = 0.0, 0.0
        confusion = np.zeros((n_classes, n_classes), np.int64)
        self.network.eval()
        with torch.inference_mode():
            for batch in checking.in_order():
                logits, target, share = self._forward(batch)
                total = float(share.sum())
                if total == 0:  # labels of no class that is trained on, which have no loss
                    continue
                loss += float(masked_loss(logits, target, share, dice=0)) * total
                weight += total
                counts = share > 0
                pairs = target[counts] * n_classes + logits.argmax(dim=1)[counts]
                confusion += (
                    torch.bincount(pairs, minlength=n_classes**2)
                    .reshape(n_classes, n_classes)
                    .cpu()
                    .numpy()
                )
        _require_finite(loss, self.fit, of="validation loss")
        return {"valid_loss": loss / weight, "valid_macro_f1": _macro_f1(confusion)}

    def final_state(self) -> State:
        """The best weights of a validated fit, else the last."""
        return self.best or self._weights()

    def save(self) -> None:
        """Write the checkpoint, where one is wanted."""
        if self.fit.checkpoint is None:
            return
        tensors = {f"weights.{name}": value for name, value in self._weights().items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        for number, of_weight in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{number}.{name}": _array(v) for name, v in of_weight.items()}
        self.progress.scale = self.scaler.state_dict()
        state = {"fingerprint": self.fingerprint, "progress": asdict(self.progress)}
        write_checkpoint(self.fit.checkpoint, tensors, state)
        self.saved_at = time.monotonic()

    def _restore(self, tensors: State, state: Mapping[str, Any]) -> None:
        import torch

        self.progress = _Progress(**state["progress"])
        self.network.load_state_dict(_tensors(_below("weights.", tensors)))
        self.best = _below("best.", tensors)
        adam: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in _tensors(_below("adam.", tensors)).items():
            number, moment = name.split(".")
            adam.setdefault(int(number), {})[moment] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": adam, "param_groups": groups})
        self.scaler.load_state_dict(self.progress.scale)

    def _step(
        self, training: WindowBatches, order: npt.NDArray[np.int64], seeds: np.random.SeedSequence
    ) -> float:
        import torch

        batch = training.of_step(self.progress.step, order, np.random.default_rng(seeds))
        torch.manual_seed(int(seeds.generate_state(1)[0]))
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        self.optimizer.zero_grad()
        loss = masked_loss(*self._forward(batch), dice=self.fit.parameters.dice)
        told = float(loss.detach())
        _require_finite(told, self.fit)
        torch.autograd.backward(self.scaler.scale(loss))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return told

    def _forward(self, batch: WindowBatch) -> tuple["torch.Tensor", "torch.Tensor", "torch.Tensor"]:
        """Logits in float32, and the labels, on the device."""
        import torch

        channels, target, weight = (
            torch.from_numpy(array).to(self.device)
            for array in (batch.channels, batch.target, batch.weight)
        )
        channels = channels.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device, self.dtype, enabled=self.dtype is not None):
            logits = self.network(channels)
        return logits.float(), target, weight

    def _learning_rate(self) -> float:
        """Half a cosine from the peak to 0 over all epochs."""
        done = self.progress.epoch * self.n_steps + self.progress.step
        share = done / (self.fit.parameters.epochs * self.n_steps)
        return self.fit.parameters.learning_rate * (1 + math.cos(math.pi * share)) / 2

    def _weights(self) -> State:
        return {name: _array(tensor) for name, tensor in self.network.state_dict().items()}


def _mixed_dtype(parameters: TrainingParameters) -> Any:
    """What autocast computes in; None for float32."""
    import torch

    on_gpu = parameters.device == "cuda"
    if parameters.precision == "float32" or (parameters.precision == "auto" and not on_gpu):
        return None
    return torch.float16 if on_gpu and not torch.cuda.is_bf16_supported() else torch.bfloat16


def _array(tensor: "torch.Tensor") -> npt.NDArray[Any]:
    copied: npt.NDArray[Any] = tensor.detach().cpu().contiguous().numpy().copy()
    return copied


def _below(prefix: str, tensors: State) -> State:
    return {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}


def _tensors(arrays: State) -> dict[str, "torch.Tensor"]:
    """Channels-last as in the run: sums over another layout may round otherwise."""
    import torch

    made = {name: torch.from_numpy(value) for name, value in arrays.items()}
    return {
        name: v.contiguous(memory_format=torch.channels_last) if v.ndim == 4 else v
        for name, v in made.items()
    }


def _macro_f1(confusion: npt.NDArray[np.int64]) -> float:
    """Mean F1 of the classes that the truth, in rows, or the prediction holds."""
    size = confusion.sum(axis=0) + confusion.sum(axis=1)
    occurs = size > 0
    return float((2 * np.diag(confusion)[occurs] / size[occurs]).mean())


def _require_finite(loss: float, fit: Fit, *, of: str = "loss") -> None:
    if not np.isfinite(loss):
        raise ModelError(
            f"{fit.kind} {of} is {loss}: training diverged. Lower learning_rate "
            f"(now {fit.parameters.learning_rate:g}), and look for extreme values in the image."
        )
