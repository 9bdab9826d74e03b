"""The paper's network: two convolutions, pooling, two BLSTM layers, self attention, a head for the emotion and one for gender.

Li, Zhao and Kawahara, Interspeech 2019: sections 4.1 to 4.3, equations (1)-(10), Table 1. Stated three times: ``forward`` for
training, with its backward pass; ``plain`` for windows of one length, in NumPy; ``onnx`` as a graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from npser import config, features
from npser.features import HOP, N_MELS
from npser.networks import numpy_layers, onnx_layers, statistics

Array = np.ndarray
Shapes = dict[str, tuple[int, ...]]
Views = dict[str, dict[str, Array]]
Logits = tuple[Array, Array | None]
Out = tuple[Array, Array | None, Array, Array]  # logits of emotion and gender, and X and bounds
Grads = dict[str, list[Array]]

TITLE = "Self attention + multitask (Li et al., 2019)"
PUBLISHED = {"wa": 0.816, "ua": 0.828, "task": "IEMOCAP, four classes with excited as happy, 5531 utterances, gender labels"}

SIZES = {  # that a page is told
    "share": statistics.SHARE,
    "lowest": statistics.LOWEST,
    "present": statistics.PRESENT,
    "familiar": statistics.FAMILIAR,
}
CONTEXT = 4  # frames on each side of one that its deltas are made of


@dataclass(frozen=True)
class Config(config.Config):
    """Settings of a run with this network: those of every run, and the sizes of Table 1."""

    network: str = "li2019"
    d_cnn: int = 64  # convolution filters
    d_lstm: int = 60  # LSTM units of a direction
    d_attn: int = 512  # hidden size of the attention
    n_cw: int = 3  # convolution window
    n_pw: int = 3  # pooling window
    n_attn: int = 8  # attention heads
    speech: bool = False  # hear nothing but speech: pauses are cut out, see npser.speech
    attention: bool = True  # False: mean over time instead of equations (5)-(9)
    statistics: bool = False  # logistic regression on statistics of the bands beside it, see networks.statistics

    def __post_init__(self) -> None:
        super().__post_init__()
        self.expect("d_lstm", lambda value: value >= 1, "at least 1")
        check(self)


def check(c: Any) -> None:
    """ValueError for sizes of the input, the convolutions, the pooling or the attention that make no sense."""
    c.expect("d_cnn d_attn n_cw n_pw n_attn", lambda value: value >= 1, "at least 1")
    c.expect("n_cw", lambda value: value % 2 == 1, "an odd window")
    c.expect("speech", lambda value: not value or (c.level and not c.pad), "false, or level = true and pad = false with it")
    c.expect("statistics", lambda value: not (value and c.pad), "false, or pad = false with it")
    check_bands(c)


def check_bands(c: Any) -> None:
    """ValueError for a width of the input that log-mel bands cannot have."""
    words = f"a multiple of 3, at most {3 * N_MELS}: bands, deltas, delta-deltas"
    c.expect("d_spec", lambda value: value % 3 == 0 and value <= 3 * N_MELS, words)


SAME_INPUT = {  # what examples/recipe.md keeps, and the other networks' same-input presets have in common
    "d_spec": 297,
    "pad": False,
    "level": True,
    "stretch": 0.15,
    "warp": 0.12,
    "splice": 0.5,
    "channel": 0.3,
    "epochs": 40,
    "batch": 16,
    "learning_rate": 1e-3,
    "schedule": "cosine",
    "warmup": 3.0,
    "select": "last",
}
DEFAULT = {**SAME_INPUT, "speech": True, "adapt": True, "channel": 0.5, "statistics": True}
PRESETS = {  # the first is taken where none is named
    "default": Config(**DEFAULT),
    "paper": Config(),
    "same-input": Config(**SAME_INPUT),  # pauses are heard
}
ABLATION: dict[str, dict[str, Any]] = {"no-attention": {"attention": False}, "no-recurrence": {"network": "li2019_feedforward"}}
_TINY: dict[str, Any] = {"d_spec": 9, "d_cnn": 5, "d_lstm": 4, "d_attn": 6, "n_attn": 2}
SMALL = {  # for npser gradcheck
    "loss": Config(**_TINY, pad=False),
    "loss, no attention": Config(**_TINY, pad=False, attention=False),
    "loss, padded": Config(**_TINY),
}


def example(c: config.Config, bounds: Array, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """A batch for npser gradcheck; where the network pads, the last pooled rows stand for 9 frames more."""
    frames = np.diff(bounds) + (9 if c.pad else 0)
    return rng.standard_normal((bounds[-1], c.d_spec)), bounds, frames


def kind(c: Any) -> features.Kind:
    """What the store keeps: log-mel bands."""
    return features.log_mel_kind(c.max_seconds, c.pad, c.level, c.speech)


def inputs(
    store: Any, window: Array, mean: Array, scale: Array, c: Any, ends: Array | None = None, rng: Any = None
) -> tuple[Array, Array, Array]:
    """X (N, d_spec), bounds and frames for forward: see npser.inputs.of_bands. Of the padding only the rows that differ."""
    from npser.inputs import of_bands

    rows = (lambda stored, frames: distinct_rows(stored, frames, c)) if c.pad else None
    return of_bands(store, window, mean, scale, c, ends, rng, rows)


def distinct_rows(stored: Array, frames: Array, c: Any) -> Array:
    """Rows of zero-padded utterances that the network needs to see, (B,), of stored (B,) rows padded to frames (B,).

    After the sound, rows are all the same: those of X from four frames (of the deltas) after the last stored row on, those of
    a convolution from half a window further on. So the last of the rows returned here, a whole pooling window of such rows,
    stands for all that follow.
    """
    same = stored + CONTEXT + 2 * (c.n_cw // 2)
    rows = (-(-same // c.n_pw) + 1) * c.n_pw
    return np.where(rows <= frames - CONTEXT - 1, rows, frames)  # the last four frames take their deltas from the fifth last


def shapes(c: Config, emotions: int, genders: int) -> Shapes:
    """Name and shape of every parameter, in the order of theta. genders 0: a network without the gender head."""
    H, D = c.d_lstm, 2 * c.d_lstm
    found = convolution_shapes(c)
    for layer, d_in in (("lstm1", c.d_cnn), ("lstm2", D)):
        for direction in ("fw", "bw"):
            found |= {f"{layer}.W_{direction}": (d_in, 4 * H), f"{layer}.R_{direction}": (H, 4 * H)}
            found |= {f"{layer}.b_{direction}": (4 * H,)}
    return found | attention_and_head_shapes(c, D, emotions, genders)


def convolution_shapes(c: Any) -> Shapes:
    """cnn1 and cnn2."""
    first, second = (c.d_spec, c.n_cw, c.d_cnn), (c.d_cnn, c.n_cw, c.d_cnn)
    return {"cnn1.W": first, "cnn1.b": (c.d_cnn,), "cnn2.W": second, "cnn2.b": (c.d_cnn,)}


def attention_and_head_shapes(c: Any, D: int, emotions: int, genders: int) -> Shapes:
    """attn, emotion and gender, over rows of D units."""
    found: Shapes = {"attn.W_s1": (D, c.d_attn), "attn.w_s2": (c.d_attn, c.n_attn)} if c.attention else {}
    d_z = c.n_attn * D if c.attention else D
    for head, classes in (("emotion", emotions), ("gender", genders)):
        if classes:
            found |= {f"{head}.W": (d_z, classes), f"{head}.b": (classes,)}
    return found


def state(c: Any, emotions: int, genders: int) -> dict[str, Array]:
    """The regression on statistics before it is solved, where there is one."""
    found = statistics.start(c.d_spec // 3, emotions) if c.statistics else {}
    return {f"statistics.{name}": value for name, value in found.items()}


def draws(c: Any, utterances: int) -> int:
    """Epochs whose input the regression on statistics is solved by, where there is one."""
    return max(1, min(statistics.DRAWS, statistics.MOST // utterances)) if c.statistics else 0


def evidence_of_input(c: Any, X: Array, bounds: Array, frames: Array | None = None) -> Array:
    """The statistics of the bands. X (N, d_spec) -> (B, d_spec)."""
    return statistics.of_utterances(X[:, : c.d_spec // 3], bounds)


def solve_first(c: Any, evidence: Array, y: Array, weight: Array, classes: int) -> dict[str, Array]:
    """The regression on statistics, solved. evidence (n, d_spec), classes y and weights (n,)."""
    return {f"statistics.{name}": value for name, value in statistics.solve(evidence, y, weight, classes).items()}


def familiar(c: Any, tensors: dict[str, Array], own_share: Array) -> dict[str, Array]:
    """Those of the tensors that are others for a voice that is known: see statistics.familiar."""
    if not c.statistics:
        return {}
    W, b = statistics.familiar(tensors["statistics.W"], tensors["statistics.b"], own_share)
    return {"statistics.W": W, "statistics.b": b}


def forward(
    p: Views, c: Config, X: Array, bounds: Array, frames: Array | None = None, rng: np.random.Generator | None = None
) -> tuple[Out, Callable[..., Grads]]:
    """Features to logits. X (N, d_spec) -> (emotion (B, classes), gender (B, 2) or None, X and its bounds), backward.

    ``backward(demotion, dgender)`` returns the gradients by layer. Dropout acts when rng is given. frames (B,): where X holds
    distinct_rows only, how many rows there would be of each utterance.
    """
    from npser.layers import attention, blstm, conv1d, dropout, extend, maxpool, mean_over_time  # late: they import Numba

    frames, utterances = np.diff(bounds) if frames is None else frames, bounds
    H, b_cnn1 = conv1d(X, bounds, **p["cnn1"])  # (1)-(3)
    H, b_cnn2 = conv1d(H, bounds, **p["cnn2"])
    H, bounds, b_pool = maxpool(H, bounds, c.n_pw)  # (4)
    H, bounds, b_extend = extend(H, bounds, frames // c.n_pw)
    H, b_lstm1 = blstm(H, bounds, **p["lstm1"])  # 4.2.2
    H, b_drop1 = dropout(H, c.dropout, rng)
    H, b_lstm2 = blstm(H, bounds, **p["lstm2"])
    H, b_drop2 = dropout(H, c.dropout, rng)
    z, b_attn = attention(H, bounds, **p["attn"]) if c.attention else mean_over_time(H, bounds)  # (5)-(9)
    logits, b_heads = heads(p, z)  # 4.3

    def backward(demotion: Array, dgender: Array | None) -> Grads:
        g: Grads = {}
        dz, g["emotion"], g["gender"] = b_heads(demotion, dgender)
        dH, *g["attn"] = b_attn(dz)
        dH, *g["lstm2"] = b_lstm2(*b_drop2(dH))
        dH, *g["lstm1"] = b_lstm1(*b_drop1(dH))
        dH, *g["cnn2"] = b_cnn2(*b_pool(*b_extend(dH)))
        _, *g["cnn1"] = b_cnn1(dH, need_dX=False)
        return g

    return (*logits, X, utterances), backward


def heads(p: Views, z: Array) -> tuple[Logits, Callable[[Array, Array | None], tuple[Array, list[Array], list[Array]]]]:
    """Section 4.3. z (B, d_z) -> logits, emotion (B, classes) and gender (B, 2) or None; backward -> dz and both gradients."""
    from npser.layers import linear

    emotion, b_emotion = linear(z, **p["emotion"])
    gender, b_gender = linear(z, **p["gender"]) if "gender" in p else (None, None)

    def backward(demotion: Array, dgender: Array | None) -> tuple[Array, list[Array], list[Array]]:
        dz, *g_emotion = b_emotion(demotion)
        if b_gender is None:
            return dz, g_emotion, []
        dz_gender, *g_gender = b_gender(dgender)
        return dz + dz_gender, g_emotion, g_gender

    return (emotion, gender), backward


def loss(c: config.Config, out: Any, y: Any) -> tuple[float, Logits]:
    """Equation (10) and its gradients by the logits, of emotion and gender. y: see network.Targets."""
    from npser.layers import cross_entropy

    emotion, gender, *_ = out
    L_emotion, demotion = cross_entropy(emotion, y.emotion, y.emotion_weight)
    if gender is None:
        return c.alpha * L_emotion, (c.alpha * demotion, None)
    L_gender, dgender = cross_entropy(gender, y.gender, y.gender_weight)
    return c.alpha * L_emotion + c.beta * L_gender, (c.alpha * demotion, c.beta * dgender)  # (10)


def decide(p: Views, c: Any, out: Out) -> Logits:
    """The logits of each utterance: the network's, or those of both where there is the regression on statistics."""
    emotion, gender, X, bounds = out
    if c.statistics:
        emotion = statistics.added(emotion, evidence_of_input(c, X, bounds), **p["statistics"])
    return emotion, gender


def plain_input(c: config.Config, span: features.Span) -> list[Array]:
    """Windows at 16 kHz -> bands, deltas, delta-deltas of each, (L, d_spec), not normalised."""
    return numpy_layers.log_mel_input(c, span)


def plain_of_bands(c: config.Config, S: Array) -> Array:
    """The same from the bands of a window, (L, 128) dB."""
    return numpy_layers.bands_input(c, S)


def plain(t: dict[str, Array], c: Config, X: Array) -> tuple[Array, Array, Array | None]:
    """Equations (1)-(9). X (B, L, d_spec) -> emotion (B, classes), gender (B, 2) or (B, 0), a (B, n_attn, T) or None."""
    H = numpy_layers.conv1d(t, "cnn2", numpy_layers.conv1d(t, "cnn1", X))  # (1)-(3)
    H = numpy_layers.maxpool(H, c.n_pw)  # (4)
    H = numpy_layers.blstm(t, "lstm2", numpy_layers.blstm(t, "lstm1", H))  # 4.2.2
    return plain_end(t, c, H, X)


def plain_end(t: dict[str, Array], c: Any, H: Array, X: Array) -> tuple[Array, Array, Array | None]:
    """From rows H (B, T, D), and the input X (B, L, d_spec), to the logits and the attention."""
    if c.attention:
        z, a = numpy_layers.attention(t, "attn", H)  # (5)-(9)
    else:
        z, a = H.sum(axis=1) / np.float32(max(H.shape[1], 1)), None
    emotion, gender = numpy_layers.heads(t, z)  # 4.3
    if c.statistics:
        Z = statistics.of_windows(X[:, :, : c.d_spec // 3])
        emotion = statistics.added(emotion, Z, t["statistics.W"], t["statistics.b"])
    return emotion, gender, a


def onnx_input(g: onnx_layers.Graph, c: config.Config) -> str:
    """The input "waveform" (1, samples) at 16 kHz -> X (L, d_spec), not normalised."""
    return onnx_layers.log_mel_input(g, c)


def onnx(g: onnx_layers.Graph, t: dict[str, Array], c: Config, X: str, temperature: float) -> None:
    """Equations (1)-(9): X (L, d_spec) -> the outputs."""
    H = g.op("Unsqueeze", g.op("Transpose", X, perm=[1, 0]), [0])
    H = onnx_layers.conv1d(g, t, "cnn2", onnx_layers.conv1d(g, t, "cnn1", H))  # (1)-(3)
    H = onnx_layers.maxpool(g, H, c.d_cnn, c.n_pw)  # (4)
    H = onnx_layers.blstm(g, t, "lstm2", onnx_layers.blstm(g, t, "lstm1", H))  # 4.2.2
    onnx_end(g, t, c, H, X, temperature)


def onnx_end(g: onnx_layers.Graph, t: dict[str, Array], c: Any, H: str, X: str, temperature: float) -> None:
    """From rows H (T, 1, D), and the input X (L, d_spec), to the outputs."""
    H = g.op("Squeeze", H, [1])
    z, a = onnx_layers.attention(g, t, "attn", H) if c.attention else (onnx_layers.mean_over_time(g, H), None)  # (5)-(9)
    also = None
    if c.statistics:
        Z = onnx_layers.statistics(g, X, c.d_spec // 3)
        others = g.op("Add", g.op("MatMul", Z, t["statistics.W"]), t["statistics.b"])
        also = onnx_layers.share_of_statistics(g, Z, c.d_spec // 3), others
    onnx_layers.heads(g, t, z, temperature, also)  # 4.3
    if a is not None:
        g.output(g.op("Unsqueeze", a, [0]), "attention")


def heads_of_attention(c: Any) -> int:
    """Attention heads; 0 where there is no attention."""
    return c.n_attn if c.attention else 0


def samples_per_step(c: Any) -> int:
    """Samples at 16 kHz from one step of the attention to the next."""
    return c.n_pw * HOP


def spectrum(c: config.Config, x: Array) -> Array:
    """What npser explain shows of a window x (n,) at 16 kHz: the bands that the network uses, (L, bands) dB."""
    return features.heard_bands(features.log_mel(x, level=c.level, floor=features.floor_of(c)), c.d_spec // 3, c.level)


def describe(c: Config) -> str:
    """The sizes, for npser info."""
    return f"{c.d_cnn} filters, 2 x {c.d_lstm} LSTM units, {describe_end(c)}"


def describe_end(c: Any) -> str:
    attention = f"{c.n_attn} attention heads" if c.attention else "mean over time in place of attention"
    return attention + (", beside it logistic regression on statistics of the bands" if c.statistics else "")


def describe_input(c: config.Config) -> str:
    """The bands, for npser info."""
    bands = c.d_spec // 3
    parts = ["speech alone, pauses cut out"] if getattr(c, "speech", False) else []
    return ", ".join([*parts, *([f"the lowest {bands} of {N_MELS} bands"] if bands < N_MELS else [])])


def flops(c: Config, rows: Array, frames: Array, training: bool) -> float:
    """Floating-point operations of the matrix products, the recurrent ones included, forward or forward and backward.

    rows (B,): that the convolutions see; frames (B,): that the recurrence runs over, before pooling. Each product has two
    more in the backward pass, but the first layer needs no gradient of its input.
    """
    N, T, D = rows.sum(), (frames // c.n_pw).sum(), 2 * c.d_lstm
    first = N * c.d_spec * c.n_cw * c.d_cnn
    second = N * c.d_cnn * c.n_cw * c.d_cnn
    lstm = T * (c.d_cnn + D) * 4 * D + 2 * T * D * 4 * c.d_lstm
    attention = T * (D + c.n_attn) * c.d_attn
    rest = second + lstm + attention
    return float(2 * (2 * first + 3 * rest if training else first + rest))
