"""Archives: parts that make up the local output, whatever happens to the command, the workers and the scheduler."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import (
    UNCOMPILED,
    Cluster,
    Command,
    assert_same_run,
    manifest_of,
    network,
    one_sentence,
    recording,
    sound,
    start,
    without,
    write_manifest,
)

from npser import features
from npser.experiment import cluster as cluster_module
from npser.experiment.cluster import Batch

KilledWorker = pytest.importorskip("distributed", reason="dask[distributed] is not installed").KilledWorker

FILES = 26

compiled = pytest.mark.skipif(UNCOMPILED, reason="without the compiler, what a cluster runs takes minutes")

# What a worker runs first. Each file that it opens is counted, and takes a moment; one called poison kills it
WATCHED = """
import os, signal, time
from npser import features
opened = getattr(features, "opened", features.open_audio)  # Dask runs this twice
features.opened = opened

def open_audio(path):
    name = os.path.basename(str(path))
    with open({log!r}, "ab") as file:
        file.write(os.fsencode(name) + b"\\n")
    if "poison" in name:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep({pause})
    return opened(path)

features.open_audio = open_audio
"""
# What a command runs first: batches of a few short files
SMALL_BATCHES = """
import os
from npser.experiment import cluster
cluster.SECONDS = float(os.environ["BATCH_SECONDS"])
"""


@pytest.fixture(scope="module")
def small_batches(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of commands that cut an archive into batches of a single shard of four files."""
    folder = tmp_path_factory.mktemp("first")
    (folder / "sitecustomize.py").write_text(SMALL_BATCHES)
    path = os.pathsep.join([str(folder), environment["PYTHONPATH"]])
    return {**environment, "PYTHONPATH": path, "BATCH_SECONDS": "0.01"}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and an archive of short, long, silent, damaged and oddly named files."""
    folder = tmp_path_factory.mktemp("archive")
    network(folder)
    (folder / "calls").mkdir()
    for r in range(FILES):
        recording(folder / "calls" / f"{r:02}.wav", sound(5000 + 711 * r, r))
    recording(folder / "calls" / "03 long.wav", sound(70_000, 3))
    recording(folder / "calls" / "05 silent.wav", np.zeros(6000))
    (folder / "calls" / "08.wav").write_text("no sound")
    (folder / "13.m4a").write_text("an error that names another file beside this one")
    os.link(folder / "calls" / "09.wav", os.fsencode(folder / "calls") + b"/09 \xff, b.wav")
    return folder


def words(*more: str | Path) -> tuple[str | Path, ...]:
    """A command with relative paths: workers have another current folder. A missing file is an error row too."""
    return ("predict", "calls", "nowhere.wav", "13.m4a", "--model", "model.safetensors", "--engine", "numba", *more)


@pytest.fixture(scope="module")
def local(archive: Path, small_batches: dict[str, str]) -> Callable[..., bytes]:
    """What the command prints without a cluster."""

    def run(*options: str) -> bytes:
        with start(small_batches, archive, *words(*options)) as process:
            assert process.stdout is not None
            output = process.stdout.buffer.read()  # pyright: ignore[reportAttributeAccessIssue]
        assert process.returncode == 1, output
        return output

    return run


@pytest.fixture(scope="module")
def cluster(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One that nothing happens to."""
    with Cluster(environment, tmp_path_factory.mktemp("cluster")) as cluster:
        cluster.worker(threads=2)
        yield cluster


def whole(out: Path) -> bytes:
    """What cat says of the parts."""
    return b"".join(path.read_bytes() for path in sorted(out.glob("part-*")))


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def parts(out: Path) -> int:
    return len(list(out.glob("part-*")))


@pytest.mark.parametrize(
    ("seconds", "count", "options"),
    [
        ("0.01", 8, ()),
        ("20", 3, ("--format", "csv", "--timeline", "--min-confidence", "0.3")),
        ("600", 1, ("--timeline", "--engine", "lite")),
    ],
)
@compiled
def test_the_parts_are_the_local_output_byte_for_byte(
    npser: Command,
    archive: Path,
    small_batches: dict[str, str],
    cluster: Cluster,
    local: Callable[..., bytes],
    tmp_path: Path,
    seconds: str,
    count: int,
    options: tuple[str, ...],
) -> None:
    expected = local(*(() if "--format" in options else ("--format", "jsonl")), *options)
    for name, where in (("here", ()), ("there", ("--dask", cluster.address))):
        out = tmp_path / name
        shown = npser(
            *words(*options, "--out", out, *where), status=1, cwd=archive, env={**small_batches, "BATCH_SECONDS": seconds}
        )
        assert shown.stdout == ""
        told = f"done      {FILES + 5} files, 3 of them with an error; all rows: cat {out}/part-*"
        assert shown.stderr.splitlines()[-1] == told
        assert whole(out) == expected
        assert parts(out) == count
    assert {path.name for path in (tmp_path / "here").iterdir()} == {path.name for path in (tmp_path / "there").iterdir()}


@compiled
def test_what_a_worker_warns_of_is_told(
    npser: Command, small_batches: dict[str, str], cluster: Cluster, archive: Path, tmp_path: Path
) -> None:
    recording(tmp_path / "short.wav", sound(16_000))
    os.truncate(tmp_path / "short.wav", 40_000)
    model = archive / "model.safetensors"
    shown = npser("predict", "short.wav", "--model", model, "--out", "out", "--dask", cluster.address, env=small_batches)
    assert f"npser: warning: {tmp_path}/short.wav: is shorter than its header says" in shown.stderr


@compiled
def test_a_killed_command_goes_on_and_repeats_at_most_what_was_in_flight(
    archive: Path,
    environment: dict[str, str],
    small_batches: dict[str, str],
    local: Callable[..., bytes],
    npser: Command,
    tmp_path: Path,
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    with Cluster(environment, tmp_path) as cluster:
        cluster.worker(WATCHED.format(log=str(log), pause=0.05))
        command = words("--out", out, "--dask", cluster.address)
        process = start(small_batches, archive, *command)
        wait_for(lambda: parts(out) >= 2, process)
        process.kill()
        process.communicate()
        first = {path.name: path.read_bytes() for path in out.glob("part-*")}
        shown = npser(*command, status=1, cwd=archive, env=small_batches)
    expected = local("--format", "jsonl")
    assert 2 <= len(first) < 8
    assert all(content.endswith(b"\n") and content in expected for content in first.values())
    assert f"parts     8, of which {len(first)} are there already" in shown.stderr
    assert whole(out) == expected
    opened = Counter(log.read_text(errors="surrogateescape").splitlines())
    again = sum(count > 1 for count in opened.values())
    assert set(opened.values()) <= {1, 2}
    assert again <= 8  # two batches in flight, of four files


@compiled
def test_a_worker_that_dies_loses_nothing(
    archive: Path, environment: dict[str, str], small_batches: dict[str, str], local: Callable[..., bytes], tmp_path: Path
) -> None:
    out, preload = tmp_path / "out", WATCHED.format(log=str(tmp_path / "log"), pause=0.05)
    with Cluster(environment, tmp_path) as cluster:
        mortal = cluster.worker(preload)
        process = start(small_batches, archive, *words("--out", out, "--dask", cluster.address))
        wait_for(lambda: parts(out) >= 1, process)
        mortal.kill()
        cluster.worker(preload)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert "has left the cluster; its unfinished work is done again by the others" in err
    assert whole(out) == local("--format", "jsonl")


@compiled
def test_a_scheduler_that_is_started_again_is_found_again(
    archive: Path, environment: dict[str, str], small_batches: dict[str, str], local: Callable[..., bytes], tmp_path: Path
) -> None:
    out, preload = tmp_path / "out", WATCHED.format(log=str(tmp_path / "log"), pause=0.05)
    with Cluster(environment, tmp_path) as cluster:
        cluster.worker(preload)
        process = start(small_batches, archive, *words("--out", out, "--dask", cluster.address))
        wait_for(lambda: parts(out) >= 1, process)
        cluster.scheduler.kill()
        cluster.scheduler.wait()
        cluster.start_scheduler()
        cluster.worker(preload)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    told = [line for line in err.splitlines() if line.startswith("workers   the scheduler")]
    assert told[0] == f"workers   the scheduler is gone; waiting for it at {cluster.address}, for 60 seconds"
    assert told[-1] == "workers   the scheduler is back"
    assert whole(out) == local("--format", "jsonl")


@compiled
def test_a_file_that_kills_its_worker_is_halved_out(
    archive: Path, environment: dict[str, str], small_batches: dict[str, str], npser: Command, tmp_path: Path
) -> None:
    for r in range(6):
        recording(tmp_path / f"{r}{'poison' if r == 1 else ''}.wav", sound(6000, r))
    command = ("predict", tmp_path, "--model", archive / "model.safetensors", "--format", "csv")
    expected = npser(*command, env=small_batches).stdout.splitlines(keepends=True)
    gives_up = {**environment, "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}  # a batch, when one worker has died of it
    with Cluster(gives_up, tmp_path) as cluster:
        cluster.worker(WATCHED.format(log=str(tmp_path / "log"), pause=0), nanny=True)
        shown = npser(*command, "--out", "out", "--dask", cluster.address, status=1, env=small_batches)
    assert "one of the files 1 to 2 of the list kills its worker; halving them" in shown.stderr
    found = whole(tmp_path / "out").decode().splitlines(keepends=True)
    died = f"{tmp_path}/1poison.wav"
    assert found[2].startswith(f"{died},,,,")
    assert f"{died}: a worker died each time while reading it" in found[2]
    assert found[:2] + found[3:] == expected[:2] + expected[3:]


@pytest.mark.parametrize(
    ("preload", "problem"),
    [
        ("import npser\nnpser.__version__ = '0.0.9'", "a worker runs npser 0.0.9 and the command npser"),
        (
            "import npser\nnpser.SHIPPED = '/nowhere.safetensors'",
            "/nowhere.safetensors: is missing on the worker tcp://127.0.0.1",
        ),
        ("import npser\nnpser.SHIPPED = {model!r}", "is another model than the command's on the worker tcp://127.0.0.1"),
        (
            "from npser.experiment import cluster as c\nc._own_versions = lambda own=c._own_versions(): dict(own, numpy='1.0')",
            "runs numpy 1.0 and the command numpy ",
        ),
        (
            "from npser.experiment import archive\narchive._state = lambda name: (1, '')",
            "a.wav: has 1 bytes on the worker tcp:",
        ),
        ("import sys\nsys.modules['npser'] = None", "is npser 0.1.0 installed on every worker?"),
    ],
)
@compiled
def test_another_version_or_model_on_a_worker_ends_the_command_in_a_sentence(
    archive: Path,
    environment: dict[str, str],
    small_batches: dict[str, str],
    npser: Command,
    tmp_path: Path,
    preload: str,
    problem: str,
) -> None:
    recording(tmp_path / "a.wav", sound(6000))
    with Cluster(environment, tmp_path) as cluster:
        cluster.worker(preload.format(model=str(archive / "model.safetensors")))
        shown = npser("predict", "a.wav", "--out", "out", "--dask", cluster.address, status=1)
    assert shown.stderr.splitlines()[-1].startswith("npser: ")
    assert problem in shown.stderr.splitlines()[-1]
    assert parts(tmp_path / "out") == 0


def test_a_folder_never_holds_parts_of_two_answers(
    archive: Path, small_batches: dict[str, str], npser: Command, tmp_path: Path
):
    for r in range(6):
        recording(tmp_path / f"{r}.wav", sound(6000, r))
    command = ("predict", "0.wav", *(f"{r}.wav" for r in range(1, 6)), "--model", archive / "model.safetensors", "--out", "out")
    npser(*command, env=small_batches)
    before = whole(tmp_path / "out")
    for more in (("--timeline",), ("--min-confidence", "0.9"), ("--format", "csv"), ("--engine", "numba")):
        one_sentence(npser(*command, *more, env=small_batches, status=1), "part-00000", "(2 of this kind)", "another --out")
    recording(tmp_path / "5.wav", sound(7000, 5))
    one_sentence(npser(*command, env=small_batches, status=1), "part-00001", "of other files")
    assert whole(tmp_path / "out") == before
    for path in (tmp_path / "out").glob("part-00001-*"):
        path.unlink()
    assert "parts     2, of which 1 are there already" in npser(*command, env=small_batches).stderr
    assert whole(tmp_path / "out") == npser(*command[:-2], "--format", "jsonl", env=small_batches).stdout.encode()


def test_wrong_words_get_one_sentence(archive: Path, npser: Command, tmp_path: Path) -> None:
    file = recording(tmp_path / "a.wav", sound(6000))
    for more, status, expected in (
        (("--dask", "tcp://127.0.0.1:1"), 2, "add --out DIR"),
        (("--dask", "tcp://127.0.0.1:1", "--out", "out", "--threads", "2"), 2, "leave one of the two out"),
        (("--out", "out", "--format", "text"), 2, "jsonl or csv, not text"),
        (("--from-file", "-", "--out", "out"), 2, "cannot go on with standard input"),
        (("--out", file), 1, "cannot be made"),
        (("--out", "out", "--dask", "nonsense://x"), 1, "there is no scheduler to be reached"),
    ):
        shown = npser("predict", file, "--model", archive / "model.safetensors", *more, status=status, input="-")
        one_sentence(shown, expected)
    code = without("distributed") + f"from npser.commands.cli import main; sys.exit(main(['predict', {str(file)!r}, "
    code += f"'--model', {str(archive / 'model.safetensors')!r}, '--out', {str(tmp_path / 'out')!r}, '--dask', 'tcp://x:1']))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    one_sentence(shown, "--dask needs the package distributed", "pip install 'dask[distributed]'")


# The queue of batches, on a cluster that is only played


class Played:
    """A cluster whose workers die when they compute a poisonous recording, with all that is computed at that moment."""

    def __init__(self, poison: set[int], threads: int = 2, gone: int = 0) -> None:
        self.poison, self.threads, self.gone = poison, threads, gone
        self.tried: list[list[Batch]] = []
        self.running: list[tuple[Batch, Future[Any]]] = []

    def submit(self, _: object, __: str, told: dict[str, Any]) -> Future[Any]:
        (batch,) = told["work"][-1]
        self.running.append((batch, Future()))
        return self.running[-1][1]

    def wait(self, *_: object) -> tuple[list[Future[Any]], None]:
        self.tried.append([batch for batch, _ in self.running])
        dies = any(self.poison & set(range(*batch)) for batch, _ in self.running)
        for batch, future in self.running:
            if self.gone:
                future.cancel()
            elif dies:
                future.set_exception(KilledWorker("", None, 0))  # pyright: ignore[reportArgumentType]
            else:
                future.set_result((list(range(*batch)), []))
        self.gone = max(0, self.gone - 1)
        done = [future for _, future in self.running]
        self.running.clear()
        return done, None

    @contextlib.contextmanager
    def cluster(self, *_: object) -> Iterator[Any]:
        yield lambda: contextlib.nullcontext(self), lambda: self.threads


def played(monkeypatch: pytest.MonkeyPatch, there: Played, batches: list[Batch], unit: int) -> dict[Batch, Any]:
    monkeypatch.setattr(cluster_module, "dask_cluster", there.cluster)
    monkeypatch.setattr(cluster_module, "wait", there.wait)
    found = list(cluster_module.computed("", batches, lambda batch: (len, batch), unit, lambda _: None))
    assert sorted(r for batch, _ in found for r in range(*batch)) == list(range(batches[-1][1]))  # each once
    return dict(found)


def test_only_the_recording_that_kills_is_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [(0, 12), (12, 24), (24, 28), (28, 40), (40, 52)]
    there = Played({24, 47})
    found = played(monkeypatch, there, batches, 4)
    assert {batch for batch, result in found.items() if result is None} == {(24, 25), (47, 48)}
    assert all(result == list(range(*batch)) for batch, result in found.items() if result is not None)
    assert max(map(len, there.tried)) == 4  # two for each thread
    assert found.keys() > {(0, 12), (12, 24), (28, 40)}  # they died with others, and are not halved
    assert all(first % 4 == 0 for first, end in found if end - first > 4)


def test_what_was_lost_with_the_scheduler_is_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    there = Played(set(), gone=2)
    assert len(played(monkeypatch, there, [(r, r + 4) for r in range(0, 40, 4)], 4)) == 10
    assert there.tried[0] == there.tried[1] == there.tried[2] == [(0, 4), (4, 8), (8, 12), (12, 16)]


def test_a_scheduler_that_does_not_come_back_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    there, said = Played(set(), gone=1), list[str]()
    clusters = iter([there.cluster()])

    def reached(address: str, _: object) -> Any:
        for one in clusters:
            return one
        raise ValueError(f"--dask {address}: there is no scheduler to be reached")

    monkeypatch.setattr(cluster_module, "wait", there.wait)
    monkeypatch.setattr(cluster_module, "dask_cluster", reached)
    monkeypatch.setattr(cluster_module, "PATIENCE", 0.02)
    monkeypatch.setattr(cluster_module, "POLL", 0.01)
    with pytest.raises(
        ValueError, match=r"^--dask tcp://x: there is no scheduler .*; start it again, and the same command goes on$"
    ):
        list(cluster_module.computed("tcp://x", [(0, 1)], lambda batch: (len, batch), 1, said.append))
    assert said == ["workers   the scheduler is gone; waiting for it at tcp://x, for 0.02 seconds"]


def test_batches_start_at_multiples_and_hold_about_so_much(monkeypatch: pytest.MonkeyPatch) -> None:
    names, sizes = ["a.wav"] * 10 + ["b.MP3"] * 10, [32_000 * 100] * 10 + [8_000 * 100] * 10
    assert cluster_module.cut(names, sizes, 4) == [(0, 8), (8, 16), (16, 20)]
    assert cluster_module.cut(names, sizes, 1) == [(0, 6), (6, 12), (12, 18), (18, 20)]
    monkeypatch.setattr(cluster_module, "MOST", 5)
    assert cluster_module.cut(names, sizes, 4) == [(0, 4), (4, 8), (8, 12), (12, 16), (16, 20)]
    assert cluster_module.cut(names, sizes, 8) == [(0, 8), (8, 16), (16, 20)]
    assert cluster_module.cut([], [], 4) == []


# Addresses


def test_addresses_are_read_like_files(npser: Command, archive: Path, tmp_path: Path) -> None:
    for name in ("sub/b.wav", "a.wav", "bad.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        recording(tmp_path / name, sound(6000, len(name)))
    (tmp_path / "bad.wav").write_text("no sound")
    words = ("--model", archive / "model.safetensors", "--format", "jsonl")
    expected = npser("predict", tmp_path, *words, status=1).stdout
    place = f"file://{tmp_path}"
    assert npser("predict", place, *words, status=1).stdout == expected.replace(str(tmp_path), place)
    npser("predict", place, *words, "--out", "out", status=1)
    assert whole(tmp_path / "out").decode() == expected.replace(str(tmp_path), place)
    some = npser("predict", f"{place}/*.wav", f"{place}/none.wav", *words, status=1).stdout.splitlines()
    assert [json.loads(line)["path"] for line in some] == [f"{place}/{name}.wav" for name in ("a", "bad", "none")]
    assert json.loads(some[-1])["error"].startswith(f"{place}/none.wav: cannot be opened (")


def test_an_address_of_no_kind_and_a_missing_package_are_told(npser: Command, tmp_path: Path) -> None:
    one_sentence(npser("predict", "nonsense://calls", status=1), "nonsense://calls: cannot be opened", "nonsense")
    code = without("fsspec") + "from npser.commands.cli import main; sys.exit(main(['predict', 's3://bucket/calls']))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    one_sentence(shown, "s3://bucket/calls: needs a package", "pip install 'fsspec[s3]'")


def test_a_copy_of_what_lies_at_an_address_is_closed_with_the_recording(tmp_path: Path) -> None:
    file = recording(tmp_path / "a.wav", sound(6000))
    (x,) = features.read_windows(f"file://{file}", 1, cut=False)
    assert (x == sound(6000)).all()


# The features of a corpus


@compiled
def test_features_computed_on_a_cluster_are_those_computed_here(
    npser: Command, corpus: Path, small: Path, small_batches: dict[str, str], cluster: Cluster, tmp_path: Path
) -> None:
    shutil.copytree(corpus, tmp_path / "buzz")
    (tmp_path / "buzz" / "1f_sad_1.wav").write_text("no sound")
    recording(tmp_path / "buzz" / "2f_sad_1.wav", sound(30_000))
    words = ("train", "buzz", "--config", small, "--set", "max_seconds=0.8", "--skip-bad", "--epochs", "1")
    for name, more in (("here", ()), ("there", ("--dask", cluster.address))):
        shown = npser(*words, "--cache", f"{name}-cache", "--out", name, *more, env=small_batches)
        assert "1f_sad_1.wav: is not an audio file" in shown.stderr
    assert_same_run(tmp_path / "here", tmp_path / "there")
    assert_same_stores(tmp_path / "here-cache", tmp_path / "there-cache")
    words = ("crossval", "buzz", "--config", small, "--set", "max_seconds=0.8", "--skip-bad", "--epochs", "1", "--folds", "3")
    shutil.rmtree(tmp_path / "there-cache")
    npser(*words, "--cache", "there-cache", "--out", "folds", "--dask", cluster.address, env=small_batches)
    assert_same_stores(tmp_path / "here-cache", tmp_path / "there-cache")


@compiled
def test_a_recording_that_kills_its_worker_is_left_out(
    npser: Command, corpus: Path, small: Path, environment: dict[str, str], small_batches: dict[str, str], tmp_path: Path
) -> None:
    rows = manifest_of(corpus)
    shutil.copy(rows[3]["path"], tmp_path / "poison.wav")
    rows[3]["path"] = "poison.wav"
    write_manifest(tmp_path / "some.csv", rows)
    gives_up = {**environment, "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}
    with Cluster(gives_up, tmp_path) as cluster:
        cluster.worker(WATCHED.format(log=str(tmp_path / "log"), pause=0), nanny=True)
        shown = npser(
            *("train", "some.csv", "--config", small, "--cache", "cache", "--epochs", "1"),
            *("--dask", cluster.address),
            env=small_batches,
        )
    assert "left out: poison.wav: a worker died each time while reading it" in shown.stderr
    assert shown.stderr.count("left out") == 1


@compiled
def test_a_worker_that_sees_other_recordings_ends_the_command(
    npser: Command, corpus: Path, small: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    preload = "from npser import store\nstore.digest_of = lambda path: None"
    with Cluster(environment, tmp_path) as cluster:
        cluster.worker(preload)
        words = ("train", corpus, "--config", small, "--cache", "cache", "--dask", cluster.address)
        one_sentence(npser(*words, status=1), "is missing on the worker tcp://127.0.0.1", "under the same paths")


def assert_same_stores(a: Path, b: Path) -> None:
    folders = sorted(path.name for path in a.glob("features-*") if path.is_dir())
    assert folders == sorted(path.name for path in b.glob("features-*") if path.is_dir())
    assert folders
    for name in folders:
        assert {path.name for path in (a / name).iterdir()} == {path.name for path in (b / name).iterdir()}
        for path in (a / name).iterdir():
            assert path.read_bytes() == (b / name / path.name).read_bytes()
