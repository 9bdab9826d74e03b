"""`npser bench`: how fast this machine is at npser's work, and how near to the speed of its matrix products."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from npser import features, model
from npser.commands import terminal
from npser.features import HOP, N_MELS, SAMPLE_RATE
from npser.network import Network, Targets, compile_kernels
from npser.networks.li2019 import PRESETS, Config, distinct_rows, flops
from npser.optim import Adam
from npser.store import Store
from npser.threads import available_cores

EMOTIONS, GENDERS = 4, 2
IEMOCAP = {"utterances": 5531, "folds": 5, "training": 3 / 5, "scored": 2 / 5, "seconds": 4.55}  # of the paper's experiment


def run(args: argparse.Namespace) -> int:
    """Run `npser bench`; returns its exit status."""
    with terminal.pool(args.threads) as pool:
        with terminal.compiling(terminal.say_to(sys.stderr)):
            compile_kernels(PRESETS["paper"])
        found = measure(args.threads or available_cores(), pool)
    print(json.dumps(found, indent=2) if args.json else text(found))
    return 0


def measure(threads: int, pool: ThreadPoolExecutor, repeats: int = 7) -> dict[str, Any]:
    """Time a training step, inference and features, on made-up input.

    Parameters
    ----------
    threads : int
        Of the pool; BLAS runs with one in each (threads.single_threaded_blas).
    repeats : int
        Every time is the median of so many.

    Returns
    -------
    dict
        ``blas_gflops``, of all threads together; a list ``rows`` of ``what``, ``milliseconds``, ``gflops`` and ``share`` of
        blas_gflops (both None where products are not what it does); ``experiment_hours``: the paper's experiment, estimated.
    """
    c = PRESETS["paper"]
    blas = _blas_gflops(threads, pool, repeats)
    rows = []

    def row(what: str, run: Callable[[], Any], flops: float | None) -> float:
        seconds = median_seconds(run, repeats)
        gflops = None if flops is None else flops / seconds / 1e9
        share = None if gflops is None else gflops / blas
        rows.append({"what": what, "milliseconds": 1e3 * seconds, "gflops": gflops, "share": share})
        return seconds

    whole, network = store_of([301] * c.batch, pad=True), network_of(c)
    frames = np.full(c.batch, 301)
    row("training step, 40 utterances of 7.5 s", lambda: step(network, whole, pool), flops(c, frames, frames, True))
    shorter = np.full(c.batch, round(IEMOCAP["seconds"] * SAMPLE_RATE / HOP))
    padded = store_of(shorter.tolist(), pad=True)
    rows_seen = distinct_rows(shorter, frames, c)
    step_seconds = row(
        "training step, 40 utterances of 4.55 s, padded",
        lambda: step(network, padded, pool),
        flops(c, rows_seen, frames, True),
    )
    batch = np.arange(c.batch)
    batch_seconds = row(
        "inference, 40 utterances of 4.55 s, padded",
        lambda: network.log_probabilities(padded, batch, pool),
        flops(c, rows_seen, frames, False),
    )
    one = np.arange(1)
    row(
        "inference, 1 utterance of 7.5 s",
        lambda: network.log_probabilities(whole, one, pool),
        flops(c, frames[:1], frames[:1], False),
    )
    wave = np.random.default_rng(0).standard_normal(10 * SAMPLE_RATE).astype(np.float32)
    row("features of 10 s, one thread", lambda: features.log_mel(wave), None)

    per_epoch = IEMOCAP["utterances"] / c.batch * (IEMOCAP["training"] * step_seconds + IEMOCAP["scored"] * batch_seconds)
    return {
        "threads": threads,
        "blas_gflops": blas,
        "rows": rows,
        "experiment_hours": IEMOCAP["folds"] * c.epochs * per_epoch / 3600,
    }


def text(found: dict[str, Any]) -> str:
    """The table as the terminal shows it."""
    lines = [f"{found['threads']} threads, BLAS {found['blas_gflops']:.0f} GFLOP/s together", ""]
    lines.append(f"{'':<48}{'ms':>9}{'GFLOP/s':>9}{'of BLAS':>9}")
    for r in found["rows"]:
        rest = f"{'-':>9}{'-':>9}" if r["gflops"] is None else f"{r['gflops']:9.1f}{r['share']:9.0%}"
        lines.append(f"{r['what']:<48}{r['milliseconds']:9.2f}{rest}")
    hours = found["experiment_hours"]
    lines += ["", f"the paper's experiment (IEMOCAP, five folds of 100 epochs, oracle included): about {hours:.1f} hours"]
    return "\n".join(lines)


def store_of(frames: list[int], pad: bool) -> Store:
    """Made-up recordings of so many stored rows each."""
    bounds = np.concatenate([[0], np.cumsum(frames)])
    rows = np.random.default_rng(0).normal(-50, 15, (bounds[-1], N_MELS)).astype(np.float32)
    return Store(rows, bounds, HOP * np.array(frames), np.arange(len(frames) + 1), {}, 301 if pad else 0)


def network_of(c: Config) -> Network:
    """An untrained network."""
    shapes = model.shapes_of(c, EMOTIONS, GENDERS)
    scale = np.repeat(np.array([15, 3, 1], np.float32), c.d_spec // 3)
    mean = np.where(np.arange(c.d_spec) < c.d_spec // 3, np.float32(-50), np.float32(0))
    return Network(model.init(shapes, 0), shapes, c, mean, scale)


def step(network: Network, store: Store, pool: ThreadPoolExecutor, window: np.ndarray | None = None) -> float:
    """Forward, backward, clip and Adam, of some windows or all."""
    window = np.arange(len(store.samples)) if window is None else window
    share = np.full(len(window), 1 / len(window), np.float32)
    y = Targets(window % EMOTIONS, window % GENDERS, share, share)
    loss, grad = network.gradient(store, window, y, 0, pool)
    c = network.config
    Adam(grad.size, c.learning_rate, c.decay, c.clip).step(network.theta, grad)
    return loss


def median_seconds(run: Callable[[], Any], repeats: int) -> float:
    """After one run that does not count."""
    run()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return float(np.median(times))


def _blas_gflops(threads: int, pool: ThreadPoolExecutor, repeats: int) -> float:
    """The speed of large products, one in each thread."""
    A = np.random.default_rng(0).standard_normal((1024, 1024)).astype(np.float32)
    seconds = median_seconds(lambda: list(pool.map(lambda _: A @ A, range(2 * threads))), repeats)
    return 2 * threads * 2 * 1024**3 / seconds / 1e9
