"""Uploads: from an open file to what `npser predict` says of it, by a decoding process and the network that all share."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from threading import Event, Lock
from typing import IO

from npser.lite import Model
from npser.live.decoding import Decoder, Part, handed_over, limits_of
from npser.live.engine import Engine
from npser.live.inference import Outputs
from npser.live.limits import Problem, Settings
from npser.live.measures import Measures
from npser.prediction import Prediction, Window, WindowOutput, answered

Show = Callable[[list[Window]], None]


class Files:
    """Decoding processes, and twice as many threads: some wait for a process, and some for the network."""

    def __init__(self, model: Model, engine: Engine, settings: Settings, measures: Measures) -> None:
        self.model, self.engine, self.settings, self.measures = model, engine, settings, measures
        self.handed, limits = handed_over(model), limits_of(model, settings)
        self.all = [Decoder(settings, self.handed, limits) for _ in range(settings.decoders)]
        self.free: list[Decoder] = []  # the one that was used last is the last: it is in the cache yet
        self.died = 0
        self.next: deque[Future[Decoder]] = deque()  # who waits for one, in turn
        self.lock = Lock()  # of the three
        self.threads = ThreadPoolExecutor(2 * settings.decoders, "upload")
        try:
            for decoder in self.all:
                decoder.check()
                self.free.append(decoder)
        except ValueError:
            self.close()
            raise

    def predict(self, file: IO[bytes], show: Show | None, given_up: Event) -> Future[Prediction]:
        """What is said of a recording. show: is told windows as they are computed; given_up: nobody wants to know any more."""
        return self.threads.submit(self._predict, file, show, given_up, time.monotonic() + self.settings.answer_seconds)

    def _predict(self, file: IO[bytes], show: Show | None, given_up: Event, deadline: float) -> Prediction:
        def check() -> None:
            if given_up.is_set():
                raise Problem("given_up", "the client is gone")
            if time.monotonic() > deadline:
                text = f"the recording is not answered within {self.settings.answer_seconds:g} s; send a shorter one, or later"
                raise Problem("answer_late", text, 504)

        try:
            return self._answer(file, show, check)
        except CancelledError:
            raise Problem("stopping", "the server stops; come back later", 503) from None
        except ValueError as error:
            if isinstance(error, Problem):
                raise
            raise Problem("unanswerable", str(error), 422) from None  # numbers that overflow

    @contextlib.contextmanager
    def _decoder(self) -> Iterator[Decoder]:
        """A process that nobody else has."""
        given = Future[Decoder]()
        with self.lock:
            if self.free:
                ready = [one for one in self.free if one.is_ready()]  # all are asked: one that was killed starts anew
                decoder = (ready or self.free)[-1]
                self.free.remove(decoder)
                given.set_result(decoder)
            else:
                self.next.append(given)
        decoder = given.result()
        try:
            yield decoder
        finally:
            decoder.release()
            with self.lock:
                died = sum(one.died for one in self.all)
                self.measures.add("decoders_died_total", died - self.died)
                self.died = died
                if self.next:
                    self.next.popleft().set_result(decoder)
                else:
                    self.free.append(decoder)

    def _answer(self, file: IO[bytes], show: Show | None, check: Callable[[], None]) -> Prediction:
        """The network sees a part while the next one is decoded. check: raises where it is time to end."""
        outputs: list[WindowOutput] = []
        seen: list[tuple[Part, Future[Outputs]]] = []  # one at most

        def settle() -> None:
            part, answer = seen.pop()
            found = answered(part.windows, answer.result())
            if show is not None:
                show(self.model.answer(found, part.seconds).timeline)
            outputs.extend(output._replace(attention=None) for output in found)  # hours of them

        seconds = 0.0
        with self._decoder() as decoder:
            check()
            for part in decoder.parts(file):
                check()
                if seen:
                    settle()
                if part is not None and part.windows:
                    seen.append((part, self.engine.later(part.inputs)))
                seconds = part.seconds if part is not None else seconds
        if seen:
            settle()
        self.measures.add("audio_seconds_total", seconds, source="file")
        return self.model.answer(outputs, seconds)

    def close(self) -> None:
        """No more: children end, and what they were at is refused."""
        self.threads.shutdown(wait=False, cancel_futures=True)
        with self.lock:
            for given in self.next:
                given.cancel()
            self.next.clear()
        for decoder in self.all:
            decoder.end()
        self.handed.close()
