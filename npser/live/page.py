"""The page that listens by itself: one HTML file with a network in it, which fetches nothing. Its sources lie in web/.

They are modules of JavaScript. The page has three programs: what one sees, the engine in a worker, and the microphone's end in
the audio thread. Each is some of the modules after one another, without their lines of import and the word export.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from npser import __version__, adaptation, checkpoint, features, model, speech
from npser.checkpoint import Checkpoint
from npser.live import stream

Array = np.ndarray

NETWORKS = ("li2019", "li2019_feedforward")  # that network.mjs states
ENGINE = ("held", "fft", "resampler", "speech", "bands", "network", "stream", "wav", "worker")
WORKLET = ("worklet",)
PAGE = ("palette", "decode", "microphone", "sessions", "chart", "look", "view", "app")
CONSTANTS = {  # what the modules state of themselves, so that no number stands in two places
    speech: "CROSSINGS PASSED SHAPE LARGEST FRAME CHUNK FIRST MEMORY BINS SILENT_DB FLOOR_PERCENT PEAK_FRAMES NEAR_DB RISE_DB "
    "BEFORE AFTER FEW LAG SMOOTHED SUSTAINED MUSIC SHORTEST NEAR NOTHING FAINT_DB STEADY_DB NONE",
    features: "SAMPLE_RATE RATES N_FFT HOP N_MELS LEVEL_DB NO_LEVEL SPEECH_FLOOR_DB SILENT_DB LOUDEST MOST_CHANNELS",
    stream: "EVERY PAUSE LONGEST",
    adaptation: "SECONDS NEGLIGIBLE NOISE",
}


def page(path: str | os.PathLike[str]) -> str:
    """The page of a model file, as HTML.

    Raises
    ------
    ValueError
        For a file that is no model, another network than the paper's, or one that does not hear speech alone.
    """
    trained = checkpoint.load(path)
    refuse(path, trained)
    about, numbers = described(trained, hashlib.sha256(Path(path).read_bytes()).hexdigest())
    style, script = _source("style.css"), f"(() => {{\n{program(PAGE)}\n}})();"  # names of its own: a window has many
    rules = {
        "default-src": "'none'",
        "script-src": f"{_hash(script)} data:",  # data: the microphone's end, see microphone.mjs
        "worker-src": "blob:",  # the engine
        "style-src": _hash(style),
        "img-src": "data: blob:",
        "media-src": "blob:",
        "connect-src": "'none'",
        "form-action": "'none'",
        "base-uri": "'none'",
    }
    parts = {
        "policy": "; ".join(f"{name} {value}" for name, value in rules.items()),
        "version": html.escape(__version__),
        "style": style,
        "about": _json(about),
        "weights": base64.b64encode(numbers).decode(),
        "engine": program(ENGINE),
        "worklet": program(WORKLET),
        "script": script,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], _source("index.html"))


def refuse(path: str | os.PathLike[str], trained: Checkpoint) -> None:
    """ValueError for a model that the page cannot run."""
    c = trained.config
    answers = "npser evaluate" if model.reads_text(c) else "npser predict"
    if c.network not in NETWORKS:
        raise ValueError(f"{path}: the network {c.network} does not run in a page; `{answers}` answers with it")
    if not model.module_of(c).kind(c).speech:
        needed = "a page needs a model that was trained with speech = true"
        raise ValueError(f"{path}: hears pauses as well; {needed}; `{answers}` answers with it")


def described(trained: Checkpoint, sha256: str) -> tuple[dict[str, Any], bytes]:
    """What the page is told of a model, and the numbers of its tensors, float32, least significant byte first."""
    c, training = trained.config, trained.training
    first, count, weights = _filters()
    tensors = {**trained.tensors, "mel": weights}
    places, at = [], 0
    for name, value in tensors.items():
        places.append([name, list(value.shape), at])
        at += value.size
    stated = constants()
    stated["features"]["filters"] = {"first": first, "count": count}
    sizes = {name: getattr(c, name) for name in ("d_spec", "d_cnn", "n_cw", "n_pw", "max_seconds")}
    test = (training.get("scores") or {}).get("test") or {}
    about = {
        "version": __version__,
        "sha256": sha256,
        "network": c.network,
        "config": sizes | model.module_of(c).SIZES,
        "emotions": trained.emotions,
        "genders": trained.genders,
        "temperature": trained.temperature,
        "tensors": places,
        "constants": stated,
        "corpora": training.get("corpora", []),
        "speakers": len(training.get("speakers", [])),
        "licence": training.get("licence", ""),
        "notices": training.get("notices", []),
        "ua": test.get("ua"),
    }
    return about, b"".join(np.ascontiguousarray(value, "<f4").tobytes() for value in tensors.values())


def constants() -> dict[str, dict[str, Any]]:
    """The constants of the modules that the page states once more, by the module's name."""
    found: dict[str, dict[str, Any]] = {}
    for module, names in CONSTANTS.items():
        values = {name: getattr(module, name) for name in names.split()}
        found[module.__name__.rpartition(".")[2]] = {
            name: [value.start, value.stop] if isinstance(value, slice) else value for name, value in values.items()
        }
    return found


def program(modules: tuple[str, ...]) -> str:
    """Some modules as one program."""
    return "\n".join(['"use strict";', *(_plain(_source(f"{name}.mjs")) for name in modules)])


def _plain(text: str) -> str:
    """A module without its imports and exports."""
    text = re.sub(r"^import\s[^;]*;\n", "", text, flags=re.MULTILINE)
    return re.sub(r"^export ", "", text, flags=re.MULTILINE)


def _filters() -> tuple[list[int], list[int], Array]:
    """The mel filters without their zeros: of each its first bin and how many follow, and the weights of all."""
    filters = features.mel_filters()
    first = (filters > 0).argmax(axis=0)
    count = np.count_nonzero(filters, axis=0)
    return (
        first.tolist(),
        count.tolist(),
        np.concatenate([f[a : a + n] for f, a, n in zip(filters.T, first, count, strict=True)]),
    )


def _source(name: str) -> str:
    return resources.files("npser.live").joinpath("web", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """How a policy names a script or a style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _json(value: Any) -> str:
    """JSON that stands in HTML."""
    return json.dumps(value).replace("<", "\\u003c")
