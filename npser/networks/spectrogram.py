"""Pictures of the spectrum.

Bins of 20 Hz up to 4 kHz, as Satt et al. (2017) are remembered to have shown their network, and the 40 mel bands of Chen et al.
(2018) with their slopes.
"""

from __future__ import annotations

import functools
from typing import Any, cast

import numpy as np
import scipy.fft

from npser.features import FLOOR_DB, NO_LEVEL, SAMPLE_RATE, Kind, power_to_db
from npser.frame_features import mel_filters, with_regression_deltas

Array = np.ndarray

FRAME, HOP = 640, 160  # samples of a frame and from one to the next: 40 and 10 ms
N_FFT = 800
BIN_HZ = SAMPLE_RATE // N_FFT
BINS = 200  # up to 4 kHz
AT_ONCE = 24  # frames that are computed together: they fit into the cache
SETTINGS: dict[str, Any] = {  # of a model file
    "spectrum": "log power",
    "sample_rate": SAMPLE_RATE,
    "frame": FRAME,
    "hop": HOP,
    "n_fft": N_FFT,
    "bins": BINS,
    "floor_db": FLOOR_DB,
}
MEL_FRAME, MEL_FFT, BANDS = 400, 512, 40
MEL_SETTINGS: dict[str, Any] = {
    "spectrum": "mel bands of unit variance",
    "sample_rate": SAMPLE_RATE,
    "frame": MEL_FRAME,
    "hop": HOP,
    "n_fft": MEL_FFT,
    "n_mels": BANDS,
    "floor_db": FLOOR_DB,
}


def spectra(x: Array) -> Array:
    """A waveform x (n,) at 16 kHz -> the power of each bin in dB, at least FLOOR_DB, (n // 160 + 1, 200) float32.

    Frame t is centred at sample 160 t, under a Hamming window; the ends are reflected. A sine of full scale has 0 dB, less
    what lies between two bins.
    """
    frames, half = len(x) // HOP + 1, FRAME // 2
    cut_up = np.lib.stride_tricks.sliding_window_view(np.pad(x, (half, half), mode="reflect"), FRAME)[::HOP][:frames]
    parts = []
    for t in range(0, frames, AT_ONCE):
        spectrum = cast(Array, scipy.fft.rfft(cut_up[t : t + AT_ONCE] * _hamming(FRAME), N_FFT))[:, :BINS]
        power = (np.real(spectrum) ** 2 + np.imag(spectrum) ** 2) * (2 / _hamming(FRAME).sum()) ** 2
        parts.append(power_to_db(np.maximum(power, 10 ** (FLOOR_DB / 10))).astype(np.float32))
    return np.concatenate(parts)


def kind(seconds: float) -> Kind:
    """These spectra as features of a store."""
    return Kind(spectra, SETTINGS, seconds, pad=False, width=BINS, hop=HOP, name="spectra")


def mel_spectra(x: Array) -> Array:
    """A waveform x (n,) at 16 kHz -> 40 mel bands of 25 ms every 10 ms in dB, (n // 160 + 1, 40) float32.

    The waveform is brought to mean 0 and variance 1 first, where it is not silence. Frame t is centred at sample 160 t, under a
    Hamming window; the ends are reflected.
    """
    y = x.astype(np.float64) - x.mean(dtype=np.float64)
    rms = y.std()
    y = y / rms if rms > NO_LEVEL else y
    frames, half = len(x) // HOP + 1, MEL_FRAME // 2
    cut_up = np.lib.stride_tricks.sliding_window_view(np.pad(y, (half, half), mode="reflect"), MEL_FRAME)[::HOP][:frames]
    parts = []
    for t in range(0, frames, AT_ONCE):
        spectrum = cast(Array, scipy.fft.rfft(cut_up[t : t + AT_ONCE] * _hamming(MEL_FRAME), MEL_FFT))
        power = (np.real(spectrum) ** 2 + np.imag(spectrum) ** 2) @ mel_filters(MEL_FFT, BANDS)
        parts.append(power_to_db(np.maximum(power, 10 ** (FLOOR_DB / 10))).astype(np.float32))
    return np.concatenate(parts)


def with_slopes(S: Array) -> Array:
    """S (L, C) -> (L, 3 C): bands, their deltas by regression over two frames each side, and the deltas of these."""
    deltas = with_regression_deltas(S)
    return np.concatenate([deltas, with_regression_deltas(deltas[:, S.shape[1] :])[:, S.shape[1] :]], axis=1)


def mel_kind(seconds: float) -> Kind:
    """These bands as features of a store."""
    return Kind(mel_spectra, MEL_SETTINGS, seconds, pad=False, width=BANDS, hop=HOP, name="40 mel bands")


@functools.cache
def _hamming(samples: int) -> Array:
    """The periodic window, (samples,)."""
    return 0.54 - 0.46 * np.cos(2 * np.pi / samples * np.arange(samples))
