"""The examples run, and do what they say."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, Command, network, recording, sound

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


def test_how_often_the_answer_changes(
    npser: Command, corpus: Path, small: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    npser("crossval", corpus, "--config", small, "--no-oracle", "--out", "run")
    lines = example("robustness.py", tmp_path / "run", environment=environment)
    names = [line.partition(" changes ")[0].strip() for line in lines]
    levels = ["-10 dB", "-20 dB", "-30 dB", "-30 dB, not rounded"]
    lines_of = ["telephone", "telephone, adapted", "8 kHz", "noise", "noise, adapted", "silence around"]
    assert names == levels + lines_of
    assert all(line.endswith("of 24 answers") for line in lines)
    example("robustness.py", environment=environment, status=1)


def test_what_the_first_seconds_are_worth(
    npser: Command, corpus: Path, small: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    npser("crossval", corpus, "--config", small, "--no-oracle", "--epochs", "1", "--seeds", "2", "--out", "run")
    lines = example("delay.py", tmp_path / "run", tmp_path / "delay.png", environment=environment)
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert [row[0] for row in cells] == ["0.5", "1", "2", "4", "7.5"]
    assert all(0 <= float(row[1]) <= 1 for row in cells)
    assert len({row[1] for row in cells}) == 1  # these recordings last for 0.35 s
    assert (tmp_path / "delay.png").stat().st_size > 5000
