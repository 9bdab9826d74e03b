"""AE-BLSTM: autoencoders learn to code spectra of the speech and of its glottal flow, a BLSTM names each step's emotion.

Ghosh, Laksana, Morency and Scherer, Representation learning for speech emotion recognition, Interspeech 2016. Its text was not
to be had. As Li et al. (2019) describe it: spectrograms of speech and of the glottal flow go into stacked denoising
autoencoders, a BLSTM labels every step of their codes, and the utterance has the label of most steps. Everything beside that
(bands, context, sizes, noise, how long, which optimiser) is a choice of npser, and so is what a figure of this network says:
not that the paper's could not be better. Their second experiment, transfer from activation and valence, is left out: corpora
with these labels only would have it.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from npser import config, features
from npser.calibration import log_softmax
from npser.features import HOP, N_MELS, log_mel
from npser.networks import glottal, li2019, numpy_layers
from npser.networks.li2019 import Array, Grads, Shapes, Views

Steps = tuple[Array, Array]  # logits of all steps (N, classes), bounds (B+1,)

TITLE = "AE-BLSTM (Ghosh et al., 2016)"
PUBLISHED = {
    "wa": 0.505,
    "ua": 0.519,
    "task": "IEMOCAP, four classes, and, as remembered, both styles; utterances and folds not known",
}
LAYERS = (1, 2, 3)  # of an encoder


@dataclass(frozen=True)
class Config(config.Config):
    """Settings of a run with this network: those of every run, its sizes, and how its autoencoders are trained."""

    network: str = "ghosh2016"
    d_spec: int = 2 * N_MELS
    pad: bool = False
    beta: float = 0.0
    epochs: int = 25
    batch: int = 16
    learning_rate: float = 1e-3
    input: str = "flow"  # bands of the speech | of its glottal flow, d_spec / 2 each; or "log_mel": of the speech, d_spec
    streams: str = "both"  # "speech" or "glottal": only this one of the two
    context: int = 5  # frames that are coded together
    d_hidden1: int = 256  # units of an encoder's layers
    d_hidden2: int = 128
    d_code: int = 64
    d_lstm: int = 64  # LSTM units of a direction
    pretrained: bool = True  # False: encoders of random weights, the control
    finetune: bool = False  # True: the labels train the encoders further
    noise: float = 0.2  # share of an autoencoder's inputs that is set to zero
    pretrain_epochs: int = 10  # of each of the layers, and then of all together
    pretrain_batch: int = 256  # frames
    pretrain_rate: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        self.expect("d_hidden1 d_hidden2 d_code d_lstm", lambda value: value >= 1, "at least 1")
        self.expect("pretrain_epochs pretrain_batch", lambda value: value >= 1, "at least 1")
        self.expect("context", lambda value: value % 2 == 1 and 1 <= value <= 999, "an odd number of frames, at most 999")
        self.expect("noise", lambda value: 0 <= value < 1, "0 <= {name} < 1")
        self.expect("pretrain_rate", lambda value: 0 < value < float("inf"), "a positive number")
        self.expect("input", ("flow", "log_mel").__contains__, "one of flow, log_mel")
        self.expect("streams", ("both", "speech", "glottal").__contains__, "one of both, speech, glottal")
        self.expect("beta", lambda value: value == 0, "0: this network has no gender head")
        self.expect("pad", lambda value: not value, "false: this network takes windows at their natural length")
        if self.input == "log_mel":
            self.expect("streams", lambda value: value == "speech", "speech where input is log_mel")
            self.expect("d_spec", lambda value: value <= N_MELS, f"at most {N_MELS}: bands")
        else:
            words = f"an even number, at most {2 * N_MELS}: bands of the speech and of its glottal flow"
            self.expect("d_spec", lambda value: value % 2 == 0 and value <= 2 * N_MELS, words)
            self.expect("stretch warp splice channel", lambda value: value == 0, "0: bands of a glottal flow are not augmented")
            self.expect("level", lambda value: not value, "false where input is flow")
        if not self.finetune:
            self.expect("weight_decay", lambda value: value == 0, "0 where the encoders are frozen (finetune is false)")


FLOW: dict[str, Any] = {"input": "flow", "d_spec": 2 * N_MELS, "level": False}
FLOW |= dict.fromkeys(("stretch", "warp", "splice", "channel"), 0.0)
SAME_INPUT: dict[str, Any] = {**li2019.SAME_INPUT, "beta": 0.0, "input": "log_mel", "streams": "speech", "d_spec": 99}
PRESETS = {"published": Config(), "same-input": Config(**SAME_INPUT)}
ABLATION: dict[str, dict[str, Any]] = {
    "speech-only": {"streams": "speech"},
    "glottal-flow-only": {"streams": "glottal", **FLOW},
    "random-encoder": {"pretrained": False},
}
_TINY: dict[str, Any] = {"d_hidden1": 5, "d_hidden2": 4, "d_code": 3, "d_lstm": 4, "finetune": True}
SMALL = {  # for npser gradcheck
    "loss, AE-BLSTM": Config(**_TINY, d_spec=6),
    "loss, one encoder": Config(**_TINY, d_spec=4, input="log_mel", streams="speech", context=3),
}


def kind(c: Config) -> features.Kind:
    """What the store keeps: log-mel bands, of the glottal flow as well where it is an input."""
    return glottal.flow_kind(c.max_seconds) if c.input == "flow" else features.log_mel_kind(c.max_seconds, False, c.level)


def stored_columns(c: Config) -> list[slice]:
    """The columns of the store that are those of X, side by side."""
    if c.input == "log_mel":
        return [slice(0, c.d_spec)]
    return [slice(first, first + c.d_spec // 2) for first in (0, N_MELS)]


def streams(c: Config) -> dict[str, int]:
    """The streams that are coded, and which of stored_columns each of them is."""
    return {name: k for k, name in enumerate(("speech", "glottal")) if c.streams in (name, "both")}


def bands(c: Config) -> int:
    """Bands of a stream."""
    return c.d_spec // len(stored_columns(c))


def inputs(
    store: Any, window: Array, mean: Array, scale: Array, c: Config, ends: Array | None = None, rng: Any = None
) -> tuple[Array, Array]:
    """X (N, d_spec) and bounds for forward: see npser.inputs.of_static_bands."""
    from npser.inputs import of_static_bands

    return of_static_bands(store, window, mean, scale, stored_columns(c), c, ends, rng)


def shapes(c: Config, emotions: int, genders: int) -> Shapes:
    """Name and shape of every parameter, in the order of theta."""
    H, sizes, found = c.d_lstm, (c.context * bands(c), c.d_hidden1, c.d_hidden2, c.d_code), Shapes()
    for name in streams(c):
        for k, (d_in, d_out) in zip(LAYERS, itertools.pairwise(sizes), strict=True):
            found |= {f"{name}{k}.W": (d_in, d_out), f"{name}{k}.b": (d_out,)}
    for direction in ("fw", "bw"):
        found |= {f"lstm.W_{direction}": (c.d_code * len(streams(c)), 4 * H), f"lstm.R_{direction}": (H, 4 * H)}
        found |= {f"lstm.b_{direction}": (4 * H,)}
    return found | {"emotion.W": (2 * H, emotions), "emotion.b": (emotions,)}


def in_context(bounds: Array, size: int) -> Array:
    """The rows that each row is coded with, (N, size): those around it, the first and last of its utterance repeated."""
    lengths = np.diff(bounds)
    first, last = np.repeat(bounds[:-1], lengths)[:, None], np.repeat(bounds[1:] - 1, lengths)[:, None]
    return np.clip(np.arange(bounds[-1])[:, None] + np.arange(size) - size // 2, first, last)


def encoder(p: Views, c: Config, X: Array, bounds: Array) -> tuple[Array, Callable[[Array], Grads]]:
    """Bands to codes. X (N, d_spec) -> (N, d_code) of each stream, side by side; backward -> gradients by layer."""
    from npser.layers import dense  # late: it imports Numba

    rows, width, codes, passes = in_context(bounds, c.context), bands(c), list[Array](), dict[str, Any]()
    for name, k in streams(c).items():
        H = X[:, k * width : (k + 1) * width][rows].reshape(len(X), -1)
        for layer in (f"{name}{n}" for n in LAYERS):
            H, passes[layer] = dense(H, **p[layer], activation="tanh")
        codes.append(H)

    def backward(dcodes: Array) -> Grads:
        if not c.finetune:
            return {layer: [np.zeros_like(value) for value in p[layer].values()] for layer in passes}
        g: Grads = {}
        for name, dH in zip(streams(c), np.split(dcodes, len(codes), axis=1), strict=True):
            for n in reversed(LAYERS):
                dH, *g[f"{name}{n}"] = passes[f"{name}{n}"](dH, need_dX=n > 1)
        return g

    return np.concatenate(codes, axis=1), backward


def forward(
    p: Views, c: Config, X: Array, bounds: Array, rng: np.random.Generator | None = None
) -> tuple[Steps, Callable[..., Grads]]:
    """Bands to the logits of each step. X (N, d_spec) -> ((N, classes), bounds), backward. Dropout acts when rng is given."""
    from npser.layers import blstm, dropout, linear  # late: they import Numba

    H, b_encoder = encoder(p, c, X, bounds)
    H, b_lstm = blstm(H, bounds, **p["lstm"])
    H, b_drop = dropout(H, c.dropout, rng)
    logits, b_emotion = linear(H, **p["emotion"])

    def backward(dlogits: Array) -> Grads:
        g: Grads = {}
        dH, *g["emotion"] = b_emotion(dlogits)
        dH, *g["lstm"] = b_lstm(*b_drop(dH))
        return g | b_encoder(dH)

    return (logits, bounds), backward


def loss(c: Config, out: Steps, y: Any) -> tuple[float, tuple[Array]]:
    """Cross-entropy of each step with the label of its utterance, and its gradient by the logits. y: see network.Targets."""
    from npser.layers import frame_cross_entropy

    value, dlogits = frame_cross_entropy(*out, y.emotion, y.emotion_weight)
    return c.alpha * value, (c.alpha * dlogits,)


def decide(_: Views, c: Config, out: Steps) -> tuple[Array, None]:
    """The logits of each utterance, (B, classes): see ballot."""
    logits, bounds = out
    return np.stack([ballot(logits[start:end]) for start, end in itertools.pairwise(bounds)]), None


def ballot(logits: Array) -> Array:
    """The decision of steps (T, classes), as logits (classes,): each step has a vote, which its most probable class gets.

    They are the logarithms of shares of the votes, so that at temperature 1 a class is as probable as it has votes. Beside its
    votes a class has a half, lest none be impossible, and up to another half for its mean log-probability: less than a vote,
    so that it decides between classes with as many votes, and nothing else.
    """
    log_p = log_softmax(logits.astype(np.float64))
    votes = np.bincount(logits.argmax(axis=1), minlength=logits.shape[1])
    return np.log((votes + 0.5 + 0.5 * np.exp(log_softmax(log_p.mean(axis=0)))) / (len(logits) + 0.5 * logits.shape[1] + 0.5))


def pretrain(network: Any, data: Any, train: Array, run: Any) -> Array:
    """theta (P,) with encoders that have been trained as autoencoders of the training part, neither augmented nor labelled.

    network: a network.Network as it starts, data: dataset.Dataset, train (n,): utterances, run: train.Run.
    """
    c = network.config
    if not c.pretrained:
        return network.theta
    from npser.inputs import static_frames
    from npser.networks import autoencoder as ae

    network = dataclasses.replace(network, theta=network.theta.copy())
    p, width, stacks, own = network.p, bands(c), [], []
    for k, (name, place) in enumerate(streams(c).items()):
        encoders = [(p[f"{name}{n}"]["W"], p[f"{name}{n}"]["b"]) for n in LAYERS]
        stacks.append(ae.Stack(encoders, ae.decoders_for(encoders, config.stream("init", c.seed, k + 1))))
        own.append((stored_columns(c)[place], slice(place * width, (place + 1) * width)))
    count, rows_of = static_frames(data.store, data.first_windows(train), c)

    def rows(k: int, which: Array) -> Array:
        stored, columns = own[k]
        X = rows_of(which, c.context, stored)
        X = (X - network.mean[columns]) / network.std[columns]
        return X.reshape(len(which), -1)

    schedule = ae.Schedule(c.pretrain_epochs, c.pretrain_batch, c.pretrain_rate, c.noise, c.clip, c.seed)
    errors = ae.train(stacks, ae.Frames(count, rows, data.store.release), schedule, run.pool, run.progress)
    found = ", ".join(f"{name} {error:.3f}" for name, error in zip(streams(c), errors, strict=True))
    run.say(f"encoders  {count:,} frames, squared error of their reconstruction (variance 1): {found}")
    return network.theta


def plain_input(c: Config, span: features.Span) -> list[Array]:
    """Windows at 16 kHz -> bands of each, (L, d_spec), not normalised."""
    if c.input == "log_mel":
        return numpy_layers.static_input(c, span)
    return [np.concatenate([S[:, part] for part in stored_columns(c)], axis=1) for S in kind(c).of(span)]


def plain(t: dict[str, Array], c: Config, X: Array) -> tuple[Array, Array, None]:
    """X (B, L, d_spec) -> emotion (B, classes), no gender (B, 0), no attention."""
    L, half, width, codes = X.shape[1], c.context // 2, bands(c), []
    for name, k in streams(c).items():
        padded = np.pad(X[:, :, k * width : (k + 1) * width], ((0, 0), (half, half), (0, 0)), mode="edge")
        H = np.concatenate([padded[:, j : j + L] for j in range(c.context)], axis=2)
        for n in LAYERS:
            H = np.tanh(H @ t[f"{name}{n}.W"] + t[f"{name}{n}.b"])
        codes.append(H)
    H = numpy_layers.blstm(t, "lstm", np.concatenate(codes, axis=2))
    logits, none = numpy_layers.heads(t, H.reshape(len(X) * L, -1))
    return np.stack([ballot(steps) for steps in logits.reshape(len(X), L, -1)]), none[: len(X)], None


def heads_of_attention(c: Config) -> int:
    return 0


def samples_per_step(c: Config) -> int:
    """Samples at 16 kHz from one step to the next."""
    return HOP


def spectrum(c: Config, x: Array) -> Array:
    """What npser explain shows of a window x (n,) at 16 kHz: the bands of the speech, (L, bands) dB."""
    return features.heard_bands(log_mel(x, level=c.level), bands(c), c.level)


def describe(c: Config) -> str:
    """The sizes, for npser info."""
    sizes = f"{c.context * bands(c)}-{c.d_hidden1}-{c.d_hidden2}-{c.d_code}"
    how = "autoencoders" if c.pretrained else "random weights"
    further = ", trained further with the labels" if c.finetune else ""
    return f"encoders {sizes} by {how}{further}, 2 x {c.d_lstm} LSTM units, the vote of the steps"


def describe_input(c: Config) -> str:
    """The bands, for npser info."""
    of = {"both": "speech and of its glottal flow", "speech": "speech", "glottal": "glottal flow"}[c.streams]
    few = f"the lowest {bands(c)} of " if bands(c) < N_MELS else ""
    return f"{few}{N_MELS} bands of the {of}"
