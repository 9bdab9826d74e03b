"""The glottal flow of speech, by iterative adaptive inverse filtering (Alku, Speech Communication 11, 1992) of short frames.

    flow = glottal_flow(x)  # x (n,) at 16 kHz -> (n,)

Linear prediction tells the vocal tract from the source in two rounds: first a crude source (order 1), then a better one (order
8) is taken off the speech before the tract (order 20) is estimated. The speech, filtered by the inverse of the tract, is
integrated, which undoes the lips' radiation. Orders, ramp, integrator and high-pass are those of COVAREP's iaif for 16 kHz;
frames of 32 ms, their overlap and what counts as silence are choices of npser. NumPy only, many frames at a time: arrays have
a column for each frame.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import scipy.fft

from npser import features
from npser.features import N_MELS, SAMPLE_RATE, log_mel

Array = np.ndarray

FRAME, HOP = 512, 256  # samples: 32 ms, half overlapping
CRUDE, TRACT, SOURCE = 1, 20, 8  # orders of prediction
LEAK = 0.99  # of the integrator: y[n] = x[n] + LEAK y[n - 1]
STOP, PASS = 40.0, 70.0  # Hz: below the first the high-pass lets nothing through, above the second everything
LOADING = 1e-9  # of the autocorrelation at lag 0: keeps the prediction solvable
SILENT = 1e-10  # mean power of a frame that has no flow: the floor of the log-mel bands
AT_ONCE = 128  # frames that are computed together: they fit into the cache
SETTINGS = {
    "frame": FRAME,
    "hop": HOP,
    "orders": [CRUDE, TRACT, SOURCE, TRACT],
    "leak": LEAK,
    "high_pass_hz": PASS,
}  # of a model file


def glottal_flow(x: Array) -> Array:
    """The flow through the glottis that speech came from.

    Parameters
    ----------
    x : (n,)
        Samples at 16 kHz.

    Returns
    -------
    (n,) float32
        At the level that inverse filtering gives: no frame is scaled, so loud speech has a strong flow. Silence gives zeros.
    """
    half = FRAME - HOP
    frames = -(-len(x) // HOP) + 1
    padded = np.pad(high_pass(x), (half, frames * HOP - len(x)), mode="reflect")
    cut_up = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::HOP][:frames]
    flow = np.zeros((frames + 1, HOP))  # frames begin at its rows
    for first in range(0, frames, AT_ONCE):
        part = cut_up[first : first + AT_ONCE].T
        windowed = flow_of_frames(np.ascontiguousarray(part)) * _hann()
        count = part.shape[1]
        flow[first : first + count] += windowed[:HOP].T
        flow[first + 1 : first + count + 1] += windowed[HOP:].T
    return flow.ravel()[half : half + len(x)].astype(np.float32)


def _hann() -> Array:
    """The periodic window, (FRAME, 1): half overlapped it adds up to one."""
    return (0.5 - 0.5 * np.cos(2 * np.pi / FRAME * np.arange(FRAME)))[:, None]


def high_pass(x: Array) -> Array:
    """x (n,) without what lies below the voice, (n,) float64. Reflected ends of 50 ms keep the edges from wrapping around."""
    margin = SAMPLE_RATE // 20
    length = cast(int, scipy.fft.next_fast_len(len(x) + 2 * margin, real=True))
    padded = np.pad(x.astype(np.float64), (margin, length - len(x) - margin), mode="reflect")
    spectrum = cast(Array, scipy.fft.rfft(padded))
    hz = np.arange(len(spectrum)) * (SAMPLE_RATE / length)
    passed = 0.5 - 0.5 * np.cos(np.pi * np.clip((hz - STOP) / (PASS - STOP), 0, 1))
    return cast(Array, scipy.fft.irfft(spectrum * passed, length))[margin : margin + len(x)]


def flow_of_frames(speech: Array) -> Array:
    """The flow of frames (n, K) of speech, (n, K); that of silent ones is 0.

    A ramp from minus the first sample up to it stands before each frame, in which the filters settle; it is cut off again.
    """
    n = len(speech)
    heard = np.mean(speech * speech, axis=0) > SILENT
    signal = np.concatenate([np.linspace(-speech[0], speech[0], TRACT + 1), speech])
    without_crude = inverse_filtered(signal, predictor(speech, CRUDE))[-n:]
    first_flow = integrated(inverse_filtered(signal, predictor(without_crude, TRACT)))[-n:]
    without_source = integrated(inverse_filtered(signal, predictor(first_flow, SOURCE)))[-n:]
    flow = integrated(inverse_filtered(signal, predictor(without_source, TRACT)))[-n:]
    return np.where(heard, flow, 0.0)


def predictor(y: Array, order: int) -> Array:
    """The inverse filters (order + 1, K), first coefficient 1, of frames y (n, K): linear prediction of the windowed frames."""
    n = len(y)
    windowed = y * (0.5 - 0.5 * np.cos(2 * np.pi / (n + 1) * np.arange(1, n + 1)))[:, None]
    r = np.stack([np.einsum("nk,nk->k", windowed[lag:], windowed[: n - lag]) for lag in range(order + 1)])
    r[0] *= 1 + LOADING
    return levinson(r)


def levinson(r: Array) -> Array:
    """Levinson and Durbin's recursion: autocorrelations r (order + 1, K) -> a (order + 1, K), a[0] = 1.

    a solves sum_j a[j] r[|i - j|] = 0 for i = 1, ..., order; of zeros nothing is predicted.
    """
    a = np.zeros_like(r)
    a[0] = 1
    error = np.where(r[0] > 0, r[0], 1.0)
    for i in range(1, len(r)):
        reflection = -(a[:i] * r[i:0:-1]).sum(axis=0) / error
        a[1 : i + 1] += reflection * a[i - 1 :: -1]
        error = error * (1 - reflection**2)
    return a


def inverse_filtered(signal: Array, a: Array) -> Array:
    """y[n] = sum_j a[j] signal[n - j] for signals (n, K), from zeros on; a (order + 1, K)."""
    y = signal.copy()
    for j in range(1, len(a)):
        y[j:] += a[j] * signal[:-j]
    return y


def integrated(y: Array) -> Array:
    """The leaky integral of y (n, K), in place."""
    for n in range(1, len(y)):
        y[n] += LEAK * y[n - 1]
    return y


def flow_kind(seconds: float) -> features.Kind:
    """Features of a store: the log-mel bands of the speech | those of its glottal flow."""

    def rows(x: Array) -> Array:
        return np.concatenate([log_mel(x), log_mel(glottal_flow(x))], axis=1)

    return features.Kind(rows, {**features.SETTINGS, "glottal_flow": SETTINGS}, seconds, pad=False, width=2 * N_MELS)
