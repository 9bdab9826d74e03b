"""A Dask cluster: who works there, and long lists of recordings computed there in batches, whatever becomes of the workers."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import os
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, wait
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from npser import __version__
from npser.files import is_address
from npser.threads import available_cores

POLL = 0.5  # seconds between two looks at what the workers have done
REACH = 10  # seconds in which a scheduler must answer
PATIENCE = 60.0  # seconds for which a scheduler that is gone is waited for
# A worker without this npser would die when it reads a function that it cannot import; this it imports when it runs it
CALL = "__import__('importlib').import_module('npser.experiment.cluster').called(*work)"
AT_ONCE = 2  # batches of each worker's thread that are submitted: one is computed while the other waits
SECONDS, MOST = 600.0, 500  # of audio in a batch, about, and files at most
WAV, COMPRESSED = 32_000, 8_000  # bytes a second: of 16-bit speech at 16 kHz, and about what is left of it

Say = Callable[[str], object]
Batch = tuple[int, int]  # the numbers of its first recording, and of the first after it
Work = tuple[Any, ...]  # a function at the top of a module, and its arguments, all of them plain values


class SchedulerGone(ValueError):
    """The scheduler has ended, or cannot be reached any more."""


@contextlib.contextmanager
def dask_cluster(address: str, say: Say) -> Iterator[tuple[Callable[[], Any], Callable[[], int]]]:
    """A running Dask cluster; yields executors and watch for run_jobs. Dask itself runs the jobs of a lost worker again.

    watch tells of workers that have left, and returns how many threads there are; SchedulerGone where the scheduler is.
    """
    try:
        from distributed import Client
    except ImportError:
        raise ValueError("--dask needs the package distributed; install it with: pip install 'dask[distributed]'") from None
    import logging

    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # we tell what matters
    try:
        client: Any = Client(address, timeout=REACH)
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"--dask {address}: there is no scheduler to be reached ({type(error).__name__})") from None
    known: set[str] = set()
    told = False

    def watch() -> int:
        nonlocal told
        try:
            threads = client.nthreads() if client.status == "running" else None
        except (OSError, AttributeError):  # lost at this moment
            threads = None
        if threads is None:
            raise SchedulerGone(f"--dask {address}: the scheduler is gone; start it again, and the same command goes on")
        for lost in sorted(known - set(threads)):
            say(f"workers   {lost} has left the cluster; its unfinished work is done again by the others")
        if not threads and not told:
            say("workers   there is none in the cluster; waiting for one")
        told = not threads
        known.clear()
        known.update(threads)
        return sum(threads.values())

    @contextlib.contextmanager
    def executors() -> Iterator[Executor]:
        executor = client.get_executor(pure=False)
        try:
            yield executor
        finally:
            with contextlib.suppress(Exception):  # the connection may be gone
                executor.shutdown(wait=False)

    try:
        watch()
        yield executors, watch
    finally:
        client.close()


def share_of_cores() -> int:
    """Cores for one task on a Dask worker, whose threads run a task each; elsewhere all of them."""
    try:
        from distributed import get_worker

        return max(1, available_cores() // get_worker().state.nthreads)
    except (ImportError, ValueError):  # no Dask worker
        return available_cores()


def worker_name() -> str:
    """How a sentence calls the Dask worker that says it."""
    from distributed import get_worker

    return f"the worker {get_worker().address}"


def versions() -> dict[str, str]:
    """What results depend on: npser, by its version and by a hash of its code, and the packages that compute."""
    code = hashlib.sha256()
    for package in ("npser", "npser_kernels"):
        (root,) = importlib.util.find_spec(package).submodule_search_locations  # pyright: ignore[reportOptionalMemberAccess, reportGeneralTypeIssues, reportOptionalIterable]
        for file in sorted(Path(root).rglob("*.py")):
            code.update(file.read_bytes())
    found = {"npser": __version__, "numpy": metadata.version("numpy"), "numba": metadata.version("numba")}
    return {**found, "scipy": metadata.version("scipy"), "npser's code": code.hexdigest()[:12]}


_own_versions = functools.cache(versions)


def check_version(version: str) -> None:
    """ValueError on a worker that runs another npser than the command does."""
    if version != __version__:
        raise ValueError(f"a worker runs npser {__version__} and the command npser {version}; install the same version")


def called(wanted: dict[str, str], module: str, name: str, arguments: tuple[Any, ...]) -> tuple[Any, list[str]]:
    """What a function of npser returns, on a worker, and what was warned of; ValueError where that runs other versions."""
    check_version(wanted["npser"])
    found = _own_versions()
    for what, version in wanted.items():
        if found[what] != version:
            raise ValueError(
                f"{worker_name()} runs {what} {found[what]} and the command {what} {version}; install the same version"
            )
    told, warned = _told(), list[str]()
    result = getattr(importlib.import_module(module), name)(*arguments)
    with contextlib.suppress(IndexError):  # of other threads' work too
        while True:
            warned.append(told.popleft())
    return result, warned


@functools.cache
def _told() -> deque[str]:
    """What npser has warned of in this process: whoever started the command is told of it, not only the worker's log."""
    told: deque[str] = deque(maxlen=1000)
    before = warnings.showwarning

    def show(message: Warning | str, *about: Any) -> None:
        told.append(str(message))
        before(message, *about)

    warnings.filterwarnings("always", category=UserWarning, module="npser")
    warnings.showwarning = show
    return told


def _submitted(executor: Executor, work: Work) -> Future[Any]:
    """A call of called, on a worker."""
    function, *arguments = work
    return executor.submit(eval, CALL, {"work": (_own_versions(), function.__module__, function.__name__, arguments)})


def cut(names: Sequence[str], sizes: Sequence[int], unit: int) -> list[Batch]:
    """A list of recordings in its order, cut into batches of about SECONDS of audio, and MOST files at most.

    Parameters
    ----------
    names, sizes : sequences
        Of each file, its name, and its bytes, which say about how long it is.
    unit : int
        Every batch starts at a multiple of it.
    """
    batches: list[Batch] = []
    start, held = 0, 0.0
    for first in range(0, len(names), unit):
        if first > start and (held >= SECONDS or first + unit - start > MOST):
            batches.append((start, first))
            start, held = first, 0.0
        for r in range(first, min(first + unit, len(names))):
            held += sizes[r] / (WAV if names[r].lower().endswith(".wav") else COMPRESSED)
    return [*batches, (start, len(names))] if names else []


def seen_by_workers(name: str) -> str:
    """A file's name as workers open it, whose current folder is another one."""
    return name if is_address(name) else os.path.join(os.getcwd(), name)


def computed(
    address: str, batches: Sequence[Batch], work: Callable[[Batch], Work], unit: int, say: Say
) -> Iterator[tuple[Batch, Any]]:
    """Compute batches on a Dask cluster, a few at a time.

    A worker that dies is no matter: its batches are computed by others. Where that happens to a batch again and again, it is
    halved until the recording is found that kills workers.

    Parameters
    ----------
    address : str
        Of the scheduler. When it is gone, it is waited for, and what was not done is submitted anew.
    batches : sequence of (int, int)
        See cut.
    work : callable
        A batch's function and arguments; what they hold is sent to the worker.
    unit : int
        Halves start at multiples of it too, but for those of a batch that has no more recordings than that.

    Yields
    ------
    ((int, int), result)
        In any order; halves have results of their own, and that of a recording that kills workers is None.

    Raises
    ------
    ValueError
        Where a worker raises anything, and where the scheduler does not come back within PATIENCE seconds.
    """
    queue = _Queue(deque(batches), deque(), unit, say)
    gone_since: float | None = None
    while queue.pending or queue.suspects:
        try:
            with dask_cluster(address, say) as (executors, watch), executors() as executor:
                if gone_since is not None:
                    say("workers   the scheduler is back")
                    gone_since = None
                yield from _run(queue, executor, watch, work)
        except SchedulerGone:
            gone_since = time.monotonic()
            say(f"workers   the scheduler is gone; waiting for it at {address}, for {PATIENCE:g} seconds")
        except ValueError as error:
            if gone_since is None:
                raise
            if time.monotonic() - gone_since > PATIENCE:
                raise ValueError(f"{error}; start it again, and the same command goes on") from None
            time.sleep(POLL)


@dataclass(frozen=True)
class _Queue:
    """Batches that are waiting.

    suspects: their workers died, perhaps because of another batch there. They come last and one at a time, so that the one that
    is computed while workers die again is the one that kills them.
    """

    pending: deque[Batch]
    suspects: deque[Batch]
    unit: int
    say: Say

    def suspect(self, batch: Batch, alone: bool) -> bool:
        """What becomes of a batch that was there when workers died; whether it is one recording, and has killed them."""
        first, end = batch
        size = end - first
        if alone and size == 1:
            return True
        if not alone:
            self.suspects.append(batch)
            self.say(f"workers   several died over files {first + 1} to {end} of the list; these are tried again at the end")
            return False
        middle = first + (self.unit * max(1, size // 2 // self.unit) if size > self.unit else size // 2)
        self.suspects.extendleft([(middle, end), (first, middle)])
        self.say(f"workers   one of the files {first + 1} to {end} of the list kills its worker; halving them")
        return False


def _run(
    queue: _Queue, executor: Executor, watch: Callable[[], int], work: Callable[[Batch], Work]
) -> Iterator[tuple[Batch, Any]]:
    """Compute what is waiting; SchedulerGone with all that is not done in the queue again."""
    from distributed import KilledWorker

    running: dict[Future[Any], tuple[Batch, bool]] = {}
    try:
        while queue.pending or queue.suspects or running:
            most = AT_ONCE * max(1, watch())
            while queue.pending and len(running) < most:
                batch, alone = queue.pending.popleft(), not running and not queue.pending
                running[_submitted(executor, work(batch))] = batch, alone
            if not running:
                batch = queue.suspects.popleft()
                running[_submitted(executor, work(batch))] = batch, True
            done, _ = wait(running, POLL, FIRST_COMPLETED)
            for future in done:
                batch, alone = running[future]
                try:
                    result, warned = future.result()
                except CancelledError:
                    raise SchedulerGone("the connection was lost") from None
                except KilledWorker:
                    del running[future]
                    if queue.suspect(batch, alone):
                        yield batch, None
                except ValueError:
                    raise
                except Exception as error:
                    text = " ".join(f"{type(error).__name__}: {error}".split())
                    missing = isinstance(error, (ImportError, AttributeError))
                    way_out = (
                        f"; is npser {__version__} installed on every worker?" if missing else "; the same command goes on"
                    )
                    raise ValueError(f"a worker failed ({text}){way_out}") from None
                else:
                    del running[future]
                    for text in warned:
                        warnings.warn(text, stacklevel=2)
                    yield batch, result
    finally:
        queue.pending.extendleft(sorted((batch for batch, _ in running.values()), reverse=True))
