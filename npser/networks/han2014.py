"""DNN-ELM: a feed-forward network tells the emotion of loud segments, and an extreme learning machine that of the utterance.

Han, Yu and Tashev, Interspeech 2014. The paper says: 30 features of a frame (MFCC, pitch period, harmonics-to-noise ratio, and
their deltas) every 10 ms; segments of 25 frames; of each utterance the 10 % with the highest energy, in training and in test;
three layers of 256 ReLU and a softmax, mini-batches and cross-entropy, where a segment has its utterance's class; of each class
the maximum, minimum, mean, and share above 0.2 of the posteriors over the segments, and on these an ELM of 120 units, for which
see npser.networks.elm. A kernel ELM did as well. There is no normalisation by speaker.

It does not say, so these are judgements: that the 15 statics are 12 MFCC, log energy, period and HNR; Adam with 1e-3 and
mini-batches of utterances, with all their segments (see `loss`); 15 epochs, of which the UA of the ELM's decisions on the
validation part chooses; whole segments only, and of a shorter utterance one, its first and last frames repeated; a ridge in the
ELM. Of 10, 30, 50 and 100 % of the segments Lee and Tashev (2015) found 30 % best: share=0.3. The ELM learns from posteriors of
utterances that the network was trained on, as in the paper: they are surer than others'.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from npser import config, features, frame_features
from npser.calibration import log_softmax
from npser.networks import elm, li2019, numpy_layers
from npser.networks.li2019 import Array, Grads, Shapes, Views
from npser.networks.mirsamadi2017 import check_input, kind, samples_per_step, spectrum  # noqa: F401 (of its input as well)

Out = tuple[Array, Array]  # logits of segments (S, classes), and the bounds of the utterances in them (B+1,)

TITLE = "DNN-ELM (Han et al., 2014)"
PUBLISHED = {"wa": 0.543, "ua": 0.482, "task": "IEMOCAP, five classes, two of ten speakers held out"}
COLUMNS = (*(f"mfcc{k}" for k in range(1, 13)), "log_energy", "period", "hnr")
ENERGY = COLUMNS.index("log_energy")
DENSE = ("dense1", "dense2", "dense3")
SECONDS = 2.5  # of a usual utterance
CLASSIFIERS = (*elm.KINDS, "mean")


@dataclass(frozen=True)
class Config(config.Config):
    """Settings of a run with this network."""

    network: str = "han2014"
    d_spec: int = 2 * len(COLUMNS)
    pad: bool = False
    beta: float = 0.0
    dropout: float = 0.0  # after each dense layer
    input: str = "frames"  # or "log_mel": bands, deltas, delta-deltas
    n_context: int = 25  # frames of a segment
    share: float = 0.1  # of an utterance's segments, those with the highest energy
    d_dense: int = 256  # units of each of the three dense layers
    classifier: str = "elm"  # or "kernel", "ridge": see npser.networks.elm; "mean": the mean posterior

    def __post_init__(self) -> None:
        super().__post_init__()
        self.expect("d_dense", lambda value: value >= 1, "at least 1")
        self.expect("n_context", lambda value: 1 <= value <= 1000, "1 to 1000 frames")
        self.expect("share", lambda value: 0 < value <= 1, "0 < {name} <= 1")
        self.expect("classifier", CLASSIFIERS.__contains__, f"one of {', '.join(CLASSIFIERS)}")
        check_input(self, COLUMNS)


PRESETS = {
    "published": Config(epochs=15, batch=4, learning_rate=1e-3, decay=0.0),
    # 11 frames every 25 ms last about as long as 25 every 10 ms
    "same-input": Config(**li2019.SAME_INPUT | {"input": "log_mel", "n_context": 11, "dropout": 0.5}),
}
ABLATION: dict[str, dict[str, Any]] = {
    "kernel-ELM": {"classifier": "kernel"},
    "ridge-in-place-of-ELM": {"classifier": "ridge"},
    "mean-posterior": {"classifier": "mean"},
    "all-segments": {"share": 1.0},
}
_TINY: dict[str, Any] = {"n_context": 3, "share": 0.5, "d_dense": 4}
SMALL = {
    "loss, segments": Config(**_TINY),
    "loss, band segments": Config(**_TINY, input="log_mel", d_spec=9, dropout=0.5),
}


def choices(c: Config) -> dict[str, tuple[Any, ...]]:
    """What is tried on the validation part, beside the epoch: the settings of the classifier that is solved."""
    return elm.CHOICES.get(c.classifier, {})


def example(c: Config, bounds: Array, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """A batch for npser gradcheck: X, bounds, energies."""
    return rng.standard_normal((bounds[-1], c.d_spec)), bounds, rng.random(bounds[-1])


def inputs(
    store: Any, window: Array, mean: Array, scale: Array, c: Config, ends: Array | None = None, rng: Any = None
) -> tuple[Array, Array, Array]:
    """X (N, d_spec), bounds, and the energies of the frames (N,) for forward."""
    from npser.inputs import of_bands, of_frames

    if c.input == "frames":
        X, bounds = of_frames(store, window, mean, scale, COLUMNS)
    else:
        X, bounds, _ = of_bands(store, window, mean, scale, c, ends, rng)
    return X, bounds, energies(c, X, mean, 1 / scale)


def energies(c: Config, X: Array, mean: Array, std: Array) -> Array:
    """Energy of each frame of the recording, (N,), as it was before X (N, d_spec) was normalised; of bands, their sum."""
    used = slice(ENERGY, ENERGY + 1) if c.input == "frames" else slice(0, c.d_spec // 3)
    return features.db_to_power(X[:, used] * std[used].astype(np.float64) + mean[used]).sum(axis=1)


def segments(c: Config, energy: Array, bounds: Array) -> tuple[Array, Array]:
    """The segments of utterances that count: the rows of each, (S, n_context), in the order of time, and their bounds (B+1,).

    The energy of a segment is the sum of its frames'; of equals the earlier is taken, and of each utterance at least one.
    """
    found, counts = [np.empty((0, c.n_context), np.int64)], [0]
    for first, end in itertools.pairwise(bounds):
        whole = end - first - c.n_context + 1
        if whole > 1:
            each = np.lib.stride_tricks.sliding_window_view(energy[first:end], c.n_context).sum(axis=1)
            starts = np.sort(np.argsort(-each, kind="stable")[: max(1, round(c.share * whole))])
        else:
            starts = np.array([(whole - 1) // 2] if end > first else [], np.int64)  # of a shorter one it lies in the middle
        found.append(np.clip(first + starts[:, None] + np.arange(c.n_context), first, end - 1))
        counts.append(len(starts))
    return np.concatenate(found), np.cumsum(counts)


def shapes(c: Config, emotions: int, genders: int) -> Shapes:
    """Name and shape of every parameter, in the order of theta."""
    found: Shapes = {}
    d_in = c.n_context * c.d_spec
    for layer in DENSE:
        found |= {f"{layer}.W": (d_in, c.d_dense), f"{layer}.b": (c.d_dense,)}
        d_in = c.d_dense
    return found | {"emotion.W": (d_in, emotions), "emotion.b": (emotions,)}


def state(c: Config, emotions: int, genders: int) -> dict[str, Array]:
    """The classifier of the utterances."""
    if c.classifier == "mean":
        return {}
    return {f"elm.{name}": value for name, value in elm.start(c.classifier, 4 * emotions, emotions, c.seed).items()}


def forward(
    p: Views, c: Config, X: Array, bounds: Array, energy: Array, rng: np.random.Generator | None = None
) -> tuple[Out, Callable[..., Grads]]:
    """Features to logits of segments. X (N, d_spec), energy (N,) -> ((S, classes), bounds), backward."""
    from npser.layers import dense, dropout, linear  # late: they import Numba

    index, bounds = segments(c, energy, bounds)
    H, behind = X[index].reshape(len(index), c.n_context * c.d_spec), []
    for layer in DENSE:
        H, b_dense = dense(H, **p[layer], activation="relu")
        H, b_drop = dropout(H, c.dropout, rng)
        behind.append((layer, b_dense, b_drop))
    logits, b_emotion = linear(H, **p["emotion"])

    def backward(dlogits: Array, _: None) -> Grads:
        g: Grads = {}
        dH, *g["emotion"] = b_emotion(dlogits)
        for layer, b_dense, b_drop in reversed(behind):
            dH, *g[layer] = b_dense(*b_drop(dH), need_dX=layer != DENSE[0])
        return g

    return (logits, bounds), backward


def loss(c: Config, out: Out, y: Any) -> tuple[float, tuple[Array, None]]:
    """Cross-entropy of the segments and its gradient. All segments weigh the same, so a long utterance weighs more.

    The weight of an utterance is that of each segment, over the number of segments of a usual utterance: a constant, which
    Adam does not notice, and with which the loss is about that of one segment.
    """
    from npser.layers import cross_entropy

    logits, bounds = out
    counts = np.diff(bounds)
    hop = frame_features.HOP if c.input == "frames" else features.HOP
    usual = max(1.0, c.share * SECONDS * features.SAMPLE_RATE / hop)
    weight = np.repeat(c.alpha * y.emotion_weight / y.emotion_weight.dtype.type(usual), counts)
    value, dlogits = cross_entropy(logits, np.repeat(y.emotion, counts), weight)
    return value, (dlogits, None)


def evidence(p: Views, c: Config, out: Out) -> Array:
    """Statistics of the segments' posteriors, (B, 4 classes)."""
    logits, bounds = out
    return elm.statistics(np.exp(log_softmax(logits.astype(np.float64))), bounds)


def solve(p: Views, c: Config, train: elm.Evidence, validation: elm.Evidence | None) -> dict[str, Array]:
    """The classifier of the utterances, learnt from the training part, with a ridge chosen on the validation part."""
    if c.classifier == "mean":
        return {}
    return {f"elm.{name}": value for name, value in elm.solve(c.classifier, p["elm"], train, validation).items()}


def decide(p: Views, c: Config, out: Out) -> tuple[Array, None]:
    """The logits of each utterance, (B, classes)."""
    S = evidence(p, c, out)
    if c.classifier == "mean":
        means = S.reshape(len(S), 4, -1)[:, 2]
        return np.log(np.maximum(means, 1e-30)).astype(np.float32), None
    return (elm.SHARPNESS * elm.outputs(c.classifier, p["elm"], S)).astype(np.float32), None


def plain_input(c: Config, span: features.Span) -> list[Array]:
    """Windows at 16 kHz -> (L, d_spec) of each, not normalised."""
    return numpy_layers.frames_input(span, COLUMNS) if c.input == "frames" else numpy_layers.log_mel_input(c, span)


def plain(t: dict[str, Array], c: Config, X: Array) -> tuple[Array, Array, None]:
    """X (B, L, d_spec) -> emotion (B, classes), gender (B, 0), no attention."""
    B, L, d = X.shape
    X = X.reshape(B * L, d)
    index, bounds = segments(c, energies(c, X, t["norm.mean"], t["norm.std"]), L * np.arange(B + 1))
    H = X[index].reshape(len(index), -1)
    for layer in DENSE:
        H = np.maximum(H @ t[f"{layer}.W"] + t[f"{layer}.b"], 0)
    emotion, _ = decide(elm.parts(t), c, (H @ t["emotion.W"] + t["emotion.b"], bounds))
    return emotion, np.empty((B, 0), np.float32), None


def heads_of_attention(c: Config) -> int:
    """None: there is no attention."""
    return 0


def describe(c: Config) -> str:
    """The sizes, for npser info."""
    ends = {"elm": "an extreme learning machine", "kernel": "a kernel extreme learning machine", "ridge": "ridge regression"}
    chosen = f"the loudest {100 * c.share:g} % of segments of {c.n_context} frames" if c.share < 1 else "all segments"
    return f"3 x {c.d_dense} ReLU units over {chosen}, {ends.get(c.classifier, 'the mean posterior')} over these"


def describe_input(c: Config) -> str:
    """The features, for npser info."""
    if c.input == "log_mel":
        return li2019.describe_input(c)
    return "12 MFCC, log energy, pitch period, harmonics-to-noise ratio, and their deltas, every 10 ms"
