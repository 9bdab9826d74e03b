"""3-D ACRNN (Chen, He, Yang and Zhang, 2018) as slow literal loops over scalars, to test against."""

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
    column,
    cross_entropy,
    dense,
    gradients_of,
    lift,
    mean_over_time,
    total,
    values,
)
from reference_mirsamadi2017 import local_attention
from reference_pictures import Picture, convolution, leaky, pieces, pooled


def body(p: dict[str, Any], X: Matrix, channels: int) -> Vector:
    """One piece X (L, 3 bands): bands, deltas, delta-deltas -> (2 d_lstm,)."""
    bands = len(X[0]) // 3
    H: Picture = [[[row[c * bands + f] for c in range(channels)] for f in range(bands)] for row in X]
    H = pooled(leaky(convolution(H, p["conv.W"], p["conv.b"]), 0.01), 2, 4)
    if not H:
        return [Var(0.0)] * len(p["dense.W"])
    rows = [dense([x for band in row for x in band], p["linear.W"], p["linear.b"]) for row in H]
    states = blstm(rows, p, "lstm")
    return local_attention(states, p["attn.u"]) if "attn.u" in p else mean_over_time(states)


def square_root(x: Var) -> Var:
    return (x.log() * 0.5).exp()


def normalised(D: Matrix, gamma: Vector, beta: Vector) -> Matrix:
    """Each column minus its mean, over the root of its variance and 0.001; times gamma, plus beta. D (P, d)."""
    out: Matrix = [[] for _ in D]
    for k in range(len(gamma)):
        of = column(D, k)
        mean = total(of) / len(of)
        variance = total((x - mean) * (x - mean) for x in of) / len(of)
        for row, x in zip(out, of, strict=True):
            row.append((x - mean) / square_root(variance + 1e-3) * gamma[k] + beta[k])
    return out


def loss_and_gradients(
    params: Arrays, utterances: Utterances, y: Numbers, weight: Numbers, channels: int, length: int, least: int
) -> tuple[float, np.ndarray, Arrays]:
    """Of a mini-batch: the weighted sum of cross-entropies, logits of all pieces (P, classes), gradients by name."""
    p = {name: lift(a) for name, a in params.items()}
    each = [pieces(lift(X), length, least) for X in utterances]
    owner = [u for u, some in enumerate(each) for _ in some]
    no_bias = [Var(0.0)] * len(p["batch.b"])
    D = [dense(body(p, piece, channels), p["dense.W"], no_bias) for some in each for piece in some]
    D = leaky(normalised(D, p["batch.gamma"], p["batch.b"]), 0.01)
    logits = [dense(d, p["emotion.W"], p["emotion.b"]) for d in D]
    loss = total(
        cross_entropy(row, int(y[u])) * (float(weight[u]) / len(each[u])) for row, u in zip(logits, owner, strict=True)
    )
    loss.backward()
    return loss.value, values(logits), gradients_of(p, params)
