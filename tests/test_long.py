"""Long recordings: windows one by one, in little memory; silent ones are marked and left out."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers import RATE, SMALL, UNCOMPILED, network, recording, sound, watched

from npser import features


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("pad", [False, True])
@pytest.mark.parametrize("engine", ["lite", "numba"])
def test_the_timeline_is_that_of_the_file_cut_into_windows_by_hand(tmp_path: Path, rate: int, pad: bool, engine: str):
    trained = network(tmp_path, dataclasses.replace(SMALL, pad=pad)).lite
    left, right = sound(round(5.3 * rate), 1, rate), sound(round(5.3 * rate), 2, rate)
    path = recording(tmp_path / "call.wav", np.stack([left, right], axis=1), rate)
    (whole,) = trained.predict_many([path], engine=engine)
    starts = [round(k * rate / 2) for k in range(10)]  # windows of a second, half overlapping
    for start, window in zip(starts, whole.timeline, strict=True):
        part = ((left + right) / 2)[start : start + rate]
        by_hand = trained.predict(recording(tmp_path / "part.wav", part, rate))
        assert window.probabilities == pytest.approx(by_hand.probabilities, abs=1e-5)
        assert window.gender_probabilities == pytest.approx(by_hand.gender_probabilities, abs=1e-5)
        assert (window.emotion, window.reason) == (by_hand.emotion, None)
        assert window.start == pytest.approx(start / rate, abs=1e-4)
        assert window.end == pytest.approx((start + len(part)) / rate, abs=1e-4)
    assert np.ptp([list(window.probabilities.values()) for window in whole.timeline], axis=0).max() > 0.01
    assert whole.seconds == whole.timeline[-1].end == pytest.approx(5.3, abs=1e-4)


@pytest.mark.parametrize("engine", ["lite", "numba"])
def test_silent_windows_are_marked_and_left_out_of_the_mean(tmp_path: Path, engine: str):
    trained = network(tmp_path).lite
    x = np.concatenate([np.zeros(16_000, np.float32), sound(16_000, 3), np.zeros(24_000, np.float32)])
    (p,) = trained.predict_many([x], RATE, engine)
    assert [window.reason for window in p.timeline] == ["silence", None, None, None, "silence", "silence"]
    for window in (p.timeline[0], p.timeline[-1]):
        assert (window.emotion, window.probabilities, window.gender_probabilities) == (None, {}, {})
    log_p = np.log([list(window.probabilities.values()) for window in p.timeline if window.emotion])
    expected = np.exp(log_p.mean(axis=0))
    np.testing.assert_allclose(list(p.probabilities.values()), expected / expected.sum(), atol=1e-6)
    assert p.emotion is not None
    if engine == "lite":
        assert p.times is not None
        assert p.times[0] == pytest.approx(0.5 + 0.0625)  # in the second window, the first that is answered


def test_a_stream_in_memory_gives_what_its_file_gives(tmp_path: Path):
    trained = network(tmp_path).lite
    path = recording(tmp_path / "a.wav", sound(37_000))
    with path.open("rb") as file:
        assert trained.predict(file).timeline == trained.predict(path).timeline
    empty = tmp_path / "empty"
    empty.touch()
    with empty.open("rb") as file, pytest.raises(ValueError, match=r"empty: the file is empty"):
        trained.predict(file)


@pytest.mark.parametrize("engine", ["lite", "numba"])
def test_memory_does_not_grow_with_the_length(environment: dict[str, str], tmp_path: Path, engine: str):
    if UNCOMPILED and engine == "numba":
        pytest.skip("minutes of sound take minutes without the compiler")
    trained, rate = network(tmp_path, dataclasses.replace(SMALL, max_seconds=7.5)), 32_000
    peaks = {}
    for minutes in (1, 8):
        path = tmp_path / f"{minutes}.wav"
        with soundfile.SoundFile(path, "w", rate, 2, "PCM_16") as file:
            for minute in range(minutes):
                file.write(np.repeat(sound(60 * rate, minute, rate)[:, None], 2, axis=1))
        words = ("predict", path, "--model", trained.path, "--timeline", "--engine", engine)
        done, peaks[minutes] = watched(*words, environment=environment, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.split(" to ")) == 16 * minutes
    assert peaks[8] < peaks[1] + 30  # eight minutes as float32 are 120 MB


@pytest.mark.parametrize("level", [False, True])
@pytest.mark.parametrize("pad_to", [None, 16_000])
@pytest.mark.parametrize("samples", [52_000, 52_300, 48_000, 47_999])
def test_frames_of_overlapping_windows_are_computed_once_and_are_theirs(samples: int, pad_to: int | None, level: bool):
    x = sound(samples, 4) * np.linspace(0.01, 1, samples, dtype=np.float32)  # no two windows have one level
    (span,) = features.spans([x], RATE, 1.0, 20)
    assert span.starts == list(range(0, 8000 * len(span.starts), 8000))
    found = features.log_mel_of_span(span, pad_to, level)
    for S, window in zip(found, span.windows(), strict=True):
        expected = features.log_mel(window, pad_to, level)
        np.testing.assert_allclose(S, expected, atol=2e-4)
        np.testing.assert_allclose(10 ** (S / 10), 10 ** (expected / 10), rtol=2e-5)


@pytest.mark.parametrize("rate", [16_000, 22_050])
@pytest.mark.parametrize("most", [1, 3, 4, 50])
def test_spans_hold_the_windows_of_the_recording_in_order(rate: int, most: int):
    x = sound(round(5.2 * rate), 5, rate)
    expected = list(features.windows([x], rate, 1.0, cut=False))
    blocks = np.array_split(x, 13)
    found = [features.at_16_khz(span, rate, 1.0) for span in features.spans(blocks, rate, 1.0, most)]
    assert [len(span.starts) for span in found[:-1]] == [most] * (len(found) - 1)
    windows = [window for span in found for window in span.windows()]
    assert len(windows) == len(expected) == 10
    for window, one in zip(windows, expected, strict=True):
        np.testing.assert_array_equal(window, one)


def test_a_long_recording_that_breaks_off_is_told_and_the_others_go_on(tmp_path: Path):
    trained = network(tmp_path).lite
    long, broken = sound(16_000 * 30, 6), sound(16_000 * 30, 7)
    broken[16_000 * 25] = np.nan
    soundfile.write(tmp_path / "broken.wav", broken, RATE, subtype="FLOAT")
    audio = [recording(tmp_path / "long.wav", long), tmp_path / "broken.wav", recording(tmp_path / "short.wav", long[:9000])]
    for threads in (1, 3):
        found = list(trained.predict_many(audio, engine="numba", threads=threads))
        assert "broken.wav: holds samples that are not finite" in str(found[1].error)
        for p, path in zip((found[0], found[2]), (audio[0], audio[2]), strict=True):
            assert p.probabilities == pytest.approx(trained.predict(path).probabilities, abs=1e-5)


def test_a_long_recording_may_be_given_up(tmp_path: Path):
    trained = network(tmp_path).lite
    predictions = trained.predict_many([sound(16_000, 1), *[sound(16_000 * 40, i) for i in range(20)]], RATE, "numba", 2)
    next(predictions)
    predictions.close()  # pyright: ignore[reportAttributeAccessIssue]
