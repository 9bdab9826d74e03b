# pyright: reportMissingImports=false
"""The same network in other software, to time npser against. Only the benchmarks import this; npser never does.

Each peer gets its best honest settings: its own fused LSTM, inference mode, as many threads as npser, compiled graphs.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

D_SPEC, D_CNN, D_LSTM, D_ATTN, N_ATTN, N_PW = 384, 64, 60, 512, 8, 3
EMOTIONS, GENDERS, RATE, CLIP, DROPOUT = 4, 2, 1e-4, 1.0, 0.5
Arrays = dict[str, np.ndarray]


def torch_network(tensors: Arrays | None = None, d_spec: int = D_SPEC) -> Any:
    """The network as a torch module; tensors: npser's parameters by name, to start from the same weights."""
    import torch
    from torch import nn
    from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cnn1 = nn.Conv1d(d_spec, D_CNN, 3, padding=1, padding_mode="replicate")
            self.cnn2 = nn.Conv1d(D_CNN, D_CNN, 3, padding=1, padding_mode="replicate")
            self.pool = nn.MaxPool1d(N_PW)
            self.lstm = nn.LSTM(D_CNN, D_LSTM, 2, batch_first=True, bidirectional=True, dropout=DROPOUT)
            self.dropout = nn.Dropout(DROPOUT)
            self.W_s1 = nn.Linear(2 * D_LSTM, D_ATTN, bias=False)
            self.w_s2 = nn.Linear(D_ATTN, N_ATTN, bias=False)
            self.emotion = nn.Linear(N_ATTN * 2 * D_LSTM, EMOTIONS)
            self.gender = nn.Linear(N_ATTN * 2 * D_LSTM, GENDERS)

        def forward(self, X: Any, lengths: Any = None) -> tuple[Any, Any]:
            """X (B, L, d_spec), lengths (B,) frames or None for all -> logits."""
            H = torch.relu(self.cnn1(X.transpose(1, 2)))
            H = self.pool(torch.relu(self.cnn2(H))).transpose(1, 2)
            if lengths is not None:
                packed = pack_padded_sequence(H, lengths // N_PW, batch_first=True, enforce_sorted=False)
                H, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
            else:
                H, _ = self.lstm(H)
            H = self.dropout(H)
            E = self.w_s2(torch.tanh(self.W_s1(H)))
            if lengths is not None:
                behind = torch.arange(H.shape[1])[None] >= (lengths // N_PW)[:, None]
                E = E.masked_fill(behind[..., None], -torch.inf)
            a = torch.softmax(E, dim=1)
            z = torch.einsum("btj,btd->bjd", a, H).flatten(1)
            return self.emotion(z), self.gender(z)

    network = Network()
    if tensors is not None:
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.copy_(torch.from_numpy(np.ascontiguousarray(_torch_value(name, tensors))))
    return network


def _torch_value(name: str, t: Arrays) -> np.ndarray:
    """npser's value of a parameter of torch_network; torch has two biases, npser one."""
    layer, _, kind = name.partition(".")
    if layer.startswith("cnn"):
        return t[f"{layer}.W"].transpose(2, 0, 1) if kind == "weight" else t[f"{layer}.b"]
    if layer == "lstm":
        ours = f"lstm{int(kind.split('_l')[1][0]) + 1}"
        direction = "bw" if kind.endswith("_reverse") else "fw"
        if kind.startswith("bias_hh"):
            return np.zeros_like(t[f"{ours}.b_{direction}"])
        part = {"weight_ih": "W", "weight_hh": "R", "bias_ih": "b"}[kind.split("_l")[0]]
        return t[f"{ours}.{part}_{direction}"].T
    if layer in ("W_s1", "w_s2"):
        return t[f"attn.{layer}"].T
    return t[f"{layer}.{'W' if kind == 'weight' else 'b'}"].T


def torch_step(network: Any, compiled: bool) -> Callable[..., float]:
    """step(X, emotion_y, gender_y, lengths=None) -> loss: forward, backward, clip, Adam."""
    import torch
    from torch.nn.functional import cross_entropy

    optimiser = torch.optim.Adam(network.parameters(), RATE, eps=1e-7, fused=True)
    network.train()
    model = torch.compile(network) if compiled else network

    def step(X: Any, emotion_y: Any, gender_y: Any, lengths: Any = None) -> float:
        optimiser.zero_grad(set_to_none=True)
        emotion, gender = model(X, lengths)
        loss = cross_entropy(emotion, emotion_y) + cross_entropy(gender, gender_y)
        loss.backward()
        torch.nn.utils.clip_grad_value_(network.parameters(), CLIP)
        optimiser.step()
        return loss.item()

    return step


def torch_batch(
    rows: list[Any], ends: list[Any | None], mean: Any, std: Any, c: Any, rng: np.random.Generator
) -> tuple[Any, Any]:
    """Preset default's input as users of torch write it, utterance by utterance: X (B, longest, d_spec), lengths (B,).

    rows: log-mel bands (L, 128), dB; ends: those of the utterance that gives each its end, or None. c: npser's settings.
    """
    import torch
    from torch.nn import functional as F

    bands, k = c.d_spec // 3, torch.arange(-4.0, 5.0)
    kernels = torch.stack([k / 60, (3 * k**2 - 20) / 462])[:, None]

    def variant(S: Any) -> Any:
        longer, wider = 1 + rng.uniform(-1, 1, 2) * (c.stretch, c.warp)
        S = F.interpolate(S.T[None], size=max(1, round(len(S) * longer)), mode="linear", align_corners=True)[0]
        at = torch.clamp(torch.arange(len(S)) / wider, max=len(S) - 1)
        below = at.long()
        part = (at - below)[:, None]
        S = S[below] * (1 - part) + S[torch.clamp(below + 1, max=len(S) - 1)] * part
        S = S + rng.uniform(-6, 6) * torch.linspace(-1, 1, len(S))[:, None]
        if rng.random() < c.channel:
            keep, P = 10 ** (-6 * 0.025 / rng.uniform(0.2, 1)), 10 ** (S / 10)
            decay = (
                keep ** torch.arange(min(P.shape[1], 40), dtype=torch.float32).flip(0) * (1 - keep) * 10 ** -rng.uniform(0, 2)
            )
            S = 10 * torch.log10(P + F.conv1d(F.pad(P, (len(decay), -1))[:, None], decay[None, None])[:, 0])
        if rng.random() < c.channel:
            P = 10 ** (S / 10)
            S = 10 * torch.log10(P + torch.empty_like(P).exponential_() * P.mean() * 10 ** -rng.uniform(1, 5))
        if rng.random() < c.channel:
            floor = rng.uniform(-100, -70)
            S[: rng.integers(13)].clamp_(max=floor)
            S[rng.integers(93, 128) :].clamp_(max=floor)
        return S

    inputs = []
    for S, end in zip(rows, ends, strict=True):
        V = variant(S)
        if end is not None:
            other, part = variant(end), rng.uniform(0.2, 0.8)
            V = torch.cat([V[:, : int(part * V.shape[1])], other[:, int(part * other.shape[1]) :]], dim=1)
        V = V[:bands]
        V = V - 10 * torch.log10((10 ** (V / 10)).mean())
        deltas = F.conv1d(F.pad(V[:, None], (4, 4), mode="replicate"), kernels).unbind(1)
        inputs.append((torch.cat([V, *deltas]).T - mean) / std)
    return torch.nn.utils.rnn.pad_sequence(inputs, batch_first=True), torch.tensor([len(X) for X in inputs])


def keras_network() -> Any:
    """The network as a compiled Keras model of TensorFlow, trained with train_on_batch."""
    import keras
    from keras import layers, ops

    def edges(H: Any) -> Any:
        return ops.concatenate([H[:, :1], H, H[:, -1:]], axis=1)

    class Attention(layers.Layer):
        def build(self, input_shape: Any) -> None:
            self.W_s1 = self.add_weight(shape=(input_shape[-1], D_ATTN), name="W_s1")
            self.w_s2 = self.add_weight(shape=(D_ATTN, N_ATTN), name="w_s2")

        def call(self, H: Any) -> Any:
            a = ops.softmax(ops.tanh(H @ self.W_s1) @ self.w_s2, axis=1)
            return ops.reshape(ops.transpose(a, (0, 2, 1)) @ H, (-1, N_ATTN * 2 * D_LSTM))

    X = keras.Input((None, D_SPEC))
    H = layers.Conv1D(D_CNN, 3, activation="relu")(layers.Lambda(edges)(X))
    H = layers.Conv1D(D_CNN, 3, activation="relu")(layers.Lambda(edges)(H))
    H = layers.MaxPooling1D(N_PW)(H)
    for _ in range(2):
        H = layers.Bidirectional(layers.LSTM(D_LSTM, return_sequences=True))(H)
        H = layers.Dropout(DROPOUT)(H)
    z = Attention()(H)
    emotion = layers.Dense(EMOTIONS, name="emotion")(z)
    gender = layers.Dense(GENDERS, name="gender")(z)
    network = keras.Model(X, [emotion, gender])
    loss = [keras.losses.SparseCategoricalCrossentropy(from_logits=True) for _ in range(2)]
    network.compile(keras.optimizers.Adam(RATE, clipvalue=CLIP), loss, jit_compile=False)
    return network


def onnx_session(network: Any, path: Path, threads: int) -> Any:
    """A session of onnxruntime over the exported torch network; input X (B, L, d_spec)."""
    import onnxruntime
    import torch

    network.eval()
    torch.onnx.export(
        network,
        (torch.zeros(2, 301, D_SPEC),),
        str(path),
        input_names=["X"],
        output_names=["emotion", "gender"],
        dynamic_axes={"X": {0: "B", 1: "L"}, "emotion": {0: "B"}, "gender": {0: "B"}},
        dynamo=False,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def librosa_features(path: Path) -> np.ndarray:
    """What npser.features and the assembly make of a recording, by librosa: (L, 384)."""
    import librosa

    x, _ = librosa.load(path, sr=16000)
    return librosa_of(x[: round(7.5 * 16000)])


def librosa_of(x: np.ndarray) -> np.ndarray:
    """(n,) at 16 kHz -> (L, 384)."""
    import librosa

    mel = librosa.feature.melspectrogram(y=x, sr=16000, n_fft=800, hop_length=400, n_mels=128, pad_mode="reflect")
    bands = librosa.power_to_db(mel, amin=1e-10, top_db=None)
    return np.concatenate([bands, *(librosa.feature.delta(bands, order=order) for order in (1, 2))]).T


def torch_convolution(X: Any, W: Any, stride: int, valid: bool, need_dX: bool) -> Any:
    """A convolution over time and bands, forward and backward. X (B, T, F, C), W (C, n_time, n_band, K)."""
    import torch

    x = torch.from_numpy(X.transpose(0, 3, 1, 2).copy()).requires_grad_(need_dX)
    w = torch.from_numpy(W.transpose(3, 0, 1, 2).copy()).requires_grad_()
    b = torch.zeros(len(w), requires_grad=True)
    ends = "valid" if valid else "same"  # zeros past the ends, which cost no less than what repeats there

    def run() -> Any:
        out = torch.nn.functional.conv2d(x, w, b, stride, ends)
        return torch.autograd.grad(out, [w, b, x] if need_dX else [w, b], out.detach())

    return run


def torch_features(filters: Any, window: Any, kernels: Any) -> Callable[[Any], Any]:
    """The same as torchaudio does it: torch.stft, a product with the mel filters, deltas by convolution (ends repeated)."""
    import torch

    def run(x: Any) -> Any:
        spectrum = torch.stft(x, 800, 400, window=window, center=True, pad_mode="reflect", return_complex=True)
        bands = 10 * torch.log10(torch.clamp(filters @ spectrum.abs().square(), min=1e-10))
        padded = torch.nn.functional.pad(bands[:, None], (4, 4), mode="replicate")
        return torch.cat([bands, *torch.nn.functional.conv1d(padded, kernels).unbind(1)]).T

    return run


def predict(weights: Path, audio: Path) -> None:
    """A whole process: imports, weights, then librosa's features and a prediction of a file, or of each in a folder."""
    import safetensors.numpy
    import torch

    torch.set_num_threads(1)  # for one recording at a time, more of them only wait for each other; files run side by side
    tensors = safetensors.numpy.load_file(weights)
    network = torch_network(tensors).eval()

    def answer(path: Path) -> tuple[list[float], list[float]]:
        X = (librosa_features(path) - tensors["norm.mean"]) / tensors["norm.std"]
        with torch.inference_mode():
            emotion, gender = network(torch.from_numpy(X.astype(np.float32))[None])
        return torch.softmax(emotion, 1).tolist(), torch.softmax(gender, 1).tolist()

    paths = sorted(audio.glob("*.wav")) if audio.is_dir() else [audio]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for path, found in zip(paths, pool.map(answer, paths), strict=True):
            print(path, *found)


def train(folder: Path, epochs: int) -> None:
    """A whole process: features of a corpus by librosa, then epochs of training and validation, padded."""
    import csv

    import torch

    with (folder / "manifest.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["session"] != "5"]
    emotions = sorted({row["emotion"] for row in rows})
    X = [torch.from_numpy(librosa_features(folder / row["path"]).astype(np.float32)) for row in rows]
    mean, std = torch.cat(X).mean(0), torch.cat(X).std(0)
    X = [(x - mean) / std for x in X]
    y = torch.tensor([emotions.index(row["emotion"]) for row in rows])
    g = torch.tensor([row["gender"] == "male" for row in rows]).long()
    lengths = torch.tensor([len(x) for x in X])
    training = [i for i, row in enumerate(rows) if row["session"] != "1"]
    validation = [i for i, row in enumerate(rows) if row["session"] == "1"]
    network = torch_network()
    step = torch_step(network, compiled=False)
    for epoch in range(epochs):
        order = np.random.default_rng(epoch).permutation(training)
        for start in range(0, len(order), 40):
            batch = order[start : start + 40].tolist()
            step(torch.nn.utils.rnn.pad_sequence([X[i] for i in batch], batch_first=True), y[batch], g[batch], lengths[batch])
        network.eval()
        with torch.inference_mode():
            padded = torch.nn.utils.rnn.pad_sequence([X[i] for i in validation], batch_first=True)
            right = network(padded, lengths[validation])[0].argmax(1) == y[validation]
        network.train()
        print(epoch, right.float().mean().item())


if __name__ == "__main__":
    import sys

    if sys.argv[1] == "predict":
        predict(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        train(Path(sys.argv[2]), int(sys.argv[3]))
