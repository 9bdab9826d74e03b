"""The examples run, and do what they say."""

import csv
import itertools
import runpy
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers import RATE, ROOT, Command, network, recording, sound

EXAMPLES = ROOT / "examples"


def example(name: str, *words: str | Path, environment: dict[str, str], status: int = 0) -> list[str]:
    """Lines that an example prints."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *map(str, words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == status, done.stderr
    return done.stdout.splitlines()


def test_one_file(environment: dict[str, str], tmp_path: Path):
    trained, path = network(tmp_path), recording(tmp_path / "a.wav", sound(9000))
    lines = example("classify.py", trained.path, path, environment=environment)
    assert [line.split()[0] for line in lines] == [*trained.lite.emotions, "head", "head"]
    lines = example("classify.py", trained.path, recording(path, np.zeros(9000)), environment=environment)
    assert lines == ["no answer: silence"]
    example("classify.py", environment=environment, status=1)


def test_a_folder_to_csv(environment: dict[str, str], tmp_path: Path):
    trained = network(tmp_path)
    (tmp_path / "folder" / "more").mkdir(parents=True)
    expected = trained.lite.predict(recording(tmp_path / "folder" / "more" / "b.WAV", sound(9000)))
    recording(tmp_path / "folder" / "c.wav", np.zeros(9000))
    (tmp_path / "folder" / "d.mp3").write_text("no sound")
    example("folder_to_csv.py", trained.path, tmp_path / "folder", tmp_path / "out.csv", environment=environment)
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = {Path(row["path"]).name: row for row in csv.DictReader(file)}
    assert [rows[name]["emotion"] for name in ("b.WAV", "c.wav", "d.mp3")] == [expected.emotion, "", ""]
    assert float(rows["b.WAV"]["sad"]) == pytest.approx(expected.probabilities["sad"], abs=1e-4)
    assert rows["c.wav"]["why not"] == "silence"
    assert "not an audio file" in rows["d.mp3"]["why not"]


def test_live_sound_is_answered_every_second_from_its_last_seconds(environment: dict[str, str], tmp_path: Path):
    trained, x = network(tmp_path), np.concatenate([np.zeros(RATE, np.float32), sound(9 * RATE + 4000)])
    lines = example("live.py", trained.path, recording(tmp_path / "a.wav", x), environment=environment)
    assert [line.split()[0] for line in lines] == [str(second) for second in range(1, 11)]
    assert "silence" in lines[0]
    live = runpy.run_path(str(EXAMPLES / "live.py"))["live"]
    blocks = (x[:500], x[500:40_000], x[40_000:40_001], x[40_001:])
    found = dict(live(trained.lite, blocks, RATE))
    assert list(found) == list(range(1, 11))
    for second in (1, 3, 10):
        part = x[: second * RATE][-round(7.5 * RATE) :]
        assert found[second].timeline == trained.lite.predict(part, RATE).timeline


def test_the_microphone_is_read_in_blocks_of_one_channel(monkeypatch: pytest.MonkeyPatch):
    class Stream:
        """What sounddevice.InputStream is."""

        def __init__(self, samplerate: int, channels: int, dtype: str):
            assert (samplerate, channels, dtype) == (8000, 1, "float32")

        def __enter__(self) -> "Stream":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def read(self, frames: int) -> tuple[np.ndarray, bool]:
            return np.ones((frames, 1), np.float32), False

    monkeypatch.setitem(sys.modules, "sounddevice", types.SimpleNamespace(InputStream=Stream))  # pyright: ignore
    microphone = runpy.run_path(str(EXAMPLES / "live.py"))["microphone"]
    for block in itertools.islice(microphone(8000), 3):
        assert (block.shape, block.dtype) == ((800,), np.float32)


def test_a_recording_stands_in_for_the_microphone(tmp_path: Path):
    stereo = np.stack([sound(9000), -sound(9000, 1)], axis=1)
    soundfile.write(tmp_path / "a.wav", stereo, RATE, subtype="FLOAT")
    blocks = list(runpy.run_path(str(EXAMPLES / "live.py"))["recording"](str(tmp_path / "a.wav")))
    assert [len(block) for block in blocks] == [1600] * 5 + [1000]
    np.testing.assert_allclose(np.concatenate(blocks), stereo.mean(axis=1), atol=1e-7)


def test_how_often_the_answer_changes(
    npser: Command, corpus: Path, small: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    npser("crossval", corpus, "--config", small, "--no-oracle", "--out", "run")
    lines = example("robustness.py", tmp_path / "run", environment=environment)
    names = [line.partition(" changes ")[0].strip() for line in lines]
    assert names == ["-10 dB", "-20 dB", "-30 dB", "-30 dB, not rounded", "telephone", "8 kHz", "noise"]
    assert all(line.endswith("of 24 answers") for line in lines)
    example("robustness.py", environment=environment, status=1)
