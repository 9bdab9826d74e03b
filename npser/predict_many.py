"""Prediction of many recordings by the compiled engine: a thread makes features, logits and answers of a shard of them."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import Any

import numpy as np

from npser.features import SAMPLE_RATE
from npser.network import Network, compiling
from npser.prediction import UNREADABLE, Audio, Prediction, WindowOutput, unreadable
from npser.silence import refusal
from npser.store import store_of
from npser.threads import available_cores, single_threaded_blas


def predict(trained: Any, audio: Iterable[Audio], sample_rate: int | None, threads: int | None) -> Iterator[Prediction]:
    """What lite.Model.predict_many does with engine "numba". trained: a lite.Model."""
    network, recordings = Network.of(trained.checkpoint), iter(audio)
    threads = threads or available_cores()
    load_kernels(trained)
    running: deque[Future[list[Prediction]]] = deque()
    stop = Event()
    pool = ThreadPoolExecutor(threads)
    try:
        with single_threaded_blas():
            while True:
                while len(running) < 2 * threads and (few := list(itertools.islice(recordings, network.config.shard))):
                    running.append(pool.submit(_shard, trained, network, few, sample_rate, stop))
                if not running:
                    return
                yield from running.popleft().result()
    finally:  # also where the caller wants no more, or Ctrl-C was pressed
        stop.set()
        pool.shutdown(cancel_futures=True)


def load_kernels(trained: Any) -> None:
    """Run the network on a moment of silence: threads that met an uncompiled kernel would compile it at the same time."""
    with compiling:
        _logits(Network.of(trained.checkpoint), [np.zeros(SAMPLE_RATE, np.float32)])


def _shard(trained: Any, network: Network, audio: list[Audio], sample_rate: int | None, stop: Event) -> list[Prediction]:
    """Predictions of a few recordings. No more windows are in memory at a time than there are recordings, however long."""
    outputs: list[list[WindowOutput]] = [[] for _ in audio]
    waiting: list[
        tuple[list[WindowOutput], int, np.ndarray]
    ] = []  # windows (n,) for the network, and where their logits belong
    errors: dict[int, Exception] = {}

    def run() -> None:
        for (windows, k, _), emotion, gender in zip(waiting, *_logits(network, [x for *_, x in waiting]), strict=True):
            windows[k] = windows[k]._replace(emotion=emotion, gender=gender)
        waiting.clear()

    for r, one in enumerate(audio):
        try:
            for k, x in enumerate(trained.windows(one, sample_rate)):
                reason = refusal(x)
                outputs[r].append(WindowOutput(len(x), reason))
                if reason is None:
                    waiting.append((outputs[r], k, x))
                if len(waiting) == len(audio):
                    run()
                if stop.is_set():
                    return []
        except UNREADABLE as error:
            errors[r] = error
    if waiting:
        run()

    def answer(r: int) -> Prediction:
        try:
            return unreadable(errors[r]) if r in errors else trained.answer(outputs[r])
        except ValueError as error:
            return unreadable(error)

    return [answer(r) for r in range(len(audio))]


def _logits(network: Network, waves: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Emotion (W, classes) and gender (W, 2 or 0) of windows (n,) at 16 kHz."""
    store = store_of(waves, network.module.kind(network.config))
    with np.errstate(all="ignore"):  # lite.Model.answer tells
        out, _ = network.module.forward(network.p, network.config, *network.inputs(store, np.arange(len(waves))))
        return network.window_logits(network.p, network.config, out)
