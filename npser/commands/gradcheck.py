"""`npser gradcheck`: hand-written gradients against finite differences.

For each argument of each layer, in float64: the change of <dout, layer(...)> along a random direction, by central differences,
beside the product of that direction with the gradient that the layer's backward returns. Then the same gradients in float32,
in which networks train and the LSTM's gates are computed by another formula, beside those in float64.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from npser import layers, model
from npser.commands import terminal
from npser.config import Config
from npser.network import Shard, Targets

Array = np.ndarray
TOLERANCE, STEP = 1e-6, 3e-6  # a shorter step drowns small gradients in rounding, a longer one crosses kinks
SINGLE = 1e-5  # relative error of gradients in float32
LENGTHS = (7, 1, 9, 2, 3, 12, 4)  # frames: below, at and above the pooling window


def run(args: argparse.Namespace) -> int:
    """Run `npser gradcheck`; returns its exit status."""
    with terminal.compiling(terminal.say_to(sys.stderr)):
        rows = check()
    print(json.dumps(rows, indent=2) if args.json else text(rows))
    return 0 if all(row["ok"] for row in rows) else 1


def check(seed: int = 0) -> list[dict[str, Any]]:
    """Check every argument of every layer, and every parameter of every network by its whole loss.

    Returns
    -------
    list of dict
        ``layer``, ``argument``, ``analytic``, ``numeric``, ``error`` (over the gradient's length: its
        product with one direction may be near zero by chance), ``ok`` (error below 1e-6). Where the argument ends with
        "float32", ``analytic`` is in float32 and ``numeric`` is the analytic one in float64, and error is below 1e-5.
    """
    rng = np.random.default_rng(seed)
    bounds, y = np.concatenate([[0], np.cumsum(LENGTHS)]), np.array([0, 1, 2, -1, 2, 1, 0])
    found = _layers(bounds, y, rng)
    for network in model.NETWORKS.values():
        for name, c in network.SMALL.items():
            found += _whole_loss(name, c, bounds, y, rng)
    return found


def _layers(bounds: Array, y: Array, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Every layer by each of its arguments."""
    found: list[dict[str, Any]] = []
    for name, (run, arguments) in _examples(bounds, y, rng).items():
        out, *_, backward = run(**arguments)
        dout = rng.standard_normal(np.shape(out))
        single = {argument: value.astype(np.float32) for argument, value in arguments.items()}
        in_single = run(**single)[-1](dout.astype(np.float32))
        for (argument, value), grad, rounded in zip(arguments.items(), backward(dout), in_single, strict=True):

            def along(
                value: Array, run: Any = run, given: Any = arguments, argument: str = argument, dout: Any = dout
            ) -> float:
                return float(np.sum(dout * run(**given | {argument: value})[0]))

            found.append(_compare(name, argument, along, value, grad, rng))
            found.append(_compare_single(name, f"{argument} float32", rounded, grad, rng))
    return found


def _whole_loss(name: str, c: Config, bounds: Array, y: Array, rng: np.random.Generator) -> list[dict[str, Any]]:
    """The loss of a network by each of its parameters, dropout included."""
    shapes = model.shapes_of(c, 3, 2)
    network = model.module_of(c)
    own = hasattr(network, "example")
    x = network.example(c, bounds, rng) if own else (rng.standard_normal((bounds[-1], c.d_spec)), bounds)
    theta = rng.standard_normal(model.size_of(shapes)) / 2

    def loss(theta: Array) -> tuple[float, dict[str, Array]]:
        p, dropout = model.views(theta, shapes, model.state_of(c, 3, 2)), np.random.default_rng(1)
        weight = np.ones(len(y), theta.dtype)
        targets = Targets(y, np.array([0, 1, -1, 1, 0, 0, 1]), weight, weight)
        given = tuple(a.astype(theta.dtype) if a.dtype == float else a for a in x)
        if hasattr(network, "gradient"):
            with ThreadPoolExecutor(1) as pool:
                value, grads, _ = network.gradient(p, c, [Shard(lambda: given, targets, dropout)], pool)
        else:
            value, grads = model.loss(p, c, given, targets, dropout)
        return value, model.named(model.flatten(grads, shapes), shapes)

    grads, in_single = loss(theta)[1], loss(theta.astype(np.float32))[1]
    rows = []
    for param, value in model.named(theta, shapes).items():

        def along(value: Array, param: str = param) -> float:
            moved = theta.copy()
            model.named(moved, shapes)[param][:] = value
            return loss(moved)[0]

        rows.append(_compare(name, param, along, value, grads[param], rng))
    together, rounded = (np.concatenate([grad.ravel() for grad in of.values()]) for of in (grads, in_single))
    return [*rows, _compare_single(name, "all float32", rounded, together, rng)]


def _compare(
    layer: str, argument: str, along: Callable[[Array], float], value: Array, grad: Array, rng: np.random.Generator
) -> dict[str, Any]:
    """One row: the derivative of along at value in a random direction, both ways."""
    direction = rng.standard_normal(value.shape)
    numeric = (along(value + STEP * direction) - along(value - STEP * direction)) / (2 * STEP)
    error = abs(float(np.sum(grad * direction)) - numeric) / max(float(np.linalg.norm(grad)), 1e-3)
    return _row(layer, argument, float(np.sum(grad * direction)), numeric, error, TOLERANCE)


def _compare_single(layer: str, argument: str, single: Array, grad: Array, rng: np.random.Generator) -> dict[str, Any]:
    """One row: a gradient in float32 beside the one in float64, and the length of their difference over the latter's."""
    direction = rng.standard_normal(grad.shape)
    error = float(np.linalg.norm(single - grad)) / max(float(np.linalg.norm(grad)), 1e-3)
    return _row(layer, argument, float(np.sum(single * direction)), float(np.sum(grad * direction)), error, SINGLE)


def _row(layer: str, argument: str, analytic: float, numeric: float, error: float, tolerance: float) -> dict[str, Any]:
    return {
        "layer": layer,
        "argument": argument,
        "analytic": analytic,
        "numeric": numeric,
        "error": error,
        "ok": bool(error < tolerance),
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
    end = (
        f"{off} of {len(rows)} gradients are off"
        if off
        else f"all {len(rows)} gradients agree: to {TOLERANCE:g}, and in float32 to {SINGLE:g}"
    )
    return "\n".join([head, *lines, end])


def _examples(bounds: Array, y: Array, rng: np.random.Generator) -> dict[str, tuple[Callable[..., Any], dict[str, Array]]]:
    """Every layer with small random arguments: of some utterances (B+1,) of classes y (B,), -1 unknown.

    Each runs as run(**arguments), and gives the output first and the backward pass last.
    """
    N, B, D = bounds[-1], len(bounds) - 1, 6

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape)

    def of_loss(loss: Callable[[Array], tuple[float, Array]]) -> Callable[[Array], tuple[Array, layers.Backward]]:
        """A loss and its gradient as a layer."""

        def run(logits: Array) -> tuple[Array, layers.Backward]:
            value, dlogits = loss(logits)
            return np.array(value), lambda dout: (dout * dlogits,)

        return run

    weight, gates = np.linspace(0.5, 1, B), {"W": (D, 16), "R": (4, 16), "b": (16,)}
    lstm = {f"{name}_{direction}": normal(*gates[name]) for direction in ("fw", "bw") for name in gates}
    X, seed, target = normal(N, D), rng.integers(1000), np.sin(np.arange(4 * N)).reshape(N, 4)
    return {
        "conv1d": (lambda X, W, b: layers.conv1d(X, bounds, W, b), {"X": X, "W": normal(D, 3, 5), "b": normal(5)}),
        "maxpool": (lambda X: layers.maxpool(X, bounds, 3), {"X": X}),
        "extend": (lambda X: layers.extend(X, bounds, np.diff(bounds) + np.arange(B)), {"X": X}),
        "blstm": (lambda X, **p: layers.blstm(X, bounds, **p), {"X": X, **lstm}),
        "dropout": (lambda X: layers.dropout(X, 0.5, np.random.default_rng(seed)), {"X": X}),
        "attention": (
            lambda X, W_s1, w_s2: layers.attention(X, bounds, W_s1, w_s2),
            {"X": X, "W_s1": normal(D, 7), "w_s2": normal(7, 2)},
        ),
        "local_attention": (lambda X, u: layers.local_attention(X, bounds, u), {"X": X, "u": normal(D)}),
        "mean_over_time": (lambda X: layers.mean_over_time(X, bounds), {"X": X}),
        "linear": (layers.linear, {"X": normal(B, D), "W": normal(D, 3), "b": normal(3)}),
        "dense": (lambda X, W, b: layers.dense(X, W, b, "relu"), {"X": X, "W": normal(D, 5), "b": normal(5)}),
        "cross_entropy": (
            of_loss(lambda logits: layers.cross_entropy(logits, y, weight.astype(logits.dtype))),
            {"logits": normal(B, 3)},
        ),
        "dense, tanh": (lambda X, W, b: layers.dense(X, W, b, "tanh"), {"X": X, "W": normal(D, 5), "b": normal(5)}),
        "squared_error": (
            of_loss(lambda logits: layers.squared_error(logits, target.astype(logits.dtype), 0.1)),
            {"logits": normal(N, 4)},
        ),
        "frame_cross_entropy": (
            of_loss(lambda logits: layers.frame_cross_entropy(logits, bounds, y, weight.astype(logits.dtype))),
            {"logits": normal(N, 3)},
        ),
        "alignment_loss": (
            of_loss(lambda logits: layers.alignment_loss(logits, bounds, np.arange(B), y, weight.astype(logits.dtype))),
            {"logits": normal(N, 4)},
        ),
        **_examples_of_pictures(bounds, rng),
    }


def _examples_of_pictures(bounds: Array, rng: np.random.Generator) -> dict[str, tuple[Callable[..., Any], dict[str, Array]]]:
    """The layers over time and bands, and those that only networks with pictures have."""
    D, X, symbols = 6, rng.standard_normal((bounds[-1], 6)), rng.integers(4, size=bounds[-1])
    b, gamma, beta = rng.standard_normal(5), rng.standard_normal(D), rng.standard_normal(D)

    def held(X: Array) -> tuple[Array, Array]:
        return np.full(D, 0.5, X.dtype), np.full(D, 2, X.dtype)

    return {
        "conv2d": (
            lambda X, W, b: layers.conv2d(X, bounds, W, b),
            {"X": X, "W": rng.standard_normal((2, 3, 2, 5)), "b": b},
        ),
        "conv2d, stride, valid": (
            lambda X, W, b: layers.conv2d(X, bounds, W, b, stride=2, valid=True),
            {"X": X, "W": rng.standard_normal((2, 2, 2, 5)), "b": b},
        ),
        "maxpool2d": (lambda X: layers.maxpool2d(X, bounds, 2, 3, 2), {"X": X}),
        "quarters": (lambda X: layers.quarters(X, bounds, 2), {"X": X}),
        "max_over_time": (lambda X: layers.max_over_time(X, bounds), {"X": X}),
        "last_states": (lambda X: layers.last_states(X, bounds), {"X": X}),
        "leaky_relu": (lambda X: layers.leaky_relu(X, 0.1), {"X": X}),
        "batch_norm": (layers.batch_norm, {"X": X, "gamma": gamma, "beta": beta}),
        "batch_norm, held": (
            lambda X, gamma, beta: layers.batch_norm(X, gamma, beta, held=held(X)),
            {"X": X, "gamma": gamma, "beta": beta},
        ),
        "embedding": (lambda E: layers.embedding(symbols, E), {"E": rng.standard_normal((4, D))}),
    }
