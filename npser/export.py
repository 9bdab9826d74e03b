"""`npser export`: the trained network as an ONNX graph, for programs that are not written in Python.

The same equations as ``npser.lite``, written once more in ONNX's operators; tests hold one against the other. The graph is for
one utterance and any number of frames. With features inside it takes the waveform itself.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from npser import __version__, checkpoint, features
from npser.features import FLOOR_DB, HOP, N_FFT, N_MELS, SAMPLE_RATE

OPSET, IR_VERSION = 17, 8  # the oldest that has STFT, so that older versions of onnxruntime run the graph too
Array = np.ndarray


class _Graph:
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


def export(model: Path, out: Path, with_features: bool) -> dict[str, Any]:
    """Write a trained network as an ONNX file.

    Parameters
    ----------
    model : Path
        A ``model.safetensors``.
    out : Path
        The ``.onnx`` file. Its input: ``features`` (1, frames, d_spec), as ``Model.network_input`` gives them, or ``waveform``
        (1, samples) at 16 kHz. Its outputs: ``emotion`` (1, classes) and ``gender`` (1, 2), probabilities, and ``attention``
        (1, n_attn, steps), the weights of each head over time; the last two where the network has them.
    with_features : bool
        The waveform is the input.

    Returns
    -------
    dict
        What was written: inputs, outputs, metadata.

    Raises
    ------
    ValueError
        Where onnx is not installed, the model file is none, or out cannot be written.
    """
    try:
        import onnx
        from onnx import TensorProto, helper
    except ImportError:
        raise ValueError("npser export needs the package onnx; get it with: pip install 'npser[onnx]'") from None
    if out.suffix.lower() != ".onnx":
        raise ValueError(f"{out}: expected a name that ends in .onnx")
    trained = checkpoint.load(model)
    c, g = trained.config, _Graph()
    if with_features:
        X = _normalise(g, trained, _deltas(g, _heard(g, trained, _log_mel(g, _pad(g, trained)))))
        name, shape = "waveform", [1, "samples"]
    else:
        X = g.op("Squeeze", "features", [0])  # (L, d_spec)
        name, shape = "features", [1, "frames", c.d_spec]
    _network(g, trained, X)
    outputs: dict[str, list[int | str]] = {"emotion": [1, len(trained.emotions)]}
    if trained.genders:
        outputs["gender"] = [1, len(trained.genders)]
    if c.attention:
        outputs["attention"] = [1, c.n_attn, "steps"]

    def described(values: dict[str, Any]) -> list[Any]:
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in values.items()]

    inputs = {name: shape}
    graph = helper.make_graph(g.nodes, "npser", described(inputs), described(outputs), list(g.constants.values()))
    proto = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="npser",
        producer_version=__version__,
    )
    metadata = _metadata(trained, with_features)
    helper.set_model_props(proto, {key: json.dumps(value, sort_keys=True) for key, value in metadata.items()})
    onnx.checker.check_model(proto, full_check=True)
    content = proto.SerializeToString(deterministic=True)
    checkpoint.write(out, content)
    return {"path": str(out), "bytes": len(content), "inputs": inputs, "outputs": outputs, "metadata": metadata}


def _metadata(trained: checkpoint.Checkpoint, with_features: bool) -> dict[str, Any]:
    """What a program in another language needs to know; every value becomes a JSON text."""
    c = trained.config
    constants: dict[str, Any] = {
        **features.SETTINGS,
        "max_seconds": c.max_seconds,
        "zero_padded": c.pad,
        "level_db": features.LEVEL_DB if c.level else None,
        "bands": c.bands,
        "mean_power_db_of_bands": 0.0 if c.level and c.bands < N_MELS else None,
        "seconds_of_a_step": c.n_pw * HOP / SAMPLE_RATE,
    }
    if not with_features:
        constants |= {name: trained.tensors[f"norm.{name}"].tolist() for name in ("mean", "std")}
    return {"labels": trained.labels, "features": constants, "training": trained.training}


def _pad(g: _Graph, trained: checkpoint.Checkpoint) -> str:
    """waveform (1, samples) -> (n,), cut, brought to one level and zero-padded where the network was trained so."""
    x, size = g.op("Squeeze", "waveform", [0]), features.window_samples(trained.config.max_seconds)
    if trained.config.pad:
        x = g.op("Slice", x, [0], [size])
    if trained.config.level:
        x = _level(g, x)
    if trained.config.pad:
        behind = g.op("Sub", [size], g.op("Shape", x))
        x = g.op("Pad", x, g.op("Concat", np.zeros(1, np.int64), behind, axis=0))
    return x


def _level(g: _Graph, x: str) -> str:
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


def _log_mel(g: _Graph, x: str) -> str:
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
    bands = g.op("Max", g.op("MatMul", power, features.mel_filters()), np.float32(10 ** (FLOOR_DB / 10)))
    return g.op("Mul", g.op("Log", bands), np.float32(10 / np.log(10)))


def _heard(g: _Graph, trained: checkpoint.Checkpoint, S: str) -> str:
    """features.heard: S (L, 128) -> (L, bands); frames in the padding have no part in the level, and stay the floor."""
    c, scale, floor = trained.config, np.float32(10 / np.log(10)), np.float32(FLOOR_DB)
    if c.bands == N_MELS:
        return S
    S = g.op("Slice", S, [0], [c.bands], [1])
    if not c.level:
        return S

    def levelled(sound: str) -> str:
        level = g.op("Mul", g.op("Log", g.op("ReduceMean", g.op("Exp", g.op("Div", sound, scale)))), scale)
        silent = g.op("LessOrEqual", g.op("ReduceMax", sound), floor)
        return g.op("Sub", S, g.op("Where", silent, np.float32(0), level))

    if not c.pad:
        return levelled(S)
    count = g.op("Add", g.op("Div", g.op("Add", g.op("Shape", "waveform", start=1), HOP - 1), HOP), 1)
    frames = g.op("Unsqueeze", g.op("Range", 0, g.op("Gather", g.op("Shape", S), 0), 1), [1])
    return g.op("Where", g.op("Less", frames, count), levelled(g.op("Slice", S, [0], count, [0])), floor)


def _deltas(g: _Graph, S: str) -> str:
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


def _normalise(g: _Graph, trained: checkpoint.Checkpoint, X: str) -> str:
    return g.op("Div", g.op("Sub", X, trained.tensors["norm.mean"]), trained.tensors["norm.std"])


def _network(g: _Graph, trained: checkpoint.Checkpoint, X: str) -> None:
    """Equations (1)-(9), as in lite.Model.forward: X (L, d_spec) -> the outputs."""
    from onnx import TensorProto

    t, c = trained.tensors, trained.config
    H = g.op("Unsqueeze", g.op("Transpose", X, perm=[1, 0]), [0])  # (1, d_spec, L): ONNX has channels first
    half = c.n_cw // 2
    for layer in ("cnn1", "cnn2"):  # (1)-(3)
        padded = g.op("Pad", H, [0, 0, half, 0, 0, half], mode="edge")
        H = g.op("Relu", g.op("Conv", padded, t[f"{layer}.W"].transpose(2, 0, 1), t[f"{layer}.b"]))
    # (4), not by MaxPool: onnxruntime's finds a window in two frames where three are needed
    whole = g.op("Mul", g.op("Div", g.op("Shape", H, start=2), [c.n_pw]), [c.n_pw])
    windows = g.op("Reshape", g.op("Slice", H, [0], whole, [2]), [c.d_cnn, -1, c.n_pw])
    H = g.op("ReduceMax", g.op("Transpose", windows, perm=[1, 2, 0]), axes=[1], keepdims=1)  # (T, 1, d_cnn)
    for layer in ("lstm1", "lstm2"):  # 4.2.2
        W, R, b = (_lstm_weights(t, layer, kind) for kind in "WRb")
        b = np.concatenate([b, np.zeros_like(b)], axis=1)  # ONNX has a second one, of the recurrence
        H = g.op("LSTM", H, W, R, b, direction="bidirectional", hidden_size=c.d_lstm)  # (T, 2, 1, H)
        H = g.op("Reshape", g.op("Transpose", H, perm=[0, 2, 1, 3]), [-1, 1, 2 * c.d_lstm])
    H = g.op("Squeeze", H, [1])  # (T, 2H)
    if c.attention:
        E = g.op("MatMul", g.op("Tanh", g.op("MatMul", H, t["attn.W_s1"])), t["attn.w_s2"])
        a = g.op("Softmax", g.op("Transpose", E, perm=[1, 0]), axis=1)  # (5), (7)
        z = g.op("Reshape", g.op("MatMul", a, H), [1, -1])  # (6), (8), (9)
    else:
        a, T = None, g.op("Max", g.op("Cast", g.op("Shape", H, end=1), to=TensorProto.FLOAT), np.float32(1))
        z = g.op("Div", g.op("ReduceSum", H, [0], keepdims=1), T)
    for head, temperature in (("emotion", trained.temperature), ("gender", 1.0)):  # 4.3
        if f"{head}.W" in t:
            logits = g.op("Add", g.op("MatMul", z, t[f"{head}.W"]), t[f"{head}.b"])
            if temperature != 1:
                logits = g.op("Div", logits, np.float32(temperature))
            g.output(g.op("Softmax", logits, axis=1), head)
    if a is not None:
        g.output(g.op("Unsqueeze", a, [0]), "attention")


def _lstm_weights(t: dict[str, Array], layer: str, kind: str) -> Array:
    """Both directions of W, R or b as ONNX has them, (2, 4H, ...): transposed, gates in the order i o f g, not i f g o."""
    both = []
    for direction in ("fw", "bw"):
        i, f, g, o = np.split(t[f"{layer}.{kind}_{direction}"], 4, axis=-1)
        both.append(np.concatenate([i, o, f, g], axis=-1).T)
    return np.stack(both)


def text(found: dict[str, Any]) -> str:
    """What was written, for the terminal."""

    def lines(kind: str) -> list[str]:
        return [f"{kind:<10}{name} ({', '.join(map(str, shape))})" for name, shape in found[f"{kind}s"].items()]

    constants = found["metadata"]["features"]
    written = f"{'graph':<10}{found['path']} ({found['bytes'] / 1e6:.2f} MB, opset {OPSET})"
    seconds = constants["max_seconds"]
    if not constants["zero_padded"]:
        length = f"up to {seconds:g} s"
    elif "waveform" in found["inputs"]:
        length = f"up to {seconds:g} s; shorter ones are padded inside, the rest of longer ones is cut"
    else:
        length = f"{features.window_samples(seconds) // HOP + 1} frames, which are {seconds:g} s, zero-padded"
    more = f"{'':<10}of longer recordings, average the log-probabilities of half-overlapping windows"
    return "\n".join([written, *lines("input"), *lines("output"), f"{'length':<10}{length}", more])
