"""Logistic regression on statistics of the input over time, beside a network: what is steadier than what it learns itself.

Of each band the mean, the deviation and the change from frame to frame, over the frames of a window. Classifiers of such
functionals are the field's classical systems (Schuller, Steidl and Batliner, 2009; openSMILE). A voice that a network has never
heard leads it astray; what bands do on average over a sentence, against what they do in other sentences of the voice, holds.

It is solved before the first epoch and not descended: the loss is convex. As it is, the answer of both is the weighted mean
of their logits. A linear classifier goes astray where a line lacks what it has learnt from: where the lowest bands hardly move,
as on a telephone, the network answers alone. Where the voice is known, and its own statistics have taken the place of the
training part's (npser.adaptation), averages say more: the regression's logits count up to FAMILIAR times.
"""

from __future__ import annotations

import itertools

import numpy as np

Array = np.ndarray

SHARE = 0.5  # of the regression in the mean of the logits, at most
LOWEST = 4  # bands, below 120 Hz, which a telephone lacks
PRESENT = 0.3, 0.4  # of the training part's mean deviation: they lack up to the first one, and are whole from the second
FAMILIAR = 3.0  # times that the regression's logits count where the normaliser is wholly the voice's own
RIDGE = 0.03  # of the squared weights in its loss; statistics have variance 1
DRAWS = 5  # times that each utterance is learnt from
MOST = 100_000  # rows that are learnt from: beyond them there are fewer draws
STEPS = 500  # of L-BFGS
FLAT = 1e-4  # deviation of a statistic that does not vary


def of_windows(X: Array) -> Array:
    """Mean, deviation, and root mean square of the change from frame to frame. X (B, L, C) -> (B, 3 C); of no frames, 0."""
    L = X.shape[1]
    mean = X.sum(axis=1) / np.float32(max(L, 1))
    deviation = ((X - mean[:, None]) ** 2).sum(axis=1) / np.float32(max(L, 1))
    change = (np.diff(X, axis=1) ** 2).sum(axis=1) / np.float32(max(L - 1, 1))
    return np.concatenate([mean, np.sqrt(deviation), np.sqrt(change)], axis=1)


def of_utterances(X: Array, bounds: Array) -> Array:
    """The same of utterances of any length. X (N, C) -> (B, 3 C)."""
    return np.concatenate([of_windows(X[None, start:end]) for start, end in itertools.pairwise(bounds)])


def start(bands: int, classes: int) -> dict[str, Array]:
    """The tensors of a regression that has learnt nothing: W (3 bands, classes), b (classes,)."""
    return {"W": np.zeros((3 * bands, classes), np.float32), "b": np.zeros(classes, np.float32)}


def share_of(Z: Array) -> Array:
    """What the regression has of the answer, by the statistics Z (B, 3 bands): (B,), 0 to SHARE."""
    bands, (none, whole) = Z.shape[1] // 3, PRESENT
    moves = Z[:, bands : bands + min(LOWEST, bands)].mean(axis=1)
    return SHARE * np.clip((moves - none) / (whole - none), 0, 1).astype(np.float32)


def added(emotion: Array, Z: Array, W: Array, b: Array) -> Array:
    """Logits of both, (B, classes), by those of the network, (B, classes), and the statistics Z (B, 3 bands)."""
    also = (Z[:, None] @ W)[:, 0] + b  # one at a time: BLAS rounds a product with so few columns by the number of rows
    share = share_of(Z)[:, None]
    return (1 - share) * emotion + share * also


def familiar(W: Array, b: Array, own_share: Array) -> tuple[Array, Array]:
    """W (d, classes) and b (classes,) where so much of the normaliser is the voice's own, 0 to 1: one share, or (B,)."""
    times = (1 + (FAMILIAR - 1) * own_share).astype(np.float32)
    return W * times[..., None, None], b * times[..., None]


def loss(theta: Array, Z: Array, y: Array, weight: Array, classes: int) -> tuple[float, Array]:
    """Cross-entropy and ridge, and the gradient by theta: W (d, classes) and b (classes,), one after the other, (P,).

    Z (n, d), classes y (n,), weights (n,) that add up to 1. L = -sum_n w_n log p_n[y_n] + RIDGE / 2 |W|^2
    """
    W, b = theta[:-classes].reshape(-1, classes), theta[-classes:]
    logits = Z @ W + b
    logits -= logits.max(axis=1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    dlogits = np.exp(log_p)
    dlogits[np.arange(len(y)), y] -= 1
    dlogits *= weight[:, None]
    total = RIDGE / 2 * (W * W).sum() - (weight * log_p[np.arange(len(y)), y]).sum()
    return float(total), np.concatenate([(Z.T @ dlogits + RIDGE * W).ravel(), dlogits.sum(axis=0)])


def solve(Z: Array, y: Array, weight: Array, classes: int) -> dict[str, Array]:
    """The tensors of the regression with the least loss, by L-BFGS. Z (n, d), y (n,), weight (n,).

    Statistics are brought to mean 0 and variance 1 for it; W and b take them as they are.
    """
    from scipy.optimize import minimize  # late: training alone needs it

    Z = Z.astype(np.float64)
    mean, deviation = Z.mean(axis=0), Z.std(axis=0)
    deviation[deviation < FLAT] = 1
    Z -= mean
    Z /= deviation
    given = Z, y, weight / weight.sum(), classes
    found = minimize(loss, np.zeros((Z.shape[1] + 1) * classes), given, "L-BFGS-B", jac=True, options={"maxiter": STEPS})
    W, b = found.x[:-classes].reshape(-1, classes) / deviation[:, None], found.x[-classes:]
    return {"W": W.astype(np.float32), "b": (b - mean @ W).astype(np.float32)}
