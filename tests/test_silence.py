"""What is not answered, and that real speech is, however faint its recording."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers import CORPORA, RATE, SMALL, network, recording, sound

from npser.corpora import Corpus, Utterance
from npser.dataset import Dataset, prepare
from npser.features import log_mel_kind, read_windows
from npser.speech import refusal

NOISE = "noise below the level of speech"


def noise(seconds: float, colour: str = "white") -> np.ndarray:
    """Steady noise at full scale, (n,), or the hum of the mains."""
    n = round(seconds * RATE)
    if colour == "hum":
        return np.sin(2 * np.pi * 50 * np.arange(n) / RATE)
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(n))
    x = np.fft.irfft(spectrum / np.sqrt(1 + np.arange(len(spectrum))) if colour == "pink" else spectrum, n)
    return x / x.std()


@pytest.mark.parametrize("n", [1, 399, 400, 4799])
def test_less_than_three_tenths_of_a_second_is_too_short(n: int):
    assert refusal(sound(n)) == "shorter than 0.3 s"
    assert refusal(sound(4800)) is None


@pytest.mark.parametrize("seconds", [0.4, 2.0, 7.5])
def test_nothing_a_constant_and_the_toggling_of_the_last_bit_are_silence(seconds: float):
    n, rng = round(seconds * RATE), np.random.default_rng(0)
    for x in (np.zeros(n), np.full(n, 0.25), rng.integers(0, 2, n) / 32768):
        assert refusal(x.astype(np.float32)) == "silence"


@pytest.mark.parametrize("colour", ["white", "pink", "hum"])
@pytest.mark.parametrize("seconds", [0.4, 2.0, 7.5])
@pytest.mark.parametrize("decibels", [-90, -60, -45])
def test_faint_steady_noise_is_no_speech(colour: str, seconds: float, decibels: float):
    x = noise(seconds, colour) * 10 ** (decibels / 20)
    assert refusal(x.astype(np.float32)) == NOISE
    x[len(x) // 2 :][:200] *= 30  # a click
    x[2000:2400] = 0  # a gap
    assert refusal(x.astype(np.float32)) == NOISE


@pytest.mark.parametrize(("frames", "reason"), [(1, NOISE), (3, NOISE), (4, None)])
def test_a_tenth_of_a_second_that_is_loud_may_be_speech_and_less_is_a_click(frames: int, reason: str | None):
    x = noise(2) * 10 ** (-60 / 20)
    x[8000 : 8000 + 400 * frames] *= 30
    assert refusal(x.astype(np.float32)) == reason


@pytest.mark.parametrize("decibels", [0, -20, -40, -60])
def test_what_comes_and_goes_is_answered_however_faint(decibels: float):
    assert refusal(sound(3 * RATE) * np.float32(10 ** (decibels / 20))) is None


def test_real_speech_is_answered_even_40_decibels_fainter():
    files = sorted(CORPORA.glob("*/**/*.flac"))[::25]
    if not files:
        pytest.skip(f"no recordings in {CORPORA}; name a folder of corpora in NPSER_CORPORA")
    for path in files:
        x, rate = soundfile.read(path, dtype="float32")
        assert rate == RATE
        stored = np.round(x * np.float32(327.68 / np.abs(x).max())) / np.float32(32768)  # 16 bits, peak at -40 dB
        for version in (x, x * np.float32(0.01), stored):
            assert refusal(version) is None, path


@pytest.mark.parametrize("pad", [False, True])
@pytest.mark.parametrize("level", [False, True])
def test_what_prediction_would_not_answer_is_not_trained_on_or_scored(tmp_path: Path, pad: bool, level: bool):
    late = np.concatenate([np.zeros(16_000), sound(9000, 4)])
    sounds = {"a": sound(9000, 1), "b": sound(4800, 2), "c": sound(37_000, 3), "late": late, "zeros": np.zeros(40_000)}
    sounds |= {"short": sound(4799, 5), "one": sound(1, 6), "short zeros": np.zeros(3000), "e": sound(7000, 7)}
    paths = {name: recording(tmp_path / f"{name}.wav", x) for name, x in sounds.items()}
    utterances = [Utterance(path, ("angry", "sad")[k % 2], "test") for k, path in enumerate(paths.values())]
    config, corpus = dataclasses.replace(SMALL, pad=pad, level=level), Corpus(utterances, ["angry", "sad"], {}, ["test"])
    with ThreadPoolExecutor(1) as pool:

        def prepared(skip_bad: bool) -> Dataset:
            return prepare(corpus, config, tmp_path / "cache", pool, lambda items, **_: items, skip_bad)

        with pytest.warns(UserWarning, match="left out") as told:
            data = prepared(skip_bad=True)
        with (
            pytest.warns(UserWarning, match="left out"),
            pytest.raises(ValueError, match=r"of 9 files cannot be used.*--skip-bad$"),
        ):
            prepared(skip_bad=False)
    silent = {"zeros", "short", "one", "short zeros"} | ({"late"} if pad else set())  # which is cut before its sound begins
    reasons = {name: "silence" if name in ("zeros", "late") else "shorter than 0.3 s" for name in silent}
    assert data.bad == {str(paths[name]): reason for name, reason in reasons.items()}
    assert sorted(str(w.message) for w in told) == sorted(f"left out: {path}: {reason}" for path, reason in data.bad.items())
    assert {u.path.stem for u in data.utterances} == set(sounds) - silent
    for r, utterance in enumerate(data.utterances):  # each has its own windows
        waves = list(read_windows(utterance.path, config.max_seconds, cut=pad))
        first, end = data.store.recordings[r : r + 2]
        assert data.store.samples[first:end].tolist() == [len(x) for x in waves]
        rows = data.store.rows[data.store.bounds[first] : data.store.bounds[end]]
        np.testing.assert_array_equal(rows, np.concatenate([log_mel_kind(1.0, pad, level).rows(x) for x in waves]))


@pytest.mark.parametrize("pad", [False, True])
def test_what_is_not_answered_says_why_and_guesses_nothing(tmp_path: Path, pad: bool):
    trained = network(tmp_path, dataclasses.replace(SMALL, pad=pad))
    cases = {
        "short": (sound(4000), "shorter than 0.3 s"),
        "zeros": (np.zeros(40_000), "silence"),
        "noise": (0.001 * noise(2.5), NOISE),
        "both": (np.concatenate([np.zeros(20_000), 0.001 * noise(2)]), f"silence and {NOISE}"),
    }
    for name, (x, reason) in cases.items():
        p = trained.lite.predict(recording(tmp_path / f"{name}.wav", x))
        assert (p.emotion, p.probabilities, p.gender, p.gender_probabilities) == (None, {}, None, None)
        assert (p.reason, p.attention, p.times) == (reason, None, None)
        assert p.seconds == pytest.approx(len(x) / RATE)
    assert trained.lite.predict(sound(9000), RATE).reason is None
