"""A network that asks everything of the seam: features of its own, a label for every frame, statistics of the mini-batch,
pieces of an utterance, and a classifier that is solved and not descended. As a script it is npser with this network in it.
"""

import itertools
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from npser import config, features, model
from npser.calibration import log_softmax
from npser.layers import Array, cross_entropy
from npser.network import Shard

HOP, EPSILON, KEPT, RIDGES = 160, 1e-3, 0.9, (0.1, 1.0)


@dataclass(frozen=True)
class Config(config.Config):
    network: str = "toy"
    d_spec: int = 2
    pad: bool = False
    beta: float = 0.0
    hidden: int = 4
    piece: int = 10  # frames

    def __post_init__(self) -> None:
        super().__post_init__()
        self.expect("hidden piece", lambda value: value >= 1, "at least 1")
        self.expect("beta", lambda value: value == 0, "0: this network has no gender head")


PRESETS = {"published": Config(epochs=4, batch=8, learning_rate=0.05)}
ABLATION = {"long-pieces": {"piece": 30}}
SMALL = {"loss, toy": Config()}


def frame_features(x: Array) -> Array:
    """Energy in dB and share of sign changes of 25 ms every 10 ms: x (n,) -> (n // 160 + 1, 2)."""
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(x, 200), 400)[::HOP]
    energy = 10 * np.log10(np.maximum((frames**2).mean(axis=1), 1e-10))
    return np.stack([energy, np.mean(np.diff(np.sign(frames), axis=1) != 0, axis=1)], axis=1).astype(np.float32)


def kind(c: Config) -> features.Kind:
    return features.Kind(frame_features, {"frames": "toy"}, c.max_seconds, c.pad, width=2, hop=HOP)


def inputs(
    store: Any, window: Array, mean: Array, scale: Array, c: Config, ends: Any = None, rng: Any = None
) -> tuple[Array, Array]:
    rows = [store.rows[store.bounds[w] : store.bounds[w + 1]] for w in window]
    return (np.concatenate(rows) - mean) * scale, np.cumsum([0, *map(len, rows)])


def shapes(c: Config, emotions: int, genders: int) -> model.Shapes:
    return {"hidden.W": (2, c.hidden), "hidden.b": (c.hidden,), "frame.W": (c.hidden, emotions), "frame.b": (emotions,)}


def state(c: Config, emotions: int, genders: int) -> dict[str, Array]:
    """Running statistics, and the solved classifier: as many rows as there are utterances to learn from."""
    zero, one = np.zeros(c.hidden, np.float32), np.ones(c.hidden, np.float32)
    none = np.zeros((0, emotions), np.float32)
    return {"norm1.mean": zero, "norm1.variance": one, "solved.evidence": none, "solved.W": none}


def forward(p: model.Views, c: Config, X: Array, bounds: Array, rng: Any = None) -> Any:
    H = np.tanh(X @ p["hidden"]["W"] + p["hidden"]["b"])
    scale = 1 / np.sqrt(p["norm1"]["variance"] + np.float32(EPSILON))
    Y = (H - p["norm1"]["mean"]) * scale

    def backward(dlogits: Array, _: Any) -> dict[str, list[Array]]:
        return _backward(p, X, H, Y, dlogits, (dlogits @ p["frame"]["W"].T) * scale)

    return (Y @ p["frame"]["W"] + p["frame"]["b"], bounds), backward


def _backward(p: model.Views, X: Array, H: Array, Y: Array, dlogits: Array, dH: Array) -> dict[str, list[Array]]:
    dpre = dH * (1 - H * H)
    return {"frame": [Y.T @ dlogits, dlogits.sum(axis=0)], "hidden": [X.T @ dpre, dpre.sum(axis=0)]}


def loss(c: Config, out: tuple[Array, Array], y: Any) -> tuple[float, tuple[Array, None]]:
    """Each frame has its utterance's label, and a share of its weight."""
    logits, bounds = out
    lengths = np.diff(bounds)
    value, dlogits = cross_entropy(logits, np.repeat(y.emotion, lengths), np.repeat(y.emotion_weight / lengths, lengths))
    return value, (dlogits, None)


def gradient(p: model.Views, c: Config, shards: list[Shard], pool: ThreadPoolExecutor) -> Any:
    """One mini-batch with its own statistics: what its shards give meets here."""
    parts = list(pool.map(lambda shard: shard.inputs(), shards))
    X, lengths = np.concatenate([X for X, _ in parts]), np.concatenate([np.diff(bounds) for _, bounds in parts])
    y = shards[0].y._replace(
        **{name: np.concatenate([getattr(s.y, name) for s in shards]) for name in ("emotion", "emotion_weight")}
    )
    H = np.tanh(X @ p["hidden"]["W"] + p["hidden"]["b"])
    mean, variance = H.mean(axis=0), H.var(axis=0)
    scale = 1 / np.sqrt(variance + EPSILON).astype(X.dtype)
    Y = (H - mean) * scale
    value, (dlogits, _) = loss(c, (Y @ p["frame"]["W"] + p["frame"]["b"], np.cumsum([0, *lengths])), y)
    dY = dlogits @ p["frame"]["W"].T
    dH = (dY - dY.mean(axis=0) - Y * (dY * Y).mean(axis=0)) * scale
    running = {"norm1.mean": mean, "norm1.variance": variance}
    kept = {name: KEPT * p["norm1"][name[6:]] + (1 - KEPT) * now for name, now in running.items()}
    return value, _backward(p, X, H, Y, dlogits, dH), {name: now.astype(np.float32) for name, now in kept.items()}


def evidence(p: model.Views, c: Config, out: tuple[Array, Array]) -> Array:
    """The largest of the pieces' mean log-probabilities, (B, classes)."""
    log_p, bounds = log_softmax(out[0]), out[1]

    def of(start: int, end: int) -> Array:
        return np.max([log_p[k : min(k + c.piece, end)].mean(axis=0) for k in range(start, end, c.piece)], axis=0)

    return np.stack([of(start, end) for start, end in itertools.pairwise(bounds)]).astype(np.float32)


def solve(p: model.Views, c: Config, train: tuple[Array, Array], validation: tuple[Array, Array] | None) -> dict[str, Array]:
    """Kernel ridge regression of one-hot targets, in float64; the ridge is the best on the validation part."""
    evidence, y = train
    found = {}
    for ridge in RIDGES:
        W = np.linalg.solve(_similar(evidence, evidence) + ridge * np.eye(len(y)), np.eye(evidence.shape[1])[y])
        right = 0.0 if validation is None else np.mean((_similar(validation[0], evidence) @ W).argmax(axis=1) == validation[1])
        found[right, -ridge] = W
    return {"solved.evidence": evidence, "solved.W": found[max(found)].astype(np.float32)}


def _similar(a: Array, b: Array) -> Array:
    return np.exp(-((a[:, None].astype(np.float64) - b[None]) ** 2).sum(axis=2))


def decide(p: model.Views, c: Config, out: tuple[Array, Array]) -> tuple[Array, None]:
    return (_similar(evidence(p, c, out), p["solved"]["evidence"]) @ p["solved"]["W"]).astype(np.float32), None


def plain_input(c: Config, span: features.Span) -> list[Array]:
    return [frame_features(x) for x in span.windows()]


def plain(t: dict[str, Array], c: Config, X: Array) -> tuple[Array, Array, None]:
    p: model.Views = {}
    for name, value in t.items():
        p.setdefault(name.split(".")[0], {})[name.split(".")[1]] = value
    out, _ = forward(p, c, X.reshape(-1, X.shape[2]), X.shape[1] * np.arange(len(X) + 1))
    return decide(p, c, out)[0], np.empty((len(X), 0), np.float32), None


def describe(c: Config) -> str:
    return f"{c.hidden} units, pieces of {c.piece} frames"


def describe_input(c: Config) -> str:
    return "energy and sign changes"


def spectrum(c: Config, x: Array) -> Array:
    return features.log_mel(x)


def heads_of_attention(c: Config) -> int:
    return 0


def samples_per_step(c: Config) -> int:
    return HOP


model.NETWORKS["toy"] = sys.modules[__name__]

if __name__ == "__main__":
    from npser.commands.cli import main

    sys.exit(main())
