"""Running the jobs of a cross-validation, in processes of this machine or elsewhere; again where a worker dies."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from npser.experiment.jobs import Job, finished, run_job
from npser.train import Say

REBUILDS = 3  # of a pool that lost a worker
POLL = 0.5  # seconds between two looks at what the jobs have done


def run_jobs(jobs: list[Job], executors: Callable[[], Any], say: Say, watch: Callable[[], object]) -> int:
    """Run jobs until all have results, in any order.

    Parameters
    ----------
    jobs : list of dict
        See run_job.
    executors : callable
        Opens a context that yields a concurrent.futures.Executor; called again when a worker's death has broken the last one.
    say, watch : callables
        Receive a line for the user; called every POLL seconds.

    Returns
    -------
    int
        How often the executor broke.

    Raises
    ------
    ValueError
        When it broke more than REBUILDS times, or a job failed; the other jobs are run first.
    """
    pending, failed = {job["folder"]: job for job in jobs}, {}
    broken = 0
    while True:
        try:
            with executors() as executor:
                _run_once(executor, pending, failed, say, watch)
            break
        except BrokenExecutor:
            broken += 1
            pending = {folder: job for folder, job in pending.items() if finished(job) is None}
            text = f"a worker died (killed, or out of memory); unfinished jobs: {len(pending)}"
            if broken > REBUILDS:
                raise ValueError(
                    f"{text}; that was the {broken}th time: try fewer --workers; the same command goes on"
                ) from None
            say(f"workers   {text}; running them again ({broken} of {REBUILDS})")
    if failed:
        folder, reason = next(iter(sorted(failed.items())))
        raise ValueError(
            f"{len(failed)} of {len(jobs)} jobs failed; {Path(folder).name}: {reason}; the same command runs them again"
        )
    return broken


def _run_once(
    executor: Executor, pending: dict[str, Job], failed: dict[str, str], say: Say, watch: Callable[[], object]
) -> None:
    """Submit what is pending and wait for it; what is done leaves pending. BrokenExecutor when a worker died."""
    futures: dict[Future[dict[str, Any]], str] = {}
    with _deaf_children():
        for folder, job in pending.items():
            futures[executor.submit(run_job, job)] = folder
    waiting, total = set(futures), len(futures)
    while waiting:
        done, waiting = wait(waiting, POLL, FIRST_COMPLETED)
        for future in sorted(done, key=lambda future: futures[future]):
            folder = futures[future]
            try:
                result = future.result()
            except BrokenExecutor:
                raise
            except Exception as error:  # whatever a worker ran into: the other jobs go on
                text = " ".join(str(error).split())
                failed[folder] = text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"
                say(f"failed    {Path(folder).name}: {failed[folder]}")
            else:
                say(
                    f"job       {Path(folder).name}: UA {result['ua']:.3f}, epoch {result['selected_epoch']}, "
                    f"{result['run']['seconds']:.0f} s, {total - len(waiting)}/{total}"
                )
            del pending[folder]
        watch()


@contextlib.contextmanager
def _deaf_children() -> Iterator[None]:
    """Processes started here ignore Ctrl-C: their parent takes it, and ends them without a traceback."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def local_processes(workers: int, prepare: Callable[[], None] | None = None) -> Iterator[Executor]:
    """Processes of this machine, which end when this one does, however it ends. prepare: is called first in each of them."""
    context = get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    executor = ProcessPoolExecutor(workers, context, initializer=_end_with_parent, initargs=(reader, prepare))
    try:
        yield executor
    except BaseException:
        writer.close()
        raise
    finally:
        executor.shutdown(cancel_futures=True)
        writer.close()
        reader.close()


def _end_with_parent(reader: Any, prepare: Callable[[], None] | None) -> None:
    """Leave as soon as the other end of the pipe is closed: every file is written whole or not at all."""
    if prepare is not None:
        prepare()

    def watch() -> None:
        with contextlib.suppress(EOFError, OSError):
            reader.recv()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
