"""Settings that every network is trained with."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from lczcube.errors import ModelError
from lczcube.models.extras import import_extra

Device = Literal["cpu", "cuda"]
Precision = Literal["auto", "float32", "mixed"]


@dataclass(frozen=True)
class TrainingParameters:
    """Settings that every network has.

    Attributes
    ----------
    epochs : int
        Most times that every window is seen.
    learning_rate : float
        Peak of the cosine schedule.
    batch : int
        Windows a step; more, up to 64 MiB of them, where there are over 64 times as many, which
        keeps a step worth its overhead.
    balance : float
        Class weights, 0 (none) to 1 (every class the same total weight).
    dice : float
        Weight of the Dice loss beside the cross-entropy.
    noise : float
        Standard deviation of the noise added to the normalised bands in training.
    band_dropout : float
        Share of the channels hidden from each window in training, [0, 1).
    layer_dropout : float
        Probability that a layer other than the first is hidden from a window in training, [0, 1).
        A network that never missed a layer cannot map a city that lacks it.
    dropout : float
        Share of the last features hidden from each window in training, [0, 1).
    patience : int
        Epochs without a lower loss on the validation data after which the fit stops.
    device : str
        ``cpu`` or ``cuda``. A map is made on the device of the fit where there is one, else on
        the CPU.
    precision : str
        ``float32``; ``mixed``, in bfloat16, or float16 with loss scaling on a GPU without;
        ``auto`` (default): mixed on a GPU, float32 on a CPU, where the bits of a fit then do not
        depend on the instructions it has.
    """

    epochs: int = 20
    learning_rate: float = 3e-3
    batch: int = 8
    balance: float = 0.5
    dice: float = 0.5
    noise: float = 0.5
    band_dropout: float = 0.2
    layer_dropout: float = 0.2
    dropout: float = 0.5
    patience: int = 5
    device: Device = "cpu"
    precision: Precision = "auto"


def require_training(kind: str, parameters: TrainingParameters, *, counts: Sequence[str]) -> None:
    """Raise unless parameters are in their ranges.

    Parameters
    ----------
    kind : str
        Of the model, for the message.
    parameters : TrainingParameters
        To check.
    counts : sequence of str
        Names of those that are at least 1, beside ``epochs``, ``batch`` and ``patience``.

    Raises
    ------
    ModelError
        Naming the parameter, its value and its range; and if there is no GPU for ``cuda``.
    """
    values = asdict(parameters)
    for name in ("epochs", "batch", "patience", *counts):
        if values[name] < 1:
            raise ModelError(f"{kind} {name} = {values[name]}: it is at least 1.")
    if not parameters.learning_rate > 0:
        raise ModelError(f"{kind} learning_rate = {parameters.learning_rate}: it is above 0.")
    for name in ("balance", "dice", "noise"):
        if not values[name] >= 0:
            raise ModelError(f"{kind} {name} = {values[name]}: it is at least 0.")
    for name in ("band_dropout", "layer_dropout", "dropout"):
        if not 0 <= values[name] < 1:
            raise ModelError(f"{kind} {name} = {values[name]}: it is in [0, 1).")
    for name, legal in (("device", ("cpu", "cuda")), ("precision", ("auto", "float32", "mixed"))):
        if values[name] not in legal:
            raise ModelError(f"{kind} {name} = {values[name]!r}: it is {' or '.join(legal)}.")
    if parameters.device == "cuda" and not import_extra("torch", extra="unet").cuda.is_available():
        raise ModelError(
            f'{kind} device = "cuda": torch finds no CUDA device here. Use device = "cpu", or '
            "install a torch with CUDA on a machine with an NVIDIA GPU."
        )
