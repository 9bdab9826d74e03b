"""One thread in which the network answers: it takes all that waits for it, of sessions first, and of files, together."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from threading import Condition, Thread
from typing import Any, NamedTuple

import numpy as np

from npser.lite import Model
from npser.live.measures import Measures
from npser.live.stream import Due, Event, Stream, answers

Array = np.ndarray
Outputs = list[dict[str, Array | None]]

MEMORY = 5.0  # seconds
AT_ONCE = 16  # windows of files, at least, that are computed before sessions have their turn again


class Block(NamedTuple):
    """Sound of a session, (n,), or None for the end of its stream."""

    stream: Stream
    x: Array | None
    answer: Future[list[Event]]


class Windows(NamedTuple):
    """Windows of a file."""

    inputs: Sequence[Array]
    answer: Future[Outputs]


class Engine:
    """How it all comes together makes no difference to an answer."""

    def __init__(self, model: Model, measures: Measures) -> None:
        self.model, self.measures = model, measures
        self.blocks: list[Block] = []
        self.windows: deque[Windows] = deque()
        self.waiting, self.stopped = Condition(), False
        self.share, self.told = 0.0, time.monotonic()  # see busy; and when that was
        self.thread = Thread(target=self._work, name="inference", daemon=True)
        self.thread.start()

    def hear(self, stream: Stream, x: Array | None) -> Future[list[Event]]:
        """What Stream.feed says of a block, or Stream.end; a stream's next block must wait for that."""
        return self._put(self.blocks, Block(stream, x, Future()))

    def later(self, inputs: Sequence[Array]) -> Future[Outputs]:
        """What Model.run says of windows, each X (L, d_spec)."""
        return self._put(self.windows, Windows(inputs, Future()))

    def run(self, inputs: Sequence[Array]) -> Outputs:
        """The same; waits for it."""
        return self.later(inputs).result() if inputs else []

    def busy(self) -> float:
        """Share of the last seconds in which sessions were heard: at 1, what they say comes faster than it can be."""
        return self.share * math.exp(-(time.monotonic() - self.told) / MEMORY)

    def _count(self, seconds: float) -> None:
        """More of such work."""
        self.share, self.told = min(1.0, self.busy() + seconds / MEMORY), time.monotonic()

    def stop(self) -> None:
        """No more; what waits is cancelled."""
        with self.waiting:
            self.stopped = True
            for job in (*self.blocks, *self.windows):
                job.answer.cancel()
            self.blocks.clear()
            self.windows.clear()
            self.waiting.notify()
        self.thread.join(5)

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
                self.blocks.clear()
                while self.windows and sum(len(job.inputs) for job in windows) < AT_ONCE:
                    windows.append(self.windows.popleft())
                self.measures.set("queue_depth", len(self.windows))
            self._hear([job for job in blocks if job.answer.set_running_or_notify_cancel()])
            self._run([job for job in windows if job.answer.set_running_or_notify_cancel()])

    def _hear(self, blocks: list[Block]) -> None:
        """Tell the streams apart again after the network has seen all of their windows."""
        if not blocks:
            return
        begun = time.monotonic()
        told: list[tuple[Block, list[Due]]] = []
        for job in blocks:
            try:
                told.append((job, job.stream.rest() if job.x is None else job.stream.take(job.x)))
            except Exception as error:
                job.answer.set_exception(error)
        found = self._answers([due for _, dues in told for due in dues])
        self._count(time.monotonic() - begun)  # before anybody hears of it
        if found is None:  # of one the numbers overflow: the others are not to suffer
            for job, dues in told:
                try:
                    job.answer.set_result(answers(self.model, dues))
                except Exception as error:
                    job.answer.set_exception(error)
            return
        events = iter(found)
        for job, dues in told:
            job.answer.set_result([next(events) for _ in dues])

    def _answers(self, dues: list[Due]) -> list[Event] | None:
        """None: they cannot be answered together."""
        count = sum(part.X is not None for due in dues for part in due.parts)
        begun = time.perf_counter()
        try:
            return answers(self.model, dues)
        except Exception:
            return None
        finally:
            self._measure(count, begun)

    def _run(self, jobs: list[Windows]) -> None:
        if not jobs:
            return
        begun = time.perf_counter()
        try:
            found = iter(self.model.run([X for job in jobs for X in job.inputs]))
        except Exception as error:
            for job in jobs:
                job.answer.set_exception(error)
            return
        self._measure(sum(len(job.inputs) for job in jobs), begun)
        for job in jobs:
            job.answer.set_result([next(found) for _ in job.inputs])

    def _measure(self, windows: int, begun: float) -> None:
        if windows:
            self.measures.observe("inference_seconds", time.perf_counter() - begun)
            self.measures.observe("inference_windows", windows)
