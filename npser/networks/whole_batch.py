"""Networks that normalise a mini-batch as one: their bodies run by shard, their head once, with the statistics of the batch.

Ioffe and Szegedy (2015). The statistics that prediction takes are running means of the batches'.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from npser.networks import pieces
from npser.networks.li2019 import Array, Grads, Views

RENEWED, EPSILON = 0.1, 1e-3  # of the running statistics by a whole mini-batch; beside the variance

Body = Callable[..., tuple[Array, Array, Callable[[Array], Grads]]]  # (p, c, *x) -> z (P, D), the utterance of each, backward
Head = Callable[..., tuple[Array, Any, Callable[[Array], tuple[Array, Grads]]]]  # -> logits, statistics, backward


def state(width: int) -> dict[str, Array]:
    """The running statistics of so many columns, as they start."""
    return {"running.mean": np.zeros(width, np.float32), "running.variance": np.ones(width, np.float32)}


def forward(
    p: Views, c: Any, x: tuple[Any, ...], body: Body, head: Head, rng: Any = None
) -> tuple[tuple[Array, Array], Callable[[Array], Grads]]:
    """With the running statistics: x -> (logits (P, classes), the utterance of each (P,)), backward.

    head(p, c, z, held, rng): held are the statistics, or None for those of z, which it returns.
    """
    z, owner, b_body = body(p, c, *x)
    logits, _, b_head = head(p, c, z, (p["running"]["mean"], p["running"]["variance"]), rng)

    def backward(dlogits: Array) -> Grads:
        dz, g = b_head(dlogits)
        return g | b_body(dz)

    return (logits, owner), backward


def gradient(
    p: Views, c: Any, shards: list[Any], pool: ThreadPoolExecutor, body: Body, head: Head
) -> tuple[float, Grads, dict[str, Array]]:
    """Loss and gradients of a mini-batch whose pieces are normalised together, and the running statistics after it."""

    def silently(run: Callable[..., Any], *arguments: Any) -> Any:
        with np.errstate(over="ignore", invalid="ignore"):  # the loss tells; each thread has a state of its own
            return run(*arguments)

    parts = list(pool.map(lambda shard: silently(body, p, c, *shard.inputs()), shards))
    sizes = [len(z) for z, *_ in parts]
    z, ends = np.concatenate([z for z, *_ in parts]), np.cumsum(sizes)
    logits, statistics, b_head = head(p, c, z, None, shards[0].rng)
    dlogits, total = np.empty_like(logits), 0.0
    for shard, (_, owner, _), size, end in zip(shards, parts, sizes, ends, strict=True):
        value, (dlogits[end - size : end],) = pieces.loss(c, (logits[end - size : end], owner), shard.y)
        total += value
    dz, g = b_head(dlogits)
    each = list(pool.map(lambda k: silently(parts[k][2], dz[ends[k] - sizes[k] : ends[k]]), range(len(parts))))
    g |= {layer: [sum(grads) for grads in zip(*(one[layer] for one in each), strict=True)] for layer in each[0]}
    running = zip(("mean", "variance"), statistics, strict=True)
    share = RENEWED * min(1.0, sum(len(shard.y.emotion) for shard in shards) / c.batch)  # the last batch may be a small one
    kept = {f"running.{name}": (1 - share) * p["running"][name] + share * now for name, now in running}
    return total, g, {name: now.astype(np.float32) for name, now in kept.items()}
