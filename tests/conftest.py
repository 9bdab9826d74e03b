"""What several files of tests share: a small corpus, and the command as a user runs it."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

UNCOMPILED = os.environ.get("NUMBA_DISABLE_JIT") == "1"
ROOT = Path(__file__).parent.parent
RATE = 16000
SMALL = """
d_cnn = 4
d_lstm = 4
d_attn = 8
n_attn = 2
batch = 8
epochs = 3
learning_rate = 1e-2
schedule = "constant"
warmup = 0.0
select = "ua"
"""


def tone(path: Path, hz: float, seconds: float = 0.35, seed: int = 0) -> None:
    """A buzz of some fundamental frequency with noise."""
    t = np.arange(round(seconds * RATE)) / RATE
    wave = sum(np.sin(2 * np.pi * hz * k * t) / k for k in range(1, 6))
    noise = np.random.default_rng(seed).standard_normal(t.size)
    soundfile.write(path, (0.1 * wave + 0.01 * noise).astype(np.float32), RATE, subtype="PCM_16")


def write_manifest(path: Path, rows: list[dict[str, str]]) -> Path:
    """A CSV with the columns of its first row."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sessions of a woman and a man, two emotions that differ in pitch, 24 files of a third of a second."""
    folder = tmp_path_factory.mktemp("corpora") / "buzz"
    folder.mkdir()
    rows = []
    for session in "123":
        for gender, base in (("female", 200.0), ("male", 110.0)):
            for emotion, factor in (("angry", 1.5), ("sad", 0.9)):
                for take in range(2):
                    name = f"{session}{gender[0]}_{emotion}_{take}.wav"
                    tone(folder / name, base * factor + 5 * int(session) + take, seed=len(rows))
                    row = {"path": name, "emotion": emotion, "speaker": session + gender[0], "gender": gender}
                    rows.append(row | {"session": session})
    write_manifest(folder / "manifest.csv", rows)
    return folder


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of a user who has this source tree, and a cache of their own."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    return {**os.environ, "PYTHONPATH": path, "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def npser(tmp_path: Path, environment: dict[str, str]) -> Command:
    """Run the command in tmp_path; extra keywords go to subprocess.run."""

    def run(*words: str | Path, status: int = 0, **options: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "npser", *map(str, words)]
        settings = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "timeout": 600, **options}
        done = subprocess.run(command, **settings)  # pyright: ignore[reportCallIssue, reportArgumentType]
        assert done.returncode == status, f"{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings of a network that trains in a moment."""
    path = tmp_path_factory.mktemp("settings") / "small.toml"
    path.write_text(SMALL)
    return path


@pytest.fixture(scope="session")
def trained(corpus: Path, small: Path, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a finished training."""
    out = tmp_path_factory.mktemp("runs") / "run"
    command = [sys.executable, "-m", "npser", "train", str(corpus), "--config", str(small), "--out", str(out)]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=600)
    return out


def report_of(run: Path) -> dict[str, Any]:
    """The report without what may differ from one run to the next."""
    report = json.loads((run / "report.json").read_text())
    del report["run"]
    return report


def lines_of(run: Path) -> list[str]:
    """The lines of report.json but for those of the key run."""
    text = (run / "report.json").read_text()
    before, _, rest = text.partition('  "run": {')
    return before.splitlines() + rest.partition("},\n")[2].splitlines()


def assert_same_run(a: Path, b: Path) -> None:
    assert {path.name for path in a.iterdir()} == {path.name for path in b.iterdir()}
    for name in ("model.safetensors", "last.safetensors", "metrics.jsonl", "config.toml", "report.md"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    assert lines_of(a) == lines_of(b)


def one_sentence(shown: subprocess.CompletedProcess[str], *words: str) -> None:
    """The last line of standard error names what is wrong; nothing but warnings stands before it."""
    *warnings, line = shown.stderr.splitlines()
    assert line.startswith("npser: "), shown.stderr
    assert all(text.startswith("npser: warning: ") for text in warnings), shown.stderr
    for word in words:
        assert word in line


def manifest_of(folder: Path, /, **others: str) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open(newline="") as file:
        return [{**row, "path": str(folder / row["path"]), **others} for row in csv.DictReader(file)]
