"""Augmentation of log-mel bands: another duration and another mel axis, and echoes."""

import numpy as np

from npser_kernels import jit


@jit
def resample_bands(S, rows, start, count, wider):
    """Bands S (M, C) of an utterance that is ``count`` rows (any, C) from ``start`` on, at other times and other bands.

    Frame t lies where M frames divide the utterance evenly, from its first frame to its last. Band c is what lay at c / wider,
    the last band where that is past it. Both linearly between the two nearest.
    """
    M, C = S.shape
    below, part = np.empty(C, np.int64), np.empty(C, S.dtype)
    for c in range(C):
        at = min(c / wider, C - 1)
        below[c] = int(at)
        part[c] = at - below[c]
    row = np.empty(C + 1, S.dtype)
    for t in range(M):
        at = t * (count - 1) / max(M - 1, 1)
        first = min(int(at), count - 1)
        share = S.dtype.type(at - first)
        now, then = rows[start + first], rows[start + min(first + 1, count - 1)]
        for c in range(C):
            row[c] = now[c] + share * (then[c] - now[c])
        row[C] = row[C - 1]
        for c in range(C):
            S[t, c] = row[below[c]] + part[c] * (row[below[c] + 1] - row[below[c]])


@jit
def add_echo(out, P, keep, gain):
    """Powers P (L, C) and their echo: of what was heard before a frame, ``keep`` is left after every further one."""
    L, C = P.shape
    echo = np.zeros(C, P.dtype)
    share = P.dtype.type(gain * (1 - keep))
    keep = P.dtype.type(keep)
    for t in range(L):
        for c in range(C):
            out[t, c] = P[t, c] + share * echo[c]
            echo[c] = keep * (echo[c] + P[t, c])
