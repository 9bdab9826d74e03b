"""What the commands share: their words and progress on the terminal, and the threads they run in.

Imports stand where they are needed, so that `npser predict` and `npser --help` start at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

INTERRUPTED = 130  # exit status after Ctrl-C


class UsageError(ValueError):
    """Words of the command line that are not known; exit status 2."""


@contextlib.contextmanager
def pool(threads: int | None) -> Iterator[ThreadPoolExecutor]:
    """The threads of a run; inside, BLAS keeps to the thread that calls it."""
    from concurrent.futures import ThreadPoolExecutor

    from npser.threads import available_cores, keep_freed_memory, single_threaded_blas

    if threads is not None and threads < 1:
        raise ValueError(f"--threads {threads}: expected at least 1")
    keep_freed_memory()
    with single_threaded_blas(), ThreadPoolExecutor(threads or available_cores()) as pool:
        yield pool


@contextlib.contextmanager
def compiling(say: Any) -> Iterator[None]:
    """Around the first use of the kernels: tells why it takes long, where it does."""
    import threading

    timer = threading.Timer(3, say, ["kernels   compiling them for this machine, once: 10 to 20 seconds"])
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def progress(items: Any, **options: Any) -> Any:
    """tqdm on standard error, and on a terminal only."""
    from tqdm import tqdm

    return tqdm(items, **{"disable": None, "dynamic_ncols": True, **options})


def say_to(file: Any) -> Any:
    """print, to file, at once."""
    return lambda text: print(text, file=file, flush=True)
