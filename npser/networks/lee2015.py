"""BLSTM-ELM: two BLSTM layers say of every frame which emotion it shows, or none; the extreme learning machine sums up.

Lee and Tashev, Interspeech 2015. Not every frame of an emotional utterance shows the emotion, and nobody has labelled those
that do. So there is one output more than there are emotions, Null, and each stretch of one voiced region goes Null, emotion,
Null; when, is summed over: layers.alignment_loss. The paper's equation (4) adds up the logarithms of all paths instead, which
leaves nothing to be found out; built is what its text says, expectation-maximisation with weights that change.

The paper gives: the 16 features and their slopes; two layers of 64 cells a direction; one Null, the three states; a kernel ELM
with an RBF; and, as alternatives, frames that all have the label, and no ELM. Our judgement: how an utterance is cut into
stretches (networks.stretches), each of which counts the same within its utterance; Adam, its rate, batch, epochs, dropout; the
start of Null's bias, at -1: Null is right in every utterance, and is learnt first; the statistics that the ELM is given (those
of Han et al., Null's included), its C and gamma.

What to expect: the loss is least where a stretch has one frame of the emotion, and Null fills the rest. It first settles where
each frame may be that one (Null at about 1 - 1 / frames of a stretch, and a loss of 1.02), where the published settings are
still on EmoDB; more and larger steps sharpen it to peaks of one frame, most of them in unvoiced frames, and a lower UA.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from npser import config, frame_features
from npser.calibration import log_softmax
from npser.features import SAMPLE_RATE
from npser.networks import elm, li2019, numpy_layers
from npser.networks.li2019 import Array, Grads, Shapes, Views
from npser.networks.mirsamadi2017 import (  # noqa: F401 (they are this network's as well)
    COLUMNS,
    check_input,
    describe_input,
    kind,
    plain_input,
    samples_per_step,
    spectrum,
)
from npser.networks.stretches import loud, stretches

Out = tuple[Array, Array, Array]

TITLE = "BLSTM-ELM (Lee and Tashev, 2015)"
PUBLISHED = {"wa": 0.6285, "ua": 0.6389, "task": "IEMOCAP, four classes, improvised sessions only"}
F0 = frame_features.COLUMNS.index("log_f0")
NULL_BIAS = -1.0


@dataclass(frozen=True)
class Config(config.Config):
    """Settings of a run with this network: those of every run, its sizes, and what it is taught by."""

    network: str = "lee2015"
    d_spec: int = 2 * len(COLUMNS)
    pad: bool = False
    beta: float = 0.0
    epochs: int = 30
    batch: int = 16
    learning_rate: float = 1e-3
    input: str = "frames"  # frame features; "log_mel": li2019's bands
    d_lstm: int = 64  # LSTM units of a direction
    objective: str = "alignment"  # "frames": cross-entropy of every frame, and no Null; the paper's RNN(CE)-ELM
    classifier: str = "kernel"  # kernel ELM; "mean": the mean posterior, Null left out

    def __post_init__(self) -> None:
        super().__post_init__()
        self.expect("objective", ("alignment", "frames").__contains__, "one of alignment, frames")
        self.expect("classifier", ("kernel", "mean").__contains__, "one of kernel, mean")
        self.expect("d_lstm", lambda value: value >= 1, "at least 1")
        check_input(self, COLUMNS)


PRESETS = {"published": Config(), "same-input": Config(**li2019.SAME_INPUT, input="log_mel")}
ABLATION: dict[str, dict[str, Any]] = {"frame-wise-labels": {"objective": "frames"}, "no-ELM": {"classifier": "mean"}}
SMALL = {
    "loss, BLSTM-ELM": Config(d_lstm=4),
    "loss, frame-wise BLSTM": Config(d_lstm=4, d_spec=9, input="log_mel", objective="frames"),
}


def choices(c: Config) -> dict[str, tuple[Any, ...]]:
    """What is tried on the validation part, beside the epoch: the settings of the classifier that is solved."""
    return elm.CHOICES.get(c.classifier, {})


def example(c: Config, bounds: Array, rng: np.random.Generator) -> Out:
    """A batch for npser gradcheck: with gaps in it that are long enough at either hop."""
    return rng.standard_normal((bounds[-1], c.d_spec)), bounds, np.arange(bounds[-1]) % 9 < 3


def inputs(store: Any, window: Array, mean: Array, scale: Array, c: Config, ends: Array | None = None, rng: Any = None) -> Out:
    """X (N, d_spec) and bounds for forward, and which frames are voiced, (N,); without pitch, which are loud."""
    from npser.inputs import maybe_augmented, of_bands, of_frames

    if c.input == "frames":
        X, bounds = of_frames(store, window, mean, scale, COLUMNS)
        voiced = [store.rows[store.bounds[w] : store.bounds[w + 1], F0] > 0 for w in window]
    else:
        store, window = maybe_augmented(store, window, c, ends, rng)
        X, bounds, _ = of_bands(store, window, mean, scale, c)
        voiced = [loud(store.rows[store.bounds[w] : store.bounds[w + 1], : c.d_spec // 3]) for w in window]
    return X, bounds, np.concatenate(voiced)


def outputs(c: Config, emotions: int) -> int:
    """How many: the emotions, and behind them Null."""
    return emotions + 1 if c.objective == "alignment" else emotions


def shapes(c: Config, emotions: int, genders: int) -> Shapes:
    """Name and shape of every parameter, in the order of theta."""
    H, D, found = c.d_lstm, 2 * c.d_lstm, Shapes()
    for layer, d_in in (("lstm1", c.d_spec), ("lstm2", D)):
        for direction in ("fw", "bw"):
            found |= {f"{layer}.W_{direction}": (d_in, 4 * H), f"{layer}.R_{direction}": (H, 4 * H)}
            found |= {f"{layer}.b_{direction}": (4 * H,)}
    return found | {"output.W": (D, outputs(c, emotions)), "output.b": (outputs(c, emotions),)}


def state(c: Config, emotions: int, genders: int) -> dict[str, Array]:
    """The kernel ELM before it has been solved."""
    if c.classifier == "mean":
        return {}
    found = elm.start("kernel", 4 * outputs(c, emotions), emotions, c.seed)
    return {f"elm.{name}": value for name, value in found.items()}


def pretrain(network: Any, data: Any, train: Array, run: Any) -> Array:
    """theta as the engine starts it, but for the bias of Null."""
    if network.config.objective == "alignment":
        network.p["output"]["b"][-1] = NULL_BIAS  # a view of theta
    return network.theta


def forward(
    p: Views, c: Config, X: Array, bounds: Array, voiced: Array, rng: np.random.Generator | None = None
) -> tuple[Out, Callable[[Array], Grads]]:
    """Features to the logits of every frame. X (N, d_spec) -> (logits (N, K+1), bounds, voiced), backward(dlogits)."""
    from npser.layers import blstm, dropout, linear  # late: they import Numba

    H, b_lstm1 = blstm(X, bounds, **p["lstm1"])
    H, b_drop1 = dropout(H, c.dropout, rng)
    H, b_lstm2 = blstm(H, bounds, **p["lstm2"])
    H, b_drop2 = dropout(H, c.dropout, rng)
    logits, b_output = linear(H, **p["output"])

    def backward(dlogits: Array) -> Grads:
        g: Grads = {}
        dH, *g["output"] = b_output(dlogits)
        dH, *g["lstm2"] = b_lstm2(*b_drop2(dH))
        _, *g["lstm1"] = b_lstm1(*b_drop1(dH))
        return g

    return (logits, bounds, voiced), backward


def loss(c: Config, out: Out, y: Any) -> tuple[float, tuple[Array]]:
    """That of the alignment, or of every frame; and its gradient by the logits."""
    from npser.layers import alignment_loss, frame_cross_entropy

    logits, bounds, voiced = out
    if c.objective == "alignment":
        of, owner = stretches(voiced, bounds, kind(c).hop / SAMPLE_RATE)
        total, dlogits = alignment_loss(logits, of, owner, y.emotion, y.emotion_weight)
    else:
        total, dlogits = frame_cross_entropy(logits, bounds, y.emotion, y.emotion_weight)
    return c.alpha * total, (c.alpha * dlogits,)


def evidence(p: Views, c: Config, out: Out) -> Array:
    """What the ELM is given: statistics of the posteriors of each utterance, Null's as well, (B, 4 (K+1))."""
    return elm.statistics(np.exp(log_softmax(out[0])), out[1])


def solve(p: Views, c: Config, train: elm.Evidence, validation: elm.Evidence | None) -> dict[str, Array]:
    """The kernel ELM of the training part, C and gamma by the UA of the validation part."""
    if c.classifier == "mean":
        return {}
    return {f"elm.{name}": value for name, value in elm.solve("kernel", p["elm"], train, validation).items()}


def decide(p: Views, c: Config, out: Out) -> tuple[Array, None]:
    """Logits of the utterances, (B, K): the ELM's outputs, or the logarithm of the mean posterior, Null left out."""
    if c.classifier == "kernel":
        return elm.SHARPNESS * elm.outputs("kernel", p["elm"], evidence(p, c, out)), None
    logits, bounds, _ = out
    emotions = logits.shape[1] - (c.objective == "alignment")
    log_p = log_softmax(logits.astype(np.float64))[:, :emotions]
    each = [np.logaddexp.reduce(log_p[start:end]) - np.log(end - start) for start, end in pairwise(bounds)]
    return np.stack(each), None


def plain(t: dict[str, Array], c: Config, X: Array) -> tuple[Array, Array, None]:
    """forward and decide in NumPy: X (B, L, d_spec) -> emotion (B, classes), gender (B, 0), no attention."""
    H = numpy_layers.blstm(t, "lstm2", numpy_layers.blstm(t, "lstm1", X))
    logits = (H @ t["output.W"] + t["output.b"]).reshape(-1, len(t["output.b"]))
    bounds = X.shape[1] * np.arange(len(X) + 1)
    emotion, _ = decide(elm.parts(t), c, (logits, bounds, np.empty(0)))
    return emotion, np.empty((len(X), 0), np.float32), None


def heads_of_attention(c: Config) -> int:
    """There is no attention."""
    return 0


def describe(c: Config) -> str:
    """The sizes, for npser info."""
    taught = "alignment with a Null state" if c.objective == "alignment" else "cross-entropy of every frame"
    ends = "kernel ELM" if c.classifier == "kernel" else "mean posterior"
    return f"two layers of 2 x {c.d_lstm} LSTM units, {taught}, {ends}"
