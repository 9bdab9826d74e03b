"""The recurrence of a bidirectional LSTM layer, without its input products.

The kernels work on tiles of four utterances, so that each load of the recurrent matrix serves four rows. The inner loops
are unrolled by hand to four rows or four units: so the sums stay in registers. Arrays carry the direction as an axis of two:
forward, backward. Gates stand in the order i f g o.
"""

import math

import numpy as np

from npser_kernels import jit

# tanh(x) = x p(x^2) / q(x^2) on [-8, 8]: weighted least squares on tanh itself; its error in float32 is below 5e-7
P1, P2, P3, P4 = (np.float32(c) for c in (0.13444498, 0.0035715988, 2.1894673e-05, 1.5230434e-08))
Q1, Q2, Q3, Q4 = (np.float32(c) for c in (0.46777827, 0.026164446, 3.4112931e-04, 8.5224537e-07))
ONE, EIGHT = np.float32(1), np.float32(8)


@jit
def squash(y, x, slope, offset):
    """y = offset + slope tanh(slope x), all (n,): slope = offset = 1/2 is the sigmoid; slope = 1, offset = 0 is tanh."""
    if y.itemsize == 4:
        for j in range(y.size):
            w = min(max(slope[j] * x[j], -EIGHT), EIGHT)
            s = w * w
            p = ONE + s * (P1 + s * (P2 + s * (P3 + s * P4)))
            q = ONE + s * (Q1 + s * (Q2 + s * (Q3 + s * Q4)))
            y[j] = offset[j] + slope[j] * w * p / q
    else:
        for j in range(y.size):
            y[j] = offset[j] + slope[j] * math.tanh(slope[j] * x[j])


@jit
def add_product(out, x, R):
    """out (4, n) += x (4, m) @ R (m, n), m a multiple of four."""
    for k in range(0, R.shape[0], 4):
        a0, a1, a2, a3 = x[0, k], x[0, k + 1], x[0, k + 2], x[0, k + 3]
        b0, b1, b2, b3 = x[1, k], x[1, k + 1], x[1, k + 2], x[1, k + 3]
        c0, c1, c2, c3 = x[2, k], x[2, k + 1], x[2, k + 2], x[2, k + 3]
        d0, d1, d2, d3 = x[3, k], x[3, k + 1], x[3, k + 2], x[3, k + 3]
        for j in range(R.shape[1]):  # views of rows would make the compiler prove, at each k, that none overlap
            r0, r1, r2, r3 = R[k, j], R[k + 1, j], R[k + 2, j], R[k + 3, j]
            out[0, j] += a0 * r0 + a1 * r1 + a2 * r2 + a3 * r3
            out[1, j] += b0 * r0 + b1 * r1 + b2 * r2 + b3 * r3
            out[2, j] += c0 * r0 + c1 * r1 + c2 * r2 + c3 * r3
            out[3, j] += d0 * r0 + d1 * r1 + d2 * r2 + d3 * r3


@jit
def add_row_product(out, x, R):
    """out (n,) += x (m,) @ R (m, n), m a multiple of four: what add_product does, for a tile of one."""
    for k in range(0, R.shape[0], 4):
        x0, x1, x2, x3 = x[k], x[k + 1], x[k + 2], x[k + 3]
        for j in range(R.shape[1]):
            out[j] += x0 * R[k, j] + x1 * R[k + 1, j] + x2 * R[k + 2, j] + x3 * R[k + 3, j]


@jit
def product_transposed(out, x, R):
    """out (4, m) = x (4, n) @ R (m, n).T, m a multiple of four."""
    zero = R.dtype.type(0)
    for k in range(0, R.shape[0], 4):
        a0, a1, a2, a3 = zero, zero, zero, zero
        b0, b1, b2, b3 = zero, zero, zero, zero
        c0, c1, c2, c3 = zero, zero, zero, zero
        d0, d1, d2, d3 = zero, zero, zero, zero
        for j in range(R.shape[1]):
            x0, x1, x2, x3 = x[0, j], x[1, j], x[2, j], x[3, j]
            r0, r1, r2, r3 = R[k, j], R[k + 1, j], R[k + 2, j], R[k + 3, j]
            a0 += x0 * r0
            a1 += x0 * r1
            a2 += x0 * r2
            a3 += x0 * r3
            b0 += x1 * r0
            b1 += x1 * r1
            b2 += x1 * r2
            b3 += x1 * r3
            c0 += x2 * r0
            c1 += x2 * r1
            c2 += x2 * r2
            c3 += x2 * r3
            d0 += x3 * r0
            d1 += x3 * r1
            d2 += x3 * r2
            d3 += x3 * r3
        out[0, k], out[0, k + 1], out[0, k + 2], out[0, k + 3] = a0, a1, a2, a3
        out[1, k], out[1, k + 1], out[1, k + 2], out[1, k + 3] = b0, b1, b2, b3
        out[2, k], out[2, k + 1], out[2, k + 2], out[2, k + 3] = c0, c1, c2, c3
        out[3, k], out[3, k + 1], out[3, k + 2], out[3, k + 3] = d0, d1, d2, d3


@jit
def lstm_forward(out, cell, gates, Z, b, R, bounds, order):
    """h and c of every frame. out, cell (N, 2, H), gates (N, 2, 4H) after their activation, Z (N, 2, 4H) input products,
    b (2, 4H), R (2, H4, 4H) with rows of zeros up to a multiple of four, order (B,) utterances from long to short.
    """
    H = out.shape[2]
    slope, offset = np.full(4 * H, 0.5).astype(Z.dtype), np.full(4 * H, 0.5).astype(Z.dtype)
    slope[2 * H : 3 * H] = 1
    offset[2 * H : 3 * H] = 0
    tanh_slope, tanh_offset = np.ones(H, Z.dtype), np.zeros(H, Z.dtype)
    pre, tanh_c = np.zeros((4, 4 * H), Z.dtype), np.empty(H, Z.dtype)
    for d in range(2):
        for tile in range(0, order.size, 4):
            h = np.zeros((4, R.shape[1]), Z.dtype)
            c = np.zeros((4, H), Z.dtype)
            longest = bounds[order[tile] + 1] - bounds[order[tile]]
            rows = min(4, order.size - tile)
            for s in range(longest):
                for r in range(rows):
                    first, end = bounds[order[tile + r]], bounds[order[tile + r] + 1]
                    if s < end - first:
                        t = first + s if d == 0 else end - 1 - s
                        for j in range(4 * H):
                            pre[r, j] = Z[t, d, j] + b[d, j]
                if rows == 1:
                    add_row_product(pre[0], h[0], R[d])
                else:
                    add_product(pre, h, R[d])  # rows that have ended hold what they held: nothing reads it again
                for r in range(rows):
                    first, end = bounds[order[tile + r]], bounds[order[tile + r] + 1]
                    if s < end - first:
                        t = first + s if d == 0 else end - 1 - s
                        squash(gates[t, d], pre[r], slope, offset)
                        for k in range(H):
                            c_k = gates[t, d, H + k] * c[r, k] + gates[t, d, k] * gates[t, d, 2 * H + k]
                            c[r, k] = c_k
                            cell[t, d, k] = c_k
                        squash(tanh_c, c[r], tanh_slope, tanh_offset)
                        for k in range(H):
                            h_k = gates[t, d, 3 * H + k] * tanh_c[k]
                            h[r, k] = h_k
                            out[t, d, k] = h_k


@jit
def lstm_backward(dZ, dout, cell, gates, R, bounds, order):
    """Gradient of the gates before their activation. dZ, gates (N, 2, 4H), dout, cell (N, 2, H), R and order as forward."""
    H = dout.shape[2]
    one = dout.dtype.type(1)
    tanh_slope, tanh_offset = np.ones(H, dout.dtype), np.zeros(H, dout.dtype)
    tanh_c, start = np.empty(H, dout.dtype), np.zeros(H, dout.dtype)
    for d in range(2):
        for tile in range(0, order.size, 4):
            dh = np.zeros((4, R.shape[1]), dout.dtype)
            dc = np.zeros((4, H), dout.dtype)
            dpre = np.zeros((4, 4 * H), dout.dtype)
            longest = bounds[order[tile] + 1] - bounds[order[tile]]
            rows = min(4, order.size - tile)
            for s in range(longest - 1, -1, -1):  # a shorter row joins at its own end, its dh, dc and dpre still zero
                for r in range(rows):
                    first, end = bounds[order[tile + r]], bounds[order[tile + r] + 1]
                    if s < end - first:
                        t = first + s if d == 0 else end - 1 - s
                        before = start if s == 0 else cell[t - 1 if d == 0 else t + 1, d]
                        squash(tanh_c, cell[t, d], tanh_slope, tanh_offset)
                        for k in range(H):
                            i, f, g, o = gates[t, d, k], gates[t, d, H + k], gates[t, d, 2 * H + k], gates[t, d, 3 * H + k]
                            dh_k = dout[t, d, k] + dh[r, k]
                            dc_k = dc[r, k] + dh_k * o * (one - tanh_c[k] * tanh_c[k])
                            dpre[r, k] = dc_k * g * i * (one - i)
                            dpre[r, H + k] = dc_k * before[k] * f * (one - f)
                            dpre[r, 2 * H + k] = dc_k * i * (one - g * g)
                            dpre[r, 3 * H + k] = dh_k * tanh_c[k] * o * (one - o)
                            dc[r, k] = dc_k * f
                        for j in range(4 * H):
                            dZ[t, d, j] = dpre[r, j]
                product_transposed(dh, dpre, R[d])
