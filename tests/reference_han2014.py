"""DNN-ELM (Han, Yu and Tashev, Interspeech 2014) as slow literal loops over scalars, to test against.

An utterance is its normalised frames X (L, d_spec) and the energies of these, L numbers.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from reference import Arrays, Matrix, Vector, cross_entropy, dense, gradients_of, lift, relu, softmax, total, values

Utterance = tuple[np.ndarray, Sequence[float] | np.ndarray]


def segments(energy: Sequence[float] | np.ndarray, n_context: int, share: float) -> list[list[int]]:
    """The frames of each segment that counts, in the order of time."""
    L = len(energy)
    if n_context >= L:  # one segment, with the frames in its middle
        before = -((L - n_context) // 2)
        return [[min(max(t - before, 0), L - 1) for t in range(n_context)]]
    whole = [list(range(start, start + n_context)) for start in range(L - n_context + 1)]
    loudest = sorted(whole, key=lambda frames: (-sum(energy[t] for t in frames), frames[0]))
    return sorted(loudest[: max(1, round(share * len(whole)))])


def logits_of_segments(p: dict[str, Any], utterance: Utterance, n_context: int, share: float) -> Matrix:
    """(segments, classes)."""
    X, energy = lift(utterance[0]), utterance[1]
    found: Matrix = []
    for frames in segments(energy, n_context, share):
        h: Vector = [value for t in frames for value in X[t]]
        for layer in ("dense1", "dense2", "dense3"):
            h = [relu(value) for value in dense(h, p[f"{layer}.W"], p[f"{layer}.b"])]
        found.append(dense(h, p["emotion.W"], p["emotion.b"]))
    return found


def loss_and_gradients(
    params: Arrays,
    utterances: Sequence[Utterance],
    y: Sequence[int],
    weight: Sequence[float],
    n_context: int,
    share: float,
    usual: float,
) -> tuple[float, Arrays]:
    """The weighted sum of the cross-entropies of all segments, over the segments of a usual utterance; y -1 is unknown."""
    p = {name: lift(a) for name, a in params.items()}
    terms = []
    for utterance, of, w in zip(utterances, y, weight, strict=True):
        terms += [cross_entropy(z, of) * (w / usual) for z in logits_of_segments(p, utterance, n_context, share)]
    loss = total(terms)
    loss.backward()
    return loss.value, gradients_of(p, params)


def statistics(params: Arrays, utterance: Utterance, n_context: int, share: float) -> list[float]:
    """Of all classes the maxima, then the minima, the means, the shares above 0.2 of the posteriors."""
    p = {name: lift(a) for name, a in params.items()}
    P = values([softmax(z) for z in logits_of_segments(p, utterance, n_context, share)]).tolist()
    of_classes = list(zip(*P, strict=True))
    return [
        *(max(own) for own in of_classes),
        *(min(own) for own in of_classes),
        *(sum(own) / len(own) for own in of_classes),
        *(sum(x > 0.2 for x in own) / len(own) for own in of_classes),
    ]


def elm(W: np.ndarray, U: np.ndarray, s: Sequence[float]) -> list[float]:
    """The mean output of some machines: W (machines, 4 classes, L), U (machines, L, classes), s (4 classes,)."""
    machines, L, classes = U.shape
    out = [0.0] * classes
    for m in range(machines):
        for unit in range(L):
            h = 1 / (1 + math.exp(-sum(s[i] * float(W[m, i, unit]) for i in range(len(s)))))
            for k in range(classes):
                out[k] += h * float(U[m, unit, k]) / machines
    return out
