"""Convolution over time and bands: what remains when matrix products do the rest."""

from npser_kernels import jit


@jit
def unfold_bands(out, X, rows, first, step):
    """The windows of bands of some rows, those of one band after the other. out (S, n, n_band C), X (N, F C), rows (n,).

    first: the column of X where the first window begins; step: columns from one to the next.
    """
    S, n, width = out.shape
    for s in range(S):
        column = first + s * step
        for r in range(n):
            row, window = X[rows[r]], out[s, r]
            for i in range(width):
                window[i] = row[column + i]


@jit
def add_folded_bands(dX, dout, rows, first, step):
    """Add the gradients of windows to those of the rows that they came from. dX (N, F C), dout (S, n, n_band C), rows (n,)."""
    S, n, width = dout.shape
    for s in range(S):
        column = first + s * step
        for r in range(n):
            row, window = dX[rows[r]], dout[s, r]
            for i in range(width):
                row[column + i] += window[i]


@jit
def collect_bands(out, Y, start, b, first):
    """Rows of some bands, with the bias, one frame after the other. out (M, S, K): its bands from first on are assigned.

    Y (S', n, K), start (M,): rows of Y, b (K,).
    """
    M, K = start.size, b.size
    for m in range(M):
        for s in range(Y.shape[0]):
            row, pixel = Y[s, start[m]], out[m, first + s]
            for k in range(K):
                pixel[k] = row[k] + b[k]


@jit
def spread_bands(dY, dout, start, first):
    """Its gradient. dY (S', n, K), of whose rows those that start (M,) does not name stay as they are; dout (M, S, K)."""
    S, _, K = dY.shape
    for m in range(start.size):
        for s in range(S):
            row, pixel = dY[s, start[m]], dout[m, first + s]
            for k in range(K):
                row[k] = pixel[k]
