"""Runs that are killed, interrupted, resumed or in the way."""

import os
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from helpers import UNCOMPILED, Command, assert_same_run, start


def wait_for_epochs(run: Path, epochs: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not (run / "metrics.jsonl").exists() or (run / "metrics.jsonl").read_text().count("\n") < epochs:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def many_epochs() -> str:
    return "12" if UNCOMPILED else "120"


def test_a_killed_run_resumes_to_the_same_bytes(
    npser: Command, environment: dict[str, str], corpus: Path, small: Path, tmp_path: Path, many_epochs: str
) -> None:
    words = ("train", corpus, "--config", small, "--epochs", many_epochs)
    npser(*words, "--out", "whole")
    for kills, epochs in enumerate((0, 3, 5)):
        process = start(environment, tmp_path, *words, "--out", "killed", *(["--resume"] if kills else []))
        wait_for_epochs(tmp_path / "killed", epochs, process)
        process.kill()
        process.communicate()
        assert not (tmp_path / "killed" / "report.json").exists()
    npser(*words, "--out", "killed", "--resume")
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


def test_metrics_of_an_epoch_that_was_not_saved_are_cut_off(
    npser: Command, corpus: Path, small: Path, trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "train_')
    npser("train", corpus, "--config", small, "--out", "run", "--resume")
    assert_same_run(trained, tmp_path / "run")


def test_ctrl_c_tells_how_to_go_on(
    npser: Command, environment: dict[str, str], corpus: Path, small: Path, tmp_path: Path, many_epochs: str
) -> None:
    process = start(environment, tmp_path, "train", corpus, "--config", small, "--epochs", many_epochs)
    run = tmp_path / "runs" / "buzz-default-test3-seed0"
    wait_for_epochs(run, 2, process)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    (line,) = err.splitlines()
    words = line.partition("npser train ")[2].split()
    assert words[-1] == "--resume"
    npser("train", *words)
    assert (run / "report.json").exists()


def test_epochs_may_grow(npser: Command, corpus: Path, small: Path, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "grown")
    words = ("train", corpus, "--config", small, "--epochs", "5")
    npser(*words, "--out", "grown", "--resume")
    npser(*words, "--out", "at-once")
    assert_same_run(tmp_path / "at-once", tmp_path / "grown")


RECIPE = ("--set", "schedule=cosine", "--set", "warmup=1.5", "--set", "stretch=0.2", "--set", "channel=0.3")


def test_where_the_rate_depends_on_the_number_of_epochs_it_may_not_change(
    npser: Command, environment: dict[str, str], corpus: Path, small: Path, tmp_path: Path, many_epochs: str
) -> None:
    words = ("train", corpus, "--config", small, "--epochs", many_epochs, *RECIPE)
    npser(*words, "--out", "whole")
    process = start(environment, tmp_path, *words, "--out", "killed")
    wait_for_epochs(tmp_path / "killed", 3, process)
    process.kill()
    process.communicate()
    shown = npser(*words, "--epochs", "2000", "--out", "killed", "--resume", status=1)
    assert "--epochs may grow where the learning rate is constant" in shown.stderr
    npser(*words, "--out", "killed", "--resume")
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    rising = ("train", corpus, "--config", small, "--set", "warmup=1.0", "--out", "rising")  # a quarter of all, if that is less
    npser(*rising, "--epochs", "2")
    assert "other data or settings" in npser(*rising, "--epochs", "8", "--resume", status=1).stderr


def test_other_settings_or_data_are_not_resumed(
    npser: Command, corpus: Path, small: Path, trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    words = ("train", corpus, "--config", small, "--out", "run", "--resume")
    for other in (("--seed", "1"), ("--set", "dropout=0.1"), ("--test-session", "2"), ("--no-oracle",)):
        shown = npser(*words, *other, status=1)
        assert "other data or settings" in shown.stderr
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_a_run_folder_is_not_overwritten(npser: Command, corpus: Path, small: Path, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    assert "finished" in npser("train", corpus, "--config", small, "--out", "run", status=1).stderr
    (tmp_path / "run" / "report.json").unlink()
    assert "unfinished" in npser("train", corpus, "--config", small, "--out", "run", status=1).stderr
    for name in ("buzz-default-test3-seed0", "buzz-default-test3-seed0-2"):
        npser("train", corpus, "--config", small)
        assert (tmp_path / "runs" / name / "report.json").exists()


def test_epochs_may_not_shrink_and_what_is_missing_is_named(
    npser: Command, corpus: Path, small: Path, trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    words = ("train", corpus, "--config", small, "--out", "run", "--resume")
    assert "--epochs may grow and not shrink" in npser(*words, "--epochs", "2", status=1).stderr
    assert_same_run(trained, tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").unlink()
    assert "metrics.jsonl: is missing" in npser(*words, "--epochs", "4", status=1).stderr


def test_what_a_run_has_found_so_far_can_be_used_and_its_old_end_is_no_end(
    npser: Command, environment: dict[str, str], corpus: Path, small: Path, trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    words = ("train", corpus, "--config", small, "--out", "run", "--resume", "--epochs", "100000")
    process = start(environment, tmp_path, *words)
    wait_for_epochs(tmp_path / "run", 5, process)
    process.kill()
    process.communicate()
    assert not (tmp_path / "run" / "report.json").exists()
    assert "validation" in npser("info", "run/model.safetensors").stdout
    npser("predict", corpus / "1f_angry_0.wav", "--model", "run/model.safetensors")
    assert "unfinished" in npser(*words[:-3], status=1).stderr


def test_resuming_what_is_not_there_starts_and_says_so(npser: Command, corpus: Path, small: Path) -> None:
    shown = npser("train", corpus, "--config", small, "--out", "new", "--resume")
    assert "nothing to go on with in new" in shown.stdout


def test_a_full_disk_leaves_the_old_model_whole(
    npser: Command, corpus: Path, small: Path, trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    before = (tmp_path / "run" / "model.safetensors").read_bytes()

    def full_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, len(before) // 2))

    words = ("train", corpus, "--config", small, "--epochs", "40", "--out", "run", "--resume")
    shown = npser(*words, status=1, preexec_fn=full_disk)
    assert len(shown.stderr.splitlines()) == 1
    assert "File too large" in shown.stderr
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before
    assert [path.name for path in (tmp_path / "run").glob(".*")] == [".lock"]
    npser(*words)
