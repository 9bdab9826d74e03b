"""The layers: each is a function that returns its output and its backward pass.

    out, backward = layer(inp, bounds, *params)
    dinp, *dparams = backward(dout)

Legend: N rows (frames of all utterances), B utterances, T pooled frames, C channels, H units. ``bounds (B+1,)``: utterance u is
rows ``bounds[u]:bounds[u+1]``. ``dX`` is the gradient of ``X``. Dropout acts exactly when a random generator is passed.
Pictures are rows (N, F C): the F bands of a frame side by side, each of C channels.
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
from npser_kernels.conv2d import add_folded_bands, collect_bands, spread_bands, unfold_bands
from npser_kernels.lstm import lstm_backward, lstm_forward
from npser_kernels.maxpool import maxpool2d_backward, maxpool2d_forward, maxpool_backward, maxpool_forward

Array = np.ndarray
Backward = Callable[..., tuple[Array, ...]]

BLOCK = 2**19  # numbers of the windows of bands that conv2d holds at a time


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


def conv2d(X: Array, bounds: Array, W: Array, b: Array, stride: int = 1, valid: bool = False) -> tuple[Array, Array, Backward]:
    """Convolution over time and bands. X (N, F C), W (C, n_time, n_band, K), b (K,) -> (M, S K) and its bounds.

    Past its ends an utterance repeats its first and last frames and bands, of an even window one more before than behind; an
    utterance of L frames has ceil(L / stride) then, and S = ceil(F / stride). valid: windows lie inside; (L - n_time) // stride
    + 1 frames, or none, and S = (F - n_band) // stride + 1.

    Windows of bands are laid out one frame after the other, utterances apart; the window of frames that begins at any of them
    lies there already. Those that begin some frames apart, not to overlap, are the rows of a matrix: see _joined.
    """
    (C, n_time, n_band, K), F = W.shape, X.shape[1] // len(W)
    before, behind = (0, 0) if valid else (n_band // 2, n_band - 1 - n_band // 2)
    bands = np.clip(np.arange(before + F + behind) - before, 0, F - 1)
    padded = np.take(X.reshape(-1, F, C), bands, axis=1).reshape(len(X), len(bands) * C)
    rows, start, outer = _laid_out(bounds, n_time, stride, valid)
    n, S, width = len(rows), (before + F + behind - n_band) // stride + 1, n_band * C
    apart, taps = -(-n_time // stride) * stride, W.transpose(1, 2, 0, 3).reshape(-1, K)
    at_once = max(1, min(BLOCK // max(n * max(width, K), 1), S))
    blocks = [slice(s, min(s + at_once, S)) for s in range(0, S if len(start) else 0, at_once)]

    def buffer(columns: int) -> Array:
        return np.zeros((apart + at_once * n + apart, columns), X.dtype)

    def unfolded(block: slice, U: Array) -> int:
        size = (block.stop - block.start) * n
        unfold_bands(U[:size].reshape(-1, n, width), padded, rows, block.start * stride * C, stride * C)
        return size

    out, U, Y = np.empty((len(start), S, K), X.dtype), buffer(width), buffer(K)
    for block in blocks:
        size = unfolded(block, U)
        for r in range(0, apart, stride):
            np.matmul(_joined(U, r, apart, size, n_time), taps, out=_joined(Y, r, apart, size, 1))
        collect_bands(out, Y[:size].reshape(-1, n, K), start, b, block.start)

    def backward(dout: Array, need_dX: bool = True) -> tuple[Array, ...]:
        dout = np.ascontiguousarray(dout).reshape(len(start), S, K)
        dtaps, dpadded = np.zeros_like(taps), np.zeros_like(padded if need_dX else padded[:0])
        flipped = taps.reshape(n_time, width, K)[::-1].transpose(0, 2, 1).reshape(-1, width)
        U, dY, dU = buffer(width), buffer(K), buffer(width)
        for block in blocks:
            size = unfolded(block, U)
            spread_bands(dY[apart : apart + size].reshape(-1, n, K), dout, start, block.start)
            for r in range(0, apart, stride):
                dtaps += _joined(U, r, apart, size, n_time).T @ _joined(dY[apart:], r, apart, size, 1)
            for r in range(apart if need_dX else 0):
                ending = _joined(dY[apart - n_time + 1 :], r, apart, size, n_time)
                np.matmul(ending, flipped, out=_joined(dU, r, apart, size, 1))
            if need_dX:
                add_folded_bands(dpadded, dU[:size].reshape(-1, n, width), rows, block.start * stride * C, stride * C)
        d = dpadded.reshape(-1, before + F + behind, C)
        dX = d[:, before : before + F]
        dX[:, 0] += d[:, :before].sum(axis=1)
        dX[:, -1] += d[:, before + F :].sum(axis=1)
        dW = dtaps.reshape(n_time, n_band, C, K).transpose(2, 0, 1, 3)
        return dX.reshape(-1, F * C), dW, dout.sum(axis=(0, 1))

    return out.reshape(-1, S * K), outer, backward


def _laid_out(bounds: Array, n_time: int, stride: int, valid: bool) -> tuple[Array, Array, Array]:
    """Frames of utterances with what repeats at their ends, each utterance's a multiple of stride.

    Returns the row of X that each frame is, (n,); the frames where windows of n_time begin, (M,); and the bounds of those.
    """
    lengths = np.diff(bounds)
    whole = np.where(lengths > 0, lengths + (0 if valid else n_time - 1), 0)
    counts = np.maximum((whole - n_time) // stride + 1, 0)
    laid = -(-whole // stride) * stride
    first, outer = np.concatenate([[0], np.cumsum(laid)]), np.concatenate([[0], np.cumsum(counts)])
    frame = np.arange(first[-1]) - np.repeat(first[:-1] + (0 if valid else n_time // 2), laid)
    rows = np.repeat(bounds[:-1], laid) + np.clip(frame, 0, np.repeat(np.maximum(lengths - 1, 0), laid))
    return rows, np.repeat(first[:-1] - stride * outer[:-1], counts) + stride * np.arange(outer[-1]), outer


def _joined(Y: Array, first: int, apart: int, size: int, n_time: int) -> Array:
    """Windows of n_time rows as rows, which begin at first and each time so many apart, up to size: a view of Y (n, C)."""
    count = max(0, -((first - size) // apart))
    return Y[first : first + count * apart].reshape(count, apart * Y.shape[1])[:, : n_time * Y.shape[1]]


def maxpool2d(X: Array, bounds: Array, C: int, n_time: int, n_band: int) -> tuple[Array, Array, Backward]:
    """The largest of n_time frames by n_band bands; what is over is dropped. X (N, F C) -> (M, F // n_band C), its bounds."""
    pooled = np.concatenate([[0], np.cumsum(np.diff(bounds) // n_time)])
    windows, bands = np.full(len(bounds) - 1, n_time), X.shape[1] // C // n_band
    out, backward = _largest(X, bounds, C, pooled, windows, n_band, bands)
    return out, pooled, backward


def quarters(X: Array, bounds: Array, C: int) -> tuple[Array, Backward]:
    """The largest of each half of the frames by half of the bands. X (N, F C) -> (B, 4 C); of fewer than two frames, 0.

    Of an odd number the last one is dropped.
    """
    halves, F = np.diff(bounds) // 2, X.shape[1] // C
    pooled = np.concatenate([[0], np.cumsum(np.where(halves > 0, 2, 0))])
    out, backward = _largest(X, bounds, C, pooled, halves, F // 2, 2)
    return _one_row_each(out.reshape(-1, 4 * C), halves > 0, lambda dout: backward(dout.reshape(-1, 2 * C)))


def max_over_time(X: Array, bounds: Array) -> tuple[Array, Backward]:
    """The largest of all frames. X (N, D) -> (B, D); of none, 0."""
    lengths = np.diff(bounds)
    pooled = np.concatenate([[0], np.cumsum(lengths > 0)])
    out, backward = _largest(X, bounds, X.shape[1], pooled, lengths, 1, 1)
    return _one_row_each(out, lengths > 0, backward)


def _largest(X: Array, bounds: Array, C: int, pooled: Array, n_time: Array, n_band: int, bands: int) -> tuple[Array, Backward]:
    """The largest of windows of n_time (B,) frames and n_band bands. X (N, F C) -> (M, bands C), M and its bounds pooled."""
    out = np.empty((pooled[-1], bands * C), X.dtype)
    argmax = np.empty(out.shape, np.int32)
    maxpool2d_forward(out, argmax, X, bounds, pooled, n_time, n_band, C)
    shape, dtype = X.shape, X.dtype  # X itself is not held

    def backward(dout: Array) -> tuple[Array, ...]:
        dX = np.empty(shape, dtype)
        maxpool2d_backward(dX, dout, argmax, bounds, pooled, n_time, n_band, C)
        return (dX,)

    return out, backward


def _one_row_each(rows: Array, filled: Array, backward: Backward) -> tuple[Array, Backward]:
    """Rows of those utterances that are filled (B,), and zeros for the others."""
    out = np.zeros((len(filled), rows.shape[1]), rows.dtype)
    out[filled] = rows
    return out, lambda dout: backward(dout[filled])


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


def last_states(X: Array, bounds: Array) -> tuple[Array, Backward]:
    """What each direction of a BLSTM says at its end. X (N, 2H), forward | backward -> (B, 2H); of no frames, 0."""
    filled, H = np.diff(bounds) > 0, X.shape[1] // 2
    last, first = bounds[1:][filled] - 1, bounds[:-1][filled]

    def backward(dout: Array) -> tuple[Array, ...]:
        dX = np.zeros_like(X)
        dX[last, :H], dX[first, H:] = dout[:, :H], dout[:, H:]
        return (dX,)

    return _one_row_each(np.concatenate([X[last, :H], X[first, H:]], axis=1), filled, backward)


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


def leaky_relu(X: Array, slope: float = 0.0) -> tuple[Array, Backward]:
    """X where it is positive, else slope X; with slope 0, ReLU."""
    factor = np.where(X > 0, X.dtype.type(1), X.dtype.type(slope))
    return X * factor, lambda dout: (dout * factor,)


def batch_norm(
    X: Array, gamma: Array, beta: Array, held: tuple[Array, Array] | None = None, epsilon: float = 1e-3
) -> tuple[Array, tuple[Array, Array], Backward]:
    """Ioffe and Szegedy (2015): gamma (X - mean) / sqrt(variance + epsilon) + beta. X (N, C), the others (C,) -> (N, C).

    mean and variance (over N, not N - 1) are those of X, which has to be the whole mini-batch, and come second; or held.
    """
    mean, variance = (X.mean(axis=0), X.var(axis=0)) if held is None else held
    r = 1 / np.sqrt(variance + X.dtype.type(epsilon))
    Y = (X - mean) * r

    def backward(dout: Array) -> tuple[Array, ...]:
        dgamma, dbeta = (dout * Y).sum(axis=0), dout.sum(axis=0)
        share = X.dtype.type(1 / len(X) if held is None else 0)  # of each row in the statistics
        return gamma * r * (dout - share * dbeta - share * Y * dgamma), dgamma, dbeta

    return gamma * Y + beta, (mean, variance), backward


def embedding(symbols: Array, E: Array) -> tuple[Array, Backward]:
    """The vector of each symbol. symbols (N,) numbers of rows of E (V, D) -> (N, D); backward -> dE alone."""

    def backward(dout: Array) -> tuple[Array, ...]:
        dE, order = np.zeros_like(E), np.argsort(symbols, kind="stable")
        used, first = np.unique(symbols[order], return_index=True)
        dE[used] = np.add.reduceat(dout[order], first) if len(used) else 0
        return (dE,)

    return E[symbols], backward


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
