"""Layers and input of networks in plain NumPy, without Numba: what a network's ``plain`` is made of.

The same equations as npser.layers and npser.inputs, written once more, for B windows of one length; tests hold one against the
other. t: tensors by name.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from npser import features
from npser.calibration import log_softmax
from npser.config import Config
from npser.features import FLOOR_DB, HOP, Span
from npser.frame_features import columns_of, frame_features

Array = np.ndarray
Tensors = dict[str, Array]


def log_mel_input(c: Config, span: Span) -> list[Array]:
    """Windows at 16 kHz -> bands, deltas, delta-deltas of each, (L, d_spec)."""
    pad_to = features.window_samples(c.max_seconds) if c.pad else None
    return [bands_input(c, S) for S in features.log_mel_of_span(span, pad_to, c.level, features.floor_of(c))]


def bands_input(c: Config, S: Array) -> Array:
    """The same from the bands of a window, (L, 128) dB."""
    S = features.heard_bands(S, c.d_spec // 3, c.level)
    if c.pad:
        S = np.pad(S, ((0, features.window_samples(c.max_seconds) // HOP + 1 - len(S)), (0, 0)), constant_values=FLOOR_DB)
    return _with_deltas(S)


def static_input(c: Config, span: Span) -> list[Array]:
    """Windows at 16 kHz -> bands of each without deltas, (L, d_spec)."""
    return [features.heard_bands(S, c.d_spec, c.level) for S in features.log_mel_of_span(span, level=c.level)]


def _with_deltas(S: Array) -> Array:
    """S (L, bands) -> (L, 3 bands)."""
    L = len(S)
    centre = np.clip(np.arange(L), 4, L - 5) if L >= 9 else np.arange(L)
    nine = S[np.clip(centre[:, None] + np.arange(-4, 5), 0, L - 1)]  # (L, 9, bands)
    k = np.arange(-4, 5, dtype=np.float32)
    line, parabola = k / (k @ k), (3 * k**2 - 20) / 462  # Savitzky-Golay filters of first and second order
    return np.concatenate([S, np.einsum("lkc,k->lc", nine, line), np.einsum("lkc,k->lc", nine, parabola)], axis=1)


def frames_input(span: Span, columns: Sequence[str]) -> list[Array]:
    """Windows at 16 kHz -> some columns of the frame features of each, by their names, and deltas: (L, 2 len(columns))."""
    return [columns_of(frame_features(x), columns) for x in span.windows()]


def conv1d(t: Tensors, layer: str, X: Array) -> Array:
    """Equations (1)-(3) and ReLU. X (B, L, C) -> (B, L, K)."""
    W, b = t[f"{layer}.W"], t[f"{layer}.b"]
    L, half = X.shape[1], W.shape[1] // 2
    padded = np.pad(X, ((0, 0), (half, half), (0, 0)), mode="edge")
    return np.maximum(sum(padded[:, j : j + L] @ W[:, j] for j in range(W.shape[1])) + b, 0)


def maxpool(X: Array, n_pw: int) -> Array:
    """Equation (4). X (B, L, C) -> (B, L // n_pw, C)."""
    B, L, C = X.shape
    T = L // n_pw
    return X[:, : T * n_pw].reshape(B, T, n_pw, C).max(axis=2)


def conv2d(t: Tensors, layer: str, X: Array, stride: int = 1, valid: bool = False) -> Array:
    """Convolution over time and bands, whose ends repeat, or with windows inside. X (B, L, F, C) -> (B, M, S, K)."""
    W = t[f"{layer}.W"]
    C, n_time, n_band, K = W.shape
    if X.shape[1] == 0:
        return np.empty((*X.shape[:3], K), X.dtype)
    if not valid:
        X = np.pad(X, [(0, 0), *((n // 2, n - 1 - n // 2) for n in (n_time, n_band)), (0, 0)], mode="edge")
    M, S = (max((size - n) // stride + 1, 0) for size, n in zip(X.shape[1:3], (n_time, n_band), strict=True))
    bands = np.concatenate([X[:, :, i : i + stride * S : stride] for i in range(n_band)], axis=3)
    taps = W.transpose(1, 2, 0, 3).reshape(n_time, n_band * C, K)
    return sum(bands[:, j : j + stride * M : stride] @ taps[j] for j in range(n_time)) + t[f"{layer}.b"]


def maxpool2d(X: Array, n_time: int, n_band: int) -> Array:
    """The largest of n_time frames by n_band bands; what is over is dropped. X (B, L, F, C) -> (B, T, S, C)."""
    B, L, F, C = X.shape
    T, S = L // n_time, F // n_band
    return X[:, : T * n_time, : S * n_band].reshape(B, T, n_time, S, n_band, C).max(axis=(2, 4))


def quarters(X: Array) -> Array:
    """The largest of each half of the frames by half of the bands. X (B, L, F, C) -> (B, 4 C); of fewer than two frames, 0."""
    B, L, F, C = X.shape
    return maxpool2d(X, L // 2, F // 2)[:, :2, :2].reshape(B, -1) if L > 1 else np.zeros((B, 4 * C), X.dtype)


def blstm(t: Tensors, layer: str, X: Array) -> Array:
    """Section 4.2.2. X (B, T, C) -> (B, T, 2H). Both directions take a step at once: the backward one sees time reversed."""
    W, R, b = (np.stack([t[f"{layer}.{name}_{d}"] for d in ("fw", "bw")])[:, None] for name in ("W", "R", "b"))
    Z = np.stack([X, X[:, ::-1]]) @ W + b[:, :, None]  # (2, B, T, 4H)
    forward, backward = lstm(np.ascontiguousarray(Z.transpose(2, 0, 1, 3)), R[:, 0]).transpose(1, 2, 0, 3)
    out = np.concatenate([forward, backward[:, ::-1]], axis=2)
    return np.ascontiguousarray(out)  # or BLAS rounds what follows by how many windows lie between two rows of one


def lstm(Z: Array, R: Array) -> Array:
    """The recurrence of some directions, gates in the order i f g o. Z (T, D, B, 4H), R (D, H, 4H) -> (T, D, B, H)."""
    H = R.shape[1]
    slope = np.repeat(np.array([0.5, 0.5, 1, 0.5], np.float32), H)  # sigmoid(x) = 1/2 + 1/2 tanh(x / 2)
    offset = np.repeat(np.array([0.5, 0.5, 0, 0.5], np.float32), H)
    Z, R = Z * slope, (R * slope)[:, None]  # halves: exact
    out, gates = np.empty((*Z.shape[:3], H), Z.dtype), np.empty(Z.shape[1:], Z.dtype)
    i, f, g, o = (gates[..., k * H : (k + 1) * H] for k in range(4))
    slope, offset = (np.broadcast_to(row, gates.shape).copy() for row in (slope, offset))
    h, c = np.zeros(out.shape[1:], Z.dtype), np.zeros(out.shape[1:], Z.dtype)
    rows = gates[:, :, None]  # one by one: BLAS rounds a row of a product by its place
    for z, to in zip(Z, out, strict=True):  # where a result goes is said by place: with out= each of them takes longer
        np.matmul(h[:, :, None], R, rows)
        np.add(gates, z, gates)
        np.tanh(gates, gates)
        np.multiply(gates, slope, gates)
        np.add(gates, offset, gates)
        np.multiply(c, f, c)
        np.multiply(i, g, i)
        np.add(c, i, c)
        h = np.tanh(c, to)
        np.multiply(h, o, h)
    return out


def attention(t: Tensors, layer: str, H: Array) -> tuple[Array, Array]:
    """Equations (5)-(9). H (B, T, D) -> z (B, n_attn D), a (B, n_attn, T)."""
    E = (np.tanh(H @ t[f"{layer}.W_s1"]) @ t[f"{layer}.w_s2"]).transpose(0, 2, 1)
    a = np.exp(log_softmax(E))  # (5), (7)
    return (a @ H).reshape(len(H), -1), a  # (6), (8), (9)


def local_attention(t: Tensors, layer: str, H: Array) -> tuple[Array, Array]:
    """Mirsamadi et al. (2017). H (B, T, D) -> z (B, D), a (B, 1, T)."""
    a = np.exp(log_softmax((H @ t[f"{layer}.u"])[:, None]))
    return (a @ H)[:, 0], a


def linear(t: Tensors, layer: str, z: Array) -> Array:
    """z (B, D) -> (B, K). One row at a time: BLAS rounds a product with few columns by the number of rows."""
    return (z[:, None] @ t[f"{layer}.W"])[:, 0] + t[f"{layer}.b"]


def heads(t: Tensors, z: Array) -> tuple[Array, Array]:
    """Section 4.3. z (B, D) -> logits, emotion (B, classes) and gender (B, 2), or (B, 0) where there is no gender head."""
    gender = linear(t, "gender", z) if "gender.W" in t else np.empty((len(z), 0), np.float32)
    return linear(t, "emotion", z), gender
