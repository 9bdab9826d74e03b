"""3-D ACRNN: the engine gives what slow loops give, batch statistics included, and answers with the running ones."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference_chen2018 as reference
from helpers import Array, assert_close, by_both_engines, data_of, make_batch, make_network, model_file, select, sound
from test_satt2017 import sine

from npser import checkpoint, model
from npser.network import Network, Shard, Targets
from npser.networks import chen2018, spectrogram
from npser.networks.chen2018 import Config
from npser.split import Split
from npser.train import Run, fit

SMALL: dict[str, Any] = {"d_conv": 2, "d_linear": 3, "d_lstm": 2, "d_dense": 3, "max_seconds": 0.5}
TINY: dict[str, Any] = {**SMALL, "d_spec": 24, "input": "log_mel", "piece_seconds": 0.15, "batch": 4}  # pieces of 6 frames
CASES = [pytest.param(Config(**TINY), id="3-D"), pytest.param(Config(**TINY, slopes=False, attention=False), id="2-D, mean")]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("c", CASES)
def test_loss_and_gradients_of_a_mini_batch_are_those_of_slow_loops(c: Config, threads: int):
    theta, shapes = make_network(c, 0)
    batch = make_batch(c, (5, 12, 1, 9))  # pieces of 5, 6 and 6, 1 and 9 frames, in two shards; of 1, pooling leaves none
    batch = batch._replace(emotion=np.array([2, 3, 1, -1]))
    p, shards = model.views(theta, shapes, model.state_of(c, 4, 0)), []
    for part in (range(2), range(2, 4)):
        few = select(batch, part)
        shards.append(Shard(lambda few=few: (few.X, few.bounds), Targets(*few[2:]), np.random.default_rng(0)))
    with ThreadPoolExecutor(threads) as pool:
        loss, grads, running = chen2018.gradient(p, c, shards, pool)
    utterances = np.split(batch.X, batch.bounds[1:-1])
    arguments = batch.emotion, batch.emotion_weight, 3 if c.slopes else 1, 6, 6
    expected_loss, _, expected = reference.loss_and_gradients(model.named(theta, shapes), utterances, *arguments)
    assert loss == pytest.approx(expected_loss, rel=1e-9)
    gradient = model.flatten(grads, shapes)
    for name, part in model.named(gradient, shapes).items():
        assert_close(part, expected[name], 1e-9, name)
        assert np.abs(part).max() > 0, name
    z = np.concatenate([chen2018.body(p, c, *shard.inputs())[0] for shard in shards]) @ p["dense"]["W"]
    np.testing.assert_allclose(running["running.mean"], 0.1 * z.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(running["running.variance"], 0.9 + 0.1 * z.var(axis=0), rtol=1e-5)
    *_, less = chen2018.gradient(p, dataclasses.replace(c, batch=8), shards, ThreadPoolExecutor(1))  # half of a mini-batch
    np.testing.assert_allclose(less["running.mean"], 0.05 * z.mean(axis=0), rtol=1e-5)


def test_a_piece_is_answered_whatever_else_is_asked():
    """With the running statistics; the gradient goes by those of the batch."""
    c = Config(**TINY)
    theta, shapes = make_network(c, 0)
    batch = make_batch(c, (12, 7, 9))
    p = model.views(theta, shapes, model.state_of(c, 4, 0))
    (together, owner), _ = chen2018.forward(p, c, batch.X, batch.bounds)
    assert owner.tolist() == [0, 0, 1, 2]
    (alone, _), _ = chen2018.forward(p, c, batch.X[:12], batch.bounds[:2])
    np.testing.assert_allclose(together[:2], alone, atol=1e-12)


@pytest.mark.parametrize(("preset", "parameters"), [("published", 1_925_252), ("same-input", 3_301_508)])
def test_the_number_of_parameters(preset: str, parameters: int):
    assert model.size_of(model.shapes_of(chen2018.PRESETS[preset], 4, 0)) == parameters


def test_published_is_what_the_paper_and_its_code_say():
    c = chen2018.PRESETS["published"]
    assert (chen2018.WINDOW, chen2018.POOL, chen2018.SLOPE) == ((5, 3), (2, 4), 0.01)
    assert (c.input, c.piece_seconds, c.max_seconds) == ("mel", 3.0, 30.0)
    assert (c.learning_rate, c.dropout, c.batch, c.epochs) == (1e-4, 0.0, 40, 40)
    assert chen2018.PUBLISHED["ua"] == 0.6474


@pytest.mark.parametrize("changes", [{}, {"slopes": False, "attention": False}], ids=["3-D", "2-D, mean"])
@pytest.mark.parametrize("preset", ["published", "same-input"])
def test_prediction_in_plain_numpy_is_that_of_the_engine(tmp_path: Path, preset: str, changes: dict[str, Any]):
    c = dataclasses.replace(chen2018.PRESETS[preset], **SMALL, piece_seconds=0.2, **changes)
    rng = np.random.default_rng(0)
    solved = {"running.mean": rng.standard_normal(3), "running.variance": rng.uniform(0.5, 2, 3)}
    lite = by_both_engines(model_file(tmp_path, c, {name: value.astype(np.float32) for name, value in solved.items()}))
    assert all(p.attention is None for p in lite)
    assert np.ptp([list(p.probabilities.values()) for p in lite], axis=0).max() > 5e-4  # the sounds are told apart


def test_training_starts_with_gamma_of_one_and_ends_with_running_statistics(tmp_path: Path):
    c = Config(**TINY, epochs=1, learning_rate=1e-6, select="last")
    data = data_of(c, [[sound(5000 + 900 * r, r)] for r in range(6)], ["sad", "angry"] * 3, [None] * 6)
    with ThreadPoolExecutor(1) as pool:
        fit(data, Split([0, 1, 2, 3], [4], [5]), c, Run(tmp_path, pool, lambda _: None), {})
    trained = checkpoint.load(tmp_path / "model.safetensors")
    np.testing.assert_allclose(trained.tensors["batch.gamma"], 1, atol=1e-4)
    assert trained.tensors["running.mean"].any()
    assert set(trained.state) == {"running.mean", "running.variance"}
    network = Network.of(trained)
    with ThreadPoolExecutor(1) as pool:
        assert np.isfinite(network.logits(data.store, np.arange(6), pool)[0]).all()


# Bands


def test_bands_do_not_depend_on_level_or_offset():
    x = sound(6000)
    S = spectrogram.mel_spectra(x)
    assert S.shape == (38, 40)
    np.testing.assert_allclose(spectrogram.mel_spectra(3 * x + np.float32(0.25)), S, atol=2e-3)
    assert (spectrogram.mel_spectra(np.zeros(4000, np.float32)) == -100).all()


def test_a_higher_sine_is_loudest_in_a_higher_band():
    loudest = [spectrogram.mel_spectra(sine(hertz))[5].argmax() for hertz in (200, 500, 1000, 3000, 6000)]
    assert loudest == sorted(set(loudest))


def test_bands_are_those_of_a_literal_transform():
    x = np.random.default_rng(0).standard_normal(3000).astype(np.float32)
    y = (x - x.mean(dtype=float)) / x.std(dtype=float)
    frame = y[5 * 160 - 200 : 5 * 160 + 200] * (0.54 - 0.46 * np.cos(2 * np.pi * np.arange(400) / 400))
    power = np.abs(np.fft.rfft(frame, 512)) ** 2

    def mel(f: Array) -> Array:
        return 2595 * np.log10(1 + f / 700)

    edges, hertz = (
        np.interp(np.linspace(0, mel(np.array(8000.0)), 42), mel(np.arange(8001.0)), np.arange(8001.0)),
        np.arange(257),
    )
    for band in (0, 17, 39):
        weights = np.interp(hertz * 31.25, edges[band : band + 3], [0, 1, 0], left=0, right=0)
        found = spectrogram.mel_spectra(x)[5, band]
        assert found == pytest.approx(10 * np.log10(weights @ power), abs=0.05)


def test_slopes_of_a_line_and_of_a_parabola():
    t = np.arange(12.0)
    X = spectrogram.with_slopes(np.stack([3 * t, t**2], axis=1).astype(np.float32))
    assert X.shape == (12, 6)
    np.testing.assert_allclose(X[4:8, 2], 3, rtol=1e-5)
    np.testing.assert_allclose(X[4:8, 3], 2 * t[4:8], rtol=1e-5)
    np.testing.assert_allclose(X[4:8, 4], 0, atol=1e-5)
    np.testing.assert_allclose(X[4:8, 5], 2, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"beta": 1.0}, "gender"),
        ({"pad": True}, "natural lengths"),
        ({"level": True}, "of one level"),
        ({"warp": 0.1}, "not augmented"),
        ({"d_spec": 60}, "120"),
        ({"input": "log_mel", "d_spec": 9}, "at least 12"),
        ({"input": "log_mel", "d_spec": 128}, "a multiple of 3"),
        ({"input": "spectrum"}, "one of mel, log_mel"),
        ({"piece_seconds": 0.05}, "0.1 to"),
        ({"d_linear": 0}, "at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        Config(**settings)
