"""What DNN-ELM and BLSTM-ELM end with: statistics of the posteriors over an utterance, and a classifier that is solved.

The extreme learning machine (Huang, Zhu and Siew, 2006) as Han, Yu and Tashev (2014) use it: H = sigmoid(S W) with a random W
that stays as it is, and U of the least squares H U = T, the targets T being one-hot. The outputs are H U.

elm     L = 120 units, W uniform in [-1, 1], no bias, as in the paper. U is a ridge solution where the paper has the
        pseudo-inverse: sigmoids of a few statistics are all but collinear. Of ten machines, each with a W of its own, the mean
        output counts, so that the draw of W hardly does; `machines` gives all ten.
kernel  Huang, Zhou, Ding and Zhang (2012), as in Lee and Tashev (2015): the outputs are K(s, S) (Omega + I/C)^-1 T with the RBF
        exp(-gamma |s - s'|^2). Statistics are divided by their deviation over the training part, since one gamma has to do for
        all of them; their means would cancel.
ridge   The control: ridge regression on the statistics as they are. There is no bias, since the means add up to 1.

All utterances weigh the same, whatever their class. Everything is in float64, from tensors that are kept in float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from npser.config import stream
from npser.metrics import confusion_matrix, scores

Array = np.ndarray
Evidence = tuple[Array, Array]  # statistics of some utterances (B, d), their classes (B,)

KINDS = ("elm", "kernel", "ridge")
THRESHOLD = 0.2  # of the share of frames, or segments, in which a class is likely
UNITS, DRAWS = 120, 10
SHARPNESS = 5.0  # logits are so many times the outputs, which lie about 0 and 1: a temperature of 1 is then about right
FLAT = 1e-4  # deviation of a statistic that does not vary: dividing by it would enlarge the rounding of float32
MOST = 20_000  # utterances of a kernel ELM, whose matrices then have 3.2 GB each
# What is tried on the validation part, the stronger regularisation first: the first of equals is taken.
RIDGES = (10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4)
COSTS, GAMMAS = (2.0**-4, 1.0, 2.0**4, 2.0**8), (2.0**-8, 2.0**-6, 2.0**-4)
TRIED: dict[str, list[Any]] = {"elm": [*RIDGES], "kernel": [(C, gamma) for C in COSTS for gamma in GAMMAS], "ridge": [*RIDGES]}
DEFAULTS: dict[str, Any] = {"elm": 1e-3, "kernel": (1.0, 2.0**-4), "ridge": 1e-3}  # without a validation part
CHOICES: dict[str, dict[str, tuple[float, ...]]] = {
    "elm": {"ridge": RIDGES},
    "kernel": {"C": COSTS, "gamma": GAMMAS},
    "ridge": {"ridge": RIDGES},
}  # the same in words


def statistics(P: Array, bounds: Array) -> Array:
    """Maximum, minimum, mean, and share above THRESHOLD of each class: posteriors P (N, K) -> (B, 4K), nothing giving zeros."""
    lengths = np.diff(bounds)
    filled = lengths > 0
    starts, P = bounds[:-1][filled], P.astype(np.float64)
    found = np.zeros((len(lengths), 4, P.shape[1]))
    if len(starts):
        found[filled, 0] = np.maximum.reduceat(P, starts)
        found[filled, 1] = np.minimum.reduceat(P, starts)
        found[filled, 2] = np.add.reduceat(P, starts) / lengths[filled, None]
        found[filled, 3] = np.add.reduceat((P > THRESHOLD).astype(np.float64), starts) / lengths[filled, None]
    return found.reshape(len(lengths), -1)


def start(kind: str, d: int, classes: int, seed: int) -> dict[str, Array]:
    """The tensors of a classifier of d statistics that has learnt nothing, by name: its outputs are 0.

    elm: W (DRAWS, d, UNITS), U (DRAWS, UNITS, classes). ridge: U (d, classes). kernel: scale (d,), the root of gamma over the
    deviations, and of each utterance of the training part its statistics times these, S (R, d), and its U (R, classes).
    """
    if kind == "elm":
        W = np.stack([stream("network", seed, draw).uniform(-1, 1, (d, UNITS)) for draw in range(DRAWS)])
        return {"W": W.astype(np.float32), "U": np.zeros((DRAWS, UNITS, classes), np.float32)}
    if kind == "ridge":
        return {"U": np.zeros((d, classes), np.float32)}
    zeros = {"scale": (d,), "S": (0, d), "U": (0, classes)}
    return {name: np.zeros(shape, np.float32) for name, shape in zeros.items()}


def solve(kind: str, t: dict[str, Array], train: Evidence, validation: Evidence | None) -> dict[str, Array]:
    """The tensors of a classifier that has learnt from the training part.

    Of what TRIED names, the one with the highest UA on the validation part, of several the one with the strongest
    regularisation; without a validation part that of DEFAULTS. t: the tensors before. ValueError for statistics that are not
    finite.
    """
    S, y = train
    if not np.isfinite(S).all():
        raise ValueError("the network's posteriors are not finite, so training has diverged; try a lower learning_rate")
    classes, tried = t["U"].shape[-1], [DEFAULTS[kind]] if validation is None else TRIED[kind]
    best, highest = t, (-1.0, 0)
    for choice, solved in solutions(kind, t, S.astype(np.float64), np.eye(classes)[y], tried):
        found, ua = t | {name: value.astype(np.float32) for name, value in solved.items()}, 0.0
        if validation is not None:
            ua = scores(confusion_matrix(validation[1], outputs(kind, found, validation[0]).argmax(axis=1), classes))["ua"]
        rank = round(ua, 9), -tried.index(choice)  # the same recalls in another order may differ in the last bit
        if rank > highest:
            best, highest = found, rank
    return best


def solutions(
    kind: str, t: dict[str, Array], S: Array, T: Array, tried: Sequence[Any]
) -> Iterator[tuple[Any, dict[str, Array]]]:
    """Each choice and the tensors that are solved with it, from statistics S (R, d) and targets T (R, K)."""
    if kind != "kernel":
        H = hidden(t["W"], S) if kind == "elm" else S
        yield from ((ridge, {"U": ridge_solution(H, T, ridge)}) for ridge in tried)
        return
    if len(S) > MOST:
        raise ValueError(f"a kernel ELM of {len(S)} utterances needs {len(S) ** 2 * 8e-9:.0f} GB; set classifier=mean")
    std = S.std(axis=0)
    for gamma in dict.fromkeys(gamma for _, gamma in tried):
        scale = (np.sqrt(gamma) / np.where(std > FLAT, std, 1)).astype(np.float32)
        kept = (S * scale).astype(np.float32)
        Omega = rbf(kept, kept)
        for C in (C for C, own in tried if own == gamma):
            yield (C, gamma), {"scale": scale, "S": kept, "U": kernel_solution(Omega, T, C)}


def outputs(kind: str, t: dict[str, Array], S: Array) -> Array:
    """S (B, d) -> (B, K): of the classes, about 1 for the right one and 0 for the others."""
    if kind == "elm":
        return machines(t, S).mean(axis=0)
    if kind == "kernel":
        return rbf(S.astype(np.float64) * t["scale"], t["S"]) @ t["U"].astype(np.float64)
    return S.astype(np.float64) @ t["U"]


def machines(t: dict[str, Array], S: Array) -> Array:
    """The outputs of each of the ten machines, (DRAWS, B, K)."""
    return hidden(t["W"], S) @ t["U"].astype(np.float64)


def hidden(W: Array, S: Array) -> Array:
    """sigmoid(S W): W (..., d, L), S (B, d) -> H (..., B, L)."""
    return 1 / (1 + np.exp(-(S.astype(np.float64) @ W.astype(np.float64))))


def rbf(A: Array, B: Array) -> Array:
    """exp(-|a - b|^2) of rows A (M, d), B (N, d) -> (M, N)."""
    A, B = A.astype(np.float64), B.astype(np.float64)
    square = A @ B.T
    square *= -2
    square += (A * A).sum(axis=1)[:, None] + (B * B).sum(axis=1)
    np.maximum(square, 0, out=square)
    return np.exp(np.negative(square, out=square), out=square)


def ridge_solution(H: Array, T: Array, ridge: float) -> Array:
    """(H' H + ridge I)^-1 H' T: H (..., N, L), T (N, K) -> (..., L, K)."""
    Ht = np.swapaxes(H, -1, -2)
    return np.linalg.solve(Ht @ H + ridge * np.eye(H.shape[-1]), Ht @ T)


def kernel_solution(Omega: Array, T: Array, C: float) -> Array:
    """(Omega + I / C)^-1 T: Omega (N, N), T (N, K) -> (N, K)."""
    return np.linalg.solve(Omega + np.eye(len(Omega)) / C, T)


def parts(t: dict[str, Array]) -> dict[str, dict[str, Array]]:
    """The tensors of the classifier among those of a model file, as a network's views have them."""
    return {"elm": {name.removeprefix("elm."): value for name, value in t.items() if name.startswith("elm.")}}
