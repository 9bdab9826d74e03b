"""Layers and input of networks in ONNX's operators: what a network's ``onnx`` is made of.

The same equations as npser.layers and npser.inputs, written once more; tests hold one against the other. The graph is for one
utterance and any number of frames. t: tensors by name; values in the graph are the names of its tensors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from npser import features
from npser.config import Config
from npser.features import FLOOR_DB, HOP, N_FFT, N_MELS
from npser.networks.statistics import LOWEST, PRESENT, SHARE

Array = np.ndarray
Tensors = dict[str, Array]


class Graph:
    """Nodes and constants of a graph in the making. Names of values are strings, as in ONNX."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[Any, Any] = {}

    def op(self, kind: str, *inputs: ArrayLike, **attributes: Any) -> str:
        """Add an operator; arrays and integers among its inputs become constants. Returns the name of its first output."""
        from onnx import helper

        names = [value if isinstance(value, str) else self.constant(np.asarray(value)) for value in inputs]
        out = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [out], name=out, **attributes))
        return out

    def constant(self, value: Array) -> str:
        """The name of a constant; one that occurs again is stored once."""
        from onnx import numpy_helper

        key = value.dtype, value.shape, value.tobytes()
        if key not in self.constants:
            self.constants[key] = numpy_helper.from_array(np.ascontiguousarray(value), f"constant_{len(self.constants)}")
        return self.constants[key].name

    def output(self, value: str, name: str) -> None:
        """Give a value the name of an output."""
        from onnx import helper

        self.nodes.append(helper.make_node("Identity", [value], [name], name=name))


def log_mel_input(g: Graph, c: Config) -> str:
    """The input "waveform" (1, samples) at 16 kHz -> bands, deltas, delta-deltas (L, d_spec)."""
    return _deltas(g, _heard_bands(g, c, _log_mel(g, _pad(g, c), features.floor_of(c))))


def _pad(g: Graph, c: Config) -> str:
    """waveform (1, samples) -> (n,), cut, brought to one level and zero-padded where the network was trained so."""
    x, size = g.op("Squeeze", "waveform", [0]), features.window_samples(c.max_seconds)
    if c.pad:
        x = g.op("Slice", x, [0], [size])
    if c.level:
        x = _level(g, x)
    if c.pad:
        zeros = g.op("Sub", [size], g.op("Shape", x))
        x = g.op("Pad", x, g.op("Concat", np.zeros(1, np.int64), zeros, axis=0))
    return x


def _level(g: Graph, x: str) -> str:
    """x (n,) at LEVEL_DB, as in features.log_mel; a constant as it is."""
    from onnx import TensorProto

    wide = g.op("Cast", x, to=TensorProto.DOUBLE)
    rms = g.op("Sqrt", g.op("ReduceMean", g.op("Pow", g.op("Sub", wide, g.op("ReduceMean", wide)), np.float64(2))))
    gain = g.op(
        "Where",
        g.op("Greater", rms, np.float64(features.NO_LEVEL)),
        g.op("Div", 10 ** (features.LEVEL_DB / 20), rms),
        np.float64(1),
    )
    return g.op("Cast", g.op("Mul", wide, gain), to=TensorProto.FLOAT)


def _log_mel(g: Graph, x: str, floor_db: float) -> str:
    """features.log_mel: x (n,) -> (L, 128) dB. In double precision as there: onnxruntime's STFT is coarse in single."""
    from onnx import TensorProto

    n = g.op("Gather", g.op("Shape", x), 0)
    positions = g.op("Range", -(N_FFT // 2), g.op("Add", n, N_FFT // 2), 1)
    turn = g.op("Sub", n, 1)  # ends reflected, as often as it takes: 2 1 0 1 2 1 0 1 2; Pad would do it once
    swing = g.op("Mod", positions, g.op("Max", g.op("Mul", turn, 2), 1))
    x = g.op("Gather", g.op("Cast", x, to=TensorProto.DOUBLE), g.op("Sub", turn, g.op("Abs", g.op("Sub", turn, swing))))
    hann = 0.5 - 0.5 * np.cos(2 * np.pi / N_FFT * np.arange(N_FFT))
    spectrum = g.op("STFT", g.op("Unsqueeze", x, [0, 2]), HOP, hann, onesided=1)  # (1, L, 401, 2)
    power = g.op("Cast", g.op("ReduceSumSquare", spectrum, axes=[0, 3], keepdims=0), to=TensorProto.FLOAT)
    bands = g.op("Max", g.op("MatMul", power, features.mel_filters()), np.float32(10 ** (floor_db / 10)))
    return g.op("Mul", g.op("Log", bands), np.float32(10 / np.log(10)))


def _heard_bands(g: Graph, c: Config, S: str) -> str:
    """features.heard_bands: S (L, 128) -> (L, bands); frames in the padding have no part in the level and stay the floor."""
    scale, floor = np.float32(10 / np.log(10)), np.float32(FLOOR_DB)
    if (c.d_spec // 3) == N_MELS:
        return S
    S = g.op("Slice", S, [0], [(c.d_spec // 3)], [1])
    if not c.level:
        return S

    def levelled(sound: str) -> str:
        level = g.op("Mul", g.op("Log", g.op("ReduceMean", g.op("Exp", g.op("Div", sound, scale)))), scale)
        silent = g.op("LessOrEqual", g.op("ReduceMax", sound), np.float32(features.SILENT_DB))
        return g.op("Sub", S, g.op("Where", silent, np.float32(0), level))

    if not c.pad:
        return levelled(S)
    count = g.op("Add", g.op("Div", g.op("Add", g.op("Shape", "waveform", start=1), HOP - 1), HOP), 1)
    frames = g.op("Unsqueeze", g.op("Range", 0, g.op("Gather", g.op("Shape", S), 0), 1), [1])
    return g.op("Where", g.op("Less", frames, count), levelled(g.op("Slice", S, [0], count, [0])), floor)


def _deltas(g: Graph, S: str) -> str:
    """Bands, deltas, delta-deltas: S (L, bands) -> (L, 3 bands). Within four frames of an end the fifth frame's serve."""
    L = g.op("Gather", g.op("Shape", S), 0)
    frames, last, long = g.op("Range", 0, L, 1), g.op("Sub", L, 1), g.op("Greater", L, 8)
    edge = g.op("Where", long, 4, 0)  # fewer than nine frames: the first and the last one are repeated instead
    centre = g.op("Min", g.op("Max", frames, edge), g.op("Sub", last, edge))
    around = g.op("Add", g.op("Unsqueeze", centre, [1]), np.arange(-4, 5))  # (L, 9)
    nine = g.op("Gather", S, g.op("Max", g.op("Min", around, last), 0))  # (L, 9, bands)
    k = np.arange(-4, 5)
    filters = np.stack([k / (k @ k), (3 * k**2 - 20) / 462]).astype(np.float32)  # Savitzky-Golay, first and second order
    return g.op("Concat", S, g.op("Reshape", g.op("MatMul", filters, nine), [0, -1]), axis=1)


def conv1d(g: Graph, t: Tensors, layer: str, H: str) -> str:
    """Equations (1)-(3), ReLU included. H (1, C, L): ONNX has channels first."""
    half = t[f"{layer}.W"].shape[1] // 2
    padded = g.op("Pad", H, [0, 0, half, 0, 0, half], mode="edge")
    return g.op("Relu", g.op("Conv", padded, t[f"{layer}.W"].transpose(2, 0, 1), t[f"{layer}.b"]))


def maxpool(g: Graph, H: str, channels: int, n_pw: int) -> str:
    """Equation (4). H (1, C, L) -> (T, 1, C). Not by MaxPool: onnxruntime's finds a window of three in two frames."""
    whole = g.op("Mul", g.op("Div", g.op("Shape", H, start=2), [n_pw]), [n_pw])
    windows = g.op("Reshape", g.op("Slice", H, [0], whole, [2]), [channels, -1, n_pw])
    return g.op("ReduceMax", g.op("Transpose", windows, perm=[1, 2, 0]), axes=[1], keepdims=1)


def blstm(g: Graph, t: Tensors, layer: str, H: str) -> str:
    """Section 4.2.2. H (T, 1, C) -> (T, 1, 2H)."""
    W, R, b = (_lstm_weights(t, layer, kind) for kind in "WRb")
    b = np.concatenate([b, np.zeros_like(b)], axis=1)  # ONNX has a second one, of the recurrence
    units = R.shape[2]
    H = g.op("LSTM", H, W, R, b, direction="bidirectional", hidden_size=units)  # (T, 2, 1, H)
    return g.op("Reshape", g.op("Transpose", H, perm=[0, 2, 1, 3]), [-1, 1, 2 * units])


def _lstm_weights(t: dict[str, Array], layer: str, kind: str) -> Array:
    """Both directions of W, R or b as ONNX has them, (2, 4H, ...): transposed, gates in the order i o f g, not i f g o."""
    both = []
    for direction in ("fw", "bw"):
        i, f, g, o = np.split(t[f"{layer}.{kind}_{direction}"], 4, axis=-1)
        both.append(np.concatenate([i, o, f, g], axis=-1).T)
    return np.stack(both)


def attention(g: Graph, t: Tensors, layer: str, H: str) -> tuple[str, str]:
    """Equations (5)-(9). H (T, D) -> z (1, n_attn D), a (n_attn, T)."""
    E = g.op("MatMul", g.op("Tanh", g.op("MatMul", H, t[f"{layer}.W_s1"])), t[f"{layer}.w_s2"])
    a = g.op("Softmax", g.op("Transpose", E, perm=[1, 0]), axis=1)  # (5), (7)
    some = g.op("Greater", g.op("Shape", H, end=1), 0)  # onnxruntime 1.19 gives whatever memory held
    z = g.op("Where", some, g.op("MatMul", a, H), np.float32(0))  # (6), (8)
    return g.op("Reshape", z, [1, -1]), a  # (9)


def local_attention(g: Graph, t: Tensors, layer: str, H: str) -> tuple[str, str]:
    """Mirsamadi et al. (2017). H (T, D) -> z (1, D), a (1, T)."""
    a = g.op("Softmax", g.op("Transpose", g.op("MatMul", H, t[f"{layer}.u"][:, None]), perm=[1, 0]), axis=1)
    return g.op("MatMul", a, H), a


def mean_over_time(g: Graph, H: str) -> str:
    """H (T, D) -> (1, D)."""
    from onnx import TensorProto

    T = g.op("Max", g.op("Cast", g.op("Shape", H, end=1), to=TensorProto.FLOAT), np.float32(1))
    return g.op("Div", g.op("ReduceSum", H, [0], keepdims=1), T)


def statistics(g: Graph, X: str, bands: int) -> str:
    """networks.statistics.of_windows of X (L, d_spec), of its first bands -> (1, 3 bands)."""
    from onnx import TensorProto

    X = g.op("Slice", X, [0], [bands], [1])
    L = g.op("Shape", X, end=1)
    counts = [g.op("Cast", g.op("Max", n, 1), to=TensorProto.FLOAT) for n in (L, g.op("Sub", L, 1))]

    def mean(values: str, count: str) -> str:
        return g.op("Div", g.op("ReduceSum", values, [0], keepdims=1), count)

    centre = mean(X, counts[0])
    away = g.op("Sub", X, centre)
    change = g.op("Sub", g.op("Slice", X, [1], [np.iinfo(np.int64).max], [0]), g.op("Slice", X, [0], [-1], [0]))
    squares = [mean(g.op("Mul", part, part), count) for part, count in zip((away, change), counts, strict=True)]
    return g.op("Concat", centre, *(g.op("Sqrt", part) for part in squares), axis=1)


def share_of_statistics(g: Graph, Z: str, bands: int) -> str:
    """networks.statistics.share_of the statistics Z (1, 3 bands), (1, 1)."""
    none, whole = map(np.float32, PRESENT)
    moves = g.op("ReduceMean", g.op("Slice", Z, [bands], [bands + min(LOWEST, bands)], [1]), axes=[1], keepdims=1)
    part = g.op("Clip", g.op("Div", g.op("Sub", moves, none), whole - none), np.float32(0), np.float32(1))
    return g.op("Mul", part, np.float32(SHARE))


def heads(g: Graph, t: Tensors, z: str, temperature: float, also: tuple[str, str] | None = None) -> None:
    """Section 4.3: z (1, D) -> the outputs "emotion" and, where there is its head, "gender": probabilities.

    also: networks.statistics' share of the answer, (1, 1), and its logits of the emotion, (1, classes).
    """
    for head, divisor in (("emotion", temperature), ("gender", 1.0)):
        if f"{head}.W" in t:
            logits = g.op("Add", g.op("MatMul", z, t[f"{head}.W"]), t[f"{head}.b"])
            if also is not None and head == "emotion":
                share, others = also
                logits = g.op("Add", logits, g.op("Mul", share, g.op("Sub", others, logits)))
            if divisor != 1:
                logits = g.op("Div", logits, np.float32(divisor))
            g.output(g.op("Softmax", logits, axis=1), head)
