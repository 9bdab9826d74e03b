"""Layers and input of networks in plain NumPy, for one utterance and without Numba: what a network's ``plain`` is made of.

The same equations as npser.layers and npser.inputs, written once more; tests hold one against the other. t: tensors by name.
"""

from __future__ import annotations

import numpy as np

from npser import features
from npser.calibration import log_softmax
from npser.config import Config
from npser.features import FLOOR_DB, HOP

Array = np.ndarray
Tensors = dict[str, Array]


def log_mel_input(c: Config, x: Array) -> Array:
    """Waveform (n,) at 16 kHz -> bands, deltas, delta-deltas (L, d_spec)."""
    size = features.window_samples(c.max_seconds)
    S = features.log_mel(x, size if c.pad else None, c.level)
    S = features.heard_bands(S, c.d_spec // 3, c.level)
    if c.pad:
        S = np.pad(S, ((0, size // HOP + 1 - len(S)), (0, 0)), constant_values=FLOOR_DB)
    L = len(S)
    centre = np.clip(np.arange(L), 4, L - 5) if L >= 9 else np.arange(L)
    nine = S[np.clip(centre[:, None] + np.arange(-4, 5), 0, L - 1)]  # (L, 9, bands)
    k = np.arange(-4, 5, dtype=np.float32)
    line, parabola = k / (k @ k), (3 * k**2 - 20) / 462  # Savitzky-Golay filters of first and second order
    return np.concatenate([S, np.einsum("lkc,k->lc", nine, line), np.einsum("lkc,k->lc", nine, parabola)], axis=1)


def conv1d(t: Tensors, layer: str, X: Array) -> Array:
    """Equations (1)-(3) and ReLU. X (L, C) -> (L, K)."""
    W, b = t[f"{layer}.W"], t[f"{layer}.b"]
    half = W.shape[1] // 2
    padded = np.pad(X, ((half, half), (0, 0)), mode="edge")
    return np.maximum(sum(padded[j : j + len(X)] @ W[:, j] for j in range(W.shape[1])) + b, 0)


def maxpool(X: Array, n_pw: int) -> Array:
    """Equation (4). X (L, C) -> (L // n_pw, C)."""
    T = len(X) // n_pw
    return X[: T * n_pw].reshape(T, n_pw, X.shape[1]).max(axis=1)


def blstm(t: Tensors, layer: str, X: Array) -> Array:
    """Section 4.2.2. X (T, C) -> (T, 2H)."""
    forward, backward = (
        lstm(X[::step], t[f"{layer}.W_{d}"], t[f"{layer}.R_{d}"], t[f"{layer}.b_{d}"]) for d, step in (("fw", 1), ("bw", -1))
    )
    return np.concatenate([forward, backward[::-1]], axis=1)


def lstm(X: Array, W: Array, R: Array, b: Array) -> Array:
    """One direction, gates in the order i f g o. X (T, C), W (C, 4H), R (H, 4H), b (4H,) -> (T, H)."""
    H = len(R)
    Z, out = X @ W + b, np.empty((len(X), H), X.dtype)
    h, c = np.zeros(H, X.dtype), np.zeros(H, X.dtype)
    for t, z in enumerate(Z):
        z = z + h @ R
        i, f, o = (0.5 + 0.5 * np.tanh(0.5 * z[k * H : (k + 1) * H]) for k in (0, 1, 3))  # sigmoid
        c = f * c + i * np.tanh(z[2 * H : 3 * H])
        h = out[t] = o * np.tanh(c)
    return out


def attention(t: Tensors, layer: str, H: Array) -> tuple[Array, Array]:
    """Equations (5)-(9). H (T, D) -> z (n_attn D,), a (n_attn, T)."""
    E = np.tanh(H @ t[f"{layer}.W_s1"]) @ t[f"{layer}.w_s2"]
    a = np.exp(log_softmax(E.T)) if len(H) else E.T  # (5), (7)
    return (a @ H).ravel(), a  # (6), (8), (9)


def heads(t: Tensors, z: Array) -> tuple[Array, Array]:
    """Section 4.3. z (D,) -> logits, emotion (classes,) and gender (2,), or (0,) where there is no gender head."""
    emotion = z @ t["emotion.W"] + t["emotion.b"]
    return emotion, z @ t["gender.W"] + t["gender.b"] if "gender.W" in t else np.empty(0, np.float32)
