"""One thread that hands the network's process all that waits for it, of sessions first, and of files, together."""

from __future__ import annotations

import contextlib
import itertools
import math
import socket
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from multiprocessing.connection import Connection
from threading import Condition, Thread
from typing import Any, NamedTuple

import numpy as np

from npser.lite import Model
from npser.live import child
from npser.live.inference import Heard, Outputs, Said
from npser.live.limits import Problem
from npser.live.measures import Measures
from npser.live.protocol import OUR_FAULT
from npser.live.stream import Event

Array = np.ndarray

MEMORY = 5.0  # seconds
AT_ONCE = 16  # windows of files, at least, that are computed before sessions have their turn again
MODULE = "npser.live.inference"
STARTS = 60.0  # seconds within which the process must have started
HUNG = 30.0  # seconds in which it must have answered


class Block(NamedTuple):
    """Sound of a stream, (n,), or None for the end of what was said."""

    stream: int
    x: Array | None
    answer: Future[list[Event]]


class Windows(NamedTuple):
    """Windows of a file."""

    inputs: Sequence[Array]
    answer: Future[Outputs]


class Engine:
    """A network's process, and another one when it is gone. ValueError where none starts."""

    def __init__(self, model: Model, measures: Measures) -> None:
        self.model, self.measures = model, measures
        self.numbers = itertools.count()
        self.begun: list[tuple[int, tuple[int, float, bool]]] = []  # streams of which the process does not know yet
        self.left: list[int] = []  # or does not know yet that it can forget them
        self.blocks: list[Block] = []
        self.windows: deque[Windows] = deque()
        self.waiting, self.stopped = Condition(), False
        self.share, self.told = 0.0, time.monotonic()  # see busy; and when that was
        self.asked = math.inf  # when the process was told what it has not answered
        self._start()
        self.thread = Thread(target=self._work, name="network", daemon=True)

    def _start(self) -> None:
        here, there = socket.socketpair()
        with here, there:
            self.child = child.started(MODULE, [there.fileno()], [there.fileno()])
            self.connection = Connection(here.detach())

    def check(self) -> None:
        """Wait until the process can be used. ValueError where it does not come up."""
        if not self._is_up():
            self._end()
            raise ValueError("the network's process does not start; give the server more memory")
        self.thread.start()

    def _is_up(self) -> bool:
        """Hand over the model as soon as somebody is there to take it."""
        try:
            if self.connection.poll(STARTS) and self.connection.recv() is None:
                self.connection.send(self.model)
                return self.connection.poll(STARTS) and self.connection.recv() is None
        except (EOFError, OSError):
            pass
        return False

    def begin(self, rate: int, every: float, adapt: bool) -> int:
        """A stream, by its number; see Stream for the arguments."""
        with self.waiting:
            number = next(self.numbers)
            self.begun.append((number, (rate, every, adapt)))
        return number

    def leave(self, stream: int) -> None:
        """Nobody listens to it any more."""
        with self.waiting:
            self.left.append(stream)

    def hear(self, stream: int, x: Array | None) -> Future[list[Event]]:
        """What Stream.feed says of a block, or Stream.end, after which the stream begins anew; the next one must wait for it.

        Problem: the process has died, and the stream with it.
        """
        return self._put(self.blocks, Block(stream, x, Future()))

    def later(self, inputs: Sequence[Array]) -> Future[Outputs]:
        """What Model.run says of windows, each X (L, d_spec). Problem: the process has died of them, or beside them."""
        return self._put(self.windows, Windows(inputs, Future()))

    def busy(self) -> float:
        """Share of the last seconds in which sessions were heard: at 1, what they say comes faster than it can be."""
        return self.share * math.exp(-(time.monotonic() - self.told) / MEMORY)

    def stop(self) -> None:
        """No more; what waits is cancelled."""
        with self.waiting:
            self.stopped = True
            for job in (*self.blocks, *self.windows):
                job.answer.cancel()
            self.blocks.clear()
            self.windows.clear()
            self.waiting.notify()
        self.child.kill()  # and who waits for it is told
        if self.thread.is_alive():
            self.thread.join(5)
        self._end()

    def end_if_hung(self) -> None:
        """End a process that has not answered for long: there is another one then."""
        if time.monotonic() - self.asked > HUNG:
            self.child.kill()

    def _end(self) -> None:
        self.child.kill()
        self.child.wait()
        with contextlib.suppress(OSError):
            self.connection.close()

    def _put(self, queue: Any, job: Any) -> Any:
        with self.waiting:
            if self.stopped:
                job.answer.cancel()
            else:
                queue.append(job)
                self.measures.set("queue_depth", len(self.blocks) + len(self.windows))
                self.waiting.notify()
        return job.answer

    def _work(self) -> None:
        while True:
            with self.waiting:
                self.waiting.wait_for(lambda: self.blocks or self.windows or self.stopped)
                if self.stopped:
                    return
                blocks, windows = self.blocks[:], list[Windows]()
                begun, left = self.begun[:], self.left[:]
                for taken in (self.blocks, self.begun, self.left):
                    taken.clear()
                while self.windows and sum(len(job.inputs) for job in windows) < AT_ONCE:
                    windows.append(self.windows.popleft())
                self.measures.set("queue_depth", len(self.windows))
            blocks = [job for job in blocks if job.answer.set_running_or_notify_cancel()]
            if blocks or begun or left:
                started = time.monotonic()
                said = self._ask(Heard(begun, [(job.stream, job.x) for job in blocks], left))
                self._count(time.monotonic() - started)  # before anybody hears of it
                self._tell(blocks, said)
            windows = [job for job in windows if job.answer.set_running_or_notify_cancel()]
            if windows:
                self._tell(windows, self._ask([job.inputs for job in windows]))

    def _count(self, seconds: float) -> None:
        """More of what busy has the share of."""
        self.share, self.told = min(1.0, self.busy() + seconds / MEMORY), time.monotonic()

    def _ask(self, told: Heard | list[Sequence[Array]]) -> Said | None:
        """What the process says; None where it has died: then there is another one."""
        self.asked = time.monotonic()
        try:
            self.connection.send(told)
            return self.connection.recv()
        except Exception:  # a message that is no message, or too much of it, ends the process as well
            self.asked = math.inf
            if not self.stopped:
                self._renew()
            return None
        finally:
            self.asked = math.inf

    def _renew(self) -> None:
        """Another process. Where none can be had, the next one who asks finds that, and tries again."""
        self.measures.add("networks_died_total")
        self._end()
        with contextlib.suppress(OSError, MemoryError):
            self._start()
            if not self._is_up():
                self._end()

    def _tell(self, jobs: Sequence[Block | Windows], said: Said | None) -> None:
        """Who waits."""
        if said is not None and said.windows:
            self.measures.observe("inference_seconds", said.seconds)
            self.measures.observe("inference_windows", said.windows)
        answers = said.found if said is not None and len(said.found) == len(jobs) else [None] * len(jobs)
        for job, found in zip(jobs, answers, strict=True):
            if found is None and self.stopped:
                found = CancelledError()
            if found is None:
                text = "the process in which the network answers has died, and another one has begun; try again"
                found = Problem("network_died", text, 503, close=OUR_FAULT)
            if isinstance(found, Exception):
                job.answer.set_exception(found)
            else:
                job.answer.set_result(found)  # pyright: ignore[reportArgumentType] (events of blocks, outputs of windows)
