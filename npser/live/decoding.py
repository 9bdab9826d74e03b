"""Uploads are decoded in another process: libsndfile is C, and reads what anybody may have made.

The child has so much memory and time, may write no file, and where the system allows it, reaches no network. It is handed an
open file and hands samples back, block by block as they are asked for. Where it dies, the upload is refused, and there is a new
child.

    python -m npser.live.decoding SOCKET MEMORY SECONDS
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import resource
import socket
import struct
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import IO

import numpy as np

from npser import features
from npser.live.limits import Problem, Settings

Array = np.ndarray

HEAD = struct.Struct("<cI")  # kind and length of what the child says
READY, RATE, BLOCK, END, ERROR = b"i", b"r", b"b", b"d", b"e"
READ, NEXT, STOP = b"g", b"n", b"s"  # what it is told
LARGEST = 4 * features.BLOCK  # bytes of a block
STARTS = 60.0  # seconds within which a child must have started
ATTEMPTS = 3  # to start one
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000  # of sched.h


class Decoder:
    """A child, and another one when it is gone. One thread at a time."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.died = settings, 0
        self._start()

    def _start(self) -> None:
        self.socket, other = socket.socketpair()
        s = self.settings
        words = [str(other.fileno()), str(s.decoder_bytes), str(math.ceil(s.decoder_seconds))]
        with other:
            self.child = subprocess.Popen(
                [sys.executable, "-m", "npser.live.decoding", *words],
                pass_fds=[other.fileno()],
                start_new_session=True,  # Ctrl-C is for the server, which finishes what runs
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        self.ready = self.going_on = False

    def is_ready(self, seconds: float = 0) -> bool:
        """Whether a child waits for work, or does within so long. Where it was killed at rest, another one is started."""
        if self.child.poll() is not None:
            self._replace()
        if not self.ready:
            self.socket.settimeout(seconds)
            with contextlib.suppress(OSError):
                self.ready = self._receive()[0] == READY
        return self.ready

    def check(self) -> None:
        """Wait until there is a child that can be used. ValueError where none comes up."""
        for _ in range(ATTEMPTS):
            if self.is_ready(STARTS):
                return
            self._replace()
        raise ValueError("a decoding process does not start; give it more with --decoder-bytes")

    def blocks(self, file: IO[bytes]) -> tuple[int, Iterator[Array]]:
        """What features.read_blocks says of an open file. Problem: the child refuses it, or has died of it."""
        self.check()
        self.socket.settimeout(self.settings.decoder_seconds)
        try:
            socket.send_fds(self.socket, [READ], [file.fileno()])
            kind, content = self._receive()
        except OSError:
            raise self._dead() from None
        if kind == ERROR:
            raise Problem("audio_invalid", content.decode("utf-8", "replace"), 422)
        (rate,) = struct.unpack("<I", content) if kind == RATE and len(content) == 4 else (0,)
        if not features.RATES[0] <= rate <= features.RATES[1]:
            raise self._dead()
        self.going_on = True
        return rate, self._rest()

    def _rest(self) -> Iterator[Array]:
        """The blocks."""
        while True:
            try:
                self.socket.sendall(NEXT)
                kind, content = self._receive()
            except OSError:
                raise self._dead() from None
            self.going_on = kind == BLOCK
            if kind == ERROR:
                raise Problem("audio_invalid", content.decode("utf-8", "replace"), 422)
            if kind == END:
                return
            block = np.frombuffer(content, np.float32) if kind == BLOCK and len(content) % 4 == 0 else np.empty(0)
            if not len(block) or not features.is_sound(block):
                raise self._dead()
            yield block

    def release(self) -> None:
        """After a recording, of which perhaps not all blocks were taken."""
        if self.going_on:
            with contextlib.suppress(OSError):
                self.socket.sendall(STOP)
        self.going_on = False

    def _receive(self) -> tuple[bytes, bytes]:
        """A message of the child; OSError where there is none."""
        kind, length = HEAD.unpack(self._exactly(HEAD.size))
        if length > LARGEST:
            raise OSError("a message of the child is too long")
        return kind, self._exactly(length)

    def _exactly(self, size: int) -> bytes:
        found = bytearray(size)
        at = 0
        while at < size:
            n = self.socket.recv_into(memoryview(found)[at:])
            if n == 0:
                raise OSError("the child is gone")
            at += n
        return bytes(found)

    def _dead(self) -> Problem:
        """What is said of a child that died, took too long, or made no sense; there is a new one."""
        self._replace()
        text = f"the recording could not be decoded within {self.settings.decoder_seconds:g} s and "
        text += f"{self.settings.decoder_bytes >> 20} MiB; convert it to wav or flac"
        return Problem("decoder_died", text, 422)

    def _replace(self) -> None:
        self.died += 1
        self.close()
        self._start()

    def close(self) -> None:
        """No more."""
        self.socket.close()
        self.child.kill()
        self.child.wait()


# In the child


def main() -> None:
    """Decode what comes on a socket, until that is closed."""
    descriptor, memory, seconds = map(int, sys.argv[1:])
    warnings.simplefilter("ignore")
    with socket.socket(fileno=descriptor) as parent:
        _confine(memory)
        _say(parent, READY)
        while True:
            order, files, _, _ = socket.recv_fds(parent, 1, 1)
            if order != READ or len(files) != 1:
                return
            used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
            resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used) + seconds, resource.getrlimit(resource.RLIMIT_CPU)[1]))
            with open("the recording", "rb", opener=lambda *_, file=files[0]: file) as file:
                _decode(parent, file)


def _confine(memory: int) -> None:
    """Limits that need no rights; and no network, where namespaces can be had."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "unshare") and libc.unshare(CLONE_NEWNET) != 0:
        libc.unshare(CLONE_NEWUSER | CLONE_NEWNET)
    for limit, value in (("AS", memory), ("FSIZE", 0), ("CORE", 0), ("NOFILE", 16), ("NPROC", 0)):
        number = getattr(resource, f"RLIMIT_{limit}", None)
        if number is not None:
            with contextlib.suppress(ValueError, OSError):  # macOS has no such limit, or the system a lower one
                resource.setrlimit(number, (value, value))


def _decode(parent: socket.socket, file: IO[bytes]) -> None:
    """One file, as far as its blocks are asked for."""
    try:
        rate, blocks = features.read_blocks(file)  # pyright: ignore[reportArgumentType] (it is a binary file)
        _say(parent, RATE, struct.pack("<I", rate))
        while parent.recv(1) == NEXT:
            block = next(blocks, None)
            if block is None:
                _say(parent, END)
                return
            _say(parent, BLOCK, np.ascontiguousarray(block, np.float32).tobytes())
    except (ValueError, OSError, MemoryError) as error:
        _say(parent, ERROR, (str(error) or "the recording needs too much memory").encode()[:1000])


def _say(parent: socket.socket, kind: bytes, content: bytes = b"") -> None:
    parent.sendall(HEAD.pack(kind, len(content)) + content)


if __name__ == "__main__":
    main()
