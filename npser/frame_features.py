"""Frame features of 25 ms every 10 ms: cepstrum, energy, pitch, voicing, harmonicity, zero crossings.

    S = frame_features(x)              # x (n,) -> (L, 18)
    X = with_regression_deltas(S)      # (L, 36)

DNN-ELM, BLSTM-ELM and local attention were published with them; each takes some of the columns. The pitch is that of
P. Boersma (1993), Accurate short-term analysis of the fundamental frequency and the harmonics-to-noise ratio of a sampled
sound, IFA Proceedings 17:97-110, without its search for the best path. NumPy and SciPy's FFT: prediction starts without Numba.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import scipy.fft

from npser.features import FLOOR_DB, SAMPLE_RATE, Kind, power_to_db

Array = np.ndarray

HOP, FRAME = 160, 400  # samples from one frame to the next, and of a frame: 10 and 25 ms
N_FFT = 512
N_MELS, N_MFCC = 26, 12  # bands, and coefficients of their levels: the first to the twelfth
PRE_EMPHASIS = 0.97
PITCH_FRAME = 768  # samples whose autocorrelation is taken: 48 ms, three periods of the lowest voice
PITCH_FFT = 1125  # above PITCH_FRAME + LAGS[1], so that nothing wraps around; odd: without a bin of its own at half the rate
FINE = 2  # values of the autocorrelation a sample
LAGS = (32, 256)  # the shortest and the longest period, samples: 2 and 16 ms, 500 and 62.5 Hz
OCTAVE_COST = 0.06  # that a period has to be better than one of half its length, whose multiple it may be
VOICED = 0.5  # the autocorrelation of a voiced frame, at least
QUIET_DB = 30.0  # below the loudest frame: what is quieter is not voiced, for a pause may hum
HNR_DB = (-20.0, 40.0)
AT_ONCE = 16  # frames that are computed together: they fit into the cache
COLUMNS = (
    *(f"mfcc{k}" for k in range(1, N_MFCC + 1)),
    "log_energy",  # dB
    "period",  # ms
    "hnr",  # dB
    "log_f0",  # ln Hz
    "voicing",
    "zero_crossings",
)
SETTINGS: dict[str, Any] = {  # of a model file
    "frames": list(COLUMNS),
    "sample_rate": SAMPLE_RATE,
    "hop": HOP,
    "frame": FRAME,
    "n_fft": N_FFT,
    "n_mels": N_MELS,
    "pre_emphasis": PRE_EMPHASIS,
    "floor_db": FLOOR_DB,
    "pitch_frame": PITCH_FRAME,
    "lags": list(LAGS),
    "octave_cost": OCTAVE_COST,
    "voiced": VOICED,
    "quiet_db": QUIET_DB,
    "hnr_db": list(HNR_DB),
}


def frame_features(x: Array) -> Array:
    """Frame features of a waveform.

    Parameters
    ----------
    x : (n,) float32
        Samples at 16 kHz. Frame t is centred at sample 160 t; the ends are reflected.

    Returns
    -------
    (n // 160 + 1, 18) float32
        See COLUMNS; the systems of Table 2 were published with these.
    """
    frames, half = len(x) // HOP + 1, PITCH_FRAME // 2
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, (half, half), mode="reflect"), PITCH_FRAME)[::HOP][:frames]
    S = np.concatenate([_columns(windows[t : t + AT_ONCE].astype(np.float64)) for t in range(0, frames, AT_ONCE)])
    energy, f0 = COLUMNS.index("log_energy"), COLUMNS.index("log_f0")
    S[S[:, energy] < S[:, energy].max() - QUIET_DB, f0] = 0
    three = np.lib.stride_tricks.sliding_window_view(np.pad(S[:, f0], 1, mode="edge"), 3)
    S[:, f0] = np.median(three, axis=1)
    return S.astype(np.float32)


def _columns(windows: Array) -> Array:
    """Windows of the pitch (L, PITCH_FRAME), in whose middle the frames lie -> (L, 18)."""
    start = (PITCH_FRAME - FRAME) // 2
    frames = windows[:, start : start + FRAME]
    level = frames - frames.mean(axis=1, keepdims=True)  # a constant has neither energy nor crossings
    energy = power_to_db(np.maximum((level**2).mean(axis=1), 10 ** (FLOOR_DB / 10)))
    negative = level < 0
    crossings = (negative[:, 1:] != negative[:, :-1]).mean(axis=1)
    period, voicing = _pitch(windows - windows.mean(axis=1, keepdims=True))
    hnr = power_to_db(np.maximum(voicing, 1e-6) / np.maximum(1 - voicing, 1e-6)).clip(*HNR_DB)
    log_f0 = np.where(voicing >= VOICED, np.log(SAMPLE_RATE / period), 0.0)
    rest = np.stack([energy, period * (1000 / SAMPLE_RATE), hnr, log_f0, voicing, crossings], axis=1)
    emphasised = frames - PRE_EMPHASIS * windows[:, start - 1 : start + FRAME - 1]
    return np.concatenate([_mfcc(emphasised), rest], axis=1)


def _mfcc(frames: Array) -> Array:
    """Frames with pre-emphasis (L, FRAME) -> coefficients 1 to 12 of the levels of the mel bands in dB, (L, 12).

    An orthonormal DCT without liftering, which normalisation would undo.
    """
    spectrum = cast(Array, scipy.fft.rfft(frames * _hamming(), N_FFT))
    power = (np.real(spectrum) ** 2 + np.imag(spectrum) ** 2) @ mel_filters(N_FFT, N_MELS)
    levels = power_to_db(np.maximum(power, 10 ** (FLOOR_DB / 10)))
    return cast(Array, scipy.fft.dct(levels, norm="ortho"))[:, 1 : N_MFCC + 1]


def _pitch(windows: Array) -> tuple[Array, Array]:
    """Windows (L, PITCH_FRAME) without their mean -> period in samples, and voicing from 0 to 1, both (L,).

    The autocorrelation of the sound is that of the windowed sound by that of the window. Its highest maximum is taken, with a
    cost for longer periods, and the vertex of the parabola through it and its neighbours. Without any maximum the period is
    the shortest one and the voicing 0.
    """
    first, last = FINE * LAGS[0], FINE * LAGS[1]
    r = _autocorrelation(windows * _hann())
    r = r / (_of_window() * np.maximum(r[:, :1], 1e-20))
    before, here, after = r[:, first - 1 : last], r[:, first : last + 1], r[:, first + 1 : last + 2]
    octaves = np.log2(np.arange(first, last + 1) / first)
    peaks = np.where((here > before) & (here >= after) & (here > 0), here - OCTAVE_COST * octaves, -1.0)
    best, frame = peaks.argmax(axis=1), np.arange(len(r))
    found = peaks[frame, best] > -1
    a, b, c = (part[frame, best] for part in (before, here, after))
    shift = np.where(found, (c - a) / (2 * np.where(found, 2 * b - a - c, 1.0)), 0.0)
    return (first + best + shift) / FINE, np.where(found, b + (c - a) * shift / 4, 0.0).clip(0, 1)


def _autocorrelation(windows: Array) -> Array:
    """windows (L, PITCH_FRAME) -> (L, FINE * LAGS[1] + 2): from lag 0 on, interpolated, for a peak may be narrow."""
    spectrum = cast(Array, scipy.fft.rfft(windows, PITCH_FFT))
    r = cast(Array, scipy.fft.irfft(np.real(spectrum) ** 2 + np.imag(spectrum) ** 2, FINE * PITCH_FFT))
    return r[:, : FINE * LAGS[1] + 2]


def with_regression_deltas(S: Array) -> Array:
    """S (L, C) -> (L, 2 C): statics, and their slopes by regression over two frames each side; the ends are repeated."""
    L = len(S)
    padded = np.pad(S, ((2, 2), (0, 0)), mode="edge")
    deltas = (padded[3 : L + 3] - padded[1 : L + 1] + 2 * (padded[4 : L + 4] - padded[:L])) / 10
    return np.concatenate([S, deltas], axis=1)


def columns_of(S: Array, names: Sequence[str]) -> Array:
    """Some columns of S (L, 18), by their names, with their deltas: (L, 2 len(names))."""
    return with_regression_deltas(S[:, [COLUMNS.index(name) for name in names]])


def frame_kind(seconds: float) -> Kind:
    """Frame features as features of a store."""
    return Kind(frame_features, SETTINGS, seconds, pad=False, width=len(COLUMNS), hop=HOP, name="frame features")


@functools.cache
def _hamming() -> Array:
    """The periodic window, (FRAME,)."""
    return 0.54 - 0.46 * np.cos(2 * np.pi / FRAME * np.arange(FRAME))


@functools.cache
def _hann() -> Array:
    """The symmetric window without zeros, (PITCH_FRAME,)."""
    return 0.5 - 0.5 * np.cos(2 * np.pi / PITCH_FRAME * (np.arange(PITCH_FRAME) + 0.5))


@functools.cache
def _of_window() -> Array:
    """The autocorrelation of the pitch's window, 1 at lag 0: (1, FINE * LAGS[1] + 2)."""
    r = _autocorrelation(_hann()[None])
    return r / r[0, 0]


@functools.cache
def mel_filters(n_fft: int, bands: int) -> Array:
    """Triangles of height 1, equally wide in mel = 2595 log10(1 + f / 700), (n_fft // 2 + 1, bands)."""
    top = 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, bands + 2) / 2595) - 1)
    bins = np.linspace(0, SAMPLE_RATE / 2, n_fft // 2 + 1)[:, None]
    rising = (bins - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - bins) / np.diff(edges)[1:]
    return np.maximum(0, np.minimum(rising, falling))
