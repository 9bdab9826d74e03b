"""The synthetic corpus: speech-like, balanced, the same every time, and neither trivial nor hopeless."""

import csv
import filecmp
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from npser import corpora
from npser.corpora import synthetic


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.generate(tmp_path_factory.mktemp("synthetic"), 80).parent


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def pitch(x: np.ndarray) -> float:
    """Median F0 in Hz of the frames that have one: the lag of the highest autocorrelation."""
    found = []
    for start in range(0, len(x) - 1024, 400):
        frame = x[start : start + 1024] - x[start : start + 1024].mean()
        spectrum = np.abs(np.fft.rfft(frame * np.hanning(1024), 2048)) ** 2
        correlation = np.fft.irfft(spectrum)[:270]
        lag = 30 + correlation[30:].argmax()
        if np.sqrt(np.mean(frame**2)) > 0.005 and correlation[lag] > 0.5 * correlation[0]:
            found.append(16000 / lag)
    return float(np.median(found))


def level(x: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(x**2)))


def measured(folder: Path, measure) -> dict[str, dict[str, list[float]]]:
    """Speaker -> emotion -> what was measured of each utterance."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows_of(folder):
        x, _ = soundfile.read(folder / row["path"])
        found.setdefault(row["speaker"], {}).setdefault(row["emotion"], []).append(measure(x))
    return found


def test_the_corpus_is_the_same_byte_for_byte_and_a_longer_one_starts_with_it(folder: Path, tmp_path: Path) -> None:
    again = synthetic.generate(tmp_path / "again", 40).parent
    names = [row["path"] for row in rows_of(again)]
    assert filecmp.cmpfiles(folder, again, names, shallow=False)[0] == names
    other = synthetic.generate(tmp_path / "other", 40, seed=1).parent
    assert filecmp.cmpfiles(folder, other, names, shallow=False)[1] == names


def test_sessions_of_one_woman_and_one_man_have_all_emotions(folder: Path) -> None:
    rows = rows_of(folder)
    assert len(rows) == 80
    assert set(Counter((row["session"], row["gender"], row["emotion"]) for row in rows).values()) == {2}
    assert len({row["speaker"] for row in rows}) == 10
    corpus = corpora.load(folder)
    assert corpus.labels == ["angry", "happy", "neutral", "sad"]
    assert corpus.names == [synthetic.NAME]


def test_utterances_are_of_one_to_four_seconds_at_16_khz(folder: Path) -> None:
    for row in rows_of(folder):
        info = soundfile.info(folder / row["path"])
        assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
        assert 1 <= info.duration <= 4
        assert np.abs(soundfile.read(folder / row["path"])[0]).max() < 0.95


def test_women_speak_higher_than_men_and_emotions_differ_as_published(folder: Path) -> None:
    f0, loudness = measured(folder, pitch), measured(folder, level)
    for session in "12345":
        assert np.mean(f0[f"{session}F"]["neutral"]) > 1.3 * np.mean(f0[f"{session}M"]["neutral"])

    def mean(measured: dict[str, dict[str, list[float]]], emotion: str) -> float:
        return float(np.mean([value for by_emotion in measured.values() for value in by_emotion[emotion]]))

    assert mean(f0, "happy") > 1.1 * mean(f0, "neutral") > 1.1 * mean(f0, "sad")
    assert mean(f0, "angry") > 1.1 * mean(f0, "neutral")
    assert mean(loudness, "angry") > mean(loudness, "happy") > mean(loudness, "neutral") > mean(loudness, "sad")


def test_one_measure_does_not_tell_the_emotions_apart(folder: Path) -> None:
    for measure in (pitch, level):
        found = measured(folder, measure)
        values = [(value, emotion) for by in found.values() for emotion, some in by.items() for value in some]
        nearest = [min((v, e) for v, e in ((abs(a - b), e) for b, e in values) if v > 0)[1] for a, _ in values]
        assert np.mean([guess == emotion for guess, (_, emotion) in zip(nearest, values, strict=True)]) < 0.7


def test_a_corpus_that_was_interrupted_is_not_taken_for_whole(tmp_path: Path) -> None:
    def interrupted(numbers):
        for k in numbers:
            if k == 20:
                raise KeyboardInterrupt
            yield k

    synthetic.generate(tmp_path, 40)
    with pytest.raises(KeyboardInterrupt):
        synthetic.generate(tmp_path, 40, progress=interrupted)
    assert not (tmp_path / "manifest.csv").exists()


def test_fewer_than_one_utterance_of_each_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 40"):
        synthetic.generate(tmp_path, 39)
