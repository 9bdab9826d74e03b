"""Local attention (Mirsamadi, Barsoum and Zhang, 2017) as slow literal loops over scalars, to test against."""

from typing import Any

import numpy as np
from reference import (
    Arrays,
    Matrix,
    Numbers,
    Utterances,
    Vector,
    blstm,
    column,
    cross_entropy,
    dense,
    dot,
    dropout,
    gradients_of,
    lift,
    mean_over_time,
    relu,
    softmax,
    total,
    values,
)


def local_attention(Y: Matrix, u: Vector) -> Vector:
    """alpha_t = exp(u . y_t) over the sum of these, z = sum over t of alpha_t y_t. Y (T, D), u (D,) -> (D,)."""
    alpha = softmax([dot(u, y) for y in Y])
    return [dot(alpha, column(Y, d)) for d in range(len(u))]


def logits_of(p: dict[str, Any], X: Matrix, masks: Any) -> Vector:
    """One utterance X (L, d_spec) -> (classes,); masks: of the dropout after each dense layer, and after the BLSTM."""
    H, left = X, [] if masks is None else [mask.tolist() for mask in masks]
    for k in (1, 2):
        if f"dense{k}.W" in p:
            H = [[relu(x) for x in dense(h, p[f"dense{k}.W"], p[f"dense{k}.b"])] for h in H]
            H = dropout(H, left.pop(0)) if masks else H
    H = blstm(H, p, "lstm")
    H = dropout(H, left.pop(0)) if masks else H
    z = local_attention(H, p["attn.u"]) if "attn.u" in p else mean_over_time(H)
    return dense(z, p["emotion.W"], p["emotion.b"])


def loss_and_gradients(
    params: Arrays, utterances: Utterances, y: Numbers, weight: Numbers, masks: Any
) -> tuple[float, np.ndarray, Arrays]:
    """The weighted sum of cross-entropies, logits (B, classes), gradients by name. masks: of each utterance."""
    p = {name: lift(a) for name, a in params.items()}
    logits = [logits_of(p, lift(X), masks and masks[u]) for u, X in enumerate(utterances)]
    loss = total(cross_entropy(row, int(y[u])) * float(weight[u]) for u, row in enumerate(logits))
    loss.backward()
    gradients = gradients_of(p, params)
    return loss.value, values(logits), gradients
