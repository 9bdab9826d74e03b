"""Threads of this process: one for each shard, and BLAS with one thread inside each of them."""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from threading import Lock, Thread
from typing import TypeVar

from threadpoolctl import threadpool_limits

Item = TypeVar("Item")
Result = TypeVar("Result")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h

_lock = Lock()
_users = 0
_limits: threadpool_limits | None = None


def available_cores() -> int:
    """Cores that this process may use: no more than its container may keep busy."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, quota(Path("/")))))


def quota(root: Path) -> float:
    """The cores' worth of time that control groups allow this process, those above its own included; infinite without any.

    root: where proc and sys lie. Of version 2, cpu.max is "QUOTA PERIOD" or "max PERIOD"; of version 1, two files say it, and a
    quota of -1 is none.
    """
    least = math.inf
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return least
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        own = mount / path.lstrip("/")
        for folder in (own, *own.parents):
            least = min(least, _quota_of(folder))
            if folder == mount:
                break
    return least


def _quota_of(folder: Path) -> float:
    """What one control group allows, in cores."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            allowed, period = " ".join((folder / name).read_text() for name in names).split()
            return int(allowed) / int(period) if allowed != "max" and int(allowed) > 0 else math.inf
        except (OSError, ValueError, ZeroDivisionError):  # not there, or of another kind
            continue
    return math.inf


def keep_freed_memory() -> None:
    """Let the process keep the memory of arrays that are freed: fresh pages cost a tenth of a training step. glibc only."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 32 << 20)
        mallopt(M_TRIM_THRESHOLD, 512 << 20)


def ahead(pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], most: int) -> Iterator[Result]:
    """function of each item, in order; no more than so many are computed before they are wanted."""
    running: deque[Future[Result]] = deque()
    try:
        for item in items:
            running.append(pool.submit(function, item))
            if len(running) == most:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        for future in running:
            future.cancel()


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """BLAS runs in the calling thread. The limit is the process's: overlapping uses are counted, the last one lifts it.

    threadpoolctl (3.8 on) lets a thread set limits only while no other living thread has: each change has a thread of its own.
    """
    global _users
    with _lock:
        _users += 1
        if _users == 1:
            _apart(_limit)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0 and not sys.is_finalizing():  # then no thread would start, and who waits for it waits for ever
                _apart(_lift)


def _apart(function: Callable[[], None]) -> None:
    """Call it in a thread of its own."""
    thread = Thread(target=function)
    thread.start()
    thread.join()


def _limit() -> None:
    global _limits
    _limits = threadpool_limits(1, user_api="blas")


def _lift() -> None:
    if _limits is not None:
        _limits.restore_original_limits()
