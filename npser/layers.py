"""The layers: each is a function that returns its output and its backward pass.

    out, backward = layer(inp, bounds, *params)
    dinp, *dparams = backward(dout)

Legend: N rows (frames of all utterances), B utterances, T pooled frames, C channels, H units. ``bounds (B+1,)``: utterance u is
rows ``bounds[u]:bounds[u+1]``. ``dX`` is the gradient of ``X``. Dropout acts exactly when a random generator is passed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from npser_kernels.alignment import alignment_backward, alignment_forward
from npser_kernels.attention import attention_backward, attention_forward
from npser_kernels.conv1d import conv1d_backward, conv1d_forward
from npser_kernels.lstm import lstm_backward, lstm_forward
from npser_kernels.maxpool import maxpool_backward, maxpool_forward

Array = np.ndarray
Backward = Callable[..., tuple[Array, ...]]


def conv1d(X: Array, bounds: Array, W: Array, b: Array) -> tuple[Array, Backward]:
    """Equations (1)-(3), ReLU included. X (N, C), W (C, n_cw, K), b (K,) -> (N, K)."""
    taps = W.reshape(len(W), -1)  # (C, n_cw K)
    P = X @ taps
    out = np.empty((len(X), len(b)), X.dtype)
    conv1d_forward(out, P, b, bounds)

    def backward(dout: Array, need_dX: bool = True) -> tuple[Array, ...]:
        dP, db = np.empty_like(P), np.empty_like(b)
        conv1d_backward(dP, db, dout, out, bounds)
        dX = dP @ taps.T if need_dX else np.empty((0, len(W)), X.dtype)  # nobody asks for the gradient of the features
        return dX, (X.T @ dP).reshape(W.shape), db

    return out, backward


def maxpool(X: Array, bounds: Array, n_pw: int) -> tuple[Array, Array, Backward]:
    """Equation (4). X (N, C) -> (M, C) and its bounds; frames past the last whole window are dropped."""
    pooled = np.concatenate([[0], np.cumsum(np.diff(bounds) // n_pw)])
    out = np.empty((pooled[-1], X.shape[1]), X.dtype)
    argmax = np.empty(out.shape, np.int32)
    maxpool_forward(out, argmax, X, bounds, pooled, n_pw)

    def backward(dout: Array) -> tuple[Array, ...]:
        dX = np.empty_like(X)
        maxpool_backward(dX, dout, argmax, bounds, pooled, n_pw)
        return (dX,)

    return out, pooled, backward


def extend(X: Array, bounds: Array, lengths: Array) -> tuple[Array, Array, Backward]:
    """The last row of each utterance repeated until it has lengths (B,) rows. X (N, C) -> (M, C) and its bounds."""
    if (np.diff(bounds) >= lengths).all():
        return X, bounds, lambda dout: (dout,)
    filled = np.diff(bounds) > 0
    times = np.ones(len(X), np.int64)
    times[bounds[1:][filled] - 1] += (lengths - np.diff(bounds))[filled]
    extended = np.concatenate([[0], np.cumsum(np.where(filled, lengths, 0))])
    return np.repeat(X, times, axis=0), extended, lambda dout: (np.add.reduceat(dout, np.cumsum(times) - times, axis=0),)


def blstm(
    X: Array, bounds: Array, W_fw: Array, R_fw: Array, b_fw: Array, W_bw: Array, R_bw: Array, b_bw: Array
) -> tuple[Array, Backward]:
    """Section 4.2.2. X (N, C), W (C, 4H), R (H, 4H), b (4H,) for each direction -> (N, 2H), forward | backward.

    i, f, o = sigmoid(x W + h R + b), g = tanh(the same); c = f c + i g; h = o tanh(c). Gate order i f g o.
    """
    N, H = len(X), len(R_fw)
    W = np.concatenate([W_fw, W_bw], axis=1)  # (C, 8H): one product serves both directions
    R = _aligned((2, -(-H // 4) * 4, 4 * H), X.dtype)
    R[0, :H], R[1, :H], R[:, H:] = R_fw, R_bw, 0  # rows of zeros up to a multiple of four
    order = np.argsort(-np.diff(bounds), kind="stable")  # the kernel's tiles hold utterances of similar length

    Z = (X @ W).reshape(N, 2, 4 * H)
    out, cell, gates = np.empty((N, 2, H), X.dtype), np.empty((N, 2, H), X.dtype), np.empty_like(Z)
    lstm_forward(out, cell, gates, Z, np.stack([b_fw, b_bw]), R, bounds, order)

    def backward(dout: Array) -> tuple[Array, ...]:
        dZ = np.empty_like(gates)
        lstm_backward(dZ, dout.reshape(N, 2, H), cell, gates, R, bounds, order)
        first, end = bounds[:-1][np.diff(bounds) > 0], bounds[1:][np.diff(bounds) > 0]
        before = np.empty_like(out)  # the h that each step started from
        before[1:, 0], before[:-1, 1] = out[:-1, 0], out[1:, 1]
        before[first, 0] = before[end - 1, 1] = 0
        dR_fw, dR_bw = before[:, 0].T @ dZ[:, 0], before[:, 1].T @ dZ[:, 1]
        db_fw, db_bw = dZ.sum(axis=0)
        dZ = dZ.reshape(N, 8 * H)
        dW = X.T @ dZ
        return dZ @ W.T, dW[:, : 4 * H], dR_fw, db_fw, dW[:, 4 * H :], dR_bw, db_bw

    return out.reshape(N, 2 * H), backward


def _aligned(shape: tuple[int, ...], dtype: Any) -> Array:
    """An array that begins at a cache line: of one that does not, every vector that a kernel loads may straddle two."""
    size = math.prod(shape)
    memory = np.empty(size + 64, dtype)
    first = -memory.ctypes.data % 64 // memory.itemsize
    return memory[first : first + size].reshape(shape)


def dropout(X: Array, p: float, rng: np.random.Generator | None) -> tuple[Array, Backward]:
    """Each element is zero with probability p, else divided by 1 - p; without rng, X itself."""
    if rng is None or p == 0:
        return X, lambda dout: (dout,)
    mask = (rng.random(X.shape, np.float32) >= p).astype(X.dtype) / X.dtype.type(1 - p)
    return X * mask, lambda dout: (dout * mask,)


def attention(X: Array, bounds: Array, W_s1: Array, w_s2: Array) -> tuple[Array, Backward]:
    """Equations (5)-(9). X (N, D), W_s1 (D, d_attn), w_s2 (d_attn, n_attn) -> z (B, n_attn D); an empty utterance gives 0."""
    A = X @ W_s1
    np.tanh(A, out=A)
    E = A @ w_s2
    a, z = np.empty_like(E), np.empty((len(bounds) - 1, E.shape[1] * X.shape[1]), X.dtype)
    attention_forward(a, z, E, X, bounds)

    def backward(dz: Array) -> tuple[Array, ...]:
        dE, dX = np.empty_like(a), np.empty_like(X)
        attention_backward(dE, dX, dz, a, X, bounds)
        dpre = dE @ w_s2.T
        slope = A * A
        dpre *= np.subtract(1, slope, out=slope)
        return dX + dpre @ W_s1.T, X.T @ dpre, A.T @ dE

    return z, backward


def local_attention(X: Array, bounds: Array, u: Array) -> tuple[Array, Backward]:
    """Mirsamadi et al. (2017): a = softmax over time of X u, z = sum of a X. X (N, D), u (D,) -> z (B, D); of no frames, 0."""
    E = (X @ u)[:, None]
    a, z = np.empty_like(E), np.empty((len(bounds) - 1, X.shape[1]), X.dtype)
    attention_forward(a, z, E, X, bounds)

    def backward(dz: Array) -> tuple[Array, ...]:
        dE, dX = np.empty_like(a), np.empty_like(X)
        attention_backward(dE, dX, dz, a, X, bounds)
        return dX + dE * u, X.T @ dE[:, 0]

    return z, backward


def mean_over_time(X: Array, bounds: Array) -> tuple[Array, Backward]:
    """The ablation of equations (5)-(9). X (N, D) -> (B, D); an empty utterance gives 0."""
    lengths = np.diff(bounds)
    share = (1 / np.maximum(lengths, 1)).astype(X.dtype)[:, None]
    z = np.stack([X[start:end].sum(axis=0) for start, end in itertools.pairwise(bounds)]) * share
    return z, lambda dz: (np.repeat(dz * share, lengths, axis=0),)


def linear(X: Array, W: Array, b: Array) -> tuple[Array, Backward]:
    """Section 4.3. X (B, D), W (D, classes), b (classes,) -> logits (B, classes)."""
    return X @ W + b, lambda dout: (dout @ W.T, X.T @ dout, dout.sum(axis=0))


def dense(X: Array, W: Array, b: Array, activation: str) -> tuple[Array, Backward]:
    """A linear layer with activation relu or tanh. X (N, C), W (C, K), b (K,) -> (N, K)."""
    out = X @ W
    out += b
    if activation == "tanh":
        np.tanh(out, out=out)
    else:
        np.maximum(out, 0, out=out)

    def backward(dout: Array, need_dX: bool = True) -> tuple[Array, ...]:
        dpre = dout * (1 - out * out if activation == "tanh" else out > 0)
        dX = dpre @ W.T if need_dX else np.empty((0, len(W)), X.dtype)
        return dX, X.T @ dpre, dpre.sum(axis=0)

    return out, backward


def cross_entropy(logits: Array, y: Array, weight: Array) -> tuple[float, Array]:
    """Sum of weighted losses and its gradient. logits (B, classes), y (B,) class or -1 for unknown, weight (B,).

    weight is divided by the size of the whole batch already, so the losses of its shards just add up.
    """
    known = np.flatnonzero(y >= 0)
    target = np.zeros_like(logits)
    target[known, y[known]] = 1
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    dlogits = np.exp(log_p) * (weight * (y >= 0))[:, None] - target * weight[:, None]
    return float(-(weight * (target * log_p).sum(axis=1)).sum()), dlogits


def frame_cross_entropy(logits: Array, bounds: Array, y: Array, weight: Array) -> tuple[float, Array]:
    """Each frame has its utterance's class and a share of its weight. logits (N, classes), y, weight (B,)."""
    lengths = np.diff(bounds)
    share = weight / np.maximum(lengths, 1).astype(weight.dtype)
    return cross_entropy(logits, np.repeat(y, lengths), np.repeat(share, lengths))


def alignment_loss(logits: Array, stretches: Array, owner: Array, y: Array, weight: Array) -> tuple[float, Array]:
    """Sum of weighted losses of utterances whose stretches each go Null, emotion, Null; and its gradient, (N, K+1).

    Lee & Tashev (2015): -ln of the sum, over all paths through the three states with at least one frame in each, of the
    product of the softmax's outputs; of an utterance the mean over its stretches. logits (N, K+1): Null is the last column.
    stretches (S+1,): bounds of rows, all of them; owner (S,): the utterance of each stretch. y (B,) class or -1 for unknown,
    weight (B,): as of cross_entropy. A stretch of fewer than three rows has no path, and neither loss nor gradient.
    """
    log_p = logits - logits.max(axis=1, keepdims=True).astype(np.float64)  # hundreds of them add up
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    each, k = weight[owner] / np.bincount(owner, minlength=len(y))[owner], y[owner]
    loss, alpha, dlogits = np.empty(len(owner)), np.empty((len(logits), 3)), np.empty_like(logits)
    alignment_forward(loss, alpha, log_p, stretches, k)
    alignment_backward(dlogits, log_p, alpha, loss, stretches, k, each)
    return float((each * loss).sum()), dlogits


def squared_error(Y: Array, target: Array, weight: float) -> tuple[float, Array]:
    """weight times the sum of squared differences, and its gradient by Y. Y, target (N, C)."""
    difference = Y - target
    share = Y.dtype.type(weight)
    return float(share * (difference * difference).sum()), 2 * share * difference


def examples(bounds: Array, y: Array, rng: np.random.Generator) -> dict[str, tuple[Callable[..., Any], dict[str, Array]]]:
    """Every layer with small random arguments, for npser gradcheck: of some utterances (B+1,) of classes y (B,), -1 unknown.

    Each runs as run(**arguments), and gives the output first and the backward pass last.
    """
    N, B, D = bounds[-1], len(bounds) - 1, 6

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape)

    def of_loss(loss: Callable[[Array], tuple[float, Array]]) -> Callable[[Array], tuple[Array, Backward]]:
        """A loss and its gradient as a layer."""

        def run(logits: Array) -> tuple[Array, Backward]:
            value, dlogits = loss(logits)
            return np.array(value), lambda dout: (dout * dlogits,)

        return run

    weight, gates = np.linspace(0.5, 1, B), {"W": (D, 16), "R": (4, 16), "b": (16,)}
    lstm = {f"{name}_{direction}": normal(*gates[name]) for direction in ("fw", "bw") for name in gates}
    X, seed, target = normal(N, D), rng.integers(1000), np.sin(np.arange(4 * N)).reshape(N, 4)
    return {
        "conv1d": (lambda X, W, b: conv1d(X, bounds, W, b), {"X": X, "W": normal(D, 3, 5), "b": normal(5)}),
        "maxpool": (lambda X: maxpool(X, bounds, 3), {"X": X}),
        "extend": (lambda X: extend(X, bounds, np.diff(bounds) + np.arange(B)), {"X": X}),
        "blstm": (lambda X, **p: blstm(X, bounds, **p), {"X": X, **lstm}),
        "dropout": (lambda X: dropout(X, 0.5, np.random.default_rng(seed)), {"X": X}),
        "attention": (
            lambda X, W_s1, w_s2: attention(X, bounds, W_s1, w_s2),
            {"X": X, "W_s1": normal(D, 7), "w_s2": normal(7, 2)},
        ),
        "local_attention": (lambda X, u: local_attention(X, bounds, u), {"X": X, "u": normal(D)}),
        "mean_over_time": (lambda X: mean_over_time(X, bounds), {"X": X}),
        "linear": (linear, {"X": normal(B, D), "W": normal(D, 3), "b": normal(3)}),
        "dense": (lambda X, W, b: dense(X, W, b, "relu"), {"X": X, "W": normal(D, 5), "b": normal(5)}),
        "cross_entropy": (
            of_loss(lambda logits: cross_entropy(logits, y, weight.astype(logits.dtype))),
            {"logits": normal(B, 3)},
        ),
        "dense, tanh": (lambda X, W, b: dense(X, W, b, "tanh"), {"X": X, "W": normal(D, 5), "b": normal(5)}),
        "squared_error": (
            of_loss(lambda logits: squared_error(logits, target.astype(logits.dtype), 0.1)),
            {"logits": normal(N, 4)},
        ),
        "frame_cross_entropy": (
            of_loss(lambda logits: frame_cross_entropy(logits, bounds, y, weight.astype(logits.dtype))),
            {"logits": normal(N, 3)},
        ),
        "alignment_loss": (
            of_loss(lambda logits: alignment_loss(logits, bounds, np.arange(B), y, weight.astype(logits.dtype))),
            {"logits": normal(N, 4)},
        ),
    }
