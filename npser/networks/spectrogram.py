"""Spectra of even bins, up to 4 kHz: the picture that Satt et al. (2017) show their network, as far as it is remembered."""

from __future__ import annotations

import functools
from typing import Any, cast

import numpy as np
import scipy.fft

from npser.features import FLOOR_DB, SAMPLE_RATE, Kind, power_to_db

Array = np.ndarray

FRAME, HOP = 640, 160  # samples of a frame and from one to the next: 40 and 10 ms
N_FFT = 800
BIN_HZ = SAMPLE_RATE // N_FFT
BINS = 200  # up to 4 kHz
AT_ONCE = 64  # frames that are computed together: they fit into the cache
SETTINGS: dict[str, Any] = {  # of a model file
    "spectrum": "log power",
    "sample_rate": SAMPLE_RATE,
    "frame": FRAME,
    "hop": HOP,
    "n_fft": N_FFT,
    "bins": BINS,
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
        spectrum = cast(Array, scipy.fft.rfft(cut_up[t : t + AT_ONCE] * _hamming(), N_FFT))[:, :BINS]
        power = (np.real(spectrum) ** 2 + np.imag(spectrum) ** 2) * (2 / _hamming().sum()) ** 2
        parts.append(power_to_db(np.maximum(power, 10 ** (FLOOR_DB / 10))).astype(np.float32))
    return np.concatenate(parts)


def kind(seconds: float) -> Kind:
    """These spectra as features of a store."""
    return Kind(spectra, SETTINGS, seconds, pad=False, width=BINS, hop=HOP, name="spectra")


@functools.cache
def _hamming() -> Array:
    """The periodic window, (FRAME,)."""
    return 0.54 - 0.46 * np.cos(2 * np.pi / FRAME * np.arange(FRAME))
