"""Max pooling over time, equation (4), and over time and bands."""

from npser_kernels import jit


@jit
def maxpool_forward(out, argmax, inp, bounds, out_bounds, n_pw):
    """The largest of every n_pw frames. out, argmax (M, C), inp (N, C); frames past the last whole window are dropped."""
    C = inp.shape[1]
    for u in range(bounds.size - 1):
        for i in range(out_bounds[u + 1] - out_bounds[u]):
            o, window = out_bounds[u] + i, bounds[u] + i * n_pw
            for c in range(C):
                out[o, c] = inp[window, c]
                argmax[o, c] = 0
            for w in range(1, n_pw):
                t = window + w
                for c in range(C):
                    wins = inp[t, c] > out[o, c] or inp[t, c] != inp[t, c]  # NaN wins, so that it does not vanish
                    argmax[o, c] = w if wins else argmax[o, c]
                    out[o, c] = inp[t, c] if wins else out[o, c]


@jit
def maxpool_backward(dinp, dout, argmax, bounds, out_bounds, n_pw):
    """The gradient goes to the frame that won. dinp (N, C), dout, argmax (M, C)."""
    C = dinp.shape[1]
    zero = dout.dtype.type(0)
    for u in range(bounds.size - 1):
        T = out_bounds[u + 1] - out_bounds[u]
        for i in range(T):
            dbest, where = dout[out_bounds[u] + i], argmax[out_bounds[u] + i]
            for w in range(n_pw):
                row = dinp[bounds[u] + i * n_pw + w]
                for c in range(C):
                    row[c] = dbest[c] if where[c] == w else zero
        for t in range(bounds[u] + T * n_pw, bounds[u + 1]):  # frames that no window holds
            for c in range(C):
                dinp[t, c] = zero


@jit
def maxpool2d_forward(out, argmax, inp, bounds, out_bounds, n_time, n_band, C):
    """The largest of n_time[u] frames by n_band bands. out, argmax (M, S C), inp (N, F C); what no window holds is dropped.

    n_time (B,). argmax: the number of the frame in its window times n_band, plus that of the band.
    """
    S = out.shape[1] // C
    for u in range(bounds.size - 1):
        for i in range(out_bounds[u + 1] - out_bounds[u]):
            o, window = out_bounds[u] + i, bounds[u] + i * n_time[u]
            for s in range(S):
                best, where, first = out[o, s * C : (s + 1) * C], argmax[o, s * C : (s + 1) * C], s * n_band * C
                for c in range(C):
                    best[c] = inp[window, first + c]
                    where[c] = 0
                for w in range(n_time[u]):
                    for k in range(n_band):
                        row, number = inp[window + w, first + k * C : first + (k + 1) * C], w * n_band + k
                        for c in range(C):
                            wins = row[c] > best[c] or row[c] != row[c]  # NaN wins, as above
                            where[c] = number if wins else where[c]
                            best[c] = row[c] if wins else best[c]


@jit
def maxpool2d_backward(dinp, dout, argmax, bounds, out_bounds, n_time, n_band, C):
    """The gradient goes to the frame and the band that won. dinp (N, F C), dout, argmax (M, S C)."""
    S = dout.shape[1] // C
    dinp[:] = dout.dtype.type(0)
    for u in range(bounds.size - 1):
        for i in range(out_bounds[u + 1] - out_bounds[u]):
            o, window = out_bounds[u] + i, bounds[u] + i * n_time[u]
            for s in range(S):
                for c in range(C):
                    w, k = divmod(argmax[o, s * C + c], n_band)
                    dinp[window + w, (s * n_band + k) * C + c] = dout[o, s * C + c]
