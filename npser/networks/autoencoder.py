"""Stacked denoising autoencoders: encoders that are learnt without labels, one layer after the other, then all together.

Vincent, Larochelle, Lajoie, Bengio and Manzagol, JMLR 11 (2010), section 3. Each layer learns to give back what it was fed from
a copy of which a share was set to zero; then the whole stack learns the same of its input. Tanh inside, the last layer of the
decoder linear; the decoder has weights of its own, and is thrown away. Several stacks, one for each stream of the input, are
trained side by side on the same frames.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from npser.config import stream
from npser.layers import Array, dense, linear, squared_error
from npser.optim import Adam

Layer = tuple[Array, Array]  # W (C, K), b (K,)
SHARD = 128  # frames that are computed together: results depend on it, never on threads


class Stack(NamedTuple):
    """The layers of an autoencoder: encoder k and decoder k are each other's inverse, and decoder 0 gives the input back."""

    encoders: list[Layer]
    decoders: list[Layer]

    @property
    def whole(self) -> list[Layer]:
        """From the input to the code and back."""
        return [*self.encoders, *self.decoders[::-1]]


class Frames(NamedTuple):
    """Frames to learn from: rows(k, which (n,)) gives some of them for stack k, (n, C); release is called after each batch."""

    total: int
    rows: Callable[[int, Array], Array]
    release: Callable[[], None] = lambda: None


class Schedule(NamedTuple):
    """How an autoencoder is trained: noise is the share of its inputs that is set to zero, clip is of each gradient."""

    epochs: int
    batch: int
    rate: float
    noise: float
    clip: float
    seed: int


def decoders_for(encoders: Sequence[Layer], rng: np.random.Generator) -> list[Layer]:
    """Untied decoders, Glorot uniform, biases 0."""
    found = []
    for W, _ in encoders:
        limit = math.sqrt(6 / sum(W.shape))
        found.append((rng.uniform(-limit, limit, W.shape[::-1]).astype(W.dtype), np.zeros(len(W), W.dtype)))
    return found


def encode(encoders: Sequence[Layer], X: Array) -> Array:
    """X (N, C) -> codes (N, K)."""
    for W, b in encoders:
        X, _ = dense(X, W, b, "tanh")
    return X


def error_and_gradients(
    layers: Sequence[Layer], noisy: Array, clean: Array, weight: float, end: str
) -> tuple[float, list[Array]]:
    """weight times the squared error of clean (N, C) from noisy (N, C), and its gradients dW, db of each layer.

    end: "linear" or "tanh", of the last layer.
    """
    H, backward = noisy, list[Callable[..., tuple[Array, ...]]]()
    for W, b in layers[:-1]:
        H, back = dense(H, W, b, "tanh")
        backward.append(back)
    W, b = layers[-1]
    Y, back = linear(H, W, b) if end == "linear" else dense(H, W, b, "tanh")
    error, dY = squared_error(Y, clean, weight)
    dH, *last = back(dY)
    grads = list(last)
    for k in reversed(range(len(backward))):
        dH, *own = backward[k](dH, need_dX=k > 0)
        grads = [*own, *grads]
    return error, grads


def corrupted(X: Array, noise: float, rng: np.random.Generator) -> Array:
    """A copy of X (N, C) with a share of its elements set to zero."""
    return X * (rng.random(X.shape, np.float32) >= noise)


def train(stacks: Sequence[Stack], frames: Frames, s: Schedule, pool: ThreadPoolExecutor, progress: Any) -> list[float]:
    """Train stacks in place, layer by layer, then whole; the mean squared error of each in the last epoch, noise included.

    progress: wraps an iterable, as tqdm does. ValueError where an error is not finite.
    """
    depth = len(stacks[0].encoders)
    for k in range(depth):
        below = [stack.encoders[:k] for stack in stacks]
        coded = frames._replace(rows=lambda j, which, below=below: encode(below[j], frames.rows(j, which)))
        layers = [[stack.encoders[k], stack.decoders[k]] for stack in stacks]
        _descend(layers, coded, k, "tanh" if k else "linear", s, pool, progress)  # the end that it has within the stack
    return _descend([stack.whole for stack in stacks], frames, depth, "linear", s, pool, progress)


def _descend(
    nets: Sequence[list[Layer]], frames: Frames, phase: int, end: str, s: Schedule, pool: ThreadPoolExecutor, progress: Any
) -> list[float]:
    """Adam on the squared error of some autoencoders, an element's mean; arguments and result as of train.

    They share no parameter, so one pass over the frames serves all of them.
    """
    arrays = [array for net in nets for layer in net for array in layer]
    adams = [Adam(array.size, s.rate, 0.0, s.clip, array.dtype) for array in arrays]
    errors = [0.0] * len(nets)
    for epoch in progress(range(s.epochs), desc=f"autoencoder, part {phase + 1}", unit="epoch", leave=False):
        order, errors = stream("network", s.seed, phase, epoch, 1).permutation(frames.total), [0.0] * len(nets)
        for number, start in enumerate(range(0, frames.total, s.batch)):
            batch = order[start : start + s.batch]

            def run(shard: tuple[int, int], batch: Array = batch, at: tuple[int, ...] = (phase, epoch, number)) -> Any:
                j, first = shard
                clean = frames.rows(j, batch[first : first + SHARD])
                noisy = corrupted(clean, s.noise, stream("network", s.seed, *at, *shard, 1))
                with np.errstate(over="ignore", invalid="ignore"):  # told below
                    return error_and_gradients(nets[j], noisy, clean, 1 / (len(batch) * clean.shape[1]), end)

            shards = [(j, first) for j in range(len(nets)) for first in range(0, len(batch), SHARD)]
            totals: list[list[Array]] = [[] for _ in nets]
            for (j, _), (error, grads) in zip(shards, pool.map(run, shards), strict=True):  # in order: threads do not show
                errors[j] += error * len(batch) / frames.total
                for total, grad in zip(totals[j], grads, strict=bool(totals[j])):
                    total += grad
                totals[j] = totals[j] or grads
            frames.release()
            for array, adam, grad in zip(arrays, adams, itertools.chain(*totals), strict=True):
                adam.step(array.reshape(-1), grad.reshape(-1))
        if not np.isfinite(errors).all():
            raise ValueError(
                f"the error of the autoencoders is not finite; try a lower rate, such as pretrain_rate={s.rate / 3:.1g}"
            )
    return errors
