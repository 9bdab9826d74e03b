"""Inference in plain NumPy: the trained network on one recording, without Numba.

The same equations as ``npser.model``, written a second time for one utterance; tests hold one against the other.

    model = npser.load("model.safetensors")
    p = model.predict("call.wav")  # p.emotion, p.probabilities, p.gender, p.attention
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import numpy as np

from npser import checkpoint, features
from npser.features import FLOOR_DB, HOP, SAMPLE_RATE

Array = np.ndarray


@dataclass(frozen=True)
class Prediction:
    """What the network says of one recording.

    probabilities and gender_probabilities: by label. gender: None for a network without the gender head. seconds: length of
    the recording, as far as it was heard. attention (n_attn, T): weights of the first window, which end at times (T,) in
    seconds after its start; None for a network without attention.
    """

    emotion: str
    probabilities: dict[str, float]
    gender: str | None
    gender_probabilities: dict[str, float] | None
    seconds: float
    attention: Array | None = field(default=None, repr=False)
    times: Array | None = field(default=None, repr=False)


class Model:
    """A trained network, read from a model file. ValueError where the file is not one."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.checkpoint = checkpoint.load(path)
        self.config = self.checkpoint.config
        self.emotions, self.genders = self.checkpoint.emotions, self.checkpoint.genders

    def predict(self, audio: str | os.PathLike[str] | Array, sample_rate: int | None = None) -> Prediction:
        """Classify a recording.

        Parameters
        ----------
        audio : path or (n,) array
            An audio file, or samples of one channel; then sample_rate, in Hz, is needed.
        sample_rate : int, optional

        Returns
        -------
        Prediction
            Of a recording longer than the network's window (7.5 s), the mean log-probability over half-overlapping windows; a
            network trained on padded input (preset paper) hears the first window only.

        Raises
        ------
        ValueError
            For audio that is missing, empty, undecodable or not finite.
        """
        c = self.config
        if isinstance(audio, np.ndarray):
            if audio.dtype.kind != "f":
                raise ValueError(f"audio has type {audio.dtype}; expected float samples (of int16, divide by 32768)")
            if audio.ndim != 1 or audio.size == 0 or not (np.abs(audio) <= features.LOUDEST).all():
                raise ValueError(f"audio has shape {audio.shape}; expected (n,) finite samples of one channel")
            if sample_rate is None or not features.RATES[0] <= sample_rate <= features.RATES[1] or sample_rate % 1:
                raise ValueError(f"sample_rate is {sample_rate}; expected the rate of the samples, 4000 to 192000 Hz")
            waves = features.windows([audio.astype(np.float32)], int(sample_rate), c.max_seconds, c.pad)
        else:
            waves = features.read_windows(audio, c.max_seconds, c.pad)

        log_p: list[list[Array]] = [[], []]
        seconds, attention = 0.0, None
        for k, x in enumerate(waves):
            seconds = k * c.max_seconds / 2 + len(x) / SAMPLE_RATE
            *logits, a = self.forward(self.network_input(x))
            attention = a if k == 0 else attention
            for parts, logit in zip(log_p, logits, strict=True):
                parts.append(log_softmax(logit / self.checkpoint.temperature))
        emotion = dict(zip(self.emotions, _mean_p(log_p[0]), strict=True))
        gender = dict(zip(self.genders, _mean_p(log_p[1]), strict=True))
        times = None if attention is None else (np.arange(attention.shape[1]) + 1) * c.n_pw * HOP / SAMPLE_RATE
        return Prediction(
            max(emotion, key=emotion.__getitem__),
            emotion,
            max(gender, key=gender.__getitem__) if gender else None,
            gender or None,
            seconds,
            attention,
            times,
        )

    def network_input(self, x: Array) -> Array:
        """Waveform (n,) at 16 kHz -> normalised bands, deltas, delta-deltas (L, 384)."""
        size = features.window_samples(self.config.max_seconds)
        S = features.log_mel(x, size if self.config.pad else None)
        if self.config.pad:
            S = np.pad(S, ((0, size // HOP + 1 - len(S)), (0, 0)), constant_values=FLOOR_DB)
        L = len(S)
        centre = np.clip(np.arange(L), 4, L - 5) if L >= 9 else np.arange(L)
        nine = S[np.clip(centre[:, None] + np.arange(-4, 5), 0, L - 1)]  # (L, 9, 128)
        k = np.arange(-4, 5, dtype=np.float32)
        line, parabola = k / (k @ k), (3 * k**2 - 20) / 462  # Savitzky-Golay filters of first and second order
        X = np.concatenate([S, np.einsum("lkc,k->lc", nine, line), np.einsum("lkc,k->lc", nine, parabola)], axis=1)
        return (X - self.checkpoint.tensors["norm.mean"]) / self.checkpoint.tensors["norm.std"]

    def forward(self, X: Array) -> tuple[Array, Array, Array | None]:
        """Equations (1)-(9) for one utterance. X (L, 384) -> emotion (classes,), gender (2,) or (0,), a (n_attn, T) or None."""
        t, c = self.checkpoint.tensors, self.config
        H = conv1d(conv1d(X, t["cnn1.W"], t["cnn1.b"]), t["cnn2.W"], t["cnn2.b"])  # (1)-(3)
        T = len(H) // c.n_pw
        H = H[: T * c.n_pw].reshape(T, c.n_pw, c.d_cnn).max(axis=1)  # (4)
        for layer in ("lstm1", "lstm2"):  # 4.2.2
            forward, backward = (
                lstm(H[::step], t[f"{layer}.W_{d}"], t[f"{layer}.R_{d}"], t[f"{layer}.b_{d}"])
                for d, step in (("fw", 1), ("bw", -1))
            )
            H = np.concatenate([forward, backward[::-1]], axis=1)
        a = None
        if c.attention:
            E = np.tanh(H @ t["attn.W_s1"]) @ t["attn.w_s2"]
            a = np.exp(log_softmax(E.T)) if T else E.T  # (5), (7)
            z = (a @ H).ravel()  # (6), (8), (9)
        else:
            z = H.mean(axis=0) if T else np.zeros(2 * c.d_lstm, np.float32)
        emotion = z @ t["emotion.W"] + t["emotion.b"]  # 4.3
        gender = z @ t["gender.W"] + t["gender.b"] if self.genders else np.empty(0, np.float32)
        return emotion, gender, a


def conv1d(X: Array, W: Array, b: Array) -> Array:
    """Equations (1)-(3) and ReLU. X (L, C), W (C, n_cw, K), b (K,) -> (L, K)."""
    half = W.shape[1] // 2
    padded = np.pad(X, ((half, half), (0, 0)), mode="edge")
    return np.maximum(sum(padded[j : j + len(X)] @ W[:, j] for j in range(W.shape[1])) + b, 0)


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


def log_softmax(x: Array) -> Array:
    """Over the last axis; of nothing, nothing."""
    if x.shape[-1] == 0:
        return x
    shifted = x - x.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _mean_p(log_p: list[Array]) -> list[float]:
    """Probabilities of the mean log-probability over windows."""
    return np.exp(log_softmax(np.mean(log_p, axis=0))).tolist()
