"""Local attention: the engine gives what slow loops give, and the paper's choices are those of the code."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference_mirsamadi2017 as reference
from helpers import (
    Array,
    assert_close,
    by_both_engines,
    data_of,
    loss_of,
    make_batch,
    make_network,
    model_file,
    sound,
    utterances_of,
)

from npser import checkpoint, features, model
from npser.layers import dropout
from npser.network import real_rows
from npser.networks import mirsamadi2017
from npser.networks.mirsamadi2017 import Config
from npser.split import Split
from npser.train import Run, fit

SMALL: dict[str, Any] = {"d_lstm": 3, "d_dense": 5, "max_seconds": 0.5}
CASES = [
    pytest.param(Config(**SMALL), id="attention"),
    pytest.param(Config(**SMALL, attention=False), id="mean"),
    pytest.param(Config(**SMALL, n_dense=2, input="log_mel", d_spec=9), id="dense layers"),
]


def drawn_masks(c: Config, bounds: Array, seed: int) -> list[list[Array]] | None:
    """The dropout masks that forward draws from a generator of this seed, by utterance."""
    rng = np.random.default_rng(seed)
    widths = [c.d_dense] * c.n_dense + [2 * c.d_lstm]
    layers = [utterances_of(dropout(np.ones((bounds[-1], width)), c.dropout, rng)[0], bounds) for width in widths]
    return [list(masks) for masks in zip(*layers, strict=True)] if c.dropout else None


@pytest.mark.parametrize("rate", [0.0, 0.5], ids=["", "dropout"])
@pytest.mark.parametrize("config", CASES)
def test_logits_loss_and_gradients_are_those_of_slow_loops(config: Config, rate: float):
    c = dataclasses.replace(config, dropout=rate)
    theta, shapes = make_network(c, 0)
    batch = make_batch(c, (3, 1, 6, 2))
    batch = batch._replace(emotion=np.array([2, -1, 0, 3]))
    loss, gradient = loss_of(theta, shapes, c, batch, np.random.default_rng(9))
    (emotion, _), _ = mirsamadi2017.forward(model.views(theta, shapes), c, batch.X, batch.bounds, np.random.default_rng(9))
    expected_loss, expected_emotion, expected = reference.loss_and_gradients(
        model.named(theta, shapes),
        utterances_of(batch.X, batch.bounds),
        batch.emotion,
        batch.emotion_weight,
        drawn_masks(c, batch.bounds, 9),
    )
    assert loss == pytest.approx(expected_loss, rel=1e-9)
    assert_close(emotion, expected_emotion, 1e-9)
    for name, part in model.named(gradient, shapes).items():
        assert_close(part, expected[name], 1e-9, name)
        assert np.abs(part).max() > 0, name


@pytest.mark.parametrize(("preset", "parameters"), [("published", 166_148), ("same-input", 1_072_900)])
def test_the_number_of_parameters(preset: str, parameters: int):
    assert model.size_of(model.shapes_of(mirsamadi2017.PRESETS[preset], 4, 0)) == parameters


@pytest.mark.parametrize("preset", ["published", "same-input"])
def test_prediction_in_plain_numpy_is_that_of_the_engine(tmp_path: Path, preset: str):
    c = dataclasses.replace(mirsamadi2017.PRESETS[preset], **SMALL)
    lite = by_both_engines(model_file(tmp_path, c))
    for p in lite:
        assert p.attention is not None
        assert p.times is not None
        assert p.attention.shape == (1, len(p.times))
        np.testing.assert_allclose(p.attention.sum(), 1, rtol=1e-5)
    assert np.ptp([list(p.probabilities.values()) for p in lite], axis=0).max() > 0.02  # the sounds are told apart
    hop = mirsamadi2017.kind(c).hop
    assert lite[0].times is not None
    np.testing.assert_allclose(np.diff(lite[0].times), hop / features.SAMPLE_RATE)
    assert lite[0].times[0] == pytest.approx(hop / 2 / features.SAMPLE_RATE)


def test_the_normaliser_hears_the_neutral_frames_of_the_training_part_alone(tmp_path: Path):
    c = Config(**SMALL, epochs=1, batch=4)
    emotions = ["neutral", "angry", "neutral", "angry", "neutral", "angry"]
    data = data_of(c, [[sound(3000 + 500 * r, r)] for r in range(6)], emotions, [None] * 6)
    split = Split([0, 1, 2, 3], [5], [4])
    with ThreadPoolExecutor(1) as pool:
        fit(data, split, c, Run(tmp_path, pool, lambda _: None), {})
    tensors, window = checkpoint.load(tmp_path / "model.safetensors").tensors, np.array([0, 2])
    zero, one = np.zeros(c.d_spec, np.float32), np.ones(c.d_spec, np.float32)
    X, bounds = mirsamadi2017.inputs(data.store, window, zero, one, c)
    Y = X[real_rows(bounds, data.store.real(window))].astype(np.float64)
    np.testing.assert_allclose(tensors["norm.mean"], Y.mean(axis=0), atol=1e-4)
    angry = mirsamadi2017.normalised_on(data, np.array([1, 3]))
    np.testing.assert_array_equal(angry, [1, 3])  # where none is neutral, all


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"beta": 1.0}, "gender"),
        ({"pad": True}, "natural lengths"),
        ({"level": True}, "the level is one of the features"),
        ({"stretch": 0.1}, "not augmented"),
        ({"d_spec": 30}, "32"),
        ({"input": "log_mel", "d_spec": 32}, "a multiple of 3"),
        ({"input": "spectra"}, "one of frames, log_mel"),
        ({"n_dense": -1}, "0 to 8"),
        ({"n_dense": 9}, "0 to 8"),
        ({"d_lstm": 0}, "at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        Config(**settings)
