"""What several files of tests share: a small corpus, and the command as a user runs it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy: idle threads of BLAS spin, and the cores are full already

import pytest
from helpers import RATE, ROOT, Command, network, recording, sound, tone, write_manifest

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
    users = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    return {**users, "PYTHONPATH": path, "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}


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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the tests of a server have in common."""
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def path(folder: Path) -> Path:
    """A model of short windows that hears nothing but speech."""
    from serving import HEARING  # late: it imports tornado

    return network(folder, HEARING).path


@pytest.fixture(scope="module")
def audio(folder: Path) -> bytes:
    """A file of a second."""
    return recording(folder / "a.wav", sound(RATE, 1)).read_bytes()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Callable[..., Any]]:
    """Starts Chromium with more words; those that are started alike are one."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if found is None:
        pytest.skip("there is no Chromium here: chromium, chromium-browser or google-chrome on the PATH")
    with playwright.sync_playwright() as driver:
        running: dict[tuple[str, ...], Any] = {}

        def start(*words: str) -> Any:
            if words not in running:
                running[words] = driver.chromium.launch(executable_path=found, args=["--no-sandbox", *words])
            return running[words]

        yield start
        for browser in running.values():
            browser.close()
