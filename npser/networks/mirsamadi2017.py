"""Local attention: a BLSTM over frame features and a weighted mean over time. Mirsamadi, Barsoum and Zhang, ICASSP 2017.

The paper says: 32 features of a frame, a BLSTM of 128 cells, weights softmax(u . y_t) over time, dropout of 0.5, errors
weighted by the frequency of their class, features normalised by the neutral frames of the training part; for spectra, two dense
layers of 512 in front. It does not say: the optimiser, its rate, the number of epochs, the size of a batch, how u starts. Those
are judgements here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from npser import config, features, frame_features
from npser.networks import li2019, numpy_layers, onnx_layers
from npser.networks.li2019 import Array, Grads, Logits, Shapes, Views, loss  # noqa: F401 (it is this network's too)

TITLE = "Local attention (Mirsamadi et al., 2017)"
PUBLISHED = {"wa": 0.635, "ua": 0.588, "task": "IEMOCAP, four classes, one session out, nothing said of validation"}
COLUMNS = (*frame_features.COLUMNS[:13], "log_f0", "voicing", "zero_crossings")


@dataclass(frozen=True)
class Config(config.Config):
    """Settings of a run with this network."""

    network: str = "mirsamadi2017"
    d_spec: int = 2 * len(COLUMNS)
    pad: bool = False
    beta: float = 0.0
    dropout: float = 0.5
    input: str = "frames"  # or "log_mel": bands, deltas, delta-deltas
    n_dense: int = 0  # dense layers of ReLU before the BLSTM
    d_dense: int = 512  # their units
    d_lstm: int = 128  # LSTM units of a direction
    attention: bool = True  # False: mean over time

    def __post_init__(self) -> None:
        super().__post_init__()
        self.expect("d_dense d_lstm", lambda value: value >= 1, "at least 1")
        self.expect("n_dense", lambda value: 0 <= value <= 8, "0 to 8")
        check_input(self, COLUMNS)


def check_input(c: Any, columns: tuple[str, ...]) -> None:
    """ValueError for settings that a network on frame features, without a gender head, does not have."""
    c.expect("input", ("frames", "log_mel").__contains__, "one of frames, log_mel")
    c.expect("beta", lambda value: value == 0, "0: this network has no gender head")
    c.expect("pad", lambda value: not value, "false: this network takes natural lengths")
    if c.input == "frames":
        c.expect("d_spec", lambda value: value == 2 * len(columns), f"{2 * len(columns)}: of frame features, all are used")
        words = "{name}: frame features are not augmented, so 0"
        c.expect("stretch warp splice channel", lambda value: value == 0, words)
        c.expect("level", lambda value: not value, "false: the level is one of the features")
    else:
        li2019.check_bands(c)


PUBLISHED_RECIPE = {"class_weight": "balanced", "epochs": 20, "batch": 16, "learning_rate": 1e-3, "schedule": "cosine"}
PRESETS = {
    "published": Config(**PUBLISHED_RECIPE),
    "same-input": Config(**li2019.SAME_INPUT | {"input": "log_mel", "n_dense": 2}),
}
ABLATION: dict[str, dict[str, Any]] = {"no-local-attention": {"attention": False}}
_TINY: dict[str, Any] = {"d_lstm": 4, "d_dense": 5}
SMALL = {
    "loss, local attention": Config(**_TINY),
    "loss, dense layers": Config(**_TINY, n_dense=2, input="log_mel", d_spec=9),
    "loss, mean over time": Config(**_TINY, attention=False),
}


def kind(c: Any) -> features.Kind:
    """What the store keeps: frame features, or log-mel bands."""
    if c.input == "frames":
        return frame_features.frame_kind(c.max_seconds)
    return features.log_mel_kind(c.max_seconds, c.pad, c.level)


def inputs(
    store: Any, window: Array, mean: Array, scale: Array, c: Config, ends: Array | None = None, rng: Any = None
) -> tuple[Array, Array]:
    """X (N, d_spec) and bounds for forward."""
    from npser.inputs import of_bands, of_frames

    if c.input == "frames":
        return of_frames(store, window, mean, scale, COLUMNS)
    return of_bands(store, window, mean, scale, c, ends, rng)[:2]


def normalised_on(data: Any, train: Array) -> Array:
    """The utterances whose frames give mean and deviation: the neutral ones, where there are any."""
    neutral = [r for r in train if data.utterances[r].emotion == "neutral"]
    return np.array(neutral) if neutral else train


def shapes(c: Config, emotions: int, genders: int) -> Shapes:
    """Name and shape of every parameter, in the order of theta."""
    found: Shapes = {}
    d_in, H = c.d_spec, c.d_lstm
    for layer in _dense_layers(c):
        found |= {f"{layer}.W": (d_in, c.d_dense), f"{layer}.b": (c.d_dense,)}
        d_in = c.d_dense
    for direction in ("fw", "bw"):
        found |= {f"lstm.W_{direction}": (d_in, 4 * H), f"lstm.R_{direction}": (H, 4 * H), f"lstm.b_{direction}": (4 * H,)}
    found |= {"attn.u": (2 * H,)} if c.attention else {}
    return found | {"emotion.W": (2 * H, emotions), "emotion.b": (emotions,)}


def _dense_layers(c: Config) -> list[str]:
    return [f"dense{k + 1}" for k in range(c.n_dense)]


def forward(
    p: Views, c: Config, X: Array, bounds: Array, rng: np.random.Generator | None = None
) -> tuple[Logits, Callable[..., Grads]]:
    """Features to logits. X (N, d_spec) -> emotion (B, classes) and no gender, backward."""
    from npser.layers import blstm, dense, dropout, linear, local_attention, mean_over_time  # late: they import Numba

    H, behind = X, []
    for layer in _dense_layers(c):
        H, b_dense = dense(H, **p[layer], activation="relu")
        H, b_drop = dropout(H, c.dropout, rng)
        behind.append((layer, b_dense, b_drop))
    H, b_lstm = blstm(H, bounds, **p["lstm"])
    H, b_drop_lstm = dropout(H, c.dropout, rng)
    z, b_attn = local_attention(H, bounds, **p["attn"]) if c.attention else mean_over_time(H, bounds)
    emotion, b_emotion = linear(z, **p["emotion"])

    def backward(demotion: Array, _: None) -> Grads:
        g: Grads = {}
        dz, *g["emotion"] = b_emotion(demotion)
        dH, *g["attn"] = b_attn(dz)
        dH, *g["lstm"] = b_lstm(*b_drop_lstm(dH))
        for layer, b_dense, b_drop in reversed(behind):
            dH, *g[layer] = b_dense(*b_drop(dH))
        return g

    return (emotion, None), backward


def decide(_: Views, c: Config, logits: Logits) -> Logits:
    """The logits of each utterance: what forward returns."""
    return logits


def plain_input(c: Any, span: features.Span) -> list[Array]:
    """Windows at 16 kHz -> (L, d_spec) of each, not normalised."""
    return numpy_layers.frames_input(span, COLUMNS) if c.input == "frames" else numpy_layers.log_mel_input(c, span)


def plain(t: dict[str, Array], c: Config, X: Array) -> tuple[Array, Array, Array | None]:
    """X (B, L, d_spec) -> emotion (B, classes), gender (B, 0), a (B, 1, L) or None."""
    for layer in _dense_layers(c):
        X = np.maximum(X @ t[f"{layer}.W"] + t[f"{layer}.b"], 0)
    H = numpy_layers.blstm(t, "lstm", X)
    z, a = numpy_layers.local_attention(t, "attn", H) if c.attention else (H.mean(axis=1), None)
    return *numpy_layers.heads(t, z), a


def onnx_input(g: onnx_layers.Graph, c: Config) -> str:
    """The input "waveform" (1, samples) at 16 kHz -> X (L, d_spec), not normalised; of log-mel bands only."""
    return onnx_layers.log_mel_input(g, c)


def onnx(g: onnx_layers.Graph, t: dict[str, Array], c: Config, X: str, temperature: float) -> None:
    """X (L, d_spec) -> the outputs."""
    for layer in _dense_layers(c):
        X = g.op("Relu", g.op("Add", g.op("MatMul", X, t[f"{layer}.W"]), t[f"{layer}.b"]))
    H = g.op("Squeeze", onnx_layers.blstm(g, t, "lstm", g.op("Unsqueeze", X, [1])), [1])
    z, a = onnx_layers.local_attention(g, t, "attn", H) if c.attention else (onnx_layers.mean_over_time(g, H), None)
    onnx_layers.heads(g, t, z, temperature)
    if a is not None:
        g.output(g.op("Unsqueeze", a, [0]), "attention")


def heads_of_attention(c: Config) -> int:
    """One, or 0 where there is no attention."""
    return int(c.attention)


def samples_per_step(c: Any) -> int:
    """Samples at 16 kHz from one frame to the next."""
    return kind(c).hop


def spectrum(c: Any, x: Array) -> Array:
    """What npser explain shows of a window x (n,) at 16 kHz: log-mel bands (L, bands) dB."""
    return li2019.spectrum(c, x) if c.input == "log_mel" else features.log_mel(x)


def describe(c: Config) -> str:
    """The sizes, for npser info."""
    before = f"{c.n_dense} dense layers of {c.d_dense}, " if c.n_dense else ""
    return f"{before}2 x {c.d_lstm} LSTM units, {'local attention' if c.attention else 'mean over time in place of attention'}"


def describe_input(c: Any) -> str:
    """The features, for npser info."""
    if c.input == "log_mel":
        return li2019.describe_input(c)
    return "12 MFCC, log energy, log F0, voicing, zero crossings, and their deltas, every 10 ms"
