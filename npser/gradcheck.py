"""Hand-written gradients against finite differences: `npser gradcheck`.

For each argument of each layer, in float64: the change of <dout, layer(...)> along a random direction, by central differences,
beside the product of that direction with the gradient that the layer's backward returns.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from npser import layers, model
from npser.config import Config, param_shapes

Array = np.ndarray
TOLERANCE, STEP = 1e-6, 3e-6  # a shorter step drowns small gradients in rounding, a longer one crosses kinks
LENGTHS = (7, 1, 9, 2, 3, 12, 4)  # frames: below, at and above the pooling window
SMALL = Config(d_spec=9, d_cnn=5, d_lstm=4, d_attn=6, n_attn=2)


def check(seed: int = 0) -> list[dict[str, Any]]:
    """Check every argument of every layer, and every parameter of the whole loss.

    Returns
    -------
    list of dict
        ``layer``, ``argument``, ``analytic``, ``numeric``, ``error`` (over the gradient's length: its
        product with one direction may be near zero by chance), ``ok`` (error below 1e-6).
    """
    rng = np.random.default_rng(seed)
    bounds = np.concatenate([[0], np.cumsum(LENGTHS)])
    N, B, D = bounds[-1], len(LENGTHS), 6

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape)

    def lstm() -> dict[str, Array]:
        shapes = {"W": (D, 16), "R": (4, 16), "b": (16,)}
        return {f"{name}_{direction}": normal(*shapes[name]) for direction in ("fw", "bw") for name in shapes}

    X, y = normal(N, D), np.array([0, 1, 2, -1, 2, 1, 0])
    found: list[dict[str, Any]] = []

    def layer(name: str, run: Callable[..., tuple[Array, Callable[..., Sequence[Array]]]], **arguments: Array) -> None:
        out, backward = run(**arguments)
        dout = rng.standard_normal(np.shape(out))
        for (argument, value), grad in zip(arguments.items(), backward(dout), strict=True):

            def along(value: Array, argument: str = argument) -> float:
                return float(np.sum(dout * run(**arguments | {argument: value})[0]))

            found.append(_compare(name, argument, along, value, grad, rng))

    def maxpool(X: Array) -> tuple[Array, layers.Backward]:
        out, _, backward = layers.maxpool(X, bounds, 3)
        return out, backward

    layer("conv1d", lambda X, W, b: layers.conv1d(X, bounds, W, b), X=X, W=normal(D, 3, 5), b=normal(5))
    layer("maxpool", maxpool, X=X)
    layer("blstm", lambda X, **p: layers.blstm(X, bounds, **p), X=X, **lstm())
    layer("dropout", lambda X: layers.dropout(X, 0.5, np.random.default_rng(seed)), X=X)
    layer("attention", lambda X, W_s1, w_s2: layers.attention(X, bounds, W_s1, w_s2), X=X, W_s1=normal(D, 7), w_s2=normal(7, 2))
    layer("mean_over_time", lambda X: layers.mean_over_time(X, bounds), X=X)
    layer("linear", layers.linear, X=normal(B, D), W=normal(D, 3), b=normal(3))

    def cross_entropy(smoothing: float) -> Callable[[Array], tuple[Array, Callable[..., Sequence[Array]]]]:
        def run(logits: Array) -> tuple[Array, Callable[..., Sequence[Array]]]:
            value, dlogits = layers.cross_entropy(logits, y, np.linspace(0.5, 1, B), smoothing)
            return np.array(value), lambda dout: (dout * dlogits,)

        return run

    layer("cross_entropy", cross_entropy(0.0), logits=normal(B, 3))
    layer("cross_entropy, smooth", cross_entropy(0.2), logits=normal(B, 3))
    for attention in (True, False):
        found += _whole_loss(attention, bounds, y, rng)
    return found


def _whole_loss(attention: bool, bounds: Array, y: Array, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Equation (10) by every parameter of the network, dropout included."""
    c = dataclasses.replace(SMALL, attention=attention)
    shapes = param_shapes(c, 3, 2)
    X, gender_y = rng.standard_normal((bounds[-1], c.d_spec)), np.array([0, 1, -1, 1, 0, 0, 1])
    theta = rng.standard_normal(sum(map(math.prod, shapes.values()))) / 2
    weight = np.ones(len(y))

    def loss(theta: Array) -> tuple[float, Array]:
        p, dropout = model.views(theta, shapes), np.random.default_rng(1)
        return model.loss(p, c, X, bounds, y, gender_y, weight, weight, dropout)

    grads, name = model.views(loss(theta)[1], shapes), f"loss{'' if attention else ', no attention'}"
    rows = []
    for param in shapes:
        group, key = param.split(".")

        def along(value: Array, group: str = group, key: str = key) -> float:
            moved = theta.copy()
            model.views(moved, shapes)[group][key][:] = value
            return loss(moved)[0]

        rows.append(_compare(name, param, along, model.views(theta, shapes)[group][key], grads[group][key], rng))
    return rows


def _compare(
    layer: str, argument: str, along: Callable[[Array], float], value: Array, grad: Array, rng: np.random.Generator
) -> dict[str, Any]:
    """One row: the derivative of along at value in a random direction, both ways."""
    direction = rng.standard_normal(value.shape)
    numeric = (along(value + STEP * direction) - along(value - STEP * direction)) / (2 * STEP)
    analytic = float(np.sum(grad * direction))
    error = abs(analytic - numeric) / max(float(np.linalg.norm(grad)), 1e-3)
    return {
        "layer": layer,
        "argument": argument,
        "analytic": analytic,
        "numeric": numeric,
        "error": error,
        "ok": bool(error < TOLERANCE),
    }


def text(rows: list[dict[str, Any]]) -> str:
    """The table as the terminal shows it."""
    head = f"{'layer':<22}{'argument':<14}{'analytic':>16}{'numeric':>16}{'relative error':>16}"
    lines = [
        f"{r['layer']:<22}{r['argument']:<14}{r['analytic']:16.9f}{r['numeric']:16.9f}{r['error']:16.1e}"
        + ("" if r["ok"] else "  OFF")
        for r in rows
    ]
    off = sum(not r["ok"] for r in rows)
    end = f"{off} of {len(rows)} gradients are off" if off else f"all {len(rows)} gradients agree to {TOLERANCE:g}"
    return "\n".join([head, *lines, end])
