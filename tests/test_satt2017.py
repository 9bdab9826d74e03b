"""CNN-BLSTM: the engine gives what slow loops give; pieces, and the spectra that it is shown."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference_satt2017 as reference
from helpers import (
    Array,
    assert_close,
    bounds_of,
    by_both_engines,
    loss_of,
    make_batch,
    make_network,
    model_file,
    utterances_of,
)

from npser import checkpoint, model
from npser.features import SAMPLE_RATE
from npser.frame_features import mel_filters
from npser.layers import dropout
from npser.network import Targets
from npser.networks import pieces, satt2017, spectrogram
from npser.networks.satt2017 import Config

SMALL: dict[str, Any] = {"d_conv1": 2, "d_conv2": 2, "d_conv3": 2, "d_lstm": 2, "d_dense": 5, "max_seconds": 0.5}
TINY: dict[str, Any] = {**SMALL, "d_spec": 9, "piece_seconds": 0.16}  # 16 frames; a rest of fewer stays
CASES = [pytest.param(Config(**TINY), id="BLSTM"), pytest.param(Config(**TINY, recurrence=False), id="no recurrence")]


@pytest.mark.parametrize("rate", [0.0, 0.5], ids=["", "dropout"])
@pytest.mark.parametrize("config", CASES)
def test_logits_loss_and_gradients_are_those_of_slow_loops(config: Config, rate: float):
    c = dataclasses.replace(config, dropout=rate)
    theta, shapes = make_network(c, 0)
    batch = make_batch(c, (17, 32, 5))  # pieces of 17; 16 and 16; and 5 frames, of which pooling leaves none
    batch = batch._replace(emotion=np.array([2, 3, 1]))
    loss, gradient = loss_of(theta, shapes, c, batch, np.random.default_rng(9))
    (logits, owner), _ = satt2017.forward(model.views(theta, shapes), c, batch.X, batch.bounds, np.random.default_rng(9))
    assert owner.tolist() == [0, 1, 1, 2]
    mask = dropout(np.ones((4, c.d_dense)), rate, np.random.default_rng(9))[0] if rate else None
    expected_loss, expected_logits, expected = reference.loss_and_gradients(
        model.named(theta, shapes), utterances_of(batch.X, batch.bounds), batch.emotion, batch.emotion_weight, mask, 16, 16
    )
    assert loss == pytest.approx(expected_loss, rel=1e-9)
    assert_close(logits, expected_logits, 1e-9)
    for name, part in model.named(gradient, shapes).items():
        assert_close(part, expected[name], 1e-9, name)
        assert np.abs(part).max() > 0, name


@pytest.mark.parametrize(("preset", "parameters"), [("published", 1_034_892), ("same-input", 608_908)])
def test_the_number_of_parameters(preset: str, parameters: int):
    assert model.size_of(model.shapes_of(satt2017.PRESETS[preset], 4, 0)) == parameters


@pytest.mark.parametrize("preset", ["published", "same-input"])
@pytest.mark.parametrize("recurrence", [True, False])
def test_prediction_in_plain_numpy_is_that_of_the_engine(tmp_path: Path, preset: str, recurrence: bool):
    c = dataclasses.replace(satt2017.PRESETS[preset], **SMALL, piece_seconds=0.2, recurrence=recurrence)
    path, shapes = model_file(tmp_path, c), model.shapes_of(c, 4, 0)
    theta = model.init(shapes, 0) + 0.05 * np.random.default_rng(0).standard_normal(model.size_of(shapes)).astype(np.float32)
    trained = checkpoint.load(path)
    level = {"norm.mean": np.full(c.d_spec, -60, np.float32), "norm.std": np.full(c.d_spec, 15, np.float32)}
    tensors = model.named(theta, shapes) | level
    checkpoint.save(path, dataclasses.replace(trained, tensors=tensors))
    lite = by_both_engines(path)
    assert all(p.attention is None for p in lite)
    assert np.ptp([list(p.probabilities.values()) for p in lite], axis=0).max() > 0.005  # the sounds are told apart


def test_published_is_what_is_known_and_remembered_of_the_paper():
    c = satt2017.PRESETS["published"]
    assert (c.input, c.d_spec, c.piece_seconds, c.max_seconds) == ("spectrum", 200, 3.0, 30.0)
    assert satt2017.WINDOWS == ((12, 16), (8, 12), (5, 7))
    assert (c.learning_rate, c.dropout, c.batch, c.epochs) == (1e-4, 0.2, 16, 50)
    assert (satt2017.PUBLISHED["wa"], satt2017.PUBLISHED["ua"]) == (0.688, 0.594)
    assert satt2017.describe_input(c) == "spectrum up to 4000 Hz, every 10 ms"


# Pieces


def test_pieces_keep_single_precision():
    logits, y, weight = np.zeros((3, 4), np.float32), np.array([2, 1]), np.ones(2, np.float32)
    _, (dlogits,) = pieces.loss(Config(), (logits, np.array([0, 0, 1])), Targets(y, y, weight, weight))
    assert dlogits.dtype == np.float32


@pytest.mark.parametrize(
    ("length", "expected"),
    [(1, [1]), (119, [119]), (120, [120]), (139, [139]), (140, [120, 20]), (259, [120, 139]), (260, [120, 120, 20]), (0, [0])],
)
def test_a_rest_of_less_than_half_a_second_stays_with_the_piece_before_it(length: int, expected: list[int]):
    cuts, owner = pieces.cut(bounds_of([50, length, 7]), 3.0, 400)
    assert np.diff(cuts).tolist() == [50, *expected, 7]
    assert owner.tolist() == [0, *[1] * len(expected), 2]
    assert cuts.tolist() == bounds_of([50, *expected, 7]).tolist()


def test_every_piece_has_a_share_of_the_weight_of_its_utterance():
    rng = np.random.default_rng(0)
    logits, owner = rng.standard_normal((5, 3)), np.array([0, 1, 1, 1, 2])
    y, weight = np.array([2, 0, -1]), np.array([0.3, 0.6, 0.9])
    targets = Targets(y, y, weight, weight)
    loss, (dlogits,) = pieces.loss(Config(), (logits, owner), targets)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert loss == pytest.approx(-0.3 * log_p[0, 2] - 0.2 * log_p[1:4, 0].sum())
    np.testing.assert_allclose(np.abs(dlogits).sum(axis=1)[4], 0)


def test_the_answers_of_pieces_are_joined_by_utterance():
    p = np.array([[0.5, 0.25, 0.25], [0.9, 0.05, 0.05], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])
    owner = np.array([0, 1, 1, 2])
    mean = np.log(p[1]) / 2 + np.log(p[2]) / 2
    np.testing.assert_allclose(pieces.mean_log_probability(np.log(p) + 3, owner), [np.log(p[0]), mean, np.log(p[3])])
    largest = np.log([p[0], [0.9, 0.8, 0.1], p[3]])
    np.testing.assert_allclose(pieces.largest_probability(np.log(p) - 1, owner), largest)


# Spectra


def sine(hertz: float, amplitude: float = 1.0) -> Array:
    return (amplitude * np.sin(2 * np.pi * hertz * np.arange(8000) / SAMPLE_RATE)).astype(np.float32)


def test_a_sine_shows_in_its_bin_at_its_level():
    S = spectrogram.spectra(sine(1000, 0.1))
    assert S.shape == (51, 200)
    assert (S[2:-2].argmax(axis=1) == 50).all()
    np.testing.assert_allclose(S[2:-2, 50], -20, atol=0.01)
    assert S.dtype == np.float32


def test_silence_and_what_lies_above_4_khz_are_the_floor():
    assert (spectrogram.spectra(np.zeros(4000, np.float32)) == -100).all()
    assert spectrogram.spectra(sine(6000))[2:-2].max() < -40


def test_a_frame_is_centred_at_its_sample():
    x = np.zeros(4800, np.float32)
    x[1600] = 1
    loudest = spectrogram.spectra(x).mean(axis=1)
    assert loudest.argmax() == 10
    np.testing.assert_allclose(loudest[9], loudest[11], atol=1e-3)


def test_spectra_are_those_of_a_literal_transform():
    x = np.random.default_rng(0).standard_normal(3000).astype(np.float32)
    n, S = np.arange(640), spectrogram.spectra(x)
    window = 0.54 - 0.46 * np.cos(2 * np.pi * n / 640)
    frame = x[5 * 160 - 320 : 5 * 160 + 320] * window
    for k in (0, 7, 199):
        power = np.abs((frame * np.exp(-2j * np.pi * k * n / 800)).sum()) ** 2
        assert S[5, k] == pytest.approx(10 * np.log10(power * (2 / window.sum()) ** 2), abs=1e-3)


@pytest.mark.parametrize("bands", [False, True], ids=["bins", "mel bands"])
def test_the_frames_of_a_long_sound_are_those_of_a_literal_transform_up_to_its_reflected_ends(bands: bool):
    """More frames than are computed together."""
    x, at_once = np.random.default_rng(0).standard_normal(20_700).astype(np.float32), spectrogram.AT_ONCE
    samples, n_fft = (400, 512) if bands else (640, 800)
    window = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(samples) / samples)
    y = (x - x.mean(dtype=float)) / x.std(dtype=float) if bands else x / (window.sum() / 2)
    S = spectrogram.mel_spectra(x) if bands else spectrogram.spectra(x)
    assert len(S) == 130 > 2 * at_once
    for t in (0, 1, at_once - 1, at_once, 2 * at_once - 1, 2 * at_once, 129):
        place = len(x) - 1 - np.abs(len(x) - 1 - np.abs(160 * t + np.arange(samples) - samples // 2))
        power = np.abs(np.fft.rfft(y[place] * window, n_fft)) ** 2
        expected = power @ mel_filters(512, 40) if bands else power[:200]
        np.testing.assert_allclose(S[t], 10 * np.log10(expected), atol=1e-3)


def test_a_model_file_says_how_its_spectra_are_made():
    names = ("frame", "hop", "n_fft", "sample_rate", "floor_db")
    assert [spectrogram.kind(1.0).settings[name] for name in (*names, "bins")] == [640, 160, 800, 16_000, -100, 200]
    assert [spectrogram.mel_kind(1.0).settings[name] for name in (*names, "n_mels")] == [400, 160, 512, 16_000, -100, 40]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"beta": 1.0}, "gender"),
        ({"pad": True}, "natural lengths"),
        ({"level": True}, "false where input is spectrum"),
        ({"stretch": 0.1}, "not augmented"),
        ({"d_spec": 7}, "8 to 200"),
        ({"d_spec": 201}, "8 to 200"),
        ({"d_spec": 129, "input": "log_mel"}, "8 to 128"),
        ({"input": "frames"}, "one of spectrum, log_mel"),
        ({"piece_seconds": 0.0}, "0.1 to"),
        ({"d_conv2": 0}, "at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        Config(**settings)
