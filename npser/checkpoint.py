"""Model files and training states: safetensors, written whole or not at all. Never pickle."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from npser import model
from npser.config import Config
from npser.files import refuse_special, write

FORMAT = 1
MOST_METADATA, DEEPEST = 16 << 20, 20  # characters of JSON; levels of lists and dicts in one another
MOST_LABELS = 1000
# What is read of Checkpoint.training, where it is there: types, [of each], {key: of its value}, {...: of each value}; in a
# tuple with None, it may be None. A key with ? may be missing. What else is there is kept, and only shown as JSON.
_SCORES = {"wa": float, "ua": float, "macro_f1": float, "gender_accuracy": (float, None), "confusion": [[int]]}
_CALIBRATION = {"temperature": float, "ece_before?": (float, None), "ece_after": (float, None), "source?": str}
_TRAINING = {
    "preset?": str,
    "corpora?": [str],
    "split?": {"method": str, "hash": str, "test_session": (str, None), "validation_session": (str, None)},
    "speakers?": [str],
    "seed?": int,
    "versions?": {...: str},
    "licence?": str,
    "notices?": [str],
    "scores?": {
        "epoch": (int, None),
        "validation?": (_SCORES, None),
        "test?": (_SCORES, None),
        "calibration?": (_CALIBRATION, None),
    },
}


@dataclass(frozen=True)
class Checkpoint:
    """A trained network: tensors by name (parameters, state, norm.mean, norm.std), Config, labels in output order, the rest.

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
    def shapes(self) -> model.Shapes:
        """Of the parameters."""
        return model.shapes_of(self.config, len(self.emotions), len(self.genders))

    @property
    def state(self) -> dict[str, np.ndarray]:
        """What the network holds beside its parameters, as it was before training."""
        return model.state_of(self.config, len(self.emotions), len(self.genders))


def write_tensors(path: Path, tensors: dict[str, np.ndarray], about: dict[str, Any]) -> None:
    """One safetensors file with a checksum; about goes into its only metadata key, "npser".

    Several would come out in random order.
    """
    contiguous = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    metadata = {"npser": json.dumps(about | {"checksum": _checksum(contiguous, about)}, sort_keys=True)}
    write(path, safetensors.numpy.save(contiguous, metadata))


def _checksum(tensors: dict[str, np.ndarray], about: dict[str, Any]) -> str:
    """SHA-256 of all that a file says."""
    found = hashlib.sha256(json.dumps(about, sort_keys=True).encode("utf-8", "surrogatepass"))
    for name, value in sorted(tensors.items()):
        found.update(f"{name} {value.dtype} {value.shape} ".encode())
        found.update(np.ascontiguousarray(value).tobytes())
    return found.hexdigest()


def read_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors and metadata of a file that write_tensors made; ValueError for any other."""
    refuse_special(path, "expected a model.safetensors of npser train")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
            about = _parsed((file.metadata() or {})["npser"])
    except OSError as error:
        reason = error.strerror or "there is no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise ValueError(f"{path}: cannot be opened ({reason}); expected a model file of npser train") from None
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: is damaged or not a model file ({error}); expected one of npser train") from None
    except (KeyError, ValueError, TypeError, AttributeError):  # the last two: of types that NumPy lacks
        raise ValueError(f"{path}: is a safetensors file but not one of npser's; expected one of npser train") from None
    if not isinstance(about, dict):
        raise ValueError(f"{path}: its metadata is damaged (no JSON object, or a huge one); expected one of npser train")
    stated = about.pop("checksum", None)  # files of earlier versions have none
    if stated is not None and stated != _checksum(tensors, about):
        raise ValueError(f"{path}: is damaged (its checksum is not that of its content); restore it from a copy")
    return tensors, about


def _parsed(text: str) -> Any:
    """What JSON holds; None where it is too much or too deep."""
    try:
        return json.loads(text) if len(text) <= MOST_METADATA else None
    except RecursionError:
        return None


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a model file. The same training gives the same bytes: no dates, durations or paths are in it."""
    about = {
        "format": FORMAT,
        "config": dataclasses.asdict(checkpoint.config),
        "labels": checkpoint.labels,
        "features": model.module_of(checkpoint.config).kind(checkpoint.config).settings,
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
        raise ValueError(f"{path}: has format {_short(about.get('format'))}; this version of npser reads format {FORMAT}")
    try:
        _check_values(about)
        _check_form("temperature", about["temperature"], float)
        config = model.restored(about["config"])
        checkpoint = Checkpoint(tensors, config, about["labels"], float(about["temperature"]), about["training"])
        _check(checkpoint)
        expected = checkpoint.shapes | {"norm.mean": (config.d_spec,), "norm.std": (config.d_spec,)}
        expected |= {name: value.shape for name, value in checkpoint.state.items()}
    except model.UnknownName as error:
        raise ValueError(f"{path}: {error}, so another version of npser made it; install that one") from None
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, MemoryError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{path}: its metadata is damaged ({_short(reason)}); expected a model file of npser train") from None
    _check_features(path, model.module_of(config).kind(config).settings, about.get("features"))
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors or name not in expected:
            state = "is missing" if name in expected else "is not one of this network's"
            raise ValueError(f"{path}: tensor {name} {state}; expected a model file of npser train")
        if not _fits(tensors[name].shape, expected[name]):
            raise ValueError(f"{path}: tensor {name} has shape {tensors[name].shape}; its config says {expected[name]}")
        if tensors[name].dtype != np.float32 or not np.isfinite(tensors[name]).all():
            raise ValueError(f"{path}: tensor {name} is not all finite float32 numbers; expected a model file of npser train")
    _check_rows(path, checkpoint)
    if not (tensors["norm.std"] > 0).all():
        raise ValueError(f"{path}: tensor norm.std is not all positive; expected a model file of npser train")
    return checkpoint


def _check_features(path: Path, made: dict[str, Any], wanted: Any) -> None:
    """ValueError, which names what differs, where a file wants other features than this version makes."""
    if isinstance(wanted, dict):
        if "level_db" in made:
            wanted = {"level_db": -26.0, **wanted}  # what files of earlier versions, which do not say it, were trained with
        names = sorted(name for name in made.keys() | wanted.keys() if made.get(name) != wanted.get(name))
        wanted, made = ({name: of.get(name) for name in names} for of in (wanted, made))
    if wanted != made:
        raise ValueError(f"{path}: expects features {_short(wanted)}; this version makes {_short(made)}")


def _check_rows(path: Path, checkpoint: Checkpoint) -> None:
    """ValueError where tensors that were solved from utterances are not of as many, or of none."""
    solved: dict[str, set[int]] = {}
    for name, value in checkpoint.state.items():
        if 0 in value.shape[:1]:  # as many rows as utterances were learnt from
            solved.setdefault(name.split(".")[0], set()).add(len(checkpoint.tensors[name]))
    for layer, rows in solved.items():
        if len(rows) > 1 or 0 in rows:
            raise ValueError(f"{path}: the tensors of {layer} have {sorted(rows)} rows; expected as many in all, at least one")


def _fits(shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Whether a tensor has the shape that it should; an expected 0 is up to the data, as in what is solved from utterances."""
    return len(shape) == len(expected) and all(m in (0, n) for n, m in zip(shape, expected, strict=True))


def _short(value: Any) -> str:
    """The start of what a value looks like, for a sentence."""
    text = str(value) if isinstance(value, (str, Exception)) else repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _check(checkpoint: Checkpoint) -> None:
    """ValueError where metadata of the right form make no sense."""
    for name, classes in checkpoint.labels.items():
        if classes is None and name == "gender":
            continue
        words = classes if isinstance(classes, list) and all(isinstance(c, str) for c in classes) else []
        if len(set(words)) < max(2, len(words)) or len(words) > MOST_LABELS:
            raise ValueError(f"labels of {name} are {classes!r}")
    if not 1e-6 < checkpoint.temperature < 1e6:  # what is fitted lies between calibration's COLDEST and HOTTEST
        raise ValueError(f"temperature is {checkpoint.temperature}")
    _check_form("training", checkpoint.training, _TRAINING)
    for part in ("validation", "test"):
        found, classes = checkpoint.training.get("scores", {}).get(part), len(checkpoint.emotions)
        if found and list(map(len, found["confusion"])) != [classes] * classes:
            raise ValueError(f"training.scores.{part}.confusion is not {classes} by {classes}")


def _check_values(value: Any, depth: int = 0) -> None:
    """ValueError where JSON holds what cannot be shown: half a character, a number that is not finite or has no end, a well."""
    if isinstance(value, (dict, list)):
        if depth == DEEPEST:
            raise ValueError(f"it has more than {DEEPEST} levels")
        for part in value if isinstance(value, list) else (part for pair in value.items() for part in pair):
            _check_values(part, depth + 1)
    elif isinstance(value, str):
        value.encode(errors="surrogateescape")  # a ValueError; what stands for bytes of a name may be there
    elif isinstance(value, (int, float)) and not (abs(value) < 2**63 if isinstance(value, int) else math.isfinite(value)):
        raise ValueError("a number is not finite, or too large")


def _check_form(name: str, value: Any, form: Any) -> None:
    """ValueError where a value of the metadata has another form than _TRAINING says."""
    if isinstance(form, tuple):
        if value is None:
            return
        form = form[0]
    kind = type(form) if isinstance(form, (dict, list)) else form
    if type(value) not in ((int, float) if kind is float else (kind,)):
        raise ValueError(f"{name} is {_short(value)}")
    if isinstance(form, list):
        for one in value:
            _check_form(f"an item of {name}", one, form[0])
    elif isinstance(form, dict) and ... in form:
        for key, one in value.items():
            _check_form(f"{name}.{key}", one, form[...])
    elif isinstance(form, dict):
        for key, of_value in form.items():
            if key.removesuffix("?") in value or not key.endswith("?"):
                _check_form(f"{name}.{key.removesuffix('?')}", value[key.removesuffix("?")], of_value)
