"""Checkpoints of a fit: one file of tensors and plain values that is whole or not there."""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lczcube.errors import ModelError
from lczcube.models.extras import import_extra

CHECKPOINT_NAME = "checkpoint.safetensors"

_log = logging.getLogger(__name__)

Tensors = dict[str, npt.NDArray[Any]]


def write_checkpoint(
    folder: str | Path, tensors: Mapping[str, npt.NDArray[Any]], state: Mapping[str, Any]
) -> None:
    """Write ``checkpoint.safetensors``; an older one stands until the new one is durable.

    Parameters
    ----------
    folder : str or Path
        Made where it is missing.
    tensors : mapping of str to numpy.ndarray
        Weights and the optimiser's.
    state : mapping
        Plain values; ``fingerprint`` says of which fit.
    """
    safetensors = import_extra("safetensors.numpy", extra="unet")
    path = Path(folder) / CHECKPOINT_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    contiguous = {name: np.ascontiguousarray(v).reshape(v.shape) for name, v in tensors.items()}
    with partial.open("wb") as file:
        file.write(safetensors.save(contiguous, metadata={"state": json.dumps(state)}))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read_checkpoint(folder: str | Path, fingerprint: str) -> tuple[Tensors, dict[str, Any]] | None:
    """What :func:`write_checkpoint` wrote of the fit; None where there is nothing of it.

    Raises
    ------
    ModelError
        If the file is damaged.
    """
    safetensors = import_extra("safetensors", extra="unet")
    path = Path(folder) / CHECKPOINT_NAME
    if not path.is_file():
        return None
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            state = json.loads(file.metadata()["state"])
            # safe_open gives no mapping: its keys must be asked for.
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is no checkpoint: {error}. Delete it to start anew.") from error
    if state["fingerprint"] != fingerprint:
        _log.warning("%s is of other data or parameters; the fit starts anew.", path)
        return None
    return tensors, state
