"""The stretches of an utterance that BLSTM-ELM aligns with Null, emotion, Null: each holds one voiced region.

Lee and Tashev (2015) cut an utterance so, and let the last Null of a stretch be the first of the next. Here stretches divide
all frames of an utterance among them, and end in the middle of unvoiced gaps. What counts as a gap is our judgement.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

Array = np.ndarray

GAP = 0.05  # seconds: a shorter gap does not end a region
SHORTEST = 3  # frames of a stretch: it has three states
LOUD_DB = 20.0  # below the loudest frame: without voicing, what is as loud counts as voiced (81 % of the frames of EmoDB agree)


def stretches(voiced: Array, bounds: Array, hop: float) -> tuple[Array, Array]:
    """Bounds of the stretches of some utterances, (S+1,), and the utterance of each, (S,).

    voiced (N,): of each frame; bounds (B+1,); hop: seconds from one frame to the next. A stretch that would have fewer than
    three frames joins the one after it, the last one that before it. An utterance without a gap, or voice, is one stretch.
    """
    gap = int(np.ceil(GAP / hop - 1e-9))
    found = [start + _cuts(voiced[start:end], gap) for start, end in pairwise(bounds)]
    owner = np.repeat(np.arange(len(found)), [len(cuts) - 1 for cuts in found])
    return np.concatenate([bounds[:1], *(cuts[1:] for cuts in found)]).astype(np.int64), owner


def _cuts(voiced: Array, gap: int) -> Array:
    """Bounds of the stretches of one utterance, voiced (L,), that is split by gaps of at least so many frames."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], voiced, [False]]).astype(np.int8)))
    before, after = edges[1:-1:2], edges[2::2]  # a gap: where a region ends, and where the next one begins
    cuts = [0]
    for cut in ((before + after) // 2)[after - before >= gap]:
        if cut - cuts[-1] >= SHORTEST and len(voiced) - cut >= SHORTEST:
            cuts.append(int(cut))
    return np.array([*cuts, len(voiced)])


def loud(S: Array) -> Array:
    """Bands S (L, C), dB -> (L,): which frames are within LOUD_DB of the loudest, by their mean power."""
    power = np.mean(10 ** (S.astype(np.float64) / 10), axis=1)
    return power >= power.max() * 10 ** (-LOUD_DB / 10)
