"""From stored log-mel bands to network input: level, padding, deltas, delta-deltas, normalisation."""

import numpy as np

from npser_kernels import jit

# float32, so that neither float32 nor float64 rows change their type (an integer times a float32 would be a float64)
TWO, THREE, FOUR, SEVEN, EIGHT, SEVENTEEN, TWENTY, TWENTY_EIGHT = (np.float32(c) for c in (2, 3, 4, 7, 8, 17, 20, 28))


@jit
def assemble(X, bounds, frames, rows, starts, counts, levels, floor, mean, scale):
    """X (N, 3 C), statics | deltas | delta-deltas, normalised, from static bands: the first C of rows (any, C or more).

    Utterance u has ``frames[u]`` frames, of which X holds the first. They are ``counts[u]`` stored rows from ``starts[u]`` on,
    less ``levels[u]``; those after them lie in the zero padding and are ``floor``. Where X holds fewer than all, its last row
    lies in the padding.
    Deltas are Savitzky-Golay derivatives of nine frames: a line for the first order, a parabola for the second. Within four
    frames of an end the polynomial of the outermost nine frames serves; its derivative is constant, so the value of the
    fifth frame does. An utterance of fewer than nine frames repeats its first and last frame instead.
    X = (value - mean) * scale.
    """
    C = X.shape[1] // 3
    sixty, parabola = mean.dtype.type(1 / 60), mean.dtype.type(1 / 462)  # sums of squares of the two least-squares filters
    for u in range(bounds.size - 1):
        first, rows_of_X, last = bounds[u], bounds[u + 1] - bounds[u], frames[u] - 1
        S = np.empty((min(rows_of_X + 8, frames[u]), C), rows.dtype)  # one utterance in one piece: so the loops vectorise
        for t in range(S.shape[0]):
            if t < counts[u]:
                row = rows[starts[u] + t]
                for c in range(C):
                    S[t, c] = row[c] - levels[u]
            else:
                for c in range(C):
                    S[t, c] = floor
        for t in range(rows_of_X):
            out = X[first + t]
            s = min(max(t, 4), last - 4) if last >= 8 else t
            s0, s1, s2, s3 = max(s - 4, 0), max(s - 3, 0), max(s - 2, 0), max(s - 1, 0)
            s5, s6, s7, s8 = min(s + 1, last), min(s + 2, last), min(s + 3, last), min(s + 4, last)
            for c in range(C):
                out[c] = (S[t, c] - mean[c]) * scale[c]
            for c in range(C):
                near = TWO * (S[s6, c] - S[s2, c]) + (S[s5, c] - S[s3, c])
                delta = FOUR * (S[s8, c] - S[s0, c]) + THREE * (S[s7, c] - S[s1, c]) + near
                out[C + c] = (delta * sixty - mean[C + c]) * scale[C + c]
            for c in range(C):
                outer = TWENTY_EIGHT * (S[s0, c] + S[s8, c]) + SEVEN * (S[s1, c] + S[s7, c])
                inner = EIGHT * (S[s2, c] + S[s6, c]) + SEVENTEEN * (S[s3, c] + S[s5, c]) + TWENTY * S[s, c]
                out[2 * C + c] = ((outer - inner) * parabola - mean[2 * C + c]) * scale[2 * C + c]
