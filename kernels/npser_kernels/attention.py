"""Self attention over the frames of each utterance: softmax and weighted sums, equations (7)-(9)."""

import math

from npser_kernels import jit


@jit
def attention_forward(a, z, E, X, bounds):
    """Weights and weighted sums. a, E (N, n_attn), z (B, n_attn D), X (N, D). No frames: z = 0."""
    n_attn, D = E.shape[1], X.shape[1]
    for u in range(bounds.size - 1):
        first, end = bounds[u], bounds[u + 1]
        z[u] = 0
        for j in range(n_attn):
            if first == end:
                continue
            top = E[first, j]
            for t in range(first, end):
                top = max(top, E[t, j])
            total = a.dtype.type(0)
            for t in range(first, end):
                a[t, j] = math.exp(E[t, j] - top)
                total += a[t, j]
            for t in range(first, end):
                a[t, j] /= total
        for t in range(first, end):
            for j in range(n_attn):
                weight = a[t, j]
                for d in range(D):
                    z[u, j * D + d] += weight * X[t, d]


@jit
def attention_backward(dE, dX, dz, a, X, bounds):
    """Through the sums and the softmax. dE, a (N, n_attn), dX, X (N, D), dz (B, n_attn D)."""
    n_attn, D = dE.shape[1], X.shape[1]
    for u in range(bounds.size - 1):
        first, end = bounds[u], bounds[u + 1]
        for t in range(first, end):
            dX[t] = 0
            for j in range(n_attn):
                weight = a[t, j]
                da = dE.dtype.type(0)
                for d in range(D):
                    da += dz[u, j * D + d] * X[t, d]
                    dX[t, d] += weight * dz[u, j * D + d]
                dE[t, j] = da
        for j in range(n_attn):
            mean = dE.dtype.type(0)
            for t in range(first, end):
                mean += a[t, j] * dE[t, j]
            for t in range(first, end):
                dE[t, j] = a[t, j] * (dE[t, j] - mean)
