"""AE-BLSTM and its inverse filtering once more, as literally as they can be said: loops over samples, frames and units."""

import math
from collections.abc import Sequence
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
    nested,
    total,
    values,
)
from scipy.linalg import solve_toeplitz

Streams = dict[str, slice]  # the columns of X that each stream codes


def tanh_layer(x: Vector, W: Matrix, b: Vector) -> Vector:
    return [y.tanh() for y in dense(x, W, b)]


def in_context(X: Matrix, t: int, context: int) -> Vector:
    """Frame t of X (L, d) among those around it, the first and the last repeated -> (context d,)."""
    around = range(t - (context - 1) // 2, t + (context - 1) // 2 + 1)
    return [x for s in around for x in X[min(max(s, 0), len(X) - 1)]]


def code(p: dict[str, Any], X: np.ndarray, streams: Streams, context: int) -> Matrix:
    """Codes of one utterance: X (L, d_spec) -> (L, d_code of each stream)."""
    found: Matrix = []
    for t in range(len(X)):
        row: Vector = []
        for name, columns in streams.items():
            h = in_context(lift(X[:, columns]), t, context)
            for k in (1, 2, 3):
                h = tanh_layer(h, p[f"{name}{k}.W"], p[f"{name}{k}.b"])
            row = row + h
        found.append(row)
    return found


def loss_and_gradients(
    params: Arrays,
    utterances: Utterances,
    y: Numbers,
    weight: Numbers,
    streams: Streams,
    context: int,
    masks: Sequence[np.ndarray] | None,
) -> tuple[float, list[np.ndarray], Arrays]:
    """The loss, the logits of every utterance's steps, and the gradients; every step has its utterance's label."""
    p = {name: lift(a) for name, a in params.items()}
    terms, found = [], []
    for u, X in enumerate(utterances):
        H = blstm(code(p, X, streams, context), p, "lstm")
        if masks is not None:
            H = dropout(H, masks[u].tolist())
        logits = [dense(h, p["emotion.W"], p["emotion.b"]) for h in H]
        terms += [cross_entropy(step, int(y[u])) * (float(weight[u]) / len(X)) for step in logits]
        found.append(values(logits))
    loss = total(terms)
    loss.backward()
    return loss.value, found, gradients_of(p, params)


def reconstruction_error(
    layers: Sequence[tuple[np.ndarray, np.ndarray]], noisy: np.ndarray, clean: np.ndarray, weight: float, end: str
) -> tuple[float, list[np.ndarray]]:
    """weight times the squared error of clean from noisy, and its gradients by W, b of each layer."""
    lifted = [(lift(W), lift(b)) for W, b in layers]
    terms: list[Var] = []
    for x, target in zip(lift(noisy), clean, strict=True):
        h = x
        for k, (W, b) in enumerate(lifted):
            h = dense(h, W, b) if k == len(lifted) - 1 and end == "linear" else tanh_layer(h, W, b)
        terms += [(y - float(t)) * (y - float(t)) * weight for y, t in zip(h, target, strict=True)]
    loss = total(terms)
    loss.backward()
    arrays = [array for layer in lifted for array in layer]
    return loss.value, [np.array(nested(lambda x: x.gradient, array)) for array in arrays]


def votes(logits: np.ndarray) -> tuple[list[int], list[float]]:
    """Of steps (T, K): the votes of each class, and the sum of its log-probabilities."""
    T, K = logits.shape
    counts, sums = [0] * K, [0.0] * K
    for t in range(T):
        best = 0
        for k in range(K):
            if logits[t, k] > logits[t, best]:
                best = k
            sums[k] += logits[t, k] - math.log(sum(math.exp(x - logits[t].max()) for x in logits[t])) - logits[t].max()
        counts[best] += 1
    return counts, sums


# IAIF of one frame, step by step as COVAREP's iaif.m has it


def prediction(y: np.ndarray, order: int) -> list[float]:
    """1, a_1, ..., a_order of a frame under a Hann window without its zeros at both ends."""
    n = len(y)
    w = [0.5 * (1 - math.cos(2 * math.pi * (t + 1) / (n + 1))) * float(y[t]) for t in range(n)]
    r = [sum(w[t] * w[t + lag] for t in range(n - lag)) for lag in range(order + 1)]
    r[0] *= 1 + 1e-9
    return [1.0, *(-np.asarray(solve_toeplitz(r[:order], r[1:]))).astype(float).tolist()]


def filtered(b: Sequence[float], x: Sequence[float]) -> list[float]:
    return [sum(b[j] * x[t - j] for j in range(len(b)) if t >= j) for t in range(len(x))]


def integral(x: Sequence[float], leak: float = 0.99) -> list[float]:
    found: list[float] = []
    for value in x:
        found.append(value + (leak * found[-1] if found else 0.0))
    return found


def iaif(x: np.ndarray) -> np.ndarray:
    """The glottal flow of one frame (n,)."""
    ramp = [-x[0] + 2 * x[0] * t / 20 for t in range(21)]
    signal = [*ramp, *x.tolist()]
    y = filtered(prediction(x, 1), signal)[21:]
    g1 = integral(filtered(prediction(np.array(y), 20), signal))[21:]
    y = integral(filtered(prediction(np.array(g1), 8), signal))[21:]
    return np.array(integral(filtered(prediction(np.array(y), 20), signal))[21:])
