"""Augmentation of the training part: every time an utterance is met, it is spoken a little faster or slower, by a somewhat
larger or smaller speaker, and with parts of it hidden.

Stretching and warping work on the stored bands, before deltas are taken; masks on the normalised input, where 0 is the mean of
the training part. Masks are those of SpecAugment (Park et al., Interspeech 2019), the warp is vocal tract length perturbation
(Jaitly & Hinton, 2013) on the mel axis.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from npser.features import N_MELS
from npser.store import Store

STRIPES = 2  # of each kind
LONGEST = 4  # a stripe of frames hides at most this part of an utterance: one fourth


def bend(store: Store, window: np.ndarray, stretch: float, warp: float, rng: np.random.Generator) -> Store:
    """Some windows stretched in time and warped along the mel axis, as a store of their own.

    stretch, warp: duration and mel axis are multiplied by factors drawn from 1 - stretch to 1 + stretch, and so on.
    """
    factors = 1 + rng.uniform(-1, 1, (len(window), 2)) * (stretch, warp)
    pieces = []
    for w, (longer, wider) in zip(window, factors, strict=True):
        S = store.rows[store.bounds[w] : store.bounds[w + 1]]
        frames = max(1, round(len(S) * longer))
        S = _interpolate(S, np.linspace(0, len(S) - 1, min(frames, store.pad_frames or frames)))
        pieces.append(_interpolate(S.T, np.minimum(np.arange(N_MELS) / wider, N_MELS - 1)).T)
    samples = np.round(store.samples[window] * factors[:, 0]).astype(np.int64)
    bounds, each = np.cumsum([0, *map(len, pieces)]), np.arange(len(window) + 1)
    return dataclasses.replace(
        store, rows=np.concatenate(pieces), bounds=bounds, samples=samples, recordings=each, errors={}, mapping=None
    )


def _interpolate(S: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Rows of S (L, C) at fractional positions at (M,), linearly -> (M, C)."""
    below = at.astype(np.int64)
    part = (at - below).astype(S.dtype)[:, None]
    return S[below] * (1 - part) + S[np.minimum(below + 1, len(S) - 1)] * part


def mask(X: np.ndarray, bounds: np.ndarray, stored: np.ndarray, bands: int, frames: int, rng: np.random.Generator) -> None:
    """Blank two stripes of bands and two of frames of each utterance, in place.

    X (N, 384) statics, deltas and delta-deltas of the same bands; stored (B,): rows of each utterance that are not padding;
    bands, frames: the widest stripes.
    """
    kinds = X.reshape(len(X), -1, N_MELS)
    for start, length in zip(bounds[:-1], stored, strict=True):
        for _ in range(STRIPES):
            width = rng.integers(bands + 1)
            first = rng.integers(N_MELS - width + 1)
            kinds[start : start + length, :, first : first + width] = 0
            width = rng.integers(min(frames, length // LONGEST) + 1)
            first = start + rng.integers(length - width + 1)
            X[first : first + width] = 0
