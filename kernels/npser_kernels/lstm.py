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
    o0, o1, o2, o3 = out[0], out[1], out[2], out[3]
    for k in range(0, R.shape[0], 4):
        r0, r1, r2, r3 = R[k], R[k + 1], R[k + 2], R[k + 3]
        a0, a1, a2, a3 = x[0, k], x[0, k + 1], x[0, k + 2], x[0, k + 3]
        b0, b1, b2, b3 = x[1, k], x[1, k + 1], x[1, k + 2], x[1, k + 3]
        c0, c1, c2, c3 = x[2, k], x[2, k + 1], x[2, k + 2], x[2, k + 3]
        d0, d1, d2, d3 = x[3, k], x[3, k + 1], x[3, k + 2], x[3, k + 3]
        for j in range(R.shape[1]):
            o0[j] = o0[j] + a0 * r0[j] + a1 * r1[j] + a2 * r2[j] + a3 * r3[j]
            o1[j] = o1[j] + b0 * r0[j] + b1 * r1[j] + b2 * r2[j] + b3 * r3[j]
            o2[j] = o2[j] + c0 * r0[j] + c1 * r1[j] + c2 * r2[j] + c3 * r3[j]
            o3[j] = o3[j] + d0 * r0[j] + d1 * r1[j] + d2 * r2[j] + d3 * r3[j]


@jit
def add_row_product(out, x, R):
    """out (n,) += x (m,) @ R (m, n), m a multiple of four: what add_product does, for a tile of one."""
    for k in range(0, R.shape[0], 4):
        r0, r1, r2, r3 = R[k], R[k + 1], R[k + 2], R[k + 3]
        x0, x1, x2, x3 = x[k], x[k + 1], x[k + 2], x[k + 3]
        for j in range(R.shape[1]):
            out[j] = out[j] + x0 * r0[j] + x1 * r1[j] + x2 * r2[j] + x3 * r3[j]


@jit
def product_transposed(out, x, R):
    """out (4, m) = x (4, n) @ R (m, n).T, m a multiple of four."""
    zero = R.dtype.type(0)
    for k in range(0, R.shape[0], 4):
        r0, r1, r2, r3 = R[k], R[k + 1], R[k + 2], R[k + 3]
        for row in range(0, 4, 2):
            x0, x1 = x[row], x[row + 1]
            a0, a1, a2, a3, b0, b1, b2, b3 = zero, zero, zero, zero, zero, zero, zero, zero
            for j in range(R.shape[1]):
                a0 += x0[j] * r0[j]
                a1 += x0[j] * r1[j]
                a2 += x0[j] * r2[j]
                a3 += x0[j] * r3[j]
                b0 += x1[j] * r0[j]
                b1 += x1[j] * r1[j]
                b2 += x1[j] * r2[j]
                b3 += x1[j] * r3[j]
            out[row, k], out[row, k + 1], out[row, k + 2], out[row, k + 3] = a0, a1, a2, a3
            out[row + 1, k], out[row + 1, k + 1], out[row + 1, k + 2], out[row + 1, k + 3] = b0, b1, b2, b3


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
                        z = Z[first + s if d == 0 else end - 1 - s, d]
                        for j in range(4 * H):
                            pre[r, j] = z[j] + b[d, j]
                if rows == 1:
                    add_row_product(pre[0], h[0], R[d])
                else:
                    add_product(pre, h, R[d])  # rows that have ended hold what they held: nothing reads it again
                for r in range(rows):
                    first, end = bounds[order[tile + r]], bounds[order[tile + r] + 1]
                    if s < end - first:
                        t = first + s if d == 0 else end - 1 - s
                        gate = gates[t, d]
                        squash(gate, pre[r], slope, offset)
                        for k in range(H):
                            c[r, k] = gate[H + k] * c[r, k] + gate[k] * gate[2 * H + k]
                            cell[t, d, k] = c[r, k]
                        squash(tanh_c, c[r], tanh_slope, tanh_offset)
                        for k in range(H):
                            h[r, k] = gate[3 * H + k] * tanh_c[k]
                            out[t, d, k] = h[r, k]


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
                        gate, dgate = gates[t, d], dpre[r]
                        squash(tanh_c, cell[t, d], tanh_slope, tanh_offset)
                        for k in range(H):
                            i, f, g, o = gate[k], gate[H + k], gate[2 * H + k], gate[3 * H + k]
                            dh_k = dout[t, d, k] + dh[r, k]
                            dc_k = dc[r, k] + dh_k * o * (one - tanh_c[k] * tanh_c[k])
                            dgate[k] = dc_k * g * i * (one - i)
                            dgate[H + k] = dc_k * before[k] * f * (one - f)
                            dgate[2 * H + k] = dc_k * i * (one - g * g)
                            dgate[3 * H + k] = dh_k * tanh_c[k] * o * (one - o)
                            dc[r, k] = dc_k * f
                        dZ[t, d] = dgate
                product_transposed(dh, dpre, R[d])
