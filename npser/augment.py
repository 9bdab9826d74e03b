"""Augmentation of the training part: every time an utterance is met, it is spoken a little faster or slower, by a somewhat
larger or smaller speaker, and with parts of it hidden.

Stretching and warping work on the stored bands, before deltas are taken; masks on the normalised input, where 0 is the mean of
the training part. Masks are those of SpecAugment (Park et al., Interspeech 2019), the warp is vocal tract length perturbation
(Jaitly & Hinton, 2013) on the mel axis.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from npser.config import Config
from npser.features import FLOOR_DB, N_MELS
from npser.store import Store

NARROW = 12, 93  # bands whose centres lie near 300 and 3,400 Hz, the limits of a telephone line
STRIPES = 2  # of each kind
LONGEST = 4  # a stripe of frames hides at most this part of an utterance: one fourth


def bend(store: Store, window: np.ndarray, c: Config, rng: np.random.Generator) -> Store:
    """Some windows stretched in time, warped along the mel axis and sent through a bad channel, as a store of their own.

    Duration is multiplied by factors drawn from 1 - c.stretch to 1 + c.stretch, the mel axis likewise by c.warp; c.channel: see
    transmitted.
    """
    factors = 1 + rng.uniform(-1, 1, (len(window), 2)) * (c.stretch, c.warp)
    pieces = []
    for w, (longer, wider) in zip(window, factors, strict=True):
        S = store.rows[store.bounds[w] : store.bounds[w + 1]]
        frames = max(1, round(len(S) * longer))
        S = _interpolate(S, np.linspace(0, len(S) - 1, min(frames, store.pad_frames or frames)))
        S = _interpolate(S.T, np.minimum(np.arange(N_MELS) / wider, N_MELS - 1)).T
        pieces.append(transmitted(S, c.channel, rng) if c.channel else S)
    samples = np.round(store.samples[window] * factors[:, 0]).astype(np.int64)
    bounds, each = np.cumsum([0, *map(len, pieces)]), np.arange(len(window) + 1)
    return dataclasses.replace(
        store, rows=np.concatenate(pieces), bounds=bounds, samples=samples, recordings=each, errors={}, mapping=None
    )


def transmitted(S: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Bands S (L, 128), dB, with the noise of a microphone and the band-width of a telephone line, each in that share of cases.

    White noise is the same in all bands, 10 to 50 dB below the mean of their powers. A narrow band loses the bands below
    NARROW[0] and above a limit from NARROW[1] on, down to what a converter's last bit leaves.
    """
    S = np.array(S)
    if rng.random() < share:
        level = 10 * np.log10(np.mean(10 ** (S / 10)))
        noise = rng.exponential(size=S.shape).astype(np.float32) * np.float32(10 ** ((level - rng.uniform(10, 50)) / 10))
        S = 10 * np.log10(10 ** (S / 10) + noise)
    if rng.random() < share:
        floor = np.float32(rng.uniform(FLOOR_DB, FLOOR_DB + 30))
        first, last = rng.integers(NARROW[0] + 1), rng.integers(NARROW[1], N_MELS)
        S[:, :first] = np.minimum(S[:, :first], floor)
        S[:, last:] = np.minimum(S[:, last:], floor)
    return S


def _interpolate(S: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Rows of S (L, C) at fractional positions at (M,), linearly -> (M, C)."""
    below = at.astype(np.int64)
    part = (at - below).astype(S.dtype)[:, None]
    return S[below] * (1 - part) + S[np.minimum(below + 1, len(S) - 1)] * part


def mask(X: np.ndarray, bounds: np.ndarray, stored: np.ndarray, c: Config, rng: np.random.Generator) -> None:
    """Blank two stripes of at most c.mask_bands bands and two of at most c.mask_frames frames of each utterance, in place.

    X (N, 384) statics, deltas and delta-deltas of the same bands; stored (B,): rows of each utterance that are not padding.
    """
    kinds = X.reshape(len(X), -1, N_MELS)
    for start, length in zip(bounds[:-1], stored, strict=True):
        for _ in range(STRIPES):
            width = rng.integers(c.mask_bands + 1)
            first = rng.integers(N_MELS - width + 1)
            kinds[start : start + length, :, first : first + width] = 0
            width = rng.integers(min(c.mask_frames, length // LONGEST) + 1)
            first = start + rng.integers(length - width + 1)
            X[first : first + width] = 0
