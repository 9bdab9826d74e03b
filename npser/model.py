"""The self-attentional CNN-BLSTM with its two heads: parameters, forward and backward pass, objective.

Parameters live in one vector theta (P,); ``views`` cuts it into named arrays, ``p["cnn1"]["W"]`` and so on.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import DTypeLike

from npser.config import Config, stream
from npser.layers import Array, attention, blstm, conv1d, cross_entropy, dropout, extend, linear, maxpool, mean_over_time

Shapes = dict[str, tuple[int, ...]]
Views = dict[str, dict[str, Array]]


def views(theta: Array, shapes: Shapes) -> Views:
    """Named views of theta (P,): {"cnn1": {"W": ..., "b": ...}, ...}; writing to them writes to theta."""
    p: Views = {}
    start = 0
    for name, shape in shapes.items():
        layer, param = name.split(".")
        p.setdefault(layer, {})[param] = theta[start : start + math.prod(shape)].reshape(shape)
        start += math.prod(shape)
    return p


def init(shapes: Shapes, seed: int, dtype: DTypeLike = np.float32) -> Array:
    """theta (P,) as Keras 2.2.4 starts it: Glorot uniform, orthogonal recurrences, biases 0, forget gates' 1."""
    rng = stream("init", seed)
    theta = np.zeros(sum(math.prod(shape) for shape in shapes.values()))
    for layer, params in views(theta, shapes).items():
        for name, value in params.items():
            if name.startswith("R_"):
                value[:] = np.linalg.svd(rng.standard_normal(value.shape), full_matrices=False)[2]
            elif name.startswith("b_"):
                H = len(value) // 4
                value[H : 2 * H] = 1
            elif name != "b":
                window = value.shape[1] if layer.startswith("cnn") else 1
                limit = math.sqrt(6 / (window * (value.shape[0] + value.shape[-1])))
                value[:] = rng.uniform(-limit, limit, value.shape)
    return theta.astype(dtype)


def distinct_rows(stored: Array, frames: Array, c: Config) -> Array:
    """Rows of zero-padded utterances that the network needs to see, (B,), of stored (B,) rows padded to frames (B,).

    Behind the sound, rows are all the same: those of X from four frames (of the deltas) behind the last stored row on, those of
    a convolution from half a window further on. So the last of the rows returned here, a whole pooling window of such rows,
    stands for all behind it.
    """
    same = stored + 4 + 2 * (c.n_cw // 2)
    rows = (-(-same // c.n_pw) + 1) * c.n_pw
    return np.where(rows <= frames - 5, rows, frames)  # the last four frames take their deltas from the fifth last


def forward(
    p: Views, c: Config, X: Array, bounds: Array, rng: np.random.Generator | None = None, frames: Array | None = None
) -> tuple[Array, Array | None, Callable[[Array, Array | None], Array]]:
    """Features to logits. X (N, d_spec) -> emotion (B, classes), gender (B, 2) or None, backward.

    ``backward(demotion, dgender)`` returns the gradient of theta, (P,). Dropout acts when rng is given. frames (B,): where X
    holds distinct_rows only, how many rows there would be of each utterance.
    """
    frames = np.diff(bounds) if frames is None else frames
    H, b_cnn1 = conv1d(X, bounds, **p["cnn1"])  # (1)-(3)
    H, b_cnn2 = conv1d(H, bounds, **p["cnn2"])
    H, bounds, b_pool = maxpool(H, bounds, c.n_pw)  # (4)
    H, bounds, b_extend = extend(H, bounds, frames // c.n_pw)
    H, b_lstm1 = blstm(H, bounds, **p["lstm1"])  # 4.2.2
    H, b_drop1 = dropout(H, c.dropout, rng)
    H, b_lstm2 = blstm(H, bounds, **p["lstm2"])
    H, b_drop2 = dropout(H, c.dropout, rng)
    z, b_attn = attention(H, bounds, **p["attn"]) if c.attention else mean_over_time(H, bounds)  # (5)-(9)
    emotion, b_emotion = linear(z, **p["emotion"])  # 4.3
    gender, b_gender = linear(z, **p["gender"]) if "gender" in p else (None, None)

    def backward(demotion: Array, dgender: Array | None) -> Array:
        dz, *g_emotion = b_emotion(demotion)
        g_gender = []
        if b_gender is not None:
            dz_gender, *g_gender = b_gender(dgender)
            dz = dz + dz_gender
        dH, *g_attn = b_attn(dz)
        dH, *g_lstm2 = b_lstm2(*b_drop2(dH))
        dH, *g_lstm1 = b_lstm1(*b_drop1(dH))
        dH, *g_cnn2 = b_cnn2(*b_pool(*b_extend(dH)))
        _, *g_cnn1 = b_cnn1(dH, need_dX=False)
        grads = [*g_cnn1, *g_cnn2, *g_lstm1, *g_lstm2, *g_attn, *g_emotion, *g_gender]  # the order of param_shapes
        return np.concatenate([grad.ravel() for grad in grads])

    return emotion, gender, backward


def loss(
    p: Views,
    c: Config,
    X: Array,
    bounds: Array,
    emotion_y: Array,
    gender_y: Array,
    emotion_weight: Array,
    gender_weight: Array,
    rng: np.random.Generator | None = None,
    frames: Array | None = None,
) -> tuple[float, Array]:
    """Equation (10) and its gradient, (P,). y (B,) classes, -1 for unknown; weights (B,): see cross_entropy; rest: forward."""
    emotion, gender, backward = forward(p, c, X, bounds, rng, frames)
    L_emotion, demotion = cross_entropy(emotion, emotion_y, emotion_weight, c.smoothing)
    if gender is None:
        return c.alpha * L_emotion, backward(c.alpha * demotion, None)
    L_gender, dgender = cross_entropy(gender, gender_y, gender_weight)
    return c.alpha * L_emotion + c.beta * L_gender, backward(c.alpha * demotion, c.beta * dgender)  # (10)
