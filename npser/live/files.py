"""Uploads: from an open file to what `npser predict` says of it, by a decoding process and the network that all share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from threading import Event, Lock
from typing import IO

from npser.lite import Model
from npser.live.decoding import Array, Decoder
from npser.live.engine import Engine
from npser.live.limits import Problem, Settings
from npser.live.measures import Measures
from npser.prediction import Prediction, Window, WindowOutput

Show = Callable[[list[Window]], None]


class Files:
    """As many threads as decoding processes."""

    def __init__(self, model: Model, engine: Engine, settings: Settings, measures: Measures) -> None:
        self.model, self.engine, self.settings, self.measures = model, engine, settings, measures
        self.all = [Decoder(settings) for _ in range(settings.decoders)]
        self.free: list[Decoder] = []  # the one that was used last is the last: it is in the cache yet
        self.died = 0
        self.lock = Lock()  # of the two
        self.threads = ThreadPoolExecutor(settings.decoders, "upload")
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
        with self.lock:  # there are as many as threads
            decoder = next((one for one in reversed(self.free) if one.is_ready()), self.free[-1])
            self.free.remove(decoder)
        try:
            return self._answer(decoder, file, show, given_up, deadline)
        except CancelledError:
            raise Problem("stopping", "the server stops; come back later", 503) from None
        except ValueError as error:
            if isinstance(error, Problem):
                raise
            raise Problem("unanswerable", str(error), 422) from None  # numbers that overflow
        finally:
            decoder.release()
            with self.lock:
                self.free.append(decoder)
                died = sum(one.died for one in self.all)
                self.measures.add("decoders_died_total", died - self.died)
                self.died = died

    def _answer(self, decoder: Decoder, file: IO[bytes], show: Show | None, given_up: Event, deadline: float) -> Prediction:
        most = self.settings.sound_seconds

        def check() -> None:
            if given_up.is_set():
                raise Problem("given_up", "the client is gone")
            if time.monotonic() > deadline:
                text = f"the recording is not answered within {self.settings.answer_seconds:g} s; send a shorter one, or later"
                raise Problem("answer_late", text, 504)

        check()
        rate, blocks = decoder.blocks(file)

        def watched() -> Iterator[Array]:
            samples = 0
            for block in blocks:
                check()
                samples += len(block)
                if samples > most * rate:
                    raise Problem("sound_too_long", f"the recording is longer than {most:g} s; send it in parts", 413)
                yield block

        sound = self.model.sound_of(rate, watched())
        outputs: list[WindowOutput] = []
        for span in sound:
            found = self.model.outputs(sound.at_16_khz(span), self.engine.run)
            if show is not None:
                show(self.model.answer(found, sound.seconds).timeline)
            outputs += [output._replace(attention=None) for output in found]  # hours of them
        self.measures.add("audio_seconds_total", sound.seconds, source="file")
        return self.model.answer(outputs, sound.seconds)

    def close(self) -> None:
        """No more: children end, and what they were at is refused."""
        self.threads.shutdown(wait=False, cancel_futures=True)
        for decoder in self.all:
            decoder.close()
