"""3-D ACRNN: a convolution over bands and their slopes, a BLSTM, local attention. Chen, He, Yang and Zhang, 2018.

3-D convolutional recurrent neural networks with attention model for speech emotion recognition, IEEE Signal Processing Letters
25(10). The paper says: waveforms of mean 0 and variance 1; 40 log-mel bands of 25 ms every 10 ms, their deltas and
delta-deltas as three channels; pieces of 3 s, each of which is an example, and the largest posterior of an utterance's pieces;
convolutions with windows of 5 frames by 3 bands, of 128 maps and then 256; max pooling after the first; a linear layer of 768;
a BLSTM of 128; weights softmax(u . h); a dense layer of 64 under batch normalisation; Adam at 1e-4 in batches of 40. Its code
pools by 2 x 4, where the paper says 2 x 2, and leaks below 0. One to seven convolutions did as well as each other: here is one.
Judgements: pooling and leak as in the code; the number of epochs; short pieces have their natural length (networks.pieces); no
bias under the batch normalisation; a tenth of the running statistics is renewed at each step; a mini-batch is of utterances,
whose pieces share their weight.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from npser import config, features
from npser.features import N_MELS
from npser.networks import li2019, numpy_layers, pieces, spectrogram, whole_batch
from npser.networks.li2019 import Array, Grads, Shapes, Views
from npser.networks.pieces import loss  # noqa: F401 (that of its pieces)

Out = tuple[Array, Array]  # logits of all pieces (P, classes), the utterance of each (P,)

TITLE = "3-D ACRNN (Chen et al., 2018)"
PUBLISHED = {"ua": 0.6474, "task": "IEMOCAP, four classes without excited, improvised only, one speaker out"}
WINDOW = (5, 3)  # frames and bands
POOL = (2, 4)
SLOPE = 0.01  # below 0


@dataclass(frozen=True)
class Config(config.Config):
    """Settings of a run with this network: those of every run, and its sizes."""

    network: str = "chen2018"
    d_spec: int = 3 * spectrogram.BANDS
    max_seconds: float = 30.0
    pad: bool = False
    beta: float = 0.0
    dropout: float = 0.0
    epochs: int = 40
    batch: int = 40
    learning_rate: float = 1e-4
    input: str = "mel"  # 40 bands every 10 ms; or "log_mel": those of the other networks
    piece_seconds: float = 3.0
    slopes: bool = True  # False: bands alone, without deltas; the paper's 2-D
    d_conv: int = 128  # maps
    d_linear: int = 768
    d_lstm: int = 128  # LSTM units of a direction
    attention: bool = True  # False: mean over time
    d_dense: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        self.expect("d_conv d_linear d_lstm d_dense", lambda value: value >= 1, "at least 1")
        self.expect("piece_seconds", lambda value: 0.1 <= value <= config.LONGEST, f"0.1 to {config.LONGEST}")
        self.expect("input", ("mel", "log_mel").__contains__, "one of mel, log_mel")
        self.expect("beta", lambda value: value == 0, "0: this network has no gender head")
        self.expect("pad", lambda value: not value, "false: this network takes natural lengths")
        if self.input == "mel":
            most = 3 * spectrogram.BANDS
            self.expect("d_spec", lambda value: value == most, f"{most}: bands, deltas, delta-deltas")
            self.expect("stretch warp splice channel", lambda value: value == 0, "0: these bands are not augmented")
            self.expect("level", lambda value: not value, "false where input is mel: these bands are of one level")
        else:
            li2019.check_bands(self)
            self.expect("d_spec", lambda value: value >= 3 * POOL[1], f"at least {3 * POOL[1]}: what is pooled by {POOL[1]}")


PRESETS = {"published": Config(), "same-input": Config(**li2019.SAME_INPUT | {"beta": 0.0, "input": "log_mel"})}
ABLATION: dict[str, dict[str, Any]] = {"no-slopes": {"slopes": False}, "no-local-attention": {"attention": False}}
_TINY: dict[str, Any] = {"d_conv": 3, "d_linear": 5, "d_lstm": 3, "d_dense": 4, "input": "log_mel", "d_spec": 24}
SMALL = {
    "loss, 3-D ACRNN": Config(**_TINY, piece_seconds=0.1),
    "loss, 2-D, mean": Config(**_TINY, piece_seconds=0.1, slopes=False, attention=False),
}


def kind(c: Any) -> features.Kind:
    """What the store keeps: mel bands of this network, or those of the others."""
    return spectrogram.mel_kind(c.max_seconds) if c.input == "mel" else features.log_mel_kind(c.max_seconds, False, c.level)


def inputs(
    store: Any, window: Array, mean: Array, scale: Array, c: Config, ends: Array | None = None, rng: Any = None
) -> tuple[Array, Array]:
    """X (N, d_spec): bands | deltas | delta-deltas, and bounds of utterances for forward."""
    from npser.inputs import of_bands

    if c.input == "log_mel":
        return of_bands(store, window, mean, scale, c, ends, rng)[:2]
    parts = [spectrogram.with_slopes(store.rows[store.bounds[w] : store.bounds[w + 1]]) for w in window]
    return (np.concatenate(parts) - mean) * scale, np.cumsum([0, *map(len, parts)])


def shapes(c: Config, emotions: int, genders: int) -> Shapes:
    """Name and shape of every parameter, in the order of theta."""
    bands, H = c.d_spec // 3, c.d_lstm
    found: Shapes = {"conv.W": (3 if c.slopes else 1, *WINDOW, c.d_conv), "conv.b": (c.d_conv,)}
    found |= {"linear.W": (bands // POOL[1] * c.d_conv, c.d_linear), "linear.b": (c.d_linear,)}
    for direction in ("fw", "bw"):
        found |= {f"lstm.W_{direction}": (c.d_linear, 4 * H), f"lstm.R_{direction}": (H, 4 * H)}
        found |= {f"lstm.b_{direction}": (4 * H,)}
    found |= {"attn.u": (2 * H,)} if c.attention else {}
    found |= {"dense.W": (2 * H, c.d_dense), "batch.gamma": (c.d_dense,), "batch.b": (c.d_dense,)}
    return found | {"emotion.W": (c.d_dense, emotions), "emotion.b": (emotions,)}


def state(c: Config, emotions: int, genders: int) -> dict[str, Array]:
    """The running statistics of the batch normalisation."""
    return whole_batch.state(c.d_dense)


def pretrain(network: Any, data: Any, train: Array, run: Any) -> Array:
    """theta as the engine starts it, but for gamma, which is 1."""
    network.p["batch"]["gamma"][:] = 1  # a view of theta
    return network.theta


def body(p: Views, c: Config, X: Array, bounds: Array) -> tuple[Array, Array, Callable[[Array], Grads]]:
    """What there is of every piece before the batch is normalised: z (P, 2 d_lstm), the utterance of each, backward."""
    from npser.layers import blstm, conv2d, leaky_relu, linear, local_attention, maxpool2d, mean_over_time  # late: Numba

    bounds, owner = pieces.cut(bounds, c.piece_seconds, kind(c).hop)
    H, bounds, b_conv = conv2d(picture(c, X), bounds, p["conv"]["W"], p["conv"]["b"])
    H, bounds, b_pool = maxpool2d(H, bounds, c.d_conv, *POOL)
    H, b_leaky = leaky_relu(H, SLOPE)  # of the largest is the largest of all, and there are an eighth as many
    H, b_linear = linear(H, **p["linear"])
    H, b_lstm = blstm(H, bounds, **p["lstm"])
    z, b_attn = local_attention(H, bounds, **p["attn"]) if c.attention else mean_over_time(H, bounds)

    def backward(dz: Array) -> Grads:
        g: Grads = {}
        dH, *g["attn"] = b_attn(dz)
        dH, *g["lstm"] = b_lstm(dH)
        dH, *g["linear"] = b_linear(dH)
        _, *g["conv"] = b_conv(*b_pool(*b_leaky(dH)), need_dX=False)
        return g

    return z, owner, backward


def picture(c: Config, X: Array) -> Array:
    """X (N, d_spec): bands | deltas | delta-deltas -> (N, bands channels), the channels of a band side by side."""
    channels = X.reshape(len(X), 3, -1).transpose(0, 2, 1)
    return np.ascontiguousarray(channels if c.slopes else channels[:, :, :1]).reshape(len(X), -1)


def head(
    p: Views, c: Config, z: Array, held: Any, rng: Any = None
) -> tuple[Array, Any, Callable[[Array], tuple[Array, Grads]]]:
    """From z (P, 2 d_lstm) to logits (P, classes), with the statistics of these pieces or those held; they come second."""
    from npser.layers import batch_norm, dropout, leaky_relu, linear

    d, b_dense = linear(z, p["dense"]["W"], np.zeros(c.d_dense, z.dtype))
    d, statistics, b_batch = batch_norm(d, p["batch"]["gamma"], p["batch"]["b"], held, whole_batch.EPSILON)
    d, b_leaky = leaky_relu(d, SLOPE)
    d, b_drop = dropout(d, c.dropout, rng)
    logits, b_emotion = linear(d, **p["emotion"])

    def backward(dlogits: Array) -> tuple[Array, Grads]:
        g: Grads = {}
        dd, *g["emotion"] = b_emotion(dlogits)
        dd, *g["batch"] = b_batch(*b_leaky(*b_drop(dd)))
        dz, dW, _ = b_dense(dd)
        return dz, {**g, "dense": [dW]}

    return logits, statistics, backward


def forward(p: Views, c: Config, X: Array, bounds: Array, rng: Any = None) -> tuple[Out, Callable[[Array], Grads]]:
    """Bands to logits of pieces, once trained. X (N, d_spec) -> (logits (P, classes), the utterance of each (P,)), backward."""
    return whole_batch.forward(p, c, (X, bounds), body, head, rng)


def gradient(p: Views, c: Config, shards: list[Any], pool: ThreadPoolExecutor) -> tuple[float, Grads, dict[str, Array]]:
    """Loss and gradients of a mini-batch, whose pieces are normalised together; and the running statistics after it."""
    return whole_batch.gradient(p, c, shards, pool, body, head)


def decide(_: Views, c: Config, out: Out) -> tuple[Array, None]:
    """Logits of the utterances, (B, classes): the largest probability that a piece gives each class."""
    return pieces.largest_probability(*out), None


def plain_input(c: Any, span: features.Span) -> list[Array]:
    """Windows at 16 kHz -> bands, deltas, delta-deltas of each, (L, d_spec), not normalised."""
    if c.input == "log_mel":
        return numpy_layers.log_mel_input(c, span)
    return [spectrogram.with_slopes(S) for S in kind(c).of(span)]


def plain(t: dict[str, Array], c: Config, X: Array) -> tuple[Array, Array, None]:
    """X (B, L, d_spec) -> emotion (B, classes), gender (B, 0); of the weights of several pieces none is shown."""
    out = pieces.answers(X, c.piece_seconds, kind(c).hop, lambda piece: _plain_piece(t, c, piece))
    return pieces.largest_probability(*out), np.empty((len(X), 0), np.float32), None


def _plain_piece(t: dict[str, Array], c: Config, X: Array) -> Array:
    """X (B, L, d_spec) -> logits of one piece of each window, (B, classes)."""
    B, L, _ = X.shape
    H = picture(c, X.reshape(B * L, -1)).reshape(B, L, c.d_spec // 3, -1)
    H = numpy_layers.conv2d(t, "conv", H)
    H = numpy_layers.maxpool2d(np.where(H > 0, H, np.float32(SLOPE) * H), *POOL)
    H = H.reshape(*H.shape[:2], H.shape[2] * H.shape[3]) @ t["linear.W"] + t["linear.b"]
    H = numpy_layers.blstm(t, "lstm", H)
    if H.shape[1] == 0:
        z = np.zeros((B, H.shape[2]), H.dtype)
    else:
        z = numpy_layers.local_attention(t, "attn", H)[0] if c.attention else H.mean(axis=1)
    z = (z[:, None] @ t["dense.W"])[:, 0]  # row by row, as numpy_layers.linear
    d = (z - t["running.mean"]) / np.sqrt(t["running.variance"] + np.float32(whole_batch.EPSILON))
    d = t["batch.gamma"] * d + t["batch.b"]
    return numpy_layers.linear(t, "emotion", np.where(d > 0, d, np.float32(SLOPE) * d))


def heads_of_attention(c: Any) -> int:
    """None that is shown: each piece has weights of its own."""
    return 0


def samples_per_step(c: Any) -> int:
    """Samples at 16 kHz from one row to the next."""
    return kind(c).hop


def spectrum(c: Any, x: Array) -> Array:
    """What npser explain shows of a window x (n,) at 16 kHz: log-mel bands (L, bands) dB."""
    return li2019.spectrum(c, x) if c.input == "log_mel" else features.log_mel(x)


def describe(c: Config) -> str:
    """The sizes, for npser info."""
    ends = "local attention" if c.attention else "mean over time"
    return f"pieces of {c.piece_seconds:g} s, {c.d_conv} maps, 2 x {c.d_lstm} LSTM units, {ends}, {c.d_dense} normalised units"


def describe_input(c: Any) -> str:
    """The bands, for npser info."""
    slopes = "and their slopes" if c.slopes else "without slopes"
    bands = f"{spectrogram.BANDS} bands every 10 ms" if c.input == "mel" else f"the lowest {c.d_spec // 3} of {N_MELS} bands"
    return f"{bands}, {slopes}"
