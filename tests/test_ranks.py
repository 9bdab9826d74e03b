"""Several ranks train as one process does, bit for bit, and end together."""

import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import SMALL, UNCOMPILED, Array, Command, assert_same_run, one_sentence, unbalanced, without

from npser import model
from npser.commands import launched
from npser.network import compile_kernels
from npser.networks import li2019
from npser.ranks import BLOCK, Ranks
from npser.train import Run, fit

MPIEXEC = Path(sys.executable).with_name("mpiexec")
mpi = pytest.mark.skipif(
    UNCOMPILED or not MPIEXEC.exists() or find_spec("mpi4py") is None,
    reason="needs the wheels mpi4py and mpich, and the compiler: without it this takes minutes",
)


class Meeting:
    """Where threads that play ranks meet: each brings something, and takes along what all have brought."""

    def __init__(self, size: int) -> None:
        self.size, self.barrier, self.table = size, threading.Barrier(size, timeout=60), [None] * size

    def all_of(self, rank: int, brought: Any) -> list[Any]:
        self.table[rank] = brought
        self.barrier.wait()
        found = list(self.table)
        self.barrier.wait()
        return found


class Comm:
    """What Ranks uses of mpi4py's communicator."""

    def __init__(self, meeting: Meeting, rank: int) -> None:
        self.meeting, self.rank, self.size = meeting, rank, meeting.size

    def allgather(self, value: Any) -> list[Any]:
        return [pickle.loads(text) for text in self.meeting.all_of(self.rank, pickle.dumps(value))]

    def bcast(self, value: Any) -> Any:
        return self.allgather(value)[0]

    def Alltoallv(self, sent: tuple[Array, list[int]], received: tuple[Array, list[int]]) -> None:
        everybody = self.meeting.all_of(self.rank, sent)
        parts = [np.split(values, np.cumsum(counts))[self.rank] for values, counts in everybody]
        assert [part.size for part in parts] == received[1]
        received[0].reshape(-1)[:] = np.concatenate(parts)

    def Allgatherv(self, part: Array, whole: tuple[Array, list[int]]) -> None:
        parts = self.meeting.all_of(self.rank, part)
        assert [part.size for part in parts] == whole[1]
        whole[0][:] = np.concatenate(parts)

    def Ibarrier(self) -> Any:
        self.meeting.all_of(self.rank, None)
        return SimpleNamespace(Test=lambda: True)


def on_ranks(size: int, work: Callable[[Ranks], Any]) -> list[Any]:
    """What each of some ranks returns or raises."""
    meeting = Meeting(size)

    def run(rank: int) -> Any:
        with ThreadPoolExecutor(1) as pool:
            try:
                return work(Ranks(pool, Comm(meeting, rank)))
            except (ValueError, KeyboardInterrupt) as error:
                return error
            except BaseException:
                meeting.barrier.abort()
                raise

    with ThreadPoolExecutor(size) as ranks:
        return list(ranks.map(run, range(size)))


@pytest.mark.parametrize("size", [0, 1, BLOCK, 5 * BLOCK + 7, 304_326])
def test_parts_are_whole_blocks_and_make_up_the_vector(size: int) -> None:
    for ranks in (1, 2, 3, 4, 7):
        parts = on_ranks(ranks, lambda r: r.part(size))
        assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
        assert parts[-1].stop == size
        assert all(part.start % BLOCK == 0 or part.start == part.stop for part in parts)
        blocks = [-(-(part.stop - part.start) // BLOCK) for part in parts]
        assert max(blocks) - min(blocks) <= 1


def test_results_and_sums_are_in_the_order_of_the_items_on_any_number_of_ranks() -> None:
    rng = np.random.default_rng(0)
    vectors = 10.0 ** rng.uniform(-6, 6, (11, 3000)).astype(np.float32)  # of which another order has another sum

    def work(ranks: Ranks) -> tuple[list[int], float, Array]:
        squares = list(ranks.map(lambda k: k * k, range(11)))
        value, part = ranks.total(lambda k: (0.1 * k, vectors[k]), range(11), vectors[0])
        return squares, value, ranks.whole(part, 3000)

    with ThreadPoolExecutor(2) as pool:
        expected = work(Ranks(pool))
    assert expected[0] == [k * k for k in range(11)]
    assert not np.array_equal(expected[2], vectors[::-1].cumsum(axis=0)[-1])
    for size in (1, 2, 3, 4, 12, 13):
        for squares, value, total in on_ranks(size, work):
            assert (squares, value) == expected[:2]
            assert total.tobytes() == expected[2].tobytes()


def test_what_the_first_rank_finds_or_raises_is_everybodys() -> None:
    def work(ranks: Ranks) -> Any:
        seen = ranks.first(lambda: [ranks.rank])
        assert not ranks.every(ranks.rank != 2)
        return seen, ranks.unlike(ranks.rank == 1), ranks.first(lambda: (_ for _ in ()).throw(ValueError("full")))

    found = on_ranks(3, work)
    assert [str(error) for error in found] == ["full"] * 3
    host = "rank 1 on "
    for seen, unlike in on_ranks(3, lambda r: (r.first(lambda: [r.rank]), r.unlike(r.rank == 1))):
        assert seen == [0]
        assert len(unlike) == 1
        assert unlike[0].startswith(host)


def test_where_one_is_told_to_stop_all_do() -> None:
    def work(ranks: Ranks) -> None:
        ranks.stopped = lambda: ranks.rank == 1
        ranks.first(lambda: None)  # not told to the first
        ranks.every(True)

    assert [type(error) for error in on_ranks(3, work)] == [KeyboardInterrupt] * 3


LARGER = replace(SMALL, d_spec=297, epochs=2, batch=10, learning_rate=1e-2, weight_decay=0.1, class_weight="balanced")
KINDS = {
    "larger": LARGER,  # more than four blocks
    "augmented": replace(LARGER, stretch=0.1, splice=0.5, select="last", level=True),
    "smaller": replace(SMALL, d_spec=9, epochs=2, batch=5, learning_rate=1e-2),  # less than a block
    "padded": replace(SMALL, pad=True, epochs=2, batch=10, max_seconds=0.5),
}


def of_ranks(config: li2019.Config, out: Path, ranks: int, *, resume: bool = False) -> list[Any]:
    """The folder of a run of several ranks; 0: without any."""
    out.mkdir(exist_ok=True)
    data, split = unbalanced(config)

    def work(shared: Ranks | None, pool: ThreadPoolExecutor) -> Any:
        return fit(data, split, config, Run(out, pool, lambda _: None, shared=shared), {}, resume=resume)

    if ranks:
        return on_ranks(ranks, lambda shared: work(shared, shared.pool))
    with ThreadPoolExecutor(2) as pool:
        return [work(None, pool)]


def files(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.iterdir()}


@pytest.mark.parametrize("kind", KINDS)
def test_the_files_are_the_same_for_any_number_of_ranks(kind: str, tmp_path: Path) -> None:
    compile_kernels()
    config = KINDS[kind]
    (expected,) = of_ranks(config, tmp_path / "0", 0)
    assert (expected["parameters"] > 4 * BLOCK) == (kind != "smaller")
    for ranks in (2, 3, 4):
        found = of_ranks(config, tmp_path / str(ranks), ranks)
        assert found == [expected] * ranks
        assert files(tmp_path / str(ranks)) == files(tmp_path / "0")


def test_the_number_of_ranks_may_change_when_a_run_is_resumed(tmp_path: Path) -> None:
    compile_kernels()
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    of_ranks(replace(LARGER, epochs=4), whole, 0)
    for epochs, ranks in ((1, 3), (2, 2), (3, 0), (4, 4)):
        of_ranks(replace(LARGER, epochs=epochs), parts, ranks, resume=True)
    assert files(parts) == files(whole)


def test_all_ranks_meet_the_same_error(tmp_path: Path) -> None:
    compile_kernels()
    found = of_ranks(replace(LARGER, learning_rate=1e30, clip=1e30), tmp_path / "high", 3)
    assert len({str(error) for error in found}) == 1
    assert "not finite in epoch 1, batch" in str(found[0])
    shutil.copytree(tmp_path / "high", tmp_path / "other")
    (tmp_path / "other" / "metrics.jsonl").unlink()
    (tmp_path / "other" / "metrics.jsonl").mkdir()
    found = of_ranks(LARGER, tmp_path / "other", 3)
    assert len({str(error) for error in found}) == 1
    assert "metrics.jsonl: cannot be written" in str(found[0])


def test_a_rank_that_computes_otherwise_is_named_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_kernels()
    flatten, others = model.flatten, threading.local()
    monkeypatch.setattr(model, "flatten", lambda *a: flatten(*a) * np.float32(getattr(others, "factor", 1)))

    def work(ranks: Ranks) -> Any:
        next(ranks.pool.map(lambda factor: setattr(others, "factor", factor), [1 + 1e-6 * (ranks.rank == 1)]))
        return fit(data, split, LARGER, Run(tmp_path, ranks.pool, lambda _: None, shared=ranks), {})

    data, split = unbalanced(LARGER)
    for error in on_ranks(3, work):
        assert re.match("rank 1 on .*, the gradient of one shard differs from that of rank 0", str(error))
    assert not list(tmp_path.iterdir())


def test_networks_that_cannot_be_shared_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for hook in ("gradient", "optimiser"):
        monkeypatch.setattr(li2019, hook, None, raising=False)
        for error in of_ranks(LARGER, tmp_path / hook, 2):
            assert "which 2 ranks cannot share; train it in one process" in str(error)
        monkeypatch.undo()


def test_it_is_known_how_many_a_launcher_has_started() -> None:
    assert launched.place({})[:2] == (0, 1)
    assert launched.place({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"})[:2] == (0, 1)  # the script of sbatch
    assert launched.place({"SLURM_NTASKS": "4", "SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4"})[:2] == (2, 4)  # srun
    assert launched.place({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "PMI_SIZE": "8", "PMI_RANK": "5"})[:2] == (5, 8)
    assert launched.place({"OMPI_COMM_WORLD_SIZE": "3", "OMPI_COMM_WORLD_RANK": "1"})[:2] == (1, 3)


# Commands, as a user runs them


@pytest.fixture
def started(tmp_path: Path, environment: dict[str, str]) -> Callable[..., subprocess.Popen[str]]:
    """Start ``mpiexec -n RANKS npser WORDS``. site: code that every rank runs before."""

    def start(ranks: int, *words: str | Path, site: str = "") -> subprocess.Popen[str]:
        (tmp_path / "site").mkdir(exist_ok=True)
        (tmp_path / "site" / "sitecustomize.py").write_text(site)
        path = os.pathsep.join([str(tmp_path / "site"), environment["PYTHONPATH"]])
        return subprocess.Popen(
            [MPIEXEC, "-n", str(ranks), sys.executable, "-m", "npser", *map(str, words)],
            cwd=tmp_path,
            env={**environment, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    return start


@pytest.fixture
def mpiexec(started: Callable[..., subprocess.Popen[str]]) -> Command:
    """The same, to its end."""

    def run(ranks: int, *words: str | Path, status: int = 0, site: str = "") -> subprocess.CompletedProcess[str]:
        process = started(ranks, *words, site=site)
        out, err = process.communicate(timeout=300)
        assert process.returncode == status, f"{out}\n{err}"
        assert "Traceback" not in err
        return subprocess.CompletedProcess(words, status, out, err)

    return run


ONE = 'import os\nif os.environ.get("PMI_RANK") == "1":\n    '


@mpi
def test_a_run_has_the_same_files_with_mpiexec(
    npser: Command, mpiexec: Command, corpus: Path, small: Path, trained: Path, tmp_path: Path
) -> None:
    for ranks in (2, 4):
        shown = mpiexec(ranks, "train", corpus, "--config", small, "--out", str(ranks))
        assert sum(line.startswith("epoch") for line in shown.stdout.splitlines()) == 3  # one rank alone prints
        assert f", seed 0, {ranks} ranks\n" in shown.stdout
        assert shown.stderr == ""
        assert_same_run(trained, tmp_path / str(ranks))
    paper = ("train", corpus, "--preset", "paper", "--config", small, "--set", "max_seconds=0.3", "--set", "select=last")
    npser(*paper, "--epochs", "2", "--out", "paper")
    mpiexec(3, *paper, "--epochs", "1", "--out", "paper-3", "--threads", "2")
    mpiexec(2, *paper, "--epochs", "2", "--out", "paper-3", "--resume")
    assert_same_run(tmp_path / "paper", tmp_path / "paper-3")


def wait_for_epochs(run: Path, epochs: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not (run / "metrics.jsonl").exists() or (run / "metrics.jsonl").read_text().count("\n") < epochs:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def process_of(rank: int, run: str) -> int:
    """The number of the process of a rank of a run."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
                variables = (folder / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[1:4] == [b"-m", b"npser", b"train"] and run.encode() in words and f"PMI_RANK={rank}".encode() in variables:
                return int(folder.name)
    raise AssertionError(f"rank {rank} of {run} is not there")


@mpi
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="ranks are found in /proc")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_all_in_a_sentence_whose_words_go_on(
    rank: int, npser: Command, started: Any, corpus: Path, small: Path, tmp_path: Path
) -> None:
    run = str(tmp_path / "killed")
    words = ("train", corpus, "--config", small, "--out")
    err = ""
    for attempt in range(3):
        process = started(2, *words, run, "--epochs", "100000", *(["--resume"] if attempt else []))
        wait_for_epochs(Path(run), 2 + 2 * attempt, process)
        os.kill(process_of(rank, run), signal.SIGKILL)
        _, err = process.communicate(timeout=60)
        assert process.returncode != 0
        if "process_vm_readv failed" not in err:  # MPICH was reading from the process, and has ended all in its own words
            break
    assert "Traceback" not in err
    lines = [text for text in err.splitlines() if text.startswith("npser: ")]  # mpiexec may say something of its own
    assert len(lines) == 1, err
    line = lines[0]
    assert line.startswith("npser: a rank has ended early, and all end with it; go on with: mpiexec -n 2 npser train ")
    assert line.endswith(f"{run} --epochs 100000 --resume")
    assert not (Path(run) / "report.json").exists()
    done = (Path(run) / "metrics.jsonl").read_text().count("\n")
    if rank:
        npser(*words, run, "--epochs", str(done + 1), "--resume")
        npser(*words, "whole", "--epochs", str(done + 1))
        assert_same_run(tmp_path / "whole", Path(run))


@mpi
def test_ctrl_c_stops_all_ranks_and_tells_how_to_go_on(
    started: Any, mpiexec: Command, corpus: Path, small: Path, tmp_path: Path
) -> None:
    process = started(3, "train", corpus, "--config", small, "--epochs", "100000")
    run = tmp_path / "runs" / "buzz-default-test3-seed0"
    wait_for_epochs(run, 2, process)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    (line,) = err.splitlines()
    words = line.partition("go on with: mpiexec -n 3 npser ")[2].split()
    assert words[-3:] == ["--out", f"runs/{run.name}", "--resume"]
    done = (run / "metrics.jsonl").read_text().count("\n")
    mpiexec(2, *words, "--epochs", str(done + 1))
    assert (run / "report.json").exists()


@mpi
def test_a_rank_that_differs_or_does_not_see_the_features_is_named(
    mpiexec: Command, corpus: Path, small: Path, tmp_path: Path
) -> None:
    words = ("train", corpus, "--config", small, "--out", "run")
    otherwise = ONE + "from npser import model; of = model.flatten; model.flatten = lambda *a: of(*a) * 1.000001"
    one_sentence(mpiexec(3, *words, status=1, site=otherwise), "rank 1 on ", "with another kind of processor,")
    older = otherwise + '; import platform; platform.python_version = lambda: "3.0"'
    one_sentence(mpiexec(2, *words, status=1, site=older), "rank 1 on ", "with another version of python,")
    blind = ONE + "from npser import store; store.reopened = lambda *a: None"
    one_sentence(mpiexec(2, *words, status=1, site=blind), "rank 1 on ", "--cache")
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {".lock"}


@mpi
def test_errors_of_all_ranks_are_told_once_and_those_of_one_rank_by_it(
    mpiexec: Command, corpus: Path, small: Path, tmp_path: Path
) -> None:
    words = ("train", corpus, "--config", small, "--out", "run")
    shown = mpiexec(3, *words, "--set", "learning_rate=1e30", "--set", "clip=1e30", status=1)
    one_sentence(shown, "not finite", "epoch 1", "try a lower rate")
    one_sentence(mpiexec(2, *words, status=1), "unfinished run")
    one_sentence(mpiexec(2, *words, "--network", "nobody", status=2), "nobody")
    full = ONE + "import npser.optim; npser.optim.Adam.step = lambda *a: 1 / 0"
    shown = mpiexec(2, *words, "--resume", status=1, site=full)
    assert re.match(r"npser: internal error \(RuntimeError: rank 1 on .*: division by zero\)", shown.stderr)
    # what speaks for a rank 0 that was killed may speak as well, or come too late
    assert all(": a rank has ended early, and all end with it" in line for line in shown.stderr.splitlines()[1:])


@mpi
def test_processes_that_would_not_know_of_each_other_are_refused(
    mpiexec: Command, npser: Command, environment: dict[str, str], corpus: Path, small: Path, trained: Path, tmp_path: Path
) -> None:
    words = ("train", corpus, "--config", small, "--out", "run")
    one_sentence(
        mpiexec(3, *words, status=2, site=without("mpi4py")),
        "PMI_SIZE says that 3 processes were started",
        "extra mpi",
        "unset PMI_SIZE",
    )
    other = environment | {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}
    one_sentence(
        npser(*words, status=2, env=other), "2 processes were started, and mpi4py sees 1", "another MPI", "unset OMPI_"
    )
    another = (":", "-n", "1", sys.executable, "-m", "npser", "train", corpus, "--seed", "1")
    one_sentence(mpiexec(1, *words, *another, status=2), "rank 1 on ", "other words on the command line")
    assert not (tmp_path / "run").exists()
    mpiexec(1, *words, site=without("mpi4py"))  # one process needs no MPI
    assert_same_run(trained, tmp_path / "run")
