"""Null, emotion, Null: the sum over all paths through three states of each stretch, by forward and backward recursion.

A path stays at least one frame in each of the states, and these follow one another. All is in logarithms and float64,
whatever log_p is: they add up over hundreds of frames. NOWHERE is the logarithm of a probability of zero.
"""

import math

from npser_kernels import jit

NOWHERE = -1e30


@jit
def log_add(a, b):
    """ln(e^a + e^b)."""
    if a > b:
        return a + math.log1p(math.exp(b - a))
    return b + math.log1p(math.exp(a - b))


@jit
def alignment_forward(loss, alpha, log_p, stretches, y):
    """loss (S,), -ln of the sum over paths; alpha (N, 3), ln of the sum over paths up to a frame that end in each state.

    log_p (N, K+1), Null being the last column; stretches (S+1,), all rows; y (S,). A stretch of fewer than three frames, which
    has no path, and one of an unknown emotion, -1, have the loss 0.
    """
    null = log_p.shape[1] - 1
    for s in range(stretches.size - 1):
        first, end, k = stretches[s], stretches[s + 1], y[s]
        loss[s] = 0
        if k < 0 or end - first < 3:
            for t in range(first, end):
                for state in range(3):
                    alpha[t, state] = NOWHERE
            continue
        before, emotion, after = float(log_p[first, null]), NOWHERE, NOWHERE
        alpha[first, 0], alpha[first, 1], alpha[first, 2] = before, emotion, after
        for t in range(first + 1, end):
            after = log_add(after, emotion) + log_p[t, null]
            emotion = log_add(emotion, before) + log_p[t, k]
            before += log_p[t, null]
            alpha[t, 0], alpha[t, 1], alpha[t, 2] = before, emotion, after
        loss[s] = -after


@jit
def alignment_backward(dlogits, log_p, alpha, loss, stretches, y, weight):
    """dlogits (N, K+1) = weight (softmax - gamma), gamma being the share of the paths that are in Null, or in the emotion.

    weight (S,) of each stretch; what else there is: see alignment_forward.
    """
    null = log_p.shape[1] - 1
    for s in range(stretches.size - 1):
        first, end, k = stretches[s], stretches[s + 1], y[s]
        if k < 0 or end - first < 3:
            for t in range(first, end):
                for j in range(null + 1):
                    dlogits[t, j] = 0
            continue
        before, emotion, after = NOWHERE, NOWHERE, 0.0  # ln of the sum over what may follow a frame in each state
        for t in range(end - 1, first - 1, -1):
            in_emotion = math.exp(alpha[t, 1] + emotion + loss[s])
            in_null = math.exp(alpha[t, 0] + before + loss[s]) + math.exp(alpha[t, 2] + after + loss[s])
            for j in range(null + 1):
                dlogits[t, j] = weight[s] * math.exp(log_p[t, j])
            dlogits[t, k] -= weight[s] * in_emotion
            dlogits[t, null] -= weight[s] * in_null
            before = log_add(before + log_p[t, null], emotion + log_p[t, k])
            emotion = log_add(emotion + log_p[t, k], after + log_p[t, null])
            after += log_p[t, null]
