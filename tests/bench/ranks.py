"""One training on two ranks of a thread beside two threads of a process, and what four ranks on four cores would take.

    python tests/bench/ranks.py

Prints tables. Give it a quiet machine with two cores, and the wheels mpi4py and mpich. The epoch is
that of the training loop: 200 utterances of EmoDB's lengths, paper preset, in batches of 40; padded as the paper has it, and at
their natural lengths. Processes take turns, A B A B; each figure is a median.

Four ranks on four cores are computed from parts that are measured here: the shards of the rank that has most to do, one thread;
the exchange, between two ranks that send each other what each of four would send and receive in all; the sum and Adam over a
quarter of the parameters. The same sum for two ranks stands beside what two ranks take. Memory is shared by more cores there,
and not in this model.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from run import EMODB, lengths, machine

from npser.commands import bench, launched
from npser.network import Network, Targets, compile_kernels
from npser.networks.li2019 import PRESETS
from npser.optim import Adam
from npser.ranks import Ranks, owners
from npser.threads import keep_freed_memory, single_threaded_blas

UTTERANCES, BATCH = 200, 40


def epoch(network: Network, store: Any, adam: Adam, ranks: Ranks) -> None:
    """As train._epoch has it, without augmentation."""
    own = network.theta[ranks.part(network.theta.size)]
    for batch in np.arange(UTTERANCES).reshape(-1, BATCH):
        window = batch[np.argsort(-store.frames(batch), kind="stable")]
        share = np.full(BATCH, 1 / BATCH, np.float32)
        loss, grad = network.gradient(store, window, Targets(window % 4, window % 2, share, share), adam.updates, ranks)
        assert ranks.every(np.isfinite(loss) and np.isfinite(grad).all())
        adam.step(own, grad)
        ranks.gather(network.theta)


def given(pad: bool) -> tuple[Network, Any]:
    """The network and the utterances."""
    network = bench.network_of(replace(PRESETS["paper"], pad=pad))
    return network, bench.store_of(lengths(EMODB, UTTERANCES), pad=pad)


def adam_of(network: Network, size: int) -> Adam:
    c = network.config
    return Adam(size, c.learning_rate, c.decay, c.clip)


def seconds(run: Any, repeats: int) -> float:
    """Median, after a run that does not count."""
    times = []
    for turn in range(repeats + 1):
        started = time.perf_counter()
        run()
        if turn:
            times.append(time.perf_counter() - started)
    return statistics.median(times)


def timed_epoch(ranks: Ranks, repeats: int) -> dict[str, float]:
    """Seconds of an epoch, by whether it pads."""
    found = {}
    for pad in (True, False):
        network, store = given(pad)
        adam = adam_of(network, network.theta[ranks.part(network.theta.size)].size)
        found[str(pad)] = seconds(lambda args=(network, store, adam, ranks): epoch(*args), repeats)
    return found


def timed_parts(ranks: Ranks, repeats: int) -> dict[str, float]:
    """Seconds of a step's parts on one thread, for 1, 2 and 4 ranks: "shards True 4" is that of the paper's padding, ..."""
    found = {}
    for pad in (True, False):
        network, store = given(pad)
        window = np.arange(BATCH)[np.argsort(-store.frames(np.arange(BATCH)), kind="stable")]
        c, each = network.config, []
        for start in range(0, BATCH, c.shard):
            few = window[start : start + c.shard]
            share = np.full(len(few), 1 / BATCH, np.float32)
            y = Targets(few % 4, few % 2, share, share)
            each.append(seconds(lambda args=(store, few, y, 0, ranks.pool), network=network: network.gradient(*args), repeats))
        for size in (1, 2, 4):
            by = owners(len(each), size)
            found[f"shards {pad} {size}"] = max(sum(t for t, owner in zip(each, by, strict=True) if owner == r) for r in by)
    P = network.theta.size
    grads = np.zeros((BATCH // c.shard, P), np.float32)
    for size in (1, 2, 4):
        own, part = network.theta[: P // size], np.zeros(P // size, np.float32)
        adam = adam_of(network, own.size)

        def behind(own: np.ndarray = own, part: np.ndarray = part, adam: Adam = adam) -> None:
            for grad in grads:
                part += grad[: part.size]
            adam.step(own, part)

        found[f"behind {size}"] = seconds(behind, repeats)
    return found


def timed_exchange(ranks: Ranks, repeats: int) -> dict[str, float]:
    """Seconds of a step's messages, for as many ranks as each of the two here plays."""
    network, _ = given(True)
    P, shards, found = network.theta.size, BATCH // network.config.shard, {}
    for size in (2, 4):
        away, mine = (size - 1) / size, -(-shards // size)
        sent = np.zeros(2 * int(P * mine * away), np.float32)  # half of it comes here
        received, own, whole = sent.copy(), np.zeros(int(P * away), np.float32), np.zeros(2 * int(P * away), np.float32)
        halves = [sent.size // 2] * 2

        def exchange(
            sent: Any = sent, received: Any = received, own: Any = own, whole: Any = whole, halves: Any = halves
        ) -> None:
            ranks.comm.Alltoallv([sent, halves], [received, halves])
            ranks.comm.allgather([0.0] * mine)  # noqa: B023 (called in this turn)
            ranks.every(True)
            ranks.comm.Allgatherv(own, [whole, [own.size] * 2])

        found[f"exchange {size}"] = seconds(exchange, 5 * repeats)
    return found


def child(what: str, threads: int, repeats: int) -> None:
    """In a process of its own, or in several under mpiexec: prints what it has found."""
    keep_freed_memory()
    compile_kernels()
    with single_threaded_blas(), ThreadPoolExecutor(threads) as pool:
        ranks = Ranks(pool, launched.world())
        found = {"epoch": timed_epoch, "parts": timed_parts, "exchange": timed_exchange}[what](ranks, repeats)
    if ranks.rank == 0:
        print(json.dumps(found))


def measured(ranks: int, what: str, threads: int, repeats: int) -> dict[str, float]:
    """What a child has found; ranks 0: without mpiexec."""
    launcher = [str(Path(sys.executable).with_name("mpiexec")), "-n", str(ranks)] if ranks else []
    command = [*launcher, sys.executable, __file__, "--child", what, "--threads", str(threads), "--repeats", str(repeats)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def table(turns: int, repeats: int) -> str:
    """All figures, as Markdown."""
    kinds = {"two threads": (0, 2), "two ranks of a thread": (2, 1), "one thread": (0, 1)}
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in kinds}
    for _ in range(turns):
        for name, (ranks, threads) in kinds.items():
            taken[name].append(measured(ranks, "epoch", threads, repeats))
    t = measured(0, "parts", 1, repeats) | measured(2, "exchange", 1, repeats) | {"exchange 1": 0.0}
    steps = UTTERANCES // BATCH
    lines = [f"{machine()}, {date.today().isoformat()}, medians of {turns} x {repeats}, in turns", ""]
    lines += ["| ms a step | padded to 7.5 s | natural lengths |", "|---|---|---|"]
    step = {
        name: {pad: 1e3 * statistics.median(x[pad] for x in found) / steps for pad in found[0]} for name, found in taken.items()
    }
    for name, of in step.items():
        lines.append(f"| {name} | {of['True']:.1f} | {of['False']:.1f} |")
    ratios = [step["two ranks of a thread"][pad] / step["two threads"][pad] for pad in ("True", "False")]
    lines.append(f"| two ranks / two threads | {ratios[0]:.2f} | {ratios[1]:.2f} |")
    for size in (1, 2, 4):
        computed = [1e3 * (t[f"shards {pad} {size}"] + t[f"exchange {size}"] + t[f"behind {size}"]) for pad in (True, False)]
        lines.append(f"| computed: ranks of a thread on as many cores, {size} | {computed[0]:.1f} | {computed[1]:.1f} |")
    lines += ["", "| part, ms | 1 rank | 2 ranks | 4 ranks |", "|---|---|---|---|"]
    for part in ("shards True", "shards False", "exchange", "behind"):
        lines.append(f"| {part} | " + " | ".join(f"{1e3 * t[f'{part} {size}']:.2f}" for size in (1, 2, 4)) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.threads, args.repeats)
        return
    print(table(args.turns, args.repeats))


if __name__ == "__main__":
    main()
