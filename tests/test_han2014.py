"""DNN-ELM, against its slow statement. test_networks.py has the commands."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference_han2014 as slow
from helpers import (
    LENGTHS,
    Array,
    assert_close,
    bounds_of,
    sound,
    unbalanced,
    utterances_of,
)

from npser import checkpoint, features, frame_features, model
from npser.augment import augmented
from npser.config import stream
from npser.lite import Model
from npser.network import Network, Targets
from npser.networks import elm, han2014
from npser.networks.han2014 import Config
from npser.split import Split
from npser.store import Store, store_of
from npser.train import Run, fit

CLASSES = 3
FRAMES = Config(n_context=4, share=0.5, d_dense=4)
BANDS = Config(n_context=3, share=0.4, d_dense=5, input="log_mel", d_spec=9)
LIKE = pytest.mark.parametrize("c", [FRAMES, BANDS, replace(FRAMES, share=1.0)], ids=["frames", "bands", "all"])


def batch_of(c: Config, lengths: Any = LENGTHS, seed: int = 0) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((sum(lengths), c.d_spec)), bounds_of(lengths), rng.uniform(0, 9, sum(lengths))


def theta_of(c: Config, seed: int = 1) -> tuple[Array, model.Shapes]:
    shapes = model.shapes_of(c, CLASSES, 0)
    return 0.5 * np.random.default_rng(seed).standard_normal(model.size_of(shapes)), shapes


def utterances(x: tuple[Array, Array, Array]) -> list[tuple[Array, Array]]:
    X, bounds, energy = x
    return list(zip(utterances_of(X, bounds), utterances_of(energy, bounds), strict=True))


def solved_state(c: Config, seed: int = 3) -> dict[str, Array]:
    """A classifier that has learnt something."""
    rng = np.random.default_rng(seed)
    y = rng.integers(CLASSES, size=30)
    S = rng.uniform(0, 1, (30, 4 * CLASSES)) + np.tile(np.eye(CLASSES)[y], 4)
    empty = model.state_of(c, CLASSES, 0)
    return empty | han2014.solve(model.views(*theta_of(c), empty), c, (S, y), None)


# The network


@LIKE
def test_loss_and_gradients_are_those_of_the_slow_statement(c: Config):
    x, (theta, shapes) = batch_of(c), theta_of(c)
    y, weight = np.array([0, 2, 1, -1, 1, 0, 2, 2, 1]), np.linspace(0.5, 1.5, 9)
    usual = max(1.0, c.share * 2.5 * (40 if c is BANDS else 100))
    loss, grads = model.loss(model.views(theta, shapes), c, x, Targets(y, y, weight, weight))
    expected, gradients = slow.loss_and_gradients(
        model.named(theta, shapes), utterances(x), y.tolist(), weight.tolist(), c.n_context, c.share, usual
    )
    assert loss == pytest.approx(expected, rel=1e-12)
    for name, found in model.named(model.flatten(grads, shapes), shapes).items():
        assert np.abs(gradients[name]).max() > 0, name
        assert_close(found, gradients[name], 1e-10, name)


def test_gradients_are_differences_with_dropout_as_well():
    c, direction = replace(FRAMES, dropout=0.4), np.random.default_rng(4)
    x, (theta, shapes) = batch_of(c), theta_of(c)
    y = Targets(*np.array([[0, 2, 1, 1, 1, 0, 2, 2, 1]] * 2), *np.full((2, 9), 1 / 9))

    def loss(theta: Array) -> tuple[float, Array]:
        """The same dropout each time."""
        value, grads = model.loss(model.views(theta, shapes), c, x, y, np.random.default_rng(1))
        return value, model.flatten(grads, shapes)

    _, gradient = loss(theta)
    for name, part in model.named(gradient, shapes).items():
        along = np.zeros_like(theta)
        model.named(along, shapes)[name][:] = direction.standard_normal(part.shape)
        numeric = (loss(theta + 3e-6 * along)[0] - loss(theta - 3e-6 * along)[0]) / 6e-6
        assert gradient @ along == pytest.approx(numeric, rel=0, abs=1e-6 * float(np.linalg.norm(part))), name


@LIKE
def test_the_decision_is_that_of_the_slow_statement(c: Config):
    x, (theta, shapes), state = batch_of(c), theta_of(c), solved_state(c)
    p = model.views(theta, shapes, state)
    out, _ = han2014.forward(p, c, *x)
    expected = [slow.statistics(model.named(theta, shapes), u, c.n_context, c.share) for u in utterances(x)]
    np.testing.assert_allclose(han2014.evidence(p, c, out), expected, atol=1e-12)
    logits, gender = han2014.decide(p, c, out)
    assert gender is None
    outputs = [slow.elm(state["elm.W"], state["elm.U"], s) for s in expected[:2]]
    np.testing.assert_allclose(logits[:2], elm.SHARPNESS * np.array(outputs), atol=1e-5)
    mean, _ = han2014.decide(p, replace(c, classifier="mean"), out)
    np.testing.assert_allclose(np.exp(mean), np.array(expected)[:, 2 * CLASSES : 3 * CLASSES], atol=1e-6)


def test_segments_are_the_loudest_in_the_order_of_time():
    rng = np.random.default_rng(0)
    for share in (0.001, 0.1, 0.3, 0.5, 1.0):
        c = replace(FRAMES, share=share)
        lengths = [1, 3, 4, 5, 6, 40, 0, 25]
        energy, bounds = rng.integers(0, 4, sum(lengths)).astype(float), bounds_of(lengths)  # many are equally loud
        index, found = han2014.segments(c, energy, bounds)
        for u, (first, end) in enumerate(itertools.pairwise(bounds)):
            expected = slow.segments(energy[first:end].tolist(), c.n_context, share) if end > first else []
            assert (index[found[u] : found[u + 1]] - first).tolist() == expected
    assert slow.segments([1, 2, 3], 5, 0.5) == [[0, 0, 1, 2, 2]]
    assert slow.segments([0, 0, 9, 0, 0, 0, 9, 9], 2, 0.3) == [[1, 2], [6, 7]]


def test_a_batch_gives_what_its_utterances_give_one_at_a_time():
    x, (theta, shapes) = batch_of(FRAMES), theta_of(FRAMES)
    p = model.views(theta, shapes)
    (logits, bounds), _ = han2014.forward(p, FRAMES, *x)
    for u, (X, energy) in enumerate(utterances(x)):
        (alone, of_one), _ = han2014.forward(p, FRAMES, X, bounds_of([len(X)]), energy)
        assert of_one.tolist() == [0, bounds[u + 1] - bounds[u]]
        np.testing.assert_allclose(logits[bounds[u] : bounds[u + 1]], alone, atol=1e-12)


def test_all_segments_weigh_the_same_so_long_utterances_weigh_more():
    c, share = replace(FRAMES, share=1.0), np.full(2, 0.5)
    (theta, shapes), (X, _, energy) = theta_of(c), batch_of(c, [30])
    X[:] = X[0]  # all segments are alike

    def losses(*lengths: int) -> float:
        y = Targets(np.array([0, -1]), np.array([0, -1]), share, share)
        rows = X[: sum(lengths)], bounds_of(lengths), energy[: sum(lengths)]
        return model.loss(model.views(theta, shapes), c, rows, y)[0]

    assert losses(13, 5) == pytest.approx(5 * losses(5, 13))  # ten segments and two


# Its input


def both_inputs(c: Config, rng: Any = None) -> tuple[Store, Array, tuple[Array, Array, Array]]:
    store = store_of([sound(n, n) for n in (9000, 3000, 16000)], han2014.kind(c))
    mean, scale = np.linspace(-50, 20, c.d_spec, dtype=np.float32), np.linspace(0.05, 2, c.d_spec, dtype=np.float32)
    window = np.array([2, 0, 1])
    return store, window, han2014.inputs(store, window, mean, scale, c, rng=rng)


def test_energies_are_those_of_the_recording_whatever_the_normaliser():
    store, window, (X, bounds, energy) = both_inputs(Config())
    column = frame_features.COLUMNS.index("log_energy")
    stored = np.concatenate([store.rows[store.bounds[w] : store.bounds[w + 1]] for w in window])
    np.testing.assert_allclose(energy, 10 ** (stored[:, column] / 10), rtol=1e-4)
    assert X.shape == (bounds[-1], 30)
    c = Config(input="log_mel", d_spec=297, n_context=11)
    store, window, (X, bounds, energy) = both_inputs(c)
    stored = np.concatenate([store.rows[store.bounds[w] : store.bounds[w + 1], :99] for w in window])
    np.testing.assert_allclose(energy, (10 ** (stored / 10)).sum(axis=1), rtol=1e-3)
    assert X.shape == (bounds[-1], 297)


def test_energies_of_an_augmented_recording_are_those_of_its_variant():
    c = Config(input="log_mel", d_spec=297, stretch=0.2, warp=0.1, channel=0.5)
    store, window, (_, bounds, energy) = both_inputs(c, stream("augment", 5))
    variant = augmented(store, window, window, c, stream("augment", 5))
    assert bounds.tolist() == variant.bounds.tolist()
    np.testing.assert_allclose(energy, (10 ** (variant.rows[:, :99] / 10)).sum(axis=1), rtol=1e-3)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"beta": 1.0}, "no gender head"),
        ({"pad": True}, "natural lengths"),
        ({"d_spec": 32}, "d_spec is 32"),
        ({"stretch": 0.1}, "not augmented"),
        ({"level": True}, "level"),
        ({"share": 0.0}, "share is 0.0; expected 0 < share <= 1"),
        ({"n_context": 0}, "n_context is 0"),
        ({"classifier": "svm"}, "one of elm, kernel, ridge, mean"),
        ({"input": "wave"}, "one of frames, log_mel"),
    ],
)
def test_settings_that_it_does_not_have_are_refused(settings: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        Config(**settings)


def test_presets_are_the_papers_and_the_engines_own_input():
    published, same = han2014.PRESETS.values()
    assert [*han2014.PRESETS] == ["published", "same-input"]
    shapes = han2014.shapes(published, 5, 0)
    assert shapes["dense1.W"] == (750, 256)
    assert model.size_of(shapes) == 325_125  # of five classes
    assert (published.share, published.n_context, published.d_spec, elm.UNITS) == (0.1, 25, 30, 120)
    hop, frame = 25, 50  # ms
    assert abs((same.n_context - 1) * hop + hop - 265) < hop / 2 < frame
    assert same.d_spec == 297
    first, second = (model.state_of(replace(published, seed=seed), 4, 0)["elm.W"] for seed in (0, 1))
    assert (first != second).mean() > 0.99
    for name, changes in han2014.ABLATION.items():
        assert model.varied(published, changes) != published, name


# Both statements of it, and training


@pytest.mark.parametrize("classifier", han2014.CLASSIFIERS)
@pytest.mark.parametrize("kind", ["frames", "log_mel"])
def test_lite_gives_what_the_engine_gives(kind: str, classifier: str, tmp_path: Path):
    sizes = {"frames": {"d_spec": 30}, "log_mel": {"d_spec": 297, "level": True}}[kind]
    c = Config(
        **{"input": kind, "d_dense": 8, "share": 0.3, "n_context": 7, "classifier": classifier, "max_seconds": 1.0, **sizes}
    )
    shapes, rng = model.shapes_of(c, CLASSES, 0), np.random.default_rng(2)
    theta = model.init(shapes, 1) + 0.05 * rng.standard_normal(model.size_of(shapes)).astype(np.float32)
    mean, std = rng.normal(-20, 5, c.d_spec).astype(np.float32), rng.uniform(5, 20, c.d_spec).astype(np.float32)
    state = solved_state(replace(c, seed=5))
    tensors = model.named(theta, shapes) | state | {"norm.mean": mean, "norm.std": std}
    path, labels = tmp_path / "m.safetensors", {"emotion": ["angry", "happy", "sad"], "gender": None}
    checkpoint.save(path, checkpoint.Checkpoint(tensors, c, labels, 1.0, {}))
    lite, engine = Model(path), Network.of(checkpoint.load(path))
    x = [sound(n, n) for n in (16000, 500, 1200, 15999, 16000)]
    x[1] += 0.1
    with ThreadPoolExecutor(1) as pool:
        found, _ = engine.logits(store_of(x, han2014.kind(c)), np.arange(5), pool)
    outputs = [lite.forward(lite.network_input(one))[0] for one in x]
    np.testing.assert_allclose(outputs, found, atol=1e-5)
    assert np.ptp(found, axis=0).max() > 1e-3  # they are not all the same
    together = lite.outputs(features.Span(np.concatenate([x[0], x[4]]), [0, 16000], [16000, 32000]))
    for output, expected in zip(together, [outputs[0], outputs[4]], strict=True):
        np.testing.assert_allclose(np.array(output.emotion), expected, atol=1e-5)


def test_the_classifier_learns_from_the_training_part_and_is_chosen_on_the_validation_part(tmp_path: Path):
    c = Config(epochs=1, batch=5, max_seconds=0.5, d_dense=8, classifier="kernel")
    data, split = unbalanced(c)
    with ThreadPoolExecutor(1) as pool:
        fit(data, split, c, Run(tmp_path, pool, lambda _: None), {}, oracle=False)
        network = Network.of(checkpoint.load(tmp_path / "model.safetensors"))
        solved = dict(network.state)
        network.solve(data, np.array(split.train), np.array(split.validation), pool)
        for name, value in solved.items():
            np.testing.assert_array_equal(network.state[name], value)
        assert len(solved["elm.S"]) == len(split.train)
        network.solve(data, np.array(split.train), np.array([], int), pool)
        chosen = network.state["elm.scale"] / solved["elm.scale"]
        gamma = elm.DEFAULTS["kernel"][1] / chosen[0] ** 2
        assert any(gamma == pytest.approx(tried) for tried in elm.GAMMAS)


@pytest.mark.parametrize(
    ("classifier", "shape"), [("elm", (10, 120, 3)), ("kernel", (17, 3)), ("ridge", (12, 3)), ("mean", None)]
)
def test_without_a_validation_part_each_classifier_is_solved_as_is_stated(classifier: str, shape: Any, tmp_path: Path):
    c = Config(epochs=1, batch=5, max_seconds=0.5, d_dense=8, classifier=classifier)
    data, split = unbalanced(c)
    with ThreadPoolExecutor(1) as pool:
        fit(data, Split(split.train, [], split.test), c, Run(tmp_path, pool, lambda _: None), {})
    tensors = checkpoint.load(tmp_path / "model.safetensors").tensors
    solved = tensors.get("elm.U")
    assert (None if solved is None else solved.shape) == shape
    assert solved is None or (solved != 0).any()


def test_any_number_of_threads_gives_the_same_bytes(tmp_path: Path):
    c = Config(epochs=2, batch=8, shard=2, max_seconds=0.5, d_dense=8)
    for threads in (1, 3):
        out = tmp_path / str(threads)
        out.mkdir()
        with ThreadPoolExecutor(threads) as pool:
            fit(*unbalanced(c), c, Run(out, pool, lambda _: None), {})
    for name in ("model.safetensors", "last.safetensors", "metrics.jsonl"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "3" / name).read_bytes()
