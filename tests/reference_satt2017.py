"""CNN-BLSTM (Satt, Rozenberg and Hoory, 2017) as slow literal loops over scalars, to test against."""

import itertools
from typing import Any

import numpy as np
from reference import (
    Arrays,
    Matrix,
    Numbers,
    Utterances,
    Var,
    Vector,
    blstm,
    cross_entropy,
    dense,
    dropout,
    gradients_of,
    lift,
    maximum,
    mean_over_time,
    relu,
    total,
    values,
)

Picture = list[Matrix]  # frames, bands, channels


def pieces(X: Matrix, length: int, least: int) -> list[Matrix]:
    """An utterance cut every so many frames; a rest of fewer than the least number stays with the piece before it."""
    found = [X[start : start + length] for start in range(0, len(X), length)]
    if len(found) > 1 and len(found[-1]) < least:
        rest = found.pop()
        found[-1] = found[-1] + rest
    return found


def convolution(H: Picture, W: Any, b: Vector) -> Picture:
    """ReLU of the sum over the window, of an even one more before than behind. W (channels, frames, bands, maps)."""
    L, F, n_time, n_band = len(H), len(H[0]), len(W[0]), len(W[0][0])
    out: Picture = []
    for t in range(L):
        out.append([])
        for f in range(F):
            sums = list(b)
            for j, i in itertools.product(range(n_time), range(n_band)):
                frame, band = min(max(t + j - n_time // 2, 0), L - 1), min(max(f + i - n_band // 2, 0), F - 1)
                for c, x in enumerate(H[frame][band]):
                    sums = [s + x * w for s, w in zip(sums, W[c][j][i], strict=True)]
            out[-1].append([relu(s) for s in sums])
    return out


def pooled(H: Picture) -> Picture:
    """The largest of every two frames by two bands."""
    return [
        [
            [maximum([H[t][f][k], H[t][f + 1][k], H[t + 1][f][k], H[t + 1][f + 1][k]]) for k in range(len(H[0][0]))]
            for f in range(0, len(H[0]) - 1, 2)
        ]
        for t in range(0, len(H) - 1, 2)
    ]


def logits_of(p: dict[str, Any], X: Matrix, mask: list[float] | None) -> Vector:
    """One piece X (L, d_spec) -> (classes,); mask: of the dropout after the dense layer."""
    H: Picture = [[[x] for x in row] for row in X]
    for layer in ("conv1", "conv2", "conv3"):
        H = pooled(convolution(H, p[f"{layer}.W"], p[f"{layer}.b"]))
    rows = [[x for band in row for x in band] for row in H]
    if "lstm.W_fw" in p:
        n = len(p["lstm.R_fw"])
        states = blstm(rows, p, "lstm")
        z = states[-1][:n] + states[0][n:] if states else [Var(0.0)] * 2 * n
    else:
        z = mean_over_time(rows) if rows else [Var(0.0)] * len(p["dense.W"])
    z = [relu(x) for x in dense(z, p["dense.W"], p["dense.b"])]
    return dense(dropout([z], [mask])[0] if mask else z, p["emotion.W"], p["emotion.b"])


def loss_and_gradients(
    params: Arrays, utterances: Utterances, y: Numbers, weight: Numbers, masks: Any, length: int, least: int
) -> tuple[float, np.ndarray, Arrays]:
    """The weighted sum of cross-entropies, each the mean over pieces; logits (P, classes), gradients by name."""
    p = {name: lift(a) for name, a in params.items()}
    left = None if masks is None else [mask.tolist() for mask in masks]
    logits: Matrix = []
    terms = []
    for u, X in enumerate(utterances):
        each = pieces(lift(X), length, least)
        for piece in each:
            logits.append(logits_of(p, piece, left.pop(0) if left else None))
            terms.append(cross_entropy(logits[-1], int(y[u])) * (float(weight[u]) / len(each)))
    loss = total(terms)
    loss.backward()
    return loss.value, values(logits), gradients_of(p, params)
