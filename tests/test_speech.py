"""What is heard: the resampler and the detector, in blocks of any length, and models that hear speech alone."""

import dataclasses
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers import CORPORA, RATE, SMALL, SMALL_FORWARD, Array, melody, network, noise, recording, sound
from hypothesis import given, settings
from hypothesis import strategies as st

from npser import features, lite
from npser.corpora import Utterance
from npser.features import resample
from npser.network import Network
from npser.networks import li2019
from npser.speech import (
    AFTER,
    BEFORE,
    FRAME,
    LAG,
    NONE,
    SUSTAINED,
    Detector,
    Resampler,
    Speech,
    is_music,
    lines_of,
    powers_of,
    read_windows,
    spans,
)
from npser.store import store_of

HEARING = dataclasses.replace(SMALL, level=True, speech=True)
REAL = sorted(path for path in CORPORA.glob("*/**/*.*") if path.suffix in (".flac", ".wav"))
real = pytest.mark.skipif(not REAL, reason=f"no corpora in {CORPORA}")


def pieces(x: Array, seed: int, count: int = 40) -> list[Array]:
    """x in pieces of random lengths, some of them empty."""
    cuts = np.sort(np.random.default_rng(seed).integers(0, len(x) + 1, count))
    return np.split(x, cuts)


def in_blocks(machine: Resampler | Detector | Speech, blocks: list[Array]) -> list:
    found = [machine.feed(block) for block in blocks]
    return [*found, machine.end()]


def heard(x: Array, rate: int = RATE) -> list[tuple[int, int]]:
    """Runs of speech, as the frames where they start and end; those that touch are one."""
    runs: list[tuple[int, int]] = []
    for part in in_blocks(Speech(rate), [x]):
        for start, y in part:
            if runs and runs[-1][1] == start:
                runs[-1] = (runs[-1][0], start + len(y))
            else:
                runs.append((start, start + len(y)))
    return runs


# Resampling


@pytest.mark.parametrize("rate", [4000, 8000, 11025, 22050, 44100, 48000, 96000, 192000, 15999])
def test_tones_keep_their_height_and_place(rate: int):
    n, hz = round(0.5 * rate), np.array([90, 440, min(6500, 0.42 * rate)])
    x = np.sin(2 * np.pi * hz * np.arange(n)[:, None] / rate).sum(axis=1).astype(np.float32)
    y = np.concatenate(in_blocks(Resampler(rate), [x]))
    expected = np.sin(2 * np.pi * hz * np.arange(len(y))[:, None] / RATE).sum(axis=1)
    assert len(y) == len(resample(x, rate))
    np.testing.assert_allclose(y[800:-800], expected[800:-800], atol=2e-3)


def test_what_16_khz_cannot_hold_is_gone():
    x = np.sin(2 * np.pi * 9000 * np.arange(24_000) / 48_000).astype(np.float32)
    y = np.concatenate(in_blocks(Resampler(48_000), [x]))
    assert np.abs(y[800:-800]).max() < 1e-3


@settings(deadline=None, max_examples=20)
@given(st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000, 15999]), st.integers(0, 1000), st.integers(0, 9000))
def test_how_sound_comes_in_blocks_does_not_change_a_bit_of_it(rate: int, seed: int, n: int):
    x = sound(n, seed % 7, rate)
    whole, parts = (np.concatenate(in_blocks(Resampler(rate), blocks)) for blocks in ([x], pieces(x, seed)))
    np.testing.assert_array_equal(whole, parts)
    assert len(whole) == (len(resample(x, rate)) if n > 1 else n * max(1, round(RATE / rate)))


# The detector


def test_speech_between_pauses_is_found_and_keeps_its_surroundings():
    word = sound(16_000, 1)
    x = np.concatenate([noise(1.5, -70), word, noise(2, -70), word, noise(1.5, -70)])
    first, second = heard(x)
    for (start, end), begin in ((first, 24_000), (second, 24_000 + 48_000)):
        assert begin - (BEFORE + 3) * FRAME <= start <= begin + 3 * FRAME
        assert begin + 12_000 <= end <= begin + 16_000 + (AFTER + 2) * FRAME


def test_runs_are_samples_of_the_sound():
    x = np.concatenate([noise(1.5, -70), sound(20_000, 1), noise(3, -70), sound(9_000, 2)])
    whole = np.concatenate([x, np.zeros(FRAME)])  # the last frame is filled up
    for part in in_blocks(Speech(RATE), pieces(x, 3)):
        for start, y in part:
            np.testing.assert_array_equal(y, whole[start : start + len(y)])


@pytest.mark.parametrize("kind", ["white", "hum", "constant", "zeros", "one bit"])
@pytest.mark.parametrize("seconds", [0.5, 5.0, 30.0])
def test_what_is_steady_is_no_speech_however_loud(kind: str, seconds: float):
    n = round(seconds * RATE)
    x = {
        "white": noise(seconds, -20),
        "hum": 0.1 * np.sin(2 * np.pi * 50 * np.arange(n) / RATE),
        "constant": np.full(n, 0.25),
        "zeros": np.zeros(n),
        "one bit": np.random.default_rng(0).integers(0, 2, n) / 32768,
    }[kind]
    assert heard(x.astype(np.float32)) == []


def test_a_click_is_no_speech():
    x = noise(4, -70)
    x[30_000:30_300] = 0.5
    assert heard(x) == []


def test_words_over_noise_are_found():
    x = noise(8, -34)  # about 10 dB below the words
    x[40_000:56_000] += sound(16_000, 1)
    assert sum(end - start for start, end in heard(x)) > 10_000
    assert all(39_000 - BEFORE * FRAME < start < 62_000 for start, _ in heard(x))


@pytest.mark.parametrize("seed", range(4))
def test_music_is_no_speech_and_words_over_it_are(seed: int):
    music = melody(9, -34, seed)
    assert sum(end - start for start, end in heard(music)) < 0.1 * len(music)
    words = music.copy()
    words[64_000:88_000] += sound(24_000, 1)
    told = heard(words)
    assert sum(end - start for start, end in told if 60_000 - BEFORE * FRAME < start < 90_000) > 20_000
    assert sum(end - start for start, end in told) < 24_000 + (BEFORE + AFTER) * FRAME + 0.1 * len(music)


def test_a_note_is_sustained_and_a_voice_is_not():
    t = np.arange(RATE) / RATE
    k = np.arange(1, 10)[:, None]
    note, glide = (np.sum(np.sin(2 * np.pi * k * cycles) / k, axis=0) for cycles in (220 * t, 200 * t + 100 * t**2))
    for x, share in ((note, 1.0), (0.01 * note, 1.0), (glide, 0.0), (noise(1, -20), 0.0)):
        lines = lines_of(powers_of(x))
        np.testing.assert_allclose((lines**2).sum(axis=1), 1)
        np.testing.assert_allclose(lines.sum(axis=1), 0, atol=1e-9)
        sustained = (lines[LAG:] * lines[:-LAG]).sum(axis=1) > SUSTAINED
        assert sustained.mean() == pytest.approx(share, abs=0.05)


def test_there_is_music_where_more_than_four_fifths_of_what_is_faint_are_sustained():
    levels = np.repeat([-50.0, -20.0], 20)  # rounding may part the first ones
    levels[:20] += 1e-13 * np.arange(20)
    for count, music in ((16, False), (17, True)):
        sustained = np.r_[np.arange(20) < count, np.zeros(20, bool)]
        assert is_music(levels, sustained) is music
        assert is_music(levels[::-1], sustained[::-1]) is music
    assert not is_music(levels[:39], np.ones(39, bool))  # less than a second
    assert is_music(np.full(40, -30.0), np.arange(40) < 33)


@pytest.mark.parametrize("sounding", [3, 6, 8, 20])
def test_what_has_nothing_before_it_is_sustained_where_what_follows_is(sounding: int):
    hiss, rest = noise(sounding * FRAME / RATE, -20), np.zeros(RATE, np.float32)
    detector = Detector()
    detector.feed(np.concatenate([hiss, rest]))
    assert detector.sustained.tolist() == [False] * sounding
    detector = Detector()
    t = np.arange(sounding * FRAME) / RATE
    detector.feed(np.concatenate([0.1 * np.sin(2 * np.pi * 880 * t), rest]).astype(np.float32))
    assert detector.sustained.tolist() == [t + LAG < sounding or t >= LAG for t in range(sounding)]


def test_a_vowel_that_is_held_without_a_pause_is_taken_for_a_note():
    t, k = np.arange(3 * RATE) / RATE, np.arange(1, 15)[:, None]
    vowel = np.sum(np.sin(2 * np.pi * k * 200 * t) / k, axis=0) * np.sin(np.pi * t / 3)
    assert heard((0.1 * vowel).astype(np.float32)) == []
    around = np.concatenate([noise(1, -60), 0.1 * vowel + noise(3, -60), noise(1, -60)])
    assert sum(end - start for start, end in heard(around.astype(np.float32))) > 2 * RATE


def test_lines_are_what_is_left_of_a_logarithm_without_the_mean_around_each_bin():
    power = np.random.default_rng(0).lognormal(size=(3, 20))
    expected = np.empty_like(power)
    for t, row in enumerate(np.log(power)):
        for k in range(20):
            expected[t, k] = row[k] - np.mean([row[min(max(i, 0), 19)] for i in range(k - 4, k + 5)])
        expected[t] -= expected[t].mean()
        expected[t] /= np.sqrt(np.sum(expected[t] ** 2))
    np.testing.assert_allclose(lines_of(power), expected, atol=1e-12)


@pytest.mark.parametrize("n", [0, 1, 399, 400, 4800, 16_001])
def test_short_sounds_end_whole(n: int):
    x = sound(n, 1)
    runs = heard(x)
    assert all(end < n + FRAME for _, end in runs)
    if n > 4000:
        assert runs[-1][1] >= n


def test_a_long_block_at_an_odd_rate_takes_no_longer_than_short_ones():
    """Each sample is moved a few times at most, and each filter computed once."""
    x = sound(20 * 44_101, 1, 44_101)
    y = np.concatenate([*(part for _, part in Speech(44_101).feed(x))])
    assert len(y) > 10 * RATE


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(0, 90_000))
def test_blocks_of_any_length_give_the_same_speech(seed: int, n: int):
    x = np.concatenate([sound(n // 3, seed % 5), noise(n / 3 / RATE, -60, seed), sound(n // 3, seed % 3)])
    x = x + melody(len(x) / RATE, -40, seed) if seed % 2 and len(x) else x
    whole, parts = (np.concatenate([np.empty(0), *(y for part in in_blocks(Speech(RATE), b) for _, y in part)]) for b in
                    ([x], pieces(x, seed)))  # fmt: skip
    np.testing.assert_array_equal(whole, parts)


def test_digital_silence_is_not_remembered():
    """After whole seconds of it, what is told of a sound is the same."""
    x, zeros = np.concatenate([noise(1, -50), sound(20_000, 1), noise(1, -50), sound(9_000, 3), noise(1, -50)]), np.zeros(RATE)
    plain = heard(x)
    assert heard(np.concatenate([np.tile(zeros, 3), x]).astype(np.float32)) == [(a + 3 * RATE, b + 3 * RATE) for a, b in plain]


def test_hours_take_no_memory():
    minute, speech = np.concatenate([sound(30 * RATE, 1), noise(30, -60)]), Speech(44_100)
    speech.feed(minute)
    tracemalloc.start()
    for _ in range(3):
        speech.feed(minute)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 200_000


# Windows, and the models that hear them


def test_windows_of_speech_know_where_they_lie():
    x = np.concatenate([noise(2, -70), sound(30_000, 1), noise(3, -70), sound(26_000, 2), noise(1, -70)])
    count = 0
    for span in spans(iter(pieces(x, 5)), RATE, 1.0, 2):
        for window, runs in zip(span.windows(), span.places(), strict=True):
            at = np.round(features.moments(runs, np.arange(1, len(window) + 1)) * RATE).astype(int) - 1
            np.testing.assert_array_equal(x[at], window)
            count += 1
    assert count > 3


def test_windows_of_an_odd_length_know_where_they_lie():
    x = np.concatenate([part for k in range(6) for part in (noise(2, -70, k), sound(30_000, k))])
    for span in spans(iter([x]), RATE, 0.30005, 3):
        for window, runs in zip(span.windows(), span.places(), strict=True):
            at = np.round(features.moments(runs, np.arange(1, len(window) + 1)) * RATE).astype(int) - 1
            np.testing.assert_array_equal(np.append(x, np.zeros(FRAME))[at], window)


def test_without_speech_there_is_one_empty_window():
    (span,) = spans(iter([np.zeros(16_000, np.float32)]), RATE, 1.0, 4)
    assert (span.starts, span.ends, len(span.x)) == ([0], [0], 0)


@pytest.mark.parametrize("c", [HEARING, dataclasses.replace(SMALL_FORWARD, level=True, speech=True)], ids=["blstm", "forward"])
def test_all_engines_hear_the_same_speech(tmp_path: Path, c: li2019.Config):
    trained = network(tmp_path, c)
    x = np.concatenate([noise(1, -70), sound(30_000, 1), noise(2, -70), sound(14_000, 2)])
    path = recording(tmp_path / "a.wav", x)
    p = trained.lite.predict(path)
    (q,) = trained.lite.predict_many([path], engine="numba")
    windows = list(read_windows(path, c.max_seconds))
    engine = Network.of(trained.lite.checkpoint)
    with ThreadPoolExecutor(1) as pool:
        store = store_of(windows, li2019.kind(c))
        logits, _ = engine.logits(store, np.arange(len(windows)), pool)
    for label in trained.lite.emotions:
        assert p.probabilities[label] == pytest.approx(q.probabilities[label], abs=1e-5)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = np.exp(log_p.mean(axis=0))
    np.testing.assert_allclose(list(p.probabilities.values()), expected / expected.sum(), atol=1e-5)
    assert [(w.start, w.end) for w in p.timeline] == [(w.start, w.end) for w in q.timeline]
    assert p.seconds == q.seconds == len(x) / RATE


def test_pauses_make_no_difference(tmp_path: Path):
    trained, x, zeros = network(tmp_path, HEARING).lite, sound(28_000, 1), np.zeros(16_000, np.float32)
    p = trained.predict(x, RATE)
    for longer in ([zeros, x], [x, zeros], [zeros, zeros, x, zeros]):
        assert trained.predict(np.concatenate(longer), RATE).probabilities == p.probabilities
    later = trained.predict(np.concatenate([zeros, x]), RATE)
    assert [w.start for w in later.timeline] == [w.start + 1 for w in p.timeline]


def test_what_holds_no_speech_gets_no_answer(tmp_path: Path):
    trained = network(tmp_path, HEARING).lite
    for x in (np.zeros(32_000, np.float32), noise(2, -20)):
        p = trained.predict(x, RATE)
        assert (p.emotion, p.reason, p.seconds) == (None, NONE, 2.0)
        assert [(w.start, w.end) for w in p.timeline] == [(0.0, 2.0)]


def test_a_corpus_leaves_out_what_holds_no_speech(tmp_path: Path):
    from npser.corpora import Corpus
    from npser.dataset import prepare

    paths = [recording(tmp_path / f"{k}.wav", sound(12_000, k)) for k in range(3)] + [
        recording(tmp_path / "noise.wav", noise(1, -20))
    ]
    utterances = [Utterance(path, "sad", "c", "c/1", None, None) for path in paths]
    with ThreadPoolExecutor(1) as pool, pytest.warns(UserWarning, match="left out: .*noise.wav: no speech"):
        data = prepare(Corpus(utterances, ["sad"], {}, ["c"]), HEARING, tmp_path / "c", pool, lambda i, **_: i, skip_bad=True)
    assert len(data.utterances) == 3


def test_pauses_are_heard_where_windows_are_padded():
    for wrong in ({"pad": True}, {"level": False}):
        with pytest.raises(ValueError, match="setting speech is True; expected false, or level = true and pad = false with it"):
            dataclasses.replace(HEARING, **wrong)


@real
def test_no_recording_of_the_corpora_is_without_speech():
    for path in REAL[:: max(1, len(REAL) // 150)]:
        x = np.concatenate(list(read_windows(path, 1000.0)))
        assert len(x) >= 0.3 * RATE, path


@real
def test_recordings_of_the_corpora_are_far_from_music():
    for path in REAL[:: max(1, len(REAL) // 150)]:
        detector = Detector()
        detector.feed(np.concatenate(list(features.read_blocks(path)[1])))
        faint = detector.levels <= np.median(detector.levels)
        assert detector.sustained[faint].mean() < 0.7, path


@real
def test_a_second_of_silence_around_a_real_recording_changes_nothing(tmp_path: Path):
    trained = network(tmp_path, HEARING).lite
    for path in REAL[:: max(1, len(REAL) // 20)]:
        rate, blocks = features.read_blocks(path)
        x = np.concatenate(list(blocks))
        zeros = np.zeros(rate, np.float32)
        assert (
            trained.predict(np.concatenate([zeros, x, zeros]), rate).probabilities
            == lite.Model.predict(trained, x, rate).probabilities
        )
