"""Multichannel CNN (Yenigalla et al., 2018) as slow literal loops over scalars, to test against."""

import itertools
from typing import Any

import numpy as np
from reference import (
    Arrays,
    Matrix,
    Numbers,
    Var,
    Vector,
    cross_entropy,
    dense,
    gradients_of,
    lift,
    maximum,
    relu,
    total,
    values,
)
from reference_chen2018 import normalised
from reference_pictures import Picture, convolution


def inside(H: Picture, W: Any, b: Vector, stride: int) -> Picture:
    """The sum over each window that lies inside, every so many frames and bands. W (channels, frames, bands, maps)."""
    n_time, n_band = len(W[0]), len(W[0][0])
    out: Picture = []
    for t in range(0, len(H) - n_time + 1, stride):
        out.append([])
        for f in range(0, len(H[0]) - n_band + 1, stride):
            sums = list(b)
            for j, i in itertools.product(range(n_time), range(n_band)):
                for c, x in enumerate(H[t + j][f + i]):
                    sums = [s + x * w for s, w in zip(sums, W[c][j][i], strict=True)]
            out[-1].append(sums)
    return out


def quarters(H: Picture, maps: int) -> Vector:
    """The largest of each map in the first and second half of the frames and of the bands; of fewer than two frames, 0."""
    if len(H) < 2:
        return [Var(0.0)] * (4 * maps)
    half_t, half_f = len(H) // 2, len(H[0]) // 2
    return [
        maximum([x[k] for row in H[t : t + half_t] for x in row[f : f + half_f]])
        for t in (0, half_t)
        for f in (0, half_f)
        for k in range(maps)
    ]


def of_string(vectors: Matrix, W: Any, b: Vector) -> Vector:
    """The largest of each map over a string of vectors; of none, 0."""
    if not vectors:
        return [Var(0.0)] * len(b)
    H = convolution([[vector] for vector in vectors], W, b)
    return [maximum([row[0][k] for row in H]) for k in range(len(b))]


def unit_string(frames: np.ndarray, centres: np.ndarray) -> list[int]:
    """The symbols of frames: the nearest centre, what its two neighbours agree on instead, runs of one name once."""
    names = [int(np.argmin([sum((a - b) ** 2 for a, b in zip(x, centre, strict=True)) for centre in centres])) for x in frames]
    smooth = list(names)
    for t in range(1, len(names) - 1):
        if names[t - 1] == names[t + 1]:
            smooth[t] = names[t - 1]
    return [name for name, _ in itertools.groupby(smooth)]


def body(p: dict[str, Any], X: Any, symbols: list[int], stride: int) -> Vector:
    """One utterance: bands X (L, bands), and the numbers of its symbols -> (D,)."""
    z: Vector = []
    if "picture.W" in p:
        picture: Picture = [[[x] for x in row] for row in X]
        maps = [quarters(inside(picture, p[f"conv{k}.W"], p[f"conv{k}.b"], stride), len(p[f"conv{k}.b"])) for k in range(1, 5)]
        z += [relu(x) for x in dense([relu(x) for part in maps for x in part], p["picture.W"], p["picture.b"])]
    if "string.W" in p:
        vectors = [p["symbol.E"][k] for k in symbols]
        maps = [of_string(vectors, p[f"string{k}.W"], p[f"string{k}.b"]) for k in range(1, 5)]
        z += [relu(x) for x in dense([relu(x) for part in maps for x in part], p["string.W"], p["string.b"])]
    return z


def loss_and_gradients(
    params: Arrays, pictures: list[np.ndarray], strings: list[list[int]], y: Numbers, weight: Numbers, stride: int, mask: Any
) -> tuple[float, np.ndarray, Arrays]:
    """Of a mini-batch: the weighted sum of cross-entropies, logits (B, classes), gradients by name. mask: of dropout."""
    p = {name: lift(a) for name, a in params.items()}
    Z = [body(p, lift(X), symbols, stride) for X, symbols in zip(pictures, strings, strict=True)]
    Z = normalised(Z, p["batch.gamma"], p["batch.b"])
    Z = [[z * m for z, m in zip(row, masked, strict=True)] for row, masked in zip(Z, mask.tolist(), strict=True)]
    D = [[relu(x) for x in dense(z, p["dense.W"], p["dense.b"])] for z in Z]
    logits = [dense(d, p["emotion.W"], p["emotion.b"]) for d in D]
    loss = total(cross_entropy(row, int(k)) * float(w) for row, k, w in zip(logits, y, weight, strict=True))
    loss.backward()
    return loss.value, values(logits), gradients_of(p, params)
