"""Uploads are decoded in another process: libsndfile is C, and reads what anybody may have made.

The child has so much memory and time, may write no file, and where the system allows it, reaches no network. It is handed an
open file and hands back what the network hears of it, part by part as they are asked for. Where it dies, the upload is refused,
and there is a new child. Of what it says nothing is taken on trust.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import math
import os
import pickle
import resource
import socket
import struct
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

import numpy as np

from npser import features
from npser.lite import TOGETHER, Model
from npser.live import child
from npser.live.limits import Problem, Settings
from npser.prediction import WindowOutput

Array = np.ndarray

HEAD = struct.Struct("<cII")  # kind of what the child says, and the lengths of its words and of its numbers
READY, PART, GOING_ON, END, ERROR, TOO_LONG = b"i", b"p", b"g", b"d", b"e", b"l"
READ, NEXT, STOP = b"r", b"n", b"s"  # what it is told
MOST_WORDS = 1 << 18  # bytes of a part's words: a window of many short runs of speech has 20 for each
SILENT_FOR = 64  # blocks without a part, after which it says that it goes on
STARTS = 60.0  # seconds within which a child must have started
ATTEMPTS = 3  # to start one
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000  # of sched.h


class Limits(NamedTuple):
    """Of what a child may say: samples of a window at 16 kHz, rows and columns of its input, windows of a recording."""

    samples: int
    rows: int
    columns: int
    all_windows: int


def tone(samples: int) -> Array:
    """Something to hear, so many samples at 16 kHz, float32."""
    t = np.arange(samples) / features.SAMPLE_RATE
    return (0.1 * np.sin(1500 * t) * np.sin(3 * t)).astype(np.float32)


def limits_of(model: Model, settings: Settings) -> Limits:
    """Of a model's windows."""
    samples = features.window_samples(model.config.max_seconds)
    rows, columns = model.network_input(tone(samples)).shape
    return Limits(samples, rows, columns, math.ceil(2 * settings.sound_seconds / model.config.max_seconds) + TOGETHER)


class Part(NamedTuple):
    """Of a recording: seconds heard by its end, its windows, and of those that can be answered X (L, d), normalised."""

    seconds: float
    windows: list[WindowOutput]
    inputs: list[Array]


class Decoder:
    """A child, and another one when it is gone. One thread at a time.

    model: an open file with the pickled model, which the child reads when it starts; limits: of what it may say.
    """

    def __init__(self, settings: Settings, model: IO[bytes], limits: Limits) -> None:
        self.settings, self.model, self.limits, self.died = settings, model, limits, 0
        self.over = False
        self._start()

    def _start(self) -> None:
        here, other = socket.socketpair()
        s, model = self.settings, self.model.fileno()
        words = (other.fileno(), model, s.decoder_bytes, math.ceil(s.decoder_seconds), s.sound_seconds)
        with here, other:
            self.child = child.started("npser.live.decoding", words, [other.fileno(), model])
            self.socket = socket.socket(fileno=here.detach())
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

    def parts(self, file: IO[bytes]) -> Iterator[Part | None]:
        """What the network hears of an open file; None now and then where nothing is heard for long.

        Problem: the recording is refused, or the child has died of it.
        """
        self.check()
        self.socket.settimeout(self.settings.decoder_seconds)
        seconds, windows = 0.0, 0
        try:
            socket.send_fds(self.socket, [READ], [file.fileno()])
            self.going_on = True
            while True:
                self.socket.sendall(NEXT)
                kind, words, numbers = self._receive()
                self.going_on = kind in (PART, GOING_ON)
                if kind == ERROR:
                    raise Problem("audio_invalid", words.decode("utf-8", "replace"), 422)
                if kind == TOO_LONG:
                    most = self.settings.sound_seconds
                    raise Problem("sound_too_long", f"the recording is longer than {most:g} s; send it in parts", 413)
                if kind == GOING_ON:
                    yield None
                    continue
                part = self._part(kind, words, numbers)
                windows += len(part.windows)
                if not seconds <= part.seconds or windows > self.limits.all_windows:
                    raise OSError("the child makes no sense")
                seconds = part.seconds
                yield part
                if kind == END:
                    return
        except (OSError, MemoryError):  # of a message that is half read as well
            raise self._dead() from None

    def _part(self, kind: bytes, words: bytes, numbers: bytes) -> Part:
        """What a message says. OSError where it makes no sense."""
        try:
            if kind not in (PART, END):
                raise ValueError
            said, x = json.loads(words), np.frombuffer(numbers, np.float32)
            windows = [
                WindowOutput(int(samples), [(int(a), float(b)) for a, b in runs], None if reason is None else str(reason))
                for samples, runs, reason in said["windows"]
            ]
            frames, seconds, most = [int(L) for L in said["frames"]], float(said["seconds"]), self.limits
            heard = sum(window.reason is None for window in windows)
            moments = [seconds, *(b for window in windows for _, b in window.runs)]
            if not (
                len(windows) <= TOGETHER
                and all(0 <= window.samples <= most.samples and window.runs for window in windows)
                and np.isfinite(moments).all()
                and len(frames) == heard
                and all(1 <= L <= most.rows for L in frames)
                and sum(frames) * most.columns == len(x)
            ):
                raise ValueError
            inputs = np.split(x.reshape(-1, most.columns), np.cumsum(frames)[:-1]) if frames else []
            return Part(seconds, windows, inputs)
        except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
            raise OSError("the child makes no sense") from None

    def release(self) -> None:
        """After a recording, of which perhaps not all parts were taken."""
        if self.going_on:
            with contextlib.suppress(OSError):
                self.socket.sendall(STOP)
        self.going_on = False

    def _receive(self) -> tuple[bytes, bytes, bytes]:
        """A message of the child; OSError where there is none."""
        kind, words, numbers = HEAD.unpack(self._exactly(HEAD.size))
        if words > MOST_WORDS or numbers > 4 * TOGETHER * self.limits.rows * self.limits.columns:
            raise OSError("a message of the child is too long")
        return kind, self._exactly(words), self._exactly(numbers)

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
        if self.over:
            raise Problem("stopping", "the server stops; come back later", 503)
        self.died += 1
        self._close()
        try:
            self._start()
        except OSError as error:
            text = f"no process can be started that decodes ({error.strerror}); come back later"
            raise Problem("decoder_missing", text, 503) from None

    def end(self) -> None:
        """No more children."""
        self.over = True
        self._close()

    def _close(self) -> None:
        self.child.kill()
        self.child.wait()
        self.socket.close()


def handed_over(model: Model) -> IO[bytes]:
    """A file for children, with the model; where the system allows it, none can change it."""
    sealed = hasattr(os, "memfd_create")
    file = open(os.memfd_create("model", os.MFD_ALLOW_SEALING), "w+b") if sealed else tempfile.TemporaryFile()  # noqa: SIM115
    file.write(pickle.dumps(model))
    file.flush()
    if sealed:
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
        fcntl.fcntl(file.fileno(), fcntl.F_ADD_SEALS, seals)
    return file


# In the child


def main() -> None:
    """Decode what comes on a socket, until that is closed."""
    descriptor, model, memory, seconds = map(int, sys.argv[1:5])
    warnings.simplefilter("ignore")
    with socket.socket(fileno=descriptor) as parent:
        handed = os.pread(model, os.fstat(model).st_size, 0)  # the offset is shared with other children
        os.close(model)
        _confine(memory)
        network = pickle.loads(handed)
        network.network_input(tone(features.SAMPLE_RATE))  # imports what it needs
        _say(parent, READY)
        while True:
            order, files, _, _ = socket.recv_fds(parent, 1, 1)
            if order != READ or len(files) != 1:
                return
            used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
            resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used) + seconds, resource.getrlimit(resource.RLIMIT_CPU)[1]))
            with open("the recording", "rb", opener=lambda *_, file=files[0]: file) as file:
                _decode(parent, network, file, float(sys.argv[5]))


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


class _Told(Exception):
    """The parent wants no more of a recording, or has been told why there is no more."""


def _decode(parent: socket.socket, model: Model, file: IO[bytes], most: float) -> None:
    """One file of so many seconds at most, as far as its parts are asked for."""
    try:
        _next(parent)
        rate, blocks = features.read_blocks(file)  # pyright: ignore[reportArgumentType] (it is a binary file)
        sound = model.sound_of(rate, _watched(parent, blocks, most * rate))
        for span in sound:
            windows, inputs = model.prepared(sound.at_16_khz(span))
            _part(parent, PART, sound.seconds, windows, inputs)
            _next(parent)
        _part(parent, END, sound.seconds, [], [])
    except _Told:
        return
    except (ValueError, OSError, MemoryError) as error:
        _say(parent, ERROR, (str(error) or "the recording needs too much memory").encode()[:1000])


def _next(parent: socket.socket) -> None:
    """Wait until more is asked for."""
    if parent.recv(1) != NEXT:
        raise _Told


def _watched(parent: socket.socket, blocks: Iterator[Array], most: float) -> Iterator[Array]:
    """The blocks, of so many samples at most; the parent hears now and then that they come."""
    samples = 0
    for k, block in enumerate(blocks, 1):
        samples += len(block)
        if samples > most:
            _say(parent, TOO_LONG)
            raise _Told
        yield block
        if k % SILENT_FOR == 0:
            _say(parent, GOING_ON)
            _next(parent)


def _part(parent: socket.socket, kind: bytes, seconds: float, windows: list[WindowOutput], inputs: list[Array]) -> None:
    said: dict[str, Any] = {"seconds": seconds, "windows": [window[:3] for window in windows]}
    said["frames"] = [len(X) for X in inputs]
    _say(parent, kind, json.dumps(said).encode(), b"".join(X.astype(np.float32, copy=False).tobytes() for X in inputs))


def _say(parent: socket.socket, kind: bytes, words: bytes = b"", numbers: bytes = b"") -> None:
    parent.sendall(HEAD.pack(kind, len(words), len(numbers)) + words + numbers)
