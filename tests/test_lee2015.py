"""BLSTM-ELM: the engine gives what slow loops give, and the paper's choices are those of the code."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference_lee2015 as reference
from helpers import (
    UNCOMPILED,
    Array,
    assert_close,
    bounds_of,
    by_both_engines,
    data_of,
    make_network,
    model_file,
    sound,
    unbalanced,
    utterances_of,
)

from npser import augment, checkpoint, frame_features, model
from npser.layers import dropout
from npser.network import Network, Targets
from npser.networks import elm, lee2015
from npser.networks.lee2015 import Config
from npser.networks.stretches import loud
from npser.split import Split
from npser.store import store_of
from npser.train import Run, fit

SMALL: dict[str, Any] = {"d_lstm": 3, "max_seconds": 0.5}
CASES = [
    pytest.param(Config(**SMALL), 5, id="frames"),
    pytest.param(Config(**SMALL, input="log_mel", d_spec=9), 2, id="bands"),
    pytest.param(Config(**SMALL, objective="frames"), 5, id="frame-wise"),
]
LENGTHS = (9, 1, 12, 3, 8)


def drawn_masks(c: Config, bounds: Array, seed: int) -> list[list[Array]] | None:
    """The dropout masks that forward draws from a generator of this seed, by utterance."""
    rng = np.random.default_rng(seed)
    shape = bounds[-1], 2 * c.d_lstm
    layers = [utterances_of(dropout(np.ones(shape), c.dropout, rng)[0], bounds) for _ in range(2)]
    return [list(masks) for masks in zip(*layers, strict=True)] if c.dropout else None


def batch() -> tuple[tuple[Array, Array, Array], Targets]:
    """Ragged utterances: with a gap of 50 ms at either hop, too short for a path, of an unknown emotion."""
    rng, bounds = np.random.default_rng(4), bounds_of(LENGTHS)
    voiced = np.array([frame == "v" for frame in "vv.....vv" + "v" + "v....vv..vv." + "..." + ".vv...v."])
    weight = rng.uniform(0.5, 1.5, len(LENGTHS)) / len(LENGTHS)
    emotion, unknown = np.array([2, 1, 0, 3, -1]), np.full(len(LENGTHS), -1)
    return (np.empty(0), bounds, voiced), Targets(emotion, unknown, weight, weight)


@pytest.mark.parametrize("rate", [0.0, 0.5], ids=["", "dropout"])
@pytest.mark.parametrize(("config", "gap"), CASES)
def test_logits_loss_and_gradients_are_those_of_slow_loops(config: Config, gap: int, rate: float):
    c = dataclasses.replace(config, dropout=rate, alpha=0.7)
    theta, shapes = make_network(c, 0)
    (_, bounds, voiced), y = batch()
    X = np.random.default_rng(5).standard_normal((bounds[-1], c.d_spec))
    p = model.views(theta, shapes)
    (logits, *_), _ = lee2015.forward(p, c, X, bounds, voiced, np.random.default_rng(9))
    loss, grads = model.loss(p, c, (X, bounds, voiced), y, np.random.default_rng(9))
    expected_loss, expected_logits, expected = reference.loss_and_gradients(
        model.named(theta, shapes),
        utterances_of(X, bounds),
        [part.tolist() for part in utterances_of(voiced, bounds)] if c.objective == "alignment" else None,
        gap,
        y.emotion,
        y.emotion_weight,
        drawn_masks(c, bounds, 9),
    )
    assert loss == pytest.approx(0.7 * expected_loss, rel=1e-9)
    assert_close(logits, expected_logits, 1e-9)
    for name, part in model.named(model.flatten(grads, shapes), shapes).items():
        assert_close(part, 0.7 * expected[name], 1e-9, name)
        assert np.abs(part).max() > 0, name


@pytest.mark.parametrize(("config", "gap"), CASES)
def test_a_batch_gives_what_its_utterances_give(config: Config, gap: int):
    c = dataclasses.replace(config, dropout=0.0)
    theta, shapes = make_network(c, 0)
    (_, bounds, voiced), y = batch()
    X = np.random.default_rng(5).standard_normal((bounds[-1], c.d_spec))
    p = model.views(theta, shapes)
    whole, grads = model.loss(p, c, (X, bounds, voiced), y)
    parts = [
        model.loss(p, c, (X[a:b], bounds_of([b - a]), voiced[a:b]), y.of(slice(u, u + 1)))
        for u, (a, b) in enumerate(pairwise(bounds))
    ]
    assert whole == pytest.approx(sum(loss for loss, _ in parts), rel=1e-11)
    total = np.sum([model.flatten(one, shapes) for _, one in parts], axis=0)
    assert_close(model.flatten(grads, shapes), total, 1e-11)


def test_statistics_and_both_decisions_are_those_of_slow_loops():
    rng, bounds = np.random.default_rng(0), bounds_of([6, 1, 9, 4, 7, 3, 5, 8])
    logits, y = 2 * rng.standard_normal((bounds[-1], 4)), np.array([0, 1, 2, 0, 1, 2, 0, 1])
    out = logits, bounds, np.empty(0)
    c = Config(**SMALL)
    p: model.Views = {"elm": elm.start("kernel", 16, 3, 0)}
    S = np.array([reference.statistics(reference.posteriors(part.tolist())) for part in utterances_of(logits, bounds)])
    np.testing.assert_allclose(lee2015.evidence(p, c, out), S, rtol=1e-12)
    np.testing.assert_array_equal(lee2015.decide(p, c, out)[0], np.zeros((8, 3)))  # it has learnt nothing

    solved = lee2015.solve(p, c, (S[:6], y[:6]), None)
    p = {"elm": {name.removeprefix("elm."): value for name, value in solved.items()}}
    C, gamma = elm.DEFAULTS["kernel"]
    expected = reference.kernel_elm(S[:6], y[:6], 3, C, gamma, S)
    np.testing.assert_allclose(lee2015.decide(p, c, out)[0], elm.SHARPNESS * expected, atol=1e-5)

    P = reference.posteriors(logits.tolist())
    for objective, classes in (("alignment", 3), ("frames", 4)):
        c = Config(**SMALL, classifier="mean", objective=objective)
        found, _ = lee2015.decide({}, c, out)
        means = [reference.mean_posterior(P[a:b], classes) for a, b in pairwise(bounds)]
        shares = np.exp(found) / np.exp(found).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(shares, means, rtol=1e-12)
        assert lee2015.solve({}, c, (S, y), None) == lee2015.state(c, 3, 0) == {}


@pytest.mark.parametrize(
    ("preset", "changes", "parameters"),
    [("published", {}, 149_125), ("published", {"objective": "frames"}, 148_996), ("same-input", {}, 284_805)],
)
def test_the_number_of_parameters(preset: str, changes: dict[str, Any], parameters: int):
    c = dataclasses.replace(lee2015.PRESETS[preset], **changes)
    assert model.size_of(model.shapes_of(c, 4, 0)) == parameters


def test_frames_are_voiced_where_there_is_a_pitch():
    c, x = Config(**SMALL), np.concatenate([0.01 * np.random.default_rng(0).standard_normal(3200), sound(4800, 1)])
    store = store_of([sound(4000, 2), x.astype(np.float32)], lee2015.kind(c))
    zero, one = np.zeros(c.d_spec, np.float32), np.ones(c.d_spec, np.float32)
    for mean, scale in ((zero, one), (9 * one, 0.1 * one)):  # of the stored rows, not of the normalised ones
        X, bounds, voiced = lee2015.inputs(store, np.array([1, 0]), mean, scale, c)
        assert len(voiced) == len(X) == bounds[-1]
        rows = np.concatenate([store.rows[store.bounds[w] : store.bounds[w + 1]] for w in (1, 0)])
        np.testing.assert_array_equal(voiced, rows[:, frame_features.COLUMNS.index("log_f0")] > 0)
    assert 0.1 < voiced.mean() < 0.9


def test_of_bands_the_augmented_ones_say_which_frames_are_loud(monkeypatch: pytest.MonkeyPatch):
    c = dataclasses.replace(lee2015.PRESETS["same-input"], **SMALL)
    store = store_of([sound(6000, 1), sound(8000, 2), sound(7000, 3)], lee2015.kind(c))
    mean, scale, ends = np.linspace(-60, 0, 297, dtype=np.float32), np.full(297, 0.1, np.float32), np.array([2, 1])
    kept: list[Any] = []

    def remembered(*arguments: Any) -> Any:
        kept.append(augment.augmented(*arguments))
        return kept[-1]

    monkeypatch.setattr("npser.inputs.augmented", remembered)
    X, bounds, voiced = lee2015.inputs(store, np.array([0, 1]), mean, scale, c, ends, np.random.default_rng(0))
    (varied,) = kept
    np.testing.assert_array_equal(bounds, varied.bounds)
    expected = [loud(varied.rows[a:b, :99]) for a, b in pairwise(bounds)]
    np.testing.assert_array_equal(voiced, np.concatenate(expected))
    _, plain, quiet = lee2015.inputs(store, np.array([0, 1]), mean, scale, c, ends)
    np.testing.assert_array_equal(plain, store.bounds[:3])
    assert len(kept) == 1
    np.testing.assert_array_equal(quiet[: plain[1]], loud(store.rows[: plain[1], :99]))
    assert len(X) == len(voiced)
    assert not np.array_equal(voiced, quiet)


def test_the_bias_of_null_starts_at_minus_one_and_nothing_else_is_moved(tmp_path: Path):
    starts = {}
    for objective in ("alignment", "frames"):
        c = Config(**SMALL, objective=objective, epochs=1, learning_rate=1e-12)
        data = data_of(c, [[sound(3000, r)] for r in range(4)], ["sad", "angry"] * 2, [None] * 4)
        out = tmp_path / objective
        out.mkdir()
        with ThreadPoolExecutor(1) as pool:
            fit(data, Split([0, 1, 2, 3], [], []), c, Run(out, pool, lambda _: None), {})
        starts[objective] = checkpoint.load(out / "model.safetensors").tensors
        shapes = model.shapes_of(c, 2, 0)
        for name, value in model.named(model.init(shapes, 0), shapes).items():
            if name != "output.b":
                np.testing.assert_allclose(starts[objective][name], value, atol=1e-9)
    np.testing.assert_allclose(starts["alignment"]["output.b"], [0, 0, -1], atol=1e-9)
    np.testing.assert_allclose(starts["frames"]["output.b"], [0, 0], atol=1e-9)


def test_the_elm_of_a_model_file_knows_the_training_part_and_nobody_else(tmp_path: Path):
    c = Config(**SMALL, epochs=2, batch=5, learning_rate=0.01)
    data, split = unbalanced(c)
    with ThreadPoolExecutor(1) as pool:
        fit(data, split, c, Run(tmp_path, pool, lambda _: None), {})
        trained = checkpoint.load(tmp_path / "model.safetensors")
        network = Network.of(trained)
        windows = data.first_windows(np.array(split.train))
        outs = [lee2015.forward(network.p, c, *network.inputs(data.store, windows[r : r + 1]))[0] for r in range(17)]
        S = np.concatenate([lee2015.evidence(network.p, c, out) for out in outs])
    assert trained.tensors["elm.S"].shape == (17, 16)
    assert trained.tensors["elm.U"].shape == (17, 3)
    np.testing.assert_allclose(trained.tensors["elm.S"], S * trained.tensors["elm.scale"], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("changes", [{}, {"objective": "frames"}, {"classifier": "mean"}], ids=str)
@pytest.mark.parametrize("preset", ["published", "same-input"])
def test_prediction_in_plain_numpy_is_that_of_the_engine(tmp_path: Path, preset: str, changes: dict[str, Any]):
    c = dataclasses.replace(lee2015.PRESETS[preset], **SMALL, **changes)
    solved = {}
    if c.classifier == "kernel":
        S = np.random.default_rng(0).random((9, 4 * lee2015.outputs(c, 4)))
        solved = lee2015.solve({"elm": elm.start("kernel", S.shape[1], 4, 0)}, c, (S, np.arange(9) % 4), None)
    lite = by_both_engines(model_file(tmp_path, c, solved))
    assert all(p.attention is p.gender is None for p in lite)
    assert np.ptp([list(p.probabilities.values()) for p in lite], axis=0).max() > 1e-3  # the sounds are told apart


@pytest.mark.parametrize(("kept", "solved"), [(5, 3), (0, 0)])
def test_a_file_whose_elm_knows_other_utterances_than_it_weighs_is_refused(tmp_path: Path, kept: int, solved: int):
    tensors = {f"elm.{name}": value for name, value in elm.start("kernel", 20, 4, 0).items()}
    tensors |= {"elm.S": np.ones((kept, 20), np.float32), "elm.U": np.ones((solved, 4), np.float32)}
    path = model_file(tmp_path, Config(**SMALL), tensors)
    with pytest.raises(
        ValueError, match=rf"model\.safetensors: the tensors of elm have \[{solved}.*rows; expected as many in all"
    ):
        checkpoint.load(path)


@pytest.mark.skipif(UNCOMPILED, reason="trains for some epochs")
@pytest.mark.parametrize("objective", ["alignment", "frames"])
@pytest.mark.parametrize("classifier", ["kernel", "mean"])
def test_it_learns_sounds_that_differ(tmp_path: Path, objective: str, classifier: str):
    c = Config(d_lstm=8, epochs=8, batch=4, learning_rate=0.01, objective=objective, classifier=classifier)
    waves = [[(0.1 + 0.9 * (r % 2)) * sound(8000 + 400 * r, 2 * (r % 2))] for r in range(24)]
    data = data_of(c, waves, ["angry", "sad"] * 12, [None] * 24)
    split = Split(list(range(12)), list(range(12, 18)), list(range(18, 24)))
    with ThreadPoolExecutor(1) as pool:
        found = fit(data, split, c, Run(tmp_path, pool, lambda _: None), {})
    assert found["test"]["ua"] == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"objective": "ctc"}, "one of alignment, frames"),
        ({"classifier": "svm"}, "one of kernel, mean"),
        ({"beta": 1.0}, "gender"),
        ({"pad": True}, "natural lengths"),
        ({"splice": 0.1}, "not augmented"),
        ({"d_spec": 30}, "32"),
        ({"input": "log_mel", "d_spec": 32}, "a multiple of 3"),
        ({"d_lstm": 0}, "at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        Config(**settings)
