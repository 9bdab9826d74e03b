"""A command that an MPI launcher has started several times: whether it has, and how its ranks end, all of them together.

Nothing here imports mpi4py where the launcher has started one process, or none.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from npser.commands import terminal

# What tells a process how many it is one of, and which: Open MPI's; PMI's, of MPICH, Intel MPI and srun; those of any step
# of srun. What sbatch sets for its script (SLURM_NTASKS) is not among them: there, one process runs.
LAUNCHERS = (
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("PMI_SIZE", "PMI_RANK"),
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
)
PATIENCE = 3  # seconds in which ranks that fail alike are expected to do so

# Ends with rank 0, in whatever way that ends, and prints what it was told last. Of its own session, which launchers spare.
WITNESS = "import sys; sys.stderr.buffer.write((b'\\0' + sys.stdin.buffer.read()).split(b'\\0')[-2])"


def place(environment: Mapping[str, str]) -> tuple[int, int, str]:
    """Which of how many processes the launcher says this is, and the variable that says it; (0, 1, "") without a launcher."""
    for size, rank in LAUNCHERS:
        if environment.get(size, "").isdigit():
            return int(environment.get(rank) or 0), int(environment[size]), size
    return 0, 1, ""


def _refuse(problem: str) -> NoReturn:
    """End all processes of the launcher, which do not know of each other: the first one says why."""
    rank, size, variable = place(os.environ)
    if rank == 0:
        raise terminal.UsageError(
            f"{variable} says that {size} processes were started, {problem}; to train in this process alone, unset {variable}"
        )
    raise SystemExit(0)  # the launcher would kill the first one at any other status


def world() -> Any:
    """mpi4py's communicator of all ranks; None for one process."""
    size = place(os.environ)[1]
    if size == 1:
        return None
    try:
        import mpi4py

        mpi4py.rc.thread_level = "funneled"  # only the main thread calls
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        _refuse(f"and each would train alone, since mpi4py is missing: {error}; the extra mpi has it")
    if MPI.COMM_WORLD.size != size:
        library = MPI.Get_library_version().split("\n")[0].strip("\0 ")
        _refuse(
            f"and mpi4py sees {MPI.COMM_WORLD.size}: it belongs to another MPI ({library}) than what started them; use the "
            "mpiexec of that MPI"
        )
    return MPI.COMM_WORLD


def threads_of(comm: Any) -> int:
    """This rank's share of the cores of its machine: of each that it may use, what the ranks there that may use it leave."""
    from mpi4py import MPI

    from npser.threads import available_cores, quota

    neighbours = comm.Split_type(MPI.COMM_TYPE_SHARED)
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(available_cores()))
    everybody = neighbours.allgather(cores)
    share = sum(1 / sum(core in others for others in everybody) for core in cores)
    return max(1, int(min(share, quota(Path("/")) / len(everybody)) + 1e-9))


class Ending:
    """What is said where a run of several ranks ends before its time: the words that go on with it.

    comm: theirs, or None for one process, of which nothing of this is asked but to keep the words.
    """

    def __init__(self, comm: Any, again: str) -> None:
        self.comm, self.again, self.stopped = comm, again, False
        self.rank, self.witness = 0 if comm is None else comm.rank, None
        if comm is not None and self.rank == 0:
            import subprocess  # late, as below: each takes a while

            self.witness = subprocess.Popen([sys.executable, "-ISc", WITNESS], stdin=subprocess.PIPE, start_new_session=True)
        self.go_on_with(again)

    def go_on_with(self, again: str) -> None:
        """From now on, these are the words."""
        self.again = again
        self._tell(f"npser: a rank has ended early, and all end with it; go on with: {again}\n")

    def nothing(self) -> None:
        """Nothing is left to be said."""
        self._tell("")

    def _tell(self, text: str) -> None:
        if self.witness is not None and self.witness.stdin is not None:
            with contextlib.suppress(OSError):
                self.witness.stdin.write(f"{text}\0".encode(errors="surrogateescape"))
                self.witness.stdin.flush()

    def ctrl_c(self, *_: Any) -> None:
        """Of the signal: have the ranks stop together."""
        self.stopped = True

    def insist(self, received: int) -> None:
        """In a thread: after Ctrl-C, end ranks that are in a long computation, or in a call that does not return."""
        os.read(received, 1)
        time.sleep(PATIENCE)
        if self.rank == 0:
            self.nothing()
            os.write(2, f"npser: interrupted; go on with: {self.again}\n".encode(errors="surrogateescape"))
        time.sleep(0.5)  # the others end then as well; what a launcher has to kill would count as crashed
        os._exit(terminal.INTERRUPTED)  # files are written whole or not at all


@contextlib.contextmanager
def ending(end: Ending) -> Iterator[None]:
    """Around the work of a run: its ranks, where it has several, end together, and one of them says why.

    An error that all ranks meet is raised on all of them, and those but the first print nothing. One that a rank meets alone is
    raised with its name, and its process ends the others as it exits.
    """
    comm = end.comm
    if comm is None:  # Ctrl-C is raised, as everything else
        yield
        return
    import socket

    farewell = comm.Dup()
    received, sent = os.pipe()
    os.set_blocking(sent, False)
    signal.set_wakeup_fd(sent, warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, end.ctrl_c)
    threading.Thread(target=end.insist, args=(received,), daemon=True).start()
    if end.rank:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (to the end of the process)
    try:
        yield
    except Exception as error:
        met, deadline = farewell.Ibarrier(), time.monotonic() + PATIENCE
        while not met.Test():
            if time.monotonic() > deadline:
                atexit.register(_abort, comm)
                end.nothing()
                sys.stderr = sys.__stderr__
                known = isinstance(error, ValueError | OSError | MemoryError)
                where = f"rank {end.rank} on {socket.gethostname()}"
                raise (ValueError if known else RuntimeError)(f"{where}: {str(error) or type(error).__name__}") from error
            time.sleep(0.01)
        raise
    finally:
        end.nothing()
        if end.witness is not None:
            end.witness.communicate()


def _abort(comm: Any) -> None:
    """End all ranks. What this rank has to say is said: MPI's own words would follow it."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)
    time.sleep(0.3)  # a busy launcher passes it on
    comm.Abort(1)
