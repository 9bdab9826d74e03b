"""Pieces, convolutions over time and bands, and pooling, as slow literal loops over scalars, to test against."""

import itertools
from typing import Any

from reference import Matrix, Vector, maximum, nested

Picture = list[Matrix]  # frames, bands, channels


def pieces(X: Matrix, length: int, least: int) -> list[Matrix]:
    """An utterance cut every so many frames; a rest of fewer than the least number stays with the piece before it."""
    found = [X[start : start + length] for start in range(0, len(X), length)]
    if len(found) > 1 and len(found[-1]) < least:
        rest = found.pop()
        found[-1] = found[-1] + rest
    return found


def convolution(H: Picture, W: Any, b: Vector) -> Picture:
    """The sum over the window, of an even one more before than behind. W (channels, frames, bands, maps)."""
    L, F, n_time, n_band = len(H), len(H[0]), len(W[0]), len(W[0][0])
    out: Picture = []
    for t in range(L):
        out.append([])
        for f in range(F):
            sums = list(b)
            for j, i in itertools.product(range(n_time), range(n_band)):
                frame, band = min(max(t + j - n_time // 2, 0), L - 1), min(max(f + i - n_band // 2, 0), F - 1)
                for c, x in enumerate(H[frame][band]):
                    sums = [s + x * w for s, w in zip(sums, W[c][j][i], strict=True)]
            out[-1].append(sums)
    return out


def pooled(H: Picture, n_time: int, n_band: int) -> Picture:
    """The largest of every n_time frames by n_band bands."""
    return [
        [
            [maximum([x[k] for row in H[t : t + n_time] for x in row[f : f + n_band]]) for k in range(len(H[0][0]))]
            for f in range(0, len(H[0]) - n_band + 1, n_band)
        ]
        for t in range(0, len(H) - n_time + 1, n_time)
    ]


def leaky(H: Any, slope: float) -> Any:
    """x where it is positive, else slope x."""
    return nested(lambda x: x if x.value > 0.0 else x * slope, H)
