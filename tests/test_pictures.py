"""Layers over time and bands: values by slow literal loops, gradients by differences, memory by blocks."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from helpers import LENGTHS, Array, bounds_of, make_network, utterances_of
from test_gradients import check

from npser import layers, model
from npser.layers import batch_norm, conv2d, embedding, last_states, leaky_relu, max_over_time, maxpool2d, quarters
from npser.networks import numpy_layers

BOUNDS = bounds_of(LENGTHS)
EMPTY = bounds_of([2, 0, 3, 0, 1, 1, 4, 5, 0])  # some utterances have no frame
WINDOWS = [  # C, n_time, n_band, stride, valid, of 12 // C bands
    (1, 12, 16, 1, False),  # longer than the utterances, and wider than the bands
    (2, 3, 2, 1, False),
    (3, 4, 3, 2, False),
    (1, 5, 3, 3, False),
    (1, 1, 1, 1, False),
    (2, 2, 3, 1, True),
    (1, 4, 5, 2, True),
    (1, 3, 4, 5, True),  # a stride longer than the window
]


def pictures(X: Array, bounds: Array, C: int) -> Iterator[Array]:
    """Each utterance as (frames, bands, channels)."""
    for rows in utterances_of(X, bounds):
        yield rows.reshape(len(rows), X.shape[1] // C, C)


def convolved(X: Array, bounds: Array, W: Array, b: Array, stride: int, valid: bool) -> tuple[list[Array], list[int]]:
    """The sum over the window, output by output: rows, and how many each utterance has."""
    C, n_time, n_band, _ = W.shape
    rows, counts = [], []
    for x in pictures(X, bounds, C):
        L, F = x.shape[:2]
        back = (0, 0) if valid else (n_time // 2, n_band // 2)
        times = range(0, L - n_time + 1 if valid else L, stride)
        bands = range(0, F - n_band + 1 if valid else F, stride)
        for t, f in itertools.product(times, bands):
            total = b.copy()
            for j, i in itertools.product(range(n_time), range(n_band)):
                frame, band = min(max(t + j - back[0], 0), L - 1), min(max(f + i - back[1], 0), F - 1)
                total += x[frame, band] @ W[:, j, i]
            rows.append(total)
        counts.append(len(times))
    return rows, counts


@pytest.fixture(params=[1, 100, layers.BLOCK], ids=["band by band", "small blocks", "one block"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "BLOCK", request.param)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("bounds", [BOUNDS, EMPTY], ids=["ragged", "some empty"])
@pytest.mark.parametrize(("C", "n_time", "n_band", "stride", "valid"), WINDOWS)
def test_conv2d_is_the_sum_over_its_window(C: int, n_time: int, n_band: int, stride: int, valid: bool, bounds: Array):
    rng = np.random.default_rng(0)
    X, W, b = rng.standard_normal((bounds[-1], 12)), rng.standard_normal((C, n_time, n_band, 5)), rng.standard_normal(5)
    out, outer, _ = conv2d(X, bounds, W, b, stride, valid)
    rows, counts = convolved(X, bounds, W, b, stride, valid)
    assert np.diff(outer).tolist() == counts
    np.testing.assert_allclose(out.reshape(-1, 5), np.reshape(rows, (-1, 5)), atol=1e-12)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize(("C", "n_time", "n_band", "stride", "valid"), WINDOWS)
def test_gradients_of_conv2d(C: int, n_time: int, n_band: int, stride: int, valid: bool):
    check(lambda X, W, b: conv2d(X, BOUNDS, W, b, stride, valid), (BOUNDS[-1], 12), (C, n_time, n_band, 4), (4,))


def test_gradients_of_conv2d_where_some_utterances_are_empty():
    check(lambda X, W, b: conv2d(X, EMPTY, W, b), (EMPTY[-1], 12), (2, 3, 4, 4), (4,))


@pytest.mark.parametrize(("stride", "valid"), [(1, False), (2, True)])
def test_conv2d_of_no_rows_at_all_has_none(stride: int, valid: bool):
    bounds, W = np.array([0, 0, 0]), np.ones((2, 3, 4, 5))
    out, outer, backward = conv2d(np.empty((0, 12)), bounds, W, np.zeros(5), stride, valid)
    assert outer.tolist() == [0, 0, 0]
    assert len(out) == 0
    dX, dW, db = backward(out)
    assert dX.shape == (0, 12)
    assert not dW.any()
    assert not db.any()


def test_conv2d_without_the_gradient_of_its_input_has_the_same_other_gradients():
    rng = np.random.default_rng(0)
    out, _, backward = conv2d(rng.standard_normal((BOUNDS[-1], 12)), BOUNDS, rng.standard_normal((2, 3, 3, 4)), np.zeros(4))
    dout = rng.standard_normal(out.shape)
    for with_dX, without in zip(backward(dout)[1:], backward(dout, need_dX=False)[1:], strict=True):
        np.testing.assert_array_equal(with_dX, without)


def test_conv2d_reads_nothing_of_other_utterances():
    rng = np.random.default_rng(0)
    X, W = rng.standard_normal((BOUNDS[-1], 12)), rng.standard_normal((1, 5, 4, 3))
    together = conv2d(X, BOUNDS, W, np.zeros(3))[0]
    alone = [conv2d(x, bounds_of([len(x)]), W, np.zeros(3))[0] for x in utterances_of(X, BOUNDS)]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-12)
    X[BOUNDS[4] : BOUNDS[5]] = np.nan
    touched = np.isnan(conv2d(X, BOUNDS, W, np.zeros(3))[0]).any(axis=1)
    assert np.flatnonzero(touched).tolist() == list(range(BOUNDS[4], BOUNDS[5]))


def test_conv2d_of_single_precision_is_single_and_close_to_double():
    rng = np.random.default_rng(0)
    X, W, b = rng.standard_normal((BOUNDS[-1], 12)), rng.standard_normal((2, 4, 3, 5)), rng.standard_normal(5)
    (out, _, backward), (single, _, single_backward) = (
        conv2d(X.astype(kind), BOUNDS, W.astype(kind), b.astype(kind)) for kind in (np.float64, np.float32)
    )
    for found, expected in zip((single, *single_backward(single)), (out, *backward(out)), strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(("stride", "valid"), [(1, False), (2, False), (1, True)])
def test_conv2d_reads_no_row_that_is_not_there(stride: int, valid: bool, monkeypatch: pytest.MonkeyPatch):
    """The last utterance has none, and would begin behind the last row."""
    read: list[Array] = []

    def watched(kernel: Callable[..., None]) -> Callable[..., None]:
        def run(a: Array, b: Array, rows: Array, *arguments: Any) -> None:
            read.append(rows)
            kernel(a, b, rows, *arguments)

        return run

    for name in ("unfold_bands", "add_folded_bands"):
        monkeypatch.setattr(layers, name, watched(getattr(layers, name)))
    out, _, backward = conv2d(np.ones((EMPTY[-1], 12)), EMPTY, np.ones((2, 3, 4, 5)), np.zeros(5), stride, valid)
    backward(out)
    assert len(read) == 3
    assert all(0 <= rows.min() <= rows.max() < EMPTY[-1] for rows in read)


# The largest of windows


def largest(x: Array, n_time: int, n_band: int) -> Array:
    """Of each whole window of x (L, F, C)."""
    L, F, C = x.shape
    windows = [
        x[t : t + n_time, f : f + n_band].reshape(-1, C).max(axis=0)
        for t in range(0, L - n_time + 1, n_time)
        for f in range(0, F - n_band + 1, n_band)
    ]
    return np.reshape(windows, (L // n_time, F // n_band * C))


@pytest.mark.parametrize(("C", "n_time", "n_band"), [(1, 2, 2), (2, 3, 4), (3, 1, 3), (4, 2, 1), (2, 2, 6)])
def test_maxpool2d(C: int, n_time: int, n_band: int):
    X = np.random.default_rng(0).standard_normal((BOUNDS[-1], 12))
    out, pooled, _ = maxpool2d(X, BOUNDS, C, n_time, n_band)
    np.testing.assert_array_equal(out, np.concatenate([largest(x, n_time, n_band) for x in pictures(X, BOUNDS, C)]))
    assert np.diff(pooled).tolist() == [n // n_time for n in LENGTHS]
    check(lambda X: maxpool2d(X, BOUNDS, C, n_time, n_band), X.shape)


@pytest.mark.parametrize("bounds", [BOUNDS, EMPTY], ids=["ragged", "some empty"])
@pytest.mark.parametrize("C", [1, 2, 4])  # an odd number of bands as well
def test_quarters(C: int, bounds: Array):
    X, expected = np.random.default_rng(0).standard_normal((bounds[-1], 12)), []
    for x in pictures(X, bounds, C):
        t, f = len(x) // 2, x.shape[1] // 2
        corners = [x[i * t : (i + 1) * t, k * f : (k + 1) * f].reshape(-1, C) for i in (0, 1) for k in (0, 1)]
        expected.append(np.concatenate([corner.max(axis=0) for corner in corners]) if t else np.zeros(4 * C))
    np.testing.assert_array_equal(quarters(X, bounds, C)[0], expected)
    check(lambda X: quarters(X, bounds, C), X.shape)


@pytest.mark.parametrize("bounds", [BOUNDS, EMPTY], ids=["ragged", "some empty"])
def test_max_over_time(bounds: Array):
    X = np.random.default_rng(0).standard_normal((bounds[-1], 5)) - 3
    expected = [x.max(axis=0) if len(x) else np.zeros(5) for x in utterances_of(X, bounds)]
    np.testing.assert_array_equal(max_over_time(X, bounds)[0], expected)
    check(lambda X: max_over_time(X, bounds), X.shape)


@pytest.mark.parametrize("bounds", [BOUNDS, EMPTY], ids=["ragged", "some empty"])
def test_last_states(bounds: Array):
    X = np.random.default_rng(0).standard_normal((bounds[-1], 6))
    expected = [[*x[-1, :3], *x[0, 3:]] if len(x) else [0.0] * 6 for x in utterances_of(X, bounds)]
    np.testing.assert_array_equal(last_states(X, bounds)[0], expected)
    check(lambda X: last_states(X, bounds), X.shape)


def test_of_equal_numbers_the_first_wins():
    _, _, backward = maxpool2d(np.zeros((2, 4)), bounds_of([2]), 1, 2, 2)
    np.testing.assert_array_equal(backward(np.ones((1, 2)))[0], [[1, 0, 1, 0], [0, 0, 0, 0]])


# Normalisation, activation, symbols


def test_batch_norm_has_rows_of_mean_beta_and_deviation_gamma():
    rng = np.random.default_rng(0)
    X, gamma, beta = 3 + 2 * rng.standard_normal((50, 4)), rng.uniform(0.5, 2, 4), rng.standard_normal(4)
    out, (mean, variance), _ = batch_norm(X, gamma, beta, epsilon=1e-12)
    np.testing.assert_allclose(out.mean(axis=0), beta, atol=1e-12)
    np.testing.assert_allclose(out.std(axis=0), gamma, rtol=1e-9)
    np.testing.assert_allclose(mean, [sum(column) / 50 for column in X.T.tolist()])
    np.testing.assert_allclose(variance, [sum((v - m) ** 2 for v in column) / 50 for column, m in zip(X.T, mean, strict=True)])
    again, held, _ = batch_norm(X[:7], gamma, beta, (mean, variance), epsilon=1e-12)
    np.testing.assert_allclose(again, out[:7])
    assert held[0] is mean
    assert held[1] is variance


@pytest.mark.parametrize("held", [None, (np.linspace(-1, 1, 4), np.linspace(0.5, 2, 4))], ids=["of the batch", "held"])
def test_gradients_of_batch_norm(held: tuple[Array, Array] | None):
    check(lambda X, gamma, beta: batch_norm(X, gamma, beta, held), (9, 4), (4,), (4,))


@pytest.mark.parametrize("slope", [0.0, 0.1])
def test_leaky_relu(slope: float):
    np.testing.assert_allclose(leaky_relu(np.array([-2.0, 0, 3]), slope)[0], [-2 * slope, 0, 3])
    check(lambda X: leaky_relu(X, slope), (9, 4))


@pytest.mark.parametrize("symbols", [[2, 0, 2, 3, 2, 0], [1], []])
def test_embedding(symbols: list[int]):
    E = np.arange(20.0).reshape(5, 4)
    out, backward = embedding(np.array(symbols, np.int64), E)
    np.testing.assert_array_equal(out, E[symbols] if symbols else np.empty((0, 4)))
    dout, expected = np.random.default_rng(0).standard_normal(out.shape), np.zeros_like(E)
    for symbol, row in zip(symbols, dout, strict=True):
        expected[symbol] += row
    np.testing.assert_allclose(backward(dout)[0], expected)


def test_layers_keep_single_precision():
    bounds, ones = bounds_of([4, 0, 3]), np.ones(6, np.float32)
    X = np.random.default_rng(0).standard_normal((7, 6)).astype(np.float32)
    for run in (
        lambda: leaky_relu(X, 0.1),
        lambda: batch_norm(X, ones, ones),
        lambda: batch_norm(X, ones, ones, (ones, ones)),
        lambda: maxpool2d(X, bounds, 2, 2, 3),
        lambda: quarters(X, bounds, 2),
        lambda: max_over_time(X, bounds),
        lambda: last_states(X, bounds),
        lambda: embedding(np.arange(7), X),
    ):
        out, *_, backward = run()
        assert {part.dtype for part in (out, *backward(out))} == {np.dtype(np.float32)}


# In plain NumPy


@pytest.mark.parametrize("frames", range(8))
@pytest.mark.parametrize("bands", [2, 3, 4, 5])
def test_quarters_in_plain_numpy_are_those_of_the_engine(frames: int, bands: int):
    X = np.random.default_rng(0).standard_normal((frames, bands * 3))
    found = numpy_layers.quarters(X.reshape(1, frames, bands, 3))
    np.testing.assert_array_equal(found, quarters(X, bounds_of([frames]), 3)[0])


@pytest.mark.parametrize("valid", [False, True])
def test_a_convolution_in_plain_numpy_of_no_frames_has_none(valid: bool):
    tensors = {"conv.W": np.ones((2, 3, 4, 5)), "conv.b": np.zeros(5)}
    assert numpy_layers.conv2d(tensors, "conv", np.empty((3, 0, 6, 2)), valid=valid).shape[:2] == (3, 0)


@pytest.mark.parametrize("network", ["satt2017", "chen2018", "yenigalla2018"])
def test_few_frames_are_answered_alike_in_plain_numpy_and_by_the_engine(network: str):
    module, rng = model.NETWORKS[network], np.random.default_rng(0)
    for c in module.SMALL.values():
        theta, shapes = make_network(c, 0)
        state = model.state_of(c, 4, 0)
        p, tensors = model.views(theta, shapes, state), model.named(theta, shapes) | state
        for frames in (1, 2, 3, 7, 8, 9, 16, 33, 41, 42):
            X = rng.standard_normal((frames, c.d_spec))
            out, _ = module.forward(p, c, X, bounds_of([frames]))
            np.testing.assert_allclose(module.plain(tensors, c, X[None])[0], module.decide(p, c, out)[0], atol=1e-9)


@pytest.mark.parametrize("network", ["satt2017", "chen2018", "yenigalla2018", "mirsamadi2017", "li2019", "li2019_feedforward"])
def test_an_answer_in_plain_numpy_does_not_depend_on_what_is_computed_with_it(network: str):
    module, rng = model.NETWORKS[network], np.random.default_rng(1)
    for c in module.SMALL.values():
        theta, shapes = make_network(c, 0)
        tensors = {name: np.float32(value) for name, value in (model.named(theta, shapes) | model.state_of(c, 4, 0)).items()}
        X = rng.standard_normal((7, 40, c.d_spec)).astype(np.float32)
        together = module.plain(tensors, c, X)[0]
        for k in range(7):
            assert module.plain(tensors, c, X[k : k + 1])[0].tobytes() == together[k : k + 1].tobytes()


# Memory


def test_conv2d_holds_windows_of_a_few_bands_only(monkeypatch: pytest.MonkeyPatch):
    sizes: list[int] = []
    kernel: Callable[..., None] = layers.unfold_bands

    def watched(out: Array, *arguments: Any) -> None:
        sizes.append(out.size)
        kernel(out, *arguments)

    monkeypatch.setattr(layers, "unfold_bands", watched)
    monkeypatch.setattr(layers, "BLOCK", 10_000)
    X, W = np.zeros((60, 64 * 2)), np.zeros((2, 8, 12, 3))
    out, _, backward = conv2d(X, bounds_of([60]), W, np.zeros(3))
    backward(out)
    assert max(sizes) <= 10_000
    assert len(sizes) == 2 * 11


def test_conv2d_holds_maps_of_a_few_bands_only(monkeypatch: pytest.MonkeyPatch):
    sizes: list[int] = []
    kernel: Callable[..., None] = layers.collect_bands

    def watched(out: Array, Y: Array, *arguments: Any) -> None:
        sizes.append(Y.size)
        kernel(out, Y, *arguments)

    monkeypatch.setattr(layers, "collect_bands", watched)
    monkeypatch.setattr(layers, "BLOCK", 20_000)
    conv2d(np.zeros((60, 16)), bounds_of([60]), np.zeros((1, 4, 3, 100)), np.zeros(100))
    assert max(sizes) <= 20_000
    assert len(sizes) == 6
