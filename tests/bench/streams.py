"""What a stream costs: beside hearing the last seconds anew each second, a hundred at a time, and over hours.

python tests/bench/streams.py [--model FILE] [--hours H]

Sound is made here: syllables of a gliding voice with pauses, over faint noise.
"""

import argparse
import os
import resource
import statistics
import time

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from threadpoolctl import threadpool_limits

import npser
from npser.features import SAMPLE_RATE as RATE
from npser.lite import Model
from npser.live.stream import Stream, answers
from npser.threads import keep_freed_memory

ROUNDS = 5
SECONDS = 120  # of sound in a round
STREAMS, THREADS = 100, 2  # of them, and of BLAS for them


def talk(seconds: int, seed: int) -> np.ndarray:
    """Somebody who speaks for two or three seconds and is silent for one, (n,) float32."""
    rng, t = np.random.default_rng(seed), np.arange(seconds * RATE) / RATE
    cycles = np.cumsum((120 + 80 * rng.random()) * (1 + 0.2 * np.sin(2 * np.pi * 0.7 * t + seed)) / RATE)
    voice = sum(np.sin(2 * np.pi * k * cycles) / k for k in range(1, 12))
    speaks = (t + seed) % 3.7 < 2.6
    x = 0.1 * voice * np.sin(2 * np.pi * 2 * t) ** 2 * speaks + 1e-4 * rng.standard_normal(len(t))
    return x.astype(np.float32)


def anew(model: Model, x: np.ndarray, rate: int) -> int:
    """The last 7.5 s, heard anew each second."""
    for end in range(rate, len(x) + 1, rate):
        model.predict(x[max(0, end - 15 * rate // 2) : end], rate)
    return len(x) // rate


def streamed(model: Model, x: np.ndarray, rate: int) -> int:
    """The same by a stream, in blocks of a tenth of a second."""
    stream, count = Stream(model, rate), 0
    for start in range(0, len(x), rate // 10):
        count += sum(event.kind == "answer" for event in stream.feed(x[start : start + rate // 10]))
    return count


def side_by_side(model: Model, rate: int) -> None:
    """CPU of the two, in turns, an answer."""
    x, ratios, spent = resample(talk(SECONDS, 0), rate), [], [0.0, 0.0]
    for _ in range(ROUNDS):
        spent = []
        for way in (anew, streamed):
            began = time.process_time()
            count = way(model, x, rate)
            spent.append((time.process_time() - began) / count)
        ratios.append(spent[1] / spent[0])
    print(f"{rate} Hz: an answer takes {spent[0] * 1e3:.1f} ms anew, {spent[1] * 1e3:.1f} ms of a stream, ", end="")
    print(f"ratio {statistics.median(ratios):.2f}, median of {ROUNDS}")


def resample(x: np.ndarray, rate: int) -> np.ndarray:
    """x (n,) at 16 kHz, at a multiple of that."""
    times = rate // RATE
    return np.interp(np.arange(len(x) * times) / times, np.arange(len(x)), x).astype(np.float32)


def together(model: Model, apart: bool) -> None:
    """A hundred streams that get a tenth of a second at a time, as if they came live: how long their answers take.

    apart: each has begun at a moment of its own in the second before; else all begin in the same instant, and their answers
    fall into the same rounds.
    """
    begins = np.random.default_rng(0).integers(RATE, size=STREAMS) if apart else np.zeros(STREAMS, int)
    sounds, streams, lags = [talk(31, k) for k in range(STREAMS)], [Stream(model, RATE) for _ in range(STREAMS)], []
    for one, x, begin in zip(streams, sounds, begins, strict=True):
        answers(model, one.take(x[:begin]))
    block, began = RATE // 10, time.process_time()
    with threadpool_limits(THREADS):
        for start in range(0, 30 * RATE, block):
            came = time.perf_counter()
            dues = [
                due
                for x, one, begin in zip(sounds, streams, begins, strict=True)
                for due in one.take(x[begin + start : begin + start + block])
            ]
            found = answers(model, dues)
            lags.append((time.perf_counter() - came, len(found)))
    spent = time.process_time() - began
    each = sorted(lag for lag, count in lags if count)
    p50, p99 = (each[int(len(each) * p)] for p in (0.5, 0.99))
    which = ", each begun at its own moment" if apart else ""
    print(f"{STREAMS} streams{which}: {spent / 30:.2f} of a core; ", end="")
    print(f"a tenth of a second of all is done in {p50:.3f} s, p99 {p99:.3f} s")


def for_hours(model: Model, hours: float) -> None:
    """Memory of one stream over hours of sound."""
    x, stream, before = talk(60, 1), Stream(model, 44_100), 0
    for minute in range(round(hours * 60)):
        for part in np.array_split(x, 60):
            stream.feed(part)
        if minute == 10:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{hours:g} h of a stream: {before} kB after ten minutes, {after} kB at the end")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--hours", type=float, default=1.0)
    args = parser.parse_args()
    loaded = npser.load(args.model)
    for hz in (RATE, 3 * RATE):
        side_by_side(loaded, hz)
    together(loaded, apart=False)
    together(loaded, apart=True)
    for_hours(loaded, args.hours)
    keep_freed_memory()  # as the network's process of a server does
    together(loaded, apart=False)
    together(loaded, apart=True)
