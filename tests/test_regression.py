"""The regression on statistics beside the network: statistics, loss, solution, and what it does to training and answers."""

import dataclasses
import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import SMALL, SMALL_FORWARD, Array, bounds_of, sound, unbalanced

from npser import adaptation, checkpoint
from npser.dataset import Dataset
from npser.network import Network
from npser.networks import li2019, statistics
from npser.split import Split
from npser.train import Run, fit

BESIDE = dataclasses.replace(SMALL, level=True, statistics=True, epochs=2, warp=0.1, channel=0.5, splice=0.5)


def test_statistics_are_the_mean_the_deviation_and_the_change_of_each_band():
    rng = np.random.default_rng(0)
    lengths = [5, 0, 1, 2, 8]
    X, bounds = rng.normal(3, 2, (sum(lengths), 4)), bounds_of(lengths)
    found = statistics.of_utterances(X, bounds)
    assert found.shape == (5, 12)
    for u, L in enumerate(lengths):
        for k in range(4):
            x = [float(value) for value in X[bounds[u] : bounds[u + 1], k]]
            mean = sum(x) / max(L, 1)
            deviation = math.sqrt(sum((value - mean) ** 2 for value in x) / max(L, 1))
            change = math.sqrt(sum((b - a) ** 2 for a, b in itertools.pairwise(x)) / max(L - 1, 1))
            np.testing.assert_allclose(found[u, k::4], [mean, deviation, change], rtol=1e-12, atol=1e-12)


def test_statistics_of_a_window_do_not_depend_on_what_is_computed_with_it():
    X = np.random.default_rng(1).normal(0, 1, (7, 50, 99)).astype(np.float32)
    for k in range(7):
        assert statistics.of_windows(X[k : k + 1]).tobytes() == statistics.of_windows(X)[k : k + 1].tobytes()


def problem(seed: int = 2, n: int = 60) -> tuple[Array, Array, Array]:
    """Statistics of quite different sizes, their classes and weights."""
    rng = np.random.default_rng(seed)
    y, weight = rng.integers(0, 3, n), rng.uniform(0.2, 2, n)
    Z = rng.normal(0, 1, (n, 6)) * [1, 100, 0.01, 1, 1, 1] + [0, 5, 0, -3, 0, 0]
    Z[:, 0] += 0.8 * y
    Z[:, 5] = 7  # does not vary
    return Z, y, weight


def test_the_gradient_of_its_loss():
    Z, y, weight = problem()
    theta, step = np.random.default_rng(3).normal(0, 0.05, 7 * 3), 1e-6
    given = Z / [1, 100, 0.01, 1, 1, 1], y, weight / weight.sum(), 3
    _, gradient = statistics.loss(theta, *given)
    for k, found in enumerate(gradient):
        there = [statistics.loss(theta + sign * step * (np.arange(21) == k), *given)[0] for sign in (1, -1)]
        assert found == pytest.approx((there[0] - there[1]) / (2 * step), rel=1e-5, abs=1e-9)


def test_its_loss_is_the_weighted_cross_entropy_and_the_ridge():
    Z, y, weight = problem(n=5)
    W, b = np.random.default_rng(4).normal(0, 0.01, (6, 3)), np.array([0.1, -0.2, 0.3])
    expected = statistics.RIDGE / 2 * sum(float(w) ** 2 for w in W.ravel())
    for z, k, share in zip(Z, y, weight, strict=True):
        logits = [sum(float(v * w) for v, w in zip(z, W[:, j], strict=True)) + b[j] for j in range(3)]
        expected -= share * (logits[k] - math.log(sum(math.exp(value) for value in logits)))
    assert statistics.loss(np.concatenate([W.ravel(), b]), Z, y, weight, 3)[0] == pytest.approx(expected, rel=1e-12)


def test_the_solution_has_no_gradient_left_and_no_scale_matters():
    Z, y, weight = problem()
    found = statistics.solve(Z, y, weight, 3)
    assert all(value.dtype == np.float32 for value in found.values())
    deviation = np.where(Z.std(axis=0) > 1e-4, Z.std(axis=0), 1)
    standard = (Z - Z.mean(axis=0)) / deviation
    theta = np.concatenate([(found["W"] * deviation[:, None]).ravel(), found["b"] + Z.mean(axis=0) @ found["W"]])
    value, gradient = statistics.loss(theta, standard, y, weight / weight.sum(), 3)
    assert np.abs(gradient).max() < 1e-4
    assert value < 0.95 * statistics.loss(np.zeros(21), standard, y, weight / weight.sum(), 3)[0]
    other = statistics.solve(10 * Z + 3, y, weight, 3)
    logits = [Z @ found["W"] + found["b"], (10 * Z + 3) @ other["W"] + other["b"]]
    np.testing.assert_allclose(
        logits[0] - logits[0].mean(axis=1, keepdims=True), logits[1] - logits[1].mean(axis=1, keepdims=True), atol=1e-2
    )
    twice = statistics.solve(np.tile(Z, (2, 1)), np.tile(y, 2), np.tile(weight, 2), 3)
    np.testing.assert_allclose(twice["W"], found["W"], rtol=0.05, atol=1e-4)


def test_the_answer_is_the_weighted_mean_of_the_logits_as_far_as_the_lowest_bands_move():
    rng = np.random.default_rng(5)
    emotion, Z, W, b = rng.normal(0, 1, (5, 3)), rng.normal(0, 1, (5, 18)), rng.normal(0, 1, (18, 3)), rng.normal(0, 1, 3)
    moves = [0.0, 0.3, 0.35, 0.4, 2.0]
    Z[:, 6:10] = np.array(moves)[:, None] + [0.1, -0.1, 0.05, -0.05]  # deviations of the first four of six bands
    found = statistics.added(emotion, Z, W, b)
    share = np.array([0, 0, 0.25, 0.5, 0.5])[:, None]
    np.testing.assert_allclose(found, (1 - share) * emotion + share * (Z @ W + b), atol=1e-6)


def test_an_answer_does_not_depend_on_what_is_asked_with_it():
    rng = np.random.default_rng(5)
    emotion, Z, W, b = (rng.normal(0, 1, shape).astype(np.float32) for shape in ((50, 4), (50, 297), (297, 4), (4,)))
    Z[:, 99:] += 1  # the lowest bands move
    together = statistics.added(emotion, Z, W, b)
    alone = [statistics.added(emotion[k : k + 1], Z[k : k + 1], W, b) for k in range(50)]
    assert together.tobytes() == np.concatenate(alone).tobytes()


def test_it_counts_for_more_the_better_the_voice_is_known():
    rng = np.random.default_rng(6)
    emotion, Z, W, b = (rng.normal(0, 1, shape).astype(np.float32) for shape in ((3, 4), (3, 297), (297, 4), (4,)))
    Z[:, 99:103] = 1  # the lowest bands move
    shares = np.array([0, 0.5, 1])
    each = statistics.familiar(W, b, shares)
    together = statistics.added(emotion, Z, *each)
    for k, times in enumerate((1, 2, 3)):
        own = statistics.familiar(W, b, shares[k])
        np.testing.assert_allclose(own[0], times * W)
        assert statistics.added(emotion[k : k + 1], Z[k : k + 1], *own).tobytes() == together[k : k + 1].tobytes()
        np.testing.assert_allclose(together[k], 0.5 * emotion[k] + 0.5 * times * (Z[k] @ W + b), rtol=1e-4, atol=1e-4)
    assert statistics.added(emotion[:1], Z[:1], W, b).tobytes() == together[:1].tobytes()


def test_of_two_points_the_ridge_holds_the_slope():
    """Of Z = -1 and 1 the loss is ln(1 + e^-2w) + 0.03 w^2, which is least where 0.03 w is the logistic function of -2w."""
    found = statistics.solve(np.array([[-1.0], [1.0]]), np.array([0, 1]), np.ones(2), 2)
    w = float(found["W"][0, 1])
    np.testing.assert_allclose(found["W"], [[-w, w]], atol=1e-5)
    np.testing.assert_allclose(found["b"], 0, atol=1e-5)
    assert 0.03 * w == pytest.approx(1 / (1 + math.exp(2 * w)), abs=1e-4)


def trained(c: Any, folder: Path, threads: int = 1, epochs: int | None = None) -> tuple[Dataset, Split, checkpoint.Checkpoint]:
    folder.mkdir(exist_ok=True)
    c = c if epochs is None else dataclasses.replace(c, epochs=epochs)
    data, split = unbalanced(c)
    with ThreadPoolExecutor(threads) as pool:
        fit(data, split, c, Run(folder, pool, lambda _: None), {}, resume=(folder / "last.safetensors").exists())
    return data, split, checkpoint.load(folder / "model.safetensors")


@pytest.mark.parametrize("c", [BESIDE, dataclasses.replace(SMALL_FORWARD, statistics=True, epochs=2)], ids=["BLSTM", "none"])
def test_the_network_beside_it_learns_as_it_does_alone(tmp_path: Path, c: Any):
    _, _, alone = trained(dataclasses.replace(c, statistics=False), tmp_path / "alone")
    _, _, both = trained(c, tmp_path / "both", threads=2)
    assert both.tensors.keys() - alone.tensors.keys() == {"statistics.W", "statistics.b"}
    for name, value in alone.tensors.items():
        assert value.tobytes() == both.tensors[name].tobytes(), name
    assert np.abs(both.tensors["statistics.W"]).max() > 1e-3


def test_it_is_solved_by_plain_and_by_augmented_epochs_of_the_training_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    given: list[tuple[Array, Array, Array, int]] = []
    solve = statistics.solve
    monkeypatch.setattr(statistics, "solve", lambda *args: given.append(args) or solve(*args))
    data, split, found = trained(BESIDE, tmp_path / "run")
    ((Z, y, weight, classes),) = given
    n = len(split.train)
    assert (len(Z), classes) == (statistics.DRAWS * n, 3)
    network = Network.of(found)
    X, bounds, *_ = network.inputs(data.store, data.first_windows(np.array(split.train)))
    plain = statistics.of_utterances(X[:, :128], bounds)

    def rows(part: Array) -> set[bytes]:
        return {np.round(row, 4).tobytes() for row in part + 0.0}

    assert rows(Z[:n]) == rows(plain)
    assert not rows(Z[n : 2 * n]) & rows(plain)
    assert not rows(Z[n : 2 * n]) & rows(Z[2 * n : 3 * n])
    for k in range(statistics.DRAWS):
        part = slice(k * n, (k + 1) * n)
        assert sorted(y[part]) == sorted(data.emotion_y[split.train])
        np.testing.assert_allclose(weight[part].sum(), 1, rtol=1e-5)


def test_each_voice_has_the_statistics_of_all_its_recordings_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    met: list[Any] = []
    drawn = adaptation.drawn
    monkeypatch.setattr(adaptation, "drawn", lambda *args: met.append(args[-1]) or drawn(*args))
    trained(dataclasses.replace(BESIDE, adapt=True, epochs=1), tmp_path / "run")
    assert met == [adaptation.HEARD[-1:]] * statistics.DRAWS + [adaptation.HEARD]


def test_many_recordings_are_learnt_from_fewer_times():
    assert [li2019.draws(BESIDE, n) for n in (10, 20_000, 30_000, 60_000, 10**6)] == [5, 5, 3, 1, 1]
    assert li2019.draws(SMALL, 10) == 0


def test_a_run_that_was_stopped_keeps_its_solution(tmp_path: Path):
    constant = dataclasses.replace(BESIDE, schedule="constant", warmup=0.0)
    trained(constant, tmp_path / "once")
    trained(constant, tmp_path / "twice", epochs=1)
    trained(constant, tmp_path / "twice")
    once, twice = (checkpoint.load(tmp_path / run / "model.safetensors").tensors for run in ("once", "twice"))
    assert {name: value.tobytes() for name, value in once.items()} == {name: value.tobytes() for name, value in twice.items()}


def test_it_tells_sounds_apart_that_it_has_learnt():
    rng = np.random.default_rng(6)
    X = [sound(2000, k).reshape(40, 50)[:, :6] * 10 + rng.normal(0, 0.1, (40, 6)) for k in (0, 3) for _ in range(8)]
    Z = np.concatenate([statistics.of_windows(x[None]) for x in X])
    y = np.repeat([0, 1], 8)
    found = statistics.solve(Z, y, np.ones(16), 2)
    assert ((Z @ found["W"] + found["b"]).argmax(axis=1) == y).all()


def test_padding_has_no_statistics():
    with pytest.raises(ValueError, match="pad = false"):
        dataclasses.replace(BESIDE, pad=True)
    assert "logistic regression" in li2019.describe(BESIDE)
