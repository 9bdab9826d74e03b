"""How the time of a training step grows with utterances, frames and threads; its limit; and a model of it for other machines.

    python tests/bench/scaling.py --out bench

Prints tables and writes DIR/scaling.md. Give it a quiet machine. A step is the work of its shards, shared by the threads, and
what one thread does after them. A thread that has no shard makes the next step's input:

    step = max(ceil(shards / threads) network, shards (network + input) / threads, shards overhead) + serial
    network = products + passes + overhead

products: the shard's matrix products, timed alone at their own shapes. passes: whatever else goes over the rows (activations,
recurrence gates, pooling, dropout). overhead: of Python and NumPy, the time of a shard that has next to no rows; it holds the
interpreter lock, so that the shards' overheads together are a floor. input: assembly, and augmentation where there is some.
serial: the gradients' sum and Adam. A cross-validation of J networks on C cores runs min(J, C) of them side by side.
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
from run import EMODB, machine

from npser.commands import bench
from npser.network import Network, Shard, Targets, compile_kernels
from npser.networks.li2019 import PRESETS, Config
from npser.optim import Adam
from npser.threads import available_cores, keep_freed_memory, single_threaded_blas

FRAMES, CORES, NETWORKS = 301, (1, 2, 4, 8, 16, 64), 15
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


def parts_of(c: Config, frames: int, repeats: int) -> dict[str, float]:
    """Seconds of the parts of the model, for shards of utterances of so many frames; and of a shard, forward and backward."""
    network, few = bench.network_of(c), [frames] * c.shard
    whole, ends = bench.store_of(few, c.pad), np.roll(np.arange(c.shard), 1)
    spliced = np.where(np.arange(c.shard) < c.splice * c.shard, ends, np.arange(c.shard))
    seeds = iter(range(1 << 30))
    with ThreadPoolExecutor(1) as pool:
        nothing = bench.store_of([c.n_pw] * c.shard, pad=False)
        x = network.inputs(whole, np.arange(c.shard))
        tasks: dict[Any, Callable[[], Any]] = {
            "products": in_a_row(products_alone(c, frames)),
            "network": in_a_row(lambda: network.total([shard_of(network, lambda: x)], whole, pool)),
            "overhead": in_a_row(gradient_of(network, nothing, pool)),
            "input": in_a_row(lambda: network.inputs(whole, np.arange(c.shard), spliced, np.random.default_rng(next(seeds)))),
            "serial": in_a_row(serial(network, -(-c.batch // c.shard))),
        }
        found = seconds_in_turns(tasks, repeats)
    found = {part: seconds / IN_A_ROW for part, seconds in found.items()}
    return {**found, "passes": found["network"] - found["products"] - found["overhead"]}


def step_of(c: Config, t: dict[str, float], threads: int, batch: int | None = None, share: float = 1.0) -> float:
    """The model's seconds of a step. share: of the frames that t was measured with."""
    shards = -(-(batch or c.batch) // c.shard)
    network = (t["products"] + t["passes"]) * share + t["overhead"]
    work = max(-(-shards // threads) * network, shards * (network + t["input"] * share) / threads, shards * t["overhead"])
    return work + t["serial"] * shards / -(-c.batch // c.shard)


def measure(threads: int, repeats: int) -> str:
    """All tables, as Markdown."""
    lines = [f"{machine()}, {date.today().isoformat()}, medians of {repeats}, in turns"]
    natural = round(float(np.mean(EMODB)))
    cases = {"paper, 7.5 s": (PRESETS["paper"], FRAMES), f"default, {natural} frames": (PRESETS["default"], natural)}
    found = {name: parts_of(c, frames, repeats) for name, (c, frames) in cases.items()}
    lines += ["", "Milliseconds of a shard on one thread, and of what follows the shards of a step:", ""]
    names = ("products", "passes", "overhead", "input", "serial")
    lines += [f"| | {' | '.join(names)} | GFLOP/s of the products |", f"|---|{(len(names) + 1) * '---|'}"]
    for name, t in found.items():
        c, frames = cases[name]
        flops = bench.flops(c, np.full(c.shard, frames), np.full(c.shard, frames), True)
        row = " | ".join(f"{1e3 * t[part]:.2f}" for part in names)
        lines.append(f"| {name} | {row} | {flops / t['products'] / 1e9:.0f} |")
    lines += ["", "| utterances x frames | threads | measured ms | model ms |", "|---|---|---|---|"]
    c, t = PRESETS["paper"], found["paper, 7.5 s"]
    network, steps = bench.network_of(c), dict[Any, Callable[[], Any]]()
    for n in range(1, threads + 1):
        pool = ThreadPoolExecutor(n)
        for batch, frames in [(10, FRAMES), (20, FRAMES), (40, FRAMES), (80, FRAMES), (40, 75), (40, 151), (40, 601)]:
            store = bench.store_of([frames] * batch, pad=False)
            steps[batch, frames, n] = step_with_input_ahead(network, store, pool)
    for (batch, frames, n), seconds in seconds_in_turns(steps, repeats).items():
        lines.append(
            f"| {batch} x {frames} | {n} | {1e3 * seconds:.1f} | {1e3 * step_of(c, t, n, batch, frames / FRAMES):.1f} |"
        )
    lines += [
        "",
        f"Other machines, by the model: ms a step; and {NETWORKS} networks cross-validated, times as fast as on one core:",
    ]
    lines += ["", f"| cores | {' | '.join(f'{name}: train | crossval' for name in cases)} |", f"|---|{2 * len(cases) * '---|'}"]
    for cores in CORES:
        row = []
        for name, (c, _) in cases.items():
            side_by_side = min(NETWORKS, cores)
            rounds = -(-NETWORKS // side_by_side)
            faster = NETWORKS * step_of(c, found[name], 1) / (rounds * step_of(c, found[name], cores // side_by_side))
            row += [f"{1e3 * step_of(c, found[name], cores):.1f}", f"{faster:.1f}"]
        lines.append(f"| {cores} | {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def step_with_input_ahead(network: Network, store: Any, pool: ThreadPoolExecutor) -> Callable[[], None]:
    """A step as train._epoch takes it: its input is there, and that of the next one is made behind its shards."""
    window = np.arange(len(store.samples))
    share, c = np.full(len(window), 1 / len(window), np.float32), network.config
    adam = Adam(network.theta.size, c.learning_rate, c.decay, c.clip)
    upcoming: list[Shard] = []

    def begin() -> None:
        nonlocal upcoming
        shards = network.shards(store, window, Targets(window % 4, window % 2, share, share), 0)
        upcoming = [shard._replace(inputs=pool.submit(shard.inputs).result) for shard in shards]

    def run() -> None:
        _, grad = network.total(upcoming, store, pool, begin)
        adam.step(network.theta, grad)

    begin()
    return run


def shard_of(network: Network, inputs: Callable[[], Any]) -> Shard:
    """All utterances of a store, whose input is there."""
    window, share = np.arange(network.config.shard), np.full(network.config.shard, 1 / network.config.shard, np.float32)
    return Shard(inputs, Targets(window % 4, window % 2, share, share), np.random.default_rng(0))


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
