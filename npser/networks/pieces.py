"""Pieces of an utterance, which networks that see pictures answer one by one: how they are cut, and how the answers are joined.

Satt et al. (2017) and Chen et al. (2018) cut utterances into pieces of at most 3 s that do not overlap; each is an example with
the utterance's label. They pad a short piece with zeros; here each has its natural length, and what remains of less than
half a second stays with the piece before it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from npser.calibration import log_softmax
from npser.features import SAMPLE_RATE

Array = np.ndarray

LEAST = 0.5  # seconds of a piece


def cut(bounds: Array, seconds: float, hop: int) -> tuple[Array, Array]:
    """Bounds of the pieces of some utterances, (P+1,), and the utterance of each, (P,): at least one of every utterance.

    bounds (B+1,); seconds: of a piece; hop: samples at 16 kHz from one row to the next.
    """
    rows, least = (max(1, round(s * SAMPLE_RATE / hop)) for s in (seconds, min(LEAST, seconds)))
    counts = np.maximum((np.diff(bounds) + rows - least) // rows, 1)
    owner = np.repeat(np.arange(len(counts)), counts)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.append(bounds[owner] + rows * number, bounds[-1]), owner


def loss(c: Any, out: tuple[Array, Array], y: Any) -> tuple[float, tuple[Array]]:
    """The cross-entropy of every piece, which has its utterance's class and a share of its weight; and its gradient.

    out: logits (P, classes), the utterance of each (P,); y: see network.Targets.
    """
    from npser.layers import cross_entropy

    logits, owner = out
    share = y.emotion_weight / np.bincount(owner, minlength=len(y.emotion)).astype(y.emotion_weight.dtype)
    total, dlogits = cross_entropy(logits, y.emotion[owner], share[owner])
    return c.alpha * total, (c.alpha * dlogits,)


def answers(X: Array, seconds: float, hop: int, answer: Callable[[Array], Array]) -> tuple[Array, Array]:
    """The logits of all pieces of windows of one length, (P, classes), and the window of each, (P,).

    X (B, L, d); answer: a piece of each window, (B, l, d) -> (B, classes).
    """
    cuts, _ = cut(np.array([0, X.shape[1]]), seconds, hop)
    logits = np.stack([answer(X[:, start:end]) for start, end in pairwise(cuts)], axis=1)
    return logits.reshape(-1, logits.shape[2]), np.repeat(np.arange(len(X)), logits.shape[1])


def mean_log_probability(logits: Array, owner: Array) -> Array:
    """logits (P, classes) -> those of the utterances, (B, classes)."""
    first = np.flatnonzero(np.diff(owner, prepend=-1))
    return np.add.reduceat(log_softmax(logits), first) / np.bincount(owner)[:, None].astype(logits.dtype)


def largest_probability(logits: Array, owner: Array) -> Array:
    """logits (P, classes) -> the logarithm of each class's largest probability, (B, classes)."""
    return np.maximum.reduceat(log_softmax(logits), np.flatnonzero(np.diff(owner, prepend=-1)))
