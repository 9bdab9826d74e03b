"""Cross-validations that are stopped, or lose a worker: all end with the report of an undisturbed run."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import UNCOMPILED, Cluster, Command, children, one_sentence, report_of, start

HEAVY = pytest.mark.skipif(UNCOMPILED, reason="many processes and epochs: too slow without the compiler")
PROC = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds worker processes in /proc")

EPOCHS = "80"


@pytest.fixture(scope="module")
def words(corpus: Path, small: Path) -> tuple[str, ...]:
    return ("crossval", str(corpus), "--config", str(small), "--epochs", EPOCHS, "--out")


@pytest.fixture(scope="module")
def whole(words: tuple[str, ...], environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run: three jobs in one process."""
    out = tmp_path_factory.mktemp("whole") / "out"
    command = [sys.executable, "-m", "npser", *words, str(out), "--threads", "1"]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=600)
    return out


def assert_same_experiment(a: Path, b: Path) -> None:
    """The same report but for the key run, and the same predictions and models."""
    assert report_of(a) == report_of(b)
    assert (a / "report.md").read_bytes() == (b / "report.md").read_bytes()
    for job in sorted((a / "jobs").iterdir()):
        for name in ("predictions.jsonl", "model.safetensors", "metrics.jsonl"):
            assert (job / name).read_bytes() == (b / "jobs" / job.name / name).read_bytes()


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def epochs_done(out: Path, fold: int) -> int:
    file = out / "jobs" / f"full-seed0-fold{fold}" / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


@HEAVY
@PROC
def test_a_killed_command_goes_on_and_leaves_no_process(
    environment: dict[str, str], npser: Command, words: tuple[str, ...], whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = start(environment, tmp_path, *words, out, "--workers", "1")
    wait_until(lambda: epochs_done(out, 2) > 5, process)
    workers = children(process.pid)
    assert workers
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline, "a worker has outlived its command"
        time.sleep(0.05)
    assert not (out / "report.json").exists()
    shown = npser(*words, out, "--workers", "2")
    assert "3, of which 1 are done already" in shown.stdout
    assert_same_experiment(whole, out)


@HEAVY
def test_ctrl_c_stops_the_workers_and_says_how_to_go_on(
    environment: dict[str, str], words: tuple[str, ...], tmp_path: Path
) -> None:
    process = start(environment, tmp_path, *words, "out", "--workers", "2")
    wait_until(lambda: epochs_done(tmp_path / "out", 1) > 2, process)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.splitlines()[-1].startswith("npser: interrupted; go on with: npser crossval"), err
    assert "Traceback" not in err


@HEAVY
@PROC
def test_a_killed_worker_is_told_and_its_job_run_again(
    environment: dict[str, str], words: tuple[str, ...], whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = start(environment, tmp_path, *words, out, "--workers", "2")
    wait_until(lambda: epochs_done(out, 1) > 5, process)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    shown, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert "a worker died" in shown
    assert "(1 of 3)" in shown
    assert err == ""
    assert_same_experiment(whole, out)
    assert json.loads((out / "report.json").read_text())["run"]["pools_broken"] == 1


@HEAVY
def test_a_dask_cluster_that_loses_a_worker(
    environment: dict[str, str], words: tuple[str, ...], whole: Path, tmp_path: Path
) -> None:
    pytest.importorskip("distributed", reason="dask[distributed] is not installed")
    out = tmp_path / "out"
    with Cluster(environment, tmp_path) as cluster:
        mortal, _ = cluster.worker(), cluster.worker()
        process = start(environment, tmp_path, *words, out, "--dask", cluster.address)
        wait_until(lambda: epochs_done(out, 1) > 5 and epochs_done(out, 2) > 5, process)
        mortal.kill()
        shown, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert "has left the cluster" in shown
    assert err == ""
    assert_same_experiment(whole, out)


@HEAVY
def test_no_dask_scheduler_is_one_sentence(npser: Command, words: tuple[str, ...], tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="dask[distributed] is not installed")
    one_sentence(npser(*words, "out", "--dask", "nonsense://x", status=1), "--dask nonsense://x")
