"""Prediction of many recordings by the compiled engine: a thread makes features, logits and answers of a shard of them."""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event, Semaphore
from typing import Any, NamedTuple

import numpy as np

from npser import model
from npser.features import Kind, Span, window_samples
from npser.network import Network, compiling
from npser.prediction import UNREADABLE, Audio, Prediction, WindowOutput, outputs_of, unreadable
from npser.speech import Sound
from npser.store import store_of
from npser.threads import available_cores, single_threaded_blas


def predict(trained: Any, audio: Iterable[Audio], sample_rate: int | None, threads: int | None) -> Iterator[Prediction]:
    """What lite.Model.predict_many does with engine "numba". trained: a lite.Model.

    As many threads read, and compute what is short; as many more help them with long recordings.
    """
    network, recordings = Network.of(trained.checkpoint), iter(audio)
    threads = threads or available_cores()
    load_kernels(trained)
    running: deque[Future[list[Prediction]]] = deque()
    stop, readers, helpers = Event(), ThreadPoolExecutor(threads), Helpers(threads)
    try:
        with single_threaded_blas():
            while True:
                while len(running) < 2 * threads and (few := list(itertools.islice(recordings, network.config.shard))):
                    running.append(readers.submit(_shard, trained, network, few, sample_rate, stop, helpers))
                if not running:
                    return
                yield from running.popleft().result()
    finally:  # also where the caller wants no more, or Ctrl-C was pressed
        stop.set()
        readers.shutdown(cancel_futures=True)
        helpers.pool.shutdown(cancel_futures=True)


class Helpers:
    """Threads that compute spans of long recordings, whoever reads them: of one span for each thread and one more at a time."""

    def __init__(self, threads: int) -> None:
        self.pool, self.slots = ThreadPoolExecutor(threads), Semaphore(threads + 1)

    def map(self, function: Callable[[Span], list[WindowOutput]], spans: Iterable[Span]) -> Iterator[list[WindowOutput]]:
        """function of each span, in order."""
        running: deque[Future[list[WindowOutput]]] = deque()
        try:
            for span in spans:
                self.slots.acquire()
                running.append(self.pool.submit(function, span))
                running[-1].add_done_callback(lambda _: self.slots.release())
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()


def load_kernels(trained: Any) -> None:
    """Run the network on a moment of silence: threads that met an uncompiled kernel would compile it at the same time."""
    model.refuse_text(trained.config)
    with compiling:
        network = Network.of(trained.checkpoint)
        silence = Span.of(np.zeros(window_samples(min(network.config.max_seconds, 1.0)), np.float32))
        _logits(network, silence.windows(), network.module.kind(network.config).of(silence))


def _shard(
    trained: Any, network: Network, audio: list[Audio], sample_rate: int | None, stop: Event, helpers: Helpers
) -> list[Prediction]:
    """Predictions of a few recordings. Those of one span each are computed together, and long ones span by span."""
    kind, most = network.module.kind(network.config), network.config.shard
    outputs: list[list[WindowOutput]] = [[] for _ in audio]
    waiting: list[Waiting] = []
    sounds: dict[int, Sound] = {}
    errors: dict[int, Exception] = {}

    def of_span(span: Span, sound: Sound) -> list[WindowOutput]:
        found, heard = _prepared(sound.at_16_khz(span), kind)
        _run(network, heard)
        return found

    def run(few: list[Waiting]) -> None:
        try:
            _run(network, few)
        except UNREADABLE as error:
            owners = [r for r, windows in enumerate(outputs) if any(one.outputs is windows for one in few)]
            errors.update(dict.fromkeys(owners, error))

    for r, one in enumerate(audio):
        try:
            sounds[r] = sound = trained.sound(one, sample_rate, most)
            spans, only = _peeked(iter(sound))
            if only is not None:
                outputs[r], heard = _prepared(sound.at_16_khz(only), kind)
                waiting += heard
            else:
                going_on = itertools.takewhile(lambda _: not stop.is_set(), spans)
                for found in helpers.map(functools.partial(of_span, sound=sound), going_on):
                    outputs[r] += found
        except UNREADABLE as error:
            errors[r] = error
        while len(waiting) >= most or (waiting and r == len(audio) - 1):
            run(waiting[:most])
            del waiting[:most]
        if stop.is_set():
            return []

    def answer(r: int) -> Prediction:
        try:
            return unreadable(errors[r]) if r in errors else trained.answer(outputs[r], sounds[r].seconds)
        except ValueError as error:
            return unreadable(error)

    return [answer(r) for r in range(len(audio))]


def _peeked(spans: Iterator[Span]) -> tuple[Iterator[Span], Span | None]:
    """All spans of a recording, none of which is kept; and where there is only one, this one."""
    held = list(itertools.islice(spans, 2))
    if len(held) == 1:
        return iter(held), held[0]
    return itertools.chain((held.pop(0) for _ in range(2)), spans), None


class Waiting(NamedTuple):
    """A window for the network: where its logits belong, its samples (n,) and its features."""

    outputs: list[WindowOutput]
    k: int
    x: np.ndarray
    rows: np.ndarray


def _prepared(span: Span, kind: Kind) -> tuple[list[WindowOutput], list[Waiting]]:
    """The windows of a span at 16 kHz, as yet without logits, and those of them that wait for these."""
    outputs = outputs_of(span)
    heard = [k for k, output in enumerate(outputs) if output.reason is None]
    some = span.some(heard)
    rows = kind.of(some) if heard else []
    return outputs, [Waiting(outputs, *one) for one in zip(heard, some.windows(), rows, strict=True)]


def _run(network: Network, few: list[Waiting]) -> None:
    """Give windows their logits."""
    if few:
        for one, emotion, gender in zip(few, *_logits(network, [w.x for w in few], [w.rows for w in few]), strict=True):
            one.outputs[one.k] = one.outputs[one.k]._replace(emotion=emotion, gender=gender)


def _logits(network: Network, waves: list[np.ndarray], rows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Emotion (W, classes) and gender (W, 2 or 0) of windows (n,) at 16 kHz with these features."""
    store = store_of(waves, network.module.kind(network.config), rows)
    with np.errstate(all="ignore"):  # lite.Model.answer tells
        out, _ = network.module.forward(network.p, network.config, *network.inputs(store, np.arange(len(waves))))
        return network.window_logits(network.p, network.config, out)
