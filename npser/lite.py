"""Inference in plain NumPy: the trained network on one recording, without Numba.

The same equations as ``npser.model``, written a second time for one utterance; tests hold one against the other.

    model = npser.load("model.safetensors")
    p = model.predict("call.wav")  # p.emotion, p.probabilities, p.gender, p.timeline, p.attention
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

import numpy as np

from npser import SHIPPED, checkpoint, features
from npser.features import FLOOR_DB, HOP, SAMPLE_RATE
from npser.silence import unheard

MANY = 100  # recordings from which on the compiled engine pays for its start
UNREADABLE = (ValueError, OSError, MemoryError)  # of one recording; the others go on

Array = np.ndarray
Audio = str | os.PathLike[str] | BinaryIO | Array


@dataclass(frozen=True)
class Window:
    """What the network says of a part of a recording, from start to end in seconds.

    emotion: None where there is nothing to answer, and then reason says why; the probabilities are empty there.
    gender_probabilities: empty for a network without the gender head as well.
    """

    start: float
    end: float
    emotion: str | None
    probabilities: dict[str, float]
    gender_probabilities: dict[str, float]
    reason: str | None = None


@dataclass(frozen=True)
class Prediction:
    """What the network says of one recording.

    emotion: None where there is nothing to answer, such as silence; then reason says why, in a few words, and probabilities is
    empty. probabilities and gender_probabilities: by label. gender, gender_probabilities: None for a network without the
    gender head, or where there is nothing to answer. seconds: length of the recording. attention (n_attn, T): weights of the
    first window that is answered, which end at times (T,), in seconds; None for a network without attention, and from the
    engine for many files. timeline: every window of the recording. error: of predict_many, why the recording cannot be read.
    """

    emotion: str | None
    probabilities: dict[str, float]
    gender: str | None
    gender_probabilities: dict[str, float] | None
    seconds: float
    attention: Array | None = field(default=None, repr=False)
    times: Array | None = field(default=None, repr=False)
    reason: str | None = None
    timeline: list[Window] = field(default_factory=list, repr=False)
    error: str | None = None


class Heard(NamedTuple):
    """One window: its length in samples at 16 kHz, and why it is not answered, or its logits and its attention."""

    samples: int
    reason: str | None
    emotion: Array | None = None
    gender: Array | None = None
    attention: Array | None = None


class Model:
    """A trained network, read from a model file. ValueError where the file is not one. Any number of threads may share it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if path == SHIPPED and not os.path.exists(path):
            raise ValueError(
                f"{path}: is missing, so this copy of npser lacks its model; install it anew, or name a model file"
            )
        self.checkpoint = checkpoint.load(path)
        self.config = self.checkpoint.config
        self.emotions, self.genders = self.checkpoint.emotions, self.checkpoint.genders

    def predict(self, audio: Audio, sample_rate: int | None = None) -> Prediction:
        """Classify a recording.

        Parameters
        ----------
        audio : path, binary file or (n,) array
            An audio file, read in blocks: it may last for hours. Or samples of one channel; then sample_rate, in Hz, is needed.
        sample_rate : int, optional

        Returns
        -------
        Prediction
            Of a recording longer than the network's window (7.5 s), the mean log-probability over half-overlapping windows
            that are not silent. ``emotion`` is None, with a ``reason``, for silence, for faint steady noise, and for less than
            0.3 s.

        Raises
        ------
        ValueError
            For audio that is missing, empty, undecodable or not finite.
        """
        return self.answer([self.hear(x) for x in self.windows(audio, sample_rate)])

    def hear(self, x: Array) -> Heard:
        """One window (n,) at 16 kHz."""
        reason = unheard(x)
        return Heard(len(x), reason) if reason else Heard(len(x), None, *self.forward(self.network_input(x)))

    def predict_many(
        self, audio: Iterable[Audio], sample_rate: int | None = None, engine: str = "auto", threads: int | None = None
    ) -> Iterator[Prediction]:
        """Classify recordings, in their order, each as soon as it and those before it are done.

        Parameters
        ----------
        audio : iterable of paths, binary files or (n,) arrays
            Any number; it is read as the predictions are taken, by the compiled engine some eight recordings a thread ahead.
        sample_rate : int, optional
            Of the arrays, in Hz.
        engine : {"auto", "lite", "numba"}
            lite: as `predict`, one after the other. numba: the compiled engine, several at a time, which takes a second to
            start; to 1e-5 the same probabilities, without attention; BLAS has one thread in this process until the last one is
            taken or the iterator closed. auto: numba where len(audio) is at least 100.
        threads : int, optional
            Of the compiled engine; all cores by default. Results do not depend on it.

        Yields
        ------
        Prediction
            One a recording. That of a recording that cannot be read has an ``error``, and the others go on.

        Raises
        ------
        ValueError
            For another engine or number of threads, or where audio is a single path.
        """
        engine = engine_for(engine, len(audio) if isinstance(audio, Sized) else 0)
        if threads is not None and threads < 1:
            raise ValueError(f"threads is {threads}; expected at least 1")
        if (
            isinstance(audio, (str, os.PathLike))
            or hasattr(audio, "read")
            or (isinstance(audio, np.ndarray) and audio.ndim == 1)
        ):
            raise ValueError(f"audio is one recording, of type {type(audio).__name__}; expected a list of recordings")
        if engine == "numba":
            from npser import many  # here and not above: it imports Numba

            return many.predict(self, audio, sample_rate, threads)
        return (self._predict_or_tell(one, sample_rate) for one in audio)

    def _predict_or_tell(self, audio: Audio, sample_rate: int | None) -> Prediction:
        try:
            return self.predict(audio, sample_rate)
        except UNREADABLE as error:
            return unreadable(error)

    def windows(self, audio: Audio, sample_rate: int | None = None) -> Iterator[Array]:
        """Half-overlapping windows of a recording at 16 kHz, each (n,) float32; arguments and errors as of predict."""
        seconds = self.config.max_seconds
        if not isinstance(audio, np.ndarray):
            if not isinstance(audio, (str, os.PathLike)) and not hasattr(audio, "read"):
                raise ValueError(f"audio is of type {type(audio).__name__}; expected a path, a binary file or an array")
            return features.read_windows(audio, seconds, cut=False)
        if audio.dtype.kind != "f":
            raise ValueError(f"audio has type {audio.dtype}; expected float samples (of int16, divide by 32768)")
        if not features.is_sound(audio):
            raise ValueError(f"audio has shape {audio.shape}; expected (n,) finite samples of one channel")
        return features.windows([audio.astype(np.float32)], features.whole_rate(sample_rate), seconds, cut=False)

    def answer(self, heard: Sequence[Heard]) -> Prediction:
        """The prediction that the windows of a recording add up to. The temperature is that of the emotions."""
        half = self.config.max_seconds / 2
        timeline: list[Window] = []
        emotion_log_p: list[Array] = []
        gender_log_p: list[Array] = []
        attention = times = None
        for k, (samples, reason, emotion, gender, a) in enumerate(heard):
            span = (k * half, k * half + samples / SAMPLE_RATE)
            if emotion is None or gender is None:
                timeline.append(Window(*span, None, {}, {}, reason))
                continue
            emotion_log_p.append(log_softmax(emotion / self.checkpoint.temperature))
            gender_log_p.append(log_softmax(gender))
            emotions, genders = self._named(emotion_log_p[-1:], gender_log_p[-1:])
            timeline.append(Window(*span, likeliest(emotions), emotions, genders))
            if attention is None and a is not None:
                attention, times = a, k * half + (np.arange(a.shape[1]) + 1) * self.config.n_pw * HOP / SAMPLE_RATE
        seconds = timeline[-1].end
        if not emotion_log_p:
            reasons = " and ".join(dict.fromkeys(window.reason for window in timeline if window.reason))
            return Prediction(None, {}, None, None, seconds, reason=reasons, timeline=timeline)
        emotions, genders = self._named(emotion_log_p, gender_log_p)
        return Prediction(
            likeliest(emotions),
            emotions,
            likeliest(genders),
            genders or None,
            seconds,
            attention,
            times,
            timeline=timeline,
        )

    def _named(self, emotion_log_p: list[Array], gender_log_p: list[Array]) -> tuple[dict[str, float], dict[str, float]]:
        """Probabilities by label, of the mean log-probability over windows."""
        emotions = dict(zip(self.emotions, _mean_p(emotion_log_p), strict=True))
        return emotions, dict(zip(self.genders, _mean_p(gender_log_p), strict=True))

    def network_input(self, x: Array) -> Array:
        """Waveform (n,) at 16 kHz -> normalised bands, deltas, delta-deltas (L, d_spec)."""
        size = features.window_samples(self.config.max_seconds)
        S = features.log_mel(x, size if self.config.pad else None, self.config.level)
        S = features.heard(S, self.config.bands, self.config.level)
        if self.config.pad:
            S = np.pad(S, ((0, size // HOP + 1 - len(S)), (0, 0)), constant_values=FLOOR_DB)
        L = len(S)
        centre = np.clip(np.arange(L), 4, L - 5) if L >= 9 else np.arange(L)
        nine = S[np.clip(centre[:, None] + np.arange(-4, 5), 0, L - 1)]  # (L, 9, bands)
        k = np.arange(-4, 5, dtype=np.float32)
        line, parabola = k / (k @ k), (3 * k**2 - 20) / 462  # Savitzky-Golay filters of first and second order
        X = np.concatenate([S, np.einsum("lkc,k->lc", nine, line), np.einsum("lkc,k->lc", nine, parabola)], axis=1)
        return (X - self.checkpoint.tensors["norm.mean"]) / self.checkpoint.tensors["norm.std"]

    def forward(self, X: Array) -> tuple[Array, Array, Array | None]:
        """Equations (1)-(9), one utterance. X (L, d_spec) -> emotion (classes,), gender (2,) or (0,), a (n_attn, T) or None."""
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


def engine_for(engine: str, recordings: int) -> str:
    """What "auto" means for so many recordings; ValueError for an engine that there is not."""
    if engine not in ("auto", "lite", "numba"):
        raise ValueError(f"engine is {engine!r}; expected auto, lite or numba")
    return ("numba" if recordings >= MANY else "lite") if engine == "auto" else engine


def likeliest(probabilities: dict[str, float]) -> str | None:
    """The label of the highest probability; of none, None."""
    return max(probabilities, key=probabilities.__getitem__, default=None)


def unreadable(error: Exception) -> Prediction:
    """What predict_many yields for a recording that cannot be read."""
    return Prediction(None, {}, None, None, 0.0, error=str(error) or type(error).__name__)


def _mean_p(log_p: list[Array]) -> list[float]:
    """Probabilities of the mean log-probability over windows."""
    return np.exp(log_softmax(np.mean(log_p, axis=0))).tolist()
