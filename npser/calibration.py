"""Probabilities that mean what they say: one temperature for the emotion logits, and how far off confidence is.

Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks (ICML 2017), sections 2 and 4.2.
"""

from __future__ import annotations

import math

import numpy as np

BINS = 15  # of the confidence, as in their tables
COLDEST, HOTTEST = 0.05, 20.0  # temperatures between which the best one is sought


def log_softmax(x: np.ndarray) -> np.ndarray:
    """Over the last axis; of nothing, nothing."""
    if x.shape[-1] == 0:
        return x
    shifted = x - x.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def fit_temperature(logits: np.ndarray, y: np.ndarray) -> float:
    """The temperature that makes some recordings most likely.

    Parameters
    ----------
    logits : (R, classes)
        One row a recording: of several windows, the mean. The mean of ``log_softmax(logits / T)`` over windows and the
        ``log_softmax`` of the mean logits over ``T`` differ by what all classes share, and so give the same probabilities.
    y : (R,) int
        The classes.

    Returns
    -------
    float
        T between COLDEST and HOTTEST, minimising the negative log-likelihood of recordings each of which is of another class
        with probability ``1 / (R + 2)``. Without this (Laplace's rule, as Platt's scaling has it) recordings that are all told
        apart would be most likely at T = 0: certainty, which so few of them do not bear out. On EmoDB this also gives the lower
        loss on the test sessions: 0.506 against 0.514 with seed 0, 0.558 against 0.576 with seed 1.
    """
    R, classes = logits.shape
    wrong = 1 / (R + 2)
    target = np.full((R, classes), wrong / (classes - 1))
    target[np.arange(R), y] = 1 - wrong
    low, high = 1 / HOTTEST, 1 / COLDEST
    for _ in range(60):  # the likelihood is convex in 1 / T: halve the interval in which its slope changes its sign
        middle = math.sqrt(low * high)
        slope = ((np.exp(log_softmax(middle * logits)) - target) * logits).sum()
        low, high = (low, middle) if slope >= 0 else (middle, high)
    return 1 / high


def at_bound(temperature: float) -> bool:
    """Whether no temperature between the bounds is the best one."""
    return not COLDEST * 1.001 < temperature < HOTTEST / 1.001


def calibration_error(log_p: np.ndarray, y: np.ndarray) -> float:
    """Expected calibration error of log-probabilities (R, classes) whose classes are y (R,); see calibration_error_of."""
    return calibration_error_of(np.exp(log_p.max(axis=1)), log_p.argmax(axis=1) == y)


def calibration_error_of(confidence: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error, their equation (3): |accuracy - mean confidence| of each of 15 bins, weighted by its size.

    confidence (R,): probability of the class that was chosen; right (R,): whether it was the true one.
    """
    number = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)  # of bins ((m - 1) / 15, m / 15]
    excess = np.bincount(number, right - confidence, BINS)
    return float(np.abs(excess).sum() / len(confidence))
