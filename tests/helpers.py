"""Small networks and ragged batches, in float64 unless a test asks for something else."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from npser import model
from npser.config import Config, param_shapes

Array = np.ndarray

SMALL = Config(d_spec=9, d_cnn=4, d_lstm=4, d_attn=8, n_attn=2, alpha=0.7, beta=1.3)
ODD = Config(d_spec=12, d_cnn=3, d_lstm=5, d_attn=7, n_cw=5, n_pw=2, n_attn=3)  # no multiple of the kernels' four
LENGTHS = (7, 1, 10, 2, 3, 4, 12, 9, 6)  # shorter than a window of 3, equal to it, one more; two tiles of four and one over
EMOTIONS = 4


class Batch(NamedTuple):
    """The arguments of model.loss, in its order."""

    X: Array
    bounds: Array
    emotion_y: Array
    gender_y: Array
    emotion_weight: Array
    gender_weight: Array


def bounds_of(lengths: Sequence[int] | Array) -> Array:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def make_batch(c: Config, lengths: Sequence[int] = LENGTHS, seed: int = 0) -> Batch:
    """Random features, labels and weights; each third gender is unknown, though its weight is not zero."""
    rng = np.random.default_rng(seed)
    B = len(lengths)
    return Batch(
        rng.standard_normal((sum(lengths), c.d_spec)),
        bounds_of(lengths),
        rng.integers(EMOTIONS, size=B),
        np.where(np.arange(B) % 3 == 2, -1, rng.integers(2, size=B)),
        rng.uniform(0.5, 1.5, B) / B,
        rng.uniform(0.5, 1.5, B) / B,
    )


def make_network(c: Config, genders: int = 2, seed: int = 0) -> tuple[Array, model.Shapes]:
    """theta without zeros, and its shapes."""
    shapes = param_shapes(c, EMOTIONS, genders)
    size = sum(int(np.prod(shape)) for shape in shapes.values())
    return 0.5 * np.random.default_rng(seed).standard_normal(size), shapes


def named(theta: Array, shapes: model.Shapes) -> dict[str, Array]:
    """{"cnn1.W": ..., ...}, views of theta."""
    return {f"{layer}.{name}": v for layer, p in model.views(theta, shapes).items() for name, v in p.items()}


def utterances_of(X: Array, bounds: Array) -> list[Array]:
    return np.split(X, bounds[1:-1])


def select(batch: Batch, chosen: Sequence[int] | Array) -> Batch:
    """Some utterances of a batch, in the order given."""
    utterances = utterances_of(batch.X, batch.bounds)
    X = np.concatenate([utterances[u] for u in chosen])
    return Batch(X, bounds_of([len(utterances[u]) for u in chosen]), *(a[np.asarray(chosen)] for a in batch[2:]))


def assert_close(actual: Array, expected: Array, tolerance: float, name: str = "") -> None:
    """No element differs by more than tolerance times the largest one expected."""
    assert actual.shape == expected.shape, name
    worst, largest = np.abs(actual - expected).max(initial=0), np.abs(expected).max(initial=0)
    assert worst <= tolerance * largest, f"{name}: off by {worst:.3g}, largest {largest:.3g}"
