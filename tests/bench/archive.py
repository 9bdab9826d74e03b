"""An archive of short files over a Dask cluster: what a second worker brings, and what kills cost.

    python tests/bench/archive.py                    # 20,000 files, one worker and two in turns
    python tests/bench/archive.py --kills 10         # kills workers at ten random moments as well

Give it a quiet machine of two cores or more. Each worker has a core of its own, as if it were a machine, and is warm: it has
predicted a few files before the clock starts. The scheduler and the command, which have little to do, run where there is room.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import soundfile

from npser import SHIPPED
from npser.experiment import archive

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers import RATE, ROOT, Cluster, children, sound

DISTINCT = 300  # files; the others are links to them
# Each batch that a worker begins is a line in a file
COUNTED = """
from npser.experiment import archive
rows = getattr(archive, "counted", archive.rows_on_worker)
archive.counted = rows

def rows_on_worker(wanted, names, places):
    with open({log!r}, "a") as file:
        file.write(names[0] + "\\n")
    return rows(wanted, names, places)

archive.rows_on_worker = rows_on_worker
"""


def make(folder: Path, files: int) -> None:
    """Files of 1 to 3 s."""
    folder.mkdir()
    rng = random.Random(0)
    for r in range(files):
        path = folder / f"{r:06}.wav"
        if r < DISTINCT:
            soundfile.write(path, sound(rng.randrange(RATE, 3 * RATE), r % 40), RATE, subtype="PCM_16")
        else:
            os.link(folder / f"{r % DISTINCT:06}.wav", path)


def predict(environment: dict[str, str], *words: str | Path) -> float:
    """Seconds that a command takes."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "npser", "predict", *map(str, words)]
    subprocess.run(command, env=environment, check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


@contextlib.contextmanager
def cluster_of(workers: int, folder: Path, environment: dict[str, str]) -> Iterator[Cluster]:
    """Warm workers, which a nanny starts again."""
    from distributed import Client

    log, few, cores = folder / "batches", folder / "few", os.sched_getaffinity(0)
    if not few.exists():
        make(few, 8)
    with Cluster(environment, folder) as cluster:
        for core in sorted(cores)[:workers]:
            os.sched_setaffinity(0, {core})  # the worker's as well
            cluster.worker(COUNTED.format(log=str(log)), nanny=True)
            os.sched_setaffinity(0, cores)
        with Client(cluster.address, timeout=60) as client:
            client.wait_for_workers(workers, timeout=60)
            names = sorted(map(str, few.iterdir()))
            order = archive.order_of(Path(SHIPPED), "numba", "jsonl", False, 0.0)
            client.run(archive.rows_on_worker, dataclasses.asdict(order), names, names)
        log.write_text("")
        yield cluster


def kill_at(moments: list[float], cluster: Cluster) -> None:
    """Kill a worker at each moment, in seconds from now."""
    start = time.perf_counter()
    for moment in moments:
        time.sleep(max(0.0, start + moment - time.perf_counter()))
        workers = [pid for nanny in cluster.running[1:] for pid in children(nanny.pid)]
        for pid in random.sample(workers, min(1, len(workers))):
            os.kill(pid, signal.SIGKILL)
        print(f"  {moment:6.1f} s: killed one of {len(workers)} workers", flush=True)


def whole(out: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(out.glob("part-*")))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--kills", type=int, default=0)
    args = parser.parse_args()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")])}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        calls, out = folder / "calls", folder / "out"
        make(calls, args.files)
        words = (calls, "--format", "jsonl", "--engine", "numba")
        print("what the local command prints ...", flush=True)
        local = subprocess.run([sys.executable, "-m", "npser", "predict", *words], env=environment, capture_output=True).stdout
        best: dict[int, float] = {}
        for _ in range(args.turns):
            for workers in (1, 2):
                with cluster_of(workers, folder, environment) as cluster:
                    seconds = predict(environment, *words, "--out", out, "--dask", cluster.address)
                best[workers] = min(seconds, best.get(workers, seconds))
                equal = whole(out) == local
                print(f"{workers} workers: {seconds:6.1f} s, {args.files / seconds:6.0f} files/s, equal: {equal}", flush=True)
                shutil.rmtree(out)
        print(f"ratio of the best of {args.turns}: {best[1] / best[2]:.2f}")
        if args.kills:
            moments = sorted(random.uniform(0.5, 2 * best[2]) for _ in range(args.kills))
            with cluster_of(2, folder, environment) as cluster:
                killer = threading.Thread(target=kill_at, args=(moments, cluster))
                killer.start()
                predict(environment, *words, "--out", out, "--dask", cluster.address)
                killer.join()
                begun = Counter((folder / "batches").read_text().splitlines())
            again, equal = sum(begun.values()) - len(begun), whole(out) == local
            print(f"{args.kills} kills: complete and equal: {equal}; {len(begun)} batches, {again} begun again")


if __name__ == "__main__":
    main()
