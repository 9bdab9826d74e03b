"""Augmentation of the training part: each time an utterance is met, it is a little faster or slower, spoken by a larger or
smaller speaker, in another room, into another microphone, and maybe ended by somebody else.

All of it works on the stored bands, before deltas are taken. The warp is vocal tract length perturbation on the mel axis
(Jaitly & Hinton, 2013).
"""

from __future__ import annotations

import numpy as np

from npser.config import Config
from npser.features import FLOOR_DB, HOP, N_MELS, SAMPLE_RATE, db_to_power, power_to_db
from npser.store import Store
from npser_kernels.augment import add_echo, resample_bands

NARROW = 12, 93  # bands whose centres lie near 300 and 3,400 Hz, the limits of a telephone line
TILT_DB = 6.0  # at most, of the lowest and of the highest band, in opposite directions
REVERBERATION = 0.2, 1.0  # seconds in which an echo falls by 60 dB
SLOPE = np.linspace(-1, 1, N_MELS, dtype=np.float32)  # of a tilted spectrum, by band
SPLICE = 0.2, 0.8  # part of an utterance that stays before another one's end


def augments(c: Config) -> bool:
    """Whether settings ask for any of it."""
    return bool(c.stretch or c.warp or c.splice or c.channel)


def augmented(store: Store, window: np.ndarray, ends: np.ndarray, c: Config, rng: np.random.Generator) -> Store:
    """Variants of some windows, as a store of their own; where ends (W,) names another window, with the end of that one.

    Duration is multiplied by factors drawn from 1 - c.stretch to 1 + c.stretch, the mel axis likewise by c.warp; c.channel: see
    through_channel. Each of two parts has draws of its own.
    """
    parts, lengths = [], []
    for w, end in zip(window, ends, strict=True):
        own = [_stretched(store, w, c, rng)]
        if end != w:
            other, part = _stretched(store, end, c, rng), rng.uniform(*SPLICE)
            own = [own[0][: int(part * len(own[0]))], other[int(part * len(other)) :]]
            own[1] = own[1][: store.pad_frames - len(own[0])] if store.pad_frames else own[1]
        parts += own
        lengths.append(sum(map(len, own)))
    bounds, samples = np.cumsum([0, *lengths]), store.hop * np.array(lengths)
    rows, each = np.concatenate(parts), np.arange(len(window) + 1)
    return Store(rows, bounds, samples, each, {}, store.pad_frames, store.seconds, hop=store.hop, floor=store.floor)


def _stretched(store: Store, w: int, c: Config, rng: np.random.Generator) -> np.ndarray:
    """Bands (L, 128) of a window, stretched, warped and through a channel."""
    first, end = store.bounds[w : w + 2].tolist()
    longer, wider = rng.random(2).tolist()
    frames = max(1, round((end - first) * _between(1 - c.stretch, 1 + c.stretch, longer)))
    S = np.empty((min(frames, store.pad_frames or frames), N_MELS), np.float32)
    resample_bands(S, store.rows, first, end - first, _between(1 - c.warp, 1 + c.warp, wider))
    return np.maximum(through_channel(S, c.channel, rng), np.float32(store.floor)) if c.channel else S


def through_channel(S: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Bands S (L, 128), dB, recorded otherwise; in that share of cases each with echo, noise, a narrow band. S is overwritten.

    The spectrum tilts by up to TILT_DB. Echoes decay exponentially, with a gain of -20 to 0 dB. White noise is the same in all
    bands, 10 to 50 dB below the mean of their powers. A narrow band loses the bands below NARROW[0] and above a limit from
    NARROW[1] on, down to what a converter's last bit leaves.
    """
    # all draws at once: a call takes longer than a draw
    tilt, echo, seconds, gain, noise, level, narrow, floor, first, last = rng.random(10).tolist()
    S += np.float32(_between(-TILT_DB, TILT_DB, tilt)) * SLOPE
    if min(echo, noise) < share:
        P = db_to_power(S)
        if echo < share:
            P = _with_echo(P, _between(*REVERBERATION, seconds), 10 ** (_between(-20, 0, gain) / 10))
        if noise < share:
            uniform = rng.random(P.shape, np.float32)
            logarithm = np.log(np.subtract(1, uniform, out=uniform), out=uniform)  # minus this is exponential
            logarithm *= P.mean() * np.float32(10 ** (-_between(10, 50, level) / 10))
            P -= logarithm
        S = power_to_db(P)
    if narrow < share:
        lowest, highest = int(_between(0, NARROW[0] + 1, first)), int(_between(NARROW[1], N_MELS, last))
        floor = np.float32(_between(FLOOR_DB, FLOOR_DB + 30, floor))
        S[:, :lowest] = np.minimum(S[:, :lowest], floor)
        S[:, highest:] = np.minimum(S[:, highest:], floor)
    return S


def _between(low: float, high: float, part: float) -> float:
    return low + (high - low) * part


def _with_echo(P: np.ndarray, seconds: float, gain: float) -> np.ndarray:
    """Powers P (L, 128) with an echo that falls by 60 dB in some seconds.

    The whole echo of a moment has that gain in power, less what has died away when the next frame begins.
    """
    out = np.empty_like(P)
    add_echo(out, P, 10 ** (-6 * HOP / SAMPLE_RATE / seconds), gain)
    return out


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
