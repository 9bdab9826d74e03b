"""What the terminal shows is one line where it should be, whatever a name, a label or a library says."""

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from helpers import ROOT

from npser import __version__, threads
from npser.commands import terminal
from npser.experiment.executors import local_processes


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("happy\nFAKE: line", r"happy\nFAKE: line"),
        ("\x1b[31mred\x07\x7f", r"\x1b[31mred\x07\x7f"),
        ("\x9b2J and \x85", r"\x9b2J and \x85"),
        ("a\u202eb\u2028c\u2066", r"a\u202eb\u2028c\u2066"),
        ("half \ud800 of one", r"half \ud800 of one"),
        ("Ärger, 怒り, 🙂, \\n, \udce4", "Ärger, 怒り, 🙂, \\n, \udce4"),  # the last one stands for a byte of a file's name
    ],
)
def test_control_characters_are_shown_escaped_and_all_others_as_they_are(text: str, shown: str):
    assert terminal.printable(text) == shown
    assert terminal.printable({text: [text, {"a": text}, 3, None]}) == {shown: [shown, {"a": shown}, 3, None]}


def test_what_is_said_keeps_its_lines_and_nothing_else(capsys: pytest.CaptureFixture[str]):
    terminal.say_to(sys.stdout)("\nepoch 1\r\x1b[2K\nepoch 2")
    assert capsys.readouterr().out == "\nepoch 1\\r\\x1b[2K\nepoch 2\n"


def warn() -> None:
    warnings.warn("left out: a\x1b[31m\nb.wav", stacklevel=1)


def test_a_warning_in_a_worker_is_one_line(capfd: pytest.CaptureFixture[str]):
    with local_processes(1, terminal.warn_in_a_line) as executor:
        executor.submit(warn).result()
    assert capfd.readouterr().err == "npser: warning: left out: a\\x1b[31m b.wav\n"


def test_both_places_that_say_the_version_say_the_same():
    text = (ROOT / "pyproject.toml").read_text()
    assert re.findall('^version = "(.+)"$', text, re.MULTILINE) == [__version__]


# The cores of a container


def control_groups(root: Path, listed: str, files: dict[str, str]) -> Path:
    """What Linux says of control groups: /proc/self/cgroup, and files below /sys/fs/cgroup."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(listed)
    for name, content in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


@pytest.mark.parametrize(
    ("listed", "files", "cores"),
    [
        ("0::/\n", {}, float("inf")),
        ("0::/\n", {"cpu.max": "max 100000\n"}, float("inf")),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/a/b\n", {"cpu.max": "150000 100000\n", "a/b/cpu.max": "max 100000\n"}, 1.5),  # a group above counts
        ("0::/a/b\n", {"a/cpu.max": "50000 100000\n", "a/b/cpu.max": "200000 100000\n"}, 0.5),
        ("4:memory:/x\n1:cpu,cpuacct:/x\n", {"cpu/x/cpu.cfs_quota_us": "300000", "cpu/x/cpu.cfs_period_us": "100000"}, 3),
        ("1:cpu:/host/x\n", {"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),  # seen from inside
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, float("inf")),
        ("0::/\n", {"cpu.max": "nonsense"}, float("inf")),
    ],
)
def test_the_quota_of_a_container_is_seen(tmp_path: Path, listed: str, files: dict[str, str], cores: float):
    assert threads.quota(control_groups(tmp_path, listed, files)) == cores
    assert threads.quota(tmp_path / "none") == float("inf")


@pytest.mark.parametrize(("allowed", "cores"), [(0.5, 1), (1.5, 2), (2, 2), (float("inf"), 64)])
def test_there_are_no_more_threads_than_the_quota_keeps_busy(monkeypatch: pytest.MonkeyPatch, allowed: float, cores: int):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(threads, "quota", lambda _: allowed)
    assert threads.available_cores() == cores


BLAS_THREADS = """
from concurrent.futures import ThreadPoolExecutor
import numpy
from threadpoolctl import threadpool_info
from npser.threads import single_threaded_blas

def blas_threads():
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}

before = blas_threads()
assert before == {2}, before
with single_threaded_blas():
    assert blas_threads() == {1}
assert blas_threads() == before
with ThreadPoolExecutor(2) as first, ThreadPoolExecutor(1) as second:
    uses = [first.submit(single_threaded_blas).result() for _ in range(3)]
    for pool, use in zip((first, second, first), uses, strict=True):
        pool.submit(use.__enter__).result()
        assert blas_threads() == {1}
    for pool, use in zip((first, first, second), uses, strict=True):
        assert blas_threads() == {1}
        pool.submit(use.__exit__, None, None, None).result()
assert blas_threads() == before
"""


def test_blas_has_one_thread_whichever_thread_asks_for_it_and_in_the_end_all_again(environment: dict[str, str]):
    two = environment | {"OPENBLAS_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", BLAS_THREADS], env=two, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
