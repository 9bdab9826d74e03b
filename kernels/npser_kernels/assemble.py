"""From stored log-mel bands to network input: padding, deltas, delta-deltas, normalisation."""

import numpy as np

from npser_kernels import jit

# float32, so that neither float32 nor float64 rows change their type (an integer times a float32 would be a float64)
TWO, THREE, FOUR, SEVEN, EIGHT, SEVENTEEN, TWENTY, TWENTY_EIGHT = (np.float32(c) for c in (2, 3, 4, 7, 8, 17, 20, 28))


@jit
def frame(rows, start, count, silence, t):
    """Bands (C,) of frame t of the utterance that is ``count`` rows from ``start`` on, with silence after them."""
    return rows[start + t] if t < count else silence


@jit
def assemble(X, bounds, frames, rows, starts, counts, floor, mean, scale):
    """X (N, 3 C), statics | deltas | delta-deltas, normalised, from static bands rows (any, C).

    Utterance u has ``frames[u]`` frames, of which X holds the first. They are ``counts[u]`` stored rows from ``starts[u]`` on;
    those after them lie in the zero padding and are ``floor``. Where X holds fewer than all, its last row is one of these.
    Deltas are Savitzky-Golay derivatives of nine frames: a line for the first order, a parabola for the second. Within four
    frames of an end the polynomial of the outermost nine frames serves; its derivative is constant, so the value of the
    fifth frame does. An utterance of fewer than nine frames repeats its first and last frame instead.
    mean, scale (3 C,): X = (value - mean) * scale.
    """
    C = rows.shape[1]
    sixty, parabola = mean.dtype.type(1 / 60), mean.dtype.type(1 / 462)  # sums of squares of the two least-squares filters
    silence = np.empty(C, rows.dtype)
    silence[:] = floor
    for u in range(bounds.size - 1):
        start, count, last = starts[u], counts[u], frames[u] - 1
        for t in range(bounds[u + 1] - bounds[u]):
            out = X[bounds[u] + t]
            now = frame(rows, start, count, silence, t)
            s = min(max(t, 4), last - 4) if last >= 8 else t
            x0 = frame(rows, start, count, silence, max(s - 4, 0))
            x1 = frame(rows, start, count, silence, max(s - 3, 0))
            x2 = frame(rows, start, count, silence, max(s - 2, 0))
            x3 = frame(rows, start, count, silence, max(s - 1, 0))
            x4 = frame(rows, start, count, silence, s)
            x5 = frame(rows, start, count, silence, min(s + 1, last))
            x6 = frame(rows, start, count, silence, min(s + 2, last))
            x7 = frame(rows, start, count, silence, min(s + 3, last))
            x8 = frame(rows, start, count, silence, min(s + 4, last))
            for c in range(C):
                out[c] = (now[c] - mean[c]) * scale[c]
            for c in range(C):
                delta = FOUR * (x8[c] - x0[c]) + THREE * (x7[c] - x1[c]) + TWO * (x6[c] - x2[c]) + (x5[c] - x3[c])
                out[C + c] = (delta * sixty - mean[C + c]) * scale[C + c]
            for c in range(C):
                outer = TWENTY_EIGHT * (x0[c] + x8[c]) + SEVEN * (x1[c] + x7[c])
                inner = EIGHT * (x2[c] + x6[c]) + SEVENTEEN * (x3[c] + x5[c]) + TWENTY * x4[c]
                out[2 * C + c] = ((outer - inner) * parabola - mean[2 * C + c]) * scale[2 * C + c]
