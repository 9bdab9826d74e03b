"""Stacked denoising autoencoders: their gradient, what they are fed and give back, and what they learn."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import reference_ghosh2016 as reference
from helpers import (
    UNCOMPILED,
    Array,
    assert_close,
)
from sklearn.decomposition import PCA

from npser.layers import squared_error
from npser.networks import autoencoder as ae


def stack(sizes: tuple[int, ...], seed: int = 0, kind: type = np.float64) -> ae.Stack:
    """An autoencoder as it starts: from sizes[0] inputs to a code of sizes[-1]."""
    rng = np.random.default_rng(seed)
    encoders = []
    for pair in itertools.pairwise(sizes):
        limit = np.sqrt(6 / sum(pair))
        encoders.append((rng.uniform(-limit, limit, pair).astype(kind), np.zeros(pair[1], kind)))
    return ae.Stack(encoders, ae.decoders_for(encoders, rng))


def arrays_of(layers: list[ae.Layer]) -> list[Array]:
    return [array for layer in layers for array in layer]


@pytest.mark.parametrize("end", ["linear", "tanh"])
def test_the_gradient_of_the_reconstruction(end: str) -> None:
    rng = np.random.default_rng(1)
    layers = [(W, b + 0.1) for W, b in stack((6, 5, 3)).whole]
    assert [W.shape for W, _ in layers] == [(6, 5), (5, 3), (3, 5), (5, 6)]
    clean = rng.standard_normal((4, 6))
    noisy = ae.corrupted(clean, 0.3, rng)
    error, grads = ae.error_and_gradients(layers, noisy, clean, 0.2, end)
    expected, gradients = reference.reconstruction_error(layers, noisy, clean, 0.2, end)
    assert error == pytest.approx(expected, rel=1e-12)
    for grad, other in zip(grads, gradients, strict=True):
        assert_close(grad, other, 1e-10)
        assert np.abs(grad).max() > 0
    for place, grad in enumerate(grads):
        direction = rng.standard_normal(grad.shape)

        def moved(h: float, place: int = place, direction: Array = direction) -> float:
            arrays = [array + h * direction if k == place else array for k, array in enumerate(arrays_of(layers))]
            return ae.error_and_gradients(list(zip(arrays[::2], arrays[1::2], strict=True)), noisy, clean, 0.2, end)[0]

        numeric = (moved(3e-6) - moved(-3e-6)) / 6e-6
        assert float((grad * direction).sum()) == pytest.approx(numeric, abs=1e-6 * float(np.linalg.norm(grad)))


def test_squared_errors_of_shards_add_up() -> None:
    rng = np.random.default_rng(0)
    Y, target = rng.standard_normal((2, 7, 3)).astype(np.float32)
    whole, dY = squared_error(Y, target, 0.1)
    assert whole == pytest.approx(0.1 * ((Y - target) ** 2).sum(), rel=1e-6)
    first, second = squared_error(Y[:4], target[:4], 0.1), squared_error(Y[4:], target[4:], 0.1)
    assert whole == pytest.approx(first[0] + second[0], rel=1e-6)
    np.testing.assert_array_equal(dY, np.concatenate([first[1], second[1]]))
    assert dY.dtype == np.float32


def test_corruption_sets_a_share_of_a_copy_to_zero() -> None:
    X = np.ones((200, 50), np.float32)
    noisy = ae.corrupted(X, 0.2, np.random.default_rng(0))
    assert X.all()
    assert noisy.dtype == np.float32
    assert set(np.unique(noisy)) == {0, 1}
    assert (noisy == 0).mean() == pytest.approx(0.2, abs=0.02)
    assert (noisy == 0).mean(axis=0).min() > 0  # everywhere, and not the same in every frame


def curved(n: int, seed: int) -> Array:
    """Points (n, 12) of a surface of two dimensions that bends through all twelve."""
    rng = np.random.default_rng(seed)
    u, v = rng.uniform(-1, 1, (2, n))
    waves = [np.tanh(a * u + b * v + d) for a, b, d in np.random.default_rng(9).uniform(-3, 3, (12, 3))]
    X = np.stack(waves, axis=1)
    return ((X - X.mean(axis=0)) / X.std(axis=0)).astype(np.float32)


def trained(
    X: Array, threads: int = 1, noise: float = 0.1, epochs: int = 60, stacks: int = 1
) -> tuple[list[ae.Stack], list[float]]:
    made = [stack((X.shape[1], 24, 8, 2), seed, np.float32) for seed in range(stacks)]
    frames = ae.Frames(len(X), lambda _, which: X[which])
    schedule = ae.Schedule(epochs, 300, 1e-2, noise, 1.0, 0)
    with ThreadPoolExecutor(threads) as pool:
        return made, ae.train(made, frames, schedule, pool, lambda items, **_: items)


def rebuilt(layers: list[ae.Layer], X: Array) -> float:
    """Mean squared error of what layers give back of X."""
    return ae.error_and_gradients(layers, X, X, 1 / X.size, "linear")[0]


@pytest.mark.skipif(UNCOMPILED, reason="Adam takes minutes without the compiler")
def test_two_codes_give_back_more_than_two_principal_components_or_random_encoders() -> None:
    X, held_out = curved(2000, 0), curved(500, 1)
    (found,), (error,) = trained(X, noise=0.0)
    pca = PCA(2).fit(X)
    linear = float(np.mean((pca.inverse_transform(pca.transform(held_out)) - held_out) ** 2))
    own = rebuilt(found.whole, held_out)
    assert own < 0.6 * linear
    assert error == pytest.approx(rebuilt(found.whole, X), rel=0.3)
    control = stack((12, 24, 8, 2), 0, np.float32)
    codes, others = (ae.encode(control.encoders, part) for part in (X, held_out))
    codes, others = (np.concatenate([part, np.ones((len(part), 1))], axis=1) for part in (codes, others))
    weights = np.linalg.lstsq(codes, X, rcond=None)[0]  # the best that can be said of X from random codes, in a linear way
    assert own < 0.6 * float(np.mean((others @ weights - held_out) ** 2))


def test_what_is_to_be_given_back_is_clean_and_what_is_fed_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    X, met = 1 + curved(200, 0) ** 2, []
    original = ae.error_and_gradients

    def watched(layers: list[ae.Layer], noisy: Array, clean: Array, weight: float, end: str) -> Any:
        met.append((len(layers), end, noisy, clean))
        return original(layers, noisy, clean, weight, end)

    monkeypatch.setattr(ae, "error_and_gradients", watched)
    trained(X, noise=0.4, epochs=2)
    shards = [met[k : k + 2] for k in range(0, len(met), 2)]  # of an epoch: 128 and 72 frames
    kinds = [(2, "linear"), (2, "tanh"), (2, "tanh"), (6, "linear")]
    assert [pair[0][:2] for pair in shards] == [kind for kind in kinds for _ in range(2)]
    assert [part.shape[1] for (_, _, _, part), _ in shards] == [12, 12, 24, 24, 8, 8, 12, 12]
    masks = []
    for pair in shards:
        noisy, clean = (np.concatenate([part[k] for part in pair]) for k in (2, 3))
        kept = noisy != 0
        np.testing.assert_array_equal(noisy[kept], clean[kept])
        assert kept.mean() == pytest.approx(0.6, abs=0.05)
        masks.append(kept)
        if clean.shape[1] == 12:
            np.testing.assert_array_equal(np.sort(clean, axis=0), np.sort(X, axis=0))  # every frame once
    assert (masks[0] != masks[1]).any()
    assert (masks[0] != masks[6]).any()


def test_neither_threads_nor_stacks_beside_it_change_what_an_autoencoder_learns() -> None:
    X = curved(310, 0)  # batches of 300 and 10, the first in shards of 128, 128 and 44
    (alone,), (error,) = trained(X, epochs=2)
    several, errors = trained(X, threads=3, epochs=2, stacks=2)
    assert errors[0] == error != errors[1]
    for array, other, before in zip(*(arrays_of(one.whole) for one in (alone, several[0], stack((12, 24, 8, 2)))), strict=True):
        np.testing.assert_array_equal(array, other)
        assert (array != before).any()
