"""Many recordings by the compiled engine: a thread makes the features, the logits and the answers of a shard of them."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event

import numpy as np

from npser import features, model
from npser.features import HOP, SAMPLE_RATE
from npser.lite import UNREADABLE, Audio, Heard, Model, Prediction, unreadable
from npser.silence import unheard
from npser.store import Store
from npser.threads import available_cores, single_threaded_blas
from npser.train import Network


def predict(trained: Model, audio: Iterable[Audio], sample_rate: int | None, threads: int | None) -> Iterator[Prediction]:
    """What Model.predict_many does with engine "numba"."""
    network, recordings = Network.of(trained.checkpoint), iter(audio)
    threads = threads or available_cores()
    compile_kernels(trained)
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


def compile_kernels(trained: Model) -> None:
    """Run the network on a moment of silence: threads that met an uncompiled kernel would compile it at the same time."""
    _logits(Network.of(trained.checkpoint), [np.zeros(SAMPLE_RATE, np.float32)])


def _shard(trained: Model, network: Network, audio: list[Audio], sample_rate: int | None, stop: Event) -> list[Prediction]:
    """Predictions of a few recordings. No more windows are in memory at a time than there are recordings, however long."""
    heard: list[list[Heard]] = [[] for _ in audio]
    waiting: list[tuple[list[Heard], int, np.ndarray]] = []  # windows (n,) for the network, and where their logits belong
    errors: dict[int, Exception] = {}

    def run() -> None:
        for (windows, k, _), emotion, gender in zip(waiting, *_logits(network, [x for *_, x in waiting]), strict=True):
            windows[k] = windows[k]._replace(emotion=emotion, gender=gender)
        waiting.clear()

    for r, one in enumerate(audio):
        try:
            for k, x in enumerate(trained.windows(one, sample_rate)):
                reason = unheard(x)
                heard[r].append(Heard(len(x), reason))
                if reason is None:
                    waiting.append((heard[r], k, x))
                if len(waiting) == len(audio):
                    run()
                if stop.is_set():
                    return []
        except UNREADABLE as error:
            errors[r] = error
    if waiting:
        run()
    return [unreadable(errors[r]) if r in errors else trained.answer(windows) for r, windows in enumerate(heard)]


def _logits(network: Network, waves: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Emotion (W, classes) and gender (W, 2 or 0) of windows (n,) at 16 kHz."""
    c, window = network.config, np.arange(len(waves))
    pad_to = features.window_samples(c.max_seconds) if c.pad else None
    bands = [features.log_mel(x, pad_to, c.level) for x in waves]
    bounds, samples = np.cumsum([0, *map(len, bands)]), np.array([len(x) for x in waves])
    pad_frames = 0 if pad_to is None else pad_to // HOP + 1
    store = Store(np.concatenate(bands), bounds, samples, np.arange(len(waves) + 1), {}, pad_frames, c.max_seconds)
    X, bounds, frames = network.input(store, window)
    emotion, gender, _ = model.forward(model.views(network.theta, network.shapes), c, X, bounds, frames=frames)
    return emotion, np.empty((len(waves), 0), np.float32) if gender is None else gender
