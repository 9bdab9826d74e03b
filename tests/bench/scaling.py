"""How the time of a training step grows with utterances, frames and threads; its limit; and a model of it for other machines.

    python tests/bench/scaling.py --out bench

Prints tables and writes DIR/scaling.md. Give it a quiet machine. A step is the work of its shards, shared by the threads, and
what one thread does behind them:

    step = ceil(shards / threads) (products + passes + overhead) + serial

products: the shard's matrix products, timed alone at their own shapes. passes: whatever else goes over the rows (activations,
recurrence gates, pooling, dropout, assembly), a shard's time less its products. overhead: of Python and NumPy, the time of a
shard that has next to no rows; it holds the interpreter lock, so that the shards' overheads together are a floor as well.
serial: the gradients' sum and Adam.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from run import machine

from npser.commands import bench
from npser.network import Network, Targets, compile_kernels
from npser.networks.li2019 import PRESETS, Config
from npser.optim import Adam
from npser.threads import available_cores, keep_freed_memory, single_threaded_blas

FRAMES, OTHER_THREADS = 301, (4, 8, 16)
IN_A_ROW = 10


def products(c: Config, frames: int) -> list[tuple[int, int, int, int]]:
    """Matrix products of a shard, (m, k, n, how often): forward, and both gradients but for the features'."""
    N, T, D = c.shard * frames, c.shard * (frames // c.n_pw), 2 * c.d_lstm

    def layer(rows: int, d_in: int, d_out: int, need_dX: bool = True) -> list[tuple[int, int, int, int]]:
        return [(rows, d_in, d_out, 1), (d_in, rows, d_out, 1), (rows, d_out, d_in, int(need_dX))]

    first, second = layer(N, c.d_spec, c.n_cw * c.d_cnn, False), layer(N, c.d_cnn, c.n_cw * c.d_cnn)
    lstm = layer(T, c.d_cnn, 4 * D) + layer(T, D, 4 * D) + [(c.d_lstm, T, 4 * c.d_lstm, 4)]  # the last: dR
    attention = layer(T, D, c.d_attn) + layer(T, c.d_attn, c.n_attn)
    recurrence = [(T, c.d_lstm, 4 * c.d_lstm, 4), (T, 4 * c.d_lstm, c.d_lstm, 4)]  # as if it were one product
    return first + second + lstm + attention + recurrence


def products_alone(c: Config, frames: int) -> Callable[[], None]:
    """The products of a shard and nothing else."""
    rng, operands = np.random.default_rng(0), []
    for m, k, n, count in products(c, frames):
        left, right = rng.random((m, k), np.float32), rng.random((k, n), np.float32)
        operands += count * [(left, right, np.empty((m, n), np.float32))]

    def run() -> None:
        for left, right, out in operands:
            np.matmul(left, right, out=out)

    return run


def in_a_row(run: Callable[[], Any]) -> Callable[[], None]:
    """IN_A_ROW runs: a shard comes after other shards, and finds its weights and its code in the caches."""

    def runs() -> None:
        for _ in range(IN_A_ROW):
            run()

    return runs


def seconds_in_turns(tasks: dict[Any, Callable[[], Any]], repeats: int) -> dict[Any, float]:
    """Median seconds of each task, A B A B."""
    times: dict[Any, list[float]] = {name: [] for name in tasks}
    for turn in range(repeats + 1):
        for name, run in tasks.items():
            started = time.perf_counter()
            run()
            if turn:
                times[name].append(time.perf_counter() - started)
    return {name: float(np.median(taken)) for name, taken in times.items()}


def measure(threads: int, repeats: int) -> str:
    """All tables, as Markdown."""
    c, network = PRESETS["paper"], bench.network_of(PRESETS["paper"])
    shards = -(-c.batch // c.shard)
    pools = {n: ThreadPoolExecutor(n) for n in range(1, threads + 1)}

    def step_of(batch: int, frames: int, n: int) -> Callable[[], Any]:
        store = bench.store_of([frames] * batch, pad=False)
        return lambda: bench.step(network, store, pools[n])

    alone = products_alone(c, FRAMES)
    few = bench.store_of([c.n_pw] * c.shard, pad=False)
    whole = bench.store_of([FRAMES] * c.shard, pad=False)
    tasks: dict[Any, Callable[[], Any]] = {
        "products": in_a_row(alone),
        "shard": in_a_row(gradient_of(network, whole, pools[1])),
        "overhead": in_a_row(gradient_of(network, few, pools[1])),
        "serial": in_a_row(serial(network, shards)),
    }
    for n in pools:
        tasks["limit", n] = lambda n=n: list(pools[n].map(lambda _: alone(), range(shards)))
    sizes = [(10, FRAMES), (20, FRAMES), (40, FRAMES), (80, FRAMES), (40, 75), (40, 151), (40, 601)]
    for size in sizes:
        for n in pools:
            tasks[(*size, n)] = step_of(*size, n)
    t = seconds_in_turns(tasks, repeats)
    for part in ("products", "shard", "overhead", "serial"):
        t[part] /= IN_A_ROW

    flops = bench.flops(c, np.full(c.shard, FRAMES), np.full(c.shard, FRAMES), True)
    passes = t["shard"] - t["products"] - t["overhead"]

    def predicted(batch: int, frames: int, n: int) -> float:
        whole_shards, share = -(-batch // c.shard), frames / FRAMES
        turns = -(-whole_shards // n)
        work = turns * ((t["products"] + passes) * share + t["overhead"])
        return max(work, whole_shards * t["overhead"]) + t["serial"] * whole_shards / shards

    lines = [f"{machine()}, {date.today().isoformat()}, medians of {repeats}, in turns", ""]
    lines += [f"A shard of {c.shard} x {FRAMES} frames, one thread: {1e3 * t['shard']:.1f} ms", ""]
    lines += ["| part | ms | |", "|---|---|---|"]
    lines.append(f"| products | {1e3 * t['products']:.2f} | {flops / t['products'] / 1e9:.0f} GFLOP/s |")
    lines.append(f"| passes | {1e3 * passes:.2f} | {1e9 * passes / c.shard / FRAMES:.0f} ns a frame |")
    lines.append(f"| overhead | {1e3 * t['overhead']:.2f} | a shard |")
    lines += [f"| serial | {1e3 * t['serial']:.2f} | a step of {shards} shards |", ""]
    for n in pools:
        limit, step = 1e3 * t["limit", n], 1e3 * t[c.batch, FRAMES, n]
        lines.append(f"- {n} threads: the products of a step alone {limit:.1f} ms, the step {step:.1f} ms: {limit / step:.0%}")
    lines += ["", "| utterances x frames | threads | measured ms | model ms |", "|---|---|---|---|"]
    for batch, frames in sizes:
        for n in pools:
            lines.append(
                f"| {batch} x {frames} | {n} | {1e3 * t[batch, frames, n]:.1f} | {1e3 * predicted(batch, frames, n):.1f} |"
            )
    for n in OTHER_THREADS:
        lines.append(f"| {c.batch} x {FRAMES} | {n} | - | {1e3 * predicted(c.batch, FRAMES, n):.1f} |")
    return "\n".join(lines) + "\n"


def gradient_of(network: Network, store: Any, pool: ThreadPoolExecutor) -> Callable[[], Any]:
    """Forward and backward of a store of few utterances."""
    window = np.arange(len(store.samples))
    share = np.full(len(window), 1 / len(window), np.float32)
    return lambda: network.gradient(store, window, Targets(window % 4, window % 2, share, share), 0, pool)


def serial(network: Network, shards: int) -> Callable[[], None]:
    """What stands behind the shards: adding up their gradients, and Adam."""
    c, grads = network.config, np.zeros((shards, network.theta.size), np.float32)
    adam, theta = Adam(network.theta.size, c.learning_rate, c.decay, c.clip), network.theta.copy()

    def run() -> None:
        total = np.zeros_like(theta)
        for grad in grads:
            total += grad
        adam.step(theta, total)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, help="folder for scaling.md")
    args = parser.parse_args()
    keep_freed_memory()
    compile_kernels()
    with single_threaded_blas():
        text = measure(args.threads, args.repeats)
    print(text)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "scaling.md").write_text(text)


if __name__ == "__main__":
    main()
