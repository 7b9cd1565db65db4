"""The two files of a confidence in a model's folder: plain JSON, and safetensors."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from lczcube.confidence.applicability import Applicability
from lczcube.confidence.calibration import ClassCalibration
from lczcube.confidence.labelsets import LabelSets
from lczcube.errors import MissingInputError, ModelError
from lczcube.propagate.calibration import Reliability

NAME = "confidence.json"
ARRAYS_NAME = "confidence.safetensors"
FORMAT = 1

Arrays = dict[str, npt.NDArray[Any]]
Content = dict[str, Any]


def pack(
    calibration: ClassCalibration | None,
    label_sets: LabelSets | None,
    applicability: Applicability | None,
    coverage: pd.DataFrame | None,
) -> tuple[Content, Arrays]:
    """Plain values, and arrays by name, of the parts of a confidence."""
    content: Content = {"format": FORMAT}
    arrays: Arrays = {}
    if calibration is not None:
        content["calibration"] = {
            "method": calibration.method,
            "temperature": calibration.temperature,
            "quality": calibration.quality and asdict(calibration.quality),
        }
        arrays |= {f"curve.{code}": curve for code, curve in calibration.curves.items()}
    for part, value in (("label_sets", label_sets), ("applicability", applicability)):
        if value is not None:
            fields = {name: getattr(value, name) for name in value.__dataclass_fields__}
            content[part] = {k: v for k, v in fields.items() if not isinstance(v, np.ndarray)}
            arrays |= {f"{part}.{k}": v for k, v in fields.items() if isinstance(v, np.ndarray)}
    if coverage is not None:
        records = coverage.astype(object).where(coverage.notna(), None).to_dict("records")
        content["coverage"] = records
    return content, arrays


def unpack(content: Content, arrays: Arrays) -> dict[str, Any]:
    """The parts that :func:`pack` took, by name.

    Raises
    ------
    ModelError
        If the values are not those of this format.
    """
    try:
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']}, not {FORMAT}")
        return {
            "calibration": _calibration(content.get("calibration"), arrays),
            "label_sets": _label_sets(content.get("label_sets"), arrays),
            "applicability": _applicability(content.get("applicability"), arrays),
            "coverage": _coverage(content.get("coverage")),
            "n_unseen": content["n_unseen"],
        }
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(NAME, repr(error)) from error


def fingerprint_of(content: Content, arrays: Arrays) -> str:
    """SHA-256 of plain values and arrays, hex."""
    return hashlib.sha256(_text(content).encode() + _stored(arrays)).hexdigest()


def write_parts(folder: str | Path, content: Content, arrays: Arrays) -> None:
    """Write both files; the JSON, which holds the other's checksum, comes last.

    Raises
    ------
    MissingInputError
        If there is no such folder.
    """
    target = Path(folder)
    if not target.is_dir():
        raise MissingInputError(f"{target} is no folder; save the model there first.")
    stored = _stored(arrays)
    _write(target / ARRAYS_NAME, stored)
    checked = content | {"sha256": hashlib.sha256(stored).hexdigest()}
    _write(target / NAME, _text(checked).encode())


def read_parts(folder: str | Path) -> tuple[Content, Arrays]:
    """What :func:`write_parts` wrote.

    Raises
    ------
    MissingInputError
        If a file is not there.
    ModelError
        If the two do not belong together, or one cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    described = _read(Path(folder) / NAME)
    stored = _read(Path(folder) / ARRAYS_NAME)
    try:
        content: Content = json.loads(described)
        if content.pop("sha256") != hashlib.sha256(stored).hexdigest():
            raise ValueError(f"{ARRAYS_NAME} does not have its checksum")
        arrays: Mapping[str, npt.NDArray[Any]] = load(stored)
    except (ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise _damaged(str(folder), repr(error)) from error
    return content, dict(arrays)


def _text(content: Content) -> str:
    """The same text for the same values: no times, no host names."""
    return json.dumps(content, sort_keys=True, indent=1) + "\n"


def _stored(arrays: Arrays) -> bytes:
    from safetensors.numpy import save

    stored: bytes = save({name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)})
    return stored


def _write(path: Path, stored: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(stored)
    partial.replace(path)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise MissingInputError(
            f"{path.parent} holds no {path.name}; this model was trained without confidence. "
            "Train it again."
        ) from error


def _calibration(content: Content | None, arrays: Arrays) -> ClassCalibration | None:
    if content is None:
        return None
    quality = content["quality"]
    curves = {name.split(".")[1]: arrays[name] for name in arrays if name.startswith("curve.")}
    return ClassCalibration(
        method=content["method"],
        temperature=content["temperature"],
        curves={int(code): curves[code] for code in sorted(curves, key=int)},
        quality=None if quality is None else Reliability(**_tuples(quality)),
    )


def _label_sets(content: Content | None, arrays: Arrays) -> LabelSets | None:
    if content is None:
        return None
    return LabelSets(**_fields("label_sets", content, arrays))


def _applicability(content: Content | None, arrays: Arrays) -> Applicability | None:
    if content is None:
        return None
    return Applicability(**_fields("applicability", content, arrays))


def _coverage(records: list[dict[str, Any]] | None) -> pd.DataFrame | None:
    if records is None:
        return None
    frame = pd.DataFrame(records)
    return frame.astype(dict.fromkeys(("low", "high"), float))


def _fields(part: str, content: Content, arrays: Arrays) -> Content:
    """Plain values and arrays of a part, by the name of their field."""
    prefix = f"{part}."
    own = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
    return _tuples(content) | own


def _tuples(content: Content) -> Content:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}


def _damaged(where: str, what: str) -> ModelError:
    return ModelError(f"{where} is damaged: {what}. Train the model again.")
