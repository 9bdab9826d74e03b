"""What the commands share: their words and progress on the terminal, and the threads they run in.

Imports stand where they are needed, so that `npser predict` and `npser --help` start at once.
"""

from __future__ import annotations

import contextlib
import re
import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor
    from pathlib import Path

INTERRUPTED = 130  # exit status after Ctrl-C
# What moves the cursor, colours, starts a line, or turns the direction of writing; and halves of characters, but for those that
# stand for the bytes of a file's name
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udc7f\udd00-\udfff]")


class UsageError(ValueError):
    """Words of the command line that are not known; exit status 2."""


@contextlib.contextmanager
def pool(threads: int | None) -> Iterator[ThreadPoolExecutor]:
    """The threads of a run; inside, BLAS keeps to the thread that calls it."""
    from concurrent.futures import ThreadPoolExecutor

    from npser.threads import available_cores, keep_freed_memory, single_threaded_blas

    if threads is not None and threads < 1:
        raise UsageError(f"--threads {threads}: expected at least 1")
    keep_freed_memory()
    with single_threaded_blas(), ThreadPoolExecutor(threads or available_cores()) as pool:
        yield pool


@contextlib.contextmanager
def compiling(say: Any) -> Iterator[None]:
    """Around the first use of the kernels: tells why it takes long, where it does."""
    import threading

    timer = threading.Timer(3, say, ["kernels   compiling them for this machine, once: 10 to 30 seconds"])
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def made(folder: Path) -> Path:
    """The folder of --out, which can be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out {folder}: cannot be made ({error.strerror}); name another folder") from None
    return folder


def progress(items: Any, **options: Any) -> Any:
    """tqdm on standard error, and on a terminal only."""
    from tqdm import tqdm

    return tqdm(items, **{"disable": None, "dynamic_ncols": True, **options})


def say_to(file: Any) -> Any:
    """print, to file, at once. Lines end where the text says; what else controls a terminal is escaped."""
    return lambda text: print("\n".join(map(printable, text.split("\n"))), file=file, flush=True)


def printable(value: Any) -> Any:
    """A text, or all texts in lists and dicts, with control characters as \\n, \\x1b, ...: a label may be anything."""
    if isinstance(value, str):
        return CONTROL.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), value)
    if isinstance(value, dict):
        return {printable(key): printable(one) for key, one in value.items()}
    return [printable(one) for one in value] if isinstance(value, list) else value


def warn_in_a_line() -> None:
    """From now on, a warning in this process is one line."""
    warnings.showwarning = _show_warning


def _show_warning(message: Warning | str, *_: Any) -> None:
    sys.stderr.write(f"npser: warning: {printable(' '.join(str(message).split()))}\n")  # at once: threads warn too
