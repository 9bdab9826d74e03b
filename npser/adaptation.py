"""Adaptation to a voice, a line or a corpus, without labels.

    heard = sums_of(store, recordings, pool, config).sum(axis=0)
    mean, std = adapted(network.mean, network.std, heard, hop)

The input is normalised by statistics of the training part. Where other recordings of a speaker are at hand, their statistics
take their place, by as much as few seconds deserve: after x seconds by x / (x + SECONDS). Nothing is trained. A regression on
statistics beside the network, where there is one, counts for more by as much (networks/statistics.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from npser import model
from npser.config import Config
from npser.corpora import Utterance
from npser.features import SAMPLE_RATE

Array = np.ndarray

RULE = 2  # changes with what adaptation does: a cross-validation does not go on with what was adapted otherwise
SECONDS = 10.0  # heard: a voice's own statistics and those of the training part then count alike
NEGLIGIBLE = 1e-3  # dB, or of what else a column is: one that varies less is constant
NOISE = 0.25  # of the training part's deviation: a column that varies less, over SECONDS at least, holds none of the speech
HEARD = (0, 1, 3, 10, 1000)  # recordings of a voice that training adapts to, each as often as the others
MODES = ("none", "recording", "folder", "speaker")  # to what a model is adapted


def sums(X: Array) -> Array:
    """Frames X (L, d) -> their number, the sums of each column, and the sums of squares, (1 + 2 d,) float64."""
    Y = X.astype(np.float64)
    return np.concatenate([[len(Y)], Y.sum(axis=0), (Y * Y).sum(axis=0)])


def sums_of(store: Any, recordings: Array, pool: Any, c: Config) -> Array:
    """The sums of each recording's frames, as a network with these settings hears them, not normalised: (R, 1 + 2 d).

    store: a store.Store. Padding is not heard, and of windows that overlap by half every second one.
    """
    zero, one, inputs = np.zeros(c.d_spec, np.float32), np.ones(c.d_spec, np.float32), model.module_of(c).inputs

    def of(r: int) -> Array:
        windows = np.arange(store.recordings[r], store.recordings[r + 1])[::2]
        X, bounds = inputs(store, windows, zero, one, c)[:2]
        parts = [X[a : min(a + n, b)] for a, b, n in zip(bounds, bounds[1:], store.real(windows), strict=False)]
        return sums(np.concatenate(parts))

    found = list(pool.map(of, recordings))
    store.release()
    return np.stack(found)


def own_share(heard: Array, hop: int) -> Array:
    """What a voice's own statistics have of the normaliser, 0 to 1; arguments as of adapted."""
    return heard[0] / (heard[0] + SECONDS * SAMPLE_RATE / hop)


def adapted(mean: Array, std: Array, heard: Array, hop: int) -> tuple[Array, Array]:
    """Statistics mean, std (d,) drawn towards those of what was heard; of nothing, as they are.

    heard (1 + 2 d,): see sums. hop: samples at 16 kHz from one frame to the next. Deviations are drawn on a logarithmic scale;
    those of columns that hold none of the speech, such as bands that a telephone lacks, stay: their noise is not amplified.
    """
    frames, total, squares = heard[0], *np.split(heard[1:], 2)
    if frames == 0:
        return mean, std
    share = own_share(heard, hop)
    own = total / frames
    deviation = np.sqrt(np.maximum(squares / frames - own**2, 0))
    least = np.maximum(NEGLIGIBLE, NOISE * std) if share >= 0.5 else NEGLIGIBLE  # of SECONDS and more
    deviation = np.where(deviation < least, std, deviation)
    return (
        ((1 - share) * mean + share * own).astype(np.float32),
        np.exp((1 - share) * np.log(std) + share * np.log(deviation)).astype(np.float32),
    )


def voices_of(utterances: Sequence[Utterance], mode: str) -> list[str]:
    """The voice of each utterance, as one of MODES has it: who is not known is adapted to a recording alone."""
    paths = [str(u.path) for u in utterances]
    if mode == "recording":
        return paths
    if mode == "folder":
        return [str(u.path.parent) for u in utterances]
    return [u.speaker or path for u, path in zip(utterances, paths, strict=True)]


def drawn(
    mean: Array,
    std: Array,
    heard: Array,
    voices: Sequence[str],
    hop: int,
    rng: np.random.Generator,
    counts: Sequence[int] = HEARD,
) -> tuple[Array, Array]:
    """Statistics for training, (R, d) each: of every recording, those that are adapted to some recordings of its voice.

    heard (R, 1 + 2 d): see sums. How many recordings is drawn from counts, anew for each; so is which.
    """
    found = np.empty((2, len(voices), len(mean)), np.float32)
    members: dict[str, list[int]] = defaultdict(list)
    for r, voice in enumerate(voices):
        members[voice].append(r)
    for own in map(np.array, members.values()):
        whole = heard[own].sum(axis=0)
        for r, most in zip(own, rng.choice(counts, len(own)), strict=True):
            some = whole if most >= len(own) else heard[rng.choice(own, most, replace=False)].sum(axis=0)
            found[:, r] = adapted(mean, std, some, hop)
    return found[0], found[1]


def some_of_each(voices: Sequence[str], most: int, rng: np.random.Generator) -> Array:
    """As many recordings of each voice, drawn at random, as there are or as are wanted: which of them, (R,)."""
    counted, names = np.zeros(len(voices), bool), np.array(voices)
    for voice in sorted(set(voices)):
        counted[rng.permutation(np.flatnonzero(names == voice))[:most]] = True
    return counted


def log_probabilities(
    network: Any, store: Any, recordings: Array, voices: Sequence[str], pool: Any, counted: Array | None = None
) -> tuple[Array, Array]:
    """network.log_probabilities of recordings (R,), each by the network adapted to all those of them that have its voice.

    counted (R,): which of them are heard of their voice; by default all.
    """
    heard = sums_of(store, recordings, pool, network.config)
    heard = heard if counted is None else heard * counted[:, None]
    found: list[tuple[Array, tuple[Array, Array]]] = []
    for voice in dict.fromkeys(voices):
        own = np.flatnonzero([other == voice for other in voices])
        knowing = network.adapted(heard[own].sum(axis=0), store.hop)
        found.append((own, knowing.log_probabilities(store, recordings[own], pool)))
    back = np.argsort(np.concatenate([own for own, _ in found]), kind="stable")
    emotion, gender = (np.concatenate([answers[k] for _, answers in found])[back] for k in (0, 1))
    return emotion, gender
