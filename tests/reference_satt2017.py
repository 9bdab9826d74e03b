"""CNN-BLSTM (Satt, Rozenberg and Hoory, 2017) as slow literal loops over scalars, to test against."""

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
    mean_over_time,
    relu,
    total,
    values,
)
from reference_pictures import Picture, convolution, leaky, pieces, pooled


def logits_of(p: dict[str, Any], X: Matrix, mask: list[float] | None) -> Vector:
    """One piece X (L, d_spec) -> (classes,); mask: of the dropout after the dense layer."""
    H: Picture = [[[x] for x in row] for row in X]
    for layer in ("conv1", "conv2", "conv3"):
        H = pooled(leaky(convolution(H, p[f"{layer}.W"], p[f"{layer}.b"]), 0.0), 2, 2)
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
