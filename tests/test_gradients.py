"""Every gradient against central differences along random directions, in float64."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers import FORWARD, LENGTHS, ODD, TINY, Array, bounds_of, loss_of, make_batch, make_network

from npser import model
from npser.layers import (
    alignment_loss,
    attention,
    blstm,
    conv1d,
    cross_entropy,
    dense,
    dropout,
    extend,
    frame_cross_entropy,
    linear,
    local_attention,
    maxpool,
    mean_over_time,
)

STEP = 3e-6
BOUNDS = bounds_of(LENGTHS)
POOLED = bounds_of([2, 0, 3, 0, 1, 1, 4, 3, 2])  # what pooling leaves of them: two utterances have no frame
N, M = BOUNDS[-1], POOLED[-1]


def assert_derivative(gradient: Array, direction: Array, numeric: float, name: str) -> None:
    """Relative to the gradient's norm, the size that its product with a direction of independent unit normals has."""
    assert np.linalg.norm(gradient) > 0, name
    assert (gradient * direction).sum() == pytest.approx(numeric, rel=0, abs=1e-6 * float(np.linalg.norm(gradient))), name


def check(layer: Callable[..., Any], *shapes: tuple[int, ...]) -> None:
    """The backward pass of a layer, for each of its arrays on its own, along three directions."""
    rng = np.random.default_rng(5)
    arrays = [0.5 * rng.standard_normal(shape) for shape in shapes]
    out, *_, backward = layer(*arrays)
    dout = rng.standard_normal(out.shape)
    gradients = backward(dout)
    assert [gradient.shape for gradient in gradients] == list(shapes)
    for i, gradient in enumerate(gradients):
        for _ in range(3):
            direction = rng.standard_normal(gradient.shape)
            ahead, behind = (layer(*arrays[:i], arrays[i] + h * direction, *arrays[i + 1 :])[0] for h in (STEP, -STEP))
            numeric = ((ahead - behind) * dout).sum() / (2 * STEP)
            assert_derivative(gradient, direction, numeric, f"array {i}")


@pytest.mark.parametrize("n_cw", [1, 3, 5])
def test_conv1d(n_cw: int):
    check(lambda X, W, b: conv1d(X, BOUNDS, W, b), (N, 6), (6, n_cw, 4), (4,))


def test_conv1d_without_the_gradient_of_its_input_has_the_same_other_gradients():
    rng = np.random.default_rng(0)
    out, backward = conv1d(rng.standard_normal((N, 6)), BOUNDS, rng.standard_normal((6, 3, 4)), rng.standard_normal(4))
    dout = rng.standard_normal(out.shape)
    for with_dX, without in zip(backward(dout)[1:], backward(dout, need_dX=False)[1:], strict=True):
        np.testing.assert_array_equal(with_dX, without)


@pytest.mark.parametrize("n_pw", [1, 2, 3, 4])
def test_maxpool(n_pw: int):
    check(lambda X: maxpool(X, BOUNDS, n_pw), (N, 6))


@pytest.mark.parametrize("bounds", [BOUNDS, POOLED], ids=["ragged", "some empty"])
def test_extend(bounds: Array):
    def layer(X: Array):
        out, extended, backward = extend(X, bounds, np.diff(bounds) + np.arange(len(bounds) - 1))
        assert len(out) == extended[-1]
        return out, backward

    check(layer, (bounds[-1], 5))


@pytest.mark.parametrize("H", [4, 5])
@pytest.mark.parametrize("bounds", [BOUNDS, POOLED], ids=["ragged", "some empty"])
def test_blstm(H: int, bounds: Array):
    check(lambda X, *params: blstm(X, bounds, *params), (bounds[-1], 3), *[(3, 4 * H), (H, 4 * H), (4 * H,)] * 2)


def test_dropout():
    check(lambda X: dropout(X, 0.4, np.random.default_rng(3)), (N, 6))


def test_dropout_without_a_generator():
    check(lambda X: dropout(X, 0.4, None), (N, 6))


@pytest.mark.parametrize("bounds", [BOUNDS, POOLED], ids=["ragged", "some empty"])
def test_attention(bounds: Array):
    check(lambda X, W_s1, w_s2: attention(X, bounds, W_s1, w_s2), (bounds[-1], 6), (6, 7), (7, 3))


@pytest.mark.parametrize("bounds", [BOUNDS, POOLED], ids=["ragged", "some empty"])
def test_mean_over_time(bounds: Array):
    check(lambda X: mean_over_time(X, bounds), (bounds[-1], 6))


@pytest.mark.parametrize("bounds", [BOUNDS, POOLED], ids=["ragged", "some empty"])
def test_local_attention(bounds: Array):
    check(lambda X, u: local_attention(X, bounds, u), (bounds[-1], 6), (6,))


def test_local_attention_of_no_direction_is_the_mean_over_time():
    X = np.random.default_rng(0).standard_normal((M, 6))
    np.testing.assert_allclose(local_attention(X, POOLED, np.zeros(6))[0], mean_over_time(X, POOLED)[0], atol=1e-15)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_dense(activation: str):
    check(lambda X, W, b: dense(X, W, b, activation), (N, 6), (6, 4), (4,))


def test_linear():
    check(linear, (5, 6), (6, 3), (3,))


def test_cross_entropy():
    y, weight = np.array([2, 0, -1, 1, 2]), np.array([0.3, 0.1, 0.5, 0.2, 0.4])

    def layer(logits: Array):
        total, dlogits = cross_entropy(logits, y, weight)
        return np.array(total), lambda dout: (dout * dlogits,)

    check(layer, (5, 3))


@pytest.mark.parametrize("bounds", [BOUNDS, POOLED], ids=["ragged", "some empty"])
def test_frame_cross_entropy(bounds: Array):
    rng = np.random.default_rng(1)
    y, weight = rng.integers(-1, 3, len(bounds) - 1), rng.uniform(0.1, 1, len(bounds) - 1)

    def layer(logits: Array):
        total, dlogits = frame_cross_entropy(logits, bounds, y, weight)
        return np.array(total), lambda dout: (dout * dlogits,)

    check(layer, (bounds[-1], 3))


def test_frame_cross_entropy_of_utterances_whose_frames_are_all_alike_is_that_of_the_utterances():
    rng = np.random.default_rng(2)
    y, weight, logits = (
        rng.integers(-1, 3, len(LENGTHS)),
        rng.uniform(0.1, 1, len(LENGTHS)),
        rng.standard_normal((len(LENGTHS), 3)),
    )
    each = frame_cross_entropy(np.repeat(logits, LENGTHS, axis=0), BOUNDS, y, weight)[0]
    known = np.array(LENGTHS) > 0
    assert each == pytest.approx(cross_entropy(logits[known], y[known], weight[known])[0], rel=1e-12)


def test_alignment_loss():
    of, owner = bounds_of([7, 3, 12, 2, 30, 4]), np.array([0, 0, 1, 1, 2, 3])
    y, weight = np.array([1, 0, 2, -1]), np.array([0.3, 0.1, 0.5, 0.2])

    def layer(logits: Array):
        total, dlogits = alignment_loss(logits, of, owner, y, weight)
        return np.array(total), lambda dout: (dout * dlogits,)

    check(layer, (of[-1], 4))


@pytest.mark.parametrize("rate", [0.0, 0.5], ids=["", "dropout"])
@pytest.mark.parametrize(
    ("config", "genders"),
    [
        pytest.param(TINY, 2, id="paper"),
        pytest.param(TINY, 0, id="no gender"),
        pytest.param(replace(TINY, attention=False), 2, id="no attention"),
        pytest.param(replace(TINY, attention=False), 0, id="neither"),
        pytest.param(ODD, 2, id="odd sizes"),
        pytest.param(FORWARD, 2, id="no recurrence"),
        pytest.param(replace(FORWARD, attention=False), 0, id="no recurrence, attention or gender"),
    ],
)
def test_the_whole_loss_by_every_parameter(config: Any, genders: int, rate: float):
    c = replace(config, dropout=rate)
    theta, shapes = make_network(c, genders, seed=3)
    batch = make_batch(c, seed=4)
    rng = np.random.default_rng(5)

    def loss(theta: Array) -> tuple[float, Array]:
        """The same dropout each time."""
        return loss_of(theta, shapes, c, batch, np.random.default_rng(1) if c.dropout else None)

    _, gradient = loss(theta)
    assert gradient.shape == theta.shape
    for name, part in model.named(gradient, shapes).items():
        direction = np.zeros_like(theta)
        model.named(direction, shapes)[name][:] = rng.standard_normal(part.shape)
        numeric = (loss(theta + STEP * direction)[0] - loss(theta - STEP * direction)[0]) / (2 * STEP)
        assert_derivative(part, model.named(direction, shapes)[name], numeric, name)
