"""Acoustic units: symbols that stand for phonemes where nobody has written these down. And the symbols of transcripts.

The cepstra of each frame are named by the nearest of some centres, which k-means finds in the training part, and a run of one
name is one symbol: the first step of what Hsu et al. (2021, HuBERT) learn from. It needs neither language nor transcript.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import cast

import numpy as np
import scipy.fft

from npser.networks.spectrogram import with_slopes

Array = np.ndarray

CEPSTRA = 13  # the first of them is the energy
COLUMNS = 3 * CEPSTRA
MOST_FRAMES, STEPS = 200_000, 20  # of k-means
LONGEST = 16  # characters of a symbol that count


def cepstra(S: Array) -> Array:
    """Mel-frequency cepstra, their deltas, and the deltas of these. Log-mel bands S (L, bands) dB -> (L, 39)."""
    transformed = cast(Array, scipy.fft.dct(S, norm="ortho", axis=1))
    return with_slopes(np.ascontiguousarray(transformed[:, :CEPSTRA]))


def centres_of(X: Array, k: int, rng: np.random.Generator) -> Array:
    """k-means of frames X (N, d), started as k-means++ is (Arthur and Vassilvitskii, 2007) -> (k, d) float32."""
    X = (X if len(X) <= MOST_FRAMES else X[np.sort(rng.choice(len(X), MOST_FRAMES, replace=False))]).astype(np.float64)
    centres = X[rng.integers(len(X), size=1)]
    away = ((X - centres) ** 2).sum(axis=1)
    for _ in range(k - 1):
        far = rng.choice(len(X), p=away / away.sum()) if away.any() else 0  # fewer frames than centres: some are the same
        centres = np.concatenate([centres, X[far : far + 1]])
        away = np.minimum(away, ((X - X[far]) ** 2).sum(axis=1))
    for _ in range(STEPS):
        owner = nearest(X, centres)
        order = np.argsort(owner, kind="stable")
        used, first, count = np.unique(owner[order], return_index=True, return_counts=True)
        centres[used] = np.add.reduceat(X[order], first) / count[:, None]
    return centres.astype(np.float32)


def nearest(X: Array, centres: Array) -> Array:
    """The number of the centre that is nearest to each frame. X (N, d), centres (k, d) -> (N,)."""
    return ((centres * centres).sum(axis=1) / 2 - X @ centres.T).argmin(axis=1)


def collapsed(frames: Array, bounds: Array) -> tuple[Array, Array]:
    """Names of frames (N,) -> a symbol for every run of one name, (M,), and its bounds.

    A frame between two that have one name gets that name first.
    """
    inner = np.ones(len(frames), bool)
    filled = np.diff(bounds) > 0
    inner[bounds[:-1][filled]] = inner[bounds[1:][filled] - 1] = False
    before, after = np.roll(frames, 1), np.roll(frames, -1)
    smooth = np.where(inner & (before == after), before, frames)
    starts = np.concatenate([[False], smooth[1:] != smooth[:-1]])[: len(frames)]
    starts[bounds[:-1][filled]] = True
    return smooth[starts], np.concatenate([[0], np.cumsum(starts)])[bounds]


def shuffled(symbols: Array, bounds: Array) -> Array:
    """The control: the symbols of each utterance in another order, always the same one of the same symbols. (M,) -> (M,)."""
    parts = np.split(symbols, bounds[1:-1])
    return np.concatenate([np.random.default_rng([len(part), *part]).permutation(part) for part in parts])


def alphabet(strings: Sequence[str], size: int) -> Array:
    """The most frequent symbols of some strings, most frequent first, as code points (size, LONGEST) float32.

    The first row stands for all other symbols.
    """
    counts = Counter(symbol[:LONGEST] for text in strings for symbol in text.split())
    table = np.zeros((size, LONGEST), np.float32)
    for row, symbol in zip(table[1:], sorted(counts, key=lambda symbol: (-counts[symbol], symbol)), strict=False):
        row[: len(symbol)] = list(map(ord, symbol))
    return table


def numbers(strings: Sequence[str], table: Array) -> tuple[Array, Array]:
    """The rows of an alphabet that the symbols of some strings are, (M,), and bounds of the strings (B+1,)."""
    known = {"".join(chr(int(code)) for code in row if 0 < code < 0x110000): k for k, row in enumerate(table)}
    rows = [[known.get(symbol[:LONGEST], 0) for symbol in text.split()] for text in strings]
    return np.array([k for row in rows for k in row], np.int64), np.cumsum([0, *map(len, rows)])
