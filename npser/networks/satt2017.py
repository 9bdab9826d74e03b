"""CNN-BLSTM: convolutions over a picture of the spectrum, and a BLSTM. Satt, Rozenberg and Hoory, Interspeech 2017.

Its abstract says: spectrograms go straight into the network; utterances are cut into pieces of at most 3 s without overlap;
convolutions alone reach 66 % on four emotions, with an LSTM 68 %; a harmonic filter helps under noise. Its text was not to be
had. Remembered, and not checked: frames of 40 ms every 10 ms, bins of 20 Hz up to 4 kHz, the mean of the pieces' posteriors.
From a re-implementation: three convolutions of 16, 24 and 32 maps with windows of 12 x 16, 8 x 12 and 5 x 7, pooling by 2 x 2
after each, LSTM, a dense layer of 64, dropout of 0.2. Judgements here: which axis of a window is time; a BLSTM, of which the
last states count; Adam, its rate, batch, epochs; edges that are repeated, not zero; the natural length of short pieces
(networks.pieces), and the pieces of an utterance share its weight. Left out: the harmonic filter, and the second operating
point of the paper, where neutral is held back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from npser import config, features
from npser.features import N_MELS
from npser.networks import li2019, numpy_layers, pieces, spectrogram
from npser.networks.li2019 import Array, Grads, Shapes, Views
from npser.networks.pieces import loss  # noqa: F401 (that of its pieces)

Out = tuple[Array, Array]  # logits of all pieces (P, classes), the utterance of each (P,)

TITLE = "CNN-BLSTM (Satt et al., 2017)"
PUBLISHED = {"wa": 0.688, "ua": 0.594, "task": "as remembered, IEMOCAP, four classes without excited, improvised only"}
WINDOWS = ((12, 16), (8, 12), (5, 7))  # frames and bands of each convolution
POOL = 2  # frames, and bands


@dataclass(frozen=True)
class Config(config.Config):
    """Settings of a run with this network: those of every run, and its sizes."""

    network: str = "satt2017"
    d_spec: int = spectrogram.BINS
    max_seconds: float = 30.0
    pad: bool = False
    beta: float = 0.0
    dropout: float = 0.2
    epochs: int = 50
    batch: int = 16
    learning_rate: float = 1e-4
    input: str = "spectrum"  # or "log_mel": bands without deltas
    piece_seconds: float = 3.0
    d_conv1: int = 16  # maps of each convolution
    d_conv2: int = 24
    d_conv3: int = 32
    recurrence: bool = True  # False: mean over time in place of the BLSTM
    d_lstm: int = 128  # LSTM units of a direction
    d_dense: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        self.expect("d_conv1 d_conv2 d_conv3 d_lstm d_dense", lambda value: value >= 1, "at least 1")
        self.expect("piece_seconds", lambda value: 0.1 <= value <= config.LONGEST, f"0.1 to {config.LONGEST}")
        check_picture(self, spectrogram.BINS, POOL ** len(WINDOWS))


def check_picture(c: Any, bins: int, least: int) -> None:
    """ValueError for settings that a network on pictures, without a gender head, does not have. least: bands that it needs."""
    c.expect("input", ("spectrum", "log_mel").__contains__, "one of spectrum, log_mel")
    c.expect("beta", lambda value: value == 0, "0: this network has no gender head")
    c.expect("pad", lambda value: not value, "false: this network takes natural lengths")
    most = bins if c.input == "spectrum" else N_MELS
    c.expect("d_spec", lambda value: least <= value <= most, f"{least} to {most}: bands, without deltas")
    if c.input == "spectrum":
        c.expect("stretch warp splice channel", lambda value: value == 0, "0: a spectrum of even bins is not augmented")
        c.expect("level", lambda value: not value, "false where input is spectrum")


SAME_INPUT: dict[str, Any] = {**li2019.SAME_INPUT, "beta": 0.0, "input": "log_mel", "d_spec": 99, "max_seconds": 7.5}
PRESETS = {"published": Config(), "same-input": Config(**SAME_INPUT)}
ABLATION: dict[str, dict[str, Any]] = {"no-recurrence": {"recurrence": False}}
_TINY: dict[str, Any] = {"d_conv1": 2, "d_conv2": 3, "d_conv3": 2, "d_lstm": 3, "d_dense": 4, "d_spec": 9, "piece_seconds": 0.2}
SMALL = {
    "loss, CNN-BLSTM": Config(**_TINY),
    "loss, CNN alone": Config(**_TINY, recurrence=False),
}


def example(c: Config, bounds: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """A batch for npser gradcheck: each row eight times, as what is pooled thrice needs eight."""
    return rng.standard_normal((8 * bounds[-1], c.d_spec)), 8 * bounds


def kind(c: Any) -> features.Kind:
    """What the store keeps: spectra of even bins, or log-mel bands."""
    if c.input == "spectrum":
        return spectrogram.kind(c.max_seconds)
    return features.log_mel_kind(c.max_seconds, False, c.level)


def inputs(
    store: Any, window: Array, mean: Array, scale: Array, c: Any, ends: Array | None = None, rng: Any = None
) -> tuple[Array, Array]:
    """X (N, d_spec) and bounds of utterances for forward."""
    from npser.inputs import of_static_bands

    return of_static_bands(store, window, mean, scale, [slice(0, c.d_spec)], c, ends, rng)


def maps(c: Config) -> list[tuple[str, int, int]]:
    """Each convolution's name, its maps, and the channels that it sees."""
    channels = (1, c.d_conv1, c.d_conv2, c.d_conv3)
    return [(f"conv{k + 1}", channels[k + 1], channels[k]) for k in range(len(WINDOWS))]


def shapes(c: Config, emotions: int, genders: int) -> Shapes:
    """Name and shape of every parameter, in the order of theta."""
    found: Shapes = {}
    for (layer, K, C), window in zip(maps(c), WINDOWS, strict=True):
        found |= {f"{layer}.W": (C, *window, K), f"{layer}.b": (K,)}
    D, H = c.d_spec // POOL ** len(WINDOWS) * c.d_conv3, c.d_lstm
    if c.recurrence:
        for direction in ("fw", "bw"):
            found |= {f"lstm.W_{direction}": (D, 4 * H), f"lstm.R_{direction}": (H, 4 * H), f"lstm.b_{direction}": (4 * H,)}
        D = 2 * H
    found |= {"dense.W": (D, c.d_dense), "dense.b": (c.d_dense,)}
    return found | {"emotion.W": (c.d_dense, emotions), "emotion.b": (emotions,)}


def forward(
    p: Views, c: Config, X: Array, bounds: Array, rng: np.random.Generator | None = None
) -> tuple[Out, Callable[[Array], Grads]]:
    """Pictures to the logits of their pieces. X (N, d_spec) -> (logits (P, classes), the utterance of each), backward."""
    from npser.layers import blstm, conv2d, dense, dropout, last_states, leaky_relu, linear, maxpool2d, mean_over_time

    bounds, owner = pieces.cut(bounds, c.piece_seconds, kind(c).hop)
    H, behind = X, []
    for layer, K, _ in maps(c):
        H, bounds, b_conv = conv2d(H, bounds, p[layer]["W"], p[layer]["b"])
        H, bounds, b_pool = maxpool2d(H, bounds, K, POOL, POOL)
        H, b_relu = leaky_relu(H)  # of the largest is the largest of all, and there are a quarter as many
        behind.append((layer, b_conv, b_relu, b_pool))
    H, b_lstm = blstm(H, bounds, **p["lstm"]) if c.recurrence else (H, None)
    z, b_end = last_states(H, bounds) if c.recurrence else mean_over_time(H, bounds)
    z, b_dense = dense(z, **p["dense"], activation="relu")
    z, b_drop = dropout(z, c.dropout, rng)
    logits, b_emotion = linear(z, **p["emotion"])

    def backward(dlogits: Array) -> Grads:
        g: Grads = {}
        dz, *g["emotion"] = b_emotion(dlogits)
        dz, *g["dense"] = b_dense(*b_drop(dz))
        (dH,) = b_end(dz)
        if b_lstm is not None:
            dH, *g["lstm"] = b_lstm(dH)
        for layer, b_conv, b_relu, b_pool in reversed(behind):
            dH, *g[layer] = b_conv(*b_pool(*b_relu(dH)), need_dX=layer != "conv1")
        return g

    return (logits, owner), backward


def decide(_: Views, c: Config, out: Out) -> tuple[Array, None]:
    """Logits of the utterances, (B, classes): the mean log-probability of their pieces."""
    return pieces.mean_log_probability(*out), None


def plain_input(c: Any, span: features.Span) -> list[Array]:
    """Windows at 16 kHz -> bands of each, (L, d_spec), not normalised."""
    if c.input == "log_mel":
        return numpy_layers.static_input(c, span)
    return [S[:, : c.d_spec] for S in kind(c).of(span)]


def plain(t: dict[str, Array], c: Config, X: Array) -> tuple[Array, Array, None]:
    """X (B, L, d_spec) -> emotion (B, classes), gender (B, 0), no attention."""
    out = pieces.answers(X, c.piece_seconds, kind(c).hop, lambda piece: _plain_piece(t, c, piece))
    return pieces.mean_log_probability(*out), np.empty((len(X), 0), np.float32), None


def _plain_piece(t: dict[str, Array], c: Config, X: Array) -> Array:
    """X (B, L, d_spec) -> logits of one piece of each window, (B, classes)."""
    H = X[..., None]
    for layer, _, _ in maps(c):
        H = numpy_layers.maxpool2d(np.maximum(numpy_layers.conv2d(t, layer, H), 0), POOL, POOL)
    H = H.reshape(*H.shape[:2], H.shape[2] * H.shape[3])
    if c.recurrence:
        H = numpy_layers.blstm(t, "lstm", H)
        ends = [H[:, -1:, : c.d_lstm].sum(axis=1), H[:, :1, c.d_lstm :].sum(axis=1)]  # of no frames, 0
        z = np.concatenate(ends, axis=1)
    else:
        z = H.sum(axis=1) / np.float32(max(H.shape[1], 1))
    return numpy_layers.linear(t, "emotion", np.maximum(numpy_layers.linear(t, "dense", z), 0))


def heads_of_attention(c: Any) -> int:
    """There is no attention."""
    return 0


def samples_per_step(c: Any) -> int:
    """Samples at 16 kHz from one row to the next."""
    return kind(c).hop


def spectrum(c: Any, x: Array) -> Array:
    """What npser explain shows of a window x (n,) at 16 kHz: log-mel bands (L, bands) dB."""
    S = features.log_mel(x, level=c.level)
    return S if c.input == "spectrum" else features.heard_bands(S, c.d_spec, c.level)


def describe(c: Config) -> str:
    """The sizes, for npser info."""
    ends = f"2 x {c.d_lstm} LSTM units" if c.recurrence else "mean over time in place of recurrence"
    return f"pieces of {c.piece_seconds:g} s, {c.d_conv1}, {c.d_conv2} and {c.d_conv3} maps, {ends}, {c.d_dense} dense units"


def describe_input(c: Any) -> str:
    """The picture, for npser info."""
    if c.input == "spectrum":
        return f"spectrum up to {c.d_spec * spectrogram.BIN_HZ} Hz, every 10 ms"
    return f"the lowest {c.d_spec} of {N_MELS} bands" if c.d_spec < N_MELS else f"{N_MELS} bands"
