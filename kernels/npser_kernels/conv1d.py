"""Convolution over time: what remains of equations (1)-(3) once one matrix product has applied every tap to every frame."""

from npser_kernels import jit


@jit
def conv1d_forward(out, P, b, bounds):
    """ReLU of bias and shifted taps. out (N, K), P (N, n_cw K): every frame times every tap, b (K,)."""
    K = out.shape[1]
    n_cw = P.shape[1] // K
    half = n_cw // 2
    zero = b.dtype.type(0)
    for u in range(bounds.size - 1):
        first, last = bounds[u], bounds[u + 1] - 1
        for t in range(first, last + 1):
            row = out[t]
            for k in range(K):
                row[k] = b[k]
            for j in range(n_cw):
                tap = P[min(max(t + j - half, first), last), j * K : (j + 1) * K]  # x_1 and x_L repeat past the ends
                for k in range(K):
                    row[k] += tap[k]
            for k in range(K):
                row[k] = max(row[k], zero)


@jit
def conv1d_backward(dP, db, dout, out, bounds):
    """Gradients of the taps' products, dP (N, n_cw K), and of the bias, db (K,). dout, out (N, K)."""
    K = out.shape[1]
    n_cw = dP.shape[1] // K
    half = n_cw // 2
    zero = out.dtype.type(0)
    dP[:] = zero
    db[:] = zero
    for u in range(bounds.size - 1):
        first, last = bounds[u], bounds[u + 1] - 1
        for t in range(first, last + 1):
            for j in range(n_cw):
                dtap = dP[min(max(t + j - half, first), last), j * K : (j + 1) * K]
                for k in range(K):
                    dtap[k] += dout[t, k] if out[t, k] > zero else zero
            for k in range(K):
                db[k] += dout[t, k] if out[t, k] > zero else zero
