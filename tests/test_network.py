"""What holds of the whole network, whatever its numbers: symmetry, independence of utterances, sizes, starting values."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from helpers import (
    FORWARD,
    LENGTHS,
    ODD,
    TINY,
    UNCOMPILED,
    Array,
    Batch,
    assert_close,
    bounds_of,
    logits_of,
    loss_of,
    make_batch,
    make_network,
    select,
)

from npser import model
from npser.layers import blstm, cross_entropy, dropout
from npser.networks import li2019_feedforward
from npser.networks.li2019 import Config, distinct_rows
from npser.threads import single_threaded_blas
from npser_kernels.assemble import assemble

compiled = pytest.mark.skipif(UNCOMPILED, reason="paper sizes take too long uncompiled")


def single(batch: Batch) -> Batch:
    """In float32, as training has it."""
    return Batch(*(a.astype(np.float32) if a.dtype == np.float64 else a for a in batch))


# Time has a direction


def reverse_time(X: Array, bounds: Array) -> Array:
    """The rows of each utterance in reverse order."""
    return np.concatenate([X[start:end][::-1] for start, end in pairwise(bounds)])


def swap_halves(a: Array) -> Array:
    """The second half of the rows, then the first."""
    return np.roll(a, len(a) // 2, axis=0)


def mirror(theta: Array, shapes: model.Shapes, c: Config) -> Array:
    """The parameters that make of reversed time what theta makes of time."""
    p, mirrored = model.named(theta, shapes), np.empty_like(theta)
    D = 2 * c.d_lstm
    for name, value in model.named(mirrored, shapes).items():
        if name in ("cnn1.W", "cnn2.W"):
            value[:] = p[name][:, ::-1]
        elif name.startswith("lstm"):
            other = p[name[:-2] + ("bw" if name.endswith("fw") else "fw")]
            value[:] = swap_halves(other) if name.startswith("lstm2.W") else other
        elif name == "attn.W_s1":
            value[:] = swap_halves(p[name])
        elif name in ("emotion.W", "gender.W"):
            value[:] = np.concatenate([swap_halves(head) for head in np.split(p[name], len(value) // D)])
        else:
            value[:] = p[name]
    return mirrored


def test_a_blstm_of_reversed_time_with_swapped_directions_is_reversed_with_swapped_halves():
    rng = np.random.default_rng(0)
    bounds = bounds_of(LENGTHS)
    X = rng.standard_normal((bounds[-1], 3))
    fw, bw = ([0.5 * rng.standard_normal(shape) for shape in [(3, 16), (4, 16), (16,)]] for _ in range(2))
    out, _ = blstm(X, bounds, *fw, *bw)
    mirrored, _ = blstm(reverse_time(X, bounds), bounds, *bw, *fw)
    assert_close(mirrored, np.roll(reverse_time(out, bounds), 4, axis=1), 1e-12)


def test_each_direction_of_a_blstm_sees_its_side_of_time_only():
    """A change in frame 3 of 7 leaves the forward states before it and the backward states after it as they were."""
    rng = np.random.default_rng(0)
    params = [rng.standard_normal(shape) for shape in [(3, 16), (4, 16), (16,)] * 2]
    X, bounds = rng.standard_normal((7, 3)), bounds_of([7])
    before, _ = blstm(X, bounds, *params)
    X[3] += 1
    after, _ = blstm(X, bounds, *params)
    changed = (before != after).reshape(7, 2, 4).any(axis=2)
    np.testing.assert_array_equal(changed[:, 0], np.arange(7) >= 3)
    np.testing.assert_array_equal(changed[:, 1], np.arange(7) <= 3)


@pytest.mark.parametrize("attention", [True, False], ids=["attention", "mean"])
def test_the_mirrored_network_makes_the_same_of_reversed_time(attention: bool):
    c = replace(TINY, attention=attention)
    theta, shapes = make_network(c)
    batch = make_batch(c, [9, 3, 12, 6, 3])  # whole windows: a rest would be dropped at the other end
    reversed_batch = batch._replace(X=reverse_time(batch.X, batch.bounds))
    theirs = mirror(theta, shapes, c)
    assert not np.allclose(theta, theirs)
    for ours, mirrored in zip(logits_of(theta, shapes, c, batch), logits_of(theirs, shapes, c, reversed_batch), strict=True):
        assert ours is not None
        assert mirrored is not None
        assert_close(mirrored, ours, 1e-12)
    loss, gradient = loss_of(theta, shapes, c, batch)
    mirrored_loss, mirrored_gradient = loss_of(theirs, shapes, c, reversed_batch)
    assert mirrored_loss == pytest.approx(loss, rel=1e-12)
    assert_close(mirrored_gradient, mirror(gradient, shapes, c), 1e-11)


# Utterances are independent


def both_logits(theta: Array, shapes: model.Shapes, c: Any, batch: Batch) -> Array:
    """Emotion beside gender, (B, 6)."""
    emotion, gender = logits_of(theta, shapes, c, batch)
    assert gender is not None
    return np.hstack([emotion, gender])


@pytest.mark.parametrize("kind", [np.float64, np.float32])
@pytest.mark.parametrize("network", [TINY, FORWARD], ids=["paper", "no recurrence"])
@pytest.mark.parametrize("attention", [True, False], ids=["attention", "mean"])
def test_a_batch_gives_what_its_utterances_give_in_any_order_and_any_shards(kind: type, network: Any, attention: bool):
    c, tolerance = replace(network, attention=attention), 1e-10 if kind is np.float64 else 1e-5
    theta, shapes = make_network(c)
    theta, batch = theta.astype(kind), make_batch(c)
    batch = batch if kind is np.float64 else single(batch)
    whole = both_logits(theta, shapes, c, batch)
    total, gradient = loss_of(theta, shapes, c, batch)
    B = len(LENGTHS)
    orders = {"as it is": np.arange(B), "reversed": np.arange(B)[::-1], "shuffled": np.random.default_rng(1).permutation(B)}
    for size in (1, 2, 4, B):
        for name, order in orders.items():
            shards = [order[i : i + size] for i in range(0, B, size)]
            logits = np.concatenate([both_logits(theta, shapes, c, select(batch, shard)) for shard in shards])
            assert_close(logits, whole[order], tolerance, f"{name}, shards of {size}")
            losses, gradients = zip(*(loss_of(theta, shapes, c, select(batch, shard)) for shard in shards), strict=True)
            assert sum(losses) == pytest.approx(total, rel=tolerance)
            assert_close(np.sum(gradients, axis=0), gradient, tolerance, f"gradient, {name}, shards of {size}")


@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_the_last_bit_does_not_depend_on_the_number_of_threads(kind: type):
    c = replace(TINY, d_cnn=16, d_lstm=12, d_attn=32)
    theta, shapes = make_network(c)
    theta = theta.astype(kind)
    batch = make_batch(c, LENGTHS + LENGTHS[::-1])
    batch = batch if kind is np.float64 else single(batch)
    shards = [select(batch, range(i, min(i + 2, 18))) for i in range(0, 18, 2)]

    def run(i: int) -> tuple[float, Array]:
        return loss_of(theta, shapes, c, shards[i], np.random.default_rng([7, i]))

    def step(threads: int) -> tuple[float, bytes]:
        with single_threaded_blas(), ThreadPoolExecutor(threads) as pool:
            losses, gradients = zip(*pool.map(run, range(len(shards))), strict=True)
        return sum(losses), np.sum(gradients, axis=0).tobytes()

    once = step(1)
    assert all(step(threads) == once for threads in (1, 2, 3, 3))


@pytest.mark.parametrize("c", [TINY, FORWARD], ids=["paper", "no recurrence"])
def test_an_utterance_shorter_than_a_window_has_the_biases_for_logits_and_no_other_gradient(c: Any):
    theta, shapes = make_network(c)
    batch = make_batch(c, [2, 1, 2])
    np.testing.assert_array_equal(
        both_logits(theta, shapes, c, batch),
        np.tile(np.concatenate([model.named(theta, shapes)[name] for name in ("emotion.b", "gender.b")]), (3, 1)),
    )
    _, gradient = loss_of(theta, shapes, c, batch)
    nonzero = {name for name, part in model.named(gradient, shapes).items() if part.any()}
    assert nonzero == {"emotion.b", "gender.b"}


def test_frames_after_the_last_whole_window_count_for_nothing_but_through_the_convolution():
    batch = make_batch(TINY, [11])
    changed = batch.X.copy()
    changed[9:] *= -1
    for n_cw in (1, 3):
        c = replace(TINY, n_cw=n_cw)
        theta, shapes = make_network(c)
        ours, theirs = (both_logits(theta, shapes, c, batch._replace(X=X)) for X in (batch.X, changed))
        assert np.array_equal(ours, theirs) == (n_cw == 1)


@pytest.mark.parametrize("frame", range(7))
def test_nan_in_a_feature_is_nan_in_the_logits_of_its_utterance_and_of_no_other(frame: int):
    """Also in the seventh frame, which no window holds: it reaches the second window over the convolutions."""
    theta, shapes = make_network(TINY)
    batch = make_batch(TINY, [5, 7, 3])
    batch.X[5 + frame, 2] = np.nan
    np.testing.assert_array_equal(np.isnan(both_logits(theta, shapes, TINY, batch)).all(axis=1), [False, True, False])
    loss, _ = loss_of(theta, shapes, TINY, batch)
    assert math.isnan(loss)


# Sizes and starting values


def test_the_papers_network_has_304326_parameters_and_126086_without_recurrence():
    assert model.size_of(model.shapes_of(li2019_feedforward.Config(), 4, 2)) == 126_086
    shapes = model.shapes_of(Config(), emotions=4, genders=2)
    assert model.size_of(shapes) == 304_326
    assert model.init(shapes, seed=0).shape == (304_326,)


def test_views_are_consecutive_pieces_of_theta():
    theta, shapes = make_network(TINY)
    p = model.named(theta, shapes)
    assert {name: v.shape for name, v in p.items()} == shapes
    np.testing.assert_array_equal(np.concatenate([v.ravel() for v in p.values()]), theta)
    p["lstm2.b_bw"][:] = 123
    assert np.count_nonzero(theta == 123) == 16


FANS = {  # in, out: as Keras counts them, window included
    "cnn1.W": (3 * 384, 3 * 64),
    "cnn2.W": (3 * 64, 3 * 64),
    "lstm1.W_fw": (64, 240),
    "lstm1.W_bw": (64, 240),
    "lstm2.W_fw": (120, 240),
    "lstm2.W_bw": (120, 240),
    "attn.W_s1": (120, 512),
    "attn.w_s2": (512, 8),
    "emotion.W": (960, 4),
    "gender.W": (960, 2),
}


def test_starting_values_are_those_of_keras():
    shapes = model.shapes_of(Config(), 4, 2)
    p = model.named(model.init(shapes, 3, np.float64), shapes)
    for name, value in p.items():
        if name in FANS:
            limit = math.sqrt(6 / sum(FANS[name]))
            assert 0.99 * limit < np.abs(value).max() <= limit, name
            assert value.std() == pytest.approx(limit / math.sqrt(3), rel=0.05), name
            assert abs(value.mean()) < 4 * value.std() / math.sqrt(value.size), name
        elif ".R_" in name:
            np.testing.assert_allclose(value @ value.T, np.eye(60), atol=1e-12, err_msg=name)
        elif ".b_" in name:
            np.testing.assert_array_equal(value, np.repeat([0, 1, 0, 0], 60), name)
        else:
            assert name.endswith(".b")
            assert not value.any(), name
    matrices = [value.ravel()[:100] for name, value in p.items() if name in FANS or ".R_" in name]
    assert len({a.tobytes() for a in matrices}) == 14  # no two drawn from the same numbers


def test_starting_values_follow_from_the_seed():
    shapes = model.shapes_of(TINY, 4, 2)
    theta = model.init(shapes, 5)
    assert theta.dtype == np.float32
    np.testing.assert_array_equal(theta, model.init(shapes, 5))
    assert not np.allclose(theta, model.init(shapes, 6))


# Dropout and the loss


@pytest.mark.parametrize("kind", [np.float64, np.float32])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_dropout_sets_a_share_of_p_to_zero_and_divides_the_rest(kind: type, p: float):
    X = np.ones((200, 100), kind)
    out, backward = dropout(X, p, np.random.default_rng(0))
    assert out.dtype == kind
    kept = out != 0
    np.testing.assert_allclose(out[kept], 1 / (1 - p), rtol=1e-6)
    spread = 4 * math.sqrt(p * (1 - p))  # four standard deviations of the mean of one
    assert abs((~kept).mean() - p) < spread / math.sqrt(20_000)
    assert np.abs((~kept).mean(axis=0) - p).max() < 1.2 * spread / math.sqrt(200)  # each column, each row: no pattern
    assert np.abs((~kept).mean(axis=1) - p).max() < 1.2 * spread / math.sqrt(100)
    np.testing.assert_array_equal(backward(X)[0], out)


def test_dropout_acts_when_a_generator_is_passed_and_only_then():
    X = np.ones((4, 5))
    assert dropout(X, 0.5, None)[0] is X
    assert dropout(X, 0.0, np.random.default_rng(0))[0] is X
    c = TINY
    theta, shapes = make_network(c)
    batch = make_batch(c)
    once, other, without = (
        loss_of(theta, shapes, c, batch, rng)[0] for rng in (np.random.default_rng(1), np.random.default_rng(2), None)
    )
    assert once == loss_of(theta, shapes, c, batch, np.random.default_rng(1))[0]
    assert len({once, other, without}) == 3


def test_cross_entropy_is_minus_the_weighted_log_probability_of_the_known_classes():
    logits = np.array([[1.0, 2.0, 0.5], [0.0, 0.0, 0.0], [3.0, -1.0, 0.0]])
    y, weight = np.array([1, -1, 0]), np.array([0.5, 7.0, 2.0])
    total, dlogits = cross_entropy(logits, y, weight)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert total == pytest.approx(-0.5 * math.log(p[0, 1]) - 2 * math.log(p[2, 0]), rel=1e-12)
    np.testing.assert_allclose(dlogits, [0.5 * (p[0] - [0, 1, 0]), [0, 0, 0], 2 * (p[2] - [1, 0, 0])], rtol=1e-12)


def test_cross_entropy_of_none_known_is_zero():
    total, dlogits = cross_entropy(np.ones((3, 2)), np.full(3, -1), np.ones(3))
    assert total == 0
    assert not dlogits.any()


def test_cross_entropy_bears_large_logits():
    total, dlogits = cross_entropy(np.array([[1e4, -1e4, 0.0]]), np.array([1]), np.ones(1))
    assert total == 2e4
    np.testing.assert_array_equal(dlogits, [[1, -1, 0]])


# float32


def test_a_blstm_in_float32_is_within_2e_6_of_float64():
    rng = np.random.default_rng(0)
    bounds = bounds_of([40, 3, 17, 1, 25])
    X = rng.standard_normal((bounds[-1], 6))
    params = [rng.standard_normal(shape) for shape in [(6, 32), (8, 32), (32,)] * 2]
    exact, _ = blstm(X, bounds, *params)
    out, _ = blstm(X.astype(np.float32), bounds, *(a.astype(np.float32) for a in params))
    assert out.dtype == np.float32
    assert np.abs(out - exact).max() < 2e-6


def test_float32_stays_float32_and_its_gradient_is_close():
    theta, shapes = make_network(TINY)
    batch = make_batch(TINY)
    _, exact = loss_of(theta, shapes, TINY, batch)
    single_theta = theta.astype(np.float32)
    emotion, gender = logits_of(single_theta, shapes, TINY, single(batch))
    _, gradient = loss_of(single_theta, shapes, TINY, single(batch))
    assert gender is not None
    assert emotion.dtype == gender.dtype == gradient.dtype == np.float32
    for name, part in model.named(gradient, shapes).items():
        assert_close(part, model.named(exact, shapes)[name], 1e-4, name)


@compiled
def test_at_the_papers_sizes_the_gradient_is_right_in_float64_and_close_in_float32():
    c = Config()
    shapes = model.shapes_of(c, 4, 2)
    theta, batch = model.init(shapes, 0, np.float64), make_batch(c, [301, 40, 120, 5, 2])

    def loss(theta: Array, batch: Batch) -> tuple[float, Array]:
        return loss_of(theta, shapes, c, batch, np.random.default_rng(0))

    exact_loss, exact = loss(theta, batch)
    direction = np.random.default_rng(1).standard_normal(theta.size)
    for name, part in model.named(direction, shapes).items():
        part *= not name.startswith("cnn")  # of tens of thousands of ReLUs and windows some bend within any step
    numeric = (loss(theta + 1e-6 * direction, batch)[0] - loss(theta - 1e-6 * direction, batch)[0]) / 2e-6
    assert exact @ direction == pytest.approx(numeric, rel=1e-6, abs=0)
    single_loss, gradient = loss(theta.astype(np.float32), single(batch))
    assert single_loss == pytest.approx(exact_loss, rel=1e-5)
    for name, part in model.named(gradient, shapes).items():
        assert_close(part, model.named(exact, shapes)[name], 1e-3, name)
        assert part.any(), name


@pytest.mark.parametrize("c", [TINY, ODD, FORWARD], ids=["paper's windows", "other windows", "no recurrence"])
def test_padding_is_computed_once_and_counts_as_often_as_it_occurs(c: Any):
    frames, stored = 70, np.array([1, 5, 20, 33, 48, *range(52, 71)])
    padded, bands = np.full(len(stored), frames), c.d_spec // 3
    rng = np.random.default_rng(0)
    rows, mean = rng.standard_normal((stored.sum(), bands)), rng.standard_normal(c.d_spec)
    starts = bounds_of(stored)[:-1]
    lengths = distinct_rows(stored, padded, c)
    assert (lengths[:5] < frames).all()
    assert (lengths[-9:] == frames).all()

    def result(lengths: Array) -> tuple[float, Array]:
        bounds = bounds_of(lengths)
        X = np.empty((bounds[-1], c.d_spec))
        assemble(X, bounds, padded, rows, starts, stored, np.zeros(len(stored)), -3.0, mean, np.ones(c.d_spec))
        batch = make_batch(c, [1] * len(lengths))._replace(X=X, bounds=bounds)
        theta, shapes = make_network(c)
        return loss_of(theta, shapes, c, batch, np.random.default_rng(1), padded)

    (all_loss, all_gradient), (loss, gradient) = result(padded), result(lengths)
    assert loss == pytest.approx(all_loss, rel=1e-12)
    assert_close(gradient, all_gradient, 1e-10)
