"""Model files and training states: safetensors, written whole or not at all. Never pickle."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from npser import features
from npser.config import Config, param_shapes

FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """A trained network: tensors by name (parameters, norm.mean, norm.std), its Config, labels in output order, and the rest.

    labels: {"emotion": [...], "gender": [...] or None}. temperature divides the logits before the softmax.
    """

    tensors: dict[str, np.ndarray]
    config: Config
    labels: dict[str, list[str] | None]
    temperature: float
    training: dict[str, Any]

    @property
    def emotions(self) -> list[str]:
        return self.labels["emotion"] or []

    @property
    def genders(self) -> list[str]:
        return self.labels["gender"] or []

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return param_shapes(self.config, len(self.emotions), len(self.genders))


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: the old one stays until the new one is safely on disk."""
    partial = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    try:
        with partial.open("xb") as file:  # unlike mkstemp's, its mode follows the umask
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        way_out = "make room and run again (train with --resume)" if full else "name another folder"
        raise ValueError(
            f"{path}: cannot be written ({error.strerror}); what was there before is untouched: {way_out}"
        ) from None
    finally:
        with contextlib.suppress(OSError):  # it has become path, or never existed
            partial.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_tensors(path: Path, tensors: dict[str, np.ndarray], about: dict[str, Any]) -> None:
    """One safetensors file; about goes into its only metadata key, "npser" (several would come out in random order)."""
    contiguous = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    metadata = {"npser": json.dumps(about, sort_keys=True)}
    write(path, safetensors.numpy.save(contiguous, metadata))


def read_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors and metadata of a file that write_tensors made; ValueError for any other."""
    if path.is_dir():
        raise ValueError(f"{path}: cannot be opened, because it is a folder; name the model.safetensors in it")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
            about = json.loads((file.metadata() or {})["npser"])
    except OSError as error:
        reason = error.strerror or "there is no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise ValueError(f"{path}: cannot be opened ({reason}); expected a model file of npser train") from None
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: is damaged or no model file ({error}); expected one of npser train") from None
    except (KeyError, json.JSONDecodeError, TypeError, AttributeError):  # the last two: of types that NumPy lacks
        raise ValueError(f"{path}: is a safetensors file but not one of npser's; expected one of npser train") from None
    if not isinstance(about, dict):
        raise ValueError(f"{path}: its metadata is damaged (no JSON object); expected one of npser train")
    return tensors, about


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a model file. The same training gives the same bytes: no dates, durations or paths are in it."""
    about = {
        "format": FORMAT,
        "config": dataclasses.asdict(checkpoint.config),
        "labels": checkpoint.labels,
        "features": features.SETTINGS,
        "temperature": checkpoint.temperature,
        "training": checkpoint.training,
    }
    write_tensors(path, checkpoint.tensors, about)


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a model file.

    Raises
    ------
    ValueError
        Where the file is missing, truncated, of another kind or format, or a tensor is missing or has a wrong shape.
    """
    path = Path(path)
    tensors, about = read_tensors(path)
    if about.get("format") != FORMAT:
        raise ValueError(f"{path}: has format {about.get('format')!r}; this version of npser reads format {FORMAT}")
    if about.get("features") != features.SETTINGS:
        raise ValueError(f"{path}: expects features {about.get('features')!r}; this version makes {features.SETTINGS!r}")
    try:
        checkpoint = Checkpoint(
            tensors, Config(**about["config"]), about["labels"], float(about["temperature"]), about["training"]
        )
        _check(checkpoint)
        norm = {"norm.mean": (checkpoint.config.d_spec,), "norm.std": (checkpoint.config.d_spec,)}
        expected = checkpoint.shapes | norm
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: its metadata is damaged ({error}); expected a model file of npser train") from None
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors or name not in expected:
            state = "is missing" if name in expected else "is not one of this network's"
            raise ValueError(f"{path}: tensor {name} {state}; expected a model file of npser train")
        if tensors[name].shape != expected[name]:
            raise ValueError(f"{path}: tensor {name} has shape {tensors[name].shape}; its config says {expected[name]}")
        if tensors[name].dtype != np.float32 or not np.isfinite(tensors[name]).all():
            raise ValueError(f"{path}: tensor {name} is not all finite float32 numbers; expected a model file of npser train")
    if not (tensors["norm.std"] > 0).all():
        raise ValueError(f"{path}: tensor norm.std is not all positive; expected a model file of npser train")
    return checkpoint


def _check(checkpoint: Checkpoint) -> None:
    """ValueError where metadata of the right form make no sense."""
    for name, classes in checkpoint.labels.items():
        if classes is None and name == "gender":
            continue
        words = classes if isinstance(classes, list) and all(isinstance(c, str) for c in classes) else []
        if len(set(words)) < max(2, len(words)):
            raise ValueError(f"labels of {name} are {classes!r}")
    if not 0 < checkpoint.temperature < float("inf"):
        raise ValueError(f"temperature is {checkpoint.temperature}")
