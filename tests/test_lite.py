"""The two statements of the network agree: plain NumPy for one utterance, and the engine for batches."""

import dataclasses
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import EMOTIONS, GENDERS, ROOT, SIZES, SMALL, network, recording, sound, without

import npser
from npser import features, model
from npser.inputs import with_deltas
from npser.networks.li2019 import Config

# The engine


@pytest.mark.parametrize("config", SIZES)
@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("genders", [None, GENDERS])
def test_logits_are_those_of_the_engine(tmp_path: Path, config: Config, attention: bool, genders: list[str] | None):
    trained = network(tmp_path, dataclasses.replace(config, attention=attention), genders)
    lengths = [1, 399, 400, 799, 800, 1199, 1200, 3600, 11_000, 24_000]  # up to 799 samples are fewer than three frames
    paths = [recording(tmp_path / f"{n}.wav", sound(n, seed)) for seed, n in enumerate(lengths)]
    store = trained.store(paths)
    c, first = trained.engine.config, store.recordings[:-1]
    X, bounds = with_deltas(store, first, trained.engine.mean, 1 / trained.engine.std, level=c.level)
    out, _ = trained.engine.module.forward(trained.engine.p, c, X, bounds)
    emotion, gender = trained.engine.window_logits(trained.engine.p, c, out)
    assert np.ptp(emotion[lengths.index(3600) :], axis=0).max() > 0.02  # the sounds are told apart
    for u, path in enumerate(paths):
        x = trained.lite.network_input(next(features.read_windows(path, c.max_seconds, c.pad)))
        np.testing.assert_allclose(x, X[bounds[u] : bounds[u + 1]], atol=1e-4)
        lite_emotion, lite_gender, _ = trained.lite.forward(x)
        np.testing.assert_allclose(lite_emotion, emotion[u], atol=1e-5)
        np.testing.assert_allclose(lite_gender, gender[u], atol=1e-5)


@pytest.mark.parametrize("config", [SIZES[0], SIZES[4]])
@pytest.mark.parametrize("attention", [True, False])
def test_logits_are_those_of_the_engine_in_double_precision(tmp_path: Path, config: Config, attention: bool):
    c = dataclasses.replace(config, attention=attention)
    trained, rng = network(tmp_path, c), np.random.default_rng(0)
    theta = 3 * trained.engine.theta.astype(np.float64)
    trained.lite.checkpoint.tensors.update(model.named(theta, trained.engine.shapes))
    lengths = [1, c.n_pw - 1, c.n_pw, c.n_pw + 1, 20, 7]
    X, bounds = rng.standard_normal((sum(lengths), 384)), np.concatenate([[0], np.cumsum(lengths)])
    (emotion, gender, *_), _ = trained.engine.module.forward(model.views(theta, trained.engine.shapes), c, X, bounds)
    assert gender is not None
    for u in range(len(lengths)):
        lite_emotion, lite_gender, _ = trained.lite.forward(X[bounds[u] : bounds[u + 1]])
        np.testing.assert_allclose(lite_emotion, emotion[u], atol=1e-10)
        np.testing.assert_allclose(lite_gender, gender[u], atol=1e-10)


@pytest.mark.parametrize("genders", [None, GENDERS])
@pytest.mark.parametrize("pad", [False, True])
def test_a_recording_is_scored_as_in_evaluation(tmp_path: Path, genders: list[str] | None, pad: bool):
    trained = network(tmp_path, dataclasses.replace(SMALL, pad=pad), genders)
    lengths = [5000, 16_000] if pad else [5000, 16_000, 16_001, 37_000]  # evaluation cuts where training pads and cuts
    paths = [recording(tmp_path / f"{i}.wav", sound(n, i)) for i, n in enumerate(lengths)]
    store = trained.store(paths)
    assert np.diff(store.recordings).tolist() == [1, 1, 2, 4][: len(paths)]
    with ThreadPoolExecutor(1) as pool:
        emotion, gender = trained.engine.log_probabilities(store, np.arange(len(paths)), pool)
    for r, path in enumerate(paths):
        p = trained.lite.predict(path)
        expected = np.exp(emotion[r]) / np.exp(emotion[r]).sum()
        np.testing.assert_allclose(list(p.probabilities.values()), expected, atol=1e-5)
        assert p.emotion == EMOTIONS[emotion[r].argmax()]
        if genders is None:
            assert p.gender is p.gender_probabilities is None
        else:
            assert p.gender_probabilities is not None
            expected = np.exp(gender[r]) / np.exp(gender[r]).sum()
            np.testing.assert_allclose(list(p.gender_probabilities.values()), expected, atol=1e-5)
            assert p.gender == GENDERS[gender[r].argmax()]


def test_a_long_recording_is_the_mean_log_probability_of_its_windows(tmp_path: Path):
    trained, x = network(tmp_path), sound(37_000)
    parts = [x[start : start + 16_000] for start in (0, 8000, 16_000, 24_000)]
    log_p = [np.log(list(trained.lite.predict(part, 16_000).probabilities.values())) for part in parts]
    assert np.ptp(log_p, axis=0).max() > 0.01
    expected = np.exp(np.mean(log_p, axis=0))
    found = trained.lite.predict(x, 16_000)
    np.testing.assert_allclose(list(found.probabilities.values()), expected / expected.sum(), atol=1e-5)
    first = trained.lite.predict(parts[0], 16_000)
    assert found.attention is not None
    assert first.attention is not None
    np.testing.assert_allclose(found.attention, first.attention, rtol=1e-6)  # BLAS rounds other shapes otherwise


# Predictions


def test_load_gives_the_model_and_predict_its_answer(tmp_path: Path):
    trained = network(tmp_path)
    p = npser.load(trained.path).predict(recording(tmp_path / "a.wav", sound(9000)))
    assert list(p.probabilities) == EMOTIONS
    assert sum(p.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert p.emotion == max(p.probabilities, key=p.probabilities.__getitem__)
    assert all(type(value) is float for value in p.probabilities.values())
    assert p.gender_probabilities is not None
    assert list(p.gender_probabilities) == GENDERS
    assert npser.load(str(trained.path)).predict(str(tmp_path / "a.wav")).probabilities == p.probabilities


@pytest.mark.parametrize("rate", [8000, 16_000, 22_050, 48_000])
@pytest.mark.parametrize("pad", [False, True])
def test_a_waveform_gives_what_its_file_gives(tmp_path: Path, rate: int, pad: bool):
    trained = network(tmp_path, dataclasses.replace(SMALL, pad=pad))
    x = sound(round(2.2 * rate), rate=rate)
    from_file = trained.lite.predict(recording(tmp_path / "a.wav", x, rate))
    for samples in (x, x.astype(np.float64), np.repeat(x, 2)[::2]):
        p = trained.lite.predict(samples, sample_rate=rate)
        assert p.probabilities == from_file.probabilities
        assert p.seconds == from_file.seconds == pytest.approx(2.2, abs=1e-4)


@pytest.mark.parametrize("n", [1, 400, 799])
def test_less_than_a_pooling_window_has_logits_too(tmp_path: Path, n: int):
    trained = network(tmp_path)
    emotion, gender, a = trained.lite.forward(trained.lite.network_input(sound(n)))
    assert a is not None
    assert (emotion.shape, gender.shape, a.shape) == ((4,), (2,), (2, 0))
    assert np.isfinite(emotion).all()


@pytest.mark.parametrize(("pad", "n", "steps"), [(False, 4800, 4), (False, 9000, 7), (False, 16_000, 13), (True, 4800, 13)])
def test_attention_sums_to_one_over_the_times(tmp_path: Path, pad: bool, n: int, steps: int):
    p = network(tmp_path, dataclasses.replace(SMALL, pad=pad)).lite.predict(sound(n), 16_000)
    assert p.attention is not None
    assert p.times is not None
    assert p.attention.shape == (2, steps)
    np.testing.assert_allclose(p.attention.sum(axis=1), 1, atol=1e-5)
    ends = 0.075 * np.arange(1, steps + 1) - 0.0125  # of three frames of 25 ms, the first of which is centred at 0
    np.testing.assert_allclose(p.times, ends)


def test_the_attention_of_a_first_window_that_is_not_answered_is_that_of_the_next(tmp_path: Path):
    trained, x = network(tmp_path), np.concatenate([np.zeros(16_000, np.float32), sound(20_000)])
    p = trained.lite.predict(x, 16_000)
    assert [window.reason for window in p.timeline] == ["silence", None, None, None]
    assert p.times is not None
    assert p.attention is not None
    # Windows of a second, half overlapping; a step ends half a hop after the centre of its last frame.
    np.testing.assert_allclose(p.times, 0.5 + 0.075 * np.arange(1, 14) - 0.0125)
    second = trained.lite.output(x[8000:24_000])
    assert second.attention is not None
    np.testing.assert_allclose(p.attention, second.attention, rtol=1e-6)


def test_without_attention_there_is_none(tmp_path: Path):
    p = network(tmp_path, dataclasses.replace(SMALL, attention=False)).lite.predict(sound(9000), 16_000)
    assert p.attention is p.times is None


def test_the_temperature_divides_the_logits_of_the_emotions_only(tmp_path: Path):
    cold, warm = (network(tmp_path, temperature=t).lite.predict(sound(9000), 16_000) for t in (1.0, 2.5))
    one, other = list(cold.probabilities.values()), list(warm.probabilities.values())
    expected = np.array(one) ** (1 / 2.5)
    assert np.ptp(expected / expected.sum() - one) > 1e-3  # it does make a difference
    np.testing.assert_allclose(other, expected / expected.sum(), atol=1e-5)
    assert warm.gender_probabilities == cold.gender_probabilities


@pytest.mark.parametrize(
    ("audio", "rate", "words"),
    [
        (np.zeros((2, 100)), 16_000, r"audio has shape \(2, 100\)"),
        (np.zeros(0), 16_000, r"audio has shape \(0,\)"),
        (np.array(0.5), 16_000, r"audio has shape \(\)"),
        (np.array([0.1, np.nan]), 16_000, "finite"),
        (np.array([0.1, -np.inf]), 16_000, "finite"),
        (np.full(900, 1e300), 16_000, ""),
        (np.full(900, 1e30), 16_000, ""),
        (np.zeros(900, np.int16), 16_000, "int16"),
        (np.zeros(900, complex), 16_000, "complex"),
        (np.array(["a", "b"]), 16_000, ""),
        ([0.1, 0.2], 16_000, "type list"),
        (7, 16_000, "type int"),
        (np.array([0, np.inf], np.float16), 16_000, "finite"),
        (np.zeros(900), None, "sample_rate is None"),
        (np.zeros(900), "16000", "sample_rate is '16000'"),
        (np.zeros(900), 0, "sample_rate is 0"),
        (np.zeros(900), -16_000, "sample_rate is -16000"),
        (np.zeros(900), 3999, "sample_rate is 3999"),
        (np.zeros(900), 192_001, "sample_rate is 192001"),
        (np.zeros(900), 22_050.5, "sample_rate is 22050.5"),
    ],
)
def test_arrays_that_are_no_sound_are_refused(tmp_path: Path, audio: Any, rate: int | None, words: str):
    with pytest.raises(ValueError, match=rf"^[^\n]*{words}[^\n]*$"):
        network(tmp_path).lite.predict(audio, rate)


def test_files_that_are_no_sound_and_no_model_are_refused_by_name(tmp_path: Path):
    trained = network(tmp_path)
    (tmp_path / "a.wav").write_text("no sound")
    with pytest.raises(ValueError, match=r"a\.wav: is not an audio file"):
        trained.lite.predict(tmp_path / "a.wav")
    with pytest.raises(ValueError, match=r"b\.wav: cannot be opened"):
        trained.lite.predict(tmp_path / "b.wav")
    with pytest.raises(ValueError, match=r"a\.wav: is damaged or not a model file"):
        npser.load(tmp_path / "a.wav")


# What it costs to import


PREDICT = """
import sys
import npser, npser.lite
p = npser.load(sys.argv[1]).predict(sys.argv[2])
assert not set(sys.modules) & {"numba", "npser_kernels", "scipy.signal", "llvmlite"}, sorted(sys.modules)
print(p.emotion, *p.probabilities.values())
"""


@pytest.mark.parametrize("refused", [[], ["numba", "llvmlite", "npser_kernels", "scipy.signal", "tqdm", "threadpoolctl"]])
def test_prediction_needs_neither_numba_nor_the_kernels_nor_scipy_signal(tmp_path: Path, refused: list[str]):
    trained = network(tmp_path)
    path = recording(tmp_path / "a.wav", sound(9000, rate=22_050), 22_050)
    command = [sys.executable, "-W", "error", "-c", without(*refused) + PREDICT, str(trained.path), str(path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    emotion, *values = done.stdout.split()
    expected = trained.lite.predict(path)
    assert emotion == expected.emotion
    assert [float(value) for value in values] == pytest.approx(list(expected.probabilities.values()))
