"""Files that are written whole or not at all, locks between processes, and files that lie at an address such as s3://."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import re
import secrets
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

PATIENCE = 2.0  # seconds for which a lock is waited for without a word


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: the old one stays until the new one is safely on disk.

    What a process that was killed left of it is removed: nobody holds the lock of such a file.
    """
    for leftover in path.parent.glob(f".{glob.escape(path.name)}-{'[0-9a-f]' * 16}"):
        with contextlib.suppress(OSError), leftover.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            leftover.unlink()
    partial = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    try:
        with partial.open("xb") as file:  # unlike mkstemp's, its mode follows the umask
            with contextlib.suppress(OSError):  # where there are no locks, nothing of others is removed either
                fcntl.flock(file, fcntl.LOCK_EX)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.replace(partial, path)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        way_out = "make room and run the same command again" if full else "name another folder"
        raise ValueError(
            f"{path}: cannot be written ({error.strerror}); what was there before is untouched: {way_out}"
        ) from None
    finally:
        with contextlib.suppress(OSError):  # it has become path, or never existed
            partial.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems refuse; the file is in place
            os.fsync(folder)
    finally:
        os.close(folder)


def refuse_special(path: str | os.PathLike[str], expected: str, way_out: str = "") -> None:
    """ValueError for a folder, a pipe or a device: opening one may wait for ever. What is missing is let pass.

    way_out: of pipes and devices, after what was expected. A folder that cannot be read is an OSError.
    """
    name = os.fspath(path)
    if "\0" in name:
        raise ValueError(f"{name!r}: is no file name, since it holds a null byte; {expected}")
    if os.path.isdir(name):
        os.scandir(name).close()
        raise ValueError(f"{name}: is a folder; {expected}")
    if os.path.exists(name) and not os.path.isfile(name):
        raise ValueError(f"{name}: is a pipe or a device; {expected}{way_out}")


@contextlib.contextmanager
def lock(path: Path, wait: bool = True) -> Iterator[None]:
    """One process at a time; without wait, ValueError where another one is at it. Who waits for long is told."""
    with path.open("w") as file:
        until = time.monotonic() + (PATIENCE if wait else 0)
        while not _has(file):
            if time.monotonic() < until:
                time.sleep(0.02)
                continue
            if not wait:
                raise ValueError(f"{path.parent}: another npser is at work there; wait for it, or name another folder")
            warnings.warn(f"{path.parent}: waiting for another npser, which is at work there", stacklevel=3)
            fcntl.flock(file, fcntl.LOCK_EX)
            break
        yield


def _has(file: IO[str]) -> bool:
    """Whether this process has the lock of a file, by now."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_address(name: str) -> bool:
    """Whether a name is an address for fsspec, such as s3://bucket/a.wav or https://host/a.wav."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.:-]*://", name) is not None


@contextlib.contextmanager
def at_address(address: str) -> Iterator[tuple[Any, str]]:
    """fsspec's file system of an address, and what it calls it; what goes wrong inside is a ValueError."""
    try:
        from fsspec.core import url_to_fs

        yield url_to_fs(address)
    except ImportError as error:
        kind = address.partition("://")[0].rpartition(":")[2].replace("https", "http")
        raise ValueError(f"{address}: needs a package ({error}); install it with: pip install 'fsspec[{kind}]'") from None
    except Exception as error:  # every file system has errors of its own
        text = " ".join(str(error).split()).removeprefix(address).lstrip(": ")
        raise ValueError(f"{address}: cannot be opened ({text or type(error).__name__})") from None


def fetched(address: str) -> BinaryIO:
    """A copy of what lies at an address, open and seekable; it is gone when it is closed."""
    with contextlib.ExitStack() as opened:
        copy = opened.enter_context(tempfile.TemporaryFile())
        with at_address(address) as (system, path), system.open(path, "rb") as source:
            shutil.copyfileobj(source, copy, 1 << 20)
        opened.pop_all()  # whoever reads it closes it
    return copy
