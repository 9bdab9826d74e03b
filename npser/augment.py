"""Augmentation of the training part: each time an utterance is met, it is a little faster or slower, spoken by a larger or
smaller speaker, in another room, into another microphone, and maybe ended by somebody else.

All of it works on the stored bands, before deltas are taken. The warp is vocal tract length perturbation on the mel axis
(Jaitly & Hinton, 2013).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from npser.config import Config
from npser.features import FLOOR_DB, HOP, N_MELS, SAMPLE_RATE
from npser.store import Store

NARROW = 12, 93  # bands whose centres lie near 300 and 3,400 Hz, the limits of a telephone line
TILT_DB = 6.0  # at most, of the lowest and of the highest band, in opposite directions
REVERBERATION = 0.2, 1.0  # seconds in which an echo falls by 60 dB
SPLICE = 0.2, 0.8  # part of an utterance that stays before another one's end


def augmented(store: Store, window: np.ndarray, ends: np.ndarray, c: Config, rng: np.random.Generator) -> Store:
    """Variants of some windows, as a store of their own; where ends (W,) names another window, with the end of that one.

    Duration is multiplied by factors drawn from 1 - c.stretch to 1 + c.stretch, the mel axis likewise by c.warp; c.channel: see
    through_channel. Each of two parts has draws of its own.
    """
    pieces = []
    for w, end in zip(window, ends, strict=True):
        S = _stretched(store, w, c, rng)
        if end != w:
            other, part = _stretched(store, end, c, rng), rng.uniform(*SPLICE)
            S = np.concatenate([S[: int(part * len(S))], other[int(part * len(other)) :]])[: store.pad_frames or None]
        pieces.append(S)
    lengths, each = np.array([len(S) for S in pieces]), np.arange(len(window) + 1)
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    return dataclasses.replace(
        store, rows=np.concatenate(pieces), bounds=bounds, samples=store.hop * lengths, recordings=each, errors={}, mapping=None
    )


def _stretched(store: Store, w: int, c: Config, rng: np.random.Generator) -> np.ndarray:
    """Bands (L, 128) of a window, stretched, warped and through a channel."""
    longer, wider = 1 + rng.uniform(-1, 1, 2) * (c.stretch, c.warp)
    S = store.rows[store.bounds[w] : store.bounds[w + 1]]
    frames = max(1, round(len(S) * longer))
    S = _interpolate(S, np.linspace(0, len(S) - 1, min(frames, store.pad_frames or frames)))
    S = _interpolate(S.T, np.minimum(np.arange(N_MELS) / wider, N_MELS - 1)).T
    return through_channel(S, c.channel, rng) if c.channel else S


def through_channel(S: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Bands S (L, 128), dB, recorded otherwise; in that share of cases each with echoes, noise, a narrow band.

    The spectrum tilts by up to TILT_DB. Echoes decay exponentially, with a gain of -20 to 0 dB. White noise is the same in all
    bands, 10 to 50 dB below the mean of their powers. A narrow band loses the bands below NARROW[0] and above a limit from
    NARROW[1] on, down to what a converter's last bit leaves.
    """
    S = S + np.float32(rng.uniform(-TILT_DB, TILT_DB)) * np.linspace(-1, 1, N_MELS, dtype=np.float32)
    if rng.random() < share:
        S = _power_to_db(_with_echo(10 ** (S / 10), rng.uniform(*REVERBERATION), 10 ** (rng.uniform(-20, 0) / 10)))
    if rng.random() < share:
        P = 10 ** (S / 10)
        noise = rng.exponential(size=S.shape).astype(np.float32) * P.mean() * np.float32(10 ** (-rng.uniform(10, 50) / 10))
        S = _power_to_db(P + noise)
    if rng.random() < share:
        floor = np.float32(rng.uniform(FLOOR_DB, FLOOR_DB + 30))
        first, last = rng.integers(NARROW[0] + 1), rng.integers(NARROW[1], N_MELS)
        S[:, :first] = np.minimum(S[:, :first], floor)
        S[:, last:] = np.minimum(S[:, last:], floor)
    return S


def _with_echo(P: np.ndarray, seconds: float, gain: float) -> np.ndarray:
    """Powers P (L, 128) with an echo that falls by 60 dB in some seconds.

    The whole echo of a moment has that gain in power, less what has died away when the next frame begins.
    """
    keep = np.float32(10 ** (-6 * HOP / SAMPLE_RATE / seconds))  # of the echo, from one frame to the next
    echo, out = np.zeros_like(P[0]), P.copy()
    for t in range(1, len(P)):
        echo = keep * (echo + P[t - 1])
        out[t] += np.float32(gain) * (1 - keep) * echo
    return out


def _power_to_db(P: np.ndarray) -> np.ndarray:
    return 10 * np.log10(P)


def splice_partners(train: np.ndarray, y: np.ndarray, gender: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """For each utterance, (R,), the one that gives its end: for a share of train, any of train of the same emotion and gender.

    train (n,): indices; y, gender (R,): classes; an unknown gender, -1, is one of its own.
    """
    found = np.arange(len(y))
    kind = 3 * y + gender  # gender: -1, 0 or 1
    for one in np.unique(kind[train]):
        members = train[kind[train] == one]
        spliced = rng.random(len(members)) < share
        found[members[spliced]] = rng.choice(members, spliced.sum())
    return found


def _interpolate(S: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Rows of S (L, C) at fractional positions at (M,), linearly -> (M, C)."""
    below = at.astype(np.int64)
    part = (at - below).astype(S.dtype)[:, None]
    return S[below] * (1 - part) + S[np.minimum(below + 1, len(S) - 1)] * part
