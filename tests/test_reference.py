"""The engine, in float64, gives what the slow literal loops of reference.py give."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import reference
from helpers import (
    FORWARD,
    ODD,
    TINY,
    Array,
    Batch,
    assert_close,
    bounds_of,
    logits_of,
    loss_of,
    make_batch,
    make_network,
    utterances_of,
)

from npser import model
from npser.layers import dropout
from npser.networks.li2019 import Config
from npser.optim import Adam, rate_factor
from npser_kernels.assemble import assemble
from npser_kernels.augment import add_echo, resample_bands

TOLERANCE = 1e-9
LENGTHS = (3, 1, 9, 2, 4, 7)  # with a window of 3: no window at all, exactly one, rests of one and of two
CASES = [
    pytest.param(TINY, 2, id="paper"),
    pytest.param(TINY, 0, id="no gender"),
    pytest.param(replace(TINY, attention=False), 2, id="no attention"),
    pytest.param(replace(TINY, attention=False), 0, id="neither"),
    pytest.param(ODD, 2, id="odd sizes"),
    pytest.param(FORWARD, 2, id="no recurrence"),
    pytest.param(replace(FORWARD, attention=False), 0, id="no recurrence, attention or gender"),
]


def drawn_masks(c: Any, bounds: Array, seed: int) -> list[list[Array]] | None:
    """The dropout masks that model.forward draws from a generator of this seed, by layer and utterance."""
    rng = np.random.default_rng(seed)
    pooled = bounds_of(np.diff(bounds) // c.n_pw)
    widths = [2 * c.d_lstm] * 2 if isinstance(c, Config) else [c.d_cnn]  # after each BLSTM layer, or once after pooling
    masks = [dropout(np.ones((pooled[-1], width)), c.dropout, rng)[0] for width in widths]
    return [utterances_of(mask, pooled) for mask in masks] if c.dropout else None


def by_reference(theta: Array, shapes: model.Shapes, c: Any, batch: Batch, masks: list[list[Array]] | None):
    """Loss, emotion logits, gender logits, gradients by name."""
    return reference.loss_and_gradients(
        model.named(theta, shapes),
        utterances_of(batch.X, batch.bounds),
        batch.emotion,
        batch.gender,
        batch.emotion_weight,
        c.alpha,
        c.beta,
        c.attention,
        masks,
        c.n_pw,
    )


@pytest.mark.parametrize("rate", [0.0, 0.5], ids=["", "dropout"])
@pytest.mark.parametrize(("config", "genders"), CASES)
def test_logits_loss_and_gradients(config: Any, genders: int, rate: float):
    c = replace(config, dropout=rate)
    theta, shapes = make_network(c, genders)
    batch = make_batch(c, LENGTHS)
    batch = batch._replace(gender_weight=batch.emotion_weight)  # the reference has one weight for both

    emotion, gender = logits_of(theta, shapes, c, batch, np.random.default_rng(9))
    loss, gradient = loss_of(theta, shapes, c, batch, np.random.default_rng(9))
    expected_loss, expected_emotion, expected_gender, expected = by_reference(
        theta, shapes, c, batch, drawn_masks(c, batch.bounds, 9)
    )

    assert loss == pytest.approx(expected_loss, rel=TOLERANCE)
    assert_close(emotion, expected_emotion, TOLERANCE, "emotion")
    if genders:
        assert gender is not None
        assert expected_gender is not None
        assert_close(gender, expected_gender, TOLERANCE, "gender")
    else:
        assert gender is expected_gender is None
    for name, part in model.named(gradient, shapes).items():
        assert_close(part, expected[name], TOLERANCE, name)
        assert np.abs(part).max() > 0, name


def test_the_rate_rises_for_the_warm_up_and_falls_along_half_a_cosine():
    constant = replace(TINY, epochs=10)
    assert {rate_factor(constant, k, 4) for k in range(40)} == {1.0}
    rising = replace(constant, warmup=2.0)
    assert [rate_factor(rising, k, 4) for k in (0, 3, 7, 39)] == [1 / 8, 1 / 2, 1, 1]
    assert [rate_factor(replace(rising, epochs=4), k, 4) for k in (0, 3, 7)] == [1 / 4, 1, 1]  # a quarter of all
    cosine = replace(constant, schedule="cosine")
    assert [rate_factor(cosine, k, 4) for k in (0, 10, 20, 30)] == pytest.approx(
        [1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2]
    )
    assert 0 < rate_factor(replace(cosine, warmup=2.0), 39, 4) < 0.01
    theta = np.ones(4)
    adam = Adam(4, 0.1, 0.0, 1.0, np.float64, weight_decay=np.array([0.5, 0.5, 0.0, 0.0]))
    adam.step(theta, np.array([0.0, 0.3, 0.3, 0.0]), factor=0.5)  # the rate is 0.05
    np.testing.assert_allclose(theta, [0.975, 0.925, 0.95, 1], rtol=1e-5)
    theta = np.ones(3)
    Adam(3, 0.1, 0.0, 1.0, np.float64).step(theta, np.array([0.5, -0.1, 2.0]), factor=0.25)
    np.testing.assert_allclose(theta, 1 - 0.025 * np.array([1, -1, 1]), rtol=1e-5)  # the first update of Adam is the rate


def test_ten_steps_of_adam():
    """Each with its own dropout and a rate and a clip that matter."""
    c = replace(TINY, learning_rate=0.02, decay=0.05, clip=0.02)
    theta, shapes = make_network(c)
    batch = make_batch(c, (5, 1, 7))
    batch = batch._replace(gender_weight=batch.emotion_weight)
    adam = Adam(theta.size, c.learning_rate, c.decay, c.clip, np.float64)
    expected = theta.copy()
    m = v = np.zeros(theta.size)
    clipped = []
    for step in range(10):
        _, gradient = loss_of(theta, shapes, c, batch, np.random.default_rng(step))
        adam.step(theta, gradient)
        *_, gradients = by_reference(expected, shapes, c, batch, drawn_masks(c, batch.bounds, step))
        g = np.concatenate([gradients[name].ravel() for name in shapes])
        clipped.append(np.mean(np.abs(g) > c.clip))
        expected, m, v = map(
            np.array, reference.adam_step(expected, m, v, g, step, c.learning_rate, decay=c.decay, clip=c.clip)
        )
        assert_close(theta, expected, TOLERANCE, f"theta after step {step + 1}")
    assert_close(adam.m, m, TOLERANCE, "m")
    assert_close(adam.v, v, TOLERANCE, "v")
    assert adam.updates == 10
    assert 0.05 < np.mean(clipped) < 0.95


# The network's input


FLOOR = -3.0


def assembled(
    pieces: list[tuple[int, int, int]], rows: Array, mean: Array, std: Array, levels: Array | None = None
) -> list[Array]:
    """Utterances of (first row, rows, frames)."""
    starts, counts, lengths = (np.array(column) for column in zip(*pieces, strict=True))
    bounds = bounds_of(lengths)
    X = np.full((bounds[-1], len(mean)), np.nan)
    levels = np.zeros(len(pieces)) if levels is None else levels
    assemble(X, bounds, np.diff(bounds), rows, starts, counts, levels, FLOOR, mean, 1 / std)
    return utterances_of(X, bounds)


def expected_input(piece: tuple[int, int, int], rows: Array, mean: Array, std: Array) -> Array:
    first, count, length = piece
    padding = np.full((length - count, rows.shape[1]), FLOOR)
    return (reference.deltas(np.concatenate([rows[first : first + count], padding])) - mean) / std


PIECES = {
    "several utterances": [(0, 12, 12), (12, 10, 10), (22, 18, 18)],  # their rows touch: a leak would show
    "in another order, rows between them": [(28, 11, 11), (2, 9, 9), (15, 10, 10)],
    "nine frames": [(0, 9, 9)],
    "fewer than nine": [(0, 8, 8), (8, 5, 5), (13, 1, 1), (14, 2, 2), (16, 12, 12), (28, 4, 4)],
    "padded": [(0, 12, 20), (12, 10, 11), (22, 3, 18)],
    "padded, fewer than nine": [(5, 3, 8), (8, 1, 4), (9, 0, 3)],
}


@pytest.mark.parametrize("pieces", PIECES.values(), ids=PIECES.keys())
def test_input_is_statics_deltas_and_delta_deltas_of_each_utterance_alone(pieces: list[tuple[int, int, int]]):
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((40, 3))
    mean, std = rng.standard_normal(9), rng.uniform(0.5, 2, 9)
    for got, piece in zip(assembled(pieces, rows, mean, std), pieces, strict=True):
        np.testing.assert_allclose(got, expected_input(piece, rows, mean, std), rtol=0, atol=1e-10)


def test_of_more_bands_the_first_are_taken_and_brought_to_their_level():
    rng = np.random.default_rng(2)
    rows, levels = rng.standard_normal((40, 5)), np.array([4.0, -2.0, 0.5])
    pieces, mean, std = [(0, 12, 20), (12, 10, 10), (22, 3, 3)], rng.standard_normal(9), rng.uniform(0.5, 2, 9)
    for got, piece, level in zip(assembled(pieces, rows, mean, std, levels), pieces, levels, strict=True):
        np.testing.assert_allclose(got, expected_input(piece, rows[:, :3] - level, mean, std), rtol=0, atol=1e-10)


@pytest.mark.parametrize("wider", [0.85, 1.0, 1.2])
@pytest.mark.parametrize("frames", [1, 2, 9, 10, 14])
def test_bands_are_resampled_in_time_and_on_the_mel_axis(frames: int, wider: float):
    rows = np.random.default_rng(3).standard_normal((20, 6))
    S = np.full((frames, 6), np.nan)
    resample_bands(S, rows, 5, 10, wider)
    np.testing.assert_allclose(S, reference.resampled(rows[5:15], frames, wider), rtol=0, atol=1e-12)


def test_an_echo_is_a_sum_over_all_earlier_frames():
    P = np.random.default_rng(4).random((12, 3))
    out = np.full_like(P, np.nan)
    add_echo(out, P, 0.7, 0.4)
    np.testing.assert_allclose(out, reference.with_echo(P, 0.7, 0.4), rtol=1e-12)


def test_frames_after_the_recording_are_the_floor_and_a_constant_has_no_deltas():
    rows, mean, std = np.full((30, 2), 5.0), np.zeros(6), np.ones(6)
    padded, constant = assembled([(0, 6, 20), (6, 24, 24)], rows, mean, std)
    np.testing.assert_array_equal(padded[6:, :2], FLOOR)
    np.testing.assert_allclose(padded[11:, 2:], 0, atol=1e-12)
    np.testing.assert_allclose(constant[:, 2:], 0, atol=1e-12)
    np.testing.assert_array_equal(constant[:, :2], 5.0)


def test_the_deltas_of_a_parabola_are_its_derivatives():
    t = np.arange(20.0)
    rows = (3 * t**2 - 2 * t + 1)[:, None]
    (X,) = assembled([(0, 20, 20)], rows, np.zeros(3), np.ones(3))
    np.testing.assert_allclose(X[4:16, 1], 6 * t[4:16] - 2, rtol=1e-12)
    np.testing.assert_allclose(X[:, 2], 6, rtol=1e-12)
