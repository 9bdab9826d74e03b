"""The network answers in a process of its own, which the loop that speaks with clients does not hold up, nor it that.

The process is told in turns what is new, and says what there is to tell of it. It ends when its parent does.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from npser.features import SAMPLE_RATE
from npser.lite import Model
from npser.live.stream import Due, Event, Stream, answers
from npser.threads import keep_freed_memory

Array = np.ndarray
Outputs = list[dict[str, Array | None]]


class Heard(NamedTuple):
    """What sessions have to be told: streams that begin, by number, with what Stream takes; a block (n,) of some streams, or
    None, which ends what was said and begins anew; and streams that nobody listens to any more.
    """

    begun: Sequence[tuple[int, tuple[int, float, bool]]]
    blocks: Sequence[tuple[int, Array | None]]
    left: Sequence[int]


class Said(NamedTuple):
    """Of each block, or each file's windows: what there is to tell, or why there is nothing, or None of an unknown stream.

    windows: that the network has seen; seconds: in which it has.
    """

    found: list[list[Event] | Outputs | Exception | None]
    windows: int
    seconds: float


class Network:
    """How it all comes together makes no difference to an answer."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.streams: dict[int, Stream] = {}

    def answer(self, told: Heard | list[Sequence[Array]]) -> Said:
        """Of sessions, or of windows of files, each X (L, d_spec)."""
        return self._hear(told) if isinstance(told, Heard) else self._run(told)

    def _hear(self, told: Heard) -> Said:
        """Tell the streams apart again after the network has seen all of their windows."""
        self.streams |= {number: Stream(self.model, *given) for number, given in told.begun}
        dues = [self._take(number, x) for number, x in told.blocks]
        for number in told.left:
            self.streams.pop(number, None)
        begun = time.perf_counter()
        together = [due for of_one in dues if isinstance(of_one, list) for due in of_one]
        try:
            events = iter(answers(self.model, together))
            found = [[next(events) for _ in of_one] if isinstance(of_one, list) else of_one for of_one in dues]
        except Exception:  # of one the numbers overflow: the others are not to suffer
            found = [_tried(answers, self.model, of_one) if isinstance(of_one, list) else of_one for of_one in dues]
        windows = sum(part.X is not None for due in together for part in due.parts)
        return Said(list(found), windows, time.perf_counter() - begun)

    def _take(self, number: int, x: Array | None) -> list[Due] | Exception | None:
        stream = self.streams.get(number)
        if stream is None:
            return None
        try:
            if x is not None:
                return stream.take(x)
            dues, anew = stream.rest(), Stream(self.model, stream.rate, stream.every / SAMPLE_RATE, stream.adapt)
            anew.heard = stream.heard  # the voice stays
            self.streams[number] = anew
            return dues
        except Exception as error:
            return error

    def _run(self, jobs: list[Sequence[Array]]) -> Said:
        begun = time.perf_counter()
        try:
            outputs = iter(self.model.run([X for job in jobs for X in job]))
            found: list[Outputs | Exception] = [[next(outputs) for _ in job] for job in jobs]
        except Exception:  # of one there is too much: the others are not to suffer
            found = [_tried(self.model.run, job) for job in jobs]
        return Said(list(found), sum(map(len, jobs)), time.perf_counter() - begun)


def _tried(work: Callable[..., Any], *given: Any) -> Any:
    """What some work says, or why it says nothing."""
    try:
        return work(*given)
    except Exception as error:
        return error


def main() -> None:
    """Answer what comes on a socket, of which the model is the first, until that is closed."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent finishes what runs
        signal.signal(number, signal.SIG_IGN)
    keep_freed_memory()
    with Connection(int(sys.argv[1])) as parent:
        try:
            parent.send(None)
            network = Network(parent.recv())
            parent.send(None)
            while True:
                parent.send(network.answer(parent.recv()))
        except (EOFError, OSError):
            return
